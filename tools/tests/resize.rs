//! Another length: what lies within both stays, the image follows its map, and a map of an image that grew with it is
//! not taken for all dirty.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, MIB, areas, pattern, run_with, untouched};
use dirtymap::DirtyMap;
use std::fs;
use std::path::{Path, PathBuf};

const LEN: u64 = 64 * MIB;

fn size(path: &Path) -> u64 {
    fs::metadata(path).expect("look").len()
}

#[test]
fn grown_granules_are_clean_and_the_rest_is_kept() {
    let dir = Dir::new();
    let map = dir.map("m", LEN + 5, &[MIB..2 * MIB, LEN..LEN + 5]);
    let ran = dm!("resize", map, "1T", "--output", "json").exits(0);
    assert_eq!(ran.err, "");
    let ran = ran.json();
    assert_eq!(ran["before"]["size"], LEN + 5);
    assert_eq!(ran["before"]["dirty_bytes"], MIB + 5);
    assert_eq!(ran["after"]["size"], 1u64 << 40);
    assert_eq!(ran["after"]["bits"], 1u64 << 24);
    assert_eq!(ran["after"]["dirty_bytes"], MIB + GRANULE);
    assert_eq!(areas(&map), [MIB..2 * MIB, LEN..LEN + GRANULE]);
    dm!("set", map, "1023G", "1G").exits(0);
    dm!("check", map).exits(0);
}

#[test]
fn shrinking_forgets_what_is_past_the_end_and_says_so() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[MIB..2 * MIB, LEN - MIB..LEN]);
    let ran = dm!("resize", map, (MIB + GRANULE + 1).to_string()).exits(0);
    assert!(ran.out.contains("forgot") && ran.out.contains("past the new end"), "{}", ran.out);
    assert_eq!(areas(&map), [MIB..MIB + GRANULE + 1]);
    dm!("check", map).exits(0);
    dm!("resize", map, "0").exits(0);
    dm!("resize", map, "64M").exits(0);
    // What is forgotten does not come back.
    assert_eq!(areas(&map), []);
}

/// The target of the last backup still has what was behind the shorter end.
#[test]
fn an_image_that_was_cut_and_grown_again_is_backed_up_to_its_end() {
    let dir = Dir::new();
    for of_image in [true, false] {
        let name = |name: &str| format!("{name}-{of_image}");
        let (image, map) = (dir.image(&name("image"), LEN), dir.path(&name("map")));
        let target = dir.path(&name("target"));
        match of_image {
            true => dm!("create", map, "--image", image).exits(0),
            false => dm!("create", map, "--size", LEN.to_string(), "--dirty").exits(0),
        };
        let cut = |size| fs::File::options().write(true).open(&image).expect("open").set_len(size).expect("cut");
        dm!("backup", image, target, "--map", map).exits(0);
        // In the middle of a granule.
        cut(LEN / 2 + 1);
        dm!("resize", map, (LEN / 2 + 1).to_string()).exits(0);
        dm!("resize", map, LEN.to_string(), "--image", image).exits(0);
        dm!("backup", image, target, "--map", map, "--audit", "0").exits(0);
        assert!(fs::read(&image).expect("read") == fs::read(&target).expect("read"), "{of_image}");
    }
}

#[test]
fn the_same_size_writes_nothing() {
    let dir = Dir::new();
    let map = dir.unclean("m", LEN, &[MIB..2 * MIB]);
    let ran = untouched(&map, || dm!("resize", map, "64M").exits(0).says("not closed cleanly"));
    assert!(ran.out.contains("already"), "{}", ran.out);
}

#[test]
fn sizes_that_the_map_cannot_have() {
    let dir = Dir::new();
    let map = dir.path("m");
    dm!("create", map, "--size", "1T", "-g", "1").exits(0);
    let ran = untouched(&map, || dm!("resize", map, "3T", "--output", "json").exits(8).says("2^41"));
    assert_eq!(ran.json()["error"]["kind"], "geometry");
    let live = DirtyMap::open(&map).expect("open");
    dm!("resize", map, "2T").exits(8).says("in use");
    drop(live);
}

/// An image, its map, and a finished backup.
fn backed_up(dir: &Dir, size: u64) -> (PathBuf, PathBuf, PathBuf) {
    let (image, map, target) = (dir.image("disk.raw", size), dir.path("disk.map"), dir.path("backup.raw"));
    dm!("create", map, "--image", image).exits(0);
    dm!("backup", image, target, "--map", map).exits(0);
    (image, map, target)
}

#[test]
fn the_image_grows_behind_its_map_and_stays_its_own() {
    let dir = Dir::new();
    let (image, map, target) = backed_up(&dir, 2 * MIB + 7);
    let text = |p: &Path| p.to_str().expect("text").to_string();
    run_with(["write", &text(&image), "--map", &text(&map), "--at", "0"], b"new").exits(0);
    let before = fs::read(&image).expect("read");
    dm!("resize", map, "3M", "--image", image).exits(0);
    let after = fs::read(&image).expect("read");
    assert_eq!(after.len() as u64, 3 * MIB);
    assert!(after[..before.len()] == before && after[before.len()..].iter().all(|&byte| byte == 0));
    // Not all dirty: the map knows its image.
    let ran = run_with(["write", &text(&image), "--map", &text(&map), "--at", "3145727"], b"z").exits(0);
    assert_eq!(ran.err, "");
    assert_eq!(areas(&map), [0..GRANULE, 3 * MIB - GRANULE..3 * MIB]);
    // The backup follows, and copies what was written and what it lacked.
    let told = dm!("backup", image, target, "--map", map, "--output", "json").exits(0).json();
    assert_eq!((&told["full"], &told["bytes_skipped"]), (&false.into(), &(2 * MIB - GRANULE).into()));
    assert!(fs::read(&image).expect("read") == fs::read(&target).expect("read"));
    // Nothing to do any more.
    untouched(&map, || untouched(&image, || dm!("resize", map, "3M", "--image", image).exits(0)));
}

#[test]
fn without_the_image_the_map_says_what_will_happen() {
    let dir = Dir::new();
    let (image, map, _) = backed_up(&dir, 2 * MIB);
    dm!("resize", map, "3M").exits(0).says("belongs to an image").says("--image");
    assert_eq!(size(&image), 2 * MIB);
    fs::File::options().write(true).open(&image).and_then(|f| f.set_len(3 * MIB)).expect("grow");
    let (i, m) = (image.to_str().expect("text"), map.to_str().expect("text"));
    run_with(["write", i, "--map", m, "--at", "0"], b"x").exits(0).says("everything counts as dirty");
    assert_eq!(areas(&map), [0..3 * MIB]);
}

#[test]
fn what_a_backup_lacks_is_copied_although_the_map_says_clean() {
    let dir = Dir::new();
    let (image, map, target) = (dir.image("disk.raw", 2 * MIB + 7), dir.path("disk.map"), dir.path("backup.raw"));
    dm!("create", map, "--size", "2097159").exits(0);
    dm!("backup", image, target, "--map", map).exits(0);
    // As a volume that was extended: what is behind the old end was never written, and is not zeros.
    fs::write(&image, [fs::read(&image).expect("read"), vec![7; MIB as usize - 7]].concat()).expect("extend");
    dm!("resize", map, "3M").exits(0);
    assert_eq!(areas(&map), []);
    dm!("backup", image, target, "--map", map).exits(0);
    assert!(fs::read(&image).expect("read") == fs::read(&target).expect("read"));
    // And the other way.
    fs::File::options().write(true).open(&image).and_then(|f| f.set_len(MIB)).expect("shrink");
    dm!("resize", map, "1M").exits(0);
    dm!("backup", image, target, "--map", map).exits(0);
    assert!(fs::read(&image).expect("read") == fs::read(&target).expect("read"));
    assert_eq!(size(&target), MIB);
}

/// Names stay, and what is new is dirty since each, and for nobody else.
#[test]
fn a_map_with_names_grows_and_shrinks() {
    let dir = Dir::new();
    let (image, map, target) = backed_up(&dir, 2 * MIB);
    let since = |name: &str| {
        let totals = dm!("map", map, "--since", name, "--totals", "--output", "json").exits(0).json();
        totals[1]["size"].as_u64()
    };
    for name in ["a", "b"] {
        dm!("backup", image, target, "--map", map, "--name", name).exits(0);
    }
    dm!("resize", map, "3M", "--image", image).exits(0);
    assert_eq!((since("a"), since("b"), areas(&map)), (Some(MIB), Some(MIB), vec![]));
    let old = dir.copy(&target, "old");
    dm!("backup", image, old, "--map", map, "--since", "b").exits(0);
    assert!(fs::read(&image).expect("read") == fs::read(&old).expect("read"));
    dm!("checkpoint", "freeze", map).exits(0);
    dm!("resize", map, "4M").exits(8).says("outstanding").says("commit or abort");
    dm!("checkpoint", "abort", map).exits(0);
    fs::File::options().write(true).open(&image).and_then(|f| f.set_len(MIB)).expect("shrink");
    dm!("resize", map, "1M").exits(0);
    assert_eq!((since("a"), since("b")), (Some(0), Some(0)));
    dm!("check", map).exits(0);
}

#[test]
fn an_image_that_was_changed_makes_everything_dirty_when_it_is_grown() {
    let dir = Dir::new();
    let (image, map, _) = backed_up(&dir, 2 * MIB);
    common::patch(&image, |bytes| bytes[5] ^= 1);
    dm!("resize", map, "3M", "--image", image).exits(0).says("everything counts as dirty");
    assert_eq!(areas(&map), [0..2 * MIB]);
}

#[test]
fn a_resize_that_ended_between_map_and_image_is_finished_by_the_next() {
    let dir = Dir::new();
    let (image, map, _) = backed_up(&dir, 2 * MIB);
    let mut open = DirtyMap::open(&map).expect("open");
    open.truncate(3 * MIB).expect("truncate");
    drop(open);
    dm!("resize", map, "3M", "--image", image).exits(0).says("not closed cleanly");
    assert_eq!(size(&image), 3 * MIB);
    assert_eq!(areas(&map), []);
}

#[test]
fn images_that_cannot_be_grown_are_refused_and_nothing_is_changed() {
    let dir = Dir::new();
    let (image, map, _) = backed_up(&dir, 2 * MIB);
    let unclean = dir.copy(&map, "unclean");
    drop(DirtyMap::open(&unclean).expect("open"));
    let refuse = |new: &str, image: &Path, says: &str| {
        untouched(&unclean, || dm!("resize", unclean, new, "--image", image).exits(8).says(says));
    };
    refuse("1M", &image, "does not cut images");
    refuse("3M", &unclean, "different files");
    refuse("3M", &dir.path("none"), "No such file");
    refuse("3M", &dir.image("other.raw", MIB), "1048576 bytes");
    refuse("3M", Path::new("/dev/null"), "neither a regular file nor a block device");
    assert_eq!(fs::read(&image).expect("read"), pattern(2 * MIB, 1));
    // The map goes first, and is right for what is there if the image cannot follow.
    let limited = std::process::Command::new("bash")
        .args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$@\"", "-", env!("CARGO_BIN_EXE_dirtymap"), "resize"])
        .args([&map.display().to_string(), "1T", "--image", &image.display().to_string()])
        .output();
    let Ok(limited) = limited else { return common::skipped("an image that cannot grow: needs bash") };
    let ran: common::Ran = limited.into();
    // Whichever of the two files is too large for the limit.
    let ran = ran.exits(8).says("File too large");
    assert_eq!(size(&image), 2 * MIB, "{}", ran.err);
    dm!("check", map);
}
