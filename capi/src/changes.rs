//! The change bitmap of a map.

use crate::combine::NewMap;
use crate::failure::{Failure, Result};
use crate::ffi::{Map, Out};
use crate::handle::{Handle, Kind};
use crate::write::items;
use dirtymap::Bitmap;
use std::ffi::c_int;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_attach(map: Map, chunk: u32) -> c_int {
    map.call(|map| match map.kind() {
        Kind::File(map) => Ok(map.attach_changes(chunk)?),
        Kind::Memory(map) => Ok(map.write().attach_changes(chunk)?),
        other => Err(other.fixed()),
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_detach(map: Map) -> c_int {
    map.call(|map| {
        match map.kind() {
            Kind::File(map) => map.detach_changes()?,
            Kind::Memory(map) => map.write().detach_changes(),
            other => return Err(other.fixed()),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_any(map: Map, any: Out<bool>) -> c_int {
    map.call(|map| {
        let found = match map.kind() {
            Kind::File(map) => map.has_changes()?,
            Kind::Memory(map) => map.read().has_changes(),
            other => return Err(other.fixed()),
        };
        any.put(found);
        Ok(())
    })
}

/// Gives C what was found, or null where no change bitmap is attached.
fn give(found: Option<Bitmap>, made: NewMap) {
    match found {
        Some(found) => made.put_handle(Kind::memory(found)),
        None => made.put_null(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_copy(map: Map, made: NewMap) -> c_int {
    map.call(|map| {
        let made = made.wanted("the place for a map")?;
        let found = match map.kind() {
            Kind::File(map) => map.changes()?,
            Kind::Memory(map) => map.read().changes().map(Bitmap::try_clone).transpose()?,
            other => return Err(other.fixed()),
        };
        give(found, made);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_take(map: Map, made: NewMap) -> c_int {
    map.call(|map| {
        let made = made.wanted("the place for a map")?;
        let taken = match map.kind() {
            Kind::File(map) => map.take_changes()?,
            Kind::Memory(map) => map.write().take_changes()?,
            other => return Err(other.fixed()),
        };
        give(taken, made);
        Ok(())
    })
}

fn take_into(map: &Handle, into: &Handle) -> Result<bool> {
    let into = into.memory()?.write();
    Ok(match map.kind() {
        Kind::File(map) => map.take_changes_into(into)?,
        Kind::Memory(map) => map.write().take_changes_into(into)?,
        other => return Err(other.fixed()),
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_take_into(map: Map, into: Map, attached: Out<bool>) -> c_int {
    let same = map.is(into);
    map.call(|map| {
        if same {
            return Err(Failure::Argument("the changes of a map are taken into another one"));
        }
        attached.put(take_into(map, into.get()?)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_changes_clear(map: Map, start: u64, count: u64) -> c_int {
    map.call(|map| match map.kind() {
        Kind::File(map) => Ok(map.clear_changes(items(start, count))?),
        Kind::Memory(map) => Ok(map.write().clear_changes(items(start, count))?),
        other => Err(other.fixed()),
    })
}
