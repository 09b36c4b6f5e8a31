//! Live snapshots as an operator and a backup program use them.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::live::{Place, SIZE, bytes, takes_over, to_do, until};
use common::{Dir, GRANULE, MIB, areas, dirtymap, pattern, skipped};
use dirtymap_nbd::client::{Client, ConnectOptions, Negotiation};
use dirtymap_nbd::codec::values::transmission;
use std::fs;
use std::process::{Command, Stdio};

fn write(place: &Place, g: u64, seed: u64) -> Vec<u8> {
    let data = pattern(GRANULE, seed);
    place.client("").expect("connect").write(g * GRANULE, &data, 0).expect("write");
    data
}

#[test]
fn a_backup_of_a_live_snapshot_is_made_by_commands() {
    let place = Place::new();
    let mut backup = fs::read(place.image()).expect("read");
    let server = place.start(&[]).expect("a server");
    for round in 0..3 {
        let frozen = write(&place, 2 + round, 10 + round);
        let name = format!("round-{round}");
        let made = place.snapshot(&["create", "--name", &name]).exits(0).json();
        assert_eq!(
            (&made["name"], &made["consistency"], &made["whole"]),
            (&name.as_str().into(), &"crash".into(), &false.into())
        );
        // One at a time.
        assert!(place.snapshot(&["create"]).exits(8).out.contains("snapshot-exists"));
        let expected = fs::read(place.image()).expect("read");
        write(&place, 2 + round, 20 + round);
        let mut client = place.client(&format!("@{name}")).expect("connect");
        assert_eq!(client.info().flags & transmission::READ_ONLY, 0, "clients would not trim");
        assert!(client.write(0, &[1; 512], 0).is_err());
        for g in to_do(&mut client, SIZE).expect("states") {
            let range = bytes(g);
            let data = client.read(range.start as u64, range.len() as u32, 0).expect("read");
            backup[range].copy_from_slice(&data);
            client.trim(g * GRANULE, GRANULE, 0).expect("trim");
        }
        assert!(backup == expected && backup[bytes(2 + round)] == frozen);
        let listed = place.snapshot(&["list"]).exits(0).json()["snapshots"][0]["disks"][0].clone();
        assert_eq!((&listed["done_bytes"], &listed["scratch_bytes"]), (&listed["frozen_bytes"], &0.into()));
        assert!(place.snapshot(&["commit", "--name", "other"]).exits(8).out.contains("no-snapshot"));
        place.snapshot(&["commit", "--name", &name, "--keep"]).exits(0);
        // Who still has it open gets nothing any more.
        assert!(client.read(0, 512, 0).is_err());
        assert_eq!(place.snapshot(&["list"]).exits(0).json()["snapshots"], serde_json::json!([]));
        assert_eq!(areas(&place.map()), [(2 + round) * GRANULE..(3 + round) * GRANULE]);
    }
    assert!(place.snapshot(&["abort"]).exits(8).out.contains("no-snapshot"));
    assert!(server.stop());
    let names = dm!("checkpoint", "list", place.map(), "--output", "json").exits(0).out;
    assert!((0..3).all(|round| names.contains(&format!("round-{round}"))), "{names}");
    let files = fs::read_dir(place.dir.path("")).expect("list").map(|e| e.expect("an entry").file_name());
    assert!(files.into_iter().all(|name| !name.to_string_lossy().starts_with("dirtymap-")), "files are left");
}

#[test]
fn holes_of_a_snapshot_are_those_of_the_moment() {
    let place = Place::of_zeros(SIZE);
    let _server = place.start(&[]).expect("a server");
    let data = write(&place, 3, 1);
    place.client("").expect("connect").write_zeroes(5 * GRANULE, 2 * GRANULE, 0).expect("zeroes");
    place.snapshot(&["create", "--name", "now", "--whole"]).exits(0);
    // What was a hole and what was not change places.
    write(&place, 1, 2);
    place.client("").expect("connect").write_zeroes(3 * GRANULE, GRANULE, 0).expect("zeroes");
    let mut client = place.client("@now").expect("connect");
    let all = client.read(0, SIZE as u32, 0).expect("read");
    let mut expected = vec![0; SIZE as usize];
    expected[bytes(3)].copy_from_slice(&data);
    assert!(all == expected);
    let uri = format!("nbd+unix:///@now?socket={}", place.dir.path("socket").display());
    let options = ConnectOptions { contexts: vec!["base:allocation".into()], ..ConnectOptions::default() };
    let mut client = Client::connect(&uri.parse().expect("a URI"), &options).expect("connect");
    // Also from one that was copied, and is a hole now.
    for from in [0, 3 * GRANULE] {
        let extents = &client.block_status(from, SIZE - from, 0).expect("states")[0].1;
        let (mut at, mut holes) = (from, Vec::new());
        for extent in extents {
            let range = at..at + extent.length;
            if extent.flags != 0 {
                let zeros = expected[range.start as usize..range.end as usize].iter().all(|b| *b == 0);
                assert!(zeros, "{extent:?} at {at} is called a hole");
                holes.push(range);
            }
            at += extent.length;
        }
        let is_told = |g: u64| holes.iter().any(|hole| hole.start <= g * GRANULE && (g + 1) * GRANULE <= hole.end);
        assert!([1, 5, 6].iter().filter(|g| **g * GRANULE >= from).all(|g| is_told(*g)), "{from}: {extents:?}");
    }
}

/// Copies are read through the page cache, which the guest's writes do not go through.
#[test]
fn a_snapshot_of_an_image_that_is_written_directly_is_of_its_moment() {
    let mut place = Place::new();
    if let Err(e) = dirtymap_nbd::FileBackend::open(&place.image(), true).expect("open").directly() {
        return skipped(&format!("there is no O_DIRECT here: {e}"));
    }
    place.more.push("--direct".into());
    let _server = place.start(&[]).expect("a server");
    for round in 0..5 {
        write(&place, 1, round);
        let expected = fs::read(place.image()).expect("read");
        place.snapshot(&["create", "--name", "now", "--whole"]).exits(0);
        (0..4).for_each(|g| drop(write(&place, g, 10 + round + g)));
        let mut client = place.client("@now").expect("connect");
        assert!(client.read(0, SIZE as u32, 0).expect("read") == expected, "{round}");
        place.snapshot(&["abort"]).exits(0);
    }
}

#[test]
fn all_disks_of_a_server_are_frozen_at_one_moment() {
    let dir = Dir::new();
    let mut command = dirtymap();
    command.arg("serve").arg("--socket").arg(dir.path("socket")).arg("--control").arg(dir.path("control"));
    for name in ["a", "b"] {
        let (image, map) = (dir.image(&format!("{name}.raw"), MIB), dir.path(&format!("{name}.map")));
        dm!("create", map, "--image", image).exits(0);
        dm!("reset", map, "--all").exits(0);
        command.arg("--disk").arg(format!("{name}={},map={}", image.display(), map.display()));
    }
    let start = |command: &mut Command| {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run dirtymap");
        until("a server", || std::os::unix::net::UnixStream::connect(dir.path("socket")).ok());
        child
    };
    let mut server = start(&mut command);
    let client = |export: &str| {
        let uri = format!("nbd+unix:///{export}?socket={}", dir.path("socket").display());
        Client::connect(&uri.parse().expect("a URI"), &ConnectOptions::default()).expect("connect")
    };
    // Each write of one disk is followed by one of the other: at no moment is the second one ahead.
    ["a", "b"].iter().for_each(|disk| client(disk).write(GRANULE, &[0; 8], 0).expect("write"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut a, mut b) = (client("a"), client("b"));
            for n in 0u64.. {
                if stop.load(std::sync::atomic::Ordering::SeqCst) {
                    break;
                }
                [&mut a, &mut b].into_iter().for_each(|disk| disk.write(GRANULE, &n.to_le_bytes(), 0).expect("write"));
            }
        });
        for _ in 0..20 {
            dm!("snapshot", "create", "--whole", "--server", dir.path("control")).exits(0);
            let number = |export: &str| {
                let read = client(export).read(GRANULE, 8, 0).expect("read");
                u64::from_le_bytes(read.try_into().expect("8 bytes"))
            };
            let (a, b) = (number("a@snapshot"), number("b@snapshot"));
            assert!(a == b || a == b + 1, "{a} and {b} are not of one moment");
            dm!("snapshot", "abort", "--server", dir.path("control")).exits(0);
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    if !takes_over() {
        server.kill().and_then(|()| server.wait()).expect("kill");
        return;
    }
    // The next server goes on with both, or with none.
    dm!("snapshot", "create", "--server", dir.path("control")).exits(0);
    server.kill().and_then(|()| server.wait()).expect("kill");
    let mut server = start(&mut command);
    let socket = std::os::unix::net::UnixStream::connect(dir.path("socket")).expect("connect");
    let listed = Negotiation::start(Box::new(socket)).and_then(|mut asks| asks.list()).expect("the exports");
    assert_eq!(
        listed.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(),
        ["a", "b", "a@snapshot", "b@snapshot"]
    );
    server.kill().and_then(|()| server.wait()).expect("kill");
    let mut alone = dirtymap();
    let disk = format!("a={},map={}", dir.path("a.raw").display(), dir.path("a.map").display());
    alone.arg("serve").arg("--socket").arg(dir.path("socket")).arg("--control").arg(dir.path("control"));
    let mut server = start(alone.arg("--disk").arg(disk));
    let listed = dm!("snapshot", "list", "--server", dir.path("control"), "--output", "json").exits(0).json();
    assert_eq!(listed["snapshots"], serde_json::json!([]), "one disk of two is no moment of the two");
    server.kill().and_then(|()| server.wait()).expect("kill");
}

/// Two disks, of which a server was killed between their commits; whether both are committed then.
fn killed_between_commits(leave_out: &str) -> bool {
    let dir = Dir::new();
    let mut command = dirtymap();
    command.arg("serve").arg("--socket").arg(dir.path("socket")).arg("--control").arg(dir.path("control"));
    for name in ["a", "b"] {
        let (image, map) = (dir.image(&format!("{name}.raw"), MIB), dir.path(&format!("{name}.map")));
        dm!("create", map, "--image", image).exits(0);
        command.arg("--disk").arg(format!("{name}={},map={}", image.display(), map.display()));
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).env("DIRTYMAP_TEST_LEAVE_OUT", leave_out);
    let start = |command: &mut Command| {
        let child = command.spawn().expect("run dirtymap");
        until("a server", || std::os::unix::net::UnixStream::connect(dir.path("socket")).ok());
        child
    };
    let held = dir.path("held");
    command.env("DIRTYMAP_TEST_HOLD_AT", format!("DiskCommitted@{}", held.display()));
    let mut server = start(&mut command);
    dm!("snapshot", "create", "--name", "now", "--server", dir.path("control")).exits(0);
    std::thread::scope(|scope| {
        let commits = scope.spawn(|| dm!("snapshot", "commit", "--keep", "--server", dir.path("control")));
        until("a commit", || held.exists().then_some(()));
        server.kill().and_then(|()| server.wait()).expect("kill");
        commits.join().expect("ended").exits(8);
    });
    command.env_remove("DIRTYMAP_TEST_HOLD_AT");
    let mut server = start(&mut command);
    dm!("snapshot", "list", "--server", dir.path("control")).exits(0);
    let committed = ["a", "b"].map(|name| {
        let info = dirtymap::info::inspect(dir.path(&format!("{name}.map"))).expect("inspect");
        assert!(info.checkpoint.is_none(), "a checkpoint is left that nobody serves");
        info.committed.is_some() && info.points.iter().any(|point| point.name == "now")
    });
    server.kill().and_then(|()| server.wait()).expect("kill");
    let left = fs::read_dir(dir.path("")).expect("list").map(|e| e.expect("an entry").file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with("dirtymap-")), "files are left");
    assert!(committed[0], "the first one was");
    committed[1]
}

#[test]
fn a_commit_of_several_disks_is_of_all_or_none() {
    if !cfg!(debug_assertions) {
        return skipped("a build without debug assertions has no steps to be held at");
    }
    assert!(killed_between_commits(""));
    assert!(!killed_between_commits("CommitAll"), "without COMMITTING nobody goes forward");
}

#[test]
fn what_was_kept_is_given_back_although_a_client_has_the_snapshot_open() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    write(&place, 1, 1);
    place.snapshot(&["create"]).exits(0);
    write(&place, 1, 2);
    let data = fs::File::open(place.index().with_extension("data")).expect("open");
    let _client = place.client("@snapshot").expect("connect");
    assert!(data.metadata().expect("look").len() > 0);
    place.snapshot(&["commit"]).exits(0);
    assert_eq!(data.metadata().expect("look").len(), 0);
}

#[test]
fn what_was_cut_off_is_no_hole_of_a_snapshot_and_is_not_committed() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    write(&place, 1, 1);
    place.snapshot(&["create", "--name", "now", "--whole"]).exits(0);
    let image = fs::File::options().write(true).open(place.image()).expect("open");
    image.set_len(2 * GRANULE).expect("cut off");
    let mut client = place.client("@now").expect("connect");
    assert!(client.read(GRANULE, GRANULE as u32, 0).is_ok());
    assert!(client.read(3 * GRANULE, GRANULE as u32, 0).is_err(), "zeros are made up");
    let refused = place.snapshot(&["commit"]).exits(8).out;
    assert!(refused.contains("snapshot-broken") && refused.contains("cut off"), "{refused}");
    place.snapshot(&["abort"]).exits(0);
}

#[test]
fn a_snapshot_is_meant_by_its_identity() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    let create = || {
        write(&place, 1, 1);
        place.snapshot(&["create"]).exits(0).json()["id"].as_str().expect("an identity").to_string()
    };
    let first = create();
    place.snapshot(&["abort", "--id", &first]).exits(0);
    let second = create();
    for ends in ["commit", "abort"] {
        assert!(place.snapshot(&[ends, "--id", &first]).exits(8).out.contains("no-snapshot"));
        assert!(place.snapshot(&[ends, "--id", &second, "--name", "other"]).exits(8).out.contains("no-snapshot"));
    }
    assert!(place.client(&format!("@{first}")).is_err());
    let read = place.client(&format!("@{second}")).expect("connect").read(GRANULE, GRANULE as u32, 0).expect("read");
    assert!(read == pattern(GRANULE, 1));
    place.snapshot(&["commit", "--id", &second]).exits(0);
    // Who did not get the answer asks again.
    assert_eq!(place.snapshot(&["commit", "--id", &second]).exits(0).json()["id"], second);
    place.snapshot(&["abort", "--id", &second]).exits(8);
    place.snapshot(&["commit", "--id", &first]).exits(8);
}

#[test]
fn an_export_has_no_name_that_a_snapshot_could_have() {
    let place = Place::new();
    let (image, map, socket) = (place.image(), place.map(), place.dir.path("socket"));
    dm!("serve", image, "--map", map, "--socket", socket, "--name", "a@now").exits(16).says("'@'");
}

/// A server waits a minute for what is asked, and a hook may take longer.
#[test]
fn the_connection_that_asks_is_made_after_the_hook() {
    let dir = Dir::new();
    let listener = std::os::unix::net::UnixListener::bind(dir.path("control")).expect("listen");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::{BufRead, Write};
            let _first = listener.accept().expect("accept");
            let (second, _) = listener.accept().expect("accept");
            let mut line = String::new();
            std::io::BufReader::new(&second).read_line(&mut line).expect("read");
            let hooked = dir.path("hooked").exists();
            writeln!(
                &second,
                r#"{{"error":{{"kind":"here","message":"{hooked} {}","exit":8}}}}"#,
                line.contains("create")
            )
            .expect("answer");
        });
        let hook = format!("touch {}", dir.path("hooked").display());
        let ran = dm!("snapshot", "create", "--server", dir.path("control"), "--pre-hook", hook);
        ran.exits(8).says("true true");
    });
}

#[test]
fn a_second_signal_does_not_skip_the_post_hook() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    let (begun, goes_on, thawed) = (place.dir.path("begun"), place.dir.path("goes-on"), place.dir.path("thawed"));
    let pre = format!("touch {}; while ! test -e {}; do sleep 0.01; done", begun.display(), goes_on.display());
    let mut command = dirtymap();
    command.args(["snapshot", "create", "--pre-hook", &pre, "--post-hook", &format!("touch {}", thawed.display())]);
    let child = command.arg("--server").arg(place.control()).stderr(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut child = child.expect("run dirtymap");
    until("the pre-hook", || begun.exists().then_some(()));
    for _ in 0..3 {
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
            .expect("signal");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    fs::write(goes_on, "").expect("write");
    child.wait().expect("wait");
    assert!(thawed.exists(), "the guest is frozen still");
}

#[test]
fn hooks_run_around_it() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    let log = place.dir.path("hooks");
    let hook = |word: &str| format!("echo {word} >> {}", log.display());
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let create = |pre: &str, post: &str| {
        place.snapshot(&["create", "--consistency", "app", "--pre-hook", pre, "--post-hook", post])
    };
    let made = create(&hook("freeze"), &hook("thaw")).exits(0).json();
    assert_eq!((&made["consistency"], said().as_str()), (&"app".into(), "freeze\nthaw\n"));
    // There is one already: thawed all the same.
    assert!(create(&hook("freeze"), &hook("thaw")).exits(8).out.contains("snapshot-exists"));
    assert_eq!(said(), "freeze\nthaw\nfreeze\nthaw\n");
    place.snapshot(&["abort"]).exits(0);
    assert!(create("false", &hook("thaw")).exits(8).out.contains("hook-failed"));
    assert_eq!(place.snapshot(&["list"]).exits(0).json()["snapshots"], serde_json::json!([]));
    assert!(said().ends_with("thaw\nthaw\n"));
    let failed = create("true", "false").exits(8).out;
    assert!(failed.contains("hook-failed") && failed.contains("is there"), "{failed}");
    place.snapshot(&["abort"]).exits(0);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let place = Place::new();
    let server = place.start(&[]).expect("a server");
    for name in ["", "a@b", "a/b", "\n", &"x".repeat(65)] {
        assert!(place.snapshot(&["create", "--name", name]).exits(8).out.contains("bad-name"), "{name:?}");
    }
    // Another program has frozen the map.
    let uuid = dm!("checkpoint", "freeze", place.map(), "--output", "json").exits(0).json()["uuid"].clone();
    assert!(place.snapshot(&["create"]).exits(8).out.contains("checkpoint-outstanding"));
    dm!("checkpoint", "abort", place.map()).exits(0);
    assert!(uuid.is_string());
    // Another program ends that of a snapshot: a commit says so, and nothing is forgotten.
    write(&place, 1, 1);
    place.snapshot(&["create"]).exits(0);
    place.put_back();
    assert!(place.snapshot(&["commit"]).exits(8).out.contains("no-checkpoint"));
    assert_eq!(areas(&place.map()), [GRANULE..2 * GRANULE]);
    // A write beside a server that is dead would spoil it.
    place.snapshot(&["create"]).exits(0);
    server.kill();
    let refused = common::run_with(
        ["write", place.image().to_str().expect("text"), "--map", place.map().to_str().expect("text"), "--at", "0"],
        b"data",
    );
    refused.exits(8).says("live snapshot");
    dm!("checkpoint", "abort", place.map()).exits(0);
    dm!("snapshot", "list", "--server", place.control()).exits(8);
}

/// What is written beside the server is copied by nobody.
#[test]
fn no_command_writes_the_image_while_a_snapshot_is_there_and_none_is_made_while_one_does() {
    let place = Place::new();
    let (set, old) = (place.dir.path("set"), fs::read(place.image()).expect("read"));
    dm!("backup", place.image(), "--map", place.map(), "--set", set).exits(0);
    let server = place.start(&[]).expect("a server");
    let write = || {
        let mut command = dirtymap();
        command.arg("write").arg(place.image()).arg("--at").arg("0").arg("--map").arg(place.map());
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run dirtymap")
    };
    let mut writes = write();
    until("a snapshot beside a writer that is refused", || {
        // It may have come upon a snapshot.
        if writes.try_wait().expect("look").is_some() {
            writes = write();
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        let made = place.snapshot(&["create"]);
        if made.code == 0 {
            place.snapshot(&["abort"]).exits(0);
        }
        made.out.contains("\"locked\"").then_some(())
    });
    assert_eq!(place.outstanding(), None);
    drop(writes.stdin.take());
    assert!(writes.wait().expect("wait").success());
    place.snapshot(&["create"]).exits(0);
    let refused = write().wait_with_output().expect("wait");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("live snapshot"), "{refused:?}");
    dm!("restore", set, place.image(), "--map", place.map()).exits(8);
    // Also without the server, which has locks of the image.
    server.kill();
    dm!("restore", set, place.image(), "--map", place.map()).exits(8).says("live snapshot");
    assert!(fs::read(place.image()).expect("read") == old);
    dm!("checkpoint", "abort", place.map()).exits(0);
    dm!("restore", set, place.image(), "--map", place.map()).exits(0);
}

/// A block of the snapshot: what is copied at once.
const BLOCK: u64 = 4096;

fn scratch_bytes(place: &Place) -> u64 {
    let listed = place.snapshot(&["list"]).exits(0).json();
    listed["snapshots"][0]["disks"][0]["scratch_bytes"].as_u64().expect("a number")
}

#[test]
fn a_write_has_the_blocks_copied_that_it_touches_and_the_rest_of_its_granule_is_read_as_before() {
    let place = Place::new();
    let server = place.start(&[]).expect("a server");
    write(&place, 1, 1);
    let old = fs::read(place.image()).expect("read");
    place.snapshot(&["create", "--name", "now"]).exits(0);
    let mut guest = place.client("").expect("connect");
    // One block; two, by two bytes; and one of zeros, which are kept nowhere.
    for (at, length) in [(3 * BLOCK, BLOCK), (6 * BLOCK - 1, 2)] {
        guest.write(GRANULE + at, &pattern(length, at), 0).expect("write");
    }
    assert_eq!(scratch_bytes(&place), 3 * BLOCK);
    guest.write_zeroes(GRANULE + 9 * BLOCK, BLOCK, 0).expect("zeroes");
    assert_eq!(scratch_bytes(&place), 4 * BLOCK);
    let is_old = |from: u64, length: u64| {
        let read = place.client("@now").expect("connect").read(from, length as u32, 0).expect("read");
        read == old[from as usize..(from + length) as usize]
    };
    let all_is_old =
        || is_old(GRANULE, GRANULE) && is_old(GRANULE + 3 * BLOCK + 7, 2 * BLOCK) && is_old(GRANULE + 5 * BLOCK + 9, 5);
    assert!(all_is_old());
    // What was copied before it is not copied again.
    guest.write(GRANULE, &pattern(GRANULE, 5), 0).expect("write");
    assert_eq!(scratch_bytes(&place), GRANULE);
    assert!(all_is_old());
    if takes_over() {
        server.kill();
        let _server = place.start(&[]).expect("a server");
        assert!(all_is_old());
        assert_eq!(scratch_bytes(&place), GRANULE);
        // A backup may be done with a part of a granule.
        let mut client = place.client("@now").expect("connect");
        client.trim(GRANULE, 5 * BLOCK + 1, 0).expect("trim");
        assert_eq!(scratch_bytes(&place), GRANULE - 5 * BLOCK);
        let states = client.block_status(0, SIZE, 0).expect("states")[0].1.clone();
        let to_do: Vec<_> = states.iter().map(|extent| (extent.length, extent.flags)).collect();
        assert_eq!(to_do, [(GRANULE + 5 * BLOCK, 0), (GRANULE - 5 * BLOCK, 1), (SIZE - 2 * GRANULE, 0)]);
        assert!(client.read(GRANULE + 4 * BLOCK, 1, 0).is_err() && is_old(GRANULE + 5 * BLOCK, GRANULE - 5 * BLOCK));
    }
}

#[test]
fn a_block_that_is_written_while_others_are_read_with_it_is_read_again() {
    let place = Place::new();
    let hold = place.dir.path("hold");
    let _server = place.start(&[("HOLD_AT", format!("Looked@{}", hold.display()))]).expect("a server");
    write(&place, 1, 1);
    let old = fs::read(place.image()).expect("read");
    place.snapshot(&["create", "--name", "now"]).exits(0);
    let mut client = place.client("@now").expect("connect");
    let reads = std::thread::spawn(move || client.read(GRANULE, GRANULE as u32, 0));
    until("the read", || hold.exists().then_some(()));
    // In the middle of what is read at once.
    place.client("").expect("connect").write(GRANULE + 7 * BLOCK, &pattern(2 * BLOCK, 3), 0).expect("write");
    fs::remove_file(&hold).expect("remove");
    assert!(reads.join().expect("no panic").expect("read") == old[bytes(1)]);
}

#[test]
fn an_image_that_was_written_beside_a_stopped_server_drops_the_snapshot() {
    if !takes_over() {
        return;
    }
    for written in [false, true] {
        let place = Place::new();
        let server = place.start(&[]).expect("a server");
        let old = write(&place, 1, 1);
        place.snapshot(&["create", "--name", "now"]).exits(0);
        write(&place, 1, 2);
        assert!(server.stop());
        if written {
            common::patch(&place.image(), |bytes| bytes[5 * GRANULE as usize] ^= 1);
        }
        let _server = place.start(&[]).expect("a server");
        let left = place.client("@now");
        assert_eq!(left.is_err(), written);
        if let Ok(mut client) = left {
            assert!(client.read(GRANULE, GRANULE as u32, 0).expect("read") == old);
        }
        assert_eq!(place.outstanding().is_none(), written);
    }
}

#[test]
fn qemus_clients_read_a_snapshot() {
    if Command::new("qemu-img").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skipped("qemu-img is not installed");
    }
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    write(&place, 3, 1);
    let frozen = fs::read(place.image()).expect("read");
    place.snapshot(&["create", "--whole"]).exits(0);
    write(&place, 3, 2);
    write(&place, 5, 3);
    let uri = format!("nbd+unix:///@snapshot?socket={}", place.dir.path("socket").display());
    let copy = place.dir.path("copy.raw");
    let copied = Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "raw", &uri]).arg(&copy).status();
    assert!(copied.expect("run qemu-img").success());
    assert!(fs::read(copy).expect("read") == frozen);
    let json = format!(
        r#"json:{{"driver":"raw","file":{{"driver":"nbd","export":"@snapshot","server":{{"type":"unix","path":"{}"}},"x-dirty-bitmap":"qemu:dirty-bitmap:frozen"}}}}"#,
        place.dir.path("socket").display()
    );
    let mapped = Command::new("qemu-img").args(["map", "--output=json", &json]).output().expect("run qemu-img");
    let mapped: serde_json::Value = serde_json::from_slice(&mapped.stdout).expect("JSON");
    let dirty: Vec<_> = mapped.as_array().expect("a list").iter().filter(|extent| extent["data"] == false).collect();
    assert_eq!(dirty.len(), 1, "{mapped}");
    assert_eq!((&dirty[0]["start"], &dirty[0]["length"]), (&(3 * GRANULE).into(), &GRANULE.into()));
}
