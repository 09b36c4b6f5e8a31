//! The only door to the operating system, and the only place with `unsafe`.
//!
//! Invariant kept here: nothing in this module knows what the bytes mean. Whoever imports it gets
//! durable writes, mappings, locks and file os, and can be run over a simulated disk instead.

#![allow(unsafe_code)]

pub(crate) mod alloc;
pub(crate) mod cpu;
pub(crate) mod create;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod fs;
pub(crate) mod holder;
pub(crate) mod image;
mod lock;
pub(crate) mod mapping;
pub(crate) mod memory;
pub(crate) mod os;
mod permit;
#[cfg(test)]
pub(crate) mod refuse;
pub(crate) mod signals;
pub(crate) mod storage;

pub(crate) use file::FileDisk;
pub(crate) use lock::Lock;
#[cfg_attr(loom, allow(unused_imports))] // a view has words of its own then
pub(crate) use mapping::{MappedWords, Mapping, ReadMapping, ReadWords};
pub(crate) use os::Identity;
pub(crate) use permit::Permit;
pub(crate) use storage::{Storage, WriteSegment};
