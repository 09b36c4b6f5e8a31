//! `Bitmap`: a map in memory.

use crate::error::Result;
use crate::map::{Kind, Map};
use pyo3::prelude::*;
use std::sync::RwLock;

/// A map in memory, of any length, exact and without a file. Threads may share it.
#[pyclass(frozen, extends = Map, module = "dirtymap")]
pub struct Bitmap;

fn initializer(map: dirtymap::Bitmap) -> PyClassInitializer<Bitmap> {
    PyClassInitializer::from(Map { kind: Kind::Memory(RwLock::new(map)) }).add_subclass(Bitmap)
}

pub(crate) fn new(py: Python<'_>, map: dirtymap::Bitmap) -> PyResult<Py<Bitmap>> {
    Py::new(py, initializer(map))
}

#[pymethods]
impl Bitmap {
    #[new]
    #[pyo3(signature = (length, *, granule=65536))]
    fn new(length: u64, granule: u64) -> Result<PyClassInitializer<Bitmap>> {
        if !granule.is_power_of_two() {
            return Err(dirtymap::Error::Granule { items: granule }.into());
        }
        Ok(initializer(dirtymap::Bitmap::new(length, granule.trailing_zeros())?))
    }

    /// A copy in memory of any map.
    #[staticmethod]
    fn copy_of(py: Python<'_>, map: &Map) -> Result<Py<Bitmap>> {
        Ok(new(py, map.copied(py)?)?)
    }
}
