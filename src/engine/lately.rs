//! [`Lately`]: which listed words are hot.
//!
//! Invariant kept here: these are hints. A word that is forgotten here leaves the list with the next flush, and costs a sync when
//! it is set again.

use crate::format::WordRanges;
use std::collections::VecDeque;

/// After so many flushes in which it was not touched, a word is hot no more.
const FLUSHES: u32 = 8;

/// Words that this process has armed or found touched.
#[derive(Debug, Default)]
pub(super) struct Lately {
    /// Armed since the last flush: about to be set.
    armed: WordRanges,
    /// The others, the newest first: with how many flushes ago that was.
    older: VecDeque<(u32, WordRanges)>,
}

impl Lately {
    /// Some words were armed.
    pub(super) fn armed(&mut self, words: &WordRanges) {
        self.armed.union(words);
    }

    /// A flush has found some words of a list touched. Listed words that nobody knows were armed by another process. A flush that
    /// makes room makes none older.
    pub(super) fn touched(&mut self, mut words: WordRanges, list: &WordRanges, timed: bool) {
        let mut armed = std::mem::take(&mut self.armed);
        armed.subtract(&words);
        let mut unknown = list.clone();
        unknown.subtract(&armed);
        for (_, older) in &mut self.older {
            unknown.subtract(older);
            older.subtract(&words);
            older.subtract(&armed);
        }
        words.union(&unknown);
        // To make room for some, none are dropped that others have just had armed, and would have armed again one by one.
        let (colder, hotter) = if timed { (armed, words) } else { (words, armed) };
        self.older.push_front((0, colder));
        self.older.push_front((0, hotter));
        if timed {
            self.older.iter_mut().for_each(|(age, _)| *age += 1);
        }
        self.older.retain(|(age, words)| *age <= FLUSHES && !words.is_empty());
    }

    /// The hottest words of a list, at most so many, in at most so many bytes. The others are forgotten.
    pub(super) fn keep_hottest(&mut self, list: &WordRanges, words: u64, bytes: usize) -> WordRanges {
        let hot = self.hottest(list, words, bytes);
        self.armed = common(&self.armed, &hot);
        self.older.iter_mut().for_each(|(_, words)| *words = common(words, &hot));
        hot
    }

    fn hottest(&self, list: &WordRanges, words: u64, bytes: usize) -> WordRanges {
        let mut hot = WordRanges::new();
        for lately in std::iter::once(&self.armed).chain(self.older.iter().map(|(_, words)| words)) {
            let mut some = common(list, lately);
            some.subtract(&hot);
            let all = some.words();
            some = first(&some, words - hot.words());
            let mut more = with(&hot, &some);
            while more.encoded_len() > bytes {
                some = first(&some, some.words() / 2);
                more = with(&hot, &some);
            }
            hot = more;
            if some.words() < all {
                break;
            }
        }
        hot
    }

    /// None are hot any more.
    pub(super) fn forget(&mut self) {
        *self = Lately::default();
    }
}

fn with(words: &WordRanges, more: &WordRanges) -> WordRanges {
    let mut both = words.clone();
    both.union(more);
    both
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
        assert_eq!(lately.hottest(&list, 100, 2), words(&[3, 7]), "what fits");
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

    #[test]
    fn what_was_just_armed_makes_no_room_for_others() {
        let list = words(&[1, 2, 3, 7, 9]);
        for (timed, hottest) in [(false, 9), (true, 1)] {
            let mut lately = Lately::default();
            lately.armed(&words(&[1, 2, 3, 7]));
            lately.touched(words(&[1, 2, 3]), &words(&[]), timed);
            lately.armed(&words(&[9]));
            lately.touched(words(&[1, 2, 3]), &list, timed);
            assert_eq!(lately.hottest(&list, 1, 1000), words(&[hottest]), "{timed}");
        }
    }
}
