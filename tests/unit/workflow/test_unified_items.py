"""A unified procedure step as an item of the worklist."""

from datetime import datetime

import pytest
from pydicom import Dataset

from pacs_core.errors import InvalidAttributeValue
from pacs_core.ports.unified_step import Kept
from pacs_core.workflow.unified_items import exact_keys, kept, step_of
from pacs_core.workflow.unified_states import State
from pacs_core.workflow.unified_step import Step, cancel_requested, created
from tests.support.unified_steps import pushed

NOW = datetime(2026, 12, 1, 9, 30)  # noqa: DTZ001 local


def scheduled(**attributes: object) -> Step:
    return created("1.2.3.4", pushed(**attributes), worklist="PACS", now=NOW)  # type: ignore[arg-type]  # attributes of any VR


def test_what_the_index_is_told() -> None:
    row = kept(scheduled())
    assert (row.SOPInstanceUID, row.TransactionUID, row.item.state, row.item.source) == ("1.2.3.4", "", "SCHEDULED", "ups")
    assert row.item.scheduled_at == datetime(2026, 12, 1, 8, 30)  # noqa: DTZ001 local
    assert row.item.attributes == {
        "PatientID": "P1",
        "PatientName": "Müller^Jürgen",
        "StudyInstanceUID": "1.2.3",
        "ProcedureStepLabel": "Contour",
        "ScheduledProcedureStepPriority": "MEDIUM",
        "AccessionNumber": "A1",
        "RequestedProcedureID": "R1",
    }
    assert row.item.header["ProcedureStepState"] == "SCHEDULED"


def test_the_worklist_spells_canceled_in_its_own_way() -> None:
    row = kept(cancel_requested(scheduled(), Dataset(), NOW).step)
    assert (row.item.state, row.item.header["ProcedureStepState"]) == ("CANCELLED", "CANCELED")


def test_a_step_needs_no_request() -> None:
    row = kept(scheduled(ReferencedRequestSequence=[], StudyInstanceUID="1.2.9"))
    assert (row.item.attributes["StudyInstanceUID"], row.item.attributes["AccessionNumber"]) == ("1.2.9", "")


def test_a_time_with_an_offset_is_local_in_the_table() -> None:
    at = kept(scheduled(ScheduledProcedureStepStartDateTime="20261201083000+0000")).item.scheduled_at
    assert at.tzinfo is None
    assert at.astimezone() == datetime.fromisoformat("2026-12-01T08:30:00+00:00")


def test_what_cannot_be_scheduled_is_refused() -> None:
    step = scheduled()
    step.ds.ScheduledProcedureStepStartDateTime = "2026"
    step.ds["ScheduledProcedureStepStartDateTime"]._value = "soon"
    with pytest.raises(InvalidAttributeValue, match="ScheduledProcedureStepStartDateTime"):
        kept(step)


def test_what_is_kept_is_the_step() -> None:
    step = scheduled()
    step.ds.private_block(0x0009, "ACME", create=True).add_new(1, "LO", "kept")
    row = kept(Step(step.ds, "1.2.99"))
    assert step_of(Kept(row.TransactionUID, row.attributes)) == Step(step.ds, "1.2.99")


def test_keys_by_which_steps_are_found_without_reading_all() -> None:
    assert exact_keys({"PatientID": "P1", "ProcedureStepState": State.CANCELED, "PatientName": "A"}) == {
        "PatientID": "P1",
        "state": "CANCELLED",
    }
    assert exact_keys({"PatientID": "P*", "ProcedureStepState": "SCHEDULED\\IN PROGRESS", "SOPInstanceUID": ""}) == {}
    assert exact_keys({"ProcedureStepState": "DONE"}) == {}
