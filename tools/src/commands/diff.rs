//! `dirtymap diff`: what is dirty in one map and clean in the other.
//!
//! Invariant kept here: maps are compared item by item, whatever their granules; areas are printed as they are found.

use super::map::{Run, runs};
use crate::cli::Diff;
use crate::exit::{Exit, Result};
use crate::map::open;
use crate::map::relation;
use crate::size;
use crate::terminal::output::Output;
use dirtymap::DirtyMap;
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::cell::Cell;
use std::time::Duration;

/// Whose dirt an area is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    A,
    B,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    pub offset: u64,
    pub length: u64,
    pub only_in: Side,
}

/// Areas and bytes of one side.
#[derive(Clone, Copy, Default)]
struct Total {
    areas: u64,
    bytes: u64,
}

pub fn run(args: &Diff, wait: Duration, output: Output) -> Result<Exit> {
    let (a, exit_a) = open::for_reading(&args.a, wait, output)?;
    let (b, exit_b) = open::for_reading(&args.b, wait, output)?;
    relation::equally_long((&args.a, a.len()), (&args.b, b.len()))?;
    let totals = [Cell::new(Total::default()), Cell::new(Total::default())];
    let count = |d: &Difference| {
        let total = &totals[d.only_in as usize];
        let Total { areas, bytes } = total.get();
        total.set(Total { areas: areas + 1, bytes: bytes + d.length });
    };
    let mut named = false;
    let found = differences(&a, &b).inspect(|d| d.iter().for_each(count));
    output.list(found, |out, d| {
        if !named {
            named = true;
            writeln!(out, "- dirty only in {}\n+ dirty only in {}", shown(&args.a), shown(&args.b))?;
        }
        let sign = if d.only_in == Side::A { '-' } else { '+' };
        writeln!(out, "{sign}{:>16} {:>16}", d.offset, d.length)
    })?;
    a.verify_session()?;
    b.verify_session()?;
    let [in_a, in_b] = totals.map(Cell::into_inner);
    let different = in_a.areas + in_b.areas > 0;
    if !output.is_json() {
        output.stream(|out, _| {
            if !different {
                return writeln!(out, "no difference");
            }
            for (sign, total) in [('-', in_a), ('+', in_b)] {
                writeln!(out, "{sign} {} in {}", size::human(total.bytes), size::count(total.areas, "area"))?;
            }
            Ok(())
        })?;
    }
    Ok(exit_a.max(exit_b).max(if different { Exit::DIFFERENT } else { Exit::Fine }))
}

/// Maximal areas that are dirty in one of two equally long maps, ascending. Cost: the runs of both.
pub(super) fn differences<'a>(
    a: &'a DirtyMap,
    b: &'a DirtyMap,
) -> impl Iterator<Item = dirtymap::Result<Difference>> + 'a {
    let (mut in_a, mut in_b) = (runs(a, 0..a.len()), runs(b, 0..b.len()));
    let mut next = move |run_a: Option<Run>, run_b: Option<Run>| -> dirtymap::Result<Option<(Run, Run)>> {
        let run_a = run_a.map(Ok).or_else(|| in_a.next()).transpose()?;
        let run_b = run_b.map(Ok).or_else(|| in_b.next()).transpose()?;
        Ok(run_a.zip(run_b))
    };
    let (mut rest_a, mut rest_b) = (None, None);
    let mut failed = false;
    std::iter::from_fn(move || {
        while !failed {
            let (run_a, run_b) = match next(rest_a.take(), rest_b.take()) {
                Ok(Some(both)) => both,
                Ok(None) => return None,
                Err(e) => {
                    failed = true;
                    return Some(Err(e));
                }
            };
            // Both start at the same item; the longer one goes on behind the shorter.
            let end = run_a.items.end.min(run_b.items.end);
            let (offset, length) = (run_a.items.start, end - run_a.items.start);
            let dirty = (run_a.dirty, run_b.dirty);
            let rest = |run: Run| (run.items.end > end).then_some(Run { items: end..run.items.end, ..run });
            (rest_a, rest_b) = (rest(run_a), rest(run_b));
            match dirty {
                (true, false) => return Some(Ok(Difference { offset, length, only_in: Side::A })),
                (false, true) => return Some(Ok(Difference { offset, length, only_in: Side::B })),
                _ => {}
            }
        }
        None
    })
}
