//! The one definition of the command line.
//!
//! Invariant kept here: everything that a user can type is here, with an example in the help of every command, and the exit
//! codes in its long one.

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use dirtymap_cli::shown::shown;
use std::ffi::OsString;

/// Heading of the options that every command has.
const EVERYWHERE: &str = "Options of every command";

/// The example of a command.
macro_rules! help {
    ($example:literal) => {
        concat!("Example:\n", $example)
    };
}

mod args;
mod backups;
mod snapshot;

pub use args::*;
pub use backups::*;
pub use snapshot::*;

/// What `--help` says after the example, and `-h` does not.
const MORE_HELP: &str = "\n
Exit codes (the highest that applies):
  0   fine
  1   corrected, or different
  2   unclean: the file was not closed, and holds only extra dirt
  4   damage
  8   operational error, or arguments that do not fit this file: out of range,
      alignment, not found, locked, no space, not a dirtymap
  16  arguments wrong by themselves
  32  interrupted

Sizes, offsets and lengths are in bytes: plain (65536), hex (0x10000), or with
K, M, G, T or P for powers of 1024 (64K).";

/// The command line's definition.
pub fn command() -> clap::Command {
    fn long(command: clap::Command) -> clap::Command {
        let help = command.get_after_help().map(|example| format!("{example}{MORE_HELP}"));
        command.after_long_help(help.unwrap_or_default()).mut_subcommands(long)
    }
    long(Cli::command())
}

/// What was typed.
pub fn parse() -> Result<Cli, clap::Error> {
    let parsed = |args: &mut dyn Iterator<Item = OsString>| {
        let mut command = command();
        let matches = command.try_get_matches_from_mut(args).map_err(|e| without_hidden(e, &command))?;
        Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut command))
    };
    parsed(&mut std::env::args_os()).map_err(|e| {
        // The error repeats what was typed: of it, nothing may act on a terminal.
        parsed(&mut std::env::args_os().map(|arg| shown(&arg).to_string().into())).err().unwrap_or(e)
    })
}

/// An error that names the subcommands there are, but not those that helps hide.
fn without_hidden(mut e: clap::Error, command: &clap::Command) -> clap::Error {
    let hidden = |name: &String| command.get_subcommands().any(|c| c.is_hide_set() && c.get_name() == name);
    for kind in [ContextKind::ValidSubcommand, ContextKind::SuggestedSubcommand] {
        if let Some(ContextValue::Strings(names)) = e.get(kind) {
            let names = names.iter().filter(|name| !hidden(name)).cloned().collect();
            e.insert(kind, ContextValue::Strings(names));
        }
    }
    e
}

/// Keep track of which blocks of a disk image were written, in a file beside it that survives any crash.
///
/// A map has one bit per granule of the image. A tracker sets bits before it writes data; a backup copies what is
/// dirty and then resets it. After any crash every granule that was set still reads dirty.
#[derive(Debug, Parser)]
#[command(name = "dirtymap", version, max_term_width = 80, after_help = help!(
"  dirtymap create disk.map --image disk.raw              # starts all dirty
  dirtymap backup disk.raw backup.raw --map disk.map     # full
  dirtymap write disk.raw --map disk.map --at 1M < data  # tracked
  dirtymap backup disk.raw backup.raw --map disk.map     # only what was written
  dirtymap demo                                          # all that, and kill -9"))]
pub struct Cli {
    /// What to print: text for people, or one JSON value
    #[arg(long, global = true, help_heading = EVERYWHERE, value_enum, default_value_t = Format::Human, value_name = "FORMAT")]
    pub output: Format,
    /// How long to wait for a process that has the map to itself
    #[arg(long, global = true, help_heading = EVERYWHERE, default_value_t = 0, value_name = "SECS")]
    pub wait: u64,
    /// Say on stderr what was done and what it cost; -vv: each event
    ///
    /// What was opened and how it was left, and what the work cost; twice: also each event as it happens (arm, flush,
    /// close, ...).
    #[arg(short, long, global = true, help_heading = EVERYWHERE, action = ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new map, for a size or for an image
    Create(Create),
    /// Show what is in a map and how far it can be relied upon
    Info(Info),
    /// Mark a range of bytes as dirty; or look after a set of backups
    ///
    /// Every granule that the range touches becomes dirty. What list, info, verify and prune do is about the folders that `backup
    /// --set` makes.
    Set(Set),
    /// Mark granules as clean, once their data is durable elsewhere
    ///
    /// What was reset is no longer dirty since any name, either, unless a backup had copied it before: `map --since` and
    /// `backup --since` forget it.
    Reset(Reset),
    /// List the dirty and clean extents of a range
    Map(Map),
    /// Count the dirty granules and bytes
    #[command(after_help = help!("  dirtymap count disk.map"))]
    Count(File),
    /// Print the SHA-256 of the bits, to compare maps
    #[command(after_help = help!("  dirtymap hash disk.map"))]
    Hash(File),
    /// Look for anything wrong with a map, without changing it
    Check(Check),
    /// Compare two maps: what is dirty in only one of them
    ///
    /// Areas of A that are clean in B are marked -, areas of B that are clean in A are marked +. Both maps cover equally many bytes. They are compared byte
    /// by byte: their granules may differ. Exits with 1 when there is a difference.
    Diff(Diff),
    /// Draw a map, or what differs between two
    ///
    /// The map is cut into cells, and each shows how much of it is dirty: in the terminal as a block, fuller for more. At the
    /// left is the offset of each row, below that within the row, both in bytes. With two maps, which must cover equally many bytes, what
    /// is dirty in only the one and in only the other is drawn, and a difference exits with 1. There are colours on a
    /// terminal, unless NO_COLOR is set.
    Show(Show),
    /// Add the dirt of other maps to a map
    ///
    /// All maps must cover equally many bytes; their granules may differ: then every granule of DEST that dirt of a source
    /// touches becomes dirty. The sources are read, and all of them checked, before DEST is changed.
    Merge(Merge),
    /// Write the bits of a map to a raw file
    ///
    /// The raw file is the bottom level: one bit per granule, 64 to a little-endian word, at least one word. Its SHA-256 is
    /// what `hash` prints. Long stretches without dirt become holes of the file.
    Export(Export),
    /// Replace the bits of a map by those of a raw file
    ///
    /// This forgets dirt, as `reset` does: what the raw file does not call dirty is clean afterwards. Right only when the
    /// file says all that has to be copied.
    ///
    /// The raw file must be as `export` writes it for such a map, to the byte. It is read whole and checked before anything
    /// is changed. Bits are set first and reset then, so that after a kill the map still holds at least what it held, or
    /// what the file says.
    Import(Import),
    /// Write everything that is in a map as text
    ///
    /// Header, armed list, points and dirty areas. A line for each fact, so that two dumps can be compared with `diff`, and `undump` makes a map of one again. Areas
    /// that are dirty only because nobody knows better (after a crash, or damage) are called assumed. docs/cli.md
    /// describes the text.
    #[command(after_help = help!("  dirtymap dump disk.map > disk.dump\n  diff <(dirtymap dump a.map) <(dirtymap dump b.map)"))]
    Dump(File),
    /// Make a new map of what `dump` wrote
    ///
    /// The map has the length, granularity, durability, label and dirty areas that the dump says, also those that are only
    /// assumed; `hash` of both is the same, unless a checkpoint is outstanding: what that had frozen is just dirty in the new
    /// one. It is another map, with an identity of its own, and belongs to no image: untracked changes of the image are not
    /// noticed. Text and JSON will both do. The dump is read whole and checked before anything is made.
    Undump(Undump),
    /// Give a map another length, as its image gets one
    ///
    /// New granules are clean, but dirty if the last backup's target reaches behind the old end. Granules past the new end are forgotten. A crash leaves the old length or the new one.
    ///
    /// Grow the map before the image, and shrink the image before the map: a granule that the map does not have cannot
    /// be set. `--image` grows both, in this order, and tells the map that the image is still its own.
    Resize(Resize),
    /// Recover and mend a map; what cannot be trusted becomes dirty
    ///
    /// All header copies are renewed. Works from whatever header copies and pages are good, also where the file was cut off, only adds dirt, says what it
    /// does, and looks again. A map that needs nothing is not written at all; one that is in use is refused. Exits with 1
    /// when something was corrected, with 8 when no header copy is good: then there is nothing to go by. With --undo every
    /// byte that is changed is kept, and --undo-from puts it back.
    Repair(Repair),
    /// Show how a map, or the disks of a server, become dirty, as it happens
    ///
    /// On a terminal a picture: where and how fast dirt grows, what is armed, and of a server (by its control socket) requests
    /// and how long they take. q ends it. Elsewhere a line each second. It only looks, and keeps nobody from the map.
    Watch(Watch),
    /// Write standard input into an image: set first, then write
    Write(Write),
    /// Serve an image to NBD clients, and track what they write
    ///
    /// Each write, trim and zeroing is set in the map before it reaches the image; one that cannot be set fails. QEMU, nbdcopy
    /// and the kernel's client see what is dirty as the context qemu:dirty-bitmap:dirty. Ends at SIGTERM or Ctrl-C: requests
    /// under way are answered, the image is synced, the map is closed. A kill -9 loses no dirt, and no live snapshot.
    Serve(Serve),
    /// Copy what is dirty to a backup, verify, and only then reset
    ///
    /// What is dirty is frozen first: others who share the map go on, and what they set meanwhile is for the next backup.
    /// The image must be idle, or written only by programs that announce each write (`dirtymap write`, `begin_write`): then
    /// the copy is not of one moment. For one moment, freeze, take a snapshot, and back that up with --frozen.
    Backup(Backup),
    /// Restore an image from a backup set
    ///
    /// Every member that is read is proved first, by its SHA-256; what was written is read back and compared. Without this program:
    /// `qemu-img convert -O raw DIR/NUMBER.qcow2 OUT`.
    Restore(Restore),
    /// Freeze what is dirty under live writers; keep points by name
    Checkpoint(Checkpoint),
    /// Make and end live snapshots of the disks of a running server
    ///
    /// While there is one, each disk is served a second time, as NAME@SNAPSHOT, as it was at that moment.
    Snapshot(Snapshot),
    /// Make a map of a bitmap in a qcow2 image
    ImportQcow2(ImportQcow2),
    /// Write a small qcow2 image that carries a map as a bitmap
    ExportQcow2(ExportQcow2),
    /// Print a script that completes this command's arguments
    Completions(Completions),
    /// Write manual pages, one for each command
    Manual(Manual),
    /// Show that it works, with kill -9, compared byte for byte
    ///
    /// A real image, tracked writes, kill -9 in between, and incremental backups.
    Demo(Demo),
    /// The process that the demo kills
    #[command(hide = true)]
    DemoWriter(DemoWriter),
}

impl Command {
    /// Whether it ends in order when a signal asks it to; the others have nothing to finish.
    pub fn finishes(&self) -> bool {
        !matches!(
            self,
            Command::Info(_)
                | Command::Map(_)
                | Command::Count(_)
                | Command::Hash(_)
                | Command::Check(_)
                | Command::Diff(_)
                | Command::Dump(_)
                | Command::Completions(_)
                | Command::Show(_)
        )
    }
}
