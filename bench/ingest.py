"""Ingest: `python -m bench.ingest [--rounds 5] [--quick]`. Instances per second that DCMTK's storescu gets rid of."""

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.peers import NODELAY, orthanc, ours, storescp
from bench.table import Target, interleave, report
from tests.support.dcmtk import Scp
from tests.support.processes import clean_environment
from tests.support.synthetic import Study

_ENVIRONMENT = clean_environment(**NODELAY)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the instances")
    options = parser.parse_args()
    share = 10 if options.quick else 1
    with tempfile.TemporaryDirectory(prefix="pacs-bench-", dir=Path.cwd().parent) as folder:
        root = Path(folder)
        _compare(root / "ct1", "1 association, 800 CT", "CT", 800 // share, 1, options.rounds, (1.0, 4.0))
        _compare(root / "mr1", "1 association, 2,000 MR", "MR", 2000 // share, 1, options.rounds, (0.9, 3.0))
        _compare(root / "ct4", "4 associations, 800 CT", "CT", 800 // share, 4, options.rounds, (1.0, 4.0))
        _compare(root / "mr4", "4 associations, 2,000 MR", "MR", 2000 // share, 4, options.rounds, (1.0, 4.0))


def _compare(root: Path, title: str, modality: str, count: int, associations: int, rounds: int, ratios: tuple[float, float]) -> None:
    with ExitStack() as stack:
        peers = {
            "pacs": stack.enter_context(ours(root / "pacs", listeners=2 if associations > 1 else 1)).scp,
            "storescp": stack.enter_context(storescp(root / "storescp")),
            "orthanc": stack.enter_context(orthanc(root / "orthanc")),
        }
        batches = _Batches(root / "source", modality, count, associations)
        candidates = {name: _sender(scp, batches) for name, scp in peers.items()}
        results = interleave(candidates, rounds=rounds)
    report(f"ingest, {title}", "instances/s", results, us="pacs", targets=[Target("storescp", ratios[0]), Target("orthanc", ratios[1])])
    shutil.rmtree(root)


class _Batches:
    """Instances that nobody has seen before, one folder an association, made anew for each round."""

    def __init__(self, folder: Path, modality: str, count: int, associations: int) -> None:
        self._folder, self._modality, self._share, self._associations = folder, modality, count // associations, associations
        self._round = -1

    @property
    def count(self) -> int:
        return self._share * self._associations

    def of_round(self, number: int) -> Sequence[Path]:
        folders = [self._folder / f"{number}-{i}" for i in range(self._associations)]
        if number != self._round:
            shutil.rmtree(self._folder, ignore_errors=True)
            for folder in folders:
                Study(self._modality, series=4, instances=self._share // 4).write(folder)
            self._round = number
        return folders


def _sender(scp: Scp, batches: _Batches) -> Callable[[int], float]:
    def send(number: int) -> float:
        folders = batches.of_round(number)
        commands = [["storescu", "--max-pdu", "131072", "+sd", *scp.arguments(), str(folder)] for folder in folders]
        started = time.perf_counter()
        clients = [
            subprocess.Popen(command, env=_ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands
        ]
        failed = [client.args for client in clients if client.wait()]
        elapsed = time.perf_counter() - started
        if failed:
            raise SystemExit(f"failed: {failed}")
        return batches.count / elapsed

    return send


if __name__ == "__main__":
    main()
