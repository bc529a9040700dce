"""What a unified procedure step needs before it is over (PS3.4 CC.2.5.1.1, the final states of table CC.2.5-3). Pure."""

from collections.abc import Mapping, Sequence
from enum import Enum

from pydicom import Dataset

from pacs_core.errors import FinalStateUnmet
from pacs_core.workflow.attributes import items_of

PROGRESS, PERFORMED = "ProcedureStepProgressInformationSequence", "UnifiedProcedureStepPerformedProcedureSequence"


class Needed(Enum):
    """Final State Codes, and the states that need it (table CC.2.5-1)."""

    R = frozenset({"COMPLETED", "CANCELED"})
    P = frozenset({"COMPLETED"})
    X = frozenset({"CANCELED"})


# By the path to the attribute. What is needed on a condition (RC) is what the performer knows of itself: it cannot be checked.
FINAL_STATE: Mapping[tuple[str, ...], Needed] = {
    ("SOPClassUID",): Needed.R,
    ("SOPInstanceUID",): Needed.R,
    ("ScheduledProcedureStepPriority",): Needed.R,
    ("ScheduledProcedureStepModificationDateTime",): Needed.R,
    ("ScheduledProcedureStepStartDateTime",): Needed.R,
    ("InputReadinessState",): Needed.R,
    ("ProcedureStepState",): Needed.R,
    (PROGRESS,): Needed.X,
    (PROGRESS, "ProcedureStepCancellationDateTime"): Needed.X,
    (PROGRESS, "ProcedureStepDiscontinuationReasonCodeSequence"): Needed.X,
    (PERFORMED,): Needed.P,
    (PERFORMED, "PerformedStationNameCodeSequence"): Needed.P,
    (PERFORMED, "PerformedProcedureStepStartDateTime"): Needed.P,
    (PERFORMED, "PerformedWorkitemCodeSequence"): Needed.P,
    (PERFORMED, "PerformedProcedureStepEndDateTime"): Needed.P,
    (PERFORMED, "OutputInformationSequence"): Needed.P,
}
MAY_BE_EMPTY = frozenset({"OutputInformationSequence"})  # where the step led to no objects


def check_final(ds: Dataset, state: str) -> None:
    """Whether a step may be put into a final state. FinalStateUnmet names what it lacks."""
    if lacking := [path[-1] for path, needed in FINAL_STATE.items() if state in needed.value and not _has(ds, path)]:
        raise FinalStateUnmet(f"to be {state} it needs {', '.join(lacking)}")


def _has(ds: Dataset, path: Sequence[str]) -> bool:
    """Whether each item along the path has the attribute, with a value."""
    keyword, *rest = path
    if rest:
        return all(_has(item, rest) for item in items_of(ds, keyword))
    return keyword in ds and (keyword in MAY_BE_EMPTY or not ds[keyword].is_empty)
