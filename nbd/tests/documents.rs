//! docs/nbd.md is true of the crate: its tests exist, and it names every option, command and flag that the codec has.

use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let start = format!("\n## {title}\n");
    let rest = text.split_once(&start).unwrap_or_else(|| panic!("no section {title}")).1;
    rest.split("\n## ").next().expect("some")
}

fn rows(section: &str) -> Vec<Vec<&str>> {
    let lines = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).skip(1);
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The names of the constants of a module of the codec's values.
fn constants(module: &str) -> Vec<String> {
    let text = read("src/codec/values.rs");
    let start = format!("\npub mod {module} {{\n");
    let inside = text.split_once(&start).unwrap_or_else(|| panic!("no module {module}")).1;
    let inside = inside.split_once("\n}\n").expect("an end").0;
    let names = inside.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split(':').next());
    names.map(String::from).collect()
}

#[test]
fn every_test_that_is_named_exists() {
    let text = read("../docs/nbd.md");
    let mut named = 0;
    for test in quoted(&text).filter(|name| name.contains(".rs::")) {
        let (file, name) = test.split_once("::").expect("two parts");
        assert!(read(&format!("tests/{file}")).contains(&format!("fn {name}(")), "there is no {test}");
        named += 1;
    }
    assert!(named > 60, "{named} tests");
}

#[test]
fn each_row_has_a_test_and_no_cell_is_empty() {
    let text = read("../docs/nbd.md");
    for title in ["Options", "Commands", "Flags of commands", "Transmission flags and sizes", "Hostile clients"] {
        let rows = rows(section(&text, title));
        assert!(rows.len() > 4, "{title}: {rows:?}");
        for row in rows {
            assert!(row.iter().all(|cell| !cell.is_empty()) && [3, 5].contains(&row.len()), "{row:?}");
            assert!(row[2].contains(".rs::"), "no test in {row:?}");
        }
    }
}

#[test]
fn every_option_command_and_flag_has_a_row() {
    let text = read("../docs/nbd.md");
    for (module, title) in [
        ("option", "Options"),
        ("command", "Commands"),
        ("flag", "Flags of commands"),
        ("transmission", "Transmission flags and sizes"),
    ] {
        let rows = rows(section(&text, title));
        let known: Vec<&str> = rows.iter().flat_map(|row| quoted(row[0])).collect();
        let constants = constants(module);
        for constant in constants.iter().filter(|name| *name != "HAS_FLAGS") {
            assert!(known.contains(&constant.as_str()), "{title} has no {constant}");
        }
        for name in known {
            assert!(constants.iter().any(|constant| constant == name), "the codec has no {name}");
        }
    }
}

/// What is tested against others stands in the document, and the other way round.
#[test]
fn the_limits_are_those_of_the_code() {
    let limits = dirtymap_nbd::Limits::default();
    assert_eq!((limits.threads, limits.payload, limits.memory), (16, 32 << 20, 64 << 20));
    assert_eq!(dirtymap_nbd::ServerOptions::default().connections, 64);
    assert_eq!(dirtymap_nbd::Extents::MOST, 32768);
    let text = read("../docs/nbd.md");
    for said in
        ["16 requests and 64 MiB", "64 connections", "up to 32 MiB", "32768 extents", "1 MiB for each `BLOCK_STATUS`"]
    {
        assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").contains(said), "{said}");
    }
}
