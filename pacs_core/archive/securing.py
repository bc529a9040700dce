"""Objects on stable storage, behind the acknowledgement: what the journal keeps for them is then forgotten."""

import hashlib
import threading
from collections.abc import Sequence
from typing import Self

import structlog

from pacs_core.errors import StorageUnavailable, UnavailableError
from pacs_core.model import InstanceRecord, Level, Query, StoredObject
from pacs_core.ports import IndexReader, LandingStore, Uncommitted, Unsecured

log = structlog.get_logger(__name__)

_BATCH = 256  # objects that are synced before the journal is told
_EVERYTHING = 1 << 62
_IDLE_POLL = 0.2  # seconds
_BACK_OFF = 2.0
_BLOCK = 1 << 20


class Securer:
    """Syncs the objects of what is journalled, in one thread; writes those anew that a crash or the medium has lost.

    Args:
        uncommitted: the journals of this home.
        landing: where the objects are.
        reader: tells whether an instance that is indexed is still where it was stored.
    """

    def __init__(self, uncommitted: Uncommitted, landing: LandingStore, reader: IndexReader) -> None:
        self._uncommitted = uncommitted
        self._landing = landing
        self._reader = reader
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

    def recover(self) -> frozenset[StoredObject]:
        """Check every object that was not synced when the last committer ended, against its record: the machine may have crashed.

        Returns those that are nowhere intact: nobody was told that they are stored, or the medium has lost them.
        UnavailableError, and then it is to be tried again.
        """
        entries, _ = self._uncommitted.unsecured(_EVERYTHING)
        # Of several arrivals under one name the last one has it.
        last = {entry.record.path: entry for entry in entries if entry.content is not None}
        return frozenset(entry.record.object for entry in last.values() if not self._recovered(entry))

    def step(self) -> int:
        """Sync the objects of one batch; how many records it had. UnavailableError, and then it is to be tried again."""
        entries, mark = self._uncommitted.unsecured(_BATCH)
        if entries:
            self._secure(entries)
            self._uncommitted.secured(mark)
        return len(entries)

    def _run(self) -> None:
        """A process boundary: the journal keeps everything until this succeeds."""
        while True:
            last_round = self._stopping.is_set()
            try:
                while self.step() == _BATCH:
                    pass
                pause = _IDLE_POLL
            except UnavailableError as exc:
                log.warning("objects_not_secured", error=type(exc).__name__, reason=str(exc))
                pause = _BACK_OFF
            except Exception:
                log.exception("securing_crashed")
                pause = _BACK_OFF
            if last_round:
                return
            self._stopping.wait(pause)

    def _secure(self, entries: Sequence[Unsecured]) -> None:
        held = {entry.record.path: entry for entry in entries if entry.content is not None}
        for path in self._landing.secure(list(held)):
            self._restore(held[path])

    def _recovered(self, entry: Unsecured) -> bool:
        """Whether the object is intact, or is now; or was moved, replaced or deleted since, and that is done."""
        if self._is_intact(entry.record) or (entry.is_indexed and not self._is_still_here(entry.record)):
            return True
        return self._restore(entry)

    def _restore(self, entry: Unsecured) -> bool:
        """Write an object anew from the journal; False if that has no intact copy. StorageUnavailable if it cannot be done now."""
        record = entry.record
        content = self._content(entry)
        if hashlib.sha256(content).hexdigest() != record.sha256:
            # A crash within the append leaves this, and nobody was told that it is stored; so does a failing disk.
            where = self._uncommitted.park(record, reason="neither the object nor its copy in the journal is intact")
            log.error("object_lost", SOPInstanceUID=record.SOPInstanceUID, path=record.path, parked=where)
            return False
        self._landing.restore(record.path, content)
        log.warning("object_restored", SOPInstanceUID=record.SOPInstanceUID, path=record.path)
        return True

    def _content(self, entry: Unsecured) -> bytes:
        assert entry.content is not None, "only what has content is restored"
        try:
            return entry.content.read()
        except OSError as exc:
            raise StorageUnavailable(f"the journal's copy of {entry.record.path} cannot be read: {exc.strerror}") from exc

    def _is_intact(self, record: InstanceRecord) -> bool:
        digest = hashlib.sha256()
        try:
            with self._landing.local_path(record.path).open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except OSError:
            return False
        return digest.hexdigest() == record.sha256

    def _is_still_here(self, record: InstanceRecord) -> bool:
        held = self._reader.locate(Query(Level.IMAGE, {"SOPInstanceUID": record.SOPInstanceUID}))
        return any((each.tier, each.path, each.sha256) == (record.tier, record.path, record.sha256) for each in held)
