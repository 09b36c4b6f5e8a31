//! Points that are kept by name, and what was written since.

use crate::checkpoint::seconds;
use crate::ffi::{Const, Map, NewMap, Out, Structs, Text};
use crate::handle::Kind;
use crate::layout::Point;
use crate::read::NONE;
use dirtymap::checkpoint::{CountedPoint, NamedPoint};
use std::ffi::c_int;

/// A point, of which nothing was counted.
fn uncounted(point: &NamedPoint) -> Point {
    Point {
        uuid: point.uuid.0,
        time: seconds(Some(point.time)),
        since_granules: NONE,
        since_len: NONE,
        until_next_granules: NONE,
        until_next_len: NONE,
        damaged: 0,
        has_target: point.target.is_some().into(),
        name: point.name.as_str().into(),
    }
}

fn counted(counted: &CountedPoint) -> Point {
    Point {
        since_granules: counted.since.0,
        since_len: counted.since.1,
        until_next_granules: counted.until_next.0,
        until_next_len: counted.until_next.1,
        damaged: counted.damaged.into(),
        ..uncounted(&counted.point)
    }
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_points(
    map: Const<Map>,
    points: Structs<Point>,
    size: usize,
    places: usize,
    n: Out<usize>,
) -> c_int {
    map.answer(n, |map| {
        map.verified()?;
        let found: Vec<Point> = map.file()?.points()?.iter().map(uncounted).collect();
        points.put(&found, size, places)?;
        Ok(found.len())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_count_points(
    map: Const<Map>,
    points: Structs<Point>,
    size: usize,
    places: usize,
    n: Out<usize>,
) -> c_int {
    map.answer(n, |map| {
        let found: Vec<Point> = map.file()?.count_points()?.iter().map(counted).collect();
        points.put(&found, size, places)?;
        Ok(found.len())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_since(map: Const<Map>, name: Text, set: NewMap) -> c_int {
    map.call(|map| set.make(|| Ok(Kind::Set(map.file()?.since_set(name.get("name")?)?))))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_between(map: Const<Map>, from: Text, to: Text, set: NewMap) -> c_int {
    map.call(|map| set.make(|| Ok(Kind::Set(map.file()?.between_set(from.get("name")?, to.get("name")?)?))))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_dirty_set(map: Const<Map>, set: NewMap) -> c_int {
    map.call(|map| set.make(|| Ok(Kind::Set(map.file()?.dirty_set()?))))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_export_since(map: Const<Map>, name: Text, path: Text) -> c_int {
    map.call(|map| Ok(map.file()?.export_since(name.get("name")?, path.path()?)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_export_between(map: Const<Map>, from: Text, to: Text, path: Text) -> c_int {
    map.call(|map| Ok(map.file()?.export_between(from.get("name")?, to.get("name")?, path.path()?)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_drop_point(map: Map, name: Text) -> c_int {
    map.call(|map| Ok(map.file()?.drop_point(name.get("name")?)?))
}
