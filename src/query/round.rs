//! The dirt of one map as the words of another one of the same length.
//!
//! Invariant kept here: every dirty item of the source is covered, and no granule that has none: rounding is
//! outward and nothing more. Bits past the end are not yielded.

use super::search::{Blocks, Search};
use crate::geometry::{Geometry, WORD_BITS, mask_in};
use std::ops::Range;

/// What word `i` becomes when `1 << shift` bits are made one: which word its bits fall into, and that one's bits.
pub(crate) fn coarsened(i: u64, mut word: u64, shift: u32) -> (u64, u64) {
    if shift == 0 {
        return (i, word);
    }
    let (first, mut bits) = (i * WORD_BITS, 0);
    while word != 0 {
        let bit = (first + u64::from(word.trailing_zeros())) >> shift;
        bits |= 1 << (bit % WORD_BITS);
        word &= !mask_in(i, &(bit << shift..(bit + 1) << shift));
    }
    ((first >> shift) / WORD_BITS, bits)
}

/// Yields `(word index, bits)`, ascending; a word can come several times in a row, each time with other bits or the
/// same.
///
/// Cost: one step per nonzero word of the source, or per word yielded where those are more; a source that is finer
/// by 64 times or more is looked at once for each granule of the destination.
pub(crate) struct Rounded<'a, S> {
    words: Blocks<'a, S>,
    from: u32,
    to: Geometry,
    /// A coarser source's word being taken apart: its index, and the bits still to come.
    source: (u64, u64),
    /// The destination's bits behind a run of ones of it, still to be yielded.
    run: Range<u64>,
}

impl<'a, S: Search> Rounded<'a, S> {
    /// The dirt of `map`, which has the same length as `to`.
    pub(crate) fn new(map: &'a S, to: Geometry) -> Self {
        let from = map.geometry();
        let words = Blocks::over(map, 0..from.words());
        Rounded { words, from: from.granularity(), to, source: (0, 0), run: 0..0 }
    }

    /// Many bits of the source, `1 << shift` of them, are one here.
    fn of_finer(&mut self, shift: u32) -> Option<(u64, u64)> {
        let (i, word) = self.words.next()?;
        // What else the source has in the same granule adds nothing. A granule that reaches past the map may end as
        // far as at 2^63.
        self.words.skip_to(((((i * WORD_BITS) >> shift) + 1) << shift) / WORD_BITS);
        Some(coarsened(i, word, shift))
    }

    /// One bit of the source is many here, `1 << shift` of them.
    fn of_coarser(&mut self, shift: u32) -> Option<(u64, u64)> {
        if self.run.start >= self.run.end {
            if self.source.1 == 0 {
                self.source = self.words.next()?;
            }
            let (i, word) = &mut self.source;
            let first = u64::from(word.trailing_zeros());
            let ones = u64::from((*word >> first).trailing_ones());
            *word &= !mask_in(0, &(first..first + ones));
            let bits = *i * WORD_BITS + first..*i * WORD_BITS + first + ones;
            self.run = bits.start << shift..(bits.end << shift).min(self.to.bits());
        }
        let i = self.run.start / WORD_BITS;
        let bits = mask_in(i, &self.run);
        self.run.start = (i + 1) * WORD_BITS;
        Some((i, bits))
    }
}

impl<S: Search> Iterator for Rounded<'_, S> {
    type Item = (u64, u64);

    #[inline]
    fn next(&mut self) -> Option<(u64, u64)> {
        let to = self.to.granularity();
        if self.from == to {
            return self.words.next();
        }
        if self.from < to { self.of_finer(to - self.from) } else { self.of_coarser(self.from - to) }
    }
}
