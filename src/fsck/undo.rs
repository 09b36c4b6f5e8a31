//! The undo file: what a repair is about to change, as it was. In FORMAT.md, "Undo file".
//!
//! Invariants kept here: an undo file that can be seen is whole and durable, and so is written before anything else is.
//! Nothing is put back unless all of it is as it was written, and the map is as that repair found or left it. Whatever is
//! being put back when the power goes, the map is no less dirty than it was before the repair: a header that doubts every
//! word stands until all pages are back, page tables are put back before what they are of, and the headers last.

use super::plan::Kept;
use crate::error::{Error, Result};
use crate::file::bottom::all_words;
use crate::file::create::NewFile;
use crate::file::headers::{self, Copies};
use crate::format::codec::{array_at, crc32, put, put_u32, put_u64, u32_at, u64_at};
use crate::format::{COPY_BYTES, HEADER_REGION, Header, MAX_FILE_LENGTH, State, Uuid, copy_offset};
use crate::sys::{Storage, WriteSegment, facts};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

/// First bytes of an undo file.
pub(crate) const UNDO_MAGIC: [u8; 8] = *b"\x89DMUNDO\n";
/// Version of its format.
pub(crate) const UNDO_VERSION: u32 = 1;
/// Bytes of its head.
pub(crate) const UNDO_HEAD: usize = 128;
/// Bytes in front of the bytes of a record.
pub(crate) const UNDO_RECORD: usize = 32;
/// Checksums of headers that it has room for.
pub(crate) const UNDO_HEADERS: usize = 12;
/// Bytes of the file that one record holds at most.
pub(crate) const UNDO_PIECE: u64 = 1 << 20;

/// Fields of the head.
mod head {
    pub(crate) const VERSION: usize = 8;
    pub(crate) const CRC: usize = 12;
    pub(crate) const UUID: usize = 16;
    pub(crate) const LENGTH: usize = 32;
    pub(crate) const RECORDS: usize = 40;
    pub(crate) const HEADER_COUNT: usize = 48;
    pub(crate) const HEADERS: usize = 56;
    pub(crate) const NONCE: usize = 104;
    const _: () = assert!(HEADERS + 4 * super::UNDO_HEADERS <= NONCE && NONCE + 16 <= super::UNDO_HEAD);
}

/// Fields of a record.
mod record {
    pub(crate) const OFFSET: usize = 0;
    pub(crate) const LENGTH: usize = 8;
    pub(crate) const KIND: usize = 16;
    pub(crate) const DATA_CRC: usize = 20;
    pub(crate) const CRC: usize = 28;
}

/// A record with its bytes.
const BYTES: u32 = 1;
/// A record of zeros, which has none.
const ZEROS: u32 = 2;

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
pub(crate) fn save(disk: &dyn Storage, path: &Path, to: &Path, kept: &Kept<'_>) -> Result<()> {
    let new = NewFile::in_place(to, disk.permit())?;
    let written = write(disk, kept, &mut new.file()).and_then(|()| new.file().sync_all());
    written.map_err(|source| Error::Io { op: "keep what is to be changed of it", path: path.to_path_buf(), source })?;
    new.publish()
}

/// Writes an undo file, from its first byte.
pub(crate) fn write(disk: &dyn Storage, kept: &Kept<'_>, to: &mut (impl Write + Seek)) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, to);
    out.write_all(&[0; UNDO_HEAD])?;
    let mut records = 0;
    for (_, range) in kept.ranges {
        let mut at = range.start;
        while at < range.end {
            let data = disk.next_data(at..range.end)?.unwrap_or(range.end..range.end);
            if at < data.start {
                put_record(&mut out, at, data.start - at, None)?;
                records += 1;
            }
            at = data.start.max(at);
            while at < data.end {
                let mut bytes = vec![0; (data.end - at).min(UNDO_PIECE) as usize];
                read_what_can_be(disk, &mut bytes, at);
                put_record(&mut out, at, bytes.len() as u64, Some(&bytes))?;
                records += 1;
                at += bytes.len() as u64;
            }
        }
    }
    let mut first = [0; UNDO_HEAD];
    put(&mut first, 0, &UNDO_MAGIC);
    put_u32(&mut first, head::VERSION, UNDO_VERSION);
    put(&mut first, head::UUID, &kept.uuid.0);
    put(&mut first, head::NONCE, &facts::random::<16>()?);
    put_u64(&mut first, head::LENGTH, kept.length);
    put_u64(&mut first, head::RECORDS, records);
    put_u32(&mut first, head::HEADER_COUNT, kept.headers.len() as u32);
    for (i, crc) in kept.headers.iter().take(UNDO_HEADERS).enumerate() {
        put_u32(&mut first, head::HEADERS + 4 * i, *crc);
    }
    let crc = crc32(&[&first]);
    put_u32(&mut first, head::CRC, crc);
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&first)?;
    out.flush()
}

/// Reads some bytes; those that the device does not give back, nobody can put back either.
fn read_what_can_be(disk: &dyn Storage, bytes: &mut [u8], at: u64) {
    if disk.read_at(bytes, at).is_err() {
        for (i, sector) in bytes.chunks_mut(512).enumerate() {
            if disk.read_at(sector, at + 512 * i as u64).is_err() {
                sector.fill(0);
            }
        }
    }
}

fn put_record(out: &mut impl Write, offset: u64, length: u64, bytes: Option<&[u8]>) -> io::Result<()> {
    let mut first = [0; UNDO_RECORD];
    put_u64(&mut first, record::OFFSET, offset);
    put_u64(&mut first, record::LENGTH, length);
    put_u32(&mut first, record::KIND, if bytes.is_some() { BYTES } else { ZEROS });
    put_u32(&mut first, record::DATA_CRC, bytes.map_or(0, |bytes| crc32(&[bytes])));
    let crc = crc32(&[&first]);
    put_u32(&mut first, record::CRC, crc);
    out.write_all(&first)?;
    out.write_all(bytes.unwrap_or_default())
}

/// Something that an undo file is not: where, what was found, what was expected.
type Flaw = (String, String, String);

fn flaw<T>(place: &str, found: impl ToString, expected: impl ToString) -> std::result::Result<T, Flaw> {
    Err((place.into(), found.to_string(), expected.to_string()))
}

/// The head of an undo file.
#[derive(Debug)]
struct Head {
    uuid: Uuid,
    length: u64,
    records: u64,
    headers: Vec<u32>,
    /// The nonce of the header that stands while it is put back.
    nonce: Uuid,
}

impl Head {
    fn parse(bytes: &[u8; UNDO_HEAD]) -> std::result::Result<Head, Flaw> {
        if bytes[..8] != UNDO_MAGIC {
            return flaw(
                "first bytes",
                format_args!("{:02x?}", &bytes[..8]),
                "those of an undo file of dirtymap repair",
            );
        }
        let version = u32_at(bytes, head::VERSION);
        if version != UNDO_VERSION {
            return flaw("version", version, UNDO_VERSION);
        }
        let mut copy = *bytes;
        put_u32(&mut copy, head::CRC, 0);
        let (crc, computed) = (u32_at(bytes, head::CRC), crc32(&[&copy]));
        if crc != computed {
            return flaw("checksum of the head", format_args!("{crc:08x}"), format_args!("{computed:08x}"));
        }
        let count = u32_at(bytes, head::HEADER_COUNT) as usize;
        let length = u64_at(bytes, head::LENGTH);
        if count > UNDO_HEADERS || length > MAX_FILE_LENGTH.saturating_mul(2) {
            return flaw("head", format_args!("{count} headers, length {length}"), "what a file can have");
        }
        let uuid = Uuid(array_at(bytes, head::UUID));
        let nonce = Uuid(array_at(bytes, head::NONCE));
        let headers = (0..count).map(|i| u32_at(bytes, head::HEADERS + 4 * i)).collect();
        Ok(Head { uuid, length, records: u64_at(bytes, head::RECORDS), headers, nonce })
    }
}

/// A record of an undo file.
struct Record<'a> {
    range: Range<u64>,
    /// None for zeros.
    bytes: Option<&'a [u8]>,
}

/// Reads all of an undo file, checking it, and calls `f` with every record.
fn read(
    from: &mut (impl Read + Seek),
    mut f: impl FnMut(Record<'_>) -> io::Result<()>,
) -> io::Result<std::result::Result<Head, Flaw>> {
    from.seek(SeekFrom::Start(0))?;
    let mut first = [0; UNDO_HEAD];
    if !fill(from, &mut first)? {
        return Ok(flaw("length", "fewer bytes than a head has", UNDO_HEAD));
    }
    let head = match Head::parse(&first) {
        Ok(head) => head,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let mut bytes = Vec::new();
    for i in 0..head.records {
        let place = format!("record {i}");
        let mut first = [0; UNDO_RECORD];
        if !fill(from, &mut first)? {
            return Ok(flaw(&place, "the end of the file", format_args!("{} records", head.records)));
        }
        let crc = u32_at(&first, record::CRC);
        put_u32(&mut first, record::CRC, 0);
        if crc32(&[&first]) != crc {
            return Ok(flaw(&place, format_args!("checksum {crc:08x}"), format_args!("{:08x}", crc32(&[&first]))));
        }
        let (offset, length) = (u64_at(&first, record::OFFSET), u64_at(&first, record::LENGTH));
        let kind = u32_at(&first, record::KIND);
        let range = offset..offset.saturating_add(length);
        if range.end > head.length || kind == BYTES && length > UNDO_PIECE || ![BYTES, ZEROS].contains(&kind) {
            let expected = format!("a part of {} bytes", head.length);
            return Ok(flaw(&place, format_args!("kind {kind}, {length} bytes at {offset}"), expected));
        }
        if kind == ZEROS {
            f(Record { range, bytes: None })?;
            continue;
        }
        bytes.resize(length as usize, 0);
        if !fill(from, &mut bytes)? || crc32(&[&bytes]) != u32_at(&first, record::DATA_CRC) {
            return Ok(flaw(&place, "bytes that do not match their checksum", "those that were kept"));
        }
        f(Record { range, bytes: Some(&bytes) })?;
    }
    Ok(Ok(head))
}

/// Fills `to`, unless the input ends before.
fn fill(from: &mut impl Read, to: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(to) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// Puts back what the undo file `from` keeps.
pub(crate) fn put_back(disk: &dyn Storage, path: &Path, from: &Path) -> Result<UndoReport> {
    let file = facts::open(from, false);
    let file = file.map_err(|source| Error::Io { op: "open", path: from.to_path_buf(), source })?;
    put_back_from(disk, path, &mut BufReader::with_capacity(1 << 16, file), from)
}

/// Puts back what an undo file keeps; `name` is its name, for errors.
pub(crate) fn put_back_from(
    disk: &dyn Storage,
    path: &Path,
    from: &mut (impl Read + Seek),
    name: &Path,
) -> Result<UndoReport> {
    let reading = |source| Error::Io { op: "read the undo file", path: name.to_path_buf(), source };
    let writing = |source| Error::Io { op: "put back", path: path.to_path_buf(), source };
    // All of it is checked before any of it is used.
    let mut old = vec![0; HEADER_REGION as usize];
    let (mut keeps_headers, mut reach) = (false, 0);
    let checked = read(from, |record| {
        reach = record.range.end.max(reach);
        if let Some(to) = old.get_mut(record.range.start as usize..record.range.end.min(HEADER_REGION) as usize) {
            keeps_headers = true;
            to.copy_from_slice(&record.bytes.map_or(vec![0; to.len()], |b| b[..to.len()].to_vec()));
        }
        Ok(())
    });
    let head = checked.map_err(reading)?.map_err(|(place, found, expected)| Error::Corrupt {
        path: name.to_path_buf(),
        place: format!("undo file, {place}"),
        found,
        expected,
    })?;
    let copies = headers::read_copies(disk);
    let ours = step!(CheckUndoMap => is_as_repair_left_it(&head, &copies));
    ours.map_err(|why| Error::Refused { path: path.to_path_buf(), why })?;

    let before = disk.len().map_err(writing)?;
    // Of what was cut off all is kept. So nobody makes the file longer by a length alone.
    if head.length > before.max(reach) {
        return Err(Error::Corrupt {
            path: name.to_path_buf(),
            place: "undo file, length".into(),
            found: format!("a file of {} bytes, of which none are kept behind byte {reach}", head.length),
            expected: format!("at most {} bytes", before.max(reach)),
        });
    }
    let length = if keeps_headers { head.length.max(HEADER_REGION) } else { head.length };
    disk.extend(length).and_then(|()| synced(disk)).map_err(writing)?;
    if step!(DoubtThenUndo => keeps_headers) {
        doubt_everything(disk, path, &copies, &head)?;
    }
    // Before the pages: a point that was cut off is so again before anything of it is what it was.
    disk.truncate(length).and_then(|()| synced(disk)).map_err(writing)?;
    let mut count = 0;
    let put = read(from, |record| {
        count += record.range.end - record.range.start;
        match record.bytes {
            _ if record.range.start < HEADER_REGION => Ok(()),
            Some(bytes) => disk.write_durable(&[WriteSegment { offset: record.range.start, bytes }]),
            None => clear(disk, record.range),
        }
    });
    // Checked above; who changes it meanwhile is told, and can do it again.
    if put.map_err(writing)?.is_err() {
        return Err(Error::Io { op: "read the undo file again", path: name.to_path_buf(), source: changed() });
    }
    disk.truncate(head.length).and_then(|()| synced(disk)).map_err(writing)?;
    if keeps_headers {
        put_headers_back(disk, &old[..HEADER_REGION.min(head.length) as usize]).map_err(writing)?;
    }
    Ok(UndoReport { bytes: count, length: (before, head.length) })
}

/// Commits to both pairs that every word may be dirty, for as long as the pages are neither what they were nor what they
/// became. Where no header can be read, nothing is clean as it is.
fn doubt_everything(disk: &dyn Storage, path: &Path, copies: &Copies, head: &Head) -> Result<()> {
    let Ok((newest, _)) = headers::choose_also_cut_off(disk, copies, path) else { return Ok(()) };
    let io = |source| Error::Io { op: "put back", path: path.to_path_buf(), source };
    headers::rewrite_in_place(disk, copies, &newest).map_err(io)?;
    let mut header = newest.header;
    header.state = State::Open;
    header.nonce = head.nonce;
    header.runs = all_words(&header.geometry);
    for pair in [1 - newest.pair, newest.pair] {
        header.sequence += 1;
        headers::write_pair(disk, &header, pair).map_err(io)?;
    }
    Ok(())
}

/// Makes the length of the file durable, and what was cleared.
fn synced(disk: &dyn Storage) -> io::Result<()> {
    step!(SyncUndoneLength => disk.sync_all())
}

fn changed() -> io::Error {
    io::Error::other("it changed while it was read")
}

/// Whether putting back loses nothing. Who opens a map for writing replaces all header copies before a bit is set in it: so
/// one that was there before the repair, or that it wrote, says that nobody has. Others may be torn, or mended by that.
fn is_as_repair_left_it(head: &Head, copies: &Copies) -> std::result::Result<(), String> {
    let valid = || copies.iter().flatten();
    if valid().any(|header| header.uuid == head.uuid && is_known(head, header)) {
        return Ok(());
    }
    Err(match valid().find(|header| header.uuid == head.uuid) {
        Some(header) => format!(
            "the map was written since it was repaired (commit {}), and what was set since would be lost; keep it as it is",
            header.sequence
        ),
        None => format!("the undo file is of map {}, and no header copy is; give the undo file of this map", head.uuid),
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
