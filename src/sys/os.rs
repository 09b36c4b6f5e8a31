//! What the operating system tells of files and of the machine.
//!
//! Invariant kept here: a fact that cannot be had is an error or says "unknown"; it is never guessed.

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// Opens an existing file. Never blocks on a FIFO; refuses what is not a regular file.
pub(crate) fn open(path: &Path, write: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    if !kind.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Opens whatever is at `path` for reading, and never waits for the other end of a FIFO.
pub(crate) fn open_unblocked(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC).open(path)
}

/// Runs something with the file of a descriptor that the program has open and keeps open meanwhile: it is not closed by this. For
/// bindings to languages whose files are numbers; opening the file anew, and closing that, would let go of the `fcntl` locks
/// that the process has on it.
#[doc(hidden)]
pub fn with_descriptor<R>(fd: RawFd, f: impl FnOnce(&File) -> R) -> io::Result<R> {
    // SAFETY: asks about a number, whatever it is.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and so not negative; and it stays the program's.
    let file = ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
    Ok(f(&file))
}

/// Whether something is at `path`, be it only a dangling link.
pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

const FS_NOCOW_FL: libc::c_long = 0x0080_0000;

/// Whether the file is marked to be written in place (btrfs).
pub(crate) fn is_nocow(file: &File) -> io::Result<bool> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the request writes one long (or int, which fits) to flags.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &mut flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(flags & FS_NOCOW_FL != 0)
}

/// Marks an empty file to be written in place (btrfs).
pub(crate) fn set_nocow(file: &File) -> io::Result<()> {
    let mut flags: libc::c_long = 0;
    // SAFETY: the requests read or write one long (or int, which fits) at flags.
    unsafe {
        if libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &mut flags) != 0 {
            return Err(io::Error::last_os_error());
        }
        flags |= FS_NOCOW_FL;
        if libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &flags) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Who a file is, on this machine, now.
pub(crate) fn identity(file: &File) -> io::Result<Identity> {
    let m = file.metadata()?;
    let (mount, birth) = mount_and_birth(file);
    Ok(Identity { boot_id: boot_id(), device: m.dev(), inode: m.ino(), mount, birth })
}

/// The unique id of the mount that `file` was opened through, 0 when the kernel (before 6.8) has none; and when the
/// file was made, in nanoseconds since 1970, 0 when the file system does not say.
pub(crate) fn mount_and_birth(file: &File) -> (u64, i64) {
    const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
    let wanted = STATX_MNT_ID_UNIQUE | libc::STATX_BTIME;
    // SAFETY: statx is a plain C struct for which all-zero bytes are valid; the path is an empty C string.
    unsafe {
        let mut s: libc::statx = std::mem::zeroed();
        if libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, wanted, &mut s) != 0 {
            return (0, 0);
        }
        let has = |flag| s.stx_mask & flag != 0;
        let birth = s.stx_btime.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(s.stx_btime.tv_nsec));
        (if has(STATX_MNT_ID_UNIQUE) { s.stx_mnt_id } else { 0 }, if has(libc::STATX_BTIME) { birth } else { 0 })
    }
}

/// The boot of this machine; zeros when it cannot be had from a real procfs.
pub(crate) fn boot_id() -> [u8; 16] {
    read_boot_id().unwrap_or_default()
}

fn read_boot_id() -> Option<[u8; 16]> {
    use std::io::Read;
    const PROC: i64 = 0x9fa0;
    let mut file = File::open("/proc/sys/kernel/random/boot_id").ok()?;
    if super::fs::number(&file).ok()? != PROC {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let digits: Vec<u8> = text.bytes().filter_map(|b| (b as char).to_digit(16).map(|d| d as u8)).collect();
    let mut id = [0; 16];
    if digits.len() != 32 {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(id)
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0u8; N];
    let mut done = 0;
    while done < N {
        // SAFETY: the pointer and length describe the rest of the array.
        let n = unsafe { libc::getrandom(bytes[done..].as_mut_ptr().cast(), N - done, 0) };
        if n < 0 {
            let e = io::Error::last_os_error();
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        } else {
            done += n as usize;
        }
    }
    Ok(bytes)
}

/// Seconds since 1970, for information only.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}
