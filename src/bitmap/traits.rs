//! What a `Bitmap` is to generic code.

use super::core::Bitmap;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::geometry::{Geometry, LEVELS};
use crate::hierarchy::Levels;
use crate::query::{Extents, ReadMap, Sealed, WordsIter, WriteMap};
use std::alloc::{Layout, handle_alloc_error};
use std::fmt;
use std::ops::Range;

/// The dirty areas of the whole map.
impl<'a> IntoIterator for &'a Bitmap {
    type Item = Range<u64>;
    type IntoIter = Extents<'a, Bitmap>;

    fn into_iter(self) -> Extents<'a, Bitmap> {
        Extents::over(self, 0..self.len())
    }
}

impl ReadMap for Bitmap {}

impl Sealed for Bitmap {}

impl WriteMap for Bitmap {
    fn set(&mut self, range: Range<u64>) -> Result<u64> {
        self.set(range)
    }
    fn reset(&mut self, range: Range<u64>) -> Result<u64> {
        self.reset(range)
    }
    fn reset_within(&mut self, range: Range<u64>) -> Result<u64> {
        self.reset_within(range)
    }
    fn reset_covering(&mut self, range: Range<u64>) -> Result<u64> {
        self.reset_covering(range)
    }
    fn set_all(&mut self) -> Result<u64> {
        Ok(self.set_all())
    }
    fn reset_all(&mut self) -> Result<u64> {
        Ok(self.reset_all())
    }
    fn load_part(&mut self, range: Range<u64>, bytes: &[u8]) -> Result<u64> {
        self.load_part(range, bytes)
    }
}

/// A map without items.
impl Default for Bitmap {
    fn default() -> Bitmap {
        let levels = Levels::new([const { 0 }; LEVELS].map(|word| vec![word]), 0);
        Bitmap { geometry: Geometry::default(), levels, count: 0, changes: None }
    }
}

/// Marks every granule that one of the ranges touches; what lies past the end of the map is left out.
///
/// ```
/// # use dirtymap::Bitmap;
/// let (mut map, mut other) = (Bitmap::new(100, 3)?, Bitmap::new(200, 0)?);
/// map.set(20..30)?;
/// other.extend(&map);
/// other.extend([5..7, 190..300]);
/// assert!(other.into_iter().eq([5..7, 16..32, 190..200]));
/// # Ok::<(), dirtymap::Error>(())
/// ```
impl Extend<Range<u64>> for Bitmap {
    fn extend<I: IntoIterator<Item = Range<u64>>>(&mut self, ranges: I) {
        for range in ranges {
            let inside = range.start..range.end.min(self.len());
            self.set_bits(self.geometry.touched(&inside));
        }
    }
}

/// Equal: the same length, granularity and bits. Change bitmaps are not compared.
impl PartialEq for Bitmap {
    fn eq(&self, other: &Bitmap) -> bool {
        let all = 0..self.geometry.bits();
        self.geometry == other.geometry
            && self.count == other.count
            && WordsIter::over(self, all.clone()).eq(WordsIter::over(other, all))
    }
}

impl Eq for Bitmap {}

impl Bitmap {
    /// A copy, whose memory may be refused; without the [change bitmap](Self::attach_changes), if there is one. Cost:
    /// O(levels) per nonzero word; pages without dirt stay untouched.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn try_clone(&self) -> Result<Bitmap> {
        Bitmap::copy_of(self)
    }

    /// The same of any kind of map.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; those of a map in a file that cannot be read any more.
    pub fn copy_of(map: &impl ReadMap) -> Result<Bitmap> {
        let mut copy = Bitmap::new(map.geometry().len(), map.geometry().granularity())?;
        copy.merge(map)?;
        Ok(copy)
    }
}

impl Clone for Bitmap {
    /// The copy has no change bitmap. Aborts like any other allocation when memory is refused; see
    /// [`try_clone`](Bitmap::try_clone).
    fn clone(&self) -> Bitmap {
        self.try_clone().unwrap_or_else(|_| {
            handle_alloc_error(Layout::array::<u64>(self.bottom_words().len()).unwrap_or(Layout::new::<u64>()))
        })
    }
}

impl fmt::Debug for Bitmap {
    /// Shape and count, not the bits, of which there may be very many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bitmap")
            .field("len", &self.len())
            .field("granularity", &self.granularity())
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}
