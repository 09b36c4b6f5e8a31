//! The file of a member that is being written.
//!
//! Invariants kept here:
//! - one that others can go on with, of a full member, has a name while it is written, and `set.json` says so before anything is in it:
//!   so what holds something under such a name without that is never written to or removed;
//! - any other one has no name until it is complete.

use super::{Folder, settle};
use crate::exit::{Failure, Result};
use crate::files::{durable, permit_like};
use dirtymap::NewFile;
use dirtymap_cli::set_json::part_name;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A member's file, until it has its name.
pub enum Unfinished {
    /// Dropped, it is gone.
    Nameless(NewFile),
    /// Dropped, it stays.
    Part(File, PathBuf),
}

impl Unfinished {
    pub fn file(&self) -> &File {
        match self {
            Unfinished::Nameless(new) => new.file(),
            Unfinished::Part(file, _) => file,
        }
    }

    /// Gives the file its name, durably.
    pub fn publish(self, path: &Path) -> Result<()> {
        match self {
            Unfinished::Nameless(new) => durable::publish(new, path),
            Unfinished::Part(file, part) => {
                is_at(&file, &part)?;
                durable::rename_new(&part, path)?;
                // What was put in its place in between.
                is_at(&file, path)
            }
        }
    }
}

/// Whether a file is what has this name: another program may have given that to something else.
fn is_at(file: &File, path: &Path) -> Result<()> {
    let io = |e: io::Error| Failure::io(path.display(), &e);
    let (ours, named) = (file.metadata().map_err(io)?, path.symlink_metadata().map_err(io)?);
    if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
        return Ok(());
    }
    let message = format!(
        "{} is another file than the one that was written: something else renames or copies files of the set; the next \
         backup makes the member anew",
        path.display()
    );
    Err(Failure::new("set-changed", message))
}

impl Folder {
    /// The file for the next member, which is to be at `file`. `full`: one to go on with. `like`: for whose users. What an earlier
    /// backup has left is gone on with, or removed. `set.json` is for the caller to save, before he writes the file.
    pub fn begin_member(&mut self, file: &str, full: bool, like: Option<&File>) -> Result<Unfinished> {
        let goes_on = full && self.set.part.as_ref().is_none_or(|part| part == file) && self.is_own(file);
        if !goes_on {
            self.remove_part()?;
        }
        let path = self.at(&if full { part_name(file) } else { file.into() });
        let io = |e: &io::Error| Failure::io(path.display(), e);
        let new = if full {
            let make = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let part = self.open_part(file)?.map_or_else(|| make().map_err(|e| io(&e)), Ok)?;
            self.set.part = Some(file.into());
            Unfinished::Part(part, path.clone())
        } else {
            Unfinished::Nameless(NewFile::beside(&path)?)
        };
        permit_like(new.file(), like).map_err(|e| io(&e))?;
        Ok(new)
    }

    /// Whether what is at the name of a member's part is a backup's.
    fn is_left(&self, file: &str) -> bool {
        // One that was killed before `set.json` said so has written nothing yet.
        let told = |length| self.set.part.as_deref() == Some(file) || length == 0;
        self.at(&part_name(file)).symlink_metadata().is_ok_and(|m| m.is_file() && told(m.len()))
    }

    /// Bytes of what a full backup has left that was stopped, for the next one to go on with.
    pub fn unfinished(&self) -> Option<u64> {
        let file = self.set.part.as_ref().filter(|file| self.is_left(file))?;
        self.at(&part_name(file)).symlink_metadata().ok().map(|m| m.len())
    }

    /// Whether it has no other name, as that of a copy of the set which is made by links.
    fn is_own(&self, file: &str) -> bool {
        self.at(&part_name(file)).symlink_metadata().is_ok_and(|m| m.nlink() == 1)
    }

    /// What is at the name of a member's part, if a backup has left it.
    fn open_part(&self, file: &str) -> Result<Option<File>> {
        let path = self.at(&part_name(file));
        if !self.is_left(file) || !self.is_own(file) {
            return Ok(None);
        }
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
        opened.map(Some).map_err(|e| Failure::io(format_args!("{}: open", path.display()), &e))
    }

    /// Whether there is nothing at the name of a member's part but what a backup has left.
    pub(super) fn may_begin(&self, file: &str) -> bool {
        self.at(&part_name(file)).symlink_metadata().is_err() || self.is_left(file)
    }

    /// Removes what a backup has left that was stopped. `set.json` says so when it is saved next.
    pub fn remove_part(&mut self) -> Result<()> {
        let Some(file) = self.set.part.clone() else { return Ok(()) };
        if self.is_left(&file) {
            settle::remove(&self.at(&part_name(&file)))?;
        }
        self.set.part = None;
        Ok(())
    }
}
