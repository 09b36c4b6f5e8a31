//! What a file holds, sector by sector, and what can go wrong with it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

pub(crate) const SECTOR: usize = 512;

/// What happens inside a durable write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes. The page cache is gone, the device keeps what was picked.
    Cut(Pick),
    /// The process is killed. The page cache keeps what was picked first, the device of that what was picked second.
    Kill(Pick, Pick),
    /// The device keeps what was picked and reports an error: that it is full, if it took the first sectors, else EIO. The
    /// page cache keeps the new content, or is reverted to what the device has.
    Fail(Pick, bool),
}

/// Calls that write nothing durably, and fail as the test says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Allocate,
    Punch,
    Grow,
}

impl Call {
    pub(crate) const ALL: [Call; 4] = [Call::Read, Call::Allocate, Call::Punch, Call::Grow];

    pub(super) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(if self == Call::Read { libc::EIO } else { libc::ENOSPC })
    }
}

/// Which calls of a kind fail, counted from the first one on.
pub(crate) type Trouble = (Call, Range<usize>);

/// Which of the sectors that are being written become new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    None,
    All,
    First(usize),
    Only(usize),
    AllBut(usize),
    /// By the bits of a pseudo-random sequence.
    Random(u64),
    /// All but one sector in each four, as many as the fixed part of a header has, which becomes garbage.
    Rot(usize),
    /// Each sector by its bit; the others are old, or garbage.
    Mask(u64, bool),
    /// As `Random`, but some of the others become garbage.
    Garbage(u64),
}

/// Pseudo-random numbers (splitmix64): small, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

pub(super) type Sector = [u8; SECTOR];

pub(super) const CHUNK: usize = 8 * SECTOR;

/// The bytes of a file, in chunks that copies share until they are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(super) chunks: Vec<Option<Arc<[u8; CHUNK]>>>,
    pub(super) len: usize,
}

impl Image {
    /// A hole for the bytes that are new.
    pub(super) fn grow(&mut self, len: usize) {
        self.len = self.len.max(len);
        self.chunks.resize(self.chunks.len().max(len.div_ceil(CHUNK)), None);
    }

    /// Bytes past the end read as zeros.
    pub(super) fn sector(&self, index: usize) -> Sector {
        match self.chunks.get(index / 8) {
            Some(Some(chunk)) => chunk[index % 8 * SECTOR..][..SECTOR].try_into().unwrap(),
            _ => [0; SECTOR],
        }
    }

    pub(super) fn set_sector(&mut self, index: usize, new: &Sector) {
        self.grow((index + 1) * SECTOR);
        let chunk = self.chunks[index / 8].get_or_insert_with(|| Arc::new([0; CHUNK]));
        Arc::make_mut(chunk)[index % 8 * SECTOR..][..SECTOR].copy_from_slice(new);
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: usize) {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done;
            let n = (CHUNK - at % CHUNK).min(buf.len() - done);
            match self.chunks.get(at / CHUNK) {
                Some(Some(chunk)) => buf[done..done + n].copy_from_slice(&chunk[at % CHUNK..][..n]),
                _ => buf[done..done + n].fill(0),
            }
            done += n;
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done;
            let n = (CHUNK - at % CHUNK).min(bytes.len() - done);
            let chunk = self.chunks[at / CHUNK].get_or_insert_with(|| Arc::new([0; CHUNK]));
            Arc::make_mut(chunk)[at % CHUNK..][..n].copy_from_slice(&bytes[done..done + n]);
            done += n;
        }
    }

    /// One of the chunks.
    pub(super) fn chunk(&self, index: usize) -> Option<&Arc<[u8; CHUNK]>> {
        self.chunks.get(index).and_then(Option::as_ref)
    }

    pub(super) fn set_chunk(&mut self, index: usize, chunk: Option<Arc<[u8; CHUNK]>>) {
        self.grow((index + 1) * CHUNK);
        self.chunks[index] = chunk;
    }

    /// Zeros for whole sectors.
    pub(super) fn clear(&mut self, range: Range<usize>) {
        for index in range.start.div_ceil(SECTOR)..range.end.min(self.len) / SECTOR {
            if matches!(self.chunks.get(index / 8), Some(Some(_))) {
                self.set_sector(index, &[0; SECTOR]);
            }
        }
    }

    /// Forgets what lies behind `len`, which is a multiple of the chunks.
    pub(super) fn cut(&mut self, len: usize) {
        self.chunks.truncate(len.div_ceil(CHUNK));
        self.len = self.len.min(len);
    }

    /// The sectors in which this differs from another.
    pub(crate) fn differing(&self, other: &Image) -> Vec<usize> {
        let same = |i: usize| match (self.chunks.get(i).unwrap_or(&None), other.chunks.get(i).unwrap_or(&None)) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        let chunks = (0..self.chunks.len().max(other.chunks.len())).filter(|&i| !same(i));
        chunks.flat_map(|i| i * 8..i * 8 + 8).filter(|&s| self.sector(s) != other.sector(s)).collect()
    }

    /// Shares the chunks that are equal, so that they are found equal quickly.
    pub(super) fn share(&mut self, with: &Image) {
        for (mine, other) in self.chunks.iter_mut().zip(&with.chunks) {
            if let (Some(a), Some(b)) = (&*mine, other)
                && !Arc::ptr_eq(a, b)
                && a == b
            {
                *mine = other.clone();
            }
        }
    }
}
