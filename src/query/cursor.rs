//! A reader's place in a map, apart from the map.
//!
//! Invariant kept here: a cursor only moves forward, and each step is made from the map as it is then. What is remembered of
//! a word counts only where the map still has the same word.

use super::read::ReadMap;
use crate::geometry::WORD_BITS;
use std::fmt;
use std::hash::{Hash, Hasher};
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
#[derive(Clone, Copy)]
pub struct Cursor {
    next: u64,
    end: u64,
    place: Place,
}

/// A place in words of a stable map.
#[derive(Clone, Copy)]
struct Place {
    /// The granularity that it is for.
    granularity: u32,
    word: u64,
    /// The word as it was when it was looked at, and what of that is not passed: right as long as the word is still the same.
    /// So each step looks at the word, but need not wait for it.
    seen: u64,
    rest: u64,
    /// What is behind the word among the 64 of its block, be it zero or not.
    words: u64,
}

impl Place {
    /// For no map.
    const NONE: Place = Place { granularity: u32::MAX, word: 0, seen: 0, rest: 0, words: 0 };

    fn of(map: &(impl ReadMap + ?Sized), bit: u64) -> Place {
        let (word, granularity) = (bit / WORD_BITS, map.geometry().granularity());
        let seen = map.word(word);
        let rest = seen & u64::MAX << (bit % WORD_BITS);
        Place { granularity, word, seen, rest, words: u64::MAX << (word % WORD_BITS) << 1 }
    }
}

impl Cursor {
    /// Before the first item of a range, of which only what lies in the map is looked at.
    pub fn new(items: Range<u64>) -> Cursor {
        Cursor { next: items.start, end: items.end, place: Place::NONE }
    }

    /// The first item that it has not passed.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The place in a stable map of the first word from here on that has dirt.
    #[inline(always)]
    fn find(&self, map: &(impl ReadMap + ?Sized), end: u64) -> Option<Place> {
        let mut place = self.place;
        // Where the map has become shorter, there may be no such word.
        if place.granularity != map.geometry().granularity() || map.word(place.word) != place.seen {
            place = self.anew(map, end)?;
        }
        if place.rest != 0 {
            return Some(place);
        }
        let block = place.word / WORD_BITS;
        let words = map.nonzero_words(block) & place.words;
        if words != 0 {
            place.word = block * WORD_BITS + u64::from(words.trailing_zeros());
            place.words &= !(words ^ (words - 1));
            place.seen = map.word(place.word);
            place.rest = place.seen;
            return Some(place);
        }
        Self::climb(map, (block + 1) * WORD_BITS * WORD_BITS, end)
    }

    #[cold]
    fn anew(&self, map: &(impl ReadMap + ?Sized), end: u64) -> Option<Place> {
        (self.next < end).then(|| Place::of(map, map.geometry().bit_of(self.next)))
    }

    /// The same behind a block.
    #[inline(never)]
    fn climb(map: &(impl ReadMap + ?Sized), bit: u64, end: u64) -> Option<Place> {
        let bit = map.next_set(bit..map.geometry().touched(&(0..end)).end)?;
        Some(Place::of(map, bit))
    }

    /// What [`next`](Self::next) finds if the map stays as it is.
    pub fn peek(&self, map: &(impl ReadMap + ?Sized)) -> Option<u64> {
        let mut copy = *self;
        copy.next(map)
    }

    /// The first item of the next dirty granule, as [`Granules`](crate::iter::Granules) has it. With `None` nothing was passed: what
    /// is set later is found then.
    #[inline(always)]
    pub fn next(&mut self, map: &(impl ReadMap + ?Sized)) -> Option<u64> {
        let g = map.geometry();
        let end = self.end.min(g.len());
        if !map.is_stable() {
            let bit = map.next_set(g.touched(&(self.next..end)))?;
            let item = bit << g.granularity();
            self.next = item + g.granule();
            return Some(item);
        }
        let place = self.find(map, end)?;
        let item = (place.word * WORD_BITS + u64::from(place.rest.trailing_zeros())) << g.granularity();
        if item >= end {
            return None;
        }
        self.next = item + g.granule();
        self.place = Place { rest: place.rest & (place.rest - 1), ..place };
        Some(item)
    }

    /// The next dirty area, as [`Extents`](crate::iter::Extents) has it: clamped to what is left of the range.
    #[inline]
    pub fn next_extent(&mut self, map: &(impl ReadMap + ?Sized)) -> Option<Range<u64>> {
        let g = map.geometry();
        let end = self.end.min(g.len());
        if !map.is_stable() {
            let area = map.area(self.next.min(end)..end, u64::MAX)?;
            self.next = area.end;
            return Some(area);
        }
        let place = self.find(map, end)?;
        let (bit, rest) = (place.word * WORD_BITS, place.rest);
        let start = (bit + u64::from(rest.trailing_zeros())) << g.granularity();
        if start >= end {
            return None;
        }
        // Adding the first bit of a run clears the run and carries into the bit behind it, or out of the word.
        let carried = rest.wrapping_add(rest & rest.wrapping_neg());
        let (place, stop) = match carried & !rest {
            0 => Self::end_of_run(map, bit + WORD_BITS, end),
            clear => (Place { rest: rest & carried, ..place }, bit + u64::from(clear.trailing_zeros())),
        };
        // Whole granules are below 2^64 also where the last one reaches past the end.
        let stop = stop << g.granularity();
        let area = start.max(self.next)..stop.min(end);
        (self.next, self.place) = (area.end, if stop > end { Place::NONE } else { place });
        Some(area)
    }

    /// The first clear bit from one on, or else the one behind `end`.
    fn end_of_run(map: &(impl ReadMap + ?Sized), bit: u64, end: u64) -> (Place, u64) {
        let bits = bit..map.geometry().touched(&(0..end)).end;
        let stop = map.next_clear(bits.clone()).unwrap_or(bits.end);
        (Place::of(map, stop), stop)
    }

    /// Moves forward to `item`: what lies before is not found any more. Does nothing if it is there or further already.
    pub fn advance_to(&mut self, item: u64) {
        if item > self.next {
            (self.next, self.place) = (item, Place::NONE);
        }
    }
}

/// Equal: at the same item, with the same end.
impl PartialEq for Cursor {
    fn eq(&self, other: &Cursor) -> bool {
        (self.next, self.end) == (other.next, other.end)
    }
}

impl Eq for Cursor {}

impl Hash for Cursor {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.next, self.end).hash(state);
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor").field("next", &self.next).field("end", &self.end).finish_non_exhaustive()
    }
}
