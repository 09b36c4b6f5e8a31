//! Points as a header names them, and what is in them.
//!
//! Invariant kept here: a point without regions holds nothing, or everything; of any other is said how much of it cannot be
//! known.

use super::bottom::{BottomRef, items_in};
use super::pages::{Count, PageContent};
use super::scan::{Page, Scan};
use crate::error::{Error, Result};
use crate::format::{CheckpointState, Header, Intent, Point, PointRole, Reasons, State, Uuid, WordRanges};
use crate::geometry::{Geometry, PAGE_WORDS};
use crate::image_stamp::ImageStamp;
use crate::map_file::MapFile;
use crate::time;
use std::path::Path;
use std::time::SystemTime;

/// The outstanding checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Its identity.
    pub uuid: Uuid,
    /// How far it has come.
    pub state: CheckpointState,
    /// The name that it was frozen with.
    pub name: Option<String>,
    /// When it was frozen.
    pub time: SystemTime,
    /// It is of a [snapshot](crate::DirtyMap::freeze_snapshot).
    pub snapshot: bool,
    /// The target of the backup that [froze it](crate::DirtyMap::freeze_for), as it was then; never exact.
    pub target: Option<ImageStamp>,
}

/// The outstanding checkpoint of a header.
pub(crate) fn of_header(header: &Header) -> Option<Checkpoint> {
    let point = header.outstanding()?;
    let name = Some(point.name.clone()).filter(|name| !name.is_empty());
    let (state, time) = (header.checkpoint_state, time::at(point.time, 0));
    let (snapshot, target) = (point.role == PointRole::Snapshot, point.target.map(ImageStamp));
    Some(Checkpoint { uuid: point.uuid, state, name, time, snapshot, target })
}

/// The error that one is outstanding, if it is.
pub(crate) fn none_outstanding(header: &Header, path: &Path) -> Result<()> {
    let Some(Checkpoint { uuid, state, name, time, .. }) = of_header(header) else { return Ok(()) };
    let (path, name) = (path.to_path_buf(), name.unwrap_or_default());
    Err(Error::Outstanding { path, state: state.name(), uuid, name, time })
}

/// The same of that of a snapshot.
pub(crate) fn no_snapshot(header: &Header, path: &Path) -> Result<()> {
    let is = header.outstanding().is_some_and(|point| point.role == PointRole::Snapshot);
    if is { none_outstanding(header, path) } else { Ok(()) }
}

/// A checkpoint that was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// Its identity.
    pub uuid: Uuid,
    /// When it was committed.
    pub time: SystemTime,
}

/// The last one of a header.
pub(crate) fn committed(header: &Header) -> Option<Committed> {
    let Header { committed_uuid: uuid, committed_time, .. } = *header;
    (!uuid.is_nil()).then(|| Committed { uuid, time: time::at(committed_time, 0) })
}

/// A point that is kept by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedPoint {
    /// Its name.
    pub name: String,
    /// Identity of what is kept for it: another one whenever that changes.
    pub uuid: Uuid,
    /// When it was frozen.
    pub time: SystemTime,
    /// The backup that was complete with it, if one was.
    pub target: Option<ImageStamp>,
}

/// The points of a header that are kept, oldest first.
pub(crate) fn kept(header: &Header) -> Vec<NamedPoint> {
    let kept = header.points.iter().filter(|point| point.role == PointRole::Kept);
    let named = |point: &Point| NamedPoint {
        name: point.name.clone(),
        uuid: point.uuid,
        time: time::at(point.time, 0),
        target: point.target.map(ImageStamp),
    };
    kept.map(named).collect()
}

pub(crate) fn no_point(header: &Header, name: &str, path: &Path) -> Error {
    let known = kept(header).into_iter().map(|point| point.name).collect();
    Error::NoPoint { path: path.to_path_buf(), name: name.into(), known }
}

/// The error of a checkpoint that is not outstanding as it has to be.
pub(crate) fn no_checkpoint(header: &Header, uuid: &Uuid, path: &Path) -> Error {
    let found = of_header(header).map_or("none outstanding".into(), |c| format!("{} ({})", c.uuid, c.state.name()));
    Error::NoCheckpoint { path: path.to_path_buf(), uuid: *uuid, found }
}

/// Where in the table a point that is kept by a name is.
pub(crate) fn find(header: &Header, name: &str, path: &Path) -> Result<usize> {
    let is = |point: &Point| point.role == PointRole::Kept && point.name == name;
    let none = || no_point(header, name, path);
    header.points.iter().position(is).ok_or_else(none)
}

/// Tells the pages of a point that verify. Says how many do not; a point of which the file has not all entries, or that has
/// lost pages together with their entries, has one more.
pub(crate) fn read(
    file: MapFile<'_>,
    geometry: &Geometry,
    point: &Point,
    tell: &mut dyn FnMut(u64, &PageContent) -> Result<()>,
) -> Result<u64> {
    if !point.has_regions() {
        return Ok(0);
    }
    let len = file.len()?;
    let bottom = BottomRef::of_point(geometry, point);
    let cut_off = step!(CheckPointLength => len < bottom.entries_end());
    let (mut granules, mut failed) = (0, u64::from(cut_off));
    Scan { file, bottom: &bottom }.run(
        |index, found| match found {
            Page::Good(words) => {
                granules += words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
                tell(index, words)
            }
            Page::Failed(_) => {
                failed += 1;
                Ok(())
            }
        },
        |_| Ok(()),
    )?;
    Ok(failed + u64::from(bottom.lost(granules, failed).is_some()))
}

/// The intent of a header that was not closed, and its point: what it covers counts as dirty.
pub(crate) fn covering(header: &Header) -> Option<(Intent, &Point)> {
    header.intent.zip(header.intent_point()).filter(|_| header.state == State::Open)
}

/// A page of the point of an intent, rounded out: what it covers of the map.
pub(crate) fn rounded(geometry: &Geometry, intent: Intent, index: u64, words: &PageContent) -> PageContent {
    std::array::from_fn(|i| intent.round(words[i]) & geometry.word_mask(index * PAGE_WORDS + i as u64))
}

/// Tells, page by page, what the intent of a header that was not closed covers; and says, as [`read`], how many pages of its
/// point fail. If any do, everything is covered.
pub(crate) fn read_cover(
    file: MapFile<'_>,
    header: &Header,
    tell: &mut dyn FnMut(u64, &PageContent) -> Result<()>,
) -> Result<u64> {
    let Some((intent, point)) = covering(header) else { return Ok(0) };
    let g = &header.geometry;
    read(file, g, point, &mut |index, words| tell(index, &rounded(g, intent, index, words)))
}

/// Those of some points that hold what was written: one that is only the intent is in no answer.
pub(crate) fn written(points: &[Point]) -> impl Iterator<Item = &Point> {
    points.iter().filter(|point| point.role != PointRole::Intent)
}

/// Items that an intent covers beside a list: those counted, or all others if something of its point is lost.
pub(crate) fn covered_items(g: &Geometry, list: &WordRanges, count: &Count, lost: bool) -> u64 {
    if lost { g.len() - items_in(g, list) } else { count.totals(g).1 }
}

/// Has a header have no intent, and no point that was only that.
pub(crate) fn forget_intent(header: &mut Header) {
    header.intent = None;
    header.points.retain(|point| point.role != PointRole::Intent);
}

impl Point {
    /// This point as one for which nothing is kept.
    pub(crate) fn holding_nothing(&self) -> Point {
        Point { table_offset: 0, bottom_offset: 0, granules: 0, reasons: Reasons::NONE, ..self.clone() }
    }

    /// This point as one that holds everything, which takes no space.
    pub(crate) fn holding_everything(&self, geometry: &Geometry) -> Point {
        Point { granules: geometry.bits(), reasons: self.reasons, ..self.holding_nothing() }
    }

    /// This point with the regions of another one, whose uuid is in their page tables.
    pub(crate) fn holding(&self, regions: &Point) -> Point {
        let Point { uuid, table_offset, bottom_offset, granules, .. } = *regions;
        Point { uuid, table_offset, bottom_offset, granules, ..self.clone() }
    }
}
