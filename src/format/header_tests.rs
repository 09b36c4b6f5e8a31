//! The rules of a header, one test each: a valid header in which exactly one field is made wrong, with the
//! checksum set right again, must be refused for exactly that field.

use super::*;
use crate::Geometry;

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
        inode: 12,
        device: 34,
        reserved: Reserved::default(),
    };
    header.image = Some(stamp);
    header.target = Some(Stamp { kind: StampKind::BlockDevice, inode: 0, exact: false, ..stamp });
    header.backup_time = 1;
    header.dirt_reasons = Reasons::CRASH | Reasons::REPAIR;
    header.dirt_time = 2;
    header.created = 3;
    header.last_clean = 4;
    header.last_open = 5;
    header.clean_dirty_bits = 10_000;
    header.session = Session { boot_id: Uuid([5; 16]), device: 6, inode: 7, mount: 8, flags: Session::DEGRADED };
    header.label = "vm-17, Platte ä".into();
    let point = |uuid, role, name: &str, at| Point {
        uuid: Uuid([uuid; 16]),
        time: 6,
        role,
        name: name.into(),
        table_offset: at,
        bottom_offset: at + ALIGN,
        reserved: Reserved::default(),
    };
    header.points =
        vec![point(1, PointRole::Kept, "monday", end), point(3, PointRole::Outstanding, "tuesday", end + 2 * ALIGN)];
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
