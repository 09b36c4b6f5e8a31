//! Where snapshots can be.
//!
//! Invariant kept here: a write to such a file is in this kernel's page cache when its call returns, and none arrives after the
//! death of its process.

use crate::exit::{Failure, Result};
use std::fs::File;
use std::os::unix::fs::FileTypeExt;

/// ext2 to ext4, XFS, btrfs, F2FS, bcachefs, tmpfs, overlayfs: the numbers of statfs(2).
const LOCAL: [u64; 7] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e, 0x0102_1994, 0x794c_7630];

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
    let kind = rustix::fs::fstatfs(file).map_err(|e| failed(e.into()))?.f_type;
    if LOCAL.contains(&(kind as u64 & 0xffff_ffff)) {
        return Ok(());
    }
    let message = format!(
        "{what} is on a file system (type {kind:#x}) where writes may arrive after the death of the server; live snapshots \
         need a local one"
    );
    Err(Failure::new("unsupported", message))
}
