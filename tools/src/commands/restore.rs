//! `dirtymap restore`: an image as a member of a backup set has it.
//!
//! Invariants kept here: every file that is read was proved before by its bytes; what was written is read back and compared. A new
//! image appears when it is complete. Of the tracked image only what differs is written, and nothing before the map knows it.

use crate::backup::compare::{Equal, compare};
use crate::backup::copy::copy;
use crate::cli::Restore;
use crate::exit::{Exit, Failure, Result};
use crate::files::{self, Content, Image, publish};
use crate::map::open::{self, With};
use crate::map::relation;
use crate::sets::{Asked, Folder, Layered, find, step};
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::text::say;
use crate::terminal::{progress, signals};
use dirtymap::{DirtyMap, NewFile, info::Info};
use dirtymap_cli::set_json::Member;
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// The JSON of `restore`; docs/cli.md describes it.
#[derive(Serialize)]
struct Answer {
    set: String,
    member: String,
    name: Option<String>,
    time: String,
    consistency: &'static str,
    out: String,
    size: u64,
    /// Bytes of data that were written, and bytes that were made zeros or left so.
    bytes_written: u64,
    bytes_zeros: u64,
    /// Bytes that were read back and are equal, and bytes that need no reading because both call them holes.
    bytes_verified: u64,
    bytes_verified_holes: u64,
}

impl Answer {
    fn new(folder: &Folder, member: &Member, out: &Path) -> Answer {
        Answer {
            set: folder.path.display().to_string(),
            member: member.number().into(),
            name: member.name.clone(),
            time: member.time.clone(),
            consistency: member.consistency.name(),
            out: out.display().to_string(),
            size: member.size,
            bytes_written: 0,
            bytes_zeros: 0,
            bytes_verified: 0,
            bytes_verified_holes: 0,
        }
    }
}

/// What a restore that is stopped leaves.
const STOPPED: &str = "the restore is not complete";

pub fn run(args: &Restore, wait: Duration, output: Output) -> Result<Exit> {
    let Asked { folder, member } = Asked::parse(&args.from);
    if member.is_some() && args.until.is_some() {
        return Err(Failure::usage("a member and --until both say what to restore; give one of them"));
    }
    let device = args.out.metadata().is_ok_and(|m| std::os::unix::fs::FileTypeExt::is_block_device(&m.file_type()));
    if args.map.is_none() && !device {
        publish::vacant(&args.out)?;
    }
    if device && args.map.is_none() && !args.force {
        let message = format!("{}: is a block device; to overwrite it, say so (--force)", args.out.display());
        return Err(Failure::new("exists", message));
    }
    let folder = Folder::open(&folder, wait)?;
    let index = find(&folder, member.as_deref(), args.until.as_deref())?;
    let disk = folder.prove(index, true)?;
    let mut answer = Answer::new(&folder, &folder.set.members[index], &args.out);
    // All files are open: what is removed from the set is read to its end all the same.
    drop(folder);
    match &args.map {
        Some(map) => onto_tracked(args, map, &disk, wait, output, &mut answer)?,
        None if device => {
            let Some(out) = Image::open_target(&args.out)? else { return Err(gone(&args.out)) };
            let (has, needs) = (out.size(), disk.len());
            if has < needs {
                let message = format!("{} has {has} bytes, too few for an image of {needs}", args.out.display());
                return Err(Failure::new("size-differs", message));
            }
            write(&disk, &out, false, &mut answer)?;
        }
        None => to_new(&disk, &args.out, &mut answer)?,
    }
    output.answer(&answer, human)?;
    Ok(Exit::Fine)
}

fn gone(path: &Path) -> Failure {
    Failure::new("not-found", format!("{}: not found", path.display()))
}

/// Restores a member to a new file; for the demo.
pub fn member_to_new(folder: &Folder, index: usize, out: &Path) -> Result<()> {
    let mut answer = Answer::new(folder, &folder.set.members[index], out);
    to_new(&folder.prove(index, true)?, out, &mut answer)
}

/// Makes a file of the disk, which has its name when it is complete and verified.
fn to_new(disk: &Layered, path: &Path, answer: &mut Answer) -> Result<()> {
    let new = NewFile::beside(path)?;
    let file = new.file().try_clone().map_err(|e| Failure::io(path.display(), &e))?;
    if let Some(member) = disk.file() {
        files::permit_like(&file, Some(member)).map_err(|e| Failure::io(path.display(), &e))?;
    }
    file.set_len(disk.len()).map_err(|e| Failure::io(format_args!("{}: set its size", path.display()), &e))?;
    write(disk, &Image::of(file, path)?, true, answer)?;
    Ok(new.publish()?)
}

/// Writes all of the disk, and reads it back.
fn write(disk: &Layered, out: &Image, blank: bool, answer: &mut Answer) -> Result<()> {
    let bar = progress::bytes("restoring", disk.len());
    let copied = copy(disk, out, 0..disk.len(), blank, &bar)?;
    bar.finish_and_clear();
    (answer.bytes_written, answer.bytes_zeros) = (copied.data, copied.holes);
    verify(disk, out, answer)
}

/// Compares all of what was restored with the disk, as it is on the device.
fn verify(disk: &Layered, out: &Image, answer: &mut Answer) -> Result<()> {
    out.sync()?;
    out.forget_cache();
    step("restored");
    let bar = progress::bytes("verifying", disk.len());
    let mut equal = Equal::default();
    let found = compare(disk, out, 0..disk.len(), &bar, &mut equal)?;
    bar.finish_and_clear();
    (answer.bytes_verified, answer.bytes_verified_holes) = (equal.read, equal.holes);
    let Some(offset) = found else { return Ok(()) };
    let message = format!(
        "{} differs from the backup at {offset} although it was just restored: something writes to it, or a disk fails",
        out.path.display()
    );
    Err(Failure::new("verify-failed", message))
}

/// Brings the tracked image back: set first, then write, as every writer does.
fn onto_tracked(
    args: &Restore,
    map_path: &Path,
    disk: &Layered,
    wait: Duration,
    output: Output,
    answer: &mut Answer,
) -> Result<()> {
    let image = Image::open_locked(&args.out, true)?;
    files::distinct(&[("image", &args.out), ("map", map_path)])?;
    let acceptable = |info: &Info| {
        relation::fits(info, map_path, &image)?;
        if disk.len() != image.size() {
            let message = format!(
                "{} has {} bytes, and the member {}; give the image and its map that length first (dirtymap resize), or \
                 restore to a new file",
                args.out.display(),
                image.size(),
                disk.len()
            );
            return Err(Failure::new("size-differs", message));
        }
        relation::belongs(info, map_path, &image, "or restore to a new file")
    };
    let (map, _) = open::for_writing_of(map_path, With::Writers, &image, wait, output, acceptable)?;
    let done = bring_back(disk, &image, &map, answer).and_then(|()| verify(disk, &image, answer));
    if let Err(failure) = done {
        // Whatever was written is dirty, and stays so.
        let _ = open::close_with(map, &image);
        return Err(failure.and("what was written counts as dirty; restore again"));
    }
    open::cost(&map, output);
    open::close_with(map, &image)
}

/// Writes what differs.
fn bring_back(disk: &Layered, image: &Image, map: &DirtyMap, answer: &mut Answer) -> Result<()> {
    let bar = progress::bytes("restoring", disk.len());
    let mut bytes = vec![0; files::PIECE as usize];
    let mut at = 0;
    while let Some(offset) = compare(disk, image, at..disk.len(), &bar, &mut Equal::default())? {
        signals::check(STOPPED)?;
        // Of what differs there may be more beside it: up to the end of a granule, or of a piece of a large one.
        let granule = map.geometry().granule().clamp(4096, files::PIECE);
        let start = offset / granule * granule;
        let piece = start..(start + granule).min(disk.len());
        let bytes = &mut bytes[..(piece.end - piece.start) as usize];
        disk.read(bytes, piece.start)?;
        let write = map.begin_write(piece.clone())?;
        if bytes.iter().all(|byte| *byte == 0) {
            image.zero(piece.clone())?;
            answer.bytes_zeros += bytes.len() as u64;
        } else {
            image.write(bytes, piece.start)?;
            answer.bytes_written += bytes.len() as u64;
        }
        drop(write);
        at = piece.end;
    }
    bar.finish_and_clear();
    Ok(())
}

fn human(out: &mut dyn std::io::Write, a: &Answer) -> std::io::Result<()> {
    let h = size::human;
    let member = a.name.as_ref().map_or_else(|| a.member.clone(), |name| format!("{} ({name:?})", a.member));
    say!(out, "restored member {} of {}, as of {}, to {}", shown(&member), shown(&a.set), a.time, shown(&a.out))?;
    say!(out, "written  {:>12} bytes ({})", a.bytes_written, h(a.bytes_written))?;
    say!(out, "verified {:>12} bytes ({}), read back and equal", a.bytes_verified, h(a.bytes_verified))?;
    if a.bytes_verified_holes > 0 {
        let holes = a.bytes_verified_holes;
        say!(out, "         {holes:>12} bytes ({}), holes of both, not read", h(holes))?;
    }
    let good = match a.consistency {
        "app" => "it is as programs left it that had been told to finish",
        "crash" => "it is as a power cut would have left it: file systems in it are recovered when they are mounted",
        "none" => "it is not of one moment: something wrote to the image meanwhile",
        _ => "it is of one moment only if nothing wrote to the image meanwhile",
    };
    say!(out, "{good}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::set_tests::{GRANULE, World, spoil};
    use crate::cli::Format;
    use crate::sets::AT_STEP;
    use std::fs;

    #[test]
    fn what_does_not_read_back_as_it_was_restored_is_told() {
        let world = World::new();
        world.keep(|_| ());
        world.write(5 * GRANULE, b"to be taken back");
        let restore = || {
            let args = Restore {
                from: world.set.clone(),
                out: world.image(),
                until: None,
                map: Some(world.map.clone()),
                force: false,
            };
            run(&args, Duration::ZERO, Output::new(Format::Human, 0).without_notes())
        };
        spoil("restored", world.image(), 9 * GRANULE);
        let failure = restore().expect_err("it is another one");
        AT_STEP.set(None);
        assert_eq!(failure.kind, "verify-failed");
        restore().unwrap_or_else(|e| panic!("{e}"));
        assert!(fs::read(world.image()).expect("read") == world.references.borrow()[0]);
    }
}
