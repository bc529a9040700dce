"""A storage client over a plain socket: fast, exact, and plain about what it was answered.

The association is negotiated with pynetdicom's PDU classes (tests/support/raw.py); from there on these are bytes.
"""

import socket
import struct
from types import TracebackType
from typing import Self

from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from bench.durability.instances import Instance
from tests.support.dcmtk import Scp
from tests.support.raw import RawAssociation, store_command

VERIFICATION = "1.2.840.10008.1.1"

_P_DATA, _RELEASE_RQ = 4, 5
_COMMAND, _LAST = 1, 2
_CONTEXT_ID = 1
_FRAGMENT = 65_536  # the archive announces 262,144
_HEADER = struct.Struct(">BxL")
_PDV = struct.Struct(">BxLLBB")
_ELEMENT = struct.Struct("<HHL")
_C_ECHO_RQ, _NO_DATA_SET = 0x0030, 0x0101
_SOP_CLASS, _COMMAND_FIELD, _MESSAGE_ID, _DATA_SET_TYPE, _STATUS, _SOP_INSTANCE = 0x0002, 0x0100, 0x0110, 0x0800, 0x0900, 0x1000


class WrongAnswer(Exception):
    """The archive answered something that is no answer to what it was asked: a defect, not an outage."""


class Client:
    """One accepted association with one presentation context. OSError wherever the archive is not there or hangs up.

    Args:
        scp: the archive.
        abstract_syntax: proposed in Explicit VR Little Endian.
        source: the address to call from; any of 127.0.0.0/8 is this machine's.
        timeout: seconds to wait for anything.
    """

    def __init__(self, scp: Scp, abstract_syntax: str = MRImageStorage, *, source: str = "127.0.0.1", timeout: float = 60) -> None:
        self._socket = socket.create_connection((scp.host, scp.port), timeout=timeout, source_address=(source, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._raw = RawAssociation(self._socket)
        try:
            if not self._raw.request(scp, abstract_syntax, ExplicitVRLittleEndian, "DURABLE"):
                raise ConnectionAbortedError("the association was not accepted")
        except BaseException:
            self.close()
            raise

    def store(self, instance: Instance) -> int:
        """C-STORE; the status."""
        self._socket.sendall(store_message(instance))
        answer = self._answer()
        named = answer.get(_SOP_INSTANCE, b"").rstrip(b"\0").decode()
        if named != instance.SOPInstanceUID:
            raise WrongAnswer(f"asked about {instance.SOPInstanceUID}, answered about {named}")
        return _status(answer)

    def echo(self) -> int:
        """C-ECHO; the status."""
        self._socket.sendall(p_data(_echo_command(), control=_COMMAND | _LAST))
        return _status(self._answer())

    def send(self, data: bytes) -> None:
        """Any bytes."""
        self._socket.sendall(data)

    def await_status(self) -> int:
        """The status of the next response."""
        return _status(self._answer())

    def release(self) -> None:
        """Release in order, and hang up."""
        self._socket.sendall(_HEADER.pack(_RELEASE_RQ, 4) + bytes(4))
        self._read(10)
        self.close()

    def detach(self) -> socket.socket:
        """The bare connection, which is the caller's from now on."""
        sock = self._socket.dup()
        self.close()
        return sock

    def close(self) -> None:
        """Hang up."""
        self._raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _answer(self) -> dict[int, bytes]:
        """The elements of the next command set, which the archive sends in one P-DATA-TF."""
        kind, length = _HEADER.unpack(self._read(_HEADER.size))
        body = self._read(length)
        if kind != _P_DATA:
            raise ConnectionAbortedError(f"the association was ended by a PDU of type {kind}")
        return _elements(body[6:])

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._socket.recv(size - len(parts))
            if not part:
                raise ConnectionResetError("the archive hung up")
            parts += part
        return bytes(parts)


def echo(scp: Scp, *, timeout: float = 60) -> bool:
    """Whether the archive answers a C-ECHO on a new association."""
    try:
        with Client(scp, VERIFICATION, timeout=timeout) as client:
            return client.echo() == 0
    except OSError:
        return False


def store_message(instance: Instance, *, fragment: int = _FRAGMENT) -> bytes:
    """A C-STORE-RQ with its data set, as P-DATA-TFs of one PDV of so many bytes each."""
    data = instance.data
    command = p_data(store_command(MRImageStorage, instance.SOPInstanceUID), control=_COMMAND | _LAST)
    starts = range(0, len(data), fragment)
    return command + b"".join(p_data(data[at : at + fragment], control=0 if at + fragment < len(data) else _LAST) for at in starts)


def p_data(fragment: bytes, *, control: int) -> bytes:
    """One P-DATA-TF with one PDV."""
    return _PDV.pack(_P_DATA, len(fragment) + 6, len(fragment) + 2, _CONTEXT_ID, control) + fragment


def _echo_command() -> bytes:
    elements = (
        (_SOP_CLASS, VERIFICATION.encode() + b"\0"),
        (_COMMAND_FIELD, struct.pack("<H", _C_ECHO_RQ)),
        (_MESSAGE_ID, struct.pack("<H", 1)),
        (_DATA_SET_TYPE, struct.pack("<H", _NO_DATA_SET)),
    )
    body = b"".join(_ELEMENT.pack(0, element, len(value)) + value for element, value in elements)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def _elements(command: bytes) -> dict[int, bytes]:
    """The elements of a command set (Implicit VR Little Endian, all of group 0000)."""
    found, at = {}, 0
    while at + _ELEMENT.size <= len(command):
        _, element, length = _ELEMENT.unpack_from(command, at)
        at += _ELEMENT.size
        found[element] = command[at : at + length]
        at += length
    return found


def _status(answer: dict[int, bytes]) -> int:
    if _STATUS not in answer:
        raise WrongAnswer("a response without a status")
    return int.from_bytes(answer[_STATUS], "little")
