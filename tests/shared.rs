//! Several who have one map open: here they are opens of one process, which the kernel's locks take for strangers.

mod common;

use common::Finally;
use dirtymap::{
    Access, DirtyMap, Durability, Error, ImageStamp, Options,
    error::Unusable,
    fsck::check,
    info::{FileState, Verdict, inspect},
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const GRANULE: u64 = 4096;
const LEN: u64 = 1 << 30;

fn shared() -> Options {
    Options::new().access(Access::Shared).flush_interval(None)
}

fn reader() -> Options {
    Options::new().access(Access::ReadOnly)
}

fn new_map(durability: Durability) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = dir.path().join("map");
    let new = Options::new().granularity(12).flush_interval(None).durability(durability);
    new.create(&path, LEN).unwrap().close().unwrap();
    (dir, path)
}

fn each(test: impl Fn(&Path)) {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let (_dir, path) = new_map(durability);
        match shared().open(&path) {
            Err(Error::Refused { why, .. }) => eprintln!("SKIPPED {durability:?}: {why}"),
            opened => {
                opened.unwrap().close().unwrap();
                test(&path);
            }
        }
    }
}

fn granule(n: u64) -> std::ops::Range<u64> {
    n * GRANULE..(n + 1) * GRANULE
}

#[test]
fn what_one_sets_the_others_see_and_the_last_one_leaves_the_file_clean() {
    each(|path| {
        let (a, b) = (shared().open(path).unwrap(), shared().open(path).unwrap());
        a.set(granule(1)).unwrap();
        b.set(granule(2)).unwrap();
        assert_eq!((a.count(), b.count()), (2, 2));
        a.reset(granule(2)).unwrap();
        assert_eq!((a.count(), b.count()), (1, 1));
        let watching = reader().open(path).unwrap();
        assert_eq!(watching.count(), 1);
        b.set(granule(3)).unwrap();
        assert!(watching.get(3 * GRANULE).unwrap());
        assert_eq!(watching.set(granule(4)).unwrap_err().kind(), "read-only");
        a.close().unwrap();
        assert_eq!(watching.count(), 2);
        assert_eq!(inspect(path).unwrap().state, FileState::Open);
        b.close().unwrap();
        // The reader kept nobody from it.
        let info = inspect(path).unwrap();
        assert_eq!((info.state, info.dirty), (FileState::Clean, Some((2, 2 * GRANULE))));
        assert!(check(path, |_, _| {}).unwrap().findings.is_empty());
        assert!(matches!(watching.get(0), Err(Error::Unusable { why: Unusable::WritersLeft })));
        assert!(watching.is_full(), "what cannot be known any more is dirty");
    });
}

#[test]
fn who_wants_it_alone_waits_for_those_who_share_it_and_the_other_way_round() {
    each(|path| {
        let one = shared().open(path).unwrap();
        assert_eq!(Options::new().open(path).unwrap_err().kind(), "locked");
        drop(one);
        let alone = Options::new().flush_interval(None).open(path).unwrap();
        assert_eq!(shared().open(path).unwrap_err().kind(), "locked");
        assert_eq!(reader().open(path).unwrap_err().kind(), "locked");
        thread::scope(|scope| {
            let waits = scope.spawn(|| shared().wait(Duration::from_secs(60)).open(path).unwrap());
            alone.close().unwrap();
            waits.join().unwrap().set(granule(0)).unwrap();
        });
    });
}

#[test]
fn a_session_whose_last_process_did_not_close_is_recovered_by_the_next() {
    each(|path| {
        let (a, b) = (shared().open(path).unwrap(), shared().open(path).unwrap());
        a.set(granule(7)).unwrap();
        b.set(granule(99)).unwrap();
        a.close().unwrap();
        drop(b);
        assert_eq!(inspect(path).unwrap().state, FileState::Unclean);
        let next = shared().open(path).unwrap();
        assert!(next.recovery().unclean);
        assert!(next.get(7 * GRANULE).unwrap() && next.get(99 * GRANULE).unwrap());
        next.close().unwrap();
        assert_eq!(inspect(path).unwrap().state, FileState::Clean);
    });
}

#[test]
fn a_reset_of_one_is_flushed_by_another() {
    each(|path| {
        let (a, b) = (shared().open(path).unwrap(), shared().open(path).unwrap());
        a.set(0..LEN).unwrap();
        a.flush().unwrap();
        a.reset(granule(5)).unwrap();
        // As if it had been killed: nobody but the runtime page knows of the reset.
        drop(a);
        b.close().unwrap();
        assert_eq!(reader().open(path).unwrap().count(), LEN / GRANULE - 1);
    });
}

#[test]
fn the_length_is_changed_by_one_who_is_alone_and_readers_notice() {
    each(|path| {
        let (mut a, b) = (shared().open(path).unwrap(), shared().open(path).unwrap());
        a.set(granule(7)).unwrap();
        assert_eq!(a.truncate(LEN / 2).unwrap_err().kind(), "locked");
        // It still shares the map.
        assert_eq!(Options::new().open(path).unwrap_err().kind(), "locked");
        b.set(granule(8)).unwrap();
        drop(b);
        let watching = reader().open(path).unwrap();
        a.truncate(LEN / 2).unwrap();
        assert!(matches!(watching.get(0), Err(Error::Unusable { why: Unusable::WritersLeft })));
        let (c, watching) = (shared().open(path).unwrap(), reader().open(path).unwrap());
        c.set(granule(9)).unwrap();
        assert_eq!((a.count(), c.count(), watching.count()), (3, 3, 3));
        assert_eq!((a.len(), c.len(), watching.len()), (LEN / 2, LEN / 2, LEN / 2));
        c.close().unwrap();
        a.close().unwrap();
        assert_eq!(inspect(path).unwrap().state, FileState::Clean);
    });
}

#[test]
fn sixty_four_have_it_and_no_more_than_there_are_slots() {
    // Of the other kind so many in one process would take more locked memory than most users may have.
    let (_dir, path) = new_map(Durability::Process);
    let mut all: Vec<DirtyMap> = (0..256).map(|_| shared().open(&path).unwrap()).collect();
    all.iter().enumerate().for_each(|(n, map)| _ = map.set(granule(n as u64)).unwrap());
    assert_eq!(shared().open(&path).unwrap_err().kind(), "locked");
    drop(all.swap_remove(3));
    let again = shared().open(&path).unwrap();
    assert_eq!(again.count(), 256);
    all.into_iter().for_each(|map| map.close().unwrap());
    again.close().unwrap();
    assert_eq!(inspect(&path).unwrap().state, FileState::Clean);
}

/// Writers that come and go, flush, reset what only they set, and close or just go; readers beside them.
#[test]
fn nothing_is_lost_whoever_comes_and_goes() {
    each(|path| {
        const WRITERS: u64 = 4;
        const OF_EACH: u64 = 2000;
        let done = AtomicU64::new(0);
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let done = &done;
                scope.spawn(move || {
                    let _done = Finally(|| _ = done.fetch_add(1, SeqCst));
                    let mut next = 0;
                    while next < OF_EACH {
                        let map = shared().open(path).unwrap();
                        let first = next;
                        for n in first..(first + 97 + writer).min(OF_EACH) {
                            // Scattered, so that words, pages and runs are shared and not.
                            map.set(granule(n * 131 % OF_EACH * WRITERS + writer)).unwrap();
                            next = n + 1;
                            if n % 50 == writer {
                                map.flush().unwrap();
                            }
                        }
                        let mine = |n: u64| granule(n * 131 % OF_EACH * WRITERS + writer);
                        assert!((0..next).all(|n| map.all(mine(n)).unwrap()), "one of {next} of {writer}");
                        if next % 3 == 0 { map.close().unwrap() } else { drop(map) }
                    }
                });
            }
            scope.spawn(|| {
                while done.load(SeqCst) < WRITERS {
                    match reader().open(path) {
                        Ok(map) => drop(map.granules(0..LEN).map(Iterator::count)),
                        Err(e) => assert_eq!(e.kind(), "unusable", "{e}"),
                    }
                }
            });
        });
        let map = Options::new().open(path).unwrap();
        assert!((0..WRITERS * OF_EACH).all(|n| map.get(n * GRANULE).unwrap()));
        map.close().unwrap();
        assert!(check(path, |_, _| {}).unwrap().findings.is_empty());
    });
}

#[test]
fn a_reader_does_not_take_a_session_that_is_over_for_the_next_one() {
    each(|path| {
        let one = shared().open(path).unwrap();
        one.set(granule(1)).unwrap();
        let watching = reader().open(path).unwrap();
        // As if it had been killed: nobody has told the reader.
        drop(one);
        assert!(watching.get(GRANULE).unwrap());
        // This one keeps what it sets in memory of its own.
        let alone = Options::new().flush_interval(None).open(path).unwrap();
        alone.set(granule(2)).unwrap();
        assert!(watching.get(2 * GRANULE).unwrap_or(true), "a reader misses what was set");
        assert!(matches!(watching.get(2 * GRANULE), Err(Error::Unusable { why: Unusable::WritersLeft })));
        alone.close().unwrap();
    });
}

#[test]
fn nobody_joins_the_dead() {
    each(|path| {
        let one = shared().open(path).unwrap();
        one.set(granule(1)).unwrap();
        // What a power cut leaves may look like a session that lives: this is such a file.
        let left = path.with_file_name("left");
        std::fs::copy(path, &left).unwrap();
        one.set(granule(2)).unwrap();
        // Some program locks it, as others do with files of theirs.
        let file = std::fs::File::open(&left).unwrap();
        fs2::FileExt::lock_shared(&file).unwrap();
        assert_eq!(shared().open(&left).unwrap_err().kind(), "locked");
        drop(file);
        let recovered = shared().open(&left).unwrap();
        assert!(recovered.recovery().unclean && recovered.get(GRANULE).unwrap());
    });
}

#[test]
fn who_joins_with_another_image_gets_everything_dirty() {
    each(|path| {
        let dir = path.parent().unwrap();
        let image = |name: &str, len| {
            let file = std::fs::File::create(dir.join(name)).unwrap();
            file.set_len(len).unwrap();
            ImageStamp::of(&file).unwrap()
        };
        let (mine, other) = (image("mine", LEN), image("other", LEN));
        let path = dir.join("bound");
        let new = Options::new().granularity(12).flush_interval(None).image(mine);
        new.create(&path, LEN).unwrap().close().unwrap();
        let first = shared().open(&path).unwrap();
        let same = shared().image(mine).open(&path).unwrap();
        assert!(same.is_empty() && same.recovery().image_changed.is_none());
        let joined = shared().image(other).open(&path).unwrap();
        assert!(joined.recovery().image_changed.is_some());
        assert!(joined.is_full() && first.is_full());
    });
}

#[test]
fn what_others_add_after_a_reset_or_after_a_backup_began_is_not_called_exact() {
    let (dir, path) = new_map(Durability::PowerLoss);
    let image = |name: &str| {
        let file = std::fs::File::create(dir.path().join(name)).unwrap();
        file.set_len(LEN).unwrap();
        ImageStamp::of(&file).unwrap()
    };
    let (mine, others) = (image("mine"), image("others"));
    let verdict = |map: &DirtyMap| map.info().unwrap().verdict;
    for backup in [false, true] {
        std::fs::remove_file(&path).unwrap();
        Options::new().image(mine).create(&path, LEN).unwrap().close_with_image(&mine).unwrap();
        let map = shared().image(mine).open(&path).unwrap();
        map.set(0..1).unwrap();
        let checkpoint = if backup {
            map.begin_backup(&others).unwrap();
            Some(map.freeze(None).unwrap().uuid)
        } else {
            map.reset_all().unwrap();
            None
        };
        let joined = shared().image(others).open(&path).unwrap();
        assert!(joined.recovery().image_changed.is_some());
        if let Some(uuid) = checkpoint {
            map.commit_checkpoint(uuid, false).unwrap();
            map.complete_backup(&others).unwrap();
        }
        map.flush().unwrap();
        assert!(map.is_full());
        assert_eq!(verdict(&map), Verdict::Superset, "backup: {backup}");
        // What has been seen of it is forgotten.
        if backup {
            map.begin_backup(&others).unwrap();
            map.reset_all().unwrap();
            map.complete_backup(&others).unwrap();
        } else {
            map.reset_all().unwrap();
            map.flush().unwrap();
        }
        assert_eq!(verdict(&map), Verdict::Exact, "backup: {backup}");
        joined.close().unwrap();
        map.close().unwrap();
    }
}

#[test]
fn what_garbage_there_is_in_a_session_no_reader_panics() {
    for durability in [Durability::PowerLoss, Durability::Process] {
        let dir = tempfile::tempdir().unwrap();
        let path = &dir.path().join("map");
        // The last word and the last granule are not whole.
        let len = LEN - 100_000;
        let one = shared().granularity(12).durability(durability).create(path, len).unwrap();
        one.set(granule(1)).unwrap();
        let watching = reader().open(path).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        // Upper levels, live and durable: everything from the touched bits on. The volatile region is the last one.
        let from = 0x60000 + 3 * 65536;
        let rest = std::fs::metadata(path).unwrap().len() - from;
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xff; rest as usize], from).unwrap();
        for map in [&watching, &reader().open(path).unwrap()] {
            assert!(map.get(0).unwrap() && map.is_full());
            assert_eq!(map.granules(0..len).unwrap().count() as u64, len.div_ceil(GRANULE));
            let _ = (map.count(), map.sha256(), map.next_clean(0..len).unwrap(), map.extents(0..len).unwrap().count());
        }
        let live_from = from + 65536;
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; (rest - 65536) as usize], live_from).unwrap();
        let _ = (watching.count(), watching.sha256(), watching.extents(0..len).unwrap().count());
    }
}

#[test]
fn a_change_of_the_image_is_noticed_by_the_first_who_has_it_and_by_the_next_session() {
    let dir = tempfile::tempdir().unwrap();
    let (path, image) = (dir.path().join("map"), dir.path().join("image"));
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(LEN).unwrap();
    let stamp = || ImageStamp::of_path(&image).unwrap();
    let later = AtomicU64::new(1);
    let write = || {
        let when = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(later.fetch_add(1, SeqCst));
        file.set_modified(when).unwrap();
    };
    write();
    Options::new().granularity(12).image(stamp()).create(&path, LEN).unwrap().close().unwrap();
    // One who does not look at the image leaves the record as it was, whoever of such closes it.
    let (one, other) = (shared().open(&path).unwrap(), shared().open(&path).unwrap());
    one.close().unwrap();
    other.close().unwrap();
    write();
    // Also if another one is there before who has the image, but not if he has it.
    let blind = shared().open(&path).unwrap();
    let tracker = shared().image(stamp()).open(&path).unwrap();
    assert!(tracker.recovery().image_changed.is_some() && blind.is_full());
    blind.reset_all().unwrap();
    write();
    let second = shared().image(stamp()).open(&path).unwrap();
    assert!(second.recovery().image_changed.is_none() && second.is_empty());
    // What who has the image records as he leaves is there when the last one has left.
    second.close().unwrap();
    tracker.close_with_image(&stamp()).unwrap();
    blind.close().unwrap();
    let next = shared().image(stamp()).open(&path).unwrap();
    assert!(next.recovery().image_changed.is_none() && next.is_empty());
    next.close().unwrap();
    write();
    assert!(shared().image(stamp()).open(&path).unwrap().is_full());
}

/// Each keeps all of it in memory, also what only others have touched: they may die, and a failing disk take it away.
#[test]
fn the_volatile_part_stays_in_memory_whoever_dies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    shared().granularity(12).create(&path, LEN).unwrap().close().unwrap();
    let [mut first, second] = [(); 2].map(|()| shared().open(&path).unwrap());
    second.set(LEN - 1..LEN).unwrap();
    let all_kept = |how_many| {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().peekable();
        let mut found = 0;
        while let Some(line) = lines.next() {
            if !(line.contains("rw-s") && line.ends_with(path.to_str().unwrap())) {
                continue;
            }
            let mut facts = Vec::new();
            while let Some(fact) = lines.next_if(|line| !line.ends_with(path.to_str().unwrap())) {
                facts.push(fact);
            }
            let fact = |name: &str| facts.iter().find_map(|f| f.strip_prefix(name)).unwrap().trim();
            assert_eq!(fact("Size:"), fact("Rss:"));
            assert!(fact("VmFlags:").split(' ').any(|flag| flag == "lo"));
            found += 1;
        }
        assert_eq!(found, how_many);
    };
    all_kept(2);
    second.close().unwrap();
    first.truncate(2 * LEN).unwrap();
    first.set(0..LEN).unwrap();
    all_kept(1);
}

/// Those who look have the old volatile part mapped: a look behind the end of the file would kill them.
#[test]
fn neither_a_new_length_nor_a_close_cuts_the_file_off_under_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    let length = || std::fs::metadata(&path).unwrap().len();
    let mut map = shared().granularity(12).create(&path, LEN).unwrap();
    // Behind the old regions, which are free then, and have room for the next.
    map.truncate(2 * LEN).unwrap();
    let seen = reader().open(&path).unwrap();
    let end = length();
    map.truncate(LEN / 2).unwrap();
    assert_eq!(length(), end, "cut off by a new length");
    assert_eq!(seen.get(0).unwrap_err().kind(), "unusable");
    map.set(0..1).unwrap();
    map.close().unwrap();
    assert_eq!(length(), end, "cut off by a close");
    assert!(seen.is_full() && seen.get(0).unwrap_err().kind() == "unusable");
    // Who has nothing mapped any more is in nobody's way.
    drop(seen);
    shared().open(&path).unwrap().close().unwrap();
    assert!(length() < end);
}

/// What [`a_control_group_without_the_memory_is_told_so`] runs in a control group.
#[test]
#[ignore = "part of another test; nothing by itself"]
fn somebody_in_a_small_control_group() {
    let Some(path) = std::env::var_os("DIRTYMAP_TEST_MAP") else { return };
    let error = shared().open(&path).unwrap_err();
    assert!(error.kind() == "refused" && error.to_string().contains("control group"), "{error}");
    Options::new().open(&path).unwrap().close().unwrap();
}

/// Locking more than the group may have would have the kernel kill the process.
#[test]
fn a_control_group_without_the_memory_is_told_so() {
    const LIMIT: u64 = 48 << 20;
    let name = format!("dirtymap-test-{}", std::process::id());
    let groups = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
    let made = groups.iter().find_map(|(root, file)| {
        let group = Path::new(root).join(&name);
        std::fs::create_dir(&group).ok()?;
        let limited = std::fs::write(group.join(file), LIMIT.to_string());
        if limited.is_err() {
            std::fs::remove_dir(&group).unwrap();
        }
        limited.is_ok().then_some(group)
    });
    let Some(group) = made else {
        return eprintln!("SKIPPED: no control group for memory can be made here (only root can)");
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("map");
    // 30 MiB of volatile part, of which a process that has the map alone uses nothing.
    Options::new().granularity(12).flush_interval(None).create(&path, 30 << 20 << 2 << 12).unwrap().close().unwrap();
    let mut child = std::process::Command::new("sh");
    child.args(["-c", "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"]).arg(&group);
    child.arg(std::env::current_exe().unwrap());
    child.args(["somebody_in_a_small_control_group", "--exact", "--ignored"]).env("DIRTYMAP_TEST_MAP", &path);
    let ended = child.output().unwrap();
    std::fs::remove_dir(&group).unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
}

/// What [`who_may_not_lock_enough_memory_is_told_so`] runs as somebody else.
#[test]
#[ignore = "part of another test; nothing by itself"]
fn somebody_with_little_locked_memory() {
    let Some(dir) = std::env::var_os("DIRTYMAP_TEST_DIR").map(PathBuf::from) else { return };
    let limit = libc::rlimit { rlim_cur: 65536, rlim_max: 65536 };
    // SAFETY: a valid limit; and from here on this process is nobody, if it can be: root may lock what it likes.
    #[allow(unsafe_code, reason = "what a process may do is its own")]
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit), 0);
        libc::setuid(65534);
    }
    let refused = |opened: dirtymap::Result<DirtyMap>| {
        let error = opened.unwrap_err();
        assert!(error.kind() == "refused" && error.to_string().contains("ulimit -l"), "{error}");
    };
    let path = dir.join("PowerLoss");
    // To join, and as the first.
    for path in [&path, &dir.join("closed")] {
        refused(shared().open(path));
        assert_eq!(reader().open(path).unwrap().count(), 1);
    }
    // It is as it was, and has no need of such memory when it is alone.
    assert_eq!(inspect(dir.join("closed")).unwrap().state, FileState::Clean);
    Options::new().open(dir.join("closed")).unwrap().close().unwrap();
    refused(shared().granularity(12).create(dir.join("new"), LEN));
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 3, "something was left behind");
    // A map that trusts its page cache locks nothing.
    let process = shared().open(dir.join("Process")).unwrap();
    process.set(granule(2)).unwrap();
    assert_eq!(process.count(), 2);
    process.close().unwrap();
}

#[test]
fn who_may_not_lock_enough_memory_is_told_so() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let everybody = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    everybody(dir.path(), 0o777);
    let new = |name: &str, durability| {
        let path = dir.path().join(name);
        let map = shared().granularity(12).durability(durability).create(&path, LEN).unwrap();
        everybody(&path, 0o666);
        map.set(granule(1)).unwrap();
        map
    };
    let _open = (new("PowerLoss", Durability::PowerLoss), new("Process", Durability::Process));
    new("closed", Durability::PowerLoss).close().unwrap();
    let mut other = std::process::Command::new(std::env::current_exe().unwrap());
    other.args(["somebody_with_little_locked_memory", "--exact", "--ignored", "--nocapture"]);
    let ended = other.env("DIRTYMAP_TEST_DIR", dir.path()).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn a_commit_is_no_error_the_second_time_although_others_have_frozen_since() {
    each(|path| {
        let (a, b) = (shared().open(path).unwrap(), shared().open(path).unwrap());
        a.set(granule(1)).unwrap();
        let first = a.freeze(None).unwrap().uuid;
        a.commit_checkpoint(first, false).unwrap();
        a.set(granule(2)).unwrap();
        let second = b.freeze(None).unwrap().uuid;
        a.commit_checkpoint(first, false).unwrap();
        assert_eq!(a.checkpoint().unwrap().unwrap().uuid, second);
        assert!(a.get(2 * GRANULE).unwrap());
        b.abort_checkpoint(second).unwrap();
        assert_eq!(a.commit_checkpoint(second, false).unwrap_err().kind(), "no-checkpoint");
        a.commit_checkpoint(first, false).unwrap();
    });
}

#[test]
fn any_number_of_processes_come_and_go_whose_writes_may_outlive_them() {
    each(|path| {
        let stays = shared().open(path).unwrap();
        // More than there are slots.
        for i in 0..300 {
            let map = shared().writes_outlive(true).open(path).unwrap();
            drop(map.begin_write(granule(i)).unwrap());
            drop(map);
        }
        assert_eq!(stays.count(), 300);
        stays.freeze(None).unwrap();
    });
}

#[test]
fn a_new_length_does_not_forget_who_died_with_writes_that_may_still_arrive() {
    each(|path| {
        let mut map = shared().open(path).unwrap();
        let dies = shared().writes_outlive(true).open(path).unwrap();
        std::mem::forget(dies.begin_write(granule(1)).unwrap());
        drop(dies);
        for len in [LEN, 2 * LEN] {
            map.truncate(len).unwrap();
            assert_eq!(map.freeze(None).unwrap_err().kind(), "refused", "{len}");
        }
        map.close().unwrap();
        let map = shared().open(path).unwrap();
        map.freeze(None).unwrap();
    });
}
