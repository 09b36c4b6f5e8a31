//! What the stories share: running the command, and files to run it on.

#![allow(dead_code, reason = "each story uses a part of it")]

pub mod between;
pub mod documented;
pub mod live;
pub mod live_backup;
pub mod machine;
pub mod promises;
pub mod serving;
pub mod sets;

use dirtymap::format::{self, COPIES, COPY_BYTES, Header};
use dirtymap::{DirtyMap, Options};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
/// Granule of most maps here.
pub const GRANULE: u64 = 64 * KIB;

/// The command, to be given arguments.
pub fn dirtymap() -> Command {
    Command::new(env!("CARGO_BIN_EXE_dirtymap"))
}

/// How a run of the command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Ran {
        Ran {
            code: o.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&o.stdout).into(),
            err: String::from_utf8_lossy(&o.stderr).into(),
        }
    }
}

impl Ran {
    /// Asserts the exit code; shows everything if it is another one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Asserts that stderr says something.
    #[track_caller]
    pub fn says(self, what: &str) -> Ran {
        assert!(self.err.contains(what), "{what:?} is not in stderr:\n{}", self.err);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: stdout is no JSON:\n{}", self.out))
    }
}

pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    dirtymap().args(args).stdin(Stdio::null()).output().expect("run dirtymap").into()
}

/// Runs a command line of words and files.
#[macro_export]
macro_rules! dm {
    ($($arg:expr),* $(,)?) => {
        common::run([$(std::ffi::OsStr::new(&$arg).to_os_string()),*])
    };
}

/// Runs with bytes for standard input.
pub fn run_with<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
    let mut child = dirtymap()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run dirtymap");
    // A command that refuses does not read its input.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().expect("wait for dirtymap").into()
}

/// Runs with standard output and error on a terminal of 80 columns that cannot move its cursor. `out` is what that shows.
pub fn run_on_a_terminal(mut command: Command) -> Ran {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags).expect("a terminal");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("a terminal to use");
    let peer = ioctl_tiocgptpeer(&terminal, flags).expect("its other side");
    let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&peer, size).expect("set its size");
    command.stdout(peer.try_clone().expect("the same once more")).stderr(peer).env("TERM", "dumb").env("NO_COLOR", "1");
    let mut child = command.spawn().expect("run dirtymap");
    // It has its own; with the last of them the terminal ends.
    drop(command);
    let mut shown = Vec::new();
    // How it ends is an error.
    let _ = fs::File::from(terminal).read_to_end(&mut shown);
    let code = child.wait().expect("wait for dirtymap").code().unwrap_or(-1);
    Ran { code, out: String::from_utf8_lossy(&shown).replace("\r\n", "\n"), err: String::new() }
}

/// A directory, removed at the end of the test.
pub struct Dir(TempDir);

impl Dir {
    pub fn new() -> Dir {
        Dir(tempfile::tempdir().expect("temporary directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A copy of a file.
    pub fn copy(&self, from: &Path, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::copy(from, &path).expect("copy");
        path
    }

    /// An image of `size` bytes, of a pattern.
    pub fn image(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, pattern(size, 1)).expect("write the image");
        path
    }

    /// A map of `len` bytes with these dirty ranges, closed.
    pub fn map(&self, name: &str, len: u64, dirty: &[std::ops::Range<u64>]) -> PathBuf {
        let path = self.path(name);
        let map = Options::new().create(&path, len).expect("create the map");
        dirty.iter().for_each(|range| _ = map.set(range.clone()).expect("set"));
        map.close().expect("close the map");
        path
    }

    /// The same map as a crash leaves it, with the dirty ranges armed.
    pub fn unclean(&self, name: &str, len: u64, dirty: &[std::ops::Range<u64>]) -> PathBuf {
        let open = self.path("open-for-unclean.map");
        let map = Options::new().flush_interval(None).create(&open, len).expect("create the map");
        dirty.iter().for_each(|range| _ = map.set(range.clone()).expect("set"));
        let path = self.path(name);
        fs::copy(&open, &path).expect("copy the open map");
        drop(map);
        fs::remove_file(open).expect("remove the open map");
        path
    }
}

/// Bytes that differ from place to place, and by `seed`.
pub fn pattern(size: u64, seed: u64) -> Vec<u8> {
    let byte =
        |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed.wrapping_mul(0xff51_afd7_ed55)) >> 32) as u8;
    (0..size).map(byte).collect()
}

/// Changes bytes of a file in place, and its modification time also where clocks are coarse.
pub fn patch(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let before = fs::metadata(path).and_then(|m| m.modified()).expect("modification time");
    let mut bytes = fs::read(path).expect("read");
    change(&mut bytes);
    fs::write(path, bytes).expect("write");
    let file = fs::File::options().write(true).open(path).expect("open");
    file.set_modified(before + std::time::Duration::from_secs(1)).expect("set the modification time");
}

/// The newest header of a file.
pub fn header(path: &Path) -> Header {
    let bytes = fs::read(path).expect("read");
    let copies: [_; COPIES] =
        std::array::from_fn(|i| Header::parse(&bytes[format::copy_offset(i) as usize..][..COPY_BYTES]));
    format::select(&copies).expect("a header").header.clone()
}

/// Damages a header copy.
pub fn damage_copy(path: &Path, copy: usize) {
    patch(path, |bytes| bytes[format::copy_offset(copy) as usize + 700] ^= 0x55);
}

/// Damages the first page of the bottom level.
pub fn damage_page(path: &Path) {
    let at = header(path).layout.bottom.start as usize + 100;
    patch(path, |bytes| bytes[at] ^= 0x10);
}

/// Asserts that a run neither changed a file nor left another one beside it.
#[track_caller]
pub fn untouched<R>(path: &Path, run: impl FnOnce() -> R) -> R {
    let names = || {
        let entries = fs::read_dir(path.parent().expect("a parent")).expect("read the directory");
        let mut names: Vec<_> = entries.map(|e| e.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    let before = (fs::read(path).ok(), names());
    let result = run();
    assert!(fs::read(path).ok() == before.0, "{} was changed", path.display());
    assert_eq!(names(), before.1, "files came or went");
    result
}

/// Says, where it cannot be overlooked, that a story could not be told here.
pub fn skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
}

/// Whether a program of the distribution is here. Says so if not.
pub fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        skipped(&format!("{program} is not installed"));
    }
    found
}

/// Whether this process may do anything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The dirty areas that a map has now.
pub fn areas(path: &Path) -> Vec<std::ops::Range<u64>> {
    let map: DirtyMap = Options::new().read_only(true).open(path).expect("open");
    map.extents(0..map.len()).expect("areas").collect()
}

/// Something that is undone at the end of the test, whatever happens.
pub struct Cleanup(Command);

impl Cleanup {
    pub fn new(program: &str, args: &[&OsStr]) -> Cleanup {
        let mut command = Command::new(program);
        command.args(args);
        Cleanup(command)
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = self.0.status();
    }
}

/// Runs a system program; whether it succeeded.
pub fn system(program: &str, args: &[&OsStr]) -> bool {
    Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// A loop device over a file; none where there can be none.
pub fn loop_device(file: &Path) -> Option<(PathBuf, Cleanup)> {
    let made = Command::new("losetup").args(["-f", "--show"]).arg(file).output().ok()?;
    let device = String::from_utf8(made.stdout).ok()?.trim().to_string();
    let detach = Cleanup::new("losetup", &["-d", &device].map(OsStr::new));
    made.status.success().then_some((PathBuf::from(device), detach))
}

/// An image with its map, and where a backup of it goes.
pub struct Set {
    pub dir: Dir,
    pub image: PathBuf,
    pub map: PathBuf,
    pub target: PathBuf,
}

impl Set {
    /// Of which no backup is made yet.
    pub fn of_image(size: u64) -> Set {
        let dir = Dir::new();
        let (image, map, target) = (dir.image("disk.raw", size), dir.path("disk.map"), dir.path("backup.raw"));
        run(["create".as_ref(), map.as_os_str(), "--image".as_ref(), image.as_os_str()]).exits(0);
        Set { dir, image, map, target }
    }

    /// Writes to the image, tracked.
    pub fn write(&self, at: impl std::fmt::Display, bytes: &[u8]) {
        let (image, map) = (self.image.to_str().expect("text"), self.map.to_str().expect("text"));
        run_with(["write", image, "--map", map, "--at", &at.to_string()], bytes).exits(0);
    }
}
