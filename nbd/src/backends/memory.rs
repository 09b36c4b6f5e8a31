//! An export in memory.

use crate::backend::{Backend, Extents, Features, Zeroes};
use crate::codec::values::allocation;
use crate::failure::Failure;
use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// An export in memory, for tests and for scratch; gone with the value. It says what was never written, was trimmed, or was
/// zeroed, by blocks of 4 KiB.
#[derive(Debug)]
pub struct MemoryBackend {
    state: RwLock<State>,
    read_only: bool,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    /// Which blocks hold data.
    allocated: Vec<bool>,
}

const BLOCK: usize = 4096;

impl MemoryBackend {
    /// All zeroes, and not allocated.
    pub fn new(size: usize) -> Self {
        let state = State { bytes: vec![0; size], allocated: vec![false; size.div_ceil(BLOCK)] };
        Self { state: RwLock::new(state), read_only: false }
    }

    /// These bytes, all allocated.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        let allocated = vec![true; bytes.len().div_ceil(BLOCK)];
        Self { state: RwLock::new(State { bytes, allocated }), read_only: false }
    }

    /// Takes no writes.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// What it contains.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Zeroes a range; blocks that are whole inside of it are freed.
    fn free(&mut self, range: Range<usize>) {
        self.bytes[range.clone()].fill(0);
        // The last block may be cut short by the end.
        let end = if range.end == self.bytes.len() { self.allocated.len() } else { range.end / BLOCK };
        if let Some(whole) = self.allocated.get_mut(range.start.div_ceil(BLOCK)..end) {
            whole.fill(false);
        }
    }

    fn allocate(&mut self, range: Range<usize>) {
        self.allocated[range.start / BLOCK..range.end.div_ceil(BLOCK)].fill(true);
    }
}

fn range(offset: u64, length: u64) -> Range<usize> {
    offset as usize..(offset + length) as usize
}

impl Backend for MemoryBackend {
    fn size(&self) -> u64 {
        self.state().bytes.len() as u64
    }

    fn features(&self) -> Features {
        Features {
            read_only: self.read_only,
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

    fn contexts(&self) -> Vec<String> {
        vec![allocation::NAME.into()]
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        into.copy_from_slice(&self.state().bytes[range(offset, into.len() as u64)]);
        Ok(())
    }

    fn holes(&self, of: Range<u64>) -> Vec<Range<u64>> {
        let mut extents = Extents::new(of.end - of.start, false);
        let mut at = of.start;
        let mut holes = Vec::new();
        if self.block_status(0, of.start, of.end - of.start, &mut extents).is_ok() {
            for extent in extents.into_list() {
                if extent.flags & allocation::HOLE != 0 {
                    holes.push(at..at + extent.length);
                }
                at += extent.length;
            }
        }
        holes
    }

    fn write(&self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Failure> {
        let range = range(offset, data.len() as u64);
        let mut state = self.state_mut();
        state.allocate(range.clone());
        state.bytes[range].copy_from_slice(data);
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64, _fua: bool) -> Result<(), Failure> {
        self.state_mut().free(range(offset, length));
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, how: Zeroes) -> Result<(), Failure> {
        let range = range(offset, length);
        let mut state = self.state_mut();
        state.free(range.clone());
        if how.no_hole {
            state.allocate(range);
        }
        Ok(())
    }

    fn block_status(&self, _context: usize, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        let state = self.state();
        let mut at = offset as usize;
        while at < (offset + length) as usize {
            let next = ((at / BLOCK + 1) * BLOCK).min(state.bytes.len());
            let hole = !state.allocated[at / BLOCK];
            if !extents.push((next - at) as u64, if hole { allocation::HOLE | allocation::ZERO } else { 0 }) {
                break;
            }
            at = next;
        }
        Ok(())
    }
}
