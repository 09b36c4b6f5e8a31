//! The rules of a header, one test each: a valid header in which exactly one field is made wrong, with the
//! checksum set right again, must be refused for exactly that field.

use super::codec::{crc32, put, put_u32, put_u64, u32_at, u64_at};
use super::fields::{header as h, point as p, point_at, stamp as s};
use super::*;
use crate::format::Durability;
use crate::{Geometry, MAX_BITS};
use proptest::prelude::*;

/// A header with something in every field: 3 pages, an outstanding and a kept point, two runs.
pub(super) fn rich() -> Header {
    let geometry = Geometry::new(10_000 << 16, 16).unwrap();
    let mut header = Header::new(Uuid([7; 16]), geometry, Durability::PowerLoss);
    let end = header.file_length();
    header.sequence = 41;
    header.nonce = Uuid([9; 16]);
    header.state = State::Open;
    header.checkpoint_state = CheckpointState::Frozen;
    header.checkpoint_uuid = Uuid([3; 16]);
    header.committed_uuid = Uuid([2; 16]);
    header.committed_time = 1_700_000_000;
    let stamp = Stamp {
        kind: StampKind::File,
        exact: true,
        size: 10_000 << 16,
        mtime_seconds: -5,
        mtime_nanos: 999_999_999,
        ctime_seconds: -6,
        ctime_nanos: 999_999_998,
        inode: 12,
        device: 34,
        birth: -7,
        filesystem: [0xf5; 16],
        identity: [0; 16],
        disk_sequence: 0,
        boot_id: Uuid([5; 16]),
        reserved: Reserved::default(),
    };
    let device = Stamp {
        kind: StampKind::BlockDevice,
        inode: 0,
        exact: false,
        identity: [0xd1; 16],
        disk_sequence: 77,
        ..stamp
    };
    header.image = Some(stamp);
    header.target = Some(device);
    header.begun = Some(Stamp { exact: false, ..stamp });
    (header.audited, header.audit_missed, header.audit_time) = (1 << 40, 3, 10);
    header.backup_time = 1;
    header.dirt_reasons = Reasons::CRASH | Reasons::REPAIR;
    header.dirt_time = 2;
    header.created = 3;
    header.last_clean = 4;
    header.last_open = 5;
    header.clean_dirty_bits = 10_000;
    header.session =
        Session { boot_id: Uuid([5; 16]), device: 6, inode: 7, mount: 8, flags: Session::DEGRADED, birth: 9 };
    header.label = "vm-17, Platte ä".into();
    let point = |uuid, role, name: &str, at| Point {
        uuid: Uuid([uuid; 16]),
        time: 6,
        role,
        name: name.into(),
        table_offset: at,
        bottom_offset: at + ALIGN,
        granules: 5,
        reasons: Reasons::DAMAGED_PAGE,
        target: Some(device),
        reserved: Reserved::default(),
    };
    header.points =
        vec![point(1, PointRole::Kept, "monday", end), point(3, PointRole::Outstanding, "tuesday", end + 2 * ALIGN)];
    header.intent = Some(Intent { point: Uuid([3; 16]), unit: 4 });
    header.runs = [0..1, 5..9].into_iter().collect();
    header
}

#[test]
fn a_header_comes_back_as_it_was() {
    let header = rich();
    let bytes = header.encode().unwrap();
    assert_eq!(bytes.len(), header.used());
    assert_eq!(Header::parse(&bytes), Ok(header.clone()));
    assert_eq!(Header::parse(&bytes).unwrap().encode(), Ok(bytes.clone()));
    // What lies behind the used bytes means nothing.
    let mut copy = bytes.clone();
    copy.resize(COPY_BYTES + 5, 0xff);
    assert_eq!(Header::parse(&copy), Ok(header));
}

/// Sets the checksum right after an edit.
fn seal(bytes: &mut [u8]) {
    let used = u32_at(bytes, h::USED.offset) as usize;
    put_u32(bytes, h::CRC.offset, 0);
    let crc = crc32(&[&bytes[..used]]);
    put_u32(bytes, h::CRC.offset, crc);
}

/// What is said of the rich header after an edit that leaves the checksum right.
fn after(edit: impl FnOnce(&mut [u8])) -> Result<Header, HeaderProblem> {
    after_in(&rich(), edit)
}

fn after_in(header: &Header, edit: impl FnOnce(&mut [u8])) -> Result<Header, HeaderProblem> {
    let mut bytes = header.encode().unwrap();
    bytes.resize(COPY_BYTES, 0);
    edit(&mut bytes);
    seal(&mut bytes);
    Header::parse(&bytes)
}

/// The edit is refused, as invalid, for the field at this place, and the offset lies in it.
#[track_caller]
fn refused(place: &str, at: std::ops::Range<usize>, edit: impl FnOnce(&mut [u8])) -> HeaderProblem {
    let problem = after(edit).expect_err(place);
    assert_eq!((problem.class, problem.place.as_str()), (ProblemClass::Invalid, place), "{problem}");
    assert!(at.contains(&problem.offset), "{problem}");
    assert!(problem.identity.is_some(), "the checksum holds, so that it is known whose it is");
    problem
}

#[track_caller]
fn refused_u32(field: fields::Field, value: u32) -> HeaderProblem {
    refused(field.name, field.offset..field.end(), |b| put_u32(b, field.offset, value))
}

#[track_caller]
fn refused_u64(field: fields::Field, value: u64) -> HeaderProblem {
    refused(field.name, field.offset..field.end(), |b| put_u64(b, field.offset, value))
}

#[track_caller]
fn refused_in_stamp(field: fields::Field, edit: impl FnOnce(&mut [u8], usize)) {
    let at = h::TARGET.offset + field.offset;
    refused(&format!("target.{}", field.name), at..at + field.size, |b| edit(b, at));
}

#[track_caller]
fn refused_in_point(i: usize, field: fields::Field, edit: impl FnOnce(&mut [u8], usize)) {
    let at = point_at(i) + field.offset;
    refused(&format!("points[{i}].{}", field.name), at..at + field.size, |b| edit(b, at));
}

fn class_of(bytes: &[u8]) -> (ProblemClass, String, bool) {
    let problem = Header::parse(bytes).unwrap_err();
    (problem.class, problem.place, problem.identity.is_some())
}

#[test]
fn zeros_are_blank() {
    for length in [0, 1, 4096, COPY_BYTES] {
        assert_eq!(class_of(&vec![0; length]).0, ProblemClass::Blank);
    }
}

#[test]
fn something_else_is_not_a_dirtymap() {
    let mut bytes = rich().encode().unwrap();
    for i in 0..MAGIC.len() {
        bytes[i] ^= 0x20;
        seal(&mut bytes);
        assert_eq!(class_of(&bytes), (ProblemClass::NotDirtymap, "magic".into(), false));
        bytes[i] ^= 0x20;
    }
    assert_eq!(class_of(b"QFI\xfb").0, ProblemClass::NotDirtymap);
    // Zeros in front of something are not blank.
    bytes[..8].fill(0);
    assert_eq!(class_of(&bytes).0, ProblemClass::NotDirtymap);
}

#[test]
fn a_newer_version_is_told_apart_from_rot_by_its_checksum() {
    let mut bytes = rich().encode().unwrap();
    put_u32(&mut bytes, h::FORMAT_VERSION.offset, 2);
    assert_eq!(class_of(&bytes), (ProblemClass::Checksum, "crc".into(), false));
    assert!(!Header::parse(&bytes).unwrap_err().is_newer());
    seal(&mut bytes);
    assert_eq!(class_of(&bytes), (ProblemClass::Version, "format_version".into(), true));
    let problem = Header::parse(&bytes).unwrap_err();
    assert!(problem.is_newer());
    assert_eq!(problem.identity, Some((rich().uuid, rich().sequence)));
    assert_eq!((problem.found.as_str(), problem.expected.as_str()), ("2", "1"));
    put_u32(&mut bytes, h::USED.offset, u32::MAX);
    assert_eq!(class_of(&bytes), (ProblemClass::Checksum, "used".into(), false));
}

#[test]
fn version_zero_never_was() {
    refused_u32(h::FORMAT_VERSION, 0);
    let mut bytes = rich().encode().unwrap();
    put_u32(&mut bytes, h::FORMAT_VERSION.offset, 0);
    assert_eq!(class_of(&bytes).0, ProblemClass::Checksum);
}

#[test]
fn used_lies_within_the_copy() {
    let mut bytes = rich().encode().unwrap();
    for used in [0, 1, 1024, FIXED_BYTES - 1, COPY_BYTES + 1, u32::MAX as usize] {
        put_u32(&mut bytes, h::USED.offset, used as u32);
        assert_eq!(class_of(&bytes), (ProblemClass::Checksum, "used".into(), false), "{used}");
    }
}

#[test]
fn used_is_what_points_and_runs_take() {
    let (least, right) = (point_at(2), rich().used());
    assert_eq!(right, least + 3);
    for used in [FIXED_BYTES, right - 256, least - 1, right + 1, right + 256, least + MAX_LIST, least + MAX_LIST + 1] {
        refused_u32(h::USED, used as u32);
    }
    // The last run has two numbers, and the second is gone.
    refused("runs[1]", least + 1..right, |b| put_u32(b, h::USED.offset, right as u32 - 1));
}

#[test]
fn every_single_bit_counts() {
    let header = rich();
    let mut bytes = header.encode().unwrap();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let problem = Header::parse(&bytes).expect_err("a flipped bit was not noticed");
        assert!(problem.identity.is_none(), "bit {bit}: {problem}");
        let expected = match bit / 64 {
            0 => ProblemClass::NotDirtymap,
            _ => ProblemClass::Checksum,
        };
        assert_eq!(problem.class, expected, "bit {bit}: {problem}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(Header::parse(&bytes), Ok(header));
}

#[test]
fn a_copy_that_is_cut_short_does_not_parse() {
    let bytes = rich().encode().unwrap();
    for length in (1..bytes.len()).filter(|length| bytes[*length..].iter().any(|byte| *byte != 0)) {
        assert!(Header::parse(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn incompatible_features_are_refused_and_not_as_nonsense() {
    for bit in [0, 31, 63] {
        let problem = after(|b| {
            put_u64(b, h::INCOMPATIBLE.offset, 1 << bit);
            // Such a feature may change the meaning of everything else.
            put_u32(b, h::STATE.offset, 17);
        })
        .unwrap_err();
        assert_eq!((problem.class, problem.place.as_str()), (ProblemClass::Feature, "incompatible"));
        assert!(problem.is_newer());
    }
}

#[test]
fn other_features_are_kept_and_the_read_only_ones_forbid_writing() {
    assert_eq!(rich().writable(), Ok(()));
    let header = after(|b| put_u64(b, h::COMPATIBLE.offset, 1 << 63)).unwrap();
    assert_eq!((header.compatible, header.writable()), (1 << 63, Ok(())));
    let header = after(|b| put_u64(b, h::RO_COMPATIBLE.offset, 6)).unwrap();
    assert!(header.writable().unwrap_err().found.contains("0x6"));
    assert_eq!(header.ro_compatible, 6);
    assert_eq!(Header::parse(&header.encode().unwrap()), Ok(header));
}

#[test]
fn reserved_bytes_are_kept() {
    let places = [h::RESERVED_1, h::RESERVED_2].map(|f| f.offset..f.end());
    let image = h::IMAGE.offset + s::RESERVED.offset;
    let point = point_at(0) + p::RESERVED.offset;
    for place in places.into_iter().chain([image..image + s::RESERVED.size, point..point + p::RESERVED.size]) {
        for at in place {
            let mut bytes = rich().encode().unwrap();
            bytes[at] = 0xa5;
            seal(&mut bytes);
            let header = Header::parse(&bytes).unwrap();
            assert_ne!(header, rich());
            assert_eq!(header.encode().unwrap(), bytes, "byte {at}");
        }
    }
}

#[test]
fn a_map_has_an_identity() {
    refused("uuid", h::UUID.offset..h::UUID.end(), |b| b[h::UUID.offset..h::UUID.end()].fill(0));
}

#[test]
fn sequence_numbers_have_bounds() {
    refused_u64(h::SEQUENCE, 0);
    refused_u64(h::SEQUENCE, MAX_SEQUENCE + 1);
    let last = after(|b| put_u64(b, h::SEQUENCE.offset, MAX_SEQUENCE)).unwrap();
    assert!(last.writable().is_err(), "there must be room for the numbers of commits to come");
    assert_eq!(after(|b| put_u64(b, h::SEQUENCE.offset, MAX_SEQUENCE / 2)).unwrap().writable(), Ok(()));
}

#[test]
fn only_an_open_map_has_a_session() {
    refused("nonce", h::NONCE.offset..h::NONCE.end(), |b| b[h::NONCE.offset..h::NONCE.end()].fill(0));
    refused("nonce", h::NONCE.offset..h::NONCE.end(), |b| put_u32(b, h::STATE.offset, 1));
}

#[test]
fn states_are_known() {
    refused_u32(h::STATE, 0);
    refused_u32(h::STATE, 3);
    refused_u32(h::DURABILITY, 0);
    refused_u32(h::DURABILITY, 3);
    refused_u32(h::CHECKPOINT_STATE, 4);
}

#[test]
fn the_geometry_is_possible() {
    refused_u64(h::LEN, 1 << 63);
    refused("len", h::LEN.offset..h::GRANULARITY.end(), |b| put_u32(b, h::GRANULARITY.offset, 64));
    refused("len", h::LEN.offset..h::GRANULARITY.end(), |b| {
        put_u64(b, h::LEN.offset, (1 << 41) + 1);
        put_u32(b, h::GRANULARITY.offset, 0);
    });
}

#[test]
fn the_levels_are_those_of_the_geometry() {
    refused_u32(h::LEVEL_COUNT, 6);
    refused_u32(h::LEVEL_COUNT, 8);
    for k in 0..crate::LEVELS {
        refused("level_words", h::LEVEL_WORDS.offset..h::LEVEL_WORDS.end(), |b| {
            let words = u64_at(b, h::LEVEL_WORDS.offset + 8 * k);
            put_u64(b, h::LEVEL_WORDS.offset + 8 * k, words + 1);
        });
    }
    // Another length with the same number of words is the same levels; with another number it is not.
    refused("level_words", h::LEVEL_WORDS.offset..h::LEVEL_WORDS.end(), |b| put_u64(b, h::LEN.offset, 9_000 << 16));
}

#[test]
fn no_more_bits_are_dirty_than_there_are() {
    refused_u64(h::CLEAN_DIRTY_BITS, 10_001);
}

#[test]
fn region_lengths_are_those_of_the_geometry() {
    for field in [h::TABLE_LENGTH, h::BOTTOM_LENGTH, h::VOLATILE_LENGTH] {
        for wrong in [0, 1, ALIGN - 1, ALIGN * 1000, u64::MAX] {
            refused_u64(field, wrong);
        }
    }
}

#[test]
fn regions_are_aligned_in_bounds_and_apart() {
    let header = rich();
    for (field, own) in [
        (h::TABLE_OFFSET, &header.layout.table),
        (h::BOTTOM_OFFSET, &header.layout.bottom),
        (h::VOLATILE_OFFSET, &header.layout.volatile),
    ] {
        for wrong in [own.start + 1, own.start + 4096, own.start - 512, u64::MAX, MAX_FILE_LENGTH, !0 << 16] {
            refused_u64(field, wrong);
        }
        // Inside the headers.
        refused_u64(field, 0);
        // The file would be longer than it says.
        let problem = after(|b| put_u64(b, field.offset, 1 << 40)).unwrap_err();
        assert_eq!(problem.place, "file_length");
    }
    // Each on top of each other one: the one that starts later, or is later in the header, is at fault.
    let all = header.regions();
    for (i, (first, range)) in all.iter().enumerate().skip(1) {
        for (second, _) in &all[i + 1..] {
            let (place, offset) = match *second {
                RegionName::Bottom => ("bottom_offset".to_string(), h::BOTTOM_OFFSET.offset),
                RegionName::Volatile => ("volatile_offset".to_string(), h::VOLATILE_OFFSET.offset),
                RegionName::PointTable(i) => {
                    (format!("points[{i}].table_offset"), point_at(i) + p::TABLE_OFFSET.offset)
                }
                RegionName::PointBottom(i) => {
                    (format!("points[{i}].bottom_offset"), point_at(i) + p::BOTTOM_OFFSET.offset)
                }
                other => panic!("{other}"),
            };
            let problem = after(|b| put_u64(b, offset, range.start)).unwrap_err();
            assert_eq!((problem.class, problem.place), (ProblemClass::Invalid, place.clone()), "{first} {second}");
            assert!(problem.expected.contains(&first.to_string()), "{first} {second}: {}", problem.expected);
        }
    }
    // An overlap by a part only.
    let volatile = &header.layout.volatile;
    refused_in_point(0, p::TABLE_OFFSET, |b, at| put_u64(b, at, volatile.end - ALIGN));
    for wrong in [1, u64::MAX, MAX_FILE_LENGTH, 1 << 63] {
        refused_in_point(1, p::TABLE_OFFSET, |b, at| put_u64(b, at, wrong));
        refused_in_point(0, p::BOTTOM_OFFSET, |b, at| put_u64(b, at, wrong));
    }
    for region in [0, ALIGN / 2] {
        refused_in_point(0, p::BOTTOM_OFFSET, |b, at| put_u64(b, at, region));
    }
}

#[test]
fn the_file_ends_with_its_last_region() {
    for wrong in [0, 1, rich().file_length() - 1, rich().file_length() + ALIGN, u64::MAX] {
        refused_u64(h::FILE_LENGTH, wrong);
    }
}

#[test]
fn a_hole_between_regions_is_allowed() {
    let mut header = rich();
    header.points[1].bottom_offset += 5 * ALIGN;
    assert_eq!(Header::parse(&header.encode().unwrap()), Ok(header));
}

#[test]
fn another_volatile_layout_can_be_read_but_not_written() {
    let header = after(|b| {
        put_u32(b, h::VOLATILE_LAYOUT.offset, 2);
        put_u64(b, h::VOLATILE_LENGTH.offset, 3 * ALIGN);
    })
    .unwrap();
    assert_eq!(header.layout.volatile.end - header.layout.volatile.start, 3 * ALIGN);
    assert!(header.writable().unwrap_err().found.contains("volatile layout 2"));
    for wrong in [1, ALIGN + 512] {
        refused("volatile_length", h::VOLATILE_LENGTH.offset..h::VOLATILE_LENGTH.end(), |b| {
            put_u32(b, h::VOLATILE_LAYOUT.offset, 2);
            put_u64(b, h::VOLATILE_LENGTH.offset, wrong);
        });
    }
    // One that takes no room is in nobody's way, wherever it says that it is.
    for offset in [0, header.layout.table.start, header.layout.bottom.start, header.layout.table.end] {
        let empty = after(|b| {
            put_u32(b, h::VOLATILE_LAYOUT.offset, 2);
            put_u64(b, h::VOLATILE_LENGTH.offset, 0);
            put_u64(b, h::VOLATILE_OFFSET.offset, offset);
        });
        assert!(empty.is_ok(), "{offset}: {empty:?}");
    }
    // It must not lie on top of another region either.
    refused("points[0].table_offset", 0..COPY_BYTES, |b| {
        put_u32(b, h::VOLATILE_LAYOUT.offset, 2);
        put_u64(b, h::VOLATILE_LENGTH.offset, 1 << 30);
    });
    refused("volatile_offset", h::VOLATILE_OFFSET.offset..h::VOLATILE_OFFSET.end(), |b| {
        put_u32(b, h::VOLATILE_LAYOUT.offset, 2);
        put_u64(b, h::VOLATILE_LENGTH.offset, !0 << 16);
    });
}

#[test]
fn a_checkpoint_state_agrees_with_the_points() {
    // NORMAL with an outstanding point; another state without; and identities that do not fit.
    refused_u32(h::CHECKPOINT_STATE, 0);
    refused("checkpoint_uuid", h::CHECKPOINT_UUID.offset..h::CHECKPOINT_UUID.end(), |b| {
        b[h::CHECKPOINT_UUID.offset] ^= 1
    });
    refused("checkpoint_uuid", h::CHECKPOINT_UUID.offset..h::CHECKPOINT_UUID.end(), |b| {
        b[h::CHECKPOINT_UUID.offset..h::CHECKPOINT_UUID.end()].fill(0);
    });
    refused("checkpoint_state", h::CHECKPOINT_STATE.offset..h::CHECKPOINT_STATE.end(), |b| {
        put_u32(b, point_at(1) + p::FLAGS.offset, 2);
    });
    refused("checkpoint_uuid", h::CHECKPOINT_UUID.offset..h::CHECKPOINT_UUID.end(), |b| {
        put_u32(b, point_at(1) + p::FLAGS.offset, 2);
        put_u32(b, h::CHECKPOINT_STATE.offset, 0);
    });
    for state in [1, 2, 3] {
        assert!(after(|b| put_u32(b, h::CHECKPOINT_STATE.offset, state)).is_ok());
    }
}

#[test]
fn points_are_as_many_as_the_header_says() {
    refused_u32(h::POINT_COUNT, 65);
    refused_u32(h::POINT_COUNT, u32::MAX);
    // The bytes of runs are no point.
    refused("points[2].flags", 0..COPY_BYTES, |b| {
        put_u32(b, point_at(1) + p::FLAGS.offset, 2);
        put_u32(b, h::POINT_COUNT.offset, 3);
        put_u32(b, h::USED.offset, point_at(3) as u32 + 3);
    });
    // And those of a point as runs are no more than there are runs.
    refused("used", 0..COPY_BYTES, |b| {
        put_u32(b, h::CHECKPOINT_STATE.offset, 0);
        b[h::CHECKPOINT_UUID.offset..h::CHECKPOINT_UUID.end()].fill(0);
        b[h::INTENT.offset..h::INTENT_UNIT.end()].fill(0);
        put_u32(b, h::POINT_COUNT.offset, 1);
    });
    let mut header = rich();
    let end = header.file_length();
    let point = header.points[0].clone();
    header.points.clear();
    (header.checkpoint_state, header.checkpoint_uuid) = (CheckpointState::Normal, Uuid::NIL);
    for i in 0..MAX_POINTS {
        let (uuid, name, at) = (Uuid([1 + i as u8; 16]), i.to_string(), end + i as u64 * 2 * ALIGN);
        header.points.push(Point { uuid, name, table_offset: at, bottom_offset: at + ALIGN, ..point.clone() });
    }
    assert_eq!(Header::parse(&header.encode().unwrap()), Ok(header));
}

#[test]
fn a_point_without_regions_holds_nothing_if_it_is_kept_or_everything() {
    let none = |b: &mut [u8], i: usize, granules: u64| {
        put_u64(b, point_at(i) + p::TABLE_OFFSET.offset, 0);
        put_u64(b, point_at(i) + p::BOTTOM_OFFSET.offset, 0);
        put_u64(b, point_at(i) + p::GRANULES.offset, granules);
    };
    let all = rich().geometry.bits();
    refused_in_point(1, p::GRANULES, |b, _| none(b, 1, 0));
    for (i, granules) in [(0, 1), (0, all - 1), (1, all - 1), (0, all + 1), (1, u64::MAX)] {
        refused_in_point(i, p::GRANULES, |b, _| none(b, i, granules));
    }
    for (i, granules) in [(0, 0), (0, all), (1, all)] {
        let mut header = Header { intent: None, ..rich() };
        let point = &mut header.points[i];
        (point.table_offset, point.bottom_offset, point.granules) = (0, 0, granules);
        let point = &header.points[i];
        assert_eq!(
            (point.has_regions(), point.is_nothing(), point.is_everything()),
            (false, granules == 0, granules > 0)
        );
        assert!(point.table(&header.geometry).is_empty() && point.bottom(&header.geometry).is_empty());
        assert_eq!(header.regions().len(), 6);
        assert_eq!(Header::parse(&header.encode().unwrap()), Ok(header));
    }
    // One alone is a region in the headers.
    refused_in_point(0, p::TABLE_OFFSET, |b, at| put_u64(b, at, 0));
}

#[test]
fn points_are_distinct() {
    refused_in_point(0, p::UUID, |b, at| b[at..at + 16].fill(0));
    refused_in_point(1, p::UUID, |b, at| b[at..at + 16].fill(1));
    refused_in_point(1, p::NAME, |b, at| {
        put_u32(b, at - p::NAME.offset + p::NAME_LENGTH.offset, 6);
        put(b, at, b"monday\0");
    });
}

#[test]
fn a_point_is_outstanding_or_kept() {
    for flags in [0, 3, 5, 6, 1 << 31] {
        refused_in_point(0, p::FLAGS, |b, at| put_u32(b, at, flags));
    }
    // The outstanding one is the newest, and so the last.
    refused_in_point(0, p::FLAGS, |b, at| put_u32(b, at, 1));
}

/// The rich header with the point "monday" as one that is only the intent.
fn intent_only(b: &mut [u8]) {
    put_u32(b, point_at(0) + p::FLAGS.offset, 4);
    put_u32(b, point_at(0) + p::NAME_LENGTH.offset, 0);
    b[point_at(0) + p::NAME.offset..][..p::NAME.size].fill(0);
    b[h::INTENT.offset..h::INTENT.end()].fill(1);
}

#[test]
fn an_intent_names_a_point_that_has_regions() {
    assert_eq!(rich().intent_point().unwrap().uuid, Uuid([3; 16]));
    assert!(after(|b| put_u32(b, h::INTENT_UNIT.offset, 6)).is_ok());
    refused_u32(h::INTENT_UNIT, 7);
    let intent = h::INTENT.offset..h::INTENT.end();
    refused("intent", intent.clone(), |b| b[h::INTENT.offset] ^= 1);
    refused("intent", intent.clone(), |b| put_u32(b, h::DURABILITY.offset, 2));
    // Zeros are none, which has no unit.
    refused("intent_unit", h::INTENT_UNIT.offset..h::INTENT_UNIT.end(), |b| b[intent.clone()].fill(0));
    let none = after(|b| b[h::INTENT.offset..h::INTENT_UNIT.end()].fill(0)).unwrap();
    assert_eq!((none.intent, none.intent_point()), (None, None));
    // A kept point is one as well, unless nothing is kept for it.
    let kept = |b: &mut [u8]| b[h::INTENT.offset..h::INTENT.end()].fill(1);
    assert!(after(kept).is_ok());
    refused("intent", intent.clone(), |b| {
        kept(b);
        b[point_at(0) + p::TABLE_OFFSET.offset..point_at(0) + p::GRANULES.end()].fill(0);
    });
}

#[test]
fn only_what_the_intent_names_may_be_nothing_else() {
    let header = after(intent_only).unwrap();
    assert_eq!((header.points[0].role, header.outstanding().unwrap().uuid), (PointRole::Intent, Uuid([3; 16])));
    assert_eq!(Header::parse(&header.encode().unwrap()), Ok(header));
    refused_in_point(0, p::FLAGS, |b, _| {
        intent_only(b);
        b[h::INTENT.offset..h::INTENT.end()].fill(3);
    });
    refused_in_point(0, p::NAME_LENGTH, |b, _| {
        intent_only(b);
        put_u32(b, point_at(0) + p::NAME_LENGTH.offset, 1);
        b[point_at(0) + p::NAME.offset] = b'x';
    });
    refused_in_point(0, p::GRANULES, |b, _| {
        intent_only(b);
        b[point_at(0) + p::TABLE_OFFSET.offset..point_at(0) + p::GRANULES.end()].fill(0);
    });
    // Kept points come before it.
    refused_in_point(1, p::FLAGS, |b, at| {
        intent_only(b);
        put_u32(b, at, 2);
        b[h::CHECKPOINT_STATE.offset..h::COMMITTED_UUID.offset].fill(0);
    });
}

#[test]
fn names_of_points_are_text() {
    refused_in_point(0, p::NAME_LENGTH, |b, at| put_u32(b, at, 65));
    refused_in_point(0, p::NAME_LENGTH, |b, at| put_u32(b, at, u32::MAX));
    refused_in_point(0, p::NAME, |b, at| b[at] = 0xff);
    refused_in_point(0, p::NAME, |b, at| b[at + 63] = b'x');
    refused_in_point(0, p::NAME_LENGTH, |b, at| {
        put_u32(b, at, 0);
        b[at - p::NAME_LENGTH.offset + p::NAME.offset..][..p::NAME.size].fill(0);
    });
    // Only the outstanding one may do without.
    let nameless = after(|b| {
        let at = point_at(1);
        put_u32(b, at + p::NAME_LENGTH.offset, 0);
        b[at + p::NAME.offset..][..p::NAME.size].fill(0);
    });
    assert_eq!(nameless.unwrap().outstanding().unwrap().name, "");
}

#[test]
fn a_label_is_text() {
    refused_u32(h::LABEL_LENGTH, 253);
    refused_u32(h::LABEL_LENGTH, u32::MAX);
    refused("label", h::LABEL.offset..h::LABEL.end(), |b| b[h::LABEL.offset] = 0x80);
    for at in [h::LABEL.offset + rich().label.len(), h::LABEL.end() - 1] {
        refused("label", h::LABEL.offset..h::LABEL.end(), |b| b[at] = 1);
    }
    // Cut in the middle of a character.
    let mut header = rich();
    header.label = "ä".into();
    let problem = after_in(&header, |b| {
        put_u32(b, h::LABEL_LENGTH.offset, 1);
        b[h::LABEL.offset + 1] = 0;
    });
    assert_eq!(problem.unwrap_err().expected, "UTF-8");
    header.label = "x".repeat(MAX_LABEL);
    assert_eq!(Header::parse(&header.encode().unwrap()), Ok(header));
}

#[test]
fn stamps_make_sense() {
    for flags in [2, 4, 5, 1 << 31] {
        refused_in_stamp(s::FLAGS, |b, at| put_u32(b, at, flags));
    }
    for kind in [0, 3] {
        refused_in_stamp(s::KIND, |b, at| put_u32(b, at, kind));
    }
    refused_in_stamp(s::MTIME_NANOS, |b, at| put_u32(b, at, 1_000_000_000));
    refused_in_stamp(s::CTIME_NANOS, |b, at| put_u32(b, at, 1_000_000_000));
    refused_in_stamp(s::INODE, |b, at| put_u64(b, at, 1));
    // Not recorded is all zeros.
    for field in &s::ALL[1..] {
        refused_in_stamp(*field, |b, at| {
            b[h::TARGET.offset..h::TARGET.end()].fill(0);
            b[at + field.size - 1] = 1;
        });
    }
    refused("image.kind", h::IMAGE.offset..h::IMAGE.end(), |b| put_u32(b, h::IMAGE.offset + s::KIND.offset, 9));
    refused("begun.kind", h::BEGUN.offset..h::BEGUN.end(), |b| put_u32(b, h::BEGUN.offset + s::KIND.offset, 9));
    let target = point_at(1) + p::TARGET.offset;
    refused("points[1].target.kind", target..target + s::SIZE, |b| put_u32(b, target + s::KIND.offset, 9));
    let none = after(|b| b[h::IMAGE.offset..h::IMAGE.end()].fill(0)).unwrap();
    assert_eq!((none.image, none.target.is_some()), (None, true));
}

#[test]
fn runs_are_inside_and_have_one_form() {
    let at = point_at(2);
    let list = |bytes: &'static [u8], runs: u32| {
        move |b: &mut [u8]| {
            put(b, at, bytes);
            put_u32(b, h::RUN_COUNT.offset, runs);
            put_u32(b, h::USED.offset, (at + bytes.len()) as u32);
        }
    };
    assert_eq!(rich().geometry.words(), 157);
    // Behind the end, and over it.
    refused("runs[1]", at + 1..at + 2, list(&[0, 0xb6, 2], 2));
    refused("runs[1]", at + 1..at + 2, list(&[0, 7, 0x97, 1], 2));
    assert_eq!(after(list(&[0, 7, 0x96, 1], 2)).unwrap().runs, [0..1, 5..157].into_iter().collect());
    // Not the shortest form; too long; cut off.
    refused("runs[0]", at..at + 1, list(&[0x80, 0, 7, 2], 2));
    refused("runs[0]", at..at + 1, list(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1], 1));
    refused("runs[1]", at + 1..at + 2, list(&[0, 0x87], 2));
    refused("runs[2]", at + 3..at + 4, list(&[0, 7, 2], 3));
    // More bytes than runs.
    refused("used", h::USED.offset..h::USED.end(), list(&[0, 7, 2], 1));
    refused_u32(h::RUN_COUNT, MAX_LIST as u32 + 1);
    refused_u32(h::RUN_COUNT, u32::MAX);
}

#[test]
fn diagnostic_bits_of_later_versions_are_kept() {
    let header = after(|b| {
        put_u32(b, h::DIRT_REASONS.offset, !0);
        put_u32(b, h::SESSION_FLAGS.offset, 6);
    })
    .unwrap();
    assert_eq!((header.dirt_reasons, header.session.flags), (Reasons(!0), 6));
    assert!(header.dirt_reasons.contains(Reasons::CRASH) && !Reasons::CRASH.contains(header.dirt_reasons));
}

#[test]
fn nothing_is_encoded_that_would_not_parse() {
    let no = |place: &str, edit: fn(&mut Header)| {
        let mut header = rich();
        edit(&mut header);
        let problem = header.encode().expect_err(place);
        assert_eq!((problem.class, problem.place.as_str()), (ProblemClass::Invalid, place));
    };
    let long = |header: &mut Header, words: u64| {
        header.geometry = Geometry::new(1 << 30, 0).unwrap();
        header.layout = Layout::initial(&header.geometry);
        header.points.clear();
        (header.checkpoint_state, header.checkpoint_uuid) = (CheckpointState::Normal, Uuid::NIL);
        header.intent = None;
        header.runs = (0..2 * words).step_by(2).collect();
    };
    let mut longest = rich();
    long(&mut longest, MAX_LIST as u64);
    assert_eq!(Header::parse(&longest.encode().unwrap()), Ok(longest.clone()));
    long(&mut longest, MAX_LIST as u64 + 1);
    assert_eq!(longest.encode().unwrap_err().place, "used");
    no("point_count", |header| header.points = vec![header.points[0].clone(); 65]);
    no("label_length", |header| header.label = "x".repeat(253));
    no("name_length", |header| header.points[0].name = "x".repeat(65));
    no("nonce", |header| header.state = State::Clean);
    no("sequence", |header| header.sequence = 0);
    no("table_length", |header| header.layout.table = 0..0);
    no("bottom_length", |header| std::mem::swap(&mut header.layout.bottom.start, &mut header.layout.bottom.end));
    no("run_count", |header| header.runs.insert(1000..1001));
    no("run_count", |header| header.runs.insert(u64::MAX - 2..u64::MAX));
    no("checkpoint_state", |header| {
        header.points.pop();
    });
    no("points[0].table_offset", |header| header.points[0].table_offset = !0 << 16);
    let mut header = rich();
    header.incompatible = 1;
    assert_eq!(header.encode().unwrap_err().class, ProblemClass::Feature);
}

#[test]
fn a_new_header_is_valid_for_every_shape() {
    for (len, granularity) in
        [(0, 0), (1, 63), (1 << 41, 0), (i64::MAX as u64, 63), (i64::MAX as u64, 22), (1 << 20, 16)]
    {
        for durability in [Durability::PowerLoss, Durability::Process] {
            let header = Header::new(Uuid([1; 16]), Geometry::new(len, granularity).unwrap(), durability);
            let bytes = header.encode().unwrap();
            assert_eq!(bytes.len(), FIXED_BYTES);
            assert_eq!(Header::parse(&bytes), Ok(header));
        }
    }
}

#[test]
fn an_identity_prints_in_the_usual_form() {
    let uuid = Uuid(*b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef");
    assert_eq!(uuid.to_string(), "01234567-89ab-cdef-0123-456789abcdef");
}

#[test]
fn a_problem_says_where_what_and_what_else() {
    let problem = refused_u32(h::STATE, 3);
    assert_eq!(problem.to_string(), "state (byte 80): found 3, expected 1 (CLEAN) or 2 (OPEN)");
}

/// Any valid header.
pub(super) fn headers() -> impl Strategy<Value = Header> {
    let geometry = (0..=63u32, any::<u64>()).prop_map(|(granularity, seed)| {
        let most = MAX_BITS.checked_shl(granularity).filter(|n| n >> granularity == MAX_BITS).unwrap_or(u64::MAX);
        // Small and large maps alike.
        let len = (seed >> (seed % 64)) % most.min(crate::MAX_LEN).saturating_add(1);
        Geometry::new(len, granularity).unwrap()
    });
    let stamp = || {
        let nanos = || 0..1_000_000_000u32;
        let fields =
            (any::<[bool; 2]>(), any::<[u64; 4]>(), any::<[i64; 3]>(), any::<[[u8; 16]; 3]>(), nanos(), nanos());
        proptest::option::of(fields).prop_map(|stamp| {
            stamp.map(|([file, exact], ints, times, ids, mtime_nanos, ctime_nanos)| Stamp {
                kind: if file { StampKind::File } else { StampKind::BlockDevice },
                exact,
                size: ints[0],
                mtime_seconds: times[0],
                mtime_nanos,
                ctime_seconds: times[1],
                ctime_nanos,
                inode: if file { ints[1] } else { 0 },
                device: ints[2],
                birth: times[2],
                filesystem: ids[0],
                identity: ids[1],
                disk_sequence: ints[3],
                boot_id: Uuid(ids[2]),
                reserved: Reserved::default(),
            })
        })
    };
    let rest = (
        (any::<[[u8; 16]; 4]>(), any::<[u64; 8]>(), any::<[i64; 8]>(), any::<[u32; 3]>(), 0..=3u32),
        ".{0,60}",
        (0..=12usize, any::<bool>(), stamp(), 0..=6u32),
        proptest::collection::vec((any::<u64>(), 1..100u64), 0..300),
    );
    (geometry, stamp(), stamp(), rest).prop_map(|(geometry, image, target, rest)| {
        let ((uuids, ints, times, flags, checkpoint), label, (kept, gaps, begun, unit), runs) = rest;
        let durability = if flags[2] & 1 == 0 { Durability::PowerLoss } else { Durability::Process };
        let uuid = |i: usize| Uuid([1 + i as u8; 16]);
        let mut header = Header::new(Uuid(uuids[0]), geometry, durability);
        header.uuid.0[0] |= 1;
        header.compatible = ints[0];
        header.ro_compatible = ints[1];
        header.sequence = 1 + ints[2] % MAX_SEQUENCE;
        if flags[2] & 2 == 0 {
            header.state = State::Open;
            header.nonce = Uuid(uuids[1]);
            header.nonce.0[0] |= 1;
        }
        header.committed_uuid = Uuid(uuids[2]);
        header.committed_time = times[0];
        (header.image, header.target, header.begun) = (image, target, begun);
        (header.audited, header.audit_missed, header.audit_time) = (ints[1], ints[2], times[7]);
        (header.backup_time, header.dirt_time, header.created) = (times[1], times[2], times[3]);
        (header.last_clean, header.last_open) = (times[4], times[5]);
        header.dirt_reasons = Reasons(flags[0]);
        header.clean_dirty_bits = ints[3] % (geometry.bits() + 1);
        header.session = Session {
            boot_id: Uuid(uuids[3]),
            device: ints[4],
            inode: ints[5],
            mount: ints[6],
            flags: flags[1],
            birth: ints[6] as i64,
        };
        header.label = label.chars().take(60).collect();
        let outstanding = usize::from(checkpoint != 0);
        for i in 0..kept + outstanding {
            let outstanding = if flags[2] & 8 == 0 { PointRole::Outstanding } else { PointRole::Snapshot };
            let role = if i < kept { PointRole::Kept } else { outstanding };
            let at = header.file_length() + if gaps { ALIGN } else { 0 };
            let everything = ints[7] >> i & 7 == 1;
            let empty = everything || role == PointRole::Kept && ints[7] >> i & 3 == 0;
            header.points.push(Point {
                uuid: uuid(i),
                time: times[6],
                role,
                name: format!("point {i} é"),
                table_offset: if empty { 0 } else { at },
                bottom_offset: if empty { 0 } else { at + table_length(&geometry) },
                granules: match empty {
                    true if everything => geometry.bits(),
                    true => 0,
                    false => ints[7] >> (i % 64),
                },
                reasons: Reasons(flags[0]),
                target: if gaps { begun } else { None },
                reserved: Reserved::default(),
            });
        }
        if outstanding == 1 {
            header.checkpoint_uuid = uuid(kept);
            header.checkpoint_state = [CheckpointState::Freezing, CheckpointState::Frozen, CheckpointState::Aborting]
                [checkpoint as usize - 1];
        }
        let named = header.points.iter().find(|point| point.has_regions()).map(|point| point.uuid);
        if durability == Durability::PowerLoss && flags[2] & 4 == 0 {
            header.intent = named.map(|point| Intent { point, unit });
        }
        if let Some(last) = kept.checked_sub(1)
            && header.intent.is_some_and(|intent| intent.point == header.points[last].uuid)
        {
            (header.points[last].role, header.points[last].name) = (PointRole::Intent, String::new());
        }
        let words = geometry.words();
        header.runs =
            runs.into_iter().map(|(first, count)| first % words..(first % words + count).min(words)).collect();
        header
    })
}

proptest! {
    #[test]
    fn any_valid_header_comes_back_as_it_was(header in headers()) {
        let bytes = header.encode().unwrap();
        prop_assert_eq!(&Header::parse(&bytes).unwrap(), &header);
        prop_assert_eq!(header.used(), bytes.len());
        let end = header.regions().iter().map(|(_, range)| range.end).max();
        prop_assert_eq!(end, Some(header.file_length()));
    }

    /// Whatever is changed: no panic, and what parses encodes to the bytes that it came from.
    #[test]
    fn no_bytes_do_harm(
        header in headers(),
        edits in proptest::collection::vec((0..COPY_BYTES, any::<u8>()), 0..6),
        in_front in proptest::collection::vec((0..4200usize, any::<u8>()), 0..3),
        fixed_up in any::<bool>(),
    ) {
        let mut bytes = header.encode().unwrap();
        bytes.resize(COPY_BYTES, 0);
        for (at, value) in edits.into_iter().chain(in_front) {
            bytes[at] = value;
        }
        if fixed_up && (FIXED_BYTES..=COPY_BYTES).contains(&(u32_at(&bytes, h::USED.offset) as usize)) {
            seal(&mut bytes);
        }
        if let Ok(header) = Header::parse(&bytes) {
            let back = header.encode().unwrap();
            prop_assert_eq!(&back[..], &bytes[..back.len()]);
        }
    }
}
