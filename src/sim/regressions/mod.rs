//! Steps that chance hardly misses, one by one: each test goes wrong without a step of the protocol, and says which in the
//! table of `mutants.rs`.
//!
//! Invariant kept here: nothing waits for a clock. Who acts in between does so at a [`SyncPoint`], inside a durable write, or
//! where a call fails.

mod checkpoint;
mod intent;
mod open;
mod set;
mod share;

use crate::engine::commit::Failure;
use crate::error::Error;
use crate::file::pages;
use crate::format::Durability;
use crate::format::{ALIGN, Reasons, Stamp, StampKind};
use crate::image_stamp::ImageStamp;
use crate::options::Access;
use crate::options::{Bounds, IntentBound};
use crate::session::join::join;
use crate::session::load::{Loaded, load_in_memory};
use crate::session::locks;
use crate::session::recovery::Recovery;
use crate::sim::processes::{two_of, two_on};
use crate::sim::*;
use crate::sys::{FileDisk, WriteSegment};
use crate::{DirtyMap, Result};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;

pub(super) use checkpoint::*;
pub(super) use intent::*;
pub(super) use open::*;
pub(super) use set::*;
pub(super) use share::*;

type Opened = (Core, Recovery);

fn opened_with(disk: &SimDisk, options: &Options) -> Result<Opened> {
    open_alone(disk.shared(), path(), options, 0)
}

fn opened(disk: &SimDisk) -> Core {
    opened_with(disk, &options()).unwrap().0
}

/// What a point holds counts for nothing else.
fn opened_without_intent(disk: &SimDisk) -> Core {
    opened_with(disk, &options().intent_bound(IntentBound::None)).unwrap().0
}

fn keep(core: &Core, name: &str) {
    let uuid = core.freeze(Some(name), Duration::ZERO).unwrap().uuid;
    core.commit_checkpoint(&uuid, true).unwrap();
}

/// A point is kept, and was frozen before this bit was set, which was backed up since.
fn map_with_a_point_before(bit: u64) -> (Arc<SimDisk>, Core) {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened_without_intent(&disk);
    keep(&core, "a");
    core.set_bits(bit..bit + 1).unwrap();
    let uuid = core.freeze(None, Duration::ZERO).unwrap().uuid;
    core.commit_checkpoint(&uuid, false).unwrap();
    (disk, core)
}

fn process_map() -> (Arc<SimDisk>, Core) {
    let disk = SimDisk::new(fresh_of(Durability::Process), Vec::new());
    let core = opened(&disk);
    (disk, core)
}

/// What a new boot of the machine makes of a disk.
fn after_a_cut(disk: &SimDisk) -> Loaded {
    load_in_memory(SimDisk::new(disk.device(), Vec::new()).file(), None).unwrap()
}

fn header_on(disk: &SimDisk) -> Header {
    headers::newest(disk.file()).unwrap().header
}

fn close(core: &Core) -> bool {
    core.close(image::Image::AsBefore).unwrap()
}

/// Does something once, at a point.
fn once_at(point: SyncPoint, f: impl FnOnce() + 'static) {
    let mut f = Some(f);
    testing::visit(Some(Box::new(move |at| {
        if let Some(f) = f.take_if(|_| at == point) {
            f();
        }
    })));
}

/// Who is killed at a point of what he does.
fn killed_at(dies_at: SyncPoint, f: impl FnOnce()) {
    testing::visit(Some(Box::new(move |point| {
        if point == dies_at {
            resume_unwind(Box::new("killed"));
        }
    })));
    let killed = catch_unwind(AssertUnwindSafe(f));
    testing::visit(None);
    assert!(killed.is_err());
}
