//! The structs of the header, as they lie in memory.
//!
//! Invariant kept here: they are made of numbers without gaps between them, so that any bytes are right and all are written; and
//! they only grow at their end. `tests/header.rs` compares each field with the header.

use dirtymap::iter::Cursor;
use std::ffi::{c_char, c_int};

/// A text with its zero byte, cut off where it does not fit.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Chars<const N: usize>([u8; N]);

impl<const N: usize> Default for Chars<N> {
    fn default() -> Self {
        Chars([0; N])
    }
}

impl<const N: usize> From<&str> for Chars<N> {
    fn from(text: &str) -> Self {
        let mut chars = Chars([0; N]);
        let fits = (0..N.min(text.len() + 1)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        chars.0[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        chars
    }
}

/// What the header says of a struct: its name there, its size, and its fields with their offsets and sizes.
pub type Described = (&'static str, usize, &'static [(&'static str, usize, usize)]);

macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident as $c:literal { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Default)]
            #[allow(missing_docs, reason = "the header tells of the fields")]
            pub struct $name { $(pub $field: $type,)* }

            const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*, "a gap between fields");
        )*

        /// All of them.
        pub const STRUCTS: &[Described] = &[
            $(($c, size_of::<$name>(), &[
                $((stringify!($field), std::mem::offset_of!($name, $field), size_of::<$type>()),)*
            ]),)*
        ];
    };
}

structs! {
    /// Items from one on.
    Range as "struct dirtymap_range" {
        start: u64,
        count: u64,
    }
    /// How far long work is.
    Progress as "struct dirtymap_progress" {
        step: u32,
        reserved: u32,
        done: u64,
        total: u64,
    }
    /// What is in a map and how it was left.
    Info as "struct dirtymap_info" {
        uuid: [u8; 16],
        len: u64,
        granularity: u32,
        durability: u32,
        state: u32,
        verdict: u32,
        dirty_granules: u64,
        dirty_len: u64,
        armed_len: u64,
        intent_len: u64,
        sequence: u64,
        created: i64,
        last_clean: i64,
        last_open: i64,
        dirt_time: i64,
        backup_time: i64,
        audit_time: i64,
        audited: u64,
        audit_missed: u64,
        committed: [u8; 16],
        committed_time: i64,
        checkpoint_state: u32,
        points: u32,
        has_image: u32,
        has_target: u32,
        has_begun: u32,
        format_version: u32,
        label: Chars<256>,
        reasons: Chars<256>,
    }
    /// What opening found.
    Recovery as "struct dirtymap_recovery" {
        unclean: u32,
        added_dirt: u32,
        damaged: u32,
        cache_trusted: u32,
        armed_len: u64,
        intent_len: u64,
        interrupted_pages: u64,
        damaged_pages: u64,
        damaged_headers: u64,
        lost_granules: u64,
        lost_commit: u32,
        image_changed: u32,
        aborted: [u8; 16],
        why_image_changed: Chars<512>,
    }
    /// What a map has done since it was opened.
    Stats as "struct dirtymap_stats" {
        arms: u64,
        syncs: u64,
        flushes: u64,
        bytes_written: u64,
        slow_sets: u64,
        recovered_len: u64,
        failed_pages: u64,
        damaged_headers: u64,
    }
    /// The outstanding checkpoint.
    Checkpoint as "struct dirtymap_checkpoint" {
        uuid: [u8; 16],
        time: i64,
        state: u32,
        snapshot: u32,
        name: Chars<72>,
    }
    /// A point that is kept by its name.
    Point as "struct dirtymap_point" {
        uuid: [u8; 16],
        time: i64,
        since_granules: u64,
        since_len: u64,
        until_next_granules: u64,
        until_next_len: u64,
        damaged: u32,
        has_target: u32,
        name: Chars<72>,
    }
    /// What a check found, or a repair does, in numbers.
    Summary as "struct dirtymap_summary" {
        items: u64,
        severity: u32,
        in_use: u32,
        omitted: u64,
        pages_checked: u64,
        verified_granules: u64,
        verified_len: u64,
        length_before: u64,
        length_after: u64,
        dirty_granules: u64,
        dirty_len: u64,
        needless_len: u64,
    }
}

/// Something that happened.
#[repr(C)]
#[allow(missing_docs, reason = "the header tells of the fields")]
pub struct Event {
    pub level: c_int,
    pub reserved: c_int,
    pub name: *const c_char,
    pub text: *const c_char,
}

/// One finding of a check, or one action of a repair. What a text points to lives as long as the report.
#[repr(C)]
#[allow(missing_docs, reason = "the header tells of the fields")]
pub struct Finding {
    pub severity: u32,
    pub all_dirty: u32,
    pub count: u64,
    pub place: *const c_char,
    pub found: *const c_char,
    pub expected: *const c_char,
    pub consequence: *const c_char,
    pub repair: *const c_char,
}

/// Those with pointers.
pub const POINTING: &[Described] = &[
    (
        "struct dirtymap_event",
        size_of::<Event>(),
        &[
            ("level", std::mem::offset_of!(Event, level), 4),
            ("name", std::mem::offset_of!(Event, name), 8),
            ("text", std::mem::offset_of!(Event, text), 8),
        ],
    ),
    (
        "struct dirtymap_finding",
        size_of::<Finding>(),
        &[
            ("severity", std::mem::offset_of!(Finding, severity), 4),
            ("all_dirty", std::mem::offset_of!(Finding, all_dirty), 4),
            ("count", std::mem::offset_of!(Finding, count), 8),
            ("place", std::mem::offset_of!(Finding, place), 8),
            ("found", std::mem::offset_of!(Finding, found), 8),
            ("expected", std::mem::offset_of!(Finding, expected), 8),
            ("consequence", std::mem::offset_of!(Finding, consequence), 8),
            ("repair", std::mem::offset_of!(Finding, repair), 8),
        ],
    ),
];

/// `dirtymap_cursor_t`: a place in a map. Zeros are a cursor at the end of nothing.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Place {
    /// The end of its range.
    pub(crate) end: u64,
    pub(crate) cursor: Cursor,
}

/// Bytes that the header reserves for a cursor and for a write.
pub const OPAQUE: usize = 64;

const _: () = assert!(size_of::<Place>() <= OPAQUE && align_of::<Place>() <= 8);
const _: () = assert!(size_of::<crate::in_flight::Write>() <= OPAQUE && align_of::<crate::in_flight::Write>() <= 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_does_not_fit_is_cut_between_characters() {
        let cut = |text: &str| Chars::<4>::from(text).0;
        assert_eq!([cut(""), cut("ab"), cut("abc"), cut("abcd")], [[0; 4], *b"ab\0\0", *b"abc\0", *b"abc\0"]);
        assert_eq!(cut("ab\u{e9}"), *b"ab\0\0");
    }
}
