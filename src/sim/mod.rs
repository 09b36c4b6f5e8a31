//! Crashes, kills and failing writes at every durable write of random runs, over the simulated disk.
//!
//! A run is a list of operations made from a seed. It is first run undisturbed, to count its durable writes,
//! and then again for every one of them with something going wrong in it. What is owed (set, and not reset since)
//! is kept outside the map. Oracle, after every crash and recovery: all that is owed is dirty; what is dirty beyond
//! what was ever set is named by the armed list, or was reset and not flushed, or lies in a page that did not verify;
//! a file that says CLEAN is exact; recovering again changes nothing.

pub(crate) mod disk;
mod mutants;
mod processes;
mod programs;
mod regressions;
mod repairs;
#[cfg(loom)]
mod threads;
mod verdicts;

use crate::engine::commit::Failure;
use crate::engine::core::Core;
use crate::engine::point_set::{Both, Dirt, Frozen};
use crate::engine::{checkpoint, image};
use crate::file::bottom::named;
use crate::file::headers::{self, Newest};
use crate::file::scan::{Page, Scan};
use crate::file::{create, reasons};
use crate::format::{self, CheckpointState, Durability, Header, PointRole, State};
use crate::fsck::check;
use crate::geometry::{Geometry, PAGE_BITS, PAGE_BYTES};
use crate::map::{points, resize};
use crate::options::Options;
use crate::query::Search;
use crate::session::load::{Loaded, load_in_memory};
use crate::session::open::open_alone;
use crate::shm::view::{Look, flag, runtime};
use crate::sim::disk::{Call, Fault, Image, Pick, Rng, SECTOR, SimDisk, Trouble};
use crate::sys::{Disk, Part};
use crate::testing::{self, Mutant, SyncPoint};
use programs::{Op, Programs, name_of, program, report, smallest, tree, verdict};
use proptest::strategy::ValueTree;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// Three pages and a bit, one item per granule: the length that a map starts with.
const BITS: u64 = 3 * PAGE_BITS + 100;
/// The largest length that it gets.
const MOST: u64 = 4 * PAGE_BITS + 50;

fn path() -> &'static Path {
    Path::new("simulated")
}

fn options() -> Options {
    // Room for six words, and an eighth of that ahead: lists fill up and are flushed for room within a run.
    Options { flush_interval: None, armed_bound: 24 * 64, ..Options::new() }
}

fn geometry(len: u64) -> Geometry {
    Geometry::new(len, 0).unwrap()
}

/// A new map.
fn fresh() -> Image {
    fresh_of(Durability::PowerLoss)
}

fn fresh_of(durability: Durability) -> Image {
    let disk = SimDisk::new(Image::default(), Vec::new());
    create::write_new(&*disk, path(), geometry(BITS), &Options { granularity: 0, durability, ..options() }).unwrap();
    disk.device()
}

/// Sets of bits as the test keeps them, shared with those who act in between.
#[derive(Clone)]
struct Truth(Arc<Mutex<Bits>>);

#[derive(Clone)]
struct Bits {
    /// How long the map is, in bits.
    len: u64,
    /// How long it may be instead, after a change of length that went wrong.
    or_len: Option<u64>,
    /// Set, and not reset since: must read dirty.
    owed: Vec<bool>,
    /// May read dirty: owed, being set when something went wrong, or reset and not flushed since.
    may: Vec<bool>,
    /// Of those: reset, and not flushed since.
    unflushed: Vec<bool>,
    /// A caller has begun to set it, and has not reset it since: what else is dirty was added.
    mine: Vec<bool>,
    /// The checkpoint that was begun and is not over.
    checkpoint: Option<Checkpointed>,
    /// Set since it was frozen, and not reset since then.
    since: Vec<bool>,
    /// The points that are kept, with what was frozen since then and before the next; and the one that is being dropped.
    kept: Vec<(&'static str, Vec<bool>)>,
    dropping: Option<&'static str>,
}

/// A checkpoint as the test knows it.
#[derive(Clone)]
struct Checkpointed {
    name: Option<&'static str>,
    /// What the point may hold.
    may: Vec<bool>,
    /// Set while the freeze was under way: there or here, as it happens.
    during: Vec<bool>,
    /// What it must hold: owed when the freeze began.
    must: Vec<bool>,
    /// What of it callers had set, and not recovery.
    mine: Vec<bool>,
    /// The freeze has not returned.
    freezing: bool,
    /// The states that the file may be in.
    states: &'static [CheckpointState],
}

impl Truth {
    fn new() -> Truth {
        let none = vec![false; MOST as usize];
        let (len, or_len) = (BITS, None);
        let (owed, may, unflushed, mine, since) = (none.clone(), none.clone(), none.clone(), none.clone(), none);
        let (checkpoint, kept, dropping) = (None, Vec::new(), None);
        let bits = Bits { len, or_len, owed, may, unflushed, mine, checkpoint, since, kept, dropping };
        Truth(Arc::new(Mutex::new(bits)))
    }

    fn with<R>(&self, f: impl FnOnce(&mut Bits) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }

    fn set(&self, bits: Range<u64>, core: &Core) -> bool {
        self.set_by(bits.clone(), || core.set_bits(bits))
    }

    /// Bits that an operation sets.
    fn set_by(&self, bits: impl Iterator<Item = u64> + Clone, set: impl FnOnce() -> crate::Result<()>) -> bool {
        self.with(|b| {
            for i in bits.clone() {
                (b.may[i as usize], b.mine[i as usize]) = (true, true);
                // Here, whatever becomes of an outstanding point; also if this is killed half-way.
                b.checkpoint.iter_mut().for_each(|c| c.during[i as usize] = true);
            }
        });
        let ok = set().is_ok();
        self.with(|b| {
            for i in bits {
                // Again: a flush may have come in between.
                (b.may[i as usize], b.mine[i as usize]) = (true, true);
                b.owed[i as usize] |= ok;
                b.since[i as usize] |= ok;
                if let Some(c) = b.checkpoint.as_mut().filter(|c| c.freezing) {
                    (c.may[i as usize], c.during[i as usize], c.mine[i as usize]) = (true, true, true);
                }
                // Also after an error: what was reset before may be set again, and a flush does not take that away.
                b.unflushed[i as usize] = false;
            }
        });
        ok
    }

    fn reset(&self, bits: Range<u64>, core: &Core) {
        self.reset_by(bits.clone(), || core.reset_bits(bits));
    }

    fn reset_all(&self, core: &Core) {
        let done = catch_unwind(AssertUnwindSafe(|| self.reset_by(0..core.geometry().bits(), || core.reset_all())));
        // What others have set in a commit of it may be reset with the rest, or not; also when it is killed.
        self.with(|b| (b.owed.fill(false), b.since.fill(false)));
        if let Err(end) = done {
            resume_unwind(end);
        }
    }

    /// Bits that an operation resets.
    fn reset_by(&self, bits: Range<u64>, reset: impl FnOnce() -> crate::Result<()>) {
        let mine = self.with(|b| {
            for i in bits.clone() {
                b.owed[i as usize] = false;
                b.since[i as usize] = false;
                b.unflushed[i as usize] = b.may[i as usize];
            }
            let mine = b.mine.clone();
            b.mine[bits.start as usize..bits.end as usize].fill(false);
            mine
        });
        let done = catch_unwind(AssertUnwindSafe(reset));
        if !matches!(done, Ok(Ok(()))) {
            // It may have reset nothing, and then no flush makes that durable; and what others had set is theirs still.
            self.still_mine(&mine);
            self.with(|b| bits.for_each(|i| b.unflushed[i as usize] = false));
        }
        if let Err(end) = done {
            resume_unwind(end);
        }
    }

    /// What was to be reset may be there still.
    fn still_mine(&self, before: &[bool]) {
        self.with(|b| b.mine.iter_mut().zip(before).for_each(|(mine, before)| *mine |= before));
    }

    /// Dirt is added, as by a process that joins with another image.
    fn add_dirt(&self, core: &Core) {
        let all = 0..core.geometry().bits() as usize;
        self.with(|b| {
            b.may[all.clone()].fill(true);
            b.unflushed[all.clone()].fill(false);
            b.checkpoint.iter_mut().for_each(|c| c.during[all.clone()].fill(true));
        });
        let _ = core.add_dirt(format::Reasons::IMAGE_CHANGED, || core.set_bits(0..core.geometry().bits()));
        self.with(|b| {
            b.may[all.clone()].fill(true);
            b.unflushed[all.clone()].fill(false);
            if let Some(c) = b.checkpoint.as_mut().filter(|c| c.freezing) {
                c.may[all].fill(true);
            }
        });
    }

    /// All that is dirty is copied and reset, but for what is in a point; and the backup is complete some time later.
    fn back_up(&self, core: &Core) {
        if core.begin_backup(|_| ()).is_ok() {
            self.reset(0..core.geometry().bits(), core);
        }
    }

    /// Freezes, if nothing is outstanding and the name is free.
    fn freeze(&self, name: Option<&'static str>, core: &Core) -> Verdict {
        if self.with(|b| b.checkpoint.is_some() || name.is_some_and(|name| b.kept.iter().any(|k| k.0 == name))) {
            return Ok(());
        }
        self.with(|b| {
            let (may, must, mine) = (b.may.clone(), b.owed.clone(), b.mine.clone());
            let during = vec![false; MOST as usize];
            b.checkpoint = Some(Checkpointed { name, may, during, must, mine, freezing: true, states: &ALL_STATES });
        });
        let done = core.freeze(name, Duration::ZERO);
        self.freeze_ended(done.is_ok());
        self.settle_in(core)
    }

    /// What recovery made dirty while a checkpoint was outstanding is dirty here, whatever becomes of the point.
    fn reopened(&self, core: &Core) {
        let here = all_of(&Both { here: Dirt::of(core.view()), point: None });
        self.with(|b| {
            let Some(c) = b.checkpoint.as_mut() else { return };
            c.during.iter_mut().zip(here).for_each(|(during, dirty)| *during |= dirty);
        });
    }

    fn freeze_ended(&self, frozen: bool) {
        self.with(|b| {
            let Some(c) = b.checkpoint.as_mut().filter(|c| c.freezing) else { return };
            c.freezing = false;
            if frozen {
                c.states = &[CheckpointState::Frozen];
            }
            b.since.fill(false);
        });
    }

    fn commit(&self, core: &Core) -> Verdict {
        let Ok(Newest { header, .. }) = headers::newest(core.disk(), path()) else { return Ok(()) };
        let Some(point) = header.outstanding().filter(|_| header.checkpoint_state == CheckpointState::Frozen) else {
            return Ok(());
        };
        self.with(|b| {
            let Some(c) = &mut b.checkpoint else { return };
            c.states = &[CheckpointState::Frozen, CheckpointState::Normal];
        });
        let done = core.commit_checkpoint(&point.uuid, !point.name.is_empty());
        self.settle_in(core)?;
        match done.is_ok() && self.with(|b| b.checkpoint.is_some()) {
            true => Err("committed, and still outstanding".into()),
            false => Ok(()),
        }
    }

    fn abort(&self, core: &Core) -> Verdict {
        let Ok(Newest { header, .. }) = headers::newest(core.disk(), path()) else { return Ok(()) };
        let Some(point) = header.outstanding() else { return Ok(()) };
        self.with(|b| {
            let Some(c) = &mut b.checkpoint else { return };
            c.states = &ALL_STATES;
        });
        let done = core.abort(&point.uuid);
        self.settle_in(core)?;
        match done.is_ok() && self.with(|b| b.checkpoint.is_some()) {
            true => Err("aborted, and still outstanding".into()),
            false => Ok(()),
        }
    }

    fn drop_point(&self, name: &'static str, core: &Core) -> Verdict {
        self.with(|b| b.dropping = Some(name));
        let _ = core.drop_point(name);
        self.settle_in(core)
    }

    /// Sees how far what was begun has come, in a map that is open.
    fn settle_in(&self, core: &Core) -> Verdict {
        match core.lock().and_then(|lock| lock.adopt()) {
            Ok(header) => self.settle(&header, true),
            Err(_) => Ok(()),
        }
    }

    /// Sees by a header how far a checkpoint has come. `over`: what it was in the middle of has ended.
    fn settle(&self, header: &Header, over: bool) -> Verdict {
        self.with(|b| b.settle(header, over))
    }

    /// Changes the length; `None` when the map must be opened again.
    fn truncate(&self, len: u64, core: Arc<Core>) -> Option<Arc<Core>> {
        self.with(|b| b.or_len = Some(len));
        match core.truncate(geometry(len)) {
            Ok(new) => {
                self.with(|b| {
                    b.flushed();
                    b.has_length(len);
                });
                Some(Arc::new(new))
            }
            Err(Failure::Unchanged(_)) => {
                self.with(|b| b.or_len = None);
                Some(core)
            }
            Err(Failure::InDoubt(_)) => None,
        }
    }

    /// Bits all over the map, ascending.
    fn merge(&self, bits: &[u64], core: &Core) {
        let bits: Vec<u64> = bits.iter().copied().filter(|&i| i < core.geometry().bits()).collect();
        let words =
            bits.chunk_by(|a, b| a / 64 == b / 64).map(|of| (of[0] / 64, of.iter().fold(0, |w, b| w | 1 << (b % 64))));
        self.set_by(bits.iter().copied(), || core.or_words(words, |_| Ok(()), |_, _| ()));
    }

    /// What a chunk has is owed all the time if it was owed before.
    fn load(&self, first: u64, words: &[u64], core: &Core) {
        let geometry = core.geometry();
        let word = |w: u64| words[(w - first) as usize] & geometry.word_mask(w);
        let all = first..(first + words.len() as u64).min(geometry.words()).max(first);
        let bits = all.start * 64..(all.end * 64).min(geometry.bits()).max(all.start * 64);
        let (ones, zeros): (Vec<u64>, Vec<u64>) = bits.clone().partition(|i| word(i / 64) >> (i % 64) & 1 != 0);
        self.with(|b| zeros.iter().for_each(|&i| b.owed[i as usize] = false));
        if self.set_by(ones.into_iter(), || core.load_words(bits, word)) {
            self.with(|b| {
                for &i in &zeros {
                    // Again: another setter may have come in between, before the reset.
                    b.owed[i as usize] = false;
                    b.unflushed[i as usize] = b.may[i as usize];
                }
            });
        }
    }

    fn flush(&self, core: &Core) {
        if core.flush().is_ok() {
            self.with(Bits::flushed);
        }
    }
}

const ALL_STATES: [CheckpointState; 4] =
    [CheckpointState::Normal, CheckpointState::Freezing, CheckpointState::Frozen, CheckpointState::Aborting];

impl Bits {
    fn settle(&mut self, header: &Header, over: bool) -> Verdict {
        let state = header.checkpoint_state;
        if let Some(dropped) = self.dropping.filter(|_| over) {
            self.dropping = None;
            let at = self.kept.iter().position(|k| k.0 == dropped);
            if let Some(at) = at.filter(|_| header.points.iter().all(|point| point.name != dropped)) {
                let (_, must) = self.kept.remove(at);
                if let Some((_, older)) = at.checked_sub(1).map(|older| &mut self.kept[older]) {
                    older.iter_mut().zip(must).for_each(|(older, must)| *older |= must);
                }
            }
        }
        let Some(c) = self.checkpoint.clone() else {
            let normal = state == CheckpointState::Normal;
            return if normal { Ok(()) } else { Err(format!("{state:?}, and nobody has begun that")) };
        };
        if !c.states.contains(&state) {
            return Err(format!("{state:?}, and not one of {:?}", c.states));
        }
        if state != CheckpointState::Normal {
            return Ok(());
        }
        let committing = c.states == [CheckpointState::Frozen, CheckpointState::Normal];
        for i in 0..MOST as usize {
            if committing {
                // Reset, as it were, when it was frozen; and maybe not flushed since.
                if !self.since[i] && c.may[i] {
                    self.owed[i] = false;
                    self.unflushed[i] = self.may[i] && !c.during[i];
                    self.mine[i] &= c.during[i];
                }
            } else {
                // Some of it may have been put back.
                self.may[i] |= c.may[i];
                self.mine[i] |= c.mine[i];
                self.unflushed[i] &= !c.may[i];
            }
        }
        if committing {
            if let Some((_, newest)) = self.kept.last_mut() {
                newest.iter_mut().zip(c.must).for_each(|(newest, must)| *newest |= must);
            }
            self.kept.extend(c.name.map(|name| (name, vec![false; MOST as usize])));
        }
        self.checkpoint = None;
        Ok(())
    }

    /// The map has this length now, and what lay behind it is forgotten.
    fn has_length(&mut self, len: u64) {
        if let Some((_, newest)) = self.kept.last_mut() {
            // What is new is dirty since every name.
            newest[self.len.min(len) as usize..len as usize].fill(true);
        }
        self.kept.iter_mut().for_each(|(_, must)| must[len as usize..].fill(false));
        (self.len, self.or_len) = (len, None);
        for bits in [&mut self.owed, &mut self.may, &mut self.unflushed, &mut self.mine] {
            bits[len as usize..].fill(false);
        }
    }

    fn flushed(&mut self) {
        for i in 0..MOST as usize {
            if std::mem::take(&mut self.unflushed[i]) {
                self.may[i] = self.owed[i];
            }
        }
    }
}

/// How a run ended.
struct End {
    disk: Arc<SimDisk>,
    truth: Truth,
}

type Verdict = Result<(), String>;

/// Runs a program over a disk. Those who act in between do so at every durable write and at every point of a set.
fn run(ops: &[Op], content: Image, faults: Vec<(usize, Fault)>, meddle: Option<u64>) -> Result<End, String> {
    run_on(ops, SimDisk::new(content, faults.clone()), &faults, meddle)
}

fn run_on(ops: &[Op], mut disk: Arc<SimDisk>, faults: &[(usize, Fault)], meddle: Option<u64>) -> Result<End, String> {
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
fn finish_after_kill(ops: &[Op], disk: Arc<SimDisk>, truth: Truth, meddle: Option<u64>) -> Result<End, String> {
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
fn of_the_device(e: &crate::Error) -> bool {
    matches!(e, crate::Error::Io { .. })
}

/// One operation; opens the map first if it is not open.
fn step(op: &Op, disk: &Arc<SimDisk>, truth: &Truth, core: &mut Option<Arc<Core>>, meddle: Option<u64>) -> Verdict {
    if core.is_none() {
        disk.interlope(None);
        // What recovery makes dirty may be dirty, also if it does not come to its end.
        if let Ok(loaded) = load_in_memory(&*disk.after_death(), path(), None) {
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
                opened.together(|both| check_covered(both, truth, "opened"))?;
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
    let len = c.geometry().bits();
    let inside = |bits: &Range<u64>| bits.start.min(len)..bits.end.min(len);
    match meddle {
        // Nobody else uses a map while its length is changed.
        Some(seed) if !matches!(op, Op::Truncate(_)) => meddle_with(&c, disk, truth, seed),
        _ => {}
    }
    match op {
        Op::Set(bits) => {
            truth.set(inside(bits), &c);
        }
        Op::Reset(bits) => truth.reset(inside(bits), &c),
        Op::ResetAll => truth.reset_all(&c),
        Op::Truncate(len) => {
            *core = truth.truncate(*len, c);
            if let Some(c) = core {
                check_one_layout(disk, c)?;
            }
        }
        Op::Merge(bits) => truth.merge(bits, &c),
        Op::Load(first, words) => truth.load(*first, words, &c),
        Op::Flush => truth.flush(&c),
        Op::Freeze(name) => truth.freeze(*name, &c)?,
        Op::Commit => truth.commit(&c)?,
        Op::Abort => truth.abort(&c)?,
        Op::DropPoint(name) => truth.drop_point(name, &c)?,
        Op::AddDirt => truth.add_dirt(&c),
        Op::BackUp => truth.back_up(&c),
        Op::BackedUp => _ = c.complete_backup(|_| ()),
        Op::Close => {
            testing::visit(None);
            let clean = c.close(image::Image::AsBefore);
            if clean.is_ok() {
                truth.with(Bits::flushed);
            }
            if clean.is_ok_and(|clean| clean) && disk.failed() {
                return Err("closed as clean although a durable write had failed".into());
            }
            *core = None;
        }
        Op::Drop => *core = None,
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
        c.together(|both| check_covered(both, truth, "running"))?;
        check_exact(c, disk, truth)?;
    }
    Ok(())
}

/// A map that is called exact holds nothing but what callers have set.
fn check_exact(core: &Core, disk: &SimDisk, truth: &Truth) -> Verdict {
    match headers::newest(disk, path()) {
        Ok(Newest { header, .. }) if !disk.dead() && reasons::reasons(&header).is_empty() => {
            core.together(|both| only_mine(&all_of(both), truth, "running"))
        }
        _ => Ok(()),
    }
}

fn only_mine(dirty: &[bool], truth: &Truth, when: &str) -> Verdict {
    truth.with(|b| {
        let mine = |i: usize| b.mine[i] || b.checkpoint.as_ref().is_some_and(|c| c.mine[i]);
        match (0..dirty.len()).find(|&i| dirty[i] && !mine(i)) {
            Some(i) => Err(format!("{when}: exact, and bit {i} is dirty, which recovery has added")),
            None => Ok(()),
        }
    })
}

/// Others of the same process act in between: setters inside every durable write (only of words that are armed,
/// since the writer holds the lock that the others would wait for), and a flush at points of a set.
fn meddle_with(core: &Arc<Core>, disk: &Arc<SimDisk>, truth: &Truth, seed: u64) {
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
            if flag(c.view().armed(), i / 64) || flag(c.view().durable(), i) {
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

fn bits_of(view: &dyn Look) -> Range<u64> {
    0..view.geometry().bits()
}

/// What was loaded, and the outstanding point.
fn both(loaded: &Loaded) -> Both<'_> {
    Both {
        here: Dirt::new(&loaded.view, &loaded.whole, &loaded.assumed),
        point: loaded.frozen.as_ref().map(Frozen::dirt),
    }
}

/// Whether a bit is dirty here or in the outstanding point.
fn dirty(both: &Both<'_>, i: u64) -> bool {
    both.word(i / 64) & 1 << (i % 64) != 0
}

/// All of them.
fn all_of(both: &Both<'_>) -> Vec<bool> {
    let words = both.here.geometry.words();
    let mut bits: Vec<bool> = Vec::with_capacity((words * 64) as usize);
    for word in (0..words).map(|w| both.word(w)) {
        bits.extend((0..64).map(|i| word >> i & 1 != 0));
    }
    bits.truncate(both.here.geometry.bits() as usize);
    bits
}

fn all_dirty(core: &Core) -> Vec<bool> {
    core.together(all_of)
}

/// The map has a length that it may have, and everything that is owed reads dirty.
fn check_covered(both: &Both<'_>, truth: &Truth, when: &str) -> Verdict {
    let view = both.here;
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
fn found_words(both: &Both<'_>) -> Vec<bool> {
    let end = both.here.geometry.words();
    let mut found = vec![false; end as usize];
    let mut at = 0;
    while let Some((w, _)) = both.next_nonzero_word(at..end) {
        found[w as usize] = true;
        at = w + 1;
    }
    found
}

/// While the map is open no copy may say CLEAN, whichever of them is lost later.
fn check_no_clean_copy(disk: &SimDisk) -> Verdict {
    let copies = headers::read_copies(&*SimDisk::new(disk.device(), Vec::new()));
    match copies.iter().flatten().find(|h| h.state == State::Clean) {
        Some(h) => Err(format!("open, and the copy of commit {} says CLEAN", h.sequence)),
        None => Ok(()),
    }
}

/// No copy names regions that were given up, whichever of them is lost later.
fn check_one_layout(disk: &SimDisk, core: &Core) -> Verdict {
    let copies = headers::read_copies(&*SimDisk::new(disk.device(), Vec::new()));
    match copies.iter().flatten().find(|h| h.layout != *core.layout()) {
        Some(h) => Err(format!("the copy of commit {} names regions that were given up", h.sequence)),
        None => Ok(()),
    }
}

/// Checks what a run left on the device; also after crashes inside its recovery, and inside the recovery from those.
fn check_end(end: &End, again: Option<u64>) -> Verdict {
    let content = end.disk.device();
    let disk = SimDisk::new(content.clone(), Vec::new());
    if let Ok(Newest { header, .. }) = headers::newest(&*disk, path())
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
fn check_spoilt(content: &Image, truth: &Truth, seed: u64) -> Verdict {
    let disk = SimDisk::new(content.clone(), Vec::new());
    let Newest { header, .. } = headers::newest(&*disk, path()).map_err(|e| format!("no header: {e}"))?;
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
    look("read only", load_in_memory(&*disk, path(), None))?;
    let opened = open_alone(disk.shared(), path(), &options(), 0);
    opened.map_err(|e| format!("with byte {at} unreadable, cannot be opened: {e}"))?;
    look("recovered", load_in_memory(&*disk, path(), None))
}

/// Recovers what a crash left, and checks it. Also after a second crash, inside every write of the recovery, and from some
/// of these after more, as deep as it says.
fn check_crash(content: &Image, truth: &Truth, again: Option<(u64, u32)>) -> Verdict {
    let disk = SimDisk::new(content.clone(), Vec::new());
    let Newest { header, .. } = headers::newest(&*disk, path()).map_err(|e| format!("no header: {e}"))?;
    // A commit of which nobody knows may also be mended by what the second crash interrupts, and be there after it: so
    // what was begun is only settled for this look.
    let begun = truth;
    let truth = &Truth(Arc::new(Mutex::new(truth.with(|b| b.clone()))));
    let outstanding = truth.with(|b| b.checkpoint.as_ref().map(|c| c.may.clone()));
    truth.settle(&header, true)?;
    check_points(&disk, &header, truth)?;
    let read = load_in_memory(&*disk, path(), None).map_err(|e| format!("cannot be read: {e}"))?;
    check_covered(&both(&read), truth, "read only")?;
    if (reasons::reasons(&header) | read.recovery.reasons()).is_empty() {
        only_mine(&all_of(&both(&read)), begun, "read only")?;
    }
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).map_err(|e| format!("cannot be opened: {e}"))?;
    core.together(|both| check_covered(both, truth, "recovered"))?;
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
    if all_dirty(&core) != once {
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
fn check_points(disk: &Arc<SimDisk>, header: &Header, truth: &Truth) -> Verdict {
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
fn held(disk: &SimDisk, header: &Header, points: Range<usize>) -> crate::Result<Frozen> {
    let mut held = Frozen::of_points(disk, path(), header, &header.points[points])?;
    held.finish();
    Ok(held)
}

/// Dirt beyond what may be there must be named by the list or lie in a failed page. A clean file has none.
fn check_excess(content: &Image, header: &Header, truth: &Truth, dirty: &[bool]) -> Verdict {
    let disk = SimDisk::new(content.clone(), Vec::new());
    let mut failed = Vec::new();
    let scan = Scan { disk: &*disk, path: path(), header };
    let note = |index, page: Page<'_>| {
        if matches!(page, Page::Failed(_)) {
            failed.push(index);
        }
        Ok(())
    };
    scan.run(note, |_| Ok(())).map_err(|e| e.to_string())?;
    truth.with(|b| {
        let explained = |i: u64| {
            let (page, word) = (i / PAGE_BITS, i / 64);
            named(&header.runs, page) & 1 << (word % 64) != 0 || failed.contains(&page)
        };
        match (0..dirty.len() as u64).find(|&i| dirty[i as usize] && !b.may[i as usize] && !explained(i)) {
            Some(i) => Err(format!("bit {i} is dirty, and nothing explains it")),
            None => Ok(()),
        }
    })
}

fn some_pick(rng: &mut Rng) -> Pick {
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
fn picks(sectors: usize, rng: &mut Rng) -> Vec<Pick> {
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
const FEW: usize = 4;

/// What fails in a run in which calls were made as often as in `undisturbed`: one call, or some in a row.
fn troubles(undisturbed: &SimDisk, rng: &mut Rng) -> Vec<Trouble> {
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
struct Tally {
    programs: usize,
    crashes: usize,
    /// Runs in which other calls than durable writes fail.
    troubles: usize,
    /// How often the page cache of killed processes was trusted.
    trusted: usize,
}

/// One program: cut every write in many ways; kill and fail in every write, and cut a later one.
fn one_program(ops: &[Op], seed: u64, content: &Image, tally: &mut Tally) -> Verdict {
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

fn seeds(from: u64, count: u64, programs: Programs) -> Result<Tally, (u64, String)> {
    let content = fresh();
    let mut tally = Tally::default();
    for seed in from..from + count {
        let ops = tree(program(programs), seed).current();
        verdict(|| one_program(&ops, seed, &content, &mut tally)).map_err(|e| (seed, e))?;
    }
    Ok(tally)
}

/// How many seeds: a few by default, `DIRTYMAP_SIM_SEEDS` of them for a long run from `DIRTYMAP_SIM_FROM` on.
fn asked(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn no_crash_at_any_durable_write_loses_an_owed_bit() {
    no_crash(name_of(no_crash_at_any_durable_write_loses_an_owed_bit), 1, 6, Programs::Plain);
}

/// Merges and loads go through the steps of sets and resets in their own way.
#[test]
fn no_crash_in_a_merge_or_a_load_loses_an_owed_bit() {
    no_crash(name_of(no_crash_in_a_merge_or_a_load_loses_an_owed_bit), 6, 2, Programs::Combining);
}

/// What is dirty moves to a point, and stays there, goes, or comes back.
#[test]
fn no_crash_in_a_checkpoint_loses_an_owed_bit() {
    no_crash(name_of(no_crash_in_a_checkpoint_loses_an_owed_bit), 1, 8, Programs::Checkpointing);
}

/// Runs so many seeds from one on, unless others are asked for.
fn no_crash(name: &str, from: u64, count: u64, programs: Programs) {
    let from = asked("DIRTYMAP_SIM_FROM", from);
    let found = seeds(from, asked("DIRTYMAP_SIM_SEEDS", count), programs);
    let smaller = |(seed, why)| {
        let content = fresh();
        let fails = |ops: &Vec<Op>| one_program(ops, seed, &content, &mut Tally::default());
        (seed, smallest(tree(program(programs), seed), why, fails))
    };
    report(name, from, found.map_err(smaller));
}

/// Schedules that chance hardly finds.
fn scenarios() -> Result<Tally, (u64, String)> {
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
fn armed_ahead_in_between() -> Verdict {
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
    truth.flush(&core);
    check_crash(&disk.device(), &truth, None)
}

/// A flush has copied a word when another thread, which saw it armed before, stores and touches; before that one looks
/// again, the flush ends, and somebody arms the word ahead.
#[test]
fn a_word_that_was_touched_after_it_was_copied_is_not_forgotten() {
    let disk = SimDisk::new(fresh(), Vec::new());
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).unwrap();
    let core = Arc::new(core);
    core.set_bits(0..1).unwrap();
    core.set_bits(128..129).unwrap();
    let ((here, arrived), (go, going)) = (mpsc::channel(), mpsc::channel());
    let setter = core.clone();
    let thread = std::thread::spawn(move || {
        testing::visit(Some(Box::new(move |point| {
            if matches!(point, SyncPoint::SeenArmed | SyncPoint::Touched) {
                let _ = here.send(()).and_then(|()| going.recv().map_err(|_| mpsc::SendError(())));
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
    let loaded = load_in_memory(&*SimDisk::new(disk.device(), Vec::new()), path(), None).unwrap();
    assert!(dirty(&both(&loaded), 129), "lost");
}

/// The commit that drops a word from the list fails. The device has taken it, but for a sector in each copy that is
/// garbage, so that it cannot be read back. If somebody armed that word again by the older header, and the next
/// commit got no further than mending such a sector, the header that was dropped would be the newest.
fn a_failed_commit_comes_back() -> Verdict {
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
fn old_entries_come_back() -> Verdict {
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
fn the_file_is_short() -> Verdict {
    let end = run(&[Op::Truncate(BITS + 1)], fresh(), Vec::new(), None)?;
    check_crash(&end.disk.device(), &end.truth, None)
}

/// The kernel failed to write a page back of the volatile part, and tells who asks first.
#[test]
fn what_the_kernel_did_not_write_back_keeps_a_process_map_from_closing_as_clean() {
    let disk = SimDisk::new(fresh_of(Durability::Process), Vec::new());
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).unwrap();
    core.set_bits(0..1).unwrap();
    disk.fail_write_back();
    assert!(!core.close(image::Image::AsBefore).unwrap());
}

/// A map in which bit 0 is set, and being frozen.
fn freezing() -> Result<(Arc<SimDisk>, Truth, Arc<Core>, format::Point), String> {
    let disk = SimDisk::new(fresh(), Vec::new());
    let truth = Truth::new();
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).map_err(|e| e.to_string())?;
    truth.set(0..1, &core);
    let point = core.freeze_begin(None).map_err(|e| e.to_string())?;
    Ok((disk, truth, Arc::new(core), point))
}

/// Between the putting back and NORMAL, he who freezes resets what he has frozen.
fn a_freezer_goes_on_while_he_is_aborted() -> Verdict {
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
    core.together(|both| check_covered(both, &truth, "aborted"))?;
    check_crash(&disk.device(), &truth, None)
}

/// Before he who freezes resets what he has frozen, somebody aborts that, and freezes. What was set since then is reset by
/// him, and when the second checkpoint is committed it is gone.
fn a_freezer_wakes_up_in_the_freeze_of_another() -> Verdict {
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
    core.together(|both| check_covered(both, &truth, "committed"))?;
    check_crash(&disk.device(), &truth, None)
}

/// The space of a point that was given up is used for another one, which has fewer pages. The power went before the old
/// ones were gone.
fn old_pages_of_a_point_come_back() -> Verdict {
    let before = run(&[Op::Set(0..9000), Op::Freeze(None), Op::Commit, Op::Flush], fresh(), Vec::new(), None)?;
    let disk = SimDisk::new(before.disk.device(), Vec::new());
    let mut core = None;
    for op in [Op::Set(0..1), Op::Freeze(None)] {
        step(&op, &disk, &before.truth, &mut core, None)?;
    }
    check_crash(&disk.device(), &before.truth, None)
}

/// What the device holds of the published header cannot be read: what is left is older, and its list may lack words.
fn an_older_header_is_nothing_to_go_on_with() -> Verdict {
    let disk = SimDisk::new(fresh(), Vec::new());
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).map_err(|e| e.to_string())?;
    core.set_bits(0..1).map_err(|e| e.to_string())?;
    let pair = format::copies_of(headers::newest(&*disk, path()).map_err(|e| e.to_string())?.pair);
    pair.iter().for_each(|&copy| disk.spoil(format::copy_offset(copy) as usize / SECTOR));
    match core.set_bits(6400..6401) {
        Err(crate::Error::Corrupt { .. }) => Ok(()),
        other => Err(format!("{other:?} by an older header")),
    }
}

/// The valid copies on the device.
fn copies_on(disk: &SimDisk) -> impl Iterator<Item = Header> {
    headers::read_copies(&*SimDisk::new(disk.device(), Vec::new())).into_iter().flatten()
}

/// Or the loss of one pair would bring back a header without it.
fn both_pairs_name_a_point_before_its_bits_are_reset() -> Verdict {
    let (disk, _, _, point) = freezing()?;
    match copies_on(&disk).find(|header| header.outstanding().is_none_or(|named| named.uuid != point.uuid)) {
        Some(header) => Err(format!("the copy of commit {} does not name the point", header.sequence)),
        None => Ok(()),
    }
}

/// Nothing but the count tells that it is gone.
#[test]
fn a_point_of_which_a_page_is_lost_with_its_entry_is_all_dirty() {
    let (disk, _, core, point) = freezing().unwrap();
    let zeros = [0; SECTOR];
    let lost = [point.table_offset, point.bottom_offset].map(|offset| Part { offset, bytes: &zeros });
    disk.write_durable(&lost).unwrap();
    let device = SimDisk::new(disk.device(), Vec::new());
    let loaded = load_in_memory(&*device, path(), None).unwrap();
    assert!(all_of(&both(&loaded)).into_iter().all(|dirty| dirty), "read");
    let report = check::at_rest(&*device, path(), &mut |_, _| {}).unwrap();
    let finding = report.findings.iter().find(|finding| finding.place == "point 0, bottom level").unwrap();
    assert_eq!((&*finding.found, finding.severity), ("0 dirty granules", crate::Severity::Damage));
    assert_eq!(report.info.dirty.unwrap().0, BITS);
    // Who puts it back does not believe it either.
    core.freeze_reset(&point).unwrap_err();
    core.abort(&point.uuid).unwrap();
    core.together(|both| assert!(all_of(both).into_iter().all(|dirty| dirty), "put back"));
    let reasons = headers::newest(&*disk, path()).unwrap().header.dirt_reasons;
    assert!(reasons.contains(format::Reasons::DAMAGED_PAGE));
}

/// Or the loss of one pair would bring back a header that names space which was given up.
fn no_pair_names_a_point_that_was_dropped() -> Verdict {
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
enum Ended {
    Committed,
    Aborted,
}

/// Or the loss of one pair would bring back a header that names regions which were given up.
fn no_pair_names_what_was(how: Ended) -> Verdict {
    let (disk, _, core, point) = freezing()?;
    let ended = if how == Ended::Committed {
        let frozen = core.freeze_reset(&point).and_then(|()| core.freeze_end(&point.uuid));
        frozen.and_then(|_| core.commit_checkpoint(&point.uuid, false))
    } else {
        core.abort(&point.uuid)
    };
    ended.map_err(|e| e.to_string())?;
    match copies_on(&disk).find(|header| !header.points.is_empty()) {
        Some(header) => Err(format!("the copy of commit {} names the point", header.sequence)),
        None => Ok(()),
    }
}

/// The power goes in the flush of a reset, and the entry of the page is not written.
fn a_page_of_which_something_was_reset_is_interrupted_and_not_damaged() -> Verdict {
    // Opening takes four writes; setting and flushing three; what was reset is listed with one.
    let disk = SimDisk::new(fresh(), vec![(8, Fault::Cut(Pick::First(1)))]);
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).map_err(|e| e.to_string())?;
    let _ = (core.set_bits(0..2), core.flush(), core.reset_bits(0..1), core.flush());
    // Without that one the power goes later.
    let _ = core.set_bits(6400..6401);
    let loaded = load_in_memory(&*SimDisk::new(disk.device(), Vec::new()), path(), None).map_err(|e| e.to_string())?;
    match (loaded.recovery.interrupted_pages, loaded.recovery.damaged_pages) {
        (1, 0) => Ok(()),
        other => Err(format!("interrupted and damaged pages: {other:?}")),
    }
}

#[test]
fn schedules_that_chance_hardly_finds() {
    scenarios().unwrap();
}

#[test]
fn a_device_that_cannot_be_read_is_not_taken_for_a_file_of_zeros() {
    let disk = SimDisk::new(fresh(), vec![(0, Fault::Cut(Pick::None))]);
    assert!(disk.sync_all().is_err() && disk.dead());
    assert_eq!(headers::newest(&*disk, path()).unwrap_err().kind(), "io");
}

/// The kernel tells of a failed write-back once, and it may have been one of live bits. The header that failed may be the
/// one that the next opener finds, and it must not trust the page cache then.
#[test]
fn a_failed_commit_of_a_new_length_is_remembered_in_the_old_region_and_in_the_new_one() {
    let disk = SimDisk::new(Image::default(), Vec::new());
    let options = Options { durability: Durability::Process, ..options() };
    create::write_new(&*disk, path(), geometry(BITS), &Options { granularity: 0, ..options.clone() }).unwrap();
    let (content, mut in_doubt) = (disk.device(), 0);
    for at in 0.. {
        let disk = SimDisk::new(content.clone(), vec![(at, Fault::Fail(Pick::All, true))]);
        let Ok((core, _)) = open_alone(disk.shared(), path(), &options, 0) else { continue };
        core.set_bits(0..1).unwrap();
        let done = core.truncate(geometry(BITS + 1));
        assert!(done.is_ok() || core.degraded(), "write {at} failed, and nobody remembers");
        match done {
            Ok(_) if disk.writes() <= at => break,
            Err(Failure::InDoubt(_)) => in_doubt += 1,
            _ => continue,
        }
        let new = headers::newest(&*disk, path()).unwrap().header.layout;
        assert_ne!(new, *core.layout());
        for region in [&core.layout().volatile, &new.volatile] {
            let mut page = [0; 80];
            disk.mapped().read_exact_at(&mut page, region.start).unwrap();
            assert_ne!(page[runtime::DEGRADED * 8..][..8], [0; 8]);
            assert_eq!(page[..16], [0; 16], "others can join what never came to be");
        }
    }
    assert_eq!(in_doubt, 2);
}

/// Rule 7 holds for the session, whatever the length of the map.
#[test]
fn a_map_in_which_a_write_failed_before_its_length_changed_does_not_close_as_clean() {
    // Opening takes four writes, and arming one.
    let disk = SimDisk::new(fresh(), vec![(4, Fault::Fail(Pick::None, false))]);
    let (core, _) = open_alone(disk.shared(), path(), &options(), 0).unwrap();
    assert!(core.set_bits(0..1).is_err());
    let core = core.truncate(geometry(BITS + 1)).unwrap();
    assert!(!core.close(image::Image::AsBefore).unwrap());
}
