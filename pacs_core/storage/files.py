"""What durable local files need beyond `open`: translated errors, synced directories, files whose writer is known to live.

The rule for files with a living writer: the writer holds an flock on it for as long as it may write, whoever can take
that lock knows that there is no writer any more, and only a holder of the lock removes the file. Unlike a pid in a name
this stays true when pids are recycled or when containers share a directory. The kernel frees the lock with the process.
"""

import errno
import fcntl
import os
import secrets
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from typing_extensions import Buffer

from pacs_core.errors import StorageFull, StorageUnavailable, UnavailableError

log = structlog.get_logger(__name__)

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_ATTEMPTS = 100
_RESERVE_SHARE = 20  # at most a twentieth of the file system is kept free

# linux/fs.h
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602
_FS_TOPDIR = 0x00020000


def unavailable(exc: OSError, doing: str) -> UnavailableError:
    """The error of this product for an error of the operating system."""
    reason = exc.strerror or type(exc).__name__
    if exc.errno in _NO_ROOM:
        return StorageFull(f"no space left while {doing}: {reason}")
    return StorageUnavailable(f"storage failed while {doing}: {reason}")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn OSError into StorageFull or StorageUnavailable that says what was being done."""
    try:
        yield
    except OSError as exc:
        raise unavailable(exc, doing) from exc


def write_all(fd: int, data: Buffer) -> None:
    """Write every byte; OSError if that is impossible."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[os.write(fd, view) :]


def write_all_at(fd: int, data: Buffer, offset: int) -> None:
    """Write every byte from an offset on; OSError if that is impossible."""
    view = memoryview(data).cast("B")
    while len(view):
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fsync_path(path, flags=os.O_DIRECTORY)


def fsync_path(path: Path, *, flags: int = 0) -> None:
    """Make a file's content, or the names in a directory, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_reserve(directory: Path, reserve: int) -> None:
    """StorageFull if less is free where a directory is than so many bytes, or a twentieth of the file system if that is less."""
    status = os.statvfs(directory)
    reserve = min(reserve, status.f_blocks * status.f_frsize // _RESERVE_SHARE)
    if status.f_bavail * status.f_frsize < reserve:
        raise StorageFull(f"less than the reserve of {reserve >> 20} MiB is free in {directory}")


def make_directories(path: Path) -> None:
    """`mkdir -p`, durably. Thread- and process-safe."""
    if path.is_dir():
        return
    make_directories(path.parent)
    path.mkdir(exist_ok=True)
    fsync_directory(path.parent)


def write_atomically(path: Path, data: Buffer, *, mode: int = 0o640) -> None:
    """Replace a small file: afterwards, and after a crash at any moment, it has the old or the new content, whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def unique_name() -> str:
    """A name that no other process or container chooses; names sort by the time they were made."""
    return f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"


def create_locked(directory: Path, *, suffix: str, flags: int, mode: int) -> tuple[Path, int]:
    """A new, empty file with a unique name, and the descriptor that holds its writer's lock."""
    for _ in range(_ATTEMPTS):
        path = directory / (unique_name() + suffix)
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        # Between creation and locking the file looks abandoned; one that was taken for that is simply made anew.
        if try_lock(fd) and os.fstat(fd).st_nlink:
            return path, fd
        os.close(fd)
    raise OSError(errno.EBUSY, "new files are removed before they can be locked", str(directory))


def spread_children(directory: Path) -> None:
    """Ask the file system to keep what is in different subdirectories apart (chattr +T); where it cannot, nothing happens.

    Each study then has a part of the disk to itself, as a user's home has. Otherwise ext4 crowds all studies near each
    other, and searches past every recently deleted file there for each new one.
    """
    with suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = bytearray(8)
            fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("@L", struct.unpack("@L", flags)[0] | _FS_TOPDIR))
        finally:
            os.close(fd)


def create_unnamed(directory: Path, *, mode: int) -> int | None:
    """The descriptor of a new file without a name, which is gone with it unless it is linked; None where that is not possible.

    The file system puts a file near the directory in which it is created. Were all files created in one directory and moved, they
    would crowd there, and creating one would take ever longer (ten times, on ext4 after files were deleted).
    """
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, mode)
    except OSError as exc:
        if exc.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            return None
        raise


def link_descriptor(fd: int, target: Path) -> None:
    """Give an open file a name. OSError as os.link."""
    # With a descriptor among its arguments Python calls linkat(), which follows the symbolic link to the open file.
    os.link(f"/proc/self/fd/{fd}", target, src_dir_fd=fd)


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of a file unless another process or descriptor holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def sole(directory: Path, name: str) -> Iterator[bool]:
    """Try to be the only holder of a named lock of a directory, for as long as the context lasts; the kernel frees it with the process.

    StorageFull, StorageUnavailable.
    """
    with translated(f"locking {directory}"):
        make_directories(directory)
        fd = os.open(directory / f".{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        yield try_lock(fd)
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # a child that was forked meanwhile has the descriptor too
        os.close(fd)


@contextmanager
def abandoned(path: Path) -> Iterator[bool]:
    """Whether a file exists and has no living writer. While the context lasts none can appear, so it may be removed."""
    try:
        # Not blocking: opening a FIFO would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield False
        return
    try:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        yield is_file and try_lock(fd) and os.fstat(fd).st_nlink > 0
    finally:
        os.close(fd)


def remove_abandoned(directory: Path) -> int:
    """Remove the files of a directory whose writers are dead; returns how many. A directory that is not there has none."""
    return sum(map(_remove_if_abandoned, sorted(directory.glob("*"))))


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
