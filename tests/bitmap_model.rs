//! `Bitmap` does what a vector of booleans would do: random operations at every granularity, each
//! followed by every reader. The model knows granules as ranges of items and nothing of bits, words or levels.

use dirtymap::{Bitmap, Error};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::ops::Range;

struct Model {
    len: u64,
    granule: u128,
    dirty: Vec<bool>,
}

impl Model {
    fn new(len: u64, granularity: u32) -> Model {
        let granule = 1u128 << granularity;
        Model { len, granule, dirty: vec![false; (u128::from(len)).div_ceil(granule) as usize] }
    }

    /// The items of granule `b`.
    fn granule(&self, b: usize) -> Range<u64> {
        let start = b as u128 * self.granule;
        start as u64..(start + self.granule).min(u128::from(self.len)) as u64
    }

    fn legal(&self, r: &Range<u64>) -> bool {
        r.start <= r.end && r.end <= self.len
    }

    /// The granules that share an item with the range.
    fn touched(&self, r: &Range<u64>) -> Vec<usize> {
        let r = r.clone();
        let touches = |g: Range<u64>| g.start.max(r.start) < g.end.min(r.end);
        (0..self.dirty.len()).filter(|&b| touches(self.granule(b))).collect()
    }

    /// The granules that lie in the range with all of their items.
    fn inside(&self, r: &Range<u64>) -> Vec<usize> {
        let inside = |b: &usize| r.start <= self.granule(*b).start && self.granule(*b).end <= r.end;
        self.touched(r).into_iter().filter(inside).collect()
    }

    fn put(&mut self, granules: Vec<usize>, dirty: bool) -> u64 {
        let changed = granules.iter().filter(|&&b| self.dirty[b] != dirty).count();
        granules.into_iter().for_each(|b| self.dirty[b] = dirty);
        changed as u64
    }

    /// What `state` makes of the range: maximal runs of it, clamped.
    fn runs(&self, r: &Range<u64>, state: bool) -> VecDeque<Range<u64>> {
        let mut runs: VecDeque<Range<u64>> = VecDeque::new();
        for b in self.touched(r).into_iter().filter(|&b| self.dirty[b] == state) {
            let g = self.granule(b);
            let part = g.start.max(r.start)..g.end.min(r.end);
            match runs.back_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => runs.push_back(part),
            }
        }
        runs
    }

    fn words(&self) -> Vec<u64> {
        let mut words = vec![0; self.dirty.len().div_ceil(64).max(1)];
        (0..self.dirty.len()).filter(|&b| self.dirty[b]).for_each(|b| words[b / 64] |= 1 << (b % 64));
        words
    }
}

/// A position near a granule's edge: granule number (wrapped to those there are and one more), and where in it.
type Spot = (u16, u8);

fn item(m: &Model, (b, place): Spot) -> u64 {
    let start = u128::from(b) % (m.dirty.len() as u128 + 1) * m.granule;
    let within = [0, 0, 1, m.granule / 2, m.granule - 1][usize::from(place) % 5];
    u64::try_from(start + within).unwrap_or(u64::MAX)
}

/// Mostly legal ranges, some past the end, some backwards.
fn range(m: &Model, (a, b, wild): (Spot, Spot, u8)) -> Range<u64> {
    let (a, b) = (item(m, a), item(m, b));
    match wild {
        0 => a..b,
        1 => a..u64::MAX,
        2 => a.min(m.len)..a.min(m.len),
        3 => 0..m.len,
        _ => a.min(b).min(m.len)..a.max(b).min(m.len),
    }
}

type Where = (Spot, Spot, u8);

#[derive(Clone, Debug)]
enum Op {
    Set(Where),
    Reset(Where),
    ResetWithin(Where),
    ResetCovering(Where),
    SetAll,
    ResetAll,
    Merge(Vec<Where>),
}

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
        2 => prop::collection::vec(place(), 0..4).prop_map(Op::Merge),
    ]
}

fn outcome(done: Result<u64, Error>) -> Result<u64, &'static str> {
    done.map_err(|e| e.kind())
}

fn apply(map: &mut Bitmap, m: &mut Model, op: Op) -> TestCaseResult {
    let (got, wanted) = match op {
        Op::Set(w) => {
            let r = range(m, w);
            let wanted = if m.legal(&r) { Ok(m.put(m.touched(&r), true)) } else { Err("out-of-range") };
            (outcome(map.set(r)), wanted)
        }
        Op::Reset(w) => {
            let r = range(m, w);
            let wanted = match () {
                () if !m.legal(&r) => Err("out-of-range"),
                () if m.inside(&r) != m.touched(&r) => Err("unaligned"),
                () => Ok(m.put(m.inside(&r), false)),
            };
            (outcome(map.reset(r)), wanted)
        }
        Op::ResetWithin(w) => {
            let r = range(m, w);
            let wanted = if m.legal(&r) { Ok(m.put(m.inside(&r), false)) } else { Err("out-of-range") };
            (outcome(map.reset_within(r)), wanted)
        }
        Op::ResetCovering(w) => {
            let r = range(m, w);
            let wanted = if m.legal(&r) { Ok(m.put(m.touched(&r), false)) } else { Err("out-of-range") };
            (outcome(map.reset_covering(r)), wanted)
        }
        Op::SetAll => (Ok(map.set_all()), Ok(m.put((0..m.dirty.len()).collect(), true))),
        Op::ResetAll => (Ok(map.reset_all()), Ok(m.put((0..m.dirty.len()).collect(), false))),
        Op::Merge(places) => {
            let mut other = Bitmap::new(m.len, map.granularity()).unwrap();
            let mut changed = 0;
            for r in places.into_iter().map(|w| range(m, w)).filter(|r| m.legal(r)).collect::<Vec<_>>() {
                other.set(r.clone()).unwrap();
                changed += m.put(m.touched(&r), true);
            }
            prop_assert!(map.can_merge(&other));
            (outcome(map.merge(&other)), Ok(changed))
        }
    };
    prop_assert_eq!(got, wanted);
    map.check_invariants().map_err(TestCaseError::fail)?;
    prop_assert_eq!(map.bottom_words(), &m.words()[..]);
    Ok(())
}

/// What does not depend on a range.
fn check_whole(map: &Bitmap, m: &Model) -> TestCaseResult {
    let dirty = m.dirty.iter().filter(|&&d| d).count() as u64;
    prop_assert_eq!(map.count(), dirty);
    prop_assert_eq!(map.is_empty(), dirty == 0);
    prop_assert_eq!(map.is_full(), dirty as usize == m.dirty.len());
    let areas = m.runs(&(0..m.len), true);
    prop_assert_eq!(map.dirty_len(), areas.iter().map(|a| a.end - a.start).sum::<u64>());
    prop_assert!(map.into_iter().eq(areas));
    let bytes: Vec<u8> = m.words().into_iter().flat_map(u64::to_le_bytes).collect();
    prop_assert_eq!(map.sha256(), <[u8; 32]>::from(Sha256::digest(bytes)));
    let copy = map.try_clone().unwrap();
    copy.check_invariants().map_err(TestCaseError::fail)?;
    prop_assert_eq!(&copy, map);
    Ok(())
}

/// Every reader that takes a range.
fn check_range(map: &Bitmap, m: &Model, r: Range<u64>, max_len: u64) -> TestCaseResult {
    if !m.legal(&r) {
        let refused = |kind: Option<Error>| kind.is_some_and(|e| e.kind() == "out-of-range");
        prop_assert!(refused(map.count_range(r.clone()).err()) && refused(map.any(r.clone()).err()));
        prop_assert!(refused(map.all(r.clone()).err()) && refused(map.next_dirty(r.clone()).err()));
        prop_assert!(refused(map.next_clean(r.clone()).err()) && refused(map.next_area(r.clone(), 1).err()));
        prop_assert!(refused(map.run(r.clone()).err()) && refused(map.granules(r.clone()).err()));
        prop_assert!(refused(map.areas(r.clone()).err()) && refused(map.words(r).err()));
        return Ok(());
    }
    let (dirty, clean) = (m.runs(&r, true), m.runs(&r, false));
    let touched: Vec<usize> = m.touched(&r).into_iter().filter(|&b| m.dirty[b]).collect();
    prop_assert_eq!(map.count_range(r.clone()).unwrap(), touched.len() as u64);
    prop_assert_eq!(map.any(r.clone()).unwrap(), !dirty.is_empty());
    prop_assert_eq!(map.all(r.clone()).unwrap(), clean.is_empty());
    prop_assert_eq!(map.next_dirty(r.clone()).unwrap(), dirty.front().map(|a| a.start));
    prop_assert_eq!(map.next_clean(r.clone()).unwrap(), clean.front().map(|a| a.start));
    let cut = |a: &Range<u64>| a.start..a.end.min(a.start.saturating_add(max_len));
    prop_assert_eq!(map.next_area(r.clone(), max_len).unwrap(), dirty.front().map(cut));
    prop_assert_eq!(map.next_area(r.clone(), u64::MAX).unwrap(), dirty.front().cloned());
    let run = match (dirty.front(), clean.front()) {
        (Some(a), _) if a.start == r.start => Some((true, a.end - a.start)),
        (_, Some(a)) => Some((false, a.end - a.start)),
        _ => None,
    };
    prop_assert_eq!(map.run(r.clone()).unwrap(), run);
    prop_assert_eq!(map.areas(r.clone()).unwrap().collect::<VecDeque<_>>(), dirty);
    let firsts: Vec<u64> = touched.iter().map(|&b| m.granule(b).start).collect();
    prop_assert_eq!(map.granules(r.clone()).unwrap().collect::<Vec<_>>(), firsts);
    let mut words = vec![0; m.words().len()];
    touched.iter().for_each(|b| words[b / 64] |= 1 << (b % 64));
    let words = words.into_iter().enumerate().map(|(i, w)| (i as u64, w)).filter(|&(_, w)| w != 0);
    prop_assert!(map.words(r).unwrap().eq(words));
    Ok(())
}

fn check_item(map: &Bitmap, m: &Model, item: u64) -> TestCaseResult {
    let wanted = m.touched(&(item..item.saturating_add(1))).first().map(|&b| m.dirty[b]);
    prop_assert_eq!(map.get(item).ok(), wanted);
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Next,
    Peek,
    AdvanceTo(Spot),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => Just(Step::Next), 2 => Just(Step::Peek), 2 => spot().prop_map(Step::AdvanceTo)]
}

fn hint_holds(hint: (usize, Option<usize>), left: usize) -> bool {
    hint.0 <= left && hint.1.is_none_or(|most| left <= most)
}

/// The iterators, walked in steps of all kinds.
fn check_walk(map: &Bitmap, m: &Model, r: Range<u64>, steps: Vec<Step>) -> TestCaseResult {
    if !m.legal(&r) {
        return Ok(());
    }
    let (mut granules, mut areas) = (map.granules(r.clone()).unwrap(), map.areas(r.clone()).unwrap());
    let mut g_left: VecDeque<usize> = m.touched(&r).into_iter().filter(|&b| m.dirty[b]).collect();
    let mut a_left = m.runs(&r, true);
    for step in steps {
        match step {
            Step::Next => {
                prop_assert_eq!(granules.next(), g_left.pop_front().map(|b| m.granule(b).start));
                prop_assert_eq!(areas.next(), a_left.pop_front());
            }
            Step::Peek => {
                prop_assert_eq!(granules.peek(), g_left.front().map(|&b| m.granule(b).start));
                prop_assert_eq!(areas.peek(), a_left.front().cloned());
            }
            Step::AdvanceTo(spot) => {
                let item = item(m, spot);
                granules.advance_to(item);
                areas.advance_to(item);
                g_left.retain(|&b| m.granule(b).end > item);
                a_left.retain(|a| a.end > item);
                a_left.iter_mut().for_each(|a| a.start = a.start.max(item));
            }
        }
        prop_assert!(hint_holds(granules.size_hint(), g_left.len()));
        prop_assert!(hint_holds(areas.size_hint(), a_left.len()));
    }
    prop_assert!(granules.clone().eq(g_left.into_iter().map(|b| m.granule(b).start)));
    prop_assert!(areas.clone().eq(a_left));
    Ok(())
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

fn fit(granularity: u32, (granules, short): (u64, u64)) -> u64 {
    let granule = 1u128 << granularity;
    let short = u128::from(short) % granule;
    let len = (u128::from(granules) * granule).saturating_sub(short);
    len.min(u128::from(dirtymap::MAX_LEN)) as u64
}

#[test]
fn every_operation_at_every_granularity() {
    for granularity in 0..=dirtymap::MAX_GRANULARITY {
        let strategy = (
            shape(),
            prop::collection::vec((op(), place(), spot(), 1..=u64::MAX), 1..24),
            place(),
            prop::collection::vec(step(), 0..24),
        );
        let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
        let run = TestRunner::new(config).run(&strategy, |(shape, ops, walk, steps)| {
            let len = fit(granularity, shape);
            let mut map = Bitmap::new(len, granularity).unwrap();
            let mut m = Model::new(len, granularity);
            for (op, place, at, max_len) in ops {
                apply(&mut map, &mut m, op)?;
                let max_len = if max_len % 2 == 0 { max_len % 9 + 1 } else { item(&m, at).max(1) };
                check_range(&map, &m, range(&m, place), max_len)?;
                check_item(&map, &m, item(&m, at))?;
            }
            check_whole(&map, &m)?;
            let r = range(&m, walk);
            check_walk(&map, &m, r, steps)
        });
        run.unwrap_or_else(|e| panic!("granularity {granularity}: {e}"));
    }
}
