"""What a running `pacs up` tells the other commands: `<home>/run/up.json`, and the lock that says whether it is true."""

import fcntl
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pacs_core.errors import ConfigurationError
from pacs_core.supervisor.part import PartState, PartStatus


@dataclass(frozen=True, slots=True)
class Runtime:
    """A running archive.

    Attributes:
        pid: of `pacs up`.
        ready: whether start-up is complete.
        catalog_url: the PostgreSQL of the catalog.
        addresses: what is served where: dicom, web, prefect, dask.
        parts: every part as it was at its last change of state.
    """

    pid: int
    ready: bool
    catalog_url: str
    addresses: Mapping[str, str]
    parts: tuple[PartStatus, ...]


def run_directory(home: Path) -> Path:
    """Locks, sockets and facts of the running archive; worthless once it stopped."""
    return home / "run"


def prepare_home(home: Path) -> None:
    """Make the directories that every command writes to; ConfigurationError at once if they cannot be written."""
    try:
        for directory in (home, run_directory(home), home / "logs", home / "prefect"):
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
    except OSError as exc:
        raise ConfigurationError(f"the home {home} cannot be written ({exc.strerror}); choose another with --home or PACS_HOME") from exc


def write_runtime(home: Path, runtime: Runtime) -> None:
    """Replace the facts. Readable by the owner only: the catalog URL may hold a password."""
    path = run_directory(home) / "up.json"
    temporary = path.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(asdict(runtime), indent=1))
    temporary.replace(path)


def read_runtime(home: Path) -> Runtime | None:
    """The facts of the archive that runs on this home, or None if none does."""
    if not _locked(home):
        return None
    try:
        facts = json.loads((run_directory(home) / "up.json").read_text())
        parts = tuple(PartStatus(**{**part, "state": PartState(part["state"])}) for part in facts.pop("parts"))
        return Runtime(**facts, parts=parts)
    except (OSError, ValueError, TypeError, KeyError):
        return None  # just starting, or written by another version


@contextmanager
def single_instance(home: Path) -> Iterator[bool]:
    """Hold the home's lock; False if another `pacs up` holds it. Freed by the kernel when the process dies."""
    with (run_directory(home) / "up.lock").open("a") as lock:
        # Whoever looks whether the lock is held holds it for a moment, so one refusal is no answer.
        yield any(_lock(lock) for _ in range(10))


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.02)
        return False
    return True


def _locked(home: Path) -> bool:
    try:
        with (run_directory(home) / "up.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
