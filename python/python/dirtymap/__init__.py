"""Which blocks of a disk image were written since the last backup, surviving any crash.

    import os
    from dirtymap import DirtyMap

    image = os.open("disk.raw", os.O_RDWR)
    with DirtyMap.open("disk.map", access="shared") as map:
        with map.write(4096, 8192):  # first this; on an error do not write
            os.pwrite(image, data, 4096)  # not a buffered file, which writes when the block is over
        for start, stop in map:
            print(f"copy bytes {start} to {stop}")

Positions and lengths are in items: bytes, for a disk image. What reads cuts a range off at the end of the map, what changes it
refuses one that reaches past it. Errors of the library are `Error`, with a `kind` and a `code` that never change.
"""

from ._dirtymap import (
    Bitmap,
    Checkpoint,
    DirtyMap,
    DirtySet,
    Error,
    Extents,
    Map,
    Write,
    check,
    inspect,
    plan_repair,
    repair,
    undo_repair,
)

__all__ = [
    "Bitmap",
    "Checkpoint",
    "DirtyMap",
    "DirtySet",
    "Error",
    "Extents",
    "Map",
    "Write",
    "check",
    "inspect",
    "plan_repair",
    "repair",
    "undo_repair",
]
