//! Points in memory, and reading "here or in the outstanding point" of a map.
//!
//! Invariant kept here: while the checkpoint state stands still, every bit that is dirty is here or in the outstanding
//! point, and the point does not change. So an answer counts if the runtime page's `checkpoint` word, which goes up
//! with every change of that state, is the same after the search as before it.

use super::core::Core;
use crate::error::{Error, Result};
use crate::file::bottom::{Stretches, all_words, is_full, lost_granules};
use crate::file::points::{entries_end, header_of_point};
use crate::file::scan::{Page, Scan};
use crate::format::{self, CheckpointState, Header, Point, Runs, Uuid, VolatileLayout};
use crate::geometry::{Geometry, PAGE_WORDS, words_of};
use crate::query::{AnyMap, Search};
use crate::shm::view::{Look, View, runtime};
use crate::sys::{Disk, Mapping};
use crate::weak::{Weak, weak};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};

/// How often a reader looks again before it keeps everybody from changing the checkpoint state.
pub(crate) const TRIES: usize = 64;

/// No words.
static NONE: Runs = Runs::new();

/// Dirty bits as a hierarchy, and beside it words that are wholly dirty: those of full pages, and those of which nothing is
/// known. These stay runs: a few bytes of a file can say that everything is dirty, and memory goes with what it really holds.
#[derive(Clone, Copy)]
pub(crate) struct Dirt<'a> {
    pub geometry: &'a Geometry,
    view: Option<&'a dyn Look>,
    whole: &'a Runs,
    /// Those of them that are dirty for want of knowledge.
    assumed: &'a Runs,
}

impl<'a> Dirt<'a> {
    pub(crate) fn new(view: &'a dyn Look, whole: &'a Runs, assumed: &'a Runs) -> Dirt<'a> {
        Dirt { geometry: view.geometry(), view: Some(view), whole, assumed }
    }

    /// All of which is in the view.
    pub(crate) fn of(view: &'a dyn Look) -> Dirt<'a> {
        Dirt::new(view, &NONE, &NONE)
    }

    fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        let known = self.view.and_then(|view| view.next_set(bits.clone()));
        let end = known.unwrap_or(bits.end.min(self.geometry.bits()));
        let run = self.full_words(bits.start / 64..end.div_ceil(64));
        run.map(|run| (run.start * 64).max(bits.start)).filter(|&bit| bit < end).or(known)
    }

    fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
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

    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        let known = self.view.and_then(|view| view.next_nonzero_word(words.clone()));
        let end = known.map_or(words.end, |(w, _)| w + 1);
        let full = self.full_words(words.start..end).map(|run| (run.start, self.geometry.word_mask(run.start)));
        full.filter(|&(_, word)| word != 0).or(known)
    }

    fn word(&self, i: u64) -> u64 {
        if self.whole.contains(i) { self.geometry.word_mask(i) } else { self.known(i) }
    }

    /// Without what is dirty for want of knowledge.
    fn certain_word(&self, i: u64) -> u64 {
        if self.assumed.contains(i) { self.known(i) } else { self.word(i) }
    }

    fn known(&self, i: u64) -> u64 {
        self.view.map_or(0, |view| view.word(i))
    }

    /// The first of `words` that are wholly dirty beside the hierarchy.
    fn full_words(&self, words: Range<u64>) -> Option<Range<u64>> {
        self.whole.within(words).next().map(|run| run.range())
    }
}

/// A set of dirty bits in memory: what one point holds, or several and more together.
pub(crate) struct Frozen {
    uuid: Uuid,
    geometry: Geometry,
    /// `None` where no word is known.
    view: Option<View>,
    /// Words that are wholly dirty, without a place in the view: in its stead where that is `None`, and then for want of
    /// knowledge.
    whole: Runs,
    /// Which words of the view may be nonzero, as stretches of whole pages that need not be in order.
    extents: Vec<Range<u64>>,
    /// Pages that did not verify, and points of which some were lost.
    failed: u64,
}

impl Frozen {
    /// Nothing yet.
    pub(crate) fn empty(geometry: &Geometry) -> Result<Frozen> {
        let v = VolatileLayout::new(geometry);
        let mapping = Mapping::anonymous(v.length).map_err(|_| Error::OutOfMemory { bytes: v.length })?;
        let view = Some(View::new(*geometry, &v, mapping)?);
        let (uuid, whole, extents) = (Uuid::NIL, Runs::new(), Vec::new());
        Ok(Frozen { uuid, geometry: *geometry, view, whole, extents, failed: 0 })
    }

    /// Everything, since nobody knows what.
    pub(crate) fn everything(geometry: &Geometry) -> Frozen {
        let (uuid, whole, extents) = (Uuid::NIL, all_words(geometry), Vec::new());
        Frozen { uuid, geometry: *geometry, view: None, whole, extents, failed: 0 }
    }

    /// For searches.
    pub(crate) fn dirt(&self) -> Dirt<'_> {
        let assumed = if self.view.is_some() { &NONE } else { &self.whole };
        let view = self.view.as_ref().map(|view| view as &dyn Look);
        Dirt { geometry: &self.geometry, view, whole: &self.whole, assumed }
    }

    /// What the outstanding point of a file holds, if there is one.
    pub(crate) fn outstanding(disk: &dyn Disk, path: &Path, header: &Header) -> Result<Option<Frozen>> {
        let Some(point) = header.outstanding() else { return Ok(None) };
        let mut frozen = Frozen::empty(&header.geometry)?;
        frozen.uuid = point.uuid;
        frozen.add_point(disk, path, header, point)?;
        frozen.finish();
        Ok(Some(frozen))
    }

    /// What some points of a header hold together. [`finish`](Self::finish) comes after all that is added.
    pub(crate) fn of_points(disk: &dyn Disk, path: &Path, header: &Header, points: &[Point]) -> Result<Frozen> {
        let mut all = Frozen::empty(&header.geometry)?;
        points.iter().try_for_each(|point| all.add_point(disk, path, header, point))?;
        Ok(all)
    }

    /// Adds what a point holds, as far as it lies within this set. One of which a page fails or was lost, or of which the file has not all entries, is everything.
    pub(crate) fn add_point(&mut self, disk: &dyn Disk, path: &Path, header: &Header, point: &Point) -> Result<()> {
        if !point.has_regions() {
            return Ok(());
        }
        let len =
            disk.len().map_err(|source| Error::Io { op: "look at the file", path: path.to_path_buf(), source })?;
        let as_header = header_of_point(header, point);
        let cut_off = len < entries_end(&as_header) && !weak(Weak::PointIgnoreLength);
        let (mut granules, mut failed) = (0, u64::from(cut_off));
        let mut whole = Stretches::default();
        let scan = Scan { disk, path, header: &as_header };
        scan.run(
            |index, found| match found {
                Page::Good(words) => {
                    granules += words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
                    if is_full(&self.geometry, index, words) {
                        return whole.add(format::page_words(&self.geometry, index));
                    }
                    for (w, &word) in format::page_words(&self.geometry, index).zip(words) {
                        self.or(w, word & self.geometry.word_mask(w));
                    }
                }
                Page::Failed(_) => failed += 1,
            },
            |_| {},
        )?;
        self.whole.union(&whole.runs());
        failed += u64::from(lost_granules(&as_header, granules, failed).is_some());
        self.failed += failed;
        if failed > 0 && !weak(Weak::PointIgnoreFailed) {
            (self.view, self.whole) = (None, all_words(&self.geometry));
        }
        Ok(())
    }

    /// Adds what is dirty in a map of the same shape. [`finish`](Self::finish) comes after all that is added.
    pub(crate) fn add(&mut self, map: &impl Search) {
        let (mut at, end) = (0, self.geometry.words());
        while at < end {
            let full = map.full_words(at..end).unwrap_or(end..end);
            while let Some((w, word)) = map.next_nonzero_word(at..full.start) {
                self.or(w, word);
                at = w + 1;
            }
            at = full.end;
            self.whole.insert(full);
        }
    }

    /// Adds some bits. Words that they fill are kept as a run, however many they are.
    pub(crate) fn add_bits(&mut self, bits: Range<u64>) {
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
            let extents = crate::format::Runs::from_iter(std::mem::take(&mut self.extents));
            view.levels().finish(extents.iter().map(|run| run.range()));
        }
    }

    /// Pages that did not verify, and points of which some were lost, for which everything counts as dirty.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }
}

impl AnyMap for Frozen {}

impl Search for Frozen {
    // It is, but only a map that has walks may say so.
    const STABLE: bool = false;

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
pub(crate) struct Both<'a> {
    pub here: Dirt<'a>,
    pub point: Option<Dirt<'a>>,
}

impl Both<'_> {
    pub(crate) fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        let here = self.here.next_set(bits.clone());
        let Some(point) = self.point else { return here };
        // No further than what was found here.
        let end = here.unwrap_or(bits.end);
        point.next_set(bits.start..end).or(here)
    }

    pub(crate) fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        let Some(point) = self.point else { return self.here.next_clear(bits) };
        let mut at = bits.start;
        // What is clear in one may be dirty in the other, bit by bit: so word by word, and whole stretches in between.
        loop {
            at = self.here.next_clear(at..bits.end)?;
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
        let here = self.here.next_nonzero_word(words.clone());
        let Some(point) = self.point else { return here };
        let end = here.map_or(words.end, |(w, _)| w + 1);
        match (here, point.next_nonzero_word(words.start..end)) {
            (Some((w, word)), Some((p, bits))) if w == p => Some((w, word | bits)),
            (_, Some(found)) => Some(found),
            (found, None) => found,
        }
    }

    /// The first of `words` that are dirty for want of knowledge, here or in the point.
    pub(crate) fn full_words(&self, words: Range<u64>) -> Option<Range<u64>> {
        let point = self.point.and_then(|point| point.full_words(words.clone()));
        self.here.full_words(words).into_iter().chain(point).min_by_key(|run| run.start)
    }

    pub(crate) fn word(&self, i: u64) -> u64 {
        self.here.word(i) | self.point.map_or(0, |point| point.word(i))
    }

    /// Without what is dirty for want of knowledge.
    pub(crate) fn certain_word(&self, i: u64) -> u64 {
        self.here.certain_word(i) | self.point.map_or(0, |point| point.certain_word(i))
    }
}

/// Here only: without the outstanding point.
pub(crate) struct Here<'a> {
    pub dirt: Dirt<'a>,
    pub core: Option<&'a Core>,
}

impl Here<'_> {
    fn search<R>(&self, f: impl Fn() -> R) -> R {
        self.core.map_or_else(&f, |core| core.steadily(&f))
    }
}

impl AnyMap for Here<'_> {}

impl Search for Here<'_> {
    const STABLE: bool = false;

    fn geometry(&self) -> &Geometry {
        self.dirt.geometry
    }

    fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        self.search(|| self.dirt.next_set(bits.clone()))
    }

    fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        self.search(|| self.dirt.next_clear(bits.clone()))
    }

    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        self.search(|| self.dirt.next_nonzero_word(words.clone()))
    }

    fn full_words(&self, words: Range<u64>) -> Option<Range<u64>> {
        self.dirt.full_words(words)
    }

    fn word(&self, i: u64) -> u64 {
        self.dirt.word(i)
    }
}

/// The outstanding point as this process has read it, and the `checkpoint` word for which that is known to be right.
#[derive(Default)]
pub(crate) struct Cache(Mutex<Option<(u64, Arc<Frozen>)>>);

impl Cache {
    /// The outstanding point, for a `checkpoint` word that was just read. `None` when the file has none (any more). What
    /// this says counts if the word is still the same afterwards: the header read here may be ahead of the word by one
    /// commit, and then it names the same point or none.
    ///
    /// `nonce` is that of the session. When all of it are dead, a repair may write the point while it is read here: nothing is
    /// known then.
    pub(crate) fn get(
        &self,
        (disk, path): (&dyn Disk, &Path),
        geometry: &Geometry,
        nonce: &Uuid,
        word: u64,
    ) -> Option<Arc<Frozen>> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cache {
            Some((known, point)) if *known == word => return Some(point.clone()),
            _ => {}
        }
        let unknown = || Some(Arc::new(Frozen::everything(geometry)));
        let header = || crate::file::headers::newest(disk, path).ok().map(|newest| newest.header);
        let same = |header: &Header| header.nonce == *nonce || weak(Weak::WatchRepaired);
        let Some(found) = header().filter(same) else { return unknown() };
        let uuid = found.outstanding()?.uuid;
        let point = match &*cache {
            Some((_, point)) if point.uuid == uuid => point.clone(),
            Some((_, point)) if weak(Weak::StalePoint) => point.clone(),
            _ => match Frozen::outstanding(disk, path, &found) {
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
}

/// The state that a `checkpoint` word of the runtime page tells.
pub(crate) fn is_normal(word: u64) -> bool {
    word & 3 == CheckpointState::Normal as u64
}

impl Core {
    /// The runtime page's `checkpoint` word.
    pub(crate) fn checkpoint_word(&self) -> u64 {
        self.view.runtime()[runtime::CHECKPOINT].load(SeqCst)
    }

    /// Brings the word in line with the header that is durable now. Under the update lock.
    ///
    /// It follows every commit and every adoption: so it says FREEZING before anything is reset here, and NORMAL only
    /// when a header does and before the region is given up, also when the one who committed has died in between.
    pub(crate) fn say_checkpoint(&self, state: CheckpointState) {
        let old = self.checkpoint_word();
        if old & 3 != state as u64 && !weak(Weak::SilentCheckpoint) {
            self.view.runtime()[runtime::CHECKPOINT].store(((old >> 2) + 1) << 2 | state as u64, SeqCst);
        }
    }

    /// Runs a search of here and the outstanding point together.
    #[inline]
    pub(crate) fn together<R>(&self, f: impl Fn(&Both<'_>) -> R) -> R {
        let word = self.checkpoint_word();
        if is_normal(word) {
            let found = self.steadily(|| f(&Both { here: Dirt::of(&self.view), point: None }));
            if self.checkpoint_word() == word || weak(Weak::LookOnce) {
                return found;
            }
        }
        self.together_with_point(f)
    }

    #[cold]
    fn together_with_point<R>(&self, f: impl Fn(&Both<'_>) -> R) -> R {
        for _ in 0..TRIES {
            let word = self.checkpoint_word();
            let point = if is_normal(word) { None } else { self.frozen(word) };
            if point.is_some() || is_normal(word) {
                let found = self
                    .steadily(|| f(&Both { here: Dirt::of(&self.view), point: point.as_deref().map(Frozen::dirt) }));
                if self.checkpoint_word() == word {
                    return found;
                }
            }
            std::hint::spin_loop();
        }
        // Nobody changes the state while the lock is held; and if it cannot be had, nothing is known.
        let lock = self.lock();
        let known = lock.as_ref().is_ok_and(|lock| lock.adopt().is_ok());
        let word = self.checkpoint_word();
        let point = match known && is_normal(word) {
            true => None,
            false => Some(self.frozen(word).filter(|_| known).unwrap_or_else(|| Arc::new(self.unknown()))),
        };
        self.steadily(|| f(&Both { here: Dirt::of(&self.view), point: point.as_deref().map(Frozen::dirt) }))
    }

    fn unknown(&self) -> Frozen {
        Frozen::everything(self.geometry())
    }

    /// The outstanding point, for a `checkpoint` word that was just read: see [`Cache::get`].
    pub(crate) fn frozen(&self, word: u64) -> Option<Arc<Frozen>> {
        self.frozen.get((&*self.disk, &self.path), self.geometry(), &self.nonce, word)
    }

    /// Takes a point that was read when the map was opened.
    pub(crate) fn know_frozen(&self, point: Option<Frozen>) {
        let mut cache = self.frozen.0.lock().unwrap_or_else(PoisonError::into_inner);
        *cache = point.map(|point| (self.checkpoint_word(), Arc::new(point)));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::store::sim::Rng;

    fn view(geometry: &Geometry) -> View {
        Frozen::empty(geometry).unwrap().view.unwrap()
    }

    #[test]
    fn what_is_assumed_is_found_as_if_it_were_filled() {
        let mut rng = Rng(7);
        for (round, bits) in [0u64, 1, 63, 64, 65, 700, 5000, 70_000].into_iter().cycle().take(160).enumerate() {
            let geometry = Geometry::new(bits, 0).unwrap();
            let (known, filled) = (view(&geometry), view(&geometry));
            let mut words = || {
                let first = rng.below(geometry.words());
                first..(first + 1 + rng.below(70)).min(geometry.words())
            };
            let assumed = Runs::from_iter((0..round as u64 % 5).map(|_| words()));
            let mut whole = Runs::from_iter((0..round as u64 % 3).map(|_| words()));
            whole.union(&assumed);
            for w in (0..round % 4).flat_map(|_| words()) {
                let word = geometry.word_mask(w) & 0x8000_f00f_0000_0101u64.rotate_left(w as u32);
                known.live()[w as usize].store(word, SeqCst);
                filled.live()[w as usize].store(word, SeqCst);
            }
            for w in whole.iter().flat_map(|run| run.range()) {
                filled.live()[w as usize].store(geometry.word_mask(w), SeqCst);
            }
            [&known, &filled].into_iter().for_each(|view| view.levels().finish(std::iter::once(0..geometry.words())));
            let point = Frozen::empty(&geometry).unwrap();
            let here = Here { dirt: Dirt::new(&known, &whole, &assumed), core: None };
            let both = Both { here: here.dirt, point: Some(point.dirt()) };
            let expected = Here { dirt: Dirt::of(&filled), core: None };
            for _ in 0..50 {
                let start = rng.below(bits + 1);
                let range = start..start + rng.below(bits - start + 1);
                let words = range.start / 64..range.end.div_ceil(64);
                let next = expected.next_set(range.clone());
                assert_eq!([here.next_set(range.clone()), both.next_set(range.clone())], [next; 2], "{range:?}");
                let next = expected.next_clear(range.clone());
                assert_eq!([here.next_clear(range.clone()), both.next_clear(range.clone())], [next; 2], "{range:?}");
                let next = expected.next_nonzero_word(words.clone());
                assert_eq!([here.next_nonzero_word(words.clone()), both.next_nonzero_word(words)], [next; 2]);
                assert_eq!(here.tally(range.clone()), expected.tally(range.clone()), "{range:?} of {whole:?}");
                let w = rng.below(geometry.words());
                assert_eq!([here.word(w), both.word(w)], [expected.word(w); 2]);
                let certain = if assumed.contains(w) { &known } else { &filled };
                assert_eq!(both.certain_word(w), certain.live()[w as usize].load(SeqCst));
            }
            let mut all = Frozen::empty(&geometry).unwrap();
            all.add(&here);
            all.finish();
            assert_eq!(AnyMap::sha256(&all), AnyMap::sha256(&expected));
        }
    }

    #[test]
    fn what_is_assumed_is_counted_without_a_look_at_it() {
        let geometry = Geometry::new(1 << 41, 0).unwrap();
        assert_eq!(Frozen::everything(&geometry).tally(5..1 << 41), ((1 << 41) - 5, true));
        assert_eq!(Frozen::everything(&geometry).tally(5..6), (1, true));
    }
}
