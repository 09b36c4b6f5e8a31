//! Creating, committing and aborting a snapshot, and taking one over from a server that is dead.
//!
//! Invariant kept here: copying is on before a freeze looks at anything, and off after the map has said NORMAL. A snapshot
//! is served only if every byte of it is known to be as it was frozen; one that is not is aborted.

use super::era::{Entered, Eras};
use super::format::{Header, Identity, MAX_NAME, State, block_of, boot, changed};
use super::frozen::Frozen;
use super::scratch::{Scratch, paths, remove};
use super::shot::{Snapshot, SnapshotStatus};
use super::steps::{Rule, Step, at, keeps};
use super::trust;
use crate::exit::{Failure, Result};
use dirtymap::checkpoint::{Checkpoint, CheckpointState};
use dirtymap::{DirtyMap, Error, ImageStamp, ReadMap, Uuid};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::SystemTime;

/// The snapshots of a server, of which there is one at a time.
#[derive(Default)]
pub struct Snapshots {
    eras: Eras,
    /// Where scratch is; none is made without it.
    scratch: Option<PathBuf>,
    limit: Option<u64>,
    /// One is made or ended at a time.
    control: Mutex<()>,
    /// Held, shared, from before an image is synced until it is known here how that ended.
    syncing: RwLock<()>,
    /// A sync has failed.
    sync_failed: AtomicBool,
    /// The last one that was committed, for a caller that did not get the answer.
    committed: Mutex<Option<SnapshotStatus>>,
}

/// A disk of the server.
pub struct Source<'a> {
    pub map: &'a DirtyMap,
    pub image: &'a File,
}

/// What is asked for.
#[derive(Debug)]
pub struct Wish<'a> {
    pub name: &'a str,
    /// Everything is copied, not only what is dirty.
    pub whole: bool,
    pub app: bool,
    /// The target of the backup that it is made for.
    pub target: Option<ImageStamp>,
}

/// A backup of a snapshot of one disk, as its map records it.
#[derive(Clone, Copy, Debug)]
pub struct Backup {
    pub target: ImageStamp,
    /// Clean granules that were compared in disk and target, and were equal.
    pub audited: u64,
}

/// Which snapshot is meant: of all that is given both must be right.
#[derive(Clone, Copy, Debug, Default)]
pub struct Which<'a> {
    pub name: Option<&'a str>,
    pub id: Option<&'a str>,
}

impl Which<'_> {
    fn is(&self, name: &str, id: &str) -> bool {
        self.name.is_none_or(|wanted| wanted == name) && self.id.is_none_or(|wanted| wanted == id)
    }
}

/// A writer, until this is dropped.
pub struct Writer(Entered);

impl Writer {
    /// Before a disk is written: copies what the snapshot needs. The write's own range is registered and marked before.
    pub fn copy(&self, disk: usize, range: Range<u64>, map: &DirtyMap) -> io::Result<()> {
        match &self.0.snapshot {
            Some(snapshot) if !snapshot.ended.load(SeqCst) => {
                snapshot.disks[disk].copy(range, map, || self.0.wait_for_older())?;
            }
            _ => {}
        }
        at(Step::Entered);
        Ok(())
    }
}

impl Snapshots {
    /// Of a server whose scratch is in this directory, and has at most so many bytes for each disk.
    pub fn new(scratch: PathBuf, limit: Option<u64>) -> Snapshots {
        Snapshots { scratch: Some(scratch), limit, ..Snapshots::default() }
    }

    /// Enters the era that is: after the write was registered and marked.
    pub fn enter(&self) -> Writer {
        Writer(self.eras.enter())
    }

    /// The snapshot that is there, served or broken.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.eras.snapshot().filter(|snapshot| snapshot.is_served())
    }

    /// Has an image synced. What that fails to write the kernel tells once, so it is remembered: no snapshot is made or
    /// committed any more, and everything of that disk is dirty.
    pub fn sync<E>(
        &self,
        disk: usize,
        map: &DirtyMap,
        sync: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let _syncing = self.syncing.read().unwrap_or_else(PoisonError::into_inner);
        let done = sync();
        if done.is_err() {
            self.sync_failed.store(true, SeqCst);
            // If that fails as well, snapshots are refused all the same.
            let _ = map.set_all();
            if let Some(snapshot) = self.eras.snapshot() {
                let _ = snapshot.disks[disk].break_off("a sync of the image failed".into(), map);
            }
        }
        done
    }

    /// An error if a sync of an image has failed, also one that is under way now.
    fn all_synced(&self) -> Result<()> {
        if keeps(Rule::WaitForSyncs) {
            drop(self.syncing.write().unwrap_or_else(PoisonError::into_inner));
        }
        if self.sync_failed.load(SeqCst) {
            let message = "a sync of an image has failed, so what its disk has is not known, and everything counts as dirty; \
                           look after the disk, and start the server again";
            return Err(Failure::new("sync-failed", message));
        }
        Ok(())
    }

    /// An image has no room, which scratch may have taken: ends what can be read, for the guest. Whether it did.
    pub fn give_room(&self) -> bool {
        let snapshot = self.eras.snapshot().filter(|snapshot| snapshot.why_broken().is_none());
        snapshot.is_some_and(|snapshot| snapshot.disks.iter().all(|frozen| frozen.give_room().is_ok()))
    }

    fn control(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn committed(&self) -> MutexGuard<'_, Option<SnapshotStatus>> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dir(&self) -> Result<&PathBuf> {
        self.scratch.as_ref().ok_or_else(|| Failure::new("read-only", "a server that is read-only makes no snapshots"))
    }

    /// Makes a snapshot of all disks at one moment.
    pub fn create(&self, disks: &[Source<'_>], wish: &Wish<'_>) -> Result<Arc<Snapshot>> {
        let _control = self.control();
        check_name(wish.name)?;
        self.all_synced()?;
        if let Some(old) = self.eras.snapshot() {
            if old.is_served() && old.why_broken().is_none() {
                let message = format!("snapshot {:?} is there; commit or abort it first", old.name);
                return Err(Failure::new("snapshot-exists", message));
            }
            self.drop_snapshot(disks, &old)?;
        }
        for disk in disks {
            disk.map.can_freeze(Some(wish.name))?;
            trust::image(disk.image)?;
        }
        let snapshot = Arc::new(self.prepare(disks, wish)?);
        let copy_first = keeps(Rule::CopyBeforeFreeze);
        if copy_first {
            self.eras.begin(Some(Arc::clone(&snapshot)));
        }
        at(Step::CopyingOn);
        let frozen = freeze(disks, &snapshot, wish.target.as_ref());
        if !copy_first {
            self.eras.begin(Some(Arc::clone(&snapshot)));
        }
        if let Err(failure) = frozen {
            return Err(self.dropped(disks, &snapshot, failure));
        }
        snapshot.served.store(true, SeqCst);
        Ok(snapshot)
    }

    /// Makes the files.
    fn prepare(&self, disks: &[Source<'_>], wish: &Wish<'_>) -> Result<Snapshot> {
        let dir = self.dir()?;
        let failed = |e: io::Error| Failure::io(format_args!("{}: make files for the snapshot", dir.display()), &e);
        let (id, created) = (random_uuid().map_err(failed)?, now());
        let make = |disk: &Source<'_>| -> Result<Frozen> {
            let size = disk.map.len();
            let block = block_of(size, disk.map.granule_bytes());
            let header = Header {
                state: State::Prepared,
                whole: wish.whole,
                app: wish.app,
                id,
                map: disk.map.info()?.uuid,
                checkpoint: Uuid::NIL,
                block,
                blocks: size.div_ceil(block),
                disks: disks.len() as u32,
                created,
                boot: boot(),
                image: Identity::default(),
                data: Identity::default(),
                index: Identity::default(),
                left: 0,
                name: wish.name.into(),
            };
            let scratch = Scratch::create(dir, disk.image, header).map_err(failed)?;
            scratch.is_trusted()?;
            let image = disk.image.try_clone().map_err(failed)?;
            Ok(Frozen::new(scratch, image, size, self.limit))
        };
        Ok(Snapshot {
            id,
            name: wish.name.into(),
            whole: wish.whole,
            app: wish.app,
            created,
            disks: disks.iter().map(make).collect::<Result<_>>()?,
            served: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            committing: OnceLock::new(),
        })
    }

    fn which(&self, which: Which<'_>) -> Result<Arc<Snapshot>> {
        let found = self.snapshot().filter(|snapshot| which.is(&snapshot.name, &snapshot.id.to_string()));
        found.ok_or_else(|| match which.id.or(which.name) {
            Some(which) => Failure::new("no-snapshot", format!("there is no snapshot {which:?}")),
            None => Failure::new("no-snapshot", "there is no snapshot"),
        })
    }

    /// The backup of the snapshot is complete and durable. `keep` keeps its name in the maps; `backup` is what they record of it.
    /// By its identity it may be done twice.
    pub fn commit(
        &self,
        disks: &[Source<'_>],
        which: Which<'_>,
        keep: bool,
        backup: Option<&Backup>,
    ) -> Result<SnapshotStatus> {
        let _control = self.control();
        let last = || self.committed().clone().filter(|last| which.id == Some(&last.id));
        let snapshot = match self.which(which) {
            Err(none) => return last().ok_or(none),
            found => found?,
        };
        if snapshot.committing.get().is_none() {
            self.may_commit(disks, &snapshot)?;
            if !keeps(Rule::NormalThenOff) {
                self.end(&snapshot);
            }
            if disks.len() > 1 && keeps(Rule::CommitAll) {
                // From here on only forward: what one map has forgotten, none of the others may have back.
                let _ = snapshot.committing.set(keep);
            }
        }
        let keep = match snapshot.committing.get() {
            Some(&keep) => {
                for frozen in &snapshot.disks {
                    frozen.scratch.set_committing(keep).map_err(|e| forward(Failure::io("scratch", &e)))?;
                }
                at(Step::CommittingWritten);
                keep
            }
            None => keep,
        };
        for (disk, frozen) in disks.iter().zip(&snapshot.disks) {
            let uuid = frozen.checkpoint().unwrap_or(Uuid::NIL);
            let committed = match backup {
                Some(Backup { target, audited }) => disk.map.commit_backup(uuid, keep, target, *audited),
                None => disk.map.commit_checkpoint(uuid, keep),
            };
            match committed {
                Ok(()) => {}
                // Somebody has given it up meanwhile: what it had frozen is dirty, which forgets nothing.
                Err(Error::NoCheckpoint { .. }) if snapshot.committing.get().is_some() => {}
                Err(e @ Error::NoCheckpoint { .. }) => return Err(self.dropped(disks, &snapshot, e.into())),
                Err(e) if snapshot.committing.get().is_some() => return Err(forward(e.into())),
                Err(e) => return Err(e.into()),
            }
            at(Step::DiskCommitted);
        }
        at(Step::Committed);
        self.end(&snapshot);
        remove_files(&snapshot);
        let status = snapshot.status();
        *self.committed() = Some(status.clone());
        Ok(status)
    }

    /// Whether what the backup has read is right and durable, and all checkpoints are there.
    fn may_commit(&self, disks: &[Source<'_>], snapshot: &Snapshot) -> Result<()> {
        for (place, (disk, frozen)) in disks.iter().zip(&snapshot.disks).enumerate() {
            if let Err(e) = frozen.is_whole() {
                let _ = frozen.break_off(e.to_string(), disk.map);
            }
            let _ = self.sync(place, disk.map, || frozen.sync_image());
        }
        at(Step::ImageSynced);
        self.all_synced()?;
        if let Some(why) = snapshot.why_broken() {
            return Err(Failure::new("snapshot-broken", format!("snapshot {:?} is broken: {why}", snapshot.name)));
        }
        for (disk, frozen) in disks.iter().zip(&snapshot.disks) {
            let uuid = frozen.checkpoint().unwrap_or(Uuid::NIL);
            let frozen = disk.map.frozen_set(uuid).map(drop);
            if let Err(e @ Error::NoCheckpoint { .. }) = frozen {
                return Err(self.dropped(disks, snapshot, e.into()));
            }
            frozen?;
        }
        Ok(())
    }

    /// Gives a snapshot up for what has failed.
    fn dropped(&self, disks: &[Source<'_>], snapshot: &Snapshot, failure: Failure) -> Failure {
        match self.drop_snapshot(disks, snapshot) {
            Ok(()) => failure,
            Err(worse) => failure.and(worse),
        }
    }

    /// Gives a snapshot up: what was frozen is dirty again.
    pub fn abort(&self, disks: &[Source<'_>], which: Which<'_>) -> Result<Arc<Snapshot>> {
        let _control = self.control();
        let snapshot = self.which(which)?;
        self.drop_snapshot(disks, &snapshot)?;
        Ok(snapshot)
    }

    fn drop_snapshot(&self, disks: &[Source<'_>], snapshot: &Snapshot) -> Result<()> {
        if snapshot.committing.get().is_some() {
            let message =
                format!("snapshot {:?} is being committed, and some disks may be; commit it again", snapshot.name);
            return Err(Failure::new("snapshot-committing", message));
        }
        if !keeps(Rule::NormalThenOff) {
            self.end(snapshot);
        }
        for (disk, frozen) in disks.iter().zip(&snapshot.disks) {
            if let Some(uuid) = frozen.checkpoint() {
                abort_checkpoint(disk.map, uuid)?;
            }
        }
        at(Step::Aborted);
        self.end(snapshot);
        remove_files(snapshot);
        Ok(())
    }

    /// Nothing is copied any more.
    fn end(&self, snapshot: &Snapshot) {
        // Readers first: after that writers may write what was not copied.
        snapshot.ended.store(true, SeqCst);
        self.eras.begin(None);
        at(Step::CopyingOff);
    }

    /// Goes on with the snapshot that a server has left, or drops it. Before any writer comes, and before anything has
    /// synced the images. Returns what was done about it, for people.
    pub fn take_over(&self, disks: &[Source<'_>]) -> Result<Option<String>> {
        let dir = self.dir()?;
        let outstanding = |disk: &Source<'_>| -> Result<Option<Checkpoint>> {
            Ok(disk.map.checkpoint()?.filter(|checkpoint| checkpoint.snapshot))
        };
        let checkpoints = disks.iter().map(outstanding).collect::<Result<Vec<_>>>()?;
        let uuids = disks.iter().map(|disk| Ok(disk.map.info()?.uuid)).collect::<Result<Vec<Uuid>>>()?;
        if let Some(said) = self.go_forward(disks, &checkpoints, &uuids)? {
            return Ok(Some(said));
        }
        let why = match self.found(disks, &checkpoints, &uuids) {
            Ok(snapshot) => {
                let said = format!("going on with snapshot {:?}", snapshot.name);
                self.eras.begin(Some(Arc::new(snapshot)));
                at(Step::TakenOver);
                return Ok(Some(said));
            }
            Err(why) => why,
        };
        let mut dropped = false;
        for ((disk, checkpoint), uuid) in disks.iter().zip(&checkpoints).zip(&uuids) {
            if let Some(checkpoint) = checkpoint.as_ref().filter(|_| keeps(Rule::AbortOwn)) {
                abort_checkpoint(disk.map, checkpoint.uuid)?;
                dropped = true;
            }
            at(Step::Aborted);
            let paths = paths(dir, *uuid);
            remove(&paths).map_err(|e| Failure::io(format_args!("{}: remove", paths[0].display()), &e))?;
        }
        Ok(dropped.then(|| format!("a snapshot was dropped, and what it had frozen is dirty again: {why}")))
    }

    /// Ends the commit of several disks that a server has begun; what was done about it, for people.
    fn go_forward(
        &self,
        disks: &[Source<'_>],
        checkpoints: &[Option<Checkpoint>],
        uuids: &[Uuid],
    ) -> Result<Option<String>> {
        let dir = self.dir()?;
        let headers: Vec<_> =
            uuids.iter().map(|uuid| Scratch::open(dir, *uuid).map(|scratch| scratch.header())).collect();
        let begun = headers.iter().flatten().find(|header| header.state.committing().is_some());
        let Some(begun) = begun else { return Ok(None) };
        let (id, keep) = (begun.id, begun.state == State::Keeping);
        for ((disk, checkpoint), header) in disks.iter().zip(checkpoints).zip(&headers) {
            let of_it = |header: &&Header| header.id == id;
            let (Some(header), Some(checkpoint)) = (header.as_ref().filter(of_it), checkpoint) else { continue };
            if header.checkpoint == checkpoint.uuid && checkpoint.state == CheckpointState::Frozen {
                disk.map.commit_checkpoint(checkpoint.uuid, keep)?;
            } else {
                abort_checkpoint(disk.map, checkpoint.uuid)?;
            }
            at(Step::DiskCommitted);
        }
        for uuid in uuids {
            let paths = paths(dir, *uuid);
            remove(&paths).map_err(|e| Failure::io(format_args!("{}: remove", paths[0].display()), &e))?;
        }
        *self.committed() = Some(SnapshotStatus::of_header(begun, disks.len()));
        Ok(Some(format!("the commit of snapshot {id}, which a server had begun, is complete")))
    }

    /// Asks the kernel about failed write-back of all files. It tells once: so the headers say first that it is being asked.
    fn ask(&self, disks: &[Source<'_>], found: &[(Scratch, Header, Uuid)]) -> std::result::Result<(), String> {
        let failed = |e: io::Error| format!("not everything that was written is there: {e}");
        for (scratch, _, _) in found {
            scratch.update(|header| header.state = State::Asking).map_err(failed)?;
        }
        at(Step::AskingWritten);
        // Of an image as any other sync: the kernel tells once, so that all has to be dirty then.
        for (place, ((scratch, _, _), disk)) in found.iter().zip(disks).enumerate() {
            self.sync(place, disk.map, || disk.image.sync_data()).and_then(|()| scratch.ask()).map_err(failed)?;
        }
        at(Step::Asked);
        for (scratch, _, _) in found {
            scratch.update(|header| (header.state, header.left) = (State::Ready, 0)).map_err(failed)?;
        }
        Ok(())
    }

    /// What can be served of what was left; else why not.
    fn found(
        &self,
        disks: &[Source<'_>],
        checkpoints: &[Option<Checkpoint>],
        uuids: &[Uuid],
    ) -> std::result::Result<Snapshot, String> {
        let dir = self.dir().map_err(|e| e.to_string())?;
        let mut found = Vec::new();
        for ((disk, checkpoint), uuid) in disks.iter().zip(checkpoints).zip(uuids) {
            let checkpoint = checkpoint.as_ref().ok_or("no snapshot is frozen")?;
            let scratch = Scratch::open(dir, *uuid).ok_or("its files are gone")?;
            let header = scratch.header();
            belongs(disk, checkpoint, &header)?;
            let same = scratch.is_of(disk.image, &header).map_err(|e| e.to_string())?;
            if !same && keeps(Rule::CompareEvidence) {
                return Err("the machine was started, or a file system mounted, or a file replaced since".into());
            }
            found.push((scratch, header, checkpoint.uuid));
        }
        let (id, count) = found.first().map_or((Uuid::NIL, 0), |(_, header, _)| (header.id, header.disks as usize));
        if found.iter().any(|(_, header, _)| header.id != id) || count != disks.len() {
            return Err("it was not of the same disks".into());
        }
        self.ask(disks, &found)?;
        let mut frozen = Vec::new();
        for ((scratch, header, checkpoint), disk) in found.into_iter().zip(disks) {
            let image = disk.image.try_clone().map_err(|e| e.to_string())?;
            let disk_of = Frozen::new(scratch, image, disk.map.len(), self.limit);
            if !disk_of.load().map_err(|e| e.to_string())? {
                return Err("an entry of its index makes no sense".into());
            }
            disk_of.set_checkpoint(checkpoint);
            know(disk.map, &disk_of, header.whole).map_err(|e| e.to_string())?;
            frozen.push((disk_of, header));
        }
        let header = frozen.first().map(|(_, header)| header.clone()).ok_or("there are no disks")?;
        Ok(Snapshot {
            id: header.id,
            name: header.name,
            whole: header.whole,
            app: header.app,
            created: header.created,
            disks: frozen.into_iter().map(|(frozen, _)| frozen).collect(),
            served: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            committing: OnceLock::new(),
        })
    }

    /// The server stops in good order, and no writer is left: a snapshot stays for the next one.
    pub fn stop(&self, disks: &[Source<'_>]) -> Result<()> {
        let _control = self.control();
        // One that is being committed is for the next server to end.
        let going = self.eras.snapshot().filter(|snapshot| snapshot.committing.get().is_none());
        let Some(snapshot) = going else { return Ok(()) };
        let mut failed = None;
        for (place, (disk, frozen)) in disks.iter().zip(&snapshot.disks).enumerate() {
            // What this fails with, the sync before the map is closed is not told any more.
            if let Err(e) = self.sync(place, disk.map, || frozen.sync_image()) {
                failed.get_or_insert(Failure::io(format_args!("{}: sync its image", disk.map.path().display()), &e));
                continue;
            }
            let left = stays(disk.image).and_then(|left| frozen.scratch.update(|header| header.left = left));
            if let Err(e) = left {
                let _ = frozen.break_off(e.to_string(), disk.map);
            }
        }
        if let Some(failure) = failed {
            return Err(self.dropped(disks, &snapshot, failure));
        }
        if !snapshot.is_served() || snapshot.why_broken().is_some() {
            self.drop_snapshot(disks, &snapshot)?;
        }
        Ok(())
    }
}

/// What a commit that has begun fails with.
fn forward(failure: Failure) -> Failure {
    failure.and("the commit has begun, and some disks may be committed: commit it again, it cannot be aborted any more")
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains(['@', '/']) || name.chars().any(char::is_control) {
        let message = format!("{name:?} is no name for a snapshot: 1 to {MAX_NAME} bytes without '@' and '/'");
        return Err(Failure::new("bad-name", message));
    }
    Ok(())
}

/// Freezes all maps; copying is on.
fn freeze(disks: &[Source<'_>], snapshot: &Snapshot, target: Option<&ImageStamp>) -> Result<()> {
    for (disk, frozen) in disks.iter().zip(&snapshot.disks) {
        let ready = |uuid: Uuid| {
            let path = disk.map.path().to_path_buf();
            let broken = || io::Error::other(frozen.why_broken().unwrap_or_default());
            if frozen.is_broken() {
                return Err(Error::Io { op: "copy for a snapshot", path, source: broken() });
            }
            let done = frozen.scratch.update(|header| {
                (header.state, header.checkpoint) = (State::Ready, uuid);
            });
            at(Step::ReadyWritten);
            done.map_err(|source| Error::Io { op: "write the index of a snapshot", path, source })
        };
        let settle = |uuid: Uuid| {
            frozen.set_checkpoint(uuid);
            at(Step::Drained);
            if keeps(Rule::MarkAgain) {
                frozen.mark_again(disk.map)?;
            }
            at(Step::MarkedAgain);
            if keeps(Rule::ReadyThenFrozen) { ready(uuid) } else { Ok(()) }
        };
        let checkpoint = disk.map.freeze_snapshot_for(Some(&snapshot.name), target, settle)?;
        at(Step::Frozen);
        if !keeps(Rule::ReadyThenFrozen) {
            ready(checkpoint.uuid)?;
        }
        know(disk.map, frozen, snapshot.whole)?;
    }
    match snapshot.why_broken() {
        Some(why) => Err(Failure::new("snapshot-broken", format!("the snapshot could not be made: {why}"))),
        None => Ok(()),
    }
}

/// Tells a disk of a snapshot what its checkpoint has frozen.
fn know(map: &DirtyMap, frozen: &Frozen, whole: bool) -> dirtymap::Result<()> {
    let uuid = frozen.checkpoint().unwrap_or(Uuid::NIL);
    let set = map.frozen_set(uuid)?;
    frozen.known(set.extents(0..map.len())?, whole);
    Ok(())
}

/// Whether the header is that of the checkpoint, and says READY.
fn belongs(disk: &Source<'_>, checkpoint: &Checkpoint, header: &Header) -> std::result::Result<(), String> {
    if checkpoint.state != CheckpointState::Frozen {
        return Err("it was not frozen yet, or being aborted".into());
    }
    if header.checkpoint != checkpoint.uuid && keeps(Rule::CompareUuid) {
        return Err("its files are of another one".into());
    }
    match header.state {
        State::Ready => {}
        State::Asking if !keeps(Rule::RefuseAsking) => {}
        State::Broken => return Err("a copy to scratch had failed".into()),
        State::Asking => return Err("a server died while it asked whether pages were lost".into()),
        State::Prepared => return Err("its files were not complete".into()),
        State::Committing | State::Keeping => return Err("it was being committed".into()),
    }
    let block = block_of(disk.map.len(), disk.map.granule_bytes());
    if (header.block, header.blocks) != (block, disk.map.len().div_ceil(block)) {
        return Err("it was of another length".into());
    }
    Ok(())
}

/// When the image was changed last, for the next server to compare. Of a block device that is not known.
fn stays(image: &File) -> io::Result<i64> {
    if image.metadata()?.file_type().is_block_device() {
        return Err(io::Error::other("the server was stopped, and what others write to a block device is not known"));
    }
    changed(image)
}

fn abort_checkpoint(map: &DirtyMap, uuid: Uuid) -> Result<()> {
    match map.abort_checkpoint(uuid) {
        Ok(()) | Err(Error::NoCheckpoint { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Without the files nothing is missing; the next snapshot replaces them.
fn remove_files(snapshot: &Snapshot) {
    for frozen in &snapshot.disks {
        let _ = frozen.scratch.remove();
    }
}

fn random_uuid() -> io::Result<Uuid> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Uuid(bytes))
}

fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}
