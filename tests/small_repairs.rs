//! Repairing a file that holds little writes little, whatever its header calls dirty: that stays on the list. A point that
//! was damaged holds everything without taking space, also where it is joined to another, or gets another length.

use dirtymap::format::{CheckpointState, Header, Point, PointRole, Reasons, Reserved, State, Uuid, WordRanges};
use dirtymap::{
    Durability, Options, ReadMap,
    fsck::{check, plan_repair, repair, undo_repair},
    info::{Verdict, inspect},
};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

#[path = "common/forged.rs"]
mod forged;

const BITS: u64 = 1 << 28;
/// What repairs may add to the file, in bytes; all pages would take 32 MiB.
const MOST: u64 = 1 << 20;

/// Bytes that a file takes.
fn taken(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn what_a_small_file_calls_dirty_stays_on_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let all = || WordRanges::one(0..BITS / 64);
    for (durability, state, runs, recorded, cut) in [
        (Durability::PowerLoss, State::Open, all(), 0, false),
        (Durability::Process, State::Open, all(), 0, false),
        // Closed, and less there than was counted, also if the page that fails was full.
        (Durability::PowerLoss, State::Clean, WordRanges::new(), 5000, false),
        // Cut off behind the headers and the first entries.
        (Durability::PowerLoss, State::Clean, WordRanges::new(), 5000, true),
    ] {
        let header = forged::header(BITS, durability, state, runs, recorded);
        let file = forged::write(&path, &header);
        // A page that fails is written all the same.
        file.write_all_at(&[1; 4], header.layout.table.start).unwrap();
        if cut {
            file.set_len(header.layout.table.start + 4).unwrap();
        }
        drop(file);

        let before = taken(&path);
        let plan = repair(&path, None, Duration::ZERO, |_, _| ()).unwrap();
        assert_eq!((plan.is_needed(), plan.dirty), (true, (BITS, BITS)));
        let grown = taken(&path) - before;
        assert!(grown < MOST, "{grown} bytes");
        let report = check(&path, |_, _| ()).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert!(!plan_repair(&path, |_, _| ()).unwrap().is_needed());
        let info = inspect(&path).unwrap();
        assert_eq!((info.dirty, info.verdict), (Some((BITS, BITS)), Verdict::Superset));
        assert!(Options::new().read_only(true).open(&path).unwrap().is_full());
    }
}

/// A closed map with two points that are kept, and an outstanding one if asked for. The last point has lost all that was counted
/// in it.
fn with_damaged_point(path: &Path, outstanding: bool) -> Header {
    let mut header = forged::header(BITS, Durability::PowerLoss, State::Clean, WordRanges::new(), 0);
    let count = if outstanding { 3 } else { 2 };
    for i in 0..count {
        let end = header.file_length();
        let last = i + 1 == count;
        header.points.push(Point {
            uuid: Uuid([i + 1; 16]),
            time: 0,
            role: if outstanding && last { PointRole::Outstanding } else { PointRole::Kept },
            name: ["older", "newer", ""][usize::from(i)].into(),
            table_offset: end,
            bottom_offset: end + dirtymap::format::table_length(&header.geometry),
            granules: if last { 5000 } else { 0 },
            reasons: Reasons::NONE,
            target: None,
            reserved: Reserved::default(),
        });
    }
    if outstanding {
        (header.checkpoint_state, header.checkpoint_uuid) = (CheckpointState::Frozen, Uuid([3; 16]));
    }
    forged::write(path, &header);
    header
}

#[test]
fn a_damaged_point_holds_everything_and_takes_no_space() {
    let dir = tempfile::tempdir().unwrap();
    let (path, undo) = (dir.path().join("map"), dir.path().join("undo"));
    let quiet = Options::new().flush_interval(None);
    for (outstanding, repaired) in [(false, true), (true, true), (false, false), (true, false)] {
        let header = with_damaged_point(&path, outstanding);
        let before = taken(&path);
        let bytes = fs::read(&path).unwrap();
        if repaired {
            let plan = repair(&path, Some(&undo), Duration::ZERO, |_, _| ()).unwrap();
            assert!(plan.actions.iter().any(|action| action.contains("hold everything")), "{:?}", plan.actions);
            assert!(fs::metadata(&path).unwrap().len() < header.file_length(), "its regions are still there");
            assert!(check(&path, |_, _| ()).unwrap().findings.is_empty());
            assert!(!plan_repair(&path, |_, _| ()).unwrap().is_needed());
            undo_repair(&path, &undo, Duration::ZERO).unwrap();
            assert!(fs::read(&path).unwrap() == bytes);
            repair(&path, None, Duration::ZERO, |_, _| ()).unwrap();
            assert!(taken(&undo) < MOST);
            fs::remove_file(&undo).unwrap();
        }
        let dirty = if outstanding { BITS } else { 0 };
        let info = inspect(&path).unwrap();
        assert_eq!(info.dirty, Some((dirty, dirty)));
        let verdict = if repaired { Verdict::Superset } else { Verdict::Damaged };
        assert_eq!(info.verdict, if outstanding { verdict } else { Verdict::Exact });

        let mut map = quiet.open(&path).unwrap();
        if outstanding {
            assert!(map.is_full() && map.frozen_set(header.checkpoint_uuid).unwrap().is_full());
            map.commit_checkpoint(header.checkpoint_uuid, false).unwrap();
        }
        assert!(map.is_empty() && map.since_set("newer").unwrap().is_full());
        map.drop_point("newer").unwrap();
        assert!(map.since_set("older").unwrap().is_full());
        map.truncate(BITS + 5000).unwrap();
        map.truncate(BITS / 2).unwrap();
        assert!(map.since_set("older").unwrap().is_full() && map.is_empty());
        map.close().unwrap();
        assert_eq!(check(&path, |_, _| ()).unwrap().findings, []);
        let grown = taken(&path).saturating_sub(before);
        assert!(grown < MOST, "{grown} bytes");
    }
}

/// One that does not verify when the length changes.
#[test]
fn a_damaged_point_holds_everything_of_a_new_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    with_damaged_point(&path, false);
    let before = taken(&path);
    let mut map = Options::new().flush_interval(None).open(&path).unwrap();
    for len in [BITS * 2, 5, BITS] {
        map.truncate(len).unwrap();
        assert!(map.since_set("newer").unwrap().is_full() && map.is_empty());
    }
    map.close().unwrap();
    assert_eq!(check(&path, |_, _| ()).unwrap().findings, []);
    let grown = taken(&path).saturating_sub(before);
    assert!(grown < MOST, "{grown} bytes");
}
