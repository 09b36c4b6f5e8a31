//! dirtymap for C. `dirtymap.h` says what each function does; here each is translated to a call of the library.
//!
//! Invariants kept here: no panic crosses to C; every function that can fail returns a code, and leaves what it says in the
//! calling thread; what C hands over is touched in `ffi.rs` only, which has all unsafe code of this crate.

mod backup;
mod changes;
mod checkpoint;
mod combine;
mod cursor;
mod events;
mod failure;
mod ffi;
mod fsck;
mod handle;
mod in_flight;
mod info;
mod lifecycle;
mod options;
mod points;
mod queue;
mod read;
mod serialize;
mod write;

#[doc(hidden)]
pub mod layout;
