//! What the iterators and readers promise of a map that changes under them.

use super::cursor::Cursor;
use super::read::ReadMap;
use super::search::{Blocks, Search};
use crate::bitmap::Bitmap;
use crate::geometry::{Geometry, mask_in};
use crate::hierarchy::counted;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

/// A map that others change: its bits can be written through a shared reference, also in the middle of an
/// operation: `plan` holds changes to be made after so many more looks at the map.
struct Live {
    geometry: Geometry,
    words: RefCell<Vec<u64>>,
    plan: RefCell<Vec<(u32, u64, bool)>>,
}

impl Live {
    fn new(bits: u64, granularity: u32) -> Live {
        let geometry = Geometry::new(bits << granularity, granularity).unwrap();
        Live { geometry, words: RefCell::new(vec![0; geometry.words() as usize]), plan: RefCell::default() }
    }

    fn put(&self, bit: u64, state: bool) {
        let word = &mut self.words.borrow_mut()[bit as usize / 64];
        *word = *word & !(1 << (bit % 64)) | u64::from(state) << (bit % 64);
    }

    /// A look has been taken: time passes.
    fn looked<T>(&self, seen: T) -> T {
        let mut plan = self.plan.borrow_mut();
        for (left, bit, state) in plan.iter_mut() {
            if *left == 0 {
                self.put(*bit, *state);
            }
            *left = left.wrapping_sub(1);
        }
        plan.retain(|(left, ..)| *left != u32::MAX);
        seen
    }

    fn find(&self, bits: Range<u64>, state: bool) -> Option<u64> {
        let words = self.words.borrow();
        (bits.start..bits.end.min(self.geometry.bits()))
            .find(|b| (words[*b as usize / 64] >> (b % 64) & 1 != 0) == state)
    }
}

impl ReadMap for Live {}

impl Search for Live {
    #[inline]
    fn is_stable(&self) -> bool {
        false
    }
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        self.looked(self.find(bits, true))
    }
    fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        self.looked(self.find(bits, false))
    }
    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        let seen = {
            let all = self.words.borrow();
            (words.start..words.end.min(all.len() as u64)).map(|i| (i, all[i as usize])).find(|&(_, w)| w != 0)
        };
        self.looked(seen)
    }
    fn word(&self, i: u64) -> u64 {
        let seen = self.words.borrow()[i as usize];
        self.looked(seen)
    }
}

fn all(map: &Live) -> Range<u64> {
    0..map.geometry.len()
}

#[test]
fn a_bit_reset_before_it_is_reached_is_not_yielded() {
    let map = Live::new(200, 0);
    (3..9).for_each(|b| map.put(b, true));
    let mut granules = map.granules(all(&map)).unwrap();
    assert_eq!(granules.next(), Some(3));
    // In the same word, which a cache would still show.
    map.put(4, false);
    map.put(5, false);
    assert_eq!(granules.next(), Some(6));
    let mut extents = map.extents(all(&map)).unwrap();
    map.put(3, false);
    assert_eq!(extents.next(), Some(6..9));
    let mut words = map.words(all(&map)).unwrap();
    map.put(6, false);
    assert_eq!(words.next(), Some((0, 0b1_1000_0000)));
}

#[test]
fn what_was_peeked_at_is_yielded() {
    let map = Live::new(200, 0);
    [3, 4, 70].into_iter().for_each(|b| map.put(b, true));
    let (mut granules, mut extents) = (map.granules(all(&map)).unwrap(), map.extents(all(&map)).unwrap());
    let mut words = map.words(all(&map)).unwrap();
    assert_eq!((granules.peek(), extents.peek(), words.peek()), (Some(3), Some(3..5), Some((0, 0b11000))));
    map.put(3, false);
    map.put(4, false);
    assert_eq!((words.peek(), words.clone().next()), (Some((0, 0b11000)), Some((0, 0b11000))));
    // Moved into the word that was peeked at, it keeps the rest of it.
    words.advance_to(4);
    assert_eq!((words.peek(), words.next(), words.next()), (Some((0, 0b10000)), Some((0, 0b10000)), Some((1, 64))));
    words.advance_to(0);
    assert_eq!(words.next(), None);
    assert_eq!((granules.peek(), extents.peek()), (Some(3), Some(3..5)));
    assert_eq!((granules.clone().next(), extents.clone().next()), (Some(3), Some(3..5)));
    assert_eq!((granules.next(), extents.next()), (Some(3), Some(3..5)));
    assert_eq!((granules.next(), extents.next()), (Some(70), Some(70..71)));
    // Moving to where one is, or back, changes nothing.
    map.put(75, true);
    assert_eq!((granules.peek(), extents.peek()), (Some(75), Some(75..76)));
    map.put(75, false);
    for item in [0, 3, 75] {
        granules.advance_to(item);
        extents.advance_to(item);
    }
    assert_eq!((granules.next(), extents.next()), (Some(75), Some(75..76)));
    // Moved past, it is forgotten.
    map.put(80, true);
    assert_eq!((granules.peek(), extents.peek()), (Some(80), Some(80..81)));
    granules.advance_to(81);
    extents.advance_to(81);
    assert_eq!((granules.next(), extents.next()), (None, None));
}

#[test]
fn an_exhausted_iterator_stays_exhausted() {
    let map = Live::new(200, 3);
    map.put(7, true);
    let (mut g, mut a, mut w) =
        (map.granules(all(&map)).unwrap(), map.extents(all(&map)).unwrap(), map.words(all(&map)).unwrap());
    assert_eq!((g.next(), a.next(), w.next()), (Some(56), Some(56..64), Some((0, 128))));
    assert_eq!((g.next(), a.next(), w.next()), (None, None, None));
    map.put(190, true);
    assert_eq!((g.next(), a.next(), w.next()), (None, None, None));
    assert_eq!((g.peek(), a.peek()), (None, None));
    g.advance_to(0);
    a.advance_to(0);
    assert_eq!((g.next(), a.next()), (None, None));
    assert_eq!((g.size_hint().1, a.size_hint().1, w.size_hint().1), (Some(0), Some(0), Some(0)));
}

#[test]
fn an_area_is_not_empty_when_its_first_bit_goes_at_once() {
    let map = Live::new(200, 4);
    map.put(9, true);
    map.plan.borrow_mut().push((0, 9, false));
    assert_eq!(map.next_extent(all(&map), 1000).unwrap(), Some(144..160));
    map.put(9, true);
    map.plan.borrow_mut().push((0, 9, false));
    assert_eq!(map.run(150..3200).unwrap(), Some((true, 10)));
}

#[test]
fn the_last_granule_is_counted_and_measured_by_the_same_look() {
    for when in 0..4 {
        let geometry = Geometry::new(1001, 4).unwrap();
        let map = Live { geometry, ..Live::new(63, 4) };
        map.put(62, true);
        map.plan.borrow_mut().push((when, 62, false));
        assert!([0, 9].contains(&ReadMap::dirty_len(&map)));
    }
}

/// What an iterator yields, in order, taken from either end as the bits of `ends` tell.
fn both_ends<I: DoubleEndedIterator>(mut it: I, mut ends: u64) -> Vec<I::Item> {
    let (mut front, mut back) = (Vec::new(), Vec::new());
    loop {
        let from_front = ends & 1 != 0;
        ends = ends.rotate_right(1);
        let Some(item) = (if from_front { it.next() } else { it.next_back() }) else { break };
        if from_front { &mut front } else { &mut back }.push(item);
    }
    assert!(it.next().is_none() && it.next_back().is_none());
    front.into_iter().chain(back.into_iter().rev()).collect()
}

#[test]
fn what_one_end_has_peeked_at_the_other_yields_last() {
    let map = Live::new(200, 0);
    [3, 4, 70, 71].into_iter().for_each(|b| map.put(b, true));
    let (mut granules, mut extents) = (map.granules(all(&map)).unwrap(), map.extents(all(&map)).unwrap());
    let mut words = map.words(all(&map)).unwrap();
    assert_eq!((granules.peek(), extents.peek(), words.peek()), (Some(3), Some(3..5), Some((0, 0b11000))));
    [3, 4, 71].into_iter().for_each(|b| map.put(b, false));
    let back = (granules.next_back(), extents.next_back(), words.next_back());
    assert_eq!(back, (Some(70), Some(70..71), Some((1, 64))));
    let back = (granules.next_back(), extents.next_back(), words.next_back());
    assert_eq!(back, (Some(3), Some(3..5), Some((0, 0b11000))));
    assert_eq!((granules.next(), extents.next(), words.next()), (None, None, None));
}

#[test]
fn from_the_end_a_large_map_takes_few_looks() {
    let mut map = Bitmap::new(1 << 36, 0).unwrap();
    map.set(5..6).unwrap();
    map.set(1 << 30..(1 << 30) + (1 << 20)).unwrap();
    let (looks, found) = counted(|| map.extents(..).unwrap().rev().collect::<Vec<_>>());
    assert!(found == [1 << 30..(1 << 30) + (1 << 20), 5..6] && looks < 3 << 14, "{looks} words for {found:?}");
    map.reset((1 << 30) + 1..1 << 31).unwrap();
    let (looks, found) = counted(|| map.granules(..).unwrap().rev().collect::<Vec<_>>());
    assert!(found == [1 << 30, 5] && looks < 2000, "{looks} words for {found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever changes between any two looks: ascending, nothing twice, nothing that was never dirty, nothing
    /// left out that was dirty all the time; and no reader's answer is out of bounds.
    #[test]
    fn a_map_that_changes_all_the_time(
        bits in 1..300u64,
        start in prop::collection::vec(any::<u64>(), 0..100),
        plan in prop::collection::vec((0..60u32, any::<u64>(), any::<bool>()), 0..60),
        kind in 0..12, ends in any::<u64>(),
    ) {
        let map = Live::new(bits, 2);
        start.iter().for_each(|b| map.put(b % bits, true));
        let start: BTreeSet<u64> = start.iter().map(|b| b % bits).collect();
        let plan: Vec<_> = plan.into_iter().map(|(when, b, state)| (when, b % bits, state)).collect();
        let always: BTreeSet<u64> = start.iter().copied().filter(|&b| !plan.iter().any(|p| p.1 == b && !p.2)).collect();
        let ever: BTreeSet<u64> = start.iter().copied().chain(plan.iter().filter(|p| p.2).map(|p| p.1)).collect();
        map.plan.replace(plan);
        let len = map.geometry.len();
        let seen: Vec<u64> = match kind {
            0 => map.granules(0..len).unwrap().map(|i| i / 4).collect(),
            1 => {
                let mut it = map.granules(0..len).unwrap();
                std::iter::from_fn(|| { let p = it.peek(); assert_eq!(p, it.next()); p }).map(|i| i / 4).collect()
            }
            9 => both_ends(map.granules(0..len).unwrap(), ends).into_iter().map(|i| i / 4).collect(),
            10 => both_ends(map.extents(0..len).unwrap(), ends).into_iter().flat_map(|a| {
                assert!(a.start < a.end && a.end <= len);
                a.start / 4..a.end / 4
            }).collect(),
            11 => both_ends(map.words(0..len).unwrap(), ends).into_iter().flat_map(|(i, w)| {
                assert!(w != 0 && w & !mask_in(i, &(0..bits)) == 0);
                (0..64).filter(move |b| w >> b & 1 != 0).map(move |b| i * 64 + b)
            }).collect(),
            8 => {
                let mut seen = Vec::new();
                map.granules(0..len).unwrap().for_each(|i| seen.push(i / 4));
                seen
            }
            2 => map.extents(0..len).unwrap().flat_map(|a| {
                assert!(a.start < a.end && a.end <= len);
                a.start / 4..a.end / 4
            }).collect(),
            3 => map.words(0..len).unwrap().flat_map(|(i, w)| {
                assert!(w != 0 && w & !mask_in(i, &(0..bits)) == 0);
                (0..64).filter(move |b| w >> b & 1 != 0).map(move |b| i * 64 + b)
            }).collect(),
            _ => {
                let (low, high) = (always.len() as u64, ever.len() as u64);
                let count = match kind {
                    4 => ReadMap::count(&map),
                    5 => ReadMap::dirty_len(&map) / 4,
                    _ => map.count_range(0..len).unwrap(),
                };
                prop_assert!(low <= count && count <= high);
                let run = map.run(1..len).unwrap();
                prop_assert!(run.is_some_and(|(_, n)| n >= 1 && n < len));
                ReadMap::sha256(&map);
                return Ok(());
            }
        };
        prop_assert!(seen.windows(2).all(|w| w[0] < w[1]));
        prop_assert!(seen.iter().all(|b| ever.contains(b)));
        let seen: BTreeSet<u64> = seen.into_iter().collect();
        prop_assert!(always.is_subset(&seen));
    }

    /// Large maps that stand still, in which iterators remember where they are on several levels: whatever is asked of
    /// them, in whatever order, it is what a list of the dirty bits says.
    #[test]
    fn a_large_map_that_stands_still(
        bits in prop_oneof![1..20_000u64, 250_000..300_000u64, Just(1 << 30)], granularity in 0..4u32,
        dirt in prop::collection::vec((any::<u64>(), prop_oneof![1..3u64, 1..200u64, 1..9000u64]), 0..12),
        from in any::<u64>(), to in any::<u64>(), whole in any::<bool>(),
        steps in prop::collection::vec((0..7u8, any::<u64>()), 0..40),
    ) {
        let mut map = Bitmap::new((bits << granularity) - (1 << granularity >> 1), granularity).unwrap();
        let g = *map.geometry();
        let mut set = BTreeSet::new();
        for (start, n) in dirt {
            let range = start % bits..(start % bits + n).min(bits);
            map.set(g.items_of(&range)).unwrap();
            set.extend(range);
        }
        let (from, to) = if whole { (0, u64::MAX) } else { (from, to) };
        let range = from.min(g.len())..to.min(g.len());
        let range = if whole { range } else { from % (g.len() + 1)..to % (g.len() + 1) };
        let range = range.start.min(range.end)..range.end.max(range.start);

        // What is still to come.
        let mut left: Vec<u64> = set.range(g.touched(&range)).copied().collect();
        let items = |bits: &[u64]| bits.iter().map(|&bit| g.item_of(bit)).collect::<Vec<_>>();
        let areas_of = |bits: &[u64], from: u64| {
            let mut extents: Vec<Range<u64>> = Vec::new();
            for &bit in bits {
                let items = g.item_of(bit).max(from)..g.item_of(bit + 1).min(range.end);
                match extents.last_mut() {
                    Some(last) if last.end == items.start => last.end = items.end,
                    _ => extents.push(items),
                }
            }
            extents
        };
        let words_of = |bits: &[u64]| {
            let mut words: Vec<(u64, u64)> = Vec::new();
            for &bit in bits {
                match words.last_mut() {
                    Some((i, word)) if *i == bit / 64 => *word |= 1 << (bit % 64),
                    _ => words.push((bit / 64, 1 << (bit % 64))),
                }
            }
            words
        };
        let (mut granules, mut extents, mut words) =
            (map.granules(range.clone()).unwrap(), map.extents(range.clone()).unwrap(), map.words(range.clone()).unwrap());
        let (mut areas_left, mut words_left) = (areas_of(&left, range.start), words_of(&left));
        for (step, n) in steps {
            match step {
                0 => prop_assert_eq!(granules.peek(), left.first().map(|&bit| g.item_of(bit))),
                1 => prop_assert_eq!(extents.peek(), areas_left.first().cloned()),
                2 => prop_assert_eq!(words.peek(), words_left.first().copied()),
                3 => {
                    prop_assert_eq!(granules.next(), left.first().map(|&bit| g.item_of(bit)));
                    prop_assert_eq!(extents.next(), areas_left.first().cloned());
                    prop_assert_eq!(words.next(), words_left.first().copied());
                    left.drain(..left.len().min(1));
                    areas_left.drain(..areas_left.len().min(1));
                    words_left.drain(..words_left.len().min(1));
                }
                4 | 5 => {
                    prop_assert_eq!(granules.next_back(), left.pop().map(|bit| g.item_of(bit)));
                    prop_assert_eq!(extents.next_back(), areas_left.pop());
                    prop_assert_eq!(words.next_back(), words_left.pop());
                }
                _ => {
                    // To somewhere near the dirt, mostly.
                    let near = left.get((n % 300) as usize).map_or(n, |&bit| g.item_of(bit).saturating_add(n % 7));
                    granules.advance_to(near);
                    extents.advance_to(near);
                    words.advance_to(near);
                    left.retain(|&bit| g.item_of(bit + 1) > near);
                    areas_left.retain(|area| area.end > near);
                    areas_left.iter_mut().for_each(|area| area.start = area.start.max(near));
                    let bit = if near < g.len() { g.bit_of(near) } else { u64::MAX };
                    words_left.iter_mut().for_each(|(i, word)| *word &= mask_in(*i, &(bit..u64::MAX)));
                    words_left.retain(|&(_, word)| word != 0);
                }
            }
        }
        let mut folded = Vec::new();
        granules.clone().for_each(|item| folded.push(item));
        prop_assert_eq!(folded, items(&left));
        let mut folded = Vec::new();
        extents.clone().for_each(|area| folded.push(area));
        prop_assert_eq!(&folded, &areas_left);
        prop_assert!(granules.clone().rev().eq(items(&left).into_iter().rev()));
        prop_assert!(extents.clone().rev().eq(areas_left.iter().cloned().rev()));
        prop_assert!(words.clone().rev().eq(words_left.iter().copied().rev()));
        prop_assert!(granules.eq(items(&left)));
        prop_assert!(extents.eq(areas_left));
        prop_assert!(words.eq(words_left));
    }
}

#[test]
fn the_end_of_a_long_run_is_looked_for_without_the_summaries() {
    let mut map = Bitmap::new(1 << 30, 0).unwrap();
    map.set(5..(1 << 20) + 5).unwrap();
    let area = || Some(5..(1 << 20) + 5);
    let most = (1 << 14) + 128;
    let (looks, found) = counted(|| map.extents(0..1 << 30).unwrap().next());
    assert!(found == area() && looks <= most, "{looks} words for {found:?}");
    let (looks, found) = counted(|| map.extents(0..1 << 30).unwrap().fold(None, |_, area| Some(area)));
    assert!(found == area() && looks <= most, "{looks} words for {found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is changed between steps, mostly near the cursor, and whichever map it is asked of: what a search of the map
    /// as it is finds from its position on.
    #[test]
    fn a_cursor_is_right_while_the_maps_change_between_steps(
        start in prop::collection::vec((0..100_000u64, 1..400u64), 0..40),
        from in 0..2000u64, to in prop_oneof![0..120_000u64, Just(u64::MAX)],
        steps in prop::collection::vec((0..12u8, any::<u64>(), any::<bool>()), 1..400),
    ) {
        let mut maps = [0, 3].map(|granularity| Bitmap::new(100_001, granularity).unwrap());
        for (start, len) in start {
            maps.iter_mut().for_each(|map| assert!(map.set(start..(start + len).min(100_001)).is_ok()));
        }
        let (mut cursor, mut position) = (Cursor::new(from..to), from);
        for (step, n, which) in steps {
            let map = &mut maps[usize::from(which)];
            let (len, near) = (map.len(), position.saturating_sub(70) + n % 4500);
            let range = near.min(len)..(near + n % 131).min(len);
            let end = to.min(map.len());
            let left = position.min(end)..end;
            match step {
                0 => assert!(map.set(range).is_ok()),
                1 => assert!(map.reset_covering(range).is_ok()),
                2 if n % 8 == 0 => {
                    let len = [len - len.min(n % 9000), 100_001, near][n as usize / 8 % 3];
                    assert!(map.truncate(len).is_ok());
                }
                3 => {
                    cursor.advance_to(near);
                    position = position.max(near);
                }
                4 | 5 => {
                    let found = map.next_extent(left, u64::MAX).unwrap();
                    prop_assert_eq!(cursor.next_extent(&*map), found.clone());
                    position = found.map_or(position, |area| area.end);
                }
                _ => {
                    let g = *map.geometry();
                    let found = map.next_dirty(left).unwrap().map(|item| g.item_of(g.bit_of(item)));
                    prop_assert_eq!(cursor.peek(map), found);
                    prop_assert_eq!(cursor.next(map as &dyn ReadMap), found);
                    position = found.map_or(position, |item| item + g.granule());
                }
            }
            prop_assert!(cursor == Cursor::new(position..to) && cursor.position() == position);
        }
    }
}

#[test]
fn a_cursor_finds_what_the_iterators_find() {
    let mut map = Bitmap::new(100_001, 3).unwrap();
    (0..400).for_each(|i| assert!(map.set(i * 241..i * 241 + i % 70).is_ok()));
    for range in [0..100_001, 5..99_999, 77..77, 241 * 9 + 3..50_000] {
        let mut cursor = Cursor::new(range.clone());
        assert!(std::iter::from_fn(|| cursor.next(&map)).eq(map.granules(range.clone()).unwrap()));
        let mut cursor = Cursor::new(range.clone());
        assert!(std::iter::from_fn(|| cursor.next_extent(&map)).eq(map.extents(range).unwrap()));
    }
}

#[test]
fn a_cursor_at_the_end_finds_what_the_last_granule_covers_when_the_map_grows() {
    let mut map = Bitmap::new(1001, 3).unwrap();
    map.set(990..1001).unwrap();
    let mut cursor = Cursor::new(0..u64::MAX);
    assert_eq!([cursor.next_extent(&map), cursor.next_extent(&map)], [Some(984..1001), None]);
    map.truncate(1200).unwrap();
    assert_eq!([cursor.next_extent(&map), cursor.next_extent(&map)], [Some(1001..1008), None]);
}

#[test]
fn words_read_by_blocks_are_those_of_the_map_and_nothing_past_its_end() {
    for bits in [1, 64, 4096, 4100, 20_000] {
        let (live, mut map) = (Live::new(bits, 0), Bitmap::new(bits, 0).unwrap());
        (0..bits).filter(|bit| bit % 701 < 3 || bit / 300 % 7 == 2).for_each(|bit| {
            live.put(bit, true);
            map.set(bit..bit + 1).unwrap();
        });
        let expected: Vec<(u64, u64)> = map.words(..).unwrap().collect();
        // As memory that others share may have it.
        let stray = !map.geometry().word_mask(map.geometry().words() - 1);
        *live.words.borrow_mut().last_mut().unwrap() |= stray;
        for from in [0, 1, 5, 63, 64, 100, map.geometry().words()] {
            let all = from..map.geometry().words();
            let left = || expected.iter().copied().filter(|&(i, _)| i >= from);
            let words = |word: &(u64, u64)| word.1 != 0;
            assert!(Blocks::over(&live, all.clone()).filter(words).eq(left()), "{bits} bits from word {from}");
            assert!(Blocks::over(&map, all).filter(words).eq(left()), "{bits} bits from word {from}");
            let mut skipping = Blocks::over(&map, 0..map.geometry().words());
            let first = skipping.next();
            skipping.skip_to(from);
            assert!(
                first.into_iter().chain(skipping).eq(expected
                    .iter()
                    .copied()
                    .enumerate()
                    .filter(|(n, w)| *n == 0 || w.0 >= from)
                    .map(|(_, w)| w))
            );
        }
    }
}
