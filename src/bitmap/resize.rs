//! Making a map longer or shorter.
//!
//! Invariant kept here: no bit past the end, before and after; and memory that was never written is neither
//! read nor written by moving.

use super::Bitmap;
use crate::error::Result;
use crate::geometry::Geometry;
use crate::query::{Search, WordsIter};

impl Bitmap {
    /// Changes the length; returns how many dirty granules were cut off.
    ///
    /// Growing adds clean granules. Shrinking clears those that lie past the new end as a whole; one that stays in
    /// part keeps its state. So does the last, partial granule of a map that grows: it then covers more items. A
    /// [change bitmap](Self::attach_changes) follows.
    ///
    /// Cost: none where the number of granules stays; shrinking costs O(levels) per nonzero word cut off, and gives
    /// no memory back. Growing moves the map to new memory, at O(levels) per nonzero word, unless the new granules
    /// fit the last word.
    ///
    /// # Errors
    /// [`Error::Geometry`](crate::Error::Geometry) as [`new`](Self::new),
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) when growing; nothing has changed then.
    pub fn truncate(&mut self, len: u64) -> Result<u64> {
        let (from, to) = (self.geometry, Geometry::new(len, self.granularity())?);
        let longer = if to.words() > from.words() { Some(self.grown(&to)?) } else { None };
        let cleared = self.count_bits(to.bits().min(from.bits())..from.bits());
        if let Some(changes) = &mut self.changes {
            changes.follow(&from, &to, cleared > 0)?;
        }
        // Nothing fails from here on.
        match longer {
            Some(longer) => *self = Bitmap { changes: self.changes.take(), ..longer },
            None => self.cut(to),
        }
        Ok(cleared)
    }

    /// A longer copy, without the change bitmap.
    pub(super) fn grown(&self, to: &Geometry) -> Result<Bitmap> {
        let mut new = Bitmap::new(to.len(), to.granularity())?;
        for (i, word) in WordsIter::over(self, 0..self.geometry.bits()) {
            new.or_word(i, word);
        }
        Ok(new)
    }

    /// Gives it a length that needs no more words than it has, and clears what lies past its new end; the change
    /// bitmap is the caller's to adapt.
    pub(super) fn cut(&mut self, to: Geometry) {
        self.count -= self.levels.reset(to.bits()..self.geometry.bits());
        self.levels.cut(to.level_words(), to.bits());
        self.geometry = to;
    }
}
