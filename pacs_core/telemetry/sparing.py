"""Events that anybody can cause at any rate, kept from filling the log."""

import threading
import time
from collections.abc import Callable


class Sparing:
    """Lets one event through in an interval. Thread-safe.

    Args:
        interval: seconds.
        clock: tells the time in seconds.
    """

    def __init__(self, interval: float = 10, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._lock = threading.Lock()
        self._due = float("-inf")
        self._unlogged = 0

    def admit(self) -> int | None:
        """How many events were held back since the last that was let through; None if this one is held back too."""
        with self._lock:
            now = self._clock()
            if now < self._due:
                self._unlogged += 1
                return None
            unlogged, self._unlogged, self._due = self._unlogged, 0, now + self._interval
            return unlogged
