"""Directories for work in progress, which end with their process: the next sweep removes what a killed one leaves."""

import os
import shutil
from pathlib import Path

import structlog

from pacs_core.storage.files import abandoned, create_locked, make_directories, translated

log = structlog.get_logger(__name__)

_LOCK = ".lock"


class ScratchDirectory:
    """A new, empty directory below another one. To be closed.

    Attributes:
        path: where it is.
    """

    def __init__(self, root: Path) -> None:
        """StorageFull, StorageUnavailable."""
        with translated(f"making a directory in {root}"):
            make_directories(root)
            self._lock, self._descriptor = create_locked(root, suffix=_LOCK, flags=os.O_RDWR, mode=0o640)
            self.path = self._lock.with_suffix("")
            self.path.mkdir()

    def close(self) -> None:
        """Remove it with all that is left in it. Idempotent; never raises."""
        if self._descriptor >= 0:
            _remove(self._lock)
            os.close(self._descriptor)
            self._descriptor = -1


def sweep(root: Path) -> int:
    """Remove the directories of processes that are gone; how many."""
    return sum(map(_remove_if_abandoned, sorted(root.glob(f"*{_LOCK}"))))


def _remove_if_abandoned(lock: Path) -> bool:
    try:
        with abandoned(lock) as is_abandoned:
            if is_abandoned:
                _remove(lock)
            return is_abandoned
    except OSError as exc:
        log.warning("scratch_not_swept", path=str(lock), error=exc.strerror)
        return False


def _remove(lock: Path) -> None:
    """The lock goes last: a directory without one would never be found."""
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink(missing_ok=True)
