//! `Checkpoint` and `Write`, as context managers.
//!
//! Invariant kept here: a checkpoint that is left without a commit is aborted, and a write that is left has ended: a mistake of the
//! program never forgets dirt.

use crate::arguments::stamp;
use crate::call::call;
use crate::error::Result;
use crate::map::{DirtySet, Map, new_set, over};
use dirtymap::OwnedWriteGuard;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// What a freeze has put aside: the work list of a backup. Leaving its block without a commit aborts it: what was frozen is dirty as
/// before.
#[pyclass(frozen, module = "dirtymap")]
pub struct Checkpoint {
    map: Py<Map>,
    found: dirtymap::checkpoint::Checkpoint,
    over: AtomicBool,
}

impl Checkpoint {
    pub(crate) fn new(map: Py<Map>, found: dirtymap::checkpoint::Checkpoint) -> Checkpoint {
        Checkpoint { map, found, over: AtomicBool::new(false) }
    }
}

#[pymethods]
impl Checkpoint {
    /// Its identity.
    #[getter]
    fn uuid(&self) -> String {
        self.found.uuid.to_string()
    }

    /// The name that it was frozen with.
    #[getter]
    fn name(&self) -> Option<&str> {
        self.found.name.as_deref()
    }

    /// Whether it is one of freeze_snapshot().
    #[getter]
    fn snapshot(&self) -> bool {
        self.found.snapshot
    }

    /// What it has frozen.
    fn frozen(&self, py: Python<'_>) -> Result<Py<DirtySet>> {
        let set = call(py, || Ok(self.map.get().file()?.frozen_set(self.found.uuid)?))?;
        Ok(new_set(py, set)?)
    }

    /// The backup is complete and its copy durable: what was frozen is clean now, unless it was set again. keep: as a point, by its
    /// name. target: the copy, to be known again by the map.
    #[pyo3(signature = (*, keep=false, target=None, audited=0))]
    fn commit(&self, py: Python<'_>, keep: bool, target: Option<Bound<'_, PyAny>>, audited: u64) -> Result<()> {
        let target = target.map(|target| stamp(py, &target)).transpose()?;
        call(py, || {
            let map = self.map.get().file()?;
            match target {
                Some(target) => map.commit_backup(self.found.uuid, keep, &target, audited)?,
                None => map.commit_checkpoint(self.found.uuid, keep)?,
            }
            self.over.store(true, Relaxed);
            Ok(())
        })
    }

    /// The backup has failed: what was frozen is dirty as before.
    fn abort(&self, py: Python<'_>) -> Result<()> {
        call(py, || {
            self.map.get().file()?.abort_checkpoint(self.found.uuid)?;
            self.over.store(true, Relaxed);
            Ok(())
        })
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> Result<bool> {
        if !self.over.load(Relaxed) {
            self.abort(py)?;
        }
        Ok(false)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&self.map)
    }

    fn __repr__(&self) -> String {
        format!("<Checkpoint {}>", self.found.uuid)
    }
}

/// A data write: it begins with its block, when the ranges are marked, and ends with it. A freeze waits for it.
#[pyclass(frozen, module = "dirtymap")]
pub struct Write {
    map: Py<Map>,
    ranges: Vec<Range<u64>>,
    guard: Mutex<Option<OwnedWriteGuard>>,
}

impl Write {
    pub(crate) fn new(map: Py<Map>, ranges: Vec<Range<u64>>) -> Write {
        Write { map, ranges, guard: Mutex::new(None) }
    }
}

#[pymethods]
impl Write {
    fn __enter__(slf: Bound<'_, Self>) -> Result<Py<Write>> {
        let write = slf.get();
        call(slf.py(), || {
            let mut guard = write.guard.lock().unwrap_or_else(PoisonError::into_inner);
            if guard.is_some() {
                return Err(over("beginning of this write").into());
            }
            *guard = Some(write.map.get().file()?.begin_writes_owned(&write.ranges)?);
            Ok(())
        })?;
        Ok(slf.unbind())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> bool {
        // Another thread may be beginning it.
        py.detach(|| drop(self.guard.lock().unwrap_or_else(PoisonError::into_inner).take()));
        false
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&self.map)
    }
}
