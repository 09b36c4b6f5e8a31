//! A persistent, memory-mapped, hierarchical dirty bitmap for disk images.

mod error;
pub mod format;
#[allow(dead_code, reason = "its users come with the next commits")]
mod geometry;
#[allow(dead_code, reason = "its users come with the next commits")]
mod words;

pub use error::{Error, Result};
pub use geometry::{Geometry, LEVELS, MAX_BITS, MAX_GRANULARITY, MAX_LEN};
