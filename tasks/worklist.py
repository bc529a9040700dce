"""The steps of the `worklist-cleanup` flow."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from prefect import task

from pacs_core.ports.modality import Entry
from pacs_core.settings import load_settings
from pacs_core.wiring import index
from tasks.policy import RETRIES


@dataclass(frozen=True, slots=True)
class ExpiredItem:
    """A worklist item whose time is over, without what tells the patient."""

    StudyInstanceUID: str
    ScheduledProcedureStepID: str
    SOPInstanceUID: str  # of a unified procedure step
    ScheduledStationAETitle: str
    Modality: str
    scheduled_at: str  # local date and time
    state: str


@task(**RETRIES)
def expired_items(before: datetime) -> Sequence[ExpiredItem]:
    """The items that were to begin before an instant of local time; unified procedure steps that were over by then and are not locked."""
    return [_item(entry) for entry in index.worklist(load_settings()).expired(before)]


@task(**RETRIES)
def forget_items(before: datetime) -> int:
    """Remove them, and from before it the record of queries, who was expected, and reports that are no longer owed; how many items."""
    settings = load_settings()
    with closing(index.prefetches(settings)) as requests:
        requests.forget(before.date())
    index.event_reports(settings).forget(before.astimezone())
    return index.worklist(settings).forget(before)


def _item(entry: Entry) -> ExpiredItem:
    return ExpiredItem(
        StudyInstanceUID=entry.attributes["StudyInstanceUID"],
        ScheduledProcedureStepID=entry.attributes["ScheduledProcedureStepID"],
        SOPInstanceUID=str(entry.header.get("SOPInstanceUID", "")),
        ScheduledStationAETitle=entry.attributes["ScheduledStationAETitle"],
        Modality=entry.attributes["Modality"],
        scheduled_at=f"{entry.scheduled_at:%Y-%m-%d %H:%M}",
        state=entry.state or "",
    )
