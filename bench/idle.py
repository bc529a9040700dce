"""Idle associations: `python -m bench.idle [--rounds 5] [--quick]`. Memory that each of 200 open ones costs its archive.

Growth of the process that listens from no association to 200 that have each had a C-ECHO, or a C-STORE of a CT, and now wait.
What counts is its anonymous memory (`Pss_Anon`): its share of libraries depends on who else has loaded them. Every round has a
fresh process. At the end one more association is tried, with DCMTK's echoscu.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
from pydicom.uid import CTImageStorage

from bench.command import parse, scratch
from bench.peers import ours, pynetdicom, start, storescp_process
from bench.table import Limit, interleave, report
from bench.wire import VERIFICATION, Client, connected, echo_request, store_request
from tests.support.archive import Listener
from tests.support.dcmtk import Scp, echoscu
from tests.support.processes import Daemon
from tests.support.synthetic import Study

_ASSOCIATIONS = 200
_STEADY, _PAUSE = 0.25, 1.0  # MiB of change within so many seconds
_ECHOED, _STORED = "pacs, after a C-ECHO", "pacs, after a C-STORE"


@dataclass(frozen=True, slots=True)
class _Memory:
    """Of a process, or of one that has a child for each association."""

    process: Daemon
    with_children: bool = False

    def settled(self) -> float:
        """MiB, once nothing is being loaded or given back any more."""
        before, now = -1.0, self._now()
        while abs(now - before) > _STEADY:
            time.sleep(_PAUSE)
            before, now = now, self._now()
        return now

    def _now(self) -> float:
        parent = psutil.Process(self.process.process.pid)
        processes = [parent, *(parent.children(recursive=True) if self.with_children else [])]
        return sum(_anonymous(each.pid) for each in processes)


def _anonymous(pid: int) -> float:
    """In MiB; nothing of a child that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) / 1024


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    rounds = 1 if options.quick else options.rounds
    with scratch() as root, ours(root / "pacs", settings={"PACS_MAX_ASSOCIATIONS": str(_ASSOCIATIONS)}) as pacs:
        folders = (root / f"peer-{number}" for number in count())

        def of_pynetdicom(_: int) -> float:
            with pynetdicom(next(folders)) as (scp, process):
                return _growth(scp, _Memory(process), VERIFICATION, _echo)

        def of_storescp(_: int) -> float:
            with storescp_process(next(folders)) as (scp, process):
                return _growth(scp, _Memory(process, with_children=True), VERIFICATION, _echo)

        candidates = {
            _ECHOED: lambda _: _growth_of_ours(pacs, VERIFICATION, _echo),
            _STORED: lambda _: _growth_of_ours(pacs, CTImageStorage, _store),
            "pynetdicom, after a C-ECHO": of_pynetdicom,
            "storescp, after a C-ECHO": of_storescp,
        }
        results = interleave(candidates, rounds=rounds, warm_up=False)
        report("memory of an idle association", "MiB", results, targets=[Limit(_ECHOED, 1.0), Limit(_STORED, 1.0)])
        _show_one_too_many(pacs.scp)


def _growth_of_ours(listener: Listener, abstract_syntax: str, use: Callable[[Client], None]) -> float:
    listener.stop()
    start(listener)
    return _growth(listener.scp, _Memory(listener.process), abstract_syntax, use)


def _growth(scp: Scp, memory: _Memory, abstract_syntax: str, use: Callable[[Client], None]) -> float:
    with _open(scp, abstract_syntax, 1, use):
        pass  # what is loaded at first use belongs to no association
    before = memory.settled()
    with _open(scp, abstract_syntax, _ASSOCIATIONS, use):
        return (memory.settled() - before) / _ASSOCIATIONS


@contextmanager
def _open(scp: Scp, abstract_syntax: str, associations: int, use: Callable[[Client], None]) -> Iterator[None]:
    """Associations that have been used once and stay open for the length of a `with` block."""
    with ExitStack() as stack:
        for _ in range(associations):
            use(stack.enter_context(connected(scp, abstract_syntax)))
        yield


def _echo(client: Client) -> None:
    _exchange(client, echo_request())


def _store(client: Client) -> None:
    _exchange(client, store_request(next(Study("CT").datasets())))


def _exchange(client: Client, request: bytes) -> None:
    client.send(request)
    if (status := client.receive().status) != 0:
        raise SystemExit(f"answered with {status:04X}")


def _show_one_too_many(scp: Scp) -> None:
    with _open(scp, VERIFICATION, _ASSOCIATIONS, _echo):
        refused = echoscu(scp)
    print(f"\necho {_ASSOCIATIONS + 1}, with {_ASSOCIATIONS} open (exit status {refused.returncode}):")
    print("\n".join(f"  {line}" for line in refused.stdout.splitlines()))


if __name__ == "__main__":
    main()
