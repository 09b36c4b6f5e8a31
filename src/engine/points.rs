//! Points: what was written between one kept name and the next, in regions of their own.
//!
//! Invariants kept here: what was written after a name was frozen is held by the point of that name, by a newer one, by the
//! outstanding point, or here. A region is chosen and written holding the space lock, until a header names it, and it is given
//! up in the same hold of the update lock in which a durable header stopped naming it. So nobody writes where somebody
//! else does, and nobody clears what is somebody's.

use super::core::Core;
use super::frozen::Frozen;
use crate::bitmap::Bitmap;
use crate::error::{Error, Result};
use crate::file::bottom::{lost_granules, place};
use crate::file::locks::Deadline;
use crate::file::pages::{self, some_pages};
use crate::file::points::{self, NamedPoint, header_of_point, kept, no_point};
use crate::file::scan::{Page, Scan};
use crate::file::{create, headers};
use crate::format::{self, Header, Point, PointRole, Reasons, Reserved, bottom_length, table_length};
use crate::geometry::PAGE_WORDS;
use crate::map::{DirtyMap, Inner};
use crate::options::Options;
use crate::progress::Step;
use crate::query::Search;
use crate::session::attach;
use crate::sync::MutexGuard;
use crate::sys::{Disk, Lock};
use crate::weak::{Weak, weak};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How often points are read again that change meanwhile.
const TRIES: usize = 16;
/// Most words of a point handled in one hold of the update lock.
pub(crate) const BATCH_WORDS: usize = 4096;

/// A word of a point: where, and its bits.
pub(crate) type PointWord = (u64, u64);

/// The space lock, held: nobody else chooses or writes a region that no header names.
pub(crate) struct Space<'a> {
    core: &'a Core,
    _mine: Option<MutexGuard<'a, ()>>,
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        self.core.disk.unlock(Lock::Space);
    }
}

impl Core {
    /// Takes the space lock, waiting for it as long as the options say. It comes before the update lock.
    pub(crate) fn space(&self) -> Result<Space<'_>> {
        self.usable()?;
        if weak(Weak::NoSpace) {
            return Ok(Space { core: self, _mine: None });
        }
        let end = Deadline::after(self.lock_timeout);
        let mine = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait_for_space(end)?;
        Ok(Space { core: self, _mine: Some(mine) })
    }

    /// Gives up the regions of a point that no durable header names any more. In the same hold of the update lock as
    /// the commit. Best effort: they only take space, and whoever uses them again clears them.
    pub(crate) fn give_up(&self, point: &Point) {
        for region in [point.table(self.geometry()), point.bottom(self.geometry())] {
            let _ = self.disk.free(region);
        }
    }

    /// Hands out the nonzero words of a point, ascending, up to `most` at a time; says how many pages did not verify, or were lost
    /// so that nothing else tells (which counts as one).
    pub(crate) fn each_batch(
        &self,
        header: &Header,
        point: &Point,
        most: usize,
        f: &mut dyn FnMut(&[PointWord]) -> Result<()>,
    ) -> Result<u64> {
        let as_header = header_of_point(header, point);
        let scan = Scan { disk: &*self.disk, path: &self.path, header: &as_header };
        let mut granules = 0;
        let mut batch: Vec<PointWord> = Vec::new();
        let (mut failed, mut trouble) = (0, Ok(()));
        scan.run(
            |index, found| match found {
                Page::Good(words) if trouble.is_ok() => {
                    let words = format::page_words(self.geometry(), index).zip(words.iter().copied());
                    let words = words.filter(|&(_, word)| word != 0);
                    batch.extend(words.inspect(|&(_, word)| granules += u64::from(word.count_ones())));
                    if batch.len() + PAGE_WORDS as usize > most {
                        trouble = f(&batch);
                        batch.clear();
                    }
                }
                Page::Good(_) => {}
                Page::Failed(_) => failed += 1,
            },
            |_| {},
        )?;
        trouble?;
        if !batch.is_empty() {
            f(&batch)?;
        }
        Ok(failed + u64::from(lost_granules(&as_header, granules, failed).is_some()))
    }

    /// Gives up the regions of points that a header, which is durable in both pairs, does not name any more. In the same
    /// hold of the update lock as the commit.
    pub(crate) fn give_up_all_but(&self, header: &Header, before: &[Point]) {
        let named = |point: &Point| header.points.iter().any(|there| there.uuid == point.uuid);
        before.iter().filter(|point| point.has_regions() && !named(point)).for_each(|point| self.give_up(point));
    }

    /// Forgets a point. What it holds goes to the next older one, since whose name it was written as well.
    pub(crate) fn drop_point(&self, name: &str) -> Result<()> {
        let space = self.space()?;
        let before = self.lock()?.adopt()?;
        let at = points::find(&before, name, &self.path)?;
        let older = at.checked_sub(1).filter(|_| !weak(Weak::DropNoMerge));
        let joined = older.map(|older| space.joined(&before, &before.points[older], &before.points[at])).transpose()?;
        let lock = self.lock()?;
        let mut header = lock.adopt()?;
        // Who changes the points has the space lock; only an outstanding one may have gone.
        if header.points.get(..=at) != before.points.get(..=at) {
            return Err(no_point(&header, name, &self.path));
        }
        header.points.remove(at);
        if let (Some(older), Some(joined)) = (older, joined) {
            header.points[older] = joined;
        }
        lock.commit_to_both(&mut header, Weak::DropOnePair)?;
        self.give_up_all_but(&header, &before.points[..=at]);
        Ok(())
    }
}

impl Space<'_> {
    /// A new, outstanding point without a name, in space that the header leaves free.
    pub(crate) fn choose(&self, header: &Header) -> Result<Point> {
        let mut taken = header.regions().into_iter().map(|(_, range)| range).collect();
        Ok(Point {
            uuid: create::random_uuid().map_err(self.core.io("get random bytes"))?,
            time: crate::sys::facts::now(),
            role: PointRole::Outstanding,
            name: String::new(),
            table_offset: place(&mut taken, table_length(&header.geometry)).start,
            bottom_offset: place(&mut taken, bottom_length(&header.geometry)).start,
            granules: 0,
            reasons: Reasons::NONE,
            target: None,
            reserved: Reserved::default(),
        })
    }

    /// The older of two points as it is when it holds what the newer one does as well: in the regions of the one that has
    /// some, or else in new ones, where both are written durably.
    pub(crate) fn joined(&self, header: &Header, older: &Point, newer: &Point) -> Result<Point> {
        let reasons = older.reasons | newer.reasons;
        let regions = match (older.has_regions(), newer.has_regions()) {
            (_, false) => older.clone(),
            (false, true) => newer.clone(),
            (true, true) => {
                let mut both = Frozen::empty(&header.geometry)?;
                for point in [older, newer] {
                    both.add_point(&*self.core.disk, &self.core.path, header, point)?;
                }
                both.finish();
                let chosen = self.choose(header)?;
                self.write(header, chosen.clone(), &both).inspect_err(|_| self.core.give_up(&chosen))?
            }
        };
        Ok(Point { reasons, ..older.holding(&regions) })
    }

    /// Clears the regions of a new point and writes what `map` holds there, durably; says of it how much that was. Memory:
    /// bounded.
    pub(crate) fn write(&self, header: &Header, point: Point, map: &impl Search) -> Result<Point> {
        let core = self.core;
        let (table, bottom) = (point.table(&header.geometry), point.bottom(&header.geometry));
        // What an earlier point left there would not match the entries of this one. It must be gone durably before a
        // header names the region, and the file as long as the header will say.
        core.disk.grow(table.end.max(bottom.end)).map_err(core.io("grow the file for a point"))?;
        if !weak(Weak::PointNoClear) {
            for region in [table, bottom] {
                core.disk.punch(region).map_err(core.io("clear space for a point"))?;
            }
        }
        if !weak(Weak::PointNoSync) {
            core.disk.sync_all().map_err(|e| {
                core.degrade();
                core.io("clear space for a point")(e)
            })?;
        }
        core.counters.syncs.fetch_add(1, Relaxed);
        core.fill_point(header, point, map)
    }
}

impl Core {
    /// Writes what `map` holds to the regions of a point, which are cleared durably; says of the point how much that was.
    pub(crate) fn fill_point(&self, header: &Header, mut point: Point, map: &impl Search) -> Result<Point> {
        if weak(Weak::PointNoWrite) {
            return Ok(point);
        }
        let layout = header_of_point(header, &point).layout;
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
            let written = pages::write(&*self.disk, &point.uuid, &layout, &indices, |k, _| batch[k].1);
            let bytes = written.map_err(|e| {
                // Nothing names the region; but the error may be about a page of a mapped volatile part.
                self.degrade();
                self.io("write a point")(e)
            })?;
            self.counters.bytes_written.fetch_add(bytes, Relaxed);
        }
    }
}

/// Points: the checkpoints that were [committed](Self::commit_checkpoint) and kept by name. Each name stands for the moment
/// in which it was frozen; what was written after it is kept for it until it is dropped.
///
/// [`reset`](Self::reset) and its kind forget for these names as well what no freeze has taken yet. At most
/// [`MAX_POINTS`](crate::format::MAX_POINTS) points are kept; with as many, none can be frozen before one is dropped.
impl DirtyMap {
    /// The points that are kept, oldest first: at most 64.
    ///
    /// # Errors
    /// As [`info`](Self::info).
    pub fn points(&self) -> Result<Vec<NamedPoint>> {
        Ok(kept(&self.header()?))
    }

    /// What was written after the point of this name was frozen. If what a point holds of that does not verify, everything.
    ///
    /// # Errors
    /// [`Error::NoPoint`]; [`Error::OutOfMemory`]; as [`info`](Self::info). Of a map that was loaded for reading also
    /// [`Error::Locked`], while somebody opens, closes or repairs it, and [`Error::Unusable`] when its points are others by now.
    pub fn since(&self, name: &str) -> Result<Bitmap> {
        bitmap_of(&self.load_since(name)?)
    }

    /// What was written after the point `from` was frozen and before the point `to` was, which is a newer one. If what a point
    /// holds of that does not verify, everything.
    ///
    /// # Errors
    /// As [`since`](Self::since); [`Error::Refused`] when `to` is the older one.
    pub fn between(&self, from: &str, to: &str) -> Result<Bitmap> {
        bitmap_of(&self.load_between(from, to)?)
    }

    /// Makes a new, closed map at `path` that holds what [`since`](Self::since) says, with this map's length and
    /// granularity. For maps too large for a [`Bitmap`]: takes as much memory as this map's dirty part.
    ///
    /// # Errors
    /// As [`since`](Self::since), and those of [`Options::create`].
    pub fn export_since(&self, name: &str, path: impl AsRef<Path>) -> Result<()> {
        export(&self.load_since(name)?, path.as_ref())
    }

    /// The same with what [`between`](Self::between) says.
    ///
    /// # Errors
    /// As [`between`](Self::between), and those of [`Options::create`].
    pub fn export_between(&self, from: &str, to: &str, path: impl AsRef<Path>) -> Result<()> {
        export(&self.load_between(from, to)?, path.as_ref())
    }

    /// Forgets the name of a point. What is kept for it goes to the next older one, so that what [`since`](Self::since) and
    /// [`between`](Self::between) say for all other names stays the same; for the oldest it is forgotten. Crash-safe: either the
    /// point is there or it is not. Memory: where both points hold something, as much as the map's dirty part.
    ///
    /// # Errors
    /// [`Error::NoPoint`], [`Error::ReadOnly`]; [`Error::OutOfMemory`]; [`Error::Io`], when the disk is full for instance: the
    /// point is still there.
    pub fn drop_point(&self, name: &str) -> Result<()> {
        self.core()?.drop_point(name)
    }

    fn load_since(&self, name: &str) -> Result<Frozen> {
        self.loading(|disk, header| {
            let from = points::find(header, name, self.path())?;
            let mut all = Frozen::of_points(disk, self.path(), header, &header.points[from..])?;
            all.add(&self.here());
            all.finish();
            Ok(all)
        })
    }

    fn load_between(&self, from: &str, to: &str) -> Result<Frozen> {
        self.loading(|disk, header| {
            let [first, end] = [from, to].map(|name| points::find(header, name, self.path()));
            let (first, end) = (first?, end?);
            let Some(points) = header.points.get(first..end) else {
                let why = format!("{to:?} was frozen before {from:?}; give the older one first");
                return Err(Error::Refused { path: self.path().to_path_buf(), why });
            };
            let mut all = Frozen::of_points(disk, self.path(), header, points)?;
            all.finish();
            Ok(all)
        })
    }

    /// Runs `f` with the header until no point came or went meanwhile, and no bit moved from here to a point or back.
    fn loading(&self, f: impl Fn(&dyn Disk, &Header) -> Result<Frozen>) -> Result<Frozen> {
        self.readable()?;
        let points = |disk: &dyn Disk| -> Result<(Header, u64)> {
            Ok((headers::newest(disk, self.path())?.header, self.checkpoint_word()))
        };
        let (own, _gate, mut then);
        let mut session = None;
        let disk: &dyn Disk = match &self.inner {
            Inner::Live(live) => {
                then = points(&*live.core.disk)?;
                &*live.core.disk
            }
            Inner::Watching(watch) => {
                then = points(&*watch.disk)?;
                &*watch.disk
            }
            Inner::Loaded(loaded) => {
                own = Arc::new(attach::open_file(self.path(), false)?);
                // Nobody keeps a repair, or the undoing of one, from writing points that a header goes on naming: who has read
                // half of one before and half afterwards knows neither.
                let gate = attach::opening_gate(&own, self.path(), Duration::ZERO)?;
                let io = |source| Error::Io { op: "ask for writers", path: self.path().to_path_buf(), source };
                let rest = attach::at_rest(&own).map_err(io)?;
                // Nor does that happen in the session of those who have it open, and they must be able to close it.
                if !rest {
                    session = Some(headers::newest(&*own, self.path())?.header.nonce);
                }
                _gate = rest.then_some(gate);
                then = (loaded.header.clone(), 0);
                &*own
            }
        };
        for _ in 0..TRIES {
            let found = f(disk, &then.0)?;
            let now = points(disk)?;
            // When the session of others has ended, nothing is dirty in what they had mapped, and its words are zeros.
            self.readable()?;
            if let Inner::Watching(watch) = &self.inner {
                watch.expect(&now.0)?;
            }
            if session.is_some_and(|session| session != now.0.nonce) {
                return Err(Error::Unusable { why: "those who had it open have closed it meanwhile" });
            }
            if (now.1, &now.0.uuid, &now.0.points) == (then.1, &then.0.uuid, &then.0.points) {
                return Ok(found);
            }
            if let Inner::Loaded(_) = &self.inner {
                return Err(Error::Unusable { why: "its points have changed since it was loaded" });
            }
            then = now;
        }
        Err(Error::Locked { path: self.path().to_path_buf(), what: "its points change all the time", holder: None })
    }
}

fn export(map: &Frozen, path: &Path) -> Result<()> {
    let options = Options::new().granularity(map.geometry().granularity());
    create::create_filled(path, map, &options)
}

pub(crate) fn bitmap_of(map: &Frozen) -> Result<Bitmap> {
    let mut copy = Bitmap::new(map.geometry().len(), map.geometry().granularity())?;
    copy.merge(map)?;
    Ok(copy)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Access;

    #[test]
    pub(crate) fn what_was_read_of_a_session_that_has_ended_meanwhile_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let shared = Options::new().access(Access::Shared).flush_interval(None);
        let map = shared.create(&path, 1 << 30).unwrap();
        let uuid = map.freeze(Some("a")).unwrap().uuid;
        map.commit_checkpoint(uuid, true).unwrap();
        map.close().unwrap();
        // No checkpoint in this session: the word that would tell of one is what it is when nobody has the map.
        let map = shared.open(&path).unwrap();
        map.set(0..1).unwrap();
        let map = std::cell::Cell::new(Some(map));
        let reader = Options::new().access(Access::ReadOnly).open(&path).unwrap();
        let read = reader.loading(|_, header| {
            if let Some(map) = map.take() {
                map.close().unwrap();
            }
            let mut all = Frozen::empty(&header.geometry)?;
            all.add(&reader.here());
            all.finish();
            Ok(all)
        });
        assert_eq!(read.err().map(|e| e.kind()), Some("unusable"));
    }

    #[test]
    pub(crate) fn what_was_read_while_a_session_of_the_dead_was_repaired_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let map = Options::new().access(Access::Shared).flush_interval(None).create(&path, 1 << 30).unwrap();
        map.set(0..1).unwrap();
        let uuid = map.freeze(Some("a")).unwrap().uuid;
        map.commit_checkpoint(uuid, true).unwrap();
        map.freeze(None).unwrap();
        let reader = Options::new().access(Access::ReadOnly).open(&path).unwrap();
        let map = std::cell::Cell::new(Some(map));
        let read = reader.loading(|_, header| {
            drop(map.take());
            crate::repair(&path, None, Duration::ZERO, |_, _| ()).unwrap();
            Frozen::empty(&header.geometry)
        });
        assert_eq!(read.err().map(|e| e.kind()), Some("unusable"));
        // Nor is what was frozen.
        assert!(reader.is_full());
    }

    #[test]
    fn nobody_repairs_a_point_while_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let map = Options::new().flush_interval(None).create(&path, 1 << 30).unwrap();
        map.set(0..1).unwrap();
        let uuid = map.freeze(Some("a")).unwrap().uuid;
        map.commit_checkpoint(uuid, true).unwrap();
        map.close().unwrap();
        let reader = Options::new().read_only(true).open(&path).unwrap();
        let repairer = attach::open_file(&path, true).unwrap();
        let read = reader.loading(|_, header| {
            assert!(!repairer.try_lock(Lock::Gate).unwrap(), "the gate is free");
            Frozen::empty(&header.geometry)
        });
        assert!(read.is_ok() && repairer.try_lock(Lock::Gate).unwrap());
    }
}
