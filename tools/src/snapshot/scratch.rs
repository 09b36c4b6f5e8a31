//! The two files of a snapshot of one disk.
//!
//! Invariant kept here: the header in the file is never older than what was done by it: BROKEN is there before anything is
//! written that was not copied, and once there it stays.

use super::format::{
    self, ENTRY, Entry, HEADER, Header, Identity, Kind, State, boot, encode_entry, identity, parse_entry, set_done,
};
use super::steps::{Rule, Step, at, keeps};
use dirtymap::Uuid;
use rustix::fs::FallocateFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Entries that are read at once.
const ENTRIES: usize = 1 << 16;

/// The files of a snapshot of one disk.
pub struct Scratch {
    data: File,
    index: File,
    paths: [PathBuf; 2],
    id: Uuid,
    header: Mutex<Header>,
}

/// Where the index and the data of a map's snapshot are.
pub fn paths(dir: &Path, map: Uuid) -> [PathBuf; 2] {
    ["index", "data"].map(|kind| dir.join(format!("dirtymap-{map}.{kind}")))
}

/// Removes the files of a map's snapshot, if there are any: first the index, without which the data is nothing.
pub fn remove(paths: &[PathBuf; 2]) -> io::Result<()> {
    for (path, step) in paths.iter().zip([Step::IndexRemoved, Step::DataRemoved]) {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => at(step),
        }
    }
    Ok(())
}

impl Scratch {
    /// Makes new files, in the place of those that are there. The header says PREPARED.
    pub fn create(dir: &Path, image: &File, mut header: Header) -> io::Result<Scratch> {
        let paths = paths(dir, header.map);
        remove(&paths)?;
        let create = |path: &PathBuf| OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let (index, data) = (create(&paths[0])?, create(&paths[1])?);
        index.set_len(entry_at(header.blocks))?;
        data.set_len(header.block.saturating_mul(header.blocks))?;
        (header.image, header.data, header.index) = (identity(image)?, identity(&data)?, identity(&index)?);
        header.state = State::Prepared;
        index.write_all_at(&header.encode(), 0)?;
        at(Step::Prepared);
        Ok(Scratch { data, index, paths, id: header.id, header: Mutex::new(header) })
    }

    /// Opens what a server has left; else what is there instead.
    pub fn open(dir: &Path, map: Uuid) -> Result<Scratch, &'static str> {
        let paths = paths(dir, map);
        let open = |path: &PathBuf| {
            OpenOptions::new().read(true).write(true).open(path).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => "its files are gone",
                _ => "its files cannot be opened",
            })
        };
        let (index, data) = (open(&paths[0])?, open(&paths[1])?);
        let mut bytes = [0; HEADER];
        let no_sense = "the header of its index makes no sense";
        index.read_exact_at(&mut bytes, 0).map_err(|_| no_sense)?;
        if format::is_of_another_version(&bytes) {
            return Err("a server of another version of dirtymap has made it");
        }
        let header = Header::parse(&bytes).filter(|header| header.map == map).ok_or(no_sense)?;
        Ok(Scratch { data, index, paths, id: header.id, header: Mutex::new(header) })
    }

    fn lock(&self) -> MutexGuard<'_, Header> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn header(&self) -> Header {
        self.lock().clone()
    }

    /// Changes the header, unless it says BROKEN.
    pub fn update(&self, change: impl FnOnce(&mut Header)) -> io::Result<()> {
        let mut header = self.lock();
        if header.state == State::Broken {
            return Err(io::Error::other("the snapshot is broken"));
        }
        let mut new = header.clone();
        change(&mut new);
        self.index.write_all_at(&new.encode(), 0)?;
        *header = new;
        Ok(())
    }

    /// Has every server that comes go forward with the commit, also after a power cut.
    pub fn set_committing(&self, keep: bool) -> io::Result<()> {
        let mut header = self.lock();
        // Also if it is broken since the commit was asked for: by then all was read.
        let state = if keep { State::Keeping } else { State::Committing };
        let new = Header { state, ..header.clone() };
        self.index.write_all_at(&new.encode(), 0)?;
        *header = new;
        self.index.sync_all()
    }

    /// Has no server serve this any more: BROKEN in the header, or where that cannot be written, no index.
    pub fn set_broken(&self) -> io::Result<()> {
        let mut header = self.lock();
        if header.state.committing().is_some() {
            // What a backup needs was read.
            return Ok(());
        }
        header.state = State::Broken;
        if keeps(Rule::RecordBroken) {
            let written = self.index.write_all_at(&header.encode(), 0);
            written.or_else(|_| std::fs::remove_file(&self.paths[0]))?;
        }
        at(Step::BrokenWritten);
        // What is in there is of no use any more, and its space is.
        let _ = self.data.set_len(0);
        Ok(())
    }

    pub fn write_data(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.data.write_all_at(bytes, offset)
    }

    pub fn read_data(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.data.read_exact_at(into, offset)
    }

    /// Writes the entries of blocks that are copied, from `first` on, and that the backup is not done with.
    pub fn write_entries(&self, first: u64, entries: &[(Kind, u32)]) -> io::Result<()> {
        if keeps(Rule::EntryThenImage) {
            let bytes: Vec<[u8; ENTRY]> =
                entries.iter().map(|&(kind, data_crc)| encode_entry(self.id, kind, data_crc)).collect();
            self.index.write_all_at(bytes.as_flattened(), entry_at(first))?;
        }
        Ok(())
    }

    fn read_bytes(&self, blocks: Range<u64>) -> io::Result<Vec<[u8; ENTRY]>> {
        let mut bytes = vec![[0; ENTRY]; (blocks.end - blocks.start) as usize];
        self.index.read_exact_at(bytes.as_flattened_mut(), entry_at(blocks.start))?;
        Ok(bytes)
    }

    /// The entries of blocks; `None` for one that makes no sense.
    pub fn read_entries(&self, blocks: Range<u64>) -> io::Result<Vec<Option<Entry>>> {
        Ok(self.read_bytes(blocks)?.iter().map(|bytes| parse_entry(self.id, bytes)).collect())
    }

    /// Says in the index that the backup is done with blocks. Their entries are written by no other meanwhile.
    pub fn write_done(&self, blocks: Range<u64>) -> io::Result<()> {
        if keeps(Rule::RecordDone) {
            let mut entries = self.read_bytes(blocks.clone())?;
            entries.iter_mut().for_each(set_done);
            self.index.write_all_at(entries.as_flattened(), entry_at(blocks.start))?;
        }
        Ok(())
    }

    /// The folder that they are in.
    pub fn dir(&self) -> &Path {
        self.paths[0].parent().unwrap_or(&self.paths[0])
    }

    /// Gives space back.
    pub fn free(&self, offset: u64, length: u64) {
        // Where that is impossible, it is given back at the end.
        let _ =
            rustix::fs::fallocate(&self.data, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length);
    }

    /// Calls back with all entries, in order. `false` if one makes no sense.
    pub fn entries(&self, mut found: impl FnMut(u64, Entry)) -> io::Result<bool> {
        let blocks = self.lock().blocks;
        for first in (0..blocks).step_by(ENTRIES) {
            let piece = first..blocks.min(first + ENTRIES as u64);
            for (block, entry) in piece.clone().zip(self.read_entries(piece)?) {
                let Some(entry) = entry else { return Ok(false) };
                found(block, entry);
            }
        }
        Ok(true)
    }

    /// Whether these files and the image are those of the header, in the boot of the header: then the page cache has what
    /// was written to them, but for what the kernel tells of itself.
    pub fn is_of(&self, image: &File, header: &Header) -> io::Result<bool> {
        let found = [identity(image)?, identity(&self.data)?, identity(&self.index)?];
        let known = |identity: &Identity| identity.mount != 0;
        let same = found == [header.image, header.data, header.index] && found.iter().all(known);
        let left = header.left == 0 || header.left == format::changed(image)?;
        Ok(same && left && header.boot == boot() && header.boot != [0; 16])
    }

    /// Asks the kernel whether it has failed to write pages of the files back. It tells once.
    pub fn ask(&self) -> io::Result<()> {
        self.data.sync_data()?;
        self.index.sync_data()
    }

    /// Refuses a file system that keeps pages elsewhere.
    pub fn is_trusted(&self) -> crate::exit::Result<()> {
        super::trust::scratch(&self.data)
    }

    /// Keeps the header alone: its disk has ended, and others are left.
    pub fn empty(&self) {
        let _ = self.data.set_len(0);
        let _ = self.index.set_len(HEADER as u64);
    }

    /// Removes the files, and gives their space back although a client may still have them.
    pub fn remove(&self) -> io::Result<()> {
        let removed = remove(&self.paths);
        let _ = self.data.set_len(0);
        let _ = self.index.set_len(0);
        removed
    }

    /// Bytes that can still be written where the data is, without what others should have: a part of the file system, as the
    /// image may need it.
    pub fn room(&self) -> io::Result<u64> {
        const RESERVE: u64 = 64;
        let fs = rustix::fs::fstatvfs(&self.data)?;
        Ok(fs.f_bavail.saturating_sub(fs.f_blocks / RESERVE).saturating_mul(fs.f_frsize))
    }
}

fn entry_at(block: u64) -> u64 {
    HEADER as u64 + block * ENTRY as u64
}
