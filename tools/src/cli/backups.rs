//! What the commands for backups and their sets take.

use super::args::{DiskArg, disk, file};
use crate::size;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = help!("  dirtymap set disk.map 1M 64K     # bytes 1048576 to 1114112\n  dirtymap set list backups        # a set of backups"))]
pub struct Set {
    /// What to do with a set of backups
    #[command(subcommand)]
    pub action: Option<SetAction>,
    #[command(flatten)]
    pub range: Option<SetRange>,
}

#[derive(Args, Debug)]
pub struct SetRange {
    /// The map; one that is called as a command for sets is written ./list
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// First byte
    #[arg(value_parser = size::parse)]
    pub offset: u64,
    /// Number of bytes
    #[arg(value_parser = size::parse)]
    pub length: u64,
}

#[derive(Debug, Subcommand)]
pub enum SetAction {
    /// List the members of a backup set
    #[command(after_help = help!("  dirtymap set list backups"))]
    List(SetFolder),
    /// Show what a backup set is, and everything that is known of each member
    #[command(after_help = help!("  dirtymap set info backups"))]
    Info(SetFolder),
    /// Read all of a backup set, and say whether it is what it was
    ///
    /// Of each member the length, the SHA-256, every reference and refcount in it, and what it rests upon. Nothing is changed.
    #[command(after_help = help!("  dirtymap set verify backups\n  dirtymap set verify backups --against disk.raw"))]
    Verify(SetVerify),
    /// Keep only the newest members of a backup set
    ///
    /// The oldest one that is kept gets a file that rests upon no other, and takes the place of its old one when that is complete
    /// and verified. Every member that is kept can be restored meanwhile, and after a kill, which the next command settles.
    #[command(after_help = help!("  dirtymap set prune backups --keep 14"))]
    Prune(SetPrune),
}

#[derive(Args, Debug)]
pub struct SetFolder {
    /// The folder of the set
    #[arg(value_parser = file(), value_name = "DIR")]
    pub folder: PathBuf,
}

#[derive(Args, Debug)]
pub struct SetVerify {
    /// The folder of the set
    #[arg(value_parser = file(), value_name = "DIR")]
    pub folder: PathBuf,
    /// Compare the newest member with this image or block device as well; exits with 1 if they differ
    #[arg(value_parser = file(), long, value_name = "IMAGE")]
    pub against: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub struct SetPrune {
    /// The folder of the set
    #[arg(value_parser = file(), value_name = "DIR")]
    pub folder: PathBuf,
    /// How many members to keep
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub keep: u64,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap restore backups new.raw\n  dirtymap restore backups@monday new.raw\n  dirtymap restore backups new.raw --until 2026-11-29T10:00:00Z\n  dirtymap restore backups@0003 disk.raw --map disk.map"))]
pub struct Restore {
    /// The folder of the set, and which member: its name or number; by default the newest
    #[arg(value_parser = file(), value_name = "DIR[@MEMBER]")]
    pub from: PathBuf,
    /// The image to make, which must not exist; a block device with --force; or the tracked image itself with --map
    #[arg(value_parser = file())]
    pub out: PathBuf,
    /// The newest member that is not younger than this: as 2026-11-29T10:00:00Z
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// OUT is the image of this map: write only what differs, and tell the map, which goes on from there
    #[arg(value_parser = file(), long, value_name = "FILE", conflicts_with = "force")]
    pub map: Option<PathBuf>,
    /// OUT is a block device: overwrite all of it
    #[arg(long)]
    pub force: bool,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap backup disk.raw backup.raw --map disk.map\n  dirtymap backup disk.raw second.raw --map disk.map --full\n  dirtymap backup snapshot.raw backup.raw --map disk.map --frozen\n  dirtymap backup disk.raw --set backups --map disk.map --keep 14\n  dirtymap backup 'nbd+unix:///?socket=vm.sock' --control vm.ctl --set vm\n  dirtymap backup --set sets --disk a=a.raw,map=a.map --disk b=b.raw,map=b.map"), group = ArgGroup::new("named").args(["name", "frozen"]), group = ArgGroup::new("where").args(["target", "set"]).required(true))]
pub struct Backup {
    /// The image or block device to copy from; or an export of `dirtymap serve`, as nbd+unix:///EXPORT?socket=PATH, whose
    /// server makes a live snapshot for it (--control)
    #[arg(value_parser = file(), required_unless_present = "disk")]
    pub image: Option<PathBuf>,
    /// The backup: made if it is new (or an empty file), else brought up to date
    #[arg(value_parser = file())]
    pub target: Option<PathBuf>,
    /// Make the next member of the backup set in this folder, which is made if it is new: a qcow2 image that rests upon the
    /// member before it, and holds what was written since
    #[arg(value_parser = file(), long, value_name = "DIR", conflicts_with_all = ["keep_last", "since"])]
    pub set: Option<PathBuf>,
    /// The image's map
    #[arg(value_parser = file(), long, value_name = "FILE")]
    pub map: Option<PathBuf>,
    /// The control socket of the export's server
    #[arg(value_parser = file(), long, value_name = "PATH", conflicts_with_all = ["frozen", "raw"])]
    pub control: Option<PathBuf>,
    /// Back up several images at once, each to the set DIR/NAME: all are frozen before any is copied. Once for each. Of a server
    /// with several disks, all of its exports at one moment, each as NAME=nbd+unix:///EXPORT?socket=PATH (--control)
    #[arg(long, value_name = "NAME=IMAGE,map=FILE", value_parser = backup_disk, conflicts_with_all = ["image", "target", "map"], requires = "set")]
    pub disk: Vec<BackupDisk>,
    #[command(flatten)]
    pub how: BackupHow,
}

/// One of several that are backed up at once.
#[derive(Clone, Debug)]
pub struct BackupDisk {
    /// Of its set.
    pub name: String,
    pub image: PathBuf,
    /// An export has none, as its server has it.
    pub map: Option<PathBuf>,
}

/// Reads `NAME=IMAGE,map=FILE` or `NAME=URI`.
fn backup_disk(text: &str) -> Result<BackupDisk, String> {
    match text.split_once('=') {
        Some((_, uri)) if is_uri(Path::new(uri)) && uri.contains(",map=") => {
            Err("the server of an export has its map: leave ,map= out".into())
        }
        Some((name, uri)) if is_uri(Path::new(uri)) => {
            Ok(BackupDisk { name: name.into(), image: uri.into(), map: None })
        }
        _ => {
            let DiskArg { name, image, map } =
                disk(text).map_err(|e| format!("{e}, or NAME=nbd+unix:///EXPORT?socket=PATH"))?;
            Ok(BackupDisk { name, image, map: Some(map) })
        }
    }
}

/// Whether an export is meant. A file of such a name is given as `./nbd:...`.
pub fn is_uri(image: &Path) -> bool {
    let image = image.to_string_lossy();
    image.split_once("://").is_some_and(|(scheme, _)| ["nbd", "nbds", "nbd+unix", "nbds+unix"].contains(&scheme))
}

/// How a backup is made, whatever of and whereto.
#[derive(Args, Clone, Debug, Default)]
pub struct BackupHow {
    /// When the member is complete, prune the set: keep this many
    #[arg(long, value_name = "N", conflicts_with = "target", value_parser = clap::value_parser!(u64).range(1..))]
    pub keep: Option<u64>,
    /// What a member is good for, as far as you know: `app` if the programs were told to finish first
    #[arg(long, value_enum, value_name = "WHAT", conflicts_with = "target")]
    pub consistency: Option<Consistency>,
    /// Store also what was written and is the same as before
    #[arg(long, conflicts_with = "target")]
    pub store_equal: bool,
    /// Copy everything, not only what is dirty
    #[arg(long)]
    pub full: bool,
    /// Overwrite TARGET with a full copy even if it is not what this map's last backup wrote; take IMAGE even if it is not
    /// the one that the map belongs to
    #[arg(long)]
    pub force: bool,
    /// Keep this name for what TARGET is now: what is written from here on can be had with `--since NAME` later. A map has
    /// 64 names at most
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// When the backup is complete, drop the oldest names beyond this many
    #[arg(long, value_name = "N", requires = "named", value_parser = clap::value_parser!(u64).range(1..64))]
    pub keep_last: Option<u64>,
    /// Copy everything that was written since the point of this name, to a TARGET that was complete as of NAME
    #[arg(long, value_name = "NAME", conflicts_with = "full")]
    pub since: Option<String>,
    /// Copy and commit the checkpoint that is frozen: IMAGE is a snapshot that was taken since. What was set since is
    /// copied too, as the snapshot may have it, and stays dirty. The name of the freeze is kept
    #[arg(long, conflicts_with_all = ["name", "hooks"])]
    pub frozen: bool,
    /// Take the image for raw whatever it starts with, if its map was not made with `--image`
    #[arg(long)]
    pub raw: bool,
    /// How long to wait for an export's server that is gone or silent, 30 by default: the next one goes on with the snapshot
    #[arg(long, value_name = "SECS", requires = "control")]
    pub reconnect: Option<u64>,
    /// Read at most so many bytes a second of the image, to copy, compare and verify: as 64M
    #[arg(long, value_parser = rate, value_name = "BYTES")]
    pub rate: Option<NonZeroU64>,
    #[command(flatten)]
    pub hooks: Hooks,
    /// Compare this much of what is clean as well, at random; 0 for none. By default 64M, and for at most a second
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    pub audit: Option<u64>,
}

impl BackupHow {
    /// How long a server may be gone or silent.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.reconnect.unwrap_or(30))
    }
}

/// Commands that are run around a freeze.
#[derive(Args, Clone, Debug, Default)]
#[command(group = ArgGroup::new("hooks").args(["pre_hook", "post_hook"]).multiple(true))]
pub struct Hooks {
    /// Run a command before anything is frozen; if it fails or is late, nothing is
    #[arg(long, value_name = "COMMAND")]
    pub pre_hook: Option<String>,
    /// Run a command as soon as that is done, whether it succeeded or not
    #[arg(long, value_name = "COMMAND")]
    pub post_hook: Option<String>,
    /// How long each of the two may take; then it is ended. A server has as long to make a snapshot between them
    #[arg(long, value_name = "SECS", default_value_t = 300, requires = "hooks", value_parser = clap::value_parser!(u64).range(1..))]
    pub hook_limit: u64,
}

impl Hooks {
    /// How long what is between them may take a server: a guest that one of them has stopped must go on.
    pub fn limit(&self) -> Option<Duration> {
        let any = self.pre_hook.is_some() || self.post_hook.is_some();
        any.then(|| Duration::from_secs(self.hook_limit))
    }
}

/// A speed that is one.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    let bytes = size::parse(text)?;
    NonZeroU64::new(bytes).ok_or_else(|| "found 0 bytes a second, expected at least one".into())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// The image as a power cut would leave it
    Crash,
    /// As programs leave it that have finished
    App,
}
