"""What can be scheduled, and which items a modality's query selects (PS3.4 table K.6-1)."""

from datetime import datetime

import pytest

from pacs_core.errors import InvalidAttributeValue, InvalidIdentifier, InvalidUID, MissingAttribute, RequestError
from pacs_core.model import Header
from pacs_core.workflow.worklist import STEPS, criteria_of, exact_keys, item_of, period_of, step_of

FLAT: Header = {
    "PatientID": "P1",
    "PatientName": "Müller^Jörg",
    "AccessionNumber": "A1",
    "StudyInstanceUID": "1.2.3",
    "ScheduledStationAETitle": "CT1\\CT2",
    "Modality": "CT",
    "ScheduledProcedureStepStartDate": "20261127",
    "ScheduledProcedureStepStartTime": "1030",
    "ScheduledProtocolCodeSequence": [{"CodeValue": "CTCHEST", "CodingSchemeDesignator": "99X"}],
    "RequestedProcedureCodeSequence": [{"CodeValue": "R1"}],
}


def selects(keys: Header, item: Header = FLAT) -> bool:
    return all(criterion.satisfied_by(item_of(item).header) for criterion in criteria_of(keys))


def step(**keys: str) -> Header:
    return {STEPS: [dict(keys)]}


def test_an_item_may_be_given_flat_or_in_the_form_of_the_standard() -> None:
    item = item_of(FLAT)
    assert item.scheduled_at == datetime(2026, 11, 27, 10, 30)  # noqa: DTZ001 local time, as the Standard has it
    assert item_of(item.header) == item
    assert "Modality" not in item.header
    assert step_of(item.header)["Modality"] == "CT"
    assert (item.text("Modality"), item.text("PatientID"), item.text("PatientSex"), item.text("RequestedProcedureCodeSequence")) == (
        "CT",
        "P1",
        "",
        "",
    )


def test_what_a_small_department_does_without_is_made_and_is_the_same_each_time() -> None:
    bare = {keyword: value for keyword, value in FLAT.items() if keyword not in ("StudyInstanceUID", "AccessionNumber")}
    item = item_of(bare)
    assert item.text("StudyInstanceUID").startswith("2.25.")
    assert len(item.text("StudyInstanceUID")) <= 64
    assert 0 < len(item.text("RequestedProcedureID")) <= 16
    assert 0 < len(item.text("ScheduledProcedureStepID")) <= 16
    assert item_of(bare) == item
    assert item_of(bare | {"PatientID": "P2"}).text("StudyInstanceUID") != item.text("StudyInstanceUID")
    with_accession = item_of({k: v for k, v in FLAT.items() if k != "StudyInstanceUID"})
    assert with_accession.text("RequestedProcedureID") == with_accession.text("ScheduledProcedureStepID") == "A1"


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"PatientID": ""}, MissingAttribute, "PatientID"),
        ({"PatientName": ""}, MissingAttribute, "PatientName"),
        ({"Modality": ""}, MissingAttribute, "Modality"),
        ({"ScheduledStationAETitle": "", "ScheduledProcedureStepStartTime": ""}, MissingAttribute, "AETitle, .*StartTime"),
        ({"StudyInstanceUID": "1.2.x"}, InvalidUID, "StudyInstanceUID"),
        ({"ScheduledStationAETitle": "CT1\\" + "X" * 17}, InvalidAttributeValue, "AE title"),
        ({"Modality": "ct"}, InvalidAttributeValue, "Modality"),
        ({"ScheduledProcedureStepStartDate": "27.11.2026"}, InvalidAttributeValue, "YYYYMMDD"),
        ({"ScheduledProcedureStepStartTime": "noon"}, InvalidAttributeValue, "HHMM"),
        ({STEPS: [{}, {}]}, InvalidAttributeValue, "2 items"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_with_what_to_do(changes: Header, error: type[RequestError], told: str) -> None:
    with pytest.raises(error, match=told):
        item_of(FLAT | changes)


@pytest.mark.parametrize(
    ("keys", "selected"),
    [
        ({}, True),
        ({"PatientName": "muller*"}, True),
        ({"PatientName": "Meier*"}, False),
        ({"PatientID": "P?"}, True),
        ({"AccessionNumber": "A1"}, True),
        ({"AccessionNumber": "A2"}, False),
        ({"StudyInstanceUID": "1.2.3"}, True),
        ({"StudyInstanceUID": "1.2.4\\1.2.3"}, True),
        ({"RequestedProcedureID": "A1"}, True),
        ({"RequestedProcedureCodeSequence": [{"CodeValue": "R1"}]}, True),
        ({"RequestedProcedureCodeSequence": [{"CodeValue": "R2"}]}, False),
        ({STEPS: []}, True),
        (step(ScheduledStationAETitle="CT2"), True),
        (step(ScheduledStationAETitle="CT3"), False),
        (step(Modality="CT"), True),
        (step(Modality="MR"), False),
        (step(Modality="CT", ScheduledStationAETitle="CT3"), False),
        (step(ScheduledProcedureStepStartDate="20261127"), True),
        (step(ScheduledProcedureStepStartDate="20261126-"), True),
        (step(ScheduledProcedureStepStartDate="-20261126"), False),
        (step(ScheduledProcedureStepStartTime="1000-1100"), True),
        (step(ScheduledProcedureStepStartTime="1031-"), False),
        ({STEPS: [{"ScheduledProtocolCodeSequence": [{"CodeValue": "CTCHEST"}]}]}, True),
        ({STEPS: [{"ScheduledProtocolCodeSequence": [{"CodeValue": "CTHEAD"}]}]}, False),
        # Two ranges are one: from the first day's first time to the last day's last.
        (step(ScheduledProcedureStepStartDate="20261126-20261127", ScheduledProcedureStepStartTime="1200-1100"), True),
        (step(ScheduledProcedureStepStartDate="20261127-20261128", ScheduledProcedureStepStartTime="1100-0900"), False),
        (step(ScheduledProcedureStepStartDate="20261126-20261128", ScheduledProcedureStepStartTime="2300-0100"), True),
        # A day and a range of times are not.
        (step(ScheduledProcedureStepStartDate="20261127", ScheduledProcedureStepStartTime="1000-1100"), True),
        (step(ScheduledProcedureStepStartDate="20261127", ScheduledProcedureStepStartTime="1100-1200"), False),
    ],
)
def test_a_query_selects_as_the_standard_says(keys: Header, selected: bool) -> None:
    assert selects(keys) is selected
    first, last = period_of(criteria_of(keys))
    scheduled_at = item_of(FLAT).scheduled_at
    if selected:  # what a store leaves out by its time would not have been selected
        assert (first or scheduled_at) <= scheduled_at <= (last or scheduled_at)


def test_the_period_of_a_query_is_that_of_its_days() -> None:
    days = step(ScheduledProcedureStepStartDate="20261127\\20261130-20261201")
    first, last = period_of(criteria_of(days))
    assert (str(first), str(last)) == ("2026-11-27 00:00:00", "2026-12-01 23:59:59.999999")
    assert period_of(criteria_of(step(ScheduledProcedureStepStartDate="20261127-"))) == (first, None)
    assert period_of(criteria_of(step(ScheduledProcedureStepStartTime="0800"))) == (None, None)
    assert period_of(criteria_of({})) == (None, None)


@pytest.mark.parametrize("keys", [step(ScheduledProcedureStepStartDate="2026*"), {STEPS: [{"Modality": "CT"}, {"Modality": "MR"}]}])
def test_what_cannot_be_matched_is_refused(keys: Header) -> None:
    with pytest.raises(InvalidIdentifier):
        criteria_of(keys)


def test_only_single_values_are_looked_up() -> None:
    keys: Header = {"PatientID": "P1", "AccessionNumber": "A*", "StudyInstanceUID": "1.2\\1.3", "PatientName": "X"}
    assert exact_keys(keys) == {"PatientID": "P1"}
    assert exact_keys(step(Modality="CT")) == {}
