"""Data sets of local DICOM files: descriptors, where in them the data sets lie, and whether they are what was stored."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pacs_core.dicom.file_meta import data_set_offset, read_file_meta
from pacs_core.errors import ChecksumMismatch, ObjectMissing, StorageUnavailable

_HEAD = 4096  # bytes; the file meta that this archive writes takes a tenth of it
_WHOLE = 1 << 20  # bytes up to which an object is read, hashed and sent from memory; most CT and MR images are smaller
_BLOCK = 1 << 20
_REMEMBERED = 50_000  # files
_SETTLED = 1.0  # seconds


class Hashed:
    """Which files a process has hashed a short while ago, and found right. Thread-safe.

    Hashing takes as long as a quarter of sending. As long as a file is the same to the kernel, its bytes are those that were hashed, but
    for what a disk does to them behind the kernel's back; so after some minutes it is hashed again.

    Args:
        seconds: for how long a file is vouched for.
        now: seconds since 1970.
    """

    def __init__(self, *, seconds: float = 600, now: Callable[[], float] = time.time) -> None:
        self._seconds = seconds
        self._now = now
        self._known: dict[str, tuple[tuple[int, ...], float]] = {}

    def vouches(self, sha256: str, status: os.stat_result) -> bool:
        """Whether this file hashed to that, and has not been touched since."""
        identity, until = self._known.get(sha256, ((), 0.0))
        return identity == _identity(status) and 0 <= until - self._now() <= self._seconds

    def add(self, sha256: str, status: os.stat_result) -> None:
        """A file hashes to that. One that changed a moment ago is not remembered: the clock could miss that it changes again."""
        now = self._now()
        if now - max(status.st_ctime, status.st_mtime) < _SETTLED:
            return
        if len(self._known) >= _REMEMBERED:
            self._known = {}  # rarer than it is worth to choose
        self._known[sha256] = _identity(status), now + self._seconds


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class StoredDataSet:
    """The data set of a DICOM file, read from the descriptor that found it. To be closed. Belongs to one thread at a time.

    Attributes:
        path: what the file is called, for messages.
        size: bytes of the data set.
    """

    __slots__ = ("_descriptor", "_offset", "path", "size")

    def __init__(self, path: Path, descriptor: int, *, offset: int, size: int) -> None:
        self.path = path
        self.size = size
        self._descriptor = descriptor
        self._offset = offset

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def location(self) -> Path:
        """The file under a name that is good until this is closed, also where `path` has been removed since."""
        return Path(f"/proc/self/fd/{self._descriptor}")

    def read_into(self, buffers: Sequence[memoryview], position: int) -> None:
        """Fill the buffers with the data set's bytes from a position on. OSError if they cannot all be read.

        ChecksumMismatch, before the last byte is given out, where it is known what they should hash to and they do not.
        """
        read = os.preadv(self._descriptor, buffers, self._offset + position)
        if read != sum(map(len, buffers)):
            raise OSError(f"{self.path.name} is shorter than it was")

    def check(self) -> None:
        """ChecksumMismatch where it is known what the file should hash to and it does not. OSError."""

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _InMemory(StoredDataSet):
    """One whose bytes were read and hashed when it was opened: what is given out is what was hashed."""

    __slots__ = ("_content",)

    def __init__(self, path: Path, descriptor: int, content: bytes, *, offset: int) -> None:
        super().__init__(path, descriptor, offset=offset, size=len(content) - offset)
        self._content = memoryview(content)

    def read_into(self, buffers: Sequence[memoryview], position: int) -> None:
        _scatter(self._content[self._offset + position :], buffers, self.path)


class _HashedOnTheWay(StoredDataSet):
    """One that is hashed as it is read. Whoever asks for the last byte gets it once everything has been hashed, if it is right."""

    __slots__ = ("_digest", "_end", "_hashed", "_sha256", "_told")

    def __init__(self, path: Path, descriptor: int, *, offset: int, end: int, sha256: str, told: Callable[[bool], None]) -> None:
        super().__init__(path, descriptor, offset=offset, size=end - offset)
        self._digest, self._hashed, self._end = hashlib.sha256(), 0, end
        self._sha256 = sha256
        self._told = told

    def read_into(self, buffers: Sequence[memoryview], position: int) -> None:
        begin, count = self._offset + position, sum(map(len, buffers))
        self._hash_to(begin)
        # Hashed from one piece: each call that leaves the GIL may wait long to have it back.
        data = self._read(begin, count)
        self._add(data, begin)
        if begin + count >= self._end:
            self._compare()
        _scatter(memoryview(data), buffers, self.path)

    def check(self) -> None:
        self._hash_to(self._end)
        self._compare()

    def _hash_to(self, end: int) -> None:
        while self._hashed < end:
            self._add(self._read(self._hashed, min(_BLOCK, end - self._hashed)), self._hashed)

    def _read(self, begin: int, count: int) -> bytes:
        return _read(self._descriptor, begin, count, self.path)

    def _add(self, data: bytes, begin: int) -> None:
        if begin == self._hashed:
            self._digest.update(data)
            self._hashed += len(data)

    def _compare(self) -> None:
        is_right = self._digest.hexdigest() == self._sha256
        self._told(is_right)
        if not is_right:
            raise ChecksumMismatch(f"{self.path.name} does not hash to what was stored")


def _scatter(data: memoryview, buffers: Sequence[memoryview], path: Path) -> None:
    position = 0
    for buffer in buffers:
        if len(part := data[position : position + len(buffer)]) != len(buffer):
            raise OSError(f"{path.name} is shorter than it was")
        buffer[:] = part
        position += len(buffer)


def _read(descriptor: int, begin: int, count: int, path: Path) -> bytes:
    """So many bytes. OSError if there are less."""
    data = os.pread(descriptor, count, begin)
    while len(data) < count:  # at most 2 GiB come at once, and a network file system may give out less
        if not (more := os.pread(descriptor, count - len(data), begin + len(data))):
            raise OSError(f"{path.name} is shorter than it was")
        data += more
    return data


def _ignore() -> None:
    """Nobody wants to know."""


def open_data_set(
    path: Path, *, size: int | None = None, sha256: str = "", hashed: Hashed | None = None, damaged: Callable[[], None] = _ignore
) -> StoredDataSet:
    """The data set of a DICOM file.

    Args:
        path: the file.
        size: its length in bytes, where that is known.
        sha256: what all of it should hash to, where that is to be checked: of a small file now, of a large one while it is read.
        hashed: vouches for what was hashed before.
        damaged: called when a large file turns out not to.

    Raises:
        ObjectMissing: there is no such file.
        StorageUnavailable: it cannot be read.
        ChecksumMismatch: it has another length, or other bytes.
        UnreadableDataSet: there is no data set in it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise ObjectMissing(f"{path.name} is not where it was stored") from exc
    except OSError as exc:
        raise StorageUnavailable(f"{path.name} cannot be read: {exc.strerror}") from exc
    return data_set_of(path, descriptor, size=size, sha256=sha256, hashed=hashed, damaged=damaged)


def data_set_of(
    path: Path,
    descriptor: int,
    *,
    size: int | None = None,
    sha256: str = "",
    hashed: Hashed | None = None,
    damaged: Callable[[], None] = _ignore,
) -> StoredDataSet:
    """As `open_data_set`, of a file that is open. The descriptor is closed with the data set, and where this fails."""
    try:
        status = os.fstat(descriptor)
        if size is not None and status.st_size != size:
            raise ChecksumMismatch(f"{path.name} has {status.st_size} bytes, and {size} were stored")
        if not sha256 or (hashed is not None and hashed.vouches(sha256, status)):
            offset = _offset(descriptor, os.pread(descriptor, _HEAD, 0))
            return StoredDataSet(path, descriptor, offset=offset, size=status.st_size - offset)

        def told(is_right: bool) -> None:
            if not is_right:
                damaged()
            elif hashed is not None:
                hashed.add(sha256, status)

        return _checked(path, descriptor, status.st_size, sha256, told)
    except BaseException as exc:
        os.close(descriptor)
        if isinstance(exc, OSError):
            raise StorageUnavailable(f"{path.name} cannot be read: {exc.strerror or exc}") from exc
        raise


def _checked(path: Path, descriptor: int, length: int, sha256: str, told: Callable[[bool], None]) -> StoredDataSet:
    if length > _WHOLE:
        offset = _offset(descriptor, os.pread(descriptor, _HEAD, 0))
        return _HashedOnTheWay(path, descriptor, offset=offset, end=length, sha256=sha256, told=told)
    content = _read(descriptor, 0, length, path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ChecksumMismatch(f"{path.name} does not hash to what was stored")
    told(True)
    return _InMemory(path, descriptor, content, offset=_offset(descriptor, content[:_HEAD]))


def _offset(descriptor: int, head: bytes) -> int:
    offset = data_set_offset(head)
    if offset is None:
        with open(descriptor, "rb", closefd=False) as file:
            offset = read_file_meta(file).data_offset
    return offset
