"""What the modality workflow asks of the index: worklist, performed steps, and the reports that are owed to peers.

Every method may raise IndexUnavailable. Each change is one transaction: what is said on return is kept, whatever dies then.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from pacs_core.model import Header

Attributes = Mapping[str, Any]  # a data set in the DICOM JSON Model (PS3.18 F.2)


@dataclass(frozen=True, slots=True)
class Entry:
    """A worklist item as it is kept.

    Attributes:
        attributes: the value of each attribute that is a column.
        scheduled_at: local date and time.
        header: all of it.
        source: how it came: "cli", "json", "csv", "wl", "hl7", "ups".
        state, updated_at: as the table has them; None before it is kept.
    """

    attributes: Mapping[str, str]
    scheduled_at: datetime
    header: Header
    source: str
    state: str | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Steps that are not to be performed: of a study or, where that is "", of an accession number; with a step_id only that one."""

    study: str
    accession: str
    step_id: str


@dataclass(frozen=True, slots=True)
class WorklistQuery:
    """That somebody asked for the worklist."""

    asked_at: datetime
    calling_ae: str
    status: str
    matches: int
    milliseconds: float


class WorklistItems(Protocol):
    """What is scheduled."""

    def headers(
        self, states: Sequence[str], keys: Mapping[str, str], *, first: datetime | None = None, last: datetime | None = None
    ) -> Sequence[Header]:
        """The items in some states whose attributes have just these values, in the order in which they are scheduled.

        `first`, `last`: when they are to begin at the earliest and at the latest, local time.
        """


@dataclass(frozen=True, slots=True)
class Report:
    """An event report that is owed to a peer.

    Attributes:
        peer: its AE title.
        sop_class, sop_instance: what it is about.
        context_class: the SOP class of the presentation context that it goes over.
        attributes: its data set.
    """

    peer: str
    sop_class: str
    context_class: str
    sop_instance: str
    event_type: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Claimed:
    """A report that is ours to deliver for a while.

    Attributes:
        attempts: this one included.
        age: since it was entered.
    """

    number: int
    report: Report
    attempts: int
    age: timedelta


class EventReports(Protocol):
    """What is owed to peers. Any number of processes may share it."""

    def claim(self, *, limit: int, lease: timedelta, number: int | None = None) -> Sequence[Claimed]:
        """Reports that are due, or just this one, due or not; ours for so long: nobody else is given them until then, nor others to the
        same peer on the same kind of association, so that what happened first is told first."""

    def hold(self, peer: str, context_class: str, duration: timedelta) -> None:
        """The peer does not answer: all that it is owed on that kind of association waits for so long, what is entered meanwhile too."""

    def delivered(self, number: int) -> None:
        """The peer has taken it. Repeatable. One that it has asked for once more meanwhile is still owed."""

    def failed(self, number: int, error: str, again_after: timedelta | None) -> None:
        """It could not be delivered; it is tried again after a while, or never."""


class RequestedStep(NamedTuple):
    """What a performed step was scheduled as; the step's ID is "" where nobody had scheduled it."""

    StudyInstanceUID: str
    ScheduledProcedureStepID: str
    AccessionNumber: str


class PerformedSeries(NamedTuple):
    """A series as a performed step claims it; `instances` is how many objects it names."""

    SeriesInstanceUID: str
    ProtocolName: str
    SeriesDescription: str
    PerformingPhysicianName: str
    OperatorsName: str
    RetrieveAETitle: str
    instances: int


@dataclass(frozen=True, slots=True)
class PerformedStep:
    """A performed procedure step as it is kept.

    Attributes:
        started_at, ended_at: local date and time; None where they cannot be read.
        attributes: all that the modality has told.
    """

    state: str
    PerformedProcedureStepID: str
    PerformedStationAETitle: str
    Modality: str
    PatientID: str
    started_at: datetime | None
    ended_at: datetime | None
    attributes: Attributes
    requested: tuple[RequestedStep, ...]
    series: tuple[PerformedSeries, ...]


class PerformedSteps(Protocol):
    """What modalities did. The worklist's items follow their steps."""

    def create(self, uid: str, calling_ae: str, step: PerformedStep, reports: Sequence[Report]) -> None:
        """Enter a step, and what is to be reported of it. DuplicateInstance if there is one of that UID."""

    def change(self, uid: str, calling_ae: str, change: Callable[[Attributes], tuple[PerformedStep, Sequence[Report]]]) -> None:
        """Change a step, one change after the other. NotFound; what `change` raises leaves everything as it is."""

    def get(self, uid: str) -> Attributes:
        """All that is told of a step. NotFound."""
