#!/usr/bin/python3
"""Measures `dirtymap serve` beside nbdkit and qemu-nbd, and prints the tables of docs/performance.md.

Wants fio with its nbd engine, nbdcopy, nbdkit, qemu-nbd, and a release build: `cargo build --release -p dirtymap-cli` and
`cargo build --release -p dirtymap-nbd --example serve`. All servers run all the time, each with an image of its own; a row's
runs are taken by turns, each round beginning with another server.

    benches/nbd.py [--rounds N] [--seconds S] [--size MIB] [--disk DIR] [--only peers|snapshot|copy]

`--disk DIR` has all rows once more with images there. The page cache is used then as well, but for `copy`, which reads each
image from the disk, and before that from the page cache.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")) + "/release"
OURS = TARGET + "/dirtymap"


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Server:
    """A server of an image; `tracked` has its map as well."""

    def __init__(self, name, place, size):
        self.name, self.dir = name, tempfile.mkdtemp(prefix="nbd-", dir=place)
        self.image, self.map = self.dir + "/disk.raw", self.dir + "/disk.map"
        self.socket, self.control = self.dir + "/socket", self.dir + "/control"
        with open(self.image, "wb") as image:
            for _ in range(size):
                image.write(b"\x07" * (1 << 20))
        os.sync()
        stdin = None
        if name == "tracked":
            run(OURS, "create", self.map, "--image", self.image)
            command = [OURS, "serve", self.image, "--map", self.map, "--socket", self.socket, "--control", self.control]
        elif name == "untracked":
            command, stdin = [TARGET + "/examples/serve", self.image, self.socket], subprocess.PIPE
        elif name == "qemu-nbd":
            command = ["qemu-nbd", "--persistent", "--shared=0", "--read-only", "--format=raw", "--socket", self.socket, self.image]
        else:
            command = ["nbdkit", "-f", "-U", self.socket, "file", self.image]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=stdin, stdout=quiet, stderr=quiet)
        while not os.path.exists(self.socket):
            time.sleep(0.01)

    def fio(self, rw, bs, depth, seconds):
        """Requests a second, and the latency in ms below which 99.9 % are."""
        out = run(
            "fio", "--name=x", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={self.socket}", f"--rw=rand{rw}",
            f"--bs={bs}k", f"--iodepth={depth}", "--time_based", f"--runtime={seconds}", "--randrepeat=0", "--norandommap",
            "--output-format=json",
        )
        found = json.loads(out[out.index("{"):])["jobs"][0][rw]
        return found["iops"], found["clat_ns"]["percentile"]["99.900000"] / 1e6

    def copy(self, cold):
        """Seconds that nbdcopy takes to read all of it; `cold`: from the disk."""
        if cold:
            with open(self.image, "rb") as image:
                os.posix_fadvise(image.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        begun = time.monotonic()
        run("nbdcopy", f"nbd+unix:///?socket={self.socket}", "null:")
        return time.monotonic() - begun

    def processor(self):
        """Seconds that the server has had a processor."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            times = stat.read().rsplit(")", 1)[1].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    def new_cycle(self):
        """All is clean again, and the write intent knows what was written."""
        run(OURS, "checkpoint", "freeze", self.map, "--name", "cycle")
        run(OURS, "checkpoint", "commit", self.map)

    def snapshot(self, what, *more):
        run(OURS, "snapshot", what, "--server", self.control, *more)

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir)


def peers(places, args):
    names = ["tracked", "untracked", "nbdkit"]
    print("| image | requests | in flight | tracked, of nbdkit | processor, of nbdkit's | tracked, of untracked |")
    print("| --- | --- | --- | --- | --- | --- |")
    for where, place in places:
        servers = [Server(name, place, args.size) for name in names]
        try:
            # The first cycle.
            servers[0].fio("write", 1024, 4, 2)
            for rw in ("read", "write"):
                for bs in (4, 64):
                    for depth in (1, 16):
                        row(where, rw, bs, depth, servers, args)
        finally:
            for server in servers:
                server.stop()


def by_turns(servers, rounds, measure):
    """What is measured of each server, by its name, each round beginning with another one."""
    found = {server.name: [] for server in servers}
    for turn in range(rounds):
        first = turn % len(servers)
        for server in servers[first:] + servers[:first]:
            found[server.name].append(measure(server))
    return found


def row(where, rw, bs, depth, servers, args):
    def measure(server):
        if server.name == "tracked" and rw == "write":
            server.new_cycle()
        before = server.processor()
        rate, _ = server.fio(rw, bs, depth, args.seconds)
        return rate, (server.processor() - before) / (rate * args.seconds)

    found = by_turns(servers, args.rounds, measure)
    rates, costs = ({name: [pair[i] for pair in pairs] for name, pairs in found.items()} for i in (0, 1))

    def ratio(of, a, b):
        return f"{statistics.median(of[a]) / statistics.median(of[b]):.2f}"

    columns = [(rates, "tracked", "nbdkit"), (costs, "tracked", "nbdkit"), (rates, "tracked", "untracked")]
    ratios = " | ".join(ratio(*column) for column in columns)
    print(f"| {where} | {rw}s of {bs} KiB | {depth} | {ratios} |", flush=True)
    for name, found in rates.items():
        print(f"    {name}: {[round(rate) for rate in found]}", file=sys.stderr)


def snapshot(places, args):
    print("| image | in flight | with a live snapshot, of without | p99.9 |")
    print("| --- | --- | --- | --- |")
    for where, place in places:
        server = Server("tracked", place, args.size * 8)
        try:
            for depth in (1, 16):
                ratios, slow = [], []
                for _ in range(args.rounds):
                    plain, _ = server.fio("write", 4, depth, args.seconds)
                    server.snapshot("create", "--whole")
                    with_it, p999 = server.fio("write", 4, depth, args.seconds)
                    server.snapshot("abort")
                    ratios.append(with_it / plain)
                    slow.append(p999)
                print(f"| {where} | {depth} | {statistics.median(ratios):.2f} | {statistics.median(slow):.1f} ms |", flush=True)
        finally:
            server.stop()


def copy(places, args):
    print("| image | tracked, of nbdkit | of qemu-nbd | of untracked |")
    print("| --- | --- | --- | --- |")
    for where, place in places:
        servers = []
        try:
            for name in ("tracked", "untracked", "nbdkit", "qemu-nbd"):
                servers.append(Server(name, place, max(args.size, 1024)))
            cached = "in memory" if where == "in memory" else f"{where}, in the page cache"
            for what, cold in [(cached, False)] + [(where, True)] * (where != "in memory"):
                # Whatever it was written by, each image has been read once.
                by_turns(servers, 1, lambda server: server.copy(cold))
                times = by_turns(servers, args.rounds, lambda server: server.copy(cold))
                ours, *others = (statistics.median(times[name]) for name in ("tracked", "nbdkit", "qemu-nbd", "untracked"))
                print(f"| {what} | " + " | ".join(f"{ours / other:.2f}" for other in others) + " |", flush=True)
                for name, found in times.items():
                    print(f"    {name}: {[round(seconds, 2) for seconds in found]} s", file=sys.stderr)
        finally:
            for server in servers:
                server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--size", type=int, default=256, help="MiB of an image")
    parser.add_argument("--disk", help="a directory on a disk, for images there as well")
    parser.add_argument("--only", choices=["peers", "snapshot", "copy"])
    args = parser.parse_args()
    places = [("in memory", "/dev/shm")] + [("on disk", args.disk)] * (args.disk is not None)
    for part in (peers, snapshot, copy):
        if args.only in (None, part.__name__):
            part(places, args)


main()
