//! The life of a map in a file: create, set, reset, flush, close, open, read only.

use dirtymap::format::{COPIES, COPY_BYTES};
use dirtymap::{
    DirtyMap, Options,
    fsck::check,
    info::{FileState, Verdict, inspect},
};
use std::path::PathBuf;

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.map");
    (dir, path)
}

#[test]
fn what_was_set_is_there_after_a_clean_close() {
    let (_dir, path) = scratch();
    let map = Options::new().create(&path, 10 << 30).unwrap();
    map.set(4096..8192).unwrap();
    map.set((5 << 30)..(6 << 30)).unwrap();
    assert_eq!(map.count(), 1 + (1 << 14));
    let hash = map.sha256();
    map.close().unwrap();

    let info = inspect(&path).unwrap();
    assert_eq!((info.state, info.verdict), (FileState::Clean, Verdict::Exact));
    let map = DirtyMap::open(&path).unwrap();
    assert!(!map.recovery().added_dirt());
    assert_eq!(map.sha256(), hash);
    let areas: Vec<_> = map.extents(0..map.len()).unwrap().collect();
    assert_eq!(areas, [0..65536, (5 << 30)..(6 << 30)]);
    map.close().unwrap();
}

#[test]
fn what_was_set_is_there_after_a_drop_and_what_was_reset_and_flushed_is_not() {
    let (_dir, path) = scratch();
    let map = Options::new().flush_interval(None).create(&path, 10 << 30).unwrap();
    map.set(0..1 << 20).unwrap();
    map.flush().unwrap();
    map.reset(0..1 << 19).unwrap();
    map.flush().unwrap();
    map.set((3 << 30)..(3 << 30) + 1).unwrap();
    drop(map);

    assert_eq!(inspect(&path).unwrap().state, FileState::Unclean);
    let read = Options::new().read_only(true).open(&path).unwrap();
    let before = read.sha256();
    let map = DirtyMap::open(&path).unwrap();
    assert_eq!(map.sha256(), before, "recovery in memory and in the file differ");
    assert!(map.recovery().unclean);
    assert!(!map.any(0..1 << 19).unwrap());
    assert!(map.all((1 << 19)..(1 << 20)).unwrap());
    assert!(map.get(3 << 30).unwrap());
    // The whole word that was armed, 64 granules of 64 KiB, and nothing else.
    assert_eq!(map.count(), 8 + 64);
    assert_eq!(map.stats().recovered_items, 64 << 16);
    assert_eq!((map.stats().failed_pages, map.stats().damaged_headers), (0, 0));
    map.close().unwrap();
}

/// The two copies of a commit are written one after the other, and a process can be killed in between.
#[test]
fn who_is_killed_between_the_copies_of_a_clean_close_leaves_no_damage() {
    let (_dir, path) = scratch();
    let map = Options::new().flush_interval(None).create(&path, 10 << 30).unwrap();
    map.set(0..1 << 20).unwrap();
    map.flush().unwrap();
    let before = std::fs::read(&path).unwrap();
    map.close().unwrap();
    let after = std::fs::read(&path).unwrap();
    let copy = |i: usize| i * COPY_BYTES..(i + 1) * COPY_BYTES;
    let written: Vec<usize> = (0..COPIES).filter(|&i| before[copy(i)] != after[copy(i)]).collect();
    assert_eq!(written.len(), 2);
    for i in written {
        let mut killed = after.clone();
        killed[copy(i)].copy_from_slice(&before[copy(i)]);
        std::fs::write(&path, &killed).unwrap();
        assert_eq!(check(&path, |_, _| ()).unwrap().severity(), None);
        let info = inspect(&path).unwrap();
        assert_eq!((info.state, info.verdict), (FileState::Clean, Verdict::Exact));
        let map = Options::new().read_only(true).open(&path).unwrap();
        assert!(!map.recovery().damaged() && map.dirty_len() == 1 << 20);
        // A copy that says nothing any more is another matter.
        killed[copy(i)][700] ^= 0x55;
        std::fs::write(&path, &killed).unwrap();
        assert_eq!(inspect(&path).unwrap().verdict, Verdict::Damaged);
    }
}

#[test]
fn one_writer_at_a_time_and_no_reader_beside_it() {
    let (_dir, path) = scratch();
    let map = Options::new().create(&path, 1 << 30).unwrap();
    assert_eq!(DirtyMap::open(&path).unwrap_err().kind(), "locked");
    assert_eq!(Options::new().read_only(true).open(&path).unwrap_err().kind(), "locked");
    let info = inspect(&path).unwrap();
    assert_eq!((info.state, info.dirty), (FileState::Open, None));
    drop(map);
    let one = Options::new().read_only(true).open(&path).unwrap();
    let _two = Options::new().read_only(true).open(&path).unwrap();
    assert_eq!(one.set(0..1).unwrap_err().kind(), "read-only");
    DirtyMap::open(&path).unwrap().close().unwrap();
}

#[test]
fn a_process_map_trusts_the_page_cache_and_adds_no_dirt_after_a_drop() {
    let (_dir, path) = scratch();
    let map = Options::new().durability(dirtymap::Durability::Process).create(&path, 10 << 30).unwrap();
    map.set(0..1).unwrap();
    map.set((7 << 30)..(7 << 30) + 1).unwrap();
    let syncs = map.stats().syncs;
    assert_eq!(syncs, 0, "a set waited for a sync");
    map.flush().unwrap();
    map.set((8 << 30)..(8 << 30) + 1).unwrap();
    drop(map);
    let map = DirtyMap::open(&path).unwrap();
    assert_eq!(map.recovery().cache_trusted, Some(true));
    assert_eq!(map.count(), 3);
    assert_eq!(map.info().unwrap().verdict, Verdict::Exact);
    map.close().unwrap();
    assert_eq!(DirtyMap::open(&path).unwrap().count(), 3);
}

/// A page of zeros with an entry of zero looks like a clean page. The count of the last clean close tells.
#[test]
fn a_page_lost_together_with_its_entry_makes_everything_dirty() {
    use dirtymap::fsck::{Severity, check};
    use std::os::unix::fs::FileExt;
    let (_dir, path) = scratch();
    let map = Options::new().create(&path, 10 << 30).unwrap();
    map.set(0..1 << 20).unwrap();
    map.close().unwrap();
    // A small map: headers, then the page table, then the bottom, 64 KiB each.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 4], 4 * 65536).unwrap();
    file.write_all_at(&[0; 512], 5 * 65536).unwrap();
    let report = check(&path, |_, _| {}).unwrap();
    assert_eq!(report.severity(), Some(Severity::Damage));
    assert_eq!(report.info.verdict, Verdict::Damaged);
    let read = Options::new().read_only(true).open(&path).unwrap();
    assert!(read.is_full());
    let map = DirtyMap::open(&path).unwrap();
    assert_eq!(map.recovery().lost_granules, Some((0, 16)));
    assert!(map.is_full());
    assert_eq!(map.info().unwrap().reasons, ["damaged page"]);
}

/// What writers pay, counted and not timed.
#[test]
fn a_sequential_writer_pays_at_most_one_sync_for_64_mib_and_nothing_for_what_is_hot() {
    let (_dir, path) = scratch();
    let map = Options::new().flush_interval(None).create(&path, 8 << 30).unwrap();
    for at in (0..8u64 << 30).step_by(1 << 16) {
        map.set(at..at + (1 << 16)).unwrap();
    }
    let syncs = map.stats().syncs;
    assert!(syncs <= (8 << 30) / (64 << 20), "{syncs} syncs for 8 GiB");
    map.flush().unwrap();
    let before = map.stats();
    for at in (0..8u64 << 30).step_by(1 << 16) {
        map.set(at..at + 1).unwrap();
    }
    assert_eq!(map.stats(), before, "setting what is set and flushed is one look");
}

#[test]
fn a_flush_of_a_hundred_pages_all_over_a_large_map_takes_three_syncs_at_most() {
    let (_dir, path) = scratch();
    let map = Options::new().flush_interval(None).armed_bound(u64::MAX).create(&path, 1 << 52).unwrap();
    for i in 0..100 {
        map.set(i << 45..(i << 45) + 1).unwrap();
    }
    let before = map.stats();
    map.flush().unwrap();
    let after = map.stats();
    assert!(after.syncs - before.syncs <= 3 && after.bytes_written - before.bytes_written <= 1 << 20, "{after:?}");
    map.close().unwrap();
}
