//! Waiting for the locks of the file.
//!
//! Invariant kept here: every wait has an end. A process that is stopped keeps its locks, and so does one that may only read the
//! file and locks bytes of it.

use crate::error::{Error, InUse, Result};
use crate::format::SLOTS;
use crate::map_file::MapFile;
use crate::sys::Lock;
use std::time::{Duration, Instant};

/// How long to be polite: a process that is stopped while it waits for its turn must not stop the others.
pub(crate) const POLITE: Duration = Duration::from_millis(100);

/// When a wait is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// The end of a wait that begins now; one that is too far to be told never comes.
    pub(crate) fn after(wait: Duration) -> Deadline {
        Deadline(Instant::now().checked_add(wait))
    }

    pub(crate) fn has_passed(self) -> bool {
        self.0.is_some_and(|end| Instant::now() >= end)
    }

    pub(crate) fn or_after(self, wait: Duration) -> Deadline {
        let sooner = Deadline::after(wait);
        Deadline(self.0.into_iter().chain(sooner.0).min())
    }
}

/// Whether nobody else has the file open for writing. Who holds the gate knows that nobody will before it lets go.
///
/// Asked without taking a lock that others would take for a writer's: readers may share the gate.
pub(crate) fn no_other_writer(file: MapFile<'_>) -> Result<bool> {
    file.disk.slot_held(0..SLOTS).map(|held| !held).map_err(file.io("ask for writers"))
}

/// Takes a lock, waiting for it until then; says whether it was to be had. Tries once in any case.
pub(crate) fn wait_for(file: MapFile<'_>, lock: Lock, end: Deadline) -> Result<bool> {
    let mut pause = Duration::from_micros(20);
    while !file.disk.try_lock(lock).map_err(file.io("take a lock of the file"))? {
        if end.has_passed() {
            return Ok(false);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(1));
    }
    Ok(true)
}

/// The same, where it is an error when it is not to be had.
pub(crate) fn take(file: MapFile<'_>, lock: Lock, end: Deadline, what: InUse) -> Result<()> {
    if wait_for(file, lock, end)? { Ok(()) } else { Err(locked(file, lock, what)) }
}

/// The error of a lock that was not to be had in time.
pub(crate) fn locked(file: MapFile<'_>, lock: Lock, what: InUse) -> Error {
    // All slots together: each process that has the map open for writing has one of them.
    let last = if let Lock::Slot(_) = lock { Lock::Slot(SLOTS - 1) } else { lock };
    Error::Locked { path: file.path.to_path_buf(), what, holder: file.disk.holder(lock, last) }
}
