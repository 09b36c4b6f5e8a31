//! Snapshots: what was frozen is copied from a snapshot that was taken since, and only that is forgotten.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{GRANULE, MIB, Set, areas};
use std::fs;
use std::path::{Path, PathBuf};

impl Set {
    /// With a backup, and then a write at 1 MiB that is frozen; then a snapshot is taken, and 2 MiB is written.
    fn new(name: Option<&str>) -> (Set, PathBuf) {
        let set = Set::of_image(4 * MIB);
        dm!("backup", set.image, set.target, "--map", set.map).exits(0);
        set.write("1M", b"before");
        match name {
            Some(name) => dm!("checkpoint", "freeze", set.map, "--name", name).exits(0),
            None => dm!("checkpoint", "freeze", set.map).exits(0),
        };
        let snapshot = set.dir.copy(&set.image, "snapshot");
        set.write("2M", b"late");
        (set, snapshot)
    }

    fn frozen(&self, from: &Path, to: &Path) -> common::Ran {
        dm!("backup", from, to, "--map", self.map, "--frozen", "--keep-last", "1", "--output", "json")
    }
}

fn equal(a: &Path, b: &Path) -> bool {
    fs::read(a).expect("read") == fs::read(b).expect("read")
}

#[test]
fn what_was_frozen_is_copied_from_the_snapshot_and_what_came_later_stays_dirty() {
    let (set, snapshot) = Set::new(Some("monday"));
    let made = set.frozen(&snapshot, &set.target).exits(0).json();
    // Beside what was frozen also what was set since, which might be in the snapshot.
    assert_eq!((&made["frozen"], &made["bytes_copied"]), (&true.into(), &(2 * GRANULE).into()));
    assert_eq!((&made["one_moment"], &made["image_changed"]), (&true.into(), &false.into()));
    assert!(equal(&snapshot, &set.target));
    assert_eq!(areas(&set.map), [2 * MIB..2 * MIB + GRANULE]);
    // Kept by the name that it was frozen with.
    assert!(dm!("checkpoint", "list", set.map).exits(0).out.contains("monday"));
    // The image is still the one that the map belongs to.
    let next = dm!("backup", set.image, set.target, "--map", set.map, "--output", "json").exits(0).json();
    assert_eq!(next["bytes_copied"], GRANULE);
    assert!(equal(&set.image, &set.target));
    dm!("backup", set.image, set.target, "--map", set.map, "--since", "monday").exits(0);
}

/// A snapshot may hold what was written after the freeze, in granules that were not frozen: the backup is the snapshot all the same.
#[test]
fn a_snapshot_that_was_taken_late_is_as_good() {
    let (set, _) = Set::new(None);
    let late = set.dir.copy(&set.image, "late snapshot");
    // A second target that lacks everything gets all of it, and a copy of the first what it lacks.
    set.frozen(&late, &set.target).exits(0);
    assert!(equal(&late, &set.target));
    assert_eq!(areas(&set.map), [2 * MIB..2 * MIB + GRANULE]);
    assert_eq!(dm!("checkpoint", "list", set.map).exits(0).out, "");
    dm!("backup", set.image, set.target, "--map", set.map).exits(0);
    assert!(equal(&set.image, &set.target));
}

#[test]
fn a_backup_of_a_snapshot_that_fails_leaves_the_checkpoint_for_another_try() {
    let (set, snapshot) = Set::new(None);
    let other = set.dir.image("other", 4 * MIB + 1);
    set.frozen(&other, &set.target).exits(8);
    let nowhere = set.dir.path("nowhere/backup.raw");
    set.frozen(&snapshot, &nowhere).exits(8);
    common::patch(&set.target, |bytes| bytes[0] ^= 1);
    set.frozen(&snapshot, &set.target).exits(8).says("stays frozen").says("differs");
    assert!(dm!("checkpoint", "status", set.map).exits(0).out.contains("frozen"));
    let second = set.dir.path("second.raw");
    set.frozen(&snapshot, &second).exits(0);
    assert!(equal(&snapshot, &second));
    assert_eq!(areas(&set.map), [2 * MIB..2 * MIB + GRANULE]);
}

/// The image has grown since the last backup, and its new part does not lie in what was frozen.
#[test]
fn a_snapshot_that_is_longer_than_the_target_is_copied_to_its_end() {
    let set = Set::new(None).0;
    dm!("checkpoint", "abort", set.map).exits(0);
    dm!("backup", set.image, set.target, "--map", set.map).exits(0);
    dm!("resize", set.map, (5 * MIB).to_string()).exits(0);
    dm!("checkpoint", "freeze", set.map).exits(0);
    let longer = set.dir.image("longer", 5 * MIB);
    let old = fs::read(&set.image).expect("read");
    common::patch(&longer, |bytes| bytes[..old.len()].copy_from_slice(&old));
    set.frozen(&longer, &set.target).exits(0);
    assert!(equal(&longer, &set.target));
}

#[test]
fn without_a_frozen_checkpoint_there_is_nothing_to_copy_from_a_snapshot() {
    let (set, snapshot) = Set::new(None);
    // What is frozen is not aborted by a backup that does not say what it is.
    dm!("backup", snapshot, set.target, "--map", set.map).exits(8).says("--frozen");
    assert!(dm!("checkpoint", "status", set.map).exits(0).out.contains("frozen"));
    dm!("checkpoint", "abort", set.map).exits(0);
    set.frozen(&snapshot, &set.target).exits(8).says("no checkpoint is frozen for it").says("checkpoint freeze");
    dm!("backup", snapshot, set.target, "--map", set.map, "--frozen", "--name", "x").exits(16);
    dm!("backup", set.image, set.target, "--map", set.map).exits(0);
    assert!(equal(&set.image, &set.target));
}
