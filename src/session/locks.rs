//! Who may open the file: the gate, the attach lock and the slots.
//!
//! Invariant kept here: every decision about opening and closing is made holding the gate.

use crate::error::{Error, InUse, Refusal, Result};
use crate::file::locks::{Deadline, locked, take};
use crate::format::SLOTS;
use crate::map_file::MapFile;
use crate::options::{Access, Options};
use crate::sys::{FileDisk, Lock, Storage, fork, fs, os};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for the gate at least: who holds it is opening, closing or looking, which takes moments.
const GATE_PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait at least for somebody who seems to be dying.
const LEAVING: Duration = Duration::from_millis(500);

/// The gate, held until dropped.
pub(crate) struct Gate(Arc<FileDisk>);

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.unlock(Lock::Gate);
    }
}

/// The attach lock and a slot, held until dropped: this process has the map open for writing.
pub(crate) struct WriterSlot {
    disk: Arc<FileDisk>,
    slot: u64,
    born: fork::Generation,
}

impl WriterSlot {
    /// Whether nobody else has the map open; then it stays so until the gate, which the caller holds, is let go of. If
    /// not, the lock may be gone.
    pub(crate) fn alone(&self) -> std::io::Result<bool> {
        self.disk.try_attach(true)
    }

    /// Has the map together with others again. The caller holds the gate.
    pub(crate) fn share(&self) -> std::io::Result<bool> {
        self.disk.try_attach(false)
    }

    /// The file.
    pub(crate) fn disk(&self) -> &Arc<FileDisk> {
        &self.disk
    }

    /// Which slot it is.
    pub(crate) fn slot(&self) -> u64 {
        self.slot
    }
}

impl Drop for WriterSlot {
    fn drop(&mut self) {
        // Explicit, since a forked child may still hold the descriptor; and not in that child, whose locks they are not.
        if self.born.is_current() {
            // In this order: who finds the attach lock held finds a slot held.
            self.disk.detach();
            self.disk.unlock(Lock::Backup);
            self.disk.unlock(Lock::Slot(self.slot));
        }
    }
}

/// A file on which this process has the attach lock, with the gate still held.
pub(crate) struct Attached {
    disk: Arc<FileDisk>,
    _gate: Gate,
    /// Nobody else has the lock.
    alone: bool,
}

/// Opens the file, and says what is wrong with it as a file.
pub(crate) fn open_file(path: &Path, write: bool) -> Result<FileDisk> {
    let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
    let file = os::open(path, write).map_err(io("open"))?;
    if write && fs::kind(&file).map_err(io("look at the file system"))? == fs::FsKind::Btrfs {
        let nocow = os::is_nocow(&file).map_err(io("look at the file's flags"))?;
        if !nocow {
            return Err(Error::Refused { path: path.to_path_buf(), why: Refusal::CopyOnWrite });
        }
    }
    Ok(FileDisk::new(file, write))
}

/// Takes the gate; an opener waits for at least a few seconds.
pub(crate) fn opening_gate(disk: &Arc<FileDisk>, path: &Path, wait: Duration) -> Result<Gate> {
    gate(disk, path, wait.max(GATE_PATIENCE))
}

/// Takes the gate, waiting for it no longer than that.
///
/// Nobody starves: who waits for the gate holds the turn, without which nobody who lets go of the gate gets it back.
pub(crate) fn gate(disk: &Arc<FileDisk>, path: &Path, wait: Duration) -> Result<Gate> {
    let end = Deadline::after(wait);
    let file = MapFile::new(&**disk, path);
    take(file, Lock::GateQueue, end, InUse::Gate)?;
    let taken = take(file, Lock::Gate, end, InUse::Gate);
    disk.unlock(Lock::GateQueue);
    taken.map(|()| Gate(disk.clone()))
}

/// Takes the gate and then the attach lock: exclusively, or shared if that is how others have it and this one may. The
/// gate is kept.
fn attach(disk: &Arc<FileDisk>, path: &Path, options: &Options) -> std::result::Result<Attached, Busy> {
    let io = MapFile::new(&**disk, path).io("take the attach lock");
    let shared = options.access == Access::Shared;
    let gate = opening_gate(disk, path, options.wait)?;
    let alone = disk.try_attach(true).map_err(&io)?;
    let mut leaving = false;
    if alone || shared && disk.try_attach(false).map_err(&io)? {
        // Everybody who has the map keeps a slot. Who has only the attach lock is dying, of whose locks the kernel
        // lets go one by one, or another kind of program: in neither case is there a session, whatever the file says.
        leaving = !alone && step!(JoinChecksSlots => !disk.slot_held(0..SLOTS).map_err(&io)?);
        if !leaving {
            return Ok(Attached { disk: disk.clone(), _gate: gate, alone });
        }
        disk.detach();
    }
    let error = Error::Locked { path: path.to_path_buf(), what: InUse::Open, holder: None };
    Err(Busy { error, leaving })
}

/// Why a map was not opened, and whether those who have it may be gone in a moment.
struct Busy {
    error: Error,
    leaving: bool,
}

impl From<Error> for Busy {
    fn from(error: Error) -> Busy {
        Busy { error, leaving: false }
    }
}

/// Does something with a file to which this process is attached, waiting as the options say for those who have it, also
/// for those of whom only `f` finds that they do.
pub(crate) fn attached<R>(
    disk: Arc<FileDisk>,
    path: &Path,
    options: &Options,
    mut f: impl FnMut(Attached) -> Result<R>,
) -> Result<R> {
    let start = Instant::now();
    loop {
        let done = attach(&disk, path, options).and_then(|attached| {
            // Those whose session cannot be joined may be about to go.
            f(attached).map_err(|error| Busy { error, leaving: true })
        });
        let busy = match done {
            Ok(done) => return Ok(done),
            Err(busy) => busy,
        };
        let wait = if busy.leaving { options.wait.max(LEAVING) } else { options.wait };
        if !matches!(busy.error, Error::Locked { .. }) || start.elapsed() >= wait {
            return Err(match busy.error {
                Error::Locked { what: InUse::Open, .. } => {
                    locked(MapFile::new(&*disk, path), Lock::Slot(0), InUse::Open)
                }
                error => error,
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Attached {
    /// Takes the first free slot that is usable. The gate keeps others from meeting those that are taken for a moment only.
    pub(crate) fn writer_slot(&self, path: &Path, usable: impl Fn(u64) -> bool) -> Result<WriterSlot> {
        let io = MapFile::new(&*self.disk, path).io("take a slot");
        let born = fork::generation().map_err(&io)?;
        for slot in 0..SLOTS {
            if self.disk.try_lock(Lock::Slot(slot)).map_err(&io)? {
                // Asked when nobody writes there any more.
                if usable(slot) {
                    return Ok(WriterSlot { disk: self.disk.clone(), slot, born });
                }
                self.disk.unlock(Lock::Slot(slot));
            }
        }
        Err(locked(MapFile::new(&*self.disk, path), Lock::Slot(0), InUse::Full))
    }

    /// Whether nobody else has the lock.
    pub(crate) fn alone(&self) -> bool {
        self.alone
    }

    /// The file.
    pub(crate) fn disk(&self) -> &Arc<FileDisk> {
        &self.disk
    }

    /// Lets go of it without having opened the map.
    pub(crate) fn leave(self) {
        self.disk.detach();
    }
}
