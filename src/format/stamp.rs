//! What a header remembers of an image or a backup target, to notice that it is another one or was changed.
//!
//! Invariant kept here: a stamp that was not recorded is `None`, and 48 zero bytes; there is no third kind.

use super::codec::{i64_at, put_i64, put_u32, put_u64, u32_at, u64_at};
use super::fields::{Field, stamp as f};
use super::values::Reserved;

const RECORDED: u32 = 1;
const EXACT: u32 = 2;

/// What kind of file a [`Stamp`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StampKind {
    /// A regular file.
    File,
    /// A block device.
    BlockDevice,
}

/// A file or device as it was when last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What it is.
    pub kind: StampKind,
    /// Whether the modification time counts: it was taken when nobody was writing.
    pub exact: bool,
    /// Bytes.
    pub size: u64,
    /// Modification time: seconds since 1970.
    pub mtime_seconds: i64,
    /// Modification time: nanoseconds, below 1 000 000 000.
    pub mtime_nanos: u32,
    /// Inode number; 0 for a block device.
    pub inode: u64,
    /// The device that holds the file, or the block device itself.
    pub device: u64,
    /// Bytes without a meaning in this version.
    pub reserved: Reserved<4>,
}

/// A rule that a stamp breaks: the field, what was found, what was expected.
pub(super) type Broken = (Field, u64, &'static str);

impl Stamp {
    /// The stamp at `at`, or `None` if none was recorded.
    pub(super) fn parse(bytes: &[u8], at: usize) -> Result<Option<Stamp>, Broken> {
        let flags = u32_at(bytes, at + f::FLAGS.offset);
        if flags & !(RECORDED | EXACT) != 0 || flags == EXACT {
            return Err((f::FLAGS, flags.into(), "0, 1 or 3"));
        }
        let kind = u32_at(bytes, at + f::KIND.offset);
        if flags == 0 {
            let rest = bytes.get(at..).unwrap_or_default().iter().take(f::SIZE).position(|byte| *byte != 0);
            return match rest.and_then(|i| f::ALL.iter().find(|field| i < field.end())) {
                Some(field) => Err((*field, 1, "zeros in a stamp that is not recorded")),
                None => Ok(None),
            };
        }
        let stamp = Stamp {
            kind: match kind {
                1 => StampKind::File,
                2 => StampKind::BlockDevice,
                _ => return Err((f::KIND, kind.into(), "1 (regular file) or 2 (block device)")),
            },
            exact: flags & EXACT != 0,
            size: u64_at(bytes, at + f::BYTES.offset),
            mtime_seconds: i64_at(bytes, at + f::MTIME_SECONDS.offset),
            mtime_nanos: u32_at(bytes, at + f::MTIME_NANOS.offset),
            inode: u64_at(bytes, at + f::INODE.offset),
            device: u64_at(bytes, at + f::DEVICE.offset),
            reserved: Reserved::at(bytes, at + f::RESERVED.offset),
        };
        if stamp.mtime_nanos >= 1_000_000_000 {
            return Err((f::MTIME_NANOS, stamp.mtime_nanos.into(), "less than 1000000000"));
        }
        if stamp.kind == StampKind::BlockDevice && stamp.inode != 0 {
            return Err((f::INODE, stamp.inode, "0 for a block device"));
        }
        Ok(Some(stamp))
    }

    /// Writes the stamp at `at`, where zeros are.
    pub(super) fn encode(&self, bytes: &mut [u8], at: usize) {
        put_u32(bytes, at + f::FLAGS.offset, RECORDED | if self.exact { EXACT } else { 0 });
        put_u32(
            bytes,
            at + f::KIND.offset,
            match self.kind {
                StampKind::File => 1,
                StampKind::BlockDevice => 2,
            },
        );
        put_u64(bytes, at + f::BYTES.offset, self.size);
        put_i64(bytes, at + f::MTIME_SECONDS.offset, self.mtime_seconds);
        put_u32(bytes, at + f::MTIME_NANOS.offset, self.mtime_nanos);
        self.reserved.put(bytes, at + f::RESERVED.offset);
        put_u64(bytes, at + f::INODE.offset, self.inode);
        put_u64(bytes, at + f::DEVICE.offset, self.device);
    }
}
