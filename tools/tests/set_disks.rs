//! Several images at once: all are frozen before any is copied, and all become backups or none does.

mod common;

use common::{Dir, MIB, Ran, pattern, run_with};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const SIZE: u64 = MIB + 777;
const DISKS: [&str; 3] = ["root", "data", "log"];

struct Machine {
    dir: Dir,
}

impl Machine {
    fn new() -> Machine {
        let dir = Dir::new();
        for (n, disk) in DISKS.iter().enumerate() {
            let image = dir.path(&format!("{disk}.raw"));
            fs::write(&image, pattern(SIZE * (n as u64 + 1), n as u64)).expect("write");
            dm!("create", dir.path(&format!("{disk}.map")), "--image", image).exits(0);
        }
        Machine { dir }
    }

    fn image(&self, disk: &str) -> PathBuf {
        self.dir.path(&format!("{disk}.raw"))
    }

    fn map(&self, disk: &str) -> PathBuf {
        self.dir.path(&format!("{disk}.map"))
    }

    fn set(&self, disk: &str) -> PathBuf {
        self.dir.path("backups").join(disk)
    }

    fn write(&self, disk: &str, at: u64) {
        let (image, map) = (self.image(disk), self.map(disk));
        let words = ["write".as_ref(), image.as_os_str(), "--map".as_ref(), map.as_os_str(), "--at".as_ref()];
        run_with(words.into_iter().chain([at.to_string().as_ref()]), b"written").exits(0);
    }

    fn back_up(&self, more: &[&str]) -> Ran {
        let mut args: Vec<String> = ["backup", "--set"].map(Into::into).into();
        args.push(self.dir.path("backups").display().to_string());
        for disk in DISKS {
            args.push("--disk".into());
            args.push(format!("{disk}={},map={}", self.image(disk).display(), self.map(disk).display()));
        }
        common::run(args.into_iter().chain(more.iter().map(ToString::to_string)))
    }

    fn told(&self, more: &[&str]) -> Vec<Value> {
        let told = self.back_up(&[more, &["--output", "json"]].concat()).exits(0).json();
        told.as_array().expect("a list").clone()
    }

    fn members(&self, disk: &str) -> usize {
        let listed = dm!("set", "list", self.set(disk), "--output", "json").exits(0).json();
        listed.as_array().expect("a list").len()
    }

    fn dirty(&self, disk: &str) -> u64 {
        dm!("count", self.map(disk), "--output", "json").exits(0).json()["dirty_bits"].as_u64().expect("a number")
    }
}

#[test]
fn each_disk_has_a_set_and_what_was_made_at_once_is_known_by_it() {
    let machine = Machine::new();
    let first = machine.told(&[]);
    machine.write("data", MIB);
    let second = machine.told(&["--name", "monday"]);
    for (told, number, full) in [(first, "0001", true), (second, "0002", false)] {
        let group = &told[0]["member"]["group"];
        assert!(group.is_string());
        for (disk, told) in DISKS.iter().zip(&told) {
            assert_eq!(
                (&told["disk"], &told["member"]["number"], &told["full"]),
                (&(*disk).into(), &number.into(), &full.into())
            );
            assert_eq!(&told["member"]["group"], group);
        }
    }
    for disk in DISKS {
        let out = machine.dir.path("restored.raw");
        dm!("restore", format!("{}@monday", machine.set(disk).display()), out).exits(0);
        assert!(fs::read(&out).expect("read") == fs::read(machine.image(disk)).expect("read"), "{disk}");
        fs::remove_file(out).expect("remove");
        let info = dm!("set", "info", machine.set(disk), "--output", "json").exits(0).json();
        assert_ne!(info["members"][0]["group"], info["members"][1]["group"]);
    }
}

#[test]
fn a_disk_whose_chain_is_damaged_makes_only_its_own_member_full() {
    let machine = Machine::new();
    machine.told(&[]);
    DISKS.iter().for_each(|disk| machine.write(disk, 70_000));
    common::patch(&machine.set("data").join("0001.qcow2"), |bytes| bytes[200_000] ^= 1);
    let told = machine.told(&[]);
    let full: Vec<bool> = told.iter().map(|told| told["full"].as_bool().expect("a boolean")).collect();
    assert_eq!(full, [false, true, false]);
}

/// The middle one cannot be frozen.
#[test]
fn if_one_fails_none_becomes_a_backup_and_nothing_is_forgotten() {
    let machine = Machine::new();
    machine.told(&[]);
    DISKS.iter().for_each(|disk| machine.write(disk, 70_000));
    let unchanged = |ran: Ran| {
        assert!(ran.err.contains("disk \"data\""), "{}", ran.err);
        for disk in DISKS {
            assert_eq!((machine.members(disk), machine.dirty(disk)), (1, 1), "{disk}");
            assert_eq!(
                dm!("checkpoint", "status", machine.map(disk), "--output", "json").exits(0).json()["checkpoint"],
                Value::Null
            );
            dm!("set", "verify", machine.set(disk)).exits(0);
        }
    };
    dm!("checkpoint", "freeze", machine.map("data"), "--name", "friday").exits(0);
    let ran = machine.back_up(&[]).exits(8);
    dm!("checkpoint", "abort", machine.map("data")).exits(0);
    unchanged(ran);
    machine.back_up(&[]).exits(0);
    DISKS.iter().for_each(|disk| assert_eq!((machine.members(disk), machine.dirty(disk)), (2, 0), "{disk}"));
}

#[test]
fn names_are_those_of_folders_and_files_are_those_of_one_disk() {
    let dir = Dir::new();
    let folder = dir.path("backups");
    for disks in [&["a/b=i,map=m"][..], &["..=i,map=m"], &["=i,map=m"], &["a=i,map=m", "a=j,map=n"], &["a=i"]] {
        let mut args = vec!["backup".to_string(), "--set".into(), folder.display().to_string()];
        disks.iter().for_each(|disk| args.extend(["--disk".to_string(), disk.to_string()]));
        common::run(args).exits(16);
    }
    dm!("backup", "image", "--disk", "a=i,map=m", "--set", folder).exits(16);
    dm!("backup", "--disk", "a=i,map=m").exits(16).says("--set");
    let image = dir.image("disk.raw", MIB);
    let disk = |name: &str, map: &str| format!("{name}={},map={}", image.display(), dir.path(map).display());
    dm!("backup", "--set", folder, "--disk", disk("a", "a.map"), "--disk", disk("b", "b.map"))
        .exits(8)
        .says("different files");
    assert!(!folder.exists());
}
