//! Setting, resetting and flushing, as the user calls it.

use super::DirtyMap;
use crate::engine::in_flight::WriteGuard;
use crate::error::Result;
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
}
