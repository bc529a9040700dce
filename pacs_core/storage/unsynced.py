"""Which objects the kernel has failed to write. It says so once, and drops the pages or calls them clean: a second sync would succeed.

A mark says so to every process, for as long as the object has its name. It need not be durable: after a crash of the machine the
content itself tells, as nothing of it is left in memory.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


class UnsyncedMarks:
    """Thread-safe. What cannot be marked, on a disk that takes nothing any more, this process remembers.

    Args:
        directory: of the marks, named by the digests of the objects' paths. It is not there where there has never been one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._remembered: set[str] = set()

    def add(self, path: str) -> None:
        """A sync of an object has failed."""
        self._remembered.add(path)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._of(path).touch()
        except OSError as exc:
            log.exception("unsynced_object_not_marked", path=path, error=exc.strerror)
        else:
            self._remembered.discard(path)

    def among(self, paths: Sequence[str]) -> frozenset[str]:
        """Those of which a sync has failed."""
        if not self._remembered and not self._directory.is_dir():
            return frozenset()
        return frozenset(path for path in paths if path in self._remembered or self._of(path).exists())

    def clear(self, path: str) -> None:
        """What has the name by now is another file."""
        self._remembered.discard(path)
        with suppress(OSError):  # a mark that stays costs a needless writing
            self._of(path).unlink(missing_ok=True)

    def _of(self, path: str) -> Path:
        return self._directory / hashlib.sha256(path.encode()).hexdigest()
