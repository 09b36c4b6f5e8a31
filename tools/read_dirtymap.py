#!/usr/bin/env python3
"""Prints what a dirtymap file says is dirty.

    read_dirtymap.py FILE                 # lines about the file, then one line "offset length" per dirty area
    read_dirtymap.py --since NAME FILE    # written since the point NAME
    read_dirtymap.py --from A --to B FILE # written between the points A and B
    read_dirtymap.py --hash FILE          # SHA-256 of the dirty set
    read_dirtymap.py --json FILE          # one JSON value

A second, independent reading of FORMAT.md, which needs Python 3.9 and nothing else. It shares no code with the library,
so what both say of a file is what the text says. It never writes, and it keeps runs and not bits, so that the size
of a map does not matter, only what is in it.

Exit codes: 0 fine; 2 unclean: not closed, holds at most extra dirt; 4 damage; 8 cannot be read, or no dirtymap, or a newer
one; 16 wrong arguments. The highest that applies is returned.
"""

import argparse
import bisect
import errno
import fcntl
import hashlib
import heapq
import json
import os
import stat
import struct
import sys
import time
import uuid
import zlib

# FORMAT.md, "Numbers".
VERSION = 1
COPIES = 4
COPY_BYTES = 65536
HEADER_REGION = COPIES * COPY_BYTES
FIXED_BYTES = 2048
ALIGN = 65536
MAX_LIST = 47104
MAX_NUMBER = 6
MAX_POINTS = 64
MAX_LABEL = 252
MAX_POINT_NAME = 64
MAX_UNIT = 6
MAX_SEQUENCE = 1 << 62
MAX_FILE_LENGTH = 1 << 61
MAX_LEN = (1 << 63) - 1
MAX_GRANULARITY = 63
MAX_BITS = 1 << 41
LEVELS = 7
VOLATILE_LAYOUT = 1
ENTRY_BYTES = 4
GATE_LOCK, TURN_LOCK = 1 << 62, (1 << 62) + 2
SLOT_LOCKS, SLOTS = (1 << 62) + 64, 256

MAGIC = bytes.fromhex("89444d41500d0a1a")
NIL = bytes(16)
PAGE_BYTES = 512
PAGE_WORDS = 64
PAGE_BITS = 4096

CLEAN, OPEN = 1, 2
STATES = {CLEAN: "clean", OPEN: "open"}
DURABILITIES = {1: "power-loss", 2: "process"}
NORMAL, FREEZING, FROZEN, ABORTING = range(4)
CHECKPOINTS = {NORMAL: "normal", FREEZING: "freezing", FROZEN: "frozen", ABORTING: "aborting"}
OUTSTANDING, KEPT, INTENT_ONLY, SNAPSHOT = 1, 2, 4, 9
RECORDED, RECORDED_EXACT = 1, 3
REGULAR_FILE, BLOCK_DEVICE = 1, 2

# Known feature bits: none.
KNOWN_RO_COMPATIBLE = 0
KNOWN_INCOMPATIBLE = 0

EXIT_FINE, EXIT_UNCLEAN, EXIT_DAMAGE, EXIT_ERROR, EXIT_USAGE = 0, 2, 4, 8, 16

# How much is read at once, and how finely a place is searched that cannot be read.
CHUNK_PAGES = 4096
SECTOR = 512
ZEROS = bytes(PAGE_BYTES * CHUNK_PAGES)
ONES = b"\xff" * PAGE_BYTES
# Tables up to this size are read whole, also where the file system claims a hole.
TABLE_READ_WHOLE = 16 << 20
# So many runs of failed pages are listed; the rest is counted.
FAILED_LISTED = 4096


class Unreadable(Exception):
    """There is no dirty set to be had from the file. `kind` is io, locked, not-a-dirtymap, unsupported, corrupt or
    no-such-point; `copies` says what each header copy is, if it came to that."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind
        self.code = EXIT_DAMAGE if kind == "corrupt" else EXIT_ERROR
        self.copies = None


def round_up(n, to=ALIGN):
    return -(-n // to) * to


def ceil_div(n, by):
    return -(-n // by)


# ----------------------------------------------------------------------------------------------------------------
# Runs: pairs (start, end), ascending by start. Streams of them, so that nothing is held that need not be.


def union(*streams):
    """The union of sorted streams of runs: sorted, disjoint, none next to another."""
    current = None
    for start, end in heapq.merge(*streams):
        if start >= end:
            continue
        if current is None:
            current = (start, end)
        elif start <= current[1]:
            if end > current[1]:
                current = (current[0], end)
        else:
            yield current
            current = (start, end)
    if current is not None:
        yield current


def clip(runs, end):
    """Runs without what is at or behind `end`."""
    for first, last in runs:
        if first >= end:
            return
        yield first, min(last, end)


def rounded(runs, unit):
    """Runs of bits, each bit with all of its unit. They may overlap."""
    for first, end in runs:
        yield first >> unit << unit, ceil_div(end, 1 << unit) << unit


def runs_of_bits(bits, base):
    """The runs of ones in an integer, `base` added."""
    at = base
    while bits:
        zeros = (bits & -bits).bit_length() - 1
        bits >>= zeros
        at += zeros
        ones = (~bits & (bits + 1)).bit_length() - 1
        yield at, at + ones
        bits >>= ones
        at += ones


# ----------------------------------------------------------------------------------------------------------------
# The file


class Source:
    """A file to be read. Missing bytes are zeros; what cannot be read is said to be so."""

    def __init__(self, path, lock=True):
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError) as error:
            raise Unreadable("io", f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
        try:
            mode = os.fstat(self.fd).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise Unreadable("io", "is neither a regular file nor a block device")
            if lock:
                self.lock()
            self.size = os.lseek(self.fd, 0, os.SEEK_END)
        except OSError as error:
            self.close()
            raise Unreadable("io", f"cannot be read: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def close(self):
        os.close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def lock(self):
        """Makes sure that nobody has the map open while it is read: the gate, then a look at the slots.

        Turn and gate are taken shared, since an exclusive lock wants a file that is open for writing. Others
        hold them for moments, so there are a few attempts. Where the file system knows no locks, nobody holds one."""

        def lock(command, kind, first, count):
            flock = struct.pack("hhxxxxqqixxxx", kind, os.SEEK_SET, first, count, 0)
            return struct.unpack("hhxxxxqqixxxx", fcntl.fcntl(self.fd, command, flock))[0]

        def slots():
            if lock(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, SLOT_LOCKS, SLOTS) != fcntl.F_UNLCK:
                raise OSError(errno.EAGAIN, "a slot is held")

        for take in (
            lambda: lock(fcntl.F_OFD_SETLK, fcntl.F_RDLCK, TURN_LOCK, 1),
            lambda: lock(fcntl.F_OFD_SETLK, fcntl.F_RDLCK, GATE_LOCK, 1),
            lambda: lock(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, TURN_LOCK, 1),
            slots,
        ):
            for patience in reversed(range(10)):
                try:
                    take()
                    break
                except OSError as error:
                    if error.errno in (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                        break
                    if error.errno not in (errno.EAGAIN, errno.EACCES):
                        raise
                    if not patience:
                        raise Unreadable("locked", "somebody has the map open: read a copy of the file") from None
                    time.sleep(0.1)

    def _read_some(self, offset, length):
        parts = []
        while length:
            part = os.pread(self.fd, length, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def read(self, offset, length):
        """`(bytes, bad)`: `length` bytes, and the offsets in them of sectors that cannot be read (as zeros)."""
        try:
            return self._read_some(offset, length).ljust(length, b"\0"), ()
        except OSError:
            pass
        parts, bad = [], []
        for at in range(offset, offset + length, SECTOR):
            want = min(SECTOR, offset + length - at)
            try:
                parts.append(self._read_some(at, want).ljust(want, b"\0"))
            except OSError:
                parts.append(bytes(want))
                bad.append(at - offset)
        return b"".join(parts), bad

    def data(self, start, end):
        """The ranges of `start..end` that are not holes."""
        end = min(end, self.size)
        at = start
        while at < end:
            try:
                first = os.lseek(self.fd, at, os.SEEK_DATA)
                last = os.lseek(self.fd, first, os.SEEK_HOLE)
            except (OSError, AttributeError) as error:
                if getattr(error, "errno", None) == errno.ENXIO:
                    return
                first, last = at, end
            if first >= end:
                return
            last = min(max(last, first + 1), end)
            yield first, last
            at = last


# ----------------------------------------------------------------------------------------------------------------
# FORMAT.md, "What a file holds" and "Volatile region"


class Geometry:
    """What `len` and `granularity` give."""

    def __init__(self, length, granularity):
        self.len = length
        self.granularity = granularity
        self.bits = 0 if length == 0 else ((length - 1) >> granularity) + 1
        self.words = max(1, ceil_div(self.bits, 64))
        self.pages = ceil_div(self.words, PAGE_WORDS)
        levels = [self.words]
        while len(levels) < LEVELS:
            levels.insert(0, ceil_div(levels[0], 64))
        self.level_words = tuple(levels)
        self.table_bytes = ENTRY_BYTES * self.pages
        self.table_length = round_up(self.table_bytes)
        self.bottom_bytes = PAGE_BYTES * self.pages
        self.bottom_length = round_up(self.bottom_bytes)

    def volatile_length(self):
        armed = round_up(8 * self.level_words[6])
        touched = round_up(8 * self.level_words[5])
        upper = round_up(8 * sum(self.level_words[:6]))
        live = round_up(8 * self.level_words[6])
        return 65536 + armed + touched + upper + 2 * live

    def area(self, start, end):
        """`(offset, length)` in items of the bits `start..end`."""
        first = start << self.granularity
        return first, min(end << self.granularity, self.len) - first


# ----------------------------------------------------------------------------------------------------------------
# FORMAT.md, "Header copy" and "Reading a header"

FIELDS = (
    ("magic", 0, "8s"),
    ("format_version", 8, "I"),
    ("used", 12, "I"),
    ("compatible", 16, "Q"),
    ("ro_compatible", 24, "Q"),
    ("incompatible", 32, "Q"),
    ("uuid", 40, "16s"),
    ("sequence", 56, "Q"),
    ("nonce", 64, "16s"),
    ("state", 80, "I"),
    ("durability", 84, "I"),
    ("len", 88, "Q"),
    ("granularity", 96, "I"),
    ("level_count", 100, "I"),
    ("table_offset", 160, "Q"),
    ("table_length", 168, "Q"),
    ("bottom_offset", 176, "Q"),
    ("bottom_length", 184, "Q"),
    ("volatile_offset", 192, "Q"),
    ("volatile_length", 200, "Q"),
    ("file_length", 208, "Q"),
    ("volatile_layout", 216, "I"),
    ("point_count", 220, "I"),
    ("run_count", 224, "I"),
    ("checkpoint_state", 228, "I"),
    ("checkpoint_uuid", 232, "16s"),
    ("dirt_reasons", 288, "I"),
    ("session_flags", 292, "I"),
    ("clean_dirty_bits", 320, "Q"),
    ("boot_id", 328, "16s"),
    ("label_length", 400, "I"),
    ("intent", 656, "16s"),
    ("intent_unit", 672, "I"),
    ("crc", 1020, "I"),
)
LEVEL_WORDS_AT = 104
STAMPS_AT = {"image": 1024, "target": 1152, "begun": 1280}
STAMP_BYTES = 128
LABEL_AT = 404
CRC_AT = 1020
POINT_BYTES = 256
POINT_TARGET_AT = 128


class Problem(Exception):
    """Why a copy is not valid. `kind` is one of blank, not-a-dirtymap, newer-version, checksum, newer-feature,
    impossible; `newer` is the copy, as far as it is known, if it is a newer program's."""

    def __init__(self, kind, text, newer=None):
        super().__init__(text)
        self.kind = kind
        self.newer = newer


def impossible(field, text):
    return Problem("impossible", f"{field}: {text}")


class Point:
    def __init__(self, raw):
        fields = struct.unpack_from("<16sqIIQQQI", raw)
        self.uuid, self.time, self.flags, self.name_length = fields[:4]
        self.table_offset, self.bottom_offset, self.granules, self.dirt_reasons = fields[4:]
        self.raw_name = raw[64:128]
        self.name = None

    def is_outstanding(self):
        return self.flags in (OUTSTANDING, SNAPSHOT)

    def has_regions(self):
        return self.table_offset != 0 or self.bottom_offset != 0

    def is_everything(self):
        return not self.has_regions() and self.granules != 0


class Header:
    """A copy whose fields have been taken apart. Only `parse` makes valid ones."""

    def __init__(self, raw):
        self.raw = raw
        for name, offset, kind in FIELDS:
            setattr(self, name, struct.unpack_from("<" + kind, raw, offset)[0])
        self.points = []
        self.runs = []

    def list_at(self):
        return FIXED_BYTES + POINT_BYTES * self.point_count

    def used_ok(self):
        return FIXED_BYTES <= self.used <= COPY_BYTES

    def crc_ok(self):
        counted = self.raw[:CRC_AT] + bytes(4) + self.raw[CRC_AT + 4 : self.used]
        return zlib.crc32(counted) == self.crc


def check_text(field, raw, length, limit):
    """`raw` is `length` bytes of UTF-8 and zeros behind them."""
    if length > limit:
        raise impossible(field, f"{length} bytes, at most {limit}")
    if any(raw[length:]):
        raise impossible(field, "bytes after its length")
    try:
        return raw[:length].decode("utf-8")
    except UnicodeDecodeError:
        raise impossible(field, "not UTF-8") from None


def check_counts(header):
    if header.point_count > MAX_POINTS:
        raise impossible("point_count", f"{header.point_count}, at most {MAX_POINTS}")
    if header.run_count > MAX_LIST:
        raise impossible("run_count", f"{header.run_count}, at most {MAX_LIST}")
    if not 0 <= header.used - header.list_at() <= MAX_LIST:
        raise impossible("used", f"{header.used} with {header.point_count} points")


def check_points(header, geometry):
    for i in range(header.point_count):
        at = FIXED_BYTES + POINT_BYTES * i
        point = Point(header.raw[at : at + POINT_BYTES])
        field = f"points[{i}]"
        if point.uuid == NIL:
            raise impossible(field, "uuid is zeros")
        if point.flags not in (OUTSTANDING, SNAPSHOT, KEPT, INTENT_ONLY):
            raise impossible(field, f"flags {point.flags}")
        point.name = check_text(field + " name", point.raw_name, point.name_length, MAX_POINT_NAME)
        if point.flags == KEPT and not point.name:
            raise impossible(field, "kept without a name")
        if point.flags == INTENT_ONLY and point.name:
            raise impossible(field, "only the intent, with a name")
        for other in header.points:
            if other.uuid == point.uuid:
                raise impossible(field, "uuid of another point")
            if point.name and other.name == point.name:
                raise impossible(field, "name of another point")
        if point.is_outstanding() and i != header.point_count - 1:
            raise impossible(field, "outstanding, and not the last")
        if not point.is_outstanding() and header.points and header.points[-1].flags == INTENT_ONLY:
            raise impossible(field, "behind one that is only the intent, and not outstanding")
        nothing = point.flags == KEPT and point.granules == 0
        if not point.has_regions() and not nothing and point.granules != geometry.bits:
            raise impossible(field, "no regions, and neither kept with 0 granules nor everything")
        check_stamp(field + " target", header.raw[at + POINT_TARGET_AT : at + POINT_BYTES])
        header.points.append(point)


def check_checkpoint(header):
    if header.checkpoint_state not in CHECKPOINTS:
        raise impossible("checkpoint_state", str(header.checkpoint_state))
    last = header.points[-1] if header.points and header.points[-1].is_outstanding() else None
    if header.checkpoint_state == NORMAL:
        if last is not None:
            raise impossible("checkpoint_state", "normal with an outstanding point")
        if header.checkpoint_uuid != NIL:
            raise impossible("checkpoint_uuid", "not zeros when normal")
    elif last is None:
        raise impossible("checkpoint_state", "no outstanding point")
    elif last.uuid != header.checkpoint_uuid:
        raise impossible("checkpoint_uuid", "not that of the outstanding point")


def check_intent(header):
    if header.intent_unit > (0 if header.intent == NIL else MAX_UNIT):
        raise impossible("intent_unit", str(header.intent_unit))
    for i, point in enumerate(header.points):
        if point.flags == INTENT_ONLY and point.uuid != header.intent:
            raise impossible(f"points[{i}]", "only the intent, and not named by it")
    if header.intent == NIL:
        return
    if DURABILITIES[header.durability] == "process":
        raise impossible("intent", "of a Process map")
    if not any(point.uuid == header.intent and point.has_regions() for point in header.points):
        raise impossible("intent", "no point that has regions")


def check_stamp(field, raw):
    flags, kind, _size, _mtime, _ctime, mtime_nanos, ctime_nanos, inode = struct.unpack_from("<IIQqqIIQ", raw)
    if flags not in (0, RECORDED, RECORDED_EXACT):
        raise impossible(field, f"flags {flags}")
    if flags == 0:
        if any(raw):
            raise impossible(field, "not recorded and not zeros")
        return
    if kind not in (REGULAR_FILE, BLOCK_DEVICE):
        raise impossible(field, f"kind {kind}")
    for nanos in (mtime_nanos, ctime_nanos):
        if nanos > 999_999_999:
            raise impossible(field, f"{nanos} nanoseconds")
    if kind == BLOCK_DEVICE and inode != 0:
        raise impossible(field, "inode of a block device")


def check_list(header, geometry):
    """Reads the runs of the list."""
    at, free = header.list_at(), 0

    def number():
        nonlocal at
        value = 0
        for i in range(MAX_NUMBER):
            if at == header.used:
                raise impossible(field, "not ended")
            byte = header.raw[at]
            at += 1
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                if byte == 0 and i > 0:
                    raise impossible(field, "not the shortest form")
                return value
        raise impossible(field, "a number of too many bytes")

    for i in range(header.run_count):
        field = f"runs[{i}]"
        gap, more = divmod(number(), 2)
        first = free + gap
        end = first + (2 + number() if more else 1)
        if end > geometry.words:
            raise impossible(field, f"words {first} to {end} of {geometry.words}")
        header.runs.append((first, end))
        free = end + 1
    if at != header.used:
        raise impossible("used", f"{header.used}, and the list ends at {at}")


def check_regions(header, geometry):
    regions = [
        ("table", header.table_offset, header.table_length),
        ("bottom", header.bottom_offset, header.bottom_length),
        ("volatile", header.volatile_offset, header.volatile_length),
    ]
    for i, point in enumerate(header.points):
        if not point.has_regions():
            continue
        regions.append((f"table of points[{i}]", point.table_offset, geometry.table_length))
        regions.append((f"bottom of points[{i}]", point.bottom_offset, geometry.bottom_length))
    for name, offset, length in regions:
        if offset % ALIGN:
            raise impossible(name, f"starts at {offset}, no multiple of {ALIGN}")
        if offset + length > MAX_FILE_LENGTH:
            raise impossible(name, "ends behind 2^61")
    # A volatile region of another layout may be empty, and an empty one overlaps nothing.
    places = sorted((offset, offset + length, name) for name, offset, length in regions if length)
    places.insert(0, (0, HEADER_REGION, "the headers"))
    for before, after in zip(places, places[1:]):
        if before[1] > after[0]:
            raise impossible(after[2], f"overlaps {before[2]}")
    end = max(offset + length for _, offset, length in regions)
    if header.file_length != end:
        raise impossible("file_length", f"{header.file_length}, and the last region ends at {end}")


def parse(raw):
    """The header in one copy. Raises `Problem`."""
    header = Header(raw)
    if header.magic != MAGIC:  # 1
        if not any(raw[:FIXED_BYTES]):
            raise Problem("blank", "blank")
        raise Problem("not-a-dirtymap", "not a dirtymap")
    if not header.used_ok() or not header.crc_ok():  # 2, 3
        raise Problem("checksum", "checksum does not match")
    if header.format_version == 0:  # 4
        raise impossible("format_version", "0")
    if header.format_version > VERSION:  # 5
        raise Problem("newer-version", f"format version {header.format_version}", header)
    if header.incompatible & ~KNOWN_INCOMPATIBLE:  # 6
        raise Problem("newer-feature", f"incompatible features {header.incompatible:#x}", header)
    if header.uuid == NIL:  # 7
        raise impossible("uuid", "zeros")
    if not 1 <= header.sequence <= MAX_SEQUENCE:  # 8
        raise impossible("sequence", str(header.sequence))
    if header.state not in STATES:  # 9
        raise impossible("state", str(header.state))
    if (header.nonce == NIL) != (header.state == CLEAN):  # 10
        raise impossible("nonce", "does not go with the state")
    if header.durability not in DURABILITIES:  # 11
        raise impossible("durability", str(header.durability))
    if header.len > MAX_LEN:  # 12
        raise impossible("len", str(header.len))
    if header.granularity > MAX_GRANULARITY:
        raise impossible("granularity", str(header.granularity))
    geometry = header.geometry = Geometry(header.len, header.granularity)
    if geometry.bits > MAX_BITS:
        raise impossible("len", f"{geometry.bits} bits")
    if header.level_count != LEVELS:  # 13
        raise impossible("level_count", str(header.level_count))
    if struct.unpack_from("<7Q", raw, LEVEL_WORDS_AT) != geometry.level_words:
        raise impossible("level_words", "not what len and granularity give")
    if header.clean_dirty_bits > geometry.bits:  # 14
        raise impossible("clean_dirty_bits", str(header.clean_dirty_bits))
    if header.table_length != geometry.table_length:  # 15
        raise impossible("table_length", str(header.table_length))
    if header.bottom_length != geometry.bottom_length:
        raise impossible("bottom_length", str(header.bottom_length))
    if header.volatile_layout == VOLATILE_LAYOUT:
        if header.volatile_length != geometry.volatile_length():
            raise impossible("volatile_length", str(header.volatile_length))
    elif header.volatile_length % ALIGN:
        raise impossible("volatile_length", str(header.volatile_length))
    check_counts(header)  # 16
    check_points(header, geometry)  # 17
    check_checkpoint(header)  # 18
    check_intent(header)  # 19
    for field, at in STAMPS_AT.items():  # 20
        check_stamp(field, raw[at : at + STAMP_BYTES])
    header.label = check_text("label", raw[LABEL_AT : LABEL_AT + MAX_LABEL], header.label_length, MAX_LABEL)  # 21
    check_list(header, geometry)  # 22
    check_regions(header, geometry)  # 23, 24
    return header


# ----------------------------------------------------------------------------------------------------------------
# FORMAT.md, "Which copy is the header"


def read_copies(source):
    """`(headers, problems)`, of each copy one of the two and None. A certainly newer copy has both."""
    headers, problems = [None] * COPIES, [None] * COPIES
    for i in range(COPIES):
        raw, bad = source.read(COPY_BYTES * i, COPY_BYTES)
        try:
            headers[i] = parse(raw)
        except Problem as problem:
            if bad:
                problem.args = (f"{problem}; {len(bad)} sectors cannot be read",)
            problems[i] = problem
            headers[i] = problem.newer
    return headers, problems


def without_list(header):
    """The bytes that count, except those that a different list changes: used, run_count, crc and the list."""
    raw = header.raw
    return raw[:12] + raw[16:224] + raw[228:CRC_AT] + raw[CRC_AT + 4 : header.list_at()]


def this_boot():
    """The boot of this machine, as a header names it; `NIL` where the system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return uuid.UUID(file.read().strip()).bytes
    except (OSError, ValueError):
        return NIL


def lost_commit(header, place, problems):
    """Whether a commit that was durable is lost: rule 6 of the dirty set."""
    other = [problems[i] for i in range(COPIES) if i % 2 != place % 2]
    spoilt = header.state == OPEN and all(problem is not None for problem in other)
    return spoilt and header.boot_id != NIL and header.boot_id == this_boot()


def no_header(problems):
    """What a file is that has no header: the most telling of its problems."""
    kinds = [problem.kind for problem in problems]
    texts = ", ".join(f"copy {i}: {problem}" for i, problem in enumerate(problems))
    for telling, kind in (
        ("impossible", "corrupt"),
        ("checksum", "corrupt"),
    ):
        if telling in kinds:
            return Unreadable(kind, f"no header ({texts})")
    return Unreadable("not-a-dirtymap", f"no header ({texts})")


def choose(headers, problems):
    """`(header, place, rivals)`: the header with the list that counts, its copy, and whether others contradict it."""
    places = [i for i in range(COPIES) if headers[i] is not None]
    if not places:  # 1
        raise no_header(problems)
    votes = {}
    for i in places:
        votes.setdefault(headers[i].uuid, []).append(i)
    most = max(len(voters) for voters in votes.values())
    winners = [voters for voters in votes.values() if len(voters) == most]
    if len(winners) > 1:  # 2
        raise Unreadable("corrupt", "header copies of two maps, equally many")
    places = winners[0]
    sequence = max(headers[i].sequence for i in places)  # 3
    places = [i for i in places if headers[i].sequence == sequence]
    for i in places:
        if problems[i] is not None:
            raise Unreadable("unsupported", f"made by a newer program: {problems[i]}")
    header = headers[places[0]]
    same = [headers[i] for i in places]
    rivals = any(other.raw[: other.used] != header.raw[: header.used] for other in same)  # 4
    if rivals:
        if all(without_list(other) == without_list(header) for other in same):
            header.runs = list(union(*(other.runs for other in same)))
        else:
            header.runs = [(0, header.geometry.words)]
    return header, places[0], rivals


# ----------------------------------------------------------------------------------------------------------------
# FORMAT.md, "Page table"


class Part:
    """A page table and a bottom: the map's, or a point's."""

    def __init__(self, source, geometry, identity, table_offset, bottom_offset):
        self.source = source
        self.geometry = geometry
        self.uuid = identity
        self.table_offset = table_offset
        self.bottom_offset = bottom_offset
        self.end_of_table = table_offset + geometry.table_bytes

    def cut_off(self):
        return self.source.size < self.end_of_table

    def _with_entries(self):
        """Ranges of pages that have an entry that is not 0, or that cannot be read."""
        step = ENTRY_BYTES * 16384
        if self.geometry.table_bytes <= TABLE_READ_WHOLE:
            extents = [(self.table_offset, self.end_of_table)]
        else:
            extents = self.source.data(self.table_offset, self.end_of_table)
        for start, end in extents:
            start -= start % ENTRY_BYTES
            end = self.table_offset + round_up(end - self.table_offset, ENTRY_BYTES)
            for at in range(start, end, step):
                length = min(step, end - at)
                raw, bad = self.source.read(at, length)
                first = (at - self.table_offset) // ENTRY_BYTES
                for place in bad:
                    raw = raw[:place] + b"\1" * (min(place + SECTOR, length) - place) + raw[place + SECTOR :]
                if raw == ZEROS[:length]:
                    continue
                for i, (entry,) in enumerate(struct.iter_unpack("<I", raw)):
                    if entry:
                        yield first + i, first + i + 1

    def _with_data(self):
        """Ranges of pages whose bytes are not in a hole."""
        for start, end in self.source.data(self.bottom_offset, self.bottom_offset + self.geometry.bottom_bytes):
            yield (start - self.bottom_offset) // PAGE_BYTES, ceil_div(end - self.bottom_offset, PAGE_BYTES)

    def pages(self):
        """`(page, bits, reason)` of every page that failed (`reason` says why, `bits` is None) or is not zeros."""
        for start, end in union(self._with_entries(), self._with_data()):
            for first in range(start, end, CHUNK_PAGES):
                yield from self._check(first, min(CHUNK_PAGES, end - first))

    def _check(self, first, count):
        entries, bad_entries = self.source.read(self.table_offset + ENTRY_BYTES * first, ENTRY_BYTES * count)
        bottom, bad_bottom = self.source.read(self.bottom_offset + PAGE_BYTES * first, PAGE_BYTES * count)
        if not bad_entries and not bad_bottom and entries == ZEROS[: len(entries)] and bottom == ZEROS[: len(bottom)]:
            return
        # Sectors of the bottom are pages, if its reads start at one; entries may lie in a part of one.
        lost = {at // PAGE_BYTES for at in bad_bottom}
        for at in bad_entries:
            lost.update(range(at // ENTRY_BYTES, min(ceil_div(at + SECTOR, ENTRY_BYTES), count)))
        zero = ZEROS[:PAGE_BYTES]
        for i, (entry,) in enumerate(struct.iter_unpack("<I", entries)):
            page = bottom[PAGE_BYTES * i : PAGE_BYTES * (i + 1)]
            if i in lost:
                yield first + i, None, "unreadable"
                continue
            if page == zero:
                if entry != 0:
                    yield first + i, None, "mismatch"
                continue
            crc = zlib.crc32(self.uuid + (first + i).to_bytes(8, "little") + page) or 1
            if entry != crc:
                yield first + i, None, "mismatch"
                continue
            bits = int.from_bytes(page, "little")
            if PAGE_BITS * (first + i) + bits.bit_length() > self.geometry.bits:
                yield first + i, None, "stray"
                continue
            yield first + i, bits, None

    def runs(self):
        """Runs of dirty bits by rule 1."""
        for page, bits, _ in self.pages():
            base = PAGE_BITS * page
            if bits is None or bits == ALL_BITS:
                yield base, base + PAGE_BITS
            else:
                yield from runs_of_bits(bits, base)


ALL_BITS = (1 << PAGE_BITS) - 1


class Survey:
    """What the pages of a part are. A crash explains those that fail and have words in `named`."""

    def __init__(self, part, named=()):
        self.failed = 0
        self.damaged = 0
        self.bits = 0
        self.good_runs = []
        self.failed_runs = []
        ends = [end for _, end in named]
        for page, bits, reason in part.pages():
            if bits is not None:
                self.bits += bin(bits).count("1")
                if self.good_runs and self.good_runs[-1][1] == page:
                    self.good_runs[-1][1] += 1
                else:
                    self.good_runs.append([page, page + 1])
                continue
            self.failed += 1
            # Interrupted, or damaged?
            at = bisect.bisect_right(ends, PAGE_WORDS * page)
            if reason == "stray" or at == len(ends) or named[at][0] >= PAGE_WORDS * (page + 1):
                self.damaged += 1
            last = self.failed_runs[-1] if self.failed_runs else None
            if last and last[0] + last[1] == page and last[2] == reason:
                last[1] += 1
            elif len(self.failed_runs) < FAILED_LISTED:
                self.failed_runs.append([page, 1, reason])


# ----------------------------------------------------------------------------------------------------------------
# FORMAT.md, "The dirty set of a file"


class Map:
    """What a file says. `runs()` gives the dirty bits, `areas()` the dirty items; both read the file anew."""

    def __init__(self, source, since=None, between=None):
        self.source = source
        headers, problems = read_copies(source)
        self.copies = ["valid" if problem is None else problem.kind for problem in problems]
        try:
            self.header, self.place, self.rivals = choose(headers, problems)
        except Unreadable as error:
            error.copies = self.copies
            raise
        self.notes = [f"copy {i}: {self.note(headers[i], problems[i])}" for i in range(COPIES)]
        header = self.header
        self.geometry = header.geometry
        self.listed = header.runs
        self.assumed = []
        self.damage = False

        bottom = Part(source, self.geometry, header.uuid, header.table_offset, header.bottom_offset)
        point = header.points[-1] if header.checkpoint_state != NORMAL else None
        outstanding = self.point_part(point) if point is not None and point.has_regions() else None
        for name, part in (("map's", bottom), ("outstanding point's", outstanding)):
            if part is not None and part.cut_off():
                text = f"cut off: it ends at {source.size}, before the last entry of the {name} page table"
                error = Unreadable("corrupt", text)
                error.copies = self.copies
                raise error
        self.parts = [bottom]
        self.covering, covered, self.point_failed = None, [], 0
        if header.state == OPEN and header.intent != NIL:  # rule 4
            intent = next(point for point in header.points if point.uuid == header.intent)
            self.covering = self.point_part(intent)
            survey = Survey(self.covering)
            covered = survey.good_runs
            self.point_failed = self.missing(intent, self.covering, survey, "the intent's point")
        named = union(self.listed, ((PAGE_WORDS * first, PAGE_WORDS * end) for first, end in covered))
        self.survey = Survey(bottom, list(named))
        if self.survey.damaged:
            self.damage = True
        if point is not None:  # rule 3
            failed = self.add_point(point, outstanding, "the outstanding point")
            if header.intent == header.checkpoint_uuid:  # not twice
                self.point_failed = 0
            self.point_failed += failed
        if (  # rule 5
            header.state == CLEAN
            and not self.listed
            and self.survey.bits + PAGE_BITS * self.survey.failed < header.clean_dirty_bits
        ):
            self.assume("fewer dirty bits than when it was closed: pages were lost with their entries")
        if lost_commit(header, self.place, problems):  # rule 6
            self.assume("a header that may have been newer is lost")
        self.armed = self.listed
        if since is not None:
            self.add_kept(header.points[self.kept(since) :])
        elif between is not None:
            first, end = [self.kept(name) for name in between]
            if first > end:
                raise Unreadable("refused", f"{between[1]!r} was frozen before {between[0]!r}")
            # Of the points alone, whatever is dirty beside them.
            self.parts, self.armed, self.assumed, self.covering = [], [], [], None
            self.add_kept(header.points[first:end])

    def kept(self, name):
        """Where in the table a point that is kept by a name is."""
        for i, point in enumerate(self.header.points):
            if point.flags == KEPT and point.name == name:
                return i
        raise Unreadable("no-such-point", f"no point {name!r} in this file")

    def add_kept(self, points):
        for point in points:
            if point.flags == KEPT:
                self.add_point(point, self.point_part(point), f"the point {point.name!r}")

    def note(self, other, problem):
        """What there is to say of a header copy."""
        if problem is not None:
            return str(problem)
        if other.uuid != self.header.uuid:
            return "of another map"
        return f"sequence {other.sequence}" + (", the header" if other is self.header else "")

    def point_part(self, point):
        return Part(self.source, self.geometry, point.uuid, point.table_offset, point.bottom_offset)

    def add_point(self, point, part, name):
        if point.is_everything():
            self.assumed.append(f"{name} holds everything")
        if not point.has_regions():
            return 0
        self.parts.append(part)
        return self.missing(point, part, Survey(part), name)

    def missing(self, point, part, survey, name):
        """How many pages of a point are not known; then everything is dirty."""
        # A point may be cut off, if it is not outstanding: entries that are missing would say that nothing is dirty.
        failed = survey.failed + part.cut_off()
        lost = survey.bits + PAGE_BITS * failed < point.granules
        if failed:
            self.assume(f"a page of {name} failed")
        elif lost:
            self.assume(f"fewer bits in {name} than were counted: pages were lost with their entries")
        return failed + lost

    def assume(self, reason):
        self.damage = True
        self.assumed.append(reason)

    def runs(self):
        """Runs of dirty bits, as few as possible."""
        if self.assumed:
            return clip([(0, self.geometry.bits)] if self.geometry.bits else [], self.geometry.bits)
        streams = [part.runs() for part in self.parts]
        streams.append((64 * first, 64 * end) for first, end in self.armed)
        if self.covering is not None:
            streams.append(rounded(self.covering.runs(), self.header.intent_unit))
        return clip(union(*streams), self.geometry.bits)

    def areas(self):
        """Dirty areas as `(offset, length)`."""
        for start, end in self.runs():
            yield self.geometry.area(start, end)

    def sha256(self):
        """SHA-256 over the words of the bottom, with all that is dirty set."""
        digest = hashlib.sha256()
        # Bits of the byte that is being put together, and how many bytes are done.
        pending, done = 0, 0
        ones = b"\xff" * (1 << 20)

        def fill(block, count):
            while count > 0:
                step = min(count, len(block))
                digest.update(block if step == len(block) else block[:step])
                count -= step

        for start, end in self.runs():
            first, last = start // 8, end // 8
            if first > done:
                digest.update(bytes([pending]))
                fill(ZEROS, first - done - 1)
                pending, done = 0, first
            if first == last:
                pending |= (1 << end % 8) - (1 << start % 8)
                continue
            digest.update(bytes([pending | 0x100 - (1 << start % 8)]))
            fill(ones, last - first - 1)
            pending, done = (1 << end % 8) - 1, last
        total = 8 * self.geometry.words
        if done < total:
            digest.update(bytes([pending]))
            fill(ZEROS, total - done - 1)
        return digest.hexdigest()

    def unclean(self):
        return self.header.state != CLEAN or bool(self.listed)

    def code(self):
        return EXIT_DAMAGE if self.damage else EXIT_UNCLEAN if self.unclean() else EXIT_FINE

    def facts(self):
        """What was found, for JSON."""
        header, geometry = self.header, self.geometry
        return {
            "state": STATES[header.state],
            "durability": DURABILITIES[header.durability],
            "uuid": str(uuid.UUID(bytes=header.uuid)),
            "sequence": header.sequence,
            "len": header.len,
            "granularity": header.granularity,
            "bits": geometry.bits,
            "label": header.label,
            "header_copy": self.place,
            "copies": self.copies,
            "copy_notes": self.notes,
            "rivals": self.rivals,
            "list": [[first, end - first] for first, end in self.listed],
            "checkpoint": CHECKPOINTS[header.checkpoint_state],
            "points": [point.name for point in header.points],
            "intent": None if header.intent == NIL else str(uuid.UUID(bytes=header.intent)),
            "intent_unit": header.intent_unit,
            "read_only": bool(
                header.ro_compatible & ~KNOWN_RO_COMPATIBLE or header.volatile_layout != VOLATILE_LAYOUT
                or header.sequence > 1 << 61
            ),
            "dirt_reasons": header.dirt_reasons,
            "failed_pages": self.survey.failed,
            "damaged_pages": self.survey.damaged,
            "failed_runs": self.survey.failed_runs,
            "point_failed_pages": self.point_failed,
            "assumed": self.assumed,
            "exit": self.code(),
        }


# ----------------------------------------------------------------------------------------------------------------
# The command


def print_json(dirty, facts, out):
    """One JSON value, its areas as they are found."""
    text = json.dumps(facts)
    out.write(text[:-1] + ', "areas": [')
    for i, (offset, length) in enumerate(dirty.areas()):
        out.write(f"{', ' if i else ''}[{offset}, {length}]")
    out.write("]}\n")


def print_text(dirty, facts, out):
    def line(text):
        out.write(f"# {text}\n")

    line(f"state {facts['state']}, durability {facts['durability']}, uuid {facts['uuid']}")
    line(f"len {facts['len']}, granularity {facts['granularity']}, bits {facts['bits']}")
    if facts["label"]:
        line(f"label {json.dumps(facts['label'])}")
    for note in facts["copy_notes"]:
        line(note)
    if facts["rivals"]:
        line("header copies with the same sequence number differ: the list is their union, or everything")
    if facts["list"]:
        words = sum(count for _, count in facts["list"])
        line(f"armed list: {len(facts['list'])} runs, {words} words, taken for dirty")
    if facts["checkpoint"] != "normal":
        line(f"checkpoint {facts['checkpoint']}: what is dirty in the outstanding point is dirty")
    if facts["intent"]:
        means = "taken for dirty" if facts["state"] == "open" else "which says nothing, as the map was closed"
        line(f"intent: the point {facts['intent']}, by {1 << facts['intent_unit']} granules, {means}")
    if facts["points"]:
        line("points: " + ", ".join(json.dumps(name) for name in facts["points"]))
    for first, count, reason in facts["failed_runs"]:
        line(f"failed pages: {count} from {first} on ({reason}), taken for dirty")
    if facts["failed_pages"]:
        line(f"failed pages in all: {facts['failed_pages']}; not explained by a crash: {facts['damaged_pages']}")
    for reason in facts["assumed"]:
        line(f"everything is taken for dirty: {reason}")
    for offset, length in dirty.areas():
        out.write(f"{offset} {length}\n")


def one(path, args, out):
    """Does what `args` ask for with one file, and returns the exit code."""
    try:
        with Source(path, not args.no_lock) as source:
            dirty = Map(source, args.since, args.between)
            if args.hash and not args.json:
                out.write(dirty.sha256() + "\n")
                return dirty.code()
            facts = {"path": path, **dirty.facts()}
            if args.hash:
                facts["sha256"] = dirty.sha256()
            (print_json if args.json else print_text)(dirty, facts, out)
            return dirty.code()
    except Unreadable as error:
        if args.json:
            facts = {"path": path, "error": error.kind, "message": str(error)}
            facts.update(copies=error.copies, exit=error.code)
            out.write(json.dumps(facts) + "\n")
        else:
            print(f"{path}: {error}", file=sys.stderr)
        return error.code


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def main(argv=None):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("file", metavar="FILE", nargs="?")
    parser.add_argument("--json", action="store_true", help="print one JSON value")
    parser.add_argument("--hash", action="store_true", help="the SHA-256 of the dirty set (with --json: in it)")
    parser.add_argument("--since", metavar="NAME", help="what was written since the point NAME")
    parser.add_argument("--from", metavar="A", dest="first", help="what was written since the point A")
    parser.add_argument("--to", metavar="B", dest="end", help="and before the point B")
    parser.add_argument("--batch", action="store_true", help="files from standard input, one a line; JSON lines")
    parser.add_argument("--no-lock", action="store_true", help="do not look whether somebody has the map open")
    args = parser.parse_args(argv)
    if args.batch == (args.file is not None):
        parser.error("either FILE or --batch")
    if "" in (args.since, args.first, args.end):
        parser.error("a point's name is not empty")
    if (args.first is None) != (args.end is None) or args.since is not None and args.first is not None:
        parser.error("either --since, or --from and --to")
    args.between = None if args.first is None else (args.first, args.end)
    try:
        if args.batch:
            args.json = True
            code = max((one(line.rstrip("\n"), args, sys.stdout) for line in sys.stdin), default=EXIT_FINE)
        else:
            code = one(args.file, args, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FINE
    return code


if __name__ == "__main__":
    sys.exit(main())
