//! What a header remembers of an image or a backup target, to notice that it is another one or was changed.
//!
//! Invariant kept here: a stamp that was not recorded is `None`, and 128 zero bytes; there is no third kind.

use super::codec::{array_at, i64_at, put, put_i64, put_u32, put_u64, u32_at, u64_at};
use super::fields::{Field, stamp as f};
use super::values::{Reserved, Uuid};

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
    /// Whether the times count: no tracker was writing when they were taken.
    pub exact: bool,
    /// Bytes.
    pub size: u64,
    /// Modification time: seconds since 1970.
    pub mtime_seconds: i64,
    /// Modification time: nanoseconds, below 1 000 000 000.
    pub mtime_nanos: u32,
    /// Time of the last change of content or attributes: seconds since 1970.
    pub ctime_seconds: i64,
    /// The same: nanoseconds, below 1 000 000 000.
    pub ctime_nanos: u32,
    /// Inode number; 0 for a block device.
    pub inode: u64,
    /// The device that holds the file, or the block device itself.
    pub device: u64,
    /// When the file was made, in nanoseconds since 1970; 0 when unknown, and for a block device.
    pub birth: i64,
    /// Identity of the file system, which survives a remount; zeros when unknown, and for a block device.
    pub filesystem: [u8; 16],
    /// Identity of a block device, or of the one below the file's file system: a hash of what the system knows it by; zeros when
    /// unknown.
    pub identity: [u8; 16],
    /// Number that the kernel gave this attachment of the block device, in this boot; 0 when unknown, and for a file.
    pub disk_sequence: u64,
    /// The boot in which the stamp was taken; nil when unknown.
    pub boot_id: Uuid,
    /// Bytes without a meaning in this version.
    pub reserved: Reserved<8>,
}

/// A rule that a stamp breaks: the field, what was found, what was expected.
pub(crate) type Broken = (Field, u64, &'static str);

impl Stamp {
    /// A stamp of which nothing else is known.
    pub fn of(kind: StampKind, size: u64) -> Stamp {
        Stamp {
            kind,
            exact: false,
            size,
            mtime_seconds: 0,
            mtime_nanos: 0,
            ctime_seconds: 0,
            ctime_nanos: 0,
            inode: 0,
            device: 0,
            birth: 0,
            filesystem: [0; 16],
            identity: [0; 16],
            disk_sequence: 0,
            boot_id: Uuid::NIL,
            reserved: Reserved::default(),
        }
    }

    /// The stamp at `at`, or `None` if none was recorded.
    pub(crate) fn parse(bytes: &[u8], at: usize) -> Result<Option<Stamp>, Broken> {
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
            ctime_seconds: i64_at(bytes, at + f::CTIME_SECONDS.offset),
            ctime_nanos: u32_at(bytes, at + f::CTIME_NANOS.offset),
            inode: u64_at(bytes, at + f::INODE.offset),
            device: u64_at(bytes, at + f::DEVICE.offset),
            birth: i64_at(bytes, at + f::BIRTH.offset),
            filesystem: array_at(bytes, at + f::FILESYSTEM.offset),
            identity: array_at(bytes, at + f::IDENTITY.offset),
            disk_sequence: u64_at(bytes, at + f::DISK_SEQUENCE.offset),
            boot_id: Uuid(array_at(bytes, at + f::BOOT_ID.offset)),
            reserved: Reserved::at(bytes, at + f::RESERVED.offset),
        };
        for (field, nanos) in [(f::MTIME_NANOS, stamp.mtime_nanos), (f::CTIME_NANOS, stamp.ctime_nanos)] {
            if nanos >= 1_000_000_000 {
                return Err((field, nanos.into(), "less than 1000000000"));
            }
        }
        if stamp.kind == StampKind::BlockDevice && stamp.inode != 0 {
            return Err((f::INODE, stamp.inode, "0 for a block device"));
        }
        Ok(Some(stamp))
    }

    /// Writes the stamp at `at`, where zeros are.
    pub(crate) fn encode(&self, bytes: &mut [u8], at: usize) {
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
        put_i64(bytes, at + f::CTIME_SECONDS.offset, self.ctime_seconds);
        put_u32(bytes, at + f::CTIME_NANOS.offset, self.ctime_nanos);
        self.reserved.put(bytes, at + f::RESERVED.offset);
        put_u64(bytes, at + f::INODE.offset, self.inode);
        put_u64(bytes, at + f::DEVICE.offset, self.device);
        put_i64(bytes, at + f::BIRTH.offset, self.birth);
        put(bytes, at + f::FILESYSTEM.offset, &self.filesystem);
        put(bytes, at + f::IDENTITY.offset, &self.identity);
        put_u64(bytes, at + f::DISK_SEQUENCE.offset, self.disk_sequence);
        put(bytes, at + f::BOOT_ID.offset, &self.boot_id.0);
    }
}
