//! The programs in C beside this file call every function of the header. They run with both libraries, with their memory
//! watched by the compiler, and under valgrind.

mod common;

use common::{Linked, compile, has, root, run};
use std::path::Path;
use std::process::Command;

const PROGRAMS: [&str; 5] = ["memory", "file", "backups", "loop", "edges"];

/// Runs a program in a directory of its own, by a command if one is given. Two minutes are for one that hangs.
#[track_caller]
fn run_program(program: &str, how: Linked, by: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("program");
    compile(&root().join(format!("tests/programs/{program}.c")), &binary, how);
    let scratch = dir.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    run(Command::new("timeout").args(["--verbose", "120"]).args(by).arg(&binary).arg(&scratch));
}

#[test]
fn with_the_shared_library() {
    PROGRAMS.iter().for_each(|program| run_program(program, Linked::Shared, &[]));
}

#[test]
fn with_the_archive_of_this_build() {
    PROGRAMS.iter().for_each(|program| run_program(program, Linked::Archive, &[]));
}

/// Leaks, double frees, and what is used after it was freed: Rust's memory is malloc's here.
#[test]
fn with_their_memory_watched() {
    PROGRAMS.iter().for_each(|program| run_program(program, Linked::Sanitized, &[]));
}

#[test]
fn under_valgrind() {
    if !has("valgrind") {
        println!("SKIPPED: no valgrind");
        return;
    }
    println!("SKIPPED: file.c under valgrind, which does not know mlock2, and so lets no map be shared");
    // Of threads that the main thread has no more to do with, the last 48 bytes are "possibly lost".
    let kinds = "--errors-for-leak-kinds=definite,indirect";
    for program in PROGRAMS.iter().filter(|program| **program != "file") {
        // It forks, and a child ends with what its parent has.
        let leaks = if *program == "edges" { "--leak-check=no" } else { "--leak-check=full" };
        let shown = "--show-leak-kinds=definite,indirect";
        run_program(program, Linked::Archive, &["valgrind", "-q", leaks, shown, kinds, "--error-exitcode=9"]);
    }
}

/// Every function of the header is called by one of the programs.
#[test]
fn every_function_is_called() {
    let texts =
        PROGRAMS.map(|program| std::fs::read_to_string(root().join(format!("tests/programs/{program}.c"))).unwrap());
    let called = |name: &str| texts.iter().any(|text| text.contains(&format!("{name}(")));
    let check = std::fs::read_to_string(root().join("tests/programs/check.h")).unwrap();
    let functions = header_functions();
    assert!(functions.len() > 120, "{} functions", functions.len());
    for name in functions {
        assert!(called(&name) || check.contains(&format!("{name}(")), "no program calls {name}");
    }
}

fn header_functions() -> Vec<String> {
    let exported = std::fs::read_to_string(Path::new(&root().join("dirtymap.map"))).unwrap();
    let names = exported.lines().filter_map(|line| line.trim().strip_suffix(';'));
    names.filter(|name| name.starts_with("dirtymap_")).map(String::from).collect()
}
