//! Live snapshots of several disks of one server.

mod common;

use common::live::until;
use common::serving::{Control, Server};
use common::{Dir, MIB, skipped};
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
