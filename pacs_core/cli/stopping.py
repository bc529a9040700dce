"""SIGTERM and SIGINT for a process that serves in a thread."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

_LOOK_AGAIN = 1.0  # seconds


def serve_until_signalled(serve: Callable[[], None], stop: Callable[[], None]) -> None:
    """Run `serve` in a thread; on SIGTERM or SIGINT call `stop`, and return when `serve` has.

    The kernel may hand a signal to a thread of a native library, and Python would only look at it when the main thread next
    runs byte code, which a thread that waits in accept() does not. So the main thread waits for the byte that the interpreter
    writes on any signal, whoever got it.
    """
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    reading.settimeout(_LOOK_AGAIN)
    signal.set_wakeup_fd(writing.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    thread = threading.Thread(target=serve, name="serve")
    thread.start()
    try:
        while thread.is_alive() and not _signalled(reading):
            pass
    finally:
        stop()
        thread.join()
        signal.set_wakeup_fd(-1)
        reading.close()
        writing.close()


def leave() -> NoReturn:
    """End this process, successfully, when everything that it held is closed.

    Whoever restarts it waits for its end, and taking interpreter and libraries apart first would take longer than all the rest.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _signalled(reading: socket.socket) -> bool:
    try:
        return any(number in (signal.SIGTERM, signal.SIGINT) for number in reading.recv(64))
    except TimeoutError:
        return False
