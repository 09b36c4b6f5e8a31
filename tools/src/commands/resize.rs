//! `dirtymap resize`: another length for a map, and a longer image to go with it.
//!
//! Invariant kept here: an image is grown only after its map was, durably, so that every byte that can be written can
//! be set. Images are never cut.

use crate::cli::Resize;
use crate::exit::{Exit, Failure, Result};
use crate::files::{self, Image};
use crate::map::open::{self, With};
use crate::map::relation;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::text::say;
use dirtymap::{
    DirtyMap, Geometry,
    info::{FileState, Info, inspect},
};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::io::{self, Write};
use std::time::Duration;

/// The JSON of `resize`; docs/cli.md describes it.
#[derive(Serialize)]
struct Answer {
    file: String,
    image: Option<String>,
    before: Shape,
    after: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
struct Shape {
    size: u64,
    bits: u64,
    dirty_bits: u64,
    dirty_bytes: u64,
}

impl Shape {
    fn new(geometry: &Geometry, (dirty_bits, dirty_bytes): (u64, u64)) -> Shape {
        Shape { size: geometry.len(), bits: geometry.bits(), dirty_bits, dirty_bytes }
    }

    fn of(map: &DirtyMap) -> Shape {
        Shape::new(map.geometry(), (map.count(), map.dirty_len()))
    }
}

pub fn run(args: &Resize, wait: Duration, output: Output) -> Result<Exit> {
    // Whatever the granularity.
    Geometry::new(args.size, dirtymap::MAX_GRANULARITY).map_err(|e| Failure::usage(e.to_string()))?;
    let image = args.image.as_deref().map(|path| Image::open(path, true)).transpose()?;
    if let Some(image) = &image {
        files::distinct(&[("image", &image.path), ("map", &args.file)])?;
        growable(image, args.size)?;
    }
    let info = inspect(&args.file)?;
    let nothing_to_do = info.geometry.len() == args.size && image.as_ref().is_none_or(|i| i.size() == args.size);
    let (before, after, exit) = match info.dirty {
        Some(dirty) if nothing_to_do && info.state != FileState::Open => {
            let shape = Shape::new(&info.geometry, dirty);
            (shape, shape, open::say(&info.recovery, false, output))
        }
        _ => {
            let (before, after) = change(args, image.as_ref(), wait, output)?;
            if info.image.is_some() && image.is_none() {
                output.note(format_args!(
                    "{} belongs to an image: once that has another size, the next command that uses both takes \
                     everything for dirty (with --image, resize grows the image and tells the map)",
                    args.file.display()
                ));
            }
            (before, after, Exit::Fine)
        }
    };
    let file = args.file.display().to_string();
    let answer = Answer { file, image: image.map(|i| i.path.display().to_string()), before, after };
    output.answer(&answer, human)?;
    Ok(exit)
}

/// Refuses an image that cannot become `size` bytes long by growing.
fn growable(image: &Image, size: u64) -> Result<()> {
    let refused = |why: String| Err(Failure::new("refused", format!("{} {why}", image.path.display())));
    if image.stamp.is_block_device() {
        return refused("is a block device, which has its size from elsewhere; resize the map without --image".into());
    }
    if size < image.size() {
        let has = image.size();
        return refused(format!(
            "has {has} bytes, more than {size}; resize does not cut images: shorten it by what knows its content, and \
             then resize the map without --image"
        ));
    }
    Ok(())
}

/// Resizes; gives the map as it was and as it is.
fn change(args: &Resize, image: Option<&Image>, wait: Duration, output: Output) -> Result<(Shape, Shape)> {
    let acceptable = |info: &Info| {
        Geometry::new(args.size, info.geometry.granularity())?;
        let Some(image) = image else { return Ok(()) };
        // One of them may have the new length already: this was interrupted in between, or another tool has grown the image.
        if info.geometry.len() != args.size && image.size() != args.size {
            relation::fits(info, &args.file, image)?;
        }
        relation::belongs(info, &args.file, image, &relation::another(&args.file, image))
    };
    let mut map = match image {
        Some(image) => open::for_writing_of(&args.file, With::Nobody, image, wait, output, acceptable)?.0,
        None => open::for_writing(&args.file, With::Nobody, wait, output, acceptable)?,
    };
    let before = Shape::of(&map);
    if let Err(e) = map.truncate(args.size) {
        // Best effort: the next open recovers.
        let _ = map.close();
        return Err(e.into());
    }
    let after = Shape::of(&map);
    let Some(image) = image else {
        open::close(map, output)?;
        return Ok((before, after));
    };
    let grown = image.file.set_len(args.size).map_err(|e| image.failed("set its size", &e)).and_then(|()| image.sync());
    open::cost(&map, output);
    // Also after a failure: the map is right for the image, whichever length that has.
    let closed = image.stamp_now().and_then(|stamp| {
        map.bind_image(&stamp)?;
        Ok(map.close_with_image(&stamp)?)
    });
    grown.and(closed).map_err(|failure| failure.and(format_args!("the map covers {} bytes now", args.size)))?;
    Ok((before, after))
}

fn human(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
    let (before, after) = (&a.before, &a.after);
    let (file, count) = (shown(&a.file), size::count);
    let covers = |s: &Shape| format!("{} ({}, {})", size::human(s.size), count(s.size, "byte"), count(s.bits, "bit"));
    if before == after {
        say!(out, "{file} covers {} already", covers(after))?;
    } else {
        say!(out, "{file} covered {}, covers {} now", covers(before), covers(after))?;
    }
    if let Some(image) = &a.image {
        say!(out, "{} has {} now", shown(image), count(after.size, "byte"))?;
    }
    if after.dirty_bytes < before.dirty_bytes {
        let forgotten = before.dirty_bytes - after.dirty_bytes;
        say!(out, "forgot {} of dirt past the new end", size::human(forgotten))?;
    }
    say!(out, "dirty: {} in {}", size::human(after.dirty_bytes), count(after.dirty_bits, "granule"))
}
