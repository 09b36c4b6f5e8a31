//! `dirtymap export-qcow2`: a small qcow2 image that carries a map as a bitmap.
//!
//! Invariant kept here: what is dirty in the map is dirty in the bitmap, and the image appears when all of it is
//! durable.

use crate::cli::ExportQcow2;
use crate::exit::{Exit, Failure, Result};
use crate::open;
use crate::output::Output;
use crate::publish;
use crate::signals;
use crate::size;
use dirtymap::{DirtyMap, NewFile};
use dirtymap_cli::qcow2::{Plan, set_bits, spec};
use dirtymap_cli::shown::{shown, text_of};
use indicatif::ProgressBar;
use serde::Serialize;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
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
    publish::vacant(&args.out)?;
    let (map, exit) = open::for_reading(&args.file, wait, output)?;
    let plan = Plan::new(map.len(), args.granularity.unwrap_or(map.granularity()), name)
        .map_err(|e| Failure::new(e.kind(), format!("{}: {e}", args.file.display())))?;
    let geometry = *plan.geometry();
    let bar = output.progress_count("exporting", geometry.bits());
    let written = write(args, &map, &plan, &bar);
    bar.finish_and_clear();
    let (dirty_bits, out_bytes) = written?;
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
        writeln!(
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

/// Writes and publishes the image; gives the dirty bits of the bitmap, and the image's length.
fn write(args: &ExportQcow2, map: &DirtyMap, plan: &Plan, bar: &ProgressBar) -> Result<(u64, u64)> {
    let new = NewFile::beside(&args.out)?;
    let failed = |what: &str, e: io::Error| Failure::io(format_args!("{}: {what}", args.out.display()), &e);
    let mut dirty = 0;
    let fill = |bits: Range<u64>, buffer: &mut [u8]| {
        signals::check("no image was made")?;
        fill(map, plan, bits.clone(), buffer)?;
        dirty += buffer.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
        bar.set_position(bits.end);
        Ok(())
    };
    let length =
        plan.write(fill, |bytes, offset| new.file().write_all_at(bytes, offset).map_err(|e| failed("write", e)))?;
    map.still_valid()?;
    new.file().set_len(length).and_then(|()| new.file().sync_all()).map_err(|e| failed("sync", e))?;
    new.publish()?;
    Ok((dirty, length))
}

/// Sets those of the bitmap's bits `bits` that any dirty byte of the map lies behind.
fn fill(map: &DirtyMap, plan: &Plan, bits: Range<u64>, buffer: &mut [u8]) -> Result<()> {
    let granularity = plan.geometry().granularity();
    // The bitmap may end a part of a sector behind the map.
    let bytes = bits.start << granularity..(bits.end << granularity).min(map.len());
    for area in map.areas(bytes)? {
        let touched = area.start >> granularity..((area.end - 1) >> granularity) + 1;
        set_bits(buffer, &bits, touched);
    }
    Ok(())
}
