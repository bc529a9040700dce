"""The seams: what the archive asks of storage and index. Implementations are picked in `wiring`.

Every method may raise UnavailableError (StorageFull, StorageUnavailable, IndexUnavailable) when its engine does not
answer; nothing else of a third party ever crosses a seam.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from typing_extensions import Buffer

from pacs_core.model import (
    UID,
    Availability,
    Change,
    Copy,
    Header,
    InstanceRecord,
    Peer,
    Query,
    Recall,
    Removed,
    RemovedState,
    StoredObject,
)

# Told of bytes as they are transferred.
Progress = Callable[[int], None]


class Incoming(Protocol):
    """An object of the landing tier that is being written. Not visible to anyone until placed.

    Not thread-safe. Exactly one of `LandingStore.place`, `LandingStore.quarantine` and `discard` ends it; `discard`
    may be called at any time, also after the others, and then does nothing.
    """

    size: int

    @property
    def content(self) -> memoryview | None:
        """Everything written, where that is little enough to be kept in memory, until it is placed or discarded."""

    def write(self, data: Buffer) -> None:
        """Append. StorageFull if there is no room; the object is then only good for `discard`."""

    def seal(self) -> str:
        """End the writing; returns the SHA-256 (hex) of everything written."""

    def open(self) -> BinaryIO:
        """Read what was written; seekable."""

    def discard(self) -> None:
        """Remove it."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The result of `LandingStore.place`: created, or what already held that name."""

    path: str
    created: bool


class LandingStore(Protocol):
    """Where instances arrive: a local, durable, atomic store."""

    tier: str

    def incoming(self) -> Incoming:
        """A new, empty incoming file."""

    def received(self, content: bytes, sha256: str) -> Incoming:
        """A sealed object, of what was received earlier."""

    def place(self, incoming: Incoming, path: str, *, durable: bool) -> Placement:
        """Give a sealed object its name, atomically.

        If `durable`, its content is durable before it has the name, and the name on return; what could not be synced never has
        it. Otherwise both are once the object is secured.
        Never overwrites: if the name is taken, nothing changes, `created` is False and `incoming` stays.
        """

    def secure(self, paths: Sequence[str]) -> Sequence[str]:
        """Make placed objects durable, content and name; the paths of which there is no object are passed over.

        Returns those that could not be made durable. What the kernel has once failed to write is lost, whatever a second
        sync says: it is returned again, to every process, until it is restored or its name is given anew.
        """

    def restore(self, path: str, content: Buffer) -> None:
        """Write an object anew, durably, in place of whatever has its name."""

    def quarantine(self, incoming: Incoming, *, reason: str) -> str:
        """Keep a sealed file aside, durably, out of the archive's sight; returns where, for the log."""

    def holds(self, path: str) -> bool:
        """Whether a name is taken."""

    def local_path(self, path: str) -> Path:
        """A placed object as a local file, whether or not there is one."""

    def set_aside(self, path: str, *, reason: str) -> str:
        """Move a placed object into quarantine, durably; returns where, for the log. ObjectMissing if there is none."""

    def retire(self, path: str, sha256: str) -> None:
        """Move the object that hashes so out of the archive's sight, durably. Repeatable. ObjectMissing if it is in neither place.

        Whatever else has the name by now keeps it.
        """

    def retired(self, sha256: str) -> Path:
        """A retired object as a local file, whether or not there is one."""

    def revive(self, path: str, sha256: str) -> bool:
        """Give a retired object its name again, durably; it stays retired as well. False if the name is taken. ObjectMissing."""

    def destroy(self, sha256: str) -> None:
        """Remove a retired object for good. Idempotent."""

    def sweep(self) -> int:
        """Remove incoming files that dead processes left; returns how many. Safe beside live writers."""


class ObjectStore(Protocol):
    """One tier: named, immutable objects. Paths are relative, "/" separated, and were made by `storage.layout`. Thread-safe.

    ObjectArchived wherever an object would be read that its provider has put into a class that must be rehydrated first.
    """

    concurrency: int  # how many transfers at once do this tier good

    def open(self, path: str) -> BinaryIO:
        """Read; seekable. ObjectMissing if there is none."""

    def local_path(self, path: str) -> Path | None:
        """The object as a local file, or None where the tier is remote."""

    def exists(self, path: str) -> bool:
        """Whether an object has that name."""

    def put(self, path: str, source: Path, *, sha256: str, progress: Progress | None = None) -> None:
        """Copy a local file to the tier: whole or not at all, durable on return. What has the name is overwritten.

        Returns only once the provider's own checksum of what it has, or a read-back, agrees with the file's. The file itself is
        read once; ChecksumMismatch if it does not hash to `sha256` (64 lower-case hex digits), and then nothing has the name that
        had not before. StorageUnavailable if the tier does not take it, or has other bytes than were sent.
        """

    def fetch(self, path: str, target: Path, *, sha256: str, progress: Progress | None = None) -> None:
        """Copy an object to a new local file, in parallel parts where it is large; not synced.

        ObjectMissing, ObjectArchived; ChecksumMismatch if it does not hash to `sha256`. After an error there is no file.
        """

    def delete(self, path: str) -> None:
        """Remove, durably. Idempotent."""

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Every object whose path begins so: path and size in bytes, temporary and quarantined ones left out. Order undefined."""

    def availability(self, path: str) -> Availability:
        """Whether an object can be read now. ObjectMissing if there is none."""

    def rehydrate(self, path: str) -> None:
        """Ask the provider to make an archived object readable. Returns at once; repeatable; nothing happens to one that is."""


class ObjectCache(Protocol):
    """Local copies of remote objects, by SHA-256. Thread-safe; several processes may share one."""

    def open(self, sha256: str, size: int, fetch: Callable[[Path], None]) -> tuple[int, bool]:
        """A descriptor of an object that nothing can take away, and whether it was fetched for it.

        `fetch` is called where the object is not held, with the name of a file to make; what it raises is raised. It checks what it
        fetches: what is fresh is right, what is not has the right length. StorageFull if there is no room even for this one object.
        """

    def discard(self, sha256: str) -> None:
        """Forget an object. Idempotent."""


@dataclass(frozen=True, slots=True)
class JournalMark:
    """A position in the journals of one home: what was appended before it is covered by it."""

    ends: tuple[tuple[str, int], ...] = ()  # (generation of a segment, end offset in bytes)


class JournalledContent(Protocol):
    """The bytes of an object as the journal holds them."""

    def read(self) -> bytes:
        """All of them. OSError if they cannot be read."""


@dataclass(frozen=True, slots=True)
class Journalled:
    """What the journal has of an instance.

    Attributes:
        record: what the index is to be told.
        appended_at: when, in nanoseconds since 1970.
        content: the object's bytes; None where the object was named and made durable before it was journalled.
    """

    record: InstanceRecord
    appended_at: int
    content: JournalledContent | None


class Journal(Protocol):
    """The durable queue between acknowledgement and index. One writer object per process, many threads."""

    def append(self, record: InstanceRecord, content: Buffer | None = None) -> bool:
        """Durable on return. Concurrent callers share one sync.

        With content, there need not be an object yet: the committer places it. False if the journal has no room for content
        now; nothing was appended then. A record alone is always taken.
        """

    def mark(self) -> JournalMark:
        """The present end of every process's journal."""

    def committed(self, mark: JournalMark) -> bool:
        """Whether everything before the mark is in the index."""

    def hasten(self) -> None:
        """Tell the committer that somebody waits, so that it does not; and those who take instances in, so that they give way."""

    def hastened_since(self, when: float) -> bool:
        """Whether somebody has told so since a time, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What an index commit made of its records."""

    inserted: int
    repeated: int  # already indexed at the same path: an earlier attempt had succeeded
    superseded: tuple[StoredObject, ...]  # older objects that a `replaces` record took the place of
    conflicting: tuple[InstanceRecord, ...]  # same SOPInstanceUID held at another path; this one is not indexed


class IndexWriter(Protocol):
    """Commits journalled records. One at a time per catalog, across processes and machines."""

    def commit(self, records: Sequence[InstanceRecord]) -> CommitResult:
        """Index all records in one transaction. Idempotent: repeating a batch, whole or in part, changes nothing."""


class IndexReader(Protocol):
    """Answers queries from the index. Thread-safe; each call sees one consistent snapshot."""

    def find(self, query: Query) -> Iterator[Header]:
        """The matching entities, one Header each: every indexed attribute of the query's level and the levels above.

        Computed attributes (PS3.4 C.3.4: ModalitiesInStudy, NumberOf…) are included where the query names them.
        Closing the iterator cancels the query. InvalidIdentifier for a key whose value cannot be matched.
        """

    def locate(self, query: Query) -> Sequence[StoredObject]:
        """The instances below the entities that the query's unique keys name (PS3.4 C.4.2.1.4.1)."""


@dataclass(frozen=True, slots=True)
class Locked:
    """Studies that nobody else works on, for as long as the connection lives that says so.

    Attributes:
        studies: those that are ours.
        check: IndexUnavailable if they no longer are. To be called before what cannot be taken back.
    """

    studies: frozenset[UID]
    check: Callable[[], None]

    def __contains__(self, study: object) -> bool:
        return study in self.studies


@dataclass(frozen=True, slots=True)
class Departure:
    """Objects to be removed, and those of them that have been."""

    copies: tuple[Copy, ...]
    check: Callable[[], None]  # IndexUnavailable if they may no longer be removed
    gone: list[Copy] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Discharge:
    """Removed objects that are to leave quarantine, and those of them that have."""

    removed: tuple[Removed, ...]
    done: list[Removed] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StudyTotals:
    """What a run did to studies, summed up."""

    action: str
    from_tier: str
    to_tier: str
    studies: int
    instances: int
    bytes: int


class Locations(Protocol):
    """Where instances are, and how that is changed so that a crash at any line leaves every object known and every instance held.

    An object that does not hold its instance has an entry as a copy before it is made, and until after it is removed. Whoever works on a
    study holds its lock, and first removes what an earlier run has left on its way.
    """

    def locked(self, studies: Iterable[UID]) -> AbstractContextManager[Locked]:
        """Be the only one who works on these studies; those that somebody else works on are left out."""

    def objects(self, studies: Sequence[UID]) -> Sequence[StoredObject]:
        """The objects that hold the instances of studies now."""

    def copies(self, studies: Sequence[UID]) -> Sequence[Copy]:
        """All other objects of studies, whatever their state."""

    def announce(self, objects: Sequence[StoredObject], tier: str, run: str, *, package: str = "") -> frozenset[UID]:
        """Enter copies of these objects on a tier as arriving: under the same paths, or as members of a package of that path.

        Returns the instances of which one may now be made.
        """

    def moved(self, objects: Sequence[StoredObject], tier: str, change: Change, *, keep: bool = False) -> frozenset[UID]:
        """The objects' announced copies on a tier are good: they are now what holds the instances.

        Those that have been replaced or moved meanwhile keep their place; the instances that changed it are returned. The old
        objects become leaving, or, with `keep`, further copies.
        """

    def copied(self, objects: Sequence[StoredObject], tier: str, change: Change, *, package: str = "") -> frozenset[UID]:
        """The objects' announced copies on a tier are good and stay beside them; returns the instances they are good for."""

    def note(self, objects: Sequence[StoredObject], change: Change) -> None:
        """Write down what was done to the studies of these objects, that are now where they say."""

    def catch_up(self, studies: Sequence[UID], change: Change) -> None:
        """Let the index say of studies what `objects` says: a run may have died between the two."""

    def untold(self, studies: Sequence[UID]) -> frozenset[UID]:
        """Instances that `objects` has and the index does not tell of: whoever was to commit them has died."""

    def departing(self, studies: Sequence[UID]) -> AbstractContextManager[Departure]:
        """The objects of studies that are to be removed: arriving ones of runs that are over, and leaving ones.

        Only while the context lasts may they be, and only what is then entered as gone is forgotten: nobody else can make a copy
        under such a name in the meantime.
        """

    def unsettled_studies(self) -> Sequence[UID]:
        """Studies with copies that are arriving or leaving."""

    def totals(self, run: str) -> Sequence[StudyTotals]:
        """What a run has done, by action and tiers."""


class Removals(Protocol):
    """Instances that retention takes out of the index. What is removed is written down in the transaction that does it."""

    def take_out(self, objects: Sequence[StoredObject], change: Change, destroy_after: datetime) -> frozenset[UID]:
        """Take instances out of the index, unless their study is on hold or they have been moved or replaced; those that were."""

    def forget_rows(self, removed: Sequence[Removed], change: Change) -> None:
        """Let the lake no longer tell of instances that have no key, nor of series, studies and patients of which nothing is left."""

    def all(self, state: RemovedState, *, studies: Collection[str] | None = None, due_at: datetime | None = None) -> Sequence[Removed]:
        """What is in a state, of some studies or of all; or only what is due to be destroyed at an instant, and not on hold."""

    def quarantined(self, removed: Sequence[Removed]) -> None:
        """Objects that were leaving are out of the way."""

    def discharging(self, removed: Sequence[Removed], state: RemovedState, change: Change) -> AbstractContextManager[Discharge]:
        """Let objects leave quarantine for good: those of them that are still in it, and, where they are to be destroyed, not on hold.

        While the context lasts nobody else can take them out of it, or place a hold. What is entered as done then has the new state.
        """

    def removed_as_well(self, removed: Sequence[Removed]) -> frozenset[str]:
        """Which of the digests are those of other removals, whose time has not come."""

    def in_use(self, removed: Sequence[Removed]) -> frozenset[tuple[str, str]]:
        """Tiers and paths, of those of removed objects, under which an instance or a copy is held by now."""


class Copies(Protocol):
    """Where else instances are than where they were looked for. Thread-safe."""

    def copies(self, SOPInstanceUIDs: Sequence[UID]) -> Mapping[UID, Sequence[StoredObject]]:
        """For each instance where the index has it now, then its further copies. All are to hash as they say themselves."""


class Recalls(Protocol):
    """The studies that somebody wants and whose provider must be asked for them. Durable; every method may be repeated."""

    def want(self, study: UID) -> None:
        """Somebody wants it. Nothing changes where that is known; one that was available begins anew."""

    def wanted(self) -> Sequence[Recall]:
        """Those that are not available yet, in the order in which they were wanted."""

    def asked(self, study: UID) -> None:
        """The provider has been asked for all of it. The first time is remembered."""

    def available(self, study: UID) -> None:
        """All of it can be read."""

    def done(self, study: UID) -> None:
        """Forget it."""


class StudyAccesses(Protocol):
    """When studies were last retrieved."""

    def record(self, studies: Sequence[UID]) -> None:
        """They are being retrieved now. Repeatable."""


class PeerDirectory(Protocol):
    """The remote application entities that an administrator has entered."""

    def get(self, ae_title: str) -> Peer | None:
        """The peer, or None."""

    def all(self) -> Sequence[Peer]:
        """Every peer by AE title."""

    def put(self, peer: Peer) -> None:
        """Add or replace."""

    def remove(self, ae_title: str) -> bool:
        """Whether there was one to remove."""


class Uncommitted(Protocol):
    """The reader's side of the journal, for the committer."""

    def exclusive(self) -> AbstractContextManager[bool]:
        """Try to become this home's only committer; False if another process is. Freed when the process dies."""

    def pending(self, limit: int, *, after: JournalMark) -> tuple[Sequence[Journalled], JournalMark]:
        """Up to `limit` uncommitted instances of every process of this home, oldest first, and the mark past them.

        Those before `after` are left out: they have been read already.
        """

    def done(self, mark: JournalMark) -> None:
        """Everything before the mark is in the index: remembered durably, finished segments removed. Repeatable."""

    def hastened_since(self, when: float) -> bool:
        """Whether somebody has begun to wait since a time, in seconds since 1970."""

    def unsecured(self, limit: int) -> tuple[Sequence[Journalled], JournalMark]:
        """Up to `limit` indexed instances whose objects may not be durable, oldest first, and the mark past them."""

    def secured(self, mark: JournalMark) -> None:
        """The objects of everything before the mark are durable: as `done`. Repeatable."""

    def tidy(self) -> None:
        """Remove what processes that have ended have left and is dealt with."""

    def park(self, record: InstanceRecord, *, reason: str) -> str:
        """Keep a record that cannot be indexed aside, durably, for a person to look at; returns where, for the log."""
