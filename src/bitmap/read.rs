//! Reading a map.
//!
//! Invariant kept here: answers are those of [`ReadMap`], which has them for every kind of map; what this one knows without
//! looking, it says.

use super::core::Bitmap;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::geometry::{BOTTOM, Geometry};
use crate::hierarchy::{Block, Levels, Walk};
use crate::query::{Extents, Granules, ReadMap, Search, WordsIter};
use std::ops::{ControlFlow, Range, RangeBounds};

/// Reading it.
impl Bitmap {
    /// Whether `item`'s granule is dirty.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if `item >= len`.
    #[inline]
    pub fn get(&self, item: u64) -> Result<bool> {
        ReadMap::get(self, item)
    }

    /// How many granules are dirty. Cost: O(1).
    #[inline]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many items are covered by dirty granules, the partial last granule counted as what it is. Cost: O(1).
    pub fn dirty_len(&self) -> u64 {
        ReadMap::dirty_len(self)
    }

    /// How many dirty granules the range touches. Cost: O(levels) per nonzero word.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn count_range(&self, range: impl RangeBounds<u64>) -> Result<u64> {
        ReadMap::count_range(self, self.geometry().range(range))
    }

    /// Whether nothing is dirty. (Not whether `len` is 0; but a map of length 0 is empty, and full.) Cost: O(1).
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether everything is dirty. Cost: O(1).
    #[inline]
    pub fn is_full(&self) -> bool {
        self.count == self.geometry.bits()
    }

    /// Whether any item of the range is dirty; false for an empty range. Cost: O(levels).
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn any(&self, range: impl RangeBounds<u64>) -> Result<bool> {
        ReadMap::any(self, self.geometry().range(range))
    }

    /// Whether all items of the range are dirty; true for an empty range. Cost: one step per 64 granules.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn all(&self, range: impl RangeBounds<u64>) -> Result<bool> {
        ReadMap::all(self, self.geometry().range(range))
    }

    /// The first dirty item of the range: its start, if that lies in a dirty granule, else the first item of a
    /// granule. Cost: O(levels).
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn next_dirty(&self, range: impl RangeBounds<u64>) -> Result<Option<u64>> {
        ReadMap::next_dirty(self, self.geometry().range(range))
    }

    /// The first clean item of the range. Cost: one step per 64 dirty granules passed.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn next_clean(&self, range: impl RangeBounds<u64>) -> Result<Option<u64>> {
        ReadMap::next_clean(self, self.geometry().range(range))
    }

    /// The first dirty area of the range: a maximal run of dirty items, cut at `max_len` items and at the range's
    /// ends. Cost: O(levels) to find it, and one step per 64 granules of it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::ZeroLength`] if `max_len` is 0.
    pub fn next_extent(&self, range: Range<u64>, max_len: u64) -> Result<Option<Range<u64>>> {
        ReadMap::next_extent(self, range, max_len)
    }

    /// Whether the range starts dirty, and how many of its items have the same state from there on; `None` for an
    /// empty range. Cost: O(levels) if clean, one step per 64 granules if dirty.
    ///
    /// ```
    /// # use dirtymap::Bitmap;
    /// let mut map = Bitmap::new(100, 3)?;
    /// map.set(20..30)?; // granules 2 and 3: items 16 to 31
    /// assert_eq!(map.run(0..100)?, Some((false, 16)));
    /// assert_eq!(map.run(18..100)?, Some((true, 14)));
    /// assert_eq!(map.run(18..25)?, Some((true, 7)));
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn run(&self, range: Range<u64>) -> Result<Option<(bool, u64)>> {
        ReadMap::run(self, range)
    }

    /// SHA-256 over the bottom level as little-endian bytes, `max(1, ceil(bits / 64))` words: equal for equal
    /// bits, and the same on every system. Length and granularity are not part of it. Cost: one hash over 1/8
    /// byte per granule.
    pub fn sha256(&self) -> [u8; 32] {
        ReadMap::sha256(self)
    }

    /// The first item of each dirty granule that the range touches, ascending. A range that starts in the middle
    /// of a dirty granule yields that one first.
    ///
    /// ```
    /// # use dirtymap::Bitmap;
    /// let mut map = Bitmap::new(100, 3)?;
    /// map.set(20..30)?;
    /// assert!(map.granules(0..100)?.eq([16, 24]));
    /// assert!(map.granules(18..20)?.eq([16]));
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn granules(&self, range: impl RangeBounds<u64>) -> Result<Granules<'_, Bitmap>> {
        ReadMap::granules(self, self.geometry().range(range))
    }

    /// The dirty areas of the range, ascending, clamped to it.
    ///
    /// ```
    /// # use dirtymap::Bitmap;
    /// let mut map = Bitmap::new(100, 3)?;
    /// map.set(20..30)?;
    /// map.set(99..100)?;
    /// assert!(map.extents(18..100)?.eq([18..32, 96..100]));
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn extents(&self, range: impl RangeBounds<u64>) -> Result<Extents<'_, Bitmap>> {
        ReadMap::extents(self, self.geometry().range(range))
    }

    /// The nonzero words of the bottom level that the range touches, as `(word index, word)`; the first and the last
    /// show only the granules that the range touches.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn words(&self, range: impl RangeBounds<u64>) -> Result<WordsIter<'_, Bitmap>> {
        ReadMap::words(self, self.geometry().range(range))
    }
}

impl Search for Bitmap {
    #[inline]
    fn is_stable(&self) -> bool {
        true
    }

    #[inline]
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    #[inline]
    fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        self.levels.next_set(bits)
    }
    #[inline]
    fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        self.levels.next_clear(bits)
    }
    #[inline]
    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        self.levels.next_nonzero_word(words)
    }
    fn next_block(&self, words: Range<u64>, to: &Block) -> Option<(u64, u64)> {
        self.levels.next_block(words, to)
    }
    #[inline]
    fn word(&self, i: u64) -> u64 {
        self.levels.word(BOTTOM, i)
    }
    #[inline]
    fn nonzero_words(&self, block: u64) -> u64 {
        self.levels.word(BOTTOM - 1, block)
    }
    #[inline(always)]
    fn step(&self, walk: &mut Walk) -> Option<(u64, u64)> {
        walk.next(|k, i| self.levels.word(k, i), |block| self.levels.fetch_block(block))
    }
    #[inline]
    fn fold_words<B>(
        &self,
        walk: Walk,
        bits: &Range<u64>,
        init: B,
        f: impl FnMut(B, u64, u64) -> ControlFlow<B, B>,
    ) -> ControlFlow<B, B> {
        self.levels.fold_words(walk, bits, init, f)
    }
    fn levels(&self) -> Option<&Levels<Vec<u64>>> {
        Some(&self.levels)
    }
    fn tally(&self, bits: Range<u64>) -> (u64, bool) {
        let last = bits.start < bits.end && self.bit(bits.end - 1);
        (if bits == (0..self.geometry.bits()) { self.count } else { self.levels.count(&bits) }, last)
    }
    fn copy_words(&self, words: Range<u64>, out: &mut [[u8; 8]]) {
        self.levels.copy(words, out);
    }
}
