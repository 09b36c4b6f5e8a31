//! Rounds of tracked writes, backups to a set, prunes and restores, each killed now and then at any moment: whatever is listed
//! is the image as it was then, and the newest member of a backup that ended is the image.
//!
//! `DIRTYMAP_SET_ROUNDS=100` is a long run, `DIRTYMAP_SEED` repeats one; the moments of the kills stay the machine's.

mod common;

use common::{Dir, MIB, Ran, dirtymap, system};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Not whole granules, clusters or sectors.
const SIZE: u64 = 3 * MIB + 4321;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

struct World {
    dir: Dir,
    rng: Rng,
    size: u64,
    /// What the image was at the backup that made each member.
    references: BTreeMap<String, Vec<u8>>,
    kills: u64,
}

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path(name)
    }

    fn image(&self) -> Vec<u8> {
        fs::read(self.path("disk.raw")).expect("read")
    }

    /// A command line in which names are those of files here.
    fn command(&self, line: &str) -> Command {
        let names = ["disk.raw", "disk.map", "backups", "out.raw"];
        let words = line.split(' ').map(|word| match word.split_once('@') {
            Some(("backups", member)) => {
                let mut path = OsString::from(self.path("backups"));
                path.push(format!("@{member}"));
                path
            }
            _ if names.contains(&word) => self.path(word).into(),
            _ => word.into(),
        });
        let mut command = dirtymap();
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, line: &str) -> Ran {
        self.command(line).output().expect("run").into()
    }

    /// Runs it, and kills it at some moment, which may come too late. Whether it ended by itself.
    fn killed(&mut self, line: &str) -> bool {
        let mut child = self.command(line).spawn().expect("run");
        // Mostly within the time that it takes, of which some is the start of the process.
        std::thread::sleep(Duration::from_micros(1000 + self.rng.below(60_000)));
        child.kill().expect("kill");
        let ran = child.wait_with_output().expect("wait");
        let ended = ran.status.code();
        assert!(ended.is_none_or(|code| code == 0), "{line}: {}", Ran::from(ran).err);
        self.kills += u64::from(ended.is_none());
        ended.is_some()
    }

    fn write(&mut self) {
        for _ in 0..self.rng.below(5) {
            let at = self.rng.below(self.size);
            let length = (1 + self.rng.below(200_000)).min(self.size - at) as usize;
            let image = self.image();
            let bytes = match self.rng.below(4) {
                0 => vec![0; length],
                // What is there already.
                1 => image[at as usize..at as usize + length].to_vec(),
                byte => common::pattern(length as u64, self.rng.below(1 << 20) + byte),
            };
            let (image, map) = (self.path("disk.raw"), self.path("disk.map"));
            let words = ["write".into(), image.into_os_string(), "--map".into(), map.into(), "--at".into()];
            common::run_with(words.into_iter().chain([at.to_string().into()]), &bytes).exits(0);
        }
    }

    fn resize(&mut self) {
        let size = MIB + self.rng.below(3 * MIB);
        if size < self.size {
            fs::File::options().write(true).open(self.path("disk.raw")).expect("open").set_len(size).expect("cut");
            self.run(&format!("resize disk.map {size}")).exits(0);
        } else {
            self.run(&format!("resize disk.map {size} --image disk.raw")).exits(0);
        }
        self.size = size;
    }

    fn list(&self) -> Vec<Value> {
        if !self.path("backups/set.json").exists() {
            return Vec::new();
        }
        self.run("set list backups --output json").exits(0).json().as_array().expect("a list").clone()
    }

    /// Members that came since: the image has not changed since they were begun.
    fn note_new(&mut self) {
        for member in self.list() {
            let number = member["number"].as_str().expect("a number").to_string();
            let image = self.image();
            self.references.entry(number).or_insert(image);
        }
    }

    fn back_up(&mut self, round: u64) {
        let mut line = String::from("backup disk.raw --set backups --map disk.map");
        if self.rng.one_in(3) {
            line += &format!(" --keep {}", 1 + self.rng.below(4));
        }
        if self.rng.one_in(9) {
            line += " --full";
        }
        while self.rng.one_in(2) {
            self.killed(&line);
            self.note_new();
            if self.rng.one_in(2) {
                self.check();
            }
        }
        if self.rng.one_in(4) {
            line += &format!(" --name round-{round}");
        }
        let told = self.run(&format!("{line} --output json")).exits(0).json();
        self.note_new();
        let newest = self.list().pop().expect("a member");
        assert_eq!(newest["number"], told["member"]["number"]);
        self.run("set verify backups --against disk.raw").exits(0);
    }

    /// Everything that is listed can be restored, and is what it was.
    fn check(&self) {
        for member in self.list() {
            let number = member["number"].as_str().expect("a number");
            self.run(&format!("restore backups@{number} out.raw")).exits(0);
            let restored = fs::read(self.path("out.raw")).expect("read");
            fs::remove_file(self.path("out.raw")).expect("remove");
            assert!(restored == self.references[number], "member {number} is another one");
        }
    }

    fn prune(&mut self) {
        let keep = 1 + self.rng.below(4);
        let line = format!("set prune backups --keep {keep}");
        if self.rng.one_in(2) {
            self.killed(&line);
            self.check();
        }
        self.run(&line).exits(0);
        assert!(self.list().len() as u64 <= keep);
    }

    /// Brings the image back to a member of its length, and is killed now and then.
    fn bring_back(&mut self) {
        let members: Vec<Value> = self.list().into_iter().filter(|member| member["size"] == self.size).collect();
        if members.is_empty() {
            return;
        }
        let number =
            members[self.rng.below(members.len() as u64) as usize]["number"].as_str().expect("text").to_string();
        let line = format!("restore backups@{number} disk.raw --map disk.map");
        while self.rng.one_in(2) {
            self.killed(&line);
        }
        self.run(&line).exits(0);
        assert!(self.image() == self.references[&number], "brought back to {number}");
    }

    /// QEMU reads the same.
    fn check_with_qemu(&self) {
        if !system("qemu-img", &["--version".as_ref()]) {
            return common::skipped("members as QEMU reads them: no qemu-img");
        }
        for member in self.list() {
            let number = member["number"].as_str().expect("a number");
            let (file, out) = (self.path(&format!("backups/{number}.qcow2")), self.path("out.raw"));
            for words in [&["check", "-q", "-f", "qcow2"][..], &["convert", "-f", "qcow2", "-O", "raw"]] {
                let mut command = Command::new("qemu-img");
                command.args(words).arg(&file);
                if words[0] == "convert" {
                    command.arg(&out);
                }
                assert!(command.status().expect("run").success(), "{words:?} of {number}");
            }
            let mut expected = self.references[number].clone();
            expected.resize(expected.len().next_multiple_of(512), 0);
            assert!(fs::read(&out).expect("read") == expected, "member {number} is another one for QEMU");
        }
    }
}

#[test]
fn rounds_of_writes_backups_kills_prunes_and_restores() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let rounds = number("DIRTYMAP_SET_ROUNDS").unwrap_or(10);
    let seed = number("DIRTYMAP_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}, {rounds} rounds");
    let dir = Dir::new();
    let image = dir.image("disk.raw", SIZE);
    let mut world = World { dir, rng: Rng(seed), size: SIZE, references: BTreeMap::new(), kills: 0 };
    let granule = ["512", "4K", "64K", "256K"][world.rng.below(4) as usize];
    dm!("create", world.path("disk.map"), "--image", image, "-g", granule).exits(0);
    for round in 0..rounds {
        world.write();
        if world.rng.one_in(6) {
            world.resize();
        }
        if world.rng.one_in(4) && !world.list().is_empty() {
            world.bring_back();
        }
        world.back_up(round);
        if world.rng.one_in(4) {
            world.prune();
        }
        world.check();
    }
    world.check_with_qemu();
    println!("{rounds} rounds, {} kills, {} members", world.kills, world.references.len());
}
