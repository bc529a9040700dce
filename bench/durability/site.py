"""An archive of several listener processes on one port that is made to be killed, with whatever processes it starts."""

import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from bench.command import scratch
from bench.durability.checker import Findings, Index, check, incoming
from bench.durability.client import echo
from bench.durability.oracle import Oracle
from tests.support.archive import PACS, Listener
from tests.support.catalog import Catalogs
from tests.support.processes import Daemon
from tests.support.waiting import eventually

CAUGHT_UP_WITHIN = 60.0  # seconds

_READY_WITHIN = 60.0
_ENDED_WITHIN = 30.0


class Site:
    """Listeners in one home. Started by `start`, killed and launched again one by one, and ended by `stop`.

    Attributes:
        home: the archive's directory.
        oracle: where the clients write what they were answered.
        listeners: the listener processes.
        scp: how clients reach them.
        log: what all processes have logged.
        environment: what a `pacs` command needs to mean this archive.
    """

    def __init__(self, folder: Path, catalog_url: str, *, listeners: int = 1, settings: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.home = folder / "home"
        self.oracle = folder / "oracle"
        template = Listener(self.home, catalog_url=catalog_url, settings=settings)
        self.scp, self.log, self.environment = template.scp, template.log, template.env
        self.listeners: list[Daemon] = []
        self.index = Index(catalog_url, self.home)
        self._count = listeners

    @property
    def hot(self) -> Path:
        """Where objects land."""
        return self.home / "hot"

    @property
    def journal(self) -> Path:
        """Where the journal's segments are."""
        return self.home / "journal"

    def start(self) -> None:
        """Return when every listener answers and something indexes."""
        self.listeners = [self._new() for _ in range(self._count)]
        self.await_ready()
        self.await_committer()

    def launch(self, number: int) -> None:
        """Start a listener that has died, and wait for nothing."""
        self.listeners[number].process.wait()
        self.listeners[number] = self._new()

    def kill_all(self) -> None:
        """Every process of this home at once."""
        while alive := self.processes():  # what was being started is found the second time
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            for process in alive:  # not those that are found now: a process that is ending does not tell its home any more
                kill(process)

    def await_ready(self) -> None:
        """Return when every listener accepts connections and a C-ECHO is answered."""
        eventually(lambda: all(map(self._is_listening, self.listeners)), within=_READY_WITHIN, what="every listener listening")
        eventually(lambda: echo(self.scp), within=_READY_WITHIN, what="an answer to C-ECHO")

    def stop(self) -> None:
        """In order. Whatever outlives its listener is an AssertionError."""
        for listener in self.listeners:
            listener.stop()
        self.index.close()
        with suppress(AssertionError):
            eventually(lambda: not self.processes(), within=_ENDED_WITHIN, what="the end of every process")
        left = [" ".join(process.cmdline()) for process in self.processes()]
        assert not left, f"still running after every listener has ended: {left}"

    def end(self) -> None:
        """At once, whatever the state. Harmless after `stop`."""
        self.kill_all()
        for listener in self.listeners:
            listener.process.wait()
        self.index.close()

    def processes(self) -> list[psutil.Process]:
        """Every living process of this home, those without a parent included."""
        return [process for process in psutil.process_iter() if not is_over(process) and home_of(process) == str(self.home)]

    def listener(self, number: int) -> psutil.Process:
        """A listener as a process."""
        return psutil.Process(self.listeners[number].process.pid)

    def committers(self) -> list[psutil.Process]:
        """The processes that index: children of the listeners, also of one that has died."""
        return [process for process in self.processes() if _is_committer(process)]

    def await_committer(self, *, other_than: Sequence[int] = ()) -> psutil.Process:
        """The process that indexes, once there is one."""

        def found() -> psutil.Process | None:
            return next((process for process in self.committers() if process.pid not in other_than), None)

        process = eventually(found, within=_READY_WITHIN, what="a process that indexes")
        assert process is not None, "eventually returns what is true"
        return process

    def await_indexed(self, *, within: float = CAUGHT_UP_WITHIN) -> float:
        """Return when all that is acknowledged now has its row; the seconds that it took, infinite if they were too few."""
        uids = Oracle.read(self.oracle).acknowledged
        started = time.monotonic()
        try:
            eventually(lambda: self.index.holds(uids), within=within, what="the index complete")
        except AssertionError:
            return math.inf
        return time.monotonic() - started

    def settle(self, *, patience: float = 2 * CAUGHT_UP_WITHIN) -> Findings:
        """Let what is under way come to an end, stop, and compare with the oracle. To be called when nobody sends any more.

        What does not come in time is found as missing.
        """
        oracle = Oracle.read(self.oracle)
        with _in_vain_is_found():
            eventually(lambda: self.index.holds(oracle.acknowledged), within=patience, what="the index complete")
        with _in_vain_is_found():
            eventually(lambda: not incoming(self.hot), within=_ENDED_WITHIN, what="an empty .incoming")
        rows = self.index.rows()
        self.stop()
        return check(self.hot, rows, oracle)

    def _new(self) -> Daemon:
        return Daemon([PACS, "listen"], log=self.log, env=self.environment)

    def _is_listening(self, listener: Daemon) -> bool:
        if listener.process.poll() is not None:
            raise AssertionError(f"a listener exited {listener.process.returncode}:\n{listener.output()[-4000:]}")
        return any(each.status == psutil.CONN_LISTEN for each in _connections(listener.process.pid, self.scp.port))


def established(site: Site) -> int:
    """How many connections of clients the listeners hold."""
    connections = (each for listener in site.listeners for each in _connections(listener.process.pid, site.scp.port))
    return sum(each.status == psutil.CONN_ESTABLISHED for each in connections)


def kill(process: psutil.Process) -> None:
    """End a process as if it had never been; returns when it is gone."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return
    eventually(lambda: is_over(process), within=_ENDED_WITHIN, what=f"the end of process {process.pid}")


def is_over(process: psutil.Process) -> bool:
    """Whether a process and all its threads have ended; who started it may not know yet."""
    try:
        return not process.is_running() or (process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)
    except psutil.Error:
        return True


@contextmanager
def running_site(folder: Path, catalog_url: str, *, listeners: int = 1, settings: Mapping[str, str] | None = None) -> Iterator[Site]:
    """A site for the length of a `with` block, at whose end nothing of it is left."""
    site = Site(folder, catalog_url, listeners=listeners, settings=settings)
    try:
        site.start()
        yield site
    finally:
        site.end()


@contextmanager
def workplace() -> Iterator[tuple[Path, Catalogs]]:
    """An empty folder on a real disk, and a PostgreSQL, for the length of a `with` block.

    What a benchmark leaves in the folder is evidence of what went wrong, and is kept beside the clone.
    """
    with scratch() as root, running_catalogs(root / "postgres") as catalogs:
        folder = root / "archives"
        folder.mkdir()
        try:
            yield folder, catalogs
        finally:
            if folder.exists() and any(folder.iterdir()):
                kept = root.with_name(f"pacs-evidence-{time.strftime('%H%M%S')}")
                folder.replace(kept)
                print(f"  (kept as {kept})")


@contextmanager
def running_catalogs(folder: Path) -> Iterator[Catalogs]:
    """A PostgreSQL for the length of a `with` block."""
    catalogs = Catalogs(folder)
    catalogs.start()
    try:
        yield catalogs
    finally:
        catalogs.stop()


@contextmanager
def _in_vain_is_found() -> Iterator[None]:
    """Waiting in vain is no error here: what is missing is found by the check."""
    try:
        yield
    except AssertionError as exc:
        print(f"  ({exc})")


def _connections(pid: int, port: int) -> list[Any]:
    """A process's sockets on a local port, the listening one among them."""
    try:
        return [each for each in psutil.Process(pid).net_connections("tcp") if each.laddr.port == port]
    except psutil.NoSuchProcess:
        return []


def home_of(process: psutil.Process) -> str:
    """The home that a process of ours works for; "" for every other process."""
    try:
        return process.environ().get("PACS_HOME", "")
    except (psutil.Error, OSError):  # it has ended, or is a kernel thread
        return ""


def _is_committer(process: psutil.Process) -> bool:
    try:
        return " commit" in " ".join(process.cmdline())
    except psutil.Error:
        return False
