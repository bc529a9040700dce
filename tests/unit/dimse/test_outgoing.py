"""Messages laid out as PDUs (PS3.8 9.3.5, annex E)."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_core.dimse import outgoing
from pacs_core.dimse.outgoing import OutgoingMessage


@dataclass
class Content:
    """A source in memory. Fails where it is asked for what is behind `readable`."""

    data: bytes
    readable: int = 1 << 40

    @property
    def size(self) -> int:
        return len(self.data)

    def read_into(self, buffers: Sequence[memoryview], position: int) -> None:
        for buffer in buffers:
            if position + len(buffer) > self.readable:
                raise OSError(5, "no more")
            buffer[:] = self.data[position : position + len(buffer)]
            position += len(buffer)


def parsed(stream: bytes) -> list[tuple[int, int, bytes]]:
    """Context id, message control header and bytes of every fragment; each is the only one of its PDU."""
    fragments, position = [], 0
    while position < len(stream):
        pdu_type, length, pdv_length, context_id, control = struct.unpack_from(">BxLLBB", stream, position)
        assert (pdu_type, pdv_length) == (4, length - 4)
        fragments.append((context_id, control, stream[position + 12 : position + 6 + length]))
        position += 6 + length
    return fragments


@given(
    messages=st.lists(st.tuples(st.binary(min_size=1, max_size=400), st.integers(0, 9000)), min_size=1, max_size=3),
    fragment_size=st.integers(1, 3000).map(lambda half: 2 * half),
)
def test_a_message_is_cut_into_fragments_of_the_agreed_size_and_whole(messages: list[tuple[bytes, int]], fragment_size: int) -> None:
    message = OutgoingMessage(fragment_size)
    for command, size in messages:
        data = bytes(range(256)) * (size // 256 + 1)
        message.load(5, command, Content(data[:size]))
        fragments = parsed(b"".join(map(bytes, message.blocks())))
        commands = [each for each in fragments if each[1] & 1]
        assert fragments[: len(commands)] == commands
        for part, payload in ((commands, command), (fragments[len(commands) :], data[:size])):
            assert b"".join(fragment for _, _, fragment in part) == payload
            assert [control & 2 for _, control, _ in part] == [0] * (len(part) - 1) + [2]
            assert all(len(fragment) == fragment_size for _, _, fragment in part[:-1])
            assert len(part[-1][2]) <= fragment_size
        assert {context_id for context_id, _, _ in fragments} == {5}


@pytest.mark.parametrize("fragment_size", [2, 1000, 16_378, 262_138])
def test_a_data_set_of_any_size_passes_in_blocks_of_bounded_size(fragment_size: int) -> None:
    data = bytes(3_000_000 if fragment_size > 2 else 30_000)
    message = OutgoingMessage(fragment_size)
    message.load(1, b"c" * 100, Content(data))
    blocks = [bytes(block) for block in message.blocks()]
    assert max(map(len, blocks)) <= outgoing._BLOCK
    assert b"".join(fragment for _, control, fragment in parsed(b"".join(blocks)) if not control & 1) == data


def test_command_and_data_set_are_one_block_where_they_fit() -> None:
    message = OutgoingMessage(131_066)
    message.load(1, b"c" * 100, Content(bytes(525_000)))
    assert len(list(message.blocks())) == 1


def test_what_cannot_be_read_fails_when_it_is_loaded_and_the_next_message_is_whole() -> None:
    message = OutgoingMessage(100)
    with pytest.raises(OSError, match="no more"):
        message.load(1, b"c", Content(bytes(50), readable=10))
    message.load(1, b"c", Content(b"d" * 50))
    assert parsed(b"".join(map(bytes, message.blocks())))[-1] == (1, 2, b"d" * 50)


def test_what_cannot_be_read_to_its_end_fails_when_its_block_is_asked_for() -> None:
    message = OutgoingMessage(16_378)
    message.load(1, b"c", Content(bytes(2_000_000), readable=1_500_000))
    blocks = message.blocks()
    next(blocks)
    with pytest.raises(OSError, match="no more"):
        next(blocks)
