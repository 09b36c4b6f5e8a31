//! Reading all pages of a bottom level to learn what is in it, without loading it.
//!
//! Invariant kept here: memory is bounded, whatever is found. All counts are exact; of the failed pages, neighbours that
//! failed alike are one group, and only the first groups are kept.

use crate::error::Result;
use crate::file::bottom::{BottomRef, items_in, named};
use crate::file::headers::Newest;
use crate::file::pages::{Count, PageContent};
use crate::file::points;
use crate::file::scan::{Page, PageFault, Scan};
use crate::format::{Durability, Header, Intent, Point, State, WordRanges};
use crate::geometry::PAGE_WORDS;
use crate::map_file::MapFile;
use crate::session::recovery::Recovery;
use std::ops::Range;

/// Groups of failed pages that are kept.
pub(crate) const MOST_GROUPS: usize = 1000;
/// Stretches of failed pages that are kept apart; the nearest are joined when there are more.
const MOST_STRETCHES: usize = 1 << 16;

/// Neighbouring pages that failed alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub pages: Range<u64>,
    /// What is wrong with the first of them.
    pub fault: PageFault,
    /// What a crash leaves: the list names a word of each.
    pub interrupted: bool,
}

/// What reading all pages found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    /// Pages that hold something.
    pub checked: u64,
    /// Dirty granules of pages that verify.
    pub good: Count,
    /// Dirty granules of the recovered map, but for an outstanding point.
    pub dirty: Count,
    /// Failed pages that a crash explains.
    pub interrupted: u64,
    /// Failed pages that it does not.
    pub damaged: u64,
    /// The failed pages; where they are very many and apart, also some between.
    pub failed: Vec<Range<u64>>,
    /// The failed pages by what is wrong with them: the first of them.
    pub groups: Vec<Group>,
    /// Groups that are not kept, and the pages in them.
    pub omitted: (u64, u64),
    /// The last group, while it may still grow and is not kept.
    last: Option<Group>,
}

impl Survey {
    /// Reads all pages of a bottom.
    pub(crate) fn of(scan: &Scan<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<Survey> {
        let (bottom, g) = (scan.bottom, &scan.bottom.geometry);
        let mut survey = Survey { dirty: Count::of_list(bottom), ..Survey::default() };
        scan.run(
            |index, page| {
                survey.checked += 1;
                let listed = named(&bottom.armed, index);
                match page {
                    Page::Good(words) => {
                        survey.good.add(g, index, words, 0);
                        survey.dirty.add(g, index, words, listed);
                    }
                    Page::Failed(fault) => {
                        survey.dirty.add(g, index, &[u64::MAX; PAGE_WORDS as usize], listed);
                        let expected = listed != 0 || bottom.covered.contains(index);
                        survey.fail(index, fault, expected && fault != PageFault::StrayBits);
                    }
                }
                Ok(())
            },
            |done| {
                progress(done, g.pages());
                Ok(())
            },
        )?;
        Ok(survey)
    }

    /// Whether pages of the bottom must have been lost together with their entries: see [`BottomRef::lost`].
    pub(crate) fn lost(&self, bottom: &BottomRef) -> Option<(u64, u64)> {
        bottom.lost(self.good.granules, self.failures())
    }

    /// Failed pages.
    pub(crate) fn failures(&self) -> u64 {
        self.interrupted + self.damaged
    }

    fn fail(&mut self, index: u64, fault: PageFault, interrupted: bool) {
        *if interrupted { &mut self.interrupted } else { &mut self.damaged } += 1;
        add_page(&mut self.failed, index);
        let kept = self.omitted.0 == 0;
        let last = if kept { self.groups.last_mut() } else { self.last.as_mut() };
        match last {
            Some(group)
                if group.pages.end == index && group.fault.is_like(&fault) && group.interrupted == interrupted =>
            {
                group.pages.end += 1;
                self.omitted.1 += u64::from(!kept);
            }
            _ => {
                let group = Group { pages: index..index + 1, fault, interrupted };
                if self.groups.len() < MOST_GROUPS {
                    self.groups.push(group);
                } else {
                    self.last = Some(group);
                    self.omitted.0 += 1;
                    self.omitted.1 += 1;
                }
            }
        }
    }
}

/// Adds a page to stretches of pages, which are joined where they are too many.
fn add_page(stretches: &mut Vec<Range<u64>>, index: u64) {
    match stretches.last_mut() {
        Some(last) if last.end == index => last.end += 1,
        _ => stretches.push(index..index + 1),
    }
    if stretches.len() > MOST_STRETCHES {
        let mut fewer = WordRanges::from_iter(std::mem::take(stretches));
        fewer.coarsen(MOST_STRETCHES / 2);
        *stretches = fewer.iter().map(|run| run.range()).collect();
    }
}

/// What the intent covers of a file that was not closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Covered {
    /// Pages in which it covers anything; where they are very many and apart, also some between.
    pub pages: WordRanges,
    /// Items that it covers beside the list.
    pub items: u64,
    /// Pages of its point that fail: it covers everything if there are any.
    pub failed: u64,
}

impl Covered {
    pub(crate) fn of(file: MapFile<'_>, header: &Header) -> Result<Covered> {
        let g = &header.geometry;
        let (mut pages, mut granules) = (Vec::new(), Count::default());
        let failed = points::read_cover(file, header, &mut |index, words| {
            add_page(&mut pages, index);
            granules.add(g, index, words, named(&header.runs, index));
            Ok(())
        })?;
        Ok(Covered {
            pages: WordRanges::from_iter(pages),
            items: points::covered_items(g, &header.runs, &granules, failed > 0),
            failed,
        })
    }
}

/// Dirty granules of a map and some points together, all of whose pages are good or named by the list of the map; those of a
/// point rounded out by an intent, if there is one with it.
fn together(map: &Scan<'_>, points: &[(Scan<'_>, Option<Intent>)]) -> Result<Count> {
    let bottom = map.bottom;
    let g = &bottom.geometry;
    let mut count = Count::of_list(bottom);
    let mut chunk = 0..0;
    let mut buffer: Vec<PageContent> = Vec::new();
    let all = || std::iter::once((map, None)).chain(points.iter().map(|(scan, intent)| (scan, *intent)));
    loop {
        let mut next: Option<Range<u64>> = None;
        for (scan, _) in all() {
            let chunks = next.into_iter().chain(scan.next_chunk(&chunk)?);
            next = chunks.min_by_key(|chunk| chunk.start);
        }
        let Some(next) = next else { return Ok(count) };
        chunk = next;
        buffer.clear();
        buffer.resize((chunk.end - chunk.start) as usize, [0; PAGE_WORDS as usize]);
        for (scan, intent) in all() {
            scan.chunk(chunk.clone(), &mut |index, page| {
                let to = &mut buffer[(index - chunk.start) as usize];
                match (page, intent) {
                    (Page::Failed(_), _) => to.fill(u64::MAX),
                    (Page::Good(words), None) => add_words(to, words),
                    (Page::Good(words), Some(intent)) => add_words(to, &points::rounded(g, intent, index, words)),
                }
                Ok(())
            })?;
        }
        for (index, words) in chunk.clone().zip(&buffer) {
            if words.iter().any(|&word| word != 0) {
                count.add(g, index, words, named(&bottom.armed, index));
            }
        }
    }
}

/// Dirty granules and the items in them: here, in a point, and by the intent.
pub(crate) fn with_points(
    file: MapFile<'_>,
    (header, point): (&Header, Option<&Point>),
    survey: &Survey,
) -> Result<(u64, u64)> {
    let g = &header.geometry;
    let covering = points::covering(header).map(|(intent, point)| (BottomRef::of_point(g, point), Some(intent)));
    let more = point.map(|point| (BottomRef::of_point(g, point), None)).into_iter().chain(covering);
    let points: Vec<(BottomRef, Option<Intent>)> = more.collect();
    if points.is_empty() {
        return Ok(survey.dirty.totals(g));
    }
    let scans: Vec<_> = points.iter().map(|(bottom, intent)| (Scan { file, bottom }, *intent)).collect();
    Ok(together(&Scan { file, bottom: &BottomRef::of_map(header) }, &scans)?.totals(g))
}

/// Adds the bits of one page to those of another.
pub(crate) fn add_words(to: &mut PageContent, words: &PageContent) {
    to.iter_mut().zip(words).for_each(|(to, word)| *to |= word);
}

/// What reading the pages of a point finds; `None` when the file has not all of its entries.
pub(crate) fn point_survey(file: MapFile<'_>, len: u64, bottom: &BottomRef) -> Result<Option<Survey>> {
    if len < bottom.entries_end() {
        return Ok(None);
    }
    Survey::of(&Scan { file, bottom }, &mut |_, _| {}).map(Some)
}

/// What opening the file would find. It would ask the page cache, which a reader cannot.
pub(super) fn recovery(
    newest: &Newest,
    damaged: &[usize],
    (survey, covered): (&Survey, &Covered),
    lost: Option<(u64, u64)>,
) -> Recovery {
    let header = &newest.header;
    let unclean = header.state == State::Open;
    Recovery {
        unclean,
        armed_items: items_in(&header.geometry, &header.runs),
        intent_items: covered.items,
        interrupted_pages: survey.interrupted,
        damaged_pages: survey.damaged,
        damaged_headers: damaged.len() as u64,
        lost_granules: lost,
        lost_commit: newest.lost_commit,
        cache_trusted: (unclean && header.durability == Durability::Process).then_some(false),
        ..Recovery::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail_all(pages: impl Iterator<Item = u64>) -> Survey {
        let mut survey = Survey::default();
        pages.for_each(|page| survey.fail(page, PageFault::Unreadable, false));
        survey
    }

    #[test]
    fn neighbours_that_failed_alike_are_one_group() {
        let mut survey = Survey::default();
        for (page, fault, interrupted) in [
            (1, PageFault::Mismatch { entry: 1, computed: 2 }, false),
            (2, PageFault::Mismatch { entry: 3, computed: 4 }, false),
            (3, PageFault::Mismatch { entry: 3, computed: 4 }, true),
            (4, PageFault::Unreadable, true),
            (6, PageFault::Unreadable, true),
        ] {
            survey.fail(page, fault, interrupted);
        }
        let pages: Vec<_> = survey.groups.iter().map(|g| g.pages.clone()).collect();
        assert_eq!(pages, [1..3, 3..4, 4..5, 6..7]);
        assert_eq!(survey.failed, [1..5, 6..7]);
        assert_eq!((survey.interrupted, survey.damaged), (3, 2));
    }

    #[test]
    fn what_is_not_kept_is_counted() {
        let most = MOST_GROUPS as u64;
        let survey = fail_all((0..most + 3).flat_map(|i| [10 * i, 10 * i + 1]));
        assert_eq!((survey.groups.len() as u64, survey.omitted), (most, (3, 6)));
        assert_eq!(survey.damaged, 2 * (most + 3));
        assert_eq!(fail_all((0..most).map(|i| 2 * i)).omitted, (0, 0));
    }

    #[test]
    fn stretches_are_joined_when_they_are_too_many_and_none_is_lost() {
        let many = MOST_STRETCHES as u64 * 2;
        let survey = fail_all((0..many).map(|i| 3 * i));
        assert!(survey.failed.len() <= MOST_STRETCHES);
        assert!((0..many).step_by(4099).all(|i| survey.failed.iter().any(|r| r.contains(&(3 * i)))));
        assert_eq!(survey.damaged, many);
    }
}
