"""The steps of the `migrate` flow."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from prefect import task

from pacs_core.errors import ConfigurationError
from pacs_core.lifecycle.moving import Moved
from pacs_core.lifecycle.plan import Plan, Step, capped
from pacs_core.lifecycle.rules import plan_migration
from pacs_core.model import Change
from pacs_core.settings import load_settings
from pacs_core.wiring import operations, tiers
from tasks.connections import connections
from tasks.operation import catch_up, one_study, retried, rules_named
from tasks.policy import RETRIES


@task(task_run_name="plan", **RETRIES)
def plan_by_rules(rule: str, max_studies: int | None, max_gigabytes: float | None) -> Plan:
    """What the rules of the settings, or one of them, ask for now. ConfigurationError if there is none of that name."""
    settings = load_settings()
    catch_up(settings)
    rules = rules_named(rule, operations.migration_rules(settings, datetime.now(UTC)), table="migrations")
    steps = plan_migration(rules, connections(settings).reader.study_facts, partial(tiers.fill, settings))
    return capped(steps, studies=max_studies, bytes=None if max_gigabytes is None else int(max_gigabytes * 1e9))


@task(task_run_name="plan for {study}", **RETRIES)
def plan_study(study: str, target: str) -> Plan:
    """One study, from all tiers it is on to another."""
    settings = load_settings()
    if target not in settings.tiers:
        raise ConfigurationError(f"target: {target} is not a configured tier; those are {', '.join(settings.tiers)}")
    return one_study(settings, study, target)


@task(task_run_name="shard {number}", **RETRIES)
def migrate_shard(number: int, steps: Sequence[Step], run: str, *, keep_source: bool) -> Moved:  # noqa: ARG001 - the run is named after it
    """Move the studies of a shard."""
    settings = load_settings()
    change = Change(run=run, flow="migrate", action="migrated", policy=steps[0].policy, at=datetime.now(UTC))
    return retried(operations.mover(settings, connections(settings).locations).move(steps, change, keep=keep_source))
