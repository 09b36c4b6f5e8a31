//! From what is wanted to what was done: the order of a backup, of one image or of several at once.
//!
//! Invariants kept here: all are frozen before any is copied, and all are copied and verified before any becomes a backup; if one
//! fails, what was frozen is put back for all that have not become one; and nothing is pruned while anything is frozen.

use super::mirror::Mirror;
use super::set::SetTarget;
use super::source::{FileSource, NbdSource, Server, Source};
use super::target::{Base, Target};
use super::{Job, Outcome, Work};
use crate::cli::BackupHow;
use crate::exit::{Failure, Result};
use crate::hooks::{self, Ran};
use crate::map::open;
use crate::sets;
use crate::terminal::output::Output;
use crate::terminal::pass::Rate;
use dirtymap::format::CheckpointState;
use dirtymap::{BackupClaim, info::Info};
use dirtymap_cli::set_json::Hooks;
use dirtymap_cli::shown::shown;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What is to be backed up, where to, and how.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What it is called among others that are backed up at once.
    pub disk: Option<String>,
    /// What all of them have in common.
    pub group: Option<String>,
    /// A file; or the URI of an export, with the control socket of its server, which knows the map.
    pub image: PathBuf,
    pub map: PathBuf,
    pub control: Option<PathBuf>,
    /// The one of these, or the other.
    pub target: Option<PathBuf>,
    pub set: Option<PathBuf>,
    pub how: BackupHow,
}

impl Wanted {
    /// What to look at first where the map does not know the target: that of an export is told by the control socket alone.
    pub fn same_server(&self) -> String {
        self.control.as_ref().map_or_else(String::new, |control| {
            let (control, export) = (control.display(), shown(&self.image));
            format!("is {control} the control socket of the server of {export}? if not, give that one (--control); if it is, ")
        })
    }
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
    // All of them together.
    let rate = wanted.first().and_then(|wanted| wanted.how.rate).map(Rate::new);
    // All sources first: where one is refused, no target is made.
    let sources = sources(wanted, wait, output)?;
    let _claims = claims(wanted, &sources, wait)?;
    let done = wanted.iter().zip(sources).try_for_each(|(wanted, source)| {
        running.push(Running::open(wanted, source, wait, output, rate.clone()).map_err(|e| of_disk(wanted, e))?);
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

/// Opens what is backed up: images, or exports of one server.
fn sources<'a>(wanted: &'a [Wanted], wait: Duration, output: Output) -> Result<Vec<Box<dyn Source + 'a>>> {
    let server = Server::of(wanted, wait, output).map(Rc::new);
    let open = |wanted: &'a Wanted| -> Result<Box<dyn Source + 'a>> {
        Ok(match &server {
            Some(server) => Box::new(NbdSource::open(wanted, Rc::clone(server), wait, output)?),
            None => Box::new(FileSource::open(wanted)?),
        })
    };
    wanted.iter().map(|wanted| open(wanted).map_err(|e| of_disk(wanted, e))).collect()
}

/// Claims the maps before any is opened: who has one open for writing keeps a server from freezing it. In one order, so that of two
/// backups that want the same maps one gets them all.
fn claims(wanted: &[Wanted], sources: &[Box<dyn Source + '_>], wait: Duration) -> Result<Vec<BackupClaim>> {
    let deadline = Instant::now() + wait;
    let file = |map: &Path| map.metadata().map(|m| (m.dev(), m.ino())).ok();
    let mut maps: Vec<_> = wanted.iter().zip(sources).map(|(wanted, source)| (source.map(), wanted)).collect();
    maps.sort_by_key(|(map, _)| file(map));
    // What has one map twice is refused for that.
    maps.dedup_by_key(|(map, _)| file(map));
    let claim = |(map, wanted)| {
        let claimed =
            open::patiently(deadline.saturating_duration_since(Instant::now()), || Ok(BackupClaim::take(map)));
        claimed.map_err(|e| of_disk(wanted, e))
    };
    maps.into_iter().map(claim).collect()
}

/// Freezes all, copies all, and then commits all. Who fails gives up the others.
fn together(running: &mut [Running<'_>]) -> Result<()> {
    let done = each(running, |one| one.start()).and_then(|()| freeze(running));
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
    let done = done.map_err(|failure| give_up(running, failure));
    // A merge takes as long as it takes: nothing is frozen any more.
    running.iter_mut().for_each(Running::tidy);
    done
}

/// Freezes all, between the hooks, if there is anything to freeze.
fn freeze(running: &mut [Running<'_>]) -> Result<()> {
    let Some(first) = running.iter().find(|one| one.base.is_some()) else { return Ok(()) };
    let (args, output) = (first.job.args, first.job.output);
    let Ran { result, after, record } = hooks::around(&args.how.hooks, || freeze_together(running));
    let any = record.pre.is_some() || record.post.is_some();
    running.iter_mut().for_each(|one| one.hooks = any.then_some(record));
    match (result, after) {
        (Ok(()), Ok(())) => Ok(()),
        (Ok(()), Err(late)) => {
            // Now, and not when everything is copied.
            output.note(format_args!("{late}; everything is frozen, and the backup goes on"));
            Ok(())
        }
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(also)) => Err(failure.and(also)),
    }
}

/// Freezes all. A server freezes its disks at once, when all of them have been let go of.
fn freeze_together(running: &mut [Running<'_>]) -> Result<()> {
    let mut again = false;
    loop {
        each(running, |one| one.let_go())?;
        let failure = match each(running, |one| one.freeze()) {
            Err(failure) if failure.kind == "snapshot-exists" => failure,
            done => return done,
        };
        let mut ended = false;
        each(running, |one| {
            ended |= one.job.source.make_way(&mut one.job.map)?;
            Ok(())
        })?;
        if again && !ended {
            return Err(failure);
        }
        again = true;
    }
}

/// Does one step for all.
fn each(running: &mut [Running<'_>], mut step: impl FnMut(&mut Running<'_>) -> Result<()>) -> Result<()> {
    running.iter_mut().try_for_each(|one| step(one).map_err(|e| of_disk(one.job.args, e)))
}

/// This backup, or another one that was to be made with it, has failed: says what becomes of each, and what holds for several once.
fn give_up(running: &mut [Running<'_>], failure: Failure) -> Failure {
    let mut said: Vec<(String, Vec<String>)> = Vec::new();
    for one in running {
        let Some(what) = one.give_up(&failure) else { continue };
        let disk = one.job.args.disk.iter().map(|disk| format!("{disk:?}"));
        match said.iter_mut().find(|(before, _)| *before == what) {
            Some((_, disks)) => disks.extend(disk),
            None => said.push((what, disk.collect())),
        }
    }
    said.into_iter().fold(failure, |failure, (what, disks)| match &disks[..] {
        [] => failure.and(what),
        [disk] => failure.and(format_args!("disk {disk}: {what}")),
        disks => failure.and(format_args!("disks {}: {what}", disks.join(", "))),
    })
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
    hooks: Option<Hooks>,
    committed: bool,
}

impl<'a> Running<'a> {
    fn open(
        args: &'a Wanted,
        mut source: Box<dyn Source + 'a>,
        wait: Duration,
        output: Output,
        rate: Option<Rate>,
    ) -> Result<Running<'a>> {
        let target: Box<dyn Target + 'a> = match (&args.target, &args.set) {
            (Some(path), _) => Box::new(Mirror::open(args, path, &*source)?),
            (None, Some(folder)) => {
                if let Some(folder) = folder.parent().filter(|_| args.disk.is_some()) {
                    sets::make_folder(folder)?;
                }
                Box::new(SetTarget::open(args, folder, &*source, wait)?)
            }
            (None, None) => return Err(Failure::usage("give a TARGET, or a folder for a set (--set DIR)")),
        };
        let size = source.size();
        let map = source.open_map(wait, output, &|info: &Info| target.acceptable(info, size))?;
        let job = Job { args, source, map, output, rate };
        Ok(Running { job, target, base: None, work: None, outcome: None, hooks: None, committed: false })
    }

    /// Settles, and looks at what is there; that may be all that there is to do.
    fn start(&mut self) -> Result<()> {
        let (job, target) = (&self.job, &mut *self.target);
        if let Some(outcome) = target.settle(job)? {
            (self.outcome, self.committed) = (Some(outcome), true);
            return Ok(());
        }
        job.prepare(target)?;
        let info = job.map.info()?;
        job.source.prepare(job.output)?;
        self.base = Some((target.prepare(job, &info)?, info));
        Ok(())
    }

    fn let_go(&mut self) -> Result<()> {
        let Some((base, _)) = &self.base else { return Ok(()) };
        let wish = self.job.wish(&*self.target, base);
        self.job.source.let_go(&mut self.job.map, &wish)
    }

    fn freeze(&mut self) -> Result<()> {
        let Some((base, _)) = &self.base else { return Ok(()) };
        let work = self.job.freeze(&*self.target, base)?;
        self.work = self.base.take().map(|(_, info)| (work, info));
        Ok(())
    }

    /// Proves, copies, verifies and audits.
    fn copy(&mut self) -> Result<()> {
        let Some((work, info)) = &self.work else { return Ok(()) };
        let compared = self.job.prove(&mut *self.target, work, info)?;
        let mut outcome = self.job.copy(work, &mut *self.target, info)?;
        (outcome.bytes_compared, outcome.hooks) = (compared, self.hooks);
        self.outcome = Some(outcome);
        Ok(())
    }

    /// Makes it a backup, and has the map forget what was frozen.
    fn commit(&mut self) -> Result<()> {
        let (Some((work, info)), Some(outcome)) = (&self.work, &mut self.outcome) else { return Ok(()) };
        self.job.commit(work, &mut *self.target, info, outcome)?;
        self.committed = true;
        Ok(())
    }

    /// Drops what is kept no longer, if this has become a backup.
    fn tidy(&mut self) {
        if let (true, Some(_), Some(outcome)) = (self.committed, &self.work, &mut self.outcome) {
            self.target.committed(&self.job, outcome);
        }
    }

    /// Puts back what was frozen, if this is no backup yet. What the user is to know of it.
    fn give_up(&mut self, failure: &Failure) -> Option<String> {
        let Job { args, source, map, .. } = &self.job;
        if self.committed {
            return Some("the backup is complete".into());
        }
        if self.target.is_published() {
            return Some(self.untold(failure));
        }
        if source.is_unanswered() {
            // Whatever the server does yet: by what the target has begun, the next backup knows what to do about it.
            return None;
        }
        let Some((Work { checkpoint, .. }, _)) = &self.work else {
            self.target.abandon();
            return None;
        };
        if args.how.frozen {
            self.target.abandon();
            let uuid = checkpoint.uuid;
            return Some(format!("checkpoint {uuid} stays frozen, for another try or `checkpoint abort`"));
        }
        // First: by what the target has begun, the next backup knows what to put back.
        Some(match source.abort(map, checkpoint) {
            Ok(()) => match self.target.abandon() {
                false => "no bit was reset, so the next backup copies all that this one should have".into(),
                true => "no bit was reset, and the next backup goes on with what this one has written".into(),
            },
            Err(e) if e.kind == "checkpoint-gone" => e.message,
            Err(e) => format!("what was frozen could not be put back ({e}), which the next does"),
        })
    }

    /// It is a backup, and its map was not told: whether the next one can do that.
    fn untold(&self, failure: &Failure) -> String {
        let found = self.job.map.checkpoint();
        let (is_snapshot, is_left) = match (&self.work, &found) {
            (Some((Work { checkpoint, .. }, _)), Ok(Some(found))) if found.uuid == checkpoint.uuid => {
                (checkpoint.snapshot, found.state == CheckpointState::Frozen)
            }
            _ => (false, false),
        };
        let whole = "the backup is whole all the same";
        let in_vain = ["snapshot-broken", "no-snapshot"].contains(&&*failure.kind);
        match found {
            _ if is_left && !in_vain && is_snapshot => {
                format!(
                    "{whole}; the next one tells the map of it if the snapshot is still there then, and is full if not"
                )
            }
            _ if is_left && !in_vain => format!("{whole}; the next one tells the map of it"),
            Ok(None) if self.job.source.is_unanswered() => whole.into(),
            Ok(found) if in_vain || found.is_none() => {
                format!("{whole}, but its map cannot be told of it any more: the next one is full")
            }
            // Who knows.
            _ => whole.into(),
        }
    }

    /// Closes the map. `failed`: why the backup is none.
    fn close(self, failed: Option<&Failure>) -> Result<Option<Outcome>> {
        let Job { source, map, output, .. } = self.job;
        let Some(outcome) = self.outcome.filter(|_| failed.is_none()) else {
            // Best effort: the next open recovers.
            let _ = source.close(map, None);
            return Ok(None);
        };
        open::cost(&map, output);
        source.close(map, Some(outcome.image_changed))?;
        Ok(Some(outcome))
    }
}
