//! Where snapshots can be, and of what.
//!
//! Invariant kept here: a write to such a file is in this kernel's page cache when its call returns, and none arrives after the
//! death of its process.

use super::format::{TOO_MANY, block_of};
use crate::exit::{Failure, Result};
use crate::files::file_system;
use dirtymap::DirtyMap;
use std::fs::File;
use std::os::unix::fs::FileTypeExt;

/// What it writes to is local.
const OVERLAYFS: u64 = 0x794c_7630;

/// The length of the blocks of a map's image, and how many there are. Refuses more than memory is for.
pub fn blocks(map: &DirtyMap) -> Result<(u64, u64)> {
    let (size, granule) = (map.len(), map.granule_bytes());
    let block = block_of(size, granule);
    let blocks = size.div_ceil(block);
    if blocks <= TOO_MANY {
        return Ok((block, blocks));
    }
    let path = map.path().display();
    let message = match block == granule {
        true => format!(
            "{path}: has granules of {granule} bytes, too short for a snapshot of {size} bytes; make a map with longer ones \
             (--granule)"
        ),
        false => format!("{path}: {size} bytes are too many for a snapshot"),
    };
    Err(Failure::new("unsupported", message))
}

/// Refuses an image whose writes may outlive this process.
pub fn image(file: &File) -> Result<()> {
    check(file, "the image")
}

/// The same of the files of scratch.
pub fn scratch(file: &File) -> Result<()> {
    check(file, "scratch (--scratch)")
}

fn check(file: &File, what: &str) -> Result<()> {
    let failed = |e: std::io::Error| Failure::io(what, &e);
    if file.metadata().map_err(failed)?.file_type().is_block_device() {
        return Ok(());
    }
    let (kind, local) = file_system(file).map_err(failed)?;
    if local || kind == OVERLAYFS {
        return Ok(());
    }
    let message = format!(
        "{what} is on a file system (type {kind:#x}) where writes may arrive after the death of the server; live snapshots \
         need a local one"
    );
    Err(Failure::new("unsupported", message))
}
