//! From what is wanted to what was done: the order of a backup, of one image or of several at once.
//!
//! Invariants kept here: all are frozen before any is copied, and all are copied and verified before any becomes a backup; if one
//! fails, what was frozen is put back for all that have not become one.

use super::mirror::Mirror;
use super::set::SetTarget;
use super::target::{Base, Target};
use super::{Job, Outcome, Work};
use crate::cli::BackupHow;
use crate::exit::{Failure, Result};
use crate::files::{self, Image};
use crate::map::open::{self, With};
use crate::map::relation;
use crate::terminal::output::Output;
use dirtymap::info::Info;
use std::path::PathBuf;
use std::time::Duration;

/// What is to be backed up, where to, and how.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What it is called among others that are backed up at once.
    pub disk: Option<String>,
    /// What all of them have in common.
    pub group: Option<String>,
    pub image: PathBuf,
    pub map: PathBuf,
    /// The one of these, or the other.
    pub target: Option<PathBuf>,
    pub set: Option<PathBuf>,
    pub how: BackupHow,
}

/// Makes a backup.
pub fn back_up(wanted: &Wanted, wait: Duration, output: Output) -> Result<Outcome> {
    let mut outcomes = back_up_all(std::slice::from_ref(wanted), wait, output)?;
    outcomes.pop().ok_or_else(|| Failure::usage("nothing to back up"))
}

/// Makes backups of several images at once: all are frozen before any is copied, and all are copied and verified before any becomes a
/// backup. If one fails, none does, unless it has become one already.
pub fn back_up_all(wanted: &[Wanted], wait: Duration, output: Output) -> Result<Vec<Outcome>> {
    let mut running: Vec<Running<'_>> = Vec::new();
    let done = wanted.iter().try_for_each(|wanted| {
        running.push(Running::open(wanted, wait, output).map_err(|e| of_disk(wanted, e))?);
        Ok(())
    });
    let done = done.and_then(|()| together(&mut running));
    let mut failed = done.err();
    let mut outcomes = Vec::new();
    for one in running {
        match one.close(failed.as_ref()) {
            Ok(outcome) => outcomes.extend(outcome),
            // What a backup of several is to know of the others is in the first.
            Err(failure) => failed = failed.or(Some(failure)),
        }
    }
    failed.map_or(Ok(outcomes), Err)
}

/// Freezes all, copies all, and then commits all. Who fails gives up the others.
fn together(running: &mut [Running<'_>]) -> Result<()> {
    let done = each(running, |one| one.start()).and_then(|()| each(running, |one| one.freeze()));
    let done = done.and_then(|()| each(running, |one| one.copy())).and_then(|()| {
        // They are of one moment together, or not at all.
        let of_one = |one: &Running<'_>| one.outcome.as_ref().map(|outcome| outcome.one_moment);
        let moments: Vec<Option<bool>> = running.iter().filter_map(of_one).collect();
        let together = moments.iter().copied().reduce(|a, b| match (a, b) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        });
        for outcome in running.iter_mut().filter_map(|one| one.outcome.as_mut()) {
            outcome.one_moment = together.unwrap_or_default();
        }
        each(running, |one| one.commit())
    });
    done.map_err(|failure| running.iter_mut().fold(failure, |failure, one| one.give_up(failure)))
}

/// Does one step for all.
fn each(running: &mut [Running<'_>], step: fn(&mut Running<'_>) -> Result<()>) -> Result<()> {
    running.iter_mut().try_for_each(|one| step(one).map_err(|e| of_disk(one.job.args, e)))
}

/// A failure of one of several says of which.
fn of_disk(wanted: &Wanted, failure: Failure) -> Failure {
    let Some(disk) = &wanted.disk else { return failure };
    Failure { message: format!("disk {disk:?}: {}", failure.message), ..failure }
}

/// A backup under way.
struct Running<'a> {
    job: Job<'a>,
    target: Box<dyn Target + 'a>,
    /// What is to be copied, until it is frozen.
    base: Option<(Base, Info)>,
    /// What was frozen.
    work: Option<(Work, Info)>,
    outcome: Option<Outcome>,
    committed: bool,
}

impl<'a> Running<'a> {
    fn open(args: &'a Wanted, wait: Duration, output: Output) -> Result<Running<'a>> {
        let image = Image::open(&args.image, false)?;
        files::distinct(&[("image", &args.image), ("map", &args.map)])?;
        // Before the stamp is taken: writing back what was written through a mapping may change the time.
        image.sync()?;
        let target: Box<dyn Target + 'a> = match (&args.target, &args.set) {
            (Some(path), _) => Box::new(Mirror::open(args, path, &image)?),
            (None, Some(folder)) => Box::new(SetTarget::open(args, folder, wait)?),
            (None, None) => return Err(Failure::usage("give a TARGET, or a folder for a set (--set DIR)")),
        };
        let acceptable = |info: &Info| {
            relation::fits(info, &args.map, &image)?;
            // Whoever made the map for the image was asked.
            if info.image.is_none() && !args.how.raw {
                image.is_raw()?;
            }
            if !args.how.frozen && !args.how.force {
                relation::belongs(info, &args.map, &image, OTHER_IMAGE)?;
            }
            target.acceptable(info, image.size())
        };
        let (map, stamp) = if args.how.frozen {
            // A snapshot is not the image that the map belongs to, and tells nothing of that.
            let map = open::for_writing(&args.map, With::Anybody, wait, output, acceptable)?;
            (map, image.stamp)
        } else {
            open::for_writing_of(&args.map, With::Anybody, &image, wait, output, acceptable)?
        };
        let job = Job { args, image, map, stamp, output };
        Ok(Running { job, target, base: None, work: None, outcome: None, committed: false })
    }

    /// Claims, settles, and looks at what is there; that may be all that there is to do.
    fn start(&mut self) -> Result<()> {
        let (job, target) = (&self.job, &mut *self.target);
        job.map.claim_backup()?;
        if let Some(outcome) = target.settle(job)? {
            (self.outcome, self.committed) = (Some(outcome), true);
            return Ok(());
        }
        job.prepare(target)?;
        let info = job.map.info()?;
        if job.image.stamp.is_block_device() {
            job.output.note(job.image.untraceable());
        }
        job.image.sync()?;
        self.base = Some((target.prepare(job, &info)?, info));
        Ok(())
    }

    fn freeze(&mut self) -> Result<()> {
        let Some((base, info)) = self.base.take() else { return Ok(()) };
        self.work = Some((self.job.freeze(&*self.target, base)?, info));
        Ok(())
    }

    /// Proves, copies, verifies and audits.
    fn copy(&mut self) -> Result<()> {
        let Some((work, info)) = &self.work else { return Ok(()) };
        let compared = self.job.prove(&mut *self.target, work, info)?;
        let mut outcome = self.job.copy(work, &mut *self.target, info)?;
        outcome.bytes_compared = compared;
        self.outcome = Some(outcome);
        Ok(())
    }

    /// Makes it a backup, and has the map forget what was frozen.
    fn commit(&mut self) -> Result<()> {
        let (Some((work, info)), Some(outcome)) = (&self.work, &mut self.outcome) else { return Ok(()) };
        self.job.commit(work, &mut *self.target, info, outcome)?;
        self.committed = true;
        self.target.committed(&self.job, outcome);
        Ok(())
    }

    /// This backup, or another one that was to be made with it, has failed.
    fn give_up(&mut self, failure: Failure) -> Failure {
        let Job { args, map, .. } = &self.job;
        if self.committed {
            return failure;
        }
        if self.target.is_published() {
            return failure.and("the backup is whole all the same; the next one tells the map of it");
        }
        self.target.abandon();
        let Some(uuid) = self.work.as_ref().map(|(work, _)| work.checkpoint.uuid) else { return failure };
        if args.how.frozen {
            return failure.and(format_args!("checkpoint {uuid} stays frozen, for another try or `checkpoint abort`"));
        }
        match map.abort_checkpoint(uuid) {
            Ok(()) => failure.and("no bit was reset, so the next backup copies all that this one should have"),
            Err(e) => failure.and(format_args!("what was frozen could not be put back ({e}), which the next does")),
        }
    }

    /// Closes the map. `failed`: why the backup is none.
    fn close(self, failed: Option<&Failure>) -> Result<Option<Outcome>> {
        let Job { args, image, map, stamp, output } = self.job;
        let Some(outcome) = self.outcome.filter(|_| failed.is_none()) else {
            // Best effort: the next open recovers. The map was complete for the image as it was at `stamp`; if that is
            // no more, others who track it may have told what it is like since, and this must not take it back.
            let as_it_was = !args.how.frozen && image.glance().is_ok_and(|now| now.equals(&stamp));
            let _ = if as_it_was { map.close_with_image(&stamp) } else { map.close() };
            return Ok(None);
        };
        open::cost(&map, output);
        if args.how.frozen || (outcome.image_changed && !map.is_empty()) {
            // Those who track the image tell what it is like when they are done.
            map.close()?;
        } else {
            map.close_with_image(&stamp)?;
        }
        Ok(Some(outcome))
    }
}

/// What to do with an image that is not the map's own.
const OTHER_IMAGE: &str = "for a snapshot that was taken while a checkpoint was frozen, use --frozen; to take this one for the \
                           map's image from now on, and copy all of it, use --force";
