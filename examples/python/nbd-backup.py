#!/usr/bin/python3
"""An incremental backup of a disk that `dirtymap serve` serves, by NBD, while clients go on writing.

    dirtymap serve disk.raw --map disk.map --create --socket disk.sock &
    ./nbd-backup.py 'nbd+unix:///?socket=disk.sock' disk.map backup.raw

Needs python3-libnbd and this repository's python package.
"""

import os
import sys
from collections.abc import Iterable

import nbd
from dirtymap import DirtyMap

CHUNK = 4 << 20


def copy(disk: nbd.NBD, target: int, extents: Iterable[tuple[int, int]]) -> int:
    copied = 0
    for start, stop in extents:
        copied += stop - start
        while start < stop:
            # A write that goes on here meanwhile is dirty for the next backup.
            start += os.pwrite(target, disk.pread(min(CHUNK, stop - start), start), start)
    return copied


def main() -> None:
    uri, map_path, target_path = sys.argv[1:]
    disk = nbd.NBD()
    disk.connect_uri(uri)
    target = os.open(target_path, os.O_RDWR | os.O_CREAT, 0o600)
    with DirtyMap.open(map_path, access="shared", wait=10) as map:
        map.claim_backup()
        # One backup at a time: so an outstanding checkpoint is of one that died.
        if left := map.checkpoint():
            left.abort()
        # Is this what the last backup wrote? If not, or if nothing proves it (a reboot), all of it is copied.
        if map.compare("target", target) != "same":
            map.set_all()
        with map.freeze() as checkpoint:  # aborted if anything fails
            disk.flush()
            map.begin_backup(target)
            os.ftruncate(target, len(map))
            copied = copy(disk, target, checkpoint.frozen())
            os.fsync(target)
            checkpoint.commit(target=target)
        print(f"copied {copied} of {len(map)} bytes")
    disk.shutdown()


if __name__ == "__main__":
    main()
