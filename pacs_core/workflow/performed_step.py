"""Modality performed procedure steps: what one needs, what may be changed, and when it is over (PS3.4 F.7). Pure.

Attributes of type 2 that a modality leaves out are not missed: many do, and the acquisition is no less real.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from pydicom import Dataset

from pacs_core.dicom.json_model import to_json
from pacs_core.dicom.values import parse_date, parse_time
from pacs_core.errors import FinishedStep, InvalidAttributeValue
from pacs_core.ports.modality import PerformedSeries, PerformedStep, RequestedStep
from pacs_core.workflow.attributes import check_unchanged, items_of, one_of, require, text_of

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
    require(ds, REQUIRED, of="a performed procedure step")
    for item in ds.ScheduledStepAttributesSequence:
        require(item, REQUIRED_OF_A_SCHEDULED_STEP, of="an item of ScheduledStepAttributesSequence")
    if status_of(ds) is not StepStatus.IN_PROGRESS:
        raise InvalidAttributeValue(f"{STATUS} of a new step is IN PROGRESS")


def changed(current: Dataset, changes: Dataset) -> Dataset:
    """A step after an N-SET, whose sequences replace those that are there.

    FinishedStep, InvalidAttributeValue, MissingAttribute or MissingAttributeValue if it may not be performed.
    """
    before = status_of(current)
    if not TRANSITIONS[before]:
        raise FinishedStep("Performed Procedure Step Object may no longer be updated")
    check_unchanged(current, changes, FIXED)
    ds = Dataset()
    ds.update(current)
    ds.update(changes)
    after = status_of(ds)
    if after is not before:
        _check_end(ds, after)
    return ds


def status_of(ds: Dataset) -> StepStatus:
    """InvalidAttributeValue for one that the Standard does not have."""
    return one_of(ds, STATUS, StepStatus)


def step_of(ds: Dataset) -> PerformedStep:
    """As it is kept. InvalidAttributeValue for what cannot be."""
    return PerformedStep(
        state=status_of(ds),
        PerformedProcedureStepID=text_of(ds, "PerformedProcedureStepID"),
        PerformedStationAETitle=text_of(ds, "PerformedStationAETitle"),
        Modality=text_of(ds, "Modality"),
        PatientID=text_of(ds, "PatientID"),
        started_at=_instant(ds, "PerformedProcedureStepStart"),
        ended_at=_instant(ds, "PerformedProcedureStepEnd"),
        attributes=to_json(ds),
        requested=tuple(
            RequestedStep(text_of(item, "StudyInstanceUID"), text_of(item, "ScheduledProcedureStepID"), text_of(item, "AccessionNumber"))
            for item in items_of(ds, "ScheduledStepAttributesSequence")
        ),
        series=tuple(_series(item) for item in items_of(ds, "PerformedSeriesSequence") if text_of(item, "SeriesInstanceUID")),
    )


def _check_end(ds: Dataset, status: StepStatus) -> None:
    require(ds, REQUIRED_AT_THE_END[status], of=f"a step that is {status}")
    for item in items_of(ds, "PerformedSeriesSequence"):
        require(item, REQUIRED_OF_A_SERIES, of="an item of PerformedSeriesSequence")


def _series(item: Dataset) -> PerformedSeries:
    named = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")
    return PerformedSeries(
        SeriesInstanceUID=text_of(item, "SeriesInstanceUID"),
        ProtocolName=text_of(item, "ProtocolName"),
        SeriesDescription=text_of(item, "SeriesDescription"),
        PerformingPhysicianName=text_of(item, "PerformingPhysicianName"),
        OperatorsName=text_of(item, "OperatorsName"),
        RetrieveAETitle=text_of(item, "RetrieveAETitle"),
        instances=sum(len(list(items_of(item, keyword))) for keyword in named),
    )


def _instant(ds: Dataset, prefix: str) -> datetime | None:
    day, span = parse_date(text_of(ds, prefix + "Date")), parse_time(text_of(ds, prefix + "Time"))
    return datetime.combine(day, span.first) if day and span else None
