//! Sets of bottom words, as runs: the armed list and everything that is computed with it.
//!
//! Invariant kept here: the runs ascend, are not empty, and neither overlap nor touch, so that a set has one
//! representation only. No operation but [`WordRanges::remove`], [`WordRanges::subtract`] and [`WordRanges::clip`] ever
//! makes a word leave the set.

use std::ops::Range;

/// `count` consecutive words of the bottom level, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The first word.
    pub first: u64,
    /// How many words; at least 1 in a [`WordRanges`].
    pub count: u64,
}

impl Run {
    /// The word behind the last one. Saturates for a run that no [`WordRanges`] holds.
    #[inline]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }

    /// The words as a range.
    #[inline]
    pub fn range(&self) -> Range<u64> {
        self.first..self.end()
    }

    #[inline]
    fn of(range: Range<u64>) -> Run {
        Run { first: range.start, count: range.end.saturating_sub(range.start) }
    }
}

/// A set of bottom words. Costs are in the number of runs, *n*.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WordRanges {
    runs: Vec<Run>,
}

impl WordRanges {
    /// The empty set.
    pub const fn new() -> WordRanges {
        WordRanges { runs: Vec::new() }
    }

    /// The set of the words of `range`.
    pub fn one(range: Range<u64>) -> WordRanges {
        let mut runs = WordRanges::new();
        runs.insert(range);
        runs
    }

    /// Takes over runs that keep the invariant already; otherwise says which one is the first to break it.
    ///
    /// # Errors
    /// The index of the first run that is empty, overflows, or does not start behind the end of the one
    /// before it with at least one word between.
    pub fn from_sorted(runs: Vec<Run>) -> Result<WordRanges, usize> {
        let mut free = 0;
        for (i, run) in runs.iter().enumerate() {
            let end = run.first.checked_add(run.count);
            match end {
                Some(end) if run.count > 0 && run.first >= free => free = end.saturating_add(1),
                _ => return Err(i),
            }
        }
        Ok(WordRanges { runs })
    }

    /// Takes over runs that are known to keep the invariant.
    pub(super) fn of_sorted(runs: Vec<Run>) -> WordRanges {
        debug_assert!(WordRanges::from_sorted(runs.clone()).is_ok());
        WordRanges { runs }
    }

    /// Whether there are no words.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many runs there are (not words).
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// How many words there are.
    pub fn words(&self) -> u64 {
        // Disjoint and below 2^64, so that this cannot overflow.
        self.runs.iter().map(|run| run.count).sum()
    }

    /// The runs, ascending.
    pub fn iter(&self) -> std::iter::Copied<std::slice::Iter<'_, Run>> {
        self.runs.iter().copied()
    }

    /// The runs, ascending.
    pub fn as_slice(&self) -> &[Run] {
        &self.runs
    }

    /// Index of the first run that ends behind `word`.
    #[inline]
    fn from(&self, word: u64) -> usize {
        self.runs.partition_point(|run| run.end() <= word)
    }

    /// Whether `word` is in the set. O(log n).
    pub fn contains(&self, word: u64) -> bool {
        self.runs.get(self.from(word)).is_some_and(|run| run.first <= word)
    }

    /// Whether any word of `range` is in the set. O(log n).
    pub fn intersects(&self, range: Range<u64>) -> bool {
        range.start < range.end && self.runs.get(self.from(range.start)).is_some_and(|run| run.first < range.end)
    }

    /// Whether all words of `range` are in the set. O(log n).
    pub fn covers(&self, range: Range<u64>) -> bool {
        range.start >= range.end
            || self
                .runs
                .get(self.from(range.start))
                .is_some_and(|run| run.first <= range.start && range.end <= run.end())
    }

    /// The runs inside `range`, cut at its ends, ascending. O(log n) to start.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Run> + '_ {
        let from = self.from(range.start);
        self.runs[from..].iter().map_while(move |run| {
            let (start, end) = (run.first.max(range.start), run.end().min(range.end));
            (start < end).then(|| Run::of(start..end))
        })
    }

    /// Adds the words of `range`. O(log n) at the end, O(n) elsewhere.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        // The runs that overlap or touch the new one, which swallows them.
        let from = self.runs.partition_point(|run| run.end() < range.start);
        let to = from + self.runs[from..].partition_point(|run| run.first <= range.end);
        let (mut start, mut end) = (range.start, range.end);
        if let [first, ..] = self.runs[from..to] {
            start = start.min(first.first);
        }
        if let [.., last] = self.runs[from..to] {
            end = end.max(last.end());
        }
        self.runs.splice(from..to, [Run::of(start..end)]);
    }

    /// Adds all words of `other`. O(n).
    pub fn union(&mut self, other: &WordRanges) {
        match other.runs.as_slice() {
            [] => {}
            [one] => self.insert(one.range()),
            many => {
                self.runs.extend_from_slice(many);
                self.normalise();
            }
        }
    }

    /// Removes the words of `range`. O(n).
    pub fn remove(&mut self, range: Range<u64>) {
        if range.start >= range.end {
            return;
        }
        let from = self.from(range.start);
        let to = from + self.runs[from..].partition_point(|run| run.first < range.end);
        let mut left = [None, None];
        if let [first, ..] = self.runs[from..to]
            && first.first < range.start
        {
            left[0] = Some(Run::of(first.first..range.start));
        }
        if let [.., last] = self.runs[from..to]
            && last.end() > range.end
        {
            left[1] = Some(Run::of(range.end..last.end()));
        }
        self.runs.splice(from..to, left.into_iter().flatten());
    }

    /// Removes all words of `other`. O(n) in both together.
    pub fn subtract(&mut self, other: &WordRanges) {
        let mut out = Vec::with_capacity(self.runs.len());
        let mut holes = other.runs.as_slice();
        for run in &self.runs {
            let mut start = run.first;
            while let [hole, rest @ ..] = holes {
                if hole.first >= run.end() {
                    break;
                }
                if hole.first > start {
                    out.push(Run::of(start..hole.first));
                }
                start = start.max(hole.end());
                if hole.end() > run.end() {
                    break; // it may reach into the next run as well
                }
                holes = rest;
            }
            if start < run.end() {
                out.push(Run::of(start..run.end()));
            }
        }
        self.runs = out;
    }

    /// Removes every word at or above `words`. O(log n).
    pub fn clip(&mut self, words: u64) {
        self.remove(words..u64::MAX);
    }

    /// Adds words until at most `max_runs` runs are left (at least one, as no word is dropped), closing
    /// the smallest gaps; returns how many words that added. O(n log n).
    pub fn coarsen(&mut self, max_runs: usize) -> u64 {
        let excess = self.runs.len().saturating_sub(max_runs.max(1));
        if excess == 0 {
            return 0;
        }
        let gap = |i: usize| self.runs[i + 1].first - self.runs[i].end();
        let mut gaps: Vec<(u64, usize)> = (0..self.runs.len() - 1).map(|i| (gap(i), i)).collect();
        gaps.select_nth_unstable(excess - 1);
        let closed = &mut gaps[..excess];
        closed.sort_unstable_by_key(|&(_, i)| i);
        let added = closed.iter().map(|&(gap, _)| gap).sum();
        let mut closed = closed.iter().map(|&(_, i)| i).peekable();
        let mut out: Vec<Run> = Vec::with_capacity(self.runs.len() - excess);
        let mut joined = false;
        for (i, run) in self.runs.iter().enumerate() {
            match out.last_mut() {
                Some(last) if joined => *last = Run::of(last.first..run.end()),
                _ => out.push(*run),
            }
            joined = closed.next_if_eq(&i).is_some();
        }
        self.runs = out;
        added
    }

    /// Sorts, drops empty runs and merges what overlaps or touches.
    fn normalise(&mut self) {
        self.runs.retain(|run| run.count > 0);
        self.runs.sort_unstable_by_key(|run| run.first);
        self.runs.dedup_by(|next, last| {
            let merge = next.first <= last.end();
            if merge {
                *last = Run::of(last.first..last.end().max(next.end()));
            }
            merge
        });
    }
}

/// Any ranges of words, in any order; empty ones are ignored. O(n log n).
impl FromIterator<Range<u64>> for WordRanges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> WordRanges {
        let mut runs = WordRanges { runs: ranges.into_iter().map(Run::of).collect() };
        runs.normalise();
        runs
    }
}

/// Single words, in any order. O(n log n). Memory: 16 bytes for each run of neighbours that come one after the other.
impl FromIterator<u64> for WordRanges {
    fn from_iter<I: IntoIterator<Item = u64>>(words: I) -> WordRanges {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for word in words {
            match ranges.last_mut() {
                Some(last) if last.end == word => last.end += 1,
                _ => ranges.push(word..word.saturating_add(1)),
            }
        }
        ranges.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a WordRanges {
    type Item = Run;
    type IntoIter = std::iter::Copied<std::slice::Iter<'a, Run>>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn runs(ranges: &[Range<u64>]) -> WordRanges {
        ranges.iter().cloned().collect()
    }

    #[track_caller]
    fn sound(runs: &WordRanges) {
        assert_eq!(WordRanges::from_sorted(runs.as_slice().to_vec()).as_ref(), Ok(runs));
    }

    #[test]
    fn what_touches_becomes_one_run() {
        let mut set = runs(&[4..6, 0..2]);
        assert_eq!(set.len(), 2);
        set.insert(2..4);
        assert_eq!(set.as_slice(), [Run { first: 0, count: 6 }]);
        set.insert(7..9);
        assert_eq!((set.len(), set.words()), (2, 8));
    }

    #[test]
    fn empty_and_backward_ranges_are_nothing() {
        let mut set = runs(&[3..3, Range { start: 9, end: 2 }]);
        set.insert(5..5);
        assert!(set.is_empty());
        set.insert(0..10);
        set.remove(4..4);
        assert_eq!(set.len(), 1);
        assert!(!set.intersects(4..4) && set.covers(4..4) && set.covers(100..100));
    }

    #[test]
    fn nothing_overflows_at_the_end_of_numbers() {
        let mut set = WordRanges::one(0..u64::MAX);
        assert_eq!(set.words(), u64::MAX);
        set.insert(u64::MAX - 1..u64::MAX);
        assert_eq!(set.len(), 1);
        set.remove(1..u64::MAX - 1);
        assert_eq!(set.words(), 2);
        assert!(set.contains(u64::MAX - 1) && !set.contains(u64::MAX));
        assert_eq!(set.coarsen(1), u64::MAX - 2);
        set.clip(0);
        assert!(set.is_empty());
        assert!([u64::MAX].into_iter().collect::<WordRanges>().is_empty(), "there is no such word");
        assert_eq!(WordRanges::from_sorted(vec![Run { first: u64::MAX, count: 1 }]), Err(0));
        assert_eq!(
            WordRanges::from_sorted(vec![Run { first: 0, count: u64::MAX }, Run { first: u64::MAX, count: 1 }]),
            Err(1)
        );
    }

    #[test]
    fn coarsening_closes_the_smallest_gaps_and_never_drops_a_word() {
        let mut set = runs(&[0..1, 10..11, 13..14, 100..101, 102..103]);
        assert_eq!(set.clone().coarsen(5), 0);
        assert_eq!(set.coarsen(3), 1 + 2);
        assert_eq!(set, runs(&[0..1, 10..14, 100..103]));
        assert_eq!(set.coarsen(0), 9 + 86, "one run is the fewest that there can be");
        assert_eq!(set, WordRanges::one(0..103));
    }

    #[test]
    fn large_sets_are_made_at_once() {
        let mut set: WordRanges = (0..50_000u64).rev().map(|i| i * 3..i * 3 + 1).collect();
        assert_eq!((set.len(), set.words()), (50_000, 50_000));
        let odd: WordRanges = (0..50_000u64).map(|i| i * 3 + 1).collect();
        set.union(&odd);
        assert_eq!((set.len(), set.words()), (50_000, 100_000));
        set.subtract(&odd);
        assert_eq!(set.coarsen(768), (50_000 - 768) * 2);
        sound(&set);
    }

    const SPACE: u64 = 90;

    fn sets() -> impl Strategy<Value = (WordRanges, BTreeSet<u64>)> {
        proptest::collection::vec((0..SPACE, 0..7u64), 0..25).prop_map(|list| {
            let ranges = list.into_iter().map(|(start, count)| start..(start + count).min(SPACE));
            (ranges.clone().collect(), ranges.flatten().collect())
        })
    }

    #[track_caller]
    fn same(runs: &WordRanges, model: &BTreeSet<u64>) {
        sound(runs);
        assert_eq!(runs.iter().flat_map(|run| run.range()).collect::<BTreeSet<_>>(), *model);
        assert_eq!(runs.words(), model.len() as u64);
        for word in 0..SPACE + 1 {
            assert_eq!(runs.contains(word), model.contains(&word));
        }
    }

    proptest! {
        #[test]
        fn every_operation_does_what_a_plain_set_does(
            (a, plain_a) in sets(), (b, plain_b) in sets(), start in 0..SPACE, count in 0..40u64, max in 0..12usize,
        ) {
            same(&a, &plain_a);
            let range = start..start + count;
            let inside: BTreeSet<u64> = range.clone().collect();
            let mut set = a.clone();
            set.insert(range.clone());
            same(&set, &plain_a.union(&inside).copied().collect());
            let mut set = a.clone();
            set.remove(range.clone());
            same(&set, &plain_a.difference(&inside).copied().collect());
            let mut set = a.clone();
            set.union(&b);
            same(&set, &plain_a.union(&plain_b).copied().collect());
            let mut set = a.clone();
            set.subtract(&b);
            same(&set, &plain_a.difference(&plain_b).copied().collect());
            let mut set = a.clone();
            set.clip(start);
            same(&set, &plain_a.iter().copied().filter(|word| *word < start).collect());
            same(&a.within(range.clone()).map(|run| run.range()).collect(), &plain_a.intersection(&inside).copied().collect());
            prop_assert_eq!(a.intersects(range.clone()), plain_a.intersection(&inside).next().is_some());
            prop_assert_eq!(a.covers(range.clone()), inside.is_subset(&plain_a));
            let mut set = a.clone();
            let added = set.coarsen(max);
            sound(&set);
            prop_assert!(set.len() <= max.max(1));
            prop_assert_eq!(set.words(), a.words() + added);
            prop_assert!(added == 0 || a.len() > max);
            let mut left = a.clone();
            left.subtract(&set);
            prop_assert!(left.is_empty(), "coarsening dropped words");
        }
    }
}
