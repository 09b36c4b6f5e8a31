//! Live snapshots of images that this process writes: copies before writes, in files that outlive the process.
//!
//! docs/snapshot.md has the protocol and its rules; tests/model_snapshot.rs is the model in which they were searched for.
//!
//! ```text
//! takeover  what a server has left that is dead
//! live      create, commit, abort
//! asked     what is asked for, and which snapshot and disk is meant
//! era       which snapshot a writer copies for
//! shot      a snapshot: one moment of all disks
//! syncs     syncs of images, and which clients were told of one that failed
//! frozen    one disk of it: copy, read, done
//! scratch   its two files
//! format    their bytes
//! steps     what tests hold, kill at and leave out
//! trust     where this works
//! ```

mod asked;
mod era;
mod format;
mod frozen;
mod live;
mod scratch;
mod shot;
mod steps;
mod syncs;
mod takeover;
#[cfg(test)]
mod tests;
mod trust;

pub use asked::{Backup, Intent, Which, Wish, is_committed_as};
pub use frozen::Progress;
pub use live::Snapshots;
pub use shot::{Snapshot, SnapshotList, SnapshotStatus, Source};
pub use steps::{Rule, Step, at, keeps};
pub use syncs::{Client, Syncs};
