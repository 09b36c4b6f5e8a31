//! [`BottomRef`]: a bottom level with its page table, and the arithmetic of words and pages.
//!
//! Invariant kept here: a point is read as strictly as a map that was closed.

use crate::format::{self, ENTRY_BYTES, Header, Layout, Point, State, Uuid, WordRanges, free_offset};
use crate::geometry::{Geometry, PAGE_BITS, PAGE_WORDS, mask_in};
use std::ops::Range;

/// A bottom level with its page table: the map's own, or that of a point.
#[derive(Clone, Debug)]
pub(crate) struct BottomRef {
    /// What the entries of its pages are made with.
    pub uuid: Uuid,
    pub geometry: Geometry,
    /// Where its page table is in the file.
    pub table: Range<u64>,
    /// Where its pages are.
    pub bottom: Range<u64>,
    /// Words that count as dirty, whatever its pages say.
    pub armed: WordRanges,
    /// Pages of which a crash may have left any, beside those that have such words.
    pub covered: WordRanges,
    /// Bits that are set in it, at least, if they were counted when all of it had been written.
    pub expected_bits: Option<u64>,
}

impl BottomRef {
    /// The map's own, of which nothing else is known.
    pub(crate) fn new(uuid: Uuid, geometry: Geometry, layout: &Layout) -> BottomRef {
        let (table, bottom) = (layout.table.clone(), layout.bottom.clone());
        let (armed, covered) = (WordRanges::new(), WordRanges::new());
        BottomRef { uuid, geometry, table, bottom, armed, covered, expected_bits: None }
    }

    /// The map's own, as its header knows it.
    pub(crate) fn of_map(header: &Header) -> BottomRef {
        let closed = header.state == State::Clean && header.runs.is_empty();
        BottomRef {
            armed: header.runs.clone(),
            expected_bits: closed.then_some(header.clean_dirty_bits),
            ..BottomRef::new(header.uuid, header.geometry, &header.layout)
        }
    }

    /// That of a point. It was complete before it was named, like a map that was closed.
    pub(crate) fn of_point(geometry: &Geometry, point: &Point) -> BottomRef {
        BottomRef {
            uuid: point.uuid,
            geometry: *geometry,
            table: point.table(geometry),
            bottom: point.bottom(geometry),
            armed: WordRanges::new(),
            covered: WordRanges::new(),
            expected_bits: Some(step!(CountPoint => point.granules)),
        }
    }

    /// Where the entries of its page table end.
    pub(crate) fn entries_end(&self) -> u64 {
        entries_end(self.table.start, &self.geometry)
    }

    /// Whether it must have lost a page together with its entry, if its good pages have so many bits, and so many others fail:
    /// bits found and expected. A failed page may hide one that was lost so.
    pub(crate) fn lost(&self, granules: u64, failed_pages: u64) -> Option<(u64, u64)> {
        let at_most = granules.saturating_add(failed_pages.saturating_mul(PAGE_BITS));
        self.expected_bits.filter(|&expected| at_most < expected).map(|expected| (granules, expected))
    }
}

/// Where the entries of a page table end that begins there.
pub(crate) fn entries_end(table: u64, geometry: &Geometry) -> u64 {
    table.saturating_add(ENTRY_BYTES.saturating_mul(geometry.pages()))
}

/// All words of a map.
pub(crate) fn all_words(geometry: &Geometry) -> WordRanges {
    WordRanges::one(0..geometry.words())
}

/// Items behind the words that some runs name.
pub(crate) fn items_in(geometry: &Geometry, runs: &WordRanges) -> u64 {
    let bit = |w: u64| (w * 64).min(geometry.bits());
    runs.iter().map(|r| geometry.items_of(&(bit(r.first)..bit(r.end())))).map(|items| items.end - items.start).sum()
}

/// The pages that some words are in.
pub(crate) fn pages_of(words: &WordRanges) -> WordRanges {
    WordRanges::from_iter(words.iter().map(|r| r.first / PAGE_WORDS..r.end().div_ceil(PAGE_WORDS)))
}

/// The words of some pages.
pub(crate) fn words_of_pages(geometry: &Geometry, pages: &WordRanges) -> WordRanges {
    WordRanges::from_iter(pages.iter().map(|r| r.first * PAGE_WORDS..(r.end() * PAGE_WORDS).min(geometry.words())))
}

/// Pages that are written with one sync: 8 MiB of them.
pub(crate) const BATCH_PAGES: usize = 16384;

/// Pages, as many as are written together.
pub(crate) fn batches(pages: &WordRanges) -> impl Iterator<Item = Vec<u64>> {
    let mut left = pages.iter().flat_map(|r| r.range()).peekable();
    std::iter::from_fn(move || left.peek().is_some().then(|| left.by_ref().take(BATCH_PAGES).collect()))
}

/// The words of a page that a list names, as bits.
pub(crate) fn named(list: &WordRanges, page: u64) -> u64 {
    let words = page * PAGE_WORDS..(page + 1) * PAGE_WORDS;
    list.within(words.clone()).fold(0, |mask, run| mask | mask_in(page, &run.range()))
}

/// A page of which all bits are set that the map has.
pub(crate) fn full_page(geometry: &Geometry, index: u64) -> [u64; PAGE_WORDS as usize] {
    std::array::from_fn(|i| geometry.word_mask(index * PAGE_WORDS + i as u64))
}

/// Whether a map has bits in a page, and all of them are set.
pub(crate) fn is_full(geometry: &Geometry, index: u64, words: &[u64; PAGE_WORDS as usize]) -> bool {
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
