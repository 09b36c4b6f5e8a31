//! Work that operations do: syncs, bytes written and read, headers committed, system calls. Counted, never timed, so that what
//! makes a map slow is seen on any machine. (Words that are looked at: `src/hierarchy/work.rs`.)

#[path = "common/mounted.rs"]
mod mounted;

use dirtymap::{Access, DirtyMap, Durability, Options, info::Stats};
use mounted::{Mounted, make, sh};
use std::path::Path;

const GRANULE: u64 = 1 << 16;
/// Items of a word at this granularity.
const WORD: u64 = 64 * GRANULE;

fn options() -> Options {
    Options::new().flush_interval(None).armed_bound(1 << 62)
}

/// What an operation adds to the map's own counts.
fn work(map: &DirtyMap, f: impl FnOnce()) -> Stats {
    let before = map.stats();
    f();
    let mut after = map.stats();
    after.arms -= before.arms;
    after.syncs -= before.syncs;
    after.flushes -= before.flushes;
    after.bytes_written -= before.bytes_written;
    after.slow_sets -= before.slow_sets;
    after
}

/// Arms, syncs, bytes and slow sets.
fn numbers(work: Stats) -> [u64; 4] {
    [work.arms, work.syncs, work.bytes_written, work.slow_sets]
}

/// A map of 2^36 bits with a bit set in each of 100 pages, and what setting them took.
fn hundred_pages(dir: &Path) -> (DirtyMap, Stats) {
    let map = options().granularity(9).create(dir.join("map"), 1 << 45).unwrap();
    let set = work(&map, || set_in_pages(&map, 0));
    (map, set)
}

fn set_in_pages(map: &DirtyMap, round: u64) {
    // Far apart, and in no order: 2^24 pages of 2^21 items.
    for i in 0..100u64 {
        let page = i.wrapping_mul(0x9e37_79b1) % (1 << 24);
        let item = (page << 21) + round * 512;
        map.set(item..item + 1).unwrap();
    }
}

#[test]
fn a_flush_of_100_pages_is_two_syncs_and_58_kib() {
    let dir = tempfile::tempdir().unwrap();
    let (map, set) = hundred_pages(dir.path());
    assert_eq!([set.arms, set.syncs, set.flushes, set.slow_sets], [100, 100, 0, 100]);
    let flush = work(&map, || map.flush().unwrap());
    // The pages with their entries, then the header that names no words any more, twice. The list may be 1 MiB for all that
    // the protocol cares: a commit writes as much of it as there is.
    let header = flush.bytes_written - 100 * (512 + 4);
    assert_eq!([flush.syncs, flush.flushes], [2, 1]);
    assert!(header <= 2 * 4096 + 64, "{header} bytes");
    // Nothing is left to do.
    assert_eq!(numbers(work(&map, || map.flush().unwrap())), [0, 0, 0, 0]);
    // What was reset and not set is listed first: one more.
    let reset = work(&map, || _ = map.reset_all().unwrap());
    assert_eq!(numbers(reset), [0, 0, 0, 0]);
    let flush = work(&map, || map.flush().unwrap());
    assert_eq!(flush.syncs, 3);
    assert!(flush.bytes_written <= 72 << 10, "{} bytes", flush.bytes_written);
    map.close().unwrap();
}

#[test]
fn a_device_hears_of_no_more_than_that() {
    let dir = tempfile::tempdir().unwrap();
    let skipped = |why: &str| eprintln!("SKIPPED: counting at a loop device: {why}");
    for kind in ["ext4", "xfs"] {
        let image = dir.path().join(kind);
        let mounted = make(kind, &image, 512).then(|| Mounted::new(&image, &dir.path().join("mounted"))).flatten();
        let Some(mounted) = mounted else {
            skipped(&format!("needs root, loop devices and mkfs.{kind}"));
            continue;
        };
        let (map, _) = hundred_pages(&mounted.0);
        map.flush().unwrap();
        // The file system itself may have something to write at any moment, so the least of a few counts.
        let mut least: Option<(u64, u64)> = None;
        for round in 1..4 {
            set_in_pages(&map, round);
            assert!(sh!("sync", "-f", mounted.0), "sync");
            let Some(before) = mounted.work() else { return skipped("this kernel does not count flushes") };
            map.flush().unwrap();
            let after = mounted.work().expect("as before");
            let found = (after.flushes - before.flushes, after.written - before.written);
            least = Some(least.map_or(found, |l| (l.0.min(found.0), l.1.min(found.1))));
        }
        map.close().unwrap();
        let (flushes, written) = least.expect("three rounds");
        assert!((1..=3).contains(&flushes), "{kind}: {flushes} cache flushes");
        assert!((100 * 512..=1 << 20).contains(&written), "{kind}: {written} bytes");
    }
}

#[test]
fn a_sequential_writer_waits_for_less_than_one_sync_in_64_mib() {
    let dir = tempfile::tempdir().unwrap();
    const LEN: u64 = 64 << 30;
    let map = Options::new().flush_interval(None).create(dir.path().join("map"), LEN).unwrap();
    let all = work(&map, || (0..LEN).step_by(1 << 20).for_each(|at| _ = map.set(at..at + (1 << 20)).unwrap()));
    // Words are armed 1, 2, 4 and so on to 32 ahead, which is 128 MiB; eight times as many fill the list, and are flushed.
    assert!(all.arms <= LEN / (128 << 20) + 8, "{} arms", all.arms);
    assert!(all.syncs <= LEN / (64 << 20) * 2 / 3, "{} syncs", all.syncs);
    assert_eq!(all.slow_sets, all.arms);
    // The bottom once and what names it, and not a header's worth for each word.
    let pages = LEN / GRANULE / 8;
    assert!(all.bytes_written <= pages + all.syncs * (2 * 4096 + 1024), "{} bytes", all.bytes_written);
    map.close().unwrap();
}

#[test]
fn what_is_armed_or_durable_costs_no_sync_and_no_system_call() {
    for access in [Access::Exclusive, Access::Shared] {
        let dir = tempfile::tempdir().unwrap();
        let map = match options().access(access).create(dir.path().join("map"), 1 << 34) {
            Ok(map) => map,
            Err(e) => {
                eprintln!("SKIPPED: a shared map: {e}");
                continue;
            }
        };
        let sets = |map: &DirtyMap| (0..1 << 18).for_each(|i| _ = map.set(i * GRANULE..i * GRANULE + 1).unwrap());
        let brackets = |map: &DirtyMap| (0..1000).for_each(|i| drop(map.begin_write(i * GRANULE..i * GRANULE + 1)));
        assert_eq!(numbers(work(&map, || _ = map.set_all().unwrap()))[..2], [1, 1], "one run, one commit");
        map.reset_all().unwrap();
        let (before, after) = (io(), io());
        let idle = after.since(&before);
        let count = || {
            let before = io();
            let done = work(&map, || {
                sets(&map);
                brackets(&map);
                map.set_all().unwrap();
                map.set(1..1 << 34).unwrap();
            });
            assert_eq!(numbers(done), [0, 0, 0, 0]);
            let found = io().since(&before);
            // Looking at the counts is reading itself, of as many bytes as there are digits.
            assert_eq!((found.reads, found.writes), (idle.reads, idle.writes));
        };
        count();
        map.flush().unwrap();
        count();
        map.close().unwrap();
    }
}

#[test]
fn arming_is_one_commit_a_word_and_grows_by_what_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let map = options().create(dir.path().join("map"), 1 << 40).unwrap();
    // Every other word, so that none of them makes a run with its neighbour, backwards, so that nothing is armed ahead.
    let words: Vec<u64> = (0..200).rev().map(|i| 2 * i * WORD).collect();
    let first = work(&map, || _ = map.set(words[0]..words[0] + 1).unwrap());
    assert_eq!([first.arms, first.syncs, first.slow_sets], [1, 1, 1]);
    let more = work(&map, || words[1..].iter().for_each(|&at| _ = map.set(at..at + 1).unwrap()));
    assert_eq!([more.arms, more.syncs, more.slow_sets], [199, 199, 199]);
    // Two copies of a byte for each run.
    let last = work(&map, || _ = map.set(401 * WORD..401 * WORD + 1).unwrap());
    assert_eq!([first.bytes_written, last.bytes_written], [2 * (2048 + 2), 2 * (2048 + 201)]);
    // A range is armed as one, however long it is.
    let range = work(&map, || _ = map.set(1 << 39..(1 << 39) + 1000 * WORD).unwrap());
    assert_eq!([range.arms, range.syncs, range.slow_sets], [1, 1, 1]);
    map.close().unwrap();
}

#[test]
fn many_cold_ranges_in_one_call_cost_the_commit_of_one() {
    let dir = tempfile::tempdir().unwrap();
    // With the bound that a map has unless told otherwise.
    let options = Options::new().flush_interval(None);
    let map = options.create(dir.path().join("map"), 1 << 45).unwrap();
    let ranges = |first: u64| -> Vec<_> { (0..128).map(|i| (first + i) << 36).map(|at| at..at + 1).collect() };
    let one = work(&map, || assert_eq!(map.set(1 << 35..(1 << 35) + 1).unwrap(), 1));
    let many = work(&map, || assert_eq!(map.set_ranges(&ranges(0)).unwrap(), 128));
    assert_eq!([one.arms, one.syncs, one.slow_sets], [1, 1, 1]);
    assert_eq!([many.arms, many.syncs, many.slow_sets], [1, 1, 1]);
    assert!(ranges(0).into_iter().all(|range| map.all(range).unwrap()));
    // What is armed costs none.
    assert_eq!(numbers(work(&map, || assert_eq!(map.set_ranges(&ranges(0)).unwrap(), 0))), [0; 4]);
    map.flush().unwrap();
    // Nor does a write of several ranges cost more, in any order, with some that are one, or lie in one another.
    let mut mixed = ranges(128);
    mixed.reverse();
    mixed.extend([0..0, 200 << 36..(200 << 36) + WORD, (200 << 36) + GRANULE..(200 << 36) + GRANULE + 1]);
    let write = work(&map, || drop(map.begin_writes(&mixed[8..]).unwrap()));
    assert_eq!([write.arms, write.syncs, write.slow_sets], [1, 1, 1]);
    assert_eq!(map.count(), 129 + 120 + 63);
    // More than are announced at once, and more than the bound: nothing is left out.
    map.flush().unwrap();
    let far: Vec<_> = (0..1000).map(|i| (i << 34) + 5 * WORD).map(|at| at..at + 1).collect();
    let many = work(&map, || assert_eq!(map.set_ranges(&far).unwrap(), 1000));
    assert_eq!([many.arms, many.slow_sets], [8, 8]);
    assert_eq!(map.set_ranges(&far).unwrap(), 0);
    map.close().unwrap();
}

#[test]
fn a_thousand_scattered_words_of_a_terabyte_are_listed_without_a_flush() {
    let dir = tempfile::tempdir().unwrap();
    let map = options().create(dir.path().join("map"), 1 << 40).unwrap();
    // Far apart, and in no order: 2^18 words, of which the list has a byte for each that is less than 64 behind another.
    let word = |i: u64| i * 683 % 1024 * 64;
    let set = |i: u64| _ = map.set(word(i) * WORD..word(i) * WORD + 1).unwrap();
    let all = work(&map, || (0..1023).for_each(set));
    assert_eq!([all.arms, all.syncs, all.flushes], [1023, 1023, 0]);
    assert_eq!(work(&map, || set(1023)).bytes_written, 2 * (2048 + 1024));
    let flush = work(&map, || map.flush().unwrap());
    assert_eq!([flush.syncs, flush.flushes], [2, 1]);
    map.close().unwrap();
}

#[test]
fn a_map_that_survives_processes_never_syncs_to_set() {
    let dir = tempfile::tempdir().unwrap();
    let map = options().durability(Durability::Process).create(dir.path().join("map"), 1 << 36).unwrap();
    let all = work(&map, || (0..1 << 36).step_by(1 << 20).for_each(|at| _ = map.set(at..at + 1).unwrap()));
    assert_eq!([all.arms, all.syncs, all.bytes_written], [0, 0, 0]);
    map.close().unwrap();
}

#[test]
fn opening_reads_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let open = || options().open(&path).unwrap();
    // A table of more than 16 MiB is only read where the file has any of it.
    options().granularity(9).create(&path, 1 << 45).unwrap().close().unwrap();
    let before = io();
    let map = open();
    let read = io().since(&before);
    assert!(read.bytes_read <= 18 << 10 && read.reads <= 13, "empty: {read:?}");
    map.set(0..1).and_then(|_| map.set(1 << 44..(1 << 44) + 1)).unwrap();
    map.close().unwrap();
    let before = io();
    let map = open();
    let two = io().since(&before);
    // For each: a block of the page table and one of the bottom.
    assert!(
        two.bytes_read <= read.bytes_read + 4 * 4096 + 64 && two.reads <= read.reads + 4,
        "{two:?}, empty: {read:?}"
    );
    assert_eq!(map.count(), 2);
    // Pages side by side are read together, and behind them no more than they are.
    let pages = 256;
    map.set(1 << 43..(1 << 43) + (pages << 21)).unwrap();
    map.close().unwrap();
    let before = io();
    let map = open();
    let more = io().since(&before);
    let most = two.bytes_read + 2 * pages * 512 + 2 * 4096 + 64;
    assert!(more.bytes_read <= most && more.reads <= two.reads + 8, "{more:?}, before: {two:?}");
    assert_eq!(map.count(), 2 + pages * 4096);
    map.close().unwrap();
}

/// What this thread has had the kernel read and write, each by a system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Io {
    bytes_read: u64,
    reads: u64,
    writes: u64,
}

fn io() -> Io {
    let Ok(text) = std::fs::read_to_string("/proc/thread-self/io") else {
        eprintln!("SKIPPED: counting system calls: this kernel does not");
        return Io::default();
    };
    let field = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    Io { bytes_read: field("rchar:"), reads: field("syscr:"), writes: field("syscw:") }
}

impl Io {
    fn since(&self, before: &Io) -> Io {
        Io {
            bytes_read: self.bytes_read - before.bytes_read,
            reads: self.reads - before.reads,
            writes: self.writes - before.writes,
        }
    }
}

/// Listed are the words between those that the intent covers, where that is shorter than naming all.
#[test]
fn a_range_that_the_write_intent_cuts_into_very_many_runs_is_set() {
    const WORDS: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new().granularity(0).flush_interval(None).armed_bound(1 << 40);
    let map = options.create(dir.path().join("map"), WORDS * 64).unwrap();
    let third: Vec<_> = (0..WORDS).step_by(3).map(|w| w * 64..(w + 1) * 64).collect();
    map.set_ranges(&third).unwrap();
    let frozen = map.freeze(None).unwrap();
    map.commit_checkpoint(frozen.uuid, false).unwrap();
    assert_eq!(map.info().unwrap().intent_items, WORDS.div_ceil(3) * 64);
    assert_eq!(map.set(..).unwrap(), WORDS * 64);
    map.close().unwrap();
}
