//! `dirtymap export`: the bits of a map as a raw file.
//!
//! Invariant kept here: a file appears under its name only when it is complete and durable, and never in place of
//! another.

use crate::cli::Export;
use crate::exit::{Exit, Failure, Result};
use crate::files;
use crate::files::publish;
use crate::map::open;
use crate::map::raw;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::progress;
use crate::terminal::signals;
use crate::terminal::text::say;
use dirtymap::{DirtyMap, NewFile};
use dirtymap_cli::shown::shown;
use serde::Serialize;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

#[derive(Serialize)]
struct Answer {
    file: String,
    out: String,
    bytes: u64,
    dirty_bits: u64,
    dirty_bytes: u64,
}

pub fn run(args: &Export, wait: Duration, output: Output) -> Result<Exit> {
    let to_stdout = args.out == Path::new("-");
    if to_stdout && output.is_json() {
        return Err(Failure::usage("standard output cannot hold both the bits and the JSON; give a file for the bits"));
    }
    if !to_stdout {
        publish::vacant(&args.out)?;
    }
    let (map, exit) = open::for_reading(&args.file, wait, output)?;
    let bytes = raw::length(map.geometry());
    if to_stdout {
        stream(&map, bytes, output)?;
        map.verify_session()?;
        return Ok(exit);
    }
    write_file(&map, &args.out, bytes)?;
    let answer = Answer {
        file: args.file.display().to_string(),
        out: args.out.display().to_string(),
        bytes,
        dirty_bits: map.count(),
        dirty_bytes: map.dirty_len(),
    };
    output.answer(&answer, |out, a| {
        let bits = size::count(map.geometry().bits(), "bit");
        say!(out, "exported {bits}, {} of them dirty, to {}", a.dirty_bits, shown(&a.out))
    })?;
    Ok(exit)
}

fn write_file(map: &DirtyMap, path: &Path, bytes: u64) -> Result<()> {
    let failed = |what: &'static str| move |e: &io::Error| Failure::io(format_args!("{}: {what}", path.display()), e);
    let new = NewFile::beside(path)?;
    let file = new.file();
    file.set_len(bytes).map_err(|e| failed("set its size")(&e))?;
    let bar = progress::bytes("exporting", bytes);
    let written = raw::blocks(map)?.try_for_each(|(offset, block)| {
        signals::check("nothing was exported")?;
        bar.set_position(offset);
        file.write_all_at(&block, offset).map_err(|e| failed("write")(&e))
    });
    bar.finish_and_clear();
    written?;
    map.verify_session()?;
    file.sync_all().map_err(|e| failed("sync")(&e))?;
    Ok(new.publish()?)
}

fn stream(map: &DirtyMap, bytes: u64, output: Output) -> Result<()> {
    let blocks = raw::blocks(map)?.chain([(bytes, Vec::new())]);
    let written = output.stream(|out, _| {
        let mut at = 0;
        for (offset, block) in blocks {
            // One signal stops it; that is told below.
            for zeros in files::pieces(at..offset).take_while(|_| !signals::requested()) {
                io::copy(&mut io::repeat(0).take(zeros.end - zeros.start), &mut *out)?;
            }
            if signals::requested() {
                break;
            }
            out.write_all(&block)?;
            at = offset + block.len() as u64;
        }
        Ok(())
    });
    signals::check("not all bits were written")?;
    written
}
