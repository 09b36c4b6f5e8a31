//! The engine of `backup`: claim, freeze, prove, copy, verify, audit, commit; whatever the target is.
//!
//! Invariant kept here: the last completed target has what the image has wherever the map says clean. So
//! - what was frozen is forgotten after the target is synced and what was copied reads back equal, or was set again;
//! - the image is synced after the freeze, which has waited for writes under way, and before it is read;
//! - what the map records of the image is from before the first byte was copied;
//! - a snapshot is copied as it is: with what was frozen also what was set since, which may have been written before the snapshot was
//!   taken. That stays dirty.

mod audit;
pub mod compare;
pub mod copy;
mod member;
mod mirror;
mod outcome;
mod plan;
pub mod prune;
mod set;
#[cfg(test)]
pub mod set_tests;
mod target;
mod together;

pub use outcome::Outcome;
pub use together::{Wanted, back_up, back_up_all};

use crate::exit::{Exit, Failure, Result};
use crate::files::{Content, Image};
use crate::terminal::output::Output;
use crate::terminal::progress;
use compare::{Equal, Pair};
use dirtymap::format::CheckpointState;
use dirtymap::{Comparison, DirtyMap, ImageStamp, ReadMap, checkpoint::Checkpoint, info::Info, iter::Cursor};
use std::iter;
use std::ops::Range;
use std::sync::Arc;
use target::{Base, Target};

const INTERRUPTED: &str = "the backup is not complete";

/// What a backup without a name freezes with, so that the next one knows what one that died has left. It is not kept.
const UNNAMED: &str = "dirtymap backup";

/// Whether a checkpoint that a backup copied is kept by its name.
fn keeps(checkpoint: &Checkpoint) -> bool {
    checkpoint.name.as_deref().is_some_and(|name| name != UNNAMED)
}

/// A backup for which the map is open.
struct Job<'a> {
    args: &'a Wanted,
    image: Image,
    map: DirtyMap,
    /// The image when the map was opened.
    stamp: ImageStamp,
    output: Output,
}

/// What was frozen, and what is to be copied.
struct Work {
    checkpoint: Checkpoint,
    len: u64,
    /// Bytes to be copied.
    bytes: u64,
    /// `None`: everything.
    bits: Option<Arc<dyn ReadMap>>,
    /// The image before it was known what is to be copied, where that was frozen long before.
    before: Option<ImageStamp>,
}

impl Work {
    fn extents(&self) -> impl Iterator<Item = Range<u64>> {
        let mut cursor = Cursor::new(0..self.len);
        let mut everything = (self.bits.is_none() && self.len > 0).then_some(0..self.len);
        iter::from_fn(move || match &self.bits {
            Some(bits) => cursor.next_extent(&**bits),
            None => everything.take(),
        })
    }

    /// The areas before `end` that are not copied.
    fn others(&self, end: u64) -> impl Iterator<Item = Range<u64>> {
        let mut at = 0;
        iter::from_fn(move || {
            let bits = self.bits.as_ref()?;
            // All ranges lie in the map, so neither question fails.
            let start = bits.next_clean(at..end).ok().flatten()?;
            at = bits.next_dirty(start..end).ok().flatten().unwrap_or(end);
            Some(start..at)
        })
    }
}

impl Job<'_> {
    /// Puts back what a backup of this name has left that died, and refuses what a freeze would: while nothing is
    /// changed. The map is claimed.
    fn prepare(&self, target: &dyn Target) -> Result<()> {
        let Job { args, map, .. } = self;
        let path = args.map.display();
        if let Some(name) = &args.how.since
            && !map.points()?.iter().any(|point| point.name == *name)
        {
            map.since_set(name)?; // Says what points there are.
        }
        let outstanding = map.checkpoint()?;
        if args.how.frozen {
            return match outstanding {
                Some(checkpoint) if checkpoint.state == CheckpointState::Frozen => Ok(()),
                _ => Err(Failure::new("no-checkpoint", format!("{path}: no checkpoint is frozen; {RECIPE}"))),
            };
        }
        if let Some(stale) = outstanding {
            if !target.has_left(&stale) {
                let name = stale.name.map_or("without a name".into(), |name| format!("named {name:?}"));
                let message = format!(
                    "{path}: checkpoint {} {name} is {}; if a backup that was killed has left it, put it back (dirtymap \
                     checkpoint abort {path}); if it was frozen for a snapshot, back that up with --frozen",
                    stale.uuid,
                    stale.state.name()
                );
                return Err(Failure::new("checkpoint-outstanding", message));
            }
            map.abort_checkpoint(stale.uuid)?;
        }
        if args.how.name.as_deref() == Some(UNNAMED) {
            let why = format!("{UNNAMED:?} is what a backup without a name is called; choose another name");
            return Err(Failure::new("refused", format!("{path}: {why}")));
        }
        Ok(map.can_freeze(Some(target.point()))?)
    }

    /// Freezes what is dirty, and gives what is to be copied.
    fn freeze(&self, target: &dyn Target, base: Base) -> Result<Work> {
        let Job { args, map, .. } = self;
        let checkpoint = match map.checkpoint()?.filter(|_| args.how.frozen) {
            Some(frozen) => frozen,
            None => map.freeze(Some(target.point()))?,
        };
        let before = args.how.frozen.then(|| self.image.glance()).transpose()?;
        let bits = match base {
            Base::Everything => Ok(None),
            // And what was set since: of that, some was written before the snapshot was taken.
            Base::Last if args.how.frozen => map.frozen_set(checkpoint.uuid).and_then(|_| map.dirty_set()).map(Some),
            Base::Last => map.frozen_set(checkpoint.uuid).map(Some),
            Base::Since(since) => map.since_set(&since).map(Some),
        };
        match bits {
            Ok(bits) => {
                let bits = bits.map(|bits| bits as Arc<dyn ReadMap>);
                let len = map.len();
                let bytes = bits.as_ref().map_or(len, |bits| bits.dirty_len());
                Ok(Work { checkpoint, len, bytes, bits, before })
            }
            Err(e) => {
                if !args.how.frozen {
                    map.abort_checkpoint(checkpoint.uuid)?;
                }
                Err(e.into())
            }
        }
    }

    /// An image and a target, of which a snapshot is written by nobody: it differs where the target is not its copy.
    fn pair<'t>(&'t self, target: &'t dyn Content, info: &Info) -> Pair<'t> {
        let of_image = |recorded: &ImageStamp| !matches!(self.stamp.compare(recorded), Comparison::Another(_));
        let live = !self.args.how.frozen || info.image.as_ref().is_none_or(of_image);
        Pair { image: &self.image, target, map: live.then_some(&self.map) }
    }

    /// Every write that the frozen bits stand for has ended by now.
    fn prove(&self, target: &mut dyn Target, work: &Work, info: &Info) -> Result<u64> {
        self.image.sync()?;
        target.prove(self, work, info)
    }

    /// Copies, reads back, and audits.
    fn copy(&self, work: &Work, target: &mut dyn Target, info: &Info) -> Result<Outcome> {
        target.begin(self, work)?;
        let before = work.before.map_or_else(|| self.image.glance(), Ok)?;
        let mut outcome = Outcome::new(self.args, work.len, work.bytes, target.describe());
        let recovered = if info.recovery.image_changed.is_some() { work.bytes } else { info.recovery.added_items() };
        outcome.bytes_recovered = recovered.min(work.bytes);
        let bar = progress::bytes("copying", work.bytes);
        for area in work.extents() {
            let copied = target.copy(self, area, &bar)?;
            outcome.areas += 1;
            outcome.bytes_copied += copied.data;
            outcome.bytes_holes += copied.holes;
        }
        bar.finish_and_clear();
        target.complete()?;
        self.verify(work, target, info, &mut outcome)?;
        self.audit(work, target, info, &mut outcome)?;
        self.look_back(&before, &mut outcome)?;
        Ok(outcome)
    }

    /// Has the target be a backup, and the map know it.
    fn commit(&self, work: &Work, target: &mut dyn Target, info: &Info, outcome: &mut Outcome) -> Result<()> {
        if info.image.is_none() && !self.args.how.frozen {
            self.map.bind_image(&self.stamp)?;
        }
        let stamp = target.publish(self, work, outcome)?;
        Ok(self.map.commit_backup(work.checkpoint.uuid, keeps(&work.checkpoint), &stamp, outcome.granules_audited)?)
    }

    fn verify(&self, work: &Work, target: &dyn Target, info: &Info, outcome: &mut Outcome) -> Result<()> {
        let bar = progress::bytes("verifying", work.bytes);
        let (mut equal, pair) = (Equal::default(), self.pair(target.content()?, info));
        let found = work.extents().find_map(|area| pair.differs(area, &bar, &mut equal).transpose()).transpose();
        bar.finish_and_clear();
        (outcome.bytes_verified, outcome.bytes_verified_holes) = (equal.read, equal.holes);
        let Some(offset) = found? else { return Ok(()) };
        let message = format!(
            "{} differs from the image at {offset} although it was just copied: something writes to the image that does \
             not say so in the map, or a disk fails",
            outcome.target
        );
        Err(Failure::new("verify-failed", message))
    }

    fn audit(&self, work: &Work, target: &dyn Target, info: &Info, outcome: &mut Outcome) -> Result<()> {
        let (Some(bits), true) = (&work.bits, target.to_audit()) else { return Ok(()) };
        let audited = audit::audit(&self.pair(target.content()?, info), &**bits, self.args.how.audit)?;
        outcome.granules_audited = audited.granules;
        let Some(offset) = audited.missed else { return Ok(()) };
        self.map.record_miss(audited.granules)?;
        let message = format!(
            "{} differs from the image at {offset}, in a granule that the map calls clean: something has written to the \
             image without telling the map, or a disk or its file system has changed the one or the other; everything is \
             dirty now, and the next backup copies it; find out which before relying on older backups",
            outcome.target
        );
        Err(Failure { kind: "audit-missed".into(), message, exit: Exit::Damage })
    }

    /// Whether the image was written meanwhile, and so whether the backup is of one moment.
    fn look_back(&self, before: &ImageStamp, outcome: &mut Outcome) -> Result<()> {
        let Job { args, image, output, .. } = self;
        let now = image.glance()?;
        let set_since = self.map.any_since_freeze()?;
        outcome.image_changed = !args.how.frozen && !now.equals(&self.stamp);
        outcome.one_moment = match before.equals(&now) {
            _ if set_since && !args.how.frozen => Some(false),
            false => Some(false),
            true if before.is_exact() => Some(true),
            true => None,
        };
        if outcome.image_changed && !set_since {
            output.note(format_args!(
                "{} was changed while it was copied; the next command that opens its map makes everything dirty",
                image.path.display()
            ));
        }
        Ok(())
    }
}

/// How a snapshot is backed up.
const RECIPE: &str = "freeze one (dirtymap checkpoint freeze), take the snapshot, and then back that up with --frozen";
