//! What must be true of a map that is open, and of what a run leaves.

use crate::sim::*;

/// A map that is called exact holds nothing but what callers have set.
pub(super) fn check_exact(core: &Core, disk: &SimDisk, truth: &Truth) -> Verdict {
    match headers::newest(disk.file()) {
        Ok(Newest { header, .. }) if !disk.dead() && reasons::reasons(&header).is_empty() => {
            core.read_union(|both| only_mine(&all_of(both), truth, "running"))
        }
        _ => Ok(()),
    }
}

pub(super) fn only_mine(dirty: &[bool], truth: &Truth, when: &str) -> Verdict {
    truth.with(|b| {
        let mine = |i: usize| b.mine[i] || b.checkpoint.as_ref().is_some_and(|c| c.mine[i]);
        match (0..dirty.len()).find(|&i| dirty[i] && !mine(i)) {
            Some(i) => Err(format!("{when}: exact, and bit {i} is dirty, which recovery has added")),
            None => Ok(()),
        }
    })
}

pub(super) fn bits_of(view: &dyn Look) -> Range<u64> {
    0..view.geometry().bits()
}

/// What was loaded, and the outstanding point.
pub(super) fn both(loaded: &Loaded) -> UnionView<'_> {
    UnionView {
        current: Dirt::new(&loaded.view, &loaded.whole, &loaded.assumed),
        point: loaded.frozen.as_ref().map(|point| point.dirt()),
    }
}

/// Whether a bit is dirty here or in the outstanding point.
pub(super) fn dirty(both: &UnionView<'_>, i: u64) -> bool {
    both.word(i / 64) & 1 << (i % 64) != 0
}

/// All of them.
pub(super) fn all_of(both: &UnionView<'_>) -> Vec<bool> {
    let words = both.current.geometry.words();
    let mut bits: Vec<bool> = Vec::with_capacity((words * 64) as usize);
    for word in (0..words).map(|w| both.word(w)) {
        bits.extend((0..64).map(|i| word >> i & 1 != 0));
    }
    bits.truncate(both.current.geometry.bits() as usize);
    bits
}

pub(super) fn all_dirty(core: &Core) -> Vec<bool> {
    core.read_union(all_of)
}

/// The map has a length that it may have, and everything that is owed reads dirty.
pub(super) fn check_covered(both: &UnionView<'_>, truth: &Truth, when: &str) -> Verdict {
    let view = both.current;
    let len = view.geometry.bits();
    truth.with(|b| match Some(len) == b.or_len || len == b.len {
        true => Ok(()),
        false => Err(format!("{when}: {len} bits instead of {} or {:?}", b.len, b.or_len)),
    })?;
    let (all, found) = (all_of(both), found_words(both));
    truth.with(|b| {
        let lost = b.owed.iter().zip(&all).position(|(owed, dirty)| *owed && !dirty);
        if let Some(i) = lost {
            return Err(format!("{when}: bit {i} is owed and clean"));
        }
        // And is found by searching, not only by looking.
        let words = b.owed[..len as usize].chunks(64).zip(&found);
        match words.into_iter().position(|(owed, found)| !found && owed.contains(&true)) {
            Some(w) => Err(format!("{when}: a bit of word {w} is owed and not found")),
            None => Ok(()),
        }
    })
}

/// For each word whether a search through all levels finds it.
pub(super) fn found_words(both: &UnionView<'_>) -> Vec<bool> {
    let end = both.current.geometry.words();
    let mut found = vec![false; end as usize];
    let mut at = 0;
    while let Some((w, _)) = both.next_nonzero_word(at..end) {
        found[w as usize] = true;
        at = w + 1;
    }
    found
}

/// While the map is open no copy may say CLEAN, whichever of them is lost later.
pub(super) fn check_no_clean_copy(disk: &SimDisk) -> Verdict {
    let copies = headers::read_copies(&*SimDisk::new(disk.device(), Vec::new()));
    match copies.iter().flatten().find(|h| h.state == State::Clean) {
        Some(h) => Err(format!("open, and the copy of commit {} says CLEAN", h.sequence)),
        None => Ok(()),
    }
}

/// No copy names regions that were given up, whichever of them is lost later.
pub(super) fn check_one_layout(disk: &SimDisk, core: &Core) -> Verdict {
    let copies = headers::read_copies(&*SimDisk::new(disk.device(), Vec::new()));
    match copies.iter().flatten().find(|h| h.layout != *core.layout()) {
        Some(h) => Err(format!("the copy of commit {} names regions that were given up", h.sequence)),
        None => Ok(()),
    }
}

/// Checks what a run left on the device; also after crashes inside its recovery, and inside the recovery from those.
pub(super) fn check_end(end: &End, again: Option<u64>) -> Verdict {
    let content = end.disk.device();
    let disk = SimDisk::new(content.clone(), Vec::new());
    if let Ok(Newest { header, .. }) = headers::newest(disk.file())
        && !end.disk.states().may_be(&header)
    {
        return Err(format!("{:?} was left, and nobody wrote that last", header.checkpoint_state));
    }
    if let Some(seed) = again {
        check_spoilt(&content, &end.truth, seed)?;
    }
    check_crash(&content, &end.truth, again.map(|seed| (seed, 3)))
}

/// A sector that cannot be read, of a header copy, of the page table or of a page, makes dirt, and loses none.
pub(super) fn check_spoilt(content: &Image, truth: &Truth, seed: u64) -> Verdict {
    let disk = SimDisk::new(content.clone(), Vec::new());
    let Newest { header, .. } = headers::newest(disk.file()).map_err(|e| format!("no header: {e}"))?;
    let mut rng = Rng(seed);
    let page = header.layout.bottom.start + PAGE_BYTES * rng.below(header.geometry.pages());
    // A header copy whose twin is good: of the one that a crash in a renewal may leave alone, nothing is promised.
    let copies = headers::read_copies(&*disk);
    let newest = |copy: &usize| copies[*copy].as_ref().is_ok_and(|copy| copy.sequence == header.sequence);
    let pair = format::copies_of(rng.below(2) as usize);
    let expendable = pair.iter().all(newest) || !pair.iter().any(newest);
    let at = match rng.below(3) {
        0 if expendable => format::copy_offset(pair[rng.below(2) as usize]),
        1 => header.layout.table.start,
        _ => page,
    };
    let truth = &Truth(Arc::new(Mutex::new(truth.with(|b| b.clone()))));
    truth.settle(&header, true)?;
    let look = |when, loaded: crate::Result<Loaded>| {
        let loaded = loaded.map_err(|e| format!("with byte {at} unreadable: {e}"))?;
        check_covered(&both(&loaded), truth, when).map_err(|e| format!("with byte {at} unreadable: {e}"))
    };
    disk.spoil(at as usize / SECTOR);
    look("read only", load_in_memory(disk.file(), None))?;
    let opened = open_alone(disk.shared(), path(), &options(), 0);
    opened.map_err(|e| format!("with byte {at} unreadable, cannot be opened: {e}"))?;
    look("recovered", load_in_memory(disk.file(), None))
}

/// Recovers what a crash left, and checks it. Also after a second crash, inside every write of the recovery, and from some
/// of these after more, as deep as it says.
pub(super) fn check_crash(content: &Image, truth: &Truth, again: Option<(u64, u32)>) -> Verdict {
    let disk = SimDisk::new(content.clone(), Vec::new());
    let Newest { header, .. } = headers::newest(disk.file()).map_err(|e| format!("no header: {e}"))?;
    // A commit of which nobody knows may also be mended by what the second crash interrupts, and be there after it: so
    // what was begun is only settled for this look.
    let begun = truth;
    let truth = &Truth(Arc::new(Mutex::new(truth.with(|b| b.clone()))));
    let outstanding = truth.with(|b| b.checkpoint.as_ref().map(|c| c.may.clone()));
    truth.settle(&header, true)?;
    check_points(&disk, &header, truth)?;
    if intent_of(&disk, &header).is_some_and(|intent| intent.failed()) {
        return Err("the point that is the intent fails".into());
    }
    let read = load_in_memory(disk.file(), None).map_err(|e| format!("cannot be read: {e}"))?;
    check_covered(&both(&read), truth, "read only")?;
    if (reasons::reasons(&header) | read.recovery.reasons()).is_empty() {
        only_mine(&all_of(&both(&read)), begun, "read only")?;
    }
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).map_err(|e| format!("cannot be opened: {e}"))?;
    core.read_union(|both| check_covered(both, truth, "recovered"))?;
    let once = all_dirty(&core);
    let both = both(&read);
    if all_of(&both) != once {
        return Err("a reader and a writer recover different things".into());
    }
    if let Some(point) = &outstanding {
        truth.with(|b| b.may.iter_mut().zip(point).for_each(|(may, point)| *may |= point));
    }
    check_excess(content, &header, truth, &once)?;
    let recovery_writes = disk.writes();
    drop(core);
    let (core, _) =
        open_alone(disk.shared(), path(), &options(), 0).map_err(|e| format!("cannot be opened twice: {e}"))?;
    let (twice, intent) = (all_dirty(&core), intent_of(&SimDisk::new(content.clone(), Vec::new()), &header));
    // Who opens a map that was closed makes the intent count again.
    let covered = |i: usize| {
        was_closed(&header) && intent.as_ref().is_some_and(|intent| intent.word(i as u64 / 64) >> (i % 64) & 1 == 1)
    };
    if (0..twice.len()).any(|i| twice[i] != once[i] && !(twice[i] && covered(i))) {
        return Err("recovering twice is not recovering once".into());
    }
    drop(core);
    if let Some((seed, depth)) = again {
        let mut rng = Rng(seed);
        // What the first recovery explains, it may have made durable before the second crash.
        let truth = &Truth(Arc::new(Mutex::new(begun.with(|b| b.clone()))));
        truth.with(|b| b.may.iter_mut().zip(&once).for_each(|(may, once)| *may |= once));
        for at in 0..recovery_writes {
            let pick = some_pick(&mut rng);
            let disk = SimDisk::new(content.clone(), vec![(at, Fault::Cut(pick))]);
            let _ = open_alone(disk.shared(), path(), &options(), 0);
            let deeper = (depth > 1 && rng.below(16) == 0).then(|| (rng.next(), depth - 1));
            check_crash(&disk.device(), truth, deeper)
                .map_err(|e| format!("after a cut in write {at} of the recovery ({pick:?}): {e}"))?;
        }
    }
    Ok(())
}

/// The points that are kept verify and hold what they must.
pub(super) fn check_points(disk: &Arc<SimDisk>, header: &Header, truth: &Truth) -> Verdict {
    let names = header.points.iter().filter(|point| point.role == PointRole::Kept).map(|point| point.name.as_str());
    let mut bits = truth.with(|b| b.clone());
    bits.has_length(header.geometry.bits());
    let kept = bits.kept;
    if !names.clone().eq(kept.iter().map(|k| k.0)) {
        return Err(format!("the points are {:?}", names.collect::<Vec<_>>()));
    }
    for (name, must) in kept {
        let at = header.points.iter().position(|point| point.name == name).ok_or("gone")?;
        let point = held(disk, header, at..at + 1).map_err(|e| e.to_string())?;
        if point.failed() > 0 {
            return Err(format!("point {name} fails"));
        }
        if let Some(i) = (0..header.geometry.bits()).find(|&i| must[i as usize] && !point.bit(i)) {
            return Err(format!("point {name} has lost bit {i}"));
        }
    }
    Ok(())
}

/// What some points of a header hold.
pub(super) fn held(disk: &SimDisk, header: &Header, points: Range<usize>) -> crate::Result<PointSet> {
    let mut held = PointSet::of_points(disk.file(), header, &header.points[points])?;
    held.finish();
    Ok(held)
}

fn was_closed(header: &Header) -> bool {
    header.state == State::Clean
}

/// What the intent of a header covers, once it counts.
fn intent_of(disk: &SimDisk, header: &Header) -> Option<IntentSet> {
    let open = Header { state: State::Open, ..header.clone() };
    IntentSet::read(disk.file(), &open).ok().flatten()
}

/// Dirt beyond what may be there must be covered by the list or the intent, or lie in a failed page. A clean file has none.
pub(super) fn check_excess(content: &Image, header: &Header, truth: &Truth, dirty: &[bool]) -> Verdict {
    let disk = SimDisk::new(content.clone(), Vec::new());
    let mut failed = Vec::new();
    let scan = Scan { file: disk.file(), bottom: &BottomRef::of_map(header) };
    let note = |index, page: Page<'_>| {
        if matches!(page, Page::Failed(_)) {
            failed.push(index);
        }
        Ok(())
    };
    scan.run(note, |_| Ok(())).map_err(|e| e.to_string())?;
    let intent = if was_closed(header) { None } else { intent_of(&disk, header) };
    truth.with(|b| {
        let explained = |i: u64| {
            let (page, word) = (i / PAGE_BITS, i / 64);
            let intended = intent.as_ref().is_some_and(|intent| intent.word(word) >> (i % 64) & 1 == 1);
            named(&header.runs, page) & 1 << (word % 64) != 0 || failed.contains(&page) || intended
        };
        match (0..dirty.len() as u64).find(|&i| dirty[i as usize] && !b.may[i as usize] && !explained(i)) {
            Some(i) => Err(format!("bit {i} is dirty, and nothing explains it")),
            None => Ok(()),
        }
    })
}
