"""What is told of unified procedure steps, and of what (PS3.4 CC.2.4). Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from pydicom import Dataset

from pacs_core.dicom.json_model import to_json
from pacs_core.ports.modality import Report
from pacs_core.workflow.attributes import items_of, picked
from pacs_core.workflow.final_state import PROGRESS
from pacs_core.workflow.unified_states import State
from pacs_core.workflow.unified_step import EVENT, OF_A_CANCELLATION, PUSH, Changed, Step

STATION, PERFORMERS = "ScheduledStationNameCodeSequence", "ScheduledHumanPerformersSequence"
_TOLD_OF_PROGRESS = ("ProcedureStepProgress", "ProcedureStepProgressDescription", "ProcedureStepCommunicationsURISequence")
_OF_A_REQUEST = (*OF_A_CANCELLATION, "ContactURI", "ContactDisplayName")


class EventType(IntEnum):
    """Table CC.2.4-1."""

    STATE_REPORT = 1
    CANCEL_REQUESTED = 2
    PROGRESS_REPORT = 3
    SCP_STATUS_CHANGE = 4
    ASSIGNED = 5


@dataclass(frozen=True, slots=True)
class News:
    """Something that those are told who are subscribed to a step."""

    event: EventType
    ds: Dataset


def of_state(step: Step, state: State | None = None) -> News:
    """The state that a step is in, or that it has gone through, with why it was canceled if it is that."""
    ds = picked(step.ds, ("InputReadinessState",))
    ds.ProcedureStepState = state or step.state
    if ds.ProcedureStepState == State.CANCELED:
        for item in items_of(step.ds, PROGRESS):
            ds.update(picked(item, OF_A_CANCELLATION))
    return News(EventType.STATE_REPORT, ds)


def of_creation(step: Step) -> Sequence[News]:
    """That there is a new step, and for whom, where that is known."""
    return [of_state(step), *([_assigned(step)] if any(step.ds.get(keyword) for keyword in (STATION, PERFORMERS)) else [])]


def of_update(before: Step, after: Step) -> Sequence[News]:
    """What an N-SET has changed of what others want to know."""
    news = []
    if _differ(before.ds, after.ds, ("InputReadinessState",)):
        news.append(of_state(after))
    if _differ(before.ds, after.ds, (STATION, PERFORMERS)):
        news.append(_assigned(after))
    if _differ(_progress(before.ds), _progress(after.ds), _TOLD_OF_PROGRESS):
        news.append(News(EventType.PROGRESS_REPORT, picked(after.ds, (PROGRESS,))))
    return news


def of_change(changed: Changed) -> Sequence[News]:
    """Each state that a step has gone through."""
    return [of_state(changed.step, state) for state in changed.passed]


def of_request(requesting_ae: str, information: Dataset) -> News:
    """That somebody asks its performer to cancel a step, with what was said of it."""
    ds = picked(information, _OF_A_REQUEST)
    ds.RequestingAE = requesting_ae
    return News(EventType.CANCEL_REQUESTED, ds)


def of_restart() -> News:
    """That the archive was away, and has lost neither steps nor subscriptions: all that it knows of them it reads from its tables."""
    ds = Dataset()
    ds.SCPStatus = "RESTARTED"
    ds.SubscriptionListStatus = ds.UnifiedProcedureStepListStatus = "WARM START"
    return News(EventType.SCP_STATUS_CHANGE, ds)


def reports(uid: str, news: Iterable[News], receivers: Iterable[str]) -> Sequence[Report]:
    """What is owed to whom. The news of a step are of the class that it was created in, and go over one of their own (CC.2.4.3)."""
    told = [(each.event, to_json(_encodable(each.ds))) for each in news]
    return [Report(receiver, PUSH, EVENT, uid, event, attributes) for receiver in receivers for event, attributes in told]


def _assigned(step: Step) -> News:
    ds = picked(step.ds, (STATION,))
    performers = list(items_of(step.ds, PERFORMERS))
    if codes := [code for performer in performers for code in items_of(performer, "HumanPerformerCodeSequence")]:
        ds.HumanPerformerCodeSequence = codes
    for performer in performers[:1]:
        ds.update(picked(performer, ("HumanPerformerOrganization",)))
    return News(EventType.ASSIGNED, ds)


def _progress(ds: Dataset) -> Dataset:
    return next(iter(items_of(ds, PROGRESS)), Dataset())


def _differ(before: Dataset, after: Dataset, keywords: Iterable[str]) -> bool:
    return any(before.get(keyword) != after.get(keyword) for keyword in keywords)


def _encodable(ds: Dataset) -> Dataset:
    """With the character set that a step is kept in."""
    ds.SpecificCharacterSet = "ISO_IR 192"
    return ds
