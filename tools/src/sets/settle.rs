//! Settling what a command has left that was killed: a member that was not finished, a file that was to take another one's place,
//! files that belong to no member.
//!
//! Invariants kept here:
//! - nothing is removed before `set.json` says durably that it belongs to no member;
//! - a file takes a member's place, or is taken for having it, only if its bytes are those that `set.json` has of it; if neither file
//!   is that, all members stay as they are;
//! - what a backup was about to name is removed only if it is that: under the name there may be somebody else's file.

use super::proof::{self, seen};
use super::{Folder, Stored, step};
use crate::exit::{Failure, Result};
use crate::files::durable;
use dirtymap_cli::set_json::{self, Content, Merging};
use std::fs;
use std::io;
use std::path::Path;

impl Folder {
    /// Settles all of it, but for what the next backup can go on with. What the map knows of a backup is for the caller to settle before.
    pub fn settle(&mut self) -> Result<()> {
        self.settle_files()?;
        if self.set.begun.take().is_some() {
            self.save()?;
            step("forgotten");
        }
        Ok(())
    }

    /// The same without the map: what that may know of a backup that was killed stays written down for the next one.
    pub fn settle_files(&mut self) -> Result<()> {
        self.finish_merge()?;
        // A prune that was killed before `set.json` said so has left one that takes no one's place.
        for member in &self.set.members {
            remove(&self.at(&set_json::merged_name(&member.file)))?;
        }
        if let Some(begun) = &mut self.set.begun
            && let Some(content) = begun.content.take()
        {
            let file = begun.file.clone();
            if self.holds(&file, &content)?.is_some() {
                self.set.leftover.push(file);
            }
            self.save()?;
        }
        self.remove_leftover()
    }

    /// The new file of a member has been written, and `set.json` says so: gives it the member's name. Whether it stands for the member
    /// now.
    pub fn finish_merge(&mut self) -> Result<bool> {
        let Some(merging) = self.set.merging.clone() else { return Ok(false) };
        let new = set_json::merged_name(&merging.file);
        let stored = match self.holds(&new, &merging.content)? {
            Some(stored) => {
                let path = self.at(&new);
                let named = fs::rename(&path, self.at(&merging.file))
                    .and_then(|()| durable::names(&self.directory, &self.path));
                named.map_err(|e| Failure::io(format_args!("{}: rename", path.display()), &e))?;
                Some(stored)
            }
            // It may have the name already.
            None => self.holds(&merging.file, &merging.content)?,
        };
        step("merged");
        self.set.merging = None;
        let merged = stored.is_some();
        if let Some(stored) = stored {
            let mut content = merging.content.clone();
            content.seen = seen(&stored.file).map_err(|e| Failure::io(self.at(&merging.file).display(), &e))?;
            let older = self.take_over(&Merging { content, ..merging });
            self.set.leftover.extend(older);
        }
        self.save().map(|()| merged)
    }

    /// Has a member's new file stand for it: it rests upon no other one. Gives the files of those before it, which are no members
    /// any more.
    fn take_over(&mut self, merging: &Merging) -> Vec<String> {
        let Some(index) = self.set.members.iter().position(|member| member.file == merging.file) else {
            return Vec::new();
        };
        let older = self.set.members.drain(..index).map(|member| member.file).collect();
        let member = &mut self.set.members[0];
        (member.backing, member.data, member.zeros) = (None, merging.data, 0);
        member.content = merging.content.clone();
        older
    }

    /// The file of this name, if it holds just that.
    fn holds(&self, name: &str, content: &Content) -> Result<Option<Stored>> {
        let path = self.at(name);
        match path.symlink_metadata() {
            Ok(m) if m.is_file() => {}
            Ok(_) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Failure::io(path.display(), &e)),
        }
        let stored = Stored::open(&path)?;
        Ok(match proof::prove(&stored, &path, content, false) {
            Ok(_) => Some(stored),
            Err(failure) if failure.kind == "set-damaged" => None,
            Err(failure) => return Err(failure),
        })
    }

    /// Whether a command was killed while it changed the set. A full backup that was only stopped has left nothing to be settled.
    pub fn is_unsettled(&self) -> bool {
        let merged = |file: &str| self.at(&set_json::merged_name(file)).symlink_metadata().is_ok();
        self.set.begun.is_some()
            || self.set.merging.is_some()
            || !self.set.leftover.is_empty()
            || self.set.members.iter().any(|member| merged(&member.file))
    }

    /// In memory only: has the file of a merge that was killed stand for its member, if it has the name already.
    pub(super) fn adopt_merged(&mut self) -> Result<()> {
        let Some(merging) = self.set.merging.clone() else { return Ok(()) };
        if self.holds(&merging.file, &merging.content)?.is_some() {
            self.take_over(&merging);
        }
        Ok(())
    }

    /// Removes the files that belong to no member any more. `set.json` says so already.
    pub fn remove_leftover(&mut self) -> Result<()> {
        for file in &self.set.leftover {
            remove(&self.at(file))?;
        }
        step("removed");
        if !std::mem::take(&mut self.set.leftover).is_empty() {
            let synced = durable::names(&self.directory, &self.path);
            synced.map_err(|e| Failure::io(format_args!("{}: sync", self.path.display()), &e))?;
            self.save()?;
        }
        Ok(())
    }
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Failure::io(format_args!("{}: remove", path.display()), &e))
        }
        _ => Ok(()),
    }
}
