"""Notes that are written behind everybody's back: whoever makes one never waits for the database, and never fails with it."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog

from pacs_core.errors import PacsError

log = structlog.get_logger(__name__)

T = TypeVar("T")

_LIMIT = 10_000
_PAUSE = 1.0  # seconds for notes to gather, and before what could not be written is tried again
_CLOSING = 3.0  # seconds


class Behind(Generic[T]):
    """Thread-safe. To be closed. Its thread begins with the first note.

    Notes are lost where more than `limit` wait (the oldest), and where they cannot be written when it is closed.

    Args:
        write: takes notes, in the order in which they were made. What it raises as retryable is tried again.
        name: of the notes, for the log.
    """

    def __init__(self, write: Callable[[Sequence[T]], None], *, name: str, limit: int = _LIMIT, pause: float = _PAUSE) -> None:
        self._write = write
        self._name = name
        self._pause = pause
        self._notes: deque[T] = deque(maxlen=limit)
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def note(self, note: T) -> None:
        """Returns at once."""
        with self._changed:
            if self._closed:
                return
            self._notes.append(note)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Write what waits, within a few seconds, then no more. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSING)

    def _run(self) -> None:
        deadline = float("inf")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, self._pause)
                closed, notes = self._closed, tuple(self._notes)
                self._notes.clear()
            deadline = min(deadline, time.monotonic() + _CLOSING) if closed else deadline
            if notes and not self._written(notes):
                self._put_back(notes)
            elif closed:
                return
            if time.monotonic() >= deadline:
                return

    def _written(self, notes: Sequence[T]) -> bool:
        """Whether no more is to be done about them."""
        try:
            self._write(notes)
        except PacsError as exc:
            (log.debug if exc.retryable else log.warning)("notes_not_written", notes=self._name, count=len(notes), reason=str(exc))
            return not exc.retryable
        except Exception:  # a process boundary: nothing else would ever tell
            log.exception("notes_lost", notes=self._name, count=len(notes))
        return True

    def _put_back(self, notes: Sequence[T]) -> None:
        with self._changed:
            room = (self._notes.maxlen or 0) - len(self._notes)
            self._notes.extendleft(reversed(notes[max(len(notes) - room, 0) :]))
            if self._closed:
                self._changed.wait(0.1)  # nobody else wakes us: not to spin until the deadline
