//! Reading a map.
//!
//! Invariant kept here: what cannot return an error answers "dirty" where nothing is known, in a forked child and when the session of
//! others has ended.

use super::dirty_map::{DirtyMap, Inner};
use crate::engine::point_set::{Dirt, UnionView};
use crate::engine::read::Current;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::geometry::Geometry;
use crate::hierarchy::Block;
use crate::query::{Extents, Granules, ReadMap, Search, WordsIter, first_block};
use std::ops::{Range, RangeBounds};

/// Reading: single items, ranges, and iterators. Every answer is one of a moment; while others set and reset, take a
/// [checkpoint](Self::freeze) to read one state.
///
/// ```
/// # use dirtymap::Options;
/// # let dir = tempfile::tempdir()?;
/// let map = Options::new().create(dir.path().join("map"), 1 << 30)?; // granules of 65536
/// map.set_ranges(&[0..1, 300_000..400_000])?;
/// assert!(map.get(65535)? && !map.get(65536)? && map.any(200_000..)? && !map.all(..)?);
/// assert_eq!((map.count(), map.dirty_len()), (4, 4 * 65536));
/// assert_eq!((map.next_dirty(65536..)?, map.next_clean(..)?), (Some(262_144), Some(65536)));
/// assert!(map.extents(..)?.eq([0..65536, 262_144..458_752]));
/// assert_eq!(map.granules(..)?.count(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl DirtyMap {
    /// Whether `item`'s granule is dirty.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for an item that is not in the map.
    pub fn get(&self, item: u64) -> Result<bool> {
        ReadMap::get(self.readable()?, item)
    }

    /// Whether `item`'s granule is dirty here, leaving out what an outstanding [checkpoint](Self::freeze) has frozen: whether
    /// it was set since.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_since_freeze(&self, item: u64) -> Result<bool> {
        self.readable()?;
        let found = ReadMap::get(&self.current(), item)?;
        self.readable().map(|_| found)
    }

    /// Whether anything is dirty here, leaving out what an outstanding [checkpoint](Self::freeze) has frozen: whether anything
    /// was set since. Cost: up to all words, once.
    ///
    /// # Errors
    /// [`Error::Unusable`].
    pub fn any_since_freeze(&self) -> Result<bool> {
        self.readable()?;
        let found = !ReadMap::is_empty(&self.current());
        self.readable().map(|_| found)
    }

    /// Granules that are dirty. Cost: their words.
    pub fn count(&self) -> u64 {
        ReadMap::count(self)
    }

    /// Items of dirty granules, the partial last granule counted as what it is. Cost: as [`count`](Self::count).
    pub fn dirty_len(&self) -> u64 {
        ReadMap::dirty_len(self)
    }

    /// Dirty granules among those that `range` touches.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn count_range(&self, range: impl RangeBounds<u64>) -> Result<u64> {
        ReadMap::count_range(self.readable()?, self.geometry().range(range))
    }

    /// Whether nothing is dirty.
    pub fn is_empty(&self) -> bool {
        ReadMap::is_empty(self)
    }

    /// Whether everything is dirty.
    pub fn is_full(&self) -> bool {
        ReadMap::is_full(self)
    }

    /// Whether any item of `range` is dirty; `false` for an empty range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn any(&self, range: impl RangeBounds<u64>) -> Result<bool> {
        ReadMap::any(self.readable()?, self.geometry().range(range))
    }

    /// Whether all items of `range` are dirty; `true` for an empty range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn all(&self, range: impl RangeBounds<u64>) -> Result<bool> {
        ReadMap::all(self.readable()?, self.geometry().range(range))
    }

    /// The first dirty item of `range`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn next_dirty(&self, range: impl RangeBounds<u64>) -> Result<Option<u64>> {
        ReadMap::next_dirty(self.readable()?, self.geometry().range(range))
    }

    /// The first clean item of `range`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn next_clean(&self, range: impl RangeBounds<u64>) -> Result<Option<u64>> {
        ReadMap::next_clean(self.readable()?, self.geometry().range(range))
    }

    /// The first dirty area of `range`, cut at `max_len` items and at the range's ends.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ZeroLength`].
    pub fn next_extent(&self, range: Range<u64>, max_len: u64) -> Result<Option<Range<u64>>> {
        ReadMap::next_extent(self.readable()?, range, max_len)
    }

    /// Whether `range.start` is dirty, and how many items from there on are in the same state; `None` for an
    /// empty range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn run(&self, range: Range<u64>) -> Result<Option<(bool, u64)>> {
        ReadMap::run(self.readable()?, range)
    }

    /// SHA-256 over the bottom level's words as little-endian bytes, as [`Bitmap::sha256`](crate::Bitmap::sha256). Of what is
    /// dirty here: without an outstanding checkpoint. In a forked child, that of a map that is all dirty.
    pub fn sha256(&self) -> [u8; 32] {
        let current = self.readable().map(|_| ReadMap::sha256(&self.current()));
        // Asked again: the session of others may have ended meanwhile.
        match current {
            Ok(current) if self.readable().is_ok() => current,
            _ => ReadMap::sha256(self),
        }
    }

    /// Only what is dirty here, without the outstanding point.
    pub(super) fn current(&self) -> Current<'_> {
        match &self.inner {
            Inner::Live(live) => live.core.current(),
            Inner::Loaded(loaded) => Current { dirt: loaded.dirt(), core: None },
            Inner::Watching(watch) => Current { dirt: Dirt::of(&watch.view), core: None },
        }
    }

    /// The first item of each dirty granule that `range` touches, ascending. May run while others set and reset.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn granules(&self, range: impl RangeBounds<u64>) -> Result<Granules<'_, DirtyMap>> {
        ReadMap::granules(self.readable()?, self.geometry().range(range))
    }

    /// The dirty areas of `range`, ascending. May run while others set and reset.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn extents(&self, range: impl RangeBounds<u64>) -> Result<Extents<'_, DirtyMap>> {
        ReadMap::extents(self.readable()?, self.geometry().range(range))
    }

    /// The nonzero words of the bottom level, with their indices; the first and last masked to `range`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn words(&self, range: impl RangeBounds<u64>) -> Result<WordsIter<'_, DirtyMap>> {
        ReadMap::words(self.readable()?, self.geometry().range(range))
    }

    /// Runs a search over the levels; `None` in a forked child, which has no levels. Those of its questions that cannot be
    /// answered with an error are answered with "dirty".
    #[inline]
    fn search<R>(&self, f: impl Fn(&UnionView<'_>) -> R) -> Option<R> {
        match &self.inner {
            Inner::Live(live) => {
                live.core.usable().ok()?;
                Some(live.core.read_union(f))
            }
            Inner::Loaded(loaded) => {
                loaded.view.usable().ok()?;
                Some(f(&UnionView { current: loaded.dirt(), point: loaded.frozen.as_ref().map(|point| point.dirt()) }))
            }
            Inner::Watching(watch) => watch.read(f),
        }
    }
}

impl ReadMap for DirtyMap {}

/// The dirty areas of the whole map.
impl<'a> IntoIterator for &'a DirtyMap {
    type Item = Range<u64>;
    type IntoIter = Extents<'a, DirtyMap>;

    fn into_iter(self) -> Extents<'a, DirtyMap> {
        Extents::over(self, 0..self.len())
    }
}

impl Search for DirtyMap {
    #[inline]
    fn is_stable(&self) -> bool {
        false
    }

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

    fn next_block(&self, words: Range<u64>, to: &Block) -> Option<(u64, u64)> {
        let all_dirty = || first_block(words.clone(), to, |words| self.next_nonzero_word(words));
        self.search(|map| map.next_block(words.clone(), to)).unwrap_or_else(all_dirty)
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
