//! The disk in a qcow2 file: written front to back, and read through a chain of backing files.
//!
//! Invariants kept here: whatever the bytes, reading ends in what the file says or an error, and takes the memory of one piece
//! of a table for each file of a chain. No file is opened by a name that stands in another one: who opens a chain says what
//! belongs to it.

mod chain;
mod dense;
mod disk;
mod write;

pub use chain::Chain;
pub use dense::{Counted, Left, check};
pub use disk::{Disk, Extent};
pub use write::{Shape, Writer};

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]
mod tests;
