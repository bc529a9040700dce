"""Command sets against pynetdicom's codec (PS3.7 annex E)."""

from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_MOVE_RSP, C_STORE_RQ
from pynetdicom.dimse_primitives import C_MOVE, C_STORE
from pynetdicom.dsutils import decode as pynetdicom_decode
from pynetdicom.dsutils import encode as pynetdicom_encode

from pacs_core.dimse.command import Command, CommandField, decode, encode
from pacs_core.dimse.connection import ProtocolViolation


def test_a_request_that_pynetdicom_encodes_is_understood() -> None:
    primitive = C_STORE()
    primitive.MessageID = 7
    primitive.AffectedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    primitive.AffectedSOPInstanceUID = "1.2.3"
    primitive.Priority = 2
    primitive.MoveOriginatorApplicationEntityTitle = "MOVER"
    primitive.MoveOriginatorMessageID = 9
    primitive.DataSet = BytesIO(b"\0\0")
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    encoded = pynetdicom_encode(message.command_set, True, True)
    assert encoded is not None
    command = decode(encoded)
    assert command.CommandField == CommandField.C_STORE
    assert (command.AffectedSOPClassUID, command.AffectedSOPInstanceUID) == ("1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    assert (command.MoveOriginatorApplicationEntityTitle, command.MoveOriginatorMessageID) == ("MOVER", 9)
    assert command.has_data_set


def test_a_response_of_ours_is_understood_by_pynetdicom() -> None:
    response = Command(CommandField=CommandField.C_MOVE, MessageID=3, AffectedSOPClassUID="1.2").response(0xFF00, error_comment="x" * 99)
    response.NumberOfRemainingSuboperations = 5
    ds = pynetdicom_decode(BytesIO(encode(response)), True, True)
    assert (ds.CommandField, ds.MessageIDBeingRespondedTo, ds.Status, ds.NumberOfRemainingSuboperations) == (0x8021, 3, 0xFF00, 5)
    assert len(ds.ErrorComment) == 64
    message = C_MOVE_RSP()
    message.command_set = ds
    assert isinstance(message.message_to_primitive(), C_MOVE)


@given(
    st.builds(
        Command,
        CommandField=st.integers(1, 0xFFFF),
        MessageID=st.none() | st.integers(0, 0xFFFF),
        AffectedSOPInstanceUID=st.none() | st.from_regex(r"\A[1-9](\.[0-9]{1,5}){1,8}\Z"),
        MoveDestination=st.none() | st.from_regex(r"\A[A-Z][A-Z0-9 ]{0,14}[A-Z]\Z"),
        Status=st.none() | st.integers(0, 0xFFFF),
        OffendingElement=st.none() | st.lists(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=4),
    )
)
def test_encoding_and_decoding_is_the_identity(command: Command) -> None:
    assert decode(encode(command)) == command


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_command_or_a_violation(data: bytes) -> None:
    with suppress(ProtocolViolation):
        decode(data)


@pytest.mark.parametrize("data", [b"", b"\0\0\0\1\xff\xff\xff\xff", b"\0\0\0\1\1\0\0\0\1"])
def test_malformed_command_sets_are_violations(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode(data)
