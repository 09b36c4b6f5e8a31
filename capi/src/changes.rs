//! The change bitmap of a map.

use crate::failure::Failure;
use crate::ffi::{Const, Map, NewMap, Out};
use crate::handle::{Kind, change};
use crate::write::items;
use dirtymap::Bitmap;
use std::ffi::c_int;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_attach(map: Map, chunk: u32) -> c_int {
    map.call(|map| change!(map, m => Ok(m.attach_changes(chunk)?)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_detach(map: Map) -> c_int {
    map.call(|map| match map.kind() {
        Kind::File(map) => Ok(map.detach_changes()?),
        Kind::Memory(map) => {
            map.write().detach_changes();
            Ok(())
        }
        other => Err(other.fixed()),
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_any(map: Const<Map>, any: Out<bool>) -> c_int {
    map.answer(any, |map| match map.kind() {
        Kind::File(map) => Ok(map.has_changes()?),
        Kind::Memory(map) => Ok(map.read().has_changes()),
        other => Err(other.fixed()),
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_copy(map: Const<Map>, changes: NewMap) -> c_int {
    map.call(|map| {
        changes.make_if_any(|| {
            let found = match map.kind() {
                Kind::File(map) => map.changes()?,
                Kind::Memory(map) => map.read().changes().map(Bitmap::try_clone).transpose()?,
                other => return Err(other.fixed()),
            };
            Ok(found.map(Kind::memory))
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_take(map: Map, changes: NewMap) -> c_int {
    map.call(|map| changes.make_if_any(|| Ok(change!(map, m => m.take_changes()?).map(Kind::memory))))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_take_into(map: Map, into: Map, attached: Out<bool>) -> c_int {
    let same = map.is(into);
    map.answer(attached, |map| {
        if same {
            return Err(Failure::Argument("the changes of a map are taken into another one"));
        }
        let into = into.get()?.memory()?.write();
        Ok(change!(map, m => m.take_changes_into(into)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_clear(map: Map, start: u64, count: u64) -> c_int {
    map.call(|map| change!(map, m => Ok(m.clear_changes(items(start, count))?)))
}
