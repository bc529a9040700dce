"""Rebuild: `python -m bench.rebuild [--rounds 5] [--quick]`. Instances per second that `pacs index rebuild` makes of what is stored.

The index is dropped before each round; the time is that of the command, from its start to its end.
"""

import time
from pathlib import Path

from bench.command import Options, parse, scratch
from bench.peers import ours, settle
from bench.storing import Batches, store
from bench.table import interleave, report
from pacs_core.index.postgres import CatalogURL, Session
from tests.support.archive import Listener
from tests.support.processes import assert_succeeded

_INSTANCES = 2000


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    with scratch() as root:
        _measure(root, options)


def _measure(root: Path, options: Options) -> None:
    batches = Batches(root / "source", "MR", options.scaled(_INSTANCES))
    with ours(root / "pacs") as pacs:
        store(pacs.scp, batches.of_round(0))
        settle(pacs)
        expected = _hashes(pacs)

        def rebuild(_: int) -> float:
            _drop(pacs)
            started = time.perf_counter()
            assert_succeeded(pacs.run_pacs("index", "rebuild", "--yes", timeout=3600))
            elapsed = time.perf_counter() - started
            if _hashes(pacs) != expected:
                raise SystemExit("the rows are not the same as before")
            return batches.count / elapsed

        results = interleave({"pacs index rebuild": rebuild}, rounds=options.rounds)
    report(f"rebuild of {batches.count:,} MR, with the start of the command", "instances/s", results)


def _hashes(pacs: Listener) -> str:
    return assert_succeeded(pacs.run_pacs("index", "hash", "--format", "json")).stdout


def _drop(pacs: Listener) -> None:
    session = Session(CatalogURL.parse(pacs.env["PACS_CATALOG_URL"]), application_name="bench")
    for schema in ("lake", "pacs"):
        session.run(f"DROP SCHEMA {schema} CASCADE")
    session.close()


if __name__ == "__main__":
    main()
