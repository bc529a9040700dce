"""Unified procedure steps as items of the worklist, and what a query asks of them (PS3.4 CC.2.8). Pure."""

from collections.abc import Mapping

from pacs_core.dicom.headers import header_of
from pacs_core.dicom.json_model import from_json, to_json
from pacs_core.dicom.values import parse_datetime
from pacs_core.errors import InvalidAttributeValue
from pacs_core.model import Header
from pacs_core.ports.modality import Entry
from pacs_core.ports.unified_step import Kept, UnifiedStep
from pacs_core.workflow.unified_states import State
from pacs_core.workflow.unified_step import STATE, Step
from pacs_core.workflow.worklist import StepState, exact_values

SOURCE = "ups"

# The worklist has one vocabulary for its items.
_STATES: Mapping[str, StepState] = {
    State.SCHEDULED: StepState.SCHEDULED,
    State.IN_PROGRESS: StepState.IN_PROGRESS,
    State.COMPLETED: StepState.COMPLETED,
    State.CANCELED: StepState.CANCELLED,
}
_OF_THE_REQUEST = ("AccessionNumber", "RequestedProcedureID")
_OF_THE_STEP = ("PatientID", "PatientName", "StudyInstanceUID", "ProcedureStepLabel", "ScheduledProcedureStepPriority")
_EXACT = ("SOPInstanceUID", "PatientID", "StudyInstanceUID")


def kept(step: Step) -> UnifiedStep:
    """As it is kept. InvalidAttributeValue for what cannot be."""
    header = header_of(step.ds)
    requests = header.get("ReferencedRequestSequence")
    request: Header = requests[0] if isinstance(requests, list) and requests else {}
    columns = {keyword: str(header.get(keyword, "")) for keyword in _OF_THE_STEP}
    columns |= {keyword: str(request.get(keyword, "")) for keyword in _OF_THE_REQUEST}
    columns["StudyInstanceUID"] = columns["StudyInstanceUID"] or str(request.get("StudyInstanceUID", ""))
    begins = parse_datetime(str(header.get("ScheduledProcedureStepStartDateTime", "")))
    if begins is None:
        raise InvalidAttributeValue("ScheduledProcedureStepStartDateTime is no date and time")
    try:
        at = begins.first if begins.offset is None else begins.first.replace(tzinfo=begins.offset).astimezone().replace(tzinfo=None)
    except OverflowError as exc:
        raise InvalidAttributeValue("ScheduledProcedureStepStartDateTime is in a year that there is not") from exc
    return UnifiedStep(step.uid, Entry(columns, at, header, SOURCE, _STATES[step.state]), step.transaction, to_json(step.ds))


def step_of(found: Kept) -> Step:
    """IntegrityError if it cannot be read."""
    return Step(from_json(found.attributes), found.TransactionUID)


def exact_keys(keys: Header) -> Mapping[str, str]:
    """The keys of an identifier by which a store finds steps without reading all."""
    exact = exact_values(keys, (*_EXACT, STATE))
    state = exact.pop(STATE, "")
    return {**exact, "state": _STATES[state]} if state in _STATES else exact
