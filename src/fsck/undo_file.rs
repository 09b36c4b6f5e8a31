//! The undo file: what a repair is about to change, as it was. In FORMAT.md, "Undo file".
//!
//! Invariant kept here: nothing of an undo file is handed out that does not match its checksum.

use super::plan::Kept;
use crate::file::headers;
use crate::format::codec::{array_at, crc32, put, put_u32, put_u64, u32_at, u64_at};
use crate::format::{MAX_FILE_LENGTH, Uuid};
use crate::sys::{Storage, os};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;

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
                // What the device does not give back, nobody can put back either.
                headers::read_or_zeros(disk, &mut bytes, at);
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
    put(&mut first, head::NONCE, &os::random::<16>()?);
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
pub(super) type Flaw = (String, String, String);

fn flaw<T>(place: &str, found: impl ToString, expected: impl ToString) -> std::result::Result<T, Flaw> {
    Err((place.into(), found.to_string(), expected.to_string()))
}

/// The head of an undo file.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) uuid: Uuid,
    pub(super) length: u64,
    pub(super) records: u64,
    pub(super) headers: Vec<u32>,
    /// The nonce of the header that stands while it is put back.
    pub(super) nonce: Uuid,
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
pub(super) struct Record<'a> {
    pub(super) range: Range<u64>,
    /// None for zeros.
    pub(super) bytes: Option<&'a [u8]>,
}

/// Reads all of an undo file, checking it, and calls `f` with every record.
pub(super) fn read(
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
