"""Prefect's server (unless there is one), a Dask scheduler and workers as `pacs up` has them, and flows as processes: made to be killed.

Flows and workers are forked from a process that has imported everything, which would otherwise take them longer than their work.
"""

import faulthandler
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

from pacs_core.supervisor.plan import DASK, PREFECT, parts, prefect_environment
from pacs_core.supervisor.postgres import create_database, prefect_database, prefect_url
from tests.support.processes import Daemon, clean_environment
from tests.support.tiered import TieredHome
from tests.support.waiting import eventually

FLOWS = ("archive", "migrate", "cleanup")
_IMPORTED = [*(f"flows.{name}" for name in FLOWS), "distributed.cli.dask_worker", "bench.durability.places"]

ENDS_WITHIN = 240.0  # seconds; a run waits a minute before it tries for the last time

_SHARE_AT_WORK = 0.6  # of the moments
_SOON = 0.4  # seconds
_READY_WITHIN = 120.0  # seconds; Prefect's database has migrations to run
_LOG_END = 3000


class FlowRun:
    """A flow at work in a process of its own."""

    def __init__(self, process: BaseProcess, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def is_over(self) -> bool:
        """Whether the process has ended."""
        return not self._process.is_alive()

    @property
    def is_completed(self) -> bool:
        """Whether the flow has ended by itself, and well."""
        return self._process.exitcode == 0

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.join()

    def ends(self) -> bool:
        """Wait for its end, as long as it may take; one that is still at work then tells in its log where it is, and is ended."""
        self._process.join(ENDS_WITHIN)
        if self.is_over:
            return True
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGABRT)
        self._process.join()
        return False

    def told(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-_LOG_END:]


def await_moment(run: FlowRun, is_at_work: Callable[[], bool], rng: random.Random, *, usual: float) -> float:
    """Return at a random moment of a run that usually takes so many seconds, more often than not just after its work began; the seconds."""
    started = time.monotonic()
    if rng.random() < _SHARE_AT_WORK:
        eventually(lambda: run.is_over or is_at_work(), within=ENDS_WITHIN, what="work")
        time.sleep(rng.uniform(0, _SOON))  # not a wait for anything, but the random moment itself
    else:
        time.sleep(rng.uniform(0, usual))
    return time.monotonic() - started


class Cluster:
    """What flows of a home run on. Started by `start`, ended by `stop`."""

    def __init__(self, home: TieredHome) -> None:
        settings = home.settings
        if not settings.prefect_api_url:
            assert create_database(settings.catalog_url, prefect_database(settings))
        chosen = parts(settings, prefect_url(settings))
        self._servers = [part for part in chosen if part.name in (PREFECT, DASK)]
        self._parts_of_workers = [part for part in chosen if part.name.startswith("dask-worker")]
        self._env = {**prefect_environment(settings, prefect_url(settings)), "PACS_HOME": str(home.home)}
        self._logs = settings.home / "logs"
        self._running: list[Daemon] = []
        self.workers: list[BaseProcess] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_IMPORTED)

    def start(self) -> None:
        """Return when the servers answer; the workers are on their way."""
        self._logs.mkdir(parents=True, exist_ok=True)
        env = clean_environment(**self._env)
        for part in self._servers:
            self._running.append(Daemon(part.command, log=self._logs / f"{part.name}.log", env=env))
        for part in self._servers:
            assert part.probe is not None
            eventually(part.probe, within=_READY_WITHIN, what=part.name)
        self.workers = [self._fork(_work, part.name, part.command) for part in self._parts_of_workers]

    def stop(self) -> None:
        """At once, whatever the state."""
        for worker in self.workers:
            worker.kill()
            worker.join()
        for running in self._running:
            running.kill()

    def kill_workers(self, *numbers: int) -> None:
        """kill -9; others are started at once, as a supervisor would."""
        for number in numbers:
            self.workers[number].kill()
            self.workers[number].join()
            part = self._parts_of_workers[number]
            self.workers[number] = self._fork(_work, part.name, part.command)

    def run(self, flow: str, **parameters: object) -> FlowRun:
        """Start a flow."""
        return FlowRun(self._fork(_run, flow, parameters), self._logs / f"{flow}.log")

    def _fork(self, target: Callable[..., None], name: str, what: object) -> BaseProcess:
        process = self._context.Process(target=target, args=(name, what, self._env, self._logs / f"{name}.log"))
        process.start()
        return process


@contextmanager
def running_cluster(home: TieredHome) -> Iterator[Cluster]:
    """A cluster for the length of a `with` block."""
    cluster = Cluster(home)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _run(flow: str, parameters: Mapping[str, object], env: Mapping[str, str], log: Path) -> None:
    """The process of a flow: exits 0 if it completes."""
    _become(env, log)
    state = getattr(import_module(f"flows.{flow}"), flow)(**parameters, return_state=True)
    sys.exit(0 if state.is_completed() else 1)


def _work(_: str, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
    """The process of a worker: `python -m module arguments` without starting another Python."""
    _become(env, log)
    module, arguments = command[2], command[3:]
    import_module(module).main(arguments)


def _become(env: Mapping[str, str], log: Path) -> None:
    """Have an environment and a log of one's own, also in the eyes of what is imported already."""
    with log.open("ab") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    faulthandler.enable()
    os.environ.update(env)
    import_module("prefect.context").refresh_global_settings_context()
    import_module("dask.config").refresh()
