//! Words, and the levels of summaries above them.

mod bulk;
mod kernels;
mod levels;
#[cfg(test)]
mod tests;
mod walk;
mod words;
#[cfg(test)]
mod work;

pub(crate) use levels::words_touched;
pub use levels::{Block, Levels};
pub use walk::Walk;
#[cfg(test)]
pub(crate) use words::counted;
pub(crate) use words::{AtomicU64, Shared, Words, WordsMut, store_unseen};
