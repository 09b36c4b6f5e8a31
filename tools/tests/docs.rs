//! Every command line of the user's guide and of the README's first session does what is shown there.
//!
//! A block marked `console` is a session: `$ ` starts a command, what follows is what it prints on either output, `...`
//! stands for any text, and on a line of its own for any lines. All blocks of a page run in one directory, in order.
//! A command fails the test if it fails, unless its line tells the exit code by ending in `; echo $?`.

mod common;

use common::Dir;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The sessions of a page: for each command its line, what is shown, and where it is.
fn commands(page: &str) -> Vec<(String, Vec<String>, usize)> {
    let mut found: Vec<(String, Vec<String>, usize)> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => match (line.strip_prefix("$ "), found.last_mut()) {
                (Some(command), _) => found.push((command.to_string(), Vec::new(), number + 1)),
                (None, Some(last)) => last.1.push(line.to_string()),
                (None, None) => panic!("line {}: output without a command", number + 1),
            },
        }
    }
    found
}

/// Whether a line is as shown, with `...` for anything.
fn line_matches(shown: &str, line: &str) -> bool {
    let mut parts = shown.split("...");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    for (i, part) in parts.iter().enumerate() {
        if i + 1 == parts.len() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

fn matches(shown: &[String], lines: &[&str]) -> bool {
    match (shown.first(), lines.first()) {
        (None, None) => true,
        (Some(s), _) if s == "..." => (0..=lines.len()).any(|skip| matches(&shown[1..], &lines[skip..])),
        (Some(s), Some(l)) => line_matches(s, l) && matches(&shown[1..], &lines[1..]),
        _ => false,
    }
}

/// Runs the sessions of a page; returns how many commands there were.
fn run(page: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join(page)).expect("the page");
    let dir = Dir::new();
    let bin = Path::new(env!("CARGO_BIN_EXE_dirtymap")).parent().expect("a directory");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let all = commands(&text);
    for (command, shown, number) in &all {
        let ran = Command::new("bash")
            .args(["-c", &format!("exec 2>&1; {command}")])
            .current_dir(dir.path(""))
            .env("PATH", &path)
            .output()
            .expect("run bash");
        let out = String::from_utf8_lossy(&ran.stdout);
        let lines: Vec<&str> = out.lines().collect();
        assert!(ran.status.success(), "{page}:{number}: {command}: {}\n{out}", ran.status);
        let as_shown = if shown.is_empty() { lines.is_empty() } else { matches(shown, &lines) };
        assert!(as_shown, "{page}:{number}: {command}\nprints:\n{out}\nand not:\n{}", shown.join("\n"));
    }
    all.len()
}

#[test]
fn the_guide_s_sessions_are_what_happens() {
    assert!(run("docs/guide.md") > 10);
}

#[test]
fn the_readme_s_session_is_what_happens() {
    assert!(run("README.md") > 4);
}

#[test]
fn the_sessions_about_dumps_are_what_happens() {
    assert!(run("docs/cli.md") > 5);
}

/// Every command, and every one inside of another, by the command line's own definition: its help.
#[test]
fn every_command_is_in_the_table() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")).expect("the page");
    let table = page.split("\n## Commands\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the table");
    let quoted: Vec<&str> = table.split('`').skip(1).step_by(2).collect();
    for (before, args) in
        [("", &["--help"][..]), ("checkpoint", &["checkpoint", "--help"][..]), ("set", &["set", "--help"])]
    {
        let help = common::run(args).exits(0).out;
        let list = help.split("\nCommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list");
        let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
        assert!(names.len() > 4 && names.contains(&"help"), "{names:?}");
        for name in names.into_iter().filter(|name| *name != "help") {
            let whole = format!("{before} {name}");
            let shown = |q: &&str| [name, whole.trim()].iter().any(|n| *q == *n || q.starts_with(&format!("{n} ")));
            assert!(quoted.iter().any(shown), "{whole} is not in docs/cli.md");
        }
    }
}

/// The help and the page give the same exit codes.
#[test]
fn the_exit_codes_are_those_of_the_help() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")).expect("the page");
    let help = common::run(["--help"]).exits(0).out;
    let codes = help.split("Exit codes").nth(1).expect("exit codes");
    for code in [0, 1, 2, 4, 8, 16, 32] {
        let row = page.lines().find_map(|line| line.strip_prefix(&format!("| {code} | "))).expect("a row");
        let meaning = row.trim_end_matches(" |");
        let told = codes.lines().find_map(|line| line.trim().strip_prefix(&format!("{code} "))).expect("a line");
        assert!(told.trim().starts_with(meaning), "{code}: {meaning:?}, the help says {told:?}");
    }
}

#[test]
fn a_line_that_is_not_as_shown_is_noticed() {
    assert!(line_matches("a ... c", "a b c") && line_matches("...", "") && line_matches("x", "x"));
    assert!(!line_matches("a ... c", "a b d") && !line_matches("x", "xy") && !line_matches("... y", "xy"));
    let shown = |s: &str| s.lines().map(String::from).collect::<Vec<_>>();
    assert!(matches(&shown("a\n...\nd"), &["a", "b", "c", "d"]) && matches(&shown("a\n..."), &["a"]));
    assert!(!matches(&shown("a\nb"), &["a"]) && !matches(&shown("a"), &["a", "b"]));
}
