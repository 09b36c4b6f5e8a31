//! Looking at a file without changing it: what is in it, how it was left, and what is wrong with it.
//!
//! Invariant kept here: nothing is written, and no lock outlives a call.

use super::attach::{self, Reading};
use super::headers::{self, Copies, Newest};
use super::open::{self, Recovery, items_in};
use super::scan::{Page, PageFault, Scan};
use super::view::named;
use super::watch::Watch;
use super::{Checkpoint, DirtyMap, ImageStamp, NamedPoint, checkpoint, points};
use crate::error::{Error, Result};
use crate::format::{
    self, COPIES, COPY_BYTES, Durability, Header, PointRole, Reasons, Runs, State, Uuid, copy_offset, pair_of,
};
use crate::geometry::{Geometry, LEVELS, PAGE_BITS, PAGE_BYTES, PAGE_WORDS};
use crate::read::{Search, items_of_granules};
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
    /// A page or header copy fails and is not repaired yet; the page counts as all dirty.
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
    /// The image that it belongs to, and whether its modification time counts.
    pub image: Option<(ImageStamp, bool)>,
    /// What the last backup wrote, and whether its modification time counts: it does not while a backup to it is
    /// under way or was interrupted, and never for a block device.
    pub target: Option<(ImageStamp, bool)>,
    /// When the last backup completed.
    pub backup_time: i64,
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
    /// As [`DirtyMap::backup_target_differs`], of what this says.
    pub fn backup_target_differs(&self, target: &ImageStamp) -> Option<String> {
        self.target.map(|(recorded, _)| target.differs_from_target(&recorded.0))
    }

    fn of_header(header: &Header, state: FileState, recovery: &Recovery) -> Info {
        let reasons = header.dirt_reasons | recovery.reasons();
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
            image: header.image.map(|s| (ImageStamp(s), s.exact)),
            target: header.target.map(|s| (ImageStamp(s), s.exact)),
            backup_time: header.backup_time,
            checkpoint: checkpoint::of_header(header),
            committed: (!header.committed_uuid.is_nil()).then_some((header.committed_uuid, header.committed_time)),
            points: points::kept(header),
            recovery: recovery.clone(),
        }
    }

    /// Of a map that this process has open. `live`: for writing.
    pub(super) fn of_map(map: &DirtyMap, header: &Header, live: bool) -> Info {
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
        info.dirty = Some((Search::count(map), Search::dirty_len(map)));
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
    let disk = Arc::new(attach::open_file(path, false)?);
    match attach::read(&disk, path, None, Duration::ZERO)? {
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

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Odd, but without consequence.
    Note,
    /// What a crash leaves. The next open for writing mends it, and only adds dirt.
    Unclean,
    /// What a crash does not explain.
    Damage,
}

/// Something in a file that is not as a clean close leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// Where: the part of the file, and its bytes.
    pub place: String,
    /// What is there.
    pub found: String,
    /// What should be.
    pub expected: String,
    /// What it means for the next backup.
    pub consequence: String,
}

/// What [`check`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// What the header says. The dirty count is that of the recovered map; none for a file in use that is not shared.
    pub info: Info,
    /// All findings, in the order of the phases: header copies, file length, state, armed list, pages.
    pub findings: Vec<Finding>,
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
        self.findings.iter().map(|f| f.severity).max()
    }
}

/// Checks the file at `path` without changing it. `progress` is told pages passed and pages in all.
/// Memory: bounded, whatever the file's size, but for the findings.
///
/// # Errors
/// As [`inspect`]. A file with no usable header is an error; any other fault is a finding.
pub fn check(path: impl AsRef<Path>, mut progress: impl FnMut(u64, u64)) -> Result<Report> {
    let path = path.as_ref();
    let disk = Arc::new(attach::open_file(path, false)?);
    let gate = attach::gate(&disk, path, Duration::ZERO)?;
    let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
    let alone = attach::at_rest(&disk).map_err(io("ask for writers"))?;
    let report = check_file(&disk, path, alone, &mut progress);
    drop(gate);
    report
}

fn check_file(disk: &Arc<FileDisk>, path: &Path, alone: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
    let copies = headers::read_copies(&**disk);
    let newest = headers::choose(&**disk, &copies, path)?;
    let header = &newest.header;
    let mut findings = header_findings(&copies, &newest, alone);
    let mut recovery = Recovery { damaged_headers: findings.len() as u64, ..Recovery::default() };
    let mut unchecked = Vec::new();
    let mut pages_checked = 0;
    let dirty;
    let mut verified = None;
    let state = match (alone, header.state) {
        (false, _) => FileState::Open,
        (_, State::Clean) => FileState::Clean,
        (_, State::Open) => FileState::Unclean,
    };
    findings.extend(length_finding(header, disk.len().map_err(io("look at the file"))?));
    if alone {
        recovery.unclean = header.state == State::Open;
        recovery.armed_items = items_in(&header.geometry, &header.runs);
        if recovery.unclean && header.durability == Durability::Process {
            recovery.cache_trusted = Some(false); // A reader cannot know.
        }
        findings.extend(state_findings(header));
        let mut failed = Vec::new();
        let mut good = Count::default();
        let mut count = Count::of_list(header);
        let pages = header.geometry.pages();
        let scan = Scan { disk: &**disk, path, header };
        scan.run(
            |index, page| {
                pages_checked += 1;
                match page {
                    Page::Good(words) => {
                        good.add(header, index, words, 0);
                        count.add(header, index, words, named(&header.runs, index));
                    }
                    Page::Failed(fault) => {
                        count.add(header, index, &[u64::MAX; PAGE_WORDS as usize], named(&header.runs, index));
                        failed.push((index, fault));
                    }
                }
            },
            |done| progress(done, pages),
        )?;
        let bits = good.granules;
        verified = Some(good.totals(&header.geometry));
        for &(index, fault) in &failed {
            let (finding, interrupted) = page_finding(header, index, fault);
            *if interrupted { &mut recovery.interrupted_pages } else { &mut recovery.damaged_pages } += 1;
            findings.push(finding);
        }
        for place in 0..header.points.len() {
            let lost = point_findings(disk, path, header, place)?;
            if header.points[place].role == PointRole::Outstanding {
                recovery.damaged_pages += lost.len() as u64;
            }
            findings.extend(lost);
        }
        recovery.lost_granules = open::lost_granules(header, bits, failed.len() as u64);
        if recovery.lost_granules.is_some() || header.state == State::Clean && failed.is_empty() {
            findings.extend(count_finding(header, bits));
        }
        dirty = match (header.outstanding(), recovery.lost_granules) {
            (_, Some(_)) => Some(Count::everything(&header.geometry)),
            (None, None) => Some(count.totals(&header.geometry)),
            // Two sets of pages are not joined without loading them.
            (Some(_), None) => DirtyMap::options().read_only(true).open(path)?.info()?.dirty,
        };
    } else {
        unchecked.push("pages: another process has the file open, and may be writing them".to_string());
        unchecked.push("armed list: it belongs to the process that has the file open".to_string());
        let watch = Watch::new(disk, path)?.map(|watch| DirtyMap::watching(path, watch));
        dirty = watch.and_then(|map| map.still_valid().is_ok().then(|| (Search::count(&map), Search::dirty_len(&map))));
    }
    let mut info = Info::of_header(header, state, &recovery);
    info.dirty = dirty;
    let not_writable = open::writable(header, path).err().map(|e| e.to_string());
    Ok(Report { info, findings, unchecked, pages_checked, verified, not_writable })
}

/// Dirty granules, counted without loading the map.
#[derive(Default)]
struct Count {
    granules: u64,
    /// Whether the map's last granule, which may be partial, is among them.
    last: bool,
}

impl Count {
    /// Those of the words that the list names.
    fn of_list(header: &Header) -> Count {
        let g = &header.geometry;
        let bit = |word: u64| (word * 64).min(g.bits());
        let granules = header.runs.iter().map(|r| bit(r.end()) - bit(r.first)).sum();
        Count { granules, last: g.bits() > 0 && header.runs.contains((g.bits() - 1) / 64) }
    }

    /// Those of a page, except in the words of `besides`.
    fn add(&mut self, header: &Header, index: u64, words: &[u64; PAGE_WORDS as usize], besides: u64) {
        let g = &header.geometry;
        for (i, word) in words.iter().enumerate().filter(|(i, _)| besides & 1 << i == 0) {
            let (at, word) = (index * PAGE_WORDS + i as u64, word & g.word_mask(index * PAGE_WORDS + i as u64));
            self.granules += u64::from(word.count_ones());
            self.last |= g.bits() > 0 && at == (g.bits() - 1) / 64 && word >> ((g.bits() - 1) % 64) & 1 != 0;
        }
    }

    /// Granules and items.
    fn totals(&self, g: &Geometry) -> (u64, u64) {
        (self.granules, items_of_granules(g, self.granules, self.last))
    }

    fn everything(g: &Geometry) -> (u64, u64) {
        (g.bits(), g.len())
    }
}

/// Copies that should be the header, or the one before it, and are neither.
///
/// After an unclean end one pair may be torn: the one that was being written.
pub(super) fn damaged_copies(copies: &Copies, newest: &Newest) -> Vec<usize> {
    let bad = |copy: &usize| match &copies[*copy] {
        Err(_) => true,
        Ok(header) => {
            header.uuid != newest.header.uuid || !twin_agrees(copies, *copy) || is_rival(copies, newest, header)
        }
    };
    let bad: Vec<usize> = (0..COPIES).filter(bad).collect();
    let one_pair = bad.iter().all(|&c| pair_of(c) == pair_of(bad[0]));
    if newest.header.state == State::Open && one_pair && !newest.rivals || was_closing(copies, newest, &bad) {
        Vec::new()
    } else {
        bad
    }
}

/// Whether closing was cut short between the two copies of CLEAN: the second one still is an older commit.
fn was_closing(copies: &Copies, newest: &Newest, bad: &[usize]) -> bool {
    let [copy] = bad else { return false };
    let older = |h: &Header| h.uuid == newest.header.uuid && h.sequence < newest.header.sequence;
    newest.header.state == State::Clean && pair_of(*copy) == newest.pair && copies[*copy].as_ref().is_ok_and(older)
}

/// Whether the other copy of the pair says the same. A stale copy disagrees; the newer one of the two does not.
fn twin_agrees(copies: &Copies, copy: usize) -> bool {
    match (&copies[copy], &copies[(copy + 2) % COPIES]) {
        (Ok(one), Ok(other)) => one.uuid != other.uuid || one.sequence > other.sequence || one == other,
        _ => true,
    }
}

/// Whether `header` has the newest sequence number and is not what the first copy with it says.
fn is_rival(copies: &Copies, newest: &Newest, header: &Header) -> bool {
    let same = |h: &&Header| h.uuid == newest.header.uuid && h.sequence == newest.header.sequence;
    same(&header) && copies.iter().flatten().find(same) != Some(header)
}

fn header_findings(copies: &Copies, newest: &Newest, alone: bool) -> Vec<Finding> {
    if !alone {
        return Vec::new(); // A commit may be under way.
    }
    let finding = |&copy: &usize| {
        let start = copy_offset(copy);
        let found = match &copies[copy] {
            Err(problem) => problem.to_string(),
            Ok(h) if h.uuid != newest.header.uuid => format!("a header of another map, {}", h.uuid),
            Ok(h) if is_rival(copies, newest, h) => format!("another commit with the newest number, {}", h.sequence),
            Ok(h) => format!("commit {}, unlike its twin", h.sequence),
        };
        let rival = copies[copy].as_ref().is_ok_and(|h| is_rival(copies, newest, h));
        Finding {
            severity: Severity::Damage,
            place: format!("header copy {copy} (bytes {start} to {})", start + COPY_BYTES as u64),
            found,
            expected: format!("a valid copy of map {}", newest.header.uuid),
            consequence: if rival {
                "what either commit calls armed counts as dirty".into()
            } else {
                "nothing: another copy is good; opening the map for writing renews all copies".into()
            },
        }
    };
    damaged_copies(copies, newest).iter().map(finding).collect()
}

fn length_finding(header: &Header, len: u64) -> Option<Finding> {
    let expected = header.file_length();
    (len != expected).then(|| Finding {
        severity: Severity::Note,
        place: "file length".into(),
        found: format!("{len} bytes"),
        expected: format!("{expected} bytes"),
        consequence: if len > expected {
            "nothing: what is behind the end is not used".into()
        } else {
            "nothing by itself: missing bytes count as zeros, and pages that they belong to are reported below".into()
        },
    })
}

fn state_findings(header: &Header) -> Vec<Finding> {
    let mut findings = Vec::new();
    let armed = items_in(&header.geometry, &header.runs);
    if header.state == State::Open {
        findings.push(Finding {
            severity: Severity::Unclean,
            place: "header, state".into(),
            found: "OPEN, and nobody has it open".into(),
            expected: "CLEAN".into(),
            consequence: "resets since the last flush are undone; the next open for writing recovers the map".into(),
        });
    }
    if !header.runs.is_empty() {
        findings.push(Finding {
            severity: Severity::Unclean,
            place: "header, armed list".into(),
            found: format!("{} runs naming {} words", header.runs.len(), header.runs.words()),
            expected: "none in a clean file".into(),
            consequence: match header.durability {
                Durability::PowerLoss => format!("up to {armed} bytes copied needlessly"),
                Durability::Process => {
                    format!("up to {armed} bytes copied needlessly, unless the page cache can be trusted")
                }
            },
        });
    }
    findings
}

fn page_finding(header: &Header, index: u64, fault: PageFault) -> (Finding, bool) {
    let interrupted = named(&header.runs, index) != 0 && fault != PageFault::StrayBits;
    let start = header.layout.bottom.start + index * PAGE_BYTES;
    let g = &header.geometry;
    let items = g.items_of(&(index * PAGE_BITS..((index + 1) * PAGE_BITS).min(g.bits())));
    let (found, expected) = match fault {
        PageFault::Mismatch { entry, computed } => {
            (format!("bytes with entry {computed:08x}"), format!("entry {entry:08x}, as in the page table"))
        }
        PageFault::Unreadable => ("bytes that the device does not give back".into(), "readable bytes".into()),
        PageFault::EntryUnreadable => {
            ("a page-table entry that the device does not give back".into(), "a readable entry".into())
        }
        PageFault::StrayBits => ("bits past the end of the map".into(), "zeros there".into()),
    };
    let finding = Finding {
        severity: if interrupted { Severity::Unclean } else { Severity::Damage },
        place: format!("page {index} (bytes {start} to {})", start + PAGE_BYTES),
        found,
        expected,
        consequence: format!(
            "bytes {} to {} of the image count as dirty: up to {} bytes copied needlessly",
            items.start,
            items.end,
            items.end - items.start
        ),
    };
    (finding, interrupted)
}

/// What is wrong with a point: pages that do not verify, and entries that the file does not have.
fn point_findings(disk: &FileDisk, path: &Path, header: &Header, place: usize) -> Result<Vec<Finding>> {
    let point = &header.points[place];
    let as_header = open::header_of_point(header, point);
    let consequence = match point.role {
        PointRole::Outstanding => "everything counts as dirty".to_string(),
        PointRole::Kept => format!(
            "everything counts as dirty since {:?} and since older points; what is dirty now is not touched by it",
            point.name
        ),
    };
    let len = disk.len().map_err(|source| Error::Io { op: "look at the file", path: path.to_path_buf(), source })?;
    let entries = open::entries_end(&as_header);
    if len < entries {
        return Ok(vec![Finding {
            severity: Severity::Damage,
            place: format!("point {place}, page table"),
            found: format!("the file ends at byte {len}"),
            expected: format!("entries up to byte {entries}"),
            consequence,
        }]);
    }
    let mut findings = Vec::new();
    let scan = Scan { disk, path, header: &as_header };
    scan.run(
        |index, page| {
            if let Page::Failed(fault) = page {
                let (finding, _) = page_finding(&as_header, index, fault);
                findings.push(Finding {
                    severity: Severity::Damage,
                    place: format!("point {place}, {}", finding.place),
                    consequence: consequence.clone(),
                    ..finding
                });
            }
        },
        |_| {},
    )?;
    Ok(findings)
}

fn count_finding(header: &Header, bits: u64) -> Option<Finding> {
    let recorded = header.clean_dirty_bits;
    (bits != recorded && header.runs == Runs::new()).then(|| Finding {
        severity: if bits < recorded { Severity::Damage } else { Severity::Note },
        place: "bottom level".into(),
        found: format!("{bits} dirty granules"),
        expected: format!("{recorded}, as counted when the map was closed"),
        consequence: if bits < recorded {
            "full backup needed: pages and their entries were lost together; everything counts as dirty".into()
        } else {
            "nothing: there is more dirt than there was, not less".into()
        },
    })
}
