"""What calls cost: the table of docs/python.md, the best of fifty runs of timeit each, in time of the processor.

python cost.py
"""

import sys
import tempfile
from pathlib import Path
from time import process_time
from timeit import repeat

from dirtymap import Bitmap, DirtyMap

CALLS = 20_000


def row(what: str, statement: str, known: dict[str, object], per_call: int = 1) -> None:
    calls = CALLS // per_call
    best = min(repeat(statement, globals=known, number=calls, repeat=50, timer=process_time))
    print(f"{what:44} {best / calls / per_call * 1e9:6.0f}")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as place:
        with DirtyMap.create(Path(place) / "map", 1 << 30, flush_interval=0) as map:
            # Every second granule: 1024 extents within 128 MiB.
            map.set_ranges([(at, at + 65536) for at in range(0, 1 << 27, 1 << 17)])
            map.flush()
            bitmap = Bitmap.copy_of(map)
            known: dict[str, object] = {"map": map, "bitmap": bitmap}
            print(f"{'call':44} {'ns':>6}")
            row("an empty call", "f()", {"f": lambda: None})
            row("map.set(0, 4096), marked and flushed already", "map.set(0, 4096)", known)
            row("map[0]", "map[0]", known)
            row("with map.write(0, 4096)", "with map.write(0, 4096): pass", known)
            row("bitmap.set(0, 4096)", "bitmap.set(0, 4096)", known)
            row("an extent of an iterator", "for extent in map: pass", known, map.count())
            row("an extent in extents_buffer()", "map.extents_buffer()", known, map.count())


if __name__ == "__main__":
    main()
