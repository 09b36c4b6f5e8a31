//! One command, one table: dirtymap beside other bitmaps and beside what the machine can do at most.
//!
//!     cargo run --release            in benches/: everything, some minutes
//!     cargo run --release -- --quick smaller maps, fewer rounds: a minute, to see that it works
//!
//! `--filter TEXT` runs only rows whose names contain it. `--out DIR` also writes performance.json,
//! performance.svg and scale.svg there, and the tables into performance.md if there is one; with a
//! filter, other rows stay as they are there, and so do the charts and the first table. `--dir DIR`
//! says where the files of timed rows are made; without it they are made in memory, and those of
//! which the latency is looked at on a disk.

mod chart;
mod harness;
mod inputs;
#[path = "../../tests/common/mounted.rs"]
mod mounted;
mod peers;
mod report;
mod rows;

use report::Found;
use rows::{Scale, arms, backups, file, latency, memory, processes, scale, steps, writes};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut scale = Scale { bits: 1 << 30, rounds: 11, filter: String::new() };
    let (mut dir, mut out) = (None, None);
    let mut args = std::env::args().skip(1);
    // Only from this program itself.
    match &*std::env::args().collect::<Vec<_>>() {
        [_, child, path, first, n] if child == "--child" => {
            processes::child(path, first.parse().expect("a bit"), n.parse().expect("a number"));
            return ExitCode::SUCCESS;
        }
        [_, child, what, size] if child == "--child-memory" => {
            scale::child(what, size.parse().expect("a size"));
            return ExitCode::SUCCESS;
        }
        _ => {}
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
    let mut found = Found::default();
    memory::rows(&scale, &mut found.measured);
    steps::rows(&scale, scratch.path(), &mut found.measured);
    file::rows(&scale, scratch.path(), &mut found.measured);
    if scale.wants("flush, counted") {
        found.counted = file::counted(scratch.path());
    }
    found.scaled = processes::rows(&scale, scratch.path());
    found.latencies = latency::rows(&scale, device.path());
    found.arms = arms::rows(&scale, device.path());
    found.written = writes::rows(&scale, device.path());
    found.backed_up = backups::rows(&scale, device.path());
    found.panels = scale::rows(&scale, scratch.path());
    let tables = [
        ("main", report::table(&found)),
        ("latency", report::latencies(&found.latencies)),
        ("arms", report::arms(&found.arms)),
        ("writes", report::written(&found.written)),
        ("backups", report::backed_up(&found.backed_up)),
        ("scale", report::panels(&found.panels)),
    ];
    let printed = tables.iter().filter(|(_, table)| !table.is_empty());
    print!("{}", printed.map(|(_, table)| table.as_str()).collect::<Vec<_>>().join("\n"));
    if let Some(out) = out {
        let write = |name: &str, text: String| std::fs::write(out.join(name), text).expect("write a result");
        let old = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_default();
        let mut tables = &tables[..];
        let mut rows = report::json(&found);
        if scale.filter.is_empty() {
            write("performance.svg", chart::ratios(&found.measured));
            write("scale.svg", chart::panels(&found.panels));
        } else {
            // The charts and the first table are of everything.
            tables = &tables[1..];
            rows = report::with_old(&rows, &old("performance.json"));
        }
        write("performance.json", rows);
        if out.join("performance.md").is_file() {
            write("performance.md", report::with_tables(old("performance.md"), tables));
        }
    }
    ExitCode::SUCCESS
}
