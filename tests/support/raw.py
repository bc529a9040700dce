"""A C-STORE client that sends what it is told, byte for byte, whatever the Standard says.

pynetdicom encodes the association request; everything after it is made here, because a proper client refuses to send,
and to read back, what these tests are about.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from pydicom import Dataset, config, dcmread
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context

from tests.support.dcmtk import Scp

_ASSOCIATE_AC, _P_DATA, _RELEASE_RQ, _RELEASE_RP = 2, 4, 5, 6
_COMMAND, _LAST = 1, 2
_HEADER = struct.Struct(">BxL")
_CONTEXT_ID = 1
_FRAGMENT = 16_000
C_STORE_RQ, HAS_DATA_SET = 0x0001, 0x0000
STATUS = 0x00000900


class RawAssociation:
    """An association with one presentation context, accepted or not."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def request(self, scp: Scp, abstract_syntax: str, syntax: str, calling: str) -> bool:
        """Ask for the association; whether it and its context were accepted."""
        self._connection.sendall(_association_request(scp, abstract_syntax, syntax, calling))
        kind, body = self._pdu()
        # The presentation context item of an A-ASSOCIATE-AC: type 21H, and at its offset 6 the result (PS3.8 table 9-18).
        at = body.find(b"\x21\x00")
        return kind == _ASSOCIATE_AC and at >= 0 and body[at + 6] == 0

    def store(self, data: bytes, *, sop_class: str, sop_instance: str) -> int:
        """One C-STORE; the status, or -1 if the association was ended instead."""
        try:
            self.send(store_command(sop_class, sop_instance), control=_COMMAND | _LAST)
            for start in range(0, max(len(data), 1), _FRAGMENT):
                self.send(data[start : start + _FRAGMENT], control=_LAST if start + _FRAGMENT >= len(data) else 0)
            return self.status()
        except ConnectionError:
            return -1

    def status(self) -> int:
        """That of the next response, or -1 if the association is ended instead."""
        kind, body = self._pdu()
        return _status(body[6:]) if kind == _P_DATA else -1

    def send(self, fragment: bytes, *, control: int) -> None:
        """One P-DATA-TF with one fragment."""
        item = struct.pack(">LBB", len(fragment) + 2, _CONTEXT_ID, control) + fragment
        self._connection.sendall(_HEADER.pack(_P_DATA, len(item)) + item)

    def release(self) -> None:
        """End it in order."""
        self._connection.sendall(_HEADER.pack(_RELEASE_RQ, 4) + b"\0\0\0\0")
        assert self._pdu()[0] == _RELEASE_RP

    def _pdu(self) -> tuple[int, bytes]:
        header = self._file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return 0, b""
        kind, length = _HEADER.unpack(header)
        return int(kind), self._file.read(length)

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._connection.close()


@contextmanager
def raw_association(scp: Scp, abstract_syntax: str, syntax: str, *, calling: str = "TESTSCU") -> Iterator[RawAssociation]:
    """An accepted association; hung up on at the end, released before or not."""
    assoc = RawAssociation(socket.create_connection((scp.host, scp.port), timeout=60))
    try:
        assert assoc.request(scp, abstract_syntax, syntax, calling), "the association or its context was not accepted"
        yield assoc
    finally:
        assoc.close()


def store_command(sop_class: str, sop_instance: str) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    elements = [
        (0x0002, sop_class.encode()),
        (0x0100, struct.pack("<H", C_STORE_RQ)),
        (0x0110, struct.pack("<H", 1)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", HAS_DATA_SET)),
        (0x1000, sop_instance.encode()),
    ]
    body = b"".join(struct.pack("<HHL", 0, tag, len(value) + len(value) % 2) + value + b"\0" * (len(value) % 2) for tag, value in elements)
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def _status(command: bytes) -> int:
    with config.disable_value_validation():
        ds: Dataset = dcmread(BytesIO(command), force=True)
        return int(ds[STATUS].value)


def _association_request(scp: Scp, abstract_syntax: str, syntax: str, calling: str) -> bytes:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = calling, scp.ae_title
    maximum, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    maximum.maximum_length_received = 65_536
    implementation.implementation_class_uid = UID("1.2.826.0.1.3680043.8.498.1")
    primitive.user_information = [maximum, implementation]
    context = build_context(abstract_syntax, [syntax or ImplicitVRLittleEndian])
    context.context_id = _CONTEXT_ID
    primitive.presentation_context_definition_list = [context]
    request = A_ASSOCIATE_RQ()
    request.from_primitive(primitive)
    encoded: bytes = request.encode()
    return encoded
