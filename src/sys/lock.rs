//! [`Lock`]: the byte-range locks of a file.
//!
//! Invariant kept here: each lock has a byte of its own, behind every file's end.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// The byte-range locks. They die with their holder. In FORMAT.md, "Locks".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Held while waiting for the gate, so that nobody who had it just now takes it again first.
    GateQueue,
    /// Held for every decision about opening, closing, being alone and truncating.
    Gate,
    /// Held for every commit.
    Update,
    /// Held for a moment while waiting for that, as the turn is for the gate.
    UpdateQueue,
    /// Held, shared, by who has the volatile region mapped for reading.
    Readers,
    /// Held while space that no header names is chosen and written, until a header names it.
    RegionAllocator,
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
            Lock::GateQueue => FIRST + 2,
            Lock::Readers => FIRST + 3,
            Lock::RegionAllocator => FIRST + 4,
            Lock::Backup => FIRST + 5,
            Lock::Creator => FIRST + 6,
            Lock::UpdateQueue => FIRST + 7,
            Lock::Slot(slot) => (FIRST + 64).saturating_add(slot),
        }
    }
}

/// The byte of a lock, as the kernel wants it.
pub(super) fn lock_byte(lock: Lock) -> io::Result<Range<i64>> {
    let byte = i64::try_from(lock.byte()).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(byte..byte + 1)
}

/// Does something about the locks of some bytes of a file, and says what the kernel says of them.
pub(super) fn fcntl_lock(
    file: &File,
    command: libc::c_int,
    kind: libc::c_int,
    bytes: Range<i64>,
) -> io::Result<libc::flock> {
    // SAFETY: flock is a plain C struct for which all-zero bytes are valid.
    let mut l: libc::flock = unsafe { std::mem::zeroed() };
    l.l_type = kind as libc::c_short;
    l.l_whence = libc::SEEK_SET as libc::c_short;
    l.l_start = bytes.start;
    l.l_len = bytes.end - bytes.start;
    loop {
        // SAFETY: the descriptor is open and l is a valid flock, which the kernel may write to.
        if unsafe { libc::fcntl(file.as_raw_fd(), command, &mut l) } == 0 {
            return Ok(l);
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

/// Takes a lock of a file that is open for writing, if it is free.
pub(super) fn lock_now(file: &File, lock: Lock) -> io::Result<bool> {
    taken(fcntl_lock(file, libc::F_OFD_SETLK, libc::F_WRLCK, lock_byte(lock)?))
}

/// Whether a lock was taken that is not waited for.
pub(super) fn taken(answer: io::Result<libc::flock>) -> io::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(e) => Err(e),
    }
}
