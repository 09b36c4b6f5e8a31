//! Live snapshots, and other programs that end their checkpoints.

mod common;

use common::live::{Place, SIZE, until};
use common::serving::Control;
use common::{GRANULE, pattern, skipped};
use dirtymap::{Access, Options};
use std::fs;

fn write(place: &Place, g: u64, seed: u64) {
    place.client("").expect("connect").write(g * GRANULE, &pattern(GRANULE, seed), 0).expect("write");
}

/// Ends the checkpoint of a snapshot as a program does that knows nothing of its server.
fn end_beside(place: &Place, how: &str) {
    let map = Options::new().access(Access::Shared).beside_snapshot(true).open(place.map()).expect("open");
    let uuid = map.checkpoint().expect("look").expect("a checkpoint").uuid;
    if how == "abort" { map.abort_checkpoint(uuid) } else { map.commit_checkpoint(uuid, false) }.expect("ended");
    map.close().expect("close");
}

/// Whoever ends the checkpoint of a snapshot lets others write the image, and nobody copies for them.
#[test]
fn a_snapshot_whose_checkpoint_another_program_has_ended_is_read_no_more() {
    for (ends, look) in [("abort", ""), ("commit", ""), ("abort", "list"), ("abort", "status"), ("commit", "create")] {
        let place = Place::new();
        let _server = place.start(&[]).expect("a server");
        write(&place, 1, 1);
        place.snapshot(&["create", "--name", "now"]).exits(0);
        let mut client = place.client("@now").expect("connect");
        let scratch = fs::File::open(place.index().with_extension("data")).expect("open");
        end_beside(&place, ends);
        let (image, map) = (place.image(), place.map());
        let beside = ["write".as_ref(), image.as_os_str(), "--map".as_ref(), map.as_os_str(), "--at=64K".as_ref()];
        common::run_with(beside, b"not as it was frozen").exits(0);
        match look {
            "list" => {
                let listed = place.snapshot(&["list"]).exits(0).json()["snapshots"][0]["broken"].to_string();
                assert!(listed.contains("another program"), "{listed}");
            }
            "status" => drop(Control::connect(&place.control()).status()),
            "create" => drop(place.snapshot(&["create", "--name", "next"]).exits(0)),
            _ => assert!(scratch.metadata().expect("look").len() > 0),
        }
        let failed = client.read(GRANULE, 512, 0).expect_err("it was written meanwhile").to_string();
        assert!(failed.contains(if look == "create" { "ended" } else { "another program" }), "{failed}");
        assert!(client.block_status(0, SIZE, 0).is_err());
        // Nothing keeps what is of no use any more, nor stands in the way of the next one.
        assert_eq!(scratch.metadata().expect("look").len(), 0, "{look}");
        if look != "create" {
            assert!(place.snapshot(&["commit"]).exits(8).out.contains("another program"));
            place.snapshot(&["create", "--name", "next"]).exits(0);
        }
        assert!(place.client("@next").expect("connect").read(GRANULE, 512, 0).is_ok());
        place.snapshot(&["commit"]).exits(0);
    }
}

/// Another program commits it, when the server has found everything in order.
#[test]
fn the_commit_of_another_program_just_before_ours_is_not_told_as_ours() {
    if !cfg!(debug_assertions) {
        return skipped("a build without debug assertions has no steps to be held at");
    }
    for (keep, code) in [("--keep", 8), ("--output=json", 0)] {
        let place = Place::new();
        let held = place.dir.path("held");
        let _server = place.start(&[("HOLD_AT", format!("ImageSynced@{}", held.display()))]).expect("a server");
        write(&place, 1, 1);
        place.snapshot(&["create"]).exits(0);
        std::thread::scope(|scope| {
            let commits = scope.spawn(|| place.snapshot(&["commit", keep]));
            until("a commit", || held.exists().then_some(()));
            end_beside(&place, "commit");
            fs::remove_file(&held).expect("release");
            let ran = commits.join().expect("ended").exits(code);
            assert_eq!(ran.out.contains("another program"), code != 0, "{}", ran.out);
        });
        assert_eq!(place.snapshot(&["list"]).exits(0).json()["snapshots"], serde_json::json!([]));
    }
}
