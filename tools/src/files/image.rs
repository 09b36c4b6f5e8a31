//! Images and backup targets as files: opening, sizes, identity, holes.
//!
//! Invariant kept here: nothing here blocks on a FIFO, "hole" is only said of what reads as zeros, and a block device is written
//! only by a command that has it alone.

use crate::exit::{self, Failure, Result};
use dirtymap::ImageStamp;
use dirtymap::format::MAGIC;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes that are read or written at once.
pub const PIECE: u64 = 1 << 20;

/// What a map is called among those below.
const MAP: &str = "a map of dirtymap";

/// Where files start that hold no disk, or one in another order than its own, and what they are.
const CONTAINERS: [(usize, &[u8], &str); 11] = [
    (0, &MAGIC, MAP),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"QED\0", "a QED image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"COWD", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0, b"WithoutFreeSpace", "a Parallels image"),
    (0, b"WithouFreSpacExt", "a Parallels image"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image"),
];

/// A regular file or block device that is open.
#[derive(Debug)]
pub struct Image {
    pub path: PathBuf,
    pub file: File,
    /// As it was when it was opened.
    pub stamp: ImageStamp,
    /// Whether what its file system calls a hole is one.
    pub knows_holes: bool,
    /// Start and end of data that was found last: to find the end, a file system may go through all of it. A hole in it is
    /// read like data, which is right as well, so that it does not matter whether the two belong together.
    data: [AtomicU64; 2],
}

impl Image {
    /// Opens an image that exists.
    pub fn open(path: &Path, write: bool) -> Result<Image> {
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path).map_err(|e| match path
            .metadata()
        {
            Ok(found) if found.file_type().is_socket() => Image::of_kind(path),
            _ => Failure::open(path, &e),
        })?;
        Image::of(file, path)
    }

    /// The failure of what is no file of bytes.
    fn of_kind(path: &Path) -> Failure {
        let message = format!(
            "{}: neither a regular file nor a block device; what a server serves at a socket is given as \
             nbd+unix:///?socket=PATH, with --control",
            path.display()
        );
        Failure::new("not-an-image", message)
    }

    /// Takes the stamp of an open file.
    pub fn of(file: File, path: &Path) -> Result<Image> {
        let kind = file.metadata().map_err(|e| Failure::io(path.display(), &e))?.file_type();
        if kind.is_dir() {
            return Err(Failure::new("is-a-directory", format!("{}: is a directory, no image", path.display())));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Image::of_kind(path));
        }
        let stamp = ImageStamp::glance(&file).map_err(|e| Failure::io(path.display(), &e))?;
        // A wrong no only costs reading.
        let knows_holes = file_system(&file).is_ok_and(|(_, local)| local);
        Ok(Image { path: path.to_path_buf(), file, stamp, knows_holes, data: Default::default() })
    }

    /// Opens what a backup shall write to; `None` if there is nothing. A block device that is mounted or otherwise in use is
    /// refused.
    pub fn open_target(path: &Path) -> Result<Option<Image>> {
        match path.metadata() {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => match exit::leads_nowhere(path) {
                Some(message) => return Err(Failure::new("not-found", message)),
                None => return Ok(None),
            },
            Err(e) => return Err(Failure::io(path.display(), &e)),
        }
        match open_claiming(path, true) {
            Ok(file) => Image::of(file, path).map(Some),
            Err(e) if is_claimed(&e) => {
                let message = format!(
                    "{}: is in use: mounted, or part of another device, or claimed by another program; a backup would write \
                     to it behind its user's back",
                    path.display()
                );
                Err(Failure::new("in-use", message))
            }
            Err(e) => Err(Failure::io(format_args!("{}: open", path.display()), &e)),
        }
    }

    /// Makes a file that must not exist, for the owner alone, or for those who may use the file that it will hold the content of,
    /// if that has the same owner and group.
    pub fn create(path: &Path, like: Option<&File>) -> Result<Image> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let made = file.and_then(|file| permit_like(&file, like).map(|()| file));
        Image::of(made.map_err(|e| Failure::at(path, "create", &e))?, path)
    }

    /// The same, as it is now.
    pub fn refreshed(self) -> Result<Image> {
        let stamp = self.glance()?;
        Ok(Image { stamp, ..self })
    }

    /// How many names a regular file has.
    pub fn names(&self) -> Option<u64> {
        self.file.metadata().ok().filter(|m| m.is_file()).map(|m| m.nlink())
    }

    /// What is not known of it, as a block device.
    pub fn untraceable(&self) -> String {
        let nor = match self.stamp.is_identified() {
            true => "",
            false => ", and nothing identifies it but its number: another disk in its place goes unnoticed as well",
        };
        let path = self.path.display();
        format!(
            "{path} is a block device, where writes leave no trace: what is written without its map goes unnoticed{nor}"
        )
    }

    pub fn size(&self) -> u64 {
        self.stamp.size()
    }

    /// Refuses a file in which the bytes of a disk are not where the disk has them.
    pub fn is_raw(&self) -> Result<()> {
        let Some(format) = self.container() else { return Ok(()) };
        if format == MAP {
            let message = format!("{}: is a map, and no image; give the image that it is of", self.path.display());
            return Err(Failure::new("not-raw", message));
        }
        let message = format!(
            "{}: is {format}, by its first bytes: its bytes are not where the disk has them, so a map of the disk does \
             not fit it; give a raw image or a block device (qemu-nbd makes one of it), or take the bytes of the file as they \
             are (--raw)",
            self.path.display()
        );
        Err(Failure::new("not-raw", message))
    }

    /// What it is by its first bytes, if that is a file in which the bytes of a disk are not where the disk has them.
    pub fn container(&self) -> Option<&'static str> {
        let mut start = [0; 128];
        let mut filled = 0;
        // A short file, or one that cannot be read, is none of these.
        while let Ok(n @ 1..) = self.file.read_at(&mut start[filled..], filled as u64) {
            filled += n;
        }
        let found = CONTAINERS.iter().find(|(at, magic, _)| start[*at..].starts_with(magic));
        found.map(|(.., format)| *format)
    }

    /// Takes a stamp to be recorded: waits until a later write would change it.
    pub fn stamp_now(&self) -> Result<ImageStamp> {
        ImageStamp::of(&self.file).map_err(|e| self.failed("look at it", &e))
    }

    /// Takes a stamp to be compared.
    pub fn glance(&self) -> Result<ImageStamp> {
        ImageStamp::glance(&self.file).map_err(|e| self.failed("look at it", &e))
    }

    /// Makes everything that was written durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.failed("sync", &e))
    }

    pub fn failed(&self, what: &str, e: &io::Error) -> Failure {
        Failure::io(format_args!("{}: {what}", self.path.display()), e)
    }

    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|e| self.failed(&format!("read {} bytes at {offset}", buffer.len()), &e))
    }

    pub fn write(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|e| self.failed(&format!("write {} bytes at {offset}", bytes.len()), &e))
    }

    /// The first part of `range` that may hold data; `None` when all of it is a hole. Where the system does not know
    /// of holes, everything is data.
    pub fn next_data(&self, range: Range<u64>) -> Option<Range<u64>> {
        if range.is_empty() {
            return None;
        }
        if !self.knows_holes {
            return Some(range);
        }
        let known = self.data[0].load(Relaxed)..self.data[1].load(Relaxed);
        if known.contains(&range.start) {
            return Some(range.start..range.end.min(known.end));
        }
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(range.start)) {
            Ok(start) if start >= range.end => return None,
            Ok(start) => start.max(range.start),
            Err(rustix::io::Errno::NXIO) => return None,
            Err(_) => return Some(range),
        };
        match rustix::fs::seek(&self.file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => {
                self.data[0].store(start, Relaxed);
                self.data[1].store(end, Relaxed);
                Some(start..end.min(range.end))
            }
            _ => Some(start..range.end),
        }
    }

    /// Whether nothing was ever written to it, as far as the system can tell: a regular file of nothing but holes.
    pub fn is_blank(&self) -> bool {
        !self.stamp.is_block_device() && self.next_data(0..self.size()).is_none()
    }

    /// Makes `range` read as zeros: by a hole where that is possible, else by writing them.
    pub fn zero(&self, range: Range<u64>) -> Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.data[1].store(0, Relaxed);
        if range.is_empty() || rustix::fs::fallocate(&self.file, flags, range.start, range.end - range.start).is_ok() {
            return Ok(());
        }
        let zeros = vec![0; PIECE as usize];
        for piece in pieces(range) {
            self.write(&zeros[..(piece.end - piece.start) as usize], piece.start)?;
        }
        Ok(())
    }

    /// Asks the system to forget what it has cached, so that reading goes to the device. Best effort.
    pub fn forget_cache(&self) {
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// Opens a file. A block device is claimed, which the kernel lets one user do.
pub(super) fn open_claiming(path: &Path, write: bool) -> io::Result<File> {
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    if path.metadata().is_ok_and(|m| m.file_type().is_block_device()) {
        // Without O_CREAT that is what it means.
        flags |= OFlags::EXCL;
    }
    OpenOptions::new().read(true).write(write).custom_flags(flags.bits() as i32).open(path)
}

/// Whether another one has claimed the device.
pub(super) fn is_claimed(e: &io::Error) -> bool {
    e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error())
}

/// Cuts a range at multiples of [`PIECE`].
pub fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let end = (at - at % PIECE).saturating_add(PIECE).min(range.end);
        let piece = at..end;
        at = end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Whether all bytes are zeros.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    rest.iter().all(|b| *b == 0) && words.iter().all(|word| word.iter().fold(0, |all, b| all | b) == 0)
}

/// Lets those use a new file who may use the file that it will hold the content of, if that has the same owner and group; else its
/// owner alone.
pub fn permit_like(file: &File, like: Option<&File>) -> io::Result<()> {
    let Some(like) = like else { return file.set_permissions(Permissions::from_mode(0o600)) };
    let (new, old) = (file.metadata()?, like.metadata()?);
    // As the library's rule for maps, but a target stays with the user who makes it: nothing is given away. The mode of
    // a file with an access list says more than its group may do.
    let listed = rustix::fs::fgetxattr(like, "system.posix_acl_access", &mut [0u8; 0][..]).is_ok();
    let shared = old.is_file() && !listed && (new.uid(), new.gid()) == (old.uid(), old.gid());
    let mode = if shared { old.mode() & 0o666 | 0o600 } else { 0o600 };
    file.set_permissions(Permissions::from_mode(mode))
}

/// The file system that a file is on, by its number of statfs(2), and whether it is known to answer for its files itself: no
/// other machine, and no program, does. The library's list is of what may be mapped, for which it looks through overlays as
/// well.
pub fn file_system(file: &File) -> io::Result<(u64, bool)> {
    // From linux/magic.h: ext2 to ext4, XFS, btrfs, tmpfs, F2FS, bcachefs.
    const LOCAL: [u64; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010, 0xca45_1a4e];
    let number = rustix::fs::fstatfs(file)?.f_type as u64 & 0xffff_ffff;
    Ok((number, LOCAL.contains(&number)))
}

/// What makes two names one file: the block device's number, or file system and inode.
fn identity(m: &Metadata) -> (bool, u64, u64) {
    if m.file_type().is_block_device() { (true, m.rdev(), 0) } else { (false, m.dev(), m.ino()) }
}

/// Whether two names lead to the same file or device. A name that leads nowhere is like no other.
pub fn same(a: &Path, b: &Path) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => identity(&a) == identity(&b),
        _ => false,
    }
}

/// Refuses two roles for one file.
pub fn distinct(roles: &[(&str, &Path)]) -> Result<()> {
    for (i, (role, path)) in roles.iter().enumerate() {
        for (other_role, other) in &roles[..i] {
            if same(path, other) {
                let message = format!(
                    "{}: is given as the {other_role} and as the {role}; they must be different files",
                    path.display()
                );
                return Err(Failure::new("same-file", message));
            }
        }
    }
    Ok(())
}

/// The directory that `path` is in. The library has the same for itself; its users have no need of it.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one piece is what is meant")]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_a_program_makes_up_is_not_asked_for_holes() {
        let made_up = Image::open(Path::new("/proc/self/status"), false).unwrap();
        assert!(!made_up.knows_holes);
        assert_eq!(made_up.next_data(0..5), Some(0..5));
    }

    #[test]
    fn what_it_is_told_to_be_zeros_is_a_hole_although_it_was_found_to_be_data() {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::create(&dir.path().join("image"), None).unwrap();
        image.file.set_len(3 * PIECE).unwrap();
        image.write(&vec![1; PIECE as usize], PIECE).unwrap();
        if image.next_data(0..PIECE).is_some() {
            eprintln!("SKIPPED: the file system of temporary files knows no holes");
            return;
        }
        assert_eq!(image.next_data(0..3 * PIECE), Some(PIECE..2 * PIECE));
        // Known by now.
        assert_eq!(image.next_data(PIECE + 5..2 * PIECE - 5), Some(PIECE + 5..2 * PIECE - 5));
        assert_eq!(image.next_data(PIECE + 5..3 * PIECE), Some(PIECE + 5..2 * PIECE));
        assert_eq!(image.next_data(2 * PIECE..3 * PIECE), None);
        image.zero(PIECE..2 * PIECE).unwrap();
        assert_eq!(image.next_data(0..3 * PIECE), None);
    }

    #[test]
    fn pieces_cover_the_range_and_are_aligned() {
        let cut = |r| pieces(r).collect::<Vec<_>>();
        assert_eq!(cut(0..0), []);
        assert_eq!(cut(5..PIECE + 1), [5..PIECE, PIECE..PIECE + 1]);
        assert_eq!(cut(PIECE..2 * PIECE), [PIECE..2 * PIECE]);
        assert_eq!(cut(u64::MAX - 1..u64::MAX), [u64::MAX - 1..u64::MAX]);
    }
}
