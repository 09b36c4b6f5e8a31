//! The change bitmap: which chunks of a map changed since somebody last asked.
//!
//! Invariant kept here: marks are dropped only where they were handed out, or by the user's word.

use super::core::{Bitmap, Changes};
use crate::error::Result;
use crate::geometry::Geometry;
use std::ops::Range;

impl Changes {
    /// No marks yet, for a map of this shape; chunks of `1 << shift` bits.
    pub(crate) fn new(map: &Geometry, shift: u32) -> Result<Changes> {
        let of = map.coarser(shift)?;
        Ok(Changes { marks: Bitmap::new(of.len(), of.granularity())?, shift, cut: 0 })
    }

    /// The same marks in chunks of another size, rounded outward.
    pub(crate) fn rechunked(&self, map: &Geometry, shift: u32) -> Result<Changes> {
        let mut new = Changes::new(map, shift)?;
        new.marks.merge(&self.marks)?;
        new.cut = self.cut;
        Ok(new)
    }

    /// Hands out the marks and begins anew.
    pub(crate) fn take(&mut self) -> Result<Bitmap> {
        let none = Bitmap::new(self.marks.len(), self.marks.granularity())?;
        self.cut = 0;
        Ok(std::mem::replace(&mut self.marks, none))
    }

    /// The marks.
    pub(crate) fn marks(&self) -> &Bitmap {
        &self.marks
    }

    /// Drops the marks of the chunks inside a range.
    pub(crate) fn clear(&mut self, range: Range<u64>) -> Result<()> {
        self.marks.reset_within(range).map(drop)
    }

    /// Adds the marks to a map and begins anew.
    pub(crate) fn take_into(&mut self, map: &mut Bitmap) -> Result<()> {
        map.merge(&self.marks)?;
        self.marks.reset_all();
        self.cut = 0;
        Ok(())
    }
}

/// The change bitmap: which parts of a large map to look at again.
///
/// Once attached, it marks the chunks of the range of every operation that changed at least one bit, by whatever
/// method. What takes another map ([`merge`](Self::merge) and the like) marks only the chunks in which bits
/// changed. After [`truncate`](Self::truncate) it has the map's new length; what was cut off with changes is marked
/// if it comes back.
///
/// It is no part of the map's value: copies do not have it, and comparing does not look at it.
///
/// ```
/// # use dirtymap::Bitmap;
/// let mut map = Bitmap::new(1 << 30, 12)?;
/// map.attach_changes(10)?; // chunks of 1024 granules: 4 MiB
/// map.set(5 << 20..6 << 20)?;
/// map.set(5 << 20..9 << 20)?;
/// let changed = map.take_changes()?.unwrap();
/// assert_eq!(changed.granularity(), 22);
/// assert!(changed.into_iter().eq([4 << 20..12 << 20]));
/// assert_eq!(map.set(5 << 20..9 << 20)?, 0);
/// assert!(map.take_changes()?.unwrap().is_empty());
/// # Ok::<(), dirtymap::Error>(())
/// ```
impl Bitmap {
    /// Attaches a change bitmap with one bit for each chunk of `1 << chunk` granules. If there is one already, its
    /// marks stay, rounded outward to the new chunks. Costs the memory of a map of this length with granularity
    /// `granularity + chunk`.
    ///
    /// # Errors
    /// [`Error::Geometry`](crate::Error::Geometry) when that granularity is over 63,
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory); nothing has changed then.
    pub fn attach_changes(&mut self, chunk: u32) -> Result<()> {
        let new = match &self.changes {
            Some(old) => old.rechunked(&self.geometry, chunk)?,
            None => Changes::new(&self.geometry, chunk)?,
        };
        self.changes = Some(Box::new(new));
        Ok(())
    }

    /// What changed since this was last asked, or since the change bitmap was attached: a map of the same length
    /// with one granule for each chunk. All marks are clear then. `None` if no change bitmap is attached.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory); then the marks stay.
    pub fn take_changes(&mut self) -> Result<Option<Bitmap>> {
        self.changes.as_mut().map(|changes| changes.take()).transpose()
    }

    /// What [`take_changes`](Self::take_changes) would give, without taking it.
    ///
    /// ```
    /// # use dirtymap::Bitmap;
    /// let (mut map, mut seen) = (Bitmap::new(1 << 20, 0)?, Bitmap::new(1 << 20, 10)?);
    /// map.attach_changes(10)?;
    /// map.set(5000..9000)?;
    /// assert!(map.changes().unwrap().into_iter().eq([4096..9216]));
    /// map.clear_changes(0..6000)?; // whole chunks only: 4096..5120
    /// assert!(map.has_changes() && map.take_changes_into(&mut seen)? && !map.has_changes());
    /// assert!(seen.into_iter().eq([5120..9216]));
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    pub fn changes(&self) -> Option<&Bitmap> {
        self.changes.as_ref().map(|changes| changes.marks())
    }

    /// Whether [`changes`](Self::changes) has any. Cost: O(1).
    pub fn has_changes(&self) -> bool {
        self.changes().is_some_and(|marks| !marks.is_empty())
    }

    /// Drops the marks of the chunks that lie wholly inside the range: those at its ends may tell of changes beside it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange).
    pub fn clear_changes(&mut self, range: Range<u64>) -> Result<()> {
        self.geometry.check(&range)?;
        self.changes.as_mut().map_or(Ok(()), |changes| changes.clear(range))
    }

    /// As [`take_changes`](Self::take_changes), into a map of the same length that is there already: what changed is
    /// [merged](Self::merge). `false` if no change bitmap is attached.
    ///
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) when the lengths differ; then the marks stay.
    pub fn take_changes_into(&mut self, map: &mut Bitmap) -> Result<bool> {
        self.changes.as_mut().map(|changes| changes.take_into(map)).transpose().map(|taken| taken.is_some())
    }

    /// Drops the change bitmap, if there is one.
    pub fn detach_changes(&mut self) {
        self.changes = None;
    }
}
