//! A golden file with edits whose checksums are mostly set right: what the targets are given that take a file.
//!
//! The input: a byte for the golden file, by name; then edits (see `edit`).

use super::input::{byte, number, take};
use dirtymap::format::fields::header as h;
use dirtymap::format::{self, COPIES, COPY_BYTES, FIXED_BYTES, Header, MAX_POINTS, PageBytes, Uuid, fields};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

#[path = "../../tests/golden/xxd.rs"]
mod xxd;

/// Maps with more bits than this are not opened: it would only be slow.
const MOST_BITS: u64 = 1 << 17;
const PAGES_AT: usize = 0x4_0000;
const BOTTOM_AT: usize = 0x5_0000;
const SECTOR: usize = 512;

/// The golden files, by name.
static BASES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/files");
    let entries = fs::read_dir(folder).expect("the golden files");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| xxd::undump(&fs::read_to_string(path).expect("a golden file"))).collect()
});

/// One of the golden files.
pub fn base(which: u8) -> Vec<u8> {
    BASES[usize::from(which) % BASES.len()].clone()
}

/// Makes all edits that the input has.
pub fn edited(mut file: Vec<u8>, mut input: &[u8]) -> Vec<u8> {
    while !input.is_empty() {
        edit(&mut file, &mut input);
    }
    file
}

/// What a disk may do to a file, as often as the input says: sectors lost, or those of another place; the end cut off, or
/// something behind it. No byte comes from the input, which could be a checksum that fits.
pub fn damaged(mut file: Vec<u8>, mut input: &[u8]) -> Vec<u8> {
    while !input.is_empty() {
        match byte(&mut input) % 4 {
            0 => resize(&mut file, &mut input),
            kind => move_sectors(&mut file, &mut input, kind == 1),
        }
    }
    file
}

fn resize(file: &mut Vec<u8>, input: &mut &[u8]) {
    file.resize(number::<3>(input) as usize % 0xc_4000, 0);
}

fn move_sectors(file: &mut Vec<u8>, input: &mut &[u8], lost: bool) {
    let [from, to, count] = take(input).map(|at: u8| usize::from(at) * SECTOR);
    let count = count % (16 * SECTOR) + SECTOR;
    let moved = if lost { vec![0; count] } else { read(file, place(from), count) };
    write(file, place(to), &moved);
}

/// Places of sectors: of headers, entries and pages, and few others.
fn place(at: usize) -> usize {
    match at {
        // The first 8 KiB of each copy, which is more than they use.
        ..0x8000 => at / 0x2000 * COPY_BYTES + at % 0x2000,
        0x8000..0xa000 => at - 0x8000 + PAGES_AT,
        _ => at - 0xa000 + BOTTOM_AT,
    }
}

fn read(file: &[u8], at: usize, count: usize) -> Vec<u8> {
    (at..at + count).map(|at| file.get(at).copied().unwrap_or(0)).collect()
}

fn write(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    file.resize(file.len().max(at + bytes.len()), 0);
    file[at..][..bytes.len()].copy_from_slice(bytes);
}

/// Sets the checksums of some copies right, as far as `used` says of what.
fn seal(file: &mut Vec<u8>, copies: u8) {
    file.resize(file.len().max(COPIES * COPY_BYTES), 0);
    for copy in (0..COPIES).filter(|copy| copies >> copy & 1 == 1) {
        let bytes = &mut file[copy * COPY_BYTES..][..COPY_BYTES];
        let used = u32::from_le_bytes(bytes[h::USED.offset..h::USED.end()].try_into().unwrap()) as usize;
        if (FIXED_BYTES..=COPY_BYTES).contains(&used) {
            bytes[h::CRC.offset..h::CRC.end()].fill(0);
            let crc = crc32fast::hash(&bytes[..used]);
            bytes[h::CRC.offset..h::CRC.end()].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

fn edit(file: &mut Vec<u8>, input: &mut &[u8]) {
    let [op, copies] = take(input);
    let each = (0..COPIES).filter(|copy| copies >> copy & 1 == 1).map(|copy| copy * COPY_BYTES);
    match op % 8 {
        // Sectors of zeros, as a disk gives them back that has lost them; or those of another place.
        0 | 7 if op & 8 != 0 => move_sectors(file, input, op % 8 == 0),
        // Anything anywhere, the checksums as they are.
        0 => {
            let at = number::<3>(input) as usize % 0x7_0000;
            let bytes: [u8; 4] = take(input);
            write(file, at, &bytes[..usize::from(copies) % 5]);
        }
        // A field of some copies.
        1 | 2 => {
            let field = h::ALL[usize::from(byte(input)) % h::ALL.len()];
            let inside = byte(input);
            let at = field.offset + if field.size > 8 { usize::from(inside) * 8 % (field.size - 7) } else { 0 };
            let value: [u8; 8] = take(input);
            each.for_each(|copy| write(file, copy + at, &value[..field.size.min(8)]));
            seal(file, copies);
        }
        // The list of some copies.
        3 => {
            let [runs, length] = take(input).map(|n| n % 9);
            let list = &take::<8>(input)[..usize::from(length)];
            for copy in each {
                let points = file.get(copy + h::POINT_COUNT.offset).map_or(0, |n| usize::from(*n) % (MAX_POINTS + 1));
                let at = fields::point_at(points);
                write(file, copy + at, list);
                write(file, copy + h::RUN_COUNT.offset, &u32::from(runs).to_le_bytes());
                write(file, copy + h::USED.offset, &((at + list.len()) as u32).to_le_bytes());
            }
            seal(file, copies);
        }
        // A word of a page, with or without its entry.
        4 | 5 => {
            let word = byte(input);
            let page = usize::from(word) / 64;
            write(file, BOTTOM_AT + usize::from(word) * 8, &take::<8>(input));
            if op % 8 == 4 {
                file.resize(file.len().max(BOTTOM_AT + (page + 1) * 512), 0);
                let bytes: PageBytes = file[BOTTOM_AT + page * 512..][..512].try_into().unwrap();
                let uuid = Uuid(file[h::UUID.offset..h::UUID.end()].try_into().unwrap());
                write(file, PAGES_AT + page * 4, &format::page_entry(&uuid, page as u64, &bytes).to_le_bytes());
            }
        }
        // One copy over another, some commits older or newer.
        6 => {
            let [from, delta] = take(input);
            file.resize(file.len().max(COPIES * COPY_BYTES), 0);
            let source = usize::from(from) % COPIES * COPY_BYTES;
            let mut copy = file[source..][..COPY_BYTES].to_vec();
            let at = h::SEQUENCE.offset..h::SEQUENCE.end();
            let sequence = u64::from_le_bytes(copy[at.clone()].try_into().unwrap());
            copy[at].copy_from_slice(&sequence.wrapping_add_signed((delta as i8).into()).to_le_bytes());
            each.for_each(|to| write(file, to, &copy));
            seal(file, copies);
        }
        // Longer or shorter.
        _ => resize(file, input),
    }
}

/// Whether opening it is quick enough to do often.
pub fn small(file: &[u8]) -> bool {
    (0..COPIES).all(|copy| {
        let bytes = file.get(copy * COPY_BYTES..).unwrap_or_default();
        Header::parse(bytes)
            .map_or(true, |header| header.geometry.bits() <= MOST_BITS && header.file_length() < 1 << 50)
    })
}
