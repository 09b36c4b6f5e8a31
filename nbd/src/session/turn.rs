//! Whose turn it is to read requests.
//!
//! What is read ahead of the connection is in one thread's hands, or lies ready for the next one. A thread that has read a
//! request gives it away before it handles the request: then another thread is woken and reads on. If the request should be
//! quick, it only lays it down, and takes it up again afterwards: nobody is woken. One of the threads that wait looks after
//! that: what has lain for longer than a tick, it takes.
//!
//! Invariant kept here: a request, however long it takes, keeps those behind it from being read for two ticks at most, if
//! there is a thread left.

use crate::stream::Incoming;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long what was laid down lies before another thread takes it.
const TICK: Duration = Duration::from_millis(2);

pub(super) struct Turn {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    ready: Option<Incoming>,
    /// It was laid down, not given.
    lent: bool,
    /// How often it was laid down.
    lendings: u64,
    /// Threads that wait.
    waiting: usize,
    /// One of them looks every tick.
    watched: bool,
    ended: bool,
}

impl Turn {
    pub(super) fn new(incoming: Incoming) -> Self {
        let state = State { ready: Some(incoming), lent: false, lendings: 0, waiting: 0, watched: false, ended: false };
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

    /// Gives the turn to a thread that waits. False if there is none.
    pub(super) fn give(&self, incoming: Incoming) -> bool {
        let mut state = self.state();
        state.ready = Some(incoming);
        state.lent = false;
        let any = state.waiting > 0;
        drop(state);
        self.changed.notify_one();
        any
    }

    /// Lays the turn down, to be taken up again soon. False if no thread waits that could take it.
    pub(super) fn lend(&self, incoming: Incoming) -> bool {
        let mut state = self.state();
        state.ready = Some(incoming);
        state.lent = true;
        state.lendings += 1;
        let (any, watched) = (state.waiting > 0, state.watched);
        drop(state);
        if !watched {
            self.changed.notify_one();
        }
        any
    }

    /// Takes up what was laid down, if nobody has it.
    pub(super) fn take_back(&self) -> Option<Incoming> {
        let mut state = self.state();
        if !state.lent || state.ended {
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
