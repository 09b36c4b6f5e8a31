//! Pictures show the numbers that `count` and `diff` give, in the terminal, as SVG and as JSON.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, MIB, damage_page, system, untouched};
use dirtymap::{DirtyMap, Options};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

const LEN: u64 = 64 * MIB + 5;

fn fine(dir: &Dir, name: &str, len: u64, granularity: u32, dirty: &[Range<u64>]) -> PathBuf {
    let path = dir.path(name);
    let map = Options::new().granularity(granularity).flush_interval(None).create(&path, len).expect("create");
    dirty.iter().for_each(|range| _ = map.set(range.clone()).expect("set"));
    map.close().expect("close");
    path
}

fn numbers(cells: &Value, field: &str) -> Vec<u64> {
    cells.as_array().expect("a list").iter().map(|cell| cell[field].as_u64().expect("a number")).collect()
}

/// The blocks of a drawing, without axis.
fn blocks(text: &str) -> String {
    text.lines().filter_map(|line| line.split_once('|')).map(|(_, rest)| rest.trim_end_matches('|')).collect()
}

#[test]
fn one_map_is_drawn_as_it_is() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[0..GRANULE, MIB..2 * MIB, LEN - 1..LEN]);
    let json = untouched(&map, || dm!("show", map, "--output", "json").exits(0).json());
    let (offsets, lengths, dirty) =
        (numbers(&json["cells"], "offset"), numbers(&json["cells"], "length"), numbers(&json["cells"], "dirty_bytes"));
    let open = Options::new().read_only(true).open(&map).expect("open");
    for ((offset, length), dirty) in offsets.iter().zip(&lengths).zip(&dirty) {
        let range = *offset..offset + length;
        let expected: u64 = open.extents(range).expect("areas").map(|area| area.end - area.start).sum();
        assert_eq!(*dirty, expected, "{offset}");
    }
    assert_eq!(lengths.iter().sum::<u64>(), LEN);
    assert_eq!(dirty.iter().sum::<u64>(), open.dirty_len());

    let text = untouched(&map, || dm!("show", map).exits(0).out);
    assert!(!text.contains('\x1b'), "colours in a pipe");
    let drawn = blocks(&text);
    assert_eq!(drawn.chars().count(), dirty.len(), "{text}");
    for ((c, dirty), length) in drawn.chars().zip(&dirty).zip(&lengths) {
        assert_eq!((c == '·', c == '█'), (*dirty == 0, dirty == length), "{text}");
    }
    // The axis: where rows start, and how far marks are within one.
    let row = json["columns"].as_u64().expect("a number") * json["cell_bytes"].as_u64().expect("a number");
    let starts: Vec<u64> = text
        .lines()
        .filter_map(|line| line.split_once(" |"))
        .map(|(start, _)| start.trim().parse().expect("an offset"))
        .collect();
    assert_eq!(starts, (0..starts.len() as u64).map(|i| i * row).collect::<Vec<_>>());
    assert!(text.contains("+0 B ") && text.contains("1.1 MiB (1.7%)") && text.contains("dirty of each "), "{text}");
}

#[test]
fn two_maps_are_drawn_as_they_differ() {
    let dir = Dir::new();
    let a = dir.map("a", LEN, &[MIB..4 * MIB, LEN - 1..LEN]);
    let b = fine(&dir, "b", LEN, 12, &[2 * MIB..3 * MIB, 32 * MIB..32 * MIB + 1]);
    let json = untouched(&a, || untouched(&b, || dm!("show", a, b, "--output", "json").exits(1))).json();
    let mut sums = [0u64; 2];
    for difference in dm!("diff", a, b, "--output", "json").exits(1).json().as_array().expect("a list") {
        sums[usize::from(difference["only_in"] == "b")] += difference["length"].as_u64().expect("a number");
    }
    assert_eq!(sums, [2 * MIB + 5, 4096]);
    assert_eq!(["only_in_a", "only_in_b"].map(|name| numbers(&json["cells"], name).iter().sum::<u64>()), sums);
    let text = dm!("show", a, b).exits(1).out;
    let (in_a, in_b) = text.split_once("+ dirty only in").expect("two parts");
    assert!(in_a.contains("- dirty only in") && blocks(in_a).contains('█'), "{text}");
    // A 16th of a cell.
    assert_eq!(blocks(in_b).chars().filter(|c| *c != '·').collect::<String>(), "░", "{text}");
    dm!("show", a, a).exits(0);
    dm!("show", a, dir.map("c", LEN + 1, &[])).exits(8).says("equally many");
}

#[test]
fn a_picture_fits_the_width() {
    let dir = Dir::new();
    let map = dir.map("m", 10 << 40, &[0..1]);
    for width in ["40", "57", "80", "200", "1000"] {
        let text = dm!("show", map, "--width", width).exits(0).out;
        let widest = text.lines().filter(|line| line.contains('|')).map(|line| line.chars().count()).max();
        let width: usize = width.parse().expect("a number");
        assert!(widest.is_some_and(|w| w <= width && w + 8 > width), "{widest:?} of {width}\n{text}");
    }
}

/// What a picture's rectangles say, by colour.
fn told(svg: &str, colour: &str) -> u64 {
    let rectangles = svg.lines().filter(|line| line.starts_with("<rect") && line.contains(colour));
    let said = rectangles.filter_map(|line| line.split_once("<title>")?.1.split_once(" bytes")?.0.split_once(": "));
    said.map(|(_, bytes)| bytes.parse::<u64>().expect("a number")).sum()
}

#[test]
fn svg_has_the_same_numbers_and_never_replaces_a_file() {
    let dir = Dir::new();
    let a = dir.map("a <&> b", LEN, &[MIB..4 * MIB, 10 * MIB..10 * MIB + 1]);
    let b = dir.map("b", LEN, &[2 * MIB..3 * MIB, 20 * MIB..21 * MIB]);
    let (one, two) = (dir.path("one.svg"), dir.path("two.svg"));
    dm!("show", a, "--svg", one).exits(0);
    dm!("show", a, b, "--svg", two).exits(1);
    let read = |path: &Path| fs::read_to_string(path).expect("read");
    assert_eq!(told(&read(&one), "#b35900"), 3 * MIB + GRANULE);
    assert_eq!(told(&read(&two), "#a31515"), 2 * MIB + GRANULE);
    assert_eq!(told(&read(&two), "#1a6b1a"), MIB);
    assert!(read(&one).contains("a &lt;&amp;&gt; b") && read(&one).contains("+2 MiB"));
    untouched(&one, || dm!("show", a, "--svg", one).exits(8).says("exists"));
    untouched(&a, || dm!("show", a, "--svg", a).exits(8).says("exists"));
    if system("xmllint", &["--version"].map(OsStr::new)) {
        assert!(system("xmllint", &[OsStr::new("--noout"), one.as_os_str(), two.as_os_str()]));
    } else {
        common::skipped("well-formed XML: needs xmllint");
    }
}

#[test]
fn maps_of_every_size_are_drawn_quickly() {
    let dir = Dir::new();
    let largest = fine(&dir, "largest", 1 << 41, 0, &[0..1, 1 << 40..1 << 30 | 1 << 40, (1 << 41) - 1..1 << 41]);
    let json = dm!("show", largest, "--output", "json").exits(0).json();
    assert_eq!(numbers(&json["cells"], "dirty_bytes").iter().sum::<u64>(), (1 << 30) + 2);
    let other = fine(&dir, "other", 1 << 41, 10, &[0..1]);
    let json = dm!("show", largest, other, "--output", "json").exits(1).json();
    assert_eq!(numbers(&json["cells"], "only_in_b").iter().sum::<u64>(), 1023);
    let all = fine(&dir, "all", i64::MAX as u64, 40, &[0..i64::MAX as u64]);
    assert!(blocks(&dm!("show", all).exits(0).out).chars().all(|c| c == '█'));
    for (name, len) in [("none", 0), ("one", 1)] {
        let map = fine(&dir, name, len, 63, &[0..len]);
        assert_eq!(blocks(&dm!("show", map).exits(0).out), if len == 0 { "" } else { "█" });
    }
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[0..1]);
    // `script` gives it a terminal.
    let on_terminal = |variables: &str| {
        let bin = env!("CARGO_BIN_EXE_dirtymap");
        let line = format!("stty cols 57; {variables} {bin} show {}", map.display());
        let ran =
            std::process::Command::new("script").args(["-qec", &line, "/dev/null"]).env_remove("NO_COLOR").output();
        ran.ok().filter(|ran| ran.status.success()).map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned())
    };
    let Some(text) = on_terminal("TERM=xterm") else {
        return common::skipped("colours: needs script(1), for a terminal");
    };
    assert!(text.contains("\x1b[33m") && text.contains("\x1b[2m"), "{text}");
    assert!(!on_terminal("NO_COLOR=1 TERM=xterm").expect("as before").contains('\x1b'));
    assert!(!on_terminal("TERM=dumb").expect("as before").contains('\x1b'));
    let plain = on_terminal("NO_COLOR=1").expect("as before");
    let widest = plain.lines().filter(|line| line.contains('|')).map(|line| line.trim_end().chars().count()).max();
    assert!(widest.is_some_and(|w| w <= 57 && w > 49), "{plain}");
}

#[test]
fn damage_outranks_difference_and_an_open_map_is_not_drawn() {
    let dir = Dir::new();
    let (a, b) = (dir.map("a", LEN, &[0..1]), dir.map("b", LEN, &[]));
    damage_page(&a);
    dm!("show", b, a).exits(4).says("damaged page");
    let live = DirtyMap::open(&b).expect("open");
    dm!("show", b).exits(8).says("in use");
    dm!("show", a, b).exits(8).says("in use");
    drop(live);
}

#[test]
fn a_picture_goes_to_standard_output() {
    let dir = Dir::new();
    let (map, svg) = (dir.map("m", 10 * MIB, &[MIB..2 * MIB]), dir.path("svg"));
    dm!("show", map, "--svg", svg).exits(0);
    assert_eq!(dm!("show", map, "--svg", "-").exits(0).out, fs::read_to_string(svg).expect("read"));
}
