"""The frame of the DIMSE-N services, with pynetdicom as the client, and our client against a pynetdicom service."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association as TheirAssociation

from pacs_core.dimse import client, identifiers
from pacs_core.dimse.association import Association
from pacs_core.dimse.callers import Callers
from pacs_core.dimse.client import Caller
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.listener import Limits, Listener
from pacs_core.dimse.negotiation import Context, Proposal
from pacs_core.dimse.services import Service, normalized
from pacs_core.dimse.services.normalized import Perform, Reply, Request
from pacs_core.errors import DuplicateInstance, FinishedStep, IndexUnavailable, InvalidAttributeValue, MissingAttribute, NotFound, PacsError
from pacs_core.model import AETitle, AssociationRecord, Peer, Permission
from tests.support import scu
from tests.unit.dimse.conftest import running
from tests.unit.dimse.test_callers import Directory

MPPS = "1.2.840.10008.3.1.2.3.3"
FILM_BOX, PRINTER = "1.2.840.10008.5.1.1.2", "1.2.840.10008.5.1.1.16"  # between them they have every operation but events
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
INSTANCE = "1.2.3"


class Parrot(Service):
    """Answers with what it was asked, and remembers it."""

    permission = Permission.MPPS

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.then: list[str] = []
        self.failure: PacsError | None = None

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        return frozenset({EXPLICIT}) if abstract_syntax == MPPS else frozenset()

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        answered = (CommandField.N_GET, CommandField.N_SET, CommandField.N_ACTION, CommandField.N_DELETE)
        operations: dict[int, Perform] = dict.fromkeys(answered, self.answer)
        normalized.serve(assoc, context, command, operations | {CommandField.N_CREATE: self.create})

    def create(self, request: Request) -> Reply:
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        return Reply(sop_instance="1.2.99")

    def answer(self, request: Request) -> Reply:
        self.requests.append(request)
        return Reply(0x0107, request.attributes, then=lambda: self.then.append(request.sop_instance))


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


@contextmanager
def associated(parrot: Parrot, **options: object) -> Iterator[TheirAssociation]:
    """pynetdicom's association with a listener that has this service."""
    with running(Listener(("127.0.0.1", 0), ae_title="PACS", services=[parrot], limits=Limits(), **options)) as port:  # type: ignore[arg-type]
        ae = AE("CT1")
        ae.add_requested_context(MPPS, EXPLICIT)
        assoc = ae.associate("127.0.0.1", port, ae_title="PACS")
        with scu.released(assoc):
            yield assoc


@contextmanager
def associated_by_us(parrot: Parrot) -> Iterator[Association]:
    """The same with our own client."""
    with running(Listener(("127.0.0.1", 0), ae_title="PACS", services=[parrot], limits=Limits())) as port:
        assoc = Caller("CT1").associate(Peer(AETitle("PACS"), "127.0.0.1", port), [Proposal(MPPS, (EXPLICIT,))])
        yield assoc
        assoc.release()


def attributes() -> Dataset:
    ds = Dataset()
    ds.PerformedProcedureStepStatus = "IN PROGRESS"
    return ds


def test_a_create_is_performed_and_an_instance_assigned_where_none_was_named(parrot: Parrot) -> None:
    with associated_by_us(parrot) as assoc:
        answer, _ = client.normalized(assoc, MPPS, CommandField.N_CREATE, INSTANCE, attributes())
        assert (answer.Status, answer.AffectedSOPInstanceUID) == (0x0000, INSTANCE)
        answer, _ = client.normalized(assoc, MPPS, CommandField.N_CREATE, attributes=attributes())
        assert (answer.Status, answer.AffectedSOPInstanceUID) == (0x0000, "1.2.99")
    first = parrot.requests[0]
    assert (first.calling_ae, first.sop_class, first.sop_instance, first.attributes) == ("CT1", MPPS, INSTANCE, attributes())


def test_the_data_set_of_the_reply_comes_with_its_status_and_what_is_to_follow_follows(parrot: Parrot) -> None:
    with associated(parrot) as assoc:
        status, answer = assoc.send_n_set(attributes(), UID(MPPS), UID(INSTANCE))
        assert (status.Status, answer) == (0x0107, attributes())
        status, _ = assoc.send_n_action(attributes(), 3, UID(MPPS), UID(INSTANCE))
        assert status.Status == 0x0107
        assoc.send_n_get([Tag(0x00080050), Tag(0x00100020)], UID(MPPS), UID(INSTANCE))
        assert assoc.send_n_delete(UID(MPPS), UID(INSTANCE)).Status == 0x0107
    assert parrot.then == [INSTANCE] * 4
    assert [request.type_id for request in parrot.requests] == [0, 3, 0, 0]
    assert parrot.requests[2].wanted == (0x00080050, 0x00100020)


def test_what_is_asked_for_comes_with_the_character_set_that_it_is_in() -> None:
    ds = attributes()
    ds.SpecificCharacterSet, ds.PatientName, ds.StudyID = "ISO_IR 192", "Müller^Jürgen", "7"
    answer = normalized.chosen(ds, [0x00100010])
    assert {element.keyword for element in answer} == {"SpecificCharacterSet", "PatientName"}
    data = identifiers.encode(answer, EXPLICIT)
    assert identifiers.decode(data, EXPLICIT).PatientName == "Müller^Jürgen"
    assert normalized.chosen(ds, []) == ds


@pytest.mark.parametrize(
    ("failure", "status", "error_id"),
    [
        (MissingAttribute("x"), 0x0120, None),
        (InvalidAttributeValue("x"), 0x0106, None),
        (DuplicateInstance("x"), 0x0111, None),
        (NotFound("x"), 0x0112, None),
        (FinishedStep("x"), 0x0110, 0xA710),
        (IndexUnavailable("x"), 0x0110, None),
    ],
)
def test_an_error_is_answered_with_its_status(parrot: Parrot, failure: PacsError, status: int, error_id: int | None) -> None:
    parrot.failure = failure
    # pynetdicom's client may take an answer that comes at once for a request (its reactor and `send_n_…` both wait for it).
    with associated_by_us(parrot) as assoc:
        answer, _ = client.normalized(assoc, MPPS, CommandField.N_CREATE, INSTANCE, attributes())
        assert (answer.Status, answer.ErrorID, answer.ErrorComment) == (status, error_id, "x")
        parrot.failure = None
        answer, _ = client.normalized(assoc, MPPS, CommandField.N_CREATE, INSTANCE, attributes())
        assert answer.Status == 0x0000


def test_what_is_not_performed_is_an_unrecognised_operation(parrot: Parrot) -> None:
    with associated(parrot) as assoc:
        status, _ = assoc.send_n_event_report(attributes(), 1, UID(MPPS), UID(INSTANCE))
        assert status.Status == 0x0211
        assert assoc.send_n_delete(UID(MPPS), UID(INSTANCE)).Status == 0x0107


def test_a_peer_without_the_permission_is_not_authorized(parrot: Parrot) -> None:
    peers = Directory(Peer(AETitle("CT1"), "ct", 104, permissions=(Permission.STORE,)))
    with associated(parrot, callers=Callers(peers, known_only=False)) as assoc:
        status, _ = assoc.send_n_create(attributes(), UID(MPPS), UID(INSTANCE))
        assert (status.Status, status.ErrorComment) == (0x0124, "this AE title may not mpps")
    assert not parrot.requests


def test_an_unknown_caller_is_rejected(parrot: Parrot) -> None:
    callers = Callers(Directory(), known_only=True)
    with running(Listener(("127.0.0.1", 0), ae_title="PACS", services=[parrot], limits=Limits(), callers=callers)) as port:
        ae = AE("CT1")
        ae.add_requested_context(MPPS, EXPLICIT)
        assoc = ae.associate("127.0.0.1", port, ae_title="PACS")
        assert assoc.is_rejected
        assert assoc.acceptor.primitive is not None
        assert assoc.acceptor.primitive.diagnostic == 3  # calling AE title not recognised


def test_what_an_association_did_is_recorded(parrot: Parrot) -> None:
    records: list[AssociationRecord] = []
    with associated(parrot, record=records.append) as assoc:
        assoc.send_n_create(attributes(), UID(MPPS), UID(INSTANCE))
        assoc.send_n_set(attributes(), UID(MPPS), UID(INSTANCE))
    (record,) = records
    assert (record.calling_ae, record.called_ae, record.ended) == ("CT1", "PACS", "released")
    assert record.operations.items() >= {("N-CREATE 0000", 1), ("N-SET 0107", 1)}
    assert record.opened_at <= record.closed_at


@pytest.mark.parametrize(
    "operation", [CommandField.N_CREATE, CommandField.N_SET, CommandField.N_ACTION, CommandField.N_GET, CommandField.N_DELETE]
)
def test_our_client_is_understood_by_pynetdicom(operation: CommandField) -> None:
    seen: list[tuple[str, str]] = []

    def handle(event: evt.Event) -> tuple[int, Dataset] | int:
        request = event.request
        uid = getattr(request, "AffectedSOPInstanceUID", None) or getattr(request, "RequestedSOPInstanceUID", None)
        seen.append((type(request).__name__, str(uid)))
        return 0x0000 if operation is CommandField.N_DELETE else (0x0000, attributes())

    kinds = [evt.EVT_N_CREATE, evt.EVT_N_SET, evt.EVT_N_ACTION, evt.EVT_N_GET, evt.EVT_N_DELETE]
    ae = AE("THEIRS")
    sop_class = PRINTER if operation is CommandField.N_GET else FILM_BOX
    ae.add_supported_context(sop_class, IMPLICIT)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(kind, handle) for kind in kinds])
    assert server is not None
    assert server.socket is not None
    peer = Peer(AETitle("THEIRS"), "127.0.0.1", server.socket.getsockname()[1])
    assoc = Caller("SCU").associate(peer, [Proposal(sop_class, (IMPLICIT,))])
    has_data = operation not in (CommandField.N_GET, CommandField.N_DELETE)
    answer, ds = client.normalized(assoc, sop_class, operation, INSTANCE, attributes() if has_data else None, type_id=1)
    assoc.release()
    server.shutdown()
    assert answer.Status == 0x0000
    assert seen == [(operation.name, INSTANCE)]
    assert ds == (Dataset() if operation is CommandField.N_DELETE else attributes())
