//! What is asked for: a snapshot and what it is for, or which one to end, of which disks, and as what.
//!
//! Invariant kept here: a commit is called ours only if the map says what was asked for.

use super::format::MAX_NAME;
use super::shot::SnapshotStatus;
use crate::exit::{Failure, Result};
use dirtymap::{DirtyMap, ImageStamp, Uuid, info::Info};
use std::ops::Range;

/// What is asked for.
#[derive(Debug)]
pub struct Wish<'a> {
    pub name: &'a str,
    /// Everything is copied, not only what is dirty.
    pub whole: bool,
    pub app: bool,
    /// The backups that it is made for: none, or one of each disk, in the order of the server's.
    pub backups: &'a [Intent<'a>],
}

/// The backup of a disk that a snapshot is made for.
#[derive(Clone, Copy, Debug)]
pub struct Intent<'a> {
    /// What the disk's checkpoint is called.
    pub name: &'a str,
    /// As of a wish.
    pub whole: bool,
    /// Its target, for the checkpoint to name it.
    pub target: Option<ImageStamp>,
}

impl<'a> Wish<'a> {
    /// What is asked for of a disk.
    pub(super) fn of(&self, place: usize) -> Intent<'a> {
        let plain = Intent { name: self.name, whole: self.whole, target: None };
        self.backups.get(place).copied().unwrap_or(plain)
    }
}

/// A backup of a snapshot of one disk, as its map records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    pub target: ImageStamp,
    /// Clean granules that were compared in disk and target, and were equal.
    pub audited: u64,
}

/// What a commit is to do: keep the name in the maps, and record a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub keep: bool,
    pub backup: Option<Backup>,
}

/// Which snapshot is meant: of all that is given both must be right.
#[derive(Clone, Copy, Debug, Default)]
pub struct Which<'a> {
    pub name: Option<&'a str>,
    pub id: Option<&'a str>,
    /// Which of its disks; all that are left without it.
    pub place: Option<usize>,
}

impl Which<'_> {
    pub(super) fn is(&self, name: &str, id: &str) -> bool {
        self.name.is_none_or(|wanted| wanted == name) && self.id.is_none_or(|wanted| wanted == id)
    }

    /// The disks that are meant, of so many.
    pub(super) fn places(&self, disks: usize) -> Range<usize> {
        self.place.map_or(0..disks, |place| place..place + 1)
    }
}

/// A snapshot of which disks were committed, and how each was.
pub(super) struct Committed {
    pub status: SnapshotStatus,
    pub how: Vec<Option<Asked>>,
}

impl Committed {
    /// The answer to who asks again for the commit of these disks; `None` if one of them was not committed.
    pub fn again(&self, places: Range<usize>, asked: &Asked) -> Option<Result<SnapshotStatus>> {
        let how = self.how.get(places)?.iter().map(Option::as_ref).collect::<Option<Vec<_>>>()?;
        if how.iter().all(|how| *how == asked) {
            return Some(Ok(self.status.clone()));
        }
        let message = format!(
            "snapshot {} was committed, but not as it is asked for now: another backup, or name, or disk",
            self.status.id
        );
        Some(Err(Failure::new("no-snapshot", message)))
    }
}

/// Whether a checkpoint is the last one that was committed, and as it was to be: with its name kept, and by the backup to a target.
/// Any program may commit it otherwise.
pub fn is_committed_as(info: &Info, uuid: Uuid, name: Option<&str>, keep: bool, target: Option<&ImageStamp>) -> bool {
    let committed = info.committed.as_ref().is_some_and(|committed| committed.uuid == uuid);
    let kept = !keep || info.points.last().is_some_and(|point| Some(&*point.name) == name);
    committed && kept && target.is_none_or(|target| info.target == Some(*target))
}

/// Refuses a checkpoint that is gone, if it was not our commit with what was asked for that has ended it. `tried`: there was one.
pub(super) fn is_ours(map: &DirtyMap, uuid: Uuid, name: &str, asked: &Asked, tried: bool) -> Result<()> {
    let info = map.info()?;
    let target = asked.backup.map(|backup| backup.target);
    if tried && is_committed_as(&info, uuid, Some(name), asked.keep, target.as_ref()) {
        return Ok(());
    }
    let how = match info.committed.is_some_and(|committed| committed.uuid == uuid) {
        true => "committed, and what it had frozen is clean now",
        false => "ended",
    };
    let message = format!("{}: the snapshot's checkpoint {uuid} was {how}: by another program", map.path().display());
    Err(Failure::new("no-checkpoint", message))
}

pub(super) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains(['@', '/']) || name.chars().any(char::is_control) {
        let message = format!("{name:?} is no name for a snapshot: 1 to {MAX_NAME} bytes without '@' and '/'");
        return Err(Failure::new("bad-name", message));
    }
    Ok(())
}
