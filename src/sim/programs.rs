//! Programs for the simulated disk, made by proptest from a seed, so that one that fails becomes a small one.
//!
//! Invariants kept here: what cannot be done when its turn comes is left out, so a program of which something was taken
//! away is a program; and a seed makes the same program whenever, and beside whatever else, it is run.

use crate::sim::*;
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::strategy::{Union, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::any::Any;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is done to a map in one step.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Set(Range<u64>),
    Reset(Range<u64>),
    ResetAll,
    /// Bits from all over the map, as a merge brings them.
    Merge(Vec<u64>),
    /// Words from this one on are replaced, as loading a chunk does.
    Load(u64, Vec<u64>),
    Flush,
    Close,
    /// The process is killed between two writes, and the map opened again.
    Drop,
    Truncate(u64),
    /// Freezes, with a name or without.
    Freeze(Option<&'static str>),
    /// Commits what is outstanding, and keeps it if it has a name.
    Commit,
    Abort,
    DropPoint(&'static str),
    /// Dirt is added that no caller has set.
    AddDirt,
    /// Everything is copied and reset; and the backup is complete.
    BackUp,
    BackedUp,
}

/// Which programs of one process to run.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Programs {
    Plain,
    /// Mostly merges instead of sets, and chunks that are loaded instead of resets.
    Combining,
    Checkpointing,
}

/// What a program is made of.
#[derive(Clone, Debug)]
enum Piece {
    Op(Op),
    /// The next word of a writer who goes through the map in order.
    Next,
    /// A word that a flush may leave half-done if it fails, and a writer in order that arms it ahead again.
    HalfDone(u64),
    /// What is set and durable, reset, and set again.
    Again(Range<u64>),
    /// A checkpoint that is committed and kept.
    Kept(&'static str),
}

/// A stretch of bits; those at the beginning of the map come more often.
fn stretch() -> impl Strategy<Value = Range<u64>> {
    let start = prop_oneof![0..300u64, 0..BITS];
    let len = prop_oneof![3 => 1..4u64, 1 => 1..1000u64];
    (start, len).prop_map(|(start, len)| start..(start + len).min(BITS))
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c"])
}

fn load() -> impl Strategy<Value = Op> {
    let words = prop::collection::vec((any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b), 1..18);
    (0..BITS / 64, words).prop_map(|(first, words)| Op::Load(first, words))
}

fn merge() -> impl Strategy<Value = Op> {
    let bits = prop::collection::btree_set(prop_oneof![0..300u64, 0..BITS], 1..12);
    bits.prop_map(|bits| Op::Merge(bits.into_iter().collect()))
}

fn truncate() -> impl Strategy<Value = Op> {
    let whole = prop::sample::select(vec![0, 64, PAGE_BITS, 2 * PAGE_BITS, BITS]);
    prop_oneof![0..=MOST, whole].prop_map(Op::Truncate)
}

/// What several processes do, in turns.
pub(super) fn operation() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => stretch().prop_map(Op::Set),
        // In order, as the words of a writer who goes through the map.
        4 => (0..BITS / 64 - 1).prop_map(|w| Op::Set(w * 64..w * 64 + 64)),
        5 => stretch().prop_map(Op::Reset),
        2 => Just(Op::ResetAll),
        4 => merge(),
        2 => load(),
        5 => Just(Op::Flush),
        4 => prop::option::of(name()).prop_map(Op::Freeze),
        3 => Just(Op::Commit),
        2 => Just(Op::Abort),
        1 => name().prop_map(Op::DropPoint),
        1 => Just(Op::AddDirt),
        2 => Just(Op::BackUp),
        2 => Just(Op::BackedUp),
        1 => truncate(),
    ]
}

/// What one process does.
fn piece(programs: Programs) -> impl Strategy<Value = Piece> {
    let op = |op: Op| Just(Piece::Op(op)).boxed();
    let mut all = vec![
        (5, Just(Piece::Next).boxed()),
        (1, op(Op::ResetAll)),
        (2, op(Op::Flush)),
        (1, op(Op::Close)),
        (1, op(Op::Drop)),
        (1, (0..BITS / 64 - 3).prop_map(Piece::HalfDone).boxed()),
        (1, stretch().prop_map(Piece::Again).boxed()),
        (1, truncate().prop_map(Piece::Op).boxed()),
    ];
    if programs == Programs::Checkpointing {
        all.push((2, name().prop_map(Piece::Kept).boxed()));
    }
    let mut more = |weight: u32, op: proptest::strategy::BoxedStrategy<Op>| {
        if weight > 0 {
            all.push((weight, op.prop_map(Piece::Op).boxed()));
        }
    };
    let combining = u32::from(programs == Programs::Combining);
    more(7 - 4 * combining, stretch().prop_map(Op::Set).boxed());
    more(6 * combining, merge().boxed());
    more(3 - 2 * combining, stretch().prop_map(Op::Reset).boxed());
    more(2 * combining, load().boxed());
    let checkpointing = u32::from(programs == Programs::Checkpointing);
    more(5 * checkpointing, prop::option::of(name()).prop_map(Op::Freeze).boxed());
    more(4 * checkpointing, Just(Op::Commit).boxed());
    more(2 * checkpointing, Just(Op::Abort).boxed());
    more(2 * checkpointing, name().prop_map(Op::DropPoint).boxed());
    Union::new_weighted(all)
}

/// Programs of one process.
pub(super) fn program(programs: Programs) -> impl Strategy<Value = Vec<Op>> {
    (0..BITS, prop::collection::vec(piece(programs), 4..16)).prop_map(|(mut sequential, pieces)| {
        let word = |k: u64| Op::Set(k * 64..k * 64 + 1);
        let mut ops = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Op(op) => ops.push(op),
                Piece::Next => {
                    let start = if sequential + 70 > BITS { 0 } else { sequential };
                    sequential = start + 64;
                    ops.push(Op::Set(start..sequential));
                }
                Piece::Again(bits) => {
                    let set = || Op::Set(bits.clone());
                    ops.extend([set(), Op::Flush, Op::Reset(bits.clone()), set()]);
                }
                Piece::Kept(name) => ops.extend([Op::Freeze(Some(name)), Op::Commit]),
                Piece::HalfDone(k) => ops.extend([word(k + 2), Op::Flush, word(k), word(k + 1), Op::Flush]),
            }
        }
        ops
    })
}

/// The program of a seed, which can be made smaller.
pub(super) fn tree<S: Strategy>(programs: S, seed: u64) -> S::Tree {
    let bytes: Vec<u8> = (0..4).flat_map(|i| Rng(seed ^ i << 60).next().to_le_bytes()).collect();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    programs.new_tree(&mut TestRunner::new_with_rng(Config::default(), rng)).expect("no filters")
}

/// What a test of a program says, also if that is a panic; nobody meddles with what is run next.
pub(super) fn verdict(test: impl FnOnce() -> Verdict) -> Verdict {
    let ended = catch_unwind(AssertUnwindSafe(test));
    testing::visit(None);
    ended.unwrap_or_else(|panic| Err(format!("it panics: {}", said(&*panic))))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_else(|| "no message".into())
}

/// The smallest program that proptest finds in some tries that fails as that of the seed does.
pub(super) fn smallest<P: Debug>(
    mut tree: impl ValueTree<Value = P>,
    why: String,
    test: impl Fn(&P) -> Verdict,
) -> String {
    const TRIES: usize = 100;
    let mut found = (tree.current(), why);
    let mut smaller = tree.simplify();
    for _ in 0..TRIES {
        if !smaller {
            break;
        }
        let program = tree.current();
        smaller = match verdict(|| test(&program)) {
            Err(why) => {
                found = (program, why);
                tree.simplify()
            }
            Ok(()) => tree.complicate(),
        };
    }
    format!("{}\nThe smallest program found that fails: {:?}", found.1, found.0)
}

/// The name of a test as the harness knows it. That of the thread is another one where one thread runs all tests.
pub(super) fn name_of<T>(_: T) -> &'static str {
    std::any::type_name::<T>().split_once("::").map_or("", |(_, name)| name)
}

/// Says how much was tried; or, of a failure, the command that runs it alone.
pub(super) fn report(name: &str, from: u64, found: Result<Tally, (u64, String)>) {
    match found {
        Ok(tally) => println!("{name}: {tally:?} from seed {from}"),
        Err((seed, why)) => panic!("seed {seed}: {why}\nThis one alone:\n    {}", command(name, seed)),
    }
}

fn command(name: &str, seed: u64) -> String {
    format!("DIRTYMAP_SIM_FROM={seed} DIRTYMAP_SIM_SEEDS=1 cargo test --lib {name} -- --exact")
}

#[test]
fn a_failure_names_the_command_that_runs_it_alone_whatever_thread_it_is_in() {
    let failed = || {
        report(name_of(no_crash_in_a_checkpoint_loses_an_owed_bit), 1, Err((7, "a reason".into())));
    };
    let panic = std::thread::spawn(failed).join().unwrap_err();
    let said = said(&*panic);
    let command = "DIRTYMAP_SIM_FROM=7 DIRTYMAP_SIM_SEEDS=1 cargo test --lib \
                   sim::runner::no_crash_in_a_checkpoint_loses_an_owed_bit -- --exact";
    assert!(said.contains("seed 7: a reason") && said.ends_with(command), "{said}");
}

#[test]
fn a_program_that_fails_becomes_a_small_one() {
    let has_reset = |ops: &Vec<Op>| match ops.iter().any(|op| matches!(op, Op::ResetAll)) {
        true => Err("it resets all".into()),
        false => Ok(()),
    };
    let seed = (1..).find(|&seed| has_reset(&tree(program(Programs::Plain), seed).current()).is_err()).unwrap();
    let said = smallest(tree(program(Programs::Plain), seed), "at first".into(), has_reset);
    let (_, program) = said.split_once("fails: ").unwrap();
    assert!(said.starts_with("it resets all") && program.matches("),").count() <= 4, "{said}");
}
