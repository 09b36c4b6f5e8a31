//! Schedules that chance hardly finds.

use crate::format::Durability;
use crate::sim::*;

/// Schedules that chance hardly finds.
pub(super) fn scenarios() -> Result<Tally, (u64, String)> {
    let all = [
        armed_ahead_in_between(),
        a_failed_commit_comes_back(),
        old_entries_come_back(),
        the_file_is_short(),
        a_freezer_goes_on_while_he_is_aborted(),
        a_freezer_wakes_up_in_the_freeze_of_another(),
        old_pages_of_a_point_come_back(),
        an_older_header_is_nothing_to_go_on_with(),
        both_pairs_name_a_point_before_its_bits_are_reset(),
        no_pair_names_a_point_that_was_dropped(),
        no_pair_names_what_was(Ended::Committed),
        no_pair_names_what_was(Ended::Aborted),
        a_page_of_which_something_was_reset_is_interrupted_and_not_damaged(),
    ];
    all.iter().cloned().collect::<Verdict>().map_err(|e| (0, e))?;
    Ok(Tally { programs: all.len(), crashes: all.len(), ..Tally::default() })
}

/// Between touch and recheck of a setter a flush takes its word off the list, and
/// another writer, going through the map in order, arms it ahead without touching it.
pub(super) fn armed_ahead_in_between() -> Verdict {
    let disk = SimDisk::new(fresh(), Vec::new());
    let truth = Truth::new();
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).map_err(|e| e.to_string())?;
    let core = Arc::new(core);
    let (c, t) = (Arc::downgrade(&core), truth.clone());
    let mut first = true;
    testing::visit(Some(Box::new(move |point| {
        if let (SyncPoint::Touched, true, Some(c)) = (point, first, c.upgrade()) {
            first = false;
            t.flush(&c);
            t.set(0..1, &c);
            t.set(64..65, &c);
        }
    })));
    truth.set(128..129, &core);
    testing::visit(None);
    // The word leaves the list: it is not kept for being hot.
    core.flush().map_err(|e| e.to_string())?;
    check_crash(&disk.device(), &truth, None)
}

/// A flush has copied a word when another thread, which saw it armed before, stores and touches; before that one looks
/// again, the flush ends, and somebody arms the word ahead.
#[test]
pub(super) fn a_word_that_was_touched_after_it_was_copied_is_not_forgotten() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).unwrap();
    let core = Arc::new(core);
    core.set_bits(0..1).unwrap();
    core.set_bits(128..129).unwrap();
    let ((current, arrived), (go, going)) = (mpsc::channel(), mpsc::channel());
    let setter = core.clone();
    let thread = std::thread::spawn(move || {
        testing::visit(Some(Box::new(move |point| {
            if matches!(point, SyncPoint::SeenArmed | SyncPoint::Touched) {
                let _ = current.send(()).and_then(|()| going.recv().map_err(|_| mpsc::SendError(())));
            }
        })));
        setter.set_bits(129..130)
    });
    arrived.recv().unwrap();
    let mut copied = Some((go.clone(), arrived));
    testing::visit(Some(Box::new(move |point| {
        if let (SyncPoint::Written, Some((go, arrived))) = (point, copied.take_if(|_| point == SyncPoint::Written)) {
            go.send(()).unwrap();
            arrived.recv().unwrap();
        }
    })));
    core.flush().unwrap();
    testing::visit(None);
    core.set_bits(64..65).unwrap();
    let _ = go.send(());
    thread.join().unwrap().unwrap();
    core.flush().unwrap();
    let loaded = load_in_memory(SimDisk::new(disk.device(), Vec::new()).file(), None).unwrap();
    assert!(dirty(&both(&loaded), 129), "lost");
}

/// The commit that drops a word from the list fails. The device has taken it, but for a sector in each copy that is
/// garbage, so that it cannot be read back. If somebody armed that word again by the older header, and the next
/// commit got no further than mending such a sector, the header that was dropped would be the newest.
pub(super) fn a_failed_commit_comes_back() -> Verdict {
    // Opening takes four writes, arming one, the pages of the flush one.
    let faults = vec![(6, Fault::Fail(Pick::Rot(2), false)), (7, Fault::Cut(Pick::Only(2)))];
    let disk = SimDisk::new(fresh(), faults);
    let truth = Truth::new();
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).map_err(|e| e.to_string())?;
    truth.set(0..1, &core);
    truth.flush(&core);
    truth.set(1..2, &core);
    if !disk.dead() {
        truth.set(6400..6401, &core);
    }
    assert!(disk.dead() && disk.failed(), "the schedule is not the one described");
    check_crash(&disk.device(), &truth, None)
}

/// The space of a bottom that was given up is used again for another of the same map, and nothing is written there,
/// as everything is clean. The power went before the old pages were gone, and they match the old entries.
pub(super) fn old_entries_come_back() -> Verdict {
    let before = run(&[Op::Set(0..5000), Op::Truncate(BITS + 1)], fresh(), Vec::new(), None)?;
    let disk = SimDisk::new(before.disk.device(), Vec::new());
    let mut core = None;
    for op in [Op::ResetAll, Op::Truncate(BITS + 2)] {
        step(&op, &disk, &before.truth, &mut core, None)?;
    }
    check_crash(&disk.device(), &before.truth, None)
}

/// A header names regions behind the end of the file, because its new length was not made durable and nothing was
/// written there.
pub(super) fn the_file_is_short() -> Verdict {
    let end = run(&[Op::Truncate(BITS + 1)], fresh(), Vec::new(), None)?;
    check_crash(&end.disk.device(), &end.truth, None)
}

/// The kernel failed to write a page back of the volatile part, and tells who asks first.
#[test]
pub(super) fn what_the_kernel_did_not_write_back_keeps_a_process_map_from_closing_as_clean() {
    let disk = SimDisk::new(fresh_of(Durability::Process), Vec::new());
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).unwrap();
    core.set_bits(0..1).unwrap();
    disk.fail_write_back();
    assert!(!core.close(image::Image::AsBefore).unwrap());
}

/// A map in which bit 0 is set, and being frozen.
pub(super) fn freezing() -> Result<(Arc<SimDisk>, Truth, Arc<Core>, format::Point), String> {
    let disk = SimDisk::new(fresh(), Vec::new());
    let truth = Truth::new();
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).map_err(|e| e.to_string())?;
    truth.set(0..1, &core);
    let point = core.freeze_begin(None).map_err(|e| e.to_string())?;
    Ok((disk, truth, Arc::new(core), point))
}

/// Between the putting back and NORMAL, he who freezes resets what he has frozen.
pub(super) fn a_freezer_goes_on_while_he_is_aborted() -> Verdict {
    let (disk, truth, core, point) = freezing()?;
    let (c, frozen) = (Arc::downgrade(&core), point.clone());
    testing::visit(Some(Box::new(move |at| {
        if let (SyncPoint::PutBack, Some(c)) = (at, c.upgrade()) {
            let _ = c.freeze_reset(&frozen);
        }
    })));
    let aborted = core.abort(&point.uuid);
    testing::visit(None);
    aborted.map_err(|e| e.to_string())?;
    core.read_union(|both| check_covered(both, &truth, "aborted"))?;
    check_crash(&disk.device(), &truth, None)
}

/// Before he who freezes resets what he has frozen, somebody aborts that, and freezes. What was set since then is reset by
/// him, and when the second checkpoint is committed it is gone.
pub(super) fn a_freezer_wakes_up_in_the_freeze_of_another() -> Verdict {
    let (disk, truth, core, first) = freezing()?;
    let (c, t, aborted) = (Arc::downgrade(&core), truth.clone(), first.uuid);
    let second = Arc::new(Mutex::new(None));
    let begun = second.clone();
    testing::visit(Some(Box::new(move |at| {
        let first = begun.lock().unwrap().is_none();
        if let (SyncPoint::Resetting, Some(c), true) = (at, c.upgrade(), first) {
            let again = c.abort(&aborted).and_then(|()| c.freeze_begin(None));
            let again = again.and_then(|point| c.freeze_reset(&point).map(|()| point));
            t.set(0..1, &c);
            *begun.lock().unwrap() = Some(again);
        }
    })));
    let _ = core.freeze_reset(&first);
    testing::visit(None);
    let second = second.lock().unwrap().take().ok_or("nobody came in between")?.map_err(|e| e.to_string())?;
    core.freeze_end(&second.uuid).map_err(|e| e.to_string())?;
    core.commit_checkpoint(&second.uuid, false).map_err(|e| e.to_string())?;
    core.read_union(|both| check_covered(both, &truth, "committed"))?;
    check_crash(&disk.device(), &truth, None)
}

/// The space of a point that was given up, when the next one became the intent, is used for another one, which has fewer
/// pages. The power went before the old ones were gone.
pub(super) fn old_pages_of_a_point_come_back() -> Verdict {
    let cycle = |bits| [Op::Set(bits), Op::Freeze(None), Op::Commit, Op::Flush];
    let before = run(&[cycle(0..6000), cycle(9000..9001)].concat(), fresh(), Vec::new(), None)?;
    let disk = SimDisk::new(before.disk.device(), Vec::new());
    let mut core = None;
    for op in [Op::Set(0..1), Op::Freeze(None)] {
        step(&op, &disk, &before.truth, &mut core, None)?;
    }
    check_crash(&disk.device(), &before.truth, None)
}

/// What the device holds of the published header cannot be read: what is left is older, and its list may lack words.
pub(super) fn an_older_header_is_nothing_to_go_on_with() -> Verdict {
    let disk = SimDisk::new(fresh(), Vec::new());
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).map_err(|e| e.to_string())?;
    core.set_bits(0..1).map_err(|e| e.to_string())?;
    let pair = format::copies_of(headers::newest(disk.file()).map_err(|e| e.to_string())?.pair);
    pair.iter().for_each(|&copy| disk.spoil(format::copy_offset(copy) as usize / SECTOR));
    match core.set_bits(6400..6401) {
        Err(crate::Error::Corrupt { .. }) => Ok(()),
        other => Err(format!("{other:?} by an older header")),
    }
}

/// The valid copies on the device.
pub(super) fn copies_on(disk: &SimDisk) -> impl Iterator<Item = Header> {
    headers::read_copies(&*SimDisk::new(disk.device(), Vec::new())).into_iter().flatten()
}

/// Or the loss of one pair would bring back a header without it.
pub(super) fn both_pairs_name_a_point_before_its_bits_are_reset() -> Verdict {
    let (disk, _, _, point) = freezing()?;
    match copies_on(&disk).find(|header| header.outstanding().is_none_or(|named| named.uuid != point.uuid)) {
        Some(header) => Err(format!("the copy of commit {} does not name the point", header.sequence)),
        None => Ok(()),
    }
}

/// Nothing but the count tells that it is gone.
#[test]
pub(super) fn a_point_of_which_a_page_is_lost_with_its_entry_is_all_dirty() {
    let (disk, _, core, point) = freezing().unwrap();
    let zeros = [0; SECTOR];
    let lost = [point.table_offset, point.bottom_offset].map(|offset| WriteSegment { offset, bytes: &zeros });
    disk.write_durable(&lost).unwrap();
    let device = SimDisk::new(disk.device(), Vec::new());
    let loaded = load_in_memory(device.file(), None).unwrap();
    assert!(all_of(&both(&loaded)).into_iter().all(|dirty| dirty), "read");
    let report = check::at_rest(device.file(), &mut |_, _| {}).unwrap();
    let finding = report.findings.iter().find(|finding| finding.place == "point 0, bottom level").unwrap();
    assert_eq!((&*finding.found, finding.severity), ("0 dirty granules", crate::fsck::Severity::Damage));
    assert_eq!(report.info.dirty.unwrap().0, BITS);
    // Who puts it back does not believe it either.
    core.freeze_reset(&point).unwrap_err();
    core.abort(&point.uuid).unwrap();
    core.read_union(|both| assert!(all_of(both).into_iter().all(|dirty| dirty), "put back"));
    let reasons = headers::newest(disk.file()).unwrap().header.dirt_reasons;
    assert!(reasons.contains(format::Reasons::DAMAGED_PAGE));
}

/// Or the loss of one pair would bring back a header that names space which was given up.
pub(super) fn no_pair_names_a_point_that_was_dropped() -> Verdict {
    let ops = ["a", "b"].into_iter().zip([0..1, 1..2]);
    let mut ops: Vec<Op> = ops.flat_map(|(name, bits)| [Op::Set(bits), Op::Freeze(Some(name)), Op::Commit]).collect();
    ops.push(Op::DropPoint("b"));
    let end = run(&ops, fresh(), Vec::new(), None)?;
    match copies_on(&end.disk).find(|header| header.points.iter().any(|point| point.name == "b")) {
        Some(header) => Err(format!("the copy of commit {} names the point", header.sequence)),
        None => Ok(()),
    }
}

/// How a checkpoint ends.
#[derive(PartialEq)]
pub(super) enum Ended {
    Committed,
    Aborted,
}

/// Or the loss of one pair would bring back a header that names regions which were given up.
pub(super) fn no_pair_names_what_was(how: Ended) -> Verdict {
    let (disk, _, core, point) = freezing()?;
    let ended = if how == Ended::Committed {
        let frozen = core.freeze_reset(&point).and_then(|()| core.freeze_end(&point.uuid));
        frozen.and_then(|_| core.commit_checkpoint(&point.uuid, false))
    } else {
        core.abort(&point.uuid)
    };
    ended.map_err(|e| e.to_string())?;
    // It may stay for the intent.
    match copies_on(&disk).find(|header| header.outstanding().is_some()) {
        Some(header) => Err(format!("the copy of commit {} names the point", header.sequence)),
        None => Ok(()),
    }
}

/// The power goes in the flush of a reset, and the entry of the page is not written.
pub(super) fn a_page_of_which_something_was_reset_is_interrupted_and_not_damaged() -> Verdict {
    // Opening takes four writes; setting and flushing three; what was reset is listed with one.
    let disk = SimDisk::new(fresh(), vec![(8, Fault::Cut(Pick::First(1)))]);
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).map_err(|e| e.to_string())?;
    let _ = (core.set_bits(0..2), core.flush(), core.reset_bits(0..1), core.flush());
    // Without that one the power goes later.
    let _ = core.set_bits(6400..6401);
    let loaded = load_in_memory(SimDisk::new(disk.device(), Vec::new()).file(), None).map_err(|e| e.to_string())?;
    match (loaded.recovery.interrupted_pages, loaded.recovery.damaged_pages) {
        (1, 0) => Ok(()),
        other => Err(format!("interrupted and damaged pages: {other:?}")),
    }
}

#[test]
pub(super) fn schedules_that_chance_hardly_finds() {
    scenarios().unwrap();
}

#[test]
pub(super) fn a_device_that_cannot_be_read_is_not_taken_for_a_file_of_zeros() {
    let disk = SimDisk::new(fresh(), vec![(0, Fault::Cut(Pick::None))]);
    assert!(disk.sync_all().is_err() && disk.dead());
    assert_eq!(headers::newest(disk.file()).unwrap_err().kind(), "io");
}

/// The kernel tells of a failed write-back once, and it may have been one of live bits. The header that failed may be the
/// one that the next opener finds, and it must not trust the page cache then.
#[test]
pub(super) fn a_failed_commit_of_a_new_length_is_remembered_in_the_old_region_and_in_the_new_one() {
    let disk = SimDisk::new(Image::default(), Vec::new());
    let options = Options { durability: Durability::Process, ..options() };
    create::write_new(disk.file(), geometry(BITS), &Options { granularity: 0, ..options.clone() }).unwrap();
    let (content, mut in_doubt) = (disk.device(), 0);
    for at in 0.. {
        let disk = SimDisk::new(content.clone(), vec![(at, Fault::Fail(Pick::All, true))]);
        let Ok((core, _)) = open_alone(disk.shared(), path(), &options, 0) else { continue };
        core.set_bits(0..1).unwrap();
        let done = core.truncate(geometry(BITS + 1));
        assert!(done.is_ok() || core.write_failed(), "write {at} failed, and nobody remembers");
        match done {
            Ok(_) if disk.writes() <= at => break,
            Err(Failure::InDoubt(_)) => in_doubt += 1,
            _ => continue,
        }
        let new = headers::newest(disk.file()).unwrap().header.layout;
        assert_ne!(new, *core.layout());
        for region in [&core.layout().volatile, &new.volatile] {
            let mut page = [0; 80];
            disk.mapped().read_exact_at(&mut page, region.start).unwrap();
            assert_ne!(page[runtime::DEGRADED.offset()..][..8], [0; 8]);
            assert_eq!(page[..16], [0; 16], "others can join what never came to be");
        }
    }
    assert_eq!(in_doubt, 2);
}

/// Rule 7 holds for the session, whatever the length of the map.
#[test]
pub(super) fn a_map_in_which_a_write_failed_before_its_length_changed_does_not_close_as_clean() {
    // Opening takes four writes, and arming one.
    let disk = SimDisk::new(fresh(), vec![(4, Fault::Fail(Pick::None, false))]);
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).unwrap();
    assert!(core.set_bits(0..1).is_err());
    let core = core.truncate(geometry(BITS + 1)).unwrap();
    assert!(!core.close(image::Image::AsBefore).unwrap());
}
