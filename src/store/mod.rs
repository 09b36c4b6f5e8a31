//! Tests of the whole: the simulated disk, and loom.

#[cfg(loom)]
mod loom_tests;
pub(crate) mod sim;
mod sim_tests;
