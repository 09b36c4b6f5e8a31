//! Making, opening and leaving maps.
//!
//! Invariant kept here: after an error of a close the handle is as it was; after a success it is gone.

use crate::failure::{Failure, Result};
use crate::ffi::{Const, Map, New, NewMap, Opaque, Text, call, first_call};
use crate::handle::{Handle, Kind};
use crate::options::{Options, given, stamp};
use dirtymap::{Bitmap, CloseError, DirtyMap, NewFile};
use std::ffi::c_int;

#[unsafe(no_mangle)]
extern "C" fn dirtymap_new(len: u64, granule: u64, map: NewMap) -> c_int {
    first_call(|| {
        map.make(|| match granule.is_power_of_two() {
            true => Ok(Kind::memory(Bitmap::new(len, granule.trailing_zeros())?)),
            false => Err(dirtymap::Error::Granule { items: granule }.into()),
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_create(path: Text, len: u64, options: Const<Opaque<Options>>, map: NewMap) -> c_int {
    first_call(|| map.make(|| Ok(Kind::file(given(options)?.create(path.path()?, len)?))))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_create_closed(path: Text, len: u64, options: Const<Opaque<Options>>) -> c_int {
    first_call(|| Ok(given(options)?.create_closed(path.path()?, len)?))
}

#[unsafe(no_mangle)]
extern "C" fn dirtymap_create_unpublished(
    path: Text,
    len: u64,
    options: Const<Opaque<Options>>,
    map: NewMap,
    file: New<NewFile>,
) -> c_int {
    first_call(|| {
        map.make(|| {
            let file = file.wanted("the place for a file")?;
            let (map, new) = given(options)?.create_unpublished(path.path()?, len)?;
            file.put_box(new);
            Ok(Kind::file(map))
        })
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
extern "C" fn dirtymap_open(path: Text, options: Const<Opaque<Options>>, map: NewMap) -> c_int {
    first_call(|| map.make(|| Ok(Kind::file(given(options)?.open(path.path()?)?))))
}

impl Handle {
    fn close(&mut self, close: impl FnOnce(DirtyMap) -> std::result::Result<(), CloseError>) -> Result<()> {
        self.become_another(|kind| match kind {
            Kind::File(map) => close(Kind::alone(map)?).map_err(Kind::given_back).map(|()| Kind::Gone),
            Kind::Memory(_) | Kind::Set(_) => Ok(Kind::Gone),
            other => Err(other.stays(|other| other.not("it is not open"))),
        })
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
