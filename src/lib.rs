//! A persistent, memory-mapped, hierarchical dirty bitmap for disk images that survives any crash.
//!
//! A [`DirtyMap`] is one file beside a disk image. It records which blocks of the image were written, and keeps
//! one promise:
//!
//! > **Coverage.** Once [`DirtyMap::set`] has returned `Ok`, every granule of the range reads dirty after any
//! > crash and any recovery, until someone resets it. Recovery may add dirt, within a stated bound. It never
//! > loses any.
//!
//! So a tracker sets first and writes its data then. That costs a device sync when a region turns hot, and
//! one load while it stays hot.
//!
//! ```
//! use dirtymap::{DirtyMap, Options};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("disk.map");
//! // A map for an image of 10 GiB, one bit per 64 KiB.
//! let map = Options::new().granularity(16).create(&path, 10 << 30)?;
//! map.set(4096..8192)?; // first this,
//! // ... and then write bytes 4096..8192 of the image.
//! assert_eq!(map.next_extent(0..map.len(), u64::MAX)?, Some(0..65536));
//! map.close()?;
//!
//! let map = DirtyMap::open(&path)?;
//! assert_eq!(map.dirty_len(), 65536);
//! # Ok(())
//! # }
//! ```
//!
//! [`Bitmap`] is the same hierarchy in memory, for one owner, with exact counts.
//!
//! The [guide] shows programs, several processes over one map, backups and restoring.
//!
//! # Where to find what
//!
//! | module | what for |
//! | --- | --- |
//! | [`DirtyMap`], [`Options`] | the map in a file: create, open, set, read, freeze, back up, resize, close |
//! | [`Bitmap`] | the map in memory; what a `DirtyMap` gives out as a copy |
//! | [`ReadMap`], [`WriteMap`] | code that takes either of them |
//! | [`iter`] | walking through what is dirty, with a place that borrows nothing |
//! | [`checkpoint`] | what is told of a frozen work list, and of points that are kept by name |
//! | [`info`] | how a file was left, what is in it, and what recovery found |
//! | [`fsck`] | checking a file, repairing it, taking the repair back |
//! | [`serialize`] | loading a map that was saved in chunks |
//! | [`mod@error`] | kinds, codes and causes of errors |
//! | [`mod@format`] | the bytes of a file, for tools that check them |
//!
//! Calls block, for a device sync at most. In an event loop, [`DirtyMap::begin_writes_async`] begins writes without that; make
//! others that may (`flush`, `freeze`) in a thread for blocking work. [`DirtyMap::begin_writes_owned`] begins a queue of writes at
//! once and gives a guard that any task can end. A hook that marks what was written only afterwards, and cannot fail, as `mark_dirty` of `vm-memory`,
//! comes too late for this map: what it marks may be lost with the power, though its data is not.
//!
//! # Watching it
//! [`DirtyMap::stats`] counts what a map has done. With the `tracing` feature, events of the [tracing] crate say what
//! it does: target `dirtymap`; `opened`, `recovered`, `closed` and `truncated` at INFO, `armed` and `flushed` at DEBUG, a
//! durable write that failed at ERROR.
//!
//! [tracing]: https://docs.rs/tracing

#[cfg(not(target_os = "linux"))]
compile_error!("dirtymap needs Linux: open-file-description locks, ranged syncs and hole punching");
#[cfg(not(target_pointer_width = "64"))]
compile_error!("dirtymap needs 64-bit addresses: it maps files that are larger than 32 bits allow");

#[macro_use]
mod testing;

mod bitmap;
mod engine;
pub mod error;
mod file;
pub mod format;
pub mod fsck;
mod geometry;
mod hierarchy;
mod image_stamp;
mod map;
mod map_file;
mod options;
mod progress;
mod query;
mod session;
mod shm;
#[cfg(test)]
mod sim;
mod sync;
mod sys;
mod time;
mod trace;
mod uuid;
mod watcher;

pub use bitmap::Bitmap;
pub use engine::WriteGuard;
#[doc(inline)]
pub use error::{Error, Result};
pub use file::create::NewFile;
pub use format::Durability;
pub use geometry::{Geometry, LEVELS, MAX_BITS, MAX_GRANULARITY, MAX_LEN};
pub use image_stamp::{Comparison, ImageStamp};
pub use map::{BackupClaim, BeginWrite, CloseError, DirtyMap, OwnedWriteGuard};
pub use options::{Access, IntentBound, Options};
pub use progress::{Progress, Step};
pub use query::{ReadMap, WriteMap};
#[doc(hidden)]
pub use sys::os::with_descriptor;
pub use uuid::Uuid;

/// What walks through the dirt of a map: iterators, and a cursor that borrows nothing.
pub mod iter {
    pub use crate::query::{Cursor, Extents, Granules, WordsIter};
}

/// What is told of checkpoints, and of the names that are kept: see [`DirtyMap::freeze`] and [`DirtyMap::since`].
pub mod checkpoint {
    pub use crate::engine::point_set::PointSet;
    pub use crate::file::points::{Checkpoint, Committed, NamedPoint};
    pub use crate::format::CheckpointState;
    pub use crate::map::points::CountedPoint;
}

/// What is known of a map without opening it, and of one that is open: see [`inspect`](info::inspect) and [`DirtyMap::info`].
pub mod info {
    pub use crate::map::{FileState, Info, Stats, Verdict, inspect};
    pub use crate::session::Recovery;
}

/// Loading what was serialized, chunk by chunk: see [`Bitmap::begin_load`] and [`DirtyMap::begin_load`].
pub mod serialize {
    pub use crate::bitmap::Loading;
    pub use crate::map::MapLoading;
}

/// The README's program is compiled with the doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// Its programs are run with the doc tests.
#[cfg(any(doc, doctest))]
#[doc = include_str!("../docs/guide.md")]
pub mod guide {}
