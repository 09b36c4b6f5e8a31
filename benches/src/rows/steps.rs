//! From one set bit or area to the next, from several places of one program, and what grows.
//!
//! What a compiler inlines at one place it may call at the second: so each loop stands out of line, as often as a row has names.

use super::{Scale, row};
use crate::harness::{Contender, Kind, Measured, measure, timed};
use crate::inputs::runs;
use crate::peers::{Bits, OK, Plain};
use dirtymap::{Bitmap, DirtyMap, Options, ReadMap, iter::Cursor};
use std::path::Path;
use std::time::Duration;

pub fn rows(scale: &Scale, dir: &Path, out: &mut Vec<Measured>) {
    bits(scale, out);
    extents(scale, out);
    grow(scale, out);
    shared(scale, dir, out);
}

/// Functions of their own, each with a loop over what an iterator yields.
macro_rules! places {
    ($($name:ident: $map:ty, $iterate:ident, $item:ident => $value:expr;)*) => {
        $(#[inline(never)]
        fn $name(map: &$map) -> u64 {
            let mut sum = 0u64;
            for $item in map.$iterate(0..map.len()).expect(OK) {
                sum = sum.wrapping_add($value);
            }
            sum
        })*
    };
}

places! {
    first_granules: Bitmap, granules, item => item;
    second_granules: Bitmap, granules, item => item.rotate_left(0);
    third_granules: Bitmap, granules, item => item.swap_bytes().swap_bytes();
    first_areas: Bitmap, extents, area => area.start ^ area.end;
    second_areas: Bitmap, extents, area => area.end ^ area.start;
    first_words: Bitmap, words, word => word.0 ^ word.1;
    second_words: Bitmap, words, word => word.1 ^ word.0;
}

#[inline(never)]
fn by_cursor(map: &Bitmap) -> u64 {
    let (mut cursor, mut sum) = (Cursor::new(0..map.len()), 0u64);
    while let Some(item) = cursor.next(map) {
        sum = sum.wrapping_add(item);
    }
    sum
}

#[inline(never)]
fn areas_by_cursor(map: &Bitmap) -> u64 {
    let (mut cursor, mut sum) = (Cursor::new(0..map.len()), 0u64);
    while let Some(area) = cursor.next_extent(map) {
        sum = sum.wrapping_add(area.start ^ area.end);
    }
    sum
}

#[inline(never)]
fn areas_by_search(map: &Bitmap) -> u64 {
    let (mut at, mut sum) = (0, 0u64);
    while let Some(area) = map.next_extent(at..map.len(), u64::MAX).expect(OK) {
        sum = sum.wrapping_add(area.start ^ area.end);
        at = area.end;
    }
    sum
}

/// A name, and what it does with a map.
type Way = (&'static str, fn(&Bitmap) -> u64);

fn contenders<'a>(map: &'a Bitmap, passes: u64, all: &[Way]) -> Vec<Contender<'a>> {
    let run = |&(name, f): &Way| {
        let kind = if name == "dirtymap" { Kind::Ours } else { Kind::ByHand };
        Contender::new(name, kind, move || timed(|| (0..passes).map(|_| f(map)).fold(0, u64::wrapping_add)))
    };
    all.iter().map(run).collect()
}

fn bits(scale: &Scale, out: &mut Vec<Measured>) {
    for (state, words, passes) in
        [("2^20 bits, 0.37 % random", runs(1 << 20, 3880, 1), 100), ("2^20 bits, all set", vec![u64::MAX; 1 << 14], 1)]
    {
        let map = <Bitmap as Bits>::of(&words);
        if scale.wants("next granule") {
            let all: [Way; 5] = [
                ("dirtymap", first_granules),
                ("second place", second_granules),
                ("third place", third_granules),
                ("cursor", by_cursor),
                ("fold", |map| map.granules(0..map.len()).expect(OK).fold(0, u64::wrapping_add)),
            ];
            let row = row("next granule", state, map.count() * passes, "bit").at_most(1.3, "second place");
            out.push(measure(row, scale.rounds, contenders(&map, passes, &all)));
        }
        if scale.wants("next word") {
            let all: [Way; 2] = [("dirtymap", first_words), ("second place", second_words)];
            let found = map.words(0..map.len()).expect(OK).count() as u64;
            let row = row("next word", state, found * passes, "word").at_most(1.3, "second place");
            out.push(measure(row, scale.rounds, contenders(&map, passes, &all)));
        }
    }
}

fn extents(scale: &Scale, out: &mut Vec<Measured>) {
    if !scale.wants("next area") {
        return;
    }
    for (len, state) in
        [(16, "runs of 16"), (1000, "runs of 1000"), (10_000, "runs of 10^4"), (1_000_000, "runs of 10^6")]
    {
        let mut map = Bitmap::new(1 << 24, 0).expect("memory");
        let n = (1 << 24) / (2 * len);
        (0..n).for_each(|i| drop(map.set(i * 2 * len + 5..(i * 2 + 1) * len + 5)));
        let all: [Way; 5] = [
            ("dirtymap", first_areas),
            ("second place", second_areas),
            ("next_extent", areas_by_search),
            ("cursor", areas_by_cursor),
            ("fold", |map| map.into_iter().fold(0, |sum, area| sum.wrapping_add(area.start ^ area.end))),
        ];
        let row = row("next area", format!("2^24 bits, {state}"), n * 4, "area").at_most(1.2, "next_extent");
        out.push(measure(row, scale.rounds, contenders(&map, 4, &all)));
    }
}

fn grow(scale: &Scale, out: &mut Vec<Measured>) {
    for (name, more) in [("grow by 2^16", 1 << 16), ("grow twofold", scale.bits / 2)] {
        if !scale.wants(name) {
            continue;
        }
        let from = if more == 1 << 16 { scale.bits } else { scale.bits / 2 };
        let words = vec![u64::MAX; (from / 64) as usize];
        let contenders = vec![
            Contender::new("dirtymap", Kind::Ours, || {
                let mut map = <Bitmap as Bits>::of(&words);
                let took = timed(|| map.truncate(from + more).expect(OK)).0;
                (took, map.count())
            }),
            Contender::new("limit", Kind::Limit, || {
                let mut copy = words.clone();
                let took = timed(|| copy.resize(((from + more) / 64) as usize, 0)).0;
                (took, copy.len() as u64 * 64 - more)
            }),
        ];
        let row = row(name, format!("2^{} bits, all set", from.ilog2()), 1, "growth").at_most(3.0, "limit");
        out.push(measure(row, scale.rounds.min(7), contenders));
    }
}

/// A map that others may change.
fn shared(scale: &Scale, dir: &Path, out: &mut Vec<Measured>) {
    const BITS: u64 = 1 << 22;
    for (state, words) in [("half", crate::inputs::half(BITS, 1)), ("0.37 % random", runs(BITS, 15_500, 1))] {
        let bits = <Bitmap as Bits>::of(&words);
        let map: DirtyMap = Options::new()
            .flush_interval(None)
            .granularity(0)
            .create(dir.join(format!("count {state}")), BITS)
            .expect("create a map");
        map.merge(&bits).and_then(|_| map.flush()).expect("flush");
        let plain = Plain::of(&words);
        let n = bits.words(0..BITS).expect(OK).count() as u64;
        let (mut to, mut copy) = (vec![0; BITS as usize / 8], vec![0; BITS as usize / 8]);
        let copied = || {
            let chunks = copy.as_chunks_mut::<8>().0.iter_mut();
            let took = timed(|| chunks.zip(&plain.0).for_each(|(to, word)| *to = word.to_le_bytes())).0;
            (took, u64::from(copy[77]))
        };
        let serialized = || (timed(|| ReadMap::serialize_part(&map, 0..BITS, &mut to).expect(OK)).0, u64::from(to[77]));
        let pairs: [(&str, u64, &str, [Contender<'_>; 2]); 6] = [
            (
                "DirtyMap::count",
                n,
                "nonzero word",
                against("limit", || timed(|| map.count()), || timed(|| plain.total())),
            ),
            ("DirtyMap::serialize_part", n, "nonzero word", against("limit", serialized, copied)),
            (
                "DirtyMap::to_bitmap",
                n,
                "nonzero word",
                against(
                    "Bitmap",
                    || timed(|| map.to_bitmap().expect("memory").count()),
                    || timed(|| bits.try_clone().expect("memory").count()),
                ),
            ),
            (
                "DirtyMap::granules",
                bits.count(),
                "bit",
                against(
                    "Bitmap",
                    || timed(|| sum(map.granules(0..BITS).expect(OK))),
                    || timed(|| sum(bits.granules(0..BITS).expect(OK))),
                ),
            ),
            (
                "DirtyMap::extents",
                bits.into_iter().count() as u64,
                "area",
                against(
                    "Bitmap",
                    || timed(|| sum(map.into_iter().map(|area| area.start ^ area.end))),
                    || timed(|| sum(bits.into_iter().map(|area| area.start ^ area.end))),
                ),
            ),
            (
                "DirtyMap::words",
                n,
                "nonzero word",
                against(
                    "Bitmap",
                    || timed(|| sum(map.words(0..BITS).expect(OK).map(|(i, word)| i ^ word))),
                    || timed(|| sum(bits.words(0..BITS).expect(OK).map(|(i, word)| i ^ word))),
                ),
            ),
        ];
        for (name, ops, unit, contenders) in pairs {
            if scale.wants(name) {
                let row = row(name, format!("2^22 bits, {state}"), ops, unit);
                out.push(measure(row, scale.rounds, contenders.into()));
            }
        }
    }
}

/// Ours, and what it is held against.
fn against<'a>(
    name: &'static str,
    ours: impl FnMut() -> (Duration, u64) + 'a,
    other: impl FnMut() -> (Duration, u64) + 'a,
) -> [Contender<'a>; 2] {
    let kind = if name == "limit" { Kind::Limit } else { Kind::ByHand };
    [Contender::new("dirtymap", Kind::Ours, ours), Contender::new(name, kind, other)]
}

/// One step after the other, as in a loop.
fn sum(steps: impl Iterator<Item = u64>) -> u64 {
    let mut sum = 0u64;
    for step in steps {
        sum = sum.wrapping_add(step);
    }
    sum
}
