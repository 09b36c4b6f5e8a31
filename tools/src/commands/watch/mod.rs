//! `dirtymap watch`: a live picture of a map, or of a server's disks. It only looks.
//!
//! Invariant kept here: whatever ends it, the terminal is as it was.

mod picture;
mod sample;
mod screen;

use crate::cli::Watch;
use crate::exit::{Exit, Result};
use crate::terminal::output::{Output, json};
use crate::terminal::signals;
use sample::Source;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);

pub fn run(args: &Watch, wait: Duration, output: Output) -> Result<Exit> {
    let moves = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    let whole_screen = moves && std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    let picture = whole_screen && !output.is_json() && args.count.is_none();
    // A note would be in the middle of the picture.
    let mut source = Source::open(&args.place, wait, if picture { output.without_notes() } else { output })?;
    let shown = if picture { screen::show(&mut source, args.interval()) } else { lines(&mut source, args, output) };
    match shown {
        // A look that a signal has ended.
        Err(failure) if failure.exit != Exit::Interrupted => Err(failure),
        _ => Ok(Exit::Fine),
    }
}

/// Prints a line for each disk at each look; a list of objects as JSON.
fn lines(source: &mut Source, args: &Watch, output: Output) -> Result<()> {
    let mut failed = None;
    output.stream(|out, is_json| {
        let mut separator = "[\n  ";
        for look in 0..args.count.unwrap_or(u64::MAX) {
            if look > 0 && !pause(args.interval()) {
                break;
            }
            let sample = match source.look() {
                Ok(sample) => sample,
                Err(failure) => {
                    failed = Some(failure);
                    break;
                }
            };
            if is_json {
                write!(out, "{separator}{}", json(&sample, false)?)?;
                separator = ",\n  ";
            } else {
                sample.disks.iter().try_for_each(|disk| writeln!(out, "{}", picture::line(&sample, disk)))?;
            }
            // Whoever reads it wants to have it now.
            out.flush()?;
        }
        match (is_json, separator) {
            (false, _) => Ok(()),
            (true, ",\n  ") => writeln!(out, "\n]"),
            (true, _) => writeln!(out, "[]"),
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// Waits; false if it is to stop.
fn pause(interval: Duration) -> bool {
    let until = Instant::now() + interval;
    while !signals::requested() && Instant::now() < until {
        std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
    }
    !signals::requested()
}
