//! Runs of a program over a disk: undisturbed, and with something going wrong in each of its durable writes.

use crate::sim::*;

/// How a run ended.
pub(super) struct End {
    pub(super) disk: Arc<SimDisk>,
    pub(super) truth: Truth,
}

pub(super) type Verdict = Result<(), String>;

/// Runs a program over a disk. Those who act in between do so at every durable write and at every point of a set.
pub(super) fn run(ops: &[Op], content: Image, faults: Vec<(usize, Fault)>, meddle: Option<u64>) -> Result<End, String> {
    run_on(ops, SimDisk::new(content, faults.clone()), &faults, meddle)
}

pub(super) fn run_on(
    ops: &[Op],
    mut disk: Arc<SimDisk>,
    faults: &[(usize, Fault)],
    meddle: Option<u64>,
) -> Result<End, String> {
    let truth = Truth::new();
    let mut core = None;
    let mut done = 0;
    while done < ops.len() {
        if disk.dead() {
            // Killed, not cut: the page cache lives on. The faults of the writes to come are still to come.
            if !matches!(faults.iter().find(|f| f.0 + 1 == disk.writes()), Some((_, Fault::Kill(..)))) {
                break;
            }
            drop(core);
            disk.wrong()?;
            disk = disk.carry_on();
            return finish_after_kill(&ops[done..], disk, truth, meddle);
        }
        step(&ops[done], &disk, &truth, &mut core, meddle.map(|m| m ^ done as u64))?;
        done += 1;
    }
    testing::visit(None);
    disk.interlope(None);
    disk.wrong()?;
    Ok(End { disk, truth })
}

/// The rest of a run, with a new process on the old page cache.
pub(super) fn finish_after_kill(
    ops: &[Op],
    disk: Arc<SimDisk>,
    truth: Truth,
    meddle: Option<u64>,
) -> Result<End, String> {
    let mut core = None;
    for (i, op) in ops.iter().enumerate() {
        if disk.dead() {
            break;
        }
        step(op, &disk, &truth, &mut core, meddle.map(|m| m ^ (1000 + i as u64)))?;
    }
    testing::visit(None);
    disk.interlope(None);
    disk.wrong()?;
    Ok(End { disk, truth })
}

/// Whether an error is one that the test has the disk make.
pub(super) fn of_the_device(e: &crate::Error) -> bool {
    matches!(e, crate::Error::Io { .. })
}

/// One operation; opens the map first if it is not open.
pub(super) fn step(
    op: &Op,
    disk: &Arc<SimDisk>,
    truth: &Truth,
    core: &mut Option<Arc<Core>>,
    meddle: Option<u64>,
) -> Verdict {
    if core.is_none() {
        disk.interlope(None);
        // What recovery makes dirty may be dirty, also if it does not come to its end.
        if let Ok(loaded) = load_in_memory(disk.after_death().file(), None) {
            let both = both(&loaded);
            truth.with(|b| b.may.iter_mut().zip(all_of(&both)).for_each(|(may, dirty)| *may |= dirty));
        }
        match open_alone(disk.shared(), path(), &options(), 0) {
            Ok((opened, _)) => {
                let opened = Arc::new(opened);
                disk.forgive();
                // One that was not frozen was aborted.
                truth.freeze_ended(false);
                truth.reopened(&opened);
                truth.settle_in(&opened)?;
                opened.read_union(|both| check_covered(both, truth, "opened"))?;
                truth.with(|b| b.has_length(opened.geometry().bits()));
                check_no_clean_copy(disk)?;
                truth.with(|b| b.unflushed.fill(false));
                *core = Some(opened);
            }
            Err(e) if disk.dead() || of_the_device(&e) => return Ok(()),
            Err(e) => return Err(format!("cannot open: {e}")),
        }
    }
    let c = core.clone().unwrap();
    match meddle {
        // Nobody else uses a map while its length is changed.
        Some(seed) if !matches!(op, Op::Truncate(_)) => meddle_with(&c, disk, truth, seed),
        _ => {}
    }
    match op {
        Op::Truncate(len) => {
            *core = truth.truncate(*len, c);
            if let Some(c) = core {
                check_one_layout(disk, c)?;
            }
        }
        Op::Close => {
            testing::visit(None);
            closed(&c, disk, truth)?;
            *core = None;
        }
        Op::Drop => *core = None,
        op => act_on(op, &c, truth)?,
    }
    testing::visit(None);
    disk.interlope(None);
    if let Some(c) = core {
        if truth.with(|b| b.checkpoint.as_ref().is_some_and(|c| c.states.len() > 1)) {
            // A commit of which nobody knew whether it had succeeded may have been made good by whoever adopted it.
            truth.settle_in(c)?;
            if disk.dead() {
                return Ok(());
            }
        }
        c.read_union(|both| check_covered(both, truth, "running"))?;
        check_exact(c, disk, truth)?;
    }
    Ok(())
}

/// What every process does in the same way, whether it has the map alone or not.
pub(super) fn act_on(op: &Op, core: &Core, truth: &Truth) -> Verdict {
    let len = core.geometry().bits();
    let inside = |bits: &Range<u64>| bits.start.min(len)..bits.end.min(len);
    match op {
        Op::Set(bits) => _ = truth.set(inside(bits), core),
        Op::Reset(bits) => truth.reset(inside(bits), core),
        Op::ResetAll => truth.reset_all(core),
        Op::Merge(bits) => truth.merge(bits, core),
        Op::Load(first, words) => truth.load(*first, words, core),
        Op::Freeze(name) => truth.freeze(*name, core)?,
        Op::Commit => truth.commit(core)?,
        Op::Abort => truth.abort(core)?,
        Op::DropPoint(name) => truth.drop_point(name, core)?,
        Op::AddDirt => truth.add_dirt(core),
        Op::BackUp => truth.back_up(core),
        Op::BackedUp => _ = core.complete_backup(|_| ()),
        Op::Flush | Op::Close | Op::Drop | Op::Truncate(_) => truth.flush(core),
    }
    Ok(())
}

/// Closes a map of which all is flushed, if it is to be clean.
pub(super) fn closed(core: &Core, disk: &SimDisk, truth: &Truth) -> Verdict {
    let clean = core.close(image::Image::AsBefore);
    if clean.is_ok() {
        truth.with(Bits::flushed);
    }
    match clean.is_ok_and(|clean| clean) && disk.failed() {
        true => Err("closed as clean although a durable write had failed".into()),
        false => Ok(()),
    }
}

/// Others of the same process act in between: setters inside every durable write (only of words that are armed,
/// since the writer holds the lock that the others would wait for), and a flush at points of a set.
pub(super) fn meddle_with(core: &Arc<Core>, disk: &Arc<SimDisk>, truth: &Truth, seed: u64) {
    let len = core.geometry().bits();
    let within = move |set: Range<u64>| set.start.min(len)..set.end.min(len);
    let mut rng = Rng(seed);
    let (c, t) = (Arc::downgrade(core), truth.clone());
    disk.interlope(Some(Box::new(move || {
        let Some(c) = c.upgrade() else { return };
        for _ in 0..3 {
            let i = if rng.below(2) == 0 { rng.below(300.min(len)) } else { rng.below(len) };
            if i >= len {
                return;
            }
            if flag(c.view().armed(), i) || flag(c.view().durable(), i) {
                // Nobody meddles with the meddler: a flush here would wait for the lock that is held.
                testing::unvisited(|| t.set(i..i + 1, &c));
            }
        }
    })));
    let mut rng = Rng(!seed);
    let (c, t) = (Arc::downgrade(core), truth.clone());
    testing::visit(Some(Box::new(move |point: SyncPoint| {
        let Some(c) = c.upgrade() else { return };
        // At the others the lock is held that it would wait for.
        if !matches!(point, SyncPoint::SeenArmed | SyncPoint::Stored | SyncPoint::Touched) {
            return;
        }
        if rng.below(3) == 0 {
            t.flush(&c);
        }
        // Other setters, which may arm again what the flush has just taken off the list: one for itself, and one in
        // order that arms ahead and does not touch.
        let i = rng.below(300);
        match rng.below(4) {
            0 => _ = t.set(within(i..i + 1), &c),
            1 => _ = (t.set(within(i..i + 1), &c), t.set(within(i + 64..i + 65), &c)),
            _ => {}
        }
    })));
}

pub(super) fn some_pick(rng: &mut Rng) -> Pick {
    let n = rng.below(24) as usize;
    match rng.below(7) {
        0 => Pick::None,
        1 => Pick::All,
        2 => Pick::First(n),
        3 => Pick::Only(n),
        4 => Pick::AllBut(n),
        5 => Pick::Random(rng.next()),
        _ => Pick::Garbage(rng.next()),
    }
}

/// What is tried in a write of `sectors` sectors.
pub(super) fn picks(sectors: usize, rng: &mut Rng) -> Vec<Pick> {
    let mut picks = vec![Pick::None, Pick::All];
    picks.extend((1..sectors).map(Pick::First));
    picks.extend((0..sectors).map(Pick::Only));
    picks.extend((0..sectors).map(Pick::AllBut));
    picks.extend((0..4).map(|_| Pick::Random(rng.next())));
    picks.extend((0..4).map(|_| Pick::Garbage(rng.next())));
    if sectors <= FEW {
        // All that can be.
        let all = (0..1 << sectors).flat_map(|mask| [Pick::Mask(mask, false), Pick::Mask(mask, true)]);
        return all.chain(picks.split_off(picks.len() - 4)).collect();
    }
    picks
}

/// So many sectors that all of their subsets are tried.
pub(super) const FEW: usize = 4;

/// What fails in a run in which calls were made as often as in `undisturbed`: one call, or some in a row.
pub(super) fn troubles(undisturbed: &SimDisk, rng: &mut Rng) -> Vec<Trouble> {
    let mut all = Vec::new();
    for call in Call::ALL {
        for _ in 0..2 {
            let at = rng.below(undisturbed.calls(call) as u64) as usize;
            // One read only: two header copies that cannot be read are more than the format is made for.
            let some = if call == Call::Read || rng.below(2) == 0 { 1 } else { 1 + rng.below(8) as usize };
            all.push((call, at..at + some));
        }
    }
    all
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) programs: usize,
    pub(super) crashes: usize,
    /// Runs in which other calls than durable writes fail.
    pub(super) troubles: usize,
    /// How often the page cache of killed processes was trusted.
    pub(super) trusted: usize,
}

/// One program: cut every write in many ways; kill and fail in every write, and cut a later one.
pub(super) fn one_program(ops: &[Op], seed: u64, content: &Image, tally: &mut Tally) -> Verdict {
    let mut rng = Rng(seed);
    let meddle = (rng.below(2) == 0).then(|| rng.next());
    tally.programs += 1;
    let undisturbed = run(ops, content.clone(), Vec::new(), meddle)?;
    let writes = undisturbed.disk.writes();
    check_end(&undisturbed, None).map_err(|e| format!("undisturbed: {e}"))?;
    for trouble in troubles(&undisturbed.disk, &mut rng) {
        // Nothing else goes wrong, or the power goes some time later.
        let cut = (rng.below(writes as u64) as usize, Fault::Cut(some_pick(&mut rng)));
        for faults in [Vec::new(), vec![cut]] {
            tally.troubles += 1;
            let what = format!("{trouble:?} {faults:?}");
            let disk = SimDisk::new(content.clone(), faults.clone());
            disk.trouble(std::slice::from_ref(&trouble));
            let end = run_on(ops, disk, &faults, meddle).map_err(|e| format!("{what}: {e}"))?;
            check_end(&end, None).map_err(|e| format!("{what}: {e}"))?;
        }
    }
    for at in 0..writes {
        let what = [Fault::Cut(Pick::None), Fault::Cut(Pick::All)];
        let mut faults: Vec<Vec<(usize, Fault)>> = what.into_iter().map(|f| vec![(at, f)]).collect();
        let sectors = run(ops, content.clone(), vec![(at, what[0])], meddle)?.disk.sectors();
        let all = picks(sectors, &mut rng);
        // All of them for one write in eight, some for the others: the seeds are many.
        let some = if rng.below(8) == 0 { all.len() } else { 3 };
        faults.extend((0..some).map(|i| {
            let pick = if some == all.len() { all[i] } else { all[rng.below(all.len() as u64) as usize] };
            vec![(at, Fault::Cut(pick))]
        }));
        for _ in 0..2 {
            let later = at + 1 + rng.below(6) as usize;
            let (one, two) = (some_pick(&mut rng), some_pick(&mut rng));
            let cut = Fault::Cut(some_pick(&mut rng));
            faults.push(vec![(at, Fault::Kill(one, two)), (later, cut)]);
            faults.push(vec![(at, Fault::Fail(one, rng.below(2) == 0)), (later, cut)]);
            let again = Fault::Fail(two, rng.below(2) == 0);
            faults.push(vec![(at, Fault::Fail(one, rng.below(2) == 0)), (at + 1, again), (later + 1, cut)]);
        }
        for faults in faults {
            tally.crashes += 1;
            let end = run(ops, content.clone(), faults.clone(), meddle).map_err(|e| format!("{faults:?}: {e}"))?;
            let again = (rng.below(4) == 0).then(|| rng.next());
            check_end(&end, again).map_err(|e| format!("{faults:?}: {e}"))?;
        }
    }
    Ok(())
}

pub(super) fn seeds(from: u64, count: u64, programs: Programs) -> Result<Tally, (u64, String)> {
    let content = fresh();
    let mut tally = Tally::default();
    for seed in from..from + count {
        let ops = tree(program(programs), seed).current();
        verdict(|| one_program(&ops, seed, &content, &mut tally)).map_err(|e| (seed, e))?;
    }
    Ok(tally)
}

/// How many seeds: a few by default, `DIRTYMAP_SIM_SEEDS` of them for a long run from `DIRTYMAP_SIM_FROM` on.
pub(super) fn asked(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
pub(super) fn no_crash_at_any_durable_write_loses_an_owed_bit() {
    no_crash(name_of(no_crash_at_any_durable_write_loses_an_owed_bit), 1, 6, Programs::Plain);
}

/// Merges and loads go through the steps of sets and resets in their own way.
#[test]
pub(super) fn no_crash_in_a_merge_or_a_load_loses_an_owed_bit() {
    no_crash(name_of(no_crash_in_a_merge_or_a_load_loses_an_owed_bit), 6, 2, Programs::Combining);
}

/// What is dirty moves to a point, and stays there, goes, or comes back.
#[test]
pub(super) fn no_crash_in_a_checkpoint_loses_an_owed_bit() {
    no_crash(name_of(no_crash_in_a_checkpoint_loses_an_owed_bit), 1, 8, Programs::Checkpointing);
}

/// Runs so many seeds from one on, unless others are asked for.
pub(super) fn no_crash(name: &str, from: u64, count: u64, programs: Programs) {
    let from = asked("DIRTYMAP_SIM_FROM", from);
    let found = seeds(from, asked("DIRTYMAP_SIM_SEEDS", count), programs);
    let smaller = |(seed, why)| {
        let content = fresh();
        let fails = |ops: &Vec<Op>| one_program(ops, seed, &content, &mut Tally::default());
        (seed, smallest(tree(program(programs), seed), why, fails))
    };
    report(name, from, found.map_err(smaller));
}
