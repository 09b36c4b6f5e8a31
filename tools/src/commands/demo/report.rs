//! What the demo tells.

use super::Place;
use super::round::Round;
use crate::backup::Outcome;
use crate::size::{count, human};
use crate::terminal::output::Output;
use crate::terminal::text::{fold, say};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::io::{self, Write};

/// The JSON of `demo`; docs/cli.md describes it.
#[derive(Serialize)]
pub struct Answer {
    image: String,
    origin: String,
    size: u64,
    granule_bytes: u64,
    seed: u64,
    pub first: Option<Outcome>,
    pub rounds: Vec<Round>,
    /// Members of the set that was kept beside.
    pub members: u64,
    /// Image and backup were equal, byte for byte, after every backup, and the first member of the set, restored, is what the image
    /// was then.
    pub identical: bool,
}

impl Answer {
    pub fn new(place: &Place, origin: &str, size: u64, seed: u64) -> Answer {
        Answer {
            image: place.image.display().to_string(),
            origin: origin.to_string(),
            size,
            granule_bytes: 1 << super::GRANULARITY,
            seed,
            first: None,
            rounds: Vec::new(),
            members: 0,
            identical: false,
        }
    }
}

/// Tells something as it happens; in JSON everything comes at the end.
pub fn announce(output: Output, tell: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
    if !output.is_json() {
        // A reader that went away does not end the demo.
        let mut out = io::stdout().lock();
        let _ = tell(&mut out).and_then(|()| out.flush());
    }
}

pub fn beginning(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
    say!(out, "image    {}: {}, {}", shown(&a.image), human(a.size), shown(&a.origin))?;
    say!(out, "map      one bit per {}, all dirty at first; seed {}", human(a.granule_bytes), a.seed)
}

pub fn full(out: &mut dyn Write, o: &Outcome) -> io::Result<()> {
    say!(out, "backup   full: {} copied, {} of holes; identical", human(o.bytes_copied), human(o.bytes_holes))?;
    writeln!(out)
}

pub fn round(out: &mut dyn Write, r: &Round) -> io::Result<()> {
    let writes = format!("{}, {}", count(r.writes, "write"), human(r.bytes_written));
    say!(out, "round {}  {writes} written and tracked, then kill -9", r.round)?;
    let dirty = format!("{} dirty ({} owed)", human(r.dirty_bytes), human(r.bytes_owed));
    let map = format!("map: {}, recovered in {}: {dirty}, no bit lost", r.state, recovery(r.recovery_ms));
    fold(out, "         ", &map)?;
    let (copied, skipped) = (human(r.backup.bytes_copied), human(r.backup.bytes_skipped));
    let over = human(r.over_copy_bytes);
    fold(out, "         ", &format!("backup: {copied} copied, {skipped} skipped, over-copy {over}; identical"))
}

pub fn ending(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
    let sum = |f: fn(&Round) -> u64| a.rounds.iter().map(f).sum::<u64>();
    let written = sum(|r| r.bytes_written);
    let (copied, over) = (sum(|r| r.backup.bytes_copied + r.backup.bytes_holes), sum(|r| r.over_copy_bytes));
    let full = a.size.saturating_mul(a.rounds.len() as u64);
    writeln!(out)?;
    say!(
        out,
        "{}: image and backup identical after each; {} written, {} copied instead of {} ({} of it over-copy)",
        count(a.rounds.len() as u64, "kill"),
        human(written),
        human(copied),
        human(full),
        human(over)
    )?;
    say!(
        out,
        "a set kept {} beside; the first one, restored, is what the image was then: identical",
        count(a.members, "backup")
    )
}

fn recovery(ms: u64) -> String {
    if ms == 0 { "less than 1 ms".into() } else { format!("{ms} ms") }
}
