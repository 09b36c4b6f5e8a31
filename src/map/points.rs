//! What was written since a point was frozen, or between two.

use super::dirty_map::{DirtyMap, Inner};
use crate::bitmap::Bitmap;
use crate::engine::point_set::PointSet;
use crate::error::{Error, InUse, Refusal, Result, Unusable};
use crate::file::locks::no_other_writer;
use crate::file::points::{self, NamedPoint, kept};
use crate::file::{create, headers};
use crate::format::Header;
use crate::map_file::MapFile;
use crate::options::Options;
use crate::query::Search;
use crate::session::locks;
use crate::sys::Storage;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How often points are read again that change meanwhile.
const TRIES: usize = 16;

/// How much was written since a point was frozen: dirty granules, and the items in them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CountedPoint {
    /// The point.
    pub point: NamedPoint,
    /// Written since.
    pub since: (u64, u64),
    /// Written before the next one was frozen; of the newest, until now.
    pub until_next: (u64, u64),
    /// What was written since is not known, and counts as everything: a page of this point or of a newer one fails.
    pub damaged: bool,
}

/// Points: the checkpoints that were [committed](Self::commit_checkpoint) and kept by name. Each name stands for the moment
/// in which it was frozen; what was written after it is kept for it until it is dropped.
///
/// ```
/// # use dirtymap::Options;
/// # let dir = tempfile::tempdir()?;
/// let map = Options::new().create(dir.path().join("map"), 1 << 30)?;
/// for (name, at) in [("monday", 0), ("tuesday", 1 << 20)] {
///     map.set(at..at + 1)?;
///     let frozen = map.freeze(Some(name))?;
///     map.commit_checkpoint(frozen.uuid, true)?;
/// }
/// map.set(2 << 20..(2 << 20) + 1)?;
/// assert!(map.between("monday", "tuesday")?.into_iter().eq([1 << 20..(1 << 20) + 65536]));
/// assert_eq!((map.since("monday")?.count(), map.since("tuesday")?.count()), (2, 1));
/// map.drop_point("monday")?;
/// assert_eq!(map.since("monday").unwrap_err().kind(), "no-point");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`reset`](Self::reset) and its kind forget for these names as well what no freeze has taken yet. At most
/// 63 points are kept; with as many, none can be frozen before one is dropped.
impl DirtyMap {
    /// The points that are kept, oldest first: at most 63.
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
        Bitmap::copy_of(&self.load_since(name)?)
    }

    /// The same as [`since`](Self::since), without a copy.
    ///
    /// # Errors
    /// As [`since`](Self::since).
    pub fn since_set(&self, name: &str) -> Result<Arc<PointSet>> {
        self.load_since(name).map(Arc::new)
    }

    /// What [`between`](Self::between) says, without a copy.
    ///
    /// # Errors
    /// As [`between`](Self::between).
    pub fn between_set(&self, from: &str, to: &str) -> Result<Arc<PointSet>> {
        self.load_between(from, to).map(Arc::new)
    }

    /// How much was written since each point that is kept, oldest first. Each is read twice; memory goes with what is dirty in
    /// pages that are not full.
    ///
    /// # Errors
    /// As [`since`](Self::since).
    pub fn count_points(&self) -> Result<Vec<CountedPoint>> {
        self.loading(|disk, header| {
            let file = MapFile::new(disk, self.path());
            let mut all = PointSet::empty(self.geometry())?;
            all.add(&self.current());
            let mut counted = Vec::new();
            let mut newer = header.points.len();
            for (i, point) in kept(header).into_iter().enumerate().rev() {
                let points = &header.points[i..newer];
                points::written(points).try_for_each(|point| all.add_point(file, header, point))?;
                all.finish();
                let since = all.dirty();
                let until_next = match counted.is_empty() {
                    true => since,
                    false => PointSet::of_points(file, header, points)?.dirty(),
                };
                counted.push(CountedPoint { point, since, until_next, damaged: all.failed() > 0 });
                newer = i;
            }
            counted.reverse();
            Ok(counted)
        })
    }

    /// What is dirty, here and in the outstanding point, as a set that stays as it is.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; those of [`verify_session`](Self::verify_session).
    pub fn dirty_set(&self) -> Result<Arc<PointSet>> {
        let mut all = PointSet::empty(self.geometry())?;
        all.add(self.readable()?);
        all.finish();
        Ok(Arc::new(all))
    }

    /// What was written after the point `from` was frozen and before the point `to` was, which is a newer one. If what a point
    /// holds of that does not verify, everything.
    ///
    /// # Errors
    /// As [`since`](Self::since); [`Error::Refused`] when `to` is the older one.
    pub fn between(&self, from: &str, to: &str) -> Result<Bitmap> {
        Bitmap::copy_of(&self.load_between(from, to)?)
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

    fn load_since(&self, name: &str) -> Result<PointSet> {
        self.loading(|disk, header| {
            let from = points::find(header, name, self.path())?;
            let points = points::written(&header.points[from..]);
            let mut all = PointSet::of_points(MapFile::new(disk, self.path()), header, points)?;
            all.add(&self.current());
            all.finish();
            Ok(all)
        })
    }

    fn load_between(&self, from: &str, to: &str) -> Result<PointSet> {
        self.loading(|disk, header| {
            let [first, end] = [from, to].map(|name| points::find(header, name, self.path()));
            let (first, end) = (first?, end?);
            let Some(points) = header.points.get(first..end) else {
                let why = Refusal::PointOrder { from: from.into(), to: to.into() };
                return Err(Error::Refused { path: self.path().to_path_buf(), why });
            };
            PointSet::of_points(MapFile::new(disk, self.path()), header, points)
        })
    }

    /// Runs `f` with the header until no point came or went meanwhile, and no bit moved from here to a point or back.
    fn loading<R>(&self, f: impl Fn(&dyn Storage, &Header) -> Result<R>) -> Result<R> {
        self.readable()?;
        let points = |disk: &dyn Storage| -> Result<(Header, u64)> {
            Ok((headers::newest(MapFile::new(disk, self.path()))?.header, self.checkpoint_word()))
        };
        let (own, _gate, mut then);
        let mut session = None;
        let disk: &dyn Storage = match &self.inner {
            Inner::Live(live) => {
                then = points(live.core.disk())?;
                live.core.disk()
            }
            Inner::Watching(watch) => {
                then = points(&*watch.disk)?;
                &*watch.disk
            }
            Inner::Loaded(loaded) => {
                own = Arc::new(locks::open_file(self.path(), false)?);
                // Nobody keeps a repair, or the undoing of one, from writing points that a header goes on naming: who has read
                // half of one before and half afterwards knows neither.
                let gate = locks::opening_gate(&own, self.path(), Duration::ZERO)?;
                let rest = no_other_writer(MapFile::new(&*own, self.path()))?;
                // Nor does that happen in the session of those who have it open, and they must be able to close it.
                if !rest {
                    session = Some(headers::newest(MapFile::new(&*own, self.path()))?.header.nonce);
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
                return Err(Error::Unusable { why: Unusable::WritersLeft });
            }
            if (now.1, &now.0.uuid, &now.0.points) == (then.1, &then.0.uuid, &then.0.points) {
                return Ok(found);
            }
            if let Inner::Loaded(_) = &self.inner {
                return Err(Error::Unusable { why: Unusable::PointsChanged });
            }
            then = now;
        }
        Err(Error::Locked { path: self.path().to_path_buf(), what: InUse::Points, holder: None })
    }
}

fn export(map: &PointSet, path: &Path) -> Result<()> {
    let options = Options::new().granularity(map.geometry().granularity());
    create::create_filled(path, map, &options)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Access;
    use crate::sys::Lock;

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
            let mut all = PointSet::empty(&header.geometry)?;
            all.add(&reader.current());
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
            crate::fsck::repair(&path, None, Duration::ZERO, |_, _| ()).unwrap();
            PointSet::empty(&header.geometry)
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
        let repairer = locks::open_file(&path, true).unwrap();
        let read = reader.loading(|_, header| {
            assert!(!repairer.try_lock(Lock::Gate).unwrap(), "the gate is free");
            PointSet::empty(&header.geometry)
        });
        assert!(read.is_ok() && repairer.try_lock(Lock::Gate).unwrap());
    }
}
