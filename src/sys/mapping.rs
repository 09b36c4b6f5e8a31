//! Memory shared with a file, seen as atomic words.
//!
//! Invariant kept here: mapped memory is only ever accessed as `AtomicU64`, through what keeps the mapping
//! alive, and memory that cannot be written by nothing but relaxed loads. A mapping is not inherited by a forked child, but for
//! [`Mapping::copied_by_forks`].

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{fork, memory};
use memmap2::{MmapMut, MmapOptions, MmapRaw};

/// A mapping that a forked child neither inherits nor unmaps, as there its addresses may be somebody else's; or one that it has a
/// copy of.
#[derive(Debug)]
pub(crate) struct Guarded {
    // `None` only while dropping.
    raw: Option<MmapRaw>,
    /// Where it is not to be touched in a forked child.
    born: Option<fork::Generation>,
}

impl Guarded {
    pub(crate) fn new(raw: MmapRaw) -> io::Result<Guarded> {
        raw.advise(memmap2::Advice::DontFork)?;
        Ok(Guarded { raw: Some(raw), born: Some(fork::generation()?) })
    }

    /// The mapping; not to be touched in a forked child.
    #[inline]
    pub(crate) fn raw(&self) -> Option<&MmapRaw> {
        self.raw.as_ref()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.born.as_ref().is_some_and(|born| !born.is_current()) {
            // In a forked child these addresses were never mapped, or belong to somebody else by now.
            std::mem::forget(self.raw.take());
        }
    }
}

/// A mapping of part of a file, or of nothing (anonymous, for maps that are only read). It lasts until the last of its
/// words is dropped.
#[derive(Debug)]
pub(crate) struct Mapping(Arc<Guarded>);

/// Some words of a mapping. Looking at one costs as much as with any slice.
#[derive(Debug)]
pub(crate) struct MappedWords {
    first: *const AtomicU64,
    count: usize,
    _mapping: Arc<Guarded>,
}

// SAFETY: what it points to is only ever accessed atomically, and stays mapped as long as this is there.
unsafe impl Send for MappedWords {}
// SAFETY: as above.
unsafe impl Sync for MappedWords {}

impl Deref for MappedWords {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: Mapping::words made it of that many words inside the mapping, which is page-aligned, so the pointer is
        // valid and aligned. The memory stays mapped as long as self, and everything in this process accesses it as
        // AtomicU64 only; other processes' stores are atomic too, as far as memory on this machine goes.
        unsafe { std::slice::from_raw_parts(self.first, self.count) }
    }
}

impl Mapping {
    fn new(guarded: Guarded) -> Mapping {
        Mapping(Arc::new(guarded))
    }

    /// Maps `range` of `file` shared and writable. `range` must start at a multiple of the host's page
    /// size. Touching a hole that the file system cannot fill kills the process, so allocate first.
    pub(crate) fn of_file(file: &File, range: Range<u64>) -> io::Result<Mapping> {
        let len = length(&range)?;
        let raw = MmapOptions::new().offset(range.start).len(len).map_raw(file)?;
        Guarded::new(raw).map(Mapping::new)
    }

    /// Keeps pages of the mapping in memory for as long as it is mapped: all, also those that only others use, or those
    /// that this process has touched or is going to touch. The former takes long: `ask` hears how much is done before each piece,
    /// and can end it.
    pub(crate) fn keep_in_memory(&self, all: bool, mut ask: impl FnMut(u64) -> io::Result<()>) -> io::Result<()> {
        const PIECE: usize = 64 << 20;
        let Some(raw) = self.0.raw() else { return Ok(()) };
        if raw.len() as u64 > memory::lockable() {
            // Who may lock what he likes would get it, and nothing would be left.
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        }
        let (flags, piece) = if all { (0, PIECE) } else { (libc::MLOCK_ONFAULT, raw.len().max(1)) };
        for first in (0..raw.len()).step_by(piece) {
            ask(first as u64)?;
            let len = piece.min(raw.len() - first);
            // SAFETY: the range is inside of a mapping that this process has; locking it changes no memory.
            if unsafe { libc::mlock2(raw.as_ptr().add(first).cast(), len, flags as libc::c_uint) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Has the file system prepare for stores into part of the mapping, whose space is allocated: where a file system is full, it
    /// may lack what it takes to keep account of a first store there, which would end the process. Here that is an error.
    pub(crate) fn prepare(&self, part: Range<u64>) -> io::Result<()> {
        let Some(raw) = self.0.raw() else { return Ok(()) };
        let prepared = raw.advise_range(memmap2::Advice::PopulateWrite, part.start as usize, length(&part)?);
        match prepared.as_ref().map_err(io::Error::raw_os_error) {
            Err(Some(libc::EFAULT)) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            // A kernel before 5.14.
            Err(Some(libc::EINVAL)) => Ok(()),
            _ => prepared,
        }
    }

    /// `len` zero bytes that belong to no file; memory is only used where it is written.
    pub(crate) fn anonymous(len: u64) -> io::Result<Mapping> {
        Guarded::new(Self::zeros(len)?).map(Mapping::new)
    }

    /// The same of which a forked child has a copy of its own: for what no other process changes, and no lock guards.
    pub(crate) fn copied_by_forks(len: u64) -> io::Result<Mapping> {
        Ok(Mapping::new(Guarded { raw: Some(Self::zeros(len)?), born: None }))
    }

    fn zeros(len: u64) -> io::Result<MmapRaw> {
        let len = length(&(0..len))?;
        let map: MmapMut = MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
        // Touching one word of a sparse map must not take two megabytes. Best effort: a kernel without huge pages
        // refuses, and does not need it.
        let _ = map.advise(memmap2::Advice::NoHugePage);
        Ok(MmapRaw::from(map))
    }

    /// Whether this process made the mapping, and did not inherit it; or may go on with it.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.0.born.as_ref().is_none_or(|born| born.is_current())
    }

    /// The words of a byte range of the mapping. None of them when the range is not wholly inside or not aligned to
    /// words, which is a defect of the caller.
    pub(crate) fn words(&self, bytes: Range<usize>) -> MappedWords {
        let len = self.0.raw().map_or(0, MmapRaw::len);
        let fits = bytes.start <= bytes.end && bytes.end <= len;
        let aligned = bytes.start.is_multiple_of(8) && bytes.end.is_multiple_of(8);
        debug_assert!(fits && aligned, "{bytes:?} of {len}");
        let (first, count) = match self.0.raw() {
            // SAFETY: start is inside the mapping.
            Some(raw) if fits && aligned => unsafe { (raw.as_ptr().add(bytes.start), (bytes.end - bytes.start) / 8) },
            _ => (std::ptr::NonNull::<AtomicU64>::dangling().as_ptr().cast_const().cast(), 0),
        };
        MappedWords { first: first.cast(), count, _mapping: self.0.clone() }
    }
}

/// A mapping of part of a file for looking only: a store, and whatever may be made of one, kills the process.
#[derive(Debug)]
pub(crate) struct ReadMapping(Mapping);

impl ReadMapping {
    /// Maps `range` of `file`, as [`Mapping::of_file`] does.
    pub(crate) fn of_file(file: &File, range: Range<u64>) -> io::Result<ReadMapping> {
        let len = length(&range)?;
        let raw = MmapOptions::new().offset(range.start).len(len).map_raw_read_only(file)?;
        Guarded::new(raw).map(|guarded| ReadMapping(Mapping::new(guarded)))
    }

    /// As [`Mapping::is_ours`].
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.0.is_ours()
    }

    /// As [`Mapping::words`].
    pub(crate) fn words(&self, bytes: Range<usize>) -> ReadWords {
        ReadWords(self.0.words(bytes))
    }
}

/// Words of a mapping for looking only.
///
/// All that can be done with them is what std guarantees of atomics in memory that cannot be written: relaxed loads (of eight
/// bytes, on 64-bit targets). Who needs an order puts a fence in between.
#[derive(Debug)]
pub(crate) struct ReadWords(MappedWords);

impl ReadWords {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(crate) fn load(&self, i: usize) -> u64 {
        self.0[i].load(Relaxed)
    }
}

fn length(range: &Range<u64>) -> io::Result<usize> {
    let len = range.end.saturating_sub(range.start);
    usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))
}
