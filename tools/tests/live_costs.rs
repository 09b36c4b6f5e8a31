//! What a live snapshot takes: room of scratch, and what is read for a read.

mod common;

use common::live::{Place, SIZE, until};
use common::{GRANULE, pattern, skipped};
use std::fs;
use std::os::unix::fs::MetadataExt;

fn scratch_bytes(place: &Place) -> u64 {
    let listed = place.snapshot(&["list"]).exits(0).json();
    listed["snapshots"][0]["disks"][0]["scratch_bytes"].as_u64().expect("a number")
}

/// As long as a freeze does not know what it will freeze, all that is written is copied.
#[test]
fn what_was_copied_while_it_froze_and_is_not_wanted_takes_no_room() {
    if !cfg!(debug_assertions) {
        return skipped("a build without debug assertions has no steps to be held at");
    }
    for late in [false, true] {
        let place = Place::new();
        let [drained, copied] = ["drained", "copied"].map(|name| place.dir.path(name));
        let hold = format!("Drained@{},DataWritten@{}", drained.display(), copied.display());
        let server = place.start(&[("HOLD_AT", hold)]).expect("a server");
        // A byte of granule 1 is frozen, and nothing of it is written meanwhile.
        common::run(["set".as_ref(), place.map().as_os_str(), "64K".as_ref(), "1".as_ref()]).exits(0);
        let write = |g: u64| {
            let mut guest = place.client("").expect("connect");
            guest.write(g * GRANULE, &pattern(GRANULE, g), 0).expect("write");
        };
        std::thread::scope(|scope| {
            let creates = scope.spawn(|| place.snapshot(&["create", "--name", "now"]).exits(0));
            until("the freeze", || drained.exists().then_some(()));
            let writes = scope.spawn(|| write(5));
            until("a copy", || copied.exists().then_some(()));
            // The copy is known of before it is known what is frozen, or after that.
            if !late {
                fs::remove_file(&copied).expect("release");
                while !writes.is_finished() {
                    std::thread::yield_now();
                }
            }
            fs::remove_file(&drained).expect("release");
            creates.join().expect("created");
            if late {
                fs::remove_file(&copied).expect("release");
            }
            writes.join().expect("written");
        });
        let room = || place.index().with_extension("data").metadata().expect("look").blocks() * 512;
        assert_eq!((scratch_bytes(&place), room()), (0, 0), "late: {late}");
        // What is wanted keeps what it has.
        write(1);
        assert_eq!((scratch_bytes(&place), room()), (GRANULE, GRANULE));
        if common::live::takes_over() {
            server.kill();
            let _next = place.start(&[]).expect("the next server");
            assert_eq!((scratch_bytes(&place), room()), (GRANULE, GRANULE), "late: {late}");
        }
    }
}

/// That its checkpoint is outstanding still is seen in memory, as long as nothing was committed to the map.
#[test]
fn a_read_of_a_snapshot_reads_no_header_of_the_map() {
    let place = Place::new();
    let server = place.start(&[]).expect("a server");
    place.snapshot(&["create", "--name", "now", "--whole"]).exits(0);
    let mut client = place.client("@now").expect("connect");
    let so_far = || {
        let io = fs::read_to_string(format!("/proc/{}/io", server.id())).expect("read");
        let read = io.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("a line");
        read.parse::<u64>().expect("a number")
    };
    let mut read = |times: u64| (0..times).for_each(|i| drop(client.read(i * 4096 % SIZE, 4096, 0).expect("read")));
    // The first one has to look.
    read(1);
    let before = so_far();
    read(100);
    // A header is as long as what is read here, or longer; some is for what else a server does.
    let took = so_far() - before;
    assert!((100 * 4096..150 * 4096).contains(&took), "{took} bytes were read for 100 blocks of 4096");
}
