//! Opening: what is trusted of a page cache, of pages and of header copies.

use crate::format::Durability;
use crate::sim::regressions::*;

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
pub(crate) fn the_page_cache_of_another_file_is_not_trusted() {
    let (disk, core) = process_map();
    core.set_bits(5..6).unwrap();
    drop(core);
    disk.become_another_file();
    assert_eq!(opened_with(&disk, &options()).unwrap().1.cache_trusted, Some(false));
}

/// Two machines without a procfs, it may be.
#[test]
pub(crate) fn the_page_cache_of_nobody_knows_which_boot_is_not_trusted() {
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
pub(crate) fn who_opens_takes_the_nonce_away_before_the_bits() {
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
pub(crate) fn bits_without_a_nonce_are_not_trusted() {
    let (disk, core) = process_map();
    core.set_bits(5..6).unwrap();
    drop(core);
    opened_again_after(&disk, &[(Call::Allocate, 0..1)]);
}

/// The kernel tells the first one who opens the file that it has lost a page, and nobody after him.
#[test]
pub(crate) fn who_asks_the_kernel_says_so_before() {
    let (disk, core) = process_map();
    core.flush().unwrap();
    core.set_bits(5..6).unwrap();
    drop(core);
    disk.lose_a_mapped_page(LIVE);
    opened_again_after(&disk, &[(Call::Grow, 0..1)]);
}

#[test]
pub(crate) fn a_page_that_the_kernel_has_dropped_is_not_taken_for_zeros() {
    let (disk, core) = process_map();
    core.set_bits(5..6).unwrap();
    drop(core);
    disk.lose_a_mapped_page(LIVE);
    assert!(all_dirty(&opened(&disk))[5], "lost");
}

/// A process was told, and has died since.
#[test]
pub(crate) fn what_a_process_was_told_of_a_lost_page_outlives_it() {
    let (disk, core) = process_map();
    core.set_bits(5..6).unwrap();
    disk.lose_a_mapped_page(LIVE);
    assert!(!close(&core));
    drop(core);
    assert!(all_dirty(&opened(&disk))[5], "lost");
}

/// The same, and the page is lost as well that says so.
#[test]
pub(crate) fn the_header_knows_of_a_failed_write_as_well() {
    let (disk, core) = process_map();
    core.record_write_failure();
    core.update_header(|_| ()).unwrap();
    core.view().runtime()[runtime::DEGRADED].store(0, SeqCst);
    drop(core);
    assert_eq!(opened_with(&disk, &options()).unwrap().1.cache_trusted, Some(false));
}

#[test]
pub(crate) fn a_file_that_ends_within_its_page_table_is_not_opened() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    core.set_bits(0..1).unwrap();
    assert!(close(&core));
    disk.truncate(core.layout().table.start).unwrap();
    assert_eq!(load_in_memory(disk.file(), None).err().map(|e| e.kind()), Some("corrupt"));
}

#[test]
pub(crate) fn bits_past_the_end_make_a_page_damaged() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let header = header_on(&disk);
    let stray = |_, _| std::array::from_fn(|word| u64::from(word == 63));
    pages::write(&*disk, &BottomRef::of_map(&header), &[3], stray).unwrap();
    let loaded = load_in_memory(disk.file(), None).unwrap();
    assert_eq!(loaded.recovery.damaged_pages, 1);
    assert!((3 * PAGE_BITS..BITS).all(|bit| dirty(&both(&loaded), bit)));
}

#[test]
pub(crate) fn a_page_that_was_lost_with_its_entry_is_missed() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    core.set_bits(0..64).unwrap();
    core.flush().unwrap();
    assert!(close(&core));
    let layout = core.layout();
    for offset in [layout.table.start, layout.bottom.start] {
        disk.write_durable(&[WriteSegment { offset, bytes: &[0; 512] }]).unwrap();
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
    disk.write_durable(&[WriteSegment { offset: core.layout().bottom.start, bytes: &[0xA5; 512] }]).unwrap();
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
        assert!(load_in_memory(disk.file(), None).is_ok(), "nothing is mapped for reading");
        if durability == Durability::PowerLoss {
            assert!(close(&opened(&disk)), "alone, it is not mapped");
        }
    }
}

/// Makes header copies invalid, as rot does.
fn rot(disk: &SimDisk, copies: &[usize]) {
    let parts: Vec<WriteSegment<'_>> =
        copies.iter().map(|&copy| WriteSegment { offset: format::copy_offset(copy), bytes: &[0xAA; SECTOR] }).collect();
    disk.write_durable(&parts).unwrap();
}

/// Both copies of the newest commit, which was durable and lists a bit that was set. In the same boot no crash explains that;
/// in another one the power may have gone while they were written, and check says so.
#[test]
pub(crate) fn a_commit_of_which_both_copies_rot_makes_everything_dirty() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    core.set_bits(0..1).unwrap();
    core.flush().unwrap();
    core.set_bits(6400..6401).unwrap();
    drop(core);
    rot(&disk, &format::copies_of(headers::newest(disk.file()).unwrap().pair));
    let same_boot = disk.after_death();
    let report = check::at_rest(same_boot.file(), &mut |_, _| {}).unwrap();
    assert_eq!((report.severity(), report.info.dirty.unwrap().0), (Some(crate::fsck::Severity::Damage), BITS));
    assert_eq!((report.info.recovery.damaged_headers, &report.info.reasons[..]), (2, &["crash", "header lost"][..]));
    let loaded = load_in_memory(same_boot.file(), None).unwrap();
    assert!(loaded.recovery.lost_commit && !all_of(&both(&loaded)).contains(&false));
    let plan = crate::fsck::plan::plan(same_boot.file(), &mut |_, _| {}).unwrap();
    assert_eq!(plan.dirty.0, BITS);
    let (core, recovery) = opened_with(&same_boot, &options()).unwrap();
    assert!(recovery.lost_commit && !all_dirty(&core).contains(&false));
    assert!(close(&core));
    assert!(header_on(&same_boot).dirt_reasons.contains(Reasons::LOST_COMMIT));

    let other_boot = SimDisk::new(disk.device(), Vec::new());
    let report = check::at_rest(other_boot.file(), &mut |_, _| {}).unwrap();
    assert_eq!(report.severity(), Some(crate::fsck::Severity::Unclean));
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
            let loaded = load_in_memory(disk.file(), None).unwrap();
            assert!(dirty(&both(&loaded), 0) && dirty(&both(&loaded), 6400), "copies {one} and {two}");
            let report = check::at_rest(disk.file(), &mut |_, _| {}).unwrap();
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
        let loaded = load_in_memory(SimDisk::new(disk.device(), Vec::new()).file(), None).unwrap();
        assert!(dirty(&both(&loaded), 0), "copies {one} and {two}");
    }
}

#[test]
pub(crate) fn another_image_makes_everything_dirty() {
    let of_size = |size| {
        let (mtime_seconds, mtime_nanos, inode, device) = Default::default();
        let kind = StampKind::File;
        ImageStamp(Stamp { exact: true, mtime_seconds, mtime_nanos, inode, device, ..Stamp::of(kind, size) })
    };
    let disk = SimDisk::new(Image::default(), Vec::new());
    let options = Options { granularity: 0, image: Some(of_size(BITS)), ..options() };
    create::write_new(disk.file(), geometry(BITS), &options).unwrap();
    let none = load_in_memory(disk.file(), Some(&of_size(BITS))).unwrap();
    assert!(!dirty(&both(&none), 0));
    let all = load_in_memory(disk.file(), Some(&of_size(BITS + 512))).unwrap();
    assert!((0..BITS).all(|bit| dirty(&both(&all), bit)));
}

#[test]
pub(crate) fn the_header_says_that_there_was_a_crash() {
    let disk = SimDisk::new(fresh(), Vec::new());
    drop(opened(&disk));
    let core = opened(&disk);
    assert!(close(&core));
    assert!(header_on(&disk).dirt_reasons.contains(Reasons::CRASH));
}

#[test]
pub(crate) fn a_checkpoint_that_was_not_frozen_does_not_outlive_its_process() {
    let (disk, truth, core, _) = freezing().unwrap();
    drop(core);
    let (core, recovery) = opened_with(&disk, &options()).unwrap();
    assert!(recovery.aborted_checkpoint.is_some());
    assert_eq!(header_on(&disk).checkpoint_state, CheckpointState::Normal);
    core.read_union(|both| check_covered(both, &truth, "opened")).unwrap();
}
