"""Stored instances, open to be read: descriptors of local files, and where in them the data sets lie."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pacs_core.dicom.file_meta import data_set_offset, read_file_meta
from pacs_core.errors import ChecksumMismatch, ObjectMissing, StorageUnavailable
from pacs_core.model import StoredObject
from pacs_core.ports import ObjectStore

_HEAD = 4096  # bytes; the file meta that this archive writes takes a tenth of it


class StoredDataSet:
    """The data set of a DICOM file, read from the descriptor that found it. To be closed. Belongs to one thread.

    Attributes:
        path: the file.
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

    def read_into(self, buffers: Sequence[memoryview], position: int) -> None:
        """Fill the buffers with the data set's bytes from a position on. OSError if they cannot all be read."""
        read = os.preadv(self._descriptor, buffers, self._offset + position)
        if read != sum(map(len, buffers)):
            raise OSError(f"{self.path.name} is shorter than it was")

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Retrieval:
    """Gives access to instances on any tier. Thread-safe.

    Args:
        stores: the tiers by name.
    """

    def __init__(self, stores: Mapping[str, ObjectStore]) -> None:
        self._stores = stores

    def open(self, instance: StoredObject) -> StoredDataSet:
        """The instance's data set.

        ObjectMissing or StorageUnavailable if it cannot be had, ChecksumMismatch if the file is not as long as what was stored.
        """
        store = self._stores.get(instance.tier)
        if store is None:
            raise StorageUnavailable(f"tier {instance.tier} is not configured")
        path = store.local_path(instance.path)
        if path is None:
            raise StorageUnavailable(f"tier {instance.tier} is remote and cannot be retrieved from yet")
        return open_data_set(path, size=instance.size)


def open_data_set(path: Path, *, size: int | None = None) -> StoredDataSet:
    """The data set of a DICOM file of which nothing is read but its file meta.

    Args:
        path: the file.
        size: its length in bytes, where that is known.

    Raises:
        ObjectMissing: there is no such file.
        StorageUnavailable: it cannot be read.
        ChecksumMismatch: it has another length.
        UnreadableDataSet: there is no data set in it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as exc:
        raise ObjectMissing(f"{path.name} is not where it was stored") from exc
    except OSError as exc:
        raise StorageUnavailable(f"{path.name} cannot be read: {exc.strerror}") from exc
    try:
        return _located(path, descriptor, size)
    except BaseException as exc:
        os.close(descriptor)
        if isinstance(exc, OSError):
            raise StorageUnavailable(f"{path.name} cannot be read: {exc.strerror}") from exc
        raise


def _located(path: Path, descriptor: int, expected: int | None) -> StoredDataSet:
    length = os.fstat(descriptor).st_size
    if expected is not None and length != expected:
        raise ChecksumMismatch(f"{path.name} has {length} bytes, and {expected} were stored")
    offset = data_set_offset(os.pread(descriptor, _HEAD, 0))
    if offset is None:
        with open(descriptor, "rb", closefd=False) as file:
            offset = read_file_meta(file).data_offset
    return StoredDataSet(path, descriptor, offset=offset, size=length - offset)
