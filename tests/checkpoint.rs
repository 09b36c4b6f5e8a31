//! Checkpoints under live writers, with real threads and real files: what a backup gets that freezes, copies, and commits
//! or aborts, while others write; and what is left of it after an end without a close.

mod common;

use common::Finally;
use dirtymap::format::{COPY_BYTES, Header, Intent, Point, PointRole, copy_offset};
use dirtymap::{
    Access, Bitmap, DirtyMap, Durability, Error, ImageStamp, IntentBound, Options, Uuid,
    checkpoint::CheckpointState,
    error::{Refusal, Unusable},
    fsck::check,
    info::{FileState, Info, Verdict, inspect},
};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, UNIX_EPOCH};

const GRANULE: u64 = 1 << 16;
const LEN: u64 = 1 << 30;

fn options() -> Options {
    Options::new().flush_interval(None)
}

fn new(dir: &Path) -> (PathBuf, DirtyMap) {
    let path = dir.join("map");
    let map = options().create(&path, LEN).unwrap();
    (path, map)
}

fn granule(i: u64) -> std::ops::Range<u64> {
    i * GRANULE..(i + 1) * GRANULE
}

/// Which granules are dirty.
fn dirty(map: &DirtyMap) -> Vec<u64> {
    map.granules(0..map.len()).unwrap().map(|item| item / GRANULE).collect()
}

fn of(map: &Bitmap) -> Vec<u64> {
    map.granules(0..map.len()).unwrap().map(|item| item / GRANULE).collect()
}

#[test]
fn what_was_frozen_is_clean_after_the_commit_and_what_was_set_since_is_dirty() {
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = new(dir.path());
    [3, 4, 9000].iter().for_each(|&i| _ = map.set(granule(i)).unwrap());
    let frozen = map.freeze(None).unwrap();
    assert_eq!(frozen.state, CheckpointState::Frozen);
    assert!(!map.any_since_freeze().unwrap());
    map.set(granule(4)).unwrap();
    assert!(map.any_since_freeze().unwrap());
    map.set(granule(5)).unwrap();
    // All of it is dirty, wherever it is; the hash is of what is here.
    assert_eq!(dirty(&map), [3, 4, 5, 9000]);
    assert_eq!(map.count(), 4);
    assert_eq!(map.next_clean(3 * GRANULE..LEN).unwrap(), Some(6 * GRANULE));
    assert_eq!(of(&map.frozen(frozen.uuid).unwrap()), [3, 4, 9000]);
    let mut here = Bitmap::new(LEN, 16).unwrap();
    here.set(4 * GRANULE..6 * GRANULE).unwrap();
    assert_eq!(map.sha256(), here.sha256());
    assert_eq!(map.info().unwrap().checkpoint, Some(frozen.clone()));
    map.commit_checkpoint(frozen.uuid, false).unwrap();
    assert_eq!(dirty(&map), [4, 5]);
    assert_eq!(map.checkpoint().unwrap(), None);
    assert_eq!(map.last_committed().unwrap().unwrap().uuid, frozen.uuid);
    map.commit_checkpoint(frozen.uuid, false).unwrap();
    drop(map);
    assert!(DirtyMap::open(&path).unwrap().get(5 * GRANULE).unwrap());
}

#[test]
fn what_was_aborted_is_dirty_again_together_with_what_was_set_since() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let map = options().durability(durability).create(&path, LEN).unwrap();
        [3, 9000].iter().for_each(|&i| _ = map.set(granule(i)).unwrap());
        let frozen = map.freeze(Some("monday")).unwrap();
        map.set(granule(5)).unwrap();
        map.abort_checkpoint(frozen.uuid).unwrap();
        assert_eq!(dirty(&map), [3, 5, 9000]);
        assert_eq!(map.points().unwrap(), []);
        let mut all = Bitmap::new(LEN, 16).unwrap();
        for i in [3, 5, 9000] {
            all.set(granule(i)).unwrap();
        }
        assert_eq!(map.sha256(), all.sha256());
        map.close().unwrap();
        assert_eq!(dirty(&DirtyMap::open(&path).unwrap()), [3, 5, 9000]);
    }
}

#[test]
fn no_checkpoint_has_no_identity() {
    let dir = tempfile::tempdir().unwrap();
    let map = Options::new().create(dir.path().join("map"), 1 << 30).unwrap();
    for keep in [false, true] {
        assert_eq!(map.commit_checkpoint(Uuid::NIL, keep).unwrap_err().kind(), "no-checkpoint");
    }
    assert_eq!(map.abort_checkpoint(Uuid::NIL).unwrap_err().kind(), "no-checkpoint");
}

#[test]
fn a_frozen_checkpoint_outlives_the_process_and_a_clean_close() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        for close in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("map");
            // A crash makes nothing else dirty.
            let options = || options().intent_bound(IntentBound::None);
            let map = options().durability(durability).create(&path, LEN).unwrap();
            [3, 4].iter().for_each(|&i| _ = map.set(granule(i)).unwrap());
            map.flush().unwrap();
            let frozen = map.freeze(Some("a")).unwrap();
            map.set(granule(5)).unwrap();
            map.flush().unwrap();
            if close {
                map.close().unwrap();
            } else {
                drop(map);
            }
            let info = inspect(&path).unwrap();
            assert_eq!(info.checkpoint, Some(frozen.clone()));
            assert_eq!(info.state, if close { FileState::Clean } else { FileState::Unclean });
            assert_eq!(check(&path, |_, _| ()).unwrap().not_writable, None);
            let read = Options::new().read_only(true).open(&path).unwrap();
            let everything = durability == Durability::Process && !close;
            if !everything {
                assert_eq!(dirty(&read), [3, 4, 5]);
            }
            assert_eq!(of(&read.frozen(frozen.uuid).unwrap()), [3, 4]);
            let map = options().open(&path).unwrap();
            assert_eq!(dirty(&map), [3, 4, 5]);
            assert_eq!(of(&map.frozen(frozen.uuid).unwrap()), [3, 4]);
            map.commit_checkpoint(frozen.uuid, true).unwrap();
            assert_eq!(dirty(&map), [5]);
            assert_eq!(of(&map.since("a").unwrap()), [5]);
        }
    }
}

#[test]
fn errors_name_what_is_outstanding_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = new(dir.path());
    map.set(granule(1)).unwrap();
    let refused = |r: dirtymap::Result<_>, expected: Refusal| match r {
        Err(Error::Refused { why, .. }) => assert_eq!(why, expected),
        other => panic!("{other:?}"),
    };
    // Asking first gives the same answer, and freezes nothing.
    let can = |name: Option<&str>| {
        let asked = map.can_freeze(name).map_err(|e| e.to_string());
        assert_eq!(
            asked.clone().err(),
            map.freeze(name).map(|c| map.abort_checkpoint(c.uuid).unwrap()).err().map(|e| e.to_string())
        );
        asked.is_ok()
    };
    assert!(can(Some("a")) && can(None));
    for name in ["", "a\0b", &"x".repeat(65)] {
        assert!(!can(Some(name)));
        refused(map.freeze(Some(name)), Refusal::PointName { bytes: name.len(), most: 64 });
    }
    let first = map.freeze(Some(&"y".repeat(64))).unwrap();
    let e = map.freeze(Some("second")).unwrap_err();
    assert_eq!(e.kind(), "checkpoint-outstanding");
    assert!(!can(Some("second")));
    let seconds = first.time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    for part in [first.uuid.to_string(), "y".repeat(64), "frozen".into(), seconds.to_string()] {
        assert!(e.to_string().contains(&part), "{e}");
    }
    let other = Uuid([7; 16]);
    for r in [map.commit_checkpoint(other, false), map.abort_checkpoint(other)] {
        let e = r.unwrap_err();
        assert!(e.kind() == "no-checkpoint" && e.to_string().contains(&first.uuid.to_string()), "{e}");
    }
    assert_eq!(map.frozen(other).unwrap_err().kind(), "no-checkpoint");
    map.commit_checkpoint(first.uuid, true).unwrap();
    assert_eq!(map.abort_checkpoint(first.uuid).unwrap_err().kind(), "no-checkpoint");
    refused(map.freeze(Some(&"y".repeat(64))), Refusal::PointExists { name: "y".repeat(64) });
    assert!(!can(Some(&"y".repeat(64))));
    let unnamed = map.freeze(None).unwrap();
    refused(map.commit_checkpoint(unnamed.uuid, true).map(|()| unnamed.clone()), Refusal::Unnamed);
    map.commit_checkpoint(unnamed.uuid, false).unwrap();
    for i in 1..63 {
        let c = map.freeze(Some(&format!("{i}"))).unwrap();
        map.commit_checkpoint(c.uuid, true).unwrap();
    }
    refused(map.freeze(None), Refusal::TooManyPoints { most: 63 });
    assert!(!can(None));
    assert_eq!(map.drop_point("nobody").unwrap_err().kind(), "no-point");
    assert_eq!(map.since("nobody").unwrap_err().kind(), "no-point");
    map.close().unwrap();
    let read = Options::new().read_only(true).open(&path).unwrap();
    assert_eq!(read.freeze(None).unwrap_err().kind(), "read-only");
    assert_eq!(read.points().unwrap().len(), 63);
}

#[test]
fn a_freeze_waits_for_a_write_that_had_begun_and_is_given_up_if_that_does_not_end() {
    let dir = tempfile::tempdir().unwrap();
    let map = options().freeze_timeout(Duration::from_millis(5)).create(dir.path().join("map"), LEN).unwrap();
    map.set(granule(1)).unwrap();
    let (begun, end) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|s| {
        let ended = Finally(|| end.store(true, SeqCst));
        s.spawn(|| {
            let write = map.begin_write(granule(2)).unwrap();
            begun.store(true, SeqCst);
            while !end.load(SeqCst) {
                std::thread::yield_now();
            }
            drop(write);
        });
        while !begun.load(SeqCst) {
            std::thread::yield_now();
        }
        for _ in 0..3 {
            // Each time: a freeze that was given up leaves nothing that a later one would overlook.
            let e = map.freeze(None).unwrap_err();
            assert!(e.kind() == "busy" && e.to_string().contains("1 data write "), "{e}");
            assert_eq!(map.checkpoint().unwrap(), None);
            assert_eq!(dirty(&map), [1, 2]);
        }
        drop(ended);
    });
    let frozen = map.freeze(None).unwrap();
    assert_eq!(of(&map.frozen(frozen.uuid).unwrap()), [1, 2]);
}

#[test]
fn a_freeze_inside_ones_own_bracket_is_an_error_and_a_bracket_may_end_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (_, map) = new(dir.path());
    let write = map.begin_write(granule(2)).unwrap();
    let e = map.freeze(None).unwrap_err();
    assert!(e.kind() == "refused" && e.to_string().contains("end the write first"), "{e}");
    std::thread::scope(|s| s.spawn(move || drop(write)).join().unwrap());
    map.freeze(None).unwrap();
    // Of a range that is wrong nothing stays registered.
    assert!(map.begin_write(0..LEN + 1).is_err());
    map.abort_checkpoint(map.checkpoint().unwrap().unwrap().uuid).unwrap();
    map.freeze(None).unwrap();
}

#[test]
fn a_write_that_keeps_its_map_goes_to_another_thread_and_a_freeze_waits_for_it() {
    fn goes_anywhere<T: Send + 'static>(write: T) -> T {
        write
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let map = Arc::new(options().freeze_timeout(Duration::from_millis(50)).create(&path, LEN).unwrap());
    let ranges = [granule(1), granule(5), granule(900)];
    let write = goes_anywhere(map.begin_writes_owned(&ranges).unwrap());
    assert_eq!((dirty(&map), map.stats().arms), (vec![1, 5, 900], 1));
    // The thread that has begun it may freeze: it is another one's to end. Here none does, in time.
    assert!(matches!(map.freeze(None), Err(Error::Busy { writes: 1, .. })));
    assert!(matches!(map.begin_writes_owned(&[granule(7), 0..LEN + 1]), Err(Error::OutOfRange { .. })));
    assert!(!map.get(7 * GRANULE).unwrap(), "nothing is changed when one of the ranges is wrong");
    let single = map.begin_write_owned(..1).unwrap();
    assert!(Arc::ptr_eq(single.map(), &map));
    let ends = std::thread::spawn(move || drop((write, single)));
    ends.join().unwrap();
    let frozen = map.freeze(None).unwrap();
    assert_eq!(of(&map.frozen(frozen.uuid).unwrap()), [0, 1, 5, 900]);
    map.abort_checkpoint(frozen.uuid).unwrap();
    // The map goes with the last write.
    let last = map.begin_write_owned(granule(3)).unwrap();
    assert_eq!(Arc::strong_count(&map), 2);
    drop(map);
    assert_eq!(options().open(&path).unwrap_err().kind(), "locked");
    assert_eq!(dirty(last.map()), [0, 1, 3, 5, 900]);
    drop(last);
    assert!(options().open(&path).unwrap().get(900 * GRANULE).unwrap());
    let read = Arc::new(options().read_only(true).open(&path).unwrap());
    assert_eq!(read.begin_write_owned(0..1).unwrap_err().kind(), "read-only");
}

/// The image is an array of counters, one for each granule; the backup copies what is frozen.
#[test]
fn backups_while_threads_write_end_with_the_image() {
    const N: u64 = 600;
    let dir = tempfile::tempdir().unwrap();
    let (path, mut map) = new(dir.path());
    let image: Vec<AtomicU64> = (0..N).map(|_| AtomicU64::new(0)).collect();
    let mut backup = vec![0; N as usize];
    let at = |seed: &mut u64| {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *seed >> 33
    };
    let mut seed = 1;
    for round in 0..3 {
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            let ended = Finally(|| stop.store(true, SeqCst));
            for thread in 0..3u64 {
                let (map, image, stop) = (&map, &image, &stop);
                s.spawn(move || {
                    let mut seed = thread + 10 * round;
                    while !stop.load(SeqCst) {
                        let i = at(&mut seed) % N;
                        let _write = map.begin_write(granule(i * 7)).unwrap();
                        std::thread::yield_now();
                        image[i as usize].fetch_add(1, SeqCst);
                    }
                });
            }
            for backups in 0..12 {
                let frozen = map.freeze(None).unwrap();
                let mut copy = backup.clone();
                // After an end without a close, neighbours are dirty with what was armed: also past the image's last.
                let work = of(&map.frozen(frozen.uuid).unwrap());
                for i in work.into_iter().filter(|i| i / 7 < N) {
                    copy[(i / 7) as usize] = image[(i / 7) as usize].load(SeqCst);
                    assert!(map.get(i * GRANULE).unwrap(), "a granule that is being backed up reads clean");
                }
                match at(&mut seed) % 3 {
                    0 => map.abort_checkpoint(frozen.uuid).unwrap(),
                    _ => {
                        map.commit_checkpoint(frozen.uuid, false).unwrap();
                        backup = copy;
                    }
                }
                if backups % 4 == 3 {
                    map.flush().unwrap();
                }
            }
            drop(ended);
        });
        for i in 0..N {
            let same = image[i as usize].load(SeqCst) == backup[i as usize];
            assert!(same || map.get(granule(i * 7).start).unwrap(), "granule {i} is not backed up and clean");
        }
        drop(map);
        map = options().open(&path).unwrap();
    }
    let last = map.freeze(None).unwrap();
    for i in of(&map.frozen(last.uuid).unwrap()).into_iter().filter(|i| i % 7 == 0 && i / 7 < N) {
        backup[(i / 7) as usize] = image[(i / 7) as usize].load(SeqCst);
    }
    map.commit_checkpoint(last.uuid, false).unwrap();
    assert_eq!(backup, image.iter().map(|i| i.load(SeqCst)).collect::<Vec<_>>());
}

#[test]
fn readers_never_see_a_dirty_granule_clean_while_checkpoints_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let (_, map) = new(dir.path());
    for i in 0..500 {
        map.set(granule(i * 13)).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let ended = Finally(|| stop.store(true, SeqCst));
        for _ in 0..2 {
            s.spawn(|| {
                while !stop.load(SeqCst) {
                    assert!((0..500).all(|i| map.get(i * 13 * GRANULE).unwrap()));
                    assert_eq!(map.count(), 500);
                    assert_eq!(map.next_dirty(GRANULE..LEN).unwrap(), Some(13 * GRANULE));
                }
            });
        }
        for _ in 0..15 {
            let frozen = map.freeze(None).unwrap();
            map.abort_checkpoint(frozen.uuid).unwrap();
        }
        drop(ended);
    });
}

fn names(map: &DirtyMap) -> Vec<String> {
    map.points().unwrap().into_iter().map(|p| p.name).collect()
}

/// Freezes and commits what is dirty; keeps the name if there is one.
fn back_up(map: &DirtyMap, name: Option<&str>) {
    let c = map.freeze(name).unwrap();
    map.commit_checkpoint(c.uuid, name.is_some()).unwrap();
}

#[test]
fn since_a_name_is_what_was_written_after_it_was_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let (path, mut map) = new(dir.path());
    for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
        map.set(granule(i as u64)).unwrap();
        map.set(granule(5000)).unwrap();
        back_up(&map, Some(name));
        assert!(map.since(name).unwrap().is_empty(), "nothing was written since");
    }
    assert_eq!(names(&map), ["a", "b", "c"]);
    map.set(granule(3)).unwrap();
    let frozen = map.freeze(None).unwrap();
    map.set(granule(4)).unwrap();
    let since = [("a", vec![1, 2, 3, 4, 5000]), ("b", vec![2, 3, 4, 5000]), ("c", vec![3, 4])];
    let between =
        [("a", "b", vec![1, 5000]), ("b", "c", vec![2, 5000]), ("a", "c", vec![1, 2, 5000]), ("b", "b", vec![])];
    let say_the_same = |map: &DirtyMap| {
        let names = names(map);
        let there = |name: &str| names.iter().any(|there| there == name);
        for (name, bits) in since.iter().filter(|s| there(s.0)) {
            assert_eq!(of(&map.since(name).unwrap()), *bits, "since {name}, with {names:?}");
        }
        for (from, to, bits) in between.iter().filter(|b| there(b.0) && there(b.1)) {
            assert_eq!(of(&map.between(from, to).unwrap()), *bits, "from {from} to {to}, with {names:?}");
        }
    };
    say_the_same(&map);
    // Whoever copied it, it was written since those names.
    map.commit_checkpoint(frozen.uuid, false).unwrap();
    assert_eq!(dirty(&map), [4]);
    say_the_same(&map);
    back_up(&map, None);
    assert!(map.is_empty());
    say_the_same(&map);
    let e = map.between("c", "a").unwrap_err();
    assert!(e.kind() == "refused" && e.to_string().contains("\"a\" was frozen before \"c\""), "{e}");
    assert_eq!(map.between("a", "nobody").unwrap_err().kind(), "no-point");
    // What a drop takes away is one name.
    for (i, dropped) in ["b", "c", "a"].into_iter().enumerate() {
        map.close().unwrap();
        let read = Options::new().read_only(true).open(&path).unwrap();
        say_the_same(&read);
        map = options().open(&path).unwrap();
        map.drop_point(dropped).unwrap();
        assert_eq!(names(&map).len(), 2 - i);
        say_the_same(&map);
        // Another name, and so another map, once the points have changed.
        let since = read.since("a");
        assert!(matches!(since, Err(Error::Unusable { why: Unusable::PointsChanged })));
    }
    assert_eq!(check(&path, |_, _| ()).unwrap().info.points, []);
}

/// What a point takes is given up with it, and what two have become one takes once.
#[test]
fn names_take_space_only_for_what_was_written_since() {
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = new(dir.path());
    // Beside the write intent, which the last one is.
    let kept = |point: &&Point| point.role == PointRole::Kept && point.has_regions();
    let with_regions = || header(&path).points.iter().filter(kept).count();
    back_up(&map, Some("a"));
    back_up(&map, Some("b"));
    assert_eq!(with_regions(), 1, "what was frozen for b, and that was nothing, is what a has");
    let length = || std::fs::metadata(&path).unwrap().len();
    let before = length();
    for i in 0..20 {
        map.set(granule(i)).unwrap();
        back_up(&map, None);
        let kept = &header(&path).points[1];
        assert_eq!((with_regions(), kept.granules), (2, i + 1), "counted once");
    }
    assert!(length() <= before + 8 * 65536, "{} bytes, and {before} before", length());
    map.drop_point("b").unwrap();
    map.drop_point("a").unwrap();
    assert_eq!(with_regions(), 0);
}

#[test]
fn what_was_written_since_a_name_can_be_had_as_a_map_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (_, map) = new(dir.path());
    back_up(&map, Some("a"));
    map.set(granule(1)).unwrap();
    back_up(&map, Some("b"));
    map.set(granule(2)).unwrap();
    let [since, between] = ["since", "between"].map(|name| dir.path().join(name));
    map.export_since("a", &since).unwrap();
    map.export_between("a", "b", &between).unwrap();
    assert_eq!(inspect(&since).unwrap().verdict, Verdict::Exact);
    assert_eq!(dirty(&DirtyMap::open(&since).unwrap()), [1, 2]);
    assert_eq!(dirty(&DirtyMap::open(&between).unwrap()), [1]);
    assert_eq!(map.export_since("a", &between).unwrap_err().kind(), "exists");
}

/// The newest header of a closed file.
fn header(path: &Path) -> Header {
    let file = std::fs::File::open(path).unwrap();
    let mut newest = None;
    for copy in 0..4 {
        let mut bytes = vec![0; COPY_BYTES];
        file.read_exact_at(&mut bytes, copy_offset(copy)).unwrap();
        let found = Header::parse(&bytes).ok();
        if found.as_ref().map(|h| h.sequence) > newest.as_ref().map(|h: &Header| h.sequence) {
            newest = found;
        }
    }
    newest.unwrap()
}

#[test]
fn a_point_that_does_not_verify_makes_everything_dirty_and_is_told() {
    for kept in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (path, map) = new(dir.path());
        if kept {
            ["older", "a", "newer"].iter().for_each(|name| back_up(&map, Some(name)));
            map.drop_point("newer").unwrap();
        }
        map.set(granule(1)).unwrap();
        let c = map.freeze(Some("b")).unwrap();
        if kept {
            map.commit_checkpoint(c.uuid, true).unwrap();
        }
        map.close().unwrap();
        let at = header(&path).points.iter().find(|point| point.granules > 0).unwrap().bottom_offset;
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0xff], at + 7).unwrap();
        let report = check(&path, |_, _| ()).unwrap();
        let finding = report.findings.iter().find(|f| f.place.contains("point")).expect("a finding");
        assert_eq!(finding.consequence.contains("since"), kept, "{finding:?}");
        let read = Options::new().read_only(true).open(&path).unwrap();
        let map = options().open(&path).unwrap();
        for map in [&read, &map] {
            assert_eq!(map.is_full(), !kept);
            assert_eq!(map.count() == LEN / GRANULE, !kept);
            assert_eq!(map.info().unwrap().verdict, if kept { Verdict::Exact } else { Verdict::Damaged });
            if kept {
                // All answers that include it, and no others.
                assert!(map.since("older").unwrap().is_full() && map.since("a").unwrap().is_full());
                assert!(map.between("a", "b").unwrap().is_full() && map.between("older", "b").unwrap().is_full());
                assert!(map.since("b").unwrap().is_empty() && map.between("older", "a").unwrap().is_empty());
            } else {
                assert!(map.frozen(c.uuid).unwrap().is_full());
            }
        }
        if !kept {
            map.abort_checkpoint(c.uuid).unwrap();
            assert!(map.is_full());
            assert_eq!(map.info().unwrap().verdict, Verdict::Superset);
            map.close().unwrap();
            assert_eq!(inspect(&path).unwrap().verdict, Verdict::Superset);
        }
    }
}

#[test]
fn a_point_that_is_only_the_intent_is_in_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = new(dir.path());
    back_up(&map, Some("a"));
    map.set(granule(1)).unwrap();
    map.freeze(None).unwrap();
    map.close().unwrap();
    let mut header = header(&path);
    let last = header.points.last_mut().unwrap();
    last.role = PointRole::Intent;
    header.intent = Some(Intent { point: last.uuid, unit: 0 });
    (header.checkpoint_state, header.checkpoint_uuid) = (CheckpointState::Normal, Uuid::NIL);
    rewrite(&path, &header);
    let map = DirtyMap::open(&path).unwrap();
    assert!(map.is_empty() && map.since("a").unwrap().is_empty());
    assert_eq!(map.count_points().unwrap()[0].since, (0, 0));
}

/// Writes a header to all its copies.
fn rewrite(path: &Path, header: &Header) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    (0..4).for_each(|copy| file.write_all_at(&header.encode().unwrap(), copy_offset(copy)).unwrap());
}

/// When the clock was years ahead at the freeze, dirt that came after it is not taken for older than the point.
#[test]
fn a_clock_that_is_set_back_hides_no_dirt_that_came_after_a_freeze() {
    for (ahead, repaired) in [(false, false), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let (path, map) = new(dir.path());
        map.set(granule(1)).unwrap();
        let c = map.freeze(None).unwrap();
        map.set(granule(2)).unwrap();
        drop(map);
        let mut header = header(&path);
        if ahead {
            header.points[0].time += 10 * 365 * 86400;
            rewrite(&path, &header);
        }
        if repaired {
            // Page 2, which the armed list does not name: damage.
            let at = header.layout.bottom.start + 2 * 512;
            OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[1], at).unwrap();
            assert!(dirtymap::fsck::repair(&path, None, Duration::ZERO, |_, _| ()).unwrap().is_needed());
        }
        // Recovery adds what was armed, and repair what failed.
        let map = options().open(&path).unwrap();
        assert_eq!(map.info().unwrap().verdict, Verdict::Superset);
        map.commit_checkpoint(c.uuid, false).unwrap();
        map.close().unwrap();
        assert_eq!(inspect(&path).unwrap().verdict, Verdict::Superset);
    }
}

#[test]
fn the_length_changes_under_names_and_not_under_a_checkpoint() {
    for shared in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let options = options().access(if shared { Access::Shared } else { Access::Exclusive });
        let mut map = options.create(&path, LEN).unwrap();
        back_up(&map, Some("a"));
        [1, 9000].iter().for_each(|&i| _ = map.set(granule(i)).unwrap());
        back_up(&map, Some("b"));
        map.set(granule(2)).unwrap();
        let c = map.freeze(Some("c")).unwrap();
        let e = map.truncate(LEN / 2).unwrap_err();
        assert_eq!(e.kind(), "refused");
        for word in ["outstanding", "\"c\"", "commit or abort", &c.uuid.to_string()] {
            assert!(e.to_string().contains(word), "{e}");
        }
        map.commit_checkpoint(c.uuid, true).unwrap();
        let end = 2 * LEN / GRANULE;
        map.truncate(LEN / 2).unwrap();
        assert_eq!(of(&map.between("a", "b").unwrap()), [1]);
        map.truncate(2 * LEN).unwrap();
        assert!(map.is_empty());
        let new: Vec<u64> = (LEN / 2 / GRANULE..end).collect();
        assert_eq!(of(&map.since("a").unwrap()), [&[1, 2][..], &new].concat());
        assert_eq!(of(&map.since("c").unwrap()), new);
        assert_eq!((of(&map.between("a", "b").unwrap()), of(&map.between("b", "c").unwrap())), (vec![1], vec![2]));
        // And brackets and freezes go on in the new regions.
        drop(map.begin_write(granule(3)).unwrap());
        back_up(&map, None);
        map.close().unwrap();
        assert_eq!(check(&path, |_, _| ()).unwrap().findings, []);
        let map = DirtyMap::open(&path).unwrap();
        assert_eq!(of(&map.since("c").unwrap()), [&[3][..], &new].concat());
    }
}

#[test]
fn what_a_commit_makes_clean_is_a_change_and_what_a_freeze_or_an_abort_moves_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (_, map) = new(dir.path());
    [3, 9000].iter().for_each(|&i| _ = map.set(granule(i)).unwrap());
    map.attach_changes(0).unwrap();
    let c = map.freeze(None).unwrap();
    map.abort_checkpoint(c.uuid).unwrap();
    let c = map.freeze(None).unwrap();
    assert_eq!(map.take_changes().unwrap().unwrap().count(), 0);
    map.commit_checkpoint(c.uuid, false).unwrap();
    assert_eq!(of(&map.take_changes().unwrap().unwrap()), [3, 9000]);
}

/// The last checkpoint is the write intent: what it froze, rounded out, counts as armed, and everybody says how much that is.
#[test]
fn info_says_what_a_crash_would_add_by_the_intent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let map = Options::new().flush_interval(None).create(&path, 1 << 40).unwrap();
    map.set(0..1).unwrap();
    map.set(1 << 32..(1 << 32) + 1).unwrap();
    let frozen = map.freeze(None).unwrap();
    map.commit_checkpoint(frozen.uuid, false).unwrap();
    let items = |info: &Info| (info.armed_items, info.intent_items);
    // Two granules were frozen: two units of four, which is four times as much.
    let granules = |armed: u64, intent: u64| (armed << 16, intent << 16);
    assert_eq!(items(&map.info().unwrap()), granules(8, 8));
    // What it covers is armed; another granule of its word arms that word, in which it covers nothing beside it then.
    let before = map.stats().arms;
    map.set(0..2 << 16).unwrap();
    assert_eq!((map.stats().arms, items(&map.info().unwrap())), (before, granules(8, 8)));
    map.set(5 << 16..6 << 16).unwrap();
    assert_eq!(items(&map.info().unwrap()), granules(68, 4));
    assert_eq!(items(&inspect(&path).unwrap()), granules(68, 4));
    assert_eq!(items(&check(&path, |_, _| ()).unwrap().info), granules(68, 4));
    drop(map);
    // At rest, and opened: that is what a crash has added, or confirmed.
    assert_eq!(items(&inspect(&path).unwrap()), granules(68, 4));
    assert_eq!(items(&check(&path, |_, _| ()).unwrap().info), granules(68, 4));
    let map = Options::new().flush_interval(None).open(&path).unwrap();
    assert_eq!((map.count(), map.stats().recovered_items), (68, 68 << 16));
    map.close().unwrap();
    assert_eq!(items(&inspect(&path).unwrap()), (0, 0), "a map that was closed has nothing armed");
}

#[test]
fn the_freeze_of_a_snapshot_calls_back_between_the_wait_for_writes_and_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let map = options().freeze_timeout(Duration::from_secs(60)).create(&path, LEN).unwrap();
    map.set(granule(1)).unwrap();
    let write = map.begin_write(granule(2)).unwrap();
    let ended = AtomicBool::new(false);
    let frozen = std::thread::scope(|scope| {
        let freezer = scope.spawn(|| {
            map.freeze_snapshot(Some("now"), |uuid| {
                assert!(ended.load(SeqCst), "a write is not over");
                let found = map.checkpoint()?.unwrap();
                assert_eq!((found.uuid, found.state, found.snapshot), (uuid, CheckpointState::Freezing, true));
                assert!(!map.any_since_freeze()?, "what was frozen is reset");
                map.set(granule(2)).map(drop)
            })
        });
        while map.checkpoint().unwrap().is_none() {
            std::thread::yield_now();
        }
        ended.store(true, SeqCst);
        drop(write);
        freezer.join().unwrap().unwrap()
    });
    assert!(frozen.snapshot);
    assert_eq!(of(&map.frozen(frozen.uuid).unwrap()), [1, 2]);
    // It says so to whoever comes later, and what was marked meanwhile outlives the commit.
    map.close().unwrap();
    assert!(inspect(&path).unwrap().checkpoint.unwrap().snapshot);
    assert_eq!(options().open(&path).unwrap_err().kind(), "checkpoint-outstanding");
    let map = options().beside_snapshot(true).open(&path).unwrap();
    map.commit_checkpoint(frozen.uuid, true).unwrap();
    assert_eq!(dirty(&map), [2]);
    assert_eq!(map.since("now").unwrap().count(), 1);
}

#[test]
fn the_freeze_of_a_snapshot_fails_if_what_it_calls_back_does() {
    let dir = tempfile::tempdir().unwrap();
    let (_, map) = new(dir.path());
    map.set(granule(1)).unwrap();
    let failed = map.freeze_snapshot(None, |_| Err(Error::ReadOnly)).unwrap_err();
    assert_eq!(failed.kind(), Error::ReadOnly.kind());
    assert_eq!(map.checkpoint().unwrap(), None);
    assert_eq!(dirty(&map), [1]);
    // As it is with any other, somebody may abort it meanwhile.
    let failed = map.freeze_snapshot(None, |uuid| map.abort_checkpoint(uuid)).unwrap_err();
    assert_eq!(failed.kind(), "no-checkpoint");
    assert_eq!(dirty(&map), [1]);
}

#[test]
fn a_checkpoint_names_the_target_that_it_was_frozen_for_until_it_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let stamp = |name: &str| {
        std::fs::write(dir.path().join(name), name).unwrap();
        ImageStamp::of_path(&dir.path().join(name)).unwrap()
    };
    let (first, second) = (stamp("first"), stamp("second"));
    let map = options().create(&path, LEN).unwrap();
    let named = |map: &DirtyMap| map.checkpoint().unwrap().unwrap().target;
    for snapshot in [false, true] {
        map.set(granule(1)).unwrap();
        let frozen = match snapshot {
            false => map.freeze_for(Some("now"), &first),
            // Durable before anything is frozen.
            true => map.freeze_snapshot_for(Some("now"), Some(&first), |_| {
                assert!(named(&map).is_some_and(|target| target.equals(&first)));
                Ok(())
            }),
        };
        let frozen = frozen.unwrap();
        assert!(frozen.target.is_some_and(|target| target.equals(&first) && !target.is_exact()));
        assert_eq!((inspect(&path).unwrap().checkpoint.unwrap(), frozen.snapshot), (frozen.clone(), snapshot));
        assert_eq!(
            (map.info().unwrap().begun, map.info().unwrap().target),
            (None, None),
            "a backup that has not begun"
        );
        map.abort_checkpoint(frozen.uuid).unwrap();
        assert_eq!(dirty(&map), [1]);
    }
    // What is kept names the one that was completed, or none.
    for (name, target) in [("a", Some(&second)), ("b", None)] {
        let uuid = map.freeze_for(Some(name), &first).unwrap().uuid;
        match target {
            Some(target) => map.commit_backup(uuid, true, target, 0).unwrap(),
            None => map.commit_checkpoint(uuid, true).unwrap(),
        }
        assert_eq!(map.points().unwrap().last().unwrap().target, target.copied());
    }
    // A checkpoint that was frozen for nothing else names none.
    map.freeze(None).unwrap();
    assert_eq!(named(&map), None);
}

/// What another writer overwrites is copied by nobody.
#[test]
fn a_snapshot_has_the_map_without_other_writers_and_a_writer_has_it_without_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let shared = options().access(Access::Shared);
    let path = dir.path().join("map");
    let server = shared.create(&path, LEN).unwrap();
    server.set(granule(1)).unwrap();
    // The writer is in the slot behind the server's, and then in the one before.
    let writer = shared.open(&path).unwrap();
    assert_eq!(server.freeze_snapshot(None, |_| Ok(())).unwrap_err().kind(), "locked");
    assert_eq!((server.checkpoint().unwrap(), dirty(&server)), (None, vec![1]));
    server.close().unwrap();
    let server = writer;
    let writer = shared.open(&path).unwrap();
    assert_eq!(server.freeze_snapshot(None, |_| Ok(())).unwrap_err().kind(), "locked");
    // For any other checkpoint they may be there.
    let point = server.freeze(None).unwrap();
    writer.abort_checkpoint(point.uuid).unwrap();
    writer.close().unwrap();
    // Also one that comes while it is frozen.
    let point = server.freeze_snapshot(None, |_| {
        assert_eq!(shared.open(&path).unwrap_err().kind(), "checkpoint-outstanding");
        Ok(())
    });
    let uuid = point.unwrap().uuid;
    assert_eq!(shared.open(&path).unwrap_err().kind(), "checkpoint-outstanding");
    let knows = shared.clone().beside_snapshot(true).open(&path).unwrap();
    knows.abort_checkpoint(uuid).unwrap();
    knows.close().unwrap();
    shared.open(&path).unwrap().close().unwrap();
}

/// So whoever knows what the header says need not read it again while the number is the same.
#[test]
fn each_commit_of_whichever_process_has_another_number() {
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = new(dir.path());
    map.close().unwrap();
    let shared = options().access(Access::Shared);
    let (one, other) = (shared.clone().open(&path).unwrap(), shared.open(&path).unwrap());
    let reader = options().read_only(true).open(&path).unwrap();
    let mut last = 0;
    let mut commits = || {
        let all = [&one, &other, &reader].map(|map| map.sequence().unwrap());
        assert_eq!(all, [one.info().unwrap().sequence; 3]);
        std::mem::replace(&mut last, all[0]) != all[0]
    };
    assert!(commits());
    one.set(granule(1)).unwrap();
    assert!(commits());
    // It is armed already.
    other.set(granule(1)).unwrap();
    assert!(!commits());
    let frozen = other.freeze(None).unwrap();
    assert!(commits() && reader.checkpoint().unwrap().is_some() && !commits());
    one.abort_checkpoint(frozen.uuid).unwrap();
    assert!(commits() && reader.checkpoint().unwrap().is_none() && !commits());
    one.close().unwrap();
    other.close().unwrap();
    assert_eq!(reader.sequence(), None, "those who had it open are gone");
    let loaded = options().read_only(true).open(&path).unwrap();
    assert_eq!(loaded.sequence(), Some(inspect(&path).unwrap().sequence));
}
