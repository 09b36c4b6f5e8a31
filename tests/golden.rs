//! Files of every state, each with its documented answer: tests/golden/answers.txt says what is dirty, how the file
//! was left, what a check finds, and what opening for writing makes of it. README.md beside it tells more.

use dirtymap::format::{COPY_BYTES, fields};
use dirtymap::{
    DirtyMap, Error, ImageStamp, Options,
    error::Corruption,
    fsck::{Severity, check, plan_repair, repair},
    info::{FileState, Info, Verdict, inspect},
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "golden/make.rs"]
mod make;
#[path = "golden/script.rs"]
mod script;
#[path = "golden/xxd.rs"]
mod xxd;

const GRANULE: u64 = 4096;

/// What answers.txt says of a file.
#[derive(Debug, Default)]
struct Answer {
    /// State, verdict and reasons; empty when the file is refused.
    how: String,
    /// Dirty granules.
    dirty: String,
    count: String,
    sha256: String,
    findings: Vec<String>,
    /// Verdict and reasons after opening for writing and closing, or `error KIND`.
    opened: String,
    /// Kind of the error that everything gives.
    error: Option<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn answers() -> BTreeMap<String, Answer> {
    let text = fs::read_to_string(folder().join("answers.txt")).unwrap();
    let mut answers: BTreeMap<String, Answer> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(said) = line.strip_prefix("    ") else {
            name = line.to_string();
            assert!(answers.insert(name.clone(), Answer::default()).is_none(), "{name} is there twice");
            continue;
        };
        let answer = answers.get_mut(&name).unwrap();
        let (key, value) = said.split_once(' ').unwrap();
        match key {
            "how" => answer.how = value.into(),
            "dirty" => answer.dirty = value.into(),
            "count" => answer.count = value.into(),
            "sha256" => answer.sha256 = value.into(),
            "finding" => answer.findings.push(value.into()),
            "opened" => answer.opened = value.into(),
            "error" => answer.error = Some(value.into()),
            other => panic!("{name}: {other:?} is no key"),
        }
    }
    answers
}

fn stored(name: &str) -> Vec<u8> {
    let path = folder().join(format!("files/{name}.xxd"));
    xxd::undump(&fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

fn verdict(info: &Info) -> String {
    let verdict = match info.verdict {
        Verdict::Exact => "exact",
        Verdict::Superset => "superset",
        Verdict::Damaged => "damaged",
    };
    format!("{verdict} {}", info.reasons.join(", ")).trim_end().to_string()
}

fn how(info: &Info) -> String {
    let state = match info.state {
        FileState::Clean => "clean",
        FileState::Open => "open",
        FileState::Unclean => "unclean",
    };
    format!("{state} {}", verdict(info))
}

fn dirty(map: &DirtyMap) -> String {
    let area = |area: std::ops::Range<u64>| {
        let (first, last) = (area.start / GRANULE, (area.end - 1) / GRANULE);
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let areas: Vec<String> = map.extents(0..map.len()).unwrap().map(area).collect();
    if areas.is_empty() { "none".into() } else { areas.join(" ") }
}

fn count(count: u64, items: u64) -> String {
    format!("{count} granules {items} items")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn same_bits(name: &str, map: &DirtyMap, answer: &Answer) {
    assert_eq!(dirty(map), answer.dirty, "{name}");
    assert_eq!(count(map.count(), map.dirty_len()), answer.count, "{name}");
    // Of all that is dirty; the hash of the map itself is of what is here, without an outstanding point.
    assert_eq!(hex(&map.to_bitmap().unwrap().sha256()), answer.sha256, "{name}");
    // The same again, one by one.
    let granules: Vec<u64> = map.granules(0..map.len()).unwrap().collect();
    assert_eq!(granules.len() as u64, map.count(), "{name}");
    assert!(granules.iter().all(|&item| map.get(item).unwrap()), "{name}");
}

fn read_only(path: &Path) -> dirtymap::Result<DirtyMap> {
    Options::new().read_only(true).open(path)
}

fn quiet() -> Options {
    Options::new().flush_interval(None)
}

#[track_caller]
fn fails<T>(result: dirtymap::Result<T>, kind: &str, name: &str) {
    let Err(error) = result else { panic!("{name} is accepted") };
    assert_eq!(error.kind(), kind, "{name}: {error}");
    assert!(error.to_string().contains(name), "{error} does not name the file");
}

/// Everything that only reads, on a file that is `trimmed` or as long as its header says.
fn reading(name: &str, path: &Path, answer: &Answer, trimmed: bool) {
    if let Some(kind) = &answer.error {
        fails(inspect(path), kind, name);
        fails(check(path, |_, _| {}), kind, name);
        fails(read_only(path), kind, name);
        fails(quiet().open(path), kind, name);
        return;
    }
    let info = inspect(path).unwrap();
    assert_eq!(how(&info), answer.how, "{name}");
    let (bits, items) = info.dirty.unwrap();
    assert_eq!(count(bits, items), answer.count, "{name}");

    let mut last = (0, 0);
    let report = check(path, |done, all| last = (done, all)).unwrap();
    assert_eq!(last.0, last.1, "{name}: progress does not reach the end");
    assert_eq!(how(&report.info), answer.how, "{name}");
    assert_eq!(report.info.dirty, info.dirty, "{name}");
    let mut expected = answer.findings.clone();
    if trimmed {
        expected.push("note file length".into());
    }
    let mut found: Vec<String> = Vec::new();
    for finding in &report.findings {
        let severity = match finding.severity {
            Severity::Note => "note",
            Severity::Unclean => "unclean",
            Severity::Damage => "damage",
        };
        let place = finding.place.split(" (").next().unwrap();
        // Neighbouring pages that fail alike are one finding.
        let (before, pages) = place.split_once("pages ").unwrap_or((place, ""));
        match pages.split_once(" to ") {
            Some((first, last)) => {
                let pages = first.parse::<u64>().unwrap()..=last.parse().unwrap();
                assert_eq!(pages.clone().count() as u64, finding.count, "{name}");
                found.extend(pages.map(|page| format!("{severity} {before}page {page}")));
            }
            None => found.push(format!("{severity} {place}")),
        }
    }
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "{name}");
    let damaged = expected.iter().any(|finding| finding.starts_with("damage"));
    assert_eq!(info.verdict == Verdict::Damaged, damaged, "{name}");

    let map = read_only(path).unwrap();
    same_bits(name, &map, answer);
    assert_eq!(how(&map.info().unwrap()), answer.how, "{name}");
    assert_eq!(map.set(0..0).unwrap_err().kind(), "read-only", "{name}");
}

/// Opens for writing, and again.
fn writing(name: &str, path: &Path, answer: &Answer) {
    let before = fs::read(path).unwrap();
    if let Some(kind) = answer.opened.strip_prefix("error ") {
        fails(quiet().open(path), kind, name);
        assert!(fs::read(path).unwrap() == before, "{name}: changed by an open that failed");
        return;
    }
    let map = quiet().open(path).unwrap();
    same_bits(name, &map, answer);
    assert_eq!(verdict(&map.info().unwrap()), answer.opened, "{name}");
    // Recovery is durable at once: whoever comes after a crash finds the same bits.
    // (That it was open makes an intent count, which said nothing in a map that was closed.)
    if name == "intent-clean" {
        map.close().unwrap();
    } else {
        drop(map);
        let info = inspect(path).unwrap();
        assert_eq!(info.state, FileState::Unclean, "{name}");
    }
    let map = quiet().open(path).unwrap();
    if !answer.how.contains("page cache") {
        same_bits(name, &map, answer);
    }
    map.close().unwrap();

    let report = check(path, |_, _| {}).unwrap();
    // Nobody mends a point: it stays as it is until its checkpoint is over.
    let damaged = answer.opened.starts_with("damaged");
    assert_eq!(report.findings.is_empty(), !damaged, "{name}: {:?}", report.findings);
    assert_eq!(report.info.state, FileState::Clean, "{name}");
    same_bits(name, &read_only(path).unwrap(), answer);
}

#[test]
fn every_file_gives_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let answers = answers();
    let files = make::files();
    assert!(
        answers.keys().map(String::as_str).eq(files.iter().map(|f| f.0).collect::<std::collections::BTreeSet<_>>())
    );
    for (name, answer) in &answers {
        let bytes = stored(name);
        for trimmed in [true, false] {
            let mut bytes = bytes.clone();
            if !trimmed && name != "cut-off" {
                let end = match name.split('-').next() {
                    Some("checkpoint" | "intent") => 0xe_0000,
                    _ if name == "clean-backups" => 0xe_0000,
                    _ if name == "unclean-long-list" => 0x18_0000,
                    Some("resized") => 0x14_0000,
                    _ => 0xc_0000,
                };
                bytes.resize(end, 0);
            }
            let path = dir.path().join(name);
            fs::write(&path, &bytes).unwrap();
            reading(name, &path, answer, trimmed);
            assert!(fs::read(&path).unwrap() == bytes, "{name}: changed by reading it");
            if answer.error.is_none() {
                writing(name, &path, answer);
            }
        }
    }
}

/// Closing without a crash in between, what opening found stays on record.
#[test]
fn what_opening_found_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    for (name, answer) in answers() {
        if answer.error.is_some() || answer.opened.starts_with("error") {
            continue;
        }
        let path = dir.path().join(&name);
        fs::write(&path, stored(&name)).unwrap();
        quiet().open(&path).unwrap().close().unwrap();
        assert_eq!(how(&inspect(&path).unwrap()), format!("clean {}", answer.opened), "{name}");
        // Until everything was reset; what is frozen is not, before it is back.
        let map = quiet().open(&path).unwrap();
        if let Some(outstanding) = map.checkpoint().unwrap() {
            map.abort_checkpoint(outstanding.uuid).unwrap();
        }
        map.reset_all().unwrap();
        map.close().unwrap();
        let info = inspect(&path).unwrap();
        assert_eq!((how(&info), info.dirty), ("clean exact".into(), Some((0, 0))), "{name}");
    }
}

#[test]
fn what_of_a_file_cannot_be_used_is_told_by_a_cause() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    for (name, cause) in [
        ("headers-all-bad", Corruption::Headers),
        ("headers-impossible", Corruption::Headers),
        ("headers-of-two-maps", Corruption::TwoMaps),
        ("cut-off", Corruption::CutOff),
    ] {
        fs::write(&path, stored(name)).unwrap();
        let error = inspect(&path).unwrap_err();
        assert!(matches!(error, Error::Corrupt { what, .. } if what == cause), "{name}: {error:?}");
    }
}

#[test]
fn the_files_are_what_the_maker_makes() {
    for (name, bytes) in make::files() {
        let kept = stored(name);
        assert!(kept == bytes, "{name}.xxd is not what make.rs makes");
    }
    let kept = fs::read_dir(folder().join("files")).unwrap().count();
    assert_eq!(kept, make::files().len(), "a file that nobody makes");
}

/// `cargo test --test golden -- --ignored make_the_files`
#[test]
#[ignore = "writes the files anew"]
fn make_the_files() {
    for (name, bytes) in make::files() {
        fs::write(folder().join(format!("files/{name}.xxd")), xxd::dump(&bytes)).unwrap();
    }
}

/// Answers written from FORMAT.md, and a reader written from FORMAT.md.
#[test]
fn the_independent_reader_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let answers = answers();
    let files: Vec<PathBuf> = answers.keys().map(|name| dir.path().join(name)).collect();
    for (name, path) in answers.keys().zip(&files) {
        fs::write(path, stored(name)).unwrap();
    }
    let Some(said) = script::ask(&files, &["--hash"]) else { return };
    for ((name, answer), said) in answers.iter().zip(said) {
        if let Some(kind) = &answer.error {
            assert_eq!(script::value(&said, "error"), format!("\"{kind}\""), "{name}: {said}");
            continue;
        }
        let granule = |number: &str| number.parse::<u64>().unwrap() * GRANULE;
        let len: u64 = script::value(&said, "len").parse().unwrap();
        let areas = answer.dirty.split(' ').filter(|area| *area != "none").map(|area| {
            let (first, last) = area.split_once('-').unwrap_or((area, area));
            granule(first)..(granule(last) + GRANULE).min(len)
        });
        assert_eq!(script::value(&said, "areas"), script::areas(areas), "{name}");
        assert_eq!(script::value(&said, "sha256"), format!("\"{}\"", answer.sha256), "{name}");
    }
}

#[test]
fn a_map_of_another_image_is_all_dirty_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("clean-image"), dir.path().join("image"));
    let bytes = stored("clean-image");
    fs::write(&path, &bytes).unwrap();
    fs::write(&image, b"not it").unwrap();
    let now = ImageStamp::of_path(&image).unwrap();
    let map = Options::new().read_only(true).image(now).open(&path).unwrap();
    assert!(map.is_full());
    let why = map.recovery().image_changed.clone().unwrap();
    for part in ["size was 41943040, is 6", "inode was 17", "modification time was 2023-11-14T22:14:10.123456789Z"] {
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(how(&map.info().unwrap()), "clean superset image changed untracked");
    assert!(fs::read(&path).unwrap() == bytes);
    // Without an image to compare with, nothing is said.
    assert_eq!(how(&inspect(&path).unwrap()), "clean exact");

    let map = quiet().image(now).open(&path).unwrap();
    assert!(map.is_full());
    map.close_with_image(&now).unwrap();
    assert_eq!(how(&inspect(&path).unwrap()), "clean superset image changed untracked");
    // From here on it belongs to the new one.
    let map = Options::new().read_only(true).image(now).open(&path).unwrap();
    assert_eq!(map.recovery().image_changed, None);
}

#[test]
fn what_a_newer_version_left_in_compatible_fields_survives_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("newer-compatible");
    fs::write(&path, stored("newer-compatible")).unwrap();
    let map = quiet().open(&path).unwrap();
    map.set(0..1).unwrap();
    map.close().unwrap();
    let after = fs::read(&path).unwrap();
    for copy in 0..4 {
        let copy = &after[copy * COPY_BYTES..][..4096];
        assert_eq!((copy[16], copy[fields::header::RESERVED_1.offset + 7]), (2, 0x99));
    }
}

#[test]
fn no_repair_is_promised_of_what_may_not_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let mut bytes = stored("newer-ro-compatible");
    bytes[0x5_0000] ^= 1;
    bytes.truncate(0x8_0000);
    fs::write(&path, &bytes).unwrap();
    let report = check(&path, |_, _| {}).unwrap();
    assert!(report.not_writable.is_some() && report.severity() == Some(Severity::Damage));
    for finding in &report.findings {
        assert!(finding.repair.starts_with("nothing, by this version"), "{finding:?}");
    }
    assert_eq!(plan_repair(&path, |_, _| {}).unwrap_err().kind(), "unsupported");
    assert_eq!(repair(&path, None, std::time::Duration::ZERO, |_, _| {}).unwrap_err().kind(), "unsupported");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
