"""Objects get their names, and what becomes of one whose name is taken: the policy for duplicates, and damage."""

import dataclasses
import errno
import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from pacs_core.dicom.file_meta import read_file_meta
from pacs_core.dicom.part10 import same_data_set, scan_file
from pacs_core.dicom.scan import ScanResult
from pacs_core.errors import ChecksumMismatch, DuplicateInstance, ObjectMissing, RequestError, StorageUnavailable
from pacs_core.model import UID, Copy, Duplicates, InstanceRecord, StoredObject, StoreRequest
from pacs_core.ports import Incoming, LandingStore
from pacs_core.storage.layout import replacement_path

log = structlog.get_logger(__name__)

_ATTEMPTS = 3


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


class Placing:
    """Gives objects their names on the landing tier. Thread-safe. Everything may be repeated after a crash."""

    def __init__(self, landing: LandingStore) -> None:
        self._landing = landing

    def place(self, arrived: InstanceRecord, incoming: Incoming, duplicates: Duplicates, *, durable: bool) -> Ingested:
        """Name a sealed object, or settle that the name is taken. What is named here is durable now or once it is secured.

        DuplicateInstance by the policy; StorageFull, StorageUnavailable.
        """
        if duplicates is Duplicates.REPLACE and is_intact(self._landing, replacement := _replacement(arrived)):
            incoming.discard()  # placed before a crash, when the name was taken; it is free by now where the holder was settled
            return Ingested(replacement, Fate.STORED)
        for _ in range(_ATTEMPTS):
            if self._landing.place(incoming, arrived.path, durable=durable).created or is_intact(
                self._landing, arrived
            ):  # placed before a crash
                incoming.discard()
                return Ingested(arrived, Fate.STORED)
            try:
                return self._settle_duplicate(arrived, incoming, duplicates, durable=durable)
            except FileNotFoundError:  # the object that held the name has just been moved away, so the name is free
                continue
            except ChecksumMismatch as exc:
                self._set_damaged_aside(arrived, exc)
        raise StorageUnavailable(f"the object {arrived.path} comes and goes")

    def _settle_duplicate(self, arrived: InstanceRecord, incoming: Incoming, duplicates: Duplicates, *, durable: bool) -> Ingested:
        """The name is taken. FileNotFoundError if it no longer is, ChecksumMismatch if what holds it is damaged.

        Under `replace` the index may be about to remove what holds the name, so each arrival gets a name of its own there.
        """
        if duplicates is Duplicates.REPLACE:
            return self._replace(arrived, incoming, durable=durable)
        is_same, record = _compare(self._landing.local_path(arrived.path), arrived, incoming)
        if is_same:
            incoming.discard()
            return Ingested(record, Fate.ALREADY_HELD)
        if record.origin == arrived.origin:
            raise ChecksumMismatch(f"the object that holds {arrived.path} is what a crash has left of this very arrival")
        reason = f"SOPInstanceUID {record.SOPInstanceUID} is held already with another data set"
        if duplicates is Duplicates.REJECT:
            raise DuplicateInstance(reason)
        where = self._landing.quarantine(incoming, reason=reason)
        log.warning("duplicate_kept_first", SOPInstanceUID=record.SOPInstanceUID, path=record.path, quarantined=where)
        return Ingested(record, Fate.KEPT_FIRST)

    def _replace(self, arrived: InstanceRecord, incoming: Incoming, *, durable: bool) -> Ingested:
        record = _replacement(arrived)
        for _ in range(_ATTEMPTS):
            if self._landing.place(incoming, record.path, durable=durable).created or is_intact(self._landing, record):
                incoming.discard()
                return Ingested(record, Fate.STORED)
            self._set_damaged_aside(record, ChecksumMismatch(f"{record.path} is what a crash has left of this very arrival"))
        raise StorageUnavailable(f"the object {record.path} comes and goes")

    def _set_damaged_aside(self, arrived: InstanceRecord, damage: ChecksumMismatch) -> None:
        """Free the name: an instance that is offered intact is worth more than one that cannot be read."""
        try:
            where = self._landing.set_aside(arrived.path, reason=str(damage))
        except ObjectMissing:  # another association was faster
            return
        log.error("damaged_object_set_aside", SOPInstanceUID=arrived.SOPInstanceUID, path=arrived.path, quarantined=where)


def _replacement(arrived: InstanceRecord) -> InstanceRecord:
    """An arrival under a name of its own: it has a digest that covers the time of arrival too, so nobody else can have taken it."""
    return dataclasses.replace(arrived, path=replacement_path(arrived.path, arrived.sha256))


def is_intact(landing: LandingStore, record: InstanceRecord | StoredObject | Copy) -> bool:
    """Whether the object that a record names is there with the bytes that the record tells of."""
    try:
        with landing.local_path(record.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == record.sha256
    except OSError:
        return False


def record_of(
    request: StoreRequest, scanned: ScanResult, *, tier: str, path: str, size: int, sha256: str, replaces: bool
) -> InstanceRecord:
    """The record of an object, of what was said of it and what it says itself."""
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
    record = record_of_file(holder, tier=arrived.tier, path=arrived.path)
    if record.SOPInstanceUID != arrived.SOPInstanceUID:
        raise ChecksumMismatch(f"the object that holds {arrived.path} is damaged: it names another instance")
    return record


def record_of_file(file_path: Path, *, tier: str, path: str) -> InstanceRecord:
    """The record of an object of this archive, made from its bytes alone.

    OSError; RequestError if it cannot be read as DICOM, ChecksumMismatch if it does not say where it came from: every object of
    ours does.
    """
    with file_path.open("rb") as file:
        # Read as a whole before it is mapped: a sector that cannot be read is an error here and a signal there.
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        file.seek(0)
        meta = read_file_meta(file)
        scanned = scan_file(file, transfer_syntax=meta.TransferSyntaxUID, data_offset=meta.data_offset)
    if meta.origin is None:
        raise ChecksumMismatch(f"the object {path} is damaged: it does not say where it came from")
    request = StoreRequest(UID(scanned.SOPClassUID), UID(scanned.SOPInstanceUID), UID(meta.TransferSyntaxUID), meta.origin)
    return record_of(request, scanned, tier=tier, path=path, size=size, sha256=sha256, replaces=False)
