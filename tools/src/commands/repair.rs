//! `dirtymap repair`: what the library plans and does, told before and after; and putting it back.
//!
//! Invariant kept here: a map that needs nothing is not written; one that is written only gains dirt, and is checked
//! again.

use super::check::{Item, examine, items, ruin, severity_name, with_progress, write_items};
use super::info::{state_name, verdict_name};
use crate::cli::Repair;
use crate::exit::{Exit, Failure, Result};
use crate::map::open;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::text::{fold, say};
use dirtymap::{
    Error,
    error::Corruption,
    fsck::{FilePart, RepairPlan, Report, Severity, plan_repair, repair, undo_repair},
    info::Verdict,
};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// The JSON of `repair`; docs/cli.md describes it.
#[derive(Serialize)]
struct Answer {
    file: String,
    dry_run: bool,
    corrected: bool,
    actions: Vec<String>,
    changes: Vec<Change>,
    length_before: u64,
    length_after: u64,
    undo: Option<String>,
    added_bytes: u64,
    before: Look,
    after: Option<Look>,
}

/// Bytes that may be changed.
#[derive(Serialize)]
struct Change {
    part: String,
    offset: u64,
    length: u64,
}

/// A map as a check finds it.
#[derive(Serialize)]
struct Look {
    state: Option<&'static str>,
    verdict: &'static str,
    severity: Option<&'static str>,
    findings: Vec<Item>,
    dirty_bits: Option<u64>,
    dirty_bytes: Option<u64>,
}

/// The JSON of `repair --undo-from`.
#[derive(Serialize)]
struct Undone {
    file: String,
    undo: String,
    bytes: u64,
    length_before: u64,
    length_after: u64,
}

impl Look {
    fn new(report: &Report) -> Look {
        Look {
            state: Some(state_name(report.info.state)),
            verdict: verdict_name(report.info.verdict),
            severity: report.severity().map(severity_name),
            findings: items(report),
            dirty_bits: report.info.dirty.map(|d| d.0),
            dirty_bytes: report.info.dirty.map(|d| d.1),
        }
    }
}

pub fn run(args: &Repair, wait: Duration, output: Output) -> Result<Exit> {
    if let Some(from) = &args.undo_from {
        return put_back(&args.file, from, wait, output);
    }
    let planned = || Ok(with_progress("checking", |progress| plan_repair(&args.file, progress)));
    let plan = open::patiently(wait, planned)?;
    let before = look(&args.file)?;
    let needed = plan.is_needed();
    let mut answer = Answer {
        file: args.file.display().to_string(),
        dry_run: args.dry_run,
        corrected: needed && !args.dry_run,
        added_bytes: plan.needless,
        actions: plan.actions.clone(),
        changes: plan.ranges.iter().map(|(part, range)| change(*part, range)).collect(),
        length_before: plan.length.0,
        length_after: plan.length.1,
        undo: None,
        before,
        after: None,
    };
    if needed {
        if args.dry_run {
            // Asks for permission, and writes nothing.
            let opened = OpenOptions::new().write(true).open(&args.file);
            opened.map_err(|e| Failure::io(format_args!("{}: open for writing", args.file.display()), &e))?;
        } else {
            mend(args, wait, &mut answer)?;
        }
    }
    output.answer(&answer, human)?;
    Ok(if needed { Exit::Corrected } else { Exit::Fine })
}

fn change(part: FilePart, range: &std::ops::Range<u64>) -> Change {
    let part = match part {
        FilePart::Headers => "header copies".into(),
        FilePart::Table => "page table".into(),
        FilePart::Bottom => "bottom level".into(),
        _ => "behind the end".into(),
    };
    Change { part, offset: range.start, length: range.end - range.start }
}

/// The map as it is, also if it cannot be opened.
fn look(file: &Path) -> Result<Look> {
    match examine(file) {
        Ok(report) => Ok(Look::new(&report)),
        Err(Error::Corrupt { what: what @ Corruption::CutOff, place, found, expected, .. }) => Ok(Look {
            state: None,
            verdict: verdict_name(Verdict::Damaged),
            severity: Some(severity_name(Severity::Damage)),
            findings: vec![ruin(what, place, found, expected)],
            dirty_bits: None,
            dirty_bytes: None,
        }),
        Err(e) => Err(e.into()),
    }
}

/// Repairs, and looks again.
fn mend(args: &Repair, wait: Duration, answer: &mut Answer) -> Result<RepairPlan> {
    let undo = args.undo.as_deref();
    let done = with_progress("repairing", |progress| repair(&args.file, undo, wait, progress))?;
    let after = examine(&args.file)?;
    if after.severity() > Some(Severity::Note) {
        let left = after.findings.iter().max_by_key(|f| f.severity);
        let found = left.map(|f| format!("{}, found {}, expected {}", f.place, f.found, f.expected));
        let message = format!(
            "{}: was mended, and is not as it should be all the same ({}); look for what damages the disk",
            args.file.display(),
            found.unwrap_or_default()
        );
        return Err(Failure::new("not-mended", message));
    }
    if after.info.verdict == Verdict::Exact {
        // Also of a page cache that could be trusted, which says exactly what was set.
        answer.added_bytes = 0;
    }
    answer.undo = undo.map(|undo| undo.display().to_string());
    answer.after = Some(Look::new(&after));
    Ok(done)
}

fn put_back(file: &Path, undo: &Path, wait: Duration, output: Output) -> Result<Exit> {
    let undone = undo_repair(file, undo, wait).map_err(|e| match &e {
        Error::Corrupt { what: Corruption::Undo, path, place, found, expected } => {
            let message = format!(
                "{}: {place}: found {found}, expected {expected}; nothing was changed; give the file that --undo of a \
                 repair of {} has made",
                path.display(),
                file.display()
            );
            Failure::new(e.kind(), message)
        }
        _ => e.into(),
    })?;
    let answer = Undone {
        file: file.display().to_string(),
        undo: undo.display().to_string(),
        bytes: undone.bytes,
        length_before: undone.length.0,
        length_after: undone.length.1,
    };
    output.answer(&answer, |out, a| {
        let (file, bytes, undo) = (shown(&a.file), size::count(a.bytes, "byte"), shown(&a.undo));
        say!(out, "{file}: put back {bytes} from {undo}, as before the repair")?;
        say!(out, "length: {}, was {}", a.length_after, a.length_before)
    })?;
    Ok(Exit::Fine)
}

fn human(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
    write_items(out, &a.before.findings)?;
    let file = shown(&a.file);
    if a.actions.is_empty() {
        return say!(out, "{file}: nothing to mend; it was not written");
    }
    let (would, becomes) = if a.dry_run { ("would", "would become") } else { ("did", "became") };
    for action in &a.actions {
        fold(out, &format!("{would}: "), action)?;
    }
    for c in &a.changes {
        say!(
            out,
            "{} {} to {} ({})",
            if a.dry_run { "may change" } else { "may have changed" },
            c.offset,
            c.offset + c.length,
            c.part
        )?;
    }
    if a.length_before != a.length_after {
        say!(
            out,
            "length: {}, {would_be} {}",
            size::count(a.length_before, "byte"),
            a.length_after,
            would_be = if a.dry_run { "would be" } else { "now" }
        )?;
    }
    if let Some(undo) = &a.undo {
        say!(out, "undo: dirtymap repair {file} --undo-from {}", shown(undo))?;
    }
    match a.added_bytes {
        0 => say!(out, "{file}: nothing {becomes} dirty needlessly")?,
        n => say!(out, "{file}: up to {} {becomes} dirty needlessly", size::human(n))?,
    }
    if let Some(Look { state: Some(state), verdict, dirty_bytes: Some(bytes), .. }) = &a.after {
        say!(out, "now {state}, {verdict}, {} dirty, and checked: no errors", size::human(*bytes))?;
    }
    Ok(())
}
