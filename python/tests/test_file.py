"""Maps in files."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import dirtymap
from dirtymap import Bitmap, DirtyMap, Error

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.map"


def test_a_map_outlives_its_handle(path: Path) -> None:
    with DirtyMap.create(path, GIB, label="disk 1") as map:
        assert map.set(4096, 8192) == 1 and not map.closed and map.path == path
        with pytest.raises(Error) as refused:
            DirtyMap.open(path)
        assert (refused.value.kind, refused.value.cause) == ("locked", 1)
    assert map.closed and repr(map) == "<DirtyMap, closed>"
    map.close()
    for use in (map.count, map.flush, map.__len__, map.info):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(Error) as refused:
        DirtyMap.create(str(path), GIB)
    assert (refused.value.kind, refused.value.code) == ("exists", 19)
    with pytest.raises(Error) as refused:
        DirtyMap.open(path.with_name("nothing"))
    assert (refused.value.kind, refused.value.errno) == ("not-found", 2)
    with DirtyMap.open(path) as map:
        assert list(map) == [(0, 65536)] and map.info()["label"] == "disk 1"
        assert not map.recovery["unclean"] and map.stats()["arms"] == 0


def test_a_process_that_is_killed_loses_nothing(path: Path) -> None:
    program = (
        "import os, signal, sys; from dirtymap import DirtyMap\n"
        "map = DirtyMap.create(sys.argv[1], 1 << 30); map.set(5 << 20, (5 << 20) + 1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, path])
    assert killed.returncode == -signal.SIGKILL and dirtymap.inspect(path)["state"] == "unclean"
    with DirtyMap.open(path) as map:
        assert map[5 * MIB] and map.recovery["unclean"]


def test_options(path: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    image.chmod(0o640)
    with DirtyMap.create(
        path, MIB, granule=4096, dirty=True, image=image, like=image, flush_interval=0, armed_bound=GIB, intent_bound=0
    ) as map:
        assert map.granule == 4096 and map.all() and map.info()["has_image"]
        map.close(image=image)
    assert path.stat().st_mode & 0o777 == 0o640
    with DirtyMap.open(path, image=image) as map:
        assert map.recovery["image_changed"] is None
        map.reset_all()
        map.close(image=image)
    image.write_bytes(b"untracked" + bytes(MIB - 9))
    with image.open("rb") as opened, DirtyMap.open(path, image=opened) as map:
        assert map.all() and map.recovery["image_changed"]
        assert map.compare("target", opened.fileno()) == "not-recorded"
    for wrong in ({"access": "alone"}, {"flush_interval": -1.0}, {"wait": float("nan")}):
        with pytest.raises(ValueError):
            DirtyMap.open(path, **wrong)
    with pytest.raises(TypeError):
        DirtyMap.open(path, image=object())  # type: ignore[arg-type]


def test_others_see_what_is_shared(path: Path) -> None:
    with DirtyMap.create(path, GIB, access="shared") as map:
        reader = DirtyMap.open(path, access="read-only")
        map.set(0, 1)
        assert reader[0]
        with pytest.raises(Error) as refused:
            reader.set(0, 1)
        assert refused.value.kind == "read-only"
    # Those who had it are gone: also what the library answers without an error says so.
    for use in (reader.count, lambda: reader.dirty_len, reader.sha256, lambda: list(reader)):
        with pytest.raises(Error) as refused:
            use()
        assert refused.value.kind == "unusable"
    reader.close()


def test_a_freeze_waits_for_writes_and_lets_python_go_on(path: Path) -> None:
    with DirtyMap.create(path, GIB) as map:
        frozen = []
        freezer = threading.Thread(target=lambda: frozen.append(map.freeze()))
        with map.write(0, 4096) as write:
            freezer.start()
            # The freeze waits for this block. If it kept the interpreter's lock, this would not go on.
            while map.checkpoint() is None:
                pass
            with pytest.raises(ValueError):
                write.__enter__()
        freezer.join()
        with frozen[0] as checkpoint:
            assert list(checkpoint.frozen()) == [(0, 65536)]
            checkpoint.commit()
        assert map.count() == 0
        with map.writes([(0, 1), (GIB - 1, GIB)]):
            assert map.count() == 2
            with pytest.raises(Error) as refused:
                map.close()
            assert refused.value.kind == "in-use" and not map.closed
            with pytest.raises(Error) as refused:
                map.truncate(MIB)
            assert refused.value.kind == "in-use"


def test_a_write_that_raises_has_ended(path: Path) -> None:
    with DirtyMap.create(path, GIB, freeze_timeout=0) as map:
        with pytest.raises(OSError), map.write(0, 1):
            raise OSError
        map.freeze().abort()
        with map.write(0, 1), pytest.raises(Error) as refused:
            map.freeze()
        assert refused.value.kind == "busy"


def test_a_checkpoint_that_is_not_committed_is_aborted(path: Path) -> None:
    with DirtyMap.create(path, GIB) as map:
        map.set(0, 1)
        with pytest.raises(OSError), map.freeze("monday"):
            raise OSError("the copy failed")
        assert map.count() == 1 and map.checkpoint() is None
        with map.freeze("monday") as checkpoint:
            assert checkpoint.name == "monday" and len(checkpoint.uuid) == 36 and not map.get_since_freeze(0)
            left = map.checkpoint()
            assert left is not None and left.uuid == checkpoint.uuid
            map.set(MIB, MIB + 1)
            checkpoint.commit(keep=True)
        assert list(map) == [(MIB, MIB + 65536)]
        with map.freeze("tuesday") as checkpoint:
            checkpoint.commit(keep=True)
        map.set(2 * MIB, 2 * MIB + 1)
        assert [point["name"] for point in map.points()] == ["monday", "tuesday"]
        assert [point["since_granules"] for point in map.points(counted=True)] == [2, 1]
        assert map.since("monday").count() == 2 and list(map.between("monday", "tuesday")) == [(MIB, MIB + 65536)]
        with pytest.raises(Error) as refused:
            map.since("monday").set(0, 1)
        assert refused.value.kind == "read-only"
        map.drop_point("monday")
        with pytest.raises(Error) as refused:
            map.since("monday")
        assert refused.value.kind == "no-point"
        assert map.dirty_set().count() == 1


def test_a_snapshot(path: Path) -> None:
    told: list[str] = []

    def settle(uuid: str) -> None:
        told.append(uuid)
        map.set(MIB, MIB + 1)  # as of data that was copied meanwhile
        if fails:
            raise KeyError("the copies are lost")

    fails = True
    with DirtyMap.create(path, GIB, access="shared") as map:
        map.set(0, 1)
        with pytest.raises(KeyError, match="lost"):
            map.freeze_snapshot(settle)
        assert map.checkpoint() is None and map.count() == 2
        map.reset(MIB, MIB + 65536)
        fails = False
        with map.freeze_snapshot(settle, "monday") as checkpoint:
            assert checkpoint.snapshot and checkpoint.name == "monday" and checkpoint.uuid == told[1]
            assert list(checkpoint.frozen()) == [(0, 65536)] and map.any_since_freeze()
            with pytest.raises(Error) as refused:
                DirtyMap.open(path, access="shared")
            assert refused.value.kind == "checkpoint-outstanding"
            with DirtyMap.open(path, access="shared", beside_snapshot=True) as other:
                left = other.checkpoint()
                assert left is not None and left.snapshot
            checkpoint.commit()
        assert list(map) == [(MIB, MIB + 65536)] and map.info()["committed"] == told[1]
        with map.freeze() as checkpoint:
            assert not checkpoint.snapshot and not map.any_since_freeze()


def test_points_are_exported(path: Path, tmp_path: Path) -> None:
    with DirtyMap.create(path, GIB, dirty=True, added_dirt=32) as map:
        assert any("imported" in reason for reason in map.info()["reasons"])
        for name in ("monday", "tuesday"):
            map.can_freeze(name)
            with map.freeze(name) as checkpoint:
                checkpoint.commit(keep=True)
            map.set(MIB, MIB + 1)
        with pytest.raises(Error) as refused:
            map.can_freeze("monday")
        assert refused.value.kind == "refused"
        map.export_since("tuesday", tmp_path / "since")
        map.export_between("monday", "tuesday", tmp_path / "between")
        with DirtyMap.open(tmp_path / "since") as since, map.dirty_set().union(since) as both:
            assert since.equals(map) and both.equals(map.since("tuesday")) and since.can_merge(map)
            assert not map.dirty_set().can_merge(map) and map.dirty_set().difference(map).count() == 0
        map.record_miss(5)
        assert map.all() and map.info()["audit_missed"] == 1


def test_a_backup_is_known_again(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(bytes(MIB))
    with DirtyMap.create(path, MIB) as map:
        map.claim_backup()
        map.bind_image(target)
        map.set(0, 1)
        with map.freeze() as checkpoint:
            map.begin_backup(target)
            assert map.compare("begun", target) in ("same", "unproven")
            checkpoint.commit(target=target, audited=3)
        assert map.compare("target", target) == "same" and map.info()["audited"] == 3
        map.complete_backup(target)


def test_progress_is_told_and_may_stop(path: Path) -> None:
    told = []

    def progress(step: str, done: int, total: int) -> bool:
        told.append((step, done, total))
        if raises:
            raise KeyError(step)
        return step == "waiting for writes"

    raises = False
    with DirtyMap.create(path, GIB, progress=progress) as map:
        with map.write(0, 1):
            with pytest.raises(Error) as refused:
                map.freeze()
            assert refused.value.kind == "interrupted" and told
            raises = True
            with pytest.raises(KeyError):
                map.freeze()
        raises = False


def test_what_progress_raises_comes_out_of_close(path: Path) -> None:
    def progress(step: str, done: int, total: int) -> None:
        if raises:
            raise KeyError(step)

    raises = False
    # As many items as take more than one step to flush.
    map = DirtyMap.create(path, 9 << 26, granule=1, dirty=True, flush_interval=0, progress=progress)
    map.reset_all()
    raises = True
    with pytest.raises(KeyError, match="flushing"):
        map.close()
    assert not map.closed
    with pytest.raises(KeyError, match="flushing"), map:
        pass
    # The block's own exception counts more.
    with pytest.raises(OSError), map:
        raise OSError
    raises = False
    map.close()
    assert map.closed


def test_what_progress_raises_comes_out_of_the_call_of_its_thread(path: Path) -> None:
    both = threading.Barrier(2)
    told: set[str] = set()
    raised: dict[str, BaseException] = {}

    def progress(step: str, done: int, total: int) -> None:
        name = threading.current_thread().name
        if raises and name not in told:
            told.add(name)
            both.wait(60)
            raise KeyError(name)

    def call(what: Callable[[], object]) -> None:
        try:
            what()
        except BaseException as error:
            raised[threading.current_thread().name] = error

    raises = False
    with DirtyMap.create(path, 3 << 25, granule=1, dirty=True, flush_interval=0, progress=progress) as map:
        calls = {"freezes": map.freeze, "resets": map.reset_all}
        for _ in range(6):
            told.clear()
            raised.clear()
            with map.write(0, 1):
                raises = True
                threads = [threading.Thread(target=call, args=(what,), name=name) for name, what in calls.items()]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
            raises = False
            map.set_all()
            assert {name: repr(error) for name, error in raised.items()} == {name: f"KeyError('{name}')" for name in calls}


def test_what_progress_raises_comes_out_of_commit(path: Path) -> None:
    def progress(step: str, done: int, total: int) -> None:
        if raises:
            raise KeyError(step)

    raises = False
    with DirtyMap.create(path, 3 << 25, granule=1, dirty=True, flush_interval=0, progress=progress) as map:
        map.freeze("monday").commit(keep=True)
        map.set_all()
        map.freeze().commit()
        map.set_all()
        checkpoint = map.freeze()
        raises = True
        # What both have frozen becomes one point.
        with pytest.raises(KeyError, match="writing a point"):
            checkpoint.commit()
        raises = False
        checkpoint.commit()
        assert map.count() == 0


def test_files_and_memory_combine(path: Path) -> None:
    with DirtyMap.create(path, GIB) as map:
        memory = Bitmap(GIB)
        memory.set(0, 200_000)
        assert map.merge(memory) == 4 and map.subtract(memory) == 4 and map.load(memory.serialize()) == 4
        assert Bitmap.copy_of(map).sha256() == memory.sha256() == map.sha256()
        map.truncate(65536)
        assert len(map) == 65536 and map[:] == [(0, 65536)]


def test_threads_merge_in_any_order() -> None:
    a, b = Bitmap(1 << 22, granule=1), Bitmap(1 << 22, granule=1)
    a.set_ranges([(i, i + 1) for i in range(0, 1 << 22, 512)])
    b.set_ranges([(i, i + 2) for i in range(1, 1 << 22, 512)])

    def merge(x: Bitmap, y: Bitmap) -> None:
        for _ in range(300):
            x.merge(y)
            x.equals(y)

    # Each takes a lock of both. If they took them in their own order, one would soon wait for the other, and it for the one.
    threads = [threading.Thread(target=merge, args=pair, daemon=True) for pair in ((a, b), (b, a)) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert a.count() == b.count() == 3 << 13


def test_a_forked_child_cannot_use_it(path: Path) -> None:
    with DirtyMap.create(path, GIB, flush_interval=0) as map:
        map.set(0, 1)
        child = os.fork()
        if child == 0:
            kinds = set()
            for use in (map.count, lambda: map[0], lambda: map.set(0, 1), lambda: list(map)):
                try:
                    use()
                except Error as error:
                    kinds.add(error.kind)
            os._exit(0 if kinds == {"unusable"} else 1)
        assert os.waitpid(child, 0)[1] == 0 and map[0]


def test_check_repair_and_undo(path: Path, tmp_path: Path) -> None:
    DirtyMap.create(path, GIB).close()
    report = dirtymap.check(path)
    assert report["findings"] == [] and report["severity"] is None and report["info"]["state"] == "clean"
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"x")
    report = dirtymap.check(path, after_power_loss=True)
    assert report["severity"] == "damage" and "header copy 0" in report["findings"][0]["place"]
    pages: list[tuple[int, int]] = []
    assert dirtymap.plan_repair(path, progress=lambda done, total: pages.append((done, total)))["actions"]
    assert pages and pages[-1][1] > 0

    def told(done: int, total: int) -> None:
        raise KeyError(total)

    with pytest.raises(KeyError):
        dirtymap.check(path, progress=told)
    undo = tmp_path / "undo"
    assert dirtymap.repair(path, undo=undo)["actions"] and dirtymap.check(path)["severity"] is None
    assert dirtymap.undo_repair(path, undo) > 0 and dirtymap.check(path)["severity"] == "damage"
    dirtymap.repair(path)
