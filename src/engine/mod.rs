//! An open map as all threads and processes share it.

pub(crate) mod added;
pub(crate) mod arm;
pub(crate) mod checkpoint;
pub(crate) mod core;
pub(crate) mod flush;
pub(crate) mod frozen;
pub(crate) mod in_flight;
pub(crate) mod points;
pub(crate) mod reset;
pub(crate) mod resize;

pub use in_flight::WriteGuard;
