//! Files beside the map: images and targets, what they lie on, new files, and standard input.

mod behind;
mod content;
pub mod durable;
mod image;
mod locks;
pub mod publish;
pub mod stdin;
pub mod storage;

pub use behind::WriteBehind;
pub use content::Content;
pub use image::{Image, PIECE, directory_of, distinct, file_system, is_zero, permit_like, pieces, same};
