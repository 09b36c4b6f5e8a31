//! [`Point`]: a set of dirty bits beside the map's own.
//!
//! Invariant kept here: a point has both regions or none, of the same lengths as the map's own.

use super::layout::{bottom_length, region, table_length};
use super::sizes::MAX_UNIT;
use super::stamp::Stamp;
use super::values::{Reasons, Reserved, Uuid};
use crate::geometry::Geometry;
use std::ops::Range;

/// The flags of a point that is outstanding.
pub(super) const OUTSTANDING: u32 = 1;
/// The flags of a point that is kept.
pub(super) const KEPT: u32 = 2;
/// The flags of a point that is only the intent.
pub(super) const INTENT_ONLY: u32 = 4;
/// The flags of a point that is outstanding, of a snapshot.
pub(super) const SNAPSHOT: u32 = OUTSTANDING | 8;

/// What a point is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PointRole {
    /// It is the outstanding checkpoint.
    Outstanding,
    /// It is the outstanding checkpoint, of a snapshot: a program keeps what is overwritten since. Where that is gone, so is
    /// what was frozen, and the program that finds it so aborts the checkpoint.
    Snapshot,
    /// Its checkpoint was committed, and it is kept by its name.
    Kept,
    /// It is only what the header's intent names. It has no name, and comes behind all that are kept.
    Intent,
}

/// The write intent of a header: while the state is OPEN, what one of its points holds counts as armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Intent {
    /// The point, which has regions.
    pub point: Uuid,
    /// Log2 of the granules that each of its granules is rounded out to; at most 6.
    pub unit: u32,
}

impl Intent {
    /// A word of the point, rounded out: all bits of each unit of which one is set. Also those that the map does not have.
    pub fn round(&self, word: u64) -> u64 {
        let unit = self.unit.min(MAX_UNIT);
        let whole = u64::MAX >> (64 - (1u32 << unit));
        // The lowest bit of each unit gathers the others, and then spreads.
        let gathered = (0..unit).fold(word, |word, i| word | word >> (1 << i));
        (gathered & (u64::MAX / whole)) * whole
    }
}

impl PointRole {
    /// Whether the point is that of the outstanding checkpoint.
    pub fn is_outstanding(self) -> bool {
        matches!(self, PointRole::Outstanding | PointRole::Snapshot)
    }

    pub(super) fn flags(self) -> u32 {
        match self {
            PointRole::Outstanding => OUTSTANDING,
            PointRole::Snapshot => SNAPSHOT,
            PointRole::Kept => KEPT,
            PointRole::Intent => INTENT_ONLY,
        }
    }
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
    /// Unique among the points; empty only where it is not kept by it. At most 64 bytes.
    pub name: String,
    /// Where its page table is, in bytes from the start of the file; 0 when it has no regions.
    pub table_offset: u64,
    /// Where its bottom is, in bytes from the start of the file; 0 when it has no regions.
    pub bottom_offset: u64,
    /// Bits that are set in it, at least. Without regions: none, or all.
    pub granules: u64,
    /// Why dirt was added to what was frozen in it.
    pub reasons: Reasons,
    /// The backup target that was completed with it; while it is outstanding, the one that it was frozen for.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_rounded_out_to_the_whole_of_its_unit() {
        let words = [0, 1, 1 << 63, 0x8000_0001, 0x0001_0000_8000_0000, 0xf0f0, u64::MAX]
            .into_iter()
            .chain((0..64).map(|i| 1 << i))
            .chain((0..100u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) & i.wrapping_mul(0xd6e8_feb8_6659_fd93)));
        for word in words {
            for unit in 0..=MAX_UNIT {
                let same = |i: u32| (0..64u32).any(|j| word >> j & 1 == 1 && i >> unit == j >> unit);
                let expected = (0..64).filter(|&i| same(i)).fold(0u64, |all, i| all | 1 << i);
                assert_eq!(Intent { point: Uuid::NIL, unit }.round(word), expected, "{word:#x} by {unit}");
            }
        }
    }
}
