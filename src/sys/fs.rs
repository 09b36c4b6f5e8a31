//! What is known of file systems.
//!
//! Invariant kept here: a file is taken for one that can be mapped only on file systems that are known to keep its pages in this
//! kernel's page cache and nowhere else. Of any other one, another machine or a program may have pages that this kernel does
//! not know, or not be told of those that this kernel has.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A file system, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FsKind {
    Btrfs,
    /// Reading a hole of a mapping takes space.
    Tmpfs,
    /// Another one whose files can be mapped.
    Local,
    /// One whose files may be mapped elsewhere as well, or of which nothing is known; its type as the kernel says it.
    Unknown(i64),
}

/// Names of those whose files can be mapped, for messages.
pub(crate) const MAPPABLE: &str = "ext2, ext3, ext4, XFS, btrfs, F2FS, bcachefs, tmpfs, and overlayfs over these";

const BTRFS: i64 = 0x9123_683E;
const TMPFS: i64 = 0x0102_1994;
const OVERLAYFS: i64 = 0x794c_7630;
/// From linux/magic.h and the file systems' sources: ext2 to ext4, XFS, F2FS, bcachefs, ramfs.
const LOCAL: [i64; 5] = [0xEF53, 0x5846_5342, 0xF2F5_2010, 0xca45_1a4e, 0x8584_58f6];

/// The kind with this type number.
const fn kind_of(number: i64) -> FsKind {
    match number {
        BTRFS => FsKind::Btrfs,
        TMPFS => FsKind::Tmpfs,
        _ => {
            let mut i = 0;
            while i < LOCAL.len() {
                if LOCAL[i] == number {
                    return FsKind::Local;
                }
                i += 1;
            }
            FsKind::Unknown(number)
        }
    }
}

/// What kind of file system `file` is on. Of an overlay, the one that has the files which are open for writing.
pub(crate) fn kind(file: &File) -> io::Result<FsKind> {
    match number(file)? {
        OVERLAYFS => Ok(upper_of(file).map_or(FsKind::Unknown(OVERLAYFS), kind_of)),
        number => Ok(kind_of(number)),
    }
}

/// The type of the file system that `file` is on, as statfs tells it.
pub(super) fn number(file: &File) -> io::Result<i64> {
    // SAFETY: statfs is a plain C struct for which all-zero bytes are valid; the descriptor is open.
    unsafe {
        let mut s: libc::statfs = std::mem::zeroed();
        match libc::fstatfs(file.as_raw_fd(), &mut s) {
            0 => Ok(s.f_type as i64),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The type of the upper file system of the overlay that `file` is on, if this process can see it and prove that.
fn upper_of(file: &File) -> Option<i64> {
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = facts.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    // The directory, as a new file has no name yet. A file that is open for writing has its directory above.
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let merged = File::open(path.parent()?).ok()?;
    let upper = File::open(upper_in(&mounts, mount, path.parent()?)?).ok()?;
    // The kernel tells the name that the upper directory had where the overlay was mounted, in another container maybe. Here
    // that may be the name of something else. Of the directory itself, an overlay has the times.
    let same = || Some(number(&merged).ok()? == OVERLAYFS && times(&merged)? == times(&upper)?);
    (0..3).any(|_| same() == Some(true)).then(|| number(&upper).ok()).flatten()
}

/// When a directory was made, and what was last done to it.
fn times(directory: &File) -> Option<(SystemTime, [i64; 4])> {
    let m = directory.metadata().ok()?;
    Some((m.created().ok()?, [m.ctime(), m.ctime_nsec(), m.mtime(), m.mtime_nsec()]))
}

/// Where an overlay that is mounted has a directory above, by what the kernel tells of mounts.
fn upper_in(mounts: &str, mount: &str, directory: &Path) -> Option<PathBuf> {
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(mount))?;
    // Characters that would be in the way are written as octal numbers; nobody needs such a name.
    let (place, options) = line.split_once(" - ").filter(|_| !line.contains('\\'))?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?.strip_prefix('/')?, place.next()?);
    let upper = options.rsplit(' ').next()?.split(',').find_map(|option| option.strip_prefix("upperdir="))?;
    Some(Path::new(upper).join(root).join(directory.strip_prefix(point).ok()?)).filter(|upper| upper.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_can_be_mapped() {
        assert_eq!(kind_of(0xEF53), FsKind::Local);
        assert_eq!([kind_of(BTRFS), kind_of(TMPFS)], [FsKind::Btrfs, FsKind::Tmpfs]);
        // FUSE (and virtiofs), NFS, CIFS, Ceph, 9P, overlayfs as such, ZFS, and one that does not exist.
        for other in [0x6573_5546, 0x6969, 0xff53_4d42, 0x00c3_6400, 0x0102_1997, OVERLAYFS, 0x2fc1_2fc1, 0] {
            assert_eq!(kind_of(other), FsKind::Unknown(other));
        }
        // Of a file that is really there, whatever it is on here.
        assert!(kind(&tempfile::tempfile().unwrap()).is_ok());
        assert!(matches!(kind(&File::open("/proc/self/status").unwrap()), Ok(FsKind::Unknown(0x9fa0))));
    }

    #[test]
    fn the_upper_directory_of_an_overlay_is_found() {
        let mounts = "28 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
                      31 28 0:27 / /merged rw shared:2 - overlay overlay rw,lowerdir=/l,upperdir=/u/p,workdir=/w\n\
                      32 28 0:28 / /other rw - overlay overlay rw,lowerdir=/a:/b\n\
                      33 28 0:29 / /odd rw - overlay overlay rw,upperdir=/a\\040b,workdir=/w\n\
                      34 28 0:27 /c/d /part rw - overlay overlay rw,lowerdir=/l,upperdir=/u/p,workdir=/w\n\
                      35 28 0:30 / /near rw - overlay overlay rw,lowerdir=l,upperdir=u,workdir=w\n";
        let upper = |mount, directory| upper_in(mounts, mount, Path::new(directory));
        assert_eq!(upper("31", "/merged/e"), Some("/u/p/e".into()));
        assert_eq!(upper("34", "/part/e"), Some("/u/p/c/d/e".into()));
        for (mount, directory) in
            [("31", "/elsewhere"), ("28", "/e"), ("32", "/other"), ("33", "/odd"), ("35", "/near"), ("3", "/")]
        {
            assert_eq!(upper(mount, directory), None, "{mount}");
        }
    }
}
