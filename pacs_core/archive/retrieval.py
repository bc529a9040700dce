"""Stored instances, ready to be read: as a local file, and where in it the data set begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pacs_core.dicom.file_meta import read_file_meta
from pacs_core.errors import ObjectMissing, StorageUnavailable
from pacs_core.model import StoredObject
from pacs_core.ports import ObjectStore


@dataclass(frozen=True, slots=True)
class DataSetFile:
    """A local file and the offset in bytes at which its data set begins."""

    path: Path
    offset: int


class Retrieval:
    """Gives access to instances on any tier. Thread-safe.

    Args:
        stores: the tiers by name.
    """

    def __init__(self, stores: Mapping[str, ObjectStore]) -> None:
        self._stores = stores

    def open(self, instance: StoredObject) -> DataSetFile:
        """The instance as a local file. ObjectMissing or StorageUnavailable if it cannot be had."""
        store = self._stores.get(instance.tier)
        if store is None:
            raise StorageUnavailable(f"tier {instance.tier} is not configured")
        path = store.local_path(instance.path)
        if path is None:
            raise StorageUnavailable(f"tier {instance.tier} is remote and cannot be retrieved from yet")
        return data_set_file(path)


def data_set_file(path: Path) -> DataSetFile:
    """A DICOM file's data set. ObjectMissing if there is no such file."""
    try:
        with path.open("rb") as file:
            return DataSetFile(path, read_file_meta(file).data_offset)
    except FileNotFoundError as exc:
        raise ObjectMissing(f"{path.name} is indexed but not on its tier") from exc
    except OSError as exc:
        raise StorageUnavailable(f"{path.name} cannot be read: {exc.strerror}") from exc
