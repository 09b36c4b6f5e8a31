//! Long work says how far it is, and can be stopped.
//!
//! Invariant kept here: the work is asked only where stopping loses nothing: between pieces, never inside a durable write
//! or between a write and the commit that rests on it.

use crate::error::{Error, Result};
use crate::progress::{Progress, Step};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Whom long work tells, and asks whether to go on.
#[derive(Clone, Default)]
pub(crate) struct Watcher(Option<Arc<Told>>);

type Told = dyn Fn(Progress) -> ControlFlow<()> + Send + Sync;

impl Watcher {
    pub(crate) fn new(told: impl Fn(Progress) -> ControlFlow<()> + Send + Sync + 'static) -> Watcher {
        Watcher(Some(Arc::new(told)))
    }

    /// Says how far it is; fails if the work is to stop.
    pub(crate) fn tell(&self, step: Step, done: u64, total: u64) -> Result<()> {
        match self.0.as_ref().map(|told| told(Progress { step, done, total })) {
            Some(ControlFlow::Break(())) => Err(Error::Interrupted { step }),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some" } else { "None" })
    }
}
