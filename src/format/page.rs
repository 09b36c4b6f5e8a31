//! Pages of the bottom level and their entries in the page table.
//!
//! Invariants kept here: an entry of zero stands for a page of zeros and for nothing else; every other entry
//! binds the page's bytes to its place and to its map, so that a page that was lost, misdirected, swapped or
//! came from another file does not match.

use super::codec::{crc32, put_u64, u32_at, u64_at};
use super::{ENTRY_BYTES, Uuid};
use crate::geometry::{Geometry, PAGE_BYTES, PAGE_WORDS};
use std::ops::Range;

/// The bytes of a page.
pub type PageBytes = [u8; PAGE_BYTES as usize];

/// The page-table entry of page `index` of the map `uuid` with these bytes.
pub fn page_entry(uuid: &Uuid, index: u64, page: &PageBytes) -> u32 {
    if page.iter().all(|byte| *byte == 0) {
        return 0;
    }
    crc32(&[&uuid.0, &index.to_le_bytes(), page]).max(1)
}

/// Whether a page is what its entry says.
pub fn page_matches(uuid: &Uuid, index: u64, page: &PageBytes, entry: u32) -> bool {
    page_entry(uuid, index, page) == entry
}

/// Entry `index` of a page table; 0 where the table's bytes have ended.
pub fn entry_at(table: &[u8], index: u64) -> u32 {
    let at = index.saturating_mul(ENTRY_BYTES);
    u32_at(table, usize::try_from(at).unwrap_or(usize::MAX))
}

/// The words of a page's bytes.
pub fn words_from_page(page: &PageBytes) -> [u64; PAGE_WORDS as usize] {
    std::array::from_fn(|i| u64_at(page, 8 * i))
}

/// The bytes of a page's words.
pub fn page_from_words(words: &[u64; PAGE_WORDS as usize]) -> PageBytes {
    let mut page = [0; PAGE_BYTES as usize];
    for (i, word) in words.iter().enumerate() {
        put_u64(&mut page, 8 * i, *word);
    }
    page
}

/// The bottom words of page `index` that the map has; empty behind its end.
pub fn page_words(geometry: &Geometry, index: u64) -> Range<u64> {
    let words = geometry.words();
    let first = index.saturating_mul(PAGE_WORDS).min(words);
    first..first.saturating_add(PAGE_WORDS).min(words)
}

/// Whether page `index` has a bit set that is not one of the map's. Such a page is a failed page.
pub fn stray_bits(geometry: &Geometry, index: u64, words: &[u64; PAGE_WORDS as usize]) -> bool {
    let first = index.saturating_mul(PAGE_WORDS);
    (0..).zip(words).any(|(i, bits)| bits & !geometry.word_mask(first.saturating_add(i)) != 0)
}
