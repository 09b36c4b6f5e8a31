//! Checkpoints, points and new lengths.

use crate::format::Durability;
use crate::fsck::plan::plan;
use crate::fsck::repair::apply;
use crate::sim::regressions::*;

#[test]
pub(crate) fn what_is_not_frozen_is_not_committed() {
    let (_, truth, core, point) = freezing().unwrap();
    core.freeze_reset(&point).unwrap();
    assert_eq!(core.commit_checkpoint(&point.uuid, false).unwrap_err().kind(), "no-checkpoint");
    core.read_union(|both| check_covered(both, &truth, "refused")).unwrap();
}

/// Whether somebody else could take the space lock now, who is then not kept out.
fn space_is_free(core: &Core) -> bool {
    core.space_is_free()
}

/// While a point is written, somebody else freezes.
#[test]
pub(crate) fn two_who_freeze_do_not_write_to_the_same_space() {
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
pub(crate) fn who_aborts_late_sets_nothing_that_was_reset_since() {
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
pub(crate) fn who_aborts_late_leaves_the_points_of_others_alone() {
    let (disk, core) = map_with_a_point_before(9);
    let core = Arc::new(core);
    core.set_bits(0..1).unwrap();
    let uuid = core.freeze(None, Duration::ZERO).unwrap().uuid;
    let c = Arc::downgrade(&core);
    once_at(SyncPoint::Aborting, move || c.upgrade().unwrap().abort(&uuid).unwrap());
    core.abort(&uuid).unwrap();
    testing::visit(None);
    let names = header_on(&disk).points.into_iter().filter(|point| point.role == PointRole::Kept).count();
    assert_eq!(names, 1);
    assert!(!all_dirty(&core)[9], "what was in no checkpoint was put back");
}

/// A frozen map, a page of whose point is lost.
fn frozen_and_damaged() -> (Arc<SimDisk>, Core, format::Point) {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened_without_intent(&disk);
    core.set_bits(0..1).unwrap();
    core.freeze(None, Duration::ZERO).unwrap();
    let point = header_on(&disk).points[0].clone();
    disk.write_durable(&[WriteSegment { offset: point.bottom_offset, bytes: &[7; 512] }]).unwrap();
    (disk, core, point)
}

#[test]
pub(crate) fn a_point_of_which_a_page_fails_is_everything() {
    let (disk, ..) = frozen_and_damaged();
    let left = after_a_cut(&disk);
    assert!((0..BITS).all(|bit| dirty(&both(&left), bit)));
}

#[test]
pub(crate) fn putting_back_a_point_of_which_a_page_fails_makes_everything_dirty() {
    let (_disk, core, point) = frozen_and_damaged();
    core.abort(&point.uuid).unwrap();
    assert!(!all_dirty(&core).contains(&false));
}

/// After a repair no page of the point says so: it has none.
#[test]
pub(crate) fn a_point_that_was_repaired_is_everything_and_so_is_what_is_put_back_of_it() {
    let (disk, core, _) = frozen_and_damaged();
    drop(core);
    let plan = plan(disk.file(), &mut |_, _| {}).unwrap();
    apply(disk.file(), &plan).unwrap();
    assert!(header_on(&disk).points[0].is_everything());
    let left = after_a_cut(&disk);
    assert!((0..BITS).all(|bit| dirty(&both(&left), bit)));
    let core = opened(&disk);
    assert!(!all_dirty(&core).contains(&false));
    core.abort(&header_on(&disk).checkpoint_uuid).unwrap();
    assert!(header_on(&disk).points.is_empty() && !all_dirty(&core).contains(&false));
}

#[test]
pub(crate) fn a_point_of_which_the_file_has_not_all_entries_is_everything() {
    let (disk, _core) = map_with_a_point_before(0);
    let mut header = header_on(&disk);
    // As a program makes it that does not count.
    header.points[0].granules = 0;
    disk.truncate(header.points[0].table_offset).unwrap();
    let point = held(&disk, &header, 0..1).unwrap();
    assert!((0..BITS).all(|bit| point.bit(bit)));
}

/// While somebody reads, a freeze moves the bit that he looks for from here to the point.
#[test]
pub(crate) fn who_reads_looks_again_when_bits_have_moved() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let core = opened(&disk);
    core.set_bits(0..1).unwrap();
    let first = Cell::new(true);
    let found = core.read_union(|both| {
        if first.replace(false) {
            core.freeze(None, Duration::ZERO).unwrap();
        }
        dirty(both, 0)
    });
    assert!(found);
}

#[test]
pub(crate) fn the_bits_of_a_point_that_is_dropped_go_to_the_older_one() {
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
pub(crate) fn a_bracket_registers_before_it_sets() {
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
pub(crate) fn a_freeze_waits_for_the_writes_that_the_one_before_has_left() {
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
pub(crate) fn the_length_does_not_change_while_a_checkpoint_is_outstanding() {
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
pub(crate) fn points_go_with_the_length() {
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
pub(crate) fn what_is_new_is_dirty_since_every_point() {
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
pub(crate) fn what_is_new_is_dirty_where_the_target_reaches_behind_the_old_end() {
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
        let extents = |map: &DirtyMap| map.extents(0..map.len()).unwrap().collect::<Vec<_>>();
        assert_eq!(extents(&map), std::slice::from_ref(&(496..70_000)));
        assert!(map.take_changes().unwrap().unwrap().all(496..70_000).unwrap());
        drop(map);
        let map = DirtyMap::open(&path).unwrap();
        assert_eq!(extents(&map), std::slice::from_ref(&(496..70_000)));
        map.close().unwrap();
        assert_eq!(check::check(&path, |_, _| ()).unwrap().findings.len(), 0);
    }
}

#[test]
pub(crate) fn a_new_file_is_all_there_when_it_gets_its_name() {
    let left = SimDisk::new(fresh(), Vec::new());
    assert!(load_in_memory(left.file(), None).is_ok());
    assert!(left.len().unwrap() >= header_on(&left).file_length());
}

/// The header may say CLEAN by then, and a word that is armed asks nobody: what was set would be lost with the process.
#[test]
pub(crate) fn a_map_whose_close_is_in_doubt_takes_no_more_bits() {
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
            let left = load_in_memory(disk.after_death().file(), None).unwrap();
            match set {
                Ok(_) => assert!(dirty(&both(&left), 1), "write {write}: a set that had returned is lost"),
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
