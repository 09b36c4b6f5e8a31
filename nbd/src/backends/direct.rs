//! A file past the page cache.
//!
//! The kernel takes whole blocks of aligned memory only. What is no whole block is read, changed and written.
//!
//! Invariant kept here: whoever changes a part of a block is alone, so that no byte beside it is written back over a newer
//! one. What a file has behind its last whole block goes through the page cache, and nothing else of it does: its length
//! stays as it is.

use rustix::fs::OFlags;
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes that are read or written at once. Each thread has so many.
const PIECE: u64 = 256 << 10;
/// No device has larger blocks than a page of the cache; 4096 is what most have.
const BLOCK: u64 = 4096;

thread_local! {
    static MEMORY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// A page, if that is more than a block: the cache has whole pages.
    block: u64,
    /// Where the last whole block ends.
    whole: u64,
    /// Held alone by who changes a part of a block.
    changes: RwLock<()>,
}

/// Other changes of the same blocks wait.
#[expect(dead_code, reason = "they are held, and not looked at")]
pub(super) enum Apart<'d> {
    Shared(RwLockReadGuard<'d, ()>),
    Alone(RwLockWriteGuard<'d, ()>),
}

impl Direct {
    /// Opens a file that is open once more.
    pub(super) fn open(file: &File, size: u64, writable: bool) -> io::Result<Self> {
        // The name may be another file's by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::DIRECT.bits() as i32;
        let file = OpenOptions::new().read(true).write(writable).custom_flags(flags).open(path)?;
        let block = (rustix::param::page_size() as u64).max(BLOCK);
        let direct = Self { file, block, whole: size - size % block, changes: RwLock::new(()) };
        // Some file systems take the flag, and refuse what is read.
        if direct.whole > 0 {
            direct.pieces(0..1, |_, blocks, at| direct.file.read_exact_at(blocks, at))?;
        }
        Ok(direct)
    }

    fn is_odd(&self, range: &Range<u64>) -> bool {
        let end = range.end.min(self.whole);
        range.start < end && (!range.start.is_multiple_of(self.block) || !end.is_multiple_of(self.block))
    }

    /// Before a range is changed: alone if it has parts of blocks.
    pub(super) fn keep_apart(&self, range: &Range<u64>) -> Apart<'_> {
        match self.is_odd(range) {
            true => Apart::Alone(self.changes.write().unwrap_or_else(PoisonError::into_inner)),
            false => Apart::Shared(self.changes.read().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Has each piece of a range done, with memory for the blocks that it is in, and where these begin.
    fn pieces(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(Range<u64>, &mut [u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        MEMORY.with_borrow_mut(|memory| {
            memory.resize((PIECE + self.block) as usize, 0);
            let aligned = memory.as_ptr().align_offset(self.block as usize);
            let mut at = range.start;
            while at < range.end {
                let piece = at..(at - at % PIECE + PIECE).min(range.end);
                let blocks = piece.start - piece.start % self.block..piece.end.next_multiple_of(self.block);
                let length = (blocks.end - blocks.start) as usize;
                each(piece.clone(), &mut memory[aligned..aligned + length], blocks.start)?;
                at = piece.end;
            }
            Ok(())
        })
    }

    /// Where in the memory of its blocks, and where in all of the data, a piece is.
    fn places(piece: &Range<u64>, blocks: u64, offset: u64) -> [Range<usize>; 2] {
        [blocks, offset].map(|from| (piece.start - from) as usize..(piece.end - from) as usize)
    }

    /// How many of so many bytes are in whole blocks.
    fn direct(&self, offset: u64, length: usize) -> usize {
        self.whole.saturating_sub(offset).min(length as u64) as usize
    }

    pub(super) fn read(&self, cached: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
        let direct = self.direct(offset, into.len());
        self.pieces(offset..offset + direct as u64, |piece, blocks, start| {
            self.file.read_exact_at(blocks, start)?;
            let [from, to] = Self::places(&piece, start, offset);
            into[to].copy_from_slice(&blocks[from]);
            Ok(())
        })?;
        cached.read_exact_at(&mut into[direct..], offset + direct as u64)
    }

    pub(super) fn write(&self, cached: &File, data: &[u8], offset: u64) -> io::Result<()> {
        let _others = self.keep_apart(&(offset..offset + data.len() as u64));
        let direct = self.direct(offset, data.len());
        self.pieces(offset..offset + direct as u64, |piece, blocks, start| {
            if self.is_odd(&piece) {
                self.file.read_exact_at(blocks, start)?;
            }
            let [to, from] = Self::places(&piece, start, offset);
            blocks[to].copy_from_slice(&data[from]);
            self.file.write_all_at(blocks, start)
        })?;
        cached.write_all_at(&data[direct..], offset + direct as u64)
    }
}
