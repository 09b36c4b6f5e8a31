//! Several disks of one server in one backup: one moment for all, and each is settled by itself, whoever is killed.

mod common;

use common::live::{GRANULES, takes_over, until};
use common::machine::{DISKS, Machine, finish, has_steps, release};
use common::serving::{self, Control};
use common::{Dir, GRANULE, Ran, areas, pattern};
use dirtymap::ImageStamp;
use dirtymap::info::inspect;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;

#[test]
fn each_disk_has_its_member_and_all_are_of_the_moment_of_one_freeze() {
    if !has_steps() {
        return;
    }
    let machine = Machine::new();
    // The first disk is frozen, and the second is not.
    let (server, hold) = machine.held_at("Frozen");
    machine.write("a", 3, 3);
    machine.write("b", 4, 4);
    let moment = machine.content();
    let child = machine.spawn(&["--name", "monday", "--consistency", "app"]);
    until("the freeze", || hold.exists().then_some(()));
    machine.write_both(3, 50);
    machine.write_both(4, 60);
    release(&hold);
    let told = finish(child).exits(0).json();
    for ((disk, moment), told) in DISKS.iter().zip(moment).zip(told.as_array().expect("a list")) {
        assert!(machine.restored(disk) == moment, "{disk} is of another moment");
        assert_eq!(
            (&told["full"], &told["bytes_copied"], &told["one_moment"]),
            (&json!(false), &json!(GRANULE), &json!(true))
        );
        assert_eq!((&told["member"]["name"], &told["member"]["consistency"]), (&json!("monday"), &json!("app")));
        assert_eq!(told["member"]["group"], machine.members("a")[1]["group"]);
        assert_eq!(machine.members(disk)[1]["image"], machine.uri(disk));
        assert_eq!(inspect(machine.map(disk)).expect("inspect").points.len(), 1, "that of the newest member");
    }
    machine.nothing_is_forgotten();
    machine.goes_on();
    assert!(server.stop());
    let files = fs::read_dir(machine.place.dir.path("")).expect("list").map(|e| e.expect("an entry").file_name());
    assert!(files.into_iter().all(|name| !name.to_string_lossy().starts_with("dirtymap-")), "scratch is left");
}

/// What a kill leaves depends on the step alone.
#[test]
fn killed_at_any_step_it_is_settled_by_the_next_one_disk_by_disk() {
    if !has_steps() {
        return;
    }
    let machine = Machine::new();
    let server = machine.start(&[]);
    let (mut told_later, mut pruning) = (0, 0);
    for step in 1.. {
        machine.write_both(step % GRANULES, step);
        let moment = machine.content();
        let before = DISKS.map(|disk| machine.members(disk).len());
        let ran: Ran = machine
            .command(&["--keep", "3"])
            .env("DIRTYMAP_TEST_KILL_SET_AT", step.to_string())
            .output()
            .expect("run")
            .into();
        if ran.code == 0 {
            assert!(step > 16, "{step} steps");
            break;
        }
        assert_eq!(ran.code, -1, "step {step}: {}", ran.err);
        // A merge may take long, and a snapshot costs as long as it is there.
        if DISKS.iter().any(|disk| machine.is_being_pruned(disk)) {
            pruning += 1;
            assert!(!DISKS.iter().any(|disk| machine.outstanding(disk)), "step {step}: a disk is frozen for it");
        }
        // A member is whole as soon as it is there.
        for ((disk, moment), before) in DISKS.iter().zip(moment).zip(before) {
            assert!(machine.members(disk).len() <= before || machine.restored(disk) == moment, "step {step}, {disk}");
        }
        machine.write_both((step + 5) % GRANULES, step + 1000);
        // In the other order: what is put back of one is no business of the other, which may be a member.
        let others = ["b", "a"].map(|disk| format!("{disk}={}", machine.uri(disk)));
        let ran = machine.command_of(&others, &["--keep", "3"]).output().expect("run dirtymap");
        let ran = Ran::from(ran).exits(0);
        told_later += ran.err.matches("was complete when its backup was ended").count();
        for (disk, told) in ["b", "a"].iter().zip(ran.json().as_array().expect("a list")) {
            assert_eq!((&told["disk"], &told["full"]), (&json!(disk), &json!(false)), "step {step}, {disk}");
            assert!(machine.restored(disk) == fs::read(machine.image(disk)).expect("read"), "step {step}, {disk}");
        }
        machine.nothing_is_forgotten();
    }
    assert_eq!(told_later, 2, "each disk was once a member of which its map did not know yet");
    assert!(pruning >= 4, "it was killed {pruning} times while a set was pruned");
    assert!(server.stop());
}

/// One server after the other, each of which dies at the next step of the same backup.
#[test]
fn a_server_that_is_killed_at_any_step_has_its_backup_gone_on_with() {
    if !has_steps() || !takes_over() {
        return;
    }
    let machine = Machine::new();
    let mut ended = 0;
    for step in 1.. {
        let server = machine.start(&[]);
        machine.write_both(step % GRANULES, step);
        assert!(server.stop());
        let moment = machine.content();
        // Some of the steps are those of its start.
        let Some(mut server) = machine.place.start(&[("KILL_AT", step.to_string())]) else { continue };
        let mut child = machine.spawn(&[]);
        let died = until("an end", || match child.try_wait().expect("look") {
            // It may be the first to know.
            Some(status) => Some(!status.success()),
            None => server.is_dead().then_some(true),
        });
        if !died {
            finish(child).exits(0);
            assert!(step > 30, "{step} steps");
            break;
        }
        until("its end", || server.is_dead().then_some(()));
        server = machine.start(&[]);
        let ran = finish(child);
        // While the snapshot was made there is none to go on with, and nobody knows whether there will be.
        assert!(ran.code == 0 || ran.out.contains("no-answer"), "step {step}: {ran:?}");
        ended += usize::from(ran.code != 0);
        if ran.code == 0 {
            for (disk, moment) in DISKS.iter().zip(&moment) {
                assert!(machine.restored(disk) == *moment, "step {step}, {disk}: of another moment");
            }
            machine.nothing_is_forgotten();
        }
        machine.write_both((step + 1) % GRANULES, step + 1000);
        machine.goes_on();
        assert!(server.stop());
    }
    assert!(ended > 0, "none was killed while it made the snapshot");
}

#[test]
fn a_disk_that_fails_when_another_is_a_backup_loses_no_bit_and_makes_none_full() {
    if !has_steps() {
        return;
    }
    let machine = Machine::new();
    let (server, hold) = machine.held_at("DiskCommitted");
    machine.write_both(5, 5);
    let moment = machine.content();
    let child = machine.spawn(&[]);
    until("the commit of the first", || hold.exists().then_some(()));
    // Somebody else's file has the name that the second member is to have.
    let name = machine.set("b").join("0002.qcow2");
    fs::write(&name, b"somebody's").expect("write");
    release(&hold);
    let ran = finish(child).exits(8).says("disk \"a\": the backup is complete").says("disk \"b\": no bit was reset");
    assert!(ran.out.contains("exists"), "{}", ran.out);
    assert!(machine.restored("a") == moment[0], "the first is a backup");
    assert_eq!((machine.members("a").len(), machine.members("b").len()), (2, 1));
    let bytes_dirty = DISKS.map(|disk| areas(&machine.map(disk)).iter().map(|area| area.end - area.start).sum::<u64>());
    assert_eq!(bytes_dirty, [0, GRANULE]);
    machine.nothing_is_forgotten();
    fs::remove_file(name).expect("remove");
    machine.write_both(6, 6);
    machine.goes_on();
    assert!(server.stop());
}

#[test]
fn before_any_is_a_backup_one_that_fails_gives_up_all() {
    if !has_steps() {
        return;
    }
    let mut machine = Machine::new();
    machine.place.more.extend(["--scratch-limit".to_string(), "64K".into()]);
    // The first disk is copied and verified, and the second is not begun.
    let (server, hold) = machine.held_at("DoneWritten");
    (0..4).for_each(|g| machine.write_both(g, 20 + g));
    let child = machine.spawn(&[]);
    until("the first disk", || hold.exists().then_some(()));
    // More than fits in the scratch of one disk.
    (2..4).for_each(|g| machine.write("b", g, 90 + g));
    release(&hold);
    let ran = finish(child).exits(8).says("the snapshot is broken").says("disks \"a\", \"b\": no bit was reset");
    assert_eq!(ran.err.matches("no bit was reset").count(), 1, "{}", ran.err);
    assert!(ran.out.contains("export-failed"), "{}", ran.out);
    DISKS.iter().for_each(|disk| assert_eq!(machine.members(disk).len(), 1));
    machine.nothing_is_forgotten();
    machine.goes_on();
    assert!(server.stop());
}

/// The checkpoint of the second is ended by some other program when it is a member: nothing rests upon that.
#[test]
fn what_another_program_does_to_one_disk_is_not_told_of_the_other() {
    if !has_steps() {
        return;
    }
    let machine = Machine::new();
    let (server, hold) = machine.held_at("DiskCommitted");
    machine.write_both(5, 5);
    let child = machine.spawn(&[]);
    until("the commit of the first", || hold.exists().then_some(()));
    machine.put_back("b");
    release(&hold);
    let ran = finish(child).exits(8).says("another program").says("disk \"a\": the backup is complete");
    ran.says("disk \"b\": the backup is whole all the same").says("the next one is full");
    machine.nothing_is_forgotten();
    machine.goes_on_with([false, true]);
    assert!(server.stop());
}

#[test]
fn a_snapshot_that_comes_too_late_makes_way_for_that_of_the_next_backup() {
    if !has_steps() {
        return;
    }
    let machine = Machine::new();
    let (server, hold) = machine.held_at("CopyingOn");
    machine.write_both(3, 3);
    let mut killed = machine.spawn(&[]);
    until("the server", || hold.exists().then_some(()));
    killed.kill().and_then(|()| killed.wait()).expect("kill");
    DISKS.iter().for_each(|disk| assert!(!machine.outstanding(disk), "it is frozen already"));
    let said = machine.place.dir.path("said");
    let mut next = machine.command(&[]);
    let next = next.stderr(fs::File::create(&said).expect("create")).spawn().expect("run dirtymap");
    // It has found nothing to settle, and let go of the maps.
    let waits = || fs::read_to_string(&said).expect("read").contains("which is to make a snapshot");
    until("the next one", || waits().then_some(()));
    release(&hold);
    let told = finish(next).exits(0).json();
    assert_eq!((&told[0]["full"], &told[1]["full"]), (&json!(false), &json!(false)));
    machine.nothing_is_forgotten();
    machine.goes_on();
    assert!(server.stop());
}

#[test]
fn a_signal_while_a_disk_is_committed_leaves_that_to_the_next_one() {
    if !has_steps() {
        return;
    }
    let machine = Machine::new();
    let (server, hold) = machine.held_at("ImageSynced");
    machine.write_both(5, 5);
    let mut child = machine.spawn(&[]);
    until("the commit of the first", || hold.exists().then_some(()));
    kill_process(Pid::from_child(&child), Signal::INT).expect("signal");
    until("its end", || child.try_wait().expect("look"));
    assert!(hold.exists(), "the server is not held");
    let ran = finish(child).exits(32).says("disk \"a\": the backup is whole all the same");
    ran.says("the next one tells the map of it").says("disk \"b\": no bit was reset");
    release(&hold);
    machine.write_both(6, 6);
    machine.goes_on();
    assert_eq!((machine.members("a").len(), machine.members("b").len()), (3, 2));
    assert!(server.stop());
}

/// What it hangs with is waited for once, and not for each disk.
#[test]
fn a_server_that_hangs_is_waited_for_once_at_the_end() {
    if !has_steps() {
        return;
    }
    let machine = Machine::new();
    let (server, hold) = machine.held_at("DoneWritten");
    machine.write_both(5, 5);
    let mut child = machine.spawn(&[]);
    until("the first disk", || hold.exists().then_some(()));
    let id = Pid::from_raw(server.id() as i32).expect("a process");
    kill_process(id, Signal::STOP).expect("stop");
    kill_process(Pid::from_child(&child), Signal::INT).expect("signal");
    until("its end", || child.try_wait().expect("look"));
    let ran = finish(child).exits(32).says("disks \"a\", \"b\": no bit was reset");
    assert_eq!(ran.err.matches("which is to give the snapshot up").count(), 1, "{}", ran.err);
    kill_process(id, Signal::CONT).expect("continue");
    release(&hold);
    // Both were asked for.
    let there = || machine.place.snapshot(&["list"]).exits(0).json()["snapshots"] != json!([]);
    until("its end of the snapshot", || (!there()).then_some(()));
    machine.nothing_is_forgotten();
    machine.goes_on();
    assert!(server.stop());
}

#[test]
fn a_server_may_have_more_disks_than_connections() {
    const MANY: usize = 65;
    let dir = &Dir::new();
    let control = dir.path("control").display().to_string();
    let mut line = ["--create", "--control", &control].map(String::from).to_vec();
    let uri = |n: usize| format!("nbd+unix:///d{n}?socket={}", dir.path("socket").display());
    let mut backup = ["--output", "json", "backup", "--reconnect=5", "--control", &control].map(String::from).to_vec();
    backup.extend(["--set".into(), dir.path("sets").display().to_string()]);
    for n in 0..MANY {
        let (image, map) = (dir.path(&format!("{n}.raw")), dir.path(&format!("{n}.map")));
        fs::write(&image, pattern(4096, n as u64)).expect("write");
        line.extend(["--disk".into(), format!("d{n}={},map={}", image.display(), map.display())]);
        backup.extend(["--disk".into(), format!("d{n}={}", uri(n))]);
    }
    let server = serving::Server::of(dir, &line);
    // Twice: the second one audits what is clean, by a connection to the disk itself.
    for full in [true, false] {
        let told = common::run(&backup).exits(0).json();
        let told = told.as_array().expect("a list").clone();
        assert_eq!(told.len(), MANY);
        assert!(told.iter().all(|told| told["full"] == full));
    }
    server.stop();
}

#[test]
fn two_at_once_are_one_after_the_other() {
    if !has_steps() {
        return;
    }
    let machine = Machine::new();
    let (server, hold) = machine.held_at("Looked");
    machine.write_both(5, 5);
    let child = machine.spawn(&[]);
    until("the first read", || hold.exists().then_some(()));
    let ran = machine.back_up(&[]).exits(8);
    assert!(ran.out.contains("locked"), "{}", ran.out);
    // In the other order.
    let mut other = machine.command_of(&["b", "a"].map(|disk| format!("{disk}={}", machine.uri(disk))), &[]);
    let ran = Ran::from(other.output().expect("run dirtymap")).exits(8);
    assert!(ran.out.contains("locked"), "{}", ran.out);
    release(&hold);
    finish(child).exits(0);
    machine.nothing_is_forgotten();
    machine.goes_on();
    assert!(server.stop());
}

/// All of them are one moment, so that each has to be in the backup once.
#[test]
fn each_disk_of_the_server_is_in_it_once() {
    let machine = Machine::new();
    let server = machine.start(&[]);
    machine.write_both(5, 5);
    let (sets, control, elsewhere) = (machine.sets(), machine.place.control(), machine.place.dir.path("elsewhere"));
    let (a, b) = (format!("a={}", machine.uri("a")), format!("b={}", machine.uri("b")));
    let ran = dm!("--output", "json", "backup", machine.uri("a"), elsewhere, "--control", control).exits(8);
    assert!(ran.out.contains("several-disks") && ran.out.contains("--disk"), "{}", ran.out);
    let refused = |disks: &[&str], more: &[&str], code: i32, why: &str| {
        let mut line = vec!["backup", "--set", elsewhere.to_str().expect("text")];
        disks.iter().for_each(|disk| line.extend(["--disk", disk]));
        common::run(line.iter().chain(more)).exits(code).says(why);
        assert!(!elsewhere.exists(), "{disks:?}: something was made");
    };
    let with_control = ["--control", control.to_str().expect("text")];
    refused(&[&b], &with_control, 8, "give each of its exports");
    refused(&[&a, &format!("b={}", machine.uri(""))], &with_control, 16, "given twice");
    refused(&[&a, &format!("b={}", machine.uri("c"))], &with_control, 8, "no export \"c\"");
    refused(&[&a, "b=b.raw,map=b.map"], &with_control, 16, "exports of one server");
    refused(&[&a, &b], &[], 16, "--control PATH");
    refused(&["b=b.raw,map=b.map"], &with_control, 16, "--control goes with an export");
    refused(&[&a, &format!("{b},map=b.map")], &with_control, 16, "leave ,map= out");
    // The server refuses it as well, whoever asks.
    let mut asks = Control::connect(&control);
    let backup = |disk: &str| format!(r#"{{"export":"{disk}","name":"x","target":null}}"#);
    for (backups, kind) in [
        (vec![backup("a")], "several-disks"),
        (vec![backup("a"), backup("a")], "several-disks"),
        (vec![backup("a"), backup("b"), backup("b")], "several-disks"),
        (vec![backup("a"), backup("c")], "no-export"),
    ] {
        let answer = asks.ask(&format!(r#"{{"request":"snapshot-create","backups":[{}]}}"#, backups.join(",")));
        assert_eq!(answer["error"]["kind"], kind, "{answer}");
    }
    DISKS.iter().for_each(|disk| assert!(!machine.outstanding(disk), "{disk} was frozen"));
    assert!(sets.exists());
    machine.goes_on();
    assert!(server.stop());
}

#[test]
fn a_disk_that_is_broken_keeps_no_other_from_being_committed() {
    let machine = Machine::new();
    let server = machine.start(&[]);
    machine.write_both(5, 5);
    let mut asks = Control::connect(&machine.place.control());
    let backups = DISKS.map(|disk| format!(r#"{{"export":"{disk}","name":"now","target":null}}"#)).join(",");
    let made = asks.ask(&format!(r#"{{"request":"snapshot-create","backups":[{backups}]}}"#));
    machine.put_back("b");
    let listed = asks.ask(r#"{"request":"snapshot-list"}"#)["snapshots"][0].clone();
    assert!(listed["broken"].is_string(), "{listed}");
    let target = machine.place.dir.path("target");
    fs::write(&target, "").expect("write");
    let stamp = ImageStamp::of_path(&target).expect("a stamp").to_bytes();
    let stamp: String = stamp.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut commit = |disk: &str, audited: u64| {
        let backup = format!(r#"{{"export":"{disk}","target":"{stamp}","audited":{audited}}}"#);
        let line = format!(r#"{{"request":"snapshot-commit","id":{},"keep":false,"backup":{backup}}}"#, made["id"]);
        asks.ask(&line)["error"]["kind"].clone()
    };
    assert_eq!(commit("b", 1), "snapshot-broken");
    // It may be asked for twice, and not for another one.
    assert_eq!([commit("a", 1), commit("a", 1), commit("a", 2)], [Value::Null, Value::Null, json!("no-snapshot")]);
    let known = inspect(machine.map("a")).expect("inspect");
    assert!(known.checkpoint.is_none() && known.target.is_some());
    assert_eq!((areas(&machine.map("a")).len(), areas(&machine.map("b")).len()), (0, 1));
    machine.place.snapshot(&["abort"]).exits(0);
    machine.goes_on();
    assert!(server.stop());
}

/// That is found when the snapshot is there, and the second disk has not looked for its own.
#[test]
fn an_export_of_another_server_ends_the_snapshot_of_all() {
    let (machine, other) = (Machine::new(), Machine::new());
    let (server, others) = (machine.start(&[]), other.start(&[]));
    machine.write_both(5, 5);
    let disks = [format!("a={}", other.uri("a")), format!("b={}", machine.uri("b"))];
    let ran = Ran::from(machine.command_of(&disks, &["--force"]).output().expect("run dirtymap")).exits(8);
    assert!(ran.out.contains("wrong-server") && ran.out.contains("disk \\\"a\\\""), "{}", ran.out);
    machine.nothing_is_forgotten();
    machine.goes_on();
    assert!(server.stop() && others.stop());
}

/// The one is of all disks or none, the other disk by disk.
#[test]
fn a_snapshot_by_hand_and_that_of_a_backup_end_each_in_its_way() {
    let machine = Machine::new();
    let server = machine.start(&[]);
    let mut asks = Control::connect(&machine.place.control());
    let zeros = "0".repeat(256);
    let by_one = |asks: &mut Control, id: &Value| {
        let commit = format!(
            r#"{{"request":"snapshot-commit","id":{id},"keep":false,"backup":{{"export":"a","target":"{zeros}","audited":0}}}}"#
        );
        let abort = format!(r#"{{"request":"snapshot-abort","id":{id},"export":"a"}}"#);
        [commit, abort].map(|line| asks.ask(&line)["error"]["kind"].clone())
    };
    machine.write_both(5, 5);
    machine.place.snapshot(&["create"]).exits(0);
    let id = asks.ask(r#"{"request":"snapshot-list"}"#)["snapshots"][0]["id"].clone();
    assert_eq!(by_one(&mut asks, &id)[1], "several-disks");
    DISKS.iter().for_each(|disk| assert!(machine.outstanding(disk)));
    machine.place.snapshot(&["abort"]).exits(0);
    let backups = DISKS.map(|disk| format!(r#"{{"export":"{disk}","name":"of {disk}","target":null}}"#)).join(",");
    let made = asks.ask(&format!(r#"{{"request":"snapshot-create","backups":[{backups}]}}"#));
    assert_eq!(made["name"], "of a");
    let named = |disk: &str| inspect(machine.map(disk)).expect("inspect").checkpoint.expect("a checkpoint");
    for (disk, told) in DISKS.iter().zip(made["disks"].as_array().expect("a list")) {
        assert_eq!(named(disk).name, Some(format!("of {disk}")));
        assert_eq!(told["checkpoint"], named(disk).uuid.to_string());
    }
    let ran = machine.place.snapshot(&["commit"]).exits(8);
    assert!(ran.out.contains("several-disks"), "{}", ran.out);
    DISKS.iter().for_each(|disk| assert!(machine.outstanding(disk)));
    // One of them, and then what is left of it.
    let id = &made["id"];
    let answer = asks.ask(&format!(r#"{{"request":"snapshot-abort","id":{id},"export":"b"}}"#));
    assert_eq!((&answer["disks"][1]["checkpoint"], &answer["error"]), (&Value::Null, &Value::Null));
    assert!(machine.outstanding("a") && !machine.outstanding("b"));
    assert!(machine.place.client("a@of a").is_ok() && machine.place.client("b@of a").is_err());
    let again = asks.ask(&format!(r#"{{"request":"snapshot-abort","id":{id},"export":"b"}}"#));
    assert_eq!(again["error"]["kind"], "no-snapshot", "{again}");
    // What is written is copied for the one, and not for the other, also by the next server.
    machine.write_both(5, 6);
    let server = if takes_over() {
        server.kill();
        let server = machine.start(&[]);
        asks = Control::connect(&machine.place.control());
        server
    } else {
        server
    };
    machine.write_both(5, 7);
    let listed = asks.ask(r#"{"request":"snapshot-list"}"#)["snapshots"][0].clone();
    assert_eq!((&listed["id"], &listed["name"], &listed["broken"]), (id, &json!("of a"), &Value::Null));
    let kept = |place: usize| listed["disks"][place]["scratch_bytes"].clone();
    assert_eq!((kept(0), kept(1), &listed["disks"][1]["checkpoint"]), (json!(GRANULE), json!(0), &Value::Null));
    let read = machine.place.client("a@of a").expect("connect").read(5 * GRANULE, GRANULE as u32, 0).expect("read");
    assert!(read == pattern(GRANULE, 5), "it is not as it was frozen");
    assert!(machine.place.client("b@of a").is_err());
    machine.place.snapshot(&["abort"]).exits(0);
    machine.nothing_is_forgotten();
    machine.goes_on();
    assert!(server.stop());
}
