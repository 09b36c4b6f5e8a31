//! The change bitmap of a map, as the user asks for it.

use super::dirty_map::DirtyMap;
use crate::bitmap::Bitmap;
use crate::engine::changes::SharedChanges;
use crate::engine::core::Core;
use crate::error::Result;

/// The change bitmap: which parts of a large map to look at again. As that of a [`Bitmap`], and in memory only: it
/// holds what this process changed through this map since it was attached, and is gone with the map. What recovery
/// added when the map was opened is no change.
impl DirtyMap {
    fn changes(&self) -> Result<(&Core, &SharedChanges)> {
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
        let (core, changes) = self.changes()?;
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
        self.changes()?.1.take()
    }

    /// Drops the change bitmap, if there is one.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly).
    pub fn detach_changes(&self) -> Result<()> {
        self.changes()?.1.detach();
        Ok(())
    }
}
