//! Ctrl-C while the command waits for somebody else's write: it ends, and everything is dirty as before.

mod common;

use common::{Dir, MIB, Ran, dirtymap, pattern};
use dirtymap::{Access, Options, checkpoint::CheckpointState};
use std::fs;
use std::process::{Command, Stdio};

const LEN: u64 = 16 * MIB;

#[test]
fn a_freeze_that_waits_for_a_stuck_writer_is_stopped_by_a_signal() {
    for backup in [false, true] {
        let dir = Dir::new();
        let (image, path, target) =
            (dir.path("image"), dir.map("m", LEN, std::slice::from_ref(&(MIB..2 * MIB))), dir.path("target"));
        fs::write(&image, pattern(LEN, 1)).unwrap();
        let map = Options::new().access(Access::Shared).flush_interval(None).open(&path).unwrap();
        let write = map.begin_write(0..1).unwrap();
        let dirty = map.dirty_len();
        let mut command = dirtymap();
        if backup {
            command.arg("backup").args([&image, &target]).arg("--map").arg(&path);
        } else {
            command.args(["checkpoint", "freeze"]).arg(&path);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It has reset what it froze, and only the write keeps it; or it has ended, and says why below.
        let pid = child.id().to_string();
        let child = std::thread::spawn(move || Ran::from(child.wait_with_output().unwrap()));
        let freezing = || map.checkpoint().unwrap().is_some_and(|c| c.state == CheckpointState::Freezing);
        while !(child.is_finished() || freezing() && !map.get_since_freeze(MIB).unwrap()) {
            std::thread::yield_now();
        }
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        child.join().unwrap().exits(32).says("interrupted while waiting for writes");
        assert_eq!(map.checkpoint().unwrap(), None);
        assert_eq!(map.dirty_len(), dirty);
        drop(write);
        map.close().unwrap();
        dm!("check", path).exits(0);
    }
}
