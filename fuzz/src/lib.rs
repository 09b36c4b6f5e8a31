//! What is fuzzed: for each target a function of any bytes, which panics when something does not hold.
//!
//! `fuzz_targets/` gives them to the fuzzer. The tests of the command include this file as a module
//! (tools/tests/fuzz_seeds.rs) and give every seed to its target, without a fuzzer and without a nightly.

pub mod bitmap_ops;
pub mod check_repair;
pub mod dump;
mod file;
pub mod header;
mod input;
pub mod map_ops;
pub mod member;
pub mod nbd;
pub mod open;
pub mod page_table;
pub mod qcow2;
pub mod set_json;

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 11] = [
    ("bitmap_ops", bitmap_ops::run),
    ("check_repair", check_repair::run),
    ("dump", dump::run),
    ("header", header::run),
    ("map_ops", map_ops::run),
    ("member", member::run),
    ("nbd", nbd::run),
    ("open", open::run),
    ("page_table", page_table::run),
    ("qcow2", qcow2::run),
    ("set_json", set_json::run),
];
