"""The steps of the `verify` flow."""

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from prefect import task

from pacs_core import wiring
from pacs_core.archive import verification
from pacs_core.archive.verification import ShardReport
from pacs_core.model import UID, Level, Query
from pacs_core.settings import load_settings
from tasks.policy import RETRY_DELAYS, retryable

# Ingest needs milliseconds from placing an object to journalling it; a machine that was suspended in between, minutes.
_ARRIVING = timedelta(minutes=5)
_JOURNAL_PATIENCE = 60.0


def tiers() -> list[str]:
    """The configured tiers."""
    return list(wiring.stores(load_settings()))


@task(retries=len(RETRY_DELAYS), retry_delay_seconds=list(RETRY_DELAYS), retry_condition_fn=retryable)
def plan_shards(study: UID | None) -> list[tuple[UID, ...]]:
    """One query: the series to verify, cut into shards."""
    reader = wiring.index_reader(load_settings())
    return verification.cut(reader.extents(study))


@task(
    task_run_name="shard {number}",
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=list(RETRY_DELAYS),
    retry_condition_fn=retryable,
)
def verify_shard(number: int, series: Sequence[UID], sample_percent: float) -> ShardReport:  # noqa: ARG001 - named after it
    """Verify these series, or a sample of their instances (the others need only be there), and remember what was intact."""
    settings = load_settings()
    stores = wiring.stores(settings)
    objects = wiring.index_reader(settings).locate(Query(Level.SERIES, {"SeriesInstanceUID": "\\".join(series)}))
    chosen = [each for each in objects if random.uniform(0, 100) < sample_percent]  # noqa: S311 - a sample, not a secret
    others = set(objects).difference(chosen)
    report = verification.verify_shard(stores, chosen) + verification.check_presence(stores, list(others))
    if report.intact:
        wiring.index_writer(settings).mark_verified(report.intact, datetime.now(UTC))
    return report.without_intact()


@task(
    task_run_name="objects of tier {tier}",
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=list(RETRY_DELAYS),
    retry_condition_fn=retryable,
)
def find_orphans(tier: str) -> ShardReport:
    """The objects of a tier that the index does not know."""
    settings = load_settings()
    store, reader, journal = wiring.stores(settings)[tier], wiring.index_reader(settings), wiring.journal(settings)
    arrived_before = time.time() - _ARRIVING.total_seconds()
    total = ShardReport()
    for paths in verification.listing(store):
        verification.await_commit(journal, timeout=_JOURNAL_PATIENCE)
        total += verification.orphans(store, tier, paths, reader.known_paths, arrived_before=arrived_before)
    return total
