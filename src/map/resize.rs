//! Changing the length of a map, alone.

use super::dirty_map::{DirtyMap, Inner, Live};
use crate::engine::background::Background;
use crate::engine::commit::Failure;
use crate::error::{Error, InUse, Result, Unusable};
use crate::file::locks::{locked, no_other_writer};
use crate::geometry::Geometry;
use crate::map_file::MapFile;
use crate::session::locks::{self, Gate};
use crate::sys::Lock;
use std::sync::Arc;

impl Live {
    /// Whether nobody else has the map open, and nobody will before the gate is let go of.
    pub(super) fn have_alone(&mut self, gate: &Gate) -> Result<bool> {
        let io = self.core.io("ask who else has it open");
        if !self.core.is_shared() || self.writer_slot.alone().map_err(io)? {
            return Ok(true);
        }
        self.share_again(gate);
        // Who has the attach lock and no slot has no session: another kind of program, or one that is dying.
        no_other_writer(self.core.file())
    }

    /// Has the map together with others again. Under the gate nobody else changes who has it, so this does not fail; without it
    /// an opener could come in between.
    pub(super) fn share_again(&mut self, _gate: &Gate) {
        // If it did, others might think they were alone.
        if self.core.is_shared() && !matches!(self.writer_slot.share(), Ok(true)) {
            self.broken = Some(Unusable::LockLost);
        }
    }

    /// Has the map flushed again after something that takes one who is alone; not one that is broken.
    pub(super) fn go_on(&mut self) {
        let every = self.flush_interval.filter(|_| self.broken.is_none());
        self.background = Some(Background::new(&self.core, every));
    }
}

impl DirtyMap {
    /// Changes the length to `len` items. New granules are clean, unless the target that the map [has recorded](Self::commit_backup)
    /// is longer than the map was, and so may hold something else there. Bits past the end are forgotten, and a granule that
    /// stays partly covered stays as it is.
    ///
    /// Everything moves to new regions of the file, which is mapped anew. A crash at any time leaves the old length
    /// or the new one, with everything that was set and lies within it. For shrinking, see that the writes which the
    /// forgotten bits stand for are of no more interest; when growing, grow the map before the image is written
    /// behind its old end.
    ///
    /// [Points](Self::points) that are kept go with it: what is new reads dirty [since](Self::since) each of them.
    ///
    /// ```
    /// # use dirtymap::Options;
    /// # let dir = tempfile::tempdir()?;
    /// let mut map = Options::new().create(dir.path().join("map"), 1 << 30)?;
    /// map.truncate(2 << 30)?; // the image has grown
    /// map.set(1 << 30..2 << 30)?;
    /// map.truncate(3 << 29)?;
    /// assert_eq!(map.dirty_len(), 1 << 29);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Cost: the pages that are not all clean are written again, also those of points; up to seven device syncs, one more for
    /// each point, and one for each 8 MiB of pages; for a moment, the space and the memory of both, and of one point.
    ///
    /// # Errors
    /// [`Error::Geometry`] for a length that no map can have; [`Error::ReadOnly`]; [`Error::Refused`] while a
    /// checkpoint is outstanding; [`Error::Io`], when the disk is full for instance: the map is as it was. If writing the header
    /// is what failed, nobody knows which length the file has: every further use that could rest on it is
    /// [`Error::Unusable`], and the map must be dropped and opened again.
    pub fn truncate(&mut self, len: u64) -> Result<()> {
        self.core()?;
        let geometry = Geometry::new(len, self.granularity())?;
        let Inner::Live(live) = &mut self.inner else { return Err(Error::ReadOnly) };
        if geometry == *live.core.geometry() {
            return Ok(());
        }
        let done = {
            let gate = locks::gate(live.writer_slot.disk(), live.core.path(), live.core.lock_timeout())?;
            if !live.have_alone(&gate)? {
                return Err(locked(
                    MapFile::new(&**live.writer_slot.disk(), live.core.path()),
                    Lock::Slot(0),
                    InUse::Shared,
                ));
            }
            live.background.take();
            let done = live.core.truncate(geometry);
            live.share_again(&gate);
            done
        };
        let failed = match done {
            Ok(core) => {
                live.core = Arc::new(core);
                None
            }
            Err(Failure::Unchanged(e)) => Some(e),
            Err(Failure::InDoubt(e)) => {
                live.broken = Some(Unusable::LengthInDoubt);
                return Err(e);
            }
        };
        live.go_on();
        failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{self, SyncPoint};
    use crate::{Access, Options};
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    #[test]
    fn a_map_whose_length_is_in_doubt_can_be_read_and_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let mut map = Options::new().create(&path, 1 << 30).unwrap();
        map.set(0..1).unwrap();
        let Inner::Live(live) = &mut map.inner else { panic!("not open") };
        live.broken = Some(Unusable::LockLost);
        assert!(map.get(0).unwrap());
        let unusable = |r: Result<u64>| matches!(r, Err(Error::Unusable { why: Unusable::LockLost }));
        assert!(unusable(map.set(0..1)) && unusable(map.reset_all()) && unusable(map.flush().map(|()| 0)));
        assert!(unusable(map.truncate(5).map(|()| 0)) && unusable(map.close().map(|()| 0).map_err(Error::from)));
        // It is gone and the file free; what was set is there.
        assert!(DirtyMap::open(&path).unwrap().get(0).unwrap());
    }

    #[test]
    pub(crate) fn a_reader_does_not_outlive_the_old_length_whenever_the_process_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let shared = Options::new().access(Access::Shared).flush_interval(None);
        let mut map = shared.create(&path, 1 << 30).unwrap();
        let reader = Options::new().access(Access::ReadOnly).open(&path).unwrap();
        assert!(!reader.get(0).unwrap());
        let seen = Arc::new(AtomicU64::new(0));
        let unusable = seen.clone();
        testing::visit(Some(Box::new(move |point| {
            if point == SyncPoint::NewLength && matches!(reader.get(0), Err(Error::Unusable { .. })) {
                unusable.fetch_add(1, SeqCst);
            }
        })));
        map.truncate(1 << 29).unwrap();
        testing::visit(None);
        assert_eq!(seen.load(SeqCst), 2, "killed there, nobody would ever tell the reader");
    }
}
