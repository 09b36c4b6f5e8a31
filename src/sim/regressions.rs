//! Steps that chance hardly misses, one by one: each test goes wrong without a step of the protocol, and says which in the
//! table of `mutants.rs`.
//!
//! Invariant kept here: nothing waits for a clock. Who acts in between does so at a [`Point`], inside a durable write, or
//! where a call fails.

use crate::engine::commit::Failure;
use crate::error::Error;
use crate::file::pages;
use crate::format::{ALIGN, Reasons, Stamp, StampKind};
use crate::image_stamp::ImageStamp;
use crate::options::Access;
use crate::session::join::join;
use crate::session::load::{Loaded, load_in_memory};
use crate::session::locks;
use crate::session::recovery::Recovery;
use crate::sim::processes::two_of;
use crate::sim::*;
use crate::sys::{FileDisk, Part};
use crate::{DirtyMap, Result};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;

type Opened = (Core, Recovery);

fn opened_with(disk: &SimDisk, options: &Options) -> Result<Opened> {
    open_alone(disk.shared(), path(), options, 0)
}

fn opened(disk: &SimDisk) -> Core {
    opened_with(disk, &options()).unwrap().0
}

fn keep(core: &Core, name: &str) {
    let uuid = core.freeze(Some(name), Duration::ZERO).unwrap().uuid;
    core.commit_checkpoint(&uuid, true).unwrap();
}

/// A point is kept, and was frozen before this bit was set, which was backed up since.
fn map_with_a_point_before(bit: u64) -> (Arc<SimDisk>, Core) {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    keep(&core, "a");
    core.set_bits(bit..bit + 1).unwrap();
    let uuid = core.freeze(None, Duration::ZERO).unwrap().uuid;
    core.commit_checkpoint(&uuid, false).unwrap();
    (disk, core)
}

fn process_map() -> (Arc<SimDisk>, Core) {
    let disk = SimDisk::new(fresh_of(Durability::Process), Vec::new());
    let core = opened(&disk);
    (disk, core)
}

/// What a new boot of the machine makes of a disk.
fn after_a_cut(disk: &SimDisk) -> Loaded {
    load_in_memory(&*SimDisk::new(disk.device(), Vec::new()), path(), None).unwrap()
}

fn header_on(disk: &SimDisk) -> Header {
    headers::newest(disk, path()).unwrap().header
}

fn close(core: &Core) -> bool {
    core.close(image::Image::AsBefore).unwrap()
}

/// Does something once, at a point.
fn once_at(point: SyncPoint, f: impl FnOnce() + 'static) {
    let mut f = Some(f);
    testing::visit(Some(Box::new(move |at| {
        if let Some(f) = f.take_if(|_| at == point) {
            f();
        }
    })));
}

#[test]
pub(super) fn a_flush_untouches_when_nobody_can_return_any_more() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = Arc::new(opened(&disk));
    // In order, so that words are armed ahead that nobody has touched.
    (0..4).for_each(|w| core.set_bits(w * 64..w * 64 + 64).unwrap());
    let ahead = |core: &Core| -> Vec<u64> {
        (0..core.geometry().words())
            .filter(|&w| flag(core.view().armed(), w) && !flag(core.view().touched(), w))
            .collect()
    };
    assert!(!ahead(&core).is_empty());
    let set = Arc::new(Mutex::new(Vec::new()));
    let (c, bits) = (Arc::downgrade(&core), set.clone());
    once_at(SyncPoint::Untouched, move || {
        let c = c.upgrade().unwrap();
        for w in ahead(&c) {
            c.set_bits(w * 64..w * 64 + 1).unwrap();
            bits.lock().unwrap().push(w * 64);
        }
    });
    core.flush().unwrap();
    testing::visit(None);
    let left = after_a_cut(&disk);
    let lost = set.lock().unwrap().iter().copied().find(|&bit| !dirty(&both(&left), bit));
    assert_eq!(lost, None, "a set had returned");
}

/// Who is killed at a point of what he does.
fn killed_at(dies_at: SyncPoint, f: impl FnOnce()) {
    testing::visit(Some(Box::new(move |point| {
        if point == dies_at {
            resume_unwind(Box::new("killed"));
        }
    })));
    let killed = catch_unwind(AssertUnwindSafe(f));
    testing::visit(None);
    assert!(killed.is_err());
}

/// Of a checkpoint that is over nobody reads the point.
#[test]
pub(super) fn what_a_dead_one_has_committed_is_told_to_those_who_read() {
    let (_disk, first, other) = two_of(Durability::PowerLoss);
    first.set_bits(3..4).unwrap();
    let uuid = first.freeze(None, Duration::ZERO).unwrap().uuid;
    other.flush().unwrap();
    killed_at(SyncPoint::Published, || drop(first.commit_checkpoint(&uuid, false)));
    drop(first);
    // Whatever takes the lock next; commits tell it anyway.
    drop(other.lock().unwrap().adopt().unwrap());
    assert!(!all_dirty(&other).contains(&true));
}

#[test]
pub(super) fn a_set_after_a_reset_that_was_killed_sets() {
    let (_disk, resetter, other) = two_of(Durability::PowerLoss);
    resetter.set_bits(3..4).unwrap();
    resetter.flush().unwrap();
    killed_at(SyncPoint::ResetDurable, || drop(resetter.reset_bits(3..4)));
    drop(resetter);
    other.set_bits(3..4).unwrap();
    assert!(all_dirty(&other)[3]);
}

#[test]
pub(super) fn who_was_replaced_is_refused() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let first = opened(&disk);
    first.set_bits(0..1).unwrap();
    let _second = opened(&disk);
    assert_eq!(first.set_bits(6400..6401).unwrap_err().kind(), "unusable");
}

/// A commit of a new length that failed may have come so far.
#[test]
pub(super) fn nothing_is_set_by_a_header_with_other_regions() {
    let mut in_doubt = 0;
    for at in 0.. {
        let disk = SimDisk::new(fresh(), vec![(at, Fault::Fail(Pick::All, true))]);
        let Ok((core, _)) = opened_with(&disk, &options()) else { continue };
        let _ = core.set_bits(0..1);
        match core.truncate(geometry(BITS + 1)) {
            Ok(_) if disk.writes() <= at => break,
            Err(Failure::InDoubt(_)) => in_doubt += 1,
            _ => continue,
        }
        assert_eq!(core.set_bits(6400..6401).unwrap_err().kind(), "unusable");
    }
    assert_eq!(in_doubt, 2);
}

#[test]
pub(super) fn the_list_stays_within_its_bound() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    for word in (0..BITS / 64).step_by(3) {
        core.set_bits(word * 64..word * 64 + 1).unwrap();
        assert!(header_on(&disk).runs.words() <= 24, "after word {word}");
    }
}

/// A map that is larger than what is set aside together.
#[test]
pub(super) fn space_is_set_aside_before_it_is_stored_into() {
    let disk = SimDisk::new(Image::default(), Vec::new());
    let options = Options { granularity: 0, durability: Durability::Process, ..options() };
    create::write_new(&*disk, path(), geometry(1 << 20), &options).unwrap();
    let core = opened(&disk);
    core.set_bits(1 << 19..(1 << 19) + 1).unwrap();
    core.flush().unwrap();
    assert_eq!(disk.wrong(), Ok(()));
}

/// More stretches of pages with resets than a list has room for.
#[test]
pub(super) fn a_flush_of_resets_all_over_a_map_takes_as_many_rounds_as_it_needs() {
    let pages = 5 * format::MAX_RUNS as u64;
    let disk = SimDisk::new(Image::default(), Vec::new());
    let options = Options { granularity: 0, armed_bound: 1 << 40, ..options() };
    create::write_new(&*disk, path(), geometry(pages * PAGE_BITS), &options).unwrap();
    let core = opened_with(&disk, &options).unwrap().0;
    core.set_bits(0..pages * PAGE_BITS).unwrap();
    core.flush().unwrap();
    let reset = |page: u64| page * PAGE_BITS..page * PAGE_BITS + 64;
    (0..pages).step_by(2).for_each(|page| core.reset_bits(reset(page)).unwrap());
    core.flush().unwrap();
    let left = after_a_cut(&disk);
    let back = (0..pages).step_by(2).find(|&page| dirty(&both(&left), reset(page).start));
    assert_eq!(back, None, "a reset that was flushed came back");
}

/// What is to be listed, as it was reset and not set, cannot be.
#[test]
pub(super) fn a_flush_that_failed_forgets_no_reset() {
    // Opening takes four writes; setting and flushing three.
    let disk = SimDisk::new(fresh(), vec![(7, Fault::Fail(Pick::None, false))]);
    let core = opened(&disk);
    core.set_bits(0..2).unwrap();
    core.flush().unwrap();
    core.reset_bits(0..1).unwrap();
    core.flush().unwrap_err();
    core.flush().unwrap();
    let left = after_a_cut(&disk);
    assert_eq!([0, 1].map(|bit| dirty(&both(&left), bit)), [false, true]);
}

/// The page that has the live level of a small map, among those that are mapped; the runtime page is the first.
const LIVE: u64 = 4;

/// Of a killed process, the next one has the bits that it had set, and knows that it has.
#[test]
fn the_page_cache_of_a_killed_process_is_trusted_and_that_of_another_boot_is_not() {
    let (disk, core) = process_map();
    core.set_bits(5..6).unwrap();
    drop(core);
    let (core, recovery) = opened_with(&disk.after_death(), &options()).unwrap();
    assert_eq!((recovery.cache_trusted, all_dirty(&core).iter().filter(|d| **d).count()), (Some(true), 1));
    drop(core);
    let (core, recovery) = opened_with(&SimDisk::new(disk.cache(), Vec::new()), &options()).unwrap();
    assert_eq!((recovery.cache_trusted, all_dirty(&core).contains(&false)), (Some(false), false));
}

#[test]
pub(super) fn the_page_cache_of_another_file_is_not_trusted() {
    let (disk, core) = process_map();
    core.set_bits(5..6).unwrap();
    drop(core);
    disk.become_another_file();
    assert_eq!(opened_with(&disk, &options()).unwrap().1.cache_trusted, Some(false));
}

/// Two machines without a procfs, it may be.
#[test]
pub(super) fn the_page_cache_of_nobody_knows_which_boot_is_not_trusted() {
    let disk = SimDisk::new(fresh_of(Durability::Process), Vec::new());
    disk.forget_boot();
    drop(opened(&disk));
    assert_eq!(opened_with(&disk, &options()).unwrap().1.cache_trusted, Some(false));
}

/// Opens what a killed process has left of bit 5 while some calls fail, and then again.
fn opened_again_after(disk: &SimDisk, troubles: &[Trouble]) {
    disk.trouble(troubles);
    assert!(opened_with(disk, &options()).is_err(), "the call did not fail");
    let core = opened(disk);
    assert!(all_dirty(&core)[5], "lost");
}

#[test]
pub(super) fn who_opens_takes_the_nonce_away_before_the_bits() {
    let (disk, core) = process_map();
    core.set_bits(5..6).unwrap();
    let (mut nonce, volatile, d) = ([1; 16], core.layout().volatile.clone(), disk.clone());
    drop(core);
    // Readers would take the bits for what they were.
    once_at(SyncPoint::Freed, move || {
        d.read_at(&mut nonce, volatile.start).unwrap();
        assert_eq!(nonce, [0; 16]);
    });
    opened_again_after(&disk, &[(Call::Punch, 1..2)]);
    testing::visit(None);
}

#[test]
pub(super) fn bits_without_a_nonce_are_not_trusted() {
    let (disk, core) = process_map();
    core.set_bits(5..6).unwrap();
    drop(core);
    opened_again_after(&disk, &[(Call::Allocate, 0..1)]);
}

/// The kernel tells the first one who opens the file that it has lost a page, and nobody after him.
#[test]
pub(super) fn who_asks_the_kernel_says_so_before() {
    let (disk, core) = process_map();
    core.flush().unwrap();
    core.set_bits(5..6).unwrap();
    drop(core);
    disk.lose_a_mapped_page(LIVE);
    opened_again_after(&disk, &[(Call::Grow, 0..1)]);
}

/// A process was told, and has died since.
#[test]
pub(super) fn what_a_process_was_told_of_a_lost_page_outlives_it() {
    let (disk, core) = process_map();
    core.set_bits(5..6).unwrap();
    disk.lose_a_mapped_page(LIVE);
    assert!(!close(&core));
    drop(core);
    assert!(all_dirty(&opened(&disk))[5], "lost");
}

/// The same, and the page is lost as well that says so.
#[test]
pub(super) fn the_header_knows_of_a_failed_write_as_well() {
    let (disk, core) = process_map();
    core.degrade();
    core.amend(|_| ()).unwrap();
    core.view().runtime()[runtime::DEGRADED].store(0, SeqCst);
    drop(core);
    assert_eq!(opened_with(&disk, &options()).unwrap().1.cache_trusted, Some(false));
}

#[test]
pub(super) fn a_file_that_ends_within_its_page_table_is_not_opened() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    core.set_bits(0..1).unwrap();
    assert!(close(&core));
    disk.cut(core.layout().table.start).unwrap();
    assert_eq!(load_in_memory(&*disk, path(), None).err().map(|e| e.kind()), Some("corrupt"));
}

#[test]
pub(super) fn bits_past_the_end_make_a_page_damaged() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let header = header_on(&disk);
    let stray = |_, _| std::array::from_fn(|word| u64::from(word == 63));
    pages::write(&*disk, &header.uuid, &header.layout, &[3], stray).unwrap();
    let loaded = load_in_memory(&*disk, path(), None).unwrap();
    assert_eq!(loaded.recovery.damaged_pages, 1);
    assert!((3 * PAGE_BITS..BITS).all(|bit| dirty(&both(&loaded), bit)));
}

#[test]
pub(super) fn a_page_that_was_lost_with_its_entry_is_missed() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    core.set_bits(0..64).unwrap();
    core.flush().unwrap();
    assert!(close(&core));
    let layout = core.layout();
    for offset in [layout.table.start, layout.bottom.start] {
        disk.write_durable(&[Part { offset, bytes: &[0; 512] }]).unwrap();
    }
    assert!((0..BITS).all(|bit| dirty(&both(&after_a_cut(&disk)), bit)));
}

/// A page that fails is dirty itself, and hides no other: what was counted may have been in it.
#[test]
fn a_page_that_fails_is_not_missed_as_one_that_was_lost_with_its_entry() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    core.set_bits(0..64).unwrap();
    core.set_bits(PAGE_BITS..PAGE_BITS + 1).unwrap();
    assert!(close(&core));
    disk.write_durable(&[Part { offset: core.layout().bottom.start, bytes: &[0xA5; 512] }]).unwrap();
    let left = after_a_cut(&disk);
    assert_eq!((left.recovery.damaged_pages, left.recovery.lost_granules), (1, None));
    let found: Vec<bool> = (0..BITS).map(|bit| dirty(&both(&left), bit)).collect();
    assert!((0..BITS).all(|bit| found[bit as usize] == (bit <= PAGE_BITS)));
}

/// FUSE, for instance: a mapping of the file may not be what others see, or be told of.
#[test]
fn a_file_is_not_mapped_where_that_is_not_known_to_be_safe() {
    let refused = |disk: &SimDisk, options: &Options| {
        let Err(error) = opened_with(disk, options) else { panic!("it was mapped") };
        assert!(error.kind() == "refused" && error.to_string().contains("0x65735546"), "{error}");
    };
    let shared = Options { access: Access::Shared, ..options() };
    for durability in [Durability::PowerLoss, Durability::Process] {
        let disk = SimDisk::new(fresh_of(durability), Vec::new());
        drop(opened(&disk));
        let disk = disk.after_death();
        disk.become_unmappable(0x6573_5546);
        let (writes, before) = (disk.writes(), disk.cache());
        refused(&disk, &shared);
        if durability == Durability::Process {
            // It would trust what another kernel's page cache has.
            refused(&disk, &options());
        }
        assert!(disk.writes() == writes && disk.cache().differing(&before).is_empty(), "it was written");
        assert!(load_in_memory(&*disk, path(), None).is_ok(), "nothing is mapped for reading");
        if durability == Durability::PowerLoss {
            assert!(close(&opened(&disk)), "alone, it is not mapped");
        }
    }
}

/// Makes header copies invalid, as rot does.
fn rot(disk: &SimDisk, copies: &[usize]) {
    let parts: Vec<Part<'_>> =
        copies.iter().map(|&copy| Part { offset: format::copy_offset(copy), bytes: &[0xAA; SECTOR] }).collect();
    disk.write_durable(&parts).unwrap();
}

/// Both copies of the newest commit, which was durable and lists a bit that was set. In the same boot no crash explains that;
/// in another one the power may have gone while they were written, and check says so.
#[test]
pub(super) fn a_commit_of_which_both_copies_rot_makes_everything_dirty() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    core.set_bits(0..1).unwrap();
    core.flush().unwrap();
    core.set_bits(6400..6401).unwrap();
    drop(core);
    rot(&disk, &format::copies_of(headers::newest(&*disk, path()).unwrap().pair));
    let same_boot = disk.after_death();
    let report = check::at_rest(&*same_boot, path(), &mut |_, _| {}).unwrap();
    assert_eq!((report.severity(), report.info.dirty.unwrap().0), (Some(crate::Severity::Damage), BITS));
    assert_eq!((report.info.recovery.damaged_headers, &report.info.reasons[..]), (2, &["crash", "header lost"][..]));
    let loaded = load_in_memory(&*same_boot, path(), None).unwrap();
    assert!(loaded.recovery.lost_commit && !all_of(&both(&loaded)).contains(&false));
    let plan = crate::fsck::plan::plan(&*same_boot, path(), &mut |_, _| {}).unwrap();
    assert_eq!(plan.dirty.0, BITS);
    let (core, recovery) = opened_with(&same_boot, &options()).unwrap();
    assert!(recovery.lost_commit && !all_dirty(&core).contains(&false));
    assert!(close(&core));
    assert!(header_on(&same_boot).dirt_reasons.contains(Reasons::LOST_COMMIT));

    let other_boot = SimDisk::new(disk.device(), Vec::new());
    let report = check::at_rest(&*other_boot, path(), &mut |_, _| {}).unwrap();
    assert_eq!(report.severity(), Some(crate::Severity::Unclean));
    assert!(report.findings[0].consequence.contains("if it did not, they have rotted"), "{:?}", report.findings);
    assert_eq!((report.info.recovery.damaged_headers, report.info.recovery.lost_commit), (0, false));
}

/// Whichever two they are, in whatever boot.
#[test]
fn two_rotten_header_copies_of_a_closed_map_lose_nothing() {
    for (one, two) in (0..format::COPIES).flat_map(|one| (0..one).map(move |two| (one, two))) {
        let disk = SimDisk::new(fresh(), Vec::new());
        let core = opened(&disk);
        core.set_bits(0..1).unwrap();
        core.flush().unwrap();
        core.set_bits(6400..6401).unwrap();
        assert!(close(&core));
        rot(&disk, &[one, two]);
        for disk in [disk.after_death(), SimDisk::new(disk.device(), Vec::new())] {
            let loaded = load_in_memory(&*disk, path(), None).unwrap();
            assert!(dirty(&both(&loaded), 0) && dirty(&both(&loaded), 6400), "copies {one} and {two}");
            let report = check::at_rest(&*disk, path(), &mut |_, _| {}).unwrap();
            assert!(!report.findings.is_empty(), "copies {one} and {two}");
        }
    }
}

/// Of a map that was not closed, those that are not both of one commit.
#[test]
fn two_rotten_header_copies_of_two_commits_lose_nothing() {
    for (one, two) in [(0, 1), (0, 3), (2, 1), (2, 3)] {
        let disk = SimDisk::new(fresh(), Vec::new());
        let core = opened(&disk);
        core.set_bits(0..1).unwrap();
        drop(core);
        rot(&disk, &[one, two]);
        let loaded = load_in_memory(&*SimDisk::new(disk.device(), Vec::new()), path(), None).unwrap();
        assert!(dirty(&both(&loaded), 0), "copies {one} and {two}");
    }
}

#[test]
pub(super) fn another_image_makes_everything_dirty() {
    let of_size = |size| {
        let (mtime_seconds, mtime_nanos, inode, device) = Default::default();
        let kind = StampKind::File;
        ImageStamp(Stamp { exact: true, mtime_seconds, mtime_nanos, inode, device, ..Stamp::of(kind, size) })
    };
    let disk = SimDisk::new(Image::default(), Vec::new());
    let options = Options { granularity: 0, image: Some(of_size(BITS)), ..options() };
    create::write_new(&*disk, path(), geometry(BITS), &options).unwrap();
    let none = load_in_memory(&*disk, path(), Some(&of_size(BITS))).unwrap();
    assert!(!dirty(&both(&none), 0));
    let all = load_in_memory(&*disk, path(), Some(&of_size(BITS + 512))).unwrap();
    assert!((0..BITS).all(|bit| dirty(&both(&all), bit)));
}

#[test]
pub(super) fn the_header_says_that_there_was_a_crash() {
    let disk = SimDisk::new(fresh(), Vec::new());
    drop(opened(&disk));
    let core = opened(&disk);
    assert!(close(&core));
    assert!(header_on(&disk).dirt_reasons.contains(Reasons::CRASH));
}

#[test]
pub(super) fn a_checkpoint_that_was_not_frozen_does_not_outlive_its_process() {
    let (disk, truth, core, _) = freezing().unwrap();
    drop(core);
    let (core, recovery) = opened_with(&disk, &options()).unwrap();
    assert!(recovery.aborted_checkpoint.is_some());
    assert_eq!(header_on(&disk).checkpoint_state, CheckpointState::Normal);
    core.together(|both| check_covered(both, &truth, "opened")).unwrap();
}

fn joined(disk: &SimDisk) -> Result<()> {
    join(disk.shared(), path(), &options().access(Access::Shared), |_| Ok((1, ()))).map(|_| ())
}

/// Somebody has the map alone, and the file has the volatile part of a session of the dead: nothing could be freed.
#[test]
pub(super) fn the_session_of_the_dead_is_not_joined() {
    let (disk, first, second) = two_of(Durability::PowerLoss);
    drop((first, second));
    disk.trouble(&[(Call::Punch, 0..9)]);
    let _alone = opened(&disk);
    assert_eq!(joined(&disk).err().map(|e| e.kind()), Some("locked"));
}

/// What the dead knew to be durable was reset since, by one who had the map alone and could not free their volatile part.
#[test]
pub(super) fn what_the_dead_have_left_in_the_volatile_part_is_nothing_to_go_by() {
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
pub(super) fn who_has_a_map_alone_is_not_joined() {
    let (disk, _alone) = process_map();
    assert_eq!(joined(&disk).err().map(|e| e.kind()), Some("locked"));
}

#[test]
pub(super) fn nobody_maps_what_is_behind_the_end_of_the_file() {
    let (disk, first, _second) = two_of(Durability::PowerLoss);
    disk.cut(first.layout().volatile.end - ALIGN).unwrap();
    assert_eq!(joined(&disk).err().map(|e| e.kind()), Some("corrupt"));
}

fn shared_file() -> (tempfile::TempDir, std::path::PathBuf, Options) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    (dir, path, Options::new().access(Access::Shared).flush_interval(None))
}

/// A dying process lets go of its locks one by one.
#[test]
pub(super) fn who_has_the_attach_lock_and_no_slot_has_no_session() {
    let (_dir, path, shared) = shared_file();
    shared.create(&path, 1 << 30).unwrap().set(0..1).unwrap();
    let dying: FileDisk = locks::open_file(&path, true).unwrap();
    assert!(dying.try_attach(false).unwrap());
    assert_eq!(shared.open(&path).err().map(|e| e.kind()), Some("locked"));
}

#[test]
pub(super) fn a_reader_notices_that_somebody_has_the_map_alone() {
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
pub(super) fn no_freeze_succeeds_while_a_write_of_the_dead_may_arrive() {
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
pub(super) fn who_joins_has_no_writes_of_the_dead_under_way() {
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
pub(super) fn writes_of_the_dead_are_not_forgotten_with_the_last_process() {
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
                crate::repair(&path, None, Duration::ZERO, |_, _| ()).unwrap();
            }
        }
        let next = shared.open(&path).unwrap();
        assert_eq!(next.freeze(None).unwrap_err().kind(), "refused");
        next.close().unwrap();
        shared.open(&path).unwrap().freeze(None).unwrap();
    }
}

#[test]
pub(super) fn a_new_length_does_not_forget_writes_of_the_dead() {
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
pub(super) fn a_clean_close_flushes_what_others_have_set() {
    let (disk, core) = process_map();
    core.set_bits(5..6).unwrap();
    assert!(close(&core));
    assert!(dirty(&both(&after_a_cut(&disk)), 5), "closed as clean without it");
}

/// The same, and the header says how much is dirty then.
#[test]
pub(super) fn a_clean_close_counts_what_others_have_set() {
    let (disk, other, core) = two_of(Durability::PowerLoss);
    other.set_bits(5..6).unwrap();
    drop(other);
    assert!(close(&core));
    assert_eq!(headers::newest(&*disk, path()).unwrap().header.clean_dirty_bits, 1);
}

/// Whatever has made a flush overlook a word.
#[test]
pub(super) fn a_clean_close_looks_whether_all_that_is_live_is_durable() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let disk = SimDisk::new(fresh_of(durability), Vec::new());
        let core = opened(&disk);
        core.set_bits(5..6).unwrap();
        core.view().touched()[0].store(0, SeqCst);
        assert!(close(&core));
        assert!(dirty(&both(&after_a_cut(&disk)), 5), "closed as clean without it");
    }
}

/// Nothing can be freed any more: the nonce is gone all the same, or readers go on.
#[test]
pub(super) fn a_clean_close_takes_the_nonce_away() {
    let (disk, core) = process_map();
    disk.trouble(&[(Call::Punch, 0..9)]);
    assert!(close(&core));
    assert_eq!(core.view().nonce(), [0; 16]);
}

#[test]
pub(super) fn what_is_not_frozen_is_not_committed() {
    let (_, truth, core, point) = freezing().unwrap();
    core.freeze_reset(&point).unwrap();
    assert_eq!(core.commit_checkpoint(&point.uuid, false).unwrap_err().kind(), "no-checkpoint");
    core.together(|both| check_covered(both, &truth, "refused")).unwrap();
}

/// Whether somebody else could take the space lock now, who is then not kept out.
fn space_is_free(core: &Core) -> bool {
    core.space_is_free()
}

/// While a point is written, somebody else freezes.
#[test]
pub(super) fn two_who_freeze_do_not_write_to_the_same_space() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = Arc::new(opened(&disk));
    core.set_bits(0..1).unwrap();
    let c = Arc::downgrade(&core);
    once_at(SyncPoint::Chosen, move || {
        let Some(c) = c.upgrade().filter(|c| space_is_free(c)) else { return };
        c.freeze(None, Duration::ZERO).unwrap();
        c.set_bits(1..2).unwrap();
    });
    let _ = core.freeze_begin(None);
    testing::visit(None);
    assert!(!all_dirty(&core)[2], "the point of the other is damaged");
}

/// Who aborts is slow, and somebody else has aborted meanwhile, and reset.
#[test]
pub(super) fn who_aborts_late_sets_nothing_that_was_reset_since() {
    let (_, _, core, point) = freezing().unwrap();
    core.freeze_reset(&point).unwrap();
    core.freeze_end(&point.uuid).unwrap();
    let (c, uuid, came) = (Arc::downgrade(&core), point.uuid, Rc::new(Cell::new(false)));
    let told = came.clone();
    once_at(SyncPoint::SeenArmed, move || {
        let Some(c) = c.upgrade().filter(|c| space_is_free(c)) else { return };
        told.set(true);
        c.abort(&uuid).unwrap();
        c.reset_bits(0..1).unwrap();
    });
    core.abort(&point.uuid).unwrap();
    testing::visit(None);
    let reset = came.get();
    assert_eq!(all_dirty(&core)[0], !reset, "what was reset is dirty again");
}

/// The same before he has put anything back, and there is an older point that was kept.
#[test]
pub(super) fn who_aborts_late_leaves_the_points_of_others_alone() {
    let (disk, core) = map_with_a_point_before(9);
    let core = Arc::new(core);
    core.set_bits(0..1).unwrap();
    let uuid = core.freeze(None, Duration::ZERO).unwrap().uuid;
    let c = Arc::downgrade(&core);
    once_at(SyncPoint::Aborting, move || c.upgrade().unwrap().abort(&uuid).unwrap());
    core.abort(&uuid).unwrap();
    testing::visit(None);
    assert_eq!(header_on(&disk).points.len(), 1);
    assert!(!all_dirty(&core)[9], "what was in no checkpoint was put back");
}

/// A frozen map, a page of whose point is lost.
fn frozen_and_damaged() -> (Arc<SimDisk>, Core, format::Point) {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    core.set_bits(0..1).unwrap();
    core.freeze(None, Duration::ZERO).unwrap();
    let point = header_on(&disk).points[0].clone();
    disk.write_durable(&[Part { offset: point.bottom_offset, bytes: &[7; 512] }]).unwrap();
    (disk, core, point)
}

#[test]
pub(super) fn a_point_of_which_a_page_fails_is_everything() {
    let (disk, ..) = frozen_and_damaged();
    let left = after_a_cut(&disk);
    assert!((0..BITS).all(|bit| dirty(&both(&left), bit)));
}

#[test]
pub(super) fn putting_back_a_point_of_which_a_page_fails_makes_everything_dirty() {
    let (_disk, core, point) = frozen_and_damaged();
    core.abort(&point.uuid).unwrap();
    assert!(!all_dirty(&core).contains(&false));
}

#[test]
pub(super) fn a_point_of_which_the_file_has_not_all_entries_is_everything() {
    let (disk, _core) = map_with_a_point_before(0);
    let mut header = header_on(&disk);
    // As a program makes it that does not count.
    header.points[0].granules = 0;
    disk.cut(header.points[0].table_offset).unwrap();
    let point = held(&disk, &header, 0..1).unwrap();
    assert!((0..BITS).all(|bit| point.bit(bit)));
}

/// While somebody reads, a freeze moves the bit that he looks for from here to the point.
#[test]
pub(super) fn who_reads_looks_again_when_bits_have_moved() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    core.set_bits(0..1).unwrap();
    let first = Cell::new(true);
    let found = core.together(|both| {
        if first.replace(false) {
            core.freeze(None, Duration::ZERO).unwrap();
        }
        dirty(both, 0)
    });
    assert!(found);
}

#[test]
pub(super) fn the_bits_of_a_point_that_is_dropped_go_to_the_older_one() {
    let mut ops: Vec<Op> = Vec::new();
    for (name, bits) in [("a", 0..1), ("b", 1..2), ("c", 2..3)] {
        ops.extend([Op::Set(bits), Op::Freeze(Some(name)), Op::Commit]);
    }
    ops.push(Op::DropPoint("b"));
    let end = run(&ops, fresh(), Vec::new(), None).unwrap();
    check_crash(&end.disk.device(), &end.truth, None).unwrap();
}

/// A freeze begins between the set of a bracket and its end.
#[test]
pub(super) fn a_bracket_registers_before_it_sets() {
    let dir = tempfile::tempdir().unwrap();
    let map = Options::new().flush_interval(None).create(dir.path().join("map"), 1 << 30).unwrap();
    let (core, drained) = (map.engine().clone(), Arc::new(Mutex::new(None)));
    let told = drained.clone();
    once_at(SyncPoint::Touched, move || {
        let point = core.freeze_begin(None).unwrap();
        core.freeze_reset(&point).unwrap();
        *told.lock().unwrap() = Some(core.drain(&point.uuid, Duration::ZERO).map_err(|e| e.kind()));
        core.abort(&point.uuid).unwrap();
    });
    let _write = map.begin_write(0..1).unwrap();
    testing::visit(None);
    assert_eq!(drained.lock().unwrap().take(), Some(Err("busy")));
}

/// A freeze gave up, and left a write in the count that the next one does not wait for last.
#[test]
pub(super) fn a_freeze_waits_for_the_writes_that_the_one_before_has_left() {
    let dir = tempfile::tempdir().unwrap();
    let map = Options::new().flush_interval(None).create(dir.path().join("map"), 1 << 30).unwrap();
    let core = map.engine();
    let _write = map.begin_write(0..1).unwrap();
    for _ in 0..2 {
        let point = core.freeze_begin(None).unwrap();
        core.freeze_reset(&point).unwrap();
        assert_eq!(core.drain(&point.uuid, Duration::ZERO).unwrap_err().kind(), "busy");
        core.abort(&point.uuid).unwrap();
    }
}

#[test]
pub(super) fn the_length_does_not_change_while_a_checkpoint_is_outstanding() {
    let (_disk, core) = map_with_a_point_before(0);
    core.freeze(None, Duration::ZERO).unwrap();
    assert!(matches!(core.truncate(geometry(BITS + 1)), Err(Failure::Unchanged(Error::Refused { .. }))));
}

/// The bits that points hold, as a header on the disk says.
fn bits_held(disk: &SimDisk, points: Range<usize>) -> Vec<u64> {
    let header = header_on(disk);
    let held = held(disk, &header, points).unwrap();
    (0..header.geometry.bits()).filter(|&bit| held.bit(bit)).collect()
}

#[test]
pub(super) fn points_go_with_the_length() {
    let (disk, core) = map_with_a_point_before(7);
    core.set_bits(8..9).unwrap();
    core.set_bits(500..501).unwrap();
    keep(&core, "b");
    let before = header_on(&disk).points[0].clone();
    let core = core.truncate(geometry(500)).unwrap();
    assert_eq!((bits_held(&disk, 0..1), bits_held(&disk, 1..2)), (vec![7, 8], vec![]));
    let after = header_on(&disk).points[0].clone();
    assert_eq!((after.name.as_str(), after.time, after.granules), ("a", before.time, 2));
    assert!(after.uuid != before.uuid && after.table_offset != before.table_offset);
    // And again, in the regions that were the first; what was cut is not there any more.
    let core = core.truncate(geometry(BITS)).unwrap();
    assert_eq!(bits_held(&disk, 0..1), [7, 8]);
    assert_eq!(bits_held(&disk, 1..2), (500..BITS).collect::<Vec<_>>());
    assert!(all_dirty(&core).iter().all(|dirty| !dirty), "here nothing is dirty");
}

/// Whether it holds something or not; also the granule that was partly covered.
#[test]
pub(super) fn what_is_new_is_dirty_since_every_point() {
    for holds in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let mut map = Options::new().flush_interval(None).granularity(4).create(&path, 1000).unwrap();
        for name in ["a", "b"] {
            let uuid = map.freeze(Some(name)).unwrap().uuid;
            map.commit_checkpoint(uuid, true).unwrap();
        }
        if holds {
            map.set(0..1).unwrap();
            let uuid = map.freeze(None).unwrap().uuid;
            map.commit_checkpoint(uuid, false).unwrap();
        }
        map.truncate(1050).unwrap();
        for name in ["a", "b"] {
            let since = map.since(name).unwrap();
            let granules: Vec<u64> = since.granules(0..1050).unwrap().collect();
            let expected: Vec<u64> = holds.then_some(0).into_iter().chain((992..1050).step_by(16)).collect();
            assert_eq!(granules, expected, "since {name}");
        }
        assert!(map.is_empty() && map.between("a", "b").unwrap().is_empty());
        // Within the last granule.
        map.drop_point("b").unwrap();
        map.truncate(1053).unwrap();
        map.close().unwrap();
        let map = DirtyMap::open(&path).unwrap();
        assert!(map.since("a").unwrap().all(992..1053).unwrap() && map.is_empty());
        assert_eq!(check::check(&path, |_, _| ()).unwrap().findings.len(), 0);
    }
}

/// A map and its image get shorter, and longer again: the target still has what was there before.
#[test]
pub(super) fn what_is_new_is_dirty_where_the_target_reaches_behind_the_old_end() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    std::fs::write(&target, [7; 1000]).unwrap();
    let target = crate::ImageStamp::of_path(&target).unwrap();
    for durability in [Durability::PowerLoss, Durability::Process] {
        let path = dir.path().join(format!("{durability:?}"));
        let options = Options::new().flush_interval(None).granularity(4).durability(durability);
        let mut map = options.create(&path, 1000).unwrap();
        map.complete_backup(&target).unwrap();
        // The target ends where the map does, and a backup sees what it lacks.
        map.truncate(1100).unwrap();
        assert!(map.is_empty());
        map.truncate(501).unwrap();
        map.attach_changes(0).unwrap();
        map.truncate(70_000).unwrap();
        let areas = |map: &DirtyMap| map.areas(0..map.len()).unwrap().collect::<Vec<_>>();
        assert_eq!(areas(&map), std::slice::from_ref(&(496..70_000)));
        assert!(map.take_changes().unwrap().unwrap().all(496..70_000).unwrap());
        drop(map);
        let map = DirtyMap::open(&path).unwrap();
        assert_eq!(areas(&map), std::slice::from_ref(&(496..70_000)));
        map.close().unwrap();
        assert_eq!(check::check(&path, |_, _| ()).unwrap().findings.len(), 0);
    }
}

#[test]
pub(super) fn a_new_file_is_all_there_when_it_gets_its_name() {
    let left = SimDisk::new(fresh(), Vec::new());
    assert!(load_in_memory(&*left, path(), None).is_ok());
    assert!(left.len().unwrap() >= header_on(&left).file_length());
}

/// The header may say CLEAN by then, and a word that is armed asks nobody: what was set would be lost with the process.
#[test]
pub(super) fn a_map_whose_close_is_in_doubt_takes_no_more_bits() {
    let dir = tempfile::tempdir().unwrap();
    let every = options().flush_interval(Some(Duration::from_secs(3600)));
    for durability in [Durability::PowerLoss, Durability::Process] {
        // Locks need a real file; what is written goes to the simulated disk.
        let open_with = |faults| {
            let path = dir.path().join("map");
            let _ = std::fs::remove_file(&path);
            let mut map = every.create(&path, BITS).unwrap();
            let disk = SimDisk::new(fresh_of(durability), faults);
            map.set_engine(opened(&disk));
            map.set(0..1).unwrap();
            map.flush().unwrap();
            (disk, map)
        };
        let (disk, map) = open_with(Vec::new());
        let begun = disk.writes();
        map.close().unwrap();
        let mut in_doubt = 0;
        for write in begun..disk.writes() {
            let (disk, map) = open_with(vec![(write, Fault::Fail(Pick::All, true))]);
            let map = map.close().unwrap_err().into_map();
            let set = map.set(1..2);
            assert_eq!((map.is_broken(), map.flushes()), (set.is_err(), set.is_ok()));
            let left = load_in_memory(&*disk.after_death(), path(), None).unwrap();
            match set {
                Ok(()) => assert!(dirty(&both(&left), 1), "write {write}: a set that had returned is lost"),
                Err(e) => assert_eq!(e.kind(), "unusable"),
            }
            in_doubt += u32::from(map.is_broken());
            assert!(map.get(0).unwrap() && dirty(&both(&left), 0));
        }
        assert_eq!(in_doubt, 1, "the commit of the close, and nothing else");
    }
}

/// Whatever fails between the choice of regions for a point and the commit that names them, they take no more space.
#[test]
fn regions_that_no_header_names_are_given_back_after_an_error() {
    let frozen = |core: &Core| core.freeze(None, Duration::ZERO).unwrap().uuid;
    let act = |disk: &SimDisk, core: &Core, what: &str, troubles: &[Trouble]| {
        let uuid = if what == "commit" { frozen(core) } else { format::Uuid::NIL };
        disk.trouble(troubles);
        match what {
            "freeze" => core.freeze(None, Duration::ZERO).map(|_| ()),
            "commit" => core.commit_checkpoint(&uuid, false),
            _ => core.drop_point("b"),
        }
    };
    // Both names hold something, so that joining them to what comes later takes new regions.
    let prepared = || {
        let (disk, core) = map_with_a_point_before(3);
        keep(&core, "b");
        core.set_bits(PAGE_BITS..PAGE_BITS + 1).unwrap();
        let uuid = frozen(&core);
        core.commit_checkpoint(&uuid, false).unwrap();
        core.set_bits(5..6).unwrap();
        core.flush().unwrap();
        (disk, core)
    };
    for what in ["freeze", "commit", "drop"] {
        for call in Call::ALL {
            let mut failed = 0;
            for n in 0.. {
                let (disk, core) = prepared();
                let before = disk.calls(call);
                // A header is read copy by copy, and a copy that cannot be read sector by sector.
                let at_once = if call == Call::Read { 64 } else { 1 };
                let done = act(&disk, &core, what, &[(call, n..n + at_once)]);
                if disk.calls(call) - before <= n {
                    break;
                }
                if done.is_ok() {
                    continue;
                }
                failed += 1;
                let disk = disk.after_death();
                let (regions, cache) = (header_on(&disk).regions(), disk.cache());
                let named = |at: u64| regions.iter().any(|(_, region)| region.contains(&at));
                let left = cache.differing(&Image::default()).into_iter().map(|sector| (sector * SECTOR) as u64);
                let left: Vec<u64> = left.filter(|&at| !named(at)).collect();
                assert!(left.is_empty(), "{what}, {call:?} {n}: {done:?} leaves something at {left:?}");
            }
            assert!(failed > 0 || call == Call::Allocate, "{what}: no {call:?} fails");
        }
    }
}

/// What a damaged point held is not known, and so more is dirty in what takes its place; whoever reads the file is told why.
#[test]
fn a_point_that_takes_the_place_of_a_damaged_one_says_so() {
    let damaged = || {
        let (disk, core) = map_with_a_point_before(3);
        keep(&core, "b");
        core.set_bits(PAGE_BITS..PAGE_BITS + 1).unwrap();
        let uuid = core.freeze(None, Duration::ZERO).unwrap().uuid;
        core.commit_checkpoint(&uuid, false).unwrap();
        let header = header_on(&disk);
        assert!(header.points.iter().all(|point| point.reasons.is_empty()));
        disk.spoil(header.points[1].bottom(&header.geometry).start as usize / SECTOR + 1);
        (disk, core)
    };
    let joined = |disk: &SimDisk, at: usize| {
        let point = &header_on(disk).points[at];
        assert_eq!((point.granules, point.reasons), (BITS, Reasons::DAMAGED_PAGE));
    };
    let (disk, core) = damaged();
    core.drop_point("b").unwrap();
    joined(&disk, 0);
    let (disk, core) = damaged();
    core.truncate(geometry(BITS - 1)).unwrap();
    let point = &header_on(&disk).points[1];
    assert_eq!((point.granules, point.reasons), (BITS - 1, Reasons::DAMAGED_PAGE));
}
