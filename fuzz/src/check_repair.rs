//! Anything as a map, checked and repaired. No panic; looking changes nothing; what is repaired is a map that a check finds
//! nothing wrong with, and that still has every dirty bit which the file proved: a page that matches its entry, of the
//! map or of the outstanding point, and the armed list. A second repair does nothing, and an undo gives the very bytes back. A check
//! does not call a file fine that a disk has made lose a bit, unless of a point that an older version has not counted.
//!
//! The input: 255 and the file; a golden file and edits; or 128 more than that, and what a disk did (see file.rs).

use super::file::{base, damaged, edited, small};
use super::input::scratch;
use dirtymap::format::{self, COPIES, COPY_BYTES, Header, HeaderProblem, PageBytes, Uuid};
use dirtymap::{
    Bitmap, DirtyMap, Error, Options,
    fsck::{RepairPlan, Severity, check, plan_repair, repair, undo_repair},
    info::FileState,
};
use std::fs;
use std::path::Path;
use std::time::Duration;

fn copies(file: &[u8]) -> [Result<Header, HeaderProblem>; COPIES] {
    std::array::from_fn(|i| Header::parse(file.get(i * COPY_BYTES..).unwrap_or_default()))
}

/// What a file proves to be dirty; nothing if it has no header.
fn proven(file: &[u8]) -> Option<Bitmap> {
    let copies = copies(file);
    let choice = format::select(&copies).ok()?;
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
    if let Some(point) = header.outstanding().filter(|point| point.has_regions()) {
        part(&point.uuid, point.table_offset, point.bottom_offset);
    }
    choice.armed.iter().for_each(|run| add(run.first * 64..(run.end() * 64).min(geometry.bits())));
    Some(dirty)
}

/// Whether pages of the outstanding point that are lost together with their entries can be noticed: a count of 0 says
/// nothing.
fn counted(file: &[u8]) -> bool {
    let copies = copies(file);
    let header = format::select(&copies).expect("it has proved something").header;
    header.outstanding().is_none_or(|point| point.granules > 0)
}

/// Bytes of a file; what is missing is zeros.
fn at<const N: usize>(file: &[u8], at: u64) -> [u8; N] {
    std::array::from_fn(|i| file.get(at as usize + i).copied().unwrap_or(0))
}

fn dirty(path: &Path) -> Bitmap {
    let map = Options::new().read_only(true).open(path).expect("nothing is wrong with it");
    map.to_bitmap().expect("a small map")
}

/// An undo file of which a bit has flipped changes nothing; one that says something odd of itself is no panic.
fn broken_undo(path: &Path, undo: &Path, mended: &[u8], choice: u64) {
    let (broken, whole) = (path.with_extension("broken"), fs::read(undo).unwrap());
    let mut flipped = whole.clone();
    flipped[(choice >> 3) as usize % whole.len()] ^= 1 << (choice % 8);
    fs::write(&broken, flipped).unwrap();
    let refused = undo_repair(path, &broken, Duration::ZERO);
    assert!(refused.is_err() && fs::read(path).unwrap() == mended, "{refused:?}");
    // A length or a count, with a checksum that fits.
    let mut odd = whole;
    let field = [32, 40, 48][choice as usize % 3];
    odd[field..field + 8].copy_from_slice(&(choice >> 2).to_le_bytes());
    odd[12..16].fill(0);
    let crc = crc32fast::hash(&odd[..128]);
    odd[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&broken, odd).unwrap();
    match undo_repair(path, &broken, Duration::ZERO) {
        // Who makes checksums fit can make a file of any length, and one too long to work with.
        Ok(_) | Err(Error::Io { .. }) => fs::write(path, mended).unwrap(),
        Err(_) => assert!(fs::read(path).unwrap() == mended, "changed by an undo that was refused"),
    }
}

/// Repairs, and looks at everything that was promised of it.
fn repaired(path: &Path, file: &[u8], plan: &RepairPlan, choice: u64) {
    let proven = proven(file).expect("a plan rests on a header");
    // Not to be had of a map whose page table is cut off.
    let read = Options::new().read_only(true).open(path).ok().map(|map| map.to_bitmap().expect("a small map"));
    if let Some(read) = &read {
        assert!(proven.difference(read).unwrap().is_empty(), "proved to be dirty, and read as clean");
    }
    let undo = path.with_extension("undo");
    let done = match repair(path, Some(&undo), Duration::ZERO, |_, _| {}) {
        // The page cache may know more than the file says, and is to be asked without an undo.
        Err(Error::Refused { .. }) => repair(path, None, Duration::ZERO, |_, _| {}),
        done => done,
    };
    let done = done.unwrap_or_else(|e| panic!("planned {:?}, and then: {e}", plan.actions));
    assert_eq!(done.actions, plan.actions);
    let mended = fs::read(path).unwrap();
    assert!(done.is_needed() || mended == file, "nothing was to do, and was done");
    let after = check(path, |_, _| {}).unwrap();
    if after.not_writable.is_some() && !done.is_needed() {
        return;
    }
    assert!(after.findings.is_empty(), "{:?}", after.findings);
    assert_eq!((after.info.state, after.not_writable), (FileState::Clean, None));
    let dirty = dirty(path);
    assert!(proven.difference(&dirty).unwrap().is_empty(), "proved to be dirty, and clean after the repair");
    if let Some(read) = read {
        assert!(read.difference(&dirty).unwrap().is_empty(), "read as dirty, and clean after the repair");
    }
    let again = repair(path, None, Duration::ZERO, |_, _| {}).unwrap();
    assert!(!again.is_needed() && fs::read(path).unwrap() == mended, "a second repair: {:?}", again.actions);
    if undo.exists() {
        broken_undo(path, &undo, &mended, choice);
        undo_repair(path, &undo, Duration::ZERO).unwrap();
        assert!(fs::read(path).unwrap() == file, "undone, and not as it was");
    }
}

pub fn run(bytes: &[u8]) {
    let (file, once) = match bytes.split_first() {
        Some((255, file)) => (file.to_vec(), None),
        Some((which @ 128.., events)) => {
            let once = base(which - 128);
            (damaged(once.clone(), events), proven(&once).filter(|_| counted(&once)))
        }
        Some((which, edits)) => (edited(base(*which), edits), None),
        None => return,
    };
    let dir = scratch();
    let path = dir.path().join("map");
    fs::write(&path, &file).unwrap();
    let report = check(&path, |done, all| assert!(done <= all));
    let plan = plan_repair(&path, |done, all| assert!(done <= all));
    assert!(fs::read(&path).unwrap() == file, "changed by looking");
    if let (Ok(report), Ok(plan)) = (&report, &plan) {
        // The length alone is not worth writing to what is of a newer version.
        let left = if report.not_writable.is_some() { Some(Severity::Note) } else { None };
        assert!(plan.is_needed() || report.severity() <= left, "nothing to do about {:?}", report.findings);
        assert!(report.severity().is_some() || !plan.is_needed(), "something to do about nothing: {:?}", plan.actions);
    }
    if let (Some(once), Ok(report)) = (once, &report)
        && report.severity() <= Some(Severity::Note)
    {
        let lost = once.difference(&dirty(&path)).unwrap();
        assert!(lost.is_empty(), "fine, and not dirty any more: {:?}", lost.into_iter().collect::<Vec<_>>());
    }
    match plan {
        Ok(plan) if small(&file) => {
            let choice = bytes.iter().rev().take(8).fold(0, |choice, byte| choice << 8 | u64::from(*byte));
            repaired(&path, &file, &plan, choice);
        }
        Ok(_) => {}
        Err(e) => {
            // No header that can be relied upon; or one that may only be read.
            assert_eq!(repair(&path, None, Duration::ZERO, |_, _| {}).unwrap_err().kind(), e.kind());
            assert!(DirtyMap::open(&path).is_err());
            assert!(fs::read(&path).unwrap() == file, "changed by a repair that failed");
        }
    }
}
