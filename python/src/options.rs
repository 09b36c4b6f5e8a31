//! How to create and open a map.

use crate::arguments::{like, stamp};
use crate::call::{call_back, sees_signals};
use crate::error::Result;
use dirtymap::format::Reasons;
use dirtymap::{Access, Durability, IntentBound, Options, Progress, Step};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The progress function of a map, which its object shows to the garbage collector: it may know the map itself.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Option<Py<PyAny>>>>);

impl Told {
    fn new(function: Option<Py<PyAny>>) -> Told {
        Told(Arc::new(Mutex::new(function)))
    }

    pub(crate) fn traverse(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        // Who has the lock uses the function, which is no garbage then.
        self.0.try_lock().map_or(Ok(()), |function| visit.call(&*function))
    }

    pub(crate) fn clear(&self) {
        // Dropped without the lock: what that calls may come back here.
        let function = self.lock().take();
        drop(function);
    }

    /// What the library is to ask. Anything true, an exception or a signal ends the work; without a function, a signal ends a wait.
    fn asked(&self, now: Progress) -> ControlFlow<()> {
        let waits = now.step == Step::Waiting;
        if !sees_signals().is_some_and(|sees_signals| waits && sees_signals || self.lock().is_some()) {
            return ControlFlow::Continue(());
        }
        // While it waits it holds no lock.
        let stops = call_back(!waits, |py| {
            py.check_signals()?;
            let function = self.lock().as_ref().map(|function| function.clone_ref(py));
            let told =
                |function: Py<PyAny>| function.bind(py).call1((now.step.name(), now.done, now.total))?.is_truthy();
            function.map_or(Ok(false), told)
        });
        if stops == Some(false) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    /// Nobody waits for anything with this lock.
    fn lock(&self) -> MutexGuard<'_, Option<Py<PyAny>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// The options, and who is told.
    pub(crate) fn options(self, py: Python<'_>) -> Result<(Options, Told)> {
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
        let told = Told::new(self.progress);
        let asked = told.clone();
        Ok((options.progress(move |now| asked.asked(now)), told))
    }
}

impl New<'_> {
    pub(crate) fn add_to(self, py: Python<'_>, options: Options) -> Result<Options> {
        let durability = match self.durability {
            "power-loss" => Durability::PowerLoss,
            "process" => Durability::Process,
            _ => return Err(unknown("durability", "\"power-loss\", \"process\"").into()),
        };
        let options = options.granule_bytes(self.granule)?.label(self.label).durability(durability).dirty(self.dirty);
        let options = options.added_dirt(Reasons(self.added_dirt));
        Ok(match &self.like {
            Some(file) => like(py, options, file)?,
            None => options,
        })
    }
}
