//! The numbers of the published qcow2 specification (QEMU's docs/interop/qcow2), and QEMU's limits where it has
//! narrower ones.
//!
//! Invariant kept here: each offset, size and bit is written once. All integers in a qcow2 file are big-endian.

/// The first bytes of every qcow2 file.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// The version that has feature bits, and so bitmaps.
pub const VERSION: u32 = 3;
/// Bytes of a version 3 header at least.
pub const HEADER_BYTES: usize = 104;

/// Offsets of header fields.
pub mod header {
    pub const VERSION: usize = 4;
    pub const BACKING_FILE_OFFSET: usize = 8;
    pub const BACKING_FILE_BYTES: usize = 16;
    pub const CLUSTER_BITS: usize = 20;
    pub const SIZE: usize = 24;
    pub const CRYPT_METHOD: usize = 32;
    pub const L1_ENTRIES: usize = 36;
    pub const L1_OFFSET: usize = 40;
    pub const REFCOUNT_TABLE_OFFSET: usize = 48;
    pub const REFCOUNT_TABLE_CLUSTERS: usize = 56;
    pub const SNAPSHOTS: usize = 60;
    pub const INCOMPATIBLE: usize = 72;
    pub const AUTOCLEAR: usize = 88;
    pub const REFCOUNT_ORDER: usize = 96;
    pub const HEADER_LENGTH: usize = 100;
}

/// "Any data structure may be corrupt."
pub const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
/// Dirty refcounts, corrupt, external data file, compression type, extended L2 entries: all that there are. Only
/// [`INCOMPATIBLE_CORRUPT`] says anything about bitmaps.
pub const INCOMPATIBLE_KNOWN: u64 = 0b1_1111;
/// The bitmaps extension is consistent.
pub const AUTOCLEAR_BITMAPS: u64 = 1;

pub const MIN_CLUSTER_BITS: u32 = 9;
/// The specification has no limit; QEMU opens no larger ones.
pub const MAX_CLUSTER_BITS: u32 = 21;

/// Type of the header extension that ends them.
pub const EXTENSION_END: u32 = 0;
/// Type of the bitmaps extension.
pub const EXTENSION_BITMAPS: u32 = 0x2385_2875;
/// Type of the extension that names the backing file's format.
pub const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// Bytes of type and length before the data of an extension.
pub const EXTENSION_HEAD: usize = 8;
/// Extensions and directory entries are padded to multiples of this.
pub const PADDING: usize = 8;

/// Offsets in the bitmaps extension's data, and its size.
pub mod extension {
    pub const COUNT: usize = 0;
    pub const RESERVED: usize = 4;
    pub const DIRECTORY_SIZE: usize = 8;
    pub const DIRECTORY_OFFSET: usize = 16;
    pub const BYTES: usize = 24;
}

/// QEMU's limit on the bytes of a backing file's name.
pub const MAX_BACKING_NAME: usize = 1023;
/// Of an entry of an L1 or L2 table: the offset of a cluster.
pub const MAPPING_OFFSET: u64 = TABLE_OFFSET;
/// Of an entry of an L1 or L2 table: the cluster has one reference, and may be written in place.
pub const MAPPING_COPIED: u64 = 1 << 63;
/// Of an entry of an L2 table: the cluster is compressed.
pub const MAPPING_COMPRESSED: u64 = 1 << 62;
/// Of an entry of an L2 table: the cluster reads as zeros.
pub const MAPPING_ZEROS: u64 = 1;
/// Bits of a refcount, as log2: QEMU's default, and the one that is written here.
pub const REFCOUNT_ORDER: u32 = 4;
/// And its bytes.
pub const REFCOUNT_BYTES: u64 = 2;

/// QEMU's limit on bitmaps per image.
pub const MAX_BITMAPS: u32 = 65535;
/// QEMU's limit on the bytes of a name.
pub const MAX_NAME: usize = 1023;

/// Offsets in a directory entry, and the size of its fixed part.
pub mod entry {
    pub const TABLE_OFFSET: usize = 0;
    pub const TABLE_ENTRIES: usize = 8;
    pub const FLAGS: usize = 12;
    pub const TYPE: usize = 16;
    pub const GRANULARITY_BITS: usize = 17;
    pub const NAME_BYTES: usize = 18;
    pub const EXTRA_BYTES: usize = 20;
    pub const BYTES: usize = 24;
}

/// The bitmap was not saved.
pub const FLAG_IN_USE: u32 = 1;
/// The bitmap tracks writes.
pub const FLAG_AUTO: u32 = 1 << 1;
/// The bitmap may be used although its extra data is not known.
pub const FLAG_EXTRA_DATA_COMPATIBLE: u32 = 1 << 2;
/// All flags that there are.
pub const FLAGS_KNOWN: u32 = FLAG_IN_USE | FLAG_AUTO | FLAG_EXTRA_DATA_COMPATIBLE;
/// The one type of bitmap that there is.
pub const TYPE_DIRTY_TRACKING: u8 = 1;
/// Largest log2 of a granularity that the field may have.
pub const MAX_GRANULARITY_BITS: u8 = 63;

/// Bytes of an entry of any table.
pub const TABLE_ENTRY: u64 = 8;
/// A bitmap table entry's offset of a cluster; all other bits but the lowest are reserved.
pub const TABLE_OFFSET: u64 = (1 << 56) - (1 << 9);
/// An entry without an offset: the cluster reads as ones.
pub const TABLE_ONES: u64 = 1;

/// log2 of the granularities that QEMU handles.
pub const QEMU_GRANULARITY: std::ops::RangeInclusive<u32> = 9..=31;
/// Most bits of a bitmap that QEMU (10.0) handles: 512 MiB of them.
pub const QEMU_MAX_BITS: u64 = 1 << 32;
/// QEMU's limit on the bytes of the L1 table.
pub const QEMU_MAX_L1: u64 = 32 << 20;
/// QEMU rounds the size of a disk down to a multiple of this.
pub const SECTOR: u64 = 512;
