//! Many words at once.
//!
//! Invariant kept here: every bit goes through the same steps as in `set`. What is new is only that the words to
//! come are announced, so that one commit arms many of them. A bit that is set in the map and in the words that are loaded is
//! never clear in between, also not after a crash: first everything is set that they have, then the rest is cleared.

use super::core::Core;
use super::set::ANNOUNCED;
use crate::error::Result;
use crate::hierarchy::words_touched;
use crate::progress::Step;
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;

/// Most words set between two announcements.
const BATCH: usize = 4096;

impl Core {
    /// Sets bits word by word: `words` yields `(word index, bits)`, ascending; `changed` hears of the bits that
    /// were clear, also before an error. `told` hears of the next word between two batches, and can end it.
    pub(crate) fn or_words(
        &self,
        words: impl Iterator<Item = (u64, u64)>,
        told: impl Fn(u64) -> Result<()>,
        mut changed: impl FnMut(u64, u64),
    ) -> Result<()> {
        let durable = self.view.durable();
        let mut words = words.filter(|&(w, bits)| durable[w as usize].load(SeqCst) & bits != bits);
        let mut begun = false;
        loop {
            let (mut batch, mut runs): (Vec<_>, Vec<Range<u64>>) = (Vec::new(), Vec::new());
            while batch.len() < BATCH
                && runs.len() < ANNOUNCED
                && let Some((w, bits)) = words.next()
            {
                batch.push((w, bits));
                match runs.last_mut() {
                    Some(run) if w <= run.end => run.end = w + 1,
                    _ => runs.push(w..w + 1),
                }
            }
            let Some(&(first, _)) = batch.first() else { return Ok(()) };
            if begun {
                told(first)?;
            }
            begun = true;
            self.announcing(&runs, || self.or_batch(&batch, &runs, &mut changed))?;
        }
    }

    fn or_batch(&self, batch: &[(u64, u64)], runs: &[Range<u64>], changed: &mut impl FnMut(u64, u64)) -> Result<()> {
        let mut runs = runs.iter().map(|run| run.end).peekable();
        for &(w, bits) in batch {
            while runs.next_if(|&end| end <= w).is_some() {}
            let mut new = 0;
            let done = self.set_word(w, bits, runs.peek().map_or(w + 1, |&end| end), &mut new);
            if new != 0 {
                changed(w, new);
            }
            done?;
        }
        Ok(())
    }

    /// Sets bits word by word, as [`or_words`](Self::or_words), and marks what has changed.
    pub(crate) fn merge_words(&self, words: impl Iterator<Item = (u64, u64)>) -> Result<u64> {
        let mut changed = 0;
        let told = |w| self.tell(Step::Setting, w);
        self.or_words(words, told, |w, new| {
            changed += u64::from(new.count_ones());
            self.changes.mark_word(w, new);
        })?;
        Ok(changed)
    }

    /// Makes the words behind some bits what `word` says.
    pub(crate) fn load_words(&self, bits: Range<u64>, word: impl Fn(u64) -> u64) -> Result<u64> {
        let words = words_touched(&bits);
        let nonzero = words.clone().map(|w| (w, word(w))).filter(|&(_, bits)| bits != 0);
        let mut changed = 0;
        let mut count = |_, bits: u64| changed += u64::from(bits.count_ones());
        let done = self
            .or_words(nonzero, |w| self.tell(Step::Setting, w), &mut count)
            .and_then(|()| self.reset_words(words, &word, &mut count));
        // Also after an error: what was changed before it is changed.
        if changed != 0 {
            self.changes.mark(bits);
        }
        done.map(|()| changed)
    }
}
