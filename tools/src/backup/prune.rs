//! Pruning a set: the members that are kept no longer are merged into the oldest that is.
//!
//! Invariant kept here: every member that is kept can be restored at any moment, with this program and with QEMU. Its new file is
//! complete, verified and durable before it takes the name of the old one, in one rename; what is removed has been in no chain
//! since then.

use super::compare::{Equal, compare};
use super::member::MemberWriter;
use crate::exit::{Failure, Result};
use crate::files::{durable, permit_like};
use crate::sets::{Folder, Hashing, Layered, Stored, damaged, failed, seen, step};
use crate::terminal::pass::Pass;
use dirtymap::NewFile;
use dirtymap_cli::qcow2::data::Disk;
use dirtymap_cli::set_json::{Content as Recorded, Merging, merged_name};
use std::fs;
use std::io;

/// What a prune that is stopped has done.
const STOPPED: &str = "nothing was pruned";

/// What was pruned.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Numbers, the oldest first.
    pub members: Vec<String>,
    /// Bytes of data of the file that was written anew; 0 if none had to be.
    pub bytes_written: u64,
}

/// Keeps the newest `keep` members. The folder is had alone.
pub fn prune(folder: &mut Folder, keep: u64) -> Result<Pruned> {
    let before: Vec<String> = folder.set.members.iter().map(|member| member.number().to_string()).collect();
    folder.settle_files()?;
    // A prune that was killed may have left some to be removed.
    let settled = before.len() - folder.set.members.len();
    let beyond = folder.set.members.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
    let mut pruned = Pruned { members: before[..settled + beyond].to_vec(), bytes_written: 0 };
    if beyond == 0 {
        return Ok(pruned);
    }
    if folder.set.members[beyond].backing.is_some() {
        pruned.bytes_written = merge(folder, beyond)?;
        if !folder.finish_merge()? {
            let file = folder.at(&merged_name(&folder.set.members[beyond].file));
            return Err(damaged(format!("{}: something has changed it; nothing was pruned", file.display())));
        }
    } else {
        let older = folder.set.members.drain(..beyond).map(|member| member.file);
        folder.set.leftover.extend(older);
        folder.save()?;
    }
    step("pruned");
    folder.remove_leftover()?;
    Ok(pruned)
}

/// Writes a file for a member that rests upon no other, and has `set.json` say that it will take the place of the old one.
fn merge(folder: &mut Folder, index: usize) -> Result<u64> {
    let member = folder.set.members[index].clone();
    let path = folder.at(&merged_name(&member.file));
    let io = |e: &io::Error| Failure::io(path.display(), e);
    let old = folder.prove(index, true)?;
    let like = Stored::open(&folder.at(&member.file))?;
    let bits =
        Disk::open(Stored::open(&folder.at(&member.file))?).map_err(|e| failed(&member.file, &e))?.cluster().ilog2();
    let new = NewFile::beside(&path)?;
    permit_like(new.file(), Some(&like.file)).map_err(|e| io(&e))?;
    // Whatever the disk has behind the image's end, what rests upon it was compared with that as well.
    let disk = old.disk();
    let mut writer = MemberWriter::new(new.file(), &path, disk, bits, None)?;
    let areas = std::iter::once(0..disk);
    writer.copy(&old, None, areas, false, &Pass::new("merging", disk, STOPPED))?;
    let data = writer.data;
    writer.finish(None)?;
    let (stored, hashing) = Hashing::of(Stored::again(new.file(), &path)?, &path, STOPPED)?;
    let merged = Layered::written(stored, &path, None, member.size)?;
    step("merge written");
    let found = compare(&old, &merged, 0..disk, &Pass::new("verifying", disk, STOPPED), &mut Equal::default())?;
    if let Some(offset) = found {
        let (name, number) = (path.display(), member.number());
        return Err(damaged(format!("{name} differs from member {number} at {offset}; nothing was pruned")));
    }
    drop(merged);
    let (stored, sha256) = (Stored::again(new.file(), &path)?, hashing.finish()?);
    durable::publish(new, &path)?;
    step("merge named");
    let content = Recorded { bytes: stored.bytes, sha256, seen: seen(&stored.file).map_err(|e| io(&e))? };
    folder.set.merging = Some(Merging { file: member.file, data, content });
    if let Err(failure) = folder.save() {
        // It takes no one's place: whatever `set.json` says by now, all members stay as they are without it.
        let _ = fs::remove_file(&path);
        return Err(failure);
    }
    step("merge listed");
    Ok(data)
}
