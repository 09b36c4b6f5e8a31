//! `dirtymap repair`: what opening for writing mends, as a command of its own, told before and after.
//!
//! Invariant kept here: a map that needs nothing is not written; one that is written only gains dirt, and is checked
//! again.

use super::check::{Item, examine, items, severity_name, write_items};
use super::info::{state_name, verdict_name};
use crate::cli::Repair;
use crate::exit::{Exit, Failure, Result};
use crate::open;
use crate::output::Output;
use crate::size;
use dirtymap::{Error, FileState, Report, Severity, Verdict};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::time::Duration;

/// The JSON of `repair`; docs/json.md describes it.
#[derive(Serialize)]
struct Answer {
    file: String,
    dry_run: bool,
    corrected: bool,
    actions: Vec<String>,
    added_bytes: u64,
    before: Look,
    after: Option<Look>,
}

/// A map as a check finds it.
#[derive(Serialize)]
struct Look {
    state: &'static str,
    verdict: &'static str,
    severity: Option<&'static str>,
    findings: Vec<Item>,
    dirty_bits: Option<u64>,
    dirty_bytes: Option<u64>,
}

impl Look {
    fn new(report: &Report) -> Look {
        Look {
            state: state_name(report.info.state),
            verdict: verdict_name(report.info.verdict),
            severity: report.severity().map(severity_name),
            findings: items(report),
            dirty_bits: report.info.dirty.map(|d| d.0),
            dirty_bytes: report.info.dirty.map(|d| d.1),
        }
    }
}

pub fn run(args: &Repair, wait: Duration, output: Output) -> Result<Exit> {
    let before = open::patiently(wait, || Ok(examine_alone(args, output))).map_err(advise)?;
    let needed = needs(&before);
    let mut answer = Answer {
        file: args.file.display().to_string(),
        dry_run: args.dry_run,
        corrected: needed && !args.dry_run,
        actions: if needed { actions(&before) } else { Vec::new() },
        added_bytes: 0,
        before: Look::new(&before),
        after: None,
    };
    if needed {
        if let Some(why) = &before.not_writable {
            return Err(Failure::new("unsupported", why.clone()));
        }
        answer.added_bytes = added(&before, &before);
        if args.dry_run {
            // Asks for permission, and writes nothing.
            let opened = OpenOptions::new().write(true).open(&args.file);
            opened.map_err(|e| Failure::io(format_args!("{}: open for writing", args.file.display()), &e))?;
        } else {
            let after = mend(args, wait, &mut answer, &before, output)?;
            answer.after = Some(Look::new(&after));
        }
    }
    output.answer(&answer, human)?;
    Ok(if needed { Exit::Corrected } else { Exit::Fine })
}

/// Opens for writing, which mends, and closes.
fn mend(args: &Repair, wait: Duration, answer: &mut Answer, before: &Report, output: Output) -> Result<Report> {
    let map = open::for_writing(&args.file, open::With::Nobody, wait, output, |_| Ok(()))?;
    let trusted = map.recovery().cache_trusted == Some(true);
    if map.info()?.verdict == Verdict::Damaged
        && let Some(checkpoint) = map.checkpoint()?
    {
        // What it had frozen is not known any more, and so everything: that is what an abort puts back.
        map.abort_checkpoint(checkpoint.uuid)?;
    }
    open::close(map, output)?;
    let after = examine(&args.file, output)?;
    if needs(&after) {
        let left = after.findings.iter().max_by_key(|f| f.severity);
        let found = left.map(|f| format!("{}, found {}, expected {}", f.place, f.found, f.expected));
        let message = format!(
            "{}: was mended, and is not as it should be all the same ({}); look for what damages the disk",
            args.file.display(),
            found.unwrap_or_default()
        );
        return Err(Failure::new("not-mended", message));
    }
    // A page cache that can be trusted says exactly what was set.
    answer.added_bytes = if trusted { 0 } else { added(before, &after) };
    Ok(after)
}

/// Looks at a map that nobody else has open.
fn examine_alone(args: &Repair, output: Output) -> dirtymap::Result<Report> {
    let report = examine(&args.file, output)?;
    if report.info.state == FileState::Open {
        return Err(Error::Locked { path: args.file.clone(), what: "another process has it open" });
    }
    Ok(report)
}

/// What can be done about a map that cannot be opened.
fn advise(failure: Failure) -> Failure {
    if failure.kind != "corrupt" {
        return failure;
    }
    failure.and(
        "repair has nothing to go by: move this file away, make a new map for the image (dirtymap create FILE --image \
         IMAGE), which starts all dirty, and take a full backup",
    )
}

fn needs(report: &Report) -> bool {
    report.severity() > Some(Severity::Note)
}

/// What opening for writing does about the findings.
fn actions(report: &Report) -> Vec<String> {
    let found = &report.info.recovery;
    let mut actions = Vec::new();
    let mut when = |needed: bool, action: String| {
        if needed {
            actions.push(action);
        }
    };
    let (headers, pages) = (found.damaged_headers, found.damaged_pages + found.interrupted_pages);
    when(headers > 0, format!("write {headers} damaged header copies anew, from a good one"));
    when(pages > 0, format!("write {pages} pages that fail anew, as all dirty"));
    when(found.lost_granules.is_some(), "make everything dirty: pages and their entries were lost together".into());
    when(found.armed_items > 0, format!("make {} armed bytes dirty, and empty the armed list", found.armed_items));
    when(found.unclean, "close the map cleanly".into());
    actions
}

/// Bytes that are dirty in `after` only for want of knowledge in `before`.
fn added(before: &Report, after: &Report) -> u64 {
    let (Some(verified), Some(dirty)) = (before.verified, after.info.dirty) else { return 0 };
    dirty.1.saturating_sub(verified.1)
}

fn human(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
    write_items(out, &a.before.findings)?;
    if a.actions.is_empty() {
        return writeln!(out, "{}: nothing to mend; it was not written", a.file);
    }
    let (would, becomes) = if a.dry_run { ("would", "would become") } else { ("did", "became") };
    for action in &a.actions {
        writeln!(out, "{would}: {action}")?;
    }
    writeln!(out, "{}: up to {} {becomes} dirty needlessly", a.file, size::human(a.added_bytes))?;
    if let Some(Look { state, verdict, dirty_bytes: Some(bytes), .. }) = &a.after {
        writeln!(out, "now {state}, {verdict}, {} dirty, and checked: nothing is wrong", size::human(*bytes))?;
    }
    Ok(())
}
