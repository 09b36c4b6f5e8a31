//! Two readings of FORMAT.md: the library and `tools/read_dirtymap.py` are given some thousand files, as closing and
//! crashing leave them, and with whatever edits, and say the same of each: what is dirty, or why nobody can tell.

use dirtymap::format::fields::{Field, header as h, point as p, point_at, stamp as s};
use dirtymap::format::{
    self, CheckpointState, Header, HeaderProblem, Intent, Point, PointRole, ProblemClass, Reasons, Reserved, Stamp,
    StampKind, Uuid, WordRanges,
};
use dirtymap::{
    Bitmap, DirtyMap, Durability, Geometry, ImageStamp, Options,
    fsck::check,
    info::{FileState, Recovery, inspect},
};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "common/numbers.rs"]
mod numbers;
#[path = "golden/script.rs"]
mod script;
use numbers::Numbers;

const COPY: usize = format::COPY_BYTES;
/// More runs of the generator, with other numbers.
const SEEDS: &str = "DIRTYMAP_READER_SEEDS";

impl Numbers {
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Small and large numbers alike, below `end`.
    fn any_size(&mut self, end: u64) -> u64 {
        let bits = self.below(u64::from(end.ilog2()) + 1);
        self.below(end.min(2 << bits))
    }

    /// Some of the header copies: often all, or one.
    fn copies(&mut self) -> Vec<usize> {
        let mask = self.of(&[15, 15, 15, 15, 1, 2, 4, 8, 5, 10, 3, 7, 14]);
        (0..format::COPIES).filter(|copy| mask >> copy & 1 == 1).collect()
    }
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

/// A file in memory: its first bytes, and how long it is. The volatile region means nothing and is not kept.
#[derive(Clone)]
struct Image {
    bytes: Vec<u8>,
    length: u64,
    /// The header that it had when it was made.
    header: Header,
}

impl Image {
    fn of_file(path: &Path) -> Image {
        let mut bytes = fs::read(path).unwrap();
        let length = bytes.len() as u64;
        let copies: [_; format::COPIES] = std::array::from_fn(|copy| Header::parse(&bytes[copy * COPY..]));
        let header = format::select(&copies).unwrap().header.clone();
        let volatile = header.layout.volatile.start as usize..(header.layout.volatile.end as usize).min(bytes.len());
        bytes[volatile].fill(0);
        let bottoms = header.points.iter().map(|point| point.bottom(&header.geometry).end);
        bytes.truncate(bottoms.fold(header.layout.bottom.end, u64::max) as usize);
        Image { bytes, length, header }
    }

    /// Writes the file, with holes where there is nothing.
    fn write(&self, path: &Path) {
        let file = File::create(path).unwrap();
        for (i, block) in self.bytes.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|&b| b != 0)) {
            file.write_all_at(block, i as u64 * 4096).unwrap();
        }
        file.set_len(self.length).unwrap();
    }

    fn place(&mut self, at: usize, length: usize) -> &mut [u8] {
        self.bytes.resize(self.bytes.len().max(at + length), 0);
        self.length = self.length.max((at + length) as u64);
        &mut self.bytes[at..at + length]
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.place(at, bytes.len()).copy_from_slice(bytes);
    }

    /// Changes a copy and sets its checksum right, also for a `used` that cannot be.
    fn patch(&mut self, copy: usize, edit: impl FnOnce(&mut [u8])) {
        let bytes = self.place(copy * COPY, COPY);
        edit(bytes);
        let used = u32::from_le_bytes(word(bytes, h::USED.offset)) as usize;
        bytes[h::CRC.offset..h::CRC.end()].fill(0);
        let crc = crc32fast::hash(&bytes[..used.clamp(h::CRC.end(), COPY)]);
        bytes[h::CRC.offset..h::CRC.end()].copy_from_slice(&crc.to_le_bytes());
    }

    fn table(&self) -> usize {
        self.header.layout.table.start as usize
    }

    fn bottom(&self) -> usize {
        self.header.layout.bottom.start as usize
    }

    fn pages(&self) -> usize {
        self.header.geometry.pages() as usize
    }

    /// The map's part of the file, or that of a point: whose entries these are, where they are, and where the pages are.
    fn part(&self, rng: &mut Numbers) -> (Uuid, usize, usize) {
        let point = self.header.points.get(rng.below(3 * self.header.points.len() as u64) as usize);
        point.map_or((self.header.uuid, self.table(), self.bottom()), |point| {
            (point.uuid, point.table_offset as usize, point.bottom_offset as usize)
        })
    }

    fn entry_of(&mut self, uuid: Uuid, page: usize, table: usize, bottom: usize) {
        let entry = format::page_entry(&uuid, page as u64, &word(self.place(bottom + 512 * page, 512), 0));
        self.put(table + 4 * page, &entry.to_le_bytes());
    }

    fn mutate(&mut self, rng: &mut Numbers, others: &[Image]) {
        let ((uuid, table, bottom), pages) = (self.part(rng), self.pages());
        let page = rng.below(pages as u64) as usize;
        let copy = rng.below(4) as usize;
        let flip = 1u8 << rng.below(8);
        let inside = rng.of(&[1024, 2048, 2400, 4200, format::MAX_USED]);
        let inside = rng.below(inside as u64) as usize;
        match rng.below(24) {
            0 => self.place(copy * COPY + inside, 1)[0] ^= flip,
            1 => self.place(table + 4 * page + rng.below(4) as usize, 1)[0] ^= flip,
            2 => self.place(bottom + 512 * page + rng.below(512) as usize, 1)[0] ^= flip,
            3 => self.place(copy * COPY + rng.below(16) as usize * 512, 512).fill(0),
            4 => {
                let end = rng.of(&[1, 4, 32]);
                (0..end).for_each(|sector| self.place(copy * COPY + sector * 512, 512).fill(0));
            }
            // A page and its entry, lost together.
            5 => {
                self.place(table + 4 * page, 4).fill(0);
                self.place(bottom + 512 * page, 512).fill(0);
            }
            6 => self.place(table + 4 * page, 4).fill(0),
            7 => {
                let end = rng.of(&[0x4_0000, table + 4 * pages, table + 4 * pages, bottom + 512 * pages, 0xc_0000]);
                self.length = (end as u64 + rng.below(16)).saturating_sub(rng.any_size(0x5_0000));
                self.bytes.truncate(self.length as usize);
            }
            8 | 9 => {
                let other = rng.below(pages as u64) as usize;
                let one: [u8; 512] = word(self.place(bottom + 512 * page, 512), 0);
                let two: [u8; 512] = word(self.place(bottom + 512 * other, 512), 0);
                self.put(bottom + 512 * page, &two);
                self.put(bottom + 512 * other, &one);
                if flip > 8 {
                    let one: [u8; 4] = word(self.place(table + 4 * page, 4), 0);
                    let two: [u8; 4] = word(self.place(table + 4 * other, 4), 0);
                    self.put(table + 4 * page, &two);
                    self.put(table + 4 * other, &one);
                }
            }
            10 => {
                let from: [u8; COPY] = word(self.place(copy * COPY, COPY), 0);
                rng.copies().into_iter().for_each(|to| self.put(to * COPY, &from));
            }
            // Copies of another map, or of this one at another time.
            11 | 12 => {
                let other = &others[rng.below(others.len() as u64) as usize];
                for to in rng.copies() {
                    let from: [u8; COPY] = word(&other.bytes, rng.of(&[to, copy]) * COPY);
                    self.put(to * COPY, &from);
                }
            }
            13..=15 => self.edit_field(rng),
            16 => self.edit_regions(rng),
            17 | 18 => self.edit_list(rng),
            // Bits with an entry that matches, some of them stray.
            19 => {
                for _ in 0..=rng.below(4) {
                    self.place(bottom + 512 * page + rng.any_size(512) as usize, 1)[0] |= flip;
                }
                self.entry_of(uuid, page, table, bottom);
            }
            // The first stray bit there is, and no other.
            23 => {
                let bits = self.header.geometry.bits() as usize;
                if !bits.is_multiple_of(4096) {
                    self.place(bottom + bits / 8, 1)[0] |= 1 << (bits % 8);
                    self.entry_of(uuid, bits / 4096, table, bottom);
                }
            }
            20 => {
                let delta = rng.of(&[0, 1, 2, u64::MAX, 1 << 61, 1 << 62]);
                rng.copies().into_iter().for_each(|copy| self.patch(copy, |b| add_to(b, h::SEQUENCE, delta)));
            }
            21 => {
                let field = rng.of(&[h::FORMAT_VERSION, h::INCOMPATIBLE, h::RO_COMPATIBLE]);
                let delta = rng.of(&[0, 0, 1, u64::MAX]);
                let sealed = !rng.one_in(3);
                for copy in rng.copies() {
                    self.patch(copy, |b| {
                        put(b, field, 2);
                        add_to(b, h::SEQUENCE, delta);
                    });
                    if !sealed {
                        self.place(copy * COPY + inside, 1)[0] ^= flip;
                    }
                }
            }
            _ => {
                // A name or label that is no UTF-8, or longer than its length.
                let (at, size) = rng.of(&[(h::LABEL.offset, 252), (point_at(0) + p::NAME.offset, 64)]);
                let at = at + rng.any_size(size) as usize;
                let byte = rng.of(&[0, b'a', 0x80, 0xc3, 0xff]);
                rng.copies().into_iter().for_each(|copy| self.patch(copy, |b| b[at] = byte));
            }
        }
    }

    /// Another value in a field of some copies.
    fn edit_field(&mut self, rng: &mut Numbers) {
        // Points and the list are fields here, as many as there are at most in these files.
        let more = [("points", point_at(0), 3 * p::SIZE), ("list", point_at(3), 8)];
        let more = more.map(|(name, offset, size)| Field { name, offset, size });
        let field = rng.of(&[h::ALL, &more].concat());
        let (at, size) = match field.size {
            4 | 8 => (field.offset, field.size),
            // The first of a table more often than the others.
            _ => (field.offset + rng.any_size(field.size as u64 / 4) as usize * 4, rng.of(&[4, 8])),
        };
        let old = u64::from_le_bytes(word(self.place(rng.below(4) as usize * COPY + at.min(COPY - 8), 8), 0));
        let edges = [0, 1, 2, 3, 4, 6, 7, 63, 64, 65, 252, 253, 47_104, 47_105, 999_999_999, 1_000_000_000, 1 << 31];
        let wide = [1 << 61, (1 << 61) + 1, 1 << 62, (1 << 62) + 1, 1 << 63, (1 << 63) - 1, u64::MAX];
        let near = [old.wrapping_add(1), old.wrapping_sub(1), old.wrapping_add(65536), old.wrapping_sub(65536)];
        let value = match rng.below(8) {
            0..=3 => rng.of(&edges),
            4 => rng.of(&wide),
            5 | 6 => rng.of(&near),
            _ => old ^ 1 << rng.below(size as u64 * 8),
        };
        let end = (at + size).min(COPY);
        for copy in rng.copies() {
            self.patch(copy, |b| b[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]));
        }
    }

    /// A region somewhere else, with a `file_length` that mostly fits.
    fn edit_regions(&mut self, rng: &mut Numbers) {
        let point = |field: Field| Field { offset: point_at(0) + field.offset, ..field };
        let offsets = [h::TABLE_OFFSET, h::BOTTOM_OFFSET, h::VOLATILE_OFFSET, h::VOLATILE_OFFSET];
        let of_point = [point(p::TABLE_OFFSET), point(p::BOTTOM_OFFSET)];
        let region = if rng.one_in(4) { rng.of(&of_point) } else { rng.of(&offsets) };
        let (near, far) = (rng.below(18) << 16, (1 << 61) - (rng.below(10) << 16));
        let at = rng.of(&[near, near, far, 0x6_8000]);
        let layout = if rng.one_in(3) { Some((rng.below(3), rng.below(3) << rng.of(&[16, 15]))) } else { None };
        let fits = !rng.one_in(5);
        for copy in rng.copies() {
            self.patch(copy, |b| {
                put(b, region, at);
                if let Some((layout, length)) = layout {
                    put(b, h::VOLATILE_LAYOUT, layout);
                    put(b, h::VOLATILE_LENGTH, length);
                }
                let regions = [
                    (h::TABLE_OFFSET, h::TABLE_LENGTH),
                    (h::BOTTOM_OFFSET, h::BOTTOM_LENGTH),
                    (h::VOLATILE_OFFSET, h::VOLATILE_LENGTH),
                ];
                let mut ends: Vec<u64> = regions.iter().map(|r| get(b, r.0).wrapping_add(get(b, r.1))).collect();
                for i in 0..get(b, h::POINT_COUNT).min(64) as usize {
                    for (offset, length) in [(p::TABLE_OFFSET, h::TABLE_LENGTH), (p::BOTTOM_OFFSET, h::BOTTOM_LENGTH)] {
                        let offset = Field { offset: point_at(i) + offset.offset, ..offset };
                        ends.push(get(b, offset).wrapping_add(get(b, length)));
                    }
                }
                if fits {
                    put(b, h::FILE_LENGTH, ends.into_iter().max().unwrap());
                }
            });
        }
    }

    /// Another list in some copies: mostly one that can be.
    fn edit_list(&mut self, rng: &mut Numbers) {
        let words = self.header.geometry.words();
        let count = rng.of(&[0, 1, 1, 2, 3, 8, 768]);
        let (mut at, mut runs, mut list) = (0, 0, Vec::new());
        for _ in 0..count {
            let gap = rng.any_size((words / 4).max(1));
            let length = 1 + rng.any_size((words / 4).max(1));
            if at + gap + length > words && !rng.one_in(10) {
                break;
            }
            list.extend(leb128(2 * gap + u64::from(length > 1), rng.one_in(60)));
            if length > 1 {
                list.extend(leb128(length - 2, rng.one_in(60)));
            }
            runs += 1;
            at += gap + length + 1;
        }
        if rng.one_in(20) {
            list.truncate(list.len().saturating_sub(1));
        }
        let open = rng.one_in(2);
        let label = rng.one_in(4);
        for copy in rng.copies() {
            self.patch(copy, |b| {
                put(b, h::RUN_COUNT, runs);
                let at = point_at(get(b, h::POINT_COUNT).min(64) as usize);
                put(b, h::USED, (at + list.len()) as u64);
                b[at..at + list.len()].copy_from_slice(&list);
                if open {
                    put(b, h::STATE, 2);
                    b[h::NONCE.offset] |= 1;
                }
                if label {
                    put(b, h::DIRT_TIME, 7);
                }
            });
        }
    }

    /// Points, with what is dirty in them; the last one may be outstanding. Some of their pages do not match.
    fn add_points(&mut self, rng: &mut Numbers) -> Vec<Added> {
        let geometry = self.header.geometry;
        let mut header = self.header.clone();
        let mut end = header.file_length();
        // In place of those that it has.
        header.points.clear();
        header.intent = None;
        let mut added = Vec::new();
        let count = 1 + rng.below(3);
        let state = rng.of(&[CheckpointState::Normal, CheckpointState::Freezing, CheckpointState::Frozen]);
        let state = if rng.one_in(6) { CheckpointState::Aborting } else { state };
        for i in 0..count {
            let uuid = Uuid([i as u8 + 1; 16]);
            let outstanding = i + 1 == count && state != CheckpointState::Normal;
            // Nothing was written after some were frozen, and some were damaged: they have no regions.
            let everything = rng.one_in(12);
            let empty = everything || !outstanding && rng.one_in(4);
            let (table_offset, bottom_offset) =
                if empty { (0, 0) } else { (end, end + format::table_length(&geometry)) };
            end = end.max(bottom_offset + if empty { 0 } else { format::bottom_length(&geometry) });
            let mut bits = Bitmap::new(geometry.bits(), 0).unwrap();
            for _ in 0..if empty { 0 } else { rng.below(6) } {
                let start = rng.any_size(geometry.bits() + 1);
                bits.set(start..(start + rng.any_size(500)).min(geometry.bits()).max(start)).unwrap();
            }
            for (index, word) in bits.words(0..bits.len()).unwrap() {
                self.put(bottom_offset as usize + index as usize * 8, &word.to_le_bytes());
            }
            if !empty {
                self.place(table_offset as usize, 4 * self.pages());
                for page in 0..self.pages() {
                    self.entry_of(uuid, page, table_offset as usize, bottom_offset as usize);
                }
            }
            let failed = !empty && rng.one_in(6);
            if failed {
                let page = rng.below(geometry.pages());
                self.place(bottom_offset as usize + page as usize * 512 + rng.below(512) as usize, 1)[0] ^= 8;
            }
            let name = if outstanding && rng.one_in(2) { String::new() } else { format!("p{i}") };
            let role = if outstanding { PointRole::Outstanding } else { PointRole::Kept };
            let reserved = Reserved::default();
            // What was counted, less or more than is there; it may have been lost.
            let set = bits.count();
            let more = !empty && rng.one_in(8);
            let granules = match everything {
                true => geometry.bits(),
                false if more => set + 1 + rng.any_size(9000),
                false => rng.of(&[set, set, set / 2, 0]),
            };
            let (time, reasons, target) = (5, Reasons::NONE, None);
            header.points.push(Point {
                uuid,
                time,
                role,
                name,
                table_offset,
                bottom_offset,
                granules,
                reasons,
                target,
                reserved,
            });
            header.checkpoint_uuid = if outstanding { uuid } else { Uuid::NIL };
            added.push(Added { bits, failed });
        }
        for (point, added) in header.points.iter().zip(&mut added) {
            added.failed |= point.granules > added.bits.count();
        }
        header.checkpoint_state = state;
        let intent = header.points.iter().rposition(Point::has_regions).filter(|_| rng.one_in(2));
        if let Some(i) = intent.filter(|_| header.durability == Durability::PowerLoss) {
            let point = &mut header.points[i];
            header.intent = Some(Intent { point: point.uuid, unit: rng.below(7) as u32 });
            // Behind all that are kept it may be nothing else.
            let behind = i + 1 + usize::from(state != CheckpointState::Normal) == count as usize;
            if behind && point.role == PointRole::Kept && rng.one_in(2) {
                (point.role, point.name) = (PointRole::Intent, String::new());
            }
        }
        let bytes = header.encode().unwrap();
        for copy in 0..format::COPIES {
            self.place(copy * COPY, COPY).fill(0);
            self.put(copy * COPY, &bytes);
        }
        self.length = end;
        self.header = header;
        added
    }
}

/// What is in a point of a file.
struct Added {
    bits: Bitmap,
    failed: bool,
}

fn get(copy: &[u8], field: Field) -> u64 {
    copy[field.offset..field.end()].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn put(copy: &mut [u8], field: Field, value: u64) {
    copy[field.offset..field.end()].copy_from_slice(&value.to_le_bytes()[..field.size]);
}

fn add_to(copy: &mut [u8], field: Field, delta: u64) {
    put(copy, field, get(copy, field).wrapping_add(delta));
}

fn quiet() -> Options {
    Options::new().flush_interval(None)
}

/// Some operations on a map, with copies of its file in between.
fn work(map: &DirtyMap, path: &Path, rng: &mut Numbers, images: &mut Vec<Image>) {
    for _ in 0..rng.below(30) {
        let start = rng.any_size(map.len() + 1).min(map.len());
        let length = rng.any_size(map.len() + 1);
        let range = start..start.saturating_add(length).min(map.len());
        match rng.below(11) {
            0..=4 => _ = map.set(range).unwrap(),
            5 | 6 => _ = map.reset_within(range).unwrap(),
            7 => map.flush().unwrap(),
            8 | 9 => checkpoint(map, rng),
            _ if rng.one_in(3) => images.push(Image::of_file(path)),
            _ => {}
        }
    }
}

/// Freezes, or ends what was frozen.
fn checkpoint(map: &DirtyMap, rng: &mut Numbers) {
    match map.checkpoint().unwrap() {
        None => {
            let name = rng.of(&[None, Some("p0"), Some("p1"), Some("p2")]);
            let taken = map.points().unwrap().iter().any(|point| Some(&*point.name) == name);
            assert_eq!(map.freeze(name).is_err(), taken);
        }
        Some(c) if rng.one_in(4) => map.abort_checkpoint(c.uuid).unwrap(),
        Some(c) => map.commit_checkpoint(c.uuid, c.name.is_some() && !rng.one_in(4)).unwrap(),
    }
}

/// A map of any shape, and its file at several times: in use, closed, left behind by a crash.
fn images(dir: &Path, number: u64, rng: &mut Numbers) -> Vec<Image> {
    let path = dir.join(format!("base-{number}"));
    let granularity = rng.of(&[0, 1, 9, 12, 16, 16, 57, 58, 63]);
    let bits = rng.of(&[0, 1, 2, 63, 64, 65, 4095, 4096, 4097, 8192, 600_000, 0, 0, 0, 0, 0]);
    let bits = if bits == 0 && number > 0 { 1 + rng.any_size(40_000) } else { bits };
    let bits = bits.min(1 << (63 - granularity));
    // The last granule is whole or partial.
    let len = match (bits, rng.below(3)) {
        (0, _) => 0,
        (_, 0) => ((bits - 1) << granularity) + 1,
        (_, 1) => ((bits - 1) << granularity) + (1u64 << granularity).min(1 << 62),
        _ => ((bits - 1) << granularity) + 1 + rng.below(1 << granularity),
    };
    let durability = if rng.one_in(6) { Durability::Process } else { Durability::PowerLoss };
    let label = "é".repeat(rng.of(&[0, 1, 126]));
    let mut options = quiet().granularity(granularity).durability(durability).dirty(rng.one_in(6)).label(label);
    options = options.armed_bound(rng.of(&[0, 1 << 20, 1 << 30, u64::MAX]));
    if rng.one_in(3) {
        options = options.image(ImageStamp::of_path(&dir.join("image")).unwrap());
    }
    let len = len.min(dirtymap::MAX_LEN);
    let mut map = options.create(&path, len).unwrap_or_else(|e| panic!("{len} {granularity}: {e}"));
    let mut images = Vec::new();
    for _ in 0..=rng.below(2) {
        work(&map, &path, rng, &mut images);
        if rng.one_in(2) {
            map.close().unwrap();
        } else {
            drop(map);
        }
        images.push(Image::of_file(&path));
        map = quiet().open(&path).unwrap();
    }
    drop(map);
    images
}

fn class(copy: &Result<Header, HeaderProblem>) -> &'static str {
    match copy.as_ref().map_err(|problem| problem.class) {
        Ok(_) => "valid",
        Err(ProblemClass::Blank) => "blank",
        Err(ProblemClass::NotDirtymap) => "not-a-dirtymap",
        Err(ProblemClass::Checksum) => "checksum",
        Err(ProblemClass::Version) => "newer-version",
        Err(ProblemClass::Feature) => "newer-feature",
        Err(ProblemClass::Invalid) => "impossible",
    }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// What the library says of a file: the script's keys and values.
fn library(path: &Path) -> BTreeMap<&'static str, String> {
    let mut bytes = Vec::new();
    File::open(path).unwrap().take(format::HEADER_REGION).read_to_end(&mut bytes).unwrap();
    let copies = std::array::from_fn(|copy| Header::parse(bytes.get(copy * COPY..).unwrap_or_default()));
    let mut said = BTreeMap::from([("copies", list(copies.iter().map(|copy| quoted(class(copy)))))]);
    let (info, report) = (inspect(path), check(path, |_, _| {}));
    let map = match quiet().read_only(true).open(path) {
        Ok(map) => map,
        Err(error) => {
            assert_eq!(info.unwrap_err().kind(), error.kind(), "{error}");
            assert_eq!(report.unwrap_err().kind(), error.kind(), "{error}");
            said.insert("error", quoted(error.kind()));
            return said;
        }
    };
    let (info, report) = (info.unwrap(), report.unwrap());
    assert_eq!(info.dirty, Some((map.count(), map.dirty_len())));
    assert_eq!(report.info.dirty, info.dirty);
    assert_eq!((&report.info.recovery, map.recovery()), (&info.recovery, &info.recovery));
    let choice = format::select(&copies).unwrap();
    let Recovery { interrupted_pages, damaged_pages, lost_granules, lost_commit, .. } = info.recovery;
    let unclean = info.state == FileState::Unclean || !choice.armed.is_empty();
    let damaged = damaged_pages > 0 || lost_granules.is_some() || lost_commit;
    let exit = if damaged {
        4
    } else if unclean {
        2
    } else {
        0
    };
    said.extend([
        ("areas", script::areas(map.extents(0..map.len()).unwrap())),
        (
            "sha256",
            quoted(&map.to_bitmap().unwrap().sha256().iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        ),
        ("state", quoted(if info.state == FileState::Clean { "clean" } else { "open" })),
        ("len", map.len().to_string()),
        ("granularity", map.granularity().to_string()),
        ("bits", map.geometry().bits().to_string()),
        ("uuid", quoted(&info.uuid.to_string())),
        ("sequence", info.sequence.to_string()),
        ("header_copy", choice.copy.to_string()),
        ("list", list(choice.armed.iter().map(|run| format!("[{}, {}]", run.first, run.count)))),
        ("checkpoint", quoted(info.checkpoint.as_ref().map_or("normal", |c| c.state.name()))),
        ("read_only", choice.header.writable().is_err().to_string()),
        ("interrupted", interrupted_pages.to_string()),
        ("damaged", damaged_pages.to_string()),
        ("lost", lost_granules.is_some().to_string()),
        ("exit", exit.to_string()),
    ]);
    said
}

/// What the script said, as far as it says it in other words.
fn in_these_words(line: &str, key: &str) -> String {
    let number = |key| script::value(line, key).parse::<u64>().unwrap_or(u64::MAX / 2);
    match key {
        "interrupted" => (number("failed_pages") - number("damaged_pages")).to_string(),
        "damaged" => (number("damaged_pages") + number("point_failed_pages")).to_string(),
        "lost" => script::value(line, "assumed").contains("fewer dirty bits").to_string(),
        _ => script::value(line, key).to_string(),
    }
}

/// Whether both say the same of these files; returns what was said, for a look at what the files were.
#[track_caller]
fn agree(files: &[PathBuf]) -> Vec<String> {
    let Some(said) = script::ask(files, &["--hash"]) else { return Vec::new() };
    for (path, line) in files.iter().zip(&said) {
        let library = library(path);
        let differs = |(key, value): &(&&str, &String)| in_these_words(line, key) != **value;
        let differences: Vec<String> = library
            .iter()
            .filter(differs)
            .map(|(key, value)| {
                format!("{key}: the script {:.300}, the library {value:.300}", in_these_words(line, key))
            })
            .collect();
        if !differences.is_empty() {
            let kept = std::env::temp_dir().join("dirtymap-reader-disagree");
            fs::copy(path, &kept).unwrap();
            panic!("{}, kept as {}: {}\n{line:.3000}", path.display(), kept.display(), differences.join("\n"));
        }
    }
    said
}

/// What the library says of points, as the script says it.
fn in_words(said: dirtymap::Result<Bitmap>) -> (&'static str, String) {
    match said {
        Ok(bits) => ("areas", script::areas(bits.extents(0..bits.len()).unwrap())),
        // Outstanding by that name is not kept.
        Err(error) => ("error", quoted(if error.kind() == "no-point" { "no-such-point" } else { error.kind() })),
    }
}

/// Whether both say the same of what is dirty since a point and before it, of those files that have it; returns how many that were.
fn agree_since(files: &[PathBuf], said: &[String]) -> u64 {
    const NAME: &str = "p1";
    let has = |line: &&String| script::value(line, "points").contains(&quoted(NAME));
    let with: Vec<PathBuf> =
        files.iter().zip(said).filter(|(_, line)| has(line)).map(|(file, _)| file.clone()).collect();
    let Some(between) = script::ask(&with, &["--from", "p0", "--to", NAME]) else { return 0 };
    for (path, line) in with.iter().zip(&between) {
        let (key, value) = in_words(quiet().read_only(true).open(path).and_then(|map| map.between("p0", NAME)));
        assert_eq!(script::value(line, key), value, "{}: between p0 and {NAME}", path.display());
    }
    let Some(said) = script::ask(&with, &["--since", NAME]) else { return 0 };
    let mut kept = 0;
    for (path, line) in with.iter().zip(&said) {
        let (key, value) = in_words(quiet().read_only(true).open(path).and_then(|map| map.since(NAME)));
        assert_eq!(script::value(line, key), value, "{}: since {NAME}", path.display());
        kept += u64::from(key == "areas");
    }
    kept
}

fn directory() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("dirtymap-reader").tempdir().unwrap();
    fs::write(dir.path().join("image"), b"an image").unwrap();
    dir
}

#[test]
fn both_say_the_same_of_any_file() {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let seeds = std::env::var(SEEDS).map_or(1, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let dir = directory();
        let mut rng = Numbers(seed);
        let mut bases: Vec<Image> = Vec::new();
        for number in 0..30 {
            let made = images(dir.path(), number, &mut rng);
            bases.extend(made);
        }
        for i in 0..bases.len() {
            if rng.one_in(2) {
                let mut with_points = bases[i].clone();
                with_points.add_points(&mut rng);
                bases.push(with_points);
            }
        }
        let mut files = Vec::new();
        let mut write = |image: &Image| {
            let path = dir.path().join(format!("seed-{seed}-file-{}", files.len()));
            image.write(&path);
            files.push(path);
        };
        bases.iter().for_each(&mut write);
        for _ in 0..1500 {
            let mut image = bases[rng.below(bases.len() as u64) as usize].clone();
            for _ in 0..1 + rng.below(3) {
                image.mutate(&mut rng, &bases);
            }
            write(&image);
        }
        let lines = agree(&files);
        *seen.entry("since".into()).or_default() += agree_since(&files, &lines);
        for line in lines {
            let intent = script::value(&line, "state") == "\"open\"" && script::value(&line, "intent") != "null";
            *seen.entry(if intent { "intent of an open map" } else { "none" }.into()).or_default() += 1;
            for key in ["error", "state", "durability", "checkpoint", "read_only", "rivals", "exit"] {
                *seen.entry(format!("{key} {}", script::value(&line, key))).or_default() += 1;
            }
            for word in
                script::value(&line, "copies").split(", ").chain(script::value(&line, "failed_runs").split(", "))
            {
                *seen.entry(word.trim_matches(['[', ']']).to_string()).or_default() += 1;
            }
            for reason in script::value(&line, "assumed").split(['"', ':']) {
                *seen.entry(reason.to_string()).or_default() += 1;
            }
        }
        if std::env::var(SEEDS).is_ok() {
            eprintln!("seed {seed}: {} files", files.len());
        }
    }
    if seen.is_empty() {
        return;
    }
    // Nothing that a file can be is missing among them.
    for kind in [
        "since",
        "intent of an open map",
        "a page of the intent's point failed",
        "fewer bits in the intent's point than were counted",
        "durability \"power-loss\"",
        "durability \"process\"",
        "error \"not-a-dirtymap\"",
        "error \"unsupported\"",
        "error \"corrupt\"",
        "state \"clean\"",
        "state \"open\"",
        "checkpoint \"freezing\"",
        "checkpoint \"frozen\"",
        "checkpoint \"aborting\"",
        "read_only true",
        "rivals true",
        "exit 0",
        "exit 2",
        "exit 4",
        "exit 8",
        "\"blank\"",
        "\"not-a-dirtymap\"",
        "\"checksum\"",
        "\"newer-version\"",
        "\"newer-feature\"",
        "\"impossible\"",
        "\"mismatch\"",
        "\"stray\"",
        "fewer dirty bits than when it was closed",
        "a page of the outstanding point failed",
    ] {
        assert!(seen.get(kind).is_some_and(|count| *count >= 3), "few files give {kind}: {seen:#?}");
    }
}

/// A number of a list; not in its shortest form if it is to be wrong.
fn leb128(mut number: u64, wrong: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 || wrong && bytes.is_empty() {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A copy of which every field holds something, and everything that can be next to something is.
fn rich(state: CheckpointState, kind: StampKind) -> Image {
    let geometry = Geometry::new((300 << 12) - 5, 12).unwrap();
    let mut header = Header::new(Uuid([7; 16]), geometry, Durability::PowerLoss);
    header.sequence = 9;
    header.label = "labél".into();
    header.runs = WordRanges::from_iter([0..1, 2..3, 4..5]);
    header.clean_dirty_bits = geometry.bits();
    let inode = u64::from(kind == StampKind::File);
    let stamp = Stamp {
        exact: true,
        mtime_seconds: 4,
        mtime_nanos: 999_999_999,
        ctime_seconds: 5,
        ctime_nanos: 999_999_998,
        inode,
        device: 5,
        birth: 6,
        ..Stamp::of(kind, 3)
    };
    (header.image, header.target) = (Some(stamp), Some(Stamp { exact: false, ..stamp }));
    header.begun = header.target;
    let mut end = header.file_length();
    for i in 1..4 {
        let outstanding = i == 3 && state != CheckpointState::Normal;
        let role = if outstanding { PointRole::Outstanding } else { PointRole::Kept };
        let (name, uuid) = (format!("{i}"), Uuid([i; 16]));
        let (table_offset, bottom_offset) = (end, end + format::ALIGN);
        end += 2 * format::ALIGN;
        header.points.push(Point {
            uuid,
            time: 5,
            role,
            name,
            table_offset,
            bottom_offset,
            granules: 0,
            reasons: Reasons::REPAIR,
            target: (i == 1).then_some(stamp),
            reserved: Reserved::default(),
        });
        header.checkpoint_uuid = if outstanding { uuid } else { Uuid([0; 16]) };
    }
    header.checkpoint_state = state;
    let mut image = Image { bytes: Vec::new(), length: end, header };
    let bytes = image.header.encode().unwrap();
    (0..format::COPIES).for_each(|copy| image.put(copy * COPY, &bytes));
    image
}

/// Gives a copy another geometry, with lengths and offsets that go with it; no list and no points.
fn reshape(b: &mut [u8], len: u64, granularity: u64) {
    let bits = if len == 0 { 0 } else { ((len - 1) >> granularity.min(63)) + 1 };
    let mut words = [0; 7];
    words[6] = bits.div_ceil(64).max(1);
    (0..6).rev().for_each(|level| words[level] = words[level + 1].div_ceil(64));
    let pages = words[6].div_ceil(64);
    let round = |bytes: u64| bytes.next_multiple_of(65536);
    let volatile =
        65536 + 2 * round(8 * words[5]) + round(8 * words[..6].iter().sum::<u64>()) + 2 * round(8 * words[6]);
    for (i, level) in words.iter().enumerate() {
        b[h::LEVEL_WORDS.offset + 8 * i..][..8].copy_from_slice(&level.to_le_bytes());
    }
    let (table, bottom) = (round(4 * pages), round(512 * pages));
    let head = format::HEADER_REGION;
    for (field, value) in [
        (h::LEN, len),
        (h::GRANULARITY, granularity),
        (h::TABLE_OFFSET, head),
        (h::TABLE_LENGTH, table),
        (h::BOTTOM_OFFSET, head + table),
        (h::BOTTOM_LENGTH, bottom),
        (h::VOLATILE_OFFSET, head + table + bottom),
        (h::VOLATILE_LENGTH, volatile),
        (h::FILE_LENGTH, head + table + bottom + volatile),
        (h::CLEAN_DIRTY_BITS, 0),
        (h::USED, format::FIXED_BYTES as u64),
        (h::RUN_COUNT, 0),
        (h::POINT_COUNT, 0),
        (h::CHECKPOINT_STATE, 0),
    ] {
        put(b, field, value);
    }
    b[h::CHECKPOINT_UUID.offset..h::CHECKPOINT_UUID.end()].fill(0);
}

/// Every word of a header, with whatever next to what it is. Each file has four, so that what they say of each other is
/// compared as well.
#[test]
fn both_say_the_same_of_any_header() {
    let dir = directory();
    let mut rng = Numbers(1);
    let mut copies: Vec<Vec<u8>> = Vec::new();
    for (state, kind) in [(CheckpointState::Normal, StampKind::File), (CheckpointState::Frozen, StampKind::BlockDevice)]
    {
        let rich = rich(state, kind);
        let mut add = |sealed: bool, edit: &dyn Fn(&mut [u8])| {
            let mut image = rich.clone();
            match sealed {
                true => image.patch(0, |b| edit(b)),
                false => edit(image.place(0, COPY)),
            }
            copies.push(image.bytes[..format::MAX_USED].to_vec());
        };
        // What is reserved, and the same for all points, is left out.
        let reserved = |at: usize| h::ALL.iter().any(|f| f.name == "reserved" && (f.offset + 8..f.end()).contains(&at));
        let again = point_at(2)..point_at(2) + p::TARGET.offset;
        let tables = (0..point_at(3) + 8).step_by(4).filter(|&at| !reserved(at) && !again.contains(&at));
        for at in tables {
            let old = u32::from_le_bytes(word(&rich.bytes, at));
            for value in [0, 1, 2, 4, old.wrapping_add(1), old.wrapping_sub(1), old ^ 1 << 30] {
                add(true, &|b| b[at..at + 4].copy_from_slice(&value.to_le_bytes()));
            }
        }
        for (len, granularity) in
            [(1 << 63, 45), ((1 << 63) - 1, 45), ((1 << 41) + 1, 0), ((1 << 42) + 1, 1), (100, 63), (100, 64), (0, 0)]
        {
            add(true, &|b| reshape(b, len, granularity));
        }
        // Groups of bytes: no identity, the identity or name of another point, no name, no recorded stamp.
        let point = |i: usize, field: Field| point_at(i) + field.offset;
        for (at, bytes) in [
            (h::UUID.offset, &[0; 16][..]),
            (h::NONCE.offset, &[7; 16]),
            (h::STATE.offset, &[2, 0, 0, 0]),
            (h::CHECKPOINT_UUID.offset, &[2; 16]),
            (point(0, p::UUID), &[0; 16]),
            (point(1, p::UUID), &[1; 16]),
            (point(1, p::NAME), b"1"),
            (h::IMAGE.offset, &[0; s::SIZE]),
            (h::IMAGE.offset, &[0; 8]),
            (h::CHECKPOINT_STATE.offset, &[0; 20]),
            (point(0, p::TABLE_OFFSET), &[0; 16]),
            (point(0, p::TABLE_OFFSET), &[0; 24]),
            (point(2, p::TABLE_OFFSET), &[0; 24]),
            (h::LABEL.offset, b"\xff"),
            (h::LABEL.offset + 250, b"xx"),
        ] {
            add(true, &|b| b[at..at + bytes.len()].copy_from_slice(bytes));
        }
        add(true, &|b| {
            b[point(1, p::NAME_LENGTH)] = 0;
            b[point(1, p::NAME)] = 0;
        });
        // Point tables that are full, and one more than full.
        for count in [64, 65] {
            add(true, &|b| {
                let list = b[point_at(3)..point_at(3) + 3].to_vec();
                for i in 0..count as usize {
                    let at = point_at(i);
                    b.copy_within(point_at(0)..point_at(1), at);
                    b[at] = i as u8 + 1;
                    b[at + p::NAME.offset] = i as u8 + b'(';
                    let offset = (0x100 + 2 * i as u64) << 16;
                    b[at + p::TABLE_OFFSET.offset..][..8].copy_from_slice(&offset.to_le_bytes());
                    b[at + p::BOTTOM_OFFSET.offset..][..8].copy_from_slice(&(offset + 65536).to_le_bytes());
                }
                put(b, h::CHECKPOINT_STATE, 0);
                b[h::CHECKPOINT_UUID.offset..h::CHECKPOINT_UUID.end()].fill(0);
                put(b, h::POINT_COUNT, count);
                let at = point_at(count as usize);
                b[at..at + 3].copy_from_slice(&list);
                put(b, h::USED, at as u64 + 3);
                put(b, h::FILE_LENGTH, 0x180 << 16);
            });
        }
        for (field, value) in [(h::FORMAT_VERSION, 2), (h::FORMAT_VERSION, 0), (h::INCOMPATIBLE, 1), (h::LEN, 1)] {
            add(false, &|b| put(b, field, value));
        }
        add(false, &|b| b.fill(0));
        // As it is, older and newer.
        for delta in [0, 1, u64::MAX] {
            add(true, &|b| add_to(b, h::SEQUENCE, delta));
            add(true, &|b| {
                put(b, h::FORMAT_VERSION, 2);
                add_to(b, h::SEQUENCE, delta);
            });
        }
    }
    let mut files = Vec::new();
    let common = &copies.clone()[copies.len() - 12..];
    for at in 0..copies.len() {
        // Two edited ones, at different places, with whatever.
        let path = dir.path().join(format!("header-{at}"));
        let mut four = [0; 4].map(|_| if rng.one_in(2) { &common[rng.below(12) as usize] } else { &copies[at] });
        four[at % 4] = &copies[at];
        let file = File::create(&path).unwrap();
        for (copy, bytes) in four.iter().enumerate() {
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            file.write_all_at(&bytes[..end], format::copy_offset(copy)).unwrap();
        }
        file.set_len(0x20_0000).unwrap();
        files.push(path);
    }
    agree(&files);
}

/// What is dirty since a point: from what was put in, from the library and from the script.
#[test]
fn what_is_dirty_since_a_point() {
    let dir = directory();
    let mut rng = Numbers(3);
    let (mut files, mut expected) = (Vec::new(), Vec::new());
    let (mut alone, mut cut) = (0, 0);
    for number in 0..60 {
        let mut image = images(dir.path(), 1 + number, &mut rng).pop().unwrap();
        let geometry = image.header.geometry;
        let points = image.add_points(&mut rng);
        let path = dir.path().join(format!("points-{number}"));
        image.write(&path);
        let map = quiet().read_only(true).open(&path).unwrap();
        let mut bits = Bitmap::new(map.len(), map.granularity()).unwrap();
        map.extents(0..map.len()).unwrap().for_each(|area| assert!(bits.set(area).is_ok()));
        // Since the second one, p1.
        if image.header.points.get(1).is_none_or(|point| point.name != "p1" || point.role != PointRole::Kept) {
            continue;
        }
        for (point, _) in points.iter().zip(&image.header.points).skip(1).filter(|(_, p)| p.role != PointRole::Intent) {
            if point.failed {
                bits.set_all();
            }
            for area in &point.bits {
                bits.set(geometry.items_of(&area)).unwrap();
            }
        }
        let before = points[0].bits.extents(0..geometry.bits()).unwrap();
        alone += u64::from(before.into_iter().any(|area| !bits.all(geometry.items_of(&area)).unwrap()));
        assert_eq!(map.since("p1").unwrap(), bits);
        files.push(path);
        expected.push(script::areas(bits.extents(0..bits.len()).unwrap()));
        if let Some(last) = image.header.points.last().filter(|last| last.role == PointRole::Kept && last.has_regions())
        {
            // Without its last entry, nobody knows what is dirty in it.
            image.length = last.table_offset + 4 * geometry.pages() - 1;
            image.bytes.truncate(image.length as usize);
            files.push(dir.path().join(format!("cut-{number}")));
            image.write(&files[files.len() - 1]);
            expected.push(format!("[[0, {}]]", geometry.len()));
            cut += 1;
        }
    }
    assert!(alone > 2 && cut > 2, "{alone} {cut}");
    let Some(said) = script::ask(&files, &["--since", "p1"]) else { return };
    for (i, line) in said.iter().enumerate() {
        assert_eq!(script::value(line, "areas"), expected[i], "{}", files[i].display());
    }
    let said = script::ask(&files[..1], &["--since", "p9"]).unwrap();
    assert_eq!(script::value(&said[0], "error"), "\"no-such-point\"");
}

/// The script, with a device that does not give back some bytes.
const FAILING: &str = r#"
import os, sys
sys.path.insert(0, sys.argv[1])
import read_dirtymap as reader
first, end = int(sys.argv[3]), int(sys.argv[4])
pread = os.pread
def failing(fd, length, offset):
    if offset < end and offset + length > first:
        raise OSError(5, "Input/output error")
    return pread(fd, length, offset)
os.pread = failing
dirty = reader.Map(reader.Source(sys.argv[2]))
print(dirty.survey.failed, [list(area) for area in dirty.areas()])
"#;

#[test]
fn what_cannot_be_read_is_dirty() {
    let dir = directory();
    let path = dir.path().join("map");
    let map = quiet().granularity(0).create(&path, 3 * 4096).unwrap();
    map.set(1..2).unwrap();
    map.set(8192..8194).unwrap();
    map.close().unwrap();
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools");
    for (bad, expected) in [
        // A page; an entry, with those in the same sector; all headers but one; what means nothing.
        (0x5_0200..0x5_0201, "1 [[1, 1], [4096, 4098]]"),
        (0x5_0000..0x5_0400, "2 [[0, 8194]]"),
        (0x4_0004..0x4_0005, "3 [[0, 12288]]"),
        (0..0x3_0000, "0 [[1, 1], [8192, 2]]"),
        (0x4_0200..0x5_0000, "0 [[1, 1], [8192, 2]]"),
        (0x5_0600..0xc_0000, "0 [[1, 1], [8192, 2]]"),
    ] {
        let mut python = Command::new("python3");
        python.env("PYTHONDONTWRITEBYTECODE", "1").args(["-c", FAILING]).args([&tools, &path]);
        let Ok(run) = python.args([bad.start.to_string(), bad.end.to_string()]).output() else {
            return eprintln!("SKIPPED: no python3 here");
        };
        let (said, trouble) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert_eq!(said.trim(), expected, "{bad:x?} {trouble}");
    }
}

#[test]
fn a_map_in_use_is_not_read() {
    let dir = directory();
    let path = dir.path().join("map");
    let map = quiet().create(&path, 1 << 30).unwrap();
    let files = [path];
    let Some(said) = script::ask(&files, &[]) else { return };
    assert_eq!(script::value(&said[0], "error"), "\"locked\"");
    let said = script::ask(&files, &["--no-lock"]).unwrap();
    assert_eq!(script::value(&said[0], "state"), "\"open\"");
    map.close().unwrap();
    let said = script::ask(&files, &[]).unwrap();
    assert_eq!(script::value(&said[0], "areas"), "[]");
}

/// The largest map, with little in it: nobody goes through all of its 2^41 bits.
#[test]
fn the_largest_map_is_read_by_what_is_in_it() {
    let dir = directory();
    let path = dir.path().join("largest");
    let bits = dirtymap::MAX_BITS;
    let map = match quiet().granularity(0).create(&path, bits) {
        Ok(map) => map,
        Err(error) => return eprintln!("SKIPPED: no map of 2^41 bits here: {error}"),
    };
    for bit in [0, 1 << 20, 1 << 33, (1 << 40) + 77, bits - 1] {
        map.set(bit..bit + 1).unwrap();
    }
    map.close().unwrap();
    let Some(said) = script::ask(std::slice::from_ref(&path), &[]) else { return };
    assert_eq!(
        script::value(&said[0], "areas"),
        "[[0, 1], [1048576, 1], [8589934592, 1], [1099511627853, 1], [2199023255551, 1]]"
    );

    // Everything listed: one area.
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut copy = [0; COPY];
    file.read_exact_at(&mut copy, 0).unwrap();
    let mut header = Header::parse(&copy).unwrap();
    header.runs = WordRanges::one(0..header.geometry.words());
    header.sequence += 9;
    file.write_all_at(&header.encode().unwrap(), 0).unwrap();
    let said = script::ask(&[path], &[]).unwrap();
    assert_eq!(script::value(&said[0], "areas"), format!("[[0, {bits}]]"));
}
