//! A snapshot: one moment of all disks of a server.

use super::format::Header;
use super::frozen::{Frozen, Progress};
use super::syncs::Syncs;
use crate::exit::{Failure, Result};
use crate::terminal::output::Output;
use crate::time::time;
use dirtymap::checkpoint::CheckpointState;
use dirtymap::{DirtyMap, Uuid};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, UNIX_EPOCH};

/// One moment of all disks of a server.
pub struct Snapshot {
    pub id: Uuid,
    pub name: String,
    /// Everything can be read, not only what was dirty.
    pub whole: bool,
    /// Programs in the guest were ready for it, as its caller says.
    pub app: bool,
    /// Seconds since 1970.
    pub created: i64,
    /// Each disk is ended by itself, and not all of them at once: it is of a backup of several.
    pub each: bool,
    /// In the order of the server's.
    pub disks: Vec<Frozen>,
    /// It is frozen and may be read.
    pub served: AtomicBool,
    /// A commit has begun that can only go forward; with whether the name is kept.
    pub committing: OnceLock<bool>,
}

/// A disk of the server.
pub struct Source<'a> {
    pub map: &'a DirtyMap,
    pub image: &'a File,
    pub syncs: &'a Syncs,
}

/// What is said of a snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    pub name: String,
    pub id: String,
    /// RFC 3339.
    pub created: Option<String>,
    /// `crash` or `app`.
    pub consistency: String,
    pub whole: bool,
    /// Why nothing can be read any more.
    pub broken: Option<String>,
    /// In the order of the server's disks.
    pub disks: Vec<Progress>,
}

/// The snapshots that are there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotList {
    pub snapshots: Vec<SnapshotStatus>,
}

impl SnapshotStatus {
    /// Of one that was committed, and of which only a header is left.
    pub fn of_header(header: &Header, disks: usize) -> SnapshotStatus {
        let Header { name, id, created, app, whole, .. } = header;
        let committed = Progress { committed: true, ..Progress::default() };
        SnapshotStatus { disks: vec![committed; disks], ..Self::of(name, *id, *created, *app, *whole) }
    }

    /// Of no disks.
    fn of(name: &str, id: Uuid, created: i64, app: bool, whole: bool) -> SnapshotStatus {
        SnapshotStatus {
            name: name.into(),
            id: id.to_string(),
            created: time(UNIX_EPOCH + Duration::from_secs(created.max(0) as u64)),
            consistency: if app { "app" } else { "crash" }.into(),
            whole,
            broken: None,
            disks: Vec::new(),
        }
    }
}

impl Snapshot {
    /// Of these disks, of which there is one at least. `served`: it is frozen.
    pub fn new(disks: Vec<Frozen>, served: bool) -> Option<Snapshot> {
        let Header { id, name, app, created, each, .. } = disks.first()?.scratch.header();
        let whole = disks.iter().all(|frozen| frozen.whole);
        Some(Snapshot {
            id,
            name,
            whole,
            app,
            created,
            each,
            disks,
            served: served.into(),
            committing: OnceLock::new(),
        })
    }

    /// All of its disks, those that have ended as well.
    pub fn all(&self) -> Range<usize> {
        0..self.disks.len()
    }

    /// Those of these disks that have not ended, with what the server has of them.
    pub fn left<'a>(
        &'a self,
        disks: &'a [Source<'a>],
        places: &Range<usize>,
    ) -> impl Iterator<Item = (usize, &'a Source<'a>, &'a Frozen)> {
        let of_place = disks.iter().zip(&self.disks).enumerate().skip(places.start).take(places.len());
        of_place.filter(|(_, (_, frozen))| !frozen.is_ended()).map(|(place, (disk, frozen))| (place, disk, frozen))
    }

    /// Whether no disk is left in it.
    pub fn is_over(&self) -> bool {
        self.disks.iter().all(Frozen::is_ended)
    }

    pub fn is_served(&self) -> bool {
        self.served.load(SeqCst) && !self.is_over()
    }

    /// Refuses to end one disk of those that end together, and to end those together that end one by one.
    pub fn ends_by(&self, place: Option<usize>) -> Result<()> {
        let message = match place {
            _ if self.disks.len() < 2 || self.each == place.is_some() => return Ok(()),
            Some(_) => "is of all disks of the server together: no backup of one can stand for the others",
            None => {
                "is of a backup of several disks, which commits each when that is complete: leave it to the backup, or abort it"
            }
        };
        Err(Failure::new("several-disks", format!("snapshot {:?} {message}", self.name)))
    }

    /// An error unless a disk's checkpoint is outstanding still. If another program has ended it, others may write the image, and
    /// nobody copies for them: then nothing may be read any more, but for what was read before.
    pub fn is_there(&self, place: usize, map: &DirtyMap) -> io::Result<()> {
        let frozen = &self.disks[place];
        let newest = map.sequence();
        if newest.is_some_and(|newest| frozen.was_there_at(newest)) {
            return Ok(());
        }
        let outstanding = map.checkpoint()?.filter(|found| found.state == CheckpointState::Frozen);
        if frozen.checkpoint().is_some_and(|ours| outstanding.is_some_and(|found| found.uuid == ours)) {
            // Unless a commit came in between, of which the header may not have been read.
            if let Some(newest) = newest.filter(|newest| map.sequence() == Some(*newest)) {
                frozen.is_there_at(newest);
            }
            return Ok(());
        }
        if !frozen.is_ending() {
            frozen.break_off("another program has ended its checkpoint".into(), map)?;
        }
        Err(io::Error::other("the snapshot's checkpoint is not outstanding any more"))
    }

    /// What is said of these disks, if they are not all of it.
    pub fn part(&self, disks: &[(usize, &Source<'_>, &Frozen)]) -> String {
        if disks.len() == self.disks.len() {
            return String::new();
        }
        let maps: Vec<_> = disks.iter().map(|(_, disk, _)| disk.map.path().display().to_string()).collect();
        format!(" for {} alone", maps.join(" and "))
    }

    /// Says what becomes of it.
    pub fn say(&self, log: Option<Output>, what: impl std::fmt::Display) {
        if let Some(log) = log {
            log.note(format_args!("snapshot {:?}, {}: {what}", self.name, self.id));
        }
    }

    pub fn why_broken(&self) -> Option<String> {
        self.disks.iter().filter(|frozen| !frozen.is_ended()).find_map(Frozen::why_broken)
    }

    pub fn status(&self) -> SnapshotStatus {
        SnapshotStatus {
            broken: self.why_broken(),
            disks: self.disks.iter().map(Frozen::progress).collect(),
            ..SnapshotStatus::of(&self.name, self.id, self.created, self.app, self.whole)
        }
    }
}
