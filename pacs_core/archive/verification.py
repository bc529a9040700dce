"""Is what is held what was stored? Objects against their SHA-256, index against storage in both directions.

Knows nothing of flows: each function is one step over a batch, may be repeated, and changes nothing.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import BinaryIO

from pacs_core.errors import ObjectMissing
from pacs_core.model import UID, StoredObject
from pacs_core.ports import ObjectStore

_BLOCK = 1024 * 1024
_THREADS = 2  # hashing leaves the GIL; more threads than a worker has cores only add seeks


class Damage(StrEnum):
    """What can be wrong with an object."""

    MISSING = "missing"  # indexed, but not on its tier
    CORRUPT = "corrupt"  # held, but other bytes than were stored
    ORPHAN = "orphan"  # on a tier, but unknown to the index


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

    def count(self, damage: Damage) -> int:
        """How many problems of one kind."""
        return sum(problem.damage is damage for problem in self.problems)


@dataclass(frozen=True, slots=True)
class _Read:
    size: int
    sha256: str


def verify_shard(stores: Mapping[str, ObjectStore], objects: Sequence[StoredObject]) -> ShardReport:
    """Read every object and compare size and SHA-256.

    Raises UnavailableError if a tier cannot be read: nothing is known then, which is not damage.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="verify") as threads:
        reads = list(threads.map(lambda each: _read(stores, each), objects))
    problems = [problem for each, read in zip(objects, reads, strict=True) if (problem := _compare(each, read)) is not None]
    damaged = {problem.SOPInstanceUID for problem in problems}
    return ShardReport(
        intact=tuple(each.SOPInstanceUID for each in objects if each.SOPInstanceUID not in damaged),
        problems=tuple(problems),
        checked=len(objects),
        bytes_read=sum(read.size for read in reads if read is not None),
    )


def check_presence(stores: Mapping[str, ObjectStore], objects: Sequence[StoredObject]) -> ShardReport:
    """Whether every object is on its tier, without reading it. Raises UnavailableError as `verify_shard`."""
    absent = [each for each in objects if each.tier not in stores or not stores[each.tier].exists(each.path)]
    return ShardReport(problems=tuple(_problem(Damage.MISSING, each, "not on its tier") for each in absent), checked=len(objects))


def listing(store: ObjectStore, *, batch: int = 2000) -> Iterator[tuple[str, ...]]:
    """Every path of a tier, a batch at a time."""
    paths = (path for path, _ in store.list())
    while chunk := tuple(islice(paths, batch)):
        yield chunk


def orphans(
    store: ObjectStore, tier: str, paths: Sequence[str], known: Callable[[str, Sequence[str]], Collection[str]], *, arrived_before: float
) -> ShardReport:
    """Those of `paths` that the index does not know.

    An instance is placed before it is journalled and journalled before it is indexed, so what is younger than
    `arrived_before` (POSIX time), or gone again, is no orphan. For the others the caller lets the journal be
    committed between listing and asking.

    Args:
        known: which of these paths of a tier the index knows.
    """
    indexed = known(tier, paths)
    strays = [path for path in paths if path not in indexed and _settled(store, path, arrived_before)]
    found = tuple(Problem(Damage.ORPHAN, tier, path, "not in the index") for path in strays)
    return ShardReport(problems=found, checked=len(paths))


def _settled(store: ObjectStore, path: str, before: float) -> bool:
    local = store.local_path(path)
    if local is None:  # instances arrive on a local tier, and come to a remote one only through the index
        return store.exists(path)
    try:
        return local.stat().st_mtime < before
    except FileNotFoundError:
        return False


def _read(stores: Mapping[str, ObjectStore], each: StoredObject) -> _Read | None:
    if each.tier not in stores:
        return None
    try:
        with closing(stores[each.tier].open(each.path)) as content:
            return _hash(content)
    except ObjectMissing:
        return None


def _hash(content: BinaryIO) -> _Read:
    digest, size = hashlib.sha256(), 0
    while block := content.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return _Read(size, digest.hexdigest())


def _compare(each: StoredObject, read: _Read | None) -> Problem | None:
    if read is None:
        return _problem(Damage.MISSING, each, "not on its tier")
    if read.size != each.size:
        return _problem(Damage.CORRUPT, each, f"{read.size} bytes instead of {each.size}")
    if read.sha256 != each.sha256:
        return _problem(Damage.CORRUPT, each, f"SHA-256 {read.sha256[:16]}… instead of {each.sha256[:16]}…")
    return None


def _problem(damage: Damage, each: StoredObject, detail: str) -> Problem:
    return Problem(damage, each.tier, each.path, detail, each.SOPInstanceUID, each.StudyInstanceUID)
