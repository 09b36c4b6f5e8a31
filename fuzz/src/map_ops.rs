//! Any bytes as operations on a `DirtyMap`, beside a `Bitmap` and one for each point: with flushes, closes, ends without a
//! close, other lengths, freezes, commits and aborts (tests/ops/map.rs).
//!
//! The input: the map, then operations with a range to ask about after each.

use super::input::{byte, number, scratch, some};
use dirtymap::Durability;
use std::ops::Range;

#[path = "../../tests/ops/map.rs"]
mod ops;

use ops::{MOST, Op, Story};

/// Operations at most, so that no input takes long.
const MOST_OPS: usize = 40;
/// Granularities: small ones, and the largest that can be saved in chunks.
const GRANULARITIES: [u32; 8] = [0, 1, 2, 3, 5, 6, 40, 57];

/// A place in a map, or a length: small ones where `scale` says that the map is small, which is quicker.
fn place(input: &mut &[u8], scale: u8) -> u64 {
    (number::<2>(input) >> scale) % MOST
}

fn range(input: &mut &[u8], scale: u8) -> Range<u64> {
    match byte(input) {
        255 => u64::MAX - 1..u64::MAX,
        // Also backward ones and ones past the end.
        254 => place(input, scale)..place(input, scale),
        // Of a few granules, or a few words.
        kind => {
            let start = place(input, scale);
            start..start + (u64::from(byte(input)) << (kind % 5))
        }
    }
}

fn op(input: &mut &[u8], scale: u8) -> Op {
    let range = |input: &mut &[u8]| range(input, scale);
    match byte(input) % 24 {
        0..=3 => Op::Set(range(input)),
        4 => Op::Reset(range(input)),
        5 => Op::ResetWithin(range(input)),
        6 => Op::ResetCovering(range(input)),
        7 => Op::SetAll,
        8 => Op::ResetAll,
        9 => Op::Merge(u32::from(byte(input) % 64), some(input, 4, range)),
        10 => Op::Keep(byte(input).is_multiple_of(2), some(input, 4, range)),
        11 => Op::Load(some(input, 4, |input| {
            let ones = [None, Some(true), Some(false)][usize::from(byte(input) % 3)];
            (place(input, scale), ones)
        })),
        12 => Op::Truncate(place(input, scale)),
        13 | 14 => Op::Flush,
        15 => Op::Close,
        16 | 17 => Op::Drop,
        18 | 19 => Op::Freeze(Some(byte(input)).filter(|number| *number < 200)),
        20 | 21 => Op::Commit(byte(input) < 200),
        22 => Op::Abort,
        _ => Op::DropPoint(byte(input)),
    }
}

fn story(input: &mut &[u8]) -> Story {
    let shape = byte(input);
    let scale = shape >> 4 & 7;
    let durability = if shape & 8 == 0 { Durability::PowerLoss } else { Durability::Process };
    let shared = shape & 128 != 0;
    let (granularity, len) = (GRANULARITIES[usize::from(shape % 8)], place(input, scale));
    let mut ops = Vec::new();
    while !input.is_empty() && ops.len() < MOST_OPS {
        ops.push((op(input, scale), range(input, scale)));
    }
    Story { len, granularity, durability, shared, ops }
}

pub fn run(mut bytes: &[u8]) {
    ops::play(&story(&mut bytes), scratch().path());
}
