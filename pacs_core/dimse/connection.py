"""One TCP connection of the DICOM upper layer: PDUs in, PDUs out (PS3.8 9.3).

The shell around the state machine: it turns bytes into events and carries out the actions. Data set bytes are handed on
as views into the receive buffer, so a data set of any size passes in constant memory. Every read has a time limit and
every PDU type a size limit. Not thread-safe: a connection belongs to one thread.
"""

import select
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from pacs_core.dimse.upper_layer import TABLE, Action, Event, State, UpperLayer
from pacs_core.errors import PeerUnavailable

# The largest P-DATA-TF that we announce (PS3.8 annex D.1). Larger ones save nothing measurable.
MAXIMUM_LENGTH = 262_144
# 128 presentation contexts of 60 transfer syntaxes each fit.
ASSOCIATE_LIMIT = 262_144
# A message may take any time as a whole, but so many bytes of it must come within the time-out: a peer that sends a byte now
# and then would hold its association for ever otherwise.
_PROGRESS = 65_536
_STEP = 65_536
_TICK = 1.0  # seconds after which a read that waits looks at its deadline
_SHORT_PDU = 4  # the length of the release and abort PDUs

# After our last PDU the peer is to close. Closing first, with bytes of its unread, would reset the connection, and the peer
# might never see what we sent (the ARTIM timer of PS3.8 9.1.5; a short one, since nothing depends on it but politeness).
_LINGER = 0.1
_SHORT_LINGER = 0.02  # where everything else has ended

_ASSOCIATE_RJ, _P_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = 3, 4, 5, 6, 7
_EVENTS = {
    1: Event.ASSOCIATE_RQ_PDU,
    2: Event.ASSOCIATE_AC_PDU,
    _ASSOCIATE_RJ: Event.ASSOCIATE_RJ_PDU,
    _P_DATA: Event.DATA_PDU,
    _RELEASE_RQ: Event.RELEASE_RQ_PDU,
    _RELEASE_RP: Event.RELEASE_RP_PDU,
    _ABORT: Event.ABORT_PDU,
}
_LIMITS = {1: ASSOCIATE_LIMIT, 2: ASSOCIATE_LIMIT, _P_DATA: MAXIMUM_LENGTH}

_ROUND_TRIP = struct.Struct("@68xI")  # in microseconds, within the kernel's struct tcp_info
_SHORT_PATH = 1_000  # microseconds
_ALGORITHM_NAME = 16  # bytes

_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")
_COMMAND, _LAST = 1, 2
_USER, _PROVIDER = 0, 2  # sources of an A-ABORT (PS3.8 9.3.8)
_UNRECOGNIZED_PDU, _UNEXPECTED_PDU, _INVALID_PARAMETER = 1, 2, 6  # reasons of a provider's A-ABORT


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, max(int((seconds - whole) * 1e6), 0 if whole else 1))


class AssociationEnded(PeerUnavailable):
    """The association is over: there is nobody to answer."""


class Rejected(AssociationEnded):
    """The peer rejected our association request; `pdu` is its A-ASSOCIATE-RJ."""

    def __init__(self, pdu: bytes) -> None:
        super().__init__("the peer rejected the association")
        self.pdu = pdu


class ReleaseRequested(AssociationEnded):
    """The peer asks for an orderly release (A-RELEASE-RQ)."""


class Aborted(AssociationEnded):
    """The peer aborted (A-ABORT), vanished, or kept silent for too long."""


class ProtocolViolation(AssociationEnded):
    """The peer broke PS3.7 or PS3.8, and the association is aborted for it."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """Some bytes of a message. The view is only valid until the next read."""

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


class Connection:
    """The upper layer's view of a connected socket.

    Args:
        sock: connected, over TLS if it is an SSLSocket; closed by `close`.
        requestor: whether it was us who connected.
        timeout: seconds that the peer may keep silent within a PDU or a message.
    """

    def __init__(self, sock: socket.socket, *, requestor: bool, timeout: float) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(sock, ssl.SSLSocket):
            sock.settimeout(timeout)  # a blocking one would go on waiting when the kernel's time is up
        else:
            # The kernel keeps the time: with time-outs of its own Python would poll before each read and write.
            sock.settimeout(None)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(min(timeout, _TICK)))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout))
        self._socket = sock
        self._timeout = timeout
        self._machine = UpperLayer(requestor=requestor)
        if requestor:
            self._machine.on(Event.ASSOCIATE_REQUEST)
        else:
            self._machine.on(Event.TRANSPORT_INDICATED)
        self._buffer = memoryview(bytearray(8_192))
        self._start = self._end = 0
        self._pdu_left = 0  # bytes of the P-DATA-TF being read
        self._pdv_left = 0  # bytes of the PDV being read
        self._pdv = (0, 0)  # its context id and message control header
        self._between = True  # no command set or data set is being read
        self._deadline = 0.0  # for the next _PROGRESS bytes of the one that is
        self._received = 0
        self._woken = False
        self._linger_for = _LINGER
        self.peer_maximum = 16_384

    # Opening

    def await_request(self, *, timeout: float) -> bytes:
        """The peer's A-ASSOCIATE-RQ, which must be complete within `timeout` seconds from now."""
        _, pdu = self._receive_pdu(time.monotonic() + timeout)
        return pdu

    def accept(self, pdu: bytes) -> None:
        """Answer with an A-ASSOCIATE-AC."""
        self._machine.on(Event.ACCEPT)
        self._send(pdu)

    def reject(self, pdu: bytes) -> None:
        """Answer with an A-ASSOCIATE-RJ."""
        self._machine.on(Event.REJECT)
        self._send(pdu)

    def request(self, pdu: bytes) -> bytes:
        """Send an A-ASSOCIATE-RQ; the peer's A-ASSOCIATE-AC. Rejected, Aborted or ProtocolViolation instead."""
        self._machine.on(Event.TRANSPORT_CONFIRMED)
        self._send(pdu)
        action, answer = self._receive_pdu(time.monotonic() + self._timeout)
        if action is Action.CONFIRM_REJECTION:
            raise Rejected(answer)
        return answer

    def _receive_pdu(self, deadline: float) -> tuple[Action, bytes]:
        """A whole PDU: what to do about it, and all its bytes."""
        self._fill(6, deadline=deadline)
        pdu_type, length = _HEADER.unpack_from(self._buffer, self._start)
        if length > _LIMITS.get(pdu_type, _SHORT_PDU):
            self._invalid(f"a PDU of type {pdu_type} declares {length} bytes")
        action = self._react(pdu_type)
        self._fill(6 + length, deadline=deadline)
        return action, bytes(self._take(6 + length))

    def _react(self, pdu_type: int) -> Action:
        """Enter the arrival of a PDU into the state machine; what it says, if the association goes on."""
        action = self._machine.on(_EVENTS.get(pdu_type, Event.INVALID_PDU))
        if action in (Action.ABORT_AS_USER, Action.ABORT_AS_PROVIDER, Action.ABORT_AGAIN):
            self._send_abort(_PROVIDER, reason=_UNEXPECTED_PDU if pdu_type in _EVENTS else _UNRECOGNIZED_PDU)
            raise ProtocolViolation(f"a PDU of type {pdu_type:#04x} is not expected here")
        if action in (Action.INDICATE_ABORT, Action.CLOSE):
            raise Aborted("the peer aborted the association")
        return action

    # Reading

    def fragment(self, *, idle: float | None = None) -> Fragment:
        """The next bytes of the current message, as many as are there.

        Args:
            idle: seconds to wait for its first byte, where that may be longer than the silence within a message.

        Raises:
            ReleaseRequested, Aborted, ProtocolViolation: instead of a fragment.
        """
        timeout = self._timeout if idle is None else idle
        while not self._pdv_left:
            if self._pdu_left:
                self._begin_pdv()
                if not self._pdv_left:
                    return self._fragment_of(0)
            else:
                self._begin_pdu(timeout)
        if self._start == self._end:
            self._enlarge(MAXIMUM_LENGTH + 6)
            self._fill(1)
        return self._fragment_of(min(self._end - self._start, self._pdv_left))

    def _fragment_of(self, size: int) -> Fragment:
        self._pdv_left -= size
        self._pdu_left -= size
        context_id, control = self._pdv
        last = bool(control & _LAST) and not self._pdv_left
        self._between = last
        return Fragment(context_id, bool(control & _COMMAND), last, self._take(size))

    def _begin_pdu(self, timeout: float) -> None:
        if self._between:  # the time for a message begins with its first byte
            self._fill(1, deadline=time.monotonic() + timeout)
            self._between, self._received, self._deadline = False, 0, time.monotonic() + self._timeout
        self._fill(6)
        pdu_type, length = _HEADER.unpack_from(self._buffer, self._start)
        if self._react(pdu_type) is Action.INDICATE_RELEASE:
            self._fill(6 + _SHORT_PDU)
            self._take(6 + _SHORT_PDU)
            raise ReleaseRequested("the peer released the association")
        if not 6 <= length <= MAXIMUM_LENGTH:
            self._invalid(f"a P-DATA-TF of {length} bytes; {MAXIMUM_LENGTH} were agreed")
        self._take(6)
        self._pdu_left = length

    def _begin_pdv(self) -> None:
        if self._pdu_left < 6:
            self._invalid("a P-DATA-TF ends within a PDV header")
        self._fill(6)
        length, context_id, control = _PDV_HEADER.unpack(self._take(6))
        if not 2 <= length <= self._pdu_left - 4:
            self._invalid(f"a PDV of {length} bytes does not fit its P-DATA-TF")
        self._pdu_left -= 6
        self._pdv_left = length - 2
        self._pdv = (context_id, control)

    def _invalid(self, message: str) -> NoReturn:
        self._machine.on(Event.INVALID_PDU)
        self._send_abort(_PROVIDER, reason=_INVALID_PARAMETER)
        raise ProtocolViolation(message)

    def readable(self) -> bool:
        """Whether the next read would find something, without waiting."""
        if self._start < self._end or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _take(self, size: int) -> memoryview:
        view = self._buffer[self._start : self._start + size]
        self._start += size
        return view

    def _fill(self, size: int, *, deadline: float | None = None) -> None:
        """Have at least `size` bytes in the buffer, from `_start` on; by default within the time for a message's progress."""
        while (have := self._end - self._start) < size:
            self._make_room(min(size, have + _STEP))  # what a header declares is not believed before it comes
            room = self._buffer[self._end :]
            received = self._receive_into(room, self._deadline if deadline is None else deadline)
            self._end += received
            self._received += received
            if self._received >= _PROGRESS:
                self._received, self._deadline = 0, time.monotonic() + self._timeout
            if received < len(room):
                # A sender that leaves Nagle's algorithm on (DCMTK does) waits for our ACK before it sends the rest of a message,
                # and the kernel would delay that by 40 ms. The option wears off, so it is set whenever we are about to wait.
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _receive_into(self, room: memoryview, deadline: float) -> int:
        """Read what there is, at least a byte. Aborted if there is nothing until the deadline, or nobody any more."""
        while True:
            try:
                received = self._socket.recv_into(room)
            except (BlockingIOError, TimeoutError) as exc:  # a tick without a byte
                if time.monotonic() >= deadline:
                    raise Aborted("the peer kept silent for too long") from exc
                continue
            except OSError as exc:
                self._lost(exc)
            if not received:
                if self._woken:
                    raise Aborted("the association is ended from our side")
                self._lost(None)
            if time.monotonic() > deadline:
                raise Aborted("the peer took too long")
            return received

    def _lost(self, exc: OSError | None) -> NoReturn:
        with suppress(KeyError):  # it may be over already
            self._machine.on(Event.TRANSPORT_CLOSED)
        message = "the peer closed the connection" if exc is None else f"the connection broke: {exc.strerror or type(exc).__name__}"
        raise Aborted(message) from exc

    def _make_room(self, size: int) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        if len(self._buffer) - self._start < size:
            pending = bytes(self._buffer[self._start : self._end])
            if len(self._buffer) < size:
                self._buffer = memoryview(bytearray(size))
            self._buffer[: len(pending)] = pending
            self._start, self._end = 0, len(pending)

    def _enlarge(self, size: int) -> None:
        """Grow the (empty) buffer. Done when data flows: an idle association keeps a small one."""
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))
        self._start = self._end = 0

    # Writing

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        """Send whole PDUs. Aborted if the peer is gone or does not read for too long."""
        try:
            self._socket.sendall(data)
        except (BlockingIOError, TimeoutError) as exc:
            raise Aborted("the peer stopped reading") from exc
        except OSError as exc:
            self._lost(exc)

    def send_message(self, context_id: int, command: bytes, data: bytes = b"") -> None:
        """A command set and, where there is one, its data set, in as few writes as possible (PS3.8 9.3.5, annex E)."""
        self._machine.on(Event.DATA_REQUEST)
        pdus = bytearray()
        for kind, payload in ((_COMMAND, command), (0, data)):
            if kind or payload:
                for chunk, last in self._chunks(payload):
                    pdus += _HEADER.pack(_P_DATA, len(chunk) + 6)
                    pdus += _PDV_HEADER.pack(len(chunk) + 2, context_id, kind | (_LAST if last else 0))
                    pdus += chunk
        self._send(pdus)

    def _chunks(self, payload: bytes) -> Iterator[tuple[memoryview, bool]]:
        view, size = memoryview(payload), self.fragment_size
        for start in range(0, max(len(view), 1), size):
            yield view[start : start + size], start + size >= len(view)

    def send_blocks(self, blocks: Iterable[memoryview]) -> None:
        """A message that was laid out for this connection (`outgoing`). What getting a block raises leaves it half sent: then
        only `abort` is left."""
        self._machine.on(Event.DATA_REQUEST)
        for block in blocks:
            self._send(block)

    def expect_bulk(self) -> None:
        """Much is to be sent. BBR, where that is the system's way of congestion control, lets data out by timers, and where the
        path is shorter than they are fine, a message takes twice as long for it."""
        with suppress(OSError):  # it is as it is
            algorithm = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _ALGORITHM_NAME)
            (round_trip,) = _ROUND_TRIP.unpack_from(self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ROUND_TRIP.size))
            if algorithm.startswith(b"bbr") and round_trip < _SHORT_PATH:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")

    @property
    def fragment_size(self) -> int:
        """Bytes of a message that the peer takes in one PDU."""
        # 0 means that the peer takes any size (PS3.8 annex D.1). Fragments but the last must be of even length.
        limit = min(self.peer_maximum or MAXIMUM_LENGTH, MAXIMUM_LENGTH)
        return max(limit - 6, 2) & ~1

    # Ending

    @property
    def is_open(self) -> bool:
        """Whether there is an association, as far as is known from what was read and written."""
        return self._machine.state is State.ESTABLISHED

    def fileno(self) -> int:
        """The descriptor, for whoever waits for several connections at once."""
        return self._socket.fileno()

    def release(self, *, timeout: float | None = None) -> None:
        """Release in order, as the one who asks (PS3.8 7.2). AssociationEnded if the peer ends it otherwise.

        Does nothing where there is no association any more. The peer has `timeout` seconds, by default as for any answer.
        """
        if not self._may(Event.RELEASE_REQUEST):
            return
        if self._pdu_left:
            self.abort()  # in the middle of what the peer is sending there is no orderly end
            return
        self._machine.on(Event.RELEASE_REQUEST)
        self._send_short(_RELEASE_RQ)
        while self._machine.state not in (State.IDLE, State.AWAITING_CLOSE):
            self._receive_pdu(time.monotonic() + (timeout or self._timeout))
            if self._may(Event.RELEASE_RESPONSE):  # the peer asked at the same time (PS3.8 7.2.2)
                self.confirm_release()

    def confirm_release(self) -> None:
        """Answer the peer's A-RELEASE-RQ."""
        self._machine.on(Event.RELEASE_RESPONSE)
        self._send_short(_RELEASE_RP)

    def abort(self) -> None:
        """Send an A-ABORT, if there is an association and a peer to tell, and close."""
        if self._may(Event.ABORT_REQUEST):
            self._machine.on(Event.ABORT_REQUEST)
            self._send_abort(_USER, reason=0)
        self.close()

    def _may(self, event: Event) -> bool:
        return (event, self._machine.state) in TABLE

    def _send_abort(self, source: int, *, reason: int) -> None:
        with suppress(Aborted):
            self._send_short(_ABORT, source, reason)

    def _send_short(self, pdu_type: int, source: int = 0, reason: int = 0) -> None:
        self._send(_HEADER.pack(pdu_type, _SHORT_PDU) + bytes((0, 0, source, reason)))

    def close(self) -> None:
        """Close the socket; where our last word is still on its way, give the peer a moment to hear it. Idempotent."""
        if self._machine.state is State.AWAITING_CLOSE:
            self._linger()
        self._socket.close()

    def _linger(self) -> None:
        deadline = time.monotonic() + self._linger_for
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv_into(self._buffer):
                    break
        self._machine.on(Event.TIMER_EXPIRED)

    def end_reading(self) -> None:
        """Wake a thread that waits for the peer, as if the peer had closed; it can still write. Any thread."""
        self._woken = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def hurry(self) -> None:
        """Have `close` wait hardly at all. Any thread."""
        self._linger_for = _SHORT_LINGER
