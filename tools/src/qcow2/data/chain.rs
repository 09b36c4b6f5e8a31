//! A disk as a chain of qcow2 files has it: each says what it has, and the one below it the rest.
//!
//! Invariant kept here: what a file does not say is asked of the file below it, and behind the end of that one's disk is zeros,
//! whatever is below: as QEMU reads.

use super::super::{Error, ReadAt, Result};
use super::disk::{Disk, Extent};
use std::ops::Range;

/// Files, the lowest first.
#[derive(Debug)]
pub struct Chain<S> {
    disks: Vec<Disk<S>>,
}

impl<S: ReadAt> Chain<S> {
    /// A chain of files: the first has no backing file, each other one has one. Which it names is for the caller to compare
    /// ([`Disk::backing`]).
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn new(disks: Vec<Disk<S>>) -> Result<Chain<S>> {
        for (i, disk) in disks.iter().enumerate() {
            let expected = if i == 0 { "none" } else { "one" };
            if disk.backing().is_some() != (i > 0) {
                let found = if i == 0 { "one" } else { "none" };
                return Err(Error::corrupt("backing file", found, expected));
            }
        }
        Ok(Chain { disks })
    }

    /// Bytes of the disk: that of the highest file.
    pub fn size(&self) -> u64 {
        self.disks.last().map_or(0, Disk::size)
    }

    /// How many files there are.
    pub fn height(&self) -> usize {
        self.disks.len()
    }

    /// What the highest file is read from.
    pub fn top(&self) -> Option<&S> {
        self.disks.last().map(|disk| &disk.source)
    }

    /// The disk with another file on top.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(mut self, disk: Disk<S>) -> Result<Chain<S>> {
        self.disks.push(disk);
        Chain::new(self.disks)
    }

    /// Where the bytes from `range.start` on are: in which file and where in that, or `None` for zeros; and up to where that is
    /// so. Behind the disk's end is zeros.
    ///
    /// # Errors
    /// As [`Disk::extent`].
    pub fn extent(&self, range: Range<u64>) -> Result<(Option<(usize, u64)>, u64)> {
        let (at, mut end) = (range.start, range.end);
        for (i, disk) in self.disks.iter().enumerate().rev() {
            if at >= disk.size() {
                return Ok((None, end));
            }
            let found;
            (found, end) = disk.extent(at..end.min(disk.size()))?;
            match found {
                Extent::Data(offset) => return Ok((Some((i, offset)), end)),
                Extent::Zeros => return Ok((None, end)),
                Extent::Absent => {}
            }
        }
        Ok((None, end))
    }

    /// The first part of `range` of which a file has bytes; `None` if all of it is zeros without any.
    ///
    /// # Errors
    /// As [`Disk::extent`].
    pub fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        let mut at = range.start;
        while at < range.end {
            let (found, end) = self.extent(at..range.end)?;
            if found.is_some() {
                return Ok(Some(at..end));
            }
            at = end;
        }
        Ok(None)
    }

    /// Fills `buffer` with what is at `offset`.
    ///
    /// # Errors
    /// As [`Disk::extent`].
    pub fn read(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        while !buffer.is_empty() {
            let (found, end) = self.extent(offset..offset.saturating_add(buffer.len() as u64))?;
            if end <= offset {
                return Err(Error::corrupt("disk", format!("bytes behind {offset}"), "none"));
            }
            let (now, later) = buffer.split_at_mut((end - offset) as usize);
            match found {
                Some((i, at)) => self.disks[i].read(now, at)?,
                None => now.fill(0),
            }
            (buffer, offset) = (later, end);
        }
        Ok(())
    }
}
