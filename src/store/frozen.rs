//! Points in memory, and reading "here or in the outstanding point" of a map.
//!
//! Invariant kept here: while the checkpoint state stands still, every bit that is dirty is here or in the outstanding
//! point, and the point does not change. So an answer counts if the runtime page's `checkpoint` word, which goes up
//! with every change of that state, is the same after the search as before it.

use super::core::Core;
use super::open::{entries_end, header_of_point, lost_granules};
use super::scan::{Page, Scan};
use super::view::{Look, View, runtime};
use crate::error::{Error, Result};
use crate::format::{self, CheckpointState, Header, Point, Uuid, VolatileLayout};
use crate::geometry::{Geometry, PAGE_WORDS};
use crate::iter::Rounded;
use crate::read::{AnyMap, Search};
use crate::sys::{Disk, Mapping};
use crate::weak::{Weak, weak};
use crate::words::Words;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};

/// How often a reader looks again before it keeps everybody from changing the checkpoint state.
pub(super) const TRIES: usize = 64;

/// A set of dirty bits in memory: what one point holds, or several and more together.
pub(super) struct Frozen {
    uuid: Uuid,
    geometry: Geometry,
    /// `None`: everything is dirty, for want of knowledge.
    view: Option<View>,
    /// Which words may be nonzero, as stretches of whole pages that need not be in order.
    extents: Vec<Range<u64>>,
    /// Pages that did not verify, and points of which some were lost.
    failed: u64,
}

impl Frozen {
    /// Nothing yet.
    pub(super) fn empty(geometry: &Geometry) -> Result<Frozen> {
        let v = VolatileLayout::new(geometry);
        let mapping = Mapping::anonymous(v.length).map_err(|_| Error::OutOfMemory { bytes: v.length })?;
        let view = Some(View::new(*geometry, &v, mapping)?);
        Ok(Frozen { uuid: Uuid::NIL, geometry: *geometry, view, extents: Vec::new(), failed: 0 })
    }

    /// Everything, since nobody knows what.
    pub(super) fn everything(geometry: &Geometry) -> Frozen {
        Frozen { uuid: Uuid::NIL, geometry: *geometry, view: None, extents: Vec::new(), failed: 0 }
    }

    /// What the outstanding point of a file holds, if there is one.
    pub(super) fn outstanding(disk: &dyn Disk, path: &Path, header: &Header) -> Result<Option<Frozen>> {
        let Some(point) = header.outstanding() else { return Ok(None) };
        let mut frozen = Frozen::empty(&header.geometry)?;
        frozen.uuid = point.uuid;
        frozen.add_point(disk, path, header, point)?;
        frozen.finish();
        Ok(Some(frozen))
    }

    /// What some points of a header hold together. [`finish`](Self::finish) comes after all that is added.
    pub(super) fn of_points(disk: &dyn Disk, path: &Path, header: &Header, points: &[Point]) -> Result<Frozen> {
        let mut all = Frozen::empty(&header.geometry)?;
        points.iter().try_for_each(|point| all.add_point(disk, path, header, point))?;
        Ok(all)
    }

    /// Adds what a point holds, as far as it lies within this set. One of which a page fails or was lost, or of which the file has not all entries, is everything.
    pub(super) fn add_point(&mut self, disk: &dyn Disk, path: &Path, header: &Header, point: &Point) -> Result<()> {
        if !point.has_regions() {
            return Ok(());
        }
        let len =
            disk.len().map_err(|source| Error::Io { op: "look at the file", path: path.to_path_buf(), source })?;
        let as_header = header_of_point(header, point);
        let cut_off = len < entries_end(&as_header) && !weak(Weak::PointIgnoreLength);
        let (mut granules, mut failed) = (0, u64::from(cut_off));
        let scan = Scan { disk, path, header: &as_header };
        scan.run(
            |index, found| match found {
                Page::Good(words) => {
                    granules += words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
                    for (w, &word) in format::page_words(&self.geometry, index).zip(words) {
                        self.or(w, word & self.geometry.word_mask(w));
                    }
                }
                Page::Failed(_) => failed += 1,
            },
            |_| {},
        )?;
        failed += u64::from(lost_granules(&as_header, granules, failed).is_some());
        self.failed += failed;
        if failed > 0 && !weak(Weak::PointIgnoreFailed) {
            self.view = None;
        }
        Ok(())
    }

    /// Adds what is dirty in a map of the same length. [`finish`](Self::finish) comes after all that is added.
    pub(super) fn add(&mut self, map: &impl Search) {
        for (w, word) in Rounded::new(map, self.geometry) {
            self.or(w, word);
        }
    }

    /// Adds some bits.
    pub(super) fn add_bits(&mut self, bits: Range<u64>) {
        for w in bits.start / 64..bits.end.div_ceil(64) {
            let from = bits.start.saturating_sub(w * 64);
            self.or(w, u64::MAX << from & u64::MAX >> 64u64.saturating_sub(bits.end - w * 64));
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
    pub(super) fn finish(&mut self) {
        if let Some(view) = &self.view {
            let extents = crate::format::Runs::from_iter(std::mem::take(&mut self.extents));
            view.levels().finish(extents.iter().map(|run| run.range()));
        }
    }

    /// Pages that did not verify, and points of which some were lost, for which everything counts as dirty.
    pub(super) fn failed(&self) -> u64 {
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
        match &self.view {
            Some(view) => view.levels().next_set(bits),
            None => Some(bits.start).filter(|_| bits.start < bits.end),
        }
    }

    fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        self.view.as_ref().and_then(|view| view.levels().next_clear(bits))
    }

    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        match &self.view {
            Some(view) => view.levels().next_nonzero_word(words),
            None => Some((words.start, self.word(words.start))).filter(|w| words.start < words.end && w.1 != 0),
        }
    }

    fn word(&self, i: u64) -> u64 {
        match &self.view {
            Some(view) => view.levels().bottom().load(i as usize),
            None => self.geometry.word_mask(i),
        }
    }

    fn certain_word(&self, i: u64) -> u64 {
        if self.view.is_some() { self.word(i) } else { 0 }
    }
}

/// The bits of a map and of its outstanding point, as one.
pub(super) struct Both<'a> {
    pub here: &'a dyn Look,
    pub point: Option<&'a Frozen>,
}

impl Both<'_> {
    pub(super) fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        let here = self.here.next_set(bits.clone());
        let Some(point) = self.point else { return here };
        // No further than what was found here.
        let end = here.unwrap_or(bits.end);
        point.next_set(bits.start..end).or(here)
    }

    pub(super) fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
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

    pub(super) fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        let here = self.here.next_nonzero_word(words.clone());
        let Some(point) = self.point else { return here };
        let end = here.map_or(words.end, |(w, _)| w + 1);
        match (here, point.next_nonzero_word(words.start..end)) {
            (Some((w, word)), Some((p, bits))) if w == p => Some((w, word | bits)),
            (_, Some(found)) => Some(found),
            (found, None) => found,
        }
    }

    pub(super) fn word(&self, i: u64) -> u64 {
        self.here.word(i) | self.point.map_or(0, |point| point.word(i))
    }

    /// Without what is dirty for want of knowledge.
    pub(super) fn certain_word(&self, i: u64) -> u64 {
        self.here.word(i) | self.point.map_or(0, |point| point.certain_word(i))
    }
}

/// Here only: without the outstanding point.
pub(super) struct Here<'a> {
    pub view: &'a dyn Look,
    pub core: Option<&'a Core>,
}

impl Here<'_> {
    fn search<R>(&self, f: impl Fn() -> R) -> R {
        self.core.map_or_else(&f, |core| core.steadily(&f))
    }
}

impl Search for Here<'_> {
    const STABLE: bool = false;

    fn geometry(&self) -> &Geometry {
        self.view.geometry()
    }

    fn next_set(&self, bits: Range<u64>) -> Option<u64> {
        self.search(|| self.view.next_set(bits.clone()))
    }

    fn next_clear(&self, bits: Range<u64>) -> Option<u64> {
        self.search(|| self.view.next_clear(bits.clone()))
    }

    fn next_nonzero_word(&self, words: Range<u64>) -> Option<(u64, u64)> {
        self.search(|| self.view.next_nonzero_word(words.clone()))
    }

    fn word(&self, i: u64) -> u64 {
        self.view.word(i)
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
    pub(super) fn get(
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
        let header = || super::headers::newest(disk, path).ok().map(|newest| newest.header);
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
pub(super) fn is_normal(word: u64) -> bool {
    word & 3 == CheckpointState::Normal as u64
}

impl Core {
    /// The runtime page's `checkpoint` word.
    pub(super) fn checkpoint_word(&self) -> u64 {
        self.view.runtime()[runtime::CHECKPOINT].load(SeqCst)
    }

    /// Brings the word in line with the header that is durable now. Under the update lock.
    ///
    /// It follows every commit and every adoption: so it says FREEZING before anything is reset here, and NORMAL only
    /// when a header does and before the region is given up, also when the one who committed has died in between.
    pub(super) fn say_checkpoint(&self, state: CheckpointState) {
        let old = self.checkpoint_word();
        if old & 3 != state as u64 && !weak(Weak::SilentCheckpoint) {
            self.view.runtime()[runtime::CHECKPOINT].store(((old >> 2) + 1) << 2 | state as u64, SeqCst);
        }
    }

    /// Runs a search of here and the outstanding point together.
    #[inline]
    pub(super) fn together<R>(&self, f: impl Fn(&Both<'_>) -> R) -> R {
        let word = self.checkpoint_word();
        if is_normal(word) {
            let found = self.steadily(|| f(&Both { here: &self.view, point: None }));
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
                let found = self.steadily(|| f(&Both { here: &self.view, point: point.as_deref() }));
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
        self.steadily(|| f(&Both { here: &self.view, point: point.as_deref() }))
    }

    fn unknown(&self) -> Frozen {
        Frozen::everything(self.geometry())
    }

    /// The outstanding point, for a `checkpoint` word that was just read: see [`Cache::get`].
    pub(super) fn frozen(&self, word: u64) -> Option<Arc<Frozen>> {
        self.frozen.get((&*self.disk, &self.path), self.geometry(), &self.nonce, word)
    }

    /// Takes a point that was read when the map was opened.
    pub(super) fn know_frozen(&self, point: Option<Frozen>) {
        let mut cache = self.frozen.0.lock().unwrap_or_else(PoisonError::into_inner);
        *cache = point.map(|point| (self.checkpoint_word(), Arc::new(point)));
    }
}
