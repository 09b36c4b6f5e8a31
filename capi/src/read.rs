//! Reading a map of any kind.
//!
//! Invariant kept here: a count that reaches past the end is cut there; and what the library answers without an error is an
//! error here where nothing is known, as in a forked child.

use crate::failure::Result;
use crate::ffi::{Const, Map, Out};
use crate::handle::{Handle, Kind, read};
use crate::layout::Range;
use dirtymap::ReadMap;
use std::ffi::c_int;

/// What stands for "none" among positions.
pub(crate) const NONE: u64 = u64::MAX;

impl Handle {
    /// The items from `start` on that are in the map.
    pub(crate) fn clamp(&self, start: u64, count: u64) -> Result<std::ops::Range<u64>> {
        Ok(self.geometry()?.clamp(start, count))
    }

    /// Whether answers can be relied on; asked after what cannot say so itself.
    pub(crate) fn verified(&self) -> Result<()> {
        match self.kind() {
            Kind::File(map) => Ok(map.verify_session()?),
            _ => Ok(()),
        }
    }
}

impl Map {
    /// As `answer`, of what cannot say itself whether it can be relied on.
    fn answer_verified<T>(self, place: Out<T>, f: impl FnOnce(&Handle) -> Result<T>) -> c_int {
        self.answer(place, |map| {
            let found = f(map)?;
            map.verified().map(|()| found)
        })
    }
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_len(map: Const<Map>) -> u64 {
    map.get().and_then(Handle::geometry).map_or(0, |shape| shape.len())
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_granule(map: Const<Map>) -> u64 {
    map.get().and_then(Handle::geometry).map_or(0, |shape| shape.granule())
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_get(map: Const<Map>, item: u64, dirty: Out<bool>) -> c_int {
    map.answer(dirty, |map| Ok(read!(map, m => m.get(item)?)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_count(map: Const<Map>, granules: Out<u64>) -> c_int {
    map.answer_verified(granules, |map| Ok(read!(map, m => m.count())))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_dirty_len(map: Const<Map>, items: Out<u64>) -> c_int {
    map.answer_verified(items, |map| Ok(read!(map, m => m.dirty_len())))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_count_range(map: Const<Map>, start: u64, count: u64, granules: Out<u64>) -> c_int {
    map.answer(granules, |map| {
        let range = map.clamp(start, count)?;
        Ok(read!(map, m => m.count_range(range)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_is_empty(map: Const<Map>, empty: Out<bool>) -> c_int {
    map.answer_verified(empty, |map| Ok(read!(map, m => m.is_empty())))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_is_full(map: Const<Map>, full: Out<bool>) -> c_int {
    map.answer_verified(full, |map| Ok(read!(map, m => m.is_full())))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_any(map: Const<Map>, start: u64, count: u64, any: Out<bool>) -> c_int {
    map.answer(any, |map| {
        let range = map.clamp(start, count)?;
        Ok(read!(map, m => m.any(range)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_all(map: Const<Map>, start: u64, count: u64, all: Out<bool>) -> c_int {
    map.answer(all, |map| {
        let range = map.clamp(start, count)?;
        Ok(read!(map, m => m.all(range)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_next_dirty(map: Const<Map>, start: u64, count: u64, item: Out<u64>) -> c_int {
    map.answer(item, |map| {
        let range = map.clamp(start, count)?;
        Ok(read!(map, m => m.next_dirty(range)?).unwrap_or(NONE))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_next_clean(map: Const<Map>, start: u64, count: u64, item: Out<u64>) -> c_int {
    map.answer(item, |map| {
        let range = map.clamp(start, count)?;
        Ok(read!(map, m => m.next_clean(range)?).unwrap_or(NONE))
    })
}

/// A range of the library as the header has it; nothing is `NONE` and no items.
pub(crate) fn extent(found: Option<std::ops::Range<u64>>) -> Range {
    found.map_or(Range { start: NONE, count: 0 }, |found| Range { start: found.start, count: found.end - found.start })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_next_extent(
    map: Const<Map>,
    start: u64,
    count: u64,
    max_count: u64,
    extent: Out<Range>,
) -> c_int {
    map.answer(extent, |map| {
        let range = map.clamp(start, count)?;
        Ok(self::extent(read!(map, m => m.next_extent(range, max_count)?)))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_run(map: Const<Map>, start: u64, count: u64, dirty: Out<bool>, same: Out<u64>) -> c_int {
    map.answer(same, |map| {
        let range = map.clamp(start, count)?;
        let (is_dirty, run) = read!(map, m => m.run(range)?).unwrap_or_default();
        dirty.put(is_dirty);
        Ok(run)
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_sha256(map: Const<Map>, hash: Out<[u8; 32]>) -> c_int {
    map.answer_verified(hash, |map| Ok(read!(map, m => m.sha256())))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_equal(map: Const<Map>, other: Const<Map>, equal: Out<bool>) -> c_int {
    map.answer_verified(equal, |map| {
        let other = other.get()?;
        let same = |all: std::ops::Range<u64>| -> Result<bool> {
            Ok(read!(map, a => read!(other, b => a.words(all.clone())?.eq(b.words(all)?))))
        };
        let shape = map.geometry()?;
        let found = shape == other.geometry()? && same(0..shape.len())?;
        other.verified().map(|()| found)
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_get_since_freeze(map: Const<Map>, item: u64, dirty: Out<bool>) -> c_int {
    map.answer(dirty, |map| Ok(map.file()?.get_since_freeze(item)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_any_since_freeze(map: Const<Map>, any: Out<bool>) -> c_int {
    map.answer(any, |map| Ok(map.file()?.any_since_freeze()?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_verify_session(map: Const<Map>) -> c_int {
    map.call(Handle::verified)
}
