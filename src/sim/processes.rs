//! Several processes that share a map on the simulated disk, and die one by one or together.
//!
//! They take turns; each operation is one process's. A process is killed inside a durable write or at any
//! [`SyncPoint`]; then the others go on. What is asked of them is what is asked of one: nothing owed is missing, in the
//! running map after every operation, after the power goes in any write, and after the last one has closed the map.

mod beside;

use crate::engine::point_set::{Dirt, UnionView};
use crate::error::Holder;
use crate::format::Durability;
use crate::options::Access;
use crate::session::join::join;
use crate::session::load::load_in_memory;
use crate::sim::*;
use crate::sys::{Identity, Lock, Mapping, WriteSegment};
use programs::operation;
use proptest::prelude::{Just, Strategy, prop, prop_oneof};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;

/// What a killed process ends with.
struct Killed;

/// The disk as one process has it: nothing works any more when that is dead.
struct Door {
    disk: Arc<SimDisk>,
    faults: Vec<(usize, Fault)>,
    dead: AtomicBool,
}

impl Door {
    fn open(&self) -> io::Result<&SimDisk> {
        if self.dead.load(SeqCst) { Err(io::Error::other("simulated: killed")) } else { Ok(&self.disk) }
    }

    /// After a write: who was killed in it ends there; a power cut ends all.
    fn left<R>(&self, done: io::Result<R>) -> io::Result<R> {
        let last = self.disk.writes().checked_sub(1);
        let fault = self.faults.iter().find(|f| Some(f.0) == last).map(|f| f.1);
        if self.disk.dead() && matches!(fault, Some(Fault::Kill(..))) {
            self.disk.survive();
            self.dead.store(true, SeqCst);
            resume_unwind(Box::new(Killed));
        }
        done
    }
}

impl Storage for Door {
    fn len(&self) -> io::Result<u64> {
        self.open()?.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.open()?.read_at(buf, offset)
    }
    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        self.open()?.next_data(range)
    }
    fn write_durable(&self, parts: &[WriteSegment<'_>]) -> io::Result<()> {
        let done = self.open()?.write_durable(parts);
        self.left(done)
    }
    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        self.open()?.allocate(range)
    }
    fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        self.open()?.punch_hole(range)
    }
    fn extend(&self, len: u64) -> io::Result<()> {
        self.open()?.extend(len)
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.open()?.truncate(len)
    }
    fn reading_allocates(&self) -> bool {
        false
    }
    fn map(&self, range: Range<u64>) -> io::Result<Mapping> {
        self.open()?.map(range)
    }
    fn exclude_from_sync(&self, _: Range<u64>) {}
    fn try_lock(&self, _: Lock) -> io::Result<bool> {
        Ok(true)
    }
    fn holder(&self, _: Lock, _: Lock) -> Option<Holder> {
        None
    }
    fn slot_held(&self, _: Range<u64>) -> io::Result<bool> {
        Ok(false)
    }
    fn has_readers(&self) -> io::Result<bool> {
        Ok(false)
    }
    fn unlock(&self, _: Lock) {}
    fn sync_all(&self) -> io::Result<()> {
        let done = self.open()?.sync_all();
        self.left(done)
    }
    fn identity(&self) -> io::Result<Identity> {
        self.open()?.identity()
    }
}

const PROCESSES: usize = 3;

/// What happens to a process in one turn.
#[derive(Clone, Debug)]
enum Turn {
    Op(Op),
    /// It is killed at this many points from here on, in the operation.
    Dying(Op, u64),
    /// It goes without closing.
    Leave,
    /// It closes the map; the last one leaves it clean.
    Close,
}

/// Who does what. What cannot be done when its turn comes is left out: so a program of which something was taken away is
/// a program.
type Turns = Vec<(usize, Turn)>;

fn turns() -> impl Strategy<Value = Turns> {
    let turn = prop_oneof![
        10 => operation().prop_map(Turn::Op),
        2 => (operation(), 0..12u64).prop_map(|(op, points)| Turn::Dying(op, points)),
        1 => Just(Turn::Leave),
        1 => Just(Turn::Close),
    ];
    prop::collection::vec((0..PROCESSES, turn), 8..24)
}

/// The processes that have the map open.
struct Session {
    disk: Arc<SimDisk>,
    faults: Vec<(usize, Fault)>,
    process_durability: bool,
    cores: [Option<Arc<Core>>; PROCESSES],
    /// Bits that somebody stored who was killed before he set their summaries. They are owed to nobody; a search does
    /// not find them, and so no reset does, until somebody sets them or the session ends.
    ghosts: Vec<u64>,
    /// How often the page cache of the dead was trusted.
    trusted: usize,
}

impl Session {
    /// The process's map; it opens it first if need be. `None` when it was killed or failed at that.
    fn core(&mut self, process: usize, truth: &Truth) -> Result<Option<Arc<Core>>, String> {
        if let Some(core) = &self.cores[process] {
            return Ok(Some(core.clone()));
        }
        let door = Door { disk: self.disk.clone(), faults: self.faults.clone(), dead: AtomicBool::new(false) };
        let door: Arc<dyn Storage> = Arc::new(door);
        let options = options().access(Access::Shared);
        let alone = self.cores.iter().all(Option::is_none);
        // What recovery makes dirty may be dirty, also if it does not come to its end.
        let unknown = alone.then(|| load_in_memory(self.disk.after_death().file(), None));
        let unknown = unknown.and_then(Result::ok).map_or(Vec::new(), |loaded| all_of(&both(&loaded)));
        let may_be_dirty = || truth.with(|b| b.may.iter_mut().zip(&unknown).for_each(|(may, dirty)| *may |= dirty));
        // Now and then the kernel has failed to write a page back when all are dead.
        let mut rng = Rng(self.disk.writes() as u64 ^ 0xDEAD);
        if alone && self.process_durability && rng.below(4) == 0 {
            self.disk.lose_a_mapped_page(rng.next());
        }
        let opened = catch_unwind(AssertUnwindSafe(|| {
            if alone {
                let opened = open_alone(door, path(), &options, process as u64);
                opened.map(|(core, recovery)| (core, recovery.cache_trusted == Some(true) && !recovery.lost_commit))
            } else {
                join(door, path(), &options, |_| Ok((process as u64, ()))).map(|(core, ())| (core, false))
            }
        }));
        match opened {
            Err(end) => {
                killed(end);
                may_be_dirty();
                Ok(None)
            }
            Ok(Ok((core, trusted))) => {
                let core = Arc::new(core);
                if trusted {
                    self.trusted += 1;
                } else {
                    may_be_dirty();
                }
                if alone {
                    self.ghosts.clear();
                    self.disk.forgive();
                    truth.with(|b| b.unflushed.fill(false));
                    check_no_clean_copy(&self.disk)?;
                }
                if alone {
                    // A checkpoint that was not frozen was aborted.
                    truth.freeze_ended(false);
                    truth.reopened(&core);
                }
                if !self.living(process, || truth.settle_in(&core))? {
                    return Ok(None);
                }
                core.read_union(|both| check_covered(both, truth, if alone { "opened" } else { "joined" }))?;
                truth.with(|b| b.has_length(core.geometry().bits()));
                self.cores[process] = Some(core.clone());
                Ok(Some(core))
            }
            Ok(Err(e)) if self.disk.dead() || of_the_device(&e) => {
                may_be_dirty();
                Ok(None)
            }
            Ok(Err(e)) => Err(format!("process {process} cannot open: {e}")),
        }
    }

    /// Runs what a process does, which may be killed in it: then it is gone, and this is false.
    fn living(&mut self, process: usize, f: impl FnOnce() -> Verdict) -> Result<bool, String> {
        match catch_unwind(AssertUnwindSafe(f)) {
            Ok(verdict) => verdict.map(|()| true),
            Err(end) => {
                killed(end);
                self.cores[process] = None;
                Ok(false)
            }
        }
    }

    /// Sees how far a checkpoint has come of which that is not known, by whoever lives.
    fn settle(&mut self, truth: &Truth) -> Verdict {
        for process in 0..PROCESSES {
            let open =
                truth.with(|b| b.dropping.is_some() || b.checkpoint.as_ref().is_some_and(|c| c.states.len() > 1));
            let Some(core) = self.cores[process].clone().filter(|_| open && !self.disk.dead()) else { continue };
            self.living(process, || truth.settle_in(&core))?;
        }
        Ok(())
    }

    fn turn(&mut self, process: usize, turn: &Turn, truth: &Truth) -> Verdict {
        let Some(core) = self.core(process, truth)? else { return Ok(()) };
        let alone = self.cores.iter().flatten().count() == 1;
        let (op, last) = match turn {
            // It takes one who is alone.
            Turn::Op(Op::Truncate(_)) | Turn::Dying(Op::Truncate(_), _) if !alone => return Ok(()),
            Turn::Op(op) | Turn::Dying(op, _) => (Some(op), None),
            Turn::Leave => (None, None),
            Turn::Close => (None, Some(alone)),
        };
        let mut core = Some(core);
        if let Turn::Dying(_, points) = turn {
            let mut left = *points;
            testing::visit(Some(Box::new(move |_| {
                if left == 0 {
                    resume_unwind(Box::new(Killed));
                }
                left -= 1;
            })));
        }
        self.meddle(process, truth);
        self.want(process);
        let disk = self.disk.clone();
        let mine = truth.with(|b| b.mine.clone());
        let done = catch_unwind(AssertUnwindSafe(|| match (op, last) {
            (Some(op), _) => act(op, &mut core, &disk, truth),
            (None, last) => {
                let core = core.take().expect("open");
                last.map_or(Ok(()), |last| close_one(&core, last, &disk, truth))
            }
        }));
        testing::visit(None);
        self.disk.interlope(None);
        match done {
            Ok(verdict) => {
                verdict?;
                self.cores[process] = core;
            }
            Err(end) => {
                killed(end);
                self.cores[process] = None;
                truth.freeze_ended(false);
                truth.still_mine(&mine);
                // What it was changing may be as it was or as it should be, for good.
                let of = |op: &Op| match op {
                    Op::Set(bits) | Op::Reset(bits) => bits.clone(),
                    Op::Flush => 0..0,
                    _ => 0..BITS,
                };
                truth.with(|b| op.map(of).unwrap_or(0..0).for_each(|i| b.unflushed[i as usize] = false));
            }
        }
        self.settle(truth)?;
        disk.wrong()?;
        self.spare_ghosts(truth);
        for core in self.cores.iter().flatten().filter(|_| !disk.dead()) {
            core.read_union(|both| check_covered(both, truth, "running"))?;
            check_exact(core, &disk, truth)?;
        }
        if let Some(core) = self.cores.iter().flatten().next() {
            let current = UnionView { current: Dirt::of(core.view()), point: None };
            let found = found_words(&current);
            let lost = |&i: &u64| dirty(&current, i) && !found[(i / 64) as usize];
            self.ghosts.extend(bits_of(core.view()).filter(lost));
        }
        self.spare_ghosts(truth);
        Ok(())
    }

    /// What a dead setter has stored and not summarised, no reset finds: it may stay.
    fn spare_ghosts(&self, truth: &Truth) {
        truth.with(|b| self.ghosts.iter().for_each(|&i| (b.may[i as usize], b.mine[i as usize]) = (true, true)));
    }
}

/// Goes on unless it is a failed assertion.
fn killed(end: Box<dyn std::any::Any + Send>) {
    if !end.is::<Killed>() {
        resume_unwind(end);
    }
}

fn act(op: &Op, core: &mut Option<Arc<Core>>, disk: &SimDisk, truth: &Truth) -> Verdict {
    let Some(c) = core.clone() else { return Ok(()) };
    match op {
        Op::Truncate(len) => {
            *core = None; // One that is killed in it is gone.
            *core = truth.truncate(*len, c);
            match core {
                Some(core) if !disk.dead() => check_one_layout(disk, core),
                _ => Ok(()),
            }
        }
        op => act_on(op, &c, truth),
    }
}

fn close_one(core: &Core, last: bool, disk: &SimDisk, truth: &Truth) -> Verdict {
    truth.flush(core);
    if last { closed(core, disk, truth) } else { Ok(()) }
}

fn session(
    turns: &[(usize, Turn)],
    content: &Image,
    faults: &[(usize, Fault)],
    troubles: &[Trouble],
) -> Result<(End, usize), String> {
    let disk = SimDisk::new(content.clone(), faults.to_vec());
    disk.trouble(troubles);
    let truth = Truth::new();
    let process_durability = is_process(&disk);
    let (cores, ghosts) = Default::default();
    let faults = faults.to_vec();
    let mut session = Session { disk: disk.clone(), faults, process_durability, cores, ghosts, trusted: 0 };
    for (i, (process, turn)) in turns.iter().enumerate() {
        if disk.dead() {
            break;
        }
        let failing = session.fails_in(turn);
        failing.inspect(|&sector| disk.spoil(sector));
        session.turn(*process, turn, &truth).map_err(|e| format!("turn {i}, process {process}, {turn:?}: {e}"))?;
        failing.inspect(|&sector| disk.heal(sector));
    }
    Ok((End { disk, truth }, session.trusted))
}

fn is_process(disk: &SimDisk) -> bool {
    headers::newest(disk.file()).is_ok_and(|newest| newest.header.durability == Durability::Process)
}

/// A process that is killed in a write leaves some of it in the page cache, and no garbage: others see that at once.
fn some_kill(rng: &mut Rng) -> Fault {
    let mut pick = || match some_pick(rng) {
        Pick::Garbage(seed) => Pick::Random(seed),
        pick => pick,
    };
    Fault::Kill(pick(), pick())
}

/// What is left after all of it: once the power is gone, and while the machine lives on and its page cache may be trusted.
/// Says how often it was.
fn check_left(end: &End) -> Result<usize, String> {
    check_end(end, None)?;
    if end.disk.dead() {
        return Ok(0);
    }
    let disk = end.disk.after_death();
    let truth = &Truth(Arc::new(Mutex::new(end.truth.with(|b| b.clone()))));
    let Newest { header, .. } = headers::newest(disk.file()).map_err(|e| format!("no header: {e}"))?;
    let outstanding = truth.with(|b| b.checkpoint.as_ref().map(|c| c.may.clone()));
    truth.settle(&header, true)?;
    let (core, recovery) =
        open_alone(disk.shared(), path(), &options(), 0).map_err(|e| format!("cannot be opened: {e}"))?;
    core.read_union(|both| check_covered(both, truth, "all are dead"))?;
    if recovery.unclean && (recovery.cache_trusted != Some(true) || recovery.lost_commit) {
        return Ok(0);
    }
    // It was closed, or who opens it knows what those had who died: no more is dirty than they have set.
    truth.with(|b| {
        let all = all_dirty(&core);
        let may = |i: usize| b.may[i] || outstanding.as_ref().is_some_and(|point| point[i]);
        match (0..all.len()).find(|&i| all[i] && !may(i)) {
            Some(i) => Err(format!("all are dead: bit {i} is dirty, and nothing explains it")),
            None => Ok(usize::from(recovery.unclean)),
        }
    })
}

fn one_program(turns: &Turns, seed: u64, durability: Durability, content: &Image, tally: &mut Tally) -> Verdict {
    let mut rng = Rng(seed ^ 0x5AE5);
    let mut turns = turns.clone();
    let process = durability == Durability::Process;
    if rng.below(2) == 0 {
        // All of them close at the end.
        turns.extend((0..PROCESSES).map(|process| (process, Turn::Close)));
    }
    tally.programs += 1;
    let mut tried = |faults: &[(usize, Fault)], troubles: &[Trouble]| {
        let (end, trusted) = session(&turns, content, faults, troubles)?;
        let left = if process { check_left(&end) } else { check_end(&end, None).map(|()| 0) };
        tally.trusted += trusted + left?;
        Ok(end)
    };
    let end = tried(&[], &[]).map_err(|e: String| format!("undisturbed: {e}"))?;
    let writes = end.disk.writes();
    for trouble in troubles(&end.disk, &mut rng) {
        let kill = [(rng.below(writes as u64) as usize, some_kill(&mut rng))];
        let kill = if rng.below(2) == 0 { &kill[..] } else { &[] };
        tried(kill, std::slice::from_ref(&trouble)).map_err(|e| format!("{trouble:?} {kill:?}: {e}"))?;
        tally.troubles += 1;
    }
    for at in 0..writes {
        let later = at + 1 + rng.below(8) as usize;
        let cut = Fault::Cut(some_pick(&mut rng));
        let kill = some_kill(&mut rng);
        let fail = Fault::Fail(some_pick(&mut rng), rng.below(2) == 0);
        let again = some_kill(&mut rng);
        let all = [
            vec![(at, kill), (later, again)],
            vec![(at, fail), (later, kill)],
            vec![(at, cut)],
            vec![(at, kill), (later, cut)],
        ];
        for faults in all {
            tried(&faults, &[]).map_err(|e| format!("{faults:?}: {e}"))?;
            tally.crashes += 1;
        }
    }
    Ok(())
}

pub(super) fn seeds_of_several(from: u64, count: u64, durability: Durability) -> Result<Tally, (u64, String)> {
    let content = fresh_of(durability);
    let mut tally = Tally::default();
    for seed in from..from + count {
        let turns = tree(turns(), seed).current();
        verdict(|| one_program(&turns, seed, durability, &content, &mut tally)).map_err(|e| (seed, e))?;
    }
    Ok(tally)
}

fn no_death(name: &str, durability: Durability) {
    let from = asked("DIRTYMAP_SIM_FROM", 1);
    let found = seeds_of_several(from, asked("DIRTYMAP_SIM_SEEDS", 10), durability);
    let smaller = |(seed, why)| {
        let content = fresh_of(durability);
        let fails = |turns: &Turns| one_program(turns, seed, durability, &content, &mut Tally::default());
        (seed, smallest(tree(turns(), seed), why, fails))
    };
    if let (Ok(tally), Durability::Process) = (&found, durability) {
        assert!(tally.trusted > tally.programs, "the page cache was never trusted, or hardly ever: {tally:?}");
    }
    report(name, from, found.map_err(smaller));
}

#[test]
fn no_death_of_one_of_several_loses_an_owed_bit() {
    no_death(name_of(no_death_of_one_of_several_loses_an_owed_bit), Durability::PowerLoss);
}

#[test]
fn no_death_of_one_of_several_loses_an_owed_bit_of_a_process_map() {
    no_death(name_of(no_death_of_one_of_several_loses_an_owed_bit_of_a_process_map), Durability::Process);
}

/// A flusher of a `Process` map is killed after it has untouched a word and before it has looked again, and
/// somebody has set a bit of the word since the flusher took his copy: the mark in the runtime page is all that tells.
#[test]
pub(super) fn what_a_dead_flusher_untouched_is_absorbed() {
    let (disk, flusher, other) = two_of(Durability::Process);
    let (flusher, other) = (Arc::new(flusher), Arc::new(other));
    flusher.set_bits(3..4).unwrap();
    other.set_bits(3..4).unwrap(); // So that it knows the word's space to be there.
    let setter = other.clone();
    disk.interlope(Some(Box::new(move || assert_eq!(setter.set_bits(5..6).unwrap(), 1))));
    testing::visit(Some(Box::new(|point| {
        if point == SyncPoint::UntouchedLast {
            resume_unwind(Box::new(Killed));
        }
    })));
    let end = catch_unwind(AssertUnwindSafe(|| flusher.flush())).unwrap_err();
    testing::visit(None);
    disk.interlope(None);
    killed(end);
    drop(flusher);
    other.flush().unwrap();
    // Before the close, which compares what is live with what is durable.
    assert!(other.is_durable(3) && other.is_durable(5), "a flush has left it behind");
    assert!(other.close(image::Image::AsBefore).unwrap());
    let loaded = load_in_memory(SimDisk::new(disk.device(), Vec::new()).file(), None).unwrap();
    assert!(dirty(&both(&loaded), 3) && dirty(&both(&loaded), 5), "closed as clean without it");
}

/// Two processes that share a map.
pub(super) fn two_of(durability: Durability) -> (Arc<SimDisk>, Core, Core) {
    let disk = SimDisk::new(fresh_of(durability), Vec::new());
    let (first, second) = two_on(&disk);
    (disk, first, second)
}

pub(super) fn two_on(disk: &Arc<SimDisk>) -> (Core, Core) {
    let options = options().access(Access::Shared);
    let (first, _) = open_alone(disk.shared(), path(), &options, 0).unwrap();
    let (second, ()) = join(disk.shared(), path(), &options, |_| Ok((1, ()))).unwrap();
    (first, second)
}

/// A process is killed between the steps of a reset. What the others read then is what the file has when they close it.
#[test]
pub(super) fn a_reset_of_one_who_is_killed_does_not_come_back_when_others_close() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        for dies_at in [SyncPoint::Remembered, SyncPoint::ResetTouched, SyncPoint::ResetDurable, SyncPoint::ResetLive] {
            let (disk, resetter, other) = two_of(durability);
            resetter.set_bits(3..4).unwrap();
            resetter.flush().unwrap();
            testing::visit(Some(Box::new(move |point| {
                if point == dies_at {
                    resume_unwind(Box::new(Killed));
                }
            })));
            let end = catch_unwind(AssertUnwindSafe(|| resetter.reset_bits(3..4))).unwrap_err();
            testing::visit(None);
            killed(end);
            drop(resetter);
            let read = all_dirty(&other);
            assert!(other.close(image::Image::AsBefore).unwrap());
            let loaded = load_in_memory(SimDisk::new(disk.device(), Vec::new()).file(), None).unwrap();
            assert!(all_of(&both(&loaded)) == read, "killed at {dies_at:?}, and other bits after a clean close");
        }
    }
}

/// The process is killed when nothing of CLEAN is written: what it had set is all that is dirty.
#[test]
pub(super) fn who_dies_before_a_close_is_committed_leaves_a_page_cache_that_is_trusted() {
    let closing = |faults: Vec<(usize, Fault)>| {
        let disk = SimDisk::new(fresh_of(Durability::Process), faults.clone());
        let door = Arc::new(Door { disk: disk.clone(), faults, dead: AtomicBool::new(false) });
        let (core, _) = open_alone(door, path(), &options(), 0).unwrap();
        core.set_bits(5..6).unwrap();
        let closed = catch_unwind(AssertUnwindSafe(|| core.close(image::Image::AsBefore).unwrap()));
        (disk, closed)
    };
    let (undisturbed, closed) = closing(Vec::new());
    assert!(closed.unwrap());
    let (disk, closed) = closing(vec![(undisturbed.writes() - 1, Fault::Kill(Pick::None, Pick::None))]);
    killed(closed.unwrap_err());
    let (core, recovery) = open_alone(disk.after_death(), path(), &options(), 0).unwrap();
    assert_eq!((recovery.cache_trusted, all_dirty(&core).iter().filter(|d| **d).count()), (Some(true), 1));
}
