"""Two ends of a connection, and a listener that offers Verification."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pacs_core.dimse.connection import Connection
from pacs_core.dimse.listener import Limits, Listener
from pacs_core.dimse.services.verification import Verification
from pacs_core.telemetry.timing import Timings
from tests.support.upper_layer import established


@pytest.fixture
def ends() -> Iterator[tuple[Connection, socket.socket]]:
    """Our connection and the peer's bare socket."""
    listening = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listening.getsockname())
    ours, _ = listening.accept()
    connection = established(ours)
    yield connection, theirs
    connection.close()
    theirs.close()
    listening.close()


@contextmanager
def running(listener: Listener) -> Iterator[int]:
    """Serve in a thread; the port."""
    listener.bind()
    thread = threading.Thread(target=listener.serve)
    thread.start()
    try:
        yield listener.port
    finally:
        listener.stop()
        thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.fixture
def echo_listener() -> Callable[..., object]:
    """A listener that answers C-ECHO, with limits to choose."""

    def start(limits: Limits, timings: Timings | None = None) -> object:
        return running(Listener(("127.0.0.1", 0), ae_title="PACS", services=[Verification()], limits=limits, timings=timings))

    return start
