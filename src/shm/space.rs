//! Space of the volatile region: allocated before it is touched, freed when the map is closed.
//!
//! Invariant kept here: whoever stores into the mapping of a live-level chunk has allocated the space
//! of it and of everything that a change in it can touch.

use super::view::ShmView;
use crate::error::{Error, Refusal, Result};
use crate::format::{ALIGN, Durability, Header, Layout, VolatileLayout};
use crate::geometry::{BOTTOM, Geometry, PAGE_WORDS};
use crate::map_file::MapFile;
use crate::progress::Step;
use crate::sys::fs::MAPPABLE;
use crate::sys::{Mapping, Storage, WriteSegment};
use crate::watcher::Watcher;
use std::collections::HashSet;
use std::io;
use std::ops::Range;

/// Words of the live level whose volatile space is allocated together: 64 KiB of it.
pub(crate) const CHUNK_WORDS: u64 = ALIGN / 8;

/// The volatile part of a map that is opened for writing, all zeros: of the file if others need to find it there, who
/// share the map or who open a `Process` map after this process died; else of nothing.
///
/// What nobody shares and nobody trusts afterwards had better be memory that no failing write-back of the kernel's can
/// take away: a page of a file that could not be written may be dropped, and read again from the disk as it was.
pub(crate) fn view(
    file: MapFile<'_>,
    header: &Header,
    (in_file, shared): (bool, bool),
    watcher: &Watcher,
) -> Result<ShmView> {
    let v = VolatileLayout::new(&header.geometry);
    if !in_file {
        end_session(file.disk, &header.layout.volatile).map_err(file.io("end the session of others"))?;
        let mapping = Mapping::anonymous(v.length).map_err(|_| Error::OutOfMemory { bytes: v.length })?;
        return ShmView::new(header.geometry, &v, mapping);
    }
    let region = header.layout.volatile.clone();
    let mut view = mapped(file, header, shared)?;
    // Whether it may be, before anything is given up. No page is taken for that.
    keep_in_memory(&mut view, file, header, false, watcher)?;
    // Where holes are filled when a mapping of them is read, a full file system is to be an error here and no signal
    // later.
    if must_stay(file.disk) {
        file.disk.allocate(region).map_err(file.io("set up the volatile part"))?;
        view.clear();
        keep_in_memory(&mut view, file, header, shared, watcher)?;
        return Ok(view);
    }
    // The nonce goes first: it tells others that the rest is what it was.
    let (nonce, rest) = (region.start..region.start + ALIGN, region.start + ALIGN..region.end);
    let (first, then) = step!(NonceThenFree => (nonce, rest), else (rest, nonce));
    step!(ClearShm => file.disk.punch_hole(first)).map_err(file.io("set up the volatile part"))?;
    sync_point!(Freed);
    step!(ClearShm => file.disk.punch_hole(then)).map_err(file.io("set up the volatile part"))?;
    if file.disk.reading_allocates() {
        file.disk.allocate(region).map_err(file.io("set up the volatile part"))?;
    }
    // What was punched is not there any more.
    keep_in_memory(&mut view, file, header, shared, watcher)?;
    Ok(view)
}

/// Whether the space of a volatile part must not be given up: somebody may have it mapped for reading, to whom a look
/// into a hole would bring a signal if the file system has become full.
fn must_stay(disk: &dyn Storage) -> bool {
    disk.reading_allocates() && !matches!(disk.has_readers(), Ok(false))
}

/// Gives space up that nothing names any more. Best effort: it only takes space.
pub(crate) fn free(disk: &dyn Storage, space: Range<u64>) {
    if !must_stay(disk) {
        let _ = disk.free(space);
    }
}

/// Takes away what a session has left in the file whose processes are gone: who looks at it would take its nonce for the
/// sign that nothing has changed, while the next session has its volatile part elsewhere.
fn end_session(disk: &dyn Storage, region: &Range<u64>) -> io::Result<()> {
    let mut nonce = [0; 16];
    disk.read_at(&mut nonce, region.start)?;
    if step!(RemoveForeignNonce => nonce != [0; 16]) {
        disk.write_durable(&[WriteSegment { offset: region.start, bytes: &[0; 16] }])?;
        free(disk, region.clone());
    }
    Ok(())
}

/// Refuses to map a file where that is not known to be safe.
pub(crate) fn mappable(file: MapFile<'_>, header: &Header, shared: bool) -> Result<()> {
    let Some(number) = file.disk.unmappable().map_err(file.io("look at the file system"))? else { return Ok(()) };
    let alone = header.durability == Durability::PowerLoss && shared;
    Err(file.refused(Refusal::FileSystem { number, known: MAPPABLE, alone }))
}

/// The volatile part of the file as others have it.
pub(crate) fn join(file: MapFile<'_>, header: &Header, watcher: &Watcher) -> Result<ShmView> {
    let mut view = mapped(file, header, true)?;
    keep_in_memory(&mut view, file, header, true, watcher)?;
    Ok(view)
}

fn mapped(file: MapFile<'_>, header: &Header, shared: bool) -> Result<ShmView> {
    mappable(file, header, shared)?;
    let v = VolatileLayout::new(&header.geometry);
    let mapping = file.disk.map(header.layout.volatile.clone()).map_err(file.io("map the volatile part"))?;
    ShmView::new(header.geometry, &v, mapping)
}

/// The volatile part stays in memory as long as anybody has it: see [`view`]. Of a map that is shared, all of it, not only
/// what this process has touched: who touched the rest may die, and what he was told is owed.
///
/// A `Process` map that may not be kept is used all the same, and [`ShmView::stays`] says so.
fn keep_in_memory(
    view: &mut ShmView,
    file: MapFile<'_>,
    header: &Header,
    shared: bool,
    watcher: &Watcher,
) -> Result<()> {
    let (region, len) = (&header.layout.volatile, header.geometry.len());
    let mut told = Ok(());
    let ask = |done: u64| {
        let item = u128::from(len) * u128::from(done) / u128::from((region.end - region.start).max(1));
        told = watcher.tell(Step::Opening, item as u64, len);
        if told.is_ok() { Ok(()) } else { Err(io::Error::other("to stop")) }
    };
    let Err(source) = view.keep_in_memory(shared, ask) else { return Ok(()) };
    told?;
    match source.kind() {
        _ if header.durability == Durability::Process => Ok(()),
        io::ErrorKind::OutOfMemory | io::ErrorKind::PermissionDenied | io::ErrorKind::WouldBlock => {
            Err(file.refused(Refusal::LockedMemory { bytes: region.end - region.start }))
        }
        _ => Err(file.io("keep the volatile part in memory")(source)),
    }
}

/// Blocks of the volatile region, of 64 KiB each, whose space is known to be allocated. All that a change in a chunk can touch
/// becomes known together, so that the chunk's own block of the live level tells.
#[derive(Debug, Default)]
pub(crate) struct Allocated(HashSet<u64>);

impl Allocated {
    /// Makes sure that changing some bottom words of a map cannot fail for want of space. Each block is asked for once, and
    /// those side by side together. Without a view, [`prepare`](Self::prepare) comes later.
    pub(crate) fn ensure(
        &mut self,
        file: MapFile<'_>,
        place: Place<'_>,
        view: Option<&ShmView>,
        words: Range<u64>,
    ) -> Result<()> {
        let Place { layout, geometry } = place;
        let v = VolatileLayout::new(geometry);
        let chunks = words.start / CHUNK_WORDS..words.end.div_ceil(CHUNK_WORDS);
        let known = |&chunk: &u64| self.0.contains(&(v.live.start / ALIGN + chunk));
        if chunks.clone().all(|chunk| known(&chunk)) {
            return Ok(());
        }
        let words = chunks.start * CHUNK_WORDS..(chunks.end * CHUNK_WORDS).min(geometry.words());
        let mut missing: Vec<u64> =
            touched(&v, words).into_iter().flatten().filter(|block| !self.0.contains(block)).collect();
        missing.sort_unstable();
        missing.dedup();
        let base = layout.volatile.start;
        for side_by_side in missing.chunk_by(|a, b| a + 1 == *b) {
            let (first, count) = (side_by_side[0], side_by_side.len() as u64);
            let space = base + first * ALIGN..base + (first + count) * ALIGN;
            file.disk.allocate(space).map_err(file.io("allocate space for the volatile part"))?;
        }
        view.map_or(Ok(()), |view| prepare(file, view, &missing))?;
        self.0.extend(missing);
        Ok(())
    }

    /// Has a view that was just filled take stores where space is allocated.
    pub(crate) fn prepare(&self, file: MapFile<'_>, view: &ShmView) -> Result<()> {
        let mut blocks: Vec<u64> = self.0.iter().copied().collect();
        blocks.sort_unstable();
        prepare(file, view, &blocks)
    }
}

/// Allocated space is not enough: a file system that is full may refuse the first store into it, by a signal. (Seen with ext4,
/// in files of more extents than its inode has room for.)
fn prepare(file: MapFile<'_>, view: &ShmView, blocks: &[u64]) -> Result<()> {
    for side_by_side in blocks.chunk_by(|a, b| a + 1 == *b) {
        let (first, count) = (side_by_side[0], side_by_side.len() as u64);
        let part = first * ALIGN..(first + count) * ALIGN;
        view.prepare(part).map_err(file.io("prepare the volatile part for stores"))?;
    }
    Ok(())
}

/// Where a map's regions are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub layout: &'a Layout,
    pub geometry: &'a Geometry,
}

/// The blocks that changing the bits of some bottom words can touch. As large as the largest host page: a store into a mapping
/// dirties a whole page.
fn touched(v: &VolatileLayout, words: Range<u64>) -> Vec<Range<u64>> {
    let blocks = |bytes: Range<u64>| bytes.start / ALIGN..bytes.end.div_ceil(ALIGN);
    let of = |base: u64, items: &Range<u64>| blocks(base + items.start * 8..base + items.end * 8);
    let bits = [v.armed.start, v.live.start, v.durable.start].map(|start| of(start, &words));
    let mut all = vec![blocks(v.runtime.clone())];
    all.extend(bits);
    let mut items = words;
    for k in (0..BOTTOM).rev() {
        items = items.start / 64..items.end.div_ceil(64);
        if k == BOTTOM - 1 {
            all.push(of(v.touched.start, &items));
        }
        all.push(of(v.levels[k].start, &items));
    }
    all
}

const _: () = assert!(PAGE_WORDS == 64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Uuid;
    use crate::sim::content::{Call, Image};
    use crate::sim::disk::SimDisk;
    use crate::sys::refuse::{Refused, refusing};
    use crate::{Access, DirtyMap, Durability, Options, info::Verdict};
    use std::path::Path;

    const LEN: u64 = 1 << 30;

    fn options(access: Access) -> Options {
        Options::new().granularity(12).flush_interval(None).access(access)
    }

    fn granule(i: u64) -> std::ops::Range<u64> {
        i << 12..(i + 1) << 12
    }

    /// For each chunk that is new, its own three blocks: those that many chunks have in common are asked for once.
    #[test]
    fn space_is_asked_for_once() {
        let header = Header::new(Uuid([7; 16]), Geometry::new(1 << 36, 0).unwrap(), Durability::Process);
        let place = Place { layout: &header.layout, geometry: &header.geometry };
        let disk = SimDisk::new(Image::default(), Vec::new());
        let mut allocated = Allocated::default();
        let mut asked = |chunks: Range<u64>| {
            let before = disk.calls(Call::Allocate);
            let words = chunks.start * CHUNK_WORDS..chunks.end * CHUNK_WORDS;
            allocated.ensure(disk.file(), place, None, words).unwrap();
            disk.calls(Call::Allocate) - before
        };
        // Of what is above, 64 chunks have a block in common, which need not begin with the first of them.
        assert!(asked(5..6) <= 8);
        assert!(asked(6..7) <= 4 && asked(40..41) <= 4);
        assert_eq!(asked(5..7), 0);
        assert!(asked(7..40) <= 4, "a stretch of them is one");
        assert_eq!(asked(5..41), 0);
        let each = (1000..2000).map(|chunk| asked(chunk..chunk + 1)).sum::<usize>();
        assert!((3000..3000 + 3 * (1000 / 64 + 2)).contains(&each), "{each} for 1000 chunks");
        // Around all of these.
        assert!(asked(0..3000) <= 5 * 3);
        assert_eq!((0..3000).map(|chunk| asked(chunk..chunk + 1)).sum::<usize>(), 0);
    }

    /// All that a map does where a file system can neither set space aside nor free it, as ext2.
    #[test]
    fn a_map_needs_no_fallocate() {
        let life = |path: &Path, durability| {
            let shared = || options(Access::Shared);
            let first = shared().durability(durability).create(path, LEN).unwrap();
            first.set(granule(5)).unwrap();
            let second = shared().open(path).unwrap();
            // Next to what the first has set and not flushed, and in space that nobody has used yet.
            second.set(granule(6)).unwrap();
            second.set(granule(100_000)).unwrap();
            let reader = options(Access::ReadOnly).open(path).unwrap();
            assert_eq!((first.count(), second.count(), reader.count()), (3, 3, 3));
            let frozen = first.freeze(Some("a")).unwrap();
            second.set(granule(7)).unwrap();
            assert_eq!(reader.count(), 4);
            first.commit_checkpoint(frozen.uuid, false).unwrap();
            assert_eq!((first.count(), reader.count()), (1, 1));
            second.close().unwrap();
            first.close().unwrap();
            let mut alone = options(Access::Exclusive).open(path).unwrap();
            assert!(!alone.recovery().unclean && alone.get(granule(7).start).unwrap());
            alone.truncate(LEN / 2).unwrap();
            alone.set(granule(8)).unwrap();
            drop(alone);
            let map = shared().open(path).unwrap();
            assert!(map.recovery().unclean && map.get(granule(7).start).unwrap() && map.get(granule(8).start).unwrap());
            map.reset_all().unwrap();
            map.close().unwrap();
            assert!(DirtyMap::open(path).unwrap().is_empty());
        };
        let refused = Refused { call: libc::SYS_fallocate, argument: None, error: libc::EOPNOTSUPP };
        refusing(&[refused], || {
            for durability in [Durability::PowerLoss, Durability::Process] {
                life(&tempfile::tempdir().unwrap().path().join("map"), durability);
            }
        });
    }

    /// The memory of a `Process` map is part of the file. If the kernel cannot write that back, it may drop it, and bits with
    /// it, unless it was made to keep it.
    #[test]
    fn a_process_map_that_may_have_lost_memory_is_not_called_exact() {
        let no_write_back = Refused { call: libc::SYS_sync_file_range, argument: None, error: libc::EIO };
        let no_lock = Refused { call: libc::SYS_mlock2, argument: None, error: libc::EPERM };
        let verdict_with = |refused: &[Refused]| {
            refusing(refused, || {
                let dir = tempfile::tempdir().unwrap();
                let process = options(Access::Exclusive).durability(Durability::Process);
                let map = process.create(dir.path().join("map"), LEN).unwrap();
                map.set(granule(5)).unwrap();
                let verdict = map.info().unwrap().verdict;
                // What is known to be lost keeps the map from closing as clean.
                assert_eq!(map.close().is_ok(), verdict == Verdict::Exact);
                verdict
            })
        };
        let says = |refused: &[Refused], wanted| assert!(verdict_with(refused).is_none_or(|verdict| verdict == wanted));
        says(&[no_lock], Verdict::Exact);
        says(&[no_lock, no_write_back], Verdict::Damaged);
        // Locked, it is there whatever the disk does; here, where that is allowed.
        let kept = memory_can_be_locked();
        says(&[no_write_back], if kept { Verdict::Exact } else { Verdict::Damaged });
    }

    /// Whether this process may lock the memory of such a map.
    fn memory_can_be_locked() -> bool {
        // Twice as much as it needs.
        crate::sys::Mapping::anonymous(LEN >> 10).is_ok_and(|mapping| mapping.keep_in_memory(false, |_| Ok(())).is_ok())
    }
}
