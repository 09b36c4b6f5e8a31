//! `dirtymap hash`: the SHA-256 of the bits.

use crate::cli::File;
use crate::exit::{Exit, Result};
use crate::map::open;
use crate::terminal::output::Output;
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

#[derive(Serialize)]
struct Answer {
    sha256: String,
}

pub fn run(args: &File, wait: Duration, output: Output) -> Result<Exit> {
    let (map, exit) = open::for_reading(&args.file, wait, output)?;
    let mut sha256 = String::with_capacity(64);
    for byte in map.sha256() {
        // Writing to a string does not fail.
        let _ = write!(sha256, "{byte:02x}");
    }
    map.verify_session()?;
    output.answer(&Answer { sha256 }, |out, a| writeln!(out, "{}  {}", a.sha256, shown(&args.file)))?;
    Ok(exit)
}
