//! Saving a map in chunks, and loading it.
//!
//! Invariant kept here: a map that is being loaded is not read: its handle has no map to read then.

use crate::failure::{Failure, Result};
use crate::ffi::{Array, Buffer, Map, Out};
use crate::handle::{Handle, Kind, change, read};
use crate::write::items;
use dirtymap::ReadMap;
use std::ffi::c_int;
use std::mem::replace;
use std::sync::Arc;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_serialization_align(map: Map, align: Out<u64>) -> c_int {
    map.call(|map| {
        map.verified()?;
        align.put(map.geometry()?.serialization_align()?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_serialized_size(map: Map, start: u64, count: u64, size: Out<u64>) -> c_int {
    map.call(|map| {
        map.verified()?;
        size.put(read!(map, m => m.serialized_size(items(start, count))?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_serialize_part(map: Map, start: u64, count: u64, buffer: Buffer, size: usize) -> c_int {
    map.call(|map| {
        let range = items(start, count);
        // Asked first: a buffer of another size is left as it is.
        let expected = read!(map, m => m.serialized_size(range.clone())?);
        if expected != size as u64 {
            return Err(dirtymap::Error::ChunkSize { expected, found: size as u64 }.into());
        }
        map.verified()?;
        read!(map, m => m.serialize_part(range, buffer.get(size)?)?);
        Ok(())
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
    map.call(|map| {
        let (range, bytes) = (items(start, count), bytes.get(size, "the bytes")?);
        changed.put(change!(map, m => m.load_part(range, bytes)?));
        Ok(())
    })
}

impl Handle {
    fn begin_load(&mut self) -> Result<()> {
        let shape = self.geometry()?;
        match replace(self.kind_mut(), Kind::Gone) {
            Kind::Memory(map) => *self.kind_mut() = Kind::LoadingMemory(shape, map.into_inner().begin_load()),
            Kind::File(map) => match Arc::try_unwrap(map).map(|map| map.begin_load()) {
                Ok(Ok(loading)) => *self.kind_mut() = Kind::LoadingFile(shape, loading),
                Ok(Err(failed)) => return self.failed(failed),
                Err(map) => {
                    *self.kind_mut() = Kind::File(map);
                    return Err(Failure::InUse);
                }
            },
            other => {
                *self.kind_mut() = other;
                return Err(self.kind().fixed());
            }
        }
        Ok(())
    }

    /// Has the map again that could not be closed or loaded.
    pub(crate) fn failed(&mut self, failed: dirtymap::CloseError) -> Result<()> {
        let failure = Failure::said(failed.error());
        *self.kind_mut() = Kind::file(failed.into_map());
        Err(failure)
    }

    fn finish_load(&mut self) -> Result<()> {
        match replace(self.kind_mut(), Kind::Gone) {
            Kind::LoadingMemory(_, loading) => *self.kind_mut() = Kind::memory(loading.finish()),
            Kind::LoadingFile(_, loading) => match loading.finish() {
                Ok(map) => *self.kind_mut() = Kind::file(map),
                Err(failed) => return self.failed(failed),
            },
            other => {
                *self.kind_mut() = other;
                return Err(NOT_LOADING);
            }
        }
        Ok(())
    }
}

const NOT_LOADING: Failure = Failure::Kind("it is not being loaded; begin that first");

/// Runs an expression with the loading of either kind.
macro_rules! loading {
    ($map:expr, $loading:ident => $run:expr) => {
        match $map.kind_mut() {
            Kind::LoadingMemory(_, $loading) => $run,
            Kind::LoadingFile(_, $loading) => $run,
            _ => return Err(NOT_LOADING),
        }
    };
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_load_begin(map: Map) -> c_int {
    map.call_alone(|map| map.begin_load())
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_load_chunk(map: Map, start: u64, count: u64, bytes: Array<u8>, size: usize) -> c_int {
    map.call_alone(|map| {
        let (range, bytes) = (items(start, count), bytes.get(size, "the bytes")?);
        loading!(map, loading => loading.part(range, bytes)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_load_zeroes(map: Map, start: u64, count: u64) -> c_int {
    map.call_alone(|map| {
        loading!(map, loading => loading.zeroes(items(start, count))?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_load_ones(map: Map, start: u64, count: u64) -> c_int {
    map.call_alone(|map| {
        loading!(map, loading => loading.ones(items(start, count))?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_load_finish(map: Map) -> c_int {
    map.call_alone(|map| map.finish_load())
}
