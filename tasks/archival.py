"""The steps of the `archive` and `restore-archived` flows."""

from collections.abc import Sequence
from datetime import UTC, datetime

from prefect import task

from pacs_core.errors import ConfigurationError
from pacs_core.lifecycle.moving import Moved
from pacs_core.lifecycle.packaging import Form
from pacs_core.lifecycle.plan import Plan, Step, capped
from pacs_core.lifecycle.rules import plan_archival
from pacs_core.model import UID, Change
from pacs_core.settings import load_settings
from pacs_core.wiring import operations
from tasks.connections import connections
from tasks.operation import catch_up, one_study, retried, rules_named
from tasks.policy import RETRIES


@task(task_run_name="plan", **RETRIES)
def plan_archive(rule: str, max_studies: int | None) -> Plan:
    """What the rules of the settings, or one of them, ask for now. ConfigurationError if there is none of that name."""
    settings = load_settings()
    catch_up(settings)
    rules = rules_named(rule, operations.archival_rules(settings, datetime.now(UTC)), table="archivals")
    index = connections(settings)
    return capped(plan_archival(rules, index.reader.study_facts, index.locations.copied_instances), studies=max_studies)


@task(task_run_name="plan for {study}", **RETRIES)
def plan_archive_study(study: str, destination: str) -> Plan:
    """One study, from all tiers it is on to a destination."""
    settings = load_settings()
    if destination not in (known := [*settings.archives, *settings.tiers]):
        raise ConfigurationError(f"destination: {destination} is not configured; those are {', '.join(known)}")
    return one_study(settings, study, destination)


@task(task_run_name="shard {number}", **RETRIES)
def archive_shard(number: int, steps: Sequence[Step], run: str, form: Form) -> Moved:  # noqa: ARG001 - the run is named after it
    """Copy the studies of a shard, in the form that their rule names, or in the given one where no rule asks."""
    settings = load_settings()
    policy = steps[0].policy
    chosen = next((Form(rule.form) for rule in settings.archivals if rule.name == policy), form)
    change = Change(run=run, flow="archive", action="archived", policy=policy, at=datetime.now(UTC))
    return retried(operations.archiver(settings, connections(settings).locations).archive(steps, change, chosen))


@task(task_run_name="bring back {study}", **RETRIES)
def restore_study(study: str, run: str) -> Moved:
    """Bring back what is no longer held of a study, from its copies."""
    settings = load_settings()
    change = Change(run=run, flow="restore-archived", action="restored", policy="manual", at=datetime.now(UTC))
    index = connections(settings)
    return operations.archiver(settings, index.locations).bring_back(UID(study), change, index.writer)
