//! Joining those who share a map.
//!
//! Invariant kept here: a session is joined only while it lives, and under its nonce.

use crate::engine::core::{Core, Parts};
use crate::error::{Corruption, Error, InUse, Result};
use crate::file::headers::{self, writable};
use crate::file::points::no_snapshot;
use crate::format::{Header, Session, State, VOLATILE_LAYOUT};
use crate::map_file::MapFile;
use crate::options::Options;
use crate::shm::runtime;
use crate::shm::space::{self, Allocated};
use crate::shm::view::{Look, ShmView};
use crate::sys::Storage;
use crate::trace::event;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// What there is of a session that lives: the header, and the volatile part, which `map` maps. `None` when nobody may
/// look into it.
pub(crate) fn session<V: Look>(
    file: MapFile<'_>,
    map: impl FnOnce(&Header) -> Result<V>,
) -> Result<Option<(V, Header)>> {
    let header = headers::newest(file)?.header;
    if header.state != State::Open || header.nonce.is_nil() || header.volatile_layout != VOLATILE_LAYOUT {
        return Ok(None);
    }
    // A look behind the end of a file kills the process, and a damaged header may say anything.
    let end = header.layout.volatile.end;
    let len = file.len()?;
    if step!(JoinChecksLength => len < end) {
        let found = format!("the file ends at byte {len}");
        let expected = format!("at least {end} bytes while another process has it open");
        return Err(file.corrupt(Corruption::Changed, "volatile region", found, expected));
    }
    let view = map(&header)?;
    let over = step!(JoinComparesNonce => view.nonce() != header.nonce.0);
    let alone = step!(JoinChecksShared => !view.is_shared());
    Ok((!over && !alone).then_some((view, header)))
}

/// Joins those who share the map. The caller holds the gate and, shared, the attach lock; `writer_slot` takes a slot.
pub(crate) fn join<S>(
    disk: Arc<dyn Storage>,
    path: &Path,
    options: &Options,
    writer_slot: impl FnOnce(&ShmView) -> Result<(u64, S)>,
) -> Result<(Core, S)> {
    let map = |header: &Header| {
        writable(header, path)?;
        space::join(MapFile::new(&*disk, path), header, &options.watcher)
    };
    let Some((view, header)) = session(MapFile::new(&*disk, path), map)? else {
        return Err(Error::Locked { path: path.to_path_buf(), what: InUse::Session, holder: None });
    };
    let (slot, writer_slot) = writer_slot(&view)?;
    if !options.beside_snapshot {
        // With the slot: who freezes for a snapshot from here on finds it held.
        no_snapshot(&headers::newest(MapFile::new(&*disk, path))?.header, path)?;
    }
    step!(JoinZeroesSlot => runtime::slot(slot).for_each(|word| view.runtime()[word].store(0, SeqCst)));
    let geometry = header.geometry;
    let parts = Parts {
        disk,
        path: path.to_path_buf(),
        view,
        nonce: header.nonce,
        slot,
        shared: true,
        lock_timeout: options.lock_timeout,
        bounds: options.bounds(&geometry),
        allocated: Allocated::default(),
        image_before: header.image,
        watcher: options.watcher.clone(),
    };
    let core = Core::new(parts, &header)?;
    core.mark_slot(options.writes_outlive);
    if options.writes_outlive && header.session.flags & Session::OUTLIVE == 0 {
        core.update_header(|header| header.session.flags |= Session::OUTLIVE)?;
    }
    event!(INFO, "joined", path = %path.display(), len = geometry.len());
    Ok((core, writer_slot))
}
