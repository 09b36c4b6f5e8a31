//! Who may read a map may lock it, and so keep its writers waiting. So new files are their owner's alone, or for the users of
//! the image or map that they belong to.

use dirtymap::{DirtyMap, Options, fsck::repair};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn options() -> Options {
    Options::new().flush_interval(None)
}

#[test]
fn a_new_map_is_for_its_owner_or_for_the_users_of_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    options().create(at("alone"), 1 << 20).unwrap().close().unwrap();
    assert_eq!(mode(&at("alone")), 0o600);
    fs::write(at("image"), "").unwrap();
    fs::set_permissions(at("image"), Permissions::from_mode(0o640)).unwrap();
    let given = chown(at("image"), Some(1234), Some(5678)).is_ok();
    let image = File::open(at("image")).unwrap();
    options().like(&image).create(at("map"), 1 << 20).unwrap().close().unwrap();
    assert_eq!(mode(&at("map")), 0o640);
    let owner = |name: &str| fs::metadata(at(name)).map(|m| (m.uid(), m.gid())).unwrap();
    assert_eq!(owner("map"), owner("image"));
    if !given {
        eprintln!("SKIPPED: a map of an image of another owner: only root can make one");
    }
}

#[test]
fn what_is_made_of_a_map_is_not_for_more_users_than_the_map() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let map = options().create(at("map"), 1 << 30).unwrap();
    map.set(0..1).unwrap();
    let frozen = map.freeze(Some("point")).unwrap();
    map.commit_checkpoint(frozen.uuid, true).unwrap();
    map.export_since("point", at("exported")).unwrap();
    assert_eq!(mode(&at("exported")), 0o600);
    map.set(0..1).unwrap();
    let bottom = bottom_of(&at("map"));
    map.close().unwrap();
    for (of_map, of_undo) in [(0o600, 0o600), (0o660, 0o660)] {
        fs::set_permissions(at("map"), Permissions::from_mode(of_map)).unwrap();
        let file = fs::OpenOptions::new().write(true).open(at("map")).unwrap();
        file.write_all_at(&[0xA5; 512], bottom).unwrap();
        let done = repair(at("map"), Some(&at("undo")), Duration::ZERO, |_, _| {}).unwrap();
        assert!(done.is_needed());
        assert_eq!(mode(&at("undo")), of_undo);
        fs::remove_file(at("undo")).unwrap();
    }
    drop(DirtyMap::open(at("map")).unwrap());
}

/// Where the bottom level of a map begins.
fn bottom_of(path: &Path) -> u64 {
    let mut copy = vec![0; dirtymap::format::COPY_BYTES];
    File::open(path).and_then(|file| file.read_exact_at(&mut copy, 0)).unwrap();
    dirtymap::format::Header::parse(&copy).unwrap().layout.bottom.start
}
