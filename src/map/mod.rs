//! A map in a file as the user calls it.
//!
//! Invariant kept here: no other folder touches the fields of [`DirtyMap`].

pub(crate) mod backup;
mod begin;
mod changes;
mod checkpoint;
mod close;
mod combine;
mod dirty_map;
mod info;
mod load;
mod open;
pub(crate) mod points;
mod read;
pub(crate) mod resize;
mod write;

pub use backup::BackupClaim;
pub use begin::{BeginWrite, OwnedWriteGuard};
pub use close::CloseError;
pub use dirty_map::DirtyMap;
pub use info::{FileState, Info, Stats, Verdict, inspect};
pub use load::MapLoading;
