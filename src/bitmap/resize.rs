//! Making a map longer or shorter.
//!
//! Invariant kept here: no bit past the end, before and after; and memory that was never written is not
//! written by moving. Chunks that changed and were cut off are marked as changed when they come back.

use super::core::{Bitmap, Changes, zeroed_levels};
use crate::error::{Error, Result};
use crate::geometry::Geometry;
use crate::hierarchy::Levels;
use crate::query::Search;

/// So many words (512 KiB) are appended as zeros; more come from the system, which gives memory only where it is written.
const FEW: u64 = 1 << 16;

impl Bitmap {
    /// Changes the length; returns how many dirty granules were cut off.
    ///
    /// Growing adds clean granules. Shrinking clears those that lie past the new end as a whole; one that stays in
    /// part keeps its state. So does the last, partial granule of a map that grows: it then covers more items. A
    /// [change bitmap](Self::attach_changes) follows.
    ///
    /// Cost: none where the number of granules stays; shrinking costs O(levels) per nonzero word cut off, and gives
    /// no memory back. Growing by up to 2^22 granules reallocates, for which the system moves no memory of large maps; by more,
    /// it copies the blocks of 4096 granules that are not clean.
    ///
    /// # Errors
    /// [`Error::Geometry`] as [`new`](Self::new),
    /// [`Error::OutOfMemory`] when growing; nothing has changed then.
    pub fn truncate(&mut self, len: u64) -> Result<u64> {
        let (from, to) = (self.geometry, Geometry::new(len, self.granularity())?);
        let cleared = self.count_bits(to.bits().min(from.bits())..from.bits());
        self.grow(&to)?;
        let followed = match &mut self.changes {
            Some(changes) => changes.follow(&from, &to, cleared > 0),
            None => Ok(()),
        };
        // What was appended is clear, and cut off again if the marks could not follow.
        self.cut(if followed.is_ok() { to } else { from });
        followed.map(|()| cleared)
    }

    /// Gives it as many words as a map of this shape has, if those are more: [`cut`](Self::cut) then gives it the shape.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; nothing has changed then.
    fn grow(&mut self, to: &Geometry) -> Result<()> {
        let words = to.level_words();
        let more = to.words().saturating_sub(self.geometry.words());
        if more == 0 {
            return Ok(());
        }
        if more <= FEW {
            let refused = || Error::OutOfMemory { bytes: words.iter().sum::<u64>() * 8 };
            self.levels.make_room(words).then_some(()).ok_or_else(refused)?;
            self.levels.extend(words, to.bits());
        } else {
            let mut longer = Levels::new(zeroed_levels(words)?, to.bits());
            longer.merge(&self.levels);
            self.levels = longer;
        }
        self.geometry = *to;
        Ok(())
    }

    /// Gives it a length that needs no more words than it has, and clears what lies past its new end; the change
    /// bitmap is the caller's to adapt.
    fn cut(&mut self, to: Geometry) {
        self.count -= self.levels.reset(to.bits()..self.geometry.bits());
        self.levels.cut(to.level_words(), to.bits());
        self.geometry = to;
    }
}

impl Changes {
    /// The map changes its length, and its granularity stays. `cleared` tells whether bits were cut off that were
    /// set. Only growing can fail, and has changed nothing then.
    pub(crate) fn follow(&mut self, from: &Geometry, to: &Geometry, cleared: bool) -> Result<()> {
        if to.bits() > from.bits() {
            let longer = self.marks.geometry.as_long_as(to);
            self.marks.grow(&longer)?;
            self.marks.cut(longer);
            self.mark(from.bits()..self.cut.min(to.bits()));
        } else {
            if cleared {
                self.mark(to.bits()..from.bits());
            }
            let chunks = to.bits() >> self.shift..self.marks.geometry.bits();
            if self.marks.next_set(chunks).is_some() {
                self.cut = self.cut.max(from.bits());
            }
            self.marks.cut(self.marks.geometry.as_long_as(to));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hierarchy::counted;

    /// Some bits at both ends.
    fn map(bits: u64) -> Bitmap {
        let mut map = Bitmap::new(bits, 0).unwrap();
        [0..70, bits - 3..bits].into_iter().for_each(|range| assert!(map.set(range).is_ok()));
        map
    }

    #[test]
    fn growing_keeps_all_bits_and_summaries() {
        for bits in [3, 64, 4096, 5000, 1 << 18, (1 << 24) + 7] {
            for more in [1, 63, 4096, FEW * 64, FEW * 64 + 64, 1 << 25] {
                let mut grown = map(bits.max(70));
                let (from, mut expected) = (grown.len(), Bitmap::new(grown.len() + more, 0).unwrap());
                [0..70, from - 3..from].into_iter().for_each(|range| assert!(expected.set(range).is_ok()));
                assert_eq!(grown.truncate(from + more).unwrap(), 0);
                assert_eq!(grown.check_invariants(), Ok(()), "{from} and {more}");
                assert!(grown == expected && grown.levels.bottom() == expected.levels.bottom(), "{from} and {more}");
                assert_eq!(grown.truncate(from).unwrap(), 0);
                assert_eq!(grown.truncate(from + more).unwrap(), 0, "clear again");
            }
        }
    }

    #[test]
    fn growing_looks_at_no_word_or_at_the_blocks_that_are_not_clean() {
        let mut map = map(1 << 30);
        map.attach_changes(6).unwrap();
        let (looks, _) = counted(|| map.truncate((1 << 30) + FEW * 64).unwrap());
        assert!(looks <= 10, "{looks} words");
        let (looks, _) = counted(|| map.truncate(1 << 31).unwrap());
        assert!(looks <= 3 * 64 + 30, "{looks} words");
    }
}
