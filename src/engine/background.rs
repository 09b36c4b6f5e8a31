//! The thread of a map: it flushes now and then, and begins writes for callers that must not wait.
//!
//! Invariant kept here: the thread has the map only as long as its [`Background`] is there, which waits for the thread when it is
//! dropped: before the locks of the map go.

use super::core::Core;
use super::in_flight::InFlight;
use super::round::Keep;
use crate::error::{Error, InUse, Result};
use crate::file::locks::locked;
use crate::sys::signals::without_signals;
use crate::sys::{Lock, fork};
use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread waits for the update lock to flush: it comes again, and whoever drops the map waits for it.
const FLUSHER_PATIENCE: Duration = Duration::from_secs(1);

/// Shortest time between two flushes of the thread: setters must get a chance.
const SHORTEST: Duration = Duration::from_millis(10);

thread_local! {
    /// The address of the orders that this thread carries out. Plain, since the standard library's handle of a thread is gone at
    /// its end, where a program may still close maps.
    static CARRIES_OUT: Cell<usize> = const { Cell::new(0) };
}

/// The thread of a map, once there is one.
pub(crate) struct Background {
    orders: Arc<Orders>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// How often it flushes.
    every: Option<Duration>,
    born: fork::Generation,
}

/// What the thread is to do.
#[derive(Default)]
struct Orders {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stop: bool,
    requests: Vec<Arc<Request>>,
}

/// A write that the thread is to begin.
pub(crate) struct Request {
    ranges: Vec<Range<u64>>,
    outcome: Mutex<Outcome>,
}

/// A write that has begun, or why it has not; or what a panic carries, which goes on where it is polled.
type Begun = std::thread::Result<Result<InFlight<Arc<Core>>>>;

#[derive(Default)]
struct Outcome {
    /// Whom to wake.
    waiting: Option<Waker>,
    begun: Option<Begun>,
    /// Nobody wants it any more.
    cancelled: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Background {
    /// Starts the thread if it is to flush.
    pub(crate) fn new(core: &Arc<Core>, every: Option<Duration>) -> Background {
        let born = core.born;
        let background = Background { orders: Arc::default(), thread: Mutex::default(), every, born };
        if every.is_some() {
            // Without a thread there is only more dirt after a crash.
            let _ = background.start(core);
        }
        background
    }

    /// Starts the thread, unless it is there.
    fn start(&self, core: &Arc<Core>) -> io::Result<()> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let (orders, core, every) = (self.orders.clone(), Arc::downgrade(core), self.every);
            let named = std::thread::Builder::new().name("dirtymap".into());
            *thread = Some(without_signals(|| named.spawn(move || orders.carry_out(&core, every)))?);
        }
        Ok(())
    }

    /// Has the thread begin a write of these bits, and then wake `waker`.
    pub(crate) fn request(&self, core: &Arc<Core>, ranges: Vec<Range<u64>>, waker: &Waker) -> Result<Arc<Request>> {
        self.start(core).map_err(core.io("start a thread"))?;
        // From here on, whoever arms next arms these as well.
        core.announce(&ranges);
        let request = Arc::new(Request { ranges, outcome: Mutex::default() });
        lock(&request.outcome).waiting = Some(waker.clone());
        lock(&self.orders.state).requests.push(request.clone());
        self.orders.changed.notify_one();
        Ok(request)
    }

    /// Whether there is a thread.
    #[cfg(test)]
    pub(crate) fn has_thread(&self) -> bool {
        lock(&self.thread).is_some()
    }
}

impl Orders {
    /// What tells these orders from those of other maps.
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn carry_out(&self, core: &Weak<Core>, every: Option<Duration>) {
        CARRIES_OUT.set(self.address());
        // A time that is too far to be told never comes.
        let next = || every.and_then(|every| Instant::now().checked_add(every.max(SHORTEST)));
        let mut due = next();
        loop {
            let requests = {
                let idle = |state: &mut State| !state.stop && state.requests.is_empty();
                let left = due.map_or(Duration::MAX, |due| due.saturating_duration_since(Instant::now()));
                let waited = self.changed.wait_timeout_while(lock(&self.state), left, idle);
                let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
                if state.stop {
                    return;
                }
                std::mem::take(&mut state.requests)
            };
            let Some(core) = core.upgrade() else { return };
            let mut gave_up = false;
            for request in requests {
                gave_up = request.begin(&core, gave_up);
            }
            // A task that was woken may have dropped the map.
            if lock(&self.state).stop {
                return;
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                // An error stays in the map (rule 7): the next flush or the close meets it.
                let _ = caught(|| {
                    let lock = core.lock_within(FLUSHER_PATIENCE.min(core.lock_timeout));
                    _ = lock.and_then(|mut lock| lock.flush_to(Keep::Hot, None));
                });
                due = next();
            }
        }
    }
}

/// Does something in which the program may be called back. Its panic does not end the thread, on which others wait.
fn caught<T>(work: impl FnOnce() -> T) -> std::thread::Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work))
}

impl Request {
    /// Begins the write, without waiting if another one of the same time `gave_up` waiting for the lock. Whether one has, then.
    fn begin(&self, core: &Arc<Core>, gave_up: bool) -> bool {
        if lock(&self.outcome).cancelled {
            return gave_up;
        }
        let begun = if gave_up {
            let locked = || locked(core.file(), Lock::Update, InUse::Update);
            Ok(InFlight::try_begin(core.clone(), &self.ranges).ok_or_else(locked))
        } else {
            caught(|| InFlight::begin(core, &self.ranges, None))
        };
        let gave_up = gave_up || matches!(begun, Ok(Err(Error::Locked { .. })));
        let waiting = {
            let mut outcome = lock(&self.outcome);
            if outcome.cancelled {
                return gave_up;
            }
            outcome.begun = Some(begun);
            outcome.waiting.take()
        };
        // Not with the lock: a task may be polled by this call.
        let _ = waiting.map(|waker| caught(|| waker.wake()));
        gave_up
    }

    /// The write, once it has begun; until then, `waker` is woken in place of the last one. At most once ready.
    /// A panic of the thread that began it goes on here.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Result<InFlight<Arc<Core>>>> {
        let mut outcome = lock(&self.outcome);
        if let Some(begun) = outcome.begun.take() {
            drop(outcome);
            return Poll::Ready(begun.unwrap_or_else(|panic| resume_unwind(panic)));
        }
        let before = outcome.waiting.replace(waker.clone());
        drop(outcome);
        drop(before);
        Poll::Pending
    }

    /// Gives the write up: from here on nothing of it is in flight, or it ends as soon as it has begun.
    pub(crate) fn cancel(&self) {
        let cancelled = Outcome { cancelled: true, ..Outcome::default() };
        let before = std::mem::replace(&mut *lock(&self.outcome), cancelled);
        // Not with the lock: what a waker is dropped with is the program's.
        drop(before);
    }

    /// For a test that does what a thread may be at: with its lock.
    #[cfg(test)]
    pub(crate) fn while_locked<R>(&self, f: impl FnOnce() -> R) -> R {
        let _lock = lock(&self.outcome);
        f()
    }

    /// Whether no thread has its lock.
    #[cfg(test)]
    pub(crate) fn is_free(&self) -> bool {
        self.outcome.try_lock().is_ok()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Without its lock, which a thread of the parent may have had when this child was forked.
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        if !self.born.is_current() {
            // The thread is the parent's. Letting go of its handle would detach it by an id that a thread of this
            // process may have by now.
            std::mem::forget(thread);
            return;
        }
        lock(&self.orders.state).stop = true;
        self.orders.changed.notify_all();
        if CARRIES_OUT.get() == self.orders.address() {
            return; // A task that it has woken has dropped the map: it touches nothing of it any more.
        }
        // It does not panic; and if it did, there would be nothing left to do.
        let _ = thread.join();
    }
}
