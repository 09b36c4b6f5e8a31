//! A forked child has a copy of the map's memory and descriptors, and must not use them: it is told so, and nothing
//! that it does, not even dropping the map, touches the parent's.

use dirtymap::{DirtyMap, Error, Options, error::Unusable};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

const GRANULE: u64 = 4096;

/// Runs `child` in a forked child and waits for it; fails if the child did.
#[track_caller]
fn in_child(child: impl FnOnce()) {
    // SAFETY: the only other thread of this process (there is one test) waits in the harness and holds no lock, so the
    // child can allocate. It ends by _exit and never returns into the harness.
    #[allow(unsafe_code, reason = "forking is what is tested")]
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        let ended = catch_unwind(AssertUnwindSafe(child));
        // SAFETY: ends the child at once.
        #[allow(unsafe_code, reason = "a child must not return into the test harness")]
        unsafe {
            libc::_exit(if ended.is_ok() { 0 } else { 1 })
        }
    }
    let mut status = 0;
    // SAFETY: status is a valid place for the result.
    #[allow(unsafe_code, reason = "the other half of a fork")]
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!((waited, status), (pid, 0), "the child failed, see above");
}

/// What was frozen is a set of its own: the child has a copy of it, as of a `Bitmap`.
fn a_set_is_the_childs_as_well() {
    let (_dir, _, map) = new_map(Options::new().flush_interval(None));
    let granule = |i: u64| i * GRANULE..(i + 1) * GRANULE;
    [0, 100].iter().for_each(|&i| _ = map.set(granule(i)).unwrap());
    let checkpoint = map.freeze(None).unwrap();
    let frozen = map.frozen_set(checkpoint.uuid).unwrap();
    in_child(|| {
        // What might come to be where the parent has the set.
        let _other: Vec<Vec<u8>> = (0..64).map(|_| vec![1; 1 << 20]).collect();
        let mut cursor = dirtymap::iter::Cursor::new(0..map.len());
        let found = std::iter::from_fn(|| cursor.next_extent(&*frozen));
        assert!(found.eq([granule(0), granule(100)]));
        drop(frozen);
    });
    map.commit_checkpoint(checkpoint.uuid, false).unwrap();
    map.close().unwrap();
}

fn new_map(options: Options) -> (tempfile::TempDir, PathBuf, DirtyMap) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let map = options.granularity(12).create(&path, 1 << 30).unwrap();
    (dir, path, map)
}

fn unusable<T>(result: std::result::Result<T, impl Into<Error>>) {
    let Err(error) = result.map_err(Into::<Error>::into) else { panic!("a forked child may use the map") };
    assert!(matches!(error, Error::Unusable { why: Unusable::Forked }), "{error}");
}

fn every_use_fails(map: &DirtyMap) {
    let all = 0..map.len();
    unusable(map.set(all.clone()));
    // Also what the parent has set, and the fast path would answer.
    unusable(map.set(0..1));
    unusable(map.set_all());
    unusable(map.reset(all.clone()));
    unusable(map.reset_within(all.clone()));
    unusable(map.reset_covering(all.clone()));
    unusable(map.reset_all());
    unusable(map.flush());
    unusable(map.get(0));
    unusable(map.any(all.clone()));
    unusable(map.all(all.clone()));
    unusable(map.count_range(all.clone()));
    unusable(map.next_dirty(all.clone()));
    unusable(map.next_clean(all.clone()));
    unusable(map.next_extent(all.clone(), 1));
    unusable(map.run(all.clone()));
    unusable(map.extents(all.clone()));
    unusable(map.granules(all.clone()));
    unusable(map.words(all));
    unusable(map.info());
    // These cannot say so; they touch no memory that is not there.
    // What cannot return an error says that everything is dirty, never that nothing is.
    assert!(map.is_full() && !map.is_empty() && map.dirty_len() == map.len());
    let _ = (map.count(), map.sha256(), map.stats(), format!("{map:?}"));
}

fn still_the_parents(path: &std::path::Path, map: &DirtyMap) {
    assert_eq!(DirtyMap::open(path).unwrap_err().kind(), "locked", "the child let go of the parent's lock");
    map.set(10 * GRANULE..11 * GRANULE).unwrap();
    map.flush().unwrap();
    map.set(1000 * GRANULE..1001 * GRANULE).unwrap();
    assert!(map.get(0).unwrap() && map.get(10 * GRANULE).unwrap() && map.get(1000 * GRANULE).unwrap());
    assert_eq!(map.count(), 3);
}

/// One test, so that no other thread runs while it forks.
#[test]
fn a_forked_child_can_do_nothing_with_the_map_and_nothing_to_it() {
    for flusher in [None, Some(std::time::Duration::from_secs(3600))] {
        let (_dir, path, map) = new_map(Options::new().flush_interval(flusher));
        map.set(0..1).unwrap();
        map.flush().unwrap();

        in_child(|| every_use_fails(&map));
        still_the_parents(&path, &map);

        // The child owns a copy of the map: dropped, or closed.
        let mut slot = Some(map);
        in_child(|| drop(slot.take()));
        still_the_parents(&path, slot.as_ref().unwrap());
        in_child(|| unusable(slot.take().unwrap().close()));
        still_the_parents(&path, slot.as_ref().unwrap());

        // It may open others, and this one when the parent has closed it.
        let other = path.with_extension("other");
        in_child(|| {
            assert_eq!(DirtyMap::open(&path).unwrap_err().kind(), "locked");
            let own = Options::new().create(&other, 1 << 20).unwrap();
            own.set(0..1).unwrap();
            assert_eq!(own.count(), 1);
            drop(slot.take());
            own.close().unwrap();
        });
        assert_eq!(Options::new().read_only(true).open(&other).unwrap().count(), 1);
        slot.take().unwrap().close().unwrap();
        in_child(|| {
            let map = DirtyMap::open(&path).unwrap();
            assert_eq!(map.count(), 3);
            map.close().unwrap();
        });
        assert_eq!(Options::new().read_only(true).open(&path).unwrap().count(), 3);
    }
    a_map_that_was_loaded_for_reading();
    a_set_is_the_childs_as_well();
    a_child_that_lives_longer();
}

fn a_map_that_was_loaded_for_reading() {
    let (_dir, path, map) = new_map(Options::new());
    map.set(0..1).unwrap();
    map.close().unwrap();
    let map = Options::new().read_only(true).open(&path).unwrap();
    in_child(|| {
        unusable(map.get(0));
        unusable(map.extents(0..map.len()));
        unusable(map.to_bitmap());
        unusable(map.serialize_part(0..0, &mut []));
        // Not merged as what it would answer elsewhere: all dirty.
        let mut other = dirtymap::Bitmap::new(map.len(), 30).unwrap();
        assert!(!other.can_merge(&map));
        unusable(other.merge(&map));
        assert!(other.is_empty());
        let _ = (map.count(), map.sha256());
    });
    let mut slot = Some(map);
    in_child(|| drop(slot.take()));
    assert!(slot.unwrap().get(0).unwrap());
}

/// A child keeps the descriptors open. The parent's close lets go of the locks all the same.
fn a_child_that_lives_longer() {
    for close in [true, false] {
        let (_dir, path, map) = new_map(Options::new());
        map.set(0..1).unwrap();
        // SAFETY: as in `in_child`; the child only waits for a signal.
        #[allow(unsafe_code, reason = "forking is what is tested")]
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                loop {
                    libc::pause();
                }
            }
            pid
        };
        assert!(pid > 0);
        if close {
            map.close().unwrap()
        } else {
            drop(map)
        }
        let opened = DirtyMap::open(&path);
        // SAFETY: the child is this test's own and not yet waited for.
        #[allow(unsafe_code, reason = "the other half of a fork")]
        unsafe {
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
        }
        let map = opened.unwrap();
        assert!(map.get(0).unwrap());
        map.close().unwrap();
    }
}
