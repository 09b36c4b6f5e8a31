//! Many words at once.
//!
//! Invariant kept here: every bit goes through the same steps as in `set`. What is new is only that the words to
//! come are announced, so that one commit arms many of them. A bit that is set in the map and in the words that are loaded is
//! never clear in between, also not after a crash: first everything is set that they have, then the rest is cleared.

use super::core::Core;
use crate::error::Result;
use crate::hierarchy::words_touched;
use crate::progress::Step;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::SeqCst;

/// Most runs of words announced at once. What a list has room for is more.
const RUNS: usize = 128;

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
                && runs.len() < RUNS
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
            let done = self.or_batch(&batch, &runs, &mut changed);
            // Whoever armed them has taken them out, unless there was no room or nothing to arm.
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).retain(|run| !runs.contains(run));
            done?;
        }
    }

    fn or_batch(&self, batch: &[(u64, u64)], runs: &[Range<u64>], changed: &mut impl FnMut(u64, u64)) -> Result<()> {
        // As if threads waited for them all: the first one that is not armed has them armed together.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(runs);
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
    pub(crate) fn merge_words(&self, words: impl Iterator<Item = (u64, u64)>) -> Result<()> {
        let told = |w| self.tell(Step::Setting, w);
        self.or_words(words, told, |w, new| self.changes.mark_word(w, new))
    }

    /// Makes the words behind some bits what `word` says.
    pub(crate) fn load_words(&self, bits: Range<u64>, word: impl Fn(u64) -> u64) -> Result<()> {
        let words = words_touched(&bits);
        let nonzero = words.clone().map(|w| (w, word(w))).filter(|&(_, bits)| bits != 0);
        let mut changed = false;
        let done = self
            .or_words(nonzero, |w| self.tell(Step::Setting, w), |_, _| changed = true)
            .and_then(|()| self.reset_words(words, &word, &mut |_, _| changed = true));
        // Also after an error: what was changed before it is changed.
        if changed {
            self.changes.mark(bits);
        }
        done
    }
}
