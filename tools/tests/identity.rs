//! Images and targets: only what is proved to be the recorded one is taken for it, and nothing is overwritten before.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Cleanup, Dir, GRANULE, MIB, Set, areas, is_root, pattern, run_with, skipped, system, untouched};
use dirtymap::{Access, DirtyMap, ImageStamp, Options};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const SIZE: u64 = 4 * MIB;

impl Set {
    fn new() -> Set {
        let set = Set::of_image(SIZE);
        set.back_up(&set.target).exits(0);
        set
    }

    fn back_up(&self, target: &Path) -> common::Ran {
        dm!("backup", self.image, target, "--map", self.map, "--output", "json")
    }

    /// Another image of the same size.
    fn other(&self) -> PathBuf {
        let other = self.dir.path("other.raw");
        fs::write(&other, pattern(SIZE, 9)).expect("write");
        other
    }
}

/// A text without its line ends.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn equal(a: &Path, b: &Path) -> bool {
    fs::read(a).expect("read") == fs::read(b).expect("read")
}

#[test]
fn another_image_is_refused_unless_forced_and_the_good_backup_stays() {
    let set = Set::new();
    let (good, other) = (set.dir.copy(&set.target, "good"), set.other());
    untouched(&set.map, || {
        dm!("backup", other, set.target, "--map", set.map)
            .exits(8)
            .says("not the image")
            .says("--frozen")
            .says("--force");
        let (other, map) = (other.to_str().expect("text"), set.map.to_str().expect("text"));
        run_with(["write", other, "--map", map, "--at", "0"], b"x").exits(8).says("not the image");
        dm!("resize", map, "8M", "--image", other).exits(8).says("not the image");
    });
    assert!(equal(&good, &set.target));
    assert_eq!(fs::metadata(&other).expect("stat").len(), SIZE);
    dm!("backup", other, set.target, "--map", set.map, "--force").exits(0);
    assert!(equal(&other, &set.target));
    // From now on the map belongs to that one.
    set.back_up(&set.target).exits(8).says("not the image");
    dm!("backup", other, set.target, "--map", set.map).exits(0);
}

/// A file that is renamed over the image is another one, whatever its content and times.
#[test]
fn an_image_that_was_replaced_is_another() {
    let set = Set::new();
    let copy = set.dir.copy(&set.image, "copy");
    let times = fs::metadata(&set.image).expect("stat").modified().expect("time");
    fs::File::options().write(true).open(&copy).expect("open").set_modified(times).expect("set");
    fs::rename(copy, &set.image).expect("rename");
    set.back_up(&set.target).exits(8).says("inode");
}

/// A map that was made for a size knows its image from the first backup on, so that a snapshot is not taken for it.
#[test]
fn a_snapshot_is_not_the_image_also_of_a_map_that_was_made_for_a_size() {
    let dir = Dir::new();
    let (image, map, target) = (dir.image("disk.raw", SIZE), dir.path("disk.map"), dir.path("backup.raw"));
    dm!("create", map, "--size", SIZE.to_string(), "--dirty").exits(0);
    dm!("backup", image, target, "--map", map).exits(0);
    let snapshot = dir.copy(&image, "snapshot");
    run_with(["write", image.to_str().expect("text"), "--map", map.to_str().expect("text"), "--at", "2M"], b"late")
        .exits(0);
    dm!("backup", snapshot, target, "--map", map).exits(8).says("--frozen");
    // Whoever tracks it never looks at the image, and so its times do not count.
    let tracker = DirtyMap::open(&map).expect("open");
    tracker.set(0..1).expect("set");
    common::patch(&image, |bytes| bytes[0] ^= 1);
    tracker.close().expect("close");
    let third = dm!("backup", image, target, "--map", map, "--output", "json").exits(0).json();
    assert_eq!(third["bytes_copied"], 2 * GRANULE);
    assert!(equal(&image, &target));
}

#[test]
fn a_target_since_a_name_is_compared_before_anything_is_written_to_it() {
    let set = Set::new();
    dm!("backup", set.image, set.target, "--map", set.map, "--name", "monday").exits(0);
    set.write(MIB, b"new");
    let (other, copy) = (set.other(), set.dir.copy(&set.target, "copy"));
    let before = fs::read(&other).expect("read");
    let since =
        |target: &Path| dm!("backup", set.image, target, "--map", set.map, "--since", "monday", "--output", "json");
    since(&other).exits(8).says("not complete then").says("was not touched");
    assert!(fs::read(&other).expect("read") == before);
    let info = dm!("info", set.map, "--output", "json").exits(0).json();
    assert!(
        info["target"]["exact"].as_bool() == Some(true) && info["begun"].is_null(),
        "the record of the good one is gone"
    );
    // Of what the point has recorded nothing need be compared, of a copy of it everything.
    assert_eq!(since(&copy).exits(0).json()["bytes_compared"], SIZE - GRANULE);
    assert!(equal(&set.image, &copy));
    assert_eq!(since(&set.target).exits(0).json()["bytes_compared"], 0);
    assert!(equal(&set.image, &set.target));
}

/// Where everything is to be copied, a comparison would prove nothing of a target that is not the recorded one.
#[test]
fn a_strange_target_is_not_overwritten_because_everything_is_dirty() {
    let set = Set::new();
    dm!("backup", set.image, set.target, "--map", set.map, "--name", "monday").exits(0);
    dm!("set", set.map, "0", SIZE.to_string()).exits(0);
    let other = set.other();
    let before = fs::read(&other).expect("read");
    dm!("backup", set.image, other, "--map", set.map, "--since", "monday").exits(8).says("--force");
    assert!(fs::read(&other).expect("read") == before);
}

/// The command in a shell that lets no file grow beyond 2 MiB: writing more fails, or kills.
fn back_up_without_room(set: &Set, target: &Path, signal: &str) -> common::Ran {
    let mut sh = std::process::Command::new("sh");
    sh.args(["-c", &format!("{signal} ulimit -f 4096; exec \"$@\""), "sh"]).arg(common::dirtymap().get_program());
    sh.arg("backup").args([&set.image, target]).arg("--map").arg(&set.map);
    sh.output().expect("run").into()
}

#[test]
fn a_backup_to_a_second_target_that_fails_or_is_killed_leaves_the_first_ones_chain() {
    let set = Set::new();
    for (i, signal) in ["trap '' XFSZ;", ""].into_iter().enumerate() {
        let second = set.dir.path(&format!("second-{i}"));
        set.write(MIB, &[i as u8; 10]);
        let failed = back_up_without_room(&set, &second, signal);
        assert!(failed.code != 0 && second.exists(), "{failed:?}");
        // What was frozen last is the write intent of one that is killed: four times as much at most.
        let (dirty, most) = (areas(&set.map), if failed.code < 0 { 4 } else { 1 } * GRANULE);
        assert!(
            dirty.len() == 1 && dirty[0].start == MIB && dirty[0].end <= MIB + most,
            "more became dirty than was written: {dirty:?}, {failed:?}"
        );
        let next = set.back_up(&set.target).exits(0).json();
        assert_eq!((&next["full"], &next["bytes_copied"]), (&false.into(), &(dirty[0].end - MIB).into()));
        assert!(equal(&set.image, &set.target));
    }
}

/// What an interrupted backup has left at a new place is known again, and not taken for somebody's data.
#[test]
fn a_second_target_that_was_begun_is_finished_without_force() {
    let set = Set::new();
    let second = set.other();
    let map = DirtyMap::open(&set.map).expect("open");
    map.begin_backup(&ImageStamp::of_path(&second).expect("stamp")).expect("begin");
    map.close_with_image(&ImageStamp::of_path(&set.image).expect("stamp")).expect("close");
    assert!(words(&dm!("info", set.map).exits(0).out).contains("begun and not complete"));
    let finished = set.back_up(&second).exits(0).json();
    assert_eq!(finished["full"], true);
    assert!(equal(&set.image, &second));
    assert!(!words(&dm!("info", set.map).exits(0).out).contains("begun and not complete"));
    // Now that one is the last, and the first is not any more.
    set.write(0, b"new");
    set.back_up(&set.target).exits(8).says("is not the backup");
    assert_eq!(set.back_up(&second).exits(0).json()["bytes_copied"], GRANULE);
}

#[test]
fn a_target_with_other_names_is_told_of() {
    let set = Set::new();
    fs::hard_link(&set.target, set.dir.path("second name")).expect("link");
    set.back_up(&set.target).exits(0).says("2 names");
}

#[test]
fn an_image_that_another_tool_has_grown_leads_to_resize() {
    let set = Set::new();
    fs::File::options().write(true).open(&set.image).expect("open").set_len(2 * SIZE).expect("grow");
    set.back_up(&set.target).exits(8).says("has grown the image").says("dirtymap resize").says(&(2 * SIZE).to_string());
    dm!("resize", set.map, (2 * SIZE).to_string(), "--image", set.image).exits(0).says("everything counts as dirty");
    assert_eq!(set.back_up(&set.target).exits(0).json()["size"], 2 * SIZE);
    assert!(equal(&set.image, &set.target));
}

#[test]
fn info_and_check_say_whether_image_and_map_belong_together() {
    let set = Set::new();
    let say = |image: &Path, code: i32, verdict: &str| {
        for command in ["info", "check"] {
            let ran = untouched(&set.map, || dm!(command, set.map, "--image", image, "--output", "json").exits(code));
            let found = ran.json()["image_match"].clone();
            assert_eq!(found["verdict"], verdict, "{command}");
            assert_eq!(found["why"].is_null(), verdict == "same", "{command}");
        }
        words(&dm!("info", set.map, "--image", image).exits(code).out)
    };
    assert!(say(&set.image, 0, "same").contains("is the map's image"));
    assert!(say(&set.other(), 1, "another").contains("is not the map's image (inode"));
    common::patch(&set.image, |bytes| bytes[0] ^= 1);
    assert!(say(&set.image, 1, "changed").contains("copies everything"));
    assert!(words(&dm!("check", set.map, "--image", set.image).exits(1).out).contains("changed without the map"));
    assert!(words(&dm!("check", set.map, "--image", set.image).exits(1).out).contains("what to do: take a backup"));
    set.back_up(&set.target).exits(0);
    // While it is written, times do not count, and neither do they after a kill.
    drop(Options::new().image(ImageStamp::of_path(&set.image).expect("stamp")).open(&set.map).expect("open"));
    let unclean = dm!("info", set.map, "--image", set.image, "--output", "json").json();
    assert_eq!(unclean["image_match"]["verdict"], "probably");
    let bound = set.dir.map("sized", SIZE, &[]);
    let none = dm!("info", bound, "--image", set.image, "--output", "json").exits(0).json();
    assert_eq!(none["image_match"]["verdict"], "not-recorded");
}

/// A writer that only brackets its writes goes on while they are copied: what comes out is of no single moment.
#[test]
fn a_backup_beside_writers_says_that_it_is_not_of_one_moment() {
    let set = Set::new();
    assert_eq!(set.back_up(&set.target).exits(0).json()["one_moment"], true);
    let vm = Options::new().access(Access::Shared).open(&set.map).expect("open");
    let write = vm.begin_write(0..1).expect("begin");
    let backup = std::thread::scope(|scope| {
        let backup = scope.spawn(|| set.back_up(&set.target));
        // The freeze waits for the write. What is set meanwhile is for the next backup.
        while vm.checkpoint().expect("look").is_none() {
            std::thread::yield_now();
        }
        vm.set(2 * MIB..2 * MIB + 1).expect("set");
        drop(write);
        backup.join().expect("no panic")
    });
    assert_eq!(backup.exits(0).json()["one_moment"], false);
    assert_eq!(areas(&set.map), [2 * MIB..2 * MIB + GRANULE]);
    vm.close().expect("close");
}

/// Loop devices over some files, if this machine has any.
fn loops<const N: usize>(files: [&Path; N]) -> Option<([PathBuf; N], Vec<Cleanup>)> {
    if !is_root() || !system("losetup", &[OsStr::new("--version")]) {
        return None;
    }
    let mut cleanups = Vec::new();
    let devices = files.map(|file| {
        let made = std::process::Command::new("losetup").args(["-f", "--show"]).arg(file).output().ok();
        let device = made
            .filter(|made| made.status.success())
            .map(|made| String::from_utf8_lossy(&made.stdout).trim().to_string());
        let device = device.unwrap_or_default();
        if !device.is_empty() {
            cleanups.push(Cleanup::new("losetup", &["-d", &device].map(OsStr::new)));
        }
        PathBuf::from(device)
    });
    devices.iter().all(|device| !device.as_os_str().is_empty()).then_some((devices, cleanups))
}

#[test]
fn another_disk_behind_the_same_number_is_noticed() {
    let set = Set::new();
    let (one, two, three) = (set.dir.image("one", SIZE), set.other(), set.dir.image("three", SIZE));
    let Some(([device, to], _cleanup)) = loops([&one, &three]) else {
        return skipped("another disk behind a number: needs root and loop devices");
    };
    let (map, kept) = (set.dir.path("device.map"), set.dir.path("kept.raw"));
    dm!("create", map, "--image", device).exits(0).says("no trace");
    dm!("backup", device, kept, "--map", map).exits(0).says("no trace");
    // As a target, too.
    let back_up_to_it = |more: &str| dm!("backup", set.image, to, "--map", set.map, more);
    back_up_to_it("--force").exits(0);
    set.write(0, b"new");
    let swap = |device: &Path, file: &Path| {
        assert!(system("losetup", &[OsStr::new("-d"), device.as_os_str()]));
        assert!(system("losetup", &[device.as_os_str(), file.as_os_str()]));
    };
    swap(&device, &two);
    swap(&to, &set.dir.copy(&two, "four"));
    let before = fs::read(&two).expect("read");
    dm!("backup", device, kept, "--map", map).exits(8).says("not the image").says("backing file");
    back_up_to_it("--audit=0").exits(8).says("is not the backup");
    assert!(fs::read(&to).expect("read") == before);
    swap(&device, &one);
    swap(&to, &three);
    back_up_to_it("--audit=0").exits(0);
    dm!("backup", device, kept, "--map", map).exits(0);
    assert!(equal(&device, &kept));
}

#[test]
fn a_device_that_is_in_use_and_the_storage_under_the_image_are_no_targets() {
    let set = Set::new();
    let under = set.dir.image("under", SIZE);
    let Some(([busy, on_image], _cleanup)) = loops([&under, &set.image]) else {
        return skipped("devices in use: needs root and loop devices");
    };
    const O_EXCL: i32 = 0x80;
    // As a mount does it.
    let claimed = fs::File::options().read(true).custom_flags(O_EXCL).open(&busy).expect("claim");
    untouched(&under, || dm!("backup", set.image, busy, "--map", set.map, "--force").exits(8).says("is in use"));
    drop(claimed);
    dm!("backup", set.image, busy, "--map", set.map, "--force").exits(0);
    untouched(&set.image, || {
        dm!("backup", set.image, on_image, "--map", set.map, "--force").exits(8).says("same storage")
    });
    dm!("backup", on_image, set.image, "--map", set.map, "--force").exits(8).says("same storage");
}
