//! Memory of the largest map. One test to a process, or they would count each other's.

use dirtymap::{DirtyMap, Options};

#[path = "common/resident.rs"]
mod resident;
use resident::resident;

/// What a flush looks at goes by what was reset, and not by how far apart it is.
#[test]
fn resets_at_both_ends_of_the_largest_map_are_flushed_without_looking_at_all_between() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.map");
    let most = 1u64 << 41;
    let map = Options::new().granularity(0).flush_interval(None).create(&path, most).unwrap();
    for at in [0, most / 3, most - 1] {
        map.set(at..at + 1).unwrap();
    }
    map.flush().unwrap();
    let before = resident();
    map.reset_all().unwrap();
    map.flush().unwrap();
    // Looking at a page of flags that nobody wrote costs page tables; 2^29 flags would need megabytes of them.
    let grown = resident().saturating_sub(before);
    assert!(grown < 1 << 20, "{grown} bytes");
    map.close().unwrap();
    assert!(DirtyMap::open(&path).unwrap().is_empty());
}
