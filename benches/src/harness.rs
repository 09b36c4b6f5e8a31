//! Runs contenders side by side.
//!
//! Invariant kept here: the runs of a row are interleaved, round by round and each round from another contender on, so
//! that whatever else the machine does hits them all; a ratio is the median of the ratios within rounds. All
//! contenders of a row must give the same answer.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// What a contender is to us.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Peer,
    /// What the job takes at least, written for this row alone: no target is about it.
    ByHand,
    /// The most that the machine can do: plain memory operations, or plain I/O.
    Limit,
}

/// One run: the time that counts, and an answer to compare.
type Run<'a> = Box<dyn FnMut() -> (Duration, u64) + 'a>;

pub struct Contender<'a> {
    pub name: &'static str,
    pub kind: Kind,
    run: Run<'a>,
}

impl<'a> Contender<'a> {
    pub fn new(name: &'static str, kind: Kind, run: impl FnMut() -> (Duration, u64) + 'a) -> Self {
        Contender { name, kind, run: Box::new(run) }
    }
}

/// What a target is a multiple of.
#[derive(Clone, Copy)]
pub enum Against {
    Named(&'static str),
    BestPeer,
    /// Nothing: the target is in nanoseconds.
    Clock,
}

/// A row of the table: what is done, how often in one run, and at most how many times the time of what.
pub struct Row {
    pub name: &'static str,
    /// Size, density and starting state.
    pub state: String,
    /// Operations in one run, and what one is.
    pub ops: u64,
    pub unit: &'static str,
    pub target: Option<(f64, Against)>,
}

pub struct Measured {
    pub row: Row,
    /// Name, kind, nanoseconds per operation (median), and our time as a multiple of its (median of rounds).
    pub times: Vec<(&'static str, Kind, f64, f64)>,
}

impl Measured {
    /// The ratio that the target is about, and whether it is met.
    pub fn verdict(&self) -> Option<(f64, f64, bool)> {
        let (most, against) = self.row.target?;
        let peers = || self.times.iter().filter(|t| t.1 == Kind::Peer).map(|t| t.3);
        let ratio = match against {
            Against::Named(name) => self.times.iter().find(|t| t.0 == name)?.3,
            Against::BestPeer => peers().fold(f64::NAN, f64::max),
            Against::Clock => self.times.first()?.2,
        };
        Some((ratio, most, ratio <= most))
    }
}

/// Runs each contender once to warm up and compare answers, then `rounds` times.
pub fn measure(row: Row, rounds: usize, mut contenders: Vec<Contender<'_>>) -> Measured {
    eprintln!("{} ({})", row.name, row.state);
    let mut expected = None;
    let mut took = vec![Vec::new(); contenders.len()];
    for round in 0..=rounds {
        for i in 0..contenders.len() {
            let i = (i + round) % contenders.len();
            let (time, answer) = (contenders[i].run)();
            let (first, wanted) = *expected.get_or_insert((contenders[i].name, answer));
            assert!(answer == wanted, "{}: {} says {answer}, {first} {wanted}", row.name, contenders[i].name);
            if round > 0 {
                took[i].push(time.as_nanos() as f64 / row.ops as f64);
            }
        }
    }
    let ours = took[0].clone();
    let times = contenders.iter().zip(&took).map(|(c, took)| {
        let ratios = ours.iter().zip(took).map(|(ours, theirs)| ours / theirs).collect();
        (c.name, c.kind, median(took.clone()), median(ratios))
    });
    let times = times.collect();
    Measured { row, times }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How long `f` takes, and what it answers. What counts is the time that this thread had a processor, in the program or in
/// the kernel for it: on a machine that does other things as well the wall clock tells of those.
pub fn timed<R>(f: impl FnOnce() -> R) -> (Duration, R) {
    let start = clock(ClockId::ThreadCPUTime);
    let answer = std::hint::black_box(f());
    (clock(ClockId::ThreadCPUTime) - start, answer)
}

pub fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
