//! The worked example, and the cases that earlier bitmaps of this kind got wrong, one test each.

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
    // The tail granule, with an end that is not aligned but is the map's.
    assert_eq!(map.reset(16..20).unwrap(), 1);
    assert_eq!(bits(&map), "100");
    map.set_all();
    assert_eq!(map.reset_within(15..20).unwrap(), 1);
    assert_eq!(bits(&map), "110");
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
        assert_eq!(map.next_area(at..at, 1).unwrap(), None);
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
        assert_eq!(map.areas(0..MAX_LEN).unwrap().next(), Some(tail..MAX_LEN));
        assert_eq!(map.reset(tail..MAX_LEN).unwrap(), 1);
        assert!(map.is_empty());
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
        assert_eq!(map.next_area(0..len, u64::MAX).unwrap(), Some(0..len));
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
        assert_eq!(map.next_area(0..n, n).unwrap(), Some(0..n));
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
    assert_eq!(map.next_area(900..1000, 1000).unwrap(), Some(900..1000));
    assert_eq!(map.next_area(900..1000, 7).unwrap(), Some(900..907));
    assert_eq!(map.next_clean(900..1000).unwrap(), None);
    assert!(map.granules(900..1000).unwrap().eq([768]));
    assert_eq!(map.dirty_len(), 232);
}

#[test]
fn a_maximal_length_of_zero_is_an_error() {
    let map = Bitmap::new(10, 0).unwrap();
    assert!(matches!(map.next_area(0..10, 0), Err(Error::ZeroLength)));
    assert!(matches!(map.next_area(0..0, 0), Err(Error::ZeroLength)));
}

#[test]
fn merging_what_does_not_fit_changes_nothing() {
    let mut map = Bitmap::new(100, 3).unwrap();
    for (len, granularity, differs) in [(99, 3, "len"), (100, 2, "granularity"), (0, 3, "len")] {
        let mut other = Bitmap::new(len, granularity).unwrap();
        other.set_all();
        assert!(!map.can_merge(&other));
        assert!(matches!(map.merge(&other), Err(Error::Mismatch { what, .. }) if what == differs));
        assert!(map.is_empty());
        assert_ne!(map, other);
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
    let mut third = empty.clone();
    assert_eq!(third.merge(&before).unwrap(), before.count());
    assert_eq!(third, before);
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
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
    assert!(resident() - before < 200 << 20, "{} bytes", resident() - before);
}

#[test]
fn the_largest_map_works_or_is_refused() {
    match Bitmap::new(MAX_BITS, 0) {
        Err(e) => {
            assert!(matches!(e, Error::OutOfMemory { bytes } if bytes > MAX_BITS / 8), "{e}");
        }
        Ok(mut map) => {
            assert_eq!(map.set(MAX_BITS - 1..MAX_BITS).unwrap(), 1);
            assert_eq!(map.next_dirty(0..MAX_BITS).unwrap(), Some(MAX_BITS - 1));
            assert_eq!(map.reset_all(), 1);
        }
    }
    let words = Geometry::new(MAX_BITS, 0).unwrap().level_words();
    assert_eq!((words[0], words[6]), (1, MAX_BITS / 64));
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
    assert_eq!(fused(map.areas(0..1 << 20).unwrap()), 100);
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
