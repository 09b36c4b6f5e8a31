//! Who may open the file: the gate, and the attach lock.
//!
//! Invariant kept here: every decision about opening and closing is made holding the gate.

use super::image::ImageStamp;
use super::open::{self, Loaded};
use super::{DirtyMap, Options};
use crate::error::{Error, Result};
use crate::sys::{Disk, FileDisk, Lock, facts};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for the gate at least: who holds it is opening, closing or looking, which takes moments.
const GATE_PATIENCE: Duration = Duration::from_secs(5);

/// How often a reader asks for the attach lock: another one may be asking just now.
const READERS_MEET: usize = 5;

/// A file that this process has alone, with the gate still held.
pub(super) struct Alone {
    disk: Arc<FileDisk>,
}

/// The gate, held until dropped.
pub(super) struct Gate<'a>(&'a FileDisk);

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        self.0.unlock(Lock::Gate);
    }
}

/// Opens the file, and says what is wrong with it as a file.
pub(super) fn open_file(path: &Path, write: bool) -> Result<FileDisk> {
    let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
    let file = facts::open(path, write).map_err(io("open"))?;
    if write && facts::fs_kind(&file).map_err(io("look at the file system"))? == facts::FsKind::Btrfs {
        let nocow = facts::is_nocow(&file).map_err(io("look at the file's flags"))?;
        if !nocow {
            return Err(Error::Refused {
                path: path.to_path_buf(),
                why: "this file on btrfs is written copy-on-write, so that space cannot be set aside for it; \
                      create a new map here, or make a copy with `chattr +C` set on the empty file first"
                    .into(),
            });
        }
    }
    Ok(FileDisk::new(file, write))
}

/// Whether a deadline has passed; one that is too far to be told never does.
fn passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Takes the gate; waits for at least a few seconds.
pub(super) fn gate<'a>(disk: &'a FileDisk, path: &Path, wait: Duration) -> Result<Gate<'a>> {
    let io = |source| Error::Io { op: "take the gate lock", path: path.to_path_buf(), source };
    let deadline = Instant::now().checked_add(wait.max(GATE_PATIENCE));
    while !disk.try_lock(Lock::Gate).map_err(io)? {
        if passed(deadline) {
            return Err(Error::Locked {
                path: path.to_path_buf(),
                what: "another process is opening, closing or checking it",
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Gate(disk))
}

/// Takes the gate and then the attach lock, exclusively. The gate is kept.
pub(super) fn alone(disk: Arc<FileDisk>, path: &Path, options: &Options) -> Result<Alone> {
    let io = |source| Error::Io { op: "take the attach lock", path: path.to_path_buf(), source };
    let deadline = Instant::now().checked_add(options.wait);
    loop {
        let held = gate(&disk, path, options.wait)?;
        if disk.try_attach(true).map_err(io)? {
            std::mem::forget(held); // Let go of in `open`, or with the file.
            return Ok(Alone { disk });
        }
        drop(held);
        if passed(deadline) {
            return Err(Error::Locked { path: path.to_path_buf(), what: "another process has it open" });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Alone {
    /// Opens the map for writing, and lets go of the gate.
    pub(super) fn open(self, path: &Path, options: &Options) -> Result<DirtyMap> {
        let disk = self.disk;
        let _gate = Gate(&disk);
        let opened = open::open_alone(disk.clone(), path, options);
        let (core, recovery) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                disk.detach();
                return Err(e);
            }
        };
        Ok(DirtyMap::live(Arc::new(core), disk.clone(), recovery, options))
    }
}

/// Whether nobody has the file open. The caller holds the gate, and so nobody will before it lets go.
///
/// Asked by taking the attach lock exclusively, as FORMAT.md has it, and only for a moment: other readers ask as well.
pub(super) fn at_rest(disk: &FileDisk) -> std::io::Result<bool> {
    for _ in 0..READERS_MEET {
        if disk.nobody_attached()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(false)
}

/// What a reader finds: nobody has it open and the recovered bits are loaded, or somebody has.
pub(super) enum Reading {
    Loaded(Box<Loaded>),
    Live,
}

/// Loads the file for reading, under the gate, if nobody has it open.
pub(super) fn read(disk: &FileDisk, path: &Path, image: Option<&ImageStamp>, wait: Duration) -> Result<Reading> {
    let io = |source| Error::Io { op: "take the attach lock", path: path.to_path_buf(), source };
    let _gate = gate(disk, path, wait)?;
    if !at_rest(disk).map_err(io)? {
        return Ok(Reading::Live);
    }
    Ok(Reading::Loaded(Box::new(open::load_in_memory(disk, path, image)?)))
}

/// Opens the map for reading only.
pub(super) fn reading(path: &Path, options: &Options) -> Result<DirtyMap> {
    let disk = open_file(path, false)?;
    let deadline = Instant::now().checked_add(options.wait);
    loop {
        match read(&disk, path, options.image.as_ref(), options.wait)? {
            Reading::Loaded(loaded) => {
                let Loaded { view, header, recovery, .. } = *loaded;
                return Ok(DirtyMap::loaded(path, view, header, recovery));
            }
            Reading::Live if passed(deadline) => {
                return Err(Error::Locked { path: path.to_path_buf(), what: "another process has it open" });
            }
            Reading::Live => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
