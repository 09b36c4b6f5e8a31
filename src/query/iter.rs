//! Iterators over dirty granules, dirty areas and nonzero words.
//!
//! Invariant kept here: each end of an iterator only moves towards the other, so nothing is yielded twice, whatever
//! happens to the bits meanwhile. What is remembered of bits not yet yielded is at most what
//! [`Granules::peek`] or [`Extents::peek`] has shown, unless the map cannot change
//! ([`Search::is_stable`]). An exhausted iterator stays exhausted.

use super::search::Search;
use crate::geometry::{WORD_BITS, mask_in};
use crate::hierarchy::{Walk, words_touched};
use std::fmt;
use std::iter::FusedIterator;
use std::ops::ControlFlow::{Break, Continue};
use std::ops::Range;

/// A run of so many bits may be much longer: where it ends is looked for without the summaries.
const LONG: u64 = 32 * WORD_BITS;

/// The first item of each dirty granule, ascending; by `rev` descending.
///
/// Started from the middle of a dirty granule, it yields that granule first, by its first item, which is then below
/// the start of the range asked for. Cost: O(levels) from one to the next.
///
/// On a map that changes meanwhile: bits set may be missed; bits reset and not yet reached (yielded or
/// [peeked](Self::peek) at) are not yielded; nothing is yielded twice.
///
/// Made by [`Bitmap::granules`](crate::Bitmap::granules) and [`DirtyMap::granules`](crate::DirtyMap::granules).
pub struct Granules<'a, S> {
    pub(super) map: &'a S,
    /// Bits not yet yielded, and perhaps some of word `index` that were. When `seen` is not zero, none below its first
    /// is dirty.
    pub(super) bits: Range<u64>,
    /// Set bits of word `index`, all inside `bits`, that will be yielded next: for a stable map all that are
    /// left in that word, else at most one, which has been peeked at.
    pub(super) seen: u64,
    pub(super) index: u64,
    /// For a stable map: what is behind word `index`.
    walk: Walk,
}

impl<'a, S: Search> Granules<'a, S> {
    /// Over a checked range of bits.
    pub(crate) fn over(map: &'a S, bits: Range<u64>) -> Self {
        let walk = Walk::from(bits.start / WORD_BITS);
        Granules { map, bits, seen: 0, index: 0, walk }
    }

    /// The next dirty bit, without advancing.
    #[inline(always)]
    pub(super) fn peek_bit(&mut self) -> Option<u64> {
        if self.seen == 0 {
            self.search()?;
        }
        Some(self.index * WORD_BITS + u64::from(self.seen.trailing_zeros()))
    }

    #[inline(always)]
    fn search(&mut self) -> Option<()> {
        let found = if self.map.is_stable() {
            next_in(self.map, &mut self.walk, &self.bits)
        } else {
            let bit = self.map.next_set(self.bits.clone());
            bit.map(|bit| (bit / WORD_BITS, 1 << (bit % WORD_BITS)))
        };
        let Some((i, seen)) = found else {
            self.bits.start = self.bits.end;
            return None;
        };
        (self.index, self.seen) = (i, seen);
        self.bits.start = i * WORD_BITS + u64::from(seen.trailing_zeros());
        Some(())
    }

    /// The first item of a granule that there is; `item_of` would also answer for the end, at some cost.
    #[inline]
    pub(super) fn item(&self, bit: u64) -> u64 {
        bit << self.map.geometry().granularity()
    }

    /// What [`next`](Iterator::next) is going to yield. It is remembered, so the next call of `next` yields this same
    /// item, also when its bit has been reset in between.
    pub fn peek(&mut self) -> Option<u64> {
        let bit = self.peek_bit()?;
        Some(self.item(bit))
    }

    /// Moves forward to the granule of `item`: what lies before is not yielded any more. Does nothing if the
    /// iterator is there or further already; an item past the map's end exhausts it. Cost: O(1).
    pub fn advance_to(&mut self, item: u64) {
        let g = self.map.geometry();
        // An item past the end can share the number of the last, partial granule.
        let bit = if item < g.len() { g.bit_of(item) } else { self.bits.end };
        self.bits.start = self.bits.start.max(bit).min(self.bits.end);
        self.seen &= mask_in(self.index, &self.bits);
        self.walk.skip_to(self.bits.start / WORD_BITS);
    }
}

impl<S: Search> Iterator for Granules<'_, S> {
    type Item = u64;

    #[inline(always)]
    fn next(&mut self) -> Option<u64> {
        let bit = self.peek_bit()?;
        self.seen &= self.seen - 1;
        if !self.map.is_stable() {
            self.bits.start = bit + 1;
        }
        Some(self.item(bit))
    }

    /// What `for_each`, `sum` and the like do: word by word.
    #[inline]
    fn fold<B, F: FnMut(B, u64) -> B>(mut self, init: B, mut f: F) -> B {
        let mut value = init;
        if !self.map.is_stable() {
            for item in self.by_ref() {
                value = f(value, item);
            }
            return value;
        }
        let shift = self.map.geometry().granularity();
        let mut each = |mut value, i, mut word: u64| {
            while word != 0 {
                value = f(value, (i * WORD_BITS + u64::from(word.trailing_zeros())) << shift);
                word &= word - 1;
            }
            value
        };
        let rest = each(value, self.index, self.seen);
        let done = self.map.fold_words(self.walk, &self.bits, rest, |value, i, word| Continue(each(value, i, word)));
        let (Continue(value) | Break(value)) = done;
        value
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.seen.count_ones() as usize, upper_bound(self.bits.end - self.bits.start))
    }
}

/// The dirty areas of a range, ascending (by `rev` descending), as ranges of items clamped to the range asked for.
///
/// Cost: O(levels) from one to the next, and one step per 64 granules of a long one. On a map that
/// changes meanwhile the same holds as for [`Granules`], item by item; an area that grew after it was yielded may be
/// followed by one that starts where it ended.
///
/// Made by [`Bitmap::extents`](crate::Bitmap::extents) and [`DirtyMap::extents`](crate::DirtyMap::extents).
pub struct Extents<'a, S> {
    pub(super) map: &'a S,
    /// Items not yet yielded.
    pub(super) items: Range<u64>,
    /// An area that has been peeked at.
    pub(super) seen: Option<Range<u64>>,
    /// For a stable map: the dirt of word `index` behind the last area, and what is behind that word.
    pub(super) rest: u64,
    pub(super) index: u64,
    walk: Walk,
}

impl<'a, S: Search> Extents<'a, S> {
    /// Over a checked range of items.
    pub(crate) fn over(map: &'a S, items: Range<u64>) -> Self {
        let walk = Walk::from(map.geometry().bit_of(items.start) / WORD_BITS);
        Extents { map, items, seen: None, rest: 0, index: 0, walk }
    }

    #[inline(always)]
    fn search(&mut self) -> Option<Range<u64>> {
        let area =
            if self.map.is_stable() { self.search_stable() } else { self.map.area(self.items.clone(), u64::MAX) };
        self.items.start = area.as_ref().map_or(self.items.end, |area| area.start);
        area
    }

    /// Takes each word once, where [`Search::area`] would begin anew.
    #[inline(always)]
    fn search_stable(&mut self) -> Option<Range<u64>> {
        let g = self.map.geometry();
        let bits = g.touched(&self.items);
        if self.rest == 0 {
            (self.index, self.rest) = next_in(self.map, &mut self.walk, &bits)?;
        }
        let first = u64::from(self.rest.trailing_zeros());
        let start = self.index * WORD_BITS + first;
        let mut end = start + u64::from((self.rest >> first).trailing_ones());
        self.rest &= !mask_in(self.index, &(start..end));
        // It may go on in the next word, if it reached the end of this one.
        if end.is_multiple_of(WORD_BITS)
            && let Some((i, word)) = next_in(self.map, &mut self.walk, &bits)
        {
            (self.index, self.rest) = (i, word);
            if i * WORD_BITS == end {
                let ones = u64::from(word.trailing_ones());
                end += ones;
                self.rest &= word.wrapping_add(1);
                if ones == WORD_BITS {
                    // Where a long one ends is looked for without the summaries.
                    end = self.map.next_clear(end..bits.end).unwrap_or(bits.end);
                    self.walk.skip_to(end / WORD_BITS);
                }
            }
        }
        Some(g.item_of(start).max(self.items.start)..g.item_of(end).min(self.items.end))
    }

    /// What [`next`](Iterator::next) is going to yield. It is remembered, so the next call of `next` yields this same
    /// area, also when bits of it have been reset in between.
    pub fn peek(&mut self) -> Option<Range<u64>> {
        if self.seen.is_none() {
            self.seen = self.search();
        }
        self.seen.clone()
    }

    /// Moves forward to `item`: what lies before is not yielded any more, and an area around it yields what is
    /// left of it. Does nothing if the iterator is there or further already; an item past the end
    /// exhausts it. Cost: O(1).
    pub fn advance_to(&mut self, item: u64) {
        self.items.start = self.items.start.max(item.min(self.items.end));
        self.seen = self.seen.take().map(|area| area.start.max(self.items.start)..area.end).filter(|a| a.start < a.end);
        let bits = self.map.geometry().touched(&self.items);
        self.rest &= mask_in(self.index, &bits);
        self.walk.skip_to(bits.start / WORD_BITS);
    }
}

impl<S: Search> Iterator for Extents<'_, S> {
    type Item = Range<u64>;

    #[inline(always)]
    fn next(&mut self) -> Option<Range<u64>> {
        let area = match self.seen.take() {
            Some(area) => area,
            None => self.search()?,
        };
        self.items.start = area.end;
        Some(area)
    }

    /// What `for_each`, `sum` and the like do: word by word, and within one from run to run.
    #[inline]
    fn fold<B, F: FnMut(B, Range<u64>) -> B>(mut self, init: B, mut f: F) -> B {
        let mut value = init;
        if !self.map.is_stable() {
            for area in self.by_ref() {
                value = f(value, area);
            }
            return value;
        }
        if let Some(area) = self.seen.take() {
            self.items.start = area.end;
            value = f(value, area);
        }
        let (g, items) = (self.map.geometry(), self.items.clone());
        let mut bits = g.touched(&items);
        // Whole granules are below 2^64 also where the last one reaches past the end.
        let area = |run: &Range<u64>| {
            (run.start << g.granularity()).max(items.start)..(run.end << g.granularity()).min(items.end)
        };
        // A run that may go on in the next word.
        let mut open = 0..0;
        loop {
            let mut each = |mut value, i, mut word: u64| {
                let first = i * WORD_BITS;
                if word == u64::MAX && open.end == first {
                    open.end += WORD_BITS;
                    return if open.end - open.start < LONG { Continue(value) } else { Break(value) };
                }
                while word != 0 {
                    let start = u64::from(word.trailing_zeros());
                    // Adding the first bit of a run clears the run and carries into the bit behind it, or out of the word.
                    let carried = word.wrapping_add(1 << start);
                    let end = u64::from((carried & !word).trailing_zeros());
                    word &= carried;
                    if open.end != first + start {
                        if open.start != open.end {
                            value = f(value, area(&open));
                        }
                        open.start = first + start;
                    }
                    open.end = first + end;
                }
                Continue(value)
            };
            let (Continue(rest) | Break(rest)) = each(value, self.index, std::mem::take(&mut self.rest));
            match self.map.fold_words(self.walk, &bits, rest, each) {
                Continue(value) if open.start != open.end => return f(value, area(&open)),
                Continue(value) => return value,
                Break(so_far) => value = so_far,
            }
            open.end = self.map.next_clear(open.end..bits.end).unwrap_or(bits.end);
            bits.start = open.end;
            self.walk = Walk::from(open.end / WORD_BITS);
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let bits = self.map.geometry().touched(&self.items);
        (self.seen.iter().len(), upper_bound((bits.end - bits.start).div_ceil(2).max(self.seen.iter().len() as u64)))
    }
}

/// The nonzero words of the bottom level that a range touches: `(word index, word)`, ascending. Bit `b` of
/// word `i` is granule `64 * i + b`; the first and the last word show only the granules that the range touches.
///
/// Cost: O(levels) from one to the next. On a map that changes meanwhile each word is looked at once, when it is
/// reached.
///
/// Made by [`Bitmap::words`](crate::Bitmap::words) and [`DirtyMap::words`](crate::DirtyMap::words).
pub struct WordsIter<'a, S> {
    pub(super) map: &'a S,
    /// Bits not yet yielded.
    pub(super) bits: Range<u64>,
    /// What has been peeked at.
    pub(super) seen: Option<(u64, u64)>,
    /// For a stable map: where it is.
    walk: Walk,
}

impl<'a, S: Search> WordsIter<'a, S> {
    /// Over a checked range of bits.
    pub(crate) fn over(map: &'a S, bits: Range<u64>) -> Self {
        let walk = Walk::from(bits.start / WORD_BITS);
        WordsIter { map, bits, seen: None, walk }
    }

    #[inline(always)]
    fn search(&mut self) -> Option<(u64, u64)> {
        if self.map.is_stable() {
            let found = next_in(self.map, &mut self.walk, &self.bits);
            self.bits.start = found.map_or(self.bits.end, |(i, _)| self.bits.end.min((i + 1) * WORD_BITS));
            return found;
        }
        // More than once only if the range's part of its first word is clear and another part is not.
        while let Some((i, word)) = self.map.next_nonzero_word(words_touched(&self.bits)) {
            let word = word & mask_in(i, &self.bits);
            self.bits.start = self.bits.end.min((i + 1) * WORD_BITS);
            if word != 0 {
                return Some((i, word));
            }
        }
        self.bits.start = self.bits.end;
        None
    }

    /// What [`next`](Iterator::next) is going to yield. It is remembered, so the next call of `next` yields this same
    /// word, also when bits of it have been reset in between.
    pub fn peek(&mut self) -> Option<(u64, u64)> {
        if self.seen.is_none() {
            self.seen = self.search();
        }
        self.seen
    }

    /// Moves forward to the granule of `item`: what lies before is not yielded any more, and a word around it is
    /// yielded without it. Does nothing if the iterator is there or further already; an item past the
    /// map's end exhausts it. Cost: O(1).
    pub fn advance_to(&mut self, item: u64) {
        let g = self.map.geometry();
        let bit = if item < g.len() { g.bit_of(item) } else { u64::MAX };
        self.bits.start = self.bits.start.max(bit).min(self.bits.end);
        self.walk.skip_to(self.bits.start / WORD_BITS);
        self.seen = self.seen.map(|(i, word)| (i, word & mask_in(i, &(bit..u64::MAX)))).filter(|&(_, word)| word != 0);
    }
}

impl<S: Search> Iterator for WordsIter<'_, S> {
    type Item = (u64, u64);

    #[inline(always)]
    fn next(&mut self) -> Option<(u64, u64)> {
        self.seen.take().or_else(|| self.search())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (seen, words) = (self.seen.iter().len(), words_touched(&self.bits));
        (seen, upper_bound(words.end - words.start + seen as u64))
    }
}

/// The next word of a stable map with dirt inside `bits`: its index, and that dirt.
#[inline(always)]
fn next_in<S: Search>(map: &S, walk: &mut Walk, bits: &Range<u64>) -> Option<(u64, u64)> {
    // More than once only if the range's part of its first word is clear and another part is not.
    while let Some((i, word)) = map.step(walk)
        && i * WORD_BITS < bits.end
    {
        let word =
            if (i + 1) * WORD_BITS > bits.end || i * WORD_BITS < bits.start { word & mask_in(i, bits) } else { word };
        if word != 0 {
            return Some((i, word));
        }
    }
    *walk = Walk::over();
    None
}

/// An upper bound as `size_hint` wants it: none if it does not fit.
fn upper_bound(n: u64) -> Option<usize> {
    usize::try_from(n).ok()
}

impl<S: Search> FusedIterator for Granules<'_, S> {}
impl<S: Search> FusedIterator for Extents<'_, S> {}
impl<S: Search> FusedIterator for WordsIter<'_, S> {}

// By hand, because deriving would ask the same of the map.
impl<S> Clone for Granules<'_, S> {
    fn clone(&self) -> Self {
        Granules { bits: self.bits.clone(), walk: self.walk.clone(), ..*self }
    }
}

impl<S> Clone for Extents<'_, S> {
    fn clone(&self) -> Self {
        let (items, seen, walk) = (self.items.clone(), self.seen.clone(), self.walk.clone());
        Extents { items, seen, walk, ..*self }
    }
}

impl<S> Clone for WordsIter<'_, S> {
    fn clone(&self) -> Self {
        WordsIter { bits: self.bits.clone(), walk: self.walk.clone(), ..*self }
    }
}

impl<S> fmt::Debug for Granules<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granules").field("bits", &self.bits).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Extents<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extents").field("items", &self.items).finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for WordsIter<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WordsIter").field("bits", &self.bits).finish_non_exhaustive()
    }
}
