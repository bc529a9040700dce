"""The steps of the `rebuild` flow."""

from collections.abc import Sequence
from contextlib import closing

from prefect import task

from pacs_core.lifecycle.rebuilding import Merged, ObjectShard, Scanned
from pacs_core.settings import load_settings
from pacs_core.wiring import index, operations
from tasks.policy import RETRIES


def tiers() -> Sequence[str]:
    """The configured tiers, the fastest first."""
    return operations.rebuild(load_settings()).tiers


@task(**RETRIES)
def begin_rebuild(*, into_existing: bool) -> None:
    """The index is there and may be rebuilt. ConfigurationError if it is not empty and that is not wanted."""
    settings = load_settings()
    index.prepare(settings)
    with closing(operations.rebuild(settings)) as process:
        process.begin(into_existing=into_existing)


@task(task_run_name="objects of tier {tier}", **RETRIES)
def list_tier(tier: str) -> Sequence[ObjectShard]:
    """Every object of a tier, in shards."""
    return operations.rebuild(load_settings()).shards(tier)


@task(task_run_name="shard {number}", **RETRIES)
def scan_shard(number: int, shard: ObjectShard) -> Scanned:  # noqa: ARG001 - the run is named after it
    """Read the objects of a shard and keep their records, for the merge."""
    return operations.rebuild(load_settings()).scan(shard)


@task(**RETRIES)
def merge_shards(shards: Sequence[ObjectShard], run: str, *, into_existing: bool) -> Merged:
    """Index what all shards hold, in the order in which it was received."""
    with closing(operations.rebuild(load_settings())) as process:
        return process.merge(shards, into_existing=into_existing, run=run)


@task(**RETRIES)
def abandon_listing() -> None:
    """Forget what a dry run has listed."""
    operations.rebuild(load_settings()).abandon()
