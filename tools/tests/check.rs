//! Check in bounds and in all circumstances: little memory, whatever the size and whatever is wrong; read-only media;
//! maps in use; and what a power cut would leave.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::{Dir, GRANULE, MIB, damage_page, dirtymap, header, untouched};
use dirtymap::{Access, Durability, Options};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// Runs the command where it can have no more memory than that, all of its address space together.
fn in_memory(mib: u64, args: &[&str], map: &Path) -> common::Ran {
    let script = format!("ulimit -v {} && exec \"$0\" \"$@\"", mib * 1024);
    let program = dirtymap().get_program().to_owned();
    Command::new("sh").arg("-c").arg(script).arg(program).args(args).arg(map).output().expect("run").into()
}

#[test]
fn a_sparse_file_of_32_gib_is_checked_in_64_mib() {
    let dir = Dir::new();
    let map = dir.path("m");
    // Three bits on the disk for each granule, and some more: 2^36.4 of them.
    let bits = 91_000_000_000u64;
    let live = Options::new().granularity(0).create(&map, bits).expect("create");
    for at in [0, bits / 3, bits - 1] {
        live.set(at..at + 1).expect("set");
    }
    live.freeze(Some("f")).expect("freeze");
    live.set(7..8).expect("set");
    live.close().expect("close");
    let length = fs::metadata(&map).expect("look").len();
    assert!(length > 32 << 30, "{length}");
    let json = in_memory(64, &["check", "--output", "json"], &map).exits(0).json();
    assert_eq!((json["dirty_bits"].as_u64(), json["findings"].as_array().map(Vec::len)), (Some(4), Some(0)));
    in_memory(64, &["repair"], &map).exits(0);
    // Not because there is no limit.
    assert_ne!(in_memory(64, &["count"], &map).code, 0);
}

#[test]
fn very_many_failed_pages_are_counted_and_the_first_are_told() {
    let dir = Dir::new();
    let map = dir.path("m");
    let pages = 200_000u64;
    Options::new().granularity(0).dirty(true).create(&map, pages * 4096).expect("create").close().expect("close");
    let table = header(&map).layout.table.start;
    let file = fs::File::options().write(true).open(&map).expect("open");
    // Every second entry, and at last a hundred together.
    let mut entries = vec![0; 4 * pages as usize];
    fs::File::open(&map).expect("open").read_exact_at(&mut entries, table).expect("read");
    for page in (0..pages as usize).filter(|p| p % 2 == 0 || p + 100 > pages as usize) {
        entries[4 * page] ^= 1;
    }
    file.write_all_at(&entries, table).expect("write");
    let ran = in_memory(64, &["check", "--output", "json"], &map).exits(4);
    let json = ran.json();
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(1000));
    assert_eq!(json["omitted_findings"], pages / 2 - 50 - 1000 + 1);
    assert_eq!(json["omitted_pages"], pages / 2 + 50 - 1000);
    assert_eq!(json["dirty_bits"], pages * 4096);
    let human = in_memory(64, &["check"], &map).exits(4).out;
    assert!(human.contains(&format!("and {} more findings about {}", json["omitted_findings"], json["omitted_pages"])));
    dm!("repair", map).exits(1);
    dm!("check", map).exits(0);
}

#[test]
fn what_a_power_cut_would_leave() {
    let dir = Dir::new();
    let len = 64 * MIB;
    for (durability, owed) in [(Durability::PowerLoss, 64 * GRANULE), (Durability::Process, len)] {
        let map = dir.path(&format!("{durability:?}"));
        let live = Options::new().durability(durability).access(Access::Shared).create(&map, len);
        let live = match live {
            Err(e) => {
                common::skipped(&format!("no shared map here: {e}"));
                continue;
            }
            Ok(live) => live,
        };
        live.set(MIB..MIB + 1).expect("set");
        let now = untouched(&map, || dm!("check", map, "--output", "json").exits(0).json());
        assert_eq!((now["live"].as_bool(), now["dirty_bytes"].as_u64()), (Some(true), Some(GRANULE)));
        assert!(!now["unchecked"].as_array().expect("a list").is_empty());
        let then = untouched(&map, || dm!("check", map, "--assume-power-loss", "--output", "json").exits(2).json());
        assert_eq!((then["live"].as_bool(), then["assume_power_loss"].as_bool()), (Some(true), Some(true)));
        assert_eq!(then["dirty_bytes"], owed, "{durability:?}");
        live.close().expect("close");
        let closed = dm!("check", map, "--assume-power-loss", "--output", "json").exits(0).json();
        assert_eq!((closed["dirty_bytes"].as_u64(), closed["live"].as_bool()), (Some(GRANULE), Some(false)));
    }
}

#[test]
fn read_only_files_and_media_are_checked() {
    let dir = Dir::new();
    let map = dir.map("m", 64 * MIB, &[MIB..2 * MIB]);
    dir.unclean("unclean", 64 * MIB, &[]);
    fs::set_permissions(&map, fs::Permissions::from_mode(0o444)).expect("chmod");
    untouched(&map, || dm!("check", map).exits(0));
    if !common::is_root() {
        return common::skipped("a read-only mount needs root");
    }
    let at = dir.path("mount");
    fs::create_dir(&at).expect("a directory");
    let from = map.parent().expect("a directory");
    let unmount = common::Cleanup::new("umount", &[at.as_os_str()]);
    if !common::system("mount", &["--bind".as_ref(), from.as_os_str(), at.as_os_str()])
        || !common::system("mount", &["-o".as_ref(), "remount,ro,bind".as_ref(), at.as_os_str()])
    {
        return common::skipped("no bind mounts here");
    }
    let there = at.join("m");
    dm!("check", there).exits(0);
    dm!("check", there, "--assume-power-loss").exits(0);
    dm!("repair", there).exits(0);
    let there = at.join("unclean");
    dm!("check", there).exits(2);
    dm!("repair", there, "--dry-run").exits(8).says("Read-only");
    dm!("repair", there).exits(8).says("Read-only");
    drop(unmount);
}

/// Words for what was not given, names for what was.
#[test]
fn advice_names_the_files_that_were_given() {
    let dir = Dir::new();
    let (map, image, other) = (dir.map("m", MIB, &[]), dir.image("image", MIB), dir.image("other", MIB));
    let named = dir.path("named");
    dm!("create", named, "--image", image).exits(0);
    let advice = |args: &[&std::ffi::OsStr], code| {
        let line = [&["check".as_ref(), "--output=json".as_ref()], args].concat();
        common::run(line).exits(code).json()["advice"].as_str().expect("text").to_string()
    };
    let said = advice(&[named.as_os_str(), "--image".as_ref(), other.as_os_str()], 1);
    let expected = format!("dirtymap backup {} TARGET --map {} --force", other.display(), named.display());
    assert!(said.contains(&expected), "{said}");
    damage_page(&map);
    let said = advice(&[map.as_os_str()], 4);
    assert!(said.contains(&format!("dirtymap repair {} --undo UNDO", map.display())), "{said}");
    // Where it names the page table, all of that is lost.
    common::patch(&map, |bytes| bytes.truncate(262_144));
    let said = advice(&[map.as_os_str()], 4);
    assert!(said.contains(&format!("dirtymap repair {} --undo UNDO", map.display())), "{said}");
    for said in [said, advice(&[named.as_os_str()], 0)] {
        assert!(!said.contains("FILE"), "{said}");
    }
}
