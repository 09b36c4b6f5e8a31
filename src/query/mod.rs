//! Reading any kind of map in items.

mod back;
mod cursor;
mod iter;
mod read;
mod round;
mod search;
#[cfg(test)]
mod tests;

pub use cursor::Cursor;
pub use iter::{Extents, Granules, WordsIter};
pub use read::{ReadMap, WriteMap};
pub(crate) use read::{Sealed, items_of_granules, loadable};
pub(crate) use round::{Rounded, coarsened};
pub(crate) use search::{Blocks, Search, first_block};
