//! Runs of ones in bytes of bits: bit `i` is bit `i % 8` of byte `i / 8`.

use std::ops::Range;

/// The first of the bits `from..end` with this value; bit `i` is bit `i % 8` of byte `i / 8`.
pub(crate) fn find(bytes: &[u8], from: u64, end: u64, value: bool) -> Option<u64> {
    let mut at = from;
    while at < end {
        let first = (at / 64 * 8) as usize;
        let tail = bytes.get(first..).unwrap_or_default();
        let word = u64::from_le_bytes(std::array::from_fn(|i| tail.get(i).copied().unwrap_or(0)));
        let wanted = if value { word } else { !word } & u64::MAX << (at % 64);
        let bit = at / 64 * 64 + u64::from(wanted.trailing_zeros());
        if wanted != 0 {
            return Some(bit).filter(|bit| *bit < end);
        }
        at = bit;
    }
    None
}

/// The runs of ones among the first `count` bits.
pub fn runs(bytes: &[u8], count: u64) -> impl Iterator<Item = Range<u64>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = find(bytes, at, count, true)?;
        at = find(bytes, start, count, false).unwrap_or(count);
        Some(start..at)
    })
}
