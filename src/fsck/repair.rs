//! Repair without opening the map: from whatever is good, towards dirty.
//!
//! Invariants kept here: what was dirty for certain or for want of knowledge is dirty in the repaired map. A crash at any
//! point leaves a file in which no less is dirty, and which can be repaired again: a header that lists every word in
//! doubt is durable in both pairs before the first page, and a point that is not all dirty yet has a page that fails.
//! The volatile region is not touched. What is written is planned before, so that it can be saved before.

use super::check;
use super::survey::{Count, Survey};
use super::undo::{self, Undone};
use crate::error::{Error, Result, counted};
use crate::file::bottom::{all_words, items_in, named, pages_of, words_of_pages};
use crate::file::headers::{self, Copies, Newest, damaged_copies, set_exact, writable};
use crate::file::locks::locked;
use crate::file::pages::{self, PageContent};
use crate::file::points::{entries_end, header_of_point};
use crate::file::reasons::remember;
use crate::file::scan::{Page, Scan};
use crate::format::{
    self, Durability, ENTRY_BYTES, HEADER_REGION, Header, MAX_RUNS, PointRole, Reasons, Runs, State, Uuid,
};
use crate::geometry::{Geometry, PAGE_BYTES, PAGE_WORDS};
use crate::options::Options;
use crate::session::recovery::Recovery;
use crate::session::{locks, page_cache};
use crate::sys::{Disk, Lock, Part, facts};
use crate::weak::{Weak, weak};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Pages written at a time: 4 MiB of the bottom.
const BATCH: u64 = 8192;
/// Pages that are written also where the file holds nothing: 8 MiB of them.
const FEW_PAGES: u64 = if cfg!(test) { 2 } else { 16384 };
/// The largest sectors that devices have.
const SECTOR: u64 = 4096;

/// A part of a file that a repair may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FilePart {
    /// The header copies.
    Headers,
    /// Entries of the map's page table.
    Table,
    /// Entries of the page table of a point.
    PointTable(usize),
    /// Pages of the map's bottom.
    Bottom,
    /// Pages of the bottom of a point.
    PointBottom(usize),
    /// What is behind the end of the last region.
    Behind,
}

/// What a repair does to a file, or would do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RepairPlan {
    /// For people: one line for each thing that is done. Empty when nothing is to do.
    pub actions: Vec<String>,
    /// Byte ranges that may be changed: what an undo file keeps. Not those behind the end of the file.
    pub ranges: Vec<(FilePart, Range<u64>)>,
    /// Length of the file before and after.
    pub length: (u64, u64),
    /// Dirty granules that are known to be dirty, and the items in them; none where the page table is cut off.
    pub verified: Option<(u64, u64)>,
    /// Dirty granules afterwards, but for those that are frozen, and the items in them.
    pub dirty: (u64, u64),
    /// At most so many items are dirty afterwards only because nobody knows better; all that are not known to be dirty, if what is
    /// frozen was damaged.
    pub needless: u64,
    work: Work,
}

impl RepairPlan {
    /// What was done in all, when the map was opened and closed before this: as `before` it, and whether the page cache could be
    /// trusted.
    fn after_asking(mut self, (before, trusted): &(RepairPlan, bool)) -> RepairPlan {
        let found =
            if *trusted { "it knew what is dirty" } else { "it is not to be trusted, and everything became dirty" };
        self.actions.insert(0, format!("open the map, to ask the page cache, and close it cleanly: {found}"));
        self.length.0 = before.length.0;
        if !trusted {
            self.needless = self.needless.max(before.needless);
        }
        self
    }

    /// Whether anything is to be done.
    pub fn is_needed(&self) -> bool {
        !self.actions.is_empty()
    }
}

/// What has been found, and what is to be written because of it.
#[derive(Clone, Debug)]
struct Work {
    copies: Copies,
    newest: Newest,
    /// Pages to be looked at again, and written if they are not as they should be.
    pages: Runs,
    /// Everything becomes dirty.
    everything: bool,
    /// The points that become all dirty, each with a page of it that fails; none where the file has not all entries.
    points: Vec<(usize, Option<u64>)>,
    /// Headers that name what is in doubt, and the pairs that they are written to.
    doubt: Vec<(Header, usize)>,
    /// Headers of the repaired map, and the pairs that they are written to.
    closed: Vec<(Header, usize)>,
    /// The page cache may still know what is dirty; opening the map asks it.
    cache: bool,
}

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
    let io = |source| Error::Io { op: "ask for writers", path: path.to_path_buf(), source };
    if !locks::at_rest(&disk).map_err(io)? {
        return Err(locked(&*disk, path, Lock::Slot(0), "another process has it open"));
    }
    let planned = plan(&*disk, path, &mut progress);
    drop(gate);
    planned
}

/// Repairs the file at `path`, from whatever header copies and pages are good, and says what was done. What is not known
/// to be clean becomes dirty, nothing that counts as dirty becomes clean. The map is closed cleanly afterwards, and
/// [`check`](crate::check()) has nothing to say of it. Nothing is written when nothing is to do.
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
            let done = planned(&**attached.disk(), path, undo, cache_asked, &mut progress);
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
    disk: &dyn Disk,
    path: &Path,
    undo: Option<&Path>,
    cache_asked: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(RepairPlan, bool)> {
    let plan = plan(disk, path, progress)?;
    let cache = plan.work.cache && !cache_asked;
    let done: Result<()> = match undo {
        Some(_) if cache => Err(Error::Refused {
            path: path.to_path_buf(),
            why: "the page cache may still know what is dirty, and only opening the map can ask it; repair it without \
                  keeping what is changed, or copy it and repair the copy"
                .into(),
        }),
        _ if cache || !plan.is_needed() => Ok(()),
        _ => undo.map_or(Ok(()), |undo| undo::save(disk, path, undo, &plan.kept())).and_then(|()| {
            let io = |source| Error::Io { op: "repair", path: path.to_path_buf(), source };
            apply(disk, path, &plan).map_err(io)
        }),
    };
    done.map(|()| (plan, cache))
}

/// Puts back what a [`repair`] has changed, from the file that it kept it in: the very bytes, and the length. The
/// undo file stays.
///
/// # Errors
/// [`Error::Corrupt`] when the undo file is not whole; [`Error::Refused`] when it is of another map, or the map was
/// written since by anything but that repair: its new bits would be lost. [`Error::Locked`], [`Error::Io`].
pub fn undo_repair(path: impl AsRef<Path>, undo: impl AsRef<Path>, wait: Duration) -> Result<Undone> {
    let path = path.as_ref();
    let disk = Arc::new(locks::open_file(path, true)?);
    locks::attached(disk, path, &Options::new().wait(wait), |attached| {
        let undone = undo::put_back(&**attached.disk(), path, undo.as_ref());
        attached.leave();
        undone
    })
}

/// Looks at everything, and decides.
pub(crate) fn plan(disk: &dyn Disk, path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<RepairPlan> {
    let copies = headers::read_copies(disk);
    let (newest, len) = headers::choose_also_cut_off(disk, &copies, path)?;
    let header = &newest.header;
    let g = header.geometry;
    let damaged = damaged_copies(&copies, &newest);
    let cut_off = len < entries_end(header);
    let scan = Scan { disk, path, header };
    let found = Survey::of(&scan, progress)?;
    // Of a file without all entries no page is known to be good.
    let survey = if cut_off { Survey::default() } else { found.clone() };
    let lost = if cut_off { None } else { survey.lost(header) };
    let everything = cut_off || lost.is_some() || newest.lost_commit;

    let mut points = Vec::new();
    for place in (0..header.points.len()).filter(|&place| header.points[place].has_regions()) {
        let as_header = header_of_point(header, &header.points[place]);
        match check::point_survey(disk, path, len, &as_header)? {
            None => points.push((place, None)),
            Some(found) => {
                let lost = found.lost(&as_header).is_some();
                let failed = found.groups.first().map(|g| g.pages.start);
                points.extend(failed.map(Some).or(lost.then_some(None)).map(|failed| (place, failed)));
            }
        }
    }
    let mut recovery = Recovery {
        unclean: header.state == State::Open,
        armed_items: items_in(&g, &header.runs),
        interrupted_pages: survey.interrupted,
        damaged_pages: survey.damaged,
        damaged_headers: damaged.len() as u64,
        lost_granules: lost,
        lost_commit: newest.lost_commit,
        ..Recovery::default()
    };
    if recovery.unclean && header.durability == Durability::Process {
        recovery.cache_trusted = Some(false);
    }
    let dirty = if everything { Count::everything(&g) } else { survey.dirty.totals(&g) };
    let miscounted = header.state == State::Clean && header.clean_dirty_bits != dirty.0;
    let readers = disk.has_readers().unwrap_or(true);
    let expected = header.file_length();
    // Nobody who looks at the file loses it from under a mapping; and the length alone does not matter.
    let leave = len > expected && readers || writable(header, path).is_err();
    let after = if leave { len } else { expected };

    let failed_pages = Runs::from_iter(found.failed.iter().cloned());
    let mut words = header.runs.clone();
    words.union(&words_of_pages(&g, &failed_pages));
    if everything {
        words = all_words(&g);
    }
    // A small file can call very much dirty. That stays on the list then, and only what fails is written.
    let most = FEW_PAGES + found.checked;
    let in_doubt = pages_of(&words);
    let stays = in_doubt.words() > most;
    let pages = if stays { failed_pages } else { in_doubt };

    let mut actions = Vec::new();
    let when = |actions: &mut Vec<String>, needed: bool, action: String| {
        if needed {
            actions.push(action);
        }
    };
    when(
        &mut actions,
        !damaged.is_empty(),
        format!("from a good header copy write {} anew", counted(damaged.len() as u64, "damaged one")),
    );
    when(&mut actions, cut_off, "make everything dirty: the file was cut off inside its page table".into());
    when(&mut actions, lost.is_some(), "make everything dirty: pages and their entries were lost together".into());
    when(&mut actions, newest.lost_commit, "make everything dirty: a header was lost that may have been newer".into());
    let failed = survey.failures();
    when(&mut actions, failed > 0, format!("write {} anew, as all dirty", counted(failed, "failed page")));
    for &(place, _) in &points {
        let point = &header.points[place];
        let name = if point.name.is_empty() { String::new() } else { format!(" {:?}", point.name) };
        when(&mut actions, true, format!("make all of point {place}{name} dirty: it was damaged"));
    }
    let armed = recovery.armed_items;
    match stays {
        true if !everything && check::left_on_list(header) => {}
        true => actions.push("keep what is in doubt on the list, as dirty: too many pages to be written for it".into()),
        false => when(
            &mut actions,
            armed > 0,
            format!("make {} dirty, and empty the armed list", counted(armed, "armed byte")),
        ),
    }
    when(&mut actions, recovery.unclean, "close the map cleanly".into());
    when(&mut actions, !recovery.unclean && armed == 0 && header.runs != Runs::new(), "empty the armed list".into());
    when(
        &mut actions,
        miscounted && failed == 0 && !everything && armed == 0,
        "record how many granules are dirty".into(),
    );
    let commits = !actions.is_empty();
    if commits {
        writable(header, path)?;
    }
    when(&mut actions, len < after, format!("make the file {after} bytes long, as it should be; it has {len}"));
    when(
        &mut actions,
        len > after,
        format!("cut off {} behind the end of the map", counted(len.saturating_sub(after), "byte")),
    );

    let (mut doubt, mut closed) = (Vec::new(), Vec::new());
    if commits {
        let damage = everything || survey.damaged > 0 || !points.is_empty() || stays;
        let mut next = header.clone();
        recovery.remember(&mut next);
        if damage {
            remember(&mut next, Reasons::REPAIR);
        }
        set_exact(&mut next, header.state == State::Clean && header.image.is_some_and(|i| i.exact));
        let mut pair = newest.pair;
        let mut commit = |next: &mut Header| {
            next.sequence += 1;
            pair = 1 - pair;
            (next.clone(), pair)
        };
        // Naming more than that adds dirt, but where the pages are written only if this is interrupted.
        words.coarsen(MAX_RUNS);
        if !pages.is_empty() || !points.is_empty() || cut_off {
            let io = |source| Error::Io { op: "get random bytes", path: path.to_path_buf(), source };
            next.nonce = Uuid(facts::random().map_err(io)?);
            next.state = State::Open;
            next.runs = words.clone();
            doubt.extend([commit(&mut next), commit(&mut next)]);
        }
        next.nonce = Uuid::NIL;
        next.state = State::Clean;
        next.runs = if stays { words } else { Runs::new() };
        next.clean_dirty_bits = dirty.0;
        next.last_clean = facts::now();
        closed.extend([commit(&mut next), commit(&mut next)]);
    }
    let ranges = ranges(header, &pages, &points, commits, (len, after));
    let cache = !cut_off && page_cache::cache_may_be_trusted(disk, path, header)?;
    let verified = (!cut_off).then(|| survey.good.totals(&g));
    let frozen_failed = points.iter().any(|&(place, _)| header.points[place].role == PointRole::Outstanding);
    let counted = if frozen_failed { Count::everything(&g) } else { dirty };
    let needless = counted.1.saturating_sub(verified.map_or(0, |verified| verified.1));
    let work = Work { copies, newest, pages, everything, points, doubt, closed, cache };
    Ok(RepairPlan { actions, ranges, length: (len, after), verified, dirty, needless, work })
}

/// What may be changed, as far as the file has it: headers, page tables, bottoms, and what is behind the end. In this order it is put back.
fn ranges(
    header: &Header,
    pages: &Runs,
    points: &[(usize, Option<u64>)],
    commits: bool,
    (len, after): (u64, u64),
) -> Vec<(FilePart, Range<u64>)> {
    let mut ranges: Vec<(FilePart, Range<u64>)> = Vec::new();
    let mut add = |part, range: Range<u64>| {
        // Whole sectors: the power may go while one is being written, and take all of it.
        let range = range.start / SECTOR * SECTOR..range.end.next_multiple_of(SECTOR).min(len);
        match ranges.last_mut() {
            Some((last, before)) if *last == part && before.end >= range.start => {
                before.end = before.end.max(range.end)
            }
            _ if range.start < range.end => ranges.push((part, range)),
            _ => {}
        }
    };
    if commits {
        add(FilePart::Headers, 0..HEADER_REGION);
    }
    let part = |region: &Range<u64>, pages: Range<u64>, size: u64| {
        region.start + pages.start * size..region.start + pages.end * size
    };
    let all = 0..header.geometry.pages();
    for run in pages.iter() {
        add(FilePart::Table, part(&header.layout.table, run.range(), ENTRY_BYTES));
    }
    for &(place, _) in points {
        add(FilePart::PointTable(place), part(&header.points[place].table(&header.geometry), all.clone(), ENTRY_BYTES));
    }
    for run in pages.iter() {
        add(FilePart::Bottom, part(&header.layout.bottom, run.range(), PAGE_BYTES));
    }
    for &(place, _) in points {
        add(
            FilePart::PointBottom(place),
            part(&header.points[place].bottom(&header.geometry), all.clone(), PAGE_BYTES),
        );
    }
    if after < len {
        add(FilePart::Behind, after..len);
    }
    ranges
}

impl RepairPlan {
    /// What an undo file keeps.
    pub(crate) fn kept(&self) -> undo::Kept<'_> {
        let header = |h: &Header| h.encode().ok().map(|bytes| format::codec::crc32(&[&bytes]));
        let old = self.work.copies.iter().flatten().filter_map(header);
        let new = self.work.doubt.iter().chain(&self.work.closed).filter_map(|(h, _)| header(h));
        undo::Kept {
            uuid: self.work.newest.header.uuid,
            length: self.length.0,
            headers: old.chain(new).collect(),
            ranges: &self.ranges,
        }
    }
}

/// Does what was planned.
pub(crate) fn apply(disk: &dyn Disk, path: &Path, plan: &RepairPlan) -> io::Result<()> {
    let work = &plan.work;
    let header = &work.newest.header;
    let (len, after) = plan.length;
    if !work.closed.is_empty() {
        disk.grow(HEADER_REGION)?;
        synced(disk)?;
        headers::renew(disk, &work.copies, &work.newest)?;
    }
    let doubts = if weak(Weak::RepairNoDoubt) { 0 } else { work.doubt.len() };
    for (header, pair) in work.doubt.iter().take(if weak(Weak::RepairOnePair) { 1 } else { doubts }) {
        headers::write_pair(disk, header, *pair)?;
    }
    // What the file lacked reads as zeros from here on. The list names every page of the map of which that matters.
    for &(place, failed) in &work.points {
        if failed.is_none() && !weak(Weak::RepairNoSpoil) {
            spoil_first_entry(disk, &header_of_point(header, &header.points[place]))?;
        }
    }
    if len < after {
        disk.grow(after)?;
        synced(disk)?;
    }
    let mut batch: Vec<(u64, PageContent)> = Vec::new();
    for run in work.pages.iter() {
        for first in run.range().step_by(BATCH as usize) {
            let range = first..(first + BATCH).min(run.end());
            if batch.len() as u64 + (range.end - range.start) > BATCH {
                write(disk, header, &mut batch)?;
            }
            wrong_pages(disk, path, work, range, &mut batch)?;
        }
    }
    write(disk, header, &mut batch)?;
    for &(place, failed) in &work.points {
        fill(disk, &header_of_point(header, &header.points[place]), failed.unwrap_or(0))?;
    }
    for (header, pair) in &work.closed {
        headers::write_pair(disk, header, *pair)?;
    }
    if len > after {
        disk.cut(after)?;
        synced(disk)?;
    }
    Ok(())
}

/// Makes the length of the file durable, and what was written by others.
fn synced(disk: &dyn Disk) -> io::Result<()> {
    if weak(Weak::RepairUnsynced) { Ok(()) } else { disk.sync_all() }
}

/// Writes some pages, and forgets them.
fn write(disk: &dyn Disk, header: &Header, batch: &mut Vec<(u64, PageContent)>) -> io::Result<()> {
    let indices: Vec<u64> = batch.iter().map(|page| page.0).collect();
    if !indices.is_empty() {
        pages::write(disk, &header.uuid, &header.layout, &indices, |k, _| batch[k].1)?;
    }
    batch.clear();
    Ok(())
}

/// Adds those of some pages that are not as they should be, as they should be.
fn wrong_pages(
    disk: &dyn Disk,
    path: &Path,
    work: &Work,
    range: Range<u64>,
    wrong: &mut Vec<(u64, PageContent)>,
) -> io::Result<()> {
    let header = &work.newest.header;
    let g = &header.geometry;
    let mut found = vec![Some([0; PAGE_WORDS as usize]); (range.end - range.start) as usize];
    let scan = Scan { disk, path, header };
    let read = scan.chunk(range.clone(), &mut |index, page| {
        found[(index - range.start) as usize] = match page {
            Page::Good(words) => Some(*words),
            Page::Failed(_) => None,
        };
    });
    read.map_err(|e| match e {
        Error::Io { source, .. } => source,
        e => io::Error::other(e),
    })?;
    for (index, before) in range.zip(found) {
        let listed = if before.is_none() || work.everything { u64::MAX } else { named(&header.runs, index) };
        let mut words = before.unwrap_or([0; PAGE_WORDS as usize]);
        for (i, word) in words.iter_mut().enumerate().filter(|(i, _)| listed & 1 << i != 0) {
            *word = full_word(g, index, i);
        }
        if before != Some(words) {
            wrong.push((index, words));
        }
    }
    Ok(())
}

/// All bits that the map has in word `i` of a page.
fn full_word(g: &Geometry, page: u64, i: usize) -> u64 {
    g.word_mask(page * PAGE_WORDS + i as u64)
}

/// Has the first page of a point fail although its entry is missing or matches, without the file getting all entries by that.
fn spoil_first_entry(disk: &dyn Disk, as_header: &Header) -> io::Result<()> {
    let at = as_header.layout.table.start;
    disk.grow(at + 1)?;
    synced(disk)?;
    let mut page = [0; PAGE_BYTES as usize];
    disk.read_at(&mut page, as_header.layout.bottom.start)?;
    let [low, ..] = format::page_entry(&as_header.uuid, 0, &page).to_le_bytes();
    disk.write_durable(&[Part { offset: at, bytes: &[low ^ 0x5a] }])
}

/// Makes all of a point dirty, the page that fails last: until then, it says that the point is not to be relied upon.
fn fill(disk: &dyn Disk, as_header: &Header, failed: u64) -> io::Result<()> {
    let g = &as_header.geometry;
    let content = |_, index| std::array::from_fn(|i| full_word(g, index, i));
    let first_too = weak(Weak::RepairFillInOrder);
    for first in (0..g.pages()).step_by(BATCH as usize) {
        let batch: Vec<u64> =
            (first..(first + BATCH).min(g.pages())).filter(|&index| index != failed || first_too).collect();
        if !batch.is_empty() {
            pages::write(disk, &as_header.uuid, &as_header.layout, &batch, content)?;
        }
    }
    pages::write(disk, &as_header.uuid, &as_header.layout, &[failed], content).map(drop)
}
