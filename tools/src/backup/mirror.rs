//! A target that is a copy of the image: a file or a block device that is brought up to date.
//!
//! Invariants kept here: nothing is written to a target before it is proved to be what the plan takes it for: by its stamp, or by
//! comparing all that will not be copied; and the one that a backup has begun is recorded beside the last completed one.

use super::compare::Equal;
use super::copy::{self, Copied};
use super::plan::{Plan, plan};
use super::source::Source;
use super::target::{Base, Described, Target};
use super::{Job, Outcome, UNNAMED, Wanted, Work};
use crate::exit::{Failure, Result};
use crate::files::{Content, Image, durable};
use crate::map::points::keep_last;
use crate::sets;
use crate::terminal::pass::Pass;
use dirtymap::{DirtyMap, ImageStamp, info::Info};
use dirtymap_cli::set_json;
use std::ffi::OsStr;
use std::ops::Range;
use std::path::Path;

/// A mirror.
pub struct Mirror<'a> {
    args: &'a Wanted,
    path: &'a Path,
    /// None until it is made.
    target: Option<Image>,
    plan: Plan,
}

impl<'a> Mirror<'a> {
    /// What is at the target's name.
    pub fn open(args: &'a Wanted, path: &'a Path, source: &dyn Source) -> Result<Mirror<'a>> {
        source.apart(path, None)?;
        outside_of_sets(path)?;
        let target = Image::open_target(path)?;
        if let Some(target) = &target {
            source.apart(path, Some(target))?;
            no_container(args, source, target)?;
        }
        Ok(Mirror { args, path, target, plan: Plan::New })
    }

    fn target(&self) -> Result<&Image> {
        self.target.as_ref().ok_or_else(|| Failure::new("not-found", format!("{}: not found", self.path.display())))
    }

    /// What the backup cannot promise because the system does not tell.
    fn say_what_is_not_known(&self, job: &Job<'_>) {
        if let Some(target) = &self.target
            && let Some(names) = target.names().filter(|names| *names > 1)
        {
            let path = target.path.display();
            job.output.note(format_args!("{path} has {names} names (hard links): this backup changes all of them"));
        }
    }

    /// Drops the oldest names beyond those that are to be kept.
    fn drop_oldest(&self, job: &Job<'_>) -> Vec<String> {
        let dropped = self.args.how.keep_last.map(|most| keep_last(&job.map, most));
        dropped.unwrap_or_else(|| Ok(Vec::new())).unwrap_or_else(|e| {
            job.output.note(format_args!("{e}; the oldest names may still be there"));
            Vec::new()
        })
    }
}

/// Refuses a file of a backup set: a mirror would overwrite what the set keeps, and what rests upon it.
fn outside_of_sets(path: &Path) -> Result<()> {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let Some(name) = real.file_name().and_then(OsStr::to_str) else { return Ok(()) };
    let unfinished = name.strip_suffix(".merged").or_else(|| name.strip_suffix(".part"));
    let member = set_json::number(unfinished.unwrap_or(name)).is_some() || name == sets::FILE;
    if !member || real.with_file_name(sets::FILE).symlink_metadata().is_err() {
        return Ok(());
    }
    let message = format!(
        "{} belongs to a backup set, whose members are never overwritten; give another target, or make the next member \
         (--set DIR)",
        path.display()
    );
    Err(Failure::new("wrong-target", message))
}

/// Refuses a file that cannot be the copy of an image: that has the image's length, and as it starts.
fn no_container(args: &Wanted, source: &dyn Source, target: &Image) -> Result<()> {
    let copy = target.stamp.is_block_device() || target.size() == source.size();
    let format = target.container().filter(|_| !copy && !args.how.force && source.container().is_none());
    let Some(format) = format else { return Ok(()) };
    let message = format!(
        "{}: is {format}, by its first bytes, perhaps a member of a backup set, and no copy of {}; give another \
         target, or overwrite it with a full copy (--force)",
        target.path.display(),
        source.name()
    );
    Err(Failure::new("wrong-target", message))
}

impl Target for Mirror<'_> {
    fn acceptable(&self, info: &Info, size: u64) -> Result<()> {
        plan(self.args, self.path, info, self.target.as_ref(), size).map(drop)
    }

    fn settle(&mut self, _: &Job<'_>) -> Result<Option<Outcome>> {
        Ok(None)
    }

    fn point(&self) -> &str {
        self.args.how.name.as_deref().unwrap_or(UNNAMED)
    }

    fn stamp(&self) -> Option<ImageStamp> {
        self.target.as_ref().map(|target| target.stamp)
    }

    fn prepare(&mut self, job: &Job<'_>, info: &Info) -> Result<Base> {
        // Again, now that nobody else makes a backup by this map.
        self.target = match self.target.take() {
            Some(target) => Some(target.refreshed()?),
            None => Image::open_target(self.path)?,
        };
        self.plan = plan(self.args, self.path, info, self.target.as_ref(), job.map.len())?;
        self.say_what_is_not_known(job);
        // A name that cannot be had costs nothing.
        let target = self.target.take().map_or_else(|| Image::create(self.path, job.source.like()), Ok)?;
        if !self.plan.is_full() && target.size() < job.map.len() {
            // The image has grown since. What the target lacks is copied, whatever it holds.
            job.map.set(target.size()..job.map.len())?;
            job.map.flush()?;
        }
        self.target = Some(target);
        Ok(match (&self.args.how.since, self.plan.is_full()) {
            (_, true) => Base::Everything,
            (None, false) => Base::Last,
            (Some(since), false) => Base::Since(since.clone()),
        })
    }

    fn reads_all(&self, _: &DirtyMap) -> bool {
        matches!(self.plan, Plan::Incremental { compare: true, .. })
    }

    fn prove(&mut self, job: &Job<'_>, work: &Work, info: &Info) -> Result<u64> {
        let Plan::Incremental { compare: true, stranger } = self.plan else { return Ok(0) };
        let target = self.target()?;
        let name = target.path.display();
        let others = || work.others(target.size().min(work.len));
        let bytes = others().map(|area| area.end - area.start).sum();
        if stranger && bytes == 0 && work.len > 0 && !self.args.how.force && !target.is_blank() {
            let message = format!(
                "{name} is not the recorded backup, and as everything is to be copied, nothing of it can be compared; \
                 overwrite it with --force"
            );
            return Err(Failure::new("wrong-target", message));
        }
        let pass = job.pass("comparing", bytes);
        let pair = job.pair(target, info);
        let found = others().find_map(|area| pair.differs(area, &pass, &mut Equal::default()).transpose());
        drop(pass);
        let Some(offset) = found.transpose()? else { return Ok(bytes) };
        let why = match &self.args.how.since {
            Some(since) => format!("{since:?}: {name} was not complete then, or something else has changed it"),
            None => format!(
                "the last backup: something else has changed {name}, or the image without telling the map, or a checkpoint was \
                 committed that had been copied elsewhere"
            ),
        };
        let message = format!(
            "{name} differs from the image at {offset}, which by the map was not written since {why}; {name} was not \
             touched; copy everything ({})",
            if self.args.how.since.is_some() { "without --since, to a new name or with --force" } else { "--full" }
        );
        Err(Failure::new("target-changed", message))
    }

    fn begin(&mut self, job: &Job<'_>, work: &Work) -> Result<()> {
        let target = self.target()?;
        let now = target.glance()?;
        if !self.plan.is_full() && !now.equals(&target.stamp) {
            // Waiting for a lock, a server or a hook takes time.
            let message = format!(
                "{}: another program has written to it since this backup has looked at it; it was not touched; start the \
                 backup again",
                target.path.display()
            );
            return Err(Failure::new("target-changed", message));
        }
        // Before its size changes as well, or the next backup takes it for something else.
        job.map.begin_backup(&now)?;
        if !target.stamp.is_block_device() && (self.plan.is_full() || target.size() != work.len) {
            target.file.set_len(work.len).map_err(|e| target.failed("set its size", &e))?;
            target.sync()?;
            durable::name_of(self.path)?;
        }
        Ok(())
    }

    fn copy(
        &mut self,
        job: &Job<'_>,
        len: u64,
        areas: &mut dyn Iterator<Item = Range<u64>>,
        pass: &Pass,
    ) -> Result<Copied> {
        copy::copy(job.source.content(), self.target()?, (len, areas), self.plan == Plan::New, pass)
    }

    fn complete(&mut self) -> Result<()> {
        let target = self.target()?;
        target.sync()?;
        target.forget_cache();
        Ok(())
    }

    fn content(&self) -> Result<&dyn Content> {
        self.target().map(|target| target as &dyn Content)
    }

    fn to_audit(&self) -> bool {
        // Where all clean granules were compared before, some of them need not be again.
        matches!(self.plan, Plan::Incremental { compare: false, .. })
    }

    fn publish(&mut self, _: &Job<'_>, _: &Work, _: &mut Outcome) -> Result<ImageStamp> {
        self.target()?.stamp_now()
    }

    fn is_published(&self) -> bool {
        false
    }

    fn committed(&mut self, job: &Job<'_>, outcome: &mut Outcome) {
        outcome.dropped = self.drop_oldest(job);
    }

    fn abandon(&mut self) -> bool {
        false
    }

    fn describe(&self) -> Described {
        let (target, new) = (self.path.display().to_string(), self.plan == Plan::New);
        Described { target, why_full: self.plan.why_full(self.args).map(Into::into), new }
    }
}
