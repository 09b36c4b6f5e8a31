//! Reading the durable bottom page by page, each checked against its page-table entry.
//!
//! Invariant kept here: words are handed out only of pages that match their entries; every other page
//! is reported as failed, with what was found. Time and I/O go with the allocated pages, memory is bounded.

use crate::error::{Error, Result};
use crate::format::{self, ENTRY_BYTES, Header, PageBytes};
use crate::geometry::{PAGE_BYTES, PAGE_WORDS};
use crate::sys::Disk;
use crate::weak::{Weak, weak};
use std::ops::Range;
use std::path::Path;

/// Pages read together: 8 MiB of the bottom.
pub(crate) const CHUNK_PAGES: u64 = 16384;
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

/// Where a bottom and its page table lie.
pub(crate) struct Scan<'a> {
    pub disk: &'a dyn Disk,
    pub path: &'a Path,
    pub header: &'a Header,
}

impl Scan<'_> {
    /// Calls `f` for every page that is not all zeros, ascending, and `progress` with the pages passed so far.
    pub(crate) fn run(&self, mut f: impl FnMut(u64, Page<'_>), mut progress: impl FnMut(u64)) -> Result<()> {
        let pages = self.header.geometry.pages();
        let mut at = 0;
        while at < pages {
            let Some(first) = self.next_chunk(at)? else { break };
            let chunk = first..(first + CHUNK_PAGES).min(pages);
            self.chunk(chunk.clone(), &mut f)?;
            at = chunk.end;
            progress(at);
        }
        Ok(())
    }

    /// One page, read by itself.
    pub(crate) fn page(&self, index: u64) -> std::result::Result<[u64; PAGE_WORDS as usize], PageFault> {
        let mut entry = [0; ENTRY_BYTES as usize];
        let at = self.header.layout.table.start + index * ENTRY_BYTES;
        self.disk.read_at(&mut entry, at).map_err(|_| PageFault::EntryUnreadable)?;
        let mut bytes = [0; PAGE_BYTES as usize];
        let at = self.header.layout.bottom.start + index * PAGE_BYTES;
        self.disk.read_at(&mut bytes, at).map_err(|_| PageFault::Unreadable)?;
        self.judge(index, u32::from_le_bytes(entry), &bytes)
    }

    fn judge(
        &self,
        index: u64,
        entry: u32,
        bytes: &PageBytes,
    ) -> std::result::Result<[u64; PAGE_WORDS as usize], PageFault> {
        let computed = format::page_entry(&self.header.uuid, index, bytes);
        if entry != computed {
            return Err(PageFault::Mismatch { entry, computed });
        }
        let words = format::words_from_page(bytes);
        if format::stray_bits(&self.header.geometry, index, &words) && !weak(Weak::IgnoreStray) {
            return Err(PageFault::StrayBits);
        }
        Ok(words)
    }

    /// The first page at or after `at` whose chunk is worth reading.
    pub(crate) fn next_chunk(&self, at: u64) -> Result<Option<u64>> {
        let layout = &self.header.layout;
        if layout.table.end - layout.table.start <= WHOLE_TABLE_BYTES {
            return Ok(Some(at));
        }
        let find = |region: &Range<u64>, size: u64| -> Result<Option<u64>> {
            let data = self.next_data(region.start + at * size..region.end)?;
            Ok(data.map(|d| ((d.start - region.start) / size).max(at)))
        };
        let table = find(&layout.table, ENTRY_BYTES)?;
        let bottom = find(&layout.bottom, PAGE_BYTES)?;
        let first = [table, bottom].into_iter().flatten().min();
        Ok(first.filter(|&p| p < self.header.geometry.pages()))
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        let path = self.path.to_path_buf();
        self.disk.next_data(range).map_err(|source| Error::Io { op: "look for data", path, source })
    }

    /// Calls `f` for those of some pages, [`CHUNK_PAGES`] at most, that are not all zeros, ascending.
    pub(crate) fn chunk(&self, pages: Range<u64>, f: &mut impl FnMut(u64, Page<'_>)) -> Result<()> {
        let count = (pages.end - pages.start) as usize;
        let mut table = vec![0; count * ENTRY_BYTES as usize];
        let at = self.header.layout.table.start + pages.start * ENTRY_BYTES;
        let whole = self.disk.read_at(&mut table, at).is_ok();
        let mut bytes: Vec<u8> = Vec::new();
        let mut read = 0..0; // pages that `bytes` holds
        let mut next = pages.start;
        while next < pages.end {
            if !read.contains(&next) {
                read = self.read_extent(next..pages.end, &mut bytes)?;
            }
            // Pages before the extent are holes: zeros, unless their entries say otherwise.
            for index in next..read.start.min(pages.end) {
                let entry = format::entry_at(&table, index - pages.start);
                if entry != 0 || !whole {
                    self.single(index, f);
                }
            }
            for index in read.clone() {
                let i = (index - read.start) as usize * PAGE_BYTES as usize;
                let page = bytes.get(i..i + PAGE_BYTES as usize).and_then(|b| <&PageBytes>::try_from(b).ok());
                match page {
                    Some(page) if whole => {
                        let entry = format::entry_at(&table, index - pages.start);
                        if entry == 0 && format::is_zeros(page) {
                            continue;
                        }
                        report(index, self.judge(index, entry, page), f);
                    }
                    _ => self.single(index, f),
                }
            }
            next = read.end.max(next + 1);
        }
        Ok(())
    }

    /// Reads the first extent with data among `pages`. An extent that cannot be read leaves `bytes` empty, and
    /// its pages are then read one by one.
    fn read_extent(&self, pages: Range<u64>, bytes: &mut Vec<u8>) -> Result<Range<u64>> {
        let base = self.header.layout.bottom.start;
        bytes.clear();
        let Some(data) = self.next_data(base + pages.start * PAGE_BYTES..base + pages.end * PAGE_BYTES)? else {
            return Ok(pages.end..pages.end);
        };
        let first = ((data.start - base) / PAGE_BYTES).max(pages.start);
        let end = (data.end - base).div_ceil(PAGE_BYTES).clamp(first + 1, pages.end);
        bytes.resize(((end - first) * PAGE_BYTES) as usize, 0);
        if self.disk.read_at(bytes, base + first * PAGE_BYTES).is_err() {
            bytes.clear();
        }
        Ok(first..end)
    }

    fn single(&self, index: u64, f: &mut impl FnMut(u64, Page<'_>)) {
        let page = self.page(index);
        if !matches!(&page, Ok(words) if words.iter().all(|&w| w == 0)) {
            report(index, page, f);
        }
    }
}

fn report(
    index: u64,
    page: std::result::Result<[u64; PAGE_WORDS as usize], PageFault>,
    f: &mut impl FnMut(u64, Page<'_>),
) {
    match page {
        Ok(words) => f(index, Page::Good(&words)),
        Err(fault) => f(index, Page::Failed(fault)),
    }
}
