//! What a power cut does not take: the bytes of a file that is synced, and the names in a directory that is.
//!
//! Invariant kept here: a set of backups syncs nothing but here, so a test sees what is not yet synced when something else is.

use super::image::directory_of;
use crate::exit::{Failure, Result};
use dirtymap::NewFile;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes the bytes of a file durable.
pub fn bytes(file: &File) -> io::Result<()> {
    if before(Synced::Bytes(file)) { file.sync_all() } else { Ok(()) }
}

/// Makes the names in a directory durable. `path`: its name.
pub fn names(directory: &File, path: &Path) -> io::Result<()> {
    if before(Synced::Names(path)) { directory.sync_all() } else { Ok(()) }
}

/// Gives a file its name, durably. `path`: that name.
pub fn publish(new: NewFile, path: &Path) -> Result<()> {
    new.publish()?;
    before(Synced::Names(directory_of(path)));
    Ok(())
}

/// Gives a file another name in its directory, which nothing may have, durably.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let renamed = match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can.
        Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(from, to).and_then(|()| fs::remove_file(from)),
        renamed => renamed.map_err(io::Error::from),
    };
    renamed.map_err(|e| Failure::io(format_args!("{}: rename", from.display()), &e))?;
    name_of(to)
}

/// Makes the entry of `path` in its directory durable.
pub fn name_of(path: &Path) -> Result<()> {
    let directory = directory_of(path);
    let synced = File::open(directory).and_then(|open| names(&open, directory));
    synced.map_err(|e| Failure::io(format_args!("{}: sync", directory.display()), &e))
}

/// What is about to be synced.
#[cfg_attr(not(test), allow(dead_code, reason = "only tests look at it"))]
pub enum Synced<'a> {
    Bytes(&'a File),
    Names(&'a Path),
}

/// Tells a test, which may have it left out.
fn before(_synced: Synced<'_>) -> bool {
    #[cfg(test)]
    return AT_SYNC.with_borrow_mut(|at| at.as_mut().is_none_or(|at| at(_synced)));
    #[cfg(not(test))]
    true
}

/// What a test does before each sync; whether it takes place.
#[cfg(test)]
pub type AtSync = Option<Box<dyn FnMut(Synced<'_>) -> bool>>;

#[cfg(test)]
thread_local! {
    pub static AT_SYNC: std::cell::RefCell<AtSync> = const { std::cell::RefCell::new(None) };
}
