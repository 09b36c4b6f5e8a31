//! A snapshot: one moment of all disks of a server.

use super::format::Header;
use super::frozen::{Frozen, Progress};
use crate::terminal::output::Output;
use crate::time::time;
use dirtymap::checkpoint::CheckpointState;
use dirtymap::{DirtyMap, Uuid};
use serde::{Deserialize, Serialize};
use std::io;
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
    /// In the order of the server's.
    pub disks: Vec<Frozen>,
    /// It is frozen and may be read.
    pub served: AtomicBool,
    /// This server has begun to commit it, or to put it back.
    pub ending: AtomicBool,
    /// Nothing is copied any more.
    pub ended: AtomicBool,
    /// A commit has begun that can only go forward; with whether the name is kept.
    pub committing: OnceLock<bool>,
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
    /// Of one of which only a header is left.
    pub fn of_header(header: &Header, disks: usize) -> SnapshotStatus {
        let Header { name, id, created, app, whole, .. } = header;
        SnapshotStatus { disks: vec![Progress::default(); disks], ..Self::of(name, *id, *created, *app, *whole) }
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
    pub fn is_served(&self) -> bool {
        self.served.load(SeqCst) && !self.ended.load(SeqCst)
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
        if !self.ending.load(SeqCst) {
            frozen.break_off("another program has ended its checkpoint".into(), map)?;
        }
        Err(io::Error::other("the snapshot's checkpoint is not outstanding any more"))
    }

    /// Says what becomes of it.
    pub fn say(&self, log: Option<Output>, what: impl std::fmt::Display) {
        if let Some(log) = log {
            log.note(format_args!("snapshot {:?}, {}: {what}", self.name, self.id));
        }
    }

    pub fn why_broken(&self) -> Option<String> {
        self.disks.iter().find_map(Frozen::why_broken)
    }

    pub fn status(&self) -> SnapshotStatus {
        SnapshotStatus {
            broken: self.why_broken(),
            disks: self.disks.iter().map(Frozen::progress).collect(),
            ..SnapshotStatus::of(&self.name, self.id, self.created, self.app, self.whole)
        }
    }
}
