"""The modality worklist: items, what one needs, and which of them a query selects (PS3.4 annex K). Pure.

An item is a requested procedure with one scheduled procedure step, as a Header in the form of PS3.4 table K.6-1: the attributes of the
step are the one item of its ScheduledProcedureStepSequence.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from enum import StrEnum
from uuid import UUID, uuid5

from pacs_core.dicom.matching import Criterion, DateCriterion, InstantCriterion, SequenceCriterion, parse_criteria
from pacs_core.dicom.values import parse_date, parse_time
from pacs_core.errors import InvalidAttributeValue, InvalidIdentifier, MissingAttribute
from pacs_core.model import Header, parse_uid

STEPS = "ScheduledProcedureStepSequence"

# Attributes of the scheduled procedure step (PS3.3 table C.4-10); all others are of the patient, the visit and the request.
OF_THE_STEP = frozenset(
    {
        "AnatomicalOrientationType",
        "CommentsOnTheScheduledProcedureStep",
        "Modality",
        "PreMedication",
        "RequestedContrastAgent",
        "ScheduledPerformingPhysicianIdentificationSequence",
        "ScheduledPerformingPhysicianName",
        "ScheduledProcedureStepDescription",
        "ScheduledProcedureStepEndDate",
        "ScheduledProcedureStepEndTime",
        "ScheduledProcedureStepID",
        "ScheduledProcedureStepLocation",
        "ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepStartTime",
        "ScheduledProcedureStepStatus",
        "ScheduledProtocolCodeSequence",
        "ScheduledStationAETitle",
        "ScheduledStationName",
    }
)
# Type 1 in table K.6-1, and given by nobody else.
_REQUIRED = ("PatientID", "PatientName")
_REQUIRED_OF_THE_STEP = ("ScheduledStationAETitle", "Modality", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime")

_MODALITY = re.compile(r"[A-Z0-9 _]{1,16}")
_LONGEST_AE_TITLE = 16
_START_DATE = "ScheduledProcedureStepStartDate"
_NAMESPACE = UUID("6f0a1c62-3d0e-4b57-9d0c-5f3c0c8a7e11")  # of the UIDs that are made here


class StepState(StrEnum):
    """How far a scheduled procedure step has come. The modality says so by MPPS, the department by cancelling."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class WorklistItem:
    """One item, complete.

    Attributes:
        header: everything that is known of it.
        scheduled_at: the local date and time at which the step is to begin.
    """

    header: Header
    scheduled_at: datetime

    def text(self, keyword: str) -> str:
        """The value of an attribute, of the step or of the rest; "" where it has none."""
        value = (step_of(self.header) if keyword in OF_THE_STEP else self.header).get(keyword, "")
        return value if isinstance(value, str) else ""


def step_of(header: Header) -> Header:
    """The scheduled procedure step of an item; empty where there is none."""
    steps = header.get(STEPS)
    return steps[0] if isinstance(steps, list) and steps else {}


def item_of(given: Header) -> WorklistItem:
    """An item from what somebody gives: in the form of table K.6-1, or with the attributes of the step beside the others.

    Identifiers that a small department does without are made, the same ones each time: StudyInstanceUID, RequestedProcedureID (the
    accession number, where there is one) and ScheduledProcedureStepID. MissingAttribute, InvalidAttributeValue or InvalidUID for
    what cannot be scheduled.
    """
    steps = given.get(STEPS)
    if isinstance(steps, list) and len(steps) > 1:
        raise InvalidAttributeValue(f"{STEPS} has {len(steps)} items; give each scheduled procedure step as an item of its own")
    flat = {keyword: value for keyword, value in given.items() if keyword in OF_THE_STEP}
    step: Header = {**flat, **step_of(given)}
    header: Header = {keyword: value for keyword, value in given.items() if keyword not in OF_THE_STEP and keyword != STEPS}
    _require(header, _REQUIRED)
    _require(step, _REQUIRED_OF_THE_STEP)
    study = header["StudyInstanceUID"] = header.get("StudyInstanceUID") or _made_uid(header, step)
    parse_uid(str(study), name="StudyInstanceUID")
    procedure = header["RequestedProcedureID"] = header.get("RequestedProcedureID") or header.get("AccessionNumber") or _short(str(study))
    step["ScheduledProcedureStepID"] = step.get("ScheduledProcedureStepID") or str(procedure)[:16]
    _check_step(step)
    return WorklistItem({**header, STEPS: [step]}, _scheduled_at(step))


def criteria_of(keys: Header) -> tuple[Criterion, ...]:
    """What an identifier demands. InvalidIdentifier for a value that cannot be matched.

    Start date and start time of the step are one range where both are ranges (table K.6-1).
    """
    steps = keys.get(STEPS)
    rest = parse_criteria({keyword: value for keyword, value in keys.items() if keyword != STEPS})
    if not isinstance(steps, list) or not steps:
        return rest
    if len(steps) > 1:
        raise InvalidIdentifier(f"{STEPS} may have one item in an identifier (PS3.4 C.2.2.2.6)")
    of_the_step = parse_criteria(steps[0], combined_datetime=_is_one_range(steps[0]))
    return (*rest, SequenceCriterion(STEPS, of_the_step)) if of_the_step else rest


def exact_keys(keys: Header) -> Mapping[str, str]:
    """The keys of an identifier that ask for exactly one value, of those by which a store finds items without reading all."""
    asked = {**{k: v for k, v in keys.items() if k != STEPS}, **step_of(keys)}
    return exact_values(asked, ("PatientID", "AccessionNumber", "StudyInstanceUID"))


def exact_values(keys: Header, keywords: Sequence[str]) -> dict[str, str]:
    """Of these keys, those that ask for exactly one value."""
    chosen = ((keyword, keys.get(keyword, "")) for keyword in keywords)
    return {keyword: value for keyword, value in chosen if isinstance(value, str) and value and not re.search(r"[*?\\]", value)}


def period_of(criteria: Sequence[Criterion]) -> tuple[datetime | None, datetime | None]:
    """The first and the last instant at which a selected step can be scheduled, by which a store finds items without reading all."""
    of_the_step = (each for criterion in criteria if isinstance(criterion, SequenceCriterion) for each in criterion.criteria)
    for criterion in of_the_step:
        if isinstance(criterion, InstantCriterion) and criterion.date_keyword == _START_DATE:
            return criterion.first, criterion.last
        if isinstance(criterion, DateCriterion) and criterion.keyword == _START_DATE:
            firsts, lasts = zip(*criterion.ranges, strict=True)
            first = None if None in firsts else datetime.combine(min(firsts), time.min)
            return first, None if None in lasts else datetime.combine(max(lasts), time.max)
    return None, None


def _is_one_range(step: Header) -> bool:
    bounds = (step.get(_START_DATE, ""), step.get("ScheduledProcedureStepStartTime", ""))
    return all(isinstance(value, str) and "-" in value and "\\" not in value for value in bounds)


def _require(header: Header, keywords: tuple[str, ...]) -> None:
    if missing := [keyword for keyword in keywords if not header.get(keyword)]:
        raise MissingAttribute(f"{', '.join(missing)} must have a value")


def _made_uid(header: Header, step: Header) -> str:
    """A UID of what tells one request from another (PS3.5 B.2)."""
    of_the_request = [header.get(keyword) for keyword in ("AccessionNumber", "RequestedProcedureID") if header.get(keyword)]
    telling = [header["PatientID"], *(of_the_request or [step[keyword] for keyword in _REQUIRED_OF_THE_STEP])]
    return f"2.25.{uuid5(_NAMESPACE, json.dumps(telling)).int}"


def _short(uid: str) -> str:
    """16 characters at most, as SH and most modalities want them."""
    return uid[-16:].lstrip(".")


def _check_step(step: Header) -> None:
    titles = str(step["ScheduledStationAETitle"]).split("\\")
    if not all(0 < len(title.strip()) <= _LONGEST_AE_TITLE and title.isascii() and title.isprintable() for title in titles):
        raise InvalidAttributeValue("ScheduledStationAETitle is no AE title: 1 to 16 printable ASCII characters")
    if not _MODALITY.fullmatch(str(step["Modality"])):
        raise InvalidAttributeValue("Modality is none: 1 to 16 capitals, digits, spaces and underscores, such as CT")


def _scheduled_at(step: Header) -> datetime:
    day, span = parse_date(str(step["ScheduledProcedureStepStartDate"])), parse_time(str(step["ScheduledProcedureStepStartTime"]))
    if day is None:
        raise InvalidAttributeValue("ScheduledProcedureStepStartDate is no date: write it as YYYYMMDD")
    if span is None:
        raise InvalidAttributeValue("ScheduledProcedureStepStartTime is no time: write it as HHMM or HHMMSS")
    return datetime.combine(day, span.first)
