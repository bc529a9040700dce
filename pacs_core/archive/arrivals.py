"""Journalled instances on their way to the index: each gets its name as it comes, so that a commit finds it placed."""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import structlog

from pacs_core.archive.placing import Placing
from pacs_core.archive.securing import content_of
from pacs_core.errors import ChecksumMismatch, PacsError, StorageUnavailable, UnavailableError
from pacs_core.model import Duplicates, InstanceRecord
from pacs_core.ports import Journalled, JournalMark, LandingStore, Uncommitted

log = structlog.get_logger(__name__)

_CHUNK = 32  # instances that are read from the journal at a time
_POLL = 0.02  # seconds; how long an instance waits at most after a pause
_HASTE = 0.01  # seconds; how long somebody who waits goes unnoticed
_BACK_OFF = 0.5


@dataclass(frozen=True, slots=True)
class Batch:
    """Instances that are next to be indexed.

    Attributes:
        entries: what the journal has of them.
        records: what the index is to be told, of all that it can be told of.
        mark: the position past them.
    """

    entries: Sequence[Journalled]
    records: Sequence[InstanceRecord]
    mark: JournalMark


def pause(uncommitted: Uncommitted, stopping: threading.Event, *, since: float, seconds: float) -> None:
    """Wait, but not while stopping, nor while there is somebody who has begun to wait after a time (in seconds since 1970)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not stopping.wait(_HASTE) and not uncommitted.hastened_since(since):
        pass


def park(uncommitted: Uncommitted, record: InstanceRecord, error: PacsError) -> None:
    """Keep a record that can never be indexed aside, for a person to look at."""
    where = uncommitted.park(record, reason=str(error))
    log.error("record_not_indexable", SOPInstanceUID=record.SOPInstanceUID, path=record.path, parked=where, reason=str(error))


class Arrivals:
    """Reads the journal and names objects, ahead of the index; in a thread of its own while its context lasts.

    Thread-safe. What is not committed when the process ends is read and placed again by the next, which changes nothing.

    Args:
        uncommitted: the journals of this home.
        landing: where the objects are to be.
        rows: in a batch, unless there are fewer. Twice as many at most wait for the index, whatever the backlog.
    """

    def __init__(self, uncommitted: Uncommitted, landing: LandingStore, *, rows: int) -> None:
        self._uncommitted = uncommitted
        self._landing = landing
        self._placing = Placing(landing)
        self._rows = rows
        self._singly = 0  # so many are to be placed one at a time, because one of them has failed
        self._began = time.time_ns()
        self._reading = threading.Lock()
        self._waiting: deque[Batch] = deque()
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin to work ahead, as the only one of this home."""
        self._waiting.clear()  # somebody else may have dealt with them since
        self._arrived.clear()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wake()
        if self._thread is not None:
            self._thread.join()

    def wake(self) -> None:
        """Stop working ahead, and let nobody wait for arrivals."""
        self._stopping.set()
        self._arrived.set()

    def await_some(self, timeout: float) -> None:
        """Return once an instance waits for the index, or after so many seconds."""
        self._arrived.wait(timeout)

    def next(self) -> Batch:
        """The oldest instances, about `rows`: all that were journalled before the call, if they are fewer.

        The same again until they are `done`. UnavailableError if there are none that could be placed.
        """
        try:
            while self._count() < self._rows and self._place_chunk():
                pass
        except UnavailableError:
            if not self._waiting:
                raise
        return _joined(self._first())

    def done(self, batch: Batch) -> None:
        """A batch is in the index."""
        self._uncommitted.done(batch.mark)
        with self._reading:
            left = len(batch.entries)
            while left > 0:
                left -= len(self._waiting.popleft().entries)
            if not self._waiting and not self._stopping.is_set():
                self._arrived.clear()

    def _first(self) -> Sequence[Batch]:
        chosen: list[Batch] = []
        count = 0
        for chunk in tuple(self._waiting):
            if count >= self._rows:
                break
            chosen.append(chunk)
            count += len(chunk.entries)
        return chosen

    def _count(self) -> int:
        return sum(len(chunk.entries) for chunk in tuple(self._waiting))

    def _run(self) -> None:
        """A process boundary. What fails here fails again for the commit that needs it, and is told there."""
        while not self._stopping.is_set():
            began = time.time()
            try:
                is_busy = self._count() < 2 * self._rows and self._place_chunk()
            except Exception:
                log.debug("not_placed_ahead", exc_info=True)
                self._stopping.wait(_BACK_OFF)
            else:
                if not is_busy:
                    pause(self._uncommitted, self._stopping, since=began, seconds=_POLL)

    def _place_chunk(self) -> bool:
        """Place what comes next; whether there may be more."""
        with self._reading:
            limit = 1 if self._singly else min(_CHUNK, self._rows)
            entries, mark = self._uncommitted.pending(limit, after=_mark_past(self._waiting))
            if entries:
                self._waiting.append(Batch(entries, self._place_all(entries), mark))
                self._arrived.set()
        return len(entries) == limit

    def _place_all(self, entries: Sequence[Journalled]) -> Sequence[InstanceRecord]:
        """The records of entries that the index is to be told of.

        Entries among which one fails are tried again one at a time, so that it fails alone: to set a duplicate aside a second
        time would make two of it.
        """
        self._singly = max(self._singly, len(entries))
        records = [record for entry in entries if (record := self._place(entry)) is not None]
        self._singly -= len(entries)
        return records

    def _place(self, entry: Journalled) -> InstanceRecord | None:
        """Give a journalled object its name; the record that the index is to have, None if there is nothing to be told."""
        if entry.content is None:
            return entry.record
        content = content_of(entry)
        incoming = self._landing.received(content, entry.record.sha256)
        try:
            # What was there when we came may be left by a crash of the machine in the middle of an append, of which nobody was told.
            if entry.appended_at < self._began and hashlib.sha256(content).hexdigest() != entry.record.sha256:
                raise ChecksumMismatch("its copy in the journal is not intact")
            duplicates = Duplicates.REPLACE if entry.record.replaces else Duplicates.KEEP_FIRST
            record = self._placing.place(entry.record, incoming, duplicates, durable=False).record
            if record != entry.record and self._landing.secure([record.path]):  # the journal has no copy of that one
                raise StorageUnavailable(f"the object {record.path} could not be synced")
        except UnavailableError:
            raise
        except PacsError as exc:
            park(self._uncommitted, entry.record, exc)
            return None
        else:
            return record
        finally:
            incoming.discard()


def _joined(chunks: Sequence[Batch]) -> Batch:
    """Consecutive batches as one."""
    return Batch(
        [entry for chunk in chunks for entry in chunk.entries],
        [record for chunk in chunks for record in chunk.records],
        _mark_past(chunks),
    )


def _mark_past(chunks: Iterable[Batch]) -> JournalMark:
    """The position past consecutive batches."""
    return JournalMark(tuple({generation: end for chunk in chunks for generation, end in chunk.mark.ends}.items()))
