//! [`Point`]: a set of dirty bits beside the map's own.
//!
//! Invariant kept here: a point has both regions or none, of the same lengths as the map's own.

use super::layout::{bottom_length, region, table_length};
use super::stamp::Stamp;
use super::values::{Reasons, Reserved, Uuid};
use crate::geometry::Geometry;
use std::ops::Range;

/// The flags of a point that is outstanding.
pub(super) const OUTSTANDING: u32 = 1;
/// The flags of a point that is kept.
pub(super) const KEPT: u32 = 2;

/// What a point is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PointRole {
    /// It is the outstanding checkpoint.
    Outstanding,
    /// Its checkpoint was committed, and it is kept by its name.
    Kept,
}

/// A set of dirty bits beside the map's own, in regions of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its identity; not nil.
    pub uuid: Uuid,
    /// When it was frozen.
    pub time: i64,
    /// What for.
    pub role: PointRole,
    /// Unique among the points; empty only while outstanding. At most 64 bytes.
    pub name: String,
    /// Where its page table is, in bytes from the start of the file; 0 when it has no regions.
    pub table_offset: u64,
    /// Where its bottom is, in bytes from the start of the file; 0 when it has no regions.
    pub bottom_offset: u64,
    /// Bits that are set in it, at least. Without regions: none, or all.
    pub granules: u64,
    /// Why dirt was added to what was frozen in it.
    pub reasons: Reasons,
    /// The backup target that was completed with it.
    pub target: Option<Stamp>,
    /// Bytes without a meaning in this version.
    pub reserved: Reserved<4>,
}

impl Point {
    /// Whether it has regions. A point without them holds nothing, or everything.
    pub fn has_regions(&self) -> bool {
        self.table_offset != 0 || self.bottom_offset != 0
    }

    /// Whether it holds nothing, and so has no regions.
    pub fn is_nothing(&self) -> bool {
        !self.has_regions() && self.granules == 0
    }

    /// Whether it holds everything, without regions.
    pub fn is_everything(&self) -> bool {
        !self.has_regions() && self.granules > 0
    }

    /// Its page table in the file. It has the length of the map's, or none without regions.
    pub fn table(&self, geometry: &Geometry) -> Range<u64> {
        region(self.table_offset, if self.has_regions() { table_length(geometry) } else { 0 })
    }

    /// Its bottom in the file. It has the length of the map's, or none without regions.
    pub fn bottom(&self, geometry: &Geometry) -> Range<u64> {
        region(self.bottom_offset, if self.has_regions() { bottom_length(geometry) } else { 0 })
    }
}
