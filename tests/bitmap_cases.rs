//! The worked example, and the cases that earlier bitmaps of this kind got wrong, one test each.
#![allow(clippy::single_range_in_vec_init, reason = "a list of areas may have one")]

use dirtymap::{Bitmap, Error, Geometry, MAX_BITS, MAX_LEN};

fn bits(map: &Bitmap) -> String {
    let granule = map.geometry().granule();
    (0..map.geometry().bits()).map(|b| if map.get(b * granule).unwrap() { '1' } else { '0' }).collect()
}

fn kind<T>(result: Result<T, Error>) -> &'static str {
    result.err().map_or("no error", |e| e.kind())
}

#[test]
fn worked_example() {
    let mut map = Bitmap::new(16, 1).unwrap();
    assert_eq!(bits(&map), "00000000");
    assert_eq!(map.set(0..9).unwrap(), 5);
    assert_eq!(bits(&map), "11111000");
    assert_eq!(map.reset_covering(1..4).unwrap(), 2);
    assert_eq!(bits(&map), "00111000");
    assert_eq!(map.set(9..11).unwrap(), 1);
    assert_eq!(bits(&map), "00111100");
    assert_eq!(map.reset_covering(5..10).unwrap(), 3);
    assert_eq!(bits(&map), "00000100");
}

#[test]
fn reset_refuses_what_would_forget_dirt() {
    let mut map = Bitmap::new(20, 3).unwrap(); // granules 0..8, 8..16, 16..20
    map.set_all();
    for range in [1..8, 0..7, 1..20, 0..19, 16..17, 17..20] {
        assert_eq!(kind(map.reset(range)), "unaligned");
        assert!(map.is_full());
    }
    assert_eq!(map.reset_within(1..19).unwrap(), 1);
    assert_eq!(bits(&map), "101");
}

#[test]
fn resetting_the_tail_granule_with_an_end_that_is_not_aligned_but_is_the_maps() {
    let mut map = Bitmap::new(20, 3).unwrap(); // granules 0..8, 8..16, 16..20
    map.set_all();
    assert_eq!(kind(map.reset(16..19)), "unaligned");
    assert_eq!(map.reset(16..20).unwrap(), 1);
    assert_eq!(bits(&map), "110");
    map.set_all();
    assert_eq!(map.reset_within(15..20).unwrap(), 1);
    assert_eq!(bits(&map), "110");
    // The end of the map moves, and the old one is none any more.
    map.truncate(21).unwrap();
    map.set_all();
    assert_eq!(kind(map.reset(16..20)), "unaligned");
    assert_eq!(map.reset(16..21).unwrap(), 1);
}

#[test]
fn no_items() {
    for granularity in [0, 1, 12, 63] {
        let mut map = Bitmap::new(0, granularity).unwrap();
        assert!(map.is_empty() && map.is_full());
        assert_eq!((map.count(), map.dirty_len(), map.bottom_words()), (0, 0, &[0][..]));
        assert_eq!((map.set(0..0).unwrap(), map.set_all(), map.reset(0..0).unwrap()), (0, 0, 0));
        assert_eq!(kind(map.set(0..1)), "out-of-range");
        assert_eq!(kind(map.get(0)), "out-of-range");
        assert_eq!(map.run(0..0).unwrap(), None);
        assert!(map.all(0..0).unwrap() && !map.any(0..0).unwrap());
        assert_eq!(map.into_iter().count(), 0);
        map.check_invariants().unwrap();
    }
}

#[test]
fn empty_ranges_need_no_alignment() {
    let mut map = Bitmap::new(100, 4).unwrap();
    map.set_all();
    for at in [0, 1, 16, 99, 100] {
        assert_eq!(map.set(at..at).unwrap(), 0);
        assert_eq!(map.reset(at..at).unwrap(), 0);
        assert_eq!(map.reset_within(at..at).unwrap(), 0);
        assert_eq!(map.reset_covering(at..at).unwrap(), 0);
        assert!(!map.any(at..at).unwrap() && map.all(at..at).unwrap());
        assert_eq!(map.next_extent(at..at, 1).unwrap(), None);
        assert_eq!(map.granules(at..at).unwrap().count(), 0);
    }
    assert!(map.is_full());
}

#[test]
fn ends_that_overflow() {
    for (len, granularity) in [(100, 0), (100, 5), (MAX_LEN, 30), (MAX_LEN, 63)] {
        let mut map = Bitmap::new(len, granularity).unwrap();
        for end in [len + 1, 1 << 63, u64::MAX - 1, u64::MAX] {
            for start in [0, 1, len, end - 1, end] {
                assert_eq!(kind(map.set(start..end)), "out-of-range");
                assert_eq!(kind(map.reset(start..end)), "out-of-range");
                assert_eq!(kind(map.reset_within(start..end)), "out-of-range");
                assert_eq!(kind(map.reset_covering(start..end)), "out-of-range");
                assert_eq!(kind(map.next_dirty(start..end)), "out-of-range");
                assert_eq!(kind(map.run(start..end)), "out-of-range");
            }
        }
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = 2..1;
        assert_eq!(kind(map.set(backwards)), "out-of-range");
        assert_eq!(kind(map.get(u64::MAX)), "out-of-range");
        assert!(map.is_empty());
    }
}

#[test]
fn lengths_near_the_limit() {
    // len + granule - 1 does not fit 64 bits here, or only just.
    for granularity in 22..=63 {
        let bits = Geometry::new(MAX_LEN, granularity).unwrap().bits();
        assert_eq!(bits, 1 << (63 - granularity));
        if granularity < 28 {
            continue; // more memory than a small machine lets one have
        }
        let mut map = Bitmap::new(MAX_LEN, granularity).unwrap();
        assert_eq!(map.set(MAX_LEN - 1..MAX_LEN).unwrap(), 1);
        let tail = (bits - 1) << granularity;
        assert_eq!(map.next_dirty(0..MAX_LEN).unwrap(), Some(tail));
        assert_eq!(map.dirty_len(), MAX_LEN - tail);
        assert_eq!(map.extents(0..MAX_LEN).unwrap().next(), Some(tail..MAX_LEN));
        assert_eq!(map.reset(tail..MAX_LEN).unwrap(), 1);
        assert!(map.is_empty());
        map.set(MAX_LEN - 1..MAX_LEN).unwrap();
        assert_eq!(map.truncate(MAX_LEN - 1).unwrap(), 0);
        assert_eq!(map.extents(0..MAX_LEN - 1).unwrap().next(), Some(tail..MAX_LEN - 1));
        assert_eq!(map.truncate(1).unwrap(), u64::from(bits > 1));
        assert_eq!((map.truncate(MAX_LEN).unwrap(), map.len()), (0, MAX_LEN));
        map.set(0..1).unwrap();
        let mut one = Bitmap::new(MAX_LEN, 63).unwrap();
        assert_eq!((one.merge(&map).unwrap(), one.dirty_len()), (1, MAX_LEN));
    }
    assert_eq!(kind(Bitmap::new(MAX_LEN + 1, 63)), "geometry");
    assert_eq!(kind(Bitmap::new(u64::MAX, 63)), "geometry");
    assert_eq!(kind(Bitmap::new(1, 64)), "geometry");
    assert_eq!(kind(Bitmap::new(MAX_LEN, 21)), "geometry");
    assert_eq!(kind(Bitmap::new(MAX_BITS + 1, 0)), "geometry");
}

#[test]
fn granularity_63() {
    for len in [1, 2, 1 << 62, MAX_LEN] {
        let mut map = Bitmap::new(len, 63).unwrap();
        assert_eq!(map.geometry().bits(), 1);
        assert_eq!(map.set(len - 1..len).unwrap(), 1);
        assert!(map.is_full() && map.all(0..len).unwrap());
        assert_eq!(map.dirty_len(), len);
        assert_eq!(map.next_extent(0..len, u64::MAX).unwrap(), Some(0..len));
        assert_eq!(map.granules(len - 1..len).unwrap().next(), Some(0));
        assert_eq!(map.reset(0..len).unwrap(), 1);
        assert_eq!(map.set_all(), 1);
        map.check_invariants().unwrap();
    }
}

#[test]
fn few_bits() {
    for n in [1, 63, 64, 65, 4095, 4096, 4097] {
        let mut map = Bitmap::new(n, 0).unwrap();
        assert_eq!(map.set_all(), n);
        assert!(map.is_full());
        assert_eq!(map.bottom_words().len() as u64, n.div_ceil(64));
        assert_eq!(map.next_extent(0..n, n).unwrap(), Some(0..n));
        map.check_invariants().unwrap();
        assert_eq!(map.reset(n - 1..n).unwrap(), 1);
        assert_eq!(map.next_clean(0..n).unwrap(), Some(n - 1));
        assert_eq!(map.reset_all(), n - 1);
        assert!(map.is_empty());
        map.check_invariants().unwrap();
    }
}

#[test]
fn searching_from_inside_the_last_partial_granule() {
    let mut map = Bitmap::new(1000, 8).unwrap(); // the last granule is 768..1000
    assert_eq!(map.next_dirty(900..1000).unwrap(), None);
    assert_eq!(map.run(900..1000).unwrap(), Some((false, 100)));
    assert_eq!(map.next_clean(999..1000).unwrap(), Some(999));
    map.set(800..801).unwrap();
    assert_eq!(map.next_dirty(900..1000).unwrap(), Some(900));
    assert_eq!(map.next_dirty(999..1000).unwrap(), Some(999));
    assert_eq!(map.run(900..1000).unwrap(), Some((true, 100)));
    assert_eq!(map.next_extent(900..1000, 1000).unwrap(), Some(900..1000));
    assert_eq!(map.next_extent(900..1000, 7).unwrap(), Some(900..907));
    assert_eq!(map.next_clean(900..1000).unwrap(), None);
    assert!(map.granules(900..1000).unwrap().eq([768]));
    assert_eq!(map.dirty_len(), 232);
}

#[test]
fn a_maximal_length_of_zero_is_an_error() {
    let map = Bitmap::new(10, 0).unwrap();
    assert!(matches!(map.next_extent(0..10, 0), Err(Error::ZeroLength)));
    assert!(matches!(map.next_extent(0..0, 0), Err(Error::ZeroLength)));
}

#[test]
fn combining_what_does_not_fit_changes_nothing() {
    let mut map = Bitmap::new(100, 3).unwrap();
    map.set(50..51).unwrap();
    let (before, fits) = (map.clone(), map.clone());
    for (len, granularity, differs) in [(99, 3, "len"), (101, 3, "len"), (0, 3, "len"), (100, 2, "granularity")] {
        let mut other = Bitmap::new(len, granularity).unwrap();
        other.set_all();
        assert_ne!(map, other);
        let refused = |done: Result<u64, Error>| matches!(done, Err(Error::Mismatch { what, .. }) if what == differs);
        assert_eq!(map.can_merge(&other), len == 100);
        if len != 100 {
            assert!(refused(map.merge(&other)));
            assert!(refused(map.set_to_union(&fits, &other)) && refused(map.set_to_union(&other, &fits)));
        }
        assert!(refused(map.subtract(&other)) && refused(map.intersect(&other)));
        assert!(refused(map.difference(&other).map(|m| m.count())));
        assert!(refused(map.intersection(&other).map(|m| m.count())));
        assert_eq!(map, before);
    }
}

#[test]
fn merging_with_an_empty_side() {
    let empty = Bitmap::new(1000, 2).unwrap();
    let mut map = empty.clone();
    map.set(10..20).unwrap();
    let before = map.clone();
    assert_eq!(map.merge(&empty).unwrap(), 0);
    assert_eq!(map, before);
}

#[test]
fn the_union_in_a_third_map_is_exact_also_when_a_side_is_empty() {
    let empty = Bitmap::new(1000, 2).unwrap();
    let mut one = empty.clone();
    one.set(10..20).unwrap();
    for (a, b, wanted) in [(&empty, &one, &one), (&one, &empty, &one), (&empty, &empty, &empty), (&one, &one, &one)] {
        let mut third = empty.clone();
        third.set(500..600).unwrap();
        third.set(8..12).unwrap();
        let differ = (0..250).filter(|g| third.get(g * 4).unwrap() != wanted.get(g * 4).unwrap()).count() as u64;
        assert_eq!(third.set_to_union(a, b).unwrap(), differ);
        assert_eq!(third, *wanted);
        third.check_invariants().unwrap();
    }
}

#[test]
fn merging_into_other_granularities_rounds_outward() {
    // 1000 items: 250 granules of 4; 16 of 64, the last one partial; one of 2^63.
    let mut fine = Bitmap::new(1000, 2).unwrap();
    let mut coarse = Bitmap::new(1000, 6).unwrap();
    let mut whole = Bitmap::new(1000, 63).unwrap();
    fine.set(63..65).unwrap();
    fine.set(999..1000).unwrap();
    assert_eq!(coarse.merge(&fine).unwrap(), 3);
    assert!(coarse.into_iter().eq([0..128, 960..1000]));
    assert_eq!(whole.merge(&fine).unwrap(), 1);
    assert!(whole.is_full());
    assert_eq!(fine.merge(&coarse).unwrap(), 32 + 10 - 3);
    assert!(fine.into_iter().eq([0..128, 960..1000]));
    assert_eq!(fine.merge(&whole).unwrap(), 250 - 42);
    assert!(fine.is_full());
    assert_eq!(coarse.set_to_union(&Bitmap::new(1000, 0).unwrap(), &Bitmap::new(1000, 63).unwrap()).unwrap(), 3);
    for map in [fine, coarse, whole] {
        map.check_invariants().unwrap();
    }
}

#[test]
fn truncating_within_the_same_number_of_bits_changes_len() {
    let mut map = Bitmap::new(100, 6).unwrap(); // 0..64, 64..100
    map.set(99..100).unwrap();
    for len in [65, 128, 70] {
        assert_eq!(map.truncate(len).unwrap(), 0);
        assert_eq!((map.len(), map.count(), map.dirty_len()), (len, 1, len - 64));
        assert_eq!(map.next_extent(0..len, u64::MAX).unwrap(), Some(64..len));
        assert_eq!(kind(map.get(len)), "out-of-range");
        map.check_invariants().unwrap();
    }
}

#[test]
fn truncating_clears_what_is_cut_off_and_it_stays_clear() {
    for n in [0, 1, 63, 64, 65, 4095, 4096, 4097] {
        let mut map = Bitmap::new(5000, 0).unwrap();
        map.set_all();
        assert_eq!(map.truncate(n).unwrap(), 5000 - n);
        assert!(map.is_full() && map.count() == n);
        map.check_invariants().unwrap();
        assert_eq!(map.truncate(300_000).unwrap(), 0);
        assert_eq!((map.count(), map.len()), (n, 300_000));
        assert_eq!(map.next_clean(0..300_000).unwrap(), Some(n));
        map.check_invariants().unwrap();
        assert_eq!(map.set(299_999..300_000).unwrap(), 1);
    }
}

#[test]
fn truncating_to_what_no_map_can_have_changes_nothing() {
    let mut map = Bitmap::new(1000, 2).unwrap();
    map.attach_changes(1).unwrap();
    map.set(0..1).unwrap();
    for len in [MAX_LEN + 1, u64::MAX, (MAX_BITS << 2) + 1] {
        assert_eq!(kind(map.truncate(len)), "geometry");
        assert_eq!((map.len(), map.count()), (1000, 1));
    }
    assert_eq!(map.take_changes().unwrap().unwrap().len(), 1000);
}

#[test]
fn loading_ones_sets_nothing_past_the_end() {
    for n in [1, 63, 64, 65, 100, 4097] {
        let mut loading = Bitmap::new(n, 0).unwrap().begin_load();
        loading.ones(0..n).unwrap();
        let map = loading.finish();
        assert!(map.is_full() && map.count() == n);
        assert_eq!(map.bottom_words().last(), Some(&map.geometry().word_mask(map.geometry().words() - 1)));
        map.check_invariants().unwrap();
        // Nor do ones in a part, which are refused.
        let mut loading = map.begin_load();
        loading.zeroes(0..n).unwrap();
        let stray = loading.part(0..n, &vec![0xff; n.div_ceil(64) as usize * 8]);
        assert_eq!(kind(stray), if n % 64 == 0 { "no error" } else { "stray-bits" });
        let map = loading.finish();
        assert_eq!(map.count(), if n % 64 == 0 { n } else { 0 });
    }
}

#[test]
fn chunks_are_whole_words_or_refused() {
    let map = Bitmap::new(1000, 3).unwrap(); // two words: 0..512, 512..1000
    assert_eq!(map.serialization_align().unwrap(), 512);
    for (range, size) in [(0..0, 0), (5..5, 0), (1000..1000, 0), (0..512, 8), (512..1000, 8), (0..1000, 16)] {
        assert_eq!(map.serialized_size(range).unwrap(), size);
    }
    let mut loading = map.clone().begin_load();
    for range in [0..511, 1..512, 0..999, 512..999, 511..1000, 8..16] {
        assert_eq!(kind(map.serialized_size(range.clone())), "unaligned");
        assert_eq!(kind(map.serialize_part(range.clone(), &mut [0; 8])), "unaligned");
        assert_eq!(kind(loading.part(range.clone(), &[0; 8])), "unaligned");
        assert_eq!(kind(loading.zeroes(range.clone())), "unaligned");
        assert_eq!(kind(loading.ones(range)), "unaligned");
    }
    for end in [1001, 1024, u64::MAX] {
        assert_eq!(kind(map.serialized_size(512..end)), "out-of-range");
        assert_eq!(kind(loading.ones(512..end)), "out-of-range");
    }
    for size in [0, 7, 9, 16] {
        assert_eq!(kind(map.serialize_part(0..512, &mut vec![0; size])), "chunk-size");
        assert_eq!(kind(loading.part(0..512, &vec![255; size])), "chunk-size");
    }
    assert!(loading.finish().is_empty());
}

#[test]
fn a_granularity_of_58_cannot_be_serialised() {
    let map = Bitmap::new(MAX_LEN, 57).unwrap();
    assert_eq!(map.serialization_align().unwrap(), 1 << 63);
    let mut loading = map.begin_load();
    loading.part(0..MAX_LEN, &[0x55; 8]).unwrap();
    assert_eq!(loading.finish().count(), 32);
    for granularity in 58..=63 {
        let mut map = Bitmap::new(MAX_LEN, granularity).unwrap();
        map.set(0..1).unwrap();
        assert_eq!(kind(map.serialization_align()), "not-serializable");
        assert_eq!(kind(map.serialized_size(0..MAX_LEN)), "not-serializable");
        assert_eq!(kind(map.serialize_part(0..MAX_LEN, &mut [0; 8])), "not-serializable");
        let mut loading = map.begin_load();
        assert_eq!(kind(loading.part(0..MAX_LEN, &[0; 8])), "not-serializable");
        assert_eq!(kind(loading.zeroes(0..0)), "not-serializable");
        assert_eq!(kind(loading.ones(0..MAX_LEN)), "not-serializable");
        assert_eq!(loading.finish().count(), 1);
    }
}

#[test]
fn a_part_is_little_endian_words() {
    let mut map = Bitmap::new(130, 0).unwrap();
    map.set(0..1).unwrap();
    map.set(71..73).unwrap();
    map.set(129..130).unwrap();
    let mut bytes = [0xff; 24];
    map.serialize_part(0..130, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 0, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let mut tail = [0xff; 8];
    map.serialize_part(128..130, &mut tail).unwrap();
    assert_eq!(tail, bytes[16..]);
}

#[test]
fn what_is_cut_off_and_comes_back_has_changed() {
    let mut map = Bitmap::new(1000, 0).unwrap();
    map.set(900..901).unwrap();
    map.attach_changes(3).unwrap();
    // Nothing changed there, and nothing is cut off that somebody could have seen.
    map.truncate(950).unwrap();
    map.truncate(1000).unwrap();
    assert!(map.take_changes().unwrap().unwrap().is_empty());
    map.truncate(500).unwrap();
    map.truncate(1000).unwrap();
    let changed = map.take_changes().unwrap().unwrap();
    assert!(changed.into_iter().eq([496..1000]));
    // Also when the chunks change meanwhile.
    map.set(999..1000).unwrap();
    map.truncate(500).unwrap();
    map.attach_changes(5).unwrap();
    map.truncate(1000).unwrap();
    assert!(map.take_changes().unwrap().unwrap().into_iter().eq([480..1000]));
    map.truncate(500).unwrap();
    // Who takes the marks now learns the length, too.
    assert!(map.take_changes().unwrap().unwrap().is_empty());
    map.truncate(1000).unwrap();
    assert!(map.take_changes().unwrap().unwrap().is_empty());
}

#[test]
fn the_chunks_of_the_whole_range_are_marked_if_a_bit_of_it_changed() {
    let mut map = Bitmap::new(1000, 0).unwrap();
    map.attach_changes(2).unwrap();
    map.set(100..200).unwrap();
    assert!(map.take_changes().unwrap().unwrap().into_iter().eq([100..200]));
    map.set(100..200).unwrap();
    assert!(map.take_changes().unwrap().unwrap().is_empty());
    map.set(100..201).unwrap();
    assert!(map.take_changes().unwrap().unwrap().into_iter().eq([100..204]));
    // A copy has no change bitmap, and is equal all the same.
    let mut copy = map.clone();
    assert!(copy == map && copy.take_changes().unwrap().is_none());
    assert_eq!(map.set_all(), 899);
    assert!(map.take_changes().unwrap().unwrap().is_full());
    map.detach_changes();
    assert_eq!(map.reset_all(), 1000);
    assert!(map.take_changes().unwrap().is_none());
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// The most memory that this process ever had resident, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_sparse_map_of_8_gib_is_cheap() {
    let before = resident();
    let n = 1 << 36;
    let mut map = Bitmap::new(n, 0).unwrap();
    assert_eq!(map.set(n - 1..n).unwrap(), 1);
    assert_eq!(map.set((1 << 35) - 70..(1 << 35) + 70).unwrap(), 140);
    assert_eq!(map.next_dirty(0..n).unwrap(), Some((1 << 35) - 70));
    assert!(map.into_iter().eq([(1 << 35) - 70..(1 << 35) + 70, n - 1..n]));
    assert_eq!(map.run(0..n).unwrap(), Some((false, (1 << 35) - 70)));
    let copy = map.clone();
    assert!(copy == map);
    assert_eq!(map.reset(0..n - 64).unwrap(), 140);
    assert_eq!(map.count_range(0..n).unwrap(), 1);
    assert!(copy != map);
    assert_eq!(map.reset_all(), 1);
    assert!(map.is_empty() && map.next_dirty(0..n).unwrap().is_none());
    // Huge pages, where they are on, cost 2 MiB each; two maps have touched three places on up to seven levels.
    assert!(resident().saturating_sub(before) < 200 << 20, "{} bytes", resident() - before);
}

#[test]
fn the_arithmetic_of_2_to_the_41_bits() {
    let geometry = Geometry::new(MAX_BITS, 0).unwrap();
    let words = geometry.level_words();
    assert_eq!((words[0], words[6]), (1, MAX_BITS / 64));
    assert_eq!(geometry.touched(&(MAX_BITS - 1..MAX_BITS)), MAX_BITS - 1..MAX_BITS);
    assert_eq!(geometry.serialization_align().unwrap(), 64);
    for (len, granularity) in [(MAX_BITS, 0), (MAX_BITS << 21, 21), (MAX_LEN, 22)] {
        assert_eq!(Geometry::new(len, granularity).unwrap().bits(), MAX_BITS);
    }
    assert_eq!(kind(Bitmap::new(MAX_BITS + 1, 0)), "geometry");
    // 256 GiB of address space; few machines let a program have that.
    if let Err(e) = Bitmap::new(MAX_BITS, 0) {
        assert!(matches!(e, Error::OutOfMemory { bytes } if bytes > MAX_BITS / 8), "{e}");
        let mut small = Bitmap::new(1000, 0).unwrap();
        small.attach_changes(1).unwrap();
        small.set(5..6).unwrap();
        assert_eq!(kind(small.truncate(MAX_BITS)), "out-of-memory");
        assert_eq!((small.len(), small.count()), (1000, 1));
        small.check_invariants().unwrap();
        assert!(small.take_changes().unwrap().unwrap().into_iter().eq([4..6]));
    }
}

#[test]
fn the_largest_map_that_this_machine_allows() {
    let before = resident();
    let mut n = MAX_BITS;
    let mut map = loop {
        match Bitmap::new(n, 0) {
            Ok(map) => break map,
            Err(e) => assert_eq!(e.kind(), "out-of-memory"),
        }
        n /= 2;
    };
    assert!(n >= 1 << 30, "no machine refuses 128 MiB");
    assert_eq!(map.set(n - 1..n).unwrap(), 1);
    assert_eq!(map.set(n / 2 - 1..n / 2 + 1).unwrap(), 2);
    assert_eq!(map.next_dirty(n / 2 + 1..n).unwrap(), Some(n - 1));
    assert_eq!(map.truncate(n - 1).unwrap(), 1);
    assert!(map.into_iter().eq([n / 2 - 1..n / 2 + 1]));
    assert_eq!(map.reset_all(), 2);
    drop(map);
    // Smaller ones, so that the system lets us have several.
    let n = n / 4;
    let mut map = Bitmap::new(n, 0).unwrap();
    map.set(n / 2 - 1..n / 2 + 1).unwrap();
    map.set(n - 1..n).unwrap();
    map.attach_changes(20).unwrap();
    let mut coarse = Bitmap::new(n, 12).unwrap();
    assert_eq!(coarse.merge(&map).unwrap(), 3);
    assert_eq!(map.truncate(n / 2).unwrap(), 2);
    // To new memory, with only the pages that hold dirt.
    assert_eq!(map.truncate(n).unwrap(), 0);
    assert_eq!(map.take_changes().unwrap().unwrap().next_dirty(0..n).unwrap(), Some(n / 2));
    let end = map.len();
    assert!(map.into_iter().eq([n / 2 - 1..n / 2]));
    let mut part = [0; 8];
    map.serialize_part(n / 2 - 64..n / 2, &mut part).unwrap();
    let mut loading = map.begin_load();
    loading.zeroes(0..end).unwrap();
    loading.part(n / 4..n / 4 + 64, &part).unwrap();
    let mut map = loading.finish();
    assert!(map.into_iter().eq([n / 4 + 63..n / 4 + 64]));
    assert_eq!(map.reset_all(), 1);
    assert!(map.is_empty());
    drop((map, coarse));
    let most = 400 << 20;
    assert!(peak() < before + most, "{} bytes", peak() - before);
}

#[test]
fn iterators_fit_the_usual_adapters() {
    let mut map = Bitmap::new(1 << 20, 4).unwrap();
    for i in 0..100 {
        map.set(i * 1000..i * 1000 + 1).unwrap();
    }
    fn fused<I: std::iter::FusedIterator + Clone + std::fmt::Debug>(i: I) -> usize {
        assert!(!format!("{i:?}").is_empty());
        i.clone().count()
    }
    assert_eq!(fused(map.granules(0..1 << 20).unwrap()), 100);
    assert_eq!(fused(map.extents(0..1 << 20).unwrap()), 100);
    assert_eq!(map.words(0..1 << 20).unwrap().map(|(_, w)| w.count_ones()).sum::<u32>(), 100);
    assert_eq!(fused(map.words(0..1 << 20).unwrap()), 97);
    let mut items = 0;
    for area in &map {
        items += area.end - area.start;
    }
    assert_eq!(items, map.dirty_len());
    assert_eq!(format!("{map:?}"), "Bitmap { len: 1048576, granularity: 4, count: 100, .. }");
}

#[test]
fn sha256_of_known_maps() {
    // Of 8 zero bytes; of 01 and seven zero bytes; computed with sha256sum.
    let hex = |map: &Bitmap| map.sha256().iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut map = Bitmap::new(10, 0).unwrap();
    assert_eq!(hex(&map), "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc");
    assert_eq!(hex(&Bitmap::new(0, 0).unwrap()), hex(&map));
    map.set(0..1).unwrap();
    assert_eq!(hex(&map), "7c9fa136d4413fa6173637e883b6998d32e1d675f88cddff9dcbcf331820f4b8");
}
