"""Store to visible: `python -m bench.visible [--rounds 5] [--quick]`. How long after its acknowledgement C-FIND shows an instance.

A probe stores a CT and then asks for it until it is told, over two associations that stay open. The clock runs from the answer
to the C-STORE to the pending response that shows the instance. Probes are made while four storescu send CT without a pause,
then with nobody else there. Every round has fresh archives.
"""

import shutil
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import CTImageStorage

from bench.command import Options, parse, scratch
from bench.peers import orthanc, ours
from bench.storing import ENVIRONMENT, MAXIMUM_PDU
from bench.table import Limit, report
from bench.wire import STUDY_ROOT_FIND, Client, connected, find_request, store_request
from tests.support.dcmtk import Scp
from tests.support.synthetic import Study
from tests.support.waiting import eventually

_SENDERS = 4
_PROBES = 60
_SECONDS = 20  # of full load, at least
_PAUSE = 0.2  # seconds; the interval of our commits, so that the probes meet every phase of it
_GOLDEN = 0.618  # multiples of it fill an interval evenly
# A study of four series of fifty, then another patient.
_INVENT = ("--invent-series", "50", "--invent-study", "4", "--invent-patient", "1")
_SENT = b"Received Store Response (Success)"


@dataclass(frozen=True, slots=True)
class _Probe:
    """How an instance became visible."""

    milliseconds: float
    queries: int


@dataclass(frozen=True, slots=True)
class _Figures:
    """The rows of the three tables."""

    latency: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    missed: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    load: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, row: str, probes: Sequence[_Probe]) -> None:
        latencies = [probe.milliseconds for probe in probes]
        self.latency[f"{row}, p50"].append(statistics.median(latencies))
        self.latency[f"{row}, p99"].append(statistics.quantiles(latencies, n=100, method="inclusive")[98])
        self.missed[row].append(100 * sum(probe.queries > 1 for probe in probes) / len(probes))


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    figures = _Figures()
    with scratch() as root:
        for _ in range(options.rounds):
            with ours(root / "pacs", listeners=2) as pacs:
                _measure("pacs", pacs.scp, root / "source", options, figures)
            with orthanc(root / "orthanc") as scp:
                _measure("orthanc", scp, root / "source", options, figures)
            for folder in root.iterdir():
                shutil.rmtree(folder, ignore_errors=True)
    _print(figures)


def _measure(name: str, scp: Scp, source: Path, options: Options, figures: _Figures) -> None:
    probes, seconds = options.scaled(_PROBES), options.scaled(_SECONDS)
    with connected(scp, CTImageStorage) as storing, connected(scp, STUDY_ROOT_FIND) as asking:
        _probe(storing, asking)  # what is loaded at first use is nobody's speed
        with _full_load(scp, source) as sent:
            started, before = time.perf_counter(), sent()
            loaded = list(_probes(storing, asking, at_least=probes, until=started + seconds))
            figures.load[name].append((sent() - before) / (time.perf_counter() - started))
        _probe(storing, asking)  # sees what the load has left to be done
        idle = list(_probes(storing, asking, at_least=probes, until=0))
    figures.add(f"{name}, full load", loaded)
    figures.add(f"{name}, idle", idle)


@contextmanager
def _full_load(scp: Scp, source: Path) -> Iterator[Callable[[], int]]:
    """Senders that send without a pause for the length of a `with` block; how many instances they have got rid of."""
    if not source.exists():
        Study("CT").write(source)
    command = ["storescu", "-v", *MAXIMUM_PDU, *_INVENT, "--repeat", "1000000", "+sd", *scp.arguments(), str(source)]
    logs = [source.with_name(f"sender-{number}.log") for number in range(_SENDERS)]
    with ExitStack() as stack:
        outputs = [stack.enter_context(log.open("wb")) for log in logs]
        senders = [subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=output) for output in outputs]
        for sender in senders:
            stack.callback(sender.wait)
            stack.callback(sender.kill)
        eventually(lambda: all(_SENT in log.read_bytes() for log in logs), what="an answer to each sender")
        yield lambda: sum(log.read_bytes().count(_SENT) for log in logs)
        if any(sender.poll() is not None for sender in senders):
            raise SystemExit(f"a sender gave up: {logs[0].read_bytes()[-500:].decode(errors='replace')}")


def _probes(storing: Client, asking: Client, *, at_least: int, until: float) -> Iterator[_Probe]:
    number = 0
    while number < at_least or time.perf_counter() < until:
        time.sleep(_PAUSE * (number * _GOLDEN % 1))
        yield _probe(storing, asking)
        number += 1


def _probe(storing: Client, asking: Client) -> _Probe:
    ds = next(Study("CT").datasets())
    store, find = store_request(ds), find_request(_identifier(ds))
    storing.send(store)
    if (status := storing.receive().status) != 0:
        raise SystemExit(f"the probe's C-STORE was answered with {status:04X}")
    started = time.perf_counter()
    queries = 1
    while (seen := _ask(asking, find)) is None:
        queries += 1
    return _Probe((seen - started) * 1000, queries)


def _identifier(ds: Dataset) -> Dataset:
    """Asks for one instance by its unique keys."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "IMAGE"
    identifier.StudyInstanceUID, identifier.SeriesInstanceUID = ds.StudyInstanceUID, ds.SeriesInstanceUID
    identifier.SOPInstanceUID = ds.SOPInstanceUID
    return identifier


def _ask(client: Client, request: bytes) -> float | None:
    """When the instance was shown, if it was. SystemExit if the query fails."""
    asked, seen = time.perf_counter(), None
    client.send(request)
    while (response := client.receive()).data:
        seen = seen or time.perf_counter()
    if response.status != 0:
        raise SystemExit(f"the probe's C-FIND was answered with {response.status:04X} after {time.perf_counter() - asked:.1f} s")
    return seen


def _print(figures: _Figures) -> None:
    report(f"load, {_SENDERS} associations, CT", "instances/s", figures.load, us="pacs")
    targets = [Limit("pacs, full load, p99", 500)]
    report("from the answer to C-STORE until C-FIND shows the instance", "ms", figures.latency, targets=targets)
    missed = "probes whose first C-FIND did not show the instance"
    report(missed, "%", figures.missed, targets=[Limit("pacs, full load", 0), Limit("pacs, idle", 0)])


if __name__ == "__main__":
    main()
