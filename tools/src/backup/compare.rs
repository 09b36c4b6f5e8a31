//! Comparing an image with its backup.
//!
//! Invariant kept here: "equal" is said of bytes that were read from both, and of what both file systems call a hole; the two
//! are counted apart, and holes count only on file systems that know their own.

use crate::exit::Result;
use crate::files::{self, Content};
use crate::terminal::pass::Pass;
use dirtymap::DirtyMap;
use std::ops::Range;

/// How much was found to be equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Equal {
    /// Bytes that were read from both.
    pub read: u64,
    /// Bytes that are holes of both.
    pub holes: u64,
}

/// An image and its backup.
pub struct Pair<'a> {
    pub image: &'a dyn Content,
    pub target: &'a dyn Content,
    /// Where writers may go on: what they have set since the freeze is for the next backup.
    pub map: Option<&'a DirtyMap>,
}

impl Pair<'_> {
    /// The first offset in `range` at which the two differ and should not.
    pub fn differs(&self, range: Range<u64>, pass: &Pass, equal: &mut Equal) -> Result<Option<u64>> {
        let mut at = range.start;
        while let Some(offset) = compare(self.image, self.target, at..range.end, pass, equal)? {
            // A writer sets the bit before it writes, so whatever was read of its data was set by now.
            let Some(granule) = self.written(offset)? else { return Ok(Some(offset)) };
            at = (offset / granule + 1).saturating_mul(granule).min(range.end);
        }
        Ok(None)
    }

    /// The length of the granule at `offset`, if something may be writing to that.
    pub fn written(&self, offset: u64) -> Result<Option<u64>> {
        let Some(map) = self.map else { return Ok(None) };
        Ok(map.get_since_freeze(offset)?.then_some(map.geometry().granule()))
    }
}

/// The first part of `range` that is no hole of both.
pub fn next_data(one: &dyn Content, other: &dyn Content, range: Range<u64>) -> Result<Option<Range<u64>>> {
    let (a, b) = (one.next_data(range.clone())?, other.next_data(range)?);
    let parts = || a.iter().chain(&b);
    let Some(start) = parts().map(|data| data.start).min() else { return Ok(None) };
    // Up to the end of whichever part of data comes first; a hole of the other one reads as zeros.
    let end = parts().filter(|data| data.start == start).map(|data| data.end).min();
    Ok(end.map(|end| start..end))
}

/// The first offset in `range` at which two files differ. Where both have a hole nothing is read.
pub fn compare(
    one: &dyn Content,
    other: &dyn Content,
    range: Range<u64>,
    pass: &Pass,
    equal: &mut Equal,
) -> Result<Option<u64>> {
    let room = files::PIECE.min(range.end.saturating_sub(range.start)) as usize;
    let mut buffers = (vec![0; room], vec![0; room]);
    let mut at = range.start;
    while at < range.end {
        pass.check()?;
        let Some(data) = next_data(one, other, at..range.end)? else { break };
        equal.holes += data.start - at;
        pass.inc(data.start - at);
        for piece in files::pieces(data) {
            pass.read(piece.end - piece.start)?;
            let n = (piece.end - piece.start) as usize;
            let (a, b) = (&mut buffers.0[..n], &mut buffers.1[..n]);
            one.read(a, piece.start)?;
            other.read(b, piece.start)?;
            // Where is asked only if there is one: a whole piece is compared many times faster than its bytes one by one.
            if a != b
                && let Some(i) = a.iter().zip(&*b).position(|(a, b)| a != b)
            {
                equal.read += i as u64;
                return Ok(Some(piece.start + i as u64));
            }
            equal.read += n as u64;
            pass.inc(n as u64);
            at = piece.end;
        }
    }
    equal.holes += range.end - at;
    pass.inc(range.end - at);
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Image, PIECE};
    use std::fs;

    /// A file of zeros, as a hole where there are holes, but for one byte in the third piece.
    fn sparse(dir: &std::path::Path, name: &str) -> Image {
        let path = dir.join(name);
        fs::File::create(&path).unwrap().set_len(4 * PIECE).unwrap();
        let image = Image::open(&path, true).unwrap();
        image.write(&[1], 2 * PIECE).unwrap();
        image
    }

    #[test]
    fn what_a_file_system_says_of_holes_counts_only_where_it_knows() {
        let dir = tempfile::tempdir().unwrap();
        let (mut one, mut other) = (sparse(dir.path(), "one"), sparse(dir.path(), "other"));
        let pass = Pass::silent("");
        let look = |one: &Image, other: &Image| {
            let mut equal = Equal::default();
            let found = compare(one, other, 0..4 * PIECE, &pass, &mut equal).unwrap();
            (found, equal)
        };
        let (found, equal) = look(&one, &other);
        assert_eq!((found, equal.read + equal.holes), (None, 4 * PIECE));
        // As FUSE and network file systems are: all of it is read.
        (one.knows_holes, other.knows_holes) = (false, false);
        assert_eq!(look(&one, &other), (None, Equal { read: 4 * PIECE, holes: 0 }));
        one.write(&[2], PIECE + 7).unwrap();
        assert_eq!(look(&one, &other).0, Some(PIECE + 7));
    }

    #[test]
    fn what_was_set_since_excuses_a_difference_of_an_image_and_none_of_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (sparse(dir.path(), "one"), sparse(dir.path(), "other"));
        let map = dirtymap::Options::new().create(dir.path().join("map"), 4 * PIECE).unwrap();
        one.write(&[2], PIECE).unwrap();
        let differs = |map| {
            let pair = Pair { image: &one, target: &other, map };
            pair.differs(0..4 * PIECE, &Pass::silent(""), &mut Equal::default()).unwrap()
        };
        assert_eq!(differs(Some(&map)), Some(PIECE));
        map.set(PIECE..PIECE + 1).unwrap();
        assert_eq!((differs(Some(&map)), differs(None)), (None, Some(PIECE)));
    }

    #[test]
    fn zeros_of_an_image_that_knows_no_holes_become_holes_of_its_backup() {
        let dir = tempfile::tempdir().unwrap();
        let mut image = sparse(dir.path(), "image");
        image.knows_holes = false;
        let target = sparse(dir.path(), "target");
        target.write(&[7], PIECE).unwrap();
        let pass = Pass::silent("");
        let copied =
            super::super::copy::copy(&image, &target, (4 * PIECE, std::iter::once(0..4 * PIECE)), false, &pass)
                .unwrap();
        assert_eq!((copied.data, copied.holes), (PIECE, 3 * PIECE));
        assert_eq!(compare(&image, &target, 0..4 * PIECE, &pass, &mut Equal::default()).unwrap(), None);
    }
}
