//! What a server has, as its clients and its control socket see it.

use super::disk::{Disk, DiskAnswer};
use super::export::Export;
use super::frozen_export::FrozenExport;
use super::metrics;
use crate::control::{Answers, Completed, Intended, Request, Stamp, Status};
use crate::exit::{Failure, Result};
use crate::snapshot::{Backup, Intent, SnapshotList, Snapshots, Source, Which, Wish};
use crate::terminal::output::Output;
use dirtymap_nbd::{Backend, Exports, Listed};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;

/// Of a snapshot that is given no name.
const DEFAULT_NAME: &str = "snapshot";

/// Everything that is served.
pub struct Served {
    disks: Vec<Disk>,
    read_only: bool,
    since: Instant,
    snapshots: Arc<Snapshots>,
}

impl Served {
    pub fn new(disks: Vec<Disk>, read_only: bool, snapshots: Arc<Snapshots>) -> Served {
        Served { disks, read_only, since: Instant::now(), snapshots }
    }

    fn sources(&self) -> Vec<Source<'_>> {
        self.disks.iter().map(Disk::source).collect()
    }

    /// Goes on with the snapshot of a server that is gone; what was done about it, for people.
    pub fn take_over(&self) -> Result<Vec<String>> {
        if self.read_only { Ok(Vec::new()) } else { self.snapshots.take_over(&self.sources()) }
    }

    /// The name of the default export.
    pub fn default_name(&self) -> &str {
        self.disks.first().map_or("", Disk::name)
    }

    pub fn status(&self) -> Result<Status> {
        self.snapshots.look(&self.sources());
        let snapshot = self.snapshots.snapshot();
        let scratch = |place: usize| snapshot.as_ref().map_or(0, |snapshot| snapshot.disks[place].used());
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: self.since.elapsed().as_secs_f64(),
            read_only: self.read_only,
            snapshot: snapshot.as_ref().map(|snapshot| snapshot.name.clone()),
            disks: (0..).zip(&self.disks).map(|(place, disk)| disk.status(scratch(place))).collect::<Result<_>>()?,
        })
    }

    /// Closes all maps; what one fails with is told when all were tried.
    pub fn close(self, output: Output) -> Result<Vec<DiskAnswer>> {
        let stopped = self.snapshots.stop(&self.sources());
        let closed: Vec<_> = self.disks.into_iter().map(|disk| disk.close(output)).collect();
        stopped.and_then(|()| closed.into_iter().collect())
    }
}

impl Served {
    /// The export of a disk as the snapshot has it: `EXPORT@NAME`, or `EXPORT@ID`.
    fn open_frozen(&self, export: &str) -> Option<(String, Arc<dyn Backend>)> {
        let (name, of) = export.rsplit_once('@')?;
        let snapshot =
            self.snapshots.snapshot().filter(|snapshot| snapshot.name == of || snapshot.id.to_string() == of)?;
        let place = self.disks.iter().position(|disk| disk.name() == name)?;
        let _left = snapshot.disks.get(place).filter(|frozen| !frozen.is_ended())?;
        let tracked = Arc::clone(&self.disks[place].tracked);
        Some((export.into(), Arc::new(FrozenExport::new(tracked, snapshot, place))))
    }
}

impl Served {
    fn place(&self, export: &str) -> Result<usize> {
        let found = self.disks.iter().position(|disk| disk.name() == export);
        found.ok_or_else(|| Failure::new("no-export", format!("there is no disk {export:?}")))
    }

    /// The backups that a snapshot is made for, in the order of the disks: none, or one of each.
    fn intents<'a>(&self, backups: &'a [Intended]) -> Result<Vec<Intent<'a>>> {
        let mut intents = vec![None; if backups.is_empty() { 0 } else { self.disks.len() }];
        for Intended { export, name, whole, target } in backups {
            let place = self.place(export)?;
            let target = target.as_ref().map(Stamp::target).transpose()?;
            intents[place] = Some(Intent { name, whole: *whole, target });
        }
        let all = intents.into_iter().collect::<Option<Vec<_>>>().filter(|all| all.len() == backups.len());
        all.ok_or_else(|| {
            let message = "a snapshot is of all disks of the server: one backup of each has to be there";
            Failure::new("several-disks", message)
        })
    }
}

impl Exports for Served {
    fn list(&self) -> Vec<Listed> {
        let disks = self.disks.iter().map(|disk| (disk.name().to_string(), String::new()));
        let snapshot = self.snapshots.snapshot();
        let frozen = snapshot.iter().flat_map(|snapshot| {
            let left = self.disks.iter().zip(&snapshot.disks).filter(|(_, frozen)| !frozen.is_ended());
            left.map(|(disk, _)| (format!("{}@{}", disk.name(), snapshot.name), "a snapshot".into()))
        });
        disks.chain(frozen).map(|(name, description)| Listed { name, description }).collect()
    }

    fn open(&self, name: &str) -> Option<(String, Arc<dyn Backend>)> {
        let named = self.disks.iter().find(|disk| disk.name() == name);
        let Some(disk) = named.or_else(|| self.disks.first().filter(|_| name.is_empty())) else {
            return self.open_frozen(name);
        };
        Some((disk.name().into(), Arc::new(Export::new(Arc::clone(&disk.tracked)))))
    }
}

impl Answers for Served {
    fn answer(&self, request: Request) -> Result<Value> {
        let value = match request {
            Request::Status {} => serde_json::to_value(self.status()?),
            Request::SnapshotCreate { name, whole, app, backups } => {
                let backups = self.intents(&backups)?;
                let wish = Wish { name: name.as_deref().unwrap_or(DEFAULT_NAME), whole, app, backups: &backups };
                serde_json::to_value(self.snapshots.create(&self.sources(), &wish)?.status())
            }
            Request::SnapshotList {} => {
                self.snapshots.look(&self.sources());
                let snapshots = self.snapshots.snapshot().iter().map(|snapshot| snapshot.status()).collect();
                serde_json::to_value(SnapshotList { snapshots })
            }
            Request::SnapshotCommit { name, id, keep, backup } => {
                let place = backup.as_ref().map(|backup| self.place(&backup.export)).transpose()?;
                let which = Which { name: name.as_deref(), id: id.as_deref(), place };
                let completed =
                    |Completed { target, audited, .. }| target.target().map(|target| Backup { target, audited });
                let backup = backup.map(completed).transpose()?;
                serde_json::to_value(self.snapshots.commit(&self.sources(), which, keep, backup.as_ref())?)
            }
            Request::SnapshotAbort { name, id, export } => {
                let place = export.map(|export| self.place(&export)).transpose()?;
                let which = Which { name: name.as_deref(), id: id.as_deref(), place };
                serde_json::to_value(self.snapshots.abort(&self.sources(), which)?.status())
            }
        };
        value.map_err(|e| Failure::new("internal", e.to_string()))
    }

    fn metrics(&self) -> String {
        match self.status() {
            Ok(status) => metrics::text(&status),
            // A scrape that has no samples counts as one that failed to tell.
            Err(failure) => format!("# {}\n", failure.message.replace('\n', " ")),
        }
    }
}
