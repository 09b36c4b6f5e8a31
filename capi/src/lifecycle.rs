//! Making, opening and leaving maps.
//!
//! Invariant kept here: after an error of a close the handle is as it was; after a success it is gone.

use crate::combine::NewMap;
use crate::failure::{Failure, Result, keep_panics};
use crate::ffi::{Map, Opaque, Out, Text, call};
use crate::handle::{Handle, Kind};
use crate::options::{given, stamp};
use dirtymap::{Bitmap, CloseError, DirtyMap, NewFile, Options};
use std::ffi::c_int;
use std::mem::replace;
use std::ptr::NonNull;
use std::sync::Arc;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_new(len: u64, granule: u64, made: NewMap) -> c_int {
    keep_panics();
    call(|| {
        let made = made.wanted("the place for a map")?;
        if !granule.is_power_of_two() {
            return Err(dirtymap::Error::Granule { items: granule }.into());
        }
        made.put_handle(Kind::memory(Bitmap::new(len, granule.trailing_zeros())?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_create(path: Text, len: u64, options: Opaque<Options>, made: NewMap) -> c_int {
    keep_panics();
    call(|| {
        let made = made.wanted("the place for a map")?;
        made.put_handle(Kind::file(given(options)?.create(path.path()?, len)?));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_create_closed(path: Text, len: u64, options: Opaque<Options>) -> c_int {
    keep_panics();
    call(|| Ok(given(options)?.create_closed(path.path()?, len)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_create_unpublished(
    path: Text,
    len: u64,
    options: Opaque<Options>,
    made: NewMap,
    file: Out<Option<NonNull<NewFile>>>,
) -> c_int {
    keep_panics();
    call(|| {
        let (made, file) = (made.wanted("the place for a map")?, file.wanted("the place for a file")?);
        let (map, new) = given(options)?.create_unpublished(path.path()?, len)?;
        made.put_handle(Kind::file(map));
        file.put_box(new);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_publish(file: Opaque<NewFile>) -> c_int {
    call(|| Ok(file.take().ok_or(Failure::Null("the file"))?.publish()?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_discard(file: Opaque<NewFile>) {
    call(|| {
        drop(file.take());
        Ok(())
    });
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_open(path: Text, options: Opaque<Options>, made: NewMap) -> c_int {
    keep_panics();
    call(|| {
        let made = made.wanted("the place for a map")?;
        made.put_handle(Kind::file(given(options)?.open(path.path()?)?));
        Ok(())
    })
}

impl Handle {
    fn close(&mut self, close: impl FnOnce(DirtyMap) -> std::result::Result<(), CloseError>) -> Result<()> {
        match replace(self.kind_mut(), Kind::Gone) {
            Kind::File(map) => match Arc::try_unwrap(map).map(close) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(failed)) => self.failed(failed),
                Err(map) => {
                    *self.kind_mut() = Kind::File(map);
                    Err(Failure::InUse)
                }
            },
            other @ (Kind::Memory(_) | Kind::Set(_)) => {
                drop(other);
                Ok(())
            }
            other => {
                *self.kind_mut() = other;
                Err(self.kind().not("it is not open"))
            }
        }
    }
}

/// Closes it; the handle is gone if that succeeds.
fn close(map: Map, close: impl FnOnce(DirtyMap) -> std::result::Result<(), CloseError>) -> c_int {
    let closed = map.call_alone(|map| map.close(close));
    if closed == 0 {
        map.free();
    }
    closed
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_close(map: Map) -> c_int {
    close(map, DirtyMap::close)
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_close_with_image(map: Map, image: c_int) -> c_int {
    // Before anything is given up: a wrong descriptor leaves the map open.
    let mut now = None;
    let stamped = call(|| {
        now = Some(stamp(image)?);
        Ok(())
    });
    match now {
        Some(now) => close(map, |map| map.close_with_image(&now)),
        None => stamped,
    }
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_free(map: Map) {
    call(|| {
        map.free();
        Ok(())
    });
}
