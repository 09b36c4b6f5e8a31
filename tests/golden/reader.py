#!/usr/bin/env python3
"""A reader of dirtymap files written from FORMAT.md alone: prints the dirty set of each golden file.

    reader.py FILE.xxd...          name, dirty bits, their number, SHA-256 of the bottom, one file a line

It checks what tells the files here apart, not all that a reader must check.
"""
import hashlib, os, struct, sys, zlib


def undump(path):
    data = bytearray()
    for line in open(path):
        at, rest = line.split(": ", 1)
        data.extend(bytes(int(at, 16) - len(data)))
        data.extend(bytes.fromhex(rest[:39]))
    return bytes(data)


def read(data, at, n):
    part = data[at:at + n]
    return part + bytes(n - len(part))  # missing bytes read as zeros


def num(b, at, size):
    return int.from_bytes(b[at:at + size], "little")


class Copy:
    """valid, newer (certainly), or neither: then it has no say."""

    def __init__(self, b):
        self.bytes, self.valid, self.newer = b, False, False
        if b[:8] != b"\x89DMAP\r\n\x1a":
            return
        used = num(b, 12, 4)
        if not 4096 <= used <= 16384:
            return
        if zlib.crc32(b[:1020] + bytes(4) + b[1024:used]) != num(b, 1020, 4):
            return
        self.used, self.uuid, self.sequence = used, b[40:56], num(b, 56, 8)
        self.newer = num(b, 8, 4) > 1 or num(b, 32, 8) != 0
        self.len, self.granularity = num(b, 88, 8), num(b, 96, 4)
        if self.newer or self.granularity > 63:
            return
        self.bits = ((self.len - 1) >> self.granularity) + 1 if self.len else 0
        self.words = max(1, -(-self.bits // 64))
        self.pages = -(-self.words // 64)
        if num(b, 152, 8) != self.words:
            return
        self.runs = [struct.unpack_from("<QQ", b, 4096 + 16 * i) for i in range(num(b, 732, 4))]
        self.valid = True

    def say(self):
        """The bytes that count, without the list, its length and the checksum."""
        b = self.bytes[:4096]
        return b[:12] + b[16:732] + b[736:1020] + b[1024:]


def choose(copies):
    votes = {}
    for c in copies:
        if c.valid or c.newer:
            votes[c.uuid] = votes.get(c.uuid, 0) + 1
    if not votes:
        raise ValueError("no header")
    most = max(votes.values())
    if list(votes.values()).count(most) > 1:
        raise ValueError("two maps")
    uuid = next(u for u in votes if votes[u] == most)
    ours = [c for c in copies if (c.valid or c.newer) and c.uuid == uuid]
    top = [c for c in ours if c.sequence == max(c.sequence for c in ours)]
    if any(c.newer for c in top):
        raise ValueError("newer")
    header = top[0]
    if all(c.say() == header.say() for c in top):
        runs = [r for c in top for r in c.runs]
    else:
        runs = [(0, header.words)]
    return header, runs


def pages(data, header, uuid, table, bottom):
    """The dirty bits by rule 1, and whether a page failed."""
    dirty, failed = set(), False
    for i in range(header.pages):
        page = read(data, bottom + 512 * i, 512)
        entry = num(read(data, table + 4 * i, 4), 0, 4)
        good = (zlib.crc32(uuid + struct.pack("<Q", i) + page) or 1) if any(page) else 0
        bits = [4096 * i + k for k in range(4096) if page[k // 8] >> (k % 8) & 1]
        if entry != good or any(bit >= header.bits for bit in bits):
            failed, bits = True, range(4096 * i, 4096 * i + 4096)
        dirty.update(bits)
    return dirty, failed


def dirty_set(data):
    header, runs = choose([Copy(read(data, 16384 * i, 16384)) for i in range(4)])
    b = header.bytes
    if len(data) < num(b, 160, 8) + 4 * header.pages:
        raise ValueError("cut off")
    dirty, _ = pages(data, header, header.uuid, num(b, 160, 8), num(b, 176, 8))
    for first, count in runs:
        dirty.update(range(64 * first, 64 * (first + count)))
    if num(b, 224, 4):
        point = 1024 + 128 * (num(b, 728, 4) - 1)
        more, failed = pages(data, header, b[point:point + 16], num(b, point + 32, 8), num(b, point + 40, 8))
        dirty |= set(range(header.bits)) if failed else more
    return header, {bit for bit in dirty if bit < header.bits}


def areas(bits):
    out = []
    for bit in sorted(bits):
        if out and out[-1][1] == bit:
            out[-1][1] = bit + 1
        else:
            out.append([bit, bit + 1])
    return " ".join(f"{a}-{b - 1}" if b > a + 1 else str(a) for a, b in out) or "none"


for path in sys.argv[1:]:
    name = os.path.basename(path).removesuffix(".xxd")
    try:
        header, dirty = dirty_set(undump(path))
    except ValueError as e:
        print(f"{name}: error: {e}")
        continue
    bottom = bytearray(8 * header.words)
    for bit in dirty:
        bottom[bit // 8] |= 1 << bit % 8
    print(f"{name}: {areas(dirty)}; {len(dirty)}; {hashlib.sha256(bottom).hexdigest()}")
