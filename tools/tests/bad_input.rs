//! Bad input: a clear error or the documented degradation, the right exit code, and the file as it was whenever the
//! operation failed.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Cleanup, Dir, MIB, header, is_root, patch, run_with, skipped, system, untouched};
use dirtymap::format::{COPIES, COPY_BYTES, copy_offset, fields};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const LEN: u64 = 64 * MIB;

/// Every command that takes a map, with arguments that would do for a good one of [`LEN`] bytes.
fn all_commands(dir: &Dir, map: &Path) -> Vec<Vec<String>> {
    let text = |p: &Path| p.to_str().expect("text").to_string();
    let image = dir.path("image");
    if !image.exists() {
        fs::write(&image, vec![7; LEN as usize]).expect("write the image");
    }
    // In a place of its own, so that nothing comes or goes beside the map.
    let place = dir.path("raw");
    let (bits, other, out) = (place.join("bits"), place.join("other.map"), place.join("out"));
    if !place.exists() {
        fs::create_dir(&place).expect("mkdir");
        fs::write(&bits, vec![0; (LEN / common::GRANULE / 8) as usize]).expect("write the raw file");
        dirtymap::Options::new().create(&other, LEN).and_then(|map| Ok(map.close()?)).expect("create");
    }
    let _ = fs::remove_file(&out);
    let (m, i, t) = (text(map), text(&image), text(&dir.path("target")));
    let (bits, other, out) = (text(&bits), text(&other), text(&out));
    let lines: [&[&str]; 17] = [
        &["info", &m],
        &["set", &m, "0", "1"],
        &["reset", &m, "--all"],
        &["map", &m],
        &["count", &m],
        &["hash", &m],
        &["check", &m],
        &["diff", &m, &m],
        &["show", &m],
        &["merge", &m, &other],
        &["export", &m, &out],
        &["dump", &m],
        &["import", &m, &bits],
        &["repair", &m],
        &["write", &i, "--map", &m, "--at", "0"],
        &["backup", &i, &t, "--map", &m],
        &["resize", &m, "65M"],
    ];
    lines.iter().map(|line| line.iter().map(|s| s.to_string()).collect()).collect()
}

/// Asserts that no command takes the file, that each says why, and that nothing is changed by it.
fn all_refuse(dir: &Dir, map: &Path, kind: &str, why: &str) {
    for line in all_commands(dir, map) {
        let ran = untouched(map, || run_with(&line, b"x"));
        assert!(ran.code == 8 && ran.err.contains(why), "{line:?} exits {}: {}", ran.code, ran.err);
        let json =
            untouched(map, || run_with(line.iter().map(String::as_str).chain(["--output=json"]), b"x").exits(8).json());
        assert_eq!(json["error"]["kind"], kind, "{line:?}: {json}");
    }
    assert!(!dir.path("target").exists() && !dir.path("raw/out").exists());
    assert!(fs::read(dir.path("image")).expect("read").iter().all(|&b| b == 7));
}

/// Changes the bytes of all header copies, and gives each its right checksum again.
fn rewrite_headers(map: &Path, change: impl Fn(&mut [u8])) {
    patch(map, |bytes| {
        for copy in 0..COPIES {
            let copy = &mut bytes[copy_offset(copy) as usize..][..COPY_BYTES];
            change(copy);
            let used = u32::from_le_bytes(copy[12..16].try_into().expect("4 bytes")) as usize;
            copy[1020..1024].fill(0);
            let crc = crc32(&copy[..used.min(COPY_BYTES)]);
            copy[1020..1024].copy_from_slice(&crc.to_le_bytes());
        }
    });
}

/// CRC-32 as in zlib, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[test]
fn the_checksum_of_these_tests_is_that_of_the_format() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[]);
    rewrite_headers(&map, |_| {});
    dm!("check", map).exits(0);
}

#[test]
fn not_found() {
    let dir = Dir::new();
    all_refuse(&dir, &dir.path("nothing"), "not-found", "No such file");
}

#[test]
fn empty_file() {
    let dir = Dir::new();
    let map = dir.path("m");
    fs::write(&map, b"").expect("write");
    all_refuse(&dir, &map, "not-a-dirtymap", "the file is empty");
}

#[test]
fn another_kind_of_file() {
    let dir = Dir::new();
    let map = dir.path("m");
    fs::write(&map, common::pattern(100_000, 3)).expect("write");
    all_refuse(&dir, &map, "not-a-dirtymap", "not a dirtymap");
    fs::write(&map, vec![0; 100_000]).expect("write");
    all_refuse(&dir, &map, "not-a-dirtymap", "nothing but zeros");
}

#[test]
fn directory() {
    let dir = Dir::new();
    let map = dir.path("m");
    fs::create_dir(&map).expect("mkdir");
    all_refuse(&dir, &map, "is-a-directory", "directory");
}

#[test]
fn fifo_is_refused_and_not_waited_for() {
    let dir = Dir::new();
    let map = dir.path("m");
    assert!(system("mkfifo", &[map.as_os_str()]));
    for line in all_commands(&dir, &map) {
        run_with(&line, b"x").exits(8).says("not a regular file");
    }
    // As an image as well.
    dm!("create", dir.path("new"), "--image", map).exits(8).says("neither a regular file nor a block device");
    let good = dir.map("good", LEN, &[]);
    untouched(&good, || dm!("write", map, "--map", good, "--at", "0").exits(8));
    untouched(&good, || dm!("backup", map, dir.path("target"), "--map", good).exits(8));
    untouched(&good, || dm!("backup", dir.path("image"), map, "--map", good).exits(8));
}

#[test]
fn truncated_at_any_length_is_an_error_or_only_adds_dirt() {
    let dir = Dir::new();
    let whole = dir.map("whole", LEN, &[MIB..2 * MIB]);
    let bytes = fs::read(&whole).expect("read");
    let layout = header(&whole).layout;
    let map = dir.path("m");
    // One page has one entry of four bytes.
    let (entries_end, page_end) = (layout.table.start + 4, layout.bottom.start + 512);
    let lengths = [1, 8, 511, 512, 4095, 4096, 65535, 65536, 70000, 131072, 200_000, 262_143, 262_144, entries_end - 1];
    let degraded = [entries_end, layout.table.end - 1, layout.bottom.start, layout.bottom.start + 1];
    // What is missing here is zeros anyway.
    let harmless = [page_end - 1, page_end, page_end + 1, bytes.len() as u64 - 1];
    for length in lengths {
        fs::write(&map, &bytes[..length as usize]).expect("write");
        for line in all_commands(&dir, &map) {
            if line[0] == "repair" && length >= 1024 {
                continue; // The first header copy is whole but for zeros at its end: it is mended.
            }
            let ran = untouched(&map, || run_with(&line, b"x"));
            let damaged = line[0] == "check" && length >= 1024;
            assert!(ran.code == if damaged { 4 } else { 8 }, "{length}, {line:?}: {ran:?}");
        }
        if length >= 1024 {
            dm!("repair", map).exits(1);
            assert_eq!(dm!("count", map, "--output", "json").exits(0).json()["dirty_bits"], 1024, "{length}");
        }
    }
    let expected = degraded.map(|length| (length, 4, 1024)).into_iter().chain(harmless.map(|length| (length, 0, 16)));
    for (length, code, dirty_bits) in expected {
        fs::write(&map, &bytes[..length as usize]).expect("write");
        let count = untouched(&map, || dm!("count", map, "--output", "json").exits(code));
        assert_eq!(count.json()["dirty_bits"], dirty_bits, "{length}");
        dm!("check", map).exits(code);
        dm!("set", map, "0", "1").exits(0);
        dm!("check", map).exits(0);
    }
}

#[test]
fn newer_version() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[]);
    rewrite_headers(&map, |copy| copy[fields::header::FORMAT_VERSION.offset] = 2);
    all_refuse(&dir, &map, "unsupported", "newer");
}

#[test]
fn a_version_that_is_damaged_is_damage_and_no_newer_version() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[]);
    let mut bytes = fs::read(&map).expect("read");
    for copy in 0..4 {
        bytes[copy_offset(copy) as usize + fields::header::FORMAT_VERSION.offset + 1] ^= 4;
    }
    fs::write(&map, &bytes).expect("write");
    all_refuse(&dir, &map, "corrupt", "make a new map");
    // Of one copy it is a finding, which a repair mends.
    let map = dir.map("n", LEN, &[]);
    let mut bytes = fs::read(&map).expect("read");
    bytes[fields::header::FORMAT_VERSION.offset] = 2;
    fs::write(&map, &bytes).expect("write");
    assert!(dm!("check", map).exits(4).out.contains("dirtymap repair"));
    dm!("repair", map).exits(1);
    dm!("check", map).exits(0);
}

#[test]
fn unknown_feature_bits_of_three_kinds() {
    let dir = Dir::new();
    let with = |field: dirtymap::format::fields::Field| {
        let _ = fs::remove_file(dir.path("m"));
        let map = dir.map("m", LEN, &[MIB..2 * MIB]);
        rewrite_headers(&map, |copy| copy[field.offset] |= 1 << 5);
        map
    };
    let map = with(fields::header::INCOMPATIBLE);
    all_refuse(&dir, &map, "unsupported", "newer");

    let map = with(fields::header::RO_COMPATIBLE);
    for line in all_commands(&dir, &map) {
        let writes = ["set", "reset", "merge", "import", "resize", "write", "backup"].contains(&line[0].as_str());
        let ran = untouched(&map, || run_with(&line, b"x"));
        assert_eq!(ran.code, if writes { 8 } else { 0 }, "{line:?}: {}", ran.err);
    }
    assert!(!dir.path("target").exists());

    let map = with(fields::header::COMPATIBLE);
    for line in all_commands(&dir, &map) {
        run_with(&line, b"x").exits(0);
    }
    assert_eq!(header(&map).compatible, 1 << 5);
}

#[test]
fn impossible_geometry() {
    let dir = Dir::new();
    type Change = fn(&mut [u8]);
    let changes: [(&str, Change); 8] = [
        ("length over 2^63", |c| c[fields::header::LEN.offset + 7] |= 0x80),
        ("granularity 64", |c| c[fields::header::GRANULARITY.offset] = 64),
        ("granularity 2^32 - 1", |c| c[fields::header::GRANULARITY.offset..][..4].fill(0xff)),
        ("more than 2^41 bits", |c| {
            c[fields::header::LEN.offset..][..8].copy_from_slice(&(1u64 << 62).to_le_bytes());
            c[fields::header::GRANULARITY.offset] = 0;
        }),
        ("a level with other words", |c| c[fields::header::LEVEL_WORDS.offset] ^= 2),
        ("bottom inside the headers", |c| c[fields::header::BOTTOM_OFFSET.offset..][..8].fill(0)),
        ("bottom unaligned", |c| c[fields::header::BOTTOM_OFFSET.offset] = 1),
        ("table beyond everything", |c| c[fields::header::TABLE_OFFSET.offset..][..8].fill(0xff)),
    ];
    for (what, change) in changes {
        let map = dir.map("m", LEN, &[]);
        rewrite_headers(&map, change);
        for line in all_commands(&dir, &map) {
            let ran = untouched(&map, || run_with(&line, b"x"));
            assert_eq!(ran.code, 8, "{what}, {line:?}: {}", ran.err);
        }
        fs::remove_file(&map).expect("remove");
    }
}

#[test]
fn ranges_that_the_map_does_not_have() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[MIB..2 * MIB]);
    let last = (LEN - 1).to_string();
    let m = map.to_str().expect("text");
    let lines: [&[&str]; 8] = [
        &["set", m, &last, "2"],
        &["set", m, "64M", "1"],
        &["set", m, "0", "1P"],
        &["reset", m, "64M", "64K"],
        &["reset", m, "63M", "2M", "--within"],
        &["reset", m, "63M", "2M", "--covering"],
        &["map", m, "--start", "65M"],
        &["map", m, "--start", "63M", "--length", "2M"],
    ];
    for line in lines {
        untouched(&map, || common::run(line).exits(8).says("map's end"));
        let json = common::run(line.iter().chain(&["--output=json"])).exits(8).json();
        assert_eq!(json["error"]["kind"], "out-of-range");
    }
    untouched(&map, || dm!("reset", map, "1", "64K").exits(8).says("65536"));
    untouched(&map, || dm!("reset", map, "0", "1").exits(8).says("65536"));
    // The end itself is in range, with nothing to it.
    dm!("set", map, "64M", "0").exits(0);
    dm!("reset", map, "1", "0").exits(0);
}

#[test]
fn a_refused_range_leaves_an_unclean_map_as_it_was() {
    let dir = Dir::new();
    let map = dir.unclean("m", LEN, &[MIB..2 * MIB]);
    untouched(&map, || dm!("set", map, "64M", "1").exits(8));
    untouched(&map, || dm!("reset", map, "1", "1").exits(8));
}

#[test]
fn no_permission() {
    if !is_root() && !Path::new("/usr/bin/setpriv").exists() {
        return skipped("no permission: neither root, who can become somebody else, nor setpriv");
    }
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[]);
    fs::set_permissions(&map, fs::Permissions::from_mode(0o000)).expect("chmod");
    fs::set_permissions(map.parent().expect("a parent"), fs::Permissions::from_mode(0o755)).expect("chmod");
    if !is_root() {
        dm!("info", map).exits(8).says("Permission denied");
        dm!("set", map, "0", "1").exits(8).says("Permission denied");
        return;
    }
    // A place where others may look for the program.
    let program = dir.path("dirtymap");
    // By another process: one that this process had open for writing could be inherited by a child of another test,
    // and could then not be run.
    let copied = system("cp", &[OsStr::new(env!("CARGO_BIN_EXE_dirtymap")), program.as_os_str()]);
    assert!(copied, "copy the program");
    let nobody = |args: &[&OsStr]| -> common::Ran {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).args(args);
        command.output().expect("run setpriv").into()
    };
    let m = map.as_os_str();
    let word = OsStr::new;
    untouched(&map, || nobody(&[word("info"), m]).exits(8).says("Permission denied"));
    untouched(&map, || nobody(&[word("set"), m, word("0"), word("1")]).exits(8).says("Permission denied"));
    let new = dir.path("new");
    nobody(&[word("create"), new.as_os_str(), word("--size"), word("1M")]).exits(8).says("Permission denied");
    assert!(!new.exists());
    // Readable for all, but not writable.
    fs::set_permissions(&map, fs::Permissions::from_mode(0o444)).expect("chmod");
    nobody(&[word("info"), m]).exits(0);
    untouched(&map, || nobody(&[word("set"), m, word("0"), word("1")]).exits(8).says("Permission denied"));
}

/// A small file system for one test, unmounted at its end.
fn small_file_system(dir: &Dir, size: &str) -> Option<(std::path::PathBuf, Cleanup)> {
    let at = dir.path("small");
    fs::create_dir(&at).expect("mkdir");
    let option = format!("size={size}");
    let args = ["-t", "tmpfs", "-o", &option, "none"].map(OsStr::new);
    let mounted = is_root() && system("mount", &[&args[..], &[at.as_os_str()]].concat());
    mounted.then(|| (at.clone(), Cleanup::new("umount", &[at.as_os_str()])))
}

#[test]
fn no_space() {
    let dir = Dir::new();
    let Some((small, _umount)) = small_file_system(&dir, "1m") else {
        return skipped("no space: needs root, to mount a small tmpfs");
    };
    let map = small.join("m");
    dm!("create", map, "--size", "64M", "--durability", "process").exits(0);
    let power_loss = small.join("p");
    dm!("create", power_loss, "--size", "64M").exits(0);
    // Leaves no room for the volatile part of an open map.
    let filler = small.join("filler");
    let mut file = fs::File::create(&filler).expect("create");
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    for map in [&map, &power_loss] {
        let before = fs::read(map).expect("read");
        for line in [vec!["set", "0", "1"], vec!["reset", "--all"]] {
            let args =
                line[..1].iter().chain(&[map.to_str().expect("text")]).chain(&line[1..]).copied().collect::<Vec<_>>();
            common::run(&args).exits(8).says("No space left");
            let json = common::run(args.iter().chain(&["--output=json"])).exits(8).json();
            assert_eq!(json["error"]["kind"], "no-space");
        }
        assert!(fs::read(map).expect("read") == before, "the map was changed");
        dm!("count", map).exits(0);
    }
    let new = small.join("new");
    untouched(&new, || dm!("create", new, "--size", "64M", "--dirty").exits(8).says("No space left"));
    // And it works again when there is room.
    drop(file);
    fs::remove_file(filler).expect("remove");
    dm!("set", map, "0", "1").exits(0);
    dm!("set", power_loss, "0", "1").exits(0);
    dm!("check", power_loss).exits(0);
}

#[test]
fn a_backup_that_has_no_room_resets_nothing() {
    let dir = Dir::new();
    let Some((small, _umount)) = small_file_system(&dir, "1m") else {
        return skipped("no space for a backup: needs root, to mount a small tmpfs");
    };
    let (image, map) = (dir.image("image.raw", 4 * MIB), dir.path("m"));
    dm!("create", map, "--image", image).exits(0);
    dm!("backup", image, small.join("target"), "--map", map).exits(8).says("No space left").says("no bit was reset");
    assert_eq!(common::areas(&map), [0..4 * MIB]);
    dm!("check", map).exits(0);
}

#[test]
fn unreadable_sector() {
    // Needs a device that fails to read where told: device-mapper's error target.
    let dir = Dir::new();
    if !is_root() || !system("dmsetup", &[OsStr::new("targets")]) {
        return skipped("unreadable sector: needs root and device-mapper; the library's simulated disk covers it");
    }
    let Some(bad) = BadDisk::make(&dir) else {
        return skipped(
            "unreadable sector: no loop device or no dm-error here; the library's simulated disk covers it",
        );
    };
    let map = bad.at.join("m");
    dm!("create", map, "--size", "64M").exits(0);
    dm!("set", map, "1M", "1M").exits(0);
    if !bad.fail_at(&map, header(&map).layout.bottom.start) {
        return skipped("unreadable sector: the file's place on the device is not to be had");
    }
    dm!("count", map).exits(4).says("damaged page");
    assert!(dm!("check", map).exits(4).out.contains("does not give back"));
}

/// A file system on a device of which one block can be made unreadable.
struct BadDisk {
    at: std::path::PathBuf,
    name: String,
    device: String,
    _undo: Vec<Cleanup>,
}

impl BadDisk {
    fn make(dir: &Dir) -> Option<BadDisk> {
        let (file, at) = (dir.path("disk"), dir.path("at"));
        fs::write(&file, vec![0; 32 << 20]).ok()?;
        fs::create_dir(&at).ok()?;
        let made = std::process::Command::new("losetup").args(["-f", "--show"]).arg(&file).output().ok()?;
        let device = String::from_utf8(made.stdout).ok()?.trim().to_string();
        let mut undo = Vec::new();
        if !made.status.success() {
            return None;
        }
        undo.insert(0, Cleanup::new("losetup", &["-d", &device].map(OsStr::new)));
        let name = format!("dirtymap-test-{}", std::process::id());
        let table = format!("0 65536 linear {device} 0");
        if !system("dmsetup", &["create", &name, "--table", &table].map(OsStr::new)) {
            return None;
        }
        undo.insert(0, Cleanup::new("dmsetup", &["remove", &name].map(OsStr::new)));
        let mapped = format!("/dev/mapper/{name}");
        if !system("mke2fs", &["-q", "-t", "ext4", "-b", "4096", &mapped].map(OsStr::new))
            || !system("mount", &[OsStr::new(&mapped), at.as_os_str()])
        {
            return None;
        }
        undo.insert(0, Cleanup::new("umount", &[at.as_os_str()]));
        Some(BadDisk { at, name, device, _undo: undo })
    }

    /// Makes the block behind `offset` of a file unreadable.
    fn fail_at(&self, file: &Path, offset: u64) -> bool {
        let asked = std::process::Command::new("debugfs")
            .args(["-R", &format!("bmap /{} {}", file.file_name().unwrap_or_default().display(), offset / 4096)])
            .arg(format!("/dev/mapper/{}", self.name))
            .output();
        let Some(block) = asked.ok().and_then(|o| String::from_utf8_lossy(&o.stdout).trim().parse::<u64>().ok()) else {
            return false;
        };
        let (start, device) = (block * 8, &self.device);
        let after = start + 8;
        let table = format!(
            "0 {start} linear {device} 0\n{start} 8 error\n{after} {} linear {device} {after}\n",
            65536 - after
        );
        let words = |args: &[&str]| system("dmsetup", &args.iter().map(OsStr::new).collect::<Vec<_>>());
        words(&["suspend", &self.name])
            && words(&["load", &self.name, "--table", &table])
            && words(&["resume", &self.name])
            && fs::write("/proc/sys/vm/drop_caches", "1").is_ok()
    }
}

#[test]
fn an_image_of_another_size_is_refused() {
    let dir = Dir::new();
    let map = dir.map("m", LEN, &[]);
    let image = dir.image("other.raw", MIB);
    untouched(&map, || {
        dm!("write", image, "--map", map, "--at", "0").exits(8).says("1048576 bytes").says("67108864");
        dm!("backup", image, dir.path("target"), "--map", map).exits(8).says("resize");
    });
    assert!(!dir.path("target").exists());
}

#[test]
fn a_link_that_leads_nowhere_is_called_that() {
    let dir = Dir::new();
    let (map, link) = (dir.map("m", MIB, &[]), dir.path("link"));
    std::os::unix::fs::symlink("no\x1b/where", &link).expect("link");
    let says = |ran: common::Ran| ran.exits(8).says("link: is a symbolic link to no\\u{1b}/where, which is not there");
    says(dm!("info", link));
    says(dm!("set", link, "0", "1"));
    says(dm!("create", link, "--size", "1M"));
    says(dm!("create", dir.path("new"), "--image", link));
    says(dm!("export", map, link));
    says(dm!("export-qcow2", map, link, "--bitmap", "b"));
    says(dm!("show", map, "--svg", link));
    says(dm!("import", map, link));
    says(dm!("undump", link, dir.path("new")));
    says(dm!("merge", map, link));
    says(dm!("write", link, "--map", map, "--at", "0"));
    says(dm!("backup", dir.image("image", MIB), link, "--map", map));
    assert!(!dir.path("new").exists());
}
