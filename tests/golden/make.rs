//! Makes the golden files, the same bytes every time. All of them are maps of 40 MiB with granules of 4 KiB, 10240
//! bits in 160 words in 3 pages, unless their names say otherwise.

#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges, some of them short")]

use dirtymap::Geometry;
use dirtymap::format::{
    self, CheckpointState, Durability, Header, Intent, Layout, Point, PointRole, Reasons, Reserved, Stamp, StampKind,
    State, Uuid, WordRanges, fields::header as h,
};
use std::ops::Range;

const LEN: u64 = 40 << 20;
/// 10230 bits, of which the last one stands for 2016 bytes.
const PARTIAL_LEN: u64 = 41_900_000;
const UUID: Uuid =
    Uuid([0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f]);
const NONCE: Uuid = Uuid([0x77; 16]);
const POINT: Uuid = Uuid([0x33; 16]);

/// A file in the making: its copies, and whatever else.
struct Maker {
    header: Header,
    bytes: Vec<u8>,
}

impl Maker {
    fn new(len: u64) -> Maker {
        let geometry = Geometry::new(len, 12).expect("a possible map");
        let mut header = Header::new(UUID, geometry, Durability::PowerLoss);
        header.created = 1_700_000_000;
        header.last_open = 1_700_000_030;
        header.last_clean = 1_700_000_060;
        header.sequence = 6;
        header.label = "golden".into();
        Maker { header, bytes: Vec::new() }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = at as usize;
        self.bytes.resize(self.bytes.len().max(at + bytes.len()), 0);
        self.bytes[at..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Writes the bottom in which these bits are set, with matching entries.
    fn bits(&mut self, bits: &[Range<u64>]) -> &mut Maker {
        let Layout { table, bottom, .. } = self.header.layout.clone();
        self.header.clean_dirty_bits =
            bits.iter().map(|r| r.end.min(self.header.geometry.bits()).saturating_sub(r.start)).sum();
        self.bits_at(bits, UUID, table.start, bottom.start)
    }

    fn bits_at(&mut self, bits: &[Range<u64>], owner: Uuid, table: u64, bottom: u64) -> &mut Maker {
        for page in 0..self.header.geometry.pages() {
            let mut words = [0u64; 64];
            for bit in bits.iter().cloned().flatten().filter(|bit| bit / 4096 == page) {
                words[(bit % 4096 / 64) as usize] |= 1 << (bit % 64);
            }
            let bytes = format::page_from_words(&words);
            self.put(table + page * 4, &format::page_entry(&owner, page, &bytes).to_le_bytes());
            self.put(bottom + page * 512, &bytes);
        }
        self
    }

    /// Makes it what a crash leaves, with these words armed.
    fn open(&mut self, armed: &[Range<u64>]) -> &mut Maker {
        self.header.state = State::Open;
        self.header.nonce = NONCE;
        self.header.runs = WordRanges::from_iter(armed.iter().cloned());
        self
    }

    /// Spoils a bit of the bottom, and not the entry of its page.
    fn spoil(&mut self, bit: u64) {
        let at = self.header.layout.bottom.start + bit / 8;
        self.bytes[at as usize] ^= 1 << (bit % 8);
    }

    fn copy(&mut self, copy: usize, bytes: &[u8]) {
        let at = format::copy_offset(copy);
        self.put(at, &[0; format::COPY_BYTES]);
        self.put(at, bytes);
    }

    /// Writes the header to all four copies: pair 0 one commit behind, as OPEN, the way a close leaves it.
    fn headers(&mut self) {
        let mut before = self.header.clone();
        before.sequence -= 1;
        before.state = State::Open;
        before.nonce = NONCE;
        self.pair(0, &before);
        let header = self.header.clone();
        self.pair(1, &header);
    }

    fn pair(&mut self, pair: usize, header: &Header) {
        let bytes = header.encode().expect("a valid header");
        for copy in format::copies_of(pair) {
            self.copy(copy, &bytes);
        }
    }

    /// Changes the bytes of a copy and sets its checksum right.
    fn patch(&mut self, copy: usize, edit: impl Fn(&mut [u8])) {
        let at = format::copy_offset(copy) as usize;
        let bytes = &mut self.bytes[at..][..format::COPY_BYTES];
        edit(bytes);
        seal(bytes);
    }

    fn patch_all(&mut self, edit: impl Fn(&mut [u8])) {
        (0..format::COPIES).for_each(|copy| self.patch(copy, &edit));
    }

    /// Adds a kept point; without regions where it holds nothing.
    fn kept(&mut self, name: &str, id: u8, bits: &[Range<u64>], target: Option<Stamp>) -> &mut Maker {
        let (uuid, end) = (Uuid([id; 16]), self.header.file_length());
        let granules = bits.iter().map(|r| r.end - r.start).sum();
        let (table_offset, bottom_offset) = if granules == 0 { (0, 0) } else { (end, end + format::ALIGN) };
        self.header.points.push(Point {
            uuid,
            time: 1_700_000_020 + i64::from(id),
            role: PointRole::Kept,
            name: name.into(),
            table_offset,
            bottom_offset,
            granules,
            reasons: Reasons::CRASH,
            target,
            reserved: Reserved::default(),
        });
        if granules == 0 { self } else { self.bits_at(bits, uuid, table_offset, bottom_offset) }
    }

    /// Adds a point that is only the intent.
    fn intent(&mut self, bits: &[Range<u64>], unit: u32) -> &mut Maker {
        self.kept("", 0x46, bits, None);
        if let Some(point) = self.header.points.last_mut() {
            (point.role, point.reasons) = (PointRole::Intent, Reasons::NONE);
            self.header.intent = Some(Intent { point: point.uuid, unit });
        }
        self
    }

    fn outstanding(&mut self, state: CheckpointState, bits: &[Range<u64>]) -> &mut Maker {
        let table_offset = self.header.layout.volatile.end;
        let bottom_offset = table_offset + format::ALIGN;
        self.header.checkpoint_state = state;
        self.header.checkpoint_uuid = POINT;
        let (role, name, reserved) = (PointRole::Outstanding, String::new(), Reserved::default());
        self.header.points = vec![Point {
            uuid: POINT,
            time: 1_700_000_040,
            role,
            name,
            table_offset,
            bottom_offset,
            granules: bits.iter().map(|r| r.end - r.start).sum(),
            reasons: Reasons::NONE,
            target: None,
            reserved,
        }];
        self.bits_at(bits, POINT, table_offset, bottom_offset)
    }
}

/// Writes `value` at the place of a field.
fn field(at: format::fields::Field, value: u64) -> impl Fn(&mut [u8]) {
    move |copy| copy[at.offset..at.end()].copy_from_slice(&value.to_le_bytes()[..at.size])
}

/// Sets the checksum of a header copy right, with an implementation of its own.
pub fn seal(copy: &mut [u8]) {
    let used = u32::from_le_bytes(copy[h::USED.offset..h::USED.end()].try_into().expect("four bytes")) as usize;
    copy[h::CRC.offset..h::CRC.end()].fill(0);
    let mut crc = !0u32;
    for byte in &copy[..used.min(format::COPY_BYTES)] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    copy[h::CRC.offset..h::CRC.end()].copy_from_slice(&(!crc).to_le_bytes());
}

const DIRT: [Range<u64>; 4] = [3..4, 64..130, 4090..4100, 10239..10240];

/// A clean map with `DIRT`, after `edit`.
fn clean(edit: impl FnOnce(&mut Maker)) -> Maker {
    let mut m = Maker::new(LEN);
    m.bits(&DIRT).headers();
    edit(&mut m);
    m
}

/// All golden files, by name.
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    let mut files = Vec::new();
    let mut add = |name, maker: Maker| files.push((name, maker.bytes));
    let with = |len, edit: &dyn Fn(&mut Maker)| {
        let mut m = Maker::new(len);
        edit(&mut m);
        m
    };

    // Closed in order.
    add("clean-empty", with(LEN, &|m| m.bits(&[]).headers()));
    add("clean-dirty", clean(|_| {}));
    add("clean-partial-granule", with(PARTIAL_LEN, &|m| m.bits(&[0..1, 10228..10230]).headers()));
    add("clean-no-items", with(0, &|m| m.bits(&[]).headers()));
    let listed = |m: &mut Maker| {
        m.header.runs = WordRanges::one(70..72);
        m.bits(&DIRT).headers();
    };
    add("clean-listed", with(LEN, &listed));
    let stamp = Stamp {
        exact: true,
        mtime_seconds: 1_700_000_050,
        mtime_nanos: 123_456_789,
        ctime_seconds: 1_700_000_051,
        ctime_nanos: 987_654_321,
        inode: 17,
        device: 3,
        birth: 1_600_000_000_123_456_789,
        filesystem: [0xf5; 16],
        boot_id: Uuid([0x44; 16]),
        ..Stamp::of(StampKind::File, LEN)
    };
    let disk = Stamp {
        device: 7 << 8,
        identity: [0xd1; 16],
        disk_sequence: 12,
        boot_id: Uuid([0x44; 16]),
        ..Stamp::of(StampKind::BlockDevice, LEN)
    };
    let image = |m: &mut Maker| {
        m.header.image = Some(stamp);
        m.bits(&DIRT).headers();
    };
    add("clean-image", with(LEN, &image));
    // Backups: the last one completed, one that was begun, and points: one with regions, one without.
    let backups = |m: &mut Maker| {
        (m.header.image, m.header.target, m.header.begun) =
            (Some(disk), Some(stamp), Some(Stamp { exact: false, ..stamp }));
        (m.header.audited, m.header.audit_missed, m.header.audit_time) = (4096, 1, 1_700_000_055);
        m.kept("monday", 0x44, &[5..6, 9000..9003], Some(stamp)).kept("tuesday", 0x45, &[], Some(disk));
        m.bits(&DIRT).headers();
    };
    add("clean-backups", with(LEN, &backups));

    // Left behind by a crash.
    add("unclean-idle", with(LEN, &|m| m.bits(&DIRT).open(&[]).headers()));
    add("unclean-armed", with(LEN, &|m| m.bits(&DIRT).open(&[1..2, 66..68, 159..160]).headers()));
    add("unclean-partial-granule", with(PARTIAL_LEN, &|m| m.bits(&[0..1]).open(&[158..160]).headers()));
    add(
        "unclean-interrupted",
        with(LEN, &|m| {
            m.bits(&DIRT).open(&[100..101]).headers();
            m.spoil(6400);
        }),
    );
    // A list of several sectors, in a map of 8 GiB: runs of one word, two and three, all as far apart.
    let long = |m: &mut Maker| {
        let run = |i: u64| 3 + 131 * i..3 + 131 * i + 1 + i % 3;
        m.bits(&DIRT).open(&(0..250).map(run).collect::<Vec<_>>()).headers();
    };
    add("unclean-long-list", with(8 << 30, &long));
    let process = |m: &mut Maker| {
        m.header.durability = Durability::Process;
        m.header.session.boot_id = Uuid([0x44; 16]);
        m.bits(&DIRT).open(&[0..160]).headers();
    };
    add("unclean-process", with(LEN, &process));
    let torn = |m: &mut Maker| {
        // Pair 0 holds commit 7; commit 8 was being written over commit 6 in pair 1.
        m.bits(&DIRT).open(&[10..11]);
        let old = m.header.encode().expect("a valid header");
        m.header.sequence = 7;
        m.header.runs = WordRanges::from_iter([10..11, 20..21]);
        let newest = m.header.clone();
        m.pair(0, &newest);
        m.header.sequence = 8;
        m.header.runs = WordRanges::from_iter([10..11, 20..21, 30..31]);
        let new = m.header.encode().expect("a valid header");
        m.copy(1, &[&new[..512], &old[512..]].concat());
        m.copy(3, &[&old[..512], &new[512..]].concat());
    };
    add("unclean-torn-pair", with(LEN, &torn));
    let rivals = |first: &[Range<u64>], second: &[Range<u64>], label: &'static str| {
        let mut m = Maker::new(LEN);
        m.bits(&DIRT).open(first);
        let header = m.header.clone();
        m.pair(0, &header);
        m.open(second).header.label = label.into();
        let header = m.header.clone();
        m.pair(1, &header);
        m
    };
    add("rivals-of-lists", rivals(&[10..12], &[20..21], "golden"));
    add("rivals-of-content", rivals(&[10..12], &[10..12], "another"));

    // An intent says nothing of a map that was closed, and what its point holds, rounded out, of any other.
    add("intent-clean", with(LEN, &|m| m.intent(&[70..71, 8000..8003], 4).bits(&DIRT).headers()));
    add("intent-unclean", with(LEN, &|m| m.intent(&[70..71, 8000..8003], 4).bits(&DIRT).open(&[1..2]).headers()));
    let partial = |m: &mut Maker| m.intent(&[10229..10230], 6).bits(&[0..1]).open(&[]).headers();
    add("intent-partial-granule", with(PARTIAL_LEN, &partial));
    let kept = |m: &mut Maker| {
        m.kept("monday", 0x44, &[5..6, 9000..9003], None).bits(&DIRT).open(&[]);
        m.header.intent = Some(Intent { point: Uuid([0x44; 16]), unit: 0 });
        m.headers();
    };
    add("intent-that-is-kept", with(LEN, &kept));
    let frozen = |m: &mut Maker| {
        m.outstanding(CheckpointState::Frozen, &[0..2, 8000..8003]).bits(&DIRT).open(&[]);
        m.header.intent = Some(Intent { point: POINT, unit: 2 });
        m.headers();
    };
    add("intent-that-is-frozen", with(LEN, &frozen));
    // A page of the map that was being written when the power went, since the intent covers some of it; and one of its point.
    let spoilt = |m: &mut Maker, interrupted: bool| {
        m.intent(&[70..71, 9000..9003], 4).bits(&DIRT).open(&[]).headers();
        let at = if interrupted { m.header.layout.bottom.start } else { m.header.points[0].bottom_offset };
        m.bytes[at as usize + 1100] ^= 1;
    };
    add("intent-interrupted", with(LEN, &|m| spoilt(m, true)));
    add("intent-damaged", with(LEN, &|m| spoilt(m, false)));

    // After a change of length: the regions are where the first ones left room.
    let moved = |m: &mut Maker, len| {
        m.header.geometry = Geometry::new(len, 12).expect("a possible map");
        let volatile = format::VolatileLayout::new(&m.header.geometry).length;
        m.header.layout =
            Layout { table: 0xc_0000..0xd_0000, bottom: 0xd_0000..0xe_0000, volatile: 0xe_0000..0xe_0000 + volatile };
    };
    add(
        "resized",
        with(LEN, &|m| {
            moved(m, LEN);
            m.bits(&DIRT).headers();
        }),
    );
    // Killed between the two commits: pair 0 has the old length, and its regions are as they were.
    add(
        "resized-half-way",
        with(LEN, &|m| {
            m.bits(&DIRT).open(&[]);
            let old = m.header.clone();
            m.pair(0, &old);
            moved(m, LEN / 2);
            m.header.sequence += 1;
            m.bits(&DIRT);
            let new = m.header.clone();
            m.pair(1, &new);
        }),
    );

    // Damaged pages.
    add("page-damaged", clean(|m| m.spoil(4200)));
    add(
        "page-damaged-unclean",
        with(LEN, &|m| {
            m.bits(&DIRT).open(&[1..2]).headers();
            m.spoil(4200);
        }),
    );
    add("page-lost", clean(|m| m.put(0x5_0200, &[0; 512])));
    add("entry-lost", clean(|m| m.put(0x4_0004, &[0; 4])));
    add(
        "pages-swapped",
        clean(|m| {
            let pages = m.bytes[0x5_0000..0x5_0400].to_vec();
            m.put(0x5_0000, &pages[512..]);
            m.put(0x5_0200, &pages[..512]);
        }),
    );
    add("stray-bits", with(PARTIAL_LEN, &|m| m.bits(&[0..1, 9000..9001, 10230..10231]).headers()));
    add(
        "stray-bits-listed",
        with(PARTIAL_LEN, &|m| {
            m.bits(&[0..1, 9000..9001, 10300..10301]).open(&[159..160]).headers();
        }),
    );

    // Damaged header copies. The header is in copies 1 and 3.
    let flip = |m: &mut Maker, copy| m.bytes[format::copy_offset(copy) as usize + 600] ^= 4;
    add("headers-one-bad", clean(|m| flip(m, 1)));
    add(
        "headers-two-bad",
        clean(|m| {
            flip(m, 0);
            m.copy(3, &[]);
        }),
    );
    add(
        "headers-three-bad",
        clean(|m| {
            flip(m, 0);
            m.copy(1, b"#!/bin/sh\n");
            m.copy(2, &[]);
        }),
    );
    add("headers-all-bad", clean(|m| (0..4).for_each(|copy| flip(m, copy))));
    add("headers-blank", clean(|m| (0..4).for_each(|copy| m.copy(copy, &[]))));
    let other = |m: &mut Maker, copy| m.patch(copy, |b| b[h::UUID.offset] = 0xee);
    add("headers-one-foreign", clean(|m| other(m, 2)));
    add(
        "headers-of-two-maps",
        clean(|m| {
            other(m, 1);
            other(m, 3);
        }),
    );
    add("headers-impossible", clean(|m| m.patch_all(field(h::GRANULARITY, 64))));

    add("cut-off", clean(|m| m.bytes.truncate(0x4_0008)));

    // Newer versions and features.
    add("newer-version", clean(|m| m.patch_all(field(h::FORMAT_VERSION, 2))));
    add("newer-version-one-copy", clean(|m| m.patch(3, field(h::FORMAT_VERSION, 2))));
    add("newer-incompatible", clean(|m| m.patch_all(field(h::INCOMPATIBLE, 4))));
    add("newer-ro-compatible", clean(|m| m.patch_all(field(h::RO_COMPATIBLE, 2))));
    add(
        "newer-compatible",
        clean(|m| {
            m.patch_all(|b| {
                field(h::COMPATIBLE, 2)(b);
                b[h::RESERVED_1.offset + 7] = 0x99;
            });
        }),
    );
    add("newer-volatile-layout", clean(|m| m.patch_all(field(h::VOLATILE_LAYOUT, 2))));

    // Outstanding checkpoints: what is dirty in the point is dirty.
    let point = |state, spoilt: bool| {
        let mut m = Maker::new(LEN);
        m.outstanding(state, &[0..2, 8000..8003]).bits(&DIRT).headers();
        if spoilt {
            m.bytes[0xd_0000 + 1100] ^= 1;
        }
        m
    };
    add("checkpoint-freezing", point(CheckpointState::Freezing, false));
    add("checkpoint-frozen", point(CheckpointState::Frozen, false));
    add("checkpoint-aborting", point(CheckpointState::Aborting, false));
    add("checkpoint-point-damaged", point(CheckpointState::Frozen, true));
    // The second page of the point was lost, with its entry.
    let mut lost = point(CheckpointState::Frozen, false);
    let (table, bottom) = (lost.header.points[0].table_offset, lost.header.points[0].bottom_offset);
    lost.put(table + 4, &[0; 4]);
    lost.put(bottom + 512, &[0; 512]);
    add("checkpoint-page-and-entry-lost", lost);
    // A point that was damaged, after a repair; and one that is kept with nothing.
    let everything = |m: &mut Maker| {
        m.outstanding(CheckpointState::Frozen, &[]);
        let mut point = m.header.points.remove(0);
        (point.table_offset, point.bottom_offset) = (0, 0);
        (point.granules, point.reasons) = (10240, Reasons::REPAIR);
        m.kept("monday", 0x44, &[], None).header.points.push(point);
        m.bits(&DIRT).headers();
    };
    add("frozen-everything", with(LEN, &everything));
    files
}
