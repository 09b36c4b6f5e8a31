//! A source that is an export of `dirtymap serve`: its server makes a live snapshot, which is read, and commits it.
//!
//! Invariants kept here:
//! - what is copied is read from the snapshot that this backup has had made, by its identity, whichever server has it by then;
//! - no disk has a connection but while it is copied: a server has as many disks as it likes, but not as many connections;
//! - only the server commits, since only it knows whether the snapshot was whole, and the image durable;
//! - no other program has the map open for writing while the snapshot is made: so this one lets go of it for that moment, but not of
//!   its claim, and goes on only if nothing was committed then. What was frozen would lack what that has copied elsewhere.

use super::export::Export;
use super::server::{LOOK, Server};
use super::{Frozen, Meanwhile, Source, Wish};
use crate::backup::target::Base;
use crate::backup::{INTERRUPTED, Wanted};
use crate::control::{Completed, DiskStatus, Intended, Request, Stamp};
use crate::exit::{Failure, Result};
use crate::files::{self, Content, Image, storage};
use crate::map::open::{self, With};
use crate::snapshot::{SnapshotStatus, is_committed_as};
use crate::terminal::output::Output;
use crate::terminal::signals;
use dirtymap::checkpoint::{Checkpoint, CheckpointState};
use dirtymap::{DirtyMap, Error, ImageStamp, ReadMap, Uuid, info::Info, iter::Cursor};
use dirtymap_cli::shown::shown;
use dirtymap_nbd::client::{Address, Uri};
use std::cell::Cell;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An export of a server.
pub struct NbdSource<'a> {
    args: &'a Wanted,
    uri: Uri,
    server: Rc<Server<'a>>,
    /// What the server says of the disk.
    disk: DiskStatus,
    wait: Duration,
    output: Output,
    /// The disk as it is.
    now: Export,
    /// What the map knew when it was let go of, and whether all of the disk is to be read.
    intended: Option<(Known, bool)>,
    /// As it was frozen.
    shot: Option<Shot>,
    /// The server was asked for a commit that it may do yet.
    unanswered: Cell<bool>,
}

/// The disk in the snapshot that was made for this backup.
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

impl<'a> NbdSource<'a> {
    /// Asks the server what it has, and looks whether the export is there.
    pub fn open(args: &'a Wanted, server: Rc<Server<'a>>, wait: Duration, output: Output) -> Result<NbdSource<'a>> {
        let text = args.image.to_str().unwrap_or_default();
        let uri: Uri = text.parse().map_err(|e| Failure::usage(format!("{}: {e}", shown(&args.image))))?;
        let disk = server.disk(&uri.export)?;
        let now = Uri { export: disk.export.clone(), ..uri.clone() };
        let now = Export::open(now, text.into(), disk.size, args.how.patience(), output)?;
        now.rest();
        let (intended, shot, unanswered) = Default::default();
        Ok(NbdSource { args, uri, server, disk, wait, output, now, intended, shot, unanswered })
    }

    /// Opens the map beside the server.
    fn open_beside(&self, output: Output, acceptable: impl Fn(&Info) -> Result<()>) -> Result<DirtyMap> {
        let same = |info: &Info| match info.uuid.to_string() == self.disk.uuid {
            true => acceptable(info),
            false => {
                let (map, control) = (&self.disk.map, self.server.control.display());
                let message = format!("{}: is not the map that the server at {control} has there", shown(map));
                Err(Failure::new("wrong-server", message))
            }
        };
        open::for_writing(self.map(), With::Anybody, self.wait, output, same)
    }

    /// Opens the map again that was let go of, if nothing was committed meanwhile.
    fn take_back(&self, map: &mut DirtyMap) -> Result<()> {
        *map = self.open_beside(self.output.without_notes(), |_| Ok(()))?;
        if Some(known(map)?) != self.intended.map(|(before, _)| before) {
            let message = format!("{}: another backup went by it just now; start this one again", map.path().display());
            return Err(Failure::new("busy", message));
        }
        Ok(())
    }

    /// The identity of the snapshot that a checkpoint is of: by that a request that is late ends no other one.
    fn snapshot_of(&self, checkpoint: &Checkpoint) -> Result<String> {
        self.shot.as_ref().map_or_else(|| self.server.snapshot_of(checkpoint.uuid), |shot| Ok(shot.id.clone()))
    }

    /// The snapshot's checkpoint in the map, and its export.
    fn find(&mut self, map: &mut DirtyMap, point: &str, id: &str, whole: bool) -> Result<Checkpoint> {
        self.take_back(map)?;
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
            match e.kind == "snapshot-gone" && matches!(self.server.there(), Ok(Some(there)) if there.id == id) {
                true => another(&self.name(), self.server.control),
                false => e,
            }
        })?;
        export.rest();
        let checkpoint = outstanding.filter(is_it).ok_or_else(|| {
            let map = map.path().display();
            Failure::new("no-snapshot", format!("{map}: some other program has ended the snapshot's checkpoint"))
        })?;
        self.shot = Some(Shot { id: id.into(), export, whole });
        Ok(checkpoint)
    }
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
        files::distinct(&[("map", self.map()), ("target", target)])?;
        let Some(found) = found else { return Ok(()) };
        let image = Path::new(&self.disk.image);
        if self.disk.storage.is_empty() {
            // An older server does not say.
            return storage::apart(image, &storage::layers(&Image::open(image, false)?)?, found);
        }
        storage::apart(image, &self.disk.storage, found)
    }

    fn map(&self) -> &Path {
        Path::new(&self.disk.map)
    }

    fn open_map(&mut self, _: Duration, output: Output, acceptable: &dyn Fn(&Info) -> Result<()>) -> Result<DirtyMap> {
        self.open_beside(output, acceptable)
    }

    fn prepare(&self, _: Output) -> Result<()> {
        Ok(())
    }

    /// Whoever has it open for writing keeps the server from freezing.
    fn let_go(&mut self, map: &mut DirtyMap, wish: &Wish<'_>) -> Result<()> {
        let whole = match &wish.base {
            Base::Everything => true,
            Base::Last => wish.all,
            Base::Since(since) => wish.all || !is_dirty_since(map, since)?,
        };
        self.intended = Some((known(map)?, whole));
        let (export, name, target) =
            (self.disk.export.clone(), wish.point.into(), wish.target.as_ref().map(Stamp::new));
        self.server.intend(Intended { export, name, whole, target });
        let (read_only, _) = open::for_reading(self.map(), self.wait, self.output.without_notes())?;
        Ok(std::mem::replace(map, read_only).close()?)
    }

    /// Of one that was not there before: a backup was killed while the server made it. Any other one is left alone. And without its
    /// checkpoint the server makes the next one in its place.
    fn make_way(&mut self, map: &mut DirtyMap) -> Result<bool> {
        self.take_back(map)?;
        let Some(left) = map.checkpoint()?.filter(|left| left.target.is_some()) else { return Ok(false) };
        self.abort(map, &left).map(|()| true)
    }

    fn freeze(&mut self, map: &mut DirtyMap, wish: Wish<'_>) -> Result<Frozen> {
        let (Wish { point, base, .. }, whole) = (wish, self.intended.is_some_and(|(_, whole)| whole));
        let made = self.server.snapshot()?;
        let found = signals::check(INTERRUPTED).and_then(|()| self.find(map, point, &made.id, whole));
        let checkpoint = found.map_err(|failure| match self.server.end(&made.id, None) {
            Ok(()) => failure,
            Err(e) if e.kind == "no-snapshot" => failure,
            Err(e) => {
                self.server.unanswered.set(true);
                failure.and(format_args!("the snapshot may still be there ({e}), the next backup ends it"))
            }
        })?;
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
        self.now.rest();
        self.shot.iter().for_each(|shot| shot.export.rest());
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
        let until = Instant::now() + self.args.how.patience();
        loop {
            let backup = Some(Completed { export: self.disk.export.clone(), target: Stamp::new(target), audited });
            let asked = self.snapshot_of(checkpoint).and_then(|id| {
                let request = Request::SnapshotCommit { name: None, id: Some(id), keep, backup };
                self.server.client()?.ask::<SnapshotStatus>(&request)
            });
            let failure = match asked {
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
            let ended = self.snapshot_of(checkpoint).and_then(|id| self.server.end(&id, Some(&self.disk.export)));
            if let Err(failure) = ended {
                self.output.detail(|| format!("the server gives no snapshot up: {failure}"));
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
        self.unanswered.get() || self.server.unanswered.get()
    }

    fn close(&self, map: DirtyMap, _: Option<bool>) -> Result<()> {
        Ok(map.close()?)
    }
}
