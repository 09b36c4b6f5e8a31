//! The bytes of a dirtymap file: headers, page table, armed list. FORMAT.md, in code.
//!
//! Invariants kept here: everything is a pure function of its arguments. Nothing reads or writes a file,
//! nothing panics whatever the bytes are, and no allocation is larger than a constant or the input.
//!
//! Bytes become a [`Header`] only through [`Header::parse`], which checks every rule of FORMAT.md, and a
//! header becomes bytes only through [`Header::encode`], which checks the same rules again. Which of the four
//! copies in a file is *the* header is [`choose`]'s to say. It is public for tools that check files, for
//! fuzzing and for tests; a program that uses a map wants [`DirtyMap`](crate) instead.

mod choice;
pub(crate) mod codec;
pub mod fields;
mod header;
mod layout;
mod page;
mod problem;
mod runs;
mod stamp;
mod values;

#[cfg(test)]
mod header_tests;

#[cfg(test)]
pub(crate) use choice::tests::{
    between_two_maps_with_equally_many_copies_nobody_can_tell, rivals_that_differ_in_their_lists_arm_both,
    what_a_newer_version_committed_is_not_passed_over,
};
pub use choice::{Choice, Disagreement, NoHeader, choose};
pub(crate) use header::used_by;
pub use header::{Header, HeaderReserved, NotWritable, RegionName};
pub use layout::{Layout, VolatileLayout, bottom_length, free_offset, table_length};
pub(crate) use page::is_zeros;
pub use page::{
    PageBytes, entry_at, page_entry, page_from_words, page_matches, page_words, stray_bits, words_from_page,
};
pub use problem::{HeaderProblem, ProblemClass};
pub use runs::{Run, Runs};
pub use stamp::{Stamp, StampKind};
pub use values::{CheckpointState, Durability, NotUuid, Point, PointRole, Reasons, Reserved, Session, State, Uuid};

use crate::geometry::{LEVELS, MAX_BITS, PAGE_BYTES, PAGE_WORDS};

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
/// Bytes of a header copy in front of its points and runs.
pub const FIXED_BYTES: usize = 2048;
/// Most bytes of a header copy that this version uses.
pub const MAX_USED: usize = fields::run_at(MAX_POINTS, MAX_RUNS);
/// Longest armed list, in runs.
pub const MAX_RUNS: usize = 768;
/// Most points in a file.
pub const MAX_POINTS: usize = 64;
/// Longest label, in bytes of UTF-8.
pub const MAX_LABEL: usize = 252;
/// Longest name of a point, in bytes of UTF-8.
pub const MAX_POINT_NAME: usize = 64;
/// Largest sequence number in a valid header. The runtime page stores one more bit with it.
pub const MAX_SEQUENCE: u64 = 1 << 62;
/// End of the last possible region. The locks are on bytes behind it.
pub const MAX_FILE_LENGTH: u64 = 1 << 61;
/// Version of the layout inside the volatile region.
pub const VOLATILE_LAYOUT: u32 = 1;
/// Byte whose lock is *gate*.
pub const GATE_LOCK: u64 = 1 << 62;
/// Byte whose lock is *update*.
pub const UPDATE_LOCK: u64 = GATE_LOCK + 1;
/// Byte whose lock is *turn*.
pub const TURN_LOCK: u64 = GATE_LOCK + 2;
/// Byte whose lock is *readers*.
pub const READERS_LOCK: u64 = GATE_LOCK + 3;
/// Byte whose lock is *space*.
pub const SPACE_LOCK: u64 = GATE_LOCK + 4;
/// Byte whose lock is *backup*.
pub const BACKUP_LOCK: u64 = GATE_LOCK + 5;
/// Byte whose lock is *creator*.
pub const CREATOR_LOCK: u64 = GATE_LOCK + 6;
/// Byte whose lock is *update turn*.
pub const UPDATE_TURN_LOCK: u64 = GATE_LOCK + 7;
/// Byte whose lock is that of slot 0; those of the others follow.
pub const SLOT_LOCKS: u64 = GATE_LOCK + 64;
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
const _: () = assert!(MAX_USED == 30_720 && MAX_USED <= COPY_BYTES);
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
