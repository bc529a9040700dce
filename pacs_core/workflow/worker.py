"""A thread that does what is due: again at once while there is something to do, else when it is told, or after a few seconds."""

import threading
from collections.abc import Callable

import structlog

from pacs_core.errors import PacsError

log = structlog.get_logger(__name__)

_LOOK_AGAIN = 5.0  # seconds, where nobody says that there is something to do
_CLOSING = 2.0  # seconds


class Worker:
    """To be closed. Whatever its work raises is logged, and the work is tried again.

    What it was at when it is closed is taken up by another process, later: work is claimed for a time, and may be done once more.

    Args:
        work: does what is due, a bounded amount of it; whether there was anything.
        name: of the thread, for the log.
    """

    def __init__(self, work: Callable[[], bool], *, name: str) -> None:
        self._work = work
        self._name = name
        self._stopping = threading.Event()
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_stopping(self) -> bool:
        """Whether it is closed: long work looks, and stops early."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def hasten(self) -> None:
        """Something is due now. Returns at once; any thread."""
        self._due.set()

    def close(self) -> None:
        """Work no more. What is at work is waited for, two seconds at most. Idempotent."""
        self._stopping.set()
        self._due.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSING)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._due.clear()
            if not self._worked():
                self._due.wait(_LOOK_AGAIN)

    def _worked(self) -> bool:
        try:
            return self._work()
        except PacsError as exc:
            log.debug("work_put_off", worker=self._name, reason=str(exc))
        except Exception:  # a process boundary: nothing else would ever tell
            log.exception("work_failed", worker=self._name)
        return False
