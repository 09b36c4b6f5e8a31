//! `dirtymap import-qcow2`: a new map with the bits of a bitmap in a qcow2 image.
//!
//! Invariant kept here: what is dirty in the bitmap is dirty in the map, and the map appears when all of it is
//! durable. A bitmap that was not saved is refused, or all dirty.

use crate::cli::{ImportQcow2, InUse};
use crate::exit::{Exit, Failure, Result};
use crate::files;
use crate::output::Output;
use crate::publish;
use crate::signals;
use crate::size;
use dirtymap::{DirtyMap, Options};
use dirtymap_cli::qcow2::{self, Chunks, Entry, ReadAt};
use indicatif::ProgressBar;
use serde::Serialize;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use tempfile::TempPath;

/// Dirty ranges with less than so many clean granules between them are armed together: 32 KiB of the file.
const NEAR: u64 = 1 << 18;
/// Dirty ranges that are armed together at most.
const TOGETHER: usize = 1 << 16;

#[derive(Serialize)]
struct Answer {
    image: String,
    bitmap: String,
    file: String,
    size: u64,
    granule_bytes: u64,
    bits: u64,
    dirty_bits: u64,
    dirty_bytes: u64,
    taken_as_dirty: Option<&'static str>,
}

pub fn run(args: &ImportQcow2, output: Output) -> Result<Exit> {
    let in_image = |e| failure(&args.image, e);
    let Some(name) = &args.bitmap else { return Err(unnamed(args)) };
    publish::vacant(&args.file)?;
    let file = files::Image::open(&args.image, false)?;
    let image = qcow2::Image::open((&file.file, file.size())).map_err(in_image)?;
    let refuse = |why: Option<&str>| match why {
        Some(why) if args.in_use == InUse::Refuse => Err(unreliable(&args.image, name, why)),
        _ => Ok(()),
    };
    // Before the directory is read, which may be anything then.
    refuse(image.inconsistent())?;
    let entry = image.find(name).map_err(in_image)?;
    let why_dirty = image.unreliable(&entry);
    refuse(why_dirty)?;
    let directory = publish::directory_beside(&args.file)?;
    let temp = directory.path().join("map");
    let map = Options::new()
        .granularity(entry.granularity())
        .dirty(why_dirty.is_some())
        .armed_bound(u64::MAX)
        .flush_interval(None)
        .create(&temp, image.virtual_size())?;
    let temp = TempPath::try_from_path(temp).map_err(|e| Failure::io(args.file.display(), &e))?;
    match why_dirty {
        Some(why) => output.note(format_args!("bitmap {name:?}: {why}; everything is taken for dirty")),
        None => {
            let chunks = image.chunks(&entry).map_err(in_image)?;
            let bar = output.progress_count("importing", chunks.bits());
            let loaded = load(&map, chunks, &bar, in_image);
            bar.finish_and_clear();
            loaded?;
            unchanged(&file, name, &entry)?;
        }
    }
    let answer = Answer {
        image: args.image.display().to_string(),
        bitmap: name.clone(),
        file: args.file.display().to_string(),
        size: map.len(),
        granule_bytes: map.geometry().granule(),
        bits: map.geometry().bits(),
        dirty_bits: map.count(),
        dirty_bytes: map.dirty_len(),
        taken_as_dirty: why_dirty,
    };
    map.close()?;
    publish::publish(temp, &args.file)?;
    output.answer(&answer, human)?;
    Ok(Exit::Fine)
}

fn human(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
    let h = size::human;
    writeln!(
        out,
        "created {} for {}, {} bits of {}, from bitmap {:?} of {}; {} in {} granules are dirty",
        a.file,
        h(a.size),
        a.bits,
        h(a.granule_bytes),
        a.bitmap,
        a.image,
        h(a.dirty_bytes),
        a.dirty_bits
    )
}

/// What is wrong with an image.
fn failure(path: &Path, e: qcow2::Error) -> Failure {
    match e {
        qcow2::Error::Io { bytes, offset, source } => {
            Failure::io(format_args!("{}: read {bytes} bytes at {offset}", path.display()), &source)
        }
        e => Failure::new(e.kind(), format!("{}: {e}", path.display())),
    }
}

/// Fails if somebody may have changed the bitmap since it was found. Whoever opens the image to write marks the bitmap
/// first, and may then move what was still to be read.
fn unchanged(file: &files::Image, name: &str, entry: &Entry) -> Result<()> {
    let image = qcow2::Image::open((&file.file, file.size())).map_err(|e| failure(&file.path, e))?;
    let same = image.find(name).is_ok_and(|now| now == *entry && image.unreliable(&now).is_none());
    if same && file.stamp_now()? == file.stamp {
        return Ok(());
    }
    let message = format!("{}: was changed while it was read; try again", file.path.display());
    Err(Failure::new("image-changed", message))
}

/// Whoever used the bitmap has not left it in order.
fn unreliable(image: &Path, name: &str, why: &str) -> Failure {
    let message = format!(
        "{}: bitmap {name:?} cannot be relied upon: {why}; let whoever uses the image end in order and try again, or \
         take everything for dirty (--in-use dirty)",
        image.display()
    );
    Failure::new("in-use", message)
}

/// No bitmap was named: a usage error, which says what there is if that can be found out.
fn unnamed(args: &ImportQcow2) -> Failure {
    let names = files::Image::open(&args.image, false).and_then(|file| {
        let image = qcow2::Image::open((&file.file, file.size()));
        image.and_then(|image| image.names()).map_err(|e| failure(&args.image, e))
    });
    let there = match names {
        Ok(names) => format!("{} has {}", args.image.display(), qcow2::listing(&names)),
        Err(e) => e.message,
    };
    Failure::usage(format!("give the name of a bitmap (--bitmap NAME); {there}"))
}

/// Sets what is dirty in a new map.
fn load<S: ReadAt>(
    map: &DirtyMap,
    chunks: Chunks<'_, S>,
    bar: &ProgressBar,
    in_image: impl Fn(qcow2::Error) -> Failure,
) -> Result<()> {
    let mut loader = Loader { map, ranges: Vec::new() };
    for chunk in chunks {
        signals::check("no map was made")?;
        let chunk = chunk.map_err(&in_image)?;
        chunk.runs(|bits| loader.add(bits))?;
        bar.set_position(chunk.bits.end);
    }
    loader.apply()
}

/// Collects dirty ranges, so that a sync is not paid for each.
struct Loader<'a> {
    map: &'a DirtyMap,
    /// In granules: ascending, not touching.
    ranges: Vec<Range<u64>>,
}

impl Loader<'_> {
    fn add(&mut self, bits: Range<u64>) -> Result<()> {
        let full = self.ranges.len() == TOGETHER;
        if let Some(last) = self.ranges.last_mut() {
            if last.end == bits.start {
                last.end = bits.end;
                return Ok(());
            }
            if full || bits.start - last.end >= NEAR {
                self.apply()?;
            }
        }
        self.ranges.push(bits);
        Ok(())
    }

    /// Sets from the first to the last, which arms all of it at once, and takes that back; then setting each takes
    /// neither a sync nor a lock.
    fn apply(&mut self) -> Result<()> {
        let (Some(first), Some(last)) = (self.ranges.first(), self.ranges.last()) else { return Ok(()) };
        let geometry = self.map.geometry();
        let all = geometry.items_of(&(first.start..last.end));
        self.map.set(all.clone())?;
        if self.ranges.len() > 1 {
            self.map.reset(all)?;
            for range in &self.ranges {
                self.map.set(geometry.items_of(range))?;
            }
        }
        self.ranges.clear();
        Ok(())
    }
}
