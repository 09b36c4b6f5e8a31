//! `Bitmap` beside other bitmaps in memory.

use super::{Scale, row};
use crate::contest;
use crate::harness::{Against, Contender, Kind, Measured, measure, timed};
use crate::inputs::{half, positions, ranges, runs};
use crate::peers::{Bits, ByHand, OK, Plain};
use croaring::{Bitmap as Croaring, Bitmap64};
use dirtymap::Bitmap;
use fixedbitset::FixedBitSet;
use hibitset::BitSet as Hibitset;
use roaring::{RoaringBitmap, RoaringTreemap};
use std::hint::black_box;
use std::time::Duration;
use vm_memory::bitmap::AtomicBitmap;

/// Sparse: 0.37 % of the bits.
const SPARSE: f64 = 0.0037;

pub fn rows(scale: &Scale, out: &mut Vec<Measured>) {
    hot(scale, out);
    get(scale, out);
    ranges_and_all(scale, out);
    iterate(scale, out);
    huge(scale, out);
    combine(scale, out);
    rebuild(scale, out);
    serialise(scale, out);
}

/// Out of line, as in a program that has its map behind a reference: inside the closure of a row the compiler knows that
/// nobody else has it, and keeps in registers what it would have to load.
#[inline(never)]
fn mark_each<B: Bits>(bits: &mut B, at: &[u64]) {
    at.iter().for_each(|&bit| bits.mark(bit));
}

#[inline(never)]
fn unmark_each<B: Bits>(bits: &mut B, at: &[u64]) {
    at.iter().for_each(|&bit| bits.unmark(bit));
}

/// Single bits within 2^20.
fn hot(scale: &Scale, out: &mut Vec<Measured>) {
    const BITS: u64 = 1 << 20;
    let empty = vec![0; BITS as usize / 64];
    for n in [1 << 14, 1 << 18] {
        let at = positions(BITS, n);
        let at = &at;
        let (cycles, ops) = ((1 << 20) / n as u64, 1 << 20);
        let density = if n == 1 << 14 { "1.6 %" } else { "22 %" };
        let state = format!("2^20 bits, empty before, {density} full after; random order");
        contest!(
            scale,
            out,
            row("set one bit, hot", &state, ops, "bit").at_most(2.0, "fixedbitset"),
            [Bitmap, FixedBitSet, RoaringBitmap, Croaring, Hibitset, AtomicBitmap, ByHand, Plain],
            &empty,
            |bits| {
                let mut took = Duration::ZERO;
                let mut count = 0;
                for cycle in 0..cycles {
                    took += timed(|| mark_each(&mut bits, at)).0;
                    if cycle == 0 {
                        count = bits.total();
                    }
                    unmark_each(&mut bits, at);
                }
                (took, count)
            }
        );
        let state = format!("2^20 bits, {density} full before, empty after; random order");
        contest!(
            scale,
            out,
            row("reset one bit, hot", &state, ops, "bit").at_most(2.0, "fixedbitset"),
            [Bitmap, FixedBitSet, RoaringBitmap, Croaring, Hibitset, AtomicBitmap, ByHand, Plain],
            &empty,
            |bits| {
                let mut took = Duration::ZERO;
                for _ in 0..cycles {
                    mark_each(&mut bits, at);
                    took += timed(|| unmark_each(&mut bits, at)).0;
                }
                (took, bits.total())
            }
        );
    }
    let at = positions(BITS, 1 << 20);
    let at = &at;
    contest!(
        scale,
        out,
        row("set one bit that is set, hot", "2^20 bits, 63 % full; random order", 1 << 20, "bit")
            .at_most(2.0, "fixedbitset"),
        [Bitmap, FixedBitSet, RoaringBitmap, Croaring, Hibitset, AtomicBitmap, ByHand, Plain],
        &runs(BITS, 0, 1),
        |bits| {
            mark_each(&mut bits, at);
            (timed(|| mark_each(&mut bits, at)).0, bits.total())
        }
    );
}

fn get(scale: &Scale, out: &mut Vec<Measured>) {
    // The target is about memory; what is in a cache is measured beside it.
    for (bits, most) in [(1 << 20, None), (scale.bits, Some(1.1))] {
        let words = runs(bits, (bits as f64 * SPARSE) as usize, 1);
        let at = positions(bits, 1 << 20);
        let at = &at;
        let mut row = row("get", format!("2^{} bits, 0.37 % random; random order", bits.ilog2()), 1 << 20, "bit");
        row.target = most.map(|most| (most, Against::Named("fixedbitset")));
        contest!(scale, out, row, [Bitmap, FixedBitSet, RoaringBitmap, Croaring, ByHand, Plain], &words, |bits| timed(
            || at.iter().map(|&bit| u64::from(bits.has(bit))).sum()
        ));
    }
}

fn ranges_and_all(scale: &Scale, out: &mut Vec<Measured>) {
    let (len, n) = (scale.bits, 1 << 14);
    let size = format!("2^{} bits", len.ilog2());
    let empty = vec![0; len as usize / 64];
    let at = ranges(len, n, 1000);
    let at = &at;
    contest!(
        scale,
        out,
        row("set ranges of 1000", format!("{size}, empty before; random places"), n as u64, "range")
            .at_most(1.2, "fixedbitset"),
        [Bitmap, FixedBitSet, RoaringBitmap, Croaring, AtomicBitmap, ByHand, Plain],
        &empty,
        |bits| {
            let took = timed(|| at.iter().for_each(|range| bits.mark_range(range.clone()))).0;
            let found = at.iter().filter(|range| bits.has(range.start + 500)).count();
            at.iter().for_each(|range| bits.unmark_range(range.clone()));
            (took, found as u64)
        }
    );
    contest!(
        scale,
        out,
        row("reset ranges of 1000", format!("{size}, full in these ranges before, empty after"), n as u64, "range")
            .at_most(1.2, "fixedbitset"),
        [Bitmap, FixedBitSet, RoaringBitmap, Croaring, AtomicBitmap, ByHand, Plain],
        &empty,
        |bits| {
            at.iter().for_each(|range| bits.mark_range(range.clone()));
            let took = timed(|| at.iter().for_each(|range| bits.unmark_range(range.clone()))).0;
            (took, at.iter().filter(|range| bits.has(range.start + 500)).count() as u64)
        }
    );
    contest!(
        scale,
        out,
        row("set all", format!("{size}, empty before, memory touched"), len / 64, "word").at_most(1.2, "limit"),
        [Bitmap, FixedBitSet, Plain],
        &empty,
        |bits| {
            let took = timed(|| bits.mark_range(0..len)).0;
            let found = u64::from(bits.has(0)) + u64::from(bits.has(len / 2)) + u64::from(bits.has(len - 1));
            bits.unmark_range(0..len);
            (took, found)
        }
    );
    contest!(
        scale,
        out,
        row("reset all", format!("{size}, full before"), len / 64, "word").at_most(1.2, "limit"),
        [Bitmap, FixedBitSet, Plain],
        &empty,
        |bits| {
            bits.mark_range(0..len);
            (timed(|| bits.unmark_range(0..len)).0, 0)
        }
    );
}

fn iterate(scale: &Scale, out: &mut Vec<Measured>) {
    let size = |bits: u64| format!("2^{} bits", bits.ilog2());
    let bits = scale.bits;
    let words = runs(bits, (bits as f64 * SPARSE) as usize, 1);
    let set = Plain::of(&words).total();
    contest!(
        scale,
        out,
        row("iterate sparse", format!("{}, 0.37 % random", size(bits)), set, "bit").at_most_best(1.0),
        [Bitmap, FixedBitSet, RoaringBitmap, Croaring, ByHand, Plain],
        &words,
        |bits| timed(|| {
            let mut sum = 0u64;
            bits.each(|bit| sum = sum.wrapping_add(bit));
            sum
        })
    );
    let dense = bits / 8;
    let words = vec![u64::MAX; dense as usize / 64];
    contest!(
        scale,
        out,
        row("iterate dense", format!("{}, all set", size(dense)), dense, "bit").at_most(1.1, "fixedbitset"),
        [Bitmap, FixedBitSet, RoaringBitmap, Croaring, Plain],
        &words,
        |bits| timed(|| {
            let mut sum = 0u64;
            bits.each(|bit| sum = sum.wrapping_add(bit));
            sum
        })
    );
    let words = runs(bits, (bits as f64 * 0.01 / 16.0) as usize, 16);
    let plain = Plain::of(&words);
    let (mut extents, mut answer) = (0, 0u64);
    let add = |sum: &mut u64, start: u64, end: u64| *sum = sum.wrapping_mul(31).wrapping_add(start ^ end << 1);
    plain.each_area(|start, end| {
        extents += 1;
        add(&mut answer, start, end);
    });
    contest!(
        scale,
        out,
        row("iterate areas", format!("{}, 1 % in runs of 16 at random", size(bits)), extents, "area").at_most_best(1.2),
        [Bitmap, FixedBitSet, RoaringBitmap, Croaring, Plain],
        &words,
        |bits| timed(|| {
            let mut sum = 0u64;
            bits.each_area(|start, end| add(&mut sum, start, end));
            sum
        }),
        // The least that whoever has a bitmap must do.
        Contender::new("reading alone", Kind::ByHand, || {
            (timed(|| plain.0.iter().fold(0u64, |sum, word| sum.wrapping_add(*word))).0, answer)
        })
    );
}

/// 1000 bits in 2^36.
fn huge(scale: &Scale, out: &mut Vec<Measured>) {
    const BITS: u64 = 1 << 36;
    let mut at = positions(BITS, 1000);
    at.sort_unstable();
    at.dedup();
    let mut ours = Bitmap::new(BITS, 0).expect("address space");
    at.iter().for_each(|&bit| drop(ours.set(bit..bit + 1)));
    let tree = RoaringTreemap::from_iter(at.iter().copied());
    let croaring = Bitmap64::from_iter(at.iter().copied());
    for cold in [false, true] {
        let name = if cold { "iterate 2^36, cold" } else { "iterate 2^36, warm" };
        if !scale.wants(name) {
            continue;
        }
        let state = format!("1000 random bits in 2^36{}", if cold { ", caches emptied" } else { "" });
        // Several passes while it is warm, so that the clock does not show.
        let passes = if cold { 1 } else { 100 };
        let mut flush = vec![1u64; (96 << 20) / 8];
        let empty = || {
            if cold {
                flush.iter_mut().for_each(|word| *word = word.wrapping_mul(3));
                black_box(&flush);
            }
        };
        let empty = std::cell::RefCell::new(empty);
        let run = |sum: &dyn Fn() -> u64| {
            empty.borrow_mut()();
            timed(|| (0..passes).map(|_| black_box(sum)()).fold(0, u64::wrapping_add))
        };
        let sum = |bits: &mut dyn Iterator<Item = u64>| bits.fold(0u64, u64::wrapping_add);
        let contenders = vec![
            Contender::new("dirtymap", Kind::Ours, || {
                run(&|| ours.granules(0..BITS).expect(OK).fold(0, u64::wrapping_add))
            }),
            Contender::new("roaring", Kind::Peer, || run(&|| tree.iter().fold(0, u64::wrapping_add))),
            Contender::new("croaring", Kind::Peer, || run(&|| sum(&mut croaring.iter()))),
            Contender::new("limit", Kind::Limit, || {
                // Those words alone, by somebody who knows where they are.
                let words = ours.bottom_words();
                run(&|| {
                    at.iter().map(|&b| (b / 64 * 64) + u64::from((words[(b / 64) as usize]).trailing_zeros())).sum()
                })
            }),
        ];
        let row = row(name, state, at.len() as u64 * passes, "bit").at_most(2.0, "roaring");
        out.push(measure(row, scale.rounds, contenders));
    }
}

/// Two random halves, and two sparse maps.
fn combine(scale: &Scale, out: &mut Vec<Measured>) {
    let bits = scale.bits;
    for (density, a, b) in [
        ("50 % random", half(bits, 1), half(bits, 2)),
        (
            "0.37 % random",
            runs(bits, (bits as f64 * SPARSE) as usize, 1),
            runs(bits, (bits as f64 * 0.0036) as usize, 1),
        ),
    ] {
        let state = format!("2^{} bits, {density} each", bits.ilog2());
        let n = bits / 64;
        for name in ["merge", "difference"] {
            let merge = name == "merge";
            macro_rules! contenders {
                ($($who:ty),*) => {
                    vec![$({
                        let other = <$who as Bits>::of(&b);
                        let a = &a;
                        Contender::new(<$who as Bits>::NAME, <$who as Bits>::KIND, move || {
                            let mut bits = <$who as Bits>::of(a);
                            let took = timed(|| if merge { bits.add_all(&other) } else { bits.take_all(&other) }).0;
                            (took, bits.total())
                        })
                    }),*]
                };
            }
            if scale.wants(name) {
                let row = row(name, &state, n, "word").at_most(1.2, "limit");
                let rounds = scale.rounds.min(7);
                out.push(measure(row, rounds, contenders![Bitmap, FixedBitSet, RoaringBitmap, Croaring, Plain]));
            }
        }
        contest!(
            scale,
            out,
            row("count in a range", &state, n, "word").at_most(1.2, "limit"),
            [Bitmap, FixedBitSet, Plain],
            &a,
            |bits| timed(|| bits.total())
        );
    }
}

fn rebuild(scale: &Scale, out: &mut Vec<Measured>) {
    let bits = scale.bits;
    let sparse = runs(bits, (bits as f64 * SPARSE) as usize, 1);
    for (density, words) in [("50 % random", half(bits, 1)), ("0.37 % random", sparse)] {
        if !scale.wants("finish") {
            break;
        }
        let mut map = <Bitmap as Bits>::of(&words);
        let contenders = vec![
            Contender::new("dirtymap", Kind::Ours, move || (timed(|| map.rebuild_summaries()).0, 0)),
            Contender::new("limit", Kind::Limit, || {
                (timed(|| words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word))).0, 0)
            }),
        ];
        let row = row("finish", format!("2^{} bits, {density}", bits.ilog2()), bits / 64, "word").at_most(1.5, "limit");
        out.push(measure(row, scale.rounds, contenders));
    }
}

fn serialise(scale: &Scale, out: &mut Vec<Measured>) {
    let bits = scale.bits;
    let sparse = runs(bits, (bits as f64 * SPARSE) as usize, 1);
    for (density, words) in [("50 % random", half(bits, 1)), ("0.37 % random", sparse)] {
        let state = format!("2^{} bits, {density}", bits.ilog2());
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let sum =
            |words: &mut dyn Iterator<Item = u64>| words.fold(0u64, |sum, w| sum.wrapping_mul(31).wrapping_add(w));
        let answer = |bytes: &[u8]| sum(&mut bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)));
        if scale.wants("serialise") {
            let map = <Bitmap as Bits>::of(&words);
            let (mut to, mut copy) = (vec![1; bytes.len()], vec![1; bytes.len()]);
            let contenders = vec![
                Contender::new("dirtymap", Kind::Ours, || {
                    (timed(|| map.serialize_part(0..bits, &mut to).expect(OK)).0, answer(&to))
                }),
                Contender::new("limit", Kind::Limit, || (timed(|| copy.copy_from_slice(&bytes)).0, answer(&copy))),
            ];
            let row = row("serialise", &state, bits / 64, "word").at_most(1.2, "limit");
            out.push(measure(row, scale.rounds, contenders));
        }
        if scale.wants("load") {
            let mut map = Some(Bitmap::new(bits, 0).expect("memory"));
            let zeros = vec![0; bytes.len()];
            let mut copy = vec![1; bytes.len()];
            let contenders = vec![
                Contender::new("dirtymap", Kind::Ours, || {
                    // Memory that was touched and is empty now.
                    let mut loading = map.take().expect("it is put back").begin_load();
                    loading.ones(0..bits).and_then(|()| loading.zeroes(0..bits)).expect(OK);
                    let (took, loaded) = timed(|| {
                        loading.part(0..bits, &bytes).expect(OK);
                        loading.finish()
                    });
                    let answer = sum(&mut loaded.bottom_words().iter().copied());
                    map = Some(loaded);
                    (took, answer)
                }),
                Contender::new("limit", Kind::Limit, || {
                    copy.copy_from_slice(&zeros);
                    (timed(|| copy.copy_from_slice(&bytes)).0, answer(&copy))
                }),
            ];
            let row = row("load", format!("{state}, into an empty map, finish included"), bits / 64, "word");
            out.push(measure(row.at_most(1.2, "limit"), scale.rounds, contenders));
        }
    }
}
