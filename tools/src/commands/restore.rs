//! `dirtymap restore`: an image as a member of a backup set has it.
//!
//! Invariants kept here: every file that is read was proved before by its bytes; what was written is read back and compared. A new
//! image appears when it is complete. Of the tracked image only what differs is written, and nothing before the map knows it.

use crate::backup::compare::{Equal, compare, next_data};
use crate::backup::copy::copy;
use crate::cli::Restore;
use crate::exit::{Exit, Failure, Result};
use crate::files::{self, Content, Image, is_zero, publish};
use crate::map::open::{self, With};
use crate::map::relation;
use crate::sets::{self, Asked, Folder, Layered, find, step};
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::pass::Pass;
use crate::terminal::text::say;
use dirtymap::{DirtyMap, NewFile, info::Info};
use dirtymap_cli::set_json::{Consistency, Member};
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
    consistency: Consistency,
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
            consistency: member.consistency,
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
    if args.out.join(sets::FILE).exists() {
        let (set, out) = (args.out.display(), args.from.display());
        let message = format!("{set}: is a backup set, which comes first: dirtymap restore {set} OUT, not {out}");
        return Err(Failure::new("exists", message));
    }
    if args.map.is_none() && !device {
        publish::vacant(&args.out)
            .map_err(|e| e.and("or, for the image that a map tracks, give that as well (--map FILE)"))?;
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
    let areas = (disk.len(), std::iter::once(0..disk.len()));
    let copied = copy(disk, out, areas, blank, &Pass::new("restoring", disk.len(), STOPPED))?;
    (answer.bytes_written, answer.bytes_zeros) = (copied.data, copied.holes);
    verify(disk, out, answer)
}

/// Compares all of what was restored with the disk, as it is on the device.
fn verify(disk: &Layered, out: &Image, answer: &mut Answer) -> Result<()> {
    out.sync()?;
    out.forget_cache();
    step("restored");
    let mut equal = Equal::default();
    let pass = Pass::new("verifying", disk.len(), STOPPED);
    let found = compare(disk, out, 0..disk.len(), &pass, &mut equal)?;
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
    let (map, _) = open::for_writing_of(map_path, With::NoSnapshot, &image, wait, output, acceptable)?;
    let done = bring_back(disk, &image, &map, answer).and_then(|()| verify(disk, &image, answer));
    if let Err(failure) = done {
        // Whatever was written is dirty, and stays so.
        let _ = open::close_with(map, &image);
        return Err(failure.and("what was written counts as dirty; restore again"));
    }
    open::cost(&map, output);
    open::close_with(map, &image)
}

/// Writes what differs: whole granules, or parts of large ones, as there may be more beside it.
fn bring_back(disk: &dyn Content, image: &Image, map: &DirtyMap, answer: &mut Answer) -> Result<()> {
    let granule = map.geometry().granule().clamp(4096, files::PIECE);
    let pass = Pass::new("restoring", disk.len(), STOPPED);
    let (mut new, mut old) = (vec![0; files::PIECE as usize], vec![0; files::PIECE as usize]);
    let mut at = 0;
    while let Some(data) = next_data(disk, image, at..disk.len())? {
        // A piece is whole granules, and what is before `at` is done.
        let data = (data.start / granule * granule).max(at)..data.end.next_multiple_of(granule).min(disk.len());
        pass.inc(data.start - at);
        at = data.end;
        for piece in files::pieces(data) {
            pass.check()?;
            let length = (piece.end - piece.start) as usize;
            let (new, old) = (&mut new[..length], &mut old[..length]);
            disk.read(new, piece.start)?;
            image.read(old, piece.start)?;
            let granules = new.chunks(granule as usize).zip(old.chunks(granule as usize));
            for (offset, (new, _)) in
                (piece.start..).step_by(granule as usize).zip(granules).filter(|(_, (a, b))| a != b)
            {
                put_back(new, offset, image, map, answer)?;
            }
            pass.inc(piece.end - piece.start);
        }
    }
    Ok(())
}

/// Writes as every writer of the tracked image does.
fn put_back(bytes: &[u8], offset: u64, image: &Image, map: &DirtyMap, answer: &mut Answer) -> Result<()> {
    let range = offset..offset + bytes.len() as u64;
    let write = map.begin_write(range.clone())?;
    if is_zero(bytes) {
        image.zero(range)?;
        answer.bytes_zeros += bytes.len() as u64;
    } else {
        image.write(bytes, offset)?;
        answer.bytes_written += bytes.len() as u64;
    }
    drop(write);
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
        Consistency::App => "it is as programs left it that had been told to finish",
        Consistency::Crash => {
            "it is as a power cut would have left it: file systems in it are recovered when they are mounted"
        }
        Consistency::None => "it is not of one moment: something wrote to the image meanwhile",
        Consistency::Unknown => "it is of one moment only if nothing wrote to the image meanwhile",
    };
    say!(out, "{good}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::set_tests::{GRANULE, World, spoil};
    use crate::cli::Format;
    use crate::sets::AT_STEP;
    use crate::terminal::signals;
    use std::fs;
    use std::ops::Range;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

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

    /// A disk, and how much was read of it.
    struct Counted<'a>(&'a Layered, AtomicU64);

    impl Content for Counted<'_> {
        fn len(&self) -> u64 {
            self.0.len()
        }

        fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
            self.1.fetch_add(buffer.len() as u64, SeqCst);
            self.0.read(buffer, offset)
        }

        fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
            self.0.next_data(range)
        }

        fn knows_holes(&self) -> bool {
            self.0.knows_holes()
        }
    }

    #[test]
    fn however_much_differs_everything_is_read_once_and_only_that_is_written() {
        let world = World::new();
        world.keep(|_| ());
        for granule in (0..20).step_by(2) {
            world.write(granule * GRANULE + 77, b"to be taken back");
        }
        let folder = Folder::open(&world.set, Duration::ZERO).expect("open");
        let disk = folder.prove(0, true).unwrap_or_else(|e| panic!("{e}"));
        let (image, map) =
            (Image::open(&world.image(), true).expect("open"), DirtyMap::open(&world.map).expect("open"));
        map.reset_all().expect("reset");
        let mut answer = Answer::new(&folder, &folder.set.members[0], &world.image());
        let counted = Counted(&disk, AtomicU64::new(0));
        bring_back(&counted, &image, &map, &mut answer).unwrap_or_else(|e| panic!("{e}"));
        assert!(fs::read(world.image()).expect("read") == world.references.borrow()[0]);
        assert_eq!(
            (counted.1.into_inner(), answer.bytes_written, map.dirty_len()),
            (disk.len(), 10 * GRANULE, 10 * GRANULE)
        );
    }

    #[test]
    fn one_that_is_stopped_says_what_that_means_and_leaves_no_file() {
        let world = World::new();
        world.keep(|_| ());
        let folder = Folder::open(&world.set, Duration::ZERO).expect("open");
        let disk = folder.prove(0, true).unwrap_or_else(|e| panic!("{e}"));
        let out = world.image().with_file_name("out");
        // While it copies, while it verifies; and while the tracked image is brought back.
        for case in 0..3 {
            let mut answer = Answer::new(&folder, &folder.set.members[0], &out);
            AT_STEP.set(Some(Box::new(|step| signals::IN_TEST.set(step == "restored"))));
            signals::IN_TEST.set(case != 1);
            let ended = match case {
                2 => {
                    let map = DirtyMap::open(&world.map).expect("open");
                    bring_back(&disk, &Image::open(&world.image(), true).expect("open"), &map, &mut answer)
                }
                _ => to_new(&disk, &out, &mut answer),
            };
            signals::IN_TEST.set(false);
            AT_STEP.set(None);
            assert_eq!(ended.expect_err("stopped").message, "interrupted; the restore is not complete", "{case}");
            assert!(!out.exists());
        }
    }
}
