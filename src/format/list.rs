//! The armed list as bytes.
//!
//! Invariant kept here: a set of words has one encoding, and nothing else is taken for one.

use super::runs::{Run, WordRanges};
use std::fmt;

/// Most bytes of a number: 42 bits, and twice the words of the largest map need 36.
const MAX_NUMBER: usize = 6;
/// Most bytes that one more run makes a list longer.
pub(crate) const MAX_RUN: usize = 2 * MAX_NUMBER;
const _: () = assert!(2 * (crate::MAX_BITS / 64) < 1 << (7 * MAX_NUMBER));

/// What is wrong with a run of a list.
pub(super) struct BadRun {
    /// Which one.
    pub index: usize,
    /// Where it begins, in bytes from the start of the list.
    pub at: usize,
    pub found: String,
    pub expected: String,
}

impl WordRanges {
    /// How many bytes the set takes as an armed list. O(n).
    pub fn encoded_len(&self) -> usize {
        numbers(self).map(number_len).sum()
    }

    /// Adds words until the set takes at most `max_bytes` bytes as an armed list, or is one run, closing the smallest gaps;
    /// returns how many words that added. O(n log n).
    pub fn fit(&mut self, max_bytes: usize) -> u64 {
        let mut added = 0;
        loop {
            let (runs, bytes) = (self.len(), self.encoded_len());
            if bytes <= max_bytes || runs <= 1 {
                return added;
            }
            // Two words that become one run may take as many bytes as before: so always a good part of them.
            let fewer = (runs * max_bytes / bytes).min(runs - runs.div_ceil(16));
            added += self.coarsen(fewer.max(1));
        }
    }

    /// Adds the bytes of the set to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for mut number in numbers(self) {
            while number >= 0x80 {
                out.push(number as u8 | 0x80);
                number >>= 7;
            }
            out.push(number as u8);
        }
    }

    /// The set of `count` runs that `bytes` begin with, all of them below `words`; and where they end.
    pub(super) fn decode(bytes: &[u8], count: usize, words: u64) -> Result<(WordRanges, usize), BadRun> {
        let mut runs = Vec::with_capacity(count.min(bytes.len()));
        // The first word at which the next run may begin.
        let (mut free, mut at) = (0u64, 0);
        for index in 0..count {
            let start = at;
            let bad = |found: &dyn fmt::Display, expected: &dyn fmt::Display| BadRun {
                index,
                at: start,
                found: found.to_string(),
                expected: expected.to_string(),
            };
            let mut number =
                || read_number(bytes, &mut at).map_err(|found| bad(&found, &"the shortest form of a number"));
            let head = number()?;
            let more = if head & 1 == 1 { number()? + 1 } else { 0 };
            let run = Run { first: free + head / 2, count: 1 + more };
            if run.end() > words {
                let found = format_args!("{} words from {}", run.count, run.first);
                return Err(bad(&found, &format_args!("words below {words}")));
            }
            free = run.end() + 1;
            runs.push(run);
        }
        Ok((WordRanges::of_sorted(runs), at))
    }
}

/// The numbers that stand for the runs of a set: one or two for each.
fn numbers(set: &WordRanges) -> impl Iterator<Item = u64> + '_ {
    let mut free = 0;
    set.iter().flat_map(move |run| {
        let gap = run.first.saturating_sub(free);
        free = run.end().saturating_add(1);
        let head = gap.saturating_mul(2) | u64::from(run.count > 1);
        std::iter::once(head).chain(run.count.checked_sub(2))
    })
}

fn number_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// The number at `at`, which is behind it afterwards; or what is there instead.
fn read_number(bytes: &[u8], at: &mut usize) -> Result<u64, &'static str> {
    let mut number = 0;
    for i in 0..MAX_NUMBER {
        let &byte = bytes.get(*at).ok_or("the end of what is in use")?;
        *at += 1;
        number |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return if byte == 0 && i > 0 { Err("a number with a needless byte") } else { Ok(number) };
        }
    }
    Err("a number of too many bytes")
}

#[cfg(test)]
mod tests {
    use super::super::MAX_LIST;
    use super::*;
    use proptest::prelude::*;

    const WORDS: u64 = crate::MAX_BITS / 64;

    fn encoded(set: &WordRanges) -> Vec<u8> {
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        assert_eq!(bytes.len(), set.encoded_len());
        bytes
    }

    fn decoded(bytes: &[u8], count: usize) -> Result<(WordRanges, usize), String> {
        WordRanges::decode(bytes, count, 1000).map_err(|bad| format!("{} at {}: {}", bad.index, bad.at, bad.found))
    }

    #[test]
    fn runs_are_numbers_as_format_md_shows_them() {
        let set: WordRanges = [3..4, 5..8, 200..201].into_iter().collect();
        assert_eq!(encoded(&set), [0x06, 0x01, 0x01, 0xfe, 0x02]);
        assert_eq!(decoded(&encoded(&set), 3), Ok((set, 5)));
        assert_eq!(encoded(&WordRanges::one(0..1)), [0]);
        assert_eq!(encoded(&WordRanges::one(0..2)), [1, 0]);
        assert_eq!(encoded(&WordRanges::one(WORDS - 1..WORDS)).len(), 6);
        assert_eq!(encoded(&WordRanges::one(0..WORDS)).len(), 6);
    }

    #[test]
    fn every_other_form_of_a_number_is_refused() {
        let bad = |bytes: &[u8], count, what: &str| assert_eq!(decoded(bytes, count), Err(what.into()));
        bad(&[], 1, "0 at 0: the end of what is in use");
        bad(&[6, 0x81], 2, "1 at 1: the end of what is in use");
        bad(&[6, 1], 2, "1 at 1: the end of what is in use");
        bad(&[0x80, 0], 1, "0 at 0: a number with a needless byte");
        bad(&[6, 0x86, 0x80, 0], 2, "1 at 1: a number with a needless byte");
        bad(&[1, 0x83, 0], 1, "0 at 0: a number with a needless byte");
        bad(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1], 1, "0 at 0: a number of too many bytes");
        bad(&[0xd0, 0x0f], 1, "0 at 0: 1 words from 1000");
        bad(&[1, 0xe7, 7], 1, "0 at 0: 1001 words from 0");
        bad(&[6, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1], 2, "1 at 1: 3 words from 2199023255556");
        assert!(decoded(&[1, 0xe6, 7], 1).is_ok());
        assert_eq!(decoded(&[6, 6], 1).unwrap().1, 1, "the caller compares the end");
    }

    #[test]
    fn a_set_that_no_map_has_does_not_overflow() {
        let set: WordRanges = [0..1, u64::MAX - 9..u64::MAX].into_iter().collect();
        assert_eq!(set.encoded_len(), 12);
    }

    #[test]
    fn scattered_words_of_a_large_map_fit() {
        // 1 TiB and 16 TiB at 64 KiB, with words at even distances and then at random ones.
        for (words, count) in [(1u64 << 18, 20_000u64), (1 << 18, 40_000), (1 << 22, 20_000)] {
            let even: WordRanges = (0..count).map(|i| i * (words / count)).collect();
            let mixed: WordRanges =
                (0..count).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16 & (words - 1)).collect();
            for set in [even, mixed] {
                assert!(set.encoded_len() <= MAX_LIST, "{count} of {words}: {}", set.encoded_len());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_made_coarser_without_dropping_a_word() {
        // Neighbours but one: to close a gap saves nothing at first.
        for (step, count) in [(2, 60_000u64), (2, 47_105), (100, 60_000), (5000, 200_000)] {
            let all: WordRanges = (0..count).map(|i| i * step).collect();
            let mut set = all.clone();
            let added = set.fit(MAX_LIST);
            assert!(set.encoded_len() <= MAX_LIST && set.words() == all.words() + added && added > 0);
            let mut left = all;
            left.subtract(&set);
            assert!(left.is_empty());
            assert_eq!(set.fit(MAX_LIST), 0);
        }
        let mut set: WordRanges = [0..5, 1000..1001].into_iter().collect();
        assert_eq!((set.fit(0), set.len()), (995, 1));
    }

    proptest! {
        #[test]
        fn any_set_comes_back_and_no_bytes_do_harm(
            ranges in proptest::collection::vec((0..WORDS, 1..200u64), 0..60),
            edits in proptest::collection::vec((0..400usize, any::<u8>()), 0..3),
            max in 0..100usize,
        ) {
            let set: WordRanges = ranges.iter().map(|&(first, count)| first..(first + count).min(WORDS)).collect();
            let mut bytes = encoded(&set);
            prop_assert_eq!(WordRanges::decode(&bytes, set.len(), WORDS).ok(), Some((set.clone(), bytes.len())));
            let mut smaller = set.clone();
            smaller.fit(max);
            prop_assert!(smaller.encoded_len() <= max.max(MAX_RUN));
            for (at, value) in edits {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            // Whatever decodes has no other bytes.
            if let Ok((other, end)) = WordRanges::decode(&bytes, set.len(), WORDS) {
                prop_assert!(WordRanges::from_sorted(other.as_slice().to_vec()).is_ok());
                prop_assert_eq!(&encoded(&other)[..], &bytes[..end]);
            }
        }
    }
}
