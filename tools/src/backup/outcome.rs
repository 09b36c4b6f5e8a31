//! What a backup did, for people and programs.

use super::Job;
use super::target::Described;
use crate::size;
use crate::terminal::text::say;
use dirtymap_cli::set_json::{Consistency, HookEnd, Hooks};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::io;

/// The JSON of `backup`; docs/cli.md describes it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What the disk is called among those that were backed up at once.
    pub disk: Option<String>,
    pub image: String,
    pub target: String,
    pub map: String,
    pub size: u64,
    pub full: bool,
    /// Why it is.
    pub why_full: Option<String>,
    pub new_target: bool,
    /// The work list was a checkpoint that was frozen before.
    pub frozen: bool,
    /// Dirty areas copied.
    pub areas: u64,
    /// Bytes of data copied.
    pub bytes_copied: u64,
    /// Bytes that are holes in the image, and zeros in the target now.
    pub bytes_holes: u64,
    /// Bytes that were clean, and so not copied.
    pub bytes_skipped: u64,
    /// Bytes of what was copied that were read from both and are equal.
    pub bytes_verified: u64,
    /// Bytes of what was copied that both file systems call holes.
    pub bytes_verified_holes: u64,
    /// Bytes that were not copied, and were compared before anything was overwritten.
    pub bytes_compared: u64,
    /// Granules that were not copied, and were compared by the audit.
    pub granules_audited: u64,
    /// Of the dirty bytes, those that recovery may have added when this backup opened the map.
    pub bytes_recovered: u64,
    /// How long copying took, without waiting for the disk, doing that, and reading back.
    pub copy_milliseconds: u64,
    pub sync_milliseconds: u64,
    pub verify_milliseconds: u64,
    /// Whether the image was changed while it was copied.
    pub image_changed: bool,
    /// Whether nothing wrote to the image while it was copied; `None` where the system does not tell.
    pub one_moment: Option<bool>,
    /// Names that were dropped, the oldest first.
    pub dropped: Vec<String>,
    /// The commands that were run around the freeze.
    pub hooks: Option<Hooks>,
    /// The member of a set that it made.
    pub member: Option<MemberOutcome>,
}

/// What a backup to a set says beside.
#[derive(Clone, Debug, Serialize)]
pub struct MemberOutcome {
    pub set: String,
    pub number: String,
    pub name: Option<String>,
    /// Why it rests upon no other one.
    pub why_full: Option<String>,
    pub consistency: Consistency,
    /// What it has in common with the members that were made with it, of other disks.
    pub group: Option<String>,
    /// Length of its file.
    pub bytes: u64,
    /// Bytes that were dirty, and are not in it because the one below has the same.
    pub bytes_equal: u64,
    /// Bytes that a backup that was stopped had written already, and that were found to be right.
    pub bytes_kept: u64,
    /// There was one.
    #[serde(skip)]
    pub goes_on: bool,
    /// It had been complete before, and this run only told the map.
    pub settled: bool,
    /// Numbers of the members that were pruned, the oldest first.
    pub pruned: Vec<String>,
}

impl Outcome {
    /// A backup that has done nothing yet. `bytes`: what it will copy.
    pub(super) fn new(job: &Job<'_>, size: u64, bytes: u64, described: Described) -> Outcome {
        let Described { target, why_full, new } = described;
        let args = job.args;
        let why_full = why_full.or_else(|| (bytes == size && size > 0).then(|| "everything is dirty".into()));
        Outcome {
            disk: args.disk.clone(),
            image: job.source.name(),
            target,
            map: job.map.path().display().to_string(),
            size,
            full: why_full.is_some(),
            why_full,
            new_target: new,
            frozen: args.how.frozen,
            areas: 0,
            bytes_copied: 0,
            bytes_holes: 0,
            bytes_skipped: size - bytes,
            bytes_verified: 0,
            bytes_verified_holes: 0,
            bytes_compared: 0,
            granules_audited: 0,
            bytes_recovered: 0,
            copy_milliseconds: 0,
            sync_milliseconds: 0,
            verify_milliseconds: 0,
            image_changed: false,
            one_moment: None,
            dropped: Vec::new(),
            hooks: None,
            member: None,
        }
    }

    /// Whether the backup is complete, and what was to go on behind the freeze may not have.
    pub fn hook_failed(&self) -> bool {
        self.hooks.and_then(|hooks| hooks.post).is_some_and(|post| post.ended != HookEnd::Done)
    }

    /// For people.
    pub fn human(out: &mut dyn io::Write, o: &Outcome) -> io::Result<()> {
        let kind = if o.full { "full" } else { "incremental" };
        let h = size::human;
        say!(out, "{kind} backup of {} to {} is complete and verified", shown(&o.image), shown(&o.target))?;
        if let Some(why) = &o.why_full {
            say!(out, "full because {}", shown(why))?;
        }
        let areas = size::count(o.areas, "area");
        say!(out, "copied   {:>12} bytes ({}) in {areas}", o.bytes_copied, h(o.bytes_copied))?;
        if o.bytes_holes > 0 {
            say!(out, "holes    {:>12} bytes ({}), zeros in both", o.bytes_holes, h(o.bytes_holes))?;
        }
        if let Some(member) = o.member.as_ref().filter(|member| member.bytes_equal > 0) {
            let equal = member.bytes_equal;
            say!(out, "equal    {equal:>12} bytes ({}), written and as before", h(equal))?;
        }
        if let Some(member) = o.member.as_ref().filter(|member| member.goes_on) {
            let kept = member.bytes_kept;
            say!(out, "kept     {kept:>12} bytes ({}), of a backup that was stopped, and equal", h(kept))?;
        }
        say!(out, "skipped  {:>12} bytes ({}), clean", o.bytes_skipped, h(o.bytes_skipped))?;
        say!(out, "verified {:>12} bytes ({}), read back and equal", o.bytes_verified, h(o.bytes_verified))?;
        if o.bytes_verified_holes > 0 {
            let holes = o.bytes_verified_holes;
            say!(out, "         {holes:>12} bytes ({}), holes of both, not read", h(holes))?;
        }
        if o.bytes_compared > 0 {
            say!(out, "compared {:>12} bytes ({}), not copied and equal", o.bytes_compared, h(o.bytes_compared))?;
        }
        if o.granules_audited > 0 {
            say!(out, "audited  {:>12} clean granules, equal in both", o.granules_audited)?;
        }
        if let Some(pruned) = o.member.as_ref().map(|member| &member.pruned).filter(|pruned| !pruned.is_empty()) {
            say!(out, "pruned   {}", pruned.join(", "))?;
        }
        o.dropped.iter().try_for_each(|name| say!(out, "dropped  {name:?}"))?;
        o.hooks.map_or(Ok(()), |hooks| say!(out, "hooks    {hooks}"))?;
        match o.one_moment {
            Some(true) => Ok(()),
            Some(false) => say!(
                out,
                "the image was written meanwhile: the backup is not of one moment, and the next one copies what was set"
            ),
            None => say!(out, "the backup is of one moment only if nothing wrote to the image meanwhile"),
        }
    }
}
