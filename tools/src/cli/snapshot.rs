//! What can be typed behind `dirtymap snapshot`.

use super::args::file;
use super::{Consistency, Hooks};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap snapshot create --server /run/control"))]
pub struct Snapshot {
    /// What to do
    #[command(subcommand)]
    pub action: SnapshotAction,
}

#[derive(Debug, Subcommand)]
pub enum SnapshotAction {
    /// Freeze all disks of the server at one moment, while they are written
    ///
    /// What was dirty until then can be read from the exports NAME@SNAPSHOT; with --whole, everything.
    #[command(after_help = help!("  dirtymap snapshot create --server /run/control --name monday\n  dirtymap snapshot create --server ctl --pre-hook ./freeze --post-hook ./thaw"))]
    Create(CreateSnapshot),
    /// List the snapshots that are there
    #[command(after_help = help!("  dirtymap snapshot list --server /run/control"))]
    List(Served),
    /// The backup is complete and durable: forget what was frozen
    #[command(after_help = help!("  dirtymap snapshot commit --server /run/control"))]
    Commit(CommitSnapshot),
    /// Give the snapshot up: what was frozen is dirty again
    #[command(after_help = help!("  dirtymap snapshot abort --server /run/control"))]
    Abort(EndSnapshot),
}

#[derive(Args, Debug)]
pub struct Served {
    /// The control socket of the server
    #[arg(value_parser = file(), long, value_name = "PATH")]
    pub server: PathBuf,
}

#[derive(Args, Debug)]
pub struct CreateSnapshot {
    #[command(flatten)]
    pub served: Served,
    /// Name of the snapshot, and of the point if it is kept; `snapshot` without one
    #[arg(long)]
    pub name: Option<String>,
    /// Have everything readable, not only what was dirty
    #[arg(long)]
    pub whole: bool,
    /// Whether programs in the guest were made ready for it, as by a hook: what `list` says of it
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Consistency::Crash)]
    pub consistency: Consistency,
    #[command(flatten)]
    pub hooks: Hooks,
}

#[derive(Args, Debug)]
pub struct CommitSnapshot {
    #[command(flatten)]
    pub ends: EndSnapshot,
    /// Keep its name as a point of the maps
    #[arg(long)]
    pub keep: bool,
}

#[derive(Args, Debug)]
pub struct EndSnapshot {
    #[command(flatten)]
    pub served: Served,
    /// Only if it has this name
    #[arg(long)]
    pub name: Option<String>,
    /// Only if it is this one, by the identity that `create` told
    #[arg(long)]
    pub id: Option<String>,
}
