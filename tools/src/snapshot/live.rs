//! Creating, committing and aborting a snapshot.
//!
//! Invariant kept here: copying is on before a freeze looks at anything, and off after the map has said NORMAL. A commit that
//! succeeds is one that this server has made, with what was asked for.

use super::era::{Entered, Eras};
use super::format::{Header, Identity, MAX_NAME, State, boot, changed};
use super::frozen::Frozen;
use super::scratch::Scratch;
use super::shot::{Snapshot, SnapshotStatus};
use super::steps::{Rule, Step, at, keeps};
use super::syncs::Syncs;
use super::trust;
use crate::exit::{Failure, Result};
use crate::size;
use crate::terminal::output::Output;
use dirtymap::{DirtyMap, Error, ImageStamp, ReadMap, Uuid, info::Info};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

/// The snapshots of a server, of which there is one at a time.
#[derive(Default)]
pub struct Snapshots {
    pub(super) eras: Eras,
    /// Where scratch is; none is made without it.
    scratch: Option<PathBuf>,
    pub(super) limit: Option<u64>,
    /// Where it is said what becomes of them.
    pub(super) log: Option<Output>,
    /// One is made or ended at a time.
    control: Mutex<()>,
    /// A sync has failed.
    sync_failed: AtomicBool,
    /// The last one that was committed, and how, for a caller that did not get the answer.
    committed: Mutex<Option<(SnapshotStatus, Asked)>>,
}

/// A disk of the server.
pub struct Source<'a> {
    pub map: &'a DirtyMap,
    pub image: &'a File,
    pub syncs: &'a Syncs,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    pub target: ImageStamp,
    /// Clean granules that were compared in disk and target, and were equal.
    pub audited: u64,
}

/// What a commit is to do: keep the name in the maps, and record a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub keep: bool,
    pub backup: Option<Backup>,
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

    /// The same, which says what becomes of them.
    pub fn telling(self, log: Output) -> Snapshots {
        Snapshots { log: Some(log), ..self }
    }

    /// Enters the era that is: after the write was registered and marked.
    pub fn enter(&self) -> Writer {
        Writer(self.eras.enter())
    }

    /// The snapshot that is there, served or broken.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.eras.snapshot().filter(|snapshot| snapshot.is_served())
    }

    /// The syncs of an image, with what an earlier server has left to be told of them.
    pub fn syncs(&self, map: &DirtyMap) -> Result<Syncs> {
        let Some(dir) = &self.scratch else { return Ok(Syncs::default()) };
        Syncs::new(dir, map.info()?.uuid).map_err(|e| Failure::io(dir.display(), &e))
    }

    /// Has an image synced. What that fails to write the kernel tells once, so it is remembered: each client is told, no
    /// snapshot is made or committed any more, and everything of that disk is dirty.
    pub fn sync<E>(
        &self,
        disk: usize,
        map: &DirtyMap,
        syncs: &Syncs,
        sync: impl FnOnce() -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        syncs.run(sync, || self.sync_failed(disk, map))
    }

    /// A sync of an image has failed, or may have.
    pub(super) fn sync_failed(&self, disk: usize, map: &DirtyMap) {
        self.sync_failed.store(true, SeqCst);
        // If that fails as well, snapshots are refused all the same.
        let _ = map.set_all();
        if let Some(snapshot) = self.eras.snapshot() {
            let _ = snapshot.disks[disk].break_off("a sync of the image failed".into(), map);
        }
    }

    /// An error if a sync of an image has failed.
    pub(super) fn all_synced(&self) -> Result<()> {
        if self.sync_failed.load(SeqCst) {
            let message = "a sync of an image has failed, so what its disk has is not known, and everything counts as dirty; \
                           look after the disk, and start the server again";
            return Err(Failure::new("sync-failed", message));
        }
        Ok(())
    }

    /// An image has no room, which scratch may have taken: ends what can be read, for the guest. Whether a write may find room
    /// now: also if that was done for another one, or the snapshot is gone that the write has entered.
    pub fn give_room(&self, writer: &Writer) -> bool {
        let Some(snapshot) = self.eras.snapshot() else { return writer.0.snapshot.is_some() };
        let room = |frozen: &Frozen| frozen.is_broken() || frozen.give_room().is_ok();
        // That of all, also if one has none to give.
        snapshot.disks.iter().filter(|frozen| !room(frozen)).count() == 0
    }

    fn control(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn committed(&self) -> MutexGuard<'_, Option<(SnapshotStatus, Asked)>> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether the snapshot has its checkpoints still; without them it is broken.
    pub fn look(&self, disks: &[Source<'_>]) {
        if let Some(snapshot) = self.snapshot() {
            (0..).zip(disks).for_each(|(place, disk)| drop(snapshot.is_there(place, disk.map)));
        }
    }

    pub(super) fn dir(&self) -> Result<&PathBuf> {
        self.scratch.as_ref().ok_or_else(|| Failure::new("read-only", "a server that is read-only makes no snapshots"))
    }

    /// Makes a snapshot of all disks at one moment.
    pub fn create(&self, disks: &[Source<'_>], wish: &Wish<'_>) -> Result<Arc<Snapshot>> {
        let _control = self.control();
        check_name(wish.name)?;
        self.all_synced()?;
        self.look(disks);
        if let Some(old) = self.eras.snapshot() {
            // Nothing is being ended just now: without its checkpoint it is nothing, whatever an end had come to that failed.
            let mut places = disks.iter().enumerate();
            let is_there = places.all(|(place, disk)| old.is_there(place, disk.map).is_ok());
            if old.is_served() && old.why_broken().is_none() && is_there {
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
        let frozen = snapshot.disks.iter().map(|disk| disk.progress().frozen_bytes).sum();
        snapshot.say(self.log, format_args!("made; {} are to be copied", size::human(frozen)));
        Ok(snapshot)
    }

    /// Makes the files.
    fn prepare(&self, disks: &[Source<'_>], wish: &Wish<'_>) -> Result<Snapshot> {
        let dir = self.dir()?;
        let failed = |e: io::Error| Failure::io(format_args!("{}: make files for the snapshot", dir.display()), &e);
        let (id, created) = (random_uuid().map_err(failed)?, now());
        let make = |disk: &Source<'_>| -> Result<Frozen> {
            let size = disk.map.len();
            let (block, blocks) = trust::blocks(disk.map)?;
            let header = Header {
                state: State::Prepared,
                whole: wish.whole,
                app: wish.app,
                id,
                map: disk.map.info()?.uuid,
                checkpoint: Uuid::NIL,
                block,
                blocks,
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
            Ok(Frozen::new(scratch, image, size, self.limit).telling(self.log))
        };
        Ok(Snapshot {
            id,
            name: wish.name.into(),
            whole: wish.whole,
            app: wish.app,
            created,
            disks: disks.iter().map(make).collect::<Result<_>>()?,
            served: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            committing: OnceLock::new(),
        })
    }

    fn which(&self, which: Which<'_>) -> Result<Arc<Snapshot>> {
        let found = self.snapshot().filter(|snapshot| which.is(&snapshot.name, &snapshot.id.to_string()));
        let there = || self.snapshot().map_or("none".into(), |there| format!("{:?}, {}", there.name, there.id));
        found.ok_or_else(|| {
            let which = which.id.or(which.name).map_or(String::new(), |which| format!(" {which:?}"));
            Failure::new("no-snapshot", format!("the server has no snapshot{which}; what it has: {}", there()))
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
        let asked = Asked { keep, backup: backup.copied() };
        let snapshot = match self.which(which) {
            Err(none) => return self.committed_before(which, &asked).unwrap_or(Err(none)),
            found => found?,
        };
        if snapshot.committing.get().is_none() {
            self.may_commit(disks, &snapshot, &asked)?;
            if !keeps(Rule::NormalThenOff) {
                self.end(&snapshot);
            }
        }
        if disks.len() > 1 && keeps(Rule::CommitAll) || snapshot.committing.get().is_some() {
            only_forward(&snapshot, asked.keep)?;
        }
        snapshot.ending.store(true, SeqCst);
        let mut gone = None;
        for (disk, frozen) in disks.iter().zip(&snapshot.disks) {
            let uuid = frozen.checkpoint().unwrap_or(Uuid::NIL);
            let committed = match &asked.backup {
                Some(Backup { target, audited }) => disk.map.commit_backup(uuid, asked.keep, target, *audited),
                None => disk.map.commit_checkpoint(uuid, asked.keep),
            };
            match committed {
                // Also of one that another program has committed just now.
                Ok(()) | Err(Error::NoCheckpoint { .. }) => {
                    let not_ours = is_ours(disk.map, uuid, &snapshot.name, &asked, true).err();
                    gone = gone.or(not_ours);
                }
                Err(e) if snapshot.committing.get().is_some() => return Err(forward(e.into())),
                Err(e) => return Err(e.into()),
            }
            at(Step::DiskCommitted);
        }
        at(Step::Committed);
        self.end(&snapshot);
        remove_files(&snapshot);
        if let Some(gone) = gone {
            return Err(gone);
        }
        snapshot.say(self.log, "committed; what it had frozen is backed up");
        let status = snapshot.status();
        *self.committed() = Some((status.clone(), asked));
        Ok(status)
    }

    /// The answer to who asks again for the commit of the last one.
    fn committed_before(&self, which: Which<'_>, asked: &Asked) -> Option<Result<SnapshotStatus>> {
        let (last, how) = self.committed().clone().filter(|(last, _)| which.id == Some(&last.id))?;
        let message =
            || format!("snapshot {} was committed, but not as it is asked for now: another backup, or name", last.id);
        Some(if how == *asked { Ok(last) } else { Err(Failure::new("no-snapshot", message())) })
    }

    /// Whether what the backup has read is right and durable, and all checkpoints are there, or were committed by a try of
    /// which nobody could tell how it had ended.
    fn may_commit(&self, disks: &[Source<'_>], snapshot: &Snapshot, asked: &Asked) -> Result<()> {
        for (place, (disk, frozen)) in disks.iter().zip(&snapshot.disks).enumerate() {
            if let Err(e) = frozen.is_whole() {
                let _ = frozen.break_off(e.to_string(), disk.map);
            }
            let _ = self.sync(place, disk.map, disk.syncs, || disk.image.sync_data());
        }
        self.all_synced()?;
        if let Some(why) = snapshot.why_broken() {
            return Err(Failure::new("snapshot-broken", format!("snapshot {:?} is broken: {why}", snapshot.name)));
        }
        for (disk, frozen) in disks.iter().zip(&snapshot.disks) {
            let uuid = frozen.checkpoint().unwrap_or(Uuid::NIL);
            match disk.map.frozen_set(uuid) {
                Err(Error::NoCheckpoint { .. }) => {
                    let tried = snapshot.ending.load(SeqCst);
                    let ours = is_ours(disk.map, uuid, &snapshot.name, asked, tried);
                    ours.map_err(|not_ours| self.dropped(disks, snapshot, not_ours))?;
                }
                frozen => drop(frozen?),
            }
        }
        at(Step::ImageSynced);
        Ok(())
    }

    /// Gives a snapshot up for what has failed.
    fn dropped(&self, disks: &[Source<'_>], snapshot: &Snapshot, failure: Failure) -> Failure {
        snapshot.say(self.log, &failure);
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
        snapshot.ending.store(true, SeqCst);
        for (disk, frozen) in disks.iter().zip(&snapshot.disks) {
            if let Some(uuid) = frozen.checkpoint() {
                abort_checkpoint(disk.map, uuid)?;
            }
        }
        at(Step::Aborted);
        self.end(snapshot);
        remove_files(snapshot);
        snapshot.say(self.log, "given up; what it had frozen is dirty again");
        Ok(())
    }

    /// Nothing is copied any more.
    fn end(&self, snapshot: &Snapshot) {
        // Readers first: after that writers may write what was not copied.
        snapshot.ended.store(true, SeqCst);
        self.eras.begin(None);
        at(Step::CopyingOff);
    }

    /// The server stops in good order, and no client is left: images are synced, and a snapshot stays for the next server.
    pub fn stop(&self, disks: &[Source<'_>]) -> Result<()> {
        let _control = self.control();
        if self.scratch.is_none() {
            return Ok(());
        }
        let mut failed = None;
        for (place, disk) in disks.iter().enumerate() {
            // What this fails with, the sync before the map is closed is not told any more.
            if let Err(e) = self.sync(place, disk.map, disk.syncs, || disk.image.sync_data()) {
                failed.get_or_insert(Failure::io(format_args!("{}: sync its image", disk.map.path().display()), &e));
            }
            disk.syncs.stop();
        }
        // One that is being committed is for the next server to end.
        let going = self.eras.snapshot().filter(|snapshot| snapshot.committing.get().is_none());
        match (going, failed) {
            (Some(snapshot), None) => self.leave(disks, &snapshot),
            (Some(snapshot), Some(failure)) => Err(self.dropped(disks, &snapshot, failure)),
            (None, failed) => failed.map_or(Ok(()), Err),
        }
    }

    /// Leaves a snapshot to the next server, or drops one that is not to be had any more.
    fn leave(&self, disks: &[Source<'_>], snapshot: &Snapshot) -> Result<()> {
        for (disk, frozen) in disks.iter().zip(&snapshot.disks) {
            let left = stays(disk.image).and_then(|left| frozen.scratch.update(|header| header.left = left));
            if let Err(e) = left {
                let _ = frozen.break_off(e.to_string(), disk.map);
            }
        }
        if !snapshot.is_served() || snapshot.why_broken().is_some() {
            self.drop_snapshot(disks, snapshot)?;
        }
        Ok(())
    }
}

/// Whether a checkpoint is the last one that was committed, and as it was to be: with its name kept, and by the backup to a target.
/// Any program may commit it otherwise.
pub fn is_committed_as(info: &Info, uuid: Uuid, name: Option<&str>, keep: bool, target: Option<&ImageStamp>) -> bool {
    let committed = info.committed.as_ref().is_some_and(|committed| committed.uuid == uuid);
    let kept = !keep || info.points.last().is_some_and(|point| Some(&*point.name) == name);
    committed && kept && target.is_none_or(|target| info.target == Some(*target))
}

/// Refuses a checkpoint that is gone, if it was not our commit with what was asked for that has ended it. `tried`: there was one.
pub(super) fn is_ours(map: &DirtyMap, uuid: Uuid, name: &str, asked: &Asked, tried: bool) -> Result<()> {
    let info = map.info()?;
    let target = asked.backup.map(|backup| backup.target);
    if tried && is_committed_as(&info, uuid, Some(name), asked.keep, target.as_ref()) {
        return Ok(());
    }
    let how = match info.committed.is_some_and(|committed| committed.uuid == uuid) {
        true => "committed, and what it had frozen is clean now",
        false => "ended",
    };
    let message = format!("{}: the snapshot's checkpoint {uuid} was {how}: by another program", map.path().display());
    Err(Failure::new("no-checkpoint", message))
}

/// Has the commit of several disks be written down for every server that comes. From the first header on it goes only forward: what
/// one map has forgotten, none of the others may have back.
fn only_forward(snapshot: &Snapshot, keep: bool) -> Result<()> {
    if let Some(begun) = snapshot.committing.get().filter(|begun| **begun != keep) {
        let how = if *begun { "with its name kept" } else { "without its name kept" };
        let message = format!("snapshot {:?} is being committed {how}; commit it again so", snapshot.name);
        return Err(Failure::new("snapshot-committing", message));
    }
    for frozen in &snapshot.disks {
        let written = frozen.scratch.set_committing(keep);
        if frozen.scratch.header().state.committing().is_some() {
            let _ = snapshot.committing.set(keep);
        }
        written.map_err(|e| {
            let failure = Failure::io("scratch: write down that the snapshot is being committed", &e);
            match snapshot.committing.get() {
                Some(_) => forward(failure),
                None => failure.and("nothing was committed: commit it again, or abort it"),
            }
        })?;
    }
    at(Step::CommittingWritten);
    Ok(())
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
pub(super) fn know(map: &DirtyMap, frozen: &Frozen, whole: bool) -> dirtymap::Result<()> {
    let uuid = frozen.checkpoint().unwrap_or(Uuid::NIL);
    let set = map.frozen_set(uuid)?;
    frozen.known(set.extents(0..map.len())?, whole);
    Ok(())
}

/// When the image was changed last, for the next server to compare. Of a block device that is not known.
fn stays(image: &File) -> io::Result<i64> {
    if image.metadata()?.file_type().is_block_device() {
        return Err(io::Error::other("the server was stopped, and what others write to a block device is not known"));
    }
    changed(image)
}

pub(super) fn abort_checkpoint(map: &DirtyMap, uuid: Uuid) -> Result<()> {
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
