//! Having what was written go to the device while more is being written, so that less is left to a sync.

use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;

/// So much is written before the system is asked.
const STRETCH: u64 = 8 << 20;

/// What was written to a file, roughly from front to back, and is not on its way yet.
#[derive(Debug, Default)]
pub struct WriteBehind {
    area: Range<u64>,
    bytes: u64,
}

impl WriteBehind {
    /// Bytes were written to `file`. Best effort.
    pub fn wrote(&mut self, file: &File, offset: u64, bytes: u64) {
        self.area = match self.bytes {
            0 => offset..offset + bytes,
            _ => self.area.start.min(offset)..self.area.end.max(offset + bytes),
        };
        self.bytes += bytes;
        if self.bytes >= STRETCH {
            // It writes what is not on the device yet, and forgets what is.
            let length = NonZeroU64::new(self.area.end - self.area.start);
            let _ = fadvise(file, self.area.start, length, Advice::DontNeed);
            self.bytes = 0;
        }
    }
}
