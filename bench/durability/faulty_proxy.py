"""A TCP proxy that breaks: for one connection, at one byte."""

import random
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from tests.support.dcmtk import Scp

_BLOCK = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection
_PATIENCE = 120.0  # seconds; longer than any archive should hold a silent connection


class Break(StrEnum):
    """How a connection ends."""

    CLOSE = "close"  # in order, as if the other side had hung up
    RESET = "reset"
    STALL = "stall"  # nothing is passed on any more, and nobody is told


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to a connection.

    Attributes:
        kind: how it breaks.
        at: after so many bytes.
        to_archive: of those that go to the archive, else of those that come from it.
    """

    kind: Break
    at: int
    to_archive: bool

    @classmethod
    def choose(cls, rng: random.Random, *, to_archive: int, from_archive: int) -> "Plan":
        """A random plan for a conversation of so many bytes each way."""
        forth = rng.random() < 0.85
        return cls(rng.choice(list(Break)), rng.randrange(to_archive if forth else from_archive), forth)


class FaultyProxy:
    """Between one client and the archive, for the length of a `with` block.

    Attributes:
        scp: what the client is to call.
    """

    def __init__(self, archive: Scp, plan: Plan) -> None:
        self._archive, self._plan = archive, plan
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.scp = Scp(self._listening.getsockname()[1], archive.ae_title)
        self._thread = threading.Thread(target=self._run, name="faulty-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """The client has ended. A stalled connection to the archive stays until the archive gives it up."""
        self._listening.close()

    def _run(self) -> None:
        try:
            client, _ = self._listening.accept()
        except OSError:  # the client never came
            return
        with client, socket.create_connection((self._archive.host, self._archive.port), timeout=30) as server:
            if self._passed_on(client, server):
                return
            if self._plan.kind is Break.STALL:
                _hold(server)
            elif self._plan.kind is Break.RESET:
                for sock in (client, server):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _passed_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Pass bytes on until the plan's, which is False, or until a side ends."""
        left = self._plan.at
        other = {client: server, server: client}
        counted = client if self._plan.to_archive else server
        while True:
            for source in select.select([client, server], [], [])[0]:
                size = min(left, _BLOCK) if source is counted else _BLOCK
                if not size:
                    return False
                try:
                    data = source.recv(size)
                    other[source].sendall(data)
                except OSError:
                    return True
                if not data:
                    return True
                left -= len(data) if source is counted else 0


def _hold(server: socket.socket) -> None:
    """Keep a connection open and silent until the other side ends it. What it sends before that is read and dropped."""
    deadline = time.monotonic() + _PATIENCE
    while (left := deadline - time.monotonic()) > 0:
        server.settimeout(left)
        try:
            if not server.recv(_BLOCK):
                return
        except OSError:
            return
