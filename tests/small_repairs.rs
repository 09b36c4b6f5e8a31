//! Repairing a file that holds little writes little, whatever its header calls dirty: that stays on the list.

use dirtymap::format::{COPIES, Header, Runs, State, Uuid, copy_offset};
use dirtymap::{Durability, Geometry, Options, Verdict, check, inspect, plan_repair, repair};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

const BITS: u64 = 1 << 36;
/// What repairs may add to the file, in bytes; all pages would take 8 GiB.
const MOST: u64 = 1 << 20;

#[test]
fn what_a_small_file_calls_dirty_stays_on_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let all = || Runs::one(0..BITS / 64);
    for (durability, state, runs, recorded, cut) in [
        (Durability::PowerLoss, State::Open, all(), 0, false),
        (Durability::Process, State::Open, all(), 0, false),
        // Closed, and less there than was counted, also if the page that fails was full.
        (Durability::PowerLoss, State::Clean, Runs::new(), 5000, false),
        // Cut off behind the headers and the first entries.
        (Durability::PowerLoss, State::Clean, Runs::new(), 5000, true),
    ] {
        let mut header = Header::new(Uuid([7; 16]), Geometry::new(BITS, 0).unwrap(), durability);
        header.sequence = 1;
        header.state = state;
        header.nonce = if state == State::Open { Uuid([8; 16]) } else { Uuid::NIL };
        header.runs = runs;
        header.clean_dirty_bits = recorded;
        let file = File::create(&path).unwrap();
        (0..COPIES).for_each(|copy| file.write_all_at(&header.encode().unwrap(), copy_offset(copy)).unwrap());
        // A page that fails is written all the same.
        file.write_all_at(&[1; 4], header.layout.table.start).unwrap();
        file.set_len(if cut { header.layout.table.start + 4 } else { header.file_length() }).unwrap();
        drop(file);

        let before = fs::metadata(&path).unwrap().blocks() * 512;
        let plan = repair(&path, None, Duration::ZERO, |_, _| ()).unwrap();
        assert_eq!((plan.is_needed(), plan.dirty), (true, (BITS, BITS)));
        let grown = fs::metadata(&path).unwrap().blocks() * 512 - before;
        assert!(grown < MOST, "{grown} bytes");
        let report = check(&path, |_, _| ()).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert!(!plan_repair(&path, |_, _| ()).unwrap().is_needed());
        let info = inspect(&path).unwrap();
        assert_eq!((info.dirty, info.verdict), (Some((BITS, BITS)), Verdict::Superset));
        assert!(Options::new().read_only(true).open(&path).unwrap().is_full());
    }
}
