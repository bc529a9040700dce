"""Query and retrieve over real associations, with an archive of values behind them."""

import hashlib
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom import Dataset

from pacs_core.archive.queries import Queries
from pacs_core.archive.retrieval import Retrieval
from pacs_core.archive.stored import StoredDataSet, open_data_set
from pacs_core.dicom.file_meta import build_file_meta
from pacs_core.dimse import client, identifiers
from pacs_core.dimse.association import Association
from pacs_core.dimse.client import Caller
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.connection import ProtocolViolation
from pacs_core.dimse.listener import Limits, Listener
from pacs_core.dimse.negotiation import Context, Proposal
from pacs_core.dimse.pool import AssociationPool
from pacs_core.dimse.services import Service
from pacs_core.dimse.services.query import QueryService
from pacs_core.dimse.services.retrieve import Retrieve, SubOperations
from pacs_core.dimse.services.verification import VERIFICATION, Verification
from pacs_core.model import UID, AETitle, Availability, Header, Origin, Peer, Query, StoredObject, StoreRequest
from pacs_core.ports import PeerDirectory
from pacs_core.telemetry.timing import Timings
from tests.support.retrieving import FakeRecalls, MemoryStore, retrieving

CT, IMPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2"
FIND, MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"


class FakeArchive:
    """Answers every query with the same entities, and every retrieve with the same instances."""

    def __init__(self, folder: Path, count: int) -> None:
        self.objects = [self._object(folder, number) for number in range(count)]
        self.files = {item.SOPInstanceUID: folder / item.path for item in self.objects}
        self.headers: list[Header] = [{"StudyInstanceUID": f"1.2.{n}", "PatientName": "A"} for n in range(count)]
        self.closed = threading.Event()

    def _object(self, folder: Path, number: int) -> StoredObject:
        uid = UID(f"1.2.3.{number}")
        request = StoreRequest(UID(CT), uid, UID(IMPLICIT), Origin("A", "B", datetime.now(UTC)))
        path = folder / f"{number}.dcm"
        path.write_bytes(build_file_meta(request) + b"\x08\x00\x18\x00\x08\x00\x00\x001.2.3.45")
        return StoredObject(uid, UID(CT), UID(IMPLICIT), UID("1.1"), UID("1.2"), "hot", path.name, path.stat().st_size, "")

    def find(self, query: Query) -> Iterator[Header]:
        try:
            yield from self.headers
        finally:
            self.closed.set()

    def locate(self, query: Query) -> Sequence[StoredObject]:
        return self.objects

    @contextmanager
    def session(self, instances: Sequence[StoredObject]) -> Iterator["FakeArchive"]:
        yield self

    def open(self, instance: StoredObject) -> StoredDataSet:
        return open_data_set(self.files[instance.SOPInstanceUID], size=instance.size)


class FakePeers:
    def __init__(self, *peers: Peer) -> None:
        self._peers = {str(peer.ae_title): peer for peer in peers}

    def get(self, ae_title: str) -> Peer | None:
        return self._peers.get(ae_title)


@contextmanager
def serving(archive: FakeArchive, *peers: Peer, retrieval: Retrieval | None = None) -> Iterator[Peer]:
    pool, timings = AssociationPool(Caller("PACS", timeout=2)), Timings()
    services = (
        Verification(),
        QueryService(cast(Queries, archive), ae_title="PACS"),
        Retrieve(cast(Queries, archive), retrieval or cast(Retrieval, archive), cast(PeerDirectory, FakePeers(*peers)), pool, timings),
    )
    listener = Listener(("127.0.0.1", 0), ae_title="PACS", services=services, limits=Limits(silence=5))
    listener.bind()
    thread = threading.Thread(target=listener.serve)
    thread.start()
    try:
        yield Peer(AETitle("PACS"), "127.0.0.1", listener.port)
    finally:
        listener.stop()
        thread.join(20)
        pool.close()
        assert not thread.is_alive()


@contextmanager
def associated(peer: Peer) -> Iterator[Association]:
    assoc = Caller("SCU", timeout=10).associate(peer, [Proposal(uid, (IMPLICIT,)) for uid in (VERIFICATION, FIND, MOVE)])
    try:
        yield assoc
    finally:
        assoc.release()


class Store(Service):
    """A C-STORE SCP that answers with the given statuses, and drops the connection where one is None."""

    def __init__(self, *statuses: int | None) -> None:
        self.statuses = iter(statuses)
        self._lock = threading.Lock()
        self.received: list[str] = []

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        return frozenset({IMPLICIT}) if abstract_syntax == CT else frozenset()

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        assoc.skip_data_set(context, command)
        with self._lock:
            status = next(self.statuses, 0)
        if status is None:
            assoc.connection.abort()
            raise ProtocolViolation("dropped on purpose")
        self.received.append(command.AffectedSOPInstanceUID or "")
        assoc.send(context, command.response(status))


@contextmanager
def destination(store: Store) -> Iterator[Peer]:
    listener = Listener(("127.0.0.1", 0), ae_title="DEST", services=[store], limits=Limits())
    listener.bind()
    thread = threading.Thread(target=listener.serve)
    thread.start()
    try:
        yield Peer(AETitle("DEST"), "127.0.0.1", listener.port)
    finally:
        listener.stop()
        thread.join(20)


def identifier(**keys: Any) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    for keyword, value in {"StudyInstanceUID": "", **keys}.items():
        setattr(ds, keyword, value)
    return ds


def send_find(assoc: Association, message_id: int) -> Context:
    context = client.context_for(assoc, FIND)
    command = Command(CommandField=CommandField.C_FIND, MessageID=message_id, AffectedSOPClassUID=FIND, Priority=0)
    assoc.send(context, command, identifiers.encode(identifier(), IMPLICIT))
    return context


def cancel(assoc: Association, context: Context, message_id: int) -> None:
    assoc.send(context, Command(CommandField=CommandField.C_CANCEL, MessageIDBeingRespondedTo=message_id))


def answers(assoc: Association) -> list[int]:
    """The statuses up to the final one."""
    statuses: list[int] = []
    while not statuses or client.is_pending(statuses[-1]):
        context, command = assoc.receive()
        assoc.skip_data_set(context, command)
        statuses.append(command.Status or 0)
    return statuses


def test_a_cancel_ends_a_query_and_the_message_id_can_be_used_again(tmp_path: Path) -> None:
    archive = FakeArchive(tmp_path, 20_000)
    archive.headers *= 1
    with serving(archive) as peer, associated(peer) as assoc:
        cancel(assoc, send_find(assoc, 1), 1)
        assert answers(assoc)[-1] == 0xFE00
        assert archive.closed.wait(10)
        archive.headers = archive.headers[:3]
        send_find(assoc, 1)
        assert answers(assoc) == [0xFF00] * 3 + [0]


def test_a_cancel_that_comes_too_late_is_not_answered(tmp_path: Path) -> None:
    with serving(FakeArchive(tmp_path, 2)) as peer, associated(peer) as assoc:
        context = send_find(assoc, 1)
        assert answers(assoc)[-1] == 0
        cancel(assoc, context, 1)
        assert client.echo(assoc, VERIFICATION) == 0


def test_a_move_counts_what_the_destination_answers_and_names_what_failed(tmp_path: Path) -> None:
    store = Store(0, 0xB000, 0xA700, 0)
    with destination(store) as dest, serving(FakeArchive(tmp_path, 4), dest) as peer, associated(peer) as assoc:
        final = list(client.move(assoc, MOVE, identifier(StudyInstanceUID="1.2"), "DEST"))[-1]
    assert final.Status == 0xB000
    counters = (final.NumberOfCompletedSuboperations, final.NumberOfWarningSuboperations, final.NumberOfFailedSuboperations)
    assert counters == (2, 1, 1)
    assert final.NumberOfRemainingSuboperations is None
    assert final.has_data_set


def test_a_destination_that_breaks_off_costs_the_instance_on_its_way_and_the_rest_goes_over_a_new_association(tmp_path: Path) -> None:
    store = Store(0, None, 0, 0)
    with destination(store) as dest, serving(FakeArchive(tmp_path, 4), dest) as peer, associated(peer) as assoc:
        final = list(client.move(assoc, MOVE, identifier(StudyInstanceUID="1.2"), "DEST"))[-1]
        assert client.echo(assoc, VERIFICATION) == 0
    assert (final.Status, final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (0xB000, 3, 1)
    assert store.received == ["1.2.3.0", "1.2.3.2", "1.2.3.3"]


def test_a_destination_that_breaks_off_each_time_is_given_up(tmp_path: Path) -> None:
    store = Store(*[None] * 10)
    with destination(store) as dest, serving(FakeArchive(tmp_path, 10), dest) as peer, associated(peer) as assoc:
        final = list(client.move(assoc, MOVE, identifier(StudyInstanceUID="1.2"), "DEST"))[-1]
    assert (final.Status, final.NumberOfFailedSuboperations) == (0xA702, 10)
    assert sum(1 for _ in store.statuses) == 7


def test_an_object_that_is_missing_is_one_failed_sub_operation(tmp_path: Path) -> None:
    archive = FakeArchive(tmp_path, 3)
    archive.files["1.2.3.1"].unlink()  # type: ignore[index]  # a UID is text
    with destination(Store()) as dest, serving(archive, dest) as peer, associated(peer) as assoc:
        final = list(client.move(assoc, MOVE, identifier(StudyInstanceUID="1.2"), "DEST"))[-1]
    assert (final.Status, final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (0xB000, 2, 1)


def test_a_destination_that_is_away_fails_everything_and_the_requestor_is_told(tmp_path: Path) -> None:
    away = Peer(AETitle("AWAY"), "127.0.0.1", 1)
    with serving(FakeArchive(tmp_path, 2), away) as peer, associated(peer) as assoc:
        final = list(client.move(assoc, MOVE, identifier(StudyInstanceUID="1.2"), "AWAY"))[-1]
    assert (final.Status, final.NumberOfFailedSuboperations) == (0xA702, 2)


def test_instances_of_a_remote_tier_are_moved_and_archived_ones_are_told_to_be(tmp_path: Path) -> None:
    archive, cold = FakeArchive(tmp_path, 4), MemoryStore()
    for item in archive.objects:
        cold.objects[item.path] = archive.files[item.SOPInstanceUID].read_bytes()
    archive.objects = [replace(each, tier="cold", sha256=hashlib.sha256(cold.objects[each.path]).hexdigest()) for each in archive.objects]
    cold.states["1.dcm"] = Availability.ARCHIVED
    recalls, store = FakeRecalls(), Store()
    with (
        retrieving({"cold": cold}, tmp_path / "cache", recalls=recalls) as reading,
        destination(store) as dest,
        serving(archive, dest, retrieval=reading) as peer,
        associated(peer) as assoc,
    ):
        final = list(client.move(assoc, MOVE, identifier(StudyInstanceUID="1.2"), "DEST"))[-1]
        assert store.received == ["1.2.3.0", "1.2.3.2", "1.2.3.3"]
        assert (final.Status, final.NumberOfCompletedSuboperations, final.NumberOfFailedSuboperations) == (0xB000, 3, 1)
        assert final.ErrorComment == "archived; has been requested; retry later"
        assert recalls.studies == ["1.2"]
        cold.states = dict.fromkeys(cold.objects, Availability.REHYDRATING)
        shutil.rmtree(tmp_path / "cache")
        final = list(client.move(assoc, MOVE, identifier(StudyInstanceUID="1.2"), "DEST"))[-1]
        assert (final.Status, final.ErrorComment) == (0xA702, "archived; has been requested; retry later")
        cold.states.clear()
        final = list(client.move(assoc, MOVE, identifier(StudyInstanceUID="1.2"), "DEST"))[-1]
        assert (final.Status, final.ErrorComment) == (0, None)


@pytest.mark.parametrize(("keys", "target", "status"), [({}, "DEST", 0xA900), ({"StudyInstanceUID": "1.2"}, "NOBODY", 0xA801)])
def test_retrieves_that_cannot_be_done_say_why(tmp_path: Path, keys: dict[str, str], target: str, status: int) -> None:
    with destination(Store()) as dest, serving(FakeArchive(tmp_path, 1), dest) as peer, associated(peer) as assoc:
        final = list(client.move(assoc, MOVE, identifier(**keys), target))[-1]
    assert final.Status == status
    assert final.ErrorComment


def test_a_stored_value_that_its_vr_cannot_hold_does_not_break_the_query(tmp_path: Path) -> None:
    archive = FakeArchive(tmp_path, 1)
    archive.headers = [{"StudyInstanceUID": "1.2", "Rows": "70000"}, {"StudyInstanceUID": "1.3", "Rows": "-1"}]
    with serving(archive) as peer, associated(peer) as assoc:
        found = list(client.find(assoc, FIND, identifier(Rows=None)))
    assert [ds.Rows for ds in found] == [None, None]


def test_counters_beyond_what_their_field_holds_stay_at_its_limit() -> None:
    counters = SubOperations(remaining=70_000)
    response = counters.fill(Command(CommandField=CommandField.C_MOVE, MessageID=1).response(0xFF00))
    assert response.NumberOfRemainingSuboperations == 0xFFFF
