//! How many words an operation looks at in a large sparse map: counted, never timed.
//!
//! Each figure follows from where the bits are; one that is larger means that something is looked at that tells nothing.

use super::levels::Levels;
use super::walk::Walk;
use super::words::counted;
use crate::geometry::{BOTTOM, LEVELS};
use std::ops::ControlFlow::Continue;

const BITS: u64 = 1 << 32;
const SET: u64 = 1000;

/// Bits far apart, and levels that have them.
fn sparse(step: u64) -> (Vec<u64>, Levels<Vec<u64>>) {
    let bits: Vec<u64> = (0..SET).map(|i| i.wrapping_mul(step) % BITS).collect();
    let sizes = crate::Geometry::new(BITS, 0).unwrap().level_words();
    let mut levels = Levels::new(sizes.map(|n| crate::sys::alloc::zeroed_words(n as usize).unwrap()), BITS);
    for &bit in &bits {
        levels.set_bit(bit);
    }
    (bits, levels)
}

/// How many words of level `k` are not zero.
fn nonzero(bits: &[u64], k: usize) -> u64 {
    let mut words: Vec<u64> = bits.iter().map(|bit| bit >> (6 * (BOTTOM - k + 1))).collect();
    words.sort_unstable();
    words.dedup();
    words.len() as u64
}

/// Blocks that are not all zeros.
fn blocks(bits: &[u64]) -> u64 {
    nonzero(bits, BOTTOM - 1)
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[test]
fn walking_looks_at_each_word_that_is_not_zero_once() {
    let (bits, levels) = sparse(STEP);
    let (looks, found) = counted(|| {
        let mut walk = Walk::from(0);
        std::iter::from_fn(|| walk.next(|k, i| levels.word(k, i), |_| {})).count() as u64
    });
    let each_once = (0..LEVELS).map(|k| nonzero(&bits, k)).sum::<u64>();
    assert_eq!((looks, found), (each_once, SET));
    // The same, of all that is left at once.
    let (looks, found) = counted(|| levels.fold_words(Walk::from(0), &(0..BITS), 0, |n, _, _| Continue(n + 1)));
    assert_eq!((looks, found), (each_once, Continue(SET)));
    // What is behind the range is not looked at, be it under the same word two levels above: ten blocks, and the way to the second.
    let (_, full) = sparse(64);
    let (looks, found) = counted(|| full.fold_words(Walk::from(0), &(0..64 * 64 * 10), 0, |n, _, _| Continue(n + 1)));
    assert_eq!((looks, found), (64 * 10 + 10 + 1, Continue(64 * 10)));
    let (looks, found) = counted(|| levels.fold_words(Walk::from(0), &(0..64), 0, |n, _, _| Continue(n + 1)));
    assert_eq!((looks, found), (2, Continue(1)));
    // Of a full block, only the words of the range: where it begins and ends inside of it, or goes on in the next one.
    for words in [5..6, 5..8, 63..65, 60..129] {
        let bits = words.start * 64 + 1..words.end * 64 - 1;
        let fold = || full.fold_words(Walk::from(words.start), &bits, 0, |n, _, _| Continue(n + 1));
        let (looks, found) = counted(fold);
        let inside = words.end - words.start;
        assert!(
            looks <= inside + LEVELS as u64 && found == Continue(inside),
            "{words:?}: {looks} words, {found:?} of them told"
        );
    }
}

#[test]
fn searching_from_bit_to_bit_looks_at_two_words_a_level_and_no_more() {
    let (bits, levels) = sparse(STEP);
    let (looks, found) = counted(|| {
        let mut at = 0;
        let next = || {
            let bit = levels.next_set(at..BITS)?;
            at = bit + 1;
            Some(bit)
        };
        std::iter::from_fn(next).count() as u64
    });
    assert_eq!(found, SET);
    // Up from the bottom to the level where the next one is known, and down again; the last one up to the top.
    let levels_between = (0..BOTTOM).map(|k| nonzero(&bits, k + 1) - nonzero(&bits, k)).zip((0..BOTTOM).rev());
    let up_and_down: u64 = levels_between.map(|(parted, up)| parted * (2 * (up as u64 + 1) + 1)).sum();
    // A bit that is the last one of its word has the search begin one word further, and one level higher.
    let most = up_and_down + 2 * LEVELS as u64;
    assert!(looks <= most && looks >= most - most / 100, "{looks} words, {most} expected");
}

#[test]
fn counting_copying_and_combining_look_at_the_blocks_that_are_not_zero() {
    let ((bits, mut levels), (others, other)) = (sparse(STEP), sparse(STEP ^ 0xffff_0000));
    let words = BITS / 64;
    // Finding the blocks: up and down again, for each.
    let found = |bits: &[u64]| 2 * LEVELS as u64 * (blocks(bits) + 1);
    let at_most = |looks: u64, bits: &[u64], what: &str| {
        let most = 64 * blocks(bits) + found(bits);
        assert!(looks <= most && looks >= 64 * blocks(bits), "{what}: {looks} words, {most} at most");
    };
    let (looks, count) = counted(|| levels.count(&(0..BITS)));
    assert_eq!(count, SET);
    at_most(looks, &bits, "count");
    let (looks, spans) = counted(|| levels.nonzero_spans(0..words).count() as u64);
    assert!(spans <= blocks(&bits) && looks <= found(&bits), "spans: {looks} words");
    let (looks, _) = counted(|| levels.merge(&other));
    at_most(looks, &others, "merge");
    let both: Vec<u64> = bits.iter().chain(&others).copied().collect();
    // Twice: each block once filtered, and once summarised where it has changed.
    let (looks, _) = counted(|| levels.filter(&other, |a, b| a & !b));
    assert!(looks <= 64 * (blocks(&both) + blocks(&others)) + found(&both), "subtract: {looks} words");
    // Both began with the first bit of all.
    assert_eq!(levels.count(&(0..BITS)), SET - 1);
}

#[test]
fn finish_looks_at_what_it_is_told_and_what_lies_above() {
    let (bits, mut levels) = sparse(STEP);
    let mut words: Vec<u64> = bits.iter().map(|bit| bit / 64).collect();
    words.sort_unstable();
    words.dedup();
    let (looks, ()) = counted(|| levels.finish(words.iter().map(|&w| w..w + 1)));
    let below = |k: usize| 64.min(levels.level[k + 1].len() as u64);
    assert_eq!(looks, (0..BOTTOM).map(|k| nonzero(&bits, k) * below(k)).sum::<u64>());
    levels.check(true).unwrap();
}

#[test]
fn one_bit_is_found_in_and_taken_out_of_an_empty_map_by_a_word_a_level() {
    let (_, mut levels) = sparse(0);
    assert_eq!(counted(|| levels.next_set(1..BITS)), (7, None));
    assert_eq!(counted(|| levels.next_set(0..BITS)), (1, Some(0)));
    assert_eq!(counted(|| levels.reset(0..BITS)).1, 1);
    assert_eq!(counted(|| levels.next_set(0..BITS)), (7, None));
    // There is nothing to take out any more: once up to the top tells, and no level is cleared.
    let (looks, changed) = counted(|| levels.reset(1..BITS - 1));
    assert!(looks <= LEVELS as u64 && changed == 0, "{looks} words");
}
