//! An open map as all threads and processes share it.
//!
//! Invariant kept here: no other folder touches the fields of [`Core`](core::Core).

pub(crate) mod background;
pub(crate) mod backup;
pub(crate) mod bulk;
pub(crate) mod changes;
pub(crate) mod checkpoint;
pub(crate) mod close;
pub(crate) mod commit;
pub(crate) mod core;
pub(crate) mod dirt_reasons;
pub(crate) mod flush;
pub(crate) mod image;
pub(crate) mod in_flight;
pub(crate) mod intent;
pub(crate) mod intent_set;
mod lately;
pub(crate) mod point_set;
pub(crate) mod points;
pub(crate) mod read;
pub(crate) mod reset;
pub(crate) mod resize;
pub(crate) mod round;
pub(crate) mod set;
pub(crate) mod space;

pub use in_flight::WriteGuard;
