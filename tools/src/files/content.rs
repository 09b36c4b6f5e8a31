//! What has the bytes of a disk: an image, or a chain of files that together are one.

use super::Image;
use crate::exit::Result;
use std::ops::Range;

/// The bytes of a disk, wherever they lie. One thread may read them for another.
pub trait Content: Sync {
    /// How many there are.
    fn len(&self) -> u64;
    /// Fills `buffer` with what is at `offset`.
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()>;
    /// The first part of `range` that may hold something else than zeros; `None` if all of it is zeros.
    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>>;
    /// Whether it knows what it has no bytes for. Otherwise zeros are to be looked for.
    fn knows_holes(&self) -> bool;
}

impl Content for Image {
    fn len(&self) -> u64 {
        self.size()
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        Image::read(self, buffer, offset)
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        Ok(Image::next_data(self, range))
    }

    fn knows_holes(&self) -> bool {
        self.knows_holes
    }
}
