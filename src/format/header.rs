//! [`Header`]: what a header copy says.
//!
//! Invariant kept here: what follows from other fields is computed from them, and stands nowhere beside them.

use super::fields::{header as h, point_at};
use super::layout::Layout;
use super::point::{Intent, Point};
use super::runs::WordRanges;
use super::sizes::{HEADER_REGION, KNOWN_RO_COMPATIBLE, MAX_SEQUENCE, VOLATILE_LAYOUT};
use super::stamp::Stamp;
use super::values::{CheckpointState, Durability, Reasons, Reserved, Session, State, Uuid};
use crate::geometry::Geometry;
use std::fmt;
use std::ops::Range;

/// What a header copy says. Times are seconds since 1970-01-01 00:00 UTC, 0 for never.
///
/// Fields that follow from others (level sizes, region lengths, file length, counts) are methods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Feature bits that an older version may ignore.
    pub compatible: u64,
    /// Feature bits that an older version may ignore as long as it only reads.
    pub ro_compatible: u64,
    /// Feature bits that nobody may ignore.
    pub incompatible: u64,
    /// Identity of the map. Never changes while the file lives.
    pub uuid: Uuid,
    /// Number of this commit: from 1 to [`MAX_SEQUENCE`].
    pub sequence: u64,
    /// The session that has the file open: nil exactly when `state` is CLEAN.
    pub nonce: Uuid,
    /// Whether the map was closed.
    pub state: State,
    /// What the map promises to survive.
    pub durability: Durability,
    /// Length and granularity.
    pub geometry: Geometry,
    /// Where the map's own regions are.
    pub layout: Layout,
    /// Version of the layout inside the volatile region.
    pub volatile_layout: u32,
    /// How far the outstanding checkpoint has come.
    pub checkpoint_state: CheckpointState,
    /// The outstanding checkpoint; nil exactly when there is none.
    pub checkpoint_uuid: Uuid,
    /// The last committed checkpoint; nil before the first.
    pub committed_uuid: Uuid,
    /// When that was.
    pub committed_time: i64,
    /// The image that this map belongs to.
    pub image: Option<Stamp>,
    /// The target that the last completed backup wrote.
    pub target: Option<Stamp>,
    /// The target of a backup that was begun and is not complete.
    pub begun: Option<Stamp>,
    /// When the last backup completed.
    pub backup_time: i64,
    /// Why dirt was added since the last full reset or completed backup.
    pub dirt_reasons: Reasons,
    /// When dirt was last added so.
    pub dirt_time: i64,
    /// When the map was made.
    pub created: i64,
    /// Last clean close.
    pub last_clean: i64,
    /// Last open for writing.
    pub last_open: i64,
    /// Bits set at the last clean close.
    pub clean_dirty_bits: u64,
    /// Where the file was last opened for writing.
    pub session: Session,
    /// Clean granules that backups have compared with their targets, at random.
    pub audited: u64,
    /// Those of them that differed.
    pub audit_missed: u64,
    /// When that was last done.
    pub audit_time: i64,
    /// Free text of the user; at most 252 bytes.
    pub label: String,
    /// Sets beside the map's own: the kept ones, oldest first; one that is only the intent; the outstanding one. At most 64.
    pub points: Vec<Point>,
    /// What counts as armed beside the list, as long as the state is OPEN.
    pub intent: Option<Intent>,
    /// The armed list: words of the bottom whose bits may have been set since it was brought up to date. At most
    /// 47,104 [bytes](WordRanges::encoded_len).
    pub runs: WordRanges,
    /// Bytes without a meaning in this version.
    pub reserved: HeaderReserved,
}

/// The reserved bytes of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderReserved {
    pub(super) first: Reserved<{ h::RESERVED_1.size }>,
    pub(super) second: Reserved<{ h::RESERVED_2.size }>,
}

/// What a region of the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionName {
    /// The header copies.
    Headers,
    /// The map's page table.
    Table,
    /// The map's bottom.
    Bottom,
    /// What is mapped and shared.
    Volatile,
    /// The page table of a point.
    PointTable(usize),
    /// The bottom of a point.
    PointBottom(usize),
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegionName::Headers => f.write_str("headers"),
            RegionName::Table => f.write_str("table"),
            RegionName::Bottom => f.write_str("bottom"),
            RegionName::Volatile => f.write_str("volatile"),
            RegionName::PointTable(i) => write!(f, "points[{i}].table"),
            RegionName::PointBottom(i) => write!(f, "points[{i}].bottom"),
        }
    }
}

/// Why a map that may be read must not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotWritable {
    /// What the header says.
    pub found: String,
    /// What this version handles.
    pub expected: String,
}

impl fmt::Display for NotWritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found {}, this version can write to {}", self.found, self.expected)
    }
}

impl Header {
    /// The header of a new, clean and empty map: sequence number 1, everything else zero, none or empty.
    pub fn new(uuid: Uuid, geometry: Geometry, durability: Durability) -> Header {
        Header {
            compatible: 0,
            ro_compatible: 0,
            incompatible: 0,
            uuid,
            sequence: 1,
            nonce: Uuid::NIL,
            state: State::Clean,
            durability,
            geometry,
            layout: Layout::initial(&geometry),
            volatile_layout: VOLATILE_LAYOUT,
            checkpoint_state: CheckpointState::Normal,
            checkpoint_uuid: Uuid::NIL,
            committed_uuid: Uuid::NIL,
            committed_time: 0,
            image: None,
            target: None,
            begun: None,
            backup_time: 0,
            dirt_reasons: Reasons::NONE,
            dirt_time: 0,
            created: 0,
            last_clean: 0,
            last_open: 0,
            clean_dirty_bits: 0,
            session: Session::default(),
            audited: 0,
            audit_missed: 0,
            audit_time: 0,
            label: String::new(),
            points: Vec::new(),
            intent: None,
            runs: WordRanges::new(),
            reserved: HeaderReserved::default(),
        }
    }

    /// The bytes of the copy that this header takes.
    pub fn used(&self) -> usize {
        point_at(self.points.len()).saturating_add(self.runs.encoded_len())
    }

    /// All regions of the file, the header copies first: at most 2 · 64 + 4.
    pub fn regions(&self) -> Vec<(RegionName, Range<u64>)> {
        let Layout { table, bottom, volatile } = self.layout.clone();
        let mut all = vec![
            (RegionName::Headers, 0..HEADER_REGION),
            (RegionName::Table, table),
            (RegionName::Bottom, bottom),
            (RegionName::Volatile, volatile),
        ];
        for (i, point) in self.points.iter().enumerate().filter(|(_, point)| point.has_regions()) {
            all.push((RegionName::PointTable(i), point.table(&self.geometry)));
            all.push((RegionName::PointBottom(i), point.bottom(&self.geometry)));
        }
        all
    }

    /// End of the last region: the length that the file has at least, in bytes.
    pub fn file_length(&self) -> u64 {
        self.regions().iter().map(|(_, range)| range.end).max().unwrap_or(HEADER_REGION)
    }

    /// Whether this version may write to the map.
    ///
    /// # Errors
    /// Why not: unknown read-only-compatible features, another layout of the volatile region, or sequence
    /// numbers that have come near their end (which no honest file does).
    pub fn writable(&self) -> Result<(), NotWritable> {
        let unknown = self.ro_compatible & !KNOWN_RO_COMPATIBLE;
        let no = |found, expected| Err(NotWritable { found, expected });
        if unknown != 0 {
            no(format!("ro_compatible features {unknown:#x}"), "maps without them; open it read-only".into())
        } else if self.volatile_layout != VOLATILE_LAYOUT {
            no(format!("volatile layout {}", self.volatile_layout), format!("volatile layout {VOLATILE_LAYOUT}"))
        } else if self.sequence > MAX_SEQUENCE / 2 {
            no(format!("sequence number {}", self.sequence), format!("at most {}", MAX_SEQUENCE / 2))
        } else {
            Ok(())
        }
    }

    /// The outstanding checkpoint.
    pub fn outstanding(&self) -> Option<&Point> {
        self.points.last().filter(|point| point.role.is_outstanding())
    }

    /// The point that the intent names, whatever the state is.
    pub fn intent_point(&self) -> Option<&Point> {
        let intent = self.intent?;
        self.points.iter().find(|point| point.uuid == intent.point)
    }
}
