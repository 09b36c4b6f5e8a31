//! Taking dirt away, always under the update lock.
//!
//! Invariant kept here: a reset touches the word, then clears the durable level, then the live one (rule 4), and summaries
//! only in a map that is opened alone, where readers look again.

use super::core::{Core, Locked};
use crate::error::Result;
use crate::geometry::mask_in;
use crate::hierarchy::{Shared, WordsMut, words_touched};
use crate::progress::Step;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::SeqCst;

/// Words reset in one hold of the lock, so that setters are not kept waiting.
const BATCH: usize = 4096;

impl Core {
    /// Clears a range of bits; says how many were set here. Cost: the nonzero words in it.
    pub(crate) fn reset_bits(&self, bits: Range<u64>) -> Result<u64> {
        let mut changed = 0;
        let mut count = |_, cleared: u64| changed += u64::from(cleared.count_ones());
        let done = self.reset_words(words_touched(&bits), |w| !mask_in(w, &bits), &mut count);
        // Also after an error: what was reset before it is reset.
        if changed != 0 {
            self.changes.mark(bits);
        }
        done.map(|()| changed)
    }

    /// Clears everything here, and has the next flush forget what was added until now.
    pub(crate) fn reset_all(&self) -> Result<u64> {
        let look = || -> Result<Option<u64>> {
            let lock = self.lock()?;
            Ok(lock.seen(&lock.refresh_header()?))
        };
        // Before anything is reset: what others add meanwhile is not forgotten.
        let seen = look()?;
        let changed = self.reset_bits(0..self.geometry().bits())?;
        sync_point!(ResetAll);
        self.all_reset.set(step!(LookThenReset => seen, else look()?));
        Ok(changed)
    }

    /// Keeps of each word only the bits that `keep` names; `changed` hears of the others, which the caller has to
    /// [mark](super::changes). Cost: the nonzero words.
    pub(super) fn reset_words(
        &self,
        words: Range<u64>,
        keep: impl Fn(u64) -> u64,
        changed: &mut impl FnMut(u64, u64),
    ) -> Result<()> {
        self.reset_batches(words, keep, changed, |_| Ok(()))
    }

    /// The same of all words, marking what has changed, for a `keep` that looks at a map, which may be this one. Who looks at a
    /// map whose checkpoint state was left behind by somebody who died takes the update lock to mend that, and would wait for
    /// himself: so it is mended before.
    pub(crate) fn keep_words(&self, keep: impl Fn(u64) -> u64) -> Result<u64> {
        let mut changed = 0;
        let mut cleared = |w, cleared: u64| {
            changed += u64::from(cleared.count_ones());
            self.changes.mark_word(w, cleared);
        };
        self.reset_batches(0..self.geometry().words(), keep, &mut cleared, |lock| lock.refresh_header().map(drop))?;
        Ok(changed)
    }

    fn reset_batches(
        &self,
        words: Range<u64>,
        keep: impl Fn(u64) -> u64,
        changed: &mut impl FnMut(u64, u64),
        locked: impl Fn(&Locked<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut at = words.start;
        while at < words.end {
            if at > words.start {
                self.tell(Step::Resetting, at)?;
            }
            let mut lock = self.lock()?;
            locked(&lock)?;
            at = lock.reset_batch(at..words.end, &keep, changed);
        }
        Ok(())
    }
}

impl Locked<'_> {
    /// Looks at up to [`BATCH`] nonzero words and resets those that have more than they may keep; returns where to
    /// go on.
    fn reset_batch(
        &mut self,
        words: Range<u64>,
        keep: &impl Fn(u64) -> u64,
        changed: &mut impl FnMut(u64, u64),
    ) -> u64 {
        let core = self.core;
        let view = &core.view;
        let mut found = Vec::new();
        let mut at = words.start;
        let levels = view.levels();
        for _ in 0..BATCH {
            match levels.next_nonzero_word(at..words.end) {
                Some((w, word)) => {
                    // The durable level has nothing that the live one has not.
                    let kept = keep(w);
                    if word & !kept != 0 {
                        found.push((w, kept));
                    }
                    at = w + 1;
                }
                None => {
                    at = words.end;
                    break;
                }
            }
        }
        self.reset_found(&found, changed);
        at
    }

    /// Resets the bits of a point's words here, which is no change for those who read both.
    pub(super) fn reset_bits_of(&mut self, point: &[(u64, u64)]) {
        let live = self.core.view.live();
        let found: Vec<(u64, u64)> = (point.iter().copied())
            .filter(|&(w, bits)| live[w as usize].load(SeqCst) & bits != 0)
            .map(|(w, bits)| (w, !bits))
            .collect();
        self.reset_found(&found, &mut |_, _| ());
    }

    /// Resets words: each keeps the bits that are named with it.
    fn reset_found(&mut self, found: &[(u64, u64)], changed: &mut impl FnMut(u64, u64)) {
        if found.is_empty() {
            return;
        }
        let view = &self.core.view;
        step!(RememberThenReset => self.remember_reset(found.iter().map(|&(w, _)| w)));
        sync_point!(Remembered);
        for &(w, keep) in found {
            // In this order, for a holder that is killed in between: touched first, or a bit that reads clean is
            // dirty again after a clean close; durable before live, or a set returns for a bit that is not there.
            step!(MarkThenReset => view.mark_unflushed(w));
            sync_point!(ResetTouched);
            twin!(DurableThenLive => {
                Shared(view.live()).and(w as usize, keep);
                sync_point!(ResetDurable);
            });
            Shared(view.durable()).and(w as usize, step!(ClearDurable => keep, else u64::MAX));
            sync_point!(ResetDurable);
            let cleared = Shared(view.live()).and(w as usize, keep) & !keep;
            sync_point!(ResetLive);
            twin!(MarkThenReset => view.mark_unflushed(w));
            if cleared != 0 {
                changed(w, cleared);
            }
        }
        twin!(RememberThenReset => self.remember_reset(found.iter().map(|&(w, _)| w)));
        self.clear_summaries(found.iter().map(|&(w, _)| w));
    }

    fn clear_summaries(&self, words: impl Iterator<Item = u64>) {
        let core = self.core;
        if core.shared {
            return; // Others look at them who do not know of this counter.
        }
        let _quiet = core.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        core.seqlock.fetch_add(1, SeqCst);
        let mut levels = core.view.levels();
        for w in words {
            if core.view.live()[w as usize].load(SeqCst) == 0 {
                levels.unsummarise(w);
            }
        }
        core.seqlock.fetch_add(1, SeqCst);
    }
}
