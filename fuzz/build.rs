//! Lists the golden files for the target `open`.

use std::{env, fs, path::Path};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/files");
    let folder = folder.canonicalize().expect("the golden files");
    let mut paths: Vec<_> =
        fs::read_dir(&folder).expect("the golden files").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let list: Vec<String> = paths.iter().map(|path| format!("    include_str!({path:?}),\n")).collect();
    let code =
        format!("/// The golden files, by name.\npub const DUMPS: [&str; {}] = [\n{}];\n", list.len(), list.concat());
    let out = Path::new(&env::var_os("OUT_DIR").expect("cargo says where")).join("bases.rs");
    fs::write(out, code).expect("the list can be written");
    println!("cargo::rerun-if-changed={}", folder.display());
}
