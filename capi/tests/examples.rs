//! The examples in C, compiled from what `make install` installs, and the plugin under nbdkit.

mod common;

use common::{has, made, make, root, run, stdout};
use dirtymap::info::{FileState, inspect};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const MIB: u64 = 1 << 20;

fn example(name: &str) -> PathBuf {
    root().join("../examples/c").join(name)
}

fn install(below: &Path) {
    made();
    run(make("install").arg(format!("DESTDIR={}", below.display())).arg("PREFIX=/opt"));
}

/// Files and links below a directory.
fn files(below: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(below).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() && !path.is_symlink() { files(&path) } else { vec![path] }).collect()
}

/// Everything installed below a directory, and that.
fn installed() -> &'static Path {
    static INSTALLED: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        install(dir.path());
        dir
    });
    installed.path()
}

/// What pkg-config says of packages, of which ours is in the directory.
fn flags(packages: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.args(["--cflags", "--libs"]).args(packages).env("PKG_CONFIG_SYSROOT_DIR", installed());
    let said = stdout(command.env("PKG_CONFIG_PATH", installed().join("opt/lib/pkgconfig")));
    let mut flags: Vec<String> = said.split_whitespace().map(String::from).collect();
    flags.push(format!("-Wl,-rpath,{}", installed().join("opt/lib").display()));
    flags
}

fn built(name: &str, to: &Path, packages: &[&str], more: &[&str]) {
    let mut command = Command::new("cc");
    command.args(["-Wall", "-Wextra", "-Werror"]).args(more);
    run(command.arg(example(name)).arg("-o").arg(to).args(flags(packages)));
}

/// A directory with an image and the programs.
struct Workplace(tempfile::TempDir);

impl Workplace {
    fn new() -> Option<Workplace> {
        if !has("pkg-config") {
            println!("SKIPPED: no pkg-config");
            return None;
        }
        let place = Workplace(tempfile::tempdir().unwrap());
        for program in ["tracker", "backup"] {
            built(&format!("{program}.c"), &place.at(program), &["dirtymap"], &[]);
        }
        let image = File::create(place.at("image")).unwrap();
        image.set_len(64 * MIB).unwrap();
        Some(place)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn tracker(&self, offset: u64) -> Command {
        let mut command = Command::new(self.at("tracker"));
        command.args([self.at("image"), self.at("map")]).arg(offset.to_string()).stdin(Stdio::piped());
        command
    }

    fn track(&self, offset: u64, data: &[u8]) {
        let mut child = self.tracker(offset).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(data).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// A backup, which must be equal to the image; how much it has copied.
    fn back_up(&self) -> u64 {
        let files = ["image", "map", "copy"].map(|name| self.at(name));
        let said = stdout(Command::new(self.at("backup")).args(files));
        let same = |name: &str| std::fs::read(self.at(name)).unwrap();
        assert!(same("image") == same("copy"), "the backup lacks something: {said}");
        said.split(' ').nth(1).and_then(|copied| copied.parse().ok()).unwrap()
    }

    /// What was armed is what the crash has added; the rest of the image is known to be as it was.
    fn after_a_kill(&self) {
        assert_eq!(inspect(self.at("map")).unwrap().state, FileState::Unclean);
        let copied = self.back_up();
        assert!((65536..16 * MIB).contains(&copied), "{copied} bytes");
        assert_eq!(self.back_up(), 0);
    }

    fn dirty(&self) -> u64 {
        inspect(self.at("map")).unwrap().dirty.unwrap().1
    }
}

#[test]
fn a_tracker_and_an_incremental_backup() {
    let Some(place) = Workplace::new() else { return };
    place.track(4096, b"first");
    assert_eq!(place.back_up(), 64 * MIB);
    place.track(10 * MIB, &[7; 100_000]);
    place.track(20 * MIB, b"third");
    assert_eq!(place.back_up(), 3 * 65536);
    assert_eq!((place.back_up(), place.dirty()), (0, 0));
    // Another target has nothing of it.
    std::fs::remove_file(place.at("copy")).unwrap();
    assert_eq!(place.back_up(), 64 * MIB);
    // Written to while nothing tracked it: the map says so, and everything is copied.
    File::options().write(true).open(place.at("image")).unwrap().write_all_at(b"untracked", 5 * MIB).unwrap();
    assert_eq!(place.back_up(), 64 * MIB);
    // A backup, which did not write the image, does not vouch for it; the next tracker does.
    assert_eq!(place.back_up(), 64 * MIB);
    place.track(30 * MIB, b"tracked");
    assert_eq!(place.back_up(), 64 * MIB);
    place.track(30 * MIB, b"tracked");
    assert_eq!(place.back_up(), 65536);
}

#[test]
fn a_target_gets_the_length_of_the_map() {
    let Some(place) = Workplace::new() else { return };
    place.track(0, b"first");
    place.back_up();
    // Shorter, and the target is known: only its end has to go.
    File::options().write(true).open(place.at("image")).unwrap().set_len(32 * MIB).unwrap();
    let mut map = dirtymap::DirtyMap::open(place.at("map")).unwrap();
    map.truncate(32 * MIB).unwrap();
    map.close().unwrap();
    place.track(0, b"second");
    place.back_up();
    assert_eq!(std::fs::metadata(place.at("copy")).unwrap().len(), 32 * MIB);
}

#[test]
fn a_backup_of_an_image_that_ends_too_soon_says_so_and_is_none() {
    let Some(place) = Workplace::new() else { return };
    place.track(0, b"first");
    File::options().write(true).open(place.at("image")).unwrap().set_len(32 * MIB).unwrap();
    let files = ["image", "map", "copy"].map(|name| place.at(name));
    let said = Command::new(place.at("backup")).args(files).output().unwrap();
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.code() == Some(1) && err.contains("copy: No data available"), "{err}");
    assert_eq!(place.dirty(), 64 * MIB);
    assert!(inspect(place.at("map")).unwrap().target.is_none());
}

#[test]
fn a_tracker_takes_no_offset_that_is_none() {
    let Some(place) = Workplace::new() else { return };
    for offset in ["", "12x", "-1", "99999999999999999999"] {
        let mut command = Command::new(place.at("tracker"));
        let said =
            command.args([place.at("image"), place.at("map")]).arg(offset).stdin(Stdio::null()).output().unwrap();
        assert_eq!(said.status.code(), Some(2), "{offset:?}: {said:?}");
    }
    assert!(!place.at("map").exists());
}

#[test]
fn a_tracker_that_is_killed_loses_no_write() {
    let Some(place) = Workplace::new() else { return };
    place.track(0, b"first");
    place.back_up();
    let mut tracker = place.tracker(10 * MIB).spawn().unwrap();
    let mut data = tracker.stdin.take().unwrap();
    data.write_all(b"written before it is killed").unwrap();
    // It waits for more by the time that this is in the image.
    let image = File::open(place.at("image")).unwrap();
    let mut first = [0];
    while first != *b"w" {
        image.read_exact_at(&mut first, 10 * MIB).unwrap();
        std::thread::yield_now();
    }
    tracker.kill().unwrap();
    tracker.wait().unwrap();
    drop(data);
    place.after_a_kill();
}

#[test]
fn examples_are_short() {
    for name in ["tracker.c", "backup.c"] {
        let lines = std::fs::read_to_string(example(name)).unwrap().lines().count();
        assert!(lines < 100, "{name}: {lines} lines");
    }
}

#[test]
fn what_is_installed_has_a_manual_page_for_each_function() {
    let pages = installed().join("opt/share/man/man3");
    let functions = std::fs::read_to_string(root().join("dirtymap.map")).unwrap();
    for name in functions.lines().filter_map(|line| line.trim().strip_suffix(';')).filter(|name| name.contains('_')) {
        assert_eq!(std::fs::read_link(pages.join(format!("{name}.3"))).unwrap(), Path::new("dirtymap.3"), "{name}");
    }
}

#[test]
fn uninstall_takes_away_all_that_was_installed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    install(dir.path());
    assert!(files(dir.path()).len() > 120);
    let other = dir.path().join("opt/lib/other.so");
    std::fs::write(&other, "").unwrap();
    run(make("uninstall").arg(format!("DESTDIR={}", dir.path().display())).arg("PREFIX=/opt"));
    assert_eq!(files(dir.path()), [other]);
}

/// `sudo make install` builds nothing: root has no cargo, or another one.
#[test]
fn install_builds_nothing() {
    made();
    let dir = tempfile::tempdir().unwrap();
    let below = format!("DESTDIR={}", dir.path().display());
    run(make("install").args([&below, "PREFIX=/opt", "CARGO=/nonexistent", "CC=/nonexistent"]));
    let empty = format!("CARGO_TARGET_DIR={}", dir.path().join("empty").display());
    let said = make("install").args([&below, &empty]).output().unwrap();
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success() && err.contains("run make first"), "{err}");
}

/// nbdkit with the plugin, until it is dropped.
struct Server(std::process::Child, PathBuf);

impl Server {
    fn start(place: &Workplace) -> Server {
        let socket = place.at("socket");
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "-U"]).arg(&socket).arg(place.at("plugin.so"));
        command.arg(format!("image={}", place.at("image").display()));
        let child = command.arg(format!("map={}", place.at("map").display())).spawn().unwrap();
        let mut server = Server(child, socket);
        while !server.1.exists() {
            assert!(server.0.try_wait().unwrap().is_none(), "nbdkit has ended");
            std::thread::yield_now();
        }
        server
    }

    fn run(&self, commands: &[&str]) {
        let mut client = Command::new("qemu-io");
        client.args(["-f", "raw"]).args(commands.iter().flat_map(|command| ["-c", command]));
        run(client.arg(format!("nbd+unix:///?socket={}", self.1.display())));
    }

    fn end(mut self, signal: &str) {
        run(Command::new("kill").args([signal, &self.0.id().to_string()]));
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nbdkit_serves_a_tracked_image() {
    let headers =
        || Command::new("pkg-config").args(["--exists", "nbdkit"]).status().is_ok_and(|status| status.success());
    if !has("nbdkit") || !has("qemu-io") || !has("pkg-config") || !headers() {
        println!("SKIPPED: no nbdkit with its headers (nbdkit, nbdkit-plugin-dev), qemu-io or pkg-config");
        return;
    }
    let Some(place) = Workplace::new() else { return };
    built("nbdkit-dirtymap.c", &place.at("plugin.so"), &["nbdkit", "dirtymap"], &["-shared", "-fPIC"]);
    // The size of a device is not that of its inode.
    let mut device = Command::new("nbdkit");
    device.args(["--foreground", "-U", "-"]).arg(place.at("plugin.so")).arg("image=/dev/zero");
    let refused = device.arg(format!("map={}", place.at("map").display())).args(["--run", "true"]).output().unwrap();
    let err = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && err.contains("/dev/zero is no regular file"), "{err}");
    // The map is made, all dirty, and a backup goes by it while the server runs.
    let server = Server::start(&place);
    server.run(&["write -P 1 1M 64k"]);
    assert_eq!(place.back_up(), 64 * MIB);
    server.run(&["write -P 7 10M 100k", "write -z 20M 64k", "discard 30M 64k", "flush", "read -P 7 10M 100k"]);
    assert_eq!(place.back_up(), 4 * 65536);
    server.run(&["write -P 9 40M 4k"]);
    server.end("-TERM");
    // Closed, with the image as it is now: nothing is added.
    assert_eq!((place.dirty(), place.back_up()), (65536, 65536));
    let server = Server::start(&place);
    server.run(&["write -P 3 50M 4k"]);
    server.end("-KILL");
    place.after_a_kill();
}
