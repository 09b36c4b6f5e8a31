//! [`Storage`]: everything a map does to its file, so that a simulated disk can stand in for it.
//!
//! Invariant kept here: there is no way to write a durable byte but [`Storage::write_durable`], and
//! what it wrote counts only after it returned `Ok`.

use super::lock::Lock;
use super::mapping::Mapping;
use super::os::Identity;
use super::permit::Permit;
use crate::error::Holder;
use std::io;
use std::ops::Range;

/// Bytes to be written at an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteSegment<'a> {
    /// Offset in the file.
    pub offset: u64,
    /// What to write there.
    pub bytes: &'a [u8],
}

/// A file as a map sees it. Offsets and lengths are in bytes.
pub(crate) trait Storage: Send + Sync {
    /// Length of the file.
    fn len(&self) -> io::Result<u64>;
    /// Fills `buf` from `offset`. Bytes past the end of the file read as zeros.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// The first stretch of `range` that may hold anything but zeros.
    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>>;
    /// Where that begins. May cost less than to ask also where it ends.
    fn data_start(&self, range: Range<u64>) -> io::Result<Option<u64>> {
        Ok(self.next_data(range)?.map(|data| data.start))
    }
    /// Writes all parts. After `Ok` all of them survive a power cut; after an error or a crash inside, any
    /// subset of their sectors may be old, new, or torn. Costs one device sync in the usual case.
    fn write_durable(&self, parts: &[WriteSegment<'_>]) -> io::Result<()>;
    /// Makes sure that storing into a mapping of `range` cannot fail for want of space. Keeps the content. Where the file
    /// system cannot do that, nothing is done: what is mapped has been [punched](Self::punch_hole) before, by writing.
    fn allocate(&self, range: Range<u64>) -> io::Result<()>;
    /// Makes `range` read as zeros, and frees it; where the file system cannot do that, zeros are written. Durable after
    /// [`sync_all`](Self::sync_all).
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()>;
    /// Frees `range`, of which nobody reads any more what is in it, if the file system can do that.
    fn free(&self, range: Range<u64>) -> io::Result<()> {
        self.punch_hole(range)
    }
    /// Makes the file at least `len` bytes long. Durable after [`sync_all`](Self::sync_all).
    fn extend(&self, len: u64) -> io::Result<()>;
    /// Makes the file `len` bytes long if it is longer. Durable after [`sync_all`](Self::sync_all).
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Whether even reading a hole of a mapping takes space.
    fn reading_allocates(&self) -> bool;
    /// Whether this file cannot be mapped: its file system's type then, see [`fs`](super::fs).
    fn unmappable(&self) -> io::Result<Option<i64>> {
        Ok(None)
    }
    /// Whether the kernel has failed to write something back that was mapped, and has not told this process yet. Asks for
    /// this process only, and for nobody who opens the file later: those get no answer then.
    fn write_back_failed(&self) -> bool {
        false
    }
    /// Maps `range` shared and writable.
    fn map(&self, range: Range<u64>) -> io::Result<Mapping>;
    /// From here on no sync of a durable write spans `range`, which is mapped for writing.
    fn exclude_from_sync(&self, range: Range<u64>);
    /// Takes a lock if it is free.
    fn try_lock(&self, lock: Lock) -> io::Result<bool>;
    /// Which other process, or map of this one, holds one of the locks from the first one to the last, as far as the system tells.
    fn holder(&self, first: Lock, last: Lock) -> Option<Holder>;
    /// Whether anybody else holds one of these slots, as only who may write to the file can. Nothing is taken to find out.
    fn slot_held(&self, slots: Range<u64>) -> io::Result<bool>;
    /// Whether somebody may have the volatile region mapped for reading. Nothing is taken to find out.
    fn has_readers(&self) -> io::Result<bool>;
    /// Lets go of a lock.
    fn unlock(&self, lock: Lock);
    /// Makes writes before now by anybody durable, and reports any write-back error not yet reported.
    fn sync_all(&self) -> io::Result<()>;
    /// Who may use the file.
    fn permit(&self) -> Permit {
        Permit::default()
    }
    /// Who this file is.
    fn identity(&self) -> io::Result<Identity>;
}
