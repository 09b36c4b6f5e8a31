//! Live snapshots of several disks of one server.

mod common;

use common::live::{Place, takes_over, until};
use common::serving::{Control, Server};
use common::{Dir, GRANULE, MIB, pattern, skipped};
use dirtymap::info::inspect;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use std::process::Command;

/// Runs a server of two disks that may be kept from writing to any file, and lives on.
fn server_of_two(dir: &Dir, variables: &[(&str, String)]) -> Server {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_dirtymap"), "serve"]);
    let (socket, control) = (dir.path("socket"), dir.path("control"));
    command.arg("--socket").arg(&socket).arg("--control").arg(&control);
    for name in ["a", "b"] {
        let (image, map) = (dir.image(&format!("{name}.raw"), MIB), dir.path(&format!("{name}.map")));
        dm!("create", map, "--image", image).exits(0);
        command.arg("--disk").arg(format!("{name}={},map={}", image.display(), map.display()));
    }
    for (name, value) in variables {
        command.env(format!("DIRTYMAP_TEST_{name}"), value);
    }
    Server::run(command, socket)
}

/// Says how many bytes a file of the server may have.
fn limit(server: &Server, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Some(Pid::from_child(&server.child)), Resource::Fsize, limit).expect("limit");
}

/// Nothing is written anywhere that says that it was begun: so it need not go forward.
#[test]
fn a_commit_of_several_disks_that_cannot_be_begun_can_be_given_up() {
    if !cfg!(debug_assertions) {
        return skipped("a build without debug assertions has no steps to be held at");
    }
    for abort in [true, false] {
        let dir = Dir::new();
        let hold = dir.path("hold");
        let server = server_of_two(&dir, &[("HOLD_AT", format!("ImageSynced@{}", hold.display()))]);
        let ask = |line: &str| Control::connect(&dir.path("control")).ask(line);
        assert_eq!(ask(r#"{"request":"snapshot-create","name":"now"}"#)["name"], "now");
        std::thread::scope(|scope| {
            let commits = scope.spawn(|| ask(r#"{"request":"snapshot-commit","name":"now"}"#));
            until("a commit", || hold.exists().then_some(()));
            limit(&server, Some(0));
            std::fs::remove_file(&hold).expect("release");
            let failed = commits.join().expect("answered");
            limit(&server, None);
            let message = failed["error"]["message"].as_str().expect("it failed").to_string();
            assert!(message.contains("nothing was committed"), "{message}");
        });
        let request = if abort { "snapshot-abort" } else { "snapshot-commit" };
        let done = ask(&format!(r#"{{"request":"{request}","name":"now"}}"#));
        assert_eq!(done["error"], Value::Null, "{request}");
        for name in ["a", "b"] {
            let info = inspect(dir.path(&format!("{name}.map"))).expect("inspect");
            assert_eq!((info.checkpoint, info.committed.is_some()), (None, !abort));
        }
        server.stop().exits(0);
    }
}

/// Two disks whose snapshot is for a backup of each, so that each of them ends by itself.
fn two_of_a_backup(leave_out: Option<&'static str>) -> Place {
    let mut place = Place { leave_out, ..Place::new() };
    let (image, map) = (place.dir.image("b.raw", MIB), place.dir.path("b.map"));
    dm!("create", map, "--image", image).exits(0);
    let second = format!("b={},map={}", image.display(), map.display());
    place.more = ["--name", "a", "--disk", &second].map(Into::into).into();
    place
}

const OF_A_BACKUP: &[u8] = br#"{"request":"snapshot-create","backups":[{"export":"a","name":"now","target":null},{"export":"b","name":"now","target":null}]}
"#;

/// What is wrong with what the next server makes of a snapshot that was being made; `None` if it was made before the kill.
fn killed_while_it_makes(step: u64, leave_out: Option<&'static str>) -> Option<Result<(), String>> {
    let place = two_of_a_backup(leave_out);
    let variables = [("KILL_AT", step.to_string())];
    // Some of the steps are those of its start.
    let Some(mut server) = place.start(&variables) else { return Some(Ok(())) };
    for disk in ["a", "b"] {
        // It may die of that as well.
        let written = place.client(disk).map(|mut client| client.write(0, &pattern(GRANULE, step), 0).is_ok());
        if !written.is_ok_and(|written| written) {
            return Some(Ok(()));
        }
    }
    if !Control::connect(&place.control()).raw(OF_A_BACKUP).is_empty() {
        assert!(!server.is_dead());
        return None;
    }
    until("its end", || server.is_dead().then_some(()));
    let next = place.start(&[]).expect("a server");
    let listed = Control::connect(&place.control()).ask(r#"{"request":"snapshot-list"}"#)["snapshots"].clone();
    let outstanding =
        [place.map(), place.dir.path("b.map")].map(|map| inspect(map).expect("inspect").checkpoint.is_some());
    let all_or_none = match listed.as_array().expect("a list").as_slice() {
        [] => outstanding == [false; 2],
        [there] => {
            outstanding == [true; 2]
                && there["disks"].as_array().is_some_and(|all| all.iter().all(|disk| disk["checkpoint"].is_string()))
        }
        _ => false,
    };
    assert!(next.stop());
    Some(if all_or_none { Ok(()) } else { Err(format!("step {step}: {listed}, outstanding: {outstanding:?}")) })
}

/// What was frozen when not all were is no snapshot, whatever a disk without a checkpoint says later.
#[test]
fn a_server_that_dies_while_it_makes_a_snapshot_of_several_disks_leaves_one_of_all_or_none() {
    if !cfg!(debug_assertions) {
        return skipped("a build without debug assertions has no steps to be killed at");
    }
    let all =
        |leave_out| (1..).map_while(|step| killed_while_it_makes(step, leave_out)).collect::<Result<Vec<()>, String>>();
    let steps = all(None).unwrap_or_else(|e| panic!("{e}")).len();
    assert!(steps > 16, "{steps} steps");
    if takes_over() {
        println!("without the rule: {}", all(Some("MadeThenEnded")).expect_err("it is needed"));
    }
}

#[test]
fn an_abort_says_what_was_committed_before_and_the_log_of_which_disk_it_was() {
    let place = two_of_a_backup(None);
    let server = place.start(&[]).expect("a server");
    let mut asks = Control::connect(&place.control());
    let made = asks.ask(std::str::from_utf8(OF_A_BACKUP).expect("text").trim_end());
    let target = dirtymap::ImageStamp::of_path(&place.image()).expect("a stamp").to_bytes();
    let target: String = target.iter().map(|byte| format!("{byte:02x}")).collect();
    let backup = format!(r#"{{"export":"a","target":"{target}","audited":0}}"#);
    let committed = asks.ask(&format!(r#"{{"request":"snapshot-commit","id":{},"backup":{backup}}}"#, made["id"]));
    assert_eq!(
        (&committed["disks"][0]["committed"], &committed["disks"][1]["committed"]),
        (&true.into(), &false.into())
    );
    let said = dm!("snapshot", "abort", "--server", place.control()).exits(0).out;
    assert!(said.contains("but for 1 of its 2 disks"), "{said}");
    let log = place.log();
    for (disk, what) in [(place.map(), "committed"), (place.dir.path("b.map"), "given up")] {
        assert!(log.contains(&format!("{what} for {} alone", disk.display())), "{log}");
    }
    assert!(server.stop());
}
