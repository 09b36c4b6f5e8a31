//! A source that is an export of `dirtymap serve`: its server makes a live snapshot, which is read, and commits it.
//!
//! Invariants kept here:
//! - what is copied is read from the snapshot that this backup has had made, by its identity, whichever server has it by then;
//! - only the server commits, since only it knows whether the snapshot was whole, and the image durable;
//! - no other program has the map open for writing while the snapshot is made: so this one lets go of it for that moment, but not of
//!   its claim, and goes on only if nothing was committed then. What was frozen would lack what that has copied elsewhere.

use super::export::Export;
use super::{Frozen, Meanwhile, Source, Wish};
use crate::backup::target::Base;
use crate::backup::{INTERRUPTED, Wanted};
use crate::cli::Consistency;
use crate::control::{Client, Completed, DiskStatus, Intended, Request, Stamp, Status};
use crate::exit::{Failure, Result};
use crate::files::{self, Content, Image, storage};
use crate::map::claim::Claim;
use crate::map::open::{self, With};
use crate::snapshot::{SnapshotList, SnapshotStatus, is_committed_as};
use crate::terminal::output::Output;
use crate::terminal::signals;
use dirtymap::checkpoint::{Checkpoint, CheckpointState};
use dirtymap::{DirtyMap, Error, ImageStamp, ReadMap, Uuid, info::Info, iter::Cursor};
use dirtymap_cli::shown::shown;
use dirtymap_nbd::client::{Address, Uri};
use std::cell::Cell;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An export of a server.
pub struct NbdSource<'a> {
    args: &'a Wanted,
    uri: Uri,
    control: &'a Path,
    /// What the server says of the disk.
    disk: DiskStatus,
    /// Of the map, also while that is closed.
    claim: Option<Claim>,
    wait: Duration,
    output: Output,
    /// The disk as it is.
    now: Export,
    /// As it was frozen.
    shot: Option<Shot>,
    /// The server was asked for something that it may do yet.
    unanswered: Cell<bool>,
}

/// The snapshot that was made for this backup.
struct Shot {
    id: String,
    export: Export,
    /// All of it can be read.
    whole: bool,
}

/// What a map knows of backups.
type Known = (Option<Uuid>, Option<ImageStamp>, Option<ImageStamp>);

fn known(map: &DirtyMap) -> Result<Known> {
    let info = map.info()?;
    Ok((info.committed.map(|committed| committed.uuid), info.target, info.begun))
}

/// How often a server that is gone is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How long a server may take to give a snapshot up, before that is done without it.
const GIVE_UP: Duration = Duration::from_secs(10);

impl<'a> NbdSource<'a> {
    /// Asks the server what it has, and connects to the export.
    pub fn open(args: &'a Wanted, control: &'a Path, wait: Duration, output: Output) -> Result<NbdSource<'a>> {
        let text = args.image.to_str().unwrap_or_default();
        let uri: Uri = text.parse().map_err(|e| Failure::usage(format!("{}: {e}", shown(&args.image))))?;
        let patience = args.how.patience();
        let mut server = Client::connect(control)?.within(Some(patience)).telling(output);
        let status: Status = server.ask(&Request::Status {})?;
        let disk = disk_of(&status, &uri.export, control)?;
        let now = Uri { export: disk.export.clone(), ..uri.clone() };
        let now = Export::open(now, text.into(), disk.size, patience, output)?;
        Ok(NbdSource {
            args,
            uri,
            control,
            disk,
            claim: None,
            wait,
            output,
            now,
            shot: None,
            unanswered: Cell::new(false),
        })
    }

    fn map(&self) -> PathBuf {
        self.disk.map.clone().into()
    }

    fn server(&self) -> Result<Client> {
        Ok(Client::connect(self.control)?.telling(self.output))
    }

    /// Opens the map beside the server.
    fn open_beside(&self, output: Output, acceptable: impl Fn(&Info) -> Result<()>) -> Result<DirtyMap> {
        let same = |info: &Info| match info.uuid.to_string() == self.disk.uuid {
            true => acceptable(info),
            false => {
                let (map, control) = (&self.disk.map, self.control.display());
                let message = format!("{}: is not the map that the server at {control} has there", shown(map));
                Err(Failure::new("wrong-server", message))
            }
        };
        open::for_writing(&self.map(), With::Anybody, self.wait, output, same)
    }

    /// Has the snapshot made, and connects to it.
    fn make(
        &mut self,
        map: &mut DirtyMap,
        point: &str,
        target: Option<&ImageStamp>,
        whole: bool,
    ) -> Result<Checkpoint> {
        let before = known(map)?;
        let app = self.args.how.consistency == Some(Consistency::App);
        let backup = target.map(|target| Intended { export: self.disk.export.clone(), target: Stamp::new(target) });
        let request = Request::SnapshotCreate { name: Some(point.into()), whole, app, backup };
        let mut ended = false;
        let made = loop {
            // Whoever has it open for writing keeps the server from freezing.
            let (read_only, _) = open::for_reading(&self.map(), self.wait, self.output.without_notes())?;
            std::mem::replace(map, read_only).close()?;
            match self.create(&request) {
                Err(failure) if failure.kind == "snapshot-exists" => {
                    self.take_back(map, before)?;
                    self.end_left(map, failure, ended)?;
                    ended = true;
                }
                made => break made?,
            }
        };
        let found = signals::check(INTERRUPTED).and_then(|()| self.find(map, before, point, &made.id, whole));
        found.map_err(|failure| match self.end(&made.id) {
            Ok(()) => failure,
            Err(e) if e.kind == "no-snapshot" => failure,
            Err(e) => {
                self.unanswered.set(true);
                failure.and(format_args!("the snapshot may still be there ({e}), the next backup ends it"))
            }
        })
    }

    /// Asks for a snapshot, as long as programs have the map open for writing that the user would wait for.
    fn create(&self, request: &Request) -> Result<SnapshotStatus> {
        let until = Instant::now() + self.wait;
        loop {
            let failure = match self.server()?.within(self.args.how.hooks.limit()).ask(request) {
                Err(failure) => failure,
                made => return made,
            };
            match &*failure.kind {
                "interrupted" | "no-answer" => {
                    self.unanswered.set(true);
                    return Err(failure.and("nothing is lost: if it makes the snapshot, the next backup ends that"));
                }
                "locked" if Instant::now() < until => {
                    signals::check(INTERRUPTED)?;
                    std::thread::sleep(LOOK);
                }
                _ => return Err(failure),
            }
        }
    }

    /// Opens the map again that was let go of, if nothing was committed meanwhile.
    fn take_back(&self, map: &mut DirtyMap, before: Known) -> Result<()> {
        *map = self.open_beside(self.output.without_notes(), |_| Ok(()))?;
        if known(map)? != before {
            let message = format!("{}: another backup went by it just now; start this one again", map.path().display());
            return Err(Failure::new("busy", message));
        }
        Ok(())
    }

    /// Ends a snapshot that was not there before: of a backup that was killed while the server made it. Any other one is left
    /// alone, for which there is `failure`; and without its checkpoint the server makes the next one in its place.
    /// That is asked for once.
    fn end_left(&self, map: &DirtyMap, failure: Failure, ended: bool) -> Result<()> {
        match map.checkpoint()? {
            Some(left) if left.target.is_none() => Err(failure),
            Some(left) => self.abort(map, &left),
            None if ended => Err(failure),
            None => Ok(()),
        }
    }

    /// The snapshot's checkpoint in the map, and its export.
    fn find(&mut self, map: &mut DirtyMap, before: Known, point: &str, id: &str, whole: bool) -> Result<Checkpoint> {
        self.take_back(map, before)?;
        let outstanding = map.checkpoint()?;
        let is_it = |found: &Checkpoint| {
            found.snapshot && found.state == CheckpointState::Frozen && found.name.as_deref() == Some(point)
        };
        // By its identity: if the export is there, that was its checkpoint.
        let uri = Uri { export: format!("{}@{id}", self.disk.export), ..self.uri.clone() };
        let name = format!("the snapshot of {}", self.name());
        let patience = self.args.how.patience();
        let export = Export::open_patiently(uri, name, self.disk.size, patience, self.output);
        let export = export.map_err(|e| {
            match e.kind == "snapshot-gone" && self.there().is_some_and(|there| there.id == id) {
                true => another(&self.name(), self.control),
                false => e,
            }
        })?;
        let checkpoint = outstanding.filter(is_it).ok_or_else(|| {
            let map = map.path().display();
            Failure::new("no-snapshot", format!("{map}: some other program has ended the snapshot's checkpoint"))
        })?;
        self.shot = Some(Shot { id: id.into(), export, whole });
        Ok(checkpoint)
    }

    /// The snapshot that the server has.
    fn there(&self) -> Option<SnapshotStatus> {
        let there = self.server().and_then(|server| server.after_signals(GIVE_UP).ask(&Request::SnapshotList {}));
        there.ok().and_then(|SnapshotList { snapshots }| snapshots.into_iter().next())
    }

    /// Has the server give up a snapshot, also after a signal.
    fn end(&self, id: &str) -> Result<()> {
        let request = Request::SnapshotAbort { name: None, id: Some(id.into()) };
        self.server()?.after_signals(GIVE_UP).ask::<SnapshotStatus>(&request).map(drop)
    }
}

/// The disk that an export of a server is. Its snapshots are of all disks, so no other one may be there.
fn disk_of(status: &Status, export: &str, control: &Path) -> Result<DiskStatus> {
    let control = control.display();
    if let Some((disk, _)) = export.rsplit_once('@') {
        let message = format!("{export:?} is a snapshot; a backup makes one of its own: give the export {disk:?}");
        return Err(Failure::usage(message));
    }
    let found = status.disks.iter().find(|disk| disk.export == export);
    let found = found.or_else(|| status.disks.first().filter(|_| export.is_empty())).ok_or_else(|| {
        let names: Vec<String> = status.disks.iter().map(|disk| format!("{:?}", disk.export)).collect();
        let message = format!("the server at {control} has no export {export:?}; it has {}", names.join(", "));
        Failure::new("no-export", message)
    })?;
    if status.disks.len() > 1 {
        let message = format!(
            "the server at {control} has {} disks, and a snapshot is of all of them, so that a backup of one would forget what was \
             written to the others; serve each disk by a server of its own, or back up their images (--disk)",
            status.disks.len()
        );
        return Err(Failure::new("several-disks", message));
    }
    Ok(found.clone())
}

/// Two sockets of two servers.
fn another(uri: &str, control: &Path) -> Failure {
    let message = format!(
        "{}: is an export of another server than that at {}; give the control socket of the same one (--control)",
        shown(uri),
        control.display()
    );
    Failure::new("wrong-server", message)
}

/// Whether a checkpoint is the last one that was committed.
fn is_committed(map: &DirtyMap, checkpoint: &Checkpoint) -> Result<bool> {
    Ok(map.last_committed()?.is_some_and(|committed| committed.uuid == checkpoint.uuid))
}

/// Whether all that was written since a point is dirty, so that what is frozen next has it.
fn is_dirty_since(map: &DirtyMap, point: &str) -> Result<bool> {
    let (since, dirty) = (map.since_set(point)?, map.dirty_set()?);
    let mut areas = Cursor::new(0..map.len());
    while let Some(area) = areas.next_extent(&*since) {
        if dirty.next_clean(area)?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Source for NbdSource<'_> {
    fn name(&self) -> String {
        self.args.image.display().to_string()
    }

    fn origin(&self) -> String {
        let mut uri = Uri { export: self.disk.export.clone(), ..self.uri.clone() };
        if let Address::Unix(socket) = &mut uri.address
            && let Ok(absolute) = std::path::absolute(&*socket)
        {
            *socket = absolute;
        }
        uri.to_string()
    }

    fn size(&self) -> u64 {
        self.disk.size
    }

    /// The server has asked whether it is raw.
    fn container(&self) -> Option<&'static str> {
        None
    }

    /// Who may use it is the server's to say.
    fn like(&self) -> Option<&File> {
        None
    }

    /// By what the server says that its image lies on: by its path here another file may be there, or none that can be looked at.
    fn apart(&self, target: &Path, found: Option<&Image>) -> Result<()> {
        files::distinct(&[("map", &self.map()), ("target", target)])?;
        let Some(found) = found else { return Ok(()) };
        let image = Path::new(&self.disk.image);
        if self.disk.storage.is_empty() {
            // An older server does not say.
            return storage::apart(image, &storage::layers(&Image::open(image, false)?)?, found);
        }
        storage::apart(image, &self.disk.storage, found)
    }

    fn open_map(&mut self, _: Duration, output: Output, acceptable: &dyn Fn(&Info) -> Result<()>) -> Result<DirtyMap> {
        self.open_beside(output, acceptable)
    }

    fn claim(&mut self, map: &DirtyMap) -> Result<()> {
        self.claim = Some(Claim::of(map)?);
        Ok(())
    }

    fn prepare(&self, _: Output) -> Result<()> {
        Ok(())
    }

    fn freeze(&mut self, map: &mut DirtyMap, wanted: Wish<'_>) -> Result<Frozen> {
        let Wish { point, target, base, all } = wanted;
        let whole = match &base {
            Base::Everything => true,
            Base::Last => all,
            Base::Since(since) => all || !is_dirty_since(map, since)?,
        };
        let checkpoint = self.make(map, point, target.as_ref(), whole)?;
        let bits = match base {
            Base::Everything => Ok(None),
            Base::Since(since) if whole => map.since_set(&since).map(Some),
            // What is set from here on can not be read, and is for the next backup.
            Base::Since(_) | Base::Last => map.frozen_set(checkpoint.uuid).map(Some),
        };
        match bits {
            Ok(bits) => Ok(Frozen { checkpoint, bits: bits.map(|bits| bits as Arc<dyn ReadMap>) }),
            Err(e) => {
                self.abort(map, &checkpoint)?;
                Err(e.into())
            }
        }
    }

    /// The server does, before it commits.
    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn begin(&self) -> Result<()> {
        Ok(())
    }

    fn content(&self) -> &dyn Content {
        self.shot.as_ref().map_or(&self.now, |shot| &shot.export)
    }

    fn is_live(&self, _: &Info) -> bool {
        self.shot.is_none()
    }

    fn clean(&self) -> Option<&dyn Content> {
        self.shot.as_ref().filter(|shot| !shot.whole).map(|_| &self.now as &dyn Content)
    }

    fn done(&self, range: Range<u64>) {
        if let Some(shot) = &self.shot {
            shot.export.trim(range);
        }
    }

    /// Whatever was written, it is of the moment at which it was frozen.
    fn look_back(&self, _: &DirtyMap, _: Output) -> Result<Meanwhile> {
        Ok(Meanwhile { changed: false, one_moment: Some(true) })
    }

    fn commit(
        &self,
        map: &DirtyMap,
        checkpoint: &Checkpoint,
        keep: bool,
        target: &ImageStamp,
        audited: u64,
    ) -> Result<()> {
        if !checkpoint.snapshot {
            // A backup of the image has left it, and was complete.
            return Ok(map.commit_backup(checkpoint.uuid, keep, target, audited)?);
        }
        // A member that was complete is committed by its name, as the identity of its snapshot is gone.
        let id = self.shot.as_ref().map(|shot| shot.id.clone());
        let name = checkpoint.name.clone().filter(|_| id.is_none());
        let backup = Some(Completed { export: self.disk.export.clone(), target: Stamp::new(target), audited });
        let request = Request::SnapshotCommit { name, id, keep, backup };
        let until = Instant::now() + self.args.how.patience();
        loop {
            let failure = match self.server().and_then(|mut server| server.ask::<SnapshotStatus>(&request)) {
                Ok(_) => return Ok(()),
                Err(failure) => failure,
            };
            // The answer may have been lost, and not the commit.
            if is_committed_as(&map.info()?, checkpoint.uuid, checkpoint.name.as_deref(), keep, Some(target)) {
                return Ok(());
            }
            if failure.kind == "interrupted" {
                self.unanswered.set(true);
                return Err(
                    failure.and("nothing is lost: the target is whole, and the next backup goes by whether it commits")
                );
            }
            let away = ["no-answer", "not-found", "io"].contains(&&*failure.kind);
            if !away || signals::requested() || Instant::now() >= until {
                return Err(failure);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn abort(&self, map: &DirtyMap, checkpoint: &Checkpoint) -> Result<()> {
        if checkpoint.snapshot {
            // By its identity: a request that is late must not end another one of that name.
            let of_name = |there: &SnapshotStatus| Some(&there.name) == checkpoint.name.as_ref();
            let id = match &self.shot {
                Some(shot) => Some(shot.id.clone()),
                None => self.there().filter(of_name).map(|there| there.id),
            };
            if let Some(Err(failure)) = id.map(|id| self.end(&id)) {
                self.output.detail(|| format!("the server did not give the snapshot up: {failure}"));
            }
        }
        // Without the server as well: where it has no snapshot any more, or is gone.
        match map.abort_checkpoint(checkpoint.uuid) {
            Err(Error::NoCheckpoint { .. }) if is_committed(map, checkpoint)? => {
                let message = "another program has committed it meanwhile, so what it had is clean now";
                Err(Failure::new("checkpoint-gone", message))
            }
            Ok(()) | Err(Error::NoCheckpoint { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn is_unanswered(&self) -> bool {
        self.unanswered.get()
    }

    fn close(&self, map: DirtyMap, _: Option<bool>) -> Result<()> {
        Ok(map.close()?)
    }
}
