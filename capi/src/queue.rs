//! Writes that begin without a wait: a queue of those that have to wait for a sync, and a descriptor that says when one is
//! ready.
//!
//! Invariant kept here: the descriptor is readable exactly as long as the list of those that were woken is not empty. Both are
//! changed under one lock. So a write that is ready is never left there with the descriptor silent.

use crate::failure::{Failure, Result};
use crate::ffi::{Array, Const, Kept, Map, New, Opaque, Out, call};
use crate::in_flight::Write;
use crate::layout::Range;
use crate::read::NONE;
use crate::write::as_items;
use dirtymap::{BeginWrite, DirtyMap, Error, OwnedWriteGuard};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::{HashMap, VecDeque};
use std::ffi::c_int;
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// `dirtymap_queue_t`.
pub struct Queue {
    // Dropped in this order: what waits is given up before the map goes.
    waiting: Mutex<Waiting>,
    ready: Arc<Ready>,
    map: Arc<DirtyMap>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    writes: HashMap<u64, (u64, BeginWrite)>,
}

/// What the thread of the map has as well.
struct Ready {
    list: Mutex<List>,
    /// The number of the descriptor, for who polls it.
    fd: RawFd,
}

/// Those that were woken, and the descriptor, which nobody touches without the lock.
struct List {
    numbers: VecDeque<u64>,
    event: OwnedFd,
}

struct Woken {
    number: u64,
    ready: Arc<Ready>,
}

/// A lock whose holder has panicked protects nothing that could be half done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.number);
    }
}

impl Ready {
    fn new() -> rustix::io::Result<Ready> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Ready { fd: event.as_raw_fd(), list: Mutex::new(List { numbers: VecDeque::new(), event }) })
    }

    fn push(&self, number: u64) {
        let mut list = lock(&self.list);
        list.numbers.push_back(number);
        // Fails where it was written to 2^64 - 2 times, and then it speaks already.
        let _ = rustix::io::write(&list.event, &1u64.to_ne_bytes());
    }

    fn pop(&self) -> Option<u64> {
        let mut list = lock(&self.list);
        let number = list.numbers.pop_front()?;
        if list.numbers.is_empty() {
            // Fails if nothing is there.
            let _ = rustix::io::read(&list.event, &mut [0; 8]);
        }
        Some(number)
    }
}

fn system(op: &'static str, map: &DirtyMap) -> impl FnOnce(rustix::io::Errno) -> Failure {
    let path = map.path().to_path_buf();
    move |errno| Error::Io { op, path, source: errno.into() }.into()
}

impl Queue {
    fn new(map: &Arc<DirtyMap>) -> Result<Queue> {
        let ready = Arc::new(Ready::new().map_err(system("make an eventfd", map))?);
        Ok(Queue { waiting: Mutex::default(), ready, map: map.clone() })
    }

    fn waker(&self, number: u64) -> Waker {
        Arc::new(Woken { number, ready: self.ready.clone() }).into()
    }

    /// Gives up what waits. In a forked child that is forgotten: its locks may be held by a thread that is not there.
    fn free(self) {
        let Queue { waiting, ready, map } = self;
        match map.verify_session() {
            Ok(()) => drop(waiting),
            Err(_) => std::mem::forget((waiting, ready)),
        }
    }

    /// `None` if it has to wait.
    fn begin(&self, ranges: &[std::ops::Range<u64>], tag: u64) -> Result<Option<OwnedWriteGuard>> {
        let mut begin = self.map.begin_writes_async(ranges);
        // Without a number, a waker and the lock, which most writes need not have.
        if let Poll::Ready(begun) = poll(&mut begin, Waker::noop()) {
            return Ok(Some(begun?));
        }
        let mut waiting = lock(&self.waiting);
        waiting.last += 1;
        let number = waiting.last;
        match poll(&mut begin, &self.waker(number)) {
            Poll::Ready(begun) => Ok(Some(begun?)),
            Poll::Pending => {
                waiting.writes.insert(number, (tag, begin));
                Ok(None)
            }
        }
    }

    /// A write that was woken and is not waiting any more.
    fn next(&self) -> Option<(u64, dirtymap::Result<OwnedWriteGuard>)> {
        loop {
            let number = self.ready.pop()?;
            let mut waiting = lock(&self.waiting);
            let Some((tag, begin)) = waiting.writes.get_mut(&number) else { continue };
            if let Poll::Ready(begun) = poll(begin, &self.waker(number)) {
                let tag = *tag;
                waiting.writes.remove(&number);
                return Some((tag, begun));
            }
        }
    }
}

fn poll(begin: &mut BeginWrite, waker: &Waker) -> Poll<dirtymap::Result<OwnedWriteGuard>> {
    Pin::new(begin).poll(&mut Context::from_waker(waker))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_queue_new(map: Map, queue: New<Queue>) -> c_int {
    map.call(|map| {
        let queue = queue.wanted("the place for a queue")?;
        queue.put_box(Queue::new(map.file()?)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_queue_fd(queue: Const<Opaque<Queue>>) -> c_int {
    queue.get("queue").map_or(-1, |queue| queue.ready.fd)
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_queue_begin(
    queue: Opaque<Queue>,
    ranges: Array<Range>,
    n: usize,
    tag: u64,
    write: Kept<Write>,
) -> c_int {
    // Before it can be taken by another thread, which may put the write where this caller has it.
    write.clear();
    call(|| {
        let (queue, write) = (queue.get("queue")?, write.wanted()?);
        queue.map.verify_session()?;
        let begun = queue.begin(&as_items(ranges, n)?, tag)?;
        write.fill(begun.ok_or(Failure::Again)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_queue_next(queue: Opaque<Queue>, tag: Out<u64>, write: Kept<Write>) -> c_int {
    write.clear();
    tag.put(NONE);
    call(|| {
        let (queue, write) = (queue.get("queue")?, write.wanted()?);
        queue.map.verify_session()?;
        let (its_tag, begun) = queue.next().ok_or(Failure::Again)?;
        tag.put(its_tag);
        write.fill(begun?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_queue_free(queue: Opaque<Queue>) {
    call(|| {
        queue.take().into_iter().for_each(|queue| queue.free());
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec};

    fn speaks(ready: &Ready) -> bool {
        let list = lock(&ready.list);
        let mut fds = [PollFd::new(&list.event, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn the_descriptor_speaks_as_long_as_something_is_ready() {
        let ready = Ready::new().unwrap();
        assert!(!speaks(&ready) && ready.pop().is_none());
        ready.push(1);
        ready.push(2);
        assert_eq!((speaks(&ready), ready.pop()), (true, Some(1)));
        // One take for each poll is enough.
        assert_eq!((speaks(&ready), ready.pop()), (true, Some(2)));
        assert!(!speaks(&ready) && ready.pop().is_none());
    }
}
