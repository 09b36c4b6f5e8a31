//! docs/operations.md: no cell is empty, and the functions, commands and tests that it names exist.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|e| e == "rs") {
            *text += &read(&path);
        }
    }
}

/// The rows of the tables, without their heads.
fn rows() -> Vec<Vec<String>> {
    let text = read(&root().join("docs/operations.md"));
    let lines = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("| ---"));
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_string()).collect();
    lines.map(cells).filter(|row: &Vec<String>| !["operation", "claim"].contains(&row[0].as_str())).collect()
}

/// What stands between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn no_cell_is_empty() {
    let rows = rows();
    assert!(rows.len() > 35, "{} rows", rows.len());
    for row in rows {
        assert!([2, 4].contains(&row.len()) && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}

#[test]
fn its_functions_and_commands_exist() {
    let mut library = String::new();
    sources(&root().join("src"), &mut library);
    let cli = read(&root().join("tools/src/cli.rs"));
    for row in rows().iter().filter(|row| row.len() == 4) {
        let functions: Vec<&str> = quoted(&row[1]).collect();
        for name in &functions {
            let last = name.rsplit("::").next().unwrap_or_default();
            let known = [format!("pub fn {last}("), format!("pub struct {last}"), format!("fn {last}(&self")];
            assert!(known.iter().any(|k| library.contains(k)), "{name} in {row:?}");
        }
        assert!(!functions.is_empty() || row[1].starts_with("none: ") || row[1].starts_with("every "), "{row:?}");
        let commands: Vec<&str> = quoted(&row[2]).collect();
        for command in &commands {
            let name: String = command.split(' ').next().unwrap_or_default().split('-').map(capital).collect();
            assert!(cli.contains(&format!("    {name}(")), "{command} in {row:?}");
            for option in command.split(' ').filter_map(|word| word.strip_prefix("--")) {
                let field = option.replace('-', "_");
                assert!(cli.contains(&format!("    pub {field}: ")), "--{option} in {row:?}");
            }
        }
        assert!(!commands.is_empty() || row[2].starts_with("none: ") || row[2].starts_with("every "), "{row:?}");
    }
}

fn capital(word: &str) -> String {
    word.char_indices().map(|(i, c)| if i == 0 { c.to_ascii_uppercase() } else { c }).collect()
}

#[test]
fn its_tests_exist() {
    for row in rows() {
        let cell = row.last().unwrap();
        let tests: Vec<&str> = quoted(cell).filter(|test| test.contains(".rs::")).collect();
        for test in &tests {
            let (file, name) = test.split_once("::").unwrap();
            let text = read(&root().join(file));
            assert!(text.contains(&format!("fn {name}(")), "{test} in {row:?}");
        }
        let named = ["model", "sim"].iter().any(|w| cell.split([',', ' ']).any(|word| word == *w));
        assert!(named || !tests.is_empty(), "no test in {row:?}");
    }
}
