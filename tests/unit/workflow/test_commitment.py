"""What a request for commitment needs, what is decided about each instance, and what the answer says (PS3.4 annex J)."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import BinaryIO

import pytest
from pydicom import Dataset

from pacs_core.archive.safekeeping import DAMAGED, GOOD, MISSING, OTHER_CLASS, Safekeeping
from pacs_core.dicom.json_model import from_json
from pacs_core.errors import IndexUnavailable, InvalidUID, MissingAttribute, MissingAttributeValue, RequestError, StorageUnavailable
from pacs_core.model import UID, Availability, StoredObject
from pacs_core.ports.commitment import Entered, Reference, Request
from pacs_core.ports.modality import Report
from pacs_core.workflow.commitment import FailureReason, answer_of, report_of, request_for, request_of
from pacs_core.workflow.committing import CommitmentChecker, reason_for
from pacs_core.workflow.retries import Retries
from tests.support.retrieving import MemoryStore

CT = "1.2.840.10008.5.1.4.1.1.2"
REFERENCES = [Reference(CT, "1.1"), Reference(CT, "1.2"), Reference(CT, "1.3")]


def test_a_request_is_read_as_it_is_written() -> None:
    assert request_of(request_for("1.9", REFERENCES)) == ("1.9", REFERENCES)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ({"TransactionUID": None}, MissingAttribute),
        ({"TransactionUID": ""}, MissingAttributeValue),
        ({"TransactionUID": "1.x"}, InvalidUID),
        ({"ReferencedSOPSequence": None}, MissingAttribute),
        ({"ReferencedSOPSequence": []}, MissingAttributeValue),
        ({"ReferencedSOPSequence": [Dataset()]}, MissingAttribute),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_request_that_lacks_something_is_refused(broken: Mapping[str, object], error: type[RequestError]) -> None:
    ds = request_for("1.9", REFERENCES)
    for keyword, value in broken.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    with pytest.raises(error):
        request_of(ds)


@pytest.mark.parametrize(
    ("found", "is_supported", "reason"),
    [
        (GOOD, True, None),
        (GOOD, False, None),  # it was taken in when its class was
        (MISSING, True, FailureReason.NO_SUCH_OBJECT_INSTANCE),
        (MISSING, False, FailureReason.SOP_CLASS_NOT_SUPPORTED),
        (OTHER_CLASS, True, FailureReason.CLASS_INSTANCE_CONFLICT),
        (OTHER_CLASS, False, FailureReason.CLASS_INSTANCE_CONFLICT),
        (DAMAGED, True, FailureReason.PROCESSING_FAILURE),
        (DAMAGED, False, FailureReason.PROCESSING_FAILURE),
    ],
)
def test_every_finding_has_its_reason(found: str, is_supported: bool, reason: FailureReason | None) -> None:
    assert reason_for(found, is_supported=is_supported) is reason


@pytest.mark.parametrize("failures", [{}, {1: 0x0112}, {0: 0x0110, 1: 0x0119, 2: 0x0122}])
def test_an_answer_says_what_is_committed_and_why_the_rest_is_not(failures: Mapping[int, int]) -> None:
    report = report_of("CT1", "1.9", REFERENCES, failures, retrieve_ae="PACS")
    ds = from_json(report.attributes)
    assert report.event_type == (2 if failures else 1)
    committed = [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in ds.get("ReferencedSOPSequence") or []]
    assert committed == [tuple(each) for position, each in enumerate(REFERENCES) if position not in failures]
    assert ("RetrieveAETitle" in ds) == bool(committed)
    by_uid = {REFERENCES[position].SOPInstanceUID: reason for position, reason in failures.items()}
    assert answer_of(ds, report.event_type) == ("1.9", by_uid)


class Places:
    """ports.Copies of what a test says."""

    def __init__(self, *places: StoredObject) -> None:
        self.places = places

    def copies(self, SOPInstanceUIDs: Sequence[UID]) -> Mapping[UID, Sequence[StoredObject]]:
        return {uid: [each for each in self.places if each.SOPInstanceUID == uid] for uid in SOPInstanceUIDs}


class Tier(MemoryStore):
    """One that may be away."""

    away = False

    def open(self, path: str) -> BinaryIO:
        if self.away:
            raise StorageUnavailable("away")
        return super().open(path)


CONTENT = b"content"


def place(uid: str, tier: str = "hot", sop_class: str = CT) -> StoredObject:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return StoredObject(UID(uid), UID(sop_class), UID("1.2"), UID("1"), UID("1"), tier, f"{uid}.dcm", len(CONTENT), digest)


@pytest.fixture
def tiers() -> dict[str, Tier]:
    return {"hot": Tier(), "cold": Tier()}


def look(tiers: dict[str, Tier], *places: StoredObject, read: bool = True) -> list[str]:
    return list(Safekeeping(tiers, Places(*places), read=read).look([REFERENCES[0]]))


def test_a_good_object_is_good(tiers: dict[str, Tier]) -> None:
    tiers["hot"].objects["1.1.dcm"] = CONTENT
    assert look(tiers, place("1.1")) == look(tiers, place("1.1"), read=False) == [GOOD]


def test_what_the_index_does_not_have_is_missing(tiers: dict[str, Tier]) -> None:
    tiers["hot"].objects["1.1.dcm"] = CONTENT
    assert look(tiers) == [MISSING]


def test_an_instance_of_another_class_is_none_of_what_was_asked_for(tiers: dict[str, Tier]) -> None:
    tiers["hot"].objects["1.1.dcm"] = CONTENT
    assert look(tiers, place("1.1", sop_class="1.2.3")) == [OTHER_CLASS]


@pytest.mark.parametrize(("content", "read", "size"), [(b"CONTENT", DAMAGED, GOOD), (b"short", DAMAGED, DAMAGED), (None, DAMAGED, DAMAGED)])
def test_only_reading_tells_other_bytes_of_the_same_size(tiers: dict[str, Tier], content: bytes | None, read: str, size: str) -> None:
    if content is not None:
        tiers["hot"].objects["1.1.dcm"] = content
    assert look(tiers, place("1.1")) == [read]
    assert look(tiers, place("1.1"), read=False) == [size]


def test_one_good_copy_is_enough(tiers: dict[str, Tier]) -> None:
    tiers["hot"].objects["1.1.dcm"] = b"damaged"
    tiers["cold"].objects["1.1.dcm"] = CONTENT
    assert look(tiers, place("1.1"), place("1.1", "cold")) == [GOOD]


def test_a_tier_that_does_not_answer_may_hold_the_good_one(tiers: dict[str, Tier]) -> None:
    tiers["hot"].objects["1.1.dcm"] = b"damaged"
    tiers["cold"].away = True
    with pytest.raises(StorageUnavailable):
        look(tiers, place("1.1"), place("1.1", "cold"))
    tiers["hot"].objects["1.1.dcm"] = CONTENT
    assert look(tiers, place("1.1"), place("1.1", "cold")) == [GOOD]


@pytest.mark.parametrize("read", [True, False])
def test_an_archived_object_is_good_if_its_provider_has_it(tiers: dict[str, Tier], read: bool) -> None:
    tiers["cold"].objects["1.1.dcm"] = CONTENT
    tiers["cold"].states["1.1.dcm"] = Availability.ARCHIVED
    assert look(tiers, place("1.1", "cold"), read=read) == [GOOD]
    del tiers["cold"].objects["1.1.dcm"]
    assert look(tiers, place("1.1", "cold"), read=read) == [DAMAGED]


class Memory:
    """ports.commitment.Commitments with one request."""

    def __init__(self, request: Request) -> None:
        self.request: Request | None = request
        self.put_offs: list[timedelta] = []
        self.finished: list[tuple[Mapping[int, int], Report]] = []

    def enter(self, peer: str, transaction: str, references: Sequence[Reference]) -> Entered:
        raise AssertionError

    def claim(self, *, lease: timedelta, number: int | None = None) -> Request | None:
        request, self.request = self.request, None
        return request

    def renew(self, number: int, lease: timedelta) -> None:
        raise AssertionError("nothing takes that long here")

    def references(self, number: int) -> Sequence[Reference]:
        return REFERENCES

    def put_off(self, number: int, error: str, after: timedelta) -> None:
        self.put_offs.append(after)

    def finish(self, number: int, failures: Mapping[int, int], report: Report) -> int | None:
        self.finished.append((failures, report))
        return 7


def request(*, is_repeated: bool = False, age: timedelta = timedelta()) -> Request:
    return Request(1, "CT1", "1.9", is_repeated, len(REFERENCES), 2, age)


def checker(memory: Memory, tiers: dict[str, Tier], *places: StoredObject, settle: Callable[[], None] = lambda: None) -> CommitmentChecker:
    retries = Retries(timedelta(seconds=1), timedelta(seconds=60), timedelta(days=1))
    keeping = Safekeeping(tiers, Places(*places), read=True)
    return CommitmentChecker(
        memory, keeping, settle=settle, supports=lambda _: True, retries=retries, retrieve_ae="PACS", owed=lambda: None
    )


def test_a_request_is_answered_instance_by_instance(tiers: dict[str, Tier]) -> None:
    tiers["hot"].objects |= {"1.1.dcm": CONTENT, "1.2.dcm": b"damaged"}
    memory = Memory(request())
    assert checker(memory, tiers, place("1.1"), place("1.2")).check() == 7
    ((failures, report),) = memory.finished
    assert failures == {1: FailureReason.PROCESSING_FAILURE, 2: FailureReason.NO_SUCH_OBJECT_INSTANCE}
    assert (report.peer, report.event_type) == ("CT1", 2)


def test_what_cannot_be_told_now_is_asked_again_later(tiers: dict[str, Tier]) -> None:
    tiers["hot"].away = True
    memory = Memory(request())
    assert checker(memory, tiers, place("1.1")).check() is None
    assert (memory.put_offs, memory.finished) == ([timedelta(seconds=2)], [])


def test_what_is_acknowledged_and_not_yet_indexed_is_waited_for(tiers: dict[str, Tier]) -> None:
    def settle() -> None:
        raise IndexUnavailable("not yet")

    memory = Memory(request())
    assert checker(memory, tiers, settle=settle).check() is None
    assert memory.put_offs


def test_what_can_never_be_told_fails_in_the_end(tiers: dict[str, Tier]) -> None:
    tiers["hot"].away = True
    memory = Memory(request(age=timedelta(days=2)))
    assert checker(memory, tiers, place("1.1")).check() == 7
    assert set(memory.finished[0][0].values()) == {FailureReason.RESOURCE_LIMITATION}


def test_a_transaction_uid_that_is_in_use_fails_all(tiers: dict[str, Tier]) -> None:
    tiers["hot"].objects["1.1.dcm"] = CONTENT
    memory = Memory(request(is_repeated=True))
    assert checker(memory, tiers, place("1.1")).check() == 7
    assert set(memory.finished[0][0].values()) == {FailureReason.DUPLICATE_TRANSACTION_UID}


def test_delays_double_up_to_the_longest_until_it_is_too_old() -> None:
    retries = Retries(timedelta(seconds=5), timedelta(seconds=60), timedelta(days=1))
    delays = [retries.after(attempts, timedelta()) for attempts in (1, 2, 3, 4, 5, 1000)]
    assert delays == [timedelta(seconds=seconds) for seconds in (5, 10, 20, 40, 60, 60)]
    assert retries.after(1, timedelta(days=2)) is None
