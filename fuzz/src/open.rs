//! Whole files: a golden file with edits whose checksums are mostly set right, given to everything that takes a path.
//! No panic; what only reads changes no byte, and all of it agrees; opening for writing recovers to the same
//! dirty set that reading says, or fails and leaves the bytes; and what is set then is there after a flush, a
//! close or a drop.
//!
//! The input: a byte for the file, one for what to do with it, a range to set, then edits (see file.rs).

use super::file::{base, edited, small};
use super::input::{number, scratch, take};
use dirtymap::{Bitmap, DirtyMap, Options, fsck::check, info::inspect};
use std::ops::Range;
use std::path::Path;

/// The dirty bits of a map, in memory.
fn bitmap(map: &DirtyMap) -> Bitmap {
    let mut bits = Bitmap::new(map.len(), map.granularity()).unwrap();
    let mut end = 0;
    for area in map.extents(0..map.len()).unwrap() {
        assert!(area.start < area.end && area.end <= map.len() && (area.start > end || end == 0));
        end = area.end;
        bits.set(area).unwrap();
    }
    // The hash of a map leaves out what an outstanding checkpoint has frozen.
    let copy = map.to_bitmap().unwrap();
    assert_eq!((bits.count(), bits.dirty_len(), bits.sha256()), (map.count(), map.dirty_len(), copy.sha256()));
    bits
}

fn read_only(path: &Path) -> dirtymap::Result<DirtyMap> {
    Options::new().read_only(true).open(path)
}

/// Everything that only reads.
fn reading(path: &Path) -> Option<Bitmap> {
    let (info, report, map) = (inspect(path), check(path, |_, _| {}), read_only(path));
    match (info, report, map) {
        (Ok(info), Ok(report), Ok(map)) => {
            assert_eq!(info.dirty, Some((map.count(), map.dirty_len())));
            assert_eq!(report.info.dirty, info.dirty);
            assert_eq!((report.info.state, report.info.verdict), (info.state, info.verdict));
            assert_eq!(report.info.reasons, info.reasons);
            Some(bitmap(&map))
        }
        (Err(a), Err(b), Err(c)) => {
            assert!(a.kind() == b.kind() && b.kind() == c.kind(), "{a}; {b}; {c}");
            None
        }
        (a, b, c) => panic!("they disagree: {:?}; {:?}; {:?}", a.err(), b.err(), c.err()),
    }
}

fn writing(path: &Path, before: &[u8], mut bits: Bitmap, how: u8, set: Range<u64>) {
    let options = Options::new().flush_interval(None);
    let map = match options.open(path) {
        Ok(map) => map,
        Err(_) => {
            // Missing bytes may be there now, as zeros.
            let after = std::fs::read(path).unwrap();
            assert!(after.starts_with(before) && after[before.len()..].iter().all(|byte| *byte == 0));
            return;
        }
    };
    assert_eq!(bitmap(&map).sha256(), bits.sha256(), "opening for writing found other bits than reading");
    let range = match map.len() {
        0 => 0..0,
        len => set.start % len..(set.start % len).saturating_add(set.end % len).min(len),
    };
    map.set(range.clone()).unwrap();
    bits.set(range.clone()).unwrap();
    assert!(map.all(range.clone()).unwrap());
    if how & 1 == 1 {
        map.flush().unwrap();
    }
    if how & 2 == 2 {
        map.close().unwrap();
        let report = check(path, |_, _| {}).unwrap();
        // Points that are damaged stay so.
        let odd =
            |f: &dirtymap::fsck::Finding| f.severity == dirtymap::fsck::Severity::Note || f.place.starts_with("point");
        assert!(report.findings.iter().all(odd), "{:?}", report.findings);
        assert_eq!(bitmap(&read_only(path).unwrap()).sha256(), bits.sha256(), "closed cleanly");
    } else {
        drop(map);
    }
    let map = options.open(path).unwrap();
    for area in &bits {
        assert!(map.all(area).unwrap(), "lost dirt");
    }
    if let Some(outstanding) = map.checkpoint().unwrap() {
        map.abort_checkpoint(outstanding.uuid).unwrap();
    }
    map.reset_all().unwrap();
    map.close().unwrap();
    assert!(read_only(path).unwrap().is_empty());
}

pub fn run(mut input: &[u8]) {
    let [which, how] = take(&mut input);
    let set = number::<6>(&mut input)..number::<6>(&mut input);
    let file = edited(base(which), input);
    if !small(&file) {
        return;
    }
    let dir = scratch();
    let path = dir.path().join("map");
    std::fs::write(&path, &file).unwrap();
    let bits = reading(&path);
    assert!(std::fs::read(&path).unwrap() == file, "changed by reading");
    match bits {
        Some(bits) => writing(&path, &file, bits, how, set),
        None => {
            assert!(DirtyMap::open(&path).is_err());
            assert!(std::fs::read(&path).unwrap() == file, "changed by an open that failed");
        }
    }
}
