//! The audit: clean granules are compared at random, so that a map that misses writes does not go unnoticed for ever.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, MIB, areas};
use std::fs;
use std::path::PathBuf;

const SIZE: u64 = 4 * MIB;

/// A map that notices no untracked write by the image's times: it was made for a size.
fn backed_up(dir: &Dir) -> (PathBuf, PathBuf, PathBuf) {
    let (image, map, target) = (dir.image("disk.raw", SIZE), dir.path("disk.map"), dir.path("backup.raw"));
    dm!("create", map, "--size", SIZE.to_string(), "--dirty").exits(0);
    dm!("backup", image, target, "--map", map).exits(0);
    (image, map, target)
}

#[test]
fn what_is_audited_is_counted_over_time() {
    let dir = Dir::new();
    let (image, map, target) = backed_up(&dir);
    let audited = |more: &str| {
        dm!("backup", image, target, "--map", map, more, "--output", "json").exits(0).json()["granules_audited"]
            .as_u64()
    };
    assert_eq!(audited("--audit=64K"), Some(1));
    assert_eq!(audited("--audit=0"), Some(0));
    assert_eq!(audited("--audit=1G"), Some(64));
    let info = dm!("info", map, "--output", "json").exits(0).json();
    assert_eq!((&info["audited"], &info["audit_missed"]), (&65.into(), &0.into()));
    assert!(dm!("info", map).exits(0).out.contains("65 granules, 0 missed"));
}

#[test]
fn a_miss_is_told_and_makes_everything_dirty() {
    let dir = Dir::new();
    let (image, map, target) = backed_up(&dir);
    common::patch(&image, |bytes| bytes[3 * MIB as usize] ^= 1);
    // Without an audit nothing is noticed, which is why there is one.
    dm!("backup", image, target, "--map", map, "--audit", "0").exits(0);
    dm!("backup", image, target, "--map", map, "--audit", "1G").exits(4).says("a granule that the map calls clean");
    assert_eq!(areas(&map), [0..SIZE]);
    let info = dm!("info", map, "--output", "json").exits(0).json();
    assert_eq!((&info["audit_missed"], &info["verdict"]), (&1.into(), &"superset".into()));
    dm!("backup", image, target, "--map", map, "--audit", "1G").exits(0);
    assert!(fs::read(&image).expect("read") == fs::read(&target).expect("read"));
    assert_eq!(dm!("info", map, "--output", "json").exits(0).json()["verdict"], "exact");
}
