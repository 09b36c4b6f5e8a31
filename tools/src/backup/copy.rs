//! Copying areas of an image to its backup.
//!
//! Invariant kept here: after it every byte of the areas was read from the image and written to the target, or is zero in both.

use super::ahead::{Ahead, Piece};
use crate::exit::Result;
use crate::files::{Content, Image, WriteBehind, is_zero};
use crate::terminal::pass::Pass;
use std::ops::Range;

/// How much was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of data.
    pub data: u64,
    /// Bytes of data that the target had already, where it keeps that apart.
    pub equal: u64,
    /// Bytes of data that a backup that was stopped had written to it, and that were found to be right.
    pub kept: u64,
    /// Bytes that are holes of the image, or zeros of one whose holes do not count; zeros in the target now.
    pub holes: u64,
}

/// Copies areas of an image of `len` bytes; they ascend. `blank`: the target reads as zeros there.
pub fn copy(
    image: &dyn Content,
    target: &Image,
    (len, areas): (u64, impl Iterator<Item = Range<u64>>),
    blank: bool,
    pass: &Pass,
) -> Result<Copied> {
    let (mut copied, mut behind) = (Copied::default(), WriteBehind::default());
    let ahead = Ahead { source: image, len, whole: len, unit: 1, pass };
    ahead.read(areas, |piece| {
        let hole = match piece {
            Piece::Hole(range) => range,
            // Where the image cannot say what is a hole, the backup would have none.
            Piece::Data(offset, bytes) if !image.knows_holes() && is_zero(bytes) => offset..offset + bytes.len() as u64,
            Piece::Data(offset, bytes) => {
                copied.data += bytes.len() as u64;
                target.write(bytes, offset)?;
                behind.wrote(&target.file, offset, bytes.len() as u64);
                return Ok(());
            }
        };
        copied.holes += hole.end - hole.start;
        if blank { Ok(()) } else { target.zero(hole) }
    })?;
    Ok(copied)
}
