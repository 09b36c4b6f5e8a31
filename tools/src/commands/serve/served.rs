//! What a server has, as its clients and its control socket see it.

use super::disk::{Disk, DiskAnswer};
use super::export::Export;
use super::metrics;
use crate::control::{Answers, Request, Status};
use crate::exit::{Failure, Result};
use crate::terminal::output::Output;
use dirtymap_nbd::{Backend, Exports, Listed};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;

/// Everything that is served.
pub struct Served {
    disks: Vec<Disk>,
    read_only: bool,
    since: Instant,
}

impl Served {
    pub fn new(disks: Vec<Disk>, read_only: bool) -> Served {
        Served { disks, read_only, since: Instant::now() }
    }

    /// The name of the default export.
    pub fn default_name(&self) -> &str {
        self.disks.first().map_or("", Disk::name)
    }

    pub fn status(&self) -> Result<Status> {
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime: self.since.elapsed().as_secs_f64(),
            read_only: self.read_only,
            disks: self.disks.iter().map(Disk::status).collect::<Result<_>>()?,
        })
    }

    /// Closes all maps; what one fails with is told when all were tried.
    pub fn close(self, output: Output) -> Result<Vec<DiskAnswer>> {
        let closed: Vec<_> = self.disks.into_iter().map(|disk| disk.close(output)).collect();
        closed.into_iter().collect()
    }
}

impl Exports for Served {
    fn list(&self) -> Vec<Listed> {
        self.disks.iter().map(|disk| Listed { name: disk.name().into(), description: String::new() }).collect()
    }

    fn open(&self, name: &str) -> Option<(String, Arc<dyn Backend>)> {
        let named = self.disks.iter().find(|disk| disk.name() == name);
        let disk = named.or_else(|| self.disks.first().filter(|_| name.is_empty()))?;
        Some((disk.name().into(), Arc::new(Export::new(Arc::clone(&disk.tracked)))))
    }
}

impl Answers for Served {
    fn answer(&self, request: Request) -> Result<Value> {
        let value = match request {
            Request::Status {} => serde_json::to_value(self.status()?),
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
