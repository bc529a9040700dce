"""Ingest into a full index: `python -m bench.million [--rounds 5] [--quick]`. The rate with two million instances, over that with none.

Two archives run side by side and are measured in turn, with storescu over one association.
"""

import time

from bench.command import Options, parse, scratch
from bench.filling import fill
from bench.peers import ours, settle
from bench.storing import Batches, sender
from bench.table import Ratio, interleave, report
from tests.support.archive import Listener

_ROWS = 2_000_000
_LOADS = (("CT", 800), ("MR", 2000))
_EMPTY, _FULL = "pacs, empty index", "pacs, full index"


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    with scratch() as root, ours(root / "empty") as empty, ours(root / "full") as full:
        started = time.perf_counter()
        held = fill(full, options.scaled(_ROWS), root / "template")
        print(f"the full index holds {held} (filled in {time.perf_counter() - started:.0f} s)")
        for modality, count in _LOADS:
            _compare(empty, full, Batches(root / modality, modality, options.scaled(count)), options)


def _compare(empty: Listener, full: Listener, batches: Batches, options: Options) -> None:
    candidates = {
        _EMPTY: sender(empty.scp, batches, settle=lambda: settle(empty)),
        _FULL: sender(full.scp, batches, settle=lambda: settle(full)),
    }
    results = interleave(candidates, rounds=options.rounds)
    title = f"ingest, 1 association, {batches.count:,} {batches.modality}"
    report(title, "instances/s", results, us=_FULL, targets=[Ratio(_FULL, _EMPTY, 0.9)])


if __name__ == "__main__":
    main()
