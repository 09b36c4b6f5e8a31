//! A raw image or a block device.
//!
//! Invariant kept here: a write that asks for it is durable before it is acknowledged, and so is everything that was
//! acknowledged before a flush. All connections share one file, so that this holds across them. What is called a hole was
//! one when it was asked for.

use super::direct::Direct;
use crate::backend::{Backend, Extents, Features, Zeroes};
use crate::codec::values::allocation;
use crate::failure::{Errno, Failure};
use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::Errno as Os;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A raw image, or a block device, as an export. No locks are taken: nobody else may write to it meanwhile.
#[derive(Debug)]
pub struct FileBackend {
    file: File,
    size: u64,
    writable: bool,
    description: String,
    /// Past the page cache.
    direct: Option<Direct>,
    /// Start and end of data that was found last. A hole in it is read like data, which is right as well, so that it does
    /// not matter whether the two belong together.
    data: [AtomicU64; 2],
}

/// Zeroes as they are written where the file system has no better way.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

impl FileBackend {
    /// Opens a file, for writing too or not. It has to have its size already.
    pub fn open(path: &Path, writable: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(writable).open(path)?;
        Self::from_file(file, writable)
    }

    /// Takes a file that is open, for writing too if `writable`.
    pub fn from_file(mut file: File, writable: bool) -> io::Result<Self> {
        // Of a block device, the metadata have no size.
        let size = file.seek(io::SeekFrom::End(0))?;
        let (description, direct, data) = Default::default();
        Ok(Self { file, size, writable, description, direct, data })
    }

    /// Has data read and written past the page cache (`O_DIRECT`), which is not asked of clients: what they send in other
    /// pieces than a disk's blocks is put together here. An error if the file system, or the device, cannot do it.
    pub fn directly(self) -> io::Result<Self> {
        let direct = Some(Direct::open(&self.file, self.size, self.writable)?);
        Ok(Self { direct, ..self })
    }

    /// Describes the export for people.
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// The stretch of data that begins at `at` or is the next one behind it, cut at `end`. Where a file system knows no
    /// holes, all is data.
    fn data(&self, at: u64, end: u64) -> Option<Range<u64>> {
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(start) if start < end => start,
            Ok(_) => return None,
            Err(Os::NXIO) => {
                // What is behind the end by now is no hole: reading it is to fail.
                let length = rustix::fs::seek(&self.file, SeekFrom::End(0)).unwrap_or(0);
                return (length < end).then(|| length.max(at)..end);
            }
            Err(_) => return Some(at..end),
        };
        let stop = rustix::fs::seek(&self.file, SeekFrom::Hole(start)).unwrap_or(end);
        self.data[0].store(start, Relaxed);
        self.data[1].store(stop, Relaxed);
        Some(start..stop.min(end))
    }

    fn put(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match &self.direct {
            Some(direct) => direct.write(&self.file, data, offset),
            None => self.file.write_all_at(data, offset),
        }
    }

    fn fallocate(&self, how: FallocateFlags, offset: u64, length: u64) -> Result<bool, Failure> {
        let _others = self.direct.as_ref().map(|direct| direct.keep_apart(&(offset..offset + length)));
        self.data[1].store(0, Relaxed);
        loop {
            match rustix::fs::fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, length) {
                Ok(()) => return Ok(true),
                Err(Os::INTR) => {}
                Err(Os::OPNOTSUPP | Os::NOSYS | Os::NODEV) => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn sync_if(&self, fua: bool) -> Result<(), Failure> {
        if fua { Ok(self.file.sync_data()?) } else { Ok(()) }
    }
}

impl Backend for FileBackend {
    fn size(&self) -> u64 {
        self.size
    }

    fn features(&self) -> Features {
        Features {
            read_only: !self.writable,
            flush: true,
            fua: true,
            trim: true,
            write_zeroes: true,
            fast_zero: true,
            cache: true,
            multi_conn: true,
            rotational: false,
        }
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn contexts(&self) -> Vec<String> {
        vec![allocation::NAME.into()]
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        match &self.direct {
            Some(direct) => direct.read(&self.file, into, offset)?,
            None => self.file.read_exact_at(into, offset)?,
        }
        Ok(())
    }

    fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut holes = Vec::new();
        // A look may take long: a file system goes through all of the data up to the next hole.
        let [from, to] = &self.data;
        if from.load(Relaxed) <= range.start && range.end <= to.load(Relaxed) {
            return holes;
        }
        let mut at = range.start;
        while at < range.end {
            let data = self.data(at, range.end).unwrap_or(range.end..range.end);
            if at < data.start {
                holes.push(at..data.start);
            }
            at = data.end;
        }
        holes
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Failure> {
        self.put(data, offset)?;
        self.sync_if(fua)
    }

    fn flush(&self) -> Result<(), Failure> {
        Ok(self.file.sync_data()?)
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), Failure> {
        // Where nothing can be freed, nothing has to be.
        self.fallocate(FallocateFlags::PUNCH_HOLE, offset, length)?;
        self.sync_if(fua)
    }

    fn write_zeroes(&self, offset: u64, length: u64, how: Zeroes) -> Result<(), Failure> {
        let way = if how.no_hole { FallocateFlags::ZERO_RANGE } else { FallocateFlags::PUNCH_HOLE };
        if !self.fallocate(way, offset, length)? {
            if how.fast {
                return Err(Failure::new(Errno::NotSupported, "the file system has no quick way to zeroes"));
            }
            let mut at = offset;
            while at < offset + length {
                let piece = (offset + length - at).min(ZEROES.len() as u64);
                self.put(&ZEROES[..piece as usize], at)?;
                at += piece;
            }
        }
        self.sync_if(how.fua)
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), Failure> {
        // Advice may be refused, and nothing is lost by that.
        let _ = rustix::fs::fadvise(&self.file, offset, std::num::NonZero::new(length), Advice::WillNeed);
        Ok(())
    }

    fn block_status(&self, _context: usize, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        let end = offset + length;
        let mut at = offset;
        while at < end {
            let data = self.data(at, self.size).unwrap_or(self.size..self.size);
            if !extents.push(data.start - at, allocation::HOLE | allocation::ZERO)
                || !extents.push(data.end - data.start, 0)
            {
                break;
            }
            at = data.end;
        }
        Ok(())
    }
}
