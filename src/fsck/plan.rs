//! What a repair would do: looked at, decided, told, and made into headers, in this order.
//!
//! Invariant kept here: nothing is written. What is not known to be clean is planned to be dirty, and every word in doubt is on
//! the list of a header that is to be durable before the first page.

use super::survey::{self, Covered, Survey, point_survey};
use crate::error::{Result, counted};
use crate::file::bottom::{BottomRef, all_words, pages_of, words_of_pages};
use crate::file::create::random_uuid;
use crate::file::headers::{self, Copies, Newest, damaged_copies, set_exact, writable};
use crate::file::pages::Count;
use crate::file::points::forget_intent;
use crate::file::reasons::{left_on_list, remember};
use crate::file::scan::Scan;
use crate::format::{
    self, ENTRY_BYTES, HEADER_REGION, Header, MAX_LIST, Point, PointRole, Reasons, State, Uuid, WordRanges,
};
use crate::geometry::PAGE_BYTES;
use crate::map_file::MapFile;
use crate::session::page_cache;
use crate::session::recovery::Recovery;
use crate::sys::os;
use std::ops::Range;

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
    /// Pages of the map's bottom.
    Bottom,
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
    pub(super) work: Work,
}

impl RepairPlan {
    /// What was done in all, when the map was opened and closed before this: as `before` it, and whether the page cache could be
    /// trusted.
    pub(super) fn after_asking(mut self, (before, trusted): &(RepairPlan, bool)) -> RepairPlan {
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
pub(super) struct Work {
    pub(super) copies: Copies,
    pub(super) newest: Newest,
    /// Pages to be looked at again, and written if they are not as they should be.
    pub(super) pages: WordRanges,
    /// Everything becomes dirty.
    pub(super) everything: bool,
    /// Headers that name what is in doubt, and the pairs that they are written to.
    pub(super) doubt: Vec<Commit>,
    /// Headers of the repaired map, and the pairs that they are written to.
    pub(super) closed: Vec<Commit>,
    /// The page cache may still know what is dirty; opening the map asks it.
    pub(super) cache: bool,
}

/// What an undo file keeps of a file that a repair is about to change.
pub(crate) struct Kept<'a> {
    pub(super) uuid: Uuid,
    /// Length of the file.
    pub(super) length: u64,
    /// Checksums of the header copies that are there and that will be.
    pub(super) headers: Vec<u32>,
    pub(super) ranges: &'a [(FilePart, Range<u64>)],
}

/// A header, and the pair that it is written to.
type Commit = (Header, usize);

/// What is in a file.
struct Found {
    copies: Copies,
    newest: Newest,
    len: u64,
    /// Header copies that should be valid and are not.
    damaged: Vec<usize>,
    /// The file ends before the last entry of its page table.
    cut_off: bool,
    /// Its pages, also those that cannot be relied upon because it is cut off.
    pages: Survey,
    /// The same as far as they can.
    survey: Survey,
    /// The points of which a page fails or was lost, or of which the file has not all entries.
    damaged_points: Vec<usize>,
    /// What the intent covers, if the file was not closed.
    covered: Covered,
    recovery: Recovery,
}

/// What is to become of it.
struct Decision {
    everything: bool,
    /// The words in doubt.
    words: WordRanges,
    /// There are too many of them to be written: they stay on the list.
    stays: bool,
    /// Pages to be looked at again.
    pages: WordRanges,
    dirty: (u64, u64),
    /// The header with its points as they will be: those that are damaged hold everything, or are gone with the intent.
    mended: Header,
}

/// Looks at everything, and decides.
pub(crate) fn plan(file: MapFile<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<RepairPlan> {
    let found = look(file, progress)?;
    let decision = decide(file, &found)?;
    let mut actions = describe(&found, &decision);
    let commits = !actions.is_empty();
    let header = &found.newest.header;
    if commits {
        writable(header, file.path)?;
    }
    let length = (found.len, length_after(file, &found, &decision, commits));
    actions.extend(describe_length(length.0, length.1));
    let (doubt, closed) = if commits { commit(file, &found, &decision)? } else { Default::default() };
    let ranges = ranges(header, &decision.pages, commits, length);
    let cache = !found.cut_off && page_cache::cache_may_be_trusted(file, header)?;
    let verified = (!found.cut_off).then(|| found.survey.good.totals(&header.geometry));
    let frozen_failed = header.outstanding().is_some() && found.damaged_points.contains(&(header.points.len() - 1));
    let (_, items) = if frozen_failed { Count::everything(&header.geometry) } else { decision.dirty };
    let needless = items.saturating_sub(verified.map_or(0, |verified| verified.1));
    let dirty = decision.dirty;
    let Found { copies, newest, .. } = found;
    let Decision { pages, everything, .. } = decision;
    let work = Work { copies, newest, pages, everything, doubt, closed, cache };
    Ok(RepairPlan { actions, ranges, length, verified, dirty, needless, work })
}

fn look(file: MapFile<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<Found> {
    let copies = headers::read_copies(file.disk);
    let (newest, len) = headers::choose_also_cut_off(file, &copies)?;
    let header = &newest.header;
    let damaged = damaged_copies(&copies, &newest);
    let covered = Covered::of(file, header)?;
    let bottom = BottomRef { covered: covered.pages.clone(), ..BottomRef::of_map(header) };
    let cut_off = len < bottom.entries_end();
    let pages = Survey::of(&Scan { file, bottom: &bottom }, progress)?;
    // Of a file without all entries no page is known to be good.
    let survey = if cut_off { Survey::default() } else { pages.clone() };
    let lost = if cut_off { None } else { survey.lost(&bottom) };
    let mut damaged_points = Vec::new();
    for (place, point) in header.points.iter().enumerate().filter(|(_, point)| point.has_regions()) {
        let bottom = BottomRef::of_point(&header.geometry, point);
        let found = point_survey(file, len, &bottom)?;
        if found.is_none_or(|found| found.failures() > 0 || found.lost(&bottom).is_some()) {
            damaged_points.push(place);
        }
    }
    let recovery = survey::recovery(&newest, &damaged, (&survey, &covered), lost);
    Ok(Found { copies, newest, len, damaged, cut_off, pages, survey, damaged_points, covered, recovery })
}

fn decide(file: MapFile<'_>, found: &Found) -> Result<Decision> {
    let header = &found.newest.header;
    let g = &header.geometry;
    let lost = found.recovery.lost_granules.is_some() || found.newest.lost_commit;
    let everything = found.cut_off || lost || found.covered.failed > 0;
    let mut mended = header.clone();
    for &place in &found.damaged_points {
        let point = &mut mended.points[place];
        *point = Point { reasons: point.reasons | Reasons::REPAIR, ..point.holding_everything(g) };
        if point.role == PointRole::Kept {
            // It holds something else than before.
            point.uuid = random_uuid().map_err(file.io("get random bytes"))?;
        }
    }
    // What it covers of a map that was not closed stays named until it is in the bottom, or everything is listed.
    if header.state == State::Clean || found.covered.failed > 0 {
        forget_intent(&mut mended);
    }
    let failed_pages = WordRanges::from_iter(found.pages.failed.iter().cloned());
    let mut words = header.runs.clone();
    words.union(&words_of_pages(g, &failed_pages));
    if everything {
        words = all_words(g);
    }
    // A small file can call very much dirty. That stays on the list then, and only what fails is written. What the intent
    // covers is no more than is in the file.
    let in_doubt = pages_of(&words);
    let stays = in_doubt.words() > FEW_PAGES + found.pages.checked;
    let mut pages = if stays { failed_pages } else { in_doubt };
    pages.union(&found.covered.pages);
    let dirty =
        if everything { Count::everything(g) } else { survey::with_points(file, (header, None), &found.survey)? };
    Ok(Decision { everything, words, stays, pages, dirty, mended })
}

/// Length of the file afterwards. In the headers that are committed then, if any are, there is no intent.
fn length_after(file: MapFile<'_>, found: &Found, decision: &Decision, commits: bool) -> u64 {
    let mut header = found.newest.header.clone();
    if commits {
        header = decision.mended.clone();
        forget_intent(&mut header);
    }
    let expected = header.file_length();
    let readers = file.disk.has_readers().unwrap_or(true);
    // Nobody who looks at the file loses it from under a mapping; and the length alone does not matter.
    let leave = found.len > expected && readers || writable(&header, file.path).is_err();
    if leave { found.len } else { expected }
}

/// A line for each thing that is done, but for the length.
fn describe(found: &Found, decision: &Decision) -> Vec<String> {
    let (header, everything) = (&found.newest.header, decision.everything);
    let (failed, armed) = (found.survey.failures(), found.recovery.armed_items);
    let (lost, unclean) = (found.recovery.lost_granules.is_some(), found.recovery.unclean);
    let mut actions = Vec::new();
    let mut when = |needed: bool, action: String| actions.extend(needed.then_some(action));
    when(
        !found.damaged.is_empty(),
        format!("from a good header copy write {} anew", counted(found.damaged.len() as u64, "damaged one")),
    );
    when(found.cut_off, "make everything dirty: the file was cut off inside its page table".into());
    when(lost, "make everything dirty: pages and their entries were lost together".into());
    when(found.newest.lost_commit, "make everything dirty: a header was lost that may have been newer".into());
    when(found.covered.failed > 0, "make everything dirty: the point of the intent is damaged".into());
    when(failed > 0, format!("write {} anew, as all dirty", counted(failed, "failed page")));
    for &place in &found.damaged_points {
        let point = &header.points[place];
        let name = if point.name.is_empty() { String::new() } else { format!(" {:?}", point.name) };
        when(
            true,
            match point.role {
                PointRole::Intent => format!("forget point {place}, which is only the intent: it was damaged"),
                _ => format!("have point {place}{name} hold everything: it was damaged"),
            },
        );
    }
    when(
        decision.stays && (everything || !left_on_list(header)),
        "keep what is in doubt on the list, as dirty: too many pages to be written for it".into(),
    );
    when(
        !decision.stays && armed > 0,
        format!("make {} dirty, and empty the armed list", counted(armed, "armed byte")),
    );
    when(
        !everything && found.covered.items > 0,
        format!("make {} dirty, which the intent covers", counted(found.covered.items, "byte")),
    );
    when(unclean, "close the map cleanly".into());
    when(!unclean && armed == 0 && !header.runs.is_empty(), "empty the armed list".into());
    let miscounted = header.state == State::Clean && header.clean_dirty_bits != decision.dirty.0;
    when(miscounted && failed == 0 && !everything && armed == 0, "record how many granules are dirty".into());
    actions
}

fn describe_length(len: u64, after: u64) -> Option<String> {
    match len.cmp(&after) {
        std::cmp::Ordering::Less => Some(format!("make the file {after} bytes long, as it should be; it has {len}")),
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => {
            Some(format!("cut off {} behind the end of the map", counted(len - after, "byte")))
        }
    }
}

/// The headers that name what is in doubt, and those of the repaired map.
fn commit(file: MapFile<'_>, found: &Found, decision: &Decision) -> Result<(Vec<Commit>, Vec<Commit>)> {
    let header = &found.newest.header;
    let mut next = decision.mended.clone();
    found.recovery.remember(&mut next);
    if decision.everything || found.survey.damaged > 0 || decision.stays {
        remember(&mut next, Reasons::REPAIR);
    }
    set_exact(&mut next, header.state == State::Clean && header.image.is_some_and(|i| i.exact));
    let mut pair = found.newest.pair;
    let mut commit = |next: &mut Header| {
        next.sequence += 1;
        pair = 1 - pair;
        (next.clone(), pair)
    };
    // Naming more than that adds dirt, but where the pages are written only if this is interrupted.
    let mut words = decision.words.clone();
    words.fit(MAX_LIST);
    let mut doubt = Vec::new();
    if !decision.pages.is_empty() || !found.damaged_points.is_empty() || found.cut_off {
        next.nonce = Uuid(os::random().map_err(file.io("get random bytes"))?);
        next.state = State::Open;
        next.runs = words.clone();
        doubt.extend([commit(&mut next), commit(&mut next)]);
    }
    // Until here it says what is dirty. Nothing is armed by it afterwards.
    forget_intent(&mut next);
    next.nonce = Uuid::NIL;
    next.state = State::Clean;
    next.runs = if decision.stays { words } else { WordRanges::new() };
    next.clean_dirty_bits = decision.dirty.0;
    next.last_clean = os::now();
    let closed = vec![commit(&mut next), commit(&mut next)];
    Ok((doubt, closed))
}

/// What may be changed, as far as the file has it: headers, page table, bottom, and what is behind the end. In this order it is put back.
fn ranges(header: &Header, pages: &WordRanges, commits: bool, (len, after): (u64, u64)) -> Vec<(FilePart, Range<u64>)> {
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
    for run in pages.iter() {
        add(FilePart::Table, part(&header.layout.table, run.range(), ENTRY_BYTES));
    }
    for run in pages.iter() {
        add(FilePart::Bottom, part(&header.layout.bottom, run.range(), PAGE_BYTES));
    }
    if after < len {
        add(FilePart::Behind, after..len);
    }
    ranges
}

impl RepairPlan {
    /// What an undo file keeps.
    pub(crate) fn kept(&self) -> Kept<'_> {
        let header = |h: &Header| h.encode().ok().map(|bytes| format::codec::crc32(&[&bytes]));
        let old = self.work.copies.iter().flatten().filter_map(header);
        let new = self.work.doubt.iter().chain(&self.work.closed).filter_map(|(h, _)| header(h));
        Kept {
            uuid: self.work.newest.header.uuid,
            length: self.length.0,
            headers: old.chain(new).collect(),
            ranges: &self.ranges,
        }
    }
}
