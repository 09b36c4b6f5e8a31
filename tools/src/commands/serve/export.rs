//! A disk as one NBD connection sees it.
//!
//! Invariant kept here: the contexts of a connection stay as they were when it began. What one says is dirty is all that was
//! when the client asked.

use super::since::runs;
use super::tracked::Tracked;
use crate::snapshot::Client;
use dirtymap_nbd::codec::values::allocation;
use dirtymap_nbd::{Backend, Extents, Failure, Features, Zeroes};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What QEMU's clients look for.
const DIRTY: &str = "qemu:dirty-bitmap:dirty";
/// Before the name that is kept.
const SINCE: &str = "qemu:dirty-bitmap:since:";

/// A disk for one connection.
pub struct Export {
    disk: Arc<Tracked>,
    /// What it was told of syncs that failed.
    client: Client,
    /// The names that were kept at the beginning.
    names: Vec<String>,
}

impl Export {
    pub fn new(disk: Arc<Tracked>) -> Export {
        // Of a map that cannot be read, requests will fail.
        let names = disk.map.points().unwrap_or_default().into_iter().map(|point| point.name).collect();
        disk.connections.fetch_add(1, Relaxed);
        Export { client: disk.syncs.client(), disk, names }
    }

    /// It writes; itself if that is to be durable.
    fn writes(&self, fua: bool) -> Option<&Client> {
        self.client.writes();
        fua.then_some(&self.client)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.disk.syncs.leaves(&self.client);
        if self.disk.connections.fetch_sub(1, Relaxed) == 1 {
            self.disk.since.forget();
        }
    }
}

impl Backend for Export {
    fn size(&self) -> u64 {
        self.disk.image.size()
    }

    fn features(&self) -> Features {
        self.disk.image.features()
    }

    fn contexts(&self) -> Vec<String> {
        let since = self.names.iter().map(|name| format!("{SINCE}{name}"));
        [allocation::NAME.into(), DIRTY.into()].into_iter().chain(since).collect()
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        self.disk.read(offset, into)
    }

    fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.disk.image.holes(range)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Failure> {
        self.disk.write(offset, data, self.writes(fua))
    }

    fn flush(&self) -> Result<(), Failure> {
        self.disk.flush(&self.client)
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), Failure> {
        self.disk.trim(offset, length, self.writes(fua))
    }

    fn write_zeroes(&self, offset: u64, length: u64, how: Zeroes) -> Result<(), Failure> {
        self.disk.write_zeroes(offset, length, how, self.writes(how.fua))
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), Failure> {
        self.disk.image.cache(offset, length)
    }

    fn block_status(&self, context: usize, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        let range = offset..offset + length;
        let told = match context {
            0 => return self.disk.image.block_status(0, offset, length, extents),
            1 => runs(range, extents, |range| Ok([self.disk.map.run(range)?.unwrap_or((false, 0))])),
            _ => self.disk.since.extents(&self.disk.map, &self.names[context - 2], range, extents),
        };
        Ok(told.map_err(io::Error::from)?)
    }
}
