//! Bitmaps go to QEMU and come from it without a bit changed: with the qemu-img, qemu-io and qemu-storage-daemon of
//! the system, hashes are equal on both sides. What QEMU did not save, or what is damaged, is refused.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, KIB, MIB, areas, damage_page, patch, skipped, untouched};
use dirtymap::{Bitmap, DirtyMap, Options};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

const GIB: u64 = 1 << 30;
/// Sizes and granularities that make bitmaps of one bit, of a word and a bit, of a part of a sector, of several
/// clusters, and with a partial granule at the end.
const SHAPES: [(u64, u32); 12] = [
    (512, 9),
    (MIB, 9),
    (65 * 512, 9),
    (GIB + 512, 9),
    (10 * MIB + 512, 12),
    (300 * MIB, 12),
    (16 * MIB, 16),
    (16 * MIB + 3584, 16),
    (100 * MIB + 512, 20),
    (512, 31),
    (2 * GIB, 31),
    (5 * GIB + 1024, 31),
];

/// Whether QEMU's tools are here; says so if not.
fn qemu() -> bool {
    let there = ["qemu-img", "qemu-io", "qemu-storage-daemon"]
        .iter()
        .all(|program| common::system(program, &[OsStr::new("--version")]));
    if !there {
        skipped("QEMU's side: needs qemu-img, qemu-io and qemu-storage-daemon");
    }
    there
}

/// Runs one of QEMU's tools; what it printed.
#[track_caller]
fn tool<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().expect("run it");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program}: {}\n{out}\n{err}", output.status);
    out.into()
}

macro_rules! qemu_img {
    ($($arg:expr),* $(,)?) => {
        tool("qemu-img", [$(OsStr::new(&$arg).to_os_string()),*])
    };
}

/// A qcow2 image with one bitmap `b`, and what QEMU says of it.
#[track_caller]
fn image(dir: &Dir, name: &str, size: u64, granularity: u32, options: &str) -> PathBuf {
    let path = dir.path(name);
    let options = if options.is_empty() { "preallocation=off" } else { options };
    qemu_img!("create", "-q", "-f", "qcow2", "-o", options, path, size.to_string());
    qemu_img!("bitmap", "--add", "-g", (1u64 << granularity).to_string(), path, "b");
    path
}

/// Lets QEMU write zeros, which its bitmaps track as any write.
#[track_caller]
fn write_zeros(image: &Path, ranges: &[Range<u64>]) {
    // It writes less than 2 GiB at once.
    let pieces = ranges.iter().flat_map(|r| r.clone().step_by(GIB as usize).map(|at| (at, (r.end - at).min(GIB))));
    let commands = pieces.flat_map(|(at, length)| ["-c".to_string(), format!("write -z {at} {length}")]);
    let args = ["-f".to_string(), "qcow2".into()].into_iter().chain(commands);
    tool("qemu-io", args.map(Into::into).chain([image.as_os_str().to_os_string()]));
}

/// A qemu-storage-daemon that has an image open.
struct Daemon {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Daemon {
    fn open(image: &Path) -> Daemon {
        let mut child = Command::new("qemu-storage-daemon")
            .args(["--chardev", "stdio,id=m", "--monitor", "m", "--blockdev"])
            .arg(json!({ "driver": "file", "node-name": "file", "filename": image }).to_string())
            .args(["--blockdev", "driver=qcow2,node-name=disk,file=file"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run qemu-storage-daemon");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut daemon = Daemon { child, answers };
        daemon.ask("qmp_capabilities", json!({}));
        daemon
    }

    /// Runs a QMP command.
    #[track_caller]
    fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.child.stdin.as_mut().expect("piped").write_all(line.as_bytes()).expect("send");
        loop {
            let mut answer = String::new();
            assert_ne!(self.answers.read_line(&mut answer).expect("receive"), 0, "{command}: the daemon ended");
            let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(answer) = answer.get("return") {
                return answer.clone();
            }
        }
    }

    fn quit(mut self) {
        self.ask("quit", json!({}));
        self.child.wait().expect("wait");
    }

    fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The hash that QEMU has of a bitmap.
#[track_caller]
fn qemu_hash(image: &Path, bitmap: &str) -> String {
    let mut daemon = Daemon::open(image);
    let answer = daemon.ask("x-debug-block-dirty-bitmap-sha256", json!({ "node": "disk", "name": bitmap }));
    daemon.quit();
    answer["sha256"].as_str().expect("a hash").to_string()
}

#[track_caller]
fn our_hash(map: &Path) -> String {
    dm!("hash", map, "--output", "json").exits(0).json()["sha256"].as_str().expect("a hash").to_string()
}

/// Ranges of whole sectors of a disk: at its ends, in its middle, long and short.
fn some_writes(size: u64) -> Vec<Range<u64>> {
    let sectors = size / 512;
    let sector = |i: u64| i * 512;
    let mut writes = vec![0..512, size - size % 512 - 512..size - size % 512];
    if sectors > 8 {
        writes.push(sector(sectors / 3)..sector(sectors / 2));
        writes.extend((0..4).map(|i| sector(sectors * (i + 8) / 16)..sector(sectors * (i + 8) / 16 + 1)));
    }
    writes
}

/// A map in memory with these ranges.
fn expected(size: u64, granularity: u32, dirty: &[Range<u64>]) -> Bitmap {
    let mut bitmap = Bitmap::new(size, granularity).expect("possible");
    for range in dirty {
        bitmap.set(range.clone()).expect("inside");
    }
    bitmap
}

#[test]
fn what_qemu_tracked_is_imported_bit_for_bit() {
    if !qemu() {
        return;
    }
    for (size, granularity) in SHAPES {
        let dir = Dir::new();
        let (image, map) = (image(&dir, "disk.qcow2", size, granularity, ""), dir.path("disk.map"));
        for (round, writes) in [some_writes(size), vec![0..size]].into_iter().enumerate() {
            write_zeros(&image, &writes);
            let answer = dm!("import-qcow2", image, "--bitmap", "b", map, "--output", "json").exits(0).json();
            assert_eq!((answer["size"].as_u64(), answer["taken_as_dirty"].is_null()), (Some(size), true));
            let bits = expected(size, granularity, &writes);
            let there: Vec<_> = bits.extents(0..size).expect("areas").collect();
            assert_eq!(areas(&map), there, "{size} bytes, 2^{granularity}, round {round}");
            assert_eq!(our_hash(&map), qemu_hash(&image, "b"), "{size} bytes, 2^{granularity}, round {round}");
            assert_eq!(answer["dirty_bits"], bits.count());
            dm!("check", map).exits(0);
            fs::remove_file(&map).expect("remove the map");
        }
    }
}

/// Makes a map with some dirt, at its ends too.
fn map(dir: &Dir, size: u64, granularity: u32) -> PathBuf {
    let path = dir.path("disk.map");
    let map = Options::new().granularity(granularity).flush_interval(None).create(&path, size).expect("create");
    if size > 0 {
        map.set(0..1).expect("set");
        // At a gibibyte and 512 bytes a bit: more than two clusters of bits.
        map.set(size / 4..size / 4 + (size / 2).min(GIB / 2)).expect("set");
        map.set(size - 1..size).expect("set");
    }
    map.close().expect("close");
    path
}

/// Exports a map and asserts that QEMU finds nothing wrong with the image, and in it the bitmap.
#[track_caller]
fn export(map: &Path, out: &Path, name: &str, size: u64, granularity: u32) {
    let answer = dm!("export-qcow2", map, out, "--bitmap", name, "--output", "json").exits(0).json();
    // QEMU's disks are whole sectors, so what is a part of one is rounded up.
    let rounded = size.next_multiple_of(512);
    assert_eq!(answer["size"], rounded);
    assert_eq!(answer["dirty_bits"], dm!("count", map, "--output", "json").exits(0).json()["dirty_bits"]);
    assert_eq!(answer["out_bytes"], out.metadata().expect("metadata").len());
    let json = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
    let info = json(qemu_img!("info", "--output=json", out));
    assert_eq!(info["virtual-size"], rounded);
    let bitmaps = &info["format-specific"]["data"]["bitmaps"];
    assert_eq!(*bitmaps, json!([{ "name": name, "granularity": 1u64 << granularity, "flags": [] }]));
    // That it exits 0 has been asserted; anything that it finds would be a field.
    let check = json(qemu_img!("check", "--output=json", out));
    assert_eq!(check["check-errors"], 0);
    assert!(check.get("leaks").is_none() && check.get("corruptions").is_none(), "{check}");
}

#[test]
fn what_is_exported_qemu_takes_over_bit_for_bit() {
    if !qemu() {
        return;
    }
    const NAME: &str = "Montag ä";
    let odd = [(1, 9), (511, 12), (MIB + 1, 9), (MIB - 1, 16), (GIB - 100, 16)];
    for (size, granularity) in SHAPES.into_iter().chain(odd) {
        let dir = Dir::new();
        let (map, out) = (map(&dir, size, granularity), dir.path("out.qcow2"));
        export(&map, &out, NAME, size, granularity);
        assert_eq!(qemu_hash(&out, NAME), our_hash(&map), "{size} bytes, 2^{granularity}");
        let disk = image(&dir, "disk.qcow2", size, granularity, "");
        qemu_img!("bitmap", "--merge", NAME, "-b", out, "-F", "qcow2", disk, "b");
        assert_eq!(qemu_hash(&disk, "b"), our_hash(&map), "{size} bytes, 2^{granularity}, merged");
        qemu_img!("check", "-q", disk);
        let back = dir.path("back.map");
        dm!("import-qcow2", disk, "--bitmap", "b", back).exits(0);
        assert_eq!(our_hash(&back), our_hash(&map));
    }
}

#[test]
fn the_largest_that_qemu_takes_it_takes() {
    if !qemu() {
        return;
    }
    // By bits with the finest granularity, by size with larger clusters, and by size alone.
    for (size, granularity) in [(1 << 41, 9), (1 << 50, 18), (1 << 57, 25), (1 << 61, 31)] {
        let dir = Dir::new();
        let (map, out) = (map(&dir, size, granularity), dir.path("out.qcow2"));
        export(&map, &out, "b", size, granularity);
        let back = dir.path("back.map");
        dm!("import-qcow2", out, "--disabled", "take", "--bitmap", "b", back).exits(0);
        assert_eq!(areas(&back), areas(&map));
    }
}

#[test]
fn a_running_qemu_takes_a_bitmap_for_a_raw_disk() {
    if !qemu() {
        return;
    }
    for size in [16 * MIB, MIB + 1] {
        let dir = Dir::new();
        let (raw, map, out) = (dir.image("disk.raw", size), map(&dir, size, 12), dir.path("out.qcow2"));
        dm!("export-qcow2", map, out, "--bitmap", "b").exits(0);
        let mut daemon = Daemon::open(&out);
        let node = json!({ "driver": "file", "node-name": "raw-file", "filename": raw });
        daemon.ask("blockdev-add", node);
        daemon.ask("blockdev-add", json!({ "driver": "raw", "node-name": "raw", "file": "raw-file" }));
        daemon.ask("block-dirty-bitmap-add", json!({ "node": "raw", "name": "dirty", "granularity": 4096 }));
        let bitmaps = json!([{ "node": "disk", "name": "b" }]);
        daemon.ask("block-dirty-bitmap-merge", json!({ "node": "raw", "target": "dirty", "bitmaps": bitmaps }));
        let hash = daemon.ask("x-debug-block-dirty-bitmap-sha256", json!({ "node": "raw", "name": "dirty" }));
        assert_eq!(hash["sha256"], our_hash(&map), "{size} bytes");
    }
}

/// The commands that docs/guide.md shows, as a script for `sh`.
fn documented() -> String {
    const DOCS: &str = include_str!("../../docs/guide.md");
    let blocks = DOCS.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap_or_default());
    let file_systems = common::system("mke2fs", &[OsStr::new("-V")]);
    let runs = |block: &&str| {
        let runs = file_systems || !block.contains("mkfs.ext4");
        if !runs {
            skipped("a file system in a set, as the guide has it: no mkfs.ext4");
        }
        runs
    };
    blocks.filter(runs).collect()
}

#[test]
fn the_commands_of_the_documentation_work() {
    if !qemu() {
        return;
    }
    let dir = Dir::new();
    let ours = Path::new(env!("CARGO_BIN_EXE_dirtymap")).parent().expect("a directory");
    let path = std::env::join_paths(
        [ours.into(), "/usr/sbin".into()]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let script = documented();
    assert!(script.contains("import-qcow2") && script.contains("export-qcow2"));
    let mut sh = Command::new("sh");
    sh.args(["-euxc", &script]).current_dir(dir.path("")).env("PATH", path.expect("a path")).stdin(Stdio::null());
    common::Ran::from(sh.output().expect("run sh")).exits(0);
    assert_eq!(our_hash(&dir.path("qemu.map")), qemu_hash(&dir.path("other.qcow2"), "tuesday"));
}

#[test]
fn images_of_every_kind_give_their_bitmap() {
    if !qemu() {
        return;
    }
    let dir = Dir::new();
    let data = format!("data_file={},data_file_raw=on", dir.path("data.raw").display());
    let backing = image(&dir, "backing.qcow2", 16 * MIB, 16, "");
    let backing = format!("backing_file={},backing_fmt=qcow2", backing.display());
    let kinds = [
        "cluster_size=512",
        "cluster_size=2M",
        "extended_l2=on",
        "compression_type=zstd",
        "lazy_refcounts=on",
        "refcount_bits=64",
        "refcount_bits=1",
        &data,
        &backing,
    ];
    for (n, kind) in kinds.into_iter().enumerate() {
        let (disk, map) = (image(&dir, &format!("{n}.qcow2"), 16 * MIB, 9, kind), dir.path(&format!("{n}.map")));
        write_zeros(&disk, &[5 * MIB..9 * MIB, 512..1024]);
        dm!("import-qcow2", disk, "--bitmap", "b", map).exits(0);
        assert_eq!(areas(&map), [512..1024, 5 * MIB..9 * MIB], "{kind}");
        assert_eq!(our_hash(&map), qemu_hash(&disk, "b"), "{kind}");
    }
    let old = dir.path("old.qcow2");
    qemu_img!("create", "-q", "-f", "qcow2", "-o", "compat=0.10", old, "1M");
    untouched(&old, || dm!("import-qcow2", old, "--bitmap", "b", dir.path("m")).exits(8).says("version 2"));
    untouched(&old, || {
        dm!("import-qcow2", dir.path("data.raw"), "--bitmap", "b", dir.path("m")).exits(8).says("not a qcow2")
    });
}

#[test]
fn of_several_bitmaps_one_is_taken_and_their_names_are_listed() {
    if !qemu() {
        return;
    }
    let dir = Dir::new();
    let (disk, map) = (image(&dir, "disk.qcow2", 16 * MIB, 16, ""), dir.path("m"));
    write_zeros(&disk, &[0..MIB]);
    qemu_img!("bitmap", "--add", "--disable", "-g", "4K", disk, "disabled");
    qemu_img!("bitmap", "--merge", "b", disk, "disabled");
    write_zeros(&disk, &[8 * MIB..9 * MIB]);
    untouched(&disk, || {
        dm!("import-qcow2", disk, map).exits(16).says("\"b\", \"disabled\" (disabled)").says("--bitmap")
    });
    let ran = untouched(&disk, || dm!("import-qcow2", disk, "--bitmap", "c", map, "--output", "json").exits(8));
    assert_eq!(ran.says("\"b\", \"disabled\" (disabled)").json()["error"]["kind"], "no-such-bitmap");
    dm!("import-qcow2", disk, "--bitmap", "disabled", map, "--disabled", "take").exits(0);
    assert!(dm!("check", map).exits(0).out.contains("what to do: take a full backup"));
    assert_eq!(areas(&map), [0..MIB]);
    // It does not write over what is there.
    untouched(&map, || dm!("import-qcow2", disk, "--bitmap", "b", map).exits(8).says("exists already"));
    untouched(&map, || dm!("export-qcow2", map, disk, "--bitmap", "b").exits(8).says("exists already"));
    let none = dir.path("none.qcow2");
    qemu_img!("create", "-q", "-f", "qcow2", none, "1M");
    untouched(&none, || dm!("import-qcow2", none, "--bitmap", "b", dir.path("n")).exits(8).says("it has none"));
}

#[test]
fn a_bitmap_that_was_not_saved_is_refused_or_all_dirty() {
    if !qemu() {
        return;
    }
    let dir = Dir::new();
    let (disk, map) = (image(&dir, "disk.qcow2", 16 * MIB + 512, 16, ""), dir.path("m"));
    write_zeros(&disk, &[0..MIB]);
    let clean = fs::read(&disk).expect("read");
    let refused = |why: &str| {
        let ran = untouched(&disk, || dm!("import-qcow2", disk, "--bitmap", "b", map, "--output", "json").exits(8));
        assert_eq!(ran.says(why).says("--in-use dirty").json()["error"]["kind"], "in-use");
        let args = ["import-qcow2", "--bitmap", "b", "--in-use", "dirty", "--output", "json"].map(OsStr::new);
        let ran = common::run(args.into_iter().chain([disk.as_os_str(), map.as_os_str()])).exits(0).says(why);
        assert!(ran.json()["taken_as_dirty"].as_str().is_some_and(|text| text.contains(why)));
        assert_eq!(areas(&map), [0..16 * MIB + 512]);
        assert_eq!(verdict(&map), ("superset".into(), NOT_KEPT_UP.into()));
        dm!("import-qcow2", disk, dir.path("n")).exits(16).says("\"b\"").says(why);
        dm!("check", map).exits(0);
        fs::remove_file(&map).expect("remove");
    };
    let daemon = Daemon::open(&disk);
    refused("in use");
    daemon.kill();
    refused("in use");
    // A program that does not know of bitmaps clears the feature bit.
    fs::write(&disk, clean).expect("write");
    dm!("import-qcow2", disk, "--bitmap", "b", map).exits(0);
    fs::remove_file(&map).expect("remove");
    patch(&disk, |bytes| bytes[95] &= !1);
    refused("inconsistent");
}

/// What the guide says of QEMU's bitmap of a raw image, which a qcow2 file that holds only metadata keeps.
#[test]
fn a_bitmap_of_a_raw_image_is_lost_when_qemu_is_killed() {
    if !qemu() {
        return;
    }
    for killed in [false, true] {
        let (dir, written) = (Dir::new(), MIB..MIB + 64 * KIB);
        let (raw, socket, map) = (dir.path("disk.raw"), dir.path("nbd"), dir.path("m"));
        let disk = image(&dir, "meta.qcow2", 16 * MIB, 16, &format!("data_file={},data_file_raw=on", raw.display()));
        let mut daemon = Daemon::open(&disk);
        daemon.ask("nbd-server-start", json!({ "addr": { "type": "unix", "data": { "path": socket } } }));
        let export = json!({ "type": "nbd", "id": "e", "node-name": "disk", "name": "d", "writable": true });
        daemon.ask("block-export-add", export);
        let url = format!("nbd+unix:///d?socket={}", socket.display());
        tool("qemu-io", ["-f", "raw", "-c", "write -P 1 1M 64K", "-c", "flush", &url]);
        if killed {
            daemon.kill()
        } else {
            daemon.quit()
        }
        let bytes = &fs::read(&raw).expect("read")[written.start as usize..written.end as usize];
        assert!(bytes.iter().all(|byte| *byte == 1), "the image has the write");
        assert_eq!(qemu_img!("info", "--output=json", disk).contains("\"in-use\""), killed);
        let mut daemon = Daemon::open(&disk);
        let nodes = daemon.ask("query-named-block-nodes", json!({}));
        let node = nodes.as_array().expect("a list").iter().find(|node| node["node-name"] == "disk").expect("it");
        let bitmap = &node["dirty-bitmaps"][0];
        assert_eq!((bitmap["inconsistent"] == true, bitmap["recording"] == true), (killed, !killed), "{bitmap}");
        assert_eq!(bitmap["count"], if killed { 0 } else { 64 * KIB });
        daemon.quit();
        let import = dm!("import-qcow2", disk, "--bitmap", "b", map);
        if killed {
            import.exits(8).says("in use");
        } else {
            import.exits(0);
            assert_eq!(areas(&map), [written]);
        }
    }
}

/// What `info` says of a map: how far it can be relied upon, and why.
#[track_caller]
fn verdict(map: &Path) -> (String, String) {
    let info = dm!("info", map, "--output", "json").exits(0).json();
    let text = |name: &str| info[name].as_str().unwrap_or_default().to_string();
    (text("verdict"), text("reason"))
}

const NOT_KEPT_UP: &str = "imported from a bitmap that was not kept up";

#[test]
fn a_disabled_bitmap_is_refused_and_no_map_of_it_is_exact() {
    let dir = Dir::new();
    let (map, disk) = (map(&dir, 64 * MIB, 16), dir.path("disk.qcow2"));
    dm!("export-qcow2", map, disk, "--bitmap", "b").exits(0);
    let (take, dirty) = (dir.path("take.map"), dir.path("dirty.map"));
    let ran = untouched(&disk, || dm!("import-qcow2", disk, "--bitmap", "b", take, "--output", "json").exits(8));
    assert_eq!(ran.says("--disabled take").json()["error"]["kind"], "disabled");
    let answer = dm!("import-qcow2", disk, "--bitmap", "b", take, "--disabled", "take", "--output", "json").exits(0);
    assert_eq!((&answer.json()["disabled"], &answer.json()["taken_as_dirty"]), (&json!(true), &Value::Null));
    answer.says("full backup");
    assert_eq!(areas(&take), areas(&map));
    dm!("import-qcow2", disk, "--bitmap", "b", dirty, "--disabled", "dirty").exits(0).says("taken for dirty");
    assert_eq!(areas(&dirty), [0..64 * MIB]);
    for map in [&take, &dirty] {
        assert_eq!(verdict(map), ("superset".into(), NOT_KEPT_UP.into()));
        assert!(dm!("info", map).exits(0).out.contains("may be missing"));
        dm!("set", map, "0", "1").exits(0);
        assert_eq!(verdict(map).0, "superset");
        dm!("reset", map, "--all").exits(0);
        assert_eq!(verdict(map), ("exact".into(), "".into()));
    }
    // Enabled, it is what was written.
    patch(&disk, |bytes| bytes[4 * GRANULE as usize + 15] |= 2);
    let enabled = dir.path("enabled.map");
    dm!("import-qcow2", disk, "--bitmap", "b", enabled).exits(0);
    assert_eq!((areas(&enabled), verdict(&enabled).0), (areas(&map), "exact".into()));
}

#[test]
fn an_image_may_come_from_a_pipe() {
    let dir = Dir::new();
    let (map, disk, back) = (dir.map("m", 64 * MIB, &[MIB..2 * MIB]), dir.path("disk.qcow2"), dir.path("back"));
    dm!("export-qcow2", map, disk, "--bitmap", "b").exits(0);
    let line = ["import-qcow2", "-", "--bitmap", "b", "--disabled", "take", back.to_str().expect("text")];
    let bytes = fs::read(&disk).expect("read");
    let ran = common::run_with(line, &bytes).exits(0);
    assert!(ran.out.contains("of standard input"), "{}", ran.out);
    assert_eq!(our_hash(&back), our_hash(&map));
    // Without a name it says which there are, as of a file.
    common::run_with(["import-qcow2", "-", "n"], &bytes).exits(16).says("standard input has \"b\" (disabled)");
    common::run_with(["import-qcow2", "-", "n", "--bitmap", "b"], b"QFI").exits(8).says("standard input");
    assert!(!dir.path("n").exists());
}

#[test]
fn a_name_may_be_any_bytes() {
    let dir = Dir::new();
    let (map, disk, back) = (map(&dir, MIB, 16), dir.path("disk.qcow2"), dir.path("back.map"));
    let name = OsStr::from_bytes(b"caf\xe9\x1b[31m\\");
    let answer = dm!("export-qcow2", map, disk, "--bitmap", name, "--output", "json").exits(0).json();
    assert_eq!(answer["bitmap"], "caf\\xe9\x1b[31m\\\\");
    dm!("import-qcow2", disk, back).exits(16).says(r#"has "caf\xE9\u{1b}[31m\\" (disabled)"#);
    dm!("import-qcow2", disk, "--bitmap", "caf", back).exits(8).says(r#"it has "caf\xE9"#);
    let ran = dm!("import-qcow2", disk, "--bitmap", name, back, "--disabled", "take").exits(0);
    assert!(ran.out.contains(r#"bitmap "caf\xE9\u{1b}[31m\\""#), "{ran:?}");
    assert_eq!(areas(&back), areas(&map));
}

#[test]
fn a_damaged_image_is_refused_and_leaves_nothing() {
    let dir = Dir::new();
    let (map, good) = (map(&dir, 64 * MIB, 9), dir.path("good.qcow2"));
    dm!("export-qcow2", map, good, "--bitmap", "b").exits(0);
    let back = dir.path("back.map");
    dm!("import-qcow2", good, "--disabled", "take", "--bitmap", "b", back).exits(0);
    assert_eq!(our_hash(&back), our_hash(&map));
    fs::remove_file(&back).expect("remove");
    // Header, refcounts (two clusters), L1 table, then the directory and the table.
    let (directory, table) = (4 * GRANULE as usize, 5 * GRANULE as usize);
    let damages: [(usize, u8, &str); 6] = [
        (79, 2, "marked corrupt"),
        (directory + 1, 0x7f, "bitmap table"),
        (directory + 11, 9, "9 entries"),
        (table + 1, 0x7f, "bitmap data"),
        (table + 7, 2, "bitmap table entry 0"),
        (135, 1, "bitmaps extension"),
    ];
    for (at, value, what) in damages {
        let bad = dir.path("bad.qcow2");
        fs::copy(&good, &bad).expect("copy");
        patch(&bad, |bytes| bytes[at] = value);
        for more in ["refuse", "dirty"] {
            let args = ["--bitmap", "b", "--in-use", more, "--disabled", "take"].map(OsStr::new);
            let files = ["import-qcow2".as_ref(), bad.as_os_str(), back.as_os_str()];
            untouched(&bad, || common::run(files.into_iter().chain(args)).exits(8).says(what));
        }
    }
}

#[test]
fn what_is_out_of_date_may_be_of_another_size() {
    let dir = Dir::new();
    let (map, image, back) = (map(&dir, 64 * MIB, 9), dir.path("image.qcow2"), dir.path("back.map"));
    dm!("export-qcow2", map, image, "--bitmap", "b").exits(0);
    // As after growing the disk by a program that was killed: in use, and a table for fewer bits.
    let directory = 4 * GRANULE as usize;
    patch(&image, |bytes| {
        bytes[28] = 5;
        bytes[directory + 15] = 1;
    });
    dm!("import-qcow2", image, "--disabled", "take", "--bitmap", "b", back).exits(8).says("in use");
    dm!("import-qcow2", image, "--disabled", "take", "--bitmap", "b", back, "--in-use", "dirty").exits(0);
    assert_eq!(areas(&back), [0..64 * MIB + 16 * MIB]);
    // Inconsistent as a whole: then the directory may be anything.
    patch(&image, |bytes| {
        bytes[95] = 0;
        bytes[directory..directory + 24].fill(0xff);
    });
    fs::remove_file(&back).expect("remove");
    untouched(&image, || {
        dm!("import-qcow2", image, "--disabled", "take", "--bitmap", "b", back).exits(8).says("inconsistent")
    });
    untouched(&image, || {
        dm!("import-qcow2", image, "--disabled", "take", "--bitmap", "b", back, "--in-use", "dirty")
            .exits(8)
            .says("bitmap directory")
    });
}

#[test]
fn granularities_that_qemu_does_not_have_need_another() {
    let dir = Dir::new();
    let fine = dir.path("fine.map");
    let map = Options::new().granularity(0).create(&fine, MIB).expect("create");
    for range in [0..1, 8191..8193, MIB - 1..MIB] {
        map.set(range).expect("set");
    }
    map.close().expect("close");
    let (out, back) = (dir.path("out.qcow2"), dir.path("back.map"));
    untouched(&fine, || {
        dm!("export-qcow2", fine, out, "--bitmap", "b").exits(8).says("512 B to 2 GiB").says("--granularity")
    });
    untouched(&fine, || dm!("export-qcow2", fine, out, "--bitmap", "b", "-g", "256").exits(8).says("512 B to 2 GiB"));
    dm!("export-qcow2", fine, out, "--bitmap", "b", "-g", "4K").exits(0);
    dm!("import-qcow2", out, "--disabled", "take", "--bitmap", "b", back).exits(0);
    assert_eq!(areas(&back), [0..12 * KIB, MIB - 4 * KIB..MIB]);

    let many = dir.path("many.map");
    Options::new().granularity(9).create(&many, (1 << 41) + 1).expect("create").close().expect("close");
    let out = dir.path("many.qcow2");
    dm!("export-qcow2", many, out, "--bitmap", "b").exits(8).says("--granularity 1024");
    dm!("export-qcow2", many, out, "--bitmap", "b", "-g", "1K").exits(0);

    // Finer than the map's loses nothing either.
    let coarse = dir.path("coarse.map");
    let map = Options::new().granularity(40).create(&coarse, (3 << 40) + 512).expect("create");
    map.set((1 << 40)..(1 << 40) + 1).expect("set");
    map.close().expect("close");
    let (out, back) = (dir.path("coarse.qcow2"), dir.path("coarse-back.map"));
    dm!("export-qcow2", coarse, out, "--bitmap", "b", "-g", "2G").exits(0);
    dm!("import-qcow2", out, "--disabled", "take", "--bitmap", "b", back).exits(0);
    assert_eq!(areas(&back), [1 << 40..2 << 40]);
}

#[test]
fn an_empty_map_has_no_place_in_qemu() {
    let dir = Dir::new();
    let map = map(&dir, 0, 16);
    untouched(&map, || dm!("export-qcow2", map, dir.path("o"), "--bitmap", "b").exits(8).says("0 bytes"));
}

#[test]
fn names_are_checked_before_anything_is_read() {
    let dir = Dir::new();
    for name in ["", &"x".repeat(1024)] {
        dm!("export-qcow2", dir.path("m"), dir.path("o"), "--bitmap", name).exits(16).says("1 to 1023");
    }
    let (map, out) = (map(&dir, MIB, 16), dir.path("o"));
    dm!("export-qcow2", map, out, "--bitmap", "x".repeat(1023)).exits(0);
    if qemu() {
        assert!(qemu_img!("info", out).contains(&"x".repeat(1023)));
        qemu_img!("check", "-q", out);
    }
}

#[test]
fn a_map_that_was_not_closed_is_exported_as_it_recovers() {
    let dir = Dir::new();
    let map = dir.unclean("m", 64 * MIB, &[MIB..2 * MIB]);
    let (out, back) = (dir.path("out.qcow2"), dir.path("back.map"));
    let before = fs::read(&map).expect("read");
    dm!("export-qcow2", map, out, "--bitmap", "b").exits(0).says("not closed cleanly");
    assert!(fs::read(&map).expect("read") == before, "the map was changed");
    dm!("import-qcow2", out, "--disabled", "take", "--bitmap", "b", back).exits(0);
    assert_eq!(areas(&back), areas(&map));

    let (damaged, out) = (dir.map("damaged", 64 * MIB, &[MIB..2 * MIB]), dir.path("damaged.qcow2"));
    damage_page(&damaged);
    dm!("export-qcow2", damaged, out, "--bitmap", "b").exits(4).says("1 damaged page");
    let back = dir.path("damaged-back.map");
    dm!("import-qcow2", out, "--disabled", "take", "--bitmap", "b", back).exits(0);
    assert_eq!(areas(&back), [0..64 * MIB]);

    let (none, junk) = (dir.path("none.qcow2"), dir.image("junk", MIB));
    untouched(&junk, || dm!("export-qcow2", junk, none, "--bitmap", "b").exits(8).says("not a dirtymap"));
    let busy = DirtyMap::open(&map).expect("open");
    dm!("export-qcow2", map, none, "--bitmap", "b").exits(8).says("--wait");
    assert!(!none.exists());
    drop(busy);
}

#[test]
fn every_other_granule_of_many() {
    let dir = Dir::new();
    let (path, out, back) = (dir.path("m"), dir.path("out.qcow2"), dir.path("back.map"));
    let map = Options::new().granularity(9).flush_interval(None).create(&path, 150_000 * 1024).expect("create");
    map.set_all().expect("set");
    (0..150_000).for_each(|i| _ = map.reset(i * 1024..i * 1024 + 512).expect("reset"));
    map.close().expect("close");
    dm!("export-qcow2", path, out, "--bitmap", "b").exits(0);
    let answer =
        dm!("import-qcow2", out, "--disabled", "take", "--bitmap", "b", back, "--output", "json").exits(0).json();
    assert_eq!(answer["dirty_bits"], 150_000);
    assert_eq!(our_hash(&back), our_hash(&path));
}

#[test]
fn what_is_sparse_stays_small() {
    let dir = Dir::new();
    // A pebibyte, of which some bits far apart are dirty, and one run of more than a cluster of bits.
    let (path, out, back) = (dir.path("m"), dir.path("out.qcow2"), dir.path("back.map"));
    let map = Options::new().granularity(18).flush_interval(None).create(&path, 1 << 50).expect("create");
    (0..32).for_each(|i| _ = map.set(i << 45..(i << 45) + 1).expect("set"));
    map.set(1 << 48..(1 << 48) + (1 << 38)).expect("set");
    map.close().expect("close");
    dm!("export-qcow2", path, out, "--bitmap", "b").exits(0);
    dm!("import-qcow2", out, "--disabled", "take", "--bitmap", "b", back).exits(0);
    assert_eq!(our_hash(&back), our_hash(&path));
    let bytes = |path: &Path| path.metadata().expect("metadata").blocks() * 512;
    assert!(bytes(&out) < 8 * MIB, "{} bytes for 32 bits and a run", bytes(&out));
    assert!(bytes(&back) <= bytes(&path) + 4 * MIB, "{} bytes, the original has {}", bytes(&back), bytes(&path));
}

#[test]
fn an_image_goes_to_standard_output() {
    let dir = Dir::new();
    let (map, out) = (map(&dir, 64 * MIB, 16), dir.path("out.qcow2"));
    dm!("export-qcow2", map, out, "--bitmap", "b").exits(0);
    let mut command = common::dirtymap();
    let streamed = command.arg("export-qcow2").arg(&map).args(["-", "--bitmap", "b"]).output().expect("run");
    assert!(streamed.status.success() && streamed.stdout == fs::read(out).expect("read"));
}
