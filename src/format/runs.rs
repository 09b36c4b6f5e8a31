//! Sets of bottom words, as runs: the armed list and everything that is computed with it.
//!
//! Invariant kept here: the runs ascend, are not empty, and neither overlap nor touch, so that a set has one
//! representation only. No operation but [`Runs::remove`], [`Runs::subtract`] and [`Runs::clip`] ever
//! makes a word leave the set.

use std::ops::Range;

/// `count` consecutive words of the bottom level, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// The first word.
    pub first: u64,
    /// How many words; at least 1 in a [`Runs`].
    pub count: u64,
}

impl Run {
    /// The word behind the last one. Saturates for a run that no [`Runs`] holds.
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
pub struct Runs {
    runs: Vec<Run>,
}

impl Runs {
    /// The empty set.
    pub const fn new() -> Runs {
        Runs { runs: Vec::new() }
    }

    /// The set of the words of `range`.
    pub fn one(range: Range<u64>) -> Runs {
        let mut runs = Runs::new();
        runs.insert(range);
        runs
    }

    /// Takes over runs that keep the invariant already; otherwise says which one is the first to break it.
    ///
    /// # Errors
    /// The index of the first run that is empty, overflows, or does not start behind the end of the one
    /// before it with at least one word between.
    pub fn from_sorted(runs: Vec<Run>) -> Result<Runs, usize> {
        let mut free = 0;
        for (i, run) in runs.iter().enumerate() {
            let end = run.first.checked_add(run.count);
            match end {
                Some(end) if run.count > 0 && run.first >= free => free = end.saturating_add(1),
                _ => return Err(i),
            }
        }
        Ok(Runs { runs })
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
    pub fn union(&mut self, other: &Runs) {
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
    pub fn subtract(&mut self, other: &Runs) {
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
impl FromIterator<Range<u64>> for Runs {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Runs {
        let mut runs = Runs { runs: ranges.into_iter().map(Run::of).collect() };
        runs.normalise();
        runs
    }
}

/// Single words, in any order. O(n log n).
impl FromIterator<u64> for Runs {
    fn from_iter<I: IntoIterator<Item = u64>>(words: I) -> Runs {
        words.into_iter().map(|word| word..word.saturating_add(1)).collect()
    }
}

impl<'a> IntoIterator for &'a Runs {
    type Item = Run;
    type IntoIter = std::iter::Copied<std::slice::Iter<'a, Run>>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
