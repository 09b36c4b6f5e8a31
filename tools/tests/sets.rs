//! Backup sets: every member is the image as it was, for this command and for QEMU's tools.

#![allow(clippy::single_range_in_vec_init, reason = "a list of one dirty range is what is meant")]

mod common;

use common::sets::{assert_qemu_agrees, qemu, qemu_img};
use common::{Cleanup, Dir, GRANULE, KIB, MIB, Set, areas, is_root, pattern, skipped, system};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: u64 = 4 * MIB + 12345;

#[test]
fn every_member_is_the_image_as_it_was_for_this_command_and_for_qemu() {
    for granule in ["512", "4K", "64K", "1M"] {
        for size in [0, 1, 512, 65536, SIZE] {
            let dir = Dir::new();
            let (image, map, target) = (dir.image("disk.raw", size), dir.path("disk.map"), dir.path("unused"));
            dm!("create", map, "--image", image, "-g", granule).exits(0);
            let set = Set { dir, image, map, target };
            assert_eq!(set.keep(1, &[])["full"], true);
            for number in 2..5 {
                if size > 0 {
                    set.write(size * u64::from(number) / 7, &pattern((size / 9).clamp(1, 100 * KIB), number.into()));
                    set.write(size - 1, &[number as u8]);
                }
                assert_eq!(set.keep(number, &[])["full"], false, "granules of {granule}, {size} bytes");
            }
            for number in 1..5 {
                set.assert_restores(number);
                if qemu_img() {
                    assert_qemu_agrees(&set.member(number), &set.dir.path(&format!("reference-{number}")));
                }
            }
            dm!("set", "verify", set.folder(), "--against", set.image).exits(0);
        }
    }
    if !qemu_img() {
        skipped("members as QEMU reads them: no qemu-img");
    }
}

#[test]
fn a_member_names_the_one_below_it_and_qemu_finds_it_wherever_the_folder_is() {
    let set = Set::of_image(SIZE);
    set.keep(1, &[]);
    set.write(MIB, b"two");
    set.keep(2, &["--name", "monday", "--consistency", "app"]);
    let moved = set.dir.path("moved");
    fs::rename(set.folder(), &moved).expect("move");
    assert!(dm!("set", "list", moved).exits(0).out.contains("app      monday\n"));
    if !qemu_img() {
        return skipped("a chain as QEMU shows it: no qemu-img");
    }
    let member = moved.join("0002.qcow2");
    let (fine, said) = qemu(
        &["info", "--backing-chain"].map(OsStr::new).iter().copied().chain([member.as_os_str()]).collect::<Vec<_>>(),
    );
    assert!(fine && said.contains("backing file: 0001.qcow2") && said.contains("backing file format: qcow2"), "{said}");
    assert_qemu_agrees(&member, &set.dir.path("reference-2"));
}

#[test]
fn zeros_take_no_room_and_neither_does_what_was_written_as_it_was() {
    let set = Set::of_image(SIZE);
    set.keep(1, &[]);
    let same = fs::read(&set.image).expect("read")[MIB as usize..2 * MIB as usize].to_vec();
    set.write(MIB, &same);
    set.write(3 * MIB, &[0; 2 * GRANULE as usize]);
    let second = set.keep(2, &[]);
    assert_eq!(second["member"]["bytes_equal"], MIB);
    assert_eq!((second["bytes_copied"].as_u64(), second["bytes_holes"].as_u64()), (Some(0), Some(2 * GRANULE)));
    assert_eq!(second["bytes_verified"], MIB + 2 * GRANULE);
    set.assert_restores(2);
    // Told to, it is stored. Zeros over zeros are not, in any case.
    set.write(MIB, &same);
    set.write(3 * MIB, &[0; GRANULE as usize]);
    let third = set.keep(3, &["--store-equal"]);
    assert_eq!((third["bytes_copied"].as_u64(), third["member"]["bytes_equal"].as_u64()), (Some(MIB), Some(0)));
    assert!(fs::metadata(set.member(3)).expect("stat").len() > MIB);
    let listed = dm!("set", "info", set.folder(), "--output", "json").exits(0).json();
    let held = |i: usize, what: &str| listed["members"][i][what].as_u64().expect("a number");
    assert_eq!((held(1, "bytes_data"), held(1, "bytes_zeros")), (0, 2 * GRANULE));
    assert_eq!((held(2, "bytes_data"), held(2, "bytes_zeros")), (MIB, 0));
    set.assert_restores(3);
}

#[test]
fn an_image_that_is_cut_and_grown_is_in_each_member_as_long_as_it_was() {
    let set = Set::of_image(SIZE);
    let resize = |size: u64| {
        if size < fs::metadata(&set.image).expect("stat").len() {
            fs::File::options().write(true).open(&set.image).expect("open").set_len(size).expect("cut");
            dm!("resize", set.map, size.to_string()).exits(0);
        } else {
            dm!("resize", set.map, size.to_string(), "--image", set.image).exits(0);
        }
    };
    set.keep(1, &[]);
    resize(MIB);
    assert_eq!(set.keep(2, &[])["full"], false);
    resize(SIZE + MIB);
    set.write(2 * MIB, b"behind what was the end");
    assert_eq!(set.keep(3, &[])["full"], false);
    // Cut and grown again between two backups: what is there now is zeros, and the member below has data there.
    resize(MIB + 5);
    resize(SIZE);
    assert_eq!(set.keep(4, &[])["full"], false);
    for number in 1..5 {
        set.assert_restores(number);
        if qemu_img() {
            assert_qemu_agrees(&set.member(number), &set.dir.path(&format!("reference-{number}")));
        }
    }
}

#[test]
fn other_backups_in_between_take_nothing_from_a_set() {
    let set = Set::of_image(SIZE);
    set.keep(1, &[]);
    set.write(0, b"for both");
    dm!("backup", set.image, set.target, "--map", set.map).exits(0);
    let other = set.dir.path("other");
    set.write(MIB, b"for all");
    dm!("backup", set.image, "--set", other, "--map", set.map).exits(0);
    let second = set.keep(2, &[]);
    assert_eq!((second["full"].as_bool(), second["areas"].as_u64()), (Some(false), Some(2)));
    set.assert_restores(2);
    set.write(2 * MIB, b"more");
    let told = dm!("backup", set.image, "--set", other, "--map", set.map, "--output", "json").exits(0).json();
    assert_eq!(told["full"], false);
    dm!("set", "verify", other, "--against", set.image).exits(0);
    // The map keeps one point for each set.
    let points = dm!("checkpoint", "list", set.map, "--output", "json").exits(0).json();
    assert_eq!(points.as_array().map(Vec::len), Some(2), "{points}");
}

/// What makes a chain impossible makes the next member full, says why, and leaves the others.
#[test]
fn a_chain_that_is_impossible_is_begun_anew_and_says_why() {
    let after = |change: &dyn Fn(&Set), why: &str| {
        let set = Set::of_image(SIZE);
        set.keep(1, &[]);
        set.write(MIB, b"two");
        set.keep(2, &[]);
        change(&set);
        set.write(2 * MIB, b"three");
        let told = set.to_set(&["--output", "json"]).exits(0).json();
        assert_eq!((told["full"].as_bool(), told["member"]["number"].as_str()), (Some(true), Some("0003")), "{why}");
        let said = told["member"]["why_full"].as_str().expect("a reason");
        assert!(said.contains(why), "{said}");
        set.dir.copy(&set.image, "reference-3");
        set.assert_restores(3);
        // And goes on from there.
        set.write(3 * MIB, b"four");
        assert_eq!(set.keep(4, &[])["full"], false);
        set.assert_restores(4);
        set
    };
    let patch = |number: u32, change: fn(&mut Vec<u8>)| move |set: &Set| common::patch(&set.member(number), change);
    let set = after(&|set| fs::remove_file(set.member(2)).expect("remove"), "No such file");
    set.assert_restores(1);
    after(&patch(2, |bytes| bytes.truncate(bytes.len() - 1)), "had");
    let set = after(&patch(1, |bytes| bytes[400_000] ^= 1), "SHA-256");
    dm!("set", "verify", set.folder()).exits(4);
    after(
        &|set| {
            let points = dm!("checkpoint", "list", set.map, "--output", "json").exits(0).json();
            dm!("checkpoint", "drop", set.map, "--name", points[0]["name"].as_str().expect("a name")).exits(0);
        },
        "does not know any more",
    );
    after(
        &|set| {
            fs::remove_file(&set.map).expect("remove");
            dm!("create", set.map, "--image", set.image).exits(0);
        },
        "another map",
    );
    let set = Set::of_image(SIZE);
    set.keep(1, &[]);
    assert_eq!(set.keep(2, &["--full"])["member"]["why_full"], "it was asked for (--full)");
    set.assert_restores(2);
}

/// Copied with other times and inodes, it is proved by its bytes.
#[test]
fn a_set_that_was_copied_goes_on() {
    let set = Set::of_image(SIZE);
    set.keep(1, &[]);
    set.write(MIB, b"two");
    let copy = set.dir.path("copy");
    assert!(system("cp", &[OsStr::new("-r"), set.folder().as_os_str(), copy.as_os_str()]));
    fs::remove_dir_all(set.folder()).expect("remove");
    fs::rename(copy, set.folder()).expect("move");
    assert_eq!(set.keep(2, &[])["full"], false);
    set.assert_restores(2);
}

#[test]
fn an_older_member_is_found_by_name_number_and_time() {
    let set = Set::of_image(SIZE);
    set.keep(1, &["--name", "first"]);
    set.write(0, b"second");
    let (folder, out) = (set.folder(), set.dir.path("new"));
    // Times are whole seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    set.keep(2, &[]);
    let listed = dm!("set", "list", folder, "--output", "json").exits(0).json();
    let times = [0, 1].map(|i| listed[i]["time"].as_str().expect("a time").to_string());
    let restored = |from: String, more: &[&str]| {
        let mut args = vec!["restore".to_string(), from, out.display().to_string()];
        args.extend(more.iter().map(ToString::to_string));
        args.extend(["--output", "json"].map(Into::into));
        let told = common::run(args).exits(0).json();
        fs::remove_file(&out).expect("remove");
        told["member"].as_str().expect("a number").to_string()
    };
    let at = |member: &str| format!("{}@{member}", folder.display());
    let plain = folder.display().to_string();
    assert_eq!(restored(at("first"), &[]), "0001");
    assert_eq!(restored(at("2"), &[]), "0002");
    assert_eq!(restored(at("0001"), &[]), "0001");
    assert_eq!(restored(plain.clone(), &[]), "0002");
    assert_eq!(restored(plain.clone(), &["--until", &times[0]]), "0001");
    assert_eq!(restored(plain.clone(), &["--until", &times[1]]), "0002");
    let ran = dm!("restore", at("third"), out).exits(8).says("first, 0002");
    assert!(ran.out.is_empty());
    dm!("restore", plain, out, "--until", "1999-12-31T23:59:59+01:00").exits(8).says(&times[0]);
    dm!("restore", plain, out, "--until", "tomorrow").exits(16);
    dm!("restore", at("first"), out, "--until", times[1]).exits(16);
    set.to_set(&["--name", "first"]).exits(8).says("0001 is named");
    set.to_set(&["--name", "17"]).exits(8).says("no number");
}

#[test]
fn restoring_overwrites_nothing_and_leaves_nothing_when_it_fails() {
    let set = Set::of_image(SIZE);
    set.keep(1, &[]);
    let out = set.dir.path("there");
    fs::write(&out, b"precious").expect("write");
    dm!("restore", set.folder(), out).exits(8).says("exists");
    dm!("restore", set.folder(), out, "--force").exits(8);
    assert_eq!(fs::read(&out).expect("read"), b"precious");
    dm!("restore", set.dir.path("nowhere"), set.dir.path("new")).exits(8);
    let empty = set.dir.path("empty");
    fs::create_dir(&empty).expect("make");
    dm!("restore", empty, set.dir.path("new")).exits(8).says("no backup set");
    assert!(!set.dir.path("new").exists());
}

#[test]
fn a_restored_image_is_as_sparse_as_it_was() {
    let dir = Dir::new();
    let (image, map, target) = (dir.path("disk.raw"), dir.path("disk.map"), dir.path("unused"));
    let file = fs::File::create(&image).expect("create");
    file.set_len(256 * MIB).expect("set size");
    file.write_all_at(&pattern(MIB, 1), 100 * MIB).expect("write");
    dm!("create", map, "--image", image).exits(0);
    let set = Set { dir, image, map, target };
    set.keep(1, &[]);
    assert!(fs::metadata(set.member(1)).expect("stat").len() < 2 * MIB);
    let out = set.dir.path("new");
    dm!("restore", set.folder(), out).exits(0);
    assert!(fs::metadata(&out).expect("stat").blocks() * 512 < 8 * MIB);
    assert!(fs::read(&out).expect("read") == fs::read(&set.image).expect("read"));
}

#[test]
fn the_tracked_image_is_brought_back_by_what_differs_and_the_map_goes_on() {
    let set = Set::of_image(SIZE);
    set.keep(1, &[]);
    set.write(MIB, b"a mistake");
    set.write(SIZE - 3, b"one");
    set.keep(2, &[]);
    set.write(2 * MIB, b"another mistake");
    let from = format!("{}@1", set.folder().display());
    let told = dm!("restore", from, set.image, "--map", set.map, "--output", "json").exits(0).json();
    let tail = SIZE % GRANULE;
    assert_eq!(told["bytes_written"], 2 * GRANULE + tail);
    assert!(fs::read(&set.image).expect("read") == fs::read(set.dir.path("reference-1")).expect("read"));
    let last = SIZE / GRANULE * GRANULE;
    assert_eq!(areas(&set.map), [MIB..MIB + GRANULE, 2 * MIB..2 * MIB + GRANULE, last..SIZE]);
    // The next member has it again, and only what differs from the last one.
    let third = set.keep(3, &[]);
    assert_eq!((third["full"].as_bool(), third["bytes_copied"].as_u64()), (Some(false), Some(GRANULE + tail)));
    set.assert_restores(3);
    dm!("set", "verify", set.folder(), "--against", set.image).exits(0);
    // Of another length or another image it is none.
    dm!("resize", set.map, (SIZE + MIB).to_string(), "--image", set.image).exits(0);
    dm!("restore", from, set.image, "--map", set.map).exits(8).says("length");
    let other = set.dir.image("other.raw", SIZE + MIB);
    dm!("restore", from, other, "--map", set.map).exits(8);
}

#[test]
fn a_pruned_set_has_what_it_is_told_to_keep() {
    let set = Set::of_image(SIZE);
    for number in 1..6 {
        set.write(u64::from(number) * 300_000, &pattern(200_000, number.into()));
        set.keep(number, &[]);
    }
    let prune = |keep: &str| dm!("set", "prune", set.folder(), "--keep", keep, "--output", "json").exits(0).json();
    assert_eq!(prune("9")["pruned"], serde_json::json!([]));
    assert_eq!(prune("3")["pruned"], serde_json::json!(["0001", "0002"]));
    for number in 3..6 {
        set.assert_restores(number);
        if qemu_img() {
            assert_qemu_agrees(&set.member(number), &set.dir.path(&format!("reference-{number}")));
        }
    }
    assert!(!set.member(1).exists() && !set.member(2).exists());
    dm!("set", "verify", set.folder()).exits(0);
    // A backup goes on, and prunes itself.
    set.write(0, b"six");
    let sixth = set.keep(6, &["--keep", "2"]);
    assert_eq!(
        (sixth["full"].as_bool(), &sixth["member"]["pruned"]),
        (Some(false), &serde_json::json!(["0003", "0004"]))
    );
    // A full one that is kept needs no merging.
    set.keep(7, &["--full"]);
    assert_eq!(prune("1")["bytes_written"], 0);
    set.assert_restores(7);
    set.write(0, b"eight");
    assert_eq!(set.keep(8, &["--keep", "1"])["full"], false);
    set.assert_restores(8);
    set.write(0, b"nine");
    assert_eq!(set.keep(9, &[])["full"], false, "what was merged is known all the same");
    set.assert_restores(9);
}

/// What a file system tool says of a file; `None` where there is no such tool.
fn tool(program: &str, args: &[&OsStr]) -> Option<(bool, String)> {
    let path = format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
    let found = path.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.exists())?;
    let ran = Command::new(found).args(args).output().expect("run it");
    Some((ran.status.success(), String::from_utf8_lossy(&ran.stdout).into()))
}

/// A file system with files, changed twice: each member is one without errors, with the files of its time.
#[test]
fn a_file_system_comes_back_whole_with_the_files_of_its_time() {
    let dir = Dir::new();
    let (tree, image, map) = (dir.path("tree"), dir.path("disk.raw"), dir.path("disk.map"));
    let make = |round: u64| {
        fs::create_dir_all(tree.join("mail")).expect("make");
        for n in 0..20 + round * 10 {
            fs::write(tree.join(format!("mail/{n}")), pattern(3000 * n + round, n + round)).expect("write");
        }
        fs::write(tree.join("round"), format!("round {round}\n")).expect("write");
        let new = tree.with_extension("raw");
        let words = ["-q", "-t", "ext4", "-b", "4096", "-U", "clear", "-E", "hash_seed=clear", "-d"].map(OsStr::new);
        let _ = fs::remove_file(&new);
        fs::File::create(&new).expect("create").set_len(24 * MIB).expect("set size");
        let made = tool("mke2fs", &[&words[..], &[tree.as_os_str(), new.as_os_str()]].concat());
        made.is_some_and(|(made, _)| made).then(|| fs::read(&new).expect("read"))
    };
    let Some(first) = make(1) else { return skipped("ext4 in a set: no mke2fs that fills a file system") };
    fs::write(&image, first).expect("write");
    dm!("create", map, "--image", image, "-g", "16K").exits(0);
    let set = Set { target: dir.path("unused"), dir, image, map };
    set.keep(1, &[]);
    for round in 2..4 {
        // As a guest would write it, but for the order: all of it, tracked.
        set.write(0, &make(round).expect("as before"));
        let told = set.keep(round as u32, &[]);
        assert_eq!(told["full"], false);
        assert!(told["bytes_copied"].as_u64() < Some(8 * MIB), "what is as before is not stored: {told}");
    }
    for round in 1..4u64 {
        let out = set.dir.path("restored.raw");
        dm!("restore", format!("{}@{round}", set.folder().display()), out).exits(0);
        let Some((fine, said)) = tool("e2fsck", &["-fn".as_ref(), out.as_os_str()]) else { continue };
        assert!(fine, "{said}");
        let cat = ["-R", "cat /round"].map(OsStr::new);
        let Some((_, said)) = tool("debugfs", &[&cat[..], &[out.as_os_str()]].concat()) else { continue };
        assert_eq!(said, format!("round {round}\n"));
        if let Some(_mounted) = mounted(&out, &set.dir.path("mounted")) {
            for n in 0..20 + round * 10 {
                let file = fs::read(set.dir.path(&format!("mounted/mail/{n}"))).expect("read");
                assert!(file == pattern(3000 * n + round, n + round), "file {n} of round {round}");
            }
        }
        fs::remove_file(out).expect("remove");
    }
}

/// Mounts a restored image, as long as the answer lives.
fn mounted(image: &Path, at: &Path) -> Option<Cleanup> {
    let words = ["-o", "ro,loop", "-t", "ext4"].map(OsStr::new);
    fs::create_dir_all(at).expect("make");
    if !is_root() || !system("mount", &[&words[..], &[image.as_os_str(), at.as_os_str()]].concat()) {
        skipped("a restored image, mounted: needs root and loop devices");
        return None;
    }
    Some(Cleanup::new("umount", &[at.as_os_str()]))
}

/// Clusters of QEMU's default, larger granules and smaller ones: each byte as QEMU reads it from the newest member.
#[test]
fn qemu_reads_through_the_chain_what_was_written() {
    let qemu_io = |file: &Path, pattern: u8, at: u64, length: u64| {
        let line = format!("read -P {pattern} {at} {length}");
        let words = ["-r", "-f", "qcow2", "-c", &line].map(OsStr::new);
        let ran = Command::new("qemu-io").args(words).arg(file).output().expect("run qemu-io");
        let said = String::from_utf8_lossy(&ran.stdout).to_string();
        assert!(
            ran.status.success() && !said.contains("verification failed") && said.contains("read "),
            "{line}: {said}"
        );
    };
    if !system("qemu-io", &[OsStr::new("--version")]) || !qemu_img() {
        return skipped("a chain as QEMU reads it: no qemu-io");
    }
    for granule in ["4K", "64K", "2M"] {
        let dir = Dir::new();
        let (image, map) = (dir.path("disk.raw"), dir.path("disk.map"));
        fs::write(&image, vec![1; 8 * MIB as usize]).expect("write");
        dm!("create", map, "--image", image, "-g", granule).exits(0);
        let set = Set { target: dir.path("unused"), dir, image, map };
        set.keep(1, &[]);
        set.write(MIB, &[2; 3 * MIB as usize]);
        set.keep(2, &[]);
        set.write(2 * MIB, &[0; MIB as usize]);
        set.write(3 * MIB + 512, &[3; 512]);
        set.keep(3, &[]);
        for (pattern, at, length) in [
            (1, 0, MIB),
            (2, MIB, MIB),
            (0, 2 * MIB, MIB),
            (2, 3 * MIB, 512),
            (3, 3 * MIB + 512, 512),
            (1, 4 * MIB, 4 * MIB),
        ] {
            qemu_io(&set.member(3), pattern, at, length);
        }
        qemu_io(&set.member(2), 2, 2 * MIB, MIB);
        qemu_io(&set.member(1), 1, 0, 8 * MIB);
        let words = ["compare", "-f", "raw", "-F", "qcow2"].map(OsStr::new);
        let member = set.member(3);
        let (same, said) = qemu(&[&words[..], &[set.image.as_os_str(), member.as_os_str()]].concat());
        assert!(same, "{said}");
    }
}

/// A loop device over a file.
fn loop_device(file: &Path) -> Option<(PathBuf, Cleanup)> {
    let made = Command::new("losetup").args(["-f", "--show"]).arg(file).output().ok()?;
    let device = String::from_utf8(made.stdout).ok()?.trim().to_string();
    let detach = Cleanup::new("losetup", &["-d", &device].map(OsStr::new));
    made.status.success().then_some((PathBuf::from(device), detach))
}

#[test]
fn a_block_device_is_backed_up_and_restored_to_when_told() {
    let dir = Dir::new();
    let (under_image, under_out) = (dir.image("a", 8 * MIB), dir.path("b"));
    fs::write(&under_out, pattern(9 * MIB, 77)).expect("write");
    let loops = is_root() && system("losetup", &[OsStr::new("--version")]);
    let (Some((image, _a)), Some((out, _b))) =
        (loops.then(|| loop_device(&under_image)).flatten(), loops.then(|| loop_device(&under_out)).flatten())
    else {
        return skipped("block devices: needs root and loop devices");
    };
    let map = dir.path("m");
    dm!("create", map, "--image", image).exits(0);
    let folder = dir.path("backups");
    dm!("backup", image, "--set", folder, "--map", map).exits(0);
    common::run_with(
        ["write", image.to_str().expect("text"), "--map", map.to_str().expect("text"), "--at", "1M"],
        &[0; 200_000],
    )
    .exits(0);
    let told = dm!("backup", image, "--set", folder, "--map", map, "--output", "json").exits(0).json();
    assert_eq!(told["full"], false);
    dm!("restore", folder, out).exits(8).says("--force");
    dm!("restore", folder, out, "--force").exits(0);
    let (image, out) = (fs::read(&image).expect("read"), fs::read(&out).expect("read"));
    assert!(out[..image.len()] == image[..]);
    // What is behind is as it was.
    assert!(out[image.len()..] == pattern(9 * MIB, 77)[image.len()..]);
}
