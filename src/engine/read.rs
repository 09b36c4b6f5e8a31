//! Reading "here or in the outstanding point".
//!
//! Invariant kept here: while the checkpoint state stands still, every bit that is dirty is here or in the outstanding
//! point, and the point does not change. So an answer counts if the runtime page's `checkpoint` word, which goes up
//! with every change of that state, is the same after the search as before it.

use super::commit::is_normal;
use super::core::Core;
use super::point_set::{Dirt, PointSet, TRIES, UnionView};
use crate::geometry::Geometry;
use crate::hierarchy::Block;
use crate::query::{ReadMap, Search};
use crate::sync::spin_loop;
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, PoisonError};

/// Here only: without the outstanding point.
pub(crate) struct Current<'a> {
    pub dirt: Dirt<'a>,
    pub core: Option<&'a Core>,
}

impl Current<'_> {
    fn search<R>(&self, f: impl Fn() -> R) -> R {
        self.core.map_or_else(&f, |core| core.seq_read(&f))
    }
}

impl Search for Current<'_> {
    #[inline]
    fn is_stable(&self) -> bool {
        false
    }

    fn geometry(&self) -> &Geometry {
        self.dirt.geometry
    }

    fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        self.search(|| self.dirt.next_set(bits.clone()))
    }

    fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        self.search(|| self.dirt.next_clear(bits.clone()))
    }

    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        self.search(|| self.dirt.next_nonzero_word(words.clone()))
    }

    fn next_block(&self, words: Range<u64>, to: &Block) -> Option<(u64, u64)> {
        self.search(|| self.dirt.next_block(words.clone(), to))
    }

    fn full_words(&self, words: Range<u64>) -> Option<Range<u64>> {
        self.dirt.full_words(words)
    }

    fn word(&self, i: u64) -> u64 {
        self.dirt.word(i)
    }
}

impl Core {
    /// Only what is dirty here, without the outstanding point.
    pub(crate) fn current(&self) -> Current<'_> {
        Current { dirt: Dirt::of(&self.view), core: Some(self) }
    }

    /// Runs a search of here and the outstanding point together.
    #[inline]
    pub(crate) fn read_union<R>(&self, f: impl Fn(&UnionView<'_>) -> R) -> R {
        let word = self.checkpoint_word();
        if is_normal(word) {
            let found = self.seq_read(|| f(&UnionView { current: Dirt::of(&self.view), point: None }));
            if !step!(LookUntilStable => self.checkpoint_word() != word) {
                return found;
            }
        }
        self.together_with_point(f)
    }

    #[cold]
    fn together_with_point<R>(&self, f: impl Fn(&UnionView<'_>) -> R) -> R {
        for _ in 0..TRIES {
            let word = self.checkpoint_word();
            let point = if is_normal(word) { None } else { self.frozen(word) };
            if point.is_some() || is_normal(word) {
                let found = self.seq_read(|| {
                    f(&UnionView { current: Dirt::of(&self.view), point: point.as_deref().map(PointSet::dirt) })
                });
                if self.checkpoint_word() == word {
                    return found;
                }
            }
            spin_loop();
        }
        // Nobody changes the state while the lock is held; and if it cannot be had, nothing is known.
        let lock = self.lock();
        let known = lock.as_ref().is_ok_and(|lock| lock.refresh_header().is_ok());
        let word = self.checkpoint_word();
        let point = match known && is_normal(word) {
            true => None,
            false => Some(
                self.frozen(word).filter(|_| known).unwrap_or_else(|| Arc::new(PointSet::everything(self.geometry()))),
            ),
        };
        self.seq_read(|| f(&UnionView { current: Dirt::of(&self.view), point: point.as_deref().map(PointSet::dirt) }))
    }

    /// The outstanding point, for a `checkpoint` word that was just read: see [`Cache::get`].
    pub(crate) fn frozen(&self, word: u64) -> Option<Arc<PointSet>> {
        self.frozen.get(self.file(), self.geometry(), &self.nonce, word)
    }

    /// Takes a point that was read when the map was opened.
    pub(crate) fn know_frozen(&self, point: Option<Arc<PointSet>>) {
        self.frozen.know(self.checkpoint_word(), point);
    }

    /// Runs a search until no summary was being cleared meanwhile. Lock-free but for a reader that is
    /// unlucky many times: it then waits for the clearer's lock.
    pub(crate) fn seq_read<R>(&self, search: impl Fn() -> R) -> R {
        twin!(CheckClearing => return search());
        for _ in 0..64 {
            let before = self.seqlock.load(SeqCst);
            if before.is_multiple_of(2) {
                let found = search();
                if self.seqlock.load(SeqCst) == before {
                    return found;
                }
            }
            spin_loop();
        }
        let _still = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        search()
    }
}

impl ReadMap for Current<'_> {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::format::{VolatileLayout, WordRanges};
    use crate::query::ReadMap;
    use crate::query::first_block;
    use crate::shm::view::ShmView;
    use crate::sim::content::Rng;
    use crate::sys::Mapping;
    use std::cell::Cell;

    fn view(geometry: &Geometry) -> ShmView {
        let v = VolatileLayout::new(geometry);
        ShmView::new(*geometry, &v, Mapping::anonymous(v.length).unwrap()).unwrap()
    }

    #[test]
    fn what_is_assumed_is_found_as_if_it_were_filled() {
        let mut rng = Rng(7);
        for (round, bits) in [0u64, 1, 63, 64, 65, 700, 5000, 70_000].into_iter().cycle().take(160).enumerate() {
            let geometry = Geometry::new(bits, 0).unwrap();
            let (known, filled) = (view(&geometry), view(&geometry));
            let mut words = || {
                let first = rng.below(geometry.words());
                first..(first + 1 + rng.below(70)).min(geometry.words())
            };
            let assumed = WordRanges::from_iter((0..round as u64 % 5).map(|_| words()));
            let mut whole = WordRanges::from_iter((0..round as u64 % 3).map(|_| words()));
            whole.union(&assumed);
            for w in (0..round % 4).flat_map(|_| words()) {
                let word = geometry.word_mask(w) & 0x8000_f00f_0000_0101u64.rotate_left(w as u32);
                known.live()[w as usize].store(word, SeqCst);
                // Less is durable: that is known for certain.
                known.durable()[w as usize].store(word & 0xff00_ff00_ff00_ff00, SeqCst);
                filled.live()[w as usize].store(word, SeqCst);
            }
            for w in whole.iter().flat_map(|run| run.range()) {
                filled.live()[w as usize].store(geometry.word_mask(w), SeqCst);
            }
            [&known, &filled].into_iter().for_each(|view| view.levels().finish(std::iter::once(0..geometry.words())));
            let point = PointSet::empty(&geometry).unwrap();
            let current = Current { dirt: Dirt::new(&known, &whole, &assumed), core: None };
            let both = UnionView { current: current.dirt, point: Some(point.dirt()) };
            let parts = [view(&geometry), view(&geometry)];
            for (w, word) in filled.live().iter().map(|word| word.load(SeqCst)).enumerate() {
                let half = 0x5555_5555_5555_5555 | if w % 3 == 0 { u64::MAX } else { 0 };
                parts[0].live()[w].store(word & half, SeqCst);
                parts[1].live()[w].store(word & !half, SeqCst);
            }
            parts.iter().for_each(|view| view.levels().finish(std::iter::once(0..geometry.words())));
            let halves = UnionView { current: Dirt::of(&parts[0]), point: Some(Dirt::of(&parts[1])) };
            let expected = Current { dirt: Dirt::of(&filled), core: None };
            for _ in 0..50 {
                let start = rng.below(bits + 1);
                let range = start..start + rng.below(bits - start + 1);
                let words = range.start / 64..range.end.div_ceil(64);
                let next = expected.next_set(range.clone());
                assert_eq!([current.next_set(range.clone()), both.next_set(range.clone())], [next; 2], "{range:?}");
                let next = expected.next_clear(range.clone());
                assert_eq!([current.next_clear(range.clone()), both.next_clear(range.clone())], [next; 2], "{range:?}");
                let next = expected.next_nonzero_word(words.clone());
                assert_eq!(
                    [current.next_nonzero_word(words.clone()), both.next_nonzero_word(words.clone())],
                    [next; 2]
                );
                assert_eq!(current.tally(range.clone()), expected.tally(range.clone()), "{range:?} of {whole:?}");
                type Found = Option<(u64, u64)>;
                let block = |find: &dyn Fn(Range<u64>, &Block) -> Found| {
                    let to = [const { Cell::new(0) }; 64];
                    let (block, found) = find(words.clone(), &to)?;
                    let word = |(i, word): (usize, &Cell<u64>)| if found >> i & 1 != 0 { word.get() } else { 0 };
                    Some((block, to.iter().enumerate().map(word).collect::<Vec<_>>()))
                        .filter(|(_, words)| words.iter().any(|w| *w != 0))
                };
                let next = block(&|words, to| first_block(words, to, |words| expected.next_nonzero_word(words)));
                assert_eq!(block(&|words, to| current.next_block(words, to)), next);
                for map in [&both, &halves] {
                    assert_eq!(block(&|words, to| map.next_block(words, to)), next, "{words:?}");
                }
                let w = rng.below(geometry.words());
                assert_eq!([current.word(w), both.word(w)], [expected.word(w); 2]);
                let certain = if assumed.contains(w) { known.durable() } else { filled.live() };
                assert_eq!(both.certain_word(w), certain[w as usize].load(SeqCst));
            }
            let mut all = PointSet::empty(&geometry).unwrap();
            all.add(&current);
            all.finish();
            assert_eq!(ReadMap::sha256(&all), ReadMap::sha256(&expected));
        }
    }

    /// In a map that is shared, summaries stay where something was reset: all of it was looked at once more for each bit.
    #[test]
    fn what_was_frozen_in_a_shared_map_is_walked_over_once() {
        let geometry = Geometry::new(1 << 22, 0).unwrap();
        let (words, block) = (geometry.words(), 64 * 64);
        let emptied = view(&geometry);
        let fill = |word| emptied.live().iter().for_each(|live| live.store(word, SeqCst));
        fill(1);
        emptied.levels().finish(std::iter::once(0..words));
        fill(0);
        let mut point = PointSet::empty(&geometry).unwrap();
        (0..geometry.bits()).step_by(block).for_each(|bit| point.add_bits(bit..bit + 1));
        point.finish();
        let both = UnionView { current: Dirt::of(&emptied), point: Some(point.dirt()) };
        let walk = |what: &str, next: &dyn Fn(u64) -> Option<u64>| {
            let (looks, found) = crate::hierarchy::counted(|| {
                let next = |&bit: &u64| next(bit + 1);
                std::iter::successors(next(&0), next).count() as u64
            });
            assert_eq!(found, geometry.bits() / block as u64 - 1, "{what}");
            // From each word here up and down again, from each block above as well, and from bit to bit in the point.
            let most = 2 * (words + words / 64) + found * 4 * crate::geometry::LEVELS as u64;
            assert!(looks <= most, "{what}: {looks} words, {most} at most");
        };
        walk("bits", &|bit| both.next_set(bit..geometry.bits()));
        walk("words", &|bit| both.next_nonzero_word(bit.div_ceil(64)..words).map(|(w, _)| w * 64));
    }

    #[test]
    fn what_is_assumed_is_counted_without_a_look_at_it() {
        let geometry = Geometry::new(1 << 41, 0).unwrap();
        assert_eq!(PointSet::everything(&geometry).tally(5..1 << 41), ((1 << 41) - 5, true));
        assert_eq!(PointSet::everything(&geometry).tally(5..6), (1, true));
    }
}
