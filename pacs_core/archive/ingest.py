"""Taking one instance in. When `finish` returns, the instance survives anything short of losing the disk.

    receive, hashing → scan → check against the request → name the object → journal record and content, synced → acknowledge

A small instance is synced once, as a part of the journal, which writes the object anew should a crash lose it; the
object itself is synced later, with many others. A large one, or one that the journal has no room for, is synced itself, and
the journal has only its record.

A process that dies on the way leaves an incoming file, which the next sweep removes, or a named object that nobody was
told of. The latter stays: the sender will repeat the instance, is found to send what is held, and only the journal
record is added. For the same reason an object is not removed again when the journal fails after it was named: another
association may by then have been acknowledged on the strength of it.
"""

import dataclasses
import errno
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from typing_extensions import Buffer

from pacs_core.dicom.file_meta import build_file_meta, read_file_meta
from pacs_core.dicom.part10 import same_data_set, scan_file
from pacs_core.dicom.scan import ScanResult, scan
from pacs_core.errors import (
    ChecksumMismatch,
    DataSetMismatch,
    DuplicateInstance,
    InvalidUID,
    ObjectMissing,
    RequestError,
    StorageUnavailable,
    UnreadableDataSet,
)
from pacs_core.model import UID, Duplicates, InstanceRecord, InvalidUIDs, Layout, StoreRequest, parse_uid
from pacs_core.ports import Incoming, Journal, LandingStore
from pacs_core.storage.layout import object_path, replacement_path

log = structlog.get_logger(__name__)

_LONGEST_UID = 1024  # of those that are not UIDs but accepted as sent
_PLACE_ATTEMPTS = 3


class Fate(StrEnum):
    """What became of an instance that was taken in. All of these are success to its sender."""

    STORED = "stored"
    ALREADY_HELD = "already held"  # with the same data set
    KEPT_FIRST = "kept first"  # held with another data set; the new one went into quarantine


@dataclass(frozen=True, slots=True)
class Ingested:
    """The outcome: the instance as it is held, which need not be what arrived."""

    record: InstanceRecord
    fate: Fate


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

    def begin(self, request: StoreRequest) -> "Ingestion":
        """Begin to take in an instance. InvalidUID by the setting, StorageFull, StorageUnavailable."""
        self._check_uid(request.SOPClassUID, "SOPClassUID")
        self._check_uid(request.SOPInstanceUID, "SOPInstanceUID")
        incoming = self._landing.incoming()
        try:
            return Ingestion(request, incoming, self._settle)
        except BaseException:
            incoming.discard()
            raise

    def _settle(self, request: StoreRequest, incoming: Incoming, data_offset: int) -> Ingested:
        """Check, name and journal a complete incoming object."""
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
        arrived = _record(request, scanned, tier=self._landing.tier, path=path, size=incoming.size, sha256=sha256, replaces=self._replaces)
        for _ in range(_PLACE_ATTEMPTS):
            if self._landing.place(incoming, path).created:
                self._keep(arrived, incoming.content)
                return Ingested(arrived, Fate.STORED)
            try:
                return self._settle_duplicate(arrived, incoming)
            except FileNotFoundError:  # the object that held the name has just been moved away, so the name is free
                continue
            except ChecksumMismatch as exc:
                self._set_damaged_aside(arrived, exc)
        raise StorageUnavailable(f"the object {path} comes and goes")

    def _keep(self, record: InstanceRecord, content: bytearray | None = None) -> None:
        """Make a placed object and its record durable."""
        if content is not None and self._journal.append(record, content):
            return
        if self._landing.secure([record.path]):
            raise StorageUnavailable(f"the object {record.path} could not be synced")
        self._journal.append(record)

    @property
    def _replaces(self) -> bool:
        return self._duplicates is Duplicates.REPLACE

    def _settle_duplicate(self, arrived: InstanceRecord, incoming: Incoming) -> Ingested:
        """The name is taken. FileNotFoundError if it no longer is, ChecksumMismatch if what holds it is damaged.

        What holds the name is journalled anew in any case: it may be there because a process died before it could do
        that, and the sender is about to be told that the instance is held. Not so under `replace`, where the index may
        be about to remove that very object: there each arrival gets a name of its own and takes over.
        """
        if self._replaces:
            return self._replace(arrived, incoming)
        is_same, record = _compare(self._landing.local_path(arrived.path), arrived, incoming)
        self._keep(record)  # whoever placed it may not have come that far
        if is_same:
            incoming.discard()
            return Ingested(record, Fate.ALREADY_HELD)
        reason = f"SOPInstanceUID {record.SOPInstanceUID} is held already with another data set"
        if self._duplicates is Duplicates.REJECT:
            raise DuplicateInstance(reason)
        where = self._landing.quarantine(incoming, reason=reason)
        log.warning("duplicate_kept_first", SOPInstanceUID=record.SOPInstanceUID, path=record.path, quarantined=where)
        return Ingested(record, Fate.KEPT_FIRST)

    def _set_damaged_aside(self, arrived: InstanceRecord, damage: ChecksumMismatch) -> None:
        """Free the name: an instance that is offered intact is worth more than one that cannot be read."""
        try:
            where = self._landing.set_aside(arrived.path, reason=str(damage))
        except ObjectMissing:  # another association was faster
            return
        log.error("damaged_object_set_aside", SOPInstanceUID=arrived.SOPInstanceUID, path=arrived.path, quarantined=where)

    def _replace(self, arrived: InstanceRecord, incoming: Incoming) -> Ingested:
        record = dataclasses.replace(arrived, path=replacement_path(arrived.path, arrived.sha256))
        if not self._landing.place(incoming, record.path).created:
            # The name contains a digest of the time of arrival too, so this is the very same arrival, or a forged one.
            raise DuplicateInstance(f"{record.path} is taken")
        self._keep(record, incoming.content)
        return Ingested(record, Fate.STORED)

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


def _record(request: StoreRequest, scanned: ScanResult, *, tier: str, path: str, size: int, sha256: str, replaces: bool) -> InstanceRecord:
    return InstanceRecord(
        SOPInstanceUID=request.SOPInstanceUID,
        SOPClassUID=request.SOPClassUID,
        TransferSyntaxUID=request.TransferSyntaxUID,
        SeriesInstanceUID=UID(scanned.SeriesInstanceUID),
        StudyInstanceUID=UID(scanned.StudyInstanceUID),
        header=scanned.header,
        tier=tier,
        path=path,
        size=size,
        sha256=sha256,
        origin=request.origin,
        replaces=replaces,
    )


def _compare(holder: Path, arrived: InstanceRecord, incoming: Incoming) -> tuple[bool, InstanceRecord]:
    """Whether the object that holds a name has the data set that arrived, and the holder's record.

    FileNotFoundError if it is gone, ChecksumMismatch if it is damaged, StorageUnavailable if it cannot be read for now.
    """
    try:
        with holder.open("rb") as held, incoming.open() as new:
            is_same = same_data_set(held, new)
        return is_same, _record_of_holder(holder, arrived)
    except FileNotFoundError:
        raise
    except RequestError as exc:  # it could be read when it was stored
        raise ChecksumMismatch(f"the object that holds {arrived.path} is damaged") from exc
    except OSError as exc:
        if exc.errno == errno.EIO:
            raise ChecksumMismatch(f"the medium cannot read the object that holds {arrived.path}") from exc
        raise StorageUnavailable(f"the object that holds {arrived.path} cannot be read: {exc.strerror}") from exc


def _record_of_holder(holder: Path, arrived: InstanceRecord) -> InstanceRecord:
    """The journal record of the object that holds a name, made from the object alone. Errors as `_compare`."""
    with holder.open("rb") as file:
        # Read as a whole before it is mapped: a sector that cannot be read is an error here and a signal there.
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        file.seek(0)
        meta = read_file_meta(file)
        scanned = scan_file(file, transfer_syntax=meta.TransferSyntaxUID, data_offset=meta.data_offset)
    if scanned.SOPInstanceUID != arrived.SOPInstanceUID:
        raise ChecksumMismatch(f"the object that holds {arrived.path} is damaged: it names another instance")
    if meta.origin is None:  # every object of ours says where it came from
        raise ChecksumMismatch(f"the object that holds {arrived.path} is damaged: it does not say where it came from")
    request = StoreRequest(UID(scanned.SOPClassUID), arrived.SOPInstanceUID, UID(meta.TransferSyntaxUID), meta.origin)
    return _record(request, scanned, tier=arrived.tier, path=arrived.path, size=size, sha256=sha256, replaces=False)
