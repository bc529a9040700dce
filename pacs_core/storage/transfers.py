"""Bytes on their way between a local file and a tier."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from pacs_core.errors import ChecksumMismatch
from pacs_core.ports import Progress
from pacs_core.storage.files import translated, write_all

CHUNK = 1 << 20


class Source:
    """A local file that is sent: read once, and hashed as it is read. Not thread-safe.

    StorageUnavailable if it cannot be read.
    """

    def __init__(self, file: BinaryIO, *, sha256: str, progress: Progress | None) -> None:
        self.size = os.fstat(file.fileno()).st_size
        self.sha256 = sha256
        self._file = file
        self._hash = hashlib.sha256()
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        """The next bytes: as many as were asked for unless the file ends."""
        with translated(f"reading {self._file.name}"):
            data = self._file.read(size)
        self._hash.update(data)
        return data

    def check(self) -> None:
        """ChecksumMismatch unless what has been read is the file that was announced."""
        if self._hash.hexdigest() != self.sha256:
            raise ChecksumMismatch(f"{self._file.name} does not hash to {self.sha256}; it was not stored")

    def sent(self, count: int) -> None:
        """So many bytes more are on the other side."""
        if self._progress is not None:
            self._progress(count)


def save(chunks: Iterable[bytes], target: Path, *, sha256: str, progress: Progress | None, name: str) -> None:
    """Write an object to a new local file. After an error there is none, unless it was there before."""
    doing = f"writing {target}"
    with translated(doing):
        file = target.open("xb", buffering=0)
    try:
        with file:
            digest = hashlib.sha256()
            for chunk in chunks:
                digest.update(chunk)
                with translated(doing):
                    write_all(file.fileno(), chunk)
                if progress is not None:
                    progress(len(chunk))
        if digest.hexdigest() != sha256:
            raise ChecksumMismatch(f"{name} does not hash to {sha256}")
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def digest_of(chunks: Iterable[bytes]) -> str:
    """The SHA-256 (hex) of an object."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
