//! What could take a backup from a set, or have it hold something else: none of it does.

mod common;

use common::sets::{assert_qemu_agrees, qemu_img};
use common::{MIB, Set, skipped, system};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, SEEK_SET, flock};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

impl Set {
    /// Has the image and its map be of another length.
    fn resize(&self, size: u64) {
        let grown = size > fs::metadata(&self.image).expect("stat").len();
        if !grown {
            fs::File::options().write(true).open(&self.image).expect("open").set_len(size).expect("cut");
        }
        let (image, size) = (self.image.as_os_str(), size.to_string());
        let more: &[_] = if grown { &["--image".as_ref(), image] } else { &[] };
        common::run([&["resize".as_ref(), self.map.as_os_str(), size.as_ref()], more].concat()).exits(0);
    }
}

/// Half a sector behind the end of an image is in its members as well: as zeros, whatever the member below has there.
#[test]
fn nothing_old_is_behind_the_end_of_an_image_that_was_cut_inside_of_a_sector() {
    const LONG: u64 = (1 << 20) + 324;
    for (cut, more) in [((1 << 20) + 5, &[][..]), ((1 << 20) + 5, &["--store-equal"]), ((1 << 20) - 7, &[])] {
        let set = Set::of_image(LONG);
        let old = fs::read(&set.image).expect("read");
        set.keep(1, &[]);
        set.resize(cut);
        set.keep(2, more);
        set.resize(LONG);
        // The same bytes as of old.
        set.write(cut, &old[cut as usize..]);
        set.keep(3, more);
        let check = |numbers: &[u32]| {
            for number in numbers {
                set.assert_restores(*number);
                if qemu_img() {
                    assert_qemu_agrees(&set.member(*number), &set.dir.path(&format!("reference-{number}")));
                }
            }
        };
        check(&[1, 2, 3]);
        dm!("set", "prune", set.folder(), "--keep", "2").exits(0);
        dm!("set", "verify", set.folder(), "--against", set.image).exits(0);
        check(&[2, 3]);
    }
    if !qemu_img() {
        skipped("what QEMU reads behind the end: no qemu-img");
    }
}

/// Also where all that was left of the last cluster is zeros, or the whole cluster is a hole.
#[test]
fn nothing_old_is_behind_an_end_of_zeros() {
    let set = Set::of_image(65536 + 300);
    set.write(65536, &[0; 100]);
    set.keep(1, &[]);
    set.resize(65536 + 50);
    set.keep(2, &[]);
    set.resize(65536 + 300);
    let image = fs::File::open(&set.image).expect("open");
    let mut tail = [1; 250];
    image.read_exact_at(&mut tail, 65536 + 50).expect("read");
    assert_eq!(tail, [0; 250], "what was cut off is gone");
    set.keep(3, &[]);
    for number in 1..4 {
        set.assert_restores(number);
        if qemu_img() {
            assert_qemu_agrees(&set.member(number), &set.dir.path(&format!("reference-{number}")));
        }
    }
    dm!("set", "prune", set.folder(), "--keep", "1").exits(0);
    set.assert_restores(3);
}

/// Changes what `set.json` says.
fn edit(set: &Set, change: impl FnOnce(&mut Value)) {
    let path = set.folder().join("set.json");
    let mut said = serde_json::from_slice(&fs::read(&path).expect("read")).expect("JSON");
    change(&mut said);
    fs::write(path, said.to_string()).expect("write");
}

fn copy_folder(from: &Path, to: &Path) {
    assert!(system("cp", &[OsStr::new("-r"), from.as_os_str(), to.as_os_str()]));
}

/// The map's last target is a member of its set: no reason to take that for a mirror.
#[test]
fn a_mirror_backup_overwrites_no_file_of_a_set() {
    let set = Set::of_image(MIB);
    set.keep(1, &[]);
    set.write(0, b"QFI");
    let (link, outside) = (set.dir.path("link"), set.dir.path("outside"));
    std::os::unix::fs::symlink(set.member(1), &link).expect("link");
    let member = fs::read(set.member(1)).expect("read");
    let unfinished = [".part", ".merged"].map(|end| set.folder().join(format!("0002.qcow2{end}")));
    for target in [set.member(1), set.member(2), set.folder().join("set.json"), link].into_iter().chain(unfinished) {
        for more in ["--audit=0", "--force", "--full"] {
            dm!("backup", set.image, target, "--map", set.map, more).exits(8).says("backup set");
        }
    }
    // Nor by a name elsewhere, where only what is in it tells.
    fs::hard_link(set.member(1), &outside).expect("link");
    dm!("backup", set.image, outside, "--map", set.map, "--audit", "0").exits(8).says("is a qcow2 image");
    // If the image begins like one, it is compared before anything is overwritten.
    set.write(0, b"QFI\xfb");
    dm!("backup", set.image, outside, "--map", set.map, "--audit", "0").exits(8).says("was not touched");
    assert!(fs::read(set.member(1)).expect("read") == member);
    fs::write(&set.target, b"something").expect("write");
    dm!("backup", set.image, set.target, "--map", set.map).exits(8).says("that is a member of a set");
    assert_eq!(set.keep(2, &[])["full"], false);
    set.assert_restores(1);
    // A qcow2 image of nobody's is overwritten when told.
    let other = set.dir.copy(&outside, "other");
    dm!("backup", set.image, other, "--map", set.map).exits(8);
    dm!("backup", set.image, other, "--map", set.map, "--force").exits(0);
    assert!(fs::read(other).expect("read") == fs::read(&set.image).expect("read"));
}

#[test]
fn a_set_of_another_image_is_not_gone_on_with_and_not_pruned_by_a_backup() {
    let set = Set::of_image(MIB);
    set.keep(1, &[]);
    set.write(5, b"two");
    set.keep(2, &[]);
    let (image, map) = (set.dir.image("other.raw", 2 * MIB), set.dir.path("other.map"));
    dm!("create", map, "--image", image).exits(0);
    let to_set = |more: &str| dm!("backup", image, "--set", set.folder(), "--map", map, more);
    to_set("--keep=1").exits(8).says("set of another image");
    to_set("--full").exits(8).says("disk.raw");
    let force = dm!("backup", image, "--set", set.folder(), "--map", map, "--force", "--keep", "1").exits(0);
    assert!(force.says("was not pruned").out.contains("was made by another map"));
    to_set("--keep=1").exits(0).says("was not pruned");
    set.assert_restores(1);
    set.assert_restores(2);
    dm!("set", "prune", set.folder(), "--keep", "1").exits(0);
    dm!("set", "verify", set.folder(), "--against", image).exits(0);
    // A map that was made anew for the same image, by whatever path, is no reason.
    let set = Set::of_image(MIB);
    set.keep(1, &[]);
    fs::remove_file(&set.map).expect("remove");
    dm!("create", set.map, "--image", set.image).exits(0);
    assert_eq!(set.keep(2, &["--keep", "1"])["member"]["pruned"], serde_json::json!(["0001"]));
}

/// Both copies go on, also from the same number.
#[test]
fn a_set_that_was_copied_or_put_back_goes_on_beside_the_other_one() {
    let set = Set::of_image(MIB);
    set.keep(1, &[]);
    let copy = set.dir.path("copy");
    copy_folder(&set.folder(), &copy);
    set.write(0, b"two");
    set.keep(2, &[]);
    // The point of the member below is gone, and the name of the next one's is taken.
    let told = dm!("backup", set.image, "--set", copy, "--map", set.map, "--output", "json").exits(0).json();
    assert_eq!(told["full"], true);
    for number in 3..6 {
        set.write(MIB / 2, &[number as u8; 100]);
        assert_eq!(set.keep(number, &[])["full"], false);
        let told = dm!("backup", set.image, "--set", copy, "--map", set.map, "--output", "json").exits(0).json();
        assert_eq!(told["full"], false);
        dm!("set", "verify", copy, "--against", set.image).exits(0);
        set.assert_restores(number);
    }
}

#[test]
fn a_mirror_that_keeps_few_names_takes_no_point_from_a_set() {
    let set = Set::of_image(MIB);
    set.keep(1, &[]);
    let mirror = |name: &str| {
        let made = dm!(
            "backup",
            set.image,
            set.target,
            "--map",
            set.map,
            "--name",
            name,
            "--keep-last",
            "1",
            "--output",
            "json"
        );
        made.exits(0).json()["dropped"].clone()
    };
    assert_eq!(mirror("monday"), serde_json::json!([]));
    set.write(0, b"two");
    assert_eq!(mirror("tuesday"), serde_json::json!(["monday"]));
    assert_eq!(set.keep(2, &[])["full"], false);
}

/// What the system says of a file proves it as long as the machine runs; and what was read once is not read again.
#[test]
fn a_member_is_read_again_after_the_machine_was_started_anew() {
    let changed = |same_boot: bool| {
        let set = Set::of_image(MIB);
        set.keep(1, &[]);
        common::patch(&set.member(1), |bytes| bytes[400_000] ^= 1);
        let m = fs::metadata(set.member(1)).expect("stat");
        edit(&set, |said| {
            let seen = &mut said["members"][0]["content"]["seen"];
            assert!(seen["boot"].as_str().is_some_and(|boot| !boot.is_empty()), "{seen}");
            seen["inode"] = m.ino().into();
            seen["modified"] = serde_json::json!([m.mtime(), m.mtime_nsec()]);
            seen["changed"] = serde_json::json!([m.ctime(), m.ctime_nsec()]);
            if !same_boot {
                seen["boot"] = "00000000-0000-0000-0000-000000000000".into();
            }
        });
        let told = set.to_set(&["--audit", "0", "--output", "json"]).exits(0).json();
        told["member"]["why_full"].as_str().map(String::from)
    };
    assert_eq!(changed(true), None);
    assert!(changed(false).expect("full").contains("SHA-256"));
    let set = Set::of_image(MIB);
    set.keep(1, &[]);
    edit(&set, |said| said["members"][0]["content"]["seen"]["boot"] = "another".into());
    assert_eq!(set.keep(2, &[])["full"], false);
    edit(&set, |said| {
        let boot = |i: usize| said["members"][i]["content"]["seen"]["boot"].clone();
        assert_eq!(boot(0), boot(1));
    });
}

#[test]
fn what_is_of_no_member_is_said_and_a_prune_that_was_killed_is_told() {
    let set = Set::of_image(MIB);
    set.keep(1, &[]);
    fs::write(set.folder().join("0001.qcow2.merged"), b"half").expect("write");
    dm!("set", "verify", set.folder()).exits(2);
    dm!("set", "prune", set.folder(), "--keep", "1").exits(0);
    dm!("set", "verify", set.folder()).exits(0);
    assert!(!set.folder().join("0001.qcow2.merged").exists());
}

#[test]
fn a_clock_that_was_put_back_has_no_later_state_restored() {
    let set = Set::of_image(MIB);
    for number in 1..5 {
        set.write(0, &[number as u8]);
        set.keep(number, &[]);
    }
    edit(&set, |said| {
        for (i, time) in ["10:00", "12:00", "11:00", "11:30"].iter().enumerate() {
            said["members"][i]["time"] = format!("2026-01-01T{time}:00Z").into();
        }
    });
    for (until, number) in [("10:00", 1), ("11:15", 1), ("12:00", 4)] {
        let out = set.dir.path("new");
        let until = format!("2026-01-01T{until}:00Z");
        let told = dm!("restore", set.folder(), out, "--until", until, "--output", "json").exits(0).json();
        assert_eq!(told["member"], format!("{number:04}"), "{until}");
        fs::remove_file(out).expect("remove");
    }
    dm!("restore", set.folder(), set.dir.path("new"), "--until", "2026-01-01T09:00:00Z").exits(8);
}

#[test]
fn who_may_not_read_an_image_may_read_nothing_that_is_made_of_it() {
    let set = Set::of_image(MIB);
    fs::set_permissions(&set.image, fs::Permissions::from_mode(0o640)).expect("set the mode");
    set.keep(1, &[]);
    let out = set.dir.path("new");
    dm!("restore", set.folder(), out).exits(0);
    for path in [set.member(1), out, set.folder().join("set.json")] {
        assert_eq!(fs::metadata(&path).expect("stat").mode() & 0o777, 0o640, "{}", path.display());
    }
}

#[test]
fn a_name_that_restore_could_not_take_apart_is_refused() {
    let set = Set::of_image(MIB);
    set.to_set(&["--name", "before@after"]).exits(8).says("no @");
}

/// What `set.json` is written to first may be somebody's by now: that is neither followed nor written to.
#[test]
fn nothing_is_written_to_a_file_that_lies_under_the_name_of_the_temporary_one() {
    let set = Set::of_image(MIB);
    set.keep(1, &[]);
    let precious = set.dir.path("precious");
    fs::write(&precious, b"precious").expect("write");
    fs::hard_link(&precious, set.folder().join(".set.json.tmp")).expect("link");
    set.keep(2, &[]);
    assert_eq!(fs::read(precious).expect("read"), b"precious");
}

/// The image of a running machine is not replaced under it: it locks byte 101, as QEMU does for a disk that it writes to.
#[test]
fn an_image_that_another_program_writes_to_is_not_brought_back() {
    let set = Set::of_image(MIB);
    set.keep(1, &[]);
    set.write(0, b"later");
    let written = fs::read(&set.image).expect("read");
    let image = fs::File::open(&set.image).expect("open");
    let lock = flock { l_type: F_RDLCK as i16, l_whence: SEEK_SET as i16, l_start: 101, l_len: 1, l_pid: 0 };
    fcntl(&image, FcntlArg::F_OFD_SETLK(&lock)).expect("lock");
    let restore = || dm!("restore", set.folder(), set.image, "--map", set.map);
    restore().exits(8).says("in use");
    assert!(fs::read(&set.image).expect("read") == written);
    drop(image);
    restore().exits(0);
    assert!(fs::read(&set.image).expect("read") == fs::read(set.dir.path("reference-1")).expect("read"));
}
