//! Two maps of the same length: merge, union, difference, intersection.
//!
//! Invariant kept here: everything that could be wrong with the maps is looked at before the first bit changes.

use super::core::Bitmap;
use crate::error::{Error, Result};
use crate::geometry::Geometry;
use crate::hierarchy::Levels;
use crate::query::{Blocks, ReadMap, Rounded, Search};

/// Whether two maps may be combined: their lengths are the same, and `other` can be read.
pub(crate) fn check_len(ours: &Geometry, other: &impl Search) -> Result<()> {
    other.check_readable()?;
    let (ours, theirs) = (ours.len(), other.geometry().len());
    if ours == theirs { Ok(()) } else { Err(Error::Mismatch { what: "len", ours, theirs }) }
}

/// Whether a map can take bits away from another: they have the same length and the same granularity.
pub(crate) fn check_shape(ours: &Geometry, other: &impl Search) -> Result<()> {
    check_len(ours, other)?;
    let (ours, theirs) = (ours.granularity().into(), other.geometry().granularity().into());
    if ours == theirs { Ok(()) } else { Err(Error::Mismatch { what: "granularity", ours, theirs }) }
}

/// Combining it with others, of the same length: a [`Bitmap`] or a [`DirtyMap`](crate::DirtyMap) each.
///
/// A map cannot be combined with itself, because it would have to be borrowed twice; merging or intersecting it
/// with itself would change nothing anyway, and for the rest there is [`reset_all`](Self::reset_all).
impl Bitmap {
    /// Whether `other` can be merged into this map: both have the same length. (And `other` can be read, which a
    /// [`DirtyMap`](crate::DirtyMap) in a forked child cannot.)
    pub fn can_merge(&self, other: &impl ReadMap) -> bool {
        check_len(&self.geometry, other).is_ok()
    }

    /// Marks everything as dirty that is dirty in `other`; returns how many granules were clean here.
    ///
    /// Granularities may differ: every granule that a dirty area of `other` touches becomes dirty.
    /// Cost: O(levels) per nonzero word of `other` and per word that changes here.
    ///
    /// ```
    /// # use dirtymap::Bitmap;
    /// let (mut coarse, mut fine) = (Bitmap::new(1000, 6)?, Bitmap::new(1000, 2)?);
    /// fine.set(70..71)?;
    /// coarse.merge(&fine)?;
    /// assert!(coarse.into_iter().eq([64..128]));
    /// assert_eq!(fine.merge(&coarse)?, 15);
    /// # Ok::<(), dirtymap::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the lengths differ; nothing has changed then.
    pub fn merge(&mut self, other: &impl ReadMap) -> Result<u64> {
        check_len(&self.geometry, other)?;
        if let Some(other) = self.quick(other) {
            let changed = self.levels.merge(other);
            self.count += changed;
            return Ok(changed);
        }
        let changed = Rounded::new(other, self.geometry).map(|(i, bits)| self.or_word(i, bits)).sum();
        other.check_readable().map(|()| changed)
    }

    /// Makes this map exactly the union of two others, whatever it held; returns how many of its granules changed.
    /// All three may have different granularities; what the others have is rounded outward. Cost: as
    /// [`merge`](Self::merge) of both, and O(levels) per nonzero word of this map.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the lengths differ; nothing has changed then.
    pub fn set_to_union(&mut self, a: &impl ReadMap, b: &impl ReadMap) -> Result<u64> {
        check_len(&self.geometry, a)?;
        check_len(&self.geometry, b)?;
        let to = self.geometry;
        let readable = || a.check_readable().and_then(|()| b.check_readable());
        let (mut a, mut b) = (Rounded::new(a, to).peekable(), Rounded::new(b, to).peekable());
        let (mut at, mut changed) = (0, 0);
        loop {
            // The next word that is not zero in one of the three.
            let own = self.next_nonzero_word(at..to.words()).map(|(i, _)| i);
            let words = [own, a.peek().map(|w| w.0), b.peek().map(|w| w.0)];
            let Some(i) = words.into_iter().flatten().min() else { break };
            let mut union = 0;
            while let Some((_, bits)) = a.next_if(|w| w.0 == i).or_else(|| b.next_if(|w| w.0 == i)) {
                union |= bits;
            }
            changed += self.put_word(i, union);
            at = i + 1;
        }
        readable().map(|()| changed)
    }

    /// A new map: dirty here and clean in `other`. Cost: as [`subtract`](Self::subtract), and the new map.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when lengths or granularities differ, [`Error::OutOfMemory`].
    pub fn difference(&self, other: &impl ReadMap) -> Result<Bitmap> {
        difference(self, other)
    }

    /// A new map: dirty here and in `other`. Cost: as [`intersect`](Self::intersect), and the new map.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when lengths or granularities differ, [`Error::OutOfMemory`].
    pub fn intersection(&self, other: &impl ReadMap) -> Result<Bitmap> {
        intersection(self, other)
    }

    /// Marks everything as clean that is dirty in `other`; returns how many granules were dirty here. Cost:
    /// O(levels) per nonzero word of this map.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when lengths or granularities differ; nothing has changed then.
    pub fn subtract(&mut self, other: &impl ReadMap) -> Result<u64> {
        check_shape(&self.geometry, other)?;
        self.filter(other, |i| other.certain_word(i), |ours, theirs| ours & !theirs)
    }

    /// Marks everything as clean that is clean in `other`; returns how many granules were dirty here. Cost:
    /// O(levels) per nonzero word of this map.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when lengths or granularities differ; nothing has changed then.
    pub fn intersect(&mut self, other: &impl ReadMap) -> Result<u64> {
        check_shape(&self.geometry, other)?;
        self.filter(other, |i| other.word(i), |ours, theirs| ours & theirs)
    }

    /// The levels of the other map, if it is one that can be gone through beside this one, word by word, and nobody wants to know
    /// what changes.
    fn quick<'a>(&self, other: &'a impl Search) -> Option<&'a Levels<Vec<u64>>> {
        other.levels().filter(|_| *other.geometry() == self.geometry && self.changes.is_none())
    }

    /// Replaces each nonzero word by what `keep` makes of it and of the other map's, which `theirs` gives; it must add
    /// nothing.
    fn filter(
        &mut self,
        other: &impl Search,
        theirs: impl Fn(u64) -> u64,
        keep: impl Fn(u64, u64) -> u64 + Copy,
    ) -> Result<u64> {
        if let Some(other) = self.quick(other) {
            let changed = self.levels.filter(other, keep);
            self.count -= changed;
            return Ok(changed);
        }
        let (mut at, mut changed) = (0, 0);
        while let Some((i, word)) = self.levels.next_nonzero_word(at..self.geometry.words()) {
            changed += self.put_word(i, keep(word, theirs(i)));
            at = i + 1;
        }
        other.check_readable().map(|()| changed)
    }
}

/// A new map: dirty in `map` and clean in `other`.
pub(crate) fn difference(map: &impl Search, other: &impl Search) -> Result<Bitmap> {
    check_shape(map.geometry(), other)?;
    let difference = filtered(map, |i, word| word & !other.certain_word(i))?;
    other.check_readable().map(|()| difference)
}

/// A new map: dirty in both.
pub(crate) fn intersection(map: &impl Search, other: &impl Search) -> Result<Bitmap> {
    check_shape(map.geometry(), other)?;
    let intersection = filtered(map, |i, word| word & other.word(i))?;
    other.check_readable().map(|()| intersection)
}

/// A copy with each nonzero word replaced by what `keep` makes of it.
fn filtered(map: &impl Search, keep: impl Fn(u64, u64) -> u64) -> Result<Bitmap> {
    map.check_readable()?;
    let g = map.geometry();
    let mut copy = Bitmap::new(g.len(), g.granularity())?;
    for (i, word) in Blocks::over(map, 0..g.words()) {
        copy.or_word(i, keep(i, word));
    }
    map.check_readable()?;
    Ok(copy)
}
