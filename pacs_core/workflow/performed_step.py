"""Modality performed procedure steps: what one needs, what may be changed, and when it is over (PS3.4 F.7). Pure.

Attributes of type 2 that a modality leaves out are not missed: many do, and the acquisition is no less real.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum

from pydicom import Dataset

from pacs_core.dicom.json_model import to_json
from pacs_core.dicom.values import parse_date, parse_time
from pacs_core.errors import FinishedStep, InvalidAttributeValue, MissingAttribute, MissingAttributeValue
from pacs_core.ports.modality import PerformedSeries, PerformedStep, RequestedStep

STATUS = "PerformedProcedureStepStatus"


class StepStatus(StrEnum):
    """PS3.3 C.4.14."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


# From where to where an N-SET may lead (F.7.2.2.2); what is over stays as it is.
TRANSITIONS: Mapping[StepStatus, frozenset[StepStatus]] = {
    StepStatus.IN_PROGRESS: frozenset(StepStatus),
    StepStatus.COMPLETED: frozenset(),
    StepStatus.DISCONTINUED: frozenset(),
}

# Type 1 of an N-CREATE (table F.7.2-1), at the top and in the items of its sequence.
REQUIRED = (
    "ScheduledStepAttributesSequence",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    STATUS,
    "Modality",
)
REQUIRED_OF_A_SCHEDULED_STEP = ("StudyInstanceUID",)

# What an N-SET may not change.
FIXED = (
    "ScheduledStepAttributesSequence",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "ReferencedPatientSequence",
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedStationName",
    "PerformedLocation",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "Modality",
    "StudyID",
)

# Type 1 of a step that is over. What was discontinued need not have led to a series.
REQUIRED_AT_THE_END: Mapping[StepStatus, tuple[str, ...]] = {
    StepStatus.COMPLETED: ("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", "PerformedSeriesSequence"),
    StepStatus.DISCONTINUED: ("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime"),
}
REQUIRED_OF_A_SERIES = ("ProtocolName", "SeriesInstanceUID")


def check_creation(ds: Dataset) -> None:
    """Whether an N-CREATE may be performed. MissingAttribute, MissingAttributeValue, InvalidAttributeValue."""
    _require(ds, REQUIRED)
    for item in ds.ScheduledStepAttributesSequence:
        _require(item, REQUIRED_OF_A_SCHEDULED_STEP, of="an item of ScheduledStepAttributesSequence")
    if status_of(ds) is not StepStatus.IN_PROGRESS:
        raise InvalidAttributeValue(f"{STATUS} of a new step is IN PROGRESS")


def changed(current: Dataset, changes: Dataset) -> Dataset:
    """A step after an N-SET, whose sequences replace those that are there.

    FinishedStep, InvalidAttributeValue, MissingAttribute or MissingAttributeValue if it may not be performed.
    """
    before = status_of(current)
    if not TRANSITIONS[before]:
        raise FinishedStep("Performed Procedure Step Object may no longer be updated")
    if refused := [keyword for keyword in FIXED if keyword in changes and changes.get(keyword) != current.get(keyword)]:
        raise InvalidAttributeValue(f"{', '.join(refused)} cannot be changed")
    ds = Dataset()
    ds.update(current)
    ds.update(changes)
    after = status_of(ds)
    if after is not before:
        _check_end(ds, after)
    return ds


def status_of(ds: Dataset) -> StepStatus:
    """InvalidAttributeValue for one that the Standard does not have."""
    text = _text(ds, STATUS)
    try:
        return StepStatus(text)
    except ValueError as exc:
        raise InvalidAttributeValue(f"{STATUS} {text[:20]!r} is none of {', '.join(StepStatus)}") from exc


def step_of(ds: Dataset) -> PerformedStep:
    """As it is kept. InvalidAttributeValue for what cannot be."""
    return PerformedStep(
        state=status_of(ds),
        PerformedProcedureStepID=_text(ds, "PerformedProcedureStepID"),
        PerformedStationAETitle=_text(ds, "PerformedStationAETitle"),
        Modality=_text(ds, "Modality"),
        PatientID=_text(ds, "PatientID"),
        started_at=_instant(ds, "PerformedProcedureStepStart"),
        ended_at=_instant(ds, "PerformedProcedureStepEnd"),
        attributes=to_json(ds),
        requested=tuple(
            RequestedStep(_text(item, "StudyInstanceUID"), _text(item, "ScheduledProcedureStepID"), _text(item, "AccessionNumber"))
            for item in _items(ds, "ScheduledStepAttributesSequence")
        ),
        series=tuple(_series(item) for item in _items(ds, "PerformedSeriesSequence") if _text(item, "SeriesInstanceUID")),
    )


def _check_end(ds: Dataset, status: StepStatus) -> None:
    _require(ds, REQUIRED_AT_THE_END[status], of=f"a step that is {status}")
    for item in _items(ds, "PerformedSeriesSequence"):
        _require(item, REQUIRED_OF_A_SERIES, of="an item of PerformedSeriesSequence")


def _require(ds: Dataset, keywords: Iterable[str], *, of: str = "a performed procedure step") -> None:
    absent = [keyword for keyword in keywords if keyword not in ds]
    if absent:
        raise MissingAttribute(f"{of} needs {', '.join(absent)}")
    empty = [keyword for keyword in keywords if ds[keyword].is_empty]
    if empty:
        raise MissingAttributeValue(f"{of} needs a value of {', '.join(empty)}")


def _series(item: Dataset) -> PerformedSeries:
    named = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
    return PerformedSeries(
        SeriesInstanceUID=_text(item, "SeriesInstanceUID"),
        ProtocolName=_text(item, "ProtocolName"),
        SeriesDescription=_text(item, "SeriesDescription"),
        PerformingPhysicianName=_text(item, "PerformingPhysicianName"),
        OperatorsName=_text(item, "OperatorsName"),
        RetrieveAETitle=_text(item, "RetrieveAETitle"),
        instances=sum(len(list(_items(item, keyword))) for keyword in named),
    )


def _items(ds: Dataset, keyword: str) -> Iterable[Dataset]:
    return ds.get(keyword) or ()


def _text(ds: Dataset, keyword: str) -> str:
    value = ds.get(keyword)
    return "" if value is None else str(value).strip()


def _instant(ds: Dataset, prefix: str) -> datetime | None:
    day, span = parse_date(_text(ds, prefix + "Date")), parse_time(_text(ds, prefix + "Time"))
    return datetime.combine(day, span.first) if day and span else None
