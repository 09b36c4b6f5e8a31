//! One command, one table: dirtymap beside other bitmaps and beside what the machine can do at most.
//!
//!     cargo run --release            in benches/: everything, some minutes
//!     cargo run --release -- --quick smaller maps, fewer rounds: a minute, to see that it works
//!
//! `--filter TEXT` runs only rows whose names contain it. `--out DIR` also writes performance.json and
//! performance.svg there, and the tables into performance.md if there is one. `--dir DIR` says where the files of timed rows are made; without it they are made in memory, and
//! those of which the latency is looked at on a disk.

mod harness;
mod inputs;
#[path = "../../tests/common/mounted.rs"]
mod mounted;
mod peers;
mod report;
mod rows;

use rows::{Scale, file, latency, memory, processes};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut scale = Scale { bits: 1 << 30, rounds: 11, filter: String::new() };
    let (mut dir, mut out) = (None, None);
    let mut args = std::env::args().skip(1);
    // Only from this program itself.
    if let [_, child, path, first, n] = &*std::env::args().collect::<Vec<_>>()
        && child == "--child"
    {
        processes::child(path, first.parse().expect("a bit"), n.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_default();
        match arg.as_str() {
            "--quick" => scale = Scale { bits: 1 << 24, rounds: 5, ..scale },
            "--filter" => scale.filter = value(),
            "--out" => out = Some(PathBuf::from(value())),
            "--dir" => dir = Some(PathBuf::from(value())),
            _ => {
                eprintln!("{arg}: not known; there are --quick, --filter TEXT, --out DIR and --dir DIR");
                return ExitCode::from(16);
            }
        }
    }
    let in_memory = Path::new("/dev/shm");
    let fast = if in_memory.is_dir() { in_memory.to_path_buf() } else { std::env::temp_dir() };
    let scratch = tempfile::tempdir_in(dir.clone().unwrap_or(fast)).expect("a place for files");
    let device = tempfile::tempdir_in(latency::on_a_device(dir.as_deref())).expect("a place for files");
    let mut results = Vec::new();
    memory::rows(&scale, &mut results);
    file::rows(&scale, scratch.path(), &mut results);
    let counted = if scale.wants("flush, counted") { file::counted(scratch.path()) } else { Vec::new() };
    let scaled = processes::rows(&scale, scratch.path());
    let latencies = latency::rows(&scale, device.path());
    let tables = [("main", report::table(&results, &counted, &scaled)), ("latency", report::latencies(&latencies))];
    let found = tables.iter().filter(|(_, table)| !table.is_empty());
    print!("{}", found.map(|(_, table)| table.as_str()).collect::<Vec<_>>().join("\n"));
    if let Some(out) = out {
        let json = report::json(&results, &counted, &scaled, &latencies);
        std::fs::write(out.join("performance.json"), json).expect("write the JSON file");
        std::fs::write(out.join("performance.svg"), report::chart(&results)).expect("write the chart");
        let text = out.join("performance.md");
        if let Ok(old) = std::fs::read_to_string(&text) {
            std::fs::write(text, report::with_tables(old, &tables)).expect("write the tables");
        }
    }
    ExitCode::SUCCESS
}
