//! Repair: nothing to do is nothing written; whatever is wrong is mended, told, and found mended; and a dry run
//! writes nothing.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, MIB, areas, damage_copy, damage_page, header, patch, untouched};
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
    assert_eq!(modified(), before);
}

#[test]
fn a_file_that_was_cut_short_or_grown_gets_its_length_back() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[MIB..2 * MIB]);
    let whole = fs::read(&map).expect("read");
    for length in [whole.len() + 70_000, whole.len() - 1, 0x6_0000] {
        let file = fs::File::options().write(true).open(&map).expect("open");
        file.set_len(length as u64).expect("another length");
        let done = repairs(&map);
        assert_eq!(
            (done["length_before"].as_u64(), done["length_after"].as_u64()),
            (Some(length as u64), Some(whole.len() as u64))
        );
        assert_eq!(done["before"]["findings"][0]["severity"], "note");
        assert_eq!(fs::read(&map).expect("read"), whole);
    }
    // Without its page table it cannot even be opened.
    for length in [0x4_0000, 0x8000, 5000] {
        let file = fs::File::options().write(true).open(&map).expect("open");
        file.set_len(length).expect("another length");
        dm!("check", map).exits(4);
        dm!("info", map).exits(8);
        let done = repairs(&map);
        assert_eq!(done["added_bytes"], LEN);
        assert_eq!(areas(&map), [0..LEN]);
    }
}

#[test]
fn what_was_kept_is_put_back_and_nothing_else_is() {
    let dir = Dir::new();
    let (map, undo) = (dir.map("m", LEN, &[MIB..2 * MIB]), dir.path("undo"));
    damage_page(&map);
    damage_copy(&map, 2);
    let before = fs::read(&map).expect("read");
    let plan = dm!("repair", map, "--dry-run", "--undo", undo, "--output", "json").exits(1).json();
    assert!(!undo.exists());
    let done = dm!("repair", map, "--undo", undo, "--output", "json").exits(1).json();
    assert_eq!((done["undo"].as_str(), &plan["changes"]), (undo.to_str(), &done["changes"]));
    // Every byte that has changed is among them.
    let after = fs::read(&map).expect("read");
    let named = |i: u64| {
        let of = |c: &serde_json::Value, name: &str| c[name].as_u64().expect("a number");
        let list = done["changes"].as_array().expect("a list");
        list.iter().any(|c| (of(c, "offset")..of(c, "offset") + of(c, "length")).contains(&i))
    };
    assert!((0..before.len()).all(|i| before[i] == after[i] || named(i as u64)));
    // An undo file is never replaced.
    damage_page(&map);
    untouched(&undo, || untouched(&map, || dm!("repair", map, "--undo", undo).exits(8).says("exists")));
    fs::write(&map, &after).expect("write");

    // Of another map, not whole, not one, of a map in use: nothing happens.
    let other = dir.map("other", LEN, &[]);
    untouched(&other, || dm!("repair", other, "--undo-from", undo).exits(8).says("undo file"));
    let bad = dir.copy(&undo, "bad");
    let whole = fs::read(&undo).expect("read");
    for i in (0..160).chain((160..whole.len()).step_by(997)) {
        let mut bytes = whole.clone();
        bytes[i] ^= 1;
        fs::write(&bad, &bytes).expect("write");
        untouched(&map, || dm!("repair", map, "--undo-from", bad).exits(8).says("give the file"));
        if i % 8 == 0 {
            fs::write(&bad, &whole[..i]).expect("write");
            untouched(&map, || dm!("repair", map, "--undo-from", bad).exits(8));
        }
    }
    let live = DirtyMap::options().read_only(true).open(&map).expect("open");
    drop(live);

    dm!("repair", map, "--undo-from", undo).exits(0);
    assert!(fs::read(&map).expect("read") == before, "not the very bytes");
    dm!("repair", map, "--undo-from", undo).exits(0);
    dm!("check", map).exits(4);
    dm!("repair", map).exits(1);
    // What was set since would be lost.
    dm!("set", map, "40M", "1").exits(0);
    untouched(&map, || dm!("repair", map, "--undo-from", undo).exits(8).says("written since"));
    let live = DirtyMap::open(&map).expect("open");
    dm!("repair", map, "--undo-from", undo).exits(8).says("in use");
    drop(live);
}

/// Text without the line ends that keep it as narrow as a terminal, which it is.
fn unfolded(text: &str) -> String {
    let wide = text.lines().find(|line| line.chars().count() > 80 && !line.contains("/tmp/"));
    assert_eq!(wide, None);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn people_are_told_what_programs_are() {
    let dir = Dir::new();
    let map = dir.unclean("m", LEN, &[MIB..2 * MIB]);
    damage_page(&map);
    damage_copy(&map, 0);
    for line in [&["check"][..], &["check", "--assume-power-loss"], &["repair", "--dry-run"]] {
        let run = |more: &[&str]| common::run(line.iter().chain(more).map(AsRef::as_ref).chain([map.as_os_str()]));
        let (human, json) = (unfolded(&run(&[]).out), run(&["--output", "json"]).json());
        let findings = if line[0] == "check" { &json["findings"] } else { &json["before"]["findings"] };
        for finding in findings.as_array().expect("a list") {
            for field in ["severity", "place", "found", "expected", "consequence", "repair"] {
                let said = finding[field].as_str().expect("text");
                assert!(human.contains(said), "{field} {said:?} is not in\n{human}");
            }
        }
        for field in ["summary", "advice", "state", "verdict"] {
            let said = json[field].as_str().unwrap_or_default();
            assert!(human.contains(said), "{field} {said:?} is not in\n{human}");
        }
        for field in ["actions", "unchecked"] {
            let list = json[field].as_array().cloned().unwrap_or_default();
            assert!(list.iter().all(|said| human.contains(said.as_str().expect("text"))), "{human}");
        }
    }
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
    for said in ["damage: page 0", "did: write 1 failed page anew", "needlessly", "no errors"] {
        assert!(human.contains(said), "{said}: {human}");
    }
}

#[test]
fn what_was_frozen_and_is_damaged_counts_as_dirty_needlessly() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[MIB..2 * MIB]);
    dm!("checkpoint", "freeze", map).exits(0);
    let at = header(&map).points[0].bottom_offset as usize;
    patch(&map, |bytes| bytes[at] ^= 0x10);
    assert_eq!(areas(&map), [0..LEN]);
    let done = repairs(&map);
    assert_eq!((&done["added_bytes"], &done["after"]["dirty_bytes"]), (&LEN.into(), &LEN.into()));
}

#[test]
fn damaged_header_copies_are_renewed_and_dirt_is_added_only_where_a_newer_one_is_lost() {
    let dir = Dir::new();
    for copies in [&[0][..], &[3], &[1, 2], &[0, 1, 2], &[1, 2, 3]] {
        let map = dir.map("m", LEN, &[MIB..2 * MIB]);
        copies.iter().for_each(|&copy| damage_copy(&map, copy));
        let done = repairs(&map);
        // Where the whole newest pair is lost, the one before it says OPEN, and no crash in this boot explains that.
        let clean = done["before"]["state"] == "clean";
        assert_eq!(done["added_bytes"], if clean { 0 } else { LEN - MIB });
        assert_eq!(done["after"]["verdict"], if clean { "exact" } else { "superset" });
        assert_eq!(areas(&map), [if clean { MIB..2 * MIB } else { 0..LEN }]);
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
        let cut_off = found.json()["findings"][0]["place"] == "page table";
        let expected = match (opens || cut_off, found.code) {
            // Files without their last zeros are a little short, which alone needs a map that can be written.
            (true, 0) => i32::from(found.json()["findings"][0]["severity"] == "note"),
            (false, 0) => 0,
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

#[test]
fn a_check_says_that_everything_is_dirty_where_a_newer_header_may_be_lost() {
    let dir = Dir::new();
    let (open, map) = (dir.path("open"), dir.path("m"));
    let live = Options::new().create(&open, LEN).expect("create");
    live.set(0..GRANULE).expect("set");
    fs::copy(&open, &map).expect("copy");
    drop(live);
    // Both copies of a pair, in the boot in which the map was opened.
    [0, 2].iter().for_each(|&copy| damage_copy(&map, copy));
    let found = dm!("check", map).exits(4);
    assert!(found.out.contains("damage: everything counts as dirty") && found.out.contains("--full"), "{}", found.out);
}

/// Only who opens the map can ask the page cache, which is no change that could be put back.
#[test]
fn a_page_cache_that_knows_what_is_dirty_is_asked() {
    let dir = Dir::new();
    let map = dir.path("m");
    let live = Options::new().durability(dirtymap::Durability::Process).create(&map, LEN).expect("create");
    live.set(0..GRANULE).expect("set");
    drop(live);
    let ran = untouched(&map, || dm!("repair", map, "--undo", dir.path("undo"), "--dry-run").exits(1));
    assert!(ran.out.contains("page cache"), "{ran:?}");
    let refused = dm!("repair", map, "--undo", dir.path("undo"));
    if refused.code != 8 {
        return common::skipped("this system does not say enough of a file to trust its page cache");
    }
    refused.says("page cache");
    assert!(!dir.path("undo").exists());
    let done = dm!("repair", map, "--output", "json").exits(1).json();
    assert_eq!((done["added_bytes"].as_u64(), done["after"]["verdict"].as_str()), (Some(0), Some("exact")));
    assert_eq!(areas(&map), [0..GRANULE]);
    dm!("repair", map).exits(0);
}
