"""Starts parts in the order of their needs, restarts what dies, stops everything in reverse."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from pacs_core.errors import PacsError
from pacs_core.supervisor.part import Part, PartState, PartStatus
from pacs_core.supervisor.process import Child, bound_log, log_path, sweep

log = structlog.get_logger(__name__)

T = TypeVar("T")

_PROBE_INTERVAL = 0.05
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_HEALTHY_AFTER = 60.0  # a part that was ready for so many seconds starts again without a penalty
_ATTEMPTS_AT_START = 3
_TIDY_INTERVAL = 10.0
_OF_ANOTHER_PREFECT = ("PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_API_AUTH_STRING")


class StartFailed(PacsError):
    """A part did not become ready while the archive was starting."""


@dataclass(slots=True)
class _Kept:
    """A part and what has become of it."""

    part: Part
    state: PartState = PartState.WAITING
    child: Child | None = None
    restarts: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> PartStatus:
        pid = self.child.pid if self.child else None
        return PartStatus(self.part.name, self.state, self.part.address, pid, self.restarts)


class Supervisor:
    """Keeps the parts of one home running.

    Args:
        parts: in any order; their needs make no circle.
        home: of the archive; logs go to `<home>/logs`.
        environment: that of every part.
        say: prints one line for the person at the console.
        changed: told the state of all parts whenever one changes; again later if it raises OSError.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        home: Path,
        environment: Mapping[str, str],
        say: Callable[[str], None],
        changed: Callable[[Sequence[PartStatus]], None],
    ) -> None:
        self._kept = {part.name: _Kept(part) for part in parts}
        self._home = home
        self._environment = environment
        self._say = say
        self.changed = changed
        self._unpublished = False
        self._stopping = asyncio.Event()
        self._up = False
        self._threads = ThreadPoolExecutor(max_workers=2 * len(parts) + 2, thread_name_prefix="part")

    @property
    def status(self) -> list[PartStatus]:
        """Every part as it is now."""
        return [kept.status for kept in self._kept.values()]

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Run until SIGTERM, SIGINT or `stop`; `on_ready` is called once every part is ready.

        Raises StartFailed, with everything stopped again, if a part does not become ready at first.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        keepers = [asyncio.create_task(self._keep(kept), name=kept.part.name) for kept in self._kept.values()]
        keepers.append(asyncio.create_task(self._tidy(), name="tidy"))
        try:
            if await self._all_ready(keepers):
                self._up = True
                on_ready()
                await self._until_stopped(keepers)
        finally:
            self._stopping.set()
            await self._stop_everything()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            self._threads.shutdown(wait=False, cancel_futures=True)

    def publish(self) -> None:
        """Tell `changed` the state of every part. That a disk is full ends no archive: it is said, and tried again."""
        try:
            self.changed(self.status)
        except OSError as exc:
            if not self._unpublished:
                self._say(f"pacs: the state of the archive cannot be written: {exc}")
            self._unpublished = True
        else:
            self._unpublished = False

    def stop(self) -> None:
        """Have `run` stop everything and return."""
        self._stopping.set()

    async def _all_ready(self, keepers: Sequence["asyncio.Task[None]"]) -> bool:
        """False if asked to stop before. A keeper only ends by raising."""
        everything = asyncio.create_task(self._every_part_ready())
        done = await self._first_of(everything, keepers)
        everything.cancel()
        await asyncio.gather(everything, return_exceptions=True)
        return everything in done

    async def _every_part_ready(self) -> None:
        for kept in self._kept.values():
            await kept.ready.wait()

    async def _until_stopped(self, keepers: Sequence["asyncio.Task[None]"]) -> None:
        await self._first_of(asyncio.create_task(self._stopping.wait()), keepers)

    async def _first_of(self, awaited: "asyncio.Task[None] | asyncio.Task[bool]", keepers: Sequence["asyncio.Task[None]"]) -> set[Any]:
        stopping = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait({awaited, stopping, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in done.intersection(keepers):
            task.result()
        return done

    async def _keep(self, kept: _Kept) -> None:
        part = kept.part
        if not part.eager:
            for name in part.needs:
                if name in self._kept:
                    await self._kept[name].ready.wait()
        delay, failures = _FIRST_DELAY, 0
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            ready_at = None
            try:
                if await self._start(kept):
                    ready_at = loop.time()
                    self._announce_ready(kept)
                reason = await self._ended(kept, became_ready=ready_at is not None)
            except Exception as exc:  # noqa: BLE001 - of a part's hooks: one part's trouble is not the archive's end
                reason = await self._failed(kept, exc)
            if self._stopping.is_set():
                return
            failures += 1
            if ready_at is not None and loop.time() - ready_at > _HEALTHY_AFTER:
                delay, failures = _FIRST_DELAY, 1
            if not self._up and failures >= _ATTEMPTS_AT_START:
                raise StartFailed(f"{part.name} does not start: {reason} (see {log_path(self._home, part.name)})")
            kept.restarts += 1
            self._change(kept, PartState.RESTARTING)
            self._say(f"{part.name}: {reason}; starting it again in {delay:g} s (log: {log_path(self._home, part.name)})")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    async def _failed(self, kept: _Kept, exc: Exception) -> str:
        """Stop what may have been started; why it did not start."""
        if not isinstance(exc, PacsError | OSError):
            log.error("part_hook_failed", part=kept.part.name, exc_info=exc)
        if kept.child is not None:
            await kept.child.stop()
        return str(exc) or type(exc).__name__

    async def _start(self, kept: _Kept) -> bool:
        """Start it and wait until it is ready; False if it ended or stayed silent instead."""
        part = kept.part
        self._change(kept, PartState.STARTING)
        if part.prepare is not None:
            await self._in_thread(part.prepare)
        if self._stopping.is_set():
            return False
        kept.child = await Child.start(part, home=self._home, environment=self._environment)
        self._change(kept, PartState.STARTING)
        exited = asyncio.create_task(kept.child.wait())
        answers = asyncio.create_task(self._answers(part, kept.child))
        await asyncio.wait({exited, answers}, return_when=asyncio.FIRST_COMPLETED, timeout=part.start_timeout)
        ready = answers.done() and not answers.cancelled() and answers.result()
        answers.cancel()
        await asyncio.gather(answers, return_exceptions=True)
        if not ready or kept.child is None:
            return False
        if part.complete is not None:
            await self._in_thread(part.complete)
        return True

    async def _answers(self, part: Part, child: Child) -> bool:
        if part.probe is None:
            return await child.notified()
        while not await self._in_thread(part.probe):  # noqa: ASYNC110 - another process is asked
            await asyncio.sleep(_PROBE_INTERVAL)
        return True

    async def _ended(self, kept: _Kept, *, became_ready: bool) -> str:
        child = kept.child
        if child is None:
            return "not started"
        if not became_ready and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):  # it may be about to exit, with a better reason than silence
                return _describe(await asyncio.wait_for(child.wait(), 0.5))
            await child.stop()
            return f"not ready within {kept.part.start_timeout:g} s"
        status = await child.wait()
        return _describe(status)

    def _announce_ready(self, kept: _Kept) -> None:
        self._change(kept, PartState.READY)
        kept.ready.set()
        again = "again " if kept.restarts else ""
        self._say(f"{kept.part.name}: {again}ready {kept.part.address}".rstrip())

    async def _stop_everything(self) -> None:
        self._say("stopping")
        await asyncio.gather(*(self._stop(kept) for kept in self._kept.values()))
        if strays := await sweep(self._home):
            log.info("stray_processes_stopped", pids=strays)

    async def _stop(self, kept: _Kept) -> None:
        for other in self._kept.values():
            if kept.part.name in other.part.needs:
                await other.stopped.wait()
        if kept.child is not None and not await kept.child.stop():
            self._say(f"{kept.part.name}: did not stop within {kept.part.stop_timeout:g} s and was killed")
        kept.child = None
        self._change(kept, PartState.STOPPED)
        kept.stopped.set()

    async def _tidy(self) -> None:
        while True:
            for name in self._kept:
                try:
                    await self._in_thread(partial(bound_log, log_path(self._home, name)))
                except OSError as exc:
                    log.warning("log_not_bounded", part=name, error=str(exc))
            if self._unpublished:
                self.publish()
            await asyncio.sleep(_TIDY_INTERVAL)

    def _change(self, kept: _Kept, state: PartState) -> None:
        kept.state = state
        self.publish()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _describe(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"


def own_environment() -> dict[str, str]:
    """Ours, without what would lead a part to another Prefect than the archive's."""
    return {
        name: value for name, value in os.environ.items() if name not in ("PREFECT_API_KEY", "PREFECT_PROFILE", "PREFECT_API_AUTH_STRING")
    }
