//! Changing a map.
//!
//! Invariant kept here: no operation panics on any input; one that returns an error has changed nothing.

use super::core::Bitmap;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use std::ops::{Range, RangeBounds};

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
    pub fn set(&mut self, range: impl RangeBounds<u64>) -> Result<u64> {
        let range = self.geometry.range(range);
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
    pub fn reset(&mut self, range: impl RangeBounds<u64>) -> Result<u64> {
        let range = self.geometry.range(range);
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
    pub fn reset_within(&mut self, range: impl RangeBounds<u64>) -> Result<u64> {
        let range = self.geometry.range(range);
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
    pub fn reset_covering(&mut self, range: impl RangeBounds<u64>) -> Result<u64> {
        let range = self.geometry.range(range);
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
}
