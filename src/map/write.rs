//! Setting, resetting and flushing, as the user calls it.

use super::dirty_map::DirtyMap;
use crate::engine::in_flight::WriteGuard;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
#[cfg(doc)]
use crate::map::info::Verdict;
#[cfg(doc)]
use crate::options::Options;
use crate::query::{Sealed, WriteMap};
use std::ops::Range;

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
    pub fn begin_write(&self, range: Range<u64>) -> Result<WriteGuard<'_>> {
        let core = self.core()?;
        core.geometry().check(&range)?;
        core.begin_write(core.geometry().touched(&range))
    }

    /// Marks every granule that `range` touches. When it has returned `Ok`, no crash takes that back.
    ///
    /// Cost: one load a word of 64 granules for those that are dirty and flushed already; no lock for words that are
    /// armed; else one device sync for as many words as the [bound](Options::armed_bound) allows.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], and nothing is changed. [`Error::ReadOnly`]. [`Error::Io`] when the disk is full or
    /// fails: then **do not write the data**; some of the granules may be marked. [`Error::Interrupted`] for a long range, when
    /// [who is told](Options::progress) had it stopped: the same, and what is marked is a prefix of the range.
    #[inline]
    pub fn set(&self, range: Range<u64>) -> Result<()> {
        let core = self.core()?;
        // The look that set_bits begins with, for a single granule, which is the common case.
        match core.geometry().only_bit(&range) {
            Some(bit) if core.is_durable(bit) => Ok(()),
            Some(bit) => core.set_bit(bit),
            None => core.set_range(range),
        }
    }

    /// Marks everything.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_all(&self) -> Result<()> {
        let core = self.core()?;
        core.set_bits(0..core.geometry().bits())
    }

    /// Clears whole granules. Only when the data that they stand for is durable elsewhere: sync first.
    ///
    /// Durable after the next [`flush`](Self::flush); a crash before that brings the dirt back.
    /// A `set` of the same granules that runs at the same time may be undone or not.
    /// Cost: the dirty words of the range, under the update lock.
    ///
    /// # Errors
    /// [`Error::Unaligned`] when the range covers a granule only in part, [`Error::OutOfRange`]; then nothing is
    /// changed. [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset(&self, range: Range<u64>) -> Result<()> {
        let core = self.core()?;
        core.geometry().check(&range)?;
        core.reset_bits(core.geometry().exact(&range)?)
    }

    /// Clears the granules that lie wholly inside `range`; the last one counts as whole when the range reaches the end.
    /// Else as [`reset`](Self::reset).
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset_within(&self, range: Range<u64>) -> Result<()> {
        let core = self.core()?;
        core.geometry().check(&range)?;
        core.reset_bits(core.geometry().within(&range))
    }

    /// Clears every granule that `range` touches. **Loses dirt**: a write outside the range, but in a granule at one of
    /// its ends, is forgotten. Right only where nothing but the range was written. Else as [`reset`](Self::reset).
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset_covering(&self, range: Range<u64>) -> Result<()> {
        let core = self.core()?;
        core.geometry().check(&range)?;
        core.reset_bits(core.geometry().touched(&range))
    }

    /// Clears everything, and with the next flush what recovery added is forgotten as well: the verdict becomes
    /// [`Verdict::Exact`], unless such dirt is in an outstanding [checkpoint](Self::freeze) or was added meanwhile. Else as
    /// [`reset`](Self::reset).
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Io`].
    pub fn reset_all(&self) -> Result<()> {
        self.core()?.reset_all()
    }

    /// Brings the durable bottom level up to date and empties the armed list: makes resets durable, and a crash
    /// after it adds no dirt for what was set before it. Words that are set again afterwards are armed again,
    /// which costs a sync each. Cost: up to three device syncs, and the changed pages.
    ///
    /// # Errors
    /// [`Error::Io`] when writing fails. Nothing is lost then: what could not be written stays armed, is written again
    /// by the next flush, and the map does not close as clean.
    pub fn flush(&self) -> Result<()> {
        self.core()?.flush()
    }
}

/// The methods of the map, which do not count what changes.
macro_rules! write_map {
    ($map:ty) => {
        impl Sealed for $map {}

        impl WriteMap for $map {
            fn set(&mut self, range: Range<u64>) -> Result<Option<u64>> {
                DirtyMap::set(self, range).map(|()| None)
            }
            fn reset(&mut self, range: Range<u64>) -> Result<Option<u64>> {
                DirtyMap::reset(self, range).map(|()| None)
            }
            fn reset_within(&mut self, range: Range<u64>) -> Result<Option<u64>> {
                DirtyMap::reset_within(self, range).map(|()| None)
            }
            fn reset_covering(&mut self, range: Range<u64>) -> Result<Option<u64>> {
                DirtyMap::reset_covering(self, range).map(|()| None)
            }
            fn set_all(&mut self) -> Result<Option<u64>> {
                DirtyMap::set_all(self).map(|()| None)
            }
            fn reset_all(&mut self) -> Result<Option<u64>> {
                DirtyMap::reset_all(self).map(|()| None)
            }
            fn load_part(&mut self, range: Range<u64>, bytes: &[u8]) -> Result<Option<u64>> {
                DirtyMap::load_part(self, range, bytes).map(|()| None)
            }
        }
    };
}

write_map!(DirtyMap);
write_map!(&DirtyMap);
