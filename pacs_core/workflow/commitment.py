"""Storage commitment: what a request needs, what an answer says (PS3.4 annex J, PS3.3 C.14). Pure."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from pydicom import Dataset

from pacs_core.errors import InvalidAttributeValue
from pacs_core.model import parse_uid
from pacs_core.ports.commitment import Reference
from pacs_core.ports.modality import Report
from pacs_core.workflow.attributes import require

PUSH_MODEL = "1.2.840.10008.1.20.1"
INSTANCE = "1.2.840.10008.1.20.1.1"  # the well-known one (PS3.6 annex A)
REQUEST = 1  # the action type
ALL_COMMITTED, FAILURES_EXIST = 1, 2  # event types
_REQUEST, _ANSWER = "a request for storage commitment", "an answer of storage commitment"


class FailureReason(IntEnum):
    """Why there is no commitment for an instance (PS3.3 C.14.1.1)."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION_UID = 0x0131
    RESOURCE_LIMITATION = 0x0213


def request_of(ds: Dataset) -> tuple[str, Sequence[Reference]]:
    """TransactionUID and instances of an N-ACTION (table J.3-1). MissingAttribute, MissingAttributeValue, InvalidUID."""
    require(ds, ("TransactionUID", "ReferencedSOPSequence"), of=_REQUEST)
    for item in ds.ReferencedSOPSequence:
        require(item, ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"), of=_REQUEST)
    references = [Reference(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)) for item in ds.ReferencedSOPSequence]
    return parse_uid(str(ds.TransactionUID), name="TransactionUID"), references


def request_for(transaction: str, references: Sequence[Reference]) -> Dataset:
    """The action information that asks a peer for commitment."""
    ds = Dataset()
    ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = [_item(reference) for reference in references]
    return ds


def report_of(peer: str, transaction: str, references: Sequence[Reference], failures: Mapping[int, int], *, retrieve_ae: str) -> Report:
    """The event report that answers a request (tables J.3-2 and J.3-3).

    Args:
        failures: failure reasons by the position of their instance.
        retrieve_ae: from whom the others can be retrieved.
    """
    failed = [_model(each, failures[position]) for position, each in enumerate(references) if position in failures]
    committed = [_model(each) for position, each in enumerate(references) if position not in failures]
    attributes: dict[str, Any] = {"00081195": {"vr": "UI", "Value": [transaction]}}
    if committed:
        attributes |= {"00080054": {"vr": "AE", "Value": [retrieve_ae]}, "00081199": {"vr": "SQ", "Value": committed}}
    if failed:
        attributes["00081198"] = {"vr": "SQ", "Value": failed}
    return Report(peer, PUSH_MODEL, PUSH_MODEL, INSTANCE, FAILURES_EXIST if failed else ALL_COMMITTED, attributes)


def answer_of(ds: Dataset, event_type: int) -> tuple[str, Mapping[str, int]]:
    """TransactionUID and failures of a peer's event report, by SOPInstanceUID."""
    require(ds, ("TransactionUID",), of=_ANSWER)
    if event_type not in (ALL_COMMITTED, FAILURES_EXIST):
        raise InvalidAttributeValue(f"event type {event_type} is none of storage commitment")
    if event_type == FAILURES_EXIST:
        require(ds, ("FailedSOPSequence",), of=_ANSWER)
    failures = {
        str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or FailureReason.PROCESSING_FAILURE)
        for item in ds.get("FailedSOPSequence") or ()
    }
    return str(ds.TransactionUID), failures


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    return item


def _model(reference: Reference, reason: int | None = None) -> Mapping[str, Any]:
    item: dict[str, Any] = {
        "00081150": {"vr": "UI", "Value": [reference.SOPClassUID]},
        "00081155": {"vr": "UI", "Value": [reference.SOPInstanceUID]},
    }
    return item if reason is None else item | {"00081197": {"vr": "US", "Value": [int(reason)]}}
