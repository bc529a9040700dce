"""The DICOM File Format around a data set: preamble, prefix and File Meta Information (PS3.10 section 7.1)."""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from struct import Struct
from typing import BinaryIO

from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs_core.errors import UnreadableDataSet
from pacs_core.model import Origin, StoreRequest

# A UID derived from a UUID (PS3.5 annex B.2), drawn once for this product. Also names the content of the
# PrivateInformation that its files carry.
IMPLEMENTATION_CLASS_UID = "2.25.60980702261152913660381049476036574984"
IMPLEMENTATION_VERSION_NAME = "PACS_0_1"

_PREAMBLE = bytes(128)
PREFIX = b"DICM"
_FIRST_READ = 16 << 10  # the group is nearly always shorter
LARGEST_META = 1 << 20
_LONG_VRS = frozenset({b"OB", b"UN", b"OW", b"SQ", b"UT"})

_HEAD = Struct("<HH2sH")
_LONG_HEAD = Struct("<HH2s2xI")
_IMPLICIT_HEAD = Struct("<HHI")
_GROUP_LENGTH = Struct("<HH2sHI")

_SOP_CLASS = 0x0002
_SOP_INSTANCE = 0x0003
_TRANSFER_SYNTAX = 0x0010
_SOURCE_AE = 0x0016
_RECEIVING_AE = 0x0018
_PRIVATE_CREATOR = 0x0100
_PRIVATE = 0x0102


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What stands before a data set.

    Attributes:
        TransferSyntaxUID: as the file says, or guessed from the data set where it does not.
        SOPClassUID: MediaStorageSOPClassUID, or "".
        SOPInstanceUID: MediaStorageSOPInstanceUID, or "".
        origin: where the instance came from, if this product wrote the file.
        data_offset: where the data set begins, in bytes.
    """

    TransferSyntaxUID: str
    SOPClassUID: str
    SOPInstanceUID: str
    origin: Origin | None
    data_offset: int


def build_file_meta(request: StoreRequest) -> bytes:
    """Preamble, prefix and file meta group for an instance: the same bytes for the same request."""
    origin = request.origin
    private = json.dumps({"received_at": origin.received_at.isoformat()}, separators=(",", ":")).encode()
    elements = b"".join(
        (
            _long(0x0001, b"OB", b"\0\1"),
            _short(_SOP_CLASS, b"UI", request.SOPClassUID),
            _short(_SOP_INSTANCE, b"UI", request.SOPInstanceUID),
            _short(_TRANSFER_SYNTAX, b"UI", request.TransferSyntaxUID),
            _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _short(_SOURCE_AE, b"AE", origin.source_ae) if origin.source_ae else b"",
            _short(_RECEIVING_AE, b"AE", origin.receiving_ae) if origin.receiving_ae else b"",
            _short(_PRIVATE_CREATOR, b"UI", IMPLEMENTATION_CLASS_UID),
            _long(_PRIVATE, b"OB", private + b" " * (len(private) % 2)),
        )
    )
    return _PREAMBLE + PREFIX + _GROUP_LENGTH.pack(2, 0, b"UL", 4, len(elements)) + elements


def read_file_meta(stream: BinaryIO) -> FileMeta:
    """The file meta at the beginning of a file; forgives a missing preamble, prefix or group as pydicom does.

    Raises UnreadableDataSet if there is nothing behind it.
    """
    head = stream.read(_FIRST_READ)
    if len(head) == _FIRST_READ and data_set_offset(head) is None:
        head += stream.read(LARGEST_META - len(head))
    values, offset = _elements(head, _group_offset(head))
    if len(head) == offset:
        raise UnreadableDataSet("the file holds no data set")
    return FileMeta(
        TransferSyntaxUID=_text(values, _TRANSFER_SYNTAX) or guess_transfer_syntax(head[offset : offset + 6]),
        SOPClassUID=_text(values, _SOP_CLASS),
        SOPInstanceUID=_text(values, _SOP_INSTANCE),
        origin=_origin(values),
        data_offset=offset,
    )


def data_set_offset(head: bytes) -> int | None:
    """Where the data set begins, as the first bytes of a file tell; None where they do not, and more of it must be read."""
    try:
        offset = _elements(head, _group_offset(head))[1]
    except UnreadableDataSet:
        return None
    return offset if len(head) - offset >= _HEAD.size else None


def guess_transfer_syntax(head: bytes) -> str:
    """The uncompressed transfer syntax that a data set's first six bytes suggest."""
    group = int.from_bytes(head[:2], "little")
    if len(head) < 6 or not (head[4:6].isalpha() and head[4:6].isupper()):
        return ImplicitVRLittleEndian
    # A data set begins with a low group, and 0008 in big endian reads as 0800 in little endian.
    return ExplicitVRBigEndian if group >= 0x0100 and not group & 0xFF else ExplicitVRLittleEndian


@lru_cache(maxsize=4096)
def _short(element: int, vr: bytes, value: str) -> bytes:
    raw = value.encode("latin-1", "replace")
    raw += (b"\0" if vr == b"UI" else b" ") * (len(raw) % 2)
    return _HEAD.pack(2, element, vr, len(raw)) + raw


def _long(element: int, vr: bytes, value: bytes) -> bytes:
    return _LONG_HEAD.pack(2, element, vr, len(value)) + value


def _group_offset(head: bytes) -> int:
    return len(_PREAMBLE) + len(PREFIX) if head[128:132] == PREFIX else 0


def _elements(data: bytes, offset: int) -> tuple[dict[int, bytes], int]:
    """The values of group 0002 by element number, and the offset past them."""
    values: dict[int, bytes] = {}
    while len(data) - offset >= _HEAD.size:
        group, element, vr, length = _HEAD.unpack_from(data, offset)
        if group != 2:
            break
        start = offset + _HEAD.size
        if vr in _LONG_VRS:
            if len(data) - offset < _LONG_HEAD.size:
                raise UnreadableDataSet("the file meta information is cut short")
            length = _LONG_HEAD.unpack_from(data, offset)[3]
            start = offset + _LONG_HEAD.size
        elif not vr.isalpha():  # some writers encode the group in implicit VR
            length = _IMPLICIT_HEAD.unpack_from(data, offset)[2]
        offset = start + length
        if offset > len(data):
            raise UnreadableDataSet("the file meta information is cut short")
        values[element] = data[start:offset]
    return values, offset


def _text(values: dict[int, bytes], element: int) -> str:
    return values.get(element, b"").decode("latin-1").strip(" \0")


def _origin(values: dict[int, bytes]) -> Origin | None:
    if _text(values, _PRIVATE_CREATOR) != IMPLEMENTATION_CLASS_UID:
        return None
    try:
        private = json.loads(values.get(_PRIVATE, b""))
        received_at = datetime.fromisoformat(private["received_at"])
    except (ValueError, KeyError, TypeError):
        return None
    return Origin(source_ae=_text(values, _SOURCE_AE), receiving_ae=_text(values, _RECEIVING_AE), received_at=received_at)
