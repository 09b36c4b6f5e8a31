//! Leaving a map: closing it under the gate, and what becomes of it when that fails.

use super::dirty_map::{DirtyMap, Inner, Live};
use crate::engine::commit::Failure;
use crate::engine::image::Image;
use crate::error::{Error, Result, Unusable};
use crate::format::Stamp;
use crate::image_stamp::ImageStamp;
use crate::session::locks::{self, Gate};
use std::fmt;

impl Live {
    /// Leaves the file clean if nobody else has it open.
    fn close(&mut self, image: Image, gate: &Gate) -> Result<()> {
        if !self.have_alone(gate)? {
            return self.core.leave_image(image);
        }
        let closed = self.core.close(image).map_err(|failure| match failure {
            Failure::Unchanged(e) => e,
            Failure::InDoubt(e) => {
                // Words of a `Process` map stay armed, so that a set asks nobody; and a file that is closed lists none of them.
                step!(CloseKeepsDoubt => self.broken = Some(Unusable::CloseInDoubt));
                e
            }
        })?;
        if closed {
            return Ok(());
        }
        Err(Error::Io {
            op: "close cleanly",
            path: self.core.path().to_path_buf(),
            source: std::io::Error::other(
                "a durable write failed earlier in this session; nothing is lost, and the next open verifies the file",
            ),
        })
    }
}

/// A map that could not be closed, or [loaded](DirtyMap::begin_load), and why. It is still open: [close](DirtyMap::close) it again when the reason has passed, or drop
/// it, which loses nothing. If the commit itself failed, nobody knows whether the file is closed: then the map can be read and
/// dropped, and everything else is [`Error::Unusable`]. It turns into its [`Error`] with `?`, and then the map is dropped.
#[derive(Debug)]
pub struct CloseError {
    error: Error,
    map: Box<DirtyMap>,
}

impl CloseError {
    pub(super) fn new(error: Error, map: DirtyMap) -> CloseError {
        CloseError { error, map: Box::new(map) }
    }

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
    /// ```
    /// # use dirtymap::{DirtyMap, Error, Options};
    /// # let dir = tempfile::tempdir()?;
    /// # let map = Options::new().create(dir.path().join("map"), 1 << 30)?;
    /// fn close(mut map: DirtyMap) -> dirtymap::Result<()> {
    ///     for _ in 0..3 {
    ///         match map.close() {
    ///             // Another process has a lock: it is tried again.
    ///             Err(failed) if matches!(failed.error(), Error::Locked { .. }) => map = failed.into_map(),
    ///             // Any other error drops the map, and the next open recovers it.
    ///             closed => return Ok(closed?),
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// close(map)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// If the map [belongs to an image](crate::Options::image) that this session has written to, use
    /// [`close_with_image`](Self::close_with_image). A plain close keeps what was recorded before: after tracked writes, or where
    /// the image was found changed, every later open finds it changed and all is dirty; after a recovery no times are recorded, and
    /// the next open does not notice untracked writes.
    ///
    /// # Errors
    /// [`Error::Io`] when the flush fails, or a write of this session has failed; [`Error::Locked`] when another process keeps a lock
    /// longer than [this one waits](crate::Options::lock_timeout); [`Error::Unusable`] in a forked child. Closing a map that was
    /// opened for reading always succeeds.
    pub fn close(self) -> std::result::Result<(), CloseError> {
        self.close_as(Image::AsBefore)
    }

    /// [`close`](Self::close), recording the image as `now`: taken after the last tracked write, and after the image
    /// was synced if it must match after a power cut. Only for maps that belong to an image, and were opened [with
    /// it](crate::Options::image): what was written untracked before `now` is not noticed any more. For maps of no image it is
    /// a plain close.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub fn close_with_image(self, now: &ImageStamp) -> std::result::Result<(), CloseError> {
        let bound = self.image_at_open().is_some();
        self.close_as(if bound { Image::Now(now.0) } else { Image::AsBefore })
    }

    fn image_at_open(&self) -> Option<Stamp> {
        match &self.inner {
            Inner::Live(live) => live.core.image_before(),
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
            Err(error) => Err(CloseError::new(error, self)),
        }
    }

    /// Closes it, and keeps others out until that is over.
    fn try_close(&mut self, image: Image) -> Result<Option<Gate>> {
        let Inner::Live(live) = &mut self.inner else { return Ok(None) };
        live.usable()?;
        live.background.take();
        // Also where others stay: they would have to flush it, and this keeps nobody from opening and closing.
        let core = &live.core;
        let gate = core.flush().and_then(|()| locks::gate(live.writer_slot.disk(), core.path(), core.lock_timeout()));
        let closed = gate.and_then(|gate| {
            live.close(image, &gate).inspect_err(|_| live.share_again(&gate))?;
            Ok(gate)
        });
        if closed.is_err() {
            live.go_on();
        }
        closed.map(Some)
    }
}
