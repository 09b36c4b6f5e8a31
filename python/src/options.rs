//! How to create and open a map.

use crate::arguments::{opened, stamp};
use crate::error::Result;
use dirtymap::format::Reasons;
use dirtymap::{Access, Durability, IntentBound, Options};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{ThreadId, current};
use std::time::Duration;

/// What the progress function of a map has raised, for the call that it ended: the one of its thread.
#[derive(Clone, Default)]
pub(crate) struct Raised(Arc<Mutex<HashMap<ThreadId, PyErr>>>);

impl Raised {
    fn put(&self, error: PyErr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(current().id(), error);
    }

    /// What was raised in this thread, which is forgotten then.
    pub(crate) fn take(&self) -> Option<PyErr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&current().id())
    }
}

/// The keyword arguments of `create` and `open` that are of both.
pub(crate) struct Given<'py> {
    pub(crate) access: &'py str,
    pub(crate) image: Option<Bound<'py, PyAny>>,
    pub(crate) armed_bound: Option<u64>,
    pub(crate) intent_bound: Option<u64>,
    /// 0 for no thread.
    pub(crate) flush_interval: f64,
    pub(crate) freeze_timeout: f64,
    pub(crate) lock_timeout: f64,
    pub(crate) writes_outlive: bool,
    pub(crate) progress: Option<Py<PyAny>>,
}

/// Those of `create` alone.
pub(crate) struct New<'py> {
    pub(crate) granule: u64,
    pub(crate) label: &'py str,
    pub(crate) durability: &'py str,
    pub(crate) dirty: bool,
    /// A sum of bits.
    pub(crate) added_dirt: u32,
    pub(crate) like: Option<Bound<'py, PyAny>>,
}

fn unknown(what: &str, known: &str) -> PyErr {
    PyValueError::new_err(format!("{what} is one of {known}"))
}

pub(crate) fn seconds(seconds: f64) -> Result<Duration> {
    let time = Duration::try_from_secs_f64(seconds);
    time.map_err(|e| PyValueError::new_err(format!("{seconds} s: {e}")).into())
}

impl Given<'_> {
    /// The options, and where an exception of the progress function is found.
    pub(crate) fn options(self, py: Python<'_>) -> Result<(Options, Raised)> {
        let raised = Raised::default();
        let access = match self.access {
            "exclusive" => Access::Exclusive,
            "shared" => Access::Shared,
            "read-only" => Access::ReadOnly,
            _ => return Err(unknown("access", "\"exclusive\", \"shared\", \"read-only\"").into()),
        };
        let interval = Some(seconds(self.flush_interval)?).filter(|interval| !interval.is_zero());
        let mut options = Options::new()
            .access(access)
            .flush_interval(interval)
            .freeze_timeout(seconds(self.freeze_timeout)?)
            .lock_timeout(seconds(self.lock_timeout)?)
            .writes_outlive(self.writes_outlive);
        if let Some(image) = &self.image {
            options = options.image(stamp(py, image)?);
        }
        if let Some(items) = self.armed_bound {
            options = options.armed_bound(items);
        }
        match self.intent_bound {
            None => {}
            Some(0) => options = options.intent_bound(IntentBound::None),
            Some(items) => options = options.intent_bound(IntentBound::Items(items)),
        }
        if let Some(told) = self.progress {
            options = options.progress(teller(told, raised.clone()));
        }
        Ok((options, raised))
    }
}

/// Calls a function of Python's; anything true, an exception or a signal ends the work.
fn teller(told: Py<PyAny>, raised: Raised) -> impl Fn(dirtymap::Progress) -> ControlFlow<()> + Send + Sync {
    move |now| {
        let stop = Python::attach(|py| {
            py.check_signals()?;
            told.bind(py).call1((now.step.name(), now.done, now.total))?.is_truthy()
        });
        match stop {
            Ok(false) => ControlFlow::Continue(()),
            Ok(true) => ControlFlow::Break(()),
            Err(error) => {
                raised.put(error);
                ControlFlow::Break(())
            }
        }
    }
}

impl New<'_> {
    pub(crate) fn add_to(self, options: Options) -> Result<Options> {
        let durability = match self.durability {
            "power-loss" => Durability::PowerLoss,
            "process" => Durability::Process,
            _ => return Err(unknown("durability", "\"power-loss\", \"process\"").into()),
        };
        let options = options.granule_bytes(self.granule)?.label(self.label).durability(durability).dirty(self.dirty);
        let options = options.added_dirt(Reasons(self.added_dirt));
        Ok(match &self.like {
            Some(file) => options.like(&opened(file)?),
            None => options,
        })
    }
}
