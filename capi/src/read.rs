//! Reading a map of any kind.
//!
//! Invariant kept here: a count that reaches past the end is cut there; and what the library answers without an error is an
//! error here where nothing is known, as in a forked child.

use crate::failure::Result;
use crate::ffi::{Map, Out};
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

#[unsafe(no_mangle)]
extern "C" fn dirtymap_len(map: Map) -> u64 {
    map.get().and_then(|map| map.geometry()).map_or(0, |shape| shape.len())
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_granule(map: Map) -> u64 {
    map.get().and_then(|map| map.geometry()).map_or(0, |shape| shape.granule())
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_get(map: Map, item: u64, dirty: Out<bool>) -> c_int {
    map.call(|map| {
        dirty.put(read!(map, m => m.get(item)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_count(map: Map, granules: Out<u64>) -> c_int {
    map.call(|map| {
        let found = read!(map, m => m.count());
        map.verified()?;
        granules.put(found);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_dirty_len(map: Map, items: Out<u64>) -> c_int {
    map.call(|map| {
        let found = read!(map, m => m.dirty_len());
        map.verified()?;
        items.put(found);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_count_range(map: Map, start: u64, count: u64, granules: Out<u64>) -> c_int {
    map.call(|map| {
        let range = map.clamp(start, count)?;
        granules.put(read!(map, m => m.count_range(range)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_is_empty(map: Map, empty: Out<bool>) -> c_int {
    map.call(|map| {
        let found = read!(map, m => m.is_empty());
        map.verified()?;
        empty.put(found);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_is_full(map: Map, full: Out<bool>) -> c_int {
    map.call(|map| {
        let found = read!(map, m => m.is_full());
        map.verified()?;
        full.put(found);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_any(map: Map, start: u64, count: u64, any: Out<bool>) -> c_int {
    map.call(|map| {
        let range = map.clamp(start, count)?;
        any.put(read!(map, m => m.any(range)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_all(map: Map, start: u64, count: u64, all: Out<bool>) -> c_int {
    map.call(|map| {
        let range = map.clamp(start, count)?;
        all.put(read!(map, m => m.all(range)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_next_dirty(map: Map, start: u64, count: u64, item: Out<u64>) -> c_int {
    map.call(|map| {
        let range = map.clamp(start, count)?;
        item.put(read!(map, m => m.next_dirty(range)?).unwrap_or(NONE));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_next_clean(map: Map, start: u64, count: u64, item: Out<u64>) -> c_int {
    map.call(|map| {
        let range = map.clamp(start, count)?;
        item.put(read!(map, m => m.next_clean(range)?).unwrap_or(NONE));
        Ok(())
    })
}

/// A range of the library as the header has it; nothing is `NONE` and no items.
pub(crate) fn extent(found: Option<std::ops::Range<u64>>) -> Range {
    found.map_or(Range { start: NONE, count: 0 }, |found| Range { start: found.start, count: found.end - found.start })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_next_extent(map: Map, start: u64, count: u64, max_count: u64, found: Out<Range>) -> c_int {
    map.call(|map| {
        let range = map.clamp(start, count)?;
        found.put(extent(read!(map, m => m.next_extent(range, max_count)?)));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_run(map: Map, start: u64, count: u64, dirty: Out<bool>, same: Out<u64>) -> c_int {
    map.call(|map| {
        let range = map.clamp(start, count)?;
        let (is_dirty, run) = read!(map, m => m.run(range)?).unwrap_or_default();
        dirty.put(is_dirty);
        same.put(run);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_sha256(map: Map, hash: Out<[u8; 32]>) -> c_int {
    map.call(|map| {
        let found = read!(map, m => m.sha256());
        map.verified()?;
        hash.put(found);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_equal(map: Map, other: Map, equal: Out<bool>) -> c_int {
    map.call(|map| {
        let other = other.get()?;
        let same = |all: std::ops::Range<u64>| -> Result<bool> {
            Ok(read!(map, a => read!(other, b => a.words(all.clone())?.eq(b.words(all)?))))
        };
        let shape = map.geometry()?;
        let found = shape == other.geometry()? && same(0..shape.len())?;
        map.verified()?;
        other.verified()?;
        equal.put(found);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_get_since_freeze(map: Map, item: u64, dirty: Out<bool>) -> c_int {
    map.call(|map| {
        dirty.put(map.file()?.get_since_freeze(item)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_any_since_freeze(map: Map, any: Out<bool>) -> c_int {
    map.call(|map| {
        any.put(map.file()?.any_since_freeze()?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_verify_session(map: Map) -> c_int {
    map.call(|map| map.verified())
}
