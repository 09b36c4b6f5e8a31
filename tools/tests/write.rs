//! Tracked writes: set first, then write; whatever happens to the writer, what it wrote is dirty.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, KIB, MIB, areas, pattern, run_with, untouched};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

const SIZE: u64 = 8 * MIB;

/// An image with a map that is all clean.
fn tracked(dir: &Dir, size: u64) -> (PathBuf, PathBuf) {
    let (image, map) = (dir.image("disk.raw", size), dir.path("disk.map"));
    dm!("create", map, "--image", image).exits(0);
    dm!("reset", map, "--all").exits(0);
    (image, map)
}

fn write_at(image: &Path, map: &Path, at: &str, bytes: &[u8]) -> common::Ran {
    let text = |p: &Path| p.to_str().expect("text").to_string();
    run_with(
        [&text(image), "--map", &text(map), "--at", at].iter().fold(vec!["write".into()], |mut all, word| {
            all.push(word.to_string());
            all
        }),
        bytes,
    )
}

#[test]
fn writes_what_it_is_given_and_marks_just_that() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir, SIZE + 77);
    let (mut expected, data) = (fs::read(&image).expect("read"), pattern(3 * MIB + 5, 9));
    write_at(&image, &map, "1000K", &data).exits(0);
    expected[1000 * KIB as usize..][..data.len()].copy_from_slice(&data);
    assert!(fs::read(&image).expect("read") == expected);
    let end = (1000 * KIB + 3 * MIB + 5).next_multiple_of(GRANULE);
    assert_eq!(areas(&map), [1000 * KIB / GRANULE * GRANULE..end]);
    // The tracker's own writes are no surprise to the next one.
    let ran = write_at(&image, &map, "0", b"").exits(0);
    assert_eq!(ran.err, "");
    // Up to the last byte.
    write_at(&image, &map, &(SIZE + 76).to_string(), b"z").exits(0);
    assert_eq!(fs::read(&image).expect("read").last(), Some(&b'z'));
    assert_eq!(fs::read(&image).expect("read").len() as u64, SIZE + 77);
}

/// Two writers, and commands that look, change and copy, have the map at the same time.
#[test]
fn what_others_do_meanwhile_is_not_kept_out() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir, SIZE);
    let mut first = waiting_writer(&image, &map, &pattern(MIB, 2));
    write_at(&image, &map, "4M", b"second").exits(0);
    dm!("set", map, "6M", "1").exits(0);
    assert_eq!(dm!("map", map, "--output", "json").exits(0).json().as_array().map(Vec::len), Some(7));
    dm!("reset", map, "6M", "64K").exits(0);
    dm!("checkpoint", "freeze", map, "--name", "x").exits(0);
    dm!("checkpoint", "commit", map, "--keep").exits(0);
    dm!("backup", image, dir.path("target"), "--map", map).exits(0);
    assert!(first.try_wait().expect("look").is_none(), "it ended");
    first.stdin.take().expect("piped").write_all(b"end").expect("feed");
    assert_eq!(first.wait().expect("wait").code(), Some(0));
    assert_eq!(areas(&map), [3 * MIB..3 * MIB + GRANULE]);
    dm!("backup", image, dir.path("target"), "--map", map).exits(0);
    assert_eq!(fs::read(&image).expect("read"), fs::read(dir.path("target")).expect("read"));
}

#[test]
fn a_piece_that_does_not_fit_is_not_written_and_the_rest_is_told() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir, SIZE);
    let before = fs::read(&image).expect("read");
    let ran = write_at(&image, &map, "6M", &pattern(2 * MIB + 1, 4)).exits(8);
    let ran = ran.says("more input than room").says("2097152 bytes were written, 6291456 to 8388608");
    assert!(ran.out.is_empty());
    let after = fs::read(&image).expect("read");
    assert_eq!(after.len() as u64, SIZE);
    assert!(after[..6 * MIB as usize] == before[..6 * MIB as usize]);
    assert!(after[6 * MIB as usize..] == pattern(2 * MIB + 1, 4)[..2 * MIB as usize]);
    assert_eq!(areas(&map), [6 * MIB..8 * MIB]);
    write_at(&image, &map, "8M", b"x").exits(8).says("nothing was written");
    untouched(&map, || write_at(&image, &map, "9M", b"x").exits(8).says("past the end"));
    assert!(fs::read(&image).expect("read") == after);
}

#[test]
fn an_image_that_was_changed_untracked_makes_everything_dirty() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir, SIZE);
    common::patch(&image, |bytes| bytes[5] ^= 1);
    write_at(&image, &map, "0", b"x").exits(0).says("not as this map last saw it").says("modification time");
    assert_eq!(areas(&map), [0..SIZE]);
    let info = dm!("info", map, "--output", "json").exits(0).json();
    assert_eq!(info["verdict"], "superset");
    assert_eq!(info["reason"], "image changed untracked");
}

#[test]
fn the_image_cannot_be_the_map() {
    let dir = Dir::new();
    let (_, map) = tracked(&dir, SIZE);
    untouched(&map, || write_at(&map, &map, "0", b"x").exits(8).says("different files"));
}

/// A writer that has written one piece and waits for more.
fn waiting_writer(image: &Path, map: &Path, piece: &[u8]) -> Child {
    let mut command = common::dirtymap();
    command.arg("write").arg(image).arg("--map").arg(map).args(["--at", "2M", "--output", "json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run");
    child.stdin.as_mut().expect("piped").write_all(piece).expect("write");
    while fs::read(image).expect("read")[2 * MIB as usize..][..piece.len()] != *piece {
        assert!(child.try_wait().expect("look").is_none(), "the writer ended");
        std::thread::yield_now();
    }
    child
}

#[test]
fn interrupted_it_ends_in_order_with_32() {
    let dir = Dir::new();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let (image, map) = tracked(&dir, SIZE);
        let child = waiting_writer(&image, &map, &pattern(MIB, 5));
        kill_process(Pid::from_child(&child), signal).expect("signal");
        // Its standard input stays open until it has ended.
        let mut child = child;
        let stdin = child.stdin.take();
        let ran: common::Ran = child.wait_with_output().expect("wait").into();
        drop(stdin);
        let ran = ran.exits(32).says("interrupted").says("1048576 bytes were written");
        assert_eq!(ran.json()["error"]["kind"], "interrupted");
        assert_eq!(areas(&map), [2 * MIB..3 * MIB]);
        dm!("check", map).exits(0);
        fs::remove_file(&map).expect("remove");
    }
}

#[test]
fn killed_it_leaves_what_it_wrote_dirty() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir, SIZE);
    let mut child = waiting_writer(&image, &map, &pattern(MIB, 6));
    // Meanwhile it has the map.
    assert_eq!(dm!("info", map, "--output", "json").exits(0).json()["live"], true);
    dm!("resize", map, "1G").exits(8).says("in use");
    child.kill().expect("kill");
    child.wait().expect("wait");
    dm!("check", map).exits(2);
    let target = dir.path("backup.raw");
    dm!("count", map).exits(0).says("not closed cleanly");
    assert!(areas(&map).iter().any(|area| area.start <= 2 * MIB && area.end >= 3 * MIB));
    dm!("backup", image, target, "--map", map).exits(0);
    assert!(fs::read(&image).expect("read") == fs::read(&target).expect("read"));
}

#[test]
fn an_image_in_another_format_is_called_by_its_name() {
    let dir = Dir::new();
    let formats: [(usize, &[u8], &str); 6] = [
        (0, b"QFI\xfb\0\0\0\x03", "qcow2"),
        (0, b"KDMV", "VMDK"),
        (0, b"# Disk DescriptorFile", "VMDK"),
        (0, b"vhdxfile", "VHDX"),
        (0, b"conectix", "VHD"),
        (64, b"\x7f\x10\xda\xbe", "VDI"),
    ];
    for (n, (at, magic, name)) in formats.into_iter().enumerate() {
        let (image, map) = (dir.image(&format!("{n}.image"), MIB), dir.path(&format!("{n}.map")));
        common::patch(&image, |bytes| bytes[at..at + magic.len()].copy_from_slice(magic));
        let refused = untouched(&image, || dm!("create", map, "--image", image, "--output", "json").exits(8));
        assert_eq!(refused.says(name).says("--raw").json()["error"]["kind"], "not-raw");
        dm!("create", map, "--image", image, "--raw").exits(0);
        // Who asked for it there is not asked again; a map for a size says nothing of what it is for.
        write_at(&image, &map, "1000", b"x").exits(0);
        let sized = dir.map(&format!("{n}.sized"), MIB, &[]);
        untouched(&image, || write_at(&image, &sized, "1000", b"x").exits(8).says(name));
        let backup = dir.path(&format!("{n}.backup"));
        dm!("backup", image, backup, "--map", sized).exits(8).says(name);
        assert!(!backup.exists());
        dm!("backup", image, backup, "--map", sized, "--raw").exits(0);
        dm!("write", image, "--map", sized, "--at", "0", "--raw").exits(0);
    }
    // A short file, and an encrypted disk, are what they are.
    for (name, bytes) in [("short", &b"QF"[..]), ("luks", &b"LUKS\xba\xbe\0\x02 and the rest"[..])] {
        fs::write(dir.path(name), bytes).expect("write");
        dm!("create", dir.path(&format!("{name}.map")), "--image", dir.path(name)).exits(0);
    }
}
