"""Unified procedure steps, pushed, taken and watched by pynetdicom (PS3.4 annex CC). DCMTK and GDCM have no client for them."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import pytest
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pynetdicom.association import Association

from tests.support import scu
from tests.support.archive import Listener
from tests.support.event_receiver import EventReceiver
from tests.support.processes import assert_succeeded
from tests.support.unified_steps import action, code, performed, progress, pushed
from tests.support.waiting import eventually

NewListener = Callable[..., Listener]
PUSH, WATCH, PULL, EVENT, QUERY = (f"1.2.840.10008.5.1.4.34.6.{number}" for number in range(1, 6))
GLOBAL, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"
STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, SCP_STATUS_CHANGE, ASSIGNED = range(1, 6)
CHANGE_STATE, REQUEST_CANCEL, SUBSCRIBE, UNSUBSCRIBE, SUSPEND = range(1, 6)
RETRIES = {"PACS_REPORT_RETRY_FIRST": "0.2", "PACS_REPORT_RETRY_LONGEST": "1"}


class Client:
    """An association that may do everything, in the SOP class that has it."""

    def __init__(self, assoc: Association) -> None:
        self.assoc = assoc

    def push(self, ds: Dataset, uid: str) -> int:
        return int(self.assoc.send_n_create(ds, UID(PUSH), UID(uid))[0].Status)

    def set(self, ds: Dataset, uid: str) -> int:
        return int(self.assoc.send_n_set(ds, UID(PUSH), UID(uid), meta_uid=UID(PULL))[0].Status)

    def get(self, uid: str, *tags: int, sop_class: str = WATCH) -> tuple[int, Dataset | None]:
        status, ds = self.assoc.send_n_get(list(tags), UID(PUSH), UID(uid), meta_uid=UID(sop_class))  # type: ignore[arg-type]  # tags may be ints
        return int(status.Status), ds

    def act(self, kind: int, uid: str, sop_class: str, **attributes: object) -> int:
        information = action(**attributes) if attributes else None
        status, _ = self.assoc.send_n_action(information, kind, UID(PUSH), UID(uid), meta_uid=UID(sop_class))
        return int(status.Status)

    def change_state(self, uid: str, state: str, transaction: str) -> int:
        return self.act(CHANGE_STATE, uid, PULL, ProcedureStepState=state, TransactionUID=transaction)

    def subscribe(self, uid: str, receiver: str = "WATCHER", lock: str = "FALSE", **keys: object) -> int:
        return self.act(SUBSCRIBE, uid, WATCH, ReceivingAE=receiver, DeletionLock=lock, **keys)

    def find(self, sop_class: str = PULL, **keys: object) -> list[Dataset]:
        answers = list(self.assoc.send_c_find(action(**keys), UID(sop_class)))
        assert answers[-1][0].Status == 0x0000
        return [match for _, match in answers[:-1] if match is not None]


@contextmanager
def client(listener: Listener, calling: str = "PERFORMER") -> Iterator[Client]:
    contexts = [(sop_class, ExplicitVRLittleEndian) for sop_class in (PUSH, WATCH, PULL, QUERY)]
    with scu.association(listener.scp, *contexts, calling=calling) as assoc:
        yield Client(assoc)


@pytest.fixture
def watcher() -> Iterator[EventReceiver]:
    with closing(EventReceiver("WATCHER", EVENT)) as receiver:
        yield receiver


def told(watcher: EventReceiver, uid: str, count: int) -> Sequence[tuple[int, Dataset]]:
    """The events of a step, once there are so many."""

    def taken() -> list[tuple[int, Dataset]] | None:
        events = [(kind, ds) for instance, kind, ds in watcher.events if instance == uid]
        return events if len(events) >= count else None

    return eventually(taken, within=90, what=f"{count} events")


def known(listener: Listener, watcher: EventReceiver) -> None:
    assert_succeeded(listener.run_pacs("peer", "add", "WATCHER", "127.0.0.1", str(watcher.port)))


def test_a_step_is_pushed_found_taken_reported_on_and_completed(listener: Listener) -> None:
    uid, transaction = generate_uid(), generate_uid()
    with client(listener) as performer:
        assert performer.push(pushed(patient_id="P-ONE", station="LINAC1"), uid) == 0x0000
        (match,) = performer.find(
            SOPInstanceUID="", ProcedureStepState="SCHEDULED", PatientID="P-ONE", PatientName="MUL*", TransactionUID="", WorklistLabel=""
        )
        assert (match.SOPInstanceUID, match.PatientName, match.WorklistLabel) == (uid, "Müller^Jürgen", "PACS")
        assert "TransactionUID" not in match
        assert performer.change_state(uid, "IN PROGRESS", transaction) == 0x0000
        assert performer.set(progress("50", "half", transaction), uid) == 0x0000
        assert performer.change_state(uid, "COMPLETED", transaction) == 0xC304
        assert performer.set(performed(transaction), uid) == 0x0000
        assert performer.change_state(uid, "COMPLETED", transaction) == 0x0000
        status, ds = performer.get(uid)
        assert ds is not None
        assert (status, ds.ProcedureStepState, ds.PatientName) == (0x0000, "COMPLETED", "Müller^Jürgen")
        assert ds.UnifiedProcedureStepPerformedProcedureSequence[0].PerformedStationNameCodeSequence[0].CodeValue == "LINAC1"
        assert "TransactionUID" not in ds
        status, ds = performer.get(uid, 0x00741000, 0x00081195, 0x00100010, sop_class=PULL)
        assert ds is not None
        assert {element.keyword for element in ds} == {"SpecificCharacterSet", "ProcedureStepState", "PatientName"}
    (row,) = listener.sql(
        "SELECT state, PatientID, AccessionNumber, ProcedureStepLabel, scheduled_at, source, TransactionUID FROM worklist_item"
        f" WHERE SOPInstanceUID = '{uid}'"
    )
    assert row == {
        "state": "COMPLETED",
        "PatientID": "P-ONE",
        "AccessionNumber": "A1",
        "ProcedureStepLabel": "Contour",
        "scheduled_at": "2026-12-01 08:30:00",
        "source": "ups",
        "TransactionUID": transaction,
    }
    history = listener.sql(f"SELECT operation, calling_ae, from_state, to_state FROM unified_step_event WHERE SOPInstanceUID = '{uid}'")
    assert [tuple(each.values()) for each in history] == [
        ("N-CREATE", "PERFORMER", None, "SCHEDULED"),
        ("change state", "PERFORMER", "SCHEDULED", "IN PROGRESS"),
        ("N-SET", "PERFORMER", "IN PROGRESS", "IN PROGRESS"),
        ("N-SET", "PERFORMER", "IN PROGRESS", "IN PROGRESS"),
        ("change state", "PERFORMER", "IN PROGRESS", "COMPLETED"),
    ]


def test_what_the_standard_does_not_allow_is_refused_with_its_status(listener: Listener) -> None:
    uid, nowhere, mine, other = (generate_uid() for _ in range(4))
    incomplete = pushed()
    del incomplete.ScheduledProcedureStepPriority
    with client(listener) as performer:
        assert performer.push(pushed(ProcedureStepState="IN PROGRESS"), uid) == 0xC309
        assert performer.push(incomplete, uid) == 0x0120
        assert performer.push(pushed(TransactionUID=mine), uid) == 0x0106
        assert performer.push(pushed(), uid) == 0x0000
        assert performer.push(pushed(), uid) == 0x0111
        assert performer.set(progress("1", transaction=mine), uid) == 0xC310
        assert performer.change_state(uid, "COMPLETED", mine) == 0xC310
        assert performer.change_state(uid, "IN PROGRESS", "") == 0xC301
        assert performer.change_state(uid, "IN PROGRESS", mine) == 0x0000
        assert performer.change_state(uid, "IN PROGRESS", mine) == 0xC302
        assert performer.change_state(uid, "IN PROGRESS", other) == 0xC301
        assert performer.change_state(uid, "SCHEDULED", mine) == 0xC303
        assert performer.set(progress("1", transaction=other), uid) == 0xC301
        assert performer.act(REQUEST_CANCEL, uid, WATCH) == 0xC312
        assert performer.change_state(uid, "CANCELED", mine) == 0x0000
        assert performer.change_state(uid, "CANCELED", mine) == 0xB304
        assert performer.act(REQUEST_CANCEL, uid, PUSH) == 0xB304
        assert performer.set(progress("1", transaction=mine), uid) == 0xC300
        assert performer.get(nowhere)[0] == 0xC307
        assert performer.set(progress("1"), nowhere) == 0xC307
        assert performer.change_state(nowhere, "IN PROGRESS", mine) == 0xC307
        assert performer.act(REQUEST_CANCEL, nowhere, PUSH) == 0xC307
        assert performer.subscribe(uid, "NOBODY") == 0xC308
        assert performer.act(SUSPEND, uid, WATCH, ReceivingAE="WATCHER") == 0xC314
        assert performer.act(SUBSCRIBE, uid, PULL, ReceivingAE="WATCHER") == 0x0123
        assert performer.act(9, uid, WATCH) == 0x0123
        assert performer.assoc.send_n_delete(UID(PUSH), UID(uid)).Status == 0x0211
    assert listener.sql(f"SELECT state FROM worklist_item WHERE SOPInstanceUID = '{uid}'") == [{"state": "CANCELLED"}]


def test_of_those_who_want_a_step_at_once_exactly_one_gets_it(listener: Listener) -> None:
    uid, takers = generate_uid(), 6
    with client(listener) as creator:
        assert creator.push(pushed(), uid) == 0x0000
    ready, statuses = threading.Barrier(takers), dict[str, int]()

    def take(transaction: str) -> None:
        with client(listener, calling=f"TAKER{len(transaction)}") as performer:
            ready.wait()
            statuses[transaction] = performer.change_state(uid, "IN PROGRESS", transaction)

    threads = [threading.Thread(target=take, args=("1.2." + "3" * length,)) for length in range(1, takers + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses.values()) == [0x0000] + [0xC301] * (takers - 1)
    (winner,) = (transaction for transaction, status in statuses.items() if status == 0x0000)
    assert listener.sql(f"SELECT TransactionUID FROM worklist_item WHERE SOPInstanceUID = '{uid}'") == [{"TransactionUID": winner}]


def test_queries_match_what_steps_have_and_each_kind_of_query_finds_its_own(listener: Listener) -> None:
    uids = [generate_uid() for _ in range(3)]
    with client(listener) as performer:
        for uid, station, label in zip(uids, ("CT-A", "CT-A", "CT-B"), ("One", "Two", "Two"), strict=True):
            assert performer.push(pushed(patient_id="P-FIND", station=station, label=label), uid) == 0x0000

        def found(sop_class: str = QUERY, **keys: object) -> list[str]:
            return [str(ds.SOPInstanceUID) for ds in performer.find(sop_class, **{"PatientID": "P-FIND", "SOPInstanceUID": "", **keys})]

        assert found() == uids
        assert found(WATCH, ProcedureStepLabel="Two") == uids[1:]
        assert found(PULL, ScheduledStationNameCodeSequence=[action(CodeValue="CT-A", CodingSchemeDesignator="")]) == uids[:2]
        assert found(ScheduledProcedureStepStartDateTime="20261201-20261202") == uids
        assert found(ScheduledProcedureStepStartDateTime="20261202-") == []
        assert found(SOPInstanceUID=uids[2]) == uids[2:]
        assert found(ProcedureStepState="IN PROGRESS") == []
    question = action(PatientID="P-FIND", ScheduledProcedureStepSequence=[])
    assert scu.find(listener.scp, question, model="worklist") == ([], 0x0000), "modalities are not offered what has no scheduled step"
    rows = json.loads(assert_succeeded(listener.run_pacs("worklist", "list", "--format", "json")).stdout)
    assert [row["source"] for row in rows if row["PatientID"] == "P-FIND"] == ["ups"] * 3


def test_a_watcher_is_told_what_happens_in_its_order(new_listener: NewListener, watcher: EventReceiver) -> None:
    listener, uid, mine = new_listener(**RETRIES), generate_uid(), generate_uid()
    known(listener, watcher)
    watcher.listen()
    with client(listener) as performer:
        assert performer.subscribe(GLOBAL) == 0x0000
        assert performer.push(pushed(station="LINAC1"), uid) == 0x0000
        assert performer.change_state(uid, "IN PROGRESS", mine) == 0x0000
        assert performer.set(progress("50", "Hälfte", mine), uid) == 0x0000
        assert performer.act(REQUEST_CANCEL, uid, WATCH, ReasonForCancellation="Gerät aus", ContactDisplayName="Meyer") == 0x0000
        assert performer.change_state(uid, "CANCELED", mine) == 0x0000
    events = told(watcher, uid, 6)
    assert [kind for kind, _ in events] == [STATE_REPORT, ASSIGNED, STATE_REPORT, PROGRESS_REPORT, CANCEL_REQUESTED, STATE_REPORT]
    states = [(ds.ProcedureStepState, ds.InputReadinessState) for kind, ds in events if kind == STATE_REPORT]
    assert states == [("SCHEDULED", "READY"), ("IN PROGRESS", "READY"), ("CANCELED", "READY")]
    assert events[3][1].ProcedureStepProgressInformationSequence[0].ProcedureStepProgressDescription == "Hälfte"
    requested = events[4][1]
    assert (requested.RequestingAE, requested.ReasonForCancellation, requested.ContactDisplayName) == ("PERFORMER", "Gerät aus", "Meyer")
    eventually(lambda: not listener.sql("SELECT 1 FROM event_report WHERE state <> 'delivered'"), what="the record of all")
    (row,) = listener.sql("SELECT peer, context_class, count(*) AS reports FROM event_report GROUP BY ALL")
    assert tuple(row.values()) == ("WATCHER", EVENT, 6)


def test_subscriptions_to_one_to_some_and_to_all(new_listener: NewListener, watcher: EventReceiver) -> None:
    listener, first, second, third = new_listener(**RETRIES), *(generate_uid() for _ in range(3))
    known(listener, watcher)
    watcher.listen()
    subscribed = "SELECT SOPInstanceUID, deletion_lock FROM unified_step_subscription ORDER BY subscribed_at"

    def subscriptions() -> dict[str, bool]:
        return {str(row["SOPInstanceUID"]): bool(row["deletion_lock"]) for row in listener.sql(subscribed)}

    with client(listener) as performer:
        assert performer.push(pushed(), first) == 0x0000
        assert performer.subscribe(first, lock="TRUE") == 0x0000
        assert [ds.ProcedureStepState for _, ds in told(watcher, first, 1)] == ["SCHEDULED"]
        filtered = [action(CodeValue="LINAC1", CodingSchemeDesignator="99TEST")]
        assert performer.subscribe(FILTERED, ScheduledStationNameCodeSequence=filtered) == 0x0000
        assert performer.push(pushed(station="LINAC1"), second) == 0x0000
        assert performer.push(pushed(station="LINAC2"), third) == 0x0000
        assert subscriptions() == {first: True, second: False}
        assert performer.subscribe(GLOBAL, lock="TRUE") == 0x0000
        assert subscriptions() == {first: True, second: False, third: True}
        assert [kind for kind, _ in told(watcher, third, 1)] == [STATE_REPORT]
        assert performer.act(SUSPEND, GLOBAL, WATCH, ReceivingAE="WATCHER") == 0x0000
        assert listener.sql("SELECT * FROM unified_step_watcher") == []
        assert performer.act(UNSUBSCRIBE, second, WATCH, ReceivingAE="WATCHER") == 0x0000
        assert subscriptions() == {first: True, third: True}
        assert performer.act(UNSUBSCRIBE, GLOBAL, WATCH, ReceivingAE="WATCHER") == 0x0000
        assert subscriptions() == {}


def test_what_nobody_has_begun_is_canceled_by_asking(new_listener: NewListener, watcher: EventReceiver) -> None:
    listener, uid = new_listener(**RETRIES), generate_uid()
    known(listener, watcher)
    watcher.listen()
    with client(listener, calling="RIS") as creator:
        assert creator.push(pushed(), uid) == 0x0000
        assert creator.subscribe(uid) == 0x0000
        reason = [code("110501", "Equipment failure", "DCM")]
        assert creator.act(REQUEST_CANCEL, uid, PUSH, ProcedureStepDiscontinuationReasonCodeSequence=reason) == 0x0000
        assert creator.change_state(uid, "IN PROGRESS", "1.2.3") == 0xC300
    states = [(ds.ProcedureStepState, "ProcedureStepDiscontinuationReasonCodeSequence" in ds) for _, ds in told(watcher, uid, 3)]
    assert states == [("SCHEDULED", False), ("IN PROGRESS", False), ("CANCELED", True)]


def test_what_happened_is_told_whatever_was_killed_meanwhile(new_listener: NewListener, watcher: EventReceiver) -> None:
    listener, uid = new_listener(**RETRIES), generate_uid()
    known(listener, watcher)
    with client(listener) as performer:
        assert performer.subscribe(GLOBAL) == 0x0000
        assert performer.push(pushed(), uid) == 0x0000
        assert performer.change_state(uid, "IN PROGRESS", "1.2.3") == 0x0000
    listener.process.kill()  # nobody was there to be told
    listener.start()
    watcher.listen()
    assert {ds.ProcedureStepState for _, ds in told(watcher, uid, 2)} == {"SCHEDULED", "IN PROGRESS"}
    ((kind, restarted),) = told(watcher, GLOBAL, 1)
    assert (kind, restarted.SCPStatus, restarted.SubscriptionListStatus) == (SCP_STATUS_CHANGE, "RESTARTED", "WARM START")
    with client(listener) as performer:
        assert performer.change_state(uid, "IN PROGRESS", "1.2.4") == 0xC301
        assert performer.set(progress("1", transaction="1.2.3"), uid) == 0x0000


def test_a_peer_may_be_kept_from_steps(new_listener: NewListener) -> None:
    listener = new_listener()
    assert_succeeded(listener.run_pacs("peer", "add", "CT1", "127.0.0.1", "104", "--may", "worklist"))
    with client(listener, calling="CT1") as modality:
        assert modality.push(pushed(), generate_uid()) == 0x0124
    assert_succeeded(listener.run_pacs("peer", "add", "CT1", "127.0.0.1", "104", "--may", "ups"))

    def pushes() -> bool:
        with client(listener, calling="CT1") as modality:
            return modality.push(pushed(), generate_uid()) == 0x0000

    eventually(pushes, what="the permission")
