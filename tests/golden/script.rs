//! The independent reader, `tools/read_dirtymap.py`: it was written from FORMAT.md and knows nothing of this crate.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the script says of each file: a JSON value. `None`, and a word about it, without `python3`.
pub fn ask(files: &[PathBuf], options: &[&str]) -> Option<Vec<String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/read_dirtymap.py");
    // A package of the library is without it, and has its own manifest under this name.
    if !script.exists() && Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml.orig").exists() {
        eprintln!("SKIPPED: the independent reader is not in the package");
        return None;
    }
    let mut command = Command::new("python3");
    command.arg(script).arg("--batch").args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("SKIPPED: no python3 here, the independent reader was not asked");
        return None;
    };
    let lines: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    let mut stdin = child.stdin.take().expect("a pipe");
    let feeder = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("python3 ends");
    feeder.join().expect("no panic").expect("the script reads its input");
    let said: Vec<String> = String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_string).collect();
    assert_eq!(said.len(), files.len(), "the script stopped: {}", output.status);
    Some(said)
}

/// The value of a key in a JSON object, as it is written there. Empty when there is none.
pub fn value<'a>(object: &'a str, key: &str) -> &'a str {
    let Some((_, rest)) = object.split_once(&format!("\"{key}\": ")) else { return "" };
    let (mut depth, mut text, mut escaped) = (0, false, false);
    let end = rest.find(|c| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => text = !text,
            _ if text => {}
            '[' | '{' => depth += 1,
            ',' | ']' | '}' if depth == 0 => return true,
            ']' | '}' => depth -= 1,
            _ => {}
        }
        false
    });
    &rest[..end.unwrap_or(rest.len())]
}

/// Dirty areas as the script writes them.
pub fn areas(areas: impl Iterator<Item = std::ops::Range<u64>>) -> String {
    let areas: Vec<String> = areas.map(|area| format!("[{}, {}]", area.start, area.end - area.start)).collect();
    format!("[{}]", areas.join(", "))
}
