//! Creating, committing and aborting a snapshot.
//!
//! Invariant kept here: copying is on before a freeze looks at anything, and off after the map has said NORMAL. A commit that
//! succeeds is one that this server has made, with what was asked for.

use super::asked::{Asked, Backup, Committed, Intent, Which, Wish, check_name, is_ours};
use super::era::{Entered, Eras};
use super::format::{Header, Identity, State, boot, changed};
use super::frozen::Frozen;
use super::scratch::Scratch;
use super::shot::{Snapshot, SnapshotStatus, Source};
use super::steps::{Rule, Step, at, keeps};
use super::syncs::Syncs;
use super::trust;
use crate::exit::{Failure, Result};
use crate::size;
use crate::terminal::output::Output;
use dirtymap::{DirtyMap, Error, ReadMap, Uuid};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// The last one of which a disk was committed, and how each was, for a caller that did not get the answer.
    committed: Mutex<Option<Committed>>,
}

/// A writer, until this is dropped.
pub struct Writer(Entered);

impl Writer {
    /// Before a disk is written: copies what the snapshot needs. The write's own range is registered and marked before.
    pub fn copy(&self, disk: usize, range: Range<u64>, map: &DirtyMap) -> io::Result<()> {
        match &self.0.snapshot {
            Some(snapshot) if !snapshot.disks[disk].is_ended() => {
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
        let room = |frozen: &Frozen| frozen.is_ended() || frozen.is_broken() || frozen.give_room().is_ok();
        // That of all, also if one has none to give.
        snapshot.disks.iter().filter(|frozen| !room(frozen)).count() == 0
    }

    fn control(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These disks of a snapshot are committed.
    pub(super) fn remember(&self, status: SnapshotStatus, places: Range<usize>, asked: Asked) {
        let mut last = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let how = match last.take().filter(|last| last.status.id == status.id) {
            Some(last) => last.how,
            None => vec![None; status.disks.len()],
        };
        let how = (0..).zip(how).map(|(place, how)| if places.contains(&place) { Some(asked) } else { how });
        *last = Some(Committed { how: how.collect(), status });
    }

    /// Looks whether the snapshot has its checkpoints still; without them it is broken.
    pub fn look(&self, disks: &[Source<'_>]) {
        if let Some(snapshot) = self.snapshot() {
            snapshot.left(disks, &snapshot.all()).for_each(|(place, disk, _)| drop(snapshot.is_there(place, disk.map)));
        }
    }

    pub(super) fn dir(&self) -> Result<&PathBuf> {
        self.scratch.as_ref().ok_or_else(|| Failure::new("read-only", "a server that is read-only makes no snapshots"))
    }

    /// Makes a snapshot of all disks at one moment.
    pub fn create(&self, disks: &[Source<'_>], wish: &Wish<'_>) -> Result<Arc<Snapshot>> {
        let _control = self.control();
        (0..disks.len()).try_for_each(|place| check_name(wish.of(place).name))?;
        self.all_synced()?;
        self.look(disks);
        if let Some(old) = self.eras.snapshot() {
            // Nothing is being ended just now: without its checkpoint it is nothing, whatever an end had come to that failed.
            let is_there = old.left(disks, &old.all()).all(|(place, disk, _)| old.is_there(place, disk.map).is_ok());
            if old.is_served() && old.why_broken().is_none() && is_there {
                let message = format!("snapshot {:?} is there; commit or abort it first", old.name);
                return Err(Failure::new("snapshot-exists", message));
            }
            self.drop_snapshot(disks, &old, &old.all())?;
        }
        for (place, disk) in disks.iter().enumerate() {
            disk.map.can_freeze(Some(wish.of(place).name))?;
            trust::image(disk.image)?;
        }
        let snapshot = Arc::new(self.prepare(disks, wish)?);
        let copy_first = keeps(Rule::CopyBeforeFreeze);
        if copy_first {
            self.eras.begin(Some(Arc::clone(&snapshot)));
        }
        at(Step::CopyingOn);
        let frozen = freeze(disks, &snapshot, wish);
        if !copy_first {
            self.eras.begin(Some(Arc::clone(&snapshot)));
        }
        if let Err(failure) = frozen {
            return Err(self.dropped(disks, &snapshot, &snapshot.all(), failure));
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
        let each = disks.len() > 1 && !wish.backups.is_empty();
        let make = |(place, disk): (usize, &Source<'_>)| -> Result<Frozen> {
            let Intent { name, whole, .. } = wish.of(place);
            let size = disk.map.len();
            let (block, blocks) = trust::blocks(disk.map)?;
            let header = Header {
                state: State::Prepared,
                whole,
                app: wish.app,
                each,
                made: false,
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
                name: name.into(),
            };
            let scratch = Scratch::create(dir, disk.image, header).map_err(failed)?;
            scratch.is_trusted()?;
            let image = disk.image.try_clone().map_err(failed)?;
            Ok(Frozen::new(scratch, image, size, self.limit).telling(self.log))
        };
        let frozen = disks.iter().enumerate().map(make).collect::<Result<_>>()?;
        Snapshot::new(frozen, false).ok_or_else(|| Failure::new("read-only", "the server has no disks"))
    }

    /// The snapshot that is meant, if some of the disks that are meant are left in it.
    fn which(&self, which: Which<'_>) -> Result<(Arc<Snapshot>, Range<usize>)> {
        let found = self.snapshot().filter(|snapshot| which.is(&snapshot.name, &snapshot.id.to_string()));
        let found = found.and_then(|snapshot| {
            let places = which.places(snapshot.disks.len());
            let left = snapshot.disks.get(places.clone())?.iter().any(|frozen| !frozen.is_ended());
            left.then_some((snapshot, places))
        });
        let there = || self.snapshot().map_or("none".into(), |there| format!("{:?}, {}", there.name, there.id));
        found.ok_or_else(|| {
            let of = if which.place.is_some() { " of this disk" } else { "" };
            let which = which.id.or(which.name).map_or(String::new(), |which| format!(" {which:?}"));
            Failure::new("no-snapshot", format!("the server has no snapshot{which}{of}; what it has: {}", there()))
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
        let (snapshot, places) = match self.which(which) {
            Err(none) => return self.committed_before(which, &asked).unwrap_or(Err(none)),
            found => found?,
        };
        snapshot.ends_by(which.place)?;
        let left: Vec<_> = snapshot.left(disks, &places).collect();
        let of = snapshot.part(&left);
        if snapshot.committing.get().is_none() {
            self.may_commit(disks, &snapshot, &places, &asked)?;
            if !keeps(Rule::NormalThenOff) {
                self.end(disks, &snapshot, &places);
            }
        }
        if places.len() > 1 && keeps(Rule::CommitAll) || snapshot.committing.get().is_some() {
            only_forward(&snapshot, asked.keep)?;
        }
        let mut gone = None;
        for (_, disk, frozen) in left {
            frozen.begin_end();
            let uuid = frozen.checkpoint().unwrap_or(Uuid::NIL);
            let committed = match &asked.backup {
                Some(Backup { target, audited }) => disk.map.commit_backup(uuid, asked.keep, target, *audited),
                None => disk.map.commit_checkpoint(uuid, asked.keep),
            };
            match committed {
                // Also of one that another program has committed just now.
                Ok(()) | Err(Error::NoCheckpoint { .. }) => {
                    let not_ours = is_ours(disk.map, uuid, &frozen.name, &asked, true).err();
                    gone = gone.or(not_ours);
                }
                Err(e) if snapshot.committing.get().is_some() => return Err(forward(e.into())),
                Err(e) => return Err(e.into()),
            }
            at(Step::DiskCommitted);
        }
        at(Step::Committed);
        self.end(disks, &snapshot, &places);
        remove_files(&snapshot, &places);
        if let Some(gone) = gone {
            return Err(gone);
        }
        snapshot.say(self.log, format_args!("committed{of}; what it had frozen is backed up"));
        let status = snapshot.status();
        self.remember(status.clone(), places, asked);
        Ok(status)
    }

    /// The answer to who asks again for a commit of the last one.
    fn committed_before(&self, which: Which<'_>, asked: &Asked) -> Option<Result<SnapshotStatus>> {
        let last = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.as_ref().filter(|last| which.id == Some(&last.status.id))?;
        last.again(which.places(last.how.len()), asked)
    }

    /// Whether what the backup has read is right and durable, and all checkpoints are there, or were committed by a try of
    /// which nobody could tell how it had ended.
    fn may_commit(
        &self,
        disks: &[Source<'_>],
        snapshot: &Snapshot,
        places: &Range<usize>,
        asked: &Asked,
    ) -> Result<()> {
        for (place, disk, frozen) in snapshot.left(disks, places) {
            if let Err(e) = frozen.is_whole() {
                let _ = frozen.break_off(e.to_string(), disk.map);
            }
            let _ = self.sync(place, disk.map, disk.syncs, || disk.image.sync_data());
        }
        self.all_synced()?;
        if let Some(why) = snapshot.left(disks, places).find_map(|(_, _, frozen)| frozen.why_broken()) {
            return Err(Failure::new("snapshot-broken", format!("snapshot {:?} is broken: {why}", snapshot.name)));
        }
        for (_, disk, frozen) in snapshot.left(disks, places) {
            let uuid = frozen.checkpoint().unwrap_or(Uuid::NIL);
            match disk.map.frozen_set(uuid) {
                Err(Error::NoCheckpoint { .. }) => {
                    let ours = is_ours(disk.map, uuid, &frozen.name, asked, frozen.is_ending());
                    ours.map_err(|not_ours| self.dropped(disks, snapshot, places, not_ours))?;
                }
                frozen => drop(frozen?),
            }
        }
        at(Step::ImageSynced);
        Ok(())
    }

    /// Gives disks of a snapshot up for what has failed.
    fn dropped(&self, disks: &[Source<'_>], snapshot: &Snapshot, places: &Range<usize>, failure: Failure) -> Failure {
        snapshot.say(self.log, &failure);
        match self.drop_snapshot(disks, snapshot, places) {
            Ok(()) => failure,
            Err(worse) => failure.and(worse),
        }
    }

    /// Gives a snapshot up, or disks of it: what was frozen is dirty again.
    pub fn abort(&self, disks: &[Source<'_>], which: Which<'_>) -> Result<Arc<Snapshot>> {
        let _control = self.control();
        let (snapshot, places) = self.which(which)?;
        if which.place.is_some() {
            snapshot.ends_by(which.place)?;
        }
        self.drop_snapshot(disks, &snapshot, &places)?;
        Ok(snapshot)
    }

    fn drop_snapshot(&self, disks: &[Source<'_>], snapshot: &Snapshot, places: &Range<usize>) -> Result<()> {
        if snapshot.committing.get().is_some() {
            let message =
                format!("snapshot {:?} is being committed, and some disks may be; commit it again", snapshot.name);
            return Err(Failure::new("snapshot-committing", message));
        }
        let left: Vec<_> = snapshot.left(disks, places).collect();
        let of = snapshot.part(&left);
        if !keeps(Rule::NormalThenOff) {
            self.end(disks, snapshot, places);
        }
        for (_, disk, frozen) in left {
            frozen.begin_end();
            if let Some(uuid) = frozen.checkpoint() {
                abort_checkpoint(disk.map, uuid)?;
            }
        }
        at(Step::Aborted);
        self.end(disks, snapshot, places);
        remove_files(snapshot, places);
        snapshot.say(self.log, format_args!("given up{of}; what it had frozen is dirty again"));
        Ok(())
    }

    /// Nothing is copied any more of these disks.
    fn end(&self, disks: &[Source<'_>], snapshot: &Snapshot, places: &Range<usize>) {
        // Readers first: after that writers may write what was not copied.
        for (_, disk, frozen) in snapshot.left(disks, places) {
            frozen.end(frozen.checkpoint().is_some_and(|uuid| was_committed(disk.map, uuid)));
        }
        if snapshot.is_over() {
            self.eras.begin(None);
        }
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
            (Some(snapshot), Some(failure)) => Err(self.dropped(disks, &snapshot, &snapshot.all(), failure)),
            (None, failed) => failed.map_or(Ok(()), Err),
        }
    }

    /// Leaves a snapshot to the next server, or drops one that is not to be had any more.
    fn leave(&self, disks: &[Source<'_>], snapshot: &Snapshot) -> Result<()> {
        for (_, disk, frozen) in snapshot.left(disks, &snapshot.all()) {
            let left = stays(disk.image).and_then(|left| frozen.scratch.update(|header| header.left = left));
            if let Err(e) = left {
                let _ = frozen.break_off(e.to_string(), disk.map);
            }
        }
        if !snapshot.is_served() || snapshot.why_broken().is_some() {
            self.drop_snapshot(disks, snapshot, &snapshot.all())?;
        }
        Ok(())
    }
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

/// Freezes all maps; copying is on.
fn freeze(disks: &[Source<'_>], snapshot: &Snapshot, wish: &Wish<'_>) -> Result<()> {
    for (place, disk, frozen) in snapshot.left(disks, &snapshot.all()) {
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
        let target = wish.of(place).target;
        let checkpoint = disk.map.freeze_snapshot_for(Some(&frozen.name), target.as_ref(), settle)?;
        at(Step::Frozen);
        if !keeps(Rule::ReadyThenFrozen) {
            ready(checkpoint.uuid)?;
        }
        know(disk.map, frozen)?;
    }
    if let Some(why) = snapshot.why_broken() {
        return Err(Failure::new("snapshot-broken", format!("the snapshot could not be made: {why}")));
    }
    if snapshot.each {
        // From here on one of them may be without its checkpoint.
        for frozen in &snapshot.disks {
            let written = frozen.scratch.update(|header| header.made = true);
            written.map_err(|e| Failure::io("scratch: write down that all disks are frozen", &e))?;
        }
        at(Step::MadeWritten);
    }
    Ok(())
}

/// Tells a disk of a snapshot what its checkpoint has frozen.
pub(super) fn know(map: &DirtyMap, frozen: &Frozen) -> dirtymap::Result<()> {
    let uuid = frozen.checkpoint().unwrap_or(Uuid::NIL);
    let set = map.frozen_set(uuid)?;
    frozen.known(set.extents(0..map.len())?);
    Ok(())
}

/// When the image was changed last, for the next server to compare. Of a block device that is not known.
fn stays(image: &File) -> io::Result<i64> {
    if image.metadata()?.file_type().is_block_device() {
        return Err(io::Error::other("the server was stopped, and what others write to a block device is not known"));
    }
    changed(image)
}

/// Whether the last commit of a map was that of this checkpoint, whoever has made it.
pub(super) fn was_committed(map: &DirtyMap, uuid: Uuid) -> bool {
    map.info().is_ok_and(|info| info.committed.is_some_and(|committed| committed.uuid == uuid))
}

pub(super) fn abort_checkpoint(map: &DirtyMap, uuid: Uuid) -> Result<()> {
    match map.abort_checkpoint(uuid) {
        Ok(()) | Err(Error::NoCheckpoint { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Without the files nothing is missing; the next snapshot replaces them. As long as disks are left, the others have an index, which
/// tells the next server what it is of.
fn remove_files(snapshot: &Snapshot, places: &Range<usize>) {
    if snapshot.is_over() {
        snapshot.disks.iter().for_each(|frozen| _ = frozen.scratch.remove());
    } else {
        snapshot.disks[places.clone()].iter().for_each(Frozen::empty);
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
