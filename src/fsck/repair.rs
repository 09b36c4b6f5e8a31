//! Repair without opening the map: from whatever is good, towards dirty.
//!
//! Invariants kept here: what was dirty for certain or for want of knowledge is dirty in the repaired map. A crash at any
//! point leaves a file in which no less is dirty, and which can be repaired again: a header that lists every word in
//! doubt, and by which a damaged point holds everything, is durable in both pairs before the first page.
//! The volatile region is not touched. What is written is planned before, so that it can be saved before.

use super::plan::{RepairPlan, Work, plan};
use super::survey::add_words;
use super::undo::{self, UndoReport};
use crate::error::{Error, InUse, Refusal, Result};
use crate::file::bottom::{BottomRef, full_page, named};
use crate::file::headers;
use crate::file::locks::locked;
use crate::file::locks::no_other_writer;
use crate::file::pages::{self, PageContent};
use crate::file::points::{covering, rounded};
use crate::file::scan::{Page, Scan};
use crate::format::{HEADER_REGION, Header};
use crate::geometry::PAGE_WORDS;
use crate::map_file::MapFile;
use crate::options::Options;
use crate::session::locks;
use crate::sys::{Lock, Storage};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Pages written at a time: 4 MiB of the bottom.
const BATCH: u64 = 8192;
/// Says what [`repair`] would do about the file at `path`. Reads only. `progress` is told pages passed and pages in all.
/// Memory: some 50 MiB at most.
///
/// # Errors
/// [`Error::Locked`] while somebody has it open; [`Error::Corrupt`] and [`Error::NotDirtymap`] when no header copy is good, so that there
/// is nothing to go by; [`Error::Unsupported`], [`Error::Io`].
pub fn plan_repair(path: impl AsRef<Path>, mut progress: impl FnMut(u64, u64)) -> Result<RepairPlan> {
    let path = path.as_ref();
    let disk = Arc::new(locks::open_file(path, false)?);
    let gate = locks::opening_gate(&disk, path, Duration::ZERO)?;
    let file = MapFile::new(&*disk, path);
    if !no_other_writer(file)? {
        return Err(locked(file, Lock::Slot(0), InUse::Open));
    }
    let planned = plan(file, &mut progress);
    drop(gate);
    planned
}

/// Repairs the file at `path`, from whatever header copies and pages are good, and says what was done. What is not known
/// to be clean becomes dirty, nothing that counts as dirty becomes clean. The map is closed cleanly afterwards, and
/// [`check`](crate::fsck::check()) has nothing to say of it. Nothing is written when nothing is to do.
///
/// All bytes that are about to be changed are kept in the new file `undo`, durably, before the first one is; [`undo_repair`] puts
/// them back. A crash leaves a map that is no less dirty, and can be repaired again.
///
/// A `Process` map whose processes were killed while the machine lived on is opened and closed first, as nothing else can ask the
/// page cache what is dirty; that cannot be undone, and so is refused where `undo` is asked for.
///
/// # Errors
/// As [`plan_repair`]; [`Error::Exists`] when `undo` does.
pub fn repair(
    path: impl AsRef<Path>,
    undo: Option<&Path>,
    wait: Duration,
    mut progress: impl FnMut(u64, u64),
) -> Result<RepairPlan> {
    let path = path.as_ref();
    let options = Options::new().wait(wait);
    let mut asked = None;
    loop {
        let disk = Arc::new(locks::open_file(path, true)?);
        let (plan, cache) = locks::attached(disk, path, &options, |attached| {
            let cache_asked = asked.is_some();
            let done = planned(MapFile::new(&**attached.disk(), path), undo, cache_asked, &mut progress);
            attached.leave();
            done
        })?;
        if !cache {
            return Ok(match asked {
                Some(asked) => plan.after_asking(&asked),
                None => plan,
            });
        }
        let map = options.open(path)?;
        let trusted = map.recovery().cache_trusted == Some(true);
        map.close()?;
        asked = Some((plan, trusted));
    }
}

/// Plans, and does it unless the page cache has to be asked first; says whether it has.
fn planned(
    file: MapFile<'_>,
    undo: Option<&Path>,
    cache_asked: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(RepairPlan, bool)> {
    let plan = plan(file, progress)?;
    let cache = plan.work.cache && !cache_asked;
    let done: Result<()> = match undo {
        Some(_) if cache => Err(file.refused(Refusal::AsksPageCache)),
        _ if cache || !plan.is_needed() => Ok(()),
        _ => undo
            .map_or(Ok(()), |undo| undo::save(file, undo, &plan.kept()))
            .and_then(|()| apply(file, &plan).map_err(file.io("repair"))),
    };
    done.map(|()| (plan, cache))
}

/// Puts back what a [`repair`] has changed, from the file that it kept it in: the very bytes, and the length. The
/// undo file stays.
///
/// # Errors
/// [`Error::Corrupt`] when the undo file is not whole; [`Error::Refused`] when it is of another map, or the map was
/// written since by anything but that repair: its new bits would be lost. [`Error::Locked`], [`Error::Io`].
pub fn undo_repair(path: impl AsRef<Path>, undo: impl AsRef<Path>, wait: Duration) -> Result<UndoReport> {
    let path = path.as_ref();
    let disk = Arc::new(locks::open_file(path, true)?);
    locks::attached(disk, path, &Options::new().wait(wait), |attached| {
        let undone = undo::put_back(MapFile::new(&**attached.disk(), path), undo.as_ref());
        attached.leave();
        undone
    })
}

/// Does what was planned.
pub(crate) fn apply(file: MapFile<'_>, plan: &RepairPlan) -> io::Result<()> {
    let work = &plan.work;
    let header = &work.newest.header;
    let (len, after) = plan.length;
    if !work.closed.is_empty() {
        file.disk.extend(HEADER_REGION)?;
        synced(file.disk)?;
        headers::rewrite_in_place(file.disk, &work.copies, &work.newest)?;
    }
    let doubts = step!(DoubtThenRepair => work.doubt.len());
    for (header, pair) in work.doubt.iter().take(step!(RepairBothPairs => doubts, else 1)) {
        headers::write_pair(file.disk, header, *pair)?;
    }
    // What the file lacked reads as zeros from here on. The list names every page of which that matters.
    if len < after {
        file.disk.extend(after)?;
        synced(file.disk)?;
    }
    let mut batch: Vec<(u64, PageContent)> = Vec::new();
    for run in work.pages.iter() {
        for first in run.range().step_by(BATCH as usize) {
            let range = first..(first + BATCH).min(run.end());
            if batch.len() as u64 + (range.end - range.start) > BATCH {
                write(file.disk, header, &mut batch)?;
            }
            wrong_pages(file, work, range, &mut batch)?;
        }
    }
    write(file.disk, header, &mut batch)?;
    for (header, pair) in &work.closed {
        headers::write_pair(file.disk, header, *pair)?;
    }
    if len > after {
        file.disk.truncate(after)?;
        synced(file.disk)?;
    }
    Ok(())
}

/// Makes the length of the file durable, and what was written by others.
fn synced(disk: &dyn Storage) -> io::Result<()> {
    step!(SyncRepairedLength => disk.sync_all())
}

/// Writes some pages, and forgets them.
fn write(disk: &dyn Storage, header: &Header, batch: &mut Vec<(u64, PageContent)>) -> io::Result<()> {
    let indices: Vec<u64> = batch.iter().map(|page| page.0).collect();
    if !indices.is_empty() {
        pages::write(disk, &BottomRef::of_map(header), &indices, |k, _| batch[k].1)?;
    }
    batch.clear();
    Ok(())
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io { source, .. } => source,
        e => io::Error::other(e),
    }
}

/// Adds those of some pages that are not as they should be, as they should be.
fn wrong_pages(
    file: MapFile<'_>,
    work: &Work,
    range: Range<u64>,
    wrong: &mut Vec<(u64, PageContent)>,
) -> io::Result<()> {
    let header = &work.newest.header;
    let g = &header.geometry;
    let mut found = vec![Some([0; PAGE_WORDS as usize]); (range.end - range.start) as usize];
    let scan = Scan { file, bottom: &BottomRef::of_map(header) };
    let read = scan.chunk(range.clone(), &mut |index, page| {
        found[(index - range.start) as usize] = match page {
            Page::Good(words) => Some(*words),
            Page::Failed(_) => None,
        };
        Ok(())
    });
    read.map_err(io_error)?;
    let mut covered = vec![[0; PAGE_WORDS as usize]; found.len()];
    if let Some((intent, point)) = covering(header) {
        let point = BottomRef::of_point(g, point);
        let read = Scan { file, bottom: &point }.chunk(range.clone(), &mut |index, page| {
            covered[(index - range.start) as usize] = match page {
                Page::Good(words) => rounded(g, intent, index, words),
                Page::Failed(_) => full_page(g, index),
            };
            Ok(())
        });
        read.map_err(io_error)?;
    }
    for ((index, before), covered) in range.zip(found).zip(covered) {
        let listed = if before.is_none() || work.everything { u64::MAX } else { named(&header.runs, index) };
        let mut words = before.unwrap_or([0; PAGE_WORDS as usize]);
        let full = full_page(g, index);
        for (i, word) in words.iter_mut().enumerate().filter(|(i, _)| listed & 1 << i != 0) {
            *word = full[i];
        }
        add_words(&mut words, &covered);
        if before != Some(words) {
            wrong.push((index, words));
        }
    }
    Ok(())
}
