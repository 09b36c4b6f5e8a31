//! Data writes under way.

use crate::failure::Failure;
use crate::ffi::{Array, Kept, Map, Slot, call};
use crate::layout::Range;
use crate::write::{as_items, items};
use dirtymap::OwnedWriteGuard;
use std::ffi::c_int;

/// What `dirtymap_write_t` holds.
pub(crate) type Write = Slot<OwnedWriteGuard>;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_begin_write(map: Map, start: u64, count: u64, write: Kept<Write>) -> c_int {
    write.clear();
    map.call(|map| {
        let write = write.wanted()?;
        write.fill(map.file()?.begin_write_owned(items(start, count))?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_begin_writes(map: Map, ranges: Array<Range>, n: usize, write: Kept<Write>) -> c_int {
    write.clear();
    map.call(|map| {
        let (write, ranges) = (write.wanted()?, as_items(ranges, n)?);
        write.fill(map.file()?.begin_writes_owned(&ranges)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_end_write(write: Kept<Write>) -> c_int {
    call(|| write.take()?.map(drop).ok_or(Failure::NoWrite))
}
