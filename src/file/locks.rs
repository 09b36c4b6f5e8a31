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

/// How often to look without a pause: a commit in memory takes no longer, and the shortest sleep takes twice that.
const LOOKS: u32 = 16;

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

/// How a wait for a lock has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Taken,
    TooLong,
    /// It is not needed any more.
    Needless,
}

/// Takes a lock, waiting for it until then, or until it is needless. Tries once in any case.
pub(crate) fn wait_for(file: MapFile<'_>, lock: Lock, end: Deadline, needless: impl Fn() -> bool) -> Result<Wait> {
    let (mut looks, mut pause) = (0, Duration::from_micros(20));
    while !file.disk.try_lock(lock).map_err(file.io("take a lock of the file"))? {
        if needless() {
            return Ok(Wait::Needless);
        }
        if end.has_passed() {
            return Ok(Wait::TooLong);
        }
        looks += 1;
        if looks <= LOOKS {
            std::thread::yield_now();
            continue;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(1));
    }
    Ok(Wait::Taken)
}

/// The same, where it is an error when it is not to be had.
pub(crate) fn take(file: MapFile<'_>, lock: Lock, end: Deadline, what: InUse) -> Result<()> {
    if wait_for(file, lock, end, || false)? == Wait::Taken { Ok(()) } else { Err(locked(file, lock, what)) }
}

/// The error of a lock that was not to be had in time.
pub(crate) fn locked(file: MapFile<'_>, lock: Lock, what: InUse) -> Error {
    // All slots together: each process that has the map open for writing has one of them.
    let last = if let Lock::Slot(_) = lock { Lock::Slot(SLOTS - 1) } else { lock };
    Error::Locked { path: file.path.to_path_buf(), what, holder: file.disk.holder(lock, last) }
}
