"""Unified procedure steps: what a new one needs, what may be changed of it, and what comes of its states (PS3.4 annex CC). Pure.

Attributes of type 2 that are left out are not missed, as with performed procedure steps.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime

from pydicom import Dataset

from pacs_core.errors import InvalidAttributeValue, NotCreatedScheduled
from pacs_core.workflow.attributes import check_unchanged, items_of, one_of, picked, require, text_of
from pacs_core.workflow.final_state import PERFORMED, PROGRESS, check_final
from pacs_core.workflow.unified_states import CHANGES, SETTING, TRANSITIONS, Already, Key, Passed, Request, State

PUSH, WATCH, PULL, EVENT, QUERY = (f"1.2.840.10008.5.1.4.34.6.{number}" for number in range(1, 6))

STATE, TRANSACTION = "ProcedureStepState", "TransactionUID"

# Table CC.2.5-3: type 1 of an N-CREATE, beside the state;
REQUIRED = ("ScheduledProcedureStepPriority", "ProcedureStepLabel", "ScheduledProcedureStepStartDateTime", "InputReadinessState")
# what is empty in it;
EMPTY_AT_FIRST = (TRANSACTION, PROGRESS, PERFORMED)
# what an N-SET may not empty;
VALUED = (*REQUIRED, "WorklistLabel", "ExpectedCompletionDateTime", "ScheduledWorkitemCodeSequence", "CommentsOnTheScheduledProcedureStep")
# what it may not change;
FIXED = (
    "SOPClassUID",
    "SOPInstanceUID",
    STATE,
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "ReferencedRequestSequence",
    "ReplacedProcedureStepSequence",
)
# and the values that there are (PS3.3 C.30.1, C.30.2).
ENUMERATED: Mapping[str, tuple[str, ...]] = {
    "ScheduledProcedureStepPriority": ("HIGH", "MEDIUM", "LOW"),
    "InputReadinessState": ("INCOMPLETE", "UNAVAILABLE", "READY"),
}
_A_STEP = "a unified procedure step"
# What a request to cancel may say of itself (table CC.2.2-1), and a step that is canceled keeps of it.
OF_A_CANCELLATION = ("ReasonForCancellation", "ProcedureStepDiscontinuationReasonCodeSequence")


@dataclass(frozen=True, slots=True)
class Step:
    """A unified procedure step.

    Attributes:
        ds: all that is told of it, the Transaction UID apart, which nobody is told.
        transaction: that; "" as long as nobody has taken the step.
    """

    ds: Dataset
    transaction: str = ""

    @property
    def uid(self) -> str:
        """Its SOP Instance UID."""
        return text_of(self.ds, "SOPInstanceUID")

    @property
    def state(self) -> State:
        """How far it has come."""
        return one_of(self.ds, STATE, State)


@dataclass(frozen=True, slots=True)
class Changed:
    """What has come of a request to change the state of a step.

    Attributes:
        passed: the states that it has gone through.
        warning: None where what was asked for is done.
    """

    step: Step
    passed: Passed = ()
    warning: Already | None = None


def created(uid: str, given: Dataset, *, worklist: str, now: datetime) -> Step:
    """A new step, with what the archive says of it. NotCreatedScheduled, MissingAttribute, MissingAttributeValue, InvalidAttributeValue.

    Args:
        worklist: the Worklist Label where it is given none.
    """
    require(given, (STATE,), of=_A_STEP)
    if text_of(given, STATE) != State.SCHEDULED:
        raise NotCreatedScheduled(f"{STATE} of a new step is SCHEDULED")
    require(given, REQUIRED, of=_A_STEP)
    _check_values(given)
    if filled := [keyword for keyword in EMPTY_AT_FIRST if keyword in given and not given[keyword].is_empty]:
        raise InvalidAttributeValue(f"{', '.join(filled)} of a new step is empty")
    ds = _unlocked(given)
    ds.SOPClassUID, ds.SOPInstanceUID = PUSH, uid
    ds.WorklistLabel = text_of(ds, "WorklistLabel") or worklist
    return Step(_modified(ds, now))


def updated(step: Step, changes: Dataset, now: datetime) -> Step:
    """A step after an N-SET, whose sequences replace those that are there. Raises what `SETTING` says, and for what it may not say."""
    refused = SETTING[step.state][_key(step, text_of(changes, TRANSACTION))]
    if refused is not None:
        raise refused(f"N-SET: the step is {step.state}")
    check_unchanged(step.ds, changes, FIXED)
    require(changes, (keyword for keyword in VALUED if keyword in changes), of=_A_STEP)
    _check_values(changes)
    ds = deepcopy(step.ds)
    ds.update(_unlocked(changes))
    return replace(step, ds=_modified(ds, now))


def state_changed(step: Step, information: Dataset, now: datetime) -> Changed:
    """A step after an N-ACTION to change its state. Raises what `TRANSITIONS` says; FinalStateUnmet."""
    require(information, (STATE,), of="a change of state")
    target, given = one_of(information, STATE, State), text_of(information, TRANSACTION)
    keyed, unkeyed = CHANGES[target]
    outcome = _outcome(keyed if given and step.transaction in ("", given) else unkeyed, step.state)
    if isinstance(outcome, Already):
        return Changed(step, warning=outcome)
    return Changed(Step(_in_state(step.ds, target, now), given), outcome)


def cancel_requested(step: Step, information: Dataset, now: datetime) -> Changed:
    """A step after somebody has asked that it be canceled. Raises what `TRANSITIONS` says.

    What nobody has begun is canceled; else nothing has changed, and the performer is to be told.
    """
    outcome = _outcome(Request.REQUEST_CANCEL, step.state)
    if isinstance(outcome, Already):
        return Changed(step, warning=outcome)
    if not outcome:
        return Changed(step)
    ds = deepcopy(step.ds)
    ds.ProcedureStepProgressInformationSequence = [picked(information, OF_A_CANCELLATION)]
    return Changed(replace(step, ds=_in_state(ds, State.CANCELED, now)), outcome)


def _outcome(request: Request, state: State) -> Passed | Already:
    outcome = TRANSITIONS[request][state]
    if isinstance(outcome, type):
        raise outcome(f"{request}: it is {state}")
    return outcome


def _key(step: Step, given: str) -> Key:
    if not given:
        return Key.NONE
    return Key.RIGHT if given == step.transaction else Key.WRONG


def _in_state(before: Dataset, target: State, now: datetime) -> Dataset:
    """A step in another state; if that is a final one, with what it needs there."""
    ds = deepcopy(before)
    ds.ProcedureStepState = target
    if target is State.CANCELED:
        _complete_cancellation(ds, now)
    if target in (State.COMPLETED, State.CANCELED):
        check_final(ds, target)
    return ds


def _complete_cancellation(ds: Dataset, now: datetime) -> None:
    """When it was canceled is for the archive to say (table CC.2.5-3), and why, where its performer does not (CC.2.5.1.3.2, note)."""
    progress = next(iter(items_of(ds, PROGRESS)), Dataset())
    if not text_of(progress, "ProcedureStepCancellationDateTime"):
        progress.ProcedureStepCancellationDateTime = _instant(now)
    if not progress.get("ProcedureStepDiscontinuationReasonCodeSequence"):
        reason = Dataset()
        reason.CodeValue, reason.CodingSchemeDesignator = "110513", "DCM"
        reason.CodeMeaning = "Discontinued for unspecified reason"
        progress.ProcedureStepDiscontinuationReasonCodeSequence = [reason]
    ds.ProcedureStepProgressInformationSequence = [progress]


def _check_values(ds: Dataset) -> None:
    for keyword, values in ENUMERATED.items():
        if keyword in ds and text_of(ds, keyword) not in values:
            raise InvalidAttributeValue(f"{keyword} is one of {', '.join(values)}")


def _unlocked(given: Dataset) -> Dataset:
    """What is told, without the Transaction UID: who knows that may change the step."""
    ds = deepcopy(given)
    if TRANSACTION in ds:
        del ds[TRANSACTION]
    return ds


def _modified(ds: Dataset, now: datetime) -> Dataset:
    """With the time of its modification, and a character set that holds whatever is told of it in whichever."""
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ScheduledProcedureStepModificationDateTime = _instant(now)
    return ds


def _instant(now: datetime) -> str:
    return f"{now:%Y%m%d%H%M%S}"
