//! Power cuts while a set is changed. Whatever was not synced by then may be lost: the bytes of a file, and the names of the folder,
//! each for itself.
//!
//! The map is as it is in each moment: what a cut does to that is for the library's own suites.

use super::prune::prune;
use super::set_tests::{World, go_on};
use crate::files::durable::{AT_SYNC, Synced};
use crate::sets::{AT_STEP, Folder};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

type Bytes = Rc<Vec<u8>>;

/// What there is after a power cut: the folder's files, unless the folder is lost, and the map.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State {
    folder: Option<BTreeMap<String, Bytes>>,
    map: Bytes,
}

/// A disk with a set on it, seen from beside.
struct Disk {
    set: PathBuf,
    map: PathBuf,
    /// What is durable: of each file, by its inode, what was in it when it was synced last; the folder's names, and its own.
    contents: BTreeMap<u64, Bytes>,
    names: BTreeMap<String, u64>,
    named: bool,
    /// Files that have been seen: as long as they are open no other one gets their inode.
    open: BTreeMap<u64, File>,
    /// All that cuts could leave by now.
    states: HashSet<State>,
    /// The sync that is left out, and how many have come.
    left_out: Option<usize>,
    syncs: usize,
}

/// The folder's names, and the inode and bytes behind each.
fn listed(folder: &Path) -> BTreeMap<String, (u64, Bytes)> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let look = |entry: fs::DirEntry| {
        let inode = entry.metadata().expect("look").ino();
        (entry.file_name().into_string().expect("text"), (inode, Rc::new(fs::read(entry.path()).expect("read"))))
    };
    entries.map(|entry| look(entry.expect("an entry"))).collect()
}

impl Disk {
    /// A disk on which all that is there is durable.
    fn new(world: &World, left_out: Option<usize>) -> Disk {
        let found = listed(&world.set);
        let mut disk = Disk {
            set: world.set.clone(),
            map: world.map.clone(),
            contents: found.values().cloned().collect(),
            names: found.iter().map(|(name, (inode, _))| (name.clone(), *inode)).collect(),
            named: world.set.exists(),
            open: BTreeMap::new(),
            states: HashSet::new(),
            left_out,
            syncs: 0,
        };
        disk.cut();
        disk
    }

    /// Adds what a cut could leave now.
    fn cut(&mut self) {
        let found = listed(&self.set);
        let map = Rc::new(fs::read(&self.map).expect("read"));
        if !self.named {
            self.states.insert(State { folder: None, map: map.clone() });
        }
        if !self.set.exists() {
            return;
        }
        for (name, (inode, _)) in &found {
            self.open.entry(*inode).or_insert_with(|| File::open(self.set.join(name)).expect("open"));
        }
        let names: BTreeSet<&String> = self.names.keys().chain(found.keys()).collect();
        let is_durable = |name: &String| self.names.get(name) == found.get(name).map(|(inode, _)| inode);
        let open: Vec<&String> = names.into_iter().filter(|name| !is_durable(name)).collect();
        // A name is the old one or the new one; and bytes that were not synced are there, or zeros, or none.
        for (names, bytes) in (0..1u32 << open.len()).flat_map(|names| (0..3).map(move |bytes| (names, bytes))) {
            let is_old =
                |name: &String| open.iter().position(|open| *open == name).is_some_and(|i| names >> i & 1 == 1);
            let old = self.names.iter().filter(|(name, _)| is_old(name)).map(|(name, inode)| (name, *inode));
            let new = found.iter().filter(|(name, _)| !is_old(name)).map(|(name, (inode, _))| (name, *inode));
            let now = |inode: u64| found.values().find(|(found, _)| *found == inode).map(|(_, bytes)| bytes.clone());
            let content = |inode: u64| match (self.contents.get(&inode), now(inode), bytes) {
                (durable, Some(now), 0) if durable != Some(&now) => now,
                (Some(durable), ..) => durable.clone(),
                (None, Some(now), 1) => Rc::new(vec![0; now.len()]),
                (None, ..) => Rc::default(),
            };
            let folder = old.chain(new).map(|(name, inode)| (name.clone(), content(inode))).collect();
            self.states.insert(State { folder: Some(folder), map: map.clone() });
        }
    }

    /// What is to be synced is, unless it is left out.
    fn sync(&mut self, synced: &Synced<'_>) -> bool {
        self.cut();
        let kept = self.left_out != Some(self.syncs);
        self.syncs += 1;
        match synced {
            _ if !kept => {}
            Synced::Bytes(file) => {
                let m = file.metadata().expect("look");
                let mut bytes = vec![0; m.len() as usize];
                // It may be open for writing only.
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(*file));
                File::open(path).expect("open").read_exact_at(&mut bytes, 0).expect("read");
                self.contents.insert(m.ino(), Rc::new(bytes));
            }
            Synced::Names(path) if *path == self.set => {
                self.names = listed(&self.set).into_iter().map(|(name, (inode, _))| (name, inode)).collect();
            }
            Synced::Names(path) => self.named |= Some(*path) == self.set.parent(),
        }
        kept
    }
}

/// All states that cuts during `work` can leave, those at its end, and how many syncs there were.
pub fn cuts(world: &World, left_out: Option<usize>, work: impl FnOnce()) -> (HashSet<State>, HashSet<State>, usize) {
    let disk = Rc::new(RefCell::new(Disk::new(world, left_out)));
    let (at_sync, at_step) = (disk.clone(), disk.clone());
    AT_SYNC.set(Some(Box::new(move |synced| at_sync.borrow_mut().sync(&synced))));
    AT_STEP.set(Some(Box::new(move |_| at_step.borrow_mut().cut())));
    work();
    AT_SYNC.set(None);
    AT_STEP.set(None);
    let mut disk = disk.borrow_mut();
    let all = std::mem::take(&mut disk.states);
    disk.cut();
    (all, std::mem::take(&mut disk.states), disk.syncs)
}

/// Puts a state beside the world.
pub fn after(world: &World, state: &State) -> World {
    let base = world.place();
    let (map, set) = (base.join("map"), base.join("set"));
    fs::write(&map, &**state.map).expect("write");
    if let Some(folder) = &state.folder {
        fs::create_dir(&set).expect("make");
        folder.iter().for_each(|(name, bytes)| fs::write(set.join(name), &***bytes).expect("write"));
    }
    world.left(map, set)
}

/// Whatever a backup and a cut leave, each member that is listed is what the image was then, and the next backup settles the rest;
/// when the backup has ended, its member is there.
fn survives(world: &World, left_out: Option<usize>) -> usize {
    let members = world.check_members();
    let (during, end, syncs) = cuts(world, left_out, || _ = world.keep(|_| ()));
    for (state, least) in
        during.iter().map(|state| (state, members)).chain(end.iter().map(|state| (state, members + 1)))
    {
        let left = after(world, state);
        let there = left.check_members();
        assert!((least..=members + 1).contains(&there), "{there} members of {members}, at least {least}");
        go_on(world, &left, "a power cut");
        left.remove();
    }
    syncs
}

/// A world with so many members, and something to back up.
fn world(members: u8) -> World {
    let world = World::small();
    for number in 0..members {
        world.write(u64::from(number) * 70_000, &[number + 1; 5000]);
        world.keep(|_| ());
    }
    world.write(66_000, b"something");
    world
}

#[test]
fn a_power_cut_in_a_backup_leaves_the_set_as_before_or_with_a_whole_new_member() {
    for members in [0, 1, 2] {
        let syncs = survives(&world(members), None);
        // Of the folder above it, the file of the member, its name, and of the file and the name of set.json three times.
        assert_eq!(syncs, 9, "{members}");
    }
}

#[test]
fn each_sync_of_a_backup_is_needed() {
    for left_out in 0..9 {
        let lost = catch_unwind(AssertUnwindSafe(|| survives(&world(0), Some(left_out))));
        AT_SYNC.set(None);
        AT_STEP.set(None);
        assert!(lost.is_err(), "sync {left_out} may be left out");
    }
}

/// Every member that is kept can be restored after a cut, and the next prune leaves what this one would have.
fn prune_survives(left_out: Option<usize>) -> usize {
    let world = world(3);
    let run = |world: &World| {
        let mut folder = Folder::open_to_change(&world.set, Duration::ZERO).expect("open");
        prune(&mut folder, 2).unwrap_or_else(|e| panic!("{e}"));
    };
    let (during, end, syncs) = cuts(&world, left_out, || run(&world));
    for state in during.iter().chain(&end) {
        let left = after(&world, state);
        assert!([2, 3].contains(&left.check_members()));
        run(&left);
        assert_eq!(left.check_members(), 2);
        left.check_settled();
        assert!(left_out.is_some() || !go_on(&world, &left, "a power cut"), "nothing was lost");
        left.remove();
    }
    syncs
}

#[test]
fn a_power_cut_in_a_prune_leaves_every_member_that_is_kept() {
    prune_survives(None);
}

#[test]
fn each_sync_of_a_prune_is_needed() {
    let syncs = prune_survives(None);
    let needed = |left_out: &usize| {
        let lost = catch_unwind(AssertUnwindSafe(|| prune_survives(Some(*left_out))));
        AT_SYNC.set(None);
        AT_STEP.set(None);
        lost.is_err()
    };
    let needed: Vec<usize> = (0..syncs).filter(needed).collect();
    // But for three of names: that of the new file comes again with that of the set.json that says so; and of what set.json says when
    // the file has the member's name, and when the others are removed, the next run finds out what is not there by looking.
    assert_eq!(needed, [0, 2, 3, 4, 5, 7, 8]);
}
