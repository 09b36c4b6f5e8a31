//! What one arm costs, beside other ways to write both header copies of a pair durably.
//!
//! Invariant kept here: each way writes two blocks of 4 KiB at the places of a pair in a file that has them, and returns when they are
//! durable; all take turns, by the wall clock, since waiting for the disk is what is looked for.

use super::Scale;
use super::latency::file_system;
use crate::harness::median;
use dirtymap::Options;
use rustix::fs::{OFlags, fdatasync};
use rustix::io::{ReadWriteFlags, pwritev2};
use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

/// One way.
pub struct Arm {
    pub what: &'static str,
    pub file_system: String,
    /// Median, in nanoseconds.
    pub ns: f64,
    /// The same as a multiple of ours, the median of turns.
    pub times: f64,
}

const NAME: &str = "one arm";
const BLOCK: usize = 4096;
/// Where the copies of a pair are.
const COPIES: [u64; 2] = [0, 128 << 10];

pub fn rows(scale: &Scale, dir: &Path) -> Vec<Arm> {
    if !scale.wants(NAME) {
        return Vec::new();
    }
    eprintln!("{NAME}");
    let turns = if scale.rounds < 11 { 20 } else { 300 };
    let map = Options::new().flush_interval(None).armed_bound(1 << 62).create(dir.join("arms"), 1 << 50);
    let map = map.expect("create a map");
    let path = dir.join("blocks");
    std::fs::write(&path, vec![1; 256 << 10]).expect("write");
    let open = |flags: OFlags| File::options().write(true).custom_flags(flags.bits() as i32).open(&path).expect("open");
    let (plain, direct) = (open(OFlags::empty()), open(OFlags::DIRECT));
    let direct_sync = open(OFlags::DIRECT | OFlags::DSYNC);
    plain.sync_all().expect("sync");
    let space = vec![7; 2 * BLOCK];
    let block = &space[space.as_ptr().align_offset(BLOCK)..][..BLOCK];
    let write = |file: &File| COPIES.iter().for_each(|&at| file.write_all_at(block, at).expect("write"));
    // Every tenth word, so that none is armed ahead.
    let cold = |turn: u64| turn * 10 * (64 << 16);
    type Way<'a> = (&'static str, Box<dyn Fn(u64) + 'a>);
    let ways: [Way<'_>; 5] = [
        ("`DirtyMap::set` of a cold word", Box::new(|turn| _ = map.set(cold(turn)..cold(turn) + 1).expect("set"))),
        (
            "write twice, fdatasync",
            Box::new(|_| {
                write(&plain);
                fdatasync(&plain).expect("sync");
            }),
        ),
        (
            "write twice with RWF_DSYNC",
            Box::new(|_| {
                for at in COPIES {
                    let block = [IoSlice::new(block)];
                    assert_eq!(pwritev2(&plain, &block, at, ReadWriteFlags::DSYNC).expect("write"), BLOCK);
                }
            }),
        ),
        (
            "O_DIRECT: write twice, fdatasync",
            Box::new(|_| {
                write(&direct);
                fdatasync(&direct).expect("sync");
            }),
        ),
        ("O_DIRECT and O_DSYNC: write twice", Box::new(|_| write(&direct_sync))),
    ];
    let mut found = vec![Vec::new(); ways.len()];
    for turn in 0..turns {
        for i in 0..ways.len() {
            let i = (i + turn) % ways.len();
            let before = Instant::now();
            (ways[i].1)(turn as u64);
            found[i].push(before.elapsed().as_nanos() as f64);
        }
    }
    let rows = ways.iter().zip(&found).map(|((what, _), ns)| Arm {
        what,
        file_system: file_system(dir),
        ns: median(ns.clone()),
        times: median(ns.iter().zip(&found[0]).map(|(ns, ours)| ns / ours).collect()),
    });
    let rows = rows.collect();
    assert_eq!(map.stats().arms, turns as u64, "one arm each");
    drop(ways);
    map.close().expect("close");
    [path, dir.join("arms")].iter().for_each(|path| std::fs::remove_file(path).expect("remove it"));
    rows
}
