//! Anything as a map, checked and repaired. No panic; a check changes nothing and takes no more memory than the file is worth;
//! what is repaired is a map that a check finds nothing wrong with, and that still has every dirty bit which the
//! file proved: a page that matches its entry, of the map or of the outstanding point, and the armed list.
//!
//! The input: 255 and the file; or a golden file and edits (see file.rs).

use super::file::{base, edited, small};
use super::input::scratch;
use dirtymap::format::{self, COPIES, COPY_BYTES, Header, PageBytes, Uuid};
use dirtymap::{Bitmap, DirtyMap, Options, Report, Severity, Verdict, check};
use std::fs;
use std::path::Path;

/// What a file proves to be dirty; nothing if it has no header.
fn proven(file: &[u8]) -> Option<Bitmap> {
    let copies: [_; COPIES] = std::array::from_fn(|i| Header::parse(file.get(i * COPY_BYTES..).unwrap_or_default()));
    let choice = format::choose(&copies).ok()?;
    let header = choice.header;
    let geometry = &header.geometry;
    let mut dirty = Bitmap::new(geometry.len(), geometry.granularity()).expect("a small map");
    let mut add = |bits: std::ops::Range<u64>| _ = dirty.set(geometry.items_of(&bits)).expect("inside");
    let mut part = |uuid: &Uuid, table: u64, bottom: u64| {
        for page in 0..geometry.pages() {
            let (entry, bytes): ([u8; 4], PageBytes) = (at(file, table + 4 * page), at(file, bottom + 512 * page));
            let words = format::words_from_page(&bytes);
            if format::page_matches(uuid, page, &bytes, u32::from_le_bytes(entry))
                && !format::stray_bits(geometry, page, &words)
            {
                let set = (0..4096).filter(|bit| words[bit / 64] >> (bit % 64) & 1 == 1);
                set.map(|bit| page * 4096 + bit as u64).for_each(|bit| add(bit..bit + 1));
            }
        }
    };
    part(&header.uuid, header.layout.table.start, header.layout.bottom.start);
    if let Some(point) = header.outstanding() {
        part(&point.uuid, point.table_offset, point.bottom_offset);
    }
    choice.armed.iter().for_each(|run| add(run.first * 64..(run.end() * 64).min(geometry.bits())));
    Some(dirty)
}

/// Bytes of a file; what is missing is zeros.
fn at<const N: usize>(file: &[u8], at: u64) -> [u8; N] {
    std::array::from_fn(|i| file.get(at as usize + i).copied().unwrap_or(0))
}

/// What is worse than a note; damaged points that are kept are nobody's to mend.
fn wrong(report: &Report) -> bool {
    let mut worse = report.findings.iter().filter(|finding| finding.severity > Severity::Note);
    worse.any(|finding| !finding.place.starts_with("point"))
}

/// Mends the map as `dirtymap repair` does: by opening it for writing.
fn repair(path: &Path) -> dirtymap::Result<()> {
    let map = Options::new().flush_interval(None).open(path)?;
    if map.info()?.verdict == Verdict::Damaged
        && let Some(checkpoint) = map.checkpoint()?
    {
        map.abort_checkpoint(checkpoint.uuid)?;
    }
    map.close()
}

fn dirty(path: &Path) -> Bitmap {
    let map = Options::new().read_only(true).open(path).expect("it was repaired");
    map.to_bitmap().expect("a small map")
}

fn repaired(path: &Path, file: &[u8], before: &Report) {
    let proven = proven(file).expect("a check found a header");
    let read = dirty(path);
    assert!(proven.difference(&read).unwrap().is_empty(), "proved to be dirty, and read as clean");
    assert_eq!(before.info.dirty, Some((read.count(), read.dirty_len())));
    if repair(path).is_err() {
        // Of a newer version, or it cannot be that large here. Missing bytes may be there now, as zeros.
        let after = fs::read(path).unwrap();
        assert!(after.starts_with(file) && after[file.len()..].iter().all(|byte| *byte == 0));
        return;
    }
    let after = check(path, |_, _| {}).unwrap();
    assert!(!wrong(&after), "{:?}", after.findings);
    let mended = dirty(path);
    assert!(proven.difference(&mended).unwrap().is_empty(), "proved to be dirty, and clean after the repair");
    assert!(read.difference(&mended).unwrap().is_empty(), "read as dirty, and clean after the repair");
}

pub fn run(bytes: &[u8]) {
    let file = match bytes.split_first() {
        Some((255, file)) => file.to_vec(),
        Some((which, edits)) => edited(base(*which), edits),
        None => return,
    };
    let dir = scratch();
    let path = dir.path().join("map");
    fs::write(&path, &file).unwrap();
    let report = check(&path, |done, all| assert!(done <= all));
    assert!(fs::read(&path).unwrap() == file, "changed by a check");
    match report {
        Err(_) => {
            assert!(DirtyMap::open(&path).is_err());
            assert!(fs::read(&path).unwrap() == file, "changed by an open that failed");
        }
        Ok(report) if small(&file) => repaired(&path, &file, &report),
        Ok(_) => {}
    }
}
