//! A program that was compiled with an earlier header goes on: `abi/dirtymap.h`, the header of the last release without its
//! comments, is compared with the one that is. For a release: `DIRTYMAP_WRITE_ABI=1 cargo test --test abi` writes it anew.

mod common;

use common::{HEADER, code, functions_of, has, prototypes, root, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Structs of which callers have some without saying how large they are.
const FIXED: [&str; 4] = ["dirtymap_range", "dirtymap_uuid", "dirtymap_cursor", "dirtymap_write"];

fn last() -> PathBuf {
    root().join("abi/dirtymap.h")
}

/// Bodies of structs or enums by their names, in pieces.
fn bodies<'a>(code: &'a str, of: &str, separator: char) -> Vec<(&'a str, Vec<String>)> {
    let found = code.split(of).skip(1).filter_map(|rest| rest.split_once(" {"));
    let named = found.filter(|(name, _)| !name.contains(|c: char| !c.is_alphanumeric() && c != '_'));
    let spaced = |piece: &str| piece.split_whitespace().collect::<Vec<_>>().join(" ");
    let pieces = |body: &str| body.split(separator).map(spaced).filter(|piece| !piece.is_empty()).collect();
    named.map(|(name, rest)| (name, pieces(rest.split('}').next().unwrap()))).collect()
}

/// Types that have names, and numbers.
fn names(code: &str) -> Vec<String> {
    let spaced = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let types = code.split(';').filter_map(|part| Some(spaced(&part[part.find("typedef ")?..])));
    let numbers = code.lines().filter(|line| line.starts_with("#define DIRTYMAP_NONE"));
    types.filter(|named| !named.contains('{')).chain(numbers.map(spaced)).collect()
}

/// What a program that was compiled with the old header finds otherwise with the new one.
fn broken(old: &str, new: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let functions = functions_of(new);
    let types = |declared: &[common::Declared]| declared.iter().map(|(of_type, _)| of_type.clone()).collect::<Vec<_>>();
    for (name, was) in functions_of(old) {
        match functions.get(&name).map(|is| types(is)) {
            None => broken.push(format!("{name} is gone")),
            Some(is) if is != types(&was) => broken.push(format!("{name}: {was:?} has become {is:?}")),
            Some(_) => {}
        }
    }
    let (old, new) = (code(old), code(new));
    let mut members = |of: &str, separator: char, may_grow: &dyn Fn(&str) -> bool| {
        let new = bodies(&new, of, separator);
        for (name, was) in bodies(&old, of, separator) {
            let is = new.iter().find(|(found, _)| *found == name).map_or(&[][..], |(_, is)| is);
            if !is.starts_with(&was) || (is.len() > was.len() && !may_grow(name)) {
                broken.push(format!("{of}{name}: {was:?} has become {is:?}"));
            }
        }
    };
    members("struct ", ';', &|name| !FIXED.contains(&name));
    members("enum ", ',', &|_| true);
    let now = names(&new);
    broken
        .extend(names(&old).into_iter().filter(|name| !now.contains(name)).map(|name| format!("not any more: {name}")));
    broken
}

/// A library of the functions of a header, with their types.
fn compiled(header: &str, dir: &Path, name: &str) -> PathBuf {
    let (header_file, source, library) =
        (format!("{name}.h"), dir.join(format!("{name}.c")), dir.join(format!("{name}.so")));
    std::fs::write(dir.join(&header_file), header).unwrap();
    let functions = prototypes(header).into_iter().map(|function| function + " { __builtin_trap(); }\n");
    std::fs::write(&source, format!("#include \"{header_file}\"\n") + &functions.collect::<String>()).unwrap();
    run(Command::new("cc")
        .args(["-g", "-shared", "-fPIC", "-Wl,-soname,libdirtymap.so.0", "-o"])
        .arg(&library)
        .arg(&source));
    library
}

/// What abidiff says of two headers; nothing if the new one does for programs of the old one.
fn abidiff(old: &str, new: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (suppressed, before, now) = (dir.path().join("suppressed"), code(old), code(new));
    // Only of those that have grown: abidiff would take it for any change of others.
    let grown = |(name, is): &(&str, Vec<String>)| {
        let was = bodies(&before, "struct ", ';').into_iter().find(|(found, _)| found == name);
        was.filter(|(_, was)| was.len() < is.len() && !FIXED.contains(name))
    };
    let rule = |(name, _)| format!("[suppress_type]\nname = {name}\nhas_data_member_inserted_at = end\n");
    let rules: String = bodies(&now, "struct ", ';').iter().filter_map(grown).map(rule).collect();
    std::fs::write(&suppressed, rules).unwrap();
    let mut command = Command::new("abidiff");
    command.arg("--no-added-syms").arg("--suppressions").arg(suppressed);
    let said = command.arg(compiled(old, dir.path(), "old")).arg(compiled(new, dir.path(), "new")).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    if said.status.success() { String::new() } else { format!("{}\n{out}{err}", said.status) }
}

#[test]
fn programs_of_the_last_header_go_on() {
    let last = std::fs::read_to_string(last()).unwrap();
    assert!(functions_of(&last).len() > 120);
    assert_eq!(broken(&last, HEADER), [""; 0]);
    if std::env::var_os("DIRTYMAP_WRITE_ABI").is_some() {
        let lines = code(HEADER)
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .map(|line| format!("{line}\n"))
            .collect::<String>();
        std::fs::write(self::last(), lines).unwrap();
    }
    if !has("abidiff") {
        println!("SKIPPED: no abidiff, which would compare layouts; the texts of the headers were compared");
        return;
    }
    assert_eq!(abidiff(&last, HEADER), "");
}

/// A change of the header: what it is of, what stands there, and what instead.
type Change = (&'static str, &'static str, &'static str);

const BREAKING: [Change; 9] = [
    ("a function that is gone", "DIRTYMAP_CHECKED int dirtymap_flush(dirtymap_t *map);", ""),
    (
        "another argument",
        "int dirtymap_truncate(dirtymap_t *map, uint64_t len)",
        "int dirtymap_truncate(dirtymap_t *map, uint32_t len)",
    ),
    (
        "one more argument",
        "int dirtymap_end_write(dirtymap_write_t *write)",
        "int dirtymap_end_write(dirtymap_write_t *write, int how)",
    ),
    ("another result", "uint64_t dirtymap_len(", "int64_t dirtymap_len("),
    ("a field in between", "    uint64_t arms;", "    uint64_t more;\n    uint64_t arms;"),
    ("another field", "    uint64_t arms;", "    uint32_t arms;"),
    ("a field that is gone", "    uint64_t recovered_len;", ""),
    ("a range that grows", "    uint64_t count;\n};", "    uint64_t count;\n    uint64_t step;\n};"),
    (
        "a cursor of another size",
        "typedef struct dirtymap_cursor {\n    uint64_t opaque[8];",
        "typedef struct dirtymap_cursor {\n    uint64_t opaque[7];",
    ),
];

/// What the texts tell without abidiff, which does not see all of it.
const BREAKING_TEXT: [Change; 5] = [
    (
        "another callback",
        "typedef void (*dirtymap_event_fn)(const struct dirtymap_event *event, void *opaque);",
        "typedef void (*dirtymap_event_fn)(void *opaque, const struct dirtymap_event *event);",
    ),
    ("another code", "DIRTYMAP_E_BUSY = 25", "DIRTYMAP_E_BUSY = 35"),
    ("a code that is gone", "DIRTYMAP_E_CORRUPT = 17,", ""),
    ("another number", "#define DIRTYMAP_NONE UINT64_MAX", "#define DIRTYMAP_NONE 0"),
    (
        "a map that is not const any more",
        "int dirtymap_count(const dirtymap_t *map",
        "int dirtymap_count(dirtymap_t *map",
    ),
];

const GROWING: [Change; 4] = [
    ("one more function", "DIRTYMAP_CHECKED int dirtymap_flush(", "int dirtymap_more(int n);\nint dirtymap_flush("),
    (
        "one more field",
        "    uint64_t recovered_len;\n    uint64_t failed_pages;\n    uint64_t damaged_headers;\n",
        "    uint64_t recovered_len;\n    uint64_t failed_pages;\n    uint64_t damaged_headers;\n    uint64_t more;\n",
    ),
    ("one more number", "DIRTYMAP_READ_ONLY = 2 ", "DIRTYMAP_READ_ONLY = 2, DIRTYMAP_MORE = 3 "),
    (
        "another name",
        "dirtymap_truncate(dirtymap_t *map, uint64_t len)",
        "dirtymap_truncate(dirtymap_t *map, uint64_t length)",
    ),
];

fn changed((what, from, to): Change) -> String {
    assert_eq!(HEADER.matches(from).count(), 1, "{what}: {from}");
    HEADER.replace(from, to)
}

#[test]
fn a_change_that_breaks_programs_is_found() {
    for change in BREAKING.into_iter().chain(BREAKING_TEXT) {
        assert_eq!(broken(HEADER, &changed(change)).len(), 1, "{}", change.0);
    }
    for change in GROWING {
        assert_eq!(broken(HEADER, &changed(change)), [""; 0], "{}", change.0);
    }
    if !has("abidiff") {
        println!("SKIPPED: no abidiff");
        return;
    }
    for change in BREAKING {
        assert!(!abidiff(HEADER, &changed(change)).is_empty(), "{}", change.0);
    }
    for change in GROWING {
        assert_eq!(abidiff(HEADER, &changed(change)), "", "{}", change.0);
    }
}
