//! An image as an export whose writes are tracked.
//!
//! Invariant kept here: no byte of the image changes before its range is set, in a bracket that a freeze waits for. A range
//! that cannot be set is not written, and the client gets the error.

use dirtymap::DirtyMap;
use dirtymap_nbd::codec::values::allocation;
use dirtymap_nbd::{Backend, Extents, Failure, Features, FileBackend, Zeroes};
use std::io;
use std::ops::Range;

/// What QEMU's clients look for.
const DIRTY: &str = "qemu:dirty-bitmap:dirty";

/// An image with its map. A map that is open for reading goes with an image that is, too.
pub struct Tracked {
    pub image: FileBackend,
    pub map: DirtyMap,
}

impl Tracked {
    /// Has a change done in a bracket.
    fn change(&self, range: Range<u64>, change: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let _write = self.map.begin_write(range).map_err(io::Error::from)?;
        change()
    }
}

impl Backend for Tracked {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn features(&self) -> Features {
        self.image.features()
    }

    fn contexts(&self) -> Vec<String> {
        vec![allocation::NAME.into(), DIRTY.into()]
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), Failure> {
        self.image.read(offset, into)
    }

    fn holes(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.image.holes(range)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Failure> {
        self.change(offset..offset + data.len() as u64, || self.image.write(offset, data, fua))
    }

    fn flush(&self) -> Result<(), Failure> {
        self.image.flush()
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), Failure> {
        self.change(offset..offset + length, || self.image.trim(offset, length, fua))
    }

    fn write_zeroes(&self, offset: u64, length: u64, how: Zeroes) -> Result<(), Failure> {
        self.change(offset..offset + length, || self.image.write_zeroes(offset, length, how))
    }

    fn cache(&self, offset: u64, length: u64) -> Result<(), Failure> {
        self.image.cache(offset, length)
    }

    fn block_status(&self, context: usize, offset: u64, length: u64, extents: &mut Extents) -> Result<(), Failure> {
        if context == 0 {
            return self.image.block_status(0, offset, length, extents);
        }
        let end = offset + length;
        let mut at = offset;
        for dirty in self.map.extents(offset..end).map_err(io::Error::from)? {
            if !extents.push(dirty.start - at, 0) || !extents.push(dirty.end - dirty.start, 1) {
                return Ok(());
            }
            at = dirty.end;
        }
        extents.push(end - at, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirtymap::Options;

    #[test]
    fn what_cannot_be_set_is_not_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let (image, map) = (dir.path().join("image"), dir.path().join("map"));
        std::fs::write(&image, [7; 1 << 16]).expect("write");
        Options::new().create_closed(&map, 1 << 16).expect("create");
        // The image takes writes, the map does not.
        let tracked = Tracked {
            image: FileBackend::open(&image, true).expect("open"),
            map: Options::new().read_only(true).open(&map).expect("open"),
        };
        let failures = [
            tracked.write(0, &[1; 512], false),
            tracked.trim(0, 4096, false),
            tracked.write_zeroes(0, 4096, Zeroes::default()),
        ];
        for failure in failures {
            assert_eq!(failure.expect_err("refused").errno, dirtymap_nbd::Errno::Perm);
        }
        assert_eq!(std::fs::read(&image).expect("read"), [7; 1 << 16]);
    }
}
