"""A remote archive as a source of priors: what its answers mean, and what is asked. tests/e2e has a real one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date

import pytest
from pydicom import Dataset

from pacs_core.dimse import command as commands
from pacs_core.dimse import identifiers
from pacs_core.dimse.command import Command
from pacs_core.dimse.connection import AssociationEnded, Connection, ReleaseRequested
from pacs_core.dimse.priors import RemoteArchive
from pacs_core.errors import PeerUnavailable
from pacs_core.model import UID, AETitle, Peer, PriorRequest
from pacs_core.workflow.prefetch import KnownStudy
from tests.support.peers import FakeCaller
from tests.unit.dimse.test_sending import read_message

PEER = Peer(AETitle("REMOTE"), "127.0.0.1", 104)
EXPLICIT = "1.2.840.10008.1.2.1"
DAY = date(2026, 3, 4)
Answer = Callable[[Command, Dataset], list[tuple[Command, Dataset | None]]]


@contextmanager
def remote(answer: Answer) -> Iterator[RemoteArchive]:
    """An archive at the other end that answers one association's requests."""
    caller = FakeCaller()
    threads: list[threading.Thread] = []
    opened = caller.associate

    def associate(*args: object) -> object:
        assoc = opened(*args)  # type: ignore[arg-type]  # passed on as they come
        threads.append(threading.Thread(target=_serve, args=(caller.theirs[-1], answer)))
        threads[-1].start()
        return assoc

    caller.associate = associate  # type: ignore[assignment, method-assign]
    yield RemoteArchive(caller, PEER, None)
    for thread in threads:
        thread.join(30)
    caller.close()


def _serve(connection: Connection, answer: Answer) -> None:
    try:
        while True:
            request, data = read_message(connection)
            for response, ds in answer(request, identifiers.decode(data, EXPLICIT)):
                response.CommandDataSetType = commands.NO_DATA_SET if ds is None else commands.DATA_SET
                connection.send_message(1, commands.encode(response), b"" if ds is None else identifiers.encode(ds, EXPLICIT))
    except ReleaseRequested:
        with suppress(AssociationEnded):
            connection.confirm_release()
    except AssociationEnded:
        pass  # aborted, as after a failure
    finally:
        connection.close()


def moved(status: int, completed: int = 0, failed: int = 0) -> Answer:
    def answer(request: Command, _: Dataset) -> list[tuple[Command, Dataset | None]]:
        response = request.response(status)
        response.NumberOfCompletedSuboperations, response.NumberOfFailedSuboperations = completed, failed
        return [(response, None)]

    return answer


@pytest.mark.parametrize(("status", "completed"), [(0x0000, 4), (0xB000, 4)])
def test_a_study_of_which_nothing_failed_has_come(status: int, completed: int) -> None:
    with remote(moved(status, completed)) as archive:
        assert archive.fetch(UID("1.2"), lambda: None) == completed


@pytest.mark.parametrize(
    ("status", "failed", "may_repeat"),
    [(0xB000, 1, True), (0xA701, 0, True), (0xA702, 4, True), (0xA801, 0, False), (0xA900, 0, False), (0xC001, 0, False)],
)
def test_whether_it_may_come_later_is_told_by_the_status(status: int, failed: int, may_repeat: bool) -> None:
    with remote(moved(status, 1, failed)) as archive, pytest.raises(PeerUnavailable) as failure:
        archive.fetch(UID("1.2"), lambda: None)
    assert failure.value.retryable is may_repeat


def test_every_response_is_a_sign_of_life() -> None:
    def answer(request: Command, _: Dataset) -> list[tuple[Command, Dataset | None]]:
        return [(request.response(0xFF00), None), (request.response(0xFF00), None), (request.response(0), None)]

    signs: list[None] = []
    with remote(answer) as archive:
        archive.fetch(UID("1.2"), lambda: signs.append(None))
    assert len(signs) == 3


def test_the_patient_is_asked_for_and_series_only_for_a_body_part() -> None:
    asked: list[tuple[str, str, str]] = []

    def answer(request: Command, ds: Dataset) -> list[tuple[Command, Dataset | None]]:
        asked.append((ds.QueryRetrieveLevel, ds.get("PatientID", ""), ds.get("StudyDate", "")))
        ds.PatientID, ds.StudyInstanceUID = "P1", "1.2"
        ds.StudyDate, ds.BodyPartExamined, ds.NumberOfStudyRelatedInstances = "20260101", "CHEST", "7"
        ds.ModalitiesInStudy = ["CT", "SR"]
        return [(request.response(0xFF00), ds), (request.response(0), None)]

    request = PriorRequest("P1", DAY, BodyPartExamined="CHEST")
    with remote(answer) as archive:
        (study,) = archive.find(request, date(2025, 3, 4))
    assert asked == [("STUDY", "P1", "20250304-20260304"), ("SERIES", "", "")]
    assert study == KnownStudy(UID("1.2"), date(2026, 1, 1), frozenset({"CT", "SR"}), frozenset({"CHEST"}), 7)
    with remote(answer) as archive:
        archive.find(PriorRequest("P1", DAY), date(2025, 3, 4))
    assert len(asked) == 3
