//! What every command promises, as one table: a line that succeeds for each, and what it may touch. A command that is not in
//! the table has promised nothing, and fails the test (tools/tests/promises.rs).

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

use super::live::{Place, Server};
use super::{Dir, MIB, Ran, dirtymap, pattern};
use dirtymap::Options;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What one command promises of one line.
pub struct Promise {
    /// The command as it is typed.
    pub command: &'static str,
    /// What follows it: words, with the names of the files of a [`World`].
    pub line: &'static str,
    /// How it exits.
    pub exits: i32,
    /// Files that it may change. All others are as they were: bytes, modification time and mode.
    pub changes: &'static [&'static str],
    /// A file that it makes, and does not write if there is one.
    pub makes: Option<&'static str>,
    /// Its section in docs/cli.md; none if what it prints is not JSON but what was asked for.
    pub section: &'static str,
}

impl Promise {
    /// Whether it only looks: then asking again gives the same answer, to the byte.
    pub fn only_reads(&self) -> bool {
        self.changes.is_empty() && self.makes.is_none()
    }

    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.command.split(' ').chain(self.line.split(' '))
    }
}

const fn reads(command: &'static str, line: &'static str, exits: i32, section: &'static str) -> Promise {
    Promise { command, line, exits, changes: &[], makes: None, section }
}

const fn changes(
    command: &'static str,
    line: &'static str,
    changes: &'static [&'static str],
    section: &'static str,
) -> Promise {
    Promise { command, line, exits: 0, changes, makes: None, section }
}

const fn makes(command: &'static str, line: &'static str, file: &'static str, section: &'static str) -> Promise {
    Promise { command, line, exits: 0, changes: &[], makes: Some(file), section }
}

/// The table.
pub const PROMISES: [Promise; 50] = [
    makes("create", "new.map --image disk.raw", "new.map", "info"),
    reads("info", "disk.map", 0, "info"),
    changes("set", "disk.map 0 1", &["disk.map"], "set"),
    changes("reset", "disk.map --all", &["disk.map"], "set"),
    reads("map", "disk.map", 0, "map"),
    reads("map", "disk.map --totals", 0, "map --totals"),
    reads("count", "disk.map", 0, "count"),
    reads("hash", "disk.map", 0, "hash"),
    reads("check", "disk.map", 0, "check"),
    reads("check", "unclean.map", 2, "check"),
    reads("diff", "disk.map other.map", 1, "diff"),
    reads("show", "disk.map", 0, "show"),
    makes("show", "disk.map --svg new.svg", "new.svg", "show"),
    changes("merge", "disk.map other.map", &["disk.map"], "merge"),
    makes("export", "disk.map new.bits", "new.bits", "export"),
    changes("import", "disk.map disk.bits", &["disk.map"], "import"),
    reads("dump", "disk.map", 0, "dump"),
    makes("undump", "disk.dump new.map", "new.map", "undump"),
    changes("resize", "disk.map 2M", &["disk.map"], "resize"),
    reads("repair", "disk.map", 0, "repair"),
    reads("repair", "unclean.map --dry-run", 1, "repair"),
    Promise { exits: 1, ..changes("repair", "unclean.map", &["unclean.map"], "repair") },
    Promise {
        exits: 1,
        changes: &["unclean.map"],
        ..makes("repair", "unclean.map --undo new.undo", "new.undo", "repair")
    },
    changes("repair", "mended.map --undo-from mended.undo", &["mended.map"], "repair --undo-from"),
    changes("write", "disk.raw --map disk.map --at 64K", &["disk.raw", "disk.map"], "write"),
    reads("watch", "disk.map --count 1", 0, "watch"),
    changes("serve", "disk.raw --map disk.map --run true", &["disk.map"], "serve"),
    Promise { changes: &["disk.map"], ..makes("backup", "disk.raw new.raw --map disk.map", "new.raw", "backup") },
    Promise { changes: &["disk.map"], ..makes("backup", "disk.raw --set new.set --map disk.map", "new.set", "backup") },
    makes("restore", "backups new.raw", "new.raw", "restore"),
    reads("set list", "backups", 0, "set list"),
    reads("set info", "backups", 0, "set info"),
    reads("set verify", "backups", 0, "set verify"),
    changes("set prune", "backups --keep 1", &["backups"], "set prune"),
    changes("checkpoint freeze", "disk.map --name x", &["disk.map"], "checkpoint freeze"),
    changes("checkpoint commit", "frozen.map", &["frozen.map"], "checkpoint commit, checkpoint abort"),
    changes("checkpoint abort", "frozen.map", &["frozen.map"], "checkpoint commit, checkpoint abort"),
    reads("checkpoint status", "frozen.map", 0, "checkpoint status"),
    reads("checkpoint list", "frozen.map", 0, "checkpoint list"),
    changes("checkpoint drop", "frozen.map --name monday", &["frozen.map"], "checkpoint drop"),
    makes("checkpoint export", "frozen.map new.map --since monday", "new.map", "checkpoint export"),
    changes("snapshot create", "--server control", &["control"], "snapshot create, snapshot commit, snapshot abort"),
    reads("snapshot list", "--server control", 0, "snapshot list"),
    changes("snapshot commit", "--server control", &["control"], "snapshot create, snapshot commit, snapshot abort"),
    changes("snapshot abort", "--server control", &["control"], "snapshot create, snapshot commit, snapshot abort"),
    makes("import-qcow2", "disk.qcow2 --bitmap b new.map --disabled take", "new.map", "import-qcow2"),
    makes("export-qcow2", "disk.map new.qcow2 --bitmap b", "new.qcow2", "export-qcow2"),
    reads("completions", "bash", 0, "completions"),
    // All other pages are there as well.
    Promise { changes: &["pages"], ..makes("manual", "pages", "pages/dirtymap.1", "manual") },
    makes("demo", "disk.raw --kills 1 --seed 7 --dir place", "place", "demo"),
];

/// What can be seen of a file without opening it, and its bytes.
#[derive(PartialEq)]
struct Seen {
    bytes: Option<Vec<u8>>,
    mtime: (i64, i64),
    mode: u32,
    inode: u64,
}

/// The files that the table names, in a directory of their own.
pub struct World {
    dir: Dir,
    before: BTreeMap<PathBuf, Seen>,
    /// Of which the word `control` is the control socket.
    server: OnceCell<Place>,
    running: OnceCell<Server>,
}

impl World {
    /// Makes the files. All others are copies of these.
    pub fn new() -> World {
        let dir = Dir::new();
        let image = dir.image("disk.raw", MIB);
        let disk = dir.map("disk.map", MIB, &[0..1, MIB / 2..MIB]);
        dir.map("other.map", MIB, &[MIB / 4..MIB / 2]);
        dir.unclean("unclean.map", MIB, &[0..1]);
        let mended = dir.unclean("mended.map", MIB, &[0..1]);
        let frozen = Options::new().create(dir.path("frozen.map"), MIB).expect("create");
        frozen.set(0..1).expect("set");
        let monday = frozen.freeze(Some("monday")).expect("freeze");
        frozen.commit_checkpoint(monday.uuid, true).expect("commit");
        frozen.set(1..2).expect("set");
        frozen.freeze(Some("tuesday")).expect("freeze");
        frozen.close().expect("close");
        let world = World::of(dir);
        fs::write(world.path("disk.dump"), world.run("dump disk.map".split(' '), Stdio::piped()).exits(0).out)
            .expect("write");
        for line in [
            "export disk.map disk.bits",
            "export-qcow2 disk.map disk.qcow2 --bitmap b",
            "create set.map --image disk.raw",
            "backup disk.raw --set backups --map set.map",
            "set set.map 0 1",
            "backup disk.raw --set backups --map set.map --store-equal",
        ] {
            world.run(line.split(' '), Stdio::piped()).exits(0);
        }
        fs::remove_file(world.path("set.map")).expect("remove");
        world.run("repair mended.map --undo mended.undo".split(' '), Stdio::piped()).exits(1);
        assert!([image, disk, mended].iter().all(|file| file.exists()));
        world
    }

    fn of(dir: Dir) -> World {
        World { dir, before: BTreeMap::new(), server: OnceCell::new(), running: OnceCell::new() }
    }

    /// The control socket of a server, which has a snapshot but for who makes one.
    fn control(&self, makes: bool) -> PathBuf {
        let place = self.server.get_or_init(Place::new);
        self.running.get_or_init(|| {
            let server = place.start(&[]).expect("a server");
            if !makes {
                place.snapshot(&["create"]).exits(0);
            }
            server
        });
        place.control()
    }

    /// The same files once more.
    pub fn again(&self) -> World {
        let dir = Dir::new();
        for entry in fs::read_dir(self.dir.path("")).expect("read the directory") {
            let from = entry.expect("an entry").path();
            let name = from.file_name().and_then(OsStr::to_str).expect("text");
            if !from.is_dir() {
                dir.copy(&from, name);
                continue;
            }
            fs::create_dir(dir.path(name)).expect("make the directory");
            for entry in fs::read_dir(&from).expect("read the directory") {
                let file = entry.expect("an entry").path();
                dir.copy(&file, &format!("{name}/{}", file.file_name().and_then(OsStr::to_str).expect("text")));
            }
        }
        let mut world = World::of(dir);
        world.before = world.look();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path(name)
    }

    fn look(&self) -> BTreeMap<PathBuf, Seen> {
        let mut seen = BTreeMap::new();
        let mut folders = vec![self.dir.path("")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("read the directory") {
                let path = entry.expect("an entry").path();
                let facts = fs::symlink_metadata(&path).expect("look");
                if facts.is_dir() {
                    folders.push(path);
                    continue;
                }
                let mtime = (facts.mtime(), facts.mtime_nsec());
                let bytes = fs::read(&path).ok();
                seen.insert(path, Seen { bytes, mtime, mode: facts.mode(), inode: facts.ino() });
            }
        }
        seen
    }

    /// Asserts that everything is as it was, but for these files.
    #[track_caller]
    pub fn is_untouched_but<'a>(&self, but: impl IntoIterator<Item = &'a str>, line: &str) {
        let but: Vec<PathBuf> = but.into_iter().map(|name| self.path(name)).collect();
        let now = self.look();
        let excused = |path: &Path| but.iter().any(|but| path.starts_with(but));
        for (path, before) in self.before.iter().filter(|(path, _)| !excused(path)) {
            assert!(now.get(path) == Some(before), "{line}: {} is not as it was", path.display());
        }
        let came: Vec<_> = now.keys().filter(|path| !self.before.contains_key(*path) && !excused(path)).collect();
        assert!(came.is_empty(), "{line}: left {came:?} behind");
    }

    /// The command, to be run among the files, with something for its standard input.
    pub fn command(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = dirtymap();
        let words: Vec<OsString> = words.into_iter().map(|word| word.as_ref().to_os_string()).collect();
        let makes = words.iter().any(|word| word == "create");
        for word in words {
            if word == "control" {
                command.arg(self.control(makes))
            } else {
                command.arg(word)
            };
        }
        command.current_dir(self.dir.path("")).stdin(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>, stdout: impl Into<Stdio>) -> Ran {
        let mut child = self.command(words).stdout(stdout).spawn().expect("run dirtymap");
        // Who does not read it may be gone.
        let _ = child.stdin.take().expect("piped").write_all(&pattern(100, 3));
        child.wait_with_output().expect("wait for dirtymap").into()
    }
}

/// The commands that a help lists.
pub fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    names.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help").map(String::from).collect()
}
