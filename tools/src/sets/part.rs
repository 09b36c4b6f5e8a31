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
            Unfinished::Part(_, part) => durable::rename_new(&part, path),
        }
    }
}

impl Folder {
    /// The file for the next member, which is to be at `file`. `full`: one to go on with. `like`: for whose users. What an earlier
    /// backup has left is gone on with, or removed. `set.json` is for the caller to save, before he writes the file.
    pub fn begin_member(&mut self, file: &str, full: bool, like: Option<&File>) -> Result<Unfinished> {
        if !full || self.set.part.as_ref().is_some_and(|part| part != file) {
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

    /// What is at the name of a member's part, if a backup has left it.
    fn open_part(&self, file: &str) -> Result<Option<File>> {
        let path = self.at(&part_name(file));
        match path.symlink_metadata() {
            // One that was killed before `set.json` said so has written nothing yet.
            Ok(m) if m.is_file() && m.nlink() == 1 && (self.set.part.as_deref() == Some(file) || m.len() == 0) => {}
            _ => return Ok(None),
        }
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
        opened.map(Some).map_err(|e| Failure::io(format_args!("{}: open", path.display()), &e))
    }

    /// Whether there is nothing at the name of a member's part but what a backup has left.
    pub(super) fn may_begin(&self, file: &str) -> bool {
        self.at(&part_name(file)).symlink_metadata().is_err() || matches!(self.open_part(file), Ok(Some(_)))
    }

    /// Removes what a backup has left that was stopped. `set.json` says so when it is saved next.
    pub fn remove_part(&mut self) -> Result<()> {
        let Some(file) = self.set.part.clone() else { return Ok(()) };
        if self.open_part(&file)?.is_some() {
            settle::remove(&self.at(&part_name(&file)))?;
        }
        self.set.part = None;
        Ok(())
    }
}
