//! Freezing, committing and aborting, as the user calls it.

use super::dirty_map::{DirtyMap, Inner};
use crate::bitmap::Bitmap;
use crate::engine::checkpoint::Wanted;
use crate::engine::point_set::PointSet;
use crate::error::{Error, Result};
use crate::file::headers::LastDurable;
use crate::file::points::{Checkpoint, Committed, committed, no_checkpoint, of_header};
use crate::format::{CheckpointState, Header, PointRole, Stamp, Uuid};
use crate::image_stamp::ImageStamp;
use crate::query::{ReadMap, Search};
use crate::shm::runtime;
use std::sync::Arc;

impl Wanted<'_> {
    /// The same, for a backup to this target.
    fn by(self, target: Option<&ImageStamp>) -> Self {
        Wanted { target: target.map(|target| Stamp { exact: false, ..target.0 }), ..self }
    }
}

/// Checkpoints: a backup's work list, taken at one moment while writers go on, and put back if the backup fails.
///
/// [`freeze`](Self::freeze) moves what is dirty to a *point* in the file, [`commit_checkpoint`](Self::commit_checkpoint)
/// forgets or keeps it, [`abort_checkpoint`](Self::abort_checkpoint) puts it back. In between, whatever reads the map
/// says "dirty here or in the point"; only [`sha256`](Self::sha256) and [`frozen`](Self::frozen) tell one from the other.
/// Resetting is of here only: it takes nothing out of the point. A checkpoint outlives the process: what opens the file next
/// goes on with one that is frozen, and aborts one that was not or was being aborted.
///
/// ```
/// # use dirtymap::Options;
/// # let dir = tempfile::tempdir()?;
/// let map = Options::new().create(dir.path().join("map"), 1 << 30)?;
/// map.set(0..1)?;
/// let frozen = map.freeze(Some("monday"))?;
/// map.set(1 << 20..(1 << 20) + 1)?; // writers go on
/// for extent in &map.frozen(frozen.uuid)? {
///     assert_eq!(extent, 0..65536); // ... is copied
/// }
/// map.commit_checkpoint(frozen.uuid, true)?;
/// assert!(map.into_iter().eq([1 << 20..(1 << 20) + 65536]));
/// assert!(map.since("monday")?.into_iter().eq(&map));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The backup syncs the image after the freeze and before it reads, and its target before the commit: bits may be
/// forgotten only for data that is durable.
impl DirtyMap {
    /// Moves what is dirty to a new point, and waits until every write has ended that [had begun](Self::begin_write) before.
    /// When it returns, the point is the work list of a backup that may read the image now. `name`, of 1 to 64 bytes,
    /// is for keeping the point.
    ///
    /// Writers go on meanwhile. Cost: up to ten syncs and the dirty pages, written and read once; the update lock is
    /// held for moments only.
    ///
    /// # Errors
    /// [`Error::Outstanding`] when a checkpoint is; [`Error::Refused`] for a name that cannot be or is taken, when 63 points are
    /// kept, inside a bracket that this thread has begun, or when a process died whose writes may arrive later;
    /// [`Error::Busy`] when a write did not end [in time](crate::Options::freeze_timeout); [`Error::NoCheckpoint`] when
    /// somebody aborted it meanwhile; [`Error::Interrupted`]; [`Error::Io`], [`Error::ReadOnly`]. After an error nothing has
    /// changed; if that failed as well, or would have taken long after an interrupt, the checkpoint is outstanding, and can be
    /// aborted; whoever opens the map next, alone, does so.
    pub fn freeze(&self, name: Option<&str>) -> Result<Checkpoint> {
        self.freeze_as(Wanted::named(name), |_| Ok(()))
    }

    /// As [`freeze`](Self::freeze), for a backup to `target` that has [claimed](Self::claim_backup) the map. The checkpoint
    /// [names](Checkpoint::target) it as long as it is outstanding: so another backup that claims the map and finds it knows that
    /// its own is dead, and may abort it whatever its name.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn freeze_for(&self, name: Option<&str>, target: &ImageStamp) -> Result<Checkpoint> {
        self.freeze_as(Wanted::named(name).by(Some(target)), |_| Ok(()))
    }

    fn freeze_as(&self, wanted: Wanted<'_>, settle: impl FnOnce(Uuid) -> Result<()>) -> Result<Checkpoint> {
        let Inner::Live(live) = &self.inner else { return Err(Error::ReadOnly) };
        self.core()?.freeze_as(wanted, live.freeze_timeout, settle)
    }

    /// As [`freeze`](Self::freeze), for a program that copies old data before each of its writes, so that the image can be
    /// read as it was frozen: a *snapshot*. Until it returns nobody knows what will be frozen, so the program copies what any
    /// write overwrites, from before the call.
    ///
    /// `settle` runs once all has ended that is waited for, and before anything is frozen. It is given the identity of the
    /// checkpoint, and marks here, by [`set`](Self::set), what was copied meanwhile: that may have been marked before the
    /// freeze reset it, and was written after what is frozen. If it fails, so does the freeze.
    ///
    /// The checkpoint [says](Checkpoint::snapshot) that it is a snapshot's. What was overwritten is in no map: where the
    /// program's copies are lost, as in a power cut, the image is no longer what was frozen. The next one of its kind aborts
    /// the checkpoint then, and everything is dirty again. Nor would copies be made of what another program writes: so this one
    /// must be the only one that has the map open for writing, and none [opens](crate::Options::open) it while the checkpoint is
    /// outstanding, unless it [says](crate::Options::beside_snapshot) that it knows.
    ///
    /// ```
    /// # use dirtymap::Options;
    /// # let dir = tempfile::tempdir()?;
    /// let map = Options::new().create(dir.path().join("map"), 1 << 30)?;
    /// map.set(0..1)?;
    /// // From here on each write copies old data first.
    /// let copied = [1 << 20..(1 << 20) + 4096];
    /// let frozen = map.freeze_snapshot(None, |_uuid| copied.iter().try_for_each(|range| map.set(range.clone()).map(drop)))?;
    /// assert!(frozen.snapshot && map.frozen(frozen.uuid)?.into_iter().eq([0..65536]));
    /// map.commit_checkpoint(frozen.uuid, false)?;
    /// assert!(map.into_iter().eq([1 << 20..(1 << 20) + 65536]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze); [`Error::Locked`] when another process has the map open for writing; and what `settle` returns.
    pub fn freeze_snapshot(&self, name: Option<&str>, settle: impl FnOnce(Uuid) -> Result<()>) -> Result<Checkpoint> {
        self.freeze_snapshot_for(name, None, settle)
    }

    /// As [`freeze_snapshot`](Self::freeze_snapshot), for a backup to `target`, as [`freeze_for`](Self::freeze_for) is.
    ///
    /// # Errors
    /// As [`freeze_snapshot`](Self::freeze_snapshot).
    pub fn freeze_snapshot_for(
        &self,
        name: Option<&str>,
        target: Option<&ImageStamp>,
        settle: impl FnOnce(Uuid) -> Result<()>,
    ) -> Result<Checkpoint> {
        self.freeze_as(Wanted { role: PointRole::Snapshot, ..Wanted::named(name).by(target) }, settle)
    }

    /// Whether [`freeze`](Self::freeze) with this name would be refused at once: for who has something to do before it that
    /// should not be done in vain. Somebody else may freeze in between.
    ///
    /// # Errors
    /// [`Error::Outstanding`]; [`Error::Refused`] for the name and for the number of points; [`Error::Io`],
    /// [`Error::ReadOnly`].
    pub fn can_freeze(&self, name: Option<&str>) -> Result<()> {
        self.core()?.can_freeze(name).map(|_| ())
    }

    /// The backup is complete: what was frozen is clean now, unless it was set again. [`since`](Self::since) says it still, for
    /// the names that were frozen before. `keep` keeps the point by the name that it was frozen with: nothing is dirty since then
    /// but what was set again. Doing it twice is no error. The target that [the last backup](Self::commit_backup) recorded may lack
    /// what is clean now, and compares as [`Unproven`](crate::Comparison::Unproven) from then on.
    ///
    /// Cost: two syncs; and the dirty pages of both, read and written again, where more than one checkpoint was committed since
    /// the newest name. Memory: as much as these.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] unless this one is frozen; [`Error::Refused`] when it has no name and is to be kept;
    /// [`Error::Io`]: then it is not known whether it was committed, and to be tried again. [`Error::ReadOnly`].
    pub fn commit_checkpoint(&self, uuid: Uuid, keep: bool) -> Result<()> {
        self.core()?.commit_checkpoint(&uuid, keep)
    }

    /// Puts everything back that was frozen, durably. Anybody may do it, also while a freeze is under way, which
    /// fails then. Cost: as merging what was frozen, and a flush.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] unless this one is outstanding. [`Error::Io`]: it is still outstanding, nothing is lost, and
    /// it can be tried again. [`Error::ReadOnly`].
    pub fn abort_checkpoint(&self, uuid: Uuid) -> Result<()> {
        self.core()?.abort(&uuid)
    }

    /// The outstanding checkpoint.
    ///
    /// # Errors
    /// As [`info`](Self::info).
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        Ok(of_header(&self.header()?))
    }

    /// The number of the newest commit to the file, by whichever process; none while one is under way, and where
    /// [`verify_session`](Self::verify_session) fails. As long as it stays the same, so does what is read from the header:
    /// [`checkpoint`](Self::checkpoint), the points, what [`info`](Self::info) says but for the bits. For who asks often: this
    /// costs two looks into memory, and those read the file.
    ///
    /// ```
    /// # use dirtymap::Options;
    /// # let dir = tempfile::tempdir()?;
    /// let map = Options::new().create(dir.path().join("map"), 1 << 30)?;
    /// let before = map.sequence();
    /// assert!(before.is_some() && map.checkpoint()?.is_none() && map.sequence() == before); // there was none at that number
    /// map.freeze(None)?;
    /// assert_ne!(map.sequence(), before);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sequence(&self) -> Option<u64> {
        let found = match &self.inner {
            Inner::Loaded(loaded) => Some(loaded.header.sequence),
            Inner::Live(_) | Inner::Watching(_) => {
                // In this order: one that is begun now is not the last that was durable later.
                let begun = self.view().runtime_word(runtime::ATTEMPTED);
                let durable = LastDurable::unpack(self.view().runtime_word(runtime::PUBLISHED)).sequence;
                (begun == durable).then_some(begun)
            }
        };
        // The words of a session that is over are zeros.
        self.readable().ok().and(found)
    }

    /// The last checkpoint that was committed.
    ///
    /// # Errors
    /// As [`info`](Self::info).
    pub fn last_committed(&self) -> Result<Option<Committed>> {
        Ok(committed(&self.header()?))
    }

    /// Pages of the outstanding point that fail, in a map that is open for writing: nobody mends those.
    pub(super) fn point_failed(&self) -> u64 {
        if let Inner::Live(live) = &self.inner { live.core.point_failed() } else { 0 }
    }

    /// What the checkpoint has frozen: the work list of the backup. If a page of it does not verify, everything.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] unless this one is frozen: before that the image may not be read. [`Error::OutOfMemory`].
    pub fn frozen(&self, uuid: Uuid) -> Result<Bitmap> {
        Bitmap::copy_of(&*self.frozen_set(uuid)?)
    }

    /// How many granules the checkpoint has frozen, and the items in them, without a copy in memory.
    ///
    /// # Errors
    /// As [`frozen`](Self::frozen).
    pub fn frozen_len(&self, uuid: Uuid) -> Result<(u64, u64)> {
        let point = self.frozen_set(uuid)?;
        let (count, last) = point.tally(0..point.geometry().bits());
        Ok((count, point.items_in(count, last)))
    }

    /// The same as [`frozen`](Self::frozen), without a copy: the very set that this map reads by.
    ///
    /// # Errors
    /// As [`frozen`](Self::frozen).
    pub fn frozen_set(&self, uuid: Uuid) -> Result<Arc<PointSet>> {
        let none = |header: &Header| no_checkpoint(header, &uuid, self.path());
        let is = |header: &Header| header.checkpoint_state == CheckpointState::Frozen && header.checkpoint_uuid == uuid;
        self.readable()?;
        let header = self.header()?;
        if !is(&header) {
            return Err(none(&header));
        }
        let found = match &self.inner {
            Inner::Live(live) => live.core.frozen(live.core.checkpoint_word()),
            Inner::Loaded(loaded) => loaded.frozen.clone(),
            Inner::Watching(watch) => watch.point(watch.checkpoint_word()),
        };
        // Still that one: so what was read is what it froze.
        let now = self.header()?;
        found.filter(|_| is(&now)).ok_or_else(|| none(&now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use std::sync::atomic::Ordering::SeqCst;

    /// The header may say the one or the other, and be read in between.
    #[test]
    fn no_number_is_told_while_a_commit_is_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let map = Options::new().create(dir.path().join("map"), 1 << 20).unwrap();
        let before = map.sequence();
        assert!(before.is_some());
        map.engine().view().runtime()[runtime::ATTEMPTED].fetch_add(1, SeqCst);
        assert_eq!(map.sequence(), None);
        map.set(0..1).unwrap();
        assert!(map.sequence() > before);
    }
}
