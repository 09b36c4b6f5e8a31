//! What one round of a flush goes by: what the header covers before it and after it, and which words it takes care of.
//!
//! Invariant kept here: a word that leaves the cover is handled, and so is one that is covered and not armed, which somebody left
//! who died or failed (rule 5).

use super::core::{Core, Locked};
use super::intent_set::IntentSet;
use crate::error::Result;
use crate::file::bottom::{all_words, named};
use crate::format::{Header, MAX_LIST, WordRanges};
use crate::geometry::{PAGE_WORDS, words_of};
use crate::hierarchy::{Shared, WordsMut};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// A page and the words of it that are written anew from the live level.
pub(super) type PageRewrite = (u64, u64);

/// What a flush leaves on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing.
    Nothing,
    /// What is hot.
    Hot,
    /// The hottest, so that there is room for so many words more.
    Room(u64),
}

/// A header that ends a flush and has another intent.
pub(crate) struct Switch<'a> {
    /// The intent from then on.
    pub intent: Option<Arc<IntentSet>>,
    /// What else is changed in that header. Not called if the flush fails before.
    pub change: Box<dyn FnOnce(&mut Header) + 'a>,
}

/// What a round of a flush goes by.
pub(super) struct Round {
    /// The list before it.
    pub list: WordRanges,
    pub intent: Option<Arc<IntentSet>>,
    /// What stays on the list.
    pub kept: WordRanges,
    /// The intent after it, if that is another one.
    pub switch: Option<Option<Arc<IntentSet>>>,
    /// Some resets are left for another round.
    pub more: bool,
}

impl Round {
    /// What the header before it covers of a word.
    pub(super) fn cover(&self, w: u64) -> u64 {
        covered(&self.list, self.intent.as_deref(), w)
    }

    /// What the header after it does, if none of what it handles is full.
    pub(super) fn cover_after(&self, w: u64) -> u64 {
        covered(&self.kept, self.next_intent(), w)
    }

    /// The intent after it.
    pub(super) fn next_intent(&self) -> Option<&IntentSet> {
        self.switch.as_ref().unwrap_or(&self.intent).as_deref()
    }

    /// The pages of which the header covers something, and the words of them.
    fn pages(&self) -> Vec<PageRewrite> {
        let mut pages: Vec<PageRewrite> = Vec::new();
        let intended = step!(FlushIntended => self.intent.as_deref());
        for (w, _) in intended.into_iter().flat_map(|intent| intent.words()) {
            match pages.last_mut() {
                Some(last) if last.0 == w / PAGE_WORDS => last.1 |= 1 << (w % PAGE_WORDS),
                _ => pages.push((w / PAGE_WORDS, 1 << (w % PAGE_WORDS))),
            }
        }
        pages.extend(self.list.iter().flat_map(|run| words_of(run.range())));
        pages.sort_unstable_by_key(|page| page.0);
        join_pages(&mut pages);
        pages
    }
}

/// What a list and an intent cover of a word.
pub(super) fn covered(list: &WordRanges, intent: Option<&IntentSet>, w: u64) -> u64 {
    if list.contains(w) { u64::MAX } else { intent.map_or(0, |intent| intent.word(w)) }
}

impl Locked<'_> {
    /// What one round goes by, and what it keeps on the list. Touched words that the header does not cover are listed before.
    pub(super) fn words_at_hand(
        &mut self,
        header: &mut Header,
        keep: Keep,
        switch: &Option<Switch<'_>>,
    ) -> Result<Round> {
        let core = self.core;
        let intent = core.intent(header)?;
        let ended = intent.as_ref().is_some_and(|intent| intent.in_doubt());
        let (also, more) = match &intent {
            // Nobody knows what it covers. So all is listed and written, and it ends.
            Some(_) if ended => (all_words(core.geometry()), false),
            _ => self.unflushed_uncovered(&header.runs, intent.as_deref()),
        };
        if ended {
            self.allocate(0..core.geometry().words())?;
        }
        twin!(WriteThenForgetResets => self.forget_resets());
        let before = header.runs.clone();
        let mut list = before.clone();
        list.union(&also);
        if step!(ListReset => list != header.runs) {
            header.runs = list.clone();
            self.commit(header)?;
        }
        let switch = match switch {
            Some(switch) if !more => Some(switch.intent.clone()),
            _ => ended.then_some(None),
        };
        if let Some(Some(next)) = &switch {
            self.allocate_for(next)?;
        }
        let bound = core.list_bound(switch.as_ref().unwrap_or(&intent).as_deref());
        let kept = if ended { WordRanges::new() } else { self.hottest(&before, keep, bound) };
        Ok(Round { list, intent: intent.filter(|_| !ended), kept, switch, more })
    }

    /// The words of a list that a flush leaves there: not those that were reset only.
    fn hottest(&mut self, list: &WordRanges, keep: Keep, bound: u64) -> WordRanges {
        let core = self.core;
        let touched = |(page, words): PageRewrite| words_of_page((page, words & core.touched_in(page)));
        let (words, timed) = match keep {
            Keep::Nothing => {
                self.state.lately.forget();
                return WordRanges::new();
            }
            Keep::Hot => (bound, true),
            Keep::Room(more) => ((bound / 4 * 3).min(bound.saturating_sub(more)), false),
        };
        let touched = list.iter().flat_map(|run| words_of(run.range())).flat_map(touched).collect();
        self.state.lately.touched(touched, list, timed);
        self.state.lately.keep_hottest(list, words, MAX_LIST / 2)
    }

    /// The words that a round takes care of: of those that the header covers, what is touched, what leaves the cover, and what is
    /// not armed, which somebody left who died or failed.
    pub(super) fn handled(&self, round: &Round) -> Vec<PageRewrite> {
        let (view, kept) = (&self.core.view, &round.kept);
        let mut pages = round.pages();
        for (page, words) in &mut pages {
            let (listed, stays) = (named(&round.list, *page), named(kept, *page));
            let found = listed & !stays | *words & self.core.touched_in(*page);
            *words = found
                | those((*page, *words & !found), |w| {
                    let cover = round.cover(w);
                    let leaves = || cover & !round.cover_after(w) != 0;
                    view.armed()[w as usize].load(SeqCst) & cover != cover
                        || step!(FlushAtSwitch => round.switch.is_some() && leaves())
                });
        }
        pages.retain(|page| page.1 != 0);
        pages
    }

    /// Takes words off the list that are full and durable: nothing is left to be set in them.
    pub(super) fn drop_full(&self, handled: &[PageRewrite], list: &mut WordRanges) {
        let view = &self.core.view;
        let full = |&w: &u64| view.durable()[w as usize].load(SeqCst) == view.geometry().word_mask(w);
        let listed = handled.iter().flat_map(|&(page, words)| words_of_page((page, words & named(list, page))));
        let full: WordRanges = listed.filter(full).collect();
        list.subtract(&full);
    }

    /// Arms again what the header that was just committed covers of the words that were handled.
    pub(super) fn rearm(&self, handled: &[PageRewrite], list: &WordRanges, intent: Option<&IntentSet>) {
        self.core.arm_covered(handled.iter().copied().flat_map(words_of_page), list, intent);
    }
}

impl Core {
    /// Arms what a durable header covers of some words.
    pub(super) fn arm_covered(&self, words: impl Iterator<Item = u64>, list: &WordRanges, intent: Option<&IntentSet>) {
        for w in words {
            Shared(self.view.armed()).or(w as usize, covered(list, intent, w));
        }
    }
}

/// Several runs may lie in one page.
pub(super) fn join_pages(rewrites: &mut Vec<PageRewrite>) {
    rewrites.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 |= next.1;
        }
        same
    });
}

/// The words of a page that are meant.
pub(super) fn words_of_page((page, words): PageRewrite) -> impl Iterator<Item = u64> {
    ones(words).map(move |i| page * PAGE_WORDS + i)
}

/// Those words of them that are such.
pub(super) fn those(of: PageRewrite, such: impl Fn(u64) -> bool) -> u64 {
    words_of_page(of).filter(|&w| such(w)).fold(0, |those, w| those | 1 << (w % PAGE_WORDS))
}

/// The positions of the bits that are set.
pub(crate) fn ones(mut mask: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        let i = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (i < 64).then_some(u64::from(i))
    })
}
