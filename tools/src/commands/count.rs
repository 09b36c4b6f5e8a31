//! `dirtymap count`: how much is dirty.

use crate::cli::File;
use crate::exit::{Exit, Result};
use crate::map::open;
use crate::size;
use crate::terminal::output::Output;
use serde::Serialize;
use std::time::Duration;

#[derive(Serialize)]
struct Answer {
    dirty_bits: u64,
    dirty_bytes: u64,
}

pub fn run(args: &File, wait: Duration, output: Output) -> Result<Exit> {
    let (map, exit) = open::for_reading(&args.file, wait, output)?;
    let answer = Answer { dirty_bits: map.count(), dirty_bytes: map.dirty_len() };
    map.verify_session()?;
    output.answer(&answer, |out, a| {
        let (granule, bits) = (size::human(map.geometry().granule()), map.geometry().bits());
        writeln!(out, "{} of {bits}, {granule} each", size::count(a.dirty_bits, "dirty bit"))?;
        let percent = size::percent(a.dirty_bytes, map.len());
        writeln!(out, "{} of {}, {percent:.1}%", size::count(a.dirty_bytes, "dirty byte"), map.len())
    })?;
    Ok(exit)
}
