"""A network that changes bytes: in front of a server that the tests drive over HTTP."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit

_BLOCK = 1 << 16


class Corrupting:
    """A TCP proxy; its context is the endpoint to use instead. Where the marker passes towards the server it arrives in capitals.

    The marker must pass in one block: at the beginning of a body it does.
    """

    def __init__(self, endpoint: str, marker: bytes) -> None:
        parts = urlsplit(endpoint)
        self._server = (parts.hostname or "", parts.port or 80)
        self._path = parts.path
        self._marker = marker
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> str:
        self._run(self._accept)
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}{self._path}"

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for each in (self._socket, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._socket, *self._open):
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                self._run(self._pump, client, server)
                self._run(self._pump, server, client)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_BLOCK):
                target.sendall(data.replace(self._marker, self._marker.upper()))
            target.shutdown(socket.SHUT_WR)

    def _run(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
