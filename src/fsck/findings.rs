//! What a check has to say of a file: what is where, what should be there, what that means for the next backup, and what
//! repair would do about it.
//!
//! Invariant kept here: nothing is read or decided here; the numbers are those that reading has found.

use super::survey::{Group, Survey};
use crate::error::counted;
use crate::file::bottom::{BottomRef, items_in};
use crate::file::headers::{Copies, Newest, is_conflicting, spoilt};
use crate::file::points::covering;
use crate::file::reasons::left_on_list;
use crate::file::scan::PageFault;
use crate::format::{COPY_BYTES, Durability, Header, PointRole, State, copies_of, copy_offset};
use crate::geometry::{PAGE_BITS, PAGE_BYTES};
use std::ops::Range;

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
#[non_exhaustive]
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
    /// Whether by this alone everything in the map counts as dirty, so that the next backup has to be a full one.
    pub all_dirty: bool,
    /// What [`repair`](crate::fsck::repair()) would do about it.
    pub repair: String,
    /// How many neighbouring pages it is about; 1 for what is not about pages.
    pub count: u64,
}

/// What is said of each damaged header copy.
pub(crate) fn header_copies(copies: &Copies, newest: &Newest, damaged: &[usize]) -> Vec<Finding> {
    let finding = |&copy: &usize| {
        let start = copy_offset(copy);
        let conflicting = copies[copy].as_ref().is_ok_and(|h| is_conflicting(copies, newest, h));
        let found = match &copies[copy] {
            Err(problem) => problem.to_string(),
            Ok(h) if h.uuid != newest.header.uuid => format!("a header of another map, {}", h.uuid),
            Ok(h) if conflicting => format!("another commit with the newest number, {}", h.sequence),
            Ok(h) => format!("commit {}, unlike its twin", h.sequence),
        };
        Finding {
            severity: Severity::Damage,
            place: format!("header copy {copy} (bytes {start} to {})", start + COPY_BYTES as u64),
            found,
            expected: format!("a valid copy of map {}", newest.header.uuid),
            consequence: if newest.lost_commit {
                "everything counts as dirty: no copy of this pair is valid, and the power has not gone since the map was \
                 opened, so that a newer commit may be lost"
                    .into()
            } else if conflicting {
                "what either commit calls armed counts as dirty".into()
            } else {
                "nothing: another copy is good; opening the map for writing renews all copies".into()
            },
            all_dirty: newest.lost_commit,
            repair: "write it anew, from a good copy".into(),
            count: 1,
        }
    };
    let mut findings: Vec<Finding> = damaged.iter().map(finding).collect();
    let other = 1 - newest.pair;
    if findings.is_empty() && spoilt(copies, other) {
        let [one, two] = copies_of(other);
        findings.push(Finding {
            severity: Severity::Unclean,
            place: format!("header copies {one} and {two}"),
            found: "both are invalid".into(),
            expected: format!("commit {}, or an older one", newest.header.sequence.saturating_add(1)),
            consequence:
                "nothing, if the power went while they were written; if it did not, they have rotted, and what was set \
                          last may read clean: take a full backup"
                    .into(),
            all_dirty: false,
            repair: "write them anew, from a good copy".into(),
            count: 1,
        });
    }
    findings
}

/// What is said of a file that is longer or shorter than its header says.
pub(crate) fn length(header: &Header, len: u64) -> Option<Finding> {
    let expected = header.file_length();
    let (consequence, repair) = if len > expected {
        ("nothing: what is behind the end is not used", "cut off what is behind the end")
    } else {
        (
            "nothing by itself: missing bytes count as zeros, and pages that they belong to are reported below",
            "make the file as long as it should be",
        )
    };
    (len != expected).then(|| Finding {
        severity: Severity::Note,
        place: "file length".into(),
        found: format!("{len} bytes"),
        expected: format!("{expected} bytes"),
        consequence: consequence.into(),
        all_dirty: false,
        repair: repair.into(),
        count: 1,
    })
}

/// What is said of a header that was not closed.
pub(crate) fn state(header: &Header, by_intent: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let armed = items_in(&header.geometry, &header.runs);
    if header.state == State::Open {
        findings.push(Finding {
            severity: Severity::Unclean,
            place: "header, state".into(),
            found: "OPEN, and nobody has it open".into(),
            expected: "CLEAN".into(),
            consequence: "resets since the last flush are undone; the next open for writing recovers the map".into(),
            all_dirty: false,
            repair: "close the map cleanly".into(),
            count: 1,
        });
    }
    if !header.runs.is_empty() && !left_on_list(header) {
        let needlessly = format!("up to {} copied needlessly", counted(armed, "byte"));
        findings.push(Finding {
            severity: Severity::Unclean,
            place: "header, armed list".into(),
            found: format!(
                "{} naming {}",
                counted(header.runs.len() as u64, "run"),
                counted(header.runs.words(), "word")
            ),
            expected: "none in a clean file".into(),
            consequence: match header.durability {
                Durability::PowerLoss => needlessly,
                Durability::Process => needlessly + CACHE,
            },
            all_dirty: false,
            repair: "make what it names dirty, and empty it".into(),
            count: 1,
        });
    }
    if let Some((_, point)) = covering(header) {
        findings.push(Finding {
            severity: Severity::Unclean,
            place: "header, intent".into(),
            found: format!("point {}, which covers {}", point.uuid, counted(by_intent, "byte")),
            expected: "a clean file, where it says nothing".into(),
            consequence: format!("up to {} copied needlessly", counted(by_intent, "byte")),
            repair: "make what it covers dirty, and forget it".into(),
            count: 1,
            all_dirty: false,
        });
    }
    findings
}

/// What nobody knows if the power goes.
const CACHE: &str = ", unless the page cache can be trusted";

/// The same of a file whose page cache is lost.
pub(crate) fn without_cache(finding: &mut Finding) {
    if let Some(definite) = finding.consequence.strip_suffix(CACHE) {
        finding.consequence = definite.to_string();
    }
}

/// The same of a map that this version may not write to.
pub(crate) fn not_by_us(finding: &mut Finding) {
    finding.repair = "nothing, by this version: it cannot write to the map".into();
}

/// "page 3 (bytes ...)", "pages 3 to 7 (bytes ...)".
fn place_of(bottom: &BottomRef, pages: &Range<u64>) -> String {
    let at = |page: u64| bottom.bottom.start + page * PAGE_BYTES;
    let (start, end) = (at(pages.start), at(pages.end));
    match pages.end - pages.start {
        1 => format!("page {} (bytes {start} to {end})", pages.start),
        _ => format!("pages {} to {} (bytes {start} to {end})", pages.start, pages.end - 1),
    }
}

fn group(bottom: &BottomRef, group: &Group) -> Finding {
    let g = &bottom.geometry;
    let pages = &group.pages;
    let bit = |page: u64| (page * PAGE_BITS).min(g.bits());
    let items = g.items_of(&(bit(pages.start)..bit(pages.end)));
    let count = pages.end - pages.start;
    let first = if count > 1 { ", the first" } else { "" };
    let (found, expected) = match group.fault {
        PageFault::Mismatch { entry, computed } => {
            (format!("checksum {computed:08x}{first}"), format!("checksum {entry:08x}{first}, as the page table says"))
        }
        PageFault::Unreadable => ("bytes that the device does not give back".into(), "readable bytes".into()),
        PageFault::EntryUnreadable => {
            ("a page-table entry that the device does not give back".into(), "a readable entry".into())
        }
        PageFault::StrayBits => ("bits past the end of the map".into(), "zeros there".into()),
    };
    Finding {
        severity: if group.interrupted { Severity::Unclean } else { Severity::Damage },
        place: place_of(bottom, pages),
        found,
        expected,
        consequence: format!(
            "bytes {} to {} of the image count as dirty: up to {} copied needlessly",
            items.start,
            items.end,
            counted(items.end - items.start, "byte")
        ),
        all_dirty: false,
        repair: match count {
            1 => "write it anew, as all dirty".into(),
            _ => "write them anew, as all dirty".into(),
        },
        count,
    }
}

/// What is said of the failed pages of the map.
pub(crate) fn pages(bottom: &BottomRef, survey: &Survey) -> impl Iterator<Item = Finding> {
    survey.groups.iter().map(|g| group(bottom, g))
}

/// What it means that something is wrong with a point, what repair does, and whether everything counts as dirty for that.
fn point_means(header: &Header, place: usize) -> (String, String, bool) {
    let point = &header.points[place];
    let covers = covering(header).is_some_and(|(_, covering)| covering.uuid == point.uuid);
    let all_dirty = covers || point.role.is_outstanding();
    let consequence = match point.role {
        _ if all_dirty => "everything counts as dirty".into(),
        PointRole::Outstanding | PointRole::Snapshot | PointRole::Intent => {
            "nothing: it would count only after a crash".into()
        }
        PointRole::Kept => format!(
            "everything counts as dirty since {:?} and since older points; what is dirty now is not touched by it",
            point.name
        ),
    };
    let repair = match point.role {
        PointRole::Outstanding | PointRole::Snapshot => "have the point hold everything: it is frozen still",
        PointRole::Kept => "have the point hold everything",
        PointRole::Intent => "forget the point: it was only the intent",
    };
    (consequence, repair.into(), all_dirty)
}

/// What is said of a point of which the file has not all entries.
pub(crate) fn point_cut_off(header: &Header, place: usize, len: u64, entries: u64) -> Finding {
    let (found, expected) = (format!("the file ends at byte {len}"), format!("entries up to byte {entries}"));
    point(header, place, "page table", found, expected)
}

/// What is said of a point that has fewer granules than were counted when it was made.
pub(crate) fn point_lost(header: &Header, place: usize, (found, recorded): (u64, u64)) -> Finding {
    let expected = format!("{recorded}, as counted when it was frozen: pages and their entries were lost together");
    point(header, place, "bottom level", counted(found, "dirty granule"), expected)
}

fn point(header: &Header, place: usize, part: &str, found: String, expected: String) -> Finding {
    let (consequence, repair, all_dirty) = point_means(header, place);
    let place = format!("point {place}, {part}");
    Finding { severity: Severity::Damage, place, found, expected, consequence, all_dirty, repair, count: 1 }
}

/// What is said of the failed pages of a point, which are in `bottom`.
pub(crate) fn point_pages(
    header: &Header,
    place: usize,
    bottom: &BottomRef,
    survey: &Survey,
) -> impl Iterator<Item = Finding> {
    let (consequence, repair, all_dirty) = point_means(header, place);
    survey.groups.iter().map(move |g| {
        let finding = group(bottom, g);
        Finding {
            severity: Severity::Damage,
            place: format!("point {place}, {}", finding.place),
            all_dirty,
            consequence: consequence.clone(),
            repair: repair.clone(),
            ..finding
        }
    })
}

/// What is said of a closed map that has another number of dirty granules than were counted when it was closed.
pub(crate) fn count(header: &Header, bits: u64) -> Option<Finding> {
    let recorded = header.clean_dirty_bits;
    let (severity, consequence, repair) = if bits < recorded {
        (
            Severity::Damage,
            "everything counts as dirty: pages and their entries were lost together",
            "make everything dirty",
        )
    } else {
        (Severity::Note, "nothing: there is more dirt than there was, not less", "record how many there are")
    };
    (bits != recorded && header.runs.is_empty()).then(|| Finding {
        severity,
        place: "bottom level".into(),
        found: counted(bits, "dirty granule"),
        expected: format!("{recorded}, as counted when the map was closed"),
        consequence: consequence.into(),
        all_dirty: severity == Severity::Damage,
        repair: repair.into(),
        count: 1,
    })
}
