//! Two disks of one server, and what must be true of them whatever their backups end with.

use super::live::{GRANULES, Place, SIZE, Server, bytes};
use super::{GRANULE, Ran, areas, dirtymap, pattern, run, skipped};
use dirtymap::info::inspect;
use dirtymap::{Access, Options};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub const DISKS: [&str; 2] = ["a", "b"];

/// Two disks of one server, with a set for each.
pub struct Machine {
    pub place: Place,
}

impl Machine {
    /// Of which there is a backup.
    pub fn new() -> Machine {
        let mut place = Place::new();
        let (image, map) = (place.dir.path("b.raw"), place.dir.path("b.map"));
        fs::write(&image, pattern(SIZE, 2)).expect("write");
        run(["create".as_ref(), map.as_os_str(), "--image".as_ref(), image.as_os_str()]).exits(0);
        let second = format!("b={},map={}", image.display(), map.display());
        place.more = ["--name", "a", "--disk", &second].map(Into::into).into();
        let machine = Machine { place };
        let server = machine.start(&[]);
        assert_eq!(machine.told(&[]).map(|told| told["full"].clone()), [true, true]);
        assert!(server.stop());
        machine
    }

    pub fn start(&self, variables: &[(&str, String)]) -> Server {
        self.place.start(variables).expect("a server")
    }

    /// Starts one that is held the first time at a step, as long as the file is there.
    pub fn held_at(&self, step: &str) -> (Server, PathBuf) {
        let hold = self.place.dir.path("hold");
        (self.start(&[("HOLD_AT", format!("{step}@{}", hold.display()))]), hold)
    }

    pub fn image(&self, disk: &str) -> PathBuf {
        if disk == "a" { self.place.image() } else { self.place.dir.path("b.raw") }
    }

    pub fn map(&self, disk: &str) -> PathBuf {
        if disk == "a" { self.place.map() } else { self.place.dir.path("b.map") }
    }

    pub fn sets(&self) -> PathBuf {
        self.place.dir.path("sets")
    }

    pub fn set(&self, disk: &str) -> PathBuf {
        self.sets().join(disk)
    }

    pub fn write(&self, disk: &str, g: u64, seed: u64) {
        let mut client = self.place.client(disk).expect("connect");
        client.write(g * GRANULE, &pattern(bytes(g).len() as u64, seed), 0).expect("write");
    }

    pub fn write_both(&self, g: u64, seed: u64) {
        DISKS.iter().for_each(|disk| self.write(disk, g, seed));
    }

    pub fn content(&self) -> [Vec<u8>; 2] {
        DISKS.map(|disk| fs::read(self.image(disk)).expect("read"))
    }

    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.place.dir.path("socket").display())
    }

    pub fn command(&self, more: &[&str]) -> Command {
        self.command_of(&DISKS.map(|disk| format!("{disk}={}", self.uri(disk))), more)
    }

    pub fn command_of(&self, disks: &[String], more: &[&str]) -> Command {
        let mut command = dirtymap();
        command
            .args(["--output", "json", "backup", "--control"])
            .arg(self.place.control())
            .arg("--set")
            .arg(self.sets());
        disks.iter().for_each(|disk| _ = command.arg("--disk").arg(disk));
        command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn spawn(&self, more: &[&str]) -> Child {
        self.command(more).spawn().expect("run dirtymap")
    }

    pub fn back_up(&self, more: &[&str]) -> Ran {
        self.command(more).output().expect("run dirtymap").into()
    }

    /// A backup that is complete, by disk.
    #[track_caller]
    pub fn told(&self, more: &[&str]) -> [Value; 2] {
        let told = self.back_up(more).exits(0).json();
        assert_eq!((&told[0]["disk"], &told[1]["disk"], &told[2]), (&"a".into(), &"b".into(), &Value::Null));
        [told[0].clone(), told[1].clone()]
    }

    /// The newest member of a disk's set.
    pub fn restored(&self, disk: &str) -> Vec<u8> {
        let out = self.place.dir.path("restored");
        run(["restore".as_ref(), self.set(disk).as_os_str(), out.as_os_str()]).exits(0);
        let restored = fs::read(&out).expect("read");
        fs::remove_file(out).expect("remove");
        restored
    }

    pub fn members(&self, disk: &str) -> Vec<Value> {
        let set = self.set(disk);
        let line = ["set".as_ref(), "info".as_ref(), set.as_os_str(), "--output".as_ref(), "json".as_ref()];
        let listed = run(line).exits(0).json();
        listed["members"].as_array().expect("a list").clone()
    }

    /// A prune that is not complete has left a file.
    pub fn is_being_pruned(&self, disk: &str) -> bool {
        let mut files = fs::read_dir(self.set(disk)).expect("list").map(|file| file.expect("an entry").file_name());
        files.any(|name| name.to_string_lossy().ends_with(".merged"))
    }

    pub fn outstanding(&self, disk: &str) -> bool {
        inspect(self.map(disk)).expect("inspect").checkpoint.is_some()
    }

    /// Some other program puts back what is frozen.
    pub fn put_back(&self, disk: &str) {
        let map = Options::new().access(Access::Shared).beside_snapshot(true).open(self.map(disk)).expect("open");
        let uuid = map.checkpoint().expect("look").expect("a checkpoint").uuid;
        map.abort_checkpoint(uuid).expect("put back");
        map.close().expect("close");
    }

    /// What is not in the newest member is dirty, and nothing is frozen.
    #[track_caller]
    pub fn nothing_is_forgotten(&self) {
        for disk in DISKS {
            assert!(!self.outstanding(disk), "{disk}: a checkpoint is left");
            let (image, base) = (fs::read(self.image(disk)).expect("read"), self.restored(disk));
            let areas = areas(&self.map(disk));
            let dirty = |g: u64| areas.iter().any(|area| area.contains(&(g * GRANULE)));
            let forgotten = (0..GRANULES).filter(|&g| image[bytes(g)] != base[bytes(g)] && !dirty(g));
            assert_eq!(forgotten.collect::<Vec<_>>(), Vec::<u64>::new(), "{disk}: these granules are forgotten");
        }
        assert_eq!(self.place.snapshot(&["list"]).exits(0).json()["snapshots"], json!([]));
    }

    /// The next backup is incremental of both disks, and whole.
    #[track_caller]
    pub fn goes_on(&self) {
        self.goes_on_with([false, false]);
    }

    #[track_caller]
    pub fn goes_on_with(&self, full: [bool; 2]) {
        assert_eq!(self.told(&[]).map(|told| told["full"].clone()), full);
        for (disk, image) in DISKS.iter().zip(self.content()) {
            assert!(self.restored(disk) == image, "{disk}: the backup is another image");
            run(["set".as_ref(), "verify".as_ref(), self.set(disk).as_os_str()]).exits(0);
        }
        self.nothing_is_forgotten();
    }
}

pub fn finish(child: Child) -> Ran {
    child.wait_with_output().expect("wait").into()
}

pub fn release(hold: &PathBuf) {
    fs::remove_file(hold).expect("release");
}

/// Tests that hold or kill need the steps, which only a build with debug assertions has.
pub fn has_steps() -> bool {
    if !cfg!(debug_assertions) {
        skipped("a build without debug assertions has no steps");
    }
    cfg!(debug_assertions)
}
