//! Sizes, limits and versions of the format, and which header copies belong together.
//!
//! Invariant kept here: everything that a valid file can hold fits below the bytes of its locks.

use crate::geometry::{LEVELS, MAX_BITS, PAGE_BYTES, PAGE_WORDS};
use crate::sys::Lock;

/// The first eight bytes of every header copy. They cannot be text, and show what line-end conversions and
/// 7-bit channels do.
pub const MAGIC: [u8; 8] = *b"\x89DMAP\r\n\x1a";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Every region starts at a multiple of this many bytes: the largest page size of a host that maps one.
pub const ALIGN: u64 = 65536;
/// Bytes of all header copies together; the first region may start here.
pub const HEADER_REGION: u64 = COPIES as u64 * COPY_BYTES as u64;
/// Bytes from one header copy to the next: each lies in file-system blocks of its own, up to this size.
pub const COPY_BYTES: usize = 65536;
/// Header copies in a file.
pub const COPIES: usize = 4;
/// Pairs of header copies.
pub const PAIRS: usize = 2;
/// Bytes of a header copy in front of its points and its armed list.
pub const FIXED_BYTES: usize = 2048;
/// Longest armed list, in bytes. It has no more runs than that, since each takes a byte.
pub const MAX_LIST: usize = 47_104;
/// Most points in a file.
pub const MAX_POINTS: usize = 64;
/// Longest label, in bytes of UTF-8.
pub const MAX_LABEL: usize = 252;
/// Longest name of a point, in bytes of UTF-8.
pub const MAX_POINT_NAME: usize = 64;
/// Coarsest unit of an intent, as the log2 of its granules: a word of them.
pub const MAX_UNIT: u32 = 6;
/// Largest sequence number in a valid header. The runtime page stores one more bit with it.
pub const MAX_SEQUENCE: u64 = 1 << 62;
/// End of the last possible region. The locks are on bytes behind it.
pub const MAX_FILE_LENGTH: u64 = 1 << 61;
/// Version of the layout inside the volatile region.
pub const VOLATILE_LAYOUT: u32 = 1;
/// Byte whose lock is *gate*.
pub const GATE_LOCK: u64 = Lock::Gate.byte();
/// Byte whose lock is *update*.
pub const UPDATE_LOCK: u64 = Lock::Update.byte();
/// Byte whose lock is *turn*.
pub const TURN_LOCK: u64 = Lock::GateQueue.byte();
/// Byte whose lock is *readers*.
pub const READERS_LOCK: u64 = Lock::Readers.byte();
/// Byte whose lock is *space*.
pub const SPACE_LOCK: u64 = Lock::RegionAllocator.byte();
/// Byte whose lock is *backup*.
pub const BACKUP_LOCK: u64 = Lock::Backup.byte();
/// Byte whose lock is *creator*.
pub const CREATOR_LOCK: u64 = Lock::Creator.byte();
/// Byte whose lock is *update turn*.
pub const UPDATE_TURN_LOCK: u64 = Lock::UpdateQueue.byte();
/// Byte whose lock is that of slot 0; those of the others follow.
pub const SLOT_LOCKS: u64 = Lock::Slot(0).byte();
/// Slots: most processes that have a map open for writing at a time.
pub const SLOTS: u64 = 256;
/// The feature bits of each kind that this version knows.
pub const KNOWN_COMPATIBLE: u64 = 0;
/// See [`KNOWN_COMPATIBLE`].
pub const KNOWN_RO_COMPATIBLE: u64 = 0;
/// See [`KNOWN_COMPATIBLE`].
pub const KNOWN_INCOMPATIBLE: u64 = 0;
/// Bytes of a page-table entry.
pub const ENTRY_BYTES: u64 = 4;

const _: () = assert!(HEADER_REGION == 262_144 && HEADER_REGION.is_multiple_of(ALIGN));
const _: () = assert!(COPIES == 2 * PAIRS && COPY_BYTES as u64 >= ALIGN);
const _: () = assert!(PAGE_BYTES == 512 && PAGE_WORDS == 64 && LEVELS == 7);
// The largest map, and all its points, stay far below the locks.
const _: () = assert!(MAX_BITS / 8 * 4 * (MAX_POINTS as u64 + 3) < MAX_FILE_LENGTH && MAX_FILE_LENGTH < GATE_LOCK);

/// Where header copy `copy` starts, in bytes from the start of the file.
pub const fn copy_offset(copy: usize) -> u64 {
    (copy % COPIES) as u64 * COPY_BYTES as u64
}

/// The pair that header copy `copy` belongs to: copies 0 and 2 are pair 0, copies 1 and 3 pair 1.
pub const fn pair_of(copy: usize) -> usize {
    copy % PAIRS
}

/// The two copies of `pair`. A commit writes one pair, so that a tear leaves the other; they do not lie
/// side by side, so that one bad spot leaves one of them.
pub const fn copies_of(pair: usize) -> [usize; 2] {
    [pair % PAIRS, pair % PAIRS + PAIRS]
}
