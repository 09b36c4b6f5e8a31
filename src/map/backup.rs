//! What a map records of backups: the target that was completed last, the one that was begun, and audits.
//!
//! Invariant kept here: the completed target and what is dirty change in one commit. So the recorded target never lacks anything
//! that the map calls clean, whenever a backup is killed, and a backup that is begun leaves the record of the last one alone.

use super::dirty_map::DirtyMap;
use crate::engine::backup::{Completed, count_audit};
use crate::error::{InUse, Result};
use crate::file::locks::locked;
use crate::format::{Reasons, Stamp, Uuid};
use crate::image_stamp::{ImageStamp, timeless};
use crate::map_file::MapFile;
use crate::session::locks::open_file;
use crate::sys::{FileDisk, Lock, Storage};
use std::path::Path;

/// The [claim](DirtyMap::claim_backup) of a backup on the map in a file, for one that does not always have the map open: or that
/// asks before it opens the map, which keeps others from having it alone. Dropping it gives the claim up.
///
/// ```
/// # use dirtymap::{BackupClaim, Error, Options};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("map");
/// let map = Options::new().create(&path, 1 << 20)?;
/// let claim = BackupClaim::take(&path)?;
/// assert!(matches!(map.claim_backup(), Err(Error::Locked { .. }))); // another one makes a backup
/// drop(claim);
/// map.claim_backup()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BackupClaim {
    _disk: FileDisk,
}

impl BackupClaim {
    /// Claims the map in a file, which is not looked at.
    ///
    /// # Errors
    /// [`Error::Locked`](crate::Error::Locked) when another one has claimed it; [`Error::Io`](crate::Error::Io).
    pub fn take(path: impl AsRef<Path>) -> Result<BackupClaim> {
        let path = path.as_ref();
        let disk = open_file(path, true)?;
        let file = MapFile::new(&disk, path);
        if disk.try_lock(Lock::Backup).map_err(file.io("take the backup lock"))? {
            return Ok(BackupClaim { _disk: disk });
        }
        Err(locked(file, Lock::Backup, InUse::Backup))
    }
}

/// Backups: who makes one claims the map, [freezes](Self::freeze) it, [begins](Self::begin_backup), copies, and
/// [commits](Self::commit_backup).
///
/// ```
/// # use dirtymap::{ImageStamp, Options};
/// # let dir = tempfile::tempdir()?;
/// # let [image, target] = ["image", "target"].map(|name| dir.path().join(name));
/// # std::fs::write(&image, vec![7; 1 << 20])?;
/// # std::fs::write(&target, vec![0; 1 << 20])?;
/// let map = Options::new().dirty(true).create(dir.path().join("map"), 1 << 20)?;
/// map.claim_backup()?; // no other backup goes by this map
/// map.begin_backup(&ImageStamp::of_path(&target)?)?; // known again, should this be interrupted
/// let frozen = map.freeze(None)?;
/// // Syncs the image, copies what map.frozen(frozen.uuid) has, and syncs the target.
/// # std::fs::copy(&image, &target)?;
/// map.commit_backup(frozen.uuid, false, &ImageStamp::of_path(&target)?, 0)?;
/// assert!(map.is_empty() && map.info()?.target.is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// No type holds a backup from its claim to its commit, since a backup does not end with its process: what was frozen and
/// copied is gone on with by another one, which finds the checkpoint by [`checkpoint`](Self::checkpoint). A value whose drop
/// aborts would throw that away. Each step says what is missing when it comes too early.
impl DirtyMap {
    /// Claims the map for a backup: of all who share it, one at a time copies what is dirty. It stays claimed until this
    /// map is closed or dropped, or its process dies. Doing it twice is no error. Advice among those who ask: nothing
    /// else is refused meanwhile. [`BackupClaim`] is the same without a map that is open.
    ///
    /// # Errors
    /// [`Error::Locked`](crate::Error::Locked) when somebody else has claimed it; [`Error::ReadOnly`](crate::Error::ReadOnly), [`Error::Io`](crate::Error::Io).
    pub fn claim_backup(&self) -> Result<()> {
        self.core()?.claim_backup()
    }

    /// Records that a backup is about to write `target` or to change its size, so that it is known again should the
    /// backup be interrupted. The record of the last completed target stays. Call it before the image is read: dirt that is added
    /// from here on is none that [`complete_backup`](Self::complete_backup) forgets.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), [`Error::Io`](crate::Error::Io).
    pub fn begin_backup(&self, target: &ImageStamp) -> Result<()> {
        self.core()?.begin_backup(|header| {
            let begun = Stamp { exact: false, ..target.0 };
            header.begun = Some(begun);
            twin!(KeepLastTarget => header.target = Some(begun));
        })
    }

    /// Commits a [frozen](Self::freeze) checkpoint as [`commit_checkpoint`](Self::commit_checkpoint) does, and in the same moment
    /// records that `target`, as it is now, is the last backup of this map, and of the point if that is kept. `audited`: how many
    /// clean granules were compared in image and target, and were equal. The caller has synced the target.
    ///
    /// # Errors
    /// As [`commit_checkpoint`](Self::commit_checkpoint).
    pub fn commit_backup(&self, uuid: Uuid, keep: bool, target: &ImageStamp, audited: u64) -> Result<()> {
        let core = self.core()?;
        let completed = Completed { target: target.0, audited };
        twin!(NameTargetThenForget => {
            core.commit_checkpoint_of(&uuid, keep, None)?;
            return core.update_header(|header| completed.record(header))
        });
        core.commit_checkpoint_of(&uuid, keep, Some(&completed))
    }

    /// For a backup without a checkpoint: records that it is complete, and its `target` as it is now. Flushes, and forgets why
    /// recovery had added dirt, but only what it had added when this process [began the backup](Self::begin_backup): nothing if
    /// it did not begin it. The caller has reset what was copied, after syncing the target.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), [`Error::Io`](crate::Error::Io).
    pub fn complete_backup(&self, target: &ImageStamp) -> Result<()> {
        let core = self.core()?;
        core.flush()?;
        core.complete_backup(|header| Completed { target: target.0, audited: 0 }.record(header))
    }

    /// Has a map that belongs to no image belong to this one from here on: another one in its place is noticed. When it was last
    /// changed is not recorded, since whoever tracks it has not told so far. No effect on a map that belongs to an image.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), [`Error::Io`](crate::Error::Io).
    pub fn bind_image(&self, image: &ImageStamp) -> Result<()> {
        let core = self.core()?;
        if self.header()?.image.is_some() {
            return Ok(());
        }
        core.update_header(|header| {
            header.image.get_or_insert(timeless(image.0));
        })
    }

    /// Records that an audit has compared so many clean granules, of which one differs in image and target: everything becomes
    /// dirty, durably.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), [`Error::Io`](crate::Error::Io).
    pub fn record_miss(&self, audited: u64) -> Result<()> {
        let core = self.core()?;
        core.add_dirt(Reasons::IMAGE_CHANGED, || self.set_all())?;
        core.update_header(|header| count_audit(header, audited, 1))?;
        self.flush()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::file::headers;
    use crate::map_file::MapFile;
    use crate::sys::FileDisk;
    use crate::testing::{SyncPoint, visit};
    use std::cell::Cell;
    use std::path::Path;
    use std::rc::Rc;

    fn map_and_targets(dir: &Path) -> (DirtyMap, ImageStamp, ImageStamp) {
        let map = crate::Options::new().flush_interval(None).create(dir.join("map"), 1 << 30).unwrap();
        let target = |name: &str| {
            std::fs::write(dir.join(name), name).unwrap();
            ImageStamp::of_path(&dir.join(name)).unwrap()
        };
        (map, target("first"), target("second"))
    }

    fn back_up(map: &DirtyMap, target: &ImageStamp) -> Uuid {
        map.set(0..1).unwrap();
        let uuid = map.freeze(Some("a")).unwrap().uuid;
        map.begin_backup(target).unwrap();
        uuid
    }

    #[test]
    pub(crate) fn a_backup_that_is_begun_leaves_the_last_target_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (map, first, second) = map_and_targets(dir.path());
        let uuid = back_up(&map, &first);
        assert_eq!(map.info().unwrap().target, None);
        map.commit_backup(uuid, true, &first, 3).unwrap();
        let info = map.info().unwrap();
        assert_eq!((info.target, info.begun, info.audited), (Some(first), None, 3));
        assert_eq!(info.points[0].target, Some(first));
        map.drop_point("a").unwrap();

        let uuid = back_up(&map, &second);
        let info = map.info().unwrap();
        assert_eq!(info.target, Some(first), "a backup that may fail has taken the place of the last one");
        assert!(info.begun.is_some_and(|begun| begun.equals(&second) && !begun.is_exact()));
        map.abort_checkpoint(uuid).unwrap();
        assert_eq!(map.info().unwrap().target, Some(first));
        map.freeze(None).unwrap();
        map.commit_backup(map.checkpoint().unwrap().unwrap().uuid, false, &second, 2).unwrap();
        let info = map.info().unwrap();
        assert_eq!((info.target, info.begun, info.audited), (Some(second), None, 5));
    }

    /// What was frozen with it is clean now, and went elsewhere.
    #[test]
    pub(crate) fn a_checkpoint_without_a_backup_leaves_the_last_target_unproven() {
        let dir = tempfile::tempdir().unwrap();
        let (map, first, _) = map_and_targets(dir.path());

        let uuid = back_up(&map, &first);
        map.commit_backup(uuid, false, &first, 0).unwrap();
        let uuid = map.freeze(None).unwrap().uuid;
        map.abort_checkpoint(uuid).unwrap();
        assert!(map.info().unwrap().target.is_some_and(|target| target.is_exact()));
        let uuid = map.freeze(None).unwrap().uuid;
        map.commit_checkpoint(uuid, false).unwrap();
        let target = map.info().unwrap().target.unwrap();
        assert!(target.equals(&first) && !target.is_exact());
    }

    #[test]
    pub(crate) fn what_is_clean_and_the_target_that_has_it_change_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (map, first, second) = map_and_targets(dir.path());
        let uuid = back_up(&map, &first);
        map.commit_backup(uuid, false, &first, 0).unwrap();
        let uuid = back_up(&map, &second);
        let seen = Rc::new(Cell::new(0));
        let (count, path) = (seen.clone(), dir.path().join("map"));
        visit(Some(Box::new(move |at| {
            if at != SyncPoint::Committed {
                return;
            }
            let disk = FileDisk::new(std::fs::File::open(&path).unwrap(), false);
            let header = headers::newest(MapFile::new(&disk, &path)).unwrap().header;
            let (committed, named) = (header.committed_uuid == uuid, header.target == Some(second.0));
            assert_eq!(committed, named, "a process that is killed here leaves what is clean and not in its target");
            count.set(count.get() + 1);
        })));
        map.commit_backup(uuid, false, &second, 0).unwrap();
        visit(None);
        assert!(seen.get() > 0);
    }

    #[test]
    fn a_miss_makes_everything_dirty_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (map, ..) = map_and_targets(dir.path());
        map.record_miss(7).unwrap();
        let info = map.info().unwrap();
        assert!(map.is_full());
        assert_eq!((info.audited, info.audit_missed, info.verdict), (7, 1, crate::info::Verdict::Superset));
        map.close().unwrap();
        assert!(DirtyMap::open(dir.path().join("map")).unwrap().is_full());
    }

    #[test]
    fn a_map_that_is_bound_later_knows_its_image_and_not_its_times() {
        let dir = tempfile::tempdir().unwrap();
        let (map, image, other) = map_and_targets(dir.path());
        map.bind_image(&image).unwrap();
        map.bind_image(&other).unwrap();
        map.close_with_image(&image).unwrap();
        // Whoever tracks it does not look at the image.
        std::fs::write(dir.path().join("first"), "second").unwrap();
        let open = |name: &str| {
            let stamp = ImageStamp::of_path(&dir.path().join(name)).unwrap();
            crate::Options::new().image(stamp).open(dir.path().join("map")).unwrap()
        };
        for _ in 0..2 {
            std::fs::write(dir.path().join("first"), "third").unwrap();
            let map = open("first");
            assert_eq!(map.recovery().image_changed, None);
            map.close_with_image(&ImageStamp::of_path(&dir.path().join("first")).unwrap()).unwrap();
        }
        assert!(open("second").recovery().image_changed.is_some());
    }
}
