//! Kills at every step of a backup to a set: what is there then is looked at, and gone on from.
//!
//! A kill is a copy of the folder and of the map while the step is under way: just what a killed process leaves.

use super::prune::prune;
use super::{Outcome, Wanted, back_up};
use crate::cli::{BackupHow, Format};
use crate::exit::Result;
use crate::files::Content;
use crate::sets::{AT_STEP, DOUBTFUL, Folder};
use crate::terminal::output::Output;
use crate::terminal::signals;
use dirtymap::{DirtyMap, Options};
use dirtymap_cli::set_json;
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tempfile::TempDir;

pub const GRANULE: u64 = 65536;
/// Not whole granules, nor sectors.
const SIZE: u64 = 20 * GRANULE + 777;

/// An image with its map and its set, and what the image was like at each backup.
pub struct World {
    dir: TempDir,
    pub map: PathBuf,
    pub set: PathBuf,
    pub references: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl World {
    pub fn new() -> World {
        World::of(SIZE, 16, &std::env::temp_dir())
    }

    /// Of few granules, and not whole ones; in memory, where there is such a place, as it is synced often.
    pub fn small() -> World {
        World::of(4 * GRANULE + 777, 16, memory())
    }

    /// Of clusters of 4 KiB, that take several tables.
    pub fn of_tables(size: u64) -> World {
        World::of(size, 12, memory())
    }

    fn of(size: u64, granularity: u32, place: &Path) -> World {
        let dir = tempfile::tempdir_in(place).expect("a directory");
        let bytes: Vec<u8> = (0..size).map(|i| (i / 1000) as u8).collect();
        fs::write(dir.path().join("image"), bytes).expect("write");
        let (map, set) = (dir.path().join("map"), dir.path().join("set"));
        let stamp = dirtymap::ImageStamp::of_path(&dir.path().join("image")).expect("a stamp");
        let options = Options::new().image(stamp).dirty(true).granularity(granularity);
        options.create(&map, size).expect("create").close().expect("close");
        World { dir, map, set, references: Rc::default() }
    }

    pub fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// A directory of its own beside the image.
    pub fn place(&self) -> PathBuf {
        tempfile::tempdir_in(self.dir.path()).expect("a directory").keep()
    }

    /// Removes what a cut has left.
    pub fn remove(&self) {
        fs::remove_dir_all(self.map.parent().expect("a directory")).expect("remove");
    }

    /// What a kill has left, beside the same image.
    pub fn left(&self, map: PathBuf, set: PathBuf) -> World {
        // Of the directory only the image is used.
        let dir = tempfile::tempdir_in(self.dir.path()).expect("a directory");
        World { dir, map, set, references: self.references.clone() }
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        let map = DirtyMap::open(&self.map).expect("open");
        map.set(at..at + bytes.len() as u64).expect("set");
        let image = fs::File::options().write(true).open(self.image()).expect("open");
        image.write_all_at(bytes, at).expect("write");
        image.sync_all().expect("sync");
        map.close_with_image(&dirtymap::ImageStamp::of(&image).expect("a stamp")).expect("close");
    }

    pub fn args(&self, image: &Path) -> Wanted {
        Wanted { image: image.into(), map: self.map.clone(), set: Some(self.set.clone()), ..Wanted::default() }
    }

    pub fn back_up(&self, args: &Wanted) -> Result<Outcome> {
        back_up(args, Duration::ZERO, Output::new(Format::Human, 0).without_notes())
    }

    /// Backs up the image as it is, and remembers that.
    pub fn keep(&self, change: impl FnOnce(&mut BackupHow)) -> Outcome {
        let mut args = self.args(&self.image());
        change(&mut args.how);
        self.references.borrow_mut().push(fs::read(self.image()).expect("read"));
        self.back_up(&args).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Every member that `set.json` has is as the image was then; says how many there are.
    pub fn check_members(&self) -> usize {
        let Ok(folder) = Folder::open(&self.set, Duration::ZERO) else {
            let names = fs::read_dir(&self.set).into_iter().flatten().map(|entry| entry.expect("an entry").file_name());
            let members = names.filter(|name| name.to_str().is_some_and(|name| set_json::number(name).is_some()));
            assert_eq!(members.count(), 0, "members without set.json");
            return 0;
        };
        for (index, member) in folder.set.members.iter().enumerate() {
            let disk = folder.prove(index, true).unwrap_or_else(|e| panic!("{e}"));
            let mut bytes = vec![0; disk.len() as usize];
            disk.read(&mut bytes, 0).unwrap_or_else(|e| panic!("{e}"));
            let number: usize = member.number().parse().expect("a number");
            assert!(bytes == self.references.borrow()[number - 1], "member {number} is another one");
        }
        folder.set.members.len()
    }

    /// Nothing is left to be settled, in the folder or in the map.
    pub fn check_settled(&self) {
        let folder = Folder::open(&self.set, Duration::ZERO).unwrap_or_else(|e| panic!("{e}"));
        assert!(!folder.is_unsettled());
        let mut there: Vec<String> = fs::read_dir(&self.set)
            .expect("read")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        there.sort();
        let mut expected: Vec<String> = folder.set.members.iter().map(|member| member.file.clone()).collect();
        expected.push("set.json".into());
        assert_eq!(there, expected);
        let map = Options::new().read_only(true).open(&self.map).expect("open");
        let points = map.points().expect("points");
        let newest = folder.set.members.last().and_then(|member| member.point.as_ref()).map(|point| point.name.clone());
        assert_eq!(points.into_iter().map(|point| Some(point.name)).collect::<Vec<_>>(), [newest]);
        assert!(map.checkpoint().expect("a header").is_none());
    }

    /// What is there at each step of `work`: the step's name, and a copy.
    pub fn at_each_step(&self, work: impl FnOnce()) -> Vec<(&'static str, World)> {
        let found: Rc<RefCell<Vec<(&'static str, PathBuf)>>> = Rc::default();
        let (steps, map, set) = (found.clone(), self.map.clone(), self.set.clone());
        let base = self.dir.path().to_path_buf();
        let copy = move |step: &'static str| {
            let to = base.join(format!("left-{}-{}", base.read_dir().expect("read").count(), step.replace(' ', "-")));
            fs::create_dir_all(to.join("set")).expect("make");
            fs::copy(&map, to.join("map")).expect("copy");
            for entry in fs::read_dir(&set).expect("read") {
                let entry = entry.expect("an entry");
                fs::copy(entry.path(), to.join("set").join(entry.file_name())).expect("copy");
            }
            steps.borrow_mut().push((step, to));
        };
        AT_STEP.set(Some(Box::new(copy)));
        work();
        AT_STEP.set(None);
        let found = found.take();
        found.into_iter().map(|(step, at)| (step, self.left(at.join("map"), at.join("set")))).collect()
    }
}

/// Where files are that are synced often.
fn memory() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}

/// The next backup after a kill: it succeeds, and leaves nothing. Says whether it was full.
pub fn go_on(world: &World, left: &World, step: &str) -> bool {
    let before = left.check_members();
    assert!(before <= world.references.borrow().len(), "{step}");
    let outcome = left.back_up(&left.args(&world.image())).unwrap_or_else(|e| panic!("after {step}: {e}"));
    // Whatever number it got, it is of the image as it is.
    let mut references = world.references.borrow_mut();
    let known = references.len();
    let number: usize = outcome.member.as_ref().expect("a member").number.parse().expect("a number");
    let now = fs::read(world.image()).expect("read");
    references.resize(known.max(number), now);
    drop(references);
    left.check_members();
    left.check_settled();
    assert!(Options::new().read_only(true).open(&left.map).expect("open").is_empty(), "after {step}");
    world.references.borrow_mut().truncate(known);
    outcome.full
}

const STEPS: [&str; 6] = ["begun", "frozen", "written", "named", "listed", "committed"];

fn names(left: &[(&'static str, World)]) -> Vec<&'static str> {
    left.iter().map(|(step, _)| *step).filter(|step| !["removed", "piece"].contains(step)).collect()
}

#[test]
fn a_first_backup_that_is_killed_at_any_step_is_made_up_for() {
    let world = World::new();
    let left = world.at_each_step(|| _ = world.keep(|_| ()));
    assert_eq!(names(&left), STEPS);
    for (step, left) in &left {
        let listed = ["listed", "committed"].contains(step);
        assert_eq!(left.check_members(), usize::from(listed), "{step}");
        assert_eq!(go_on(&world, left, step), !listed, "{step}: a whole member is one to go on from");
    }
    world.check_settled();
}

#[test]
fn a_later_backup_that_is_killed_at_any_step_is_made_up_for_without_a_full_one() {
    let world = World::new();
    world.keep(|_| ());
    world.write(3 * GRANULE + 5, b"something");
    world.write(SIZE - 1, b"!");
    world.keep(|args| args.name = Some("monday".into()));
    world.write(7 * GRANULE, &[9; 70_000]);
    world.write(3 * GRANULE, &[0; GRANULE as usize]);
    let left = world.at_each_step(|| _ = world.keep(|_| ()));
    assert_eq!(names(&left), STEPS);
    for (step, left) in &left {
        let listed = ["listed", "committed"].contains(step);
        assert_eq!(left.check_members(), if listed { 3 } else { 2 }, "{step}");
        assert!(!go_on(&world, left, step), "{step}: everything is known that was written since");
    }
    world.check_settled();
}

#[test]
fn a_prune_that_is_killed_at_any_step_leaves_every_member_that_is_kept() {
    let world = World::new();
    for round in 0..4u8 {
        world.write(u64::from(round) * GRANULE, &[round; 5000]);
        world.keep(|_| ());
    }
    let left = world.at_each_step(|| {
        let mut folder = Folder::open_to_change(&world.set, Duration::ZERO).expect("open");
        let pruned = prune(&mut folder, 2).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(pruned.members, ["0001", "0002"]);
    });
    assert_eq!(names(&left), ["merge written", "merge named", "merge listed", "merged", "pruned"]);
    assert_eq!(world.check_members(), 2);
    for (step, left) in &left {
        assert!(left.check_members() >= 2, "{step}");
        let mut folder = Folder::open_to_change(&left.set, Duration::ZERO).expect("open");
        prune(&mut folder, 2).unwrap_or_else(|e| panic!("{step}: {e}"));
        drop(folder);
        assert_eq!(left.check_members(), 2, "{step}");
        left.check_settled();
        // And a backup goes on from there, incrementally, also where that is what settles it.
        assert!(!go_on(&world, left, step), "{step}");
    }
    for (step, left) in world.at_each_step(|| _ = world.keep(|args| args.keep = Some(1))) {
        left.check_members();
        assert!(!go_on(&world, &left, step), "{step}");
    }
    assert_eq!(world.check_members(), 1);
    world.check_settled();
}

#[test]
fn a_backup_of_a_snapshot_that_is_killed_is_made_again_by_the_same_command() {
    let world = World::new();
    world.keep(|_| ());
    world.write(GRANULE, b"before");
    let map = DirtyMap::open(&world.map).expect("open");
    map.freeze(Some("friday")).expect("freeze");
    let stamp = dirtymap::ImageStamp::of_path(&world.image()).expect("a stamp");
    map.close_with_image(&stamp).expect("close");
    let snapshot = world.dir.path().join("snapshot");
    fs::copy(world.image(), &snapshot).expect("copy");
    world.references.borrow_mut().push(fs::read(&snapshot).expect("read"));
    let frozen = |world: &World| {
        let mut args = world.args(&snapshot);
        args.how.frozen = true;
        args
    };
    let left = world.at_each_step(|| _ = world.back_up(&frozen(&world)).unwrap_or_else(|e| panic!("{e}")));
    assert_eq!(names(&left), STEPS);
    for (step, left) in left.iter().filter(|(step, _)| *step != "committed") {
        let outcome = left.back_up(&frozen(left)).unwrap_or_else(|e| panic!("after {step}: {e}"));
        let member = outcome.member.expect("a member");
        assert_eq!((member.number.as_str(), member.name.as_deref(), outcome.full), ("0002", Some("friday"), false));
        assert_eq!(member.settled, *step == "listed");
        assert_eq!(left.check_members(), 2, "{step}");
        left.check_settled();
    }
}

/// Changes a byte of a file at a step, behind the back of whatever is at work.
pub fn spoil(at: &'static str, path: PathBuf, offset: u64) {
    AT_STEP.set(Some(Box::new(move |step| {
        if step == at {
            let file = fs::File::options().read(true).write(true).open(&path).expect("open");
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).expect("read");
            file.write_all_at(&[byte[0] ^ 1], offset).expect("write");
        }
    })));
}

#[test]
fn of_a_cluster_that_begins_as_before_each_byte_counts() {
    let world = World::small();
    world.keep(|_| ());
    let same = fs::read(world.image()).expect("read");
    world.write(0, &same[..GRANULE as usize]);
    assert_eq!(world.keep(|_| ()).member.expect("a member").bytes_equal, GRANULE);
    for at in [4095, 4096, GRANULE - 1, 4 * GRANULE + 776] {
        world.write(at, &[0xee]);
        assert_eq!(world.keep(|_| ()).member.expect("a member").bytes_equal, 0, "{at}");
    }
    assert_eq!(world.check_members(), 6);
}

#[test]
fn what_does_not_read_back_as_it_was_copied_is_no_member() {
    let world = World::new();
    world.keep(|_| ());
    world.write(2 * GRANULE, b"new");
    spoil("written", world.image(), 2 * GRANULE + 70);
    let failure = world.back_up(&world.args(&world.image())).expect_err("the image is another one");
    AT_STEP.set(None);
    assert_eq!(failure.kind, "verify-failed");
    assert_eq!(world.check_members(), 1);
    let map = Options::new().read_only(true).open(&world.map).expect("open");
    assert!(map.get(2 * GRANULE).expect("inside") && map.checkpoint().expect("a header").is_none());
    drop(map);
    world.keep(|_| ());
    world.check_members();
    world.check_settled();
}

/// Once the set has forgotten what was begun, nothing is frozen that could be taken for an operator's.
#[test]
fn a_backup_that_fails_and_is_killed_while_it_gives_up_is_made_up_for() {
    let world = World::new();
    world.keep(|_| ());
    world.write(2 * GRANULE, b"new");
    let left = world.at_each_step(|| {
        let mut copy = AT_STEP.take();
        spoil("written", world.image(), 2 * GRANULE + 70);
        let mut change = AT_STEP.take();
        let both = move |step| [&mut copy, &mut change].into_iter().flatten().for_each(|work| work(step));
        AT_STEP.set(Some(Box::new(both)));
        world.back_up(&world.args(&world.image())).expect_err("the image is another one");
    });
    assert_eq!(names(&left), ["begun", "frozen", "written", "forgotten"]);
    for (step, left) in &left {
        let mut args = left.args(&world.image());
        args.how.frozen = true;
        assert_eq!(left.back_up(&args).expect_err(step).kind, "no-checkpoint", "{step}");
        go_on(&world, left, step);
    }
}

/// One that fails takes the others with it. What an earlier kill has left of one that was not begun stays to be settled.
#[test]
fn if_one_of_several_does_not_read_back_none_becomes_a_backup() {
    let worlds = [World::new(), World::new(), World::new()];
    for world in &worlds {
        world.keep(|_| ());
        world.write(2 * GRANULE, b"new");
    }
    let wanted = worlds.each_ref().map(|world| world.args(&world.image()));
    let back_up = || super::back_up_all(&wanted, Duration::ZERO, Output::new(Format::Human, 0).without_notes());
    let members = || worlds.each_ref().map(World::check_members);
    // Each time that one is written, a byte of the second image changes: so it is another one when it is read back.
    spoil("written", worlds[1].image(), 2 * GRANULE + 70);
    let failure = back_up().expect_err("the second image is another one");
    AT_STEP.set(None);
    assert_eq!((&*failure.kind, members()), ("verify-failed", [1, 1, 1]));
    for world in &worlds {
        let map = Options::new().read_only(true).open(&world.map).expect("open");
        assert!(map.get(2 * GRANULE).expect("inside") && map.checkpoint().expect("a header").is_none());
        assert!(!Folder::open(&world.set, Duration::ZERO).expect("open").is_unsettled());
    }
    // The last was killed when it was frozen; and then the second cannot be frozen.
    let [first, .., last] = &worlds;
    let frozen = last.at_each_step(|| _ = last.back_up(&last.args(&last.image())).expect("complete"));
    let (_, left) = frozen.iter().find(|(step, _)| *step == "frozen").expect("a step");
    let map = DirtyMap::open(&worlds[1].map).expect("open");
    map.freeze(Some("friday")).expect("freeze");
    map.close_with_image(&dirtymap::ImageStamp::of_path(&worlds[1].image()).expect("a stamp")).expect("close");
    let wanted = [first.args(&first.image()), worlds[1].args(&worlds[1].image()), left.args(&last.image())];
    let failed = super::back_up_all(&wanted, Duration::ZERO, Output::new(Format::Human, 0).without_notes());
    assert_eq!(failed.expect_err("outstanding").kind, "checkpoint-outstanding");
    left.back_up(&left.args(&last.image())).unwrap_or_else(|e| panic!("{e}"));
    left.check_settled();
}

#[test]
fn a_prune_that_is_stopped_says_that_nothing_was_pruned() {
    let world = World::new();
    world.keep(|_| ());
    world.write(GRANULE, b"two");
    world.keep(|_| ());
    AT_STEP.set(Some(Box::new(|step| signals::IN_TEST.set(step == "merge written"))));
    let mut folder = Folder::open_to_change(&world.set, Duration::ZERO).expect("open");
    let stopped = prune(&mut folder, 1).expect_err("stopped");
    signals::IN_TEST.set(false);
    AT_STEP.set(None);
    assert_eq!(stopped.message, "interrupted; nothing was pruned");
    drop(folder);
    assert_eq!(world.check_members(), 2);
}

#[test]
fn what_was_merged_is_compared_before_it_takes_the_place_of_anything() {
    let world = World::new();
    for round in 0..3u8 {
        world.write(u64::from(round) * GRANULE, &[round + 9; 5000]);
        world.keep(|_| ());
    }
    let files =
        || fs::read_dir(&world.set).expect("read").map(|e| e.expect("an entry").file_name()).collect::<Vec<_>>();
    let before = files();
    let first = world.set.join("0001.qcow2");
    let kept = fs::read(&first).expect("read");
    // A byte of data that no later member has: the header and a table are in front.
    spoil("merge written", first.clone(), 12 * GRANULE + 5);
    let mut folder = Folder::open_to_change(&world.set, Duration::ZERO).expect("open");
    let failure = prune(&mut folder, 2).expect_err("they differ");
    AT_STEP.set(None);
    assert!(failure.kind == "set-damaged" && failure.message.contains("nothing was pruned"), "{failure}");
    drop(folder);
    assert_eq!(files(), before);
    fs::write(first, kept).expect("write");
    assert_eq!(world.check_members(), 3);
}

impl World {
    fn prune(&self, keep: u64) -> Vec<String> {
        let mut folder = Folder::open_to_change(&self.set, Duration::ZERO).expect("open");
        prune(&mut folder, keep).unwrap_or_else(|e| panic!("{e}")).members
    }

    /// What a prune of four members to two leaves at its steps.
    fn pruned_at_each_step() -> (World, Vec<(&'static str, World)>) {
        let world = World::new();
        for round in 0..4u8 {
            world.write(u64::from(round) * GRANULE, &[round; 5000]);
            world.keep(|_| ());
        }
        let left = world.at_each_step(|| _ = world.prune(2));
        (world, left)
    }

    fn points(&self) -> Vec<String> {
        let map = Options::new().read_only(true).open(&self.map).expect("open");
        map.points().expect("points").into_iter().map(|point| point.name).collect()
    }
}

/// The new file of a member is gone, or is another one: then it takes no place, and no member is removed for it.
#[test]
fn a_merge_whose_file_is_not_what_was_written_is_dropped() {
    let change = [
        |path: &Path| fs::remove_file(path).expect("remove"),
        |path: &Path| {
            let mut bytes = fs::read(path).expect("read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).expect("write");
        },
        |path: &Path| fs::write(path, b"half").expect("write"),
    ];
    for change in change {
        let (world, left) = World::pruned_at_each_step();
        let (_, left) = left.iter().find(|(step, _)| *step == "merge listed").expect("the step");
        let merged = left.set.join("0003.qcow2.merged");
        change(&merged);
        assert_eq!(left.check_members(), 4);
        assert_eq!(left.prune(9), [""; 0]);
        assert!(!merged.exists());
        assert_eq!(left.check_members(), 4);
        assert_eq!(left.prune(2), ["0001", "0002"]);
        assert_eq!(left.check_members(), 2);
        assert!(!go_on(&world, left, "merge listed"));
    }
}

/// Also one that was killed says what it has removed, or what its next run removes for it.
#[test]
fn a_prune_that_settles_another_one_tells_what_is_gone() {
    let (_world, left) = World::pruned_at_each_step();
    for (step, left) in left.iter().filter(|(step, _)| !["removed", "piece"].contains(step)) {
        // What has no name yet is gone with whoever wrote it.
        let unsettled = Folder::open(&left.set, Duration::ZERO).expect("open").is_unsettled();
        assert_eq!(unsettled, *step != "merge written", "{step}");
        let gone = left.prune(2);
        let told = if *step == "pruned" { &[][..] } else { &["0001", "0002"] };
        assert_eq!(gone, told, "{step}");
        left.check_settled();
    }
}

/// A disk fails when the member is listed: `set.json` may have it, or not. Its file stays until that is known.
#[test]
fn a_member_that_may_be_listed_is_not_removed() {
    for fails in 1..5 {
        let world = World::new();
        world.keep(|_| ());
        world.write(GRANULE, b"two");
        world.references.borrow_mut().push(fs::read(world.image()).expect("read"));
        DOUBTFUL.set(fails);
        let ended = world.back_up(&world.args(&world.image()));
        DOUBTFUL.set(u32::MAX);
        assert_eq!(ended.is_err(), fails < 4, "{fails}");
        world.check_members();
        world.references.borrow_mut().push(fs::read(world.image()).expect("read"));
        world.back_up(&world.args(&world.image())).unwrap_or_else(|e| panic!("{fails}: {e}"));
        world.check_members();
        world.check_settled();
    }
}

/// Whatever a prune removes of it, the map's checkpoint is known to be that of the backup that was killed.
#[test]
fn a_prune_between_a_backup_that_was_killed_and_the_next_one_is_no_hindrance() {
    for name in [None, Some("monday")] {
        let world = World::new();
        world.keep(|_| ());
        world.write(GRANULE, b"two");
        let left = world.at_each_step(|| _ = world.keep(|args| args.name = name.map(String::from)));
        for (step, left) in &left {
            left.prune(9);
            left.check_members();
            assert!(!go_on(&world, left, step), "{step}");
        }
    }
}

/// The point of a member that is gone is dropped whenever the map is at hand again.
#[test]
fn a_prune_after_a_kill_leaks_no_point() {
    let world = World::new();
    world.keep(|_| ());
    world.write(GRANULE, b"two");
    let left = world.at_each_step(|| _ = world.keep(|_| ()));
    let (_, left) = left.iter().find(|(step, _)| *step == "committed").expect("the step");
    assert_eq!(left.prune(1), ["0001"]);
    assert_eq!(left.points().len(), 2);
    assert!(!go_on(&world, left, "committed"));
    assert_eq!(left.points().len(), 1);
}

#[test]
fn a_file_that_a_backup_did_not_make_is_not_removed_for_it() {
    let world = World::new();
    let left = world.at_each_step(|| _ = world.keep(|_| ()));
    for (step, left) in left.iter().filter(|(step, _)| ["begun", "frozen", "written"].contains(step)) {
        let file = left.set.join("0001.qcow2");
        fs::write(&file, b"somebody's").expect("write");
        left.back_up(&left.args(&world.image())).unwrap_or_else(|e| panic!("after {step}: {e}"));
        assert_eq!(fs::read(file).expect("read"), b"somebody's", "{step}");
    }
}

/// What a backup without a name freezes with is kept by no one, also where a kill leaves the commit to the next one.
#[test]
fn a_member_that_is_settled_is_kept_by_the_same_rule() {
    let world = World::new();
    let map = DirtyMap::open(&world.map).expect("open");
    map.freeze(Some(super::UNNAMED)).expect("freeze");
    map.close_with_image(&dirtymap::ImageStamp::of_path(&world.image()).expect("a stamp")).expect("close");
    let mut frozen = world.args(&world.image());
    frozen.how.frozen = true;
    let left = world.at_each_step(|| _ = world.back_up(&frozen).unwrap_or_else(|e| panic!("{e}")));
    assert_eq!(world.points(), [""; 0]);
    let (_, left) = left.iter().find(|(step, _)| *step == "listed").expect("the step");
    let args = Wanted { map: left.map.clone(), set: Some(left.set.clone()), ..frozen };
    assert!(left.back_up(&args).unwrap_or_else(|e| panic!("{e}")).member.expect("a member").settled);
    assert_eq!(left.points(), [""; 0]);
}
