//! Reading a map in items, written once for every kind of map.
//!
//! Invariant kept here: no answer depends on the bits standing still. A map that others change
//! meanwhile may give an answer that is already out of date, but each is made from looks at words that
//! were true when taken: positions are inside the range asked for, areas are not empty, no granule is counted
//! twice.

use super::iter::{Extents, Granules, WordsIter};
use super::search::Search;
use crate::error::{Error, Result};
use crate::geometry::{Geometry, WORD_BITS};
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::ops::Range;

/// Items of `count` granules; `last` tells whether the map's last one, which may be partial, is among them.
pub(crate) fn items_of_granules(g: &Geometry, count: u64, last: bool) -> u64 {
    // Below 2^64: `count` whole granules exceed `len` by less than one granule.
    let whole = count << g.granularity();
    let missing = if last { g.bits() * g.granule() - g.len() } else { 0 };
    whole - missing
}

/// Reading either kind of map: a [`Bitmap`](crate::Bitmap) or a [`DirtyMap`](crate::DirtyMap). The methods are those of these
/// types, which say more of each. What returns an error for a `DirtyMap` that cannot be read any more answers "dirty" here.
///
/// ```
/// use dirtymap::{ReadMap, Bitmap};
///
/// fn first_megabyte_is_clean(map: &dyn ReadMap) -> dirtymap::Result<bool> {
///     Ok(!map.any(0..1 << 20)?)
/// }
/// assert!(first_megabyte_is_clean(&Bitmap::new(1 << 30, 16)?)?);
/// # Ok::<(), dirtymap::Error>(())
/// ```
///
/// Sealed: no other type can implement it.
pub trait ReadMap: Search {
    /// Whether `item`'s granule is dirty.
    #[inline]
    fn get(&self, item: u64) -> Result<bool> {
        self.geometry().check_item(item)?;
        Ok(self.bit(self.geometry().bit_of(item)))
    }

    /// Bits set.
    fn count(&self) -> u64 {
        self.count_bits(0..self.geometry().bits())
    }

    /// Items of dirty granules.
    fn dirty_len(&self) -> u64 {
        let (count, last) = self.tally(0..self.geometry().bits());
        self.items_in(count, last)
    }

    /// Items of `count` granules; `last` tells whether the map's last one, which may be partial, is among them.
    fn items_in(&self, count: u64, last: bool) -> u64 {
        items_of_granules(self.geometry(), count, last)
    }

    /// Dirty granules that the range touches.
    fn count_range(&self, range: Range<u64>) -> Result<u64> {
        self.geometry().check(&range)?;
        Ok(self.count_bits(self.geometry().touched(&range)))
    }

    /// Whether no bit is set.
    fn is_empty(&self) -> bool {
        self.next_set(0..self.geometry().bits()).is_none()
    }

    /// Whether every bit is set.
    fn is_full(&self) -> bool {
        self.next_clear(0..self.geometry().bits()).is_none()
    }

    /// Whether any item of the range is dirty.
    fn any(&self, range: Range<u64>) -> Result<bool> {
        Ok(self.next_dirty(range)?.is_some())
    }

    /// Whether all items of the range are dirty.
    fn all(&self, range: Range<u64>) -> Result<bool> {
        Ok(self.next_clean(range)?.is_none())
    }

    /// The first dirty item of the range.
    fn next_dirty(&self, range: Range<u64>) -> Result<Option<u64>> {
        let g = self.geometry();
        g.check(&range)?;
        Ok(self.next_set(g.touched(&range)).map(|bit| g.item_of(bit).max(range.start)))
    }

    /// The first clean item of the range.
    fn next_clean(&self, range: Range<u64>) -> Result<Option<u64>> {
        let g = self.geometry();
        g.check(&range)?;
        Ok(self.next_clear(g.touched(&range)).map(|bit| g.item_of(bit).max(range.start)))
    }

    /// The first dirty area of the range, of at most `max_len` items.
    fn next_extent(&self, range: Range<u64>, max_len: u64) -> Result<Option<Range<u64>>> {
        self.geometry().check(&range)?;
        if max_len == 0 {
            return Err(Error::ZeroLength);
        }
        Ok(self.area(range, max_len))
    }

    /// Whether the range starts dirty, and how many of its items have the same state from there on.
    fn run(&self, range: Range<u64>) -> Result<Option<(bool, u64)>> {
        let g = self.geometry();
        g.check(&range)?;
        if range.start == range.end {
            return Ok(None);
        }
        let bits = g.touched(&range);
        let dirty = self.bit(bits.start);
        let rest = bits.start + 1..bits.end;
        let stop = if dirty { self.next_clear(rest) } else { self.next_set(rest) };
        Ok(Some((dirty, stop.map_or(range.end, |bit| g.item_of(bit)) - range.start)))
    }

    /// The first item of each dirty granule that the range touches.
    fn granules(&self, range: Range<u64>) -> Result<Granules<'_, Self>>
    where
        Self: Sized,
    {
        self.geometry().check(&range)?;
        Ok(Granules::over(self, self.geometry().touched(&range)))
    }

    /// The dirty areas of the range.
    fn extents(&self, range: Range<u64>) -> Result<Extents<'_, Self>>
    where
        Self: Sized,
    {
        self.geometry().check(&range)?;
        Ok(Extents::over(self, range))
    }

    /// The nonzero words of the range.
    fn words(&self, range: Range<u64>) -> Result<WordsIter<'_, Self>>
    where
        Self: Sized,
    {
        self.geometry().check(&range)?;
        Ok(WordsIter::over(self, self.geometry().touched(&range)))
    }

    /// Bytes that a chunk takes.
    fn serialized_size(&self, range: Range<u64>) -> Result<u64> {
        let words = self.geometry().chunk_words(&range)?;
        Ok((words.end - words.start) * 8)
    }

    /// Writes the words of a chunk as little-endian bytes.
    fn serialize_part(&self, range: Range<u64>, buf: &mut [u8]) -> Result<()> {
        self.check_readable()?;
        let words = self.geometry().chunk_words(&range)?;
        check_chunk_size(&words, buf.len())?;
        let (out, _) = buf.as_chunks_mut();
        self.copy_words(words, out);
        Ok(())
    }

    /// SHA-256 over all bottom words as little-endian bytes.
    fn sha256(&self) -> [u8; 32] {
        let words = self.geometry().words();
        let (mut sha, mut at) = (Sha256::new(), 0);
        let to = [const { Cell::new(0) }; WORD_BITS as usize];
        // What lies between the blocks that are not clean is zeros that nobody needs to fetch.
        while let Some((block, found)) = self.next_block(at..words, &to) {
            hash_zeros(&mut sha, block * WORD_BITS - at);
            let word = |i: usize| if found >> i & 1 != 0 { to[i].get().to_le_bytes() } else { [0; 8] };
            let bytes: [[u8; 8]; WORD_BITS as usize] = std::array::from_fn(word);
            at = words.min((block + 1) * WORD_BITS);
            sha.update(bytes[..(at - block * WORD_BITS) as usize].as_flattened());
        }
        hash_zeros(&mut sha, words - at);
        sha.finalize().into()
    }
}

/// Changing either kind of map. All return how many granules changed. The methods are those of [`Bitmap`](crate::Bitmap) and
/// [`DirtyMap`](crate::DirtyMap), which say more of each.
///
/// A `&DirtyMap` can be changed as well, since threads share a `DirtyMap`.
///
/// ```
/// use dirtymap::{Bitmap, WriteMap};
///
/// fn discard(map: &mut dyn WriteMap) -> dirtymap::Result<()> {
///     map.reset_within(5..100).map(drop)
/// }
/// let mut map = Bitmap::new(128, 3)?;
/// assert_eq!(WriteMap::set_all(&mut map)?, 16);
/// discard(&mut map)?;
/// assert_eq!(map.count(), 5);
/// # Ok::<(), dirtymap::Error>(())
/// ```
///
/// Sealed: no other type can implement it.
pub trait WriteMap: Sealed {
    /// Marks every granule that the range touches.
    fn set(&mut self, range: Range<u64>) -> Result<u64>;
    /// Clears whole granules.
    fn reset(&mut self, range: Range<u64>) -> Result<u64>;
    /// Clears the granules that lie wholly inside the range.
    fn reset_within(&mut self, range: Range<u64>) -> Result<u64>;
    /// Clears every granule that the range touches, and with them dirt beside it.
    fn reset_covering(&mut self, range: Range<u64>) -> Result<u64>;
    /// Marks everything.
    fn set_all(&mut self) -> Result<u64>;
    /// Clears everything.
    fn reset_all(&mut self) -> Result<u64>;
    /// Replaces a chunk by a serialised one.
    fn load_part(&mut self, range: Range<u64>, bytes: &[u8]) -> Result<u64>;
}

/// Keeps a trait to this crate.
pub trait Sealed {}

/// Checks that as many bytes were given as a chunk of these words takes.
fn check_chunk_size(words: &Range<u64>, found: usize) -> Result<()> {
    let (expected, found) = ((words.end - words.start) * 8, found as u64);
    if expected == found { Ok(()) } else { Err(Error::ChunkSize { expected, found }) }
}

/// Checks a chunk that is to be loaded into a map of this geometry: its words, and the bytes of each.
pub(crate) fn loadable<'a>(g: &Geometry, range: &Range<u64>, bytes: &'a [u8]) -> Result<(Range<u64>, &'a [[u8; 8]])> {
    let words = g.chunk_words(range)?;
    check_chunk_size(&words, bytes.len())?;
    let (bytes, _) = bytes.as_chunks();
    if let Some(last) = bytes.last() {
        let (word, bits) = (words.end - 1, u64::from_le_bytes(*last) & !g.word_mask(words.end - 1));
        if bits != 0 {
            return Err(Error::StrayBits { word, bits });
        }
    }
    Ok((words, bytes))
}

/// Feeds `words` zero words to a hash.
fn hash_zeros(sha: &mut Sha256, words: u64) {
    const ZEROS: [u8; 4096] = [0; 4096];
    (0..words / 512).for_each(|_| sha.update(ZEROS));
    sha.update(&ZEROS[..(words % 512) as usize * 8]);
}
