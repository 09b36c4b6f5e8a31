//! Who has the file: one writer or some readers, whatever races; and nothing is left behind by those who come and go.

mod common;

use common::Finally;
use dirtymap::{
    DirtyMap, Options,
    fsck::check,
    info::{FileState, inspect},
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const GRANULE: u64 = 4096;

fn new_map() -> (tempfile::TempDir, PathBuf) {
    // In memory where there is such a place: a device sync for every open and close would only take time.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = dir.path().join("map");
    quiet().granularity(12).create(&path, 1 << 30).unwrap().close().unwrap();
    (dir, path)
}

fn quiet() -> Options {
    Options::new().flush_interval(None)
}

/// How many of this process's descriptors and mappings are of a file in `dir`.
fn held(dir: &Path) -> (usize, usize) {
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    let links = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let of_dir = dir.to_str().unwrap();
    (links.filter(|link| link.starts_with(dir)).count(), maps.lines().filter(|line| line.contains(of_dir)).count())
}

#[test]
fn of_two_openers_one_has_it() {
    let (_dir, path) = new_map();
    let (inside, opened) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..200 {
                    match quiet().open(&path) {
                        Ok(map) => {
                            assert_eq!(inside.fetch_add(1, SeqCst), 0, "two writers at once");
                            let n = opened.fetch_add(1, SeqCst);
                            map.set(n * GRANULE..(n + 1) * GRANULE).unwrap();
                            inside.fetch_sub(1, SeqCst);
                            if n % 2 == 0 { map.close().unwrap() } else { drop(map) }
                        }
                        Err(error) => assert_eq!(error.kind(), "locked", "{error}"),
                    }
                }
            });
        }
    });
    let opened = opened.into_inner();
    assert!(opened > 0);
    let map = quiet().open(&path).unwrap();
    assert!(map.all(0..opened * GRANULE).unwrap(), "a bit of one of {opened} sessions is lost");
}

#[test]
fn who_waits_gets_it_when_the_other_closes() {
    let (_dir, path) = new_map();
    let waiting = quiet().wait(Duration::from_secs(60));
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let (path, waiting) = (&path, &waiting);
            scope.spawn(move || {
                for round in 0..10 {
                    let map = waiting.open(path).unwrap();
                    let granule = thread * 10 + round;
                    map.set(granule * GRANULE..(granule + 1) * GRANULE).unwrap();
                    map.close().unwrap();
                }
            });
        }
    });
    let map = quiet().read_only(true).open(&path).unwrap();
    assert_eq!((map.count(), map.info().unwrap().state), (40, FileState::Clean));
}

#[test]
fn readers_beside_opens_and_closes_see_a_map_at_rest_or_a_locked_one() {
    let (_dir, path) = new_map();
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _done = Finally(|| done.store(100, SeqCst));
            for n in 0..100 {
                // A reader may have the lock for a moment.
                let map = quiet().wait(Duration::from_secs(60)).open(&path).unwrap();
                map.set(n * GRANULE..(n + 1) * GRANULE).unwrap();
                done.store(n + 1, SeqCst);
                map.close().unwrap();
            }
        });
        scope.spawn(|| {
            while done.load(SeqCst) < 100 {
                let least = done.load(SeqCst);
                match quiet().read_only(true).open(&path) {
                    Ok(map) => assert!(map.count() >= least, "{} of {least}", map.count()),
                    Err(error) => assert_eq!(error.kind(), "locked", "{error}"),
                }
                let least = done.load(SeqCst);
                let info = inspect(&path).unwrap();
                assert!(info.state == FileState::Open || info.dirty.is_some_and(|dirty| dirty.0 >= least));
                let report = check(&path, |_, _| {}).unwrap();
                assert!(report.findings.is_empty(), "{:?}", report.findings);
            }
        });
    });
    assert_eq!(quiet().read_only(true).open(&path).unwrap().count(), 100);
}

#[test]
fn a_thousand_opens_leave_nothing_behind() {
    let (dir, path) = new_map();
    assert_eq!(held(dir.path()), (0, 0));
    for n in 0..1000u64 {
        let how = n % 4;
        let map = quiet().read_only(how == 2).open(&path).unwrap();
        if n == 0 {
            let (fds, mappings) = held(dir.path());
            assert!(fds > 0 && mappings > 0, "nothing was counted");
        }
        match how {
            0 => map.close().unwrap(),
            1 => {
                // Somebody who does not get it.
                assert_eq!(DirtyMap::open(&path).unwrap_err().kind(), "locked");
                drop(map);
            }
            _ => drop(map),
        }
    }
    // Another test's threads have files of their own, in another directory.
    assert_eq!(held(dir.path()), (0, 0));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(quiet().open(&path).unwrap().count(), 0);
}

#[test]
fn the_flusher_ends_with_the_map() {
    let (dir, path) = new_map();
    for _ in 0..50 {
        let map = Options::new().flush_interval(Some(Duration::from_millis(1))).open(&path).unwrap();
        map.set(0..GRANULE).unwrap();
        drop(map);
    }
    assert_eq!(held(dir.path()), (0, 0));
    let names = fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|t| fs::read_to_string(t.unwrap().path().join("comm")).ok());
    assert_eq!(names.filter(|name| name.trim() == "dirtymap-flush").count(), 0, "a flusher is still there");
}

#[test]
fn readers_do_not_take_each_other_for_a_writer() {
    let (_dir, path) = new_map();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    quiet().read_only(true).open(&path).unwrap();
                    assert_eq!(inspect(&path).unwrap().state, FileState::Clean);
                }
            });
        }
    });
}
