//! What is known of file systems.
//!
//! Invariant kept here: a file is taken for one that can be mapped only on file systems that are known to keep its pages in this
//! kernel's page cache and nowhere else. Of any other one, another machine or a program may have pages that this kernel does
//! not know, or not be told of those that this kernel has.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

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

fn number(file: &File) -> io::Result<i64> {
    // SAFETY: statfs is a plain C struct for which all-zero bytes are valid; the descriptor is open.
    unsafe {
        let mut s: libc::statfs = std::mem::zeroed();
        match libc::fstatfs(file.as_raw_fd(), &mut s) {
            0 => Ok(s.f_type as i64),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The type of the upper file system of the overlay that `file` is on, if this process can see it.
fn upper_of(file: &File) -> Option<i64> {
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = facts.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    number(&File::open(upper_in(&mounts, mount)?).ok()?).ok()
}

/// The upper directory of an overlay that is mounted, by what the kernel tells of mounts.
fn upper_in<'a>(mounts: &'a str, mount: &str) -> Option<&'a Path> {
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(mount))?;
    let options = line.split_once(" - ")?.1.rsplit(' ').next()?;
    let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir="))?;
    // Characters that would be in the way are written as octal numbers; nobody needs such a name.
    (!upper.contains('\\')).then_some(Path::new(upper))
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
                      33 28 0:29 / /odd rw - overlay overlay rw,upperdir=/a\\040b,workdir=/w\n";
        assert_eq!(upper_in(mounts, "31"), Some(Path::new("/u/p")));
        assert!(["28", "32", "33", "3"].iter().all(|mount| upper_in(mounts, mount).is_none()));
    }
}
