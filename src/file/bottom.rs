//! What a header and its page table say of words and pages: the arithmetic of the bottom level.

use super::pages::PageContent;
use crate::format::{self, Header, State, WordRanges, free_offset};
use crate::geometry::{Geometry, PAGE_BITS, PAGE_WORDS, mask_in};
use std::ops::Range;

pub(crate) fn all_words(geometry: &Geometry) -> WordRanges {
    WordRanges::one(0..geometry.words())
}

/// Items behind the words that some runs name.
pub(crate) fn items_in(geometry: &Geometry, runs: &WordRanges) -> u64 {
    let bit = |w: u64| (w * 64).min(geometry.bits());
    runs.iter().map(|r| geometry.items_of(&(bit(r.first)..bit(r.end())))).map(|items| items.end - items.start).sum()
}

/// Whether a cleanly closed map, or a point, with so many dirty granules in good pages, and so many failed pages, must have lost
/// a page together with its entry: dirty granules found and recorded. A failed page may hide one that was lost so.
pub(crate) fn lost_granules(header: &Header, granules: u64, failed_pages: u64) -> Option<(u64, u64)> {
    let at_most = granules.saturating_add(failed_pages.saturating_mul(PAGE_BITS));
    let closed = header.state == State::Clean && header.runs.is_empty();
    (closed && at_most < header.clean_dirty_bits).then_some((granules, header.clean_dirty_bits))
}

/// The pages that some words are in.
pub(crate) fn pages_of(words: &WordRanges) -> WordRanges {
    WordRanges::from_iter(words.iter().map(|r| r.first / PAGE_WORDS..r.end().div_ceil(PAGE_WORDS)))
}

/// The words of some pages.
pub(crate) fn words_of_pages(geometry: &Geometry, pages: &WordRanges) -> WordRanges {
    WordRanges::from_iter(pages.iter().map(|r| r.first * PAGE_WORDS..(r.end() * PAGE_WORDS).min(geometry.words())))
}

/// Pages, as many as are written together: 8 MiB of them.
pub(crate) fn batches(pages: &WordRanges) -> impl Iterator<Item = Vec<u64>> {
    const BATCH: usize = 16384;
    let mut left = pages.iter().flat_map(|r| r.range()).peekable();
    std::iter::from_fn(move || left.peek().is_some().then(|| left.by_ref().take(BATCH).collect()))
}

/// The words of a page that a list names, as bits.
pub(crate) fn named(list: &WordRanges, page: u64) -> u64 {
    let words = page * PAGE_WORDS..(page + 1) * PAGE_WORDS;
    list.within(words.clone()).fold(0, |mask, run| mask | mask_in(page, &run.range()))
}

/// Whether a map has bits in a page, and all of them are set.
pub(crate) fn is_full(geometry: &Geometry, index: u64, words: &PageContent) -> bool {
    let full = |(w, word): (u64, &u64)| !word & geometry.word_mask(w) == 0;
    index < geometry.pages() && format::page_words(geometry, index).zip(words).all(full)
}

/// Ascending ranges, of which those that touch are one.
#[derive(Default)]
pub(crate) struct Stretches(Vec<Range<u64>>);

impl Stretches {
    pub(crate) fn add(&mut self, range: Range<u64>) {
        match self.0.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.0.push(range),
        }
    }

    pub(crate) fn runs(self) -> WordRanges {
        WordRanges::from_iter(self.0)
    }
}

/// A region of this length in space that is not taken; it is from now on.
pub(crate) fn place(taken: &mut Vec<Range<u64>>, length: u64) -> Range<u64> {
    let start = free_offset(taken.iter().cloned(), length);
    taken.push(start..start + length);
    start..start + length
}
