//! A persistent, memory-mapped, hierarchical dirty bitmap for disk images.

mod bitmap;
mod error;
pub mod format;
#[allow(dead_code, reason = "its users come with the next commits")]
mod geometry;
mod iter;
#[allow(dead_code, reason = "the store uses what the bitmap does not")]
mod levels;
mod read;
#[allow(dead_code, unused_imports, reason = "its users come with the next commits")]
mod sys;
#[allow(dead_code, reason = "its users come with the next commits")]
mod words;

pub use bitmap::Bitmap;
pub use error::{Error, Result};
pub use geometry::{Geometry, LEVELS, MAX_BITS, MAX_GRANULARITY, MAX_LEN};
pub use iter::{Areas, Granules, WordsIter};
