//! `Bitmap` and its change bitmap as structs, and the changes of bits that everything else is made of.
//!
//! Invariant kept here: the summaries are exact, `count` is the number of bits set, and every bit past the last granule is
//! zero on every level. If there is a change bitmap, a chunk is marked in it if a bit of it changed since the marks were last
//! taken.

use crate::error::{Error, Result};
use crate::geometry::{Geometry, LEVELS};
use crate::hierarchy::Levels;
use crate::query::coarsened;
use crate::sys::alloc::zeroed_words;
use std::ops::Range;

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
    pub(super) geometry: Geometry,
    pub(super) levels: Levels<Vec<u64>>,
    /// Bits set.
    pub(super) count: u64,
    /// Which chunks of it have changed, if somebody wants to know.
    pub(super) changes: Option<Box<Changes>>,
}

/// The marks: a map of the same length with `1 << shift` bits of the other behind each of its bits.
pub(crate) struct Changes {
    pub(super) marks: Bitmap,
    pub(super) shift: u32,
    /// If it is past the other map's end: bits up to here were cut off, and some of them had changed. Whoever takes
    /// marks may know them as they were, so if they come back they have changed.
    pub(super) cut: u64,
}

/// Zeroed levels of so many words each.
pub(super) fn zeroed_levels(words: [u64; LEVELS]) -> Result<[Vec<u64>; LEVELS]> {
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

/// Bits of it, in ranges and words that lie in the map. All return how many changed.
impl Bitmap {
    #[inline]
    pub(super) fn set_one(&mut self, bit: u64) -> u64 {
        let changed = u64::from(self.levels.set_bit(bit));
        self.count += changed;
        self.changed(changed, bit..bit + 1);
        changed
    }

    #[inline]
    pub(super) fn reset_one(&mut self, bit: u64) -> u64 {
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

    pub(super) fn reset_bits(&mut self, bits: Range<u64>) -> u64 {
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
    pub(super) fn or_word(&mut self, i: u64, mask: u64) -> u64 {
        let new = self.levels.or_word(i, mask);
        self.changed_in(i, new);
        let changed = u64::from(new.count_ones());
        self.count += changed;
        changed
    }

    /// Replaces bottom word `i`; returns how many bits changed.
    #[inline]
    pub(super) fn put_word(&mut self, i: u64, new: u64) -> u64 {
        let old = self.levels.put_word(i, new);
        self.changed_in(i, old ^ new);
        self.count = self.count + u64::from(new.count_ones()) - u64::from(old.count_ones());
        u64::from((old ^ new).count_ones())
    }

    /// `n` bits of the range have changed.
    #[inline]
    pub(super) fn changed(&mut self, n: u64, bits: Range<u64>) {
        // Whether there is a change bitmap a processor can guess, whether a bit changed it cannot: that is asked out of line.
        if let Some(changes) = &mut self.changes {
            changes.mark_if(n > 0, bits);
        }
    }

    /// The bits of `mask` have changed in bottom word `i`.
    #[inline]
    fn changed_in(&mut self, i: u64, mask: u64) {
        if mask != 0
            && let Some(changes) = &mut self.changes
        {
            changes.mark_word(i, mask);
        }
    }
}

impl Changes {
    /// Marks bits if they have changed.
    #[inline(never)]
    fn mark_if(&mut self, changed: bool, bits: Range<u64>) {
        if changed {
            self.mark(bits);
        }
    }

    /// Bits of the map in this range have changed. Those past the end are left out.
    pub(crate) fn mark(&mut self, bits: Range<u64>) {
        let end = self.marks.geometry.bits();
        if bits.start < bits.end {
            let chunks = (bits.start >> self.shift).min(end)..(((bits.end - 1) >> self.shift) + 1).min(end);
            self.marks.set_bits(chunks);
        }
    }

    /// The bits of `mask` have changed in bottom word `i`.
    pub(crate) fn mark_word(&mut self, i: u64, mask: u64) {
        let (chunk, mask) = coarsened(i, mask, self.shift);
        if chunk < self.marks.geometry.words() {
            self.marks.or_word(chunk, mask & self.marks.geometry.word_mask(chunk));
        }
    }
}
