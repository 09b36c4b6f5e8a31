//! The volatile part of a map as slices of words: runtime page, armed and touched bits, levels.
//!
//! Invariant kept here: a view's slices are as long as the geometry says, whatever the mapping is.

use super::runtime::{self, Word};
use crate::error::{Error, Result, Unusable};
use crate::format::VolatileLayout;
use crate::geometry::{BOTTOM, Geometry, LEVELS};
use crate::hierarchy::{AtomicU64, Block, Levels, Shared, Words, WordsMut};
use crate::sys::{Mapping, ReadMapping, ReadWords};
use std::ops::{Index, Range};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::fence;

/// What somebody who only looks may ask of a volatile part.
pub(crate) trait Look {
    fn geometry(&self) -> &Geometry;
    /// A word of the runtime page, in order with all that is looked at before it and after it.
    fn runtime_word(&self, word: Word) -> u64;
    /// The first set bit of `bits`.
    fn next_set(&self, bits: Range<u64>) -> Option<u64>;
    /// The first clear bit of `bits`.
    fn next_clear(&self, bits: Range<u64>) -> Option<u64>;
    /// The first nonzero word among `words`.
    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)>;
    /// The first block that has nonzero ones of `words`, and which: those are put into `to`.
    fn next_block(&self, words: Range<u64>, to: &Block) -> Option<(u64, u64)>;
    /// A word of the live level.
    fn word(&self, i: u64) -> u64;
    /// The same without what is not in the durable level, if that is at hand.
    fn certain(&self, i: u64) -> u64 {
        self.word(i)
    }

    /// The nonce in the runtime page: zeros, or that of a session that lives.
    fn nonce(&self) -> [u8; 16] {
        let mut nonce = [0; 16];
        for (bytes, word) in nonce.chunks_exact_mut(8).zip(runtime::NONCE) {
            bytes.copy_from_slice(&self.runtime_word(word).to_le_bytes());
        }
        nonce
    }

    /// Whether several processes share the session.
    fn is_shared(&self) -> bool {
        self.runtime_word(runtime::SHARED) == 1
    }
}

/// Searches of what `levels()` gives.
macro_rules! look_at_levels {
    () => {
        #[inline]
        fn geometry(&self) -> &Geometry {
            &self.geometry
        }

        #[inline]
        fn next_set(&self, bits: Range<u64>) -> Option<u64> {
            self.levels().next_set(bits)
        }

        #[inline]
        fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
            self.levels().next_clear(bits)
        }

        #[inline]
        fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
            self.levels().next_nonzero_word(words)
        }

        fn next_block(&self, words: Range<u64>, to: &Block) -> Option<(u64, u64)> {
            self.levels().next_block(words, to)
        }

        #[inline]
        fn word(&self, i: u64) -> u64 {
            self.levels().bottom().load(i as usize)
        }
    };
}

impl Look for ShmView {
    look_at_levels!();

    fn certain(&self, i: u64) -> u64 {
        self.word(i) & self.durable()[i as usize].load(SeqCst)
    }

    fn runtime_word(&self, word: Word) -> u64 {
        self.runtime[word].load(SeqCst)
    }
}

/// A mapping of the volatile region of others, to be looked at.
#[derive(Debug)]
pub(crate) struct ReadView {
    geometry: Geometry,
    mapping: ReadMapping,
    runtime: ReadWords,
    levels: [ReadWords; LEVELS],
}

impl ReadView {
    /// Lays a view over `mapping`, which must be as long as the layout demands.
    pub(crate) fn new(geometry: Geometry, layout: &VolatileLayout, mapping: ReadMapping) -> Result<ReadView> {
        // All of it is mapped, and so its offsets fit.
        let words = |start: u64, words: u64| mapping.words(start as usize..(start + words * 8) as usize);
        let level = |k: usize| {
            let start = if k == BOTTOM { layout.live.start } else { layout.levels[k].start };
            words(start, geometry.level_words()[k])
        };
        let runtime = words(layout.runtime.start, (layout.runtime.end - layout.runtime.start) / 8);
        Ok(ReadView { geometry, runtime, levels: std::array::from_fn(level), mapping })
    }

    #[inline]
    fn levels(&self) -> Levels<&ReadWords> {
        Levels::new(self.levels.each_ref(), self.geometry.bits())
    }

    /// As [`ShmView::usable`].
    #[inline]
    pub(crate) fn usable(&self) -> Result<()> {
        usable(self.mapping.is_ours())
    }
}

impl Look for ReadView {
    look_at_levels!();

    /// A fence on both sides, as the memory allows relaxed loads only. So what a search found before is older than this
    /// word, in the one order of all that is sequentially consistent, and what one finds afterwards is newer. In between, a
    /// search needs no order: what was set before it began it sees in any case, and what is set meanwhile it may miss.
    fn runtime_word(&self, word: Word) -> u64 {
        fence(SeqCst);
        let word = self.runtime.load(word.index());
        fence(SeqCst);
        word
    }
}

fn usable(is_ours: bool) -> Result<()> {
    if is_ours { Ok(()) } else { Err(Error::Unusable { why: Unusable::Forked }) }
}

/// A mapping of the volatile region, or of anonymous memory laid out like one.
#[derive(Debug)]
pub(crate) struct ShmView {
    geometry: Geometry,
    mapping: Mapping,
    stays: bool,
    runtime: Runtime,
    armed: Part,
    unflushed: Part,
    upper: [Part; BOTTOM],
    live: Part,
    durable: Part,
}

/// The runtime page, by its words.
#[derive(Debug)]
pub(crate) struct Runtime(Part);

impl Runtime {
    /// A word; none in a build in which loom has few of them.
    pub(crate) fn get(&self, word: Word) -> Option<&AtomicU64> {
        self.0.get(word.index())
    }
}

impl Index<Word> for Runtime {
    type Output = AtomicU64;

    #[inline]
    fn index(&self, word: Word) -> &AtomicU64 {
        &self.0[word.index()]
    }
}

/// Words of the mapping.
#[cfg(not(loom))]
type Part = crate::sys::MappedWords;

/// Words that loom watches, and so as few as can be.
#[cfg(loom)]
type Part = Box<[AtomicU64]>;

#[cfg(not(loom))]
fn part(mapping: &Mapping, range: &Range<u64>) -> Result<Part> {
    let narrow = |v: u64| usize::try_from(v).map_err(|_| Error::OutOfMemory { bytes: range.end });
    Ok(mapping.words(narrow(range.start)?..narrow(range.end)?))
}

#[cfg(loom)]
fn part(_: &Mapping, range: &Range<u64>) -> Result<Part> {
    // The runtime page comes first. Of it only those that one process uses.
    let words = if range.start == 0 { runtime::ADDING.index() as u64 + 1 } else { (range.end - range.start) / 8 };
    Ok((0..words).map(|_| AtomicU64::new(0)).collect())
}

impl ShmView {
    /// Lays a view over `mapping`, which must be as long as the layout demands.
    pub(crate) fn new(geometry: Geometry, layout: &VolatileLayout, mapping: Mapping) -> Result<ShmView> {
        let words = geometry.words() * 8;
        let bits = geometry.level_words()[BOTTOM - 1] * 8;
        let exactly = |range: &Range<u64>, len: u64| part(&mapping, &(range.start..range.start + len));
        let [a, b, c, d, e, f] = layout.levels.each_ref().map(|range| part(&mapping, range));
        Ok(ShmView {
            geometry,
            runtime: Runtime(part(&mapping, &layout.runtime)?),
            armed: exactly(&layout.armed, words)?,
            unflushed: exactly(&layout.touched, bits)?,
            upper: [a?, b?, c?, d?, e?, f?],
            live: exactly(&layout.live, words)?,
            durable: exactly(&layout.durable, words)?,
            mapping,
            stays: true,
        })
    }

    #[inline]
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// One bit per granule: covered by a durable header.
    #[inline]
    pub(crate) fn armed(&self) -> &[AtomicU64] {
        &self.armed
    }

    /// One bit per bottom word: changed since it was last written to the bottom.
    #[inline]
    pub(crate) fn unflushed(&self) -> &[AtomicU64] {
        &self.unflushed
    }

    /// Says of a word that the next flush has to write it.
    #[inline]
    pub(crate) fn mark_unflushed(&self, w: u64) {
        Shared(&self.unflushed).or((w / 64) as usize, 1 << (w % 64));
    }

    /// The dirty bits as everybody sees them.
    #[inline]
    pub(crate) fn live(&self) -> &[AtomicU64] {
        &self.live
    }

    /// What of them is known to be in the durable bottom.
    #[inline]
    pub(crate) fn durable(&self) -> &[AtomicU64] {
        &self.durable
    }

    /// The hierarchy over the live level.
    #[inline]
    pub(crate) fn levels(&self) -> Levels<Shared<'_>> {
        let level: [Shared<'_>; LEVELS] =
            std::array::from_fn(|k| Shared(if k == BOTTOM { &self.live } else { &self.upper[k] }));
        Levels::new(level, self.geometry.bits())
    }

    /// See [`Mapping::prepare`].
    pub(super) fn prepare(&self, part: Range<u64>) -> std::io::Result<()> {
        self.mapping.prepare(part)
    }

    /// Keeps it in memory: all of it, also what only others use, or what this process uses.
    pub(crate) fn keep_in_memory(
        &mut self,
        all: bool,
        ask: impl FnMut(u64) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.stays = false;
        self.mapping.keep_in_memory(all, ask)?;
        self.stays = true;
        Ok(())
    }

    /// Whether what was stored here cannot be taken away by a write-back that fails.
    pub(crate) fn stays(&self) -> bool {
        self.stays
    }

    /// Fails in a forked child, where the memory is not there.
    #[inline]
    pub(crate) fn usable(&self) -> Result<()> {
        usable(self.mapping.is_ours())
    }

    /// Makes everything zeros, the nonce first.
    pub(crate) fn clear(&self) {
        let levels = self.upper.iter().chain([&self.live, &self.durable]);
        for part in [&self.runtime.0, &self.armed, &self.unflushed].into_iter().chain(levels) {
            part.iter().for_each(|word| word.store(0, SeqCst));
        }
    }

    pub(crate) fn set_nonce(&self, nonce: &[u8; 16]) {
        for (bytes, word) in nonce.chunks_exact(8).zip(runtime::NONCE) {
            let mut b = [0; 8];
            b.copy_from_slice(bytes);
            self.runtime[word].store(u64::from_le_bytes(b), SeqCst);
        }
    }
}

/// Whether a bit is set in an array of them.
#[inline]
pub(crate) fn flag(flags: &[AtomicU64], bit: u64) -> bool {
    flags[(bit / 64) as usize].load(SeqCst) & 1 << (bit % 64) != 0
}
