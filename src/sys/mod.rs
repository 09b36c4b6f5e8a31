//! The only door to the operating system, and the only place with unsafe code.

pub(crate) mod alloc;
