//! Writes that begin without a wait: a queue of those that have to wait for a sync, and a descriptor that says when one is
//! ready.
//!
//! Invariant kept here: who is woken is put among those that are ready before the descriptor is written to, and whoever finds
//! none ready reads the descriptor before he looks once more. So a write that is ready is never left there with the
//! descriptor silent.

use crate::failure::{Failure, Result, keep_panics};
use crate::ffi::{Array, Kept, Map, Opaque, Out, call};
use crate::in_flight::Write;
use crate::layout::Range;
use crate::write::ranges;
use dirtymap::{BeginWrite, DirtyMap, Error, OwnedWriteGuard};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::{HashMap, VecDeque};
use std::ffi::c_int;
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
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
    numbers: Mutex<VecDeque<u64>>,
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
        lock(&self.ready.numbers).push_back(self.number);
        // Fails where it was written to 2^64 - 2 times, and then it speaks already.
        let _ = rustix::io::write(&self.ready.event, &1u64.to_ne_bytes());
    }
}

fn system(op: &'static str, map: &DirtyMap) -> impl FnOnce(rustix::io::Errno) -> Failure {
    let path = map.path().to_path_buf();
    move |errno| Error::Io { op, path, source: errno.into() }.into()
}

impl Queue {
    fn new(map: &Arc<DirtyMap>) -> Result<Queue> {
        let event =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system("make an eventfd", map))?;
        let ready = Arc::new(Ready { numbers: Mutex::default(), event });
        Ok(Queue { waiting: Mutex::default(), ready, map: map.clone() })
    }

    fn waker(&self, number: u64) -> Waker {
        Arc::new(Woken { number, ready: self.ready.clone() }).into()
    }

    /// `None` if it has to wait.
    fn begin(&self, ranges: &[std::ops::Range<u64>], tag: u64) -> Result<Option<OwnedWriteGuard>> {
        let mut begin = self.map.begin_writes_async(ranges);
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

    fn pop(&self) -> Option<u64> {
        lock(&self.ready.numbers).pop_front()
    }

    /// A write that was woken and is not waiting any more.
    fn next(&self) -> Option<(u64, dirtymap::Result<OwnedWriteGuard>)> {
        loop {
            let number = self.pop().or_else(|| {
                let mut count = [0; 8];
                // Fails if nothing is there.
                let _ = rustix::io::read(&self.ready.event, &mut count);
                self.pop()
            })?;
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

type Queues = Opaque<Queue>;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_queue_new(map: Map, queue: Out<Option<std::ptr::NonNull<Queue>>>) -> c_int {
    keep_panics();
    map.call(|map| {
        let queue = queue.wanted("the place for a queue")?;
        queue.put_box(Queue::new(map.file()?)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_queue_fd(queue: Queues) -> c_int {
    queue.get("queue").map_or(-1, |queue| queue.ready.event.as_raw_fd())
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_queue_begin(
    queue: Queues,
    given: Array<Range>,
    n: usize,
    tag: u64,
    write: Kept<Write>,
) -> c_int {
    call(|| {
        let (queue, write) = (queue.get("queue")?, write.wanted()?);
        let begun = queue.begin(&ranges(given, n)?, tag)?;
        write.fill(begun.ok_or(Failure::Again)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_queue_next(queue: Queues, tag: Out<u64>, write: Kept<Write>) -> c_int {
    call(|| {
        let (queue, write) = (queue.get("queue")?, write.wanted()?);
        let (its_tag, begun) = queue.next().ok_or(Failure::Again)?;
        tag.put(its_tag);
        write.fill(begun?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_queue_free(queue: Queues) {
    call(|| {
        drop(queue.take());
        Ok(())
    });
}
