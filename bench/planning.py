"""Planning over a full index: `python -m bench.planning [--rounds 5] [--quick]`.

Seconds until rules have found their studies among 2,000,000 rows.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta

from bench.command import parse, scratch
from bench.filling import fill
from bench.peers import ours
from bench.table import Limit, interleave, report
from pacs_core.index.lake import LakeReader
from pacs_core.index.postgres import Database
from pacs_core.index.reader import LakeIndexReader
from pacs_core.lifecycle.plan import Step
from pacs_core.lifecycle.rules import Fill, MigrationRule, RetentionRule, Selection, plan_migration, plan_retention

_ROWS = 2_000_000
_TARGET = 2.0  # seconds
_MIGRATE, _CLEANUP = "migrate, three rules", "cleanup, two rules"


def main() -> None:
    """Measure and print."""
    options = parse(__doc__)
    with scratch() as root, ours(root / "pacs") as archive:
        print(f"the index holds {fill(archive, options.scaled(_ROWS), root / 'template')}")
        lake = LakeReader(archive.env["PACS_CATALOG_URL"], str(archive.home / "index"))
        with closing(LakeIndexReader(lake, Database(archive.env["PACS_CATALOG_URL"]))) as reader:
            candidates = {_MIGRATE: _timed(lambda: _migrate(reader)), _CLEANUP: _timed(lambda: _cleanup(reader))}
            results = interleave(candidates, rounds=options.rounds)
    report("planning", "s", results, targets=[Limit(_MIGRATE, _TARGET), Limit(_CLEANUP, _TARGET)])


def _timed(plan: Callable[[], Sequence[Step]]) -> Callable[[int], float]:
    def measure(_: int) -> float:
        started = time.perf_counter()
        steps = plan()
        seconds = time.perf_counter() - started
        if not steps:
            raise SystemExit("a plan without steps measures nothing")
        return seconds

    return measure


def _migrate(reader: LakeIndexReader) -> Sequence[Step]:
    now = datetime.now(UTC)
    rules = [
        MigrationRule("old", "hot", "warm", Selection(received_before=now - timedelta(days=90))),
        MigrationRule("quiet-ct", "hot", "warm", Selection(used_before=now, modalities=("CT",), at_least=1)),
        MigrationRule("room", "hot", "warm", Selection()),
    ]
    return plan_migration(rules, reader.study_facts, lambda _: Fill(0, 1))


def _cleanup(reader: LakeIndexReader) -> Sequence[Step]:
    now = datetime.now(UTC)
    rules = [
        RetentionRule("old", ("hot", "warm", "cold"), Selection(received_before=now - timedelta(days=3650))),
        RetentionRule("ct", ("hot", "warm", "cold"), Selection(modalities=("CT",))),
    ]
    return plan_retention(rules, reader.study_facts)


if __name__ == "__main__":
    main()
