//! Pages of the bottom level and their entries in the page table.
//!
//! Invariants kept here: an entry of zero stands for a page of zeros and for nothing else; every other entry
//! binds the page's bytes to its place and to its map, so that a page that was lost, misdirected, swapped or
//! came from another file does not match.

use super::codec::{crc32, put_u64, u32_at, u64_at};
use super::{ENTRY_BYTES, Uuid};
use crate::geometry::{Geometry, PAGE_BITS, PAGE_BYTES, PAGE_WORDS};
use std::ops::Range;

/// The bytes of a page.
pub type PageBytes = [u8; PAGE_BYTES as usize];

/// The page-table entry of page `index` of the map `uuid` with these bytes.
pub fn page_entry(uuid: &Uuid, index: u64, page: &PageBytes) -> u32 {
    if is_zeros(page) {
        return 0;
    }
    crc32(&[&uuid.0, &index.to_le_bytes(), page]).max(1)
}

/// Whether there is nothing but zeros in some bytes, many of which are looked at at once.
pub(crate) fn is_zeros(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let any = |bytes: &[u8]| bytes.iter().fold(0, |any, byte| any | byte);
    blocks.iter().all(|block| any(block) == 0) && any(rest) == 0
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
    // All pages but the last are the map's as a whole.
    if index.saturating_add(1).saturating_mul(PAGE_BITS) <= geometry.bits() {
        return false;
    }
    let first = index.saturating_mul(PAGE_WORDS);
    (0..).zip(words).any(|(i, bits)| bits & !geometry.word_mask(first.saturating_add(i)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = Uuid([7; 16]);

    #[test]
    fn zero_is_the_entry_of_zeros_and_of_nothing_else() {
        assert_eq!(page_entry(&UUID, 3, &[0; 512]), 0);
        assert!(page_matches(&UUID, 3, &[0; 512], 0));
        assert!(!page_matches(&UUID, 3, &[0; 512], 1));
        let mut page = [0; 512];
        for byte in 0..512 {
            page[byte] = 1;
            assert_ne!(page_entry(&UUID, 3, &page), 0, "byte {byte}");
            page[byte] = 0;
        }
    }

    /// CRC-32 is linear, so that for any page there is a change of its last four bytes that makes the CRC zero.
    #[test]
    fn a_checksum_of_zero_is_stored_as_one() {
        let mut page = [1; 512];
        let crc = |page: &PageBytes| crc32(&[&UUID.0, &5u64.to_le_bytes(), page]);
        // Solve crc(page) = 0 over the 32 bits of its last four bytes.
        page[508..].fill(0);
        let base = crc(&page);
        let mut rows: Vec<(u32, u32)> = (0..32)
            .map(|bit| {
                let mut with = page;
                with[508..].copy_from_slice(&(1u32 << bit).to_le_bytes());
                (crc(&with) ^ base, 1 << bit)
            })
            .collect();
        let (mut rest, mut tail) = (base, 0);
        for bit in (0..32).rev() {
            let i = rows.iter().position(|row| row.0 >> bit & 1 == 1).unwrap();
            let pivot = rows.swap_remove(i);
            for row in rows.iter_mut().filter(|row| row.0 >> bit & 1 == 1) {
                *row = (row.0 ^ pivot.0, row.1 ^ pivot.1);
            }
            if rest >> bit & 1 == 1 {
                (rest, tail) = (rest ^ pivot.0, tail ^ pivot.1);
            }
        }
        page[508..].copy_from_slice(&tail.to_le_bytes());
        assert_eq!(crc(&page), 0);
        assert_eq!(page_entry(&UUID, 5, &page), 1);
        assert!(page_matches(&UUID, 5, &page, 1) && !page_matches(&UUID, 5, &page, 0));
    }

    #[test]
    fn an_entry_binds_map_place_and_every_bit() {
        let mut page: PageBytes = std::array::from_fn(|i| i as u8);
        let entry = page_entry(&UUID, 3, &page);
        assert!(page_matches(&UUID, 3, &page, entry));
        assert!(!page_matches(&UUID, 4, &page, entry));
        assert!(!page_matches(&UUID, 3 | 1 << 63, &page, entry));
        assert!(!page_matches(&Uuid([8; 16]), 3, &page, entry));
        for bit in 0..512 * 8 {
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(!page_matches(&UUID, 3, &page, entry), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }

    /// Fixed by FORMAT.md: the bytes that the checksum covers, and their order.
    #[test]
    fn the_entry_is_the_checksum_of_map_place_and_bytes() {
        let page: PageBytes = std::array::from_fn(|i| i as u8);
        let mut all = UUID.0.to_vec();
        all.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        all.extend(page);
        assert_eq!(page_entry(&UUID, 3, &page), crc32fast::hash(&all));
    }

    #[test]
    fn entries_are_found_by_their_index() {
        let table = [1, 0, 0, 0, 2, 0, 0, 0x80, 3];
        assert_eq!([0, 1, 2, 3, u64::MAX].map(|i| entry_at(&table, i)), [1, 0x8000_0002, 3, 0, 0]);
    }

    #[test]
    fn words_and_bytes_of_a_page_correspond() {
        let words = std::array::from_fn(|i| i as u64 * 0x0102_0304_0506_0708);
        let page = page_from_words(&words);
        assert_eq!(page[8..16], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(words_from_page(&page), words);
    }

    #[test]
    fn bits_behind_the_end_are_stray() {
        // One page and a bit more than two words of the second.
        let geometry = Geometry::new(4096 + 130, 0).unwrap();
        let mut words = [0; 64];
        let mut stray = |page, word: usize, bits| {
            words[word] = bits;
            let stray = stray_bits(&geometry, page, &words);
            words[word] = 0;
            stray
        };
        assert!(!stray(0, 63, !0));
        assert!(!stray(1, 1, !0));
        assert!(!stray(1, 2, 3));
        assert!(stray(1, 2, 4));
        assert!(stray(1, 3, 1));
        assert!(stray(2, 0, 1));
        assert!(stray(u64::MAX, 63, 1) && !stray(u64::MAX, 63, 0));
        assert_eq!(page_words(&geometry, 0), 0..64);
        assert_eq!(page_words(&geometry, 1), 64..67);
        assert!(page_words(&geometry, 2).is_empty() && page_words(&geometry, u64::MAX).is_empty());
        // A map without items has a word without bits.
        let nothing = Geometry::new(0, 0).unwrap();
        assert_eq!(page_words(&nothing, 0), 0..1);
        words[0] = 1;
        assert!(stray_bits(&nothing, 0, &words));
    }
}
