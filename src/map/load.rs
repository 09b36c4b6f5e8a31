//! Saving a map in a file in chunks, and loading it again.

use super::close::CloseError;
use super::dirty_map::DirtyMap;
use crate::error::Result;
use crate::query::{ReadMap, loadable};
use std::fmt;
use std::ops::Range;

/// Saving and loading, in chunks as [`Bitmap::serialize_part`](crate::Bitmap::serialize_part) writes them: either
/// kind of map loads what the other has written.
///
/// ```
/// # use dirtymap::{Bitmap, Options};
/// # let dir = tempfile::tempdir()?;
/// let map = Options::new().create(dir.path().join("map"), 1 << 30)?;
/// map.set(0..100_000)?;
/// let chunk = 0..map.serialization_align()?; // a word: 64 granules
/// let mut bytes = vec![0; map.serialized_size(chunk.clone())? as usize];
/// map.serialize_part(chunk.clone(), &mut bytes)?;
/// assert_eq!(bytes, 3u64.to_le_bytes());
/// // All of another map at once, durable when it is finished; or single chunks of one in use.
/// let other = Options::new().create(dir.path().join("other"), 1 << 30)?;
/// let mut loading = other.begin_load()?;
/// loading.part(chunk.clone(), &bytes)?;
/// loading.zeroes(chunk.end..1 << 30)?;
/// let other = loading.finish()?;
/// assert_eq!((other.count(), other.load_part(chunk, &5u64.to_le_bytes())?), (2, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl DirtyMap {
    /// As [`Bitmap::serialize_part`](crate::Bitmap::serialize_part). While others change the map, each word is as it
    /// was when it was looked at.
    ///
    /// # Errors
    /// The same.
    pub fn serialize_part(&self, range: Range<u64>, buf: &mut [u8]) -> Result<()> {
        ReadMap::serialize_part(self, range, buf)
    }

    /// As [`Bitmap::serialized_size`](crate::Bitmap::serialized_size).
    ///
    /// # Errors
    /// The same.
    pub fn serialized_size(&self, range: Range<u64>) -> Result<u64> {
        ReadMap::serialized_size(self, range)
    }

    /// As [`Bitmap::serialization_align`](crate::Bitmap::serialization_align).
    ///
    /// # Errors
    /// The same.
    pub fn serialization_align(&self) -> Result<u64> {
        self.geometry().serialization_align()
    }

    /// Replaces a chunk by what [`serialize_part`](Self::serialize_part) of a map of the same length and granularity wrote;
    /// returns how many granules changed.
    /// What it sets survives any crash when this has returned `Ok`, what it clears is durable after a [flush](Self::flush).
    ///
    /// # Errors
    /// As [`serialize_part`](Self::serialize_part), and [`Error::StrayBits`](crate::Error::StrayBits) when bits
    /// are set past the map's end; nothing has changed then. [`Error::Io`](crate::Error::Io), with the chunk loaded
    /// in part.
    pub fn load_part(&self, range: Range<u64>, bytes: &[u8]) -> Result<u64> {
        let core = self.core()?;
        let (words, bytes) = loadable(core.geometry(), &range, bytes)?;
        let word = |w: u64| u64::from_le_bytes(bytes[(w - words.start) as usize]);
        core.load_words(core.geometry().touched(&range), word)
    }

    /// Begins to load chunks into the map, which cannot be read meanwhile. Chunks that are not loaded keep what they have.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), with the map, which was opened for reading.
    pub fn begin_load(self) -> std::result::Result<MapLoading, CloseError> {
        match self.core() {
            Ok(_) => Ok(MapLoading { map: self }),
            Err(error) => Err(CloseError::new(error, self)),
        }
    }
}

/// A [`DirtyMap`] that is being loaded, and cannot be read until it is [finished](Self::finish).
///
/// Chunks come in any order; one that comes again replaces what it brought before. Made by [`DirtyMap::begin_load`].
///
/// If it is dropped, or the process crashes half-way, the file holds at least the dirt of the chunks that were
/// loaded, and the others as they were. Of a chunk being loaded, each granule is as it was or as it was to be. Dirt
/// that was to be cleared may be back, until [`finish`](Self::finish) has returned.
#[must_use = "what was to be cleared is durable only when it is finished"]
pub struct MapLoading {
    map: DirtyMap,
}

impl MapLoading {
    /// Loads a chunk, as [`DirtyMap::load_part`].
    ///
    /// # Errors
    /// As there.
    pub fn part(&mut self, range: Range<u64>, bytes: &[u8]) -> Result<()> {
        self.map.load_part(range, bytes).map(drop)
    }

    /// Loads a chunk without dirt.
    ///
    /// # Errors
    /// As [`part`](Self::part).
    pub fn zeroes(&mut self, range: Range<u64>) -> Result<()> {
        let core = self.map.core()?;
        core.geometry().chunk_words(&range)?;
        core.reset_bits(core.geometry().touched(&range)).map(drop)
    }

    /// Loads a chunk full of dirt. In the map's last chunk nothing past the end is set.
    ///
    /// # Errors
    /// As [`part`](Self::part).
    pub fn ones(&mut self, range: Range<u64>) -> Result<()> {
        let core = self.map.core()?;
        core.geometry().chunk_words(&range)?;
        core.set_bits(core.geometry().touched(&range)).map(drop)
    }

    /// Makes all of it durable and gives the map back.
    ///
    /// # Errors
    /// As [`DirtyMap::flush`], with the map: nothing is lost of what was loaded.
    pub fn finish(self) -> std::result::Result<DirtyMap, CloseError> {
        match self.map.flush() {
            Ok(()) => Ok(self.map),
            Err(error) => Err(CloseError::new(error, self.map)),
        }
    }
}

impl fmt::Debug for MapLoading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapLoading").field("map", &self.map).finish_non_exhaustive()
    }
}
