//! A place in a map, which the caller keeps.
//!
//! Invariant kept here: a cursor has no pointer in it; it may be copied, thrown away, used with another map, or be zeros.

use crate::failure::Result;
use crate::ffi::{Kept, Map, Out};
use crate::handle::{Handle, read};
use crate::layout::{Place, Range};
use crate::read::{NONE, extent};
use dirtymap::ReadMap;
use dirtymap::iter::Cursor;
use std::ffi::c_int;

type Cursors = Kept<Place>;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_init(cursor: Cursors, start: u64, count: u64) {
    let end = start.saturating_add(count);
    cursor.put(Place { end, cursor: Cursor::new(start..end) });
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_position(cursor: Cursors) -> u64 {
    cursor.get("cursor").map_or(NONE, |place| place.cursor.position())
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_advance(cursor: Cursors, item: u64) {
    if let Ok(mut place) = cursor.get("cursor") {
        place.cursor.advance_to(item);
        cursor.put(place);
    }
}

/// Takes a step with a copy of the cursor, which counts if the answer does.
#[inline(always)]
fn step<R>(map: &Handle, cursor: Cursors, f: impl FnOnce(&mut Place) -> Result<R>) -> Result<(Place, R)> {
    let mut place = cursor.get("cursor")?;
    let found = f(&mut place)?;
    map.verified()?;
    Ok((place, found))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_next(map: Map, cursor: Cursors, item: Out<u64>) -> c_int {
    map.call(|map| {
        let (place, found) = step(map, cursor, |place| Ok(read!(map, m => place.cursor.next(m))))?;
        cursor.put(place);
        item.put(found.unwrap_or(NONE));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_peek(map: Map, cursor: Cursors, item: Out<u64>) -> c_int {
    map.call(|map| {
        let (_, found) = step(map, cursor, |place| Ok(read!(map, m => place.cursor.peek(m))))?;
        item.put(found.unwrap_or(NONE));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_next_extent(map: Map, cursor: Cursors, found: Out<Range>) -> c_int {
    map.call(|map| {
        let (place, area) = step(map, cursor, |place| Ok(read!(map, m => place.cursor.next_extent(m))))?;
        cursor.put(place);
        found.put(extent(area));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_next_word(map: Map, cursor: Cursors, index: Out<u64>, word: Out<u64>) -> c_int {
    map.call(|map| {
        let shape = map.geometry()?;
        let (place, found) = step(map, cursor, |place| {
            let (from, end) = (place.cursor.position(), place.end);
            let range = shape.clamp(from, end.saturating_sub(from));
            let found = read!(map, m => m.words(range)?.next());
            if let Some((i, _)) = found {
                let behind = u128::from(i + 1) << (6 + shape.granularity());
                place.cursor.advance_to(u64::try_from(behind).unwrap_or(u64::MAX));
            }
            Ok(found)
        })?;
        cursor.put(place);
        let (i, bits) = found.unwrap_or((NONE, 0));
        index.put(i);
        word.put(bits);
        Ok(())
    })
}
