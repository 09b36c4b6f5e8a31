//! Files beside the map: images and targets, what they lie on, new files, and standard input.

mod image;
pub mod publish;
pub mod stdin;
pub mod storage;

pub use image::{Image, PIECE, distinct, pieces, same, sync_directory_of};
