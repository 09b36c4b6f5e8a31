//! [`Disk`]: everything the store does to its file, so that a simulated disk can stand in for it.
//!
//! Invariant kept here: there is no way to write a durable byte but [`Disk::write_durable`], and
//! what it wrote counts only after it returned `Ok`.

use super::Mapping;
use super::create::Permit;
use crate::error::Holder;
use std::io;
use std::ops::Range;

/// Bytes to be written at an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    /// Offset in the file.
    pub offset: u64,
    /// What to write there.
    pub bytes: &'a [u8],
}

/// The byte-range locks. They die with their holder. In FORMAT.md, "Locks".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Held while waiting for the gate, so that nobody who had it just now takes it again first.
    Turn,
    /// Held for every decision about opening, closing, being alone and truncating.
    Gate,
    /// Held for every commit.
    Update,
    /// Held for a moment while waiting for that, as the turn is for the gate.
    UpdateTurn,
    /// Held, shared, by who has the volatile region mapped for reading.
    Readers,
    /// Held while space that no header names is chosen and written, until a header names it.
    Space,
    /// Held by one who copies what is dirty and will reset it.
    Backup,
    /// Held by one that makes a file which has a temporary name, for as long as it has the file open.
    Creator,
    /// Held by one process that has the map open for writing, for as long as it has.
    Slot(u64),
}

impl Lock {
    /// The byte of the file that it is a lock of, far behind every file's end. In FORMAT.md, "Locks".
    pub(crate) const fn byte(self) -> u64 {
        const FIRST: u64 = 1 << 62;
        match self {
            Lock::Gate => FIRST,
            Lock::Update => FIRST + 1,
            Lock::Turn => FIRST + 2,
            Lock::Readers => FIRST + 3,
            Lock::Space => FIRST + 4,
            Lock::Backup => FIRST + 5,
            Lock::Creator => FIRST + 6,
            Lock::UpdateTurn => FIRST + 7,
            Lock::Slot(slot) => (FIRST + 64).saturating_add(slot),
        }
    }
}

/// What identifies the file on this machine, in this boot, in this mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Boot of the machine; zeros when unknown.
    pub boot_id: [u8; 16],
    /// Device of the file.
    pub device: u64,
    /// Inode of the file.
    pub inode: u64,
    /// Unique id of the mount; 0 when the system has none.
    pub mount: u64,
    /// When the file was made, in nanoseconds since 1970; 0 when the file system does not say. Tells a file from
    /// another one that got its inode.
    pub birth: i64,
}

/// A file as the store sees it. Offsets and lengths are in bytes.
pub(crate) trait Disk: Send + Sync {
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
    fn write_durable(&self, parts: &[Part<'_>]) -> io::Result<()>;
    /// Makes sure that storing into a mapping of `range` cannot fail for want of space. Keeps the content. Where the file
    /// system cannot do that, nothing is done: what is mapped has been [punched](Self::punch) before, by writing.
    fn allocate(&self, range: Range<u64>) -> io::Result<()>;
    /// Makes `range` read as zeros, and frees it; where the file system cannot do that, zeros are written. Durable after
    /// [`sync_all`](Self::sync_all).
    fn punch(&self, range: Range<u64>) -> io::Result<()>;
    /// Frees `range`, of which nobody reads any more what is in it, if the file system can do that.
    fn free(&self, range: Range<u64>) -> io::Result<()> {
        self.punch(range)
    }
    /// Makes the file at least `len` bytes long. Durable after [`sync_all`](Self::sync_all).
    fn grow(&self, len: u64) -> io::Result<()>;
    /// Makes the file `len` bytes long if it is longer. Durable after [`sync_all`](Self::sync_all).
    fn cut(&self, len: u64) -> io::Result<()>;
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
    fn keep_off(&self, range: Range<u64>);
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
