//! Reading a map in items, written once for every kind of map.
//!
//! Invariant kept here: no answer depends on the bits standing still. A map that others change
//! meanwhile may give an answer that is already out of date, but each is made from looks at words that
//! were true when taken: positions are inside the range asked for, areas are not empty, no granule is counted
//! twice.

use crate::bitmap::Bitmap;
use crate::error::{Error, Result};
use crate::geometry::Geometry;
use crate::iter::{Areas, Granules, WordsIter};
use crate::levels::Walk;
use crate::words::WORD_BITS;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// Bytes hashed at a time; a multiple of 8.
const BLOCK: usize = 4096;
const BLOCK_WORDS: u64 = BLOCK as u64 / 8;

/// Items of `count` granules; `last` tells whether the map's last one, which may be partial, is among them.
pub(crate) fn items_of_granules(g: &Geometry, count: u64, last: bool) -> u64 {
    // Below 2^64: `count` whole granules exceed `len` by less than one granule.
    let whole = count << g.granularity();
    let missing = if last { g.bits() * g.granule() - g.len() } else { 0 };
    whole - missing
}

/// Either kind of map: a [`Bitmap`](crate::Bitmap) or a [`DirtyMap`](crate::DirtyMap). What takes one only reads it.
///
/// Sealed: no other type can implement it.
pub trait AnyMap: Search {}

/// What a map must be able to do so that it can be read: a few searches over bits and words. Everything
/// else is provided, in items.
///
/// Public so that the iterators can name it in their bounds; not reachable from outside, and so sealed.
pub trait Search {
    /// Whether the bits cannot change as long as the map is borrowed.
    const STABLE: bool;
    /// The map's shape.
    fn geometry(&self) -> &Geometry;
    /// The first set bit of `bits`.
    fn next_set(&self, bits: Range<u64>) -> Option<u64>;
    /// The first clear bit of `bits`.
    fn next_clear(&self, bits: Range<u64>) -> Option<u64>;
    /// The first nonzero bottom word among `words`: its index and its value, both from the same look.
    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)>;
    /// Bottom word `i`, which must be below `geometry().words()`.
    fn word(&self, i: u64) -> u64;
    /// The next nonzero bottom word of a [stable](Self::STABLE) map, which must provide this; others have none.
    fn step(&self, _walk: &mut Walk) -> Option<(u64, u64)> {
        None
    }
    /// Folds the words of a [stable](Self::STABLE) map that have some of `bits`, only those of them, and where they are, from
    /// where a walk is: [`step`](Self::step) for all of them at once. Such a map must provide this, too.
    fn fold_words<B>(&self, _walk: Walk, _bits: &Range<u64>, init: B, _f: impl FnMut(B, u64, u64) -> B) -> B {
        init
    }
    /// The first stretch among `words` of which every bit is set, as is known without a look at it; `None` where nothing
    /// is known so.
    fn full_words(&self, _words: Range<u64>) -> Option<Range<u64>> {
        None
    }
    /// Itself, if it is one in memory, for what is quicker with two of them.
    fn as_bitmap(&self) -> Option<&Bitmap> {
        None
    }

    /// The bits of bottom word `i` that are certainly set: [`word`](Self::word) says "dirty" where that cannot be known.
    fn certain_word(&self, i: u64) -> u64 {
        self.word(i)
    }

    /// Fails where the map cannot be read (any more), and the searches above have to guess.
    fn check_readable(&self) -> Result<()> {
        Ok(())
    }

    /// Whether bit `bit` is set.
    #[inline]
    fn bit(&self, bit: u64) -> bool {
        self.word(bit / WORD_BITS) >> (bit % WORD_BITS) & 1 != 0
    }

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

    /// Bits set among `bits`.
    fn count_bits(&self, bits: Range<u64>) -> u64 {
        self.tally(bits).0
    }

    /// Items of dirty granules.
    fn dirty_len(&self) -> u64 {
        let (count, last) = self.tally(0..self.geometry().bits());
        self.items_in(count, last)
    }

    /// Bits set among `bits`, and whether the last of these is: in one pass, so that it is counted and measured by the same
    /// look.
    fn tally(&self, bits: Range<u64>) -> (u64, bool) {
        let (mut count, mut last, mut at) = (0, false, bits.start);
        while at < bits.end {
            let full = self.full_words(at / WORD_BITS..bits.end.div_ceil(WORD_BITS));
            let full = full.map_or(bits.end..bits.end, |words| {
                (words.start * WORD_BITS).max(at)..(words.end * WORD_BITS).min(bits.end)
            });
            for (i, word) in WordsIter::over(self, at..full.start) {
                count += u64::from(word.count_ones());
                last = i == (bits.end - 1) / WORD_BITS && word >> ((bits.end - 1) % WORD_BITS) & 1 != 0;
            }
            count += full.end - full.start;
            last |= full.start < full.end && full.end == bits.end;
            at = full.end;
        }
        (count, last)
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
    fn next_area(&self, range: Range<u64>, max_len: u64) -> Result<Option<Range<u64>>> {
        self.geometry().check(&range)?;
        if max_len == 0 {
            return Err(Error::ZeroLength);
        }
        Ok(self.area(range, max_len))
    }

    /// [`next_area`](Self::next_area) without its checks.
    fn area(&self, range: Range<u64>, max_len: u64) -> Option<Range<u64>> {
        let g = self.geometry();
        let first = self.next_set(g.touched(&range))?;
        let start = g.item_of(first).max(range.start);
        let end = range.end.min(start.saturating_add(max_len));
        // From the next bit on: this one was set when seen, and the area must not come out empty if it
        // has been reset since.
        let stop = self.next_clear(first + 1..g.touched(&(start..end)).end);
        Some(start..stop.map_or(end, |bit| g.item_of(bit)))
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
    fn granules(&self, range: Range<u64>) -> Result<Granules<'_, Self>> {
        self.geometry().check(&range)?;
        Ok(Granules::over(self, self.geometry().touched(&range)))
    }

    /// The dirty areas of the range.
    fn areas(&self, range: Range<u64>) -> Result<Areas<'_, Self>> {
        self.geometry().check(&range)?;
        Ok(Areas::over(self, range))
    }

    /// The nonzero words of the range.
    fn words(&self, range: Range<u64>) -> Result<WordsIter<'_, Self>> {
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

    /// Copies bottom words as little-endian bytes to `out`, which has room for as many.
    fn copy_words(&self, words: Range<u64>, out: &mut [[u8; 8]]) {
        out.fill([0; 8]);
        let mut at = words.start;
        while let Some((i, word)) = self.next_nonzero_word(at..words.end) {
            out[(i - words.start) as usize] = word.to_le_bytes();
            at = i + 1;
        }
    }

    /// SHA-256 over all bottom words as little-endian bytes.
    fn sha256(&self) -> [u8; 32] {
        let words = self.geometry().words();
        let mut sha = Sha256::new();
        let mut block = [0; BLOCK];
        let mut at = 0;
        // Blocks start at nonzero words; what lies between them is zeros that nobody needs to fetch.
        while let Some((first, _)) = self.next_nonzero_word(at..words) {
            hash_zeros(&mut sha, first - at);
            at = words.min(first + BLOCK_WORDS);
            let mut used = 0;
            for (i, bytes) in (first..at).zip(block.chunks_exact_mut(8)) {
                bytes.copy_from_slice(&self.word(i).to_le_bytes());
                used += 8;
            }
            sha.update(&block[..used]);
        }
        hash_zeros(&mut sha, words - at);
        sha.finalize().into()
    }
}

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
fn hash_zeros(sha: &mut Sha256, mut words: u64) {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    while words > 0 {
        let n = words.min(BLOCK_WORDS);
        sha.update(&ZEROS[..n as usize * 8]);
        words -= n;
    }
}
