//! Changing a map of any kind.
//!
//! Invariant kept here: a range that does not lie in the map is an error, and changes nothing: a write that is cut off is one
//! that is not tracked.

use crate::failure::{Failure, Result};
use crate::ffi::{Array, Map, Out};
use crate::handle::{Handle, Kind, change};
use crate::layout::Range;
use dirtymap::WriteMap;
use std::ffi::c_int;
use std::sync::Arc;

/// `count` items from `start` on; one that ends behind all numbers is in no map.
#[inline(always)]
pub(crate) fn items(start: u64, count: u64) -> std::ops::Range<u64> {
    start..start.saturating_add(count)
}

impl Handle {
    pub(crate) fn reset_all(&self) -> Result<u64> {
        Ok(change!(self, m => WriteMap::reset_all(m)?))
    }
}

/// Ranges of the header as the library has them.
pub(crate) fn as_items(ranges: Array<Range>, n: usize) -> Result<Vec<std::ops::Range<u64>>> {
    Ok(ranges.get(n, "the ranges")?.iter().map(|range| items(range.start, range.count)).collect())
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_set(map: Map, start: u64, count: u64, changed: Out<u64>) -> c_int {
    // What is marked and flushed is the common case, and nothing in it can fail: no frame is made for it.
    if let Some(file) = map.quick()
        // A sum that is too large is one that ends before it starts, and no look tells anything of it.
        && file.is_set_at_a_look(&(start..start.wrapping_add(count)))
    {
        changed.put(0);
        return 0;
    }
    set(map, start, count, changed)
}

#[inline(never)]
extern "C" fn set(map: Map, start: u64, count: u64, changed: Out<u64>) -> c_int {
    map.answer(changed, |map| Ok(change!(map, m => m.set(items(start, count))?)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_set_ranges(map: Map, ranges: Array<Range>, n: usize, changed: Out<u64>) -> c_int {
    map.answer(changed, |map| {
        let ranges = as_items(ranges, n)?;
        match map.kind() {
            Kind::File(map) => Ok(map.set_ranges(&ranges)?),
            Kind::Memory(memory) => {
                let shape = map.geometry()?;
                ranges.iter().try_for_each(|range| shape.check(range))?;
                Ok(ranges.into_iter().map(|range| memory.write().set(range)).sum::<dirtymap::Result<u64>>()?)
            }
            other => Err(other.fixed()),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_set_all(map: Map, changed: Out<u64>) -> c_int {
    map.answer(changed, |map| Ok(change!(map, m => WriteMap::set_all(m)?)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_reset(map: Map, start: u64, count: u64, changed: Out<u64>) -> c_int {
    map.answer(changed, |map| Ok(change!(map, m => m.reset(items(start, count))?)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_reset_within(map: Map, start: u64, count: u64, changed: Out<u64>) -> c_int {
    map.answer(changed, |map| Ok(change!(map, m => m.reset_within(items(start, count))?)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_reset_covering(map: Map, start: u64, count: u64, changed: Out<u64>) -> c_int {
    map.answer(changed, |map| Ok(change!(map, m => m.reset_covering(items(start, count))?)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_reset_all(map: Map, changed: Out<u64>) -> c_int {
    map.answer(changed, Handle::reset_all)
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_flush(map: Map) -> c_int {
    map.call(|map| match map.kind() {
        Kind::File(map) => Ok(map.flush()?),
        // What is in memory is never durable.
        Kind::Memory(_) => Ok(()),
        other => Err(other.fixed()),
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_truncate(map: Map, len: u64) -> c_int {
    map.call_alone(|map| {
        match map.kind_mut() {
            Kind::File(map) => Arc::get_mut(map).ok_or(Failure::InUse)?.truncate(len)?,
            Kind::Memory(map) => drop(map.write().truncate(len)?),
            other => return Err(other.fixed()),
        }
        Ok(())
    })
}
