"""Images that are to be printed, from their arrival until their job is rendered.

<spool>/sessions/<name>/   of an association, gone with it
<spool>/jobs/<uid>/        of a job: links to the same files, synced before the job is entered in the index
"""

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import structlog
from typing_extensions import Buffer

from pacs_core.errors import PrinterFull
from pacs_core.storage import scratch
from pacs_core.storage.files import check_reserve, fsync_directory, fsync_path, make_directories, translated
from pacs_core.storage.layout import path_component
from pacs_core.storage.scratch import ScratchDirectory

log = structlog.get_logger(__name__)

_ORPHANED = 600.0  # seconds after which a job's directory is looked up: its job is entered a moment after it is made


class PrintSpool:
    """The spool of a home. Thread- and process-safe.

    Args:
        root: its directory.
        limit: bytes of all images together.
        reserve: bytes that are left free on its file system.
    """

    def __init__(self, root: Path, *, limit: int, reserve: int = 0) -> None:
        self._sessions = root / "sessions"
        self._jobs = root / "jobs"
        self._limit = limit
        self._reserve = reserve

    def open(self) -> "SessionImages":
        """For the images of an association. To be closed. StorageFull, StorageUnavailable."""
        return SessionImages(ScratchDirectory(self._sessions), self.check_room, self._job)

    def check_room(self, size: int) -> None:
        """PrinterFull where so many bytes more would be too many; StorageFull where the file system has no room."""
        with translated("looking for room in the print spool"):
            check_reserve(self._sessions, self._reserve)
            used = sum((_sizes(self._sessions) | _sizes(self._jobs)).values())
        if used + size > self._limit:
            raise PrinterFull("the print spool is full")

    def file(self, job: str, name: str) -> Path:
        """An image of a job."""
        return self._job(job) / name

    def forget(self, job: str) -> None:
        """Remove the images of a job. Idempotent; never raises."""
        shutil.rmtree(self._job(job), ignore_errors=True)

    def sweep(self, pending: Callable[[], Collection[str]]) -> int:
        """Remove what killed processes have left, and the images of jobs that are not pending; how many directories."""
        found = [path for path in self._jobs.glob("*") if _is_old(path)]
        known = set(map(path_component, pending())) if found else ()
        orphans = [path for path in found if path.name not in known]
        for path in orphans:
            shutil.rmtree(path, ignore_errors=True)
        return len(orphans) + scratch.sweep(self._sessions)

    def _job(self, uid: str) -> Path:
        return self._jobs / path_component(uid)


class SessionImages:
    """The images of one association. Belongs to one thread. To be closed."""

    def __init__(self, directory: ScratchDirectory, check_room: Callable[[int], None], job: Callable[[str], Path]) -> None:
        self._directory = directory
        self._check_room = check_room
        self._job = job
        self._numbers = itertools.count(1)

    @contextmanager
    def message(self) -> Iterator[BinaryIO]:
        """A file without a name, for a message on its way to becoming an image."""
        with translated("spooling an image to be printed"), tempfile.TemporaryFile(dir=self._directory.path) as file:
            yield file

    def add(self, data: Buffer) -> str:
        """Keep the pixels of an image; its name. PrinterFull, StorageFull, StorageUnavailable."""
        with memoryview(data) as view:
            self._check_room(view.nbytes)
        path = self._directory.path / f"{next(self._numbers)}.pixels"
        with translated("spooling an image to be printed"):
            try:
                path.write_bytes(data)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        return path.name

    def retain(self, names: Collection[str]) -> None:
        """Remove all but these. Never raises: what cannot be removed goes with the association."""
        with suppress(OSError):
            for path in self._directory.path.iterdir():
                if path.name not in names:
                    path.unlink()

    def hand_over(self, job: str, names: Collection[str]) -> None:
        """Make these the images of a new job, durably. StorageFull, StorageUnavailable."""
        target = self._job(job)
        with translated("handing images over to be printed"):
            make_directories(target)
            for name in names:
                os.link(self._directory.path / name, target / name)
                fsync_path(target / name)
            fsync_directory(target)

    def close(self) -> None:
        """Remove them all; those that were handed over stay with their jobs. Idempotent; never raises."""
        self._directory.close()


def _sizes(root: Path) -> dict[int, int]:
    """The sizes of the files in the directories of a directory, by their number: two names of one file are one file."""
    return {status.st_ino: status.st_size for folder in _entries(root) for entry in _entries(folder) if (status := _status(Path(entry)))}


def _entries(folder: "Path | os.DirEntry[str]") -> "list[os.DirEntry[str]]":
    """None of a folder that has just been removed, or of what is none."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_old(path: Path) -> bool:
    status = _status(path)
    return status is not None and time.time() - status.st_mtime > _ORPHANED


def _status(path: Path) -> os.stat_result | None:
    """None for what has just been removed."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
