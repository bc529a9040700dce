"""Where instances arrive: a local directory, written durably and atomically with plain system calls.

    <root>/.incoming/      files being written, each locked by its writer
    <root>/.quarantine/    what was received but must not be served, with the reason beside it
    <root>/…               placed objects, read-only, named by `storage.layout`

fsspec never syncs, so it has no part here.
"""

import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import structlog
from typing_extensions import Buffer

from pacs_core.errors import ObjectMissing, StorageFull, StorageUnavailable
from pacs_core.ports import Incoming, Placement
from pacs_core.storage.files import (
    abandoned,
    create_locked,
    fsync_directory,
    make_directories,
    translated,
    unavailable,
    unique_name,
    write_all,
    write_atomically,
)
from pacs_core.storage.layout import is_object_path

log = structlog.get_logger(__name__)

INCOMING = ".incoming"
QUARANTINE = ".quarantine"

_OBJECT_MODE = 0o440
_KNOWN_DIRECTORIES = 10_000
_RESERVE_SHARE = 20  # at most a twentieth of the file system is kept free


class IncomingFile:
    """ports.Incoming on a local file: hashed while it is written, locked for as long as it is one's own."""

    def __init__(self, directory: Path) -> None:
        with translated("creating an incoming file"):
            self.path, self._fd = create_locked(directory, suffix=".part", flags=os.O_RDWR, mode=_OBJECT_MODE)
        self.size = 0
        self._hash = hashlib.sha256()
        self._sealed = ""
        self._failed = False

    def write(self, data: Buffer) -> None:
        """Append; see ports.Incoming."""
        if self._sealed or self._failed or self._fd < 0:
            raise StorageUnavailable("an incoming file was written to after it had been sealed, had failed or had ended")
        try:
            write_all(self._fd, data)
        except OSError as exc:
            self._failed = True
            raise unavailable(exc, "writing an incoming instance") from exc
        self._hash.update(data)
        self.size += memoryview(data).nbytes

    def seal(self) -> str:
        """Sync; see ports.Incoming. After a failure the kernel may have dropped the pages, so it is final."""
        if self._failed or self._fd < 0:
            raise StorageUnavailable("an incoming file was sealed after it had failed or had ended")
        if not self._sealed:
            try:
                os.fdatasync(self._fd)
            except OSError as exc:
                self._failed = True
                raise unavailable(exc, "syncing an incoming instance") from exc
            self._sealed = self._hash.hexdigest()
        return self._sealed

    def discard(self) -> None:
        """Remove; see ports.Incoming."""
        if self._fd < 0:
            return
        try:
            self.path.unlink(missing_ok=True)
        except OSError as exc:  # what cannot be removed now is removed by the next sweep
            log.warning("incoming_not_removed", path=str(self.path), error=exc.strerror)
        self._release()

    def link(self, target: Path) -> None:
        """Give the sealed content a second name. OSError as os.link."""
        if not self._sealed:
            raise StorageUnavailable("an incoming file was placed before it had been sealed")
        os.link(self.path, target)

    def _release(self) -> None:
        os.close(self._fd)
        self._fd = -1


class LandingDirectory:
    """ports.LandingStore on a local directory. Thread-safe; many processes may share the directory.

    Args:
        root: the directory; made when something arrives.
        tier: its name.
        reserve: bytes of the file system that arrivals leave free, because the database and the journal may share it and
            fail worse than an arrival that is refused. Never more than a twentieth of the file system.
    """

    def __init__(self, root: Path, *, tier: str = "hot", reserve: int = 0) -> None:
        self.tier = tier
        self._reserve = reserve
        self._root = root
        self._incoming = root / INCOMING
        # Directories whose own name this process knows to be durable. Nothing of ours removes directories
        # of the landing tier, so what is known stays true.
        self._durable: set[Path] = set()
        self._lock = threading.Lock()

    def incoming(self) -> IncomingFile:
        """A new, empty incoming file. StorageFull if the reserve is all that is left."""
        with translated(f"opening {self._incoming}"):
            self._ensure_directory(self._incoming)
            self._check_reserve()
        return IncomingFile(self._incoming)

    def place(self, incoming: Incoming, path: str) -> Placement:
        """Name a sealed file; see ports.LandingStore."""
        if not isinstance(incoming, IncomingFile):
            raise TypeError("the incoming file belongs to another kind of landing store")
        target = self._resolve(path)
        with translated(f"placing {path}"):
            created = self._link(incoming, target)
            # Also when the name was taken: whoever took it may not have synced it yet, and the caller will rely on it.
            fsync_directory(target.parent)
        if created:
            incoming.discard()
        return Placement(path, created)

    def quarantine(self, incoming: Incoming, *, reason: str) -> str:
        """Keep a sealed file aside; see ports.LandingStore."""
        held = self._hold(incoming.path, reason)
        incoming.discard()
        return held

    def local_path(self, path: str) -> Path:
        """A placed object as a local file; see ports.LandingStore."""
        return self._resolve(path)

    def set_aside(self, path: str, *, reason: str) -> str:
        """Move a placed object into quarantine; see ports.LandingStore."""
        source = self._resolve(path)
        try:
            held = self._hold(source, reason)
        except FileNotFoundError as exc:
            raise ObjectMissing(f"there is no object {path} to set aside") from exc
        with translated(f"setting {path} aside"):
            source.unlink(missing_ok=True)
            fsync_directory(source.parent)
        return held

    def sweep(self) -> int:
        """Remove what dead writers left; see ports.LandingStore."""
        with translated(f"sweeping {self._incoming}"):
            paths = sorted(self._incoming.glob("*"))
        return sum(map(_remove_if_abandoned, paths))

    def _check_reserve(self) -> None:
        if not self._reserve:
            return
        status = os.statvfs(self._incoming)
        reserve = min(self._reserve, status.f_blocks * status.f_frsize // _RESERVE_SHARE)
        if status.f_bavail * status.f_frsize < reserve:
            raise StorageFull(f"less than the reserve of {reserve >> 20} MiB is free in {self._root}")

    def _link(self, incoming: IncomingFile, target: Path) -> bool:
        """Whether the name was free and is now the file's."""
        self._ensure_directory(target.parent)
        try:
            incoming.link(target)
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Someone removed the directory behind our back: what was known of directories is void.
            with self._lock:
                self._durable.clear()
            self._ensure_directory(target.parent)
            incoming.link(target)
        return True

    def _hold(self, source: Path, reason: str) -> str:
        """A durable second name in today's quarantine directory. FileNotFoundError if there is no such source."""
        now = datetime.now(UTC)
        directory = self._root / QUARANTINE / f"{now:%Y-%m-%d}"
        target = directory / f"{unique_name()}.dcm"
        sidecar = {"reason": reason, "at": now.isoformat(), "from": source.relative_to(self._root).as_posix()}
        try:
            self._ensure_directory(directory)
            write_atomically(target.with_suffix(".json"), json.dumps(sidecar, indent=2).encode())
            os.link(source, target)
            fsync_directory(directory)
        except FileNotFoundError:
            target.with_suffix(".json").unlink(missing_ok=True)
            raise
        except OSError as exc:
            raise unavailable(exc, "putting an instance into quarantine") from exc
        return target.relative_to(self._root).as_posix()

    def _ensure_directory(self, directory: Path) -> None:
        """Make a directory and everything above it exist durably.

        One that another thread or process has just made may not be synced yet, so each process syncs the parent of
        every directory once before it relies on it.
        """
        if directory in self._durable:
            return
        if directory != self._root:
            self._ensure_directory(directory.parent)
            directory.mkdir(exist_ok=True)
            fsync_directory(directory.parent)
        else:
            make_directories(directory)
        with self._lock:
            if len(self._durable) >= _KNOWN_DIRECTORIES:
                self._durable.clear()
            self._durable.add(directory)

    def _resolve(self, path: str) -> Path:
        if not is_object_path(path):
            raise ObjectMissing(f"not a path of an object: {path!r}")
        return self._root / path


def _remove_if_abandoned(path: Path) -> bool:
    """Whether a file was one that a dead writer left. One that cannot be dealt with is logged: it must not keep the others."""
    try:
        with abandoned(path) as is_abandoned:
            if is_abandoned:
                path.unlink(missing_ok=True)
            return is_abandoned
    except OSError as exc:
        log.warning("incoming_not_swept", path=str(path), error=exc.strerror)
        return False
