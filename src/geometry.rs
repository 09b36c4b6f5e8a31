//! From `len` and granularity to bits, words, pages and levels, with checked arithmetic only.
//!
//! Invariant kept here: a [`Geometry`] that exists is possible. Nothing that is computed from one
//! overflows, and every bit number it hands out is below [`Geometry::bits`].

use crate::error::{Error, Result};
use std::ops::{Bound, Range, RangeBounds};

/// Bits in a word.
pub(crate) const WORD_BITS: u64 = u64::BITS as u64;
/// Largest `len`, in items: 2^63 − 1.
pub const MAX_LEN: u64 = i64::MAX as u64;
/// Largest granularity: log2 of the items per granule.
pub const MAX_GRANULARITY: u32 = 63;
/// Largest number of granules, and so of bits in the bottom level.
pub const MAX_BITS: u64 = 1 << 41;
/// Levels of the hierarchy, the bottom included. The top one is a single word.
pub const LEVELS: usize = 7;
/// Index of the bottom level; 0 is the top.
pub const BOTTOM: usize = LEVELS - 1;
/// Words of the bottom level in a page, the unit of checksums and of durable writes.
pub const PAGE_WORDS: u64 = WORD_BITS;
/// Bytes of a page of the bottom level.
pub const PAGE_BYTES: u64 = PAGE_WORDS * 8;
/// Bits, and so granules, of a page.
pub const PAGE_BITS: u64 = PAGE_WORDS * WORD_BITS;

// 64-way with LEVELS levels must reach MAX_BITS with a single word on top.
const _: () = assert!(MAX_BITS as u128 <= 1u128 << (6 * LEVELS as u32));

/// The shape of a map: its length in items and the items per bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Geometry {
    len: u64,
    granularity: u32,
}

impl Geometry {
    /// A map of `len` items (at most [`MAX_LEN`]) with `1 << granularity` items behind each bit.
    ///
    /// # Errors
    /// [`Error::Geometry`] when a limit is broken: `len`, granularity, or more than [`MAX_BITS`] bits.
    pub fn new(len: u64, granularity: u32) -> Result<Geometry> {
        let bad = |why| Err(Error::Geometry { len, granularity, why });
        if len > MAX_LEN {
            return bad("the length may be at most 2^63 - 1");
        }
        if granularity > MAX_GRANULARITY {
            return bad("the granularity may be at most 2^63");
        }
        let g = Geometry { len, granularity };
        if g.bits() > MAX_BITS {
            return bad("it would have more than 2^41 bits; use a larger granularity");
        }
        Ok(g)
    }

    /// Length in items.
    #[inline]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no items at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// log2 of the items per granule.
    #[inline]
    pub fn granularity(&self) -> u32 {
        self.granularity
    }

    /// Items per granule: a power of two, at most 2^63.
    #[inline]
    pub fn granule(&self) -> u64 {
        1 << self.granularity
    }

    /// The shape of a map of the same length with chunks of `1 << chunk` granules behind each bit.
    pub(crate) fn coarser(&self, chunk: u32) -> Result<Geometry> {
        Geometry::new(self.len, self.granularity.saturating_add(chunk))
    }

    /// This granularity with the length of `finer`, whose granularity is not larger, so that no limit is broken.
    pub(crate) fn as_long_as(&self, finer: &Geometry) -> Geometry {
        Geometry { len: finer.len, granularity: self.granularity.max(finer.granularity) }
    }

    /// Bits of the bottom level: one per granule, the last of which may be partial.
    #[inline]
    pub fn bits(&self) -> u64 {
        // Not (len + granule - 1) >> granularity, which overflows.
        match self.len {
            0 => 0,
            len => ((len - 1) >> self.granularity) + 1,
        }
    }

    /// Words of the bottom level; at least one.
    #[inline]
    pub fn words(&self) -> u64 {
        self.bits().div_ceil(WORD_BITS).max(1)
    }

    /// Pages of the bottom level; at least one.
    pub fn pages(&self) -> u64 {
        self.words().div_ceil(PAGE_WORDS)
    }

    /// Words of each level, the top one first; at least one each.
    pub fn level_words(&self) -> [u64; LEVELS] {
        let mut words = [1; LEVELS];
        words[BOTTOM] = self.words();
        for k in (0..BOTTOM).rev() {
            words[k] = words[k + 1].div_ceil(WORD_BITS);
        }
        words
    }

    /// The bits of bottom word `word` that lie inside the map.
    #[inline]
    pub fn word_mask(&self, word: u64) -> u64 {
        let first = word.saturating_mul(WORD_BITS);
        match self.bits().saturating_sub(first) {
            0 => 0,
            n if n >= WORD_BITS => u64::MAX,
            n => (1 << n) - 1,
        }
    }

    /// Items per word: what the chunks of a serialised map start at multiples of, and are multiples of in length.
    ///
    /// # Errors
    /// [`Error::NotSerializable`] for a granularity of 58 or more, where that does not fit.
    pub fn serialization_align(&self) -> Result<u64> {
        let fits = self.granularity < u64::BITS - WORD_BITS.trailing_zeros();
        if fits {
            Ok(WORD_BITS << self.granularity)
        } else {
            Err(Error::NotSerializable { granularity: self.granularity })
        }
    }

    /// The words of a chunk. An empty one has none and needs no alignment.
    pub(crate) fn chunk_words(&self, chunk: &Range<u64>) -> Result<Range<u64>> {
        let align = self.serialization_align()?;
        self.check(chunk)?;
        let (start, end, len) = (chunk.start, chunk.end, self.len);
        if start == end {
            return Ok(0..0);
        }
        if !start.is_multiple_of(align) || !(end.is_multiple_of(align) || end == len) {
            return Err(Error::Chunk { start, end, align, len });
        }
        Ok(start / align..end.div_ceil(align))
    }

    /// Checks that `range` lies inside `0..=len` and does not start after its end.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn check(&self, range: &Range<u64>) -> Result<()> {
        if range.start <= range.end && range.end <= self.len {
            Ok(())
        } else {
            Err(Error::OutOfRange { start: range.start, end: range.end, len: self.len })
        }
    }

    /// The items that any kind of range means here: one that is open at its end reaches to `len`. Not checked.
    ///
    /// ```
    /// # use dirtymap::Bitmap;
    /// let mut map = Bitmap::new(100, 3)?;
    /// map.set(20..40)?;
    /// assert!(map.extents(..)?.eq([16..40]) && map.any(39..)? && !map.any(..=15)? && map.all(16..=39)?);
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    #[inline]
    pub fn range(&self, range: impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len,
        };
        start..end
    }

    /// The part of `count` items from `start` on that lies inside the map; empty where there is none.
    ///
    /// ```
    /// # use dirtymap::Geometry;
    /// let g = Geometry::new(1000, 6)?;
    /// assert_eq!([g.clamp(900, 50), g.clamp(900, u64::MAX), g.clamp(2000, 1)], [900..950, 900..1000, 1000..1000]);
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    #[must_use]
    pub fn clamp(&self, start: u64, count: u64) -> Range<u64> {
        start.min(self.len)..start.saturating_add(count).min(self.len)
    }

    /// A range that may reach past the map's end, up to where its last granule would end if it were whole, cut at the end:
    /// for callers that count in whole granules.
    ///
    /// ```
    /// # use dirtymap::Geometry;
    /// let g = Geometry::new(1000, 6)?;
    /// assert_eq!(g.cut(960..1024)?, 960..1000);
    /// assert!(g.cut(960..1025).is_err());
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn cut(&self, range: Range<u64>) -> Result<Range<u64>> {
        // Below 2^64: whole granules exceed `len` by less than one granule.
        let rounded = self.bits() << self.granularity;
        let end = if range.end <= rounded { range.end.min(self.len) } else { range.end };
        let cut = if range.start <= range.end { range.start.min(end)..end } else { range };
        self.check(&cut).map(|()| cut)
    }

    /// Checks that `item` is inside the map.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    #[inline]
    pub fn check_item(&self, item: u64) -> Result<()> {
        if item < self.len {
            Ok(())
        } else {
            Err(Error::OutOfRange { start: item, end: item.saturating_add(1), len: self.len })
        }
    }

    /// The bit of `item`'s granule.
    #[inline]
    pub fn bit_of(&self, item: u64) -> u64 {
        item >> self.granularity
    }

    /// The bits of every granule that the (checked) range touches; `0..0` for an empty range.
    #[inline]
    pub fn touched(&self, range: &Range<u64>) -> Range<u64> {
        if range.start >= range.end {
            return 0..0;
        }
        self.bit_of(range.start)..self.bit_of(range.end - 1) + 1
    }

    /// The bit of a range inside the map that touches one granule, which is the common case; `None` for all others.
    #[inline]
    pub(crate) fn only_bit(&self, range: &Range<u64>) -> Option<u64> {
        let bit = self.bit_of(range.start);
        let only = range.start < range.end && range.end <= self.len && self.bit_of(range.end - 1) == bit;
        only.then_some(bit)
    }

    /// The same of a range that is one whole granule.
    #[inline]
    pub(crate) fn only_whole_bit(&self, range: &Range<u64>) -> Option<u64> {
        let bit = self.bit_of(range.start);
        let only = range.start < range.end
            && range.end <= self.len
            && bit << self.granularity == range.start
            && range.end - range.start == self.granule();
        only.then_some(bit)
    }

    /// The bits of every granule that lies wholly inside the (checked) range. The last granule counts as
    /// whole when the range reaches `len`.
    #[inline]
    pub fn within(&self, range: &Range<u64>) -> Range<u64> {
        if range.start >= range.end {
            return 0..0;
        }
        let start = match range.start {
            0 => 0,
            s => ((s - 1) >> self.granularity) + 1,
        };
        let end = if range.end == self.len { self.bits() } else { self.bit_of(range.end) };
        if start < end { start..end } else { 0..0 }
    }

    /// The bits of the (checked) range, which must be made of whole granules.
    ///
    /// # Errors
    /// [`Error::Unaligned`]. An empty range needs no alignment.
    #[inline]
    pub fn exact(&self, range: &Range<u64>) -> Result<Range<u64>> {
        if range.start >= range.end {
            return Ok(0..0);
        }
        let low = self.granule() - 1;
        if range.start & low != 0 || (range.end & low != 0 && range.end != self.len) {
            let (start, end) = (range.start, range.end);
            return Err(Error::Unaligned { start, end, granule: self.granule(), len: self.len });
        }
        Ok(self.touched(range))
    }

    /// The first item of `bit`'s granule. `bit` must be below [`bits`](Self::bits), or equal to it, which
    /// gives `len`.
    #[inline]
    pub fn item_of(&self, bit: u64) -> u64 {
        if bit >= self.bits() { self.len } else { bit << self.granularity }
    }

    /// The items of a range of bits, the partial last granule counted as what it is.
    #[inline]
    pub fn items_of(&self, bits: &Range<u64>) -> Range<u64> {
        self.item_of(bits.start)..self.item_of(bits.end)
    }
}

/// Splits a range of bits into `(word, mask)` pairs, ascending. Cost: one step per word.
#[inline]
pub(crate) fn words_of(bits: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
    let words = if bits.start < bits.end { bits.start / WORD_BITS..(bits.end - 1) / WORD_BITS + 1 } else { 0..0 };
    words.map(move |w| (w, mask_in(w, &bits)))
}

/// The bits of word `w` that `bits` covers.
#[inline]
pub(crate) fn mask_in(w: u64, bits: &Range<u64>) -> u64 {
    let first = w * WORD_BITS;
    let lo = bits.start.saturating_sub(first).min(WORD_BITS);
    let hi = bits.end.saturating_sub(first).min(WORD_BITS);
    if lo >= hi { 0 } else { (u64::MAX >> (WORD_BITS - (hi - lo))) << lo }
}
