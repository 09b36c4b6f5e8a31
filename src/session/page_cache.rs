//! The live level that a killed process left in the page cache.
//!
//! Invariant kept here: it is trusted only in the boot, file and mount in which it was written, and if no write-back of it failed.

use crate::error::Result;
use crate::file::bottom::all_words;
use crate::format::{self, Durability, Header, Session, State, Uuid, VOLATILE_LAYOUT, VolatileLayout};
use crate::geometry::{Geometry, PAGE_BYTES, PAGE_WORDS};
use crate::map_file::MapFile;
use crate::shm::runtime;
use crate::shm::space;
use crate::sys::{Identity, Storage, WriteSegment};

/// A nonzero page of the live level, taken from the page cache.
pub(super) type SavedPage = (u64, [u64; PAGE_WORDS as usize]);

/// The facts of a session as the header keeps them.
pub(super) fn session_of(identity: &Identity, flags: u32) -> Session {
    let Identity { boot_id, device, inode, mount, birth } = *identity;
    Session { boot_id: Uuid(boot_id), device, inode, mount, flags, birth }
}

/// The live level that a killed process left in the page cache; `None` when that is not to be trusted, which
/// a `PowerLoss` map never does, and neither does a reader: the kernel tells a failed write-back once, and whoever asks
/// takes the answer away from the next opener. A writer that asks says so in the file first.
pub(super) fn saved_live(file: MapFile<'_>, header: &Header) -> Result<Option<Vec<SavedPage>>> {
    if !cache_may_be_trusted(file, header)? {
        return Ok(None);
    }
    let v = VolatileLayout::new(&header.geometry);
    let base = header.layout.volatile.start;
    let asked =
        WriteSegment { offset: base + v.runtime.start + runtime::DEGRADED.offset() as u64, bytes: &1u64.to_le_bytes() };
    if step!(MarkThenAsk => file.disk.write_durable(&[asked]).is_err()) {
        return Ok(None);
    }
    if step!(AskKernelAtOpen => file.disk.sync_all().is_err()) {
        return Ok(None);
    }
    read_live(file.disk, base + v.live.start, &header.geometry).map_err(file.io("read the live level")).map(Some)
}

/// Whether the live level in the page cache is that of the processes that had the map, unless the kernel says that a
/// write-back failed. Asks nobody for that.
pub(crate) fn cache_may_be_trusted(file: MapFile<'_>, header: &Header) -> Result<bool> {
    let known = header.volatile_layout == VOLATILE_LAYOUT;
    if header.durability != Durability::Process || header.state != State::Open || !known {
        return Ok(false);
    }
    let now = file.disk.identity().map_err(file.io("identify the file"))?;
    let unknown = step!(KnowBoot => now.boot_id == [0; 16] || now.mount == 0 || now.birth == 0);
    let mut now = session_of(&now, 0);
    twin!(CompareBoot => now.boot_id = header.session.boot_id);
    twin!(CompareFile => now.inode = header.session.inode);
    // What may still be written to the image says nothing of the map's file.
    now.flags = header.session.flags;
    let same = !unknown && now == header.session && !header.session.write_failed();
    if !same || header.nonce.is_nil() || header.runs != all_words(&header.geometry) {
        return Ok(false);
    }
    let v = VolatileLayout::new(&header.geometry);
    let mut page = [0; 80];
    let read = file.disk.read_at(&mut page, header.layout.volatile.start + v.runtime.start);
    let write_failed = page[runtime::DEGRADED.offset()..][..8] != [0; 8];
    let other = step!(CompareNonce => page[..16] != header.nonce.0);
    Ok(read.is_ok() && !other && !step!(RefuseFailed => write_failed))
}

fn read_live(disk: &dyn Storage, base: u64, geometry: &Geometry) -> std::io::Result<Vec<SavedPage>> {
    /// Pages read at once: as many as are allocated together, a few of which may be dirty.
    const PIECE_PAGES: u64 = space::CHUNK_WORDS / PAGE_WORDS;
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
