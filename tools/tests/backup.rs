//! Backups: the target equals the image wherever the map says clean, whenever the backup is killed.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, MIB, Set, areas, loop_device, pattern, skipped, untouched};
use dirtymap::{BackupClaim, ImageStamp, Options};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const SIZE: u64 = 8 * MIB + 12345;

impl Set {
    /// With a first backup taken.
    fn backed_up(size: u64) -> Set {
        let set = Set::of_image(size);
        set.back_up(&[]).exits(0);
        set.assert_equal();
        set
    }

    fn back_up(&self, more: &[&str]) -> common::Ran {
        let mut args: Vec<&OsStr> = vec![OsStr::new("backup"), self.image.as_os_str(), self.target.as_os_str()];
        args.extend([OsStr::new("--map"), self.map.as_os_str()]);
        args.extend(more.iter().map(OsStr::new));
        common::run(args)
    }

    #[track_caller]
    fn assert_equal(&self) {
        assert!(fs::read(&self.image).expect("read") == fs::read(&self.target).expect("read"), "they differ");
    }
}

/// One at a time goes by a map: who is refused has not opened it, which would keep the other one's server from freezing it.
#[test]
fn a_backup_that_finds_another_one_leaves_the_map_alone_or_waits() {
    let set = Set::backed_up(SIZE);
    set.write(MIB, b"new");
    let before = fs::read(&set.map).expect("read");
    let claim = BackupClaim::take(&set.map).expect("claim");
    set.back_up(&[]).exits(8).says("another process is making a backup by it").says("--wait");
    assert!(fs::read(&set.map).expect("read") == before, "the map was opened for writing");
    let args = [set.image.as_os_str(), set.target.as_os_str(), OsStr::new("--map"), set.map.as_os_str()];
    let waits = common::dirtymap().arg("backup").args(args).args(["--wait", "100"]).stderr(Stdio::piped()).spawn();
    let waits = waits.expect("run dirtymap");
    // Long enough for one that does not wait to end.
    std::thread::sleep(Duration::from_millis(500));
    drop(claim);
    common::Ran::from(waits.wait_with_output().expect("wait")).exits(0);
    set.assert_equal();
}

#[test]
fn first_everything_then_only_what_was_written() {
    let set = Set::of_image(SIZE);
    let first = set.back_up(&["--output", "json"]).exits(0).json();
    assert_eq!((first["full"].as_bool(), first["new_target"].as_bool()), (Some(true), Some(true)));
    assert_eq!(first["bytes_copied"], SIZE);
    assert_eq!(first["bytes_skipped"], 0);
    set.assert_equal();
    assert_eq!(areas(&set.map), []);

    set.write(3 * MIB + 5, &pattern(1000, 7));
    set.write(SIZE - 1, b"!");
    let second = set.back_up(&["--output", "json"]).exits(0).json();
    let tail = SIZE % GRANULE;
    assert_eq!(second["full"], false);
    assert_eq!(second["areas"], 2);
    assert_eq!(second["bytes_copied"], GRANULE + tail);
    assert_eq!(second["bytes_skipped"], SIZE - GRANULE - tail);
    assert_eq!(second["bytes_verified"], GRANULE + tail);
    set.assert_equal();

    let third = set.back_up(&[]).exits(0);
    assert!(third.out.contains("copied              0 bytes"), "{}", third.out);
    assert_eq!(dm!("info", set.map, "--output", "json").exits(0).json()["verdict"], "exact");
}

#[test]
fn full_copies_everything_to_the_known_target() {
    let set = Set::backed_up(SIZE);
    let full = set.back_up(&["--full", "--output", "json"]).exits(0).json();
    assert_eq!((full["full"].as_bool(), full["new_target"].as_bool()), (Some(true), Some(false)));
    assert_eq!(full["bytes_copied"], SIZE);
    set.assert_equal();
}

#[test]
fn a_target_that_is_not_the_last_backup_is_refused_unless_forced() {
    let set = Set::backed_up(SIZE);
    set.write(0, b"new");
    let other = set.dir.path("other.raw");
    fs::write(&other, pattern(SIZE, 99)).expect("write");
    let refuse = |more: &[&str]| {
        let before = fs::read(&other).expect("read");
        let mut args = vec!["backup", set.image.to_str().expect("text"), other.to_str().expect("text"), "--map"];
        args.push(set.map.to_str().expect("text"));
        args.extend(more);
        let ran = untouched(&set.map, || common::run(&args).exits(8).says("is not the backup").says("--force"));
        assert!(fs::read(&other).expect("read") == before && ran.out.is_empty());
    };
    refuse(&[]);
    refuse(&["--full"]);
    let forced = dm!("backup", set.image, other, "--map", set.map, "--force", "--output", "json").exits(0).json();
    assert_eq!(forced["full"], true);
    assert!(fs::read(&other).expect("read") == fs::read(&set.image).expect("read"));
    // Now that one is the backup, and the first one is not any more.
    set.back_up(&[]).exits(8).says("inode");
    // One that something else wrote to is compared before anything is written to it.
    common::patch(&other, |bytes| bytes[7] ^= 1);
    let before = fs::read(&other).expect("read");
    dm!("backup", set.image, other, "--map", set.map).exits(8).says("differs from the image at 7").says("--full");
    assert!(fs::read(&other).expect("read") == before);
    dm!("backup", set.image, other, "--map", set.map, "--full").exits(0);
    assert!(fs::read(&other).expect("read") == fs::read(&set.image).expect("read"));
}

#[test]
fn a_target_that_cannot_be_made_makes_nothing_dirty() {
    let set = Set::backed_up(SIZE);
    set.write(MIB, b"written");
    let dangling = set.dir.path("dangling");
    std::os::unix::fs::symlink("nowhere/at/all", &dangling).expect("link");
    for target in [set.dir.path("nowhere/backup.raw"), dangling] {
        dm!("backup", set.image, target, "--map", set.map).exits(8);
        assert_eq!(areas(&set.map), [MIB..MIB + GRANULE]);
    }
    set.back_up(&[]).exits(0);
    set.assert_equal();
}

#[test]
fn a_map_without_a_backup_refuses_what_holds_data_and_takes_what_holds_none() {
    let set = Set::of_image(SIZE);
    fs::write(&set.target, b"precious").expect("write");
    untouched(&set.map, || set.back_up(&[]).exits(8).says("not written any backup"));
    assert_eq!(fs::read(&set.target).expect("read"), b"precious");
    for size in [0, SIZE, 3 * SIZE] {
        fs::File::create(&set.target).expect("create").set_len(size).expect("set size");
        set.back_up(&[]).exits(0);
        set.assert_equal();
        // For the next turn this map knows another file.
        fs::rename(&set.target, set.dir.path(&format!("kept-{size}"))).expect("rename");
    }
    // Longer than the image, and full of old data: cut, and copied over.
    fs::write(&set.target, pattern(2 * SIZE, 3)).expect("write");
    set.back_up(&["--force"]).exits(0);
    set.assert_equal();
}

#[test]
fn nobody_backs_up_onto_the_image_or_the_map() {
    let set = Set::of_image(SIZE);
    let same = |target: &Path| {
        untouched(&set.map, || {
            dm!("backup", set.image, target, "--map", set.map, "--force").exits(8).says("different files")
        });
    };
    same(&set.image);
    same(&set.map);
    let link = set.dir.path("link");
    std::os::unix::fs::symlink(&set.image, &link).expect("link");
    same(&link);
    let hard = set.dir.path("hard");
    fs::hard_link(&set.image, &hard).expect("link");
    same(&hard);
}

#[test]
fn holes_stay_holes_and_stale_data_becomes_zeros() {
    let dir = Dir::new();
    let (image, map, target) = (dir.path("disk.raw"), dir.path("disk.map"), dir.path("backup.raw"));
    let file = fs::File::create(&image).expect("create");
    file.set_len(64 * MIB).expect("set size");
    file.write_all_at(&pattern(MIB, 1), 10 * MIB).expect("write");
    dm!("create", map, "--image", image).exits(0);
    let set = Set { dir, image, map, target };
    set.back_up(&[]).exits(0);
    set.assert_equal();
    let blocks = fs::metadata(&set.target).expect("stat").blocks() * 512;
    assert!(blocks <= 8 * MIB, "{blocks} bytes allocated");
    // A guest's discard: the image gets a hole where the target has data.
    set.write(10 * MIB, &[]);
    let file = fs::File::options().write(true).open(&set.image).expect("open");
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    dm!("set", set.map, "10M", "1M").exits(0);
    if rustix::fs::fallocate(&file, flags, 10 * MIB, MIB).is_err() {
        return skipped("a hole in place of data: this file system punches none");
    }
    set.back_up(&[]).exits(0);
    set.assert_equal();
    // Also when forced onto a file full of something else.
    fs::write(&set.target, pattern(64 * MIB, 8)).expect("write");
    set.back_up(&["--force"]).exits(0);
    set.assert_equal();
}

#[test]
fn untracked_writes_make_everything_dirty() {
    let set = Set::backed_up(SIZE);
    common::patch(&set.image, |bytes| bytes[SIZE as usize / 2] ^= 1);
    let again = set.back_up(&["--output", "json"]).exits(0).says("not as this map last saw it");
    assert_eq!(again.json()["bytes_copied"], SIZE);
    set.assert_equal();
}

#[test]
fn after_an_interrupted_backup_a_changed_target_is_noticed() {
    let set = Set::backed_up(SIZE);
    set.write(0, b"new");
    // As a backup leaves it that is killed after its first step.
    let map = dirtymap::DirtyMap::open(&set.map).expect("open");
    map.begin_backup(&dirtymap::ImageStamp::of_path(&set.target).expect("stamp")).expect("begin");
    drop(map);
    let file = fs::File::options().write(true).open(&set.target).expect("open");
    file.write_all_at(b"scribble", 5 * MIB).expect("write");
    set.back_up(&[]).exits(8).says("differs from the image").says("--full").says("no bit was reset");
    assert!(!areas(&set.map).is_empty());
    set.back_up(&["--full"]).exits(0);
    set.assert_equal();
}

/// Where the map says clean, the last completed target equals the image.
fn assert_clean_is_equal(set: &Set) {
    if dirtymap::info::inspect(&set.map).expect("inspect").target.is_none() {
        return; // What is called next copies everything.
    }
    let Ok(target) = fs::read(&set.target) else { return };
    if target.is_empty() {
        return; // Just made: whatever is called next copies everything to it.
    }
    let image = fs::read(&set.image).expect("read");
    let map = dirtymap::Options::new().read_only(true).open(&set.map).expect("open");
    let mut at = 0;
    while let Some((dirty, length)) = map.run(at..map.len()).expect("run") {
        let range = at as usize..(at + length) as usize;
        assert!(dirty || target.get(range.clone()) == Some(&image[range.clone()]), "{range:?} is clean and differs");
        at += length;
    }
}

/// Kills backups after more and more microseconds. Whatever the moment, nothing may be wrong.
fn kill_backups(set: &Set, more: &[&str]) {
    for i in 0..14u64 {
        let mut child = common::dirtymap()
            .arg("backup")
            .args([&set.image, &set.target])
            .arg("--map")
            .arg(&set.map)
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("run");
        std::thread::sleep(Duration::from_micros(500 * i * i));
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_clean_is_equal(set);
    }
}

#[test]
fn a_killed_first_backup_is_finished_by_the_next_one() {
    let set = Set::of_image(32 * MIB);
    kill_backups(&set, &[]);
    set.back_up(&[]).exits(0);
    set.assert_equal();
}

#[test]
fn a_killed_first_backup_of_a_map_that_started_clean_is_finished_as_well() {
    let mut set = Set::of_image(32 * MIB);
    // Made for a size: all clean, and yet a new target needs everything.
    set.map = set.dir.path("clean.map");
    dm!("create", set.map, "--size", "32M").exits(0);
    kill_backups(&set, &[]);
    set.back_up(&[]).exits(0);
    set.assert_equal();
}

#[test]
fn a_killed_incremental_backup_is_finished_by_the_next_one() {
    let set = Set::backed_up(32 * MIB);
    for round in 0..3 {
        set.write(round * 7 * MIB + 3, &pattern(9 * MIB, round + 20));
        kill_backups(&set, &[]);
        set.write(MIB, &pattern(round + 1, 60));
        set.back_up(&[]).exits(0);
        set.assert_equal();
    }
}

/// A backup was recorded as begun, and killed before or after it gave the target the length of an image that has grown.
#[test]
fn a_backup_killed_while_its_target_grew_is_finished_by_the_next_one() {
    for (grown, begun) in [(SIZE + 5 * MIB, SIZE), (SIZE + 5 * MIB, SIZE + 5 * MIB), (MIB, SIZE), (MIB, MIB)] {
        let set = Set::backed_up(SIZE);
        if grown > SIZE {
            dm!("resize", set.map, grown.to_string(), "--image", set.image).exits(0);
            set.write(SIZE + 2 * MIB, b"behind the old end");
        } else {
            fs::File::options().write(true).open(&set.image).expect("open").set_len(grown).expect("cut");
            dm!("resize", set.map, grown.to_string()).exits(0);
        }
        let stamp = |path: &Path| ImageStamp::of_path(path).expect("a stamp");
        let map = Options::new().image(stamp(&set.image)).open(&set.map).expect("open");
        map.set(SIZE.min(grown)..grown).expect("set");
        map.begin_backup(&stamp(&set.target)).expect("begin");
        map.close_with_image(&stamp(&set.image)).expect("close");
        fs::File::options().write(true).open(&set.target).expect("open").set_len(begun).expect("size");

        set.back_up(&[]).exits(0);
        set.assert_equal();
        assert_eq!(areas(&set.map), []);
    }
}

#[test]
fn interrupted_it_says_so_and_resets_nothing() {
    let set = Set::of_image(128 * MIB);
    let mut command = common::dirtymap();
    command.arg("backup").args([&set.image, &set.target]).arg("--map").arg(&set.map);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
    // Once the target is there, it is at work and long past its preparations.
    while !set.target.exists() {
        std::thread::yield_now();
    }
    // It may be faster than the signal.
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT);
    let ran: common::Ran = child.wait_with_output().expect("wait").into();
    if ran.code == 32 {
        ran.says("interrupted").says("no bit was reset");
        assert_eq!(areas(&set.map), [0..128 * MIB]);
    } else {
        ran.exits(0);
    }
    set.back_up(&[]).exits(0);
    set.assert_equal();
}

/// A backup is for no more users than its image.
#[test]
fn a_new_target_has_the_permissions_of_the_image() {
    for mode in [0o600, 0o640, 0o644] {
        let set = Set::of_image(MIB);
        fs::set_permissions(&set.image, fs::Permissions::from_mode(mode)).expect("set the mode");
        set.back_up(&[]).exits(0);
        assert_eq!(fs::metadata(&set.target).expect("stat").mode() & 0o777, mode);
    }
}

#[test]
fn an_empty_image() {
    let set = Set::of_image(0);
    set.back_up(&[]).exits(0);
    set.back_up(&[]).exits(0);
    set.assert_equal();
}

#[test]
fn block_devices_as_image_and_as_target() {
    let dir = Dir::new();
    let (under_image, under_target) = (dir.image("a", 8 * MIB), dir.path("b"));
    fs::write(&under_target, pattern(16 * MIB, 77)).expect("write");
    let (Some((image, _a)), Some((target, _b))) = (loop_device(&under_image), loop_device(&under_target)) else {
        return skipped("block devices: needs root and loop devices");
    };
    let map = dir.path("m");
    dm!("create", map, "--image", image).exits(0);
    assert_eq!(dm!("info", map, "--output", "json").exits(0).json()["size"], 8 * MIB);
    let set = Set { dir, image, map, target };
    untouched(&set.map, || set.back_up(&[]).exits(8).says("--force"));
    set.back_up(&["--force"]).exits(0);
    set.write(3 * MIB, &pattern(100, 5));
    let second = set.back_up(&["--output", "json"]).exits(0).json();
    assert_eq!(second["bytes_copied"], GRANULE);
    // A device has no times to go by, so what is not copied is compared, and nothing says whether it is of one moment.
    assert_eq!((&second["bytes_verified"], &second["bytes_compared"]), (&GRANULE.into(), &(8 * MIB - GRANULE).into()));
    assert!(second["one_moment"].is_null());
    let (image, target) = (fs::read(&set.image).expect("read"), fs::read(&set.target).expect("read"));
    assert!(image[..] == target[..image.len()]);
    // Too small a device.
    dm!("backup", set.target, set.image, "--map", set.map).exits(8);
}
