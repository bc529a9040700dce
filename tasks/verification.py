"""The steps of the `verify` flow."""

import random
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime

from prefect import task

from pacs_core import wiring
from pacs_core.archive import verification
from pacs_core.archive.indexing import wait_until_committed
from pacs_core.archive.verification import KnownPaths, ShardReport
from pacs_core.index.reader import Shard
from pacs_core.model import UID, StoredObject
from pacs_core.settings import load_settings
from tasks.policy import RETRIES

SHARD_INSTANCES = 500
SHARD_BYTES = 256 * 1024**2

# From placing an object to journalling it are milliseconds; where the machine is suspended in between, minutes.
_ARRIVING = 300.0
_JOURNAL_PATIENCE = 60.0


@task(**RETRIES)
def plan_shards() -> Sequence[Shard]:
    """One query: everything that is held, cut between studies."""
    with closing(wiring.index_reader(load_settings())) as reader:
        return reader.shards(max_instances=SHARD_INSTANCES, max_bytes=SHARD_BYTES)


@task(task_run_name="shard {number}", **RETRIES)
def verify_shard(number: int, shard: Shard, sample_percent: float) -> ShardReport:  # noqa: ARG001 - the run is named after it
    """Read a shard's objects, or a sample of them (the others need only be there), and remember which were intact."""
    settings = load_settings()
    stores = wiring.stores(settings)
    with closing(wiring.index_reader(settings)) as reader:
        objects = list(reader.stored_objects(shard))
    chosen = {each.SOPInstanceUID for each in objects if random.uniform(0, 100) < sample_percent}  # noqa: S311 - no secret
    report = verification.verify_shard(stores, [each for each in objects if each.SOPInstanceUID in chosen])
    report += verification.check_presence(stores, [each for each in objects if each.SOPInstanceUID not in chosen])
    intact = frozenset(report.intact)
    _remember([each for each in objects if each.SOPInstanceUID in intact])
    return report.without_intact()


@task(task_run_name="objects of tier {tier}", **RETRIES)
def find_orphans(tier: str) -> ShardReport:
    """The objects of a tier that the index does not know."""
    settings = load_settings()
    arrived_before = time.time() - _ARRIVING
    with closing(wiring.journal(settings)) as journal:
        wait_until_committed(journal, _JOURNAL_PATIENCE)
    with closing(wiring.index_reader(settings)) as reader:
        known = KnownPaths(each.path for each in reader.stored_objects() if each.tier == tier)
    return verification.find_orphans(wiring.stores(settings)[tier], tier, known, arrived_before=arrived_before)


def study_shard(study: UID) -> Shard:
    """One study as a shard, whatever its size."""
    return Shard(study, study, 0, 0)


def tiers() -> Sequence[str]:
    """The configured tiers."""
    return list(load_settings().tiers)


def _remember(intact: Sequence[StoredObject]) -> None:
    if intact:
        with closing(wiring.index_writer(load_settings())) as writer:
            writer.mark_verified(intact, datetime.now(UTC))
