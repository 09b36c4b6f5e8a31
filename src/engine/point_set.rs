//! Sets of dirty bits: what a point holds, or several and more together, in memory.
//!
//! Invariant kept here: where anything of a point is lost, the set is everything.

use crate::error::{Error, Result};
use crate::file::bottom::{Stretches, all_words, is_full};
use crate::file::points;
use crate::format::{self, Header, Point, Reasons, Uuid, VolatileLayout, WordRanges};
use crate::geometry::{Geometry, PAGE_WORDS, words_of};
use crate::hierarchy::Block;
use crate::map_file::MapFile;
use crate::query::{Blocks, ReadMap, Search};
use crate::shm::view::{Look, ShmView};
use crate::sys::Mapping;
use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};

/// How often a reader looks again before it keeps everybody from changing the checkpoint state.
pub(crate) const TRIES: usize = 64;

/// No words.
static NONE: WordRanges = WordRanges::new();

/// Dirty bits as a hierarchy, and beside it words that are wholly dirty: those of full pages, and those of which nothing is
/// known. These stay runs: a few bytes of a file can say that everything is dirty, and memory goes with what it really holds.
#[derive(Clone, Copy)]
pub(crate) struct Dirt<'a> {
    pub geometry: &'a Geometry,
    view: Option<&'a dyn Look>,
    whole: &'a WordRanges,
    /// Words of which some bits are dirty for want of knowledge: all that are not in the durable level of the view as well.
    assumed: &'a WordRanges,
}

impl<'a> Dirt<'a> {
    pub(crate) fn new(view: &'a dyn Look, whole: &'a WordRanges, assumed: &'a WordRanges) -> Dirt<'a> {
        Dirt { geometry: view.geometry(), view: Some(view), whole, assumed }
    }

    /// All of which is in the view.
    pub(crate) fn of(view: &'a dyn Look) -> Dirt<'a> {
        Dirt::new(view, &NONE, &NONE)
    }

    pub(super) fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        let known = self.view.and_then(|view| view.next_set(bits.clone()));
        if self.whole.is_empty() {
            return known;
        }
        let end = known.unwrap_or(bits.end.min(self.geometry.bits()));
        let run = self.full_words(bits.start / 64..end.div_ceil(64));
        run.map(|run| (run.start * 64).max(bits.start)).filter(|&bit| bit < end).or(known)
    }

    pub(super) fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        let end = bits.end.min(self.geometry.bits());
        let mut at = bits.start;
        while at < end {
            let clear = self.view.map_or(Some(at), |view| view.next_clear(at..end))?;
            match self.full_words(clear / 64..end.div_ceil(64)) {
                Some(run) if run.start == clear / 64 => at = run.end * 64,
                _ => return Some(clear),
            }
        }
        None
    }

    pub(super) fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        let known = |words| self.view.and_then(|view| view.next_nonzero_word(words));
        if self.whole.is_empty() {
            return known(words);
        }
        let known = known(words.clone());
        let end = known.map_or(words.end, |(w, _)| w + 1);
        let full = self.full_words(words.start..end).map(|run| (run.start, self.geometry.word_mask(run.start)));
        full.filter(|&(_, word)| word != 0).or(known)
    }

    pub(super) fn next_block(&self, words: Range<u64>, to: &Block) -> Option<(u64, u64)> {
        let known = self.view.and_then(|view| view.next_block(words.clone(), to));
        let full = self.full_words(words.clone()).map(|run| (run.start / 64, 0));
        let (block, mut found) = known.into_iter().chain(full).min_by_key(|found| found.0)?;
        let within = words.start.max(block * 64)..words.end.min((block + 1) * 64);
        for w in self.whole.within(within).flat_map(|run| run.range()) {
            to[(w % 64) as usize].set(self.geometry.word_mask(w));
            found |= 1 << (w % 64);
        }
        Some((block, found))
    }

    pub(super) fn word(&self, i: u64) -> u64 {
        if self.whole.contains(i) { self.geometry.word_mask(i) } else { self.view.map_or(0, |view| view.word(i)) }
    }

    /// Without what is dirty for want of knowledge.
    fn certain_word(&self, i: u64) -> u64 {
        if self.assumed.contains(i) { self.view.map_or(0, |view| view.certain(i)) } else { self.word(i) }
    }

    /// The first of `words` that are wholly dirty beside the hierarchy.
    pub(super) fn full_words(&self, words: Range<u64>) -> Option<Range<u64>> {
        self.whole.within(words).next().map(|run| run.range())
    }
}

/// A set of dirty bits in memory that stays as it is: what one point holds, or several and more together. It is read as any map
/// is, by [`ReadMap`]. Memory goes with what is dirty in pages that are not full.
pub struct PointSet {
    uuid: Uuid,
    geometry: Geometry,
    /// `None` where no word is known: then it is everything.
    view: Option<ShmView>,
    /// Words that are wholly dirty, without a place in the view: in its stead where that is `None`, and then for want of
    /// knowledge.
    whole: WordRanges,
    /// Which words of the view may be nonzero, as stretches of whole pages that need not be in order.
    extents: Vec<Range<u64>>,
    /// Pages that did not verify, and points of which some were lost.
    failed: u64,
}

impl PointSet {
    /// Nothing yet.
    pub(crate) fn empty(geometry: &Geometry) -> Result<PointSet> {
        let v = VolatileLayout::new(geometry);
        // A set belongs to whoever has it: also to a child that goes on with its work list.
        let mapping = Mapping::copied_by_forks(v.length).map_err(|_| Error::OutOfMemory { bytes: v.length })?;
        let view = Some(ShmView::new(*geometry, &v, mapping)?);
        let (uuid, whole, extents) = (Uuid::NIL, WordRanges::new(), Vec::new());
        Ok(PointSet { uuid, geometry: *geometry, view, whole, extents, failed: 0 })
    }

    /// Everything, since nobody knows what.
    pub(crate) fn everything(geometry: &Geometry) -> PointSet {
        let (uuid, whole, extents) = (Uuid::NIL, all_words(geometry), Vec::new());
        PointSet { uuid, geometry: *geometry, view: None, whole, extents, failed: 0 }
    }

    /// For searches.
    pub(crate) fn dirt(&self) -> Dirt<'_> {
        let assumed = if self.view.is_some() { &NONE } else { &self.whole };
        let view = self.view.as_ref().map(|view| view as &dyn Look);
        Dirt { geometry: &self.geometry, view, whole: &self.whole, assumed }
    }

    /// What the outstanding point of a file holds, if there is one.
    pub(crate) fn outstanding(file: MapFile<'_>, header: &Header) -> Result<Option<PointSet>> {
        let Some(point) = header.outstanding() else { return Ok(None) };
        Ok(Some(PointSet { uuid: point.uuid, ..PointSet::of_points(file, header, [point])? }))
    }

    /// What some points of a header hold together. If more is added, [`finish`](Self::finish) comes after it again.
    pub(crate) fn of_points<'a>(
        file: MapFile<'_>,
        header: &Header,
        points: impl IntoIterator<Item = &'a Point>,
    ) -> Result<PointSet> {
        let mut all = PointSet::empty(&header.geometry)?;
        points.into_iter().try_for_each(|point| all.add_point(file, header, point))?;
        all.finish();
        Ok(all)
    }

    /// Whether nothing but that is known of it.
    pub(super) fn is_everything(&self) -> bool {
        self.view.is_none()
    }

    /// Adds what a point holds, as far as it lies within this set. One of which a page fails or was lost, or of which the file has not all entries, is everything.
    pub(crate) fn add_point(&mut self, file: MapFile<'_>, header: &Header, point: &Point) -> Result<()> {
        if step!(HoldEverything => point.is_everything()) {
            (self.view, self.whole) = (None, all_words(&self.geometry));
        }
        let mut whole = Stretches::default();
        let failed = points::read(file, &header.geometry, point, &mut |index, words| {
            let full = is_full(&self.geometry, index, words);
            let words = format::page_words(&self.geometry, index).zip(words);
            match full {
                true => whole.add(format::page_words(&self.geometry, index)),
                false => words.for_each(|(w, &word)| self.or(w, word & self.geometry.word_mask(w))),
            }
            Ok(())
        })?;
        self.whole.union(&whole.runs());
        self.failed += failed;
        if step!(VerifyPoint => failed > 0) {
            (self.view, self.whole) = (None, all_words(&self.geometry));
        }
        Ok(())
    }

    /// Adds what is dirty in a map of the same shape. [`finish`](Self::finish) comes after all that is added.
    pub(crate) fn add(&mut self, map: &impl Search) {
        let (mut at, end) = (0, self.geometry.words());
        while at < end {
            let full = map.full_words(at..end).unwrap_or(end..end);
            Blocks::over(map, at..full.start).for_each(|(w, word)| self.or(w, word));
            at = full.end;
            self.whole.insert(full);
        }
    }

    /// Adds some bits. Words that they fill are kept as a run, however many they are.
    pub(super) fn add_bits(&mut self, bits: Range<u64>) {
        let filled = bits.start.div_ceil(64)..bits.end / 64;
        if filled.start < filled.end {
            self.whole.insert(filled.clone());
        }
        let head = bits.start..bits.end.min(filled.start * 64);
        let tail = head.end.max(filled.end * 64)..bits.end;
        for (w, mask) in words_of(head).chain(words_of(tail)) {
            self.or(w, mask);
        }
    }

    fn or(&mut self, w: u64, word: u64) {
        let Some(view) = &self.view else { return };
        if word == 0 {
            return;
        }
        view.live()[w as usize].fetch_or(word, SeqCst);
        let page = w / PAGE_WORDS * PAGE_WORDS;
        let end = (page + PAGE_WORDS).min(self.geometry.words());
        match self.extents.last_mut() {
            Some(last) if last.contains(&w) => {}
            Some(last) if last.end == page => last.end = end,
            _ => self.extents.push(page..end),
        }
    }

    /// Makes what was added searchable.
    pub(crate) fn finish(&mut self) {
        if let Some(view) = &self.view {
            let extents = crate::format::WordRanges::from_iter(std::mem::take(&mut self.extents));
            view.levels().finish(extents.iter().map(|run| run.range()));
        }
    }

    /// Pages that did not verify, and points of which some were lost: if there are any, everything counts as dirty.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Dirty granules, and the items in them.
    pub(crate) fn dirty(&self) -> (u64, u64) {
        let (granules, last) = self.tally(0..self.geometry.bits());
        (granules, self.items_in(granules, last))
    }

    /// Why more is dirty in it than was set.
    pub(crate) fn reasons(&self) -> Reasons {
        if self.failed > 0 { Reasons::DAMAGED_PAGE } else { Reasons::NONE }
    }
}

impl fmt::Debug for PointSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PointSet").field("geometry", &self.geometry).finish_non_exhaustive()
    }
}

impl ReadMap for PointSet {}

impl Search for PointSet {
    // It is, but only a map that has walks may say so.
    #[inline]
    fn is_stable(&self) -> bool {
        false
    }

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        self.dirt().next_set(bits)
    }

    fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        self.dirt().next_clear(bits)
    }

    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        self.dirt().next_nonzero_word(words)
    }

    fn next_block(&self, words: Range<u64>, to: &Block) -> Option<(u64, u64)> {
        self.dirt().next_block(words, to)
    }

    fn full_words(&self, words: Range<u64>) -> Option<Range<u64>> {
        self.dirt().full_words(words)
    }

    fn word(&self, i: u64) -> u64 {
        self.dirt().word(i)
    }

    fn certain_word(&self, i: u64) -> u64 {
        self.dirt().certain_word(i)
    }
}

/// The bits of a map and of its outstanding point, as one.
///
/// A search asks the point first, and here no further than what it found. The point's summaries are exact, so it costs little
/// wherever that is; here, in a map that is shared, they are stale where something was reset, which is just what was frozen: who
/// asked here first would look at all of that again from each bit to the next.
pub(crate) struct UnionView<'a> {
    pub current: Dirt<'a>,
    pub point: Option<Dirt<'a>>,
}

impl UnionView<'_> {
    pub(crate) fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        let found = self.point.and_then(|point| point.next_set(bits.clone()));
        self.current.next_set(bits.start..found.unwrap_or(bits.end)).or(found)
    }

    pub(crate) fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        let Some(point) = self.point else { return self.current.next_clear(bits) };
        let mut at = bits.start;
        // What is clear in one may be dirty in the other, bit by bit: so word by word, and whole stretches in between.
        loop {
            at = self.current.next_clear(at..bits.end)?;
            at = point.next_clear(at..bits.end)?;
            let w = at / 64;
            let clear = !self.word(w) & u64::MAX << (at % 64);
            if clear != 0 {
                let bit = w * 64 + u64::from(clear.trailing_zeros());
                return Some(bit).filter(|&bit| bit < bits.end);
            }
            at = (w + 1) * 64;
            if at >= bits.end {
                return None;
            }
        }
    }

    pub(crate) fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        let Some(point) = self.point else { return self.current.next_nonzero_word(words) };
        let found = point.next_nonzero_word(words.clone());
        match (self.current.next_nonzero_word(words.start..found.map_or(words.end, |(w, _)| w + 1)), found) {
            (Some((w, word)), Some((p, bits))) if w == p => Some((w, word | bits)),
            (current, found) => current.or(found),
        }
    }

    pub(crate) fn next_block(&self, words: Range<u64>, to: &Block) -> Option<(u64, u64)> {
        let current = self.current.next_block(words.clone(), to);
        let Some(point) = self.point else { return current };
        // No further than what was found here.
        let end = current.map_or(words.end, |(block, _)| words.end.min((block + 1) * 64));
        let beside = [const { Cell::new(0) }; 64];
        let Some((block, mut bits)) = point.next_block(words.start..end, &beside) else { return current };
        let found = current.filter(|current| current.0 == block).map_or(0, |current| current.1);
        let all = found | bits;
        while bits != 0 {
            let i = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            to[i].set(beside[i].get() | if found >> i & 1 != 0 { to[i].get() } else { 0 });
        }
        Some((block, all))
    }

    /// The first of `words` that are dirty for want of knowledge, here or in the point.
    pub(crate) fn full_words(&self, words: Range<u64>) -> Option<Range<u64>> {
        let point = self.point.and_then(|point| point.full_words(words.clone()));
        self.current.full_words(words).into_iter().chain(point).min_by_key(|run| run.start)
    }

    pub(crate) fn word(&self, i: u64) -> u64 {
        self.current.word(i) | self.point.map_or(0, |point| point.word(i))
    }

    /// Without what is dirty for want of knowledge.
    pub(crate) fn certain_word(&self, i: u64) -> u64 {
        self.current.certain_word(i) | self.point.map_or(0, |point| point.certain_word(i))
    }
}

/// The outstanding point as this process has read it, and the `checkpoint` word for which that is known to be right.
#[derive(Default)]
pub(crate) struct Cache(Mutex<Option<(u64, Arc<PointSet>)>>);

impl Cache {
    /// The outstanding point, for a `checkpoint` word that was just read. `None` when the file has none (any more). What
    /// this says counts if the word is still the same afterwards: the header read here may be ahead of the word by one
    /// commit, and then it names the same point or none.
    ///
    /// `nonce` is that of the session. When all of it are dead, a repair may cut the point off while it is read here: nothing is
    /// known then.
    pub(crate) fn get(&self, file: MapFile<'_>, geometry: &Geometry, nonce: &Uuid, word: u64) -> Option<Arc<PointSet>> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cache {
            Some((known, point)) if *known == word => return Some(point.clone()),
            _ => {}
        }
        let unknown = || Some(Arc::new(PointSet::everything(geometry)));
        let header = || crate::file::headers::newest(file).ok().map(|newest| newest.header);
        let same = |header: &Header| !step!(ReaderChecksHeader => header.nonce != *nonce);
        let Some(found) = header().filter(same) else { return unknown() };
        let uuid = found.outstanding()?.uuid;
        let point = match &*cache {
            Some((_, point)) if !step!(RefreshPoint => point.uuid != uuid) => point.clone(),
            _ => match PointSet::outstanding(file, &found) {
                Ok(point) => Arc::new(point?),
                // Not kept: it may be a passing trouble.
                Err(_) => return unknown(),
            },
        };
        if !header().is_some_and(|header| same(&header)) {
            return unknown();
        }
        *cache = Some((word, point.clone()));
        Some(point)
    }

    /// Takes a point that was read when the map was opened, or none, for a `checkpoint` word.
    pub(crate) fn know(&self, word: u64, point: Option<Arc<PointSet>>) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *cache = point.map(|point| (word, point));
    }
}
