"""Which performed procedure steps are taken, and which changes of them: PS3.4 F.7.2.1, F.7.2.2 and table F.7.2-1, exhaustively."""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from datetime import datetime
from itertools import product

import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from pacs_core.errors import FinishedStep, InvalidAttributeValue, MissingAttribute, MissingAttributeValue
from pacs_core.workflow.performed_step import (
    FIXED,
    REQUIRED,
    REQUIRED_AT_THE_END,
    REQUIRED_OF_A_SERIES,
    STATUS,
    StepStatus,
    changed,
    check_creation,
    status_of,
    step_of,
)


def begun() -> Dataset:
    """As a modality creates it."""
    ds, scheduled = Dataset(), Dataset()
    scheduled.StudyInstanceUID, scheduled.AccessionNumber, scheduled.ScheduledProcedureStepID = "1.2.3", "A1", "S1"
    ds.ScheduledStepAttributesSequence = [scheduled]
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "A^B", "P1", "", "O"
    ds.PerformedProcedureStepID, ds.PerformedStationAETitle, ds.PerformedStationName = "PPS1", "CT1", "Room 1"
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = "20261127", "0930"
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = "", ""
    ds.PerformedProcedureStepStatus, ds.Modality, ds.StudyID = "IN PROGRESS", "CT", "7"
    ds.PerformedSeriesSequence = []
    return ds


def ended(status: str) -> Dataset:
    """What an N-SET says at the end."""
    ds, series = Dataset(), Dataset()
    series.SeriesInstanceUID, series.ProtocolName, series.OperatorsName = "1.2.3.1", "Thorax", "O^P"
    series.ReferencedImageSequence = [Dataset(), Dataset()]
    series.ReferencedNonImageCompositeSOPInstanceSequence = [Dataset()]
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = "20261127", "1015"
    ds.PerformedProcedureStepStatus = status
    ds.PerformedSeriesSequence = [series]
    return ds


def in_state(state: str) -> Dataset:
    return begun() if state == "IN PROGRESS" else changed(begun(), ended(state))


def test_what_a_modality_creates_is_taken() -> None:
    check_creation(begun())


@pytest.mark.parametrize("keyword", REQUIRED)
def test_an_attribute_of_type_1_is_needed_and_needs_a_value(keyword: str) -> None:
    ds = begun()
    ds[keyword].value = [] if keyword.endswith("Sequence") else ""
    with pytest.raises(MissingAttributeValue, match=keyword):
        check_creation(ds)
    del ds[keyword]
    with pytest.raises(MissingAttribute, match=keyword):
        check_creation(ds)


def test_a_step_belongs_to_a_study() -> None:
    ds = begun()
    del ds.ScheduledStepAttributesSequence[0].StudyInstanceUID
    with pytest.raises(MissingAttribute, match="StudyInstanceUID"):
        check_creation(ds)


@pytest.mark.parametrize("keyword", sorted({each.keyword for each in begun()} - set(REQUIRED)))
def test_an_attribute_of_type_2_that_is_left_out_is_not_missed(keyword: str) -> None:
    ds = begun()
    del ds[keyword]
    check_creation(ds)


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED", "SCHEDULED", "STARTED"])
def test_a_step_is_created_in_progress(status: str) -> None:
    ds = begun()
    ds.PerformedProcedureStepStatus = status
    with pytest.raises(InvalidAttributeValue):
        check_creation(ds)


@pytest.mark.parametrize(("before", "after"), list(product(StepStatus, StepStatus)))
def test_transitions(before: StepStatus, after: StepStatus) -> None:
    """All nine: only a step in progress can be changed, to anything."""
    current = in_state(before)
    if before is StepStatus.IN_PROGRESS:
        assert status_of(changed(current, ended(after))) is after
    else:
        with pytest.raises(FinishedStep):
            changed(current, ended(after))


@pytest.mark.parametrize("status", ["", "DONE", "CANCELED"])
def test_a_status_that_does_not_exist_is_refused(status: str) -> None:
    with pytest.raises(InvalidAttributeValue, match="COMPLETED"):
        changed(begun(), ended(status))


def another(keyword: str) -> object:
    """A value that nobody has given before."""
    if keyword.endswith("Sequence"):
        return [Dataset(), Dataset()]
    return {"DA": "19990101", "TM": "0101"}.get(dictionary_VR(keyword), "Z")


@pytest.mark.parametrize("keyword", FIXED)
def test_what_is_fixed_may_be_repeated_and_not_changed(keyword: str) -> None:
    current, changes = begun(), Dataset()
    if keyword not in current:
        setattr(current, keyword, [Dataset()] if keyword.endswith("Sequence") else "X")
    changes.add(deepcopy(current[keyword]))
    assert changed(current, changes) == current
    setattr(changes, keyword, another(keyword))
    with pytest.raises(InvalidAttributeValue, match=keyword):
        changed(current, changes)


@pytest.mark.parametrize(("status", "keyword"), [(status, each) for status, needed in REQUIRED_AT_THE_END.items() for each in needed])
def test_a_step_that_ends_needs_what_the_standard_says(status: StepStatus, keyword: str) -> None:
    changes = ended(status)
    del changes[keyword]
    with pytest.raises(MissingAttributeValue, match=keyword):
        changed(begun(), changes)


@pytest.mark.parametrize("keyword", REQUIRED_OF_A_SERIES)
@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
def test_a_series_needs_what_the_standard_says(status: str, keyword: str) -> None:
    changes = ended(status)
    del changes.PerformedSeriesSequence[0][keyword]
    with pytest.raises(MissingAttribute, match=keyword):
        changed(begun(), changes)


def test_what_was_given_up_need_not_have_led_to_a_series() -> None:
    changes = ended("DISCONTINUED")
    changes.PerformedSeriesSequence = []
    assert status_of(changed(begun(), changes)) is StepStatus.DISCONTINUED


def test_sequences_are_replaced_whole_and_nothing_else_is_lost() -> None:
    first, second = ended("IN PROGRESS"), Dataset()
    second.PerformedSeriesSequence = []
    second.PerformedProcedureStepDescription = "Thorax"
    after = changed(changed(begun(), first), second)
    assert list(after.PerformedSeriesSequence) == []
    assert (after.PerformedProcedureStepDescription, after.PerformedProcedureStepEndTime) == ("Thorax", "1015")
    assert after.StudyID == "7"


@pytest.mark.parametrize("make", [begun, lambda: in_state("COMPLETED")])
def test_a_change_leaves_what_it_was_given_alone(make: Callable[[], Dataset]) -> None:
    current = make()
    with suppress(FinishedStep):
        changed(current, ended("COMPLETED"))
    assert current == make()


def test_what_the_index_is_told() -> None:
    step = step_of(in_state("COMPLETED"))
    assert (step.state, step.PerformedProcedureStepID, step.PerformedStationAETitle, step.Modality, step.PatientID) == (
        "COMPLETED",
        "PPS1",
        "CT1",
        "CT",
        "P1",
    )
    assert (step.started_at, step.ended_at) == (datetime(2026, 11, 27, 9, 30), datetime(2026, 11, 27, 10, 15))  # noqa: DTZ001 local
    assert [tuple(each) for each in step.requested] == [("1.2.3", "S1", "A1")]
    assert [tuple(each) for each in step.series] == [("1.2.3.1", "Thorax", "", "", "O^P", "", 3)]
    assert STATUS not in step.attributes  # by tag, not by keyword
    assert step.attributes["00400252"]["Value"] == ["COMPLETED"]
