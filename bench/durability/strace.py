"""Faults at system calls, injected with strace: the archive needs no hooks, and the fault is where the kernel sees it.

A process that is to be killed dies as it enters the call, which is not made. strace counts calls for each thread by itself.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.processes import Daemon, clean_environment
from tests.support.waiting import eventually

_ATTACHED_WITHIN = 30.0
_CALL = re.compile(r"^(?P<thread>\d+) +(?P<call>\w+)\((?P<arguments>.*)\) += (?P<result>.*)$")
_UNFINISHED = re.compile(r"^(?P<thread>\d+) +(?P<begin>\w+\(.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(?P<thread>\d+) +<\.\.\. \w+ resumed>(?P<end>.*)$")
_SUFFIXES = (".dcm", ".part", ".journal", ".json", ".parquet")
_DESCRIPTOR = re.compile(r"^(?:\w+)<(?P<path>[^>]*)>")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to which calls.

    Attributes:
        calls: names of system calls.
        action: in strace's words, such as `signal=SIGKILL`.
        when: at the how many-th of them in a thread.
        paths: only of calls that concern one of these files; empty for all.
    """

    calls: Sequence[str]
    action: str
    when: int
    paths: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """A system call as it was seen.

    Attributes:
        thread: who made it.
        path: of the descriptor that it was made on, or a description of a socket; empty where it was made on none.
        injected: its result is strace's and not the kernel's.
    """

    thread: int
    name: str
    arguments: str
    result: str
    path: str

    @property
    def injected(self) -> bool:
        return "(INJECTED)" in self.result

    @property
    def failed(self) -> bool:
        return self.result.startswith("-1") or self.result == "?"


@contextmanager
def injected(process: psutil.Process, fault: Fault, log: Path, *, traced: Sequence[str] = ()) -> Iterator[Daemon]:
    """Trace a process with a fault, for the length of a `with` block, and let it go at the end: alive, or wholly dead.

    Args:
        process: with all its threads, and the children that it starts from now on.
        fault: what is to happen.
        log: where the calls are written, for `calls`.
        traced: calls that are written too, with no fault.
    """
    calls = ",".join(fault.calls)
    command: list[str | Path] = ["strace", "-f", "-yy", "-s", "0", "-o", log, "-p", str(process.pid)]
    command += [part for path in fault.paths for part in ("-P", path)]
    command += [
        "-e",
        f"trace={','.join({*fault.calls, *traced})}",
        "-e",
        "signal=none",
        "-e",
        f"inject={calls}:{fault.action}:when={fault.when}",
    ]
    tracer = Daemon(command, log=log.with_suffix(".err"), env=clean_environment())
    try:
        eventually(lambda: _is_attached(tracer, process), within=_ATTACHED_WITHIN, what="strace attached")
        yield tracer
    finally:
        tracer.stop()


def calls(log: Path) -> Iterator[Call]:
    """What strace has written, in the order in which the calls ended."""
    begun: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        if unfinished := _UNFINISHED.match(line):
            begun[unfinished["thread"]] = unfinished["begin"]
            continue
        if resumed := _RESUMED.match(line):
            line = f"{resumed['thread']} {begun.pop(resumed['thread'], '?(')}{resumed['end']}"  # noqa: PLW2901  # the whole line
        if call := _CALL.match(line):
            on = _DESCRIPTOR.match(call["arguments"])
            yield Call(int(call["thread"]), call["call"], call["arguments"], call["result"], on["path"] if on else "")


def struck(log: Path) -> str:
    """The kind of call that a process was killed at, for a table: the call, and what it was made on. Empty if it was not killed here."""
    killed = [call for call in calls(log) if call.result == "?"]
    return f"{killed[-1].name} {kind_of_file(killed[-1])}" if killed else ""


def kind_of_file(call: Call) -> str:
    """What a call was made on, for a table: without what is unique."""
    if call.path.startswith(("TCP", "UNIX")):
        return call.path.split(":", 1)[0]
    quoted = re.findall(r'"([^"]*)"', call.arguments)
    path = Path(call.path or (quoted[-1] if quoted else ""))
    if path.suffix in _SUFFIXES:
        return f"*{path.suffix}"
    return "a file without a name" if path.name.startswith("#") else "a directory"


def _is_attached(tracer: Daemon, process: psutil.Process) -> bool:
    """Whether strace says so. The process may be dead by then, and strace ended."""
    output = tracer.output()
    if f"Process {process.pid} attached" in output:
        return True
    if tracer.process.poll() is not None:
        raise AssertionError(f"strace ended:\n{output}")
    return False
