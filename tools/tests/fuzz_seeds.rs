//! Every seed of every fuzz target, and every finding that became one, without a fuzzer.

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Most that one target's seeds may be.
const MOST_FILES: usize = 200;
const MOST_BYTES: u64 = 200 << 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

#[test]
fn every_seed_passes() {
    for (target, run) in fuzz::TARGETS {
        let folder = root().join("seeds").join(target);
        for name in names(&folder) {
            let bytes = fs::read(folder.join(&name)).expect("read");
            if std::panic::catch_unwind(|| run(&bytes)).is_err() {
                panic!("{target}, seed {name}: see above");
            }
        }
    }
}

#[test]
fn every_target_has_seeds_and_few_of_them() {
    let targets: BTreeSet<String> = fuzz::TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names(&root().join("seeds")), targets);
    let files = names(&root().join("fuzz_targets"));
    assert!(files.iter().map(|file| file.trim_end_matches(".rs")).eq(targets.iter()), "{files:?}");
    let package = fs::read_to_string(root().join("Cargo.toml")).expect("read");
    let binaries = package.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
    assert!(binaries.map(|path| path.trim_end_matches(".rs\"")).eq(targets.iter()), "{package}");
    for target in targets {
        let folder = root().join("seeds").join(&target);
        let sizes = names(&folder).iter().map(|name| fs::metadata(folder.join(name)).expect("look").len()).collect();
        let (files, bytes) = (<Vec<u64>>::len(&sizes), sizes.iter().sum::<u64>());
        assert!(files <= MOST_FILES && bytes <= MOST_BYTES, "{target}: {files} seeds of {bytes} bytes");
    }
}
