//! `Bitmap`: a map in memory.

use crate::error::Result;
use crate::held::Kind;
use crate::map::Map;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
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

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Nothing is to be closed: a block may have either kind of map.
    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) -> bool {
        false
    }

    /// A copy in memory of any map.
    #[staticmethod]
    fn copy_of(py: Python<'_>, map: &Map) -> Result<Py<Bitmap>> {
        Ok(new(py, map.copied(py)?)?)
    }
}
