//! Many words at once, in the exclusive flavour.
//!
//! Invariant kept here: summaries are exact before and after. Memory of which no word is or becomes nonzero is read at
//! most, never written: it may not be there yet.
//!
//! A *block* is the 64 words under one word of the level above. Where that one is not zero, all of them are gone through:
//! that is quicker than looking for those that are not, and their memory is there.

use super::kernels;
use super::levels::{Levels, ends, words_touched};
use super::walk::AHEAD;
use super::walk::Walk;
use super::words::looked_at;
use crate::geometry::{BOTTOM, WORD_BITS, mask_in};
use crate::sys::cpu::{Kernel, wide};
use std::ops::ControlFlow::{self, Continue};
use std::ops::Range;

/// The level above the bottom: one word per block.
const LOW: usize = BOTTOM - 1;
/// Words of a block.
const BLOCK: u64 = WORD_BITS;
/// A block with so few nonzero words or less is one among others like it: most of their cache lines are empty, and what the
/// processor fetches of its own accord is not what will be needed.
const SCATTERED: u32 = 8;

/// Resets bits, of which there must be some: one kernel as a whole, since most ranges are short.
pub(super) struct Reset<'a>(pub &'a mut Levels<Vec<u64>>, pub Range<u64>);

impl Kernel for Reset<'_> {
    type Output = u64;
    #[inline(always)]
    fn run(self) -> u64 {
        let Reset(levels, bits) = self;
        let (first, last) = (bits.start / (BLOCK * WORD_BITS), (bits.end - 1) / (BLOCK * WORD_BITS));
        let mut changed = levels.reset_block(first, &bits);
        if first + 1 < last {
            changed += levels.clear_blocks(first + 1..last, |words| kernels::clear(words, [u64::MAX; 2]));
        }
        if first < last {
            changed += levels.reset_block(last, &bits);
        }
        changed
    }
}

impl Levels<Vec<u64>> {
    /// The first blocks among `blocks` that are not all zeros, as many as come one after the other.
    fn next_blocks(&self, blocks: Range<u64>) -> Option<Range<u64>> {
        let low = &self.level[LOW];
        let end = blocks.end.min(low.len() as u64);
        let first = match low.get(blocks.start as usize) {
            Some(&summary) if summary != 0 && blocks.start < end => blocks.start,
            _ => self.seek(LOW - 1, blocks.start, end)?.0,
        };
        let rest = &low[first as usize..end as usize];
        let count = rest.iter().position(|&summary| summary == 0).unwrap_or(rest.len());
        Some(first..first + count as u64)
    }

    /// The words among `words` in blocks that are not all zeros, as ascending ranges, each as long as it goes.
    pub(crate) fn nonzero_spans(&self, words: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let mut blocks = words.start / BLOCK..words.end.div_ceil(BLOCK);
        std::iter::from_fn(move || {
            let found = self.next_blocks(blocks.clone())?;
            blocks.start = found.end;
            Some((found.start * BLOCK).max(words.start)..(found.end * BLOCK).min(words.end))
        })
    }

    /// Folds the words that have some of `bits`, with where they are, from where a walk is, until `f` breaks off.
    #[inline]
    pub(crate) fn fold_words<B>(
        &self,
        mut walk: Walk,
        bits: &Range<u64>,
        init: B,
        mut f: impl FnMut(B, u64, u64) -> ControlFlow<B, B>,
    ) -> ControlFlow<B, B> {
        let mut value = init;
        let touched = words_touched(bits);
        let blocks = words_touched(&touched);
        // Those of which all bits are asked for.
        let whole = bits.start.div_ceil(BLOCK * WORD_BITS)..bits.end / (BLOCK * WORD_BITS);
        let mut in_block = |mut value, block: u64, mut ahead: u64| {
            let part;
            let words = match self.bottom().as_chunks().0.get(block as usize) {
                Some(words) if whole.contains(&block) => words,
                _ => {
                    ahead &= mask_in(block, &touched);
                    part = self.part_of(block, bits);
                    &part
                }
            };
            looked_at(ahead.count_ones().into());
            while ahead != 0 {
                let i = ahead.trailing_zeros();
                ahead &= ahead - 1;
                value = f(value, block * BLOCK + u64::from(i), words[i as usize % BLOCK as usize])?;
            }
            Continue(value)
        };
        while let Some([(mut block, ahead), (up, mut siblings)]) =
            walk.next_blocks(|k, i| self.word(k, i), |block| self.fetch_block(block))
            && block < blocks.end
        {
            let scattered = ahead.count_ones() <= SCATTERED;
            value = in_block(value, block, ahead)?;
            while siblings != 0 {
                let last = block;
                block = up * BLOCK + u64::from(siblings.trailing_zeros());
                siblings &= siblings - 1;
                if block >= blocks.end {
                    return Continue(value);
                }
                if scattered && block == last + 1 {
                    self.fetch_block(block + AHEAD);
                }
                value = in_block(value, block, self.word(LOW, block))?;
            }
            // The way to the next block may be long.
            if block + 1 >= blocks.end {
                break;
            }
        }
        Continue(value)
    }

    /// The words of a block, without what they have beside `bits`. Those that have none of them are not looked at: most
    /// ranges are short.
    #[cold]
    fn part_of(&self, block: u64, bits: &Range<u64>) -> [u64; BLOCK as usize] {
        let mut part = [0; BLOCK as usize];
        let (first, touched) = (block * BLOCK, words_touched(bits));
        let words = touched.start.max(first)..touched.end.min(first + BLOCK);
        if let Some(from) = self.bottom().get(words.start as usize..words.end as usize) {
            let to = &mut part[(words.start - first) as usize..(words.end - first) as usize];
            to.copy_from_slice(from);
            // Only the outermost words may have bits beside the range.
            for i in [words.start, words.end.saturating_sub(1)] {
                part[(i % BLOCK) as usize] &= mask_in(i, bits);
            }
        }
        part
    }

    /// Bits set among `bits`.
    pub(crate) fn count(&self, bits: &Range<u64>) -> u64 {
        let bottom = self.bottom();
        let mut count = 0;
        for span in self.nonzero_spans(words_touched(bits)) {
            count += kernels::count(&bottom[span.start as usize..span.end as usize]);
        }
        // Those of the first and the last word that are beside the range.
        let words = words_touched(bits);
        if words.start < words.end {
            let beside = |i: u64| u64::from((bottom[i as usize] & !mask_in(i, bits)).count_ones());
            count -= beside(words.start);
            if words.end - words.start > 1 {
                count -= beside(words.end - 1);
            }
        }
        count
    }

    /// Copies bottom words as little-endian bytes to `out`, which has room for as many.
    pub(crate) fn copy(&self, words: Range<u64>, out: &mut [[u8; 8]]) {
        let mut done = words.start;
        for span in self.nonzero_spans(words.clone()) {
            out[(done - words.start) as usize..(span.start - words.start) as usize].fill([0; 8]);
            let to = &mut out[(span.start - words.start) as usize..(span.end - words.start) as usize];
            let from = &self.bottom()[span.start as usize..span.end as usize];
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_le_bytes());
            done = span.end;
        }
        out[(done - words.start) as usize..].fill([0; 8]);
    }

    /// Sets everything, of which there must be something.
    pub(crate) fn fill_all(&mut self) {
        let mut bits = self.bits;
        for words in self.level.iter_mut().rev() {
            let len = words.len() as u64;
            words.fill(u64::MAX);
            if let Some(last) = words.last_mut() {
                *last = mask_in(len - 1, &(0..bits));
            }
            bits = len;
        }
    }

    /// Resets all `bits`; returns how many were set. Cost: one step per word of each block that is not all zeros, and
    /// O(levels) where one becomes so; other blocks are skipped, and memory that was never written stays untouched.
    pub(crate) fn reset(&mut self, bits: Range<u64>) -> u64 {
        let bits = bits.start..bits.end.min(self.bits);
        if bits.is_empty() { 0 } else { wide(Reset(self, bits)) }
    }

    /// Resets those of `bits` that are in a block, of which there must be some; returns how many were set.
    #[inline(always)]
    fn reset_block(&mut self, block: u64, bits: &Range<u64>) -> u64 {
        if self.level[LOW][block as usize] == 0 {
            return 0;
        }
        let whole = block * BLOCK * WORD_BITS;
        let bits = bits.start.max(whole) - whole..bits.end.min(whole + BLOCK * WORD_BITS) - whole;
        let (first, last) = (bits.start / WORD_BITS, (bits.end - 1) / WORD_BITS);
        let words = (block * BLOCK + first) as usize..(block * BLOCK + last + 1) as usize;
        let within = &mut self.level[BOTTOM][words];
        looked_at(within.len() as u64);
        let changed = kernels::Clear(within, ends(&bits)).run();
        if let ([head, ..], [.., tail]) = (&*within, &*within)
            && changed != 0
        {
            // Only the outermost words may have bits beside the range.
            let beside = u64::from(*head != 0) << first | u64::from(*tail != 0) << last;
            let gone = u64::MAX << first & u64::MAX >> (BLOCK - 1 - last) & !beside;
            let low = &mut self.level[LOW][block as usize];
            *low &= !gone;
            if *low == 0 {
                self.cleared(LOW, block);
            }
        }
        changed
    }

    /// Resets everything.
    pub(crate) fn clear_all(&mut self) {
        self.clear_blocks(0..self.level[LOW].len() as u64, |words| {
            words.fill(0);
            0
        });
    }

    /// Resets blocks, each stretch of words that are not all zeros by `clear`; returns the sum of its answers.
    #[inline(never)]
    fn clear_blocks(&mut self, blocks: Range<u64>, clear: impl Fn(&mut [u64]) -> u64) -> u64 {
        let len = self.bottom().len() as u64;
        let mut span = blocks.clone();
        let mut ahead = blocks;
        let mut sum = 0;
        while let Some(found) = self.next_blocks(ahead.clone()) {
            sum +=
                clear(&mut self.level[BOTTOM][(found.start * BLOCK) as usize..(found.end * BLOCK).min(len) as usize]);
            self.level[LOW][found.start as usize..found.end as usize].fill(0);
            ahead.start = found.end;
        }
        // Nothing was there, and so nothing above it.
        if ahead.start == span.start {
            return sum;
        }
        // From the bottom up, each found through those above that are still there.
        for k in (0..LOW).rev() {
            self.clear(k, &span);
            // All words inside the span are zero now, only the outermost may have bits beside it.
            span = words_touched(&span);
            if span.start < span.end && self.level[k][span.start as usize] != 0 {
                span.start += 1;
            }
            if span.start < span.end && self.level[k][span.end as usize - 1] != 0 {
                span.end -= 1;
            }
        }
        sum
    }

    /// Sets what is set in `other`, which is not longer; returns how many bits were clear.
    pub(crate) fn merge(&mut self, other: &Self) -> u64 {
        let mut changed = 0;
        let len = other.bottom().len() as u64;
        let mut blocks = 0..other.level[LOW].len() as u64;
        while let Some(found) = other.next_blocks(blocks.clone()) {
            let words = (found.start * BLOCK) as usize..(found.end * BLOCK).min(len) as usize;
            changed += kernels::merge(&mut self.level[BOTTOM][words.clone()], &other.bottom()[words]);
            for block in found.clone() {
                let low = &mut self.level[LOW][block as usize];
                let old = *low;
                *low |= other.level[LOW][block as usize];
                if old == 0 {
                    self.risen(LOW, block);
                }
            }
            blocks.start = found.end;
        }
        changed
    }

    /// Replaces each word by what `keep` makes of it and of the same word of `other`, which has the same shape; it must
    /// add no bits. Returns how many bits changed.
    pub(crate) fn filter(&mut self, other: &Self, keep: impl Fn(u64, u64) -> u64 + Copy) -> u64 {
        let mut changed = 0;
        let len = self.bottom().len() as u64;
        let mut blocks = 0..self.level[LOW].len() as u64;
        while let Some(found) = self.next_blocks(blocks.clone()) {
            for block in found.clone() {
                let words = (block * BLOCK) as usize..((block + 1) * BLOCK).min(len) as usize;
                let gone = kernels::filter(&mut self.level[BOTTOM][words.clone()], &other.bottom()[words], keep);
                if gone != 0 {
                    changed += gone;
                    self.resummarise(block);
                }
            }
            blocks.start = found.end;
        }
        changed
    }

    /// Replaces bottom words, from word `first` on, by little-endian ones. Returns how many bits changed, and how many
    /// of them are clear now. Cost: one step per word.
    pub(crate) fn load(&mut self, first: u64, bytes: &[[u8; 8]]) -> (u64, u64) {
        let (mut changed, mut gone) = (0, 0);
        let mut at = first;
        while at < first + bytes.len() as u64 {
            let block = at / BLOCK;
            let end = ((block + 1) * BLOCK).min(first + bytes.len() as u64);
            let from = &bytes[(at - first) as usize..(end - first) as usize];
            let low = self.level[LOW][block as usize];
            let to = &mut self.level[BOTTOM][at as usize..end as usize];
            let new = match low {
                0 => (kernels::load_fresh(to, from), 0),
                _ => kernels::load(to, from),
            };
            if new.0 != 0 {
                changed += new.0;
                gone += new.1;
                self.resummarise(block);
            }
            at = end;
        }
        (changed, gone)
    }

    /// Brings the summaries of a block up to date.
    fn resummarise(&mut self, block: u64) {
        let end = ((block + 1) * BLOCK).min(self.bottom().len() as u64);
        let new = kernels::summary(&self.bottom()[(block * BLOCK) as usize..end as usize]);
        let old = std::mem::replace(&mut self.level[LOW][block as usize], new);
        match (old, new) {
            (0, 0) => {}
            (0, _) => self.risen(LOW, block),
            (_, 0) => self.cleared(LOW, block),
            _ => {}
        }
    }
}
