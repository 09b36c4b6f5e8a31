//! `Bitmap`: the complete dirty bitmap in memory.
//!
//! Invariant kept here: the summaries are exact, `count` is the number of bits set, and every bit past
//! the last granule is zero on every level. No operation panics on any input; one that returns an error has
//! changed nothing.

mod changes;
mod combine;
mod load;
mod resize;
mod traits;

pub(crate) use changes::Changes;
pub(crate) use combine::{check_len, check_shape, difference, intersection};
pub use load::Loading;

use crate::error::{Error, Result};
use crate::geometry::{Geometry, LEVELS};
use crate::hierarchy::{Block, Levels, Walk};
use crate::query::{Extents, Granules, ReadMap, Search, WordsIter};
use crate::sys::alloc::zeroed_words;
use std::ops::{ControlFlow, Range, RangeBounds};

/// A dirty bitmap in memory: which granules of an image have been written.
///
/// Positions and lengths are in *items* (for a disk image, bytes). `1 << granularity` items, a *granule*, share
/// one bit; a granule is dirty or clean as a whole, and the last one may be partial. Ranges are half open, and
/// must lie inside `0..=len` with `start <= end`; anything else is [`Error::OutOfRange`]. An empty range is
/// legal: it finds nothing, changes nothing and needs no alignment. Answers are clamped to the range asked for.
///
/// ```
/// use dirtymap::Bitmap;
///
/// let mut map = Bitmap::new(1 << 40, 16)?; // 1 TiB in granules of 64 KiB
/// map.set(70_000..70_001)?;
/// map.set(1 << 30..3 << 30)?;
/// assert_eq!(map.count(), 1 + (2 << 30) / 65536);
/// assert_eq!(map.next_dirty(0..map.len())?, Some(65536));
/// for area in &map {
///     println!("copy {} bytes at {}", area.end - area.start, area.start);
/// }
/// map.reset(0..131_072)?; // whole granules only
/// assert_eq!(map.next_extent(0..map.len(), 1 << 20)?, Some(1 << 30..(1 << 30) + (1 << 20)));
/// # Ok::<(), dirtymap::Error>(())
/// ```
///
/// # What it costs
/// One bit per granule and 1/63 of that for the summaries: 2 MiB for 1 TiB at 64 KiB, 33 MiB for 1 TiB at 4
/// KiB. This much address space is reserved at once. Physical memory is used only for the pages (of 4 KiB:
/// 32,768 granules each; of 2 MiB where `transparent_hugepage` is `always`) that had a bit set, so that a sparse
/// map is cheap however large; it is given back when the map is dropped, not by resetting.
///
/// Going from one set bit to the next costs O(levels), with seven levels in all; setting or resetting `m`
/// granules costs O(m / 64 + levels), resetting never more than O(levels) per nonzero word; counting is O(1).
///
/// # Threads
/// Any number of threads may read a shared `&Bitmap`; changing one takes `&mut`. A map that several threads or
/// processes change at once is the persistent map's business.
pub struct Bitmap {
    geometry: Geometry,
    levels: Levels<Vec<u64>>,
    /// Bits set.
    count: u64,
    /// Which chunks of it have changed, if somebody wants to know.
    changes: Option<Box<Changes>>,
}

/// Zeroed levels of so many words each.
fn zeroed_levels(words: [u64; LEVELS]) -> Result<[Vec<u64>; LEVELS]> {
    let mut levels = [const { Vec::new() }; LEVELS];
    // The bottom first: if one is refused, it is that one.
    for (level, n) in levels.iter_mut().zip(words).rev() {
        let zeros = usize::try_from(n).ok().and_then(zeroed_words);
        *level = zeros.ok_or_else(|| Error::OutOfMemory { bytes: words.iter().sum::<u64>() * 8 })?;
    }
    Ok(levels)
}

/// Making one, and what shape it has.
impl Bitmap {
    /// A clean map of `len` items with `1 << granularity` items behind each bit.
    ///
    /// `len` may be 0; such a map is both empty and full. Cost: constant, see [above](Self#what-it-costs).
    ///
    /// # Errors
    /// [`Error::Geometry`] when `len`, `granularity` or the number of granules is over its limit
    /// ([`MAX_LEN`](crate::MAX_LEN), [`MAX_GRANULARITY`](crate::MAX_GRANULARITY), [`MAX_BITS`](crate::MAX_BITS)), and
    /// [`Error::OutOfMemory`] when the system refuses the memory; never an abort.
    pub fn new(len: u64, granularity: u32) -> Result<Bitmap> {
        let geometry = Geometry::new(len, granularity)?;
        let levels = Levels::new(zeroed_levels(geometry.level_words())?, geometry.bits());
        Ok(Bitmap { geometry, levels, count: 0, changes: None })
    }

    /// A copy, whose memory may be refused; without the [change bitmap](Self::attach_changes), if there is one. Cost:
    /// O(levels) per nonzero word; pages without dirt stay untouched.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn try_clone(&self) -> Result<Bitmap> {
        let mut copy = Bitmap::new(self.len(), self.granularity())?;
        copy.merge(self)?;
        Ok(copy)
    }

    /// Length in items.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "is_empty is there, and asks for dirt, as in other bitmaps")]
    pub fn len(&self) -> u64 {
        self.geometry.len()
    }

    /// log2 of the items per granule.
    #[inline]
    pub fn granularity(&self) -> u32 {
        self.geometry.granularity()
    }

    /// Items per granule, which for a disk image are bytes: `1 << granularity`.
    #[inline]
    pub fn granule_bytes(&self) -> u64 {
        self.geometry.granule()
    }

    /// Length and granularity, and what follows from them.
    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The bottom level: bit `i % 64` of word `i / 64` is granule `i`; bits past the last granule are zero. At
    /// least one word, also for a map without items.
    #[inline]
    pub fn bottom_words(&self) -> &[u64] {
        self.levels.bottom()
    }

    /// Computes all upper levels anew from the bottom, which changes nothing unless there is a bug in this crate; so that
    /// it can be measured. Cost: every word.
    #[doc(hidden)]
    pub fn rebuild_summaries(&mut self) {
        self.levels.finish(std::iter::once(0..self.geometry.words()));
    }

    /// Checks the summaries, the count and the tail against the bits; says what is wrong. Finds nothing unless
    /// there is a bug in this crate; for its tests. Cost: every word of every level.
    #[doc(hidden)]
    pub fn check_invariants(&self) -> std::result::Result<(), String> {
        self.levels.check(true)?;
        let counted: u64 = self.bottom_words().iter().map(|word| u64::from(word.count_ones())).sum();
        if counted == self.count { Ok(()) } else { Err(format!("{counted} bits set, {} counted", self.count)) }
    }
}

/// Changing it. All return how many *bits* (granules) changed.
impl Bitmap {
    /// Marks every granule that the range touches as dirty; returns how many were clean.
    ///
    /// ```
    /// # use dirtymap::Bitmap;
    /// let mut map = Bitmap::new(16, 1)?;
    /// assert_eq!(map.set(0..9)?, 5);
    /// assert_eq!(map.set(9..11)?, 1);
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; nothing has changed then.
    #[inline(always)]
    pub fn set(&mut self, range: Range<u64>) -> Result<u64> {
        // A single granule is the common case, and does without counting bits. Inlined whatever the compiler thinks of it,
        // because a Result that is returned from a call, being as large as an error, takes longer than a bit.
        match self.geometry.only_bit(&range) {
            Some(bit) => Ok(self.set_one(bit)),
            None => self.set_range(range),
        }
    }

    #[inline(never)]
    fn set_range(&mut self, range: Range<u64>) -> Result<u64> {
        self.geometry.check(&range)?;
        Ok(self.set_bits(self.geometry.touched(&range)))
    }

    /// Marks the granules of the range as clean; returns how many were dirty.
    ///
    /// The range must be made of whole granules: a start that is a multiple of the granule, and an end that is
    /// one or is [`len`](Self::len). Clearing a granule that is covered only in part would forget the dirt
    /// beside the range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Unaligned`]; nothing has changed then.
    #[inline(always)]
    pub fn reset(&mut self, range: Range<u64>) -> Result<u64> {
        match self.geometry.only_whole_bit(&range) {
            Some(bit) => Ok(self.reset_one(bit)),
            None => self.reset_range(range),
        }
    }

    #[inline(never)]
    fn reset_range(&mut self, range: Range<u64>) -> Result<u64> {
        self.geometry.check(&range)?;
        let bits = self.geometry.exact(&range)?;
        Ok(self.reset_bits(bits))
    }

    /// Marks those granules as clean that lie wholly inside the range, of which there may be none; returns how
    /// many were dirty. The last granule counts as whole when the range reaches [`len`](Self::len).
    ///
    /// Forgets nothing beside the range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; nothing has changed then.
    pub fn reset_within(&mut self, range: Range<u64>) -> Result<u64> {
        self.geometry.check(&range)?;
        Ok(self.reset_bits(self.geometry.within(&range)))
    }

    /// Marks every granule as clean that the range touches, also those that it covers only in part; returns how
    /// many were dirty.
    ///
    /// **This can lose dirt**: up to a granule less one item on either side of the range is
    /// forgotten with it. A write that dirtied only that part would be left out of the next backup. Use it where
    /// the granules at the ends are known to hold nothing else, otherwise [`reset`](Self::reset) or
    /// [`reset_within`](Self::reset_within).
    ///
    /// ```
    /// # use dirtymap::Bitmap;
    /// let mut map = Bitmap::new(16, 1)?;
    /// map.set(0..9)?;
    /// map.reset_covering(1..4)?; // clears 0..4: item 0 is forgotten
    /// assert_eq!(map.next_extent(0..16, 16)?, Some(4..10));
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; nothing has changed then.
    pub fn reset_covering(&mut self, range: Range<u64>) -> Result<u64> {
        self.geometry.check(&range)?;
        Ok(self.reset_bits(self.geometry.touched(&range)))
    }

    /// Marks everything as dirty; returns how many granules were clean. Uses the memory of the whole map.
    pub fn set_all(&mut self) -> u64 {
        self.set_bits(0..self.geometry.bits())
    }

    /// Marks everything as clean; returns how many granules were dirty. Cost: O(levels) per nonzero word.
    pub fn reset_all(&mut self) -> u64 {
        self.reset_bits(0..self.geometry.bits())
    }

    #[inline]
    fn set_one(&mut self, bit: u64) -> u64 {
        let changed = u64::from(self.levels.set_bit(bit));
        self.count += changed;
        self.changed(changed, bit..bit + 1);
        changed
    }

    #[inline]
    fn reset_one(&mut self, bit: u64) -> u64 {
        let changed = u64::from(self.levels.reset_bit(bit));
        self.count -= changed;
        self.changed(changed, bit..bit + 1);
        changed
    }

    pub(crate) fn set_bits(&mut self, bits: Range<u64>) -> u64 {
        let all = bits == (0..self.geometry.bits()) && !bits.is_empty();
        let changed = if all {
            self.levels.fill_all();
            self.geometry.bits() - self.count
        } else {
            self.levels.set(bits.clone())
        };
        self.count += changed;
        self.changed(changed, bits);
        changed
    }

    fn reset_bits(&mut self, bits: Range<u64>) -> u64 {
        let changed = if bits == (0..self.geometry.bits()) {
            self.levels.clear_all();
            self.count
        } else {
            self.levels.reset(bits.clone())
        };
        self.count -= changed;
        self.changed(changed, bits);
        changed
    }

    /// Sets the bits of `mask` in bottom word `i`; returns how many were clear.
    #[inline]
    fn or_word(&mut self, i: u64, mask: u64) -> u64 {
        let new = self.levels.or_word(i, mask);
        self.changed_in(i, new);
        let changed = u64::from(new.count_ones());
        self.count += changed;
        changed
    }

    /// Replaces bottom word `i`; returns how many bits changed.
    #[inline]
    fn put_word(&mut self, i: u64, new: u64) -> u64 {
        let old = self.levels.put_word(i, new);
        self.changed_in(i, old ^ new);
        self.count = self.count + u64::from(new.count_ones()) - u64::from(old.count_ones());
        u64::from((old ^ new).count_ones())
    }
}

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
        self.levels.bottom()[i as usize]
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
