//! `Bitmap` does what a vector of booleans would do: random stories (ops/bitmap.rs) at every granularity, each step
//! followed by every reader.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[path = "ops/bitmap.rs"]
mod ops;

use ops::{Op, Other, Spot, Step, Story, Where};

fn spot() -> impl Strategy<Value = Spot> {
    (any::<u16>(), any::<u8>())
}

fn place() -> impl Strategy<Value = Where> {
    prop_oneof![
        4 => (spot(), spot(), 0..24u8),
        // Short: within two granules of each other.
        4 => (spot(), 0..3u16, any::<u8>()).prop_map(|(a, d, place)| (a, (a.0.saturating_add(d), place), 9)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => place().prop_map(Op::Set),
        4 => place().prop_map(Op::Reset),
        4 => place().prop_map(Op::ResetWithin),
        4 => place().prop_map(Op::ResetCovering),
        1 => Just(Op::SetAll),
        1 => Just(Op::ResetAll),
        3 => other().prop_map(Op::Merge),
        2 => (other(), other()).prop_map(|(a, b)| Op::Union(a, b)),
        1 => other().prop_map(Op::Subtract),
        1 => other().prop_map(Op::Intersect),
        2 => shape().prop_map(Op::Truncate),
        2 => prop::collection::vec(part(), 1..4).prop_map(Op::Load),
        2 => prop_oneof![0..9u32, 0..70u32].prop_map(Op::Attach),
        2 => Just(Op::Take),
        1 => Just(Op::Detach),
    ]
}

/// A chunk to load: where, whether zeroes, ones or words, and which words.
fn part() -> impl Strategy<Value = (Where, u8, Vec<u64>)> {
    (place(), 0..7u8, prop::collection::vec(any::<u64>(), 1..4))
}

fn other() -> impl Strategy<Value = Other> {
    (prop_oneof![Just(0), -7..8i32, -63..64i32], prop::collection::vec(place(), 0..4)).prop_map(|(g, p)| Other(g, p))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => Just(Step::Next), 2 => Just(Step::Peek), 2 => spot().prop_map(Step::AdvanceTo)]
}

/// `(granules, items less than whole in the last one)`; both are fitted to the granularity.
fn shape() -> impl Strategy<Value = (u64, u64)> {
    let granules = prop_oneof![
        1 => 0..=3u64,
        2 => 60..=70u64,
        2 => 100..=400u64,
        1 => 4090..=4200u64,
    ];
    (granules, prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()])
}

#[test]
fn every_operation_at_every_granularity() {
    for granularity in 0..=dirtymap::MAX_GRANULARITY {
        let strategy = (
            shape(),
            prop::collection::vec((op(), place(), spot(), 1..=u64::MAX), 1..24),
            place(),
            prop::collection::vec(step(), 0..24),
            prop::collection::vec(any::<u64>(), 0..4),
        );
        let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
        let run = TestRunner::new(config).run(&strategy, |(shape, ops, walk, steps, cuts)| {
            ops::play(Story { granularity, shape, ops, walk, steps, cuts });
            Ok(())
        });
        run.unwrap_or_else(|e| panic!("granularity {granularity}: {e}"));
    }
}
