//! Any bytes as operations on a `Bitmap`, beside a vector of booleans: every result, every reader and every iterator is
//! compared after each (tests/ops/bitmap.rs).
//!
//! The input: granularity and shape, what to do at the end, then operations with what to ask after each.

use super::input::{byte, number, some, take};

#[path = "../../tests/ops/bitmap.rs"]
mod ops;

use ops::{Op, Other, Spot, Step, Story, Where};

/// Operations at most, so that no input takes long.
const MOST_OPS: usize = 48;

fn spot(input: &mut &[u8]) -> Spot {
    (number::<2>(input) as u16, byte(input))
}

fn place(input: &mut &[u8]) -> Where {
    let (wild, a) = (byte(input), spot(input));
    if wild < 128 {
        return (a, spot(input), wild % 24);
    }
    // Short: within two granules of each other.
    let [distance, place] = take(input);
    (a, (a.0.saturating_add(u16::from(distance % 3)), place), 9)
}

fn other(input: &mut &[u8]) -> Other {
    Other(i32::from(byte(input) as i8).clamp(-64, 63), some(input, 4, place))
}

/// Granules as many as make no input slow, and a last one that may be partial.
fn shape(input: &mut &[u8]) -> (u64, u64) {
    let granules = number::<2>(input);
    let granules = if granules & 0x8000 == 0 { granules % 400 } else { granules % 4200 };
    let short = match byte(input) {
        0 => number::<8>(input),
        byte => u64::from(byte) - 1,
    };
    (granules, short)
}

fn op(input: &mut &[u8]) -> Op {
    match byte(input) % 20 {
        0..=3 => Op::Set(place(input)),
        4 => Op::Reset(place(input)),
        5 => Op::ResetWithin(place(input)),
        6 => Op::ResetCovering(place(input)),
        7 => Op::SetAll,
        8 => Op::ResetAll,
        9 | 10 => Op::Merge(other(input)),
        11 => Op::Union(other(input), other(input)),
        12 => Op::Subtract(other(input)),
        13 => Op::Intersect(other(input)),
        14 => Op::Truncate(shape(input)),
        15 | 16 => Op::Load(some(input, 4, |input| {
            let (place, kind, seed) = (place(input), byte(input) % 7, byte(input) % 3);
            (place, kind, (0..=seed).map(|_| number::<8>(input)).collect())
        })),
        17 => Op::Attach(u32::from(byte(input)) % 70),
        18 => Op::Take,
        _ => Op::Detach,
    }
}

fn step(input: &mut &[u8]) -> Step {
    match byte(input) % 4 {
        0 | 1 => Step::Next,
        2 => Step::Peek,
        _ => Step::AdvanceTo(spot(input)),
    }
}

fn story(input: &mut &[u8]) -> Story {
    let (granularity, shape, walk) = (u32::from(byte(input) % 64), shape(input), place(input));
    let (steps, cuts) = (some(input, 24, step), some(input, 4, number::<8>));
    let mut ops = Vec::new();
    while !input.is_empty() && ops.len() < MOST_OPS {
        let op = op(input);
        let (most, asked, at) = (u64::from(byte(input)).max(1), place(input), spot(input));
        ops.push((op, asked, at, most));
    }
    Story { granularity, shape, ops, walk, steps, cuts }
}

pub fn run(mut bytes: &[u8]) {
    ops::play(story(&mut bytes));
}
