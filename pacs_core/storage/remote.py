"""What the file systems behind a tier have in common: the strategy that each is, its errors, and its open files."""

import io
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol

from typing_extensions import Buffer

from pacs_core.errors import ObjectMissing, PacsError
from pacs_core.model import Availability
from pacs_core.storage.files import unavailable
from pacs_core.storage.transfers import Source


class OpenObject(Protocol):
    """What is read of an open object: the part of io.RawIOBase that is needed."""

    def readinto(self, buffer: Buffer, /) -> int:
        """Read at most as much as there is room for; 0 at the end."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """The new position."""

    def tell(self) -> int:
        """The position."""

    def close(self) -> None:
        """Release what it holds."""


class Objects(Protocol):
    """What a tier asks of the kind of file system it is on. Thread-safe.

    A key is the root of the tier, "/" and the path of an object. A method raises FileNotFoundError for an object that is not there,
    any OSError, what `foreign` says, or an error of this product.
    """

    foreign: tuple[type[Exception], ...]  # the errors of the client library

    def explain(self, exc: Exception, doing: str) -> PacsError:
        """The error of this product for one of `foreign`."""

    def open(self, key: str) -> OpenObject:
        """Read; seekable."""

    def read(self, key: str) -> Iterator[bytes]:
        """All of an object, in order."""

    def put(self, key: str, source: Source) -> None:
        """See ports.ObjectStore.put."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def delete(self, key: str) -> None:
        """Remove, durably."""

    def list(self, root: str, prefix: str) -> Iterator[tuple[str, int]]:
        """Keys below the root, those whose path begins with the prefix and perhaps others, with their sizes."""

    def availability(self, key: str) -> Availability:
        """Whether an object can be read."""

    def rehydrate(self, key: str) -> None:
        """Ask for an archived object."""


class Translator:
    """Turns what a file system raises into the errors of this product."""

    def __init__(self, foreign: tuple[type[Exception], ...], explain: Callable[[Exception, str], PacsError]) -> None:
        self._foreign = foreign
        self._explain = explain

    def __call__(self, doing: str) -> "_Translating":
        """For a `with` block: ObjectMissing for what does not exist, StorageFull, StorageUnavailable for all else."""
        return _Translating(self, doing)

    def translated(self, exc: BaseException, doing: str) -> PacsError | None:
        """What to raise instead; None for what is to pass."""
        if isinstance(exc, FileNotFoundError):
            return ObjectMissing(f"there is no such object: {doing}")
        if isinstance(exc, OSError):
            return unavailable(exc, doing)
        if isinstance(exc, self._foreign):
            return self._explain(exc, doing)
        return None


class _Translating:
    """A class of its own, no generator: every read of every object goes through one."""

    __slots__ = ("_by", "_doing")

    def __init__(self, by: Translator, doing: str) -> None:
        self._by, self._doing = by, doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        if exc is not None and (instead := self._by.translated(exc, self._doing)) is not None:
            raise instead from exc


class ObjectReader(io.RawIOBase):
    """A file of a tier whose errors are translated."""

    def __init__(self, file: OpenObject, translated: Translator, name: str) -> None:
        self._file = file
        self._translated = translated
        self._doing = f"reading {name}"

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """See io.RawIOBase."""
        with self._translated(self._doing):
            return self._file.readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See io.RawIOBase."""
        with self._translated(self._doing):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        """See io.RawIOBase."""
        return self._file.tell()

    def close(self) -> None:
        """See io.RawIOBase."""
        if not self.closed:
            super().close()
            self._file.close()
