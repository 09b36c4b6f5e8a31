//! What a map is, and how it is held for as long as it is used.
//!
//! Invariant kept here: the lock of a place is never held while anything is done with the map.

use crate::error::Result;
use crate::options::Told;
use dirtymap::checkpoint::PointSet;
use dirtymap::{Bitmap, DirtyMap, ReadMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What a map is.
pub(crate) enum Kind {
    /// In a file.
    File(Mutex<Place>, Told),
    Memory(RwLock<Bitmap>),
    Set(Arc<PointSet>),
}

/// Where the map in a file is. Its lock is not held while anything is done with the map: a fork would leave it locked in the child.
pub(crate) enum Place {
    Open(Arc<DirtyMap>),
    /// With a thread that closes it or changes its length.
    Taken,
    Closed,
}

impl Place {
    pub(crate) fn new(map: DirtyMap) -> Place {
        Place::Open(Arc::new(map))
    }
}

pub(crate) fn read_lock(map: &RwLock<Bitmap>) -> RwLockReadGuard<'_, Bitmap> {
    map.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write_lock(map: &RwLock<Bitmap>) -> RwLockWriteGuard<'_, Bitmap> {
    map.write().unwrap_or_else(PoisonError::into_inner)
}

/// A map that is held for as long as it is used.
pub(crate) enum Held<'a> {
    File(Arc<DirtyMap>),
    Memory(RwLockReadGuard<'a, Bitmap>),
    Set(&'a PointSet),
}

impl Held<'_> {
    pub(crate) fn get(&self) -> &dyn ReadMap {
        match self {
            Held::File(map) => &**map,
            Held::Memory(map) => &**map,
            Held::Set(set) => *set,
        }
    }

    /// Whether answers can be relied on; asked after what cannot say so itself.
    pub(crate) fn verified(&self) -> Result<()> {
        match self {
            Held::File(map) => Ok(map.verify_session()?),
            _ => Ok(()),
        }
    }
}

/// Runs an expression with a held map as what it is.
macro_rules! with {
    ($held:expr, $map:ident => $run:expr) => {
        match $held {
            Held::File(map) => {
                let $map: &DirtyMap = map;
                $run
            }
            Held::Memory(map) => {
                let $map: &Bitmap = map;
                $run
            }
            Held::Set(map) => {
                let $map: &PointSet = map;
                $run
            }
        }
    };
}

pub(crate) use with;
