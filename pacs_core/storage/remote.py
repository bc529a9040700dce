"""What differs between the file systems behind fsspec: their errors, and their caches."""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from typing_extensions import Buffer

from pacs_core.errors import ObjectMissing
from pacs_core.storage.files import unavailable


def foreign_errors(protocol: str) -> tuple[type[Exception], ...]:
    """What the file system of a protocol raises besides OSError. Loads its client library."""
    if protocol in ("s3", "s3a"):
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]  # botocore ships no types

        return (BotoCoreError, ClientError)
    if protocol in ("az", "abfs", "adl"):
        from azure.core.exceptions import AzureError

        return (AzureError,)
    return ()


class Translator:
    """Turns what a file system raises into the errors of this product."""

    def __init__(self, protocol: str) -> None:
        self._foreign = foreign_errors(protocol)

    @contextmanager
    def __call__(self, doing: str) -> Iterator[None]:
        """ObjectMissing for what does not exist, StorageFull, StorageUnavailable for all else."""
        try:
            yield
        except FileNotFoundError as exc:
            raise ObjectMissing(f"there is no such object: {doing}") from exc
        except OSError as exc:
            raise unavailable(exc, doing) from exc
        except self._foreign as exc:
            raise unavailable(OSError(errno.EIO, type(exc).__name__), doing) from exc


class ObjectReader(io.RawIOBase):
    """A file of fsspec whose errors are translated."""

    def __init__(self, file: IO[bytes], translated: Translator, name: str) -> None:
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
        view = memoryview(buffer).cast("B")
        with self._translated(self._doing):
            data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)

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
