//! Two maps or three.
//!
//! Invariant kept here: a map is never borrowed to be changed and to be read at once: equal handles are told apart first.

use crate::failure::Result;
use crate::ffi::{Const, Map, NewMap, Out};
use crate::handle::{Handle, Kind, change, read};
use dirtymap::Bitmap;
use std::ffi::c_int;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_can_merge(map: Const<Map>, other: Const<Map>, can: Out<bool>) -> c_int {
    map.answer(can, |map| {
        let other = other.get()?;
        map.verified()?;
        other.verified()?;
        Ok(match map.kind() {
            Kind::File(map) => read!(other, o => map.can_merge(o)),
            Kind::Memory(map) => read!(other, o => map.read().can_merge(o)),
            _ => false,
        })
    })
}

fn merge(map: &Handle, other: &Handle) -> Result<u64> {
    Ok(change!(map, m => read!(other, o => m.merge(o)?)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_merge(map: Map, other: Const<Map>, changed: Out<u64>) -> c_int {
    let same = map.is(other);
    // A map with itself: nothing, but for what merging it would say.
    map.answer(changed, |map| if same { map.as_it_is() } else { merge(map, other.get()?) })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_subtract(map: Map, other: Const<Map>, changed: Out<u64>) -> c_int {
    let same = map.is(other);
    map.answer(changed, |map| {
        let other = other.get()?;
        if same { map.reset_all() } else { Ok(change!(map, m => read!(other, o => m.subtract(o)?))) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_intersect(map: Map, other: Const<Map>, changed: Out<u64>) -> c_int {
    let same = map.is(other);
    map.answer(changed, |map| {
        let other = other.get()?;
        if same { map.as_it_is() } else { Ok(change!(map, m => read!(other, o => m.intersect(o)?))) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_set_to_union(map: Map, a: Const<Map>, b: Const<Map>, changed: Out<u64>) -> c_int {
    let (is_a, is_b) = (map.is(a), map.is(b));
    map.answer(changed, |map| {
        let (a, b) = (a.get()?, b.get()?);
        let memory = map.memory()?;
        match (is_a, is_b) {
            (true, true) => Ok(0),
            (true, false) => merge(map, b),
            (false, true) => merge(map, a),
            (false, false) => Ok(read!(a, a => read!(b, b => memory.write().set_to_union(a, b)?))),
        }
    })
}

/// Both as maps of this process that are read only: the library makes a new one of them.
macro_rules! made_of {
    ($name:ident, $method:ident) => {
        #[unsafe(no_mangle)]
        extern "C" fn $name(map: Const<Map>, other: Const<Map>, made: NewMap) -> c_int {
            map.call(|map| {
                made.make(|| {
                    let other = other.get()?;
                    Ok(Kind::memory(match map.kind() {
                        Kind::File(map) => read!(other, o => map.$method(o)?),
                        Kind::Memory(map) => read!(other, o => map.read().$method(o)?),
                        // A set has no such call, and a copy of it has.
                        Kind::Set(set) => read!(other, o => Bitmap::copy_of(&**set)?.$method(o)?),
                        other => return Err(other.not("it cannot be read")),
                    }))
                })
            })
        }
    };
}

made_of!(dirtymap_difference, difference);
made_of!(dirtymap_intersection, intersection);

impl Handle {
    /// A change that leaves everything as it is, of a map that could be changed.
    fn as_it_is(&self) -> Result<u64> {
        Ok(change!(self, m => m.set(0..0)?))
    }
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_copy(map: Const<Map>, copy: NewMap) -> c_int {
    map.call(|map| copy.make(|| Ok(Kind::memory(read!(map, m => Bitmap::copy_of(m)?)))))
}
