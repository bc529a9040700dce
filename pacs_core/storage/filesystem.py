"""Objects on any file system of fsspec that has no module of its own, memory among them."""

from collections.abc import Iterator

import fsspec

from pacs_core.errors import PacsError, StorageUnavailable
from pacs_core.model import Availability
from pacs_core.storage.files import unique_name
from pacs_core.storage.landing import INCOMING
from pacs_core.storage.remote import OpenObject
from pacs_core.storage.transfers import CHUNK, Source, digest_of


class FilesystemObjects:
    """remote.Objects with what every file system of fsspec can do. How durable an object is, is the file system's affair."""

    foreign: tuple[type[Exception], ...] = ()

    def __init__(self, system: fsspec.AbstractFileSystem) -> None:
        self._system = system

    def explain(self, exc: Exception, doing: str) -> PacsError:
        """See remote.Objects."""
        return StorageUnavailable(f"storage failed while {doing}: {type(exc).__name__}")

    def open(self, key: str) -> OpenObject:
        """See remote.Objects."""
        file: OpenObject = self._system.open(key, "rb")
        return file

    def read(self, key: str) -> Iterator[bytes]:
        """See remote.Objects."""
        with self._system.open(key, "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def put(self, key: str, source: Source) -> None:
        """Under a hidden name, read back, and then renamed; see remote.Objects."""
        parent = key.rsplit("/", 1)[0]
        hidden = f"{parent}/{INCOMING}-{unique_name()}"
        self._system.makedirs(parent, exist_ok=True)
        try:
            self._write(hidden, source)
            self._system.mv(hidden, key)
        except BaseException:
            if self._system.exists(hidden):
                self._system.rm_file(hidden)
            raise

    def _write(self, key: str, source: Source) -> None:
        with self._system.open(key, "wb") as file:
            while chunk := source.read(CHUNK):
                file.write(chunk)
                source.sent(len(chunk))
        source.check()
        if digest_of(self.read(key)) != source.sha256:
            raise StorageUnavailable(f"{key} was read back with other bytes than were written")

    def exists(self, key: str) -> bool:
        """See remote.Objects."""
        return bool(self._system.isfile(key))

    def delete(self, key: str) -> None:
        """See remote.Objects."""
        self._system.rm_file(key)

    def list(self, root: str, prefix: str) -> Iterator[tuple[str, int]]:
        """See remote.Objects."""
        folder = f"{root}/{prefix}".rpartition("/")[0]
        if self._system.isdir(folder):
            for key, entry in self._system.find(folder, detail=True).items():
                yield key, int(entry["size"] or 0)

    def availability(self, key: str) -> Availability:
        """See remote.Objects."""
        self._system.info(key)
        return Availability.ONLINE

    def rehydrate(self, key: str) -> None:
        """Nothing is ever archived; see remote.Objects."""
        self._system.info(key)
