//! The bits as a raw file, and back.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, MIB, areas, damage_page, run_with, untouched};
use dirtymap::{DirtyMap, Options};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;

/// 1025 granules: 17 words, one bit in the last.
const LEN: u64 = 64 * MIB + 5;
const BYTES: usize = 17 * 8;

/// The raw form of some granules.
fn raw(granules: &[Range<usize>]) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    granules.iter().flat_map(Clone::clone).for_each(|bit| bytes[bit / 8] |= 1 << (bit % 8));
    bytes
}

#[test]
fn export_writes_the_words_little_endian() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[GRANULE..3 * GRANULE, 63 * GRANULE..70 * GRANULE, LEN - 1..LEN]);
    let out = dir.path("m.bits");
    let ran = dm!("export", map, out, "--output", "json").exits(0).json();
    assert_eq!(ran["bytes"], BYTES);
    assert_eq!(ran["dirty_bits"], 10);
    assert_eq!(fs::read(&out).expect("read"), raw(&[1..3, 63..70, 1024..1025]));
    // A file like any other that one makes.
    let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).expect("look"));
    fs::write(dir.path("plain"), b"").expect("write");
    assert_eq!(mode(&out), mode(&dir.path("plain")));

    let unclean = dir.unclean("u", LEN, &[0..1]);
    untouched(&unclean, || dm!("export", unclean, "/dev/null").exits(8).says("exists already"));
    let out = dir.path("u.bits");
    dm!("export", unclean, out).exits(0).says("not closed cleanly");
    assert_eq!(fs::read(&out).expect("read"), raw(&[0..64]));
    damage_page(&map);
    dm!("export", map, dir.path("damaged.bits")).exits(4).says("damaged page");
    assert_eq!(fs::read(dir.path("damaged.bits")).expect("read"), raw(&[0..1025]));
}

#[test]
fn export_to_standard_output_is_the_bits_and_nothing_else() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[GRANULE..2 * GRANULE]);
    let done = common::dirtymap().arg("export").arg(&map).arg("-").output().expect("run");
    assert!(done.status.success() && done.stderr.is_empty());
    assert_eq!(done.stdout, raw(&[1..2]));
    dm!("export", map, "-", "--output", "json").exits(16).says("cannot hold both");
    let empty = dir.map("empty", 0, &[]);
    assert_eq!(dm!("export", empty, "-").exits(0).out, "\0\0\0\0\0\0\0\0");
}

#[test]
fn export_does_not_overwrite_and_leaves_nothing_behind() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[]);
    let (out, link) = (dir.path("out"), dir.path("link"));
    fs::write(&out, b"precious").expect("write");
    untouched(&out, || dm!("export", map, out).exits(8).says("exists already"));
    std::os::unix::fs::symlink(dir.path("nowhere"), &link).expect("link");
    untouched(&map, || dm!("export", map, link).exits(8).says("symbolic link").says("nowhere, which is not there"));
    untouched(&map, || dm!("export", map, map).exits(8).says("exists already"));
    untouched(&map, || dm!("export", map, dir.path("no/such/place")).exits(8).says("No such file"));
    let json = dm!("export", map, out, "--output", "json").exits(8).json();
    assert_eq!(json["error"]["kind"], "exists");
}

#[test]
fn import_makes_the_map_what_the_file_says() {
    let dir = Dir::new();
    let file = dir.path("raw");
    let cases: [&[Range<usize>]; 6] =
        [&[], &[0..1025], &[0..1], &[1024..1025], &[5..64, 64..130, 700..701], &[63..65, 127..193, 1000..1025]];
    for old in cases {
        for new in cases {
            let items = |bits: &Range<usize>| bits.start as u64 * GRANULE..(bits.end as u64 * GRANULE).min(LEN);
            let map = dir.map("m", LEN, &old.iter().map(items).collect::<Vec<_>>());
            fs::write(&file, raw(new)).expect("write");
            let ran = untouched(&file, || dm!("import", map, file, "--output", "json").exits(0).json());
            let out = dir.path("again");
            dm!("export", map, out).exits(0);
            assert!(fs::read(&out).expect("read") == raw(new), "{old:?} to {new:?}");
            let count = |bits: &dyn Fn(&u8, &u8) -> u8| -> u32 {
                raw(old).iter().zip(&raw(new)).map(|(a, b)| bits(a, b).count_ones()).sum()
            };
            assert_eq!(ran["added_bits"], count(&|a, b| b & !a), "{old:?} to {new:?}");
            assert_eq!(ran["removed_bits"], count(&|a, b| a & !b), "{old:?} to {new:?}");
            dm!("check", map).exits(0);
            fs::remove_file(&map).and_then(|()| fs::remove_file(&out)).expect("remove");
        }
    }
}

#[test]
fn import_takes_standard_input() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[0..GRANULE]);
    let line = ["import", map.to_str().expect("text"), "-"];
    run_with(line, &raw(&[2..4])).exits(0);
    assert_eq!(areas(&map), [2 * GRANULE..4 * GRANULE]);
    let (short, long) = (&raw(&[0..4])[1..], [raw(&[0..4]), vec![0]].concat());
    untouched(&map, || run_with(line, short).exits(8).says("135 bytes").says("expected 136"));
    untouched(&map, || run_with(line, &long).exits(8).says("more than 136").says("expected 136"));
    untouched(&map, || run_with(line, b"").exits(8).says("0 bytes").says("expected 136"));
}

#[test]
fn a_raw_file_that_will_not_do_changes_nothing() {
    let dir = Dir::new();
    // Unclean, so that even opening it for writing would change it.
    let map = dir.unclean("m", LEN, &[0..GRANULE]);
    let file = dir.path("raw");
    let refuse = |bytes: &[u8], kind: &str, says: [&str; 2]| {
        fs::write(&file, bytes).expect("write");
        let ran = untouched(&map, || dm!("import", map, file, "--output", "json").exits(8));
        assert_eq!(ran.json()["error"]["kind"], kind);
        says.iter().fold(ran, |ran, what| ran.says(what));
    };
    refuse(b"", "size-differs", ["0 bytes", "expected 136"]);
    refuse(&raw(&[])[8..], "size-differs", ["128 bytes", "expected 136"]);
    refuse(&[raw(&[]), raw(&[])].concat(), "size-differs", ["272 bytes", "expected 136"]);
    refuse(&raw(&[0..1, 1025..1026]), "stray-bits", ["bit 1025", "1025 granules"]);
    refuse(&raw(&[1020..1030]), "stray-bits", ["bit 1025", "nothing was changed"]);
    refuse(&raw(&[1087..1088]), "stray-bits", ["bit 1087", "1025 granules"]);
    untouched(&map, || dm!("import", map, dir.path("none")).exits(8).says("No such file"));
    untouched(&map, || dm!("import", map, map).exits(8).says("different files"));
    untouched(&map, || dm!("import", map, map.parent().expect("a parent")).exits(8).says("directory"));
    // A good file, and a map that somebody has.
    let live_path = dir.map("live", LEN, &[0..1]);
    let live = DirtyMap::open(&live_path).expect("open");
    fs::write(&file, raw(&[])).expect("write");
    dm!("import", live_path, file).exits(8).says("in use");
    live.close().expect("close");
    assert_eq!(areas(&live_path), [0..GRANULE]);
}

#[test]
fn import_without_granules_wants_one_zero_word() {
    let dir = Dir::new();
    let (map, file) = (dir.map("m", 0, &[]), dir.path("raw"));
    fs::write(&file, [0; 8]).expect("write");
    dm!("import", map, file).exits(0);
    fs::write(&file, [1, 0, 0, 0, 0, 0, 0, 0]).expect("write");
    untouched(&map, || dm!("import", map, file).exits(8).says("bit 0"));
}

#[test]
fn an_import_that_is_interrupted_while_it_reads_changes_nothing() {
    let dir = Dir::new();
    let map = dir.unclean("m", LEN, &[0..GRANULE]);
    let before = fs::read(&map).expect("read");
    let mut child = common::dirtymap()
        .args(["import", map.to_str().expect("text"), "-", "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    let mut stdin = child.stdin.take().expect("piped");
    // Once it has its temporary file, which has no name any more, it has begun to read.
    let all = raw(&[0..1]);
    stdin.write_all(&all[..100]).expect("write");
    let fd = format!("/proc/{}/fd", child.id());
    let spooling = || {
        let entries = fs::read_dir(&fd).into_iter().flatten().flatten();
        entries.filter_map(|e| fs::read_link(e.path()).ok()).any(|to| to.to_string_lossy().contains("(deleted)"))
    };
    while !spooling() {
        assert!(child.try_wait().expect("look").is_none(), "it ended");
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::TERM).expect("signal");
    let ran: common::Ran = child.wait_with_output().expect("wait").into();
    drop(stdin);
    assert_eq!(ran.exits(32).says("interrupted").json()["error"]["kind"], "interrupted");
    assert!(fs::read(&map).expect("read") == before);
}

#[test]
fn an_export_that_is_interrupted_ends_with_32() {
    let dir = Dir::new();
    let map = dir.path("m");
    // 128 GiB of zeros: nobody waits for them.
    Options::new().granularity(0).create(&map, 1 << 40).expect("create").close().expect("close");
    let mut command = common::dirtymap();
    command.arg("export").arg(&map).arg("-").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run");
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut [1; 100_000]).expect("read");
    kill_process(Pid::from_child(&child), Signal::INT).expect("signal");
    // It may be waiting for room in the pipe.
    std::io::copy(&mut stdout, &mut std::io::sink()).expect("read");
    let ran: common::Ran = child.wait_with_output().expect("wait").into();
    ran.exits(32).says("interrupted");
    // And one whose reader goes away has done its work.
    let mut command = common::dirtymap();
    command.arg("export").arg(&map).arg("-").stdout(Stdio::piped());
    let mut child = command.spawn().expect("run");
    child.stdout.take().expect("piped").read_exact(&mut [1; 10]).expect("read");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

#[test]
fn what_is_scattered_is_armed_together() {
    let dir = Dir::new();
    let (map, other, file) = (dir.map("m", 1 << 38, &[]), dir.map("other", 1 << 38, &[]), dir.path("raw"));
    // A granule in each page.
    let mut bytes = vec![0; 1 << 19];
    bytes.iter_mut().step_by(512).for_each(|byte| *byte = 1);
    fs::write(&file, bytes).expect("write");
    let writes = |ran: common::Ran| {
        let before = ran.err.split(" durable writes").next().expect("a first part").to_string();
        before.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number")
    };
    let imported = writes(dm!("import", map, file, "-v").exits(0));
    let merged = writes(dm!("merge", other, map, "-v").exits(0));
    assert!((1..200).contains(&imported) && (1..200).contains(&merged), "{imported}, {merged}");
    dm!("diff", map, other).exits(0);
    // So it is for new maps.
    let (dump, new) = (dir.path("dump"), dir.path("new"));
    fs::write(&dump, dm!("dump", map).exits(0).out).expect("write");
    let restored = writes(dm!("undump", dump, new, "-v").exits(0));
    assert!((1..200).contains(&restored), "{restored}");
    dm!("diff", map, new).exits(0);
    assert_eq!(dm!("count", other, "--output", "json").exits(0).json()["dirty_bits"], 1024);
}
