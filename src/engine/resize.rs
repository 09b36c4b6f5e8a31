//! Changing the length of a map.
//!
//! Invariant kept here: until a header that names the new regions is durable, the old ones are what they were; they are
//! given up only when both pairs name the new ones. So the newest header that a crash leaves names regions that hold
//! everything that was set and lies within its length, and the loss of a pair brings no old length back.

use super::commit::Failure;
use super::core::{Core, Locked, Parts};
use super::flush::write_recovered;
use super::point_set::PointSet;
use crate::error::{Error, Refusal, Result};
use crate::file::bottom::{all_words, batches, pages_of, place, words_of_pages};
use crate::file::create::random_uuid;
use crate::file::points::forget_intent;
use crate::format::{
    Durability, Header, Layout, Point, PointRole, RegionName, SLOTS, Uuid, VolatileLayout, WordRanges, bottom_length,
    table_length,
};
use crate::geometry::{Geometry, PAGE_WORDS, mask_in};
use crate::progress::Step;
use crate::shm::runtime;
use crate::shm::space::{self, Allocated, CHUNK_WORDS, Place};
use crate::shm::view::ShmView;
use crate::sys::os;
use crate::trace::event;
use std::ops::Range;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

impl Core {
    /// The same map with another geometry, in regions of its own, durably. This one must not be used afterwards,
    /// unless it failed with [`Failure::Unchanged`]. Nobody else may use it meanwhile.
    pub(crate) fn truncate(&self, geometry: Geometry) -> std::result::Result<Core, Failure> {
        let mut lock = self.lock()?;
        // Now the live level is what the bottom holds, and nothing is listed by words of the old geometry.
        lock.flush()?;
        let old = lock.refresh_header()?;
        self.refuse_outstanding(&old)?;
        let mut header = self.header_of_length(&old, geometry)?;
        let undo = |_: &Error| {
            self.free_all_but(&old);
            self.stay_off_volatile();
        };
        let core = self.build(&old, &mut header).inspect_err(undo)?;
        let grows = geometry.bits() > self.geometry().bits();
        if grows {
            // What can fail for want of memory comes before the commits.
            self.changes.truncate(self.geometry(), &geometry, false).inspect_err(undo)?;
        }
        twin!(ResizeThenFree => self.free_all_but(&header));
        // From here on the file may have the new length. Should this process be killed before it takes the nonce away, who
        // looks at the old volatile part must not go on as if nothing had happened.
        step!(ResizeUnshares => self.view.runtime()[runtime::SHARED].store(0, SeqCst));
        self.commit_length(&lock, &mut header, &core)?;
        if !grows {
            let cut = geometry.bits()..self.geometry().bits();
            let cleared = self.view.levels().next_set(cut).is_some();
            self.changes.truncate(self.geometry(), &geometry, cleared).map_err(Failure::InDoubt)?;
        }
        self.changes.move_to(&core.changes);
        core.changes.mark(unknown_to_target(&old, &geometry));
        self.hand_over(&core);
        self.view.set_nonce(&[0; 16]);
        self.free_all_but(&header);
        event!(INFO, "truncated", path = %self.path.display(), from = self.geometry().len(), to = geometry.len());
        Ok(core)
    }

    /// Of what a checkpoint has frozen a backup may be under way.
    fn refuse_outstanding(&self, header: &Header) -> Result<()> {
        let Some(point) = step!(RefuseOutstanding => header.outstanding()) else { return Ok(()) };
        Err(self.file().refused(Refusal::CheckpointOutstanding { uuid: point.uuid, name: point.name.clone() }))
    }

    /// The header of the same map with another geometry.
    fn header_of_length(&self, old: &Header, geometry: Geometry) -> Result<Header> {
        let mut header = old.clone();
        // All of it is written before the commit, and the next freeze predicts anew.
        forget_intent(&mut header);
        if self.in_file {
            // Who looks at the old volatile part must see that it is not the map any more.
            header.nonce = Uuid(os::random().map_err(self.io("get random bytes"))?);
        }
        self.move_to(&mut header, geometry)?;
        header.clean_dirty_bits = header.clean_dirty_bits.min(geometry.bits());
        header.runs.clip(geometry.words());
        if self.durability == Durability::Process {
            header.runs = all_words(&geometry);
        }
        Ok(header)
    }

    /// Commits the new length to both pairs.
    fn commit_length(&self, lock: &Locked<'_>, header: &mut Header, core: &Core) -> std::result::Result<(), Failure> {
        for _ in 0..step!(ResizeBothPairs => 2, else 1) {
            sync_point!(NewLength);
            lock.commit(header).map_err(|e| {
                self.view.set_nonce(&[0; 16]);
                // Nobody joins a session that never came to be: which header its commits must spare nobody knows.
                step!(ResizeUnjoinable => core.view.set_nonce(&[0; 16]));
                // Whichever header the next opener finds, it must see that a write has failed.
                step!(ResizeKeepsDoubt => core.record_write_failure());
                Failure::InDoubt(e)
            })?;
        }
        Ok(())
    }

    /// What the runtime page and the counters say goes on in the core of the new length.
    fn hand_over(&self, core: &Core) {
        // The slots of the dead as well: their writes may still arrive.
        let slots = (0..SLOTS).flat_map(runtime::slot);
        let fields = [runtime::PUBLISHED, runtime::ATTEMPTED, runtime::CHECKPOINT, runtime::EPOCH, runtime::ADDING];
        for field in fields.into_iter().chain(slots.filter(|_| step!(ResizeKeepsSlots => true))) {
            core.view.runtime()[field].store(self.view.runtime()[field].load(SeqCst), SeqCst);
        }
        core.counters.continue_from(&self.counters);
    }

    /// Gives a header another geometry, and regions for it in space that it leaves free; those of points new uuids as well. The
    /// newest point gets some if the map grows: it holds what is new, unless it holds everything.
    fn move_to(&self, header: &mut Header, geometry: Geometry) -> Result<()> {
        let mut taken: Vec<Range<u64>> = header.regions().into_iter().map(|(_, range)| range).collect();
        let grown = geometry.len() > header.geometry.len();
        header.geometry = geometry;
        header.layout = Layout {
            table: place(&mut taken, table_length(&geometry)),
            bottom: place(&mut taken, bottom_length(&geometry)),
            volatile: place(&mut taken, VolatileLayout::new(&geometry).length),
        };
        let newest = header.points.len().checked_sub(1).filter(|_| grown);
        for (i, point) in header.points.iter_mut().enumerate() {
            if point.is_nothing() && newest != Some(i) {
                continue;
            }
            point.uuid = random_uuid().map_err(self.io("get random bytes"))?;
            if point.is_everything() {
                point.granules = geometry.bits();
            } else {
                point.table_offset = place(&mut taken, table_length(&geometry)).start;
                point.bottom_offset = place(&mut taken, bottom_length(&geometry)).start;
                point.granules = 0;
            }
        }
        Ok(())
    }

    /// Fills the regions of the points of a new length with what they held of the old one, and the newest with what is new.
    /// Memory: the dirty part of one of them.
    fn move_points(&self, old: &Header, header: &mut Header) -> Result<()> {
        let (before, after) = (old.geometry.len(), header.geometry.len());
        let kept: Vec<&Point> = old.points.iter().filter(|point| point.role != PointRole::Intent).collect();
        for (i, &point) in kept.iter().enumerate().filter(|_| step!(ResizePoints => true)) {
            if !header.points[i].has_regions() {
                continue;
            }
            let mut held = PointSet::empty(&header.geometry)?;
            held.add_point(self.file(), old, point)?;
            header.points[i].reasons |= held.reasons();
            if held.is_everything() {
                header.points[i] = header.points[i].holding_everything(&header.geometry);
                continue;
            }
            if step!(NewDirtySincePoints => i + 1 == kept.len()) {
                // Also the granule that was partly covered.
                held.add_bits(header.geometry.touched(&(before..after)));
            }
            held.finish();
            header.points[i] = self.fill_point(header, header.points[i].clone(), &held)?;
        }
        Ok(())
    }

    /// Clears the regions of the new length, durably. What an earlier bottom of this map left there would match its old entries, and
    /// so must be gone before a header names it. The same sync makes the file as long as the header says.
    fn clear_regions(&self, header: &Header) -> Result<()> {
        self.disk.extend(header.file_length()).map_err(self.io("grow the file"))?;
        for (name, region) in header.regions() {
            let cleared_later = matches!(name, RegionName::Headers | RegionName::Volatile);
            if step!(ClearNewRegions => !cleared_later) {
                self.disk.punch_hole(region).map_err(self.io("clear space for the new length"))?;
            }
        }
        let synced = step!(SyncNewRegions => self.disk.sync_all());
        synced.map_err(|e| {
            self.record_write_failure();
            self.io("clear space for the new length")(e)
        })?;
        self.counters.syncs.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Writes pages of the new live level to the new bottom, durably.
    fn write_bottom(&self, header: &Header, view: &ShmView, pages: &WordRanges) -> Result<()> {
        for (i, batch) in batches(pages).enumerate() {
            if i > 0 {
                self.tell(Step::Resizing, batch[0] * PAGE_WORDS)?;
            }
            self.counters.syncs.fetch_add(1, Relaxed);
            let bytes = write_recovered(&*self.disk, header, view, &batch).map_err(|e| {
                if self.durability == Durability::Process {
                    // The error may be about a page of the volatile part, of which the kernel speaks only once.
                    self.record_write_failure();
                }
                self.io("write the bottom level of the new length")(e)
            })?;
            self.counters.bytes_written.fetch_add(bytes, Relaxed);
        }
        Ok(())
    }

    /// Fills the regions that `header` names with what the live level and the `old` points hold of them, durably.
    fn build(&self, old: &Header, header: &mut Header) -> Result<Core> {
        let file = self.file();
        self.clear_regions(header)?;
        self.move_points(old, header)?;
        let view = space::view(file, header, (self.in_file, self.shared), &self.watcher)?;
        let mut allocated = Allocated::default();
        let mut ensure = |words: Range<u64>| {
            self.tell(Step::Resizing, words.start.min(self.geometry().words()))?;
            let place = Place { layout: &header.layout, geometry: &header.geometry };
            if self.in_file { allocated.ensure(file, place, None, words) } else { Ok(()) }
        };
        ensure(0..1)?; // The runtime page is written in any case.
        let pages = copy(&self.view, &view, &mut ensure, unknown_to_target(old, &header.geometry))?;
        self.write_bottom(header, &view, &pages)?;
        let parts = Parts {
            disk: self.disk.clone(),
            path: self.path.clone(),
            view,
            nonce: header.nonce,
            slot: self.slot,
            shared: self.shared,
            lock_timeout: self.lock_timeout,
            bounds: self.bounds.of_length(&header.geometry),
            allocated,
            image_before: self.image_before,
            watcher: self.watcher.clone(),
        };
        let core = Core::new(parts, header)?;
        if step!(ResizeKeepsFailure => self.write_failed()) {
            core.record_write_failure();
        }
        core.all_reset.set(self.all_reset.get());
        core.backup_began.set(self.backup_began.get());
        core.view.runtime()[runtime::SHARED].store(u64::from(self.shared), SeqCst);
        core.view.runtime()[runtime::IMAGE].store(self.view.runtime()[runtime::IMAGE].load(SeqCst), SeqCst);
        core.view.set_nonce(&header.nonce.0);
        Ok(core)
    }

    /// Frees what the header does not name, also what a crash has left there. Best effort: it only takes space.
    fn free_all_but(&self, header: &Header) {
        let mut regions: Vec<Range<u64>> = header.regions().into_iter().map(|(_, range)| range).collect();
        regions.sort_unstable_by_key(|range| range.start);
        let mut free = 0;
        for region in regions {
            if free < region.start {
                space::free(&*self.disk, free..region.start);
            }
            free = region.end;
        }
        // Who has the volatile part mapped for reading must not find that there is no such place in the file any more.
        if matches!(self.disk.has_readers(), Ok(false)) {
            let _ = self.disk.truncate(free);
        }
    }
}

/// The new bits for which the last backup's target may hold something else than the image: it reaches behind the end that the map
/// had, as a block device or after the map had got shorter. A backup sees by a target's size only what it lacks.
fn unknown_to_target(old: &Header, geometry: &Geometry) -> Range<u64> {
    let end = old.geometry.len();
    let reaches = step!(NewDirtyInTarget => old.target.is_some_and(|target| target.size > end));
    if reaches { geometry.touched(&(end..geometry.len())) } else { 0..0 }
}

/// Copies what two live levels have in common, sets the bits of `new`, and rebuilds the summaries of the second. `ensure` hears of
/// the words of each chunk before one of them is stored, and can end it. Says which pages are not zero.
fn copy(
    from: &ShmView,
    to: &ShmView,
    ensure: &mut dyn FnMut(Range<u64>) -> Result<()>,
    new: Range<u64>,
) -> Result<WordRanges> {
    let end = from.geometry().words().min(to.geometry().words());
    let levels = from.levels();
    let mut pages: Vec<Range<u64>> = Vec::new();
    let (mut at, mut ensured) = (0, 0);
    while let Some((w, word)) = levels.next_nonzero_word(at..end) {
        at = w + 1;
        let word = word & to.geometry().word_mask(w);
        if word != 0 {
            if w >= ensured {
                ensured = (w / CHUNK_WORDS + 1) * CHUNK_WORDS;
                ensure(w..ensured.min(to.geometry().words()))?;
            }
            to.live()[w as usize].store(word, SeqCst);
            match pages.last_mut() {
                Some(last) if w / PAGE_WORDS < last.end => {}
                Some(last) if w / PAGE_WORDS == last.end => last.end += 1,
                _ => pages.push(w / PAGE_WORDS..w / PAGE_WORDS + 1),
            }
        }
    }
    let mut pages = WordRanges::from_iter(pages);
    if !new.is_empty() {
        let words = new.start / 64..new.end.div_ceil(64);
        for first in words.clone().step_by(CHUNK_WORDS as usize) {
            let chunk = first..(first + CHUNK_WORDS).min(words.end);
            ensure(chunk.clone())?;
            chunk.for_each(|w| _ = to.live()[w as usize].fetch_or(mask_in(w, &new), SeqCst));
        }
        pages.union(&pages_of(&WordRanges::one(words)));
    }
    to.levels().finish(words_of_pages(to.geometry(), &pages).iter().map(|r| r.range()));
    Ok(pages)
}
