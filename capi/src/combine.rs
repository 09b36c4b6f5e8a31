//! Two maps or three.
//!
//! Invariant kept here: a map is never borrowed to be changed and to be read at once: equal handles are told apart first.

use crate::failure::Result;
use crate::ffi::{Map, Out};
use crate::handle::{Handle, Kind, change, read};
use std::ffi::c_int;
use std::ptr::NonNull;

/// A place for a handle.
pub(crate) type NewMap = Out<Option<NonNull<Handle>>>;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_can_merge(map: Map, other: Map, can: Out<bool>) -> c_int {
    map.call(|map| {
        let other = other.get()?;
        map.verified()?;
        other.verified()?;
        let found = match map.kind() {
            Kind::File(map) => read!(other, o => map.can_merge(o)),
            Kind::Memory(map) => read!(other, o => map.read().can_merge(o)),
            _ => false,
        };
        can.put(found);
        Ok(())
    })
}

fn merge(map: &Handle, other: &Handle) -> Result<u64> {
    Ok(change!(map, m => read!(other, o => m.merge(o)?)))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_merge(map: Map, other: Map, changed: Out<u64>) -> c_int {
    let same = map.is(other);
    map.call(|map| {
        // A map with itself: nothing, but for what merging it would say.
        let new = if same { map.as_it_is()? } else { merge(map, other.get()?)? };
        changed.put(new);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_subtract(map: Map, other: Map, changed: Out<u64>) -> c_int {
    let same = map.is(other);
    map.call(|map| {
        let other = other.get()?;
        let gone = if same { map.reset_all()? } else { change!(map, m => read!(other, o => m.subtract(o)?)) };
        changed.put(gone);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_intersect(map: Map, other: Map, changed: Out<u64>) -> c_int {
    let same = map.is(other);
    map.call(|map| {
        let other = other.get()?;
        let gone = if same { map.as_it_is()? } else { change!(map, m => read!(other, o => m.intersect(o)?)) };
        changed.put(gone);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_set_to_union(map: Map, a: Map, b: Map, changed: Out<u64>) -> c_int {
    let (is_a, is_b) = (map.is(a), map.is(b));
    map.call(|map| {
        let (a, b) = (a.get()?, b.get()?);
        let memory = map.memory()?;
        let new = match (is_a, is_b) {
            (true, true) => 0,
            (true, false) => merge(map, b)?,
            (false, true) => merge(map, a)?,
            (false, false) => read!(a, a => read!(b, b => memory.write().set_to_union(a, b)?)),
        };
        changed.put(new);
        Ok(())
    })
}

/// Both as maps of this process that are read only: the library makes a new one of them.
macro_rules! made_of {
    ($name:ident, $method:ident) => {
        #[unsafe(no_mangle)]
        extern "C" fn $name(map: Map, other: Map, made: NewMap) -> c_int {
            map.call(|map| {
                let (other, made) = (other.get()?, made.wanted("the place for a map")?);
                let new = match map.kind() {
                    Kind::File(map) => read!(other, o => map.$method(o)?),
                    Kind::Memory(map) => read!(other, o => map.read().$method(o)?),
                    // A set has no such call, and a copy of it has.
                    Kind::Set(_) => read!(other, o => map.copy()?.$method(o)?),
                    other => return Err(other.not("it cannot be read")),
                };
                made.put_handle(Kind::memory(new));
                Ok(())
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

    /// A copy in memory.
    pub(crate) fn copy(&self) -> Result<dirtymap::Bitmap> {
        match self.kind() {
            Kind::File(map) => Ok(map.to_bitmap()?),
            Kind::Memory(map) => Ok(map.read().try_clone()?),
            Kind::Set(set) => {
                let shape = self.geometry()?;
                let mut copy = dirtymap::Bitmap::new(shape.len(), shape.granularity())?;
                copy.merge(&**set)?;
                Ok(copy)
            }
            other => Err(other.not("it cannot be read")),
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_copy(map: Map, made: NewMap) -> c_int {
    map.call(|map| {
        let made = made.wanted("the place for a map")?;
        made.put_handle(Kind::memory(map.copy()?));
        Ok(())
    })
}
