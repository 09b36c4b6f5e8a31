//! From one nonzero bottom word to the next.
//!
//! Invariant kept here: a walk only moves forward, and passes no word that was nonzero, with all its summaries set, since the
//! walk began.

use crate::geometry::{BOTTOM, WORD_BITS};

/// The level above the bottom.
const LOW: usize = BOTTOM - 1;

/// How many blocks before it comes there a walk tells. What a block holds takes less time than memory takes to answer.
pub(super) const AHEAD: u64 = 8;

/// Where a walk is, and what it has seen of the levels above.
///
/// Each upper word is looked at once, when the walk comes to it, so that finding the next word does not wait for what the
/// last one held: with several in flight, a large sparse map costs far less than one cache miss per level and word.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Where it begins, or u64::MAX for one that is over.
    first: u64,
    /// The highest level that it has been on; [`BOTTOM`] before it has begun.
    top: usize,
    /// From `top` down: the word it is in, and which bits of that one are still ahead.
    at: [u64; BOTTOM],
    ahead: [u64; BOTTOM],
}

impl Walk {
    /// Will begin with bottom word `first`.
    #[inline]
    pub(crate) fn from(first: u64) -> Walk {
        Walk { first, top: BOTTOM, at: [0; BOTTOM], ahead: [0; BOTTOM] }
    }

    /// Has nothing left.
    pub(crate) fn over() -> Walk {
        Walk { top: 0, ..Walk::from(u64::MAX) }
    }

    /// Leaves out what is before bottom word `word`, and does nothing if it is there or further already.
    pub(crate) fn skip_to(&mut self, word: u64) {
        let next = match self.top {
            BOTTOM => self.first,
            _ if self.first == u64::MAX => return,
            // What is still ahead under this word, or else what is behind it.
            _ => self.at[LOW] * WORD_BITS + u64::from(self.ahead[LOW].trailing_zeros()),
        };
        if word > next {
            *self = Walk::from(word);
        }
    }

    /// The next bottom word that is not zero, and where it is. `load` gives word `i` of level `k`, and zero past a
    /// level's end; `soon` hears of blocks (the 64 bottom words under a word of the level above) that may come soon.
    #[inline(always)]
    pub(crate) fn next(&mut self, load: impl Fn(usize, u64) -> u64, soon: impl Fn(u64)) -> Option<(u64, u64)> {
        loop {
            let ahead = &mut self.ahead[LOW];
            while *ahead != 0 {
                let i = self.at[LOW] * WORD_BITS + u64::from(ahead.trailing_zeros());
                *ahead &= *ahead - 1;
                let word = load(BOTTOM, i);
                // It is zero under a stale summary.
                if word != 0 {
                    return Some((i, word));
                }
            }
            if !self.climb(&load, &soon) {
                return None;
            }
        }
    }

    /// The next block and which of its words, of those still ahead, are not zero, unless their summaries are stale; then the
    /// word of the level above that it is under, and which of the blocks there, of those still ahead, are not zero. The walk is behind
    /// all of them then. `load` and `soon` as for [`next`](Self::next).
    #[inline]
    pub(crate) fn next_blocks(
        &mut self,
        load: impl Fn(usize, u64) -> u64,
        soon: impl Fn(u64),
    ) -> Option<[(u64, u64); 2]> {
        if self.ahead[LOW] == 0 && !self.climb(&load, &soon) {
            return None;
        }
        Some([LOW, LOW - 1].map(|k| (self.at[k], std::mem::take(&mut self.ahead[k]))))
    }

    /// Goes to the next word of the level above the bottom that is not zero, over the levels above that. Whether there is
    /// one.
    #[inline(never)]
    fn climb(&mut self, load: &impl Fn(usize, u64) -> u64, soon: &impl Fn(u64)) -> bool {
        let (mut k, last) = (LOW, self.at[LOW]);
        loop {
            if k < self.top {
                let child = if k == LOW { self.first } else { self.at[k + 1] + 1 };
                self.at[k] = child / WORD_BITS;
                self.ahead[k] = load(k, self.at[k]) & u64::MAX << (child % WORD_BITS);
                self.top = k;
            }
            match self.ahead[k] {
                0 if k == 0 => return false,
                0 => k -= 1,
                _ if k == LOW => {
                    // Only where they come one after the other: elsewhere it would be a guess.
                    if self.at[LOW] == last + 1 {
                        soon(self.at[LOW] + AHEAD);
                    }
                    return true;
                }
                ahead => {
                    self.ahead[k] = ahead & (ahead - 1);
                    let child = self.at[k] * WORD_BITS + u64::from(ahead.trailing_zeros());
                    k += 1;
                    self.at[k] = child;
                    self.ahead[k] = load(k, child);
                }
            }
        }
    }
}
