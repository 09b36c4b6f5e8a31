//! The change bitmap of a map that threads share.
//!
//! Invariant kept here: a change is marked after it was made and before the call that made it returns. Whoever
//! takes the marks and looks at the map then sees the change, or finds it among the marks the next time.

use crate::bitmap::Changes;
use crate::error::Result;
use crate::geometry::Geometry;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The marks, if somebody wants them.
#[derive(Default)]
pub(crate) struct SharedChanges {
    /// Whether there are marks, for those who change something: they need not take the lock to see that nobody asked.
    attached: AtomicBool,
    marks: Mutex<Option<Changes>>,
}

impl SharedChanges {
    fn lock(&self) -> MutexGuard<'_, Option<Changes>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever attaches marks and then reads the map either sees a change, or is seen by the one who made it: he
    /// changed the bits first and looks here then. That takes sequential consistency, which costs a load no more.
    #[inline(always)]
    fn mark_by(&self, mark: impl FnOnce(&mut Changes)) {
        if self.wanted() {
            self.mark_attached(mark);
        }
    }

    /// Out of line: where no marks are attached, a set is a few instructions.
    #[cold]
    #[inline(never)]
    fn mark_attached(&self, mark: impl FnOnce(&mut Changes)) {
        if let Some(changes) = &mut *self.lock() {
            mark(changes);
        }
    }

    /// Whether somebody wants to know.
    #[inline]
    pub(crate) fn wanted(&self) -> bool {
        self.attached.load(SeqCst)
    }

    /// Bits of the range have changed.
    #[inline(always)]
    pub(crate) fn mark(&self, bits: Range<u64>) {
        self.mark_by(|changes| changes.mark(bits));
    }

    /// The bits of `mask` have changed in bottom word `i`.
    #[inline]
    pub(crate) fn mark_word(&self, i: u64, mask: u64) {
        self.mark_by(|changes| changes.mark_word(i, mask));
    }

    pub(crate) fn attach(&self, map: &Geometry, chunk: u32) -> Result<()> {
        let mut marks = self.lock();
        let new = match &*marks {
            Some(old) => old.rechunked(map, chunk)?,
            None => Changes::new(map, chunk)?,
        };
        *marks = Some(new);
        self.attached.store(true, SeqCst);
        Ok(())
    }

    pub(crate) fn detach(&self) {
        let mut marks = self.lock();
        self.attached.store(false, SeqCst);
        *marks = None;
    }

    /// What `f` makes of the marks, if there are some.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Changes) -> Result<R>) -> Result<Option<R>> {
        self.lock().as_mut().map(f).transpose()
    }

    /// Hands over to the core that takes the place of this one's. Nobody else uses either.
    pub(super) fn move_to(&self, new: &SharedChanges) {
        *new.lock() = self.lock().take();
        new.attached.store(self.attached.swap(false, SeqCst), SeqCst);
    }

    /// The map changes its length, and nobody else uses it. `cleared` tells whether bits were cut off that were set.
    ///
    /// Only growing can fail, for want of memory, and has changed nothing then: so call this before a map grows,
    /// and after it has shrunk.
    pub(crate) fn truncate(&self, from: &Geometry, to: &Geometry, cleared: bool) -> Result<()> {
        if let Some(changes) = &mut *self.lock() {
            changes.follow(from, to, cleared)?;
        }
        Ok(())
    }
}
