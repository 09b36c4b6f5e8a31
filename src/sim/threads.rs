//! What two and three threads do to one map, in every order, over the simulated disk.
//!
//! A scenario says what happened before, and what each thread then does; loom runs the real code in all interleavings
//! with at most `bound` preemptions. Oracle, whenever an operation has returned: what is owed (set, and no reset begun
//! since) would survive a power cut now, and a search finds what was just set. When all have ended: what is owed is in
//! live, nothing is durable that is not live, every word has its summaries, and a flush brings the bottom to exactly
//! what is live.
//!
//!     RUSTFLAGS='--cfg loom' cargo test --release --lib --target-dir target/loom threads:: -- --nocapture

use crate::engine::core::{Core, Parts};
use crate::file::bottom::BottomRef;
use crate::file::create;
use crate::file::headers::{self, LastDurable};
use crate::file::scan::Scan;
use crate::format::{Durability, State, Uuid, WordRanges};
use crate::geometry::Geometry;
use crate::options::Options;
use crate::options::{Bounds, IntentBound};
use crate::shm::runtime;
use crate::shm::space::{self, Allocated};
use crate::sim::content::{Fault, Image, Pick};
use crate::sim::disk::SimDisk;
use crate::sim::path;
use crate::sync::AtomicU64;
use crate::testing::{self, Mutant};
use Op::*;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, SeqCst};
use std::sync::{Arc, Mutex};

/// Bits, some in the same word, some in others.
const A: u64 = 0;
const B: u64 = 1;
const NEXT: u64 = 64;
const THIRD: u64 = 128;
const THIRD_B: u64 = 129;
/// In a word whose summary is in another word than theirs: a search finds them by two levels of summaries.
const FAR: u64 = 64 * 64;
const FAR_B: u64 = FAR + 1;

#[derive(Clone, Copy, Debug)]
enum Op {
    Set(u64),
    Reset(u64),
    Flush,
}

#[derive(Clone, Debug)]
struct Scenario {
    name: &'static str,
    /// What was done before, by one thread.
    before: &'static [Op],
    threads: &'static [&'static [Op]],
    /// Length of the map, in words.
    words: u64,
    durability: Durability,
    shared: bool,
    /// Words that the list may name.
    armed_bound: u64,
    /// The durable write that fails.
    fails: Option<usize>,
    /// Most preemptions; as many as there can be, if `None`.
    bound: Option<usize>,
}

/// Two threads on a map that is protected against power loss and opened alone.
const USUAL: Scenario = Scenario {
    name: "",
    before: &[],
    threads: &[],
    words: 3,
    durability: Durability::PowerLoss,
    shared: false,
    armed_bound: 3,
    fails: None,
    bound: Some(4),
};

const ALL: Scenario = Scenario { bound: None, ..USUAL };
const PROCESS: Scenario = Scenario { durability: Durability::Process, ..ALL };
const SHARED: Scenario = Scenario { shared: true, ..ALL };
const SUMMARIES: Scenario = Scenario { words: 65, ..USUAL };
const THREE: Scenario = Scenario { bound: Some(3), ..USUAL };

static SCENARIOS: &[Scenario] = &[
    Scenario { name: "set, flush", before: &[Set(A)], threads: &[&[Set(B)], &[Flush]], ..ALL },
    Scenario { name: "set, shared flush", before: &[Set(A)], threads: &[&[Set(B)], &[Flush]], ..SHARED },
    Scenario { name: "set, process flush", before: &[Set(A)], threads: &[&[Set(B)], &[Flush]], ..PROCESS },
    // Word 2 is armed again without being touched, ahead of who sets the words in order.
    Scenario {
        name: "set, arm ahead, flush",
        before: &[Set(A), Set(THIRD)],
        threads: &[&[Set(THIRD_B)], &[Flush, Set(NEXT), Flush]],
        ..USUAL
    },
    Scenario {
        name: "after a failed flush",
        before: &[Set(A), Flush],
        threads: &[&[Set(B)], &[Flush]],
        fails: Some(1),
        ..ALL
    },
    Scenario {
        name: "reset, set, flush",
        before: &[Set(A), Flush],
        threads: &[&[Reset(A), Set(A)], &[Flush]],
        ..USUAL
    },
    Scenario { name: "summaries set twice", threads: &[&[Set(FAR)], &[Set(FAR)]], ..SUMMARIES },
    Scenario { name: "summaries cleared", before: &[Set(FAR)], threads: &[&[Reset(FAR)], &[Set(FAR_B)]], ..SUMMARIES },
    Scenario {
        name: "summaries cleared beside",
        before: &[Set(A), Set(NEXT), Reset(NEXT)],
        threads: &[&[Reset(A)], &[Set(NEXT)]],
        ..USUAL
    },
    Scenario {
        name: "summaries of what is durable",
        before: &[Set(FAR), Reset(FAR)],
        threads: &[&[Set(FAR_B)], &[Flush], &[Set(FAR_B)]],
        bound: Some(2),
        ..SUMMARIES
    },
    Scenario { name: "two arm", threads: &[&[Set(A)], &[Set(B)]], ..USUAL },
    Scenario {
        name: "two arm with room for one",
        threads: &[&[Set(A)], &[Set(NEXT)]],
        armed_bound: 1,
        bound: Some(3),
        ..USUAL
    },
    Scenario { name: "two sets, flush", before: &[Set(A)], threads: &[&[Set(B)], &[Flush], &[Set(NEXT)]], ..THREE },
    Scenario {
        name: "reset, set, flush by three",
        before: &[Set(A)],
        threads: &[&[Reset(A)], &[Set(B)], &[Flush]],
        ..THREE
    },
];

/// Steps that can be left out, and a scenario that finds each.
static WEAKNESSES: &[(Mutant, &str)] = &[
    (Mutant::ListThenArm, "two arm"),
    (Mutant::RecheckArmed, "set, flush"),
    (Mutant::MarkUnflushed, "set, flush"),
    (Mutant::StoreThenMark, "set, arm ahead, flush"),
    (Mutant::WriteThenForget, "set, flush"),
    (Mutant::WritePages, "set, flush"),
    (Mutant::ClearDurable, "reset, set, flush"),
    (Mutant::RewriteUnarmed, "after a failed flush"),
    (Mutant::MarkUnfinished, "after a failed flush"),
    (Mutant::KeepFlushError, "after a failed flush"),
    (Mutant::SummariesThenDurable, "summaries of what is durable"),
    (Mutant::SummariseAlways, "summaries set twice"),
    (Mutant::LookAgain, "summaries cleared"),
    (Mutant::CheckClearing, "summaries cleared"),
    (Mutant::RecheckUnmarked, "set, process flush"),
    (Mutant::SequentiallyConsistent, "set, flush"),
];

/// A map of a scenario as it is when it was opened, and nothing was done yet.
fn opened(scenario: &Scenario) -> Image {
    let disk = SimDisk::new(Image::default(), Vec::new());
    let geometry = Geometry::new(scenario.words * 64, 0).unwrap();
    let options = Options { durability: scenario.durability, ..Options::new() };
    create::write_new(disk.file(), geometry, &options).unwrap();
    let headers::Newest { mut header, pair, .. } = headers::newest(disk.file()).unwrap();
    (header.state, header.nonce) = (State::Open, Uuid([1; 16]));
    if scenario.durability == Durability::Process {
        header.runs = WordRanges::one(0..geometry.words());
    }
    let created = LastDurable { sequence: header.sequence, pair };
    let known = headers::commit(&*disk, &mut header, created).unwrap();
    headers::commit(&*disk, &mut header, known).unwrap();
    disk.device()
}

/// A map, and what is owed.
struct World {
    core: Core,
    disk: Arc<SimDisk>,
    /// Raised by every durable write and every look at the truth and the disk: loom tries the orders of what it sees.
    looks: Arc<AtomicU64>,
    truth: Mutex<Truth>,
}

#[derive(Default)]
struct Truth {
    /// With how many resets of it were begun or ended before.
    owed: BTreeMap<u64, u32>,
    /// Resets of a bit that were begun or ended.
    resets: BTreeMap<u64, u32>,
}

impl World {
    fn new(scenario: &Scenario, image: &Image) -> World {
        let faults = scenario.fails.map(|write| (write, Fault::Fail(Pick::None, false)));
        let disk = SimDisk::new(image.clone(), faults.into_iter().collect());
        let newest = headers::newest(disk.file()).unwrap();
        let last_durable = LastDurable { sequence: newest.header.sequence, pair: newest.pair };
        let view =
            space::view(disk.file(), &newest.header, (false, scenario.shared), &crate::watcher::Watcher::default())
                .unwrap();
        view.runtime()[runtime::PUBLISHED].store(last_durable.pack(), SeqCst);
        view.runtime()[runtime::ATTEMPTED].store(last_durable.sequence, SeqCst);
        let parts = Parts {
            disk: disk.shared(),
            path: path().to_path_buf(),
            view,
            nonce: newest.header.nonce,
            slot: 0,
            shared: scenario.shared,
            lock_timeout: std::time::Duration::from_secs(3600),
            bounds: Bounds {
                armed: scenario.armed_bound,
                ahead: 1,
                ..Bounds::new(None, IntentBound::None, &newest.header.geometry)
            },
            allocated: Allocated::default(),
            image_before: None,
            watcher: crate::watcher::Watcher::default(),
        };
        let core = Core::new(parts, &newest.header).unwrap();
        let looks = Arc::new(AtomicU64::new(0));
        let writes = looks.clone();
        disk.interlope(Some(Box::new(move || {
            writes.fetch_add(1, Relaxed);
        })));
        World { core, disk, looks, truth: Mutex::default() }
    }

    /// Loom tries the orders of these, and who looks later knows of what was done before, as threads know who are told.
    fn truth<R>(&self, f: impl FnOnce(&mut Truth) -> R) -> R {
        self.looks.fetch_add(1, AcqRel);
        f(&mut self.truth.lock().unwrap())
    }

    fn act(&self, op: Op) {
        match op {
            Set(bit) => {
                let count = |t: &Truth| t.resets.get(&bit).copied().unwrap_or(0);
                let before = self.truth(|t| count(t));
                self.core.set_bits(bit..bit + 1).expect("no fault in a set");
                self.truth(|t| {
                    // Not if a reset of it was under way.
                    if count(t) == before && before % 2 == 0 {
                        t.owed.insert(bit, before);
                    }
                    self.check_covered(t, op);
                });
                self.check_found(bit);
            }
            Reset(bit) => {
                let count = |t: &mut Truth| *t.resets.entry(bit).or_default() += 1;
                self.truth(|t| {
                    count(t);
                    t.owed.remove(&bit);
                });
                self.core.reset_bits(bit..bit + 1).expect("no fault in a reset");
                self.truth(|t| {
                    count(t);
                    self.check_covered(t, op);
                });
            }
            Flush => {
                let owed = self.truth(|t| t.owed.clone());
                let flushed = self.core.flush().is_ok();
                self.truth(|t| {
                    self.check_covered(t, op);
                    let bottom = self.after_a_cut().1;
                    for (bit, _) in owed.into_iter().filter(|(bit, resets)| flushed && t.owed.get(bit) == Some(resets))
                    {
                        assert!(is_set(&bottom, bit), "broken: bit {bit} is not in the bottom after a flush");
                    }
                });
            }
        }
    }

    /// What a power cut now would leave: what is listed, and the bottom.
    fn after_a_cut(&self) -> (WordRanges, Vec<u64>) {
        let cut = SimDisk::new(self.disk.device(), Vec::new());
        let header = headers::newest(cut.file()).unwrap().header;
        let scan = Scan { file: cut.file(), bottom: &BottomRef::of_map(&header) };
        let bottom = (0..header.geometry.pages()).flat_map(|page| scan.page(page).expect("whole writes")).collect();
        (header.runs, bottom)
    }

    fn check_covered(&self, truth: &Truth, after: Op) {
        let (listed, bottom) = self.after_a_cut();
        for &bit in truth.owed.keys() {
            let covered = listed.contains(bit / 64) || is_set(&bottom, bit);
            assert!(covered, "broken: bit {bit} is lost if the power goes after {after:?}");
        }
    }

    fn check_found(&self, bit: u64) {
        // From the first bit on, or it would begin in the word itself and need no summary.
        let levels = self.core.view().levels();
        let search =
            || std::iter::successors(levels.next_set(0..bit + 1), |at| levels.next_set(at + 1..bit + 1)).last();
        let found = self.core.seq_read(search) == Some(bit);
        let owed = self.truth(|t| t.owed.contains_key(&bit));
        assert!(found || !owed, "broken: a search does not find bit {bit}");
    }

    /// When nobody else is there.
    fn check_end(&self) {
        let words = |words: &[AtomicU64]| words.iter().map(|w| w.load(SeqCst)).collect::<Vec<_>>();
        let view = self.core.view();
        let (live, durable) = (words(view.live()), words(view.durable()));
        for (bit, _) in self.truth(|t| t.owed.clone()) {
            assert!(is_set(&live, bit), "broken: bit {bit} reads clean");
        }
        for (l, d) in live.iter().zip(&durable) {
            assert_eq!(d & !l, 0, "broken: durable and not live");
        }
        if let Err(finding) = view.levels().check(false) {
            panic!("broken: {finding}");
        }
        self.act(Flush);
        let (listed, bottom) = self.after_a_cut();
        assert!(
            listed.is_empty() || self.core.durability() == Durability::Process,
            "broken: {listed:?} is listed after a flush"
        );
        assert_eq!(bottom[..live.len()], live, "broken: the bottom is not what is live after a flush");
    }
}

fn is_set(words: &[u64], bit: u64) -> bool {
    words[(bit / 64) as usize] >> (bit % 64) & 1 != 0
}

/// Runs a scenario in all orders; how many there are, or what went wrong in one.
fn explore(scenario: &Scenario, without: Option<Mutant>) -> Result<usize, String> {
    let runs = Arc::new(AtomicUsize::new(0));
    let (counted, scenario, image) = (runs.clone(), scenario.clone(), opened(scenario));
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.preemption_bound = builder.preemption_bound.or(scenario.bound);
    let model = move || {
        counted.fetch_add(1, Relaxed);
        let (scenario, image) = (scenario.clone(), image.clone());
        // Not in the thread that loom begins with: its stack is too small.
        let all = spawn(move || {
            let world = Arc::new(World::new(&scenario, &image));
            scenario.before.iter().for_each(|&op| world.act(op));
            let (mine, others) = scenario.threads.split_first().unwrap();
            let others: Vec<_> = (others.iter())
                .map(|&ops| {
                    let world = world.clone();
                    spawn(move || ops.iter().for_each(|&op| world.act(op)))
                })
                .collect();
            mine.iter().for_each(|&op| world.act(op));
            others.into_iter().for_each(|thread| thread.join().unwrap());
            world.check_end();
        });
        all.join().unwrap();
    };
    let ended = testing::with(without, || catch_unwind(AssertUnwindSafe(|| builder.check(model))));
    let runs = runs.load(Relaxed);
    match ended {
        Ok(()) => Ok(runs),
        Err(what) => {
            let what = what.downcast_ref::<String>().map_or("no message", |s| s);
            Err(format!("run {runs}: {what}"))
        }
    }
}

fn spawn(f: impl FnOnce() + Send + 'static) -> loom::thread::JoinHandle<()> {
    loom::thread::Builder::new().stack_size(1 << 16).spawn(f).unwrap()
}

fn named(name: &str) -> &'static Scenario {
    SCENARIOS.iter().find(|s| s.name == name).unwrap()
}

fn nothing_is_found(threads: usize) {
    for scenario in SCENARIOS.iter().filter(|s| s.threads.len() == threads) {
        let began = std::time::Instant::now();
        let runs = explore(scenario, None).unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
        println!("{}: {runs} runs, {:.1?}", scenario.name, began.elapsed());
    }
}

#[test]
fn loom_finds_nothing_that_two_threads_do_wrong() {
    nothing_is_found(2);
}

#[test]
fn loom_finds_nothing_that_three_threads_do_wrong() {
    nothing_is_found(3);
}

#[test]
fn loom_finds_what_is_left_out() {
    for &(step, name) in WEAKNESSES {
        let found = explore(named(name), Some(step)).expect_err(&format!("{step:?} is not found by {name:?}"));
        assert!(found.contains("broken"), "{step:?}, {name}: {found}");
        println!("{step:?}: {found}");
    }
}
