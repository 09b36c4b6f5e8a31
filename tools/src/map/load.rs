//! Setting what a command has read, and new maps that appear with all of their dirt.
//!
//! Invariants kept here: what is scattered is armed together, and memory goes with the dirt. The name of a new map appears
//! when everything behind it is durable, and never in place of another file.

use crate::exit::Result;
use crate::map::open;
use crate::terminal::output::Output;
use crate::terminal::progress;
use dirtymap::{Bitmap, DirtyMap, Error, NewFile, Options};
use serde::Serialize;
use std::ops::Range;
use std::path::Path;

/// A new map that has no name yet. Dropped, it leaves nothing.
pub struct New<'a> {
    pub map: DirtyMap,
    path: &'a Path,
    file: NewFile,
}

impl<'a> New<'a> {
    /// A map that is to be at `path`.
    pub fn create(path: &'a Path, options: Options, len: u64) -> Result<New<'a>> {
        let options = options.armed_bound(u64::MAX).flush_interval(None).progress(progress::show());
        let (map, file) = options.create_unpublished(path, len)?;
        Ok(New { map, path, file })
    }

    /// Gives it its name.
    pub fn publish(self, output: Output) -> Result<Made> {
        let made = Made {
            file: self.path.display().to_string(),
            size: self.map.len(),
            granule_bytes: self.map.geometry().granule(),
            bits: self.map.geometry().bits(),
            dirty_bits: self.map.count(),
            dirty_bytes: self.map.dirty_len(),
        };
        open::close(self.map, output)?;
        self.file.publish()?;
        Ok(made)
    }
}

/// A map that was made, as JSON has it.
#[derive(Serialize)]
pub struct Made {
    pub file: String,
    pub size: u64,
    pub granule_bytes: u64,
    pub bits: u64,
    pub dirty_bits: u64,
    pub dirty_bytes: u64,
}

/// Collects what is dirty, so that a sync is not paid for each range.
pub struct Loader<'a> {
    map: &'a DirtyMap,
    /// None where the map has more granules than there is memory for.
    ones: Option<Bitmap>,
}

impl<'a> Loader<'a> {
    pub fn new(map: &'a DirtyMap) -> Result<Loader<'a>> {
        match Bitmap::new(map.len(), map.granularity()) {
            Ok(ones) => Ok(Loader { map, ones: Some(ones) }),
            Err(Error::OutOfMemory { .. }) => Ok(Loader { map, ones: None }),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes dirty granules. Without the memory they are set in the map at once.
    pub fn add(&mut self, bits: Range<u64>) -> Result<()> {
        let items = self.map.geometry().items_of(&bits);
        match &mut self.ones {
            Some(ones) => ones.set(items)?,
            None => self.map.set(items)?,
        };
        Ok(())
    }

    /// Sets in the map what was collected, and gives it back.
    pub fn finish(self) -> Result<Option<Bitmap>> {
        if let Some(ones) = &self.ones {
            self.map.merge(ones)?;
        }
        Ok(self.ones)
    }
}
