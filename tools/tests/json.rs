//! docs/cli.md says what every command prints: just the fields that it does print, of the types that they have.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;
#[path = "../../tests/golden/xxd.rs"]
mod xxd;

use common::documented::compare;
use common::{Dir, MIB, damage_page, run_with};

#[test]
fn every_command_prints_what_is_documented() {
    let dir = Dir::new();
    let json = |args: &[&str], code: i32| {
        run_with(args.iter().chain(&["--output", "json"]).copied(), b"some data").exits(code).json()
    };
    let image = dir.image("disk.raw", 4 * MIB);
    let (map, target, other) = (dir.path("disk.map"), dir.path("backup.raw"), dir.path("other.map"));
    let (i, m, t, o) =
        (image.to_str().unwrap(), map.to_str().unwrap(), target.to_str().unwrap(), other.to_str().unwrap());

    let created = json(&["create", m, "--image", i], 0);
    let plain = json(&["create", o, "--size", "1G"], 0);
    let info = json(&["info", m], 0);
    compare("set", &[], &[json(&["set", m, "0", "1"], 0), json(&["reset", m, "--all"], 0)]);
    let target_as_image = &["target", "checkpoint"];
    compare("write", &[], &[json(&["write", i, "--map", m, "--at", "1M"], 0)]);
    compare("map", &[], &[json(&["map", m], 0)]);
    compare("map --totals", &[], &[json(&["map", m, "--totals"], 0)]);
    compare("count", &[], &[json(&["count", m], 0)]);
    compare("hash", &[], &[json(&["hash", m], 0)]);
    let (same_size, bits) = (dir.map("same-size.map", 4 * MIB, &[MIB..2 * MIB]), dir.path("bits"));
    let s = same_size.to_str().unwrap();
    compare("diff", &[], &[json(&["diff", m, s], 1)]);
    let svg = dir.path("svg");
    compare(
        "show",
        &[],
        &[json(&["show", m, "--svg", svg.to_str().unwrap()], 0), json(&["show", m, s, "--width", "100"], 1)],
    );
    compare("export", &[], &[json(&["export", m, bits.to_str().unwrap()], 0)]);
    compare("import", &[], &[json(&["import", m, bits.to_str().unwrap()], 0)]);
    let (text, restored) = (dir.path("text"), dir.path("restored.map"));
    std::fs::write(&text, dm!("dump", m).exits(0).out).expect("write");
    compare("undump", &[], &[json(&["undump", text.to_str().unwrap(), restored.to_str().unwrap()], 0)]);
    compare("merge", &[], &[json(&["merge", m, s], 0)]);
    let folder = dir.path("backups");
    let f = folder.to_str().unwrap();
    let set_map = dir.path("set.map");
    let sm = set_map.to_str().unwrap();
    json(&["create", sm, "--image", i], 0);
    let to_set = json(&["backup", i, "--set", f, "--map", sm, "--name", "first"], 0);
    let hooks = ["--pre-hook", "true", "--post-hook", "true"];
    let hooked = json(&[&["backup", i, "--set", f, "--map", sm][..], &hooks].concat(), 0);
    compare("backup", &[], &[json(&["backup", i, t, "--map", m], 0), to_set, hooked]);
    compare("set list", &[], &[json(&["set", "list", f], 0)]);
    compare("set info", &[], &[json(&["set", "info", f], 0)]);
    compare("restore", &[], &[json(&["restore", f, dir.path("restored.raw").to_str().unwrap()], 0)]);
    let first = folder.join("0001.qcow2");
    let kept = std::fs::read(&first).expect("read");
    common::patch(&first, |bytes| bytes[300_000] ^= 1);
    let damaged = json(&["set", "verify", f, "--against", i], 4);
    std::fs::write(&first, kept).expect("write");
    compare("set verify", &[], &[damaged, json(&["set", "verify", f, "--against", i], 0)]);
    compare("set prune", &[], &[json(&["set", "prune", f, "--keep", "1"], 0)]);
    let point = dir.path("point.map");
    compare("checkpoint freeze", &[], &[json(&["checkpoint", "freeze", m, "--name", "monday"], 0)]);
    let frozen = json(&["checkpoint", "status", m], 0);
    let ended = [json(&["checkpoint", "commit", m, "--keep"], 0), json(&["checkpoint", "freeze", m], 0)];
    compare("checkpoint commit, checkpoint abort", &[], &[ended[0].clone(), json(&["checkpoint", "abort", m], 0)]);
    compare("checkpoint status", &[], &[frozen, json(&["checkpoint", "status", m], 0)]);
    compare("checkpoint list", &[], &[json(&["checkpoint", "list", m], 0)]);
    let export = ["checkpoint", "export", m, point.to_str().unwrap(), "--since", "monday"];
    compare("checkpoint export", &[], &[json(&export, 0)]);
    compare("checkpoint drop", &[], &[json(&["checkpoint", "drop", m, "--name", "monday"], 0)]);
    let image_match = json(&["info", m, "--image", i], 0);
    compare("info", target_as_image, &[created, plain, info, json(&["info", m], 0), image_match]);
    let (qcow2, import) = (dir.path("o.qcow2"), dir.path("import.map"));
    let (q, n) = (qcow2.to_str().unwrap(), import.to_str().unwrap());
    compare("export-qcow2", &[], &[json(&["export-qcow2", m, q, "--bitmap", "b"], 0)]);
    compare("import-qcow2", &[], &[json(&["import-qcow2", q, "--bitmap", "b", n, "--disabled", "take"], 0)]);
    compare("completions", &[], &[json(&["completions", "bash"], 0)]);
    compare("manual", &[], &[json(&["manual", dir.path("man1").to_str().unwrap()], 0)]);
    let place = dir.path("place");
    let demo = json(&["demo", i, "--kills", "1", "--dir", place.to_str().unwrap()], 0);
    compare("demo", &["first", "rounds[].backup"], &[demo]);

    let again = json(&["resize", o, "2G"], 0);
    compare("resize", &[], &[json(&["resize", o, "2G"], 0), again, json(&["resize", m, "5M", "--image", i], 0)]);
    json(&["set", m, "0", "1"], 0);
    let clean = json(&["check", m], 0);
    damage_page(&map);
    let look = &["before.findings[]", "after.findings[]"];
    let mended = dir.unclean("unclean.map", MIB, &[0..1]);
    let (mended, undo) = (mended.to_str().unwrap(), dir.path("undo"));
    let undo = undo.to_str().unwrap();
    let kept = json(&["repair", mended, "--undo", undo], 1);
    compare("repair --undo-from", &[], &[json(&["repair", mended, "--undo-from", undo], 0)]);
    compare(
        "repair",
        look,
        &[kept, json(&["repair", mended], 1), json(&["repair", m, "--dry-run"], 1), json(&["repair", o], 0)],
    );
    let golden = |name: &str, text: &str, code| {
        let path = dir.path(name);
        std::fs::write(&path, xxd::undump(text)).expect("write");
        json(&["dump", path.to_str().unwrap()], code)
    };
    let dumps = [
        golden("points", include_str!("../../tests/golden/files/checkpoint-frozen.xxd"), 0),
        golden("foreign", include_str!("../../tests/golden/files/headers-one-foreign.xxd"), 4),
        golden("armed", include_str!("../../tests/golden/files/unclean-armed.xxd"), 0),
    ];
    compare("dump", &[], &[&dumps[..], &[json(&["dump", m], 4)]].concat());
    let live_map = dirtymap::DirtyMap::open(&other).expect("open");
    compare("check", &[], &[clean, json(&["check", m], 4), json(&["check", o], 0)]);
    drop(live_map);

    compare(
        "error",
        &[],
        &[json(&["info", "/nowhere/at/all"], 8), json(&["info"], 16), json(&["set", m, "9P", "1"], 8)],
    );
}

#[test]
fn the_target_has_the_fields_of_the_image() {
    let dir = Dir::new();
    let (image, map) = (dir.image("disk.raw", MIB), dir.path("disk.map"));
    dm!("create", map, "--image", image).exits(0);
    dm!("backup", image, dir.path("backup.raw"), "--map", map).exits(0);
    let info = dm!("info", map, "--output", "json").exits(0).json();
    let keys = |name: &str| info[name].as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys("target"), keys("image"));
    assert_eq!(info["target"]["exact"], true);
}
