//! Two processes that share a map, each in a range of its own, against one of them.
//!
//! Invariant kept here: what is timed is the wall clock, from a moment that all were told beforehand until the last one is
//! done, so starting costs nothing; a run for which somebody woke up too late is done again. The runs of one and of two
//! are interleaved with those of a loop of two atomic operations each on memory of its own: what two processes can get of
//! this machine now. Others on a host that lends out half cores slow such a loop by half, for some milliseconds to some
//! seconds at a time, and leave one alone that only waits for its own results; so that one would be no limit.

use super::Scale;
use crate::harness::{clock, median};
use dirtymap::{Access, DirtyMap, Options};
use rustix::time::ClockId::Monotonic;
use std::hint::{black_box, spin_loop};
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::sleep;
use std::time::Duration;

/// What two processes do in the time that one takes for its part.
pub struct Scaled {
    pub what: &'static str,
    pub state: String,
    /// Wall time per operation of one alone.
    pub ns: f64,
    /// Throughput of two, as a multiple of that of one, from the fastest runs of all rounds.
    pub times: f64,
    /// The same from the fastest runs of one round, the median of all rounds.
    pub in_rounds: f64,
    /// What the loop on memory of its own reached.
    pub limit: f64,
    pub least: Option<f64>,
}

const GRANULE: u64 = 1 << 16;
/// How long before a start it is told.
const LEAD: Duration = Duration::from_millis(6);
/// Runs of each kind in a round. Of them all the fastest counts: others on the machine only ever slow one down.
const TRIES: usize = 60;

fn options() -> Options {
    Options::new().access(Access::Shared).flush_interval(None).armed_bound(1 << 62)
}

/// One of the processes: its part is `n` operations, told by name and start, until its input ends.
pub fn child(path: &str, first: u64, n: u64) {
    let map = options().open(path).expect("open the map");
    // Beside it, to tell what sharing costs from what the machine does to two at work.
    let own = options().create(format!("{path}-{first}"), 4 * n * GRANULE).expect("create a map");
    own.set_all().expect("arm everything");
    let plain = [(); 2].map(|()| (0..2 * n / 64).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
    let write = |bit: u64| (first + bit) * GRANULE..(first + bit) * GRANULE + 4096;
    // Each of n bits out of 2n once, all over the range.
    let scattered = |i: u64| i.wrapping_mul(0x9e37_79b1) % (2 * n);
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let (work, start) = line.split_once(' ').expect("work and start");
        // By the process itself: what somebody else has written is in another processor's cache.
        match work {
            "own" => _ = own.reset_all().expect("reset"),
            "plain" => (),
            _ => _ = map.reset(first * GRANULE..(first + 2 * n) * GRANULE).expect("reset"),
        }
        let start = Duration::from_nanos(start.parse().expect("a time"));
        // Awake in good time: on a busy machine a sleep takes some milliseconds longer.
        let wait = || {
            sleep(start.saturating_sub(clock(Monotonic) + LEAD / 2));
            let late = clock(Monotonic) > start;
            while clock(Monotonic) < start {
                spin_loop();
            }
            late
        };
        let bracket = |i: u64| drop(map.begin_write(write(scattered(i))).expect("begin a write"));
        let late = if work == "brackets" {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    let late = wait();
                    // In the range of the other process, which waits.
                    let bracket = |i| drop(map.begin_write(write(2 * n + scattered(i))).expect("begin a write"));
                    (0..n).for_each(bracket);
                    late
                });
                let late = wait();
                (0..n).for_each(bracket);
                late | other.join().expect("no thread panics")
            })
        } else {
            wait()
        };
        match work {
            "brackets" => (),
            "set" => (0..n).for_each(|i| _ = map.set(write(scattered(i))).expect("set")),
            "own" => (0..n).for_each(|i| _ = own.set(write(scattered(i))).expect("set")),
            "bracket" => (0..n).for_each(bracket),
            "arm" => (0..n).for_each(|i| _ = map.set(write(i)).expect("set")),
            _ => (0..n).for_each(|i| {
                let (word, mask) = (scattered(i) as usize / 64, 1 << (scattered(i) % 64));
                black_box(plain[0][word].fetch_or(mask, SeqCst));
                black_box(plain[1][word / 64].fetch_or(mask, SeqCst));
            }),
        }
        println!("{late} {}", clock(Monotonic).saturating_sub(start).as_nanos());
    }
    own.close().and_then(|()| map.close()).expect("close");
}

struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(path: &Path, first: u64, n: u64) -> Process {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg("--child").arg(path).args([first, n].map(|number| number.to_string()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start a process");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Process { input: child.stdin.take(), output, child }
    }
}

/// The map, open here as well, and two who work on it.
struct Bench {
    map: DirtyMap,
    processes: Vec<Process>,
    n: u64,
}

impl Bench {
    /// In the end the map must hold what was set, and what was done before is reset.
    fn prepare(&self, work: &str) {
        if !["plain", "own"].contains(&work) {
            self.map.reset_all().expect("reset");
        }
        if work == "arm" {
            self.map.flush().expect("flush"); // Nothing is armed after it.
        }
    }

    /// Lets the first few processes work, or as many threads of the first: the time until the last one is done.
    fn run(&mut self, work: &str, count: usize) -> f64 {
        let mut lead = LEAD;
        let (work, processes) = match (work, count) {
            ("threads", 1) => ("bracket", 1),
            ("threads", _) => ("brackets", 1),
            _ => (work, count),
        };
        loop {
            self.prepare(work);
            let start = (clock(Monotonic) + lead).as_nanos();
            let working = &mut self.processes[..processes];
            for process in &mut *working {
                writeln!(process.input.as_mut().expect("piped"), "{work} {start}").expect("it listens");
            }
            let (mut late, mut wall) = (false, 0f64);
            for process in working {
                let line = process.output.next().expect("it lives").expect("it answers");
                let (was_late, took) = line.split_once(' ').expect("two words");
                late |= was_late == "true";
                wall = wall.max(took.parse().expect("a number"));
            }
            if !["plain", "own"].contains(&work) {
                assert_eq!(self.map.count(), count as u64 * self.n, "{work}: not what was set");
            }
            if !late {
                return wall;
            }
            lead += LEAD;
        }
    }

    fn scale(&mut self, what: &'static str, state: String, work: &str, rounds: usize) -> Scaled {
        eprintln!("{what} ({state})");
        let (mut fastest, mut in_rounds) = ([f64::MAX; 4], Vec::new());
        for round in 0..=rounds {
            let mut found = [f64::MAX; 4];
            for i in 0..4 * TRIES {
                let i = (i + round) % 4;
                found[i] = found[i].min(self.run(if i < 2 { work } else { "plain" }, i % 2 + 1));
            }
            if round > 0 {
                in_rounds.push(2.0 * found[0] / found[1]);
                fastest = std::array::from_fn(|i| fastest[i].min(found[i]));
            }
        }
        let [one, two, plain_one, plain_two] = fastest;
        let (times, limit) = (2.0 * one / two, 2.0 * plain_one / plain_two);
        let least = match work {
            "set" | "threads" => Some(1.8),
            "arm" => Some(1.7),
            _ => None,
        };
        Scaled { what, state, ns: one / self.n as f64, times, in_rounds: median(in_rounds), limit, least }
    }
}

pub fn rows(scale: &Scale, dir: &Path) -> Vec<Scaled> {
    const ROWS: [(&str, &str, &str); 5] = [
        ("two processes: set", "set", "bits, half of them set, all armed; random order"),
        ("two processes: set, a map each", "own", "bits, half of them set, all armed; random order"),
        ("two processes: begin_write", "bracket", "bits, half of them set, all armed; random order"),
        ("two threads: begin_write", "threads", "bits, half of them set, all armed; random order"),
        ("two processes: set, arming", "arm", "bits, the first half set, nothing armed; front to back"),
    ];
    let wanted: Vec<_> = ROWS.into_iter().filter(|row| scale.wants(row.0)).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let n = 1 << 14; // Half a millisecond: shorter than what a busy machine gives in one piece, mostly.
    let path = dir.join("shared");
    // It stays open here: what is armed stays so, and nobody recovers anything.
    let map = options().create(&path, 4 * n * GRANULE).expect("create a map");
    map.set_all().expect("arm everything");
    let processes = (0..2).map(|i| Process::start(&path, i * 2 * n, n)).collect();
    let mut bench = Bench { map, processes, n };
    let mut out = Vec::new();
    for (what, work, state) in wanted {
        let state = format!("each in a range of 2^{} {state}", (2 * n).ilog2());
        out.push(bench.scale(what, state, work, scale.rounds));
    }
    for mut process in bench.processes {
        drop(process.input.take());
        assert!(process.child.wait().expect("it ends").success(), "a process failed");
    }
    bench.map.close().expect("close");
    std::fs::remove_file(&path).expect("remove it");
    out
}
