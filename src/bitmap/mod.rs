//! `Bitmap`: the complete dirty bitmap in memory.

mod changes;
mod combine;
mod core;
mod load;
mod read;
mod resize;
mod traits;
mod write;

pub use self::core::Bitmap;
pub(crate) use self::core::Changes;
pub(crate) use combine::{check_len, check_shape, difference, intersection};
pub use load::Loading;
