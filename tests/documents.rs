//! The documents are true of the tree. docs/verification.md: no cell is empty, each claim has a test, and the functions,
//! commands and tests that it names exist. docs/contributing.md: the map of folders is whole. All of them: links lead
//! somewhere, and lines fit 100 columns.

use std::fs;
use std::path::{Path, PathBuf};

const VERIFICATION: &str = "docs/verification.md";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn sources(dir: &Path, text: &mut String) {
    let mut files = Vec::new();
    sources_of(dir, &mut files);
    files
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "rs"))
        .for_each(|(_, source)| *text += source);
}

/// The sources in a folder of the tree, without what was built there.
fn sources_of(dir: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources_of(&path, files);
        } else if path.extension().is_some_and(|e| ["rs", "py", "pyi", "h", "toml"].iter().any(|known| e == *known)) {
            files.push((path.clone(), read(&path)));
        }
    }
}

/// The rows of the tables of a section, without their heads.
fn rows_of(section: &str) -> Vec<Vec<String>> {
    let text = read(&root().join(VERIFICATION));
    let start = format!("\n## {section}\n");
    let text = text.split_once(&start).unwrap_or_else(|| panic!("no section {section}")).1;
    let lines = text.lines().take_while(|line| !line.starts_with("## "));
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_string()).collect();
    let rows = lines.filter(|line| line.starts_with('|') && !line.starts_with("| ---")).map(cells);
    rows.filter(|row: &Vec<String>| !["operation", "claim"].contains(&row[0].as_str())).collect()
}

fn operations() -> Vec<Vec<String>> {
    rows_of("Operations")
}

/// What stands between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn no_cell_is_empty() {
    let rows = operations();
    assert!(rows.len() > 35, "{} rows", rows.len());
    for row in rows {
        assert!([2, 4].contains(&row.len()) && row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}

#[test]
fn its_functions_and_commands_exist() {
    let mut library = String::new();
    sources(&root().join("src"), &mut library);
    let cli = ["cli.rs", "cli/args.rs", "cli/backups.rs", "cli/snapshot.rs"]
        .map(|file| read(&root().join("tools/src").join(file)))
        .concat();
    for row in operations().iter().filter(|row| row.len() == 4) {
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

#[track_caller]
fn exists(test: &str) {
    let (file, name) = test.split_once("::").unwrap();
    assert!(read(&root().join(file)).contains(&format!("fn {name}(")), "there is no {test}");
}

#[test]
fn each_claim_has_a_test_that_exists() {
    let claims = rows_of("The promise");
    assert!(claims.len() > 25, "{} claims", claims.len());
    for row in claims {
        assert!(row.len() == 3 && quoted(&row[1]).next().is_some(), "no test in {row:?}");
        for test in quoted(&row[1]) {
            if test.contains("::") { exists(test) } else { drop(read(&root().join(test))) }
        }
    }
}

#[test]
fn its_tests_exist() {
    for row in operations() {
        let cell = row.last().unwrap();
        let tests: Vec<&str> = quoted(cell).filter(|test| test.contains(".rs::")).collect();
        tests.iter().for_each(|test| exists(test));
        let named = ["model", "sim"].iter().any(|w| cell.split([',', ' ']).any(|word| word == *w));
        assert!(named || !tests.is_empty(), "no test in {row:?}");
    }
}

/// All documents, by their paths from the root.
fn documents() -> Vec<String> {
    let mut found =
        vec!["README.md".into(), "FORMAT.md".into(), "CHANGELOG.md".into(), "tests/golden/README.md".into()];
    found.extend(["benches", "fuzz", "nbd"].map(|dir| format!("{dir}/README.md")));
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        found.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    found.retain(|path| root().join(path).exists());
    found
}

/// The lines of a document outside of its blocks of code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// The name that a heading has in a link, as the usual viewers make it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn has_anchor(path: &Path, wanted: &str) -> bool {
    let text = read(path);
    prose(&text).any(|(_, line)| line.starts_with('#') && anchor(line.trim_start_matches('#').trim()) == wanted)
}

/// Where the inline links of a document lead, and its link definitions.
fn links(text: &str) -> Vec<&str> {
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split([')', '\n']).next());
    let defined = text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: ")).map(|(_, target)| target);
    inline.chain(defined).collect()
}

#[test]
fn links_lead_somewhere() {
    let manifest = read(&root().join("Cargo.toml"));
    let repository = manifest.split_once("repository = \"").and_then(|(_, rest)| rest.split('"').next()).unwrap();
    for document in documents() {
        let text = read(&root().join(&document));
        let here = root().join(&document);
        for link in links(&text) {
            let (path, part) = link.split_once('#').unwrap_or((link, ""));
            let path = match path.strip_prefix(&format!("{repository}/")) {
                Some(inside) => root().join(inside),
                None if path.contains("://") => continue,
                None if path.is_empty() => here.clone(),
                // The crate's page and docs.rs show these two elsewhere than among the other files.
                None => {
                    assert!(!["README.md", "docs/guide.md"].contains(&&*document), "{document}: {link} is relative");
                    here.parent().unwrap().join(path)
                }
            };
            assert!(path.exists(), "{document}: {link}: there is no {}", path.display());
            assert!(part.is_empty() || has_anchor(&path, part), "{document}: {link}: no such heading");
        }
    }
}

#[test]
fn lines_fit_100_columns() {
    for document in documents() {
        let text = read(&root().join(&document));
        for (number, line) in prose(&text) {
            // Tables and link definitions cannot be broken.
            let whole = line.starts_with('|') || (line.starts_with('[') && line.contains("]: "));
            assert!(whole || line.chars().count() <= 100, "{document}:{}: {line}", number + 1);
        }
    }
}

/// docs/contributing.md leads to every folder and file of src/, and all that it names is there.
#[test]
fn the_map_of_folders_is_whole() {
    let text = read(&root().join("docs/contributing.md"));
    let table = text.split("\n## ").nth(1).unwrap();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let entry = entry.unwrap();
        let slash = if entry.path().is_dir() { "/" } else { "" };
        let name = format!("`src/{}{slash}`", entry.file_name().into_string().unwrap());
        assert!(table.contains(&name), "docs/contributing.md does not have {name}");
    }
    let inside =
        |name: &&str| ["src/", "tests/", "tools/", "nbd/", "benches/", "fuzz/"].iter().any(|dir| name.starts_with(dir));
    for name in quoted(&text).filter(inside).filter_map(|name| name.split([' ', ':']).next()) {
        assert!(root().join(name).exists(), "docs/contributing.md: there is no {name}");
    }
}

/// A name is one of the sources, and where a file is named with it, one of that file.
#[test]
fn the_names_in_contributing_exist() {
    let text = read(&root().join("docs/contributing.md")).split_whitespace().collect::<Vec<_>>().join(" ");
    let mut files = Vec::new();
    for dir in ["src", "tests", "tools", "nbd", "benches", "capi", "python"] {
        sources_of(&root().join(dir), &mut files);
    }
    let has =
        |source: &str, name: &str| source.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
    let parts: Vec<&str> = text.split('`').collect();
    for (i, &name) in parts.iter().enumerate().skip(1).step_by(2) {
        if !name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let (last, place) = (name.rsplit(':').next().unwrap(), parts.get(i + 2).copied().unwrap_or_default());
        let named = [" in ", " of "].contains(&parts[i + 1]) && place.ends_with(".rs");
        let there = |path: &Path| !named || path.ends_with(place);
        let found = files.iter().any(|(path, source)| there(path) && has(source, last));
        assert!(found, "docs/contributing.md: `{name}` is not in {}", if named { place } else { "the sources" });
    }
}

/// In a sentence a setter, a flusher, an opener or an operator acts: docs/design.md says who there is.
#[test]
fn sentences_have_subjects_that_act() {
    for document in documents() {
        let text = read(&root().join(&document)).to_lowercase();
        for (number, line) in prose(&text) {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let vague = words.find(|word| ["nobody", "somebody", "anybody", "everybody", "whoever"].contains(word));
            assert_eq!(vague, None, "{document}:{}: {line}", number + 1);
        }
    }
}

#[test]
fn the_readme_is_short() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= 90, "{lines} lines");
}
