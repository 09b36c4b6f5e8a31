//! Any bytes as a qcow2 image: bitmaps or an error, no panic. Whatever is read covers the bitmap without gaps, and
//! written into an image of our own and read again it is the same.

use dirtymap::Bitmap;
use dirtymap_cli::qcow2::{Image, Plan, set_bits};
use std::convert::Infallible;
use std::ops::Range;

/// Pieces read of one bitmap at most; a table may say a lot in few bytes.
const PIECES: usize = 4096;
/// Bits of bitmaps that are written again.
const SMALL: u64 = 1 << 16;

/// The dirty runs of a bitmap, ascending; `None` after an error or when there are too many pieces.
fn read(bytes: &[u8], name: &[u8]) -> Option<Vec<Range<u64>>> {
    let image = Image::open(bytes).ok()?;
    let entry = image.find(name).ok()?;
    image.unreliable(&entry);
    let chunks = image.chunks(&entry).ok()?;
    let bits = chunks.bits();
    let (mut all, mut at, mut last) = (Vec::new(), 0, None);
    for chunk in chunks.take(PIECES) {
        let chunk = chunk.ok()?;
        assert!(chunk.bits.start == at && chunk.bits.end > at && chunk.bits.end <= bits);
        at = chunk.bits.end;
        let Ok(()) = chunk.runs(|run| {
            assert!(run.start >= chunk.bits.start && run.start < run.end && run.end <= at);
            // Within a chunk there is something clean between any two.
            assert!(last.is_none_or(|last| last < run.start || run.start == chunk.bits.start));
            last = Some(run.end);
            all.push(run);
            Ok::<(), Infallible>(())
        });
    }
    (at == bits).then_some(all)
}

fn rewritten(len: u64, granularity: u32, runs: &[Range<u64>]) -> Option<Vec<u8>> {
    let plan = Plan::with_clusters(len, granularity, "again", 9).ok()?;
    let Ok(bytes) = plan.bytes(|bits, buffer| {
        runs.iter().for_each(|run| set_bits(buffer, &bits, run.clone()));
        Ok::<(), Infallible>(())
    });
    Some(bytes)
}

fn bitmap(bits: u64, runs: &[Range<u64>]) -> Bitmap {
    let mut bitmap = Bitmap::new(bits, 0).expect("a small bitmap");
    for run in runs {
        bitmap.set(run.clone()).expect("inside");
    }
    bitmap
}

pub fn run(bytes: &[u8]) {
    let Ok(image) = Image::open(bytes) else { return };
    let Ok(entries) = image.entries() else { return };
    for entry in entries.iter().take(8) {
        let Some(runs) = read(bytes, entry.name()) else { continue };
        let (len, granularity) = (image.virtual_size(), entry.granularity());
        let bits = len.div_ceil(1 << granularity);
        if bits > SMALL {
            continue;
        }
        // Not in small clusters if it is a long name's or a large disk's.
        let Some(again) = rewritten(len, granularity, &runs) else { continue };
        let read = read(&again, b"again").expect("our own image is readable");
        assert!(bitmap(bits, &runs).sha256() == bitmap(bits, &read).sha256());
    }
}
