//! `dirtymap info`: what is in a map, how it was left, and the verdict.

use crate::cli;
use crate::exit::{Exit, Result};
use crate::map::open;
use crate::map::relation::Relation;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::text::fold;
use crate::time::time;
use dirtymap::format::Reasons;
use dirtymap::{
    Durability, ImageStamp,
    info::{FileState, Info, Verdict, inspect},
};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

/// The JSON of `info`; docs/cli.md describes it.
#[derive(Serialize)]
pub struct Answer {
    pub file: String,
    format_version: u32,
    uuid: String,
    label: String,
    pub size: u64,
    pub granule_bytes: u64,
    pub bits: u64,
    pub dirty_bits: Option<u64>,
    dirty_bytes: Option<u64>,
    state: &'static str,
    verdict: &'static str,
    reason: Option<String>,
    #[serde(skip)]
    not_kept_up: bool,
    armed_bytes: u64,
    intent_bytes: u64,
    checkpoint: Option<Checkpoint>,
    points: Vec<String>,
    levels: [u64; dirtymap::LEVELS],
    durability: &'static str,
    sequence: u64,
    created: Option<String>,
    last_open: Option<String>,
    last_clean: Option<String>,
    dirt_added: Option<String>,
    last_backup: Option<String>,
    image: Option<Stamp>,
    image_match: Option<Relation>,
    target: Option<Stamp>,
    begun: Option<Stamp>,
    audited: u64,
    audit_missed: u64,
    last_audit: Option<String>,
    live: bool,
}

#[derive(Serialize)]
struct Checkpoint {
    state: &'static str,
    uuid: String,
}

#[derive(Serialize)]
struct Stamp {
    kind: &'static str,
    pub size: u64,
    modified: Option<String>,
    inode: u64,
    device: u64,
    exact: bool,
}

impl Stamp {
    fn new(stamp: ImageStamp) -> Stamp {
        Stamp {
            kind: if stamp.is_block_device() { "block-device" } else { "file" },
            size: stamp.size(),
            modified: time(stamp.modified()),
            inode: stamp.inode(),
            device: stamp.device(),
            exact: stamp.is_exact(),
        }
    }
}

/// The names that JSON and people see.
pub fn state_name(state: FileState) -> &'static str {
    match state {
        FileState::Clean => "clean",
        FileState::Open => "open",
        FileState::Unclean => "unclean",
    }
}

/// Whether the map was made of a bitmap in which something may be missing.
pub(super) fn not_kept_up(info: &Info) -> bool {
    info.reasons.iter().any(|name| Reasons::NAMES.contains(&(Reasons::NOT_KEPT_UP, name)))
}

/// The names that JSON and people see.
pub fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Exact => "exact",
        Verdict::Superset => "superset",
        Verdict::Damaged => "damaged",
    }
}

impl Answer {
    pub fn new(file: &Path, info: &Info) -> Answer {
        let mut reasons: Vec<String> = info.reasons.iter().map(|r| r.to_string()).collect();
        if info.recovery.damaged_headers > 0 {
            reasons.push("damaged header copy".into());
        }
        Answer {
            file: file.display().to_string(),
            format_version: info.format_version,
            uuid: info.uuid.to_string(),
            label: info.label.clone(),
            size: info.geometry.len(),
            granule_bytes: info.geometry.granule(),
            bits: info.geometry.bits(),
            dirty_bits: info.dirty.map(|d| d.0),
            dirty_bytes: info.dirty.map(|d| d.1),
            state: state_name(info.state),
            verdict: verdict_name(info.verdict),
            reason: (!reasons.is_empty()).then(|| reasons.join(", ")),
            not_kept_up: not_kept_up(info),
            armed_bytes: info.armed_items,
            intent_bytes: info.intent_items,
            checkpoint: (info.checkpoint.as_ref())
                .map(|c| Checkpoint { state: c.state.name(), uuid: c.uuid.to_string() }),
            points: info.points.iter().map(|point| point.name.clone()).collect(),
            levels: info.level_words,
            durability: match info.durability {
                Durability::PowerLoss => "power-loss",
                Durability::Process => "process",
            },
            sequence: info.sequence,
            created: time(info.created),
            last_open: time(info.last_open),
            last_clean: time(info.last_clean),
            dirt_added: time(info.dirt_time),
            last_backup: time(info.backup_time),
            image: info.image.map(Stamp::new),
            image_match: None,
            target: info.target.map(Stamp::new),
            begun: info.begun.map(Stamp::new),
            audited: info.audited,
            audit_missed: info.audit_missed,
            last_audit: time(info.audit_time),
            live: info.state == FileState::Open,
        }
    }

    /// For people: a line per fact.
    pub fn human(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
        let mut line = |name: &str, value: String| fold(out, &format!("{name:<13}"), &value);
        line("file", shown(&a.file).to_string())?;
        if !a.label.is_empty() {
            line("label", shown(&a.label).to_string())?;
        }
        line("tracks", format!("{} ({})", size::human(a.size), size::count(a.size, "byte")))?;
        line("granularity", format!("{} a bit, {}", size::human(a.granule_bytes), size::count(a.bits, "bit")))?;
        line("dirty", dirty(a))?;
        line("state", state(a))?;
        line("verdict", verdict(a))?;
        let by_intent = match a.intent_bytes {
            0 => String::new(),
            bytes => format!("; {} of them as the last checkpoint froze them", size::count(bytes, "byte")),
        };
        let armed = size::count(a.armed_bytes, "byte");
        line("armed", format!("{armed} that a crash of the writer makes dirty, or has made{by_intent}"))?;
        line("durability", a.durability.into())?;
        if let Some(c) = &a.checkpoint {
            line("checkpoint", format!("{} {}", c.state, c.uuid))?;
        }
        if !a.points.is_empty() {
            let names: Vec<_> = a.points.iter().map(|name| format!("{name:?}")).collect();
            line("points", format!("{}, oldest first", names.join(", ")))?;
        }
        line("image", a.image.as_ref().map_or("none recorded".into(), |s| stamp(s, "times not recorded")))?;
        if let Some(relation) = &a.image_match {
            line("", relation.text())?;
        }
        let backup = match (&a.target, &a.last_backup) {
            (None, _) => "none so far".into(),
            (Some(t), when) => {
                let when = when.as_deref().unwrap_or("never");
                format!("completed {when}; target: {}", stamp(t, "times not recorded"))
            }
        };
        line("backup", backup)?;
        if let Some(begun) = &a.begun {
            line("", format!("begun and not complete; target: {}", stamp(begun, "being written")))?;
        }
        if a.audited > 0 {
            let when = a.last_audit.as_deref().unwrap_or("never");
            line("audited", format!("{}, {} missed; last {when}", size::count(a.audited, "granule"), a.audit_missed))?;
        }
        let or_never = |t: &Option<String>| t.clone().unwrap_or_else(|| "never".into());
        line("created", or_never(&a.created))?;
        line("last open", or_never(&a.last_open))?;
        line("last clean", or_never(&a.last_clean))?;
        line("levels", a.levels.map(|words| words.to_string()).join(" ") + " words, top first")?;
        line("format", format!("{}, commit {}, uuid {}", a.format_version, a.sequence, a.uuid))
    }
}

fn dirty(a: &Answer) -> String {
    let (Some(bits), Some(bytes)) = (a.dirty_bits, a.dirty_bytes) else {
        return "not known while another process has the map open for itself".into();
    };
    let (granules, percent) = (size::count(bits, "granule"), size::percent(bytes, a.size));
    format!("{} in {granules} ({}, {percent:.1}%)", size::human(bytes), size::count(bytes, "byte"))
}

fn state(a: &Answer) -> String {
    let more = match a.state {
        "clean" => "closed in order",
        "open" if a.dirty_bits.is_some() => "other processes have it open and share it; what is dirty is as of now",
        "open" => "another process has it open for itself; this is what the header says",
        _ => "whoever had it open died; the next writer recovers it",
    };
    format!("{}: {more}", a.state)
}

fn verdict(a: &Answer) -> String {
    let more = match a.verdict {
        "exact" => "just what was set",
        "superset" if a.not_kept_up => {
            "more may be dirty than was set, and what was not recorded may be missing; a full backup ends that"
        }
        "superset" => {
            "nothing is missing, and more may be dirty than was set; a completed backup or `reset --all` ends that"
        }
        _ => "what fails counts as dirty; run `dirtymap check`",
    };
    let reason = a.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
    format!("{}{reason}: {more}", a.verdict)
}

fn stamp(s: &Stamp, inexact: &str) -> String {
    let kind = if s.kind == "file" { "file" } else { "block device" };
    let modified = match &s.modified {
        Some(m) if s.exact => format!("modified {m}"),
        _ if s.kind == "block-device" => "modification time not known".into(),
        _ => inexact.into(),
    };
    format!("{kind} of {}, {modified}, inode {} on device {:#x}", size::human(s.size), s.inode, s.device)
}

pub fn run(args: &cli::Info, output: Output) -> Result<Exit> {
    let info = inspect(&args.file)?;
    let relation = args.image.as_deref().map(|image| Relation::of(&info, image)).transpose()?;
    let exit = open::say(&info.recovery, false, output);
    let exit = relation.as_ref().map_or(exit, |relation| exit.max(relation.exit()));
    output.answer(&Answer { image_match: relation, ..Answer::new(&args.file, &info) }, Answer::human)?;
    Ok(exit)
}
