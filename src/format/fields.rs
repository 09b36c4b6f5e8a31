//! Where every byte of the file is: the tables of FORMAT.md, as constants.
//!
//! Invariant kept here: offsets and sizes appear in this file and nowhere else. Each offset is the end of the
//! field before it, totals are asserted at compile time, and a test compares all of them with the tables in
//! FORMAT.md, both ways.

use super::sizes::{COPY_BYTES, FIXED_BYTES, MAX_LIST, MAX_POINTS};

/// A field of a fixed table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in FORMAT.md.
    pub name: &'static str,
    /// Bytes from the start of its table.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
}

impl Field {
    /// The first byte behind the field.
    pub const fn end(self) -> usize {
        self.offset + self.size
    }
}

/// Makes a module with a constant per field, each starting where the one before it ends, and lists them.
macro_rules! table {
    ($(#[$doc:meta])* $module:ident: $total:expr; $($NAME:ident $name:literal $size:expr;)*) => {
        $(#[$doc])*
        pub mod $module {
            use crate::format::fields::Field;
            table!(@field 0; $($NAME $name $size;)*);
            /// All fields, in order.
            pub const ALL: &[Field] = &[$($NAME),*];
            /// Bytes of the table.
            pub const SIZE: usize = $total;
            const _: () = assert!(ALL[ALL.len() - 1].end() == SIZE);
        }
    };
    (@field $at:expr;) => {};
    (@field $at:expr; $NAME:ident $name:literal $size:expr; $($rest:tt)*) => {
        #[doc = concat!("`", $name, "`")]
        pub const $NAME: Field = Field { name: $name, offset: $at, size: $size };
        table!(@field $NAME.end(); $($rest)*);
    };
}

table! {
    /// The part of a header copy in front of its points and its armed list.
    header: crate::format::sizes::FIXED_BYTES;
    MAGIC "magic" 8;
    FORMAT_VERSION "format_version" 4;
    USED "used" 4;
    COMPATIBLE "compatible" 8;
    RO_COMPATIBLE "ro_compatible" 8;
    INCOMPATIBLE "incompatible" 8;
    UUID "uuid" 16;
    SEQUENCE "sequence" 8;
    NONCE "nonce" 16;
    STATE "state" 4;
    DURABILITY "durability" 4;
    LEN "len" 8;
    GRANULARITY "granularity" 4;
    LEVEL_COUNT "level_count" 4;
    LEVEL_WORDS "level_words" 8 * crate::LEVELS;
    TABLE_OFFSET "table_offset" 8;
    TABLE_LENGTH "table_length" 8;
    BOTTOM_OFFSET "bottom_offset" 8;
    BOTTOM_LENGTH "bottom_length" 8;
    VOLATILE_OFFSET "volatile_offset" 8;
    VOLATILE_LENGTH "volatile_length" 8;
    FILE_LENGTH "file_length" 8;
    VOLATILE_LAYOUT "volatile_layout" 4;
    POINT_COUNT "point_count" 4;
    RUN_COUNT "run_count" 4;
    CHECKPOINT_STATE "checkpoint_state" 4;
    CHECKPOINT_UUID "checkpoint_uuid" 16;
    COMMITTED_UUID "committed_uuid" 16;
    COMMITTED_TIME "committed_time" 8;
    BACKUP_TIME "backup_time" 8;
    DIRT_TIME "dirt_time" 8;
    DIRT_REASONS "dirt_reasons" 4;
    SESSION_FLAGS "session_flags" 4;
    CREATED "created" 8;
    LAST_CLEAN "last_clean" 8;
    LAST_OPEN "last_open" 8;
    CLEAN_DIRTY_BITS "clean_dirty_bits" 8;
    BOOT_ID "boot_id" 16;
    SESSION_DEVICE "session_device" 8;
    SESSION_INODE "session_inode" 8;
    SESSION_MOUNT "session_mount" 8;
    SESSION_BIRTH "session_birth" 8;
    AUDITED "audited" 8;
    AUDIT_MISSED "audit_missed" 8;
    AUDIT_TIME "audit_time" 8;
    LABEL_LENGTH "label_length" 4;
    LABEL "label" crate::format::sizes::MAX_LABEL;
    INTENT "intent" 16;
    INTENT_UNIT "intent_unit" 4;
    RESERVED_1 "reserved" 344;
    CRC "crc" 4;
    IMAGE "image" crate::format::fields::stamp::SIZE;
    TARGET "target" crate::format::fields::stamp::SIZE;
    BEGUN "begun" crate::format::fields::stamp::SIZE;
    RESERVED_2 "reserved" 640;
}

table! {
    /// What is remembered of an image or a target.
    stamp: 128;
    FLAGS "flags" 4;
    KIND "kind" 4;
    BYTES "size" 8;
    MTIME_SECONDS "mtime_seconds" 8;
    CTIME_SECONDS "ctime_seconds" 8;
    MTIME_NANOS "mtime_nanos" 4;
    CTIME_NANOS "ctime_nanos" 4;
    INODE "inode" 8;
    DEVICE "device" 8;
    BIRTH "birth" 8;
    FILESYSTEM "filesystem" 16;
    IDENTITY "identity" 16;
    DISK_SEQUENCE "disk_sequence" 8;
    BOOT_ID "boot_id" 16;
    RESERVED "reserved" 8;
}

table! {
    /// A set of dirty bits beside the map's own. The points follow the fixed part of a header copy.
    point: 256;
    UUID "uuid" 16;
    TIME "time" 8;
    FLAGS "flags" 4;
    NAME_LENGTH "name_length" 4;
    TABLE_OFFSET "table_offset" 8;
    BOTTOM_OFFSET "bottom_offset" 8;
    GRANULES "granules" 8;
    DIRT_REASONS "dirt_reasons" 4;
    RESERVED "reserved" 4;
    NAME "name" crate::format::sizes::MAX_POINT_NAME;
    TARGET "target" crate::format::fields::stamp::SIZE;
}

table! {
    /// The used part of the runtime page of a volatile region.
    runtime: 53248;
    NONCE "nonce" 16;
    PUBLISHED "published" 8;
    DEGRADED "degraded" 8;
    RESET_FIRST "reset_first" 8;
    RESET_END "reset_end" 8;
    ATTEMPTED "attempted" 8;
    FLUSHING "flushing" 8;
    CHECKPOINT "checkpoint" 8;
    EPOCH "epoch" 8;
    SHARED "shared" 8;
    IMAGE "image" 8;
    ADDING "adding" 8;
    RESERVED "reserved" 3992;
    SLOTS "slots" crate::format::sizes::SLOTS as usize * crate::format::fields::slot::SIZE;
}

table! {
    /// What a process that has the map open tells the others, in the runtime page.
    slot: 192;
    EVEN "even" 8;
    ODD "odd" 8;
    FLAGS "flags" 8;
    WANTED "wanted" 8;
    RESERVED "reserved" 32;
    EVEN_1 "even_1" 8;
    ODD_1 "odd_1" 8;
    RESERVED_1 "reserved" 48;
    EVEN_2 "even_2" 8;
    ODD_2 "odd_2" 8;
    RESERVED_2 "reserved" 48;
}

// Fixed for all time, also in later versions of the format: what tells one from the other.
const _: () = assert!(header::MAGIC.offset == 0 && header::FORMAT_VERSION.offset == 8 && header::USED.offset == 12);
const _: () = assert!(header::UUID.offset == 40 && header::SEQUENCE.offset == 56 && header::CRC.offset == 1020);
const _: () = assert!(header::LABEL_LENGTH.offset == 400 && header::IMAGE.offset == 1024);

/// Where point `i` of a header copy is, in bytes from the start of the copy. The armed list is behind the last one.
pub const fn point_at(i: usize) -> usize {
    FIXED_BYTES.saturating_add(i.saturating_mul(point::SIZE))
}

/// Most bytes of a header copy that this version uses.
pub const MAX_USED: usize = point_at(MAX_POINTS) + MAX_LIST;

const _: () = assert!(MAX_USED == 65_536 && MAX_USED <= COPY_BYTES);
