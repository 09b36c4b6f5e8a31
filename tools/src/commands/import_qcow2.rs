//! `dirtymap import-qcow2`: a new map with the bits of a bitmap in a qcow2 image.
//!
//! Invariant kept here: what is dirty in the bitmap is dirty in the map, and the map appears when all of it is
//! durable. A bitmap that was not saved is refused, or all dirty; of one that is disabled, the map says that it may lack dirt.

use crate::cli::{Disabled, ImportQcow2, InUse};
use crate::exit::{Exit, Failure, Result};
use crate::files;
use crate::files::publish;
use crate::files::stdin;
use crate::map::load::{Loader, Made, New};
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::progress;
use crate::terminal::signals;
use crate::terminal::text::say;
use dirtymap::format::Reasons;
use dirtymap::{DirtyMap, Options};
use dirtymap_cli::qcow2::{self, Chunks, Entry, ReadAt};
use dirtymap_cli::shown::{shown, text_of};
use indicatif::ProgressBar;
use serde::Serialize;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

#[derive(Serialize)]
struct Answer {
    image: String,
    bitmap: String,
    #[serde(flatten)]
    made: Made,
    taken_as_dirty: Option<&'static str>,
    disabled: bool,
}

pub fn run(args: &ImportQcow2, output: Output) -> Result<Exit> {
    let Some(name) = &args.bitmap else { return Err(unnamed(args)) };
    publish::vacant(&args.file)?;
    let file = open(&args.image)?;
    let in_image = |e| failure(&file.path, e);
    let image = qcow2::Image::open((&file.file, file.size())).map_err(in_image)?;
    let refuse = |why: Option<&str>| match why {
        Some(why) if args.in_use == InUse::Refuse => Err(unreliable(&file.path, name, why)),
        _ => Ok(()),
    };
    // Before the directory is read, which may be anything then.
    refuse(image.inconsistent())?;
    let entry = image.find(name.as_bytes()).map_err(in_image)?;
    let unsaved = image.unreliable(&entry);
    refuse(unsaved)?;
    let disabled = unsaved.is_none() && entry.disabled();
    let why_dirty = match args.disabled {
        Disabled::Refuse if disabled => return Err(is_disabled(&file.path, name)),
        Disabled::Dirty if disabled => Some(DISABLED),
        _ => unsaved,
    };
    let mut options = Options::new().granularity(entry.granularity()).dirty(why_dirty.is_some()).like(&file.file);
    if disabled || unsaved.is_some() {
        options = options.added_dirt(Reasons::NOT_KEPT_UP);
    }
    let new = New::create(&args.file, options, image.virtual_size())?;
    match why_dirty {
        Some(why) => output.note(format_args!("bitmap {name:?}: {why}; everything is taken for dirty")),
        None => {
            if disabled {
                output
                    .note(format_args!("bitmap {name:?}: {DISABLED}; make a full backup unless that is what you want"));
            }
            let chunks = image.chunks(&entry).map_err(in_image)?;
            let bar = progress::count("importing", chunks.bits());
            let loaded = load(&new.map, chunks, &bar, in_image);
            bar.finish_and_clear();
            loaded?;
            unchanged(&file, name, &entry)?;
        }
    }
    let (image, bitmap) = (args.image.display().to_string(), text_of(name.as_bytes()));
    let answer = Answer { image, bitmap, made: new.publish(output)?, taken_as_dirty: why_dirty, disabled };
    output.answer(&answer, |out, a| {
        let m = &a.made;
        let granules = size::count(m.bits, "granule");
        let (h, dirty) = (size::human, size::count(m.dirty_bits, "granule"));
        say!(
            out,
            "created {} for {}, {granules} of {}, from bitmap {name:?} of {}; {} in {dirty} {} dirty",
            shown(&args.file),
            h(m.size),
            h(m.granule_bytes),
            shown(&file.path),
            h(m.dirty_bytes),
            if m.dirty_bits == 1 { "is" } else { "are" }
        )
    })?;
    Ok(Exit::Fine)
}

/// The image. What comes from a pipe is kept, as it is not read from front to back.
fn open(image: &Path) -> Result<files::Image> {
    if image == Path::new("-") { stdin::spool(|_| Ok(())) } else { files::Image::open(image, false) }
}

/// What is to be known of a disabled bitmap.
const DISABLED: &str = "it is disabled, so QEMU has not recorded in it what was written since";

/// Nothing says that the bitmap has what was written.
fn is_disabled(image: &Path, name: &OsStr) -> Failure {
    let message = format!(
        "{}: bitmap {name:?} is not kept up: {DISABLED}; take its bits as they are (--disabled take), or everything for \
         dirty (--disabled dirty)",
        shown(image)
    );
    Failure::new("disabled", message)
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
fn unchanged(file: &files::Image, name: &OsStr, entry: &Entry) -> Result<()> {
    let image = qcow2::Image::open((&file.file, file.size())).map_err(|e| failure(&file.path, e))?;
    let same = image.find(name.as_bytes()).is_ok_and(|now| now == *entry && image.unreliable(&now).is_none());
    if same && file.glance()?.equals(&file.stamp) {
        return Ok(());
    }
    let message = format!("{}: was changed while it was read; try again", file.path.display());
    Err(Failure::new("image-changed", message))
}

/// Whoever used the bitmap has not left it in order.
fn unreliable(image: &Path, name: &OsStr, why: &str) -> Failure {
    let message = format!(
        "{}: bitmap {name:?} cannot be relied upon: {why}; let whoever uses the image end in order and try again, or \
         take everything for dirty (--in-use dirty)",
        image.display()
    );
    Failure::new("in-use", message)
}

/// No bitmap was named: a usage error, which says what there is if that can be found out.
fn unnamed(args: &ImportQcow2) -> Failure {
    let listing = open(&args.image).and_then(|file| {
        let in_image = |e| failure(&file.path, e);
        let image = qcow2::Image::open((&file.file, file.size())).map_err(in_image)?;
        let listing = qcow2::listing(&image.entries().map_err(in_image)?);
        let more = image.inconsistent().map(|why| format!("; {why}")).unwrap_or_default();
        Ok(format!("{} has {listing}{more}", shown(&file.path)))
    });
    let there = listing.unwrap_or_else(|e| e.message);
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
