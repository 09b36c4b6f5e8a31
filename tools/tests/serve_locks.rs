//! `serve` and other programs keep out of each other's way: the bytes that QEMU locks are those that it locks.

mod common;

use common::serving::Server;
use common::{Dir, MIB, Ran, have, loop_device, skipped, untouched};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_WRLCK, SEEK_SET, flock};
use rustix::fs::OFlags;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: u64 = 8 * MIB;

fn tracked(dir: &Dir) -> (PathBuf, PathBuf) {
    let (image, map) = (dir.image("disk.raw", SIZE), dir.path("disk.map"));
    dm!("create", map, "--image", image).exits(0);
    (image, map)
}

fn lock(file: &File, byte: i64) {
    let lock = flock { l_type: F_RDLCK as i16, l_whence: SEEK_SET as i16, l_start: byte, l_len: 1, l_pid: 0 };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).expect("lock");
}

/// Whether somebody else has a lock on a byte.
fn is_locked(file: &File, byte: i64) -> bool {
    let mut asked = flock { l_type: F_WRLCK as i16, l_whence: SEEK_SET as i16, l_start: byte, l_len: 1, l_pid: 0 };
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)).expect("ask");
    asked.l_type != nix::libc::F_UNLCK as i16
}

#[test]
fn an_image_has_one_server_that_writes() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    let serve = |more: &[&str]| {
        let line = ["serve", image.to_str().expect("text"), "--map", map.to_str().expect("text"), "--run", "true"];
        common::run(line.iter().chain(more))
    };
    let server = Server::start(&dir, &[]);
    serve(&[]).exits(8).says("in use").says("another `dirtymap serve`");
    serve(&["--read-only"]).exits(8).says("in use");
    // Whoever goes by the map may read and write.
    dm!("backup", image, dir.path("backup.raw"), "--map", map).exits(0);
    common::run_with(["write", image.to_str().expect("text"), "--map", map.to_str().expect("text"), "--at", "0"], b"x")
        .exits(0);
    server.stop().exits(0);
    serve(&[]).exits(0);
    let server = Server::start(&dir, &["--read-only"]);
    serve(&["--read-only"]).exits(0);
    serve(&[]).exits(8).says("in use");
    server.stop().exits(0);
}

/// Who uses an image in some way locks byte 100 + way, and who lets nobody else do that byte 200 + way.
#[test]
fn each_lock_of_others_that_contradicts_is_respected_and_each_of_ours_is_there() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    let serve = |more: &[&str]| {
        let line = ["serve", image.to_str().expect("text"), "--map", map.to_str().expect("text"), "--run", "true"];
        common::run(line.iter().chain(more)).code
    };
    for (byte, refused, refused_reading) in [
        (100, false, false),
        (101, true, true),
        (102, false, false),
        (103, true, true),
        (200, true, true),
        (201, true, false),
        (202, false, false),
        (203, false, false),
    ] {
        let other = File::options().read(true).write(true).open(&image).expect("open");
        lock(&other, byte);
        let codes = (serve(&[]), serve(&["--read-only"]));
        assert_eq!(codes, (if refused { 8 } else { 0 }, if refused_reading { 8 } else { 0 }), "{byte}");
    }
    let other = File::options().read(true).write(true).open(&image).expect("open");
    let ours = || (0..300).filter(|byte| is_locked(&other, *byte)).collect::<Vec<_>>();
    let server = Server::start(&dir, &[]);
    assert_eq!(ours(), [100, 101, 201, 203]);
    server.kill();
    assert_eq!(ours(), [0; 0]);
    fs::remove_file(dir.path("socket")).expect("it is left over");
    let server = Server::start(&dir, &["--read-only"]);
    assert_eq!(ours(), [100, 201, 203]);
    server.stop().exits(0);
}

#[test]
fn a_block_device_is_claimed() {
    let dir = Dir::new();
    let under = dir.image("under", SIZE);
    let Some((device, _detach)) = loop_device(&under) else {
        return skipped("a claimed block device: needs root and loop devices");
    };
    let map = dir.path("disk.map");
    let line = [device.as_os_str(), OsStr::new("--map"), map.as_os_str(), OsStr::new("--create")];
    let server = Server::of(&dir, line);
    server.client().write(0, b"x", 0).expect("write");
    let claim = || File::options().read(true).custom_flags(OFlags::EXCL.bits() as i32).open(&device);
    assert!(claim().is_err());
    server.stop().exits(0);
    let claimed = claim().expect("nobody has it");
    dm!("serve", device, "--map", map, "--run", "true").exits(8).says("in use");
    drop(claimed);
    dm!("serve", device, "--map", map, "--run", "true").exits(0);
}

fn qemu(program: &str, line: &[&str], image: &Path) -> Ran {
    Command::new(program).args(line).arg(image).output().expect("run").into()
}

#[test]
fn qemu_does_not_touch_an_image_that_is_served() {
    if !have("qemu-io") || !have("qemu-img") {
        return;
    }
    let (dir, elsewhere) = (Dir::new(), Dir::new());
    let (image, _) = tracked(&dir);
    let write = || qemu("qemu-io", &["-f", "raw", "-c", "write 0 512"], &image);
    let resize = || {
        Ran::from(Command::new("qemu-img").args(["resize", "-f", "raw"]).arg(&image).arg("9M").output().expect("run"))
    };
    let read = || qemu("qemu-img", &["bench", "-f", "raw", "-c", "1"], &image);
    let copy = || {
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", "raw"]).arg(&image).arg(elsewhere.path("copy"));
        Ran::from(command.output().expect("run"))
    };
    write().exits(0);
    let server = Server::start(&dir, &[]);
    untouched(&image, || {
        write().exits(1).says("lock");
        resize().exits(1).says("lock");
        copy().exits(1).says("lock");
    });
    server.stop().exits(0);
    write().exits(0);
    let server = Server::start(&dir, &["--read-only"]);
    untouched(&image, || {
        write().exits(1).says("lock");
        resize().exits(1).says("lock");
        read().exits(0);
        copy().exits(0);
    });
    server.stop().exits(0);
}

#[test]
fn an_image_that_qemu_writes_to_is_not_served() {
    if !have("qemu-nbd") {
        return;
    }
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    // One that only reads lets others write.
    for (more, codes) in [(&[][..], (8, 8)), (&["-r"][..], (0, 0))] {
        let socket = dir.path("qemu");
        let mut command = Command::new("qemu-nbd");
        command.args(["-f", "raw", "-t", "-k"]).arg(&socket).args(more).arg(&image);
        let qemu = Server::run(command, socket);
        let serve = |more: &[&str]| {
            let line = ["serve", image.to_str().expect("text"), "--map", map.to_str().expect("text"), "--run", "true"];
            common::run(line.iter().chain(more)).code
        };
        assert_eq!((serve(&[]), serve(&["--read-only"])), codes, "{more:?}");
        let socket = qemu.socket.clone();
        qemu.kill();
        let _ = fs::remove_file(&socket);
    }
    dm!("serve", image, "--map", map, "--run", "true").exits(0);
}
