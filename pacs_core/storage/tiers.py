"""Tiers: named, immutable objects behind any fsspec URL."""

import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import fsspec

from pacs_core.errors import ConfigurationError, ObjectMissing
from pacs_core.model import Availability
from pacs_core.ports import Progress
from pacs_core.storage.filesystem import FilesystemObjects
from pacs_core.storage.layout import is_object_path
from pacs_core.storage.local import LocalObjects
from pacs_core.storage.options import TierOptions
from pacs_core.storage.remote import ObjectReader, Objects, Translator
from pacs_core.storage.transfers import Source, save

_BUFFER = 128 << 10


def open_tier(url: str, options: TierOptions | None = None) -> "Tier":
    """The tier at a path, `file://`, `s3://`, `az://` or any other URL of fsspec.

    Nothing is created and nothing is contacted. ConfigurationError if there is no such kind of file system, or if it does not take
    the options.
    """
    chosen = options or TierOptions()
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    if protocol == "file":
        root = Path(url.removeprefix("file://")).absolute().as_posix()
        return Tier(lambda: LocalObjects(Path(root)), root, concurrency=chosen.concurrency)
    try:
        root = str(fsspec.get_filesystem_class(protocol)._strip_protocol(url))
        return Tier(lambda: _remote(protocol, url, chosen), root, concurrency=chosen.concurrency)
    except (ValueError, TypeError, ImportError) as exc:
        raise ConfigurationError(f"a tier cannot be at {protocol}:// with these options ({type(exc).__name__}): {exc}") from exc


def _remote(protocol: str, url: str, options: TierOptions) -> Objects:
    """What is at a URL. A client library is loaded only for the tier that needs it."""
    if protocol in ("s3", "s3a"):
        from pacs_core.storage.s3 import s3_objects

        return s3_objects(options)
    if protocol in ("az", "abfs", "abfss"):
        from pacs_core.storage.azure import azure_objects

        return azure_objects(url, options)
    # Other processes write to the tier, so a cached listing is a wrong one. Memory is one for all of a process.
    settings = {**options.filesystem, "skip_instance_cache": protocol != "memory", "use_listings_cache": False}
    return FilesystemObjects(fsspec.filesystem(protocol, **settings))


class Tier:
    """ports.ObjectStore on any kind of file system.

    Args:
        connect: makes what the tier is on; called anew in a process that was forked, where inherited connections are of no use.
        root: what the keys of all objects begin with.
        concurrency: see ports.ObjectStore.
    """

    def __init__(self, connect: Callable[[], Objects], root: str, *, concurrency: int) -> None:
        self.concurrency = concurrency
        self._connect = connect
        self._root = root.rstrip("/")
        self._lock = threading.Lock()
        # Those of other processes are kept: closing what was inherited would close it for the parent too.
        self._by_process = {os.getpid(): connect()}
        self._translated = Translator(self._objects.foreign, self._objects.explain)

    def open(self, path: str) -> BinaryIO:
        """Read an object; see ports.ObjectStore."""
        with self._translated(f"opening {path}"):
            file = self._objects.open(self._key(path))
        return io.BufferedReader(ObjectReader(file, self._translated, path), _BUFFER)

    def local_path(self, path: str) -> Path | None:
        """The object as a local file; see ports.ObjectStore."""
        key = self._key(path)
        return Path(key) if isinstance(self._objects, LocalObjects) else None

    def exists(self, path: str) -> bool:
        """Whether there is such an object; see ports.ObjectStore."""
        with self._translated(f"looking for {path}"):
            return self._objects.exists(self._key(path))

    def put(self, path: str, source: Path, *, sha256: str, progress: Progress | None = None) -> None:
        """Copy a file to the tier; see ports.ObjectStore."""
        key = self._key(path)
        with self._translated(f"reading {source}"):
            file = source.open("rb")
        with file, self._translated(f"storing {path}"):
            self._objects.put(key, Source(file, sha256=sha256, progress=progress))

    def fetch(self, path: str, target: Path, *, sha256: str, progress: Progress | None = None) -> None:
        """Copy an object to a file; see ports.ObjectStore."""
        key = self._key(path)
        with self._translated(f"fetching {path}"):
            save(self._objects.read(key), target, sha256=sha256, progress=progress, name=path)

    def delete(self, path: str) -> None:
        """Remove an object; see ports.ObjectStore."""
        try:
            with self._translated(f"removing {path}"):
                self._objects.delete(self._key(path))
        except ObjectMissing:
            return

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """The objects; see ports.ObjectStore."""
        if prefix and not is_object_path(prefix.removesuffix("/")):
            return
        with self._translated(f"listing {self._root}"):
            for key, size in self._objects.list(self._root, prefix):
                path = key[len(self._root) :].lstrip("/")
                if path.startswith(prefix) and is_object_path(path):
                    yield path, size

    def availability(self, path: str) -> Availability:
        """Whether an object can be read; see ports.ObjectStore."""
        with self._translated(f"looking for {path}"):
            return self._objects.availability(self._key(path))

    def rehydrate(self, path: str) -> None:
        """Ask for an archived object; see ports.ObjectStore."""
        with self._translated(f"rehydrating {path}"):
            self._objects.rehydrate(self._key(path))

    @property
    def _objects(self) -> Objects:
        found = self._by_process.get(os.getpid())
        if found is None:
            with self._lock:
                found = self._by_process.setdefault(os.getpid(), self._connect())
        return found

    def _key(self, path: str) -> str:
        if not is_object_path(path):
            raise ObjectMissing(f"not a path of an object: {path!r}")
        return f"{self._root}/{path}"
