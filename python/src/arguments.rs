//! What Python hands over: ranges, identities, files.
//!
//! Invariant kept here: a range that does not lie in the map is an error for what changes it, and cut off for what reads.

use crate::call::call;
use crate::error::Result;
use dirtymap::{Error, Geometry, ImageStamp, Options, Uuid};
use pyo3::exceptions::{PyIndexError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PySlice;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

/// A range of which the end may be left out, for what reads.
pub(crate) fn clamped(shape: &Geometry, start: u64, stop: Option<u64>) -> Range<u64> {
    shape.clamp(start, stop.unwrap_or(shape.len()).saturating_sub(start))
}

/// Ranges that are given by their ends.
pub(crate) fn as_ranges(given: Vec<(u64, u64)>) -> Vec<Range<u64>> {
    given.into_iter().map(|(start, stop)| start..stop).collect()
}

/// An index, which may count from the end. What is behind all numbers is behind all maps.
fn position(at: &Bound<'_, PyAny>, len: impl Fn() -> Result<u64>) -> Result<u64> {
    let at = match at.extract::<i128>() {
        Err(e) if e.is_instance_of::<PyOverflowError>(at.py()) => {
            if at.gt(0)? {
                i128::MAX
            } else {
                i128::MIN
            }
        }
        found => found?,
    };
    let from_start = if at < 0 { at.saturating_add(len()?.into()) } else { at };
    if from_start < 0 {
        return Err(PyIndexError::new_err("no item of a map has such an index").into());
    }
    Ok(u64::try_from(from_start).unwrap_or(u64::MAX))
}

/// What stands in brackets: an item, or a range of items of which the end may be left out.
pub(crate) enum Key {
    Item(u64),
    Range(u64, Option<u64>),
}

impl Key {
    /// The length is asked only where it matters.
    pub(crate) fn of(key: &Bound<'_, PyAny>, len: impl Fn() -> Result<u64>) -> Result<Key> {
        let Ok(slice) = key.cast::<PySlice>() else { return Ok(Key::Item(position(key, len)?)) };
        let part = |name: &str| slice.getattr(name).map(|part| if part.is_none() { None } else { Some(part) });
        if part("step")?.is_some_and(|step| !step.eq(1).unwrap_or(false)) {
            return Err(PyValueError::new_err("a range of items has no step").into());
        }
        let start = part("start")?.map_or(Ok(0), |start| position(&start, &len))?;
        let stop = part("stop")?.map(|stop| position(&stop, &len)).transpose()?;
        Ok(Key::Range(start, stop))
    }
}

/// An identity in its usual form.
pub(crate) fn uuid(text: &str) -> Result<Uuid> {
    text.parse().map_err(|e: <Uuid as std::str::FromStr>::Err| PyValueError::new_err(e.to_string()).into())
}

/// A file that is given by its path, by a descriptor, or by an object that has one.
enum Given {
    Path(PathBuf),
    Open(i32),
}

impl Given {
    fn of(file: &Bound<'_, PyAny>) -> Result<Given> {
        if let Ok(path) = file.extract() {
            return Ok(Given::Path(path));
        }
        let fd = if file.hasattr("fileno")? { file.call_method0("fileno")?.extract() } else { file.extract() };
        fd.map(Given::Open)
            .map_err(|_| PyTypeError::new_err("a file is a path, a descriptor, or an object with fileno()").into())
    }
}

/// Does something with a file that is open. It is not opened anew: closing that would let go of the program's `fcntl` locks.
fn with_open<R>(fd: i32, f: impl FnOnce(&File) -> std::io::Result<R>) -> Result<R> {
    let failed = |source| Error::Io { op: "look at", path: format!("descriptor {fd}").into(), source }.into();
    dirtymap::with_descriptor(fd, f).and_then(|done| done).map_err(failed)
}

/// What the system says of a file now. May wait for a moment, so that a later write changes it.
pub(crate) fn stamp(py: Python<'_>, file: &Bound<'_, PyAny>) -> Result<ImageStamp> {
    match Given::of(file)? {
        Given::Path(path) => call(py, || Ok(ImageStamp::of_path(&path)?)),
        Given::Open(fd) => call(py, || with_open(fd, ImageStamp::of)),
    }
}

/// Options with the permissions of a file.
pub(crate) fn like(py: Python<'_>, options: Options, file: &Bound<'_, PyAny>) -> Result<Options> {
    match Given::of(file)? {
        Given::Path(path) => call(py, || match File::open(&path) {
            Ok(file) => Ok(options.like(&file)),
            Err(source) => Err(Error::Io { op: "open", path, source }.into()),
        }),
        Given::Open(fd) => with_open(fd, |file| Ok(options.like(file))),
    }
}
