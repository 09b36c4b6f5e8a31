//! Sharing and closing: who joins, who has died, and what the last one leaves.

use crate::format::Durability;
use crate::sim::regressions::*;

fn joined(disk: &SimDisk) -> Result<()> {
    join(disk.shared(), path(), &options().access(Access::Shared), |_| Ok((1, ()))).map(|_| ())
}

/// Somebody has the map alone, and the file has the volatile part of a session of the dead: nothing could be freed.
#[test]
pub(crate) fn the_session_of_the_dead_is_not_joined() {
    let (disk, first, second) = two_of(Durability::PowerLoss);
    drop((first, second));
    disk.trouble(&[(Call::Punch, 0..9)]);
    let _alone = opened(&disk);
    assert_eq!(joined(&disk).err().map(|e| e.kind()), Some("locked"));
}

/// What the dead knew to be durable was reset since, by one who had the map alone and could not free their volatile part.
#[test]
pub(crate) fn what_the_dead_have_left_in_the_volatile_part_is_nothing_to_go_by() {
    let (disk, first, second) = two_of(Durability::PowerLoss);
    first.set_bits(3..4).unwrap();
    first.flush().unwrap();
    drop((first, second));
    disk.trouble(&[(Call::Punch, 0..1)]);
    let alone = opened(&disk);
    alone.reset_bits(3..4).unwrap();
    assert!(close(&alone));
    let (shared, _) = opened_with(&disk, &options().access(Access::Shared)).unwrap();
    shared.set_bits(3..4).unwrap();
    assert!(dirty(&both(&after_a_cut(&disk)), 3), "lost");
}

#[test]
pub(crate) fn who_has_a_map_alone_is_not_joined() {
    let (disk, _alone) = process_map();
    assert_eq!(joined(&disk).err().map(|e| e.kind()), Some("locked"));
}

#[test]
pub(crate) fn nobody_maps_what_is_behind_the_end_of_the_file() {
    let (disk, first, _second) = two_of(Durability::PowerLoss);
    disk.truncate(first.layout().volatile.end - ALIGN).unwrap();
    assert_eq!(joined(&disk).err().map(|e| e.kind()), Some("corrupt"));
}

fn shared_file() -> (tempfile::TempDir, std::path::PathBuf, Options) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    (dir, path, Options::new().access(Access::Shared).flush_interval(None))
}

/// A dying process lets go of its locks one by one.
#[test]
pub(crate) fn who_has_the_attach_lock_and_no_slot_has_no_session() {
    let (_dir, path, shared) = shared_file();
    shared.create(&path, 1 << 30).unwrap().set(0..1).unwrap();
    let dying: FileDisk = locks::open_file(&path, true).unwrap();
    assert!(dying.try_attach(false).unwrap());
    assert_eq!(shared.open(&path).err().map(|e| e.kind()), Some("locked"));
}

#[test]
pub(crate) fn a_reader_notices_that_somebody_has_the_map_alone() {
    let (_dir, path, shared) = shared_file();
    let map = shared.create(&path, 1 << 30).unwrap();
    let reader = Options::new().access(Access::ReadOnly).open(&path).unwrap();
    assert!(!reader.get(0).unwrap());
    drop(map);
    let alone = Options::new().flush_interval(None).open(&path).unwrap();
    alone.set(0..1).unwrap();
    assert_eq!(reader.get(0).unwrap_err().kind(), "unusable");
}

/// A process died with writes under way that may still arrive: freezes fail, whoever comes after it.
#[test]
pub(crate) fn no_freeze_succeeds_while_a_write_of_the_dead_may_arrive() {
    let (_dir, path, shared) = shared_file();
    let outliving = shared.clone().writes_outlive(true);
    let dead = outliving.create(&path, 1 << 30).unwrap();
    let lives = shared.open(&path).unwrap();
    std::mem::forget(dead.begin_write(0..1).unwrap());
    drop(dead);
    assert_eq!(lives.freeze(None).unwrap_err().kind(), "refused");
    let _next = outliving.open(&path).unwrap();
    assert_eq!(lives.freeze(None).unwrap_err().kind(), "refused");
}

#[test]
pub(crate) fn who_joins_has_no_writes_of_the_dead_under_way() {
    let (_dir, path, shared) = shared_file();
    let shared = shared.freeze_timeout(Duration::ZERO);
    let dead = shared.create(&path, 1 << 30).unwrap();
    let lives = shared.open(&path).unwrap();
    std::mem::forget(dead.begin_write(0..1).unwrap());
    drop(dead);
    let _next = shared.open(&path).unwrap();
    lives.freeze(None).unwrap();
}

/// Whoever of them said so: nobody is left who could know that such a write is over.
#[test]
pub(crate) fn writes_of_the_dead_are_not_forgotten_with_the_last_process() {
    for first in [false, true] {
        let (_dir, path, shared) = shared_file();
        let created = shared.clone().writes_outlive(first).create(&path, 1 << 30).unwrap();
        let joined = shared.clone().writes_outlive(!first).open(&path).unwrap();
        drop((created, joined));
        // Also if the next one dies as well, and says no such thing, or the file is repaired.
        for repaired in [false, true] {
            let next = shared.open(&path).unwrap();
            assert_eq!(next.freeze(None).unwrap_err().kind(), "refused");
            drop(next);
            if repaired {
                crate::fsck::repair(&path, None, Duration::ZERO, |_, _| ()).unwrap();
            }
        }
        let next = shared.open(&path).unwrap();
        assert_eq!(next.freeze(None).unwrap_err().kind(), "refused");
        next.close().unwrap();
        shared.open(&path).unwrap().freeze(None).unwrap();
    }
}

#[test]
pub(crate) fn a_new_length_does_not_forget_writes_of_the_dead() {
    let (_dir, path, shared) = shared_file();
    let dead = shared.clone().writes_outlive(true).create(&path, 1 << 30).unwrap();
    let mut lives = shared.open(&path).unwrap();
    std::mem::forget(dead.begin_write(0..1).unwrap());
    drop(dead);
    lives.truncate(1 << 29).unwrap();
    assert_eq!(lives.freeze(None).unwrap_err().kind(), "refused");
}

/// What is set by others after the last flush, who are gone.
#[test]
pub(crate) fn a_clean_close_flushes_what_others_have_set() {
    let (disk, core) = process_map();
    core.set_bits(5..6).unwrap();
    assert!(close(&core));
    assert!(dirty(&both(&after_a_cut(&disk)), 5), "closed as clean without it");
}

/// The same, and the header says how much is dirty then.
#[test]
pub(crate) fn a_clean_close_counts_what_others_have_set() {
    let (disk, other, core) = two_of(Durability::PowerLoss);
    other.set_bits(5..6).unwrap();
    drop(other);
    assert!(close(&core));
    assert_eq!(headers::newest(disk.file()).unwrap().header.clean_dirty_bits, 1);
}

/// Whatever has made a flush overlook a word.
#[test]
pub(crate) fn a_clean_close_looks_whether_all_that_is_live_is_durable() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let disk = SimDisk::new(fresh_of(durability), Vec::new());
        let core = opened(&disk);
        core.set_bits(5..6).unwrap();
        core.view().unflushed()[0].store(0, SeqCst);
        assert!(close(&core));
        assert!(dirty(&both(&after_a_cut(&disk)), 5), "closed as clean without it");
    }
}

/// Nothing can be freed any more: the nonce is gone all the same, or readers go on.
#[test]
pub(crate) fn a_clean_close_takes_the_nonce_away() {
    let (disk, core) = process_map();
    disk.trouble(&[(Call::Punch, 0..9)]);
    assert!(close(&core));
    assert_eq!(core.view().nonce(), [0; 16]);
}
