//! The handle of a map, of whichever kind.
//!
//! Invariant kept here: after a panic within a call of a handle every call of it fails but that which frees it.

use crate::failure::{Failure, Result};
use crate::ffi::OneWriter;
use dirtymap::checkpoint::PointSet;
use dirtymap::serialize::{Loading, MapLoading};
use dirtymap::{Bitmap, CloseError, DirtyMap, Error, Geometry, ReadMap};
use std::mem::replace;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::Relaxed};

/// `dirtymap_t`.
pub struct Handle {
    /// The map in a file, as long as the handle is one of such a map and sound; else null.
    quick: AtomicPtr<DirtyMap>,
    poisoned: AtomicBool,
    kind: Kind,
}

/// What a handle stands for.
pub(crate) enum Kind {
    /// A map in a file.
    File(Arc<DirtyMap>),
    /// A map in memory.
    Memory(OneWriter<Bitmap>),
    /// A set that stays as it is.
    Set(Arc<PointSet>),
    /// A map in memory that is being loaded.
    LoadingMemory(Geometry, Loading),
    /// A map in a file that is being loaded.
    LoadingFile(Geometry, MapLoading),
    /// Given to somebody who has not given it back.
    Gone,
}

/// What could not become another kind, and why.
pub(crate) type Stays = Box<(Kind, Failure)>;

impl Kind {
    pub(crate) fn memory(map: Bitmap) -> Kind {
        Kind::Memory(OneWriter::new(map))
    }

    pub(crate) fn file(map: DirtyMap) -> Kind {
        Kind::File(Arc::new(map))
    }

    /// It stays what it is, for a reason that it has itself.
    pub(crate) fn stays(self, why: impl FnOnce(&Kind) -> Failure) -> Stays {
        let why = why(&self);
        Box::new((self, why))
    }

    /// The map of a file that nothing else has a part in.
    pub(crate) fn alone(map: Arc<DirtyMap>) -> std::result::Result<DirtyMap, Stays> {
        Arc::try_unwrap(map).map_err(|map| Kind::File(map).stays(|_| Failure::InUse))
    }

    /// The map that could not be closed or loaded.
    pub(crate) fn given_back(failed: CloseError) -> Stays {
        let why = Failure::from(failed.error());
        Kind::file(failed.into_map()).stays(|_| why)
    }
}

impl Handle {
    pub(crate) fn new(kind: Kind) -> Handle {
        let mut handle = Handle { quick: AtomicPtr::default(), poisoned: AtomicBool::new(false), kind };
        handle.find_quick();
        handle
    }

    /// What the handle stands for.
    #[inline(always)]
    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The same for a call that is alone, and has `find_quick` called afterwards.
    pub(crate) fn kind_mut(&mut self) -> &mut Kind {
        *self.quick.get_mut() = null_mut();
        &mut self.kind
    }

    /// Has it stand for something else that is made of what it stands for; as before, after an error.
    pub(crate) fn become_another(&mut self, make: impl FnOnce(Kind) -> std::result::Result<Kind, Stays>) -> Result<()> {
        let made = make(replace(self.kind_mut(), Kind::Gone));
        let (kind, done) = made.map_or_else(|stays| (stays.0, Err(stays.1)), |kind| (kind, Ok(())));
        self.kind = kind;
        done
    }

    pub(crate) fn find_quick(&mut self) {
        *self.quick.get_mut() = match &self.kind {
            Kind::File(map) if self.is_sound() => Arc::as_ptr(map).cast_mut(),
            _ => null_mut(),
        };
    }

    /// A map in a file, for a call that is to look at as little as can be.
    #[inline(always)]
    pub(crate) fn quick(&self) -> *const DirtyMap {
        self.quick.load(Relaxed)
    }

    #[inline(always)]
    pub(crate) fn is_sound(&self) -> bool {
        !self.poisoned.load(Relaxed)
    }

    pub(crate) fn poison(&self) {
        self.quick.store(null_mut(), Relaxed);
        self.poisoned.store(true, Relaxed);
    }

    /// The map in a file.
    #[inline(always)]
    pub(crate) fn file(&self) -> Result<&Arc<DirtyMap>> {
        match &self.kind {
            Kind::File(map) => Ok(map),
            other => Err(other.not("it is not a map in a file")),
        }
    }

    /// The map in memory.
    pub(crate) fn memory(&self) -> Result<&OneWriter<Bitmap>> {
        match &self.kind {
            Kind::Memory(map) => Ok(map),
            other => Err(other.not("it is not a map in memory")),
        }
    }

    /// Shape, also while it is being loaded.
    pub(crate) fn geometry(&self) -> Result<Geometry> {
        Ok(match &self.kind {
            Kind::File(map) => *map.geometry(),
            Kind::Memory(map) => *map.read().geometry(),
            Kind::Set(set) => *geometry(&**set),
            Kind::LoadingMemory(geometry, _) | Kind::LoadingFile(geometry, _) => *geometry,
            Kind::Gone => return Err(Failure::Poisoned),
        })
    }
}

/// The shape of any map.
fn geometry(map: &impl ReadMap) -> &Geometry {
    map.geometry()
}

impl Kind {
    /// Why a map of this kind does not do what others do.
    #[cold]
    pub(crate) fn not(&self, what: &'static str) -> Failure {
        match self {
            Kind::LoadingMemory(..) | Kind::LoadingFile(..) => Failure::Loading,
            Kind::Gone => Failure::Poisoned,
            Kind::File(_) | Kind::Memory(_) | Kind::Set(_) => Failure::Kind(what),
        }
    }

    /// Why this cannot be changed.
    #[cold]
    pub(crate) fn fixed(&self) -> Failure {
        match self {
            Kind::Set(_) => Error::ReadOnly.into(),
            other => other.not("it cannot be changed"),
        }
    }
}

/// Runs an expression with whatever map it is that can be read.
macro_rules! read {
    ($handle:expr, $map:ident => $run:expr) => {
        match $handle.kind() {
            $crate::handle::Kind::File(map) => {
                let $map = &**map;
                $run
            }
            $crate::handle::Kind::Memory(map) => {
                let $map = map.read();
                $run
            }
            $crate::handle::Kind::Set(map) => {
                let $map = &**map;
                $run
            }
            other => return Err(other.not("it cannot be read")),
        }
    };
}

/// Runs an expression with whatever map it is that can be changed.
macro_rules! change {
    ($handle:expr, $map:ident => $run:expr) => {
        match $handle.kind() {
            $crate::handle::Kind::File(map) => {
                let $map = &mut &**map;
                $run
            }
            $crate::handle::Kind::Memory(map) => {
                let $map = map.write();
                $run
            }
            other => return Err(other.fixed()),
        }
    };
}

pub(crate) use {change, read};
