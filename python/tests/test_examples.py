"""The examples, with the distribution's client and the command of this repository."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import dirtymap

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples/python/nbd-backup.py"
# The python that python3-libnbd is for.
PYTHON = "/usr/bin/python3"
MIB = 1 << 20


def command() -> Path:
    built = [ROOT / "target" / profile / "dirtymap" for profile in ("debug", "release")]
    found = [path for path in built if path.exists()]
    if not found:
        pytest.skip("SKIPPED: the command is not built; cargo build -p dirtymap-cli")
    return max(found, key=lambda path: path.stat().st_mtime)


def environment() -> dict[str, str]:
    assert dirtymap.__file__
    return {**os.environ, "PYTHONPATH": str(Path(dirtymap.__file__).parent.parent)}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A directory with an image that is served."""
    probe = "import nbd, dirtymap"
    if not shutil.which("qemu-io") or subprocess.run([PYTHON, "-c", probe], env=environment()).returncode != 0:
        pytest.skip("SKIPPED: no qemu-io, or no python3-libnbd for a python that knows this package")
    image = tmp_path / "disk.raw"
    image.touch()
    os.truncate(image, 64 * MIB)
    arguments: list[str | Path] = [command(), "serve", image, "--map", tmp_path / "disk.map", "--create"]
    arguments += ["--socket", tmp_path / "sock"]
    server = subprocess.Popen(arguments)
    try:
        while not (tmp_path / "sock").exists():
            assert server.poll() is None, "the server has ended"
            time.sleep(0.01)
        yield tmp_path
    finally:
        server.terminate()
        server.wait()


def uri(place: Path) -> str:
    return f"nbd+unix:///?socket={place / 'sock'}"


def write(place: Path, *commands: str) -> None:
    arguments = [argument for command in commands for argument in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "raw", *arguments, uri(place)], check=True, stdout=subprocess.DEVNULL)


def back_up(place: Path, limit: int | None = None) -> int:
    """How many bytes it copied, with files that may be so long."""
    arguments: list[str | Path] = [PYTHON, EXAMPLE, uri(place), place / "disk.map", place / "copy"]
    if limit is not None:
        arguments = ["prlimit", f"--fsize={limit}", *arguments]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True, env=environment())
    assert (place / "copy").read_bytes() == (place / "disk.raw").read_bytes()
    return int(done.stdout.split()[1])


def test_an_incremental_backup_by_nbd(served: Path) -> None:
    write(served, "write -P 1 1M 64k")
    assert back_up(served) == 64 * MIB
    write(served, "write -P 7 10M 100k", "write -z 20M 64k")
    assert back_up(served) == 3 * 65536
    assert back_up(served) == 0
    (served / "copy").unlink()
    assert back_up(served) == 64 * MIB


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60


def test_what_cannot_be_written_is_not_committed(served: Path) -> None:
    back_up(served)
    write(served, "write -P 1 63M 128k")
    # The target may be written up to the middle of that: a part of a write succeeds.
    with pytest.raises(subprocess.CalledProcessError):
        back_up(served, limit=63 * MIB + 65536)
    # What it wrote is not what the last backup wrote: the next one copies all of it.
    assert back_up(served) == 64 * MIB


def test_the_programs_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs/python.md").read_text()
    tracker, backup = (part.split("```")[0] for part in page.split("```python\n")[1:])

    def run(program: str) -> str:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True).stdout

    image, copy = tmp_path / "disk.raw", tmp_path / "backup.raw"
    image.write_bytes(os.urandom(MIB))
    assert run(tracker) == "bytes 0 to 1048576 are dirty\n"
    run(backup)
    assert copy.read_bytes() == image.read_bytes()
    assert run(tracker) == "bytes 0 to 65536 are dirty\n"
    # Written to while nothing tracked it: a backup copies it, and then the image is known again.
    image.write_bytes(os.urandom(MIB))
    for changed in (True, False):
        with dirtymap.DirtyMap.open(tmp_path / "disk.map", access="read-only", image=image) as map:
            assert (map.recovery["image_changed"] is not None) == changed
        run(backup)
        assert copy.read_bytes() == image.read_bytes()
    with dirtymap.DirtyMap.open(tmp_path / "disk.map", access="shared") as map, image.open("r+b") as disk:
        assert map.count() == 0
        with map.write(5 * 65536, 5 * 65536 + 9):
            disk.seek(5 * 65536)
            disk.write(b"written")
            disk.flush()
        run(backup)
        assert copy.read_bytes() == image.read_bytes() and map.count() == 0
        assert map.info()["has_target"] and map.compare("target", copy) == "same"
