"""Instance records as the archive journals them, for tests of the index."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from pacs_core.model import UID, Header, InstanceRecord, Origin

CT_IMAGE = UID("1.2.840.10008.5.1.4.1.1.2")
RECEIVED = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


def record(number: int, *, study: str = "1.1", series: str = "1.1.1", header: Header | None = None, **changes: Any) -> InstanceRecord:
    """The instance `<series>.<number>` of a CT; `header` adds to what a CT has, `changes` replaces fields."""
    instance = f"{series}.{number}"
    attributes: Header = {
        "PatientID": "P1",
        "PatientName": "Doe^Jane",
        "StudyInstanceUID": study,
        "StudyDate": "20240506",
        "SeriesInstanceUID": series,
        "Modality": "CT",
        "SOPInstanceUID": instance,
        "SOPClassUID": CT_IMAGE,
        "InstanceNumber": str(number),
    }
    fields: dict[str, Any] = {
        "SOPInstanceUID": UID(instance),
        "SOPClassUID": CT_IMAGE,
        "TransferSyntaxUID": UID("1.2.840.10008.1.2.1"),
        "SeriesInstanceUID": UID(series),
        "StudyInstanceUID": UID(study),
        "header": attributes | (header or {}),
        "tier": "hot",
        "path": f"{study}/{series}/{instance}.dcm",
        "size": 1000,
        "sha256": hashlib.sha256(instance.encode()).hexdigest(),
        "origin": Origin("MODALITY", "PACS", RECEIVED),
    }
    return InstanceRecord(**(fields | changes))
