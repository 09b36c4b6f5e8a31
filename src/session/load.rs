//! Filling memory with what a file holds.
//!
//! Invariant kept here: a listed word or a page that does not verify is dirty from here on.

use super::page_cache::SavedPage;
use super::recovery::Recovery;
use crate::engine::point_set::Frozen;
use crate::error::{Error, Result};
use crate::file::bottom::{Stretches, all_words, is_full, items_in, lost_granules, named, pages_of, words_of_pages};
use crate::file::headers::{self, Copies, Newest, damaged_copies, writable};
use crate::file::scan::{Page, PageFault, Scan};
use crate::format::{self, Durability, Header, Layout, Runs, State, VolatileLayout};
use crate::geometry::PAGE_WORDS;
use crate::hierarchy::store_unseen;
use crate::image_stamp::ImageStamp;
use crate::shm::view::View;
use crate::shm::volatile::Allocated;
use crate::sys::{Disk, Mapping};
use crate::weak::{Weak, weak};
use std::ops::Range;
use std::path::Path;

/// A view filled with the recovered bits, and what has to be written to make them durable.
pub(crate) struct Loaded {
    pub view: View,
    /// Words that are wholly dirty and not filled in the view: in a map that is only read.
    pub whole: Runs,
    /// Those of them that are dirty for want of knowledge.
    pub assumed: Runs,
    pub header: Header,
    pub pair: usize,
    pub recovery: Recovery,
    /// The outstanding point.
    pub frozen: Option<Frozen>,
    /// Pages that did not verify.
    pub(super) failed: Runs,
    /// Words that are dirty for want of knowledge.
    pub(super) dirty: Runs,
    /// Pages whose recovered content is not what the bottom holds.
    pub(super) rewrite: Runs,
    pub(super) allocated: Allocated,
}

/// Reads and checks the header, without changing anything. Says what is wrong with its copies.
pub(super) fn header_of(disk: &dyn Disk, path: &Path, writing: bool) -> Result<(Copies, Newest, Recovery)> {
    let copies = headers::read_copies(disk);
    let newest = headers::choose(disk, &copies, path)?;
    if writing {
        writable(&newest.header, path)?;
    }
    let damaged_headers = damaged_copies(&copies, &newest).len() as u64;
    let recovery = Recovery { damaged_headers, lost_commit: newest.lost_commit, ..Recovery::default() };
    Ok((copies, newest, recovery))
}

/// Loads the recovered bits into anonymous memory. Writes nothing.
pub(crate) fn load_in_memory(disk: &dyn Disk, path: &Path, image: Option<&ImageStamp>) -> Result<Loaded> {
    let (_, Newest { header, pair, .. }, recovery) = header_of(disk, path, false)?;
    let v = VolatileLayout::new(&header.geometry);
    let mapping = Mapping::anonymous(v.length).map_err(|_| Error::OutOfMemory { bytes: v.length })?;
    let view = View::new(header.geometry, &v, mapping)?;
    load(disk, path, (header, pair, recovery), view, image, None, None)
}

/// Sees that storing into some words of the volatile part cannot fail.
type Allocate<'a> = &'a mut dyn FnMut(&Layout, Range<u64>) -> Result<()>;

/// Fills an all-zero view from the durable bottom; for who writes (which is who allocates) also with what is dirty for want
/// of knowledge. A reader keeps that as runs, and so takes no more memory than goes with what the file holds.
pub(super) fn load(
    disk: &dyn Disk,
    path: &Path,
    (header, pair, mut recovery): (Header, usize, Recovery),
    view: View,
    image: Option<&ImageStamp>,
    saved: Option<Vec<SavedPage>>,
    mut allocate: Option<Allocate<'_>>,
) -> Result<Loaded> {
    let (geometry, writing) = (header.geometry, allocate.is_some());
    recovery.unclean = header.state == State::Open;
    recovery.image_changed = image.and_then(|now| now.changed_since(header.image));
    let process = header.durability == Durability::Process && recovery.unclean;
    recovery.cache_trusted = process.then_some(saved.is_some());
    let mut granules = 0;

    let mut pages: Vec<Range<u64>> = Vec::new();
    let mut good: Vec<u64> = Vec::new();
    let (mut failed, mut whole) = (Stretches::default(), Stretches::default());
    let mut trouble = Ok(());
    let mut prepare = |index: u64| -> bool {
        if trouble.is_ok() {
            let words = format::page_words(&geometry, index);
            trouble = allocate.as_mut().map_or(Ok(()), |allocate| allocate(&header.layout, words.clone()));
            match pages.last_mut() {
                Some(last) if last.end == words.start => last.end = words.end,
                _ => pages.push(words),
            }
        }
        trouble.is_ok()
    };
    let scan = Scan { disk, path, header: &header };
    scan.run(
        |index, found| match found {
            Page::Good(words) => {
                granules += words.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
                if !writing && is_full(&geometry, index, words) {
                    whole.add(format::page_words(&geometry, index));
                } else if prepare(index) {
                    if saved.is_some() {
                        good.push(index);
                    }
                    store_page(&view, index, words, true);
                }
            }
            Page::Failed(fault) => {
                let named = named(&header.runs, index) != 0;
                if named && fault != PageFault::StrayBits {
                    recovery.interrupted_pages += 1;
                } else {
                    recovery.damaged_pages += 1;
                }
                if !weak(Weak::IgnoreMismatch) {
                    failed.add(index..index + 1);
                }
            }
        },
        |_| {},
    )?;
    let (failed, mut whole) = (failed.runs(), whole.runs());
    recovery.lost_granules = lost_granules(&header, granules, failed.words()).filter(|_| !weak(Weak::IgnoreLost));
    let lost = recovery.lost_granules.is_some() || recovery.lost_commit;
    let dirty = if recovery.image_changed.is_some() || lost {
        all_words(&geometry)
    } else if saved.is_some() || weak(Weak::IgnoreList) {
        Runs::new()
    } else {
        header.runs.clone()
    };
    recovery.armed_items = if saved.is_some() { 0 } else { items_in(&geometry, &header.runs) };
    let (mut rewrite, mut assumed) = (failed.clone(), dirty.clone());
    match saved {
        // The page cache is trusted: it says what is dirty, wherever the bottom is behind.
        Some(saved) => {
            for &index in &good {
                store_page(&view, index, &[0; PAGE_WORDS as usize], false);
            }
            rewrite.union(&Runs::from_iter(good.iter().map(|&index| index..index + 1)));
            for (index, words) in &saved {
                if prepare(*index) {
                    store_page(&view, *index, words, false);
                }
            }
            rewrite.union(&Runs::from_iter(saved.iter().map(|&(index, _)| index..index + 1)));
        }
        None => assumed.union(&words_of_pages(&geometry, &failed)),
    }
    rewrite.union(&pages_of(&dirty));
    if writing {
        for run in std::mem::take(&mut assumed).iter() {
            let words = run.range();
            if (words.start / PAGE_WORDS..words.end.div_ceil(PAGE_WORDS)).all(&mut prepare) {
                fill(&view, words);
            }
        }
    }
    whole.union(&assumed);
    trouble?;
    let frozen = Frozen::outstanding(disk, path, &header)?;
    recovery.damaged_pages += frozen.as_ref().map_or(0, Frozen::failed);
    let extents = Runs::from_iter(pages);
    view.levels().finish(extents.iter().map(|r| r.range()));
    let allocated = Allocated::default();
    Ok(Loaded { view, whole, assumed, header, pair, recovery, frozen, failed, dirty, rewrite, allocated })
}

fn store_page(view: &View, index: u64, words: &[u64; PAGE_WORDS as usize], durable: bool) {
    let Range { start, end } = format::page_words(view.geometry(), index);
    let range = start as usize..end as usize;
    store_unseen(&view.live()[range.clone()], *words);
    if durable {
        store_unseen(&view.durable()[range], *words);
    }
}

fn fill(view: &View, words: Range<u64>) {
    let masks = words.clone().map(|w| view.geometry().word_mask(w));
    store_unseen(&view.live()[words.start as usize..words.end as usize], masks);
}
