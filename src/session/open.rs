//! Opening a map alone, or as the first of those who share it: read, verify, recover, rebuild the volatile part, commit
//! OPEN. Joining those who do.
//!
//! Invariant kept here: a listed word or a page that does not verify is dirty from here on, durably,
//! before the list forgets it; a crash at any point of this leaves a file that recovers to no less.

use crate::engine::core::{self, Core, Parts};
use crate::engine::flush::write_recovered;
use crate::engine::point_set::Frozen;
use crate::error::{Error, Result};
use crate::file::bottom::{
    Stretches, all_words, batches, is_full, items_in, lost_granules, named, pages_of, words_of_pages,
};
use crate::file::headers::{self, Copies, Newest, Published, damaged_copies, set_exact, writable};
use crate::file::reasons::remember;
use crate::file::scan::{Page, PageFault, Scan};
use crate::format::{
    self, CheckpointState, Durability, Header, Layout, MAX_RUNS, Reasons, Runs, Session, State, Uuid, VOLATILE_LAYOUT,
    VolatileLayout,
};
use crate::geometry::{Geometry, PAGE_BITS, PAGE_BYTES, PAGE_WORDS};
use crate::hierarchy::store_unseen;
use crate::image_stamp::ImageStamp;
use crate::options::{Access, Options};
use crate::progress::Step;
use crate::shm::view::{Look, View, runtime};
use crate::shm::volatile::{self, Allocated, Place};
use crate::sys::{Disk, Identity, Mapping, Part, facts};
use crate::trace::event;
use crate::watcher::Watcher;
use crate::weak::{Weak, weak};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// What opening a map found and, in a map opened for writing, mended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The file was not closed cleanly.
    pub unclean: bool,
    /// Items behind the armed words that became dirty because nobody can know whether they were written.
    pub armed_items: u64,
    /// Pages whose rewriting was interrupted; each became all dirty.
    pub interrupted_pages: u64,
    /// Pages that did not verify although nobody was rewriting them; each became all dirty.
    pub damaged_pages: u64,
    /// Header copies that should be valid and are not.
    pub damaged_headers: u64,
    /// A cleanly closed file whose pages all verify, but hold fewer dirty granules (the first number) than were counted
    /// when it was closed (the second): a page and its entry were lost together. Everything became dirty.
    pub lost_granules: Option<(u64, u64)>,
    /// No copy of one header pair is valid in the boot in which the map was opened, so that a crash does not explain it: a newer
    /// header may be lost. Everything became dirty.
    pub lost_commit: bool,
    /// Why everything became dirty: the image is not as it was when the map was closed.
    pub image_changed: Option<String>,
    /// For a `Process` map after an unclean end: whether the page cache could be trusted.
    pub cache_trusted: Option<bool>,
    /// A checkpoint that was not frozen yet, or was being aborted, and was aborted now: its identity.
    pub aborted_checkpoint: Option<String>,
}

impl Recovery {
    /// Whether dirt may have been added beyond what an undisturbed run would hold.
    pub fn added_dirt(&self) -> bool {
        self.reasons() != Reasons::NONE
    }

    /// Whether something was found that a crash does not explain.
    pub fn damaged(&self) -> bool {
        self.damaged_pages > 0 || self.damaged_headers > 0 || self.lost_granules.is_some() || self.lost_commit
    }

    pub(crate) fn reasons(&self) -> Reasons {
        let mut r = Reasons::NONE;
        if self.cache_trusted == Some(false) {
            r |= Reasons::CACHE_NOT_TRUSTED;
        }
        // A list in a file that was closed says that closing did not get to its end.
        if (self.unclean || self.interrupted_pages > 0 || self.armed_items > 0) && self.cache_trusted != Some(true) {
            r |= Reasons::CRASH;
        }
        if self.damaged_pages > 0 || self.lost_granules.is_some() {
            r |= Reasons::DAMAGED_PAGE;
        }
        if self.lost_commit {
            r |= Reasons::LOST_COMMIT;
        }
        if self.image_changed.is_some() {
            r |= Reasons::IMAGE_CHANGED;
        }
        r
    }

    /// Has the header say why there is more dirt than was set.
    pub(crate) fn remember(&self, header: &mut Header) {
        let reasons = self.reasons();
        if reasons != Reasons::NONE && !weak(Weak::NoReasons) {
            remember(header, reasons);
        }
    }
}

/// A view filled with the recovered bits, and what has to be written to make them durable.
pub(crate) struct Loaded {
    pub view: View,
    /// Words that are wholly dirty and not filled in the view: in a map that is only read.
    pub whole: Runs,
    /// Those of them that are dirty for want of knowledge.
    pub assumed: Runs,
    pub header: Header,
    pub pair: usize,
    pub recovery: Recovery,
    /// The outstanding point.
    pub frozen: Option<Frozen>,
    /// Pages that did not verify.
    failed: Runs,
    /// Words that are dirty for want of knowledge.
    dirty: Runs,
    /// Pages whose recovered content is not what the bottom holds.
    rewrite: Runs,
    allocated: Allocated,
}

/// Reads and checks the header, without changing anything. Says what is wrong with its copies.
pub(crate) fn header_of(disk: &dyn Disk, path: &Path, writing: bool) -> Result<(Copies, Newest, Recovery)> {
    let copies = headers::read_copies(disk);
    let newest = headers::choose(disk, &copies, path)?;
    if writing {
        writable(&newest.header, path)?;
    }
    let damaged_headers = damaged_copies(&copies, &newest).len() as u64;
    let recovery = Recovery { damaged_headers, lost_commit: newest.lost_commit, ..Recovery::default() };
    Ok((copies, newest, recovery))
}

/// Loads the recovered bits into anonymous memory. Writes nothing.
pub(crate) fn load_in_memory(disk: &dyn Disk, path: &Path, image: Option<&ImageStamp>) -> Result<Loaded> {
    let (_, Newest { header, pair, .. }, recovery) = header_of(disk, path, false)?;
    let v = VolatileLayout::new(&header.geometry);
    let mapping = Mapping::anonymous(v.length).map_err(|_| Error::OutOfMemory { bytes: v.length })?;
    let view = View::new(header.geometry, &v, mapping)?;
    load(disk, path, (header, pair, recovery), view, image, None, None)
}

/// Sees that storing into some words of the volatile part cannot fail.
type Allocate<'a> = &'a mut dyn FnMut(&Layout, Range<u64>) -> Result<()>;

/// Fills an all-zero view from the durable bottom; for who writes (which is who allocates) also with what is dirty for want
/// of knowledge. A reader keeps that as runs, and so takes no more memory than goes with what the file holds.
fn load(
    disk: &dyn Disk,
    path: &Path,
    (header, pair, mut recovery): (Header, usize, Recovery),
    view: View,
    image: Option<&ImageStamp>,
    saved: Option<Vec<SavedPage>>,
    mut allocate: Option<Allocate<'_>>,
) -> Result<Loaded> {
    let (geometry, writing) = (header.geometry, allocate.is_some());
    recovery.unclean = header.state == State::Open;
    recovery.image_changed = image.and_then(|now| now.changed_since(header.image));
    let process = header.durability == Durability::Process && recovery.unclean;
    recovery.cache_trusted = process.then_some(saved.is_some());
    let mut granules = 0;

    let mut pages: Vec<Range<u64>> = Vec::new();
    let mut good: Vec<u64> = Vec::new();
    let (mut failed, mut whole) = (Stretches::default(), Stretches::default());
    let mut trouble = Ok(());
    let mut prepare = |index: u64| -> bool {
        if trouble.is_ok() {
            let words = format::page_words(&geometry, index);
            trouble = allocate.as_mut().map_or(Ok(()), |allocate| allocate(&header.layout, words.clone()));
            match pages.last_mut() {
                Some(last) if last.end == words.start => last.end = words.end,
                _ => pages.push(words),
            }
        }
        trouble.is_ok()
    };
    let scan = Scan { disk, path, header: &header };
    scan.run(
        |index, found| match found {
            Page::Good(words) => {
                granules += words.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
                if !writing && is_full(&geometry, index, words) {
                    whole.add(format::page_words(&geometry, index));
                } else if prepare(index) {
                    if saved.is_some() {
                        good.push(index);
                    }
                    store_page(&view, index, words, true);
                }
            }
            Page::Failed(fault) => {
                let named = named(&header.runs, index) != 0;
                if named && fault != PageFault::StrayBits {
                    recovery.interrupted_pages += 1;
                } else {
                    recovery.damaged_pages += 1;
                }
                if !weak(Weak::IgnoreMismatch) {
                    failed.add(index..index + 1);
                }
            }
        },
        |_| {},
    )?;
    let (failed, mut whole) = (failed.runs(), whole.runs());
    recovery.lost_granules = lost_granules(&header, granules, failed.words()).filter(|_| !weak(Weak::IgnoreLost));
    let lost = recovery.lost_granules.is_some() || recovery.lost_commit;
    let dirty = if recovery.image_changed.is_some() || lost {
        all_words(&geometry)
    } else if saved.is_some() || weak(Weak::IgnoreList) {
        Runs::new()
    } else {
        header.runs.clone()
    };
    recovery.armed_items = if saved.is_some() { 0 } else { items_in(&geometry, &header.runs) };
    let (mut rewrite, mut assumed) = (failed.clone(), dirty.clone());
    match saved {
        // The page cache is trusted: it says what is dirty, wherever the bottom is behind.
        Some(saved) => {
            for &index in &good {
                store_page(&view, index, &[0; PAGE_WORDS as usize], false);
            }
            rewrite.union(&Runs::from_iter(good.iter().map(|&index| index..index + 1)));
            for (index, words) in &saved {
                if prepare(*index) {
                    store_page(&view, *index, words, false);
                }
            }
            rewrite.union(&Runs::from_iter(saved.iter().map(|&(index, _)| index..index + 1)));
        }
        None => assumed.union(&words_of_pages(&geometry, &failed)),
    }
    rewrite.union(&pages_of(&dirty));
    if writing {
        for run in std::mem::take(&mut assumed).iter() {
            let words = run.range();
            if (words.start / PAGE_WORDS..words.end.div_ceil(PAGE_WORDS)).all(&mut prepare) {
                fill(&view, words);
            }
        }
    }
    whole.union(&assumed);
    trouble?;
    let frozen = Frozen::outstanding(disk, path, &header)?;
    recovery.damaged_pages += frozen.as_ref().map_or(0, Frozen::failed);
    let extents = Runs::from_iter(pages);
    view.levels().finish(extents.iter().map(|r| r.range()));
    let allocated = Allocated::default();
    Ok(Loaded { view, whole, assumed, header, pair, recovery, frozen, failed, dirty, rewrite, allocated })
}

fn store_page(view: &View, index: u64, words: &[u64; PAGE_WORDS as usize], durable: bool) {
    let Range { start, end } = format::page_words(view.geometry(), index);
    let range = start as usize..end as usize;
    store_unseen(&view.live()[range.clone()], *words);
    if durable {
        store_unseen(&view.durable()[range], *words);
    }
}

fn fill(view: &View, words: Range<u64>) {
    let masks = words.clone().map(|w| view.geometry().word_mask(w));
    store_unseen(&view.live()[words.start as usize..words.end as usize], masks);
}

/// A nonzero page of the live level, taken from the page cache.
type SavedPage = (u64, [u64; PAGE_WORDS as usize]);

/// The facts of a session as the header keeps them.
fn session_of(identity: &Identity, flags: u32) -> Session {
    let Identity { boot_id, device, inode, mount, birth } = *identity;
    Session { boot_id: Uuid(boot_id), device, inode, mount, flags, birth }
}

/// The live level that a killed process left in the page cache; `None` when that is not to be trusted, which
/// a `PowerLoss` map never does, and neither does a reader: the kernel tells a failed write-back once, and whoever asks
/// takes the answer away from the next opener. A writer that asks says so in the file first.
fn saved_live(disk: &dyn Disk, path: &Path, header: &Header) -> Result<Option<Vec<SavedPage>>> {
    if !cache_may_be_trusted(disk, path, header)? {
        return Ok(None);
    }
    let v = VolatileLayout::new(&header.geometry);
    let base = header.layout.volatile.start;
    let asked = Part { offset: base + v.runtime.start + runtime::DEGRADED as u64 * 8, bytes: &1u64.to_le_bytes() };
    if !weak(Weak::AskUnmarked) && disk.write_durable(&[asked]).is_err() {
        return Ok(None);
    }
    if !weak(Weak::TrustUnasked) && disk.sync_all().is_err() {
        return Ok(None);
    }
    let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
    read_live(disk, base + v.live.start, &header.geometry).map_err(io("read the live level")).map(Some)
}

/// Whether the live level in the page cache is that of the processes that had the map, unless the kernel says that a
/// write-back failed. Asks nobody for that.
pub(crate) fn cache_may_be_trusted(disk: &dyn Disk, path: &Path, header: &Header) -> Result<bool> {
    let known = header.volatile_layout == VOLATILE_LAYOUT;
    if header.durability != Durability::Process || header.state != State::Open || !known {
        return Ok(false);
    }
    let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
    let now = disk.identity().map_err(io("identify the file"))?;
    let known = now.boot_id != [0; 16] && now.mount != 0 && now.birth != 0 || weak(Weak::TrustUnknown);
    let mut now = session_of(&now, 0);
    if weak(Weak::TrustOtherBoot) {
        now.boot_id = header.session.boot_id;
    }
    if weak(Weak::TrustOtherFile) {
        now.inode = header.session.inode;
    }
    // What may still be written to the image says nothing of the map's file.
    now.flags = header.session.flags;
    let same = known && now == header.session && !header.session.degraded();
    if !same || header.nonce.is_nil() || header.runs != all_words(&header.geometry) {
        return Ok(false);
    }
    let v = VolatileLayout::new(&header.geometry);
    let mut page = [0; 80];
    let read = disk.read_at(&mut page, header.layout.volatile.start + v.runtime.start);
    let degraded = page[runtime::DEGRADED * 8..][..8] != [0; 8];
    let ours = page[..16] == header.nonce.0 || weak(Weak::TrustAnyNonce);
    Ok(read.is_ok() && ours && (!degraded || weak(Weak::TrustDegraded)))
}

fn read_live(disk: &dyn Disk, base: u64, geometry: &Geometry) -> std::io::Result<Vec<SavedPage>> {
    /// Pages read at once: as many as are allocated together, a few of which may be dirty.
    const PIECE_PAGES: u64 = volatile::CHUNK_WORDS / PAGE_WORDS;
    let mut saved = Vec::new();
    let mut buffer = vec![0; (PIECE_PAGES * PAGE_BYTES) as usize];
    let pages = geometry.pages();
    let mut at = 0;
    while at < pages {
        let Some(data) = disk.next_data(base + at * PAGE_BYTES..base + pages * PAGE_BYTES)? else { break };
        let first = ((data.start - base) / PAGE_BYTES).max(at);
        let end = (data.end - base).div_ceil(PAGE_BYTES).clamp(first + 1, pages);
        for piece in (first..end).step_by(PIECE_PAGES as usize) {
            let bytes = &mut buffer[..((end - piece).min(PIECE_PAGES) * PAGE_BYTES) as usize];
            disk.read_at(bytes, base + piece * PAGE_BYTES)?;
            for (index, page) in (piece..).zip(bytes.as_chunks().0).filter(|(_, page)| !format::is_zeros(*page)) {
                let mut words = format::words_from_page(page);
                for (i, w) in words.iter_mut().enumerate() {
                    *w &= geometry.word_mask(index * PAGE_WORDS + i as u64);
                }
                if words.iter().any(|&w| w != 0) {
                    saved.push((index, words));
                }
            }
        }
        at = end;
    }
    Ok(saved)
}

/// Opens a map for writing. The caller holds the gate, the exclusive attach lock, and a slot.
pub(crate) fn open_alone(disk: Arc<dyn Disk>, path: &Path, options: &Options, slot: u64) -> Result<(Core, Recovery)> {
    let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
    let (copies, newest, recovery) = header_of(&*disk, path, true)?;
    let Newest { header, pair, .. } = newest.clone();
    let image_before = header.image;
    let nonce = Uuid(facts::random().map_err(io("get random bytes"))?);
    let shared = options.access == Access::Shared;
    let in_file = core::in_file(&header, shared);
    if in_file {
        volatile::mappable(&*disk, path, &header, shared)?;
    }
    let saved = saved_live(&*disk, path, &header)?;

    // From here on the volatile part is written, and nothing else until the bits are loaded.
    disk.grow(header.file_length()).map_err(io("grow the file"))?;
    let view = volatile::view(&*disk, path, &header, in_file, shared)?;
    let mut allocated = Allocated::default();
    let (d, geometry) = (disk.clone(), header.geometry);
    let mut allocate = |layout: &Layout, words: Range<u64>| -> Result<()> {
        if in_file { allocated.ensure(&*d, path, Place { layout, geometry: &geometry }, words) } else { Ok(()) }
    };
    // The runtime page is written in any case.
    allocate(&header.layout, 0..1)?;
    let found = (header, pair, recovery);
    let mut loaded = load(&*disk, path, found, view, options.image.as_ref(), saved, Some(&mut allocate))?;
    loaded.allocated = allocated;
    commit_open(&*disk, path, &mut loaded, (&nonce, options.writes_outlive), (&copies, &newest), &options.watcher)
        .and_then(|published| {
            let Loaded { view, header, mut recovery, allocated, frozen, .. } = loaded;
            let rt = view.runtime();
            rt[runtime::PUBLISHED].store(published.pack(), SeqCst);
            rt[runtime::ATTEMPTED].store(published.sequence, SeqCst);
            rt[runtime::SHARED].store(u64::from(shared), SeqCst);
            let exact = if image_before.is_some_and(|stamp| stamp.exact) { runtime::IMAGE_EXACT } else { 0 };
            let tracked = if options.image.is_some() { runtime::IMAGE_TRACKED } else { 0 };
            rt[runtime::IMAGE].store(exact | tracked, SeqCst);
            let geometry = header.geometry;
            let parts = Parts {
                disk: disk.clone(),
                path: path.to_path_buf(),
                view,
                nonce,
                slot,
                shared,
                lock_timeout: options.lock_timeout,
                armed_bound: options.armed_words(&geometry),
                ahead_bound: options.ahead_words(&geometry),
                allocated,
                image_before,
                watcher: options.watcher.clone(),
            };
            let core = Core::new(parts, &header).map_err(io("prepare for forks"))?;
            core.mark_slot(options.writes_outlive);
            core.say_checkpoint(header.checkpoint_state);
            core.know_frozen(frozen);
            let half = matches!(header.checkpoint_state, CheckpointState::Freezing | CheckpointState::Aborting);
            if half && !weak(Weak::OpenNoAbort) {
                // Nobody is at it any more, and the backup has not been told to read.
                core.abort(&header.checkpoint_uuid)?;
                recovery.aborted_checkpoint = Some(header.checkpoint_uuid.to_string());
            }
            core.view.set_nonce(&nonce.0);
            told(path, &header, &recovery);
            Ok((core, recovery))
        })
}

/// What there is of a session that lives: the header, and the volatile part, which `map` maps. `None` when nobody may
/// look into it.
pub(crate) fn session<V: Look>(
    disk: &dyn Disk,
    path: &Path,
    map: impl FnOnce(&Header) -> Result<V>,
) -> Result<Option<(V, Header)>> {
    let header = headers::newest(disk, path)?.header;
    if header.state != State::Open || header.nonce.is_nil() || header.volatile_layout != VOLATILE_LAYOUT {
        return Ok(None);
    }
    // A look behind the end of a file kills the process, and a damaged header may say anything.
    let end = header.layout.volatile.end;
    let len = disk.len().map_err(|source| Error::Io { op: "look at the file", path: path.to_path_buf(), source })?;
    if len < end && !weak(Weak::JoinCutOff) {
        return Err(Error::Corrupt {
            path: path.to_path_buf(),
            place: "volatile region".into(),
            found: format!("the file ends at byte {len}"),
            expected: format!("at least {end} bytes while somebody has it open"),
        });
    }
    let view = map(&header)?;
    let lives = view.nonce() == header.nonce.0 || weak(Weak::JoinAnyNonce);
    let shared = view.is_shared() || weak(Weak::JoinUnshared);
    Ok((lives && shared).then_some((view, header)))
}

/// Joins those who share the map. The caller holds the gate and, shared, the attach lock; `seat` takes a slot.
pub(crate) fn join<S>(
    disk: Arc<dyn Disk>,
    path: &Path,
    options: &Options,
    seat: impl FnOnce(&View) -> Result<(u64, S)>,
) -> Result<(Core, S)> {
    let map = |header: &Header| {
        writable(header, path)?;
        volatile::join(&*disk, path, header, true)
    };
    let Some((view, header)) = session(&*disk, path, map)? else {
        let what = "others have it open, in no session that can be joined; it can be had when they are gone";
        return Err(Error::Locked { path: path.to_path_buf(), what, holder: None });
    };
    let (slot, seat) = seat(&view)?;
    if !weak(Weak::JoinKeepSlot) {
        view.slot(slot).iter().for_each(|word| word.store(0, SeqCst));
    }
    let geometry = header.geometry;
    let parts = Parts {
        disk,
        path: path.to_path_buf(),
        view,
        nonce: header.nonce,
        slot,
        shared: true,
        lock_timeout: options.lock_timeout,
        armed_bound: options.armed_words(&geometry),
        ahead_bound: options.ahead_words(&geometry),
        allocated: Allocated::default(),
        image_before: header.image,
        watcher: options.watcher.clone(),
    };
    let io = |source| Error::Io { op: "prepare for forks", path: path.to_path_buf(), source };
    let core = Core::new(parts, &header).map_err(io)?;
    core.mark_slot(options.writes_outlive);
    if options.writes_outlive && header.session.flags & Session::OUTLIVE == 0 {
        core.amend(|header| header.session.flags |= Session::OUTLIVE)?;
    }
    event!(INFO, "joined", path = %path.display(), len = geometry.len());
    Ok((core, seat))
}

/// Tells who watches what was found.
fn told(_path: &Path, _header: &Header, _recovery: &Recovery) {
    event!(INFO, "opened", path = %_path.display(), len = _header.geometry.len(), unclean = _recovery.unclean);
    if _recovery.reasons() != Reasons::NONE || _recovery.damaged() {
        event!(
            WARN,
            "recovered",
            path = %_path.display(),
            armed_items = _recovery.armed_items,
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

/// Makes the recovered bits durable and commits the new session.
fn commit_open(
    disk: &dyn Disk,
    path: &Path,
    loaded: &mut Loaded,
    (nonce, writes_outlive): (&Uuid, bool),
    found: (&Copies, &Newest),
    watcher: &Watcher,
) -> Result<Published> {
    let io = |op| move |source| Error::Io { op, path: path.to_path_buf(), source };
    let write = "write the header";
    let Loaded { header, pair, recovery, failed, dirty, rewrite, view, .. } = loaded;
    let geometry = header.geometry;
    let mut known = Published { sequence: header.sequence, pair: *pair };
    if !weak(Weak::NoRewrite) {
        headers::renew(disk, found.0, found.1).map_err(io(write))?;
    }
    recovery.remember(header);
    let identity = disk.identity().map_err(io("identify the file"))?;
    // Kept until a close by all: those who had the map before may be dead, and their writes not.
    let doubt = header.session.flags & (Session::OUTLIVE | Session::OUTLIVED) != 0 && !weak(Weak::OutlivedForgotten);
    let flags = if doubt { Session::OUTLIVED } else { 0 } | if writes_outlive { Session::OUTLIVE } else { 0 };
    header.session = session_of(&identity, flags);
    header.state = State::Open;
    header.nonce = *nonce;
    header.last_open = facts::now();
    set_exact(header, false);
    let all = if header.durability == Durability::Process { all_words(&geometry) } else { Runs::new() };

    let mut list = all.clone();
    list.union(&words_of_pages(&geometry, failed));
    if recovery.cache_trusted != Some(true) {
        list.union(dirty);
    }
    // Naming more than failed only matters if this is interrupted, and then adds dirt.
    list.coarsen(MAX_RUNS);
    header.runs = if weak(Weak::RecoverEarlyDrop) { all.clone() } else { list };
    for _ in 0..if weak(Weak::NoOpen) { 1 } else { 2 } {
        known = headers::commit(disk, header, known).map_err(io(write))?;
    }
    for (i, batch) in batches(rewrite).enumerate() {
        if i > 0 {
            watcher.tell(Step::Recovering, geometry.item_of(batch[0] * PAGE_BITS), geometry.len())?;
        }
        write_recovered(disk, header, view, &batch).map_err(io("write recovered pages"))?;
    }
    if header.runs != all {
        header.runs = all;
        known = headers::commit(disk, header, known).map_err(io(write))?;
    }
    Ok(known)
}
