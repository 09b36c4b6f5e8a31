//! Looking at a map that others have open.
//!
//! Invariant kept here: what was read in the volatile part counts only if the nonce there was that of the session
//! afterwards, and the session shared. Nothing is written, and no lock is kept that a writer waits for.

use super::join::session;
use super::load::{Loaded, load_in_memory};
use super::locks;
use crate::engine::commit::is_normal;
use crate::engine::point_set::{Cache, Dirt, PointSet, TRIES, UnionView};
use crate::error::{Error, Result, Unusable};
use crate::file::locks::no_other_writer;
use crate::format::{Durability, Header, Uuid, VolatileLayout};
use crate::image_stamp::ImageStamp;
use crate::map_file::MapFile;
use crate::shm::runtime;
use crate::shm::view::{Look, ReadView};
use crate::sys::{FileDisk, Storage};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A session of others, looked at.
pub(crate) struct SharedReader {
    pub(crate) disk: Arc<FileDisk>,
    pub(crate) view: ReadView,
    pub(crate) durability: Durability,
    nonce: Uuid,
    path: PathBuf,
    cache: Cache,
}

fn ended() -> Error {
    Error::Unusable { why: Unusable::WritersLeft }
}

impl SharedReader {
    /// Looks at the session that has the file open, if it can be looked at. The caller holds the gate.
    pub(crate) fn new(disk: &Arc<FileDisk>, path: &Path) -> Result<Option<SharedReader>> {
        let file = MapFile::new(&**disk, path);
        let io = file.io("map the volatile part");
        // Another machine may share it by its own file system, and this kernel would not see what is set there.
        if disk.unmappable().map_err(&io)?.is_some() {
            return Ok(None);
        }
        let map = |header: &Header| {
            let v = VolatileLayout::new(&header.geometry);
            let region = header.layout.volatile.clone();
            ReadView::new(header.geometry, &v, disk.map_to_read(region).map_err(&io)?)
        };
        let session = session(file, map)?;
        let watch = |(view, Header { durability, nonce, .. })| {
            let (disk, path) = (disk.clone(), path.to_path_buf());
            SharedReader { disk, view, durability, nonce, path, cache: Cache::default() }
        };
        Ok(session.map(watch))
    }

    /// Fails when the session has ended, and in a forked child.
    pub(crate) fn usable(&self) -> Result<()> {
        self.view.usable()?;
        let over = step!(ReaderChecksSession => !self.view.is_shared() || self.view.nonce() != self.nonce.0);
        if over { Err(ended()) } else { Ok(()) }
    }

    /// Fails when this is not the header of the session: nobody takes the nonce of one whose processes are all dead away before
    /// he repairs the file.
    pub(crate) fn expect(&self, header: &Header) -> Result<()> {
        let other = header.nonce != self.nonce;
        let other = step!(ReaderChecksSession => step!(ReaderChecksHeader => other));
        if other { Err(ended()) } else { Ok(()) }
    }

    /// What a search of here and the outstanding point together finds, if the session lives.
    pub(crate) fn read<R>(&self, search: impl Fn(&UnionView<'_>) -> R) -> Option<R> {
        self.view.usable().ok()?;
        let mut found = None;
        for _ in 0..TRIES {
            let word = self.checkpoint_word();
            let point = if is_normal(word) { None } else { self.point(word) };
            if point.is_some() || is_normal(word) {
                found = Some(search(&UnionView {
                    current: Dirt::of(&self.view),
                    point: point.as_deref().map(PointSet::dirt),
                }));
                if self.checkpoint_word() == word {
                    break;
                }
                found = None;
            }
            std::thread::yield_now();
        }
        // The state changes all the time, or who changed it died before the word said so: only a writer can mend that.
        // Until then everything may be dirty.
        let found = found.unwrap_or_else(|| {
            let everything = PointSet::everything(self.view.geometry());
            search(&UnionView { current: Dirt::of(&self.view), point: Some(everything.dirt()) })
        });
        self.usable().ok().map(|()| found)
    }

    /// The runtime page's `checkpoint` word.
    pub(crate) fn checkpoint_word(&self) -> u64 {
        self.view.runtime_word(runtime::CHECKPOINT)
    }

    /// The outstanding point, for a `checkpoint` word that was just read: see [`Cache::get`].
    pub(crate) fn point(&self, word: u64) -> Option<Arc<PointSet>> {
        self.cache.get(MapFile::new(&*self.disk, &self.path), self.view.geometry(), &self.nonce, word)
    }
}

/// What a reader finds.
pub(crate) enum Reading {
    /// Nobody has it open for writing; here are the recovered bits.
    Loaded(Box<Loaded>),
    /// Others have it open shared.
    Shared(Box<SharedReader>),
    /// Somebody has it open and does not share it.
    Locked,
}

/// Loads the file for reading, under the gate, if nobody has it open; else looks into the volatile part, if it is shared.
pub(crate) fn read(disk: &Arc<FileDisk>, path: &Path, image: Option<&ImageStamp>, wait: Duration) -> Result<Reading> {
    let _gate = locks::opening_gate(disk, path, wait)?;
    let file = MapFile::new(&**disk, path);
    if no_other_writer(file)? {
        return Ok(Reading::Loaded(Box::new(load_in_memory(file, image)?)));
    }
    Ok(SharedReader::new(disk, path)?.map_or(Reading::Locked, |watch| Reading::Shared(Box::new(watch))))
}

#[cfg(test)]
mod tests {
    use crate::sys::refuse::{Refused, refusing};
    use crate::{Access, Options};

    #[test]
    fn a_reader_asks_whether_the_file_may_be_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let shared = Options::new().access(Access::Shared).flush_interval(None).create(&path, 1 << 30).unwrap();
        let look = || Options::new().access(Access::ReadOnly).open(&path).map(drop);
        look().unwrap();
        let no_answer = Refused { call: libc::SYS_fstatfs, argument: None, error: libc::EIO };
        if let Some(looked) = refusing(&[no_answer], look) {
            assert_eq!(looked.unwrap_err().kind(), "io");
        }
        drop(shared);
    }
}
