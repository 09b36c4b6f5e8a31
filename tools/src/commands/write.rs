//! `dirtymap write`: standard input into an image, tracked.
//!
//! Invariant kept here: a byte of the image is written only after its range was set, in a bracket that a freeze waits for. Whatever
//! fails, what was written is dirty.

use crate::cli::Write;
use crate::exit::{Exit, Failure, Result};
use crate::files::stdin;
use crate::files::{self, Image, PIECE};
use crate::map::open::{self, With};
use crate::map::relation;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::progress;
use crate::terminal::text::say;
use dirtymap::{DirtyMap, info::Info};
use serde::Serialize;
use std::time::Duration;

#[derive(Serialize)]
struct Answer {
    image: String,
    map: String,
    offset: u64,
    bytes_written: u64,
    dirty_bits: u64,
    dirty_bytes: u64,
}

pub fn run(args: &Write, wait: Duration, output: Output) -> Result<Exit> {
    let image = Image::open(&args.image, true)?;
    files::distinct(&[("image", &args.image), ("map", &args.map)])?;
    let acceptable = |info: &Info| {
        relation::fits(info, &args.map, &image)?;
        relation::belongs(info, &args.map, &image, &relation::another(&args.map, &image))?;
        // Whoever made the map for the image was asked.
        if info.image.is_none() && !args.raw {
            image.is_raw()?;
        }
        if args.at > image.size() {
            let message =
                format!("--at {} is past the end of {}: it has {} bytes", args.at, image.path.display(), image.size());
            return Err(Failure::new("out-of-range", message));
        }
        Ok(())
    };
    let (map, _) = open::for_writing_of(&args.map, With::NoSnapshot, &image, wait, output, acceptable)?;
    map.bind_image(&image.stamp)?;
    let (written, copied) = copy(&map, &image, args.at);
    let (dirty_bits, dirty_bytes) = (map.count(), map.dirty_len());
    open::cost(&map, output);
    // Also after a failure: what was written is set, and the map says so best when it is closed.
    let syncing = progress::busy("syncing");
    let closed = open::close_with(map, &image);
    syncing.finish_and_clear();
    if let Err(failure) = copied.and(closed) {
        let range = args.at..args.at + written;
        let done = if written == 0 {
            "nothing was written".into()
        } else {
            let were = if written == 1 { "was" } else { "were" };
            format!("{} {were} written, {} to {}; that is dirty", size::count(written, "byte"), range.start, range.end)
        };
        return Err(failure.and(done));
    }
    let answer = Answer {
        image: args.image.display().to_string(),
        map: args.map.display().to_string(),
        offset: args.at,
        bytes_written: written,
        dirty_bits,
        dirty_bytes,
    };
    output.answer(&answer, |out, a| {
        let (end, dirty) = (a.offset + a.bytes_written, size::human(a.dirty_bytes));
        let bytes = size::count(a.bytes_written, "byte");
        say!(out, "wrote {bytes}, {} to {end}; now {dirty} are dirty", a.offset)
    })?;
    Ok(Exit::Fine)
}

/// Copies piece by piece; gives the bytes of whole pieces written, and how it ended.
fn copy(map: &DirtyMap, image: &Image, at: u64) -> (u64, Result<()>) {
    let mut buffer = vec![0; PIECE as usize];
    let mut offset = at;
    let ended = loop {
        // Up to the next multiple of a piece, and at least a byte more than there is room for at the end.
        let room = (PIECE - offset % PIECE) as usize;
        let piece = match stdin::fill(&mut buffer[..room]) {
            Ok([]) => break Ok(()),
            Ok(piece) => &*piece,
            Err(failure) => break Err(failure),
        };
        if let Err(failure) = write_piece(map, image, piece, offset) {
            break Err(failure);
        }
        offset += piece.len() as u64;
    };
    (offset - at, ended)
}

fn write_piece(map: &DirtyMap, image: &Image, piece: &[u8], offset: u64) -> Result<()> {
    let end = offset + piece.len() as u64;
    if end > image.size() {
        let message = format!(
            "there is more input than room: {} ends at {}, this piece would reach to {end} at least",
            image.path.display(),
            image.size()
        );
        return Err(Failure::new("out-of-range", message));
    }
    let _write = map.begin_write(offset..end)?;
    image.write(piece, offset)
}
