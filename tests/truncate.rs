//! Changing the length of a map in a file. Crashes inside it are the simulated disk's (src/sim/mod.rs).

#![allow(clippy::single_range_in_vec_init, reason = "lists of areas, some of them short")]

use dirtymap::{
    DirtyMap, Durability, Error, Options,
    fsck::check,
    info::{FileState, Verdict, inspect},
};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.map");
    (dir, path)
}

/// No flusher, so that nothing happens but what the test asks for.
fn options() -> Options {
    Options::new().granularity(9).flush_interval(None)
}

fn areas(map: &DirtyMap) -> Vec<std::ops::Range<u64>> {
    map.extents(0..map.len()).unwrap().collect()
}

#[test]
fn growing_keeps_the_dirt_and_adds_clean_granules() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let (_dir, path) = scratch();
        let mut map = options().durability(durability).create(&path, 10 << 20).unwrap();
        map.set(5000..9000).unwrap();
        map.set((10 << 20) - 1..10 << 20).unwrap();
        let before = areas(&map);
        map.truncate(1 << 40).unwrap();
        assert_eq!((map.len(), areas(&map)), (1 << 40, before.clone()));
        map.set((1 << 40) - 1..1 << 40).unwrap();
        let after: Vec<_> = before.into_iter().chain([(1 << 40) - 512..1 << 40]).collect();
        assert_eq!(areas(&map), after);
        map.close().unwrap();

        let info = inspect(&path).unwrap();
        assert_eq!((info.state, info.verdict, info.geometry.len()), (FileState::Clean, Verdict::Exact, 1 << 40));
        let map = DirtyMap::open(&path).unwrap();
        assert_eq!(areas(&map), after);
    }
}

#[test]
fn shrinking_forgets_what_is_behind_the_end_and_growing_again_does_not_bring_it_back() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let (_dir, path) = scratch();
        let mut map = options().durability(durability).create(&path, 1 << 30).unwrap();
        map.set_all().unwrap();
        // In the middle of a granule, which is kept as it is.
        map.truncate(1_000_001).unwrap();
        assert_eq!(areas(&map), [0..1_000_001]);
        assert!(map.is_full());
        map.truncate(1 << 30).unwrap();
        assert_eq!(areas(&map), [0..1_000_448]);
        map.truncate(0).unwrap();
        assert!(map.is_empty() && map.is_full());
        map.truncate(1 << 30).unwrap();
        assert!(map.is_empty());
        map.close().unwrap();
        assert!(DirtyMap::open(&path).unwrap().is_empty());
    }
}

#[test]
fn a_map_that_was_closed_with_more_dirt_than_it_has_room_for_now_can_be_opened() {
    let (_dir, path) = scratch();
    options().dirty(true).create(&path, 1 << 30).unwrap().close().unwrap();
    let mut map = DirtyMap::open(&path).unwrap();
    map.truncate(5000).unwrap();
    drop(map);
    let map = DirtyMap::open(&path).unwrap();
    assert_eq!((map.len(), areas(&map)), (5000, vec![0..5000]));
}

#[test]
fn changes_are_still_marked_after_a_change_of_length() {
    let (_dir, path) = scratch();
    let mut map = options().create(&path, 1 << 20).unwrap();
    map.attach_changes(0).unwrap();
    map.set(0..1).unwrap();
    map.truncate(2 << 20).unwrap();
    map.set((2 << 20) - 1..2 << 20).unwrap();
    let marks = map.take_changes().unwrap().unwrap();
    assert!(marks.get(0).unwrap() && marks.get((2 << 20) - 1).unwrap());
    map.truncate(1 << 20).unwrap();
    map.take_changes().unwrap();
    map.reset(0..512).unwrap();
    assert!(map.take_changes().unwrap().unwrap().get(0).unwrap());
}

#[test]
fn the_length_changes_also_when_the_number_of_bits_does_not() {
    let (_dir, path) = scratch();
    let mut map = options().create(&path, 1000).unwrap();
    map.set(999..1000).unwrap();
    for len in [1024, 513, 700, 700] {
        map.truncate(len).unwrap();
        assert_eq!((map.len(), areas(&map)), (len, vec![512..len]));
    }
    map.close().unwrap();
    assert_eq!(inspect(&path).unwrap().geometry.len(), 700);
}

#[test]
fn a_killed_process_finds_what_it_had_set_after_a_change_of_length() {
    let (_dir, path) = scratch();
    let mut map = options().durability(Durability::Process).create(&path, 1 << 30).unwrap();
    map.set(0..512).unwrap();
    map.truncate(2 << 30).unwrap();
    map.set((2 << 30) - 1..2 << 30).unwrap();
    map.reset(0..512).unwrap();
    drop(map);
    let map = DirtyMap::open(&path).unwrap();
    // Where the system does not say what is needed to trust the page cache, everything is dirty.
    let control = path.with_extension("control");
    drop(options().durability(Durability::Process).create(&control, 1 << 30).unwrap());
    let trusted = DirtyMap::open(&control).unwrap().recovery().cache_trusted;
    assert_eq!(map.recovery().cache_trusted, trusted);
    if trusted == Some(true) {
        assert_eq!(areas(&map), [(2 << 30) - 512..2 << 30]);
    } else {
        eprintln!("SKIPPED: the page cache is not trusted here");
        assert!(map.is_full());
    }
}

#[test]
fn what_was_reset_and_not_flushed_is_durable_afterwards() {
    let (_dir, path) = scratch();
    let mut map = options().create(&path, 1 << 30).unwrap();
    map.set(0..1 << 20).unwrap();
    map.flush().unwrap();
    map.reset(0..1 << 19).unwrap();
    map.truncate(2 << 30).unwrap();
    drop(map);
    let map = DirtyMap::open(&path).unwrap();
    assert_eq!(areas(&map), [1 << 19..1 << 20]);
}

#[test]
fn many_changes_take_no_more_space_than_two_maps() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let (_dir, path) = scratch();
        let mut map = options().durability(durability).create(&path, 1 << 30).unwrap();
        map.set_all().unwrap();
        let (mut longest, mut most) = (0, 0);
        for i in 0..20u64 {
            map.truncate((1 << 30) + i % 3 * 4096).unwrap();
            let file = std::fs::metadata(&path).unwrap();
            (longest, most) = (file.len().max(longest), file.blocks().max(most));
        }
        // A bottom of 256 KiB, its table, and in a Process map the volatile part, which has three of it.
        let volatile = if durability == Durability::Process { (3 << 18) + (5 << 16) } else { 0 };
        assert!(most * 512 < 2 * ((1 << 18) + (2 << 16) + volatile), "{most} sectors");
        assert!(longest < 5 << 20, "{longest} bytes");
        map.close().unwrap();
        let report = check(&path, |_, _| {}).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}

#[test]
fn the_largest_map_changes_its_length_in_little_space() {
    let (_dir, path) = scratch();
    let most = 1 << 41;
    let mut map = Options::new().granularity(0).create(&path, most).unwrap();
    map.set(0..1).unwrap();
    map.set(most - 1..most).unwrap();
    map.truncate(most / 2 + 1).unwrap();
    assert_eq!(areas(&map), [0..1]);
    map.set(most / 2..most / 2 + 1).unwrap();
    map.truncate(most).unwrap();
    assert_eq!(areas(&map), [0..1, most / 2..most / 2 + 1]);
    assert_eq!(map.next_clean(0..most).unwrap(), Some(1));
    assert_eq!(map.count(), 2);
    map.close().unwrap();
    let file = std::fs::metadata(&path).unwrap();
    assert!(file.blocks() * 512 < 1 << 20, "{} sectors", file.blocks());
    let report = check(&path, |_, _| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let map = DirtyMap::open(&path).unwrap();
    assert_eq!(areas(&map), [0..1, most / 2..most / 2 + 1]);
}

#[test]
fn lengths_that_no_map_can_have_change_nothing() {
    let (_dir, path) = scratch();
    let mut map = Options::new().granularity(0).create(&path, 100).unwrap();
    map.set(99..100).unwrap();
    for len in [(1 << 41) + 1, 1 << 63, u64::MAX] {
        assert!(matches!(map.truncate(len), Err(Error::Geometry { .. })), "{len}");
        assert_eq!((map.len(), areas(&map)), (100, vec![99..100]));
    }
    map.close().unwrap();
    let mut map = Options::new().read_only(true).open(&path).unwrap();
    assert!(matches!(map.truncate(200), Err(Error::ReadOnly)));
}

#[test]
fn the_map_goes_on_working_after_a_change() {
    let (_dir, path) = scratch();
    let mut map = options().create(&path, 1 << 30).unwrap();
    map.set(0..1 << 20).unwrap();
    map.flush().unwrap();
    map.reset(0..1 << 19).unwrap();
    map.set(1 << 29..1 << 30).unwrap();
    let before = map.stats();
    map.truncate(3 << 30).unwrap();
    let moved = map.stats();
    assert!((3..=7).contains(&(moved.syncs - before.syncs)) && moved.flushes > before.flushes, "{before:?} {moved:?}");
    for i in 0..3000u64 {
        map.set(i << 20..(i << 20) + 1).unwrap();
    }
    map.flush().unwrap();
    map.reset_all().unwrap();
    assert!(map.is_empty());
    map.set(7 << 20..8 << 20).unwrap();
    drop(map);
    let map = DirtyMap::open(&path).unwrap();
    assert!(map.all(7 << 20..8 << 20).unwrap());
}

#[test]
fn a_change_bitmap_follows() {
    let (_dir, path) = scratch();
    let mut map = options().create(&path, 1 << 20).unwrap();
    map.attach_changes(1).unwrap();
    map.set(0..512).unwrap();
    map.set((1 << 20) - 512..1 << 20).unwrap();
    map.truncate(1 << 21).unwrap();
    let changed = |map: &DirtyMap| {
        let changes = map.take_changes().unwrap().unwrap();
        (changes.len(), changes.into_iter().collect::<Vec<_>>())
    };
    assert_eq!(changed(&map), (1 << 21, vec![0..1024, (1 << 20) - 1024..1 << 20]));
    map.set((1 << 21) - 1..1 << 21).unwrap();
    // Cut off with dirt, and back without it: that is a change.
    map.truncate(1 << 20).unwrap();
    map.truncate(1 << 21).unwrap();
    let (len, areas) = changed(&map);
    assert!(len == 1 << 21 && areas.last().unwrap().end == 1 << 21, "{areas:?}");
    assert_eq!(changed(&map), (1 << 21, vec![]));
}
