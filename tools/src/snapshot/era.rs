//! Eras: which snapshot a writer copies for.
//!
//! Invariant kept here: there is one moment at which all writers that come belong to another era, and a writer belongs to
//! the era that it entered to the end. An era whose writers are all gone has none again.

use super::shot::Snapshot;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

/// The era of the server, for all of its disks.
pub struct Eras(RwLock<Arc<Era>>);

/// A time in which one snapshot, or none, is copied for.
pub struct Era {
    pub snapshot: Option<Arc<Snapshot>>,
    /// Writers that entered and have not left.
    running: AtomicU64,
    /// Another era has begun.
    over: AtomicBool,
    gone: Condvar,
    /// The one before, until its writers and those of all before it are gone.
    older: Mutex<Option<Arc<Era>>>,
    /// There is none before with writers.
    alone: AtomicBool,
}

impl Era {
    fn new(snapshot: Option<Arc<Snapshot>>, older: Option<Arc<Era>>) -> Arc<Era> {
        let alone = AtomicBool::new(older.is_none());
        let (running, over, gone) = Default::default();
        Arc::new(Era { snapshot, running, over, gone, older: Mutex::new(older), alone })
    }

    /// Waits until no writer of an older era runs.
    pub fn wait_for_older(&self) {
        if self.alone.load(SeqCst) {
            return;
        }
        let mut older = lock(&self.older);
        if let Some(era) = older.take() {
            era.wait_for_older();
            era.wait_until_gone();
        }
        self.alone.store(true, SeqCst);
    }

    /// Only of an era that is over.
    fn wait_until_gone(&self) {
        let mut held = lock(&self.older);
        while self.running.load(SeqCst) > 0 {
            held = self.gone.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A writer in its era, until this is dropped.
pub struct Entered(Arc<Era>);

impl std::ops::Deref for Entered {
    type Target = Era;

    fn deref(&self) -> &Era {
        &self.0
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, SeqCst) == 1 && self.0.over.load(SeqCst) {
            // Who waits has looked, and waits, or looks now.
            drop(lock(&self.0.older));
            self.0.gone.notify_all();
        }
    }
}

impl Default for Eras {
    /// No snapshot.
    fn default() -> Eras {
        Eras(RwLock::new(Era::new(None, None)))
    }
}

impl Eras {
    /// Enters the era that is.
    pub fn enter(&self) -> Entered {
        let era = self.0.read().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: none enters an era that is over.
        era.running.fetch_add(1, SeqCst);
        Entered(Arc::clone(&era))
    }

    /// The snapshot of this era.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).snapshot.clone()
    }

    /// The moment: whoever enters from here on is in an era of this snapshot, or of none.
    pub fn begin(&self, snapshot: Option<Arc<Snapshot>>) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let older = Arc::clone(&now);
        *now = Era::new(snapshot, Some(Arc::clone(&older)));
        older.over.store(true, SeqCst);
        drop(now);
        // One that left just before did not know that it was over.
        drop(lock(&older.older));
        older.gone.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_writer_belongs_to_its_era_and_newer_ones_wait_for_it() {
        let eras = Eras::default();
        let old = eras.enter();
        eras.begin(None);
        let between = eras.enter();
        eras.begin(None);
        let new = eras.enter();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| new.wait_for_older());
            std::thread::sleep(Duration::from_millis(30));
            assert!(!waits.is_finished(), "of both older eras a writer runs");
            drop(between);
            std::thread::sleep(Duration::from_millis(30));
            assert!(!waits.is_finished(), "of the oldest era a writer runs");
            drop(old);
            waits.join().expect("it ends");
        });
        // Not for those of its own, nor for newer ones.
        let same = eras.enter();
        eras.begin(None);
        let newer = eras.enter();
        new.wait_for_older();
        drop((same, newer));
    }

    #[test]
    fn an_era_whose_writers_left_before_it_was_over_is_waited_for_by_none() {
        let eras = Eras::default();
        drop(eras.enter());
        for _ in 0..1000 {
            let old = eras.enter();
            std::thread::scope(|scope| {
                scope.spawn(move || drop(old));
                eras.begin(None);
                let new = eras.enter();
                new.wait_for_older();
            });
        }
    }
}
