"""Maps in memory, and what maps of every kind can do."""

import numpy
import pytest

import dirtymap
from dirtymap import Bitmap, Error


def test_slices_are_ranges() -> None:
    map = Bitmap(1000, granule=64)
    map[900:] = True
    assert (len(map), map.granule, map.dirty_len, map.count()) == (1000, 64, 104, 2)
    assert map[950] and not map[0] and map[-1]
    assert map[:] == [(896, 1000)] and map[:896] == [] and map[910:920] == [(910, 920)]
    # What reads cuts a range off, what changes does not.
    assert map[0:5000] == [(896, 1000)]
    for changed in (slice(0, 1001), slice(1001, 1002), slice(5, 4)):
        with pytest.raises(Error) as refused:
            map[changed] = True
        assert (refused.value.kind, refused.value.code) == ("out-of-range", 1)
    with pytest.raises(Error) as refused:
        map[896:950] = False
    assert refused.value.kind == "unaligned"
    map[896:960] = False
    map[960] = True
    assert list(map) == [(960, 1000)]
    with pytest.raises(ValueError):
        map[0:100:2]
    with pytest.raises(IndexError):
        map[-1001]
    for behind in (1000, 1 << 64, 1 << 200):
        with pytest.raises(Error):
            map[behind]
        assert map[900:behind] == [(960, 1000)] and map[behind:] == []
        with pytest.raises(Error):
            map[0 : behind + 1] = True
    with pytest.raises(IndexError):
        map[-1 << 200]
    # An item is none of its extents.
    with pytest.raises(TypeError, match="map.any"):
        960 in map


def test_setting_and_resetting_say_how_many_granules_changed() -> None:
    map = Bitmap(16, granule=2)
    assert map.set(0, 9) == 5 and map.set_ranges([(9, 11), (15, 16)]) == 2
    assert map.reset_covering(1, 4) == 2 and map.reset_within(5, 9) == 1 and map.reset(14, 16) == 1
    assert list(map.extents()) == [(4, 6), (8, 12)]
    assert (map.next_dirty(5), map.next_dirty(12), map.next_clean(4)) == (5, None, 6)
    assert map.any(0, 5) and not map.all(0, 5) and map.all(8, 12) and not map.any(12)
    with pytest.raises(Error):
        map.set_ranges([(0, 1), (16, 17)])
    assert map.count() == 3 and map.count(0, 6) == 1
    assert map.set_all() == 5 and map.reset_all() == 8


def test_extents_are_memory_that_numpy_takes_without_a_copy() -> None:
    map = Bitmap(1 << 20, granule=1)
    map.set_ranges([(5, 9), (100, 200)])
    view = map.extents_buffer()
    array = numpy.asarray(view)
    assert view.shape == (2, 2) and array.tolist() == [[5, 9], [100, 200]]
    assert array.dtype == numpy.uint64 and (array[:, 1] - array[:, 0]).sum() == map.dirty_len
    assert numpy.shares_memory(array, numpy.asarray(view))
    assert numpy.asarray(map.extents_buffer(150, 160)).tolist() == [[150, 160]]
    assert len(map.extents_buffer(300)) == 0


def test_an_iterator_sees_the_map_change() -> None:
    map = Bitmap(1000, granule=1)
    map.set(0, 1)
    map.set(10, 11)
    extents = map.extents()
    assert next(extents) == (0, 1)
    map.reset(10, 11)
    map.set(20, 22)
    assert next(extents) == (20, 22)
    with pytest.raises(StopIteration):
        next(extents)


def test_combining() -> None:
    coarse, fine = Bitmap(1000, granule=64), Bitmap(1000, granule=4)
    fine.set(70, 71)
    assert coarse.merge(fine) == 1 and coarse.merge(coarse) == 0 and list(coarse) == [(64, 128)]
    assert fine.merge(coarse) == 15
    with pytest.raises(Error) as refused:
        coarse.subtract(fine)
    assert refused.value.kind == "mismatch"
    copy = Bitmap.copy_of(fine)
    assert copy.sha256() == fine.sha256() and len(copy.sha256()) == 32
    copy.reset(64, 72)
    assert fine.intersect(copy) == 2 and fine.subtract(copy) == 14 and fine.intersect(fine) == 0
    assert copy.subtract(copy) == 14


def test_maps_that_are_made_of_two() -> None:
    a, b, coarse = Bitmap(1000, granule=4), Bitmap(1000, granule=4), Bitmap(1000, granule=8)
    a.set(0, 8)
    b.set(4, 12)
    coarse.set(16, 17)
    assert list(a.union(b)) == [(0, 12)] and list(a.union(coarse)) == [(0, 8), (16, 24)]
    assert list(a.difference(b)) == [(0, 4)] and list(a.intersection(b)) == [(4, 8)]
    assert list(a) == [(0, 8)] and list(b) == [(4, 12)]
    # Of one map twice.
    assert a.union(a).equals(a) and a.intersection(a).equals(a) and a.difference(a).count() == 0
    assert a.union(b).equals(b.union(a)) and a.equals(a) and not a.equals(b)
    assert not Bitmap(1000, granule=4).equals(Bitmap(1000, granule=8)) and not Bitmap(8).equals(Bitmap(9))
    assert a.can_merge(coarse) and not a.can_merge(Bitmap(999))
    for made in (a.difference, a.intersection):
        with pytest.raises(Error) as refused:
            made(coarse)
        assert refused.value.kind == "mismatch"


def test_a_bitmap_may_be_a_block() -> None:
    with Bitmap(100, granule=1) as map:
        map.set(0, 1)
        assert map.run() == (True, 1) and map.run(1) == (False, 99) and map.run(5, 5) is None
    with pytest.raises(OSError), map:
        raise OSError
    assert map.count() == 1


def test_what_changed_can_be_looked_at() -> None:
    map = Bitmap(1 << 20, granule=1)
    assert map.changes() is None and not map.has_changes()
    map.attach_changes(10)
    map.set(5000, 9000)
    changes = map.changes()
    assert changes is not None and list(changes) == [(4096, 9216)] and map.has_changes()
    map.clear_changes(0, 6000)
    taken = map.take_changes()
    assert taken is not None and list(taken) == [(5120, 9216)] and not map.has_changes()
    map.detach_changes()
    assert map.changes() is None


def test_saving_loading_and_lengths() -> None:
    map, other = Bitmap(1000, granule=1), Bitmap(1000, granule=1)
    map.set(3, 8)
    data = map.serialize()
    assert map.serialization_align == 64
    assert len(data) == 128 and data[0] == 0xF8
    assert other.load(data) == 5 and list(other) == [(3, 8)]
    assert other.load(map.serialize(0, 64), 64, 128) == 5
    with pytest.raises(Error) as refused:
        other.load(b"1234567", 0, 64)
    assert refused.value.kind == "chunk-size"
    map.attach_changes(3)
    map.set(500, 501)
    changes = map.take_changes()
    assert changes is not None and changes.granule == 8 and list(changes) == [(496, 504)]
    assert other.take_changes() is None
    map.truncate(400)
    assert len(map) == 400 and map.count() == 5


def test_wrong_arguments() -> None:
    for length, granule in ((100, 3), (1 << 63, 65536)):
        with pytest.raises(Error) as refused:
            Bitmap(length, granule=granule)
        assert refused.value.kind == "geometry"
    with pytest.raises(OverflowError):
        Bitmap(100, granule=1).set(-1, 5)
    with pytest.raises(TypeError):
        Bitmap(100).merge(5)  # type: ignore[arg-type]
    assert repr(Bitmap(100, granule=4)) == "<Bitmap of 100 items in granules of 4>"
    assert issubclass(Bitmap, dirtymap.Map) and "memory" in (Bitmap.__doc__ or "")
