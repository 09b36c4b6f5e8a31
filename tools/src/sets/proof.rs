//! Whether the files of a set are what `set.json` says.
//!
//! Invariant kept here: a file is called right without reading it only if the system, which has not been started anew since, says
//! that nothing has written to it since it was complete; otherwise by all of its bytes.

use super::chain::{Layered, Stored, failed};
use super::hashing::hash;
use super::{Folder, damaged};
use crate::exit::{Failure, Result};
use crate::terminal::pass::Pass;
use crate::terminal::signals;
use crate::time;
use dirtymap_cli::qcow2::data::{Counted, Disk, Shape, check};
use dirtymap_cli::set_json::{Content, Member, Seen};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a command that only reads says when it is stopped.
const STOPPED: &str = "not everything was read";

/// What the system says of a file.
pub fn seen(file: &File) -> io::Result<Seen> {
    let m = file.metadata()?;
    let (modified, changed) = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
    Ok(Seen { inode: m.ino(), modified, changed, boot: time::boot() })
}

/// Whether a file is what it was: by the system, or else by its bytes; or with `read`, by its bytes in any case. What the system says
/// of it, as it is proved.
pub(super) fn prove(stored: &Stored, path: &Path, content: &Content, read: bool) -> Result<Seen> {
    let now = seen(&stored.file).map_err(|e| Failure::io(path.display(), &e))?;
    let Content { bytes, sha256, seen: then } = content;
    if stored.bytes != *bytes {
        let message = format!("{}: has {} bytes, and had {bytes} when it was complete", path.display(), stored.bytes);
        return Err(damaged(message));
    }
    if read || !now.proves(then) {
        let found = hash(stored, path, &Pass::new("checking", stored.bytes, STOPPED))?;
        if found != *sha256 {
            let message = format!("{}: SHA-256 is {found}, and was {sha256} when it was complete", path.display());
            return Err(damaged(message));
        }
    }
    Ok(now)
}

impl Folder {
    /// The disk that a member is, from files that are proved to be what they were: by the system, or else by their bytes; or with
    /// `read`, by their bytes in any case.
    pub fn prove(&self, index: usize, read: bool) -> Result<Layered> {
        self.prove_all(index, read).map(|(disk, _)| disk)
    }

    /// The same of the newest member; what is proved by its bytes need not be read the next time, once `set.json` is saved.
    pub fn prove_newest(&mut self) -> Result<Layered> {
        let newest = self.set.members.len().saturating_sub(1);
        let (disk, seen) = self.prove_all(newest, false)?;
        let first = self.set.members.len() - seen.len();
        for (member, seen) in self.set.members[first..].iter_mut().zip(seen) {
            member.content.seen = seen;
        }
        Ok(disk)
    }

    fn prove_all(&self, index: usize, read: bool) -> Result<(Layered, Vec<Seen>)> {
        let chain = self.set.chain(index);
        let mut disks = Vec::with_capacity(chain.len());
        let mut found = Vec::with_capacity(chain.len());
        for member in chain {
            let path = self.at(&member.file);
            let stored = Stored::open(&path)?;
            found.push(prove(&stored, &path, &member.content, read)?);
            disks.push(self.open_disk(stored, &path, member)?);
        }
        let member = &self.set.members[index];
        let disk = Layered::new(disks, member.size, self.at(&member.file).display().to_string())?;
        Ok((disk, found))
    }

    /// The disk in a file, if it is of the right length and rests upon what it should.
    fn open_disk(&self, stored: Stored, path: &Path, member: &Member) -> Result<Disk<Stored>> {
        let name = path.display().to_string();
        let disk = Disk::open(stored).map_err(|e| failed(&name, &e))?;
        let expected = Shape::new(member.size, disk.cluster().ilog2(), None).map_err(|e| failed(&name, &e))?.len();
        if disk.size() != expected {
            let message = format!("{name}: is a disk of {} bytes, expected {expected}", disk.size());
            return Err(damaged(message));
        }
        let backing = disk.backing().map(String::from_utf8_lossy);
        if backing.as_deref() != member.backing.as_deref() {
            let said = |name: Option<&str>| name.map_or("no file".into(), |name| format!("{name:?}"));
            let (found, expected) = (said(backing.as_deref()), said(member.backing.as_deref()));
            let message = format!("{name}: rests upon {found} by its header, expected {expected}");
            return Err(damaged(message));
        }
        Ok(disk)
    }
}

/// Everything that can be said of one member's file alone: length, bytes, every reference in it. What the system says of it then.
pub fn verify_file(folder: &Folder, member: &Member, stored: Stored) -> Result<Seen> {
    let path = folder.at(&member.file);
    let seen = prove(&stored, &path, &member.content, true)?;
    let disk = folder.open_disk(stored, &path, member)?;
    let name = path.display().to_string();
    let mut interrupted = Ok(());
    let counted = check(&disk, || {
        interrupted = signals::check(STOPPED);
        interrupted.is_ok()
    });
    let counted = counted.map_err(|e| damaged(format!("{name}: {e}")))?;
    interrupted?;
    let Counted { data, zeros } = counted.unwrap_or_default();
    let (data, zeros) = (data * disk.cluster(), zeros * disk.cluster());
    if (data, zeros) != (member.data, member.zeros) {
        let message = format!(
            "{name}: holds {data} bytes of data and {zeros} of zeros, expected {} and {}",
            member.data, member.zeros
        );
        return Err(damaged(message));
    }
    Ok(seen)
}
