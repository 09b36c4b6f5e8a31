//! Two maps: what differs, and the dirt of both.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, KIB, MIB, areas, damage_page, untouched};
use dirtymap::{DirtyMap, Options};
use serde_json::{Value, json};
use std::ops::Range;
use std::path::PathBuf;

const LEN: u64 = 64 * MIB + 5;

fn fine(dir: &Dir, name: &str, granularity: u32, dirty: &[Range<u64>]) -> PathBuf {
    let path = dir.path(name);
    let map = Options::new().granularity(granularity).create(&path, LEN).expect("create");
    dirty.iter().for_each(|range| _ = map.set(range.clone()).expect("set"));
    map.close().expect("close");
    path
}

fn difference(range: Range<u64>, side: &str) -> Value {
    json!({"offset": range.start, "length": range.end - range.start, "only_in": side})
}

#[test]
fn diff_of_equal_maps_is_0_and_empty() {
    let dir = Dir::new();
    let dirty = [MIB..2 * MIB, LEN - 1..LEN];
    let (a, b) = (dir.map("a", LEN, &dirty), dir.map("b", LEN, &dirty));
    assert_eq!(dm!("diff", a, b).exits(0).out, "no difference\n");
    assert_eq!(dm!("diff", a, b, "--output", "json").exits(0).json(), json!([]));
    dm!("diff", a, a).exits(0);
    let (empty, none) = (dir.map("empty", 0, &[]), dir.map("none", 0, &[]));
    dm!("diff", empty, none).exits(0);
}

#[test]
fn diff_shows_each_side_and_exits_1() {
    let dir = Dir::new();
    let a = dir.map("a", LEN, &[0..MIB, 2 * MIB..4 * MIB, LEN - 1..LEN]);
    let b = dir.map("b", LEN, &[MIB..3 * MIB, LEN - 1..LEN]);
    let ran = untouched(&a, || untouched(&b, || dm!("diff", a, b, "--output", "json").exits(1)));
    // Neighbours that differ in their side are two areas.
    let expected = [difference(0..MIB, "a"), difference(MIB..2 * MIB, "b"), difference(3 * MIB..4 * MIB, "a")];
    assert_eq!(ran.json(), json!(expected));
    let human = dm!("diff", a, b).exits(1).out;
    let lines: Vec<Vec<&str>> = human.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[2], ["-", "0", "1048576"]);
    assert_eq!(lines[3], ["+", "1048576", "1048576"]);
    assert!(human.ends_with("- 2 MiB in 2 areas\n+ 1 MiB in 1 area\n"), "{human}");
}

#[test]
fn diff_compares_bytes_whatever_the_granules() {
    let dir = Dir::new();
    let coarse = dir.map("coarse", LEN, &[0..2 * GRANULE, LEN - 1..LEN]);
    let b = fine(&dir, "fine", 12, &[0..GRANULE, GRANULE + 8 * KIB..GRANULE + 9 * KIB, LEN - 1..LEN]);
    let ran = dm!("diff", coarse, b, "--output", "json").exits(1).json();
    let expected = [GRANULE..GRANULE + 8 * KIB, GRANULE + 12 * KIB..2 * GRANULE].map(|range| difference(range, "a"));
    assert_eq!(ran, json!(expected));
    let tail = fine(&dir, "tail", 0, &[LEN - 1..LEN]);
    let ran = dm!("diff", tail, dir.map("clean", LEN, &[]), "--output", "json").exits(1).json();
    assert_eq!(ran, json!([difference(LEN - 1..LEN, "a")]));
}

#[test]
fn diff_wants_equal_lengths_and_says_both() {
    let dir = Dir::new();
    let (a, b) = (dir.map("a", LEN, &[]), dir.map("b", LEN + 1, &[]));
    dm!("diff", a, b).exits(8).says("67108869").says("67108870");
    assert_eq!(dm!("diff", a, b, "--output", "json").exits(8).json()["error"]["kind"], "size-differs");
}

#[test]
fn diff_recovers_in_memory_and_damage_outranks_difference() {
    let dir = Dir::new();
    let a = dir.map("a", LEN, &[0..1]);
    let unclean = dir.unclean("unclean", LEN, &[0..1]);
    untouched(&unclean, || dm!("diff", a, unclean).exits(1).says("not closed cleanly"));
    let same = dir.map("same", LEN, &[0..64 * GRANULE]);
    dm!("diff", same, unclean).exits(0);
    damage_page(&a);
    untouched(&a, || dm!("diff", unclean, a).exits(4).says("damaged page"));
    let live = DirtyMap::open(&same).expect("open");
    dm!("diff", unclean, same).exits(8).says("in use");
    drop(live);
}

#[test]
fn a_diff_whose_reader_goes_away_is_still_a_difference() {
    let dir = Dir::new();
    let odd: Vec<_> = (0..20_000).map(|i| i * 2..i * 2 + 1).collect();
    let (a, b) = (fine(&dir, "a", 0, &odd), fine(&dir, "b", 0, &[]));
    let mut child =
        common::dirtymap().arg("diff").args([a, b]).stdout(std::process::Stdio::piped()).spawn().expect("run");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("wait").code(), Some(1));
}

#[test]
fn merge_adds_the_dirt_of_all_sources() {
    let dir = Dir::new();
    let dest = dir.map("dest", LEN, &[0..GRANULE]);
    let (a, b) = (dir.map("a", LEN, &[0..2 * GRANULE, LEN - 1..LEN]), dir.map("b", LEN, &[8 * MIB..9 * MIB]));
    let ran = untouched(&a, || untouched(&b, || dm!("merge", dest, a, b, a, "--output", "json").exits(0))).json();
    // The last granule is of 5 bytes.
    assert_eq!(ran["added_bits"], 18);
    assert_eq!(ran["added_bytes"], MIB + GRANULE + 5);
    assert_eq!(ran["dirty_bits"], 19);
    assert_eq!(areas(&dest), [0..2 * GRANULE, 8 * MIB..9 * MIB, 64 * MIB..LEN]);
    dm!("check", dest).exits(0);
    assert!(dm!("merge", dest, a).exits(0).out.starts_with("0 granules became dirty"));
}

#[test]
fn merge_rounds_outward_between_granularities() {
    let dir = Dir::new();
    let b = fine(&dir, "fine", 9, &[GRANULE - 1..GRANULE + 1, LEN - 1..LEN]);
    let dest = dir.map("dest", LEN, &[]);
    dm!("merge", dest, b).exits(0);
    assert_eq!(areas(&dest), [0..2 * GRANULE, 64 * MIB..LEN]);
    dm!("merge", b, dest).exits(0);
    assert_eq!(areas(&b), areas(&dest));
}

#[test]
fn merging_a_map_with_itself_changes_nothing_and_says_so() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[0..GRANULE]);
    let link = dir.path("link");
    std::os::unix::fs::symlink(&map, &link).expect("link");
    untouched(&map, || dm!("merge", map, link, map).exits(0).says("with itself"));
    let other = dir.map("other", LEN, &[GRANULE..2 * GRANULE]);
    dm!("merge", map, link, other).exits(0).says("with itself");
    assert_eq!(areas(&map), [0..2 * GRANULE]);
}

#[test]
fn a_source_that_will_not_do_leaves_the_destination_alone() {
    let dir = Dir::new();
    let (dest, good) = (dir.unclean("dest", LEN, &[0..GRANULE]), dir.map("good", LEN, &[MIB..2 * MIB]));
    let (short, none) = (dir.map("short", LEN - 1, &[]), dir.path("none"));
    untouched(&dest, || dm!("merge", dest, good, short).exits(8).says("67108869").says("67108868"));
    untouched(&dest, || dm!("merge", dest, good, none).exits(8).says("No such file"));
    untouched(&dest, || dm!("merge", dest, good, file!()).exits(8));
    let live = DirtyMap::open(&good).expect("open");
    untouched(&dest, || dm!("merge", dest, good).exits(8).says("in use").says("--wait"));
    drop(live);
    untouched(&good, || dm!("merge", none, good).exits(8).says("No such file"));
    assert!(!none.exists());
}

#[test]
fn merge_takes_what_an_unclean_or_damaged_source_may_have_held() {
    let dir = Dir::new();
    let (dest, unclean) = (dir.map("dest", LEN, &[]), dir.unclean("unclean", LEN, &[0..1]));
    untouched(&unclean, || dm!("merge", dest, unclean).exits(0).says("recovered in memory"));
    assert_eq!(areas(&dest), [0..64 * GRANULE]);
    let damaged = dir.map("damaged", LEN, &[0..1]);
    damage_page(&damaged);
    untouched(&damaged, || dm!("merge", dest, damaged).exits(4).says("damaged page"));
    assert_eq!(areas(&dest), [0..LEN]);
    dm!("check", dest).exits(0);
}
