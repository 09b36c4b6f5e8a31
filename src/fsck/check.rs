//! Looking at a file without changing it: what is in it, how it was left, and what is wrong with it.
//!
//! Invariant kept here: nothing is written, and no lock outlives a call.

use super::findings::{self, Finding, Severity};
use super::survey::{self, Count, Survey};
use crate::engine::core::Core;
use crate::error::{Error, Result};
use crate::file::bottom::items_in;
use crate::file::headers::{self, damaged_copies, writable};
use crate::file::points::{Checkpoint, NamedPoint, entries_end, header_of_point, kept, of_header};
use crate::file::reasons;
use crate::file::scan::Scan;
use crate::format::{self, Durability, Header, PointRole, Reasons, Runs, State, Uuid};
use crate::geometry::{Geometry, LEVELS};
use crate::image_stamp::ImageStamp;
use crate::map::DirtyMap;
use crate::query::AnyMap;
use crate::session::locks;
use crate::session::recovery::Recovery;
use crate::session::watch::{self, Reading, Watch};
use crate::sys::{Disk, FileDisk};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How a file was left, or that it is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    /// Closed cleanly.
    Clean,
    /// Somebody has it open for writing.
    Open,
    /// Whoever had it open died, or the machine did. The next open for writing recovers it.
    Unclean,
}

/// How much the dirty bits can be relied upon. They never say too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Exactly what an undisturbed run would hold.
    Exact,
    /// Recovery or repair added dirt since the last full reset or completed backup.
    Superset,
    /// A page or header copy fails and is not repaired yet; the page counts as all dirty. Or a
    /// [`Process`](Durability::Process) map is open whose memory the kernel could neither write back nor be made to keep (see
    /// [`Access::Shared`](crate::Access::Shared)): then answers may lack bits. The next open makes everything dirty.
    Damaged,
}

/// What is in a map and how it was left. Times are seconds since 1970, 0 for never.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Info {
    /// Version of the file format.
    pub format_version: u32,
    /// Identity of the map.
    pub uuid: String,
    /// The user's text.
    pub label: String,
    /// Length and granularity.
    pub geometry: Geometry,
    /// Words of each level, top first.
    pub level_words: [u64; LEVELS],
    /// What it survives.
    pub durability: Durability,
    /// How it was left.
    pub state: FileState,
    /// How much it can be relied upon.
    pub verdict: Verdict,
    /// Why it is a superset, in words.
    pub reasons: Vec<&'static str>,
    /// When dirt was last added so.
    pub dirt_time: i64,
    /// Dirty granules and the items in them; not known of a file that somebody else has open.
    pub dirty: Option<(u64, u64)>,
    /// Items that a crash now would make dirty, or has made, for being armed.
    pub armed_items: u64,
    /// Number of the newest commit.
    pub sequence: u64,
    /// When the map was made.
    pub created: i64,
    /// When it was last closed cleanly.
    pub last_clean: i64,
    /// When it was last opened for writing.
    pub last_open: i64,
    /// The image that it belongs to.
    pub image: Option<ImageStamp>,
    /// What the last completed backup wrote.
    pub target: Option<ImageStamp>,
    /// The target of a backup that was begun and is not complete: it is under way, failed or was interrupted.
    pub begun: Option<ImageStamp>,
    /// When the last backup completed.
    pub backup_time: i64,
    /// Clean granules that were compared in image and target by audits.
    pub audited: u64,
    /// Of those, how many differed.
    pub audit_missed: u64,
    /// When the last audit was.
    pub audit_time: i64,
    /// The outstanding checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The last checkpoint that was committed, and when.
    pub committed: Option<(Uuid, i64)>,
    /// The points that are kept, oldest first.
    pub points: Vec<NamedPoint>,
    /// What loading found. All zeros for a file that somebody else has open.
    pub recovery: Recovery,
}

impl Info {
    fn of_header(header: &Header, state: FileState, recovery: &Recovery) -> Info {
        let reasons = reasons::reasons(header) | recovery.reasons();
        Info {
            format_version: format::VERSION,
            uuid: header.uuid.to_string(),
            label: header.label.clone(),
            geometry: header.geometry,
            level_words: header.geometry.level_words(),
            durability: header.durability,
            state,
            verdict: verdict(reasons, recovery),
            reasons: names(reasons),
            dirt_time: header.dirt_time,
            dirty: None,
            armed_items: items_in(&header.geometry, &header.runs),
            sequence: header.sequence,
            created: header.created,
            last_clean: header.last_clean,
            last_open: header.last_open,
            image: header.image.map(ImageStamp),
            target: header.target.map(ImageStamp),
            begun: header.begun.map(ImageStamp),
            backup_time: header.backup_time,
            audited: header.audited,
            audit_missed: header.audit_missed,
            audit_time: header.audit_time,
            checkpoint: of_header(header),
            committed: (!header.committed_uuid.is_nil()).then_some((header.committed_uuid, header.committed_time)),
            points: kept(header),
            recovery: recovery.clone(),
        }
    }

    /// Of a map that this process has open. `live`: for writing.
    pub(crate) fn of_map(map: &DirtyMap, header: &Header, live: bool) -> Info {
        let state = match header.state {
            _ if live => FileState::Open,
            State::Clean => FileState::Clean,
            State::Open => FileState::Unclean,
        };
        // What opening for writing found is mended, and recorded in the header.
        let mended = Recovery { damaged_pages: map.point_failed(), ..Recovery::default() };
        let found = if live { mended } else { map.recovery().clone() };
        let mut info = Info::of_header(header, state, &found);
        info.recovery = map.recovery().clone();
        info.dirty = Some((AnyMap::count(map), AnyMap::dirty_len(map)));
        if map.core().is_ok_and(Core::may_lack_bits) {
            info.verdict = Verdict::Damaged;
            info.reasons = names(reasons::reasons(header) | Reasons::CACHE_NOT_TRUSTED);
        }
        info
    }
}

fn verdict(reasons: Reasons, recovery: &Recovery) -> Verdict {
    if recovery.damaged() {
        Verdict::Damaged
    } else if reasons.is_empty() {
        Verdict::Exact
    } else {
        Verdict::Superset
    }
}

fn names(reasons: Reasons) -> Vec<&'static str> {
    Reasons::NAMES.iter().filter(|(r, _)| reasons.contains(*r)).map(|(_, name)| *name).collect()
}

/// What is in the file at `path`, without opening it for writing. If others have it open
/// ([`FileState::Open`]) and share it, the dirty count is that of this moment; if they do not share it, there is none, only
/// what the header says. Cost: as opening for reading; waits for nobody but for the
/// moments in which somebody opens or closes it.
///
/// # Errors
/// As [`Options::open`](crate::Options::open), but a file in use is no error.
pub fn inspect(path: impl AsRef<Path>) -> Result<Info> {
    let path = path.as_ref();
    loop {
        match look(path) {
            // Those who had it open closed it meanwhile: there is something else to be seen.
            Err(Error::Unusable { .. }) => {}
            found => return found,
        }
    }
}

fn look(path: &Path) -> Result<Info> {
    let disk = Arc::new(locks::open_file(path, false)?);
    match watch::read(&disk, path, None, Duration::ZERO)? {
        Reading::Shared(watch) => {
            let map = DirtyMap::watching(path, *watch);
            let info = map.info()?;
            map.still_valid()?;
            Ok(info)
        }
        Reading::Locked => {
            let newest = headers::newest(&*disk, path)?;
            Ok(Info::of_header(&newest.header, FileState::Open, &Recovery::default()))
        }
        Reading::Loaded(loaded) => DirtyMap::loaded(path, *loaded).info(),
    }
}

/// Findings that are not told one by one, since there are too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Omitted {
    /// How many.
    pub findings: u64,
    /// Failed pages that they are about.
    pub pages: u64,
    /// The worst of them.
    pub severity: Option<Severity>,
}

impl Omitted {
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
    pub omitted: Omitted,
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
/// As [`inspect`]. A file with no usable header is an error; any other fault is a finding.
pub fn check(path: impl AsRef<Path>, mut progress: impl FnMut(u64, u64)) -> Result<Report> {
    let path = path.as_ref();
    let disk = Arc::new(locks::open_file(path, false)?);
    let gate = locks::opening_gate(&disk, path, Duration::ZERO)?;
    let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
    let alone = locks::at_rest(&disk).map_err(io("ask for writers"))?;
    if alone {
        let report = at_rest(&*disk, path, &mut progress);
        drop(gate);
        return report;
    }
    let watch = Watch::new(&disk, path)?.map(|watch| DirtyMap::watching(path, watch));
    // Those who have it open must be able to close it, however long this takes.
    drop(gate);
    in_use(&disk, path, watch)
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
    let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
    let sequence = || headers::newest(&*disk, path).map(|newest| newest.header.sequence);
    let mut looks = 0;
    let (live, mut report) = loop {
        let gate = locks::opening_gate(&disk, path, Duration::ZERO)?;
        let live = !locks::at_rest(&disk).map_err(io("ask for writers"))?;
        // At rest it stays so while the gate is kept. Those who have it open must be able to close it, however long this takes.
        let _gate = (!live).then_some(gate);
        let before = sequence()?;
        let report = at_rest(&*disk, path, &mut progress);
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
pub(crate) fn at_rest(disk: &dyn Disk, path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    let copies = headers::read_copies(disk);
    let newest = headers::choose(disk, &copies, path)?;
    let header = &newest.header;
    let len = disk.len().map_err(|source| Error::Io { op: "look at the file", path: path.to_path_buf(), source })?;
    let mut findings = findings::header_copies(&copies, &newest);
    let damaged_headers = damaged_copies(&copies, &newest).len() as u64;
    let mut recovery = Recovery { damaged_headers, lost_commit: newest.lost_commit, ..Recovery::default() };
    let mut omitted = Omitted::default();
    findings.extend(findings::length(header, len));
    recovery.unclean = header.state == State::Open;
    recovery.armed_items = items_in(&header.geometry, &header.runs);
    if recovery.unclean && header.durability == Durability::Process {
        recovery.cache_trusted = Some(false); // A reader cannot know.
    }
    findings.extend(findings::state(header));
    let scan = Scan { disk, path, header };
    let survey = Survey::of(&scan, progress)?;
    let bits = survey.good.granules;
    recovery.interrupted_pages = survey.interrupted;
    recovery.damaged_pages = survey.damaged;
    findings.extend(findings::pages(header, &survey));
    omitted.add(survey.omitted, if survey.damaged > 0 { Severity::Damage } else { Severity::Unclean });
    let mut frozen_failed = false;
    for (place, point) in header.points.iter().enumerate().filter(|(_, point)| point.has_regions()) {
        let as_header = header_of_point(header, point);
        let failed = match point_survey(disk, path, len, &as_header)? {
            None => {
                findings.push(findings::point_cut_off(header, place, len, entries_end(&as_header)));
                1
            }
            Some(found) => {
                findings.extend(findings::point_pages(header, place, &as_header, &found));
                omitted.add(found.omitted, Severity::Damage);
                let lost = found.lost(&as_header);
                findings.extend(lost.map(|lost| findings::point_lost(header, place, lost)));
                found.failures() + u64::from(lost.is_some())
            }
        };
        if point.role == PointRole::Outstanding {
            recovery.damaged_pages += failed;
            frozen_failed = failed > 0;
        }
    }
    recovery.lost_granules = survey.lost(header);
    if recovery.lost_granules.is_some() || header.state == State::Clean && survey.failures() == 0 {
        findings.extend(findings::count(header, bits));
    }
    let dirty = if recovery.lost_granules.is_some() || recovery.lost_commit || frozen_failed {
        Count::everything(&header.geometry)
    } else {
        match header.outstanding() {
            None => survey.dirty.totals(&header.geometry),
            Some(point) => {
                let as_header = header_of_point(header, point);
                let frozen = Scan { disk, path, header: &as_header };
                survey::together(&scan, &frozen)?.totals(&header.geometry)
            }
        }
    };
    let not_writable = writable(header, path).err().map(|e| e.to_string());
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

/// Whether the list of a header is what a repair has left there as dirty, since it was too much to be written.
pub(crate) fn left_on_list(header: &Header) -> bool {
    header.state == State::Clean && !header.runs.is_empty() && header.dirt_reasons.contains(Reasons::REPAIR)
}

/// What reading the pages of a point finds; `None` when the file has not all of its entries. The list is the map's, and
/// explains nothing here.
pub(crate) fn point_survey(disk: &dyn Disk, path: &Path, len: u64, as_header: &Header) -> Result<Option<Survey>> {
    if len < entries_end(as_header) {
        return Ok(None);
    }
    let header = &Header { runs: Runs::new(), ..as_header.clone() };
    Survey::of(&Scan { disk, path, header }, &mut |_, _| {}).map(Some)
}

/// Looks at a file that others have open.
fn in_use(disk: &FileDisk, path: &Path, watch: Option<DirtyMap>) -> Result<Report> {
    let newest = headers::newest(disk, path)?;
    let header = &newest.header;
    let mut info = Info::of_header(header, FileState::Open, &Recovery::default());
    info.dirty = watch.and_then(|map| {
        let dirty = (AnyMap::count(&map), AnyMap::dirty_len(&map));
        // Asked afterwards: everything reads dirty once those who had it open have closed it.
        map.still_valid().is_ok().then_some(dirty)
    });
    let len = disk.len().map_err(|source| Error::Io { op: "look at the file", path: path.to_path_buf(), source })?;
    let unchecked = [
        "header copies: a commit may be under way, so that only the newest was looked at",
        "pages: another process has the file open, and may be writing them",
        "armed list: it belongs to the process that has the file open",
    ];
    Ok(Report {
        info,
        findings: findings::length(header, len).into_iter().collect(),
        omitted: Omitted::default(),
        live: true,
        after_power_loss: false,
        unchecked: unchecked.map(String::from).to_vec(),
        pages_checked: 0,
        verified: None,
        not_writable: writable(header, path).err().map(|e| e.to_string()),
    })
}
