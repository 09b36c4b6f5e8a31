//! A file that holds little takes little memory of who reads it, whatever its header says: what is dirty for want of
//! knowledge stays a few runs. One test to a process, or they would count each other's.

use dirtymap::format::{self, Point, PointRole, Reasons, Reserved, State, Uuid, WordRanges};
use dirtymap::{DirtyMap, Durability, Options, ReadMap, info::inspect};
use std::path::Path;

#[path = "common/forged.rs"]
mod forged;
#[path = "common/resident.rs"]
mod resident;
use resident::resident;

/// More than opening any small file takes, and less than a thousandth of what the largest map has.
const MOST: u64 = 8 << 20;
const BITS: u64 = 1 << 41;

#[test]
fn a_header_alone_takes_no_memory_however_much_it_calls_dirty() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let all = || WordRanges::one(0..BITS / 64);
    // A `Process` map of which nobody knows anything; one that lists all but one word; and one that was closed, and has lost
    // what it held.
    let mut but_one = all();
    but_one.remove(5..6);
    let mut before = None;
    for (durability, state, runs, recorded, dirty) in [
        (Durability::Process, State::Open, all(), 0, BITS),
        (Durability::PowerLoss, State::Open, but_one, 0, BITS - 64),
        (Durability::PowerLoss, State::Clean, WordRanges::new(), 1, BITS),
    ] {
        let header = forged::header(BITS, durability, state, runs, recorded);
        forged::write(&path, &header);
        // Once for what a first map costs that a second one does not.
        let before = *before.get_or_insert_with(|| {
            inspect(&path).unwrap();
            resident()
        });
        let map = Options::new().read_only(true).open(&path).unwrap();
        look(&map, dirty);
        assert_eq!(inspect(&path).unwrap().dirty, Some((dirty, dirty)));
        let grown = resident().saturating_sub(before);
        assert!(grown < MOST, "{grown} bytes for {header:?}");
    }
    a_full_map_takes_a_reader_no_memory(dir.path());
    what_is_frozen_of_a_full_map_takes_no_memory(dir.path());
    points_that_hold_everything_take_no_memory(&path);
}

/// One that was damaged, and one in no regions.
fn points_that_hold_everything_take_no_memory(path: &Path) {
    let mut header = forged::header(BITS, Durability::PowerLoss, State::Clean, WordRanges::new(), 0);
    let end = header.file_length();
    let regions = (end, end + format::table_length(&header.geometry));
    for (i, (table_offset, bottom_offset), granules) in [(1, regions, 5), (2, (0, 0), BITS), (3, (0, 0), 0)] {
        header.points.push(Point {
            uuid: Uuid([i; 16]),
            time: 0,
            role: PointRole::Kept,
            name: i.to_string(),
            table_offset,
            bottom_offset,
            granules,
            reasons: Reasons::NONE,
            target: None,
            reserved: Reserved::default(),
        });
    }
    forged::write(path, &header);
    let before = resident();
    let map = Options::new().read_only(true).open(path).unwrap();
    let sets = [map.since_set("1").unwrap(), map.since_set("2").unwrap(), map.between_set("2", "3").unwrap()];
    assert!(sets.iter().all(|set| set.is_full()) && map.since_set("3").unwrap().is_empty());
    let counted = map.count_points().unwrap();
    let (all, none) = ((BITS, BITS), (0, 0));
    let counts: Vec<_> = counted.iter().map(|c| (&*c.point.name, c.since, c.until_next)).collect();
    assert_eq!(counts, [("1", all, all), ("2", all, all), ("3", none, none)]);
    let grown = resident().saturating_sub(before);
    assert!(grown < MOST, "{grown} bytes");
}

/// Nor does what is known to be dirty, where it is dirty all over.
fn a_full_map_takes_a_reader_no_memory(dir: &Path) {
    let path = dir.join("full");
    let bits = 1 << 28;
    Options::new().granularity(0).dirty(true).create_closed(&path, bits).unwrap();
    let before = resident();
    let map = Options::new().read_only(true).open(&path).unwrap();
    assert!(map.is_full() && map.count() == bits);
    let grown = resident().saturating_sub(before);
    assert!(grown < MOST, "{grown} bytes");
}

/// Nor does the work of a backup, whichever way it is asked for.
fn what_is_frozen_of_a_full_map_takes_no_memory(dir: &Path) {
    let path = dir.join("full");
    let map = Options::new().open(&path).unwrap();
    let kept = map.freeze(Some("kept")).unwrap().uuid;
    map.commit_checkpoint(kept, true).unwrap();
    map.set_all().unwrap();
    let uuid = map.freeze(Some("last")).unwrap().uuid;
    let before = resident();
    let sets = [map.frozen_set(uuid).unwrap(), map.since_set("kept").unwrap(), map.dirty_set().unwrap()];
    for set in &sets {
        assert!(set.is_full() && set.count() == map.geometry().bits());
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < MOST, "{grown} bytes");
    // They stay as they are.
    map.abort_checkpoint(uuid).unwrap();
    map.reset_all().unwrap();
    assert!(map.is_empty() && sets.iter().all(|set| set.is_full()));
}

/// Searches and counts.
fn look(map: &DirtyMap, dirty: u64) {
    assert_eq!((map.count(), map.dirty_len()), (dirty, dirty));
    let clear = (dirty < BITS).then_some(5 * 64);
    assert_eq!(map.next_clean(0..BITS).unwrap(), clear);
    assert_eq!(map.is_full(), clear.is_none());
    assert_eq!(map.next_dirty(BITS - 1..BITS).unwrap(), Some(BITS - 1));
    assert_eq!(map.extents(0..BITS).unwrap().count(), if clear.is_some() { 2 } else { 1 });
    assert_eq!(map.count_range(BITS / 2..BITS).unwrap(), BITS / 2);
}
