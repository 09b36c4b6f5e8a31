//! Whose turn it is to read requests.
//!
//! What is read ahead of the connection is in one thread's hands, or lies ready for the next one. A thread that has read a
//! request lays it down before it handles the request. Then another thread is woken and reads on; or if the request should
//! be quick, nobody is woken, and who has done a request takes it up. One of the threads that wait looks after that: what
//! has lain for longer than a tick, it takes.
//!
//! Invariant kept here: a request, however long it takes, keeps those behind it from being read for two ticks at most, if
//! there is a thread left.

use crate::stream::Incoming;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// More threads than processors do not get more done.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

/// Whom the turn is laid down for.
pub(super) enum For {
    /// A thread that waits: the request may take long.
    Another,
    /// Who has done a request: this one is quick.
    Done,
    /// The same, and a thread that waits if there is a processor for it: the request is long, and others are here already.
    Helper,
}

/// How long what was laid down lies before another thread takes it.
const TICK: Duration = Duration::from_millis(2);

pub(super) struct Turn {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    ready: Option<Incoming>,
    /// It is not for those that wait.
    lent: bool,
    /// How often that was so.
    lendings: u64,
    /// Threads that wait.
    waiting: usize,
    /// Threads that handle a request.
    handling: usize,
    /// One of them looks every tick.
    watched: bool,
    ended: bool,
}

impl Turn {
    pub(super) fn new(incoming: Incoming) -> Self {
        let (lent, lendings, waiting, handling, watched, ended) = Default::default();
        let state = State { ready: Some(incoming), lent, lendings, waiting, handling, watched, ended };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn; `None` when nothing is to be read any more.
    pub(super) fn wait(&self) -> Option<Incoming> {
        let mut state = self.state();
        state.waiting += 1;
        let mut watching = false;
        let mut seen = None;
        let taken = loop {
            if state.ended {
                break None;
            }
            if state.ready.is_some() && (!state.lent || seen == Some(state.lendings)) {
                break state.ready.take();
            }
            watching = watching || (state.lent && !std::mem::replace(&mut state.watched, true));
            if !watching {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let before = state.lendings;
            let (held, waited) = self.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner);
            state = held;
            if waited.timed_out() && state.lendings == before {
                seen = Some(before);
                if !state.lent {
                    // The connection is idle, or somebody reads: the next lending wakes a watcher again.
                    (watching, state.watched) = (false, false);
                }
            }
        };
        if watching {
            state.watched = false;
        }
        state.waiting -= 1;
        state.lent = false;
        taken
    }

    /// Lays the turn down while a request is handled. False if no thread waits that could take it.
    pub(super) fn lay_down(&self, incoming: Incoming, whom: For) -> bool {
        let mut state = self.state();
        state.handling += 1;
        state.ready = Some(incoming);
        state.lent = match whom {
            For::Another => false,
            For::Done => true,
            For::Helper => state.handling >= *PROCESSORS,
        };
        state.lendings += u64::from(state.lent);
        let (any, wake) = (state.waiting > 0, !state.lent || !state.watched);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
        any
    }

    /// The request is done: takes the turn up, if nobody has it.
    pub(super) fn take_up(&self) -> Option<Incoming> {
        let mut state = self.state();
        state.handling -= 1;
        if state.ended {
            return None;
        }
        state.lent = false;
        state.ready.take()
    }

    /// Nothing is to be read any more.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }
}
