//! Memory and disk for each TiB of image at 64 KiB, as docs/performance.md states them. One test to a process, or they would
//! count each other's.

use dirtymap::{Access, Bitmap, Options};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const TIB: u64 = 1 << 40;
const KIB: u64 = 1 << 10;

/// In KiB: a `Bitmap`, all of it.
const BITMAP: u64 = 2081;
/// The memory that an open map asks for, and the most of it that it has while nothing is dirty.
const ASKED: u64 = 6336;
const CLEAN: u64 = 64;
/// What is left of it where nothing is ever written: parts begin at multiples of 64 KiB.
const ROUNDING: u64 = 256;
/// The file: how long it is, and what it takes on disk when nothing and when everything is dirty.
const FILE: u64 = 8704;
const FILE_CLEAN: u64 = 256;
const FILE_DIRTY: u64 = 2320;

#[test]
fn a_tebibyte_takes_the_memory_and_the_disk_that_are_stated() {
    // First, as long as the allocator has nothing that was used before.
    let before = anonymous();
    let mut map = Bitmap::new(TIB, 16).unwrap();
    let asked: u64 = map.geometry().level_words().iter().sum::<u64>() * 8;
    assert_eq!(asked.div_ceil(KIB), BITMAP);
    let clean = anonymous() - before;
    assert!(clean <= 128 * KIB, "{clean} bytes");
    map.set_all();
    let dirty = anonymous() - before;
    // What nobody looks at again need not be stored.
    assert!(std::hint::black_box(&map).is_full() && map.bottom_words().contains(&u64::MAX));
    assert!((2 << 20..=(BITMAP + 128) * KIB).contains(&dirty), "{dirty} bytes");
    drop(map);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.map");
    let options = || Options::new().flush_interval(None);
    // Once for what a first map costs that a second one does not.
    options().create(&path, TIB).unwrap().close().unwrap();
    fs::remove_file(&path).unwrap();

    let map = options().create(&path, TIB).unwrap();
    // Nobody has touched anything yet, and the file has headers.
    assert_eq!(fs::metadata(&path).unwrap().len(), FILE * KIB);
    assert!(on_disk(&path) <= FILE_CLEAN * KIB, "{} bytes", on_disk(&path));
    let [own, of_file] = mapped(&path);
    assert_eq!(own.asked, ASKED * KIB);
    assert!(own.resident <= CLEAN * KIB, "{own:?}");
    // For syncs only: nothing is looked at through it.
    assert!(of_file.asked <= FILE * KIB && of_file.resident == 0, "{of_file:?}");

    map.set_all().unwrap();
    map.flush().unwrap();
    let [own, of_file] = mapped(&path);
    assert_eq!(own.asked, ASKED * KIB);
    assert!((ASKED - ROUNDING) * KIB <= own.resident && own.resident <= ASKED * KIB, "{own:?}");
    assert_eq!(of_file.resident, 0);
    assert!((2 << 20..=FILE_DIRTY * KIB).contains(&on_disk(&path)), "{} bytes", on_disk(&path));
    map.close().unwrap();
    assert_eq!(mapped(&path)[0].asked, 0, "closing gives it back");

    // Who shares a map keeps all of it in memory.
    match options().access(Access::Shared).open(&path) {
        Ok(map) => {
            assert_eq!(field("/proc/self/status", "VmLck:"), ASKED * KIB);
            map.close().unwrap();
        }
        Err(e) => eprintln!("SKIPPED: memory of a shared map: {e}"),
    }
    fs::remove_file(&path).unwrap();
    stated();
}

/// The text says what was found.
fn stated() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md")).unwrap();
    for stated in [BITMAP, ASKED, CLEAN, FILE, FILE_CLEAN, FILE_DIRTY] {
        assert!(text.contains(&format!(" {stated} KiB")), "docs/performance.md does not say {stated} KiB");
    }
}

fn on_disk(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// Bytes of the mappings that a forked child does not get, which are those of maps.
#[derive(Clone, Copy, Debug, Default)]
struct Mapped {
    asked: u64,
    resident: u64,
}

/// Those of no file, and those of the file at `path`.
fn mapped(path: &Path) -> [Mapped; 2] {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let file = fs::metadata(path).unwrap().ino();
    let mut found = [Mapped::default(); 2];
    let (mut of_file, mut this) = (None, Mapped::default());
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        match first {
            "Size:" => this.asked = second.parse::<u64>().unwrap() * KIB,
            "Rss:" => this.resident = second.parse::<u64>().unwrap() * KIB,
            "VmFlags:" if line.contains(" dc") => {
                if let Some(i) = of_file {
                    let sum: &mut Mapped = &mut found[i];
                    sum.asked += this.asked;
                    sum.resident += this.resident;
                }
            }
            // A line of a new mapping: addresses, rights, offset, device, inode, and what it is of.
            // By its inode: whoever made a file has mapped it before it had a name.
            _ if first.contains('-') => match line.split_whitespace().nth(4).map(str::parse::<u64>) {
                Some(Ok(0)) => of_file = Some(0),
                Some(Ok(inode)) if inode == file => of_file = Some(1),
                _ => of_file = None,
            },
            _ => {}
        }
    }
    found
}

/// Memory of this process that is of no file. (In /proc/self/status it may be off by some pages for each processor.)
fn anonymous() -> u64 {
    field("/proc/self/smaps_rollup", "Anonymous:")
}

fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * KIB
}
