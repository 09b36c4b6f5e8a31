//! What all contenders are given: the same words, positions and ranges, from fixed seeds.

use std::ops::Range;

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

/// `n` random positions below `bits`; some may be the same.
pub fn positions(bits: u64, n: usize) -> Vec<u64> {
    let mut rng = Rng(bits + n as u64);
    (0..n).map(|_| rng.below(bits)).collect()
}

/// `n` ranges of `len` bits.
pub fn ranges(bits: u64, n: usize, len: u64) -> Vec<Range<u64>> {
    positions(bits - len, n).into_iter().map(|start| start..start + len).collect()
}

/// Words with `n` runs of `len` bits at random places.
pub fn runs(bits: u64, n: usize, len: u64) -> Vec<u64> {
    let mut words = vec![0; (bits / 64) as usize];
    for run in ranges(bits, n, len) {
        run.for_each(|bit| words[(bit / 64) as usize] |= 1 << (bit % 64));
    }
    words
}

/// Words in which every other bit is set, at random.
pub fn half(bits: u64, seed: u64) -> Vec<u64> {
    let mut rng = Rng(seed);
    (0..bits / 64).map(|_| rng.next()).collect()
}

/// The bits that are set.
pub fn ones(words: &[u64]) -> impl Iterator<Item = u64> {
    words.iter().zip(0u64..).flat_map(|(&word, i)| (0..64).filter(move |b| word >> b & 1 != 0).map(move |b| i * 64 + b))
}
