"""Taking one instance in. When `finish` returns, the instance survives anything short of losing the disk.

    receive, hashing → scan → check against the request → make it durable → acknowledge

A small instance whose name is free becomes durable as a frame of the journal, record and content, with one sync. The
committer gives it its name and tells the index; until then nothing of it is seen. Anything else is given its name at
once, is synced itself, and the journal has only its record.

A process that dies on the way leaves nothing, or an incoming file, which the next sweep removes, or (where it was not small) a
named object that nobody was told of. That stays: the sender will repeat the instance, is found to send what is
held, and only the journal record is added. For the same reason an object is not removed again when the journal fails after it
was named: another association may by then have been acknowledged on the strength of it.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog
from typing_extensions import Buffer

from pacs_core.archive.placing import Fate, Ingested, Placing, record_of
from pacs_core.dicom.file_meta import build_file_meta
from pacs_core.dicom.part10 import mapped, scan_file
from pacs_core.dicom.scan import ScanResult, scan
from pacs_core.errors import DataSetMismatch, InvalidUID, ObjectMissing, StorageUnavailable, UnreadableDataSet
from pacs_core.model import Duplicates, InstanceRecord, InvalidUIDs, Layout, StoreRequest, parse_uid
from pacs_core.ports import Incoming, Journal, LandingStore
from pacs_core.storage.layout import object_path

log = structlog.get_logger(__name__)

_LONGEST_UID = 1024  # of those that are not UIDs but accepted as sent

_COURTESY = 0.03  # seconds that an instance waits at most while a query waits
_WAITING = 0.1  # seconds; whoever waits says so more often than that
_LOOK_AGAIN = 0.005


class Ingest:
    """The way in. Thread-safe; each instance gets its own `Ingestion`.

    Args:
        landing: where objects are stored.
        journal: what tells the index of them.
        layout: how objects are named.
        duplicates: what happens when a name is taken by another data set.
        invalid_uids: whether to accept UIDs that are none.
    """

    def __init__(
        self, landing: LandingStore, journal: Journal, *, layout: Layout, duplicates: Duplicates, invalid_uids: InvalidUIDs
    ) -> None:
        self._landing = landing
        self._journal = journal
        self._layout = layout
        self._duplicates = duplicates
        self._invalid_uids = invalid_uids
        self._placing = Placing(landing)

    def begin(self, request: StoreRequest) -> "Ingestion":
        """Begin to take in an instance. InvalidUID by the setting, StorageFull, StorageUnavailable.

        While a query waits for the index, which wants the same CPU and disk, each instance comes a moment later.
        """
        self._give_way()
        self._check_uid(request.SOPClassUID, "SOPClassUID")
        self._check_uid(request.SOPInstanceUID, "SOPInstanceUID")
        incoming = self._landing.incoming()
        try:
            return Ingestion(request, incoming, self._settle)
        except BaseException:
            incoming.discard()
            raise

    def _give_way(self) -> None:
        until = time.monotonic() + _COURTESY
        while time.monotonic() < until and self._journal.hastened_since(time.time() - _WAITING):
            time.sleep(_LOOK_AGAIN)

    def _settle(self, request: StoreRequest, incoming: Incoming, data_offset: int) -> Ingested:
        """Check a complete incoming object and make it durable."""
        scanned = _scan(incoming, request, data_offset)
        self._check(scanned, request)
        sha256 = incoming.seal()
        path = object_path(
            self._layout,
            study=scanned.StudyInstanceUID,
            series=scanned.SeriesInstanceUID,
            instance=request.SOPInstanceUID,
            received_at=request.origin.received_at,
        )
        replaces = self._duplicates is Duplicates.REPLACE
        arrived = record_of(request, scanned, tier=self._landing.tier, path=path, size=incoming.size, sha256=sha256, replaces=replaces)
        if self._is_journalled(arrived, incoming):
            return Ingested(arrived, Fate.STORED)
        outcome = self._placing.place(arrived, incoming, self._duplicates, durable=True)
        if outcome.fate is Fate.STORED:
            self._journal.append(outcome.record)
        else:
            self._rely_on(outcome.record)
        return outcome

    def _is_journalled(self, arrived: InstanceRecord, incoming: Incoming) -> bool:
        """Whether the journal has taken an instance as a whole. Under `reject` it must be known now whether the name is free."""
        if incoming.content is None or self._duplicates is Duplicates.REJECT or self._landing.holds(arrived.path):
            return False
        return self._journal.append(arrived, incoming.content)

    def _rely_on(self, record: InstanceRecord) -> None:
        """Let the object that holds a name be the arrival, and see to it that it is durable: who placed it may not have come that far.

        A flow may have been taking it away. What it takes away once the record is journalled, it gives back; before that, we do.
        """
        if self._landing.secure([record.path]):
            self._write_anew(record.path)
        self._journal.append(record)
        try:
            if not self._landing.holds(record.path):
                self._landing.revive(record.path, record.sha256)
        except ObjectMissing as exc:
            raise StorageUnavailable(f"the object {record.path} has just been moved or destroyed") from exc

    def _write_anew(self, path: str) -> None:
        """Make an object durable that could not be synced; what it gives out has just been compared with what arrived."""
        log.warning("object_written_anew", path=path)
        try:
            with self._landing.local_path(path).open("rb") as file, mapped(file) as content:
                self._landing.restore(path, content)
        except OSError as exc:
            raise StorageUnavailable(f"the object {path} could not be synced, nor read to be written anew") from exc

    def _check(self, scanned: ScanResult, request: StoreRequest) -> None:
        """The data set against the command set (PS3.4 B.2.2: they name the same instance)."""
        for name, said, found in (
            ("SOPClassUID", request.SOPClassUID, scanned.SOPClassUID),
            ("SOPInstanceUID", request.SOPInstanceUID, scanned.SOPInstanceUID),
        ):
            if said != found:
                raise DataSetMismatch(f"{name} is {said!r} in the request and {found!r} in the data set")
        for name, uid in (("StudyInstanceUID", scanned.StudyInstanceUID), ("SeriesInstanceUID", scanned.SeriesInstanceUID)):
            if not uid:
                raise DataSetMismatch(f"the data set has no {name}")
            self._check_uid(uid, name)

    def _check_uid(self, uid: str, name: str) -> None:
        if self._invalid_uids is InvalidUIDs.REFUSE:
            parse_uid(uid, name=name)
        elif not 0 < len(uid) <= _LONGEST_UID:
            raise InvalidUID(f"{name} has {len(uid)} characters; between 1 and {_LONGEST_UID} are accepted")


class Ingestion:
    """One instance on its way in. Not thread-safe. As a context manager it leaves nothing behind unless finished."""

    def __init__(self, request: StoreRequest, incoming: Incoming, settle: Callable[[StoreRequest, Incoming, int], Ingested]) -> None:
        self._request = request
        self._incoming = incoming
        self._settle = settle
        meta = build_file_meta(request)
        self._data_offset = len(meta)
        incoming.write(meta)

    def write(self, data: Buffer) -> None:
        """Append a fragment of the data set. StorageFull, StorageUnavailable."""
        self._incoming.write(data)

    def finish(self) -> Ingested:
        """Store durably what was written; when this returns it may be acknowledged.

        Raises UnreadableDataSet, DataSetMismatch, InvalidUID or DuplicateInstance if it cannot be accepted, and
        StorageFull or StorageUnavailable if it could not be stored.
        """
        try:
            if self._incoming.size == self._data_offset:
                raise UnreadableDataSet("the data set is empty")
            return self._settle(self._request, self._incoming, self._data_offset)
        finally:
            self._incoming.discard()

    def abort(self) -> None:
        """Remove what was written. Harmless after `finish`."""
        self._incoming.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.abort()


def _scan(incoming: Incoming, request: StoreRequest, data_offset: int) -> ScanResult:
    if incoming.content is not None:
        with memoryview(incoming.content) as content, content[data_offset:] as data:
            return scan(data, request.TransferSyntaxUID)
    try:
        with incoming.open() as file:
            return scan_file(file, transfer_syntax=request.TransferSyntaxUID, data_offset=data_offset)
    except OSError as exc:
        raise StorageUnavailable("an incoming instance could not be read back") from exc
