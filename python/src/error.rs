//! Errors of the library as exceptions.

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;

create_exception!(
    dirtymap,
    Error,
    PyException,
    "What the library refused or could not do: see kind, code, cause and errno."
);

/// What goes wrong here.
pub(crate) enum Failure {
    Library {
        message: String,
        kind: &'static str,
        code: u32,
        cause: u32,
        errno: Option<i32>,
    },
    /// In Python, before or after the library was asked.
    Python(PyErr),
    /// A map that was closed.
    Closed,
    /// Writes have not ended, or other threads are inside calls.
    InUse,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl From<dirtymap::Error> for Failure {
    fn from(error: dirtymap::Error) -> Failure {
        Failure::from(&error)
    }
}

impl From<&dirtymap::Error> for Failure {
    fn from(error: &dirtymap::Error) -> Failure {
        let (message, kind, code) = (error.to_string(), error.kind(), error.code());
        Failure::Library { message, kind, code, cause: cause(error), errno: errno(error) }
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Failure {
        Failure::Python(error)
    }
}

/// The cause within a kind; 0 where there is none.
fn cause(error: &dirtymap::Error) -> u32 {
    match error {
        dirtymap::Error::Locked { what, .. } => what.code(),
        dirtymap::Error::Corrupt { what, .. } => what.code(),
        dirtymap::Error::Unusable { why } => why.code(),
        dirtymap::Error::Refused { why, .. } => why.code(),
        _ => 0,
    }
}

fn errno(error: &dirtymap::Error) -> Option<i32> {
    match error {
        dirtymap::Error::Io { source, .. } => source.raw_os_error(),
        _ => None,
    }
}

/// An exception with what the program may want to know of it.
fn exception(message: String, kind: &str, code: u32, cause: u32, errno: Option<i32>) -> PyErr {
    let error = Error::new_err(message);
    let told = Python::attach(|py| {
        let value = error.value(py);
        value.setattr("kind", kind)?;
        value.setattr("code", code)?;
        value.setattr("cause", cause)?;
        value.setattr("errno", errno)
    });
    told.err().unwrap_or(error)
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        match failure {
            Failure::Library { message, kind, code, cause, errno } => exception(message, kind, code, cause, errno),
            Failure::Python(error) => error,
            Failure::Closed => PyValueError::new_err("the map is closed"),
            // The number that it has in C.
            Failure::InUse => {
                let message = "writes of this map have not ended, or another thread is using it; wait for that first";
                exception(message.into(), "in-use", 104, 0, None)
            }
        }
    }
}
