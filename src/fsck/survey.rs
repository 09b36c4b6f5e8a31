//! Reading all pages of a bottom level to learn what is in it, without loading it.
//!
//! Invariant kept here: memory is bounded, whatever is found. All counts are exact; of the failed pages, neighbours that
//! failed alike are one group, and only the first groups are kept.

use crate::error::Result;
use crate::file::bottom::{BottomRef, items_in, named};
use crate::file::headers::Newest;
use crate::file::pages::PageContent;
use crate::file::scan::{Page, PageFault, Scan};
use crate::format::{Durability, State, WordRanges};
use crate::geometry::{Geometry, PAGE_WORDS};
use crate::map_file::MapFile;
use crate::query::items_of_granules;
use crate::session::recovery::Recovery;
use std::ops::Range;

/// Groups of failed pages that are kept.
pub(crate) const MOST_GROUPS: usize = 1000;
/// Stretches of failed pages that are kept apart; the nearest are joined when there are more.
const MOST_STRETCHES: usize = 1 << 16;

/// Dirty granules, counted without loading the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub granules: u64,
    /// Whether the map's last granule, which may be partial, is among them.
    last: bool,
}

impl Count {
    /// Those of the words that the list names.
    pub(crate) fn of_list(bottom: &BottomRef) -> Count {
        let g = &bottom.geometry;
        let bit = |word: u64| (word * 64).min(g.bits());
        let granules = bottom.armed.iter().map(|r| bit(r.end()) - bit(r.first)).sum();
        Count { granules, last: g.bits() > 0 && bottom.armed.contains((g.bits() - 1) / 64) }
    }

    /// Those of a page, except in the words of `besides`.
    fn add(&mut self, g: &Geometry, index: u64, words: &PageContent, besides: u64) {
        for (i, word) in words.iter().enumerate().filter(|(i, _)| besides & 1 << i == 0) {
            let (at, word) = (index * PAGE_WORDS + i as u64, word & g.word_mask(index * PAGE_WORDS + i as u64));
            self.granules += u64::from(word.count_ones());
            self.last |= g.bits() > 0 && at == (g.bits() - 1) / 64 && word >> ((g.bits() - 1) % 64) & 1 != 0;
        }
    }

    /// Granules and items.
    pub(crate) fn totals(&self, g: &Geometry) -> (u64, u64) {
        (self.granules, items_of_granules(g, self.granules, self.last))
    }

    pub(crate) fn everything(g: &Geometry) -> (u64, u64) {
        (g.bits(), g.len())
    }
}

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
                        survey.fail(index, fault, listed != 0 && fault != PageFault::StrayBits);
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
        match self.failed.last_mut() {
            Some(last) if last.end == index => last.end += 1,
            _ => self.failed.push(index..index + 1),
        }
        if self.failed.len() > MOST_STRETCHES {
            let mut fewer = WordRanges::from_iter(std::mem::take(&mut self.failed));
            fewer.coarsen(MOST_STRETCHES / 2);
            self.failed = fewer.iter().map(|run| run.range()).collect();
        }
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

/// Dirty granules of two bottoms together, all of whose pages are good or named by the list of the first.
pub(crate) fn together(one: &Scan<'_>, other: &Scan<'_>) -> Result<Count> {
    let bottom = one.bottom;
    let mut count = Count::of_list(bottom);
    let mut chunk = 0..0;
    let mut buffer: Vec<PageContent> = Vec::new();
    let first = |chunks: [Option<Range<u64>>; 2]| chunks.into_iter().flatten().min_by_key(|chunk| chunk.start);
    while let Some(next) = first([one.next_chunk(&chunk)?, other.next_chunk(&chunk)?]) {
        chunk = next;
        buffer.clear();
        buffer.resize((chunk.end - chunk.start) as usize, [0; PAGE_WORDS as usize]);
        for scan in [one, other] {
            scan.chunk(chunk.clone(), &mut |index, page| {
                let to = &mut buffer[(index - chunk.start) as usize];
                match page {
                    Page::Good(words) => to.iter_mut().zip(words).for_each(|(to, word)| *to |= word),
                    Page::Failed(_) => to.fill(u64::MAX),
                }
                Ok(())
            })?;
        }
        for (index, words) in chunk.clone().zip(&buffer) {
            if words.iter().any(|&word| word != 0) {
                count.add(&bottom.geometry, index, words, named(&bottom.armed, index));
            }
        }
    }
    Ok(count)
}

/// What reading the pages of a point finds; `None` when the file has not all of its entries.
pub(crate) fn point_survey(file: MapFile<'_>, len: u64, bottom: &BottomRef) -> Result<Option<Survey>> {
    if len < bottom.entries_end() {
        return Ok(None);
    }
    Survey::of(&Scan { file, bottom }, &mut |_, _| {}).map(Some)
}

/// What opening the file would find. It would ask the page cache, which a reader cannot.
pub(super) fn recovery(newest: &Newest, damaged: &[usize], survey: &Survey, lost: Option<(u64, u64)>) -> Recovery {
    let header = &newest.header;
    let unclean = header.state == State::Open;
    Recovery {
        unclean,
        armed_items: items_in(&header.geometry, &header.runs),
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
