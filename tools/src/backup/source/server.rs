//! The server of a backup: what it has, and the one snapshot that it makes for all disks that are backed up at once.
//!
//! Invariants kept here: a snapshot is asked for once, when all disks have said what they want of it; and every disk of the server
//! is in the backup, as a snapshot is of all.

use crate::backup::{INTERRUPTED, Wanted};
use crate::cli::{BackupHow, Consistency};
use crate::control::{Client, DiskStatus, Intended, Request, Status};
use crate::exit::{Failure, Result};
use crate::snapshot::{SnapshotList, SnapshotStatus};
use crate::terminal::output::Output;
use crate::terminal::signals;
use dirtymap::Uuid;
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a server that is gone, or that others keep from a freeze, is asked again.
pub const LOOK: Duration = Duration::from_millis(50);
/// How long a server may take to give a snapshot up, before that is done without it.
const GIVE_UP: Duration = Duration::from_secs(10);

/// A server, by its control socket.
pub struct Server<'a> {
    pub control: &'a Path,
    how: &'a BackupHow,
    /// How many disks are backed up.
    disks: usize,
    wait: Duration,
    output: Output,
    /// Those of them that are known.
    exports: RefCell<Vec<String>>,
    /// What they want of the snapshot that is made next.
    intents: RefCell<Vec<Intended>>,
    /// The snapshot that was made.
    made: RefCell<Option<SnapshotStatus>>,
    /// It was asked for a snapshot, which it may make yet.
    pub unanswered: Cell<bool>,
    /// It has not answered when it was to give something up.
    silent: Cell<bool>,
}

impl<'a> Server<'a> {
    /// That of these backups, if they are of exports.
    pub fn of(wanted: &'a [Wanted], wait: Duration, output: Output) -> Option<Server<'a>> {
        let Wanted { control, how, .. } = wanted.first()?;
        let (exports, intents, made, unanswered, silent) = Default::default();
        let control = control.as_deref()?;
        Some(Server { control, how, disks: wanted.len(), wait, output, exports, intents, made, unanswered, silent })
    }

    pub fn client(&self) -> Result<Client> {
        Ok(Client::connect(self.control)?.telling(self.output))
    }

    /// The disk that an export is.
    pub fn disk(&self, export: &str) -> Result<DiskStatus> {
        let status: Status = self.client()?.within(Some(self.how.patience())).ask(&Request::Status {})?;
        let disk = self.disk_of(&status, export)?;
        if self.exports.borrow().contains(&disk.export) {
            return Err(Failure::usage(format!("the export {:?} is given twice", disk.export)));
        }
        self.exports.borrow_mut().push(disk.export.clone());
        Ok(disk)
    }

    fn disk_of(&self, status: &Status, export: &str) -> Result<DiskStatus> {
        let control = self.control.display();
        if let Some((disk, _)) = export.rsplit_once('@') {
            let message = format!("{export:?} is a snapshot; a backup makes one of its own: give the export {disk:?}");
            return Err(Failure::usage(message));
        }
        let names = || status.disks.iter().map(|disk| format!("{:?}", disk.export)).collect::<Vec<_>>().join(", ");
        let found = status.disks.iter().find(|disk| disk.export == export);
        let found = found.or_else(|| status.disks.first().filter(|_| export.is_empty())).ok_or_else(|| {
            let message = format!("the server at {control} has no export {export:?}; it has {}", names());
            Failure::new("no-export", message)
        })?;
        if status.disks.len() > self.disks {
            let message = format!(
                "the server at {control} has {} disks, and a snapshot is of all of them; give each of its exports, as --disk \
                 NAME=nbd+unix:///EXPORT?socket=PATH: it has {}",
                status.disks.len(),
                names()
            );
            return Err(Failure::new("several-disks", message));
        }
        Ok(found.clone())
    }

    /// Says what a disk wants of the next snapshot.
    pub fn intend(&self, intent: Intended) {
        self.intents.borrow_mut().push(intent);
    }

    /// The snapshot of all disks, which have said what they want. Asked for as long as programs have a map open for writing that
    /// the user would wait for.
    pub fn snapshot(&self) -> Result<SnapshotStatus> {
        if let Some(made) = &*self.made.borrow() {
            return Ok(made.clone());
        }
        let app = self.how.consistency == Some(Consistency::App);
        let request = Request::SnapshotCreate { name: None, whole: false, app, backups: self.intents.take() };
        let until = Instant::now() + self.wait;
        let made: SnapshotStatus = loop {
            let failure = match self.client()?.within(self.how.hooks.limit()).ask(&request) {
                Err(failure) => failure,
                made => break made?,
            };
            match &*failure.kind {
                "interrupted" | "no-answer" => {
                    self.unanswered.set(true);
                    return Err(failure.and("nothing is lost: if it makes the snapshot, the next backup ends that"));
                }
                "locked" if Instant::now() < until => {
                    signals::check(INTERRUPTED)?;
                    std::thread::sleep(LOOK);
                }
                _ => return Err(failure),
            }
        };
        self.made.replace(Some(made.clone()));
        Ok(made)
    }

    /// The snapshot that the server has.
    pub fn there(&self) -> Result<Option<SnapshotStatus>> {
        let SnapshotList { snapshots } = self.client()?.after_signals(GIVE_UP).ask(&Request::SnapshotList {})?;
        Ok(snapshots.into_iter().next())
    }

    /// The identity of the snapshot that the server has, which this checkpoint is of.
    pub fn snapshot_of(&self, checkpoint: Uuid) -> Result<String> {
        let uuid = Some(checkpoint.to_string());
        let there = self.there()?.filter(|there| there.disks.iter().any(|disk| disk.checkpoint == uuid));
        there.map(|there| there.id).ok_or_else(|| {
            let message = format!("the server has no snapshot that checkpoint {checkpoint} is of");
            Failure::new("no-snapshot", message)
        })
    }

    /// Has the server give up a snapshot, or one disk of it, also after a signal.
    pub fn end(&self, id: &str, export: Option<&str>) -> Result<()> {
        let request = Request::SnapshotAbort { name: None, id: Some(id.into()), export: export.map(Into::into) };
        // One that hangs does so for all of its disks: the others are asked as well, and not waited for.
        let (begun, limit) = (Instant::now(), if self.silent.get() { Duration::ZERO } else { GIVE_UP });
        let ended = self.client()?.after_signals(limit).ask::<SnapshotStatus>(&request).map(drop);
        self.silent.set(ended.is_err() && begun.elapsed() >= limit);
        ended
    }
}
