"""Where instances arrive: a local directory, written durably and atomically with plain system calls.

    <root>/.incoming/      files being written, each locked by its writer; small arrivals stay in memory until they are named
    <root>/.quarantine/    what was received but must not be served, with the reason beside it
    <root>/.unsynced/      a mark for each object that the kernel has failed to write, until it is written anew
    <root>/…               placed objects, read-only, named by `storage.layout`

fsspec never syncs, so it has no part here.
"""

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import structlog
from typing_extensions import Buffer

from pacs_core.errors import ObjectMissing, StorageUnavailable
from pacs_core.ports import Incoming, Placement
from pacs_core.storage.files import (
    check_reserve,
    create_locked,
    create_unnamed,
    fsync_directory,
    fsync_path,
    link_descriptor,
    make_directories,
    remove_abandoned,
    spread_children,
    translated,
    unavailable,
    unique_name,
    write_all,
    write_atomically,
)
from pacs_core.storage.layout import is_object_path
from pacs_core.storage.unsynced import UnsyncedMarks

log = structlog.get_logger(__name__)

INCOMING = ".incoming"
QUARANTINE = ".quarantine"
UNSYNCED = ".unsynced"
RETIRED = ".retired"  # by digest: what retention has removed and not yet destroyed

IN_MEMORY = 1 << 20  # bytes of an arrival that are kept in memory; a larger one goes into a file as it arrives

_KEPT_BUFFERS = 16
OBJECT_MODE = 0o440
_KNOWN_DIRECTORIES = 10_000


class _Buffers:
    """Memory for arrivals, used again and again: the kernel takes its time over fresh pages. Thread-safe."""

    def __init__(self) -> None:
        self._free: deque[bytearray] = deque(maxlen=_KEPT_BUFFERS)

    def take(self) -> bytearray:
        """A buffer of IN_MEMORY bytes."""
        try:
            return self._free.pop()
        except IndexError:
            return bytearray(IN_MEMORY)

    def give_back(self, buffer: bytearray) -> None:
        """Nobody looks at it any more."""
        self._free.append(buffer)


class IncomingObject:
    """ports.Incoming: in memory while it is small, otherwise in a file that is locked for as long as it is one's own."""

    def __init__(self, directory: Path, buffers: _Buffers) -> None:
        self.size = 0
        self.content: memoryview | None = memoryview(b"")
        self._directory = directory
        self._buffers = buffers
        self._buffer: bytearray | None = None
        self._path: Path | None = None
        self._fd = -1
        self._hash = hashlib.sha256()
        self._sealed = ""
        self._ended = False

    def write(self, data: Buffer) -> None:
        """Append; see ports.Incoming."""
        if self._sealed or self._ended:
            raise StorageUnavailable("an incoming object was written to after it had been sealed, had failed or had ended")
        end = self.size + memoryview(data).nbytes
        if self.content is not None and end <= IN_MEMORY:
            self._buffer = self._buffer or self._buffers.take()
            view = memoryview(self._buffer)
            view[self.size : end] = data
            self.content = view[:end]
        else:
            self._write_through(data)
        self._hash.update(data)
        self.size = end

    def adopt(self, content: bytes, sha256: str) -> None:
        """Be what has been received and hashed already; nothing can be written any more."""
        self.content, self.size, self._sealed = memoryview(content), len(content), sha256

    def seal(self) -> str:
        """End the writing; see ports.Incoming."""
        if self._ended:
            raise StorageUnavailable("an incoming object was sealed after it had failed or had ended")
        self._sealed = self._sealed or self._hash.hexdigest()
        return self._sealed

    def open(self) -> BinaryIO:
        """Read; see ports.Incoming."""
        return BytesIO(self.content) if self.content is not None else self._file().open("rb")

    def discard(self) -> None:
        """Remove; see ports.Incoming."""
        self._ended = True
        if self._buffer is not None:
            self.content = None
            self._buffers.give_back(self._buffer)
            self._buffer = None
        if self._fd < 0:
            return
        if self._path is not None:
            try:
                self._path.unlink(missing_ok=True)
            except OSError as exc:  # what cannot be removed now is removed by the next sweep
                log.warning("incoming_not_removed", path=str(self._path), error=exc.strerror)
        os.close(self._fd)
        self._fd = -1

    def link(self, target: Path, *, durable: bool) -> None:
        """Give the sealed object a name, in a directory that exists; if `durable`, once its content is.

        OSError as os.link; StorageFull, StorageUnavailable.
        """
        if not self._sealed or self._ended:
            raise StorageUnavailable("an incoming object was placed before it had been sealed, or after it had ended")
        if self._fd < 0:
            self._create_near(target.parent)
        if durable:
            self._sync()
        if self._path is None:
            link_descriptor(self._fd, target)
        else:
            os.link(self._path, target)

    def _write_through(self, data: Buffer) -> None:
        if self._fd < 0:
            self._create()
            self.content = None
        self._append(data)

    def _create_near(self, directory: Path) -> None:
        """Create the file of what has been kept in memory."""
        unnamed = create_unnamed(directory, mode=OBJECT_MODE)
        if unnamed is None:
            self._create()
        else:
            self._fd = unnamed
            self._append(self.content or b"")

    def _create(self) -> None:
        """Create the file of what is not known yet to be small, or where files without names are not possible."""
        with translated("creating an incoming file"):
            self._path, self._fd = create_locked(self._directory, suffix=".part", flags=os.O_RDWR, mode=OBJECT_MODE)
        self._append(self.content or b"")

    def _append(self, data: Buffer) -> None:
        try:
            write_all(self._fd, data)
        except OSError as exc:
            self.discard()
            raise unavailable(exc, "writing an incoming instance") from exc

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as exc:  # the kernel may have dropped the pages, and a second sync would prove nothing
            self.discard()
            raise unavailable(exc, "syncing an incoming instance") from exc

    def _file(self) -> Path:
        assert self._path is not None, "what is not in memory is in a file"
        return self._path


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
        self._unsynced = UnsyncedMarks(root / UNSYNCED)
        self._buffers = _Buffers()
        self._lock = threading.Lock()

    def incoming(self) -> IncomingObject:
        """A new, empty incoming object. StorageFull if the reserve is all that is left."""
        with translated(f"opening {self._incoming}"):
            self._ensure_directory(self._incoming)
            if self._reserve:
                check_reserve(self._incoming, self._reserve)
        return IncomingObject(self._incoming, self._buffers)

    def received(self, content: bytes, sha256: str) -> IncomingObject:
        """A sealed object of known content; see ports.LandingStore."""
        incoming = self.incoming()
        incoming.adopt(content, sha256)
        return incoming

    def place(self, incoming: Incoming, path: str, *, durable: bool) -> Placement:
        """Name a sealed object; see ports.LandingStore."""
        sealed, target = _ours(incoming), self._resolve(path)
        with translated(f"placing {path}"):
            created = self._link(partial(sealed.link, durable=durable), target, durable=durable)
            if created and durable:
                fsync_directory(target.parent)
        if created:
            sealed.discard()
            self._unsynced.clear(path)
        return Placement(path, created)

    def secure(self, paths: Sequence[str]) -> Sequence[str]:
        """Sync objects and their directories; see ports.LandingStore."""
        marked = self._unsynced.among(paths)
        failed = [path for path in paths if path in marked or not _synced(self._resolve(path))]
        parents = {self._resolve(path).parent for path in paths}
        lost = {parent for parent in parents if not self._is_durable(parent)}
        if lost:
            failed += [path for path in paths if path not in failed and self._resolve(path).parent in lost]
        for path in failed:
            self._unsynced.add(path)
        return failed

    def restore(self, path: str, content: Buffer) -> None:
        """Write an object anew; see ports.LandingStore."""
        target = self._resolve(path)
        with translated(f"restoring {path}"):
            self._ensure_directory(target.parent)
            self._replace(target, content)
        self._unsynced.clear(path)

    def quarantine(self, incoming: Incoming, *, reason: str) -> str:
        """Keep a sealed object aside; see ports.LandingStore."""
        sealed = _ours(incoming)
        held = self._hold(partial(sealed.link, durable=True), origin=INCOMING, reason=reason)
        sealed.discard()
        return held

    def holds(self, path: str) -> bool:
        """Whether a name is taken; see ports.LandingStore."""
        with translated(f"looking for {path}"):
            return self._resolve(path).exists()

    def local_path(self, path: str) -> Path:
        """A placed object as a local file; see ports.LandingStore."""
        return self._resolve(path)

    def set_aside(self, path: str, *, reason: str) -> str:
        """Move a placed object into quarantine; see ports.LandingStore."""
        source = self._resolve(path)
        try:
            held = self._hold(partial(os.link, source), origin=path, reason=reason)
        except FileNotFoundError as exc:
            raise ObjectMissing(f"there is no object {path} to set aside") from exc
        with translated(f"setting {path} aside"):
            source.unlink(missing_ok=True)
            fsync_directory(source.parent)
        return held

    def retire(self, path: str, sha256: str) -> None:
        """Move an object out of sight; see ports.LandingStore."""
        source, target = self._resolve(path), self.retired(sha256)
        with translated(f"retiring {path}"):
            self._ensure_directory(target.parent)
            if not target.exists():
                if not _hashes_to(source, sha256):
                    raise ObjectMissing(f"there is no such object {path} to retire")
                os.link(source, target)
            fsync_path(target)
            fsync_directory(target.parent)
            if source.exists() and source.samefile(target):
                source.unlink()
                fsync_directory(source.parent)

    def retired(self, sha256: str) -> Path:
        """Where a retired object is; see ports.LandingStore."""
        return self._root / RETIRED / sha256[:2] / f"{sha256}.dcm"

    def revive(self, path: str, sha256: str) -> bool:
        """Give a retired object its name again; see ports.LandingStore."""
        source, target = self.retired(sha256), self._resolve(path)
        with translated(f"reviving {path}"):
            self._ensure_directory(target.parent)
            try:
                os.link(source, target)
            except FileExistsError:
                return target.samefile(source)
            except FileNotFoundError as exc:
                raise ObjectMissing(f"{path} is no longer among what was retired") from exc
            fsync_directory(target.parent)
        return True

    def destroy(self, sha256: str) -> None:
        """Remove a retired object for good; see ports.LandingStore."""
        target = self.retired(sha256)
        with translated("destroying a retired object"):
            target.unlink(missing_ok=True)
            if target.parent.is_dir():
                fsync_directory(target.parent)

    def sweep(self) -> int:
        """Remove what dead writers left; see ports.LandingStore."""
        with translated(f"sweeping {self._incoming}"):
            return remove_abandoned(self._incoming)

    def _replace(self, target: Path, content: Buffer) -> None:
        """Put new content in the place of whatever has a name, durably; a crash leaves the one or the other, and nothing beside it."""
        self._ensure_directory(self._incoming)
        temporary, fd = create_locked(self._incoming, suffix=".part", flags=os.O_WRONLY, mode=OBJECT_MODE)
        try:
            write_all(fd, content)
            os.fsync(fd)
            temporary.replace(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        fsync_directory(target.parent)

    def _is_durable(self, directory: Path) -> bool:
        """Sync a directory, and the names of it and those above it; False if that failed. One that is gone has nothing to be synced."""
        try:
            if directory.is_dir():
                self._ensure_directory(directory)
        except OSError as exc:
            log.exception("directory_not_synced", path=str(directory), error=exc.strerror)
            return False
        return _synced(directory)

    def _link(self, link: Callable[[Path], None], target: Path, *, durable: bool) -> bool:
        """Whether the name was free and is now the file's. If not `durable`, neither need the directory be, until it is secured."""
        if durable:
            self._ensure_directory(target.parent)
        elif target.parent not in self._durable:
            self._ensure_directory(self._root)
            self._make_directory(target.parent)
        try:
            link(target)
        except FileExistsError:
            return False
        except FileNotFoundError:
            # Someone removed the directory behind our back: what was known of directories is void.
            with self._lock:
                self._durable.clear()
            self._ensure_directory(target.parent)
            link(target)
        return True

    def _hold(self, link: Callable[[Path], None], *, origin: str, reason: str) -> str:
        """A durable name in today's quarantine directory, given by `link`. FileNotFoundError if that has nothing to name."""
        now = datetime.now(UTC)
        directory = self._root / QUARANTINE / f"{now:%Y-%m-%d}"
        target = directory / f"{unique_name()}.dcm"
        sidecar = {"reason": reason, "at": now.isoformat(), "from": origin}
        try:
            self._ensure_directory(directory)
            write_atomically(target.with_suffix(".json"), json.dumps(sidecar, indent=2).encode())
            link(target)
            fsync_path(target)
            fsync_directory(directory)
        except FileNotFoundError:
            target.with_suffix(".json").unlink(missing_ok=True)
            raise
        except OSError as exc:
            raise unavailable(exc, "putting an instance into quarantine") from exc
        return target.relative_to(self._root).as_posix()

    def _make_directory(self, directory: Path) -> None:
        """Make a directory and everything above it exist, not durably yet."""
        if not directory.is_dir():
            self._make_directory(directory.parent)
            with self._lock:
                self._durable.discard(directory)  # somebody has removed it by hand
            directory.mkdir(exist_ok=True)

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
            spread_children(directory)
        with self._lock:
            if len(self._durable) >= _KNOWN_DIRECTORIES:
                self._durable.clear()
            self._durable.add(directory)

    def _resolve(self, path: str) -> Path:
        if not is_object_path(path):
            raise ObjectMissing(f"not a path of an object: {path!r}")
        return self._root / path


def _hashes_to(file: Path, sha256: str) -> bool:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _ours(incoming: Incoming) -> IncomingObject:
    if not isinstance(incoming, IncomingObject):
        raise TypeError("the incoming object belongs to another kind of landing store")
    return incoming


def _synced(path: Path) -> bool:
    """Sync a file or a directory; False if that failed. One that is gone has nothing to be synced."""
    try:
        fsync_path(path)
    except FileNotFoundError:
        return True
    except OSError as exc:
        log.exception("object_not_synced", path=str(path), error=exc.strerror)
        return False
    return True
