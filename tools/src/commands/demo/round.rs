//! One round: write, kill, look at the map, back up.

use super::{NO_WAIT, Place, backup_args};
use crate::backup::{self, Outcome};
use crate::exit::{Exit, Failure, Result};
use crate::files::Image;
use crate::rng::Rng;
use crate::terminal::output::Output;
use crate::terminal::signals;
use dirtymap::{
    Bitmap, Options,
    fsck::{Report, Severity, check},
};
use serde::Serialize;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a round did.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    pub round: u32,
    /// Writes that the writer reported before it was killed.
    pub writes: u64,
    pub bytes_written: u64,
    /// Bytes of the granules that those writes touched: what has to be copied.
    pub bytes_owed: u64,
    pub state: &'static str,
    pub findings: usize,
    pub dirty_bytes: u64,
    /// How long opening and recovering took.
    pub recovery_ms: u64,
    pub backup: Outcome,
    /// Bytes of dirty areas that no reported write touched.
    pub over_copy_bytes: u64,
    /// Writes of the client while the backup ran, and whether that went on after another kill of the server.
    pub writes_meanwhile: u64,
    pub killed_meanwhile: bool,
}

impl Round {
    /// One without writes while the backup ran. `owed`: bytes that have to be copied, and that are dirty.
    pub fn new(
        number: u32,
        written: &[Range<u64>],
        (report, recovery_ms): (&Report, u64),
        (bytes_owed, dirty_bytes): (u64, u64),
        backup: Outcome,
    ) -> Round {
        Round {
            round: number,
            writes: written.len() as u64,
            bytes_written: written.iter().map(|r| r.end - r.start).sum(),
            bytes_owed,
            state: crate::commands::info::state_name(report.info.state),
            findings: report.findings.len(),
            dirty_bytes,
            recovery_ms,
            over_copy_bytes: dirty_bytes.saturating_sub(bytes_owed),
            writes_meanwhile: 0,
            killed_meanwhile: false,
            backup,
        }
    }
}

/// The random numbers of a round.
pub fn rng(seed: u64, number: u32) -> Rng {
    Rng::new(seed ^ u64::from(number).wrapping_mul(0x2545_f491_4f6c_dd1d))
}

pub fn run(place: &Place, number: u32, seed: u64, output: Output) -> Result<Round> {
    let size = Image::open(&place.image, false)?.size();
    let mut rng = rng(seed, number);
    let written = write_and_kill(place, &mut rng, size)?;

    // Offline, as it was left.
    let report = checked(place, number)?;
    let started = Instant::now();
    let map = Options::new().read_only(true).open(&place.map)?;
    let recovery_ms = started.elapsed().as_millis() as u64;
    drop(map);
    let owed = owed(place, number, &written)?;
    let backup = back_up(place, output)?;
    Ok(Round::new(number, &written, (&report, recovery_ms), owed, backup))
}

/// What a check says of the map, which must not be damaged.
pub fn checked(place: &Place, number: u32) -> Result<Report> {
    let report = check(&place.map, |_, _| {})?;
    let Some(f) = report.findings.iter().find(|f| f.severity == Severity::Damage) else { return Ok(report) };
    let message = format!("round {number}: {}: found {}, expected {}", f.place, f.found, f.expected);
    Err(Failure { kind: "damage".into(), message, exit: Exit::Damage })
}

/// Bytes of the granules that were written, all of which must be dirty, and of all that are.
pub fn owed(place: &Place, number: u32, written: &[Range<u64>]) -> Result<(u64, u64)> {
    let map = Options::new().read_only(true).open(&place.map)?;
    let mut owed = Bitmap::new(map.len(), super::GRANULARITY)?;
    for range in written {
        owed.set(range.clone())?;
        if !map.all(range.clone())? {
            let at = map.next_clean(range.clone())?.unwrap_or(range.start);
            let message = format!("round {number}: byte {at} was written and is clean after the kill; a bit was lost");
            return Err(Failure { kind: "lost-dirt".into(), message, exit: Exit::Damage });
        }
    }
    Ok((owed.dirty_len(), map.dirty_len()))
}

pub fn back_up(place: &Place, output: Output) -> Result<Outcome> {
    backup::back_up(&backup_args(place), NO_WAIT, output.without_notes())
}

/// Lets a child write, kills it at a random moment, and gives the ranges that it reported.
fn write_and_kill(place: &Place, rng: &mut Rng, size: u64) -> Result<Vec<Range<u64>>> {
    if size == 0 {
        return Ok(Vec::new());
    }
    let failed =
        |what: &'static str| move |e: std::io::Error| Failure::io(format_args!("the writing process: {what}"), &e);
    let this = std::env::current_exe().map_err(failed("find this program"))?;
    let mut child = Command::new(this)
        .arg("demo-writer")
        .args([std::ffi::OsStr::new("--image"), place.image.as_os_str()])
        .args([std::ffi::OsStr::new("--map"), place.map.as_os_str()])
        .args(["--seed", &rng.next().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed("start"))?;
    let reports = read_and_kill(&mut child, rng);
    // Also after an error: nobody is left behind. It may have died by itself.
    let _ = child.kill();
    let status = child.wait().map_err(failed("wait for its end"))?;
    let reports = reports.map_err(failed("read its reports"))?;
    signals::check("the demo is not complete")?;
    if let Some(code) = status.code() {
        return Err(Failure::new(
            "writer-failed",
            format!("the writing process ended by itself, with exit code {code}"),
        ));
    }
    // A line that the kill cut short is no report.
    let whole = reports.rfind('\n').map_or("", |end| &reports[..end]);
    let parse = |line: &str| {
        let (start, end) = line.split_once(' ')?;
        Some(start.parse().ok()?..end.parse().ok()?)
    };
    let ranges: Option<Vec<Range<u64>>> = whole.lines().map(parse).collect();
    ranges.ok_or_else(|| Failure::new("writer-failed", "the writing process reported something that is no range"))
}

fn read_and_kill(child: &mut Child, rng: &mut Rng) -> std::io::Result<String> {
    let stdout = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    let mut stdout = BufReader::new(stdout);
    let mut reports = String::new();
    for _ in 0..1 + rng.below(150) {
        if stdout.read_line(&mut reports)? == 0 {
            break;
        }
    }
    // Somewhere in what it does next.
    std::thread::sleep(Duration::from_micros(rng.below(20_000)));
    child.kill()?;
    stdout.read_to_string(&mut reports)?;
    Ok(reports)
}
