//! The system calls that the library makes, phase by phase, are those of the table in docs/c.md, which seccomp filters go by.

mod common;

use common::{Linked, compile, has, root, run};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

type Calls = BTreeSet<String>;

/// What a memory allocator and locks call at any time.
const ANY_TIME: &[&str] = &["brk", "mmap", "munmap", "mremap", "madvise", "mprotect", "futex"];

/// The table: what each phase calls, and what it may call beside that.
fn documented() -> BTreeMap<String, (Calls, Calls)> {
    let text = std::fs::read_to_string(root().join("../docs/c.md")).unwrap();
    let table = text.split_once("| phase | calls | sometimes |").expect("the table").1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let calls = |cell: &str| cell.split('`').skip(1).step_by(2).map(String::from).collect::<Calls>();
    let cells = |row: &str| row.trim_matches('|').split('|').map(str::trim).map(String::from).collect::<Vec<_>>();
    rows.map(|row| {
        let cells = cells(row);
        (cells[0].clone(), (calls(&cells[1]), calls(&cells[2])))
    })
    .collect()
}

/// What was called between the marks of the program; the phases that are gone through twice, together.
fn traced(trace: &str) -> BTreeMap<String, Calls> {
    let mut phases = BTreeMap::<String, Calls>::new();
    let mut phase = None;
    for line in trace.lines() {
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        if let Some(mark) = call.strip_prefix("write(-1, \"phase:") {
            let name = mark.split('"').next().unwrap().to_string();
            phases.entry(name.clone()).or_default();
            phase = Some(name);
        } else if let (Some(phase), Some((name, _))) = (&phase, call.split_once('('))
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            phases.entry(phase.clone()).or_default().insert(name.to_string());
        }
    }
    phases.remove("end");
    phases
}

#[test]
fn each_phase_makes_the_calls_that_are_documented_and_no_others() {
    if !has("strace") {
        println!("SKIPPED: no strace");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [binary, scratch, trace] = ["phases", "scratch", "trace"].map(|name| dir.path().join(name));
    std::fs::create_dir(&scratch).unwrap();
    compile(&root().join("tests/programs/phases.c"), &binary, Linked::Shared);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&trace).arg(&binary).arg(&scratch);
    if !command.output().is_ok_and(|output| output.status.success()) {
        // Where tracing is not allowed, the program alone has to succeed.
        run(Command::new(&binary).arg(dir.path()));
        println!("SKIPPED: strace may not trace here");
        return;
    }
    let traced = traced(&std::fs::read_to_string(trace).unwrap());
    let documented = documented();
    assert_eq!(traced.keys().collect::<Vec<_>>(), documented.keys().collect::<Vec<_>>());
    for (phase, calls) in traced {
        let (always, sometimes) = &documented[&phase];
        let known =
            |call: &&String| always.contains(*call) || sometimes.contains(*call) || ANY_TIME.contains(&call.as_str());
        let others: Vec<_> = calls.iter().filter(|call| !known(call)).collect();
        assert!(others.is_empty(), "{phase}: {others:?} are not in docs/c.md");
        let missing: Vec<_> = always.difference(&calls).collect();
        assert!(missing.is_empty(), "{phase}: {missing:?} were not called");
    }
}
