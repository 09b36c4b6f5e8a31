//! The largest map, 2^41 granules, through the command: time and disk go with what is dirty, not with the length.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, MIB, areas};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const LEN: u64 = 1 << 41;

/// Bytes that a file takes on the disk.
fn taken(path: &Path) -> u64 {
    fs::metadata(path).expect("look").blocks() * 512
}

#[test]
fn everything_but_hash_is_quick_on_a_sparse_map_of_2_41_granules() {
    let dir = Dir::new();
    let (map, other, bits) = (dir.path("m"), dir.path("other"), dir.path("bits"));
    for path in [&map, &other] {
        dm!("create", path, "--size", "2T", "-g", "1").exits(0);
        // The first granule and the last.
        dm!("set", path, "0", "1").exits(0);
        dm!("set", path, (LEN - 1).to_string(), "1").exits(0);
    }
    assert_eq!(dm!("info", map, "--output", "json").exits(0).json()["bits"], LEN);
    assert_eq!(dm!("count", map, "--output", "json").exits(0).json()["dirty_bits"], 2);
    assert_eq!(dm!("map", map, "--output", "json").exits(0).json().as_array().map(Vec::len), Some(3));
    dm!("map", map, "--totals").exits(0);
    dm!("check", map).exits(0);
    dm!("repair", map).exits(0);
    dm!("diff", map, other).exits(0);

    dm!("set", other, "1T", "1").exits(0);
    let diff = dm!("diff", map, other, "--output", "json").exits(1).json();
    assert_eq!(diff, serde_json::json!([{"offset": LEN / 2, "length": 1, "only_in": "b"}]));
    dm!("merge", map, other).exits(0);
    dm!("diff", map, other).exits(0);

    // 256 GiB of bits, nearly all of them in holes.
    match dm!("export", map, bits) {
        ran if ran.code == 8 && ran.err.contains("File too large") => {
            common::skipped("this file system has short files")
        }
        ran => {
            ran.exits(0);
            assert_eq!(fs::metadata(&bits).expect("look").len(), LEN / 8);
            dm!("reset", map, "1T", "1").exits(0);
            dm!("set", map, "3", "5").exits(0);
            let ran = dm!("import", map, bits, "--output", "json").exits(0).json();
            assert_eq!((ran["added_bits"].as_u64(), ran["removed_bits"].as_u64()), (Some(1), Some(5)));
            assert!(taken(&bits) <= MIB, "{}", taken(&bits));
        }
    }
    assert_eq!(areas(&map), [0..1, LEN / 2..LEN / 2 + 1, LEN - 1..LEN]);
    for path in [&map, &other] {
        assert!(taken(path) <= MIB, "{}", taken(path));
    }
}
