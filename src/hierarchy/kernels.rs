//! The loops over many words.
//!
//! Invariant kept here: none of them knows of levels, and all give the same with and without wide instructions.

use super::words::looked_at;
use crate::geometry::WORD_BITS;
use crate::sys::cpu::{self, Kernel};

/// Runs a loop over so many words.
#[inline]
fn over<K: Kernel>(words: usize, kernel: K) -> K::Output {
    looked_at(words as u64);
    cpu::wide(kernel)
}

/// Bits set.
struct Count<'a>(&'a [u64]);

impl Kernel for Count<'_> {
    type Output = u64;
    #[inline(always)]
    fn run(self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// Bits set in these words.
pub(super) fn count(words: &[u64]) -> u64 {
    over(words.len(), Count(words))
}

/// How many full words come first.
struct Full<'a>(&'a [u64]);

impl Kernel for Full<'_> {
    type Output = u64;
    #[inline(always)]
    fn run(self) -> u64 {
        let (eights, _) = self.0.as_chunks::<8>();
        let full = |words: &&[u64; 8]| words.iter().fold(u64::MAX, |all, word| all & word) == u64::MAX;
        let skipped = eights.iter().take_while(full).count() * 8;
        (skipped + self.0[skipped..].iter().take_while(|word| **word == u64::MAX).count()) as u64
    }
}

/// How many of these words are full before the first that is not.
pub(super) fn full(words: &[u64]) -> u64 {
    let full = cpu::wide(Full(words));
    looked_at(full + 1);
    full
}

/// Applies a function to the words of a range, with the bits of each that are in it, of which only the first and the last
/// word may not have all; returns the sum of what it answers.
#[inline(always)]
fn over_range(words: &mut [u64], [first, last]: [u64; 2], f: impl Fn(&mut u64, u64) -> u32) -> u64 {
    match words {
        [] => 0,
        [only] => f(only, first & last).into(),
        [head, inner @ .., tail] => {
            let ends = u64::from(f(head, first)) + u64::from(f(tail, last));
            ends + inner.iter_mut().map(|word| u64::from(f(word, u64::MAX))).sum::<u64>()
        }
    }
}

/// Sets the bits of a range.
struct Fill<'a>(&'a mut [u64], [u64; 2]);

impl Kernel for Fill<'_> {
    type Output = u64;
    #[inline(always)]
    fn run(self) -> u64 {
        over_range(self.0, self.1, |word, mask| {
            let clear = mask & !*word;
            *word |= mask;
            clear.count_ones()
        })
    }
}

/// Sets all bits of these words, in the first and in the last one only those of `ends`; returns how many were clear.
pub(super) fn fill(words: &mut [u64], ends: [u64; 2]) -> u64 {
    over(words.len(), Fill(words, ends))
}

/// Clears the bits of a range.
pub(super) struct Clear<'a>(pub &'a mut [u64], pub [u64; 2]);

impl Kernel for Clear<'_> {
    type Output = u64;
    #[inline(always)]
    fn run(self) -> u64 {
        over_range(self.0, self.1, |word, mask| {
            let set = mask & *word;
            *word &= !mask;
            set.count_ones()
        })
    }
}

/// Clears all bits of these words, in the first and in the last one only those of `ends`; returns how many were set.
pub(super) fn clear(words: &mut [u64], ends: [u64; 2]) -> u64 {
    over(words.len(), Clear(words, ends))
}

/// Sets bits that others have.
struct Merge<'a>(&'a mut [u64], &'a [u64]);

impl Kernel for Merge<'_> {
    type Output = u64;
    #[inline(always)]
    fn run(self) -> u64 {
        let mut changed = 0;
        for (to, from) in self.0.iter_mut().zip(self.1) {
            changed += u64::from((from & !*to).count_ones());
            *to |= from;
        }
        changed
    }
}

/// Sets in `to` what is set in `from`, which is as long; returns how many bits were clear.
pub(super) fn merge(to: &mut [u64], from: &[u64]) -> u64 {
    over(to.len(), Merge(to, from))
}

/// Up to 64 words replaced by what a function makes of them and others.
struct Filter<'a, F>(&'a mut [u64], &'a [u64], F);

impl<F: Fn(u64, u64) -> u64> Kernel for Filter<'_, F> {
    type Output = u64;
    #[inline(always)]
    fn run(self) -> u64 {
        let mut changed = 0;
        for (to, from) in self.0.iter_mut().zip(self.1) {
            let new = (self.2)(*to, *from);
            changed += u64::from((*to ^ new).count_ones());
            *to = new;
        }
        changed
    }
}

/// Replaces each word by what `keep` makes of it and of the one beside it; returns how many bits changed.
pub(super) fn filter(to: &mut [u64], from: &[u64], keep: impl Fn(u64, u64) -> u64) -> u64 {
    over(to.len(), Filter(to, from, keep))
}

/// Words replaced by little-endian ones.
struct Load<'a>(&'a mut [u64], &'a [[u8; 8]]);

impl Kernel for Load<'_> {
    type Output = (u64, u64);
    #[inline(always)]
    fn run(self) -> (u64, u64) {
        let (mut changed, mut gone) = (0, 0);
        for (to, from) in self.0.iter_mut().zip(self.1) {
            let new = u64::from_le_bytes(*from);
            changed += u64::from((*to ^ new).count_ones());
            gone += u64::from((*to & !new).count_ones());
            *to = new;
        }
        (changed, gone)
    }
}

/// Replaces words by little-endian ones; returns how many bits changed, and how many of them are clear now.
pub(super) fn load(to: &mut [u64], from: &[[u8; 8]]) -> (u64, u64) {
    over(to.len(), Load(to, from))
}

/// Little-endian words where only zeros were.
struct LoadFresh<'a>(&'a mut [u64], &'a [[u8; 8]]);

impl Kernel for LoadFresh<'_> {
    type Output = u64;
    #[inline(always)]
    fn run(self) -> u64 {
        let set = self.1.iter().map(|word| u64::from(u64::from_ne_bytes(*word).count_ones())).sum();
        if set != 0 {
            self.0.iter_mut().zip(self.1).for_each(|(to, from)| *to = u64::from_le_bytes(*from));
        }
        set
    }
}

/// Replaces zero words by little-endian ones, or touches nothing if those are zero as well; returns how many bits are
/// set.
pub(super) fn load_fresh(to: &mut [u64], from: &[[u8; 8]]) -> u64 {
    over(to.len(), LoadFresh(to, from))
}

/// One bit for each word.
struct Summary<'a>(&'a [u64]);

impl Kernel for Summary<'_> {
    type Output = u64;
    #[inline(always)]
    fn run(self) -> u64 {
        self.0.iter().zip(0..WORD_BITS).fold(0, |sum, (&word, i)| sum | u64::from(word != 0) << i)
    }
}

/// Which of up to 64 words are not zero.
pub(super) fn summary(words: &[u64]) -> u64 {
    over(words.len(), Summary(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::cpu::wide;

    /// What a kernel answers and leaves of `words`, with wide instructions (where there are any) and without.
    macro_rules! check {
        ($words:expr, |$it:ident| $kernel:expr, $answer:expr, $left:expr) => {{
            let mut words = $words.clone();
            let $it = &mut words[..];
            assert_eq!(wide($kernel), $answer, "wide");
            assert_eq!(words, $left, "wide");
            let mut words = $words.clone();
            let $it = &mut words[..];
            assert_eq!($kernel.run(), $answer, "portable");
            assert_eq!(words, $left, "portable");
        }};
    }

    /// The number of ones, bit by bit.
    fn ones(words: &[u64]) -> u64 {
        words.iter().map(|word| (0..64).filter(|bit| word >> bit & 1 != 0).count() as u64).sum()
    }

    /// Each word of two slices, combined.
    fn zip(a: &[u64], b: &[u64], f: fn(u64, u64) -> u64) -> Vec<u64> {
        (0..a.len()).map(|i| f(a[i], b[i])).collect()
    }

    /// Each loop against a naive one, on words of all kinds and of awkward number.
    #[test]
    fn wide_and_portable_do_what_naive_loops_do() {
        let mut seed = 1u64;
        let mut word = || {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            [0, u64::MAX, seed, seed & seed.rotate_left(21) & seed.rotate_left(42)][(seed >> 60) as usize % 4]
        };
        for n in (0..=64).chain([200, 1003]) {
            let a: Vec<u64> = (0..n).map(|_| word()).collect();
            let b: Vec<u64> = (0..n).map(|_| word()).collect();
            let bytes: Vec<[u8; 8]> = b.iter().map(|word| word.to_le_bytes()).collect();
            let (zeros, full) = (vec![0; n], vec![u64::MAX; n]);
            check!(a, |it| Count(it), ones(&a), a);
            for first in 0..=n {
                let mut b = full.clone();
                b.iter_mut().skip(first).for_each(|word| *word ^= 1 << (first % 64));
                check!(b, |it| Full(it), first as u64, b);
            }
            let all = [u64::MAX; 2];
            check!(a, |it| Fill(it, all), 64 * n as u64 - ones(&a), full);
            check!(a, |it| Clear(it, all), ones(&a), zeros);
            // The same with what a range has of the first and the last word.
            let ends = [u64::MAX << 13, u64::MAX >> 7];
            let mask =
                |i: usize| [u64::MAX, ends[0]][usize::from(i == 0)] & [u64::MAX, ends[1]][usize::from(i + 1 == n)];
            let inside: Vec<u64> = (0..n).map(mask).collect();
            let (more, fewer) = (zip(&a, &inside, |a, b| a | b), zip(&a, &inside, |a, b| a & !b));
            check!(a, |it| Fill(it, ends), ones(&more) - ones(&a), more);
            check!(a, |it| Clear(it, ends), ones(&a) - ones(&fewer), fewer);
            let (either, both, less) =
                (zip(&a, &b, |a, b| a | b), zip(&a, &b, |a, b| a & b), zip(&a, &b, |a, b| a & !b));
            check!(a, |it| Merge(it, &b), ones(&either) - ones(&a), either);
            check!(a, |it| Filter(it, &b, |a: u64, b: u64| a & !b), ones(&both), less);
            check!(a, |it| Filter(it, &b, |a: u64, b: u64| a & b), ones(&less), both);
            check!(a, |it| Load(it, &bytes), (ones(&zip(&a, &b, |a, b| a ^ b)), ones(&less)), b);
            check!(zeros, |it| LoadFresh(it, &bytes), ones(&b), b);
            if n <= 64 {
                let nonzero = (0..n).filter(|&i| a[i] != 0).fold(0, |sum, i| sum | 1u64 << i);
                check!(a, |it| Summary(it), nonzero, a);
            }
        }
    }
}
