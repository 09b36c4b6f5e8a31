//! Opening a map alone, or as the first of those who share it: read, verify, recover, rebuild the volatile part, commit
//! OPEN.
//!
//! Invariant kept here: what loading made dirty is durable before the list forgets it, or the intent goes on covering it; a crash
//! at any point of this leaves a file that recovers to no less.

use super::load::{Loaded, header_of, load};
use super::page_cache::{saved_live, session_of};
use super::recovery::Recovery;
use crate::engine::core::{self, Core, Parts};
use crate::engine::flush::{mark_recovered, write_recovered};
use crate::engine::intent_set::IntentSet;
use crate::error::Result;
use crate::file::bottom::{all_words, batches, words_of_pages};
use crate::file::headers::{self, Copies, LastDurable, Newest, set_exact};
use crate::file::points::{forget_intent, no_snapshot};
use crate::format::{CheckpointState, Durability, Header, Layout, MAX_LIST, Session, Stamp, State, Uuid, WordRanges};
use crate::geometry::PAGE_BITS;
use crate::map_file::MapFile;
use crate::options::{Access, Options};
use crate::progress::Step;
use crate::shm::runtime;
use crate::shm::space::{self, Allocated, Place};
use crate::sys::{Storage, os};
use crate::trace::event;
use crate::watcher::Watcher;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// Opens a map for writing. The caller holds the gate, the exclusive attach lock, and a slot.
pub(crate) fn open_alone(
    disk: Arc<dyn Storage>,
    path: &Path,
    options: &Options,
    slot: u64,
) -> Result<(Core, Recovery)> {
    let file = MapFile::new(&*disk, path);
    let (copies, newest, recovery) = header_of(file, true)?;
    let Newest { header, pair, .. } = newest.clone();
    // One that is not frozen yet, or no more, is aborted.
    if !options.beside_snapshot && header.checkpoint_state == CheckpointState::Frozen {
        no_snapshot(&header, path)?;
    }
    let image_before = header.image;
    let nonce = Uuid(os::random().map_err(file.io("get random bytes"))?);
    let shared = options.access == Access::Shared;
    let in_file = core::in_file(&header, shared);
    if in_file {
        space::mappable(file, &header, shared)?;
    }
    let saved = saved_live(file, &header)?;

    // From here on the volatile part is written, and nothing else until the bits are loaded.
    disk.extend(header.file_length()).map_err(file.io("grow the file"))?;
    let view = space::view(file, &header, (in_file, shared), &options.watcher)?;
    let mut allocated = Allocated::default();
    let geometry = header.geometry;
    let mut allocate = |layout: &Layout, words: Range<u64>| -> Result<()> {
        if in_file { allocated.ensure(file, Place { layout, geometry: &geometry }, None, words) } else { Ok(()) }
    };
    // The runtime page is written in any case.
    allocate(&header.layout, 0..1)?;
    let found = (header, pair, recovery);
    let mut loaded = load(file, found, view, (options.image.as_ref(), &options.watcher), saved, Some(&mut allocate))?;
    if loaded.intent.is_none() {
        // After CLEAN it counts again when the header says OPEN, and there must be space then for what it arms.
        loaded.intent = IntentSet::read(file, &Header { state: State::Open, ..loaded.header.clone() })?;
        let known = loaded.intent.iter().filter(|intent| !intent.failed());
        known.flat_map(|intent| intent.chunks()).try_for_each(|words| allocate(&loaded.header.layout, words))?;
    }
    let found = (&copies, &newest);
    let committed = commit_open(file, &mut loaded, (&nonce, options.writes_outlive), found, &options.watcher)?;
    begin(disk, path, options, (nonce, slot), image_before, (loaded, allocated), committed)
}

/// The session whose header is committed: what its runtime page says at first, and the end of a checkpoint that was half done.
fn begin(
    disk: Arc<dyn Storage>,
    path: &Path,
    options: &Options,
    (nonce, slot): (Uuid, u64),
    image_before: Option<Stamp>,
    (loaded, allocated): (Loaded, Allocated),
    (last_durable, intent): (LastDurable, Option<IntentSet>),
) -> Result<(Core, Recovery)> {
    let Loaded { view, header, mut recovery, frozen, covered, .. } = loaded;
    let shared = options.access == Access::Shared;
    let rt = view.runtime();
    rt[runtime::PUBLISHED].store(last_durable.pack(), SeqCst);
    rt[runtime::ATTEMPTED].store(last_durable.sequence, SeqCst);
    rt[runtime::SHARED].store(u64::from(shared), SeqCst);
    let exact = if image_before.is_some_and(|stamp| stamp.exact) { runtime::IMAGE_EXACT } else { 0 };
    let tracked = if options.image.is_some() { runtime::IMAGE_TRACKED } else { 0 };
    rt[runtime::IMAGE].store(exact | tracked, SeqCst);
    let parts = Parts {
        disk,
        path: path.to_path_buf(),
        view,
        nonce,
        slot,
        shared,
        lock_timeout: options.lock_timeout,
        bounds: options.bounds(&header.geometry),
        allocated,
        image_before,
        watcher: options.watcher.clone(),
    };
    let core = Core::new(parts, &header)?;
    core.mark_slot(options.writes_outlive);
    core.say_checkpoint(header.checkpoint_state);
    core.know_frozen(frozen);
    // What the intent alone covers is covered still: a flush will write it.
    step!(MarkRecovered => mark_recovered(&core, &covered));
    core.lock()?.arm_all_by(intent.map(Arc::new))?;
    let half = matches!(header.checkpoint_state, CheckpointState::Freezing | CheckpointState::Aborting);
    if step!(AbortHalfFrozen => half) {
        // Nobody is at it any more, and the backup has not been told to read.
        core.abort(&header.checkpoint_uuid)?;
        recovery.aborted_checkpoint = Some(header.checkpoint_uuid);
    }
    core.admit_others();
    log_recovery(path, &header, &recovery);
    Ok((core, recovery))
}

/// Tells who watches what was found.
fn log_recovery(_path: &Path, _header: &Header, _recovery: &Recovery) {
    event!(INFO, "opened", path = %_path.display(), len = _header.geometry.len(), unclean = _recovery.unclean);
    if _recovery.added_dirt() || _recovery.damaged() {
        event!(
            WARN,
            "recovered",
            path = %_path.display(),
            armed_items = _recovery.armed_items,
            intent_items = _recovery.intent_items,
            interrupted_pages = _recovery.interrupted_pages,
            damaged_pages = _recovery.damaged_pages,
            damaged_headers = _recovery.damaged_headers,
            lost_granules = _recovery.lost_granules.is_some(),
            lost_commit = _recovery.lost_commit,
            image_changed = _recovery.image_changed.is_some(),
            cache_trusted = ?_recovery.cache_trusted
        );
    }
}

/// Makes the recovered bits durable and commits the new session. Says which header is durable then, and what its intent covers.
fn commit_open(
    file: MapFile<'_>,
    loaded: &mut Loaded,
    (nonce, writes_outlive): (&Uuid, bool),
    found: (&Copies, &Newest),
    watcher: &Watcher,
) -> Result<(LastDurable, Option<IntentSet>)> {
    let write = "write the header";
    let Loaded { header, pair, recovery, failed, dirty, rewrite, view, .. } = loaded;
    let geometry = header.geometry;
    let mut known = LastDurable { sequence: header.sequence, pair: *pair };
    step!(RewriteNewest => headers::rewrite_in_place(file.disk, found.0, found.1)).map_err(file.io(write))?;
    recovery.remember(header);
    let identity = file.disk.identity().map_err(file.io("identify the file"))?;
    // Kept until a close by all: those who had the map before may be dead, and their writes not.
    let doubt = step!(KeepOutlived => header.session.flags & (Session::OUTLIVE | Session::OUTLIVED) != 0);
    let flags = if doubt { Session::OUTLIVED } else { 0 } | if writes_outlive { Session::OUTLIVE } else { 0 };
    header.session = session_of(&identity, flags);
    header.state = State::Open;
    header.nonce = *nonce;
    let mut intent = loaded.intent.take();
    if step!(OpenEndsDoubt => intent.as_ref().is_some_and(|intent| intent.failed())) {
        // Nothing can be armed by it. What it may have covered is everything, and so is the list.
        (intent, header.intent) = (None, None);
    }
    if intent.is_none() {
        forget_intent(header);
    }
    twin!(OpenNamesIntent => forget_intent(header));
    header.last_open = os::now();
    set_exact(header, false);
    let all = if header.durability == Durability::Process { all_words(&geometry) } else { WordRanges::new() };

    let mut list = all.clone();
    list.union(&words_of_pages(&geometry, failed));
    if recovery.cache_trusted != Some(true) {
        list.union(dirty);
    }
    // Naming more than failed only matters if this is interrupted, and then adds dirt.
    list.fit(MAX_LIST);
    header.runs = step!(RecoverThenForget => list, else all.clone());
    known = headers::commit(file.disk, header, known).map_err(file.io(write))?;
    let second = step!(OpenBothPairs => headers::commit(file.disk, header, known), else Ok(known));
    known = second.map_err(file.io(write))?;
    for (i, batch) in batches(rewrite).enumerate() {
        if i > 0 {
            watcher.tell(Step::Recovering, geometry.item_of(batch[0] * PAGE_BITS), geometry.len())?;
        }
        write_recovered(file.disk, header, view, &batch).map_err(file.io("write recovered pages"))?;
    }
    if header.runs != all {
        header.runs = all;
        known = headers::commit(file.disk, header, known).map_err(file.io(write))?;
    }
    Ok((known, intent))
}
