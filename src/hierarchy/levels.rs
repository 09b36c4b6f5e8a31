//! The hierarchy of summaries above the bits, over any [`Words`].
//!
//! Invariant kept here: where a bottom word is not zero, its summary bit is set on every level. The exclusive flavour
//! (`Levels<Vec<u64>>`) keeps the summaries exact: the bit of a word, on any level, is set just when
//! that word is not zero. With words that others share a summary bit may be stale, that is set above
//! nothing, or without those above it; every search here then looks, finds nothing and goes on, so
//! staleness costs time and never an answer.
//!
//! Positions are in bits or words of a level, never in items. Level 0 is the top and a single word,
//! level [`BOTTOM`] holds the map's own bits. Ranges are clamped to the map; nothing here panics as long
//! as the levels have the lengths that [`Geometry::level_words`](crate::Geometry::level_words) gives.

use super::kernels;
use super::words::{Words, WordsMut, looked_at};
use crate::geometry::{BOTTOM, LEVELS, WORD_BITS, mask_in};
use crate::sys::cpu::fetch;
use std::cell::Cell;
use std::ops::Range;

/// The words under one word of the level above the bottom, as found by a search that may be made again.
pub type Block = [Cell<u64>; WORD_BITS as usize];

/// Seven levels of words, and how many bits of the bottom one count.
///
/// A view: with [`Shared`](super::words::Shared) words, building one costs seven copies of a slice, and
/// one is built per operation.
#[derive(Clone, Debug)]
pub struct Levels<W> {
    pub(super) level: [W; LEVELS],
    pub(super) bits: u64,
}

/// The word that bit `bit` lies in, and its mask there.
#[inline]
pub(super) fn place(bit: u64) -> (u64, u64) {
    (bit / WORD_BITS, 1 << (bit % WORD_BITS))
}

/// The words that a range of bits touches; empty for an empty range.
#[inline]
pub(crate) fn words_touched(bits: &Range<u64>) -> Range<u64> {
    if bits.start < bits.end { bits.start / WORD_BITS..(bits.end - 1) / WORD_BITS + 1 } else { 0..0 }
}

impl<W> Levels<W> {
    /// Levels, the top one first, above a bottom of `bits` bits. Looks at nothing.
    pub(crate) fn new(level: [W; LEVELS], bits: u64) -> Self {
        Levels { level, bits }
    }

    /// The bottom level.
    #[inline]
    pub(crate) fn bottom(&self) -> &W {
        &self.level[BOTTOM]
    }
}

impl<W: Words> Levels<W> {
    /// Word `i` of level `k`; zero past its end.
    #[inline]
    pub(crate) fn word(&self, k: usize, i: u64) -> u64 {
        looked_at(1);
        if i < self.level[k].len() as u64 { self.level[k].load(i as usize) } else { 0 }
    }

    /// Has the memory of a block, which is going to be gone through soon, fetched while others are.
    #[inline]
    pub(crate) fn fetch_block(&self, block: u64)
    where
        W: AsRef<[u64]>,
    {
        // Eight words are a cache line.
        let first = block as usize * WORD_BITS as usize;
        if let Some(words) = self.bottom().as_ref().get(first..first + WORD_BITS as usize) {
            words.iter().step_by(8).for_each(fetch);
        }
    }

    /// The first set bit of `bits`. Cost: O(levels), and one look more per stale summary bit passed.
    #[inline]
    pub(crate) fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        let end = bits.end.min(self.bits);
        if bits.start >= end {
            return None;
        }
        // Its own word or block has it mostly.
        let word = bits.start / WORD_BITS;
        let rest = self.word(BOTTOM, word) & u64::MAX << (bits.start % WORD_BITS);
        if rest != 0 {
            return Some(word * WORD_BITS + u64::from(rest.trailing_zeros())).filter(|&bit| bit < end);
        }
        let (word, found) = self.next_behind(word, end.div_ceil(WORD_BITS))?;
        Some(word * WORD_BITS + u64::from(found.trailing_zeros())).filter(|&bit| bit < end)
    }

    /// The first nonzero bottom word behind one, and before `end`.
    #[inline]
    fn next_behind(&self, word: u64, end: u64) -> Option<(u64, u64)> {
        let block = (word + 1) / WORD_BITS;
        let ahead = self.word(BOTTOM - 1, block) & u64::MAX << ((word + 1) % WORD_BITS);
        let (level, bit) = if ahead == 0 {
            (BOTTOM - 2, block + 1)
        } else {
            let word = block * WORD_BITS + u64::from(ahead.trailing_zeros());
            match self.word(BOTTOM, word) {
                0 => (BOTTOM - 1, word + 1),
                found => return Some((word, found)).filter(|_| word < end),
            }
        };
        let (bit, found) = self.seek_from(BOTTOM, level, bit, end * WORD_BITS)?;
        Some((bit / WORD_BITS, found))
    }

    /// The first clear bit of `bits`. Cost: one step per full word passed, of words that nobody else changes several at once.
    pub(crate) fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        let end = bits.end.min(self.bits);
        let mut at = bits.start;
        while at < end {
            let word = at / WORD_BITS;
            let clear = !self.bottom().load(word as usize) & (u64::MAX << (at % WORD_BITS));
            if clear != 0 {
                let bit = word * WORD_BITS + u64::from(clear.trailing_zeros());
                return (bit < end).then_some(bit);
            }
            at = (word + 1) * WORD_BITS;
            if word > bits.start / WORD_BITS + 1 {
                at = self.skip_full(at, end);
            }
        }
        None
    }

    /// Where the words that are full end, from the beginning of one on. Those before it were full as well: it may be a long way.
    #[cold]
    fn skip_full(&self, at: u64, end: u64) -> u64 {
        match self.bottom().plain() {
            Some(words) if at < end => {
                let words = &words[(at / WORD_BITS) as usize..end.div_ceil(WORD_BITS) as usize];
                at + kernels::full(words) * WORD_BITS
            }
            _ => at,
        }
    }

    /// The first of some words of the level above the bottom that is not zero.
    pub(crate) fn next_summarised(&self, words: Range<u64>) -> Option<u64> {
        let words = words.start * WORD_BITS..words.end * WORD_BITS;
        self.seek(BOTTOM - 1, words.start, words.end).map(|(bit, _)| bit / WORD_BITS)
    }

    /// The first nonzero bottom word among `words`: its index, and the whole of it as it was when it was
    /// seen. Cost: as [`next_set`](Self::next_set).
    pub(crate) fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        let end = words.end.min(self.bottom().len() as u64);
        if words.start >= end {
            return None;
        }
        match self.word(BOTTOM, words.start) {
            0 => self.next_behind(words.start, end),
            found => Some((words.start, found)),
        }
    }

    /// The first block that has nonzero ones of `words`, and which: those are put into `to`.
    pub(crate) fn next_block(&self, words: Range<u64>, to: &Block) -> Option<(u64, u64)> {
        let (first, word) = self.next_nonzero_word(words.clone())?;
        let (block, mut found) = place(first);
        to[(first % WORD_BITS) as usize].set(word);
        let mut ahead = self.word(BOTTOM - 1, block) & mask_in(block, &(first + 1..words.end));
        while ahead != 0 {
            let i = ahead.trailing_zeros();
            ahead &= ahead - 1;
            let word = self.word(BOTTOM, block * WORD_BITS + u64::from(i));
            to[i as usize].set(word);
            found |= u64::from(word != 0) << i;
        }
        Some((block, found))
    }

    /// The first set bit in `start..end` of level `target`, and the word it was seen in without the bits
    /// below `start`.
    ///
    /// Everything between `start` and bit `bit` of level `k` is known to be clear. A word without a bit from
    /// there on sends the search up and one to the right; a set bit sends it down. A stale bit sends it
    /// down to a zero word, and so up again, past it. No word is looked at twice at the same position, so it ends.
    #[inline]
    pub(super) fn seek(&self, target: usize, start: u64, end: u64) -> Option<(u64, u64)> {
        if start < end { self.seek_from(target, target, start, end) } else { None }
    }

    /// The same, where everything before bit `bit` of level `k` is known to be clear.
    fn seek_from(&self, target: usize, mut k: usize, mut bit: u64, end: u64) -> Option<(u64, u64)> {
        loop {
            let word = bit / WORD_BITS;
            if word >= self.level[k].len() as u64 {
                return None;
            }
            looked_at(1);
            let rest = self.level[k].load(word as usize) & (u64::MAX << (bit % WORD_BITS));
            if rest == 0 {
                if k == 0 {
                    return None;
                }
                k -= 1;
                bit = word + 1;
                continue;
            }
            bit = word * WORD_BITS + u64::from(rest.trailing_zeros());
            // The first bit of the target level that lies under this one.
            if bit << (6 * (target - k)) >= end {
                return None;
            }
            if k == target {
                return Some((bit, rest));
            }
            k += 1;
            bit *= WORD_BITS;
        }
    }

    /// Checks the invariants; with `exact`, stale summary bits are findings too. Cost: every word of every level.
    pub(crate) fn check(&self, exact: bool) -> Result<(), String> {
        for k in 0..LEVELS {
            let bits = if k == BOTTOM { self.bits } else { self.level[k + 1].len() as u64 };
            for word in 0..self.level[k].len() as u64 {
                let found = self.level[k].load(word as usize);
                let stray = found & !mask_in(word, &(0..bits));
                if stray != 0 {
                    return Err(format!("level {k}, word {word}: {stray:#x} set past the end"));
                }
                if exact && k != BOTTOM && found != self.summary(k, word) {
                    let wanted = self.summary(k, word);
                    return Err(format!("level {k}, word {word}: {found:#x}, should be {wanted:#x}"));
                }
            }
        }
        for word in 0..self.bottom().len() as u64 {
            let below = |k: usize| word >> (6 * (BOTTOM - 1 - k));
            let missing = |&k: &usize| self.level[k].load(place(below(k)).0 as usize) & place(below(k)).1 == 0;
            if self.bottom().load(word as usize) != 0
                && let Some(k) = (0..BOTTOM).find(missing)
            {
                return Err(format!("bottom word {word} is not zero, and has no summary on level {k}"));
            }
        }
        Ok(())
    }

    /// What word `word` of upper level `k` should be: one bit for each nonzero word below it.
    fn summary(&self, k: usize, word: u64) -> u64 {
        let below = &self.level[k + 1];
        let first = word * WORD_BITS;
        let end = (first + WORD_BITS).min(below.len() as u64);
        if let Some(words) = below.plain() {
            return kernels::summary(&words[first as usize..end as usize]);
        }
        looked_at(end - first);
        (first..end).fold(0, |sum, i| sum | u64::from(below.load(i as usize) != 0) << (i - first))
    }
}

impl<W: WordsMut> Levels<W> {
    /// Makes sure that the summary bit of bottom word `word` is set on every level.
    ///
    /// It does not stop at a bit that is set already: whoever set that one may have been killed before
    /// it got to the levels above. Bottom word first, then this, is the order that
    /// [`unsummarise`](Self::unsummarise) relies on.
    #[inline]
    pub(crate) fn summarise(&mut self, word: u64) {
        self.raise(BOTTOM, word);
    }

    /// Sets the summary bits of word `word` of level `k`, on every level above it, upwards.
    #[inline]
    fn raise(&mut self, k: usize, mut word: u64) {
        for k in (0..k).rev() {
            let (up, mask) = place(word);
            self.level[k].or(up as usize, mask);
            word = up;
        }
    }

    /// Bottom word `word` has become zero: clears its summary bit, and those of the words above that become
    /// zero by it.
    ///
    /// For one clearer at a time, with readers held off (a reader in between could miss a bit, for the time
    /// until the repair below). Setters may run: they set the bottom word first, then the
    /// summary bits from the bottom up, each on every level. Why no set bit ends up without summaries:
    ///
    /// Call the summary bit cleared last B, and the word it stands for C. C is read again after B was cleared.
    /// - C is zero then. Nobody but this clearer takes bits out of C, so whatever a setter puts there, it
    ///   puts there later. After that it looks at B, later still, finds it clear, and sets it.
    /// - C is not zero. Its setter may have seen B before it was cleared, and be done. So B is set again. The
    ///   bits above it have not been touched; they are looked at as well, which costs loads and leaves less to argue.
    ///
    /// A setter that finds its bit in C already set, and so stores nothing, is no exception: if it
    /// looked before this clearer cleared that bit in C, then its own store one level lower was earlier still,
    /// and the second reading one level lower, which came after the clearing, found it and turned back.
    ///
    /// **Not covered**: a clearer that is killed between clearing B and setting it again, when others live
    /// on. The map's summaries must then be rebuilt ([`finish`](Self::finish)) before anybody searches.
    pub(crate) fn unsummarise(&mut self, mut word: u64) {
        for k in (0..BOTTOM).rev() {
            let (up, mask) = place(word);
            let left = self.level[k].and(up as usize, !mask) & !mask;
            if step!(LookAgain => self.level[k + 1].load(word as usize) != 0) {
                return self.raise(k + 1, word);
            }
            if left != 0 {
                return;
            }
            word = up;
        }
    }

    /// Rebuilds the upper levels from the bottom, where the bottom may have anything in it: `extents` are
    /// ascending, disjoint ranges of bottom words. Words outside of them must have the summaries that they
    /// should, which for zero words is none. One extent over all words rebuilds everything. Nobody else may be writing.
    ///
    /// An upper word that is touched is computed anew from all of its up to 64 words below, so stale bits go, and
    /// what an extent shares with its neighbours comes out right. Cost: one read per word of the
    /// extents, rounded outward to 64 words, plus 1/64 of that per level.
    pub(crate) fn finish(&mut self, extents: impl IntoIterator<Item = Range<u64>>) {
        let len = self.bottom().len() as u64;
        let mut extents: Vec<_> =
            extents.into_iter().map(|e| e.start..e.end.min(len)).filter(|e| e.start < e.end).collect();
        for k in (0..BOTTOM).rev() {
            let mut above: Vec<Range<u64>> = Vec::new();
            for extent in &extents {
                let mut words = words_touched(extent);
                // Two extents may meet in one upper word: that one is done.
                if let Some(last) = above.last_mut() {
                    words.start = words.start.max(last.end);
                    if words.start <= last.end {
                        last.end = last.end.max(words.end);
                    }
                }
                for word in words.clone() {
                    let sum = self.summary(k, word);
                    self.level[k].store(word as usize, sum);
                }
                if above.last().is_none_or(|last| last.end < words.end) {
                    above.push(words);
                }
            }
            extents = above;
        }
    }
}

/// The exclusive flavour: nobody else looks or writes, so summaries are kept exact, and work stops at
/// the first level where nothing changed. Single bits are inlined into the caller, what is rarer is kept out of line.
impl Levels<Vec<u64>> {
    /// Sets one bit; whether it was clear.
    ///
    /// Stores in either case: whether a random bit is new is what a processor cannot guess, and a wrong guess costs more
    /// than all the rest. Where the word was zero there is nothing left to find out.
    #[inline]
    pub(crate) fn set_bit(&mut self, bit: u64) -> bool {
        let (i, mask) = place(bit);
        let word = &mut self.level[BOTTOM][i as usize];
        let old = *word;
        *word = old | mask;
        if old == 0 {
            let (up, above) = place(i);
            if self.level[BOTTOM - 1].or(up as usize, above) == 0 {
                self.risen(BOTTOM - 1, up);
            }
            return true;
        }
        old & mask == 0
    }

    /// Resets one bit; whether it was set. Stores in either case, as [`set_bit`](Self::set_bit) does.
    #[inline]
    pub(crate) fn reset_bit(&mut self, bit: u64) -> bool {
        let (i, mask) = place(bit);
        let word = &mut self.level[BOTTOM][i as usize];
        let old = *word;
        let left = old & !mask;
        if left == 0 {
            // Nothing is stored where nothing was: the memory may not be there yet.
            if old == 0 {
                return false;
            }
            *word = 0;
            let (up, above) = place(i);
            if self.level[BOTTOM - 1].and(up as usize, !above) == above {
                self.cleared(BOTTOM - 1, up);
            }
            return true;
        }
        *word = left;
        left != old
    }

    /// Sets the bits of `mask` in bottom word `i`; returns those that were clear.
    #[inline]
    pub(crate) fn or_word(&mut self, i: u64, mask: u64) -> u64 {
        let word = &mut self.level[BOTTOM][i as usize];
        let old = *word;
        let new = mask & !old;
        if new != 0 {
            *word = old | mask;
            if old == 0 {
                self.risen(BOTTOM, i);
            }
        }
        new
    }

    /// Replaces bottom word `i`; returns it as it was. Memory that stays zero is not touched.
    #[inline]
    pub(crate) fn put_word(&mut self, i: u64, new: u64) -> u64 {
        let word = &mut self.level[BOTTOM][i as usize];
        let old = *word;
        if old != new {
            *word = new;
            match (old, new) {
                (0, _) => self.risen(BOTTOM, i),
                (_, 0) => self.cleared(BOTTOM, i),
                _ => {}
            }
        }
        old
    }

    /// Makes room for so many words of each level, where those are that there are, if the memory can be had.
    pub(crate) fn make_room(&mut self, words: [u64; LEVELS]) -> bool {
        let room = |(level, n): (&mut Vec<u64>, u64)| level.try_reserve_exact(n as usize - level.len()).is_ok();
        self.level.iter_mut().zip(words).all(room)
    }

    /// Appends clear words, for which there is [room](Self::make_room), up to so many.
    pub(crate) fn extend(&mut self, words: [u64; LEVELS], bits: u64) {
        self.level.iter_mut().zip(words).for_each(|(level, n)| level.resize(n as usize, 0));
        self.bits = bits;
    }

    /// Gives them a number of bits that needs no more words than there are. What is cut off must be clear.
    pub(crate) fn cut(&mut self, words: [u64; LEVELS], bits: u64) {
        for (level, n) in self.level.iter_mut().zip(words) {
            level.truncate(n as usize);
        }
        self.bits = bits;
    }

    /// Word `word` of level `k` is no longer zero.
    #[inline(never)]
    pub(super) fn risen(&mut self, k: usize, mut word: u64) {
        for k in (0..k).rev() {
            let (up, mask) = place(word);
            if self.level[k].or(up as usize, mask) != 0 {
                return;
            }
            word = up;
        }
    }

    /// Word `word` of level `k` is zero now.
    #[inline(never)]
    pub(super) fn cleared(&mut self, k: usize, mut word: u64) {
        for k in (0..k).rev() {
            let (up, mask) = place(word);
            if self.level[k].and(up as usize, !mask) & !mask != 0 {
                return;
            }
            word = up;
        }
    }

    /// Sets all `bits`; returns how many were clear. Cost: O(m / 64 + levels) for m bits.
    #[inline(never)]
    pub(crate) fn set(&mut self, bits: Range<u64>) -> u64 {
        let mut span = bits.start..bits.end.min(self.bits);
        let words = words_touched(&span);
        let changed = kernels::fill(&mut self.level[BOTTOM][words.start as usize..words.end as usize], ends(&span));
        let mut any = changed != 0;
        for k in (0..BOTTOM).rev() {
            // No word on the level below was zero: the summaries stand.
            if !any {
                break;
            }
            span = words_touched(&span);
            any = raise(&mut self.level[k], &span);
        }
        changed
    }

    /// Clears `bits` of level `k`, finding them through the levels above.
    pub(super) fn clear(&mut self, k: usize, bits: &Range<u64>) {
        let mut i = bits.start / WORD_BITS;
        loop {
            // Nonzero words seldom come alone: those that follow are not searched for.
            while i * WORD_BITS < bits.end && self.level[k][i as usize] != 0 {
                self.level[k][i as usize] &= !mask_in(i, bits);
                i += 1;
            }
            match self.seek(k, i * WORD_BITS, bits.end) {
                Some((bit, _)) => i = bit / WORD_BITS,
                None => return,
            }
        }
    }
}

/// Sets `bits` in `words`; whether any of the words had none before.
fn raise(words: &mut [u64], bits: &Range<u64>) -> bool {
    let touched = words_touched(bits);
    let [first, last] = ends(bits);
    let or = |word: &mut u64, mask: u64| std::mem::replace(word, *word | mask) == 0;
    match &mut words[touched.start as usize..touched.end as usize] {
        [] => false,
        [only] => or(only, first & last),
        [head, inner @ .., tail] => {
            let ends = or(head, first) | or(tail, last);
            inner.iter_mut().fold(ends, |any, word| any | or(word, u64::MAX))
        }
    }
}

/// Which bits of the first and of the last word that it touches are in a range that is not empty.
#[inline]
pub(super) fn ends(bits: &Range<u64>) -> [u64; 2] {
    [u64::MAX << (bits.start % WORD_BITS), u64::MAX >> (WORD_BITS - 1 - bits.end.wrapping_sub(1) % WORD_BITS)]
}
