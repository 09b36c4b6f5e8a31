//! One disk of a snapshot: copies before writes, reads as it was frozen.
//!
//! Invariant kept here: the old bytes of a granule are in scratch, then in the index, then the image changes. What a reader
//! gets was there at one moment at which the granule was neither done nor copied elsewhere, and nothing was missing.

use super::format::{Entry, Kind};
use super::scratch::Scratch;
use super::steps::{Rule, Step, at, keeps};
use crate::files::is_zero;
use dirtymap::{DirtyMap, Uuid};
use rustix::fs::SeekFrom;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// What is known of a granule: how it was copied.
const COPIED: u8 = Kind::Copied as u8;
const ZEROS: u8 = Kind::Zeros as u8;
const COPY: u8 = COPIED | ZEROS;
/// The backup is done with it.
const DONE: u8 = 4;
/// It is dirty in the checkpoint.
const DIRTY: u8 = 8;
/// Nobody wants it.
const UNWANTED: u8 = 16;

/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;
/// Granules whose locks are one.
const LOCKS: usize = 256;
/// So many copies, and the space is looked at again.
const LOOK_AT_ROOM: u64 = 64;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One disk of a snapshot.
pub struct Frozen {
    pub scratch: Scratch,
    image: File,
    size: u64,
    granule: u64,
    states: Vec<AtomicU8>,
    locks: Vec<Mutex<()>>,
    limit: Option<u64>,
    /// Bytes of scratch.
    used: AtomicU64,
    copies: AtomicU64,
    /// Why nothing may be read any more. Only once that is in the file.
    why: OnceLock<String>,
    checkpoint: OnceLock<Uuid>,
    /// Data of the image that was found last. What is punched out of it later was copied before, and is looked for there.
    data: Mutex<Range<u64>>,
}

/// How far the backup of a disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Bytes that are dirty in the checkpoint.
    pub frozen_bytes: u64,
    /// Of them, those that the backup is done with.
    pub done_bytes: u64,
    /// Bytes of scratch.
    pub scratch_bytes: u64,
}

impl Frozen {
    /// A disk that everything is copied of.
    pub fn new(scratch: Scratch, image: File, size: u64, granule: u64, limit: Option<u64>) -> Frozen {
        let states = (0..size.div_ceil(granule)).map(|_| AtomicU8::new(0)).collect();
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        let (used, copies, why, checkpoint, data) = Default::default();
        Frozen { scratch, image, size, granule, states, locks, limit, used, copies, why, checkpoint, data }
    }

    /// Takes the entries of an index for what is known.
    pub fn with(self, entries: &[Entry]) -> Frozen {
        for (state, entry) in self.states.iter().zip(entries) {
            let copy = entry.copy.map_or(0, |(kind, _)| kind as u8);
            state.store(copy | if entry.done { DONE } else { 0 }, SeqCst);
            if copy == COPIED && !entry.done {
                self.used.fetch_add(self.granule, SeqCst);
            }
        }
        self
    }

    pub fn checkpoint(&self) -> Option<Uuid> {
        self.checkpoint.get().copied()
    }

    pub fn set_checkpoint(&self, uuid: Uuid) {
        let _ = self.checkpoint.set(uuid);
    }

    /// From here on only what is frozen is copied, and with `whole` all.
    pub fn known(&self, frozen: impl Iterator<Item = Range<u64>>, whole: bool) {
        for extent in frozen {
            for g in self.granules(extent) {
                self.states[g].fetch_or(DIRTY, SeqCst);
            }
        }
        if !whole {
            for state in self.states.iter().filter(|state| state.load(SeqCst) & DIRTY == 0) {
                state.fetch_or(UNWANTED, SeqCst);
            }
        }
    }

    fn granules(&self, range: Range<u64>) -> Range<usize> {
        (range.start / self.granule) as usize..range.end.div_ceil(self.granule).min(self.states.len() as u64) as usize
    }

    fn bytes(&self, g: usize) -> Range<u64> {
        let start = g as u64 * self.granule;
        start..(start + self.granule).min(self.size)
    }

    fn lock(&self, g: usize) -> MutexGuard<'_, ()> {
        self.locks[g % LOCKS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn needs(&self, g: usize) -> bool {
        self.states[g].load(SeqCst) & (COPY | DONE | UNWANTED) == 0 && !self.is_broken()
    }

    pub fn is_broken(&self) -> bool {
        self.why.get().is_some()
    }

    pub fn why_broken(&self) -> Option<String> {
        self.why.get().cloned()
    }

    /// Copies what a write of this range is going to overwrite. `wait` waits for older writers. An error only if nothing
    /// could be done to keep a later server from serving what is not copied.
    pub fn copy(&self, range: Range<u64>, map: &DirtyMap, wait: impl Fn()) -> io::Result<()> {
        for g in self.granules(range) {
            if !self.needs(g) {
                continue;
            }
            if keeps(Rule::WaitForOlder) {
                wait();
            }
            at(Step::MustCopy);
            let lock = keeps(Rule::LookUnderLock).then(|| self.lock(g));
            if lock.is_some() && !self.needs(g) {
                continue;
            }
            match self.copy_granule(g) {
                Ok(kind) => _ = self.states[g].fetch_or(kind as u8, SeqCst),
                Err(e) => self.break_off(format!("a copy to scratch failed: {e}"), map)?,
            }
        }
        Ok(())
    }

    fn copy_granule(&self, g: usize) -> io::Result<Kind> {
        self.take_room()?;
        let bytes = self.bytes(g);
        BUFFER.with_borrow_mut(|buffer| {
            let (mut crc, mut kind) = (crc32fast::Hasher::new(), Kind::Zeros);
            let early = !keeps(Rule::DataThenEntry);
            if early {
                self.scratch.write_entry(g as u64, Kind::Copied, 0)?;
                at(Step::EntryWritten);
            }
            let mut from = bytes.start;
            while from < bytes.end {
                buffer.resize(PIECE.min((bytes.end - from) as usize), 0);
                self.image.read_exact_at(buffer, from)?;
                at(Step::OldRead);
                crc.update(buffer);
                if !is_zero(buffer) {
                    kind = Kind::Copied;
                    self.scratch.write_data(buffer, from)?;
                }
                from += buffer.len() as u64;
            }
            at(Step::DataWritten);
            self.scratch.write_entry(g as u64, kind, crc.finalize())?;
            at(Step::EntryWritten);
            if kind == Kind::Zeros {
                self.used.fetch_sub(self.granule, SeqCst);
            }
            Ok(kind)
        })
    }

    fn take_room(&self) -> io::Result<()> {
        let used = self.used.fetch_add(self.granule, SeqCst) + self.granule;
        if self.limit.is_some_and(|limit| used > limit) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "scratch has reached its limit"));
        }
        if self.copies.fetch_add(1, SeqCst).is_multiple_of(LOOK_AT_ROOM)
            && self.scratch.room()? < self.granule * LOOK_AT_ROOM
        {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the file system of scratch is nearly full"));
        }
        Ok(())
    }

    /// Ends what can be read: in the file before anything is written that was not copied. If it cannot be in the file, the
    /// checkpoint is given up.
    pub fn break_off(&self, why: String, map: &DirtyMap) -> io::Result<()> {
        self.scratch.set_broken().or_else(|e| match self.checkpoint() {
            Some(uuid) => match map.abort_checkpoint(uuid) {
                Ok(()) | Err(dirtymap::Error::NoCheckpoint { .. }) => Ok(()),
                Err(_) => Err(e),
            },
            // Nothing says READY yet, and nothing will.
            None => Ok(()),
        })?;
        let _ = self.why.set(why);
        Ok(())
    }

    /// The same for want of room: what scratch has is free then.
    pub fn give_room(&self) -> io::Result<()> {
        self.scratch.set_broken()?;
        let _ = self.why.set("the image had no room left".into());
        Ok(())
    }

    /// Marks in the map what has been copied so far.
    pub fn mark_again(&self, map: &DirtyMap) -> dirtymap::Result<()> {
        let copied = |g: &usize| self.states[*g].load(SeqCst) & COPY != 0;
        for g in (0..self.states.len()).filter(copied) {
            map.set(self.bytes(g))?;
        }
        Ok(())
    }

    fn readable(&self, g: usize, ended: &AtomicBool) -> io::Result<u8> {
        let state = self.states[g].load(SeqCst);
        let refused = |why: &str| Err(io::Error::other(why.to_string()));
        if let Some(why) = self.why_broken() {
            return refused(&format!("the snapshot is broken: {why}"));
        }
        match state {
            _ if ended.load(SeqCst) => refused("the snapshot has ended"),
            _ if state & DONE != 0 => refused("the backup has said that it is done with this range"),
            _ if state & UNWANTED != 0 => refused("only what was dirty can be read from this snapshot"),
            _ => Ok(state & COPY),
        }
    }

    /// Reads as it was frozen.
    pub fn read(&self, offset: u64, into: &mut [u8], map: &DirtyMap, ended: &AtomicBool) -> io::Result<()> {
        let end = offset + into.len() as u64;
        for g in self.granules(offset..end) {
            let bytes = self.bytes(g);
            let (from, to) = (offset.max(bytes.start), end.min(bytes.end));
            let into = &mut into[(from - offset) as usize..(to - offset) as usize];
            loop {
                let source = self.readable(g, ended)?;
                at(Step::Looked);
                let right = match source {
                    0 => self.image.read_exact_at(into, from).map(|()| true)?,
                    ZEROS => {
                        into.fill(0);
                        true
                    }
                    _ => self.read_scratch(g, from, into)?,
                };
                if keeps(Rule::ReadThenLook) && self.readable(g, ended)? != source {
                    continue;
                }
                if !right {
                    let why = format!("scratch has lost what was copied of byte {from}");
                    self.break_off(why.clone(), map)?;
                    return Err(io::Error::other(why));
                }
                break;
            }
        }
        Ok(())
    }

    /// Whether the checksum of the whole granule is right.
    fn read_scratch(&self, g: usize, from: u64, into: &mut [u8]) -> io::Result<bool> {
        let bytes = self.bytes(g);
        if !keeps(Rule::VerifyData) {
            self.scratch.read_data(into, from)?;
            return Ok(true);
        }
        let Some(Entry { copy: Some((_, expected)), .. }) = self.scratch.read_entry(g as u64)? else {
            return Ok(false);
        };
        let end = from + into.len() as u64;
        let mut crc = crc32fast::Hasher::new();
        BUFFER.with_borrow_mut(|buffer| {
            let mut at = bytes.start;
            while at < bytes.end {
                buffer.resize(PIECE.min((bytes.end - at) as usize), 0);
                if self.scratch.read_data(buffer, at).is_err() {
                    return Ok(false);
                }
                crc.update(buffer);
                let (first, last) = (from.max(at), end.min(at + buffer.len() as u64));
                if first < last {
                    into[(first - from) as usize..(last - from) as usize]
                        .copy_from_slice(&buffer[(first - at) as usize..(last - at) as usize]);
                }
                at += buffer.len() as u64;
            }
            Ok(crc.finalize() == expected)
        })
    }

    /// The backup is done with the granules that are all in this range: their scratch is freed, and nothing of them is
    /// copied any more.
    pub fn done(&self, range: Range<u64>) -> io::Result<()> {
        let last = if range.end >= self.size { self.states.len() as u64 } else { range.end / self.granule };
        for g in range.start.div_ceil(self.granule) as usize..last as usize {
            let _lock = self.lock(g);
            let state = self.states[g].load(SeqCst);
            if state & (DONE | UNWANTED) != 0 || self.is_broken() {
                continue;
            }
            self.scratch.write_done(g as u64)?;
            at(Step::DoneWritten);
            self.states[g].fetch_or(DONE, SeqCst);
            if state & COPY == COPIED {
                self.scratch.free(g as u64 * self.granule, self.granule);
                self.used.fetch_sub(self.granule, SeqCst);
            }
            at(Step::Freed);
        }
        Ok(())
    }

    /// Whether the granule at `offset` is still to be copied by a backup, and how far that goes.
    pub fn to_do(&self, range: Range<u64>) -> (bool, u64) {
        let is = |g: usize| self.states[g].load(SeqCst) & (DIRTY | DONE) == DIRTY;
        self.alike(range, is)
    }

    /// The same of zeros that need not be read. No further than the image was looked at.
    pub fn zeros(&self, range: Range<u64>) -> (bool, u64) {
        let first = self.bytes(self.granules(range.clone()).start);
        let hole = self.hole(&first);
        let seen = if hole.end < first.end { self.end_of_data(hole.end) } else { hole.end };
        let end = seen.next_multiple_of(self.granule).max(first.end).min(range.end);
        self.alike(range.start..end, |g| {
            // Looked at after the image: what is not copied by now was no other.
            let state = self.states[g].load(SeqCst);
            let bytes = self.bytes(g);
            let in_image = || hole.start <= bytes.start && bytes.end <= hole.end;
            state & (DONE | UNWANTED) == 0 && (state & COPY == ZEROS || state & COPY == 0 && in_image())
        })
    }

    fn alike<T: PartialEq>(&self, range: Range<u64>, state: impl Fn(usize) -> T) -> (T, u64) {
        let mut granules = self.granules(range.clone());
        let first = granules.next().map(&state).unwrap_or_else(|| state(0));
        let end = granules.find(|g| state(*g) != first).map_or(range.end, |g| self.bytes(g).start);
        (first, end - range.start)
    }

    /// The end of the data that `at` is known to be in.
    fn known_data(&self, at: u64) -> Option<u64> {
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        data.contains(&at).then_some(data.end)
    }

    /// The hole of the image in which a granule begins.
    fn hole(&self, granule: &Range<u64>) -> Range<u64> {
        if self.known_data(granule.start).is_some() {
            return granule.start..granule.start;
        }
        match rustix::fs::seek(&self.image, SeekFrom::Data(granule.start)) {
            Ok(data) => granule.start..data,
            // What is behind the end of an image that was cut off is no hole: reading it is to fail.
            Err(rustix::io::Errno::NXIO) if self.is_whole().is_ok() => granule.start..self.size,
            Err(_) => granule.start..granule.start,
        }
    }

    /// Where the next hole of the image begins. Where it has none, all is data.
    fn end_of_data(&self, from: u64) -> u64 {
        self.known_data(from).unwrap_or_else(|| {
            // May take long: a file system goes through all of the data.
            let end = rustix::fs::seek(&self.image, SeekFrom::Hole(from)).unwrap_or(self.size);
            *self.data.lock().unwrap_or_else(PoisonError::into_inner) = from..end;
            end
        })
    }

    /// Whether the image has its length still.
    pub fn is_whole(&self) -> io::Result<()> {
        match rustix::fs::seek(&self.image, SeekFrom::End(0))? {
            length if length < self.size => {
                Err(io::Error::other(format!("the image was cut off: it has {length} bytes of {}", self.size)))
            }
            _ => Ok(()),
        }
    }

    /// Syncs the image: a backup of it counts only then.
    pub fn sync_image(&self) -> io::Result<()> {
        self.image.sync_data()
    }

    /// Bytes of scratch.
    pub fn used(&self) -> u64 {
        self.used.load(SeqCst)
    }

    pub fn progress(&self) -> Progress {
        let mut progress = Progress { frozen_bytes: 0, done_bytes: 0, scratch_bytes: self.used() };
        for g in 0..self.states.len() {
            let state = self.states[g].load(SeqCst);
            let bytes = self.bytes(g);
            if state & DIRTY != 0 {
                progress.frozen_bytes += bytes.end - bytes.start;
                progress.done_bytes += if state & DONE != 0 { bytes.end - bytes.start } else { 0 };
            }
        }
        progress
    }
}
