//! How often arming costs a sync: cycles of random writes, flushes and checkpoints, counted.
//!
//! An image of 64 GiB with granules of 64 KiB. Writes of one granule go to random places in a working set of extents of 1 MiB,
//! which are anywhere; five flushes and a checkpoint make a cycle. All is as on an image of 1 TiB with working sets and cycles
//! of 16 times the size.

use crate::engine::round::Keep;
use crate::format::WordRanges;
use crate::sim::*;
use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;

const GRANULES: u64 = 1 << 20;
const EXTENT: u64 = 16;
const WRITES: u64 = 31_250;
const FLUSHES: u64 = 5;

struct Cycle {
    arms: u64,
    syncs: u64,
    /// Granules that were written in no cycle before.
    new: u64,
    /// What a crash would make dirty for the list and for the intent, in granules, and what the checkpoint had frozen.
    listed: u64,
    intended: u64,
    frozen: u64,
}

/// Runs some cycles, with one thread; says also how many words the working set has.
fn cycles(extents: usize, skewed: bool) -> (Vec<Cycle>, u64) {
    let disk = SimDisk::new(Image::default(), Vec::new());
    let options = Options { armed_bound: Some(GRANULES / 16), granularity: 0, ..options() };
    create::write_new(disk.file(), geometry(GRANULES), &options).unwrap();
    let (core, _) = open_alone(disk.shared(), path(), &options, 0).unwrap();
    let mut rng = Rng(extents as u64);
    let set: Vec<u64> = (0..extents).map(|_| rng.below(GRANULES / EXTENT) * EXTENT).collect();
    let words = set.iter().map(|granule| granule / 64).collect::<HashSet<_>>().len() as u64;
    let mut written = HashSet::new();
    let mut pick = || {
        let at = rng.below(1 << 32) as f64 / (1u64 << 32) as f64;
        let at = if skewed { at.powi(4) } else { at };
        set[(at * extents as f64) as usize] + rng.below(EXTENT)
    };
    let mut cycle = || {
        let count = || (core.counters().arms.load(Relaxed), core.counters().syncs.load(Relaxed));
        let (before, mut new) = (count(), 0);
        for i in 0..WRITES {
            let granule = pick();
            core.set_bits(granule..granule + 1).unwrap();
            new += u64::from(written.insert(granule));
            if i % (WRITES / FLUSHES) == WRITES / FLUSHES - 1 {
                core.lock().unwrap().flush_to(Keep::Hot, None).unwrap();
            }
        }
        let frozen = core.freeze(None, Duration::ZERO).unwrap();
        let header = core.lock().unwrap().refresh_header().unwrap();
        let (listed, frozen_granules) = (header.runs.words() * 64, header.outstanding().unwrap().granules);
        let intended = core.intent(&header).unwrap().map_or(0, |intent| intent.items_beside(&WordRanges::new()))
            >> header.geometry.granularity();
        core.commit_checkpoint(&frozen.uuid, false).unwrap();
        let after = count();
        Cycle { arms: after.0 - before.0, syncs: after.1 - before.1, new, listed, intended, frozen: frozen_granules }
    };
    ((0..4).map(|_| cycle()).collect(), words)
}

/// In later cycles one arm for so many granules that no cycle before has written is what may be.
fn check(extents: usize, skewed: bool, granules: u64) {
    let (cycles, words) = cycles(extents, skewed);
    for Cycle { arms, syncs, new, listed, intended, frozen } in &cycles {
        println!(
            "{extents} extents, {words} words: {arms} arms, {syncs} syncs, {new} new; {listed} listed, {intended} intended, \
             {frozen} frozen"
        );
    }
    let first = cycles[0].arms;
    assert!(words > GRANULES / 16 / 64 || first <= words * 105 / 100, "{first} arms for {words} words");
    for Cycle { arms, new, listed, intended, frozen, .. } in &cycles[1..] {
        assert!(*arms <= 64 + new / granules, "{arms} arms, and {new} new granules");
        assert!(*listed <= GRANULES / 16);
        let (crash, most) = (listed + intended, GRANULES / 16 + 2 * frozen);
        assert!(crash <= most, "{listed} listed, {intended} intended, {frozen} frozen");
    }
}

#[test]
fn what_was_written_in_the_last_cycle_waits_for_no_sync() {
    check(16, false, 100);
    check(128, false, 100);
    check(1024, false, 100);
    check(1024, true, 100);
    // Less than half of it is written in a cycle, and the list has not room for its words.
    check(4096, false, 100);
    // Extents that the last cycle left alone: each is armed once.
    check(4096, true, 40);
}
