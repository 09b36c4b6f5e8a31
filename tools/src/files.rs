//! Images and backup targets as files: opening, sizes, identity, holes.
//!
//! Invariant kept here: nothing here blocks on a FIFO, and "hole" is only said of what reads as zeros.

use crate::exit::{Failure, Result};
use dirtymap::{ImageStamp, Info};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that are read or written at once.
pub const PIECE: u64 = 1 << 20;

/// Where files start that hold a disk in another order than its own, and what they are.
const CONTAINERS: [(usize, &[u8], &str); 10] = [
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "QED"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
];

/// A regular file or block device that is open.
#[derive(Debug)]
pub struct Image {
    pub path: PathBuf,
    pub file: File,
    pub stamp: ImageStamp,
}

impl Image {
    /// Opens an image that exists.
    pub fn open(path: &Path, write: bool) -> Result<Image> {
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(flags)
            .open(path)
            .map_err(|e| Failure::open(path, &e))?;
        Image::of(file, path)
    }

    /// Takes the stamp of an open file.
    pub fn of(file: File, path: &Path) -> Result<Image> {
        let kind = file.metadata().map_err(|e| Failure::io(path.display(), &e))?.file_type();
        if kind.is_dir() {
            return Err(Failure::new("is-a-directory", format!("{}: is a directory, no image", path.display())));
        }
        if !kind.is_file() && !kind.is_block_device() {
            let message = format!("{}: neither a regular file nor a block device", path.display());
            return Err(Failure::new("not-an-image", message));
        }
        let stamp = ImageStamp::of(&file).map_err(|e| Failure::io(path.display(), &e))?;
        Ok(Image { path: path.to_path_buf(), file, stamp })
    }

    pub fn size(&self) -> u64 {
        self.stamp.size()
    }

    /// Refuses a file in which the bytes of a disk are not where the disk has them.
    pub fn is_raw(&self) -> Result<()> {
        let mut start = [0; 128];
        let mut filled = 0;
        // A short file, or one that cannot be read, is none of these.
        while let Ok(n @ 1..) = self.file.read_at(&mut start[filled..], filled as u64) {
            filled += n;
        }
        let Some((.., format)) = CONTAINERS.iter().find(|(at, magic, _)| start[*at..].starts_with(magic)) else {
            return Ok(());
        };
        let message = format!(
            "{}: is a {format} image, by its first bytes: its bytes are not where the disk has them, so a map of the disk does \
             not fit it; give a raw image or a block device (qemu-nbd makes one of it), or take the bytes of the file as they \
             are (--raw)",
            self.path.display()
        );
        Err(Failure::new("not-raw", message))
    }

    /// Takes the stamp again.
    pub fn stamp_now(&self) -> Result<ImageStamp> {
        ImageStamp::of(&self.file).map_err(|e| self.failed("look at it", &e))
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
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(range.start)) {
            Ok(start) if start >= range.end => return None,
            Ok(start) => start.max(range.start),
            Err(rustix::io::Errno::NXIO) => return None,
            Err(_) => return Some(range),
        };
        match rustix::fs::seek(&self.file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => Some(start..end.min(range.end)),
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

/// Refuses maps that cover unequally many bytes.
pub fn equally_long(a: (&Path, u64), b: (&Path, u64)) -> Result<()> {
    if a.1 == b.1 {
        return Ok(());
    }
    let message = format!(
        "{} covers {} bytes and {} covers {}; expected maps that cover equally many",
        a.0.display(),
        a.1,
        b.0.display(),
        b.1
    );
    Err(Failure::new("size-differs", message))
}

/// Refuses an image whose size is not what the map was made for.
pub fn fits(info: &Info, map: &Path, image: &Image) -> Result<()> {
    let (len, size) = (info.geometry.len(), image.size());
    if len == size {
        return Ok(());
    }
    let message = format!(
        "{} has {size} bytes, but {} is a map for {len} bytes; give the map that belongs to this image, or make a new \
         one (dirtymap create NEW.map --image {}), which starts all dirty",
        image.path.display(),
        map.display(),
        image.path.display()
    );
    Err(Failure::new("size-differs", message))
}

/// The directory that `path` is in.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the entry of `path` in its directory durable.
pub fn sync_directory_of(path: &Path) -> Result<()> {
    let directory = directory_of(path);
    let synced = File::open(directory).and_then(|d| d.sync_all());
    synced.map_err(|e| Failure::io(format_args!("{}: sync", directory.display()), &e))
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one piece is what is meant")]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_range_and_are_aligned() {
        let cut = |r| pieces(r).collect::<Vec<_>>();
        assert_eq!(cut(0..0), []);
        assert_eq!(cut(5..PIECE + 1), [5..PIECE, PIECE..PIECE + 1]);
        assert_eq!(cut(PIECE..2 * PIECE), [PIECE..2 * PIECE]);
        assert_eq!(cut(u64::MAX - 1..u64::MAX), [u64::MAX - 1..u64::MAX]);
    }
}
