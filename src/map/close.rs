//! Leaving a map: the clean close, the record of the image, and the flusher thread.
//!
//! Invariant kept here: CLEAN is committed only when everything was flushed, the list is empty and no
//! durable write of the session failed.

use super::{DirtyMap, Inner, Live};
use crate::engine::core::Core;
use crate::engine::resize::Failure;
use crate::error::{Error, Result};
use crate::file::headers::set_exact;
use crate::format::{Header, Runs, Session, Stamp, State, Uuid};
use crate::image_stamp::{ImageStamp, is_timeless, timeless};
use crate::session::attach;
use crate::shm::view::runtime;
use crate::sys::facts;
use crate::trace::event;
use crate::weak::{Weak, weak};
use std::fmt;
use std::sync::atomic::Ordering::SeqCst;
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
                let _ = core.lock_within(FLUSHER_PATIENCE.min(core.lock_timeout)).and_then(|mut lock| lock.flush());
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

/// What a clean close records beside the bits.
#[derive(Default)]
pub(crate) enum Image {
    /// The image was not looked at: its stamp becomes what it was when the map was opened.
    #[default]
    AsBefore,
    /// The image as it is now.
    Now(Stamp),
}

impl Core {
    /// Flushes and commits CLEAN. The caller is alone. `Ok(false)`: everything is flushed, but a write of this
    /// session failed earlier, and the file stays to be verified by the next open. After [`Failure::InDoubt`] nobody
    /// knows whether it is closed.
    pub(crate) fn close(&self, image: Image) -> std::result::Result<bool, Failure> {
        let mut lock = self.lock()?;
        let early = weak(Weak::CloseCountEarly).then(|| self.count_durable());
        // Others may have set something since this process flushed, and be gone.
        let durable = weak(Weak::CloseNoFlush) || lock.flush_and_compare()?;
        let dirty_bits = early.unwrap_or_else(|| self.count_durable());
        let mut header = lock.adopt()?;
        // The volatile part of such a map is pages of the file. If the kernel failed to write one back, what the flush
        // read may not be what was set; that has to be asked after the flush has read, and before CLEAN is written.
        if self.lists_all && !weak(Weak::CloseNoAsk) && self.disk.sync_all().is_err() {
            self.degrade();
        }
        let clean = durable && (header.runs.is_empty() || self.lists_all) && !self.degraded();
        if !clean && !weak(Weak::CleanAnyway) {
            event!(INFO, "closed", path = %self.path.display(), clean = false);
            return Ok(false);
        }
        header.runs = Runs::new();
        header.state = State::Clean;
        header.nonce = Uuid::NIL;
        header.last_clean = facts::now();
        header.session.flags &= !(Session::OUTLIVE | Session::OUTLIVED);
        header.clean_dirty_bits = if weak(Weak::CloseNoCount) { 0 } else { dirty_bits };
        match image {
            Image::Now(stamp) => record_image(&mut header, stamp),
            Image::AsBefore => {
                let exact = self.view.runtime()[runtime::IMAGE].load(SeqCst) & runtime::IMAGE_EXACT != 0;
                set_exact(&mut header, exact);
            }
        }
        if weak(Weak::CloseNonceEarly) {
            self.view.set_nonce(&[0; 16]);
        }
        lock.commit(&mut header).map_err(Failure::InDoubt)?;
        if !weak(Weak::CloseKeepNonce) {
            self.view.set_nonce(&[0; 16]);
        }
        event!(INFO, "closed", path = %self.path.display(), clean = true, dirty_bits = dirty_bits);
        drop(lock);
        if self.in_file {
            // The volatile part means nothing now.
            crate::shm::volatile::free(&*self.disk, self.layout.volatile.clone());
        }
        // Neither does what a checkpoint left behind the last region: both pairs name the same ones now.
        if matches!(self.disk.has_readers(), Ok(false)) {
            let _ = self.disk.cut(header.file_length());
        }
        Ok(true)
    }

    /// Records the image for those who stay, the last of whom may not have it.
    fn leave_image(&self, image: Image) -> Result<()> {
        let Image::Now(stamp) = image else { return Ok(()) };
        self.amend(|header| record_image(header, Stamp { exact: false, ..stamp }))?;
        let told = &self.view.runtime()[runtime::IMAGE];
        if stamp.exact {
            told.fetch_or(runtime::IMAGE_EXACT, SeqCst);
        } else {
            told.fetch_and(!runtime::IMAGE_EXACT, SeqCst);
        }
        Ok(())
    }

    /// Changes the header outside of arming and flushing.
    pub(crate) fn amend(&self, change: impl FnOnce(&mut Header)) -> Result<()> {
        let lock = self.lock()?;
        let mut header = lock.adopt()?;
        change(&mut header);
        lock.commit(&mut header)
    }
}

/// Records the image as it is; only which it is, in a map that was made for a size.
fn record_image(header: &mut Header, now: Stamp) {
    let only_which = header.image.as_ref().is_some_and(is_timeless);
    header.image = Some(if only_which { timeless(now) } else { now });
}

impl Live {
    /// Leaves the file clean if nobody else has it open. The caller holds the gate.
    fn close(&mut self, image: Image) -> Result<()> {
        if !self.have_alone()? {
            return self.core.leave_image(image);
        }
        let closed = self.core.close(image).map_err(|failure| match failure {
            Failure::Unchanged(e) => e,
            Failure::InDoubt(e) => {
                // Words of a `Process` map stay armed, so that a set asks nobody; and a file that is closed lists none of them.
                self.broken = Some(
                    "the commit of its close failed, and the file may be closed or not; drop it, and open it again",
                );
                e
            }
        })?;
        if closed {
            return Ok(());
        }
        Err(Error::Io {
            op: "close cleanly",
            path: self.core.path.clone(),
            source: std::io::Error::other(
                "a durable write failed earlier in this session; nothing is lost, and the next open verifies the file",
            ),
        })
    }
}

/// A map that could not be closed, and why. It is still open: [close](DirtyMap::close) it again when the reason has passed, or drop
/// it, which loses nothing. If the commit itself failed, nobody knows whether the file is closed: then the map can be read and
/// dropped, and everything else is [`Error::Unusable`]. It turns into its [`Error`] with `?`, and then the map is dropped.
#[derive(Debug)]
pub struct CloseError {
    error: Error,
    map: Box<DirtyMap>,
}

impl CloseError {
    /// Why.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The map, as open as it was.
    pub fn into_map(self) -> DirtyMap {
        *self.map
    }
}

impl From<CloseError> for Error {
    fn from(e: CloseError) -> Error {
        e.error
    }
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for CloseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl DirtyMap {
    /// Flushes, and leaves the file clean, unless [others](crate::Access::Shared) have it open: the last one to close it
    /// does that. An error [gives the map back](CloseError::into_map), to be closed again or to be dropped: then the next open
    /// recovers, and nothing is lost.
    ///
    /// If the map [belongs to an image](crate::Options::image) that this session has written to, use
    /// [`close_with_image`](Self::close_with_image), or the next open of the image will find it changed.
    ///
    /// # Errors
    /// [`Error::Io`] when the flush fails, or a write of this session has failed; [`Error::Locked`] when another process keeps a lock
    /// longer than [this one waits](crate::Options::lock_timeout); [`Error::Unusable`] in a forked child. Closing a map that was
    /// opened for reading always succeeds.
    pub fn close(self) -> std::result::Result<(), CloseError> {
        self.close_as(Image::AsBefore)
    }

    /// [`close`](Self::close), recording the image as `now`: taken after the last tracked write, and after the image
    /// was synced if it must match after a power cut. Only for maps that belong to an image; for others it is a
    /// plain close.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub fn close_with_image(self, now: &ImageStamp) -> std::result::Result<(), CloseError> {
        let bound = self.image_at_open().is_some();
        self.close_as(if bound { Image::Now(now.0) } else { Image::AsBefore })
    }

    fn image_at_open(&self) -> Option<Stamp> {
        match &self.inner {
            Inner::Live(live) => live.core.image_before,
            Inner::Loaded(_) | Inner::Watching(_) => None,
        }
    }

    fn close_as(mut self, image: Image) -> std::result::Result<(), CloseError> {
        match self.try_close(image) {
            Ok(gate) => {
                // In this order: who gets the gate finds the map closed and nobody there.
                drop(self);
                drop(gate);
                Ok(())
            }
            Err(error) => Err(CloseError { error, map: Box::new(self) }),
        }
    }

    /// Closes it, and keeps others out until that is over.
    fn try_close(&mut self, image: Image) -> Result<Option<attach::Gate>> {
        let Inner::Live(live) = &mut self.inner else { return Ok(None) };
        live.usable()?;
        live.flusher.take();
        // Also where others stay: they would have to flush it, and this keeps nobody from opening and closing.
        let core = &live.core;
        let gate = core.flush().and_then(|()| attach::gate(live.seat.disk(), &core.path, core.lock_timeout));
        let closed = gate.and_then(|gate| live.close(image).map(|()| gate));
        if closed.is_err() {
            live.go_on();
        }
        closed.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::refuse::{Refused, refusing};
    use crate::{Durability, Options};

    /// The header may say CLEAN by then, and a word that is armed asks nobody: what was set would be lost with the process.
    #[test]
    fn a_map_whose_close_is_in_doubt_takes_no_more_bits() {
        let no_sync = Refused { call: libc::SYS_msync, argument: None, error: libc::EIO };
        for durability in [Durability::PowerLoss, Durability::Process] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("map");
            let map =
                Options::new().granularity(0).flush_interval(None).durability(durability).create(&path, 4096).unwrap();
            map.set(0..1).unwrap();
            map.flush().unwrap();
            let Some(closed) = refusing(&[no_sync], || map.close()) else { return };
            let map = closed.unwrap_err().into_map();
            assert!(map.get(0).unwrap());
            assert_eq!(map.set(1..2).unwrap_err().kind(), "unusable");
            drop(map);
            assert!(DirtyMap::open(&path).unwrap().get(0).unwrap());
        }
    }
}
