//! `DirtyMap` does what `Bitmap` does, which has a model of its own (tests/bitmap_model.rs): every operation that both
//! have, side by side, through flushes, closes, drops and changes of length.

use dirtymap::{Bitmap, DirtyMap, Durability, Error, Options};
use proptest::prelude::*;
use std::ops::Range;
use std::path::Path;

#[derive(Clone, Debug)]
enum Op {
    Set(Range<u64>),
    Reset(Range<u64>),
    ResetWithin(Range<u64>),
    ResetCovering(Range<u64>),
    SetAll,
    ResetAll,
    /// Merges a map of that granularity with these areas.
    Merge(u32, Vec<Range<u64>>),
    /// Keeps what is in a map with these areas, or takes it away.
    Keep(bool, Vec<Range<u64>>),
    /// Loads chunks: of another map, zeros or ones.
    Load(Vec<(u64, Option<bool>)>),
    Truncate(u64),
    Flush,
    Close,
    Drop,
}

const MOST: u64 = 40_000;

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
    ]
}

fn options(durability: Durability) -> Options {
    // Room for little, so that lists fill up and are flushed for room.
    Options::new().durability(durability).armed_bound(2000).flush_interval(None)
}

/// The same kind of error, or none.
#[track_caller]
fn same<A, B>(map: Result<A, Error>, bits: Result<B, Error>) {
    let kind = |e: Error| e.kind();
    assert_eq!(map.map(drop).map_err(kind), bits.map(drop).map_err(kind));
}

/// All that can be asked of both.
fn check(map: &DirtyMap, bits: &Bitmap, asked: &Range<u64>) {
    let all = 0..bits.len();
    assert_eq!((map.len(), map.granularity()), (bits.len(), bits.granularity()));
    assert_eq!((map.count(), map.dirty_len()), (bits.count(), bits.dirty_len()));
    assert_eq!((map.is_empty(), map.is_full()), (bits.is_empty(), bits.is_full()));
    assert_eq!(map.sha256(), bits.sha256());
    assert!(map.areas(all.clone()).unwrap().eq(bits.areas(all.clone()).unwrap()));
    assert!(map.words(all.clone()).unwrap().eq(bits.words(all).unwrap()));
    assert_eq!(&map.to_bitmap().unwrap(), bits);
    let mut other = Bitmap::new(bits.len(), bits.granularity()).unwrap();
    _ = other.set(asked.clone());
    assert_eq!(map.difference(&other).unwrap(), bits.difference(&other).unwrap());
    assert_eq!(map.intersection(&other).unwrap(), bits.intersection(&other).unwrap());
    assert_eq!(other.difference(map).unwrap(), other.difference(bits).unwrap());
    macro_rules! ask {
        ($($question:ident($($argument:expr),*)),* $(,)?) => {
            $(match (map.$question($($argument),*), bits.$question($($argument),*)) {
                (Ok(a), Ok(b)) => assert_eq!(a, b, "{}", stringify!($question)),
                (a, b) => same(a, b),
            })*
        };
    }
    ask!(
        get(asked.start),
        any(asked.clone()),
        all(asked.clone()),
        count_range(asked.clone()),
        next_dirty(asked.clone()),
        next_clean(asked.clone()),
        next_area(asked.clone(), 100),
        next_area(asked.clone(), 0),
        run(asked.clone()),
    );
    match (map.granules(asked.clone()), bits.granules(asked.clone())) {
        (Ok(a), Ok(b)) => assert!(a.eq(b)),
        (a, b) => same(a, b),
    }
}

/// The same chunks from the same map into both; gives back what both hold.
fn load(map: DirtyMap, bits: Bitmap, chunks: &[(u64, Option<bool>)]) -> (DirtyMap, Bitmap) {
    let (align, len) = (bits.serialization_align().unwrap(), bits.len());
    let mut other = Bitmap::new(len, bits.granularity()).unwrap();
    for start in (0..len).step_by(777) {
        other.set(start..(start + 300).min(len)).unwrap();
    }
    let (mut map, mut bits) = (map.begin_load().unwrap(), bits.begin_load());
    for &(at, ones) in chunks {
        // One chunk or two, and at the end what is left.
        let start = (at / align * align).min(len / align * align);
        let chunk = start..start.saturating_add(align.saturating_mul(2)).min(len);
        match ones {
            Some(true) => same(map.ones(chunk.clone()), bits.ones(chunk)),
            Some(false) => same(map.zeroes(chunk.clone()), bits.zeroes(chunk)),
            None => {
                let mut bytes = vec![0; other.serialized_size(chunk.clone()).unwrap() as usize];
                other.serialize_part(chunk.clone(), &mut bytes).unwrap();
                same(map.part(chunk.clone(), &bytes), bits.part(chunk, &bytes));
            }
        }
    }
    (map.finish().unwrap(), bits.finish())
}

fn step(op: &Op, mut map: DirtyMap, mut bits: Bitmap, path: &Path) -> (DirtyMap, Bitmap) {
    match op {
        Op::Set(r) => same(map.set(r.clone()), bits.set(r.clone())),
        Op::Reset(r) => same(map.reset(r.clone()), bits.reset(r.clone())),
        Op::ResetWithin(r) => same(map.reset_within(r.clone()), bits.reset_within(r.clone())),
        Op::ResetCovering(r) => same(map.reset_covering(r.clone()), bits.reset_covering(r.clone())),
        Op::SetAll => map.set_all().map(|()| _ = bits.set_all()).unwrap(),
        Op::ResetAll => map.reset_all().map(|()| _ = bits.reset_all()).unwrap(),
        Op::Merge(granularity, areas) => {
            let mut other = Bitmap::new(bits.len(), *granularity).unwrap();
            areas.iter().for_each(|area| _ = other.set(area.clone()));
            same(map.merge(&other), bits.merge(&other));
        }
        Op::Keep(keep, areas) => {
            let mut other = Bitmap::new(bits.len(), bits.granularity()).unwrap();
            areas.iter().for_each(|area| _ = other.set(area.clone()));
            if *keep {
                same(map.intersect(&other), bits.intersect(&other));
            } else {
                same(map.subtract(&other), bits.subtract(&other));
            }
        }
        Op::Load(chunks) => return load(map, bits, chunks),
        Op::Truncate(len) => same(map.truncate(*len), bits.truncate(*len)),
        Op::Flush => map.flush().unwrap(),
        Op::Close => {
            let durability = map.durability();
            map.close().unwrap();
            map = options(durability).open(path).unwrap();
        }
        Op::Drop => {
            let durability = map.durability();
            drop(map);
            map = options(durability).open(path).unwrap();
            // More may be dirty, but nothing less; from here on it is what the map says.
            let recovered = map.to_bitmap().unwrap();
            assert_eq!(recovered.intersection(&bits).unwrap(), bits, "a dirty granule is clean after a drop");
            bits = recovered;
        }
    }
    (map, bits)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn a_map_in_a_file_does_what_a_bitmap_does(
        len in prop_oneof![Just(0), Just(1), 1..200u64, 1..MOST],
        granularity in prop_oneof![3 => 0..6u32, 1 => Just(40u32), 1 => Just(57u32)],
        process in any::<bool>(),
        ops in prop::collection::vec((op(), range()), 1..25),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let durability = if process { Durability::Process } else { Durability::PowerLoss };
        let mut map = options(durability).granularity(granularity).create(&path, len).unwrap();
        let mut bits = Bitmap::new(len, granularity).unwrap();
        let attached = |map: &DirtyMap, bits: &mut Bitmap| {
            map.attach_changes(3).unwrap();
            bits.attach_changes(3).unwrap();
        };
        attached(&map, &mut bits);
        for (op, asked) in &ops {
            (map, bits) = step(op, map, bits, &path);
            check(&map, &bits, asked);
            if matches!(op, Op::Close | Op::Drop) {
                // Gone with the map; and recovery's dirt is no change.
                prop_assert!(map.take_changes().unwrap().is_none());
                bits.detach_changes();
                attached(&map, &mut bits);
            } else if asked.start % 2 == 0 {
                prop_assert_eq!(map.take_changes().unwrap(), bits.take_changes().unwrap());
            }
        }
        map.close().unwrap();
        prop_assert_eq!(DirtyMap::open(&path).unwrap().to_bitmap().unwrap(), bits);
    }
}
