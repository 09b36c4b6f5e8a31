//! Space in the file for points.
//!
//! Invariant kept here: a region is chosen and written holding the space lock, until a header names it, and it is given
//! up in the same hold of the update lock in which a durable header stopped naming it. So nobody writes where somebody
//! else does, and nobody clears what is somebody's.

use super::core::Core;
use crate::error::{InUse, Result};
use crate::file::bottom::place;
use crate::file::create;
use crate::file::locks::{Deadline, take};
use crate::format::{Header, Point, PointRole, Reasons, Reserved, bottom_length, table_length};
use crate::sync::MutexGuard;
use crate::sys::Lock;
use std::sync::PoisonError;

/// The space lock, held: nobody else chooses or writes a region that no header names.
pub(crate) struct RegionAllocator<'a> {
    pub(super) core: &'a Core,
    _mine: Option<MutexGuard<'a, ()>>,
}

impl Drop for RegionAllocator<'_> {
    fn drop(&mut self) {
        self.core.disk.unlock(Lock::RegionAllocator);
    }
}

impl Core {
    /// Takes the space lock, waiting for it as long as the options say. It comes before the update lock.
    pub(crate) fn space(&self) -> Result<RegionAllocator<'_>> {
        self.usable()?;
        twin!(LockSpace => return Ok(RegionAllocator { core: self, _mine: None }));
        let end = Deadline::after(self.lock_timeout);
        let mine = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait_for_space(end)?;
        Ok(RegionAllocator { core: self, _mine: Some(mine) })
    }

    /// Gives up the regions of a point that no durable header names any more. In the same hold of the update lock as
    /// the commit. Best effort: they only take space, and whoever uses them again clears them.
    pub(super) fn free_regions(&self, point: &Point) {
        if point.has_regions() {
            let _ = self.disk.free(point.table(self.geometry()));
            let _ = self.disk.free(point.bottom(self.geometry()));
        }
    }

    /// Gives up the regions of points that a header, which is durable in both pairs, does not name any more. In the same
    /// hold of the update lock as the commit.
    pub(super) fn give_up_all_but(&self, header: &Header, before: &[Point]) {
        let named = |point: &Point| header.points.iter().any(|there| there.uuid == point.uuid);
        before.iter().filter(|point| !named(point)).for_each(|point| self.free_regions(point));
    }
}

impl Core {
    /// Takes the space lock among processes.
    fn wait_for_space(&self, end: Deadline) -> Result<()> {
        take(self.file(), Lock::RegionAllocator, end, InUse::Checkpoint)
    }
}

/// A point that no header names yet. Regions that were chosen for it are given up with it, unless it is
/// [handed over](Self::hand_over). Whoever has it holds the space lock, so they are nobody else's.
pub(super) struct NewPoint<'a> {
    pub point: Point,
    /// Who has chosen its regions, if they are new.
    chosen_by: Option<&'a Core>,
}

impl NewPoint<'_> {
    /// One in regions that a header names already.
    pub(super) fn named(regions: &Point) -> Self {
        NewPoint { point: regions.clone(), chosen_by: None }
    }

    /// The point, for a header that is committed next: from then on, only what is durable tells whose the regions are.
    pub(super) fn hand_over(mut self) -> Point {
        self.chosen_by = None;
        self.point.clone()
    }
}

impl Drop for NewPoint<'_> {
    fn drop(&mut self) {
        if let Some(core) = self.chosen_by {
            core.free_regions(&self.point);
        }
    }
}

impl RegionAllocator<'_> {
    /// A new, outstanding point without a name, in space that the header leaves free.
    pub(super) fn select(&self, header: &Header) -> Result<NewPoint<'_>> {
        let mut taken = header.regions().into_iter().map(|(_, range)| range).collect();
        let point = Point {
            uuid: create::random_uuid().map_err(self.core.io("get random bytes"))?,
            time: crate::sys::os::now(),
            role: PointRole::Outstanding,
            name: String::new(),
            table_offset: place(&mut taken, table_length(&header.geometry)).start,
            bottom_offset: place(&mut taken, bottom_length(&header.geometry)).start,
            granules: 0,
            reasons: Reasons::NONE,
            target: None,
            reserved: Reserved::default(),
        };
        Ok(NewPoint { point, chosen_by: Some(self.core) })
    }
}
