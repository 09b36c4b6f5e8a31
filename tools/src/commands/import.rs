//! `dirtymap import`: replaces the bits of a map by those of a raw file.
//!
//! Invariant kept here: nothing is changed before all of the input was read and found right; then bits are set first and
//! reset after that, so that at every moment everything is dirty that the map called dirty, or everything that the file
//! does.

use crate::cli::Import;
use crate::exit::{Exit, Failure, Result};
use crate::files::stdin;
use crate::files::{self, Image};
use crate::map::load::Loader;
use crate::map::open::{self, With};
use crate::map::raw::{self, Raw};
use crate::map::relation;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::progress;
use crate::terminal::text::say;
use dirtymap::{
    DirtyMap, Geometry,
    info::{Info, inspect},
};
use serde::Serialize;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

#[derive(Serialize)]
struct Answer {
    file: String,
    input: String,
    bytes: u64,
    added_bits: u64,
    removed_bits: u64,
    dirty_bits: u64,
    dirty_bytes: u64,
}

pub fn run(args: &Import, wait: Duration, output: Output) -> Result<Exit> {
    let geometry = inspect(&args.file)?.geometry;
    let input = if args.input == Path::new("-") {
        spool(&geometry)?
    } else {
        files::distinct(&[("map", &args.file), ("raw file", &args.input)])?;
        Image::open(&args.input, false)?
    };
    let raw = Raw::new(input, geometry)?;
    let bytes = raw::length(&geometry);
    raw_ones(&raw, "checking", |_| Ok(())).map_err(|failure| failure.and("nothing was changed"))?;
    let unchanged = |info: &Info| {
        relation::equally_long((&args.file, info.geometry.len()), (&args.file, geometry.len()))
            .map_err(|failure| failure.and("it was resized meanwhile"))
    };
    let map = open::for_writing(&args.file, With::Nobody, wait, output, unchanged)?;
    let before = map.count();
    let replaced = replace(&map, &raw);
    let (between, dirty_bits, dirty_bytes) = match replaced {
        Ok(between) => (between, map.count(), map.dirty_len()),
        Err(failure) => {
            // Best effort: the next open recovers.
            let _ = open::close(map, output);
            return Err(failure);
        }
    };
    open::close(map, output)?;
    let answer = Answer {
        file: args.file.display().to_string(),
        input: args.input.display().to_string(),
        bytes,
        added_bits: between - before,
        removed_bits: between - dirty_bits,
        dirty_bits,
        dirty_bytes,
    };
    output.answer(&answer, |out, a| {
        let (bits, granules) = (size::count(geometry.bits(), "bit"), |n| size::count(n, "granule"));
        say!(out, "imported {bits}: {} became dirty, {} clean", granules(a.added_bits), a.removed_bits)?;
        say!(out, "now {} in {} are dirty", size::human(a.dirty_bytes), granules(a.dirty_bits))
    })?;
    Ok(Exit::Fine)
}

/// Sets, then resets. Gives the dirty granules of the moment in between.
fn replace(map: &DirtyMap, raw: &Raw) -> Result<u64> {
    let half_set = |f: Failure| f.and("some granules that the file calls dirty may be dirty now; none was reset");
    let half_reset = |f: Failure| f.and("what the file calls dirty is dirty; not everything else was reset");
    let mut loader = Loader::new(map)?;
    let ones = raw_ones(raw, "reading", |bits| loader.add(bits))
        // Somebody may have cut the file meanwhile, and then the rest of it read as zeros.
        .and_then(|()| raw.unchanged())
        .and_then(|()| loader.finish())
        .map_err(half_set)?;
    let between = map.count();
    let reset = match ones {
        Some(ones) => map.intersect(&ones).map(drop).map_err(Failure::from),
        None => reset_others(map, raw),
    };
    reset.map_err(half_reset).map(|()| between)
}

/// Resets what is clean in the file, as it is read again.
fn reset_others(map: &DirtyMap, raw: &Raw) -> Result<()> {
    let geometry = map.geometry();
    let mut at = 0;
    let mut reset_before = |ones: Range<u64>| {
        let items = geometry.items_of(&(at..ones.start));
        at = ones.end;
        map.reset(items)?;
        Ok(())
    };
    raw_ones(raw, "resetting", &mut reset_before)?;
    raw.unchanged()?;
    let end = geometry.bits();
    reset_before(end..end)
}

/// Calls `f` for the runs of ones of the raw file, with progress.
fn raw_ones(raw: &Raw, what: &'static str, f: impl FnMut(Range<u64>) -> Result<()>) -> Result<()> {
    let bar = progress::bytes(what, raw.bytes());
    let done = raw.ones(&bar, f);
    bar.finish_and_clear();
    done
}

/// Standard input, which is as long as the map wants it at most.
fn spool(geometry: &Geometry) -> Result<Image> {
    let expected = raw::length(geometry);
    stdin::spool(|length| match length > expected {
        true => Err(raw::wrong_size(stdin::NAME, &format!("more than {expected}"), geometry)),
        false => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirtymap::Options;
    use std::fs;

    #[test]
    fn a_file_that_is_cut_after_it_was_checked_resets_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("raw");
        let map = Options::new().granularity(9).create(directory.path().join("map"), 1 << 20).expect("create");
        map.set(4096..8192).expect("set");
        fs::write(&path, [0xff; 256]).expect("write");
        let raw = Raw::new(Image::open(&path, false).expect("open"), *map.geometry()).expect("the right size");
        fs::File::options().write(true).open(&path).expect("open").set_len(0).expect("cut");
        let failure = replace(&map, &raw).expect_err("changed");
        assert_eq!(failure.kind, "image-changed");
        assert_eq!(map.dirty_len(), 4096);
    }
}
