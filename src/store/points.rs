//! Points: frozen sets of dirty bits in regions of their own.
//!
//! Invariant kept here: a region is chosen and written holding the space lock, until a header names it, and it is given
//! up in the same hold of the update lock in which a durable header stopped naming it. So nobody writes where somebody
//! else does, and nobody clears what is somebody's.

use super::core::Core;
use super::frozen::Frozen;
use super::locks::Deadline;
use super::open::{header_of_point, lost_granules};
use super::pages::{self, PageContent};
use super::scan::{Page, Scan};
use super::{DirtyMap, Inner, Options, attach, create, headers};
use crate::bitmap::Bitmap;
use crate::error::{Error, Result};
use crate::format::{
    self, Header, Point, PointRole, Reasons, Reserved, Uuid, bottom_length, free_offset, table_length,
};
use crate::geometry::PAGE_WORDS;
use crate::read::Search;
use crate::sync::MutexGuard;
use crate::sys::{Disk, Lock};
use crate::weak::{Weak, weak};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Pages of a point that are written with one sync: 8 MiB of them.
const BATCH_PAGES: usize = 16384;
/// How often points are read again that change meanwhile.
const TRIES: usize = 16;
/// Most words of a point handled in one hold of the update lock.
const BATCH_WORDS: usize = 4096;

/// A word of a point: where, and its bits.
pub(super) type PointWord = (u64, u64);

/// A point that is kept by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedPoint {
    /// Its name.
    pub name: String,
    /// Its identity: that of its checkpoint, or a new one since an older point was merged into it.
    pub uuid: Uuid,
    /// When it was frozen, in seconds since 1970.
    pub time: i64,
}

/// The points of a header that are kept, oldest first.
pub(super) fn kept(header: &Header) -> Vec<NamedPoint> {
    let kept = header.points.iter().filter(|point| point.role == PointRole::Kept);
    kept.map(|point| NamedPoint { name: point.name.clone(), uuid: point.uuid, time: point.time }).collect()
}

/// The space lock, held: nobody else chooses or writes a region that no header names.
pub(super) struct Space<'a> {
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
    pub(super) fn space(&self) -> Result<Space<'_>> {
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
    pub(super) fn give_up(&self, point: &Point) {
        for region in [point.table(self.geometry()), point.bottom(self.geometry())] {
            let _ = self.disk.free(region);
        }
    }

    /// Hands out the nonzero words of a point, ascending, some at a time; says how many pages did not verify, or were lost
    /// so that nothing else tells (which counts as one).
    pub(super) fn each_batch(
        &self,
        header: &Header,
        point: &Point,
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
                    if batch.len() + PAGE_WORDS as usize > BATCH_WORDS {
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

    /// Forgets a point, whose bits go to the next older one.
    pub(super) fn drop_point(&self, name: &str) -> Result<()> {
        let space = self.space()?;
        let lock = self.lock()?;
        let mut header = lock.adopt()?;
        let at = find(&header, name, &self.path)?;
        let dropped = header.points[at].clone();
        if at == 0 {
            // Nobody's "since" reaches behind it.
            header.points.remove(0);
            lock.commit_to_both(&mut header, Weak::DropOnePair)?;
            self.give_up(&dropped);
            return Ok(());
        }
        drop(lock);
        let older = header.points[at - 1].clone();
        let mut both = Frozen::empty(self.geometry())?;
        for point in [&older, &dropped].into_iter().take(if weak(Weak::DropNoMerge) { 1 } else { 2 }) {
            both.add_point(&*self.disk, &self.path, &header, point)?;
        }
        both.finish();
        let merged = Point { time: older.time, name: older.name.clone(), ..space.choose(&header)? };
        let merged = space.write(&header, merged, &both)?;
        let lock = self.lock()?;
        let mut header = lock.adopt()?;
        let same = header.points.get(at - 1) == Some(&older) && header.points.get(at) == Some(&dropped);
        if !same {
            return Err(no_point(&header, name, &self.path));
        }
        header.points.remove(at);
        header.points[at - 1] = Point { role: PointRole::Kept, ..merged };
        lock.commit_to_both(&mut header, Weak::DropOnePair)?;
        self.give_up(&older);
        self.give_up(&dropped);
        Ok(())
    }
}

/// Where in the table a point that is kept by a name is.
fn no_point(header: &Header, name: &str, path: &Path) -> Error {
    let known = kept(header).into_iter().map(|point| point.name).collect();
    Error::NoPoint { path: path.to_path_buf(), name: name.into(), known }
}

fn find(header: &Header, name: &str, path: &Path) -> Result<usize> {
    let is = |point: &Point| point.role == PointRole::Kept && point.name == name;
    let none = || no_point(header, name, path);
    header.points.iter().position(is).ok_or_else(none)
}

impl Space<'_> {
    /// A new, outstanding point without a name, in space that the header leaves free.
    pub(super) fn choose(&self, header: &Header) -> Result<Point> {
        let mut taken: Vec<_> = header.regions().into_iter().map(|(_, range)| range).collect();
        let mut place = |length| {
            let start = free_offset(taken.iter().cloned(), length);
            taken.push(start..start + length);
            start
        };
        Ok(Point {
            uuid: create::random_uuid().map_err(self.core.io("get random bytes"))?,
            time: crate::sys::facts::now(),
            role: PointRole::Outstanding,
            name: String::new(),
            table_offset: place(table_length(&header.geometry)),
            bottom_offset: place(bottom_length(&header.geometry)),
            granules: 0,
            reasons: Reasons::NONE,
            target: None,
            reserved: Reserved::default(),
        })
    }

    /// Clears the regions of a new point and writes what `map` holds there, durably; says of it how much that was. Memory:
    /// bounded.
    pub(super) fn write(&self, header: &Header, mut point: Point, map: &impl Search) -> Result<Point> {
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
            at = next;
            // Of what is written: what is in the map may be more by now.
            point.granules +=
                batch.iter().flat_map(|page| page.1).map(|word| u64::from(word.count_ones())).sum::<u64>();
            let indices: Vec<u64> = batch.iter().map(|&(index, _)| index).collect();
            core.counters.syncs.fetch_add(1, Relaxed);
            let written = pages::write(&*core.disk, &point.uuid, &layout, &indices, |k, _| batch[k].1);
            let bytes = written.map_err(|e| {
                // Nothing names the region; but the error may be about a page of a mapped volatile part.
                core.degrade();
                core.io("write a point")(e)
            })?;
            core.counters.bytes_written.fetch_add(bytes, Relaxed);
        }
    }
}

/// Some pages of a map that are not zero, from a word on, and where to go on.
pub(super) fn some_pages(map: &impl Search, from: u64) -> (Vec<(u64, PageContent)>, u64) {
    let end = map.geometry().words();
    let mut pages: Vec<(u64, PageContent)> = Vec::new();
    let mut at = from;
    while let Some((w, word)) = map.next_nonzero_word(at..end) {
        let page = w / PAGE_WORDS;
        if pages.last().is_none_or(|last| last.0 != page) {
            if pages.len() == BATCH_PAGES {
                return (pages, page * PAGE_WORDS);
            }
            pages.push((page, [0; PAGE_WORDS as usize]));
        }
        if let Some((_, words)) = pages.last_mut() {
            words[(w % PAGE_WORDS) as usize] = word;
        }
        at = w + 1;
    }
    (pages, end)
}

/// Points: the checkpoints that were [committed](Self::commit_checkpoint) and kept by name. Each holds what was dirty
/// when it was frozen and in no older one.
impl DirtyMap {
    /// The points that are kept, oldest first.
    ///
    /// # Errors
    /// As [`info`](Self::info).
    pub fn points(&self) -> Result<Vec<NamedPoint>> {
        Ok(kept(&self.header()?))
    }

    /// What the point of this name holds. If a page of it does not verify, everything.
    ///
    /// # Errors
    /// [`Error::NoPoint`]; [`Error::OutOfMemory`]; as [`info`](Self::info). Of a map that was loaded for reading also
    /// [`Error::Locked`], while somebody opens, closes or repairs it, and [`Error::Unusable`] when its points are others by now.
    pub fn point(&self, name: &str) -> Result<Bitmap> {
        bitmap_of(&self.load_point(name)?)
    }

    /// What is dirty in the point of this name, in any later one, in an outstanding checkpoint, or here. If a page of
    /// one of these points does not verify, everything.
    ///
    /// # Errors
    /// As [`point`](Self::point).
    pub fn since(&self, name: &str) -> Result<Bitmap> {
        bitmap_of(&self.load_since(name)?)
    }

    /// Makes a new, closed map at `path` that holds what [`point`](Self::point) says, with this map's length and
    /// granularity. For maps too large for a [`Bitmap`]: takes as much memory as this map's dirty part.
    ///
    /// # Errors
    /// As [`point`](Self::point), and those of [`Options::create`].
    pub fn export_point(&self, name: &str, path: impl AsRef<Path>) -> Result<()> {
        export(&self.load_point(name)?, path.as_ref())
    }

    /// The same with what [`since`](Self::since) says.
    ///
    /// # Errors
    /// As [`export_point`](Self::export_point).
    pub fn export_since(&self, name: &str, path: impl AsRef<Path>) -> Result<()> {
        export(&self.load_since(name)?, path.as_ref())
    }

    /// Forgets the name of a point. Its bits go to the next older point, so that what [`since`](Self::since) says for
    /// every other name stays the same; those of the oldest are forgotten. Crash-safe: either it is there or it is not.
    ///
    /// # Errors
    /// [`Error::NoPoint`], [`Error::ReadOnly`]; [`Error::Io`], when the disk is full for instance: the point is still
    /// there.
    pub fn drop_point(&self, name: &str) -> Result<()> {
        self.core()?.drop_point(name)
    }

    fn load_point(&self, name: &str) -> Result<Frozen> {
        self.loading(|disk, header| {
            let at = find(header, name, self.path())?;
            let mut point = Frozen::empty(&header.geometry)?;
            point.add_point(disk, self.path(), header, &header.points[at])?;
            point.finish();
            Ok(point)
        })
    }

    fn load_since(&self, name: &str) -> Result<Frozen> {
        self.loading(|disk, header| {
            let from = find(header, name, self.path())?;
            let mut all = Frozen::empty(&header.geometry)?;
            for point in &header.points[from..] {
                all.add_point(disk, self.path(), header, point)?;
            }
            all.add(&self.here());
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
                then = (loaded.1.clone(), 0);
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

pub(super) fn bitmap_of(map: &Frozen) -> Result<Bitmap> {
    let mut copy = Bitmap::new(map.geometry().len(), map.geometry().granularity())?;
    copy.merge(map)?;
    Ok(copy)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::Access;

    #[test]
    pub(in crate::store) fn what_was_read_of_a_session_that_has_ended_meanwhile_is_an_error() {
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
