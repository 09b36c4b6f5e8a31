import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, NoReturn, Protocol, Self, TypeAlias, TypedDict, final, overload

from typing_extensions import disjoint_base

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

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

_Path: TypeAlias = str | os.PathLike[str]
# A path, a descriptor, or an open file.
_File: TypeAlias = str | os.PathLike[str] | int | _HasFileno
_Access: TypeAlias = Literal["exclusive", "shared", "read-only"]
_Durability: TypeAlias = Literal["power-loss", "process"]
_Comparison: TypeAlias = Literal["not-recorded", "same", "unproven", "changed", "another"]
# Told the step, how far it is, and how far there is to go; anything true ends the work.
_Progress: TypeAlias = Callable[[str, int, int], object]
# Told pages passed and pages in all; what it raises comes out when the work is done.
_Pages: TypeAlias = Callable[[int, int], object]

class _Info(TypedDict):
    uuid: str
    label: str
    len: int
    granule: int
    durability: _Durability
    state: Literal["clean", "open", "unclean"]
    verdict: Literal["exact", "superset", "damaged"]
    reasons: list[str]
    dirty_granules: int | None
    dirty_len: int | None
    armed_len: int
    intent_len: int
    sequence: int
    created: float | None
    last_clean: float | None
    last_open: float | None
    dirt_time: float | None
    backup_time: float | None
    audit_time: float | None
    audited: int
    audit_missed: int
    has_image: bool
    has_target: bool
    has_begun: bool
    committed: str | None
    committed_time: float | None
    checkpoint: str | None
    points: list[str]
    format_version: int

class _Recovery(TypedDict):
    unclean: bool
    added_dirt: bool
    damaged: bool
    armed_len: int
    intent_len: int
    interrupted_pages: int
    damaged_pages: int
    damaged_headers: int
    lost_granules: int
    lost_commit: bool
    image_changed: str | None
    cache_trusted: bool | None
    aborted_checkpoint: str | None

class _Stats(TypedDict):
    arms: int
    syncs: int
    flushes: int
    bytes_written: int
    slow_sets: int
    recovered_len: int
    failed_pages: int
    damaged_headers: int

class _Point(TypedDict):
    name: str
    uuid: str
    time: float
    has_target: bool

class _CountedPoint(_Point):
    since_granules: int
    since_len: int
    until_next_granules: int
    until_next_len: int
    damaged: bool

class _Finding(TypedDict):
    severity: Literal["note", "unclean", "damage"]
    place: str
    found: str
    expected: str
    consequence: str
    repair: str
    all_dirty: bool
    count: int

class _Report(TypedDict):
    severity: Literal["note", "unclean", "damage"] | None
    findings: list[_Finding]
    omitted: int
    in_use: bool
    unchecked: list[str]
    not_writable: str | None
    pages_checked: int
    info: _Info

class _Plan(TypedDict):
    actions: list[str]
    length_before: int
    length_after: int
    dirty_granules: int
    dirty_len: int
    needless_len: int

class Error(Exception):
    kind: str
    code: int
    cause: int
    errno: int | None

@disjoint_base
class Map:
    @property
    def granule(self) -> int: ...
    @property
    def dirty_len(self) -> int: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Extents: ...
    def __contains__(self, item: object, /) -> NoReturn: ...
    @overload
    def __getitem__(self, key: int, /) -> bool: ...
    @overload
    def __getitem__(self, key: slice[int | None, int | None, int | None], /) -> list[tuple[int, int]]: ...
    def __setitem__(self, key: int | slice[int | None, int | None, int | None], value: bool, /) -> None: ...
    def set(self, start: int, stop: int) -> int: ...
    def set_ranges(self, ranges: list[tuple[int, int]]) -> int: ...
    def set_all(self) -> int: ...
    def reset(self, start: int, stop: int) -> int: ...
    def reset_within(self, start: int, stop: int) -> int: ...
    def reset_covering(self, start: int, stop: int) -> int: ...
    def reset_all(self) -> int: ...
    def truncate(self, len: int) -> None: ...
    def count(self, start: int = 0, stop: int | None = None) -> int: ...
    def any(self, start: int = 0, stop: int | None = None) -> bool: ...
    def all(self, start: int = 0, stop: int | None = None) -> bool: ...
    def next_dirty(self, start: int = 0, stop: int | None = None) -> int | None: ...
    def next_clean(self, start: int = 0, stop: int | None = None) -> int | None: ...
    def extents(self, start: int = 0, stop: int | None = None) -> Extents: ...
    def extents_buffer(self, start: int = 0, stop: int | None = None) -> memoryview: ...
    def run(self, start: int = 0, stop: int | None = None) -> tuple[bool, int] | None: ...
    def sha256(self) -> bytes: ...
    @property
    def serialization_align(self) -> int: ...
    def serialize(self, start: int = 0, stop: int | None = None) -> bytes: ...
    def load(self, data: bytes, start: int = 0, stop: int | None = None) -> int: ...
    def merge(self, other: Map) -> int: ...
    def subtract(self, other: Map) -> int: ...
    def intersect(self, other: Map) -> int: ...
    def can_merge(self, other: Map) -> bool: ...
    def union(self, other: Map) -> Bitmap: ...
    def difference(self, other: Map) -> Bitmap: ...
    def intersection(self, other: Map) -> Bitmap: ...
    def equals(self, other: Map) -> bool: ...
    def attach_changes(self, chunk: int) -> None: ...
    def detach_changes(self) -> None: ...
    def has_changes(self) -> bool: ...
    def changes(self) -> Bitmap | None: ...
    def take_changes(self) -> Bitmap | None: ...
    def clear_changes(self, start: int, stop: int) -> None: ...

@final
class Extents:
    def __iter__(self) -> Iterator[tuple[int, int]]: ...
    def __next__(self) -> tuple[int, int]: ...

@final
class DirtySet(Map): ...

@final
class Bitmap(Map):
    def __new__(cls, length: int, *, granule: int = 65536) -> Self: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> Literal[False]: ...
    @staticmethod
    def copy_of(map: Map) -> Bitmap: ...

@final
class Write:
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> Literal[False]: ...

@final
class Checkpoint:
    @property
    def uuid(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def snapshot(self) -> bool: ...
    def frozen(self) -> DirtySet: ...
    def commit(self, *, keep: bool = False, target: _File | None = None, audited: int = 0) -> None: ...
    def abort(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> Literal[False]: ...

@final
class DirtyMap(Map):
    @staticmethod
    def create(
        path: _Path,
        length: int,
        *,
        granule: int = 65536,
        label: str = "",
        durability: _Durability = "power-loss",
        dirty: bool = False,
        added_dirt: int = 0,
        like: _File | None = None,
        access: _Access = "exclusive",
        image: _File | None = None,
        armed_bound: int | None = None,
        intent_bound: int | None = None,
        flush_interval: float = 30.0,
        freeze_timeout: float = 60.0,
        lock_timeout: float = 30.0,
        writes_outlive: bool = False,
        progress: _Progress | None = None,
    ) -> DirtyMap: ...
    @staticmethod
    def open(
        path: _Path,
        *,
        access: _Access = "exclusive",
        image: _File | None = None,
        armed_bound: int | None = None,
        intent_bound: int | None = None,
        flush_interval: float = 30.0,
        wait: float = 0.0,
        freeze_timeout: float = 60.0,
        lock_timeout: float = 30.0,
        writes_outlive: bool = False,
        beside_snapshot: bool = False,
        progress: _Progress | None = None,
    ) -> DirtyMap: ...
    @property
    def closed(self) -> bool: ...
    @property
    def path(self) -> os.PathLike[str]: ...
    @property
    def recovery(self) -> _Recovery: ...
    def close(self, *, image: _File | None = None) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> Literal[False]: ...
    def flush(self) -> None: ...
    def write(self, start: int, stop: int) -> Write: ...
    def writes(self, ranges: list[tuple[int, int]]) -> Write: ...
    def freeze(self, name: str | None = None) -> Checkpoint: ...
    def freeze_snapshot(self, settle: Callable[[str], object], name: str | None = None) -> Checkpoint: ...
    def can_freeze(self, name: str | None = None) -> None: ...
    def checkpoint(self) -> Checkpoint | None: ...
    def abort(self, uuid: str) -> None: ...
    def get_since_freeze(self, item: int) -> bool: ...
    def any_since_freeze(self) -> bool: ...
    @overload
    def points(self, *, counted: Literal[False] = False) -> list[_Point]: ...
    @overload
    def points(self, *, counted: Literal[True]) -> list[_CountedPoint]: ...
    def since(self, name: str) -> DirtySet: ...
    def between(self, older: str, newer: str) -> DirtySet: ...
    def dirty_set(self) -> DirtySet: ...
    def export_since(self, name: str, path: _Path) -> None: ...
    def export_between(self, older: str, newer: str, path: _Path) -> None: ...
    def drop_point(self, name: str) -> None: ...
    def claim_backup(self) -> None: ...
    def begin_backup(self, target: _File) -> None: ...
    def complete_backup(self, target: _File) -> None: ...
    def record_miss(self, audited: int) -> None: ...
    def bind_image(self, image: _File) -> None: ...
    def compare(self, recorded: Literal["image", "target", "begun"], file: _File) -> _Comparison: ...
    def info(self) -> _Info: ...
    def stats(self) -> _Stats: ...

def inspect(path: _Path) -> _Info: ...
def check(path: _Path, *, after_power_loss: bool = False, progress: _Pages | None = None) -> _Report: ...
def plan_repair(path: _Path, *, progress: _Pages | None = None) -> _Plan: ...
def repair(
    path: _Path, *, undo: _Path | None = None, wait: float = 0.0, progress: _Pages | None = None
) -> _Plan: ...
def undo_repair(path: _Path, undo: _Path, *, wait: float = 0.0) -> int: ...
