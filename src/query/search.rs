//! What a map answers about its bits and words, whatever keeps them.
//!
//! Invariant kept here: each answer is made from looks that were true when taken, also where others change the map
//! meanwhile.

use crate::error::Result;
use crate::geometry::{Geometry, WORD_BITS, mask_in};
use crate::hierarchy::{Block, Levels, Walk, words_touched};
use std::cell::Cell;
use std::ops::{ControlFlow, Range};

/// What a map must be able to do so that it can be read: a few searches over bits and words. Everything
/// else is provided, in items.
///
/// Public so that the iterators can name it in their bounds; not reachable from outside, and so sealed.
pub trait Search {
    /// Whether the bits cannot change as long as the map is borrowed.
    fn is_stable(&self) -> bool;
    /// The map's shape.
    fn geometry(&self) -> &Geometry;
    /// The first set bit of `bits`.
    fn next_set(&self, bits: Range<u64>) -> Option<u64>;
    /// The first clear bit of `bits`.
    fn next_clear(&self, bits: Range<u64>) -> Option<u64>;
    /// The first nonzero bottom word among `words`: its index and its value, both from the same look.
    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)>;
    /// The first block of 64 bottom words that has nonzero ones of `words`, and which: those are put into `to`. Two blocks
    /// may be from different looks, and where it is not overridden two words.
    fn next_block(&self, words: Range<u64>, to: &Block) -> Option<(u64, u64)> {
        first_block(words, to, |words| self.next_nonzero_word(words))
    }
    /// Bottom word `i`, which must be below `geometry().words()`; a [stable](Self::is_stable) map has zeros behind it.
    fn word(&self, i: u64) -> u64;
    /// Which words of a block of a [stable](Self::is_stable) map, which must provide this, are not zero; none behind its end.
    fn nonzero_words(&self, _block: u64) -> u64 {
        0
    }
    /// The next nonzero bottom word of a [stable](Self::is_stable) map, which must provide this; others have none.
    fn step(&self, _walk: &mut Walk) -> Option<(u64, u64)> {
        None
    }
    /// Folds the words of a [stable](Self::is_stable) map that have some of `bits`, only those of them, and where they are, from
    /// where a walk is: [`step`](Self::step) for all of them at once, until `f` breaks off. Such a map must provide this, too.
    fn fold_words<B>(
        &self,
        _walk: Walk,
        _bits: &Range<u64>,
        init: B,
        _f: impl FnMut(B, u64, u64) -> ControlFlow<B, B>,
    ) -> ControlFlow<B, B>
    where
        Self: Sized,
    {
        ControlFlow::Continue(init)
    }
    /// The first stretch among `words` of which every bit is set, as is known without a look at it; `None` where nothing
    /// is known so.
    fn full_words(&self, _words: Range<u64>) -> Option<Range<u64>> {
        None
    }
    /// Its levels, if nobody else can change them, for what is quicker with two such maps.
    fn levels(&self) -> Option<&Levels<Vec<u64>>> {
        None
    }

    /// The bits of bottom word `i` that are certainly set: [`word`](Self::word) says "dirty" where that cannot be known.
    fn certain_word(&self, i: u64) -> u64 {
        self.word(i)
    }

    /// Fails where the map cannot be read (any more), and the searches above have to guess.
    fn check_readable(&self) -> Result<()> {
        Ok(())
    }

    /// Whether bit `bit` is set.
    #[inline]
    fn bit(&self, bit: u64) -> bool {
        self.word(bit / WORD_BITS) >> (bit % WORD_BITS) & 1 != 0
    }

    /// Bits set among `bits`.
    fn count_bits(&self, bits: Range<u64>) -> u64 {
        self.tally(bits).0
    }

    /// Bits set among `bits`, and whether the last of these is: in one pass, so that it is counted and measured by the same
    /// look.
    fn tally(&self, bits: Range<u64>) -> (u64, bool) {
        let (mut count, mut last, mut at) = (0, false, bits.start);
        let to = [const { Cell::new(0) }; WORD_BITS as usize];
        while at < bits.end {
            let full = self.full_words(at / WORD_BITS..bits.end.div_ceil(WORD_BITS));
            let full = full.map_or(bits.end..bits.end, |words| {
                (words.start * WORD_BITS).max(at)..(words.end * WORD_BITS).min(bits.end)
            });
            let part = at..full.start;
            let mut words = words_touched(&part);
            while let Some((block, mut found)) = self.next_block(words.clone(), &to) {
                words.start = (block + 1) * WORD_BITS;
                while found != 0 {
                    let i = block * WORD_BITS + u64::from(found.trailing_zeros());
                    found &= found - 1;
                    let mut word = to[(i % WORD_BITS) as usize].get();
                    if i == part.start / WORD_BITS || i == (part.end - 1) / WORD_BITS {
                        word &= mask_in(i, &part);
                    }
                    count += u64::from(word.count_ones());
                    last = i == (bits.end - 1) / WORD_BITS && word >> ((bits.end - 1) % WORD_BITS) & 1 != 0;
                }
            }
            count += full.end - full.start;
            last |= full.start < full.end && full.end == bits.end;
            at = full.end;
        }
        (count, last)
    }

    /// The first dirty area of the (checked) range, of at most `max_len` items.
    fn area(&self, range: Range<u64>, max_len: u64) -> Option<Range<u64>> {
        let g = self.geometry();
        let first = self.next_set(g.touched(&range))?;
        let start = g.item_of(first).max(range.start);
        let end = range.end.min(start.saturating_add(max_len));
        // From the next bit on: this one was set when seen, and the area must not come out empty if it
        // has been reset since.
        let stop = self.next_clear(first + 1..g.touched(&(start..end)).end);
        Some(start..stop.map_or(end, |bit| g.item_of(bit)))
    }

    /// Copies bottom words as little-endian bytes to `out`, which has room for as many.
    fn copy_words(&self, words: Range<u64>, out: &mut [[u8; 8]]) {
        out.fill([0; 8]);
        let (mut at, to) = (words.start, [const { Cell::new(0) }; WORD_BITS as usize]);
        while let Some((block, found)) = self.next_block(at..words.end, &to) {
            at = (block + 1) * WORD_BITS;
            for (i, word) in (block * WORD_BITS..).zip(&to).filter(|(i, _)| found >> (i % WORD_BITS) & 1 != 0) {
                out[(i - words.start) as usize] = word.get().to_le_bytes();
            }
        }
    }
}

/// [`next_block`](Search::next_block) by a search from word to word.
pub(crate) fn first_block(
    words: Range<u64>,
    to: &Block,
    next_nonzero_word: impl Fn(Range<u64>) -> Option<(u64, u64)>,
) -> Option<(u64, u64)> {
    let (first, word) = next_nonzero_word(words.clone())?;
    let block = first / WORD_BITS;
    let (mut found, mut next) = (0, Some((first, word)));
    while let Some((i, word)) = next {
        to[(i % WORD_BITS) as usize].set(word);
        found |= 1 << (i % WORD_BITS);
        next = next_nonzero_word(i + 1..words.end.min((block + 1) * WORD_BITS));
    }
    Some((block, found))
}

/// The nonzero words among some of a map, with their indices, ascending, read a block at a time: for what goes through all of
/// them without giving anything away in between.
pub(crate) struct Blocks<'a, S> {
    map: &'a S,
    /// Not read yet.
    words: Range<u64>,
    /// Which words of the block are still to come.
    found: u64,
    block: u64,
    read: Block,
}

impl<'a, S: Search> Blocks<'a, S> {
    pub(crate) fn over(map: &'a S, words: Range<u64>) -> Self {
        Blocks { map, words, found: 0, block: 0, read: [const { Cell::new(0) }; WORD_BITS as usize] }
    }

    /// Leaves out what is before word `word`.
    pub(super) fn skip_to(&mut self, word: u64) {
        self.words.start = self.words.start.max(word);
        self.found &= mask_in(self.block, &(word..u64::MAX));
    }
}

impl<S: Search> Iterator for Blocks<'_, S> {
    type Item = (u64, u64);

    #[inline]
    fn next(&mut self) -> Option<(u64, u64)> {
        while self.found == 0 {
            (self.block, self.found) = self.map.next_block(self.words.clone(), &self.read)?;
            self.words.start = (self.block + 1) * WORD_BITS;
            let (g, last) = (self.map.geometry(), self.map.geometry().words() - 1);
            if self.block == last / WORD_BITS {
                // Memory that processes share may hold anything past the end.
                let word = &self.read[(last % WORD_BITS) as usize];
                word.set(word.get() & g.word_mask(last));
            }
        }
        let i = self.found.trailing_zeros();
        self.found &= self.found - 1;
        Some((self.block * WORD_BITS + u64::from(i), self.read[i as usize].get()))
    }
}
