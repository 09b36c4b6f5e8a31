//! What the library can do in Rust, C and Python can: each public method has a counterpart of its name, or one of another name,
//! or a reason why there is none.

mod common;

use common::{HEADER, functions_of, root};
use std::collections::BTreeSet;
use std::path::Path;

/// Where the methods are, and what their functions begin with.
const SOURCES: [(&str, &str); 9] = [
    ("bitmap", "dirtymap_"),
    ("file/create.rs", "dirtymap_"),
    ("fsck/check.rs", "dirtymap_"),
    ("fsck/plan.rs", "dirtymap_"),
    ("fsck/repair.rs", "dirtymap_"),
    ("map", "dirtymap_"),
    ("options.rs", "dirtymap_options_"),
    ("query/cursor.rs", "dirtymap_cursor_"),
    ("session/recovery.rs", "dirtymap_"),
];

/// A counterpart.
enum By {
    /// A function, method, property, keyword or key of that name.
    Name(&'static str),
    /// None, for this reason.
    None(&'static str),
}

use By::{Name, None as No};

/// Of the same name, behind what functions begin with.
const SAME: By = Name("");

const PARTS: &str = "load() takes parts; set() and reset() fill";

const OWN_NAMES: &str = "a program knows its own checkpoints by their names";

/// A method with its counterparts in C and in Python.
const OTHERWISE: &[(&str, By, By)] = &[
    ("abort_checkpoint", Name("dirtymap_abort"), Name("abort")),
    ("added_dirt", Name("dirtymap_options_added_dirt"), Name("added_dirt")),
    ("added_items", Name("dirtymap_recovery"), Name("recovery")),
    ("advance_to", Name("dirtymap_cursor_advance"), Name("extents")),
    ("attach_changes", Name("dirtymap_changes_attach"), SAME),
    ("begin_load", Name("dirtymap_load_begin"), No(PARTS)),
    ("begin_write", SAME, Name("write")),
    ("begin_write_owned", Name("dirtymap_begin_write"), Name("write")),
    ("begin_writes", SAME, Name("writes")),
    ("begin_writes_async", Name("dirtymap_queue_begin"), No("other threads of Python go on while one waits")),
    ("begin_writes_owned", Name("dirtymap_begin_writes"), Name("writes")),
    ("beside", No("for files of other formats"), No("for files of other formats")),
    ("between_set", Name("dirtymap_between"), Name("between")),
    ("bottom_words", Name("dirtymap_cursor_next_word"), Name("serialize")),
    ("changes", Name("dirtymap_changes_copy"), SAME),
    ("check_after_power_loss", Name("dirtymap_check"), Name("check")),
    ("clear_changes", Name("dirtymap_changes_clear"), SAME),
    ("close_with_image", SAME, Name("close")),
    ("commit_backup", SAME, Name("commit")),
    ("commit_checkpoint", Name("dirtymap_commit"), Name("commit")),
    ("copy_of", Name("dirtymap_copy"), SAME),
    ("count_points", SAME, Name("points")),
    ("count_range", SAME, Name("count")),
    ("create_closed", SAME, No("create() and close() do it")),
    ("create_unpublished", SAME, No("a closed map may be renamed")),
    ("damaged", Name("dirtymap_recovery"), SAME),
    ("detach_changes", Name("dirtymap_changes_detach"), SAME),
    ("durability", Name("dirtymap_info"), SAME),
    ("error", Name("dirtymap_error_message"), Name("Error")),
    ("extents", Name("dirtymap_cursor_next_extent"), SAME),
    ("file", No("the path is the caller's"), No("create_unpublished has no counterpart")),
    ("finish", Name("dirtymap_load_finish"), No(PARTS)),
    ("freeze_for", No(OWN_NAMES), No(OWN_NAMES)),
    ("freeze_snapshot_for", No(OWN_NAMES), No(OWN_NAMES)),
    ("frozen_len", SAME, Name("frozen")),
    ("frozen_set", Name("dirtymap_frozen"), Name("frozen")),
    ("geometry", Name("dirtymap_len"), Name("granule")),
    ("get", SAME, Name("__getitem__")),
    ("granularity", Name("dirtymap_granule"), Name("granule")),
    ("granule_bytes", Name("dirtymap_granule"), Name("granule")),
    ("granules", Name("dirtymap_cursor_next"), Name("extents")),
    ("has_changes", Name("dirtymap_changes_any"), SAME),
    ("is_empty", SAME, Name("any")),
    ("is_full", SAME, Name("all")),
    ("into_map", No("the handle stays"), No("the object stays")),
    ("is_needed", Name("dirtymap_report_summary"), Name("actions")),
    ("is_set_at_a_look", Name("dirtymap_set"), Name("set")),
    ("last_committed", Name("dirtymap_info"), Name("committed")),
    ("len", SAME, Name("__len__")),
    ("load_part", SAME, Name("load")),
    ("map", No("whoever begins a write has its map"), No("whoever begins a write has its map")),
    ("new", SAME, Name("__new__")),
    ("next", SAME, Name("extents")),
    ("next_extent", SAME, Name("extents")),
    ("ones", Name("dirtymap_load_ones"), No(PARTS)),
    ("open", Name("dirtymap_open"), SAME),
    ("options", Name("dirtymap_options_new"), No("they are keywords")),
    ("part", Name("dirtymap_load_chunk"), No(PARTS)),
    ("path", No("whoever opens a map has its path"), SAME),
    ("peek", SAME, Name("next_dirty")),
    ("position", SAME, No("an extent says where it ends")),
    ("publish", SAME, No("create_unpublished has no counterpart")),
    ("read_only", Name("dirtymap_options_access"), Name("access")),
    ("sequence", Name("dirtymap_info"), SAME),
    ("serialize_part", SAME, Name("serialize")),
    ("serialized_size", SAME, Name("serialize")),
    ("set_to_union", SAME, Name("union")),
    ("severity", Name("dirtymap_report_summary"), SAME),
    ("since_set", Name("dirtymap_since"), Name("since")),
    ("take", No("whoever has a map open claims that"), No("whoever has a map open claims that")),
    ("take_changes", Name("dirtymap_changes_take"), SAME),
    ("take_changes_into", Name("dirtymap_changes_take_into"), No("merge(take_changes()) does it")),
    ("to_bitmap", Name("dirtymap_copy"), Name("copy_of")),
    ("try_clone", Name("dirtymap_copy"), Name("copy_of")),
    ("verify_session", SAME, No("each call asks")),
    ("words", Name("dirtymap_cursor_next_word"), Name("serialize")),
    ("zeroes", Name("dirtymap_load_zeroes"), No(PARTS)),
    // Of a cursor.
    ("query/cursor.rs new", Name("dirtymap_cursor_init"), Name("extents")),
];

/// Public methods of a file or of those in a folder, but for what documents leave out.
fn methods(path: &Path) -> BTreeSet<String> {
    if path.is_dir() {
        let files = std::fs::read_dir(path).unwrap().map(|file| file.unwrap().path());
        return files.flat_map(|file| methods(&file)).collect();
    }
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.split("#[cfg(test)]\nmod tests").next().unwrap().lines().map(str::trim).collect();
    let public = lines
        .windows(2)
        .filter(|lines| lines[0] != "#[doc(hidden)]")
        .filter_map(|lines| lines[1].strip_prefix("pub fn "));
    public.map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_string()).collect()
}

/// Words of the stubs that name something.
fn names_in_python() -> BTreeSet<String> {
    let stubs = std::fs::read_to_string(root().join("../python/python/dirtymap/__init__.pyi")).unwrap();
    let named = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix("def ").or(line.strip_prefix("class ")).unwrap_or(line);
        let end = line.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        line[end..].starts_with(['(', ':']).then(|| line[..end].to_string())
    };
    stubs.lines().filter_map(named).collect()
}

#[test]
fn what_rust_can_do_c_and_python_can() {
    let c: BTreeSet<String> = functions_of(HEADER).into_keys().collect();
    let python = names_in_python();
    let mut unused: BTreeSet<&str> = OTHERWISE.iter().map(|(method, ..)| *method).collect();
    assert_eq!(unused.len(), OTHERWISE.len());
    let mut n = 0;
    for (source, prefix) in SOURCES {
        for method in methods(&root().join("../src").join(source)) {
            let (in_c, in_python) = (format!("{prefix}{method}"), method.clone());
            let of_the_file = format!("{source} {method}");
            let called = |name: &str| OTHERWISE.iter().find(|(method, ..)| *method == name);
            let found = called(&of_the_file).or_else(|| called(&method));
            let (by_c, by_python) = found.map_or((&SAME, &SAME), |(_, c, python)| (c, python));
            let missing = |by: &By, same: &str, known: &BTreeSet<String>| match by {
                Name("") => !known.contains(same),
                Name(name) => !known.contains(*name),
                No(reason) => reason.is_empty(),
            };
            assert!(!missing(by_c, &in_c, &c), "{method} of src/{source} is not in C, as {in_c} or as OTHERWISE says");
            assert!(!missing(by_python, &in_python, &python), "{method} of src/{source} is not in Python");
            unused.remove(found.map_or("", |(name, ..)| name));
            n += 1;
        }
    }
    assert!(n > 120, "{n} methods");
    assert!(unused.is_empty(), "no such methods any more: {unused:?}");
}
