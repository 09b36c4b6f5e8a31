//! A reader's place in a map, apart from the map.
//!
//! Invariant kept here: a cursor only moves forward, and each step is made from the map as it is then: nothing is remembered
//! of bits.

use super::read::ReadMap;
use std::ops::Range;

/// Where a reader of a map is: plain data that borrows nothing, to be kept beside the map, or sent somewhere and back.
///
/// Each step asks the map anew, and so is right also when the map was changed, or made longer or shorter, since the last
/// one: what was reset before it is reached is not found, what was set behind the cursor is not found either, and nothing is
/// found twice. Cost of a step: O(levels), as of the iterators.
///
/// ```
/// use dirtymap::{Bitmap, iter::Cursor};
///
/// let mut map = Bitmap::new(1000, 3)?;
/// map.set(80..100)?;
/// map.set(500..501)?;
/// let mut cursor = Cursor::new(0..map.len());
/// assert_eq!(cursor.next(&map), Some(80));
/// map.reset_covering(88..89)?; // the map is not borrowed
/// assert_eq!(cursor.peek(&map), Some(96));
/// cursor.advance_to(200);
/// assert_eq!(cursor.next_extent(&map), Some(496..504));
/// assert_eq!(cursor.next(&map), None);
/// # Ok::<(), dirtymap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    next: u64,
    end: u64,
}

impl Cursor {
    /// Before the first item of a range, of which only what lies in the map is looked at.
    pub fn new(items: Range<u64>) -> Cursor {
        Cursor { next: items.start, end: items.end }
    }

    /// The first item that it has not passed.
    pub fn position(&self) -> u64 {
        self.next
    }

    #[inline]
    fn bit(&self, map: &(impl ReadMap + ?Sized)) -> Option<u64> {
        let g = map.geometry();
        map.next_set(g.touched(&(self.next..self.end.min(g.len()))))
    }

    /// What [`next`](Self::next) finds if the map stays as it is.
    pub fn peek(&self, map: &(impl ReadMap + ?Sized)) -> Option<u64> {
        self.bit(map).map(|bit| map.geometry().item_of(bit))
    }

    /// The first item of the next dirty granule, as [`Granules`](crate::iter::Granules) has it. With `None` nothing was passed: what
    /// is set later is found then.
    #[inline]
    pub fn next(&mut self, map: &(impl ReadMap + ?Sized)) -> Option<u64> {
        let bit = self.bit(map)?;
        let (g, item) = (map.geometry(), bit << map.geometry().granularity());
        self.next = item.saturating_add(g.granule());
        Some(item)
    }

    /// The next dirty area, as [`Extents`](crate::iter::Extents) has it: clamped to what is left of the range.
    #[inline]
    pub fn next_extent(&mut self, map: &(impl ReadMap + ?Sized)) -> Option<Range<u64>> {
        let end = self.end.min(map.geometry().len());
        let area = map.area(self.next.min(end)..end, u64::MAX)?;
        self.next = area.end;
        Some(area)
    }

    /// Moves forward to `item`: what lies before is not found any more. Does nothing if it is there or further already.
    pub fn advance_to(&mut self, item: u64) {
        self.next = self.next.max(item);
    }
}
