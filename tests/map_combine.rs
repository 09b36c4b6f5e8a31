//! What a map in a file does with other maps: merging, copying to memory, saving and loading in chunks, and telling
//! what changed.
#![allow(clippy::single_range_in_vec_init, reason = "a list of areas may have one")]

mod common;

use common::Finally;
use dirtymap::{Bitmap, DirtyMap, Durability, Error, Options, ReadMap, WriteMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

const GRANULE: u64 = 1 << 16;
/// A little more than three pages, and a partial granule at the end.
const LEN: u64 = 13_000 * GRANULE - 77;

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.map");
    (dir, path)
}

fn create(path: &PathBuf) -> DirtyMap {
    Options::new().flush_interval(None).create(path, LEN).unwrap()
}

fn kind<T>(result: Result<T, Error>) -> &'static str {
    result.err().map_or("no error", |e| e.kind())
}

/// Dirt of all kinds: areas, single granules, the tail.
fn some_dirt(granularity: u32, seed: u64) -> Bitmap {
    let mut map = Bitmap::new(LEN, granularity).unwrap();
    let mut at = seed * 7919;
    while at < LEN {
        map.set(at..(at + seed * 31_415).min(LEN)).unwrap();
        at += 3_000_000 + at / (seed + 1);
    }
    map.set(LEN - 1..LEN).unwrap();
    map
}

#[test]
fn merging_any_granularity_rounds_outward_and_survives() {
    for granularity in [9, 12, 15, 16, 17, 20, 24, 40, 63] {
        let (_dir, path) = scratch();
        let durability = if granularity % 2 == 0 { Durability::PowerLoss } else { Durability::Process };
        let map = Options::new().flush_interval(None).durability(durability).create(&path, LEN).unwrap();
        map.set(5 * GRANULE..6 * GRANULE).unwrap();
        let (mut wanted, dirt) = (map.to_bitmap().unwrap(), some_dirt(granularity, 3));
        wanted.merge(&dirt).unwrap();
        assert!(map.can_merge(&dirt));
        map.merge(&dirt).unwrap();
        assert_eq!(map.to_bitmap().unwrap(), wanted, "granularity {granularity}");
        // The whole granule of each area, and no other.
        for area in &wanted {
            let from = area.start.saturating_sub(GRANULE.max(1 << granularity));
            assert!(dirt.any(from..area.end).unwrap() || area.start == 5 * GRANULE);
        }
        drop(map);
        let recovered = DirtyMap::open(&path).unwrap();
        assert_eq!(wanted.difference(&recovered).unwrap().count(), 0, "lost by a crash");
        recovered.close().unwrap();
    }
}

#[test]
fn merging_a_map_in_a_file_into_another_and_into_memory() {
    let (_dir, path) = scratch();
    let (_dir2, path2) = scratch();
    let (one, two) = (create(&path), create(&path2));
    one.merge(&some_dirt(16, 2)).unwrap();
    two.merge(&some_dirt(16, 5)).unwrap();
    let mut both = Bitmap::new(LEN, 16).unwrap();
    let changed = both.set_to_union(&one, &two).unwrap();
    assert_eq!((changed, changed > 0), (both.count(), true));
    let mut common = both.clone();
    common.intersect(&one).unwrap();
    common.intersect(&two).unwrap();
    assert_eq!(common, some_dirt(16, 2).intersection(&two).unwrap());
    assert_eq!(common.count() + both.count(), one.count() + two.count());
    both.subtract(&one).unwrap();
    assert_eq!(both, some_dirt(16, 5).difference(&one).unwrap());
    let mut coarse = Bitmap::new(LEN, 20).unwrap();
    coarse.merge(&one).unwrap();
    one.merge(&two).unwrap();
    assert_eq!(one.count() + common.count(), two.count() + some_dirt(16, 2).count());
    one.merge(&coarse).unwrap();
    assert!(coarse.into_iter().all(|area| one.all(area).unwrap()));
    one.close().unwrap();
    let read = Options::new().read_only(true).open(&path).unwrap();
    let mut copy = Bitmap::new(LEN, 16).unwrap();
    assert_eq!(copy.merge(&read).unwrap(), read.count());
    assert_eq!(copy.sha256(), read.sha256());
}

#[test]
fn what_cannot_be_merged_changes_nothing() {
    let (_dir, path) = scratch();
    let map = create(&path);
    map.set(0..1).unwrap();
    let before = map.stats();
    let mut longer = Bitmap::new(LEN + 1, 16).unwrap();
    longer.set_all();
    assert!(!map.can_merge(&longer) && !longer.can_merge(&map));
    assert_eq!(kind(map.merge(&longer)), "mismatch");
    assert_eq!(kind(longer.merge(&map)), "mismatch");
    assert_eq!(kind(longer.subtract(&map)), "mismatch");
    assert_eq!((map.count(), map.stats()), (1, before));
    // With itself there is nothing to do, also where its dirt is not durable yet.
    map.merge(&map).unwrap();
    assert_eq!((map.count(), map.stats()), (1, before));
    map.close().unwrap();
    let read = Options::new().read_only(true).open(&path).unwrap();
    assert!(!read.can_merge(&Bitmap::new(LEN, 16).unwrap()));
    assert_eq!(kind(read.merge(&Bitmap::new(LEN, 16).unwrap())), "read-only");
    assert_eq!(kind(read.take_changes()), "read-only");
    let refused = read.begin_load().unwrap_err();
    assert_eq!(refused.error().kind(), "read-only");
    assert!(refused.into_map().get(0).is_ok(), "it is given back");
}

/// What a program does with either kind of map.
fn exercise(map: &mut dyn WriteMap) -> [u64; 6] {
    let word = 0xf0u64.to_le_bytes();
    [
        map.set(0..3 << 16).unwrap(),
        map.reset(0..1 << 16).unwrap(),
        map.reset_within(1..2 << 16).unwrap(),
        map.load_part(0..64 << 16, &word).unwrap(),
        map.set_all().unwrap(),
        map.reset_covering(1..2).unwrap(),
    ]
}

#[test]
fn both_kinds_of_maps_serve_the_same_program() {
    let (_dir, path) = scratch();
    let mut bits = Bitmap::new(LEN, 16).unwrap();
    let mut map = Options::new().create(&path, LEN).unwrap();
    let all = bits.geometry().bits();
    assert_eq!(exercise(&mut bits), [3, 1, 1, 5, all - 4, 1]);
    assert_eq!(exercise(&mut map), [3, 1, 1, 5, all - 4, 1]);
    // All but the first granule is dirty now.
    assert_eq!(exercise(&mut &map), [1, 1, 1, 58, 60, 1]);
    let same = |a: &dyn ReadMap, b: &dyn ReadMap| a.sha256() == b.sha256() && a.next_clean(0..LEN).unwrap() == Some(0);
    assert!(same(&bits, &map) && (&map).into_iter().eq(&bits));
}

/// Counted, not timed: a thousand words that lie far apart are armed together, many with one sync.
#[test]
fn merging_scattered_dirt_does_not_pay_a_sync_for_each_word() {
    let (_dir, path) = scratch();
    let map = Options::new().flush_interval(None).armed_bound(u64::MAX).create(&path, 1 << 40).unwrap();
    let mut dirt = Bitmap::new(1 << 40, 16).unwrap();
    for i in 0..1000 {
        dirt.set(i << 30..(i << 30) + 1).unwrap();
    }
    map.merge(&dirt).unwrap();
    assert_eq!(map.count(), 1000);
    let merged = map.stats();
    assert!(merged.syncs <= 40, "{merged:?}");
    map.flush().unwrap();
    let before = map.stats();
    map.merge(&dirt).unwrap();
    assert_eq!(map.stats(), before, "merging what is there and flushed is looking only");
    drop(map);
    assert!(dirt.difference(&DirtyMap::open(&path).unwrap()).unwrap().is_empty());
}

fn chunks(align: u64) -> Vec<Range<u64>> {
    let cuts = [0, 3, 4, 67, 120, 121, 200].map(|words| words * align).into_iter().chain([LEN]);
    let cuts: Vec<u64> = cuts.collect();
    cuts.windows(2).map(|c| c[0]..c[1]).rev().collect()
}

#[test]
fn what_one_kind_of_map_saves_the_other_one_loads() {
    let (_dir, path) = scratch();
    let (old, new) = (some_dirt(16, 2), some_dirt(16, 5));
    let map = create(&path);
    map.merge(&old).unwrap();
    map.flush().unwrap();
    let align = map.serialization_align().unwrap();
    assert_eq!(align, 64 * GRANULE);
    let mut loading = map.begin_load().unwrap();
    for chunk in chunks(align) {
        let mut bytes = vec![1; new.serialized_size(chunk.clone()).unwrap() as usize];
        new.serialize_part(chunk.clone(), &mut bytes).unwrap();
        loading.part(chunk, &bytes).unwrap();
    }
    let map = loading.finish().unwrap();
    assert_eq!(map.to_bitmap().unwrap(), new);
    let mut copy = Bitmap::new(LEN, 16).unwrap().begin_load();
    for chunk in chunks(align) {
        let mut bytes = vec![1; map.serialized_size(chunk.clone()).unwrap() as usize];
        map.serialize_part(chunk.clone(), &mut bytes).unwrap();
        copy.part(chunk, &bytes).unwrap();
    }
    assert_eq!(copy.finish(), new);
    // Finished means flushed: what was cleared stays clear after a crash.
    drop(map);
    let map = DirtyMap::open(&path).unwrap();
    assert_eq!(map.to_bitmap().unwrap(), new);
    map.close().unwrap();
}

#[test]
fn loading_zeroes_and_ones_and_what_is_refused() {
    let (_dir, path) = scratch();
    let map = create(&path);
    map.set(0..LEN / 2).unwrap();
    let align = map.serialization_align().unwrap();
    let last = LEN / align * align;
    let mut loading = map.begin_load().unwrap();
    loading.zeroes(align..3 * align).unwrap();
    loading.ones(last..LEN).unwrap();
    assert_eq!(kind(loading.part(0..align, &[0; 7])), "chunk-size");
    assert_eq!(kind(loading.part(0..align + 1, &[0; 16])), "unaligned");
    assert_eq!(kind(loading.part(last..LEN, &[0xff; 8])), "stray-bits");
    assert_eq!(kind(loading.zeroes(0..align - 1)), "unaligned");
    assert_eq!(kind(loading.ones(0..LEN + 1)), "out-of-range");
    let map = loading.finish().unwrap();
    let areas: Vec<_> = map.extents(0..LEN).unwrap().collect();
    assert_eq!(areas, [0..align, 3 * align..(LEN / 2).next_multiple_of(GRANULE), last..LEN]);
    map.close().unwrap();
}

#[test]
fn loading_what_is_there_already_writes_nothing() {
    let (_dir, path) = scratch();
    let map = create(&path);
    let dirt = some_dirt(16, 2);
    map.merge(&dirt).unwrap();
    map.flush().unwrap();
    let before = map.stats();
    let mut bytes = vec![0; map.serialized_size(0..LEN).unwrap() as usize];
    map.serialize_part(0..LEN, &mut bytes).unwrap();
    let mut loading = map.begin_load().unwrap();
    loading.part(0..LEN, &bytes).unwrap();
    let map = loading.finish().unwrap();
    assert_eq!(map.stats().bytes_written, before.bytes_written);
    assert_eq!(map.to_bitmap().unwrap(), dirt);
}

#[test]
fn a_load_that_was_dropped_half_way_has_what_it_loaded_and_the_rest_as_it_was() {
    let (_dir, path) = scratch();
    let map = create(&path);
    let (old, new) = (some_dirt(16, 2), some_dirt(16, 5));
    map.merge(&old).unwrap();
    let half = 100 * map.serialization_align().unwrap();
    let mut bytes = vec![0; map.serialized_size(0..half).unwrap() as usize];
    new.serialize_part(0..half, &mut bytes).unwrap();
    let mut loading = map.begin_load().unwrap();
    loading.part(0..half, &bytes).unwrap();
    drop(loading);
    let map = DirtyMap::open(&path).unwrap();
    for area in new.extents(0..half).unwrap().chain(old.extents(half..LEN).unwrap()) {
        assert!(map.all(area.clone()).unwrap(), "{area:?} is lost");
    }
}

#[test]
fn changes_are_those_of_this_map_by_ranges() {
    let (_dir, path) = scratch();
    let map = create(&path);
    map.set(0..1).unwrap();
    assert!(map.take_changes().unwrap().is_none());
    assert_eq!(kind(map.attach_changes(48)), "geometry");
    map.attach_changes(2).unwrap();
    let changed = || {
        let changed = map.take_changes().unwrap().unwrap();
        assert_eq!((changed.len(), changed.granularity()), (LEN, 18));
        changed.into_iter().map(|a| a.start / GRANULE..a.end.div_ceil(GRANULE)).collect::<Vec<_>>()
    };
    assert_eq!(changed(), []);
    map.set(0..1).unwrap();
    map.flush().unwrap();
    assert_eq!(changed(), [], "nothing changed by setting it again and by flushing");
    map.set(0..9 * GRANULE).unwrap();
    assert_eq!(changed(), [0..12]);
    map.set(0..9 * GRANULE).unwrap();
    map.reset(20 * GRANULE..100 * GRANULE).unwrap();
    assert_eq!(changed(), []);
    map.reset(8 * GRANULE..17 * GRANULE).unwrap();
    assert_eq!(changed(), [8..20]);
    let mut dirt = Bitmap::new(LEN, 16).unwrap();
    dirt.set(0..9 * GRANULE).unwrap();
    dirt.set(LEN - 1..LEN).unwrap();
    map.merge(&dirt).unwrap();
    assert_eq!(changed(), [8..12, 12_996..13_000]);
    // Marks that nobody has taken stay when the chunks change.
    map.set(100 * GRANULE..101 * GRANULE).unwrap();
    map.attach_changes(4).unwrap();
    assert!(map.take_changes().unwrap().unwrap().into_iter().eq([96 * GRANULE..112 * GRANULE]));
    map.attach_changes(2).unwrap();
    map.reset_all().unwrap();
    assert_eq!(changed(), [0..13_000]);
    let align = map.serialization_align().unwrap();
    let mut loading = map.begin_load().unwrap();
    loading.part(align..2 * align, &[8, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    loading.part(2 * align..3 * align, &[0; 8]).unwrap();
    loading.ones(3 * align..4 * align).unwrap();
    let map = loading.finish().unwrap();
    let changed = map.take_changes().unwrap().unwrap();
    assert!(changed.into_iter().eq([align..2 * align, 3 * align..4 * align]));
    map.detach_changes().unwrap();
    map.set_all().unwrap();
    assert!(map.take_changes().unwrap().is_none());
    drop(map);
    // What recovery adds is no change.
    let map = DirtyMap::open(&path).unwrap();
    map.attach_changes(0).unwrap();
    map.flush().unwrap();
    assert!(map.take_changes().unwrap().unwrap().is_empty());
}

/// Many threads set, one takes. What it takes is set already; and all that was set is taken, at the latest after
/// the last set has returned.
#[test]
fn no_change_is_missed_by_who_takes_them_meanwhile() {
    const SETTERS: u64 = 4;
    let (_dir, path) = scratch();
    let map = create(&path);
    map.attach_changes(0).unwrap();
    let (start, working) = (Barrier::new(SETTERS as usize + 1), AtomicU64::new(SETTERS));
    let (map, start, working) = (&map, &start, &working);
    let mut taken = Bitmap::new(LEN, 16).unwrap();
    thread::scope(|scope| {
        for setter in 0..SETTERS {
            scope.spawn(move || {
                start.wait();
                let _done = Finally(|| _ = working.fetch_sub(1, SeqCst));
                for i in 0..1500 {
                    let granule = (i * 7 + setter * 3251) % 12_990;
                    map.set(granule * GRANULE..(granule + 1 + i % 3) * GRANULE).unwrap();
                }
            });
        }
        start.wait();
        loop {
            let last = working.load(SeqCst) == 0;
            let changes = map.take_changes().unwrap().unwrap();
            for area in &changes {
                assert!(map.all(area.clone()).unwrap(), "{area:?} was marked before it was set");
            }
            taken.merge(&changes).unwrap();
            if last {
                break;
            }
        }
    });
    assert_eq!(taken, map.to_bitmap().unwrap());
}
