//! The disk image that a map belongs to, as far as the system can tell it from others.
//!
//! Invariant kept here: "the same image" is only said when everything that was recorded is equal.

use crate::error::{Error, Result};
use crate::format::{Stamp, StampKind};
use crate::sys::facts;
use crate::weak::{Weak, weak};
use std::fs::File;
use std::path::Path;

/// What the system says of a disk image at one moment: kind, size in bytes, modification time, inode and device.
/// Two equal stamps of a regular file mean that nobody wrote to it in between, as far as the file system's
/// time resolution goes. A block device has no usable modification time: only its size and number count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageStamp(pub(super) Stamp);

impl ImageStamp {
    /// Takes the stamp of the image at `path`: a regular file or a block device.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened for reading or is neither.
    pub fn of_path(path: &Path) -> Result<ImageStamp> {
        let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
        // A FIFO is refused, not waited for.
        let file = facts::open_unblocked(path).map_err(io("open the image"))?;
        ImageStamp::of(&file).map_err(io("look at the image"))
    }

    /// Takes the stamp of an open image.
    ///
    /// # Errors
    /// Whatever the system says when asked, or `InvalidInput` for neither a regular file nor a block device.
    pub fn of(file: &File) -> std::io::Result<ImageStamp> {
        let f = facts::image(file)?;
        let kind = if f.block_device { StampKind::BlockDevice } else { StampKind::File };
        Ok(ImageStamp(Stamp {
            exact: !f.block_device,
            mtime_seconds: f.mtime_seconds,
            mtime_nanos: f.mtime_nanos,
            inode: f.inode,
            device: f.device,
            ..Stamp::of(kind, f.size)
        }))
    }

    /// Size of the image in bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Whether it is a block device, and no regular file.
    pub fn is_block_device(&self) -> bool {
        self.0.kind == StampKind::BlockDevice
    }

    /// Modification time: seconds since 1970 and nanoseconds. Zeros for a block device.
    pub fn modified(&self) -> (i64, u32) {
        (self.0.mtime_seconds, self.0.mtime_nanos)
    }

    /// Inode number; 0 for a block device.
    pub fn inode(&self) -> u64 {
        self.0.inode
    }

    /// The device that holds the file, or the block device itself.
    pub fn device(&self) -> u64 {
        self.0.device
    }

    /// How the image differs from what was recorded; `None` when it does not, or nothing was recorded.
    pub(super) fn differs_from(&self, recorded: Option<&Stamp>) -> Option<String> {
        let (now, recorded) = (&self.0, recorded?);
        let mut found = Vec::new();
        let mut compare = |what: &str, was: String, is: String| {
            if was != is {
                found.push(format!("{what} was {was}, is {is}"));
            }
        };
        compare("kind", format!("{:?}", recorded.kind), format!("{:?}", now.kind));
        compare("size", recorded.size.to_string(), now.size.to_string());
        compare("device", recorded.device.to_string(), now.device.to_string());
        compare("inode", recorded.inode.to_string(), now.inode.to_string());
        if recorded.exact {
            let time = |s: &Stamp| format!("{}.{:09}", s.mtime_seconds, s.mtime_nanos);
            compare("modification time", time(recorded), time(now));
        }
        (!found.is_empty() && !weak(Weak::IgnoreImage)).then(|| found.join("; "))
    }

    /// How a target differs from what was recorded; empty when it does not. Its size does not count while a backup to
    /// it is not complete: that may have been stopped before or after it gave the target another one.
    pub(super) fn differs_from_target(&self, recorded: &Stamp) -> String {
        let size = if recorded.exact { recorded.size } else { self.0.size };
        self.differs_from(Some(&Stamp { size, ..*recorded })).unwrap_or_default()
    }
}
