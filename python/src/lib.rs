//! dirtymap for Python: `python/dirtymap/__init__.pyi` says what there is. Here each is translated to a call of the library.
//!
//! Invariant kept here: the interpreter's lock is let go of while the library works, and no lock of ours is waited for while it
//! is held.

mod arguments;
mod call;
mod checkpoint;
mod error;
mod file;
mod fsck;
mod held;
mod info;
mod map;
mod memory;
mod options;

use pyo3::prelude::*;

#[pymodule]
mod _dirtymap {
    #[pymodule_export]
    use super::checkpoint::{Checkpoint, Write};
    #[pymodule_export]
    use super::error::Error;
    #[pymodule_export]
    use super::file::DirtyMap;
    #[pymodule_export]
    use super::fsck::{check, plan_repair, repair, undo_repair};
    #[pymodule_export]
    use super::info::inspect;
    #[pymodule_export]
    use super::map::{DirtySet, Extents, Map};
    #[pymodule_export]
    use super::memory::Bitmap;
}
