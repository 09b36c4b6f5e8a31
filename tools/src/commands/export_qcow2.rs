//! `dirtymap export-qcow2`: a small qcow2 image that carries a map as a bitmap.
//!
//! Invariant kept here: what is dirty in the map is dirty in the bitmap, and the image appears when all of it is
//! durable.

use crate::cli::ExportQcow2;
use crate::exit::{Exit, Failure, Result};
use crate::files::publish;
use crate::map::open;
use crate::size;
use crate::terminal::output::Output;
use crate::terminal::progress;
use crate::terminal::signals;
use crate::terminal::text::say;
use dirtymap::{DirtyMap, NewFile};
use dirtymap_cli::qcow2::{Plan, set_bits, spec};
use dirtymap_cli::shown::{shown, text_of};
use indicatif::ProgressBar;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Seek};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

#[derive(Serialize)]
struct Answer {
    file: String,
    out: String,
    bitmap: String,
    size: u64,
    granule_bytes: u64,
    bits: u64,
    dirty_bits: u64,
    out_bytes: u64,
}

pub fn run(args: &ExportQcow2, wait: Duration, output: Output) -> Result<Exit> {
    let name = args.bitmap.as_bytes();
    if name.is_empty() || name.len() > spec::MAX_NAME {
        let most = spec::MAX_NAME;
        return Err(Failure::usage(format!("found a bitmap's name of {} bytes, expected 1 to {most}", name.len())));
    }
    let to_stdout = args.out == Path::new("-");
    if to_stdout && output.is_json() {
        return Err(Failure::usage(
            "standard output cannot hold both the image and the JSON; give a file for the image",
        ));
    }
    if !to_stdout {
        publish::vacant(&args.out)?;
    }
    let (map, exit) = open::for_reading(&args.file, wait, output)?;
    let plan = Plan::new(map.len(), args.granularity.unwrap_or(map.granularity()), name)
        .map_err(|e| Failure::new(e.kind(), format!("{}: {e}", args.file.display())))?;
    let geometry = *plan.geometry();
    let bar = progress::count("exporting", geometry.bits());
    let written = if to_stdout {
        // Its parts are not written in their order.
        let aside = tempfile::tempfile().map_err(|e| Failure::io("keep the image in a temporary file", &e));
        aside.and_then(|file| Ok((write(args, &map, &plan, &file, &bar)?, Some(file))))
    } else {
        let new = NewFile::beside(&args.out)?;
        let written = write(args, &map, &plan, new.file(), &bar);
        written.and_then(|written| Ok((written, new.publish().map(|()| None)?)))
    };
    bar.finish_and_clear();
    let ((dirty_bits, out_bytes), aside) = written?;
    if let Some(mut file) = aside {
        output.stream(|out, _| file.rewind().and_then(|()| io::copy(&mut file, out)).map(drop))?;
        return Ok(exit);
    }
    let answer = Answer {
        file: args.file.display().to_string(),
        out: args.out.display().to_string(),
        bitmap: text_of(name),
        size: geometry.len(),
        granule_bytes: geometry.granule(),
        bits: geometry.bits(),
        dirty_bits,
        out_bytes,
    };
    output.answer(&answer, |out, a| {
        let (size, granule) = (size::human(a.size), size::human(a.granule_bytes));
        say!(
            out,
            "created {} for {size} with bitmap {:?}: {} of {} of {granule} are dirty",
            shown(&args.out),
            args.bitmap,
            a.dirty_bits,
            size::count(a.bits, "granule")
        )
    })?;
    Ok(exit)
}

/// Writes the image, durably; gives the dirty bits of the bitmap, and the image's length.
fn write(args: &ExportQcow2, map: &DirtyMap, plan: &Plan, file: &File, bar: &ProgressBar) -> Result<(u64, u64)> {
    let failed = |what: &str, e: io::Error| Failure::io(format_args!("{}: {what}", args.out.display()), &e);
    let mut dirty = 0;
    let fill = |bits: Range<u64>, buffer: &mut [u8]| {
        signals::check("no image was made")?;
        fill(map, plan, bits.clone(), buffer)?;
        dirty += buffer.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
        bar.set_position(bits.end);
        Ok(())
    };
    let length = plan.write(fill, |bytes, offset| file.write_all_at(bytes, offset).map_err(|e| failed("write", e)))?;
    map.verify_session()?;
    file.set_len(length).and_then(|()| file.sync_all()).map_err(|e| failed("sync", e))?;
    Ok((dirty, length))
}

/// Sets those of the bitmap's bits `bits` that any dirty byte of the map lies behind.
fn fill(map: &DirtyMap, plan: &Plan, bits: Range<u64>, buffer: &mut [u8]) -> Result<()> {
    let granularity = plan.geometry().granularity();
    // The bitmap may end a part of a sector behind the map.
    let bytes = bits.start << granularity..(bits.end << granularity).min(map.len());
    for area in map.extents(bytes)? {
        let touched = area.start >> granularity..((area.end - 1) >> granularity) + 1;
        set_bits(buffer, &bits, touched);
    }
    Ok(())
}
