//! What a message says to do next: it names what is there, and leads to nothing that does harm.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::live::{Place, until};
use common::live_backup::{mirror, target, uri, write};
use common::{GRANULE, MIB, Ran, Set, dirtymap, run};
use dirtymap::info::inspect;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};

/// Runs words and files, which are refused, and what is said holds all of this.
#[track_caller]
fn refused(args: &[&dyn AsRef<OsStr>], code: i32, says: &[&str]) -> Ran {
    let ran = run(args.iter().map(|arg| arg.as_ref())).exits(code);
    says.iter().fold(ran, |ran, what| ran.says(what))
}

#[test]
fn a_file_that_is_not_there_is_looked_for_in_a_folder_that_is_named() {
    let set = Set::of_image(MIB);
    let dir = set.dir.path("");
    let folder =
        format!("the folder {} has nothing that is called so", dir.display().to_string().trim_end_matches('/'));
    let (none, deep) = (set.dir.path("none"), set.dir.path("no/such/none"));
    for (args, what) in [
        (&[&"info" as &dyn AsRef<OsStr>, &none][..], "dirtymap create"),
        (&[&"backup", &set.image, &set.target, &"--map", &none], "dirtymap create"),
        (&[&"backup", &none, &set.target, &"--map", &set.map], ""),
        (&[&"create", &"new.map", &"--image", &none], ""),
        (&[&"set", &"list", &none], ""),
        (&[&"restore", &none, &"new.raw"], ""),
    ] {
        refused(args, 8, &["none: open: No such file", &folder, what]);
    }
    refused(&[&"info", &deep], 8, &["there is no folder", "no/such, of which only", "is there"]);
    refused(&[&"create", &deep, &"--size", &"1M"], 8, &["there is no folder"]);
    refused(&[&"set", &"list", &set.image], 8, &["is no folder, and so no backup set"]);
    refused(&[&"set", &"list", &dir], 8, &["is no backup set", "give the folder that backups went to"]);
    set.to_set(&[]).exits(0);
    refused(&[&"set", &"list", &dir], 8, &["each disk has a set of its own in it", "backups"]);
}

#[test]
fn who_is_no_server_is_told_from_one_that_has_ended() {
    let place = Place::new();
    let dead = place.dir.path("dead");
    drop(UnixListener::bind(&dead).expect("bind"));
    let server = place.start(&[]).expect("a server");
    let target = target(&place);
    mirror(&place, &[]).exits(0);
    for (control, says) in [
        (place.dir.path("none"), "no control socket is there"),
        (dead, "the server has ended, and left its control socket; start it again"),
        (place.image(), "that is no socket"),
        (place.dir.path("socket"), "is the socket for NBD clients; give the control socket"),
    ] {
        let backup = [&"backup" as &dyn AsRef<OsStr>, &uri(&place), &target, &"--control", &control];
        let ran = refused(&backup, 8, &[says, "--control"]);
        assert!(!ran.err.contains("--force"), "{ran:?}");
        refused(&[&"snapshot", &"list", &"--server", &control], 8, &[says]);
    }
    let none = format!("nbd+unix:///?socket={}", place.dir.path("none").display());
    refused(&[&"backup", &none, &target, &"--control", &place.control()], 8, &["give an export of that one"]);
    refused(&[&"snapshot", &"commit", &"--server", &place.control()], 8, &["has no snapshot; what it has: none"]);
    drop(server);
}

/// By the control socket of another server the map does not know the target: it is not to be overwritten for that.
#[test]
fn the_control_socket_of_another_server_is_asked_about_before_anything_is_forced() {
    let (place, other) = (Place::new(), Place::new());
    let _servers = [place.start(&[]).expect("a server"), other.start(&[]).expect("a server")];
    let set = place.dir.path("set");
    mirror(&place, &[]).exits(0);
    let wanted = [&"backup" as &dyn AsRef<OsStr>, &uri(&place), &"--control", &other.control()];
    let asks = ["the control socket of the server of", "(--control); if it is"];
    let ran = refused(&[&wanted[..], &[&target(&place)]].concat(), 8, &asks);
    assert!(ran.err.find(asks[0]) < ran.err.find("--force"), "{ran:?}");
    // A set knows the export by its name; then it is the export of a snapshot that is not there.
    refused(&[&"backup", &uri(&place), &"--control", &place.control(), &"--set", &set], 0, &[]);
    let ran = refused(&[&wanted[..], &[&"--set", &set]].concat(), 8, &["is an export of another server"]);
    assert!(!ran.err.contains("--force"), "{ran:?}");
    assert_eq!(inspect(other.map()).expect("inspect").checkpoint, None);
}

#[test]
fn what_was_given_in_the_place_of_something_else_is_called_what_it_is() {
    let set = Set::of_image(MIB);
    let new = set.dir.path("new");
    refused(&[&"create", &new, &"--image", &set.map], 8, &["is a map, and no image"]);
    set.to_set(&[]).exits(0);
    refused(&[&"restore", &new, &set.folder()], 8, &["is a backup set, which comes first"]);
    refused(&[&"restore", &set.folder(), &set.image], 8, &["exists already", "(--map FILE)"]);
    let socket = set.dir.path("socket");
    let _listens = UnixListener::bind(&socket).expect("bind");
    refused(&[&"backup", &socket, &new, &"--map", &set.map], 8, &["nbd+unix:///?socket=PATH", "--control"]);
    for (more, says) in [
        ([&"--socket" as &dyn AsRef<OsStr>, &socket], "another server listens there"),
        ([&"--socket", &set.image], "which is no socket"),
        ([&"--socket", &set.dir.path("no/socket")], "there is no folder"),
    ] {
        refused(&[&[&"serve" as &dyn AsRef<OsStr>, &set.image, &"--map", &set.map], &more[..]].concat(), 8, &[says]);
    }
    let control =
        [&"serve" as &dyn AsRef<OsStr>, &set.image, &"--map", &set.map, &"--socket", &new, &"--control", &socket];
    refused(&control, 8, &["another server listens there"]);
}

#[test]
fn a_time_that_is_none_and_a_hook_that_fails_are_told_with_what_to_do() {
    let set = Set::of_image(MIB);
    set.to_set(&[]).exits(0);
    let out = set.dir.path("new");
    for until in ["yesterday", "2026-11-29", "2026-11-29T10:00", ""] {
        let args = [&"restore" as &dyn AsRef<OsStr>, &set.folder(), &out, &"--until", &until];
        refused(&args, 16, &["--until", &format!("{until:?} is no time"), "2026-11-29T10:00:00Z", "+01:00"]);
    }
    let hooks = [&"backup" as &dyn AsRef<OsStr>, &set.image, &set.target, &"--map", &set.map, &"--pre-hook", &"false"];
    refused(&hooks, 8, &["the pre-hook failed: exit status: 1; nothing was frozen"]);
    let old = [&"restore" as &dyn AsRef<OsStr>, &set.folder(), &out, &"--until", &"2001-01-01T00:00:00Z"];
    refused(&old, 8, &["give that time or a later one"]);
}

#[test]
fn watch_says_that_the_server_has_ended() {
    let place = Place::new();
    let server = place.start(&[]).expect("a server");
    let mut command = dirtymap();
    command.arg("watch").arg(place.control()).args(["--interval", "0.05"]).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run dirtymap");
    std::io::Read::read_exact(child.stdout.as_mut().expect("piped"), &mut [0]).expect("a first look");
    server.kill();
    Ran::from(child.wait_with_output().expect("wait")).exits(8).says("the server has ended");
}

#[test]
fn watch_says_what_it_waits_for() {
    let place = Place::new();
    let _silent = UnixListener::bind(place.control()).expect("bind");
    let mut command = dirtymap();
    command.arg("watch").arg(place.control()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run dirtymap");
    let mut said = String::new();
    BufReader::new(child.stderr.take().expect("piped")).read_line(&mut said).expect("a line");
    assert!(said.contains("waiting for the server"), "{said}");
    kill_process(Pid::from_child(&child), Signal::INT).expect("signal");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

/// Runs until it has frozen something, and has begun to write `file`.
fn stopped(args: &[&dyn AsRef<OsStr>], map: &Path, file: &Path, by: Signal) -> Ran {
    let mut command = dirtymap();
    command.arg("backup").args(args.iter().map(|arg| arg.as_ref())).args(["--rate", "64K"]).stdin(Stdio::null());
    let child: Child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run dirtymap");
    until("a backup under way", || {
        let frozen = inspect(map).is_ok_and(|info| info.checkpoint.is_some());
        let written = fs::read(file).is_ok_and(|bytes| bytes.iter().any(|byte| *byte != 0));
        (frozen && written).then_some(())
    });
    kill_process(Pid::from_child(&child), by).expect("signal");
    child.wait_with_output().expect("wait").into()
}

#[test]
fn what_a_full_backup_has_left_that_was_stopped_is_told_by_all_who_look_at_the_set() {
    let set = Set::of_image(8 * MIB);
    let (folder, part) = (set.folder(), set.folder().join("0001.qcow2.part"));
    let args = [&set.image as &dyn AsRef<OsStr>, &"--set", &folder, &"--map", &set.map];
    stopped(&args, &set.map, &part, Signal::INT).exits(32);
    let said = "a full backup was stopped";
    refused(&[&"set", &"list", &folder], 0, &[said, "nothing can be restored", "the set has no member yet"]);
    let info = dm!("set", "info", folder).exits(0).out;
    assert!(info.contains(said), "{info}");
    let verified = dm!("set", "verify", folder).out;
    assert!(verified.contains(said) && verified.contains("nothing to verify"), "{verified}");
    assert!(!verified.contains("as it was"), "{verified}");
    refused(&[&"restore", &folder, &set.dir.path("new")], 8, &["no member yet"]);
    // The next one says what it kept, also if that is nothing.
    assert!(set.to_set(&[]).exits(0).out.contains("of a backup that was stopped"));
    // Of some that are damaged it does not say that all are as they were.
    set.write(0, b"x");
    set.to_set(&[]).exits(0);
    common::patch(&set.member(2), |bytes| *bytes.last_mut().expect("a byte") ^= 1);
    let verified = dm!("set", "verify", folder).exits(4).out;
    assert!(verified.contains("verified 1 member of 2"), "{verified}");
    common::patch(&set.member(1), |bytes| *bytes.last_mut().expect("a byte") ^= 1);
    let verified = dm!("set", "verify", folder).exits(4).out;
    assert!(verified.contains("no member is as it was") && !verified.contains("verified"), "{verified}");
}

#[test]
fn a_mirror_says_why_it_is_full_and_what_it_settles() {
    let set = Set::of_image(8 * MIB);
    let backup = |more: &[&str]| {
        let args = [OsStr::new("backup"), set.image.as_os_str(), set.target.as_os_str(), OsStr::new("--map")];
        run(args.into_iter().chain([set.map.as_os_str()]).chain(more.iter().map(OsStr::new))).exits(0)
    };
    let args = [&set.image as &dyn AsRef<OsStr>, &set.target, &"--map", &set.map];
    stopped(&args, &set.map, &set.target, Signal::KILL);
    let ran = backup(&[]).says("a backup that was not completed has left the checkpoint");
    let because = |ran: &Ran| ran.out.lines().nth(1).expect("a second line").to_string();
    assert_eq!(because(&ran), "full because the last backup to this target was not completed");
    assert_eq!(because(&backup(&["--full"])), "full because it was asked for (--full)");
    assert!(!because(&backup(&[])).starts_with("full"));
    dm!("set", set.map, "0", "8M").exits(0);
    assert_eq!(because(&backup(&[])), "full because everything is dirty");
    assert_eq!(backup(&["--output", "json"]).json()["why_full"], serde_json::Value::Null);
    fs::remove_file(&set.target).expect("remove");
    assert_eq!(because(&backup(&[])), "full because the target is new, or empty");
}

#[test]
fn what_a_kill_has_left_is_called_what_it_is() {
    let set = Set::of_image(8 * MIB);
    dm!("reset", set.map, "--all").exits(0);
    let map = set.dir.unclean("unclean.map", 8 * MIB, &[]);
    let info = dm!("info", map).exits(0);
    // Nothing was armed: so nothing may be said to have been added.
    assert!(info.err.contains("nothing was armed") && !(info.err + &info.out).contains("was added"), "{}", info.out);
    let map = set.dir.unclean("dirty.map", 8 * MIB, &[0..1]);
    let check = dm!("check", map).exits(2).out;
    let words: Vec<&str> = check.split_whitespace().collect();
    // One word of the map is armed: 64 granules.
    let said = format!("copies what is dirty, of which up to {} bytes are so only for the crash", 64 * GRANULE);
    assert!(words.join(" ").contains(&said), "{check}");
}

#[test]
fn a_snapshot_is_told_of_by_the_log_and_by_the_checkpoint() {
    let mut place = Place::new();
    place.more = ["--scratch-limit", "64K"].map(String::from).to_vec();
    let server = place.start(&[]).expect("a server");
    let status = || dm!("checkpoint", "status", place.map()).exits(0).out;
    assert!(!status().contains("snapshot"), "{}", status());
    (1..4).for_each(|g| write(&place, g, g));
    dm!("snapshot", "create", "--server", place.control(), "--name", "s1").exits(0);
    assert!(status().contains("a live snapshot's: its server ends it"), "{}", status());
    dm!("snapshot", "commit", "--server", place.control()).exits(0);
    (1..4).for_each(|g| write(&place, g, g));
    dm!("snapshot", "create", "--server", place.control(), "--name", "s2").exits(0);
    (1..4).for_each(|g| write(&place, g, 10 + g));
    let listed = dm!("snapshot", "list", "--server", place.control()).exits(0).out;
    let scratch = fs::canonicalize(place.dir.path("")).expect("a path");
    for what in ["broken", "64 KiB, and may have 64 KiB", "larger --scratch-limit", &scratch.display().to_string()] {
        assert!(listed.contains(what), "{what:?} is not in {listed}");
    }
    dm!("snapshot", "abort", "--server", place.control()).exits(0);
    server.kill();
    let log = fs::read_to_string(place.dir.path("log")).expect("read");
    let lines = [
        "\"s1\", ",
        "made; 192 KiB are to be copied",
        "committed",
        "\"s2\"",
        "is broken: a copy to scratch in",
        "given up",
    ];
    lines.iter().fold(0, |at, line| {
        let found = log[at..].find(line).unwrap_or_else(|| panic!("{line:?} is not in the log, in order:\n{log}"));
        at + found
    });
    // Frozen by hand it is whoever's who froze.
    dm!("checkpoint", "freeze", place.map(), "--name", "mine").exits(0);
    assert!(status().contains("dirtymap checkpoint abort"), "{}", status());
    drop(UnixStream::connect(place.control()).expect_err("no server"));
}
