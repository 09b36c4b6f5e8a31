//! [`Lately`]: which listed words are hot.
//!
//! Invariant kept here: these are hints. A word that is forgotten here leaves the list with the next flush, and costs a sync when
//! it is set again.

use crate::format::WordRanges;
use std::collections::VecDeque;

/// After so many flushes in which it was not touched, a word is hot no more.
const FLUSHES: u32 = 8;

/// Words that this process has armed or found touched, the newest first: with how many flushes ago that was.
#[derive(Debug, Default)]
pub(super) struct Lately(VecDeque<(u32, WordRanges)>);

impl Lately {
    /// Some words were armed.
    pub(super) fn armed(&mut self, words: &WordRanges) {
        match self.0.front_mut() {
            Some((0, newest)) => newest.union(words),
            _ => self.0.push_front((0, words.clone())),
        }
    }

    /// A flush has found some words of a list touched. Listed words that nobody knows were armed by another process. A flush that
    /// makes room makes none older.
    pub(super) fn touched(&mut self, mut words: WordRanges, list: &WordRanges, timed: bool) {
        let mut unknown = list.clone();
        for (_, older) in &mut self.0 {
            unknown.subtract(older);
            older.subtract(&words);
        }
        words.union(&unknown);
        self.0.push_front((0, words));
        if timed {
            self.0.iter_mut().for_each(|(age, _)| *age += 1);
        }
        self.0.retain(|(age, words)| *age <= FLUSHES && !words.is_empty());
    }

    /// The hottest words of a list, at most so many, in at most so many bytes. The others are forgotten.
    pub(super) fn keep_hottest(&mut self, list: &WordRanges, words: u64, bytes: usize) -> WordRanges {
        let hot = self.hottest(list, words, bytes);
        self.0.iter_mut().for_each(|(_, words)| *words = common(words, &hot));
        hot
    }

    fn hottest(&self, list: &WordRanges, words: u64, bytes: usize) -> WordRanges {
        let mut hot = WordRanges::new();
        for (_, lately) in &self.0 {
            let left = words - hot.words();
            let mut some = common(list, lately);
            some.subtract(&hot);
            let fits = some.words() <= left;
            if !fits {
                some = first(&some, left);
            }
            hot.union(&some);
            if !fits {
                break;
            }
        }
        while hot.encoded_len() > bytes {
            hot = first(&hot, hot.words() / 2);
        }
        hot
    }

    /// None are hot any more.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

fn common(list: &WordRanges, words: &WordRanges) -> WordRanges {
    words.iter().flat_map(|run| list.within(run.range())).map(|run| run.range()).collect()
}

fn first(words: &WordRanges, mut most: u64) -> WordRanges {
    let taken = words.iter().map(|run| {
        let count = run.count.min(most);
        most -= count;
        run.first..run.first + count
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u64]) -> WordRanges {
        words.iter().copied().collect()
    }

    #[test]
    fn the_coldest_go_first() {
        let mut lately = Lately::default();
        lately.armed(&words(&[1, 2, 3]));
        let none = words(&[]);
        lately.touched(words(&[3]), &none, true);
        lately.armed(&words(&[7]));
        let list = words(&[1, 2, 3, 7, 9]);
        let hottest = |lately: &Lately, most| lately.hottest(&list, most, 1000);
        assert_eq!(hottest(&lately, 100), words(&[1, 2, 3, 7]), "nobody knows of 9");
        assert_eq!(hottest(&lately, 3), words(&[1, 3, 7]));
        assert_eq!(hottest(&lately, 2), words(&[3, 7]));
        assert_eq!(hottest(&lately, 0), words(&[]));
        assert_eq!(lately.hottest(&list, 100, 2).encoded_len(), 2, "what fits");
        for _ in 0..FLUSHES - 1 {
            lately.touched(words(&[7]), &none, true);
        }
        assert_eq!(hottest(&lately, 100), words(&[1, 2, 3, 7]));
        lately.touched(words(&[]), &none, false);
        assert_eq!(hottest(&lately, 100), words(&[1, 2, 3, 7]), "what makes room makes nobody older");
        lately.touched(words(&[2]), &list, true);
        assert_eq!(hottest(&lately, 100), words(&[2, 7, 9]), "another process has armed 9");
        assert_eq!(lately.keep_hottest(&list, 2, 1000), words(&[2, 9]));
        assert_eq!(hottest(&lately, 100), words(&[2, 9]));
    }
}
