//! `DirtyMap` does what `Bitmap` does, and checkpoints what sets of bits do: random stories (ops/map.rs).

use dirtymap::Durability;
use proptest::prelude::*;
use std::ops::Range;

#[path = "ops/map.rs"]
mod ops;

use ops::{MOST, Op, Story};

fn range() -> impl Strategy<Value = Range<u64>> {
    // Also backward ones and ones past the end.
    prop_oneof![
        4 => (0..MOST, 0..3000u64).prop_map(|(start, n)| start..start + n),
        1 => (0..MOST + 10, 0..MOST + 10).prop_map(|(start, end)| start..end),
        1 => Just(u64::MAX - 1..u64::MAX),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => range().prop_map(Op::Set),
        3 => range().prop_map(Op::Reset),
        2 => range().prop_map(Op::ResetWithin),
        2 => range().prop_map(Op::ResetCovering),
        1 => Just(Op::SetAll),
        1 => Just(Op::ResetAll),
        2 => (0..8u32, prop::collection::vec(range(), 0..4)).prop_map(|(g, areas)| Op::Merge(g, areas)),
        2 => (any::<bool>(), prop::collection::vec(range(), 0..4)).prop_map(|(keep, areas)| Op::Keep(keep, areas)),
        2 => prop::collection::vec((0..MOST, any::<Option<bool>>()), 1..4).prop_map(Op::Load),
        2 => (0..MOST).prop_map(Op::Truncate),
        2 => Just(Op::Flush),
        1 => Just(Op::Close),
        1 => Just(Op::Drop),
        2 => any::<Option<u8>>().prop_map(Op::Freeze),
        2 => any::<bool>().prop_map(Op::Commit),
        1 => Just(Op::Abort),
        1 => any::<u8>().prop_map(Op::DropPoint),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn a_map_in_a_file_does_what_a_bitmap_does(
        len in prop_oneof![Just(0), Just(1), 1..200u64, 1..MOST],
        granularity in prop_oneof![3 => 0..6u32, 1 => Just(40u32), 1 => Just(57u32)],
        durability in prop_oneof![Just(Durability::PowerLoss), Just(Durability::Process)],
        shared in any::<bool>(),
        ops in prop::collection::vec((op(), range()), 1..25),
        // On whatever there is for temporary files, which may have to sync, or in memory.
        place in prop_oneof![1 => Just(std::env::temp_dir()), 2 => Just("/dev/shm".into())],
    ) {
        let dir = tempfile::tempdir_in(place).or_else(|_| tempfile::tempdir()).unwrap();
        ops::play(&Story { len, granularity, durability, shared, ops }, dir.path());
    }
}
