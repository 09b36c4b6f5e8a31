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


def back_up(place: Path) -> int:
    arguments: list[str | Path] = [PYTHON, EXAMPLE, uri(place), place / "disk.map", place / "copy"]
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


def test_the_program_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs/python.md").read_text()
    program = page.split("```python\n")[1].split("```")[0]
    with (tmp_path / "disk.raw").open("wb") as image:
        image.truncate(MIB)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "copy bytes 0 to 65536\n"
    with dirtymap.DirtyMap.open(tmp_path / "disk.map", image=tmp_path / "disk.raw") as map:
        assert map.count() == 0 and map.recovery["image_changed"] is None and map.info()["points"] == ["monday"]
