//! `dirtymap backup`: freezes what is dirty, copies it, verifies it, and only then forgets it.
//!
//! Invariant kept here: the target equals the image wherever the map says clean, unless it has no content: then everything is
//! copied to it, whatever the map says. So
//! - before anything is copied to a target whose content is not known, everything is made dirty, durably: a backup
//!   that is killed half-way is finished by the next one, however that is called;
//! - what was frozen is forgotten after the target is synced and what was copied reads back equal, or was set again;
//!   but not what points of a name reach back to: for the targets of those it is dirty still;
//! - the image is synced after the freeze, which has waited for writes under way, and before it is read;
//! - what the map records of the image is from before the first byte was copied.

use super::checkpoint::keep_last;
use crate::cli::Backup;
use crate::exit::{Exit, Failure, Result};
use crate::files::{self, Image};
use crate::open::{self, With};
use crate::output::Output;
use crate::signals;
use crate::size;
use dirtymap::format::Uuid;
use dirtymap::{Bitmap, DirtyMap, ImageStamp, Info};
use dirtymap_cli::shown::shown;
use indicatif::ProgressBar;
use serde::Serialize;
use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// What a backup did: its JSON, which docs/json.md describes.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub image: String,
    pub target: String,
    pub map: String,
    pub size: u64,
    pub full: bool,
    pub new_target: bool,
    /// Dirty areas copied.
    pub areas: u64,
    /// Bytes of data copied.
    pub bytes_copied: u64,
    /// Bytes that are holes in the image, and zeros in the target now.
    pub bytes_holes: u64,
    /// Bytes that were clean, and so not looked at.
    pub bytes_skipped: u64,
    /// Bytes of the target compared with the image.
    pub bytes_verified: u64,
    /// Of the dirty bytes, those that recovery may have added when this backup opened the map.
    pub bytes_recovered: u64,
    /// Whether the image was changed by somebody while it was copied.
    pub image_changed: bool,
    /// Names that were dropped, the oldest first.
    pub dropped: Vec<String>,
}

pub fn run(args: &Backup, wait: Duration, output: Output) -> Result<Exit> {
    let outcome = back_up(args, wait, output)?;
    output.answer(&outcome, human)?;
    Ok(Exit::Fine)
}

fn human(out: &mut dyn io::Write, o: &Outcome) -> io::Result<()> {
    let kind = if o.full { "full" } else { "incremental" };
    let h = size::human;
    writeln!(out, "{kind} backup of {} to {} is complete and verified", shown(&o.image), shown(&o.target))?;
    writeln!(out, "copied   {:>12} bytes ({}) in {}", o.bytes_copied, h(o.bytes_copied), size::count(o.areas, "area"))?;
    if o.bytes_holes > 0 {
        writeln!(out, "holes    {:>12} bytes ({}), zeros in both", o.bytes_holes, h(o.bytes_holes))?;
    }
    writeln!(out, "skipped  {:>12} bytes ({}), clean", o.bytes_skipped, h(o.bytes_skipped))?;
    writeln!(out, "verified {:>12} bytes ({}), read back and equal", o.bytes_verified, h(o.bytes_verified))?;
    o.dropped.iter().try_for_each(|name| writeln!(out, "dropped  {name:?}"))
}

/// The name of a point that is not kept, by which the next backup knows what one that died has left.
const UNNAMED: &str = "dirtymap backup";

/// What is at the target's name, and so what has to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing, or a file without content: everything is copied.
    New,
    /// Something of unknown content that may be overwritten: everything is copied.
    Full,
    /// What the last backup wrote: what is dirty is copied.
    Incremental {
        /// Nothing proves that nobody else changed the target since: all of it is compared.
        compare_all: bool,
    },
}

impl Plan {
    fn is_full(self) -> bool {
        !matches!(self, Plan::Incremental { .. })
    }
}

/// The backup, without printing its outcome.
pub fn back_up(args: &Backup, wait: Duration, output: Output) -> Result<Outcome> {
    let image = Image::open(&args.image, false)?;
    files::distinct(&[("image", &args.image), ("map", &args.map), ("target", &args.target)])?;
    // Before the stamp is taken: writing back what was written through a mapping may change the time.
    image.sync()?;
    let existing = open_target(&args.target)?;
    let acceptable = |info: &Info| {
        files::fits(info, &args.map, &image)?;
        plan(args, info, existing.as_ref(), image.size()).map(drop)
    };
    let (map, stamp) = open::for_writing_of(&args.map, With::Anybody, &image, wait, output, acceptable)?;
    match (Job { args, image: &image, map: &map, output }).run(stamp) {
        Ok(outcome) => {
            open::cost(&map, output);
            if outcome.image_changed && !map.is_empty() {
                // Others track it, and tell what it is like when they are done.
                map.close()?;
            } else {
                map.close_with_image(&stamp)?;
            }
            Ok(outcome)
        }
        Err(failure) => {
            // Best effort: the next open recovers. The map was complete for the image as it was at `stamp`; if that is
            // no more, others who track it may have told what it is like since, and this must not take it back.
            let as_it_was = image.stamp_now().is_ok_and(|now| now == stamp);
            let _ = if as_it_was { map.close_with_image(&stamp) } else { map.close() };
            Err(failure)
        }
    }
}

/// The target as it is; `None` if there is nothing.
fn open_target(path: &Path) -> Result<Option<Image>> {
    if let Err(e) = path.metadata()
        && e.kind() == io::ErrorKind::NotFound
    {
        return Ok(None);
    }
    Image::open(path, true).map(Some)
}

/// Decides what to copy, or refuses.
fn plan(args: &Backup, info: &Info, target: Option<&Image>, size: u64) -> Result<Plan> {
    let name = args.target.display();
    if let Some(target) = target
        && target.stamp.is_block_device()
        && target.size() < size
    {
        let message = format!("{name} has {} bytes, too few for an image of {size}", target.size());
        return Err(Failure::new("size-differs", message));
    }
    let differs = target.and_then(|target| info.backup_target_differs(&target.stamp));
    let last = differs.as_deref() == Some("");
    let compare_all = !(last && info.target.is_some_and(|(_, exact)| exact));
    if let Some(since) = &args.since {
        return match target {
            Some(target) if target.size() <= size || target.stamp.is_block_device() => {
                Ok(Plan::Incremental { compare_all })
            }
            Some(target) => {
                let message = format!("{name} has {} bytes, more than the image, which has {size}", target.size());
                Err(Failure::new("size-differs", message))
            }
            None => {
                let message = format!("{name}: not found; --since needs the backup that was complete at {since:?}");
                Err(Failure::new("not-found", message))
            }
        };
    }
    let Some(target) = target else { return Ok(Plan::New) };
    if last {
        return Ok(if args.full { Plan::Full } else { Plan::Incremental { compare_all } });
    }
    if target.is_blank() {
        return Ok(Plan::New);
    }
    if args.force {
        return Ok(Plan::Full);
    }
    let why = match differs {
        None => "this map has not written any backup so far".to_string(),
        Some(difference) => difference,
    };
    let message = format!(
        "{name} is not the backup that this map last wrote ({why}), so copying what is dirty would not make it one; \
         give that backup, or a new name, or overwrite {name} with a full copy (--force)"
    );
    Err(Failure::new("wrong-target", message))
}

/// A backup for which the map is held.
struct Job<'a> {
    args: &'a Backup,
    image: &'a Image,
    map: &'a DirtyMap,
    output: Output,
}

impl Job<'_> {
    fn run(&self, stamp: ImageStamp) -> Result<Outcome> {
        let copied = self.copied(stamp);
        let (mut outcome, target) =
            copied.map_err(|e| e.and("no bit was reset, so the next backup copies all that this one should have"))?;
        // If this fails, the next backup compares everything, since it does not know that the target was completed.
        self.map.complete_backup(&target.stamp_now()?)?;
        if let Some(most) = self.args.keep_last {
            match keep_last(self.map, most) {
                Ok(dropped) => outcome.dropped = dropped,
                Err(e) => self.output.note(format_args!("{e}; the oldest names may still be there")),
            }
        }
        Ok(outcome)
    }

    /// Puts back what a backup of this name has left that died, and refuses what a freeze would: while nothing is
    /// changed. The map is claimed.
    fn prepare(&self) -> Result<()> {
        let Job { args, map, .. } = *self;
        let (points, path) = (map.points()?, args.map.display());
        if let Some(name) = &args.since
            && !points.iter().any(|point| point.name == *name)
        {
            map.since(name)?; // Says what points there are.
        }
        if let Some(stale) = map.checkpoint()? {
            if stale.name.as_deref() != Some(self.name()) {
                let name = stale.name.unwrap_or_default();
                let message = format!(
                    "{path}: checkpoint {} named {name:?} is {}; if a backup that was killed has left it, put it back \
                     (dirtymap checkpoint abort {path}), else wait for whoever copies it",
                    stale.uuid,
                    stale.state.name()
                );
                return Err(Failure::new("checkpoint-outstanding", message));
            }
            map.abort_checkpoint(stale.uuid)?;
        }
        if self.name() == UNNAMED && args.name.is_some() {
            let why = format!("{UNNAMED:?} is what a backup without a name is called; choose another name");
            return Err(Failure::new("refused", format!("{path}: {why}")));
        }
        Ok(map.can_freeze(Some(self.name()))?)
    }

    /// The name that is frozen with.
    fn name(&self) -> &str {
        self.args.name.as_deref().unwrap_or(UNNAMED)
    }

    /// Everything up to the point from which on what was frozen is forgotten.
    fn copied(&self, stamp: ImageStamp) -> Result<(Outcome, Image)> {
        let Job { args, image, map, .. } = *self;
        let len = map.len();
        map.claim_backup()?;
        self.prepare()?;
        // Again, now that nobody else makes a backup by this map.
        let info = map.info()?;
        let existing = open_target(&args.target)?;
        let plan = plan(args, &info, existing.as_ref(), len)?;
        image.sync()?;
        // A name that cannot be had costs nothing; and a file without content is one that everything is copied to.
        let target = match existing {
            Some(target) => target,
            None => create(&args.target)?,
        };
        if plan.is_full() {
            map.set_all()?;
            map.flush()?;
        }
        let sized = !target.stamp.is_block_device() && (plan.is_full() || target.size() != len);
        if sized && target.size() < len && !plan.is_full() {
            // The image has grown since. What the target lacks is copied, whatever it holds.
            map.set(target.size()..len)?;
            map.flush()?;
        }
        // Before its size changes as well, or whoever finds it with another one takes it for something else.
        map.begin_backup(&target.stamp_now()?)?;
        if sized {
            target.file.set_len(len).map_err(|e| target.failed("set its size", &e))?;
            target.sync()?;
            files::sync_directory_of(&args.target)?;
        }

        let (uuid, work) = self.freeze()?;
        let copied = self.copy_frozen(&work, &target, plan, &info, stamp);
        let commit = |outcome| {
            map.commit_checkpoint(uuid, args.name.is_some())?;
            Ok(outcome)
        };
        match copied.and_then(commit) {
            Ok(outcome) => Ok((outcome, target)),
            Err(failure) => Err(match map.abort_checkpoint(uuid) {
                Ok(()) => failure,
                Err(e) => failure.and(format_args!("what was frozen could not be put back ({e}), which the next does")),
            }),
        }
    }

    /// Freezes what is dirty, and gives what is to be copied.
    fn freeze(&self) -> Result<(Uuid, Bitmap)> {
        let Job { args, map, .. } = *self;
        let frozen = map.freeze(Some(self.name()))?;
        let work = match &args.since {
            None => map.frozen(frozen.uuid),
            Some(since) => map.since(since),
        };
        match work {
            Ok(work) => Ok((frozen.uuid, work)),
            Err(e) => {
                map.abort_checkpoint(frozen.uuid)?;
                Err(e.into())
            }
        }
    }

    /// Copies what was frozen, and verifies it.
    fn copy_frozen(
        &self,
        work: &Bitmap,
        target: &Image,
        plan: Plan,
        info: &Info,
        stamp: ImageStamp,
    ) -> Result<Outcome> {
        let Job { args, image, map, output } = *self;
        // Every write that the frozen bits stand for has ended by now.
        image.sync()?;
        let (len, dirty) = (work.len(), work.dirty_len());
        let recovered = if info.recovery.image_changed.is_some() { dirty } else { info.recovery.armed_items };
        let mut outcome = Outcome {
            image: args.image.display().to_string(),
            target: args.target.display().to_string(),
            map: args.map.display().to_string(),
            size: len,
            full: plan.is_full() || (dirty == len && len > 0),
            new_target: plan == Plan::New,
            areas: 0,
            bytes_copied: 0,
            bytes_holes: 0,
            bytes_skipped: len - dirty,
            bytes_verified: 0,
            bytes_recovered: recovered.min(dirty),
            image_changed: false,
            dropped: Vec::new(),
        };
        self.copy(work, target, plan == Plan::New, dirty, &mut outcome)?;
        target.sync()?;
        target.forget_cache();
        self.verify(work, target, plan, dirty, &mut outcome)?;
        outcome.image_changed = image.stamp_now()? != stamp;
        // Those who track it have set something since. (The frozen bits are dirty in the map as well.)
        let tracked = || -> Result<bool> { Ok(map.count() > work.count() || self.any_set_since(work)?) };
        if outcome.image_changed && !tracked()? {
            output.note(format_args!(
                "{} was changed while it was copied; the next command that opens its map makes everything dirty",
                image.path.display()
            ));
        }
        Ok(outcome)
    }

    /// Copies the dirty areas. `blank`: the target reads as zeros.
    fn copy(&self, work: &Bitmap, target: &Image, blank: bool, dirty: u64, outcome: &mut Outcome) -> Result<()> {
        let bar = self.output.progress("copying", dirty);
        let done = copy_areas(self.image, target, work, blank, &bar, outcome);
        bar.finish_and_clear();
        done
    }

    fn verify(&self, work: &Bitmap, target: &Image, plan: Plan, dirty: u64, outcome: &mut Outcome) -> Result<()> {
        let len = self.map.len();
        let all = plan == Plan::Incremental { compare_all: true };
        let bar = self.output.progress("verifying", if all { len } else { dirty });
        let found = if all {
            self.differs(target, 0..len, &bar)
        } else {
            work.areas(0..len)?.find_map(|area| self.differs(target, area, &bar).transpose()).transpose()
        };
        outcome.bytes_verified = bar.position();
        bar.finish_and_clear();
        let Some(offset) = found? else { return Ok(()) };
        let name = target.path.display();
        Err(if work.get(offset)? {
            let message = format!(
                "{name} differs from the image at {offset} although it was just copied: the image is being written \
                 by somebody who does not say so in the map, or a disk fails"
            );
            Failure::new("verify-failed", message)
        } else {
            let why = match &self.args.since {
                Some(since) => format!("{since:?}: {name} was not complete then, or somebody else changed it"),
                None => format!("the last backup: somebody else changed {name}"),
            };
            let message = format!(
                "{name} differs from the image at {offset}, which was not written since {why}; copy everything (--full)"
            );
            Failure::new("target-changed", message)
        })
    }

    /// Whether anything of what was copied was set again since the freeze.
    fn any_set_since(&self, work: &Bitmap) -> Result<bool> {
        for item in work.granules(0..work.len())? {
            if self.map.get_here(item)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first offset in `range` at which the target differs from the image, and should not: what was set since the
    /// freeze is for the next backup.
    fn differs(&self, target: &Image, range: Range<u64>, bar: &ProgressBar) -> Result<Option<u64>> {
        let granule = self.map.geometry().granule();
        let mut at = range.start;
        while let Some(offset) = compare(self.image, target, at..range.end, bar)? {
            if !self.map.get_here(offset)? {
                return Ok(Some(offset));
            }
            at = (offset / granule + 1).saturating_mul(granule).min(range.end);
        }
        Ok(None)
    }
}

fn create(path: &Path) -> Result<Image> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    Image::of(file.map_err(|e| Failure::io(format_args!("{}: create", path.display()), &e))?, path)
}

const INTERRUPTED: &str = "the backup is not complete";

fn copy_areas(
    image: &Image,
    target: &Image,
    work: &Bitmap,
    blank: bool,
    bar: &ProgressBar,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut buffer = vec![0; files::PIECE as usize];
    for area in work.areas(0..work.len())? {
        outcome.areas += 1;
        let mut at = area.start;
        while at < area.end {
            signals::check(INTERRUPTED)?;
            let data = image.next_data(at..area.end).unwrap_or(area.end..area.end);
            if !blank {
                target.zero(at..data.start)?;
            }
            outcome.bytes_holes += data.start - at;
            bar.inc(data.start - at);
            for piece in files::pieces(data.clone()) {
                signals::check(INTERRUPTED)?;
                let bytes = &mut buffer[..(piece.end - piece.start) as usize];
                image.read(bytes, piece.start)?;
                target.write(bytes, piece.start)?;
                outcome.bytes_copied += bytes.len() as u64;
                bar.inc(bytes.len() as u64);
            }
            at = data.end;
        }
    }
    Ok(())
}

/// The first offset in `range` at which two files differ. Where both have a hole nothing is read.
pub fn compare(one: &Image, other: &Image, range: Range<u64>, bar: &ProgressBar) -> Result<Option<u64>> {
    let mut buffers = (vec![0; files::PIECE as usize], vec![0; files::PIECE as usize]);
    let mut at = range.start;
    while at < range.end {
        signals::check(INTERRUPTED)?;
        let (a, b) = (one.next_data(at..range.end), other.next_data(at..range.end));
        let Some(start) = a.iter().chain(&b).map(|data| data.start).min() else { break };
        // Up to the end of whichever part of data comes first; a hole of the other one reads as zeros.
        let end = a.iter().chain(&b).filter(|data| data.start == start).map(|data| data.end).min();
        bar.inc(start - at);
        for piece in files::pieces(start..end.unwrap_or(range.end)) {
            signals::check(INTERRUPTED)?;
            let n = (piece.end - piece.start) as usize;
            let (a, b) = (&mut buffers.0[..n], &mut buffers.1[..n]);
            one.read(a, piece.start)?;
            other.read(b, piece.start)?;
            if let Some(i) = a.iter().zip(&*b).position(|(a, b)| a != b) {
                return Ok(Some(piece.start + i as u64));
            }
            bar.inc(n as u64);
            at = piece.end;
        }
    }
    bar.inc(range.end - at);
    Ok(None)
}
