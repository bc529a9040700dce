"""One TCP connection of the DICOM upper layer: PDUs in, PDUs out (PS3.8 9.3).

Data set bytes are handed on as views into the receive buffer, so a data set of any size passes in constant memory.
Every read has a time limit and every PDU type a size limit. Not thread-safe: a connection belongs to one thread.
"""

import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from pacs_core.errors import PeerUnavailable

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

# The largest P-DATA-TF that we announce (PS3.8 annex D.1). Larger ones save nothing measurable.
MAXIMUM_LENGTH = 262_144
# Association PDUs of real peers stay below 64 KiB, even with 128 presentation contexts of 40 transfer syntaxes each.
ASSOCIATE_LIMIT = 1_048_576

_HEADER = struct.Struct(">BxL")
_PDV_HEADER = struct.Struct(">LBB")
_COMMAND, _LAST = 1, 2


class AssociationEnded(PeerUnavailable):
    """The association is over: there is nobody to answer."""


class ReleaseRequested(AssociationEnded):
    """The peer asks for an orderly release (A-RELEASE-RQ)."""


class Aborted(AssociationEnded):
    """The peer aborted (A-ABORT), vanished, or kept silent for too long."""


class ProtocolViolation(AssociationEnded):
    """The peer broke PS3.8; we answer with an A-ABORT of the given reason (PS3.8 9.3.8)."""

    UNEXPECTED_PDU = 2
    INVALID_PARAMETER = 6

    def __init__(self, message: str, reason: int = INVALID_PARAMETER) -> None:
        super().__init__(message)
        self.reason = reason


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
        sock: connected; closed by `close`.
        timeout: seconds that the peer may keep silent within a PDU or a message.
    """

    def __init__(self, sock: socket.socket, *, timeout: float) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._timeout = timeout
        self._buffer = memoryview(bytearray(8_192))
        self._start = self._end = 0
        self._pdu_left = 0  # bytes of the P-DATA-TF being read
        self._pdv_left = 0  # bytes of the PDV being read
        self._pdv = (0, 0)  # its context id and message control header
        self._outgoing = bytearray()
        self.peer_maximum = 16_384

    # Reading

    def read_pdu(self, limit: int = ASSOCIATE_LIMIT, *, deadline: float | None = None) -> tuple[int, bytes]:
        """A whole PDU that is not P-DATA-TF: its type and all its bytes, header included.

        Raises Aborted when the deadline (time.monotonic) passes, ProtocolViolation when it is larger than the limit.
        """
        self._fill(6, deadline=deadline)
        pdu_type, length = _HEADER.unpack_from(self._buffer, self._start)
        if length > limit:
            raise ProtocolViolation(f"a PDU of type {pdu_type} declares {length} bytes; at most {limit} are accepted")
        self._fill(6 + length, deadline=deadline)
        return pdu_type, bytes(self._take(6 + length))

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
                    return self._empty_fragment()
            else:
                self._begin_pdu(timeout)
        if self._start == self._end:
            self._enlarge(MAXIMUM_LENGTH + 6)
            self._fill(1)
        size = min(self._end - self._start, self._pdv_left)
        self._pdv_left -= size
        self._pdu_left -= size
        context_id, control = self._pdv
        last = bool(control & _LAST) and not self._pdv_left
        return Fragment(context_id, bool(control & _COMMAND), last, self._take(size))

    def _begin_pdu(self, timeout: float) -> None:
        self._fill(6, deadline=time.monotonic() + timeout)
        pdu_type, length = _HEADER.unpack_from(self._buffer, self._start)
        if pdu_type != P_DATA:
            self._end_association(pdu_type)
        if not 6 <= length <= MAXIMUM_LENGTH:
            raise ProtocolViolation(f"a P-DATA-TF of {length} bytes; {MAXIMUM_LENGTH} were agreed")
        self._take(6)
        self._pdu_left = length

    def _end_association(self, pdu_type: int) -> None:
        if pdu_type == RELEASE_RQ:
            self.read_pdu(4)
            raise ReleaseRequested("the peer released the association")
        if pdu_type == ABORT:
            raise Aborted("the peer aborted the association")
        raise ProtocolViolation(f"a PDU of type {pdu_type:#04x} on an open association", ProtocolViolation.UNEXPECTED_PDU)

    def _begin_pdv(self) -> None:
        if self._pdu_left < 6:
            raise ProtocolViolation("a P-DATA-TF ends within a PDV header")
        self._fill(6)
        length, context_id, control = _PDV_HEADER.unpack(self._take(6))
        if not 2 <= length <= self._pdu_left - 4:
            raise ProtocolViolation(f"a PDV of {length} bytes does not fit its P-DATA-TF")
        self._pdu_left -= 6
        self._pdv_left = length - 2
        self._pdv = (context_id, control)

    def _empty_fragment(self) -> Fragment:
        context_id, control = self._pdv
        return Fragment(context_id, bool(control & _COMMAND), bool(control & _LAST), self._buffer[:0])

    def readable(self) -> bool:
        """Whether the next read would find something, without waiting."""
        if self._start < self._end:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _take(self, size: int) -> memoryview:
        view = self._buffer[self._start : self._start + size]
        self._start += size
        return view

    def _fill(self, size: int, *, deadline: float | None = None) -> None:
        """Have at least `size` bytes in the buffer, from `_start` on."""
        if self._end - self._start >= size:
            return
        self._make_room(size)
        deadline = time.monotonic() + self._timeout if deadline is None else deadline
        while self._end - self._start < size:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                received = self._socket.recv_into(self._buffer[self._end :])
            except TimeoutError as exc:
                raise Aborted("the peer kept silent for too long") from exc
            except OSError as exc:
                raise Aborted(f"the connection broke: {exc.strerror or type(exc).__name__}") from exc
            if not received:
                raise Aborted("the peer closed the connection")
            self._end += received
            # A sender that leaves Nagle's algorithm on (DCMTK does) waits for our ACK before it sends the rest of a message,
            # and the kernel would delay that by 40 ms. The option wears off, so it is set each time.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

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

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send whole PDUs. Aborted if the peer is gone or does not read for too long."""
        self._socket.settimeout(self._timeout)
        try:
            self._socket.sendall(data)
        except TimeoutError as exc:
            raise Aborted("the peer stopped reading") from exc
        except OSError as exc:
            raise Aborted(f"the connection broke: {exc.strerror or type(exc).__name__}") from exc

    def send_message(self, context_id: int, command: bytes, data: bytes = b"") -> None:
        """A command set and, where there is one, its data set, in as few writes as possible (PS3.8 9.3.5, annex E)."""
        pdus = bytearray()
        for kind, payload in ((_COMMAND, command), (0, data)):
            if kind or payload:
                for chunk, last in self._chunks(payload):
                    pdus += _HEADER.pack(P_DATA, len(chunk) + 6)
                    pdus += _PDV_HEADER.pack(len(chunk) + 2, context_id, kind | (_LAST if last else 0))
                    pdus += chunk
        self.send(pdus)

    def _chunks(self, payload: bytes) -> Iterator[tuple[memoryview, bool]]:
        view, size = memoryview(payload), self._fragment_size()
        for start in range(0, max(len(view), 1), size):
            yield view[start : start + size], start + size >= len(view)

    def send_file(self, context_id: int, command: bytes, file: BinaryIO, size: int) -> None:
        """A command set with the next `size` bytes of a file as its data set, never whole in memory."""
        self.send_message(context_id, command)
        room = min(self._fragment_size(), max(size, 1))
        if len(self._outgoing) < room + 12:
            self._outgoing = bytearray(room + 12)
        pdu, left = memoryview(self._outgoing), size
        while True:
            count = min(left, room)
            if count and file.readinto(pdu[12 : 12 + count]) != count:  # type: ignore[attr-defined]  # every buffered and raw reader has it
                raise OSError("the file is shorter than it was")
            left -= count
            _HEADER.pack_into(pdu, 0, P_DATA, count + 6)
            _PDV_HEADER.pack_into(pdu, 6, count + 2, context_id, 0 if left else _LAST)
            self.send(pdu[: 12 + count])
            if not left:
                return

    def _fragment_size(self) -> int:
        # 0 means that the peer takes any size (PS3.8 annex D.1). Fragments but the last must be of even length.
        limit = min(self.peer_maximum or MAXIMUM_LENGTH, MAXIMUM_LENGTH)
        return max(limit - 6, 2) & ~1

    def abort(self, *, source: int = 0, reason: int = 0) -> None:
        """Send an A-ABORT (PS3.8 9.3.8; source 0 user, 2 provider) as far as that is still possible, and close."""
        with suppress(Aborted):
            self.send(_HEADER.pack(ABORT, 4) + bytes((0, 0, source, reason)))
        self.close()

    def release_pdu(self, pdu_type: int) -> None:
        """Send an A-RELEASE-RQ or A-RELEASE-RP (PS3.8 9.3.6, 9.3.7)."""
        self.send(_HEADER.pack(pdu_type, 4) + bytes(4))

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()

    def end_reading(self) -> None:
        """Wake a thread that waits for the peer, as if the peer had closed; it can still write. Any thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
