//! Real file systems, on images that are mounted here: needs root, loop devices and the tools that make them, and says
//! what it skips.
//!
//! **Power cuts**: an ext4, XFS or btrfs image lies in an outer XFS. While a process sets and resets in a map on it, the
//! image is cloned in an instant, without any sync (a reflink); the clone is what a machine finds that lost its power
//! then: the real journal replays it. A few cuts each by default, `DIRTYMAP_CUTS=200` for a long run.
//!
//! **A file system that shuts down** under the map, as it does when its device fails.

#[path = "common/mounted.rs"]
#[allow(dead_code, reason = "the loop device's counts are for others")]
mod mounted;

use dirtymap::{Access, DirtyMap, Durability, Options};
use mounted::{Mounted, make, sh};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const GRANULE: u64 = 4096;
/// Granules of the longest map here.
const MOST: u64 = 3 * 4096 + 100;

/// On tmpfs even reading a hole of a mapping takes space, and a signal comes where there is none.
#[test]
fn a_reader_survives_the_end_of_a_session_on_a_full_tmpfs() {
    let dir = tempfile::tempdir().expect("a place to mount");
    if !sh!("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", dir.path()) {
        return skipped("a full tmpfs: cannot mount one");
    }
    let mounted = Mounted(dir.path().to_path_buf());
    let path = mounted.0.join("map");
    let shared = || Options::new().access(Access::Shared).flush_interval(None);
    shared().granularity(12).create(&path, 1 << 30).unwrap().close().unwrap();
    let mut map = shared().open(&path).unwrap();
    let reader = Options::new().access(Access::ReadOnly).open(&path).unwrap();
    let space = mounted.0.join("space");
    let fill = || {
        let file = fs::File::create(&space).unwrap();
        (0..).find(|at| std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], at * 4096).is_err());
    };
    map.truncate(1 << 29).unwrap();
    fill();
    assert_eq!(reader.get(0).unwrap_err().kind(), "unusable");
    fs::remove_file(&space).unwrap();
    let reader = Options::new().access(Access::ReadOnly).open(&path).unwrap();
    map.set(0..1).unwrap();
    assert!(reader.get(0).unwrap());
    map.close().unwrap();
    fill();
    assert!(reader.is_full() && reader.get(0).unwrap_err().kind() == "unusable");
    // The next session finds its space, and nothing of the last one in it.
    let map = shared().open(&path).unwrap();
    assert_eq!(map.count(), 1);
    assert_eq!(reader.get(0).unwrap_err().kind(), "unusable");
    map.set(1 << 20..1 << 21).unwrap();
    map.close().unwrap();
}

/// A file that another process serves, as a network's would be: its locks and mappings are this machine's only.
struct Served(Child, PathBuf);

impl Served {
    /// `file` at `at`, which must be an empty file.
    fn new(file: &Path, at: &Path) -> Option<Served> {
        let before = fs::metadata(at).expect("an empty file").dev();
        let mut daemon = Command::new("qemu-storage-daemon");
        daemon.arg("--blockdev").arg(format!("driver=file,node-name=file,filename={}", file.display()));
        daemon.arg("--export").arg(format!("fuse,id=e,node-name=file,mountpoint={},writable=on", at.display()));
        let mut daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        loop {
            if fs::metadata(at).expect("a file").dev() != before {
                return Some(Served(daemon, at.to_path_buf()));
            }
            if daemon.try_wait().expect("wait").is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        sh!("umount", self.1);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_map_on_a_fuse_file_system_is_not_shared_and_says_why() {
    let dir = tempfile::tempdir().expect("a place to mount");
    let (path, at) = (dir.path().join("map"), dir.path().join("served"));
    let options = || Options::new().flush_interval(None);
    options().create(&path, 1 << 30).unwrap().close().unwrap();
    fs::write(&at, "").expect("mount point");
    let Some(_served) = Served::new(&path, &at) else {
        return skipped("sharing on FUSE: needs root, /dev/fuse and a qemu-storage-daemon that exports over it");
    };
    let error = options().access(Access::Shared).open(&at).unwrap_err();
    assert_eq!(error.kind(), "refused");
    assert!(error.to_string().contains("0x65735546") && error.to_string().contains("open it alone"), "{error}");
    // Whoever has it alone needs nothing of others.
    let map = options().open(&at).unwrap();
    map.set(0..1).unwrap();
    let error = options().access(Access::ReadOnly).open(&at).unwrap_err();
    assert_eq!(error.kind(), "locked", "{error}");
    drop(map);
    let map = options().open(&at).unwrap();
    assert!(map.get(0).unwrap());
    map.close().unwrap();
    assert!(options().access(Access::ReadOnly).open(&at).unwrap().get(0).unwrap());
}

/// What such a map has in memory is what the kernel has of the file, which the server would have to know.
#[test]
fn a_map_that_survives_processes_is_not_opened_on_a_fuse_file_system() {
    let dir = tempfile::tempdir().expect("a place to mount");
    let (path, at) = (dir.path().join("map"), dir.path().join("served"));
    let options = || Options::new().flush_interval(None).durability(Durability::Process);
    let map = options().create(&path, 1 << 30).unwrap();
    map.set(0..1).unwrap();
    map.close().unwrap();
    fs::write(&at, "").expect("mount point");
    let Some(_served) = Served::new(&path, &at) else {
        return skipped("a Process map on FUSE: needs root, /dev/fuse and a qemu-storage-daemon that exports over it");
    };
    let error = options().open(&at).unwrap_err();
    assert!(error.kind() == "refused" && error.to_string().contains("0x65735546"), "{error}");
    // For looking, nothing is mapped.
    assert_eq!(options().access(Access::ReadOnly).open(&at).unwrap().count(), 1);
}

/// The kernel tells the upper directory of an overlay by a name, which may be that of something else here.
#[test]
fn a_map_on_an_overlay_is_shared_only_where_the_upper_directory_is_seen() {
    let dir = tempfile::tempdir().expect("a place to mount");
    let at = |name: &str| dir.path().join(name);
    let outer = sh!("mount", "-t", "tmpfs", "tmpfs", dir.path()).then(|| Mounted(dir.path().to_path_buf()));
    ["lower", "upper", "work", "merged"].iter().for_each(|name| fs::create_dir(at(name)).unwrap());
    let parts = ["lower", "upper", "work"].map(|name| format!("{name}dir={}", at(name).display())).join(",");
    let mount = || sh!("mount", "-t", "overlay", "-o", &parts, "overlay", at("merged")).then(|| Mounted(at("merged")));
    let (Some(_outer), Some(_overlay)) = (outer, mount()) else { return skipped("an overlay: cannot mount one") };
    fs::create_dir(at("merged/directory")).unwrap();
    let shared = || Options::new().access(Access::Shared).flush_interval(None);
    let map = shared().create(at("merged/directory/map"), 1 << 20).unwrap();
    shared().open(at("merged/directory/map")).unwrap().set(0..1).unwrap();
    assert!(map.get(0).unwrap());
    map.close().unwrap();
    // As in another container: there is such a directory, which could be mapped, and it is not that of the overlay.
    if sh!("mount", "-t", "tmpfs", "tmpfs", at("upper")) {
        let _other = Mounted(at("upper"));
        fs::create_dir(at("upper/directory")).unwrap();
        let error = shared().open(at("merged/directory/map")).unwrap_err();
        assert!(error.kind() == "refused" && error.to_string().contains("0x794c7630"), "{error}");
        let map = Options::new().open(at("merged/directory/map")).unwrap();
        assert!(map.get(0).unwrap());
    }
}

/// A file system that can neither set space aside nor free it.
#[test]
fn a_map_on_ext2_does_all_that_it_does_elsewhere() {
    let dir = tempfile::tempdir().expect("a place to mount");
    let image = dir.path().join("image");
    let mounted = make("ext2", &image, 64).then(|| Mounted::new(&image, &dir.path().join("mnt"))).flatten();
    let Some(mounted) = mounted else { return skipped("ext2: cannot make or mount one") };
    for durability in [Durability::PowerLoss, Durability::Process] {
        let path = mounted.0.join(format!("{durability:?}"));
        let shared = || Options::new().access(Access::Shared).flush_interval(None).durability(durability);
        let two = [shared().granularity(12).create(&path, 1 << 30).unwrap(), shared().open(&path).unwrap()];
        let reader = Options::new().access(Access::ReadOnly).open(&path).unwrap();
        two[0].set(0..1).unwrap();
        two[1].set(1 << 29..(1 << 29) + 1).unwrap();
        assert_eq!(reader.count(), 2);
        let frozen = two[0].freeze(None).unwrap();
        two[1].set(4096..4097).unwrap();
        two[0].commit_checkpoint(frozen.uuid, false).unwrap();
        assert_eq!(reader.count(), 1);
        two.into_iter().for_each(|map| map.close().unwrap());
        let mut alone = Options::new().open(&path).unwrap();
        assert!(!alone.recovery().unclean && alone.get(4096).unwrap());
        alone.truncate(1 << 28).unwrap();
        assert_eq!(alone.count(), 1);
        alone.close().unwrap();
    }
}

#[test]
fn a_copy_on_btrfs_that_is_not_written_in_place_is_refused_and_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a place to mount");
    let image = dir.path().join("image");
    let mounted = make("btrfs", &image, 128).then(|| Mounted::new(&image, &dir.path().join("mnt"))).flatten();
    let Some(mounted) = mounted else { return skipped("copy-on-write: cannot make or mount a btrfs") };
    let (path, copy) = (mounted.0.join("map"), mounted.0.join("copy"));
    let options = || Options::new().flush_interval(None);
    options().create(&path, 1 << 30).unwrap().close().unwrap();
    options().open(&path).unwrap().close().unwrap();
    fs::write(&copy, fs::read(&path).unwrap()).unwrap();
    for access in [Access::Exclusive, Access::Shared] {
        let error = options().access(access).open(&copy).unwrap_err();
        assert_eq!(error.kind(), "refused");
        assert!(error.to_string().contains("copy-on-write") && error.to_string().contains("chattr"), "{error}");
    }
    // For looking it is as good as any.
    assert_eq!(options().access(Access::ReadOnly).open(&copy).unwrap().count(), 0);
}

fn skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) % n
    }
}

/// What the writer tells, one line each: `s A B` after granules A to B were set, `r A B` before they are reset,
/// `t N` before the map is cut to N granules.
#[derive(Clone, Copy, Debug)]
enum Told {
    Set(u64, u64),
    Reset(u64, u64),
    Truncate(u64),
}

fn told(line: &str) -> Option<Told> {
    let mut words = line.split(' ');
    let kind = words.next()?;
    let mut number = || words.next()?.parse().ok();
    match kind {
        "s" => Some(Told::Set(number()?, number()?)),
        "r" => Some(Told::Reset(number()?, number()?)),
        "t" => Some(Told::Truncate(number()?)),
        _ => None,
    }
}

/// Granules that must be dirty.
#[derive(Clone)]
struct Owed(Vec<bool>);

impl Owed {
    fn hear(&mut self, told: Told) {
        match told {
            Told::Set(from, to) => self.0[from as usize..to as usize].fill(true),
            Told::Reset(from, to) => self.0[from as usize..to as usize].fill(false),
            Told::Truncate(len) => self.0[len as usize..].fill(false),
        }
    }

    /// Checks that the map has all of it.
    fn check(&self, map: &DirtyMap, when: &str) {
        for (i, _) in self.0.iter().enumerate().filter(|(_, owed)| **owed) {
            let item = i as u64 * GRANULE;
            assert!(map.get(item).unwrap_or(false), "{when}: granule {i} of {} is owed and clean", map.len() / GRANULE);
        }
    }
}

/// The writer: this test binary again, with the map's name in its environment.
#[test]
fn writer() {
    let Some(path) = std::env::var_os("DIRTYMAP_WRITER") else { return };
    let mut rng = Rng(random());
    // A flusher of its own, too, so that flushes come at any moment.
    let options = Options::new().armed_bound(64 * 20 * GRANULE).flush_interval(Some(Duration::from_millis(15)));
    let mut map = options.open(&path).expect("open");
    loop {
        let granules = map.len() / GRANULE;
        let from = rng.below(granules);
        let to = (from + 1 + if rng.below(3) == 0 { rng.below(500) } else { rng.below(4) }).min(granules);
        match rng.below(60) {
            0..40 => {
                map.set(from * GRANULE..to * GRANULE).expect("set");
                println!("s {from} {to}");
            }
            40..55 => {
                println!("r {from} {to}");
                map.reset(from * GRANULE..to * GRANULE).expect("reset");
            }
            55 => map.flush().expect("flush"),
            56 => {
                let len = 1 + rng.below(MOST);
                if len < granules {
                    println!("t {len}");
                }
                map.truncate(len * GRANULE).expect("truncate");
            }
            57 => {
                map.close().expect("close");
                map = options.open(&path).expect("open again");
            }
            _ => {}
        }
    }
}

/// Starts the writer; what it tells is kept as it comes.
fn start(map: &Path) -> (Child, Arc<Mutex<Vec<Told>>>, std::thread::JoinHandle<()>) {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["writer", "--exact", "--nocapture"])
        .env("DIRTYMAP_WRITER", map)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the writer");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (keep, out) = (heard.clone(), BufReader::new(child.stdout.take().expect("piped")));
    let reader = std::thread::spawn(move || {
        // The test harness of the child says something as well.
        out.lines().map_while(Result::ok).filter_map(|line| told(&line)).for_each(|t| keep.lock().unwrap().push(t));
    });
    (child, heard, reader)
}

fn cuts() -> u64 {
    std::env::var("DIRTYMAP_CUTS").ok().and_then(|v| v.parse().ok()).unwrap_or(4)
}

/// Cuts the power of an image with such a file system again and again.
fn power_cuts(kind: &str) {
    let dir = tempfile::tempdir_in("/var/tmp").or_else(|_| tempfile::tempdir()).expect("directory");
    let (outer_image, outer_at, at) = (dir.path().join("outer"), dir.path().join("o"), dir.path().join("i"));
    let outer = make("xfs", &outer_image, 4096).then(|| Mounted::new(&outer_image, &outer_at)).flatten();
    let Some(_outer) = outer else { return skipped("power cuts: needs root, loop devices and mkfs.xfs") };
    let mut image = outer_at.join("0");
    if !make(kind, &image, 320) {
        return skipped(&format!("power cuts on {kind}: no mkfs.{kind}"));
    }
    let Some(mut inner) = Mounted::new(&image, &at) else { return skipped(&format!("{kind} cannot be mounted")) };
    let map = at.join("map");
    // Durable by itself, also its name.
    Options::new().granularity(12).create(&map, MOST * GRANULE).expect("create").close().expect("create");
    let mut owed = Owed(vec![false; MOST as usize]);
    let (mut sets, mut held) = (0, 0);
    for cut in 1..=cuts() {
        let (mut writer, heard, reader) = start(&map);
        // Some cuts in the first steps, some after much work.
        let patience = random() % if cut % 2 == 0 { 60 } else { 400 };
        std::thread::sleep(Duration::from_millis(5 + patience));
        assert!(writer.try_wait().expect("the writer").is_none(), "the writer failed");
        let before = heard.lock().unwrap().len();
        let next = outer_at.join(cut.to_string());
        assert!(sh!("cp", "--reflink=always", image, next), "clone");
        writer.kill().and_then(|()| writer.wait()).expect("kill");
        reader.join().expect("reader");
        let all = std::mem::take(&mut *heard.lock().unwrap());
        all[..before].iter().for_each(|&t| owed.hear(t));
        // What was announced later may have happened before the cut; what was set later is not owed.
        all[before..].iter().filter(|t| !matches!(t, Told::Set(..))).for_each(|&t| owed.hear(t));
        sets += all[..before].iter().filter(|t| matches!(t, Told::Set(..))).count();
        // Two file systems of one identity are not mounted at once.
        drop(inner);
        fs::remove_file(&image).expect("remove");
        image = next;
        inner = Mounted::new(&image, &at).unwrap_or_else(|| panic!("{kind} cannot be mounted after cut {cut}"));
        let what = format!("{kind}, cut {cut}");
        let read = Options::new().read_only(true).open(&map).unwrap_or_else(|e| panic!("{what}: {e}"));
        owed.check(&read, &what);
        let opened = DirtyMap::open(&map).unwrap_or_else(|e| panic!("{what}: {e}"));
        owed.check(&opened, &what);
        assert_eq!(opened.recovery().damaged_pages, 0, "{what}: {:?}", opened.recovery());
        held += owed.0.iter().filter(|owed| **owed).count();
        opened.close().expect("close");
    }
    println!("{kind}: {} power cuts, {sets} acknowledged sets, {held} owed granules looked at", cuts());
}

#[test]
fn a_power_cut_on_ext4_loses_no_bit() {
    power_cuts("ext4");
}

#[test]
fn a_power_cut_on_xfs_loses_no_bit() {
    power_cuts("xfs");
}

#[test]
fn a_power_cut_on_btrfs_loses_no_bit() {
    power_cuts("btrfs");
}

/// The ioctl that makes ext4 and XFS stop as if the device had failed; 2: not even the log is written.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

fn shut_down(kind: &str) {
    let dir = tempfile::tempdir_in("/var/tmp").or_else(|_| tempfile::tempdir()).expect("directory");
    let (image, at) = (dir.path().join("image"), dir.path().join("at"));
    let mut mounted = make(kind, &image, 320).then(|| Mounted::new(&image, &at)).flatten();
    for durability in [Durability::PowerLoss, Durability::Process] {
        let Some(here) = mounted.take() else {
            return skipped(&format!("shutdown of {kind}: needs root, loop devices and mkfs.{kind}"));
        };
        let path = at.join(format!("{durability:?}"));
        let options = Options::new().granularity(12).durability(durability).flush_interval(None);
        let map = options.create(&path, MOST * GRANULE).expect("create");
        assert!(sh!("sync", "-f", path), "sync");
        let mut owed = Owed(vec![false; MOST as usize]);
        let mut set = |map: &DirtyMap, granule: u64| {
            let ok = map.set(granule * GRANULE..(granule + 1) * GRANULE).is_ok();
            if ok {
                owed.hear(Told::Set(granule, granule + 1));
            }
            ok
        };
        for granule in (0..MOST).step_by(700) {
            assert!(set(&map, granule));
        }
        map.flush().expect("flush");
        for granule in (350..MOST).step_by(700) {
            assert!(set(&map, granule));
        }
        if !sh!("python3", "-c", SHUT_DOWN, at) {
            return skipped(&format!("shutdown of {kind}: the ioctl is refused, or there is no python3"));
        }
        // In words that are armed it may go on; what needs the device must say that it failed.
        let armed = (351..MOST).step_by(700).filter(|&granule| set(&map, granule)).count();
        let flushed = map.flush();
        let new = set(&map, 200);
        if durability == Durability::PowerLoss {
            assert!(armed > 0 && flushed.is_err() && !new, "{kind}: {armed} {flushed:?} {new}");
        }
        owed.check(&map, "shut down");
        assert!(map.close().is_err(), "{kind}: closed cleanly on a file system that is gone");
        drop(here);
        mounted = Mounted::new(&image, &at);
        assert!(mounted.is_some(), "{kind} cannot be mounted again");
        let what = format!("{kind}, {durability:?}, after a shutdown");
        let map = DirtyMap::open(&path).unwrap_or_else(|e| panic!("{what}: {e}"));
        owed.check(&map, &what);
        map.close().expect("close");
    }
}

#[test]
fn a_file_system_that_shuts_down_under_the_map_loses_no_bit() {
    shut_down("ext4");
    shut_down("xfs");
}

/// Space that a set can touch is set aside before: on a full disk it is an error to those who share the map, not a signal.
#[test]
fn who_shares_a_map_on_a_full_disk_gets_an_error_and_no_signal() {
    for (kind, megabytes) in [("ext4", 64), ("xfs", 320), ("btrfs", 128)] {
        let dir = tempfile::tempdir().expect("a place to mount");
        let image = dir.path().join("image");
        let mounted = make(kind, &image, megabytes).then(|| Mounted::new(&image, &dir.path().join("mnt"))).flatten();
        let Some(mounted) = mounted else {
            skipped(&format!("sharing on a full {kind}: cannot make or mount one"));
            continue;
        };
        let path = mounted.0.join("map");
        let shared = || Options::new().access(Access::Shared).flush_interval(None).armed_bound(1 << 20);
        let len = 1 << 38; // 16 MiB of volatile space and more
        shared().granularity(12).durability(Durability::Process).create(&path, len).unwrap().close().unwrap();
        let two = [(); 2].map(|()| shared().open(&path).unwrap());
        let reader = Options::new().access(Access::ReadOnly).open(&path).unwrap();
        let space = mounted.0.join("space");
        let file = fs::File::create(&space).unwrap();
        for size in [1 << 20, 65536, 4096] {
            let mut end = file.metadata().unwrap().len();
            while std::os::unix::fs::FileExt::write_all_at(&file, &vec![1; size], end).is_ok() {
                end += size as u64;
            }
            file.sync_all().ok();
        }
        let at = |i: u64| i * (len / 512) + 4096 * i;
        let (mut set, mut full) = (Vec::new(), 0);
        for i in 0..512 {
            match two[i as usize % 2].set(at(i)..at(i) + 1) {
                Ok(_) => set.push(i),
                Err(error) => {
                    assert_eq!(error.kind(), "no-space", "{error}");
                    full += 1;
                }
            }
            // A look at a hole takes no space here.
            two[1 - i as usize % 2].get(at(i)).and_then(|_| reader.get(at(i))).unwrap();
        }
        eprintln!("{kind}: {} set, {full} refused", set.len());
        assert!(full > 0, "{kind} was not full");
        // Whether there is space for this is the file system's business.
        let _ = (two[0].flush(), two[1].flush());
        // Given back now, and not when the file system gets round to a file that was removed.
        file.set_len(0).and_then(|()| file.sync_all()).unwrap();
        fs::remove_file(&space).unwrap();
        set.iter().for_each(|&i| _ = two[1].set(at(i)..at(i) + 1).unwrap());
        let [one, other] = two;
        one.close().unwrap();
        assert!(set.iter().all(|&i| reader.get(at(i)).unwrap()));
        let _ = other.close();
        let map = DirtyMap::open(&path).unwrap();
        assert!(set.iter().all(|&i| map.get(at(i)).unwrap()));
    }
}
