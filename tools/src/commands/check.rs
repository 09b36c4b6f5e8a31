//! `dirtymap check`: an offline fsck that changes nothing, with findings to act on.

use super::info::{not_kept_up, state_name, verdict_name};
use crate::cli::Check;
use crate::exit::{Exit, Failure, Result, is_without_header, make_anew};
use crate::map::relation::Relation;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::progress;
use crate::terminal::text::{fold, say};
use dirtymap::format::COPIES;
use dirtymap::{
    Error,
    error::Corruption,
    fsck::{Finding, Report, Severity, check, check_after_power_loss},
};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

/// The JSON of `check`; docs/cli.md describes it.
#[derive(Serialize)]
struct Answer {
    file: String,
    live: bool,
    assume_power_loss: bool,
    state: Option<&'static str>,
    verdict: &'static str,
    severity: Option<&'static str>,
    findings: Vec<Item>,
    omitted_findings: u64,
    omitted_pages: u64,
    unchecked: Vec<String>,
    pages_checked: u64,
    dirty_bits: Option<u64>,
    dirty_bytes: Option<u64>,
    image_match: Option<Relation>,
    summary: String,
    advice: String,
}

/// A finding as JSON and people see it.
#[derive(Serialize)]
pub(super) struct Item {
    severity: &'static str,
    place: String,
    found: String,
    expected: String,
    consequence: String,
    repair: String,
    count: u64,
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
        repair: f.repair.clone(),
        count: f.count,
    };
    report.findings.iter().map(item).collect()
}

/// Findings for people.
pub(super) fn write_items(out: &mut dyn Write, items: &[Item]) -> io::Result<()> {
    for f in items {
        fold(out, &format!("{}: ", f.severity), &f.place)?;
        fold(out, "  found        ", &f.found)?;
        fold(out, "  expected     ", &f.expected)?;
        fold(out, "  consequence  ", &f.consequence)?;
        fold(out, "  repair       ", &f.repair)?;
    }
    Ok(())
}

/// What a check ends with where a file cannot be opened, as a finding.
pub(super) fn ruin(what: Corruption, place: String, found: String, expected: String) -> Item {
    let repair = match what {
        Corruption::CutOff => "make everything dirty",
        _ => "nothing: there is nothing to go by",
    };
    Item {
        severity: "damage",
        place,
        found,
        expected,
        consequence: "full backup needed: the map cannot be opened, and what is dirty is not known".into(),
        repair: repair.into(),
        count: 1,
    }
}

/// Checks, showing progress.
pub(super) fn examine(file: &Path) -> dirtymap::Result<Report> {
    with_progress("checking", |progress| check(file, progress))
}

/// Shows how far something is.
pub(super) fn with_progress<R>(what: &'static str, f: impl FnOnce(&mut dyn FnMut(u64, u64)) -> R) -> R {
    let bar = progress::count(what, 0);
    let done = f(&mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    done
}

pub fn run(args: &Check, output: Output) -> Result<Exit> {
    if args.quiet && output.is_json() {
        return Err(Failure::usage("--quiet prints nothing, and --output json one value; give one of them"));
    }
    let look = |progress: &mut dyn FnMut(u64, u64)| match args.assume_power_loss {
        true => check_after_power_loss(&args.file, progress),
        false => check(&args.file, progress),
    };
    let checked = if args.quiet { look(&mut |_, _| {}) } else { with_progress("checking", look) };
    let (answer, exit) = match checked {
        Ok(report) => {
            let relation = args.image.as_deref().map(|image| Relation::of(&report.info, image)).transpose()?;
            let (mut answer, exit) = of_report(args, &report);
            if exit == Exit::Fine
                && !report.live
                && let Some(advice) = relation.as_ref().and_then(|relation| relation.advice(&args.file))
            {
                answer.advice = advice;
            }
            let exit = relation.as_ref().map_or(exit, |relation| exit.max(relation.exit()));
            (Answer { image_match: relation, ..answer }, exit)
        }
        Err(e) if is_without_header(&e) => return Err(e.into()),
        Err(Error::Corrupt { what, place, found, expected, .. }) => {
            of_ruin(args, what, ruin(what, place, found, expected))
        }
        Err(e) => return Err(e.into()),
    };
    if args.quiet {
        return Ok(exit);
    }
    output.answer(&answer, human)?;
    Ok(exit)
}

fn of_report(args: &Check, report: &Report) -> (Answer, Exit) {
    let (live, assumed) = (report.live, report.after_power_loss);
    let exit = match report.severity() {
        None | Some(Severity::Note) => Exit::Fine,
        Some(Severity::Unclean) => Exit::Unclean,
        Some(Severity::Damage) => Exit::Damage,
    };
    let (summary, advice) = told(args, report, exit);
    let answer = Answer {
        file: args.file.display().to_string(),
        live,
        assume_power_loss: assumed,
        state: Some(state_name(report.info.state)),
        verdict: verdict_name(report.info.verdict),
        severity: report.severity().map(severity_name),
        findings: items(report),
        omitted_findings: report.omitted.findings,
        omitted_pages: report.omitted.pages,
        unchecked: report.unchecked.clone(),
        pages_checked: report.pages_checked,
        dirty_bits: report.info.dirty.map(|d| d.0),
        dirty_bytes: report.info.dirty.map(|d| d.1),
        image_match: None,
        summary: summary.into(),
        advice,
    };
    (answer, exit)
}

/// What a report says in one line, and what to do.
fn told(args: &Check, report: &Report, exit: Exit) -> (&'static str, String) {
    let (live, assumed) = (report.live, report.after_power_loss);
    let file = args.file.display();
    let full_backup = format!("take a full backup (dirtymap backup {} TARGET --map {file} --full)", image_of(args));
    let all_dirty = report.findings.iter().any(|f| f.all_dirty);
    match exit {
        _ if live && !assumed => (
            "the map is live, other processes have it open: only its header was looked at",
            "check again when those processes have ended, or with --assume-power-loss what a power cut would leave"
                .into(),
        ),
        Exit::Unclean if assumed => (
            "after a power cut now: as after a crash; no dirt is missing, some is added",
            "nothing to do: recovery would make dirty what the findings say".into(),
        ),
        Exit::Fine if not_kept_up(&report.info) => (
            "no errors, but it was made of a bitmap that was not kept up",
            format!("{full_backup}: what was not recorded may be missing"),
        ),
        Exit::Fine => ("no errors", "nothing to do".into()),
        Exit::Unclean => (
            "not closed cleanly, as after a crash; no dirt is missing, some may have been added",
            format!(
                "nothing to do: the next command that writes recovers the map, and the next backup copies what is dirty{}",
                match report.info.recovery.added_items() {
                    0 => String::new(),
                    added => format!(", of which up to {} are so only for the crash", size::count(added, "byte")),
                }
            ),
        ),
        _ if all_dirty => {
            ("damage: everything counts as dirty", format!("{full_backup}, and look for what damages the disk"))
        }
        _ => (
            "damage; what failed counts as dirty, so no dirt is missing",
            format!(
                "dirtymap repair {file} --undo UNDO mends it; so does a backup, but for what is wrong with points; and look \
                 for what damages the disk"
            ),
        ),
    }
}

/// The image as it was given, else a word for it.
fn image_of(args: &Check) -> String {
    args.image.as_ref().map_or("IMAGE".into(), |image| image.display().to_string())
}

/// A map that cannot be opened although its header is there: no page table, or headers of two maps.
fn of_ruin(args: &Check, what: Corruption, finding: Item) -> (Answer, Exit) {
    let file = args.file.display();
    let advice = if what == Corruption::CutOff {
        format!(
            "dirtymap repair {file} --undo UNDO makes everything dirty; then take a full backup, and look for what cut the \
             file off"
        )
    } else {
        make_anew(&file, &image_of(args))
    };
    let answer = Answer {
        file: args.file.display().to_string(),
        live: false,
        assume_power_loss: args.assume_power_loss,
        state: None,
        verdict: "damaged",
        severity: Some("damage"),
        summary: format!("damage: the map cannot be used ({})", finding.place),
        findings: vec![finding],
        omitted_findings: 0,
        omitted_pages: 0,
        unchecked: vec!["everything else: this stands in its way".into()],
        pages_checked: 0,
        dirty_bits: None,
        dirty_bytes: None,
        image_match: None,
        advice,
    };
    (answer, Exit::Damage)
}

fn human(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
    write_items(out, &a.findings)?;
    for what in &a.unchecked {
        fold(out, "not checked: ", what)?;
    }
    if a.omitted_findings > 0 {
        let (findings, pages) =
            (size::count(a.omitted_findings, "more finding"), size::count(a.omitted_pages, "failed page"));
        say!(out, "and {findings} about {pages}")?;
    }
    let pages = size::count(a.pages_checked, "page");
    let looked_at = match a.findings.len() as u64 + a.omitted_findings {
        _ if a.state.is_none() || a.live && !a.assume_power_loss => String::new(),
        0 => format!(" ({COPIES} header copies, {pages})"),
        n => format!(" ({}; {COPIES} header copies, {pages})", size::count(n, "finding")),
    };
    fold(out, "", &format!("{}: {}{looked_at}", shown(&a.file), a.summary))?;
    if let (Some(state), verdict) = (a.state, a.verdict) {
        let live = if a.live { ", and in use" } else { "" };
        let assumed = if a.assume_power_loss { " after a power cut now" } else { "" };
        say!(out, "state: {state}{live}; verdict: {verdict}{assumed}")?;
    }
    if let (Some(bits), Some(bytes)) = (a.dirty_bits, a.dirty_bytes) {
        say!(out, "dirty: {} in {}", size::human(bytes), size::count(bits, "granule"))?;
    }
    if let Some(relation) = &a.image_match {
        fold(out, "image: ", &relation.text())?;
    }
    fold(out, "what to do: ", &shown(&a.advice).to_string())
}
