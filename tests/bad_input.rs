//! Files that are no maps, or are broken ones: an error that says so, or the documented degradation. Dirt is never
//! lost, nothing panics, and an operation that fails leaves the file as it was.

use dirtymap::format::{self, COPIES, COPY_BYTES, FIXED_BYTES};
use dirtymap::{DirtyMap, Options, fsck::check, info::inspect};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[path = "golden/xxd.rs"]
#[allow(dead_code, reason = "the dumps are only read here")]
mod xxd;

/// A map of 40 MiB with granules of 4 KiB, closed cleanly; 132608 bytes, up to the end of its last page.
fn small() -> Vec<u8> {
    xxd::undump(include_str!("golden/files/clean-dirty.xxd"))
}

const GRANULE: u64 = 4096;
/// What is dirty in it, in granules.
fn dirt() -> impl Iterator<Item = u64> {
    [3].into_iter().chain(64..130).chain(4090..4100).chain([10239])
}

fn quiet() -> Options {
    Options::new().flush_interval(None)
}

fn holds_the_dirt(map: &DirtyMap) -> bool {
    dirt().all(|granule| map.get(granule * GRANULE).unwrap())
}

/// Gives the file to everything that only reads. All of it fails, or nothing is missing.
fn reads(path: &Path, bytes: &[u8], what: &str) -> Option<&'static str> {
    fs::write(path, bytes).unwrap();
    let map = quiet().read_only(true).open(path);
    let (info, report) = (inspect(path), check(path, |_, _| {}));
    assert!(fs::read(path).unwrap() == bytes, "{what}: changed by reading");
    match map {
        Ok(map) => {
            assert!(holds_the_dirt(&map), "{what}: lost dirt");
            let dirty = Some((map.count(), map.dirty_len()));
            assert_eq!((info.unwrap().dirty, report.unwrap().info.dirty), (dirty, dirty), "{what}");
            None
        }
        Err(error) => {
            assert_eq!(info.unwrap_err().kind(), error.kind(), "{what}");
            assert_eq!(report.unwrap_err().kind(), error.kind(), "{what}");
            Some(error.kind())
        }
    }
}

/// Then opens it for writing.
fn writes(path: &Path, bytes: &[u8], what: &str) {
    match quiet().open(path) {
        Ok(map) => {
            assert!(holds_the_dirt(&map), "{what}: lost dirt");
            map.close().unwrap();
            let map = quiet().read_only(true).open(path).unwrap();
            assert!(holds_the_dirt(&map), "{what}: lost dirt by recovery");
        }
        Err(_) => assert!(fs::read(path).unwrap() == bytes, "{what}: changed by an open that failed"),
    }
}

#[track_caller]
fn all_fail(path: &Path, kind: &str) {
    for error in [
        quiet().open(path).map(drop),
        quiet().read_only(true).open(path).map(drop),
        inspect(path).map(drop),
        check(path, |_, _| {}).map(drop),
    ] {
        let error = error.expect_err("accepted");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error} does not name the file");
    }
}

#[test]
fn what_is_no_dirtymap_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let noise: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for bytes in [&b""[..], b"x", b"#!/bin/sh\necho hello\n", &[0; 200_000], &noise] {
        assert_eq!(reads(&path, bytes, "no dirtymap"), Some("not-a-dirtymap"));
        all_fail(&path, "not-a-dirtymap");
        assert!(fs::read(&path).unwrap() == bytes);
    }
    // A magic and nothing else is a broken one.
    fs::write(&path, format::MAGIC).unwrap();
    all_fail(&path, "corrupt");
}

#[test]
fn a_file_cut_anywhere_is_refused_or_dirtier() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let whole = small();
    let mut kinds = std::collections::BTreeMap::new();
    for end in (0..=whole.len()).step_by(512) {
        let what = format!("cut at {end}");
        let bytes = &whole[..end];
        let kind = reads(&path, bytes, &what);
        *kinds.entry(kind).or_insert(0) += 1;
        writes(&path, bytes, &what);
        // Whatever is still there of the page table says which pages are missing.
        assert_eq!(kind.is_none(), end > 0x4_0000, "{what}: {kind:?}");
    }
    assert_eq!(kinds.keys().flatten().copied().collect::<Vec<_>>(), ["corrupt", "not-a-dirtymap"]);
}

#[test]
fn what_is_no_regular_file_is_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    all_fail(dir.path(), "is-a-directory");
    all_fail(&dir.path().join("missing"), "not-found");
    all_fail(Path::new("/dev/null"), "io");
    let fifo = dir.path().join("fifo");
    let name = CString::new(fifo.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name is a valid C string.
    #[allow(unsafe_code, reason = "std cannot make a FIFO")]
    let made = unsafe { libc::mkfifo(name.as_ptr(), 0o600) };
    assert_eq!(made, 0);
    all_fail(&fifo, "io");
    let loops = dir.path().join("loop");
    std::os::unix::fs::symlink(&loops, &loops).unwrap();
    all_fail(&loops, "io");
    assert_eq!(Options::new().create(&loops, 1).unwrap_err().kind(), "exists");
    assert_eq!(Options::new().create(dir.path(), 1).unwrap_err().kind(), "exists");
    assert_eq!(Options::new().create(dir.path().join("no/where"), 1).unwrap_err().kind(), "not-found");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "something was left behind");
}

#[test]
fn without_permission_the_error_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, small()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        eprintln!("SKIPPED: this user may read everything (root?), permissions were not tested");
        return;
    }
    all_fail(&path, "permission");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(quiet().open(&path).unwrap_err().kind(), "permission");
    assert!(holds_the_dirt(&quiet().read_only(true).open(&path).unwrap()));
}

#[test]
fn arguments_that_no_map_can_have_leave_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let kind = |options: Options, len| options.create(&path, len).unwrap_err().kind();
    assert_eq!(kind(Options::new().granularity(64), 1), "geometry");
    assert_eq!(kind(Options::new().granularity(0), (1 << 41) + 1), "geometry");
    assert_eq!(kind(Options::new(), 1 << 63), "geometry");
    assert_eq!(kind(Options::new().label("x".repeat(253)), 1), "refused");
    assert_eq!(kind(Options::new().label("a\0b"), 1), "refused");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Flips bits of a file, one at a time: every `step`th of `range`, which is in bytes.
fn flips(file: &[u8], range: std::ops::Range<usize>, step: usize, write_every: usize) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = dir.path().join("file");
    for (i, bit) in (range.start * 8..range.end * 8).step_by(step).enumerate() {
        let mut bytes = file.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let what = format!("bit {} of byte {:#x}", bit % 8, bit / 8);
        assert_eq!(reads(&path, &bytes, &what), None, "{what}: one bit is no reason to refuse a map");
        if i % write_every == 0 {
            writes(&path, &bytes, &what);
        }
    }
}

/// The bytes that matter: two header copies (the newest and an old one), the page table, page 0 and an empty page.
const PLACES: [std::ops::Range<usize>; 5] = [
    COPY_BYTES..COPY_BYTES + 1024,
    2 * COPY_BYTES..2 * COPY_BYTES + 1024,
    0x4_0000..0x4_000c,
    0x5_0000..0x5_0200,
    0x2_0400..0x2_0600,
];

#[test]
fn a_flipped_bit_never_loses_dirt() {
    // The same bits, left behind by a crash: no count of a clean close helps there.
    let unclean = xxd::undump(include_str!("golden/files/unclean-idle.xxd"));
    for file in [small(), unclean] {
        for place in PLACES {
            let step = if place.len() < 100 { 1 } else { 61 };
            flips(&file, place, step, 4);
        }
    }
}

/// Of a map that was not closed, nothing else may say that it is dirty.
#[test]
fn a_flipped_bit_never_loses_what_an_intent_covers() {
    let file = xxd::undump(include_str!("golden/files/intent-unclean.xxd"));
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = dir.path().join("file");
    // The fields and the point in the newest header, the point's page table, and its pages.
    let places = [0x1_0290..0x1_02a4, 0x1_0800..0x1_0840, 0xc_0000..0xc_0008, 0xd_0008..0xd_000a, 0xd_03e0..0xd_03f0];
    for bit in places.into_iter().flat_map(|bytes| bytes.start * 8..bytes.end * 8) {
        let mut bytes = file.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        let whole = |map: DirtyMap| {
            let covered = dirt().chain(64..80).chain(8000..8016);
            covered.into_iter().all(|granule| map.get(granule * GRANULE).unwrap())
        };
        assert!(whole(quiet().read_only(true).open(&path).unwrap()), "bit {bit}");
        if bit % 7 == 0 {
            assert!(whole(quiet().open(&path).unwrap()), "bit {bit}, opened for writing");
        }
    }
}

#[test]
#[ignore = "takes minutes"]
fn no_flipped_bit_at_all_loses_dirt() {
    let file = small();
    for place in PLACES {
        flips(&file, place, 1, 1);
    }
}

/// With a single copy left, a flipped bit in it is an error, and never another answer.
#[test]
fn a_flipped_bit_in_the_last_header_copy_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let mut file = small();
    for copy in [0, 2, 3] {
        file[copy * COPY_BYTES..][..COPY_BYTES].fill(0);
    }
    assert_eq!(COPIES, 4);
    assert_eq!(reads(&path, &file, "one copy"), None);
    for bit in (0..FIXED_BYTES * 8).step_by(131) {
        let mut bytes = file.clone();
        bytes[COPY_BYTES + bit / 8] ^= 1 << (bit % 8);
        let kind = reads(&path, &bytes, &format!("bit {bit}"));
        assert!(matches!(kind, Some("corrupt" | "not-a-dirtymap" | "unsupported")), "bit {bit}: {kind:?}");
        assert!(quiet().open(&path).is_err());
        assert!(fs::read(&path).unwrap() == bytes);
    }
}

/// A file system with blocks of 64 KiB writes whole blocks: what the power takes away with a commit is every block that
/// the commit had begun to write. The newest durable header lies in none of them.
#[test]
fn a_commit_that_tears_whole_blocks_of_64_kib_loses_nothing() {
    const BLOCK: usize = 65536;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let map = quiet().create(&path, 1 << 40).unwrap();
    for at in [0, 1 << 30, 1 << 35] {
        map.set(at..at + 1).unwrap();
        // As a crash leaves it, whichever pair the next commit goes to.
        let mut file = fs::read(&path).unwrap();
        let sequence = |copy: usize| format::Header::parse(&file[copy * COPY_BYTES..]).map_or(0, |h| h.sequence);
        let newest = (0..COPIES).max_by_key(|&copy| sequence(copy)).map(format::pair_of).unwrap();
        for copy in format::copies_of(1 - newest) {
            let block = copy * COPY_BYTES / BLOCK * BLOCK;
            file[block..block + BLOCK].fill(0xaa);
        }
        let torn = dir.path().join("torn");
        fs::write(&torn, &file).unwrap();
        let after = quiet().open(&torn).unwrap();
        for set in [0, 1 << 30, 1 << 35].into_iter().filter(|&set| set <= at) {
            assert!(after.get(set).unwrap(), "{set} is forgotten");
        }
    }
    map.close().unwrap();
}
