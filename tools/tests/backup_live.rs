//! Backups of an export, by a live snapshot of its server: of one moment, and nothing is forgotten whoever is killed.

mod common;

use common::live::{GRANULES, Place, SIZE, takes_over, until};
use common::live_backup::{Held, back_up, command, content, mirror, nothing_is_left, target, targets, uri, write};
use common::serving::Control;
use common::{GRANULE, Ran, areas, pattern, run};
use dirtymap::format::GATE_LOCK;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_WRLCK, SEEK_SET, flock};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::PathBuf;

#[test]
fn the_first_is_full_and_the_next_copy_what_was_written() {
    let place = Place::new();
    let server = place.start(&[]).expect("a server");
    let full = mirror(&place, &[]).exits(0).json();
    assert_eq!((&full["full"], &full["new_target"], &full["one_moment"]), (&true.into(), &true.into(), &true.into()));
    assert_eq!((&full["image"], &full["bytes_verified"]), (&uri(&place).into(), &SIZE.into()));
    for round in 0..3 {
        write(&place, 2 + round, 10 + round);
        let done = mirror(&place, &["--name", &format!("round-{round}")]).exits(0).json();
        assert_eq!((&done["full"], &done["bytes_copied"]), (&false.into(), &GRANULE.into()));
        assert_eq!(done["granules_audited"], GRANULES - 1, "what is clean is compared as well");
        assert!(fs::read(target(&place)).expect("read") == fs::read(place.image()).expect("read"));
        nothing_is_left(&place, &fs::read(target(&place)).expect("read"));
        assert_eq!(areas(&place.map()), []);
    }
    // What the map knows of the target is what a backup of the image goes by, and the other way round.
    assert!(server.stop());
    let (image, map) = (place.image(), place.map());
    assert_eq!(dm!("--output", "json", "backup", image, target(&place), "--map", map).exits(0).json()["full"], false);
    let _server = place.start(&[]).expect("a server");
    write(&place, 7, 99);
    let done = mirror(&place, &["--since", "round-2"]).exits(0).json();
    assert_eq!((&done["full"], &done["bytes_copied"]), (&false.into(), &GRANULE.into()));
    let members = fs::read_dir(place.dir.path("")).expect("list").map(|e| e.expect("an entry").file_name());
    assert!(members.into_iter().all(|name| !name.to_string_lossy().starts_with("dirtymap-")), "scratch is left");
}

/// The map is opened for reading alone while the server freezes, by when somebody else may be about to open it.
#[test]
fn a_backup_waits_for_a_map_that_another_program_is_opening() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    let (begun, goes_on) = (place.dir.path("begun"), place.dir.path("goes-on"));
    let hook = format!("touch {}; while ! test -e {}; do sleep 0.01; done", begun.display(), goes_on.display());
    let target = target(&place);
    let more = [target.to_str().expect("text"), "--wait", "60", "--pre-hook", &hook];
    let mut child = command(&place, &more).spawn().expect("run dirtymap");
    until("the hook", || begun.exists().then_some(()));
    let map = fs::File::options().read(true).write(true).open(place.map()).expect("open");
    let gate =
        flock { l_type: F_WRLCK as i16, l_whence: SEEK_SET as i16, l_start: GATE_LOCK as i64, l_len: 1, l_pid: 0 };
    fcntl(&map, FcntlArg::F_OFD_SETLK(&gate)).expect("lock");
    fs::write(goes_on, "").expect("write");
    // The library itself waits for 5 seconds.
    let held = std::time::Instant::now();
    while held.elapsed().as_secs() < 7 && child.try_wait().expect("look").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(map);
    Ran::from(child.wait_with_output().expect("wait")).exits(0);
}

#[test]
fn what_is_copied_is_of_the_moment_of_the_snapshot() {
    let place = Place::new();
    for (words, set) in targets(&place) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for round in 0..2 {
            let server = place.start(&Held::hold(&place)).expect("a server");
            write(&place, 3, 40 + round);
            let frozen = fs::read(place.image()).expect("read");
            let held = Held::start(&place, &words);
            (0..GRANULES).for_each(|g| write(&place, g, 50 + g));
            let done = held.finish().exits(0).json();
            assert_eq!((&done["one_moment"], &done["image_changed"]), (&true.into(), &false.into()));
            assert_eq!(done["bytes_copied"], if round == 0 { SIZE } else { GRANULE });
            assert!(content(&place, set) == frozen, "the backup is of another moment");
            nothing_is_left(&place, &frozen);
            // All of that is for the next one.
            back_up(&place, &words).exits(0);
            assert!(content(&place, set) == fs::read(place.image()).expect("read"));
            assert!(server.stop());
        }
    }
}

#[test]
fn what_is_written_as_soon_as_it_is_frozen_is_for_the_next_member() {
    let place = Place::new();
    let server = place.start(&[]).expect("a server");
    let (words, set) = targets(&place)[1].clone();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    back_up(&place, &words).exits(0);
    assert!(server.stop());
    let hold = place.dir.path("hold");
    let _server = place.start(&[("HOLD_AT", format!("Frozen@{}", hold.display()))]).expect("a server");
    write(&place, 3, 3);
    let frozen = fs::read(place.image()).expect("read");
    let child = command(&place, &words).spawn().expect("run dirtymap");
    until("the freeze", || hold.exists().then_some(()));
    // The command does not know yet that there is a snapshot.
    write(&place, 7, 7);
    fs::remove_file(&hold).expect("remove");
    let done = Ran::from(child.wait_with_output().expect("wait")).exits(0).json();
    assert_eq!((&done["full"], &done["bytes_copied"]), (&false.into(), &GRANULE.into()));
    assert!(content(&place, set) == frozen);
    nothing_is_left(&place, &frozen);
}

#[test]
fn a_backup_that_goes_by_the_map_in_between_is_noticed() {
    let place = Place::new();
    let server = place.start(&[]).expect("a server");
    mirror(&place, &[]).exits(0);
    assert!(server.stop());
    let hold = place.dir.path("hold");
    let _server = place.start(&[("HOLD_AT", format!("CopyingOn@{}", hold.display()))]).expect("a server");
    write(&place, 3, 3);
    let to = target(&place);
    let child = command(&place, &[to.to_str().expect("text")]).spawn().expect("run dirtymap");
    until("the snapshot", || hold.exists().then_some(()));
    // It has let go of the map, and the server has not frozen it: but no other backup gets it.
    let other = place.dir.path("other.raw");
    dm!("backup", place.image(), other, "--map", place.map()).exits(8).says("another process is making a backup by it");
    // Nor is what was written forgotten for one that is made by hand, which goes elsewhere.
    let copy = fs::read(place.image()).expect("read");
    dm!("checkpoint", "freeze", place.map()).exits(0);
    dm!("checkpoint", "commit", place.map()).exits(0);
    fs::remove_file(&hold).expect("remove");
    let ran = Ran::from(child.wait_with_output().expect("wait")).exits(8);
    assert!(ran.out.contains("another backup went by it"), "{}", ran.out);
    nothing_is_left(&place, &copy);
    // Its target lacks what is clean now.
    assert!(mirror(&place, &[]).exits(8).out.contains("target-changed"));
}

#[test]
fn holes_stay_holes() {
    let place = Place::of_zeros(SIZE);
    let file = fs::File::options().write(true).open(place.image()).expect("open");
    // Data at the start, in the middle and at the end, of parts of granules.
    file.set_len(0).and_then(|()| file.set_len(SIZE)).expect("make it a hole");
    let server = place.start(&[]).expect("a server");
    let mut client = place.client("").expect("connect");
    for (at, length) in [(0, 512), (5 * GRANULE + 100, 2 * GRANULE), (SIZE - 1, 1)] {
        client.write(at, &pattern(length, at), 0).expect("write");
    }
    drop(client);
    let done = mirror(&place, &[]).exits(0).json();
    // The server knows blocks of 4096 bytes: 1, 33 and 1 of them have data.
    let copied = 35 * 4096;
    assert_eq!((&done["bytes_copied"], &done["bytes_holes"]), (&copied.into(), &(SIZE - copied).into()));
    assert!(fs::read(target(&place)).expect("read") == fs::read(place.image()).expect("read"));
    assert!(server.stop());
}

#[test]
fn what_is_verified_is_given_back_to_the_server() {
    let place = Place::new();
    let hold = place.dir.path("hold");
    let steps = [("HOLD_AT", format!("ImageSynced@{}", hold.display()))];
    let _server = place.start(&steps).expect("a server");
    let to = target(&place);
    let child = command(&place, &[to.to_str().expect("text")]).spawn().expect("run dirtymap");
    // The commit has begun.
    until("the commit", || hold.exists().then_some(()));
    let listed = place.snapshot(&["list"]).exits(0).json()["snapshots"][0].clone();
    let disk = &listed["disks"][0];
    // All of it, as the map was clean: of a full backup nothing was dirty.
    assert_eq!((&listed["whole"], &disk["frozen_bytes"]), (&true.into(), &0.into()));
    write(&place, 3, 3);
    let listed = place.snapshot(&["list"]).exits(0).json()["snapshots"][0].clone();
    assert_eq!(listed["disks"][0]["scratch_bytes"], 0, "what the backup is done with is copied before a write");
    fs::remove_file(&hold).expect("remove");
    Ran::from(child.wait_with_output().expect("wait")).exits(0);
    nothing_is_left(&place, &fs::read(to).expect("read"));
}

#[test]
fn a_set_goes_on_from_member_to_member_and_each_can_be_restored() {
    let place = Place::new();
    let server = place.start(&[]).expect("a server");
    let set = place.dir.path("set");
    let to_set = ["--set", set.to_str().expect("text")];
    let mut references = Vec::new();
    for round in 0..4u64 {
        write(&place, round, 70 + round);
        references.push(fs::read(place.image()).expect("read"));
        let done = back_up(&place, &[&to_set[..], &["--consistency", "app"]].concat()).exits(0).json();
        assert_eq!((&done["full"], &done["member"]["consistency"]), (&(round == 0).into(), &"app".into()));
        assert_eq!(done["bytes_copied"], if round == 0 { SIZE } else { GRANULE });
        if round == 2 {
            // Another checkpoint takes what was written: then the member needs more than what is frozen.
            write(&place, 9, 1);
            mirror(&place, &[]).exits(0);
            references[2] = fs::read(place.dir.path("backup.raw")).expect("read");
            assert_eq!(back_up(&place, &to_set).exits(0).json()["bytes_copied"], GRANULE);
        }
    }
    let info = dm!("--output", "json", "set", "info", set).exits(0).json();
    assert_eq!(
        (&info["members"][0]["image"], info["members"].as_array().map(Vec::len)),
        (&uri(&place).into(), Some(5))
    );
    assert!(server.stop());
    dm!("set", "verify", set, "--against", place.image()).exits(0);
    for (member, reference) in [("0001", 0), ("0002", 1), ("0004", 2), ("0005", 3)] {
        let out = place.dir.path(member);
        dm!("restore", format!("{}@{member}", set.display()), out).exits(0);
        assert!(fs::read(out).expect("read") == references[reference], "member {member} is another image");
    }
    // It is the set of the image as well.
    let done = dm!("--output", "json", "backup", place.image(), "--set", set, "--map", place.map()).exits(0).json();
    assert_eq!((&done["full"], &done["bytes_copied"]), (&false.into(), &0.into()));
}

#[test]
fn a_backup_that_is_killed_is_settled_by_the_next_one() {
    let place = Place::new();
    for (words, set) in targets(&place) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // The first, full one, and one after it.
        for round in 0..2 {
            let server = place.start(&Held::hold(&place)).expect("a server");
            write(&place, 4, 10 + round);
            let held = Held::start(&place, &words);
            held.signal(Signal::KILL);
            held.finish();
            write(&place, 5, 20 + round);
            assert!(place.outstanding().is_some(), "the snapshot is there still");
            assert_eq!(back_up(&place, &words).exits(0).json()["full"], round == 0);
            let backup = content(&place, set);
            assert!(backup == fs::read(place.image()).expect("read"));
            nothing_is_left(&place, &backup);
            assert!(server.stop());
        }
    }
}

#[test]
fn a_signal_ends_it_and_everything_is_dirty_as_before() {
    let place = Place::new();
    let server = place.start(&Held::hold(&place)).expect("a server");
    mirror_beside_a_hold(&place);
    let before = fs::read(target(&place)).expect("read");
    write(&place, 6, 6);
    assert!(server.stop());
    let _server = place.start(&Held::hold(&place)).expect("a server");
    let to = target(&place);
    let held = Held::start(&place, &[to.to_str().expect("text"), "--reconnect", "3600"]);
    held.signal(Signal::INT);
    // It does not wait for the read.
    until("its end", || place.outstanding().is_none().then_some(()));
    held.finish().exits(32).says("interrupted");
    nothing_is_left(&place, &before);
    assert_eq!(place.snapshot(&["list"]).exits(0).json()["snapshots"], serde_json::json!([]));
    assert_eq!(mirror(&place, &[]).exits(0).json()["bytes_copied"], GRANULE);
}

/// A backup of a server that holds the first read.
fn mirror_beside_a_hold(place: &Place) {
    let to = target(place);
    Held::start(place, &[to.to_str().expect("text")]).finish().exits(0);
}

#[test]
fn it_goes_on_with_the_next_server_when_one_is_killed() {
    if !takes_over() {
        return;
    }
    let place = Place::new();
    for (words, set) in targets(&place) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let server = place.start(&Held::hold(&place)).expect("a server");
        let frozen = fs::read(place.image()).expect("read");
        let held = Held::start(&place, &words);
        write(&place, 1, 30);
        server.kill();
        let _server = place.start(&[]).expect("the next server");
        write(&place, 2, 40);
        let ran = held.finish().exits(0).says("waiting up to 30 s");
        assert_eq!(ran.json()["one_moment"], true);
        assert!(content(&place, set) == frozen, "the backup is of another moment");
        nothing_is_left(&place, &frozen);
    }
}

#[test]
fn a_server_that_does_not_come_back_ends_it_and_loses_nothing() {
    let place = Place::new();
    let server = place.start(&Held::hold(&place)).expect("a server");
    mirror_beside_a_hold(&place);
    let before = fs::read(target(&place)).expect("read");
    write(&place, 3, 9);
    assert!(server.stop());
    let server = place.start(&Held::hold(&place)).expect("a server");
    let to = target(&place);
    let held = Held::start(&place, &[to.to_str().expect("text"), "--reconnect", "1"]);
    server.kill();
    let ran = held.finish().exits(8).says("start it again").says("no bit was reset");
    assert!(ran.out.contains("server-gone"), "{}", ran.out);
    nothing_is_left(&place, &before);
    let _server = place.start(&[]).expect("a server");
    // It may be compared first, as it was begun.
    assert_eq!(mirror(&place, &[]).exits(0).json()["bytes_copied"], GRANULE);
    assert!(fs::read(to).expect("read") == fs::read(place.image()).expect("read"));
}

#[test]
fn a_commit_whose_answer_was_lost_is_known_from_the_map() {
    for step in ["ImageSynced", "Committed"] {
        if step == "ImageSynced" && !takes_over() {
            continue;
        }
        let place = Place::new();
        let hold = place.dir.path("hold");
        let server = place.start(&[("HOLD_AT", format!("{step}@{}", hold.display()))]).expect("a server");
        let to = target(&place);
        let child = command(&place, &[to.to_str().expect("text")]).spawn().expect("run dirtymap");
        until("the commit", || hold.exists().then_some(()));
        server.kill();
        let _server = place.start(&[]).expect("the next server");
        Ran::from(child.wait_with_output().expect("wait")).exits(0);
        let backup = fs::read(&to).expect("read");
        assert!(backup == fs::read(place.image()).expect("read"));
        nothing_is_left(&place, &backup);
        assert_eq!(mirror(&place, &[]).exits(0).json()["full"], false, "the map knows the target");
    }
}

#[test]
fn a_snapshot_that_breaks_for_want_of_scratch_costs_a_backup_and_no_write() {
    let mut place = Place::new();
    let server = place.start(&Held::hold(&place)).expect("a server");
    mirror_beside_a_hold(&place);
    let before = fs::read(target(&place)).expect("read");
    (0..4).for_each(|g| write(&place, g, 20 + g));
    assert!(server.stop());
    place.more = vec!["--scratch-limit".into(), "128K".into()];
    let _server = place.start(&Held::hold(&place)).expect("a server");
    let to = target(&place);
    let held = Held::start(&place, &[to.to_str().expect("text")]);
    // Three granules of what is frozen, and two fit.
    (0..3).for_each(|g| write(&place, g, 90 + g));
    let ran = held.finish().exits(8).says("the snapshot is broken").says("scratch");
    assert!(ran.out.contains("export-failed"), "{}", ran.out);
    nothing_is_left(&place, &before);
    let done = mirror(&place, &[]).exits(0).json();
    assert_eq!((&done["full"], &done["bytes_copied"]), (&false.into(), &(4 * GRANULE).into()));
    assert!(fs::read(to).expect("read") == fs::read(place.image()).expect("read"));
}

#[test]
fn targets_are_judged_as_those_of_a_backup_of_the_image() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    mirror(&place, &[]).exits(0);
    write(&place, 1, 1);
    let other = place.dir.image("other.raw", SIZE);
    let untouched = fs::read(&other).expect("read");
    assert!(back_up(&place, &[other.to_str().expect("text")]).exits(8).out.contains("wrong-target"));
    assert!(fs::read(&other).expect("read") == untouched);
    for own in [place.image(), place.map()] {
        assert!(back_up(&place, &[own.to_str().expect("text")]).exits(8).out.contains("same-file"));
    }
    // Something else has changed the target: what is not copied is compared, as it was frozen.
    common::patch(&target(&place), |bytes| bytes[9 * GRANULE as usize] ^= 1);
    assert!(mirror(&place, &[]).exits(8).out.contains("target-changed"));
    assert_eq!(place.snapshot(&["list"]).exits(0).json()["snapshots"], serde_json::json!([]));
    mirror(&place, &["--full"]).exits(0);
    assert!(fs::read(target(&place)).expect("read") == fs::read(place.image()).expect("read"));
    // The audit reads the image as it is.
    write(&place, 1, 2);
    let data = [7; 64];
    std::os::unix::fs::FileExt::write_all_at(
        &fs::File::options().write(true).open(place.image()).expect("open"),
        &data,
        10 * GRANULE,
    )
    .expect("write behind the map's back");
    assert!(mirror(&place, &["--audit", "1G"]).exits(4).out.contains("audit-missed"));
    assert_eq!(areas(&place.map()), vec![0..SIZE]);
    mirror(&place, &[]).exits(0);
    assert!(fs::read(target(&place)).expect("read") == fs::read(place.image()).expect("read"));
}

#[test]
fn another_server_or_export_is_refused() {
    let place = Place::new();
    let other = Place::new();
    let (_server, _other) = (place.start(&[]).expect("a server"), other.start(&[]).expect("a server"));
    let to = target(&place);
    let ask = |uri: &str, control: PathBuf| {
        run(["backup", uri, to.to_str().expect("text"), "--control", control.to_str().expect("text")])
    };
    let socket = place.dir.path("socket").display().to_string();
    ask(&format!("nbd+unix:///x?socket={socket}"), place.control()).exits(8).says("no export \"x\"");
    ask(&format!("nbd+unix:///a@b?socket={socket}"), place.control()).exits(16).says("is a snapshot");
    ask("nbd+unix:///", place.control()).exits(16);
    ask(&uri(&place), place.dir.path("nowhere")).exits(8).says("nowhere");
    ask(&format!("nbd+unix:///?socket={socket}x"), place.control()).exits(8).says("connect");
    ask(place.image().to_str().expect("text"), place.control()).exits(16).says("--control goes with an export");
    dm!("backup", uri(&place), to).exits(16).says("--control PATH");
    dm!("backup", uri(&place), to, "--map", place.map()).exits(16).says("leave --map out");
    dm!("backup", place.image(), to).exits(16).says("--map FILE");
    assert!(!to.exists(), "a target was made");
    other.snapshot(&["create", "--whole", "--name", "dirtymap backup"]).exits(0);
    // That the two sockets are of two servers is found when the snapshot is there, before anything is read.
    ask(&uri(&other), place.control()).exits(8).says("another server");
    assert!(fs::read(&to).expect("read").is_empty());
    assert_eq!(place.snapshot(&["list"]).exits(0).json()["snapshots"], serde_json::json!([]));
    nothing_is_left(&place, &fs::read(place.image()).expect("read"));
    // Another map has taken the name of the server's.
    fs::rename(place.map(), place.dir.path("moved.map")).expect("rename");
    fs::copy(other.map(), place.map()).expect("copy");
    ask(&uri(&place), place.control()).exits(8).says("is not the map that the server");
}

#[test]
fn a_signal_while_the_snapshot_is_made_leaves_none() {
    let place = Place::new();
    let hold = place.dir.path("hold");
    let _server = place.start(&[("HOLD_AT", format!("Frozen@{}", hold.display()))]).expect("a server");
    let to = target(&place);
    let child = command(&place, &[to.to_str().expect("text")]).spawn().expect("run dirtymap");
    until("the freeze", || hold.exists().then_some(()));
    kill_process(Pid::from_child(&child), Signal::INT).expect("signal");
    fs::remove_file(&hold).expect("remove");
    Ran::from(child.wait_with_output().expect("wait")).exits(32);
    nothing_is_left(&place, &fs::read(place.image()).expect("read"));
    assert_eq!(place.snapshot(&["list"]).exits(0).json()["snapshots"], serde_json::json!([]));
}

#[test]
fn a_member_that_was_complete_when_its_backup_was_killed_is_committed_or_rested_upon_by_none() {
    for dropped in [false, true] {
        let place = Place::new();
        let set = place.dir.path("set");
        let to_set = ["--set", set.to_str().expect("text")];
        let server = place.start(&Held::hold(&place)).expect("a server");
        let held = Held::start(&place, &to_set);
        // Where nobody can be asked to commit.
        let away = place.dir.path("away");
        fs::rename(place.control(), &away).expect("rename");
        fs::remove_file(&held.hold).expect("remove");
        let listed = || fs::read_to_string(set.join("set.json")).is_ok_and(|set| set.contains("\"why_full\""));
        until("the member", || listed().then_some(()));
        held.signal(Signal::KILL);
        held.finish();
        fs::rename(&away, place.control()).expect("rename");
        let reference = fs::read(place.image()).expect("read");
        let server = if dropped {
            server.kill();
            fs::remove_file(place.index()).expect("remove");
            place.start(&[]).expect("a server")
        } else {
            server
        };
        write(&place, 5, 5);
        let ran = back_up(&place, &to_set).exits(0);
        assert_eq!(ran.err.contains("member 0001 was complete"), !dropped, "{}", ran.err);
        assert_eq!(ran.json()["full"], dropped);
        assert!(server.stop());
        dm!("set", "verify", set, "--against", place.image()).exits(0);
        let out = place.dir.path("out");
        dm!("restore", format!("{}@0001", set.display()), out).exits(0);
        assert!(fs::read(out).expect("read") == reference);
        nothing_is_left(&place, &fs::read(place.image()).expect("read"));
    }
}

#[test]
fn snapshots_of_others_are_left_alone_and_empty_ones_are_ended() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    write(&place, 2, 2);
    place.snapshot(&["create", "--name", "mine"]).exits(0);
    let ran = mirror(&place, &[]).exits(8).says("dirtymap snapshot abort");
    assert!(ran.out.contains("checkpoint-outstanding"), "{}", ran.out);
    assert_eq!(place.snapshot(&["list"]).exits(0).json()["snapshots"][0]["name"], "mine");
    // Its checkpoint is put back behind the server's back: then there is nothing in it.
    place.put_back();
    mirror(&place, &[]).exits(0);
    assert!(fs::read(target(&place)).expect("read") == fs::read(place.image()).expect("read"));
    nothing_is_left(&place, &fs::read(target(&place)).expect("read"));
}

#[test]
fn a_backup_that_makes_no_sense_is_neither_begun_nor_committed() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    write(&place, 2, 2);
    let zeros = "0".repeat(256);
    let senseless = [("x", &*zeros, "no-export"), ("", &*zeros, "usage"), ("", "12", "usage")];
    for (export, target, kind) in senseless {
        let backup = format!(r#"{{"export":"{export}","name":"x","target":"{target}"}}"#);
        let answer =
            Control::connect(&place.control()).ask(&format!(r#"{{"request":"snapshot-create","backups":[{backup}]}}"#));
        assert_eq!(answer["error"]["kind"], kind, "{answer}");
    }
    assert_eq!(place.outstanding(), None);
    place.snapshot(&["create"]).exits(0);
    for (export, target, kind) in senseless {
        let backup = format!(r#"{{"export":"{export}","target":"{target}","audited":0}}"#);
        let line = format!(r#"{{"request":"snapshot-commit","keep":false,"backup":{backup}}}"#);
        let answer = Control::connect(&place.control()).ask(&line);
        assert_eq!(answer["error"]["kind"], kind, "{answer}");
    }
    assert!(place.outstanding().is_some_and(|(frozen, _)| frozen));
    assert_eq!(place.committed(), None);
}

#[test]
fn two_at_once_are_one_after_the_other() {
    let place = Place::new();
    let _server = place.start(&Held::hold(&place)).expect("a server");
    let to = target(&place);
    let held = Held::start(&place, &[to.to_str().expect("text")]);
    let other = place.dir.path("other.raw");
    let ran = back_up(&place, &[other.to_str().expect("text")]).exits(8);
    assert!(ran.out.contains("locked"), "{}", ran.out);
    held.finish().exits(0);
    assert!(fs::read(&to).expect("read") == fs::read(place.image()).expect("read"));
}
