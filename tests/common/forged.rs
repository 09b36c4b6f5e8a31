//! Small files whose headers call much of a large map dirty.

use dirtymap::format::{COPIES, Header, State, Uuid, WordRanges, copy_offset};
use dirtymap::{Durability, Geometry};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The header of a map with this many granules, which lists these words. `counted` is what it held when it was closed.
pub fn header(bits: u64, durability: Durability, state: State, runs: WordRanges, counted: u64) -> Header {
    let mut header = Header::new(Uuid([7; 16]), Geometry::new(bits, 0).unwrap(), durability);
    header.sequence = 1;
    header.state = state;
    header.nonce = if state == State::Open { Uuid([8; 16]) } else { Uuid::NIL };
    header.runs = runs;
    header.clean_dirty_bits = counted;
    header
}

/// A file with this header and a hole behind it.
pub fn write(path: &Path, header: &Header) -> File {
    let file = File::create(path).unwrap();
    (0..COPIES).for_each(|copy| file.write_all_at(&header.encode().unwrap(), copy_offset(copy)).unwrap());
    file.set_len(header.file_length()).unwrap();
    file
}
