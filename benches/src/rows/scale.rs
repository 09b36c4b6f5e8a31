//! What size costs: bits, threads, armed words and granularity, each turned up alone.
//!
//! Invariant kept here: nothing here has a target; where something cannot be had (memory, or an operation over all of a
//! map that is too large for it), the point is left out and nothing stands for it.

use super::Scale;
use crate::harness::{median, timed};
use crate::inputs::{Rng, positions};
use crate::peers::OK;
use dirtymap::{Bitmap, Options};
use std::hint::spin_loop;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds.
    Time,
    Bytes,
    /// A multiple of something.
    Times,
    /// Something in a second.
    Rate,
    /// How many.
    Count,
}

/// One chart and one table: a line for each thing that is measured, a column for each size.
pub struct Panel {
    pub title: &'static str,
    /// What the columns are, and each of them.
    pub x: (&'static str, Vec<String>),
    pub unit: Unit,
    pub lines: Vec<(&'static str, Vec<Option<f64>>)>,
}

impl Panel {
    fn new(title: &'static str, x: &'static str, columns: Vec<String>, unit: Unit) -> Panel {
        Panel { title, x: (x, columns), unit, lines: Vec::new() }
    }

    /// Adds what was found in the next column.
    fn put(&mut self, line: &'static str, value: impl Into<Option<f64>>) {
        match self.lines.iter_mut().find(|l| l.0 == line) {
            Some((_, values)) => values.push(value.into()),
            None => self.lines.push((line, vec![value.into()])),
        }
    }
}

/// log2 of the bits of a map.
const SIZES: [u32; 6] = [20, 24, 28, 32, 36, 40];
/// The largest of which all bits are set.
const DENSE: u32 = 32;
/// Random bits of a sparse `Bitmap`.
const SPARSE: usize = 1 << 16;
/// Random bits of a sparse `DirtyMap`: so few that all of their words can be listed at once.
const FEW: usize = 1 << 8;
/// Runs of which the median counts.
const ROUNDS: usize = 3;

pub fn rows(scale: &Scale, dir: &Path) -> Vec<Panel> {
    type Part = fn(&Path) -> Vec<Panel>;
    let parts: [(&str, Part); 6] = [
        ("scale: Bitmap", |_| bitmaps()),
        ("scale: DirtyMap", maps),
        ("scale: memory", |_| memory()),
        ("scale: threads", threads),
        ("scale: armed", armed),
        ("scale: granularity", granularity),
    ];
    let mut out = Vec::new();
    for (name, part) in parts.into_iter().filter(|part| scale.wants(part.0)) {
        eprintln!("{name}");
        out.extend(part(dir));
    }
    out
}

fn sizes() -> Vec<String> {
    SIZES.map(|size| format!("2^{size}")).to_vec()
}

/// Nanoseconds that each of `n` operations takes.
fn per<R>(n: usize, f: impl FnOnce() -> R) -> f64 {
    timed(f).0.as_nanos() as f64 / n as f64
}

/// The medians of what some rounds put into panels.
fn medians(rounds: usize, mut round: impl FnMut(&mut Vec<(&'static str, f64)>)) -> Vec<(&'static str, f64)> {
    let mut all: Vec<(&'static str, Vec<f64>)> = Vec::new();
    for _ in 0..rounds {
        let mut found = Vec::new();
        round(&mut found);
        for (name, value) in found {
            match all.iter_mut().find(|line| line.0 == name) {
                Some(line) => line.1.push(value),
                None => all.push((name, vec![value])),
            }
        }
    }
    all.into_iter().map(|(name, values)| (name, median(values))).collect()
}

fn distinct(bits: u64, n: usize) -> Vec<u64> {
    let mut at = positions(bits, n);
    let mut rng = Rng(7);
    at.sort_unstable();
    at.dedup();
    (1..at.len()).rev().for_each(|i| at.swap(i, rng.below(i as u64 + 1) as usize));
    at
}

fn bitmaps() -> Vec<Panel> {
    const BITS: [&str; 8] = [
        "set, memory untouched",
        "reset",
        "set, memory touched",
        "set, set already",
        "get",
        "iterate",
        "count in a range (all)",
        "merge of as many others",
    ];
    let mut bit = Panel::new("Bitmap, 2^16 random bits: time per bit", "bits of the map", sizes(), Unit::Time);
    for size in SIZES {
        let bits = 1u64 << size;
        let (at, other) = (distinct(bits, SPARSE), positions(bits, SPARSE + 1));
        let n = at.len();
        let found = medians(ROUNDS, |found| {
            let (Ok(mut map), Ok(mut others)) = (Bitmap::new(bits, 0), Bitmap::new(bits, 0)) else { return };
            other.iter().for_each(|&bit| drop(others.set(bit..bit + 1)));
            let set = |map: &mut Bitmap| per(n, || at.iter().for_each(|&bit| drop(map.set(bit..bit + 1))));
            let reset = |map: &mut Bitmap| per(n, || at.iter().for_each(|&bit| drop(map.reset(bit..bit + 1))));
            let times = [
                set(&mut map),
                reset(&mut map),
                set(&mut map),
                set(&mut map),
                per(n, || at.iter().filter(|&&bit| map.get(bit).expect(OK)).count()),
                per(n, || map.granules(0..bits).expect(OK).fold(0, u64::wrapping_add)),
                per(n, || map.count_range(0..bits).expect(OK)),
                per(n, || map.merge(&others)),
            ];
            found.extend(BITS.into_iter().zip(times));
        });
        BITS.iter().for_each(|&name| bit.put(name, found.iter().find(|f| f.0 == name).map(|f| f.1)));
    }
    let columns = SIZES.iter().filter(|&&size| size <= DENSE).map(|size| format!("2^{size}")).collect();
    let mut whole = Panel::new("Bitmap, all of it: time per word", "bits of the map", columns, Unit::Time);
    for size in SIZES.into_iter().filter(|&size| size <= DENSE) {
        let bits = 1u64 << size;
        let n = (bits / 64) as usize;
        let found = medians(ROUNDS, |found| {
            let mut map = Bitmap::new(bits, 0).expect("memory");
            found.push(("set all, memory untouched", per(n, || map.set_all())));
            found.push(("reset all", per(n, || map.reset_all())));
            found.push(("set all, memory touched", per(n, || map.set_all())));
            found.push(("count in a range (all)", per(n, || map.count_range(0..bits).expect(OK))));
            found.push(("finish", per(n, || map.rebuild_summaries())));
        });
        found.into_iter().for_each(|(name, ns)| whole.put(name, ns));
    }
    vec![bit, whole]
}

const GRANULE: u64 = 512;

/// No flusher in between, and room for everything on the armed list.
fn options() -> Options {
    Options::new().flush_interval(None).armed_bound(1 << 62).granularity(GRANULE.ilog2())
}

fn maps(dir: &Path) -> Vec<Panel> {
    let mut bit = Panel::new("DirtyMap, 2^8 random bits: time per bit", "bits of the map", sizes(), Unit::Time);
    let mut whole = Panel::new("DirtyMap, 2^8 random bits: time of all of it", "bits of the map", sizes(), Unit::Time);
    for size in SIZES {
        let bits = 1u64 << size;
        let at = distinct(bits, FEW);
        let n = at.len();
        let path = dir.join("map");
        let mut times = medians(ROUNDS, |found| {
            let (took, map) = timed(|| options().create(&path, bits * GRANULE).expect("create a map"));
            found.push(("create", took.as_nanos() as f64));
            let set = || at.iter().for_each(|&bit| _ = map.set(bit * GRANULE..bit * GRANULE + 1).expect("set"));
            found.push(("set, arming each", per(n, set)));
            found.push(("reset all", per(n, || map.reset_all().expect("reset"))));
            found.push(("set, armed", per(n, set)));
            found.push(("flush", per(n, || map.flush().expect("flush"))));
            found.push(("set, durable", per(n, set)));
            found.push(("iterate", per(n, || map.granules(0..map.len()).expect(OK).fold(0, u64::wrapping_add))));
            found.push(("count", per(n, || map.count())));
            drop(map); // As a process that dies does it.
            let (took, map) = timed(|| options().open(&path).expect("open"));
            found.push(("open, crashed", took.as_nanos() as f64));
            found.push(("close", timed(|| map.close().expect("close")).0.as_nanos() as f64));
            let (took, map) = timed(|| options().open(&path).expect("open"));
            found.push(("open, closed", took.as_nanos() as f64));
            map.close().expect("close");
            std::fs::remove_file(&path).expect("remove it");
        });
        times.sort_by_key(|(name, _)| !["create", "open, closed", "open, crashed", "close"].contains(name));
        times.iter().take(4).for_each(|&(name, ns)| whole.put(name, ns));
        times.iter().skip(4).for_each(|&(name, ns)| bit.put(name, ns));
    }
    vec![bit, whole]
}

/// A process of its own for each figure, since memory that others have used and given back would be in the way.
pub fn child(what: &str, size: u32) {
    let field = |file: &str, name: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/self/{file}")).expect("proc");
        let line = text.lines().find(|line| line.starts_with(name)).expect("a field");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") << 10
    };
    let resident = || field("smaps_rollup", "Anonymous:") + field("status", "VmPTE:");
    let mapped = || field("status", "VmSize:");
    let bits = 1u64 << size;
    let (kind, state) = what.split_once(' ').expect("a kind and a state");
    let some = positions(bits, if kind == "bitmap" { SPARSE } else { FEW });
    let before = (mapped(), resident());
    if kind == "bitmap" {
        let Ok(mut map) = Bitmap::new(bits, 0) else { return };
        match state {
            "sparse" => some.iter().for_each(|&bit| drop(map.set(bit..bit + 1))),
            _ => drop(map.set_all()),
        }
        println!("{} {} 0", mapped() - before.0, resident() - before.1);
        return;
    }
    let dir = Path::new("/dev/shm");
    let dir = if dir.is_dir() { dir.to_path_buf() } else { std::env::temp_dir() };
    let dir = tempfile::tempdir_in(dir).expect("a place for files");
    let map = options().create(dir.path().join("map"), bits * GRANULE).expect("create a map");
    match state {
        "sparse" => {
            positions(bits, FEW).into_iter().for_each(|bit| _ = map.set(bit * GRANULE..bit * GRANULE + 1).expect("set"))
        }
        _ => _ = map.set_all().expect("set"),
    }
    map.flush().expect("flush");
    let allocated = std::fs::metadata(map.path()).expect("the file").blocks() * 512;
    println!("{} {} {allocated}", mapped() - before.0, resident() - before.1);
    map.close().expect("close");
}

/// Address space, memory and space in the file, if it can be had.
fn measured(what: &str, size: u32) -> Option<[f64; 3]> {
    let program = std::env::current_exe().expect("this program");
    let ran = Command::new(program).args(["--child-memory", what, &size.to_string()]).output().expect("a process");
    assert!(ran.status.success(), "{what}: {}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).expect("numbers");
    let mut numbers = text.split_whitespace().map(|number| number.parse().expect("a number"));
    Some([numbers.next()?, numbers.next()?, numbers.next()?])
}

/// Address space, memory, and space in a file.
fn memory() -> Vec<Panel> {
    let mut bitmap = Panel::new("Bitmap: memory", "bits of the map", sizes(), Unit::Bytes);
    let mut map = Panel::new("DirtyMap: memory and disk", "bits of the map", sizes(), Unit::Bytes);
    for size in SIZES {
        let dense = |what| (size <= DENSE).then(|| measured(what, size)).flatten();
        let (sparse, full) = (measured("bitmap sparse", size), dense("bitmap full"));
        bitmap.put("address space", sparse.map(|found| found[0]));
        bitmap.put("memory, 2^16 random bits", sparse.map(|found| found[1]));
        bitmap.put("memory, all set", full.map(|found| found[1]));
        let (sparse, full) = (measured("map sparse", size), dense("map full"));
        map.put("address space", sparse.map(|found| found[0]));
        map.put("memory, 2^8 random bits", sparse.map(|found| found[1]));
        map.put("memory, all set", full.map(|found| found[1]));
        map.put("on disk, 2^8 random bits", sparse.map(|found| found[2]));
        map.put("on disk, all set", full.map(|found| found[2]));
    }
    vec![bitmap, map]
}

/// What one and what two threads get done in a second, by the wall clock; of many short runs the fastest counts.
fn threads(dir: &Path) -> Vec<Panel> {
    const TRIES: usize = 60;
    const EACH: u64 = 1 << 14;
    let columns = ["1", "2"].map(String::from).to_vec();
    let mut panel = Panel::new("Threads: operations a second in all", "threads", columns, Unit::Rate);
    let options = || Options::new().flush_interval(None).armed_bound(1 << 62);
    let granule = 1 << 16;
    let map = options().create(dir.join("threads"), 4 * EACH * granule).expect("create a map");
    let full = options().create(dir.join("full"), 4 * EACH * granule).expect("create a map");
    map.set_all().expect("arm everything");
    full.set_all().and_then(|_| full.flush()).expect("flush");
    let mut bits = Bitmap::new(4 * EACH, 0).expect("memory");
    bits.set_all();
    // Each of EACH bits out of twice as many once, all over the thread's part.
    let bit = |thread: u64, i: u64| thread * 2 * EACH + i.wrapping_mul(0x9e37_79b1) % (2 * EACH);
    let write = |bit: u64| bit * granule..bit * granule + 4096;
    let part = |thread: u64| thread * 2 * EACH..thread * 2 * EACH + EACH;
    let set = |t| (0..EACH).for_each(|i| _ = map.set(write(bit(t, i))).expect("set"));
    let durable = |t| (0..EACH).for_each(|i| _ = full.set(write(bit(t, i))).expect("set"));
    let bracket = |t| (0..EACH).for_each(|i| drop(map.begin_write(write(bit(t, i))).expect("begin a write")));
    let arm = |t: u64| part(t).for_each(|bit| _ = map.set(write(bit)).expect("set"));
    let iterate = |t: u64| {
        let items = part(t).start * granule..part(t).end * granule;
        assert_eq!(full.granules(items).expect(OK).count() as u64, EACH);
    };
    let iterate_bits = |t: u64| {
        std::hint::black_box(bits.granules(part(t)).expect(OK).fold(0, u64::wrapping_add));
    };
    let nothing = || ();
    let reset = || _ = map.reset_all().expect("reset");
    let disarm = || map.reset_all().and_then(|_| map.flush()).expect("flush");
    type Work<'a> = &'a (dyn Fn(u64) + Sync);
    let rows: [(&str, Work, &dyn Fn()); 6] = [
        ("DirtyMap::set, durable", &durable, &nothing),
        ("DirtyMap::set, armed", &set, &reset),
        ("DirtyMap::begin_write, armed", &bracket, &reset),
        ("DirtyMap: iterate, dense", &iterate, &nothing),
        ("Bitmap: iterate, dense", &iterate_bits, &nothing),
        // The last one: it leaves nothing armed.
        ("DirtyMap::set, arming, front to back", &arm, &disarm),
    ];
    for (name, work, prepare) in rows {
        let mut fastest = [f64::MAX; 2];
        for _ in 0..TRIES {
            for (count, fastest) in (1..).zip(&mut fastest) {
                prepare();
                *fastest = fastest.min(together(count, work));
            }
        }
        for (count, ns) in (1..).zip(fastest) {
            panel.put(name, (count * EACH) as f64 * 1e9 / ns);
        }
    }
    vec![panel]
}

/// The time from a moment that all threads were told beforehand until the last one is done.
fn together(count: u64, work: &(dyn Fn(u64) + Sync)) -> f64 {
    let mut lead = Duration::from_micros(300);
    loop {
        let start = Instant::now() + lead;
        let took = std::thread::scope(|scope| {
            let run = |thread| {
                let late = Instant::now() > start;
                while Instant::now() < start {
                    spin_loop();
                }
                work(thread);
                (late, start.elapsed())
            };
            let running: Vec<_> = (0..count).map(|thread| scope.spawn(move || run(thread))).collect();
            running.into_iter().map(|thread| thread.join().expect("it ends")).collect::<Vec<_>>()
        });
        if !took.iter().any(|(late, _)| *late) || lead > Duration::from_millis(50) {
            return took.iter().map(|(_, took)| took.as_nanos() as f64).fold(0.0, f64::max);
        }
        lead *= 2;
    }
}

/// What it costs that much is armed, in one run or in as many as there are words.
fn armed(dir: &Path) -> Vec<Panel> {
    const COUNTS: [u64; 8] = [1, 4, 16, 64, 256, 1024, 4096, 16384];
    const WORDS: u64 = 1 << 14;
    const WORD: u64 = 64 * GRANULE;
    let map = options().create(dir.join("armed"), (WORDS + 1) * WORD).expect("create a map");
    let columns = COUNTS.map(|n| n.to_string()).to_vec();
    let mut panel = Panel::new("DirtyMap, armed words", "armed words of 16384", columns, Unit::Time);
    for n in COUNTS {
        for (run, names) in [
            (true, ["set, armed", "arm one more beside one run", "flush one run"]),
            (false, ["", "arm one more beside single words", "flush single words"]),
        ] {
            if !run && n > 256 {
                (1..3).for_each(|i| panel.put(names[i], None));
                continue; // The list has no room for more runs.
            }
            let word = |i: u64| if run { i } else { i * (WORDS / n) };
            let found = medians(9, |found| {
                map.reset_all().and_then(|_| map.flush()).expect("flush");
                if run {
                    map.set(0..n * WORD).expect("set");
                    map.reset_all().expect("reset");
                }
                let mut rng = Rng(n);
                (0..n).for_each(|i| _ = map.set(word(i) * WORD..word(i) * WORD + 1).expect("set"));
                let at: Vec<u64> = (0..4096).map(|_| word(rng.below(n)) * WORD + rng.below(64) * GRANULE).collect();
                found.push((names[0], per(4096, || at.iter().for_each(|&at| _ = map.set(at..at + 1).expect("set")))));
                let arms = map.stats().arms;
                found.push((names[1], per(1, || map.set(WORDS * WORD..WORDS * WORD + 1).expect("set"))));
                assert_eq!(map.stats().arms, arms + 1, "it was armed");
                found.push((names[2], per(1, || map.flush().expect("flush"))));
            });
            found.into_iter().filter(|f| !f.0.is_empty()).for_each(|(name, ns)| panel.put(name, ns));
        }
    }
    vec![panel]
}

/// How much more is copied than was written, how large the map is and how often it syncs.
fn granularity(dir: &Path) -> Vec<Panel> {
    const GRANULARITIES: [u32; 7] = [9, 12, 14, 16, 18, 20, 21];
    const IMAGE: u64 = 1 << 40;
    const PAGE: u64 = 4096;
    /// Where most writes of the pattern with a hot part go.
    const HOT: u64 = IMAGE / 1000;
    let aligned = |at: u64| at / PAGE * PAGE;
    let random = |rng: &mut Rng, within: u64, len: u64| {
        let at = aligned(rng.below(within - len));
        at..at + len
    };
    type Pattern<'a> = &'a dyn Fn(&mut Rng, u64) -> Range<u64>;
    let patterns: [(&str, Pattern); 4] = [
        ("4 KiB at random", &|rng, _| random(rng, IMAGE, PAGE)),
        ("4 KiB, 90 % in 0.1 % of the image", &|rng, _| {
            let within = if rng.below(10) > 0 { HOT } else { IMAGE };
            random(rng, within, PAGE)
        }),
        ("64 KiB at random", &|rng, _| random(rng, IMAGE, 16 * PAGE)),
        ("1 MiB, one after the other", &|_, i| (i << 20) + PAGE..((i + 1) << 20) + PAGE),
    ];
    let label = |g: &u32| if *g < 10 { format!("{} B", 1 << g) } else { size_label(1 << g) };
    let columns = || GRANULARITIES.iter().map(label).collect::<Vec<_>>();
    let (x, writes, synced) = ("granule", 1 << 16, 1 << 13);
    let mut copied = Panel::new("2^16 writes to 1 TiB: copied, as a multiple of written", x, columns(), Unit::Times);
    let mut syncs = Panel::new("2^13 writes to 1 TiB: syncs per 1000 writes", x, columns(), Unit::Count);
    let mut size = Panel::new("A map of 1 TiB, everything dirty", x, columns(), Unit::Bytes);
    for g in GRANULARITIES {
        for (name, pattern) in patterns {
            let mut written = Bitmap::new(IMAGE, 12).expect("memory");
            let mut map = Bitmap::new(IMAGE, g).expect("memory");
            let mut rng = Rng(17);
            for i in 0..writes {
                let range = pattern(&mut rng, i);
                written.set(range.clone()).expect(OK);
                map.set(range).expect(OK);
            }
            copied.put(name, map.dirty_len() as f64 / written.dirty_len() as f64);
            let path = dir.join("syncs");
            let map = Options::new().granularity(g).flush_interval(None).create(&path, IMAGE).expect("create a map");
            (0..synced).for_each(|i| _ = map.set(pattern(&mut rng, i)).expect("set"));
            map.flush().expect("flush");
            syncs.put(name, map.stats().syncs as f64 * 1000.0 / synced as f64);
            map.close().expect("close");
            std::fs::remove_file(&path).expect("remove it");
        }
        // What counts is how many bits the map has.
        let full = measured("map full", 40 - g).expect("memory");
        size.put("on disk", full[2]);
        size.put("in memory while open", full[1]);
    }
    vec![copied, syncs, size]
}

fn size_label(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}
