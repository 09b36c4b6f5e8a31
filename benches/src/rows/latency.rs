//! How long single sets take beside a flusher and beside somebody who writes and syncs another file.
//!
//! Invariant kept here: all rows have the same load, on the file system of the map, and time each operation alone by the
//! wall clock, since waiting is what is looked for. So every time includes reading the clock twice, and whatever else the machine
//! does; plain memory under the same load says how much that is.

use super::Scale;
use crate::inputs::Rng;
use dirtymap::{Access, DirtyMap, Durability, Options};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What some million operations took, each for itself, in nanoseconds.
pub struct Latency {
    pub what: &'static str,
    pub state: &'static str,
    pub file_system: String,
    pub operations: u64,
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub worst: u64,
    /// Sets that waited for a word to be armed, leaving out the flusher's own; flushes meanwhile, and syncs of the other file.
    pub slow: u64,
    pub flushes: u64,
    pub fsyncs: u64,
}

const NAME: &str = "latency of set";
const GRANULE: u64 = 1 << 16;
const BITS: u64 = 1 << 20;
/// Where new bits are set: 1 GiB.
const NEW: u64 = 1 << 14;
/// The flusher's own bits, at the end of the map, so that every flush has something to write.
const OWN: u64 = 1 << 12;

/// What the bits are that are set.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Durable,
    /// Reset by the flusher, and so neither set nor armed.
    Reset,
    /// Reset by the flusher, and armed by the write intent.
    Intended,
}

/// Counts by size, 16 steps to each doubling.
pub struct Histogram {
    counts: [u64; 1024],
    pub operations: u64,
    pub worst: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0; 1024], operations: 0, worst: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, ns: u64) {
        let place = if ns < 32 { ns } else { u64::from(ns.ilog2() - 3) * 16 + (ns >> (ns.ilog2() - 4)) % 16 };
        self.counts[place as usize] += 1;
        self.operations += 1;
        self.worst = self.worst.max(ns);
    }

    pub fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
        self.operations += other.operations;
        self.worst = self.worst.max(other.worst);
    }

    /// The smallest time that `part` of all operations did not exceed, rounded up to a step.
    pub fn quantile(&self, part: f64) -> u64 {
        let mut left = (self.operations as f64 * part).ceil() as u64;
        for (place, count) in (0..).zip(self.counts) {
            left = left.saturating_sub(count);
            if left == 0 {
                let above = if place < 31 { place } else { (17 + place % 16) << (place / 16 - 1) };
                return above.min(self.worst);
            }
        }
        self.worst
    }
}

/// A directory on a device: the one given, or the first of the usual ones that is not kept in memory.
pub fn on_a_device(given: Option<&Path>) -> PathBuf {
    let usual = [std::env::temp_dir(), "/var/tmp".into(), ".".into()];
    let on_device = usual.iter().find(|dir| !["tmpfs", "ramfs"].contains(&&*file_system(dir)));
    given.map_or_else(|| on_device.unwrap_or(&usual[0]).clone(), Path::to_path_buf)
}

/// The kind of file system that a directory is on.
pub fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    // The last mount on the longest path is the one that is seen.
    let found = fields.filter(|(at, _)| dir.starts_with(at)).max_by_key(|(at, _)| at.len());
    found.map_or("unknown".into(), |(_, kind)| kind.into())
}

/// Times `op` for a while, beside a flusher that resets and flushes in a loop, and beside a writer that syncs.
fn under_load(dir: &Path, time: Duration, map: &DirtyMap, reset: u64, mut op: impl FnMut()) -> (Histogram, u64) {
    let (done, fsyncs) = (AtomicBool::new(false), AtomicU64::new(0));
    let file = File::create(dir.join("other")).expect("a file");
    let mut histogram = Histogram::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let own = (BITS - OWN) * GRANULE..BITS * GRANULE;
            while !done.load(Relaxed) {
                map.set(own.start..own.start + 1).expect("set");
                map.reset(own.clone()).expect("reset");
                map.reset(0..reset * GRANULE).and_then(|_| map.flush()).expect("flush");
            }
        });
        scope.spawn(|| {
            let (data, mut rng) = (vec![1; 1 << 16], Rng(5));
            while !done.load(Relaxed) {
                file.write_all_at(&data, rng.below(1024) << 16).and_then(|()| file.sync_all()).expect("write");
                fsyncs.fetch_add(1, Relaxed);
            }
        });
        let start = Instant::now();
        loop {
            let before = Instant::now();
            op();
            let after = Instant::now();
            histogram.add((after - before).as_nanos() as u64);
            if after - start > time {
                break;
            }
        }
        done.store(true, Relaxed);
    });
    (histogram, fsyncs.into_inner())
}

pub fn rows(scale: &Scale, dir: &Path) -> Vec<Latency> {
    let mut out = Vec::new();
    if !scale.wants(NAME) {
        return out;
    }
    let time = Duration::from_millis(if scale.rounds < 11 { 300 } else { 3000 });
    let options = || Options::new().flush_interval(None);
    let shared = || options().access(Access::Shared);
    let process = options().durability(Durability::Process);
    let (durable, disarmed) =
        ("2^20 bits, set and flushed, at random", "2^14 bits at random, reset and disarmed by every flush");
    let intended = "2^14 bits at random, reset by every flush; a checkpoint has frozen them";
    let rows = [
        ("anonymous memory: fetch_or", "2^20 bits, at random", None),
        ("DirtyMap::set, alone", durable, Some((options(), Work::Durable))),
        ("DirtyMap::set, shared", durable, Some((shared(), Work::Durable))),
        ("DirtyMap::set, alone", disarmed, Some((options(), Work::Reset))),
        ("DirtyMap::set, shared", disarmed, Some((shared(), Work::Reset))),
        ("DirtyMap::set, alone, second cycle", intended, Some((options(), Work::Intended))),
        ("DirtyMap::set, shared, second cycle", intended, Some((shared(), Work::Intended))),
        ("DirtyMap::set, `Process`", "2^14 bits at random, reset by every flush", Some((process, Work::Reset))),
    ];
    for (what, state, map) in rows {
        eprintln!("{NAME}: {what} ({state})");
        let path = dir.join("latency");
        let (options, work) = map.clone().unwrap_or((options(), Work::Durable));
        let create = || options.create(&path, BITS * GRANULE);
        let map_of_this = create().expect("create a map");
        if work == Work::Intended {
            map_of_this.set(0..NEW * GRANULE).expect("set");
            let frozen = map_of_this.freeze(None).expect("freeze");
            map_of_this.commit_checkpoint(frozen.uuid, false).expect("commit");
        }
        map_of_this.set_all().and_then(|_| map_of_this.flush()).expect("flush");
        let memory: Vec<_> = (0..BITS / 64).map(|_| AtomicU64::new(u64::MAX)).collect();
        let (bits, reset) = if work == Work::Durable { (BITS - OWN, 0) } else { (NEW, NEW) };
        let mut rng = Rng(11);
        let before = map_of_this.stats();
        let (histogram, fsyncs) = under_load(dir, time, &map_of_this, reset, || {
            let bit = rng.below(bits);
            match map {
                None => drop(memory[bit as usize / 64].fetch_or(1 << (bit % 64), SeqCst)),
                Some(_) => _ = map_of_this.set(bit * GRANULE..bit * GRANULE + 4096).expect("set"),
            }
        });
        let after = map_of_this.stats();
        out.push(Latency {
            what,
            state,
            file_system: file_system(dir),
            operations: histogram.operations,
            p50: histogram.quantile(0.5),
            p99: histogram.quantile(0.99),
            p999: histogram.quantile(0.999),
            worst: histogram.worst,
            // The flusher sets a bit before each flush.
            slow: (after.slow_sets - before.slow_sets).saturating_sub(after.flushes - before.flushes),
            flushes: after.flushes - before.flushes,
            fsyncs,
        });
        map_of_this.close().expect("close");
        std::fs::remove_file(&path).expect("remove it");
    }
    out
}
