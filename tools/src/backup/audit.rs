//! The audit: some clean granules, chosen at random, are compared in image and backup each time.
//!
//! Invariant kept here: what is chosen lies in granules that the work list calls clean, no granule is chosen twice, and every
//! clean granule can be chosen; when the budget is enough for all, all are.

use super::compare::{Equal, Pair};
use crate::exit::Result;
use crate::files::PIECE;
use crate::rng::Rng;
use crate::terminal::pass::Pass;
use dirtymap::ReadMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::time::{Duration, Instant};

/// How much is compared unless the user says.
const BUDGET: u64 = 64 << 20;
/// How long that may take.
const TIME: Duration = Duration::from_secs(1);

/// What an audit found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audited {
    /// Granules that were compared.
    pub granules: u64,
    /// Where the first one differed.
    pub missed: Option<u64>,
}

/// Compares clean granules: `budget` bytes of them, or by default as many as a moment allows.
pub fn audit(pair: &Pair<'_>, work: &dyn ReadMap, budget: Option<u64>, pass: &Pass) -> Result<Audited> {
    let until = budget.is_none().then(|| Instant::now() + TIME);
    let mut audited = Audited::default();
    let mut rng = Rng::new(RandomState::new().build_hasher().finish());
    for piece in Pieces::new(work, budget.unwrap_or(BUDGET), &mut rng) {
        pass.check()?;
        if until.is_some_and(|until| Instant::now() >= until) {
            break;
        }
        // A writer that has set it since may be writing it.
        if pair.written(piece.start)?.is_some() {
            continue;
        }
        audited.granules += 1;
        if let Some(offset) = pair.differs(piece, pass, &mut Equal::default())? {
            audited.missed = Some(offset);
            break;
        }
    }
    Ok(audited)
}

/// Pieces of clean granules, one of each equal share of the map.
struct Pieces<'a> {
    work: &'a dyn ReadMap,
    rng: &'a mut Rng,
    shares: u64,
    next: u64,
}

impl Pieces<'_> {
    fn new<'a>(work: &'a dyn ReadMap, budget: u64, rng: &'a mut Rng) -> Pieces<'a> {
        let piece = work.geometry().granule().min(PIECE);
        Pieces { work, rng, shares: (budget / piece).min(work.geometry().bits()), next: 0 }
    }

    /// A clean granule of a share, if there is one.
    fn pick(&mut self, share: Range<u64>) -> Option<u64> {
        let geometry = *self.work.geometry();
        let from = share.start + self.rng.below(share.end - share.start);
        // Both ranges lie in the map, so neither question fails.
        let clean = |bits: Range<u64>| self.work.next_clean(geometry.items_of(&bits)).ok().flatten();
        let found = clean(from..share.end).or_else(|| clean(share.start..from));
        found.map(|item| item / geometry.granule())
    }
}

impl Iterator for Pieces<'_> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        let geometry = *self.work.geometry();
        while self.next < self.shares {
            let bound = |share: u64| (u128::from(geometry.bits()) * u128::from(share) / u128::from(self.shares)) as u64;
            let share = bound(self.next)..bound(self.next + 1);
            self.next += 1;
            if let Some(bit) = self.pick(share) {
                let items = geometry.items_of(&(bit..bit + 1));
                // Of a large granule, a part.
                let start = items.start + self.rng.below((items.end - items.start).div_ceil(PIECE)) * PIECE;
                return Some(start..items.end.min(start.saturating_add(PIECE)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirtymap::Bitmap;
    use std::collections::BTreeSet;

    fn chosen(work: &Bitmap, budget: u64, seed: u64) -> Vec<Range<u64>> {
        Pieces::new(work, budget, &mut Rng::new(seed)).collect()
    }

    fn work(dirty: &[Range<u64>]) -> Bitmap {
        let mut work = Bitmap::new((100 << 16) - 5, 16).unwrap();
        for bits in dirty {
            work.set(bits.start << 16..bits.end << 16).unwrap();
        }
        work
    }

    #[test]
    fn a_budget_for_all_takes_each_clean_granule_once() {
        let work = work(&[3..7, 40..41]);
        let all: Vec<u64> = chosen(&work, u64::MAX, 1).iter().map(|piece| piece.start >> 16).collect();
        assert_eq!(all, (0..100).filter(|i| !(3..7).contains(i) && *i != 40).collect::<Vec<_>>());
        assert_eq!(chosen(&work, u64::MAX, 1).last().unwrap().end, work.len());
    }

    #[test]
    fn a_small_budget_takes_some_and_in_time_all_and_never_a_dirty_one() {
        let work = work(&[0..10, 55..60]);
        let mut seen = BTreeSet::new();
        for seed in 0..400 {
            let some = chosen(&work, 8 << 16, seed);
            assert!(some.len() <= 8);
            for piece in some {
                assert!(!work.any(piece.clone()).unwrap(), "{piece:?} is dirty");
                seen.insert(piece.start >> 16);
            }
        }
        assert_eq!(seen.len(), 85);
    }

    #[test]
    fn of_a_granule_larger_than_a_piece_a_part_is_taken() {
        let work = Bitmap::new(10 << 20, 22).unwrap();
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            for piece in chosen(&work, 1 << 20, seed) {
                assert!(piece.end - piece.start <= PIECE && piece.end <= work.len());
                seen.insert(piece.start);
            }
        }
        assert_eq!(seen.len(), 10);
        assert_eq!(chosen(&work, 0, 1), []);
        assert_eq!(chosen(&Bitmap::new(0, 16).unwrap(), 1 << 20, 1), []);
    }
}
