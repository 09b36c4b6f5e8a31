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
    writers: Arc<Writers>,
    /// Those of older eras that had not left when this one began. Not their snapshots, which may have ended.
    older: Vec<Arc<Writers>>,
    /// All of them have left.
    alone: AtomicBool,
}

/// The writers of an era.
#[derive(Default)]
struct Writers {
    /// Writers that entered and have not left.
    running: AtomicU64,
    /// Another era has begun.
    over: AtomicBool,
    lock: Mutex<()>,
    gone: Condvar,
}

impl Writers {
    fn is_gone(&self) -> bool {
        self.running.load(SeqCst) == 0
    }

    /// Only of an era that is over.
    fn wait_until_gone(&self) {
        let mut held = lock(&self.lock);
        while !self.is_gone() {
            held = self.gone.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Era {
    fn new(snapshot: Option<Arc<Snapshot>>, older: Vec<Arc<Writers>>) -> Arc<Era> {
        let alone = AtomicBool::new(older.is_empty());
        Arc::new(Era { snapshot, writers: Arc::default(), older, alone })
    }

    /// Waits until no writer of an older era runs.
    pub fn wait_for_older(&self) {
        if self.alone.load(SeqCst) {
            return;
        }
        self.older.iter().for_each(|writers| writers.wait_until_gone());
        self.alone.store(true, SeqCst);
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
        let writers = &self.0.writers;
        if writers.running.fetch_sub(1, SeqCst) == 1 && writers.over.load(SeqCst) {
            // Who waits has looked, and waits, or looks now.
            drop(lock(&writers.lock));
            writers.gone.notify_all();
        }
    }
}

impl Default for Eras {
    /// No snapshot.
    fn default() -> Eras {
        Eras(RwLock::new(Era::new(None, Vec::new())))
    }
}

impl Eras {
    /// Enters the era that is.
    pub fn enter(&self) -> Entered {
        let era = self.0.read().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: none enters an era that is over.
        era.writers.running.fetch_add(1, SeqCst);
        Entered(Arc::clone(&era))
    }

    /// The snapshot of this era.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).snapshot.clone()
    }

    /// The moment: whoever enters from here on is in an era of this snapshot, or of none.
    pub fn begin(&self, snapshot: Option<Arc<Snapshot>>) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Before anybody waits: one that leaves without a word has left before that.
        now.writers.over.store(true, SeqCst);
        let mut older = now.older.clone();
        older.push(Arc::clone(&now.writers));
        older.retain(|writers| !writers.is_gone());
        *now = Era::new(snapshot, older);
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

    #[test]
    fn an_era_keeps_no_snapshot_but_its_own() {
        let eras = Eras::default();
        let shot = || {
            let (name, served) = ("now".into(), true.into());
            let committing = std::sync::OnceLock::new();
            let (id, whole, app, created, each, disks) = Default::default();
            Arc::new(Snapshot { id, name, whole, app, created, each, disks, served, committing })
        };
        let first = shot();
        let ended = Arc::downgrade(&first);
        eras.begin(Some(first));
        let writer = eras.enter();
        eras.begin(None);
        eras.begin(Some(shot()));
        let _newer = eras.enter();
        drop(writer);
        assert!(ended.upgrade().is_none(), "nobody can ask for it, and it is there");
        for _ in 0..1000 {
            eras.begin(None);
        }
        assert!(eras.enter().older.len() <= 1);
    }

    #[test]
    fn the_next_era_begins_while_somebody_waits_for_older_ones() {
        let eras = Arc::new(Eras::default());
        let old = eras.enter();
        eras.begin(None);
        let new = eras.enter();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| new.wait_for_older());
            std::thread::sleep(Duration::from_millis(30));
            let (begun, has) = std::sync::mpsc::channel();
            let eras = Arc::clone(&eras);
            std::thread::spawn(move || {
                eras.begin(None);
                begun.send(())
            });
            let in_time = has.recv_timeout(Duration::from_secs(20));
            drop(old);
            waits.join().expect("it ends");
            in_time.expect("it begins");
        });
    }
}
