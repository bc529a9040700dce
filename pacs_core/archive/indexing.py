"""From the journal into the index, behind the acknowledgement."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import structlog

from pacs_core.archive.arrivals import Arrivals, park, pause
from pacs_core.archive.securing import Securer
from pacs_core.archive.verification import Damage, Problem, verify_shard
from pacs_core.dicom.part10 import same_data_set
from pacs_core.errors import ChecksumMismatch, IndexUnavailable, PacsError, StorageUnavailable, UnavailableError
from pacs_core.model import InstanceRecord, Level, Query, StoredObject
from pacs_core.ports import CommitResult, IndexReader, IndexWriter, Journal, Journalled, LandingStore, ObjectStore, Uncommitted
from pacs_core.storage.configured import tier_named
from pacs_core.telemetry.timing import TOTAL, Timings

log = structlog.get_logger(__name__)

_IDLE = 1.0  # seconds
_SHORTEST_BACK_OFF = 0.02
_FOLLOWER_POLL = 0.5
_LONGEST_BACK_OFF = 2.0
_QUERY_POLL = 0.003
_REMINDING, _REMINDED = 0.05, 1.0  # seconds between two reminders that a query waits, and after which there are no more
_SETTLE_ATTEMPTS = 30  # about a minute, at the longest back-off
_BLOCK = 1 << 20


def wait_until_committed(journal: Journal, timeout: float) -> None:
    """Return when everything that was acknowledged before the call is in the index. Returns at once when idle.

    Args:
        journal: this home's journal.
        timeout: seconds after which the index counts as unavailable.

    Raises IndexUnavailable after the timeout.
    """
    mark = journal.mark()
    if journal.committed(mark):
        return
    began, reminder = time.monotonic(), 0.0
    while not journal.committed(mark):
        waited = time.monotonic() - began
        if waited > timeout:
            raise IndexUnavailable(f"what was acknowledged is not in the index after {timeout:g} s")
        if reminder <= waited < _REMINDED:  # what takes longer does not take it for want of CPU
            journal.hasten()
            reminder = waited + _REMINDING
        time.sleep(_QUERY_POLL)


class Committer:
    """Has journalled objects placed, and tells the index; of all processes of a home one does it at a time.

    Args:
        uncommitted: the journals of this home.
        writer: the index.
        reader: tells where an instance is that a record conflicts with.
        stores: every tier by name.
        landing: where records' objects are, and where what must not be served is set aside.
        interval: seconds between commits while instances keep arriving; the first after a pause goes at once.
        rows: at most about this many records in one commit.
        patience: bytes that arrive before their objects are synced in the middle of a burst.
        timings: where it is recorded how long commits take and how far they lag behind the oldest instance in them.
    """

    def __init__(
        self,
        uncommitted: Uncommitted,
        writer: IndexWriter,
        reader: IndexReader,
        stores: Mapping[str, ObjectStore],
        landing: LandingStore,
        *,
        interval: float,
        rows: int,
        patience: int = 0,
        timings: Timings | None = None,
    ) -> None:
        self._uncommitted = uncommitted
        self._writer = writer
        self._interval = interval
        self._rows = rows
        self._settlement = _Settlement(writer, reader, stores, landing, partial(park, uncommitted))
        self._securer = Securer(uncommitted, landing, reader, patience=patience)
        self._arrivals = Arrivals(uncommitted, landing, rows=rows)
        self._timings = timings or Timings()
        self._recovered = False
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._is_down = False
        self._back_off = _SHORTEST_BACK_OFF
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)

    def start(self) -> None:
        """Begin to commit, in the background."""
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """Commit what is pending, for at most `timeout` seconds, and end; whether the thread has ended."""
        self._deadline = time.monotonic() + timeout
        self._stopping.set()
        self._arrivals.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def commit_pending(self) -> int:
        """Commit one batch; returns its size. UnavailableError, and then it is to be tried again."""
        self._recover()
        laps = self._timings.laps("index commit")
        batch = self._arrivals.next()
        if batch.entries:
            self._commit(batch.records)
            self._arrivals.done(batch)
            self._securer.note(sum(entry.record.size for entry in batch.entries))
            laps(TOTAL)
            self._timings.record("index commit", "lag", lag := _lag(batch.entries))
            log.debug("index_committed", records=len(batch.entries), lag=lag)
        return len(batch.entries)

    def _recover(self) -> int:
        """See to what the last committer left, once."""
        if not self._recovered:
            self._securer.recover()
            self._recovered = True
        return 0

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._uncommitted.exclusive() as is_leader:
                    if is_leader:
                        self._lead()
            except Exception:  # the thread is a process boundary: without it nothing would be indexed any more
                log.exception("index_commit_crashed")
            self._stopping.wait(_FOLLOWER_POLL)

    def _lead(self) -> None:
        """Commit until told to stop. Objects are secured beside it, also while the index is away."""
        while not self._stopping.is_set() and self._attempt(self._recover) is None:
            self._wait_out()
        if not self._recovered:
            return
        with self._securer:
            with self._arrivals:
                while not self._stopping.is_set():
                    began = time.time()
                    count = self._attempt(self.commit_pending)
                    if count is None:
                        self._wait_out()
                    elif not count:
                        self._arrivals.await_some(_IDLE)
                    elif count < self._rows:
                        pause(self._uncommitted, self._stopping, since=began, seconds=self._interval)
            while time.monotonic() < self._deadline and self._attempt(self.commit_pending):
                pass

    def _attempt(self, action: Callable[[], int]) -> int | None:
        """The result of an action, or None where it is to be tried again."""
        try:
            result = action()
        except UnavailableError as exc:
            if not self._is_down:  # once per outage, and without a traceback: the cause is outside
                log.warning("index_commit_failing", error=type(exc).__name__, reason=str(exc))
            self._is_down = True
            return None
        except Exception:  # what is pending stays pending, and what comes later may not be affected
            log.exception("index_commit_crashed")
            return None
        self._back_off = _SHORTEST_BACK_OFF
        if self._is_down:
            self._is_down = False
            log.info("index_commit_recovered")
        return result

    def _wait_out(self) -> None:
        self._stopping.wait(self._back_off)
        self._back_off = min(2 * self._back_off, _LONGEST_BACK_OFF)

    def _commit(self, records: Sequence[InstanceRecord]) -> None:
        """Commit records; where one of them is impossible, all others and park that one."""
        if not records:
            return
        try:
            result = self._writer.commit(records)
        except UnavailableError:
            raise
        except PacsError as exc:
            if len(records) == 1:
                park(self._uncommitted, records[0], exc)
                return
            half = len(records) // 2
            self._commit(records[:half])
            self._commit(records[half:])
        else:
            self._settlement.settle(records, result)


def _lag(entries: Sequence[Journalled]) -> float:
    """Seconds since the oldest of some instances was received."""
    return round((datetime.now(UTC) - min(entry.record.origin.received_at for entry in entries)).total_seconds(), 3)


class _Settlement:
    """What a commit leaves to be done with objects. Nothing acknowledged is forgotten: what cannot be settled is parked.

    IndexUnavailable, and StorageUnavailable the first times, is raised: the batch is then to be repeated.
    """

    def __init__(
        self,
        writer: IndexWriter,
        reader: IndexReader,
        stores: Mapping[str, ObjectStore],
        landing: LandingStore,
        park: Callable[[InstanceRecord, PacsError], None],
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._stores = stores
        self._landing = landing
        self._park = park
        self._failures = 0  # since everything could be settled

    def settle(self, records: Sequence[InstanceRecord], result: CommitResult) -> None:
        """Set aside objects that were replaced; remove or set aside those that lost a conflict."""
        # When a batch is repeated after a crash, a record of it may have superseded the object of a later one for a
        # moment. What the batch ends with stays.
        current = {record.SOPInstanceUID: (record.tier, record.path) for record in records}
        for old in result.superseded:
            if current.get(old.SOPInstanceUID) != (old.tier, old.path):
                self._remove_superseded(old)
        for record in result.conflicting:
            self._settle_conflict(record)
        self._failures = 0

    def _remove_superseded(self, old: StoredObject) -> None:
        try:
            # When a batch is repeated after a crash, the object may be gone and its name be in use again, by an arrival that
            # waits in the journal. Only what is still the replaced object goes.
            if not verify_shard(self._stores, [old]).intact:
                return
            where = self._set_aside(old, reason=f"SOPInstanceUID {old.SOPInstanceUID} was replaced by a later arrival")
        except PacsError as exc:
            log.warning("superseded_not_removed", SOPInstanceUID=old.SOPInstanceUID, tier=old.tier, path=old.path, error=str(exc))
        else:
            log.info("superseded_removed", SOPInstanceUID=old.SOPInstanceUID, tier=old.tier, path=old.path, quarantined=where)

    def _settle_conflict(self, record: InstanceRecord) -> None:
        """An instance was stored a second time under another name."""
        try:
            held = self._held(record)
            if not held:
                raise StorageUnavailable(f"what held SOPInstanceUID {record.SOPInstanceUID} has just been removed")
            if (held[0].tier, held[0].path) != (record.tier, record.path):
                self._settle_with(record, held[0])
        except IndexUnavailable:
            raise
        except UnavailableError as exc:
            # A tier that is away for long must not hold up the index.
            self._failures += 1
            if self._failures < _SETTLE_ATTEMPTS:
                raise
            self._park(record, exc)
        except PacsError as exc:
            self._park(record, exc)

    def _held(self, record: InstanceRecord) -> Sequence[StoredObject]:
        return self._reader.locate(Query(Level.IMAGE, {"SOPInstanceUID": record.SOPInstanceUID}))

    def _settle_with(self, record: InstanceRecord, held: StoredObject) -> None:
        """The good one of two objects stays; of two good ones the one that is held. Only a proved copy is removed."""
        damage = {(problem.tier, problem.path): problem for problem in verify_shard(self._stores, [held, record.object]).problems}
        if (problem := damage.get((record.tier, record.path))) is not None:
            if problem.damage is not Damage.MISSING:
                raise ChecksumMismatch(f"the object is damaged: {problem.detail}")
            return  # settled before, and the batch is repeated after a crash
        if (problem := damage.get((held.tier, held.path))) is not None:
            if held not in self._held(record):
                raise StorageUnavailable(f"{held.path} has been moved from tier {held.tier} meanwhile")
            self._take_over(record, held, problem)
        elif self._is_copy(record, held):
            tier_named(self._stores, record.tier).delete(record.path)
            log.info("copy_removed", SOPInstanceUID=record.SOPInstanceUID, path=record.path, held_tier=held.tier, held_path=held.path)
        else:
            where = self._landing.set_aside(record.path, reason=f"SOPInstanceUID {record.SOPInstanceUID} is held already as {held.path}")
            log.warning("duplicate_kept_first", SOPInstanceUID=record.SOPInstanceUID, path=held.path, quarantined=where)

    def _take_over(self, record: InstanceRecord, held: StoredObject, problem: Problem) -> None:
        """Let the record replace an object that is damaged or missing."""
        result = self._writer.commit([replace(record, replaces=True)])
        if held not in result.superseded:
            raise ChecksumMismatch(f"{held.path} is {problem.damage.value}, but the index keeps it")
        where = ""
        if problem.damage is not Damage.MISSING and held.tier == self._landing.tier:
            where = self._landing.set_aside(held.path, reason=f"{problem.damage.value}: {problem.detail}; replaced by another arrival")
        log.error(
            "damaged_object_replaced",
            SOPInstanceUID=record.SOPInstanceUID,
            tier=held.tier,
            held=held.path,
            damage=problem.damage.value,
            path=record.path,
            quarantined=where,
        )

    def _set_aside(self, old: StoredObject, *, reason: str) -> str:
        """Move an object of any tier into the landing tier's quarantine; returns where."""
        if old.tier == self._landing.tier:
            return self._landing.set_aside(old.path, reason=reason)
        store, copy = tier_named(self._stores, old.tier), self._landing.incoming()
        try:
            with store.open(old.path) as content:
                while block := content.read(_BLOCK):
                    copy.write(block)
            copy.seal()
            where = self._landing.quarantine(copy, reason=f"{reason}; it was on tier {old.tier} as {old.path}")
        finally:
            copy.discard()
        store.delete(old.path)
        return where

    def _is_copy(self, record: InstanceRecord, held: StoredObject) -> bool:
        with tier_named(self._stores, record.tier).open(record.path) as new, tier_named(self._stores, held.tier).open(held.path) as old:
            return same_data_set(old, new)
