//! The demo ends with image and backup identical after every kill, and cleans up.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, MIB};
use std::fs;

#[test]
fn on_a_copy_of_an_image() {
    let dir = Dir::new();
    let image = dir.image("mine.raw", 24 * MIB + 321);
    let before = fs::read(&image).expect("read");
    let place = dir.path("place");
    let ran = dm!("demo", image, "--dir", place, "--kills", "3", "--seed", "42", "--output", "json").exits(0);
    let answer = ran.json();
    assert_eq!(answer["identical"], true);
    assert_eq!(answer["rounds"].as_array().map(Vec::len), Some(3));
    for round in answer["rounds"].as_array().expect("a list") {
        let number = |name: &str| round[name].as_u64().expect("a number");
        assert!(number("writes") > 0 && number("dirty_bytes") >= number("bytes_owed"), "{round}");
        assert_eq!(round["state"], "unclean");
    }
    assert!(fs::read(&image).expect("read") == before, "the user's image was changed");
    assert!(fs::read(place.join("image.raw")).expect("read") == fs::read(place.join("backup.raw")).expect("read"));
    assert_eq!(answer["members"], 2);
    let read = |name: &str| fs::read(place.join(name)).expect("read");
    assert!(read("restored.raw") == before && read("first.raw") == before);
    dm!("set", "verify", place.join("backups"), "--against", place.join("image.raw")).exits(0);
    // It does not write over what is there.
    dm!("demo", image, "--dir", place).exits(8).says("exists already");
}

#[test]
fn without_arguments_it_makes_an_image_and_leaves_nothing() {
    let dir = Dir::new();
    let ran: common::Ran = common::dirtymap()
        .args(["demo", "--kills", "1"])
        .env("TMPDIR", dir.path(""))
        .output()
        .expect("run dirtymap")
        .into();
    let out = ran.exits(0).out;
    assert!(out.contains("256 MiB") && out.contains("round 1") && out.contains("identical after each"), "{out}");
    assert!(out.contains("a set kept 2 backups beside; the first one, restored, is what the image was then"), "{out}");
    assert_eq!(fs::read_dir(dir.path("")).expect("read").count(), 0);
}

#[test]
fn on_tiny_images() {
    let dir = Dir::new();
    for size in [0, 1, 4097] {
        let image = dir.image("tiny.raw", size);
        for mode in [&["demo", "--kills", "1"][..], &["demo", "--serve", "--kills", "1"]] {
            let ran: common::Ran = common::dirtymap()
                .args(mode)
                .arg(&image)
                .env("TMPDIR", dir.path(""))
                .output()
                .expect("run dirtymap")
                .into();
            ran.exits(0);
        }
    }
}

#[test]
fn through_a_server_that_is_killed() {
    let dir = Dir::new();
    let image = dir.image("mine.raw", 24 * MIB + 321);
    let before = fs::read(&image).expect("read");
    let place = dir.path("place");
    let line = ["--dir".as_ref(), place.as_os_str()];
    let ran = common::dirtymap()
        .args(["demo", "--serve", "--kills", "3", "--output", "json"])
        .arg(&image)
        .args(line)
        .output();
    let answer = common::Ran::from(ran.expect("run dirtymap")).exits(0).json();
    assert_eq!((&answer["identical"], &answer["served"], &answer["members"]), (&true.into(), &true.into(), &2.into()));
    let rounds = answer["rounds"].as_array().expect("a list");
    assert_eq!(rounds.len(), 3);
    for round in rounds {
        let number = |name: &str| round[name].as_u64().expect("a number");
        assert!(number("writes") > 0 && number("dirty_bytes") >= number("bytes_owed"), "{round}");
        assert_eq!(round["state"], "open");
        assert!(round["killed_meanwhile"] == false || common::live::takes_over(), "{round}");
        assert_eq!(round["backup"]["one_moment"], true);
    }
    assert!(fs::read(&image).expect("read") == before, "the user's image was changed");
    let read = |name: &str| fs::read(place.join(name)).expect("read");
    assert!(read("image.raw") == read("reference.raw"), "something that was acknowledged is not there");
    assert!(read("restored.raw") == before && read("first.raw") == before);
    dm!("set", "verify", place.join("backups"), "--against", place.join("image.raw")).exits(0);
    dm!("check", place.join("image.map")).exits(0);
    // No server is left, and nothing of its scratch.
    assert!(!place.join("socket").exists() && !place.join("control").exists());
    let names = fs::read_dir(&place).expect("list").map(|entry| entry.expect("an entry").file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with("dirtymap-")), "scratch is left");
}
