//! Reading the durable bottom page by page, each checked against its page-table entry.
//!
//! Invariant kept here: words are handed out only of pages that match their entries; every other page
//! is reported as failed, with what was found. Time and I/O go with the allocated pages, memory is bounded.

use super::bottom::BottomRef;
use crate::error::Result;
use crate::format::{self, ENTRY_BYTES, PageBytes};
use crate::geometry::{PAGE_BYTES, PAGE_WORDS};
use crate::map_file::MapFile;
use std::ops::Range;

/// Pages whose entries are read together: 64 KiB of the page table.
const CHUNK_PAGES: u64 = 16384;
/// Pages read together at most: 256 KiB of the bottom, which a processor's cache holds until they are checked.
const EXTENT_PAGES: u64 = 512;
/// Pages, and entries, that file systems have in one block.
const BLOCK_PAGES: u64 = 4096 / PAGE_BYTES;
const BLOCK_ENTRIES: u64 = 4096 / ENTRY_BYTES;
/// A page table up to this size is read whole, so that no page with an entry can hide in a hole that the
/// file system only claims to be one.
const WHOLE_TABLE_BYTES: u64 = 16 << 20;

/// Why a page cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageFault {
    /// It does not match its page-table entry.
    Mismatch {
        /// The entry in the table.
        entry: u32,
        /// The entry that the page's bytes would have.
        computed: u32,
    },
    /// The device does not give it back.
    Unreadable,
    /// Its entry cannot be read.
    EntryUnreadable,
    /// It matches, but has bits past the end of the map.
    StrayBits,
}

impl PageFault {
    /// Whether the same is wrong, whatever the bytes are.
    pub(crate) fn is_like(&self, other: &PageFault) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// What a page of the bottom turned out to be. Pages of zeros are not reported.
pub(crate) enum Page<'a> {
    /// It matches its entry.
    Good(&'a [u64; PAGE_WORDS as usize]),
    /// It does not, and counts as all dirty.
    Failed(PageFault),
}

/// Pages that were read together; if that failed, they are to be read one by one.
struct Extent {
    pages: Range<u64>,
    unreadable: bool,
}

/// The reading of a bottom.
pub(crate) struct Scan<'a> {
    pub file: MapFile<'a>,
    pub bottom: &'a BottomRef,
}

impl Scan<'_> {
    /// Calls `f` for every page that is not all zeros, ascending, and `progress` with the pages passed so far. An error of either
    /// ends it.
    pub(crate) fn run(
        &self,
        mut f: impl FnMut(u64, Page<'_>) -> Result<()>,
        mut progress: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let mut chunk = 0..0;
        while let Some(next) = self.next_chunk(&chunk)? {
            chunk = next;
            self.chunk(chunk.clone(), &mut f)?;
            progress(chunk.end)?;
        }
        Ok(())
    }

    /// One page, read by itself.
    pub(crate) fn page(&self, index: u64) -> std::result::Result<[u64; PAGE_WORDS as usize], PageFault> {
        let mut entry = [0; ENTRY_BYTES as usize];
        let at = self.bottom.table.start + index * ENTRY_BYTES;
        self.file.disk.read_at(&mut entry, at).map_err(|_| PageFault::EntryUnreadable)?;
        let mut bytes = [0; PAGE_BYTES as usize];
        let at = self.bottom.bottom.start + index * PAGE_BYTES;
        self.file.disk.read_at(&mut bytes, at).map_err(|_| PageFault::Unreadable)?;
        self.judge(index, u32::from_le_bytes(entry), &bytes)
    }

    fn judge(
        &self,
        index: u64,
        entry: u32,
        bytes: &PageBytes,
    ) -> std::result::Result<[u64; PAGE_WORDS as usize], PageFault> {
        let computed = format::page_entry(&self.bottom.uuid, index, bytes);
        if entry != computed {
            return Err(PageFault::Mismatch { entry, computed });
        }
        let words = format::words_from_page(bytes);
        if step!(CheckStrayBits => format::stray_bits(&self.bottom.geometry, index, &words)) {
            return Err(PageFault::StrayBits);
        }
        Ok(words)
    }

    /// The next pages that are worth reading behind those that were `read` before, [`CHUNK_PAGES`] at most. Those between are zeros.
    pub(crate) fn next_chunk(&self, read: &Range<u64>) -> Result<Option<Range<u64>>> {
        let (at, pages) = (self.bottom, self.bottom.geometry.pages());
        let chunk = if at.table.end - at.table.start <= WHOLE_TABLE_BYTES {
            read.end..read.end + CHUNK_PAGES
        } else {
            let table = self.data_start(&at.table, ENTRY_BYTES, read.end..pages)?;
            let bottom = self.data_start(&at.bottom, PAGE_BYTES, read.end..pages)?;
            ahead(table.min(bottom), read, BLOCK_ENTRIES, CHUNK_PAGES)
        };
        Ok((chunk.start < pages).then(|| chunk.start..chunk.end.min(pages)))
    }

    /// The first of some pages that has data in a region with `size` bytes for each; their end if none has.
    fn data_start(&self, region: &Range<u64>, size: u64, pages: Range<u64>) -> Result<u64> {
        let start = self.file.disk.data_start(region.start + pages.start * size..region.start + pages.end * size);
        let first =
            start.map_err(self.file.io("look for data"))?.map_or(pages.end, |start| (start - region.start) / size);
        Ok(first.clamp(pages.start, pages.end))
    }

    /// Calls `f` for those of some pages, [`CHUNK_PAGES`] at most, that are not all zeros, ascending.
    pub(crate) fn chunk(&self, pages: Range<u64>, f: &mut impl FnMut(u64, Page<'_>) -> Result<()>) -> Result<()> {
        let count = (pages.end - pages.start) as usize;
        let mut table = vec![0; count * ENTRY_BYTES as usize];
        let at = self.bottom.table.start + pages.start * ENTRY_BYTES;
        let whole = self.file.disk.read_at(&mut table, at).is_ok();
        let entry = |index: u64| format::entry_at(&table, index - pages.start);
        let mut bytes: Vec<u8> = Vec::new();
        let mut read = pages.start..pages.start;
        while read.end < pages.end {
            let next = read.end;
            let extent = self.read_extent(&read, pages.end, &mut bytes)?;
            // Pages before the extent are holes: zeros, unless their entries say otherwise.
            let [from, to] = [next, extent.pages.start].map(|index| ((index - pages.start) * ENTRY_BYTES) as usize);
            if !(whole && format::is_zeros(&table[from..to])) {
                for index in next..extent.pages.start {
                    if entry(index) != 0 || !whole {
                        self.single(index, f)?;
                    }
                }
            }
            for (index, page) in extent.pages.clone().zip(bytes.as_chunks().0) {
                if !whole || extent.unreadable {
                    self.single(index, f)?;
                } else if entry(index) != 0 || !format::is_zeros(page) {
                    report(index, self.judge(index, entry(index), page), f)?;
                }
            }
            read = extent.pages;
        }
        Ok(())
    }

    /// Reads some pages into `bytes`, where there is data behind the pages that were `read` before; none at `end` if there is not.
    fn read_extent(&self, read: &Range<u64>, end: u64, bytes: &mut Vec<u8>) -> Result<Extent> {
        let bottom = &self.bottom.bottom;
        let first = self.data_start(bottom, PAGE_BYTES, read.end..end)?;
        let pages = first..ahead(first, read, BLOCK_PAGES, EXTENT_PAGES).end.min(end);
        let len = ((pages.end - pages.start) * PAGE_BYTES) as usize;
        if bytes.len() < len {
            bytes.resize(len, 0);
        }
        let unreadable = self.file.disk.read_at(&mut bytes[..len], bottom.start + first * PAGE_BYTES).is_err();
        Ok(Extent { pages, unreadable })
    }

    fn single(&self, index: u64, f: &mut impl FnMut(u64, Page<'_>) -> Result<()>) -> Result<()> {
        match self.page(index) {
            Ok(words) if words.iter().all(|&w| w == 0) => Ok(()),
            page => report(index, page, f),
        }
    }
}

/// How much is read from `first` on, where data begins: the rest of its `block`, and twice as much each time that the data
/// goes on behind what was `read` before. To ask where it ends would cost more than reading a bit of the hole behind it.
fn ahead(first: u64, read: &Range<u64>, block: u64, most: u64) -> Range<u64> {
    let count = if first == read.end { 2 * (read.end - read.start) } else { 0 };
    first..first + count.clamp(block - first % block, most)
}

fn report(
    index: u64,
    page: std::result::Result<[u64; PAGE_WORDS as usize], PageFault>,
    f: &mut impl FnMut(u64, Page<'_>) -> Result<()>,
) -> Result<()> {
    match page {
        Ok(words) => f(index, Page::Good(&words)),
        Err(fault) => f(index, Page::Failed(fault)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Durability, Header, Uuid};
    use crate::geometry::Geometry;
    use crate::sim::content::Rng;
    use crate::sys::FileDisk;
    use std::collections::BTreeMap;
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    /// Whatever is where in a sparse file: every page that is not all zeros is found once, in order, also one with an entry in a
    /// hole of the bottom, and one with data in a hole of the page table.
    #[test]
    fn every_page_with_data_or_an_entry_is_found_once() {
        // A page table that is read whole, and one that is read where it has data.
        for bits in [1u64 << 30, 1 << 36] {
            let header = Header::new(Uuid([7; 16]), Geometry::new(bits, 0).unwrap(), Durability::PowerLoss);
            let (layout, pages) = (&header.layout, header.geometry.pages());
            let file = tempfile::tempfile().unwrap();
            file.set_len(header.file_length()).unwrap();
            let mut rng = Rng(bits);
            // Of each page with anything, its first word, if it matches its entry.
            let mut expected = BTreeMap::new();
            for i in 0..120 {
                // At both ends, close to each other, and all over the map; alone and in stretches.
                let first = match i {
                    0 => 0,
                    1 => pages - 3,
                    _ => rng.below(if i % 3 == 0 { 40_000 } else { pages }),
                };
                let count = 1 + rng.below(if i % 7 == 0 { 3000 } else { 3 });
                for index in first..(first + count).min(pages) {
                    let (has_page, has_entry) = (i % 5 != 0, i % 5 != 1);
                    if expected.contains_key(&index) {
                        continue;
                    }
                    expected.insert(index, (has_page && has_entry).then_some(index + 1));
                    let page = format::page_from_words(&std::array::from_fn(|i| index + i as u64 + 1));
                    let entry = format::page_entry(&header.uuid, index, &page).to_le_bytes();
                    if has_page {
                        file.write_all_at(&page, layout.bottom.start + index * PAGE_BYTES).unwrap();
                    }
                    if has_entry {
                        file.write_all_at(&entry, layout.table.start + index * ENTRY_BYTES).unwrap();
                    }
                }
            }
            let disk = FileDisk::new(file, false);
            let scan = Scan { file: MapFile::new(&disk, Path::new("map")), bottom: &BottomRef::of_map(&header) };
            let (mut found, mut passed) = (Vec::new(), 0);
            let add = |index, page: Page<'_>| {
                found.push(match page {
                    Page::Good(words) => (index, Some(words[0])),
                    Page::Failed(fault) => {
                        assert!(matches!(fault, PageFault::Mismatch { .. }), "{fault:?}");
                        (index, None)
                    }
                });
                Ok(())
            };
            let progress = |done| {
                assert!(passed < done && done <= pages);
                passed = done;
                Ok(())
            };
            scan.run(add, progress).unwrap();
            assert!(found == expected.into_iter().collect::<Vec<_>>(), "{bits} bits");
        }
    }

    #[test]
    fn what_is_read_at_once_doubles_while_data_goes_on() {
        assert_eq!(ahead(0, &(0..0), 8, 512), 0..8);
        assert_eq!(ahead(13, &(0..8), 8, 512), 13..16);
        assert_eq!(ahead(16, &(13..16), 8, 512), 16..24);
        assert_eq!(ahead(24, &(16..24), 8, 512), 24..40);
        assert_eq!(ahead(1000, &(600..1000), 8, 512), 1000..1512);
    }
}
