//! Facts about disk images and backup targets: what they are, when they were last changed, and what tells them from others.
//!
//! Invariant kept here: a fact that cannot be had is zero or empty, which means "unknown"; it is never guessed.

use super::fs::{self, FsKind};
use super::os;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Seconds and nanoseconds since 1970.
pub(crate) type Time = (i64, u32);

/// What the system says of a disk image at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageFacts {
    pub block_device: bool,
    pub size: u64,
    pub modified: Time,
    pub changed: Time,
    pub inode: u64,
    /// The device that holds the file, or the block device itself.
    pub device: u64,
    /// Nanoseconds since 1970.
    pub birth: i64,
    /// Identity of the file system that holds the file.
    pub filesystem: [u8; 16],
    /// What identifies the block device, or that below the file's file system: lines of text.
    pub known_by: String,
    /// Number that the kernel gave to this attachment of the block device, in this boot.
    pub disk_sequence: u64,
    pub boot_id: [u8; 16],
    /// The file system's times step by this much at least.
    pub coarse: Duration,
    /// The file's times come from this machine's clock.
    pub own_clock: bool,
}

/// Facts about a disk image: a regular file or a block device.
pub(crate) fn image(file: &File) -> io::Result<ImageFacts> {
    let m = file.metadata()?;
    let boot_id = os::boot_id();
    if m.file_type().is_block_device() {
        let mut end = file;
        let at = end.stream_position()?;
        let size = end.seek(SeekFrom::End(0))?;
        end.seek(SeekFrom::Start(at))?;
        // The node's own inode and times say nothing about the device's content.
        return Ok(ImageFacts {
            block_device: true,
            size,
            modified: (0, 0),
            changed: (0, 0),
            inode: 0,
            device: m.rdev(),
            birth: 0,
            filesystem: [0; 16],
            known_by: known_by(m.rdev()),
            disk_sequence: disk_sequence(file),
            boot_id,
            coarse: Duration::ZERO,
            own_clock: true,
        });
    }
    if !m.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a regular file nor a block device"));
    }
    let kind = fs::kind(file);
    let nanos = |n: i64| n.clamp(0, 999_999_999) as u32;
    Ok(ImageFacts {
        block_device: false,
        size: m.len(),
        modified: (m.mtime(), nanos(m.mtime_nsec())),
        changed: (m.ctime(), nanos(m.ctime_nsec())),
        inode: m.ino(),
        device: m.dev(),
        birth: os::mount_and_birth(file).1,
        filesystem: filesystem(file),
        known_by: known_by(m.dev()),
        disk_sequence: 0,
        boot_id,
        coarse: if matches!(kind, Ok(FsKind::Unknown(FAT))) { Duration::from_secs(2) } else { Duration::ZERO },
        own_clock: !matches!(kind, Ok(FsKind::Unknown(_)) | Err(_)),
    })
}

const FAT: i64 = 0x4d44;

/// What identifies the file system of `file` also after it was mounted again: its UUID; else the identity that statfs
/// gives, which leaves the last 8 bytes zeros.
fn filesystem(file: &File) -> [u8; 16] {
    #[repr(C)]
    struct FsUuid2 {
        len: u8,
        uuid: [u8; 16],
    }
    const FS_IOC_GETFSUUID: libc::c_ulong = 0x8011_1500;
    let mut found = FsUuid2 { len: 0, uuid: [0; 16] };
    // SAFETY: the request writes a struct fsuuid2, 17 bytes, to found.
    let has = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETFSUUID as _, &mut found) } == 0 && found.len == 16;
    let number = statfs_id(file).to_le_bytes();
    let mut id = [0; 16];
    if !has {
        id[..8].copy_from_slice(&number);
        return id;
    }
    id = found.uuid;
    if matches!(fs::kind(file), Ok(FsKind::Btrfs)) {
        // A snapshot of a subvolume has the same inodes and times. What statfs gives tells subvolumes apart.
        id.iter_mut().zip(number).for_each(|(byte, of_subvolume)| *byte ^= of_subvolume);
    }
    id
}

fn statfs_id(file: &File) -> u64 {
    // SAFETY: statvfs is a plain C struct for which all-zero bytes are valid; the descriptor is open.
    unsafe {
        let mut s: libc::statvfs = std::mem::zeroed();
        if libc::fstatvfs(file.as_raw_fd(), &mut s) == 0 { s.f_fsid as u64 } else { 0 }
    }
}

fn disk_sequence(device: &File) -> u64 {
    const BLKGETDISKSEQ: libc::c_ulong = 0x8008_1280;
    let mut number = 0u64;
    // SAFETY: the request writes a u64 to number.
    if unsafe { libc::ioctl(device.as_raw_fd(), BLKGETDISKSEQ as _, &mut number) } == 0 { number } else { 0 }
}

/// What identifies the block device with this number; nothing where the number is of no block device.
fn known_by(device: u64) -> String {
    let (major, minor) = (libc::major(device as _), libc::minor(device as _));
    let node = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"));
    node.map(|node| facts_of(&node)).unwrap_or_default()
}

/// What sysfs keeps of a block device that stays with it, and not with the place that it is attached to: a line each.
fn facts_of(node: &Path) -> String {
    let mut found = String::new();
    let mut add = |what: &str, value: &str| {
        if !value.is_empty() {
            found.extend([what, " ", value, "\n"]);
        }
    };
    if let Some(number) = text(&node.join("partition")) {
        let of_disk = node.parent().map(facts_of).unwrap_or_default();
        let events = text(&node.join("uevent")).unwrap_or_default();
        let uuid = events.lines().find_map(|line| line.strip_prefix("PARTUUID=")).unwrap_or_default();
        if !of_disk.is_empty() {
            add("disk", &of_disk);
            add("partition", &number);
            add("start", &text(&node.join("start")).unwrap_or_default());
        }
        add("partition uuid", uuid);
    } else if let Some(path) = text(&node.join("loop/backing_file")) {
        add("loop", &backing(Path::new(&path)));
        // A number alone identifies nothing.
        if !found.is_empty() {
            for name in ["loop/offset", "loop/sizelimit"] {
                let value = text(&node.join(name)).unwrap_or_default();
                found.extend([name, " ", &value, "\n"]);
            }
        }
    } else {
        // Of the device mapper and md; SCSI, NVMe and virtio disks; network block devices; cards; Ceph.
        const FACTS: [&str; 13] = [
            "dm/uuid",
            "md/uuid",
            "wwid",
            "serial",
            "uuid",
            "backend",
            "device/wwid",
            "device/serial",
            "device/cid",
            "device/cluster_fsid",
            "device/pool_id",
            "device/image_id",
            "device/current_snap",
        ];
        FACTS.iter().for_each(|name| add(name, &text(&node.join(name)).unwrap_or_default()));
    }
    found
}

/// What identifies the file behind a loop device. Of one that has no name any more, nothing.
fn backing(path: &Path) -> String {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let Ok(file) = opened else { return String::new() };
    let Ok(m) = file.metadata() else { return String::new() };
    if m.file_type().is_block_device() {
        return known_by(m.rdev());
    }
    let system = filesystem(&file);
    // Where nothing is known of the file system, its number stands for it.
    let device = if system == [0; 16] { m.dev() } else { 0 };
    format!("{:?} {} {} {}", system, device, m.ino(), os::mount_and_birth(&file).1)
}

/// A short text that a file of sysfs holds.
fn text(path: &PathBuf) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(4096).read_to_string(&mut text).ok()?;
    Some(text.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory as sysfs has one for each block device.
    fn node(dir: &Path, files: &[(&str, &str)]) -> PathBuf {
        for (name, text) in files {
            std::fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.join(name), format!("{text}\n")).unwrap();
        }
        dir.to_path_buf()
    }

    #[test]
    fn a_device_is_known_by_what_stays_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = |name: &str, files: &[(&str, &str)]| facts_of(&node(&dir.path().join(name), files));
        let a = disk("a", &[("wwid", "naa.5000"), ("size", "2048"), ("queue/rotational", "1")]);
        assert_eq!(a, "wwid naa.5000\n");
        assert_eq!(disk("b", &[("size", "2048")]), "", "a size identifies nothing");
        assert_eq!(disk("c", &[("dm/uuid", ""), ("dm/name", "x")]), "", "neither does a name that anybody may give");
        assert_ne!(disk("d", &[("serial", "1")]), disk("e", &[("serial", "2")]));
        assert_ne!(disk("f", &[("dm/uuid", "LVM-1")]), disk("g", &[("dm/uuid", "LVM-2")]));
    }

    #[test]
    fn a_partition_is_known_by_its_disk_and_place_or_by_its_own_uuid() {
        let dir = tempfile::tempdir().unwrap();
        let of = |disk: &str, serial: &str, part: &[(&str, &str)]| {
            let disk = node(&dir.path().join(disk), &[("serial", serial)]);
            facts_of(&node(&disk.join("part"), part))
        };
        let first = [("partition", "1"), ("start", "2048")];
        let a = of("a", "S1", &first);
        assert!(a.contains("serial S1") && a.contains("start 2048"), "{a}");
        assert_ne!(a, of("b", "S2", &first));
        assert_ne!(a, of("c", "S1", &[("partition", "2"), ("start", "4096")]));
        assert_eq!(of("d", "", &first), "");
        assert_ne!(of("e", "", &[("partition", "1"), ("uevent", "MAJOR=8\nPARTUUID=1234-01")]), "");
    }

    #[test]
    fn a_loop_device_is_known_by_the_file_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&two, "2").unwrap();
        let over = |name: &str, file: &Path, offset: &str| {
            let path = file.display().to_string();
            facts_of(&node(&dir.path().join(name), &[("loop/backing_file", &path), ("loop/offset", offset)]))
        };
        let first = over("a", &one, "0");
        assert_eq!(first, over("b", &one, "0"), "whatever its number");
        assert_ne!(first, over("c", &two, "0"));
        assert_ne!(first, over("d", &one, "512"));
        assert_eq!(over("e", &dir.path().join("gone (deleted)"), "0"), "");
    }

    #[test]
    fn a_file_has_a_birth_and_a_file_system_where_this_one_tells() {
        let file = tempfile::tempfile().unwrap();
        let (first, second) = (image(&file).unwrap(), image(&tempfile::tempfile().unwrap()).unwrap());
        assert_eq!(first.filesystem, second.filesystem);
        assert_ne!(first.inode, second.inode);
        assert!(image(&File::open("/dev/null").unwrap()).is_err());
    }
}
