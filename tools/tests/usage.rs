//! Arguments that are wrong by themselves are exit 16, and say what is accepted.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, MIB, dirtymap};
use std::fs;

#[test]
fn a_map_of_nothing_leads_to_the_image_first() {
    dm!("create", "m").exits(16).says("<--image <IMAGE>|--size <SIZE>>");
    dm!("create", "m", "--size", "1M", "--raw").exits(16).says("--raw");
}

#[test]
fn a_reset_of_nothing_leads_to_all() {
    dm!("reset", "m").exits(16).says("OFFSET|--all");
    dm!("reset", "m", "0").exits(16).says("LENGTH");
}

#[test]
fn what_helps_hide_is_named_nowhere() {
    for words in [&["-v"][..], &["--output", "json"], &["demo-write"], &["demo-writer-"]] {
        let ran = common::run(words).exits(16);
        assert!(!ran.err.contains("demo-writer'") && !ran.err.contains("demo-writer,"), "{words:?}: {}", ran.err);
    }
    dm!("-v").exits(16).says("export-qcow2, completions, manual, demo, help");
}

#[test]
fn wrong_arguments_are_exit_16_whatever_the_file() {
    let dir = Dir::new();
    let map = dir.path("m");
    let m = map.to_str().expect("text");
    let lines: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["info"],
        &["info", m, m],
        &["create", m],
        &["create", m, "--size", "1G", "--image", m],
        &["create", m, "--size", "1.5G"],
        &["create", m, "--size", "-1"],
        &["create", m, "--size", "1E"],
        &["create", m, "--size", "16384P"],
        &["create", m, "--size", "18446744073709551616"],
        &["create", m, "--size", "8192P"],
        &["create", m, "--size", "1G", "-g", "3"],
        &["create", m, "--size", "1G", "-g", "0"],
        &["create", m, "--size", "1G", "-g", "16384P"],
        &["create", m, "--size", "4096T", "-g", "1"],
        &["create", m, "--size", "1G", "--durability", "none"],
        &["set", m, "0"],
        &["set", m, "x", "1"],
        &["set", m, "18446744073709551615", "2"],
        &["reset", m],
        &["reset", m, "0"],
        &["reset", m, "--all", "0", "1"],
        &["reset", m, "0", "1", "--within", "--covering"],
        &["reset", m, "0xffffffffffffffff", "1"],
        &["map", m, "--start", "0xffffffffffffffff", "--length", "1"],
        &["write", m],
        &["diff", m],
        &["diff", m, m, m],
        &["check"],
        &["check", m, "--quietly"],
        &["show"],
        &["show", m, m, m],
        &["show", m, "--width", "39"],
        &["show", m, "--width", "1001"],
        &["show", m, "--svg"],
        &["merge", m],
        &["export", m],
        &["import", m],
        &["dump"],
        &["dump", m, m],
        &["undump", m],
        &["undump", "-", m, m],
        &["restore", m],
        &["restore", m, m, "--map", m, "--force"],
        &["set", "prune", m],
        &["set", "prune", m, "--keep", "0"],
        &["set", "frobnicate", m],
        &["backup", m, "--map", m],
        &["backup", m, m, "--set", m, "--map", m],
        &["backup", m, m, "--keep", "3", "--map", m],
        &["backup", m, "--set", m, "--map", m, "--since", "monday"],
        &["resize", m],
        &["resize", m, "8192P"],
        &["resize", m, "-1"],
        &["repair", m, m],
        &["backup", m, m],
        &["import-qcow2", "i", m],
        &["import-qcow2", "i", m, "--bitmap", "b", "--in-use", "clean"],
        &["export-qcow2", m, "o"],
        &["export-qcow2", m, "o", "--bitmap", ""],
        &["export-qcow2", m, "o", "--bitmap", "b", "-g", "3"],
        &["completions"],
        &["completions", "tcsh"],
        &["manual"],
        &["info", m, "--output", "yaml"],
        &["info", m, "--wait", "soon"],
    ];
    for line in lines {
        let ran = common::run(*line).exits(16);
        assert!(!ran.err.is_empty() && ran.out.is_empty(), "{line:?}");
        let json = common::run(line.iter().chain(&["--output=json"])).exits(16).json();
        assert_eq!(json["error"]["kind"], "usage", "{line:?}");
        assert_eq!(json["error"]["exit"], 16, "{line:?}");
    }
    assert!(!map.exists());
}

#[test]
fn nothing_and_json_are_not_both_to_be_had() {
    dm!("show", "m", "--svg", "-", "--output", "json").exits(16).says("both");
    dm!("export-qcow2", "m", "-", "--bitmap", "b", "--output", "json").exits(16).says("both");
    let ran = dm!("check", "m", "-q", "--output", "json").exits(16).says("--quiet");
    assert_eq!(ran.json()["error"]["kind"], "usage");
}

#[test]
fn a_label_that_is_too_long_is_refused() {
    let dir = Dir::new();
    let map = dir.path("m");
    dm!("create", map, "--size", "1M", "--label", "x".repeat(253)).exits(16).says("252");
    assert!(!map.exists());
    dm!("create", map, "--size", "1M", "--label", "x".repeat(252)).exits(0);
}

#[test]
fn a_number_says_what_was_found_and_what_is_accepted() {
    let ran = dm!("set", "m", "64KB", "1").exits(16).says("\"64KB\"").says("K, M, G, T or P");
    assert!(ran.out.is_empty());
    dm!("create", "m", "--size", "1G", "-g", "96K").exits(16).says("98304").says("power of two");
}

#[test]
fn hints_name_options_and_not_functions() {
    let dir = Dir::new();
    let map = dir.map("m", MIB, &[]);
    let ran = dm!("reset", map, "1", "2").exits(8).says("--within").says("--covering");
    assert!(!ran.err.contains("reset_within"));
}

#[test]
fn what_cannot_be_said_on_standard_error_changes_nothing() {
    let dir = Dir::new();
    let map = dir.map("m", MIB, &[]);
    let map = map.to_str().expect("text");
    let cases: [(&[&str], i32); 4] = [
        (&[], 16),
        (&["frobnicate"], 16),
        (&["-vv", "set", map, "0", "1"], 0),
        (&["-vv", "resize", map, "2M", "--output", "json"], 0),
    ];
    for (args, code) in cases {
        let full = fs::File::options().write(true).open("/dev/full").expect("open");
        let ended = dirtymap().args(args).stderr(full).output().expect("run");
        assert_eq!(ended.status.code(), Some(code), "{args:?}");
    }
}
