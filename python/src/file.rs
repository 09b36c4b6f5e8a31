//! `DirtyMap`: a map in a file.
//!
//! Invariant kept here: after an error of a close the map is open as before.

use crate::arguments::{as_ranges, stamp, uuid};
use crate::call::{call, call_back, wait};
use crate::checkpoint::{Checkpoint, Write};
use crate::error::{Failure, Result};
use crate::held::{Kind, Place};
use crate::info::{of_counted, of_info, of_points, of_recovery, of_stats};
use crate::map::{DirtySet, Map, new_set};
use crate::options::{Given, New, Told, seconds};
use dirtymap::{Comparison, ImageStamp, Options, Step, Uuid};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A map in a file: which parts of a disk image were written, surviving any crash. Threads may share it, and processes that open it
/// with access="shared"; a forked child opens its own.
#[pyclass(frozen, extends = Map, module = "dirtymap")]
pub struct DirtyMap;

fn new(py: Python<'_>, map: dirtymap::DirtyMap, told: Told) -> Result<Py<DirtyMap>> {
    let kind = Kind::File(Mutex::new(Place::new(map)), told);
    Ok(Py::new(py, PyClassInitializer::from(Map { kind }).add_subclass(DirtyMap))?)
}

/// How long an open waits before it looks for signals.
const MOMENT: Duration = Duration::from_millis(200);

/// Opens a map, waiting for those who have it; a signal ends the wait.
fn open(py: Python<'_>, options: &Options, path: &Path, wait: Duration) -> Result<dirtymap::DirtyMap> {
    let end = Instant::now().checked_add(wait);
    loop {
        let left = end.map_or(MOMENT, |end| end.saturating_duration_since(Instant::now()).min(MOMENT));
        match call(py, || Ok(options.clone().wait(left).open(path)?)) {
            Err(Failure::Library { kind: "locked", .. }) if left == MOMENT => py.check_signals()?,
            done => return done,
        }
    }
}

/// Closes the map and has none then; if that fails, it is there as before.
fn close(map: &Map, now: Option<&ImageStamp>) -> Result<()> {
    let closed = map.alone(|map| {
        let closed = match now {
            Some(now) => map.close_with_image(now),
            None => map.close(),
        };
        match closed {
            Ok(()) => (Place::Closed, Ok(())),
            Err(failed) => {
                let why = Failure::from(failed.error());
                (Place::new(failed.into_map()), Err(why))
            }
        }
    });
    match closed {
        Err(Failure::Closed) => Ok(()),
        other => other,
    }
}

impl DirtyMap {
    /// Asks the map in the file something without the interpreter's lock.
    fn ask<R: Send>(
        slf: &Bound<'_, Self>,
        f: impl FnOnce(&dirtymap::DirtyMap) -> dirtymap::Result<R> + Send,
    ) -> Result<R> {
        let map = slf.as_super().get();
        call(slf.py(), || Ok(f(&*map.file()?)?))
    }

    /// Freezes it, waiting for writes.
    fn frozen(
        slf: &Bound<'_, Self>,
        f: impl FnOnce(&dirtymap::DirtyMap) -> dirtymap::Result<dirtymap::checkpoint::Checkpoint> + Send,
    ) -> Result<Checkpoint> {
        let map = slf.as_super().get();
        let frozen = wait(slf.py(), || Ok(f(&*map.file()?)?))?;
        Ok(Checkpoint::new(slf.as_super().clone().unbind(), frozen))
    }
}

#[pymethods]
impl DirtyMap {
    /// Makes a map of so many items in a new file, and opens it. dirty: it begins all dirty, as for an image that holds data.
    /// added_dirt: why it may say more than was written, as a sum of the reasons in docs/c.md.
    #[staticmethod]
    #[pyo3(signature = (path, length, *, granule=65536, label="", durability="power-loss", dirty=false, added_dirt=0, like=None,
        access="exclusive", image=None, armed_bound=None, intent_bound=None, flush_interval=30.0, freeze_timeout=60.0,
        lock_timeout=30.0, writes_outlive=false, progress=None))]
    #[allow(clippy::too_many_arguments, reason = "keywords, all with defaults")]
    fn create<'py>(
        py: Python<'py>,
        path: PathBuf,
        length: u64,
        granule: u64,
        label: &str,
        durability: &str,
        dirty: bool,
        added_dirt: u32,
        like: Option<Bound<'py, PyAny>>,
        access: &str,
        image: Option<Bound<'py, PyAny>>,
        armed_bound: Option<u64>,
        intent_bound: Option<u64>,
        flush_interval: f64,
        freeze_timeout: f64,
        lock_timeout: f64,
        writes_outlive: bool,
        progress: Option<Py<PyAny>>,
    ) -> Result<Py<DirtyMap>> {
        let given = Given {
            access,
            image,
            armed_bound,
            intent_bound,
            flush_interval,
            freeze_timeout,
            lock_timeout,
            writes_outlive,
            progress,
        };
        let (options, told) = given.options(py)?;
        let options = New { granule, label, durability, dirty, added_dirt, like }.add_to(py, options)?;
        new(py, call(py, || Ok(options.create(path, length)?))?, told)
    }

    /// Opens the map in a file, after recovering it if need be. wait: seconds for those who have it. beside_snapshot: also while a
    /// snapshot is outstanding in it, for who ends that, or does not write the image.
    #[staticmethod]
    #[pyo3(signature = (path, *, access="exclusive", image=None, armed_bound=None, intent_bound=None, flush_interval=30.0,
        wait=0.0, freeze_timeout=60.0, lock_timeout=30.0, writes_outlive=false, beside_snapshot=false, progress=None))]
    #[allow(clippy::too_many_arguments, reason = "keywords, all with defaults")]
    fn open<'py>(
        py: Python<'py>,
        path: PathBuf,
        access: &str,
        image: Option<Bound<'py, PyAny>>,
        armed_bound: Option<u64>,
        intent_bound: Option<u64>,
        flush_interval: f64,
        wait: f64,
        freeze_timeout: f64,
        lock_timeout: f64,
        writes_outlive: bool,
        beside_snapshot: bool,
        progress: Option<Py<PyAny>>,
    ) -> Result<Py<DirtyMap>> {
        let given = Given {
            access,
            image,
            armed_bound,
            intent_bound,
            flush_interval,
            freeze_timeout,
            lock_timeout,
            writes_outlive,
            progress,
        };
        let (options, told) = given.options(py)?;
        let options = options.beside_snapshot(beside_snapshot);
        new(py, self::open(py, &options, &path, seconds(wait)?)?, told)
    }

    /// Flushes the map and leaves its file clean; image: the image that it belongs to, as it is now, after fsync, of a map that was
    /// opened with it, if only trackers have written it since. Without image what was recorded before stays. Closing twice is no error.
    #[pyo3(signature = (*, image=None))]
    fn close(slf: &Bound<'_, Self>, image: Option<Bound<'_, PyAny>>) -> Result<()> {
        let now = image.map(|image| stamp(slf.py(), &image)).transpose()?;
        let map = slf.as_super().get();
        call(slf.py(), || close(map, now.as_ref()))
    }

    /// Whether it was closed.
    #[getter]
    fn closed(slf: &Bound<'_, Self>) -> Result<bool> {
        match DirtyMap::ask(slf, |_| Ok(false)) {
            Err(Failure::Closed) => Ok(true),
            // Another thread is closing it.
            Err(Failure::InUse) => Ok(false),
            other => other,
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Closes it. If the block has raised, an error of closing is not told: the next open recovers the map.
    #[pyo3(signature = (*exception))]
    fn __exit__(slf: &Bound<'_, Self>, exception: &Bound<'_, PyTuple>) -> Result<bool> {
        let map = slf.as_super().get();
        let closed = call(slf.py(), || close(map, None));
        if exception.get_item(0).is_ok_and(|kind| kind.is_none()) {
            closed?;
        }
        Ok(false)
    }

    /// The file.
    #[getter]
    fn path(slf: &Bound<'_, Self>) -> Result<PathBuf> {
        DirtyMap::ask(slf, |map| Ok(map.path().to_path_buf()))
    }

    /// Makes resets durable, and what is set exact after a crash.
    fn flush(slf: &Bound<'_, Self>) -> Result<()> {
        DirtyMap::ask(slf, dirtymap::DirtyMap::flush)
    }

    /// A data write of a range, as a block: it marks the range first, and a freeze waits for its end.
    fn write(slf: &Bound<'_, Self>, start: u64, stop: u64) -> Write {
        Write::new(slf.as_super().clone().unbind(), as_ranges(vec![(start, stop)]))
    }

    /// The same of several ranges, which cost one sync together.
    fn writes(slf: &Bound<'_, Self>, ranges: Vec<(u64, u64)>) -> Write {
        Write::new(slf.as_super().clone().unbind(), as_ranges(ranges))
    }

    /// Moves what is dirty to a checkpoint, and waits for the writes that had begun: then a backup may read the image, after fsync.
    #[pyo3(signature = (name=None))]
    fn freeze(slf: &Bound<'_, Self>, name: Option<String>) -> Result<Checkpoint> {
        DirtyMap::frozen(slf, |map| map.freeze(name.as_deref()))
    }

    /// As freeze(), for a program that copies old data before each of its writes, from before this call on, so that the image can be
    /// read as it was frozen. settle is called with the identity of the checkpoint when the writes have ended that had begun, and
    /// marks by set() what was copied meanwhile; what it raises ends the freeze. Nobody else may have the map open for writing.
    #[pyo3(signature = (settle, name=None))]
    fn freeze_snapshot(slf: &Bound<'_, Self>, settle: Py<PyAny>, name: Option<String>) -> Result<Checkpoint> {
        let settled = |uuid: Uuid| {
            let settled = call_back(false, |py| settle.call1(py, (uuid.to_string(),)));
            settled.map(drop).ok_or(dirtymap::Error::Interrupted { step: Step::Freezing })
        };
        DirtyMap::frozen(slf, |map| map.freeze_snapshot(name.as_deref(), settled))
    }

    /// Raises what freeze() with this name would raise at once.
    #[pyo3(signature = (name=None))]
    fn can_freeze(slf: &Bound<'_, Self>, name: Option<&str>) -> Result<()> {
        DirtyMap::ask(slf, |map| map.can_freeze(name))
    }

    /// The outstanding checkpoint, which may be of a backup that died: to be committed or aborted.
    fn checkpoint(slf: &Bound<'_, Self>) -> Result<Option<Checkpoint>> {
        let found = DirtyMap::ask(slf, dirtymap::DirtyMap::checkpoint)?;
        Ok(found.map(|found| Checkpoint::new(slf.as_super().clone().unbind(), found)))
    }

    /// Puts back what a checkpoint has frozen, given by its identity.
    fn abort(slf: &Bound<'_, Self>, uuid: &str) -> Result<()> {
        let uuid = self::uuid(uuid)?;
        DirtyMap::ask(slf, |map| map.abort_checkpoint(uuid))
    }

    /// Whether a granule was set since the outstanding checkpoint was frozen.
    fn get_since_freeze(slf: &Bound<'_, Self>, item: u64) -> Result<bool> {
        DirtyMap::ask(slf, |map| map.get_since_freeze(item))
    }

    /// Whether anything was.
    fn any_since_freeze(slf: &Bound<'_, Self>) -> Result<bool> {
        DirtyMap::ask(slf, dirtymap::DirtyMap::any_since_freeze)
    }

    /// The points that are kept, oldest first; counted: with what was written since each.
    #[pyo3(signature = (*, counted=false))]
    fn points<'py>(slf: &Bound<'py, Self>, counted: bool) -> Result<Vec<Bound<'py, PyDict>>> {
        if counted {
            return of_counted(slf.py(), &DirtyMap::ask(slf, dirtymap::DirtyMap::count_points)?);
        }
        of_points(slf.py(), &DirtyMap::ask(slf, dirtymap::DirtyMap::points)?)
    }

    /// What was written since a point was frozen.
    fn since(slf: &Bound<'_, Self>, name: &str) -> Result<Py<DirtySet>> {
        Ok(new_set(slf.py(), DirtyMap::ask(slf, |map| map.since_set(name))?)?)
    }

    /// What was written from one point until another, a newer one, was frozen.
    fn between(slf: &Bound<'_, Self>, older: &str, newer: &str) -> Result<Py<DirtySet>> {
        Ok(new_set(slf.py(), DirtyMap::ask(slf, |map| map.between_set(older, newer))?)?)
    }

    /// Everything that is dirty now.
    fn dirty_set(slf: &Bound<'_, Self>) -> Result<Py<DirtySet>> {
        Ok(new_set(slf.py(), DirtyMap::ask(slf, dirtymap::DirtyMap::dirty_set)?)?)
    }

    /// Makes a new, closed map of what since() says.
    fn export_since(slf: &Bound<'_, Self>, name: &str, path: PathBuf) -> Result<()> {
        DirtyMap::ask(slf, |map| map.export_since(name, path))
    }

    /// Makes a new, closed map of what between() says.
    fn export_between(slf: &Bound<'_, Self>, older: &str, newer: &str, path: PathBuf) -> Result<()> {
        DirtyMap::ask(slf, |map| map.export_between(older, newer, path))
    }

    /// Forgets a point; what others say stays the same.
    fn drop_point(slf: &Bound<'_, Self>, name: &str) -> Result<()> {
        DirtyMap::ask(slf, |map| map.drop_point(name))
    }

    /// Claims the map for a backup until it is closed.
    fn claim_backup(slf: &Bound<'_, Self>) -> Result<()> {
        DirtyMap::ask(slf, dirtymap::DirtyMap::claim_backup)
    }

    /// Records that a backup is about to write a target.
    fn begin_backup(slf: &Bound<'_, Self>, target: Bound<'_, PyAny>) -> Result<()> {
        let target = stamp(slf.py(), &target)?;
        DirtyMap::ask(slf, |map| map.begin_backup(&target))
    }

    /// For a backup without a checkpoint, which has reset what it copied: records its target.
    fn complete_backup(slf: &Bound<'_, Self>, target: Bound<'_, PyAny>) -> Result<()> {
        let target = stamp(slf.py(), &target)?;
        DirtyMap::ask(slf, |map| map.complete_backup(&target))
    }

    /// Records that an audit of so many clean granules has found one that differs: everything becomes dirty.
    fn record_miss(slf: &Bound<'_, Self>, audited: u64) -> Result<()> {
        DirtyMap::ask(slf, |map| map.record_miss(audited))
    }

    /// Has a map that belongs to no image belong to this one.
    fn bind_image(slf: &Bound<'_, Self>, image: Bound<'_, PyAny>) -> Result<()> {
        let image = stamp(slf.py(), &image)?;
        DirtyMap::ask(slf, |map| map.bind_image(&image))
    }

    /// Whether a file is the "image", the "target" of the last backup or the one that was "begun": "not-recorded", "same", "unproven",
    /// "changed" or "another". What was begun is never the "same": "unproven" is the same file with the size that it had then, and
    /// writes since are not noticed. A file that is the "target" is "changed" after a backup that was killed while it wrote to it.
    /// When the checkpoint of that is aborted, and until something is committed or reset, the target of a backup in the order of
    /// docs/python.md lacks only what is dirty, if nothing else wrote to it. Nothing proves that: compare what is clean with the
    /// image, or mark everything.
    fn compare(slf: &Bound<'_, Self>, recorded: &str, file: Bound<'_, PyAny>) -> Result<&'static str> {
        let now = stamp(slf.py(), &file)?;
        let info = DirtyMap::ask(slf, dirtymap::DirtyMap::info)?;
        let recorded = match recorded {
            "image" => info.image,
            "target" => info.target,
            "begun" => info.begun,
            _ => return Err(PyValueError::new_err("a map records \"image\", \"target\" and \"begun\"").into()),
        };
        Ok(match recorded.map(|recorded| now.compare(&recorded)) {
            None => "not-recorded",
            Some(Comparison::Same) => "same",
            Some(Comparison::Unproven(_)) => "unproven",
            Some(Comparison::Changed(_)) => "changed",
            Some(Comparison::Another(_)) => "another",
        })
    }

    /// What is known of the map and its file.
    fn info<'py>(slf: &Bound<'py, Self>) -> Result<Bound<'py, PyDict>> {
        of_info(slf.py(), &DirtyMap::ask(slf, dirtymap::DirtyMap::info)?)
    }

    /// What opening found, and mended.
    #[getter]
    fn recovery<'py>(slf: &Bound<'py, Self>) -> Result<Bound<'py, PyDict>> {
        of_recovery(slf.py(), &DirtyMap::ask(slf, |map| Ok(map.recovery().clone()))?)
    }

    /// What the map has done since it was opened.
    fn stats<'py>(slf: &Bound<'py, Self>) -> Result<Bound<'py, PyDict>> {
        of_stats(slf.py(), &DirtyMap::ask(slf, |map| Ok(map.stats()))?)
    }
}
