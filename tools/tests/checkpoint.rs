//! Checkpoints from the command line, and backups while others write.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;
#[path = "../../tests/common/mod.rs"]
mod threads;

use common::{Dir, GRANULE, MIB, areas, pattern, run_with};
use dirtymap::{Access, DirtyMap, ImageStamp, Options};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use threads::Finally;

const LEN: u64 = 16 * MIB;

fn shared() -> Options {
    Options::new().access(Access::Shared).flush_interval(None)
}

#[test]
fn what_is_frozen_is_committed_kept_listed_exported_and_dropped() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[MIB..2 * MIB]);
    let frozen = dm!("checkpoint", "freeze", map, "--name", "monday", "--output", "json").exits(0).json();
    assert_eq!((frozen["name"].as_str(), frozen["dirty_bytes"].as_u64()), (Some("monday"), Some(MIB)));
    // Dirty is here or frozen.
    assert_eq!(areas(&map), [MIB..2 * MIB]);
    dm!("set", map, "4M", "1").exits(0);
    dm!("checkpoint", "freeze", map).exits(8).says("monday");
    dm!("checkpoint", "commit", map, "--name", "tuesday").exits(8).says("monday").says("tuesday");
    assert!(dm!("checkpoint", "status", map).exits(0).out.contains("frozen \"monday\""));
    dm!("checkpoint", "commit", map, "--keep").exits(0);
    dm!("checkpoint", "commit", map).exits(8).says("no checkpoint is outstanding");
    assert_eq!(areas(&map), [4 * MIB..4 * MIB + GRANULE]);
    // Since monday is what was written after that was frozen.
    assert_eq!(total(&map, &["--since", "monday"]), GRANULE);
    assert!(dm!("checkpoint", "list", map).exits(0).out.contains("64 KiB since"));
    let status = dm!("checkpoint", "status", map, "--output", "json").exits(0).json();
    assert_eq!((&status["outstanding"], &status["committed"]["uuid"]), (&serde_json::Value::Null, &frozen["uuid"]));

    dm!("checkpoint", "freeze", map, "--name", "tuesday").exits(0);
    dm!("checkpoint", "commit", map, "--keep").exits(0);
    dm!("set", map, "6M", "1").exits(0);
    assert_eq!(total(&map, &["--since", "monday"]), 2 * GRANULE);
    assert_eq!(total(&map, &["--from", "monday", "--to", "tuesday"]), GRANULE);
    let listed = dm!("checkpoint", "list", map, "--output", "json").exits(0).json();
    let bytes = |i: usize| (listed[i]["since_bytes"].as_u64(), listed[i]["until_next_bytes"].as_u64());
    assert_eq!((bytes(0), bytes(1)), ((Some(2 * GRANULE), Some(GRANULE)), (Some(GRANULE), Some(GRANULE))));
    dm!("map", map, "--from", "tuesday", "--to", "monday").exits(8).says("was frozen before");
    dm!("map", map, "--from", "monday").exits(16);
    dm!("map", map, "--from", "monday", "--to", "tuesday", "--since", "monday").exits(16);

    let (some, all) = (dir.path("between"), dir.path("since"));
    dm!("checkpoint", "export", map, some, "--from", "monday", "--to", "tuesday").exits(0);
    dm!("checkpoint", "export", map, all, "--since", "monday").exits(0);
    let (four, six) = (4 * MIB..4 * MIB + GRANULE, 6 * MIB..6 * MIB + GRANULE);
    assert_eq!((areas(&some), areas(&all)), (vec![four.clone()], vec![four, six.clone()]));
    dm!("checkpoint", "export", map, some, "--since", "monday").exits(8).says("exists");
    dm!("checkpoint", "export", map, dir.path("none")).exits(16);
    dm!("map", map, "--since", "sunday").exits(8).says("sunday").says("monday");

    dm!("checkpoint", "freeze", map).exits(0);
    dm!("checkpoint", "abort", map).exits(0);
    assert_eq!(areas(&map), [six]);
    assert!(dm!("info", map).exits(0).out.contains("\"monday\", \"tuesday\", oldest first"));
    dm!("checkpoint", "drop", map, "--name", "tuesday").exits(0);
    assert_eq!(total(&map, &["--since", "monday"]), 2 * GRANULE);
    dm!("checkpoint", "drop", map, "--name", "monday").exits(0);
    assert!(!dm!("info", map).exits(0).out.contains("oldest first"));
    assert_eq!(dm!("checkpoint", "list", map).exits(0).out, "");
    dm!("checkpoint", "drop", map, "--name", "monday").exits(8).says("monday");
    dm!("check", map).exits(0);
}

/// Bytes that are dirty, as `map` says with these arguments.
fn total(map: &Path, args: &[&str]) -> u64 {
    let map = map.to_str().expect("text");
    let line = [&["map", map, "--totals", "--output", "json"], args].concat();
    run_with(line, b"").exits(0).json()[1]["size"].as_u64().expect("a number")
}

/// The oldest names go when the new one is there, and only then.
#[test]
fn the_last_few_names_are_kept() {
    let dir = Dir::new();
    let (image, target, map) = (dir.image("image", LEN), dir.path("target"), dir.path("m"));
    let names = || {
        let info = dm!("info", map, "--output", "json").exits(0).json();
        let names =
            info["points"].as_array().expect("a list").iter().map(|name| name.as_str().expect("a name").to_string());
        names.collect::<Vec<_>>()
    };
    dm!("create", map, "--image", image).exits(0);
    for name in ["a", "b", "c"] {
        dm!("backup", image, target, "--map", map, "--name", name, "--keep-last", "2").exits(0);
        write_at(&image, &map, "1M", name.as_bytes());
    }
    assert_eq!(names(), ["b", "c"]);
    assert_eq!((total(&map, &["--since", "b"]), total(&map, &["--from", "b", "--to", "c"])), (GRANULE, GRANULE));
    // One that fails drops nothing.
    dm!("backup", image, target, "--map", map, "--name", "b", "--keep-last", "1").exits(8);
    assert_eq!(names(), ["b", "c"]);
    dm!("checkpoint", "freeze", map, "--name", "d").exits(0);
    let ended = dm!("checkpoint", "commit", map, "--keep", "--keep-last", "1", "--output", "json").exits(0).json();
    assert_eq!((ended["dropped"].clone(), names()), (serde_json::json!(["b", "c"]), vec!["d".to_string()]));
    for wrong in
        [&["--keep-last", "1"][..], &["--name", "e", "--keep-last", "0"], &["--name", "e", "--keep-last", "64"]]
    {
        let line = ["backup", "image", "target", "--map", "m"].iter().chain(wrong);
        run_with(line, b"").exits(16);
    }
}

/// Writes blocks at random places until told to stop, in brackets.
fn write_on(live: &DirtyMap, file: &fs::File, done: &AtomicBool, first: u64, step: u64) {
    let mut n = first;
    while !done.load(SeqCst) {
        let at = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (LEN / 512) * 512;
        let write = live.begin_write(at..at + 512).expect("begin");
        file.write_all_at(&pattern(512, n), at).expect("write");
        drop(write);
        n += step;
    }
}

/// Killed anywhere (opening, freezing, copying, committing), a backup leaves nothing that the next one does not mend.
#[test]
fn backups_that_are_killed_beside_a_live_writer_forget_nothing() {
    let dir = Dir::new();
    let (image, target, map) = (dir.image("image", LEN), dir.path("target"), dir.path("m"));
    dm!("create", map, "--image", image).exits(0);
    let (done, file) = (AtomicBool::new(false), fs::File::options().write(true).open(&image).expect("open"));
    let live = shared().open(&map).expect("open");
    std::thread::scope(|scope| {
        let ended = Finally(|| done.store(true, SeqCst));
        scope.spawn(|| write_on(&live, &file, &done, 1, 1));
        for round in 0..12u64 {
            let mut backup = common::dirtymap();
            backup.arg("backup").args([&image, &target]).arg("--map").arg(&map);
            let mut child = backup.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run");
            // At another moment each time; whichever it is, what follows must hold.
            std::thread::sleep(Duration::from_millis(round * 7 % 40));
            let _ = child.kill();
            child.wait().expect("wait");
        }
        drop(ended);
    });
    dm!("backup", image, target, "--map", map).exits(0);
    assert_eq!(fs::read(&image).expect("read"), fs::read(&target).expect("read"));
    live.close().expect("close");
    dm!("check", map).exits(0);
}

/// Writers of this process go on while the command freezes, copies, verifies and commits.
#[test]
fn backups_beside_a_live_writer_end_with_the_image() {
    let dir = Dir::new();
    let (image, target) = (dir.image("image", LEN), dir.path("target"));
    let map = dir.path("m");
    dm!("create", map, "--image", image).exits(0);
    let (done, file) = (AtomicBool::new(false), fs::File::options().write(true).open(&image).expect("open"));
    let live = shared().open(&map).expect("open");
    std::thread::scope(|scope| {
        let ended = Finally(|| done.store(true, SeqCst));
        for writer in 0..2u64 {
            let (live, file, done) = (&live, &file, &done);
            scope.spawn(move || write_on(live, file, done, writer, 2));
        }
        let backups: Vec<_> = (0..3).map(|_| dm!("backup", image, target, "--map", map)).collect();
        drop(ended);
        backups.into_iter().for_each(|backup| drop(backup.exits(0)));
    });
    // What was written meanwhile is for the next one, and nothing else.
    assert!(!live.is_empty());
    dm!("backup", image, target, "--map", map).exits(0);
    assert_eq!(fs::read(&image).expect("read"), fs::read(&target).expect("read"));
    assert!(live.is_empty());
    live.close().expect("close");
    dm!("check", map).exits(0);
}

#[test]
fn what_a_backup_that_died_has_frozen_is_put_back_and_what_a_user_has_frozen_is_not() {
    let dir = Dir::new();
    let (image, target, map) = (dir.image("image", LEN), dir.path("target"), dir.path("m"));
    dm!("create", map, "--image", image).exits(0);
    dm!("backup", image, target, "--map", map).exits(0);
    run_with(["write", image.to_str().expect("text"), "--map", map.to_str().expect("text"), "--at", "1M"], b"x")
        .exits(0);
    let stamp = ImageStamp::of_path(&target).expect("a stamp");
    DirtyMap::open(&map).expect("open").freeze_for(Some("dirtymap backup"), &stamp).expect("freeze");
    dm!("backup", image, target, "--map", map, "--frozen").exits(8).says("no checkpoint is frozen for it");
    dm!("backup", image, target, "--map", map).exits(0);
    assert_eq!(fs::read(&image).expect("read"), fs::read(&target).expect("read"));

    dm!("checkpoint", "freeze", map, "--name", "mine").exits(0);
    let when = dm!("checkpoint", "status", map, "--output", "json").exits(0).json()["outstanding"]["time"].clone();
    let when = format!("begun {})", when.as_str().expect("a time"));
    dm!("checkpoint", "freeze", map, "--name", "other").exits(8).says(&when);
    dm!("backup", image, target, "--map", map).exits(8).says("mine");
    dm!("backup", image, target, "--map", map, "--name", "mine").exits(8).says("mine");
    dm!("checkpoint", "abort", map, "--name", "mine").exits(0);
    dm!("backup", image, target, "--map", map).exits(0);
}

#[test]
fn one_backup_at_a_time() {
    let dir = Dir::new();
    let (image, target, map) = (dir.image("image", LEN), dir.path("target"), dir.path("m"));
    dm!("create", map, "--image", image).exits(0);
    let other = shared().open(&map).expect("open");
    other.claim_backup().expect("claim");
    dm!("backup", image, target, "--map", map).exits(8).says("making a backup");
    assert!(!target.exists());
    other.close().expect("close");
    dm!("backup", image, target, "--map", map).exits(0);
}

/// A tracked write by the command.
fn write_at(image: &Path, map: &Path, at: &str, data: &[u8]) {
    let line = ["write", image.to_str().expect("text"), "--map", map.to_str().expect("text"), "--at", at];
    run_with(line, data).exits(0);
}

#[test]
fn a_backup_since_a_name_brings_an_older_target_up_to_date() {
    let dir = Dir::new();
    let (image, map) = (dir.image("image", LEN), dir.path("m"));
    let (old, new) = (dir.path("old"), dir.path("new"));
    let write = |at: &str, data: &[u8]| write_at(&image, &map, at, data);
    dm!("create", map, "--image", image).exits(0);
    dm!("backup", image, old, "--map", map, "--name", "sunday").exits(0);
    write("1M", b"one");
    dm!("backup", image, new, "--map", map, "--full", "--force", "--name", "monday").exits(0);
    write("3M", b"three");
    // The first target lacks both; it is not what the map last wrote.
    dm!("backup", image, old, "--map", map).exits(8).says("not the backup");
    dm!("backup", image, old, "--map", map, "--since", "sunday").exits(0);
    assert_eq!(fs::read(&image).expect("read"), fs::read(&old).expect("read"));
    dm!("backup", image, old, "--map", map, "--since", "friday").exits(8).says("friday").says("sunday");
    dm!("backup", image, dir.path("none"), "--map", map, "--since", "sunday").exits(8).says("not found");
    // Nothing proves that a target is what its user says: all of it is compared.
    dm!("backup", image, old, "--map", map, "--name", "tuesday").exits(0);
    dm!("backup", image, dir.image("other", LEN), "--map", map, "--since", "tuesday")
        .exits(8)
        .says("not complete then");
}

/// A command that cannot share a map says why: beside others it fails, and without them it goes on alone.
#[test]
fn without_memory_to_lock_a_command_says_so_and_goes_on_alone() {
    let dir = Dir::new();
    let (image, target, map) = (dir.image("image", LEN), dir.path("target"), dir.path("m"));
    dm!("create", map, "--image", image).exits(0);
    let text = |path: &Path| path.to_str().expect("text").to_string();
    let (image, target, file) = (text(&image), text(&target), text(&map));
    let backup = ["backup", &image, &target, "--map", &file];
    let other = shared().open(&map).expect("open");
    let Some(ran) = without_locked_memory(&backup) else { return };
    ran.exits(8).says("in use").says("nor can it be shared").says("ulimit -l");
    other.close().expect("close");
    let lines: [&[&str]; 7] = [
        &backup,
        &["set", &file, "0", "1"],
        &["reset", &file, "--all"],
        &["write", &image, "--map", &file, "--at", "0"],
        &["checkpoint", "freeze", &file],
        &["checkpoint", "abort", &file],
        &["merge", &file, &text(&dir.map("other", LEN, &[0..1]))],
    ];
    for line in lines {
        let ran = without_locked_memory(line).expect("it was possible").exits(0);
        ran.says("ulimit -l").says("has the map alone until it ends");
    }
}

/// Runs the command where it may lock no memory.
fn without_locked_memory(args: &[&str]) -> Option<common::Ran> {
    if common::is_root() && !Path::new("/usr/bin/setpriv").exists() {
        common::skipped("little locked memory: root without setpriv");
        return None;
    }
    let mut sh = std::process::Command::new(if common::is_root() { "setpriv" } else { "env" });
    if common::is_root() {
        sh.args(["--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]);
    }
    sh.args(["sh", "-c", "ulimit -l 0; exec \"$@\"", "sh"]).arg(common::dirtymap().get_program()).args(args);
    Some(common::Ran::from(sh.stdin(std::process::Stdio::null()).output().expect("run")))
}

/// A backup without a name forgets nothing that an older point's target lacks; nor does one that died before it was done.
#[test]
fn what_a_backup_without_a_name_has_copied_is_still_dirty_since_an_older_one() {
    let dir = Dir::new();
    let (image, map) = (dir.image("image", LEN), dir.path("m"));
    let (old, new) = (dir.path("old"), dir.path("new"));
    let write = |at: &str, data: &[u8]| write_at(&image, &map, at, data);
    let since = |name: &str| total(&map, &["--since", name]);
    dm!("create", map, "--image", image).exits(0);
    dm!("backup", image, new, "--map", map).exits(0);
    dm!("backup", image, new, "--map", map, "--name", "sunday").exits(0);
    fs::copy(&new, &old).expect("copy");
    write("1M", b"one");
    dm!("backup", image, new, "--map", map).exits(0);
    assert_eq!((areas(&map), since("sunday")), (vec![], GRANULE));
    assert_eq!(dm!("checkpoint", "list", map).exits(0).out.lines().count(), 1);
    write("3M", b"three");
    // As one that is killed between its commit and its end.
    let alone = DirtyMap::open(&map).expect("open");
    let frozen = alone.freeze(Some("dirtymap backup")).expect("freeze");
    alone.commit_checkpoint(frozen.uuid, false).expect("commit");
    alone.close().expect("close");
    write("5M", b"five");
    dm!("backup", image, old, "--map", map, "--since", "sunday", "--name", "monday").exits(0);
    assert_eq!(fs::read(&image).expect("read"), fs::read(&old).expect("read"));
    assert_eq!((since("sunday"), since("monday")), (3 * GRANULE, 0));
    assert_eq!(dm!("checkpoint", "list", map).exits(0).out.lines().count(), 2);
}

/// What cannot be frozen is refused while map and target are as they were.
#[test]
fn a_name_that_is_taken_changes_nothing() {
    let dir = Dir::new();
    let (image, target, map) = (dir.image("image", LEN), dir.path("target"), dir.path("m"));
    dm!("create", map, "--image", image).exits(0);
    dm!("backup", image, target, "--map", map, "--name", "sunday").exits(0);
    dm!("backup", image, target, "--map", map, "--name", "sunday").exits(8).says("already").says("drop");
    dm!("backup", image, dir.path("new"), "--map", map, "--name", "sunday").exits(8);
    dm!("backup", image, target, "--map", map, "--name", "").exits(8).says("1 to 64 bytes");
    dm!("backup", image, target, "--map", map, "--name", "dirtymap backup").exits(8).says("another name");
    dm!("checkpoint", "freeze", map, "--name", "mine").exits(0);
    let when = dm!("checkpoint", "status", map, "--output", "json").exits(0).json()["outstanding"]["time"].clone();
    let when = format!("begun {})", when.as_str().expect("a time"));
    dm!("checkpoint", "freeze", map, "--name", "other").exits(8).says(&when);
    dm!("backup", image, target, "--map", map, "--full").exits(8).says("checkpoint abort");
    dm!("checkpoint", "abort", map).exits(0);
    assert!(!dir.path("new").exists());
    let info = dm!("info", map, "--output", "json").exits(0).json();
    assert_eq!((info["dirty_bits"].as_u64(), info["target"]["exact"].as_bool()), (Some(0), Some(true)));
}

/// What is dirty only because a point cannot be read takes no dirt away from another map.
#[test]
fn a_point_that_fails_is_nothing_to_subtract() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[MIB..2 * MIB]);
    dm!("checkpoint", "freeze", map).exits(0);
    dm!("set", map, "4M", "1").exits(0);
    let dump = dm!("dump", map, "--output", "json").exits(0).json();
    let bottom = dump["points"][0]["bottom_offset"].as_u64().expect("an offset");
    let file = fs::File::options().write(true).open(&map).expect("open");
    file.write_all_at(&[0xFF; 512], bottom).expect("write");
    let map = Options::new().read_only(true).open(&map).expect("open");
    assert!(map.is_full());
    let mut all = dirtymap::Bitmap::new(LEN, map.granularity()).expect("make");
    all.set(0..LEN).expect("set");
    assert_eq!(all.subtract(&map).expect("subtract"), 1);
    assert!(!all.get(4 * MIB).expect("get") && all.get(MIB).expect("get"));
}
