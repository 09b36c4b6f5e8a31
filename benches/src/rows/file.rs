//! `DirtyMap`: what a tracked write pays, opening, and work that is counted instead of timed.
//!
//! Timed rows use files in memory (`/dev/shm`, or what `--dir` says), so that they tell about the program and not
//! about the device; what the device has to do is counted.

use super::{Scale, row};
use crate::harness::{Contender, Kind, Measured, measure, timed};
use crate::inputs::{Rng, positions};
use crate::mounted::{Mounted, make, sh};
use crate::peers::{Bits, OK, Plain};
use dirtymap::{DirtyMap, IntentBound, Options};
use fixedbitset::FixedBitSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;
use vm_memory::bitmap::AtomicBitmap;

/// A result that is no time.
pub struct Counted {
    pub what: &'static str,
    pub state: String,
    pub found: f64,
    pub unit: &'static str,
    pub most: Option<f64>,
}

const GRANULE: u64 = 1 << 16;

/// Where the page table of a new map is.
const TABLE: u64 = 64 << 10;

/// No flusher in between, and room for everything on the armed list.
fn options() -> Options {
    Options::new().flush_interval(None).armed_bound(1 << 62)
}

pub fn rows(scale: &Scale, dir: &Path, out: &mut Vec<Measured>) {
    set(scale, dir, out);
    open(scale, dir, out);
    tracked(scale, dir, out);
}

/// What a set of a bit that is durable has to look at: whose map it is, whether it may be written, what the range is in bits,
/// and the bit; as atomics, since other threads may be at work.
struct Guarded {
    born: u64,
    failed: AtomicBool,
    len: u64,
    granularity: u32,
    words: Box<[AtomicU64]>,
}

/// Goes up in the child of a fork.
static GENERATION: AtomicU64 = AtomicU64::new(1);

impl Guarded {
    fn new(bits: u64) -> Guarded {
        let words = (0..bits / 64).map(|_| AtomicU64::new(u64::MAX)).collect();
        let granularity = std::hint::black_box(GRANULE.ilog2());
        Guarded { born: 1, failed: AtomicBool::new(false), len: bits * GRANULE, granularity, words }
    }

    /// Out of line, as a function of a library.
    #[inline(never)]
    fn set(&self, bit: u64) {
        let (start, end) = (bit * GRANULE, bit * GRANULE + 4096);
        assert!(GENERATION.load(SeqCst) == self.born && !self.failed.load(SeqCst) && end <= self.len);
        let (first, last) = (start >> self.granularity, (end - 1) >> self.granularity);
        assert!(first == last, "a granule");
        assert!(self.words[(first / 64) as usize].load(SeqCst) >> (first % 64) & 1 != 0, "it is not set");
    }
}

fn set(scale: &Scale, dir: &Path, out: &mut Vec<Measured>) {
    const BITS: u64 = 1 << 20;
    let at = positions(BITS, 1 << 18);
    let map = options().create(dir.join("set"), BITS * GRANULE).expect("create a map");
    let set = |bit: u64| _ = map.set(bit * GRANULE..bit * GRANULE + 4096).expect("a tracked write");
    map.set_all().and_then(|_| map.flush()).expect("flush");
    if scale.wants("DirtyMap::set, durable") {
        let full = FixedBitSet::of(&vec![u64::MAX; BITS as usize / 64]);
        let mut atomic = AtomicBitmap::of(&vec![u64::MAX; BITS as usize / 64]);
        let plain = Plain::of(&vec![u64::MAX; BITS as usize / 64]);
        let all = at.len() as u64;
        let guarded = Guarded::new(BITS);
        let contenders = vec![
            Contender::new("dirtymap", Kind::Ours, || (timed(|| at.iter().for_each(|&bit| set(bit))).0, all)),
            Contender::new("fixedbitset", Kind::Peer, || {
                timed(|| at.iter().map(|&bit| u64::from(full.has(bit))).sum())
            }),
            Contender::new("vm-memory", Kind::Peer, || (timed(|| at.iter().for_each(|&bit| atomic.mark(bit))).0, all)),
            Contender::new("by hand", Kind::ByHand, || (timed(|| at.iter().for_each(|&bit| guarded.set(bit))).0, all)),
            Contender::new("limit", Kind::Limit, || timed(|| at.iter().map(|&bit| u64::from(plain.has(bit))).sum())),
        ];
        let row = row("DirtyMap::set, durable", "2^20 bits, all set and flushed; random order", all, "bit");
        out.push(measure(row.at_most(1.5, "fixedbitset"), scale.rounds, contenders));
    }
    if scale.wants("DirtyMap::set, armed") {
        // Everything is armed, and stays so as long as nobody flushes.
        map.reset_all().and_then(|_| map.flush()).and_then(|()| map.set_all()).expect("arm");
        let mut new = at.clone();
        new.sort_unstable();
        new.dedup();
        // In random order again.
        let mut rng = Rng(7);
        (1..new.len()).rev().for_each(|i| new.swap(i, rng.below(i as u64 + 1) as usize));
        let mut atomic = AtomicBitmap::of(&vec![0; BITS as usize / 64]);
        let mut plain = Plain::of(&vec![0; BITS as usize / 64]);
        let arms = map.stats().arms;
        let contenders = vec![
            Contender::new("dirtymap", Kind::Ours, || {
                map.reset_all().expect("reset");
                (timed(|| new.iter().for_each(|&bit| set(bit))).0, map.count())
            }),
            Contender::new("vm-memory", Kind::Peer, || {
                atomic.reset();
                let took = timed(|| new.iter().for_each(|&bit| atomic.mark(bit))).0;
                (took, atomic.total())
            }),
            Contender::new("limit", Kind::Limit, || {
                plain.unmark_range(0..BITS);
                let took = timed(|| new.iter().for_each(|&bit| plain.mark(bit))).0;
                (took, plain.total())
            }),
        ];
        let state = "2^20 bits, empty before, 22 % full after, all armed; random order";
        let row = row("DirtyMap::set, armed", state, new.len() as u64, "bit").at_most(3.5, "vm-memory");
        out.push(measure(row, scale.rounds, contenders));
        assert_eq!(map.stats().arms, arms, "a bit was not armed");
    }
    map.close().expect("close");
}

fn open(scale: &Scale, dir: &Path, out: &mut Vec<Measured>) {
    if scale.wants("open, closed") {
        let path = dir.join("closed");
        let create = options().granularity(9).create(&path, 1 << 45);
        create.expect("create a map").close().expect("close");
        let contenders = vec![Contender::new("dirtymap", Kind::Ours, || {
            let (took, map) = timed(|| options().open(&path).expect("open"));
            let bits = map.geometry().bits();
            map.close().expect("close");
            (took, bits)
        })];
        let row = row("open, closed", "2^36 bits, nothing set, closed", 1, "open").at_most_ns(10e6);
        out.push(measure(row, scale.rounds, contenders));
        std::fs::remove_file(&path).expect("remove it");
    }
    if scale.wants("open, crashed") {
        let path = dir.join("crashed");
        let bits = scale.bits;
        let map = options().create(&path, bits * GRANULE).expect("create a map");
        // One random bit in each of 1 % of the pages.
        let mut at = positions(bits, (bits / 4096 / 100) as usize);
        at.sort_unstable();
        at.dedup_by_key(|bit| *bit / 4096);
        let page = |bit: &u64| bit / 4096 * 4096 * GRANULE..(bit / 4096 + 1) * 4096 * GRANULE;
        at.iter().for_each(|bit| _ = map.set(bit * GRANULE..bit * GRANULE + 1).expect("set"));
        map.flush().expect("flush");
        drop(map);
        let pages = |map: &DirtyMap| at.iter().filter(|bit| map.any(page(bit)).expect(OK)).count() as u64;
        // The first page is armed and not flushed when the process is gone.
        let crash = |map: DirtyMap| {
            let hot = page(&at[0]);
            map.reset(hot.clone()).and_then(|_| map.flush()).and_then(|()| map.set(hot)).expect("set");
        };
        crash(options().open(&path).expect("open"));
        let contenders = vec![
            Contender::new("dirtymap", Kind::Ours, || {
                let (took, map) = timed(|| options().open(&path).expect("open"));
                assert!(map.recovery().armed_items > 0, "nothing was armed");
                let found = pages(&map);
                crash(map);
                (took, found)
            }),
            Contender::new("by hand", Kind::ByHand, || {
                // The same, checked, and stored where a map has them: live and durable, each in memory of its own. Of the page
                // table as much is read at once as a cache holds; only the places are known.
                let bottom = TABLE + (bits / 4096 * 4).next_multiple_of(64 << 10);
                let (took, (live, durable, found)) = timed(|| {
                    let file = File::open(&path).expect("open");
                    let fresh = || vec![0u8; (bits / 8) as usize];
                    let (mut live, mut durable, mut found) = (fresh(), fresh(), 0);
                    let (mut page, mut entries, mut held) = ([0; 512], vec![0; 64 << 10], None);
                    for bit in &at {
                        let index = bit / 4096;
                        let (part, entry) = (index / (16 << 10), (index % (16 << 10) * 4) as usize);
                        if held.replace(part) != Some(part) {
                            file.read_exact_at(&mut entries, TABLE + part * (64 << 10)).expect("entries");
                        }
                        file.read_exact_at(&mut page, bottom + index * 512).expect("a page");
                        // With the identity in front it is one block more.
                        let crc = crc32fast::hash(&page);
                        found += u64::from(std::hint::black_box(crc) != 0 || entries[entry..entry + 4] != [0; 4]);
                        let range = (index * 512) as usize..(index * 512 + 512) as usize;
                        live[range.clone()].copy_from_slice(&page);
                        durable[range].copy_from_slice(&page);
                    }
                    (live, durable, found)
                });
                drop((live, durable));
                (took, found)
            }),
            Contender::new("limit", Kind::Limit, || {
                // Those pages alone, read by somebody who knows where they are, into touched memory.
                let bottom = TABLE + (bits / 4096 * 4).next_multiple_of(64 << 10);
                let mut buffer = [0; 512];
                timed(|| {
                    let file = File::open(&path).expect("open");
                    let read = |bit: &&u64| file.read_exact_at(&mut buffer, bottom + *bit / 4096 * 512).is_ok();
                    at.iter().filter(read).count() as u64
                })
            }),
        ];
        let state = format!("2^{} bits, 1 % of pages allocated, one page armed", bits.ilog2());
        let row = row("open, crashed", state, at.len() as u64, "page").at_most(3.0, "limit");
        out.push(measure(row, scale.rounds, contenders));
        std::fs::remove_file(&path).expect("remove it");
    }
    crashed_with_an_intent(scale, dir, out);
}

/// The same with all dirt in the write intent, against a map that has none.
fn crashed_with_an_intent(scale: &Scale, dir: &Path, out: &mut Vec<Measured>) {
    if !scale.wants("open, crashed, with an intent") {
        return;
    }
    let bits = scale.bits;
    let mut at = positions(bits, (bits / 4096 / 100) as usize);
    at.sort_unstable();
    at.dedup_by_key(|bit| *bit / 4096);
    let item = |bit: &u64| bit * GRANULE..bit * GRANULE + 1;
    let crash = |map: DirtyMap| {
        map.reset(at[0] * GRANULE..(at[0] + 1) * GRANULE).and_then(|_| map.flush()).expect("flush");
        map.set(item(&at[0])).expect("set");
    };
    let bounds = [("dirtymap", Kind::Ours, IntentBound::default()), ("without", Kind::ByHand, IntentBound::None)];
    let contenders = bounds.map(|(name, kind, bound)| {
        let (path, at) = (dir.join(format!("crashed {name}")), &at);
        let create = || options().armed_bound(1 << 62).intent_bound(bound).create(&path, bits * GRANULE);
        let map = create().expect("create a map");
        at.iter().for_each(|bit| _ = map.set(item(bit)).expect("set"));
        let frozen = map.freeze(None).expect("freeze");
        map.commit_checkpoint(frozen.uuid, false).expect("commit");
        at.iter().for_each(|bit| _ = map.set(item(bit)).expect("set"));
        map.flush().expect("flush");
        crash(map);
        Contender::new(name, kind, move || {
            let (took, map) = timed(|| options().intent_bound(bound).open(&path).expect("open"));
            assert_eq!(map.recovery().intent_items > 0, bound != IntentBound::None, "what crashed");
            let found = at.iter().filter(|bit| map.any(item(bit)).expect(OK)).count() as u64;
            crash(map);
            (took, found)
        })
    });
    let state = format!("2^{} bits, one bit in each of 1 % of the pages, all frozen and set again", bits.ilog2());
    let row = row("open, crashed, with an intent", state, at.len() as u64, "page").at_most(1.2, "without");
    out.push(measure(row, scale.rounds, contenders.into()));
}

/// Random 64 KiB writes to an image, with and without a map.
fn tracked(scale: &Scale, dir: &Path, out: &mut Vec<Measured>) {
    if !scale.wants("tracked writes") {
        return;
    }
    const LEN: u64 = 100 << 30;
    let image = File::options().read(true).write(true).create_new(true).open(dir.join("image")).expect("an image");
    image.set_len(LEN).expect("a sparse image");
    let map = options().create(dir.join("tracked"), LEN).expect("create a map");
    let at: Vec<u64> = positions(LEN / GRANULE, 2048).into_iter().map(|granule| granule * GRANULE).collect();
    let data = vec![0x5a; GRANULE as usize];
    let write = |at: u64| image.write_all_at(&data, at).expect("write");
    let run = |f: &dyn Fn(u64)| -> (Duration, u64) { (timed(|| at.iter().for_each(|&at| f(at))).0, 0) };
    let contenders = vec![
        Contender::new("dirtymap", Kind::Ours, || {
            run(&|at| {
                map.set(at..at + GRANULE).expect("a tracked write");
                write(at);
            })
        }),
        Contender::new("limit", Kind::Limit, || run(&write)),
    ];
    let state = "64 KiB each, random places of a sparse image of 100 GiB, all written before; no sync";
    let row = row("tracked writes", state, at.len() as u64, "write").at_most(1.0 / 0.9, "limit");
    out.push(measure(row, scale.rounds, contenders));
}

/// Work that is the same on every machine.
pub fn counted(dir: &Path) -> Vec<Counted> {
    let mut out = Vec::new();
    flushed(dir, &mut out);
    for kind in ["ext4", "xfs", "btrfs"] {
        if at_the_device(dir, kind, &mut out).is_none() {
            eprintln!("SKIPPED: counting at a loop device with {kind}: needs root, loop devices and mkfs.{kind}");
        }
    }
    let (len, write) = (64u64 << 30, 1 << 20);
    let map = Options::new().flush_interval(None).create(dir.join("sequential"), len).expect("create a map");
    let before = map.stats();
    for start in (0..len).step_by(write as usize) {
        map.set(start..start + write).expect("set");
    }
    let after = map.stats();
    let found = (after.syncs - before.syncs) as f64 / (len / (64 << 20)) as f64;
    let state = "64 GiB from front to back in 1 MiB writes, default options, flushes included";
    out.push(counted_row("sequential writes: syncs per 64 MiB", state, found, "", Some(1.0)));
    map.close().expect("close");
    out
}

fn counted_row(
    what: &'static str,
    state: impl Into<String>,
    found: f64,
    unit: &'static str,
    most: Option<f64>,
) -> Counted {
    Counted { what, state: state.into(), found, unit, most }
}

const FLUSHED: &str = "2^36 bits, 100 random pages changed, on the armed list one by one";

/// A map of 2^36 bits, and one bit in each of 100 pages of it.
fn huge(dir: &Path) -> (DirtyMap, Vec<u64>) {
    let map = options().granularity(9).create(dir.join("flush"), 1 << 45).expect("create a map");
    let pages = map.geometry().pages();
    let mut rng = Rng(3);
    let at = (0..100).map(|_| rng.below(pages) * 4096 * 512).collect();
    (map, at)
}

/// Syncs and bytes of a flush, as the map counts them.
fn flushed(dir: &Path, out: &mut Vec<Counted>) {
    let (map, at) = huge(dir);
    at.iter().for_each(|&item| _ = map.set(item..item + 1).expect("set"));
    let before = map.stats();
    map.flush().expect("flush");
    let after = map.stats();
    let found = (after.syncs - before.syncs) as f64;
    out.push(counted_row("flush: syncs", FLUSHED, found, "", Some(3.0)));
    let found = (after.bytes_written - before.bytes_written) as f64 / 1024.0;
    out.push(counted_row("flush: written", FLUSHED, found, "KiB", Some(1024.0)));
    map.close().expect("close");
}

/// The same as a device hears of it, with what a file system does for it; `None` where none can be mounted.
fn at_the_device(dir: &Path, kind: &str, out: &mut Vec<Counted>) -> Option<()> {
    let image = dir.join(kind);
    let mounted = make(kind, &image, 512).then(|| Mounted::new(&image, &dir.join("mounted"))).flatten()?;
    let (map, at) = huge(&mounted.0);
    for (round, pages) in ["in pages that the file has not yet", "in pages that the file has"].into_iter().enumerate() {
        at.iter()
            .for_each(|&item| _ = map.set(item + round as u64 * 512..item + 512 + round as u64 * 512).expect("set"));
        sh!("sync", "-f", mounted.0).then_some(())?;
        let before = mounted.work()?;
        map.flush().expect("flush");
        let after = mounted.work()?;
        let state = format!("the same, {pages}; counted at a loop device with {kind}");
        // Finding space is the file system's own work.
        let target = |most| (round > 0).then_some(most);
        let flushes = (after.flushes - before.flushes) as f64;
        out.push(counted_row("flush: cache flushes at the device", &state, flushes, "", target(3.0)));
        let written = (after.written - before.written) as f64 / 1024.0;
        out.push(counted_row("flush: written to the device", state, written, "KiB", target(1024.0)));
    }
    map.close().expect("close");
    Some(())
}
