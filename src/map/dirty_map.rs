//! [`DirtyMap`]: the map in a file.
//!
//! Invariant kept here: coverage. What `set` has returned `Ok` for reads dirty after any crash and any
//! recovery, until someone resets it. docs/design.md tells why it holds, `testing::Mutant` lists the steps it hangs on.

use crate::engine::background::Background;
use crate::engine::core::Core;
use crate::engine::point_set::{Dirt, PointSet};
use crate::error::{Error, Result, Unusable};
use crate::file::headers;
use crate::format::{Durability, Header, WordRanges};
use crate::geometry::Geometry;
use crate::map_file::MapFile;
use crate::session::locks::WriterSlot;
use crate::session::recovery::Recovery;
use crate::session::watch::SharedReader;
use crate::shm::view::{Look, ShmView};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A dirty map in a file: which granules of a disk image were written, surviving any crash.
///
/// Positions and lengths are in items (bytes, for a disk image), ranges are half-open and must lie inside
/// `0..=len`.
///
/// **Coverage.** Once [`set`](Self::set) has returned `Ok`, every granule of its range reads dirty after any crash
/// and any recovery, until someone resets it. So call `set` *before* writing the data. After an error from `set`
/// the data must not be written.
///
/// **Threads** share a map by reference. Setting bits that are durable already takes one load a word; setting new bits
/// in an armed word takes no lock; arming a word, resetting and flushing take a lock and a device sync.
/// Reading takes no lock. **Processes** that open it with [`Access::Shared`](crate::Access::Shared) share a map in the same way, and any of them may be
/// killed at any time; who opens it otherwise has it alone. [`Access::ReadOnly`](crate::Access::ReadOnly) sees what they set as they do it, until the last
/// of them has closed the map or one changes its length: then reading fails with [`Error::Unusable`], and from what cannot
/// return an error the answer is "dirty". A forked child must not use an inherited map: it gets [`Error::Unusable`], and from what cannot
/// return an error "dirty". A child that lives on keeps the locks of a parent that was killed.
///
/// **Space**: 1 bit of disk per granule, in pages of 4096 granules that are not all clean: 2 MiB per TiB of image at
/// 64 KiB granularity. While open, about 3 bits of memory per granule there, and 1 more where the last checkpoint froze something; a [`Durability::Process`] map maps them from
/// the file, which takes as much disk.
///
/// Dropping a map without [closing](Self::close) it loses nothing, but the next open recovers.
pub struct DirtyMap {
    pub(super) inner: Inner,
    pub(super) path: PathBuf,
    pub(super) recovery: Recovery,
}

pub(super) enum Inner {
    /// Open for writing.
    Live(Live),
    /// Loaded for reading.
    Loaded(Box<Snapshot>),
    /// Open for writing by others, and looked at.
    Watching(Box<SharedReader>),
}

/// What a map held when it was loaded for reading.
pub(super) struct Snapshot {
    pub(super) view: ShmView,
    /// Words that are wholly dirty, without a place in the view.
    pub(super) whole: WordRanges,
    /// Words of which some bits are dirty for want of knowledge.
    pub(super) assumed: WordRanges,
    pub(super) header: Header,
    /// The outstanding point.
    pub(super) frozen: Option<Arc<PointSet>>,
}

impl Snapshot {
    pub(super) fn dirt(&self) -> Dirt<'_> {
        Dirt::new(&self.view, &self.whole, &self.assumed)
    }
}

pub(super) struct Live {
    // Dropped in this order: its thread ends before the locks go.
    pub(super) background: Option<Background>,
    pub(super) core: Arc<Core>,
    pub(super) writer_slot: WriterSlot,
    /// How often its thread flushes.
    pub(super) flush_interval: Option<Duration>,
    /// How long a freeze waits for writes under way.
    pub(super) freeze_timeout: Duration,
    /// Why nothing may be written any more.
    pub(super) broken: Option<Unusable>,
}

impl Live {
    /// Whether the map may be used for writing.
    #[inline]
    pub(super) fn usable(&self) -> Result<()> {
        self.core.usable()?;
        self.broken.map_or(Ok(()), |why| Err(Error::Unusable { why }))
    }
}

impl DirtyMap {
    #[inline]
    pub(super) fn view(&self) -> &dyn Look {
        match &self.inner {
            Inner::Live(live) => live.core.look(),
            Inner::Loaded(loaded) => &loaded.view,
            Inner::Watching(watch) => &watch.view,
        }
    }

    /// The header as it is now.
    pub(super) fn header(&self) -> Result<Header> {
        match &self.inner {
            Inner::Live(live) => Ok(headers::newest(live.core.file())?.header),
            Inner::Loaded(loaded) => Ok(loaded.header.clone()),
            Inner::Watching(watch) => Ok(headers::newest(MapFile::new(&*watch.disk, &self.path))?.header),
        }
    }

    #[inline]
    pub(super) fn core(&self) -> Result<&Core> {
        match &self.inner {
            Inner::Live(live) => {
                live.usable()?;
                Ok(&live.core)
            }
            Inner::Loaded(_) | Inner::Watching(_) => Err(Error::ReadOnly),
        }
    }

    /// Fails in a forked child, where the memory of the map is not there, and when those who had it open are gone.
    pub(super) fn readable(&self) -> Result<&Self> {
        match &self.inner {
            Inner::Live(live) => live.core.usable()?,
            Inner::Loaded(loaded) => loaded.view.usable()?,
            Inner::Watching(watch) => watch.usable()?,
        }
        Ok(self)
    }

    /// Confirms that earlier answers came from a live session. Call it after infallible reads such as `count` of a map that
    /// [others](crate::Access::Shared) have open. Everything reads dirty from the moment on in which this begins to fail.
    ///
    /// # Errors
    /// [`Error::Unusable`] when it was open for reading and those who had it open have closed it or changed its length,
    /// and in a forked child.
    pub fn verify_session(&self) -> Result<()> {
        self.readable().map(drop)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in items.
    #[allow(clippy::len_without_is_empty, reason = "is_empty asks for dirt, as in Bitmap")]
    pub fn len(&self) -> u64 {
        self.geometry().len()
    }

    /// log2 of the items per granule.
    pub fn granularity(&self) -> u32 {
        self.geometry().granularity()
    }

    /// Items per granule, which for a disk image are bytes: `1 << granularity`.
    pub fn granule_bytes(&self) -> u64 {
        self.geometry().granule()
    }

    /// The map's shape.
    pub fn geometry(&self) -> &Geometry {
        self.view().geometry()
    }

    /// What opening found.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The checkpoint word of the runtime page; 0 for a map that nobody changes.
    pub(super) fn checkpoint_word(&self) -> u64 {
        match &self.inner {
            Inner::Live(live) => live.core.checkpoint_word(),
            Inner::Loaded(_) => 0,
            Inner::Watching(watch) => watch.checkpoint_word(),
        }
    }

    /// What the map survives.
    pub fn durability(&self) -> Durability {
        match &self.inner {
            Inner::Live(live) => live.core.durability(),
            Inner::Loaded(loaded) => loaded.header.durability,
            Inner::Watching(watch) => watch.durability,
        }
    }
}

/// What only tests reach for, in a map that is open for writing.
#[cfg(test)]
impl DirtyMap {
    fn opened(&self) -> &Live {
        let Inner::Live(live) = &self.inner else { panic!("not open for writing") };
        live
    }

    pub(crate) fn engine(&self) -> &Arc<Core> {
        &self.opened().core
    }

    /// Gives it another one.
    pub(crate) fn set_engine(&mut self, core: Core) {
        let Inner::Live(live) = &mut self.inner else { panic!("not open for writing") };
        live.core = Arc::new(core);
    }

    /// Whether nothing may be written any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.opened().broken.is_some()
    }

    /// Whether a thread of its own flushes it.
    pub(crate) fn flushes(&self) -> bool {
        self.opened().background.as_ref().is_some_and(Background::has_thread)
    }
}

impl fmt::Debug for DirtyMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirtyMap").field("path", &self.path).field("geometry", self.geometry()).finish_non_exhaustive()
    }
}
