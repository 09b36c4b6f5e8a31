//! Backups to a set whose disk is full: what was there stays as it was, nothing else is left, and with room the next one goes on by
//! itself.

mod common;

use common::{Cleanup, GRANULE, KIB, MIB, Ran, Set, pattern, run, skipped};
use dirtymap::info::inspect;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const SIZE: u64 = 5 * GRANULE + 777;

/// Has the set lie on a small file system of its own; `None` where there can be none.
fn small_disk(set: &Set) -> Option<Cleanup> {
    fs::create_dir(set.folder()).expect("make");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16M", "none"]).arg(set.folder()).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        skipped("a disk that is full: needs root and tmpfs");
        return None;
    }
    Some(Cleanup::new("umount", &[set.folder().as_os_str()]))
}

impl Set {
    fn ballast(&self) -> PathBuf {
        self.folder().join("ballast")
    }

    /// Leaves so much room on the disk, and no more.
    fn leave(&self, room: u64) {
        let fs = rustix::fs::statvfs(self.folder()).expect("look");
        let free = fs.f_bavail * fs.f_frsize;
        fs::write(self.ballast(), vec![1; (free - room) as usize]).expect("fill");
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("remove");
    }

    /// What is in the set's folder.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).expect("read");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.retain(|name| name != "ballast");
        names.sort();
        names
    }

    fn verify(&self) -> Ran {
        run(["--output", "json", "set", "verify"].map(OsStr::new).into_iter().chain([self.folder().as_os_str()]))
    }

    /// Backs up; what it says, or that there is no room.
    fn try_to_set(&self) -> Option<Value> {
        let ran = self.to_set(&["--output", "json"]);
        if ran.code == 0 {
            return Some(ran.json());
        }
        let failed = ran.exits(8).json();
        assert_eq!(failed["error"]["kind"], "no-space", "{failed}");
        assert!(failed["error"]["message"].as_str().expect("text").contains("make room there"), "{failed}");
        None
    }

    /// The members are there, and nothing is damaged; if not even that could be written, `set.json` says that there is something to
    /// settle.
    #[track_caller]
    fn assert_members(&self, members: usize) {
        let found = self.verify();
        let unsettled = found.json()["unsettled"] == true;
        assert_eq!(found.code, if unsettled { 2 } else { 0 }, "{found:?}");
        assert_eq!(found.json()["members"], members);
        assert_eq!(found.json()["unfinished_bytes"], Value::Null);
    }
}

/// Room for a few pages, for more and more of a member's data, and page by page for that and what follows.
fn rooms(data: u64) -> impl Iterator<Item = u64> {
    let pages = |from: u64| (from..).step_by(4 * KIB as usize);
    pages(0).take(12).chain((0..data).step_by(40 * KIB as usize)).chain(pages(data))
}

#[test]
fn a_first_backup_that_finds_no_room_leaves_none_of_it_and_the_next_begins_anew() {
    let set = Set::of_image(SIZE);
    let Some(_unmount) = small_disk(&set) else { return };
    let map = fs::read(&set.map).expect("read");
    let mut failed = 0;
    for room in rooms(SIZE.next_multiple_of(4 * KIB)) {
        set.leave(room);
        let done = set.try_to_set();
        set.make_room();
        if done.is_none() {
            failed += 1;
            let files = set.files();
            assert!(files.is_empty() || files == ["set.json"], "room of {room}: {files:?}");
            if !files.is_empty() {
                set.assert_members(0);
            }
            let info = inspect(&set.map).expect("inspect");
            assert_eq!((info.checkpoint, info.dirty.map(|(_, bytes)| bytes)), (None, Some(SIZE)), "room of {room}");
            set.keep(1, &[]);
        }
        assert_eq!(set.files(), ["0001.qcow2", "set.json"], "room of {room}");
        dm!("set", "verify", set.folder(), "--against", set.image).exits(0);
        if done.is_some() {
            break;
        }
        set.files().iter().for_each(|name| fs::remove_file(set.folder().join(name)).expect("remove"));
        fs::write(&set.map, &map).expect("write");
    }
    assert!(failed > 15, "{failed}");
}

#[test]
fn a_later_backup_that_finds_no_room_leaves_the_members_and_the_next_is_no_full_one() {
    let set = Set::of_image(SIZE);
    let Some(_unmount) = small_disk(&set) else { return };
    set.keep(1, &[]);
    let mut members = 1;
    for room in rooms(2 * GRANULE) {
        set.write(u64::from(members) % 4 * GRANULE, &pattern(GRANULE + 1, members.into()));
        set.leave(room);
        let files = set.files();
        if set.try_to_set().is_some() {
            break;
        }
        assert_eq!(set.files(), files, "room of {room}");
        set.assert_members(members as usize);
        set.assert_restores(members);
        set.make_room();
        members += 1;
        assert_eq!(set.keep(members, &[])["full"], false, "room of {room}");
        assert_eq!(set.verify().exits(0).json()["unsettled"], false);
    }
    assert!(members > 15, "{members}");
}

/// It writes a file of its own, and then `set.json`.
#[test]
fn a_prune_that_finds_no_room_leaves_the_set_as_it_was() {
    let set = Set::of_image(SIZE);
    let Some(_unmount) = small_disk(&set) else { return };
    for number in 1..4 {
        set.write(u64::from(number) * GRANULE, &pattern(3000, number.into()));
        set.keep(number, &[]);
    }
    let files = set.files();
    let mut failed = 0;
    for room in (0..).step_by(4 * KIB as usize) {
        set.leave(room);
        let ran = dm!("set", "prune", set.folder(), "--keep", "2", "--output", "json");
        set.make_room();
        if ran.code == 0 {
            break;
        }
        assert!(ran.exits(8).out.contains("no-space"));
        failed += 1;
        assert_eq!(set.files(), files, "room of {room}");
        assert_eq!(set.verify().exits(0).json()["members"], 3, "room of {room}");
    }
    assert!(failed > 100, "{failed}");
    assert_eq!(set.files(), ["0002.qcow2", "0003.qcow2", "set.json"]);
    set.assert_restores(2);
    set.assert_restores(3);
}

/// It has taken the room itself, and what would be said in `set.json` about it finds none.
#[test]
fn what_a_kill_has_left_gives_way_when_there_is_no_room() {
    let set = Set::of_image(SIZE);
    let Some(_unmount) = small_disk(&set) else { return };
    set.to_set(&["--post-hook", "kill -KILL $PPID"]).exits(-1);
    let part = set.folder().join("0001.qcow2.part");
    assert!(part.exists() && set.verify().exits(2).json()["unsettled"] == true);
    fs::write(&part, vec![1; MIB as usize]).expect("as a kill leaves it later");
    set.leave(0);
    assert_eq!(set.try_to_set(), None);
    assert_eq!(set.files(), ["set.json"]);
    set.keep(1, &[]);
    assert_eq!(set.files(), ["0001.qcow2", "set.json"]);
    dm!("set", "verify", set.folder(), "--against", set.image).exits(0);
}

/// Where it is not the disk that is full, what was written can be gone on with, and is no damage.
#[test]
fn a_full_backup_whose_file_may_not_grow_is_gone_on_with() {
    let set = Set::of_image(4 * MIB);
    let limited = "trap '' XFSZ; ulimit -f 5120; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", limited, "sh", env!("CARGO_BIN_EXE_dirtymap"), "--output", "json", "backup"]);
    command.arg(&set.image).arg("--set").arg(set.folder()).arg("--map").arg(&set.map).stdin(Stdio::null());
    let ran = Ran::from(command.output().expect("run sh")).exits(8);
    assert!(ran.out.contains("File too large") && ran.out.contains("goes on with"), "{}", ran.out);
    assert_eq!(set.files(), ["0001.qcow2.part", "set.json"]);
    let left = fs::metadata(set.folder().join("0001.qcow2.part")).expect("look").len();
    let found = set.verify().exits(0).json();
    assert_eq!((&found["unfinished_bytes"], &found["unsettled"]), (&left.into(), &false.into()));
    dm!("set", "info", set.folder()).exits(0);
    assert_eq!(set.keep(1, &[])["member"]["bytes_kept"], 2 * MIB);
    assert_eq!(set.files(), ["0001.qcow2", "set.json"]);
    assert_eq!(set.verify().exits(0).json()["unfinished_bytes"], Value::Null);
    set.assert_restores(1);
}
