//! Several processes that share a map on the simulated disk, and die one by one or together.
//!
//! They take turns; each operation is one process's. A process is killed inside a durable write or at any
//! [`Point`]; then the others go on. What is asked of them is what is asked of one: nothing owed is missing, in the
//! running map after every operation, after the power goes in any write, and after the last one has closed the map.

use super::*;
use crate::store::Access;
use crate::store::open::join;
use crate::sys::disk::Identity;
use crate::sys::{Lock, Mapping, Part};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

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

impl Disk for Door {
    fn len(&self) -> io::Result<u64> {
        self.open()?.len()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.open()?.read_at(buf, offset)
    }
    fn next_data(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        self.open()?.next_data(range)
    }
    fn write_durable(&self, parts: &[Part<'_>]) -> io::Result<()> {
        let done = self.open()?.write_durable(parts);
        self.left(done)
    }
    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        self.open()?.allocate(range)
    }
    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.open()?.punch(range)
    }
    fn grow(&self, len: u64) -> io::Result<()> {
        self.open()?.grow(len)
    }
    fn cut(&self, len: u64) -> io::Result<()> {
        self.open()?.cut(len)
    }
    fn reading_allocates(&self) -> bool {
        false
    }
    fn map(&self, range: Range<u64>) -> io::Result<Mapping> {
        self.open()?.map(range)
    }
    fn keep_off(&self, _: Range<u64>) {}
    fn lock(&self, _: Lock) -> io::Result<()> {
        Ok(()) // They take turns.
    }
    fn try_lock(&self, _: Lock) -> io::Result<bool> {
        Ok(true)
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

fn turns(rng: &mut Rng, len: usize) -> Vec<(usize, Turn)> {
    let ops = program(rng, len);
    let ops = combining(ops, rng);
    let turn = |op: Op| {
        let process = rng.below(PROCESSES as u64) as usize;
        let turn = match op {
            // They take one that is alone, and the programs of one have them.
            Op::Truncate(_) => return None,
            Op::Close => Turn::Close,
            Op::Drop => Turn::Leave,
            op if rng.below(6) == 0 => Turn::Dying(op, rng.below(12)),
            op => Turn::Op(op),
        };
        Some((process, turn))
    };
    ops.into_iter().filter_map(turn).collect()
}

/// The processes that have the map open.
struct Session {
    disk: Arc<SimDisk>,
    faults: Vec<(usize, Fault)>,
    cores: [Option<Arc<Core>>; PROCESSES],
    /// Bits that somebody stored who was killed before he set their summaries. They are owed to nobody; a search does
    /// not find them, and so no reset does, until somebody sets them or the session ends.
    ghosts: Vec<u64>,
}

impl Session {
    /// The process's map; it opens it first if need be. `None` when it was killed or failed at that.
    fn core(&mut self, process: usize, truth: &Truth) -> Result<Option<Arc<Core>>, String> {
        if let Some(core) = &self.cores[process] {
            return Ok(Some(core.clone()));
        }
        let door = Door { disk: self.disk.clone(), faults: self.faults.clone(), dead: AtomicBool::new(false) };
        let door: Arc<dyn Disk> = Arc::new(door);
        let options = options().access(Access::Shared);
        let alone = self.cores.iter().all(Option::is_none);
        if alone && let Ok(loaded) = load_in_memory(&*SimDisk::new(self.disk.cache(), Vec::new()), path(), None) {
            // What recovery makes dirty may be dirty, also if it does not come to its end.
            truth.with(|b| bits_of(&loaded.view).for_each(|i| b.may[i as usize] |= dirty(&both(&loaded), i)));
        }
        let opened = catch_unwind(AssertUnwindSafe(|| {
            if alone {
                open_alone(door, path(), &options, process as u64).map(|(core, _)| core)
            } else {
                join(door, path(), &options, |_| Ok((process as u64, ()))).map(|(core, ())| core)
            }
        }));
        match opened {
            Err(end) => {
                killed(end);
                Ok(None)
            }
            Ok(Ok(core)) => {
                let core = Arc::new(core);
                if alone {
                    self.ghosts.clear();
                    truth.with(|b| b.failed = false);
                    truth.with(|b| b.unflushed.fill(false));
                    check_no_clean_copy(&self.disk)?;
                }
                core.together(|both| check_covered(both, truth, if alone { "opened" } else { "joined" }))?;
                self.cores[process] = Some(core.clone());
                Ok(Some(core))
            }
            Ok(Err(e)) if self.disk.dead() || e.kind() == "io" => Ok(None),
            Ok(Err(e)) => Err(format!("process {process} cannot open: {e}")),
        }
    }

    /// Another process sets something inside every durable write of this one: bits of words that are armed, since this one
    /// has the lock that it would wait for.
    fn meddle(&mut self, process: usize, truth: &Truth) {
        let other = self.cores.iter().enumerate().find_map(|(i, core)| core.as_ref().filter(|_| i != process));
        let Some(other) = other.map(Arc::downgrade) else { return };
        let (truth, mut rng) = (truth.clone(), Rng(self.disk.writes() as u64));
        self.disk.interlope(Some(Box::new(move || {
            let Some(other) = other.upgrade() else { return };
            for _ in 0..4 {
                let i = if rng.below(2) == 0 { rng.below(300) } else { rng.below(BITS) };
                if flag(other.view.armed(), i / 64) || flag(other.view.durable(), i) {
                    weak::unvisited(|| truth.set(i..i + 1, &other));
                }
            }
        })));
    }

    fn turn(&mut self, process: usize, turn: &Turn, truth: &Truth) -> Verdict {
        let Some(core) = self.core(process, truth)? else { return Ok(()) };
        let (op, last) = match turn {
            Turn::Op(op) | Turn::Dying(op, _) => (Some(op), None),
            Turn::Leave => (None, None),
            Turn::Close => (None, Some(self.cores.iter().flatten().count() == 1)),
        };
        if let Turn::Dying(_, points) = turn {
            let mut left = *points;
            weak::visit(Some(Box::new(move |_| {
                if left == 0 {
                    resume_unwind(Box::new(Killed));
                }
                left -= 1;
            })));
        }
        self.meddle(process, truth);
        let done = catch_unwind(AssertUnwindSafe(|| match (op, last) {
            (Some(op), _) => {
                act(op, &core, truth);
                Ok(())
            }
            (None, Some(last)) => close_one(&core, last, truth),
            (None, None) => Ok(()),
        }));
        weak::visit(None);
        self.disk.interlope(None);
        match done {
            Ok(verdict) => {
                verdict?;
                if op.is_none() {
                    self.cores[process] = None;
                }
            }
            Err(end) => {
                killed(end);
                self.cores[process] = None;
                // What it was changing may be as it was or as it should be, for good.
                let of = |op: &Op| match op {
                    Op::Set(bits) | Op::Reset(bits) => bits.clone(),
                    Op::Flush => 0..0,
                    _ => 0..BITS,
                };
                truth.with(|b| op.map(of).unwrap_or(0..0).for_each(|i| b.unflushed[i as usize] = false));
            }
        }
        for core in self.cores.iter().flatten() {
            core.together(|both| check_covered(both, truth, "running"))?;
        }
        if let Some(core) = self.cores.iter().flatten().next() {
            let here = Both { here: &core.view, point: None };
            let found = found_words(&here);
            let lost = |&i: &u64| dirty(&here, i) && !found.contains(&(i / 64));
            self.ghosts.extend(bits_of(&core.view).filter(lost));
        }
        truth.with(|b| self.ghosts.iter().for_each(|&i| b.may[i as usize] = true));
        Ok(())
    }
}

/// Goes on unless it is a failed assertion.
fn killed(end: Box<dyn std::any::Any + Send>) {
    if !end.is::<Killed>() {
        resume_unwind(end);
    }
}

fn act(op: &Op, core: &Core, truth: &Truth) {
    match op {
        Op::Set(bits) => _ = truth.set(bits.clone(), core),
        Op::Reset(bits) => truth.reset(bits.clone(), core),
        Op::ResetAll => truth.reset(0..BITS, core),
        Op::Merge(bits) => truth.merge(bits, core),
        Op::Load(first, words) => truth.load(*first, words, core),
        _ => truth.flush(core),
    }
}

fn close_one(core: &Core, last: bool, truth: &Truth) -> Verdict {
    truth.flush(core);
    if last {
        let clean = core.close(close::Image::AsBefore, core.count_durable());
        if clean.is_ok() {
            truth.with(Bits::flushed);
        }
        if clean.is_ok_and(|clean| clean) && truth.with(|b| b.failed) {
            return Err("closed as clean although a durable write had failed".into());
        }
    }
    Ok(())
}

fn session(turns: &[(usize, Turn)], content: &Image, faults: &[(usize, Fault)]) -> Result<End, String> {
    let disk = SimDisk::new(content.clone(), faults.to_vec());
    let truth = Truth::new();
    let mut session =
        Session { disk: disk.clone(), faults: faults.to_vec(), cores: Default::default(), ghosts: Vec::new() };
    for (i, (process, turn)) in turns.iter().enumerate() {
        if disk.dead() {
            break;
        }
        session.turn(*process, turn, &truth).map_err(|e| format!("turn {i}, process {process}, {turn:?}: {e}"))?;
    }
    Ok(End { disk, truth })
}

/// A process that is killed in a write leaves some of it in the page cache, and no garbage: others see that at once.
fn some_kill(rng: &mut Rng) -> Fault {
    let mut pick = || match some_pick(rng) {
        Pick::Garbage(seed) => Pick::Random(seed),
        pick => pick,
    };
    Fault::Kill(pick(), pick())
}

/// A file that says CLEAN has everything that is owed, and nothing that nobody set.
fn check_closed(content: &Image, truth: &Truth) -> Verdict {
    let disk = SimDisk::new(content.clone(), Vec::new());
    let Newest { header, .. } = headers::newest(&*disk, path()).map_err(|e| format!("no header: {e}"))?;
    if header.state != State::Clean {
        return Ok(());
    }
    let loaded = load_in_memory(&*disk, path(), None).map_err(|e| format!("cannot be read: {e}"))?;
    check_covered(&both(&loaded), truth, "closed")?;
    truth.with(|b| match bits_of(&loaded.view).find(|&i| dirty(&both(&loaded), i) && !b.may[i as usize]) {
        Some(i) => Err(format!("closed: bit {i} is dirty, and nothing explains it")),
        None => Ok(()),
    })
}

fn one_seed_of_several(seed: u64, durability: Durability, content: &Image, tally: &mut Tally) -> Verdict {
    let mut rng = Rng(seed ^ 0x5AE5);
    let len = 8 + rng.below(12) as usize;
    let mut turns = turns(&mut rng, len);
    // A Process map whose processes do not close it is all dirty where its page cache is not there.
    let process = durability == Durability::Process;
    if process || rng.below(2) == 0 {
        // All of them close at the end.
        turns.extend((0..PROCESSES).map(|process| (process, Turn::Close)));
    }
    tally.programs += 1;
    let check = |end: &End| {
        if process {
            check_closed(&end.disk.device(), &end.truth)
        } else {
            check_crash(&end.disk.device(), &end.truth, None)
        }
    };
    let end = session(&turns, content, &[])?;
    check(&end).map_err(|e| format!("undisturbed: {e}"))?;
    let writes = end.disk.writes();
    for at in 0..writes {
        let later = at + 1 + rng.below(8) as usize;
        let cut = Fault::Cut(some_pick(&mut rng));
        let kill = some_kill(&mut rng);
        let fail = Fault::Fail(some_pick(&mut rng), rng.below(2) == 0);
        let again = some_kill(&mut rng);
        let mut all = vec![vec![(at, kill), (later, again)], vec![(at, fail), (later, kill)]];
        if !process {
            all.extend([vec![(at, cut)], vec![(at, kill), (later, cut)]]);
        }
        for faults in all {
            tally.crashes += 1;
            let end = session(&turns, content, &faults).map_err(|e| format!("{faults:?}: {e}"))?;
            check(&end).map_err(|e| format!("{faults:?}: {e}"))?;
        }
    }
    Ok(())
}

pub(super) fn seeds_of_several(from: u64, count: u64, durability: Durability) -> Result<Tally, (u64, String)> {
    let content = fresh_of(durability);
    let mut tally = Tally::default();
    for seed in from..from + count {
        let found = one_seed_of_several(seed, durability, &content, &mut tally);
        weak::visit(None);
        found.map_err(|e| (seed, e))?;
    }
    Ok(tally)
}

fn no_death(durability: Durability) {
    let from = asked("DIRTYMAP_SIM_FROM", 1);
    match seeds_of_several(from, asked("DIRTYMAP_SIM_SEEDS", 10), durability) {
        Ok(tally) => println!("{tally:?} from seed {from}"),
        Err((seed, why)) => panic!("DIRTYMAP_SIM_FROM={seed} DIRTYMAP_SIM_SEEDS=1: {why}"),
    }
}

#[test]
fn no_death_of_one_of_several_loses_an_owed_bit() {
    no_death(Durability::PowerLoss);
}

#[test]
fn no_death_of_one_of_several_loses_an_owed_bit_of_a_process_map() {
    no_death(Durability::Process);
}

/// A flusher of a map that lists all is killed after it has untouched a word and before it has looked again, and
/// somebody has set a bit of the word since the flusher took his copy: the mark in the runtime page is all that tells.
#[test]
fn what_a_dead_flusher_untouched_is_absorbed() {
    let disk = SimDisk::new(fresh_of(Durability::Process), Vec::new());
    let options = options().access(Access::Shared);
    let (flusher, _) = open_alone(disk.shared(), path(), &options, 0).unwrap();
    let (other, ()) = join(disk.shared(), path(), &options, |_| Ok((1, ()))).unwrap();
    let (flusher, other) = (Arc::new(flusher), Arc::new(other));
    flusher.set_bits(3..4).unwrap();
    other.set_bits(3..4).unwrap(); // So that it knows the word's space to be there.
    let setter = other.clone();
    disk.interlope(Some(Box::new(move || setter.set_bits(5..6).unwrap())));
    weak::visit(Some(Box::new(|point| {
        if point == Point::UntouchedLast {
            resume_unwind(Box::new(Killed));
        }
    })));
    let end = catch_unwind(AssertUnwindSafe(|| flusher.flush())).unwrap_err();
    weak::visit(None);
    disk.interlope(None);
    killed(end);
    drop(flusher);
    other.flush().unwrap();
    assert!(other.close(close::Image::AsBefore, other.count_durable()).unwrap());
    let loaded = load_in_memory(&*SimDisk::new(disk.device(), Vec::new()), path(), None).unwrap();
    assert!(dirty(&both(&loaded), 3) && dirty(&both(&loaded), 5), "closed as clean without it");
}
