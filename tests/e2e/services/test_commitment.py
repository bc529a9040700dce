"""Storage commitment with pynetdicom on the other side, in both roles (PS3.4 annex J)."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]  # made at run time from the Standard's tables
from pynetdicom.transport import ThreadedAssociationServer

from tests.support import scu
from tests.support.archive import Listener
from tests.support.dcmtk import storescu
from tests.support.processes import assert_succeeded, free_ports
from tests.support.synthetic import Study
from tests.support.waiting import eventually

NewListener = Callable[..., Listener]
PUSH, INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
RETRIES = {"PACS_REPORT_RETRY_FIRST": "0.2", "PACS_REPORT_RETRY_LONGEST": "1"}


@dataclass
class Modality:
    """One that asks for commitment, and takes the answer where it comes.

    Attributes:
        events: event type and data set of each report.
    """

    port: int
    events: list[tuple[int, Dataset]] = field(default_factory=list)
    servers: list[ThreadedAssociationServer] = field(default_factory=list)

    def answer(self, event: evt.Event) -> tuple[int, None]:
        request: Any = event.request
        self.events.append((int(request.EventTypeID), event.event_information))
        return 0x0000, None

    def listen(self) -> None:
        """Be there for reports on associations of the archive's."""
        ae = AE("CT1")
        ae.add_supported_context(PUSH, scu_role=False, scp_role=True)
        server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.answer)])
        assert server is not None
        self.servers.append(server)

    @contextmanager
    def associated(self, listener: Listener) -> Iterator[Association]:
        ae = AE("CT1")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
        ae.add_requested_context(PUSH, ExplicitVRLittleEndian)
        handlers = [(evt.EVT_N_EVENT_REPORT, self.answer)]
        assoc = ae.associate(listener.scp.host, listener.scp.port, ae_title="PACS", evt_handlers=handlers)  # type: ignore[arg-type]
        with scu.released(assoc):
            yield assoc

    def ask(self, listener: Listener, instances: Sequence[tuple[str, str]], transaction: str | None = None) -> str:
        """A request on an association that ends at once; its TransactionUID."""
        transaction = transaction or generate_uid()
        with self.associated(listener) as assoc:
            assert request(assoc, instances, transaction) == 0x0000
        return transaction


def request(
    assoc: Association, instances: Sequence[tuple[str, str]], transaction: str, *, action: int = 1, instance: str = INSTANCE
) -> int:
    ds = Dataset()
    ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = []
    for sop_class, uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        ds.ReferencedSOPSequence.append(item)
    status, _ = assoc.send_n_action(ds, action, UID(PUSH), UID(instance))
    return int(status.Status)


@pytest.fixture
def modality() -> Iterator[Modality]:
    made = Modality(free_ports(1)[0])
    yield made
    for server in made.servers:
        server.shutdown()


def stored(listener: Listener, folder: Path, count: int = 3) -> list[tuple[str, str]]:
    """So many CT, sent by DCMTK: their SOP classes and instances."""
    paths = Study("CT", instances=count).write(folder / "sent")
    assert_succeeded(storescu(listener.scp, [folder / "sent"], "+sd"))
    return [(str(CTImageStorage), path.stem) for path in paths]


def object_of(listener: Listener, uid: str) -> Path:
    (row,) = listener.sql(f"SELECT path FROM instance WHERE SOPInstanceUID = '{uid}'")
    return listener.home / "hot" / str(row["path"])


def failures(ds: Dataset) -> dict[str, int]:
    return {str(item.ReferencedSOPInstanceUID): int(item.FailureReason) for item in ds.get("FailedSOPSequence") or []}


def test_what_is_held_whole_is_committed_to_and_nothing_else_is(new_listener: NewListener, modality: Modality, tmp_path: Path) -> None:
    listener = new_listener(**RETRIES)
    assert_succeeded(listener.run_pacs("peer", "add", "CT1", "127.0.0.1", str(modality.port)))
    modality.listen()
    good, corrupt, lost, other = stored(listener, tmp_path, 4)
    damaged = object_of(listener, corrupt[1])
    damaged.chmod(0o640)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    object_of(listener, lost[1]).unlink()
    asked = [good, corrupt, lost, ("1.2.840.10008.5.1.4.1.1.4", other[1]), (str(CTImageStorage), "1.2.3"), ("1.2.3.4.5", "1.2.4")]
    transaction = modality.ask(listener, asked)
    ((event_type, ds),) = eventually(lambda: list(modality.events), what="the report")
    assert (event_type, ds.TransactionUID, ds.RetrieveAETitle) == (2, transaction, "PACS")
    assert [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in ds.ReferencedSOPSequence] == [good]
    assert failures(ds) == {corrupt[1]: 0x0110, lost[1]: 0x0110, other[1]: 0x0119, "1.2.3": 0x0112, "1.2.4": 0x0122}
    delivered = "SELECT c.state, c.failed, r.state AS report FROM commitment c JOIN event_report r ON r.number = c.report"
    eventually(lambda: listener.sql(delivered) == [{"state": "answered", "failed": 5, "report": "delivered"}], what="the record of it")
    rows = listener.sql("SELECT result, failure_reason, count(*) AS n FROM commitment_instance GROUP BY ALL ORDER BY ALL")
    assert [tuple(row.values()) for row in rows] == [
        ("committed", None, 1),
        ("failed", "0110", 2),
        ("failed", "0112", 1),
        ("failed", "0119", 1),
        ("failed", "0122", 1),
    ]


def test_a_caller_that_is_no_peer_is_told_where_it_waits(new_listener: NewListener, modality: Modality, tmp_path: Path) -> None:
    listener = new_listener()
    instances = stored(listener, tmp_path)
    with modality.associated(listener) as assoc:
        assert request(assoc, instances, "1.2.3.1") == 0x0000
        eventually(lambda: len(modality.events) == 1, what="the first report")
        assert request(assoc, instances[:1], "1.2.3.2") == 0x0000
        eventually(lambda: len(modality.events) == 2, what="the second")
    assert [(event_type, str(ds.TransactionUID)) for event_type, ds in modality.events] == [(1, "1.2.3.1"), (1, "1.2.3.2")]


def test_requests_that_cannot_be_taken_are_refused_with_their_status(new_listener: NewListener, modality: Modality) -> None:
    listener = new_listener()
    with modality.associated(listener) as assoc:
        assert request(assoc, [("1.2", "1.3")], "1.2.3", action=2) == 0x0123
        assert request(assoc, [("1.2", "1.3")], "1.2.3", instance="1.2.3") == 0x0112
        assert request(assoc, [], "1.2.3") == 0x0121
        assert assoc.send_n_delete(UID(PUSH), UID(INSTANCE)).Status == 0x0211
    assert listener.sql("SELECT * FROM commitment") == []


def test_a_peer_that_is_away_is_told_when_it_is_back_whatever_was_killed_meanwhile(
    new_listener: NewListener, modality: Modality, tmp_path: Path
) -> None:
    listener = new_listener(**RETRIES)
    assert_succeeded(listener.run_pacs("peer", "add", "CT1", "127.0.0.1", str(modality.port)))
    instances = stored(listener, tmp_path)
    transactions = [modality.ask(listener, instances)]
    listener.process.kill()
    listener.start()
    transactions.append(modality.ask(listener, instances))
    eventually(lambda: listener.sql("SELECT 1 FROM event_report WHERE last_error <> ''"), what="an attempt")
    listener.process.kill()
    listener.start()
    modality.listen()
    eventually(lambda: len(modality.events) >= 2, within=120, what="both reports")  # what was killed has its lease to run out
    assert {str(ds.TransactionUID) for _, ds in modality.events} == set(transactions)
    assert {event_type for event_type, _ in modality.events} == {1}


def test_a_request_that_comes_again_is_answered_again_and_one_that_is_another_fails(
    new_listener: NewListener, modality: Modality, tmp_path: Path
) -> None:
    listener = new_listener(**RETRIES)
    assert_succeeded(listener.run_pacs("peer", "add", "CT1", "127.0.0.1", str(modality.port)))
    modality.listen()
    instances = stored(listener, tmp_path)
    transaction = modality.ask(listener, instances)
    eventually(lambda: len(modality.events) == 1, what="the report")
    modality.ask(listener, instances, transaction)
    eventually(lambda: len(modality.events) == 2, what="the report once more")
    modality.ask(listener, instances[:1], transaction)
    eventually(lambda: len(modality.events) == 3, what="the failure")
    assert [event_type for event_type, _ in modality.events] == [1, 1, 2]
    assert failures(modality.events[2][1]) == {instances[0][1]: 0x0131}


def test_a_request_that_comes_again_is_answered_where_it_was_asked(new_listener: NewListener, modality: Modality, tmp_path: Path) -> None:
    listener = new_listener()
    instances = stored(listener, tmp_path)
    for count in (1, 2):
        with modality.associated(listener) as assoc:
            assert request(assoc, instances, "1.2.3") == 0x0000
            eventually(lambda count=count: len(modality.events) == count, what="the report")  # type: ignore[misc]
    assert [event_type for event_type, _ in modality.events] == [1, 1]


def test_instances_that_are_only_journalled_are_waited_for(new_listener: NewListener, modality: Modality, tmp_path: Path) -> None:
    listener = new_listener(PACS_COMMIT_INTERVAL="5")
    paths = Study("CT", instances=5).write(tmp_path / "sent")
    with modality.associated(listener) as assoc:
        assert_succeeded(storescu(listener.scp, [tmp_path / "sent"], "+sd"))
        assert request(assoc, [(str(CTImageStorage), path.stem) for path in paths], "1.2.3") == 0x0000
        ((event_type, _),) = eventually(lambda: list(modality.events), what="the report")
    assert event_type == 1


@pytest.mark.parametrize("where", ["same", "new"])
def test_we_ask_an_archive_that_answers_here_or_there(new_listener: NewListener, tmp_path: Path, where: str) -> None:
    listener = new_listener()
    (port,) = free_ports(1)
    bad = Study("CT", instances=3).write(tmp_path / "sent")[0].stem

    def report(information: Dataset) -> Dataset:
        ds = Dataset()
        ds.TransactionUID = information.TransactionUID
        ds.ReferencedSOPSequence = [item for item in information.ReferencedSOPSequence if item.ReferencedSOPInstanceUID != bad]
        ds.FailedSOPSequence = [item for item in information.ReferencedSOPSequence if item.ReferencedSOPInstanceUID == bad]
        ds.FailedSOPSequence[0].FailureReason = 0x0112
        return ds

    def answer(event: evt.Event) -> tuple[int, None]:
        information = event.action_information
        target = event.assoc if where == "same" else None
        threading.Timer(0.5, send, (report(information), target)).start()
        return 0x0000, None

    def send(ds: Dataset, assoc: Association | None) -> None:
        if assoc is None:
            calling = AE("ARCHIVE")
            calling.add_requested_context(PUSH, ExplicitVRLittleEndian)
            role = build_role(UID(PUSH), scp_role=True)
            assoc = calling.associate("127.0.0.1", listener.dicom_port, ae_title="PACS", ext_neg=[role])
            assert assoc.is_established
        assoc.send_n_event_report(ds, 2, UID(PUSH), UID(INSTANCE))
        if where == "new":
            assoc.release()

    ae = AE("ARCHIVE")
    ae.add_supported_context(PUSH)
    ae.add_supported_context(CTImageStorage)
    handlers = [(evt.EVT_N_ACTION, answer), (evt.EVT_C_STORE, lambda _: 0x0000)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
    assert server is not None
    done = listener.run_pacs("store", tmp_path / "sent", "--peer", f"ARCHIVE@127.0.0.1:{port}", "--commit", "--commit-timeout", "30")
    server.shutdown()
    assert done.returncode == 1
    assert f"{bad}: not committed: 0112" in done.stdout
    assert "ARCHIVE has committed to 2 of 3 instances" in done.stdout
    assert listener.sql("SELECT role, peer, state, instances, failed FROM commitment") == [
        {"role": "scu", "peer": "ARCHIVE", "state": "answered", "instances": 3, "failed": 1}
    ]
