"""Performed procedure steps, told by pynetdicom as a modality would (PS3.4 annex F)."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pynetdicom.association import Association

from tests.support import scu
from tests.support.archive import Listener
from tests.support.event_receiver import EventReceiver
from tests.support.processes import assert_succeeded
from tests.support.waiting import eventually

NewListener = Callable[..., Listener]
MPPS, RETRIEVE, NOTIFICATION = (f"1.2.840.10008.3.1.2.3.{number}" for number in (3, 4, 5))
EVENT = {1: "in progress", 2: "completed", 3: "discontinued"}


def begun(study: str, step_id: str) -> Dataset:
    ds, scheduled = Dataset(), Dataset()
    scheduled.StudyInstanceUID, scheduled.AccessionNumber, scheduled.ScheduledProcedureStepID = study, "A1", step_id
    ds.ScheduledStepAttributesSequence = [scheduled]
    ds.PatientName, ds.PatientID = "Step^Test", "P1"
    ds.PerformedProcedureStepID, ds.PerformedStationAETitle, ds.Modality = "PPS1", "CT1", "CT"
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = "20261127", "0930"
    ds.PerformedProcedureStepStatus = "IN PROGRESS"
    ds.PerformedSeriesSequence = []
    ds.private_block(0x0009, "ACME", create=True).add_new(1, "LO", "kept")
    return ds


def ended(status: str, series_uid: str = "1.2.3.1") -> Dataset:
    ds, series, image = Dataset(), Dataset(), Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.1.1"
    series.SeriesInstanceUID, series.ProtocolName, series.ReferencedImageSequence = series_uid, "Thorax", [image]
    ds.PerformedProcedureStepEndDate, ds.PerformedProcedureStepEndTime = "20261127", "1015"
    ds.PerformedProcedureStepStatus = status
    ds.PerformedSeriesSequence = [series]
    return ds


@contextmanager
def modality(listener: Listener) -> Iterator[Association]:
    contexts = [(MPPS, ExplicitVRLittleEndian), (RETRIEVE, ExplicitVRLittleEndian)]
    with scu.association(listener.scp, *contexts, calling="CT1") as assoc:
        yield assoc


def create(assoc: Association, ds: Dataset, uid: str) -> int:
    return int(assoc.send_n_create(ds, UID(MPPS), UID(uid))[0].Status)


def change(assoc: Association, ds: Dataset, uid: str) -> int:
    return int(assoc.send_n_set(ds, UID(MPPS), UID(uid))[0].Status)


def read(assoc: Association, uid: str, *tags: int) -> tuple[int, Dataset | None]:
    status, ds = assoc.send_n_get(list(tags), UID(MPPS), UID(uid), meta_uid=UID(RETRIEVE))  # type: ignore[arg-type]  # tags may be ints
    return int(status.Status), ds


def schedule(listener: Listener, study: str) -> None:
    add = ("--patient-id", "P1", "--name", "Step^Test", "--station", "CT1", "--modality", "CT", "--start", "2026-11-27T09:00:00")
    assert_succeeded(listener.run_pacs("worklist", "add", *add, "--study", study, "--step", "S1", "--accession", "A1"))


def test_a_step_is_begun_and_completed_and_the_worklist_follows(listener: Listener) -> None:
    uid, study = generate_uid(), generate_uid()
    schedule(listener, study)
    state = f"SELECT state FROM worklist_item WHERE StudyInstanceUID = '{study}'"
    with modality(listener) as assoc:
        assert create(assoc, begun(study, "S1"), uid) == 0x0000
        assert listener.sql(state) == [{"state": "IN PROGRESS"}]
        assert change(assoc, ended("COMPLETED"), uid) == 0x0000
        assert listener.sql(state) == [{"state": "COMPLETED"}]
        status, ds = read(assoc, uid)
        assert (status, ds) == (0x0000, _merged(begun(study, "S1"), ended("COMPLETED")))
        status, ds = read(assoc, uid, 0x00400252, 0x00100020)
        assert ds is not None
        assert (status, len(ds), ds.PatientID) == (0x0000, 2, "P1")
    (row,) = listener.sql(
        "SELECT state, e.calling_ae, PatientID, started_at, ended_at, ProtocolName, instances, operation, from_state FROM performed_step"
        f" JOIN performed_series USING (SOPInstanceUID) JOIN performed_step_event e USING (SOPInstanceUID) WHERE SOPInstanceUID = '{uid}'"
        " ORDER BY number DESC LIMIT 1"
    )
    assert row == {
        "state": "COMPLETED",
        "calling_ae": "CT1",
        "PatientID": "P1",
        "started_at": "2026-11-27 09:30:00",
        "ended_at": "2026-11-27 10:15:00",
        "ProtocolName": "Thorax",
        "instances": 1,
        "operation": "N-SET",
        "from_state": "IN PROGRESS",
    }


def _merged(first: Dataset, second: Dataset) -> Dataset:
    first.update(second)
    return first


def test_what_the_standard_does_not_allow_is_refused_with_its_status(listener: Listener) -> None:
    uid, incomplete, finished = generate_uid(), begun("1.2.3", ""), begun("1.2.3", "")
    del incomplete.PerformedStationAETitle
    finished.PerformedProcedureStepStatus = "COMPLETED"
    unknown, moved = ended("DONE"), ended("COMPLETED")
    moved.PatientID = "P2"
    with modality(listener) as assoc:
        assert create(assoc, incomplete, uid) == 0x0120
        assert create(assoc, finished, uid) == 0x0106
        assert change(assoc, ended("COMPLETED"), uid) == 0x0112
        assert read(assoc, uid)[0] == 0x0112
        assert create(assoc, begun("1.2.3", ""), uid) == 0x0000
        assert create(assoc, begun("1.2.3", ""), uid) == 0x0111
        assert change(assoc, unknown, uid) == 0x0106
        assert change(assoc, moved, uid) == 0x0106
        assert change(assoc, ended("DISCONTINUED"), uid) == 0x0000
        status, _ = assoc.send_n_set(ended("COMPLETED"), UID(MPPS), UID(uid))
        assert (status.Status, status.ErrorID) == (0x0110, 0xA710)
        assert assoc.send_n_delete(UID(MPPS), UID(uid)).Status == 0x0211
    assert listener.sql(f"SELECT state FROM performed_step WHERE SOPInstanceUID = '{uid}'") == [{"state": "DISCONTINUED"}]


def test_what_was_acknowledged_survives_a_kill(new_listener: NewListener) -> None:
    listener, uid = new_listener(), generate_uid()
    with modality(listener) as assoc:
        assert create(assoc, begun("1.2.3", ""), uid) == 0x0000
    listener.process.kill()
    listener.start()
    with modality(listener) as assoc:
        assert change(assoc, ended("COMPLETED"), uid) == 0x0000
    listener.process.kill()
    listener.start()
    with modality(listener) as assoc:
        status, ds = read(assoc, uid)
        assert ds is not None
        assert (status, ds.PerformedProcedureStepStatus) == (0x0000, "COMPLETED")


def test_two_who_change_a_step_at_once_do_so_one_after_the_other(listener: Listener) -> None:
    uid = generate_uid()
    with modality(listener) as assoc:
        assert create(assoc, begun("1.2.3", ""), uid) == 0x0000
    statuses: list[int] = []

    def finish(status: str) -> None:
        with modality(listener) as assoc:
            statuses.append(change(assoc, ended(status), uid))

    threads = [threading.Thread(target=finish, args=(status,)) for status in ("COMPLETED", "DISCONTINUED") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [0x0000] + [0x0110] * 5


@pytest.fixture
def ris() -> Iterator[EventReceiver]:
    with closing(EventReceiver("RIS", NOTIFICATION)) as receiver:
        yield receiver


def test_a_peer_that_is_to_know_is_told_also_when_it_was_away(new_listener: NewListener, ris: EventReceiver) -> None:
    listener, uid = new_listener(PACS_MPPS_NOTIFY='["RIS"]', PACS_REPORT_RETRY_FIRST="0.2", PACS_REPORT_RETRY_LONGEST="1"), generate_uid()
    with modality(listener) as assoc:
        assert create(assoc, begun("1.2.3", ""), uid) == 0x0000
    waiting = "SELECT last_error FROM event_report WHERE last_error LIKE 'RIS is not a peer%'"
    eventually(lambda: listener.sql(waiting), what="an attempt")
    assert_succeeded(listener.run_pacs("peer", "add", "RIS", "127.0.0.1", str(ris.port)))
    listener.process.kill()
    listener.start()
    ris.listen()
    with modality(listener) as assoc:
        assert change(assoc, ended("COMPLETED"), uid) == 0x0000
    eventually(lambda: len(ris.events) >= 2, what="both notifications")
    eventually(lambda: not listener.sql("SELECT 1 FROM event_report WHERE state = 'due'"), what="the record of both")
    assert sorted((instance, kind) for instance, kind, _ in ris.events) == [(uid, 1), (uid, 2)]


def test_steps_by_hand(listener: Listener) -> None:
    me = f"PACS@127.0.0.1:{listener.dicom_port}"
    uid = assert_succeeded(listener.run_pacs("mpps", "create", "--patient-id", "P9", "--modality", "MR", "--peer", me)).stdout.strip()
    assert "IN PROGRESS" in assert_succeeded(listener.run_pacs("mpps", "get", uid, "--peer", me)).stdout
    assert_succeeded(listener.run_pacs("mpps", "set", uid, "--series", "1.2.3", "--peer", me))
    done = listener.run_pacs("mpps", "set", uid, "--series", "1.2.3", "--peer", me)
    assert done.returncode == 1
    assert "0110" in done.stdout
    assert listener.sql(f"SELECT state, Modality FROM performed_step WHERE SOPInstanceUID = '{uid}'") == [
        {"state": "COMPLETED", "Modality": "MR"}
    ]
