//! The command's files import only from their own layer and from those below, in the order that tools/src/main.rs gives.

use std::fs;
use std::path::{Path, PathBuf};

/// The layers, from the top down, and what stands alone at the bottom.
const LAYERS: [&str; 12] = [
    "commands", "backup", "sets", "control", "map", "snapshot", "files", "hooks", "terminal", "cli", "exit", "picture",
];
const BOTTOM: [&str; 3] = ["rng", "size", "time"];

fn rank(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| *layer == module);
    found.or_else(|| BOTTOM.contains(&module).then_some(LAYERS.len())).unwrap_or_else(|| panic!("no layer: {module}"))
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
        let name = file.strip_prefix(&root).expect("inside").iter().next().and_then(|n| n.to_str()).expect("text");
        let module = name.trim_end_matches(".rs");
        // The command itself imports all, and its library has no layers.
        if ["main", "lib", "bits", "dump", "qcow2", "set_json", "shown"].contains(&module) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("read");
        for (_, path) in text.match_indices("crate::").map(|(at, word)| (at, &text[at + word.len()..])) {
            let to: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            imports += 1;
            let down = module == to || rank(module) < rank(&to);
            assert!(down, "{} imports {to}, which is no lower", file.display());
        }
    }
    assert!(imports > 100, "{imports}");
}
