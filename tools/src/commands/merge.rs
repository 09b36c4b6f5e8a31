//! `dirtymap merge`: adds the dirt of maps to another map.
//!
//! Invariant kept here: all sources were read and found right before the destination is opened for writing. Nothing is
//! ever reset.

use crate::cli::Merge;
use crate::exit::{Exit, Failure, Result};
use crate::files;
use crate::map::open::{self, With};
use crate::map::relation;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::signals;
use crate::terminal::text::say;
use dirtymap::{DirtyMap, info::Info};
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

#[derive(Serialize)]
struct Answer {
    file: String,
    sources: Vec<String>,
    added_bits: u64,
    added_bytes: u64,
    dirty_bits: u64,
    dirty_bytes: u64,
}

pub fn run(args: &Merge, wait: Duration, output: Output) -> Result<Exit> {
    let mut exit = Exit::Fine;
    let mut sources = Vec::new();
    for path in &args.sources {
        if files::same(path, &args.dest) {
            output.note(format_args!("{}: merging a map with itself changes nothing", path.display()));
            continue;
        }
        let (map, how) = open::for_reading(path, wait, output)?;
        exit = exit.max(how);
        sources.push((path.as_path(), map));
    }
    let acceptable = |info: &Info| {
        let dest = (args.dest.as_path(), info.geometry.len());
        sources.iter().try_for_each(|(path, map)| relation::equally_long(dest, (path, map.len())))
    };
    let counts = |map: &DirtyMap| (map.count(), map.dirty_len());
    let (before, after) = if sources.is_empty() {
        let (map, how) = open::for_reading(&args.dest, wait, output)?;
        exit = exit.max(how);
        (counts(&map), counts(&map))
    } else {
        let map = open::for_writing(&args.dest, With::Anybody, wait, output, acceptable)?;
        let before = counts(&map);
        let merged = sources.iter().try_for_each(|(path, source)| add(&map, path, source));
        let after = counts(&map);
        // Also after a failure: what was added is no harm.
        merged.and(open::close(map, output))?;
        (before, after)
    };
    let answer = Answer {
        file: args.dest.display().to_string(),
        sources: args.sources.iter().map(|path| path.display().to_string()).collect(),
        added_bits: after.0.saturating_sub(before.0),
        added_bytes: after.1.saturating_sub(before.1),
        dirty_bits: after.0,
        dirty_bytes: after.1,
    };
    output.answer(&answer, |out, a| {
        let (added, dirty) = (size::human(a.added_bytes), size::human(a.dirty_bytes));
        let granules = size::count(a.added_bits, "granule");
        say!(out, "{granules} became dirty ({added}); now {dirty} in {} are", a.dirty_bits)
    })?;
    Ok(exit)
}

fn add(dest: &DirtyMap, path: &Path, source: &DirtyMap) -> Result<()> {
    signals::check("some of the dirt was added; merge again for the rest")?;
    let added = dest.merge(source).map(drop).map_err(Failure::from);
    added.map_err(|failure| failure.and(format_args!("not all dirt of {} was added", path.display())))
}
