//! Repairing a file that holds little writes little, whatever its header calls dirty: that stays on the list.

use dirtymap::format::{State, WordRanges};
use dirtymap::{
    Durability, Options,
    fsck::{check, plan_repair, repair},
    info::{Verdict, inspect},
};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

#[path = "common/forged.rs"]
mod forged;

const BITS: u64 = 1 << 28;
/// What repairs may add to the file, in bytes; all pages would take 32 MiB.
const MOST: u64 = 1 << 20;

#[test]
fn what_a_small_file_calls_dirty_stays_on_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let all = || WordRanges::one(0..BITS / 64);
    for (durability, state, runs, recorded, cut) in [
        (Durability::PowerLoss, State::Open, all(), 0, false),
        (Durability::Process, State::Open, all(), 0, false),
        // Closed, and less there than was counted, also if the page that fails was full.
        (Durability::PowerLoss, State::Clean, WordRanges::new(), 5000, false),
        // Cut off behind the headers and the first entries.
        (Durability::PowerLoss, State::Clean, WordRanges::new(), 5000, true),
    ] {
        let header = forged::header(BITS, durability, state, runs, recorded);
        let file = forged::write(&path, &header);
        // A page that fails is written all the same.
        file.write_all_at(&[1; 4], header.layout.table.start).unwrap();
        if cut {
            file.set_len(header.layout.table.start + 4).unwrap();
        }
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
