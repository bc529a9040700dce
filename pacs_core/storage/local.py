"""Objects on a local file system, written as durably as those that land."""

import hashlib
import os
import threading
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from pacs_core.errors import PacsError, StorageUnavailable
from pacs_core.model import Availability
from pacs_core.storage.files import create_locked, fsync_directory, make_directories, remove_abandoned, write_all
from pacs_core.storage.landing import INCOMING, OBJECT_MODE
from pacs_core.storage.transfers import CHUNK, Source

_KNOWN_DIRECTORIES = 10_000


class LocalObjects:
    """remote.Objects below a directory, which is made when something is put there.

    A file is written below `.incoming`, locked by its writer; what dead writers left is removed when a process first puts something.
    Nothing removes directories: another writer may be about to put something there.
    """

    foreign: tuple[type[Exception], ...] = ()

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / INCOMING
        self._durable: set[Path] = set()  # directories whose own name this process knows to be durable
        self._lock = threading.Lock()

    def explain(self, exc: Exception, doing: str) -> PacsError:
        """See remote.Objects."""
        return StorageUnavailable(f"storage failed while {doing}: {type(exc).__name__}")

    def open(self, key: str) -> FileIO:
        """See remote.Objects."""
        return FileIO(key)

    def read(self, key: str) -> Iterator[bytes]:
        """See remote.Objects."""
        with self.open(key) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def put(self, key: str, source: Source) -> None:
        """See remote.Objects."""
        target = Path(key)
        try:
            self._put(target, source)
        except FileNotFoundError as exc:  # never the object that is missing: it is being made
            with self._lock:
                self._durable.clear()  # somebody removed a directory behind our back
            raise StorageUnavailable(f"a directory was removed while {target} was written") from exc

    def _put(self, target: Path, source: Source) -> None:
        if self._incoming not in self._durable:
            self._ensure_directory(self._incoming)
            remove_abandoned(self._incoming)
        self._ensure_directory(target.parent)
        temporary, fd = create_locked(self._incoming, suffix=".part", flags=os.O_RDWR, mode=OBJECT_MODE)
        try:
            _copy(source, fd)
            os.fsync(fd)
            _read_back(fd, source, target)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        fsync_directory(target.parent)

    def exists(self, key: str) -> bool:
        """See remote.Objects."""
        return Path(key).is_file()

    def delete(self, key: str) -> None:
        """See remote.Objects."""
        path = Path(key)
        path.unlink()
        fsync_directory(path.parent)

    def list(self, root: str, prefix: str) -> Iterator[tuple[str, int]]:
        """See remote.Objects."""
        folder = Path(f"{root}/{prefix}".rpartition("/")[0])
        if folder.is_dir():
            yield from _files(folder)

    def availability(self, key: str) -> Availability:
        """See remote.Objects."""
        Path(key).stat()
        return Availability.ONLINE

    def rehydrate(self, key: str) -> None:
        """Nothing is ever archived; see remote.Objects."""
        Path(key).stat()

    def _ensure_directory(self, directory: Path) -> None:
        """Make a directory and those above it, up to the root, exist durably.

        One that another has just made may not be synced yet, so each process syncs the parent of every directory once.
        """
        if directory in self._durable:
            return
        if directory == self._root:
            make_directories(directory)
        else:
            self._ensure_directory(directory.parent)
            directory.mkdir(exist_ok=True)
            fsync_directory(directory.parent)
        with self._lock:
            if len(self._durable) >= _KNOWN_DIRECTORIES:
                self._durable.clear()
            self._durable.add(directory)


def _copy(source: Source, fd: int) -> None:
    while chunk := source.read(CHUNK):
        write_all(fd, chunk)
        source.sent(len(chunk))
    source.check()


def _read_back(fd: int, source: Source, target: Path) -> None:
    """StorageUnavailable unless the medium, and not only the kernel's cache, has what was written."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.lseek(fd, 0, os.SEEK_SET)
    digest = hashlib.sha256()
    while chunk := os.read(fd, CHUNK):
        digest.update(chunk)
    if digest.hexdigest() != source.sha256:
        raise StorageUnavailable(f"{target} was read back with other bytes than were written")


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Every file below a directory that is not hidden. One that is removed meanwhile may be left out."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            try:
                size = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
            yield entry.path, size
