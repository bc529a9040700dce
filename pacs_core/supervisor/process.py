"""One child process: started in a process group of its own, told to stop when we die, stopped within bounds."""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pacs_core.supervisor.part import Part
from pacs_core.supervisor.postgres import EmbeddedPostgres, run_as, socket_directory

# Both are inherited by everything that a part starts, so that what a killed supervisor leaves behind is recognised.
PART_VARIABLE = "PACS_PART"
HOME_VARIABLE = "PACS_HOME"
# The part writes the line "ready" to this file descriptor once it answers.
READY_VARIABLE = "PACS_READY_FD"

_PR_SET_PDEATHSIG = 1
_LOG_LIMIT = 16 * 1024 * 1024
_LOGS_KEPT = 3


class Child:
    """A running part."""

    def __init__(self, part: Part, process: asyncio.subprocess.Process, ready: int | None) -> None:
        self._part = part
        self._process = process
        self._ready = ready

    @classmethod
    async def start(cls, part: Part, *, home: Path, environment: Mapping[str, str]) -> "Child":
        """Start the part's process; its output is appended to its log. Raises OSError."""
        ours, theirs = os.pipe() if part.probe is None else (None, None)
        marks = {HOME_VARIABLE: str(home), PART_VARIABLE: part.name}
        if theirs is not None:
            marks[READY_VARIABLE] = str(theirs)
        try:
            with log_path(home, part.name).open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *part.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env={**environment, **part.env, **marks},
                    **({} if part.user is None else run_as(part.user)),
                    cwd=home if part.user is None else "/",
                    pass_fds=() if theirs is None else (theirs,),
                    start_new_session=True,
                    preexec_fn=_dies_with_us(part.stop_signal),
                )
        except OSError:
            if ours is not None:
                os.close(ours)
            raise
        finally:
            if theirs is not None:
                os.close(theirs)
        return cls(part, process, ours)

    @property
    def pid(self) -> int:
        """The process, which is also its process group."""
        return self._process.pid

    async def wait(self) -> int:
        """Its exit status, negative: the signal that killed it."""
        return await self._process.wait()

    async def notified(self) -> bool:
        """Wait for it to write to its ready descriptor; False if it closed it without a word."""
        assert self._ready is not None
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._ready, readable.set)
        try:
            await readable.wait()
            return bool(os.read(self._ready, 64))
        finally:
            loop.remove_reader(self._ready)
            os.close(self._ready)
            self._ready = None

    async def stop(self) -> bool:
        """Ask it to stop, kill its group if it does not in time; whether it stopped by itself."""
        if self._process.returncode is not None:
            return True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(self._part.stop_signal)
        try:
            await asyncio.wait_for(self._process.wait(), self._part.stop_timeout)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self._process.wait()
            return False
        return True


def _dies_with_us(stop_signal: signal.Signals) -> Callable[[], None]:
    """What the child does before exec: have the kernel stop it when this process dies, however it dies."""
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(stop_signal))
        if os.getppid() != parent:  # we died in between
            os._exit(1)

    return ask_kernel


def log_path(home: Path, part: str) -> Path:
    """Where a part's output goes."""
    return home / "logs" / f"{part}.log"


def bound_log(path: Path) -> None:
    """Once a log is too long, keep a copy and start it again; the oldest copy goes.

    Copied and truncated because the part holds it open (for appending, so that it continues at the start). Truncated
    without a copy where none can be made: on a full disk, room matters more than old lines. Raises OSError.
    """
    try:
        if path.stat().st_size < _LOG_LIMIT:
            return
    except FileNotFoundError:
        return
    for number in range(_LOGS_KEPT, 1, -1):
        older = path.with_suffix(f".log.{number - 1}")
        if older.exists():
            older.replace(path.with_suffix(f".log.{number}"))
    copy = path.with_suffix(".log.1")
    try:
        shutil.copyfile(path, copy)
    except OSError:
        copy.unlink(missing_ok=True)
        raise
    finally:
        os.truncate(path, 0)


def leftovers(home: Path) -> Iterator[int]:
    """Processes that some supervisor of this home started, directly or not.

    Without PostgreSQL, which must not be killed in its shutdown checkpoint: `EmbeddedPostgres.stop` has the patience for it.
    """
    postgres = EmbeddedPostgres(home / "postgres", socket_directory(home)).running_pid()
    wanted = os.fsencode(f"{HOME_VARIABLE}={home}")
    marker = os.fsencode(f"{PART_VARIABLE}=")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in (os.getpid(), postgres):
            continue
        with contextlib.suppress(OSError):  # gone by now, or another user's
            variables = (entry / "environ").read_bytes().split(b"\0")
            if wanted in variables and any(variable.startswith(marker) for variable in variables):
                yield int(entry.name)


async def sweep(home: Path, *, grace: float = 5.0) -> list[int]:
    """Stop every leftover: politely, after `grace` seconds by force. Returns the processes that were there."""
    found = list(leftovers(home))
    _signal_all(found, signal.SIGTERM)
    deadline = asyncio.get_running_loop().time() + grace
    while (alive := list(leftovers(home))) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - not our children
        await asyncio.sleep(0.05)
    _signal_all(alive, signal.SIGKILL)
    return found


def _signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
