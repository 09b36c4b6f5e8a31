//! [`DirtyMap`]: the map in a file.
//!
//! Invariant kept here: coverage. What `set` has returned `Ok` for reads dirty after any crash and any
//! recovery, until someone resets it. docs/design.md tells why it holds, `weak` lists the steps it hangs on.

pub(crate) mod backup;
pub(crate) mod changes;
pub(crate) mod checkpoint;
pub(crate) mod close;
pub(crate) mod combine;
pub(crate) mod load;
pub(crate) mod open;
pub(crate) mod points;
pub(crate) mod resize;
pub(crate) mod write;

pub use close::CloseError;
pub use load::MapLoading;

use crate::engine::core::Core;
use crate::engine::flusher::Flusher;
use crate::engine::point_set::{Both, Dirt, Frozen};
use crate::engine::read::Here;
use crate::error::{Error, Result};
use crate::file::headers;
use crate::format::{Durability, Header, Runs};
use crate::fsck::check::Info;
use crate::geometry::Geometry;
use crate::query::{AnyMap, Areas, Granules, Search, WordsIter};
use crate::session::locks::Seat;
use crate::session::recovery::Recovery;
use crate::session::watch::Watch;
use crate::shm::view::{Look, View};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A dirty map in a file: which granules of a disk image were written, surviving any crash.
///
/// Positions and lengths are in items (bytes, for a disk image), ranges are half-open and must lie inside
/// `0..=len`.
///
/// **Coverage.** Once [`set`](Self::set) has returned `Ok`, every granule of its range reads dirty after any crash
/// and any recovery, until someone resets it. So call `set` *before* writing the data. After an error from `set`
/// the data must not be written.
///
/// **Threads** share a map by reference. Setting bits that are durable already takes one load a word; setting new bits
/// in an armed word takes no lock; arming a word, resetting and flushing take a lock and a device sync.
/// Reading takes no lock. **Processes** that open it with [`Access::Shared`] share a map in the same way, and any of them may be
/// killed at any time; who opens it otherwise has it alone. [`Access::ReadOnly`] sees what they set as they do it, until the last
/// of them has closed the map or one changes its length: then reading fails with [`Error::Unusable`], and from what cannot
/// return an error the answer is "dirty". A forked child must not use an inherited map: it gets [`Error::Unusable`], and from what cannot
/// return an error "dirty". A child that lives on keeps the locks of a parent that was killed.
///
/// **Space**: 1 bit of disk per granule, in pages of 4096 granules that are not all clean: 2 MiB per TiB of image at
/// 64 KiB granularity. While open, about 2 bits of memory per granule there; a [`Durability::Process`] map maps them from
/// the file, which takes as much disk.
///
/// Dropping a map without [closing](Self::close) it loses nothing, but the next open recovers.
pub struct DirtyMap {
    pub(crate) inner: Inner,
    path: PathBuf,
    recovery: Recovery,
}

pub(crate) enum Inner {
    /// Open for writing.
    Live(Live),
    /// Loaded for reading.
    Loaded(Box<Snapshot>),
    /// Open for writing by others, and looked at.
    Watching(Box<Watch>),
}

/// What a map held when it was loaded for reading.
pub(crate) struct Snapshot {
    pub(crate) view: View,
    /// Words that are wholly dirty, without a place in the view.
    pub(crate) whole: Runs,
    /// Those of them that are dirty for want of knowledge.
    pub(crate) assumed: Runs,
    pub(crate) header: Header,
    /// The outstanding point.
    pub(crate) frozen: Option<Frozen>,
}

impl Snapshot {
    fn dirt(&self) -> Dirt<'_> {
        Dirt::new(&self.view, &self.whole, &self.assumed)
    }
}

pub(crate) struct Live {
    // Dropped in this order: the flusher ends before the locks go.
    pub(crate) flusher: Option<Flusher>,
    pub(crate) core: Arc<Core>,
    pub(crate) seat: Seat,
    /// How often the flusher flushes.
    pub(crate) flush_interval: Option<Duration>,
    /// How long a freeze waits for writes under way.
    pub(crate) freeze_timeout: Duration,
    /// Why nothing may be written any more.
    pub(crate) broken: Option<&'static str>,
}

impl Live {
    /// Whether the map may be used for writing.
    #[inline]
    pub(crate) fn usable(&self) -> Result<()> {
        self.core.usable()?;
        self.broken.map_or(Ok(()), |why| Err(Error::Unusable { why }))
    }
}

/// Work that a map has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Headers committed to arm words.
    pub arms: u64,
    /// Durable writes after opening, each of which costs a device sync.
    pub syncs: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes written durably after opening.
    pub bytes_written: u64,
    /// Times that a `set` found a word not armed, and waited for the update lock to have it armed: mostly for a commit.
    pub slow_sets: u64,
    /// Items that opening the map made dirty because they were armed.
    pub recovered_items: u64,
    /// Pages that opening it found interrupted or damaged, and made dirty.
    pub failed_pages: u64,
    /// Header copies that opening it found damaged.
    pub damaged_headers: u64,
}

impl DirtyMap {
    #[inline]
    pub(crate) fn view(&self) -> &dyn Look {
        match &self.inner {
            Inner::Live(live) => &live.core.view,
            Inner::Loaded(loaded) => &loaded.view,
            Inner::Watching(watch) => &watch.view,
        }
    }

    /// The header as it is now.
    pub(crate) fn header(&self) -> Result<Header> {
        match &self.inner {
            Inner::Live(live) => Ok(headers::newest(&*live.core.disk, &self.path)?.header),
            Inner::Loaded(loaded) => Ok(loaded.header.clone()),
            Inner::Watching(watch) => Ok(headers::newest(&*watch.disk, &self.path)?.header),
        }
    }

    #[inline]
    pub(crate) fn core(&self) -> Result<&Core> {
        match &self.inner {
            Inner::Live(live) => {
                live.usable()?;
                Ok(&live.core)
            }
            Inner::Loaded(_) | Inner::Watching(_) => Err(Error::ReadOnly),
        }
    }

    /// Fails in a forked child, where the memory of the map is not there, and when those who had it open are gone.
    pub(crate) fn readable(&self) -> Result<&Self> {
        match &self.inner {
            Inner::Live(live) => live.core.usable()?,
            Inner::Loaded(loaded) => loaded.view.usable()?,
            Inner::Watching(watch) => watch.usable()?,
        }
        Ok(self)
    }

    /// Confirms that earlier answers came from a live session. Call it after infallible reads such as `count` of a map that
    /// [others](Access::Shared) have open. Everything reads dirty from the moment on in which this begins to fail.
    ///
    /// # Errors
    /// [`Error::Unusable`] when it was open for reading and those who had it open have closed it or changed its length,
    /// and in a forked child.
    pub fn still_valid(&self) -> Result<()> {
        self.readable().map(drop)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in items.
    #[allow(clippy::len_without_is_empty, reason = "is_empty asks for dirt, as in Bitmap")]
    pub fn len(&self) -> u64 {
        self.geometry().len()
    }

    /// log2 of the items per granule.
    pub fn granularity(&self) -> u32 {
        self.geometry().granularity()
    }

    /// The map's shape.
    pub fn geometry(&self) -> &Geometry {
        self.view().geometry()
    }

    /// What opening found.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Marks every granule that `range` touches. When it has returned `Ok`, no crash takes that back.
    ///
    /// Cost: one load a word of 64 granules for those that are dirty and flushed already; no lock for words that are
    /// armed; else one device sync for as many words as the [bound](Options::armed_bound) allows.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], and nothing is changed. [`Error::ReadOnly`]. [`Error::Io`] when the disk is full or
    /// fails: then **do not write the data**; some of the granules may be marked. [`Error::Interrupted`] for a long range, when
    /// [who is told](Options::progress) had it stopped: the same, and what is marked is a prefix of the range.
    #[inline]
    pub fn set(&self, range: Range<u64>) -> Result<()> {
        let core = self.core()?;
        // The look that set_bits begins with, for a single granule, which is the common case.
        match core.geometry().only_bit(&range) {
            Some(bit) if core.is_durable(bit) => Ok(()),
            Some(bit) => core.set_bit(bit),
            None => core.set_range(range),
        }
    }

    /// Marks everything.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_all(&self) -> Result<()> {
        let core = self.core()?;
        core.set_bits(0..core.geometry().bits())
    }

    /// Clears whole granules. Only when the data that they stand for is durable elsewhere: sync first.
    ///
    /// Durable after the next [`flush`](Self::flush); a crash before that brings the dirt back.
    /// A `set` of the same granules that runs at the same time may be undone or not.
    /// Cost: the dirty words of the range, under the update lock.
    ///
    /// # Errors
    /// [`Error::Unaligned`] when the range covers a granule only in part, [`Error::OutOfRange`]; then nothing is
    /// changed. [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset(&self, range: Range<u64>) -> Result<()> {
        let core = self.core()?;
        core.geometry().check(&range)?;
        core.reset_bits(core.geometry().exact(&range)?)
    }

    /// Clears the granules that lie wholly inside `range`; the last one counts as whole when the range reaches the end.
    /// Else as [`reset`](Self::reset).
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset_within(&self, range: Range<u64>) -> Result<()> {
        let core = self.core()?;
        core.geometry().check(&range)?;
        core.reset_bits(core.geometry().within(&range))
    }

    /// Clears every granule that `range` touches. **Loses dirt**: a write outside the range, but in a granule at one of
    /// its ends, is forgotten. Right only where nothing but the range was written. Else as [`reset`](Self::reset).
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset_covering(&self, range: Range<u64>) -> Result<()> {
        let core = self.core()?;
        core.geometry().check(&range)?;
        core.reset_bits(core.geometry().touched(&range))
    }

    /// Clears everything, and with the next flush what recovery added is forgotten as well: the verdict becomes
    /// [`Verdict::Exact`], unless such dirt is in an outstanding [checkpoint](Self::freeze) or was added meanwhile. Else as
    /// [`reset`](Self::reset).
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset_all(&self) -> Result<()> {
        self.core()?.reset_all()
    }

    /// Brings the durable bottom level up to date and empties the armed list: makes resets durable, and a crash
    /// after it adds no dirt for what was set before it. Words that are set again afterwards are armed again,
    /// which costs a sync each. Cost: up to three device syncs, and the changed pages.
    ///
    /// # Errors
    /// [`Error::Io`] when writing fails. Nothing is lost then: what could not be written stays armed, is written again
    /// by the next flush, and the map does not close as clean.
    pub fn flush(&self) -> Result<()> {
        self.core()?.flush()
    }

    /// Whether `item`'s granule is dirty.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for an item that is not in the map.
    pub fn get(&self, item: u64) -> Result<bool> {
        AnyMap::get(self.readable()?, item)
    }

    /// Whether `item`'s granule is dirty here, leaving out what an outstanding [checkpoint](Self::freeze) has frozen: whether
    /// it was set since.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_here(&self, item: u64) -> Result<bool> {
        self.readable()?;
        let found = AnyMap::get(&self.here(), item)?;
        self.readable().map(|_| found)
    }

    /// Whether anything is dirty here, leaving out what an outstanding [checkpoint](Self::freeze) has frozen: whether anything
    /// was set since. Cost: up to all words, once.
    ///
    /// # Errors
    /// [`Error::Unusable`].
    pub fn any_here(&self) -> Result<bool> {
        self.readable()?;
        let found = !AnyMap::is_empty(&self.here());
        self.readable().map(|_| found)
    }

    /// Granules that are dirty. Cost: their words.
    pub fn count(&self) -> u64 {
        AnyMap::count(self)
    }

    /// Items of dirty granules, the partial last granule counted as what it is. Cost: as [`count`](Self::count).
    pub fn dirty_len(&self) -> u64 {
        AnyMap::dirty_len(self)
    }

    /// Dirty granules among those that `range` touches.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn count_range(&self, range: Range<u64>) -> Result<u64> {
        AnyMap::count_range(self.readable()?, range)
    }

    /// Whether nothing is dirty.
    pub fn is_empty(&self) -> bool {
        AnyMap::is_empty(self)
    }

    /// Whether everything is dirty.
    pub fn is_full(&self) -> bool {
        AnyMap::is_full(self)
    }

    /// Whether any item of `range` is dirty; `false` for an empty range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn any(&self, range: Range<u64>) -> Result<bool> {
        AnyMap::any(self.readable()?, range)
    }

    /// Whether all items of `range` are dirty; `true` for an empty range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn all(&self, range: Range<u64>) -> Result<bool> {
        AnyMap::all(self.readable()?, range)
    }

    /// The first dirty item of `range`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn next_dirty(&self, range: Range<u64>) -> Result<Option<u64>> {
        AnyMap::next_dirty(self.readable()?, range)
    }

    /// The first clean item of `range`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn next_clean(&self, range: Range<u64>) -> Result<Option<u64>> {
        AnyMap::next_clean(self.readable()?, range)
    }

    /// The first dirty area of `range`, cut at `max_len` items and at the range's ends.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ZeroLength`].
    pub fn next_area(&self, range: Range<u64>, max_len: u64) -> Result<Option<Range<u64>>> {
        AnyMap::next_area(self.readable()?, range, max_len)
    }

    /// Whether `range.start` is dirty, and how many items from there on are in the same state; `None` for an
    /// empty range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn run(&self, range: Range<u64>) -> Result<Option<(bool, u64)>> {
        AnyMap::run(self.readable()?, range)
    }

    /// SHA-256 over the bottom level's words as little-endian bytes, as [`Bitmap::sha256`](crate::Bitmap::sha256). Of what is
    /// dirty here: without an outstanding checkpoint. In a forked child, that of a map that is all dirty.
    pub fn sha256(&self) -> [u8; 32] {
        let here = self.readable().map(|_| AnyMap::sha256(&self.here()));
        // Asked again: the session of others may have ended meanwhile.
        match here {
            Ok(here) if self.readable().is_ok() => here,
            _ => AnyMap::sha256(self),
        }
    }

    /// Only what is dirty here, without the outstanding point.
    pub(crate) fn here(&self) -> Here<'_> {
        match &self.inner {
            Inner::Live(live) => Here { dirt: Dirt::of(&live.core.view), core: Some(&*live.core) },
            Inner::Loaded(loaded) => Here { dirt: loaded.dirt(), core: None },
            Inner::Watching(watch) => Here { dirt: Dirt::of(&watch.view), core: None },
        }
    }

    /// The checkpoint word of the runtime page; 0 for a map that nobody changes.
    pub(crate) fn checkpoint_word(&self) -> u64 {
        match &self.inner {
            Inner::Live(live) => live.core.checkpoint_word(),
            Inner::Loaded(_) => 0,
            Inner::Watching(watch) => watch.checkpoint_word(),
        }
    }

    /// The first item of each dirty granule that `range` touches, ascending. May run while others set and reset.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn granules(&self, range: Range<u64>) -> Result<Granules<'_, DirtyMap>> {
        AnyMap::granules(self.readable()?, range)
    }

    /// The dirty areas of `range`, ascending. May run while others set and reset.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn areas(&self, range: Range<u64>) -> Result<Areas<'_, DirtyMap>> {
        AnyMap::areas(self.readable()?, range)
    }

    /// The nonzero words of the bottom level, with their indices; the first and last masked to `range`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn words(&self, range: Range<u64>) -> Result<WordsIter<'_, DirtyMap>> {
        AnyMap::words(self.readable()?, range)
    }

    /// What is known of the map and its file now.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Corrupt`] when the header cannot be read back.
    pub fn info(&self) -> Result<Info> {
        self.readable()?;
        let open = !matches!(self.inner, Inner::Loaded(_));
        Ok(Info::of_map(self, &self.header()?, open))
    }

    /// Work done since the map was opened, and what opening it found. A map that is open for reading does no work.
    pub fn stats(&self) -> Stats {
        let found = Stats {
            recovered_items: self.recovery.armed_items,
            failed_pages: self.recovery.interrupted_pages + self.recovery.damaged_pages,
            damaged_headers: self.recovery.damaged_headers,
            ..Stats::default()
        };
        match &self.inner {
            Inner::Live(live) => {
                let c = &live.core.counters;
                Stats {
                    arms: c.arms.load(Relaxed),
                    syncs: c.syncs.load(Relaxed),
                    flushes: c.flushes.load(Relaxed),
                    bytes_written: c.bytes_written.load(Relaxed),
                    slow_sets: c.slow_sets.load(Relaxed),
                    ..found
                }
            }
            Inner::Loaded(_) | Inner::Watching(_) => found,
        }
    }
}

impl AnyMap for DirtyMap {}

impl Search for DirtyMap {
    const STABLE: bool = false;

    fn geometry(&self) -> &Geometry {
        self.view().geometry()
    }

    fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        let all_dirty = || Some(bits.start).filter(|_| bits.start < bits.end);
        self.search(|map| map.next_set(bits.clone())).unwrap_or_else(all_dirty)
    }

    fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        self.search(|map| map.next_clear(bits.clone())).unwrap_or(None)
    }

    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        let first = words.start;
        let all_dirty = || Some((first, self.geometry().word_mask(first))).filter(|w| first < words.end && w.1 != 0);
        self.search(|map| map.next_nonzero_word(words.clone())).unwrap_or_else(all_dirty)
    }

    fn full_words(&self, words: Range<u64>) -> Option<Range<u64>> {
        self.search(|map| map.full_words(words.clone())).unwrap_or_else(|| Some(words.clone()))
    }

    fn check_readable(&self) -> Result<()> {
        self.readable().map(|_| ())
    }

    fn word(&self, i: u64) -> u64 {
        self.search(|map| map.word(i)).unwrap_or_else(|| self.geometry().word_mask(i))
    }

    fn certain_word(&self, i: u64) -> u64 {
        self.search(|map| map.certain_word(i)).unwrap_or(0)
    }
}

impl DirtyMap {
    /// Runs a search over the levels; `None` in a forked child, which has no levels. Those of its questions that cannot be
    /// answered with an error are answered with "dirty".
    #[inline]
    fn search<R>(&self, f: impl Fn(&Both<'_>) -> R) -> Option<R> {
        match &self.inner {
            Inner::Live(live) => {
                live.core.usable().ok()?;
                Some(live.core.together(f))
            }
            Inner::Loaded(loaded) => {
                loaded.view.usable().ok()?;
                Some(f(&Both { here: loaded.dirt(), point: loaded.frozen.as_ref().map(Frozen::dirt) }))
            }
            Inner::Watching(watch) => watch.read(f),
        }
    }

    /// What the map survives.
    pub fn durability(&self) -> Durability {
        match &self.inner {
            Inner::Live(live) if live.core.lists_all => Durability::Process,
            Inner::Live(_) => Durability::PowerLoss,
            Inner::Loaded(loaded) => loaded.header.durability,
            Inner::Watching(watch) => watch.durability,
        }
    }
}

impl fmt::Debug for DirtyMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyMap").field("path", &self.path).field("geometry", self.geometry()).finish_non_exhaustive()
    }
}
