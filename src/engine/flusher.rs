//! A thread that flushes now and then.

use super::core::Core;
use super::round::Keep;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the thread waits for the update lock: it comes again, and whoever drops the map waits for it.
const FLUSHER_PATIENCE: Duration = Duration::from_secs(1);

/// Shortest time between two flushes of the thread: setters must get a chance.
const SHORTEST: Duration = Duration::from_millis(10);

/// A thread that flushes now and then.
pub(crate) struct Flusher {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
    born: crate::sys::fork::Generation,
}

impl Flusher {
    /// Starts it; `None` if the system has no thread for it, which only means larger dirt after a crash.
    pub(crate) fn start(core: &Arc<Core>, every: Duration) -> Option<Flusher> {
        let born = crate::sys::fork::generation().ok()?;
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (weak_core, stopped) = (Arc::downgrade(core), stop.clone());
        let run = move || {
            loop {
                let guard = stopped.0.lock().unwrap_or_else(PoisonError::into_inner);
                let wait = stopped.1.wait_timeout_while(guard, every.max(SHORTEST), |stop| !*stop);
                let guard = wait.unwrap_or_else(PoisonError::into_inner).0;
                if *guard {
                    return;
                }
                drop(guard);
                let Some(core) = weak_core.upgrade() else { return };
                // An error stays in the map (rule 7): the next flush or the close meets it.
                let _ = core
                    .lock_within(FLUSHER_PATIENCE.min(core.lock_timeout))
                    .and_then(|mut lock| lock.flush_to(Keep::Hot, None));
            }
        };
        let thread = std::thread::Builder::new().name("dirtymap-flush".into()).spawn(run).ok()?;
        Some(Flusher { stop, thread: Some(thread), born })
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if !self.born.is_current() {
            // The thread is the parent's. Letting go of its handle would detach it by an id that a thread of this
            // process may have by now.
            std::mem::forget(thread);
            return;
        }
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        // It does not panic; and if it did, there would be nothing left to do.
        let _ = thread.join();
    }
}
