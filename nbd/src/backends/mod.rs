//! Storage that comes with the crate.

mod direct;
mod file;
mod memory;

pub use file::FileBackend;
pub use memory::MemoryBackend;
