//! A place in a map, which the caller keeps.
//!
//! Invariant kept here: a cursor has no pointer in it; it may be copied, thrown away, used with another map, or be zeros.

use crate::failure::Result;
use crate::ffi::{Const, Kept, Map, Out};
use crate::handle::{Handle, read};
use crate::layout::{Place, Range};
use crate::read::{NONE, extent};
use dirtymap::ReadMap;
use dirtymap::iter::Cursor;
use std::ffi::c_int;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_init(cursor: Kept<Place>, start: u64, count: u64) {
    let end = start.saturating_add(count);
    cursor.put(Place { end, cursor: Cursor::new(start..end) });
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_position(cursor: Const<Kept<Place>>) -> u64 {
    cursor.get("cursor").map_or(NONE, |place| place.cursor.position())
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_advance(cursor: Kept<Place>, item: u64) {
    if let Ok(mut place) = cursor.get("cursor") {
        place.cursor.advance_to(item);
        cursor.put(place);
    }
}

/// Takes a step with a copy of the cursor, which counts if the answer does.
#[inline(always)]
fn step<R>(map: &Handle, cursor: Kept<Place>, f: impl FnOnce(&mut Place) -> Result<R>) -> Result<R> {
    let mut place = cursor.get("cursor")?;
    let found = f(&mut place)?;
    map.verified()?;
    cursor.put(place);
    Ok(found)
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_next(map: Const<Map>, cursor: Kept<Place>, item: Out<u64>) -> c_int {
    map.answer(item, |map| {
        let found = step(map, cursor, |place| Ok(read!(map, m => place.cursor.next(m))))?;
        Ok(found.unwrap_or(NONE))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_peek(map: Const<Map>, cursor: Const<Kept<Place>>, item: Out<u64>) -> c_int {
    map.answer(item, |map| {
        let place = cursor.get("cursor")?;
        let found = read!(map, m => place.cursor.peek(m));
        map.verified().map(|()| found.unwrap_or(NONE))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_next_extent(map: Const<Map>, cursor: Kept<Place>, extent: Out<Range>) -> c_int {
    map.answer(extent, |map| {
        let found = step(map, cursor, |place| Ok(read!(map, m => place.cursor.next_extent(m))))?;
        Ok(self::extent(found))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_cursor_next_word(
    map: Const<Map>,
    cursor: Kept<Place>,
    index: Out<u64>,
    word: Out<u64>,
) -> c_int {
    map.answer(word, |map| {
        let shape = map.geometry()?;
        let found = step(map, cursor, |place| {
            let (from, end) = (place.cursor.position(), place.end);
            let range = shape.clamp(from, end.saturating_sub(from));
            let found = read!(map, m => m.words(range)?.next());
            if let Some((i, _)) = found {
                let behind = u128::from(i + 1) << (6 + shape.granularity());
                place.cursor.advance_to(u64::try_from(behind).unwrap_or(u64::MAX));
            }
            Ok(found)
        })?;
        let (i, bits) = found.unwrap_or((NONE, 0));
        index.put(i);
        Ok(bits)
    })
}
