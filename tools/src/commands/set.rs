//! `dirtymap set` and `dirtymap reset`.
//!
//! Invariant kept here: a range that will be refused is refused before the map is opened for writing.

use crate::cli::{Reset, SetRange};
use crate::exit::{Exit, Failure, Result};
use crate::map::open::{self, With};
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::text::say;
use dirtymap::{DirtyMap, info::Info};
use serde::Serialize;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

#[derive(Serialize)]
struct Answer {
    file: String,
    operation: &'static str,
    offset: u64,
    length: u64,
    dirty_bits: u64,
    dirty_bytes: u64,
}

pub fn set(args: &SetRange, wait: Duration, output: Output) -> Result<Exit> {
    let range = range(args.offset, args.length)?;
    let acceptable = |info: &Info| Ok(info.geometry.check(&range)?);
    let map = open::for_writing(&args.file, With::Anybody, wait, output, acceptable)?;
    let set = map.set(range.clone());
    finish(&args.file, map, "set", set, range, output)
}

pub fn reset(args: &Reset, wait: Duration, output: Output) -> Result<Exit> {
    let asked = match (args.offset, args.length) {
        (Some(offset), Some(length)) => Some(range(offset, length)?),
        _ => None,
    };
    let exact = !args.within && !args.covering;
    let acceptable = |info: &Info| {
        let Some(range) = &asked else { return Ok(()) };
        info.geometry.check(range)?;
        if exact {
            info.geometry.exact(range)?;
        }
        Ok(())
    };
    let map = open::for_writing(&args.file, With::Anybody, wait, output, acceptable)?;
    let done = asked.clone().unwrap_or(0..map.len());
    let reset = match asked {
        None => map.reset_all(),
        Some(range) if args.within => map.reset_within(range),
        Some(range) if args.covering => map.reset_covering(range),
        Some(range) => map.reset(range),
    };
    finish(&args.file, map, "reset", reset, done, output)
}

/// The bytes from `offset` on.
fn range(offset: u64, length: u64) -> Result<Range<u64>> {
    let end = offset.checked_add(length).ok_or_else(|| {
        Failure::usage(format!("offset {offset} and length {length} add up to more than 2^64; no map reaches that far"))
    })?;
    Ok(offset..end)
}

/// Closes the map, also if what was `done` failed, and says what it holds.
fn finish(
    file: &Path,
    map: DirtyMap,
    operation: &'static str,
    done: dirtymap::Result<u64>,
    range: Range<u64>,
    output: Output,
) -> Result<Exit> {
    if let Err(e) = done {
        // Without a count: who has stopped it need not wait for that.
        let _ = open::close(map, output);
        return Err(e.into());
    }
    let answer = Answer {
        file: file.display().to_string(),
        operation,
        offset: range.start,
        length: range.end - range.start,
        dirty_bits: map.count(),
        dirty_bytes: map.dirty_len(),
    };
    open::close(map, output)?;
    output.answer(&answer, |out, a| {
        say!(
            out,
            "{operation} bytes {} to {}; now {} in {} are dirty",
            range.start,
            range.end,
            size::human(a.dirty_bytes),
            size::count(a.dirty_bits, "granule")
        )
    })?;
    Ok(Exit::Fine)
}
