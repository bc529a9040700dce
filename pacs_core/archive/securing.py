"""Objects on stable storage, behind the acknowledgement: what the journal keeps for them is then forgotten."""

import hashlib
import threading
import time
from collections.abc import Sequence
from typing import Self

import structlog

from pacs_core.archive.placing import is_intact
from pacs_core.errors import StorageUnavailable, UnavailableError
from pacs_core.model import InstanceRecord, Level, Query
from pacs_core.ports import IndexReader, Journalled, LandingStore, Uncommitted

log = structlog.get_logger(__name__)

_BATCH = 256  # objects that are synced before the journal is told
_EVERYTHING = 1 << 62
_POLL = 0.1  # seconds
_QUIET = 0.5  # seconds without an arrival; a burst is over
_OVERDUE = 5.0  # seconds after which it is done in any case
_BACK_OFF = 2.0


class Securer:
    """Syncs the objects of what is journalled, in one thread; writes those anew that a crash or the medium has lost.

    It waits until a burst is over: what it writes to the disk, the next acknowledgement would wait for.

    Args:
        uncommitted: the journals of this home.
        landing: where the objects are.
        reader: tells whether an instance that is indexed is still where it was stored.
        patience: bytes that arrive before it no longer waits.
    """

    def __init__(self, uncommitted: Uncommitted, landing: LandingStore, reader: IndexReader, *, patience: int) -> None:
        self._uncommitted = uncommitted
        self._landing = landing
        self._reader = reader
        self._patience = patience
        self._arrived = 0  # bytes since the last round
        self._last_arrival = self._last_round = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin, in the background, as the only one of this home."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="securer", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Sync what is there, and end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def recover(self) -> None:
        """Check every object that was not synced when the last committer ended, against its record: the machine may have crashed.

        UnavailableError, and then it is to be tried again.
        """
        entries, _ = self._uncommitted.unsecured(_EVERYTHING)
        # Of several arrivals under one name the last one has it.
        last = {entry.record.path: entry for entry in entries if entry.content is not None}
        for entry in last.values():
            if not is_intact(self._landing, entry.record) and self._is_still_here(entry.record):
                self._restore(entry)

    def note(self, size: int) -> None:
        """So many bytes have arrived. Any thread."""
        self._arrived += size
        self._last_arrival = time.monotonic()

    def step(self) -> int:
        """Sync the objects of one batch; how many records it had. UnavailableError, and then it is to be tried again."""
        entries, mark = self._uncommitted.unsecured(_BATCH)
        if entries:
            self._secure(entries)
            self._uncommitted.secured(mark)
        return len(entries)

    def _run(self) -> None:
        """A process boundary: the journal keeps everything until this succeeds."""
        while not self._stopping.wait(_POLL):
            if self._is_due() and not self._round():
                self._stopping.wait(_BACK_OFF)
        self._round()

    def _is_due(self) -> bool:
        now = time.monotonic()
        if self._arrived and now - self._last_arrival > _QUIET:
            return True
        return self._arrived > self._patience or now - self._last_round > _OVERDUE

    def _round(self) -> bool:
        """Sync everything, and remove what processes that have died have left; whether that went well."""
        self._arrived, self._last_round = 0, time.monotonic()
        try:
            while self.step() == _BATCH:
                pass
            self._uncommitted.tidy()
            if swept := self._landing.sweep():
                log.info("incoming_files_swept", files=swept)
        except UnavailableError as exc:
            log.warning("objects_not_secured", error=type(exc).__name__, reason=str(exc))
        except Exception:
            log.exception("securing_crashed")
        else:
            return True
        return False

    def _secure(self, entries: Sequence[Journalled]) -> None:
        held = {entry.record.path: entry for entry in entries if entry.content is not None}
        for path in self._landing.secure(list(held)):
            if self._is_still_here(held[path].record):  # and not another arrival that has the name by now
                self._restore(held[path])

    def _restore(self, entry: Journalled) -> None:
        """Write an object anew from the journal. StorageUnavailable if that cannot be done now."""
        record = entry.record
        content = content_of(entry)
        if hashlib.sha256(content).hexdigest() != record.sha256:
            where = self._uncommitted.park(record, reason="neither the object nor its copy in the journal is intact")
            log.error("object_lost", SOPInstanceUID=record.SOPInstanceUID, path=record.path, parked=where)
            return
        self._landing.restore(record.path, content)
        log.warning("object_restored", SOPInstanceUID=record.SOPInstanceUID, path=record.path)

    def _is_still_here(self, record: InstanceRecord) -> bool:
        held = self._reader.locate(Query(Level.IMAGE, {"SOPInstanceUID": record.SOPInstanceUID}))
        return any((each.tier, each.path, each.sha256) == (record.tier, record.path, record.sha256) for each in held)


def content_of(entry: Journalled) -> bytes:
    """The object's bytes as the journal has them. StorageUnavailable if they cannot be read."""
    assert entry.content is not None, "to be asked of those that have content"
    try:
        return entry.content.read()
    except OSError as exc:
        raise StorageUnavailable(f"the journal's copy of {entry.record.path} cannot be read: {exc.strerror}") from exc
