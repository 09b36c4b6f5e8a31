//! Crashes, kills and failing writes at every durable write of random runs, over the simulated disk.
//!
//! A run is a list of operations made from a seed. It is first run undisturbed, to count its durable writes,
//! and then again for every one of them with something going wrong in it. What is owed (set, and not reset since)
//! is kept outside the map. Oracle, after every crash and recovery: all that is owed is dirty; what is dirty beyond
//! what was ever set is named by the armed list, or was reset and not flushed, or lies in a page that did not verify;
//! a file that says CLEAN is exact; recovering again changes nothing.

mod bytes;
mod checks;
pub(crate) mod content;
mod cycles;
pub(crate) mod disk;
mod mutants;
mod oracle;
mod processes;
mod programs;
mod regressions;
mod repairs;
mod runner;
mod scenarios;
mod states;
#[cfg(loom)]
mod threads;
mod verdicts;

use crate::engine::commit::Failure;
use crate::engine::core::Core;
use crate::engine::intent_set::IntentSet;
use crate::engine::point_set::{Dirt, PointSet, UnionView};
use crate::engine::{checkpoint, image};
use crate::file::bottom::{BottomRef, named};
use crate::file::headers::{self, Newest};
use crate::file::scan::{Page, Scan};
use crate::file::{create, reasons};
use crate::format::{self, CheckpointState, Durability, Header, PointRole, State};
use crate::fsck::check;
use crate::geometry::{Geometry, PAGE_BITS, PAGE_BYTES};
use crate::map::{points, resize};
use crate::options::Options;
use crate::query::Search;
use crate::session::load::{Loaded, load_in_memory};
use crate::session::open::open_alone;
use crate::shm::runtime;
use crate::shm::view::{Look, flag};
use crate::sys::{Storage, WriteSegment};
use crate::testing::{self, Mutant, SyncPoint};
use checks::*;
use content::{Call, Fault, Image, Pick, Rng, SECTOR, Trouble};
use disk::SimDisk;
use oracle::*;
use programs::{Op, Programs, name_of, program, report, smallest, tree, verdict};
use proptest::strategy::ValueTree;
use runner::*;
use scenarios::*;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// Three pages and a bit, one item per granule: the length that a map starts with.
const BITS: u64 = 3 * PAGE_BITS + 100;
/// The largest length that it gets.
const MOST: u64 = 4 * PAGE_BITS + 50;

fn path() -> &'static Path {
    Path::new("simulated")
}

fn options() -> Options {
    // Room for six words, and an eighth of that ahead: lists fill up and are flushed for room within a run.
    Options { flush_interval: None, armed_bound: Some(24 * 64), ..Options::new() }
}

fn geometry(len: u64) -> Geometry {
    Geometry::new(len, 0).unwrap()
}

/// A new map.
fn fresh() -> Image {
    fresh_of(Durability::PowerLoss)
}

fn fresh_of(durability: Durability) -> Image {
    let disk = SimDisk::new(Image::default(), Vec::new());
    create::write_new(disk.file(), geometry(BITS), &Options { granularity: 0, durability, ..options() }).unwrap();
    disk.device()
}
