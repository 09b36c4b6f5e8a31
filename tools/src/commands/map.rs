//! `dirtymap map`: the dirty and clean extents of a range, as `nbdinfo --map` shows those of an export.
//!
//! Invariant kept here: extents are printed as they are found; memory does not grow with their number.

use crate::cli::Map;
use crate::exit::{Exit, Failure, Result};
use crate::map::open;
use crate::size;
use crate::terminal::output::Output;
use dirtymap::{DirtyMap, ReadMap};
use serde::Serialize;
use std::ops::Range;
use std::time::Duration;

#[derive(Serialize)]
struct Extent {
    offset: u64,
    length: u64,
    r#type: u8,
    description: &'static str,
}

#[derive(Serialize)]
struct Total {
    size: u64,
    percent: f64,
    r#type: u8,
    description: &'static str,
}

fn describe(dirty: bool) -> (u8, &'static str) {
    if dirty { (1, "dirty") } else { (0, "clean") }
}

pub fn run(args: &Map, wait: Duration, output: Output) -> Result<Exit> {
    let end = match args.length {
        None => None,
        Some(length) => Some(args.start.checked_add(length).ok_or_else(|| {
            Failure::usage(format!("--start {} and --length {length} add up to more than 2^64", args.start))
        })?),
    };
    let (map, exit) = open::for_reading(&args.file, wait, output)?;
    let range = args.start..end.unwrap_or_else(|| map.len().max(args.start));
    map.geometry().check(&range)?;
    let since = match (&args.since, &args.from, &args.to) {
        (Some(since), ..) => Some(map.since_set(since)?),
        (None, Some(from), Some(to)) => Some(map.between_set(from, to)?),
        _ => None,
    };
    let runs = || {
        let run =
            |range: Range<u64>| since.as_ref().map_or_else(|| map.run(range.clone()), |since| since.run(range.clone()));
        runs_by(run, range.clone())
    };
    if args.totals {
        totals(&map, runs(), range.end - range.start, output)?
    } else {
        extents(runs(), output)?
    }
    map.verify_session()?;
    Ok(since.map_or(exit, |since| open::say_points(since.failed() > 0, exit, output)))
}

/// A part of a map whose items are all dirty or all clean.
pub(super) struct Run {
    pub dirty: bool,
    pub items: Range<u64>,
}

/// The runs of `range`, ascending and without gaps.
pub(super) fn runs(map: &DirtyMap, range: Range<u64>) -> impl Iterator<Item = dirtymap::Result<Run>> + '_ {
    runs_by(|range| map.run(range), range)
}

/// The same by whoever says how far the state of a range's start goes.
fn runs_by(
    run: impl Fn(Range<u64>) -> dirtymap::Result<Option<(bool, u64)>>,
    range: Range<u64>,
) -> impl Iterator<Item = dirtymap::Result<Run>> {
    let mut at = range.start;
    std::iter::from_fn(move || match run(at..range.end) {
        Ok(None) => None,
        Ok(Some((dirty, length))) => {
            let items = at..at + length;
            at = items.end;
            Some(Ok(Run { dirty, items }))
        }
        Err(e) => {
            at = range.end;
            Some(Err(e))
        }
    })
}

fn extents(runs: impl Iterator<Item = dirtymap::Result<Run>>, output: Output) -> Result<()> {
    let extents = runs.map(|run| {
        let Run { dirty, items } = run?;
        let (r#type, description) = describe(dirty);
        Ok(Extent { offset: items.start, length: items.end - items.start, r#type, description })
    });
    output.list(extents, |out, Extent { offset, length, r#type, description }| {
        writeln!(out, "{offset:>16} {length:>16} {type:>4}  {description}")
    })
}

fn totals(
    map: &DirtyMap,
    runs: impl Iterator<Item = dirtymap::Result<Run>>,
    length: u64,
    output: Output,
) -> Result<()> {
    let mut dirty_bytes = 0;
    for run in runs {
        let Run { dirty, items } = run?;
        dirty_bytes += if dirty { items.end - items.start } else { 0 };
    }
    map.verify_session()?;
    let total = |dirty: bool, size: u64| {
        let (r#type, description) = describe(dirty);
        Total { size, percent: size::percent(size, length), r#type, description }
    };
    let totals = [total(false, length - dirty_bytes), total(true, dirty_bytes)];
    output.answer(&totals, |out, totals| {
        // Of what there is, as `nbdinfo --map --totals` does.
        for Total { size, percent, r#type, description } in totals.iter().filter(|total| total.size > 0) {
            writeln!(out, "{size:>16} {percent:>5.1}% {type:>4}  {description}")?;
        }
        Ok(())
    })
}
