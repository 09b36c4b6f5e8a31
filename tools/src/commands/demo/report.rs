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
    /// The rounds went through a server.
    served: bool,
    pub first: Option<Outcome>,
    pub rounds: Vec<Round>,
    /// Members of the set that was kept beside.
    pub members: u64,
    /// Image and backup were equal, byte for byte, after every backup (through a server: the image as it was frozen, and at the end what
    /// was acknowledged), and the first member of the set, restored, is what the image
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
            served: place.serve,
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

/// `served`: through a server.
pub fn round(out: &mut dyn Write, r: &Round, served: bool) -> io::Result<()> {
    let writes = format!("{}, {}", count(r.writes, "write"), human(r.bytes_written));
    let killed = if served { ", and kill -9 of the server" } else { ", then kill -9" };
    say!(out, "round {}  {writes} written and tracked{killed}", r.round)?;
    let dirty = format!("{} dirty ({} owed)", human(r.dirty_bytes), human(r.bytes_owed));
    let recovered = if served { "the next server came in" } else { "recovered in" };
    let map = format!("map: {}, {recovered} {}: {dirty}, no bit lost", r.state, recovery(r.recovery_ms));
    fold(out, "         ", &map)?;
    let (copied, skipped) = (human(r.backup.bytes_copied), human(r.backup.bytes_skipped));
    let over = human(r.over_copy_bytes);
    let backup = format!("backup: {copied} copied, {skipped} skipped, over-copy {over}");
    if !served {
        return fold(out, "         ", &format!("{backup}; identical"));
    }
    let killed = if r.killed_meanwhile { ", and another kill -9" } else { "" };
    let meanwhile = count(r.writes_meanwhile, "write");
    fold(out, "         ", &format!("{backup}; {meanwhile} meanwhile{killed}; identical to the moment of its snapshot"))
}

pub fn ending(out: &mut dyn Write, a: &Answer) -> io::Result<()> {
    let sum = |f: fn(&Round) -> u64| a.rounds.iter().map(f).sum::<u64>();
    let written = sum(|r| r.bytes_written);
    let (copied, over) = (sum(|r| r.backup.bytes_copied + r.backup.bytes_holes), sum(|r| r.over_copy_bytes));
    let full = a.size.saturating_mul(a.rounds.len() as u64);
    writeln!(out)?;
    let same = match a.served {
        true => "each backup identical to the image as it was frozen, and nothing that was acknowledged lost",
        false => "image and backup identical after each",
    };
    say!(
        out,
        "{}: {same}; {} written, {} copied instead of {} ({} of it over-copy)",
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
