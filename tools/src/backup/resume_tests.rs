//! Full backups that are stopped, and those that go on with what they have written: each member is the image as it was, whatever was there
//! before, and what can be kept is.

use super::Outcome;
use super::power_tests::{after, cuts};
use super::set_tests::World;
use crate::files::PIECE;
use crate::rng::Rng;
use crate::sets::{AT_STEP, Folder, Stored, verify_file};
use crate::terminal::signals;
use dirtymap::{DirtyMap, ImageStamp, Options};
use dirtymap_cli::set_json::part_name;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

const CLUSTER: u64 = 4096;
/// What one table maps.
const TABLE: u64 = CLUSTER / 8 * CLUSTER;
/// Two tables and a bit, neither whole clusters nor sectors.
const SIZE: u64 = 2 * TABLE + PIECE + 777;

impl World {
    fn part(&self) -> PathBuf {
        self.set.join(part_name("0001.qcow2"))
    }

    /// Backs up the image of `world`, until so many pieces are copied.
    fn stop_after(&self, world: &World, pieces: usize) -> String {
        let mut copied = 0;
        AT_STEP.set(Some(Box::new(move |step| {
            copied += usize::from(step == "piece");
            signals::IN_TEST.set(copied >= pieces);
        })));
        let stopped = self.back_up(&self.args(&world.image()));
        AT_STEP.set(None);
        signals::IN_TEST.set(false);
        stopped.expect_err("stopped").message
    }

    /// A backup of the image of `world` as it is; its member is whole. Bytes that it has kept.
    fn go_on(&self, world: &World) -> (u64, Outcome) {
        let outcome = self.back_up(&self.args(&world.image())).unwrap_or_else(|e| panic!("{e}"));
        let kept = outcome.member.as_ref().expect("a member").bytes_kept;
        let verified = outcome.bytes_verified + outcome.bytes_verified_holes;
        assert_eq!(verified, outcome.size, "everything is read back, or a hole");
        assert!(kept + outcome.bytes_copied <= outcome.size);
        let number: usize = outcome.member.as_ref().expect("a member").number.parse().expect("a number");
        let mut references = vec![Vec::new(); number];
        references[number - 1] = fs::read(world.image()).expect("read");
        self.references.replace(references);
        assert_eq!(self.check_members(), 1);
        self.check_settled();
        let folder = Folder::open(&self.set, Duration::ZERO).unwrap_or_else(|e| panic!("{e}"));
        let member = &folder.set.members[0];
        let stored = Stored::open(&folder.at(&member.file)).unwrap_or_else(|e| panic!("{e}"));
        verify_file(&folder, member, stored).unwrap_or_else(|e| panic!("{e}"));
        (kept, outcome)
    }

    /// Data of the image that lies in a range.
    fn data_in(&self, range: Range<u64>) -> u64 {
        let image = fs::read(self.image()).expect("read");
        let clusters = image[range.start as usize..range.end.min(SIZE) as usize].chunks(CLUSTER as usize);
        clusters.filter(|cluster| cluster.iter().any(|byte| *byte != 0)).map(|cluster| cluster.len() as u64).sum()
    }

    /// An image of which some is zeros, and that no backup has seen.
    fn to_stop() -> World {
        let world = World::of_tables(SIZE);
        world.write(9 * CLUSTER, &[0; 5 * CLUSTER as usize]);
        world.write(TABLE - CLUSTER, &[0; 3 * CLUSTER as usize]);
        world
    }
}

#[test]
fn a_full_backup_that_is_killed_keeps_every_table_that_is_whole() {
    let world = World::to_stop();
    let left = world.at_each_step(|| _ = world.keep(|_| ()));
    let mut pieces = 0;
    for (step, left) in left.iter().filter(|(step, _)| !["removed", "listed", "committed"].contains(step)) {
        pieces += u64::from(*step == "piece");
        // A table is written as soon as a cluster of the next one comes.
        let expected = match *step {
            "written" => world.data_in(0..SIZE),
            "named" => 0,
            _ => world.data_in(0..pieces.saturating_sub(1) * PIECE / TABLE * TABLE),
        };
        let (kept, outcome) = left.go_on(&world);
        assert_eq!(kept, expected, "after {step}, {pieces} pieces");
        assert_eq!(kept + outcome.bytes_copied, world.data_in(0..SIZE), "after {step}, {pieces} pieces");
    }
    assert_eq!(pieces, SIZE.div_ceil(PIECE));
}

#[test]
fn a_full_backup_that_is_stopped_keeps_all_that_it_has_copied() {
    for pieces in 1..=SIZE.div_ceil(PIECE) {
        let world = World::to_stop();
        let message = world.stop_after(&world, pieces as usize);
        assert!(message.ends_with("and the next backup goes on with what this one has written"), "{message}");
        let folder = Folder::open(&world.set, Duration::ZERO).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(folder.unfinished(), world.part().metadata().map(|m| m.len()).ok());
        assert!(folder.unfinished() > Some(0) && !folder.is_unsettled(), "it was stopped in good order");
        drop(folder);
        assert_eq!(world.go_on(&world).0, world.data_in(0..pieces * PIECE), "{pieces} pieces");
    }
}

/// What is written between the two is found by comparing, wherever it lies; nothing is moved for it.
#[test]
fn what_was_written_meanwhile_is_copied_again_and_the_rest_kept() {
    let world = World::to_stop();
    world.stop_after(&world, 4);
    world.write(3 * CLUSTER + 5, b"another");
    world.write(10 * CLUSTER, b"data where zeros were");
    world.write(TABLE / 2, &[0; 2 * CLUSTER as usize]);
    world.write(TABLE + PIECE, b"another");
    let before = 4 * PIECE / CLUSTER - 8;
    let (kept, outcome) = world.go_on(&world);
    assert_eq!(kept / CLUSTER, before - 4);
    // The two clusters of zeros keep their place.
    assert_eq!(outcome.bytes_copied, world.data_in(0..SIZE) - kept + 2 * CLUSTER);
}

/// However often it is stopped, and whatever is written meanwhile.
#[test]
fn any_number_of_stops_ends_in_a_whole_member() {
    let mut most = 0;
    for seed in 0..8 {
        let (world, mut rng) = (World::to_stop(), Rng::new(seed));
        for _ in 0..rng.below(20) {
            world.stop_after(&world, 1 + rng.below(6) as usize);
            for _ in 0..rng.below(4) {
                let at = rng.below(SIZE - 2 * CLUSTER);
                let bytes = vec![rng.below(2) as u8 * 7; 1 + rng.below(2 * CLUSTER) as usize];
                world.write(at, &bytes);
            }
        }
        most = most.max(world.go_on(&world).0);
    }
    assert!(most > TABLE, "{most}");
}

/// A disk may have lost it, or something else have written to it: nothing of it is relied upon.
#[test]
fn whatever_is_in_the_part_the_member_is_the_image() {
    let world = World::to_stop();
    world.stop_after(&world, 5);
    let [part, map, json] = [world.part(), world.map.clone(), world.set.join("set.json")];
    let [good, map_then, json_then] = [&part, &map, &json].map(|path| fs::read(path).expect("read"));
    let clusters = good.len() as u64 / CLUSTER;
    let mut rng = Rng::new(1);
    // The first table of tables, tables, and some of everything.
    let l2 =
        |i: usize| u64::from_be_bytes(good[(CLUSTER as usize + 8 * i)..][..8].try_into().expect("8")) << 1 >> 1 >> 12;
    let places = (0..3).chain([l2(0), l2(1)]).chain((0..12).map(|_| rng.below(clusters)));
    let (mut kept, mut rounds) = (0, 0);
    for place in places.collect::<Vec<_>>() {
        for how in 0..4 {
            let mut bad = good.clone();
            let at = (place * CLUSTER) as usize;
            match how {
                0 => bad[at..at + CLUSTER as usize].fill(0),
                1 => bad.copy_within(2 * CLUSTER as usize..3 * CLUSTER as usize, at),
                2 => bad[at + 8 * rng.below(CLUSTER / 8) as usize] ^= 0x80,
                _ => bad.truncate(at),
            }
            fs::remove_dir_all(&world.set).expect("remove");
            fs::create_dir(&world.set).expect("make");
            for (path, bytes) in [(&part, &bad), (&map, &map_then), (&json, &json_then)] {
                fs::write(path, bytes).expect("write");
            }
            kept += u64::from(world.go_on(&world).0 > 0);
            rounds += 1;
        }
    }
    assert!(kept > rounds / 2 && kept < rounds, "{kept} of {rounds}");
}

#[test]
fn a_power_cut_in_a_backup_that_goes_on_leaves_the_set_as_before_or_with_a_whole_member() {
    let world = World::to_stop();
    world.stop_after(&world, 3);
    world.write(10 * CLUSTER, b"data where zeros were");
    let (during, end, _) = cuts(&world, None, || _ = world.keep(|_| ()));
    let mut kept = 0;
    for state in &during {
        let left = after(&world, state);
        if left.check_members() == 0 {
            kept += u64::from(left.go_on(&world).0 > 0);
        }
        left.remove();
    }
    assert!(kept > 0, "of {} states", during.len());
    assert!(end.iter().all(|state| after(&world, state).check_members() == 1));
}

#[test]
fn another_map_and_another_length_are_no_hindrance() {
    // Clusters of another size have other places: nothing is kept.
    let world = World::to_stop();
    world.stop_after(&world, 5);
    fs::remove_file(&world.map).expect("remove");
    let options = Options::new().image(ImageStamp::of_path(&world.image()).expect("a stamp")).dirty(true);
    options.clone().granularity(13).create(&world.map, SIZE).expect("create").close().expect("close");
    assert_eq!(world.go_on(&world).0, 0);
    // A longer image is begun with what the shorter one had.
    let world = World::to_stop();
    world.stop_after(&world, 5);
    File::options().write(true).open(world.image()).expect("open").set_len(SIZE + TABLE).expect("grow");
    fs::remove_file(&world.map).expect("remove");
    let options = Options::new().image(ImageStamp::of_path(&world.image()).expect("a stamp")).dirty(true);
    options.granularity(12).create(&world.map, SIZE + TABLE).expect("create").close().expect("close");
    assert!(world.go_on(&world).0 > 2 * TABLE - PIECE);
}

#[test]
fn what_no_backup_can_go_on_with_is_removed() {
    let world = World::to_stop();
    world.keep(|_| ());
    world.write(0, b"new");
    let mut full = world.args(&world.image());
    full.how.full = true;
    AT_STEP.set(Some(Box::new(|step| signals::IN_TEST.set(step == "written"))));
    world.back_up(&full).map(drop).expect_err("stopped");
    AT_STEP.set(None);
    signals::IN_TEST.set(false);
    let part = world.set.join(part_name("0002.qcow2"));
    assert!(part.exists());
    assert!(!world.keep(|_| ()).full && !part.exists());
    world.check_settled();
    // Nor is anything left of one that has written nothing.
    world.stop_after(&world, 0);
    world.check_settled();
}

#[test]
fn somebody_else_s_file_is_not_gone_on_with() {
    let world = World::to_stop();
    fs::create_dir(&world.set).expect("make");
    fs::write(world.part(), b"somebody's").expect("write");
    assert_eq!(world.keep(|_| ()).member.expect("a member").number, "0002");
    assert_eq!(fs::read(world.part()).expect("read"), b"somebody's");
}

/// Does something to the file that was written, and before it has its name, while a backup goes on with what is there.
fn spoilt(world: &World, mut spoil: impl FnMut() + 'static) -> String {
    AT_STEP.set(Some(Box::new(move |step| {
        if step == "written" {
            spoil();
        }
    })));
    let failed = world.back_up(&world.args(&world.image())).expect_err("it is not what was written");
    AT_STEP.set(None);
    let folder = Folder::open(&world.set, Duration::ZERO).unwrap_or_else(|e| panic!("{e}"));
    assert!(folder.set.members.is_empty());
    let map = DirtyMap::open(&world.map).expect("open");
    assert!(map.checkpoint().expect("a header").is_none() && map.dirty_len() == SIZE);
    failed.kind.to_string()
}

/// What was kept was compared before the rest was copied: it is read back at the end as everything is.
#[test]
fn what_was_kept_and_changes_before_the_end_is_found() {
    for entries in [false, true] {
        let world = World::to_stop();
        world.stop_after(&world, 5);
        let part = world.part();
        let kind = spoilt(&world, move || {
            let file = File::options().read(true).write(true).open(&part).expect("open");
            let mut entry = [0; 8];
            file.read_exact_at(&mut entry, CLUSTER).expect("read");
            let table = u64::from_be_bytes(entry) << 1 >> 1;
            let mut two = [0; 16];
            file.read_exact_at(&mut two, table).expect("read");
            if entries {
                two.rotate_left(8);
                return file.write_all_at(&two, table).expect("write");
            }
            let first = u64::from_be_bytes(*two.first_chunk().expect("8")) << 1 >> 1;
            file.write_all_at(b"other data", first).expect("write");
        });
        assert_eq!(kind, "verify-failed");
        world.go_on(&world);
    }
}

#[test]
fn another_file_by_the_name_of_the_part_is_no_member() {
    let world = World::to_stop();
    world.stop_after(&world, 5);
    let (part, other) = (world.part(), world.set.join("other"));
    let kind = spoilt(&world, move || {
        fs::copy(&part, &other).expect("copy");
        fs::rename(&other, &part).expect("rename");
    });
    assert_eq!(kind, "set-changed");
    world.go_on(&world);
}

/// The table at hand is written by each that is stopped: it goes on naming what those before had put behind that place.
#[test]
fn one_that_is_stopped_earlier_than_the_last_keeps_what_that_had() {
    for pieces in 0..=5 {
        let world = World::to_stop();
        world.stop_after(&world, 5);
        for _ in 0..3 {
            world.stop_after(&world, pieces);
        }
        assert_eq!(world.go_on(&world).0, world.data_in(0..5 * PIECE), "{pieces} pieces");
    }
}

/// As tools do that copy a folder by links.
#[test]
fn a_part_with_another_name_is_left_to_that() {
    let world = World::to_stop();
    world.stop_after(&world, 5);
    let other = world.set.parent().expect("a directory").join("other");
    fs::hard_link(world.part(), &other).expect("link");
    let then = fs::read(&other).expect("read");
    assert_eq!(world.go_on(&world).0, 0);
    assert!(fs::read(&other).expect("read") == then && !world.part().exists());
}
