//! The library as C programs link it, and programs that are compiled with it.
#![allow(dead_code, reason = "each test uses some of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

pub const HEADER: &str = include_str!("../../dirtymap.h");

/// A text without its comments.
pub fn code(text: &str) -> String {
    let mut parts = text.split("/*");
    let first = parts.next().unwrap_or_default().to_string();
    parts.fold(first, |code, part| code + part.split_once("*/").map_or("", |(_, behind)| behind))
}

/// The declarations of functions in a header.
pub fn prototypes(header: &str) -> Vec<String> {
    let code = code(header);
    let functions = code.split(';').filter(|part| part.contains('(') && !part.contains("typedef"));
    let lines = |part: &str| part.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join(" ");
    let bare = |part: &str| {
        let part = lines(part).replace("DIRTYMAP_CHECKED", "");
        part.rsplit(['{', '}']).next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    functions.map(bare).collect()
}

/// The result of a function and its arguments, by its name.
pub type Functions = BTreeMap<String, Vec<Declared>>;

/// A type of C, with `const` and without `struct`, and the name that it has there; a result has none.
pub type Declared = (String, String);

/// `const struct dirtymap_range *ranges` as `const dirtymap_range*` and `ranges`.
fn declared(text: &str) -> Declared {
    let text = text.trim().replace("struct ", "");
    let (of_type, name) = text.split_at(text.rfind([' ', '*']).map_or(0, |i| i + 1));
    (of_type.trim().replace(" *", "*"), name.to_string())
}

/// The functions of a header.
pub fn functions_of(header: &str) -> Functions {
    let function = |prototype: String| {
        let (before, arguments) = prototype.split_once('(').unwrap();
        let (result, name) = declared(before);
        let mut types = vec![(result, String::new())];
        let arguments = arguments.trim_end_matches(')').split(',').filter(|argument| *argument != "void");
        types.extend(arguments.map(declared));
        (name, types)
    };
    prototypes(header).into_iter().map(function).collect()
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command that has to succeed.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (told(&output.stdout), told(&output.stderr));
    assert!(output.status.success(), "{command:?} {}:\n{out}{err}", output.status);
    output
}

#[track_caller]
pub fn stdout(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap()
}

/// Whether there is such a program here.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn target() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    directory.expect("a target directory").to_path_buf()
}

/// The archive of an unoptimised build, which has checks that a release leaves out: built once.
pub fn debug_archive() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--quiet", "--lib", "--target-dir"]).arg(target()).current_dir(root());
        run(without_cargo(&mut build));
        target().join("debug/libdirtymap_capi.a")
    })
}

/// What cargo sets for a test would have it build everything anew.
fn without_cargo(command: &mut Command) -> &mut Command {
    let set = |name: &str| {
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_CRATE_NAME"
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| set(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

/// The libraries as `make` leaves them: made once.
pub fn made() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        run(&mut make("all"));
        target().join("c")
    })
}

/// `make` with this target directory.
pub fn make(what: &str) -> Command {
    let mut command = Command::new("make");
    command.arg("--silent").arg(what).arg("-C").arg(root());
    command.arg(format!("CARGO_TARGET_DIR={}", target().display()));
    without_cargo(&mut command);
    command
}

/// What a C program is linked with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// The shared library that `make` has made.
    Shared,
    /// The archive of this build.
    Archive,
    /// The same, and the program has its memory watched.
    Sanitized,
}

/// Compiles a program of one file, to be found beside `to`.
#[track_caller]
pub fn compile(source: &Path, to: &Path, how: Linked) {
    let mut command = Command::new("cc");
    command.args(["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror"]);
    command.arg(source).arg("-o").arg(to).arg("-I").arg(root());
    if how == Linked::Sanitized {
        command.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]);
    }
    match how {
        Linked::Shared => {
            let made = made().display();
            command.arg(format!("-L{made}")).arg("-ldirtymap").arg(format!("-Wl,-rpath,{made}")).arg("-lpthread");
        }
        Linked::Archive | Linked::Sanitized => {
            command.arg(debug_archive()).args(["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"]);
        }
    }
    run(&mut command);
}
