//! Merging into a map in a file, and copying it to memory.

use super::dirty_map::DirtyMap;
use crate::bitmap::{self, Bitmap, check_len, check_shape};
use crate::error::Result;
use crate::query::{ReadMap, Rounded};

/// Combining with another map of either kind, in place or in memory.
///
/// ```
/// # use dirtymap::{Bitmap, Options};
/// # let dir = tempfile::tempdir()?;
/// let map = Options::new().create(dir.path().join("map"), 1 << 30)?;
/// map.set(0..3 << 16)?;
/// let mut copied = Bitmap::new(map.len(), map.granularity())?;
/// copied.set(1 << 16..2 << 16)?;
/// assert_eq!(map.intersection(&copied)?.count(), 1);
/// assert_eq!(map.subtract(&copied)?, 1);
/// assert!(map.difference(&copied)?.into_iter().eq([0..65536, 131_072..196_608]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl DirtyMap {
    /// Whether `other` can be merged into this map: both have the same length, and this one is open for writing.
    pub fn can_merge(&self, other: &impl ReadMap) -> bool {
        self.core().is_ok_and(|core| check_len(core.geometry(), other).is_ok())
    }

    /// Marks everything as dirty that is dirty in `other`, as [`set`](Self::set) does; returns how many granules were clean.
    /// Once it has returned `Ok`, no crash takes that back. Granularities may differ; every granule that a dirty area of `other` touches
    /// becomes dirty. Merging a map with itself does nothing. Cost: as [`set`](Self::set), but scattered words are
    /// armed together.
    ///
    /// ```
    /// # use dirtymap::{Bitmap, Options};
    /// # let dir = tempfile::tempdir().unwrap();
    /// let map = Options::new().granularity(16).create(dir.path().join("map"), 1 << 30)?;
    /// let mut written = Bitmap::new(map.len(), 12)?;
    /// written.set(8192..4 << 16)?;
    /// map.merge(&written)?;
    /// assert_eq!(map.dirty_len(), 4 << 16);
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) when the lengths differ, and nothing is changed then;
    /// [`Error::ReadOnly`](crate::Error::ReadOnly). [`Error::Io`](crate::Error::Io): a part of `other` may have
    /// been merged.
    pub fn merge(&self, other: &impl ReadMap) -> Result<u64> {
        let core = self.core()?;
        check_len(core.geometry(), other)?;
        if std::ptr::addr_eq(self, other) {
            return Ok(0);
        }
        let changed = core.merge_words(Rounded::new(other, *core.geometry()))?;
        other.check_readable().map(|()| changed)
    }

    /// Clears what is clean in `other`, which has the same granularity; returns how many granules were dirty. **Forgets dirt** as [`reset`](Self::reset) does, and
    /// like it is durable after the next [`flush`](Self::flush). Cost: the nonzero words, in batches under the update lock.
    ///
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) when length or granularity differ, and nothing is changed then;
    /// [`Error::ReadOnly`](crate::Error::ReadOnly), [`Error::Io`](crate::Error::Io).
    pub fn intersect(&self, other: &impl ReadMap) -> Result<u64> {
        self.keep(other, |w| other.word(w))
    }

    /// Clears what is dirty in `other`; else as [`intersect`](Self::intersect).
    ///
    /// # Errors
    /// As [`intersect`](Self::intersect).
    pub fn subtract(&self, other: &impl ReadMap) -> Result<u64> {
        self.keep(other, |w| !other.certain_word(w))
    }

    /// Clears what `keep`, which looks at `other`, does not name.
    fn keep(&self, other: &impl ReadMap, keep: impl Fn(u64) -> u64) -> Result<u64> {
        let core = self.core()?;
        check_shape(core.geometry(), other)?;
        let changed = core.keep_words(keep)?;
        other.check_readable().map(|()| changed)
    }

    /// What is dirty here and clean in `other`, in memory.
    ///
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) when length or granularity differ;
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn difference(&self, other: &impl ReadMap) -> Result<Bitmap> {
        bitmap::difference(self, other)
    }

    /// What is dirty here and in `other`, in memory.
    ///
    /// # Errors
    /// As [`difference`](Self::difference).
    pub fn intersection(&self, other: &impl ReadMap) -> Result<Bitmap> {
        bitmap::intersection(self, other)
    }

    /// A copy in memory. While others change the map, each word of it is as it was when it was looked at.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn to_bitmap(&self) -> Result<Bitmap> {
        Bitmap::copy_of(self)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Mutant, with};
    use crate::{Access, Options};
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn who_subtracts_a_map_from_itself_after_a_death_in_a_commit_does_not_wait_for_himself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let shared = Options::new().access(Access::Shared).flush_interval(None);
        let map = shared.create(&path, 1 << 30).unwrap();
        let again = shared.open(&path).unwrap();
        let uuid = map.freeze(None).unwrap().uuid;
        map.set(0..1).unwrap();
        // As if killed before the runtime page said so.
        with(Some(Mutant::PublishCheckpoint), || map.commit_checkpoint(uuid, false)).unwrap();
        let (done, finished) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            map.subtract(&again).unwrap();
            done.send(map.is_empty()).unwrap();
        });
        assert_eq!(finished.recv_timeout(Duration::from_secs(20)), Ok(true), "it hangs");
        thread.join().unwrap();
    }
}
