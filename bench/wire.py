"""A client that costs next to nothing, so that the archive is what limits it: requests are encoded before the clock runs."""

import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dsutils import encode

from tests.support.dcmtk import Scp
from tests.support.raw import RawAssociation

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"

_SOP_CLASS, _FIELD, _MESSAGE_ID, _PRIORITY, _DATA_SET_TYPE, _STATUS, _INSTANCE = 0x0002, 0x0100, 0x0110, 0x0700, 0x0800, 0x0900, 0x1000
_C_STORE_RQ, _C_FIND_RQ, _C_ECHO_RQ = 0x0001, 0x0020, 0x0030
_NO_DATA_SET = 0x0101
_P_DATA, _ABORT = 4, 7
_CONTEXT_ID = 1  # the one that RawAssociation proposes
_DATA, _COMMAND, _LAST = 0, 1, 2  # message control headers (PS3.8 annex E.2)
_FRAGMENT = 16_000  # fits what every peer takes
_HEADER = struct.Struct(">BxL")
_PDV = struct.Struct(">LBB")
_ELEMENT = struct.Struct("<HHL")


@dataclass(frozen=True, slots=True)
class Response:
    """A message that came back."""

    status: int
    data: bytes


class Client:
    """An association with one presentation context, in Explicit VR Little Endian."""

    def __init__(self, scp: Scp, abstract_syntax: str) -> None:
        """SystemExit if it is not accepted."""
        self._socket = socket.create_connection((scp.host, scp.port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._association = RawAssociation(self._socket)
        if not self._association.request(scp, abstract_syntax, ExplicitVRLittleEndian, "BENCH"):
            raise SystemExit(f"{scp} does not accept an association for {abstract_syntax}")
        self._file = self._socket.makefile("rb")
        self._values = self._pdvs()

    def send(self, message: bytes) -> None:
        """Send what a `…_request` function has made, or a part of it."""
        self._socket.sendall(message)

    def receive(self) -> Response:
        """The next message. ConnectionError if the association ends instead."""
        command = _decode_command(self._part())
        has_data_set = command[_DATA_SET_TYPE] != _NO_DATA_SET
        return Response(command[_STATUS], self._part() if has_data_set else b"")

    def pdu(self) -> tuple[int, bytes]:
        """The next PDU, unread; its type is 0 where the connection has been closed."""
        header = self._file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return 0, b""
        kind, length = _HEADER.unpack(header)
        return kind, self._file.read(length)

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._association.close()

    def _part(self) -> bytes:
        """A whole command set or data set."""
        part = bytearray()
        for control, value in self._values:
            part += value
            if control & _LAST:
                break
        return bytes(part)

    def _pdvs(self) -> Iterator[tuple[int, bytes]]:
        while True:
            kind, body = self.pdu()
            if kind != _P_DATA:
                raise ConnectionError("the association was aborted" if kind == _ABORT else f"a PDU of type {kind} instead of an answer")
            at = 0
            while at < len(body):
                length, _, control = _PDV.unpack_from(body, at)
                yield control, body[at + _PDV.size : at + 4 + length]
                at += 4 + length


@contextmanager
def connected(scp: Scp, abstract_syntax: str) -> Iterator[Client]:
    """A Client for the length of a `with` block, hung up on at its end."""
    client = Client(scp, abstract_syntax)
    try:
        yield client
    finally:
        client.close()


def echo_request() -> bytes:
    """A C-ECHO-RQ (PS3.7 9.3.5.1)."""
    return _message(_command(VERIFICATION, _C_ECHO_RQ, {_DATA_SET_TYPE: _us(_NO_DATA_SET)}))


def store_request(ds: Dataset) -> bytes:
    """A C-STORE-RQ and its data set (PS3.7 9.3.1.1)."""
    instance = {_PRIORITY: _us(0), _DATA_SET_TYPE: _us(1), _INSTANCE: _ui(ds.SOPInstanceUID)}
    return _message(_command(ds.SOPClassUID, _C_STORE_RQ, instance), _encode(ds))


def find_request(identifier: Dataset) -> bytes:
    """A C-FIND-RQ of the study root and its identifier (PS3.7 9.3.2.1)."""
    return _message(_command(STUDY_ROOT_FIND, _C_FIND_RQ, {_PRIORITY: _us(0), _DATA_SET_TYPE: _us(1)}), _encode(identifier))


def _message(command: bytes, data: bytes = b"") -> bytes:
    fragments = [(_COMMAND | _LAST, command)]
    starts = range(0, len(data), _FRAGMENT)
    fragments += [(_DATA | (_LAST if at + _FRAGMENT >= len(data) else 0), data[at : at + _FRAGMENT]) for at in starts]
    return b"".join(_p_data(control, fragment) for control, fragment in fragments)


def _p_data(control: int, fragment: bytes) -> bytes:
    item = _PDV.pack(len(fragment) + 2, _CONTEXT_ID, control) + fragment
    return _HEADER.pack(_P_DATA, len(item)) + item


def _command(sop_class: str, field: int, more: Mapping[int, bytes]) -> bytes:
    elements = {_SOP_CLASS: _ui(sop_class), _FIELD: _us(field), _MESSAGE_ID: _us(1), **more}
    body = b"".join(_ELEMENT.pack(0, element, len(value)) + value for element, value in sorted(elements.items()))
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def _decode_command(data: bytes) -> dict[int, int]:
    """The elements that are numbers of two bytes."""
    values, at = {}, 0
    while at < len(data):
        _, element, length = _ELEMENT.unpack_from(data, at)
        at += _ELEMENT.size
        if length == 2:
            (values[element],) = struct.unpack_from("<H", data, at)
        at += length
    return values


def _us(value: int) -> bytes:
    return struct.pack("<H", value)


def _ui(uid: str) -> bytes:
    return uid.encode() + b"\0" * (len(uid) % 2)


def _encode(ds: Dataset) -> bytes:
    data = encode(ds, is_implicit_vr=False, is_little_endian=True)
    assert data is not None, "the data set cannot be encoded"
    return data
