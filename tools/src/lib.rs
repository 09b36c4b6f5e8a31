//! What the `dirtymap` command is made of that is useful, or can be tested, without it.

pub mod bits;
pub mod dump;
pub mod qcow2;
pub mod set_json;
pub mod shown;
