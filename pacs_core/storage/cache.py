"""Local copies of remote objects: bounded, shared by all processes of a home, worthless.

An object is a file named by its SHA-256. It gets that name when it is whole, and keeps it until room is needed: the one unused for
longest goes first. Readers hold descriptors, so nothing is taken from under them. `.used` counts the bytes, under a lock that is held
while an object gets its name: the bound holds across processes. After a crash the count is too high at worst, and is taken anew
before anything is removed.

Nothing is synced. A file that the machine's crash has left may hold anything; whoever is given one is told that it is not fresh.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from pacs_core.errors import ChecksumMismatch, StorageFull
from pacs_core.storage.files import abandoned, make_directories, translated, try_lock, unique_name

log = structlog.get_logger(__name__)

_SHARE = 10  # never more than a tenth of the file system
_RESERVE_SHARE = 20  # nothing is kept where less than a twentieth of the file system is free
_FILLED_TO = 0.9  # of the bound, after room was made: so that not every object has to make some
_LOCKS, _PARTS = ".lock", ".part"
_MODE = 0o640
_POLL = 0.02  # seconds


class ObjectCache:
    """ports.ObjectCache in a directory.

    Args:
        directory: made when it is first used.
        limit: bytes that are kept, 0 for none.
        patience: seconds to wait for another process that fetches the same object; after that it is fetched twice.
    """

    def __init__(self, directory: Path, *, limit: int, patience: float = 30.0) -> None:
        self._directory = directory
        self._fetching = directory / ".fetching"
        self._limit = limit
        self._patience = patience
        self._prepared = False

    def open(self, sha256: str, size: int, fetch: Callable[[Path], None]) -> tuple[int, bool]:
        """A descriptor of an object, and whether it was fetched for it; see ports.ObjectCache."""
        with translated("reading through the cache"):
            if (held := self._held(sha256, size)) is not None:
                return held, False
            self._prepare()
            with self._turn(sha256) as part:
                if (held := self._held(sha256, size)) is not None:  # whoever had its turn before has fetched it
                    return held, False
                try:
                    return self._fetch(part, sha256, size, fetch), True
                finally:
                    part.unlink(missing_ok=True)

    def discard(self, sha256: str) -> None:
        """Forget an object that was found damaged. Idempotent."""
        with translated("removing a cached object"):
            self._file(sha256).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what processes that died while they fetched have left; returns how many objects."""
        if not self._fetching.is_dir():
            return 0
        removed = 0
        with translated("sweeping the cache"):
            for lock in self._fetching.glob(f"*{_LOCKS}"):
                with abandoned(lock) as dead:
                    if dead:
                        lock.with_suffix(_PARTS).unlink(missing_ok=True)
                        lock.unlink()
                        removed += 1
        return removed

    def _prepare(self) -> None:
        make_directories(self._fetching)  # also where somebody has removed the cache while this runs, as they may
        if not self._prepared:
            self.sweep()
            self._prepared = True

    def _file(self, sha256: str) -> Path:
        return self._directory / sha256[:2] / sha256

    def _held(self, sha256: str, size: int) -> int | None:
        """A descriptor, if the object is here and as long as it should be."""
        path = self._file(sha256)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if os.fstat(descriptor).st_size != size:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # used now: it will be among the last to go
            os.utime(descriptor)
        return descriptor

    @contextmanager
    def _turn(self, sha256: str) -> Iterator[Path]:
        """Wait until nobody else fetches this object; the name to fetch it to, which nothing has."""
        deadline = time.monotonic() + self._patience
        lock = self._fetching / f"{sha256}{_LOCKS}"
        while (descriptor := _locked(lock)) is None:
            if time.monotonic() > deadline:
                lock = self._fetching / f"{unique_name()}{_LOCKS}"
            else:
                time.sleep(_POLL)
        part = lock.with_suffix(_PARTS)
        try:
            part.unlink(missing_ok=True)
            yield part
        finally:
            lock.unlink(missing_ok=True)
            os.close(descriptor)

    def _fetch(self, part: Path, sha256: str, size: int, fetch: Callable[[Path], None]) -> int:
        try:
            fetch(part)
        except StorageFull:
            # Everything here can be had again, and what is asked for cannot wait.
            part.unlink(missing_ok=True)
            with self._counting() as count:
                _write_used(count, self._shrink(0))
            fetch(part)
        descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if (length := os.fstat(descriptor).st_size) != size:
                raise ChecksumMismatch(f"{length} bytes were fetched, and {size} were stored")
            self._keep(part, sha256, size)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _keep(self, part: Path, sha256: str, size: int) -> None:
        """Give a fetched object its name, if there is room for it. Where that fails it is served all the same."""
        bound = self._bound()
        if size > bound:
            return
        try:
            with self._counting() as count:
                used = self._used(count)
                if used + size > bound:
                    used = self._shrink(max(0, int(bound * _FILLED_TO) - size))
                _write_used(count, used + size)
                target = self._file(sha256)
                target.parent.mkdir(exist_ok=True)
                part.rename(target)
        except OSError as exc:
            log.warning("object_not_cached", reason=exc.strerror)

    def _bound(self) -> int:
        """What may be kept now."""
        status = os.statvfs(self._fetching)
        if status.f_bavail < status.f_blocks // _RESERVE_SHARE:
            return 0
        return min(self._limit, status.f_blocks * status.f_frsize // _SHARE)

    @contextmanager
    def _counting(self) -> Iterator[int]:
        """The descriptor of the count, while nobody else has it."""
        descriptor = os.open(self._directory / ".used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _used(self, count: int) -> int:
        text = os.pread(count, 32, 0).strip()
        return int(text) if text.isdigit() else self._shrink(1 << 63)

    def _shrink(self, target: int) -> int:
        """Remove what was unused for longest until no more than this is left; returns what is."""
        files: list[tuple[int, int, str]] = []
        for folder in os.scandir(self._directory):
            if folder.is_dir() and not folder.name.startswith("."):
                for entry in os.scandir(folder):
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        files.append((status.st_mtime_ns, status.st_size, entry.path))
        left = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if left <= target:
                break
            Path(path).unlink(missing_ok=True)
            left -= size
        return left


def _write_used(count: int, used: int) -> None:
    os.pwrite(count, f"{used:<31}\n".encode(), 0)


def _locked(path: Path) -> int | None:
    """The descriptor that holds a file's lock; None where another holds it. The file is made if there is none."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        if not try_lock(descriptor):
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # it was removed by whoever had it before
