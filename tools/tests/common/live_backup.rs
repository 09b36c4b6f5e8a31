//! Backups of an export by a live snapshot of its server, and a place where one is held.

use super::live::{Place, bytes, until};
use super::{GRANULE, Ran, dirtymap, pattern, run};
use dirtymap::info::inspect;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub fn uri(place: &Place) -> String {
    format!("nbd+unix:///?socket={}", place.dir.path("socket").display())
}

/// A backup by the server of a place.
pub fn command(place: &Place, more: &[&str]) -> Command {
    command_by(place, &place.control(), more)
}

/// The same, by another control socket.
pub fn command_by(place: &Place, control: &Path, more: &[&str]) -> Command {
    let mut command = dirtymap();
    command.args(["--output", "json", "backup", &uri(place)]).arg("--control").arg(control).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn back_up(place: &Place, more: &[&str]) -> Ran {
    command(place, more).output().expect("run dirtymap").into()
}

pub fn target(place: &Place) -> PathBuf {
    place.dir.path("backup.raw")
}

/// A backup to the mirror.
pub fn mirror(place: &Place, more: &[&str]) -> Ran {
    let target = target(place);
    back_up(place, &[&[target.to_str().expect("text")], more].concat())
}

pub fn write(place: &Place, g: u64, seed: u64) {
    place.client("").expect("connect").write(g * GRANULE, &pattern(bytes(g).len() as u64, seed), 0).expect("write");
}

/// No checkpoint is outstanding, and what differs from the backup is dirty.
#[track_caller]
pub fn nothing_is_left(place: &Place, backup: &[u8]) {
    assert_eq!(inspect(place.map()).expect("inspect").checkpoint, None);
    assert_eq!(place.forgotten(backup), Vec::<u64>::new(), "these granules are forgotten");
}

/// A backup that is held at its first read of the snapshot.
pub struct Held {
    pub child: Child,
    pub hold: PathBuf,
}

impl Held {
    /// What the server is told that holds it.
    pub fn hold(place: &Place) -> [(&'static str, String); 1] {
        [("HOLD_AT", format!("Looked@{}", place.dir.path("hold").display()))]
    }

    pub fn start(place: &Place, more: &[&str]) -> Held {
        let child = command(place, more).spawn().expect("run dirtymap");
        let hold = place.dir.path("hold");
        until("the first read", || hold.exists().then_some(()));
        Held { child, hold }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal");
    }

    /// Lets it go on to its end.
    pub fn finish(self) -> Ran {
        let _ = fs::remove_file(&self.hold);
        self.child.wait_with_output().expect("wait").into()
    }
}

/// What the newest backup has: of the mirror, or of the set.
pub fn content(place: &Place, set: bool) -> Vec<u8> {
    if !set {
        return fs::read(target(place)).expect("read");
    }
    let out = place.dir.path("restored");
    run(["restore".as_ref(), place.dir.path("set").as_os_str(), out.as_os_str()]).exits(0);
    let restored = fs::read(&out).expect("read");
    fs::remove_file(out).expect("remove");
    restored
}

/// The mirror and the set as words, and whether it is the set.
pub fn targets(place: &Place) -> [(Vec<String>, bool); 2] {
    let text = |path: PathBuf| path.to_str().expect("text").to_string();
    [(vec![text(target(place))], false), (vec!["--set".into(), text(place.dir.path("set"))], true)]
}
