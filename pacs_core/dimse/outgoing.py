"""Messages with a stored data set, laid out as P-DATA-TF PDUs (PS3.8 9.3.5, annex E) in as few writes as possible.

The bytes of the data set are read to where they are sent from, between the headers: nothing copies or parses them.
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Protocol

# What is read and written at once. A CT fits; more saves nothing measurable.
_BLOCK = 1 << 20
_SMALLEST_BLOCK = 1 << 16
_MOST_BUFFERS = 1024  # that one read may fill (IOV_MAX)

_HEADER = Struct(">BxLLBB")  # of a P-DATA-TF and of the one PDV in it
_P_DATA = 4
_COMMAND, _LAST = 1, 2


class Source(Protocol):
    """A data set that can be read in any order."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def read_into(self, buffers: Sequence[memoryview], position: int) -> None:
        """Fill the buffers with its bytes from a position on. OSError if they cannot all be read."""


class OutgoingMessage:
    """One message after the other, with a buffer for the blocks of each. Belongs to one thread.

    Args:
        fragment_size: bytes of a message that one PDU may hold: an even number.
    """

    def __init__(self, fragment_size: int) -> None:
        self._fragment_size = fragment_size
        self._buffer = memoryview(bytearray(_SMALLEST_BLOCK))
        self._end = 0  # of what the buffer holds
        self._context_id = 0
        self._source: Source | None = None
        self._position = 0  # within the data set

    def load(self, context_id: int, command: bytes, source: Source) -> None:
        """Begin a message: its command set and the first block of its data set are ready then. OSError as the source."""
        self._context_id, self._source, self._position = context_id, source, 0
        self._make_room(source.size + len(command))
        self._end = 0
        self._add_command(command)
        self._fill(source)

    def blocks(self) -> Iterator[memoryview]:
        """The loaded message, each block valid until the next is asked for. OSError as the source."""
        source, self._source = self._source, None
        assert source is not None, "load first"
        yield self._buffer[: self._end]
        while self._position < source.size:
            self._end = 0
            self._fill(source)
            yield self._buffer[: self._end]

    def _make_room(self, payload: int) -> None:
        """A buffer for the whole message, or for a block of it: at least one PDU of the data set behind the command set."""
        pdus = payload // self._fragment_size + 2
        needed = min(payload + pdus * _HEADER.size, max(_BLOCK, 2 * (self._fragment_size + _HEADER.size)))
        if len(self._buffer) < needed:
            self._buffer = memoryview(bytearray(needed))

    def _add_command(self, command: bytes) -> None:
        size = self._fragment_size
        for start in range(0, len(command), size):
            fragment = command[start : start + size]
            room = self._add_pdu(len(fragment), _COMMAND | (_LAST if start + size >= len(command) else 0))
            room[:] = fragment

    def _fill(self, source: Source) -> None:
        """Lay out as much of the data set as there is room for, then have all of it read at once."""
        begin, rooms = self._position, list[memoryview]()
        while len(rooms) < _MOST_BUFFERS:
            left = source.size - self._position
            count = min(left, self._fragment_size)
            if self._end + _HEADER.size + count > len(self._buffer):
                break
            rooms.append(self._add_pdu(count, _LAST if count == left else 0))
            self._position += count
            if count == left:
                break
        source.read_into(rooms, begin)

    def _add_pdu(self, size: int, control: int) -> memoryview:
        """The header of a PDU with one fragment; the room for its bytes."""
        _HEADER.pack_into(self._buffer, self._end, _P_DATA, size + 6, size + 2, self._context_id, control)
        start = self._end + _HEADER.size
        self._end = start + size
        return self._buffer[start : self._end]
