//! What Python hands over: ranges, identities, files.
//!
//! Invariant kept here: a range that does not lie in the map is an error for what changes it, and cut off for what reads.

use crate::error::Result;
use dirtymap::{Geometry, ImageStamp, Uuid};
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
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

/// An index, which may count from the end.
fn position(at: &Bound<'_, PyAny>, len: impl Fn() -> Result<u64>) -> Result<u64> {
    let at: i128 = at.extract()?;
    let from_start = if at < 0 { at + i128::from(len()?) } else { at };
    u64::try_from(from_start).map_err(|_| PyIndexError::new_err("no item of a map has such an index").into())
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

/// The path of a file that is given by its path, by a descriptor, or by an object that has one.
pub(crate) fn path_of(file: &Bound<'_, PyAny>) -> Result<PathBuf> {
    if let Ok(path) = file.extract::<PathBuf>() {
        return Ok(path);
    }
    let fd = if file.hasattr("fileno")? { file.call_method0("fileno")?.extract() } else { file.extract::<i32>() };
    let fd = fd.map_err(|_| PyTypeError::new_err("a file is a path, a descriptor, or an object with fileno()"))?;
    Ok(PathBuf::from(format!("/proc/self/fd/{fd}")))
}

/// What the system says of a file now. May wait for a moment, so that a later write changes it.
pub(crate) fn stamp(py: Python<'_>, file: &Bound<'_, PyAny>) -> Result<ImageStamp> {
    let path = path_of(file)?;
    Ok(py.detach(|| ImageStamp::of_path(&path))?)
}

/// The file itself, for its permissions.
pub(crate) fn opened(file: &Bound<'_, PyAny>) -> Result<File> {
    let path = path_of(file)?;
    Ok(File::open(&path).map_err(|source| dirtymap::Error::Io { op: "open", path, source })?)
}
