//! Reading any kind of map in items.

mod iter;
mod read;
mod round;
mod search;
#[cfg(test)]
mod tests;

pub use iter::{Areas, Granules, WordsIter};
pub use read::AnyMap;
pub(crate) use read::{items_of_granules, loadable};
pub(crate) use round::{Rounded, coarsened};
pub(crate) use search::{Search, first_block};
