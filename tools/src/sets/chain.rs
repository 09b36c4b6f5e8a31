//! Members as files that are open, and the disk that a chain of them is.

use super::hashing::Follower;
use crate::exit::{Failure, Result};
use crate::files::Content;
use dirtymap_cli::qcow2::data::{Chain, Disk};
use dirtymap_cli::qcow2::{self, ReadAt};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A file of a set, open for reading.
#[derive(Debug)]
pub struct Stored {
    pub file: File,
    pub bytes: u64,
    /// Who is to get what is read of its data.
    pub(super) follower: Option<Follower>,
}

impl Stored {
    /// Opens a regular file, and nothing that a link leads to.
    pub fn open(path: &Path) -> Result<Stored> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|e| Failure::io(format_args!("{}: open", path.display()), &e))?;
        let stored = Stored::of(file).map_err(|e| Failure::io(path.display(), &e))?;
        stored.ok_or_else(|| Stored::irregular(path))
    }

    /// Of a file that is open, once more.
    pub fn again(file: &File, path: &Path) -> Result<Stored> {
        let stored = file.try_clone().and_then(Stored::of).map_err(|e| Failure::io(path.display(), &e))?;
        stored.ok_or_else(|| Stored::irregular(path))
    }

    fn irregular(path: &Path) -> Failure {
        Failure::new("not-an-image", format!("{}: is no regular file", path.display()))
    }

    /// Of a file that is open; `None` if it is no regular one.
    pub fn of(file: File) -> io::Result<Option<Stored>> {
        let m = file.metadata()?;
        Ok(m.is_file().then(|| Stored { bytes: m.len(), file, follower: None }))
    }
}

impl ReadAt for Stored {
    fn size(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_data(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_at(buffer, offset)?;
        if let Some(follower) = &self.follower {
            follower.took(buffer, offset);
        }
        Ok(())
    }
}

/// The disk that a member is, with all that it rests upon.
#[derive(Debug)]
pub struct Layered {
    chain: Chain<Stored>,
    /// The image's bytes; the disk in the file may have some more, up to a whole sector.
    len: u64,
    /// What messages call it.
    name: String,
}

impl Layered {
    /// `disks`: the lowest first.
    pub fn new(disks: Vec<Disk<Stored>>, len: u64, name: String) -> Result<Layered> {
        let chain = Chain::new(disks).map_err(|e| failed(&name, &e))?;
        Ok(Layered { chain, len, name })
    }

    /// A file that has just been written for a disk of `len` bytes, on top of what it rests upon. `path`: what it will be called.
    pub fn written(stored: Stored, path: &Path, below: Option<Layered>, len: u64) -> Result<Layered> {
        let name = path.display().to_string();
        let disk = Disk::open(stored).map_err(|e| failed(&name, &e))?;
        let Some(below) = below else { return Layered::new(vec![disk], len, name) };
        let chain = below.chain.with(disk).map_err(|e| failed(&name, &e))?;
        Ok(Layered { chain, len, name })
    }

    /// The file of the member itself.
    pub fn file(&self) -> Option<&File> {
        self.chain.top().map(|top| &top.file)
    }

    /// Bytes of the disk in the file: whole sectors.
    pub fn disk(&self) -> u64 {
        self.chain.size()
    }
}

/// What a qcow2 file that cannot be read makes of a command.
pub fn failed(name: &str, e: &qcow2::Error) -> Failure {
    Failure::new(e.kind(), format!("{name}: {e}"))
}

impl Content for Layered {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.chain.read(buffer, offset).map_err(|e| failed(&self.name, &e))
    }

    fn next_data(&self, range: Range<u64>) -> Result<Option<Range<u64>>> {
        self.chain.next_data(range).map_err(|e| failed(&self.name, &e))
    }

    fn knows_holes(&self) -> bool {
        true
    }
}
