//! [`Core`]: an open map as all its threads share it, and the update lock.
//!
//! Invariant kept here: whoever holds the [`Update`] guard is alone, among all threads and processes,
//! in arming, resetting, flushing and committing; the kernel lets go for a holder that dies.

use super::changes::SharedChanges;
use super::intent_set::IntentSet;
use super::lately::Lately;
use super::point_set::Cache;
use crate::error::{Error, InUse, Result, Unusable};
use crate::file::bottom::BottomRef;
use crate::file::locks::{Deadline, POLITE, Wait, locked, wait_for};
use crate::format::{Durability, Header, Layout, Stamp, Uuid, WordRanges};
use crate::geometry::Geometry;
use crate::map_file::MapFile;
use crate::options::Bounds;
use crate::progress::Step;
use crate::shm::runtime;
use crate::shm::space::Allocated;
use crate::shm::view::{Look, ShmView};
use crate::sync::{self, Mutex, MutexGuard};
use crate::sys::{Lock, Storage, fork};
use crate::trace::event;
use crate::watcher::Watcher;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// An open, writable map.
pub(crate) struct Core {
    pub(super) disk: Arc<dyn Storage>,
    pub(super) path: PathBuf,
    pub(super) view: ShmView,
    pub(super) uuid: Uuid,
    pub(super) layout: Layout,
    /// The session that this map belongs to.
    pub(super) nonce: Uuid,
    /// The slot of this process.
    pub(super) slot: u64,
    /// Tells it from every other map of this process.
    pub(super) id: u64,
    /// What the map survives. In a `Process` map one run over everything is listed for as long as it is open.
    pub(super) durability: Durability,
    /// The volatile part is a region of the file.
    pub(super) in_file: bool,
    /// Other processes may have the map open as well.
    pub(super) shared: bool,
    /// How long to wait for locks.
    pub(super) lock_timeout: Duration,
    /// How much is armed at most. The list of a `Process` map names all.
    pub(super) bounds: Bounds,
    /// The intent of the header, as far as somebody has read it.
    pub(super) intent: std::sync::Mutex<Option<Arc<IntentSet>>>,
    /// Odd while summaries are being cleared; readers look again. Only in a map that is opened alone.
    pub(super) seqlock: sync::AtomicU64,
    /// Held while that is odd.
    pub(super) quiet: Mutex<()>,
    pub(super) counters: Counters,
    pub(super) born: fork::Generation,
    state: Mutex<Update>,
    /// Words that threads of this process wait to have armed.
    pub(super) waiting: Mutex<Vec<Range<u64>>>,
    /// A reset of everything was done, and the dirt that was added before it is forgotten with the next flush.
    pub(super) all_reset: ReasonsSnapshot,
    /// What dirt had been added when a backup began.
    pub(super) backup_began: ReasonsSnapshot,
    /// The same of the freeze that this process has under way.
    pub(super) freeze_began: ReasonsSnapshot,
    failed: AtomicBool,
    /// Which chunks were changed, if somebody wants to know.
    pub(super) changes: SharedChanges,
    /// Held by a thread that writes a region which no header names yet.
    pub(super) space: Mutex<()>,
    /// The outstanding point, as far as somebody has read it.
    pub(super) frozen: Cache,
    /// The image as it was recorded when the map was opened.
    pub(super) image_before: Option<Stamp>,
    /// Whom long work tells.
    pub(super) watcher: Watcher,
}

/// What one holder of the update lock leaves for the next in this process. Only hints: nothing in it is needed
/// to be right for coverage.
#[derive(Debug, Default)]
pub(crate) struct Update {
    /// Chunks of the live level whose volatile space is known to be allocated.
    pub(super) allocated: Allocated,
    /// Where writers that go through the map in order will need the next word, and how far to arm ahead of them.
    pub(super) streams: [(u64, u64); 8],
    pub(super) next_stream: usize,
    /// Pages in which this process has reset something since the last flush.
    pub(super) reset_pages: WordRanges,
    /// What is hot.
    pub(super) lately: Lately,
}

/// Work done since the map was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub arms: AtomicU64,
    pub syncs: AtomicU64,
    pub flushes: AtomicU64,
    pub bytes_written: AtomicU64,
    pub slow_sets: AtomicU64,
}

impl Counters {
    /// Goes on counting where others stopped.
    pub(super) fn continue_from(&self, others: &Counters) {
        let Counters { arms, syncs, flushes, bytes_written, slow_sets } = self;
        let Counters { arms: a, syncs: s, flushes: f, bytes_written: b, slow_sets: l } = others;
        for (to, from) in [(arms, a), (syncs, s), (flushes, f), (bytes_written, b), (slow_sets, l)] {
            to.store(from.load(Relaxed), Relaxed);
        }
    }
}

/// The update lock, held.
pub(crate) struct Locked<'a> {
    pub(super) core: &'a Core,
    pub(super) state: MutexGuard<'a, Update>,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.core.disk.unlock(Lock::Update);
    }
}

/// What [`Core::new`] needs to know beside the header.
pub(crate) struct Parts {
    pub disk: Arc<dyn Storage>,
    pub path: PathBuf,
    pub view: ShmView,
    pub nonce: Uuid,
    pub slot: u64,
    pub shared: bool,
    pub lock_timeout: Duration,
    pub bounds: Bounds,
    pub allocated: Allocated,
    pub image_before: Option<Stamp>,
    pub watcher: Watcher,
}

/// Whether the volatile part of a map that is opened for writing is a region of the file.
pub(crate) fn in_file(header: &Header, shared: bool) -> bool {
    shared || header.durability == Durability::Process
}

/// What only tests look at.
#[cfg(test)]
impl Core {
    pub(crate) fn view(&self) -> &ShmView {
        &self.view
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether no thread of this process has the space lock.
    pub(crate) fn space_is_free(&self) -> bool {
        self.space.try_lock().is_ok()
    }
}

impl Core {
    pub(crate) fn new(parts: Parts, header: &Header) -> Result<Core> {
        let Parts { disk, path, view, nonce, slot, shared, lock_timeout, .. } = parts;
        let Parts { bounds, allocated, image_before, watcher, .. } = parts;
        let born = fork::generation().map_err(MapFile::new(&*disk, &path).io("prepare for forks"))?;
        let core = Core {
            disk,
            path,
            view,
            uuid: header.uuid,
            layout: header.layout.clone(),
            nonce,
            slot,
            id: new_id(),
            durability: header.durability,
            in_file: in_file(header, shared),
            shared,
            lock_timeout,
            bounds,
            intent: std::sync::Mutex::default(),
            seqlock: sync::AtomicU64::new(0),
            quiet: Mutex::default(),
            counters: Counters::default(),
            born,
            state: Mutex::new(Update { allocated, ..Update::default() }),
            waiting: Mutex::default(),
            all_reset: ReasonsSnapshot::default(),
            backup_began: ReasonsSnapshot::default(),
            freeze_began: ReasonsSnapshot::default(),
            failed: AtomicBool::new(false),
            changes: SharedChanges::default(),
            space: Mutex::default(),
            frozen: Cache::default(),
            image_before,
            watcher,
        };
        core.stay_off_volatile();
        if core.in_file {
            let state = core.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.allocated.prepare(core.file(), &core.view)?;
        }
        Ok(core)
    }

    /// No sync of a durable write spans the volatile part from here on, if it is part of the file.
    pub(super) fn stay_off_volatile(&self) {
        if self.in_file {
            self.disk.exclude_from_sync(self.layout.volatile.clone());
        }
    }

    /// Its file.
    pub(crate) fn file(&self) -> MapFile<'_> {
        MapFile::new(&*self.disk, &self.path)
    }

    /// Its bottom in the file.
    pub(super) fn bottom(&self) -> BottomRef {
        BottomRef::new(self.uuid, *self.geometry(), &self.layout)
    }

    #[inline]
    pub(crate) fn geometry(&self) -> &Geometry {
        self.view.geometry()
    }

    /// The bits and the runtime page, to be looked at.
    #[inline]
    pub(crate) fn look(&self) -> &dyn Look {
        &self.view
    }

    /// The file.
    pub(crate) fn disk(&self) -> &dyn Storage {
        &*self.disk
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether other processes may have the map open as well.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// How long to wait for locks.
    pub(crate) fn lock_timeout(&self) -> Duration {
        self.lock_timeout
    }

    /// What the map survives.
    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    /// The image as it was recorded when the map was opened.
    pub(crate) fn image_before(&self) -> Option<Stamp> {
        self.image_before
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Which chunks were changed, if somebody wants to know.
    pub(crate) fn changes(&self) -> &SharedChanges {
        &self.changes
    }

    /// From here on others may look at the session, and join it.
    pub(crate) fn admit_others(&self) {
        self.view.set_nonce(&self.nonce.0);
    }

    /// Whether this process may use the map: not after a fork.
    #[inline]
    pub(crate) fn usable(&self) -> Result<()> {
        if self.is_usable() { Ok(()) } else { Err(Error::Unusable { why: Unusable::Forked }) }
    }

    /// The same as a plain answer.
    #[inline]
    pub(crate) fn is_usable(&self) -> bool {
        self.born.is_current()
    }

    pub(crate) fn io(&self, op: &'static str) -> impl FnOnce(io::Error) -> Error + '_ {
        self.file().io(op)
    }

    /// Takes the update lock, waiting for it as long as the options say.
    pub(crate) fn lock(&self) -> Result<Locked<'_>> {
        self.lock_within(self.lock_timeout)
    }

    /// The same, waiting no longer than that. Threads that wait for the same lock give up together.
    pub(super) fn lock_within(&self, wait: Duration) -> Result<Locked<'_>> {
        self.usable()?;
        let end = Deadline::after(wait);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait_for_update(end, || false)?;
        Ok(Locked { core: self, state })
    }

    /// The same to arm words, unless the first of them has all of a mask armed by then. While this waits, a process that has the
    /// lock sees which, and arms them as well. Says how many words to arm ahead.
    pub(super) fn lock_to_arm(&self, words: &Range<u64>, mask: u64) -> Result<Option<(Locked<'_>, u64)>> {
        self.usable()?;
        let end = Deadline::after(self.lock_timeout);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let armed = || self.view.armed()[words.start as usize].load(SeqCst) & mask == mask;
        if armed() {
            return Ok(None); // By the thread that had the lock before: the stream is that one's.
        }
        let ahead = state.ahead_of(words, self.bounds.ahead);
        let wanted = self.view.runtime().get(runtime::wanted(self.slot)).filter(|_| self.shared);
        let all = words.start..(words.end + ahead).min(self.geometry().words());
        wanted.iter().for_each(|wanted| wanted.store(runtime::pack_wanted(&all), SeqCst));
        let taken = self.wait_for_update(end, armed);
        wanted.iter().for_each(|wanted| wanted.store(0, SeqCst));
        Ok(taken?.then_some((Locked { core: self, state }, ahead)))
    }

    /// Whether a durable write has failed in this session.
    pub(crate) fn write_failed(&self) -> bool {
        // Here as well: after a failed write-back the runtime page of a file may be read back as it was.
        self.failed.load(SeqCst) || self.view.runtime()[runtime::DEGRADED].load(SeqCst) != 0
    }

    /// Whether what this map answers may lack bits that were set: the kernel could not write some of its memory back, which
    /// it then may drop, and was not made to keep it. To be asked after the answers.
    pub(crate) fn may_lack_bits(&self) -> bool {
        if self.durability != Durability::Process || self.view.stays() {
            return false;
        }
        if self.disk.write_back_failed() {
            self.record_write_failure();
        }
        self.write_failed()
    }

    /// Remembers for the rest of the session that a durable write failed.
    pub(crate) fn record_write_failure(&self) {
        event!(ERROR, "a durable write failed", path = %self.path.display());
        twin!(RecordWriteFailure => return);
        self.failed.store(true, SeqCst);
        self.view.runtime()[runtime::DEGRADED].store(1, SeqCst);
    }

    /// Granules that are dirty in the durable bottom.
    pub(super) fn count_durable(&self) -> u64 {
        let levels = self.view.levels();
        let (mut count, mut at, end) = (0, 0, self.geometry().words());
        while let Some((w, _)) = levels.next_nonzero_word(at..end) {
            count += u64::from(self.view.durable()[w as usize].load(SeqCst).count_ones());
            at = w + 1;
        }
        count
    }

    /// Says up to which word it is; fails if the work is to stop.
    pub(crate) fn tell(&self, step: Step, word: u64) -> Result<()> {
        let g = self.geometry();
        self.watcher.tell(step, g.item_of(word * 64), g.len())
    }

    /// Takes the update lock among processes. Those that share a map take turns: otherwise one that takes the lock again and again
    /// would leave none to the others, which look for it now and then only. Says whether it has it: not if that is needless.
    fn wait_for_update(&self, end: Deadline, needless: impl Fn() -> bool) -> Result<bool> {
        let file = self.file();
        let turn = if self.shared {
            wait_for(file, Lock::UpdateQueue, end.or_after(POLITE), &needless)?
        } else {
            Wait::TooLong
        };
        if turn == Wait::Needless {
            return Ok(false);
        }
        let taken = wait_for(file, Lock::Update, end, needless);
        if turn == Wait::Taken {
            file.disk.unlock(Lock::UpdateQueue);
        }
        match taken? {
            Wait::TooLong => Err(locked(file, Lock::Update, InUse::Update)),
            taken => Ok(taken == Wait::Taken),
        }
    }
}

/// What this process has seen of the word `adding` when it began something that takes all dirt away.
#[derive(Default)]
pub(crate) struct ReasonsSnapshot(std::sync::Mutex<Option<u64>>);

impl ReasonsSnapshot {
    pub(crate) fn get(&self) -> Option<u64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, seen: Option<u64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

/// A number that no other map of this process has or had. Addresses come back, and a bracket may never end.
fn new_id() -> u64 {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    LAST.fetch_add(1, SeqCst)
}
