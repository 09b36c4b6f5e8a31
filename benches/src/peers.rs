//! The contenders: ours, the peers, and plain memory as the limit, behind one trait.
//!
//! Each does what its own documentation would have a user do; nothing is emulated by something slower. What a peer does
//! not offer it is not asked for.

use crate::harness::Kind;
use croaring::Bitmap as Croaring;
use dirtymap::Bitmap;
use fixedbitset::FixedBitSet;
use hibitset::{BitSet as Hibitset, BitSetLike};
use roaring::RoaringBitmap;
use std::num::NonZeroUsize;
use std::ops::Range;
use vm_memory::bitmap::AtomicBitmap;

/// A set of bits below `bits`. Defaults are for what a peer does not offer.
pub trait Bits: Sized {
    const NAME: &'static str;
    const KIND: Kind = Kind::Peer;
    /// With the bits of these words.
    fn of(words: &[u64]) -> Self;
    fn mark(&mut self, bit: u64);
    fn unmark(&mut self, bit: u64);
    fn has(&self, bit: u64) -> bool;
    fn total(&self) -> u64;
    fn mark_range(&mut self, _bits: Range<u64>) {
        unimplemented!()
    }
    fn unmark_range(&mut self, _bits: Range<u64>) {
        unimplemented!()
    }
    /// Calls `f` for each set bit.
    fn each(&self, _f: impl FnMut(u64)) {
        unimplemented!()
    }
    /// Calls `f` with start and end of each run of set bits.
    fn each_area(&self, _f: impl FnMut(u64, u64)) {
        unimplemented!()
    }
    fn add_all(&mut self, _other: &Self) {
        unimplemented!()
    }
    fn take_all(&mut self, _other: &Self) {
        unimplemented!()
    }
}

pub const OK: &str = "inside the map";

impl Bits for Bitmap {
    const NAME: &'static str = "dirtymap";
    const KIND: Kind = Kind::Ours;
    fn of(words: &[u64]) -> Self {
        let map = Bitmap::new(words.len() as u64 * 64, 0).expect("memory");
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let all = 0..map.len();
        let mut loading = map.begin_load();
        loading.part(all, &bytes).expect(OK);
        loading.finish()
    }
    #[inline]
    fn mark(&mut self, bit: u64) {
        Bitmap::set(self, bit..bit + 1).expect(OK);
    }
    #[inline]
    fn unmark(&mut self, bit: u64) {
        Bitmap::reset(self, bit..bit + 1).expect(OK);
    }
    #[inline]
    fn has(&self, bit: u64) -> bool {
        Bitmap::get(self, bit).expect(OK)
    }
    fn total(&self) -> u64 {
        // In two parts: how many are dirty in all it knows without a look.
        [0..1, 1..self.len()].map(|part| Bitmap::count_range(self, part).expect(OK)).iter().sum()
    }
    #[inline]
    fn mark_range(&mut self, bits: Range<u64>) {
        Bitmap::set(self, bits).expect(OK);
    }
    #[inline]
    fn unmark_range(&mut self, bits: Range<u64>) {
        Bitmap::reset(self, bits).expect(OK);
    }
    fn each(&self, f: impl FnMut(u64)) {
        self.granules(0..self.len()).expect(OK).for_each(f);
    }
    fn each_area(&self, mut f: impl FnMut(u64, u64)) {
        Bitmap::extents(self, 0..self.len()).expect(OK).for_each(|area| f(area.start, area.end));
    }
    fn add_all(&mut self, other: &Self) {
        Bitmap::merge(self, other).expect("equal lengths");
    }
    fn take_all(&mut self, other: &Self) {
        Bitmap::subtract(self, other).expect("equal lengths");
    }
}

impl Bits for FixedBitSet {
    const NAME: &'static str = "fixedbitset";
    fn of(words: &[u64]) -> Self {
        FixedBitSet::with_capacity_and_blocks(words.len() * 64, words.iter().map(|&w| w as usize))
    }
    #[inline]
    fn mark(&mut self, bit: u64) {
        self.insert(bit as usize);
    }
    #[inline]
    fn unmark(&mut self, bit: u64) {
        self.remove(bit as usize);
    }
    #[inline]
    fn has(&self, bit: u64) -> bool {
        self.contains(bit as usize)
    }
    fn total(&self) -> u64 {
        self.count_ones(..) as u64
    }
    fn mark_range(&mut self, bits: Range<u64>) {
        self.insert_range(bits.start as usize..bits.end as usize);
    }
    fn unmark_range(&mut self, bits: Range<u64>) {
        self.remove_range(bits.start as usize..bits.end as usize);
    }
    fn each(&self, mut f: impl FnMut(u64)) {
        self.ones().for_each(|bit| f(bit as u64));
    }
    fn each_area(&self, f: impl FnMut(u64, u64)) {
        joined(self.ones().map(|bit| (bit as u64, bit as u64 + 1)), f);
    }
    fn add_all(&mut self, other: &Self) {
        self.union_with(other);
    }
    fn take_all(&mut self, other: &Self) {
        self.difference_with(other);
    }
}

impl Bits for RoaringBitmap {
    const NAME: &'static str = "roaring";
    fn of(words: &[u64]) -> Self {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut bits = RoaringBitmap::from_lsb0_bytes(0, &bytes);
        bits.optimize();
        bits
    }
    #[inline]
    fn mark(&mut self, bit: u64) {
        self.insert(bit as u32);
    }
    #[inline]
    fn unmark(&mut self, bit: u64) {
        self.remove(bit as u32);
    }
    #[inline]
    fn has(&self, bit: u64) -> bool {
        self.contains(bit as u32)
    }
    fn total(&self) -> u64 {
        self.len()
    }
    fn mark_range(&mut self, bits: Range<u64>) {
        self.insert_range(bits.start as u32..bits.end as u32);
    }
    fn unmark_range(&mut self, bits: Range<u64>) {
        self.remove_range(bits.start as u32..bits.end as u32);
    }
    fn each(&self, mut f: impl FnMut(u64)) {
        self.iter().for_each(|bit| f(bit.into()));
    }
    fn each_area(&self, f: impl FnMut(u64, u64)) {
        let mut iter = self.iter();
        let ranges = std::iter::from_fn(|| iter.next_range());
        joined(ranges.map(|r| (u64::from(*r.start()), u64::from(*r.end()) + 1)), f);
    }
    fn add_all(&mut self, other: &Self) {
        *self |= other;
    }
    fn take_all(&mut self, other: &Self) {
        *self -= other;
    }
}

impl Bits for Croaring {
    const NAME: &'static str = "croaring";
    fn of(words: &[u64]) -> Self {
        // Both roarings read the same format.
        let mut bytes = Vec::new();
        <RoaringBitmap as Bits>::of(words).serialize_into(&mut bytes).expect("memory");
        Croaring::deserialize::<croaring::Portable>(&bytes)
    }
    #[inline]
    fn mark(&mut self, bit: u64) {
        self.add(bit as u32);
    }
    #[inline]
    fn unmark(&mut self, bit: u64) {
        self.remove(bit as u32);
    }
    #[inline]
    fn has(&self, bit: u64) -> bool {
        self.contains(bit as u32)
    }
    fn total(&self) -> u64 {
        self.cardinality()
    }
    fn mark_range(&mut self, bits: Range<u64>) {
        self.add_range(bits.start as u32..bits.end as u32);
    }
    fn unmark_range(&mut self, bits: Range<u64>) {
        self.remove_range(bits.start as u32..bits.end as u32);
    }
    fn each(&self, mut f: impl FnMut(u64)) {
        self.iter().for_each(|bit| f(bit.into()));
    }
    fn each_area(&self, f: impl FnMut(u64, u64)) {
        let mut cursor = self.cursor();
        let mut buffer = vec![croaring::RangeInclusive { start: 0, last: 0 }; 256];
        let (mut at, mut filled) = (0, 0);
        let ranges = std::iter::from_fn(|| {
            if at == filled {
                (at, filled) = (0, cursor.read_many_ranges(&mut buffer));
            }
            let range = buffer[..filled].get(at)?;
            at += 1;
            Some((u64::from(range.start), u64::from(range.last) + 1))
        });
        joined(ranges, f);
    }
    fn add_all(&mut self, other: &Self) {
        self.or_inplace(other);
    }
    fn take_all(&mut self, other: &Self) {
        self.andnot_inplace(other);
    }
}

/// Holds 2^24 bits at most, and has no ranges.
impl Bits for Hibitset {
    const NAME: &'static str = "hibitset";
    fn of(words: &[u64]) -> Self {
        let mut bits = Hibitset::with_capacity(words.len() as u32 * 64 - 1);
        for bit in crate::inputs::ones(words) {
            bits.add(bit as u32);
        }
        bits
    }
    #[inline]
    fn mark(&mut self, bit: u64) {
        self.add(bit as u32);
    }
    #[inline]
    fn unmark(&mut self, bit: u64) {
        self.remove(bit as u32);
    }
    #[inline]
    fn has(&self, bit: u64) -> bool {
        self.contains(bit as u32)
    }
    fn total(&self) -> u64 {
        self.iter().count() as u64
    }
    fn each(&self, mut f: impl FnMut(u64)) {
        self.iter().for_each(|bit| f(bit.into()));
    }
}

/// What VMMs use for dirty tracking; has neither iteration nor count.
impl Bits for AtomicBitmap {
    const NAME: &'static str = "vm-memory";
    fn of(words: &[u64]) -> Self {
        let bits = AtomicBitmap::new(words.len() * 64, NonZeroUsize::MIN);
        crate::inputs::ones(words).for_each(|bit| bits.set_bit(bit as usize));
        bits
    }
    #[inline]
    fn mark(&mut self, bit: u64) {
        self.set_bit(bit as usize);
    }
    #[inline]
    fn unmark(&mut self, bit: u64) {
        self.reset_bit(bit as usize);
    }
    #[inline]
    fn has(&self, bit: u64) -> bool {
        self.is_bit_set(bit as usize)
    }
    fn total(&self) -> u64 {
        (0..self.len()).filter(|&bit| self.is_bit_set(bit)).count() as u64
    }
    fn mark_range(&mut self, bits: Range<u64>) {
        self.set_addr_range(bits.start as usize, (bits.end - bits.start) as usize);
    }
    fn unmark_range(&mut self, bits: Range<u64>) {
        self.reset_addr_range(bits.start as usize, (bits.end - bits.start) as usize);
    }
}

/// Plain words and plain loops over them: no checks, no count, no summaries.
pub struct Plain(pub Vec<u64>);

impl Plain {
    #[inline]
    fn at(&mut self, bit: u64) -> &mut u64 {
        &mut self.0[(bit / 64) as usize]
    }

    /// The first and the last word of a range with their masks, and fills what lies between.
    fn ends(&mut self, bits: Range<u64>, inner: u64, mut f: impl FnMut(&mut u64, u64)) {
        let (first, last) = (bits.start / 64, (bits.end - 1) / 64);
        let (head, tail) = (u64::MAX << (bits.start % 64), u64::MAX >> (63 - (bits.end - 1) % 64));
        if first == last {
            return f(&mut self.0[first as usize], head & tail);
        }
        f(&mut self.0[first as usize], head);
        self.0[first as usize + 1..last as usize].fill(inner);
        f(&mut self.0[last as usize], tail);
    }
}

impl Bits for Plain {
    const NAME: &'static str = "limit";
    const KIND: Kind = Kind::Limit;
    fn of(words: &[u64]) -> Self {
        Plain(words.to_vec())
    }
    #[inline]
    fn mark(&mut self, bit: u64) {
        *self.at(bit) |= 1 << (bit % 64);
    }
    #[inline]
    fn unmark(&mut self, bit: u64) {
        *self.at(bit) &= !(1 << (bit % 64));
    }
    #[inline]
    fn has(&self, bit: u64) -> bool {
        self.0[(bit / 64) as usize] >> (bit % 64) & 1 != 0
    }
    fn total(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
    fn mark_range(&mut self, bits: Range<u64>) {
        self.ends(bits, u64::MAX, |word, mask| *word |= mask);
    }
    fn unmark_range(&mut self, bits: Range<u64>) {
        self.ends(bits, 0, |word, mask| *word &= !mask);
    }
    fn each(&self, mut f: impl FnMut(u64)) {
        for (&word, i) in self.0.iter().zip(0u64..) {
            let mut word = word;
            while word != 0 {
                f(i * 64 + u64::from(word.trailing_zeros()));
                word &= word - 1;
            }
        }
    }
    fn each_area(&self, f: impl FnMut(u64, u64)) {
        let mut words = self.0.iter().zip(0u64..);
        let (mut word, mut first) = (0, 0);
        let parts = std::iter::from_fn(|| {
            while word == 0 {
                let (&next, i) = words.next()?;
                (word, first) = (next, i * 64);
            }
            let start = word.trailing_zeros();
            let len = (word >> start).trailing_ones();
            word = if start + len == 64 { 0 } else { word & (u64::MAX << (start + len)) };
            Some((first + u64::from(start), first + u64::from(start + len)))
        });
        joined(parts, f);
    }
    fn add_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }
    fn take_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= !b);
    }
}

/// Words, how many bits are set, and one level above that says which words are not zero: what has to be kept up to be counted
/// at once and searched quickly, and nothing else. Written for these rows; granularity and length are looked at as by anybody who
/// is given items.
pub struct ByHand {
    words: Vec<u64>,
    above: Vec<u64>,
    count: u64,
    len: u64,
    granularity: u32,
}

impl ByHand {
    fn word(&self, item: u64) -> (usize, u64) {
        assert!(item < self.len, "past the end");
        let bit = item >> self.granularity;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    /// Fills a range of words, and hands each word above with those of its bits that stand for words of the range to `above`, and
    /// of these the ones whose words are not zero. **Without the count**, for which each word would have to be read as it was.
    fn fill(&mut self, bits: &Range<u64>, ones: bool, above: impl Fn(&mut u64, u64, u64)) {
        assert!(bits.start < bits.end && bits.end <= self.len, "past the end");
        let (start, last) = (bits.start >> self.granularity, (bits.end - 1) >> self.granularity);
        let (first, stop) = (start / 64, last / 64);
        let (head, tail) = (u64::MAX << (start % 64), u64::MAX >> (63 - last % 64));
        let put = |word: &mut u64, mask: u64| if ones { *word |= mask } else { *word &= !mask };
        match &mut self.words[first as usize..=stop as usize] {
            [only] => put(only, head & tail),
            [a, inner @ .., z] => {
                put(a, head);
                inner.fill(if ones { u64::MAX } else { 0 });
                put(z, tail);
            }
            [] => {}
        }
        for block in first / 64..=stop / 64 {
            let from = if block == first / 64 { first % 64 } else { 0 };
            let to = if block == stop / 64 { stop % 64 } else { 63 };
            // Only the outermost words may have something beside the range.
            let [a, z] = [from, to].map(|i| u64::from(self.words[(block * 64 + i) as usize] != 0) << i);
            above(&mut self.above[block as usize], u64::MAX << from & u64::MAX >> (63 - to), a | z);
        }
    }

    /// The words that are not zero.
    fn nonzero(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let words = &self.words;
        let blocks = self.above.iter().zip(0u64..).filter(|(above, _)| **above != 0);
        blocks.flat_map(move |(&above, i)| {
            let mut above = above;
            std::iter::from_fn(move || {
                let at = i * 64 + u64::from(above.trailing_zeros());
                let found = (above != 0).then(|| (words[at as usize], at * 64));
                above &= above.wrapping_sub(1);
                found
            })
        })
    }
}

impl Bits for ByHand {
    const NAME: &'static str = "by hand";
    const KIND: Kind = Kind::ByHand;
    fn of(words: &[u64]) -> Self {
        let bit = |i: usize| words.get(i).is_some_and(|word| *word != 0);
        let above = (0..words.len().div_ceil(64)).map(|i| (0..64).map(|k| u64::from(bit(i * 64 + k)) << k).sum());
        ByHand {
            words: words.to_vec(),
            above: above.collect(),
            count: words.iter().map(|word| u64::from(word.count_ones())).sum(),
            len: words.len() as u64 * 64,
            granularity: std::hint::black_box(0),
        }
    }
    #[inline]
    fn mark(&mut self, bit: u64) {
        let (i, mask) = self.word(bit);
        let old = self.words[i];
        self.words[i] = old | mask;
        self.count += u64::from(old & mask == 0);
        if old == 0 {
            self.above[i / 64] |= 1 << (i % 64);
        }
    }
    #[inline]
    fn unmark(&mut self, bit: u64) {
        let (i, mask) = self.word(bit);
        let old = self.words[i];
        self.words[i] = old & !mask;
        self.count -= u64::from(old & mask != 0);
        if old == mask {
            self.above[i / 64] &= !(1 << (i % 64));
        }
    }
    fn has(&self, bit: u64) -> bool {
        let (i, mask) = self.word(bit);
        self.words[i] & mask != 0
    }
    fn total(&self) -> u64 {
        self.count
    }
    fn mark_range(&mut self, bits: Range<u64>) {
        self.fill(&bits, true, |above, all, _| *above |= all);
    }
    fn unmark_range(&mut self, bits: Range<u64>) {
        self.fill(&bits, false, |above, all, beside| *above &= !all | beside);
    }
    fn each(&self, mut f: impl FnMut(u64)) {
        for (mut word, first) in self.nonzero() {
            while word != 0 {
                f(first + u64::from(word.trailing_zeros()));
                word &= word - 1;
            }
        }
    }
}

/// Joins runs that touch.
fn joined(runs: impl Iterator<Item = (u64, u64)>, mut f: impl FnMut(u64, u64)) {
    let mut open: Option<(u64, u64)> = None;
    for (start, end) in runs {
        open = match open {
            Some((first, stop)) if stop == start => Some((first, end)),
            other => {
                if let Some((first, stop)) = other {
                    f(first, stop);
                }
                Some((start, end))
            }
        };
    }
    if let Some((first, stop)) = open {
        f(first, stop);
    }
}
