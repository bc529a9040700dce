"""Associations: negotiated, limited, released, and ended in order (PS3.8 7.1, 9.3.4)."""

import errno
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import pytest
from pynetdicom import AE
from structlog.testing import capture_logs

from pacs_core.dimse import client, listener, negotiation
from pacs_core.dimse.association import Association
from pacs_core.dimse.client import Caller
from pacs_core.dimse.command import Command, CommandField
from pacs_core.dimse.connection import Aborted, Connection
from pacs_core.dimse.listener import Limits, Listener
from pacs_core.dimse.negotiation import Context, Proposal
from pacs_core.dimse.services import Service
from pacs_core.dimse.services.verification import VERIFICATION, Verification
from pacs_core.errors import PeerUnavailable
from pacs_core.model import AETitle, Peer
from pacs_core.telemetry.timing import TOTAL, Timings
from tests.support.processes import run

IMPLICIT = "1.2.840.10008.1.2"
Start = Callable[..., AbstractContextManager[int]]


def pacs(port: int, title: str = "PACS") -> Peer:
    return Peer(AETitle(title), "127.0.0.1", port)


def test_echo_from_dcmtk_from_pynetdicom_and_from_ourselves(echo_listener: Start) -> None:
    with echo_listener(Limits()) as port:
        assert run(["echoscu", "-aec", "PACS", "127.0.0.1", str(port)]).returncode == 0
        ae = AE()
        ae.add_requested_context(VERIFICATION)
        assoc = ae.associate("127.0.0.1", port, ae_title="PACS")
        assert assoc.is_established
        assert assoc.send_c_echo().Status == 0
        assoc.release()
        ours = Caller("SCU").associate(pacs(port), [Proposal(VERIFICATION, (IMPLICIT,))])
        assert client.echo(ours, VERIFICATION) == 0
        ours.release()


def test_a_wrong_called_ae_title_is_rejected_with_its_reason(echo_listener: Start) -> None:
    with echo_listener(Limits()) as port, pytest.raises(PeerUnavailable, match="Called AE title not recognised"):
        Caller("SCU").associate(pacs(port, "OTHER"), [Proposal(VERIFICATION, (IMPLICIT,))])


def test_an_abstract_syntax_that_is_not_offered_is_refused_by_its_context(echo_listener: Start) -> None:
    with echo_listener(Limits()) as port, pytest.raises(PeerUnavailable, match="none of the proposed"):
        Caller("SCU").associate(pacs(port), [Proposal("1.2.840.10008.5.1.4.31", (IMPLICIT,))])


def test_one_association_too_many_is_a_local_limit_and_room_is_made_again(echo_listener: Start) -> None:
    with echo_listener(Limits(associations=2)) as port:
        proposals = [Proposal(VERIFICATION, (IMPLICIT,))]
        first, second = (Caller("SCU").associate(pacs(port), proposals) for _ in range(2))
        with pytest.raises(PeerUnavailable, match="Local limit exceeded"):
            Caller("SCU").associate(pacs(port), proposals)
        first.release()
        third = _associate_when_there_is_room(port, proposals)
        assert client.echo(third, VERIFICATION) == 0
        third.release()
        second.release()


def _associate_when_there_is_room(port: int, proposals: list[Proposal]) -> Association:
    for _ in range(1000):
        try:
            return Caller("SCU").associate(pacs(port), proposals)
        except PeerUnavailable:
            continue
    raise AssertionError("no slot became free")


def test_connections_that_say_nothing_take_no_slot_and_are_closed(echo_listener: Start) -> None:
    with echo_listener(Limits(associations=1, handshake=0.2)) as port:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        assoc = Caller("SCU").associate(pacs(port), [Proposal(VERIFICATION, (IMPLICIT,))])
        assert client.echo(assoc, VERIFICATION) == 0
        assoc.release()
        for sock in silent:
            sock.settimeout(10)
            while sock.recv(100):
                pass
            sock.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack(">BxL", 1, 68) + bytes(68),
        struct.pack(">BxL", 1, 0x7FFFFFFF) + b"x" * 100,
        struct.pack(">BxL", 4, 6) + bytes(6),
    ],
)
def test_what_is_no_association_request_is_aborted_and_harms_nobody(echo_listener: Start, request_bytes: bytes) -> None:
    with echo_listener(Limits()) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(request_bytes)
            answer = sock.recv(100)
        assert answer[:1] in (b"\x07", b"\x03")  # A-ABORT, or A-ASSOCIATE-RJ
        assert run(["echoscu", "-aec", "PACS", "127.0.0.1", str(port)]).returncode == 0


def test_stopping_ends_idle_associations_with_an_abort(echo_listener: Start) -> None:
    with echo_listener(Limits()) as port:
        assoc = Caller("SCU").associate(pacs(port), [Proposal(VERIFICATION, (IMPLICIT,))])
        assert client.echo(assoc, VERIFICATION) == 0
    with pytest.raises(Aborted, match="aborted"):
        assoc.connection.fragment()
    assoc.connection.close()


def request() -> bytes:
    return negotiation.request("SCU", "PACS", [Proposal(VERIFICATION, (IMPLICIT,))])


def connected(port: int, *, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


def is_hung_up_on(sock: socket.socket) -> bool:
    """Whether the other side closes without a word."""
    with suppress(ConnectionError):
        return sock.recv(100) == b""
    return True


def test_one_association_too_many_is_rejected_as_the_standard_writes_it(echo_listener: Start) -> None:
    with echo_listener(Limits(associations=1)) as port, connected(port) as first, connected(port) as second:
        first.sendall(request())
        assert first.recv(6)[:1] == b"\x02"
        second.sendall(request())
        # Result rejected-transient, source provider (presentation), reason local limit exceeded (PS3.8 table 9-21).
        assert second.recv(100) == bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 2))


def test_one_connection_too_many_from_an_address_is_closed_and_other_addresses_are_served(echo_listener: Start) -> None:
    with echo_listener(Limits(per_address=3)) as port:
        silent = [connected(port) for _ in range(3)]
        with connected(port) as fourth:
            assert is_hung_up_on(fourth)
        with connected(port, source="127.0.0.2") as other:
            other.sendall(request())
            assert other.recv(6)[:1] == b"\x02"
        for sock in silent:
            sock.close()


def test_an_address_has_room_again_when_one_of_its_connections_has_ended(echo_listener: Start) -> None:
    with echo_listener(Limits(per_address=1)) as port:
        for _ in range(3):
            assoc = _associate_when_there_is_room(port, [Proposal(VERIFICATION, (IMPLICIT,))])
            assert client.echo(assoc, VERIFICATION) == 0
            assoc.release()


def test_connections_that_are_refused_do_not_fill_the_log(echo_listener: Start) -> None:
    with capture_logs() as logged, echo_listener(Limits(per_address=1)) as port, connected(port):
        for _ in range(20):
            with connected(port) as sock:
                assert is_hung_up_on(sock)
    assert [event["event"] for event in logged].count("connection_refused") == 1


def test_a_connection_that_was_reset_before_it_is_accepted_harms_nobody(echo_listener: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(*_: object, **__: object) -> Connection:
        monkeypatch.undo()
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with echo_listener(Limits(per_address=1)) as port:
        monkeypatch.setattr(listener, "Connection", reset)
        with socket.create_connection(("127.0.0.1", port)) as broken:
            assert broken.recv(1) == b""
        assert run(["echoscu", "-aec", "PACS", "127.0.0.1", str(port)]).returncode == 0


def test_bytes_now_and_then_do_not_prolong_the_time_for_a_request(echo_listener: Start) -> None:
    with echo_listener(Limits(associations=1, handshake=1)) as port, connected(port) as sock:
        ended, pdu = threading.Event(), request()

        def drip() -> None:
            for position in range(len(pdu)):
                with suppress(OSError):
                    sock.sendall(pdu[position : position + 1])
                if ended.wait(0.05):
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert sock.recv(100)[:1] == b"\x07"
        assert is_hung_up_on(sock)
        ended.set()
        dripping.join()


def test_negotiations_and_operations_are_timed_and_told_once_at_the_end_of_the_association(echo_listener: Start) -> None:
    timings = Timings()
    with capture_logs() as logged, echo_listener(Limits(), timings) as port:
        assoc = Caller("SCU").associate(pacs(port), [Proposal(VERIFICATION, (IMPLICIT,))])
        for _ in range(3):
            assert client.echo(assoc, VERIFICATION) == 0
        context = client.context_for(assoc, VERIFICATION)
        assoc.send(context, Command(CommandField=CommandField.C_FIND, MessageID=9, AffectedSOPClassUID=VERIFICATION))
        assert assoc.receive_response(9)[1].Status == 0x0211
        assoc.release()
    assert {(each.operation, each.phase, each.status): each.count for each in timings.snapshot()} == {
        ("C-ECHO", TOTAL, "0000"): 3,
        ("C-FIND", TOTAL, "0211"): 1,
        ("association", "negotiation", "accepted"): 1,
    }
    (closed,) = [event for event in logged if event["event"] == "association_closed"]
    assert (closed["calling"], closed["reason"], closed["log_level"]) == ("SCU", "released", "info")
    assert (closed["c_echo_0000"], closed["c_find_0211"], closed["bytes"]) == (3, 1, 0)
    assert 0 <= closed["c_echo_total_seconds"] + closed["association_negotiation_seconds"] <= closed["seconds"] + 0.01


def test_an_association_that_breaks_is_told_as_a_warning_with_its_reason(echo_listener: Start) -> None:
    with capture_logs() as logged, echo_listener(Limits()) as port:
        Caller("SCU").associate(pacs(port), [Proposal(VERIFICATION, (IMPLICIT,))]).connection.abort()
    (closed,) = [event for event in logged if event["event"] == "association_closed"]
    assert (closed["log_level"], "aborted" in closed["reason"]) == ("warning", True)


class Slow(Service):
    """A service whose answers wait for the test."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        return frozenset({IMPLICIT}) if abstract_syntax == VERIFICATION else frozenset()

    def serve(self, assoc: Association, context: Context, command: Command) -> None:
        self.begun.release()
        assert self.may_end.wait(30)
        assoc.send(context, command.response(0))


def test_stopping_lets_running_operations_end_refuses_everybody_else_and_waits_for_no_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacs_core.dimse.connection._LINGER", 3600)  # as long as a peer that never hangs up
    service = Slow()
    listener = Listener(("127.0.0.1", 0), ae_title="PACS", services=[service], limits=Limits())
    listener.bind()
    port = listener.port
    serving = threading.Thread(target=listener.serve)
    serving.start()
    associations = [Caller("SCU").associate(pacs(port), [Proposal(VERIFICATION, (IMPLICIT,))]) for _ in range(5)]
    context = client.context_for(associations[0], VERIFICATION)
    for assoc in associations:
        assoc.send(context, Command(CommandField=CommandField.C_ECHO, MessageID=1, AffectedSOPClassUID=VERIFICATION))
        assert service.begun.acquire(timeout=30)
    listener.stop()
    with pytest.raises(ConnectionRefusedError):
        connected(port)
    assert serving.is_alive()
    service.may_end.set()
    for assoc in associations:
        assert assoc.receive_response(1)[1].Status == 0
    serving.join(30)
    assert not serving.is_alive()
    for assoc in associations:
        with pytest.raises(Aborted):
            assoc.receive()
        assoc.connection.close()


def test_a_request_that_is_half_sent_when_the_archive_stops_is_not_waited_for(echo_listener: Start) -> None:
    with echo_listener(Limits(handshake=3600)) as port, connected(port) as begun:
        begun.sendall(request()[:20])


class Stopping(Verification):
    """Stops its listener in the middle of a negotiation."""

    listener: Listener

    def supports(self, abstract_syntax: str) -> frozenset[str]:
        self.listener.stop()
        return super().supports(abstract_syntax)


def test_whoever_has_asked_for_an_association_when_the_archive_stops_is_rejected_for_now() -> None:
    service = Stopping()
    service.listener = Listener(("127.0.0.1", 0), ae_title="PACS", services=[service], limits=Limits())
    service.listener.bind()
    serving = threading.Thread(target=service.listener.serve)
    serving.start()
    with connected(service.listener.port) as sock:
        sock.sendall(request())
        assert sock.recv(100) == bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 1))
    serving.join(30)
    assert not serving.is_alive()
