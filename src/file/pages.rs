//! Writing pages of the bottom level together with their page-table entries.
//!
//! Invariant kept here: a page and its entry are parts of the same durable write, and the entry is computed
//! over exactly the bytes that are written.

use super::bottom::{BATCH_PAGES, BottomRef};
use crate::format::{self, ENTRY_BYTES};
use crate::geometry::{Geometry, PAGE_BYTES, PAGE_WORDS};
use crate::query::{Blocks, Search, items_of_granules};
use crate::sys::{Storage, WriteSegment};
use std::io;
use std::ops::Range;

/// The words of a page.
pub(crate) type PageContent = [u64; PAGE_WORDS as usize];

/// Writes some pages (ascending) of a bottom and their entries, durably and with one sync; returns the bytes
/// written.
pub(crate) fn write(
    disk: &dyn Storage,
    to: &BottomRef,
    pages: &[u64],
    content: impl Fn(usize, u64) -> PageContent,
) -> io::Result<u64> {
    let mut bytes = Vec::with_capacity(pages.len() * PAGE_BYTES as usize);
    let mut entries = Vec::with_capacity(pages.len() * ENTRY_BYTES as usize);
    for (k, &index) in pages.iter().enumerate() {
        let page = format::page_from_words(&content(k, index));
        entries.extend(format::page_entry(&to.uuid, index, &page).to_le_bytes());
        bytes.extend(page);
    }
    let mut parts = Vec::new();
    coalesce(&mut parts, pages, to.bottom.start, &bytes, PAGE_BYTES as usize);
    coalesce(&mut parts, pages, to.table.start, &entries, ENTRY_BYTES as usize);
    disk.write_durable(&parts)?;
    Ok((bytes.len() + entries.len()) as u64)
}

/// One part for each stretch of neighbouring items of `size` bytes, item *i* of which belongs at `base + i * size`.
fn coalesce<'a>(parts: &mut Vec<WriteSegment<'a>>, items: &[u64], base: u64, bytes: &'a [u8], size: usize) {
    let mut from = 0; // where the current stretch starts in bytes
    let mut stretch: Option<Range<u64>> = None;
    for (k, &i) in items.iter().enumerate() {
        match &mut stretch {
            Some(s) if s.end == i => s.end += 1,
            other => {
                if let Some(s) = other.replace(i..i + 1) {
                    parts.push(WriteSegment { offset: base + s.start * size as u64, bytes: &bytes[from..k * size] });
                    from = k * size;
                }
            }
        }
    }
    if let Some(s) = stretch {
        parts.push(WriteSegment { offset: base + s.start * size as u64, bytes: &bytes[from..] });
    }
}

/// Dirty granules, counted without loading the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub granules: u64,
    /// Whether the map's last granule, which may be partial, is among them.
    last: bool,
}

impl Count {
    /// Those of the words that the list names.
    pub(crate) fn of_list(bottom: &BottomRef) -> Count {
        let g = &bottom.geometry;
        let bit = |word: u64| (word * 64).min(g.bits());
        let granules = bottom.armed.iter().map(|r| bit(r.end()) - bit(r.first)).sum();
        Count { granules, last: g.bits() > 0 && bottom.armed.contains((g.bits() - 1) / 64) }
    }

    /// Those of a page, except in the words of `besides`.
    pub(crate) fn add(&mut self, g: &Geometry, index: u64, words: &PageContent, besides: u64) {
        for (i, &word) in words.iter().enumerate().filter(|(i, _)| besides & 1 << i == 0) {
            let w = index * PAGE_WORDS + i as u64;
            self.add_word(g, w, word & g.word_mask(w));
        }
    }

    /// Those of a word, which has no stray bits.
    pub(crate) fn add_word(&mut self, g: &Geometry, w: u64, word: u64) {
        self.granules += u64::from(word.count_ones());
        self.last |= g.bits() > 0 && w == (g.bits() - 1) / 64 && word >> ((g.bits() - 1) % 64) & 1 != 0;
    }

    /// Granules and items.
    pub(crate) fn totals(&self, g: &Geometry) -> (u64, u64) {
        (self.granules, items_of_granules(g, self.granules, self.last))
    }

    pub(crate) fn everything(g: &Geometry) -> (u64, u64) {
        (g.bits(), g.len())
    }
}

/// Some pages of a map that are not zero, from a word on, and where to go on.
pub(crate) fn some_pages(map: &impl Search, from: u64) -> (Vec<(u64, PageContent)>, u64) {
    let end = map.geometry().words();
    let mut pages: Vec<(u64, PageContent)> = Vec::new();
    for (w, word) in Blocks::over(map, from..end) {
        let page = w / PAGE_WORDS;
        if pages.last().is_none_or(|last| last.0 != page) {
            if pages.len() == BATCH_PAGES {
                return (pages, page * PAGE_WORDS);
            }
            pages.push((page, [0; PAGE_WORDS as usize]));
        }
        if let Some((_, words)) = pages.last_mut() {
            words[(w % PAGE_WORDS) as usize] = word;
        }
    }
    (pages, end)
}
