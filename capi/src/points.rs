//! Points that are kept by name, and what was written since.

use crate::checkpoint::seconds;
use crate::combine::NewMap;
use crate::ffi::{Map, Out, Structs, Text};
use crate::handle::Kind;
use crate::layout::Point;
use crate::read::NONE;
use dirtymap::checkpoint::NamedPoint;
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

#[unsafe(no_mangle)]
extern "C" fn dirtymap_points(map: Map, found: Structs<Point>, size: usize, places: usize, n: Out<usize>) -> c_int {
    map.call(|map| {
        map.verified()?;
        let points: Vec<Point> = map.file()?.points()?.iter().map(uncounted).collect();
        found.put(&points, size, places)?;
        n.put(points.len());
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_count_points(
    map: Map,
    found: Structs<Point>,
    size: usize,
    places: usize,
    n: Out<usize>,
) -> c_int {
    map.call(|map| {
        let counted = map.file()?.count_points()?;
        let point = |counted: &dirtymap::checkpoint::CountedPoint| Point {
            since_granules: counted.since.0,
            since_len: counted.since.1,
            until_next_granules: counted.until_next.0,
            until_next_len: counted.until_next.1,
            damaged: counted.damaged.into(),
            ..uncounted(&counted.point)
        };
        let points: Vec<Point> = counted.iter().map(point).collect();
        found.put(&points, size, places)?;
        n.put(points.len());
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_since(map: Map, name: Text, made: NewMap) -> c_int {
    map.call(|map| {
        let made = made.wanted("the place for a map")?;
        made.put_handle(Kind::Set(map.file()?.since_set(name.get("name")?)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_between(map: Map, from: Text, to: Text, made: NewMap) -> c_int {
    map.call(|map| {
        let made = made.wanted("the place for a map")?;
        made.put_handle(Kind::Set(map.file()?.between_set(from.get("name")?, to.get("name")?)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_dirty_set(map: Map, made: NewMap) -> c_int {
    map.call(|map| {
        let made = made.wanted("the place for a map")?;
        made.put_handle(Kind::Set(map.file()?.dirty_set()?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_export_since(map: Map, name: Text, path: Text) -> c_int {
    map.call(|map| Ok(map.file()?.export_since(name.get("name")?, path.path()?)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_export_between(map: Map, from: Text, to: Text, path: Text) -> c_int {
    map.call(|map| Ok(map.file()?.export_between(from.get("name")?, to.get("name")?, path.path()?)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_drop_point(map: Map, name: Text) -> c_int {
    map.call(|map| Ok(map.file()?.drop_point(name.get("name")?)?))
}
