//! Writes that go on elsewhere: guards that keep their map, and beginnings that no thread waits for.

use super::dirty_map::{DirtyMap, Inner, Live};
use super::write::{all_touched, touched};
use crate::engine::background::Request;
use crate::engine::core::Core;
use crate::engine::in_flight::InFlight;
use crate::error::{Error, Result};
use std::fmt;
use std::future::Future;
use std::ops::{Range, RangeBounds};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

impl DirtyMap {
    /// As [`begin_write`](Self::begin_write), for a write that goes on in another thread or task: what this returns keeps the
    /// map. A [freeze](Self::freeze) by the thread that began it is not refused: it waits, and so it must be another thread
    /// that ends the write.
    ///
    /// ```
    /// # use dirtymap::Options;
    /// # use std::sync::Arc;
    /// # let dir = tempfile::tempdir()?;
    /// let map = Arc::new(Options::new().create(dir.path().join("map"), 1 << 40)?);
    /// let write = map.begin_write_owned(4096..8192)?;
    /// let writer = std::thread::spawn(move || {
    ///     // ... writes bytes 4096..8192 of the image.
    ///     drop(write);
    /// });
    /// let frozen = map.freeze(None)?; // waits for it
    /// # writer.join().unwrap();
    /// # map.abort_checkpoint(frozen.uuid)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`begin_write`](Self::begin_write).
    pub fn begin_write_owned(self: &Arc<Self>, range: impl RangeBounds<u64>) -> Result<OwnedWriteGuard> {
        let core = &self.writable()?.core;
        self.owned(core, &[touched(core.geometry(), range)?])
    }

    /// The same for several ranges, as [`begin_writes`](Self::begin_writes): what a queue of requests holds is begun by one
    /// call, in any thread.
    ///
    /// # Errors
    /// As [`begin_write`](Self::begin_write): then none of the data may be written.
    pub fn begin_writes_owned(self: &Arc<Self>, ranges: &[Range<u64>]) -> Result<OwnedWriteGuard> {
        let core = &self.writable()?.core;
        self.owned(core, &all_touched(core.geometry(), ranges)?)
    }

    /// The same of bits.
    fn owned(self: &Arc<Self>, core: &Arc<Core>, bits: &[Range<u64>]) -> Result<OwnedWriteGuard> {
        Ok(OwnedWriteGuard { _write: core.begin_writes_owned(bits)?, map: self.clone() })
    }

    /// As [`begin_writes_owned`](Self::begin_writes_owned), for an event loop: never waits. What this returns is a future that
    /// needs no runtime: any executor, or a [`Wake`](std::task::Wake) that calls back or writes to an eventfd. Where nothing
    /// has to be armed, its first poll is ready, at the cost of `begin_writes_owned`. Otherwise a thread of the map begins the write and wakes the
    /// task; it arms all that waits together, so that a hundred requests in flight cost a few commits. Dropping the future
    /// gives the write up; some of its granules may be marked then.
    ///
    /// The thread is the one that [flushes](crate::Options::flush_interval); without one, the first call that needs it
    /// starts it. It ends with the map. Calls of [`Options::progress`](crate::Options::progress) come from it too.
    ///
    /// ```
    /// # use dirtymap::Options;
    /// # use std::future::Future;
    /// # use std::pin::pin;
    /// # use std::sync::Arc;
    /// # use std::task::{Context, Poll, Wake};
    /// # let dir = tempfile::tempdir()?;
    /// struct Unpark(std::thread::Thread);
    /// impl Wake for Unpark {
    ///     fn wake(self: Arc<Self>) {
    ///         self.0.unpark();
    ///     }
    /// }
    /// let map = Arc::new(Options::new().create(dir.path().join("map"), 1 << 40)?);
    /// let mut begin = pin!(map.begin_writes_async(&[4096..8192, 1 << 30..(1 << 30) + 4096]));
    /// let waker = Arc::new(Unpark(std::thread::current())).into();
    /// let write = loop {
    ///     match begin.as_mut().poll(&mut Context::from_waker(&waker)) {
    ///         Poll::Ready(begun) => break begun?,
    ///         Poll::Pending => std::thread::park(), // an event loop does other work
    ///     }
    /// };
    /// // ... writes the image.
    /// drop(write);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The output is an error where [`begin_writes_owned`](Self::begin_writes_owned) returns one, or if the thread cannot be started
    /// ([`Error::Io`]): then none of the data may be written.
    pub fn begin_writes_async(self: &Arc<Self>, ranges: &[Range<u64>]) -> BeginWrite {
        BeginWrite { map: self.clone(), state: State::New(all_touched(self.geometry(), ranges)) }
    }

    fn writable(&self) -> Result<&Live> {
        let Inner::Live(live) = &self.inner else { return Err(Error::ReadOnly) };
        live.usable()?;
        Ok(live)
    }
}

/// A data write under way that keeps its map, from [`begin_write_owned`](DirtyMap::begin_write_owned) until this is dropped,
/// by whichever thread or task. A map cannot be closed before: whoever closes it takes it out of its `Arc`.
#[must_use = "the write counts as ended when this is dropped"]
pub struct OwnedWriteGuard {
    // Dropped in this order: the map may go with the last write.
    _write: InFlight<Arc<Core>>,
    map: Arc<DirtyMap>,
}

impl OwnedWriteGuard {
    /// The map that is written.
    pub fn map(&self) -> &Arc<DirtyMap> {
        &self.map
    }
}

impl fmt::Debug for OwnedWriteGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedWriteGuard").field("map", &self.map).finish_non_exhaustive()
    }
}

/// A write that is about to begin, from [`begin_writes_async`](DirtyMap::begin_writes_async). It keeps the map until it is dropped,
/// also once it was ready.
#[must_use = "a write begins when this is polled"]
pub struct BeginWrite {
    map: Arc<DirtyMap>,
    state: State,
}

enum State {
    /// The bits.
    New(Result<Vec<Range<u64>>>),
    Waiting(Arc<Request>),
    Over,
}

impl Future for BeginWrite {
    type Output = Result<OwnedWriteGuard>;

    /// Pending for ever once it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let begun = self.advance(context.waker());
        begun.map_ok(|write| OwnedWriteGuard { _write: write, map: self.map.clone() })
    }
}

impl BeginWrite {
    fn advance(&mut self, waker: &Waker) -> Poll<Result<InFlight<Arc<Core>>>> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::New(bits) => {
                let (bits, live) = (bits?, self.map.writable()?);
                if let Some(write) = InFlight::try_begin(live.core.clone(), &bits) {
                    return Poll::Ready(Ok(write));
                }
                // It is there but for a map that is being closed.
                let background = live.background.as_ref().ok_or(Error::ReadOnly)?;
                self.state = State::Waiting(background.request(&live.core, bits, waker)?);
                Poll::Pending
            }
            State::Waiting(request) => {
                // In a forked child no thread would come back to it.
                self.map.writable()?;
                let begun = request.poll(waker);
                if begun.is_pending() {
                    self.state = State::Waiting(request);
                }
                begun
            }
            State::Over => Poll::Pending,
        }
    }
}

impl Drop for BeginWrite {
    fn drop(&mut self) {
        let State::Waiting(request) = &self.state else { return };
        // In a forked child it is the parent's, whose thread may have had its lock.
        if self.map.readable().is_ok() {
            request.cancel();
        }
    }
}

impl fmt::Debug for BeginWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeginWrite").field("map", &self.map).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::sys::fork;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::{Mutex, mpsc};
    use std::task::Wake;
    use std::thread::Thread;

    const FIRST: Range<u64> = 0..1;

    /// Counts how often tasks were woken, and ends the pause of the thread that made it.
    struct Woken(AtomicUsize, Thread);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
            self.1.unpark();
        }
    }

    fn woken() -> (Arc<Woken>, Waker) {
        let woken = Arc::new(Woken(AtomicUsize::new(0), std::thread::current()));
        (woken.clone(), woken.into())
    }

    fn poll(begin: &mut BeginWrite, waker: &Waker) -> Poll<Result<OwnedWriteGuard>> {
        Pin::new(begin).poll(&mut Context::from_waker(waker))
    }

    fn ready(begin: &mut BeginWrite, waker: &Waker) -> Result<OwnedWriteGuard> {
        loop {
            match poll(begin, waker) {
                Poll::Ready(begun) => return begun,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    fn new_map() -> (tempfile::TempDir, Arc<DirtyMap>) {
        let dir = tempfile::tempdir().unwrap();
        let map = Options::new().flush_interval(None).create(dir.path().join("map"), 1 << 40).unwrap();
        (dir, Arc::new(map))
    }

    fn places() -> impl Iterator<Item = Range<u64>> {
        (0..128).map(|i| i << 32..(i << 32) + 4096)
    }

    #[test]
    fn many_writes_that_one_thread_begins_cost_one_commit_and_no_wait() {
        let (_dir, map) = new_map();
        let (count, waker) = woken();
        let mut begins: Vec<BeginWrite> = places().map(|place| map.begin_writes_async(&[place])).collect();
        // With the lock held nothing can be armed; a poll that waited would not come back.
        let lock = map.engine().lock().unwrap();
        assert!(begins.iter_mut().all(|begin| poll(begin, &waker).is_pending()));
        drop(lock);
        let writes: Vec<_> = begins.iter_mut().map(|begin| ready(begin, &waker).unwrap()).collect();
        assert_eq!((map.stats().arms, map.count()), (1, 128));
        assert!(count.0.load(SeqCst) <= 128);
        drop((begins, writes));
        // What is armed, and what is durable, needs neither thread nor lock.
        let lock = map.engine().lock().unwrap();
        let hot: Vec<_> = places().collect();
        assert!(matches!(poll(&mut map.begin_writes_async(&hot), &waker), Poll::Ready(Ok(_))));
        drop(lock);
        map.flush().unwrap();
        assert!(matches!(poll(&mut map.begin_writes_async(&hot), &waker), Poll::Ready(Ok(_))));
        assert_eq!(map.stats().arms, 1);
    }

    #[test]
    fn a_freeze_waits_for_a_write_that_was_begun_without_waiting() {
        let (dir, map) = new_map();
        drop(map);
        let options = Options::new().flush_interval(None).freeze_timeout(std::time::Duration::ZERO);
        let map = Arc::new(options.open(dir.path().join("map")).unwrap());
        let (_, waker) = woken();
        let write = ready(&mut map.begin_writes_async(&[FIRST]), &waker).unwrap();
        assert!(matches!(map.freeze(None), Err(Error::Busy { writes: 1, .. })));
        drop(write);
        let point = map.freeze(None).unwrap();
        map.commit_checkpoint(point.uuid, false).unwrap();
    }

    #[test]
    fn a_beginning_that_is_dropped_keeps_nothing() {
        let (_dir, map) = new_map();
        let (_, waker) = woken();
        let lock = map.engine().lock().unwrap();
        let mut begin = map.begin_writes_async(&[FIRST]);
        assert!(poll(&mut begin, &waker).is_pending());
        drop(begin);
        drop(lock);
        // The thread still has the request, or has begun the write: closing waits for it, and nothing is in flight then.
        Arc::into_inner(map).unwrap().close().unwrap();
    }

    /// A task in a place of its own, which its waker polls or drops.
    struct Task {
        begin: Mutex<Option<BeginWrite>>,
        polls: bool,
        done: mpsc::Sender<()>,
    }

    impl Task {
        fn poll(self: &Arc<Self>) {
            let mut begin = self.begin.lock().unwrap();
            let Some(task) = begin.as_mut() else { return };
            if poll(task, &self.clone().into()).is_ready() {
                *begin = None;
                self.done.send(()).unwrap();
            }
        }
    }

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            if self.polls {
                self.poll();
            } else {
                drop(self.begin.lock().unwrap().take());
                self.done.send(()).unwrap();
            }
        }
    }

    #[test]
    fn a_waker_may_poll_or_drop_the_task_and_with_it_the_map() {
        for polls in [true, false] {
            let (dir, map) = new_map();
            let (done, is_done) = mpsc::channel();
            let begin = Mutex::new(Some(map.begin_writes_async(&[FIRST])));
            let task = Arc::new(Task { begin, polls, done });
            // From here on only the task has it.
            drop(map);
            task.poll();
            drop(task);
            is_done.recv().unwrap();
            // The thread may still be about to end.
            let options = Options::new().flush_interval(None).wait(std::time::Duration::from_secs(60));
            let map = options.open(dir.path().join("map")).unwrap();
            assert!(map.recovery().unclean && map.get(0).unwrap());
        }
    }

    /// Has a look when it is dropped.
    struct Looks(mpsc::Sender<bool>, Mutex<Option<Arc<Request>>>);

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Looks {
        fn drop(&mut self) {
            let request = self.1.get_mut().unwrap().take().unwrap();
            self.0.send(request.is_free()).unwrap();
        }
    }

    fn request(begin: &BeginWrite) -> Arc<Request> {
        let State::Waiting(request) = &begin.state else { panic!("it does not wait") };
        request.clone()
    }

    /// A program may do anything there, also wait for a thread that polls the same task.
    #[test]
    fn no_waker_is_dropped_with_a_lock() {
        let (_dir, map) = new_map();
        let lock = map.engine().lock().unwrap();
        let (tell, told) = mpsc::channel();
        for polled in [true, false] {
            let mut begin = map.begin_writes_async(&[FIRST]);
            let looks = Arc::new(Looks(tell.clone(), Mutex::new(None)));
            assert!(poll(&mut begin, &looks.clone().into()).is_pending());
            *looks.1.lock().unwrap() = Some(request(&begin));
            drop(looks);
            if polled {
                assert!(poll(&mut begin, &woken().1).is_pending());
            }
            drop(begin);
            assert!(told.recv().unwrap());
        }
        drop(lock);
    }

    #[test]
    fn a_forked_child_drops_a_beginning_that_a_thread_of_its_parent_was_at() {
        let (_dir, map) = new_map();
        let lock = map.engine().lock().unwrap();
        let mut begin = map.begin_writes_async(&[FIRST]);
        assert!(poll(&mut begin, &woken().1).is_pending());
        let (request, mut begin) = (request(&begin), Some(begin));
        assert!(request.while_locked(|| fork::ends_in_child(|| drop(begin.take()))));
        drop(lock);
    }

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("not the thread's business");
        }
    }

    #[test]
    fn a_waker_that_panics_keeps_no_other_task_waiting() {
        let (_dir, map) = new_map();
        let lock = map.engine().lock().unwrap();
        let mut first = map.begin_writes_async(&[FIRST]);
        assert!(poll(&mut first, &Arc::new(Panics).into()).is_pending());
        drop(lock);
        let (_, waker) = woken();
        let other = 1 << 39..(1 << 39) + 1;
        drop(ready(&mut map.begin_writes_async(&[other]), &waker).unwrap());
        drop(ready(&mut first, &waker).unwrap());
    }

    #[test]
    fn a_panic_of_the_thread_goes_on_where_the_write_is_polled_and_keeps_no_other_waiting() {
        // Longer than what is set without asking anybody.
        let len = 5 << 40;
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new().flush_interval(None).progress(|now| match now.step {
            crate::Step::Setting => panic!("of what is told"),
            _ => std::ops::ControlFlow::Continue(()),
        });
        let map = Arc::new(options.create(dir.path().join("map"), len).unwrap());
        let (_, waker) = woken();
        let mut long = map.begin_writes_async(std::slice::from_ref(&(0..len)));
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(ready(&mut long, &waker))));
        assert_eq!(polled.unwrap_err().downcast_ref(), Some(&"of what is told"));
        let other = len - 1..len;
        drop(ready(&mut map.begin_writes_async(&[other]), &waker).unwrap());
        // Nothing is in flight.
        drop(long);
        let frozen = map.freeze(None).unwrap();
        map.commit_checkpoint(frozen.uuid, false).unwrap();
    }

    #[test]
    fn those_that_wait_for_one_lock_give_up_together() {
        let (dir, map) = new_map();
        drop(map);
        let shared = Options::new().access(crate::Access::Shared).flush_interval(None);
        let holder = shared.open(dir.path().join("map")).unwrap();
        let map = Arc::new(shared.lock_timeout(std::time::Duration::ZERO).open(dir.path().join("map")).unwrap());
        let lock = holder.engine().lock().unwrap();
        let (_, waker) = woken();
        let mut begins: Vec<BeginWrite> = places().map(|place| map.begin_writes_async(&[place])).collect();
        assert!(begins.iter_mut().all(|begin| matches!(ready(begin, &waker), Err(Error::Locked { .. }))));
        drop(lock);
        assert!(ready(&mut map.begin_writes_async(&[FIRST]), &waker).is_ok());
    }

    #[test]
    fn a_beginning_says_what_is_wrong() {
        let (dir, map) = new_map();
        let (_, waker) = woken();
        let outside = 1 << 40..(1 << 40) + 1;
        assert!(matches!(ready(&mut map.begin_writes_async(&[0..1, outside]), &waker), Err(Error::OutOfRange { .. })));
        assert_eq!(map.count(), 0);
        drop(map);
        let reader = Arc::new(Options::new().read_only(true).open(dir.path().join("map")).unwrap());
        assert!(matches!(ready(&mut reader.begin_writes_async(&[FIRST]), &waker), Err(Error::ReadOnly)));
    }
}
