//! What each command does with a map that is unclean, damaged, or open in another process: the table of exit codes.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, MIB, areas, damage_copy, damage_page, pattern, run_with, untouched};
use dirtymap::format::{COPIES, COPY_BYTES, copy_offset};
use dirtymap::{Access, DirtyMap, Options};
use std::fs;
use std::path::Path;

const LEN: u64 = 64 * MIB;
const READERS: [&str; 6] = ["info", "map", "count", "hash", "dump", "show"];
/// What one armed word makes dirty: 64 granules.
const WORD: u64 = 64 * GRANULE;

/// Runs each writing command on a fresh copy of `map`; each must succeed, saying `note`, and leave a clean map.
fn writers_mend(dir: &Dir, map: &Path, note: &str) {
    let image = dir.image("image", LEN);
    let copy = dir.path("copy");
    let (c, i) = (copy.to_str().expect("text"), image.to_str().expect("text"));
    let target = dir.path("target");
    let (other, bits) = (dir.map("other", LEN, &[]), dir.path("bits"));
    fs::write(&bits, vec![0; (LEN / GRANULE / 8) as usize]).expect("write the raw file");
    let lines: [&[&str]; 7] = [
        &["set", c, "0", "1"],
        &["reset", c, "0", "64K"],
        &["merge", c, other.to_str().expect("text")],
        &["resize", c, "65M"],
        &["import", c, bits.to_str().expect("text")],
        &["write", i, "--map", c, "--at", "0"],
        &["backup", i, target.to_str().expect("text"), "--map", c],
    ];
    for line in lines {
        fs::copy(map, &copy).expect("copy");
        run_with(line, &pattern(10, 2)).exits(0).says(note);
        dm!("check", copy).exits(0);
    }
    assert_eq!(fs::read(&image).expect("read"), fs::read(&target).expect("read"));
}

#[test]
fn unclean_readers_answer_with_the_recovered_bits_and_change_nothing() {
    let dir = Dir::new();
    let map = dir.unclean("m", LEN, &[MIB..2 * MIB]);
    for command in READERS {
        untouched(&map, || dm!(command, map).exits(0).says("not closed cleanly"));
    }
    let info = dm!("info", map, "--output", "json").exits(0).json();
    assert_eq!(info["state"], "unclean");
    assert_eq!(info["verdict"], "superset");
    assert_eq!(info["reason"], "crash");
    assert_eq!(info["armed_bytes"], WORD);
    assert_eq!(info["dirty_bytes"], WORD);
    assert_eq!(areas(&map), [0..WORD]);
}

#[test]
fn unclean_check_is_2_and_says_the_consequence() {
    let dir = Dir::new();
    let map = dir.unclean("m", LEN, &[MIB..2 * MIB]);
    let report = untouched(&map, || dm!("check", map).exits(2));
    for word in ["found", "expected", "consequence", "what to do", "armed list"] {
        assert!(report.out.contains(word), "{word}: {}", report.out);
    }
    let json = dm!("check", map, "--output", "json").exits(2).json();
    assert_eq!(json["severity"], "unclean");
    assert_eq!(json["state"], "unclean");
    assert_eq!(json["dirty_bytes"], WORD);
}

#[test]
fn check_quietly_only_exits() {
    let dir = Dir::new();
    let (good, damaged) = (dir.map("good", LEN, &[]), dir.map("damaged", LEN, &[0..1]));
    damage_page(&damaged);
    let (ruined, live) = (dir.map("ruined", LEN, &[]), dir.map("live", LEN, &[]));
    (0..4).for_each(|copy| damage_copy(&ruined, copy));
    let (unclean, junk) = (dir.unclean("unclean", LEN, &[0..1]), dir.image("junk", MIB));
    let open = DirtyMap::open(&live).expect("open");
    let expected = [(&good, 0), (&unclean, 2), (&damaged, 4), (&ruined, 8), (&live, 0), (&junk, 8)];
    for (map, code) in expected.into_iter().chain([(&dir.path("nothing"), 8)]) {
        for line in [["check", "-q"], ["check", "--quiet"]] {
            let args = line.map(std::ffi::OsStr::new).into_iter().chain([map.as_os_str()]);
            let ran = untouched(map, || common::run(args)).exits(code);
            assert!(ran.out.is_empty() && ran.err.is_empty(), "{ran:?}");
        }
        dm!("check", map).exits(code);
    }
    drop(open);
}

#[test]
fn unclean_writers_recover_durably() {
    let dir = Dir::new();
    let map = dir.unclean("m", LEN, &[MIB..2 * MIB]);
    writers_mend(&dir, &map, "not closed cleanly");
    dm!("set", map, "0", "1").exits(0).says("not closed cleanly");
    let info = dm!("info", map, "--output", "json").exits(0).json();
    assert_eq!((info["state"].as_str(), info["verdict"].as_str()), (Some("clean"), Some("superset")));
    assert_eq!(areas(&map), [0..WORD]);
    dm!("reset", map, "--all").exits(0);
    assert_eq!(dm!("info", map, "--output", "json").exits(0).json()["verdict"], "exact");
}

#[test]
fn a_damaged_page_is_all_dirty_and_4_until_somebody_writes() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[MIB..2 * MIB]);
    damage_page(&map);
    for command in READERS {
        untouched(&map, || dm!(command, map).exits(4).says("damaged page"));
    }
    // 4096 bits of 64 KiB are more than the map has.
    assert_eq!(areas(&map), [0..LEN]);
    let info = dm!("info", map, "--output", "json").exits(4).json();
    assert_eq!(info["verdict"], "damaged");
    let check = untouched(&map, || dm!("check", map).exits(4));
    assert!(check.out.contains("damage: page 0") && check.out.contains("what to do"), "{}", check.out);
    writers_mend(&dir, &map, "damaged page");
}

#[test]
fn damaged_header_copies_are_4_until_somebody_writes_them_anew() {
    let dir = Dir::new();
    for copies in [&[0][..], &[1], &[2], &[3], &[1, 2], &[2, 3], &[0, 1, 2], &[1, 2, 3]] {
        let map = dir.map("m", LEN, &[MIB..2 * MIB]);
        let newest = common::header(&map);
        copies.iter().for_each(|&copy| damage_copy(&map, copy));
        for command in READERS {
            untouched(&map, || dm!(command, map).exits(4).says(&format!("{} damaged header cop", copies.len())));
        }
        // The bits are not concerned, as long as a copy of the newest header is left.
        let lost = common::header(&map) != newest;
        assert_eq!(areas(&map), [if lost { 0..LEN } else { MIB..2 * MIB }], "{copies:?}");
        let check = untouched(&map, || dm!("check", map, "--output", "json").exits(4).json());
        let damage = check["findings"].as_array().expect("a list").iter().filter(|f| f["severity"] == "damage");
        assert_eq!(damage.count(), copies.len(), "{check}");
        dm!("set", map, "0", "1").exits(0).says("damaged header cop");
        dm!("check", map).exits(0);
        fs::remove_file(&map).expect("remove");
    }
}

/// The machine is still in the boot in which the map was opened, so no power cut explains it.
#[test]
fn losing_the_newest_pair_makes_everything_dirty() {
    let dir = Dir::new();
    let mut lost = 0;
    for pair in [0, 1] {
        let map = dir.map("m", LEN, &[MIB..2 * MIB]);
        let newest = common::header(&map);
        damage_copy(&map, pair);
        damage_copy(&map, pair + 2);
        let info = dm!("info", map).exits(4);
        dm!("check", map).exits(4);
        if common::header(&map) == newest {
            assert_eq!(areas(&map), [MIB..2 * MIB]);
        } else {
            info.says("a header was lost");
            assert_eq!(areas(&map), [0..LEN]);
            lost += 1;
        }
        fs::remove_file(&map).expect("remove");
    }
    assert_eq!(lost, 1);
}

#[test]
fn without_a_header_there_is_nothing_to_go_by_whatever_is_there_instead() {
    let dir = Dir::new();
    let (rotten, zeros, junk) = (dir.map("m", LEN, &[MIB..2 * MIB]), dir.path("zeros"), dir.path("junk"));
    for (path, bytes) in [(&zeros, vec![0; COPY_BYTES]), (&junk, pattern(COPY_BYTES as u64, 5))] {
        fs::copy(&rotten, path).expect("copy");
        common::patch(path, |file| {
            (0..COPIES).for_each(|i| file[copy_offset(i) as usize..][..COPY_BYTES].copy_from_slice(&bytes));
        });
    }
    (0..COPIES).for_each(|copy| damage_copy(&rotten, copy));
    let what = [(&rotten, "no header copy is valid"), (&zeros, "nothing but zeros"), (&junk, "magic is")];
    for (map, what) in what {
        for command in READERS.into_iter().chain(["check", "repair"]) {
            let ran = untouched(map, || dm!(command, map).exits(8).says(what).says("make a new map"));
            // What to do is said once, and of the file that it is about.
            assert_eq!(ran.err.matches("full backup").count(), 1, "{command}: {}", ran.err);
            assert!(!ran.err.contains("FILE") && !ran.err.contains("run `dirtymap check`"), "{command}: {}", ran.err);
        }
        untouched(map, || dm!("set", map, "0", "1").exits(8).says(what));
    }
    dm!("info", rotten).exits(8).says(&format!("dirtymap create {} --image IMAGE", rotten.display()));
}

#[test]
fn a_map_that_another_process_has_open_shows_its_header_only() {
    let dir = Dir::new();
    let path = dir.map("m", LEN, &[MIB..2 * MIB]);
    let image = dir.image("image", LEN);
    // This test is the other process.
    let map = DirtyMap::open(&path).expect("open");

    let info = dm!("info", path, "--output", "json").exits(0).json();
    assert_eq!(info["live"], true);
    assert_eq!(info["state"], "open");
    assert_eq!(info["dirty_bits"], serde_json::Value::Null);
    assert!(dm!("info", path).exits(0).out.contains("another process"));
    let check = dm!("check", path, "--output", "json").exits(0).json();
    assert_eq!(check["live"], true);
    assert!(!check["unchecked"].as_array().expect("a list").is_empty());
    assert!(dm!("check", path).exits(0).out.contains("not checked: pages"));

    for command in ["map", "count", "hash", "dump", "show"] {
        dm!(command, path).exits(8).says("another process has it open").says("--wait");
    }
    dm!("set", path, "0", "1").exits(8).says("in use");
    dm!("reset", path, "--all").exits(8).says("in use");
    let before = fs::read(&image).expect("read");
    run_with(["write", image.to_str().expect("text"), "--map", path.to_str().expect("text"), "--at", "0"], b"x")
        .exits(8);
    assert_eq!(fs::read(&image).expect("read"), before);
    let target = dir.path("target");
    dm!("backup", image, target, "--map", path).exits(8).says("in use");
    assert!(!target.exists());
    let json = dm!("count", path, "--output", "json").exits(8).json();
    assert_eq!(json["error"]["kind"], "locked");
    assert_eq!(json["error"]["exit"], 8);
    map.close().expect("close");
    assert_eq!(areas(&path), [MIB..2 * MIB]);
}

/// What can be read is read while others have the map, and what changes bits joins them.
#[test]
fn a_map_that_others_share_answers_and_takes_part() {
    let dir = Dir::new();
    let path = dir.map("m", LEN, &[MIB..2 * MIB]);
    let image = dir.image("image", LEN);
    // This test is the other process.
    let map = Options::new().access(Access::Shared).open(&path).expect("open");
    map.set(4 * MIB..5 * MIB).expect("set");

    let info = dm!("info", path, "--output", "json").exits(0).json();
    assert_eq!((info["live"].as_bool(), info["dirty_bytes"].as_u64()), (Some(true), Some(2 * MIB)));
    assert!(dm!("info", path).exits(0).out.contains("share it"));
    let check = dm!("check", path, "--output", "json").exits(0).json();
    assert_eq!((check["live"].as_bool(), check["dirty_bytes"].as_u64()), (Some(true), Some(2 * MIB)));
    assert!(dm!("check", path).exits(0).out.contains("live"));
    assert_eq!(areas(&path), [MIB..2 * MIB, 4 * MIB..5 * MIB]);
    assert!(dm!("count", path).exits(0).out.contains("2097152 dirty bytes"));
    let here = dm!("hash", path).exits(0).out;

    dm!("set", path, "8M", "1M").exits(0);
    assert!(map.all(8 * MIB..9 * MIB).expect("look"));
    dm!("reset", path, "1M", "1M").exits(0);
    assert!(!map.any(MIB..2 * MIB).expect("look"));
    let line = ["write", image.to_str().expect("text"), "--map", path.to_str().expect("text"), "--at", "0"];
    run_with(line, b"x").exits(0);
    assert_eq!(map.run(0..LEN).expect("look"), Some((true, GRANULE)));
    let other = dir.map("other", LEN, &[16 * MIB..17 * MIB]);
    dm!("merge", path, other).exits(0);
    assert!(map.all(16 * MIB..17 * MIB).expect("look"));
    let diff = dm!("diff", path, other).exits(1).out;
    assert!(diff.contains("+ 0 B in 0 areas"), "{diff}");
    assert_ne!(dm!("hash", path).exits(0).out, here);

    for line in [&["resize"][..], &["repair"]] {
        let size: &[&str] = if line[0] == "resize" { &["65M"] } else { &[] };
        run_with([line, &[path.to_str().expect("text")], size].concat(), b"").exits(8).says("open");
    }
    // None of them left the map in another state than that of the one who has it still.
    map.set(20 * MIB..21 * MIB).expect("set");
    map.close().expect("close");
    dm!("check", path).exits(0);
    assert_eq!(areas(&path).last(), Some(&(20 * MIB..21 * MIB)));
}

#[test]
fn wait_waits_until_the_other_process_has_ended() {
    let dir = Dir::new();
    let path = dir.map("m", LEN, &[]);
    let map = DirtyMap::open(&path).expect("open");
    let mut child = common::dirtymap().args(["count", "--wait", "600"]).arg(&path).spawn().expect("run");
    // However long this takes, the other one is still there.
    assert!(child.try_wait().expect("look").is_none());
    map.set(0..1).expect("set");
    map.close().expect("close");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

#[test]
fn a_process_map_after_a_copy_is_all_dirty_and_says_why() {
    let dir = Dir::new();
    let open = dir.path("open");
    let map = Options::new().durability(dirtymap::Durability::Process).create(&open, LEN).expect("create");
    map.set(0..1).expect("set");
    let path = dir.path("m");
    fs::copy(&open, &path).expect("copy");
    drop(map);
    dm!("count", path).exits(0).says("page cache cannot be trusted");
    assert_eq!(areas(&path), [0..LEN]);
    dm!("check", path).exits(2);
}

/// The same state is the same exit code, whatever is asked about it.
#[test]
fn what_looks_exits_alike() {
    let dir = Dir::new();
    let dirty = &[MIB..2 * MIB];
    let (closed, unclean) = (dir.map("closed", LEN, dirty), dir.unclean("unclean", LEN, dirty));
    let (page, copy, none) = (dir.map("page", LEN, dirty), dir.map("copy", LEN, dirty), dir.map("none", LEN, dirty));
    let point = dir.map("point", LEN, dirty);
    dm!("checkpoint", "freeze", point).exits(0);
    let bottom = common::header(&point).points[0].bottom_offset as usize;
    common::patch(&point, |bytes| bytes[bottom] ^= 1);
    damage_page(&page);
    damage_copy(&copy, 0);
    (0..4).for_each(|i| damage_copy(&none, i));
    let shared = dir.map("shared", LEN, dirty);
    let other = Options::new().access(Access::Shared).open(&shared).expect("open");
    let states =
        [(closed, 0), (unclean, 0), (page, 4), (copy, 4), (point, 4), (shared, 0), (none, 8), (dir.path("no"), 8)];
    for (map, code) in states {
        let exits = READERS.map(|command| (command, dm!(command, map).code));
        assert_eq!(exits, READERS.map(|command| (command, code)), "{}", map.display());
    }
    other.close().expect("close");
}

/// What a named point holds is read by those that answer by it, and they say what they know.
#[test]
fn a_damaged_point_is_told_by_whatever_answers_by_it() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[]);
    dm!("checkpoint", "freeze", map, "--name", "a").exits(0);
    dm!("checkpoint", "commit", map, "--keep").exits(0);
    dm!("set", map, "0", "1").exits(0);
    dm!("checkpoint", "freeze", map).exits(0);
    dm!("checkpoint", "commit", map).exits(0);
    let look = |code| [dm!("map", "--since", "a", map).exits(code), dm!("checkpoint", "list", map).exits(code)];
    look(0);
    let bottom = common::header(&map).points[0].bottom_offset as usize;
    common::patch(&map, |bytes| bytes[bottom] ^= 1);
    look(4).into_iter().for_each(|ran| _ = ran.says("a point of the map is damaged"));
    dm!("check", map).exits(4);
    dm!("repair", map).exits(1);
    look(0);
}

/// Whatever made it dirty: the note of the next one that opens it never says less than what was added.
#[test]
fn dirt_that_the_write_intent_adds_is_told() {
    let dir = Dir::new();
    let (open, map, image) = (dir.path("open"), dir.path("m"), dir.image("image", LEN));
    let live = Options::new().create(&open, LEN).expect("create");
    live.set(MIB..2 * MIB).expect("set");
    let frozen = live.freeze(None).expect("freeze");
    live.commit_checkpoint(frozen.uuid, false).expect("commit");
    fs::copy(&open, &map).expect("copy");
    drop(live);
    let added = dm!("info", map, "--output", "json").exits(0).json()["dirty_bytes"].as_u64().expect("a number");
    assert!(added >= MIB);
    dm!("count", map).exits(0).says(&format!("{added} of them as the last checkpoint froze them"));
    let backup = dm!("backup", image, dir.path("target"), "--map", map, "--output", "json").exits(0);
    assert_eq!(backup.json()["bytes_recovered"].as_u64(), Some(added));
}
