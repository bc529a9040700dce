"""Which unified procedure steps are taken, which changes of them, and by whom: PS3.4 tables CC.1.1-2 and CC.2.5-3, cell by cell."""

from copy import deepcopy
from datetime import datetime
from itertools import product

import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from pacs_core.errors import FinalStateUnmet, InvalidAttributeValue, MissingAttribute, MissingAttributeValue, NotCreatedScheduled, PacsError
from pacs_core.workflow.final_state import FINAL_STATE, PERFORMED, PROGRESS, Needed, check_final
from pacs_core.workflow.unified_states import TRANSITIONS, Already, Request, State
from pacs_core.workflow.unified_step import (
    EMPTY_AT_FIRST,
    FIXED,
    PUSH,
    REQUIRED,
    VALUED,
    Changed,
    Step,
    cancel_requested,
    created,
    state_changed,
    updated,
)
from tests.support.unified_steps import action, code, performed, progress, pushed

NOW = datetime(2026, 12, 1, 9, 30)  # noqa: DTZ001 local
MINE, ANOTHER = "1.2.3.99", "1.2.3.98"


def scheduled(**attributes: object) -> Step:
    return created("1.2.3.4", pushed(**attributes), worklist="PACS", now=NOW)  # type: ignore[arg-type]  # attributes of any VR


def in_state(state: State) -> Step:
    """One that has got there as the Standard has it."""
    step = scheduled()
    if state is State.SCHEDULED:
        return step
    step = state_changed(step, action(ProcedureStepState="IN PROGRESS", TransactionUID=MINE), NOW).step
    if state is State.IN_PROGRESS:
        return step
    step = updated(step, performed(MINE), NOW)
    return state_changed(step, action(ProcedureStepState=state, TransactionUID=MINE), NOW).step


# As it is printed: the rows, and the columns SCHEDULED, IN PROGRESS, COMPLETED and CANCELED. A state is one that the step goes to; of
# SCHEDULED no Transaction UID is recorded, so that any is a correct one.
PRINTED = {
    ("IN PROGRESS", "correct"): ("IN PROGRESS", 0xC302, 0xC300, 0xC300),
    ("IN PROGRESS", "none"): (0xC301, 0xC301, 0xC301, 0xC301),
    ("SCHEDULED", "correct"): (0xC303, 0xC303, 0xC303, 0xC303),
    ("SCHEDULED", "none"): (0xC303, 0xC303, 0xC303, 0xC303),
    ("COMPLETED", "correct"): (0xC310, "COMPLETED", 0xB306, 0xC300),
    ("COMPLETED", "none"): (0xC301, 0xC301, 0xC301, 0xC301),
    ("CANCELED", "correct"): (0xC310, "CANCELED", 0xC300, 0xB304),
    ("CANCELED", "none"): (0xC301, 0xC301, 0xC301, 0xC301),
}
CELLS = [(target, uid, before, cell) for (target, uid), row in PRINTED.items() for before, cell in zip(State, row, strict=True)]


@pytest.mark.parametrize(("target", "uid", "before", "cell"), CELLS)
def test_a_change_of_state(target: str, uid: str, before: State, cell: str | int) -> None:
    step = in_state(before)
    if target == "COMPLETED" and before is State.IN_PROGRESS:
        step = updated(step, performed(MINE), NOW)
    information = action(ProcedureStepState=target, TransactionUID=MINE if uid == "correct" else "")
    _check_cell(cell, lambda: state_changed(step, information, NOW))


@pytest.mark.parametrize("before", [State.IN_PROGRESS, State.COMPLETED, State.CANCELED])
@pytest.mark.parametrize("target", ["IN PROGRESS", "COMPLETED", "CANCELED"])
def test_another_transaction_uid_is_none(target: str, before: State) -> None:
    _check_cell(0xC301, lambda: state_changed(in_state(before), action(ProcedureStepState=target, TransactionUID=ANOTHER), NOW))


@pytest.mark.parametrize(("before", "cell"), list(zip(State, ("CANCELED", "IN PROGRESS", 0xC311, 0xB304), strict=True)))
def test_a_request_to_cancel(before: State, cell: str | int) -> None:
    _check_cell(cell, lambda: cancel_requested(in_state(before), Dataset(), NOW))


def _check_cell(cell: str | int, ask: object) -> None:
    assert callable(ask)
    if isinstance(cell, int) and cell >= 0xC000:
        with pytest.raises(PacsError) as caught:
            ask()
        assert caught.value.normalized_status == cell
        return
    changed = ask()
    assert isinstance(changed, Changed)
    assert changed.warning == (cell if isinstance(cell, int) else None)
    if isinstance(cell, str):
        assert changed.step.state == cell


def test_the_column_of_a_step_that_is_not_there() -> None:
    errors = {request: row[None] for request, row in TRANSITIONS.items()}
    assert errors.pop(Request.CREATE) == (State.SCHEDULED,)
    assert {error.normalized_status for error in errors.values() if isinstance(error, type)} == {0xC307}
    assert all(isinstance(error, type) for error in errors.values())


@pytest.mark.parametrize("state", State)
def test_the_row_of_a_creation_that_is_repeated(state: State) -> None:
    error = TRANSITIONS[Request.CREATE][state]
    assert isinstance(error, type)
    assert error.normalized_status == 0x0111


def test_every_cell_is_there() -> None:
    assert set(TRANSITIONS) == set(Request)
    assert all(set(row) == {None, *State} for row in TRANSITIONS.values())


def test_who_takes_a_step_locks_it_and_the_lock_is_told_nobody() -> None:
    step = in_state(State.IN_PROGRESS)
    assert step.transaction == MINE
    assert "TransactionUID" not in step.ds
    assert "TransactionUID" not in updated(step, performed(MINE), NOW).ds


def test_a_step_that_nobody_has_begun_passes_through_progress_when_it_is_canceled() -> None:
    reason = action(
        ReasonForCancellation="Patient went home", ProcedureStepDiscontinuationReasonCodeSequence=[code("110501")], ContactURI="x"
    )
    changed = cancel_requested(scheduled(), reason, NOW)
    assert changed.passed == (State.IN_PROGRESS, State.CANCELED)
    (item,) = changed.step.ds.ProcedureStepProgressInformationSequence
    assert (item.ReasonForCancellation, item.ProcedureStepCancellationDateTime) == ("Patient went home", "20261201093000")
    assert item.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110501"


def test_a_request_to_cancel_what_somebody_performs_changes_nothing() -> None:
    step = in_state(State.IN_PROGRESS)
    assert cancel_requested(step, Dataset(), NOW) == Changed(step)


@pytest.mark.parametrize("told", [False, True])
def test_when_and_why_a_step_was_canceled_is_filled_in_where_its_performer_does_not_say(told: bool) -> None:
    step = in_state(State.IN_PROGRESS)
    if told:
        changes = progress("50", transaction=MINE)
        item = changes.ProcedureStepProgressInformationSequence[0]
        item.ProcedureStepCancellationDateTime, item.ProcedureStepDiscontinuationReasonCodeSequence = "20261201", [code("110513")]
        step = updated(step, changes, NOW)
    canceled = state_changed(step, action(ProcedureStepState="CANCELED", TransactionUID=MINE), NOW).step.ds
    item = canceled.ProcedureStepProgressInformationSequence[0]
    assert item.ProcedureStepCancellationDateTime == ("20261201" if told else "20261201093000")
    assert item.ProcedureStepDiscontinuationReasonCodeSequence[0].CodingSchemeDesignator == ("99TEST" if told else "DCM")


def final() -> Dataset:
    """One that could be put into either final state."""
    ds = updated(in_state(State.IN_PROGRESS), performed(MINE), NOW).ds
    item = Dataset()
    item.ProcedureStepCancellationDateTime, item.ProcedureStepDiscontinuationReasonCodeSequence = "2026", [code("1")]
    ds.ProcedureStepProgressInformationSequence = [item]
    return ds


@pytest.mark.parametrize("state", ["COMPLETED", "CANCELED"])
@pytest.mark.parametrize("path", FINAL_STATE, ids=lambda path: path[-1])
def test_final_state_requirements(path: tuple[str, ...], state: str) -> None:
    ds = final()
    check_final(ds, state)
    holder = ds if len(path) == 1 else ds[path[0]].value[0]
    del holder[path[-1]]
    needed = {Needed.R: {"COMPLETED", "CANCELED"}, Needed.P: {"COMPLETED"}, Needed.X: {"CANCELED"}}[FINAL_STATE[path]]
    if state not in needed:
        check_final(ds, state)
        return
    with pytest.raises(FinalStateUnmet, match=path[-1]):
        check_final(ds, state)


def test_a_step_that_led_to_nothing_may_be_completed() -> None:
    ds = final()
    assert list(ds[PERFORMED].value[0].OutputInformationSequence) == []
    check_final(ds, "COMPLETED")


def test_a_step_that_lacks_what_it_needs_is_not_completed() -> None:
    with pytest.raises(FinalStateUnmet) as caught:
        state_changed(in_state(State.IN_PROGRESS), action(ProcedureStepState="COMPLETED", TransactionUID=MINE), NOW)
    assert caught.value.normalized_status == 0xC304


@pytest.mark.parametrize("state", ["", "DONE", "CANCELLED", "DISCONTINUED"])
def test_a_state_that_does_not_exist_is_refused(state: str) -> None:
    with pytest.raises((InvalidAttributeValue, MissingAttributeValue)):
        state_changed(in_state(State.IN_PROGRESS), action(ProcedureStepState=state, TransactionUID=MINE), NOW)


def test_what_the_archive_says_of_a_new_step() -> None:
    step = scheduled()
    assert (step.uid, step.state, step.transaction, step.ds.SOPClassUID) == ("1.2.3.4", State.SCHEDULED, "", PUSH)
    assert (step.ds.WorklistLabel, step.ds.ScheduledProcedureStepModificationDateTime) == ("PACS", "20261201093000")
    assert step.ds.SpecificCharacterSet == "ISO_IR 192"
    assert scheduled(WorklistLabel="Physics").ds.WorklistLabel == "Physics"


@pytest.mark.parametrize("keyword", ["ProcedureStepState", *REQUIRED])
def test_an_attribute_of_type_1_is_needed_and_needs_a_value(keyword: str) -> None:
    ds = pushed()
    setattr(ds, keyword, "")
    with pytest.raises(MissingAttributeValue, match=keyword):
        created("1.2.3", ds, worklist="", now=NOW)
    del ds[keyword]
    with pytest.raises(MissingAttribute, match=keyword):
        created("1.2.3", ds, worklist="", now=NOW)


@pytest.mark.parametrize("state", ["IN PROGRESS", "COMPLETED", "CANCELED", "DONE"])
def test_a_step_is_created_scheduled(state: str) -> None:
    with pytest.raises(NotCreatedScheduled):
        scheduled(ProcedureStepState=state)


@pytest.mark.parametrize("keyword", EMPTY_AT_FIRST)
def test_what_its_performer_says_is_empty_at_first(keyword: str) -> None:
    with pytest.raises(InvalidAttributeValue, match=keyword):
        scheduled(**{keyword: [Dataset()] if keyword.endswith("Sequence") else MINE})


@pytest.mark.parametrize("keyword", ["ScheduledProcedureStepPriority", "InputReadinessState"])
def test_values_are_those_that_there_are(keyword: str) -> None:
    with pytest.raises(InvalidAttributeValue, match=keyword):
        scheduled(**{keyword: "SOON"})
    with pytest.raises(InvalidAttributeValue, match=keyword):
        updated(scheduled(), action(**{keyword: "SOON"}), NOW)


# CC.2.6.2 and CC.2.6.3: by state, and by the Transaction UID of the N-SET: none, that of the step, another.
SETTINGS = {
    State.SCHEDULED: (0x0000, 0xC310, 0xC310),
    State.IN_PROGRESS: (0xC301, 0x0000, 0xC301),
    State.COMPLETED: (0xC300, 0xC300, 0xC300),
    State.CANCELED: (0xC300, 0xC300, 0xC300),
}


@pytest.mark.parametrize(("state", "position"), list(product(State, range(3))))
def test_who_may_change_attributes_when(state: State, position: int) -> None:
    changes = action(ProcedureStepLabel="Another")
    if uid := ("", MINE, ANOTHER)[position]:
        changes.TransactionUID = uid
    status = SETTINGS[state][position]
    if not status:
        assert updated(in_state(state), changes, NOW).ds.ProcedureStepLabel == "Another"
        return
    with pytest.raises(PacsError) as caught:
        updated(in_state(state), changes, NOW)
    assert caught.value.normalized_status == status


def another(keyword: str) -> object:
    """A value that nobody has given before."""
    return [Dataset(), Dataset()] if keyword.endswith("Sequence") else {"DA": "19990101", "UI": "9.9"}.get(dictionary_VR(keyword), "M")


@pytest.mark.parametrize("keyword", FIXED)
def test_what_is_fixed_may_be_repeated_and_not_changed(keyword: str) -> None:
    given = pushed()
    if keyword not in given:
        setattr(given, keyword, [Dataset()] if keyword.endswith("Sequence") else "1")
    step, changes = created("1.2.3.4", given, worklist="", now=NOW), Dataset()
    changes.add(deepcopy(step.ds[keyword]))
    assert updated(step, changes, NOW).ds == step.ds
    setattr(changes, keyword, another(keyword))
    with pytest.raises(InvalidAttributeValue, match=keyword):
        updated(step, changes, NOW)


@pytest.mark.parametrize("keyword", VALUED)
def test_what_others_go_by_is_not_emptied(keyword: str) -> None:
    with pytest.raises(MissingAttributeValue, match=keyword):
        updated(scheduled(), action(**{keyword: [] if keyword.endswith("Sequence") else ""}), NOW)


def test_sequences_are_replaced_whole_nothing_else_is_lost_and_what_was_given_is_left_alone() -> None:
    step = in_state(State.IN_PROGRESS)
    before = deepcopy(step)
    after = updated(updated(step, progress("10", "begun", MINE), NOW), progress("20", transaction=MINE), datetime(2026, 12, 2))  # noqa: DTZ001
    (item,) = after.ds[PROGRESS].value
    assert (item.ProcedureStepProgress, item.ProcedureStepProgressDescription) == (20, "")
    assert (after.ds.PatientName, after.transaction, after.ds.ScheduledProcedureStepModificationDateTime) == (
        "Müller^Jürgen",
        MINE,
        "20261202000000",
    )
    assert step == before


def test_warnings_are_those_of_the_standard() -> None:
    assert (Already.CANCELED, Already.COMPLETED) == (0xB304, 0xB306)
