//! Setting, resetting and flushing, as the user calls it.

use super::dirty_map::{DirtyMap, Inner};
use crate::engine::core::Core;
use crate::engine::in_flight::WriteGuard;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::geometry::Geometry;
#[cfg(doc)]
use crate::map::info::Verdict;
#[cfg(doc)]
use crate::options::Options;
use crate::query::{Sealed, WriteMap};
use std::ops::{Range, RangeBounds};

/// Writing: set before the data is written, reset when it was copied and is durable there.
///
/// ```
/// # use dirtymap::Options;
/// # let dir = tempfile::tempdir()?;
/// let map = Options::new().create(dir.path().join("map"), 1 << 30)?; // granules of 65536
/// assert_eq!(map.set(1000..200_000)?, 4);
/// // Bytes 0..200_000 of the image were copied, and the copy was synced. The last granule may have more.
/// assert_eq!(map.reset_within(0..200_000)?, 3);
/// map.flush()?;
/// assert!(map.extents(..)?.eq([196_608..262_144]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl DirtyMap {
    /// Marks what a data write is about to touch, as [`set`](Self::set), and says when the write has ended: when what
    /// this returns is dropped, also by another thread. A [freeze](Self::freeze) waits for the writes that had begun, so that
    /// the image holds what the frozen bits stand for.
    ///
    /// ```no_run
    /// # use std::os::unix::fs::FileExt;
    /// # fn f(map: &dirtymap::DirtyMap, image: &std::fs::File, data: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    /// let write = map.begin_write(4096..4096 + data.len() as u64)?;
    /// image.write_all_at(data, 4096)?;
    /// drop(write);
    /// # Ok(()) }
    /// ```
    ///
    /// A write without this is right only where no freeze can begin before it has ended. One that is never ended
    /// (`mem::forget`) lets every freeze fail. Cost: that of `set`, and two atomic operations on memory shared with the other
    /// writers of this process.
    ///
    /// # Errors
    /// As [`set`](Self::set): then **do not write the data**.
    pub fn begin_write(&self, range: impl RangeBounds<u64>) -> Result<WriteGuard<'_>> {
        let core = self.core()?;
        core.begin_write(touched(core.geometry(), range)?)
    }

    /// The same for a write of several ranges, or for several writes that end together: they cost one commit, as
    /// [`set_ranges`](Self::set_ranges).
    ///
    /// # Errors
    /// As [`begin_write`](Self::begin_write): then none of the data may be written.
    pub fn begin_writes(&self, ranges: &[Range<u64>]) -> Result<WriteGuard<'_>> {
        let core = self.core()?;
        core.begin_writes(&all_touched(core.geometry(), ranges)?)
    }

    /// Marks every granule that `range` touches; returns how many were clean. When it has returned `Ok`, no crash takes that
    /// back. Granules that are dirty in an outstanding [checkpoint](Self::freeze) only count as clean.
    ///
    /// Cost: one load a word of 64 granules for those that are dirty and flushed already; no lock for words that are
    /// armed; else one device sync for as many words as the [bound](Options::armed_bound) allows.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], and nothing is changed. [`Error::ReadOnly`]. [`Error::Io`] when the disk is full or
    /// fails: then **do not write the data**; some of the granules may be marked. [`Error::Interrupted`] for a long range, when
    /// [who is told](Options::progress) had it stopped: the same, and what is marked is a prefix of the range.
    #[inline]
    pub fn set(&self, range: impl RangeBounds<u64>) -> Result<u64> {
        let core = self.core()?;
        let range = core.geometry().range(range);
        // The look that set_bits begins with, for a single granule, which is the common case.
        match core.geometry().only_bit(&range) {
            Some(bit) if core.is_durable(bit) => Ok(0),
            Some(bit) => core.set_bit(bit),
            None => core.set_range(range),
        }
    }

    /// Whether [`set`](Self::set) of a range has nothing to do, as one look tells: a single granule that is dirty and flushed. For
    /// bindings whose calls are to cost no more than that look; "no" says nothing.
    #[doc(hidden)]
    #[inline]
    pub fn is_set_at_a_look(&self, range: &Range<u64>) -> bool {
        let Inner::Live(live) = &self.inner else { return false };
        let durable = |bit| live.core.is_durable(bit);
        // Without an error, which would have to be dropped, this needs no frame.
        live.core.is_usable() && live.broken.is_none() && live.core.geometry().only_bit(range).is_some_and(durable)
    }

    /// As [`set`](Self::set) of each range, in order. Words that are not armed are armed together: as many as the
    /// [bound](Options::armed_bound) allows, of up to 128 ranges, cost the one commit that a single range costs.
    ///
    /// ```
    /// # use dirtymap::Options;
    /// # let dir = tempfile::tempdir()?;
    /// let map = Options::new().create(dir.path().join("map"), 1 << 40)?;
    /// let scattered: Vec<_> = (0..128).map(|i| i << 32..(i << 32) + 4096).collect();
    /// assert_eq!((map.set_ranges(&scattered)?, map.stats().arms), (128, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`set`](Self::set): after [`Error::OutOfRange`] for any of them nothing is changed; after another error some of
    /// the granules may be marked.
    pub fn set_ranges(&self, ranges: &[Range<u64>]) -> Result<u64> {
        let core = self.core()?;
        core.set_ranges(&all_touched(core.geometry(), ranges)?)
    }

    /// Marks everything; returns how many granules were clean.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_all(&self) -> Result<u64> {
        let core = self.core()?;
        core.set_bits(0..core.geometry().bits())
    }

    /// Clears whole granules; returns how many were dirty. Only when the data that they stand for is durable elsewhere: sync
    /// first. What an outstanding [checkpoint](Self::freeze) has frozen stays dirty, and does not count.
    ///
    /// Durable after the next [`flush`](Self::flush); a crash before that brings the dirt back.
    /// A `set` of the same granules that runs at the same time may be undone or not.
    /// Cost: the dirty words of the range, under the update lock.
    ///
    /// # Errors
    /// [`Error::Unaligned`] when the range covers a granule only in part, [`Error::OutOfRange`]; then nothing is
    /// changed. [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset(&self, range: impl RangeBounds<u64>) -> Result<u64> {
        let (core, range) = self.checked(range)?;
        core.reset_bits(core.geometry().exact(&range)?)
    }

    /// Clears the granules that lie wholly inside `range`; the last one counts as whole when the range reaches the end.
    /// Else as [`reset`](Self::reset).
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset_within(&self, range: impl RangeBounds<u64>) -> Result<u64> {
        let (core, range) = self.checked(range)?;
        core.reset_bits(core.geometry().within(&range))
    }

    /// Clears every granule that `range` touches. **Loses dirt**: a write outside the range, but in a granule at one of
    /// its ends, is forgotten. Right only where nothing but the range was written. Else as [`reset`](Self::reset).
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset_covering(&self, range: impl RangeBounds<u64>) -> Result<u64> {
        let (core, range) = self.checked(range)?;
        core.reset_bits(core.geometry().touched(&range))
    }

    /// Clears everything; returns how many granules were dirty. With the next flush what recovery added is forgotten as well:
    /// the verdict becomes [`Verdict::Exact`], unless such dirt is in an outstanding [checkpoint](Self::freeze) or was added
    /// meanwhile. Else as [`reset`](Self::reset).
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset_all(&self) -> Result<u64> {
        self.core()?.reset_all()
    }

    /// The range in items, and what it is of.
    fn checked(&self, range: impl RangeBounds<u64>) -> Result<(&Core, Range<u64>)> {
        let core = self.core()?;
        let range = core.geometry().range(range);
        core.geometry().check(&range)?;
        Ok((core, range))
    }

    /// Brings the durable bottom level up to date and empties the armed list: makes resets durable, and a crash
    /// after it adds no dirt but for the [write intent](crate::Options::intent_bound). Words that are set again afterwards are
    /// armed again, which costs a sync each: a [thread](crate::Options::flush_interval) that flushes leaves armed what is hot. Cost: up to three device syncs, and the changed pages.
    ///
    /// # Errors
    /// [`Error::Io`] when writing fails. Nothing is lost then: what could not be written stays armed, is written again
    /// by the next flush, and the map does not close as clean.
    pub fn flush(&self) -> Result<()> {
        self.core()?.flush()
    }
}

/// The bits that a range touches.
pub(super) fn touched(g: &Geometry, range: impl RangeBounds<u64>) -> Result<Range<u64>> {
    let range = g.range(range);
    g.check(&range)?;
    Ok(g.touched(&range))
}

pub(super) fn all_touched(g: &Geometry, ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>> {
    ranges.iter().map(|range| touched(g, range.clone())).collect()
}

/// The methods of the map.
macro_rules! write_map {
    ($map:ty) => {
        impl Sealed for $map {}

        impl WriteMap for $map {
            fn set(&mut self, range: Range<u64>) -> Result<u64> {
                DirtyMap::set(self, range)
            }
            fn reset(&mut self, range: Range<u64>) -> Result<u64> {
                DirtyMap::reset(self, range)
            }
            fn reset_within(&mut self, range: Range<u64>) -> Result<u64> {
                DirtyMap::reset_within(self, range)
            }
            fn reset_covering(&mut self, range: Range<u64>) -> Result<u64> {
                DirtyMap::reset_covering(self, range)
            }
            fn set_all(&mut self) -> Result<u64> {
                DirtyMap::set_all(self)
            }
            fn reset_all(&mut self) -> Result<u64> {
                DirtyMap::reset_all(self)
            }
            fn load_part(&mut self, range: Range<u64>, bytes: &[u8]) -> Result<u64> {
                DirtyMap::load_part(self, range, bytes)
            }
        }
    };
}

write_map!(DirtyMap);
write_map!(&DirtyMap);
