"""DIMSE command sets (PS3.7 6.3.1, annex E): a typed value, to and from Implicit VR Little Endian bytes."""

import struct
from dataclasses import dataclass, fields
from enum import IntEnum

from pacs_core.dimse.connection import ProtocolViolation

NO_DATA_SET = 0x0101
DATA_SET = 0x0001
RESPONSE = 0x8000


class CommandField(IntEnum):
    """The requests of PS3.7 annex E.1; a response has bit 15 set."""

    C_STORE = 0x0001
    C_GET = 0x0010
    C_FIND = 0x0020
    C_MOVE = 0x0021
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_GET = 0x0110
    N_SET = 0x0120
    N_ACTION = 0x0130
    N_CREATE = 0x0140
    N_DELETE = 0x0150
    C_CANCEL = 0x0FFF


_OPERATIONS = {field.value: field.name.replace("_", "-") for field in CommandField}


@dataclass(slots=True)
class Command:
    """A command set. Attributes are the keywords of PS3.7 annex E; None stands for absent."""

    CommandField: int = 0
    AffectedSOPClassUID: str | None = None
    RequestedSOPClassUID: str | None = None
    MessageID: int | None = None
    MessageIDBeingRespondedTo: int | None = None
    MoveDestination: str | None = None
    Priority: int | None = None
    CommandDataSetType: int = NO_DATA_SET
    Status: int | None = None
    OffendingElement: list[int] | None = None
    ErrorComment: str | None = None
    ErrorID: int | None = None
    AffectedSOPInstanceUID: str | None = None
    RequestedSOPInstanceUID: str | None = None
    EventTypeID: int | None = None
    AttributeIdentifierList: list[int] | None = None
    ActionTypeID: int | None = None
    NumberOfRemainingSuboperations: int | None = None
    NumberOfCompletedSuboperations: int | None = None
    NumberOfFailedSuboperations: int | None = None
    NumberOfWarningSuboperations: int | None = None
    MoveOriginatorApplicationEntityTitle: str | None = None
    MoveOriginatorMessageID: int | None = None

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows."""
        return self.CommandDataSetType != NO_DATA_SET

    @property
    def is_response(self) -> bool:
        """Whether it answers a request."""
        return bool(self.CommandField & RESPONSE)

    @property
    def sop_class(self) -> str:
        """The SOP class that it is about, requested or affected; "" where it names none."""
        return self.AffectedSOPClassUID or self.RequestedSOPClassUID or ""

    @property
    def sop_instance(self) -> str:
        """The SOP instance that it is about, requested or affected; "" where it names none."""
        return self.AffectedSOPInstanceUID or self.RequestedSOPInstanceUID or ""

    @property
    def operation(self) -> str:
        """The operation that it asks for or answers, such as C-STORE; "other" where it is none of CommandField."""
        return _OPERATIONS.get(self.CommandField & ~RESPONSE, "other")

    def response(self, status: int, *, error_comment: str | None = None, error_id: int | None = None) -> "Command":
        """The response to this request, without a data set. What a request calls Requested, its response calls Affected (PS3.7 10.3)."""
        return Command(
            CommandField=self.CommandField | RESPONSE,
            MessageIDBeingRespondedTo=self.MessageID,
            AffectedSOPClassUID=self.AffectedSOPClassUID or self.RequestedSOPClassUID,
            AffectedSOPInstanceUID=self.AffectedSOPInstanceUID or self.RequestedSOPInstanceUID,
            Status=status,
            ErrorComment=_comment(error_comment),
            ErrorID=error_id,
            EventTypeID=self.EventTypeID,
            ActionTypeID=self.ActionTypeID,
        )


# Element number and VR of each keyword (PS3.7 annex E, tables E.1-1), in tag order as it is sent.
_ELEMENTS: dict[str, tuple[int, str]] = {
    "AffectedSOPClassUID": (0x0002, "UI"),
    "RequestedSOPClassUID": (0x0003, "UI"),
    "CommandField": (0x0100, "US"),
    "MessageID": (0x0110, "US"),
    "MessageIDBeingRespondedTo": (0x0120, "US"),
    "MoveDestination": (0x0600, "AE"),
    "Priority": (0x0700, "US"),
    "CommandDataSetType": (0x0800, "US"),
    "Status": (0x0900, "US"),
    "OffendingElement": (0x0901, "AT"),
    "ErrorComment": (0x0902, "LO"),
    "ErrorID": (0x0903, "US"),
    "AffectedSOPInstanceUID": (0x1000, "UI"),
    "RequestedSOPInstanceUID": (0x1001, "UI"),
    "EventTypeID": (0x1002, "US"),
    "AttributeIdentifierList": (0x1005, "AT"),
    "ActionTypeID": (0x1008, "US"),
    "NumberOfRemainingSuboperations": (0x1020, "US"),
    "NumberOfCompletedSuboperations": (0x1021, "US"),
    "NumberOfFailedSuboperations": (0x1022, "US"),
    "NumberOfWarningSuboperations": (0x1023, "US"),
    "MoveOriginatorApplicationEntityTitle": (0x1030, "AE"),
    "MoveOriginatorMessageID": (0x1031, "US"),
}
_KEYWORDS = {element: (keyword, vr) for keyword, (element, vr) in _ELEMENTS.items()}
assert set(_ELEMENTS) == {f.name for f in fields(Command)}

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<H")


def encode(command: Command) -> bytes:
    """The bytes of a command set, group length first."""
    body = bytearray()
    for keyword, (element, vr) in _ELEMENTS.items():
        value = getattr(command, keyword)
        if value is not None:
            raw = _encode_value(vr, value)
            body += _ELEMENT.pack(0, element, len(raw)) + raw
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def decode(data: bytes) -> Command:
    """The command set of some bytes. Unknown elements are ignored; ProtocolViolation if it is malformed."""
    command, position, seen = Command(), 0, False
    while position < len(data):
        if len(data) - position < 8:
            raise ProtocolViolation("a command set ends within an element")
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += 8
        if group or length > len(data) - position:
            raise ProtocolViolation("a command set holds an element that is not one")
        if element in _KEYWORDS:
            keyword, vr = _KEYWORDS[element]
            setattr(command, keyword, _decode_value(keyword, vr, data[position : position + length]))
            seen = seen or keyword == "CommandField"
        position += length
    if not seen:
        raise ProtocolViolation("a command set has no Command Field")
    return command


def _encode_value(vr: str, value: int | str | list[int]) -> bytes:
    if isinstance(value, int):
        return _US.pack(value)
    if isinstance(value, list):
        return b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in value)
    raw = value.encode("ascii", "replace")
    return raw + (b"\0" if vr == "UI" else b" ") if len(raw) % 2 else raw


def _decode_value(keyword: str, vr: str, raw: bytes) -> int | str | list[int] | None:
    if vr == "US":
        if len(raw) < 2:
            raise ProtocolViolation(f"{keyword} has no value")
        return int(_US.unpack_from(raw)[0])
    if vr == "AT":
        return [(group << 16) | element for group, element in struct.iter_unpack("<HH", raw[: len(raw) // 4 * 4])]
    return raw.decode("ascii", "replace").strip("\0 ")


def _comment(text: str | None) -> str | None:
    """An Error Comment is a LO: at most 64 characters, no backslash (PS3.7 annex C)."""
    return text[:64].replace("\\", "/") if text else None
