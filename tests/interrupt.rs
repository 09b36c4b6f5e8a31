//! Long work asks whether to go on, and nothing is lost when it may not: what was dirty is dirty, what was to be marked is
//! either marked or the caller has an error, and nothing stays outstanding that the next to open the map does not settle.

use dirtymap::{Access, Bitmap, DirtyMap, Durability, Options, Step, checkpoint::CheckpointState, fsck::check};
use std::ops::ControlFlow::{self, Break, Continue};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Many pieces of everything that is done piece by piece, in granules.
const BITS: u64 = 3 << 26;

/// Where to stop: the step, and how far into it.
type Stop = Option<(Step, u64)>;

/// Says how often each step asked, and when one is stopped: at the question of this number.
#[derive(Clone, Default)]
struct Watch(Arc<(Mutex<Stop>, AtomicU64)>);

impl Watch {
    fn options(&self) -> Options {
        let Watch(inner) = self.clone();
        let told = move |progress: dirtymap::Progress| -> ControlFlow<()> {
            assert!(progress.step == Step::Waiting || progress.done <= progress.total, "{progress:?}");
            match *inner.0.lock().unwrap() {
                Some((step, after)) if step == progress.step && inner.1.fetch_add(1, SeqCst) >= after => Break(()),
                _ => Continue(()),
            }
        };
        Options::new().granularity(0).flush_interval(None).progress(told)
    }

    /// From the question of this number on, this step is stopped.
    fn stop(&self, step: Step, after: u64) {
        *self.0.0.lock().unwrap() = Some((step, after));
        self.0.1.store(0, SeqCst);
    }

    fn go_on(&self) {
        *self.0.0.lock().unwrap() = None;
    }
}

#[track_caller]
fn interrupted<T: std::fmt::Debug>(done: dirtymap::Result<T>) {
    assert_eq!(done.unwrap_err().kind(), "interrupted");
}

fn no_findings(path: &Path) {
    let report = check(path, |_, _| ()).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn a_set_that_is_stopped_has_marked_a_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let watch = Watch::default();
    for durability in [Durability::PowerLoss, Durability::Process] {
        let map = watch.options().durability(durability).create(&path, BITS).unwrap();
        watch.stop(Step::Setting, 1);
        interrupted(map.set_all());
        let marked = map.count();
        assert!(0 < marked && marked < BITS && map.next_clean(0..BITS).unwrap() == Some(marked), "{marked}");
        // A small one does not ask.
        map.set(BITS - 1..BITS).unwrap();
        drop(map);
        assert!(DirtyMap::open(&path).unwrap().all(0..marked).unwrap());
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_reset_that_is_stopped_has_cleared_some_and_forgets_no_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let watch = Watch::default();
    let map = watch.options().dirty(true).create(&path, BITS).unwrap();
    watch.stop(Step::Resetting, 2);
    interrupted(map.reset_all());
    let clean = map.next_dirty(0..BITS).unwrap().unwrap();
    assert!(0 < clean && map.count() == BITS - clean);
    watch.go_on();
    map.close().unwrap();
    no_findings(&path);
}

#[test]
fn a_flush_that_is_stopped_is_done_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let watch = Watch::default();
    let map = watch.options().dirty(true).create(&path, 3 * BITS).unwrap();
    map.reset_all().unwrap();
    watch.stop(Step::Flushing, 0);
    interrupted(map.flush());
    watch.go_on();
    let syncs = map.stats().syncs;
    map.flush().unwrap();
    assert!(map.stats().syncs > syncs);
    map.close().unwrap();
    no_findings(&path);
    assert!(DirtyMap::open(&path).unwrap().is_empty());
}

#[test]
fn a_merge_that_is_stopped_has_marked_a_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let watch = Watch::default();
    let map = watch.options().create(&path, BITS).unwrap();
    let mut other = Bitmap::new(BITS, 0).unwrap();
    for at in (0..BITS).step_by(1 << 12) {
        other.set(at..at + 1).unwrap();
    }
    watch.stop(Step::Setting, 3);
    interrupted(map.merge(&other));
    let marked = map.count();
    assert!(0 < marked && marked < other.count());
    watch.go_on();
    map.merge(&other).unwrap();
    map.close().unwrap();
    assert_eq!(DirtyMap::open(&path).unwrap().to_bitmap().unwrap(), other);
}

/// Before the header names the point, while it is reset here, and while what was frozen is put back.
#[test]
fn a_freeze_that_is_stopped_has_lost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let watch = Watch::default();
    for (step, after) in [(Step::Freezing, 0), (Step::Resetting, 0), (Step::Resetting, 9)] {
        let map = watch.options().dirty(true).create(&path, BITS).unwrap();
        watch.stop(step, after);
        interrupted(map.freeze(None));
        watch.go_on();
        assert!(map.is_full());
        assert_eq!(map.checkpoint().unwrap(), None, "{step:?} {after}");
        map.close().unwrap();
        no_findings(&path);
        let map = watch.options().open(&path).unwrap();
        assert!(map.is_full());
        // It can be done now, and costs no space after that.
        let frozen = map.freeze(None).unwrap();
        watch.stop(Step::PuttingBack, 0);
        interrupted(map.abort_checkpoint(frozen.uuid));
        watch.go_on();
        assert!(map.is_full());
        assert_eq!(map.checkpoint().unwrap().map(|c| c.state), Some(CheckpointState::Aborting));
        map.close().unwrap();
        let map = watch.options().open(&path).unwrap();
        assert_eq!(map.recovery().aborted_checkpoint, Some(frozen.uuid));
        assert!(map.is_full() && map.checkpoint().unwrap().is_none());
        map.close().unwrap();
        no_findings(&path);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_freeze_that_waits_for_a_write_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let watch = Watch::default();
    // One that does not ask ends with an error of another kind.
    let map = watch.options().freeze_timeout(Duration::from_secs(10)).create(&path, BITS).unwrap();
    map.set(0..5).unwrap();
    let write = map.begin_write(7..8).unwrap();
    watch.stop(Step::Waiting, 1);
    std::thread::scope(|s| interrupted(s.spawn(|| map.freeze(None)).join().unwrap()));
    assert_eq!((map.count(), map.checkpoint().unwrap()), (6, None));
    drop(write);
    watch.go_on();
    map.freeze(None).unwrap();
}

#[test]
fn a_new_map_that_is_stopped_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let watch = Watch::default();
    watch.stop(Step::Creating, 0);
    interrupted(watch.options().dirty(true).create(&path, BITS));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_new_length_that_is_stopped_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let watch = Watch::default();
    let mut map = watch.options().dirty(true).create(&path, BITS).unwrap();
    // At once, while what is dirty is copied, 64 KiB at a time, and while that is written.
    for after in [0, BITS / (64 << 13) / 2, BITS / (64 << 13)] {
        watch.stop(Step::Resizing, after);
        interrupted(map.truncate(BITS + 5));
        assert!(map.len() == BITS && map.is_full());
    }
    watch.go_on();
    map.truncate(BITS + 5).unwrap();
    map.close().unwrap();
    no_findings(&path);
}

#[test]
fn an_open_that_is_stopped_leaves_the_file_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let watch = Watch::default();
    watch.options().dirty(true).create(&path, BITS).unwrap().close().unwrap();
    for access in [Access::Exclusive, Access::Shared] {
        // Also in the midst of it: 64 KiB of the page table at a time.
        for after in [0, 1, 2] {
            watch.stop(Step::Opening, after);
            interrupted(watch.options().access(access).open(&path));
        }
        no_findings(&path);
    }
    watch.go_on();
    assert!(watch.options().open(&path).unwrap().is_full());
}

/// Its memory is locked piece by piece, and no page of it is taken before the file has let go of what was there.
#[test]
fn an_open_that_locks_much_memory_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let watch = Watch::default();
    let shared = watch.options().access(Access::Shared);
    // More than 64 MiB, which is one piece.
    let map = match shared.create(&path, 1 << 28) {
        Ok(map) => map,
        Err(e) => return eprintln!("SKIPPED: a shared map: {e}"),
    };
    for after in [0, 1] {
        watch.stop(Step::Opening, after);
        interrupted(watch.options().access(Access::Shared).open(&path));
    }
    watch.go_on();
    map.set(0..1).unwrap();
    map.close().unwrap();
    no_findings(&path);
}

#[test]
fn a_recovery_that_is_stopped_is_done_by_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let watch = Watch::default();
    drop(watch.options().durability(Durability::Process).access(Access::Exclusive).create(&path, BITS).unwrap());
    // Another file: its page cache tells nothing.
    let copy = dir.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    watch.stop(Step::Recovering, 0);
    interrupted(watch.options().open(&copy));
    watch.go_on();
    assert!(watch.options().open(&copy).unwrap().is_full());
}
