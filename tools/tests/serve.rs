//! `dirtymap serve`: whatever clients write is dirty before it is in the image, however the server ends.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::serving::{DIRTY, Server, dirty};
use common::{Dir, GRANULE, MIB, areas, have, pattern, skipped, untouched};
use dirtymap_nbd::client::{Client, ConnectOptions};
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const SIZE: u64 = 8 * MIB;

/// An image with a map that is all clean.
fn tracked(dir: &Dir) -> (PathBuf, PathBuf) {
    let (image, map) = (dir.image("disk.raw", SIZE), dir.path("disk.map"));
    dm!("create", map, "--image", image).exits(0);
    dm!("reset", map, "--all").exits(0);
    (image, map)
}

#[test]
fn what_clients_write_is_dirty_and_nothing_else() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    let mut expected = fs::read(&image).expect("read");
    let server = Server::start(&dir, &[]);
    let mut client = server.client();
    client.read(0, SIZE as u32, 0).expect("read");
    client.flush().expect("flush");
    client.cache(0, SIZE).expect("cache");
    assert_eq!(dirty(&mut client), []);
    let data = pattern(1000, 5);
    client.write(MIB + 5, &data, 0).expect("write");
    client.trim(2 * MIB, GRANULE, 0).expect("trim");
    client.write_zeroes(3 * MIB, 1, 0).expect("zeroes");
    let ranges = [MIB..MIB + GRANULE, 2 * MIB..2 * MIB + GRANULE, 3 * MIB..3 * MIB + GRANULE];
    assert_eq!(dirty(&mut client), ranges);
    // Others look at the map, and set in it, meanwhile.
    assert_eq!(areas(&map), ranges);
    dm!("set", map, "4M", "1").exits(0);
    assert_eq!(dirty(&mut client).len(), 4);
    drop(client);
    let ran = server.stop().exits(0);
    assert!(ran.out.starts_with("stopped; now "), "{ran:?}");
    expected[MIB as usize + 5..][..1000].copy_from_slice(&data);
    expected[2 * MIB as usize..][..GRANULE as usize]
        .copy_from_slice(&fs::read(&image).expect("read")[2 * MIB as usize..][..GRANULE as usize]);
    expected[3 * MIB as usize] = 0;
    assert!(fs::read(&image).expect("read") == expected);
    assert_eq!(areas(&map).len(), 4);
    dm!("check", map).exits(0);
    // Also for who compares: nothing else has written to the image.
    let ran = dm!("info", map, "--image", image).exits(0);
    let words: Vec<&str> = ran.out.split_whitespace().collect();
    assert!(words.join(" ").contains("was not written since without the map"), "{ran:?}");
}

#[test]
fn a_kill_loses_nothing_that_was_written() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    let before = fs::read(&image).expect("read");
    for round in 0..3u64 {
        let mut server = Server::start(&dir, &[]);
        let mut client = server.client();
        for i in 0..40 {
            client.write((round * 40 + i) * 60_000, &pattern(700, i), 0).expect("write");
        }
        // In the middle of requests that nobody waits for.
        for i in 0..40 {
            let flags = if client.mode() == dirtymap_nbd::codec::Mode::Extended { 1 << 5 } else { 0 };
            client.submit(1, flags, i * 100_000, 700, &pattern(700, i)).expect("submit");
        }
        server.signal(Signal::KILL);
        server.child.wait().expect("wait");
        let (after, dirty) = (fs::read(&image).expect("read"), areas(&map));
        let changed = (0..SIZE).step_by(GRANULE as usize).filter(|at| {
            let range = *at as usize..(at + GRANULE) as usize;
            before[range.clone()] != after[range]
        });
        for at in changed {
            assert!(dirty.iter().any(|area| area.contains(&at)), "{at} is changed and not dirty");
        }
        let _ = fs::remove_file(&server.socket);
    }
    // The next one goes on.
    let server = Server::start(&dir, &[]);
    server.client().write(0, b"x", 0).expect("write");
    server.stop().exits(0);
    dm!("check", map).exits(0);
}

#[test]
fn a_map_is_made_where_there_is_none() {
    let dir = Dir::new();
    dir.image("disk.raw", SIZE);
    let server = Server::start(&dir, &["--create", "--name", "disk one"]);
    let uri = format!("nbd+unix:///disk%20one?socket={}", server.socket.display());
    let client = Client::connect(&uri.parse().expect("a URI"), &ConnectOptions::default()).expect("connect");
    assert_eq!(client.info().name.as_deref(), Some("disk one"));
    drop(client);
    assert_eq!(dirty(&mut server.client()), [0..SIZE]);
    server.stop().exits(0);
    // Another time it is the map that is there.
    dm!("reset", dir.path("disk.map"), "--all").exits(0);
    let server = Server::start(&dir, &["--create"]);
    assert_eq!(dirty(&mut server.client()), []);
    server.stop().exits(0);
}

#[test]
fn read_only_changes_nothing() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    dm!("set", map, "0", "1").exits(0);
    untouched(&map, || {
        untouched(&image, || {
            let server = Server::start(&dir, &["--read-only"]);
            let mut client = server.client();
            assert!(client.write(0, b"x", 0).is_err() && client.trim(0, 4096, 0).is_err());
            assert_eq!(dirty(&mut client), [0..GRANULE]);
            drop(client);
            server.stop().exits(0);
        });
    });
}

#[test]
fn a_command_is_run_with_the_uri() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    let out = dir.path("out");
    let run = |command: &str| dm!("serve", image, "--map", map, "--name", "a b", "--run", command);
    run(&format!("echo \"$uri\" > {}", out.display())).exits(0);
    let uri = fs::read_to_string(&out).expect("read");
    assert!(uri.starts_with("nbd+unix:///a%20b?socket=/"), "{uri}");
    run("exit 3").exits(8).says("command");
    // What the command says is no JSON.
    let json = dm!("serve", image, "--map", map, "--run", "echo hi", "--output", "json").exits(0).says("hi");
    assert_eq!(json.json()["read_only"], false);
    // Afterwards the map is closed all the same.
    dm!("check", map).exits(0);
}

#[test]
fn what_makes_no_sense_is_refused_and_nothing_is_touched() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    let other = dir.image("other.raw", 2 * SIZE);
    untouched(&image, || {
        dm!("serve", image, "--map", map).exits(16);
        dm!("serve", image, "--map", map, "--run", "true", "--threads", "0").exits(16);
        dm!("serve", image, "--map", map, "--run", "true", "--read-only", "--create").exits(16);
        untouched(&map, || {
            dm!("serve", other, "--map", map, "--run", "true").exits(8);
            dm!("serve", image, "--map", dir.path("none"), "--run", "true").exits(8);
            dm!("serve", image, "--map", image, "--run", "true").exits(8);
        });
        dm!("serve", image, "--map", map, "--listen", "0.0.0.0:0").exits(8).says("--allow-plain-tcp");
    });
}

#[test]
fn qemu_sees_what_is_dirty() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    let server = Server::start(&dir, &[]);
    let said = |command: &mut Command| {
        let output = command.output().expect("run");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    said(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 7 1M 64k", "-c", "discard 2M 64k", &server.uri()]));
    let options = format!("driver=nbd,server.type=unix,server.path={},x-dirty-bitmap={DIRTY}", server.socket.display());
    let shown = said(Command::new("qemu-img").args(["map", "--output=json", "--image-opts", &options]));
    // With x-dirty-bitmap, what is dirty is shown as what has no data.
    let shown: Vec<&str> = shown.lines().filter(|line| line.contains("\"data\": false")).collect();
    assert!(shown.len() == 2 && shown[0].contains("\"start\": 1048576, \"length\": 65536"), "{shown:?}");
    server.stop().exits(0);
    assert_eq!(areas(&map), [MIB..MIB + GRANULE, 2 * MIB..2 * MIB + GRANULE]);
    assert_eq!(fs::read(image).expect("read")[MIB as usize..][..GRANULE as usize], [7; GRANULE as usize]);
}

/// What is not there is no hole, and a map is not closed for an image that is another one by now.
#[test]
fn an_image_that_is_cut_off_meanwhile_is_no_longer_read_nor_recorded() {
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    let server = Server::start(&dir, &[]);
    let mut client = server.client();
    let end = SIZE - MIB;
    client.read(end, MIB as u32, 0).expect("read");
    fs::File::options().write(true).open(&image).expect("open").set_len(SIZE / 2).expect("cut");
    client.read(end, MIB as u32, 0).expect_err("there is nothing");
    client.read(0, MIB as u32, 0).expect("read");
    drop(client);
    server.stop().exits(8).says("its size was changed");
    fs::File::options().write(true).open(&image).expect("open").set_len(SIZE).expect("grow");
    // It is as long as it was, and not what it was.
    dm!("info", map, "--image", image).exits(1);
    dm!("serve", image, "--map", map, "--run", "true").exits(0).says("everything counts as dirty");
    assert_eq!(areas(&map), [0..SIZE]);
}

/// Odd requests, at the odd end of an image too.
#[test]
fn past_the_page_cache_everything_is_as_it_would_be() {
    let dir = Dir::new();
    let (image, map) = (dir.image("disk.raw", MIB + 1000), dir.path("disk.map"));
    if let Err(e) = dirtymap_nbd::FileBackend::open(&image, true).expect("open").directly() {
        return skipped(&format!("the file system of {} has no O_DIRECT: {e}", image.display()));
    }
    dm!("create", map, "--image", image).exits(0);
    dm!("reset", map, "--all").exits(0);
    let mut expected = fs::read(&image).expect("read");
    let server = Server::start(&dir, &["--direct"]);
    let direct = |fd: &fs::DirEntry| {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{}", server.child.id(), fd.file_name().display()));
        let flags =
            info.expect("read").lines().find_map(|line| line.strip_prefix("flags:").map(|f| f.trim().to_string()));
        u32::from_str_radix(&flags.expect("its flags"), 8).expect("a number") & rustix::fs::OFlags::DIRECT.bits() != 0
    };
    let fds = fs::read_dir(format!("/proc/{}/fd", server.child.id())).expect("list").map(|fd| fd.expect("an entry"));
    let open: Vec<_> = fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == image)).collect();
    assert_eq!(open.iter().filter(|fd| direct(fd)).count(), 1);
    let mut client = server.client();
    for (at, length) in [(5, 700), (4096, 8192), (MIB - 3, 1003), (MIB + 990, 10), (200_000, 400_000)] {
        let data = pattern(length, at);
        client.write(at, &data, 0).expect("write");
        expected[at as usize..(at + length) as usize].copy_from_slice(&data);
    }
    client.write_zeroes(300_001, 77_777, 0).expect("zeroes");
    expected[300_001..377_778].fill(0);
    assert!(client.read(0, expected.len() as u32, 0).expect("read") == expected);
    assert!(dirty(&mut client).iter().any(|range| range.contains(&(MIB + 999))));
    drop(client);
    server.stop().exits(0);
    assert!(fs::read(&image).expect("read") == expected);
    dm!("check", map).exits(0);
}

/// Reads that nobody takes the answers of: each connection holds what its limit says, and no more.
#[test]
fn memory_goes_with_connections_and_not_with_their_requests() {
    const LONGEST: u64 = 32 * MIB;
    const CONNECTIONS: usize = 3;
    let dir = Dir::new();
    // No holes, which would be sent as such.
    fs::write(dir.path("disk.raw"), vec![7; LONGEST as usize]).expect("write");
    let server = Server::start(&dir, &["--create", "--threads", "16"]);
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).expect("read");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its most").trim();
        line.trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    };
    let before = resident();
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| server.client()).collect();
    for client in &mut clients {
        for _ in 0..12 {
            client.submit(0, 0, 0, LONGEST, &[]).expect("submit");
        }
    }
    // When one of them is answered, all have been begun that could be.
    for client in &mut clients {
        assert_eq!(client.receive().expect("an answer").done.expect("read").len() as u64, LONGEST);
    }
    let most = resident() - before;
    let bound = CONNECTIONS as u64 * 64 * MIB + 16 * MIB;
    assert!((LONGEST..=bound).contains(&most), "{most} bytes for {CONNECTIONS} connections");
    for mut client in clients {
        for _ in 1..12 {
            client.receive().expect("an answer").done.expect("read");
        }
    }
    server.stop().exits(0);
}
