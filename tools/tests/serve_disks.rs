//! Several disks of one server, and the contexts that a client of one is told of.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::serving::{DIRTY, Server, dirty, dirty_by};
use common::{Dir, GRANULE, MIB, areas};
use dirtymap::info::{FileState, inspect};
use std::fs;
use std::ops::Range;
use std::path::Path;

const SIZE: u64 = 8 * MIB;

#[test]
fn several_disks_are_exports_of_one_server_each_with_its_map() {
    let dir = Dir::new();
    dir.image("disk.raw", SIZE);
    // A name of a file may have what separates the parts.
    dir.image("b,map=x=y", 2 * MIB);
    let second = format!("two={},map={}", dir.path("b,map=x=y").display(), dir.path("b.map").display());
    let server = Server::start(&dir, &["--create", "--name", "one", "--disk", &second]);
    for map in ["disk.map", "b.map"] {
        dm!("reset", dir.path(map), "--all").exits(0);
    }
    server.client_of("one", &[]).expect("connect").write(MIB, b"x", 0).expect("write");
    server.client_of("two", &[]).expect("connect").write(0, b"y", 0).expect("write");
    // The first one is the default.
    assert_eq!(dirty(&mut server.client()), [MIB..MIB + GRANULE]);
    assert_eq!(dirty(&mut server.client_of("two", &[DIRTY]).expect("connect")), [0..GRANULE]);
    assert!(server.client_of("three", &[]).is_err());
    let ran = server.stop().exits(0);
    assert!(ran.out.contains("128 KiB"), "{ran:?}");
    assert_eq!((areas(&dir.path("disk.map")), areas(&dir.path("b.map"))), (vec![MIB..MIB + GRANULE], vec![0..GRANULE]));
    assert_eq!(fs::read(dir.path("b,map=x=y")).expect("read")[0], b'y');
}

#[test]
fn a_disk_that_does_not_fit_keeps_all_from_being_served_and_touched() {
    let dir = Dir::new();
    let (image, map) = (dir.image("disk.raw", SIZE), dir.path("disk.map"));
    dm!("create", map, "--image", image).exits(0);
    let other = dir.image("other.raw", 2 * SIZE);
    let disk = |name: &str, image: &Path, map: &Path| format!("{name}={},map={}", image.display(), map.display());
    let serve = |disks: &[String]| {
        let disks = disks.iter().flat_map(|disk| ["--disk", disk]);
        common::run(["serve", "--run", "true"].into_iter().chain(disks))
    };
    serve(&[disk("a", &image, &map), disk("b", &other, &map)]).exits(8);
    serve(&[disk("a", &image, &map), disk("a", &other, &dir.path("other.map"))]).exits(16).says("twice");
    serve(&[disk("a", &image, &map), disk("b", &image, &map)]).exits(8).says("different files");
    for wrong in ["a", "a=b", "a=b,map=", "=,map=x", "a=,map=b"] {
        serve(&[wrong.into()]).exits(16).says("NAME=IMAGE,map=FILE");
    }
    dm!("check", map).exits(0);
    serve(&[disk("a", &image, &map)]).exits(0);
}

/// Left open, a map would not know of what is written before it is opened again.
#[test]
fn a_server_that_fails_at_its_start_closes_the_maps_that_it_has_opened() {
    let dir = Dir::new();
    let (image, map) = (dir.image("disk.raw", SIZE), dir.path("disk.map"));
    dm!("create", map, "--image", image).exits(0);
    dm!("reset", map, "--all").exits(0);
    let serve = |more: &[&str]| {
        let words = ["serve", image.to_str().expect("text"), "--map", map.to_str().expect("text"), "--run", "true"];
        common::run(words.into_iter().chain(more.iter().copied()))
    };
    let state = || inspect(&map).expect("inspect").state;
    let [control, nowhere] = ["control", "nowhere"].map(|name| dir.path(name).display().to_string());
    serve(&["--control", &control, "--scratch", &nowhere]).exits(8).says("no such folder");
    // What is told of failed syncs cannot be read.
    let failed = dir.path(&format!("dirtymap-{}.failed", inspect(&map).expect("inspect").uuid));
    fs::create_dir(&failed).expect("make");
    serve(&[]).exits(8);
    assert_eq!(state(), FileState::Clean);
    fs::remove_dir(&failed).expect("remove");
    // A second disk that is not there.
    serve(&["--disk", &format!("b={},map={}", dir.path("b").display(), dir.path("b.map").display())]).exits(8);
    assert_eq!(state(), FileState::Clean);
    serve(&[]).exits(0);
}

/// `since:NAME` is what was written after the name was kept, whatever is frozen, kept and dropped meanwhile.
#[test]
fn each_kept_name_is_a_context() {
    let dir = Dir::new();
    let (image, map) = (dir.image("disk.raw", SIZE), dir.path("disk.map"));
    dm!("create", map, "--image", image).exits(0);
    let keep = |name: &str| {
        dm!("checkpoint", "freeze", map, "--name", name).exits(0);
        dm!("checkpoint", "commit", map, "--keep").exits(0);
    };
    keep("monday");
    let server = Server::start(&dir, &[]);
    let granule = |n: u64| n * MIB..n * MIB + GRANULE;
    server.client().write(MIB, b"x", 0).expect("write");
    keep("a b");
    let contexts = ["qemu:dirty-bitmap:since:monday", "qemu:dirty-bitmap:since:a b", DIRTY];
    let mut client = server.client_of("", &contexts).expect("connect");
    let expect = |client: &mut _, expected: [&[Range<u64>]; 3]| {
        for (context, expected) in [DIRTY, contexts[0], contexts[1]].into_iter().zip(expected) {
            assert_eq!(dirty_by(client, context).as_deref(), Some(expected), "{context}");
        }
    };
    expect(&mut client, [&[], &[granule(1)], &[]]);
    client.write(2 * MIB, b"x", 0).expect("write");
    expect(&mut client, [&[granule(2)], &[granule(1), granule(2)], &[granule(2)]]);
    // What is frozen still counts, and what is written beside it.
    dm!("checkpoint", "freeze", map, "--name", "tuesday").exits(0);
    client.write(3 * MIB, b"x", 0).expect("write");
    expect(&mut client, [&[granule(2), granule(3)], &[granule(1), granule(2), granule(3)], &[granule(2), granule(3)]]);
    dm!("checkpoint", "commit", map, "--keep").exits(0);
    expect(&mut client, [&[granule(3)], &[granule(1), granule(2), granule(3)], &[granule(2), granule(3)]]);
    // A name that is dropped has no answer any more; others have, and a new client is not told of it.
    dm!("checkpoint", "drop", map, "--name", "a b").exits(0);
    client.block_status(0, SIZE, 0).expect_err("one of the contexts is gone");
    let mut other = server.client_of("", &contexts).expect("connect");
    assert_eq!(dirty_by(&mut other, contexts[1]), None);
    assert_eq!(dirty_by(&mut other, contexts[0]), Some(vec![granule(1), granule(2), granule(3)]));
    drop((client, other));
    server.stop().exits(0);
}
