//! Backups of an export, and others that are there at the same moment: another backup, another program, a server of another version.

mod common;

use common::between::{between, refused};
use common::live::{Place, until};
use common::live_backup::{command, command_by, mirror, nothing_is_left, target, write};
use common::{GRANULE, Ran, skipped};
use dirtymap::info::inspect;
use dirtymap::{Access, Options};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// Whether a server can be held at a step.
fn has_steps() -> bool {
    if !cfg!(debug_assertions) {
        skipped("a build without debug assertions has no steps to be held at");
    }
    cfg!(debug_assertions)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn of_two_that_begin_at_the_same_moment_one_is_made() {
    if !has_steps() {
        return;
    }
    for by_image in [false, true] {
        let place = Place::new();
        let hold = place.dir.path("hold");
        let _server = place.start(&[("HOLD_AT", format!("CopyingOn@{}", hold.display()))]).expect("a server");
        write(&place, 3, 3);
        let (to, other) = (target(&place), place.dir.path("other.raw"));
        let first = command(&place, &[text(&to)]).spawn().expect("run dirtymap");
        // It has let go of the map, for the server to freeze it.
        until("the server", || hold.exists().then_some(()));
        let mut second = match by_image {
            false => command(&place, &[text(&other)]),
            true => {
                let mut command = common::dirtymap();
                command.args(["--output", "json", "backup"]).args([place.image(), other.clone()]);
                command.arg("--map").arg(place.map()).stdout(std::process::Stdio::piped());
                command
            }
        };
        let mut second = second.spawn().expect("run dirtymap");
        until("the end of the second", || second.try_wait().expect("look"));
        let ran = Ran::from(second.wait_with_output().expect("wait")).exits(8);
        assert!(ran.out.contains("locked") && ran.out.contains("is making a backup by it"), "{}", ran.out);
        fs::remove_file(&hold).expect("release");
        Ran::from(first.wait_with_output().expect("wait")).exits(0);
        let backup = fs::read(&to).expect("read");
        assert!(backup == fs::read(place.image()).expect("read"));
        nothing_is_left(&place, &backup);
    }
}

/// Any program may commit a checkpoint: then the map does not know the target as its backup.
#[test]
fn the_commit_of_another_program_is_not_taken_for_that_of_the_backup() {
    if !has_steps() {
        return;
    }
    let place = Place::new();
    let hold = place.dir.path("hold");
    let _server = place.start(&[("HOLD_AT", format!("ImageSynced@{}", hold.display()))]).expect("a server");
    write(&place, 3, 3);
    let child = command(&place, &[text(&target(&place))]).spawn().expect("run dirtymap");
    until("the commit", || hold.exists().then_some(()));
    let map = Options::new().access(Access::Shared).beside_snapshot(true).open(place.map()).expect("open");
    let frozen = map.checkpoint().expect("look").expect("a checkpoint").uuid;
    map.commit_checkpoint(frozen, false).expect("committed");
    map.close().expect("close");
    fs::remove_file(&hold).expect("release");
    let ran = Ran::from(child.wait_with_output().expect("wait")).exits(8);
    assert!(ran.out.contains("no-checkpoint") && ran.out.contains("by another program"), "{}", ran.out);
    assert_eq!(inspect(place.map()).expect("inspect").target, None);
}

#[test]
fn a_server_that_makes_no_way_for_the_snapshot_is_asked_twice_and_not_for_ever() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let control = between(&place.dir, &place.control(), move |request, server| match request {
        "snapshot-create" => match counted.fetch_add(1, SeqCst) {
            // So that it ends.
            5.. => refused("for-ever"),
            _ => refused("snapshot-exists"),
        },
        _ => server(),
    });
    let ran =
        Ran::from(command_by(&place, &control, &[text(&target(&place))]).output().expect("run dirtymap")).exits(8);
    assert!(ran.out.contains("snapshot-exists"), "{}", ran.out);
    assert_eq!(asked.load(SeqCst), 2);
}

/// A newer one says more, and an older one does not say what its image lies on.
#[test]
fn a_server_of_another_version_is_understood() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    let control = between(&place.dir, &place.control(), |request, server| {
        let mut answer = server();
        answer["later"] = "something".into();
        if request == "status" {
            let disk = answer["disks"][0].as_object_mut().expect("a disk");
            assert!(disk.remove("storage").is_some());
            disk.insert("later".into(), 1.into());
        }
        answer
    });
    let back_up = |to: &Path| Ran::from(command_by(&place, &control, &[text(to)]).output().expect("run dirtymap"));
    let link = place.dir.path("link.raw");
    fs::hard_link(place.image(), &link).expect("link");
    assert!(back_up(&link).exits(8).out.contains("same-file"), "the image is no target by another name");
    let to = target(&place);
    back_up(&to).exits(0);
    write(&place, 3, 3);
    assert_eq!(back_up(&to).exits(0).json()["bytes_copied"], GRANULE);
    assert!(fs::read(&to).expect("read") == fs::read(place.image()).expect("read"));
}

/// The kernel tells of write-back that has failed once, and the server of the snapshot has to hear it.
#[test]
fn a_backup_of_the_image_that_a_live_snapshot_refuses_has_synced_nothing() {
    let place = Place::new();
    let _server = place.start(&[]).expect("a server");
    write(&place, 3, 3);
    place.snapshot(&["create"]).exits(0);
    // A regular file that cannot be synced.
    let image = "/proc/version";
    let sync = fs::File::open(image).and_then(|file| file.sync_all());
    assert!(sync.is_err(), "it can");
    for more in ["--force", "--frozen"] {
        let to = target(&place);
        let ran = dm!("backup", image, to, "--map", place.map(), more).exits(8);
        ran.says("a live snapshot of the image is outstanding");
    }
    place.snapshot(&["abort"]).exits(0);
    mirror(&place, &[]).exits(0);
}
