//! Memory for the data of one connection's requests.
//!
//! Invariant kept here: all buffers of a connection together have no more than its limit, those that wait for the next
//! request included. A request that finds none left waits for another one to end.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub(super) struct Memory {
    limit: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes of all buffers, those in use and those that wait.
    total: usize,
    waiting: Vec<Vec<u8>>,
    /// Requests that wait for a buffer. Waking nobody is a system call as well, which each request would pay for.
    requests: usize,
}

/// A buffer of a request; goes back when it is dropped.
pub(super) struct Buffer<'m> {
    memory: &'m Memory,
    bytes: Vec<u8>,
    length: usize,
}

/// Smallest buffer, and what sizes are multiples of.
const STEP: usize = 4096;

impl Memory {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), freed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer of `length` bytes, which contain anything; waits until there is memory, and does something before that. No
    /// length may be above the limit.
    pub(super) fn take(&self, length: usize, before_waiting: impl FnOnce()) -> Buffer<'_> {
        if length == 0 {
            return Buffer { memory: self, bytes: Vec::new(), length };
        }
        let size = length.next_multiple_of(STEP);
        let mut before_waiting = Some(before_waiting);
        let mut state = self.state();
        let bytes = loop {
            // The smallest that is large enough, and not much too large.
            let fitting =
                state.waiting.iter().enumerate().filter(|(_, b)| (size..=size.max(STEP * 16) * 2).contains(&b.len()));
            if let Some((found, _)) = fitting.min_by_key(|(_, b)| b.len()) {
                break state.waiting.swap_remove(found);
            }
            while state.total + size > self.limit && !state.waiting.is_empty() {
                let dropped = state.waiting.remove(0);
                state.total -= dropped.len();
            }
            if state.total + size <= self.limit.max(size) {
                state.total += size;
                drop(state);
                break vec![0; size];
            }
            if let Some(before_waiting) = before_waiting.take() {
                drop(state);
                before_waiting();
                state = self.state();
                continue;
            }
            state.requests += 1;
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.requests -= 1;
        };
        Buffer { memory: self, bytes, length }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            let mut state = self.memory.state();
            state.waiting.push(std::mem::take(&mut self.bytes));
            let wake = state.requests > 0;
            drop(state);
            if wake {
                self.memory.freed.notify_one();
            }
        }
    }
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_stay_within_the_limit() {
        let memory = Memory::new(8 * STEP);
        let first = memory.take(STEP, || ()).as_ptr();
        assert_eq!(memory.take(10, || ()).as_ptr(), first, "the buffer was not used again");
        let all: Vec<_> = (0..8).map(|_| memory.take(STEP, || ())).collect();
        assert_eq!(memory.state().total, 8 * STEP);
        drop(all);
        // A large one takes the place of those that wait.
        assert_eq!(memory.take(8 * STEP, || ()).len(), 8 * STEP);
        assert_eq!(memory.state().total, 8 * STEP);
    }

    #[test]
    fn a_request_waits_for_memory() {
        let memory = Memory::new(2 * STEP);
        let held = memory.take(2 * STEP, || ());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| memory.take(STEP, || ()).len());
            drop(held);
            assert_eq!(waits.join().expect("no panic"), STEP);
        });
        assert!(memory.state().total <= 2 * STEP);
    }
}
