"""What bounds ingest: `python -m bench.bounds [--rounds 5] [--quick]`. Where the time of an instance goes, ours and storescp's.

The time is that from the first connection to the last acknowledgement, over the number of instances. CPU is that of each party until
the index has everything. The phases are what the listener's own log says of its associations; with several of them they overlap.
Two rows stand beside them that no archive comes below which syncs and hashes before it answers: the bytes of such an instance
written over a part of a file and flushed, and their SHA-256, each alone on an idle machine.
"""

import hashlib
import os
import re
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.command import Options, parse, scratch
from bench.durability.site import home_of
from bench.ingest import LOADS, Load
from bench.peers import ours, settle, storescp_process
from bench.storing import store
from bench.table import report
from bench.wire import VERIFICATION, connected
from tests.support.archive import Listener
from tests.support.dcmtk import Scp
from tests.support.waiting import eventually

_PHASES = {"receive": "receiving", "sync": "making durable", "acknowledge": "answering"}
_PHASE = re.compile(r"c_store_(\w+)_seconds=([\d.]+)")
_ALONE = 100  # how often the disk and the hash are tried for a median

_Cpu = Callable[[], float]  # seconds so far
_Times = dict[str, float]  # the name of a row to milliseconds per instance


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Who receives: the parties whose CPU counts, what to wait for when the client is done, and what else there is to tell."""

    scp: Scp
    parties: Mapping[str, _Cpu]
    settle: Callable[[], object]
    phases: Callable[[], Mapping[str, float]] = dict  # seconds of all instances since the last call

    def measure(self, name: str, folders: Sequence[Path], count: int) -> _Times:
        """One batch."""
        before = {party: cpu() for party, cpu in self._everybody()}
        started = time.perf_counter()
        store(self.scp, folders)
        rows = {name: time.perf_counter() - started}
        self.settle()
        rows |= {f"{name}: {phase}": seconds for phase, seconds in self.phases().items()}
        rows |= {f"{name}: CPU of {party}": cpu() - before[party] for party, cpu in self._everybody()}
        return {row: seconds * 1000 / count for row, seconds in rows.items()}

    def _everybody(self) -> Iterator[tuple[str, _Cpu]]:
        yield "the client", _of_clients
        yield from self.parties.items()


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    with scratch() as root:
        for number, load in enumerate(LOADS):
            results = _compare(root / str(number), load, options)
            report(f"ingest, {load.title}", "ms per instance", results)


def _compare(root: Path, load: Load, options: Options) -> dict[str, list[float]]:
    batches = load.batches(root / "source", options)
    results: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        pacs = stack.enter_context(ours(root / "pacs", listeners=load.listeners, settings={"PACS_LOG_LEVEL": "info"}))
        scp, process = stack.enter_context(storescp_process(root / "storescp"))
        candidates = {"pacs": _pacs(pacs, root, load.associations), "storescp": _storescp(scp, process.process.pid)}
        for number in range(-1, options.rounds):
            folders = batches.of_round(number)
            alone = _alone(root, next(folders[0].rglob("*.dcm")).read_bytes())
            for name, candidate in candidates.items():
                os.sync()
                alone |= candidate.measure(name, folders, batches.count)
            for row, figure in alone.items() if number >= 0 else ():
                results[row].append(figure)
    return results


def _pacs(listener: Listener, root: Path, associations: int) -> _Candidate:
    def cpu_of(command: str) -> _Cpu:
        return lambda: sum(_spent(each) for each in _processes(command) if home_of(each) == str(listener.home))

    def of_postgres() -> float:
        (postmaster,) = _processes(str(root / "pacs" / "postgres" / "data"))
        return _spent(postmaster, ended_children=True) + sum(map(_spent, postmaster.children()))

    parties = {"the listeners": cpu_of("listen"), "the committer": cpu_of("commit"), "PostgreSQL": of_postgres}
    return _Candidate(listener.scp, parties, lambda: settle(listener), _Phases(listener.log, associations))


def _storescp(scp: Scp, pid: int) -> _Candidate:
    def call_again() -> None:
        """It takes note of the end of its children, and their CPU, each time it has been called: before it answers the second call."""
        for _ in range(2):
            with connected(scp, VERIFICATION):
                pass

    return _Candidate(scp, {"storescp": lambda: _spent(psutil.Process(pid), ended_children=True)}, call_again)


class _Phases:
    """What a listener's log says of the associations that have ended since it was asked last."""

    def __init__(self, path: Path, associations: int) -> None:
        self._path, self._associations, self._read = path, associations, 0

    def __call__(self) -> Mapping[str, float]:
        """Seconds by phase, of all instances together."""
        lines = eventually(self._ended, what="the log's account of the associations")
        spent: dict[str, float] = defaultdict(float)
        for phase, seconds in _PHASE.findall("\n".join(lines)):
            if phase in _PHASES:
                spent[_PHASES[phase]] += float(seconds)
        return spent

    def _ended(self) -> list[str]:
        with self._path.open() as log:
            log.seek(self._read)
            lines = [line for line in log.readlines() if "association_closed" in line and "c_store_0000=" in line]
            if len(lines) < self._associations:
                return []
            self._read = log.tell()
        return lines


def _alone(root: Path, content: bytes) -> _Times:
    path = root / "alone"
    path.write_bytes(bytes(len(content) * _ALONE))
    os.sync()
    with path.open("r+b", buffering=0) as file:

        def write(number: int) -> None:
            os.pwrite(file.fileno(), content, number * len(content))
            os.fdatasync(file.fileno())

        return {
            "alone: written over and flushed": _median_of(write),
            "alone: SHA-256": _median_of(lambda _: hashlib.sha256(content).digest()),
        }


def _median_of(do: Callable[[int], object]) -> float:
    taken = []
    for number in range(_ALONE):
        started = time.perf_counter()
        do(number)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def _of_clients() -> float:
    """Of the children of this process that have ended: among those that end during a batch, clients alone."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _spent(process: psutil.Process, *, ended_children: bool = False) -> float:
    times = process.cpu_times()
    own: float = times.user + times.system
    return own + times.children_user + times.children_system if ended_children else own


def _processes(argument: str) -> list[psutil.Process]:
    """Those that have it in their command line."""
    return [each for each in psutil.process_iter(["cmdline"]) if argument in (each.info["cmdline"] or ())]


if __name__ == "__main__":
    main()
