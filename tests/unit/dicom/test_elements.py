from contextlib import suppress
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacs_core.dicom.elements import Encoding, read_elements, write_elements
from pacs_core.errors import UnreadableDataSet

IMPLICIT, EXPLICIT, BIG = Encoding(True, True), Encoding(False, True), Encoding(False, False)


def recoded(data: bytes, source: Encoding, target: Encoding) -> bytes:
    return write_elements(read_elements(memoryview(data), source), target, source=source)


def implicit(tag: int, value: bytes) -> bytes:
    return pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def test_numbers_change_their_byte_order_and_text_does_not() -> None:
    data = implicit(0x00100020, b"ID") + implicit(0x00280010, pack("<H", 512)) + implicit(0x7FE00010, pack("<2H", 1, 2))
    big = recoded(data, IMPLICIT, BIG)
    assert big == pack(">HH2sH", 0x0010, 0x0020, b"LO", 2) + b"ID" + pack(">HH2sHH", 0x0028, 0x0010, b"US", 2, 512) + pack(
        ">HH2s2xI2H", 0x7FE0, 0x0010, b"OW", 4, 1, 2
    )
    assert recoded(big, BIG, IMPLICIT) == data


@pytest.mark.parametrize(("representation", "vr"), [(0, b"US"), (1, b"SS")])
def test_an_ambiguous_vr_follows_the_pixel_representation(representation: int, vr: bytes) -> None:
    data = implicit(0x00280103, pack("<H", representation)) + implicit(0x00280106, b"\1\0")
    assert recoded(data, IMPLICIT, EXPLICIT).endswith(vr + b"\2\0\1\0")


def test_private_elements_get_the_vr_of_their_creator_or_un() -> None:
    data = implicit(0x00090010, b"GEMS_IDEN_01") + implicit(0x00091002, b"MR01") + implicit(0x000910FE, b"??")
    explicit = recoded(data, IMPLICIT, EXPLICIT)
    assert pack("<HH2sH", 0x0009, 0x0010, b"LO", 12) in explicit
    assert pack("<HH2sH", 0x0009, 0x1002, b"SH", 4) in explicit
    assert pack("<HH2s2xI", 0x0009, 0x10FE, b"UN", 2) in explicit
    assert recoded(explicit, EXPLICIT, IMPLICIT) == data


def test_a_value_too_long_for_its_vr_becomes_un() -> None:
    data = implicit(0x00104000, b"x" * 70_000)
    assert recoded(data, IMPLICIT, EXPLICIT).startswith(pack("<HH2s2xI", 0x0010, 0x4000, b"UN", 70_000))


def test_group_lengths_are_left_out() -> None:
    assert recoded(implicit(0x00080000, pack("<I", 10)) + implicit(0x00100020, b"ID"), IMPLICIT, IMPLICIT) == implicit(0x00100020, b"ID")


values = st.binary(max_size=20).map(lambda raw: raw + b" " * (len(raw) % 2))
leaves = st.tuples(st.sampled_from([0x00080060, 0x00100010, 0x00280010, 0x00189073, 0x00091001]), values)


@st.composite
def data_sets(draw: st.DrawFn, depth: int = 3) -> bytes:
    parts = [implicit(tag, value) for tag, value in draw(st.lists(leaves, max_size=4))]
    for _ in range(draw(st.integers(0, 2)) if depth else 0):
        body = b""
        for _ in range(draw(st.integers(0, 2))):
            content = draw(data_sets(depth=depth - 1))
            if draw(st.booleans()):
                body += pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
            else:
                body += pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + content + pack("<HHI", 0xFFFE, 0xE00D, 0)
        if draw(st.booleans()):
            parts.append(implicit(0x00081032, body))
        else:
            parts.append(pack("<HHI", 0x0008, 0x1032, 0xFFFFFFFF) + body + pack("<HHI", 0xFFFE, 0xE0DD, 0))
    return b"".join(parts)


@given(data_sets(), st.sampled_from([EXPLICIT, BIG]))
def test_there_and_back_again_changes_no_byte(data: bytes, other: Encoding) -> None:
    assert recoded(recoded(data, IMPLICIT, other), other, IMPLICIT) == data


@given(st.binary(max_size=200), st.sampled_from([IMPLICIT, EXPLICIT, BIG]))
def test_random_bytes_are_read_or_refused(data: bytes, encoding: Encoding) -> None:
    with suppress(UnreadableDataSet):
        read_elements(memoryview(data), encoding)
