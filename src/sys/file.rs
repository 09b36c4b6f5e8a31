//! [`FileDisk`]: a [`Storage`] that is a real file.
//!
//! Invariant kept here: `write_durable` returns `Ok` only after the kernel said that exactly the
//! named ranges are on the device; it never pushes the mapped (volatile) part of the file.

use super::fs::{self, FsKind};
use super::holder;
use super::lock::{Lock, fcntl_lock, lock_byte, taken};
use super::mapping::{Guarded, Mapping, ReadMapping};
use super::os::{self, Identity};
use super::permit::Permit;
use super::storage::{Storage, WriteSegment};
use crate::error::Holder;
use memmap2::MmapOptions;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// A real file, its locks and its mappings. The locks live as long as this and every mapping of it.
#[derive(Debug)]
pub(crate) struct FileDisk {
    file: File,
    writable: bool,
    /// Start and end of the volatile region, if it is mapped: no sync may span it.
    volatile: (AtomicU64, AtomicU64),
    /// A read-only view of the whole file, through which ranges of it are synced. Never read from.
    syncer: Mutex<Option<Guarded>>,
}

impl FileDisk {
    /// Takes over an open file. `writable` says how it was opened.
    pub(crate) fn new(file: File, writable: bool) -> FileDisk {
        FileDisk {
            file,
            writable,
            volatile: (AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)),
            syncer: Mutex::new(None),
        }
    }

    /// Takes the attach lock, shared or exclusive; `false` when somebody holds it otherwise.
    pub(crate) fn try_attach(&self, exclusive: bool) -> io::Result<bool> {
        let taken = if exclusive {
            fs2::FileExt::try_lock_exclusive(&self.file)
        } else {
            fs2::FileExt::try_lock_shared(&self.file)
        };
        match taken {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether somebody else holds a lock of one of these bytes that one of this `kind` would have to wait for.
    fn held(&self, kind: libc::c_int, bytes: Range<i64>) -> io::Result<bool> {
        // The only question about such a lock that may be asked of a file that is open for reading.
        let found = self.fcntl_lock(libc::F_OFD_GETLK, kind, bytes)?;
        Ok(i32::from(found.l_type) != libc::F_UNLCK)
    }

    /// Maps `range`, for looking only, and says so to who would shorten the file.
    pub(crate) fn map_to_read(&self, range: Range<u64>) -> io::Result<ReadMapping> {
        self.fcntl_lock(libc::F_OFD_SETLK, libc::F_RDLCK, lock_byte(Lock::Readers)?)?;
        ReadMapping::of_file(&self.file, range)
    }

    /// Lets go of the attach lock. Explicit, since a forked child may still hold the descriptor.
    pub(crate) fn detach(&self) {
        // Nothing to be done about an error: closing the file lets go as well.
        let _ = fs2::FileExt::unlock(&self.file);
    }

    /// See the function of this name.
    fn fcntl_lock(&self, command: libc::c_int, kind: libc::c_int, bytes: Range<i64>) -> io::Result<libc::flock> {
        fcntl_lock(&self.file, command, kind, bytes)
    }

    fn fallocate(&self, mode: libc::c_int, range: &Range<u64>) -> io::Result<()> {
        let too_big = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let offset = i64::try_from(range.start).map_err(too_big)?;
        let len = i64::try_from(range.end.saturating_sub(range.start)).map_err(too_big)?;
        if len == 0 {
            return Ok(());
        }
        loop {
            // SAFETY: plain integers and an open descriptor.
            if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, len) } == 0 {
                return Ok(());
            }
            let e = io::Error::last_os_error();
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        }
    }

    /// Zeros up to the end of the file.
    fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        const PIECE: usize = 1 << 20;
        let (zeros, end) = (vec![0; PIECE], range.end.min(self.len()?));
        (range.start..end)
            .step_by(PIECE)
            .try_for_each(|at| self.file.write_all_at(&zeros[..(end - at).min(PIECE as u64) as usize], at))
    }

    /// Makes one range durable: the kernel's `vfs_fsync_range` with datasync, which is what a write with
    /// RWF_DSYNC ends in too, but for several writes at once. msync(MS_SYNC) of a shared mapping is the call
    /// that names a range without writing to it.
    fn sync_range(&self, range: Range<u64>) -> io::Result<()> {
        let mut syncer = self.syncer.lock().unwrap_or_else(|e| e.into_inner());
        let end = usize::try_from(range.end).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let covers = |m: &Guarded| m.raw().is_some_and(|raw| raw.len() >= end);
        if !syncer.as_ref().is_some_and(covers) {
            let len = usize::try_from(self.len()?.max(range.end)).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let raw = MmapOptions::new().len(len).map_raw_read_only(&self.file)?;
            *syncer = Some(Guarded::new(raw)?);
        }
        match syncer.as_ref().and_then(Guarded::raw) {
            Some(m) => m.flush_range(range.start as usize, end - range.start as usize),
            None => Err(io::Error::from(io::ErrorKind::OutOfMemory)),
        }
    }

    /// The ranges to be synced for these parts: as few as possible, none spanning the volatile region.
    fn spans(&self, parts: &[WriteSegment<'_>]) -> Vec<Range<u64>> {
        let volatile = self.volatile.0.load(SeqCst)..self.volatile.1.load(SeqCst);
        let mut spans: Vec<Range<u64>> =
            parts.iter().map(|p| p.offset..p.offset.saturating_add(p.bytes.len() as u64)).collect();
        spans.sort_by_key(|r| r.start);
        spans.dedup_by(|next, kept| {
            let apart = kept.end <= volatile.start && next.start >= volatile.end;
            if !apart {
                kept.end = kept.end.max(next.end);
            }
            !apart
        });
        spans
    }
}

impl Storage for FileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        fill_from(&self.file, buf, offset)
    }

    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        let Some(start) = self.data_start(range.clone())? else { return Ok(None) };
        // Nothing is there any more if somebody has cut the file just now.
        let hole = seek(&self.file, start, libc::SEEK_HOLE)?.unwrap_or(range.end);
        Ok(Some(start..hole.clamp(start, range.end)))
    }

    fn data_start(&self, range: Range<u64>) -> io::Result<Option<u64>> {
        // Behind the end of the file there is none, says the kernel as well.
        let start = seek(&self.file, range.start, libc::SEEK_DATA)?;
        Ok(start.filter(|&start| start < range.end))
    }

    fn write_durable(&self, parts: &[WriteSegment<'_>]) -> io::Result<()> {
        for part in parts {
            self.file.write_all_at(part.bytes, part.offset)?;
        }
        for span in self.spans(parts) {
            self.sync_range(span)?;
        }
        Ok(())
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        match self.fallocate(0, &range) {
            Err(e) if unsupported(&e) => Ok(()),
            done => done,
        }
    }

    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        match self.free(range.clone()) {
            Err(e) if unsupported(&e) => self.write_zeros(range),
            done => done,
        }
    }

    fn free(&self, range: Range<u64>) -> io::Result<()> {
        self.fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, &range)
    }

    fn extend(&self, len: u64) -> io::Result<()> {
        if self.len()? < len { self.file.set_len(len) } else { Ok(()) }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if self.len()? > len { self.file.set_len(len) } else { Ok(()) }
    }

    fn reading_allocates(&self) -> bool {
        matches!(fs::kind(&self.file), Ok(FsKind::Tmpfs))
    }

    fn unmappable(&self) -> io::Result<Option<i64>> {
        let unknown = |kind| if let FsKind::Unknown(number) = kind { Some(number) } else { None };
        fs::kind(&self.file).map(unknown)
    }

    fn write_back_failed(&self) -> bool {
        // Waits for one page at most; what the kernel has to tell is about the whole file.
        // SAFETY: plain integers and an open descriptor.
        unsafe { libc::sync_file_range(self.file.as_raw_fd(), 0, 1, libc::SYNC_FILE_RANGE_WAIT_BEFORE) != 0 }
    }

    fn map(&self, range: Range<u64>) -> io::Result<Mapping> {
        Mapping::of_file(&self.file, range)
    }

    fn exclude_from_sync(&self, range: Range<u64>) {
        self.volatile.0.store(range.start, SeqCst);
        self.volatile.1.store(range.end, SeqCst);
    }

    /// A file that is open for reading only takes it shared: that keeps writers out.
    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        let kind = if self.writable { libc::F_WRLCK } else { libc::F_RDLCK };
        taken(self.fcntl_lock(libc::F_OFD_SETLK, kind, lock_byte(lock)?))
    }

    fn holder(&self, first: Lock, last: Lock) -> Option<Holder> {
        let bytes = lock_byte(first).ok()?.start..lock_byte(last).ok()?.end;
        let found = self.fcntl_lock(libc::F_OFD_GETLK, libc::F_WRLCK, bytes).ok()?;
        // Locks of open files have no process, but other kinds do.
        match u32::try_from(found.l_pid) {
            Ok(pid) if pid > 0 && i32::from(found.l_type) != libc::F_UNLCK => Some(holder::describe(pid)),
            _ => holder::holder(
                self.file.metadata().ok()?.ino(),
                &(first.byte()..last.byte() + 1),
                self.file.as_raw_fd(),
            ),
        }
    }

    fn slot_held(&self, slots: Range<u64>) -> io::Result<bool> {
        // Who may only read the file can have a shared lock there, and has no session.
        self.held(libc::F_RDLCK, lock_byte(Lock::Slot(slots.start))?.start..lock_byte(Lock::Slot(slots.end))?.start)
    }

    fn has_readers(&self) -> io::Result<bool> {
        self.held(libc::F_WRLCK, lock_byte(Lock::Readers)?)
    }

    fn unlock(&self, lock: Lock) {
        // Unlocking an open descriptor does not fail.
        let _ = lock_byte(lock).and_then(|bytes| self.fcntl_lock(libc::F_OFD_SETLK, libc::F_UNLCK, bytes));
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn permit(&self) -> Permit {
        Permit::like(&self.file)
    }

    fn identity(&self) -> io::Result<Identity> {
        os::identity(&self.file)
    }
}

/// Whether the file system cannot do what it was asked for, and never can.
fn unsupported(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

/// Fills `buf` from `offset`, in as many calls as it takes. Bytes past the end of the file read as zeros.
pub(crate) fn fill_from(file: &impl FileExt, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => {
                buf[done..].fill(0);
                return Ok(());
            }
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn seek(file: &File, from: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    let from = i64::try_from(from).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    // SAFETY: plain integers and an open descriptor. The file position is used by nothing else.
    let at = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
    if at >= 0 {
        return Ok(Some(at as u64));
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        e => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::super::refuse::{Refused, refusing};
    use super::*;

    /// What the kernel is asked to sync is exactly what was written: of each span an error comes back, whatever of it is
    /// refused.
    #[test]
    fn all_spans_are_synced_from_their_first_byte_to_their_last() {
        // One span on each side of the mapped region, of lengths that tell them apart.
        let (before, after) = (
            WriteSegment { offset: 0, bytes: &[1; 3 * 4096] },
            WriteSegment { offset: 1 << 20, bytes: &[2; 5 * 4096] },
        );
        for (parts, fails) in [(vec![before, after], 3), (vec![before, after], 5), (vec![after], 5), (vec![before], 3)]
        {
            let disk = FileDisk::new(tempfile::tempfile().unwrap(), true);
            disk.exclude_from_sync(1 << 19..1 << 20);
            let refused =
                Refused { call: libc::SYS_msync, argument: Some((1, u32::MAX, fails * 4096)), error: libc::EIO };
            if let Some(written) = refusing(&[refused], || disk.write_durable(&parts)) {
                assert_eq!(
                    written.unwrap_err().raw_os_error(),
                    Some(libc::EIO),
                    "{fails} pages were not synced at once"
                );
            }
            disk.write_durable(&parts).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_punched_is_written_with_zeros_and_what_is_allocated_stays() {
        let refused = Refused { call: libc::SYS_fallocate, argument: None, error: libc::EOPNOTSUPP };
        refusing(&[refused], || {
            let disk = FileDisk::new(tempfile::tempfile().unwrap(), true);
            disk.file.write_all_at(&[7; 3 << 20], 0).unwrap();
            disk.punch_hole(4096..(2 << 20) + 4096).unwrap();
            disk.allocate(0..3 << 20).unwrap();
            // Nobody reads it any more: then zeros would only take space.
            assert!(disk.free(0..4096).is_err());
            disk.punch_hole(2 << 20..1 << 40).unwrap();
            let mut bytes = vec![0; 3 << 20];
            disk.read_at(&mut bytes, 0).unwrap();
            assert!(bytes[..4096].iter().all(|&b| b == 7) && bytes[4096..].iter().all(|&b| b == 0));
            assert_eq!(disk.len().unwrap(), 3 << 20);
        });
    }

    #[test]
    fn parts_are_synced_together_unless_the_mapped_region_lies_between() {
        let disk = FileDisk::new(tempfile::tempfile().unwrap(), true);
        let part = |offset| WriteSegment { offset, bytes: &[1; 512] };
        let parts: Vec<WriteSegment<'_>> = (0..100).rev().map(|i| part(i * 65536)).collect();
        let (spans, whole) = (disk.spans(&parts), 0..99 * 65536 + 512);
        assert_eq!(spans.as_slice(), std::slice::from_ref(&whole));
        disk.exclude_from_sync(65536 * 10..65536 * 20);
        let parts = [part(0), part(65536 * 9), part(65536 * 20), part(65536 * 30)];
        assert_eq!(disk.spans(&parts), [0..65536 * 9 + 512, 65536 * 20..65536 * 30 + 512]);
    }
}
