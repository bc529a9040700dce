"""Associations: negotiated, limited, released, and ended in order (PS3.8 7.1, 9.3.4)."""

import socket
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from pynetdicom import AE

from pacs_core.dimse import client
from pacs_core.dimse.association import Association
from pacs_core.dimse.client import Caller
from pacs_core.dimse.connection import Aborted
from pacs_core.dimse.listener import Limits
from pacs_core.dimse.negotiation import Proposal
from pacs_core.dimse.services.verification import VERIFICATION
from pacs_core.errors import PeerUnavailable
from pacs_core.model import AETitle, Peer
from tests.support.processes import run

IMPLICIT = "1.2.840.10008.1.2"
Start = Callable[[Limits], AbstractContextManager[int]]


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
