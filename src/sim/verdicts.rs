//! What is said of dirt that no caller has set: as long as it is there, here or in the outstanding point, the map is not exact.
//!
//! Each test goes wrong without a step, and says which in the table of `mutants.rs`. Two processes have the map; the
//! second acts at a [`SyncPoint`] of the first.

use crate::file::reasons;
use crate::format::Reasons;
use crate::sim::processes::two_of;
use crate::sim::*;

struct Two {
    disk: Arc<SimDisk>,
    one: Arc<Core>,
    other: Arc<Core>,
}

impl Two {
    fn new() -> Two {
        let (disk, one, other) = two_of(Durability::PowerLoss);
        Two { disk, one: Arc::new(one), other: Arc::new(other) }
    }

    /// One in which dirt was added.
    fn with_dirt() -> Two {
        let two = Two::new();
        add_to(&two.one);
        two
    }

    /// Has the other one act at a point of what the first does.
    fn meanwhile<R>(&self, point: SyncPoint, act: impl Fn(&Core) + 'static, f: impl FnOnce(&Core) -> R) -> R {
        let other = self.other.clone();
        let mut still = true;
        testing::visit(Some(Box::new(move |at| {
            if at == point && std::mem::take(&mut still) {
                testing::unvisited(|| act(&other));
            }
        })));
        let done = f(&self.one);
        testing::visit(None);
        done
    }

    fn reasons(&self) -> Reasons {
        reasons::reasons(&headers::newest(self.disk.file()).unwrap().header)
    }

    /// Whether what is there is called what an undisturbed run would hold.
    fn exact(&self) -> bool {
        self.reasons().is_empty()
    }

    fn is_empty(&self) -> bool {
        !all_dirty(&self.one).contains(&true)
    }

    /// There is added dirt, and it is told of.
    fn tells(&self) {
        assert!(!self.is_empty() && !self.exact(), "called exact, with dirt that was added");
    }

    /// It is gone, and forgotten.
    fn forgot(&self) {
        assert!(self.is_empty() && self.exact(), "{:?}", self.reasons());
    }
}

fn add_to(core: &Core) {
    core.add_dirt(Reasons::IMAGE_CHANGED, || core.set_bits(0..BITS)).unwrap();
}

fn reset_and_flush(core: &Core) {
    core.reset_all().and_then(|_| core.flush()).unwrap();
}

fn back_up(core: &Core) {
    core.begin_backup(|_| ()).unwrap();
    core.reset_bits(0..BITS).unwrap();
    core.flush().unwrap();
    core.complete_backup(|_| ()).unwrap();
}

fn freeze(core: &Core) -> crate::Uuid {
    core.freeze(None, Duration::ZERO).unwrap().uuid
}

#[test]
fn what_is_all_taken_away_is_forgotten() {
    for take in [reset_and_flush, back_up] {
        let two = Two::with_dirt();
        two.tells();
        take(&two.other);
        two.forgot();
    }
    let two = Two::with_dirt();
    let uuid = freeze(&two.one);
    two.other.commit_checkpoint(&uuid, false).unwrap();
    two.forgot();
}

/// Whoever has not begun a backup knows nothing of what was added before it.
#[test]
fn a_backup_that_was_not_begun_forgets_nothing() {
    let two = Two::with_dirt();
    two.one.complete_backup(|_| ()).unwrap();
    two.tells();
}

/// One that was refused resets nothing. What is completed after it was not copied.
#[test]
fn a_backup_that_could_not_be_begun_forgets_nothing() {
    let two = Two::with_dirt();
    let writes = two.disk.writes();
    two.disk.fail(writes, Fault::Fail(Pick::None, false));
    two.one.begin_backup(|_| ()).unwrap_err();
    two.one.complete_backup(|_| ()).unwrap();
    two.tells();
}

#[test]
pub(super) fn what_was_added_is_told_of_while_it_is_frozen_and_when_it_comes_back() {
    for take in [reset_and_flush, back_up] {
        let two = Two::with_dirt();
        let uuid = freeze(&two.one);
        two.tells();
        take(&two.other);
        two.tells();
        two.one.abort(&uuid).unwrap();
        two.tells();
        take(&two.other);
        two.forgot();
    }
}

#[test]
pub(super) fn what_is_added_after_a_backup_began_is_not_forgotten_with_it() {
    let two = Two::new();
    two.one.begin_backup(|_| ()).unwrap();
    add_to(&two.other);
    two.one.complete_backup(|_| ()).unwrap();
    two.tells();
}

#[test]
pub(super) fn what_is_just_being_added_is_not_forgotten() {
    for take in [reset_and_flush, back_up] {
        let two = Two::new();
        two.meanwhile(SyncPoint::Adding, take, add_to);
        two.tells();
    }
}

/// The process is killed before it has set anything: nobody knows that.
#[test]
fn nothing_is_forgotten_in_the_session_of_one_who_died_while_he_added() {
    let two = Two::new();
    let one = two.one.clone();
    let died = two.meanwhile(
        SyncPoint::Adding,
        |_| std::panic::resume_unwind(Box::new(())),
        move |_| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| add_to(&one))),
    );
    assert!(died.is_err());
    back_up(&two.other);
    assert!(two.is_empty() && !two.exact());
}

#[test]
pub(super) fn what_an_abort_is_putting_back_is_not_forgotten() {
    for take in [reset_and_flush, back_up] {
        let two = Two::with_dirt();
        let uuid = freeze(&two.one);
        two.meanwhile(SyncPoint::Aborting, take, |one| one.abort(&uuid).unwrap());
        two.tells();
    }
}

#[test]
pub(super) fn what_came_back_after_a_backup_began_is_not_forgotten_with_it() {
    let two = Two::with_dirt();
    let uuid = freeze(&two.one);
    two.one.begin_backup(|_| ()).unwrap();
    two.one.reset_bits(0..BITS).unwrap();
    two.other.abort(&uuid).unwrap();
    two.one.complete_backup(|_| ()).unwrap();
    two.tells();
}

#[test]
pub(super) fn what_is_added_behind_a_reset_of_everything_is_not_forgotten_with_it() {
    let two = Two::new();
    two.meanwhile(SyncPoint::ResetAll, add_to, |one| one.reset_all().unwrap());
    two.one.flush().unwrap();
    two.tells();
}

/// What was reset meanwhile is in the point all the same.
#[test]
pub(super) fn a_point_knows_of_what_was_forgotten_since_it_was_written() {
    let two = Two::with_dirt();
    let uuid = two.meanwhile(SyncPoint::Unnamed, reset_and_flush, freeze);
    two.tells();
    two.one.abort(&uuid).unwrap();
    two.tells();
}

#[test]
pub(super) fn what_is_added_after_the_point_was_written_is_not_forgotten_with_it() {
    let two = Two::new();
    let uuid = two.meanwhile(SyncPoint::Unnamed, add_to, freeze);
    two.one.commit_checkpoint(&uuid, false).unwrap();
    two.tells();
}
