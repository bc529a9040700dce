"""Verification of local objects: `python -m bench.verify [--rounds 5] [--quick]`. MB/s of our two processes and of one `sha256sum`.

Both read the same files, from the page cache. Ours also asks the index what should be there, compares the two catalogs, looks for
further copies and remembers when each object was verified, shard by shard, as the flow does.
"""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bench.command import parse, scratch
from bench.peers import ours, settle
from bench.storing import store_studies
from bench.table import Ratio, interleave, report
from pacs_core.index.reader import Shard
from tasks.verification import plan_shards, verify_shard
from tests.support.archive import Listener

_LOADS = (("CT", 4000), ("MR", 10_000))
_PER_STUDY = 200
_PROCESSES = 2


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    for modality, count in _LOADS:
        with scratch() as root, ours(root / "pacs") as archive:
            os.environ.update({name: value for name, value in archive.env.items() if name.startswith("PACS_")})
            files = _fill(archive, root, modality, options.scaled(count))
            size = sum(file.stat().st_size for file in files)
            with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn")) as processes:
                results = interleave(
                    {"pacs verify": _ours(processes, len(files), size), "sha256sum": _sha256sum(files, size)}, rounds=options.rounds
                )
        report(f"verify {len(files)} {modality}", "MB/s", results, us="pacs verify", targets=[Ratio("pacs verify", "sha256sum", 1.5)])


def _fill(archive: Listener, root: Path, modality: str, count: int) -> Sequence[Path]:
    store_studies(archive.scp, root / "sent", modality, count, per_study=_PER_STUDY)
    settle(archive)
    return [archive.home / "hot" / row["path"] for row in archive.sql("SELECT path FROM instance")]


def _ours(processes: ProcessPoolExecutor, count: int, size: int) -> Callable[[int], float]:
    def measure(_: int) -> float:
        started = time.perf_counter()
        intact = sum(processes.map(_verify_shard, plan_shards.fn()))
        seconds = time.perf_counter() - started
        if intact != count:
            raise SystemExit(f"{intact} of {count} objects are intact")
        return size / 1e6 / seconds

    return measure


def _verify_shard(shard: Shard) -> int:
    found = verify_shard.fn(0, shard, 100.0, "bench", repair=False)
    return 0 if found.report.problems else found.report.checked


def _sha256sum(files: Sequence[Path], size: int) -> Callable[[int], float]:
    names = b"\0".join(os.fsencode(file) for file in files)

    def measure(_: int) -> float:
        started = time.perf_counter()
        subprocess.run(["xargs", "-0", "-n", "1000", "sha256sum"], input=names, stdout=subprocess.DEVNULL, check=True)
        return size / 1e6 / (time.perf_counter() - started)

    return measure


if __name__ == "__main__":
    main()
