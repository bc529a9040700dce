"""Stored instances, open to be read, wherever they are: the remote ones by way of a cache, and ahead of whoever reads them.

An instance that is not where the index has it, or not what was stored, is looked for elsewhere before it fails. One that its
provider has to rehydrate first is asked for, and fails at once.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from pacs_core.archive.accesses import AccessLog
from pacs_core.archive.stored import Hashed, StoredDataSet, data_set_of, open_data_set
from pacs_core.errors import ChecksumMismatch, IntegrityError, ObjectArchived, StorageUnavailable, UnavailableError
from pacs_core.model import UID, StoredObject
from pacs_core.ports import Copies, ObjectCache, ObjectStore, Recalls
from pacs_core.storage.configured import tier_named

log = structlog.get_logger(__name__)

_AHEAD_BYTES = 256 << 20  # fetched and not yet asked for, at most; one object may be larger
_AHEAD = 2  # for each transfer that does the tier good, so that none waits for a reader
_GIVE_UP_AFTER = 3  # times in a row that a tier did not answer during one retrieve


class Retrieval:
    """Gives access to instances on any tier. Thread-safe. To be closed.

    Args:
        stores: the tiers by name.
        cache: keeps what was fetched from those that are not local.
        copies: knows where else instances are.
        recalls: remembers which studies are wanted back from an archive class.
        recall: called after one was entered there; returns at once.
        accesses: notes which studies are retrieved.
        verify: whether local objects are hashed when they are read. What was fetched always is.
    """

    def __init__(
        self,
        stores: Mapping[str, ObjectStore],
        cache: ObjectCache,
        *,
        copies: Copies,
        recalls: Recalls,
        recall: Callable[[], None] = lambda: None,
        accesses: AccessLog,
        verify: bool = True,
    ) -> None:
        self._stores = stores
        self._cache = cache
        self._copies = copies
        self._recalls = recalls
        self._recall = recall
        self._accesses = accesses
        self._verify = verify
        self._hashed = Hashed()
        self._suspect: set[tuple[str, str]] = set()  # large objects that were damaged when they were read last
        self._fetchers: dict[str, ThreadPoolExecutor] = {}
        self._lock = threading.Lock()

    def session(self, instances: Sequence[StoredObject]) -> "Session":
        """For retrieving these, in this order. A context manager; the end of it ends the fetching."""
        self._accesses.note({each.StudyInstanceUID for each in instances})
        return Session(self, instances)

    def is_local(self, instance: StoredObject) -> bool:
        """Whether it is opened without being fetched; also where its tier is unknown."""
        store = self._stores.get(instance.tier)
        return store is None or store.local_path(instance.path) is not None

    def concurrency(self, tier: str) -> int:
        """How many fetches at once do a tier good."""
        return max(1, self._stores[tier].concurrency)

    def fetch(self, instance: StoredObject, known: "Findings") -> "Future[StoredDataSet]":
        """`open` in a thread of those that fetch from the instance's tier."""
        with self._lock:
            if instance.tier not in self._fetchers:
                self._fetchers[instance.tier] = ThreadPoolExecutor(self.concurrency(instance.tier), f"fetch-{instance.tier}")
            return self._fetchers[instance.tier].submit(self.open, instance, known)

    def open(self, instance: StoredObject, known: "Findings | None" = None) -> StoredDataSet:
        """The instance's data set, from where the index has it, else from any copy of it.

        ObjectArchived, once it has been recorded that it is wanted; ObjectMissing or StorageUnavailable if it cannot be had;
        ChecksumMismatch if nothing that is held is what was stored.
        """
        known = known or Findings()
        try:
            known.check(instance.tier)
            source = self._open_at(instance)
        except (UnavailableError, IntegrityError) as exc:
            known.failed(instance.tier, exc)
            return self._open_elsewhere(instance, exc, known)
        known.answered(instance.tier)
        return source

    def close(self) -> None:
        """Fetch no more. What is being fetched is not waited for."""
        with self._lock:
            for fetchers in self._fetchers.values():
                fetchers.shutdown(wait=False, cancel_futures=True)

    def _open_at(self, instance: StoredObject) -> StoredDataSet:
        store = tier_named(self._stores, instance.tier)
        path = store.local_path(instance.path)
        return self._open_remote(store, instance) if path is None else self._open_local(path, instance)

    def _open_local(self, path: Path, instance: StoredObject) -> StoredDataSet:
        if not self._verify:
            return open_data_set(path, size=instance.size)
        key = instance.tier, instance.path
        source = open_data_set(
            path, size=instance.size, sha256=instance.sha256, hashed=self._hashed, damaged=lambda: self._suspect.add(key)
        )
        if key in self._suspect:
            _check(source)
            self._suspect.discard(key)  # it has been repaired
        return source

    def _open_remote(self, store: ObjectStore, instance: StoredObject) -> StoredDataSet:
        """Through the cache. A cached file that is damaged is fetched anew."""

        def fetch(target: Path) -> None:
            store.fetch(instance.path, target, sha256=instance.sha256)

        def damaged() -> None:
            log.warning("cached_object_damaged", SOPInstanceUID=instance.SOPInstanceUID, tier=instance.tier)
            self._cache.discard(instance.sha256)

        name = Path(instance.path)
        descriptor, is_fresh = self._cache.open(instance.sha256, instance.size, fetch)
        if not is_fresh:
            try:
                return data_set_of(name, descriptor, size=instance.size, sha256=instance.sha256, damaged=damaged)
            except ChecksumMismatch:
                damaged()
                descriptor, _ = self._cache.open(instance.sha256, instance.size, fetch)
        return data_set_of(name, descriptor, size=instance.size)

    def _open_elsewhere(self, instance: StoredObject, failure: UnavailableError | IntegrityError, known: "Findings") -> StoredDataSet:
        """From another place. If there is none, the failure is raised, or that it has to be rehydrated if that would help."""
        archived = isinstance(failure, ObjectArchived)
        for copy in self._other_places(instance):
            try:
                known.check(copy.tier)
                source = self._open_at(copy)
            except (UnavailableError, IntegrityError) as exc:
                known.failed(copy.tier, exc)
                archived = archived or isinstance(exc, ObjectArchived)
                _tell(copy, exc, served_from="")
            else:
                _tell(instance, failure, served_from=copy.tier)
                return source
        _tell(instance, failure, served_from="")
        if archived:
            raise self._wanted(instance.StudyInstanceUID, known) from failure
        raise failure

    def _other_places(self, instance: StoredObject) -> Sequence[StoredObject]:
        """Where the same bytes are said to be, local places first. An instance may have been moved since it was located."""
        try:
            found = self._copies.copies([instance.SOPInstanceUID]).get(instance.SOPInstanceUID, ())
        except UnavailableError as exc:
            log.warning("copies_not_known", SOPInstanceUID=instance.SOPInstanceUID, reason=str(exc))
            return ()
        here = instance.tier, instance.path
        others = [each for each in found if each.sha256 == instance.sha256 and (each.tier, each.path) != here]
        return sorted(others, key=lambda each: not self.is_local(each))

    def _wanted(self, study: UID, known: "Findings") -> ObjectArchived:
        """Record, once during a retrieve, that a study is wanted; what the requestor is to be told."""
        with known.lock:
            if study not in known.recalled:
                try:
                    self._recalls.want(study)
                except UnavailableError as exc:
                    log.warning("recall_not_recorded", StudyInstanceUID=study, reason=str(exc))
                    return ObjectArchived("archived, and could not be requested now; retry later")
                known.recalled.add(study)
                log.info("study_recalled", StudyInstanceUID=study)
                self._recall()
        return ObjectArchived("archived; has been requested; retry later")


@dataclass(slots=True)
class Findings:
    """What one retrieve has learnt on its way. Thread-safe."""

    recalled: set[UID] = field(default_factory=set)
    silent: dict[str, int] = field(default_factory=dict)  # how often in a row a tier has not answered
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, tier: str) -> None:
        """StorageUnavailable for a tier that is not worth another try: each may take as long as its time-out."""
        if self.silent.get(tier, 0) >= _GIVE_UP_AFTER:
            raise StorageUnavailable(f"tier {tier} does not answer")

    def failed(self, tier: str, exc: Exception) -> None:
        """Take note of an error."""
        if isinstance(exc, StorageUnavailable):
            with self.lock:
                self.silent[tier] = self.silent.get(tier, 0) + 1

    def answered(self, tier: str) -> None:
        """Take note of a success."""
        if self.silent:
            self.silent.pop(tier, None)


class Session:
    """Opens the instances of one retrieve. Those that have to be fetched are, several at once and ahead of their turn.

    Belongs to one thread. There are no others where everything is local.
    """

    def __init__(self, retrieval: Retrieval, instances: Sequence[StoredObject]) -> None:
        self._retrieval = retrieval
        self._known = Findings()
        samples = {each.tier: each for each in instances}
        self._remote = frozenset(tier for tier, each in samples.items() if not retrieval.is_local(each))
        self._coming = deque(each for each in instances if each.tier in self._remote) if self._remote else deque[StoredObject]()
        self._order = {each.SOPInstanceUID: number for number, each in enumerate(self._coming)}
        self._ahead: dict[UID, tuple[StoredObject, Future[StoredDataSet]]] = {}
        self._bytes = 0

    def __enter__(self) -> Self:
        self._fetch_ahead()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._coming.clear()
        for uid in list(self._ahead):
            self._drop(uid)

    def open(self, instance: StoredObject) -> StoredDataSet:
        """The data set of one of the instances; see Retrieval.open. Best asked for in their order; those passed over are let go."""
        if instance.tier not in self._remote:
            return self._retrieval.open(instance, self._known)
        for uid in self._passed_over(instance):
            self._drop(uid)
        future = self._take(instance.SOPInstanceUID) or self._retrieval.fetch(instance, self._known)
        self._fetch_ahead()
        return future.result()

    def _passed_over(self, instance: StoredObject) -> Sequence[UID]:
        """Leaves what comes only later in `_coming`."""
        turn = self._order.get(instance.SOPInstanceUID, -1)
        while self._coming and self._order[self._coming[0].SOPInstanceUID] <= turn:
            if self._coming[0].SOPInstanceUID == instance.SOPInstanceUID:
                self._submit(self._coming.popleft())
            else:
                self._coming.popleft()
        return [uid for uid in self._ahead if self._order[uid] < turn]

    def _fetch_ahead(self) -> None:
        while self._coming and self._has_room(self._coming[0]):
            self._submit(self._coming.popleft())

    def _has_room(self, instance: StoredObject) -> bool:
        if not self._ahead:
            return True
        most = _AHEAD * self._retrieval.concurrency(instance.tier)
        return len(self._ahead) < most and self._bytes + instance.size <= _AHEAD_BYTES

    def _submit(self, instance: StoredObject) -> None:
        self._ahead[instance.SOPInstanceUID] = instance, self._retrieval.fetch(instance, self._known)
        self._bytes += instance.size

    def _take(self, uid: UID) -> "Future[StoredDataSet] | None":
        if uid not in self._ahead:
            return None
        instance, future = self._ahead.pop(uid)
        self._bytes -= instance.size
        return future

    def _drop(self, uid: UID) -> None:
        """Let go of what was fetched, or is being: that is not waited for, and then in the cache."""
        future = self._take(uid)
        if future is not None and not future.cancel():
            future.add_done_callback(_close)


def _close(future: "Future[StoredDataSet]") -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()


def _check(source: StoredDataSet) -> None:
    try:
        source.check()
    except BaseException as exc:
        source.close()
        if isinstance(exc, OSError):
            raise StorageUnavailable(f"{source.path.name} cannot be read: {exc.strerror or exc}") from exc
        raise


def _tell(instance: StoredObject, exc: Exception, *, served_from: str) -> None:
    """What `verify` and whoever repairs look for. That something is archived is no damage, and told once for a study."""
    tell = log.error if isinstance(exc, IntegrityError) else log.debug if isinstance(exc, ObjectArchived) else log.warning
    tell(
        "object_not_served",
        SOPInstanceUID=instance.SOPInstanceUID,
        tier=instance.tier,
        path=instance.path,
        damage=type(exc).__name__,
        reason=str(exc),
        served_from=served_from,
    )
