//! The change bitmap of a map, as the user asks for it.

use super::dirty_map::DirtyMap;
use crate::bitmap::{Bitmap, Changes};
use crate::engine::changes::SharedChanges;
use crate::engine::core::Core;
use crate::error::Result;
use std::ops::Range;

/// The change bitmap: which parts of a large map to look at again. As that of a [`Bitmap`], and in memory only: it
/// holds what this process changed through this map since it was attached, and is gone with the map. What recovery
/// added when the map was opened is no change.
impl DirtyMap {
    fn marks(&self) -> Result<(&Core, &SharedChanges)> {
        let core = self.core()?;
        Ok((core, core.changes()))
    }

    /// Attaches a change bitmap with one bit for each chunk of `1 << chunk` granules; if there is one already, its
    /// marks stay, rounded outward to the new chunks. From then on a call that changes a bit takes a short lock
    /// more; setting what is set already does not. Costs the memory of a [`Bitmap`] of this length with granularity
    /// `granularity + chunk`.
    ///
    /// What other threads are changing meanwhile is marked, or is there already for whoever reads the map after this
    /// has returned.
    ///
    /// # Errors
    /// [`Error::Geometry`](crate::Error::Geometry) when that granularity is over 63,
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::ReadOnly`](crate::Error::ReadOnly).
    pub fn attach_changes(&self, chunk: u32) -> Result<()> {
        let (core, changes) = self.marks()?;
        changes.attach(core.geometry(), chunk)
    }

    /// What changed since this was last asked, or since the change bitmap was attached: a map of the same length
    /// with one granule for each chunk. All marks are clear then. `None` if no change bitmap is attached.
    ///
    /// Every call that has returned is in this answer or in an earlier one. One that is still running is in this or
    /// a later one, and its bits may be changed already.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), and the marks stay.
    /// [`Error::ReadOnly`](crate::Error::ReadOnly).
    pub fn take_changes(&self) -> Result<Option<Bitmap>> {
        self.marks()?.1.with(Changes::take)
    }

    /// What [`take_changes`](Self::take_changes) would give, without taking it.
    ///
    /// ```
    /// # use dirtymap::{Bitmap, DirtyMap};
    /// # let dir = tempfile::tempdir()?;
    /// let map = DirtyMap::options().granularity(0).create(dir.path().join("map"), 1 << 20)?;
    /// map.attach_changes(10)?;
    /// map.set(5000..9000)?;
    /// assert!(map.changes()?.unwrap().into_iter().eq([4096..9216]));
    /// map.clear_changes(0..6000)?; // whole chunks only: 4096..5120
    /// let mut seen = Bitmap::new(1 << 20, 10)?;
    /// assert!(map.has_changes()? && map.take_changes_into(&mut seen)? && !map.has_changes()?);
    /// assert!(seen.into_iter().eq([5120..9216]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`take_changes`](Self::take_changes).
    pub fn changes(&self) -> Result<Option<Bitmap>> {
        self.marks()?.1.with(|changes| changes.marks().try_clone())
    }

    /// Whether [`changes`](Self::changes) has any. Cost: O(1).
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly).
    pub fn has_changes(&self) -> Result<bool> {
        let any = self.marks()?.1.with(|changes| Ok(!changes.marks().is_empty()))?;
        Ok(any == Some(true))
    }

    /// Drops the marks of the chunks that lie wholly inside the range: those at its ends may tell of changes beside it.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange), [`Error::ReadOnly`](crate::Error::ReadOnly).
    pub fn clear_changes(&self, range: Range<u64>) -> Result<()> {
        let (core, changes) = self.marks()?;
        core.geometry().check(&range)?;
        changes.with(|changes| changes.clear(range)).map(drop)
    }

    /// As [`take_changes`](Self::take_changes), into a map of the same length that is there already: what changed is
    /// [merged](Bitmap::merge). `false` if no change bitmap is attached.
    ///
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) when the lengths differ; then the marks stay.
    /// [`Error::ReadOnly`](crate::Error::ReadOnly).
    pub fn take_changes_into(&self, map: &mut Bitmap) -> Result<bool> {
        Ok(self.marks()?.1.with(|changes| changes.take_into(map))?.is_some())
    }

    /// Drops the change bitmap, if there is one.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly).
    pub fn detach_changes(&self) -> Result<()> {
        self.marks()?.1.detach();
        Ok(())
    }
}
