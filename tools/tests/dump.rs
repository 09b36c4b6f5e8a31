//! What `dump` writes is what readers answer with, and `undump` makes an equal map of it; of anything else it makes
//! nothing.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;
#[path = "../../tests/golden/xxd.rs"]
mod xxd;

use common::{Dir, GRANULE, MIB, areas, damage_page, run_with, untouched};
use dirtymap::{DirtyMap, Durability, Options, fsck::check, info::inspect};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

const LEN: u64 = 64 * MIB + 5;

/// The areas of a text: all of them, joined where they touch, and the items of those that are not assumed.
fn told(text: &str) -> (Vec<Range<u64>>, u64) {
    let (mut all, mut known): (Vec<Range<u64>>, u64) = (Vec::new(), 0);
    let mut before = None;
    for line in text.lines() {
        let [word, numbers @ ..] = &line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        if !["dirty", "assumed"].contains(word) {
            continue;
        }
        let [start, length] = numbers else { panic!("{line}") };
        let (start, length): (u64, u64) = (start.parse().expect("a number"), length.parse().expect("a number"));
        known += if *word == "dirty" { length } else { 0 };
        match all.last_mut() {
            Some(last) if last.end == start => {
                // Areas of one kind are as long as they can be.
                assert_ne!(before, Some(word.to_string()), "{line}");
                last.end += length;
            }
            _ => all.push(start..start + length),
        }
        before = Some(word.to_string());
    }
    (all, known)
}

/// Dumps a map as text and as JSON, restores it, and compares everything.
fn goes_round(dir: &Dir, map: &Path) {
    let (text, new) = (dir.path("text"), dir.path("new"));
    let _ = (fs::remove_file(&text), fs::remove_file(&new));
    let expected = dm!("count", map).code;
    let ran = untouched(map, || dm!("dump", map).exits(expected));
    fs::write(&text, &ran.out).expect("write");
    let (all, known) = told(&ran.out);
    assert_eq!(all, areas(map), "{}", map.display());
    let report = check(map, |_, _| {}).expect("check");
    // A checkpoint that is outstanding has pages of its own.
    if !ran.out.contains(" outstanding ") {
        assert_eq!(Some(known), report.verified.map(|v| v.1), "{}", map.display());
    }

    let ran_json = untouched(map, || dm!("dump", map, "--output", "json").exits(expected));
    let (json, said_json) = (ran_json.json(), dir.path("json"));
    fs::write(&said_json, &ran_json.out).expect("write");
    let said = json["areas"].as_array().expect("a list").iter().map(|area| {
        let word = if area["assumed"] == true { "assumed" } else { "dirty" };
        format!("{word} {} {}", area["offset"], area["length"])
    });
    let lines = ran.out.lines().filter(|line| line.starts_with("dirty ") || line.starts_with("assumed "));
    assert!(said.eq(lines.map(String::from)), "{}", map.display());

    let open = |path: &Path| Options::new().read_only(true).open(path).expect("open");
    // From JSON, then from text.
    for dump in [said_json, text] {
        let _ = fs::remove_file(&new);
        dm!("undump", dump, new).exits(0);
        let (a, b) = (inspect(map).expect("inspect"), inspect(&new).expect("inspect"));
        assert_eq!((a.geometry, a.durability, &a.label), (b.geometry, b.durability, &b.label));
        assert_ne!(a.uuid, b.uuid);
        assert!(b.image.is_none() && b.target.is_none());
        // Of all that is dirty: the hash of a map leaves out what an outstanding checkpoint has frozen.
        let hash = |path| open(path).to_bitmap().expect("copy").sha256();
        assert_eq!(hash(map), hash(&new), "{}", map.display());
        dm!("check", new).exits(0);
    }
    let b = inspect(&new).expect("inspect");
    // What was assumed is just dirty now, and the dump of that is a dump of the same.
    let again = dm!("dump", new).exits(0).out;
    let head = |text: &str| text.lines().take(5).map(String::from).collect::<Vec<_>>();
    assert_eq!(head(&again), head(&ran.out));
    assert_eq!(told(&again), (all, b.dirty.expect("closed").1));
}

#[test]
fn golden_files_go_round() {
    let dir = Dir::new();
    let map = dir.path("m");
    let (mut open, mut refused) = (0, 0);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/files");
    for entry in fs::read_dir(folder).expect("the golden files") {
        let dump = fs::read_to_string(entry.expect("an entry").path()).expect("read");
        fs::write(&map, xxd::undump(&dump)).expect("write");
        if Options::new().read_only(true).open(&map).is_ok() {
            goes_round(&dir, &map);
            open += 1;
        } else {
            untouched(&map, || dm!("dump", map).exits(8));
            refused += 1;
        }
    }
    assert!(open > 25 && refused > 5, "{open}, {refused}");
}

#[test]
fn random_maps_go_round() {
    let dir = Dir::new();
    let mut seed = 7u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 16) % below
    };
    for round in 0..16 {
        let granularity = [0, 3, 9, 12, 16, 20, 40, 63][round % 8];
        let len = (random(300_000) + 1) << granularity.min(42);
        let len = len - random(len.min(1 << granularity));
        let durability = if random(3) == 0 { Durability::Process } else { Durability::PowerLoss };
        let path = dir.path("random");
        let _ = fs::remove_file(&path);
        let options = Options::new().granularity(granularity).durability(durability).flush_interval(None);
        let map = options.label(format!("\"{round}\"\t")).armed_bound(u64::MAX).create(&path, len).expect("create");
        let mut set = |n| {
            for _ in 0..n {
                let start = random(len);
                let end = start + 1 + random((len - start).min(1 << (granularity + 7).min(42)));
                map.set(start..end.min(len)).expect("set");
            }
        };
        set(50);
        map.flush().expect("flush");
        set(20);
        // As a crash leaves it, and as a close does.
        fs::copy(&path, dir.path("crashed")).expect("copy");
        map.close().expect("close");
        goes_round(&dir, &path);
        goes_round(&dir, &dir.path("crashed"));
    }
}

#[test]
fn what_nobody_knows_is_marked() {
    let dir = Dir::new();
    let open = dir.path("open");
    let map = Options::new().flush_interval(None).create(&open, LEN).expect("create");
    map.set(MIB..2 * MIB).expect("set");
    map.flush().expect("flush");
    map.set(0..1).expect("set");
    let crashed = dir.copy(&open, "crashed");
    drop(map);
    let text = untouched(&crashed, || dm!("dump", crashed).exits(0).says("not closed cleanly")).out;
    let word = 64 * GRANULE;
    let expected = format!("assumed 0 {MIB}\ndirty {MIB} {MIB}\nassumed {} {}\nend 3\n", 2 * MIB, word - 2 * MIB);
    assert!(text.contains("\nstate OPEN\n") && text.contains("\narmed 0 1\n") && text.ends_with(&expected), "{text}");

    let damaged = dir.map("damaged", LEN, &[0..1]);
    damage_page(&damaged);
    let text = dm!("dump", damaged).exits(4).says("damaged page").out;
    assert!(text.ends_with(&format!("assumed 0 {LEN}\nend 1\n")), "{text}");
}

#[test]
fn header_copies_are_told() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[]);
    common::damage_copy(&map, 2);
    let text = dm!("dump", map).exits(4).out;
    assert!(text.contains("\ncopy 2 invalid \"") && text.contains("\ncopy 3 valid "), "{text}");
    let json = dm!("dump", map, "--output", "json").exits(4).json();
    assert_eq!(json["copies"][2]["state"], "invalid");
    assert_eq!(json["copies"][2]["sequence"], serde_json::Value::Null);
}

#[test]
fn an_image_is_not_restored_and_that_is_said() {
    let dir = Dir::new();
    let (image, map) = (dir.image("disk.raw", MIB), dir.path("m"));
    dm!("create", map, "--image", image, "--label", "of an image").exits(0);
    goes_round(&dir, &map);
    let text = dm!("dump", map).exits(0).out;
    let new = dir.path("from stdin");
    let ran = run_with(["undump", "-", new.to_str().expect("text")], text.as_bytes()).exits(0);
    ran.says("belonged to an image");
    assert_eq!(areas(&new), [0..MIB]);
}

#[test]
fn a_text_that_will_not_do_makes_nothing() {
    let dir = Dir::new();
    let good = dm!("dump", dir.map("m", LEN, &[0..1])).exits(0).out;
    let (text, new) = (dir.path("text"), dir.path("new"));
    let refused = |bad: &[u8], says: &str| {
        fs::write(&text, bad).expect("write");
        let json = untouched(&new, || dm!("undump", text, new, "--output", "json").exits(8)).json();
        assert_eq!(json["error"]["kind"], "bad-dump");
        untouched(&new, || dm!("undump", text, new).exits(8).says(says).says("no map was made"));
        let ran = untouched(&new, || run_with(["undump", "-", new.to_str().expect("text")], bad));
        ran.exits(8).says("standard input: line").says(says);
        assert!(!new.exists());
    };
    refused(b"", "line 1, column 1");
    refused(b"\0\xff\n", "line 1, column 2");
    refused(good.as_bytes().strip_suffix(b"end 1\n").expect("an end"), "the end of the text");
    refused(good.replace("\ndirty 0", "\ndirty 1").as_bytes(), "multiple of 65536");
    refused(good.replace("end 1", "end 2").as_bytes(), "the areas above");
    refused(good.replace("granularity 16", "granularity 64").as_bytes(), "line 3, column 13");

    refused(br#"{"dump_version": 1, "areas": []}"#, "no len, expected it in front of the areas");
    refused(b"{\n", "line 2");

    let map = dir.map("another", LEN, &[]);
    untouched(&new, || dm!("undump", map, new).exits(8).says("no dump of a map"));
    dm!("undump", dir.path("nothing"), new).exits(8).says("No such file");
    fs::write(&text, &good).expect("write");
    untouched(&map, || dm!("undump", text, map).exits(8).says("exists"));
    untouched(&text, || dm!("undump", text, text).exits(8).says("exists"));
    assert!(!new.exists());
    dm!("undump", text, new).exits(0);
}

#[test]
fn a_sparse_map_of_2_41_granules_goes_round_in_little_space() {
    let dir = Dir::new();
    let (map, text, new) = (dir.path("m"), dir.path("text"), dir.path("new"));
    let len = 1 << 41;
    let made = Options::new().granularity(0).flush_interval(None).create(&map, len).expect("create");
    for start in [0, 1 << 20, 1 << 40, len - 3] {
        made.set(start..start + 3).expect("set");
    }
    made.close().expect("close");
    fs::write(&text, dm!("dump", map).exits(0).out).expect("write");
    dm!("undump", text, new).exits(0);
    assert_eq!(areas(&new), areas(&map));
    assert_eq!(areas(&new).len(), 4);
    dm!("diff", map, new).exits(0);
    assert!(fs::metadata(&new).expect("look").len() > 1 << 38);
}

#[test]
fn an_open_map_is_not_dumped_and_a_reader_may_go_away() {
    let dir = Dir::new();
    let path: PathBuf = dir.map("m", LEN, &[0..1]);
    let live = DirtyMap::open(&path).expect("open");
    assert!(dm!("dump", path).exits(8).says("another process has it open").out.is_empty());
    live.close().expect("close");
    let mut child =
        common::dirtymap().arg("dump").arg(&path).stdout(std::process::Stdio::piped()).spawn().expect("run");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

#[test]
fn the_fields_are_those_of_the_documents() {
    let (format, dump) = (include_str!("../../FORMAT.md"), include_str!("../../docs/cli.md"));
    let header = common::header(&Dir::new().map("m", MIB, &[]));
    for (name, _) in dirtymap_cli::dump::fields(&header) {
        assert!(format.contains(&format!("| `{name}` |")), "{name} is not in FORMAT.md");
        assert!(dump.contains(&format!("`{name}`")), "{name} is not in docs/cli.md");
    }
}
