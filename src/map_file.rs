//! [`MapFile`]: the file of a map, and what its errors call it.

use crate::error::{Corruption, Error, Refusal, Result};
use crate::sys::Storage;
use std::io;
use std::path::Path;

/// The file of a map.
#[derive(Clone, Copy)]
pub(crate) struct MapFile<'a> {
    pub disk: &'a dyn Storage,
    /// Its name, for errors.
    pub path: &'a Path,
}

impl<'a> MapFile<'a> {
    pub(crate) fn new(disk: &'a dyn Storage, path: &'a Path) -> MapFile<'a> {
        MapFile { disk, path }
    }

    /// Its length in bytes.
    pub(crate) fn len(self) -> Result<u64> {
        self.disk.len().map_err(self.io("look at the file"))
    }

    /// The error of something that was done to it.
    pub(crate) fn io(self, op: &'static str) -> impl Fn(io::Error) -> Error + 'a {
        move |source| Error::Io { op, path: self.path.to_path_buf(), source }
    }

    /// The error of something that is refused.
    pub(crate) fn refused(self, why: Refusal) -> Error {
        Error::Refused { path: self.path.to_path_buf(), why }
    }

    /// The error of something in it that is not as it should be.
    pub(crate) fn corrupt(
        self,
        what: Corruption,
        place: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Error {
        let path = self.path.to_path_buf();
        Error::Corrupt { path, what, place: place.into(), found: found.into(), expected: expected.into() }
    }
}
