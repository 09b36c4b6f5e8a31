//! `dirtymap create`: a new map, for a size or for an image.

use super::info::Answer;
use crate::cli::{Create, Durability};
use crate::exit::{Exit, Failure, Result};
use crate::files::{self, Image};
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::progress;
use crate::terminal::text::say;
use dirtymap::{Error, Geometry, Options, info::inspect};
use dirtymap_cli::shown::shown;
use std::io::{self, Write};

pub fn run(args: &Create, output: Output) -> Result<Exit> {
    let mut options = Options::new()
        .granularity(args.granularity)
        .durability(match args.durability {
            Durability::PowerLoss => dirtymap::Durability::PowerLoss,
            Durability::Process => dirtymap::Durability::Process,
        })
        .dirty(args.dirty || args.image.is_some())
        .flush_interval(None);
    if let Some(label) = &args.label {
        if label.len() > dirtymap::format::MAX_LABEL || label.contains('\0') {
            let most = dirtymap::format::MAX_LABEL;
            return Err(Failure::usage(format!("found a label of {} bytes, expected at most {most}", label.len())));
        }
        options = options.label(label);
    }
    let image = args.image.as_deref().map(|path| Image::open(path, false)).transpose()?;
    if let Some(image) = image.as_ref().filter(|_| !args.raw) {
        image.is_raw()?;
    }
    let len = match (&image, args.size) {
        (Some(image), _) => image.size(),
        (None, size) => {
            let size = size.ok_or_else(|| Failure::usage("give --image or --size"))?;
            // Wrong by itself, whatever is in the way of the file.
            Geometry::new(size, args.granularity).map_err(geometry)?;
            size
        }
    };
    if let Some(image) = &image {
        files::distinct(&[("image", &image.path), ("map", &args.file)])?;
        // What is recorded here must be on the disk, or a crash would look like a change.
        image.sync()?;
        options = options.image(image.stamp_now()?).like(&image.file);
    }
    options.progress(progress::show()).create_closed(&args.file, len)?;
    if let Some(image) = image.filter(|image| image.stamp.is_block_device()) {
        output.note(image.untraceable());
    }
    let info = inspect(&args.file)?;
    output.answer(&Answer::new(&args.file, &info), human)?;
    Ok(Exit::Fine)
}

/// A length and granularity that no map can have.
fn geometry(e: Error) -> Failure {
    let advice = "use a larger granularity (-g) or a smaller size";
    Failure::usage(Failure::from(e).and(advice).message)
}

fn human(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
    let dirt = match a.dirty_bits {
        Some(0) => "all clean",
        _ => "all dirty: the first backup copies everything",
    };
    let (size, granule) = (size::human(a.size), size::human(a.granule_bytes));
    say!(out, "created {} for {size}, {} of {granule}, {dirt}", shown(&a.file), size::count(a.bits, "bit"))
}
