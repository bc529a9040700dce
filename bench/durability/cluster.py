"""Prefect's server, a Dask scheduler and its workers as `pacs up` starts them, and flows as processes of their own: all made to be killed.

A flow's process is forked from one that has imported everything, which would otherwise take longer than the flow itself.
"""

import faulthandler
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

from pacs_core.supervisor.part import Part
from pacs_core.supervisor.plan import DASK, PREFECT, parts
from pacs_core.supervisor.postgres import create_database, prefect_database, prefect_url
from tests.support.processes import Daemon, clean_environment
from tests.support.tiered import TieredHome
from tests.support.waiting import eventually

FLOWS = ("archive", "migrate", "cleanup")

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
        assert create_database(settings.catalog_url, prefect_database(settings))
        chosen = {part.name: part for part in parts(settings, prefect_url(settings))}
        self._servers = [chosen[PREFECT], chosen[DASK]]
        self._workers = [part for name, part in chosen.items() if name.startswith("dask-worker")]
        self._env = {"PACS_HOME": str(home.home)}
        self._flow_env = {**chosen[PREFECT].env, **self._env}
        self._logs = settings.home / "logs"
        self._running: dict[str, Daemon] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([f"flows.{name}" for name in FLOWS])

    @property
    def workers(self) -> list[str]:
        """Their names."""
        return [part.name for part in self._workers]

    def start(self) -> None:
        """Return when the servers answer; the workers are on their way."""
        self._logs.mkdir(parents=True, exist_ok=True)
        for part in [*self._servers, *self._workers]:
            self._start(part)
        for part in self._servers:
            assert part.probe is not None
            eventually(part.probe, within=_READY_WITHIN, what=part.name)

    def stop(self) -> None:
        """At once, whatever the state."""
        for running in self._running.values():
            running.kill()

    def kill_worker(self, name: str) -> None:
        """kill -9."""
        self._running[name].kill()

    def revive(self) -> None:
        """Start every worker that is dead, as a supervisor would."""
        for part in self._workers:
            if self._running[part.name].process.poll() is not None:
                self._start(part)

    def run(self, flow: str, **parameters: object) -> FlowRun:
        """Start a flow."""
        log = self._logs / f"{flow}.log"
        process = self._context.Process(target=_run, args=(flow, parameters, self._flow_env, log))
        process.start()
        return FlowRun(process, log)

    def _start(self, part: Part) -> None:
        env = clean_environment(**{**part.env, **self._env})
        self._running[part.name] = Daemon(part.command, log=self._logs / f"{part.name}.log", env=env)


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
    with log.open("wb") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    faulthandler.enable()
    os.environ.update(env)
    context = import_module("prefect.context")
    context.refresh_global_settings_context()  # Prefect has read the environment when it was imported
    state = getattr(import_module(f"flows.{flow}"), flow)(**parameters, return_state=True)
    sys.exit(0 if state.is_completed() else 1)
