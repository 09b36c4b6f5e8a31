//! [`IntentSet`]: what the point holds that a header names as likely to be written next, rounded out to units.
//!
//! Invariant kept here: where anything of the point is lost, the intent is everything. Then it covers all, since nobody knows
//! what it covered, and for the same reason nothing may be armed by it.

use super::point_set::PointSet;
use crate::error::Result;
use crate::file::pages::{Count, PageContent};
use crate::file::points::{covered_items, covering};
use crate::format::{Header, Intent, MAX_UNIT, Uuid, WordRanges};
use crate::geometry::{Geometry, PAGE_WORDS, WORD_BITS};
use crate::map_file::MapFile;
use crate::query::{Search, WordsIter};
use crate::shm::space::CHUNK_WORDS;
use std::ops::Range;

/// What a header covers beside its list.
#[derive(Debug)]
pub(crate) struct IntentSet {
    intent: Intent,
    set: PointSet,
    /// Granules that it covers beyond twice those that the point holds.
    beyond: u64,
}

impl IntentSet {
    /// That of a header; none while it says CLEAN. Cost: as reading the point. Memory: what is dirty in it.
    pub(crate) fn read(file: MapFile<'_>, header: &Header) -> Result<Option<IntentSet>> {
        let Some((intent, point)) = covering(header) else { return Ok(None) };
        let mut read = IntentSet { intent, set: PointSet::of_points(file, header, [point])?, beyond: 0 };
        if read.failed() {
            return Ok(Some(read)); // It is everything, and ends.
        }
        let covered: u64 = read.words().map(|(_, word)| u64::from(word.count_ones())).sum();
        read.beyond = covered.saturating_sub(point.granules.saturating_mul(2));
        Ok(Some(read))
    }

    /// A point that was just written, by the largest unit with which it is at most `limit` granules; none if there is none.
    pub(super) fn choose(point: Uuid, set: PointSet, limit: u64) -> Option<IntentSet> {
        let by_unit: [Intent; MAX_UNIT as usize + 1] = std::array::from_fn(|unit| Intent { point, unit: unit as u32 });
        let mut granules = [0; MAX_UNIT as usize + 1];
        for (w, word) in WordsIter::over(&set, 0..set.geometry().bits()) {
            let mask = set.geometry().word_mask(w);
            let rounded = by_unit.iter().map(|intent| u64::from((intent.round(word) & mask).count_ones()));
            granules.iter_mut().zip(rounded).for_each(|(all, more)| *all += more);
        }
        let (&intent, covered) = by_unit.iter().zip(granules).rev().find(|&(_, granules)| granules <= limit)?;
        let beyond = covered.saturating_sub(2 * granules[0]);
        (granules[0] > 0 && set.failed() == 0).then_some(IntentSet { intent, set, beyond })
    }

    /// How a header names it.
    pub(super) fn named(&self) -> Intent {
        self.intent
    }

    /// The granules of a word that it covers.
    pub(crate) fn word(&self, w: u64) -> u64 {
        self.rounded(w, self.set.word(w))
    }

    /// Whether it covers all of a word.
    pub(crate) fn covers(&self, w: u64) -> bool {
        self.word(w) == self.geometry().word_mask(w)
    }

    /// Words of which it covers something, and what, ascending.
    pub(crate) fn words(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        WordsIter::over(&self.set, 0..self.geometry().bits()).map(|(w, word)| (w, self.rounded(w, word)))
    }

    /// The chunks of words in which it covers something, ascending.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut next = 0;
        self.words().filter_map(move |(w, _)| {
            let chunk = w / CHUNK_WORDS * CHUNK_WORDS;
            let words = chunk..(chunk + CHUNK_WORDS).min(self.geometry().words());
            (chunk >= next).then(|| next = words.end).map(|()| words)
        })
    }

    /// Tells the pages in which it covers something, ascending: none if nobody knows which.
    pub(crate) fn pages(&self, mut tell: impl FnMut(u64, &PageContent) -> Result<()>) -> Result<()> {
        let mut words = self.words().take_while(|_| !self.failed()).peekable();
        while let Some(&(w, _)) = words.peek() {
            let (index, mut page) = (w / PAGE_WORDS, [0; PAGE_WORDS as usize]);
            while let Some((w, word)) = words.next_if(|(w, _)| w / PAGE_WORDS == index) {
                page[(w % PAGE_WORDS) as usize] = word;
            }
            tell(index, &page)?;
        }
        Ok(())
    }

    /// Items that it covers and a list does not name: all others, if nobody knows what it covers.
    pub(crate) fn items_beside(&self, list: &WordRanges) -> u64 {
        let (g, mut count) = (self.geometry(), Count::default());
        if !self.failed() {
            self.words().filter(|(w, _)| !list.contains(*w)).for_each(|(w, word)| count.add_word(g, w, word));
        }
        covered_items(g, list, &count, self.failed())
    }

    /// Words that the list has to spare for it, where it is to cover twice as much as the point holds.
    pub(super) fn beyond_twice(&self) -> u64 {
        self.beyond.div_ceil(WORD_BITS)
    }

    /// Whether it must end, with everything written: nobody knows what it covers.
    pub(super) fn in_doubt(&self) -> bool {
        step!(EndDoubt => self.failed())
    }

    /// Whether something of the point is lost.
    pub(crate) fn failed(&self) -> bool {
        self.lost_pages() > 0
    }

    /// How many of its pages.
    pub(crate) fn lost_pages(&self) -> u64 {
        self.set.failed()
    }

    fn geometry(&self) -> &Geometry {
        self.set.geometry()
    }

    fn rounded(&self, w: u64, word: u64) -> u64 {
        self.intent.round(word) & self.geometry().word_mask(w)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_unit_within_the_limit_is_chosen() {
        let geometry = Geometry::new(1 << 12, 0).unwrap();
        let chosen = |bits: &[u64], limit| {
            let mut set = PointSet::empty(&geometry).unwrap();
            bits.iter().for_each(|&bit| set.add_bits(bit..bit + 1));
            set.finish();
            let set = IntentSet::choose(Uuid([1; 16]), set, limit)?;
            Some((set.named().unit, set.items_beside(&WordRanges::new())))
        };
        assert_eq!(chosen(&[0, 1, 130], 64), Some((5, 64)));
        assert_eq!(chosen(&[0, 1, 130], 6), Some((1, 4)));
        assert_eq!(chosen(&[0, 1, 130], 3), Some((0, 3)));
        assert_eq!(chosen(&[0, 1, 130], 2), None);
        assert_eq!(chosen(&[], 64), None, "nothing predicts nothing");
        let all: Vec<u64> = (0..1 << 12).collect();
        assert_eq!(chosen(&all, u64::MAX), Some((6, 1 << 12)));
    }
}
