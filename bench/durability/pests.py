"""Connections that are of no use to anybody: silent ones, and ones that send a byte every now and then."""

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.durability.client import Client, p_data
from bench.durability.instances import Instance
from tests.support.dcmtk import Scp
from tests.support.raw import store_command

_BETWEEN_BYTES = 1.0  # seconds
_POLL = 0.2
_PER_ADDRESS = 10
_REQUEST = b"\x01\x00\x00\x00\x01\x00\x00\x01\x00\x00" + b"PACS".ljust(16) + b"DURABLE".ljust(16)  # the beginning of an A-ASSOCIATE-RQ


@dataclass(slots=True, eq=False)
class Pest:
    """One connection.

    Attributes:
        sock: open until the archive closes it.
        rest: what is sent, byte by byte; empty for a silent one.
        opened: when, by time.monotonic.
    """

    sock: socket.socket
    rest: Iterator[int]
    opened: float

    @classmethod
    def silent(cls, scp: Scp, number: int) -> "Pest":
        """Connects and says nothing."""
        return cls(_connect(scp, number), iter(b""), time.monotonic())

    @classmethod
    def requesting(cls, scp: Scp, number: int) -> "Pest":
        """Asks for an association, slowly."""
        return cls(_connect(scp, number), iter(_REQUEST), time.monotonic())

    @classmethod
    def storing(cls, scp: Scp, number: int, instance: Instance) -> "Pest":
        """Has an association, and sends an instance, slowly."""
        with Client(scp, source=_address(number)) as client:
            sock = client.detach()
        message = p_data(store_command("1.2.840.10008.5.1.4.1.1.4", instance.SOPInstanceUID), control=3) + instance.data
        return cls(sock, iter(message), time.monotonic())

    def pester(self) -> None:
        """Send the next byte, if there is one."""
        byte = next(self.rest, None)
        if byte is not None:
            self.sock.sendall(bytes([byte]))


def endure(pests: list[Pest], *, patience: float, meanwhile: Callable[[], None]) -> list[float]:
    """Keep them going until the archive has closed them all; after how many seconds it closed each.

    Those that it has not closed when the patience is over are closed here, and are not in the answer.
    """
    lifetimes: list[float] = []
    deadline = time.monotonic() + patience
    next_bytes = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for pest in pests:
            selector.register(pest.sock, selectors.EVENT_READ, pest)
        while selector.get_map() and time.monotonic() < deadline:
            due = time.monotonic() >= next_bytes
            next_bytes += _BETWEEN_BYTES * due
            for pest in [key.data for key, _ in selector.select(_POLL)]:
                if _has_ended(pest.sock):
                    lifetimes.append(time.monotonic() - pest.opened)
                    _drop(selector, pest)
            if due:
                meanwhile()
                for pest in [key.data for key in selector.get_map().values()]:
                    _pester(selector, pest, lifetimes)
        for pest in [key.data for key in selector.get_map().values()]:
            _drop(selector, pest)
    return lifetimes


def _pester(selector: selectors.BaseSelector, pest: Pest, lifetimes: list[float]) -> None:
    try:
        pest.pester()
    except OSError:
        lifetimes.append(time.monotonic() - pest.opened)
        _drop(selector, pest)


def _has_ended(sock: socket.socket) -> bool:
    """Whether the archive has closed it; what it says before, an A-ABORT, is read past."""
    try:
        return not sock.recv(4096)
    except OSError:
        return True


def _drop(selector: selectors.BaseSelector, pest: Pest) -> None:
    selector.unregister(pest.sock)
    pest.sock.close()


def _connect(scp: Scp, number: int) -> socket.socket:
    return socket.create_connection((scp.host, scp.port), timeout=30, source_address=(_address(number), 0))


def _address(number: int) -> str:
    """An address of this machine's that no more than some others call from: an archive may limit each."""
    return f"127.0.0.{2 + number // _PER_ADDRESS}"
