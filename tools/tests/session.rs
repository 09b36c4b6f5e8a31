//! A first session with the tool: every command that looks at a map or changes it, on a healthy file.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, KIB, MIB, areas, untouched};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
use std::path::PathBuf;
use std::process::Stdio;

#[test]
fn create_says_what_it_made_and_does_not_overwrite() {
    let dir = Dir::new();
    let map = dir.path("disk.map");
    let made = dm!("create", map, "--size", "10M", "--label", "web server").exits(0);
    assert!(made.out.contains("10 MiB") && made.out.contains("160 bits") && made.out.contains("all clean"), "{made:?}");
    untouched(&map, || dm!("create", map, "--size", "10M").exits(8).says("exists already"));
    let info = dm!("info", map, "--output", "json").exits(0).json();
    assert_eq!(info["label"], "web server");
    assert_eq!(info["size"], 10 * MIB);
    assert_eq!(info["granule_bytes"], GRANULE);
    assert_eq!(info["state"], "clean");
    assert_eq!(info["verdict"], "exact");
    assert_eq!(info["live"], false);
}

#[test]
fn create_takes_the_size_of_an_image_and_starts_dirty() {
    let dir = Dir::new();
    let (image, map) = (dir.image("disk.raw", 3 * MIB + 5), dir.path("disk.map"));
    dm!("create", map, "--image", image, "-g", "4K").exits(0);
    let info = dm!("info", map, "--output", "json").exits(0).json();
    assert_eq!(info["size"], 3 * MIB + 5);
    assert_eq!(info["bits"], 769);
    assert_eq!(info["dirty_bits"], 769);
    assert_eq!(info["dirty_bytes"], 3 * MIB + 5);
    assert_eq!(info["image"]["size"], 3 * MIB + 5);
    assert_eq!(info["image"]["exact"], true);
    dm!("create", image, "--image", image).exits(8).says("different files");
}

#[test]
fn create_takes_every_granularity_and_the_empty_map() {
    let dir = Dir::new();
    for (name, size, granularity, bits) in [
        ("a", "16", "1", 16u64),
        ("b", "0x7fffffffffffffff", "8192P", 1),
        ("c", "0", "64K", 0),
        ("d", "1P", "1M", 1 << 30),
    ] {
        let map = dir.path(name);
        dm!("create", map, "--size", size, "-g", granularity).exits(0);
        assert_eq!(dm!("info", map, "--output", "json").exits(0).json()["bits"], bits);
        dm!("map", map).exits(0);
        dm!("check", map).exits(0);
    }
}

#[test]
fn set_and_reset_mean_what_the_worked_example_says() {
    let dir = Dir::new();
    let map = dir.path("m");
    dm!("create", map, "--size", "16", "-g", "2").exits(0);
    dm!("set", map, "0", "9").exits(0);
    assert_eq!(areas(&map), [0..10]);
    dm!("reset", map, "1", "3", "--covering").exits(0);
    assert_eq!(areas(&map), [4..10]);
    dm!("set", map, "9", "2").exits(0);
    assert_eq!(areas(&map), [4..12]);
    dm!("reset", map, "5", "5", "--covering").exits(0);
    assert_eq!(areas(&map), [10..12]);
    dm!("set", map, "0", "0x10").exits(0);
    dm!("reset", map, "1", "4", "--within").exits(0);
    assert_eq!(areas(&map), [0..2, 4..16]);
    dm!("reset", map, "4", "4").exits(0);
    assert_eq!(areas(&map), [0..2, 8..16]);
    dm!("reset", map, "--all").exits(0);
    assert_eq!(areas(&map), []);
}

#[test]
fn reset_with_the_unaligned_end_of_the_map_clears_the_tail() {
    let dir = Dir::new();
    let map = dir.map("m", 10 * GRANULE + 7, &[9 * GRANULE..10 * GRANULE + 7]);
    dm!("reset", map, (10 * GRANULE).to_string(), "7").exits(0);
    assert_eq!(areas(&map), [9 * GRANULE..10 * GRANULE]);
}

#[test]
fn map_lists_extents_that_cover_the_range() {
    let dir = Dir::new();
    let map = dir.map("m", 10 * MIB, &[MIB..2 * MIB, 5 * MIB..5 * MIB + 1]);
    let human = dm!("map", map).exits(0).out;
    let words: Vec<Vec<&str>> = human.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[1], ["1048576", "1048576", "1", "dirty"]);
    assert_eq!(words.len(), 5);

    let all = dm!("map", map, "--output", "json").exits(0).json();
    let extents = all.as_array().expect("a list");
    let number = |e: &serde_json::Value, name: &str| e[name].as_u64().expect("a number");
    let mut at = 0;
    for (i, e) in extents.iter().enumerate() {
        assert_eq!(number(e, "offset"), at);
        assert_eq!(number(e, "type"), i as u64 % 2);
        assert_eq!(e["description"], if i % 2 == 1 { "dirty" } else { "clean" });
        at += number(e, "length");
    }
    assert_eq!(at, 10 * MIB);

    let part = dm!("map", map, "--start", "1536K", "--length", "1M", "--output", "json").exits(0).json();
    assert_eq!(part[0]["offset"], 1536 * KIB);
    assert_eq!(part[0]["length"], 512 * KIB);
    assert_eq!(part[0]["type"], 1);
    assert_eq!(part[1]["length"], 512 * KIB);
    assert_eq!(part.as_array().map(Vec::len), Some(2));

    let none = dm!("map", map, "--start", "10M", "--output", "json").exits(0);
    assert_eq!(none.json(), serde_json::json!([]));
}

#[test]
fn totals_add_up() {
    let dir = Dir::new();
    let map = dir.map("m", 10 * MIB, &[MIB..2 * MIB, 5 * MIB..5 * MIB + 1]);
    let totals = dm!("map", map, "--totals", "--output", "json").exits(0).json();
    assert_eq!(totals[1]["size"], MIB + GRANULE);
    assert_eq!(totals[1]["description"], "dirty");
    assert_eq!(totals[0]["size"], 9 * MIB - GRANULE);
    assert_eq!(totals[1]["percent"], 10.625);
    assert!(dm!("map", map, "--totals").exits(0).out.contains("10.6%"));
}

#[test]
fn count_and_hash_put_the_value_first() {
    let dir = Dir::new();
    let map = dir.map("m", 10 * MIB, &[MIB..2 * MIB]);
    let count = dm!("count", map).exits(0).out;
    let first: Vec<_> = count.lines().map(|line| line.split(' ').next().expect("a word")).collect();
    assert_eq!(first, ["16", "1048576"]);
    let json = dm!("count", map, "--output=json").exits(0).json();
    assert_eq!(json, serde_json::json!({"dirty_bits": 16, "dirty_bytes": MIB}));

    let hash = dm!("hash", map).exits(0).out;
    let sha256 = dm!("hash", map, "--output=json").exits(0).json()["sha256"].as_str().expect("text").to_string();
    assert_eq!(sha256.len(), 64);
    assert!(hash.starts_with(&sha256));
    // The same bits in another file have the same hash.
    let other = dir.map("n", 10 * MIB, &[MIB..2 * MIB]);
    assert!(dm!("hash", other).exits(0).out.starts_with(&sha256));
}

#[test]
fn check_of_a_healthy_map_finds_nothing() {
    let dir = Dir::new();
    let map = dir.map("m", 10 * MIB, &[MIB..2 * MIB]);
    let report = untouched(&map, || dm!("check", map, "--output", "json").exits(0).json());
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["pages_checked"], 1);
    assert!(dm!("check", map).exits(0).out.contains("no errors"));
}

#[test]
fn what_only_looks_changes_nothing() {
    let dir = Dir::new();
    let map = dir.map("m", 10 * MIB, &[MIB..2 * MIB]);
    for command in ["info", "map", "count", "hash", "check"] {
        untouched(&map, || dm!(command, map).exits(0));
    }
}

#[test]
fn verbose_tells_on_stderr_what_happened_and_changes_no_answer() {
    let dir = Dir::new();
    let map = dir.map("m", 10 * MIB, &[MIB..2 * MIB]);
    let quiet = dm!("count", map, "--output", "json").exits(0);
    assert_eq!(quiet.err, "");
    let told = dm!("count", map, "--output", "json", "-v").exits(0).says("opened for reading").says("closed cleanly");
    assert_eq!(told.out, quiet.out);
    dm!("-v", "set", map, "0", "1").exits(0).says("opened for writing").says("1 durable write of ").says("1 to arm");
    dm!("-vv", "set", map, "9M", "1").exits(0).says(" armed words=1 ").says(" flushed pages=1 ").says(" closed ");
    dm!("set", map, "5M", "1", "-vv").exits(0).says("flushes");
    let unclean = dir.unclean("u", 10 * MIB, &[0..1]);
    dm!("count", unclean, "--verbose").exits(0).says("160 bits of 64 KiB, not closed cleanly");
}

/// A map whose areas are more than a pipe takes.
fn many_areas(dir: &Dir) -> PathBuf {
    let path = dir.path("m");
    let map = dirtymap::Options::new().granularity(0).create(&path, 40_000).expect("create");
    (0..20_000).for_each(|i| assert_eq!(map.set(i * 2..i * 2 + 1).expect("set"), 1));
    map.close().expect("close");
    path
}

#[test]
fn an_interrupt_ends_a_command_that_nobody_reads_from() {
    let dir = Dir::new();
    let path = many_areas(&dir);
    for format in ["human", "json"] {
        let mut command = common::dirtymap();
        command.args(["map", "--output", format]).arg(&path).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("run");
        // It prints, and so it listens already; and the pipe will be full.
        child.stdout.as_mut().expect("piped").read_exact(&mut [0; 1]).expect("read");
        kill_process(Pid::from_child(&child), Signal::INT).expect("signal");
        let ended = (0..1000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            child.try_wait().expect("wait")
        });
        if ended.is_none() {
            child.kill().expect("kill");
        }
        assert_eq!(ended.and_then(|status| status.code()), Some(32), "{format}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = Dir::new();
    let path = many_areas(&dir);
    let mut child = common::dirtymap().arg("map").arg(&path).stdout(std::process::Stdio::piped()).spawn().expect("run");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}
