//! One disk of a snapshot: copies before writes, reads as it was frozen.
//!
//! Invariant kept here: the old bytes of a block are in scratch, then in the index, then the image changes. What a reader
//! gets was there at one moment at which the block was neither done nor copied elsewhere, and nothing was missing.

use super::format::{Entry, Header, Kind};
use super::scratch::Scratch;
use super::steps::{Rule, Step, at, keeps};
use crate::files::is_zero;
use crate::size;
use crate::terminal::output::Output;
use dirtymap::{DirtyMap, Uuid};
use rustix::fs::SeekFrom;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// What is known of a block: how it was copied.
const COPIED: u8 = Kind::Copied as u8;
const ZEROS: u8 = Kind::Zeros as u8;
const COPY: u8 = COPIED | ZEROS;
/// The backup is done with it.
const DONE: u8 = 4;
/// It is dirty in the checkpoint.
const DIRTY: u8 = 8;
/// Nobody wants it.
const UNWANTED: u8 = 16;

/// Bytes of the blocks that have one lock and are copied at once, where one block is not longer.
const GROUP: u64 = 1 << 16;
/// Groups of blocks whose locks are one.
const LOCKS: usize = 256;
/// So many bytes are copied, and the space is looked at again.
const LOOK_AT_ROOM: u64 = 4 << 20;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One disk of a snapshot.
pub struct Frozen {
    pub scratch: Scratch,
    /// Of its checkpoint.
    pub name: String,
    /// Everything is copied, not only what is frozen.
    pub whole: bool,
    image: File,
    size: u64,
    block: u64,
    states: Vec<AtomicU8>,
    locks: Vec<Mutex<()>>,
    limit: Option<u64>,
    log: Option<Output>,
    /// Bytes of scratch; and all that were ever copied.
    used: AtomicU64,
    copied: AtomicU64,
    /// Bytes that are dirty in the checkpoint; and of them those that the backup is done with.
    frozen: AtomicU64,
    done: AtomicU64,
    /// Why nothing may be read any more. Only once that is in the file.
    why: OnceLock<String>,
    checkpoint: OnceLock<Uuid>,
    /// The map's newest commit when that was found to be outstanding last.
    there_at: AtomicU64,
    /// This server has begun to commit it, or to put it back.
    ending: AtomicBool,
    /// Nothing is copied or read any more; and its checkpoint was committed, not put back.
    ended: AtomicBool,
    committed: AtomicBool,
    /// Data of the image that was found last. What is punched out of it later was copied before, and is looked for there.
    data: Mutex<Range<u64>>,
}

/// How far the backup of a disk is.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Bytes that are dirty in the checkpoint.
    pub frozen_bytes: u64,
    /// Of them, those that the backup is done with.
    pub done_bytes: u64,
    /// Bytes of scratch.
    pub scratch_bytes: u64,
    /// Its identity, as long as it is outstanding.
    pub checkpoint: Option<String>,
    /// It was committed, and not put back.
    #[serde(default)]
    pub committed: bool,
}

impl Frozen {
    /// A disk that everything is copied of.
    pub fn new(scratch: Scratch, image: File, size: u64, limit: Option<u64>) -> Frozen {
        let Header { block, name, whole, .. } = scratch.header();
        let states = (0..size.div_ceil(block)).map(|_| AtomicU8::new(0)).collect();
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        let (used, copied, frozen, done, why, checkpoint, ending, ended, committed, data, log) = Default::default();
        // No commit has this number.
        let there_at = AtomicU64::new(u64::MAX);
        Frozen {
            scratch,
            name,
            whole,
            image,
            size,
            block,
            states,
            locks,
            limit,
            log,
            used,
            copied,
            frozen,
            done,
            why,
            checkpoint,
            there_at,
            ending,
            ended,
            committed,
            data,
        }
    }

    /// The same, which says why nothing may be read any more.
    pub fn telling(self, log: Option<Output>) -> Frozen {
        Frozen { log, ..self }
    }

    /// Takes the entries of the index for what is known. `false` if one of them makes no sense.
    pub fn load(&self) -> io::Result<bool> {
        self.scratch.entries(|block, Entry { copy, done }| {
            let copy = copy.map_or(0, |(kind, _)| kind as u8);
            self.states[block as usize].store(copy | if done { DONE } else { 0 }, SeqCst);
            if copy == COPIED && !done {
                self.used.fetch_add(self.block, SeqCst);
            }
        })
    }

    pub fn checkpoint(&self) -> Option<Uuid> {
        self.checkpoint.get().copied()
    }

    pub fn set_checkpoint(&self, uuid: Uuid) {
        let _ = self.checkpoint.set(uuid);
    }

    /// Whether the checkpoint was outstanding as of this commit of the map.
    pub fn was_there_at(&self, commit: u64) -> bool {
        self.there_at.load(SeqCst) == commit
    }

    /// It is.
    pub fn is_there_at(&self, commit: u64) {
        self.there_at.store(commit, SeqCst);
    }

    /// This server commits it, or puts it back, from here on.
    pub fn begin_end(&self) {
        self.ending.store(true, SeqCst);
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(SeqCst)
    }

    /// Its checkpoint is gone: nothing is copied or read any more.
    pub fn end(&self, committed: bool) {
        self.begin_end();
        self.committed.store(committed, SeqCst);
        self.ended.store(true, SeqCst);
    }

    /// Gives the space back that one takes which has ended, while others are left.
    pub fn empty(&self) {
        // A copy that is under way would take some again.
        self.locks.iter().for_each(|lock| drop(lock.lock().unwrap_or_else(PoisonError::into_inner)));
        self.scratch.empty();
    }

    pub fn is_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    /// From here on only what is frozen is copied, or all that was asked for.
    pub fn known(&self, frozen: impl Iterator<Item = Range<u64>>) {
        for extent in frozen {
            for b in self.blocks(&extent) {
                let before = self.states[b].fetch_or(DIRTY, SeqCst);
                let bytes = self.length(b..b + 1);
                self.frozen.fetch_add(bytes, SeqCst);
                self.done.fetch_add(if before & DONE != 0 { bytes } else { 0 }, SeqCst);
            }
        }
        if !self.whole {
            for b in (0..self.states.len()).filter(|b| self.states[*b].load(SeqCst) & DIRTY == 0) {
                let before = self.states[b].fetch_or(UNWANTED, SeqCst);
                if before & (COPY | DONE) == COPIED {
                    self.give_back(b);
                }
            }
        }
    }

    /// Nobody wants a block that was copied before that was known. Of the two who come to know both, the later one does this.
    fn give_back(&self, b: usize) {
        self.scratch.free(b as u64 * self.block, self.block);
        self.used.fetch_sub(self.block, SeqCst);
    }

    /// The blocks that a range touches.
    fn blocks(&self, range: &Range<u64>) -> Range<usize> {
        (range.start / self.block) as usize..range.end.div_ceil(self.block).min(self.states.len() as u64) as usize
    }

    fn bytes(&self, blocks: Range<usize>) -> Range<u64> {
        blocks.start as u64 * self.block..(blocks.end as u64 * self.block).min(self.size)
    }

    fn length(&self, blocks: Range<usize>) -> u64 {
        let bytes = self.bytes(blocks);
        bytes.end - bytes.start
    }

    /// How many blocks have one lock.
    fn group(&self) -> usize {
        (GROUP / self.block).max(1) as usize
    }

    /// Blocks, by those that have one lock.
    fn groups(&self, blocks: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let (group, mut rest) = (self.group(), blocks);
        std::iter::from_fn(move || {
            let first = rest.start;
            rest.start = (first / group + 1).saturating_mul(group).min(rest.end);
            (first < rest.end).then_some(first..rest.start)
        })
    }

    /// The lock of the group that a block is in.
    fn lock(&self, b: usize) -> MutexGuard<'_, ()> {
        self.locks[b / self.group() % LOCKS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest run of blocks from the first one on that are alike, and what they are.
    fn run<T: PartialEq>(blocks: Range<usize>, is: impl Fn(usize) -> T) -> Option<(Range<usize>, T)> {
        let mut rest = blocks.clone();
        let first = rest.next().map(&is)?;
        let end = rest.find(|b| is(*b) != first).unwrap_or(blocks.end);
        Some((blocks.start..end, first))
    }

    /// The runs of blocks that are such.
    fn runs(mut blocks: Range<usize>, is: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        while let Some((run, such)) = Self::run(blocks.clone(), &is) {
            blocks.start = run.end;
            if such {
                found.push(run);
            }
        }
        found
    }

    fn needs(&self, b: usize) -> bool {
        self.states[b].load(SeqCst) & (COPY | DONE | UNWANTED) == 0 && !self.is_broken() && !self.is_ended()
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
        for group in self.groups(self.blocks(&range)) {
            let mut needed = Self::runs(group.clone(), |b| self.needs(b));
            if needed.is_empty() {
                continue;
            }
            if keeps(Rule::WaitForOlder) {
                wait();
            }
            at(Step::MustCopy);
            let lock = keeps(Rule::LookUnderLock).then(|| self.lock(group.start));
            if lock.is_some() {
                needed = Self::runs(group, |b| self.needs(b));
            }
            for run in needed {
                if let Err(e) = self.copy_run(run) {
                    let dir = self.scratch.dir().display();
                    self.break_off(format!("a copy to scratch in {dir} failed: {e}"), map)?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Copies some blocks of a group.
    fn copy_run(&self, run: Range<usize>) -> io::Result<()> {
        let bytes = self.bytes(run.clone());
        BUFFER.with_borrow_mut(|buffer| {
            if !keeps(Rule::DataThenEntry) {
                self.scratch.write_entries(run.start as u64, &vec![(Kind::Copied, 0); run.len()])?;
                at(Step::EntryWritten);
            }
            buffer.resize((bytes.end - bytes.start) as usize, 0);
            self.image.read_exact_at(buffer, bytes.start)?;
            at(Step::OldRead);
            let blocks = buffer.chunks(self.block as usize);
            let kind = |block| if is_zero(block) { Kind::Zeros } else { Kind::Copied };
            let entries: Vec<_> = blocks.map(|block| (kind(block), crc32fast::hash(block))).collect();
            // Zeros need none.
            let copied = entries.iter().filter(|(kind, _)| *kind == Kind::Copied).count() as u64;
            self.take_room(copied * self.block)?;
            for data in Self::runs(0..run.len(), |i| entries[i].0 == Kind::Copied) {
                let data = self.bytes(run.start + data.start..run.start + data.end);
                let from = (data.start - bytes.start) as usize;
                self.scratch.write_data(&buffer[from..from + (data.end - data.start) as usize], data.start)?;
            }
            at(Step::DataWritten);
            self.scratch.write_entries(run.start as u64, &entries)?;
            at(Step::EntryWritten);
            for (b, (kind, _)) in run.zip(entries) {
                let before = self.states[b].fetch_or(kind as u8, SeqCst);
                if before & UNWANTED != 0 && kind == Kind::Copied {
                    self.give_back(b);
                }
            }
            Ok(())
        })
    }

    fn take_room(&self, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let used = self.used.fetch_add(bytes, SeqCst) + bytes;
        if let Some(limit) = self.limit.filter(|limit| used > *limit) {
            let (has, limit) = (size::human(used - bytes), size::human(limit));
            let message = format!("it has {has}, and may have {limit}: start the server with a larger --scratch-limit");
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        let copied = self.copied.fetch_add(bytes, SeqCst);
        let looks = copied == 0 || copied / LOOK_AT_ROOM != (copied + bytes) / LOOK_AT_ROOM;
        let room = if looks { self.scratch.room()? } else { u64::MAX };
        if room < 2 * LOOK_AT_ROOM {
            let (has, room) = (size::human(used - bytes), size::human(room));
            let message = format!(
                "it has {has}, and its file system only {room} more for it: free some there, or start the server with --scratch \
                 in another one"
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
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
        self.broken(why);
        Ok(())
    }

    /// The same for want of room: what scratch has is free then.
    pub fn give_room(&self) -> io::Result<()> {
        self.scratch.set_broken()?;
        let dir = self.scratch.dir().display();
        self.broken(format!(
            "the image had no room left, and got that of scratch in {dir}; free some, or start the server with --scratch elsewhere"
        ));
        Ok(())
    }

    /// That is in the file.
    fn broken(&self, why: String) {
        if self.why.set(why).is_ok()
            && let (Some(log), Some(why)) = (self.log, self.why.get())
        {
            let name = self.scratch.header().name;
            log.note(format_args!(
                "snapshot {name:?} is broken: {why}; the guest's writes go on, reads of the snapshot fail"
            ));
        }
    }

    /// Marks in the map what has been copied so far.
    pub fn mark_again(&self, map: &DirtyMap) -> dirtymap::Result<()> {
        for run in Self::runs(0..self.states.len(), |b| self.states[b].load(SeqCst) & COPY != 0) {
            map.set(self.bytes(run))?;
        }
        Ok(())
    }

    /// Where the old bytes of a block are, unless they cannot be read any more.
    fn readable(&self, b: usize) -> io::Result<u8> {
        let state = self.states[b].load(SeqCst);
        let refused = |why: &str| Err(io::Error::other(why.to_string()));
        if let Some(why) = self.why_broken() {
            return refused(&format!("the snapshot is broken: {why}"));
        }
        match state {
            _ if self.is_ended() => refused("the snapshot has ended"),
            _ if state & DONE != 0 => refused("the backup has said that it is done with this range"),
            _ if state & UNWANTED != 0 => refused("only what was dirty can be read from this snapshot"),
            _ => Ok(state & COPY),
        }
    }

    /// Reads as it was frozen.
    pub fn read(&self, offset: u64, into: &mut [u8], map: &DirtyMap) -> io::Result<()> {
        let end = offset + into.len() as u64;
        let mut rest = self.blocks(&(offset..end));
        while !rest.is_empty() {
            let source = self.readable(rest.start)?;
            let alike = |b| self.readable(b).is_ok_and(|other| other == source);
            let (run, _) = Self::run(rest.clone(), alike).unwrap_or((rest.clone(), true));
            at(Step::Looked);
            let bytes = self.bytes(run.clone());
            let (from, to) = (offset.max(bytes.start), end.min(bytes.end));
            let part = &mut into[(from - offset) as usize..(to - offset) as usize];
            let right = match source {
                0 => self.image.read_exact_at(part, from).map(|()| true)?,
                ZEROS => {
                    part.fill(0);
                    true
                }
                _ => self.read_scratch(run.clone(), from, part)?,
            };
            // What is elsewhere by now is read again, and with bytes that are wrong all of it. An error is that of the block
            // with which the next turn begins.
            let same = match Self::run(run.clone(), alike) {
                _ if !keeps(Rule::ReadThenLook) => run.clone(),
                Some((same, true)) => same,
                _ => run.start..run.start,
            };
            if !right && same == run {
                let why = format!("scratch has lost what was copied of bytes {from} to {to}");
                self.break_off(why.clone(), map)?;
                return Err(io::Error::other(why));
            }
            rest.start = if right { same.end } else { run.start };
        }
        Ok(())
    }

    /// Reads what was copied of some blocks. Whether all their checksums are right.
    fn read_scratch(&self, run: Range<usize>, from: u64, into: &mut [u8]) -> io::Result<bool> {
        if !keeps(Rule::VerifyData) {
            self.scratch.read_data(into, from)?;
            return Ok(true);
        }
        let end = from + into.len() as u64;
        BUFFER.with_borrow_mut(|buffer| {
            for group in self.groups(run) {
                let bytes = self.bytes(group.clone());
                buffer.resize((bytes.end - bytes.start) as usize, 0);
                let entries = self.scratch.read_entries(group.start as u64..group.end as u64)?;
                if self.scratch.read_data(buffer, bytes.start).is_err() {
                    return Ok(false);
                }
                let is_right = |(block, entry): (&[u8], Option<Entry>)| {
                    entry.and_then(|entry| entry.copy).is_some_and(|(_, expected)| crc32fast::hash(block) == expected)
                };
                if !buffer.chunks(self.block as usize).zip(entries).all(is_right) {
                    return Ok(false);
                }
                let (first, last) = (from.max(bytes.start), end.min(bytes.end));
                into[(first - from) as usize..(last - from) as usize]
                    .copy_from_slice(&buffer[(first - bytes.start) as usize..(last - bytes.start) as usize]);
            }
            Ok(true)
        })
    }

    /// The backup is done with the blocks that are all in this range: their scratch is freed, and nothing of them is
    /// copied any more.
    pub fn done(&self, range: Range<u64>) -> io::Result<()> {
        let last = if range.end >= self.size { self.states.len() } else { (range.end / self.block) as usize };
        for group in self.groups(range.start.div_ceil(self.block) as usize..last) {
            let _lock = self.lock(group.start);
            if self.is_broken() || self.is_ended() {
                return Ok(());
            }
            for run in Self::runs(group, |b| self.states[b].load(SeqCst) & (DONE | UNWANTED) == 0) {
                self.scratch.write_done(run.start as u64..run.end as u64)?;
                at(Step::DoneWritten);
                let mut freed = 0;
                for b in run.clone() {
                    let before = self.states[b].fetch_or(DONE, SeqCst);
                    let bytes = self.length(b..b + 1);
                    self.done.fetch_add(if before & DIRTY != 0 { bytes } else { 0 }, SeqCst);
                    freed += if before & COPY == COPIED { self.block } else { 0 };
                }
                if freed != 0 {
                    self.scratch.free(run.start as u64 * self.block, run.len() as u64 * self.block);
                    self.used.fetch_sub(freed, SeqCst);
                }
                at(Step::Freed);
            }
        }
        Ok(())
    }

    /// Whether the block at the start of a range is still to be copied by a backup, and how far that goes.
    pub fn to_do(&self, range: Range<u64>) -> (bool, u64) {
        self.alike(range, |b| self.states[b].load(SeqCst) & (DIRTY | DONE) == DIRTY)
    }

    /// The same of zeros that need not be read. No further than the image was looked at.
    pub fn zeros(&self, range: Range<u64>) -> (bool, u64) {
        let first = self.blocks(&range).start;
        let first = self.bytes(first..first + 1);
        let hole = self.hole(&first);
        let seen = if hole.end < first.end { self.end_of_data(hole.end) } else { hole.end };
        let end = seen.next_multiple_of(self.block).max(first.end).min(range.end);
        self.alike(range.start..end, |b| {
            // Looked at after the image: what is not copied by now was no other.
            let state = self.states[b].load(SeqCst);
            let bytes = self.bytes(b..b + 1);
            let in_image = || hole.start <= bytes.start && bytes.end <= hole.end;
            state & (DONE | UNWANTED) == 0 && (state & COPY == ZEROS || state & COPY == 0 && in_image())
        })
    }

    fn alike(&self, range: Range<u64>, is: impl Fn(usize) -> bool) -> (bool, u64) {
        let Some((run, such)) = Self::run(self.blocks(&range), is) else { return (false, range.end - range.start) };
        (such, self.bytes(run).end.min(range.end) - range.start)
    }

    /// The end of the data that `at` is known to be in.
    fn known_data(&self, at: u64) -> Option<u64> {
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        data.contains(&at).then_some(data.end)
    }

    /// The hole of the image in which a block begins.
    fn hole(&self, block: &Range<u64>) -> Range<u64> {
        if self.known_data(block.start).is_some() {
            return block.start..block.start;
        }
        match rustix::fs::seek(&self.image, SeekFrom::Data(block.start)) {
            Ok(data) => block.start..data,
            // What is behind the end of an image that was cut off is no hole: reading it is to fail.
            Err(rustix::io::Errno::NXIO) if self.is_whole().is_ok() => block.start..self.size,
            Err(_) => block.start..block.start,
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

    /// Bytes of scratch.
    pub fn used(&self) -> u64 {
        // What was kept was given back when it broke, or ended.
        if self.is_broken() || self.is_ended() { 0 } else { self.used.load(SeqCst) }
    }

    pub fn progress(&self) -> Progress {
        let [frozen_bytes, done_bytes] = [&self.frozen, &self.done].map(|n| n.load(SeqCst));
        let checkpoint = self.checkpoint().filter(|_| !self.is_ended()).map(|uuid| uuid.to_string());
        let committed = self.is_ended() && self.committed.load(SeqCst);
        Progress { frozen_bytes, done_bytes, scratch_bytes: self.used(), checkpoint, committed }
    }
}
