//! A disk as a snapshot has it, for one NBD connection.
//!
//! Invariant kept here: whatever is answered is as it was frozen, or an error. Writes are refused; a trim says that a range is
//! done with.

use super::tracked::Tracked;
use crate::snapshot::Snapshot;
use dirtymap_nbd::codec::values::allocation;
use dirtymap_nbd::{Backend, Errno, Extents, Failure, Features};
use std::ops::Range;
use std::sync::Arc;

/// What is dirty in the checkpoint, and not done with.
const FROZEN: &str = "qemu:dirty-bitmap:frozen";

/// A disk of a snapshot.
pub struct FrozenExport {
    disk: Arc<Tracked>,
    snapshot: Arc<Snapshot>,
    place: usize,
}

impl FrozenExport {
    pub fn new(disk: Arc<Tracked>, snapshot: Arc<Snapshot>, place: usize) -> FrozenExport {
        FrozenExport { disk, snapshot, place }
    }

    /// Pushes the runs of a range by what one of them is and how long.
    fn runs(&self, mut range: Range<u64>, mut push: impl FnMut(bool, u64) -> bool, zeros: bool) {
        let frozen = &self.snapshot.disks[self.place];
        while !range.is_empty() {
            let (is, length) = if zeros { frozen.zeros(range.clone()) } else { frozen.to_do(range.clone()) };
            if !push(is, length) {
                break;
            }
            range.start += length;
        }
    }

    fn disk_has_ended(&self) -> bool {
        !self.snapshot.is_served() || self.snapshot.disks[self.place].is_ended()
    }

    /// What was found counts only if the snapshot is there still.
    fn check(&self) -> Result<(), Failure> {
        let there = self.snapshot.is_there(self.place, &self.disk.map);
        match self.snapshot.why_broken() {
            Some(why) => Err(Failure::new(Errno::Io, format!("the snapshot is broken: {why}"))),
            None if self.disk_has_ended() => Err(Failure::new(Errno::Io, "the snapshot has ended")),
            None => Ok(there?),
        }
    }
}

impl Backend for FrozenExport {
    fn size(&self) -> u64 {
        self.disk.image.size()
    }

    /// Not called read-only: then clients would not trim.
    fn features(&self) -> Features {
        Features { trim: true, flush: true, multi_conn: true, ..Features::default() }
    }

    fn description(&self) -> String {
        format!("snapshot {:?}", self.snapshot.name)
    }

    fn contexts(&self) -> Vec<String> {
        vec![allocation::NAME.into(), FROZEN.into()]
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        let frozen = &self.snapshot.disks[self.place];
        frozen.read(offset, into, &self.disk.map)?;
        self.check()
    }

    fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut holes, mut at) = (Vec::new(), range.start);
        let push = |is: bool, length: u64| {
            if is {
                holes.push(at..at + length);
            }
            at += length;
            true
        };
        self.runs(range, push, true);
        // Otherwise the reads say why.
        if self.check().is_ok() { holes } else { Vec::new() }
    }

    fn trim(&self, offset: u64, length: u64, _fua: bool) -> Result<(), Failure> {
        Ok(self.snapshot.disks[self.place].done(offset..offset + length)?)
    }

    fn block_status(&self, context: usize, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        let is = if context == 0 { allocation::HOLE | allocation::ZERO } else { 1 };
        let push = |found: bool, length: u64| extents.push(length, if found { is } else { 0 });
        self.runs(offset..offset + length, push, context == 0);
        self.check()
    }
}
