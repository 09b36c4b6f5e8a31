//! Copying areas of an image to its backup.
//!
//! Invariant kept here: after it every byte of the areas was read from the image and written to the target, or is zero in both.

use super::INTERRUPTED;
use crate::exit::Result;
use crate::files::{self, Content, Image};
use crate::terminal::signals;
use indicatif::ProgressBar;
use std::ops::Range;

/// How much was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of data.
    pub data: u64,
    /// Bytes of data that the target had already, where it keeps that apart.
    pub equal: u64,
    /// Bytes that are holes of the image, or zeros of one whose holes do not count; zeros in the target now.
    pub holes: u64,
}

/// Copies an area. `blank`: the target reads as zeros there.
pub fn copy(image: &dyn Content, target: &Image, area: Range<u64>, blank: bool, bar: &ProgressBar) -> Result<Copied> {
    let mut buffer = vec![0; files::PIECE as usize];
    let mut copied = Copied::default();
    let hole = |range: Range<u64>| -> Result<u64> {
        if !blank {
            target.zero(range.clone())?;
        }
        bar.inc(range.end - range.start);
        Ok(range.end - range.start)
    };
    let mut at = area.start;
    while at < area.end {
        signals::check(INTERRUPTED)?;
        let data = image.next_data(at..area.end)?.unwrap_or(area.end..area.end);
        copied.holes += hole(at..data.start)?;
        for piece in files::pieces(data.clone()) {
            signals::check(INTERRUPTED)?;
            let bytes = &mut buffer[..(piece.end - piece.start) as usize];
            image.read(bytes, piece.start)?;
            // Where the image cannot say what is a hole, the backup would have none.
            if !image.knows_holes() && bytes.iter().all(|byte| *byte == 0) {
                copied.holes += hole(piece)?;
                continue;
            }
            target.write(bytes, piece.start)?;
            copied.data += bytes.len() as u64;
            bar.inc(bytes.len() as u64);
        }
        at = data.end;
    }
    Ok(copied)
}
