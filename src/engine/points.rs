//! Points: what was written between one kept name and the next, in regions of their own.
//!
//! Invariant kept here: what was written after a name was frozen is held by the point of that name, by a newer one, by the
//! outstanding point, or here.

use super::core::Core;
use super::intent::keep_intent;
use super::point_set::PointSet;
use super::space::{NewPoint, RegionAllocator};
use crate::error::Result;
use crate::file::bottom::BottomRef;
use crate::file::create::random_uuid;
use crate::file::pages::{self, some_pages};
use crate::file::points::{self, no_point};
use crate::file::scan::{Page, Scan};
use crate::format::{self, Header, Point};
use crate::geometry::PAGE_WORDS;
use crate::progress::Step;
use crate::query::Search;
use std::sync::atomic::Ordering::Relaxed;

/// Most words of a point handled in one hold of the update lock.
pub(super) const BATCH_WORDS: usize = 4096;

/// A word of a point: where, and its bits.
pub(super) type PointWord = (u64, u64);

impl Core {
    /// Hands out the nonzero words of a point, ascending, up to `most` at a time; says how many pages did not verify, or were lost
    /// so that nothing else tells (which counts as one, as does a point that holds everything without regions).
    pub(super) fn each_batch(
        &self,
        header: &Header,
        point: &Point,
        most: usize,
        f: &mut dyn FnMut(&[PointWord]) -> Result<()>,
    ) -> Result<u64> {
        if !point.has_regions() {
            return Ok(u64::from(point.is_everything()));
        }
        let bottom = BottomRef::of_point(&header.geometry, point);
        let scan = Scan { file: self.file(), bottom: &bottom };
        let mut granules = 0;
        let mut batch: Vec<PointWord> = Vec::new();
        let mut failed = 0;
        scan.run(
            |index, found| {
                let Page::Good(words) = found else {
                    failed += 1;
                    return Ok(());
                };
                let words = format::page_words(self.geometry(), index).zip(words.iter().copied());
                let words = words.filter(|&(_, word)| word != 0);
                batch.extend(words.inspect(|&(_, word)| granules += u64::from(word.count_ones())));
                if batch.len() + PAGE_WORDS as usize > most {
                    f(&batch)?;
                    batch.clear();
                }
                Ok(())
            },
            |_| Ok(()),
        )?;
        if !batch.is_empty() {
            f(&batch)?;
        }
        Ok(failed + u64::from(bottom.lost(granules, failed).is_some()))
    }

    /// Forgets a point. What it holds goes to the next older one, since whose name it was written as well.
    pub(crate) fn drop_point(&self, name: &str) -> Result<()> {
        let space = self.space()?;
        let before = self.lock()?.refresh_header()?;
        let at = points::find(&before, name, &self.path)?;
        let older = step!(DropJoinsOlder => at.checked_sub(1));
        let joined = older.map(|older| space.joined(&before, &before.points[older], &before.points[at])).transpose()?;
        let lock = self.lock()?;
        let mut header = lock.refresh_header()?;
        // Who changes the points has the space lock; only an outstanding one may have gone.
        if header.points.get(..=at) != before.points.get(..=at) {
            return Err(no_point(&header, name, &self.path));
        }
        header.points.remove(at);
        if let (Some(older), Some(joined)) = (older, joined) {
            header.points[older] = joined.hand_over();
        }
        keep_intent(&mut header, &before.points);
        lock.commit(&mut header)?;
        step!(DropBothPairs => lock.commit(&mut header))?;
        self.give_up_all_but(&header, &before.points[..=at]);
        Ok(())
    }
}

impl RegionAllocator<'_> {
    /// The older of two points as it is when it holds what the newer one does as well: in the regions of the one that holds
    /// anything, or else in new ones, where both are written durably, or in none if that is everything.
    pub(super) fn joined(&self, header: &Header, older: &Point, newer: &Point) -> Result<NewPoint<'_>> {
        let mut reasons = older.reasons | newer.reasons;
        let mut joined = match (older.is_nothing(), newer.is_nothing()) {
            (_, true) => NewPoint::named(older),
            (true, false) => NewPoint::named(newer),
            (false, false) => {
                let both = PointSet::of_points(self.core.file(), header, [older, newer])?;
                reasons |= both.reasons();
                if both.is_everything() {
                    let uuid = random_uuid().map_err(self.core.io("get random bytes"))?;
                    NewPoint::named(&Point { uuid, ..older.holding_everything(&header.geometry) })
                } else {
                    self.write(header, self.select(header)?, &both)?
                }
            }
        };
        joined.point = Point { reasons, ..older.holding(&joined.point) };
        Ok(joined)
    }

    /// Clears the regions of a new point and writes what `map` holds there, durably; says of it how much that was. Memory:
    /// bounded.
    pub(super) fn write<'a>(&self, header: &Header, mut new: NewPoint<'a>, map: &impl Search) -> Result<NewPoint<'a>> {
        let (core, point) = (self.core, &new.point);
        let (table, bottom) = (point.table(&header.geometry), point.bottom(&header.geometry));
        // What an earlier point left there would not match the entries of this one. It must be gone durably before a
        // header names the region, and the file as long as the header will say.
        core.disk.extend(table.end.max(bottom.end)).map_err(core.io("grow the file for a point"))?;
        for region in [table, bottom] {
            step!(ClearPoint => core.disk.punch_hole(region)).map_err(core.io("clear space for a point"))?;
        }
        let synced = step!(SyncPointSpace => core.disk.sync_all());
        synced.map_err(|e| {
            core.record_write_failure();
            core.io("clear space for a point")(e)
        })?;
        core.counters.syncs.fetch_add(1, Relaxed);
        new.point = core.fill_point(header, new.point.clone(), map)?;
        Ok(new)
    }
}

impl Core {
    /// Writes what `map` holds to the regions of a point, which are cleared durably; says of the point how much that was.
    pub(super) fn fill_point(&self, header: &Header, mut point: Point, map: &impl Search) -> Result<Point> {
        twin!(WritePoint => return Ok(point));
        let bottom = BottomRef::of_point(&header.geometry, &point);
        let mut at = 0;
        loop {
            let (batch, next) = some_pages(map, at);
            if batch.is_empty() {
                return Ok(point);
            }
            if at > 0 {
                self.tell(Step::Freezing, at)?;
            }
            at = next;
            // Of what is written: what is in the map may be more by now.
            point.granules +=
                batch.iter().flat_map(|page| page.1).map(|word| u64::from(word.count_ones())).sum::<u64>();
            let indices: Vec<u64> = batch.iter().map(|&(index, _)| index).collect();
            self.counters.syncs.fetch_add(1, Relaxed);
            let written = pages::write(&*self.disk, &bottom, &indices, |k, _| batch[k].1);
            let bytes = written.map_err(|e| {
                // Nothing names the region; but the error may be about a page of a mapped volatile part.
                self.record_write_failure();
                self.io("write a point")(e)
            })?;
            self.counters.bytes_written.fetch_add(bytes, Relaxed);
        }
    }
}
