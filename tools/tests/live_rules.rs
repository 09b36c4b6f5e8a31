//! Live snapshots: each rule of docs/snapshot.md in a schedule of its own, in which a real server is held at some step. With
//! the rule left out, the same schedule must end with something wrong.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::live::{Checked, GRANULES, Place, SIZE, Server, bytes, takes_over, to_do, until};
use common::{GRANULE, pattern};
use dirtymap::Options;
use dirtymap::checkpoint::CheckpointState;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is written where, so that it is known again.
fn data(seed: u64) -> Vec<u8> {
    pattern(GRANULE, 1000 + seed)
}

fn write(place: &Place, g: u64, seed: u64) {
    place.client("").expect("connect").write(g * GRANULE, &data(seed), 0).expect("write");
}

fn read(place: &Place, g: u64) -> Checked<Vec<u8>> {
    let mut client = place.client("@now").map_err(|e| e.0)?;
    client.read(g * GRANULE, GRANULE as u32, 0).map_err(|e| e.to_string())
}

fn create(place: &Place) {
    place.snapshot(&["create", "--name", "now"]).exits(0);
}

fn expect(right: bool, what: &str) -> Checked {
    if right { Ok(()) } else { Err(what.into()) }
}

/// A file that is there while the server is held.
struct Held(PathBuf);

impl Held {
    fn reached(&self) -> bool {
        self.0.exists()
    }

    fn wait(&self) {
        until("a step", || self.reached().then_some(()));
    }

    fn release(&self) {
        fs::remove_file(&self.0).expect("release");
    }
}

/// A server that is held the first time at each of these steps.
fn held<const N: usize>(place: &Place, steps: [&str; N]) -> (Server, [Held; N]) {
    let holds = steps.map(|step| Held(place.dir.path(&format!("held-{step}"))));
    let all: Vec<String> =
        steps.iter().zip(&holds).map(|(step, held)| format!("{step}@{}", held.0.display())).collect();
    (place.start(&[("HOLD_AT", all.join(","))]).expect("a server"), holds)
}

fn plain(place: &Place) -> Server {
    place.start(&[]).expect("a server")
}

/// Granule 1 is dirty, without a write.
fn one_dirty(place: &Place) {
    common::run(["set".as_ref(), place.map().as_os_str(), "64K".as_ref(), "64K".as_ref()]).exits(0);
}

fn before(place: &Place, g: u64) -> Vec<u8> {
    fs::read(place.image()).expect("read")[bytes(g)].to_vec()
}

/// Waits until the freeze has reset, and waits for writers.
fn freezing(place: &Place) {
    until("FREEZING", || place.outstanding());
    let map = Options::new().read_only(true).open(place.map()).expect("open");
    until("the reset", || {
        let found = map.checkpoint().expect("look").expect("a checkpoint");
        let reset = found.state == CheckpointState::Freezing && !map.any_since_freeze().expect("look");
        reset.then_some(())
    });
    map.close().expect("close");
}

fn copies_before_the_freeze(place: &Place) -> Checked {
    one_dirty(place);
    let old = before(place, 1);
    let (_server, [frozen]) = held(place, ["Frozen"]);
    std::thread::scope(|scope| {
        let creates = scope.spawn(|| create(place));
        frozen.wait();
        // The first write is surely out, and so is the second, which began after it was complete.
        write(place, 5, 1);
        write(place, 1, 2);
        frozen.release();
        creates.join().expect("created");
    });
    expect(read(place, 1)? == old, "a later write is in the snapshot, and an earlier one is not")
}

fn marks_again(place: &Place) -> Checked {
    let (mut base, old) = (fs::read(place.image()).expect("read"), before(place, 1));
    let (_server, [marked]) = held(place, ["Marked"]);
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| write(place, 1, 1));
        marked.wait();
        let creates = scope.spawn(|| create(place));
        freezing(place);
        marked.release();
        writes.join().expect("written");
        creates.join().expect("created");
    });
    // The mark is frozen, and the data is not.
    expect(read(place, 1)? == old, "a write is in the snapshot that was copied for")?;
    base[bytes(1)].copy_from_slice(&old);
    place.snapshot(&["commit"]).exits(0);
    expect(place.forgotten(&base).is_empty(), "a write is forgotten whose mark was frozen, and not its data")
}

fn registers_then_looks(place: &Place) -> Checked {
    one_dirty(place);
    let old = before(place, 1);
    let (_server, [came]) = held(place, ["Came"]);
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| write(place, 1, 1));
        came.wait();
        create(place);
        came.release();
        writes.join().expect("written");
    });
    expect(read(place, 1)? == old, "a write changed the snapshot that began before it and was not waited for")
}

fn waits_for_older_writers(place: &Place) -> Checked {
    let (_server, [entered, copies]) = held(place, ["Entered", "MustCopy"]);
    std::thread::scope(|scope| {
        let older = scope.spawn(|| write(place, 1, 1));
        entered.wait();
        let creates = scope.spawn(|| create(place));
        freezing(place);
        let newer = scope.spawn(|| write(place, 1, 2));
        // What must not happen is waited for so long, and what must with a rule left out for longer.
        let patience = Duration::from_millis(if place.leave_out.is_some() { 60_000 } else { 300 });
        let begun = Instant::now();
        while !copies.reached() && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        let early = copies.reached();
        entered.release();
        copies.wait();
        copies.release();
        older.join().expect("written");
        newer.join().expect("written");
        creates.join().expect("created");
        expect(!early, "a granule is copied while an older write of it is under way")
    })
}

fn looks_under_the_lock(place: &Place) -> Checked {
    one_dirty(place);
    let old = before(place, 1);
    let (_server, [copies]) = held(place, ["MustCopy"]);
    create(place);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| write(place, 1, 1));
        copies.wait();
        write(place, 1, 2);
        copies.release();
        first.join().expect("written");
    });
    expect(read(place, 1)? == old, "a granule was copied twice")
}

fn reads_then_looks(place: &Place) -> Checked {
    one_dirty(place);
    let old = before(place, 1);
    let (_server, [looked]) = held(place, ["Looked"]);
    create(place);
    let found = std::thread::scope(|scope| {
        let reads = scope.spawn(|| read(place, 1));
        looked.wait();
        write(place, 1, 1);
        looked.release();
        reads.join().expect("read")
    });
    expect(found? == old, "a reader got what was written meanwhile")
}

/// A snapshot is ended by this, and the server killed while it does so.
fn ended(place: &Place, how: &str) -> Checked {
    one_dirty(place);
    let (base, old) = (fs::read(place.image()).expect("read"), before(place, 1));
    let (server, [off]) = held(place, ["CopyingOff"]);
    create(place);
    std::thread::scope(|scope| {
        let ends = scope.spawn(|| place.snapshot(&[how]));
        off.wait();
        write(place, 1, 1);
        server.kill();
        ends.join().expect("ended").exits(8);
    });
    let _server = plain(place);
    if place.outstanding().is_some() {
        expect(read(place, 1)? == old, "a write changed a snapshot that is served again")?;
    }
    // The image had not changed since the last backup until then.
    expect(place.forgotten(&base).is_empty(), "a write is forgotten")
}

fn commits_then_stops_copying(place: &Place) -> Checked {
    ended(place, "commit")
}

fn aborts_then_stops_copying(place: &Place) -> Checked {
    ended(place, "abort")
}

/// Kills a server with a snapshot, changes its index, and has the next one look at it.
fn found_changed(place: &Place, change: &dyn Fn(&mut Vec<u8>)) -> Checked {
    one_dirty(place);
    let server = plain(place);
    create(place);
    write(place, 1, 1);
    server.kill();
    let mut index = fs::read(place.index()).expect("read");
    change(&mut index);
    fs::write(place.index(), index).expect("write");
    let _server = plain(place);
    let listed = place.snapshot(&["list"]).exits(0).json();
    expect(listed["snapshots"] == serde_json::json!([]), "it is served all the same")?;
    expect(place.outstanding().is_none(), "its checkpoint is left")?;
    expect(!place.index().exists(), "its files are left")?;
    let areas = common::areas(&place.map());
    expect(areas.iter().any(|area| area.contains(&GRANULE)), "what was frozen is not dirty")
}

/// The same, with another value in a valid header.
fn found_with(place: &Place, at: usize, value: u8) -> Checked {
    found_changed(place, &|index| {
        index[at] ^= value;
        let crc = crc32fast::hash(&index[..4092]);
        index[4092..4096].copy_from_slice(&crc.to_le_bytes());
    })
    .map_err(|e| format!("byte {at}: {e}"))
}

fn compares_evidence(place: &Place) -> Checked {
    // Boot; of the image device, inode, mount and birth, of the data inode, of the index birth; when the image was left.
    for at in [72, 88, 96, 104, 112, 128, 176, 208] {
        let place = Place { leave_out: place.leave_out, ..Place::new() };
        found_with(&place, at, 1)?;
    }
    Ok(())
}

fn compares_the_uuid(place: &Place) -> Checked {
    found_with(place, 56, 1)
}

fn refuses_what_was_being_asked(place: &Place) -> Checked {
    found_with(place, 12, 2 ^ 4)
}

fn aborts_what_cannot_be_served(place: &Place) -> Checked {
    found_changed(place, &|index| index[100] ^= 1)?;
    let place = Place { leave_out: place.leave_out, ..Place::new() };
    found_changed(&place, &|index| index[4096 + 16 + 9] ^= 1)
}

fn verifies_what_scratch_has(place: &Place) -> Checked {
    one_dirty(place);
    let _server = plain(place);
    create(place);
    write(place, 1, 1);
    let data = fs::File::options().write(true).open(place.index().with_extension("data")).expect("open");
    data.write_all_at(&[0; 4096], GRANULE + 8192).expect("write");
    expect(read(place, 1).is_err(), "bytes were read that scratch has lost")?;
    let broken = place.snapshot(&["list"]).exits(0).json()["snapshots"][0]["broken"].to_string();
    expect(broken.contains("lost"), &broken)?;
    // The guest does not notice, and an abort makes room for the next one.
    write(place, 1, 2);
    place.snapshot(&["commit"]).exits(8);
    place.snapshot(&["abort"]).exits(0);
    create(place);
    Ok(())
}

fn records_that_scratch_is_full(place: &Place) -> Checked {
    let mut place = Place { leave_out: place.leave_out, ..Place::new() };
    place.more = ["--scratch-limit", "128K"].map(String::from).to_vec();
    let base = fs::read(place.image()).expect("read");
    let server = plain(&place);
    (1..5).for_each(|g| write(&place, g, g));
    create(&place);
    (1..5).for_each(|g| write(&place, g, 10 + g));
    let listed = place.snapshot(&["list"]).exits(0).json();
    expect(listed["snapshots"][0]["broken"].to_string().contains("limit"), &listed.to_string())?;
    expect(read(&place, 1).is_err(), "a broken snapshot is read")?;
    write(&place, 5, 5);
    let all = common::areas(&place.map());
    expect(all == [GRANULE..6 * GRANULE], "the next backup is not incremental")?;
    server.kill();
    let _server = plain(&place);
    expect(place.outstanding().is_none(), "a broken snapshot is served again")?;
    expect(place.forgotten(&base).is_empty(), "a write is forgotten")
}

/// A rule, and what goes wrong without it.
type Schedule = (&'static str, fn(&Place) -> Checked);

const SCHEDULES: [Schedule; 14] = [
    ("CopyBeforeFreeze", copies_before_the_freeze),
    ("MarkAgain", marks_again),
    ("RegisterThenLook", registers_then_looks),
    ("WaitForOlder", waits_for_older_writers),
    ("LookUnderLock", looks_under_the_lock),
    ("ReadThenLook", reads_then_looks),
    ("NormalThenOff", commits_then_stops_copying),
    ("NormalThenOff", aborts_then_stops_copying),
    ("CompareEvidence", compares_evidence),
    ("CompareUuid", compares_the_uuid),
    ("RefuseAsking", refuses_what_was_being_asked),
    ("AbortOwn", aborts_what_cannot_be_served),
    ("VerifyData", verifies_what_scratch_has),
    ("RecordBroken", records_that_scratch_is_full),
];

#[test]
fn each_rule_holds_in_its_schedule_and_is_needed_there() {
    if !cfg!(debug_assertions) {
        return common::skipped("a build without debug assertions has no steps to be held at");
    }
    if !takes_over() {
        return;
    }
    for (rule, schedule) in SCHEDULES {
        schedule(&Place::new()).unwrap_or_else(|e| panic!("{rule}: {e}"));
        let found = schedule(&Place { leave_out: Some(rule), ..Place::new() }).expect_err(rule);
        println!("without {rule}: {found}");
    }
}

#[test]
fn what_is_not_wanted_is_not_copied_and_not_read() {
    let place = Place::new();
    one_dirty(&place);
    let _server = plain(&place);
    create(&place);
    write(&place, 3, 1);
    let copied = || place.snapshot(&["list"]).exits(0).json()["snapshots"][0]["disks"][0]["scratch_bytes"].as_u64();
    assert_eq!(copied(), Some(0));
    assert!(read(&place, 3).is_err());
    write(&place, 1, 1);
    assert_eq!(copied(), Some(GRANULE));
    assert_eq!(to_do(&mut place.client("@now").expect("connect"), SIZE).expect("states"), [1]);
    place.snapshot(&["abort"]).exits(0);
    // All of it, if that is asked for.
    let old = before(&place, 3);
    place.snapshot(&["create", "--name", "now", "--whole"]).exits(0);
    write(&place, 3, 2);
    assert!(read(&place, 3).expect("read") == old);
    let mut client = place.client("@now").expect("connect");
    let last = (GRANULES - 1) * GRANULE;
    assert_eq!(client.read(last, (SIZE - last) as u32, 0).expect("read"), before(&place, GRANULES - 1));
}
