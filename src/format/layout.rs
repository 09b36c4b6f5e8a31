//! Where the regions of a file are, and the parts of the volatile region.
//!
//! Invariant kept here: lengths follow from the geometry alone, and no arithmetic overflows, whatever the
//! offsets are.

use super::{ALIGN, ENTRY_BYTES, HEADER_REGION};
use crate::geometry::{BOTTOM, Geometry, LEVELS, MAX_BITS, PAGE_BYTES};
use std::ops::Range;

// All lengths below are sums of a few multiples of the bottom level's bytes.
const _: () = assert!((MAX_BITS / 8).checked_mul(64).is_some());

/// Rounds up to [`ALIGN`]; exact for everything below 2^64 − 65536.
const fn aligned(bytes: u64) -> u64 {
    bytes.div_ceil(ALIGN).saturating_mul(ALIGN)
}

/// Bytes of the page-table region.
pub fn table_length(geometry: &Geometry) -> u64 {
    aligned(ENTRY_BYTES * geometry.pages())
}

/// Bytes of the bottom region.
pub fn bottom_length(geometry: &Geometry) -> u64 {
    aligned(PAGE_BYTES * geometry.pages())
}

/// `length` bytes from `offset` on; saturates, and what saturates is found out of bounds.
pub(super) fn region(offset: u64, length: u64) -> Range<u64> {
    offset..offset.saturating_add(length)
}

/// The regions that every file has, as byte ranges in the file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// One entry per page of the bottom.
    pub table: Range<u64>,
    /// The durable bottom level.
    pub bottom: Range<u64>,
    /// What is mapped and shared while the map is open.
    pub volatile: Range<u64>,
}

impl Layout {
    /// The regions of a new file: in order, without holes.
    pub fn initial(geometry: &Geometry) -> Layout {
        let table = region(HEADER_REGION, table_length(geometry));
        let bottom = region(table.end, bottom_length(geometry));
        let volatile = region(bottom.end, VolatileLayout::new(geometry).length);
        Layout { table, bottom, volatile }
    }
}

/// The lowest aligned offset behind the headers at which `length` bytes (rounded up to [`ALIGN`]) are free of
/// all of `taken`. O(n log n) in the regions taken.
pub fn free_offset(taken: impl IntoIterator<Item = Range<u64>>, length: u64) -> u64 {
    let mut taken: Vec<_> = taken.into_iter().filter(|range| range.start < range.end).collect();
    taken.sort_unstable_by_key(|range| range.start);
    let mut free = HEADER_REGION;
    for range in taken {
        if range.start.saturating_sub(free) >= aligned(length) {
            break;
        }
        free = free.max(aligned(range.end));
    }
    free
}

/// The parts of a volatile region of layout 1, as byte ranges from the start of the region.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolatileLayout {
    /// The runtime page.
    pub runtime: Range<u64>,
    /// One bit per granule, as in the bottom level.
    pub armed: Range<u64>,
    /// One bit per bottom word.
    pub touched: Range<u64>,
    /// All levels above the bottom.
    pub upper: Range<u64>,
    /// Each of them, the top one first, inside `upper` (exact, not rounded up).
    pub levels: [Range<u64>; BOTTOM],
    /// The bottom level as everybody sees it.
    pub live: Range<u64>,
    /// The bottom level as it is known to be on the disk.
    pub durable: Range<u64>,
    /// Bytes of the whole region.
    pub length: u64,
}

impl VolatileLayout {
    /// The parts for a map of this shape.
    pub fn new(geometry: &Geometry) -> VolatileLayout {
        let words: [u64; LEVELS] = geometry.level_words();
        let mut end = 0;
        let mut part = |bytes: u64| {
            let range = region(end, aligned(bytes));
            end = range.end;
            range
        };
        let runtime = part(ALIGN);
        let armed = part(8 * words[BOTTOM]);
        let touched = part(8 * words[BOTTOM - 1]);
        let upper = part(8 * words[..BOTTOM].iter().sum::<u64>());
        let live = part(8 * words[BOTTOM]);
        let durable = part(8 * words[BOTTOM]);
        let mut level = upper.start;
        let levels = std::array::from_fn(|k| {
            let range = region(level, 8 * words[k]);
            level = range.end;
            range
        });
        VolatileLayout { runtime, armed, touched, upper, levels, live, durable, length: end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(len: u64, granularity: u32) -> Geometry {
        Geometry::new(len, granularity).unwrap()
    }

    #[test]
    fn the_smallest_file() {
        for map in [geometry(0, 0), geometry(1, 63), geometry(1 << 20, 16)] {
            let layout = Layout::initial(&map);
            assert_eq!(layout.table, 0x4_0000..0x5_0000);
            assert_eq!(layout.bottom, 0x5_0000..0x6_0000);
            assert_eq!(layout.volatile, 0x6_0000..0xc_0000);
        }
    }

    #[test]
    fn the_largest_file() {
        let map = geometry(1 << 41, 0);
        let layout = Layout::initial(&map);
        assert_eq!(layout.table.end - layout.table.start, 1 << 31);
        assert_eq!(layout.bottom.end - layout.bottom.start, 1 << 38);
        let parts = VolatileLayout::new(&map);
        assert_eq!(parts.live.end - parts.live.start, 1 << 38);
        assert_eq!(parts.armed.end - parts.armed.start, 1 << 38);
        assert_eq!(parts.touched.end - parts.touched.start, 1 << 32);
        let upper: u64 = map.level_words()[..BOTTOM].iter().sum();
        assert_eq!(parts.upper.end - parts.upper.start, (8 * upper).next_multiple_of(ALIGN));
    }

    #[test]
    fn parts_follow_each_other_aligned_and_hold_what_they_should() {
        for map in [geometry(0, 0), geometry(1 << 30, 9), geometry((1 << 33) + 1, 3), geometry(1 << 41, 0)] {
            let parts = VolatileLayout::new(&map);
            let words = map.level_words();
            let VolatileLayout { runtime, armed, touched, upper, levels, live, durable, length } = parts;
            let mut end = 0;
            for part in [&runtime, &armed, &touched, &upper, &live, &durable] {
                assert_eq!(part.start, end);
                assert!(part.start.is_multiple_of(ALIGN) && part.end > part.start);
                end = part.end;
            }
            assert_eq!(length, end);
            assert!((touched.end - touched.start) * 8 >= map.words());
            let mut at = upper.start;
            for (level, words) in levels.iter().zip(words) {
                assert_eq!((level.start, level.end), (at, at + 8 * words));
                at = level.end;
            }
            assert!(at <= upper.end && upper.end - at < ALIGN);
            for bottom in [armed, live, durable] {
                assert_eq!(bottom.end - bottom.start, (8 * map.words()).next_multiple_of(ALIGN));
            }
            assert!(table_length(&map) >= 4 * map.pages() && bottom_length(&map) >= 512 * map.pages());
        }
    }

    #[test]
    fn free_space_is_the_first_that_is_large_enough() {
        let unit = |i: u64| HEADER_REGION - ALIGN + i * ALIGN;
        let units = |i: u64| i * ALIGN;
        assert_eq!(free_offset([], 1), HEADER_REGION);
        let taken = [unit(6)..unit(7), 0..HEADER_REGION, unit(2)..unit(3)];
        assert_eq!(free_offset(taken.clone(), 1), unit(1));
        assert_eq!(free_offset(taken.clone(), ALIGN), unit(1));
        assert_eq!(free_offset(taken.clone(), ALIGN + 1), unit(3));
        assert_eq!(free_offset(taken.clone(), units(3)), unit(3));
        assert_eq!(free_offset(taken.clone(), units(4)), unit(7));
        // A gap that is long enough only before rounding.
        assert_eq!(free_offset([0..unit(1), unit(2) + 512..unit(3)], ALIGN + 1), unit(3));
        // Nested, unaligned and empty ones, and no overflow.
        assert_eq!(free_offset([unit(1)..unit(9), unit(2)..unit(3), unit(9)..unit(9) + 1], 1), unit(10));
        assert_eq!(free_offset(std::iter::once(unit(1)..unit(1)), 1), unit(1));
        assert!(free_offset(std::iter::once(0..u64::MAX), u64::MAX) >= u64::MAX - ALIGN);
    }
}
