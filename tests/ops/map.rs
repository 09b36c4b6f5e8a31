//! `DirtyMap` beside `Bitmap`, which has a model of its own (bitmap.rs): every operation that both have, through
//! flushes, closes, drops and changes of length; and checkpoints, whose model is a bitmap for each point.
//!
//! Invariants asked for after every step: all readers say the same of both. After a drop: what is owed is dirty, and not
//! more than what was there at the last flush or has been set since, and what the armed list named.

use dirtymap::{
    Access, Bitmap, DirtyMap, Durability, Error, Options, Uuid,
    checkpoint::Checkpoint,
    fsck::{Severity, check},
    info::{FileState, inspect},
};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Maps are no longer than this.
pub const MOST: u64 = 40_000;
/// Granules of a chunk of the change bitmap, as a power of two.
const CHUNK: u32 = 3;

#[derive(Clone, Debug)]
pub enum Op {
    Set(Range<u64>),
    Reset(Range<u64>),
    ResetWithin(Range<u64>),
    ResetCovering(Range<u64>),
    SetAll,
    ResetAll,
    /// Merges a map of that granularity with these areas.
    Merge(u32, Vec<Range<u64>>),
    /// Keeps what is in a map with these areas, or takes it away.
    Keep(bool, Vec<Range<u64>>),
    /// Loads chunks: of another map, zeros or ones.
    Load(Vec<(u64, Option<bool>)>),
    Truncate(u64),
    Flush,
    Close,
    Drop,
    /// With a name, or none.
    Freeze(Option<u8>),
    /// Whether the point is kept.
    Commit(bool),
    Abort,
    DropPoint(u8),
}

/// A map, and after each operation a range to ask about.
#[derive(Clone, Debug)]
pub struct Story {
    pub len: u64,
    pub granularity: u32,
    pub durability: Durability,
    /// Opened so that others could have it too, and looked at by a reader after each operation.
    pub shared: bool,
    pub ops: Vec<(Op, Range<u64>)>,
}

/// A map and all that it must hold.
struct Twin {
    path: PathBuf,
    options: Options,
    map: DirtyMap,
    here: Bitmap,
    outstanding: Option<(Checkpoint, Bitmap)>,
    /// Oldest first.
    kept: Vec<(String, Bitmap)>,
    /// Dirty at the last flush, or set since: what a crash may bring back.
    back: Bitmap,
}

fn options(story: &Story) -> Options {
    let access = if story.shared { Access::Shared } else { Access::Exclusive };
    // Room for little, so that lists fill up and are flushed for room.
    let options = Options::new().granularity(story.granularity).durability(story.durability).access(access);
    options.armed_bound(2000).flush_interval(None)
}

/// The same kind of error, or none.
#[track_caller]
fn same<A, B>(map: Result<A, Error>, bits: Result<B, Error>) {
    same_kind(map, bits.map(drop).map_err(|e| e.kind()));
}

/// As many granules changed, or the same kind of error.
#[track_caller]
fn equal(map: Result<u64, Error>, bits: Result<u64, Error>) {
    assert_eq!(map.map_err(|e| e.kind()), bits.map_err(|e| e.kind()));
}

#[track_caller]
fn same_kind<A>(map: Result<A, Error>, wanted: Result<(), &'static str>) {
    assert_eq!(map.map(drop).map_err(|e| e.kind()), wanted);
}

fn union(a: &Bitmap, b: &Bitmap) -> Bitmap {
    let mut both = Bitmap::new(a.len(), a.granularity()).unwrap();
    both.set_to_union(a, b).unwrap();
    both
}

fn name(number: u8) -> String {
    format!("point {}", number % 6)
}

/// A map in memory with these areas, as far as they are possible.
fn of_areas(len: u64, granularity: u32, areas: &[Range<u64>]) -> Bitmap {
    let mut bits = Bitmap::new(len, granularity).unwrap();
    areas.iter().for_each(|area| _ = bits.set(area.clone()));
    bits
}

/// All that can be asked of both.
fn compare(map: &DirtyMap, bits: &Bitmap, asked: &Range<u64>) {
    let all = 0..bits.len();
    assert_eq!((map.len(), map.granularity()), (bits.len(), bits.granularity()));
    assert_eq!((map.count(), map.dirty_len()), (bits.count(), bits.dirty_len()));
    assert_eq!((map.is_empty(), map.is_full()), (bits.is_empty(), bits.is_full()));
    assert!(map.extents(all.clone()).unwrap().eq(bits.extents(all.clone()).unwrap()));
    assert!(map.words(all.clone()).unwrap().eq(bits.words(all).unwrap()));
    assert_eq!(&map.to_bitmap().unwrap(), bits);
    let other = of_areas(bits.len(), bits.granularity(), std::slice::from_ref(asked));
    assert_eq!(map.difference(&other).unwrap(), bits.difference(&other).unwrap());
    assert_eq!(map.intersection(&other).unwrap(), bits.intersection(&other).unwrap());
    assert_eq!(other.difference(map).unwrap(), other.difference(bits).unwrap());
    macro_rules! ask {
        ($($question:ident($($argument:expr),*)),* $(,)?) => {
            $(match (map.$question($($argument),*), bits.$question($($argument),*)) {
                (Ok(a), Ok(b)) => assert_eq!(a, b, "{}", stringify!($question)),
                (a, b) => same(a, b),
            })*
        };
    }
    ask!(
        get(asked.start),
        any(asked.clone()),
        all(asked.clone()),
        count_range(asked.clone()),
        next_dirty(asked.clone()),
        next_clean(asked.clone()),
        next_extent(asked.clone(), 100),
        next_extent(asked.clone(), 0),
        run(asked.clone()),
    );
    match (map.granules(asked.clone()), bits.granules(asked.clone())) {
        (Ok(a), Ok(b)) => assert!(a.eq(b)),
        (a, b) => same(a, b),
    }
}

/// The same chunks from the same map into both; gives back what both hold.
fn load(map: DirtyMap, bits: Bitmap, chunks: &[(u64, Option<bool>)]) -> (DirtyMap, Bitmap) {
    let (align, len) = (bits.serialization_align().unwrap(), bits.len());
    let mut other = Bitmap::new(len, bits.granularity()).unwrap();
    for start in (0..len).step_by(777) {
        other.set(start..(start + 300).min(len)).unwrap();
    }
    let (mut map, mut bits) = (map.begin_load().unwrap(), bits.begin_load());
    for &(at, ones) in chunks {
        // One chunk or two, and at the end what is left.
        let start = (at / align * align).min(len / align * align);
        let chunk = start..start.saturating_add(align.saturating_mul(2)).min(len);
        match ones {
            Some(true) => same(map.ones(chunk.clone()), bits.ones(chunk)),
            Some(false) => same(map.zeroes(chunk.clone()), bits.zeroes(chunk)),
            None => {
                let mut bytes = vec![0; other.serialized_size(chunk.clone()).unwrap() as usize];
                other.serialize_part(chunk.clone(), &mut bytes).unwrap();
                same(map.part(chunk.clone(), &bytes), bits.part(chunk, &bytes));
            }
        }
    }
    (map.finish().unwrap(), bits.finish())
}

impl Twin {
    fn new(path: PathBuf, story: &Story) -> Twin {
        let options = options(story);
        let map = options.create(&path, story.len).unwrap();
        let bits = || Bitmap::new(story.len, story.granularity).unwrap();
        let mut twin = Twin { path, options, map, here: bits(), outstanding: None, kept: Vec::new(), back: bits() };
        twin.attach_changes();
        twin
    }

    fn attach_changes(&mut self) {
        self.map.attach_changes(CHUNK).unwrap();
        self.here.attach_changes(CHUNK).unwrap();
    }

    /// What is dirty, wherever it is.
    fn dirty(&self) -> Bitmap {
        match &self.outstanding {
            Some((_, frozen)) => union(&self.here, frozen),
            None => self.here.try_clone().unwrap(),
        }
    }

    fn step(mut self, op: &Op) -> Twin {
        let (len, granularity) = (self.here.len(), self.here.granularity());
        let (map, bits) = (&mut self.map, &mut self.here);
        match op {
            Op::Set(r) => equal(map.set(r.clone()), bits.set(r.clone())),
            Op::Reset(r) => equal(map.reset(r.clone()), bits.reset(r.clone())),
            Op::ResetWithin(r) => equal(map.reset_within(r.clone()), bits.reset_within(r.clone())),
            Op::ResetCovering(r) => equal(map.reset_covering(r.clone()), bits.reset_covering(r.clone())),
            Op::SetAll => equal(map.set_all(), Ok(bits.set_all())),
            Op::ResetAll => equal(map.reset_all(), Ok(bits.reset_all())),
            Op::Merge(granularity, areas) => {
                let other = of_areas(len, *granularity, areas);
                equal(map.merge(&other), bits.merge(&other));
            }
            Op::Keep(true, areas) => {
                let other = of_areas(len, granularity, areas);
                equal(map.intersect(&other), bits.intersect(&other));
            }
            Op::Keep(false, areas) => {
                let other = of_areas(len, granularity, areas);
                equal(map.subtract(&other), bits.subtract(&other));
            }
            Op::Load(chunks) => (self.map, self.here) = load(self.map, self.here, chunks),
            Op::Truncate(new) if *new != len && self.outstanding.is_some() => {
                same_kind(map.truncate(*new), Err("refused"));
            }
            Op::Truncate(new) => {
                same(map.truncate(*new), bits.truncate(*new));
                self.back.truncate(*new).unwrap();
                self.kept.iter_mut().for_each(|(_, bits)| _ = bits.truncate(*new).unwrap());
                if let Some((_, newest)) = self.kept.last_mut().filter(|_| *new > len) {
                    newest.set(len..*new).unwrap();
                }
            }
            Op::Flush => {
                map.flush().unwrap();
                self.back = bits.try_clone().unwrap();
            }
            Op::Close => return self.close(),
            Op::Drop => return self.crash(),
            Op::Freeze(number) => self.freeze(number.map(name)),
            Op::Commit(keep) => self.commit(*keep),
            Op::Abort => self.abort(),
            Op::DropPoint(number) => self.drop_point(&name(*number)),
        }
        self.back.merge(&self.here).unwrap();
        self
    }

    fn close(mut self) -> Twin {
        let dirty = self.dirty();
        self.map.close().unwrap();
        let report = check(&self.path, |_, _| {}).unwrap();
        assert!(report.severity() <= Some(Severity::Note), "{:?}", report.findings);
        assert_eq!(report.info.dirty, Some((dirty.count(), dirty.dirty_len())));
        let reader = Options::new().read_only(true).open(&self.path).unwrap();
        assert_eq!(reader.to_bitmap().unwrap(), dirty);
        drop(reader);
        self.map = self.options.open(&self.path).unwrap();
        assert!(!self.map.recovery().added_dirt());
        self.back = self.here.try_clone().unwrap();
        self.lost_changes();
        self
    }

    /// Dropped without a close, which is how a process ends that is killed.
    fn crash(mut self) -> Twin {
        let armed = self.map.info().unwrap().armed_items;
        let owed = self.dirty();
        drop(self.map);
        let left = inspect(&self.path).unwrap();
        assert_eq!((left.state, left.recovery.damaged_pages), (FileState::Unclean, 0));
        let reader = Options::new().read_only(true).open(&self.path).unwrap();
        let read = reader.to_bitmap().unwrap();
        drop(reader);
        self.map = self.options.open(&self.path).unwrap();
        let recovery = self.map.recovery();
        assert!(!recovery.damaged() && recovery.interrupted_pages == 0, "{recovery:?}");
        let found = self.map.to_bitmap().unwrap();
        let lost = owed.difference(&found).unwrap();
        assert!(lost.is_empty(), "a dirty granule is clean after a drop: {:?}", lost.into_iter().collect::<Vec<_>>());
        match recovery.cache_trusted {
            Some(true) => assert_eq!(found, owed),
            Some(false) => assert!(found.is_full()),
            None => {
                assert_eq!(found, read, "opening for writing found other bits than reading");
                let may = union(&self.back, &owed);
                let added = found.difference(&may).unwrap().dirty_len();
                assert!(added <= armed, "{added} items came, {armed} were armed");
            }
        }
        // More may be dirty here than before; from here on it is what the map says.
        let frozen = self.outstanding.as_ref().map(|(_, frozen)| frozen);
        let words = |word| self.map.get_since_freeze(word).unwrap();
        let mut here = Bitmap::new(found.len(), found.granularity()).unwrap();
        for granule in found.granules(0..found.len()).unwrap().filter(|&item| words(item)) {
            here.set(granule..granule + 1).unwrap();
        }
        assert!(frozen.is_some() || here == found);
        (self.here, self.back) = (here.try_clone().unwrap(), here);
        self.lost_changes();
        self
    }

    /// Changes are gone with the map; and recovery's dirt is none.
    fn lost_changes(&mut self) {
        assert!(self.map.take_changes().unwrap().is_none());
        self.here.detach_changes();
        self.attach_changes();
    }

    fn freeze(&mut self, name: Option<String>) {
        let done = self.map.freeze(name.as_deref());
        if self.outstanding.is_some() {
            return same_kind(done, Err("checkpoint-outstanding"));
        }
        if name.as_ref().is_some_and(|name| self.kept.iter().any(|(kept, _)| kept == name)) {
            return same_kind(done, Err("refused"));
        }
        let checkpoint = done.unwrap();
        assert_eq!(checkpoint.name, name);
        assert_eq!(self.map.frozen(checkpoint.uuid).unwrap(), self.here);
        self.outstanding = Some((checkpoint, self.here.try_clone().unwrap()));
        // What moved has not changed for those who read both.
        self.quietly(|here| _ = here.reset_all());
    }

    /// Changes what is here without a mark for it.
    fn quietly(&mut self, change: impl FnOnce(&mut Bitmap)) {
        let marks = self.here.take_changes().unwrap();
        assert_eq!(self.map.take_changes().unwrap(), marks);
        change(&mut self.here);
        self.here.take_changes().unwrap();
    }

    fn commit(&mut self, keep: bool) {
        let Some((checkpoint, frozen)) = self.outstanding.take() else {
            return same_kind(self.map.commit_checkpoint(Uuid([9; 16]), keep), Err("no-checkpoint"));
        };
        let done = self.map.commit_checkpoint(checkpoint.uuid, keep);
        if keep && checkpoint.name.is_none() {
            self.outstanding = Some((checkpoint, frozen));
            return same_kind(done, Err("refused"));
        }
        done.unwrap();
        assert_eq!(self.map.last_committed().unwrap().unwrap().uuid, checkpoint.uuid);
        // What became clean is marked, and nothing that was not frozen.
        let (marks, here) = (self.map.take_changes().unwrap().unwrap(), self.here.take_changes().unwrap().unwrap());
        let cleaned = frozen.difference(&self.here).unwrap();
        assert!(cleaned.into_iter().all(|area| marks.all(area).unwrap()), "a change without a mark");
        let mut may = here;
        may.merge(&frozen).unwrap();
        assert!(marks.difference(&may).unwrap().is_empty(), "a mark without a change");
        if let Some((_, newest)) = self.kept.last_mut() {
            newest.merge(&frozen).unwrap();
        }
        if let Some(name) = checkpoint.name.filter(|_| keep) {
            self.kept.push((name, Bitmap::new(self.here.len(), self.here.granularity()).unwrap()));
        }
    }

    fn abort(&mut self) {
        match self.outstanding.take() {
            None => same_kind(self.map.abort_checkpoint(Uuid([9; 16])), Err("no-checkpoint")),
            Some((checkpoint, frozen)) => {
                self.map.abort_checkpoint(checkpoint.uuid).unwrap();
                self.quietly(|here| _ = here.merge(&frozen));
            }
        }
    }

    fn drop_point(&mut self, name: &str) {
        let done = self.map.drop_point(name);
        let Some(at) = self.kept.iter().position(|(kept, _)| kept == name) else {
            return same_kind(done, Err("no-point"));
        };
        done.unwrap();
        let (_, bits) = self.kept.remove(at);
        if let Some(older) = at.checked_sub(1) {
            self.kept[older].1.merge(&bits).unwrap();
        }
    }

    fn check(&self, asked: &Range<u64>, shared: bool) {
        let mut dirty = self.dirty();
        compare(&self.map, &dirty, asked);
        if shared {
            let reader = Options::new().read_only(true).open(&self.path).unwrap();
            compare(&reader, &dirty, asked);
            assert_eq!(reader.sha256(), self.here.sha256());
        }
        assert_eq!(self.map.sha256(), self.here.sha256());
        assert_eq!(self.map.checkpoint().unwrap().as_ref(), self.outstanding.as_ref().map(|(c, _)| c));
        let names: Vec<String> = self.map.points().unwrap().into_iter().map(|point| point.name).collect();
        assert!(names.iter().eq(self.kept.iter().map(|(name, _)| name)), "{names:?}");
        // From the newest on, since which less is dirty.
        let mut newer: Option<&str> = None;
        for (name, bits) in self.kept.iter().rev() {
            dirty.merge(bits).unwrap();
            assert_eq!(self.map.since(name).unwrap(), dirty, "since {name}");
            if let Some(newer) = newer.replace(name) {
                assert_eq!(&self.map.between(name, newer).unwrap(), bits, "between {name} and {newer}");
            }
        }
    }
}

/// Does what the story says, in this directory.
pub fn play(story: &Story, dir: &Path) {
    let mut twin = Twin::new(dir.join("map"), story);
    for (op, asked) in &story.ops {
        twin = twin.step(op);
        twin.check(asked, story.shared);
        if asked.start % 2 == 0 {
            assert_eq!(twin.map.take_changes().unwrap(), twin.here.take_changes().unwrap());
        }
    }
    twin.close().check(&(0..0), story.shared);
}
