//! Commands around the freeze of a backup, and how fast a backup may be.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{MIB, Set, areas};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

const BIN: &str = env!("CARGO_BIN_EXE_dirtymap");

impl Set {
    /// A command that writes down what the map says of its checkpoint.
    fn look(&self, word: &str) -> String {
        let (map, log) = (self.map.display(), self.dir.path("log"));
        format!("echo {word} $({BIN} checkpoint status {map}) >> {}", log.display())
    }

    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path("log")).unwrap_or_default();
        log.lines().map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ")).collect()
    }
}

#[test]
fn one_is_run_before_the_freeze_and_one_behind_it_and_both_are_recorded() {
    let set = Set::of_image(2 * MIB);
    let more = format!("echo more | {BIN} write {} --map {} --at 1M", set.image.display(), set.map.display());
    let (pre, post) = (format!("{}; {more}", set.look("freeze")), set.look("thaw"));
    let told = set.keep(1, &["--consistency", "app", "--pre-hook", &pre, "--post-hook", &post]);
    for which in ["pre", "post"] {
        assert_eq!(told["hooks"][which]["ended"], "done");
        assert!(told["hooks"][which]["milliseconds"].is_u64());
    }
    let log = set.log();
    assert_eq!(log, ["freeze outstanding none", "thaw outstanding frozen"]);
    // What the first one wrote is in it.
    set.assert_restores(1);
    let info = dm!("set", "info", set.folder()).exits(0);
    assert!(info.out.contains("pre-hook done after ") && info.out.contains("post-hook done after "), "{}", info.out);
    // A mirror has them as well, and says so.
    let mirror = dm!("backup", set.image, set.target, "--map", set.map, "--pre-hook", "true").exits(0);
    assert!(mirror.out.contains("hooks    pre-hook done after"), "{}", mirror.out);
    assert_eq!(set.keep(2, &[])["hooks"], serde_json::Value::Null);
}

#[test]
fn without_the_one_before_there_is_no_backup_and_the_one_behind_is_run_all_the_same() {
    let set = Set::of_image(2 * MIB);
    let dirty = areas(&set.map);
    for (pre, said) in [("exit 3", "the pre-hook failed: exit status: 3"), ("sleep 1000", "took more than 1 seconds")] {
        let thaw = set.look("thaw");
        let ran = set.to_set(&["--pre-hook", pre, "--post-hook", &thaw, "--hook-limit", "1", "--output", "json"]);
        assert_eq!(ran.exits(8).says(said).json()["error"]["kind"], "hook-failed");
        assert!(set.log().last().is_some_and(|line| line.starts_with("thaw")));
        assert!(dm!("checkpoint", "status", set.map).exits(0).out.starts_with("outstanding  none"), "{pre}");
        assert_eq!(areas(&set.map), dirty);
    }
    assert_eq!(set.log().len(), 2);
    // What cannot be backed up stops no guest.
    set.to_set(&["--pre-hook", &set.look("freeze"), "--name", "1"]).exits(8);
    assert_eq!(set.log().len(), 2);
    assert_eq!(set.keep(1, &[])["full"], true);
    // What was frozen before is of another moment.
    set.to_set(&["--frozen", "--pre-hook", "true"]).exits(16);
    set.to_set(&["--hook-limit", "1"]).exits(16);
}

#[test]
fn a_backup_whose_one_behind_fails_is_complete_and_does_not_exit_as_if_nothing_was() {
    let set = Set::of_image(2 * MIB);
    let ran = set.to_set(&["--post-hook", "exit 3", "--output", "json"]).exits(8).says("the backup goes on");
    assert_eq!(ran.json()["hooks"]["post"]["ended"], "failed");
    set.dir.copy(&set.image, "reference-1");
    set.assert_restores(1);
    dm!("set", "verify", set.folder(), "--against", set.image).exits(0);
    let late = set.to_set(&["--post-hook", "sleep 1000", "--hook-limit", "1"]).exits(8);
    assert!(late.out.contains("post-hook ended for being late after 1."), "{}", late.out);
    let info = dm!("set", "info", set.folder(), "--output", "json").exits(0).json();
    assert_eq!(info["members"][0]["hooks"]["post"]["ended"], "failed");
    assert_eq!(info["members"][1]["hooks"]["post"]["ended"], "late");
    assert_eq!((areas(&set.map), set.keep(3, &[])["full"].clone()), (vec![], false.into()));
}

/// The lower bound of a time says nothing of the machine.
#[test]
fn no_more_is_read_a_second_than_was_said() {
    let set = Set::of_image(3 * MIB);
    set.to_set(&["--rate", "0"]).exits(16).says("at least one");
    let begun = Instant::now();
    set.to_set(&["--rate", "4M"]).exits(0);
    // 6 MiB, to copy and to verify: but for the last piece, and what is saved up at the start.
    assert!(begun.elapsed() > Duration::from_millis(1000), "{:?}", begun.elapsed());
    set.dir.copy(&set.image, "reference-1");
    set.assert_restores(1);
}

#[test]
fn a_backup_that_waits_for_its_rate_is_stopped_by_a_signal() {
    for to_set in [false, true] {
        let set = Set::of_image(3 * MIB);
        let frozen = set.dir.path("frozen");
        let mut command = common::dirtymap();
        command.arg("backup").arg(&set.image).arg("--map").arg(&set.map).args(["--rate", "1"]);
        command.args(["--post-hook", &format!("touch {}", frozen.display())]);
        if to_set {
            command.arg("--set").arg(set.folder())
        } else {
            command.arg(&set.target)
        };
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
        while !frozen.exists() {
            std::thread::yield_now();
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signal");
        let ran: common::Ran = child.wait_with_output().expect("wait").into();
        ran.exits(32).says("interrupted").says("no bit was reset");
        assert_eq!(areas(&set.map), [0..3 * MIB]);
    }
}

/// Between the look at a target and the first write to it may be minutes.
#[test]
fn a_mirror_that_another_program_writes_to_while_a_hook_runs_is_not_touched() {
    let set = Set::of_image(2 * MIB);
    let backup = |more: &[&str]| {
        let (image, target, map) = (set.image.as_os_str(), set.target.as_os_str(), set.map.as_os_str());
        let args = ["backup".as_ref(), image, target, "--map".as_ref(), map, "--output".as_ref(), "json".as_ref()];
        common::run(args.into_iter().chain(more.iter().map(|more| more.as_ref())))
    };
    backup(&[]).exits(0);
    for hook in ["--pre-hook", "--post-hook"] {
        let other = format!("echo other | dd of={} conv=notrunc status=none", set.target.display());
        let ran = backup(&[hook, &other]);
        assert_eq!(ran.exits(8).json()["error"]["kind"], "target-changed", "{hook}");
        assert!(fs::read(&set.target).unwrap().starts_with(b"other"));
        backup(&["--full"]).exits(0);
    }
}
