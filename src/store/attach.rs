//! Who may open the file: the gate, the attach lock and the slots.
//!
//! Invariant kept here: every decision about opening and closing is made holding the gate.

use super::image::ImageStamp;
use super::open::{self, Loaded};
use super::{DirtyMap, Options};
use crate::error::{Error, Result};
use crate::format::{self, SLOTS};
use crate::sys::{Disk, FileDisk, Lock, facts, fork};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const _: () = assert!(Lock::Gate.byte() == format::GATE_LOCK && Lock::Update.byte() == format::UPDATE_LOCK);
const _: () = assert!(Lock::Space.byte() == format::SPACE_LOCK);
const _: () = assert!(Lock::Turn.byte() == format::TURN_LOCK && Lock::Slot(0).byte() == format::SLOT_LOCKS);

/// How long to wait for the gate at least: who holds it is opening, closing or looking, which takes moments.
const GATE_PATIENCE: Duration = Duration::from_secs(5);

/// The gate, held until dropped.
pub(super) struct Gate(Arc<FileDisk>);

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.unlock(Lock::Gate);
    }
}

/// The attach lock and a slot, held until dropped: this process has the map open for writing.
pub(super) struct Seat {
    disk: Arc<FileDisk>,
    slot: u64,
    born: fork::Generation,
}

impl Seat {
    /// The file.
    pub(super) fn disk(&self) -> &Arc<FileDisk> {
        &self.disk
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Explicit, since a forked child may still hold the descriptor; and not in that child, whose locks they are not.
        if self.born.is_current() {
            self.disk.unlock(Lock::Slot(self.slot));
            self.disk.detach();
        }
    }
}

/// A file that this process has alone, with the gate still held.
pub(super) struct Alone {
    seat: Seat,
    gate: Gate,
}

/// Opens the file, and says what is wrong with it as a file.
pub(super) fn open_file(path: &Path, write: bool) -> Result<FileDisk> {
    let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
    let file = facts::open(path, write).map_err(io("open"))?;
    if write && facts::fs_kind(&file).map_err(io("look at the file system"))? == facts::FsKind::Btrfs {
        let nocow = facts::is_nocow(&file).map_err(io("look at the file's flags"))?;
        if !nocow {
            return Err(Error::Refused {
                path: path.to_path_buf(),
                why: "this file on btrfs is written copy-on-write, so that space cannot be set aside for it; \
                      create a new map here, or make a copy with `chattr +C` set on the empty file first"
                    .into(),
            });
        }
    }
    Ok(FileDisk::new(file, write))
}

/// Whether a deadline has passed; one that is too far to be told never does.
fn passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Takes the gate; waits for at least a few seconds.
///
/// Nobody starves: who waits for the gate holds the turn, without which nobody who lets go of the gate gets it back.
pub(super) fn gate(disk: &Arc<FileDisk>, path: &Path, wait: Duration) -> Result<Gate> {
    let deadline = Instant::now().checked_add(wait.max(GATE_PATIENCE));
    let take = |lock| {
        let io = |source| Error::Io { op: "take the gate lock", path: path.to_path_buf(), source };
        let mut pause = Duration::from_micros(50);
        while !disk.try_lock(lock).map_err(io)? {
            if passed(deadline) {
                return Err(Error::Locked {
                    path: path.to_path_buf(),
                    what: "another process is opening, closing or checking it",
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(2));
        }
        Ok(())
    };
    take(Lock::Turn)?;
    let taken = take(Lock::Gate);
    disk.unlock(Lock::Turn);
    taken.map(|()| Gate(disk.clone()))
}

/// Takes the gate and then the attach lock, exclusively. The gate is kept.
pub(super) fn alone(disk: Arc<FileDisk>, path: &Path, options: &Options) -> Result<Alone> {
    let io = |source| Error::Io { op: "take the attach lock", path: path.to_path_buf(), source };
    let deadline = Instant::now().checked_add(options.wait);
    loop {
        let gate = gate(&disk, path, options.wait)?;
        if disk.try_attach(true).map_err(io)? {
            let seat = seat(disk, path, |_| true)?;
            return Ok(Alone { seat, gate });
        }
        drop(gate);
        if passed(deadline) {
            return Err(Error::Locked { path: path.to_path_buf(), what: "another process has it open" });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Takes the first free slot that is usable. The caller holds the gate, and the attach lock, which is let go of after an
/// error.
fn seat(disk: Arc<FileDisk>, path: &Path, usable: impl Fn(u64) -> bool) -> Result<Seat> {
    let io = |source| Error::Io { op: "take a slot", path: path.to_path_buf(), source };
    let take = || -> Result<Seat> {
        let born = fork::generation().map_err(io)?;
        for slot in (0..SLOTS).filter(|&slot| usable(slot)) {
            if disk.try_lock(Lock::Slot(slot)).map_err(io)? {
                return Ok(Seat { disk: disk.clone(), slot, born });
            }
        }
        Err(Error::Locked { path: path.to_path_buf(), what: "as many processes as can have it open" })
    };
    take().inspect_err(|_| disk.detach())
}

impl Alone {
    /// Opens the map for writing, and lets go of the gate.
    pub(super) fn open(self, path: &Path, options: &Options) -> Result<DirtyMap> {
        let Alone { seat, gate } = self;
        let (core, recovery) = open::open_alone(seat.disk.clone(), path, options, seat.slot)?;
        drop(gate);
        Ok(DirtyMap::live(Arc::new(core), seat, recovery, options))
    }
}

/// Whether nobody has the file open for writing. The caller holds the gate, and so nobody will before it lets go.
///
/// Asked without taking a lock that others would take for a writer's: readers may share the gate.
pub(super) fn at_rest(disk: &FileDisk) -> std::io::Result<bool> {
    disk.slot_held(0..SLOTS).map(|held| !held)
}

/// What a reader finds: nobody has it open and the recovered bits are loaded, or somebody has.
pub(super) enum Reading {
    Loaded(Box<Loaded>),
    Live,
}

/// Loads the file for reading, under the gate, if nobody has it open.
pub(super) fn read(disk: &Arc<FileDisk>, path: &Path, image: Option<&ImageStamp>, wait: Duration) -> Result<Reading> {
    let io = |source| Error::Io { op: "ask for writers", path: path.to_path_buf(), source };
    let _gate = gate(disk, path, wait)?;
    if !at_rest(disk).map_err(io)? {
        return Ok(Reading::Live);
    }
    Ok(Reading::Loaded(Box::new(open::load_in_memory(&**disk, path, image)?)))
}

/// Opens the map for reading only.
pub(super) fn reading(path: &Path, options: &Options) -> Result<DirtyMap> {
    let disk = Arc::new(open_file(path, false)?);
    let deadline = Instant::now().checked_add(options.wait);
    loop {
        match read(&disk, path, options.image.as_ref(), options.wait)? {
            Reading::Loaded(loaded) => {
                return Ok(DirtyMap::loaded(path, *loaded));
            }
            Reading::Live if passed(deadline) => {
                return Err(Error::Locked { path: path.to_path_buf(), what: "another process has it open" });
            }
            Reading::Live => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
