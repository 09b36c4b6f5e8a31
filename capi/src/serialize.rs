//! Saving a map in chunks, and loading it.
//!
//! Invariant kept here: a map that is being loaded is not read: its handle has no map to read then.

use crate::failure::{Failure, Result};
use crate::ffi::{Array, Buffer, Const, Map, Out};
use crate::handle::{Handle, Kind, change, read};
use crate::write::items;
use dirtymap::ReadMap;
use std::ffi::c_int;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_serialization_align(map: Const<Map>, items: Out<u64>) -> c_int {
    map.answer(items, |map| {
        map.verified()?;
        Ok(map.geometry()?.serialization_align()?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_serialized_size(map: Const<Map>, start: u64, count: u64, size: Out<u64>) -> c_int {
    map.answer(size, |map| {
        map.verified()?;
        Ok(read!(map, m => m.serialized_size(items(start, count))?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_serialize_part(map: Const<Map>, start: u64, count: u64, buffer: Buffer, size: usize) -> c_int {
    map.call(|map| {
        let range = items(start, count);
        // Asked first: a buffer of another size is left as it is.
        let expected = read!(map, m => m.serialized_size(range.clone())?);
        if expected != size as u64 {
            return Err(dirtymap::Error::ChunkSize { expected, found: size as u64 }.into());
        }
        map.verified()?;
        read!(map, m => Ok(m.serialize_part(range, buffer.get(size)?)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_load_part(
    map: Map,
    start: u64,
    count: u64,
    bytes: Array<u8>,
    size: usize,
    changed: Out<u64>,
) -> c_int {
    map.answer(changed, |map| {
        let (range, bytes) = (items(start, count), bytes.get(size, "the bytes")?);
        Ok(change!(map, m => m.load_part(range, bytes)?))
    })
}

impl Handle {
    fn begin_load(&mut self) -> Result<()> {
        let shape = self.geometry()?;
        self.become_another(|kind| match kind {
            Kind::Memory(map) => Ok(Kind::LoadingMemory(shape, map.into_inner().begin_load())),
            Kind::File(map) => Ok(Kind::LoadingFile(shape, Kind::alone(map)?.begin_load().map_err(Kind::given_back)?)),
            other => Err(other.stays(Kind::fixed)),
        })
    }

    fn finish_load(&mut self) -> Result<()> {
        self.become_another(|kind| match kind {
            Kind::LoadingMemory(_, loading) => Ok(Kind::memory(loading.finish())),
            Kind::LoadingFile(_, loading) => Ok(Kind::file(loading.finish().map_err(Kind::given_back)?)),
            other => Err(other.stays(|_| NOT_LOADING)),
        })
    }
}

const NOT_LOADING: Failure = Failure::Kind("it is not being loaded; begin that first");

/// Runs an expression with the loading of either kind.
macro_rules! loading {
    ($map:expr, $loading:ident => $run:expr) => {
        $map.call_alone(|map| match map.kind_mut() {
            Kind::LoadingMemory(_, $loading) => Ok($run),
            Kind::LoadingFile(_, $loading) => Ok($run),
            _ => Err(NOT_LOADING),
        })
    };
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_load_begin(map: Map) -> c_int {
    map.call_alone(Handle::begin_load)
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_load_chunk(map: Map, start: u64, count: u64, bytes: Array<u8>, size: usize) -> c_int {
    loading!(map, loading => loading.part(items(start, count), bytes.get(size, "the bytes")?)?)
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_load_zeroes(map: Map, start: u64, count: u64) -> c_int {
    loading!(map, loading => loading.zeroes(items(start, count))?)
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_load_ones(map: Map, start: u64, count: u64) -> c_int {
    loading!(map, loading => loading.ones(items(start, count))?)
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_load_finish(map: Map) -> c_int {
    map.call_alone(Handle::finish_load)
}
