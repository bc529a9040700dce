"""Is what is held what was stored? Objects against their SHA-256, index against storage in both directions.

Knows nothing of flows: each function is one step over a batch, may be repeated, and changes nothing.
"""

import hashlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import BinaryIO

import numpy as np

from pacs_core.errors import ObjectArchived, ObjectMissing, StorageUnavailable
from pacs_core.model import UID, StoredObject
from pacs_core.ports import ObjectStore
from pacs_core.storage.configured import tier_named

_BLOCK = 1024 * 1024
_THREADS = 2  # hashing leaves the GIL; more threads than a worker has cores only add seeks


class Damage(StrEnum):
    """What can be wrong with an object."""

    MISSING = "missing"  # indexed, but not on its tier
    CORRUPT = "corrupt"  # held, but other bytes than were stored
    UNREADABLE = "unreadable"  # held, but its tier fails to give it out while it gives out others
    ORPHAN = "orphan"  # on a tier, but unknown to the index
    INCONSISTENT = "inconsistent"  # the keys in PostgreSQL and the rows of the lake disagree


@dataclass(frozen=True, slots=True)
class Problem:
    """One damaged object. The UIDs are "" where only a path is known."""

    damage: Damage
    tier: str
    path: str
    detail: str
    SOPInstanceUID: str = ""
    StudyInstanceUID: str = ""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What became of one batch of objects.

    Attributes:
        intact: the instances whose bytes were read and hash to what the index says.
        problems: the damaged ones.
        checked: how many objects were looked at, in whatever way.
        bytes_read: of object content.
    """

    intact: tuple[UID, ...] = ()
    problems: tuple[Problem, ...] = ()
    checked: int = 0
    bytes_read: int = 0

    def __add__(self, other: "ShardReport") -> "ShardReport":
        return ShardReport(
            self.intact + other.intact,
            self.problems + other.problems,
            self.checked + other.checked,
            self.bytes_read + other.bytes_read,
        )

    def without_intact(self) -> "ShardReport":
        """What is left to say once the intact ones are remembered."""
        return replace(self, intact=())

    def count(self, damage: Damage) -> int:
        """How many problems of one kind."""
        return sum(problem.damage is damage for problem in self.problems)


@dataclass(frozen=True, slots=True)
class _Read:
    size: int
    sha256: str


_Outcome = _Read | ObjectMissing | ObjectArchived | StorageUnavailable


def verify_shard(stores: Mapping[str, ObjectStore], objects: Sequence[StoredObject]) -> ShardReport:
    """Read every object and compare size and SHA-256. One that cannot be read before it is rehydrated is left out.

    Raises StorageUnavailable if a tier gives out none of its objects: nothing is known then, which is not damage.
    """
    return verify_objects(partial(_open, stores), objects)


def verify_objects(opened: Callable[[StoredObject], BinaryIO], objects: Sequence[StoredObject]) -> ShardReport:
    """The same of objects that are opened in a way of their own; errors of it as those of ObjectStore.open."""
    outcomes = _read_all(opened, objects)
    _fail_if_unavailable(objects, outcomes)
    problems = [problem for each, read in zip(objects, outcomes, strict=True) if (problem := _compare(each, read)) is not None]
    left_out = {each.SOPInstanceUID for each, read in zip(objects, outcomes, strict=True) if isinstance(read, ObjectArchived)}
    not_intact = left_out | {problem.SOPInstanceUID for problem in problems}
    return ShardReport(
        intact=tuple(each.SOPInstanceUID for each in objects if each.SOPInstanceUID not in not_intact),
        problems=tuple(problems),
        checked=len(objects) - len(left_out),
        bytes_read=sum(read.size for read in outcomes if isinstance(read, _Read)),
    )


def check_presence(stores: Mapping[str, ObjectStore], objects: Sequence[StoredObject]) -> ShardReport:
    """Whether every object is on its tier, without reading it. Raises UnavailableError as `verify_shard`."""
    absent = [each for each in objects if not tier_named(stores, each.tier).exists(each.path)]
    return ShardReport(problems=tuple(_problem(Damage.MISSING, each, "not on its tier") for each in absent), checked=len(objects))


def compare_catalogs(keys: Iterable[StoredObject], rows: Iterable[StoredObject]) -> ShardReport:
    """Whether the keys in PostgreSQL and the rows of the lake name the same objects, each instance once."""
    by_key = {each.SOPInstanceUID: each for each in keys}
    problems: list[Problem] = []
    seen: set[UID] = set()
    for row in rows:
        key = by_key.get(row.SOPInstanceUID)
        if row.SOPInstanceUID in seen:
            problems.append(_problem(Damage.INCONSISTENT, row, "two rows of the lake"))
        elif key is None:
            problems.append(_problem(Damage.INCONSISTENT, row, "a row of the lake without a key"))
        elif (key.tier, key.path, key.sha256) != (row.tier, row.path, row.sha256):
            problems.append(_problem(Damage.INCONSISTENT, key, f"the lake names {row.path} on tier {row.tier}"))
        seen.add(row.SOPInstanceUID)
    problems += [_problem(Damage.INCONSISTENT, each, "a key without a row of the lake") for uid, each in by_key.items() if uid not in seen]
    return ShardReport(problems=tuple(problems))


class KnownPaths:
    """The paths that the index knows on one tier, eight bytes each.

    Kept as hashes: in an archive of ten million objects, two share one with a probability of one in a hundred
    thousand, and that could hide one orphan until the next run.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._hashes = np.fromiter(map(hash, paths), dtype=np.int64)
        self._hashes.sort()

    def __contains__(self, path: object) -> bool:
        position = int(np.searchsorted(self._hashes, hash(path)))
        return position < len(self._hashes) and int(self._hashes[position]) == hash(path)


def find_orphans(store: ObjectStore, tier: str, known: Container[str], *, arrived_before: float) -> ShardReport:
    """The objects of a tier that the index does not know.

    An instance is placed before it is journalled and journalled before it is indexed. So what arrived at or after
    `arrived_before` (POSIX time) is no orphan yet; the caller takes a time well before it read the index, and lets
    the journal be committed first.
    """
    strays = (path for path, _ in store.list() if path not in known and _settled(store, path, arrived_before))
    return ShardReport(problems=tuple(Problem(Damage.ORPHAN, tier, path, "not in the index") for path in strays))


def _settled(store: ObjectStore, path: str, before: float) -> bool:
    local = store.local_path(path)
    if local is None:  # instances arrive on a local tier, and come to a remote one only through the index
        return store.exists(path)
    try:
        return local.stat().st_ctime < before  # when it got its name, not when its bytes were written
    except FileNotFoundError:
        return False


def _open(stores: Mapping[str, ObjectStore], each: StoredObject) -> BinaryIO:
    return tier_named(stores, each.tier).open(each.path)


def _read_all(opened: Callable[[StoredObject], BinaryIO], objects: Sequence[StoredObject]) -> Sequence[_Outcome]:
    """What came of each, in their order."""
    outcomes: dict[int, _Outcome] = {}
    waiting = enumerate(objects)  # shared: a task for each would cost as much as to read a small object

    def work() -> None:
        buffer = memoryview(bytearray(_BLOCK))
        for number, each in waiting:
            outcomes[number] = _read(opened, each, buffer)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="verify") as threads:
        for done in [threads.submit(work) for _ in range(_THREADS)]:
            done.result()
    return [outcomes[number] for number in range(len(objects))]


def _read(opened: Callable[[StoredObject], BinaryIO], each: StoredObject, buffer: memoryview) -> _Outcome:
    try:
        with closing(opened(each)) as content:
            return _hash(content, buffer)
    except (ObjectMissing, ObjectArchived, StorageUnavailable) as exc:
        return exc
    except OSError as exc:  # the medium failed in the middle of the object
        return StorageUnavailable(f"{each.path} on tier {each.tier} cannot be read: {exc.strerror}")


def _fail_if_unavailable(objects: Sequence[StoredObject], outcomes: Sequence[_Outcome]) -> None:
    answering = {each.tier for each, read in zip(objects, outcomes, strict=True) if not isinstance(read, StorageUnavailable)}
    for each, read in zip(objects, outcomes, strict=True):
        if isinstance(read, StorageUnavailable) and each.tier not in answering:
            raise read


def _hash(content: BinaryIO, buffer: memoryview) -> _Read:
    digest, size = hashlib.sha256(), 0
    while count := content.readinto1(buffer):  # type: ignore[attr-defined]  # every file has it, and the protocol not
        digest.update(buffer[:count])
        size += count
    return _Read(size, digest.hexdigest())


def _compare(each: StoredObject, read: _Outcome) -> Problem | None:
    if isinstance(read, ObjectArchived):
        return None
    if isinstance(read, ObjectMissing):
        return _problem(Damage.MISSING, each, "not on its tier")
    if isinstance(read, StorageUnavailable):
        return _problem(Damage.UNREADABLE, each, str(read))
    if read.size != each.size:
        return _problem(Damage.CORRUPT, each, f"{read.size} bytes instead of {each.size}")
    if read.sha256 != each.sha256:
        return _problem(Damage.CORRUPT, each, f"SHA-256 {read.sha256[:16]}… instead of {each.sha256[:16]}…")
    return None


def _problem(damage: Damage, each: StoredObject, detail: str) -> Problem:
    return Problem(damage, each.tier, each.path, detail, each.SOPInstanceUID, each.StudyInstanceUID)
