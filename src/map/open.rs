//! Creating and opening maps.
//!
//! Invariant kept here: every decision about opening is made holding the gate.

use super::dirty_map::{DirtyMap, Inner, Live, Snapshot};
use crate::engine::background::Background;
use crate::engine::core::Core;
use crate::engine::in_flight::outlived;
use crate::error::{Error, InUse, Refusal, Result};
use crate::file::create::{self, NewFile};
use crate::file::locks::{Deadline, locked};
use crate::format::MAX_LABEL;
use crate::geometry::Geometry;
use crate::map_file::MapFile;
use crate::options::{Access, Options};
use crate::session::join::join;
use crate::session::load::Loaded;
use crate::session::locks::{Attached, WriterSlot, attached, open_file};
use crate::session::open::open_alone;
use crate::session::recovery::Recovery;
use crate::session::watch::{self, Reading, SharedReader};
use crate::shm::view::ShmView;
use crate::sys::{FileDisk, Lock};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Attaches to a file and opens the map in it for writing, waiting as the options say for those who have it.
fn open_file_of(disk: Arc<FileDisk>, path: &Path, options: &Options) -> Result<DirtyMap> {
    attached(disk, path, options, |attached| open_attached(attached, path, options))
}

/// Opens the map for reading only.
fn reading(path: &Path, options: &Options) -> Result<DirtyMap> {
    let disk = Arc::new(open_file(path, false)?);
    let end = Deadline::after(options.wait);
    loop {
        match watch::read(&disk, path, options.image.as_ref(), options.wait)? {
            Reading::Loaded(loaded) => {
                return Ok(DirtyMap::loaded(path, *loaded));
            }
            Reading::Shared(watch) => return Ok(DirtyMap::watching(path, *watch)),
            Reading::Locked if end.has_passed() => {
                return Err(locked(MapFile::new(&*disk, path), Lock::Slot(0), InUse::Open));
            }
            Reading::Locked => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

impl DirtyMap {
    fn live(core: Arc<Core>, writer_slot: WriterSlot, recovery: Recovery, options: &Options) -> DirtyMap {
        let flush_interval = options.flush_interval;
        let background = Some(Background::new(&core, flush_interval));
        let path = core.path().to_path_buf();
        let live = Live {
            background,
            core,
            writer_slot,
            flush_interval,
            freeze_timeout: options.freeze_timeout,
            broken: None,
        };
        DirtyMap { inner: Inner::Live(live), path, recovery }
    }

    pub(crate) fn loaded(path: &Path, loaded: Loaded) -> DirtyMap {
        let Loaded { view, whole, assumed, header, recovery, frozen, .. } = loaded;
        let snapshot = Snapshot { view, whole, assumed, header, frozen };
        DirtyMap { inner: Inner::Loaded(Box::new(snapshot)), path: path.to_path_buf(), recovery }
    }

    pub(crate) fn watching(path: &Path, watch: SharedReader) -> DirtyMap {
        DirtyMap { inner: Inner::Watching(Box::new(watch)), path: path.to_path_buf(), recovery: Recovery::default() }
    }

    /// Opens the map at `path` for writing, alone, with default [`Options`].
    ///
    /// # Errors
    /// See [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<DirtyMap> {
        Options::new().open(path)
    }

    /// How to open or create otherwise.
    pub fn options() -> Options {
        Options::new()
    }
}

impl Options {
    /// Makes a new map of `len` items at `path` and opens it for writing. The name appears only when
    /// everything is on the device. Cost: a few syncs; with [`dirty`](Self::dirty), writing the whole bottom level.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is anything at `path`; [`Error::Geometry`] for a length or granularity that no map
    /// can have; [`Error::Refused`] for a label that is too long; [`Error::Io`].
    pub fn create(&self, path: impl AsRef<Path>, len: u64) -> Result<DirtyMap> {
        let (map, new) = self.create_unpublished(path, len)?;
        new.publish()?;
        Ok(map)
    }

    /// The same, but the map is not opened, and so takes no memory, however much of it is dirty.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_closed(&self, path: impl AsRef<Path>, len: u64) -> Result<()> {
        self.written(path.as_ref(), len)?.0.publish()
    }

    /// As [`create`](Self::create), but the name does not appear before [`NewFile::publish`]: for a map that is to be filled before. Close it
    /// first, so that it appears clean.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_unpublished(&self, path: impl AsRef<Path>, len: u64) -> Result<(DirtyMap, NewFile)> {
        let path = path.as_ref();
        let (new, disk) = self.written(path, len)?;
        // Opened before others can see it: what is refused leaves nothing behind.
        let map = open_file_of(disk, path, self)?;
        Ok((map, new))
    }

    /// A new map in a file that has no name yet.
    fn written(&self, path: &Path, len: u64) -> Result<(NewFile, Arc<FileDisk>)> {
        // Arguments first: a wrong one leaves no trace.
        let geometry = Geometry::new(len, self.granularity)?;
        self.check_label(path)?;
        let new = NewFile::in_place(path, self.permit)?;
        let file = new.file().try_clone();
        let file = file.map_err(|source| Error::Io { op: "create", path: path.to_path_buf(), source })?;
        let disk = Arc::new(FileDisk::new(file, true));
        create::write_new(MapFile::new(&*disk, path), geometry, self)?;
        Ok((new, disk))
    }

    /// Opens the map at `path`, [alone or not](Self::access), after recovering it if need be. Cost: reading the allocated
    /// part of the bottom level, and a few syncs; to join others, neither. Memory: for reading, what goes with the pages that are
    /// neither clean nor full; for writing, 3 bits for each granule of pages that are not clean, and 1 more where the last checkpoint froze some of a page. For writing, what counts as dirty for
    /// want of knowledge is written: of a file that says so of a whole large map, that is all of its bottom level.
    ///
    /// # Errors
    /// [`Error::Locked`] if somebody else has it open who does not share it, or whom this one does not share it with;
    /// [`Error::Refused`] for [`Access::Shared`], or a [`Durability::Process`](crate::Durability::Process) map, on a file system that is not known to be safe
    /// to map (network, FUSE and others), and for [`Access::Shared`] with too low a limit on locked memory;
    /// [`Error::Outstanding`] for a [snapshot](Self::beside_snapshot); [`Error::NotDirtymap`], [`Error::Unsupported`],
    /// [`Error::Corrupt`] for what cannot be used; [`Error::Io`]. After an error no header, page or page-table byte
    /// has changed, unless writing one is what failed.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<DirtyMap> {
        let path = path.as_ref();
        if self.access == Access::ReadOnly {
            return reading(path, self);
        }
        open_file_of(Arc::new(open_file(path, true)?), path, self)
    }

    fn check_label(&self, path: &Path) -> Result<()> {
        if self.label.len() <= MAX_LABEL && !self.label.contains('\0') {
            return Ok(());
        }
        Err(Error::Refused {
            path: path.to_path_buf(),
            why: Refusal::Label { bytes: self.label.len(), most: MAX_LABEL },
        })
    }
}

/// Opens the map for writing, and lets go of the gate.
fn open_attached(attached: Attached, path: &Path, options: &Options) -> Result<DirtyMap> {
    let opened = if attached.alone() { first(&attached, path, options) } else { joined(&attached, path, options) };
    if opened.is_err() {
        attached.leave();
    }
    opened
}

fn first(attached: &Attached, path: &Path, options: &Options) -> Result<DirtyMap> {
    let writer_slot = attached.writer_slot(path, |_| true)?;
    let (core, recovery) = open_alone(attached.disk().clone(), path, options, writer_slot.slot())?;
    if core.is_shared() && !matches!(writer_slot.share(), Ok(true)) {
        let source = std::io::Error::other("an exclusive lock could not be made a shared one");
        return Err(Error::Io { op: "take the attach lock", path: path.to_path_buf(), source });
    }
    Ok(DirtyMap::live(Arc::new(core), writer_slot, recovery, options))
}

fn joined(attached: &Attached, path: &Path, options: &Options) -> Result<DirtyMap> {
    let writer_slot = |view: &ShmView| {
        let writer_slot = attached.writer_slot(path, |slot| !outlived(view, slot))?;
        Ok((writer_slot.slot(), writer_slot))
    };
    let (core, writer_slot) = join(attached.disk().clone(), path, options, writer_slot)?;
    let image_changed = core.compare_image(options.image.as_ref())?;
    let recovery = Recovery { image_changed, ..Recovery::default() };
    Ok(DirtyMap::live(Arc::new(core), writer_slot, recovery, options))
}
