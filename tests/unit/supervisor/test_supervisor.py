"""Supervision of small real processes."""

import asyncio
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import pacs_core.supervisor.supervisor as supervisor_module
from pacs_core.supervisor.flow_api import FlowServiceUnavailable
from pacs_core.supervisor.part import Part, PartState, PartStatus
from pacs_core.supervisor.process import leftovers, log_path
from pacs_core.supervisor.supervisor import StartFailed, Supervisor

READY = "import os; os.write(int(os.environ['PACS_READY_FD']), b'ready\\n')\n"
SLEEP = "import time\nwhile True: time.sleep(60)\n"


class Console:
    """What was said, and every state that was seen."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.states: list[list[PartStatus]] = []

    def changed(self, parts: Sequence[PartStatus]) -> None:
        self.states.append(list(parts))

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)


def python(name: str, code: str, **options: object) -> Part:
    return Part(name=name, command=(sys.executable, "-S", "-c", code), **options)  # type: ignore[arg-type]  # options of any kind


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def supervise(home: Path, parts: Sequence[Part], while_up: Callable[[Supervisor, Console], Callable[[], bool]] | None = None) -> Console:
    """Run until ready, then until the condition that `while_up` returns, then stop."""
    console = Console()
    supervisor = Supervisor(parts, home=home, environment=dict(os.environ), say=console.lines.append, changed=console.changed)

    async def watch() -> None:
        condition = while_up(supervisor, console) if while_up else lambda: True
        while not condition():  # noqa: ASYNC110 - what is awaited happens in other processes
            await asyncio.sleep(0.02)
        supervisor.stop()

    async def main() -> None:
        watchers: list[asyncio.Task[None]] = []
        await supervisor.run(lambda: watchers.append(asyncio.get_running_loop().create_task(watch())))
        await asyncio.gather(*watchers)

    asyncio.run(asyncio.wait_for(main(), 60))
    return console


def test_a_part_starts_after_what_it_needs_and_stops_before_it(home: Path) -> None:
    console = supervise(home, [python("second", READY + SLEEP, needs=("first",)), python("first", READY + SLEEP)])
    assert console.lines[:2] == ["first: ready", "second: ready"]
    stopped = [
        {part.name for part in parts if part.state is PartState.STOPPED}
        for parts in console.states
        if any(part.state is PartState.STOPPED for part in parts)
    ]
    assert stopped[0] == {"second"}
    assert not list(leftovers(home))


def test_a_part_that_dies_is_started_again_and_that_is_said(home: Path) -> None:
    def kill(supervisor: Supervisor, console: Console) -> Callable[[], bool]:
        pid = supervisor.status[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        return lambda: console.said("part: again ready")

    console = supervise(home, [python("part", READY + SLEEP)], kill)
    assert console.said("part: was killed by SIGKILL; starting it again in 0.5 s")


def test_a_part_that_never_starts_ends_the_start_with_its_log(home: Path) -> None:
    with pytest.raises(StartFailed, match=r"broken does not start: ended with status 3 .*broken\.log"):
        supervise(home, [python("broken", "import sys; print('why', file=sys.stderr); sys.exit(3)"), python("fine", READY + SLEEP)])
    assert log_path(home, "broken").read_text().count("why") == 3
    assert not list(leftovers(home))


def test_a_part_that_stays_silent_is_not_waited_for_for_ever(home: Path) -> None:
    with pytest.raises(StartFailed, match=r"not ready within 0\.3 s"):
        supervise(home, [python("silent", SLEEP, start_timeout=0.3)])


def test_a_stubborn_part_and_its_children_are_killed(home: Path) -> None:
    stubborn = (
        "import signal, subprocess, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
    )
    console = supervise(home, [python("stubborn", stubborn + READY + SLEEP, stop_timeout=0.5)])
    assert console.said("stubborn: did not stop within 0.5 s and was killed")
    assert not list(leftovers(home))


def test_a_child_that_left_its_group_does_not_stay_behind(home: Path) -> None:
    runaway = (
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    )
    supervise(home, [python("runaway", runaway + READY + SLEEP)])
    assert not list(leftovers(home))


def test_what_a_part_prints_is_in_its_log(home: Path) -> None:
    supervise(home, [python("talker", "print('out', flush=True); import sys; print('err', file=sys.stderr)\n" + READY + SLEEP)])
    assert set(log_path(home, "talker").read_text().split()) == {"out", "err"}


def test_preparing_and_completing_happen_around_readiness(home: Path) -> None:
    order: list[str] = []

    def probe() -> bool:
        order.append("probe")
        return True

    part = python(
        "part",
        SLEEP,
        prepare=lambda: order.append("prepare"),
        probe=probe,
        complete=lambda: order.append("complete"),
    )
    console = supervise(home, [part])
    assert order == ["prepare", "probe", "complete"]
    assert console.said("part: ready")


@pytest.mark.parametrize("failure", [FlowServiceUnavailable("not now"), ValueError("not foreseen")])
def test_a_part_that_cannot_be_completed_is_stopped_and_started_again(home: Path, failure: Exception) -> None:
    failures = iter((failure,))

    def complete() -> None:
        for first in failures:
            raise first

    seen: list[int] = []

    def both_starts(supervisor: Supervisor, _: Console) -> Callable[[], bool]:
        seen.extend(leftovers(home))
        assert seen == [supervisor.status[0].pid]
        return lambda: True

    console = supervise(home, [python("part", READY + SLEEP, complete=complete)], both_starts)
    assert len(seen) == 1
    assert console.said(f"part: {failure}; starting it again")


def test_a_full_disk_stops_neither_the_archive_nor_its_end(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "_TIDY_INTERVAL", 0.02)
    monkeypatch.setattr(supervisor_module, "bound_log", refuse)
    written: list[Sequence[PartStatus]] = []
    full = threading.Event()

    def changed(parts: Sequence[PartStatus]) -> None:
        if full.is_set():
            refuse()
        written.append(parts)

    def fill(supervisor: Supervisor, console: Console) -> Callable[[], bool]:
        full.set()
        supervisor.changed = changed
        supervisor.publish()
        os.kill(supervisor.status[0].pid or 0, signal.SIGKILL)

        def again() -> bool:
            if console.said("part: again ready"):
                full.clear()
            return bool(written)

        return again

    console = supervise(home, [python("part", READY + SLEEP)], fill)
    assert sum("cannot be written" in line for line in console.lines) == 1
    assert {part.state for part in written[0]} == {PartState.READY}
    assert {part.state for part in written[-1]} == {PartState.STOPPED}


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
