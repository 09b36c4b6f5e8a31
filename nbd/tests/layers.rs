//! Files import from below only, and none is long.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down; what stands on one line knows nothing of each other.
const LAYERS: &[&[&str]] =
    &[&["lib"], &["server", "client"], &["session"], &["backends"], &["stream", "backend"], &["failure"], &["codec"]];

fn rank(module: &str) -> usize {
    LAYERS.iter().position(|layer| layer.contains(&module)).unwrap_or_else(|| panic!("no layer: {module}"))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("read the directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { sources(&path, found) } else { found.push(path) }
    }
}

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut imports = 0;
    for file in files {
        let text = fs::read_to_string(&file).expect("read");
        assert!(text.lines().count() < 600, "{} is long", file.display());
        let name = file.strip_prefix(&root).expect("inside").iter().next().and_then(|n| n.to_str()).expect("text");
        let module = name.trim_end_matches(".rs");
        // What the crate is for others, from anywhere.
        for (at, word) in text.match_indices("crate::") {
            let to: String = text[at + word.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let to = if to == "Errno" { "failure" } else { &to };
            imports += 1;
            assert!(module == to || rank(module) < rank(to), "{} imports {to}, which is no lower", file.display());
        }
    }
    assert!(imports > 30, "{imports}");
}

#[test]
fn it_knows_nothing_of_dirt() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("read");
    // As it is written here, and as it is when it was packaged.
    let (mut section, mut names) = ("", Vec::new());
    for line in manifest.lines() {
        if let Some(head) = line.strip_prefix('[') {
            section = head.trim_end_matches(']');
            names.extend(section.strip_prefix("dependencies."));
        } else if section == "dependencies" {
            names.extend(line.split_once(" = ").map(|(name, _)| name));
        }
    }
    assert_eq!(names, ["rustix"]);
}
