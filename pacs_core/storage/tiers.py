"""Tiers: named, immutable objects behind any fsspec URL."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.core import url_to_fs

from pacs_core.errors import ConfigurationError, ObjectMissing
from pacs_core.storage.layout import is_object_path
from pacs_core.storage.remote import ObjectReader, Translator

_BUFFER = 128 << 10


def open_tier(url: str, options: Mapping[str, Any] | None = None) -> "Tier":
    """The tier at a path, `file://`, `s3://`, `az://` or any other URL of fsspec.

    Nothing is created and nothing is contacted. ConfigurationError if there is no such kind of file system.
    """
    protocol = url.split("://", 1)[0] if "://" in url else "file"
    if protocol == "file":
        url = Path(url.removeprefix("file://")).absolute().as_posix()
    # Other processes write to the tier, so a cached listing is a wrong one.
    settings = {**(options or {}), "skip_instance_cache": protocol != "memory", "use_listings_cache": False}
    try:
        system, root = url_to_fs(url, **(settings if protocol != "file" else {}))
    except (ValueError, ImportError) as exc:
        raise ConfigurationError(f"a tier cannot be at {protocol}://: {exc}") from exc
    return Tier(system, root, protocol=protocol)


class Tier:
    """ports.ObjectStore on a file system of fsspec."""

    def __init__(self, system: fsspec.AbstractFileSystem, root: str, *, protocol: str) -> None:
        self._system = system
        self._root = root.rstrip("/")
        self._is_local = protocol == "file"
        self._translated = Translator(protocol)

    def open(self, path: str) -> BinaryIO:
        """Read an object; see ports.ObjectStore."""
        with self._translated(f"opening {path}"):
            file = self._system.open(self._resolve(path), "rb")
        return io.BufferedReader(ObjectReader(file, self._translated, path), _BUFFER)

    def local_path(self, path: str) -> Path | None:
        """The object as a local file; see ports.ObjectStore."""
        resolved = self._resolve(path)
        return Path(resolved) if self._is_local else None

    def exists(self, path: str) -> bool:
        """Whether there is such an object; see ports.ObjectStore."""
        with self._translated(f"looking for {path}"):
            return bool(self._system.isfile(self._resolve(path)))

    def delete(self, path: str) -> None:
        """Remove an object; see ports.ObjectStore."""
        try:
            with self._translated(f"removing {path}"):
                self._system.rm_file(self._resolve(path))
        except ObjectMissing:
            return

    def list(self) -> Iterator[tuple[str, int]]:
        """Every object; see ports.ObjectStore."""
        for name, entry in self._entries():
            path = name[len(self._root) :].lstrip("/")
            if entry["type"] == "file" and is_object_path(path):
                yield path, int(entry["size"] or 0)

    def _entries(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every entry below the root, hidden ones included. A root that does not exist yet is empty."""
        with self._translated(f"listing {self._root}"):
            if not self._system.isdir(self._root):
                return
            if self._is_local:
                for _, folders, files in self._system.walk(self._root, detail=True, on_error="raise"):
                    for hidden in [name for name in folders if name.startswith(".")]:
                        del folders[hidden]
                    yield from ((entry["name"], entry) for entry in files.values())
            else:  # one listing, where a walk would cost a request for each folder
                yield from self._system.find(self._root, detail=True).items()

    def _resolve(self, path: str) -> str:
        if not is_object_path(path):
            raise ObjectMissing(f"not a path of an object: {path!r}")
        return f"{self._root}/{path}"
