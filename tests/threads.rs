//! Threads share a map by reference: setters, a resetter, a flusher and readers at once. What was set is there in
//! the end, nothing else is but what was not reset, and all of it survives a drop and a close.

mod common;

use common::Finally;
use dirtymap::{Bitmap, Durability, Options};
use std::ops::Range;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

const GRANULE: u64 = 1 << 12;
/// Setters write to the first half, everything in the second half is reset.
const HALF: u64 = 20_000 * GRANULE;
const LEN: u64 = 2 * HALF - 5;
const SETTERS: u64 = 4;
const ROUNDS: u64 = 300;

/// Numbers that look random, the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn range(&mut self, inside: Range<u64>) -> Range<u64> {
        let start = inside.start + self.below(inside.end - inside.start);
        start..(start + 1 + self.below(40 * GRANULE)).min(inside.end)
    }
}

fn options(durability: Durability) -> Options {
    Options::new().granularity(12).durability(durability).armed_bound(100 * 64 * GRANULE).flush_interval(None)
}

/// What the setters set, and what stays of the second half.
fn expected() -> Bitmap {
    let mut bits = Bitmap::new(LEN, 12).unwrap();
    for setter in 0..SETTERS {
        let mut numbers = Numbers(setter);
        for _ in 0..ROUNDS {
            bits.set(numbers.range(0..HALF)).unwrap();
        }
    }
    bits
}

fn run(durability: Durability, path: &Path) {
    let map = options(durability).create(path, LEN).unwrap();
    map.set(HALF..LEN).unwrap();
    let (start, working) = (Barrier::new(SETTERS as usize + 4), AtomicU64::new(SETTERS + 1));
    let (map, start, working) = (&map, &start, &working);
    thread::scope(|scope| {
        for setter in 0..SETTERS {
            scope.spawn(move || {
                start.wait();
                let _done = Finally(|| _ = working.fetch_sub(1, SeqCst));
                let mut numbers = Numbers(setter);
                for _ in 0..ROUNDS {
                    let range = numbers.range(0..HALF);
                    map.set(range.clone()).unwrap();
                    // Nobody resets here: from now on, always.
                    assert!(map.all(range.clone()).unwrap());
                    assert_eq!(map.next_dirty(range.clone()).unwrap(), Some(range.start));
                    assert_eq!(map.next_clean(range.clone()).unwrap(), None);
                }
            });
        }
        scope.spawn(move || {
            start.wait();
            let _done = Finally(|| _ = working.fetch_sub(1, SeqCst));
            for block in 0..100 {
                let granules = 20_000 / 100;
                let from = HALF + block * granules * GRANULE;
                map.reset(from..(from + granules * GRANULE).min(LEN)).unwrap();
                assert!(!map.any(from..(from + granules * GRANULE).min(LEN)).unwrap());
            }
        });
        scope.spawn(move || {
            start.wait();
            while working.load(SeqCst) > 0 {
                map.flush().unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(move || {
                start.wait();
                while working.load(SeqCst) > 0 {
                    let mut end = 0;
                    for area in map.extents(0..map.len()).unwrap() {
                        assert!(area.start >= end && area.start < area.end && area.end <= LEN);
                        end = area.end;
                    }
                    let granules = map.granules(0..map.len()).unwrap();
                    assert!(
                        granules
                            .zip(map.granules(0..map.len()).unwrap().skip(1))
                            .all(|(a, b)| a % GRANULE == 0 && b > 0)
                    );
                    assert!(map.count() <= map.geometry().bits());
                }
            });
        }
    });
}

fn whole_story(durability: Durability) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    run(durability, &path);
    // `run` dropped the map without closing it. Recovery adds at most what was armed.
    let expected = expected();
    let map = options(durability).open(&path).unwrap();
    assert!(map.recovery().unclean);
    for area in &expected {
        assert!(map.all(area.clone()).unwrap(), "{area:?} is lost");
    }
    assert!(map.count() <= expected.count() + map.recovery().armed_items.div_ceil(GRANULE));
    map.close().unwrap();
}

#[test]
fn what_threads_set_survives_a_drop() {
    whole_story(Durability::PowerLoss);
}

#[test]
fn what_threads_set_survives_a_drop_of_a_process_map() {
    whole_story(Durability::Process);
}

#[test]
fn what_threads_set_is_exactly_what_a_close_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let expected = expected();
    let map = options(Durability::PowerLoss).create(&path, LEN).unwrap();
    map.set(HALF..LEN).unwrap();
    thread::scope(|scope| {
        for setter in 0..SETTERS {
            let map = &map;
            scope.spawn(move || {
                let mut numbers = Numbers(setter);
                (0..ROUNDS).for_each(|_| _ = map.set(numbers.range(0..HALF)).unwrap());
            });
        }
        scope.spawn(|| map.reset(HALF..LEN).unwrap());
        scope.spawn(|| (0..20).for_each(|_| map.flush().unwrap()));
    });
    assert_eq!((map.count(), map.sha256()), (expected.count(), expected.sha256()));
    map.close().unwrap();
    let map = Options::new().read_only(true).open(&path).unwrap();
    assert_eq!((map.count(), map.sha256()), (expected.count(), expected.sha256()));
}

/// All threads want the same words at once: one commit arms them for all.
#[test]
fn setters_of_the_same_range_do_not_lose_each_others_bits() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let path = dir.path().join(format!("map{round}"));
        let map = options(Durability::PowerLoss).create(&path, LEN).unwrap();
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for bit in 0..8 {
                let (map, start) = (&map, &start);
                scope.spawn(move || {
                    start.wait();
                    for word in 0..20 {
                        map.set((word * 64 + bit) * GRANULE..(word * 64 + bit + 1) * GRANULE).unwrap();
                    }
                });
            }
        });
        assert_eq!(map.count(), 8 * 20);
        drop(map);
        let map = Options::new().read_only(true).open(&path).unwrap();
        (0..20).for_each(|word| assert!(map.all(word * 64 * GRANULE..(word * 64 + 8) * GRANULE).unwrap()));
    }
}
