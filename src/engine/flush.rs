//! Bringing the durable bottom up to date, and taking words off the armed list.
//!
//! Invariant kept here: a word leaves the list only after, in one hold of the update lock, it was
//! disarmed, untouched, snapshotted, and its page and page-table entry were made durable (rule 3).

use super::core::{Core, Locked};
use super::intent_set::IntentSet;
use super::round::{Keep, PageRewrite, Round, Switch, join_pages, ones, those};
use crate::error::Result;
use crate::file::bottom::{BottomRef, named, pages_of, words_of_pages};
use crate::file::pages::{self, PageContent};
use crate::file::points::forget_intent;
use crate::file::reasons::forget;
use crate::format::{self, Durability, Header, MAX_LIST, MAX_RUN, Reasons, WordRanges};
use crate::geometry::{Geometry, PAGE_WORDS, words_of};
use crate::hierarchy::{Shared, WordsMut};
use crate::progress::Step;
use crate::shm::runtime;
use crate::shm::view::ShmView;
use crate::sys::Storage;
use crate::trace::event;
use std::ops::Range;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// Most stretches of pages that are remembered as having resets.
const RESET_RUNS: usize = 1024;
/// Most pages of a flush that are written with one sync: 32 MiB of them.
const FLUSH_PAGES: usize = 65536;

impl Core {
    /// Makes the durable bottom what the live level is. See [`DirtyMap::flush`](crate::DirtyMap::flush).
    pub(crate) fn flush(&self) -> Result<()> {
        self.lock()?.flush()
    }

    /// Pages among which are all that hold something that was reset since the last flush.
    fn reset_window(&self) -> Range<u64> {
        let r = self.view.runtime();
        let (first, end) = (r[runtime::RESET_FIRST].load(SeqCst), r[runtime::RESET_END].load(SeqCst));
        first..end.clamp(first, self.geometry().pages().max(first))
    }

    /// Touched words among those of a page.
    pub(super) fn touched_in(&self, page: u64) -> u64 {
        self.view.unflushed()[page as usize].load(SeqCst)
    }
}

impl Locked<'_> {
    /// Makes the durable bottom what the live level is, and empties the list.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.flush_to(Keep::Nothing, None).map(drop)
    }

    /// The same, leaving something on the list, and ending in another header if that is wanted, which is returned.
    pub(crate) fn flush_to(&mut self, keep: Keep, mut switch: Option<Switch<'_>>) -> Result<Header> {
        let core = self.core;
        core.counters.flushes.fetch_add(1, Relaxed);
        loop {
            let mut header = self.refresh_header()?;
            let more = match (core.durability, switch.take_if(|_| core.durability == Durability::Process)) {
                (Durability::PowerLoss, _) => self.round(&mut header, keep, &mut switch)?,
                (Durability::Process, None) => self.process_round(&mut header)?,
                (Durability::Process, Some(switch)) => {
                    // Its list covers everything, before and after.
                    (switch.change)(&mut header);
                    self.commit(&mut header)?;
                    step!(FreezeBothPairs => self.commit(&mut header))?;
                    return Ok(header);
                }
            };
            match more {
                Some(end) if step!(FlushInRounds => true) => core.tell(Step::Flushing, end)?,
                _ => {
                    self.forget_resets();
                    return Ok(header);
                }
            }
        }
    }

    /// One round in a map that lists single words. Says up to where it got, if resets are left for another one: what it wrote has
    /// left the list, and what is left is touched still.
    fn round(&mut self, header: &mut Header, keep: Keep, switch: &mut Option<Switch<'_>>) -> Result<Option<u64>> {
        let core = self.core;
        let round = self.words_at_hand(header, keep, switch)?;
        let more = round.more;
        let clears_reasons = self.clears_reasons(header, more);
        let handled = self.handled(&round);
        header.runs = round.kept.clone();
        let switch = switch.take_if(|_| !more);
        if handled.is_empty() && header.runs == round.list && switch.is_none() && !clears_reasons {
            return Ok(None);
        }
        twin!(WriteThenForget => self.commit(header)?);
        let rewrites = self.disarm(&handled, &round);
        twin!(DurableThenRearm => self.rearm(&handled, &header.runs, round.intent.as_deref()));
        self.write_batches(&rewrites)?;
        sync_point!(Durable);
        twin!(UnmarkThenCopy => touch_none(&core.view, &handled));
        self.drop_full(&handled, &mut header.runs);
        if let Some(switch) = switch {
            (switch.change)(header);
        }
        if let Some(intent) = &round.switch {
            forget_intent(header);
            header.intent = intent.as_ref().map(|intent| intent.named());
        }
        if clears_reasons {
            forget(header);
        }
        twin!(CommitThenRearm => self.rearm(&handled, &round.list, round.intent.as_deref()));
        twin!(SwitchThenArm => self.core.arm_by(round.switch.clone().flatten()));
        if round.switch.is_some() || clears_reasons || header.runs != round.list {
            self.commit(header)?;
        }
        if round.switch.is_some() {
            // To both pairs: the loss of one must not bring back a header with the old intent, or without a point whose bits
            // are reset here.
            step!(FreezeBothPairs => self.commit(header))?;
        }
        self.rearm(&handled, &header.runs, round.next_intent());
        if let Some(intent) = round.switch {
            core.arm_by(intent);
        }
        event!(DEBUG, "flushed", pages = rewrites.len(), listed = header.runs.words());
        if clears_reasons {
            core.all_reset.set(None);
        }
        Ok(more.then(|| handled.last().map_or(0, |page| (page.0 + 1) * PAGE_WORDS)))
    }

    /// One round in a map that lists everything, and whose flushes disarm nothing.
    fn process_round(&mut self, header: &mut Header) -> Result<Option<u64>> {
        self.recover_unflushed();
        let (words, more) = self.unflushed_uncovered(&header.runs, None);
        twin!(WriteThenForgetResets => self.forget_resets());
        let clears_reasons = self.clears_reasons(header, more);
        if words.is_empty() && !clears_reasons {
            return Ok(None);
        }
        let rewrites = unflushed_of(&self.core.view, &words);
        self.write_batches(&rewrites)?;
        sync_point!(Durable);
        self.untouch_durable(&rewrites);
        if clears_reasons {
            forget(header);
            self.commit(header)?;
            self.core.all_reset.set(None);
        }
        Ok(more.then(|| words.iter().last().map_or(0, |run| run.end())))
    }

    /// Whether this round ends a flush after a reset of everything, with which added dirt is forgotten.
    fn clears_reasons(&self, header: &Header, more: bool) -> bool {
        let known = self.nothing_added_since(self.core.all_reset.get());
        !more && known && header.dirt_reasons != Reasons::NONE
    }

    /// Writes pages batch by batch. After an error nothing leaves the list, and what is listed and not armed is redone by the
    /// next flush. In a `Process` map, nothing was untouched yet.
    fn write_batches(&self, rewrites: &[PageRewrite]) -> Result<()> {
        for (i, batch) in rewrites.chunks(FLUSH_PAGES).enumerate() {
            let told = if i == 0 { Ok(()) } else { self.core.tell(Step::Flushing, batch[0].0 * PAGE_WORDS) };
            let written = told.and_then(|()| self.write_pages(batch));
            step!(KeepFlushError => written)?;
        }
        Ok(())
    }

    /// Flushes, and says whether all that is live is durable then: a fence behind everything that tells a flush where to
    /// look. Cost: the nonzero words.
    pub(super) fn flush_and_compare(&mut self) -> Result<bool> {
        self.flush()?;
        if !step!(CompareAtClose => self.touch_what_differs()) {
            return Ok(true);
        }
        self.flush()?;
        Ok(!self.touch_what_differs())
    }

    /// Touches the words of which the live level has more than the durable one, which has nothing else; says whether there
    /// are any.
    fn touch_what_differs(&mut self) -> bool {
        const BATCH: usize = 4096;
        let view = &self.core.view;
        let (levels, end) = (view.levels(), self.core.geometry().words());
        let (mut at, mut any) = (0, false);
        loop {
            let mut differing = Vec::new();
            while differing.len() < BATCH
                && let Some((w, word)) = levels.next_nonzero_word(at..end)
            {
                if word != view.durable()[w as usize].load(SeqCst) {
                    differing.push(w);
                }
                at = w + 1;
            }
            if differing.is_empty() {
                return any;
            }
            any = true;
            // So that the next flush finds them, listed or not.
            self.remember_reset(differing.iter().copied());
            differing.iter().for_each(|&w| view.mark_unflushed(w));
        }
    }

    /// Disarms and untouches the words, also those that are kept: says which of them must be written again, that is those touched,
    /// and those that were not armed, which somebody left who died or failed half-way.
    fn disarm(&self, handled: &[PageRewrite], round: &Round) -> Vec<PageRewrite> {
        let view = &self.core.view;
        let early = step!(DisarmThenUnmark => None, else Some(self.untouch(handled)));
        let mut rewrites: Vec<PageRewrite> = Vec::with_capacity(handled.len());
        for &(page, words) in handled {
            let left = those((page, words), |w| {
                let keep = step!(DisarmKept => 0, else round.cover_after(w));
                let cover = round.cover(w);
                Shared(view.armed()).and(w as usize, keep) & cover != cover
            });
            rewrites.push((page, step!(RewriteUnarmed => left)));
        }
        sync_point!(Disarmed);
        // Only when all are disarmed is the first one untouched: a setter that was too late for its word to be
        // written finds the word disarmed.
        let touched = early.unwrap_or_else(|| self.untouch(handled));
        rewrites.iter_mut().zip(touched).for_each(|((_, words), touched)| *words |= touched);
        rewrites.retain(|&(_, words)| words != 0);
        rewrites
    }

    /// Untouches words, and says which were touched.
    fn untouch(&self, parts: &[(u64, u64)]) -> Vec<u64> {
        let clear = |&(page, words): &(u64, u64)| {
            let keep = step!(UnmarkThenCopy => !words, else u64::MAX);
            words & Shared(self.core.view.unflushed()).and(page as usize, keep)
        };
        let touched = parts.iter().map(clear).collect();
        sync_point!(Untouched);
        touched
    }

    /// Writes pages and their entries durably, then takes their new words for durable.
    fn write_pages(&self, batch: &[PageRewrite]) -> Result<()> {
        let core = self.core;
        let mut snapshot: Vec<PageContent> = Vec::with_capacity(batch.len());
        for &(page, words) in batch {
            snapshot.push(self.page_content(page, words));
        }
        if step!(WritePages => true) {
            core.counters.syncs.fetch_add(1, Relaxed);
            let indices: Vec<u64> = batch.iter().map(|&(page, _)| page).collect();
            match pages::write(&*core.disk, &core.bottom(), &indices, |k, _| snapshot[k]) {
                Ok(bytes) => core.counters.bytes_written.fetch_add(bytes, Relaxed),
                Err(e) => {
                    core.record_write_failure();
                    return Err(core.io("write the bottom level")(e));
                }
            };
        }
        sync_point!(Written);
        let mut levels = core.view.levels();
        for (&(page, mask), words) in batch.iter().zip(&snapshot) {
            for i in ones(mask) {
                let w = page * PAGE_WORDS + i;
                if words[i as usize] != 0 {
                    step!(SummariesThenDurable => levels.summarise(w));
                }
                core.view.durable()[w as usize].store(words[i as usize], SeqCst);
                twin!(SummariesThenDurable => levels.summarise(w));
            }
        }
        Ok(())
    }

    /// In a `Process` map: untouches what is durable now. A set that came in between is found by looking at the word
    /// again, and the mark tells who comes after this process, should it be killed between the two.
    fn untouch_durable(&self, rewrites: &[PageRewrite]) {
        let view = &self.core.view;
        step!(MarkFlush => view.runtime()[runtime::FLUSHING].store(1, SeqCst));
        sync_point!(Marked);
        for &(page, words) in rewrites {
            Shared(view.unflushed()).and(page as usize, !words);
        }
        sync_point!(UntouchedLast);
        for &(page, words) in rewrites {
            let differs = |&i: &u64| {
                let w = (page * PAGE_WORDS + i) as usize;
                view.live()[w].load(SeqCst) != view.durable()[w].load(SeqCst)
            };
            let again = ones(words).filter(differs).fold(0, |mask, i| mask | 1 << i);
            if step!(RecheckUnmarked => again != 0) {
                Shared(view.unflushed()).or(page as usize, again);
            }
        }
        view.runtime()[runtime::FLUSHING].store(0, SeqCst);
    }

    /// In a `Process` map: touches what a flusher may have untouched who was killed before he looked again.
    fn recover_unflushed(&mut self) {
        let view = &self.core.view;
        let marked = step!(RecoverUnflushed => view.runtime()[runtime::FLUSHING].load(SeqCst) != 0);
        if self.core.durability != Durability::Process || !marked {
            return;
        }
        self.touch_what_differs();
        view.runtime()[runtime::FLUSHING].store(0, SeqCst);
    }

    /// What a page is to hold: the live words that are redone, the others as they are in the bottom.
    fn page_content(&self, page: u64, mask: u64) -> PageContent {
        let view = &self.core.view;
        let first = (page * PAGE_WORDS) as usize;
        let mut words = [0; PAGE_WORDS as usize];
        let inside = view.live().len().min(first + PAGE_WORDS as usize);
        for (i, w) in (first..inside).enumerate() {
            let from = if mask & 1 << i != 0 { view.live() } else { view.durable() };
            words[i] = from[w].load(SeqCst);
        }
        words
    }

    /// Words that were touched and are not covered, because they were reset and not set, or because the list is not that of
    /// single words; as few runs as the list has room for, and whether some were left for another round. Cost: the pages
    /// with summaries, where all is listed, and those among which something was reset.
    pub(super) fn unflushed_uncovered(&self, list: &WordRanges, intent: Option<&IntentSet>) -> (WordRanges, bool) {
        let core = self.core;
        let mut found: Vec<Range<u64>> = Vec::new();
        let (mut pages, mut more) = (0, false);
        let mut look = |page| {
            // Whoever knows that there is more need not look at the rest, which the next round does.
            let touched = if more { 0 } else { core.touched_in(page) };
            if touched == 0 {
                return;
            }
            let uncovered = |w| intent.is_none_or(|intent| intent.word(w) == 0);
            let new = if core.durability == Durability::Process {
                touched
            } else {
                those((page, touched & !named(list, page)), uncovered)
            };
            if new == 0 {
                return;
            }
            more = pages == FLUSH_PAGES || found.len() >= FLUSH_PAGES;
            if more {
                return;
            }
            pages += 1;
            for w in ones(new).map(|i| page * PAGE_WORDS + i) {
                match found.last_mut() {
                    Some(run) if run.end == w => run.end += 1,
                    _ => found.push(w..w + 1),
                }
            }
        };
        if core.durability == Durability::Process {
            // Who sets summarises before he touches.
            let (levels, mut at) = (core.view.levels(), 0);
            while let Some(page) = levels.next_summarised(at..core.geometry().pages()) {
                look(page);
                at = page + 1;
            }
        }
        if core.in_file {
            // Others may have reset something, and be gone.
            core.reset_window().for_each(look);
        } else {
            self.state.reset_pages.iter().flat_map(|run| run.range()).for_each(look);
        }
        let words = WordRanges::from_iter(found);
        if core.durability == Durability::Process {
            return (words, more);
        }
        let (fitting, left) = fit(words, list, MAX_LIST, core.geometry());
        (fitting, more || left)
    }

    /// Remembers in which pages these words (ascending) are, before anything in them is reset: exactly enough for the
    /// next flush in this process, and as one window in the runtime page.
    pub(super) fn remember_reset(&mut self, words: impl Iterator<Item = u64>) {
        let mut pages: Vec<u64> = words.map(|w| w / PAGE_WORDS).collect();
        pages.dedup();
        let (Some(&first), Some(&last)) = (pages.first(), pages.last()) else { return };
        twin!(RememberResets => return);
        let r = self.core.view.runtime();
        let (from, to) = (r[runtime::RESET_FIRST].load(SeqCst), r[runtime::RESET_END].load(SeqCst));
        if step!(ShareResetWindow => true) {
            r[runtime::RESET_FIRST].store(if from < to { from.min(first) } else { first }, SeqCst);
            r[runtime::RESET_END].store(to.max(last + 1), SeqCst);
        }
        let all = &mut self.state.reset_pages;
        pages.iter().for_each(|&page| all.insert(page..page + 1));
        if all.len() > RESET_RUNS {
            // Looking at pages in between for nothing costs less than a long list.
            all.coarsen(RESET_RUNS / 2);
        }
    }

    pub(super) fn forget_resets(&mut self) {
        let r = self.core.view.runtime();
        r[runtime::RESET_END].store(0, SeqCst);
        r[runtime::RESET_FIRST].store(0, SeqCst);
        self.state.reset_pages = WordRanges::new();
    }
}

/// The touched words among those handled, by pages.
fn unflushed_of(view: &ShmView, handled: &WordRanges) -> Vec<PageRewrite> {
    let words = handled.iter().flat_map(|run| words_of(run.range()));
    let mut rewrites: Vec<PageRewrite> =
        words.map(|(page, words)| (page, words & view.unflushed()[page as usize].load(SeqCst))).collect();
    join_pages(&mut rewrites);
    rewrites
}

/// What the mutant of `UnmarkThenCopy` does instead.
#[cfg(test)]
fn touch_none(view: &ShmView, handled: &[PageRewrite]) {
    handled.iter().for_each(|&(page, words)| _ = Shared(view.unflushed()).and(page as usize, !words));
}

/// Makes `words` fit beside `list` in a list of at most `max_bytes`: word by word if possible, else whole pages (which are
/// rewritten anyway), else only the first of those.
fn fit(words: WordRanges, list: &WordRanges, max_bytes: usize, geometry: &Geometry) -> (WordRanges, bool) {
    let fits = |add: &WordRanges| {
        let mut all = list.clone();
        all.union(add);
        all.encoded_len() <= max_bytes
    };
    if fits(&words) {
        return (words, false);
    }
    let paged = words_of_pages(geometry, &pages_of(&words));
    if fits(&paged) {
        return (paged, false);
    }
    let room = max_bytes.saturating_sub(list.encoded_len()) / MAX_RUN;
    (WordRanges::from_iter(paged.iter().take(room).map(|r| r.range())), true)
}

/// Touches words of some pages that have more bits than are durable, for the next flush to write.
pub(crate) fn mark_recovered(core: &Core, pages: &WordRanges) {
    let view = &core.view;
    let behind = |w: &u64| view.live()[*w as usize].load(SeqCst) & !view.durable()[*w as usize].load(SeqCst) != 0;
    let words = pages.iter().flat_map(|run| run.range()).flat_map(|index| format::page_words(view.geometry(), index));
    words.filter(behind).for_each(|w| view.mark_unflushed(w));
}

/// Writes pages of the live level and their entries durably, and takes them for durable then. Says how many bytes it wrote.
pub(crate) fn write_recovered(
    disk: &dyn Storage,
    header: &Header,
    view: &ShmView,
    pages: &[u64],
) -> std::io::Result<u64> {
    let words_of = |index| format::page_words(&header.geometry, index);
    let bytes = pages::write(disk, &BottomRef::of_map(header), pages, |_, index| {
        let mut words = [0; PAGE_WORDS as usize];
        for (to, w) in words.iter_mut().zip(words_of(index)) {
            *to = view.live()[w as usize].load(SeqCst);
        }
        words
    })?;
    for w in pages.iter().flat_map(|&index| words_of(index)) {
        let word = view.live()[w as usize].load(SeqCst);
        view.durable()[w as usize].store(word, SeqCst);
    }
    Ok(bytes)
}
