"""PDUs in and out (PS3.8 9.3)."""

import socket
import struct
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pacs_core.dimse.connection import (
    MAXIMUM_LENGTH,
    Aborted,
    Connection,
    ProtocolViolation,
    ReleaseRequested,
)
from tests.support.upper_layer import established

P_DATA, RELEASE_RQ, ABORT = 4, 5, 7
Ends = tuple[Connection, socket.socket]


def pdu(pdu_type: int, body: bytes) -> bytes:
    return struct.pack(">BxL", pdu_type, len(body)) + body


def pdv(data: bytes, *, control: int, context_id: int = 1) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context_id, control) + data


def read_message(connection: Connection, *, idle: float | None = None) -> tuple[bytes, bytes]:
    """The command and data set of one message that has both."""
    parts = {True: bytearray(), False: bytearray()}
    while True:
        fragment = connection.fragment(idle=idle)
        parts[fragment.is_command] += fragment.data
        if fragment.is_last and not fragment.is_command:
            return bytes(parts[True]), bytes(parts[False])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    command=st.binary(min_size=0, max_size=300),
    data=st.binary(min_size=0, max_size=5000),
    pdv_size=st.integers(1, 2000),
    pdvs_per_pdu=st.integers(1, 50),
    write_size=st.integers(1, 3000),
)
def test_any_legal_fragmentation_gives_the_same_message(
    ends: Ends, command: bytes, data: bytes, pdv_size: int, pdvs_per_pdu: int, write_size: int
) -> None:
    connection, peer = ends
    items = []
    for kind, payload in ((1, command), (0, data)):
        chunks = [payload[i : i + pdv_size] for i in range(0, len(payload), pdv_size)] or [b""]
        items += [pdv(chunk, control=kind | (2 if chunk is chunks[-1] and i == len(chunks) - 1 else 0)) for i, chunk in enumerate(chunks)]
    stream = b"".join(pdu(P_DATA, b"".join(items[i : i + pdvs_per_pdu])) for i in range(0, len(items), pdvs_per_pdu))

    def write() -> None:
        for start in range(0, len(stream), write_size):
            peer.sendall(stream[start : start + write_size])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert read_message(connection) == (command, data)
    finally:
        writer.join()


@pytest.mark.parametrize("peer_maximum", [0, 16, 17, 4096, 1_000_000])
def test_what_is_sent_keeps_to_the_peers_maximum_and_arrives_whole(ends: Ends, peer_maximum: int) -> None:
    connection, peer = ends
    connection.peer_maximum = peer_maximum
    reader = established(peer)
    command, data = b"c" * 101, bytes(range(256)) * 5
    connection.send_message(1, command, data)
    assert read_message(reader) == (command, data)
    connection.send_message(1, command, data)
    limit = min(peer_maximum or MAXIMUM_LENGTH, MAXIMUM_LENGTH)
    raw = bytearray()
    while len(raw) < 6:
        raw += peer.recv(65536)
    assert struct.unpack_from(">BxL", raw)[1] <= limit
    assert connection.fragment_size % 2 == 0
    assert connection.fragment_size + 6 <= limit


def test_a_message_that_is_laid_out_is_sent_block_for_block_however_slowly_it_is_read(ends: Ends) -> None:
    connection, peer = ends
    reader = established(peer)
    data = bytes(range(256)) * 40_000
    stream = pdu(P_DATA, pdv(b"c", control=3)) + b"".join(
        pdu(P_DATA, pdv(data[start : start + 100_000], control=2 if start + 100_000 >= len(data) else 0))
        for start in range(0, len(data), 100_000)
    )
    blocks = [memoryview(stream)[start : start + 3_000_000] for start in range(0, len(stream), 3_000_000)]
    thread = threading.Thread(target=connection.send_blocks, args=(blocks,))
    thread.start()
    assert read_message(reader) == (b"c", data)
    thread.join()


def test_a_peer_that_stops_reading_is_given_up(ends: Ends) -> None:
    _, peer = ends
    connection = established(peer, timeout=0.05)
    with pytest.raises(Aborted, match="stopped reading"):
        connection.send_blocks([memoryview(bytes(64 << 20))])


def test_a_release_request_ends_the_message_loop_and_is_confirmed(ends: Ends) -> None:
    connection, peer = ends
    peer.sendall(pdu(RELEASE_RQ, bytes(4)))
    with pytest.raises(ReleaseRequested):
        connection.fragment()
    connection.confirm_release()
    assert peer.recv(100) == pdu(6, bytes(4))


def test_an_abort_ends_the_message_loop(ends: Ends) -> None:
    connection, peer = ends
    peer.sendall(pdu(ABORT, bytes(4)))
    with pytest.raises(Aborted):
        connection.fragment()


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(struct.pack(">BxL", P_DATA, 0xFFFFFFFF), id="a P-DATA-TF of 4 GiB"),
        pytest.param(struct.pack(">BxL", P_DATA, 5) + bytes(5), id="a P-DATA-TF without a PDV"),
        pytest.param(pdu(P_DATA, struct.pack(">LBB", 100, 1, 0) + bytes(4)), id="a PDV longer than its PDU"),
        pytest.param(pdu(P_DATA, struct.pack(">LBB", 1, 1, 0)), id="a PDV without a header"),
        pytest.param(pdu(P_DATA, pdv(b"ab", control=0) + b"xyz"), id="bytes behind the last PDV"),
        pytest.param(pdu(1, bytes(68)), id="an association request on an open association"),
        pytest.param(pdu(0x17, b""), id="a PDU type that does not exist"),
    ],
)
def test_what_breaks_the_protocol_is_a_violation(ends: Ends, stream: bytes) -> None:
    connection, peer = ends
    peer.sendall(stream)
    with pytest.raises(ProtocolViolation):
        read_message(connection)
    assert peer.recv(100)[:1] == b"\x07"


def test_an_oversized_association_pdu_is_refused_from_its_header() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, socket.create_connection(listening.getsockname()) as theirs:
        connection = Connection(listening.accept()[0], requestor=False, timeout=2)
        theirs.sendall(struct.pack(">BxL", 1, 0xFFFFFFF0))
        with pytest.raises(ProtocolViolation):
            connection.await_request(timeout=2)
        connection.close()


def test_silence_within_a_message_ends_in_time(ends: Ends) -> None:
    _, peer = ends
    connection = established(peer, timeout=0.05)
    with pytest.raises(Aborted):
        connection.fragment()


def test_a_vanished_peer_is_an_abort(ends: Ends) -> None:
    connection, peer = ends
    peer.close()
    with pytest.raises(Aborted):
        connection.fragment()


@pytest.mark.parametrize("begun", [b"", struct.pack(">BxL", P_DATA, 1000)], ids=["a PDU header", "a PDV"])
def test_a_byte_now_and_then_does_not_hold_an_association_however_long_it_may_be_idle(begun: bytes) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    with listening, socket.create_connection(listening.getsockname()) as theirs:
        connection = established(listening.accept()[0], timeout=0.3)
        stop = threading.Event()

        def drip() -> None:
            theirs.sendall(begun)
            for byte in (struct.pack(">BxL", P_DATA, 1000) + bytes(1000))[len(begun) :]:
                theirs.sendall(bytes((byte,)))
                if stop.wait(0.2):
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        with pytest.raises(Aborted):
            read_message(connection, idle=3600)
        stop.set()
        dripping.join()
        connection.close()


def test_releasing_an_association_that_is_over_does_nothing(ends: Ends) -> None:
    connection, peer = ends
    peer.sendall(pdu(ABORT, bytes(4)))
    with pytest.raises(Aborted):
        connection.fragment()
    connection.release()


def test_an_association_is_open_until_it_is_known_to_have_ended(ends: Ends) -> None:
    connection, peer = ends
    assert connection.is_open
    peer.close()
    with pytest.raises(Aborted):
        connection.fragment()
    assert not connection.is_open


def test_a_connection_in_a_hurry_does_not_wait_for_its_peer_to_hang_up(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    _, peer = ends
    monkeypatch.setattr("pacs_core.dimse.connection._LINGER", 3600)
    connection = established(peer)
    connection.hurry()
    connection.abort()
    assert connection.fileno() < 0


_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


@pytest.mark.skipif(
    not {"bbr", "cubic"} <= set(_AVAILABLE.read_text().split()), reason="this kernel has not both ways of congestion control"
)
@pytest.mark.parametrize(("algorithm", "chosen"), [(b"bbr", b"cubic"), (b"reno", b"reno")])
def test_bulk_on_a_short_path_is_not_paced_by_timers(algorithm: bytes, chosen: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        sock, _ = listening.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, algorithm)
        connection = established(sock)
        connection.expect_bulk()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == chosen
        connection.close()
