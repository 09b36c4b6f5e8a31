//! The iterators, from their other end.
//!
//! Invariant kept here: what one end has yielded or peeked at the other does not yield, and both together yield what one alone would.

use super::iter::{Extents, Granules, WordsIter};
use super::search::Search;
use crate::geometry::{WORD_BITS, mask_in};
use std::ops::Range;

/// The last bit of `bits` that a search finds, where `next` finds the first. It takes stretches of doubled lengths from the end
/// on, and halves the one that has some: every bit behind the answer was looked at once and not found.
fn last(bits: Range<u64>, next: impl Fn(Range<u64>) -> Option<u64>) -> Option<u64> {
    let (mut end, mut length) = (bits.end, 1u64);
    let mut found = loop {
        if end <= bits.start {
            return None;
        }
        let start = end.saturating_sub(length).max(bits.start);
        if let Some(bit) = next(start..end) {
            break bit;
        }
        (end, length) = (start, length.saturating_mul(2));
    };
    while found + 1 < end {
        let middle = found + 1 + (end - found - 1) / 2;
        match next(middle..end) {
            Some(bit) => found = bit,
            None => end = middle,
        }
    }
    Some(found)
}

/// Cost: O(levels × log of the distance) from one to the next.
impl<S: Search> DoubleEndedIterator for Granules<'_, S> {
    fn next_back(&mut self) -> Option<u64> {
        let from = if self.map.is_stable() {
            // What is left of its word is in `seen` then.
            self.peek_bit()?;
            (self.index + 1) * WORD_BITS
        } else if self.seen != 0 {
            self.bits.start + 1
        } else {
            self.bits.start
        };
        if let Some(bit) = last(from..self.bits.end, |bits| self.map.next_set(bits)) {
            self.bits.end = bit;
            return Some(self.item(bit));
        }
        let bit = self.seen.checked_ilog2().map(|bit| self.index * WORD_BITS + u64::from(bit));
        self.bits.end = bit.unwrap_or(self.bits.start);
        self.seen &= mask_in(self.index, &self.bits);
        bit.map(|bit| self.item(bit))
    }
}

/// Cost: O(levels × log of the distance) from one to the next, and some steps for each 64 granules of a long one.
impl<S: Search> DoubleEndedIterator for Extents<'_, S> {
    fn next_back(&mut self) -> Option<Range<u64>> {
        let g = self.map.geometry();
        let from = self.seen.as_ref().map_or(self.items.start, |area| area.end);
        let bits = g.touched(&(from..self.items.end));
        let Some(bit) = last(bits.clone(), |bits| self.map.next_set(bits)) else {
            self.items.end = from;
            return self.seen.take().inspect(|area| self.items.end = area.start);
        };
        let before = last(bits.start..bit, |bits| self.map.next_clear(bits)).map_or(bits.start, |clear| clear + 1);
        let area = g.item_of(before).max(from)..g.item_of(bit + 1).min(self.items.end);
        self.items.end = area.start;
        self.rest &= mask_in(self.index, &g.touched(&self.items));
        Some(area)
    }
}

/// Cost: O(levels × log of the distance) from one to the next.
impl<S: Search> DoubleEndedIterator for WordsIter<'_, S> {
    fn next_back(&mut self) -> Option<(u64, u64)> {
        while let Some(bit) = last(self.bits.clone(), |bits| self.map.next_set(bits)) {
            let i = bit / WORD_BITS;
            let word = self.map.word(i) & mask_in(i, &self.bits);
            self.bits.end = self.bits.start.max(i * WORD_BITS);
            // It may have been reset since.
            if word != 0 {
                return Some((i, word));
            }
        }
        self.bits.end = self.bits.start;
        self.seen.take()
    }
}
