//! Saving a map in chunks, and loading it again.
//!
//! Invariant kept here: nobody reads a half-loaded map: while it is being loaded it is a [`Loading`], which cannot
//! be read. Chunks that are refused have changed nothing.

use super::core::Bitmap;
use crate::error::Result;
use crate::query::{ReadMap, loadable};
use std::fmt;
use std::ops::Range;

/// Saving and loading.
///
/// A serialised *chunk* is the run of a map's bottom words as little-endian `u64`s: the same on every system. Chunks
/// start at multiples of [`serialization_align`](Self::serialization_align) items and have a multiple of that
/// length, except the one that ends the map. Maps of granularity 58 and more cannot be serialised.
///
/// ```
/// # use dirtymap::Bitmap;
/// let mut map = Bitmap::new(1 << 20, 9)?;
/// map.set(5000..6000)?;
/// let chunk = map.serialization_align()? * 10; // 320 KiB of the image
/// let mut loading = Bitmap::new(map.len(), map.granularity())?.begin_load();
/// for start in (0..map.len()).step_by(chunk as usize) {
///     let range = start..map.len().min(start + chunk);
///     if map.any(range.clone())? {
///         let mut bytes = vec![0; map.serialized_size(range.clone())? as usize];
///         map.serialize_part(range.clone(), &mut bytes)?;
///         loading.part(range, &bytes)?;
///     } else {
///         loading.zeroes(range)?;
///     }
/// }
/// assert_eq!(loading.finish(), map);
/// # Ok::<(), dirtymap::Error>(())
/// ```
impl Bitmap {
    /// What chunks start at multiples of and are multiples of in length: 64 granules, in items.
    ///
    /// # Errors
    /// [`Error::NotSerializable`](crate::Error::NotSerializable) for a granularity of 58 or more.
    pub fn serialization_align(&self) -> Result<u64> {
        self.geometry().serialization_align()
    }

    /// How many bytes a chunk takes: 8 for each 64 granules; none if it is empty.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange), [`Error::Chunk`](crate::Error::Chunk) when it is not aligned,
    /// and [`Error::NotSerializable`](crate::Error::NotSerializable).
    pub fn serialized_size(&self, range: Range<u64>) -> Result<u64> {
        ReadMap::serialized_size(self, range)
    }

    /// Writes a chunk to `buf`, which must be as long as [`serialized_size`](Self::serialized_size) says. Cost:
    /// O(levels) per nonzero word, and filling the buffer with zeros.
    ///
    /// # Errors
    /// As [`serialized_size`](Self::serialized_size), and [`Error::ChunkSize`](crate::Error::ChunkSize).
    pub fn serialize_part(&self, range: Range<u64>, buf: &mut [u8]) -> Result<()> {
        ReadMap::serialize_part(self, range, buf)
    }

    /// Replaces a chunk by what [`serialize_part`](Self::serialize_part) of a map of the same length and granularity wrote;
    /// returns how many granules changed. The map is complete after it, as after each.
    ///
    /// ```
    /// # use dirtymap::Bitmap;
    /// let mut map = Bitmap::new(128, 0)?;
    /// assert_eq!(map.load_part(64..128, &7u64.to_le_bytes())?, 3);
    /// assert_eq!(map.next_extent(0..128, 128)?, Some(64..67));
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`serialize_part`](Self::serialize_part), and [`Error::StrayBits`](crate::Error::StrayBits) when bits
    /// are set past the map's end. Nothing has changed then.
    pub fn load_part(&mut self, range: Range<u64>, bytes: &[u8]) -> Result<u64> {
        let (words, bytes) = loadable(&self.geometry, &range, bytes)?;
        let (changed, gone) = self.levels.load(words.start, bytes);
        self.count = self.count + changed - 2 * gone;
        self.changed(changed, self.geometry.touched(&range));
        Ok(changed)
    }

    /// Begins to load chunks into the map, which cannot be read meanwhile. Chunks that are not loaded keep what they have.
    pub fn begin_load(self) -> Loading {
        Loading { map: self }
    }
}

/// A [`Bitmap`] that is being loaded, and cannot be read until it is [finished](Self::finish).
///
/// Chunks come in any order; one that comes again replaces what it brought before. Made by [`Bitmap::begin_load`].
#[must_use = "the map is lost if it is not finished"]
pub struct Loading {
    // Complete after every chunk, summaries and count included: nothing here can be forgotten at the end.
    map: Bitmap,
}

impl Loading {
    /// Loads a chunk, as [`Bitmap::load_part`].
    ///
    /// # Errors
    /// As there, and loading may go on.
    pub fn part(&mut self, range: Range<u64>, bytes: &[u8]) -> Result<()> {
        self.map.load_part(range, bytes).map(drop)
    }

    /// Loads a chunk without dirt. Cost: as [`Bitmap::reset`].
    ///
    /// # Errors
    /// As [`part`](Self::part).
    pub fn zeroes(&mut self, range: Range<u64>) -> Result<()> {
        self.map.geometry.chunk_words(&range)?;
        self.map.reset_bits(self.map.geometry.touched(&range));
        Ok(())
    }

    /// Loads a chunk full of dirt. In the map's last chunk nothing past the end is set. Cost: as [`Bitmap::set`].
    ///
    /// # Errors
    /// As [`part`](Self::part).
    pub fn ones(&mut self, range: Range<u64>) -> Result<()> {
        self.map.geometry.chunk_words(&range)?;
        self.map.set_bits(self.map.geometry.touched(&range));
        Ok(())
    }

    /// The map, to be read again. Cost: none; summaries and count were rebuilt chunk by chunk.
    pub fn finish(self) -> Bitmap {
        self.map
    }
}

impl fmt::Debug for Loading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loading").field("geometry", &self.map.geometry).finish_non_exhaustive()
    }
}
