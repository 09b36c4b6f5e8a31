//! Space of the volatile region: allocated before it is touched, freed when the map is closed.
//!
//! Invariant kept here: whoever stores into the mapping of a live-level chunk has allocated the space
//! of it and of everything that a change in it can touch.

use super::view::View;
use crate::error::{Error, Result};
use crate::format::{ALIGN, Durability, Header, Layout, VolatileLayout};
use crate::geometry::{BOTTOM, Geometry, PAGE_WORDS};
use crate::sys::{Disk, Mapping, Part};
use crate::weak::{Point, Weak, at, weak};
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Words of the live level whose volatile space is allocated together: 64 KiB of it.
pub(super) const CHUNK_WORDS: u64 = ALIGN / 8;

/// The volatile part of a map that is opened for writing, all zeros: of the file if others need to find it there, who
/// share the map or who open a `Process` map after this process died; else of nothing.
///
/// What nobody shares and nobody trusts afterwards had better be memory that no failing write-back of the kernel's can
/// take away: a page of a file that could not be written may be dropped, and read again from the disk as it was.
pub(super) fn view(disk: &dyn Disk, path: &Path, header: &Header, in_file: bool) -> Result<View> {
    let v = VolatileLayout::new(&header.geometry);
    if !in_file {
        end_session(disk, &header.layout.volatile).map_err(|source| Error::Io {
            op: "end the session of others",
            path: path.to_path_buf(),
            source,
        })?;
        let mapping = Mapping::anonymous(v.length).map_err(|_| Error::OutOfMemory { bytes: v.length })?;
        return View::new(header.geometry, &v, mapping);
    }
    let io = |source| Error::Io { op: "set up the volatile part", path: path.to_path_buf(), source };
    let region = header.layout.volatile.clone();
    let view = join(disk, path, header)?;
    // Where holes are filled when a mapping of them is read, a full file system is to be an error here and no signal
    // later.
    if must_stay(disk) {
        disk.allocate(region).map_err(io)?;
        view.clear();
        return Ok(view);
    }
    // The nonce goes first: it tells others that the rest is what it was.
    let (nonce, rest) = (region.start..region.start + ALIGN, region.start + ALIGN..region.end);
    let (first, then) = if weak(Weak::NonceLast) { (rest, nonce) } else { (nonce, rest) };
    if !weak(Weak::KeepVolatile) {
        disk.punch(first).map_err(io)?;
        at(Point::Freed);
        disk.punch(then).map_err(io)?;
    }
    if disk.reading_allocates() {
        disk.allocate(region).map_err(io)?;
    }
    // What was punched is not there any more.
    keep_in_memory(&view, path, header)?;
    Ok(view)
}

/// Whether the space of a volatile part must not be given up: somebody may have it mapped for reading, to whom a look
/// into a hole would bring a signal if the file system has become full.
fn must_stay(disk: &dyn Disk) -> bool {
    disk.reading_allocates() && !matches!(disk.has_readers(), Ok(false))
}

/// Gives space up that nothing names any more. Best effort: it only takes space.
pub(super) fn free(disk: &dyn Disk, space: Range<u64>) {
    if !must_stay(disk) {
        let _ = disk.punch(space);
    }
}

/// Takes away what a session has left in the file whose processes are gone: who looks at it would take its nonce for the
/// sign that nothing has changed, while the next session has its volatile part elsewhere.
fn end_session(disk: &dyn Disk, region: &Range<u64>) -> io::Result<()> {
    let mut nonce = [0; 16];
    disk.read_at(&mut nonce, region.start)?;
    if nonce != [0; 16] && !weak(Weak::KeepNonce) {
        disk.write_durable(&[Part { offset: region.start, bytes: &[0; 16] }])?;
        free(disk, region.clone());
    }
    Ok(())
}

/// The volatile part of the file as others have it.
pub(super) fn join(disk: &dyn Disk, path: &Path, header: &Header) -> Result<View> {
    let io = |source| Error::Io { op: "map the volatile part", path: path.to_path_buf(), source };
    let v = VolatileLayout::new(&header.geometry);
    let mapping = disk.map(header.layout.volatile.clone()).map_err(io)?;
    let view = View::new(header.geometry, &v, mapping)?;
    keep_in_memory(&view, path, header)?;
    Ok(view)
}

/// The volatile part of a `PowerLoss` map stays in memory, all of it, as long as anybody has it: see [`view`]. Not only what
/// this process has touched: who touched the rest may die, and what he was told is owed.
fn keep_in_memory(view: &View, path: &Path, header: &Header) -> Result<()> {
    if header.durability != Durability::PowerLoss {
        return Ok(());
    }
    view.keep_in_memory().map_err(|source| match source.kind() {
        io::ErrorKind::OutOfMemory | io::ErrorKind::PermissionDenied | io::ErrorKind::WouldBlock => Error::Refused {
            path: path.to_path_buf(),
            why: format!(
                "sharing this map takes {} bytes of locked memory, and this process may not have as much (RLIMIT_MEMLOCK, \
                 `ulimit -l`, LimitMEMLOCK= of systemd; at most half of the machine's memory); raise the limit, or open \
                 the map alone",
                header.layout.volatile.end - header.layout.volatile.start
            ),
        },
        _ => Error::Io { op: "keep the volatile part in memory", path: path.to_path_buf(), source },
    })
}

/// The chunks of the live level whose space is known to be allocated.
#[derive(Debug, Default)]
pub(super) struct Allocated(HashSet<u64>);

impl Allocated {
    /// Makes sure that changing some bottom words of a map cannot fail for want of space.
    pub(super) fn ensure(&mut self, disk: &dyn Disk, path: &Path, header: Place<'_>, words: Range<u64>) -> Result<()> {
        let Place { layout, geometry } = header;
        for chunk in words.start / CHUNK_WORDS..words.end.div_ceil(CHUNK_WORDS) {
            if !self.0.contains(&chunk) {
                let words = chunk * CHUNK_WORDS..((chunk + 1) * CHUNK_WORDS).min(geometry.words());
                allocate(disk, layout, geometry, words).map_err(|source| Error::Io {
                    op: "allocate space for the volatile part",
                    path: path.to_path_buf(),
                    source,
                })?;
                self.0.insert(chunk);
            }
        }
        Ok(())
    }
}

/// Where a map's regions are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub layout: &'a Layout,
    pub geometry: &'a Geometry,
}

/// Allocates what changing the bits of some bottom words can touch.
fn allocate(disk: &dyn Disk, layout: &Layout, geometry: &Geometry, words: Range<u64>) -> io::Result<()> {
    let v = VolatileLayout::new(geometry);
    let mut ranges = vec![v.runtime.clone()];
    let mut add = |base: u64, items: &Range<u64>| ranges.push(base + items.start * 8..base + items.end * 8);
    add(v.live.start, &words);
    add(v.durable.start, &words);
    let mut items = words;
    for k in (0..BOTTOM).rev() {
        items = items.start / 64..items.end.div_ceil(64);
        if k == BOTTOM - 1 {
            add(v.armed.start, &items);
            add(v.touched.start, &items);
        }
        add(v.levels[k].start, &items);
    }
    for r in &mut ranges {
        // Outward to what the largest host page can hold: a store into a mapping dirties a whole page.
        *r = r.start / ALIGN * ALIGN..r.end.div_ceil(ALIGN) * ALIGN;
    }
    ranges.sort_by_key(|r| r.start);
    ranges.dedup_by(|next, kept| {
        let joined = next.start <= kept.end;
        if joined {
            kept.end = kept.end.max(next.end);
        }
        joined
    });
    let base = layout.volatile.start;
    ranges.iter().try_for_each(|r| disk.allocate(base + r.start..base + r.end))
}

/// Calls `f` for every one of `pages` whose touched bits may be set: those whose part of the array is not a hole.
pub(super) fn for_data(
    disk: &dyn Disk,
    layout: &Layout,
    geometry: &Geometry,
    pages: Range<u64>,
    f: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let base = layout.volatile.start + VolatileLayout::new(geometry).touched.start;
    let mut at = pages.start;
    while at < pages.end {
        let Some(data) = disk.next_data(base + at * 8..base + pages.end * 8)? else { break };
        let first = ((data.start - base) / 8).max(at);
        let end = (data.end - base).div_ceil(8).clamp(first + 1, pages.end);
        (first..end).for_each(&mut *f);
        at = end;
    }
    Ok(())
}

const _: () = assert!(PAGE_WORDS == 64);
