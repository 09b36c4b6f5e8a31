//! What is wrong with a backup set is found, and a set from elsewhere leads nowhere.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, MIB, Set, areas, pattern};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

const SIZE: u64 = 4 * MIB + 12345;

#[test]
fn verify_finds_every_damage_and_says_what_it_spoils() {
    let set = Set::of_image(SIZE);
    set.keep(1, &[]);
    for number in 2..4 {
        set.write(u64::from(number) * MIB, &pattern(70_000, number.into()));
        set.keep(number, &[]);
    }
    let verify = || dm!("set", "verify", set.folder(), "--output", "json");
    assert_eq!(verify().exits(0).json()["members"], 3);
    let good = fs::read(set.member(2)).expect("read");
    // Any byte of it.
    for at in (0..good.len()).step_by(good.len() / 11) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(set.member(2), bad).expect("write");
        let found = verify().exits(4).json();
        assert_eq!(found["findings"][0]["number"], "0002", "byte {at}");
        assert_eq!(found["findings"][0]["spoils"], serde_json::json!(["0002", "0003"]));
        assert_eq!(found["members"], 2);
        // Nothing is restored of it, and what rests on nothing of it is.
        let out = set.dir.path("new");
        dm!("restore", set.folder(), out).exits(4).says("0002.qcow2");
        assert!(!out.exists());
        set.assert_restores(1);
    }
    fs::write(set.member(2), &good).expect("write");
    verify().exits(0);
    fs::remove_file(set.member(3)).expect("remove");
    assert_eq!(verify().exits(4).json()["findings"][0]["spoils"], serde_json::json!(["0003"]));
}

/// With the right SHA-256 it is the structure that tells.
#[test]
fn verify_looks_at_every_reference_and_at_what_set_json_says() {
    let set = Set::of_image(SIZE);
    set.keep(1, &[]);
    let json = set.folder().join("set.json");
    let said = fs::read_to_string(&json).expect("read");
    let sha256 = |path: &Path| {
        use sha2::Digest;
        sha2::Sha256::digest(fs::read(path).expect("read")).iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let was = sha256(&set.member(1));
    let good = fs::read(set.member(1)).expect("read");
    for (at, value) in [(24, 1 << 20), (65536, 0), (8, 300)] {
        let mut bad = good.clone();
        bad[at..at + 8].copy_from_slice(&u64::to_be_bytes(value));
        fs::write(set.member(1), bad).expect("write");
        fs::write(&json, said.replace(&was, &sha256(&set.member(1)))).expect("write");
        dm!("set", "verify", set.folder()).exits(4);
    }
    fs::write(set.member(1), good).expect("write");
    let replaced = said.replace(&format!("\"size\": {SIZE}"), "\"size\": 4096");
    assert_ne!(replaced, said);
    for bad in [replaced, said.replace("\"zeros\": 0", "\"zeros\": 65536")] {
        fs::write(&json, bad).expect("write");
        dm!("set", "verify", set.folder()).exits(4);
    }
}

#[test]
fn a_set_from_elsewhere_leads_nowhere_and_names_nothing_outside() {
    let set = Set::of_image(SIZE);
    set.keep(1, &[]);
    set.write(0, b"x");
    set.keep(2, &[]);
    let (json, out) = (set.folder().join("set.json"), set.dir.path("new"));
    let said = fs::read_to_string(&json).expect("read");
    for (from, to) in [
        ("\"0001.qcow2\"", "\"../disk.raw\""),
        ("\"0001.qcow2\"", "\"/etc/passwd\""),
        ("\"backing\": \"0001.qcow2\"", "\"backing\": \"0002.qcow2\""),
        ("\"format\": 1", "\"format\": 2"),
    ] {
        fs::write(&json, said.replace(from, to)).expect("write");
        for line in [&["set", "list"][..], &["set", "verify"], &["restore"]] {
            let mut args: Vec<&OsStr> = line.iter().map(OsStr::new).collect();
            let folder = set.folder();
            args.push(folder.as_os_str());
            if line == ["restore"] {
                args.push(out.as_os_str());
            }
            common::run(args).exits(4).says("set.json");
        }
        // Nor is a backup made of it.
        set.to_set(&[]).exits(4);
    }
    fs::write(&json, &said).expect("write");
    // The header names what it likes: it is not opened.
    let good = fs::read(set.member(2)).expect("read");
    let at = good.windows(10).position(|bytes| bytes == b"0001.qcow2").expect("a name");
    common::patch(&set.member(2), |bytes| bytes[at..at + 10].copy_from_slice(b"../../../x"));
    dm!("set", "verify", set.folder()).exits(4);
    // A link in place of a member is none, whatever it leads to.
    fs::write(set.member(2), &good).expect("write");
    let kept = set.dir.path("kept.qcow2");
    fs::rename(set.member(1), &kept).expect("move");
    std::os::unix::fs::symlink(&kept, set.member(1)).expect("link");
    dm!("set", "verify", set.folder()).exits(4);
    dm!("restore", set.folder(), out).exits(8).says("0001.qcow2");
    assert!(!out.exists());
    // Nor is one in place of set.json.
    fs::rename(&json, set.dir.path("elsewhere.json")).expect("move");
    std::os::unix::fs::symlink(set.dir.path("elsewhere.json"), &json).expect("link");
    dm!("set", "list", set.folder()).exits(8).says("set.json");
}

#[test]
fn what_an_image_is_now_is_compared_and_the_first_difference_told() {
    let set = Set::of_image(SIZE);
    set.keep(1, &[]);
    let against = || dm!("set", "verify", set.folder(), "--against", set.image, "--output", "json");
    assert_eq!(against().exits(0).json()["against"]["differs_at"], serde_json::Value::Null);
    set.write(MIB + 7, b"\xff\xff\xff");
    assert_eq!(against().exits(1).json()["against"]["differs_at"], MIB + 7);
}

/// A map that was made for a size notices no write by the image's times.
#[test]
fn what_a_map_has_missed_is_found_by_the_audit_and_in_the_next_member() {
    let dir = Dir::new();
    let (image, map, target) = (dir.image("disk.raw", SIZE), dir.path("disk.map"), dir.path("unused"));
    dm!("create", map, "--size", SIZE.to_string(), "--dirty").exits(0);
    let set = Set { dir, image, map, target };
    set.keep(1, &[]);
    common::patch(&set.image, |bytes| bytes[3 * MIB as usize] ^= 1);
    set.keep(2, &["--audit", "0"]);
    dm!("set", "verify", set.folder(), "--against", set.image).exits(1);
    set.to_set(&["--audit", "1G"]).exits(4).says("a granule that the map calls clean");
    assert_eq!(areas(&set.map), [0..SIZE]);
    let third = set.keep(3, &[]);
    assert_eq!((third["full"].as_bool(), third["bytes_copied"].as_u64()), (Some(false), Some(GRANULE)));
    set.assert_restores(3);
}

#[test]
fn a_set_is_had_by_one_at_a_time_and_by_the_users_of_its_image() {
    let set = Set::of_image(MIB);
    fs::set_permissions(&set.image, fs::Permissions::from_mode(0o640)).expect("set the mode");
    set.keep(1, &[]);
    assert_eq!(fs::metadata(set.member(1)).expect("stat").mode() & 0o777, 0o640);
    let folder = fs::File::open(set.folder()).expect("open");
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    for ran in [
        set.to_set(&[]),
        dm!("set", "list", set.folder()),
        dm!("restore", set.folder(), set.dir.path("new")),
        dm!("set", "prune", set.folder(), "--keep", "1"),
    ] {
        ran.exits(8).says("--wait");
    }
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockShared).expect("lock");
    dm!("set", "list", set.folder()).exits(0);
    dm!("set", "prune", set.folder(), "--keep", "1").exits(8).says("--wait");
}

#[test]
fn a_folder_with_members_and_no_set_json_is_refused() {
    let set = Set::of_image(MIB);
    set.keep(1, &[]);
    fs::remove_file(set.folder().join("set.json")).expect("remove");
    set.to_set(&[]).exits(8).says("0001.qcow2 and no set.json");
    dm!("set", "verify", set.folder()).exits(8).says("no backup set");
    // Under a number that something else has, there is no member.
    let other = Set::of_image(MIB);
    other.keep(1, &[]);
    fs::write(other.member(2), b"somebody's").expect("write");
    other.keep(3, &[]);
    assert_eq!(fs::read(other.member(2)).expect("read"), b"somebody's");
}
