//! The levels against a naive scan, with stale summaries, in both flavours, and with setters between any two
//! steps of a clearer.

use super::bulk;
use super::levels::{Levels, place};
use super::walk::Walk;
use super::words::{AtomicU64, Shared, Words, WordsMut};
use crate::geometry::{BOTTOM, LEVELS, mask_in};
use crate::sys::cpu::Kernel;
use proptest::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Words of each level for `bits` bits.
fn sizes(bits: u64) -> [u64; LEVELS] {
    crate::Geometry::new(bits, 0).unwrap().level_words()
}

fn empty(bits: u64) -> Levels<Vec<u64>> {
    Levels::new(sizes(bits).map(|n| vec![0; n as usize]), bits)
}

/// Levels with these bits set and, beyond exact summaries, stale bits `(level, bit)`.
fn stale(bits: u64, set: &[u64], extra: &[(usize, u64)]) -> Levels<Vec<u64>> {
    let mut levels = empty(bits);
    for bit in set {
        levels.set_bit(bit % bits);
    }
    for &(k, bit) in extra {
        let below = levels.level[k + 1].len() as u64;
        let (word, mask) = place(bit % below);
        levels.level[k].or(word as usize, mask);
    }
    levels
}

fn atomic(levels: &Levels<Vec<u64>>) -> [Vec<AtomicU64>; LEVELS] {
    levels.level.each_ref().map(|words| words.iter().map(|&w| AtomicU64::new(w)).collect())
}

fn shared(level: &[Vec<AtomicU64>; LEVELS], bits: u64) -> Levels<Shared<'_>> {
    Levels::new(level.each_ref().map(|words| Shared(words)), bits)
}

fn naive_next(levels: &Levels<Vec<u64>>, bits: Range<u64>, state: bool) -> Option<u64> {
    (bits.start..bits.end.min(levels.bits)).find(|b| (levels.bottom()[*b as usize / 64] >> (b % 64) & 1 != 0) == state)
}

/// Bit counts with one to four levels in use, and edges.
fn some_bits() -> impl Strategy<Value = u64> {
    prop_oneof![1..200u64, 4000..4200u64, Just(64 * 64 * 64), 262_100..270_000u64]
}

/// Bits, some of them crowded together.
fn some_set() -> impl Strategy<Value = Vec<u64>> {
    let cluster = (any::<u64>(), 1..150u64).prop_map(|(a, n)| (a >> 1..(a >> 1) + n).collect::<Vec<_>>());
    prop::collection::vec(prop_oneof![any::<u64>().prop_map(|b| vec![b]), cluster], 0..8).prop_map(|v| v.concat())
}

/// Starts and lengths of ranges of up to a few blocks.
fn some_ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((any::<u64>(), prop_oneof![1..3u64, 1..200u64, 1..20_000u64]), 0..12)
}

fn some_extra() -> impl Strategy<Value = Vec<(usize, u64)>> {
    prop::collection::vec((0..BOTTOM, any::<u64>()), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Searches skip stale summary bits, find every set bit, and stay in the range; both flavours.
    #[test]
    fn searches_with_stale_summaries(
        bits in some_bits(), set in some_set(), extra in some_extra(),
        from in prop::collection::vec((any::<u64>(), any::<u64>()), 1..8),
    ) {
        let levels = stale(bits, &set, &extra);
        levels.check(false).map_err(TestCaseError::fail)?;
        let atomics = atomic(&levels);
        let view = shared(&atomics, bits);
        for (a, n) in from {
            // Near a set bit half of the time.
            let near = || set[a as usize % set.len()].wrapping_sub(n / 2 % 3);
            let a = if n % 2 == 0 || set.is_empty() { a } else { near() } % bits;
            for range in [a..bits, a..u64::MAX, a..(a + 1 + n % 200), a..a, 0..a] {
                let wanted = naive_next(&levels, range.clone(), true);
                prop_assert_eq!(levels.next_set(range.clone()), wanted);
                prop_assert_eq!(view.next_set(range.clone()), wanted);
                let wanted = naive_next(&levels, range.clone(), false);
                prop_assert_eq!(levels.next_clear(range.clone()), wanted);
                prop_assert_eq!(view.next_clear(range.clone()), wanted);
                let words = range.start / 64..range.end / 64;
                let bottom = levels.bottom();
                let wanted = (words.start..words.end.min(bottom.len() as u64))
                    .map(|i| (i, bottom[i as usize])).find(|&(_, w)| w != 0);
                prop_assert_eq!(levels.next_nonzero_word(words.clone()), wanted);
                prop_assert_eq!(view.next_nonzero_word(words), wanted);
            }
        }
    }

    /// Whatever is in the upper levels, `finish` makes them exact; a set bit that has no summary is found again.
    #[test]
    fn finish_rebuilds_everything(bits in some_bits(), set in some_set(), junk in some_extra()) {
        let wanted = stale(bits, &set, &[]);
        let mut levels = wanted.clone();
        for (k, at) in junk {
            let i = at as usize % levels.level[k].len();
            levels.level[k][i] = at.rotate_left(17) & mask_in(i as u64, &(0..levels.level[k + 1].len() as u64));
        }
        let all = 0..levels.bottom().len() as u64;
        levels.finish(std::iter::once(all));
        levels.check(true).map_err(TestCaseError::fail)?;
        prop_assert_eq!(levels.level, wanted.level);
    }

    /// Extents that hold all the bits and all the stale summaries are enough, also where two of them meet
    /// in one upper word.
    #[test]
    fn finish_by_extents(
        bits in some_bits(), set in some_set(),
        cuts in prop::collection::vec((any::<u64>(), any::<bool>()), 0..12), near in any::<bool>(),
    ) {
        let words = sizes(bits)[BOTTOM];
        let fit = |c: u64| if near { c % 300 } else { c } % (words + 1);
        let mut cuts: Vec<_> = cuts.into_iter().map(|(c, inside)| (fit(c), inside)).collect();
        cuts.sort();
        let extents: Vec<Range<u64>> = cuts.windows(2).filter(|w| w[0].1).map(|w| w[0].0..w[1].0).collect();
        let inside = |b: &u64| extents.iter().any(|e| e.contains(&(b / 64)));
        let set: Vec<u64> = set.iter().map(|b| b % bits).filter(inside).collect();
        let wanted = stale(bits, &set, &[]);
        let mut levels = wanted.clone();
        // Wreck the summaries of the extents' words: one direction or the other.
        for (n, word) in extents.iter().flat_map(|e| e.clone()).enumerate() {
            let mut word = word;
            for k in (0..BOTTOM).rev() {
                let (up, mask) = place(word);
                let old = levels.level[k][up as usize];
                levels.level[k][up as usize] = if n % 3 == 0 { old | mask } else { old & !mask };
                word = up;
            }
        }
        levels.finish(extents);
        levels.check(true).map_err(TestCaseError::fail)?;
        prop_assert_eq!(levels.level, wanted.level);
    }

    /// Filling and clearing ranges, counting what changed, with exact summaries after each step.
    #[test]
    fn ranges_are_exact(
        bits in some_bits(),
        steps in prop::collection::vec((any::<bool>(), any::<u64>(), any::<u64>(), any::<u8>()), 1..12),
    ) {
        let mut levels = empty(bits);
        let mut model = vec![false; bits as usize];
        for (state, a, n, kind) in steps {
            let start = a % (bits + 1);
            let len = match kind % 4 { 0 => 1, 1 => n % 130, 2 => n % 9000, _ => n % (bits + 1) };
            let end = (start + len).min(bits);
            let part = &mut model[start as usize..end as usize];
            let wanted = part.iter().filter(|&&b| b != state).count() as u64;
            part.fill(state);
            let range = start..if kind > 250 { start.max(end) + 9 * u64::from(end == bits) } else { end };
            // As on a processor without wide instructions, too.
            let portable = kind % 8 < 4 && start < end && range.end == end;
            let changed = match state {
                true => levels.set(range),
                false if portable => bulk::Reset(&mut levels, range).run(),
                false => levels.reset(range),
            };
            prop_assert_eq!(changed, wanted);
            levels.check(true).map_err(TestCaseError::fail)?;
        }
        let set = (0..bits).filter(|&b| naive_next(&levels, b..b + 1, true).is_some());
        prop_assert!(set.eq((0..bits).filter(|&b| model[b as usize])));
    }

    /// Whole blocks: what each operation answers and leaves, with exact summaries, against a naive one. Ranges, so that
    /// blocks come full, empty, alone and in rows.
    #[test]
    fn blocks_are_exact(
        bits in some_bits(), ours in some_ranges(), theirs in some_ranges(),
        from in any::<u64>(), n in prop_oneof![0..200u64, 0..20_000u64, any::<u64>()],
    ) {
        let filled = |ranges: &[(u64, u64)]| {
            let mut levels = empty(bits);
            for (start, n) in ranges {
                levels.set(start % bits..(start % bits + n).min(bits));
            }
            levels
        };
        let (a, b) = (filled(&ours), filled(&theirs));
        let zip = |f: fn(u64, u64) -> u64| -> Vec<u64> { a.bottom().iter().zip(b.bottom()).map(|(a, b)| f(*a, *b)).collect() };
        let ones = |words: &[u64]| words.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
        let exact = |levels: Levels<Vec<u64>>, wanted: &[u64]| -> Result<(), TestCaseError> {
            levels.check(true).map_err(TestCaseError::fail)?;
            prop_assert_eq!(levels.bottom(), wanted);
            Ok(())
        };

        let range = from % (bits + 1)..(from % (bits + 1)).saturating_add(n).min(bits);
        let set = range.clone().filter(|&bit| naive_next(&a, bit..bit + 1, true).is_some()).count();
        prop_assert_eq!(a.count(&range), set as u64);

        let words = range.start / 64..range.end / 64;
        let chunk = words.start as usize..words.end as usize;
        let mut out = vec![[1; 8]; chunk.len()];
        a.copy(words.clone(), &mut out);
        prop_assert!(out.iter().zip(&a.bottom()[chunk.clone()]).all(|(out, word)| *out == word.to_le_bytes()));

        let mut merged = a.clone();
        prop_assert_eq!(merged.merge(&b), ones(&zip(|a, b| b & !a)));
        exact(merged, &zip(|a, b| a | b))?;
        let mut less = a.clone();
        prop_assert_eq!(less.filter(&b, |a, b| a & !b), ones(&zip(|a, b| a & b)));
        exact(less, &zip(|a, b| a & !b))?;
        let mut both = a.clone();
        prop_assert_eq!(both.filter(&b, |a, b| a & b), ones(&zip(|a, b| a & !b)));
        exact(both, &zip(|a, b| a & b))?;

        let bytes: Vec<_> = b.bottom()[chunk.clone()].iter().map(|word| word.to_le_bytes()).collect();
        let (mut loaded, mut wanted) = (a.clone(), a.bottom().clone());
        wanted[chunk.clone()].copy_from_slice(&b.bottom()[chunk.clone()]);
        let (changed, gone) = (ones(&zip(|a, b| a ^ b)[chunk.clone()]), ones(&zip(|a, b| a & !b)[chunk]));
        prop_assert_eq!(loaded.load(words.start, &bytes), (changed, gone));
        exact(loaded, &wanted)?;

        let (mut none, mut all) = (a.clone(), a.clone());
        none.clear_all();
        exact(none, empty(bits).bottom())?;
        all.fill_all();
        exact(all, filled(&[(0, bits)]).bottom())?;
    }

    /// A walk finds what searching anew finds, also past stale summaries and after it was moved forward.
    #[test]
    fn a_walk_is_a_search(
        bits in some_bits(), set in some_set(), extra in some_extra(), first in any::<u64>(),
        skips in prop::collection::vec(prop::option::of(any::<u64>()), 0..40),
    ) {
        let levels = stale(bits, &set, &extra);
        let words = levels.bottom().len() as u64;
        let mut at = first % (words + 1);
        let mut walk = Walk::from(at);
        for skip in skips.into_iter().chain((0..=words).map(|_| None)) {
            if let Some(n) = skip {
                // Short ways, long ones, and to where it is already.
                let to = if n % 3 == 0 { n % (words + 1) } else { at.saturating_sub(2) + n % 100 };
                walk.skip_to(to);
                at = at.max(to);
            }
            let wanted = levels.next_nonzero_word(at..words);
            prop_assert_eq!(walk.next(|k, i| levels.word(k, i), |block| levels.fetch_block(block)), wanted);
            at = wanted.map_or(words, |(i, _)| i + 1);
            if wanted.is_none() {
                prop_assert_eq!(walk.next(|k, i| levels.word(k, i), |_| {}), None, "it went on");
                break;
            }
        }
    }

    /// One at a time, with others watching: summaries set for every word that gets a bit, and cleared for
    /// every one that loses its last. Starting from stale bits, nothing is ever missing.
    #[test]
    fn shared_words(
        bits in some_bits(), set in some_set(), extra in some_extra(),
        steps in prop::collection::vec((any::<bool>(), any::<u64>(), any::<usize>()), 1..40),
    ) {
        let exact = extra.is_empty();
        let atomics = atomic(&stale(bits, &set, &extra));
        let mut view = shared(&atomics, bits);
        for (up, bit, which) in steps {
            let bit = if set.is_empty() || up { bit } else { set[which % set.len()] } % bits;
            let (word, mask) = place(bit);
            if up {
                view.level[BOTTOM].or(word as usize, mask);
                view.summarise(word);
            } else {
                view.level[BOTTOM].and(word as usize, !mask);
                if view.bottom().load(word as usize) == 0 {
                    view.unsummarise(word);
                }
            }
            view.check(exact).map_err(TestCaseError::fail)?;
        }
    }
}

#[test]
fn summarise_repairs_the_levels_above_a_bit_that_is_set() {
    // Killed after the bottom word and one summary.
    let mut levels = empty(1 << 20);
    levels.level[BOTTOM][1000] = 1;
    levels.level[BOTTOM - 1][1000 / 64] = 1 << (1000 % 64);
    assert!(levels.check(false).is_err());
    levels.summarise(1000);
    levels.check(true).unwrap();
}

#[test]
fn unsummarise_stops_below_a_word_that_has_other_bits() {
    let mut levels = empty(1 << 20);
    levels.set_bit(0);
    levels.set_bit(1 << 19);
    levels.level[BOTTOM][0] = 0;
    levels.unsummarise(0);
    levels.check(true).unwrap();
    levels.level[BOTTOM][1 << 13] = 0;
    levels.unsummarise(1 << 13);
    levels.check(true).unwrap();
    assert_eq!(levels.level[0][0], 0);
}

/// The bit that a setter sets, how many of its steps it has done, and at what moments it does how many.
type Setter = (u64, usize, Vec<(u32, usize)>);

/// All the words of a map, and setters that run between the clearer's accesses.
struct Scene {
    level: [Vec<u64>; LEVELS],
    /// Accesses of the clearer so far.
    now: u32,
    setters: Vec<Setter>,
}

impl Scene {
    /// Lets time pass until just before the clearer's next access.
    fn tick(&mut self) {
        for (bit, done, plan) in &mut self.setters {
            for &(at, steps) in plan.iter() {
                if at == self.now {
                    for _ in 0..steps {
                        step(&mut self.level, *bit, done);
                    }
                }
            }
        }
        self.now += 1;
    }
}

/// A setter's next step: the bottom word, then a summary bit per level, from the bottom up.
fn step(level: &mut [Vec<u64>; LEVELS], bit: u64, done: &mut usize) {
    if *done < LEVELS {
        let (word, mask) = place(bit >> (6 * *done));
        level[BOTTOM - *done].or(word as usize, mask);
        *done += 1;
    }
}

/// One level of the scene.
struct Staged<'a>(&'a RefCell<Scene>, usize);

impl Words for Staged<'_> {
    fn len(&self) -> usize {
        self.0.borrow().level[self.1].len()
    }
    fn load(&self, i: usize) -> u64 {
        self.0.borrow_mut().tick();
        self.0.borrow().level[self.1][i]
    }
}

impl WordsMut for Staged<'_> {
    fn store(&mut self, _: usize, _: u64) {
        panic!("a clearer beside setters must not store");
    }
    fn or(&mut self, i: usize, mask: u64) -> u64 {
        self.0.borrow_mut().tick();
        self.0.borrow_mut().level[self.1].or(i, mask)
    }
    fn and(&mut self, i: usize, mask: u64) -> u64 {
        self.0.borrow_mut().tick();
        self.0.borrow_mut().level[self.1].and(i, mask)
    }
}

/// A clearer and two setters in the same word, in sibling words, in words that meet higher up: every cut of
/// each setter in two, at every two moments for one and in one piece for the other.
#[test]
fn unsummarise_beside_setters() {
    let bits = 64 * 64 + 64;
    const MOMENTS: u32 = 16;
    let mut before = empty(bits);
    before.set_bit(5);
    before.level[BOTTOM][0] = 0;
    for first in [7, 64, 64 * 64] {
        for second in [6, 65, 64 * 64 + 1] {
            for cut in 0..=LEVELS {
                for (a, b) in (0..MOMENTS).flat_map(|a| (a..MOMENTS).map(move |b| (a, b))) {
                    for c in 0..MOMENTS {
                        let setters =
                            vec![(first, 0, vec![(a, cut), (b, LEVELS)]), (second, 0, vec![(c, 1), (c + 1, LEVELS)])];
                        let scene = RefCell::new(Scene { level: before.level.clone(), now: 0, setters });
                        let mut n = 0;
                        let mut view = Levels::new([(); LEVELS].map(|()| (Staged(&scene, n), n += 1).0), bits);
                        view.unsummarise(0);
                        // Whoever is not done by now finishes undisturbed.
                        let mut scene = scene.into_inner();
                        for (bit, mut done, _) in std::mem::take(&mut scene.setters) {
                            while done < LEVELS {
                                step(&mut scene.level, bit, &mut done);
                            }
                        }
                        let after = Levels::new(scene.level, bits);
                        // Through the summaries; looking at a bit's own word would prove nothing.
                        let low = after.next_set(0..bits);
                        let high = low.and_then(|low| after.next_set(low + 1..bits));
                        let found = (low, high) == (Some(first.min(second)), Some(first.max(second)));
                        if !found || after.check(false).is_err() {
                            panic!("first {first} cut {cut} at {a} and {b}, second {second} at {c}: {after:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_bottom_of_no_bits() {
    let mut levels = empty(0);
    assert_eq!(levels.next_set(0..u64::MAX), None);
    assert_eq!(levels.next_clear(0..u64::MAX), None);
    assert_eq!(levels.next_nonzero_word(0..u64::MAX), None);
    assert_eq!((levels.set(0..9), levels.reset(0..9)), (0, 0));
    levels.finish(std::iter::once(0..u64::MAX));
    levels.check(true).unwrap();
}
