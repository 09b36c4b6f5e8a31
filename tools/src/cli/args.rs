//! What each command takes: its arguments, their help and its example.

use crate::size;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A name of a file that is read or written where and as often as needed, which standard input and output cannot be.
pub(super) fn file() -> impl TypedValueParser<Value = PathBuf> {
    const STANDARD: &str = "neither standard input nor output will do here; for a file of this name write ./-";
    PathBufValueParser::new().try_map(|path| if path == Path::new("-") { Err(STANDARD) } else { Ok(path) })
}

/// Commands that look at a map.
#[derive(Args, Debug)]
pub struct File {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap info disk.map\n  dirtymap info disk.map --image disk.raw   # do they belong together?\n  dirtymap info disk.map --output json | jq .verdict"))]
pub struct Info {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// Say as well whether this is the map's image, unchanged but for what the map knows; exits with 1 if not
    #[arg(value_parser = file(), long, value_name = "IMAGE")]
    pub image: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("tracked").args(["image", "size"]).required(true))]
#[command(after_help = help!("  dirtymap create disk.map --image disk.raw -g 64K\n  dirtymap create disk.map --size 10G --label 'web server, root disk'"))]
pub struct Create {
    /// The map to make; it must not exist
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// The image or block device that it tracks: gives the size, is remembered, and starts all dirty
    #[arg(value_parser = file(), long, value_name = "IMAGE")]
    pub image: Option<PathBuf>,
    /// Size of what it tracks, where that is no image here
    #[arg(long, value_parser = size::parse)]
    pub size: Option<u64>,
    /// Take the image for raw also if it starts as a qcow2, VMDK, VHDX, VDI or other such image does
    #[arg(long, conflicts_with = "size")]
    pub raw: bool,
    /// Granularity: bytes behind each bit, a power of two from 1 to 2^63
    #[arg(short, long, value_parser = size::parse_granularity, default_value = "64K", value_name = "BYTES")]
    pub granularity: u32,
    /// Text to keep in the file, at most 252 bytes
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// What the bits survive
    #[arg(long, value_enum, default_value_t = Durability::PowerLoss)]
    pub durability: Durability,
    /// Start with everything dirty
    #[arg(long)]
    pub dirty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// Everything: the death of the process, of the kernel, and of the power
    PowerLoss,
    /// Only the death of the process; after anything else everything is dirty. No write waits for a sync
    Process,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").args(["offset", "all"]).required(true))]
#[command(after_help = help!("  dirtymap reset disk.map 1M 64K\n  dirtymap reset disk.map --all"))]
pub struct Reset {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// First byte: a multiple of the granule
    #[arg(value_parser = size::parse, requires = "length")]
    pub offset: Option<u64>,
    /// Number of bytes: up to a multiple of the granule, or to the end
    #[arg(value_parser = size::parse)]
    pub length: Option<u64>,
    /// Reset the granules that lie wholly inside the range, wherever it starts and ends
    #[arg(long)]
    pub within: bool,
    /// Reset every granule that the range touches. This forgets writes beside the range, in the same granules
    #[arg(long, conflicts_with = "within")]
    pub covering: bool,
    /// Reset everything; the map then is exact again
    #[arg(long, conflicts_with_all = ["offset", "length", "within", "covering"])]
    pub all: bool,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap map disk.map --start 1G --length 512M\n  dirtymap map disk.map --totals\n  dirtymap map disk.map --since monday\n  dirtymap map disk.map --from sunday --to monday"))]
pub struct Map {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// First byte to list
    #[arg(long, value_parser = size::parse, default_value = "0", value_name = "OFFSET")]
    pub start: u64,
    /// Number of bytes to list; by default to the end
    #[arg(long, value_parser = size::parse)]
    pub length: Option<u64>,
    /// Only the sums, dirty and clean
    #[arg(long)]
    pub totals: bool,
    /// What was written after the point of this name was frozen
    #[arg(long, value_name = "NAME")]
    pub since: Option<String>,
    /// What was written after this point was frozen, and before that of --to
    #[arg(long, value_name = "NAME", requires = "to", conflicts_with = "since")]
    pub from: Option<String>,
    /// See --from
    #[arg(long, value_name = "NAME", requires = "from")]
    pub to: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap check disk.map\n  dirtymap check -q disk.map || mail -s 'look at disk.map' root < /dev/null"))]
pub struct Check {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// Print nothing at all, not even errors: the exit code says it
    #[arg(short, long)]
    pub quiet: bool,
    /// Say what would be true if the power went now, also of a map that is in use
    #[arg(long)]
    pub assume_power_loss: bool,
    /// Say as well whether this is the map's image, unchanged but for what the map knows; exits with 1 if not
    #[arg(value_parser = file(), long, value_name = "IMAGE")]
    pub image: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap diff before.map after.map"))]
pub struct Diff {
    /// One map
    #[arg(value_parser = file(), value_name = "A")]
    pub a: PathBuf,
    /// The other one
    #[arg(value_parser = file(), value_name = "B")]
    pub b: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap show disk.map\n  dirtymap show before.map after.map --svg changes.svg"))]
pub struct Show {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// Another map: draw what differs
    #[arg(value_parser = file(), value_name = "FILE2")]
    pub other: Option<PathBuf>,
    /// Columns to use, from 40 to 1000; by default those of the terminal, or 80
    #[arg(long, value_parser = clap::value_parser!(u16).range(40..=1000), value_name = "COLUMNS")]
    pub width: Option<u16>,
    /// Write the picture to this file, which must not exist; `-` for standard output
    #[arg(long, value_name = "OUT")]
    pub svg: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap merge week.map monday.map tuesday.map"))]
pub struct Merge {
    /// The map that gets the dirt
    #[arg(value_parser = file())]
    pub dest: PathBuf,
    /// The maps that it is taken from; they stay as they are
    #[arg(value_parser = file(), required = true, value_name = "SRC")]
    pub sources: Vec<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap export disk.map disk.bits\n  dirtymap export disk.map - | sha256sum"))]
pub struct Export {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// The file to make, which must not exist; `-` for standard output
    pub out: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap import disk.map disk.bits\n  dirtymap import disk.map - < disk.bits"))]
pub struct Import {
    /// The map to change
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// The raw file to read; `-` for standard input
    pub input: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap undump disk.dump new.map\n  dirtymap dump disk.map | dirtymap undump - new.map"))]
pub struct Undump {
    /// The dump to read, a regular file; `-` for standard input
    pub dump: PathBuf,
    /// The map to make; it must not exist
    #[arg(value_parser = file())]
    pub file: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap resize disk.map 20G --image disk.raw   # grows disk.raw as well\n  dirtymap resize disk.map 20G"))]
pub struct Resize {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// Bytes that it shall cover
    #[arg(value_parser = size::parse)]
    pub size: u64,
    /// Grow this image as well, a regular file that the map is for. Images are not shrunk
    #[arg(value_parser = file(), long, value_name = "IMAGE")]
    pub image: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = help!(
    "  dirtymap repair disk.map --dry-run\n  dirtymap repair disk.map --undo before-repair.undo\n  \
     dirtymap repair disk.map --undo-from before-repair.undo"
))]
pub struct Repair {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// Only say what would be done, and exit as if it had been
    #[arg(long)]
    pub dry_run: bool,
    /// Keep all bytes that are changed in this new file, before they are
    #[arg(value_parser = file(), long, value_name = "UNDO")]
    pub undo: Option<PathBuf>,
    /// Put back what a repair has kept in this file
    #[arg(value_parser = file(), long, value_name = "UNDO", conflicts_with_all = ["dry_run", "undo"])]
    pub undo_from: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap write disk.raw --map disk.map --at 1M < data"))]
pub struct Write {
    /// The image or block device to write into
    #[arg(value_parser = file())]
    pub image: PathBuf,
    /// Its map
    #[arg(value_parser = file(), long, value_name = "FILE")]
    pub map: PathBuf,
    /// Where in the image to write
    #[arg(long, value_parser = size::parse, value_name = "OFFSET")]
    pub at: u64,
    /// Take the image for raw whatever it starts with, if its map was not made with `--image`
    #[arg(long)]
    pub raw: bool,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap serve disk.raw --map disk.map --socket /run/disk.sock\n  dirtymap serve disk.raw --map disk.map --run 'nbdcopy new.raw $uri'"))]
pub struct Serve {
    /// The image or block device to serve; whatever else writes to it meanwhile has to go by the same map
    #[arg(value_parser = file(), requires = "map", required_unless_present = "disk")]
    pub image: Option<PathBuf>,
    /// Its map
    #[arg(value_parser = file(), long, value_name = "FILE", requires = "image")]
    pub map: Option<PathBuf>,
    /// Serve a disk by this name as well, or instead of IMAGE; may be given again
    #[arg(long, value_name = "NAME=IMAGE,map=FILE", value_parser = disk)]
    pub disk: Vec<DiskArg>,
    /// Make the map, all dirty, if there is none
    #[arg(long, conflicts_with = "read_only")]
    pub create: bool,
    /// Take the image for raw whatever it starts with, if its map was not made with `--image`
    #[arg(long)]
    pub raw: bool,
    /// Name of IMAGE's export; clients that name none get it as well
    #[arg(long, value_name = "EXPORT", default_value = "", requires = "image")]
    pub name: String,
    /// Listen on a unix socket, made here and removed at the end; this, --listen, --run or a socket of a service manager's has to be there
    #[arg(value_parser = file(), long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Listen on a TCP address, as 127.0.0.1:10809
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<std::net::SocketAddr>,
    /// Let the address be another than loopback: who reaches it reads and writes the image
    #[arg(long, requires = "listen")]
    pub allow_plain_tcp: bool,
    /// Run a command with $uri set, and stop when it ends; without --socket and --listen on a socket of its own
    #[arg(long, value_name = "COMMAND")]
    pub run: Option<String>,
    /// Answer on a unix socket what is asked of the server, metrics too
    #[arg(value_parser = file(), long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Keep the process's number in a file, from when it serves until it ends
    #[arg(value_parser = file(), long, value_name = "PATH")]
    pub pid_file: Option<PathBuf>,
    /// Where live snapshots keep what is overwritten; without it, in the directory of the first map
    #[arg(value_parser = file(), long, value_name = "DIR", requires = "control")]
    pub scratch: Option<PathBuf>,
    /// Most bytes of that for each disk; when it is full, the snapshot ends, and writes go on
    #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "control")]
    pub scratch_limit: Option<u64>,
    /// Refuse all writes
    #[arg(long)]
    pub read_only: bool,
    /// Read and write images past the page cache (O_DIRECT)
    #[arg(long)]
    pub direct: bool,
    /// Requests of one connection that are handled at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap watch disk.map\n  dirtymap watch /run/dirtymap/vm.control"))]
pub struct Watch {
    /// The map, or the control socket of `serve`
    #[arg(value_parser = file(), value_name = "FILE|CONTROL")]
    pub place: PathBuf,
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECS", default_value_t = 1.0, value_parser = seconds)]
    pub interval: f64,
    /// End after so many looks, and print lines also on a terminal
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

impl Watch {
    pub fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.interval)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.05..=86400.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds, from 0.05 to 86400".into())
}

/// A disk, its map and what it is called.
#[derive(Clone, Debug)]
pub struct DiskArg {
    /// Of its export, or of its set.
    pub name: String,
    pub image: PathBuf,
    pub map: PathBuf,
}

/// Reads `NAME=IMAGE,map=FILE`. A name has no `=`, the file of a map no `,map=`.
pub(super) fn disk(text: &str) -> Result<DiskArg, String> {
    let parts = text.split_once('=').and_then(|(name, rest)| Some((name, rest.rsplit_once(",map=")?)));
    match parts {
        Some((name, (image, map))) if !image.is_empty() && !map.is_empty() => {
            Ok(DiskArg { name: name.into(), image: image.into(), map: map.into() })
        }
        _ => Err("expected NAME=IMAGE,map=FILE".into()),
    }
}

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true, after_help = help!("  dirtymap checkpoint freeze disk.map --name monday\n  dirtymap checkpoint commit disk.map --keep\n  dirtymap map disk.map --since monday"))]
pub struct Checkpoint {
    /// What to do
    #[command(subcommand)]
    pub action: CheckpointAction,
}

#[derive(Debug, Subcommand)]
pub enum CheckpointAction {
    /// Move what is dirty to a new point, once every write under way has ended: the work list of a backup
    #[command(after_help = help!("  dirtymap checkpoint freeze disk.map --name monday"))]
    Freeze(Freeze),
    /// Forget what was frozen: the backup of it is complete
    #[command(after_help = help!("  dirtymap checkpoint commit disk.map --keep"))]
    Commit(Commit),
    /// Put back what was frozen
    #[command(after_help = help!("  dirtymap checkpoint abort disk.map"))]
    Abort(Outstanding),
    /// Show the outstanding checkpoint, and the last that was committed
    #[command(after_help = help!("  dirtymap checkpoint status disk.map"))]
    Status(File),
    /// List the points that are kept, and how much was written since each
    ///
    /// Says of each when it was frozen, how much was written since, and how much of that before the next one.
    #[command(after_help = help!("  dirtymap checkpoint list disk.map"))]
    List(File),
    /// Forget a point. What the others say stays the same
    #[command(after_help = help!("  dirtymap checkpoint drop disk.map --name monday"))]
    Drop(Named),
    /// Make a map of what was written since a point, or between two
    #[command(after_help = help!("  dirtymap checkpoint export disk.map since.map --since monday\n  dirtymap checkpoint export disk.map monday.map --from sunday --to monday"))]
    Export(ExportPoint),
}

#[derive(Args, Debug)]
pub struct Freeze {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// Name of the point, 1 to 64 bytes; without one it cannot be kept. A map has 64 points at most
    #[arg(long)]
    pub name: Option<String>,
    /// How long to wait for writes under way
    #[arg(long, default_value_t = 60, value_name = "SECS")]
    pub timeout: u64,
}

#[derive(Args, Debug)]
pub struct Commit {
    /// The checkpoint
    #[command(flatten)]
    pub outstanding: Outstanding,
    /// Keep the point by its name: what is written from the freeze on can be had with `--since NAME` later
    #[arg(long)]
    pub keep: bool,
    /// When it is kept, drop the oldest names beyond this many
    #[arg(long, value_name = "N", requires = "keep", value_parser = clap::value_parser!(u64).range(1..64))]
    pub keep_last: Option<u64>,
}

#[derive(Args, Debug)]
pub struct Outstanding {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// Only if the outstanding checkpoint has this name
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Args, Debug)]
pub struct Named {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// Name of the point
    #[arg(long)]
    pub name: String,
}

#[derive(Args, Debug)]
pub struct ExportPoint {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// The map to make; it must not exist
    #[arg(value_parser = file())]
    pub out: PathBuf,
    /// What was written after the point of this name was frozen
    #[arg(long, value_name = "NAME", required_unless_present = "from")]
    pub since: Option<String>,
    /// What was written after this point was frozen, and before that of --to
    #[arg(long, value_name = "NAME", requires = "to", conflicts_with = "since")]
    pub from: Option<String>,
    /// See --from
    #[arg(long, value_name = "NAME", requires = "from")]
    pub to: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap import-qcow2 disk.qcow2 --bitmap monday disk.map\n  dirtymap import-qcow2 disk.qcow2 --bitmap monday disk.map --in-use dirty"))]
pub struct ImportQcow2 {
    /// The qcow2 image, whose bitmap stays as it is; `-` for standard input
    pub image: PathBuf,
    /// The map to make; it must not exist. It gets the size of the virtual disk and the bitmap's granularity
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// Name of the bitmap, any bytes; without it, all bitmaps are listed
    #[arg(long, value_name = "NAME")]
    pub bitmap: Option<OsString>,
    /// What to do with a bitmap that was not saved: one that is in use, or in an image whose bitmaps are inconsistent
    #[arg(long, value_enum, default_value_t = InUse::Refuse, value_name = "WHAT")]
    pub in_use: InUse,
    /// What to do with a bitmap that is disabled: QEMU did not record in it what was written
    #[arg(long, value_enum, default_value_t = Disabled::Refuse, value_name = "WHAT")]
    pub disabled: Disabled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InUse {
    /// Fail, and make nothing
    Refuse,
    /// Take everything for dirty
    Dirty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Disabled {
    /// Fail, and make nothing
    Refuse,
    /// Take its bits as they are: what was written while it was disabled is not among them
    Take,
    /// Take everything for dirty
    Dirty,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap export-qcow2 disk.map out.qcow2 --bitmap monday\n  qemu-img bitmap --add -g 64K disk.qcow2 monday\n  qemu-img bitmap --merge monday -b out.qcow2 -F qcow2 disk.qcow2 monday"))]
pub struct ExportQcow2 {
    /// The map
    #[arg(value_parser = file())]
    pub file: PathBuf,
    /// The qcow2 image to make, which must not exist; `-` for standard output. It holds no data, only the bitmap
    pub out: PathBuf,
    /// Name that the bitmap gets, any 1 to 1023 bytes
    #[arg(long, value_name = "NAME")]
    pub bitmap: OsString,
    /// Bytes behind each bit of the bitmap, from 512 to 2G; by default the map's granularity. Dirt is rounded outward
    #[arg(short, long, value_parser = size::parse_granularity, value_name = "BYTES")]
    pub granularity: Option<u32>,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap completions bash > /etc/bash_completion.d/dirtymap\n  source <(dirtymap completions zsh)"))]
pub struct Completions {
    /// The shell
    pub shell: Shell,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap manual ~/.local/share/man/man1\n  dirtymap manual /tmp/pages && man -l /tmp/pages/dirtymap-backup.1"))]
pub struct Manual {
    /// Where the pages go; made if it is not there. None of them may exist
    #[arg(value_parser = file())]
    pub directory: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = help!("  dirtymap demo\n  dirtymap demo --serve\n  dirtymap demo disk.raw --kills 20 --seed 7 --dir /var/tmp/dirtymap-demo"))]
pub struct Demo {
    /// The image to work on a copy of; by default an ext4 image of 256 MiB is made
    #[arg(value_parser = file())]
    pub image: Option<PathBuf>,
    /// Where to work; what the demo makes there stays. By default a temporary directory, removed at the end
    #[arg(value_parser = file(), long)]
    pub dir: Option<PathBuf>,
    /// How many times to kill the writer
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub kills: u32,
    /// Write through `dirtymap serve`, as a VM does, and kill that: also in the middle of each backup, which is of a live
    /// snapshot
    #[arg(long)]
    pub serve: bool,
    /// Number to repeat the same writes; the moment of the kill stays the machine's
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Keep the temporary directory
    #[arg(long)]
    pub keep: bool,
}

#[derive(Args, Debug)]
pub struct DemoWriter {
    #[arg(value_parser = file(), long)]
    pub image: PathBuf,
    #[arg(value_parser = file(), long)]
    pub map: PathBuf,
    #[arg(long)]
    pub seed: u64,
}
