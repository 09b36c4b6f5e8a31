//! What a server has left that is dead: a snapshot to go on with, a commit to end, and a sync of which no client has heard.
//!
//! Invariant kept here: a snapshot is served only if every byte of it is known to be as it was frozen; one that is not is aborted.

use super::asked::{Asked, is_ours};
use super::format::{Header, State, block_of, boot};
use super::frozen::Frozen;
use super::live::{Snapshots, abort_checkpoint, know, was_committed};
use super::scratch::{Scratch, paths, remove};
use super::shot::{Snapshot, SnapshotStatus, Source};
use super::steps::{Rule, Step, at, keeps};
use super::syncs::Left;
use crate::exit::{Failure, Result};
use dirtymap::Uuid;
use dirtymap::checkpoint::{Checkpoint, CheckpointState};
use std::io;
use std::path::Path;
use std::sync::Arc;

impl Snapshots {
    /// Goes on with the snapshot that a server has left, or drops it. Before any client comes, and before anything has synced
    /// the images. Returns what was done and found, for people.
    pub fn take_over(&self, disks: &[Source<'_>]) -> Result<Vec<String>> {
        let dir = self.dir()?;
        let outstanding = |disk: &Source<'_>| -> Result<Option<Checkpoint>> {
            Ok(disk.map.checkpoint()?.filter(|checkpoint| checkpoint.snapshot))
        };
        let checkpoints = disks.iter().map(outstanding).collect::<Result<Vec<_>>>()?;
        let uuids = disks.iter().map(|disk| Ok(disk.map.info()?.uuid)).collect::<Result<Vec<Uuid>>>()?;
        for (place, (disk, uuid)) in disks.iter().zip(&uuids).enumerate() {
            // The kernel may have told the one that asked, and tells nobody again.
            let asked = || Scratch::open(dir, *uuid).is_ok_and(|scratch| was_asked(&scratch.header()));
            if disk.syncs.left() == Some(Left::Failed) || asked() {
                disk.syncs.fail(|| self.sync_failed(place, disk.map));
            }
        }
        let mut said = Vec::from_iter(self.take_over_snapshot(disks, &checkpoints, &uuids)?);
        for disk in disks.iter().filter(|disk| disk.syncs.owes()) {
            said.push(format!(
                "{}: the image may have lost what was written before this server: a sync of it has failed, or nobody heard how one \
                 ended; the next flush of each client fails, once",
                disk.map.path().display()
            ));
        }
        Ok(said)
    }

    fn take_over_snapshot(
        &self,
        disks: &[Source<'_>],
        checkpoints: &[Option<Checkpoint>],
        uuids: &[Uuid],
    ) -> Result<Option<String>> {
        let dir = self.dir()?;
        if let Some(said) = self.go_forward(disks, checkpoints, uuids)? {
            return Ok(Some(said));
        }
        let why = match self.found(disks, checkpoints, uuids) {
            Ok(snapshot) => {
                let said = format!("going on with snapshot {:?}", snapshot.name);
                self.eras.begin(Some(Arc::new(snapshot)));
                at(Step::TakenOver);
                return Ok(Some(said));
            }
            Err(why) => why,
        };
        let mut dropped = false;
        for ((disk, checkpoint), uuid) in disks.iter().zip(checkpoints).zip(uuids) {
            if let Some(checkpoint) = checkpoint.as_ref().filter(|_| keeps(Rule::AbortOwn)) {
                abort_checkpoint(disk.map, checkpoint.uuid)?;
                dropped = true;
            }
            at(Step::Aborted);
            remove_left(dir, *uuid)?;
        }
        Ok(dropped.then(|| format!("a snapshot was dropped, and what it still had frozen is dirty again: {why}")))
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
            uuids.iter().map(|uuid| Scratch::open(dir, *uuid).ok().map(|scratch| scratch.header())).collect();
        let begun = headers.iter().flatten().find(|header| header.state.committing().is_some());
        let Some(begun) = begun else { return Ok(None) };
        let asked = Asked { keep: begun.state == State::Keeping, backup: None };
        let mut gone = None;
        for ((disk, checkpoint), header) in disks.iter().zip(checkpoints).zip(&headers) {
            let header = header.as_ref().filter(|header| header.id == begun.id);
            let is_of_it = |found: &Checkpoint| header.is_some_and(|header| header.checkpoint == found.uuid);
            match checkpoint {
                Some(found) if is_of_it(found) && found.state == CheckpointState::Frozen => {
                    disk.map.commit_checkpoint(found.uuid, asked.keep)?;
                }
                Some(found) => abort_checkpoint(disk.map, found.uuid)?,
                None => {}
            }
            if let Some(header) = header {
                gone = gone.or(is_ours(disk.map, header.checkpoint, &header.name, &asked, true).err());
            }
            at(Step::DiskCommitted);
        }
        uuids.iter().try_for_each(|uuid| remove_left(dir, *uuid))?;
        let said = format!("the commit of snapshot {}, which a server had begun, is complete", begun.id);
        if let Some(gone) = gone {
            return Ok(Some(format!("{said}, but for this: {gone}")));
        }
        self.remember(SnapshotStatus::of_header(begun, disks.len()), 0..disks.len(), asked);
        Ok(Some(said))
    }

    /// Asks the kernel about failed write-back of all files. It tells once: so the headers say first that it is being asked.
    fn ask(&self, disks: &[Source<'_>], found: &[Found]) -> std::result::Result<(), String> {
        let failed = |e: io::Error| format!("not everything that was written is there: {e}");
        let left = || found.iter().enumerate().filter(|(_, found)| found.checkpoint.is_some());
        for (_, Found { scratch, .. }) in left() {
            scratch.update(|header| header.state = State::Asking).map_err(failed)?;
        }
        at(Step::AskingWritten);
        // Of an image as any other sync: the kernel tells once, so that all has to be dirty then.
        for (place, Found { scratch, .. }) in left() {
            let disk = &disks[place];
            self.sync(place, disk.map, disk.syncs, || disk.image.sync_data())
                .and_then(|()| scratch.ask())
                .map_err(failed)?;
        }
        at(Step::Asked);
        for (_, Found { scratch, .. }) in left() {
            // All others are frozen as well, or were.
            let again = |header: &mut Header| (header.state, header.left, header.made) = (State::Ready, 0, true);
            scratch.update(again).map_err(failed)?;
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
        let places = disks.iter().zip(checkpoints).zip(uuids);
        let found = places.map(|((disk, checkpoint), uuid)| Found::of(disk, checkpoint.as_ref(), dir, *uuid));
        let found = found.collect::<std::result::Result<Vec<_>, String>>()?;
        let id = found.first().map(|found| found.header.id);
        if found.iter().any(|found| Some(found.header.id) != id || found.header.disks as usize != disks.len()) {
            return Err("it was not of the same disks".into());
        }
        self.all_synced().map_err(|e| e.message)?;
        self.ask(disks, &found)?;
        let frozen = found.into_iter().zip(disks).map(|(found, disk)| {
            let image = disk.image.try_clone().map_err(|e| e.to_string())?;
            let frozen = Frozen::new(found.scratch, image, disk.map.len(), self.limit).telling(self.log);
            let Some(checkpoint) = found.checkpoint else {
                frozen.end(was_committed(disk.map, found.header.checkpoint));
                frozen.empty();
                return Ok(frozen);
            };
            if !frozen.load().map_err(|e| e.to_string())? {
                return Err("an entry of its index makes no sense".into());
            }
            frozen.set_checkpoint(checkpoint);
            know(disk.map, &frozen).map_err(|e| e.to_string())?;
            Ok(frozen)
        });
        let frozen = frozen.collect::<std::result::Result<_, String>>()?;
        Snapshot::new(frozen, true).filter(|snapshot| !snapshot.is_over()).ok_or_else(|| "no snapshot is frozen".into())
    }
}

/// What a server has left of a disk of its snapshot.
struct Found {
    scratch: Scratch,
    header: Header,
    /// `None`: the disk was ended by itself.
    checkpoint: Option<Uuid>,
}

impl Found {
    /// What is there, if it may be gone on with.
    fn of(
        disk: &Source<'_>,
        checkpoint: Option<&Checkpoint>,
        dir: &Path,
        map: Uuid,
    ) -> std::result::Result<Found, String> {
        let scratch = Scratch::open(dir, map)?;
        let header = scratch.header();
        let Some(checkpoint) = checkpoint else {
            // It was frozen as all were, and whoever has ended it: the others go by what is known of them.
            let ended = header.each && (header.made || !keeps(Rule::MadeThenEnded));
            let of_it = ended && header.checkpoint != Uuid::NIL;
            return if of_it {
                Ok(Found { scratch, header, checkpoint: None })
            } else {
                Err("not all of its disks were frozen".into())
            };
        };
        belongs(disk, checkpoint, &header)?;
        let same = scratch.is_of(disk.image, &header).map_err(|e| e.to_string())?;
        if !same && keeps(Rule::CompareEvidence) {
            return Err("the machine was started, or a file system mounted, or a file replaced since".into());
        }
        Ok(Found { scratch, header, checkpoint: Some(checkpoint.uuid) })
    }
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

/// Whether a server has died while it asked the kernel for write-back that failed, in this boot.
fn was_asked(header: &Header) -> bool {
    header.state == State::Asking && header.boot == boot() && keeps(Rule::RefuseAsking)
}

fn remove_left(dir: &Path, map: Uuid) -> Result<()> {
    let paths = paths(dir, map);
    remove(&paths).map_err(|e| Failure::io(format_args!("{}: remove", paths[0].display()), &e))
}
