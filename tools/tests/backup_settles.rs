//! What a backup leaves that was killed or did not wait for its server, who ends that, and who must not.

mod common;

use common::live::{Place, SIZE, until};
use common::live_backup::{Held, back_up, command, content, mirror, nothing_is_left, target, targets, write};
use common::{Dir, GRANULE, Ran, Set, is_root, loop_device, pattern, skipped};
use dirtymap::info::inspect;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Kills the backup as soon as everything is frozen, and before it has begun to write.
const DIE: [&str; 2] = ["--post-hook", "kill -KILL $PPID"];

fn points(map: &Path) -> Vec<String> {
    inspect(map).expect("inspect").points.into_iter().map(|point| point.name).collect()
}

#[test]
fn a_mirror_by_another_name_each_time_settles_what_a_kill_has_left() {
    for writing in [false, true] {
        let place = Place::new();
        let server = place.start(&[]).expect("a server");
        mirror(&place, &["--name", "day-0"]).exits(0);
        assert!(server.stop());
        let hold = Held::hold(&place);
        let server = place.start(if writing { &hold } else { &[] }).expect("a server");
        write(&place, 4, 1);
        if writing {
            let held = Held::start(&place, &[target(&place).to_str().expect("text"), "--name", "day-1"]);
            held.signal(Signal::KILL);
            held.finish();
        } else {
            mirror(&place, &[&["--name", "day-1"], &DIE[..]].concat()).exits(-1);
        }
        assert!(place.outstanding().is_some_and(|(frozen, _)| frozen), "the snapshot is there still");
        assert_eq!(inspect(place.map()).expect("inspect").begun.is_some(), writing);
        write(&place, 5, 2);
        let done = mirror(&place, &["--name", "day-2"]).exits(0).json();
        assert_eq!((&done["full"], &done["bytes_copied"]), (&false.into(), &(2 * GRANULE).into()));
        let backup = content(&place, false);
        assert!(backup == fs::read(place.image()).expect("read"));
        nothing_is_left(&place, &backup);
        assert_eq!(points(&place.map()), ["day-0", "day-2"]);
        assert_eq!(place.snapshot(&["list"]).exits(0).json()["snapshots"], json!([]));
        assert!(server.stop());
    }
}

#[test]
fn so_does_a_backup_of_the_image_and_one_that_goes_elsewhere() {
    let set = Set::of_image(SIZE);
    let mirror = |to: &Path, more: &[&str]| {
        let (image, to, map) = (set.image.as_os_str(), to.as_os_str(), set.map.as_os_str());
        let words = ["backup".as_ref(), image, to, "--map".as_ref(), map, "--output".as_ref(), "json".as_ref()];
        common::run(words.into_iter().chain(more.iter().map(std::ffi::OsStr::new)))
    };
    mirror(&set.target, &["--name", "day-0"]).exits(0);
    let kill = |to: &Path, round: u64| {
        set.write(round * GRANULE, &pattern(GRANULE, round));
        mirror(to, &[&["--name", &format!("day-{round}")], &DIE[..]].concat()).exits(-1);
        let left = inspect(&set.map).expect("inspect").checkpoint.expect("a checkpoint");
        assert!(left.target.is_some() && !left.snapshot);
    };
    let equal = |to: &Path| assert!(fs::read(to).expect("read") == fs::read(&set.image).expect("read"));
    kill(&set.target, 1);
    assert_eq!(mirror(&set.target, &["--name", "day-2"]).exits(0).json()["full"], false);
    equal(&set.target);
    kill(&set.target, 3);
    let other = set.dir.path("other.raw");
    mirror(&other, &[]).exits(0);
    equal(&other);
    kill(&other, 4);
    dm!("backup", set.image, "--set", set.dir.path("set"), "--map", set.map).exits(0);
    dm!("set", "verify", set.dir.path("set"), "--against", set.image).exits(0);
    assert_eq!(inspect(&set.map).expect("inspect").checkpoint, None);
    // What is not a backup's is left alone, whatever its name.
    dm!("checkpoint", "freeze", set.map, "--name", "mine").exits(0);
    assert!(mirror(&set.target, &["--name", "day-5", "--force"]).exits(8).out.contains("checkpoint-outstanding"));
    assert_eq!(inspect(&set.map).expect("inspect").checkpoint.expect("a checkpoint").name.as_deref(), Some("mine"));
}

/// A command whose standard error is a file, to be read while it runs.
struct Waiting {
    child: Child,
    said: PathBuf,
}

impl Waiting {
    /// Starts it, and waits until it says that it waits for a server that is held.
    fn start(mut command: Command, dir: &Dir, what: &str, hold: &Path) -> Waiting {
        let said = dir.path("said");
        command.stderr(fs::File::create(&said).expect("create"));
        let mut child = command.spawn().expect("run dirtymap");
        let wanted = format!("waiting for the server, which is to {what}");
        until(&wanted, || {
            assert!(child.try_wait().expect("look").is_none(), "it has ended: {:?}", fs::read_to_string(&said));
            fs::read_to_string(&said).expect("read").contains(&wanted).then_some(())
        });
        assert!(hold.exists(), "the server is not held");
        Waiting { child, said }
    }

    /// Interrupts it, and waits for its end, while the server is held.
    fn interrupt(mut self, hold: &Path) -> Ran {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("signal");
        until("its end", || self.child.try_wait().expect("look"));
        assert!(hold.exists(), "the server is not held any more");
        let ran = Ran::from(self.child.wait_with_output().expect("wait"));
        Ran { err: fs::read_to_string(&self.said).expect("read"), ..ran }
    }
}

#[test]
fn a_server_that_does_not_answer_is_told_of_and_waited_for_until_a_signal() {
    for (step, what) in [("Frozen", "make a snapshot"), ("ImageSynced", "commit the snapshot")] {
        let committing = step == "ImageSynced";
        for which in 0..2 {
            let place = Place::new();
            let hold = place.dir.path("hold");
            let server = place.start(&[("HOLD_AT", format!("{step}@{}", hold.display()))]).expect("a server");
            write(&place, 3, 3);
            let (words, set) = targets(&place)[which].clone();
            let named = |name| words.iter().map(String::as_str).chain(["--name", name]).collect::<Vec<_>>();
            let ran = Waiting::start(command(&place, &named("day-1")), &place.dir, what, &hold).interrupt(&hold);
            let said = if committing && set { "whole all the same" } else { "nothing is lost" };
            ran.exits(32).says("interrupted").says(said);
            assert!(place.outstanding().is_some());
            // Now it does what it was asked for, with nobody there any more.
            fs::remove_file(&hold).expect("remove");
            until("what it was asked for", || {
                let left = place.snapshot(&["list"]).exits(0).json()["snapshots"].as_array().map(Vec::len);
                (left == Some(usize::from(!committing))).then_some(())
            });
            write(&place, 4, 4);
            let done = back_up(&place, &named("day-2")).exits(0).json();
            assert_eq!(done["full"], !committing, "{step} {set}");
            let backup = content(&place, set);
            assert!(backup == fs::read(place.image()).expect("read"));
            nothing_is_left(&place, &backup);
            assert_eq!(place.snapshot(&["list"]).exits(0).json()["snapshots"], json!([]));
            assert!(server.stop());
        }
    }
}

#[test]
fn a_snapshot_that_comes_too_late_for_its_backup_makes_way_for_that_of_the_next() {
    for (which, named) in [(0, true), (0, false), (1, true), (1, false)] {
        let place = Place::new();
        let hold = place.dir.path("hold");
        let _server = place.start(&[("HOLD_AT", format!("CopyingOn@{}", hold.display()))]).expect("a server");
        write(&place, 3, 3);
        let (words, set) = targets(&place)[which].clone();
        let wanted = |name| {
            let name: &[&str] = if named { &["--name", name] } else { &[] };
            command(&place, &words.iter().map(String::as_str).chain(name.iter().copied()).collect::<Vec<_>>())
        };
        let mut killed = wanted("day-1").spawn().expect("run dirtymap");
        until("the server", || hold.exists().then_some(()));
        killed.kill().and_then(|()| killed.wait()).expect("kill");
        // Nothing is frozen yet, so that the next one finds nothing to settle.
        assert_eq!(place.outstanding(), None);
        let next = Waiting::start(wanted("day-2"), &place.dir, "make a snapshot", &hold);
        fs::remove_file(&hold).expect("remove");
        Ran::from(next.child.wait_with_output().expect("wait")).exits(0);
        let backup = content(&place, set);
        assert!(backup == fs::read(place.image()).expect("read"));
        nothing_is_left(&place, &backup);
        assert_eq!(place.snapshot(&["list"]).exits(0).json()["snapshots"], json!([]));
    }
}

#[test]
fn a_commit_that_was_not_waited_for_and_is_never_done_is_settled() {
    let place = Place::new();
    let server = place.start(&[]).expect("a server");
    mirror(&place, &["--name", "day-0"]).exits(0);
    assert!(server.stop());
    let hold = place.dir.path("hold");
    let server = place.start(&[("HOLD_AT", format!("ImageSynced@{}", hold.display()))]).expect("a server");
    write(&place, 3, 3);
    let before = fs::read(target(&place)).expect("read");
    let (words, _) = targets(&place)[0].clone();
    let wanted = command(&place, &[&words[0], "--name", "day-1"]);
    Waiting::start(wanted, &place.dir, "commit the snapshot", &hold).interrupt(&hold).exits(32);
    server.kill();
    assert_eq!(place.forgotten(&before), Vec::<u64>::new(), "the target may be lost, and is not a backup");
    let _server = place.start(&[]).expect("the next server");
    write(&place, 4, 4);
    assert_eq!(mirror(&place, &["--name", "day-2"]).exits(0).json()["full"], false);
    let backup = content(&place, false);
    assert!(backup == fs::read(place.image()).expect("read"));
    nothing_is_left(&place, &backup);
    assert_eq!(points(&place.map()), ["day-0", "day-2"]);
}

fn snapshot_create(place: &Place, more: &[&str]) -> Command {
    let mut command = common::dirtymap();
    command.args(["--output", "json", "snapshot", "create", "--server"]).arg(place.control()).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Something has stopped the guest for it.
#[test]
fn between_hooks_a_server_has_no_longer_than_they_have() {
    for by_hand in [false, true] {
        let place = Place::new();
        let hold = place.dir.path("hold");
        let _server = place.start(&[("HOLD_AT", format!("CopyingOn@{}", hold.display()))]).expect("a server");
        let log = place.dir.path("hooks");
        let say = |word: &str| format!("echo {word} >> {}", log.display());
        let (pre, post) = (say("freeze"), say("thaw"));
        let hooks = ["--pre-hook", &pre, "--post-hook", &post, "--hook-limit", "1"];
        let to = target(&place);
        let mut command = match by_hand {
            false => command(&place, &[&[to.to_str().expect("text")], &hooks[..]].concat()),
            true => snapshot_create(&place, &hooks),
        };
        let mut child = command.spawn().expect("run dirtymap");
        until("its end", || child.try_wait().expect("look"));
        let ran = Ran::from(child.wait_with_output().expect("wait")).exits(8).says("has not answered in 1 s");
        assert!(ran.out.contains("no-answer"), "{}", ran.out);
        assert!(hold.exists(), "the server is not held any more");
        assert_eq!(fs::read_to_string(&log).expect("read"), "freeze\nthaw\n");
        fs::remove_file(&hold).expect("remove");
        until("what it was asked for", || place.outstanding().is_some_and(|(frozen, _)| frozen).then_some(()));
        if by_hand {
            place.snapshot(&["abort"]).exits(0);
        }
        mirror(&place, &["--name", "day-1"]).exits(0);
        nothing_is_left(&place, &fs::read(place.image()).expect("read"));
    }
}

#[test]
fn the_snapshot_commands_end_their_wait_with_a_signal() {
    let place = Place::new();
    let hold = place.dir.path("hold");
    let _server = place.start(&[("HOLD_AT", format!("Frozen@{}", hold.display()))]).expect("a server");
    let ran = Waiting::start(snapshot_create(&place, &[]), &place.dir, "make a snapshot", &hold).interrupt(&hold);
    ran.exits(32).says("it may do it yet").says("snapshot list");
}

#[test]
fn a_live_snapshot_is_left_to_its_server_by_all_that_goes_by_the_image() {
    // An operator's, and those of backups that were killed: by the names that those of the image have as well.
    for (set, mine) in [(false, true), (false, false), (true, false)] {
        let place = Place::new();
        let server = place.start(&[]).expect("a server");
        let (line, _) = targets(&place)[usize::from(set)].clone();
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        write(&place, 3, 3);
        match mine {
            true => place.snapshot(&["create", "--name", "mine"]).exits(0),
            false => back_up(&place, &[&line[..], &DIE[..]].concat()).exits(-1),
        };
        let left = place.outstanding().expect("a snapshot");
        let (image, map) = (place.image(), place.map());
        let of_image = |more: &[&str]| {
            let words = ["backup".as_ref(), image.as_os_str(), "--map".as_ref(), map.as_os_str()];
            common::run(words.into_iter().chain(line.iter().chain(more).map(std::ffi::OsStr::new)))
        };
        let refused = || {
            of_image(&[]).exits(8).says("a live snapshot").says("dirtymap snapshot").says("nbd+unix");
            of_image(&["--frozen"]).exits(8).says("a live snapshot");
            dm!("checkpoint", "commit", map).exits(8).says("a live snapshot");
            assert_eq!(place.outstanding(), Some(left), "its checkpoint was ended");
        };
        refused();
        dm!("checkpoint", "abort", map).exits(8).says("dirtymap snapshot abort");
        let listed = place.snapshot(&["list"]).exits(0).json()["snapshots"].clone();
        assert_eq!((&listed[0]["broken"], listed.as_array().map(Vec::len)), (&json!(null), Some(1)));
        // Without its server it is the next one's, until somebody says that there will be none.
        server.kill();
        refused();
        dm!("checkpoint", "abort", map).exits(0);
        of_image(&[]).exits(0);
        nothing_is_left(&place, &fs::read(&image).expect("read"));
    }
}

#[test]
fn what_the_server_serves_is_no_target_by_any_name() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    let old = fs::read(place.image()).expect("read");
    // Where the server has found it there is nothing, or something else: only the server knows what it has open.
    let (moved, link) = (place.dir.path("moved.raw"), place.dir.path("link.raw"));
    fs::rename(place.image(), &moved).expect("rename");
    fs::hard_link(&moved, &link).expect("link");
    let refused = |name: &Path| {
        let ran = back_up(&place, &[name.to_str().expect("text"), "--force"]).exits(8);
        assert!(ran.out.contains("same-file"), "{}", ran.out);
        assert!(fs::read(&moved).expect("read") == old, "the image was written");
    };
    refused(&moved);
    refused(&link);
    fs::write(place.image(), pattern(SIZE, 7)).expect("another file");
    refused(&moved);
    if is_root()
        && let Some((device, _detach)) = loop_device(&moved)
    {
        refused(&device);
    } else {
        skipped("no loop device can be made here");
    }
    // What has its name by now is not what it serves.
    back_up(&place, &[place.image().to_str().expect("text"), "--force"]).exits(0);
    assert!(fs::read(place.image()).expect("read") == old);
}

/// Backups that are killed; `DIRTYMAP_BACKUP_KILLS` has more of them.
fn rounds() -> u64 {
    std::env::var("DIRTYMAP_BACKUP_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(6)
}

#[test]
fn wherever_a_backup_is_killed_the_next_one_settles_it() {
    for which in 0..2 {
        let place = Place::new();
        let server = place.start(&[]).expect("a server");
        let (words, set) = targets(&place)[which].clone();
        let keep = if set { "--keep" } else { "--keep-last" };
        let named = |name: &str| {
            let line = words.iter().map(String::as_str).chain(["--name", name, keep, "2"]);
            command(&place, &line.collect::<Vec<_>>())
        };
        for round in 0..rounds() {
            write(&place, round % 12, round);
            let mut killed = named(&format!("killed-{round}")).spawn().expect("run dirtymap");
            // Somewhere: each takes another time, and none has to come as far.
            std::thread::sleep(Duration::from_micros(round * 7919 % 60_000));
            let _ = killed.kill();
            killed.wait().expect("wait");
            write(&place, (round + 5) % 12, round + 1000);
            Ran::from(named(&format!("done-{round}")).output().expect("run dirtymap")).exits(0);
            if place.outstanding().is_some() {
                // The server came to what the killed one had asked for when all of this was over.
                Ran::from(named(&format!("late-{round}")).output().expect("run dirtymap")).exits(0);
            }
            let backup = content(&place, set);
            assert!(backup == fs::read(place.image()).expect("read"), "round {round}");
            nothing_is_left(&place, &backup);
        }
        assert!(server.stop());
    }
}

#[test]
fn so_it_does_of_the_image() {
    let set = Set::of_image(SIZE);
    let named = |name: &str| {
        let mut command = common::dirtymap();
        command.arg("backup").args([&set.image, &set.target]).arg("--map").arg(&set.map);
        command.args(["--name", name, "--keep-last", "2"]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    for round in 0..rounds() {
        set.write(round % 12 * GRANULE, &pattern(4096, round));
        let mut killed = named(&format!("killed-{round}")).spawn().expect("run dirtymap");
        std::thread::sleep(Duration::from_micros(round * 7919 % 60_000));
        let _ = killed.kill();
        killed.wait().expect("wait");
        set.write((round + 5) % 12 * GRANULE, &pattern(4096, round + 1000));
        Ran::from(named(&format!("done-{round}")).output().expect("run dirtymap")).exits(0);
        assert!(fs::read(&set.target).expect("read") == fs::read(&set.image).expect("read"), "round {round}");
        assert_eq!(inspect(&set.map).expect("inspect").checkpoint, None);
    }
}
