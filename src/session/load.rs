//! Filling memory with what a file holds.
//!
//! Invariant kept here: a listed word or a page that does not verify is dirty from here on.

use super::page_cache::SavedPage;
use super::recovery::Recovery;
use crate::engine::intent_set::IntentSet;
use crate::engine::point_set::PointSet;
use crate::error::{Error, Result};
use crate::file::bottom::{BottomRef, Stretches, all_words, is_full, items_in, named, pages_of, words_of_pages};
use crate::file::headers::{self, Copies, Newest, damaged_copies, writable};
use crate::file::points;
use crate::file::scan::{Page, PageFault, Scan};
use crate::format::{self, Durability, Header, Layout, State, VolatileLayout, WordRanges};
use crate::geometry::{PAGE_BITS, PAGE_WORDS};
use crate::hierarchy::store_unseen;
use crate::image_stamp::ImageStamp;
use crate::map_file::MapFile;
use crate::progress::Step;
use crate::shm::view::ShmView;
use crate::sys::Mapping;
use crate::watcher::Watcher;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// A view filled with the recovered bits, and what has to be written to make them durable.
pub(crate) struct Loaded {
    pub view: ShmView,
    /// Words that are wholly dirty and not filled in the view: in a map that is only read.
    pub whole: WordRanges,
    /// Words of which some bits are dirty for want of knowledge: those of them, and what the intent covers.
    pub assumed: WordRanges,
    pub header: Header,
    pub pair: usize,
    pub recovery: Recovery,
    /// The outstanding point.
    pub frozen: Option<Arc<PointSet>>,
    /// Pages that did not verify.
    pub(super) failed: WordRanges,
    /// Words that are dirty for want of knowledge.
    pub(super) dirty: WordRanges,
    /// Pages whose recovered content is not what the bottom holds, not for the intent's sake alone.
    pub(super) rewrite: WordRanges,
    /// The intent of a header that was not closed.
    pub(super) intent: Option<IntentSet>,
    /// Pages in which it covers anything.
    pub(super) covered: WordRanges,
}

/// Reads and checks the header, without changing anything. Says what is wrong with its copies.
pub(super) fn header_of(file: MapFile<'_>, writing: bool) -> Result<(Copies, Newest, Recovery)> {
    let copies = headers::read_copies(file.disk);
    let newest = headers::select(file, &copies)?;
    if writing {
        writable(&newest.header, file.path)?;
    }
    let damaged_headers = damaged_copies(&copies, &newest).len() as u64;
    let recovery = Recovery { damaged_headers, lost_commit: newest.lost_commit, ..Recovery::default() };
    Ok((copies, newest, recovery))
}

/// Loads the recovered bits into anonymous memory. Writes nothing.
pub(crate) fn load_in_memory(file: MapFile<'_>, image: Option<&ImageStamp>) -> Result<Loaded> {
    let (_, Newest { header, pair, .. }, recovery) = header_of(file, false)?;
    let v = VolatileLayout::new(&header.geometry);
    let mapping = Mapping::anonymous(v.length).map_err(|_| Error::OutOfMemory { bytes: v.length })?;
    let view = ShmView::new(header.geometry, &v, mapping)?;
    load(file, (header, pair, recovery), view, (image, &Watcher::default()), None, None)
}

/// Sees that storing into some words of the volatile part cannot fail.
type Allocate<'a> = &'a mut dyn FnMut(&Layout, Range<u64>) -> Result<()>;

/// Fills an all-zero view from the durable bottom; for who writes (which is who allocates) also with what is dirty for want
/// of knowledge. A reader keeps that as runs, and so takes no more memory than goes with what the file holds.
pub(super) fn load(
    file: MapFile<'_>,
    (header, pair, mut recovery): (Header, usize, Recovery),
    view: ShmView,
    (image, watcher): (Option<&ImageStamp>, &Watcher),
    saved: Option<Vec<SavedPage>>,
    allocate: Option<Allocate<'_>>,
) -> Result<Loaded> {
    let (geometry, writing, trusted) = (header.geometry, allocate.is_some(), saved.is_some());
    recovery.unclean = header.state == State::Open;
    recovery.image_changed = image.and_then(|now| now.changed_since(header.image));
    let process = header.durability == Durability::Process && recovery.unclean;
    recovery.cache_trusted = process.then_some(trusted);

    let mut filling = Filling { header: &header, view: &view, watcher, allocate, extents: Stretches::default() };
    let Bottom { granules, good, failed, mut whole, stray, unlisted } = filling.read(file, trusted)?;
    let intent = IntentSet::read(file, &header)?;
    let covered = intent.as_ref().map(|intent| filling.cover(file, intent, &whole)).transpose()?.unwrap_or_default();
    let written = unlisted.iter().flat_map(|run| covered.pages.within(run.range())).map(|run| run.count).sum::<u64>();
    recovery.damaged_pages = stray + unlisted.words() - written;
    recovery.interrupted_pages = failed.words() - recovery.damaged_pages;
    recovery.intent_items = covered.items;
    recovery.lost_granules = step!(CountLost => BottomRef::of_map(&header).lost(granules, failed.words()));
    let lost = recovery.lost_granules.is_some() || recovery.lost_commit || covered.failed > 0;
    let dirty = if recovery.image_changed.is_some() || lost {
        all_words(&geometry)
    } else if !step!(DirtyListed => !trusted) {
        WordRanges::new()
    } else {
        header.runs.clone()
    };
    recovery.armed_items = if trusted { 0 } else { items_in(&geometry, &header.runs) };
    let (mut rewrite, mut assumed) = (failed.clone(), dirty.clone());
    match saved {
        Some(saved) => rewrite.union(&filling.replace(&good, &saved)?),
        None => assumed.union(&words_of_pages(&geometry, &failed)),
    }
    rewrite.union(&pages_of(&dirty));
    if writing {
        filling.fill(&std::mem::take(&mut assumed))?;
    }
    whole.union(&assumed);
    whole.union(&covered.whole);
    if !writing {
        assumed.union(&covered.words);
    }
    filling.finish();
    let frozen = PointSet::outstanding(file, &header)?.map(Arc::new);
    let twice = header.intent.is_some_and(|intent| intent.point == header.checkpoint_uuid);
    recovery.damaged_pages +=
        frozen.as_ref().map_or(0, |point| point.failed()) + if twice { 0 } else { covered.failed };
    let covered = covered.pages;
    Ok(Loaded { view, whole, assumed, header, pair, recovery, frozen, failed, dirty, rewrite, intent, covered })
}

/// What reading the bottom level has found.
struct Bottom {
    /// Dirty granules of pages that verify.
    granules: u64,
    /// Pages that were stored, if somebody wants to know.
    good: Vec<u64>,
    /// Pages that did not verify.
    failed: WordRanges,
    /// Words of full pages, which were not stored: in a map that is only read.
    whole: WordRanges,
    /// How many of the failed pages have bits past the end of the map.
    stray: u64,
    /// Those of the others that the list does not name.
    unlisted: WordRanges,
}

/// What the intent covers.
#[derive(Default)]
struct Covered {
    /// Pages in which it covers anything.
    pages: WordRanges,
    /// Words of which it covers more than is known to be dirty.
    words: WordRanges,
    /// Words of pages that it covers whole, which were not stored: in a map that is only read.
    whole: WordRanges,
    items: u64,
    /// Pages of its point that fail: it covers everything if there are any.
    failed: u64,
}

/// A view that is being filled.
struct Filling<'a, 'w> {
    header: &'a Header,
    view: &'a ShmView,
    watcher: &'a Watcher,
    allocate: Option<Allocate<'w>>,
    /// Which words of it may be nonzero.
    extents: Stretches,
}

impl Filling<'_, '_> {
    /// Sees that the words of a page can be stored.
    fn prepare(&mut self, index: u64) -> Result<()> {
        let words = format::page_words(&self.header.geometry, index);
        if let Some(allocate) = &mut self.allocate {
            allocate(&self.header.layout, words.clone())?;
        }
        self.extents.add(words);
        Ok(())
    }

    /// Stores the pages of the bottom level.
    fn read(&mut self, file: MapFile<'_>, list_good: bool) -> Result<Bottom> {
        let (header, watcher, writing) = (self.header, self.watcher, self.allocate.is_some());
        let geometry = &header.geometry;
        let (mut granules, mut good, mut stray) = (0, Vec::new(), 0);
        let (mut failed, mut whole, mut unlisted) = (Stretches::default(), Stretches::default(), Stretches::default());
        Scan { file, bottom: &BottomRef::of_map(header) }.run(
            |index, found| {
                match found {
                    Page::Good(words) => {
                        granules += words.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
                        if !writing && is_full(geometry, index, words) {
                            whole.add(format::page_words(geometry, index));
                            return Ok(());
                        }
                        self.prepare(index)?;
                        if list_good {
                            good.push(index);
                        }
                        store_page(self.view, index, words, true);
                    }
                    Page::Failed(fault) => {
                        match fault {
                            PageFault::StrayBits => stray += 1,
                            _ if named(&header.runs, index) == 0 => unlisted.add(index..index + 1),
                            _ => {}
                        }
                        step!(VerifyPage => failed.add(index..index + 1));
                    }
                }
                Ok(())
            },
            |done| watcher.tell(Step::Opening, geometry.item_of(done * PAGE_BITS), geometry.len()),
        )?;
        Ok(Bottom { granules, good, failed: failed.runs(), whole: whole.runs(), stray, unlisted: unlisted.runs() })
    }

    /// Adds what the intent covers beside words that are wholly dirty.
    fn cover(&mut self, file: MapFile<'_>, intent: &IntentSet, known: &WordRanges) -> Result<Covered> {
        let geometry = &self.header.geometry;
        let (mut pages, mut words, mut whole) = (Stretches::default(), Stretches::default(), Stretches::default());
        intent.pages(|index, page| {
            pages.add(index..index + 1);
            let all = format::page_words(geometry, index);
            if known.contains(all.start) {
                return Ok(()); // Whole pages are.
            }
            if self.allocate.is_none() && is_full(geometry, index, page) {
                whole.add(all.clone());
                words.add(all);
                return Ok(());
            }
            self.prepare(index)?;
            for (w, &word) in all.zip(page) {
                if word & !self.view.live()[w as usize].fetch_or(word, SeqCst) != 0 {
                    words.add(w..w + 1);
                }
            }
            Ok(())
        })?;
        let (items, failed) = (intent.items_beside(&self.header.runs), intent.lost_pages());
        if failed > 0 {
            // Everything is dirty. What its other pages hold says which pages a crash explains.
            points::read_cover(file, self.header, &mut |index, _| {
                pages.add(index..index + 1);
                Ok(())
            })?;
        }
        Ok(Covered { pages: pages.runs(), words: words.runs(), whole: whole.runs(), items, failed })
    }

    /// The page cache is trusted: it says what is dirty, wherever the bottom is behind. Says which pages that may change.
    fn replace(&mut self, good: &[u64], saved: &[SavedPage]) -> Result<WordRanges> {
        for &index in good {
            store_page(self.view, index, &[0; PAGE_WORDS as usize], false);
        }
        for (index, words) in saved {
            self.prepare(*index)?;
            store_page(self.view, *index, words, false);
        }
        let mut pages = WordRanges::from_iter(good.iter().map(|&index| index..index + 1));
        pages.union(&WordRanges::from_iter(saved.iter().map(|&(index, _)| index..index + 1)));
        Ok(pages)
    }

    /// Makes words dirty of which nothing is known.
    fn fill(&mut self, unknown: &WordRanges) -> Result<()> {
        for words in unknown.iter().map(|run| run.range()) {
            (words.start / PAGE_WORDS..words.end.div_ceil(PAGE_WORDS)).try_for_each(|index| self.prepare(index))?;
            let masks = words.clone().map(|w| self.view.geometry().word_mask(w));
            store_unseen(&self.view.live()[words.start as usize..words.end as usize], masks);
        }
        Ok(())
    }

    /// Makes what was stored searchable.
    fn finish(self) {
        self.view.levels().finish(self.extents.runs().iter().map(|r| r.range()));
    }
}

fn store_page(view: &ShmView, index: u64, words: &[u64; PAGE_WORDS as usize], durable: bool) {
    let Range { start, end } = format::page_words(view.geometry(), index);
    let range = start as usize..end as usize;
    store_unseen(&view.live()[range.clone()], *words);
    if durable {
        store_unseen(&view.durable()[range], *words);
    }
}
