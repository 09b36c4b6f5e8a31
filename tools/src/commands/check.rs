//! `dirtymap check`: an offline fsck that changes nothing, with findings to act on.

use super::info::{state_name, verdict_name};
use crate::cli::Check;
use crate::exit::{Exit, Failure, Result};
use crate::output::Output;
use crate::size;
use dirtymap::{Error, FileState, Finding, Report, Severity, check};
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

/// The JSON of `check`; docs/json.md describes it.
#[derive(Serialize)]
struct Answer {
    file: String,
    live: bool,
    state: Option<&'static str>,
    verdict: &'static str,
    severity: Option<&'static str>,
    findings: Vec<Item>,
    unchecked: Vec<String>,
    pages_checked: u64,
    dirty_bits: Option<u64>,
    dirty_bytes: Option<u64>,
    summary: String,
    advice: &'static str,
}

/// A finding as JSON and people see it.
#[derive(Serialize)]
pub(super) struct Item {
    severity: &'static str,
    place: String,
    found: String,
    expected: String,
    consequence: String,
}

/// The names that JSON and people see.
pub(super) fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Unclean => "unclean",
        Severity::Damage => "damage",
    }
}

/// The findings of a report.
pub(super) fn items(report: &Report) -> Vec<Item> {
    let item = |f: &Finding| Item {
        severity: severity_name(f.severity),
        place: f.place.clone(),
        found: f.found.clone(),
        expected: f.expected.clone(),
        consequence: f.consequence.clone(),
    };
    report.findings.iter().map(item).collect()
}

/// Findings for people.
pub(super) fn write_items(out: &mut dyn Write, items: &[Item]) -> io::Result<()> {
    for f in items {
        writeln!(out, "{}: {}", f.severity, f.place)?;
        writeln!(out, "  found        {}", f.found)?;
        writeln!(out, "  expected     {}", f.expected)?;
        writeln!(out, "  consequence  {}", f.consequence)?;
    }
    Ok(())
}

/// Checks, showing progress.
pub(super) fn examine(file: &Path, output: Output) -> dirtymap::Result<Report> {
    let bar = output.progress_count("checking", 0);
    let checked = check(file, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    checked
}

pub fn run(args: &Check, output: Output) -> Result<Exit> {
    if args.quiet && output.is_json() {
        return Err(Failure::usage("--quiet prints nothing, and --output json one value; give one of them"));
    }
    let checked = if args.quiet { check(&args.file, |_, _| {}) } else { examine(&args.file, output) };
    let file = args.file.display().to_string();
    let (answer, exit) = match checked {
        Ok(report) => of_report(file, &report),
        Err(Error::Corrupt { place, found, expected, .. }) => of_ruin(file, place, found, expected),
        Err(e) => return Err(e.into()),
    };
    if args.quiet {
        return Ok(exit);
    }
    output.answer(&answer, human)?;
    Ok(exit)
}

fn of_report(file: String, report: &Report) -> (Answer, Exit) {
    let live = report.info.state == FileState::Open;
    let exit = match report.severity() {
        None | Some(Severity::Note) => Exit::Fine,
        Some(Severity::Unclean) => Exit::Unclean,
        Some(Severity::Damage) => Exit::Damage,
    };
    let full_backup = report.findings.iter().any(|f| f.severity == Severity::Damage && f.consequence.contains("full"));
    let (summary, advice) = match exit {
        _ if live => (
            "the map is live, other processes have it open: only its header was looked at",
            "check again when those processes have ended",
        ),
        Exit::Fine => ("nothing is wrong", "nothing to do"),
        Exit::Unclean => (
            "not closed cleanly, as after a crash; no dirt is missing, some may have been added",
            "nothing to do: the next command that writes recovers the map, and the next backup copies a little more",
        ),
        _ if full_backup => (
            "damage, and dirt may be missing",
            "take a full backup (dirtymap backup IMAGE TARGET --map FILE --full), and look for what damages the disk",
        ),
        _ => (
            "damage; what failed counts as dirty, so no dirt is missing",
            "take a backup soon: it mends the map and copies what counts as dirty; and look for what damages the disk",
        ),
    };
    let answer = Answer {
        file,
        live,
        state: Some(state_name(report.info.state)),
        verdict: verdict_name(report.info.verdict),
        severity: report.severity().map(severity_name),
        findings: items(report),
        unchecked: report.unchecked.clone(),
        pages_checked: report.pages_checked,
        dirty_bits: report.info.dirty.map(|d| d.0),
        dirty_bytes: report.info.dirty.map(|d| d.1),
        summary: summary.into(),
        advice,
    };
    (answer, exit)
}

/// A map that cannot be opened: no usable header, or no page table.
fn of_ruin(file: String, place: String, found: String, expected: String) -> (Answer, Exit) {
    let summary = format!("damage: the map cannot be used ({place})");
    let consequence = "the map cannot be opened: what is dirty is not known, so everything must be copied".into();
    let answer = Answer {
        file,
        live: false,
        state: None,
        verdict: "damaged",
        severity: Some("damage"),
        findings: vec![Item { severity: "damage", place, found, expected, consequence }],
        unchecked: vec!["everything else: this stands in its way".into()],
        pages_checked: 0,
        dirty_bits: None,
        dirty_bytes: None,
        summary,
        advice: "move this file away, make a new map for the image (dirtymap create FILE --image IMAGE), which starts \
                 all dirty, and take a full backup",
    };
    (answer, Exit::Damage)
}

fn human(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
    write_items(out, &a.findings)?;
    for what in &a.unchecked {
        writeln!(out, "not checked: {what}")?;
    }
    let count = match a.findings.len() {
        0 => "no findings".into(),
        1 => "1 finding".into(),
        n => format!("{n} findings"),
    };
    writeln!(out, "{}: {} ({count}, {} pages checked)", a.file, a.summary, a.pages_checked)?;
    if let (Some(bits), Some(bytes)) = (a.dirty_bits, a.dirty_bytes) {
        writeln!(out, "dirty: {} in {bits} granules", size::human(bytes))?;
    }
    writeln!(out, "what to do: {}", a.advice)
}
