//! Writes to an image on a disk, in the patterns that people measure disks by, with a map and without.
//!
//! Invariant kept here: both write the same image by the same calls at places from the same generator, by turns of a second or two,
//! and count what they got done by the wall clock, since waiting for the disk is what is looked for. The tracked turns of
//! a cycle belong together: they go on in one map.

use super::Scale;
use super::latency::{self, Histogram};
use crate::harness::median;
use crate::inputs::Rng;
use dirtymap::{DirtyMap, Options};
use rustix::fs::OFlags;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// One pattern, in one cycle.
pub struct Written {
    pub what: &'static str,
    /// Block size, way of writing, threads, cycle, image.
    pub state: String,
    pub file_system: String,
    /// Writes per second without a map, median of turns.
    pub plain: f64,
    /// Tracked writes per second as a multiple of that, median of rounds.
    pub ratio: f64,
    /// The least that it should be.
    pub least: Option<f64>,
    /// The time that a tracked write waits for the map before it may begin, in nanoseconds.
    pub p99: u64,
    /// Tracked writes, and commits of the header that they waited for.
    pub writes: u64,
    pub waited: u64,
    pub syncs: u64,
}

const NAME: &str = "writes to a disk";
const GIB: u64 = 1 << 30;
/// What direct I/O wants buffers to be aligned to, on any disk.
const ALIGNED: usize = 4096;

#[derive(Clone, Copy)]
enum Pattern {
    Sequential,
    Random,
    /// By rank, with exponent 1.2, as fio's `random_distribution=zipf:1.2`; ranks are scattered over the image.
    Zipf,
}

/// Where the next block is: shared by all threads of a turn.
struct Places {
    pattern: Pattern,
    blocks: u64,
    next: AtomicU64,
    rng: Mutex<Rng>,
}

impl Places {
    fn next(&self) -> u64 {
        let random = || self.rng.lock().expect("no thread panics").next();
        match self.pattern {
            Pattern::Sequential => self.next.fetch_add(1, Relaxed) % self.blocks,
            Pattern::Random => Rng(random()).below(self.blocks),
            Pattern::Zipf => {
                // The continuous form, by inversion: rank = (1 - u (1 - n^(1-s)))^(1/(1-s)).
                let (u, s) = (random() as f64 / u64::MAX as f64, 1.2f64);
                let rank = (1.0 - u * (1.0 - (self.blocks as f64).powf(1.0 - s))).powf(1.0 / (1.0 - s));
                // Neighbours in rank are no neighbours on the disk.
                Rng(rank as u64).below(self.blocks)
            }
        }
    }
}

/// An image that is as long as it says and has all its blocks.
fn image(path: &Path, len: u64) -> std::io::Result<()> {
    let file = File::create_new(path)?;
    let piece = vec![0x5a; 8 << 20];
    (0..len).step_by(piece.len()).try_for_each(|at| file.write_all_at(&piece, at))?;
    file.sync_all()
}

/// How the image is written.
struct Way {
    block: usize,
    direct: bool,
    threads: usize,
}

/// Writes for a while, through the map if there is one. Says how many writes a second that were.
fn turn(
    image: &File,
    way: &Way,
    places: &Places,
    map: Option<&DirtyMap>,
    time: Duration,
    waits: &Mutex<Histogram>,
) -> f64 {
    let (written, begun) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..way.threads {
            scope.spawn(|| {
                let space = vec![0xa5; way.block + ALIGNED];
                let block = &space[space.as_ptr().align_offset(ALIGNED)..][..way.block];
                let (mut own, mut count) = (Histogram::default(), 0);
                while begun.elapsed() < time {
                    let at = places.next() * way.block as u64;
                    let before = Instant::now();
                    let guard = map.map(|map| map.begin_write(at..at + way.block as u64).expect("a tracked write"));
                    own.add(before.elapsed().as_nanos() as u64);
                    image.write_all_at(block, at).expect("write");
                    drop(guard);
                    count += 1;
                }
                written.fetch_add(count, Relaxed);
                if map.is_some() {
                    waits.lock().expect("no thread panics").merge(&own);
                }
            });
        }
    });
    written.into_inner() as f64 / begun.elapsed().as_secs_f64()
}

pub fn rows(scale: &Scale, dir: &Path) -> Vec<Written> {
    let mut out = Vec::new();
    if !scale.wants(NAME) {
        return out;
    }
    let quick = scale.rounds < 11;
    // As large as the disk has room for.
    let free = rustix::fs::statvfs(dir).map_or(0, |found| found.f_bavail * found.f_frsize);
    let large = [24, 12, 6].into_iter().find(|gib| free > gib * GIB + 4 * GIB).unwrap_or(1) * GIB;
    let (len, rounds, time) = if quick { (GIB, 2, 200) } else { (large, 5, 1500) };
    let path = dir.join("image");
    if let Err(e) = image(&path, len) {
        eprintln!("SKIPPED: {NAME}: an image of {} GiB: {e}", len / GIB);
        return out;
    }
    let patterns = [
        ("sequential writes", Pattern::Sequential),
        ("random writes", Pattern::Random),
        ("zipf writes", Pattern::Zipf),
    ];
    let ways = [(4, true, 1), (4, true, 16), (4, false, 1), (64, true, 1), (64, true, 16)];
    for (what, pattern) in patterns {
        for (kib, direct, threads) in ways {
            let way = Way { block: kib << 10, direct, threads };
            eprintln!("{NAME}: {what}, {kib} KiB, {threads} in flight");
            pair_of_cycles(&mut out, dir, (what, pattern), &way, (len, rounds, Duration::from_millis(time)));
        }
    }
    std::fs::remove_file(&path).expect("remove the image");
    out
}

/// The first cycle after a full backup, and the one after it.
fn pair_of_cycles(
    out: &mut Vec<Written>,
    dir: &Path,
    (what, pattern): (&'static str, Pattern),
    way: &Way,
    (len, rounds, time): (u64, usize, Duration),
) {
    let flags = if way.direct { OFlags::DIRECT } else { OFlags::empty() };
    let opened = File::options().read(true).write(true).custom_flags(flags.bits() as i32).open(dir.join("image"));
    let image = match opened {
        Ok(image) => image,
        Err(e) => return eprintln!("SKIPPED: {NAME}: direct I/O: {e}"),
    };
    let map = Options::new().dirty(true).create(dir.join("map"), len).expect("create a map");
    let blocks = len / way.block as u64;
    for (cycle, least) in [("first", 0.5), ("second", 0.9)] {
        let checkpoint = map.freeze(None).expect("freeze");
        map.commit_checkpoint(checkpoint.uuid, false).expect("commit");
        // The same places for both, and for both cycles: what was hot stays hot.
        let places = || Places { pattern, blocks, next: AtomicU64::new(0), rng: Mutex::new(Rng(7)) };
        let (plain, tracked, waits) = (places(), places(), Mutex::new(Histogram::default()));
        let before = map.stats();
        let mut turns = Vec::new();
        for round in 0..rounds {
            let mut pair = [0.0; 2];
            for which in [round % 2, 1 - round % 2] {
                let (places, map) = if which == 0 { (&plain, None) } else { (&tracked, Some(&map)) };
                pair[which] = turn(&image, way, places, map, time, &waits);
                if !way.direct {
                    image.sync_data().expect("sync"); // or the next turn pays for this one's
                }
            }
            turns.push(pair);
        }
        let after = map.stats();
        // A cycle is a day, and not some seconds: its other writes, without their data.
        for _ in 0..8 * (len >> 16) {
            let at = tracked.next() * way.block as u64;
            map.set(at..at + way.block as u64).expect("set");
        }
        let waits = waits.into_inner().expect("no thread panics");
        let first = cycle == "first";
        let target =
            matches!(pattern, Pattern::Random) && way.block == 4096 && (!first || way.direct && way.threads > 1);
        let how = if way.direct { "O_DIRECT" } else { "buffered" };
        out.push(Written {
            what,
            state: format!(
                "{} KiB, {how}, {} in flight; {cycle} cycle; {} GiB",
                way.block >> 10,
                way.threads,
                len / GIB
            ),
            file_system: latency::file_system(dir),
            plain: median(turns.iter().map(|pair| pair[0]).collect()),
            ratio: median(turns.iter().map(|pair| pair[1] / pair[0]).collect()),
            least: target.then_some(least),
            p99: waits.quantile(0.99),
            writes: waits.operations,
            waited: after.slow_sets - before.slow_sets,
            syncs: after.syncs - before.syncs,
        });
    }
    map.close().expect("close");
    std::fs::remove_file(dir.join("map")).expect("remove the map");
}
