//! `serve` with the NBD clients of a distribution. What is not installed is skipped, and says so.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::serving::Server;
use common::{Dir, GRANULE, MIB, areas, have, skipped};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const SIZE: u64 = 8 * MIB;

/// An image with a map that is all clean, but for what was written since `monday`: the second granule.
fn tracked(dir: &Dir) -> (PathBuf, PathBuf) {
    let (image, map) = (dir.image("disk.raw", SIZE), dir.path("disk.map"));
    dm!("create", map, "--image", image).exits(0);
    dm!("reset", map, "--all").exits(0);
    for name in ["monday", "tuesday"] {
        dm!("checkpoint", "freeze", map, "--name", name).exits(0);
        dm!("checkpoint", "commit", map, "--keep").exits(0);
        if name == "monday" {
            dm!("set", map, GRANULE.to_string(), "1").exits(0);
        }
    }
    (image, map)
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("run");
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn nbdinfo_lists_disks_and_maps_what_is_dirty_now_and_since_a_name() {
    if !have("nbdinfo") {
        return;
    }
    let dir = Dir::new();
    let (_, map) = tracked(&dir);
    let server = Server::start(&dir, &["--name", "root"]);
    server.client().write(4 * MIB, b"x", 0).expect("write");
    let list = said("nbdinfo", &["--list", &server.uri()]);
    for context in ["base:allocation", "qemu:dirty-bitmap:dirty", "qemu:dirty-bitmap:since:monday", "since:tuesday"] {
        assert!(list.contains(context), "{context} is not in {list}");
    }
    assert!(list.contains("export=\"root\"") && list.contains("can_multi_conn: true"), "{list}");
    let dirty = |context: &str| -> Vec<(u64, u64)> {
        let shown = said("nbdinfo", &[&format!("--map={context}"), &server.uri_of("root")]);
        let lines = shown.lines().filter(|line| line.contains("dirty"));
        let number = |word: Option<&str>| word.and_then(|word| word.parse().ok()).expect("a number");
        lines.map(|line| line.split_whitespace()).map(|mut w| (number(w.next()), number(w.next()))).collect()
    };
    assert_eq!(dirty("qemu:dirty-bitmap:dirty"), [(4 * MIB, GRANULE)]);
    assert_eq!(dirty("qemu:dirty-bitmap:since:tuesday"), [(4 * MIB, GRANULE)]);
    assert_eq!(dirty("qemu:dirty-bitmap:since:monday"), [(GRANULE, GRANULE), (4 * MIB, GRANULE)]);
    let totals = said("nbdinfo", &["--map=qemu:dirty-bitmap:dirty", "--totals", &server.uri_of("root")]);
    assert!(totals.lines().any(|line| line.contains("65536") && line.contains("dirty")), "{totals}");
    server.stop().exits(0);
    assert_eq!(areas(&map), [4 * MIB..4 * MIB + GRANULE]);
}

#[test]
fn nbdcopy_copies_both_ways_and_what_it_writes_is_dirty() {
    if !have("nbdcopy") {
        return;
    }
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    let server = Server::start(&dir, &[]);
    let (copy, new) = (dir.path("copy"), dir.path("new"));
    said("nbdcopy", &[&server.uri(), copy.to_str().expect("text")]);
    assert!(fs::read(&copy).expect("read") == fs::read(&image).expect("read"));
    assert_eq!(areas(&map), []);
    // The first half is other data, the second a hole.
    fs::write(&new, common::pattern(SIZE / 2, 9)).expect("write");
    fs::File::options().write(true).open(&new).and_then(|file| file.set_len(SIZE)).expect("grow");
    said("nbdcopy", &["--flush", new.to_str().expect("text"), &server.uri()]);
    server.stop().exits(0);
    assert!(fs::read(&new).expect("read") == fs::read(&image).expect("read"));
    assert_eq!(areas(&map), [0..SIZE]);
}

#[test]
fn fio_writes_in_many_threads_and_verifies() {
    let engine = Command::new("fio").arg("--enghelp").output();
    if !engine.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("nbd")) {
        return skipped("fio with its nbd engine is not installed");
    }
    let dir = Dir::new();
    let (image, map) = tracked(&dir);
    let before = fs::read(&image).expect("read");
    let server = Server::start(&dir, &[]);
    let uri = format!("--uri={}", server.uri());
    let job = ["--name=verified", "--ioengine=nbd", &uri, "--rw=randwrite", "--bs=4k-20k", "--size=7m", "--iodepth=16"];
    let more = ["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", "--randseed=7"];
    said("fio", &[&job[..], &more[..]].concat());
    server.stop().exits(0);
    let (after, dirty) = (fs::read(&image).expect("read"), areas(&map));
    let of = |bytes: &[u8], at: u64| bytes[at as usize..][..GRANULE as usize].to_vec();
    let granules = (0..SIZE).step_by(GRANULE as usize);
    let changed: Vec<u64> = granules.filter(|at| of(&before, *at) != of(&after, *at)).collect();
    assert!(changed.len() > 100, "{changed:?}");
    assert!(changed.iter().all(|at| dirty.iter().any(|area| area.contains(at))), "{changed:?} {dirty:?}");
}

#[test]
fn libnbd_asks_for_several_contexts_at_once() {
    if !Command::new("python3").args(["-c", "import nbd; nbd.NBD"]).output().is_ok_and(|output| output.status.success())
    {
        return skipped("python3-libnbd is not installed");
    }
    let dir = Dir::new();
    tracked(&dir);
    let server = Server::start(&dir, &[]);
    let script = r#"
import nbd, sys
h = nbd.NBD()
names = ["base:allocation", "qemu:dirty-bitmap:dirty", "qemu:dirty-bitmap:since:monday"]
for name in names: h.add_meta_context(name)
h.connect_uri(sys.argv[1])
h.pwrite(b"x" * 512, 1 << 20, nbd.CMD_FLAG_FUA)
assert h.pread(512, 1 << 20) == b"x" * 512
found = {}
def extents(name, offset, entries, error):
    at = offset
    for length, flags in zip(entries[::2], entries[1::2]):
        if flags == 1: found.setdefault(name, []).append((at, length))
        at += length
h.block_status(h.get_size(), 0, extents)
assert all(h.can_meta_context(name) for name in names)
print(found.get(names[1]), found.get(names[2]))
h.shutdown()
"#;
    let shown = said("python3", &["-c", script, &server.uri()]);
    assert_eq!(shown.trim(), "[(1048576, 65536)] [(65536, 65536), (1048576, 65536)]");
    server.stop().exits(0);
}
