"""Backups of the index and the operational tables, on a store of their own: made, listed, restored, and forgotten by age.

A backup is a folder of files, and a manifest that names each of them with its rows, bytes and SHA-256. The manifest is written last: a
folder without one is a backup that is being made or was never finished, and is not taken for one. Objects are not part of it: what
arrived after a backup is found on the tiers by a rebuild into the restored index.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from pacs_core.errors import ChecksumMismatch, ConfigurationError, NotFound
from pacs_core.index.backup import Dump
from pacs_core.ports import ObjectStore
from pacs_core.storage.files import make_directories, translated

FORMAT = 1
_MANIFEST = "manifest.json"
_PREFIX = "index-"

Told = Callable[[str], None]


class Index(Protocol):
    """The index as a whole (index.backup)."""

    def dump(self, directory: Path, *, written: Told = ...) -> Dump:
        """Write every table to a directory."""

    def is_empty(self) -> bool:
        """Whether there is nothing that a load would overwrite."""

    def load(self, directory: Path, rows: Mapping[str, int], *, loaded: Told = ...) -> None:
        """Make the index what a dump says."""


@dataclass(frozen=True, slots=True)
class BackupFile:
    """A table's file."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup, as its manifest tells.

    Attributes:
        name: its folder; names sort by when they were made.
        format: of manifest and files; one that is newer than FORMAT cannot be read.
        program: the version that made it.
        made_at: ISO 8601, UTC. What arrived later is not in it.
        snapshot: of the lake.
    """

    name: str
    format: int
    program: str
    made_at: str
    snapshot: int
    files: tuple[BackupFile, ...]

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(file.rows for file in self.files)

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files)


class Backups:
    """The backups on one store. Not thread-safe.

    Args:
        store: where they are.
        scratch: a local directory for files on their way; the parent of temporary ones.
    """

    def __init__(self, store: ObjectStore, scratch: Path) -> None:
        self._store = store
        self._scratch = scratch

    def make(self, index: Index, *, keep: int, told: Told = lambda _: None) -> Backup:
        """Back the index up, then forget all but the newest `keep` backups. Nothing is there, or a whole backup."""
        made_at = datetime.now(UTC)
        name = f"{_PREFIX}{made_at:%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(3)}"
        with self._scratch_directory() as directory:
            with translated(f"writing a backup to {directory}"):
                dump = index.dump(directory, written=told)
                files = tuple(_described(directory / table.name, table.rows) for table in dump.tables)
            for file in files:
                self._store.put(f"{name}/{file.name}", directory / file.name, sha256=file.sha256)
            backup = Backup(name, FORMAT, version("pacs"), made_at.isoformat(), dump.snapshot, files)
            self._publish(backup, directory)
        self._forget(keep)
        return backup

    def all(self) -> Sequence[Backup]:
        """Those that are whole, oldest first."""
        return [self._read(name) for name in self._names()]

    def get(self, name: str = "") -> Backup:
        """The backup of that name, or the newest. NotFound."""
        names = self._names()
        if not names or (name and name not in names):
            raise NotFound(f"there is no backup {name}".rstrip())
        return self._read(name or names[-1])

    def restore(self, index: Index, name: str = "", *, overwrite: bool = False, told: Told = lambda _: None) -> Backup:
        """Make the index what a backup says: the one of that name, or the newest.

        All its files are fetched and checked before anything is changed. NotFound; ChecksumMismatch if it is damaged;
        ConfigurationError if a newer version has made it, or if the index is not empty and `overwrite` is not said.
        """
        backup = self.get(name)
        if backup.format > FORMAT:
            raise ConfigurationError(f"the backup {backup.name} was made by a newer version, {backup.program}; upgrade first")
        if not overwrite and not index.is_empty():
            raise ConfigurationError("the index is not empty; to put the backup in its place, say so (overwrite, --overwrite)")
        with self._scratch_directory() as directory:
            for file in backup.files:
                self._store.fetch(f"{backup.name}/{file.name}", directory / file.name, sha256=file.sha256)
                told(f"checked {file.name}")
            index.load(directory, {file.name: file.rows for file in backup.files}, loaded=told)
        return backup

    def _publish(self, backup: Backup, directory: Path) -> None:
        path = directory / _MANIFEST
        with translated(f"writing a backup to {directory}"):
            path.write_text(json.dumps(asdict(backup), indent=1))
        self._store.put(f"{backup.name}/{_MANIFEST}", path, sha256=_sha256(path))

    def _names(self) -> list[str]:
        found = (path.split("/") for path, _ in self._store.list(_PREFIX))
        return sorted({parts[0] for parts in found if len(parts) == 2 and parts[1] == _MANIFEST})

    def _read(self, name: str) -> Backup:
        try:
            with self._store.open(f"{name}/{_MANIFEST}") as file:
                state = json.loads(file.read())
            return Backup(**{**state, "files": tuple(BackupFile(**each) for each in state["files"])})
        except (ValueError, TypeError, KeyError) as exc:
            raise ChecksumMismatch(f"the manifest of the backup {name} is damaged") from exc

    def _forget(self, keep: int) -> None:
        """Remove backups by age. What is unfinished and newer than the oldest that stays may be in the making elsewhere."""
        whole = self._names()
        oldest = whole[-keep:][0]
        for name in whole[:-keep]:  # first what makes it one
            self._store.delete(f"{name}/{_MANIFEST}")
        for path, _ in list(self._store.list(_PREFIX)):
            if path.split("/")[0] < oldest:
                self._store.delete(path)

    @contextmanager
    def _scratch_directory(self) -> Iterator[Path]:
        with translated(f"making a directory in {self._scratch}"):
            make_directories(self._scratch)
            temporary = TemporaryDirectory(dir=self._scratch, prefix="backup-")
        with temporary as directory:
            yield Path(directory)


def _described(path: Path, rows: int) -> BackupFile:
    return BackupFile(path.name, rows, path.stat().st_size, _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
