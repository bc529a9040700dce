"""The index, made again from what lies on the tiers.

Every object says what it is, and its file meta says who sent it when, so storage alone tells every row. In three steps, each of which
may be killed and repeated: the objects are listed and cut into shards; each shard is read, and what it holds kept as a file; the files
are merged in the order in which the instances were received, and committed as the committer commits them.

The order matters, because a patient, a study and a series keep the form of the first instance that named them. Time of reception is
what storage knows of it: of two instances that were received at the same moment over two associations, and that describe
their study differently, the other one may have been indexed first. Gone with the database are the form of a first instance that has
been replaced or removed since, the times of last verification, and since when an object is where it is.

What is journalled and not indexed stays the committer's business; what both commit is committed once.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from pacs_core.archive.placing import record_of
from pacs_core.dicom.attributes import INDEXED
from pacs_core.dicom.file_meta import LARGEST_META, read_file_meta
from pacs_core.dicom.part10 import mapped
from pacs_core.dicom.scan import scan
from pacs_core.errors import ConfigurationError, DataSetMismatch, ObjectArchived, ObjectMissing, RequestError, StorageUnavailable
from pacs_core.index.gathering import Gathered, GatheredFiles, write_gathered
from pacs_core.index.schema import clean
from pacs_core.model import UID, InstanceRecord, StoredObject, StoreRequest
from pacs_core.ports import IndexWriter, ObjectStore
from pacs_core.storage.files import make_directories, translated, write_atomically
from pacs_core.storage.layout import is_replacement
from pacs_core.storage.segments import record_from_json, record_to_json

SHARD_OBJECTS = 1000
SHARD_BYTES = 256 << 20
_COMMIT = 5000  # records; a commit of so many takes a second
_IN_MEMORY = 64 << 20  # bytes; a larger object is mapped
_BLOCK = 1 << 20
_THREADS = 2  # hashing and reading leave the GIL, looking for attributes does not
_FORMAT = 1  # of the files of shards

_UNFINISHED = "unfinished"
_PACKAGES = "packages/"  # where lifecycle.archiving puts them; no instance has such a path


class Reason(StrEnum):
    """Why an object did not become a row."""

    UNREADABLE = "unreadable"  # its tier does not give it out, or it is no whole DICOM file
    FOREIGN = "foreign"  # not written by this archive: it does not say where it came from
    ARCHIVED = "archived"  # its provider has to be asked for it first
    PACKAGE = "package"  # an archived study in one file: which instances it has copies of, only a backup of the index knows
    DIFFERENT = "different"  # another object holds its instance, with other bytes


@dataclass(frozen=True, slots=True)
class Unindexed:
    """An object that was left where it is, without a row."""

    reason: Reason
    tier: str
    path: str
    detail: str
    SOPInstanceUID: str = ""


@dataclass(frozen=True, slots=True)
class ObjectShard:
    """Some objects of one tier; their paths are in a file of that name."""

    name: str
    tier: str
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Scanned:
    """What the objects of a shard were."""

    objects: int = 0
    bytes: int = 0
    problems: tuple[Unindexed, ...] = ()

    def __add__(self, other: "Scanned") -> "Scanned":
        return Scanned(self.objects + other.objects, self.bytes + other.bytes, self.problems + other.problems)


@dataclass(frozen=True, slots=True)
class Merged:
    """What the merge made of what was scanned.

    Attributes:
        inserted: instances that the index did not have.
        present: instances that it had.
        relocated: instances that it knew at a place where they are no longer.
        copies: further objects of instances, which are now known.
    """

    inserted: int = 0
    present: int = 0
    relocated: int = 0
    copies: int = 0
    problems: tuple[Unindexed, ...] = ()


class Recovery(Protocol):
    """What a rebuild asks of the index besides its commits (index.recovery)."""

    def is_empty(self) -> bool:
        """Whether nothing is, or is about to be, indexed."""

    def elsewhere(self, objects: Sequence[StoredObject]) -> Sequence[tuple[StoredObject, StoredObject]]:
        """Those objects whose instance is held by another one, each with that other one."""

    def add_copies(self, objects: Sequence[StoredObject], run: str) -> None:
        """Enter further good objects of instances."""

    def relocate(self, objects: Sequence[StoredObject], when: datetime, run: str) -> None:
        """Say that instances are held by these objects: what held them is gone."""

    def close(self) -> None:
        """Release everything, the writer included."""


class Workplace:
    """The directory in which a rebuild keeps what it has found, until it is done."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def is_unfinished(self) -> bool:
        """Whether a rebuild into an empty index has begun and has not come to its end."""
        return (self._root / _UNFINISHED).exists()

    def begin(self) -> None:
        """Remember that a rebuild into an empty index has begun."""
        with translated(f"writing to {self._root}"):
            make_directories(self._root)
            write_atomically(self._root / _UNFINISHED, b"")

    def clear(self) -> None:
        """Forget everything: it is done."""
        with translated(f"removing {self._root}"):
            if self._root.exists():
                shutil.rmtree(self._root)

    def save_paths(self, tier: str, listed: Sequence[tuple[str, int]]) -> ObjectShard:
        """Keep the objects of a shard. The same objects make the same shard, so that one that was read need not be read again."""
        content = json.dumps([_FORMAT, {level: list(keywords) for level, keywords in INDEXED.items()}, tier, listed]).encode()
        name = hashlib.sha256(content).hexdigest()[:32]
        with translated(f"writing to {self._root}"):
            make_directories(self._root)
            write_atomically(self._root / f"{name}.paths", json.dumps(listed).encode())
        return ObjectShard(name, tier, len(listed), sum(size for _, size in listed))

    def paths(self, shard: ObjectShard) -> Sequence[tuple[str, int]]:
        """The objects of a shard, and their sizes."""
        with translated(f"reading from {self._root}"):
            return [(path, size) for path, size in json.loads((self._root / f"{shard.name}.paths").read_bytes())]

    def save(self, shard: ObjectShard, found: Sequence[Gathered], report: Scanned) -> None:
        """Keep what a shard has; whole or not at all."""
        with translated(f"writing to {self._root}"):
            write_gathered(self.records(shard), found)
            write_atomically(self._report(shard), json.dumps(asdict(report)).encode())

    def report(self, shard: ObjectShard) -> Scanned | None:
        """What was found out about a shard, if it has been read."""
        with translated(f"reading from {self._root}"):
            try:
                state = json.loads(self._report(shard).read_bytes())
            except FileNotFoundError:
                return None
        problems = tuple(Unindexed(**{**each, "reason": Reason(each["reason"])}) for each in state["problems"])
        return Scanned(state["objects"], state["bytes"], problems)

    def records(self, shard: ObjectShard) -> Path:
        """The file of a shard's records."""
        return self._root / f"{shard.name}.parquet"

    def _report(self, shard: ObjectShard) -> Path:
        return self._root / f"{shard.name}.json"

    @contextmanager
    def spooled(self, content: BinaryIO) -> Iterator[memoryview]:
        """A large object of a remote tier, as memory."""
        with translated(f"writing to {self._root}"), tempfile.TemporaryFile(dir=self._root) as copy:
            shutil.copyfileobj(content, copy, _BLOCK)
            copy.flush()
            with mapped(cast(BinaryIO, copy)) as view:
                yield view


class Rebuild:
    """All steps of a rebuild, for whoever carries them out: a flow on many workers, or one command. To be closed.

    Args:
        stores: every tier by name, the fastest first.
        place: shared by all who take part.
    """

    def __init__(self, stores: Mapping[str, ObjectStore], place: Workplace, writer: IndexWriter, index: Recovery) -> None:
        self._stores = stores
        self._place = place
        self._writer = writer
        self._index = index

    @property
    def tiers(self) -> Sequence[str]:
        """The names of the tiers."""
        return list(self._stores)

    def begin(self, *, into_existing: bool) -> None:
        """The index may be rebuilt. ConfigurationError as `check_target`."""
        check_target(self._index, self._place, into_existing=into_existing)
        if not into_existing:
            self._place.begin()

    def shards(self, tier: str) -> Sequence[ObjectShard]:
        """See `list_shards`."""
        return list_shards(self._stores[tier], tier, self._place)

    def scan(self, shard: ObjectShard) -> Scanned:
        """See `scan_shard`."""
        return scan_shard(self._stores[shard.tier], self.tiers.index(shard.tier), shard, self._place)

    def merge(
        self, shards: Sequence[ObjectShard], *, into_existing: bool, run: str, committed: Callable[[int], None] = lambda _: None
    ) -> Merged:
        """See `merge`. All shards must have been scanned. At the end what was found is forgotten."""
        files = [self._place.records(shard) for shard in shards]
        merged = merge(self._writer, self._index, self._stores, files, into_existing=into_existing, run=run, committed=committed)
        self._place.clear()
        return merged

    def close(self) -> None:
        """Release the index."""
        self._index.close()

    def abandon(self) -> None:
        """Forget what was listed, unless a rebuild into an empty index waits to be continued."""
        if not self._place.is_unfinished:
            self._place.clear()


def check_target(index: Recovery, place: Workplace, *, into_existing: bool) -> None:
    """ConfigurationError for an index that is not empty, unless that is wanted or an earlier rebuild was killed."""
    if not into_existing and not place.is_unfinished and not index.is_empty():
        raise ConfigurationError("the index is not empty; into_existing (--into-existing) adds to it what storage holds and it lacks")


def list_shards(store: ObjectStore, tier: str, place: Workplace) -> Sequence[ObjectShard]:
    """Every object of a tier, cut into shards."""
    shards: list[ObjectShard] = []
    batch: list[tuple[str, int]] = []
    size = 0
    for path, length in store.list():
        batch.append((path, length))
        size += length
        if len(batch) == SHARD_OBJECTS or size >= SHARD_BYTES:
            shards.append(place.save_paths(tier, batch))
            batch, size = [], 0
    if batch:
        shards.append(place.save_paths(tier, batch))
    return shards


def scan_shard(store: ObjectStore, rank: int, shard: ObjectShard, place: Workplace) -> Scanned:
    """Read every object of a shard and keep its record. One that cannot be read is reported; one that is gone is none.

    `rank`: of the tier, 0 the fastest. StorageUnavailable if the tier gives out nothing at all.
    """
    if (report := place.report(shard)) is not None:
        return report
    listed = place.paths(shard)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="rebuild") as threads:
        outcomes = list(threads.map(lambda each: _read(store, shard.tier, each[0], each[1], place), listed))
    _fail_if_unavailable(outcomes)
    found = [_gathered(each, rank) for each in outcomes if isinstance(each, InstanceRecord)]
    lost = [(path, each) for (path, _), each in zip(listed, outcomes, strict=True) if isinstance(each, StorageUnavailable)]
    problems = (
        *(each for each in outcomes if isinstance(each, Unindexed)),
        *(Unindexed(Reason.UNREADABLE, shard.tier, path, str(error)) for path, error in lost),
    )
    report = Scanned(len(listed), shard.bytes, problems)
    place.save(shard, found, report)
    return report


def merge(
    writer: IndexWriter,
    index: Recovery,
    stores: Mapping[str, ObjectStore],
    files: Sequence[Path],
    *,
    into_existing: bool,
    run: str,
    committed: Callable[[int], None] = lambda _: None,
) -> Merged:
    """Commit what the files of all shards hold, in the order in which it was received. Told of each batch that is committed.

    An instance that the index knows at another place is relocated if that place is empty, else the object is a copy.
    """
    if not files:
        return Merged()
    gathered = GatheredFiles(files)
    merging = _Merging(index, stores, run)
    inserted = present = 0
    for batch in _batches(_records(gathered.holders())):
        result = writer.commit(batch)
        inserted, present = inserted + result.inserted, present + result.repeated
        merging.settle([each.object for each in (batch if into_existing else result.conflicting)])
        committed(len(batch))
    for batch in _batches(_records(gathered.others())):
        merging.settle([each.object for each in batch])
    return replace(merging.outcome, inserted=inserted, present=present)


class _Merging:
    """Objects whose instance another object may hold."""

    def __init__(self, index: Recovery, stores: Mapping[str, ObjectStore], run: str) -> None:
        self.outcome = Merged()
        self._index = index
        self._stores = stores
        self._run = run

    def settle(self, objects: Sequence[StoredObject]) -> None:
        """Make each of them known, as what holds the instance or as a copy, or report it."""
        pairs = self._index.elsewhere(objects) if objects else ()
        different = [found for found, held in pairs if found.sha256 != held.sha256]
        same = [(found, held) for found, held in pairs if found.sha256 == held.sha256]
        copies = [found for found, held in same if self._is_there(held)]
        moved = [found for found, held in same if not self._is_there(held)]
        self._index.relocate(moved, datetime.now(UTC), self._run)
        self._index.add_copies(copies, self._run)
        self.outcome = replace(
            self.outcome,
            relocated=self.outcome.relocated + len(moved),
            copies=self.outcome.copies + len(copies),
            problems=(*self.outcome.problems, *map(_different, different)),
        )

    def _is_there(self, held: StoredObject) -> bool:
        return held.tier in self._stores and self._stores[held.tier].exists(held.path)


def _different(found: StoredObject) -> Unindexed:
    return Unindexed(Reason.DIFFERENT, found.tier, found.path, "another object holds the instance, with other bytes", found.SOPInstanceUID)


def _records(texts: Iterable[str]) -> Iterator[InstanceRecord]:
    return (record_from_json(json.loads(text)) for text in texts)


def _batches(records: Iterator[InstanceRecord]) -> Iterator[list[InstanceRecord]]:
    while batch := list(islice(records, _COMMIT)):
        yield batch


_Outcome = InstanceRecord | Unindexed | StorageUnavailable | None


def _read(store: ObjectStore, tier: str, path: str, size: int, place: Workplace) -> _Outcome:
    """An object's record, or what is wrong with it; None if it is gone."""
    if path.startswith(_PACKAGES):
        return Unindexed(Reason.PACKAGE, tier, path, "a package of a study; it was not looked into")
    try:
        with _content(store, path, size, place) as content:
            return _record(content, tier, path)
    except ObjectMissing:
        return None
    except _Foreign as exc:
        return Unindexed(Reason.FOREIGN, tier, path, str(exc))
    except RequestError as exc:
        return Unindexed(Reason.UNREADABLE, tier, path, str(exc))
    except ObjectArchived as exc:
        return Unindexed(Reason.ARCHIVED, tier, path, str(exc))
    except StorageUnavailable as exc:
        return exc
    except OSError as exc:  # the medium failed in the middle of the object
        return StorageUnavailable(f"{path} on tier {tier} cannot be read: {exc.strerror}")


class _Foreign(DataSetMismatch):
    """A whole DICOM file that this archive has not written."""


@contextmanager
def _content(store: ObjectStore, path: str, size: int, place: Workplace) -> Iterator[memoryview]:
    """A small one is read at once; of a large one on a local disk, each page when it is looked at."""
    with closing(store.open(path)) as stream:
        if size <= _IN_MEMORY:
            yield memoryview(stream.read(_IN_MEMORY + 1))
            return
        local = store.local_path(path)
        if local is None:
            with place.spooled(stream) as view:
                yield view
            return
        while stream.read(_BLOCK):  # before it is mapped: a sector that cannot be read is an error here and a signal there
            pass
        with local.open("rb") as file, mapped(file) as view:
            yield view


def _record(content: memoryview, tier: str, path: str) -> InstanceRecord:
    """What ingest said of the object. RequestError for what is none of ours."""
    meta = read_file_meta(BytesIO(content[:LARGEST_META]))
    with content[meta.data_offset :] as data:
        scanned = scan(data, meta.TransferSyntaxUID)
    if meta.origin is None:
        raise _Foreign("the file does not say where it came from: import it")
    if not all((scanned.SOPClassUID, scanned.SOPInstanceUID, scanned.StudyInstanceUID, scanned.SeriesInstanceUID)):
        raise _Foreign("the data set lacks one of the UIDs that an instance has")
    request = StoreRequest(UID(scanned.SOPClassUID), UID(scanned.SOPInstanceUID), UID(meta.TransferSyntaxUID), meta.origin)
    sha256 = hashlib.sha256(content).hexdigest()
    return record_of(request, scanned, tier=tier, path=path, size=len(content), sha256=sha256, replaces=False)


def _fail_if_unavailable(outcomes: list[_Outcome]) -> None:
    """A tier that answers for some of its objects has lost the others; one that answers for none is to be asked again."""
    failures = [each for each in outcomes if isinstance(each, StorageUnavailable)]
    if failures and len(failures) == len(outcomes):
        raise failures[0]


def _gathered(record: InstanceRecord, rank: int) -> Gathered:
    return Gathered(
        instance=clean(record.SOPInstanceUID),
        received_at=record.origin.received_at,
        replacement=is_replacement(record.path),
        rank=rank,
        path=record.path,
        sha256=record.sha256,
        content=json.dumps(record_to_json(record), separators=(",", ":")),
    )
