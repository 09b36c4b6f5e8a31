//! `dirtymap import-qcow2`: a new map with the bits of a bitmap in a qcow2 image.
//!
//! Invariant kept here: what is dirty in the bitmap is dirty in the map, and the map appears when all of it is
//! durable. A bitmap that was not saved is refused, or all dirty.

use crate::cli::{ImportQcow2, InUse};
use crate::exit::{Exit, Failure, Result};
use crate::files;
use crate::load::{Loader, Made, New};
use crate::output::Output;
use crate::publish;
use crate::signals;
use crate::size;
use dirtymap::{DirtyMap, Options};
use dirtymap_cli::qcow2::{self, Chunks, Entry, ReadAt};
use indicatif::ProgressBar;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

#[derive(Serialize)]
struct Answer {
    image: String,
    bitmap: String,
    #[serde(flatten)]
    made: Made,
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
    let options = Options::new().granularity(entry.granularity()).dirty(why_dirty.is_some()).like(&file.file);
    let new = New::create(&args.file, options, image.virtual_size())?;
    match why_dirty {
        Some(why) => output.note(format_args!("bitmap {name:?}: {why}; everything is taken for dirty")),
        None => {
            let chunks = image.chunks(&entry).map_err(in_image)?;
            let bar = output.progress_count("importing", chunks.bits());
            let loaded = load(&new.map, chunks, &bar, in_image);
            bar.finish_and_clear();
            loaded?;
            unchanged(&file, name, &entry)?;
        }
    }
    let (image, bitmap) = (args.image.display().to_string(), name.clone());
    let answer = Answer { image, bitmap, made: new.publish(output)?, taken_as_dirty: why_dirty };
    output.answer(&answer, human)?;
    Ok(Exit::Fine)
}

fn human(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
    let (h, m) = (size::human, &a.made);
    writeln!(
        out,
        "created {} for {}, {} bits of {}, from bitmap {:?} of {}; {} in {} granules are dirty",
        m.file,
        h(m.size),
        m.bits,
        h(m.granule_bytes),
        a.bitmap,
        a.image,
        h(m.dirty_bytes),
        m.dirty_bits
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
    let mut loader = Loader::new(map)?;
    for chunk in chunks {
        signals::check("no map was made")?;
        let chunk = chunk.map_err(&in_image)?;
        chunk.runs(|bits| loader.add(bits))?;
        bar.set_position(chunk.bits.end);
    }
    loader.finish().map(drop)
}
