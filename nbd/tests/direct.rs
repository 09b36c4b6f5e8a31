//! A file past the page cache: whole blocks or parts of them, at its odd end too, each byte is where it belongs.

mod common;

use common::{KIB, pattern};
use dirtymap_nbd::{Backend, FileBackend, Zeroes};
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// Some blocks, and a part of one.
const SIZE: usize = 600 * KIB + 1000;

/// A file of random bytes; nothing if its file system cannot do it.
fn direct() -> Option<(tempfile::TempDir, PathBuf, FileBackend)> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("image");
    fs::write(&path, pattern(0, SIZE)).expect("write");
    match FileBackend::open(&path, true).expect("open").directly() {
        Ok(file) => Some((dir, path, file)),
        Err(e) => {
            println!("SKIPPED: {} cannot be read past the page cache: {e}", dir.path().display());
            None
        }
    }
}

/// How many files this process has open past the page cache.
fn open_direct(of: &PathBuf) -> usize {
    let fds = fs::read_dir("/proc/self/fd").expect("list").flatten();
    let of_it = fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == *of));
    let flags = of_it.map(|fd| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.file_name().display())).expect("read");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("its flags").trim();
        u32::from_str_radix(flags, 8).expect("a number")
    });
    flags.filter(|flags| flags & rustix::fs::OFlags::DIRECT.bits() != 0).count()
}

#[test]
fn each_byte_is_where_it_belongs() {
    let Some((_dir, path, file)) = direct() else { return };
    assert_eq!(open_direct(&path), 1);
    let mut expected = pattern(0, SIZE);
    let mut random = 1u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % below
    };
    for round in 0..400 {
        // Whole blocks, parts, what crosses pieces, and the end.
        let (at, length) = match round % 4 {
            0 => (next(100) * 4096, (next(40) + 1) * 4096),
            1 => (next(SIZE), next(9000)),
            2 => (next(SIZE), next(SIZE)),
            _ => (SIZE - 1 - next(10_000), SIZE),
        };
        let length = length.min(SIZE - at);
        let data = pattern(round * 31, length);
        match round % 5 {
            0..3 => {
                expected[at..at + length].copy_from_slice(&data);
                file.write(at as u64, &data, round % 7 == 0).expect("write");
            }
            3 if length > 0 => {
                expected[at..at + length].fill(0);
                file.write_zeroes(at as u64, length as u64, Zeroes::default()).expect("zeroes");
            }
            _ => {
                let mut found = vec![1; length];
                file.read(at as u64, &mut found).expect("read");
                assert!(found == expected[at..at + length], "{at} {length}");
            }
        }
    }
    let mut found = vec![1; SIZE];
    file.read(0, &mut found).expect("read");
    assert!(found == expected);
    // Also for who reads through the page cache, and no longer than it was.
    assert!(fs::read(&path).expect("read") == expected);
}

/// What is in the page cache is read from the device all the same, by the count that the kernel keeps.
#[test]
fn reads_come_from_the_device() {
    let Some((dir, path, file)) = direct() else { return };
    let kind = rustix::fs::statfs(dir.path()).expect("look").f_type as u64;
    let counted = || -> Option<u64> {
        let io = fs::read_to_string("/proc/self/io").ok()?;
        io.lines().find_map(|line| line.strip_prefix("read_bytes: "))?.parse().ok()
    };
    // ext4, XFS, btrfs: on a device, as those in memory are not.
    let (true, Some(before)) = ([0xef53, 0x5846_5342, 0x9123_683e].contains(&kind), counted()) else {
        return println!("SKIPPED: no count of what is read from the device of {}", dir.path().display());
    };
    assert_eq!(fs::read(&path).expect("read").len(), SIZE);
    for _ in 0..20 {
        file.read(0, &mut [0; 512 * KIB]).expect("read");
    }
    // More than the other tests here read of theirs meanwhile, if they did it wrongly.
    assert!(counted().expect("a number") - before >= 20 * 512 * KIB as u64);
}

/// Two that change parts of one block: neither writes back what was there before the other one.
#[test]
fn parts_of_one_block_are_changed_one_after_the_other() {
    const ROUNDS: usize = 300;
    let Some((_dir, path, file)) = direct() else { return };
    let part = |which: usize| move |round: usize| [(which * 100 + round % 100) as u8; 512];
    std::thread::scope(|scope| {
        for which in 0..2 {
            let (file, path, part) = (&file, &path, part(which));
            scope.spawn(move || {
                let at = 8192 + which as u64 * 2048;
                for round in 0..ROUNDS {
                    file.write(at, &part(round), false).expect("write");
                    let mut found = [0; 512];
                    file.read(at, &mut found).expect("read");
                    assert_eq!(found, part(round), "{}: {which}, {round}", path.display());
                }
            });
        }
    });
    let found = fs::read(&path).expect("read");
    for which in 0..2 {
        assert_eq!(found[8192 + which * 2048..][..512], part(which)(ROUNDS - 1));
    }
    assert_eq!(found[8192 + 512..8192 + 2048], pattern(0, SIZE)[8192 + 512..8192 + 2048]);
}

#[test]
fn what_is_not_there_is_an_error() {
    let Some((_dir, path, file)) = direct() else { return };
    let shorter = OpenOptions::new().write(true).open(path).expect("open");
    shorter.set_len(300 * KIB as u64 + 5).expect("cut");
    let mut into = vec![0; 8 * KIB];
    file.read(296 * KIB as u64, &mut into).expect_err("it was cut off");
    file.read(590 * KIB as u64, &mut into).expect_err("it was cut off");
    file.read(SIZE as u64 - 10, &mut [0; 10]).expect_err("it was cut off");
    file.read(0, &mut into).expect("read");
}

#[test]
fn a_file_system_that_cannot_do_it_says_so() {
    // One that nobody has ever written past a page cache.
    let file = File::open("/sys/kernel/uevent_seqnum").expect("open");
    assert!(file.as_raw_fd() > 0);
    match FileBackend::from_file(file, false) {
        Ok(file) => drop(file.directly().expect_err("refused")),
        Err(e) => println!("SKIPPED: sysfs has no lengths here: {e}"),
    }
}
