"""Where DuckDB spills to: a directory of each process, which goes with it, or, where it was killed, with the next one that starts."""

import atexit
import errno
import fcntl
import functools
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_PREFIX = "pacs-duckdb-"
_ATTEMPTS = 100


@functools.cache
def spill_root(pid: int) -> Path:
    """A directory of this process alone, removed at its end, below which each instance of DuckDB has one to spill to.

    Instances never share one, or each writes over what the other has spilled. DuckDB makes an instance's directory when
    it first spills, and removes it with the instance.
    """
    _sweep()
    root = _made(pid)
    atexit.register(_remove_own, pid, root)
    return root


def _made(pid: int) -> Path:
    """A new directory, for its owner only, whose lock is held for as long as the process lives."""
    for _ in range(_ATTEMPTS):
        root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{pid}-"))
        try:
            if _locked(root) is not None and root.exists():
                return root
        except FileNotFoundError:  # another process has taken it for abandoned: it was not locked yet
            continue
        except OSError:  # a file system without such locks
            return root
    raise OSError(errno.EBUSY, "new directories are removed before they can be locked", tempfile.gettempdir())


def _sweep() -> None:
    """Remove what processes have left that were killed: those directories whose lock is free."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or being removed by another process
            if (lock := _locked(path)) is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _locked(directory: Path) -> int | None:
    """The descriptor that holds the lock of a directory; None if somebody else holds it. OSError if it cannot be opened or locked."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(descriptor)
        if isinstance(exc, BlockingIOError):
            return None
        raise
    return descriptor


def _remove_own(pid: int, root: Path) -> None:
    if os.getpid() == pid:  # not from a fork
        shutil.rmtree(root, ignore_errors=True)
