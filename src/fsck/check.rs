//! Looking at a file without changing it: what is in it, how it was left, and what is wrong with it.
//!
//! Invariant kept here: nothing is written, and no lock outlives a call.

use super::findings::{self, Finding, Severity};
use super::survey::{self, Covered, Survey, point_survey};
use crate::error::Result;
use crate::file::bottom::BottomRef;
use crate::file::headers::{self, damaged_copies, writable};
use crate::file::locks::no_other_writer;
use crate::file::pages::Count;
use crate::file::scan::Scan;
use crate::format::{Header, Point, State};
use crate::map::{DirtyMap, FileState, Info};
use crate::map_file::MapFile;
use crate::query::{ReadMap, Search};
use crate::session::locks;
use crate::session::recovery::Recovery;
use crate::session::watch::SharedReader;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Findings that are not told one by one, since there are too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Truncated {
    /// How many.
    pub findings: u64,
    /// Failed pages that they are about.
    pub pages: u64,
    /// The worst of them.
    pub severity: Option<Severity>,
}

impl Truncated {
    fn add(&mut self, (findings, pages): (u64, u64), severity: Severity) {
        self.findings += findings;
        self.pages += pages;
        if findings > 0 {
            self.severity = self.severity.max(Some(severity));
        }
    }
}

/// What [`check`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// What the header says. The dirty count is that of the recovered map; none for a file in use that is not shared.
    pub info: Info,
    /// All findings, in the order of the phases: header copies, file length, state, armed list, pages, points. Of
    /// the map, and of each point, the first thousand stretches of failed pages.
    pub findings: Vec<Finding>,
    /// What is not among the findings, since there is too much of it.
    pub omitted: Truncated,
    /// Somebody has it open for writing.
    pub live: bool,
    /// This is what would be true of the file if the power went now.
    pub after_power_loss: bool,
    /// Parts that could not be checked, and why.
    pub unchecked: Vec<String>,
    /// Pages of the bottom level that hold something, and were checked.
    pub pages_checked: u64,
    /// Dirty granules of pages that verify, and the items in them. What the recovered map holds beyond them is dirty for
    /// want of knowledge. None for a file in use.
    pub verified: Option<(u64, u64)>,
    /// Why this version cannot open the map for writing, if so.
    pub not_writable: Option<String>,
}

impl Report {
    /// The worst finding.
    pub fn severity(&self) -> Option<Severity> {
        self.findings.iter().map(|f| f.severity).max().max(self.omitted.severity)
    }
}

/// Checks the file at `path` without changing it. `progress` is told pages passed and pages in all.
/// Time goes with what is allocated, not with the file's length. Memory: some 40 MiB at most, whatever the file's size and
/// whatever is wrong with it; but the map's own, if others share it.
///
/// # Errors
/// As [`inspect`](crate::info::inspect). A file with no usable header is an error; any other fault is a finding.
pub fn check(path: impl AsRef<Path>, mut progress: impl FnMut(u64, u64)) -> Result<Report> {
    let path = path.as_ref();
    let disk = Arc::new(locks::open_file(path, false)?);
    let gate = locks::opening_gate(&disk, path, Duration::ZERO)?;
    let file = MapFile::new(&*disk, path);
    if no_other_writer(file)? {
        let report = at_rest(file, &mut progress);
        drop(gate);
        return report;
    }
    let watch = SharedReader::new(&disk, path)?.map(|watch| DirtyMap::watching(path, watch));
    // Those who have it open must be able to close it, however long this takes.
    drop(gate);
    in_use(file, watch)
}

/// How often a file that is written to meanwhile is looked at again.
const LOOKS: usize = 5;

/// As [`check`], but says what would be true of the file if the power went now: nothing counts but what is durable, also where others
/// have it open, or where its page cache knows more. Then the armed list is what is dirty for want of
/// knowledge: for a `Process` map that is not closed, everything.
///
/// A map that others have open is looked at again if they commit something meanwhile; if they always do, that is among what could
/// not be checked, and pages may be told that were only being written.
///
/// # Errors
/// As [`check`].
pub fn check_after_power_loss(path: impl AsRef<Path>, mut progress: impl FnMut(u64, u64)) -> Result<Report> {
    let path = path.as_ref();
    let disk = Arc::new(locks::open_file(path, false)?);
    let file = MapFile::new(&*disk, path);
    let sequence = || headers::newest(file).map(|newest| newest.header.sequence);
    let mut looks = 0;
    let (live, mut report) = loop {
        let gate = locks::opening_gate(&disk, path, Duration::ZERO)?;
        let live = !no_other_writer(file)?;
        // At rest it stays so while the gate is kept. Those who have it open must be able to close it, however long this takes.
        let _gate = (!live).then_some(gate);
        let before = sequence()?;
        let report = at_rest(file, &mut progress);
        looks += 1;
        let steady = !live || sequence()? == before;
        if steady || looks == LOOKS {
            let mut report = report?;
            if !steady {
                let what = "pages, all at one time: the map was written to whenever it was looked at";
                report.unchecked.push(what.into());
            }
            break (live, report);
        }
    };
    report.live = live;
    report.after_power_loss = true;
    for finding in &mut report.findings {
        findings::without_cache(finding);
    }
    Ok(report)
}

/// Checks a file that nobody has open for writing.
pub(crate) fn at_rest(file: MapFile<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    let copies = headers::read_copies(file.disk);
    let newest = headers::select(file, &copies)?;
    let header = &newest.header;
    let len = file.len()?;
    let covered = Covered::of(file, header)?;
    let bottom = BottomRef { covered: covered.pages.clone(), ..BottomRef::of_map(header) };
    let survey = Survey::of(&Scan { file, bottom: &bottom }, progress)?;
    let damaged = damaged_copies(&copies, &newest);
    let mut recovery = survey::recovery(&newest, &damaged, (&survey, &covered), survey.lost(&bottom));
    let mut findings = findings::header_copies(&copies, &newest, &damaged);
    findings.extend(findings::length(header, len));
    findings.extend(findings::state(header, covered.items));
    findings.extend(findings::pages(&bottom, &survey));
    let mut omitted = Truncated::default();
    omitted.add(survey.omitted, if survey.damaged > 0 { Severity::Damage } else { Severity::Unclean });
    let frozen_failed = points(file, (header, len), &mut findings, &mut omitted)?;
    let frozen_covers = header.intent.is_some_and(|intent| intent.point == header.checkpoint_uuid);
    recovery.damaged_pages += frozen_failed + if frozen_covers { 0 } else { covered.failed };
    if recovery.lost_granules.is_some() || header.state == State::Clean && survey.failures() == 0 {
        findings.extend(findings::count(header, survey.good.granules));
    }
    let all_frozen = frozen_failed > 0 || header.outstanding().is_some_and(Point::is_everything);
    let lost = recovery.lost_granules.is_some() || recovery.lost_commit || covered.failed > 0;
    let dirty = if lost || all_frozen {
        Count::everything(&header.geometry)
    } else {
        survey::with_points(file, (header, header.outstanding()), &survey)?
    };
    let not_writable = writable(header, file.path).err().map(|e| e.to_string());
    if not_writable.is_some() {
        findings.iter_mut().for_each(findings::not_by_us);
    }
    let state = if recovery.unclean { FileState::Unclean } else { FileState::Clean };
    let mut info = Info::of_header(header, state, &recovery);
    info.dirty = Some(dirty);
    Ok(Report {
        info,
        findings,
        omitted,
        live: false,
        after_power_loss: false,
        unchecked: Vec::new(),
        pages_checked: survey.checked,
        verified: Some(survey.good.totals(&header.geometry)),
        not_writable,
    })
}

/// What is wrong with the points of a file of `len` bytes; returns how much of that is in what is frozen.
fn points(
    file: MapFile<'_>,
    (header, len): (&Header, u64),
    findings: &mut Vec<Finding>,
    omitted: &mut Truncated,
) -> Result<u64> {
    let mut frozen_failed = 0;
    for (place, point) in header.points.iter().enumerate().filter(|(_, point)| point.has_regions()) {
        let bottom = BottomRef::of_point(&header.geometry, point);
        let failed = match point_survey(file, len, &bottom)? {
            None => {
                findings.push(findings::point_cut_off(header, place, len, bottom.entries_end()));
                1
            }
            Some(found) => {
                findings.extend(findings::point_pages(header, place, &bottom, &found));
                omitted.add(found.omitted, Severity::Damage);
                let lost = found.lost(&bottom);
                findings.extend(lost.map(|lost| findings::point_lost(header, place, lost)));
                found.failures() + u64::from(lost.is_some())
            }
        };
        if point.role.is_outstanding() {
            frozen_failed = failed;
        }
    }
    Ok(frozen_failed)
}

/// Looks at a file that others have open.
fn in_use(file: MapFile<'_>, watch: Option<DirtyMap>) -> Result<Report> {
    let newest = headers::newest(file)?;
    let header = &newest.header;
    let mut info = Info::of_header(header, FileState::Open, &Recovery::default());
    info.read_intent(file, header)?;
    info.dirty = watch.and_then(|map| {
        let (count, last) = map.tally(0..map.geometry().bits());
        let dirty = (count, map.items_in(count, last));
        sync_point!(Counted);
        // Asked afterwards: everything reads dirty once those who had it open have closed it.
        map.verify_session().is_ok().then_some(dirty)
    });
    // A longer one has room in it for what is being written.
    let short = findings::length(header, file.len()?.min(header.file_length()));
    let unchecked = [
        "header copies: a commit may be under way, so that only the newest was looked at",
        "pages: another process has the file open, and may be writing them",
        "armed list: it belongs to the process that has the file open",
    ];
    Ok(Report {
        info,
        findings: short.into_iter().collect(),
        omitted: Truncated::default(),
        live: true,
        after_power_loss: false,
        unchecked: unchecked.map(String::from).to_vec(),
        pages_checked: 0,
        verified: None,
        not_writable: writable(header, file.path).err().map(|e| e.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SyncPoint, visit};
    use crate::{Access, Options};

    #[test]
    fn a_map_that_is_open_may_be_longer_than_its_header_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let map = Options::new().access(Access::Shared).create(&path, 1 << 30).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        let found = |more: u64| {
            file.set_len(len + more).unwrap();
            check(&path, |_, _| ()).unwrap().findings.iter().map(|finding| finding.place.clone()).collect::<Vec<_>>()
        };
        assert_eq!((found(65536).len(), found(0).len()), (0, 0));
        map.close().unwrap();
        // At rest it is told.
        assert_eq!(found(65536), ["file length"]);
    }

    #[test]
    fn those_who_have_a_map_open_can_close_it_while_a_check_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let shared = Options::new().access(Access::Shared).flush_interval(None).lock_timeout(Duration::ZERO);
        for closes in [false, true] {
            let map = if closes { shared.open(&path) } else { shared.create(&path, 1 << 30) }.unwrap();
            map.set(0..1).unwrap();
            let counted = map.count();
            let mut map = Some(map);
            visit(Some(Box::new(move |at| {
                if let Some(map) = map.take_if(|_| closes && at == SyncPoint::Counted) {
                    map.close().unwrap();
                }
            })));
            let report = check(&path, |_, _| ()).unwrap();
            visit(None);
            // What was counted of a session that has ended meanwhile may lack what it held.
            let expected = (!closes).then_some((counted, counted << 16));
            assert_eq!((report.live, report.info.dirty), (true, expected));
        }
    }
}
