//! Repair: nothing to do is nothing written; whatever is wrong is mended, told, and found mended; and a dry run
//! writes nothing.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, MIB, areas, damage_copy, damage_page, untouched};
use dirtymap::{DirtyMap, Options};
use std::fs;
use std::path::Path;

#[path = "../../tests/golden/xxd.rs"]
mod xxd;

const LEN: u64 = 64 * MIB;

#[test]
fn a_map_that_needs_nothing_is_not_written() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[MIB..2 * MIB]);
    let modified = || fs::metadata(&map).and_then(|m| m.modified()).expect("modification time");
    let before = modified();
    for line in [&["repair"][..], &["repair", "--dry-run"]] {
        let ran = untouched(&map, || common::run(line.iter().map(AsRef::as_ref).chain([map.as_os_str()])).exits(0));
        assert!(ran.out.contains("nothing to mend") && ran.err.is_empty(), "{ran:?}");
    }
    // What was added before stays: that is no damage.
    let unclean = dir.unclean("u", LEN, &[MIB..2 * MIB]);
    dm!("set", unclean, "0", "1").exits(0);
    untouched(&unclean, || dm!("repair", unclean).exits(0));
    // Nor are bytes behind the end.
    let file = fs::File::options().append(true).open(&map).expect("open");
    file.set_len(file.metadata().expect("look").len() + 1).expect("grow");
    file.set_modified(before).expect("set the modification time");
    let note = untouched(&map, || dm!("repair", map, "--output", "json").exits(0).json());
    assert_eq!(note["before"]["findings"][0]["severity"], "note");
    assert_eq!(note["corrected"], false);
    assert_eq!(modified(), before);
}

/// Repairs, and asserts that the dry run told the same before. Gives the answer.
#[track_caller]
fn repairs(map: &Path) -> serde_json::Value {
    let plan = untouched(map, || dm!("repair", map, "--dry-run", "--output", "json").exits(1).json());
    assert_eq!((plan["corrected"].as_bool(), plan["after"].is_null()), (Some(false), true));
    assert!(untouched(map, || dm!("repair", map, "--dry-run").exits(1).out).contains("would: "));
    let done = dm!("repair", map, "--output", "json").exits(1).json();
    assert_eq!(done["corrected"], true);
    for field in ["actions", "before", "added_bytes"] {
        assert_eq!(plan[field], done[field], "{field}");
    }
    assert_eq!(done["after"]["state"], "clean");
    assert_eq!(done["after"]["findings"], serde_json::json!([]));
    dm!("check", map).exits(0);
    untouched(map, || dm!("repair", map).exits(0));
    done
}

#[test]
fn what_was_armed_becomes_dirty_and_is_counted() {
    let dir = Dir::new();
    let map = dir.unclean("m", LEN, &[MIB..2 * MIB]);
    let done = repairs(&map);
    assert_eq!(done["added_bytes"], 64 * GRANULE);
    assert_eq!(done["after"]["verdict"], "superset");
    assert_eq!(areas(&map), [0..64 * GRANULE]);
}

#[test]
fn a_damaged_page_becomes_all_dirty() {
    let dir = Dir::new();
    // Two pages, of which the second one stays.
    let len = 2 * 4096 * GRANULE;
    let map = dir.map("m", len, &[MIB..2 * MIB, len - 1..len]);
    damage_page(&map);
    let done = repairs(&map);
    assert_eq!(done["added_bytes"], 4096 * GRANULE);
    assert_eq!(done["before"]["severity"], "damage");
    assert_eq!(areas(&map), [0..4096 * GRANULE, len - GRANULE..len]);
    damage_page(&map);
    let human = dm!("repair", map).exits(1).out;
    for said in ["damage: page 0", "did: write 1 page", "needlessly", "nothing is wrong"] {
        assert!(human.contains(said), "{said}: {human}");
    }
}

#[test]
fn damaged_header_copies_are_renewed_and_no_dirt_is_added() {
    let dir = Dir::new();
    for copies in [&[0][..], &[3], &[1, 2], &[0, 1, 2], &[1, 2, 3]] {
        let map = dir.map("m", LEN, &[MIB..2 * MIB]);
        copies.iter().for_each(|&copy| damage_copy(&map, copy));
        let done = repairs(&map);
        assert_eq!(done["added_bytes"], 0);
        // Where the whole newest pair is lost, the one before it says OPEN.
        let clean = done["before"]["state"] == "clean";
        assert_eq!(done["after"]["verdict"], if clean { "exact" } else { "superset" });
        assert_eq!(areas(&map), [MIB..2 * MIB]);
        fs::remove_file(&map).expect("remove");
    }
}

#[test]
fn every_golden_file_that_opens_is_mended() {
    let dir = Dir::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/files");
    let mut mended = 0;
    for entry in fs::read_dir(folder).expect("the golden files") {
        let from = entry.expect("an entry").path();
        let map = dir.path("m");
        fs::write(&map, xxd::undump(&fs::read_to_string(&from).expect("read"))).expect("write");
        let found = dm!("check", map, "--output", "json");
        let opens = DirtyMap::open(dir.copy(&map, "opened")).is_ok();
        let expected = match (opens, found.code) {
            (_, 0) => 0,
            (true, 2 | 4) => 1,
            _ => 8,
        };
        let name = from.display();
        let plan = untouched(&map, || dm!("repair", map, "--dry-run"));
        assert_eq!(plan.code, expected, "{name}: {plan:?}");
        if expected == 1 {
            repairs(&map);
            mended += 1;
            continue;
        }
        let ran = untouched(&map, || dm!("repair", map));
        assert_eq!(ran.code, expected, "{name}: {ran:?}");
        if found.code == 4 && found.json()["state"].is_null() {
            ran.says("full backup");
        }
    }
    assert!(mended > 10, "{mended} golden files needed something");
}

#[test]
fn a_live_map_is_refused_and_can_be_waited_for() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[]);
    let live = DirtyMap::open(&map).expect("open");
    live.set(0..1).expect("set");
    dm!("repair", map).exits(8).says("in use").says("--wait");
    dm!("repair", map, "--dry-run").exits(8).says("in use");
    let mut child = common::dirtymap().args(["repair", "--wait", "600"]).arg(&map).spawn().expect("run");
    assert!(child.try_wait().expect("look").is_none());
    live.close().expect("close");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

#[test]
fn a_map_without_a_header_cannot_be_mended_and_the_way_out_is_told() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[]);
    (0..4).for_each(|copy| damage_copy(&map, copy));
    for line in [&["repair"][..], &["repair", "--dry-run"]] {
        let ran = untouched(&map, || common::run(line.iter().map(AsRef::as_ref).chain([map.as_os_str()])).exits(8));
        ran.says("no header copy is valid").says("dirtymap create").says("full backup");
    }
    assert_eq!(dm!("repair", map, "--output", "json").exits(8).json()["error"]["kind"], "corrupt");
}

#[test]
fn a_process_map_counts_all_that_nobody_knows() {
    let dir = Dir::new();
    let (open, map) = (dir.path("open"), dir.path("m"));
    let live = Options::new().durability(dirtymap::Durability::Process).create(&open, LEN).expect("create");
    live.set(0..GRANULE).expect("set");
    live.flush().expect("flush");
    fs::copy(&open, &map).expect("copy");
    drop(live);
    assert_eq!(repairs(&map)["added_bytes"], LEN - GRANULE);
}
