"""What is told of unified procedure steps: the triggers of PS3.4 CC.2.4.3, with what table CC.2.4-1 says goes with each."""

from datetime import datetime

from pydicom import Dataset

from pacs_core.dicom.json_model import from_json
from pacs_core.workflow.unified_events import EventType, News, of_change, of_creation, of_request, of_restart, of_update, reports
from pacs_core.workflow.unified_states import State
from pacs_core.workflow.unified_step import EVENT, PUSH, Step, cancel_requested, created, state_changed, updated
from tests.support.unified_steps import action, code, progress, pushed

NOW = datetime(2026, 12, 1, 9, 30)  # noqa: DTZ001 local


def scheduled(station: str = "") -> Step:
    return created("1.2.3.4", pushed(station=station), worklist="PACS", now=NOW)


def summary(news: News) -> tuple[int, list[str]]:
    return news.event, [element.keyword for element in news.ds]


def test_a_new_step_is_told_with_its_state_and_for_whom_it_is() -> None:
    assert [summary(each) for each in of_creation(scheduled())] == [(1, ["InputReadinessState", "ProcedureStepState"])]
    assert [each.event for each in of_creation(scheduled("LINAC1"))] == [EventType.STATE_REPORT, EventType.ASSIGNED]
    performer = action(HumanPerformerCodeSequence=[code("MEYER")], HumanPerformerOrganization="Physik")
    assigned = of_creation(created("1.2.3", pushed(ScheduledHumanPerformersSequence=[performer]), worklist="", now=NOW))[1]
    assert (assigned.ds.HumanPerformerCodeSequence[0].CodeValue, assigned.ds.HumanPerformerOrganization) == ("MEYER", "Physik")


def test_each_state_that_a_step_goes_through_is_told() -> None:
    taken = state_changed(scheduled(), action(ProcedureStepState="IN PROGRESS", TransactionUID="1.2"), NOW)
    assert [each.ds.ProcedureStepState for each in of_change(taken)] == ["IN PROGRESS"]
    canceled = of_change(cancel_requested(scheduled(), action(ReasonForCancellation="Machine down"), NOW))
    assert [each.ds.ProcedureStepState for each in canceled] == ["IN PROGRESS", "CANCELED"]
    assert "ReasonForCancellation" not in canceled[0].ds
    assert (canceled[1].ds.ReasonForCancellation, len(canceled[1].ds.ProcedureStepDiscontinuationReasonCodeSequence)) == ("Machine down", 1)


def changed_by(changes: Dataset) -> list[News]:
    before = scheduled()
    return list(of_update(before, updated(before, changes, NOW)))


def test_of_an_update_is_told_what_others_want_to_know() -> None:
    assert changed_by(action(ProcedureStepLabel="Another")) == []
    assert [summary(each) for each in changed_by(action(InputReadinessState="INCOMPLETE"))] == [
        (EventType.STATE_REPORT, ["InputReadinessState", "ProcedureStepState"])
    ]
    assert [summary(each) for each in changed_by(action(ScheduledStationNameCodeSequence=[code("LINAC2")]))] == [
        (EventType.ASSIGNED, ["ScheduledStationNameCodeSequence"])
    ]
    (news,) = changed_by(progress("50", "half"))
    assert summary(news) == (EventType.PROGRESS_REPORT, ["ProcedureStepProgressInformationSequence"])
    before = updated(scheduled(), progress("50"), NOW)
    assert of_update(before, updated(before, progress("50"), NOW)) == [], "a repetition is no news"


def test_a_request_to_cancel_is_told_with_what_was_said() -> None:
    news = of_request("RIS", action(ReasonForCancellation="No", ContactDisplayName="Meyer", ContactURI="tel:1", ReceivingAE="X"))
    assert (news.event, news.ds) == (
        EventType.CANCEL_REQUESTED,
        action(ReasonForCancellation="No", ContactDisplayName="Meyer", ContactURI="tel:1", RequestingAE="RIS"),
    )


def test_a_restart_loses_nothing() -> None:
    ds = of_restart().ds
    assert (ds.SCPStatus, ds.SubscriptionListStatus, ds.UnifiedProcedureStepListStatus) == ("RESTARTED", "WARM START", "WARM START")


def test_news_are_owed_to_each_receiver_in_their_order_in_a_character_set_that_holds_them() -> None:
    news = [of_request("RIS", action(ReasonForCancellation="Gerät aus")), *of_creation(scheduled())]
    owed = reports("1.2.3.4", news, ["A", "B"])
    assert [(each.peer, each.event_type) for each in owed] == [("A", 2), ("A", 1), ("B", 2), ("B", 1)]
    assert {(each.sop_class, each.context_class, each.sop_instance) for each in owed} == {(PUSH, EVENT, "1.2.3.4")}
    told = from_json(owed[0].attributes)
    assert (told.SpecificCharacterSet, told.ReasonForCancellation) == ("ISO_IR 192", "Gerät aus")
    assert from_json(owed[1].attributes).ProcedureStepState == State.SCHEDULED
