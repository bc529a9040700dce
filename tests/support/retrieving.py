"""Retrieval over tiers and tables that are in the test's hands.

`MemoryStore` follows ports.ObjectStore, but it is no object store: what S3 and Azure do at its edges is tested where they are
(tests/contract).
"""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from pacs_core.archive.accesses import AccessLog
from pacs_core.archive.retrieval import Retrieval
from pacs_core.errors import ChecksumMismatch, ObjectArchived, ObjectMissing
from pacs_core.model import UID, Availability, Recall, StoredObject
from pacs_core.ports import ObjectStore, Progress
from pacs_core.storage.cache import ObjectCache


class MemoryStore:
    """A remote tier.

    Attributes:
        objects: by path.
        states: of those that are not online.
        fetched: the paths of all fetches, in the order in which they began.
        rehydrated: the paths that were asked for.
        most: fetches that ran at once.
    """

    def __init__(self, *, concurrency: int = 4, before: Callable[[str], object] = lambda _: None) -> None:
        self.concurrency = concurrency
        self.objects: dict[str, bytes] = {}
        self.states: dict[str, Availability] = {}
        self.fetched: list[str] = []
        self.rehydrated: list[str] = []
        self.most = 0
        self._running = 0
        self._before = before
        self._lock = threading.Lock()

    def open(self, path: str) -> BinaryIO:
        return io.BytesIO(self._content(path))

    def local_path(self, path: str) -> Path | None:
        return None

    def exists(self, path: str) -> bool:
        return path in self.objects

    def put(self, path: str, source: Path, *, sha256: str, progress: Progress | None = None) -> None:
        self.objects[path] = source.read_bytes()

    def fetch(self, path: str, target: Path, *, sha256: str, progress: Progress | None = None) -> None:
        with self._lock:
            self.fetched.append(path)
            self._running += 1
            self.most = max(self.most, self._running)
        try:
            self._before(path)
            content = self._content(path)
            if hashlib.sha256(content).hexdigest() != sha256:
                raise ChecksumMismatch(f"{path} has other bytes")
            with target.open("xb") as file:
                file.write(content)
        finally:
            with self._lock:
                self._running -= 1

    def delete(self, path: str) -> None:
        self.objects.pop(path, None)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return ((path, len(content)) for path, content in self.objects.items() if path.startswith(prefix))

    def availability(self, path: str) -> Availability:
        if path not in self.objects:
            raise ObjectMissing(path)
        return self.states.get(path, Availability.ONLINE)

    def rehydrate(self, path: str) -> None:
        if self.availability(path) is Availability.ARCHIVED:
            self.rehydrated.append(path)
            self.states[path] = Availability.REHYDRATING

    def _content(self, path: str) -> bytes:
        if self.availability(path) is not Availability.ONLINE:
            raise ObjectArchived(path)
        return self.objects[path]


class FakeRecalls:
    """ports.Recalls that only remembers which studies were wanted."""

    def __init__(self) -> None:
        self.studies: list[str] = []

    def want(self, study: UID) -> None:
        if study not in self.studies:
            self.studies.append(study)

    def wanted(self) -> Sequence[Recall]:
        raise NotImplementedError

    def asked(self, study: UID) -> None:
        raise NotImplementedError

    def available(self, study: UID) -> None:
        raise NotImplementedError

    def done(self, study: UID) -> None:
        raise NotImplementedError


class FakeCopies:
    """ports.Copies of a mapping; tells what was asked."""

    def __init__(self, known: Mapping[str, Sequence[StoredObject]] | None = None) -> None:
        self.known = dict(known or {})
        self.asked: list[str] = []

    def copies(self, SOPInstanceUIDs: Sequence[UID]) -> Mapping[UID, Sequence[StoredObject]]:
        self.asked += SOPInstanceUIDs
        return {uid: self.known.get(uid, ()) for uid in SOPInstanceUIDs}


class FakeAccesses:
    """ports.StudyAccesses that remembers each call."""

    def __init__(self) -> None:
        self.recorded: list[list[str]] = []

    def record(self, studies: Sequence[UID]) -> None:
        self.recorded.append(sorted(studies))


@contextmanager
def retrieving(
    stores: Mapping[str, ObjectStore],
    cache: Path,
    *,
    limit: int = 1 << 30,
    copies: FakeCopies | None = None,
    recalls: FakeRecalls | None = None,
    accesses: FakeAccesses | None = None,
    recall: Callable[[], None] = lambda: None,
    verify: bool = True,
) -> Iterator[Retrieval]:
    """A Retrieval with everything around it."""
    with closing(AccessLog(accesses or FakeAccesses())) as log:
        reading = Retrieval(
            stores,
            ObjectCache(cache, limit=limit),
            copies=copies or FakeCopies(),
            recalls=recalls or FakeRecalls(),
            recall=recall,
            accesses=log,
            verify=verify,
        )
        with closing(reading):
            yield reading
