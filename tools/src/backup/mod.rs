//! The engine of `backup`: claim, freeze, prove, copy, verify, audit, commit; whatever the target is.
//!
//! Invariant kept here: the last completed target has what the image has wherever the map says clean. So
//! - what was frozen is forgotten after the target is synced and what was copied reads back equal, or was set again;
//! - the source is synced after the freeze, which has waited for writes under way, and before what was frozen is forgotten;
//! - a snapshot is copied as it is: with what was frozen also what was set since, which may have been written before the snapshot was
//!   taken. That stays dirty.

mod ahead;
mod audit;
pub mod compare;
pub mod copy;
mod member;
mod mirror;
mod outcome;
mod plan;
#[cfg(test)]
mod power_tests;
pub mod prune;
#[cfg(test)]
mod resume_tests;
mod set;
#[cfg(test)]
pub mod set_tests;
mod source;
mod target;
mod together;

pub use outcome::Outcome;
pub use together::{Wanted, back_up, back_up_all};

use crate::exit::{Exit, Failure, Result};
use crate::files::Content;
use crate::terminal::output::Output;
use crate::terminal::pass::{Pass, Rate};
use crate::terminal::signals;
use crate::time::time;
use compare::{Equal, Pair};
use dirtymap::format::CheckpointState;
use dirtymap::{DirtyMap, Error, ReadMap, checkpoint::Checkpoint, info::Info, iter::Cursor};
use dirtymap_cli::set_json;
use source::{Frozen, Meanwhile, Source, Wish};
use std::iter;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use target::{Base, Target};

const INTERRUPTED: &str = "the backup is not complete";

/// What a backup without a name freezes with. It is not kept.
const UNNAMED: &str = "dirtymap backup";

/// Whether a checkpoint that a backup copied is kept by its name.
fn keeps(checkpoint: &Checkpoint) -> bool {
    checkpoint.name.as_deref().is_some_and(|name| name != UNNAMED)
}

/// A backup for which the map is open.
struct Job<'a> {
    args: &'a Wanted,
    source: Box<dyn Source + 'a>,
    map: DirtyMap,
    output: Output,
    rate: Option<Rate>,
}

/// What was frozen, and what is to be copied.
struct Work {
    checkpoint: Checkpoint,
    len: u64,
    /// Bytes to be copied.
    bytes: u64,
    /// `None`: everything.
    bits: Option<Arc<dyn ReadMap>>,
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
    /// A pass over bytes of the image.
    fn pass(&self, what: &'static str, bytes: u64) -> Pass {
        Pass::new(what, bytes, INTERRUPTED).at(self.rate.as_ref())
    }

    /// Puts back what a backup has left that died, and refuses what a freeze would: while nothing is changed. The map is claimed.
    fn prepare(&self, target: &dyn Target) -> Result<()> {
        let Job { args, map, .. } = self;
        let path = map.path().display();
        if let Some(name) = &args.how.since
            && !map.points()?.iter().any(|point| point.name == *name)
        {
            map.since_set(name)?; // Says what points there are.
        }
        if args.how.frozen {
            return match map.checkpoint()? {
                Some(Checkpoint { state: CheckpointState::Frozen, target: None, .. }) => Ok(()),
                _ => Err(Failure::new("no-checkpoint", format!("{path}: no checkpoint is frozen for it; {RECIPE}"))),
            };
        }
        if args.how.name.as_deref() == Some(UNNAMED) {
            let why = format!("{UNNAMED:?} is what a backup without a name is called; choose another name");
            return Err(Failure::new("refused", format!("{path}: {why}")));
        }
        loop {
            if let Some(stale) = map.checkpoint()? {
                if !left_by_any(&stale) && !target.has_left(&stale) {
                    return Err(outstanding(map, &stale));
                }
                self.give_up(&stale)?;
            }
            match map.can_freeze(Some(target.point())) {
                // A server has just come to what a backup that was killed had asked for.
                Err(Error::Outstanding { .. }) => signals::check(INTERRUPTED)?,
                can => return Ok(can?),
            }
        }
    }

    /// Puts back what a backup has frozen that was ended before it was complete.
    fn give_up(&self, stale: &Checkpoint) -> Result<()> {
        self.source.abort(&self.map, stale)?;
        let what = if stale.snapshot { "live snapshot" } else { "checkpoint" };
        let name = stale.name.as_ref().map_or(String::new(), |name| format!(" {name:?}"));
        let since = time(stale.time).map_or(String::new(), |time| format!(", of {time},"));
        self.output.note(format_args!(
            "a backup that was not completed has left the {what}{name}{since} which is given up: what it had frozen is dirty again"
        ));
        Ok(())
    }

    fn wish<'t>(&self, target: &'t dyn Target, base: &Base) -> Wish<'t> {
        let (point, all) = (target.point(), target.reads_all(&self.map));
        Wish { point, target: target.stamp(), base: base.clone(), all }
    }

    /// Freezes what is dirty, and gives what is to be copied.
    fn freeze(&mut self, target: &dyn Target, base: &Base) -> Result<Work> {
        let wish = self.wish(target, base);
        let Frozen { checkpoint, bits } = self.source.freeze(&mut self.map, wish)?;
        let len = self.map.len();
        let bytes = bits.as_ref().map_or(len, |bits| bits.dirty_len());
        Ok(Work { checkpoint, len, bytes, bits })
    }

    /// A source and a target, of which a snapshot is written by nobody: it differs where the target is not its copy.
    fn pair<'t>(&'t self, target: &'t dyn Content, info: &Info) -> Pair<'t> {
        Pair { image: self.source.content(), target, map: self.source.is_live(info).then_some(&self.map) }
    }

    /// The same for what is clean.
    fn clean_pair<'t>(&'t self, target: &'t dyn Content, info: &Info) -> Pair<'t> {
        match self.source.clean() {
            Some(image) => Pair { image, target, map: Some(&self.map) },
            None => self.pair(target, info),
        }
    }

    /// Every write that the frozen bits stand for has ended by now.
    fn prove(&self, target: &mut dyn Target, work: &Work, info: &Info) -> Result<u64> {
        self.source.sync()?;
        target.prove(self, work, info)
    }

    /// Copies, reads back, and audits.
    fn copy(&self, work: &Work, target: &mut dyn Target, info: &Info) -> Result<Outcome> {
        target.begin(self, work)?;
        self.source.begin()?;
        let mut outcome = Outcome::new(self, work.len, work.bytes, target.describe());
        let recovered = if info.recovery.image_changed.is_some() { work.bytes } else { info.recovery.added_items() };
        outcome.bytes_recovered = recovered.min(work.bytes);
        let (pass, begun) = (self.pass("copying", work.bytes), Instant::now());
        let mut areas = work.extents().inspect(|_| outcome.areas += 1);
        let copied = target.copy(self, work.len, &mut areas, &pass)?;
        drop(areas);
        (outcome.bytes_copied, outcome.bytes_holes) = (copied.data, copied.holes);
        drop(pass);
        outcome.copy_milliseconds = begun.elapsed().as_millis() as u64;
        let begun = Instant::now();
        target.complete()?;
        outcome.sync_milliseconds = begun.elapsed().as_millis() as u64;
        let begun = Instant::now();
        self.verify(work, target, info, &mut outcome)?;
        outcome.verify_milliseconds = begun.elapsed().as_millis() as u64;
        self.audit(work, target, info, &mut outcome)?;
        let Meanwhile { changed, one_moment } = self.source.look_back(&self.map, self.output)?;
        (outcome.image_changed, outcome.one_moment) = (changed, one_moment);
        Ok(outcome)
    }

    /// Has the target be a backup, and the map know it.
    fn commit(&self, work: &Work, target: &mut dyn Target, info: &Info, outcome: &mut Outcome) -> Result<()> {
        self.source.bind(&self.map, info)?;
        let stamp = target.publish(self, work, outcome)?;
        let keep = keeps(&work.checkpoint);
        self.source.commit(&self.map, &work.checkpoint, keep, &stamp, outcome.granules_audited)
    }

    fn verify(&self, work: &Work, target: &dyn Target, info: &Info, outcome: &mut Outcome) -> Result<()> {
        let pass = self.pass("verifying", work.bytes);
        let (mut equal, pair) = (Equal::default(), self.pair(target.content()?, info));
        let step = STEP.max(self.map.granule_bytes());
        let found = work.extents().flat_map(|area| steps(area, step)).find_map(|area| {
            let differs = pair.differs(area.clone(), &pass, &mut equal).transpose();
            if differs.is_none() {
                self.source.done(area);
            }
            differs
        });
        let found = found.transpose();
        drop(pass);
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
        let pass = Pass::silent(INTERRUPTED).at(self.rate.as_ref());
        let audited = audit::audit(&self.clean_pair(target.content()?, info), &**bits, self.args.how.audit, &pass)?;
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
}

/// Whether a checkpoint was left by a backup that was killed, whatever its target: one that names a target is a backup's, and no
/// other one goes by the map that finds it. But a member of a set may be complete, which only its set can tell.
fn left_by_any(stale: &Checkpoint) -> bool {
    stale.target.is_some() && stale.name.as_deref().and_then(set_json::point_of).is_none()
}

/// The refusal of a checkpoint that is not to be ended here.
fn outstanding(map: &DirtyMap, found: &Checkpoint) -> Failure {
    let (path, name) = (map.path().display(), found.name.as_ref());
    let name = name.map_or("without a name".into(), |name| format!("named {name:?}"));
    let advice = match found.snapshot {
        true => "it is a live snapshot's of the server: end that (dirtymap snapshot abort)".into(),
        false => format!(
            "if a backup that was killed has left it, put it back (dirtymap checkpoint abort {path}); if it was frozen for a \
             snapshot, back that up with --frozen"
        ),
    };
    let message = format!("{path}: checkpoint {} {name} is {}; {advice}", found.uuid, found.state.name());
    Failure::new("checkpoint-outstanding", message)
}

/// So much is verified, and then the source told that it is done with.
const STEP: u64 = 64 << 20;

/// Cuts a range at multiples of `step`.
fn steps(range: Range<u64>, step: u64) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    iter::from_fn(move || {
        let next = at..(at / step + 1).saturating_mul(step).min(range.end);
        at = next.end;
        (!next.is_empty()).then_some(next)
    })
}

/// How a snapshot is backed up.
const RECIPE: &str = "freeze one (dirtymap checkpoint freeze), take the snapshot, and then back that up with --frozen";
