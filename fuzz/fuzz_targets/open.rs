//! Whole files: a golden file with edits whose checksums are mostly set right, given to everything that takes a path.
//! No panic; what only reads changes no byte, and all of it agrees; opening for writing recovers to the same
//! dirty set that reading says, or fails and leaves the bytes; and what is set then is there after a flush, a
//! close or a drop.
//!
//! The input: a byte for the file, one for what to do with it, a range to set, then edits (see `edit`).
#![no_main]

use dirtymap::format::fields::header as h;
use dirtymap::format::{self, COPIES, COPY_BYTES, FIXED_BYTES, Header, PageBytes, Uuid};
use dirtymap::{Bitmap, DirtyMap, Options, check, inspect};
use libfuzzer_sys::fuzz_target;
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

#[path = "../../tests/golden/xxd.rs"]
mod xxd;
mod bases {
    include!(concat!(env!("OUT_DIR"), "/bases.rs"));
}

/// Maps with more bits than this are not opened: it would only be slow.
const MOST_BITS: u64 = 1 << 17;
const PAGES_AT: usize = 0x1_0000;
const BOTTOM_AT: usize = 0x2_0000;

static BASES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| bases::DUMPS.iter().map(|dump| xxd::undump(dump)).collect());

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (head, rest) = bytes.split_at(bytes.len().min(N));
    *bytes = rest;
    std::array::from_fn(|i| head.get(i).copied().unwrap_or(0))
}

fn number<const N: usize>(bytes: &mut &[u8]) -> u64 {
    let taken: [u8; N] = take(bytes);
    taken.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
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
        // Anything anywhere, the checksums as they are.
        0 => {
            let at = number::<3>(input) as usize % 0x4_0000;
            let bytes: [u8; 4] = take(input);
            write(file, at, &bytes[..usize::from(copies) % 5]);
        }
        // A field of some copies.
        1 | 2 => {
            let [which] = take(input);
            let field = h::ALL[usize::from(which) % h::ALL.len()];
            let [inside] = take(input);
            let at = field.offset + if field.size > 8 { usize::from(inside) * 8 % (field.size - 7) } else { 0 };
            let value: [u8; 8] = take(input);
            each.for_each(|copy| write(file, copy + at, &value[..field.size.min(8)]));
            seal(file, copies);
        }
        // The list of some copies.
        3 => {
            let [count] = take(input);
            let count = usize::from(count) % 5;
            let runs: Vec<u8> =
                (0..count).flat_map(|_| [number::<1>(input), number::<1>(input)]).flat_map(u64::to_le_bytes).collect();
            for copy in each {
                write(file, copy + h::RUNS.offset, &runs);
                write(file, copy + h::RUN_COUNT.offset, &(count as u32).to_le_bytes());
                write(file, copy + h::USED.offset, &((FIXED_BYTES + count * 16) as u32).to_le_bytes());
            }
            seal(file, copies);
        }
        // A word of a page, with or without its entry.
        4 | 5 => {
            let [word] = take(input);
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
        _ => file.resize(number::<3>(input) as usize % 0x9_4000, 0),
    }
}

/// Whether opening it is quick enough to do often.
fn small(file: &[u8]) -> bool {
    (0..COPIES).all(|copy| {
        let bytes = file.get(copy * COPY_BYTES..).unwrap_or_default();
        Header::parse(bytes)
            .map_or(true, |header| header.geometry.bits() <= MOST_BITS && header.file_length() < 1 << 50)
    })
}

/// The dirty bits of a map, in memory.
fn bitmap(map: &DirtyMap) -> Bitmap {
    let mut bits = Bitmap::new(map.len(), map.granularity()).unwrap();
    let mut end = 0;
    for area in map.areas(0..map.len()).unwrap() {
        assert!(area.start < area.end && area.end <= map.len() && (area.start > end || end == 0));
        end = area.end;
        bits.set(area).unwrap();
    }
    // The hash of a map leaves out what an outstanding checkpoint has frozen.
    let copy = map.to_bitmap().unwrap();
    assert_eq!((bits.count(), bits.dirty_len(), bits.sha256()), (map.count(), map.dirty_len(), copy.sha256()));
    bits
}

fn read_only(path: &Path) -> dirtymap::Result<DirtyMap> {
    Options::new().read_only(true).open(path)
}

/// Everything that only reads.
fn reading(path: &Path) -> Option<Bitmap> {
    let (info, report, map) = (inspect(path), check(path, |_, _| {}), read_only(path));
    match (info, report, map) {
        (Ok(info), Ok(report), Ok(map)) => {
            assert_eq!(info.dirty, Some((map.count(), map.dirty_len())));
            assert_eq!(report.info.dirty, info.dirty);
            assert_eq!((report.info.state, report.info.verdict), (info.state, info.verdict));
            assert_eq!(report.info.reasons, info.reasons);
            Some(bitmap(&map))
        }
        (Err(a), Err(b), Err(c)) => {
            assert!(a.kind() == b.kind() && b.kind() == c.kind(), "{a}; {b}; {c}");
            None
        }
        (a, b, c) => panic!("they disagree: {:?}; {:?}; {:?}", a.err(), b.err(), c.err()),
    }
}

fn writing(path: &Path, before: &[u8], mut bits: Bitmap, how: u8, set: Range<u64>) {
    let options = Options::new().flush_interval(None);
    let map = match options.open(path) {
        Ok(map) => map,
        Err(_) => {
            // Missing bytes may be there now, as zeros.
            let after = std::fs::read(path).unwrap();
            assert!(after.starts_with(before) && after[before.len()..].iter().all(|byte| *byte == 0));
            return;
        }
    };
    assert_eq!(bitmap(&map).sha256(), bits.sha256(), "opening for writing found other bits than reading");
    let range = match map.len() {
        0 => 0..0,
        len => set.start % len..(set.start % len).saturating_add(set.end % len).min(len),
    };
    map.set(range.clone()).unwrap();
    bits.set(range.clone()).unwrap();
    assert!(map.all(range.clone()).unwrap());
    if how & 1 == 1 {
        map.flush().unwrap();
    }
    if how & 2 == 2 {
        map.close().unwrap();
        let report = check(path, |_, _| {}).unwrap();
        // Points that are damaged stay so.
        let odd = |f: &dirtymap::Finding| f.severity == dirtymap::Severity::Note || f.place.starts_with("point");
        assert!(report.findings.iter().all(odd), "{:?}", report.findings);
        assert_eq!(bitmap(&read_only(path).unwrap()).sha256(), bits.sha256(), "closed cleanly");
    } else {
        drop(map);
    }
    let map = options.open(path).unwrap();
    for area in &bits {
        assert!(map.all(area).unwrap(), "lost dirt");
    }
    if let Some(outstanding) = map.checkpoint().unwrap() {
        map.abort_checkpoint(outstanding.uuid).unwrap();
    }
    map.reset_all().unwrap();
    map.close().unwrap();
    assert!(read_only(path).unwrap().is_empty());
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = bytes;
    let [base, how] = take(&mut input);
    let set = number::<6>(&mut input)..number::<6>(&mut input);
    let mut file = BASES[usize::from(base) % BASES.len()].clone();
    while !input.is_empty() {
        edit(&mut file, &mut input);
    }
    if !small(&file) {
        return;
    }
    let dir = tempfile::Builder::new().prefix("dirtymap-fuzz").tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let path = dir.as_ref().unwrap().path().join("map");
    std::fs::write(&path, &file).unwrap();
    let bits = reading(&path);
    assert!(std::fs::read(&path).unwrap() == file, "changed by reading");
    match bits {
        Some(bits) => writing(&path, &file, bits, how, set),
        None => {
            assert!(DirtyMap::open(&path).is_err());
            assert!(std::fs::read(&path).unwrap() == file, "changed by an open that failed");
        }
    }
});
