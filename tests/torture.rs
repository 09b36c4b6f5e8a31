//! Order and clock: a flusher that never rests beside everything else, descriptors that others inherit, open and close,
//! and clocks that go backwards.

use dirtymap::{
    Access, Bitmap, Durability, ImageStamp, Options,
    info::{FileState, inspect},
};
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

#[path = "common/numbers.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod numbers;
use numbers::Numbers;

const GRANULE: u64 = 4096;
const LEN: u64 = 20_000 * GRANULE;

fn options(flush: Option<Duration>) -> Options {
    Options::new().granularity(12).flush_interval(flush)
}

fn new_map() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    options(None).create(&path, LEN).unwrap().close().unwrap();
    (dir, path)
}

/// The flusher works all the time while the length changes, others are merged, and the map is closed or dropped.
#[test]
fn a_flusher_beside_changes_of_length_merges_and_closes_loses_nothing() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let restless = options(Some(Duration::from_micros(1)));
        let mut map = restless.clone().durability(durability).create(&path, LEN).unwrap();
        let mut owed = Bitmap::new(LEN, 12).unwrap();
        let mut numbers = Numbers(5);
        let mut below = |n: u64| numbers.below(n);
        for round in 0..150 {
            let granules = map.len().div_ceil(GRANULE);
            for _ in 0..5 {
                let start = below(granules) * GRANULE;
                let range = start..(start + (1 + below(70)) * GRANULE).min(map.len());
                map.set(range.clone()).unwrap();
                owed.set(range).unwrap();
            }
            match below(5) {
                0 => {
                    let len = (1 + below(20_000)) * GRANULE - below(2) * 7;
                    map.truncate(len).unwrap();
                    owed.truncate(len).unwrap();
                }
                1 => {
                    let mut other = Bitmap::new(map.len(), 13).unwrap();
                    let start = below(granules) * GRANULE;
                    other.set(start..(start + 1).min(map.len())).unwrap();
                    map.merge(&other).unwrap();
                    owed.merge(&other).unwrap();
                }
                2 => {
                    let start = below(granules) * GRANULE;
                    map.reset_within(start..map.len()).unwrap();
                    owed.reset_within(start..map.len()).unwrap();
                }
                3 => {
                    map.close().unwrap();
                    assert_eq!(inspect(&path).unwrap().state, FileState::Clean, "round {round}");
                    map = restless.open(&path).unwrap();
                    assert_eq!(map.to_bitmap().unwrap(), owed, "round {round}: after a close it is exact");
                }
                _ => {
                    drop(map);
                    map = restless.open(&path).unwrap();
                    let found = map.to_bitmap().unwrap();
                    assert!(owed.extents(0..owed.len()).unwrap().all(|area| found.all(area).unwrap()), "round {round}");
                    // What was armed is dirty as well, from now on.
                    owed = found;
                }
            }
        }
        assert_eq!(map.to_bitmap().unwrap(), owed);
    }
}

/// Locks of the classic kind go away with any close of any descriptor of the file in the process. These do not.
#[test]
fn others_who_open_and_close_the_file_in_this_process_take_no_lock_away() {
    let (_dir, path) = new_map();
    for access in [Access::Exclusive, Access::Shared] {
        let map = options(None).access(access).open(&path).unwrap();
        map.set(0..1).unwrap();
        fs::read(&path).unwrap();
        drop(File::options().write(true).open(&path).unwrap());
        dirtymap::fsck::check(&path, |_, _| {}).unwrap();
        inspect(&path).unwrap();
        let reader = options(None).access(Access::ReadOnly).open(&path);
        assert_eq!(reader.is_ok(), access == Access::Shared);
        drop(reader);
        if access == Access::Shared {
            options(None).access(Access::Shared).open(&path).unwrap().close().unwrap();
            options(None).access(Access::Shared).open(&path).unwrap();
        }
        assert_eq!(options(None).open(&path).unwrap_err().kind(), "locked");
        map.set(GRANULE..GRANULE + 1).unwrap();
        assert_eq!(map.count(), 2);
        map.close().unwrap();
    }
}

/// How many descriptors of a process are of this file.
fn descriptors(process: u32, path: &Path) -> usize {
    let links = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    links.filter(|link| fs::read_link(link.as_ref().unwrap().path()).is_ok_and(|to| to == path)).count()
}

/// A program that is started while the map is open inherits none of its descriptors, and so none of its locks.
#[test]
fn a_program_that_is_started_meanwhile_inherits_nothing() {
    let (_dir, path) = new_map();
    let path = path.canonicalize().unwrap();
    for access in [Access::Exclusive, Access::Shared, Access::ReadOnly] {
        let map = options(None).access(access).open(&path).unwrap();
        assert!(access == Access::ReadOnly || descriptors(std::process::id(), &path) > 0, "nothing was counted");
        // It says something once it runs: from then on its descriptors are its own.
        let mut child = Command::new("sh");
        child.args(["-c", "echo up; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut up = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut up).unwrap();
        assert_eq!(descriptors(child.id(), &path), 0);
        drop(map);
        options(None).open(&path).unwrap().close().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// An image whose time goes back has changed as much as one whose time goes on.
#[test]
fn an_image_whose_clock_goes_backwards_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("map"), dir.path().join("image"));
    File::create(&image).unwrap().set_len(LEN).unwrap();
    let now = || ImageStamp::of_path(&image).unwrap();
    let set = |seconds: u64| {
        let file = File::options().write(true).open(&image).unwrap();
        file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))).unwrap();
    };
    set(2_000_000_000);
    options(None).image(now()).create(&path, LEN).unwrap().close_with_image(&now()).unwrap();
    let full = || {
        let map = options(None).read_only(true).image(now()).open(&path).unwrap();
        assert_eq!(map.recovery().image_changed.is_some(), map.is_full());
        map.is_full()
    };
    assert!(!full());
    // Also to the very time that was recorded: the kernel keeps another one of its own.
    for seconds in [1_000_000_000, 0, 4_000_000_000, 2_000_000_000] {
        set(seconds);
        assert!(full(), "{seconds}");
    }
}
