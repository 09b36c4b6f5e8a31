"""Threads, signals, forks, the garbage collector: what a call meets while it works or waits."""

import _thread
import fcntl
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dirtymap import Bitmap, DirtyMap, Error

GIB = 1 << 30
MIB = 1 << 20
# So many items, each with a bit, take more than one step to flush.
MANY = 9 << 26


@pytest.fixture(autouse=True)
def ctrl_c() -> None:
    """Ctrl-C interrupts, also where the tests run in the background, and it was ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.map"


def run(program: str, *args: Path | str) -> None:
    """Runs a program that has to succeed and to say nothing. A minute is for one that hangs."""
    done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done


def test_ctrl_c_ends_the_wait_of_a_freeze(path: Path) -> None:
    with DirtyMap.create(path, GIB) as map:

        def interrupt() -> None:
            while map.checkpoint() is None:
                pass
            _thread.interrupt_main()

        with map.write(0, 1):
            threading.Thread(target=interrupt).start()
            with pytest.raises(KeyboardInterrupt):
                map.freeze()
        # Nothing is frozen.
        assert map.checkpoint() is None and map.count() == 1


def test_ctrl_c_ends_the_wait_of_an_open(path: Path) -> None:
    def interrupt() -> None:
        time.sleep(0.3)
        _thread.interrupt_main()

    with DirtyMap.create(path, GIB):
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            threading.Thread(target=interrupt).start()
            DirtyMap.open(path, wait=60)
        assert time.monotonic() - begun < 30


def test_an_open_waits_as_long_as_it_is_told(path: Path) -> None:
    holder = DirtyMap.create(path, GIB)
    begun = time.monotonic()
    with pytest.raises(Error) as refused:
        DirtyMap.open(path, wait=0.7)
    assert refused.value.kind == "locked" and time.monotonic() - begun >= 0.7
    threading.Timer(0.5, holder.close).start()
    DirtyMap.open(path, wait=60).close()


def test_a_handler_of_a_signal_may_use_the_map_that_waits(path: Path) -> None:
    program = """
import os, signal, sys, threading
from dirtymap import DirtyMap, Error
map = DirtyMap.create(sys.argv[1], 1 << 30, freeze_timeout=1000)
def handler(*_):
    map.set(1 << 20, (1 << 20) + 1)
    write.__exit__()
signal.signal(signal.SIGUSR1, handler)
def send():
    while map.checkpoint() is None:
        pass
    os.kill(os.getpid(), signal.SIGUSR1)
write = map.write(0, 1)
write.__enter__()
threading.Thread(target=send).start()
with map.freeze() as checkpoint:
    assert checkpoint.frozen().count() == 1
    checkpoint.commit()
assert list(map) == [(1 << 20, (1 << 20) + 65536)]
map.close()
"""
    run(program, path)


def test_a_progress_function_that_uses_a_map_is_told_so(path: Path) -> None:
    def progress(step: str, done: int, total: int) -> None:
        if uses:
            with pytest.raises(RuntimeError, match="locks are held"):
                map.closed
            uses[-1]()

    # They would wait for the call that asks, and that for them.
    other = Bitmap(MANY, granule=1)
    uses = []
    map = DirtyMap.create(path, MANY, granule=1, dirty=True, flush_interval=0, progress=progress)
    for use in (map.flush, lambda: map.set(0, 1), lambda: map.closed, lambda: other.set(0, 1), lambda: other.count()):
        map.set_all()
        uses.append(use)
        with pytest.raises(RuntimeError, match="locks are held"):
            map.reset_all()
        uses.clear()
    map.close()


def test_what_is_raised_is_the_cause_of_what_is_worse(path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def settle(uuid: str) -> None:
        # Nothing can be written from here on: also not that what was frozen is put back.
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        raise KeyError("the copies are lost")

    map = DirtyMap.create(path, GIB, flush_interval=0)
    map.set(0, 1)
    with pytest.raises(Error) as refused:
        map.freeze_snapshot(settle)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.kind == "io" and repr(refused.value.__cause__) == "KeyError('the copies are lost')"
    del map
    with DirtyMap.open(path) as map:
        assert map[0]


def test_only_calls_are_told_of_progress(path: Path) -> None:
    # Whoever drops a map waits for its thread, with the interpreter's lock: that must not wait for Python.
    told: set[tuple[str, int]] = set()
    map = DirtyMap.create(
        path,
        MANY,
        granule=1,
        dirty=True,
        flush_interval=1,
        progress=lambda step, *_: told.add((step, threading.get_ident())),
    )
    map.reset_all()
    # The thread flushes what was reset.
    before = map.stats()["flushes"]
    while map.stats()["flushes"] == before:
        time.sleep(0.01)
    assert told and {thread for _, thread in told} == {threading.get_ident()}


def test_nothing_waits_for_a_close_of_another_thread(path: Path) -> None:
    def progress(step: str, done: int, total: int) -> None:
        if closer.is_alive():
            closing.set()
            goes_on.wait(60)

    closing, goes_on = threading.Event(), threading.Event()
    closer = threading.Thread(target=lambda: map.close(), daemon=True)
    map = DirtyMap.create(path, MANY, granule=1, dirty=True, flush_interval=0, progress=progress)
    map.reset_all()
    closer.start()
    assert closing.wait(60)
    # Not with the lock of Python, which the other thread wants back; and not with one that stays locked in a child.
    child = os.fork()
    if child == 0:
        try:
            map.count()
        except Error:
            os._exit(0)
        finally:
            os._exit(1)
    for use in (map.count, map.close, lambda: map.truncate(5)):
        with pytest.raises(Error) as refused:
            use()
        assert refused.value.kind == "in-use" and not map.closed
    goes_on.set()
    assert os.waitpid(child, 0)[1] == 0
    closer.join(60)
    assert map.closed


def test_a_map_is_collected_with_who_is_told_of_its_progress(path: Path) -> None:
    class Tracker:
        def __init__(self) -> None:
            self.map = DirtyMap.create(path, GIB, progress=self.progress)
            self.write, self.extents = self.map.write(0, 1), iter(self.map)
            self.checkpoint = self.map.freeze()

        def progress(self, step: str, done: int, total: int) -> None:
            pass

    for _ in range(3):
        Tracker()
        gc.collect()
        # Else it were locked for as long as the process lives.
        with DirtyMap.open(path) as map:
            assert map.recovery["unclean"]
            left = map.checkpoint()
            assert left is not None
            left.abort()
        path.unlink()


def test_a_forked_child_ends_as_usual(path: Path) -> None:
    program = """
import os, sys
from dirtymap import DirtyMap
map = DirtyMap.create(sys.argv[1], 1 << 30, flush_interval=0.01, progress=lambda *_: None)
write = map.write(0, 1)
write.__enter__()
for _ in range(20):
    map.set(5, 6)
    child = os.fork()
    if child == 0:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
write.__exit__()
map.close()
"""
    run(program, path)


def test_a_program_may_end_with_open_maps(path: Path) -> None:
    program = """
import sys
from dirtymap import DirtyMap
map = DirtyMap.create(sys.argv[1], 9 << 26, granule=1, dirty=True, flush_interval=0.01, progress=lambda *_: None)
map.reset_all()
keeps = [map.write(0, 1).__enter__(), map.extents(), map]
keeps.append(keeps)
"""
    run(program, path)
    with DirtyMap.open(path) as map:
        assert map.recovery["unclean"] and map[0]


def test_a_lack_of_memory_is_an_exception() -> None:
    program = """
import resource
from dirtymap import Bitmap
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
map = Bitmap(1 << 36, granule=1)
for call in (map.serialize, lambda: Bitmap.copy_of(map), lambda: map.union(map)):
    try:
        call()
    except MemoryError:
        continue
    except Exception as error:
        assert error.kind == "out-of-memory", error
"""
    run(program)


def test_times_that_never_come(path: Path) -> None:
    program = """
import sys
from dirtymap import DirtyMap
for interval in (1e19, 1e15):
    with DirtyMap.create(sys.argv[1] + str(interval), 1 << 30, flush_interval=interval, lock_timeout=1e19) as map:
        map.set(0, 1)
        map.freeze().abort()
"""
    run(program, path)


def test_files_that_are_given_open_stay_as_they_are(path: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    probe = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with image.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        with DirtyMap.create(path, MIB, image=file, like=file.fileno()) as map:
            assert map.compare("image", file) in ("same", "unproven")
            map.close(image=file)
        # Had the file been opened anew and closed, the locks of this process were gone.
        assert subprocess.run([sys.executable, "-c", probe, image], stderr=subprocess.DEVNULL).returncode != 0
    with pytest.raises(Error) as refused:
        DirtyMap.open(path, image=os.open(image, os.O_RDONLY) + 100)
    assert (refused.value.kind, refused.value.errno) == ("io", 9)
