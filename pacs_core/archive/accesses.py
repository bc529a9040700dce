"""When studies were last retrieved, for rules that go by it. Written behind everybody's back, and at most once a minute for a study."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from pacs_core.errors import PacsError
from pacs_core.model import UID
from pacs_core.ports import StudyAccesses

log = structlog.get_logger(__name__)

_INTERVAL = 60.0  # seconds
_REMEMBERED = 10_000  # studies


class AccessLog:
    """Thread-safe. What cannot be written is lost: a rule goes by days. To be closed.

    Args:
        accesses: where they are written.
        interval: seconds in which a study is written once at most.
    """

    def __init__(self, accesses: StudyAccesses, *, interval: float = _INTERVAL, now: Callable[[], float] = time.monotonic) -> None:
        self._accesses = accesses
        self._interval = interval
        self._now = now
        self._noted: dict[UID, float] = {}
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, "accesses")  # its thread begins with the first study

    def note(self, studies: Iterable[UID]) -> None:
        """They are being retrieved. Returns at once."""
        now = self._now()
        with self._lock:
            fresh = [study for study in studies if now - self._noted.get(study, float("-inf")) >= self._interval]
            if not fresh:
                return
            if len(self._noted) + len(fresh) > _REMEMBERED:
                self._noted = {study: at for study, at in self._noted.items() if now - at < self._interval}
            self._noted.update(dict.fromkeys(fresh, now))
        try:
            self._writer.submit(self._write, fresh)
        except RuntimeError:  # it has been closed
            return

    def close(self) -> None:
        """Write what has been noted, then no more."""
        self._writer.shutdown(wait=True)

    def _write(self, studies: Sequence[UID]) -> None:
        try:
            self._accesses.record(studies)
        except PacsError as exc:
            log.debug("accesses_not_recorded", studies=len(studies), reason=str(exc))
