//! Keeping what a repair is about to change, and putting it back.
//!
//! Invariants kept here: an undo file that can be seen is whole and durable, and so is written before anything else is.
//! Nothing is put back unless all of it is as it was written, and the map is as that repair found or left it. Whatever is
//! being put back when the power goes, the map is no less dirty than it was before the repair: a header that doubts every
//! word stands until all pages are back, page tables are put back before what they are of, and the headers last.

use super::plan::Kept;
use super::undo_file::{self, Head, UNDO_PIECE};
use crate::error::{Corruption, Error, Refusal, Result};
use crate::file::bottom::all_words;
use crate::file::create::NewFile;
use crate::file::headers::{self, Copies};
use crate::format::codec::crc32;
use crate::format::{COPY_BYTES, HEADER_REGION, Header, State, copy_offset};
use crate::map_file::MapFile;
use crate::sys::{Storage, WriteSegment, os};
use std::io::{self, BufReader, Read, Seek};
use std::ops::Range;
use std::path::Path;

/// What was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UndoReport {
    /// Bytes, without those of the length that was given back or taken away.
    pub bytes: u64,
    /// Length of the file before and after.
    pub length: (u64, u64),
}

/// Keeps what is about to be changed in the new file `to`, durably, for those who may use the map.
pub(crate) fn save(file: MapFile<'_>, to: &Path, kept: &Kept<'_>) -> Result<()> {
    let new = NewFile::in_place(to, file.disk.permit())?;
    let written = undo_file::write(file.disk, kept, &mut new.file()).and_then(|()| new.file().sync_all());
    written.map_err(file.io("keep what is to be changed of it"))?;
    new.publish()
}

/// Puts back what the undo file `from` keeps.
pub(crate) fn put_back(file: MapFile<'_>, from: &Path) -> Result<UndoReport> {
    let kept = os::open(from, false);
    let kept = kept.map_err(|source| Error::Io { op: "open the undo file", path: from.to_path_buf(), source })?;
    put_back_from(file, &mut BufReader::with_capacity(1 << 16, kept), from)
}

/// An undo file all of which has been checked.
struct Checked {
    head: Head,
    /// The header copies, as far as they are kept; zeros where they are not.
    headers: Vec<u8>,
    keeps_headers: bool,
    /// Up to where bytes are kept.
    reach: u64,
}

impl Checked {
    fn of(from: &mut (impl Read + Seek), name: &Path) -> Result<Checked> {
        let mut headers = vec![0; HEADER_REGION as usize];
        let (mut keeps_headers, mut reach) = (false, 0);
        let read = undo_file::read(from, |record| {
            reach = record.range.end.max(reach);
            let part = record.range.start as usize..record.range.end.min(HEADER_REGION) as usize;
            if let Some(to) = headers.get_mut(part) {
                keeps_headers = true;
                match record.bytes {
                    Some(bytes) => to.copy_from_slice(&bytes[..to.len()]),
                    None => to.fill(0),
                }
            }
            Ok(())
        });
        let path = name.to_path_buf();
        match read {
            Ok(Ok(head)) => Ok(Checked { head, headers, keeps_headers, reach }),
            Ok(Err((place, found, expected))) => Err(broken(name, &place, found, expected)),
            Err(source) => Err(Error::Io { op: "read the undo file", path, source }),
        }
    }
}

/// Puts back what an undo file keeps; `name` is its name, for errors.
pub(crate) fn put_back_from(file: MapFile<'_>, from: &mut (impl Read + Seek), name: &Path) -> Result<UndoReport> {
    // All of it is checked before any of it is used.
    let Checked { head, headers: old, keeps_headers, reach } = Checked::of(from, name)?;
    let copies = headers::read_copies(file.disk);
    let ours = step!(CheckUndoMap => is_as_repair_left_it(&head, &copies));
    ours.map_err(|why| file.refused(why))?;

    let before = file.disk.len().map_err(file.io("put back"))?;
    // Of what was cut off all is kept. So nobody makes the file longer by a length alone.
    if head.length > before.max(reach) {
        let found = format!("a file of {} bytes, of which none are kept behind byte {reach}", head.length);
        return Err(broken(name, "length", found, format!("at most {} bytes", before.max(reach))));
    }
    let length = if keeps_headers { head.length.max(HEADER_REGION) } else { head.length };
    file.disk.extend(length).and_then(|()| synced(file.disk)).map_err(file.io("put back"))?;
    if step!(DoubtThenUndo => keeps_headers) {
        doubt_everything(file, &copies, &head)?;
    }
    // Before the pages: a point that was cut off is so again before anything of it is what it was.
    file.disk.truncate(length).and_then(|()| synced(file.disk)).map_err(file.io("put back"))?;
    let mut count = 0;
    let put = undo_file::read(from, |record| {
        count += record.range.end - record.range.start;
        match record.bytes {
            _ if record.range.start < HEADER_REGION => Ok(()),
            Some(bytes) => file.disk.write_durable(&[WriteSegment { offset: record.range.start, bytes }]),
            None => clear(file.disk, record.range),
        }
    });
    // Checked above; who changes it meanwhile is told, and can do it again.
    if put.map_err(file.io("put back"))?.is_err() {
        return Err(Error::Io { op: "read the undo file again", path: name.to_path_buf(), source: changed() });
    }
    file.disk.truncate(head.length).and_then(|()| synced(file.disk)).map_err(file.io("put back"))?;
    if keeps_headers {
        put_headers_back(file.disk, &old[..HEADER_REGION.min(head.length) as usize]).map_err(file.io("put back"))?;
    }
    Ok(UndoReport { bytes: count, length: (before, head.length) })
}

/// Commits to both pairs that every word may be dirty, for as long as the pages are neither what they were nor what they
/// became. Where no header can be read, nothing is clean as it is.
fn doubt_everything(file: MapFile<'_>, copies: &Copies, head: &Head) -> Result<()> {
    let Ok((newest, _)) = headers::choose_also_cut_off(file, copies) else { return Ok(()) };
    headers::rewrite_in_place(file.disk, copies, &newest).map_err(file.io("put back"))?;
    let mut header = newest.header;
    header.state = State::Open;
    header.nonce = head.nonce;
    header.runs = all_words(&header.geometry);
    for pair in [1 - newest.pair, newest.pair] {
        header.sequence += 1;
        headers::write_pair(file.disk, &header, pair).map_err(file.io("put back"))?;
    }
    Ok(())
}

/// Makes the length of the file durable, and what was cleared.
fn synced(disk: &dyn Storage) -> io::Result<()> {
    step!(SyncUndoneLength => disk.sync_all())
}

/// The error of an undo file that is not as a repair has made it.
fn broken(name: &Path, place: &str, found: String, expected: String) -> Error {
    let (path, what) = (name.to_path_buf(), Corruption::Undo);
    Error::Corrupt { path, what, place: format!("undo file, {place}"), found, expected }
}

fn changed() -> io::Error {
    io::Error::other("it changed while it was read")
}

/// Whether putting back loses nothing. Who opens a map for writing replaces all header copies before a bit is set in it: so
/// one that was there before the repair, or that it wrote, says that nobody has. Others may be torn, or mended by that.
fn is_as_repair_left_it(head: &Head, copies: &Copies) -> std::result::Result<(), Refusal> {
    let valid = || copies.iter().flatten();
    if valid().any(|header| header.uuid == head.uuid && is_known(head, header)) {
        return Ok(());
    }
    Err(match valid().find(|header| header.uuid == head.uuid) {
        Some(header) => Refusal::WrittenSinceRepair { sequence: header.sequence },
        None => Refusal::UndoOfAnotherMap { uuid: head.uuid },
    })
}

fn is_known(head: &Head, header: &Header) -> bool {
    header.nonce == head.nonce || header.encode().is_ok_and(|bytes| head.headers.contains(&crc32(&[&bytes])))
}

/// Puts the header copies back one after the other, the newest first: until it is there, one of those is that everything
/// is in doubt by, and the last of them is not missed.
fn put_headers_back(disk: &dyn Storage, old: &[u8]) -> io::Result<()> {
    let mut copies: Vec<(usize, &[u8])> = old.chunks(COPY_BYTES).enumerate().collect();
    copies.sort_by_key(|(_, bytes)| {
        std::cmp::Reverse(step!(UndoNewestFirst => Header::parse(bytes).map_or(0, |h| h.sequence)))
    });
    for (copy, bytes) in copies {
        disk.write_durable(&[WriteSegment { offset: copy_offset(copy), bytes }])?;
    }
    Ok(())
}

/// Makes a range zeros, without taking space where the file system can.
fn clear(disk: &dyn Storage, range: Range<u64>) -> io::Result<()> {
    if disk.punch_hole(range.clone()).and_then(|()| synced(disk)).is_ok() {
        return Ok(());
    }
    let zeros = vec![0; UNDO_PIECE as usize];
    for at in range.clone().step_by(UNDO_PIECE as usize) {
        let end = (at + UNDO_PIECE).min(range.end);
        disk.write_durable(&[WriteSegment { offset: at, bytes: &zeros[..(end - at) as usize] }])?;
    }
    Ok(())
}
