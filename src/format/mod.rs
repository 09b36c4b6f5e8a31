//! The bytes of a dirtymap file: headers, page table, armed list. FORMAT.md, in code.
//!
//! Invariants kept here: everything is a pure function of its arguments. Nothing reads or writes a file,
//! nothing panics whatever the bytes are, and no allocation is larger than a constant or the input.
//!
//! Bytes become a [`Header`] only through [`Header::parse`], which checks every rule of FORMAT.md, and a
//! header becomes bytes only through [`Header::encode`], which checks the same rules again. Which of the four
//! copies in a file is *the* header is [`select`]'s to say. It is public for tools that check files, for
//! fuzzing and for tests; a program that uses a map wants [`DirtyMap`](crate) instead.

mod choice;
pub(crate) mod codec;
mod encode;
pub mod fields;
mod header;
mod layout;
mod list;
mod page;
mod parse;
mod point;
mod problem;
mod runs;
mod sizes;
mod stamp;
mod values;

#[cfg(test)]
mod header_tests;

#[cfg(test)]
pub(crate) use choice::tests::{
    between_two_maps_with_equally_many_copies_nobody_can_tell, conflicting_copies_that_differ_in_their_lists_arm_both,
    what_a_newer_version_committed_is_not_passed_over,
};
pub use choice::{Disagreement, HeaderSelection, NoHeader, select};
pub use fields::MAX_USED;
pub use header::{Header, HeaderReserved, NotWritable, RegionName};
pub use layout::{Layout, VolatileLayout, bottom_length, free_offset, table_length};
pub(crate) use list::MAX_RUN;
pub(crate) use page::is_zeros;
pub use page::{
    PageBytes, entry_at, page_entry, page_from_words, page_matches, page_words, stray_bits, words_from_page,
};
pub(crate) use parse::used_by;
pub use point::{Intent, Point, PointRole};
pub use problem::{HeaderProblem, ProblemClass};
pub use runs::{Run, WordRanges};
pub use sizes::{
    ALIGN, BACKUP_LOCK, COPIES, COPY_BYTES, CREATOR_LOCK, ENTRY_BYTES, FIXED_BYTES, GATE_LOCK, HEADER_REGION,
    KNOWN_COMPATIBLE, KNOWN_INCOMPATIBLE, KNOWN_RO_COMPATIBLE, MAGIC, MAX_FILE_LENGTH, MAX_LABEL, MAX_LIST,
    MAX_POINT_NAME, MAX_POINTS, MAX_SEQUENCE, MAX_UNIT, PAIRS, READERS_LOCK, SLOT_LOCKS, SLOTS, SPACE_LOCK, TURN_LOCK,
    UPDATE_LOCK, UPDATE_TURN_LOCK, VERSION, VOLATILE_LAYOUT, copies_of, copy_offset, pair_of,
};
pub use stamp::{Stamp, StampKind};
pub use values::{CheckpointState, Durability, NotUuid, Reasons, Reserved, Session, State, Uuid};
